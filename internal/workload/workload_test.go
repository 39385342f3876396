package workload

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartd/api"
)

var seedFlag = flag.Uint64("workload.seed", 0, "seed of the clients; 0 draws one")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func seed(t testing.TB) uint64 {
	t.Helper()
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-workload.seed=%d", s)
	return s
}

// await waits until ready holds.
func await(t testing.TB, what string, ready func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func start(t testing.TB, o Options) *Run {
	t.Helper()
	r, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// work lets the clients do so many writes more, and stops them.
func work(t testing.TB, r *Run, writes int64) {
	t.Helper()
	began := r.Totals().Operations
	await(t, fmt.Sprintf("%d writes are done", writes), func() bool { return r.Totals().Operations >= began+writes })
	r.Stop()
	t.Log(r.Totals())
}

// audit is an audit of a region whose nodes shall come to show the same.
func audit(t testing.TB, r *Run) Verdict {
	t.Helper()
	return auditWithin(t, r, 20*time.Second)
}

func auditWithin(t testing.TB, r *Run, d time.Duration) Verdict {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	v := r.Audit(ctx)
	t.Log(v)
	return v
}

// TestRightRegion: what fails and is repeated, as it is in any region, is nothing to complain about.
func TestRightRegion(t *testing.T) {
	t.Parallel()
	s := seed(t)
	f := newFakeRegion(t, 3)
	f.fault = randomFaults(s)
	var observed atomic.Int64
	kinds := make(map[string]int)
	var mu sync.Mutex
	o := f.options(s)
	o.Carts, o.CartWrites = 18, 40 // of which three are a client's own
	o.Observe = func(a Attempt) {
		observed.Add(1)
		mu.Lock()
		defer mu.Unlock()
		kinds[a.Kind]++
		if o.Nodes[a.Node].Name == "" || a.Began.IsZero() || a.Cart < 0 || a.Cart >= o.Carts || (a.Outcome == OK) != (a.Problem == "" || a.Problem == lineNotFound) {
			t.Errorf("observed %+v", a)
		}
	}
	r := start(t, o)
	all := []string{"add", "set", "remove", "clear", "batch", "read", "create"}
	await(t, "there were operations of every kind", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return !slices.ContainsFunc(all, func(kind string) bool { return kinds[kind] == 0 })
	})
	work(t, r, 1000)
	v := audit(t, r)
	for _, finding := range v.Findings {
		t.Error(finding)
	}
	if !v.OK() || v.AtRiskLost != 0 {
		t.Error(v)
	}
	z := r.Totals()
	if z.Attempts != observed.Load() {
		t.Errorf("%d attempts, and %d were observed", z.Attempts, observed.Load())
	}
	if z.Operations != z.Acknowledged+z.Failed+z.Unknown || z.ByPeers != z.Acknowledged {
		t.Errorf("these do not add up: %v", z)
	}
	if z.Replays == 0 || z.Unknown == 0 || z.Refused == 0 || z.Reads == 0 || z.Created <= int64(o.Carts) {
		t.Errorf("these should not be 0, and carts should have been replaced: %v", z)
	}
	ledger(t, r)
}

// ledger reads what WriteLedger writes.
func ledger(t *testing.T, r *Run) {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteLedger(&b); err != nil {
		t.Fatal(err)
	}
	types := make(map[string]int64)
	var last time.Time
	begun := make(map[uint64]bool)
	for lines := json.NewDecoder(&b); lines.More(); {
		var e entry
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		if e.Time.Before(last) {
			t.Fatalf("%+v is out of order", e)
		}
		last = e.Time
		if (e.Type == "invoke") == begun[e.Operation] {
			t.Fatalf("%+v: begun is %t", e, begun[e.Operation])
		}
		begun[e.Operation] = true
		types[e.Type]++
	}
	z := r.Totals()
	if want := map[string]int64{"invoke": z.Operations + z.Created, "ok": z.Acknowledged + z.Created, "fail": z.Failed, "unknown": z.Unknown}; !maps.Equal(types, want) {
		t.Errorf("the ledger has %v, not %v", types, want)
	}
}

// TestWrongRegions: each wrong is caught under its name.
func TestWrongRegions(t *testing.T) {
	t.Parallel()
	nth := func(n int) func() bool {
		i := 0
		return func() bool { i++; return i%n == 0 }
	}
	type test struct {
		name   string
		spoil  func(f *fakeRegion, s uint64)
		found  func(v Verdict) bool
		alone  bool // nothing else may be found
		within time.Duration
	}
	tests := []test{
		{name: "an acknowledged add is lost", spoil: func(f *fakeRegion, _ uint64) {
			f.after = func(c *fakeCart) {
				for sku, n := range c.lines {
					if n > 0 && strings.HasPrefix(sku, oncePrefix) && c.version%10 == 0 {
						delete(c.lines, sku)
						return
					}
				}
			}
		}, found: func(v Verdict) bool { return v.Lost > 0 && v.Sessions > 0 && v.Doubled+v.Resurfaced == 0 }},
		{name: "an acknowledged assignment is undone", spoil: func(f *fakeRegion, _ uint64) {
			f.after = func(c *fakeCart) {
				for sku, n := range c.lines {
					if n > 1 && strings.HasPrefix(sku, ownPrefix) && c.version%10 == 0 {
						c.lines[sku] = n - 1
						return
					}
				}
			}
		}, found: func(v Verdict) bool { return v.Sessions > 0 && v.Doubled == 0 }},
		{name: "a retry counts twice", spoil: func(f *fakeRegion, s uint64) {
			f.fault, f.twice = randomFaults(s), func() bool { return true }
		}, found: func(v Verdict) bool { return v.Doubled > 0 }},
		{name: "a removed line is back", spoil: func(f *fakeRegion, _ uint64) {
			f.after = func(c *fakeCart) {
				before := c.versions[max(0, c.version-10)]
				for sku, n := range before {
					if n > 0 && strings.HasPrefix(sku, oncePrefix) && c.lines[sku] == 0 {
						c.lines[sku] = n
					}
				}
			}
		}, found: func(v Verdict) bool { return v.Resurfaced > 0 && v.Sessions > 0 && v.Lost+v.Doubled == 0 }},
		{name: "a node shows what was, behind a context", spoil: func(f *fakeRegion, _ uint64) {
			behind := nth(3)
			f.respond = func(node int, w http.ResponseWriter, q *http.Request) bool {
				c := f.carts[strings.TrimPrefix(q.URL.Path, "/v1/carts/")]
				if c == nil || q.Header.Get("Cart-Context") == "" || node != 1 || !behind() {
					return false
				}
				version := max(0, c.version-30)
				w.Header().Set("Cart-Context", c.contexts[version])
				w.Header().Set("ETag", `"old"`)
				fakeJSON(w, fakeLines(c.id, c.versions[version]))
				return true
			}
		}, found: func(v Verdict) bool { return v.Sessions > 0 }, alone: true},
		{name: "a line is larger at one node", spoil: func(f *fakeRegion, _ uint64) {
			f.show = func(node int, c *fakeCart, z *api.Cart) {
				if node == 2 && c.id == "cart-3" && c.version > 20 && len(z.LineItems) > 0 {
					z.LineItems[0].Quantity++
					z.TotalQuantity++
				}
			}
		}, found: func(v Verdict) bool { return v.Unequal > 0 && v.Lost+v.Doubled+v.Resurfaced == 0 }, within: time.Second},
		{name: "the ETag is another one at one node", spoil: func(f *fakeRegion, _ uint64) {
			f.respond = func(node int, w http.ResponseWriter, q *http.Request) bool {
				c := f.carts[strings.TrimPrefix(q.URL.Path, "/v1/carts/")]
				if c == nil || node != 2 || q.Header.Get("Cart-Context") != "" {
					return false
				}
				c.headers(w)
				w.Header().Set("ETag", `"other"`)
				fakeJSON(w, f.cart(node, c))
				return true
			}
		}, found: func(v Verdict) bool { return v.Unequal > 0 && v.Sessions+v.Wrong == 0 }, within: time.Second},
		{name: "a line shows as two", spoil: func(f *fakeRegion, _ uint64) {
			double := nth(100)
			f.show = func(_ int, _ *fakeCart, z *api.Cart) {
				if len(z.LineItems) > 0 && double() {
					z.LineItems = append(z.LineItems, z.LineItems[0])
				}
			}
		}, found: func(v Verdict) bool { return v.Wrong > 0 && v.Doubled+v.Resurfaced == 0 }},
	}
	for name, body := range map[string]string{"no JSON": "{", "another cart": `{"id":"cart-x"}`, "no cart": "[]"} {
		tests = append(tests, test{name: "200 with " + name, spoil: func(f *fakeRegion, _ uint64) {
			nonsense := nth(50)
			f.respond = func(_ int, w http.ResponseWriter, q *http.Request) bool {
				if q.Header.Get("Cart-Context") == "" || !nonsense() {
					return false
				}
				w.Header().Set("Cart-Context", "x")
				w.Header().Set("ETag", `"x"`)
				w.Header().Set("Cart-Durability", "database")
				w.Write([]byte(body))
				return true
			}
		}, found: func(v Verdict) bool { return v.Wrong > 0 }, alone: true})
	}
	for name, status := range map[string]int{"a fault": http.StatusInternalServerError, "503 without a problem": http.StatusServiceUnavailable, "a redirect": http.StatusFound} {
		tests = append(tests, test{name: name, spoil: func(f *fakeRegion, _ uint64) {
			nonsense := nth(50)
			f.respond = func(_ int, w http.ResponseWriter, q *http.Request) bool {
				if q.Header.Get("Cart-Context") == "" || !nonsense() {
					return false
				}
				w.Header().Set("Location", q.URL.Path)
				w.WriteHeader(status)
				return true
			}
		}, found: func(v Verdict) bool { return v.Wrong > 0 }, alone: true})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := seed(t)
			f := newFakeRegion(t, 3)
			test.spoil(f, s)
			r := start(t, f.options(s))
			work(t, r, 400)
			v := auditWithin(t, r, cmp.Or(test.within, 20*time.Second))
			if !test.found(v) || v.OK() {
				t.Errorf("not caught under its name: %v\n%s", v, strings.Join(v.Findings, "\n"))
			}
			if test.alone {
				v.Sessions, v.Wrong, v.Findings = 0, 0, nil
				if !v.OK() {
					t.Errorf("and taken for something else: %v", v)
				}
			}
		})
	}
}

