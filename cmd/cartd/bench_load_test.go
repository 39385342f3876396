//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// load is what sends requests to nodes. It shares the processors with them, so it is made to need little: it
// writes requests that are ready but for an id, and of the answers it reads what is below.
type load struct {
	tb      testing.TB
	targets []string // host:port
	carts   []string // ids
}

// wire is a connection with a node. One goroutine uses it at a time.
type wire struct {
	net.Conn
	out, in []byte
}

func (l *load) dial(i int) *wire {
	conn, err := net.Dial("tcp", l.targets[i%len(l.targets)])
	if err != nil {
		l.tb.Fatal(err)
	}
	return &wire{Conn: conn, in: make([]byte, 16<<10)}
}

// reply is what a load reads of an answer.
type reply struct {
	status     int
	durability []byte // until the next call
	body       []byte // until the next call
}

var errAnswer = errors.New("not an answer as cartd gives it")

// call sends a request without a body where body is empty.
func (w *wire) call(method, path, id, more, body string) (reply, error) {
	b := append(append(append(append(append(w.out[:0], method...), path...), id...), more...), " HTTP/1.1\r\nHost: cartd\r\n"...)
	if body != "" {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(body)), 10), "\r\n"...)
	}
	w.out = append(append(b, "\r\n"...), body...)
	if _, err := w.Write(w.out); err != nil {
		return reply{}, err
	}
	n, head := 0, -1
	for head < 0 {
		if n == len(w.in) {
			return reply{}, errAnswer
		}
		more, err := w.Read(w.in[n:])
		if err != nil {
			return reply{}, err
		}
		n += more
		head = bytes.Index(w.in[:n], []byte("\r\n\r\n"))
	}
	head += 4
	status, err := strconv.Atoi(string(w.in[len("HTTP/1.1 "):len("HTTP/1.1 200")]))
	if err != nil {
		return reply{}, errAnswer
	}
	length, err := strconv.Atoi(string(header(w.in[:head], "\r\nContent-Length: ")))
	if err != nil || head+length > len(w.in) {
		return reply{}, errAnswer
	}
	if n < head+length {
		if _, err := io.ReadFull(w, w.in[n:head+length]); err != nil {
			return reply{}, err
		}
	}
	return reply{status, header(w.in[:head], "\r\nCart-Durability: "), w.in[head : head+length]}, nil
}

// header returns the value of a header that is written as Go's server does.
func header(head []byte, name string) []byte {
	i := bytes.Index(head, []byte(name))
	if i < 0 {
		return nil
	}
	value := head[i+len(name):]
	return value[:bytes.IndexByte(value, '\r')]
}

const (
	cartPath = " /v1/carts/"
	addPath  = "/line-items"
)

// skus are those of the lines that every cart has.
var skus = []string{"SKU-0000", "SKU-0001", "SKU-0002", "SKU-0003", "SKU-0004"}

var adds = func() (z []string) {
	for _, sku := range skus {
		z = append(z, fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku))
	}
	return z
}()

// prepare creates so many carts of five lines, and has each node load them.
func (l *load) prepare(carts int) {
	l.tb.Helper()
	l.carts = make([]string, carts)
	const connections = 16 // with each node
	l.each(connections, carts, func(w *wire, i int) error {
		id, err := createCart(w)
		l.carts[i] = id
		return err
	})
	l.each(connections, carts*len(l.targets), func(w *wire, i int) error {
		a, err := w.call("GET", cartPath, l.carts[i/len(l.targets)], "", "")
		if err == nil && a.status != 200 {
			err = fmt.Errorf("read: %d %s", a.status, a.body)
		}
		return err
	})
}

// newCart is the request for a cart of five lines.
var newCart = func() string {
	var lines []string
	for i, sku := range skus {
		lines = append(lines, fmt.Sprintf(`{"sku":%q,"quantity":2,"title":"A title of 24 characters","unit_price":{"amount":%d,"currency":"EUR"}}`, sku, 1000+i))
	}
	return `{"currency":"EUR","line_items":[` + strings.Join(lines, ",") + `]}`
}()

// createCart creates a cart of five lines and returns its id.
func createCart(w *wire) (id string, err error) {
	a, err := w.call("POST", " /v1/carts", "", "", newCart)
	if err == nil && a.status != 201 {
		err = fmt.Errorf("create: %d %s", a.status, a.body)
	}
	return cartID(a.body), err
}

// cartID returns the id in the answer to the creation of a cart.
func cartID(created []byte) string {
	_, id, _ := strings.Cut(string(created), `"id":"`) // that of the cart comes before those of its lines
	id, _, _ = strings.Cut(id, `"`)
	return id
}

