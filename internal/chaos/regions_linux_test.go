package chaos

import (
	"time"

	"cartd/internal/workload"
)

// Nemeses of several regions.

// between does something to each pair of hosts with nodes of two regions, in either direction.
func (c *cluster) between(do func(to, from *node)) {
	for _, to := range c.nodes {
		for _, from := range c.nodes {
			if to.region != from.region {
				do(to, from)
			}
		}
	}
}

// cutRegions: no packet goes from one region to the other.
func cutRegions(c *cluster) {
	c.between(func(to, from *node) { to.drop(from.host) })
	c.rest()
	c.heal()
}

// cutRegionsOneWay: a region does not get what the other one sends.
func cutRegionsOneWay(c *cluster) {
	deaf := c.victims()
	c.between(func(to, from *node) {
		if to.region == deaf {
			to.drop(from.host)
		}
	})
	c.rest()
	c.heal()
}

// regionsLoss: each packet between the regions is lost with a probability of 20 %.
func regionsLoss(c *cluster) {
	c.between(func(to, from *node) {
		to.drop(from.host, "-m", "statistic", "--mode", "random", "--probability", "0.2")
	})
	c.rest()
	c.heal()
}

// killBridges: a bridge of one region dies and comes back, then one of the other region, and so on.
func killBridges(c *cluster) {
	for killed := 0; killed < len(c.regions) || time.Since(c.broken) < c.duration; killed++ {
		b := c.regions[killed%len(c.regions)].bridge()
		b.leave()
		b.kill()
		b.start()
		b.back()
	}
}

// bridge returns one of the bridges of the region.
func (r *region) bridge() *node {
	r.t.Helper()
	var bridges []*node
	r.cluster.await("there is a bridge", func() bool {
		for _, n := range r.nodes {
			if n.status().Node.Bridge {
				bridges = append(bridges, n)
			}
		}
		return len(bridges) > 0
	})
	return bridges[r.cluster.random.IntN(len(bridges))]
}

// killRegion: all of a region dies at once, with its database, and half-way it is back.
func killRegion(c *cluster) {
	r := c.victims()
	r.kill(workload.Risk{From: c.broken.Add(-crossWindow)})
	r.server.Kill(c.t)
	c.pass(c.duration / 2)
	r.server.Restart(c.t)
	r.start()
	c.rest()
}

// wipeDatabase: the database of a region is stopped, and half-way it is back, empty.
func wipeDatabase(c *cluster) {
	r := c.victims()
	r.server.Stop(c.t)
	c.pass(c.duration / 2)
	r.server.Wipe(c.t)
	r.server.Restart(c.t)
	c.rest()
}

// wipeRegion: all of a region dies at once, and what comes back half-way is empty: all it is to have the other
// region has.
func wipeRegion(c *cluster) {
	r := c.victims()
	r.kill(workload.Risk{From: c.broken.Add(-crossWindow), Database: true})
	r.server.Kill(c.t)
	c.pass(c.duration / 2)
	r.server.Wipe(c.t)
	r.server.Restart(c.t)
	r.start()
	c.rest()
}

// resize: a region gets a fourth node, one of the others is told to stop, is started again, and so on. In the end it has
// four.
func resize(c *cluster) {
	nodes := c.regions[0].nodes
	out := size // the one that is not there
	for {
		nodes[out].start()
		nodes[out].awaitReady()
		out = (out + 1 + c.random.IntN(size)) % len(nodes)
		nodes[out].terminate()
		if time.Since(c.broken) >= c.duration {
			break
		}
	}
	nodes[out].start()
	nodes[out].awaitReady()
}