// TestLateCommands: a write that was given up may still happen when its client has gone on.
func TestLateCommands(t *testing.T) {
	t.Parallel()
	s := seed(t)
	f := newFakeRegion(t, 2)
	random := rand.New(rand.NewPCG(s, 1))
	f.fault = func(*http.Request) fault {
		if random.IntN(3) == 0 {
			return late
		}
		return none
	}
	o := f.options(s)
	o.Carts, o.CartWrites = 6, 120 // of which one is a client's own
	r := start(t, o)
	work(t, r, 700)
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}
}

// TestUnknownAssignment: after one the client leaves its line to itself, as it may still come into effect; and a cart
// of its own wholly, as a clear might not have seen it.
func TestUnknownAssignment(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 1)
	o := f.options(seed(t))
	o.Rest = time.Hour // the test is the client
	r := start(t, o)
	z := r.newClient(0)
	for _, c := range []*cart{r.cart(0), r.cart(ownedCarts - 1)} {
		v := newView(c)
		z.commands(v, set, z.set(v))
		f.mu.Lock()
		f.fault = func(*http.Request) fault { return cut }
		f.mu.Unlock()
		z.write(v, request{kind: add, method: http.MethodPost, path: "/line-items", body: `{"sku":"SHARED-0","quantity":1}`}, true,
			change{add, sharedPrefix + "0", 1})
		if v.own != 0 {
			t.Errorf("cart %d: another line after an add", c.number)
		}
		z.write(v, request{kind: set, method: http.MethodPost, path: "/operations", body: `{"operations":[]}`}, true, z.set(v))
		f.mu.Lock()
		f.fault = nil
		f.mu.Unlock()
		if v.own != 1 || c.isFull() != (c.owner == 0) {
			t.Errorf("cart %d, of client %d: own line %d, full %t", c.number, c.owner, v.own, c.isFull())
		}
	}
}

