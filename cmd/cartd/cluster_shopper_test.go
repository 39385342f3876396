package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartd/api"
)

// Shoppers are clients that keep a ledger of what they did to the carts of a cluster, so that it can be told
// afterwards what was lost or counted twice. Each attempt goes to another node, with the Cart-Context of the
// last answer, and is repeated under its key until its outcome is known.

const (
	// hung is when a request has no answer for so long that nobody will wait for it: far beyond the deadline of
	// a node, as the machine may be busy.
	hung = 10 * time.Second
	// patience is how long an operation is repeated.
	patience = 30 * time.Second
	// rest is how long a shopper rests between two operations, on average.
	rest = 12 * time.Millisecond
	// backoff is how long one waits before it repeats an operation, on average.
	backoff = 30 * time.Millisecond
)

// ledger is what shoppers did to a cart.
type ledger struct {
	path string

	mu    sync.Mutex
	acked map[string]int64   // units of the adds that were acknowledged, by SKU
	open  map[string][]int64 // units of each add whose outcome is not known, by SKU
	set   map[string]int64   // the last quantity that was set, by SKU: all of these were acknowledged
}

func newLedger(path string) *ledger {
	return &ledger{path: path, acked: map[string]int64{}, open: map[string][]int64{}, set: map[string]int64{}}
}

// audit returns what contradicts the ledger in a cart, when nobody is at it any more: an operation that was
// acknowledged is missing, or one was counted twice.
func (l *ledger) audit(lines []api.LineItem) (wrong []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := quantities(lines)
	for _, skus := range []map[string]int64{l.acked, l.set} {
		for sku := range skus {
			found[sku] += 0
		}
	}
	for sku, units := range found {
		possible := map[int64]bool{l.acked[sku] + l.set[sku]: true}
		for _, n := range l.open[sku] {
			for sum := range maps.Clone(possible) {
				possible[sum+n] = true
			}
		}
		if !possible[units] {
			wrong = append(wrong, fmt.Sprintf("%s shows %d of %s: %d are acknowledged, and the outcome of %v is not known",
				l.path, units, sku, l.acked[sku]+l.set[sku], l.open[sku]))
		}
	}
	return wrong
}

func quantities(lines []api.LineItem) map[string]int64 {
	z := make(map[string]int64)
	for _, line := range lines {
		z[line.SKU] += int64(line.Quantity)
	}
	return z
}

// shoppers are at work until stop.
type shoppers struct {
	t       testing.TB
	cluster *cluster
	ledgers []*ledger
	client  http.Client
	all     []*shopper
	stopped context.Context
	stop    context.CancelFunc
	working sync.WaitGroup

	acked, inPeers, inDatabase, replayed, reads, abandoned atomic.Int64

	mu      sync.Mutex
	retries map[string]int // attempts that told nothing, by what they got
	wrong   []string
}

// startShoppers sends so many shoppers to carts, which they share.
func startShoppers(c *cluster, n int, ledgers []*ledger, seed uint64) *shoppers {
	s := &shoppers{
		t: c.t, cluster: c, ledgers: ledgers, retries: make(map[string]int),
		client: http.Client{Timeout: hung, Transport: &http.Transport{MaxIdleConnsPerHost: n}},
	}
	s.stopped, s.stop = context.WithCancel(context.Background())
	for i := range n {
		z := &shopper{shoppers: s, number: i, random: rand.New(rand.NewPCG(seed, uint64(i))), seen: make(map[*ledger]*seen)}
		s.all = append(s.all, z)
	}
	for _, z := range s.all {
		s.working.Go(z.shop)
	}
	c.t.Cleanup(s.wait)
	return s
}

// wait returns when all have finished what they were at.
func (s *shoppers) wait() {
	s.stop()
	s.working.Wait()
	s.client.CloseIdleConnections()
}

func (s *shoppers) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d acknowledged (%d by peers, %d by the database, %d of these replays), %d given up with an unknown outcome, %d reads, retries: %v",
		s.acked.Load(), s.inPeers.Load(), s.inDatabase.Load(), s.replayed.Load(), s.abandoned.Load(), s.reads.Load(), s.retries)
}

func (s *shoppers) errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// audit compares a cart, when all have stopped, with what they did to it and what they were shown of it. It
// returns what is wrong.
func (s *shoppers) audit(l *ledger, lines []api.LineItem) []string {
	wrong := l.audit(lines)
	found := quantities(lines)
	for _, z := range s.all {
		known := z.seen[l]
		if known == nil {
			continue
		}
		for sku, units := range known.units {
			if found[sku] < units {
				wrong = append(wrong, fmt.Sprintf("%s shows %d of %s, and somebody was shown %d", l.path, found[sku], sku, units))
			}
		}
	}
	return wrong
}

// complaints returns what shoppers were told and may not be.
func (s *shoppers) complaints() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.wrong)
}

// shopper is one of them. It does one thing at a time.
type shopper struct {
	*shoppers
	number int
	random *rand.Rand
	node   int // that was asked last
	keys   int
	seen   map[*ledger]*seen
}

// seen is what a shopper was shown of a cart.
type seen struct {
	context string
	own     int64            // units of the line that is the shopper's alone
	units   map[string]int64 // of the lines that nobody takes anything off
}

