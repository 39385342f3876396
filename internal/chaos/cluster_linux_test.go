package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cartd/gossip"
	"cartd/internal/workload"
)

const (
	size  = 3 // nodes of a region at work
	carts = 60
	// So many clients rest for so long between two operations, on average, that some are left while others wait for
	// a node that hangs: until it is not ready any more, or for long.
	clients = 60
	pause   = 100 * time.Millisecond
	long    = 3 * time.Second
	warmUp  = 2 * time.Second // of work before something goes wrong

	patience = 30 * time.Second // bounds every wait for a host, and the audit
)

// cluster is one region or several, and the shoppers.
type cluster struct {
	t        *testing.T
	ctx      context.Context // done when the run is interrupted
	dir      string          // for its files
	cartd    string          // the binary
	key      string          // the file
	seed     uint64
	random   *rand.Rand    // chooses victims
	duration time.Duration // of the fault

	regions []*region
	nodes   []*node // of all regions

	account  account
	shoppers *workload.Run
	cutOff   context.CancelFunc // has shoppers give up what they are at
	broken   time.Time          // when the fault began
	wrecked  *region            // which lost what nobody else had; or nil
}

// newCluster starts a cluster, whose nodes are ready then. It is gone after the test; where that fails, what tells of
// it is kept.
func newCluster(t *testing.T, p *prepared, n nemesis, seed uint64, duration time.Duration) *cluster {
	t.Helper()
	c := &cluster{
		t: t, ctx: p.ctx, dir: filepath.Join(p.dir, n.name), cartd: p.cartd, key: filepath.Join(p.dir, n.name, "key"),
		seed: seed, random: rand.New(rand.NewPCG(seed, 0)), duration: duration,
	}
	if err := os.Mkdir(c.dir, 0o755); err != nil { // the database's user goes through it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmount(c.dir), os.RemoveAll(c.dir)); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(c.key, []byte(gossip.GenerateKey().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	net := newNetwork(t)
	for i := range max(1, n.regions) {
		r := newRegion(c, net, p, n, i)
		c.regions = append(c.regions, r)
		c.nodes = append(c.nodes, r.nodes...)
	}
	t.Cleanup(func() {
		if t.Failed() && c.ctx.Err() == nil {
			c.report(n.name)
		}
		for _, n := range c.nodes {
			n.kill()
		}
	})
	for _, r := range c.regions {
		for _, n := range r.nodes[:size] {
			n.start()
		}
	}
	for _, n := range c.atWork() {
		n.awaitReady()
		c.await(n.name+" is linked with the others", func() bool { return n.status().isInSync(len(c.regions)) })
	}
	return c
}

// atWork returns the nodes that were started.
func (c *cluster) atWork() []*node {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n *node) bool { return n.cmd == nil })
}

// victim returns one of the nodes.
func (c *cluster) victim() *node { return c.nodes[c.random.IntN(len(c.nodes))] }

// victims returns one of the regions.
func (c *cluster) victims() *region { return c.regions[c.random.IntN(len(c.regions))] }

// start sends the shoppers to work.
func (c *cluster) start(durability func(cart int) string) {
	c.t.Helper()
	o := workload.Options{
		Carts: carts, Clients: clients, Rest: pause, Seed: c.seed, FollowReady: true, Timeout: long,
		Durability: durability, Observe: c.account.observe,
		// A cart is replaced as late as can be: a region that is cut off knows nothing of the new one.
		CartWrites: 1000,
	}
	for _, n := range c.nodes {
		o.Nodes = append(o.Nodes, workload.Node{Name: n.name, Region: n.region.name, API: func() string { return n.url(apiPort, "") }})
	}
	ctx, cancel := context.WithCancel(c.ctx)
	c.t.Cleanup(cancel)
	c.cutOff = cancel
	var err error
	if c.shoppers, err = workload.Start(ctx, o); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		c.cutOff() // where the test failed, nobody may be there to answer them
		c.shoppers.Stop()
	})
}

// rest lets the time go by that is left of the fault.
func (c *cluster) rest() {
	c.t.Helper()
	c.pass(time.Until(c.broken.Add(c.duration)))
}

// pass lets time go by.
func (c *cluster) pass(d time.Duration) {
	c.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
		c.t.Fatal("interrupted")
	}
}

// await waits until something is so.
func (c *cluster) await(what string, so func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !so(); c.pass(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// away returns when nodes were not such that have to answer.
func (c *cluster) away() (all [][]period) {
	for _, n := range c.nodes {
		n.mu.Lock()
		all = append(all, append([]period(nil), n.away...))
		n.mu.Unlock()
	}
	return all
}

// forgives reports whether an attempt failed as it had to: who has seen what nobody has any more is told to come back.
func (c *cluster) forgives(z workload.Attempt) bool {
	return c.wrecked != nil && z.Region == c.wrecked.name && z.Problem == "context-unavailable"
}

// report keeps what tells of a failure, and says where.
func (c *cluster) report(name string) {
	dir, err := os.MkdirTemp("", namespacePrefix+"failed-"+name+"-")
	if err != nil {
		c.t.Error(err)
		return
	}
	for _, n := range c.nodes {
		_, body, err := get(n.url(adminPort, "/debug/cluster"))
		if err != nil {
			body = []byte(err.Error())
		}
		c.keep(filepath.Join(dir, n.name+".debug.json"), body)
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log")) // the pattern is well-formed
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			c.t.Error(err)
		}
		c.keep(filepath.Join(dir, filepath.Base(path)), content)
	}
	if c.shoppers != nil {
		c.shoppers.Stop()
		var ledger strings.Builder
		if err := c.shoppers.WriteLedger(&ledger); err != nil {
			c.t.Error(err)
		}
		c.keep(filepath.Join(dir, "ledger.ndjson"), []byte(ledger.String()))
	}
	c.t.Logf("the logs, the ledger and what the nodes say are in %s", dir)
}

func (c *cluster) keep(path string, content []byte) {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		c.t.Error(err)
	}
}
