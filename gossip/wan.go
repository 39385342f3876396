package gossip

import (
	"context"
	"errors"
	"time"
)

// wan is what a node has to do with other regions. It is in the pool of all regions, as every node that reaches them is.
// There it tells whether it is a bridge, and while it is, it has links with the bridges of other regions.
type wan struct {
	node   *Node
	pool   *members
	dials  *dials
	strays strays
	region chan struct{} // receives when members of the region may have changed
}

func newWAN(n *Node) (*wan, error) {
	pool, err := newMembers(n.o.ofWAN(), n.refused)
	w := &wan{node: n, pool: pool, dials: newDials(n.dial, n.o.Logger), region: make(chan struct{}, 1)}
	poke(w.region) // it may be all of the region
	return w, err
}

// wanAddrs returns where those of the members of the region who are in the pool of all regions are to be joined there.
func wanAddrs(region []Member) (addrs []string) {
	for _, m := range region {
		if m.WANAddr != "" {
			addrs = append(addrs, m.WANAddr)
		}
	}
	return addrs
}

// isBridge reports whether this process says that it is one.
func (w *wan) isBridge() bool {
	self, _ := w.pool.all()
	return self.Bridge
}

// follow holds elections and keeps the links with other regions, as members here and there come and go.
func (w *wan) follow(ctx context.Context) {
	t := NewTerm(len(w.node.o.Join) > 0, time.Now())
	var ends, strays <-chan time.Time
	for {
		select {
		case <-w.region:
		case <-w.pool.changed:
		case <-ends:
		case <-strays:
		case <-ctx.Done():
			return
		}
		self, others := w.node.members.all()
		bridge, again := t.Hold(self, others, time.Now())
		if ends = nil; again > 0 {
			ends = time.After(again)
		}
		w.be(ctx, bridge)
		strays = w.seekStrays(others)
	}
}

// seekStrays warns of strays, given the others of the region, and returns what receives when it is time to do so again.
func (w *wan) seekStrays(region []Member) <-chan time.Time {
	_, all := w.pool.all()
	found, again := w.strays.see(w.node.o.Member.Region, region, all, time.Now())
	for _, name := range found {
		w.node.o.Logger.Warn("gossip: in the pool of all regions as one of this region, and not in that of the region", "peer", name)
	}
	if again == 0 {
		return nil
	}
	return time.After(again)
}

// be makes this process a bridge or no bridge, which it may be already, and links it with the bridges of other regions
// that are known now.
func (w *wan) be(ctx context.Context, bridge bool) {
	self, others := w.pool.all()
	abroad := BridgesAbroad(self, others)
	if !bridge {
		w.dials.keep(ctx, nil)
		w.say(false) // before links are closed: nobody dials in vain
		w.node.core.SetBridges(false, abroad)
		w.closeLinks()
		return
	}
	w.node.core.SetBridges(true, abroad)
	w.say(true) // after the core knows: somebody may come
	w.node.links.keysChanged()
	w.dials.keep(ctx, toDial(self, abroad))
}

// say tells the pool whether this process is a bridge, where that is new.
func (w *wan) say(bridge bool) {
	if bridge == w.isBridge() {
		return
	}
	w.node.o.Logger.Info("gossip: bridge", "is", bridge)
	w.pool.tell(func(self *Member) { self.Bridge = bridge })
}

var errResigned = errors.New("this node is no bridge any more")

// closeLinks closes the links with other regions. None comes up after it, for the core refuses it.
func (w *wan) closeLinks() {
	for start, l := range w.node.links.all() {
		if l.peer.Region != w.node.o.Member.Region {
			w.node.links.close(start, errResigned)
		}
	}
}
