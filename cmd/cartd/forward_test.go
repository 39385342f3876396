package main

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartd/internal/pgtest"
)

// roles returns the first owner of a cart, and the nodes that do not own it.
func (c *cluster) roles(path string) (first *clusterNode, strangers []*clusterNode) {
	c.t.Helper()
	answered := make(map[*clusterNode]int64)
	for _, n := range c.nodes {
		answered[n] = n.status().Forwards.ForOthers
	}
	for _, n := range c.nodes {
		before := n.status().Forwards.Forwarded
		if a := n.must("GET", path, ""); a.status != http.StatusOK {
			c.t.Fatalf("%d %s", a.status, a.body)
		}
		if n.status().Forwards.Forwarded > before {
			strangers = append(strangers, n)
		}
	}
	for _, n := range c.nodes {
		if n.status().Forwards.ForOthers > answered[n] {
			return n, strangers
		}
	}
	c.t.Fatalf("of %d nodes %d do not own the cart, and nobody answered for another", len(c.nodes), len(strangers))
	return nil, nil
}

// TestForward: of four nodes two own a cart, and every request works at every node, whatever its headers say.
func TestForward(t *testing.T) {
	build(t)
	t.Parallel()
	c := newCluster(t, 4, pgtest.Start(t).URL, "--replicas", "2")
	c.placed()
	for i, n := range c.nodes {
		path, units := n.create(1), int64(1)
		line := ""
		for j, at := range c.nodes {
			a := at.must("GET", path, "")
			if a.status != http.StatusOK || a.cart.TotalQuantity != units {
				t.Fatalf("a cart of node %d at node %d: %d %s", i, j, a.status, a.body)
			}
			line = a.cart.LineItems[0].ID
			for _, w := range [][3]string{
				{"POST", "/line-items", `{"sku":"TEE-RED"}`},
				{"POST", "/operations", `{"operations":[{"type":"add","sku":"TEE-RED"}]}`},
				{"PATCH", "/line-items/" + line, `{"quantity_delta":1}`},
				{"PATCH", "", `{"note":"a note"}`},
				{"PUT", "/discount-codes/10%25%20OFF", ``},
				{"DELETE", "/discount-codes/10%25%20OFF", ``},
			} {
				a := at.must(w[0], path+w[1], w[2], "X-Request-Id", "mine", "Cart-Context", a.header.Get("Cart-Context"))
				if a.status != http.StatusOK || a.header.Get("X-Request-Id") != "mine" || a.header.Get("Cart-Context") == "" || a.header.Get("ETag") == "" ||
					a.header.Get("Cart-Durability") == "" || a.header.Get("Idempotent-Replayed") != "" || a.closes {
					t.Errorf("%s %s of node %d at node %d: %d %v %s", w[0], w[1], i, j, a.status, a.header, a.body)
				}
				if w[0] != "PUT" && w[1] != "" && w[0] != "DELETE" {
					units++
				}
			}
			if a := at.must("HEAD", path, ""); a.status != http.StatusOK || a.header.Get("ETag") == "" || len(a.body) > 0 {
				t.Errorf("HEAD at node %d: %d %v %s", j, a.status, a.header, a.body)
			}
			if a := at.must("GET", path, "", "If-None-Match", c.nodes[0].must("GET", path, "").header.Get("ETag")); a.status != http.StatusNotModified {
				t.Errorf("If-None-Match at node %d: %d %s", j, a.status, a.body)
			}
			if a := at.must("POST", path+"/line-items", `{"sku":"`+strings.Repeat("x", 64<<10)+`"}`); a.status != http.StatusRequestEntityTooLarge {
				t.Errorf("a long body at node %d: %d %s", j, a.status, a.body)
			}
		}
		if a := c.everywhere(path, time.Now().Add(10*time.Second)); a.cart.TotalQuantity != units {
			t.Errorf("%d units, not %d", a.cart.TotalQuantity, units)
		}
	}

	// No header keeps a request from being passed on, and none has it passed on twice.
	path := c.node(0).create(1)
	first, strangers := c.roles(path)
	total := func() (forwarded uint64, forOthers int64) {
		for _, n := range c.nodes {
			z := n.status().Forwards
			forwarded, forOthers = forwarded+z.Forwarded, forOthers+z.ForOthers
		}
		return forwarded, forOthers
	}
	forged := []string{
		"Forwarded", "for=" + first.gossip, "X-Forwarded-For", "127.0.0.1", "Via", "1.1 cartd", "Max-Forwards", "0", "Cart-Forwarded", "1",
		"Connection", "Cart-Forwarded, X-Request-Id", "Host", first.startID,
	}
	for _, n := range c.nodes {
		forwardedBefore, forOthersBefore := total()
		want := map[bool]int64{true: 1}[slices.Contains(strangers, n)]
		n.must("GET", path, "", forged...)
		forwarded, forOthers := total()
		if int64(forwarded-forwardedBefore) != want || forOthers-forOthersBefore != want {
			t.Errorf("%d passed on, %d answered for others, not %d", forwarded-forwardedBefore, forOthers-forOthersBefore, want)
		}
	}
	for _, n := range c.nodes {
		if z := n.status().Forwards; z.Unheeded != 0 || z.TakenOver != 0 {
			t.Errorf("%+v", z)
		}
	}
}

