package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cartd/internal/pgtest"
	"cartd/internal/workload"
)

// newRegions starts two regions of two nodes, each with a database of its own. They reach each other then.
func newRegions(t testing.TB, eu, us string) (regions [2]*cluster) {
	t.Helper()
	inRegion := func(name string) []string { return []string{"--region", name, "--wan-listen", "127.0.0.1:0"} }
	regions[0] = newCluster(t, 2, eu, inRegion("eu")...)
	regions[1] = &cluster{t: t, url: us, key: regions[0].key, args: inRegion("us"), abroad: regions[0]}
	regions[1].start(2)
	for _, c := range regions {
		for i := range c.nodes {
			await(t, "the regions reach each other", func() bool { return c.reaches(i) })
		}
	}
	return regions
}

// reaches reports whether a node reaches another region, and is in sync with it.
func (c *cluster) reaches(i int) bool {
	z := c.node(i).status()
	return len(z.Regions) == 1 && z.Regions[0].Reachable && z.Regions[0].NeedSync == 0
}

// killAll kills the nodes of a region, which has none then that is to be counted on.
func (c *cluster) killAll() {
	for i := range c.nodes {
		c.node(i).kill()
	}
}

// restart starts processes in the place of those that were killed.
func (c *cluster) restart() {
	c.t.Helper()
	for i := range c.nodes {
		c.set(i, c.launch())
	}
}

// freeze holds the processes of a region until thaw.
func (c *cluster) freeze() { c.signal(syscall.SIGSTOP) }
func (c *cluster) thaw()   { c.signal(syscall.SIGCONT) }

func (c *cluster) signal(s syscall.Signal) {
	c.t.Helper()
	for i := range c.nodes {
		if err := c.node(i).cmd.Process.Signal(s); err != nil {
			c.t.Fatal(err)
		}
	}
}

// seen returns what a node shows of carts: their contexts, by path.
func (c *cluster) seen(i int, paths []string) map[string]string {
	c.t.Helper()
	contexts := make(map[string]string)
	for _, path := range paths {
		a := c.node(i).must("GET", path, "")
		if a.status != http.StatusOK {
			c.t.Fatalf("%s: %d %s", path, a.status, a.body)
		}
		contexts[path] = a.header.Get("Cart-Context")
	}
	return contexts
}

// TestRegionIsLost: clients go from node to node of two regions, while all nodes of one are killed and come back: once
// with their database, and once with an empty one, when the clients have gone elsewhere. The other region goes on taking writes. Before a node that came
// back is ready it has what was written meanwhile. Nothing is lost, nothing counts twice, and in the end all show the
// same, and so does a node that has it from the database that was empty.
func TestRegionIsLost(t *testing.T) {
	build(t)
	t.Parallel()
	seed := *clusterSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-cluster.seed=%d", seed)
	us := pgtest.New(t)
	regions := newRegions(t, pgtest.New(t), us)
	kept, lost := regions[0], regions[1]

	var down atomic.Bool // the nodes of the region that is lost
	var refusedWrites atomic.Int64
	all := &cluster{t: t, nodes: append(append([]*clusterNode(nil), kept.nodes...), lost.nodes...)}
	// direct sends those who ask the region that is lost to the nodes of a region.
	direct := func(to *cluster) {
		for i := range lost.nodes {
			all.set(len(kept.nodes)+i, to.node(i))
		}
	}
	r := startWorkload(all, workload.Options{
		Carts: 36, Clients: 8, Rest: 12 * time.Millisecond, Seed: seed,
		Observe: func(a workload.Attempt) {
			if down.Load() && a.Node < len(kept.nodes) && a.Problem == "not-durable" {
				refusedWrites.Add(1)
			}
		},
	})
	more := func(what string, operations, reads int64) {
		t.Helper()
		began, before := time.Now(), r.Totals()
		await(t, what, func() bool {
			z := r.Totals()
			return z.Acknowledged >= before.Acknowledged+operations && z.Reads >= before.Reads+reads
		})
		z := r.Totals()
		t.Logf("%s: %d in %.1f s; so far %v", what, z.Acknowledged-before.Acknowledged, time.Since(began).Seconds(), z)
	}

	more("writes and reads in two regions", 500, 100)
	for _, back := range []struct {
		what  string
		empty bool
	}{{"with its database", false}, {"with an empty database", true}} {
		if back.empty { // no promise covers what its database alone has
			direct(kept)
			more("the clients are elsewhere", 200, 40)
		}
		killed := time.Now()
		lost.killAll()
		r.AtRisk(workload.Risk{From: killed.Add(-flushWindow), To: time.Now()}) // so many nodes failed at once
		down.Store(true)
		await(t, "the other region notices", func() bool { return !kept.node(0).status().Regions[0].Reachable })
		more("a region is lost", 400, 80)
		if n := refusedWrites.Load(); n > 0 {
			t.Errorf("%d writes were refused where a region was left", n)
		}
		down.Store(false)
		if back.empty {
			empty(t, us)
		}

		before := kept.seen(0, r.Carts())
		began := time.Now()
		lost.restart()
		for i := range lost.nodes {
			await(t, "a node is ready that came back "+back.what, func() bool { return lost.node(i).readyStatus() == http.StatusOK })
		}
		t.Logf("ready after %.1f s %s", time.Since(began).Seconds(), back.what)
		kept.freeze() // so that nothing is fetched from there any more
		for path, context := range before {
			for i := range lost.nodes {
				if a := lost.node(i).must("GET", path, "", "Cart-Context", context); a.status != http.StatusOK {
					t.Errorf("node %d is ready %s, and of %s lacks what was written before: %d %s", i, back.what, path, a.status, a.body)
				}
			}
		}
		kept.thaw()
		direct(lost)
		more("it is back "+back.what, 400, 80)
	}

	r.Stop()
	within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	verdict, totals := r.Audit(within), r.Totals()
	t.Logf("%v; in all: %v", verdict, totals)
	for _, finding := range verdict.Findings {
		t.Error(finding)
	}
	if !verdict.OK() {
		t.Error(verdict)
	}
	last := make(map[string]answer)
	for _, path := range r.Carts() {
		last[path] = lost.node(0).must("GET", path, "")
	}
	for _, c := range []*cluster{kept, lost} {
		c.signal(syscall.SIGTERM)
		for i := range c.nodes {
			if code := c.node(i).exitCode(); code != 0 {
				t.Errorf("a node stopped with %d:\n%s", code, c.node(i).output())
			}
		}
	}
	fresh := startOn(t, "--database-url", us)
	for path, a := range last {
		if got := fresh.must("GET", path, ""); !same(got, a) {
			t.Errorf("the database that was empty has %d %s %s, not %s %s", got.status, got.header.Get("ETag"), got.body, a.header.Get("ETag"), a.body)
		}
	}
	if t.Failed() {
		for i := range all.nodes {
			t.Logf("node %d:\n%s", i, all.node(i).output())
		}
	}
}