// TestFollowReady: a node that is not ready gets no requests, and while none is ready nobody does.
func TestFollowReady(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 3)
	f.nodes[1].unready.Store(true)
	o := f.options(seed(t))
	o.FollowReady = true
	r := start(t, o)
	done := func() int64 { return r.Totals().Attempts }
	await(t, "there is work", func() bool { return done() > 200 })
	polled := func(times int64) {
		t.Helper()
		var last []int64
		for _, n := range f.nodes {
			last = append(last, n.polls.Load())
		}
		await(t, "all nodes were polled", func() bool {
			for i, n := range f.nodes {
				if n.polls.Load() < last[i]+times {
					return false
				}
			}
			return true
		})
	}
	if n := f.nodes[1].requests.Load(); n != 0 {
		t.Errorf("%d requests to a node that is not ready", n)
	}
	for _, n := range f.nodes {
		n.unready.Store(true)
	}
	polled(2) // the answer to the first may have been under way
	before := done()
	polled(3)
	if n := done() - before; n > 2*int64(o.Clients) { // one in flight, and one that was about to be
		t.Errorf("%d attempts while no node is ready", n)
	}
	f.nodes[1].unready.Store(false)
	others := f.nodes[0].requests.Load() + f.nodes[2].requests.Load()
	await(t, "the node that is ready gets requests", func() bool { return f.nodes[1].requests.Load() > 200 })
	if n := f.nodes[0].requests.Load() + f.nodes[2].requests.Load() - others; n > 2*int64(o.Clients) {
		t.Errorf("%d requests to nodes that are not ready", n)
	}
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}
}

