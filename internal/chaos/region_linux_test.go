package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cartd/gossip"
	"cartd/internal/pgtest"
	"cartd/internal/workload"
)

const (
	size  = 3 // nodes of a region
	carts = 60
	// So many clients rest for so long between two operations, on average, that some are left while others wait for
	// a node that hangs: until it is not ready any more, or for long.
	clients = 60
	pause   = 100 * time.Millisecond
	long    = 3 * time.Second
	warmUp  = 2 * time.Second // of work before something goes wrong

	patience = 30 * time.Second // bounds every wait for a host, and the audit
)

// region is three nodes and a database, each on a host of its own, and the shoppers.
type region struct {
	t        *testing.T
	ctx      context.Context // done when the run is interrupted
	dir      string          // for its files
	cartd    string          // the binary
	key      string          // the file
	seed     uint64
	random   *rand.Rand    // chooses victims
	duration time.Duration // of the fault

	nodes  []*node
	host   *host // of the database
	server *pgtest.Server

	account  account
	shoppers *workload.Run
	cutOff   context.CancelFunc // has shoppers give up what they are at
	broken   time.Time          // when the fault began
}

// newRegion starts a region, whose nodes are ready then. It is gone after the test; where that fails, what tells of
// it is kept.
func newRegion(t *testing.T, p *prepared, n nemesis, seed uint64, duration time.Duration) *region {
	t.Helper()
	r := &region{
		t: t, ctx: p.ctx, dir: filepath.Join(p.dir, n.name), cartd: p.cartd, key: filepath.Join(p.dir, n.name, "key"),
		seed: seed, random: rand.New(rand.NewPCG(seed, 0)), duration: duration,
	}
	if err := os.Mkdir(r.dir, 0o755); err != nil { // the database's user goes through it
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmount(r.dir), os.RemoveAll(r.dir)); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(r.key, []byte(gossip.GenerateKey().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	net := newNetwork(t)
	r.host = net.plug("database")
	for i := range size {
		h := net.plug(fmt.Sprint("node-", i+1))
		r.nodes = append(r.nodes, &node{host: h, region: r, log: filepath.Join(r.dir, h.name+".log")})
	}
	home := r.dir
	if n.disk > 0 {
		home = filepath.Join(r.dir, "disk")
		mount(t, home, n.disk)
	}
	r.server = pgtest.StartWith(t, pgtest.Options{
		Dir: filepath.Join(home, "postgres"), Data: p.data, Log: r.serverLog(),
		Namespace: r.host.namespace, Address: r.host.address.String(),
	})
	t.Cleanup(func() {
		if t.Failed() && r.ctx.Err() == nil {
			r.report(n.name)
		}
		for _, n := range r.nodes {
			n.kill()
		}
	})
	for _, n := range r.nodes {
		n.start()
	}
	for _, n := range r.nodes {
		n.awaitReady()
		r.await(n.name+" is linked with the others", func() bool {
			z := n.status()
			return z.Linked == size-1 && z.Carts.Indexed
		})
	}
	return r
}

func (r *region) databaseURL() string {
	return fmt.Sprintf("postgres://cartd@%s:%d/postgres?sslmode=disable", r.host.address, pgtest.Port)
}

func (r *region) serverLog() string { return filepath.Join(r.dir, "postgres.log") }

// victim returns one of the nodes.
func (r *region) victim() *node { return r.nodes[r.random.IntN(len(r.nodes))] }

// start sends the shoppers to work.
func (r *region) start(durability func(cart int) string) {
	r.t.Helper()
	o := workload.Options{
		Carts: carts, Clients: clients, Rest: pause, Seed: r.seed, FollowReady: true, Timeout: long,
		Durability: durability, Observe: r.account.observe,
	}
	for _, n := range r.nodes {
		o.Nodes = append(o.Nodes, workload.Node{Name: n.name, API: func() string { return n.url(apiPort, "") }})
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.t.Cleanup(cancel)
	r.cutOff = cancel
	var err error
	if r.shoppers, err = workload.Start(ctx, o); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		r.cutOff() // where the test failed, nobody may be there to answer them
		r.shoppers.Stop()
	})
}

// rest lets the time go by that is left of the fault.
func (r *region) rest() {
	r.t.Helper()
	r.pass(time.Until(r.broken.Add(r.duration)))
}

// pass lets time go by.
func (r *region) pass(d time.Duration) {
	r.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
		r.t.Fatal("interrupted")
	}
}

// await waits until something is so.
func (r *region) await(what string, so func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !so(); r.pass(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// away returns when nodes were not such that have to answer.
func (r *region) away() (all [][]period) {
	for _, n := range r.nodes {
		n.mu.Lock()
		all = append(all, append([]period(nil), n.away...))
		n.mu.Unlock()
	}
	return all
}

// report keeps what tells of a failure, and says where.
func (r *region) report(name string) {
	dir, err := os.MkdirTemp("", namespacePrefix+"failed-"+name+"-")
	if err != nil {
		r.t.Error(err)
		return
	}
	for _, n := range r.nodes {
		_, body, err := get(n.url(adminPort, "/debug/cluster"))
		if err != nil {
			body = []byte(err.Error())
		}
		r.keep(filepath.Join(dir, n.name+".debug.json"), body)
	}
	logs, _ := filepath.Glob(filepath.Join(r.dir, "*.log")) // the pattern is well-formed
	for _, path := range logs {
		content, err := os.ReadFile(path)
		if err != nil {
			r.t.Error(err)
		}
		r.keep(filepath.Join(dir, filepath.Base(path)), content)
	}
	if r.shoppers != nil {
		r.shoppers.Stop()
		var ledger strings.Builder
		if err := r.shoppers.WriteLedger(&ledger); err != nil {
			r.t.Error(err)
		}
		r.keep(filepath.Join(dir, "ledger.ndjson"), []byte(ledger.String()))
	}
	r.t.Logf("the logs, the ledger and what the nodes say are in %s", dir)
}

func (r *region) keep(path string, content []byte) {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Error(err)
	}
}