// placed returns when every node is active for all others.
func (c *cluster) placed() {
	c.t.Helper()
	for _, n := range c.nodes {
		await(c.t, "all nodes are active", func() bool {
			z := n.status()
			return len(z.Members) == len(c.nodes)-1 && !slices.ContainsFunc(append(z.Members, *z.Node), func(m memberStatus) bool { return m.State != "active" })
		})
	}
}

// TestForwardToNobody: the first owner of a cart hangs, and then dies under a stream of writes at a node that does
// not own the cart. Every write is acknowledged and counts once.
func TestForwardToNobody(t *testing.T) {
	build(t)
	t.Parallel()
	c := newCluster(t, 4, pgtest.Start(t).URL, "--replicas", "2")
	c.placed()
	path, units := c.node(0).create(1), atomic.Int64{}
	units.Store(1)
	first, strangers := c.roles(path)
	add := func(n *clusterNode) {
		t.Helper()
		a := n.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`)
		if a.status != http.StatusOK {
			t.Errorf("%d %v %s", a.status, a.header, a.body)
		}
		units.Add(1)
	}
	for _, n := range strangers { // which have connections to it then
		add(n)
	}

	if err := first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, n := range strangers {
		began := time.Now()
		add(n)
		t.Logf("while the first owner hangs: %v", time.Since(began).Round(time.Millisecond))
	}
	failed := func() (tries uint64) {
		for _, n := range strangers {
			tries += n.status().Forwards.Unheeded
		}
		return tries
	}
	if n := failed(); n == 0 {
		t.Error("no try failed")
	}
	if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if a := c.everywhere(path, time.Now().Add(10*time.Second)); a.cart.TotalQuantity != units.Load() {
		t.Errorf("it hung: %d units, not %d", a.cart.TotalQuantity, units.Load())
	}
	for _, n := range c.nodes {
		await(t, "all are linked again", func() bool { return n.status().Linked == len(c.nodes)-1 })
	}

	var writing sync.WaitGroup
	stop := make(chan struct{})
	for _, n := range append(strangers, strangers...) {
		writing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					add(n)
				}
			}
		})
	}
	more := func() {
		t.Helper()
		before := units.Load()
		await(t, "writes are acknowledged", func() bool { return units.Load() > before+200 })
	}
	more()
	before := failed()
	first.kill()
	more()
	close(stop)
	writing.Wait()
	t.Logf("%d tries failed when it died", failed()-before)
	c.nodes = slices.DeleteFunc(c.nodes, func(n *clusterNode) bool { return n == first })
	if a := c.everywhere(path, time.Now().Add(10*time.Second)); a.cart.TotalQuantity != units.Load() {
		t.Errorf("it died: %d units, not %d", a.cart.TotalQuantity, units.Load())
	}
}

// TestForwardEnds: nodes that passed requests on leave nothing behind when they stop.
func TestForwardEnds(t *testing.T) {
	url := pgtest.New(t)
	ignore := goleak.IgnoreCurrent()
	key := strings.TrimSpace(keygen(t))
	var nodes []*member
	for range 3 {
		nodes = append(nodes, startMember(t, key, nodes, "--database-url", url, "--replicas", "2", "--drain-time", "0s"))
	}
	for _, n := range nodes {
		n.wantReady()
		await(t, "all nodes are active", n.allActive(3))
	}
	forwarded := func() (all uint64) {
		for _, n := range nodes {
			all += n.debug().Forwards.Forwarded
		}
		return all
	}
	path := nodes[0].create(1)
	await(t, "requests are passed on", func() bool {
		for _, n := range nodes {
			n.add(path)
		}
		return forwarded() > 10
	})
	page := nodes[0].get("/metrics")
	for _, line := range []string{`cartd_requests_forwarded_total{by="owner"} `, "cartd_forward_tries_unheeded_total 0", "cartd_requests_for_others_total "} {
		if !strings.Contains(page, "\n"+line) {
			t.Errorf("no %q in the metrics:\n%s", line, page)
		}
	}
	for _, n := range nodes {
		n.halt()
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// allActive returns whether the node knows so many nodes and all are active.
func (m *member) allActive(size int) func() bool {
	return func() bool {
		z := m.debug()
		return len(z.Members) == size-1 && !slices.ContainsFunc(append(z.Members, *z.Node), func(o memberStatus) bool { return o.State != "active" })
	}
}
