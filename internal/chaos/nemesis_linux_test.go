package chaos

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"cartd/internal/workload"
)

// nemesis is something that goes wrong.
type nemesis struct {
	name    string
	regions int // 0: one
	// spare says that the first region has a node more that is not at work yet.
	spare bool
	// fault does it and returns when it has undone it, after the duration that the cluster was given.
	fault func(c *cluster)
	// available is how many of 100,000 attempts have to succeed at nodes that run and are not cut off; 0: nothing is
	// promised.
	available int
	// kills says that a node dies, so that others have to take over, and how many carts have to be repaired is bounded.
	kills bool
	// loses says that more dies at once than is tolerated: what was acknowledged for so long before may be lost then,
	// if nothing has it that is left.
	loses time.Duration
	disk  int64 // bytes for the database, 0: enough
	needs string
}

var nemeses = []nemesis{
	{name: "kill", fault: kill, available: most, kills: true},
	{name: "pause", fault: pauseNode, available: most},
	{name: "isolate", fault: isolate, available: most},
	{name: "one-way", fault: oneWay, available: most},
	{name: "loss", fault: loss, available: 99_000},
	{name: "database-killed", fault: killDatabase, available: most},
	{name: "database-paused", fault: pauseDatabase, available: most},
	{name: "disk-full", fault: fillDisk, available: most, disk: 64 << 20},
	{name: "slow-fsync", fault: slowFsync, available: most, needs: "strace"},
	{name: "failing-fsync", fault: failingFsync, available: most, needs: "strace"},
	{name: "kill-all", fault: killAll, loses: flushWindow},
	{name: "rolling-restart", fault: rollingRestart, available: 100_000},
	{name: "regions-cut", regions: 2, fault: cutRegions, available: most},
	{name: "regions-one-way", regions: 2, fault: cutRegionsOneWay, available: most},
	{name: "regions-loss", regions: 2, fault: regionsLoss, available: most},
	{name: "bridges-killed", regions: 2, fault: killBridges, available: most},
	{name: "region-killed", regions: 2, fault: killRegion, available: most, loses: crossWindow},
	{name: "database-wiped", regions: 2, fault: wipeDatabase, available: most},
	{name: "region-wiped", regions: 2, fault: wipeRegion, available: most, loses: crossWindow},
	{name: "resize", regions: 2, spare: true, fault: resize, available: 100_000},
}

// selected returns the nemeses of a list of names with commas between them; "all" are all.
func selected(list string) (all []nemesis, err error) {
	if list == "all" {
		return nemeses, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(nemeses, func(n nemesis) bool { return n.name == strings.TrimSpace(name) })
		if i < 0 {
			var names []string
			for _, n := range nemeses {
				names = append(names, n.name)
			}
			return nil, fmt.Errorf("there is no nemesis %q; there are %s", name, strings.Join(names, ", "))
		}
		all = append(all, nemeses[i])
	}
	return all, nil
}

// kill: a node dies, and half-way it is back, with an empty memory.
func kill(c *cluster) {
	v := c.victim()
	v.leave()
	v.kill()
	c.pass(c.duration / 2)
	v.start()
	v.back()
	c.rest()
}

// pauseNode: a node hangs.
func pauseNode(c *cluster) {
	v := c.victim()
	v.leave()
	v.signal(syscall.SIGSTOP)
	c.rest()
	v.signal(syscall.SIGCONT)
}

// isolate: a node is cut off from the other nodes and the database, and not from clients.
func isolate(c *cluster) {
	v := c.victim()
	v.leave()
	for _, h := range c.hosts() {
		if h != v.host {
			v.drop(h)
			h.drop(v.host)
		}
	}
	c.rest()
	c.heal()
}

// oneWay: a node does not get what another one sends.
func oneWay(c *cluster) {
	i := c.random.IntN(size)
	from, to := c.nodes[i], c.nodes[(i+1+c.random.IntN(size-1))%size]
	to.drop(from.host)
	c.rest()
	c.heal()
}

// loss: each packet between hosts is lost with a probability of 20 %.
func loss(c *cluster) {
	for _, to := range c.hosts() {
		for _, from := range c.hosts() {
			if from != to {
				to.drop(from, "-m", "statistic", "--mode", "random", "--probability", "0.2")
			}
		}
	}
	c.rest()
	c.heal()
}

// heal has all hosts take all packets. That some were dropped before shows that there was a fault.
func (c *cluster) heal() {
	c.t.Helper()
	dropped := 0
	for _, h := range c.hosts() {
		dropped += h.heal()
	}
	c.t.Logf("%d packets were dropped", dropped)
	if dropped == 0 {
		c.t.Error("no packet was dropped: there was no fault")
	}
}

// hosts returns all hosts.
func (c *cluster) hosts() (all []*host) {
	for _, r := range c.regions {
		all = append(all, r.host)
		for _, n := range r.nodes {
			all = append(all, n.host)
		}
	}
	return all
}

// killDatabase: the database dies.
func killDatabase(c *cluster) {
	server := c.regions[0].server
	server.Kill(c.t)
	c.rest()
	server.Restart(c.t)
}

// pauseDatabase: the database hangs.
func pauseDatabase(c *cluster) {
	server := c.regions[0].server
	server.Pause(c.t)
	c.rest()
	server.Resume(c.t)
}

// fillDisk: there is no room left for the database.
func fillDisk(c *cluster) {
	r := c.regions[0]
	free := r.fill()
	c.rest()
	free()
	r.said(r.serverLog(), "No space left on device")
	r.revive()
}

// slowFsync: an fsync of the database takes half a second.
func slowFsync(c *cluster) {
	const delay = 500 * time.Millisecond
	r := c.regions[0]
	stop := r.inject(fmt.Sprintf("delay_enter=%d", delay.Microseconds()))
	c.rest()
	stop()
	r.said(r.straceLog(), "(DELAYED)")
}

// failingFsync: every fsync of the database fails. It ends all connections then, and cannot recover.
func failingFsync(c *cluster) {
	r := c.regions[0]
	stop := r.inject("error=EIO")
	c.rest()
	stop()
	r.said(r.straceLog(), "(INJECTED)")
	r.revive()
}

// killAll: all nodes die at once, and half-way they are back.
func killAll(c *cluster) {
	r := c.regions[0]
	r.kill(workload.Risk{From: c.broken.Add(-flushWindow)})
	c.pass(c.duration / 2)
	r.start()
	c.rest()
}

// rollingRestart: the nodes are stopped and started again, one after the other, each of them once at least.
func rollingRestart(c *cluster) {
	for {
		for _, n := range c.nodes {
			n.terminate()
			n.start()
			n.awaitReady()
		}
		if time.Since(c.broken) >= c.duration {
			return
		}
	}
}
