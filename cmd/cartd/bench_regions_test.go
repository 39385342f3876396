//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	oneWay        = 40 * time.Millisecond // between the regions
	probeCarts    = 20
	probeInterval = 50 * time.Millisecond // between two writes that are looked for in the other region
	probePause    = time.Millisecond      // between two looks
	probeTimeout  = 10 * time.Second
)

// BenchmarkRegions measures how long after a write was acknowledged in one region it is shown in another one, as make
// bench-cluster prints it. The links between the regions are delayed by oneWay, either way. While adds go to random carts
// in the first region, a connection adds to a cart of its own, and looks for that in the other region, at a node
// after the other, until it is there.
func BenchmarkRegions(b *testing.B) {
	if *clusterRounds == 0 {
		b.Skip("takes minutes: make bench-cluster")
	}
	build(b)
	const far = "127.0.0.2" // where the nodes of one region find those of the other
	var way lateness
	regions := startRegions(b, 3, []string{"eu", "us"}, "--wan-listen", far+":0", "--advertise-wan-host", far)
	for _, r := range regions {
		for _, n := range r.nodes {
			(&delayed{b, far, oneWay, &way}).open(portOf(b, n.status().Node.LinkAddress))
		}
	}
	awaitRegions(b, regions)
	near, other := targetsOf(regions[0]), targetsOf(regions[1])
	l := &load{tb: b, targets: near}
	l.prepare(1000)
	b.ReportMetric(0, "ns/op")
	fmt.Printf("\n2 regions of 3 nodes, %v from one to the other; %d processors.\n\n", oneWay, runtime.NumCPU())
	fmt.Printf("| adds/s in one region | adds looked for | until the other shows one, p50, ms | p90 | p99 | most | new carts, p50 | most | acknowledged in, p99 | the delay itself late, p99 |\n|%s\n",
		strings.Repeat("---|", 10))
	for _, rate := range []float64{0, 200, benchRate} {
		var z visibility
		way.take() // what came before
		for range *clusterRounds {
			z.add(measureVisibility(l, other, rate, *clusterDuration))
		}
		late := way.take()
		for _, times := range [][]time.Duration{z.adds, z.carts, z.acked, late} {
			slices.Sort(times)
		}
		fmt.Printf("| %.0f | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", rate, len(z.adds),
			ms(z.adds, 50), ms(z.adds, 90), ms(z.adds, 99), ms(z.adds, 100), ms(z.carts, 50), ms(z.carts, 100), ms(z.acked, 99), ms(late, 99))
	}
}

// visibility is how long it took until another region showed what was acknowledged, from the answer on.
type visibility struct {
	adds, carts []time.Duration // of adds to carts that it had, and of new carts
	acked       []time.Duration // until the answers to the adds
}

func (z *visibility) add(more visibility) {
	z.adds = append(z.adds, more.adds...)
	z.carts = append(z.carts, more.carts...)
	z.acked = append(z.acked, more.acked...)
}

// measureVisibility adds at a rate for so long, and looks for other adds elsewhere.
func measureVisibility(l *load, elsewhere []string, rate float64, d time.Duration) (z visibility) {
	l.tb.Helper()
	var probing sync.WaitGroup
	var mu sync.Mutex
	errs := make([]error, probeCarts)
	end := time.Now().Add(d)
	for i := range probeCarts {
		probing.Go(func() {
			p := &probe{load: l, other: &load{tb: l.tb, targets: elsewhere}, i: i}
			errs[i] = p.run(end)
			mu.Lock()
			defer mu.Unlock()
			z.add(p.visibility)
		})
	}
	if rate > 0 {
		l.open(rate, d)
	}
	probing.Wait()
	for _, err := range errs {
		if err != nil {
			l.tb.Fatal(err)
		}
	}
	return z
}

// probe adds to a cart again and again, and looks for each add in another region.
type probe struct {
	load, other *load
	i           int // which node it begins with
	visibility
}

func (p *probe) run(end time.Time) error {
	here, there := p.load.dial(p.i), p.other.dial(p.i)
	defer here.Close()
	defer there.Close()
	nap(time.Duration(p.i) * probeInterval) // so that they take turns
	a, err := here.call("POST", " /v1/carts", "", "", `{"currency":"EUR"}`)
	if err != nil || a.status != 201 {
		return fmt.Errorf("create: %d %s: %w", a.status, a.body, err)
	}
	created, id := time.Now(), cartID(a.body)
	if err := p.await(there, id, 0, created.Add(probeTimeout)); err != nil {
		return err
	}
	p.carts = append(p.carts, time.Since(created))
	turns := time.NewTicker(probeCarts * probeInterval)
	defer turns.Stop()
	for units := 1; time.Now().Before(end); units++ {
		began := time.Now()
		if a, err = here.call("POST", cartPath, id, addPath, adds[0]); err != nil || a.status != 200 {
			return fmt.Errorf("add: %d %s: %w", a.status, a.body, err)
		}
		done := time.Now()
		if err := p.await(there, id, units, done.Add(probeTimeout)); err != nil {
			return err
		}
		p.acked = append(p.acked, done.Sub(began))
		p.adds = append(p.adds, time.Since(done))
		<-turns.C
	}
	return nil
}

// await returns when the other region shows so many units.
func (p *probe) await(there *wire, id string, units int, deadline time.Time) error {
	want := []byte(`"total_quantity":` + strconv.Itoa(units) + ",")
	for time.Now().Before(deadline) {
		a, err := there.call("GET", cartPath, id, "", "")
		if err != nil {
			return err
		}
		if a.status == 200 && bytes.Contains(a.body, want) {
			return nil
		}
		nap(probePause)
	}
	return fmt.Errorf("the other region does not show %d units of %s within %v", units, id, probeTimeout)
}

// nap sleeps, more precisely than the runtime's timers do where nothing else goes on.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // interrupted, it was shorter
}

func targetsOf(c *cluster) (targets []string) {
	for _, n := range c.nodes {
		targets = append(targets, strings.TrimPrefix(n.api, "http://"))
	}
	return targets
}

func portOf(tb testing.TB, address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}

// delayed is a host on the loopback at whose ports what is sent arrives later, at the same port of 127.0.0.1, and what
// comes back as well.
type delayed struct {
	tb    testing.TB
	host  string
	delay time.Duration
	late  *lateness
}

// lateness is by how much what was delayed was later than that, as the machine was busy.
type lateness struct {
	mu    sync.Mutex
	times []time.Duration
}

func (l *lateness) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, d)
}

func (l *lateness) take() []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	times := l.times
	l.times = nil
	return times
}

// open opens a port until the test ends.
func (d *delayed) open(port string) {
	d.tb.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(d.host, port))
	if err != nil {
		d.tb.Fatal(err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			out, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
			if err != nil {
				_ = in.Close() // who dialled finds the node away
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			running.Go(func() { d.pipe(out, in) })
			running.Go(func() { d.pipe(in, out) })
		}
	})
	d.tb.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}

// chunk is what was read at once.
type chunk struct {
	b   []byte
	due time.Time
}

// pipe passes on what it reads, each byte later by the delay, whatever else is on its way.
func (d *delayed) pipe(to, from net.Conn) {
	way := make(chan chunk, 1<<16)
	go func() {
		defer close(way)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				way <- chunk{b[:n], time.Now().Add(d.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range way {
		for left := time.Until(c.due); left > 0; left = time.Until(c.due) {
			nap(left)
		}
		d.late.add(time.Since(c.due))
		if _, err := to.Write(c.b); err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close() // one end is closed, and so is the other
	for range way {                 // what was read after that
	}
}
