package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cartd/gossip"
	"cartd/internal/pgtest"
	"cartd/internal/workload"
)

var clusterSeed = flag.Uint64("cluster.seed", 0, "seed of the clients of TestCluster; 0 draws one")

// cluster is the nodes of a region, each a process, on one database.
type cluster struct {
	t    testing.TB
	url  string // of the database; none: each node has a file
	key  string // the file
	args []string

	mu    sync.Mutex
	nodes []*clusterNode // one that died stays until it is replaced
}

type clusterNode struct {
	*process
	gossip, wan, startID string // wan: none where it has no such address
}

// newCluster starts so many nodes, with further arguments. They are ready then.
func newCluster(t testing.TB, size int, url string, args ...string) *cluster {
	t.Helper()
	return newClusterWith(t, newKey(t), size, url, args...)
}

// newKey returns a file with a key.
func newKey(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(gossip.GenerateKey().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newClusterWith is newCluster for one of several regions, which have one key.
func newClusterWith(t testing.TB, key string, size int, url string, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, url: url, key: key, args: args}
	for range size {
		n := c.launch()
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		await(t, "all nodes are linked and ready", func() bool { return n.status().Linked == size-1 && n.readyStatus() == http.StatusOK })
	}
	return c
}

// launch starts a node that joins those that are there.
func (c *cluster) launch() *clusterNode {
	c.t.Helper()
	const free = "127.0.0.1:0"
	where := []string{"--database-url", c.url}
	if c.url == "" {
		where = []string{"--data-dir", c.t.TempDir()}
	}
	args := append(append(listening(), where...), "--cluster-key-file", c.key, "--gossip-listen", free, "--link-listen", free)
	args = append(args, c.args...)
	for _, n := range c.nodes {
		args = append(args, "--join", n.gossip)
	}
	cartd, _ := build(c.t)
	n := &clusterNode{process: launchCommand(c.t, exec.Command(cartd, args...))}
	if n.api == "" {
		c.t.Fatalf("cartd did not start:\n%s", n.output())
	}
	z := n.status()
	n.gossip, n.wan, n.startID = z.Node.GossipAddress, z.WANAddress, z.Node.StartID
	return n
}

// replace starts a process in the place of one that has ended, and returns when it is ready.
func (c *cluster) replace(i int) {
	c.t.Helper()
	n := c.launch()
	if old := c.node(i); n.startID == old.startID {
		c.t.Errorf("the new process has the start id of the old one, %s", n.startID)
	}
	await(c.t, "the new node is ready", func() bool { return n.readyStatus() == http.StatusOK })
	c.set(i, n)
}

func (c *cluster) set(i int, n *clusterNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[i] = n
}

func (c *cluster) node(i int) *clusterNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[i]
}

// status reads /debug/cluster.
func (n *process) status() (z status) {
	n.t.Helper()
	response, err := http.Get(n.admin + "/debug/cluster")
	if err != nil {
		n.t.Fatalf("%v\n%s", err, n.output())
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&z); err != nil {
		n.t.Fatal(err)
	}
	return z
}