// TestRegions: clients go to nodes of their own region, and to others only while none of these is ready.
func TestRegions(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 4)
	o := f.options(seed(t))
	o.FollowReady = true
	for i := range o.Nodes {
		o.Nodes[i].Region = []string{"eu", "us"}[i%2]
	}
	var mu sync.Mutex
	var visits int
	of := make(map[int]string)
	o.Observe = func(a Attempt) {
		mu.Lock()
		defer mu.Unlock()
		of[a.Client] = a.Region
		if a.Client >= 0 && a.Region != o.Nodes[a.Node].Region {
			visits++
		}
	}
	visited := func() int {
		mu.Lock()
		defer mu.Unlock()
		return visits
	}
	r := start(t, o)
	await(t, "all nodes get requests", func() bool {
		return !slices.ContainsFunc(f.nodes, func(n *fakeNode) bool { return n.requests.Load() < 50 })
	})
	more := func(writes int64) func() bool {
		most := r.Totals().Operations + writes
		return func() bool { return r.Totals().Operations >= most }
	}
	f.nodes[1].unready.Store(true)
	early := visited() // before the first poll of all
	await(t, "there is work", more(100))
	if n := visited() - early; n != 0 {
		t.Errorf("%d visits while both regions have nodes", n)
	}
	f.nodes[3].unready.Store(true)
	await(t, "clients of the other region come", func() bool { return visited() > 50 })
	f.nodes[1].unready.Store(false)
	await(t, "they are at home again", func() bool {
		before := visited()
		await(t, "there is work", more(100))
		return visited() == before
	})
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}
	if want := map[int]string{-1: "", 0: "eu", 1: "us", 2: "eu", 3: "us", 4: "eu", 5: "us"}; !maps.Equal(of, want) {
		t.Errorf("clients are of %v, not %v", of, want)
	}
}