func (z *shopper) shop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-z.stopped.Done():
			return
		case <-timer.C:
		}
		l := z.ledgers[z.random.IntN(len(z.ledgers))]
		switch n := z.random.IntN(20); {
		case n < 8:
			z.add(l, fmt.Sprint("SHARED-", z.random.IntN(4)))
		case n < 11:
			z.add(l, fmt.Sprintf("ONCE-%d-%d", z.number, z.keys))
		case n < 15:
			z.set(l, z.random.Int64N(5))
		default:
			if z.repeat(l, request{method: "GET"}) {
				z.reads.Add(1)
			}
		}
		timer.Reset(rest/2 + time.Duration(z.random.Int64N(int64(rest))))
	}
}

// add adds units to a line that nobody takes any off. Some unknown outcomes are let be.
func (z *shopper) add(l *ledger, sku string) {
	units := 1 + z.random.Int64N(9)
	acked := z.repeat(l, request{
		method: "POST", path: "/line-items", body: fmt.Sprintf(`{"sku":%q,"quantity":%d}`, sku, units),
		mayGiveUp: z.random.IntN(3) == 0,
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	if acked {
		l.acked[sku] += units
	} else {
		l.open[sku] = append(l.open[sku], units)
	}
}

// set sets the line that is the shopper's alone, and removes it where units is 0.
func (z *shopper) set(l *ledger, units int64) {
	sku := z.own()
	body := fmt.Sprintf(`{"operations":[{"type":"set","sku":%q,"quantity":%d}]}`, sku, units)
	if units == 0 {
		body = fmt.Sprintf(`{"operations":[{"type":"remove","sku":%q}]}`, sku)
	}
	if z.repeat(l, request{method: "POST", path: "/operations", body: body, sets: &units}) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.set[sku] = units
	}
}

func (z *shopper) own() string { return fmt.Sprint("OWN-", z.number) }

// request is what a shopper wants of a cart.
type request struct {
	method, path, body string

	sets      *int64 // units of the shopper's own line, after it
	mayGiveUp bool
}

// repeat sends a request to one node after the other until it is acknowledged, and reports whether it was.
func (z *shopper) repeat(l *ledger, q request) (acknowledged bool) {
	z.keys++
	key := fmt.Sprintf("%d-%d", z.number, z.keys)
	if z.seen[l] == nil {
		z.seen[l] = &seen{units: make(map[string]int64)}
	}
	began := time.Now()
	for {
		z.node = (z.node + 1 + z.random.IntN(2)) % 3
		a, err := z.send(l, q, key)
		var why string
		switch {
		case err != nil:
			if why = "no answer"; errors.As(err, new(*json.SyntaxError)) || os.IsTimeout(err) {
				z.errorf("%s %s%s: %v", q.method, l.path, q.path, err)
			}
		case a.status < 300:
			z.acknowledged(l, q, a)
			return true
		case a.status == http.StatusServiceUnavailable && a.problem.Type != "" && a.header.Get("Retry-After") != "":
			why = strings.TrimPrefix(a.problem.Type, "/problems/")
		default:
			z.errorf("%s %s%s: %d %s", q.method, l.path, q.path, a.status, a.body)
			return false
		}
		z.retry(why)
		switch {
		case q.mayGiveUp && (why == "no answer" || why == "not-durable"):
			z.abandoned.Add(1)
			return false
		case time.Since(began) > patience:
			z.errorf("%s %s%s: nobody takes it for %v, at last: %s", q.method, l.path, q.path, patience, why)
			return false
		}
		<-time.After(backoff/2 + time.Duration(z.random.Int64N(int64(backoff))))
	}
}

func (s *shoppers) retry(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retries[why]++
}

// send sends a request once.
func (z *shopper) send(l *ledger, q request, key string) (answer, error) {
	r, err := http.NewRequest(q.method, z.cluster.node(z.node).api+l.path+q.path, strings.NewReader(q.body))
	if err != nil {
		return answer{}, err
	}
	if q.method != "GET" {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", key)
	}
	if context := z.seen[l].context; context != "" {
		r.Header.Set("Cart-Context", context)
	}
	return send(&z.client, r)
}

// acknowledged compares an answer with what the shopper has seen and done.
func (z *shopper) acknowledged(l *ledger, q request, a answer) {
	lines := a.cart.LineItems
	if q.path == "/operations" {
		var results api.OperationResults
		if err := json.Unmarshal(a.body, &results); err != nil {
			z.errorf("%s: %v", a.body, err)
			return
		}
		lines = results.Cart.LineItems
	}
	known := z.seen[l]
	known.context = a.header.Get("Cart-Context")
	if q.sets != nil {
		known.own = *q.sets
	}
	found := quantities(lines)
	if found[z.own()] != known.own {
		z.errorf("%s %s%s: %s has %d units for the one who set %d", q.method, l.path, q.path, z.own(), found[z.own()], known.own)
	}
	for sku, units := range known.units {
		if found[sku] < units {
			z.errorf("%s %s%s: there were %d units of %s, and there are %d", q.method, l.path, q.path, units, sku, found[sku])
		}
	}
	for sku, units := range found {
		if !strings.HasPrefix(sku, "OWN-") {
			known.units[sku] = units
		}
	}
	if q.method == "GET" {
		return
	}
	z.acked.Add(1)
	if a.header.Get("Idempotent-Replayed") == "true" {
		z.replayed.Add(1)
	}
	switch how := a.header.Get("Cart-Durability"); {
	case how == "database":
		z.inDatabase.Add(1)
	case strings.HasPrefix(how, "peers="):
		z.inPeers.Add(1)
	default:
		z.errorf("%s %s%s: Cart-Durability is %q", q.method, l.path, q.path, how)
	}
}