// each calls f for 0 to n-1, over so many connections with every node by turns: number i with node i, and so on.
func (l *load) each(connections, n int, f func(w *wire, i int) error) {
	l.tb.Helper()
	workers := connections * len(l.targets)
	var working sync.WaitGroup
	errs := make([]error, workers)
	for k := range workers {
		working.Go(func() {
			w := l.dial(k)
			defer w.Close()
			for i := k; i < n && errs[k] == nil; i += workers {
				errs[k] = f(w, i)
			}
		})
	}
	working.Wait()
	if err := errors.Join(errs...); err != nil {
		l.tb.Fatal(err)
	}
}

// outcome is what became of the adds of a run.
type outcome struct {
	took              time.Duration
	inPeers, database int64
	refused           int64
	latencies         []time.Duration // of those that were acknowledged, sorted
	late              []time.Duration // how long after its time an add was sent, sorted
}

func (o *outcome) acked() int64 { return o.inPeers + o.database }

func (o *outcome) rate() float64 { return float64(o.acked()) / o.took.Seconds() }

// percentile returns the latency that so many in a hundred do not exceed.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p/100*float64(len(sorted))))]
}

// worker is a connection and what it counted.
type worker struct {
	*wire
	load   *load
	random *rand.Rand
	out    outcome
	err    error
}

// add adds to a line of a random cart.
func (w *worker) add(since time.Time) {
	a, err := w.call("POST", cartPath, w.load.carts[w.random.IntN(len(w.load.carts))], addPath, adds[w.random.IntN(len(adds))])
	switch {
	case err != nil:
		w.err = err
		return
	case a.status != 200:
		w.out.refused++
		return
	case bytes.HasPrefix(a.durability, []byte("peers=")):
		w.out.inPeers++
	default:
		w.out.database++
	}
	w.out.latencies = append(w.out.latencies, time.Since(since))
}

// run has so many workers work, and adds up what they counted.
func (l *load) run(workers int, work func(w *worker)) *outcome {
	l.tb.Helper()
	all := make([]*worker, workers)
	for i := range all {
		all[i] = &worker{wire: l.dial(i), load: l, random: rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))}
	}
	began := time.Now()
	var working sync.WaitGroup
	for _, w := range all {
		working.Go(func() {
			defer w.Close()
			work(w)
		})
	}
	working.Wait()
	z := &outcome{took: time.Since(began)}
	for _, w := range all {
		if w.err != nil {
			l.tb.Fatal(w.err)
		}
		z.inPeers += w.out.inPeers
		z.database += w.out.database
		z.refused += w.out.refused
		z.latencies = append(z.latencies, w.out.latencies...)
		z.late = append(z.late, w.out.late...)
	}
	if z.acked() == 0 {
		l.tb.Fatalf("no add was acknowledged, and %d were refused", z.refused)
	}
	slices.Sort(z.latencies)
	slices.Sort(z.late)
	return z
}

// closed adds as fast as answers come, over so many connections.
func (l *load) closed(connections int, d time.Duration) *outcome {
	l.tb.Helper()
	end := time.Now().Add(d)
	return l.run(connections, func(w *worker) {
		for now := time.Now(); now.Before(end) && w.err == nil; now = time.Now() {
			w.add(now)
		}
	})
}

// open adds at a constant rate, whatever the answers do. A latency counts from when the add was due.
func (l *load) open(rate float64, d time.Duration) *outcome {
	l.tb.Helper()
	connections := min(192, max(1, int(rate)))           // none rests so long that the node closes it
	due := make(chan time.Time, int(rate*d.Seconds())+1) // whoever is late does not hold up the others
	var stopped atomic.Bool
	go func() {
		// The runtime's timers are as coarse as a millisecond where nothing else goes on.
		runtime.LockOSThread()
		defer close(due)
		began := time.Now()
		for i := 0; !stopped.Load(); i++ {
			at := time.Duration(float64(i) / rate * float64(time.Second))
			if at >= d {
				return
			}
			for {
				left := at - time.Since(began)
				if left <= 0 {
					break
				}
				t := syscall.NsecToTimespec(int64(left))
				_ = syscall.Nanosleep(&t, nil) // interrupted, it is called again
			}
			due <- began.Add(at)
		}
	}()
	defer stopped.Store(true)
	return l.run(connections, func(w *worker) {
		for at := range due {
			w.out.late = append(w.out.late, time.Since(at))
			if w.add(at); w.err != nil {
				return
			}
		}
	})
}