// flushWindow is how long a database may lack what nodes hold.
const flushWindow = 5 * time.Second

// empty drops the schema that a URL names, and makes it again.
func empty(t testing.TB, database string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	schema := u.Query().Get("search_path")
	for _, statement := range []string{"DROP SCHEMA " + schema + " CASCADE", "CREATE SCHEMA " + schema} {
		if err := pgtest.Exec(database, statement); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHoldersAbroad: a region whose database is away, and of whose nodes one is left, takes writes all the same: another
// region holds them. When its database is back, that has them.
func TestHoldersAbroad(t *testing.T) {
	build(t)
	t.Parallel()
	server := pgtest.Start(t)
	regions := newRegions(t, server.URL, pgtest.New(t))
	eu, us := regions[0], regions[1]
	left := eu.node(0)
	path := left.create(1)
	units := int64(1)

	server.Kill(t)
	eu.node(1).kill()
	await(t, "the node notices", func() bool { z := left.status(); return z.Linked == 0 && !z.Store.Reachable })
	if code := left.readyStatus(); code != http.StatusOK {
		t.Errorf("%d: a node is not ready whose writes another region holds", code)
	}
	for range 10 {
		a := left.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`)
		if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Cart-Durability"), "peers=") {
			t.Fatalf("%d %v %s\n%s", a.status, a.header, a.body, left.output())
		}
		if units++; a.cart.TotalQuantity != units {
			t.Errorf("%d units, not %d", a.cart.TotalQuantity, units)
		}
		if a := left.must("GET", path, ""); a.cart.TotalQuantity != units {
			t.Errorf("%d units are shown, not %d", a.cart.TotalQuantity, units)
		}
	}
	if a := left.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`, "Cart-Durability", "database"); a.status != http.StatusServiceUnavailable {
		t.Errorf("without the database it answers %d %s", a.status, a.body)
	}
	for i := range us.nodes {
		await(t, "the other region shows it", func() bool { return us.node(i).must("GET", path, "").cart.TotalQuantity == units })
	}

	server.Restart(t)
	await(t, "the database has everything", func() bool { z := left.status(); return z.Store.Reachable && z.Carts.Unsaved == 0 })
	shown := left.must("GET", path, "")
	us.killAll()
	left.kill()
	fresh := startOn(t, "--database-url", server.URL)
	if got := fresh.must("GET", path, ""); !same(got, shown) {
		t.Errorf("the database has %d %s, not %s", got.status, got.body, shown.body)
	}
}

// TestNoRegionToReach: a node that no other region answers starts all the same, and says that it knows none.
func TestNoRegionToReach(t *testing.T) {
	t.Parallel()
	key := strings.TrimSpace(keygen(t))
	m := startMember(t, key, nil, "--database-url", pgtest.New(t), "--region", "eu", "--wan-listen", "127.0.0.1:0", "--join-wan", "127.0.0.1:1")
	if z := m.debug(); z.Ready || z.Checks["joining"] == "ok" {
		t.Errorf("it waits for no other region: %v", z.Checks)
	}
	m.wantReady()
	if _, said, _ := ask(t, "status", "--admin", m.adminAddr.String()); !strings.Contains(said, "no other one is known") {
		t.Errorf("%s", said)
	}
}