// everywhere returns when all nodes show the same of a cart, by ETag and byte for byte, and returns that.
func (c *cluster) everywhere(path string, deadline time.Time) answer {
	c.t.Helper()
	for {
		all := make([]answer, len(c.nodes))
		equal := true
		for i := range c.nodes {
			a, err := c.node(i).call("GET", path, "")
			if err != nil {
				c.t.Fatal(err)
			}
			all[i] = a
			equal = equal && same(a, all[0])
		}
		if equal {
			return all[0]
		}
		if time.Now().After(deadline) {
			for i, a := range all {
				c.t.Errorf("node %d shows %d %s %s", i, a.status, a.header.Get("ETag"), a.body)
			}
			c.t.Fatalf("%s is not the same everywhere in time", path)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// same reports whether two answers show a cart, and the same of it.
func same(a, b answer) bool {
	return a.status == http.StatusOK && b.status == http.StatusOK && a.header.Get("ETag") == b.header.Get("ETag") && string(a.body) == string(b.body)
}

// startWorkload sends clients to the nodes, wherever these are.
func startWorkload(c *cluster, o workload.Options) *workload.Run {
	c.t.Helper()
	for i := range c.nodes {
		o.Nodes = append(o.Nodes, workload.Node{Name: fmt.Sprint("node ", i), API: func() string { return c.node(i).api }})
	}
	r, err := workload.Start(c.t.Context(), o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(r.Stop)
	return r
}

// TestCluster: clients go from node to node while one is killed and replaced, the database is killed and
// started again, and a node is stopped and replaced. No write that was acknowledged is lost, none is counted
// twice, and in the end all nodes show the same, and so does one that has it from the database alone.
func TestCluster(t *testing.T) {
	build(t)
	t.Parallel()
	seed := *clusterSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-cluster.seed=%d", seed)
	server := pgtest.Start(t)
	c := newCluster(t, 3, server.URL)
	r := startWorkload(c, workload.Options{Carts: 36, Clients: 12, Rest: 12 * time.Millisecond, Seed: seed})
	// more returns when so many more operations were acknowledged and reads answered, and so much time is over.
	more := func(what string, operations, reads int64, least time.Duration) {
		t.Helper()
		began, before := time.Now(), r.Totals()
		await(t, what, func() bool {
			z := r.Totals()
			return z.Acknowledged >= before.Acknowledged+operations && z.Reads >= before.Reads+reads && time.Since(began) >= least
		})
		z := r.Totals()
		t.Logf("%s: %d in %.1f s; so far %v", what, z.Acknowledged-before.Acknowledged, time.Since(began).Seconds(), z)
	}

	more("writes and reads at three nodes", 500, 100, 0)
	c.node(1).kill()
	more("at two, one was killed", 500, 100, 0)
	c.replace(1)
	more("one was replaced", 500, 100, 0)

	server.Kill(t)
	before := r.Totals().ByPeers
	more("the database was killed", 500, 100, 3*time.Second)
	c.node(0).kill()
	more("and one of the three nodes", 500, 100, 0)
	c.replace(0)
	more("the node was replaced", 300, 60, 0)
	if n := r.Totals().ByPeers - before; n < 500 {
		t.Errorf("without the database nodes took %d writes", n)
	}
	if z := c.node(1).status(); z.Store.Reachable {
		t.Errorf("a node does not tell that the database is away: %+v", z.Store)
	}
	server.Restart(t)
	more("the database is back", 500, 100, 0)

	stopped := c.node(2)
	if code := stopped.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, stopped.output())
	}
	more("at two, one was stopped", 300, 60, 0)
	c.replace(2)
	more("and replaced", 300, 60, 0)

	r.Stop()
	within, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	verdict, totals := r.Audit(within), r.Totals()
	t.Logf("%v; in all: %v", verdict, totals)
	for _, finding := range verdict.Findings {
		t.Error(finding)
	}
	if !verdict.OK() {
		t.Error(verdict)
	}
	if n := totals.Retries["timeout"]; n > 0 {
		t.Errorf("%d requests had no answer for %v", n, workload.DefaultTimeout)
	}
	last := make(map[string]answer)
	for _, path := range r.Carts() {
		last[path] = c.node(0).must("GET", path, "")
	}

	// All are stopped at once, so none can count on another one to save what the database lacks.
	for _, n := range c.nodes {
		if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range c.nodes {
		if code := n.exitCode(); code != 0 {
			t.Errorf("node %d stopped with %d:\n%s", i, code, n.output())
		}
	}
	fresh := startOn(t, "--database-url", server.URL)
	for path, a := range last {
		if got := fresh.must("GET", path, ""); !same(got, a) {
			t.Errorf("the database has %d %s %s, not %s %s", got.status, got.header.Get("ETag"), got.body, a.header.Get("ETag"), a.body)
		}
	}
	if t.Failed() {
		for i := range c.nodes {
			t.Logf("node %d:\n%s", i, c.node(i).output())
		}
	}
}

// TestClusterNotDurable: what neither enough nodes nor the database hold is refused in time and not shown, and
// its retry counts once.
func TestClusterNotDurable(t *testing.T) {
	build(t)
	t.Parallel()
	server := pgtest.Start(t)
	c := newCluster(t, 3, server.URL)
	path := c.node(0).create(1)
	units := int64(1)
	add := func(i int, key string, headers ...string) (answer, time.Duration) {
		t.Helper()
		began := time.Now()
		a := c.node(i).must("POST", path+"/line-items", `{"sku":"TEE-RED"}`, append(headers, "Idempotency-Key", key)...)
		return a, time.Since(began)
	}
	refused := func(what string, a answer, took, most time.Duration) {
		t.Helper()
		if a.status != http.StatusServiceUnavailable || a.problem.Type != "/problems/not-durable" || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s, not 503 not-durable with Retry-After", what, a.status, a.header, a.body)
		}
		if took > most {
			t.Errorf("%s: refused after %v", what, took)
		}
		t.Logf("%s: refused after %v: %s", what, took.Round(time.Millisecond), a.problem.Detail)
	}
	// counted repeats refused writes, at whichever node, when the database is back.
	counted := func(keys []string) {
		t.Helper()
		for _, key := range keys {
			for i := range c.nodes {
				await(t, "the retry is acknowledged", func() bool {
					a, _ := add(i, key, "Cart-Durability", "database")
					return a.status == http.StatusOK && a.header.Get("Cart-Durability") == "database"
				})
			}
		}
		units += int64(len(keys))
		if a := c.everywhere(path, time.Now().Add(5*time.Second)); a.cart.TotalQuantity != units {
			t.Errorf("%d units, not %d: %s", a.cart.TotalQuantity, units, a.body)
		}
	}

	for i := range c.nodes { // which all have it in memory then
		await(t, "the node has the cart", func() bool { return c.node(i).must("GET", path, "").cart.TotalQuantity == 1 })
	}
	const (
		inTime = 4 * time.Second // the deadline of a request is 2 s
		atOnce = 2 * time.Second // 500 ms, when the machine is not busy
	)
	gone, back := func() { server.Kill(t) }, func() { server.Restart(t) }
	hangs, goesOn := func() { server.Pause(t) }, func() { server.Resume(t) }

	for _, test := range []struct {
		what        string
		fails, back func()
	}{{"gone", gone, back}, {"hanging", hangs, goesOn}} {
		var keys []string
		for i := range c.nodes {
			await(t, "the node has the database", func() bool { return c.node(i).status().Store.Reachable })
		}
		test.fails()
		for i := range c.nodes {
			keys = append(keys, fmt.Sprint("database-", test.what, i))
			a, took := add(i, keys[i], "Cart-Durability", "database")
			refused("the database asked for, "+test.what, a, took, inTime)
		}
		for i := range c.nodes {
			if a, took := add(i, fmt.Sprint("peers-", test.what, i)); a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Cart-Durability"), "peers=") {
				t.Errorf("the database not asked for: %d %s after %v", a.status, a.body, took)
			}
			units++
		}
		test.back()
		counted(keys)
	}

	c.node(1).kill()
	c.node(2).kill()
	c.nodes = c.nodes[:1]
	for _, test := range []struct {
		what        string
		fails, back func()
	}{{"hanging", hangs, goesOn}, {"gone", gone, back}} {
		var keys []string
		await(t, "the node has the database", func() bool { return c.node(0).readyStatus() == http.StatusOK })
		test.fails()
		for i := range 3 {
			keys = append(keys, fmt.Sprint("nobody-", test.what, i))
			a, took := add(0, keys[i])
			refused("one node of three, the database "+test.what, a, took, atOnce)
			if a := c.node(0).must("GET", path, ""); a.status != http.StatusOK || a.cart.TotalQuantity != units {
				t.Errorf("%d %s: it shows what is not durable", a.status, a.body)
			}
		}
		test.back()
		counted(keys)
	}
}