// TestPatience: what nobody takes in time is wrong, whether nodes refuse it or none is ready.
func TestPatience(t *testing.T) {
	t.Parallel()
	for _, unready := range []bool{false, true} {
		f := newFakeRegion(t, 2)
		o := f.options(seed(t))
		o.Patience, o.FollowReady = 100*time.Millisecond, unready
		r := start(t, o)
		await(t, "there is work", func() bool { return r.Totals().Acknowledged > 100 })
		if unready {
			for _, n := range f.nodes {
				n.unready.Store(true)
			}
		} else {
			f.mu.Lock()
			f.fault = func(*http.Request) fault { return unavailable }
			f.mu.Unlock()
		}
		await(t, "every client has given something up", func() bool { return r.Totals().Wrong > int64(o.Clients) })
		r.Stop()
		for _, n := range f.nodes {
			n.unready.Store(false)
		}
		f.mu.Lock()
		f.fault = nil
		f.mu.Unlock()
		v := audit(t, r)
		if v.Wrong <= o.Clients || len(v.Findings) == 0 || !strings.Contains(v.Findings[0], "nobody takes it") {
			t.Errorf("%v\n%q", v, v.Findings)
		}
		if v.Wrong = 0; !v.OK() {
			t.Errorf("and taken for something else: %v", v)
		}
	}
}

// TestForgotten: where all nodes have lost what a client has seen, it goes on without; and the audit tells.
func TestForgotten(t *testing.T) {
	t.Parallel()
	began := time.Now()
	f := newFakeRegion(t, 2)
	o := f.options(seed(t))
	o.Carts, o.Patience = 7, 3*time.Second
	r := start(t, o)
	await(t, "there is work", func() bool { return r.Totals().Acknowledged > 200 })
	f.mu.Lock()
	spoiled := time.Now()
	for _, c := range f.carts { // of which one is a client's own
		c.lose(8)
	}
	delete(f.carts, "cart-4")
	f.mu.Unlock()
	await(t, "clients go on", func() bool { return r.Totals().Dropped >= 6 })
	work(t, r, 200)
	v := auditWithin(t, r, 3*time.Second)
	if v.Lost == 0 {
		t.Errorf("what is lost is not told: %v", v)
	}
	if v.Lost, v.Resurfaced, v.Findings = 0, 0, nil; !v.OK() {
		t.Errorf("a client that goes on without its context has nothing to complain of: %v", v)
	}
	r.AtRisk(Risk{From: began, To: spoiled.Add(time.Second)})
	if v := auditWithin(t, r, 3*time.Second); !v.OK() || v.AtRiskLost == 0 {
		t.Errorf("all of it was at risk: %v\n%s", v, strings.Join(v.Findings, "\n"))
	}
}

// TestLaggingRegion: who goes on without a context may be shown what was, and that is nothing to complain about.
func TestLaggingRegion(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 2)
	o := f.options(seed(t))
	o.Carts, o.CartWrites, o.Patience = 2, 1000, 3*time.Second
	r := start(t, o)
	await(t, "there is work", func() bool { return r.Totals().Acknowledged > 150 })
	f.mu.Lock()
	f.respond = func(_ int, w http.ResponseWriter, q *http.Request) bool {
		c := f.carts["cart-0"]
		switch {
		case !strings.HasPrefix(q.URL.Path, "/v1/carts/cart-0"):
			return false
		case q.Header.Get("Cart-Context") != "":
			fakeProblem(w, http.StatusServiceUnavailable, "context-unavailable")
		default:
			version := max(0, c.version-50)
			w.Header().Set("Cart-Context", c.contexts[version])
			w.Header().Set("ETag", `"old"`)
			fakeJSON(w, fakeLines(c.id, c.versions[version]))
		}
		return true
	}
	f.mu.Unlock()
	await(t, "every client has dropped its context", func() bool { return r.Totals().Dropped >= int64(o.Clients) })
	f.mu.Lock()
	f.respond = nil
	f.mu.Unlock()
	work(t, r, 200)
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}
}

