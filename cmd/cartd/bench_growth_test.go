//go:build linux

package main

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"cartd/gossip"
)

const (
	growthCarts = 300 // for each node of a region
	growthRate  = 50  // adds a second, for each node
)

// BenchmarkGrowth measures what a node needs in regions of more and more nodes, with as many carts and adds for each
// node, as make bench-cluster prints it; and how many carts move when a node joins and leaves. The nodes are in this
// process, on files of their own, with real links.
func BenchmarkGrowth(b *testing.B) {
	if *clusterRounds == 0 {
		b.Skip("takes minutes: make bench-cluster")
	}
	b.ReportMetric(0, "ns/op")
	fmt.Printf("\n%d carts and %d adds/s for each node; each node, and second:\n\n", growthCarts, growthRate)
	fmt.Printf("| nodes | KB of memory for carts | KB of heap for them | items | frames | bytes | refused | at rest: frames | bytes | KB of heap |\n|%s\n", strings.Repeat("---|", 10))
	var moved []string
	for _, size := range []int{3, 6, 12, 24} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			before := memory()
			g := startGrowth(b, size)
			bare := float64(memory()-before) / float64(size)
			idle := g.traffic(func() { <-time.After(*clusterDuration) })
			before = memory()
			g.create(size * growthCarts)
			g.pack()
			carts, heap := float64(g.resident())/float64(size), float64(memory()-before)/float64(size)
			adds := func() *outcome { return g.open(float64(size*growthRate), *clusterDuration) }
			adds() // until nodes have the connections with each other by which they pass requests on
			var refused int64
			busy := g.traffic(func() { refused = adds().refused })
			fmt.Printf("| %d | %.0f | %.0f | %.1f | %.1f | %.0f | %d | %.1f | %.0f | %.0f |\n", size, carts/1024, heap/1024,
				busy.items, busy.frames, busy.bytes, refused, idle.frames, idle.bytes, bare/1024)
			if size == 6 {
				moved = g.moves()
			}
		})
	}
	fmt.Println()
	for _, line := range moved {
		fmt.Println(line)
	}
}

// replicas is how many nodes own a cart.
const replicas = 3

// growth is a region whose nodes are in this process.
type growth struct {
	load
	key   string
	nodes []*member
}

func startGrowth(b *testing.B, size int) *growth {
	b.Helper()
	g := &growth{load: load{tb: b}, key: gossip.GenerateKey().Text()}
	for range size {
		g.join()
	}
	g.awaitActive()
	return g
}

// join starts a node.
func (g *growth) join() *member {
	g.tb.Helper()
	n := startMember(g.tb, strings.TrimSpace(g.key), g.nodes, "--data-dir", g.tb.TempDir(), "--drain-time", "0s")
	g.nodes = append(g.nodes, n)
	g.targets = append(g.targets, strings.TrimPrefix(n.process.api, "http://"))
	return n
}

// awaitActive returns when all nodes know each other.
func (g *growth) awaitActive() {
	g.tb.Helper()
	for _, n := range g.nodes {
		n.wantReady()
		await(g.tb, "all nodes are active and linked", func() bool { return n.allActive(len(g.nodes))() && n.debug().Linked == len(g.nodes)-1 })
	}
	g.settle()
}

// settle returns when nothing is on its way between the nodes, and each keeps the slots that it owns and no other.
func (g *growth) settle() {
	g.tb.Helper()
	for _, n := range g.nodes {
		await(g.tb, "the region is at rest", func() bool {
			s := n.region.Status().Core
			z := n.debug()
			rest := s.Placement.Sites == len(g.nodes) && s.Placement.Held == 0 && z.Carts.Unsaved == 0 && z.Carts.Indexed
			for _, l := range s.Links {
				rest = rest && l.BacklogItems == 0 && l.OwedStates == 0 && !l.NeedsSync
			}
			return rest
		})
	}
}

// create creates carts at all nodes by turns. No node but their owners has them.
func (g *growth) create(carts int) {
	g.tb.Helper()
	g.carts = make([]string, carts)
	g.each(1, carts, func(w *wire, i int) error {
		id, err := createCart(w)
		g.carts[i] = id
		return err
	})
	g.settle()
}

// pack returns when carts that nobody uses are packed.
func (g *growth) pack() {
	const idle, most = 3 * time.Second, 20 * time.Second
	began := time.Now()
	last, since := g.resident(), began
	for time.Since(began) < most && (time.Since(began) < most/2 || time.Since(since) < idle) {
		<-time.After(idle / 10)
		if now := g.resident(); now != last {
			last, since = now, time.Now()
		}
	}
}

// resident returns the bytes that the carts in memory need, as the nodes reckon.
func (g *growth) resident() (bytes int64) {
	for _, n := range g.nodes {
		bytes += n.debug().Carts.MemoryBytes
	}
	return bytes
}

// traffic is what a node sends to its peers in a second.
type traffic struct{ items, frames, bytes float64 }

// traffic returns that of a node while something is done, on average.
func (g *growth) traffic(do func()) traffic {
	before, began := g.counters(), time.Now()
	do()
	took := time.Since(began)
	after := g.counters()
	per := func(n uint64) float64 { return float64(n) / took.Seconds() / float64(len(g.nodes)) }
	return traffic{
		items:  per(after.ItemsSent - before.ItemsSent),
		frames: per(after.FramesSent - before.FramesSent),
		bytes:  per(after.BytesSent - before.BytesSent),
	}
}

// counters returns those of all nodes, added up.
func (g *growth) counters() (z gossip.Counters) {
	for _, n := range g.nodes {
		c := n.region.Status().Core.Counters
		z.ItemsSent += c.ItemsSent
		z.FramesSent += c.FramesSent
		z.BytesSent += c.BytesSent
		z.StatesSent += c.StatesSent
	}
	return z
}

// moves has a node join, and leave again, and tells how many whole carts were sent for that, against how many it owns.
func (g *growth) moves() (told []string) {
	g.tb.Helper()
	size := len(g.nodes)
	owned := float64(len(g.carts)) * replicas / float64(size+1) // by each of them when there is one more
	tell := func(what string, before gossip.Counters) {
		sent := float64(g.counters().StatesSent - before.StatesSent)
		told = append(told, fmt.Sprintf("%d nodes and %d carts, one more %s: %.0f carts were sent, %.2f of what a node owns.", size, len(g.carts), what, sent, sent/owned))
	}
	before := g.counters()
	joined := g.join()
	g.awaitActive()
	tell("joins", before)

	before = g.counters()
	joined.halt()
	g.nodes, g.targets = g.nodes[:size], g.targets[:size]
	g.awaitActive()
	before.StatesSent -= joined.region.Status().Core.Counters.StatesSent // what it sent counts, too
	tell("leaves", before)
	return told
}

// memory returns the bytes of the heap that are in use.
func memory() int64 {
	runtime.GC()
	runtime.GC() // what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
