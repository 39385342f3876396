package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cartd/internal/pgtest"
	"cartd/internal/workload"
)

// regionNames are those of regions, where there are several.
var regionNames = []string{"eu", "us"}

// region is nodes and a database, each on a host of its own.
type region struct {
	t       *testing.T
	cluster *cluster
	name    string // none where it is the only one

	nodes  []*node // one that is not at work from the begin comes last
	host   *host   // of the database
	server *pgtest.Server
}

// newRegion starts the database of a region.
func newRegion(c *cluster, net *network, p *prepared, n nemesis, i int) *region {
	c.t.Helper()
	r := &region{t: c.t, cluster: c}
	prefix := ""
	if n.regions > 1 {
		r.name = regionNames[i]
		prefix = r.name + "-"
	}
	nodes := size
	if n.spare && i == 0 {
		nodes++
	}
	r.host = net.plug(prefix + "database")
	for i := range nodes {
		h := net.plug(fmt.Sprint(prefix, "node-", i+1))
		r.nodes = append(r.nodes, &node{host: h, region: r, log: filepath.Join(c.dir, h.name+".log")})
	}
	home := c.dir
	if n.disk > 0 {
		home = r.disk()
		mount(c.t, home, n.disk)
	}
	r.server = pgtest.StartWith(c.t, pgtest.Options{
		Dir: filepath.Join(home, r.host.name), Data: p.data, Log: r.serverLog(),
		Namespace: r.host.namespace, Address: r.host.address.String(),
	})
	return r
}

func (r *region) databaseURL() string {
	return fmt.Sprintf("postgres://cartd@%s:%d/postgres?sslmode=disable", r.host.address, pgtest.Port)
}

func (r *region) serverLog() string { return filepath.Join(r.cluster.dir, r.host.name+".log") }

// kill has all nodes die at once. What they acknowledged is at risk, as far as at says; its end and its nodes are
// filled in.
func (r *region) kill(at workload.Risk) {
	r.t.Helper()
	for _, n := range r.nodes {
		n.leave()
		n.signal(syscall.SIGKILL)
	}
	for _, n := range r.nodes {
		<-n.done
	}
	at.To = time.Now()
	for i, n := range r.cluster.nodes {
		if n.region == r {
			at.Nodes = append(at.Nodes, i)
		}
	}
	r.cluster.shoppers.AtRisk(at)
	r.cluster.wrecked = r
}

// start starts all nodes, and returns when they are ready and have to answer again.
func (r *region) start() {
	r.t.Helper()
	for _, n := range r.nodes {
		n.start()
	}
	for _, n := range r.nodes {
		n.back()
	}
}

// stored returns how many carts the database has: none while it cannot tell.
func (r *region) stored() int {
	n, err := pgtest.Count(r.server.URL, "carts")
	if err != nil {
		return 0
	}
	return n
}

// said checks that a log has what shows that there was a fault.
func (r *region) said(path, what string) {
	r.t.Helper()
	log, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	n := bytes.Count(log, []byte(what))
	r.t.Logf("%s: %d times", what, n)
	if n == 0 {
		r.t.Errorf("%s does not say %q: there was no fault", filepath.Base(path), what)
	}
}

// revive has the database run again if it has ended.
func (r *region) revive() {
	r.t.Helper()
	if r.server.Ended() {
		r.t.Log("the database has ended, and is started again")
		r.server.Restart(r.t)
	}
}