// TestEveryAttemptIsSeen: net/http sends no request twice by itself. The node closes every connection after the second
// request on it, unanswered.
func TestEveryAttemptIsSeen(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 1)
	var arrived, aborted atomic.Int64
	o := f.options(seed(t))
	type used struct{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		arrived.Add(1)
		if n := q.Context().Value(used{}).(*atomic.Int64); n.Add(1) == 2 {
			aborted.Add(1)
			panic(http.ErrAbortHandler)
		}
		f.serve(0, w, q)
	}))
	s.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, used{}, new(atomic.Int64))
	}
	s.Start()
	t.Cleanup(s.Close)
	o.Nodes = []Node{{Name: "node", API: func() string { return s.URL }}}
	var unknown atomic.Int64
	o.Observe = func(a Attempt) {
		if a.Outcome == Unknown {
			unknown.Add(1)
			if !a.Connected || a.Problem != noAnswer {
				t.Errorf("%+v", a)
			}
		}
	}
	r := start(t, o)
	work(t, r, 300)
	if z := r.Totals(); z.Attempts != arrived.Load() || unknown.Load() != aborted.Load() || unknown.Load() == 0 {
		t.Errorf("%d attempts, %d of them without an answer; %d arrived, %d were not answered", z.Attempts, unknown.Load(), arrived.Load(), aborted.Load())
	}
}

// TestRefusedConnection: an attempt at a node that is down is told as such, had no effect, and another node takes over.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 2)
	f.nodes[1].Close()
	o := f.options(seed(t))
	var refused atomic.Int64
	o.Observe = func(a Attempt) {
		if (a.Node == 1) == a.Connected || (a.Node == 1) != (a.Outcome == Unknown && a.Problem == refusedConnection) {
			t.Errorf("%+v", a)
		}
		if a.Node == 1 {
			refused.Add(1)
		}
	}
	r := start(t, o)
	work(t, r, 300)
	if z := r.Totals(); refused.Load() == 0 || z.Retries[refusedConnection] != refused.Load() || z.Unknown != 0 {
		t.Errorf("%d were refused: %v", refused.Load(), z)
	}
	if v := auditWithin(t, r, 500*time.Millisecond); v.Unequal != o.Carts || v.Lost+v.Wrong+v.Sessions != 0 {
		t.Errorf("one node is down: %v", v)
	}
}

// TestHangingNode: no answer in time is an unknown outcome, and the end of the context cuts off what is in flight.
func TestHangingNode(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 2)
	hang, arrived := make(chan struct{}), make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-hang }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(hang) })
	o := f.options(seed(t))
	o.Timeout = 50 * time.Millisecond
	hanging := new(atomic.Bool)
	f1 := f.nodes[1].URL
	o.Nodes[1].API = func() string {
		if hanging.Load() {
			return s.URL
		}
		return f1
	}
	var timeouts atomic.Int64
	o.Observe = func(a Attempt) {
		if a.Outcome == Unknown && a.Problem == timedOut && a.Node == 1 {
			timeouts.Add(1)
		}
	}
	r := start(t, o)
	hanging.Store(true)
	await(t, "some attempts had no answer", func() bool { return timeouts.Load() > 5 })
	hanging.Store(false)
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}

	ctx, cancel := context.WithCancel(t.Context())
	o.Timeout = time.Hour
	r, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	for len(arrived) > 0 {
		<-arrived
	}
	hanging.Store(true)
	for range o.Clients {
		<-arrived
	}
	cancel()
	r.Stop()
	r.Stop()
	hanging.Store(false)
	if z := r.Totals(); z.Wrong != 0 || z.Operations != z.Acknowledged+z.Failed+z.Unknown {
		t.Errorf("what was cut off is of unknown outcome: %v", z)
	}
	if v := audit(t, r); !v.OK() {
		t.Errorf("%v\n%s", v, strings.Join(v.Findings, "\n"))
	}
}

// TestStartFails: where no cart can be created.
func TestStartFails(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 1)
	o := f.options(seed(t))
	o.Patience = 50 * time.Millisecond
	f.fault = func(*http.Request) fault { return notDurable }
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "not-durable") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, o); err == nil {
		t.Error("started after the end of the context")
	}
	if _, err := Start(t.Context(), Options{}); err == nil {
		t.Error("started without nodes")
	}
}

// TestDurabilityAskedFor: an acknowledgement by peers where the database was asked for is wrong.
func TestDurabilityAskedFor(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 1)
	o := f.options(seed(t))
	o.Durability = func(int) string { return "database" }
	f.respond = func(_ int, _ http.ResponseWriter, q *http.Request) bool {
		q.Header.Del("Cart-Durability")
		return false
	}
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), `Cart-Durability is "peers=2"`) {
		t.Error(err)
	}
}
