package gossip

import (
	"slices"
	"time"
)

// Crossings count what goes between this node and another region.
type Crossings struct {
	Sent     uint64 `json:"sent"`     // items of this node's own that went on the way
	Received uint64 `json:"received"` // items for this node
	Relayed  uint64 `json:"relayed"`  // items of and for others of its region, of a bridge
	Dropped  uint64 `json:"dropped"`  // items for which there was no way, or nobody to take them
	Refused  uint64 `json:"refused"`  // items that are not what they have to be
	BytesOut uint64 `json:"bytes_out"`
	BytesIn  uint64 `json:"bytes_in"`

	LastDropped time.Time `json:"last_dropped,omitzero"`
}

// dropCrossing counts an item that is dropped. The mutex is held.
func (c *Core) dropCrossing(r *region) {
	r.crossings.Dropped++
	r.crossings.LastDropped = c.o.Now()
}

// Cross sends a change of a cart to its owners in the other regions: one that is durable here, or one that this region
// cannot hold. It calls held, if not nil, with the start id of each process there that has told within 5 s that it
// holds the change: once each, after Cross has returned, from any goroutine. What goes on the way to a region that
// cannot be reached, repair finds.
func (c *Core) Cross(id [16]byte, delta []byte, durable bool, held func(holder uint64)) {
	x := crossing{durable: durable, item: item{kind: kindDelta, id: id, body: delta}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if held != nil {
		x.ticket = c.addTicket(&ticket{held: held})
	}
	for _, r := range c.regions {
		if r.reachable() {
			c.sendAbroad(r, &x)
		}
	}
}

// sendAbroad sends a crossing of this process to a region. The mutex is held.
func (c *Core) sendAbroad(r *region, x *crossing) {
	x.to, x.from, x.origin = r.hash, regionHash(c.o.Self.Region), c.o.Self.Start
	if !r.reachable() {
		c.dropCrossing(r)
		return
	}
	encoded := x.encode()
	r.crossings.Sent++
	r.crossings.BytesOut += uint64(len(encoded))
	c.offer(r.via, entry{encoded: encoded}, time.Time{})
}

// sendRemote sends an item to a process of another region. The mutex is held.
func (c *Core) sendRemote(p *peer, it item, ticket uint64) {
	if p.up {
		c.sendAbroad(p.region, &crossing{process: p.start, ticket: ticket, durable: true, item: it})
	}
}

// takeCross takes a crossing that a peer sent: for this node, or to be passed on. The mutex is not held.
func (c *Core) takeCross(p *peer, it *item) {
	x, _ := decodeCrossing(it) // it is valid
	c.mu.Lock()
	r, here := c.route(p, &x, it)
	if !here {
		c.mu.Unlock()
		return
	}
	r.crossings.Received++
	if x.toAll() {
		c.mu.Unlock()
		c.arrive(p, r, &x)
		return
	}
	from := c.remote(r, x.origin)
	if from == nil || !from.up {
		c.dropCrossing(r)
		c.mu.Unlock()
		return
	}
	if x.item.kind == kindHolds {
		held := c.takeHolds(from, &x.item)
		c.mu.Unlock()
		if held != nil {
			held(x.origin)
		}
		return
	}
	x.item.body = slices.Clone(x.item.body)
	over := c.todo(from, []item{x.item})
	c.mu.Unlock()
	over.call()
}

// route finds out whether a crossing is for this node, and from which region, and passes it on to others that it is
// for. It goes from a process to a bridge of its region, from there to one of the other region, and from that to
// whom it is for: nowhere else, so that nothing goes round. The mutex is held.
func (c *Core) route(p *peer, x *crossing, it *item) (from *region, here bool) {
	own := regionHash(c.o.Self.Region)
	if x.to != own {
		c.routeOut(p, x, it)
		return nil, false
	}
	r := c.region(x.from)
	switch {
	case r == nil:
		c.refusedCrossings++
		return nil, false
	case p.abroad && regionHash(p.who.Region) != x.from, !p.abroad && x.process != 0 && x.process != c.o.Self.Start:
		r.crossings.Refused++
		return nil, false
	}
	encoded := len(it.body)
	r.crossings.BytesIn += uint64(encoded)
	if !p.abroad || x.process == c.o.Self.Start {
		return r, true
	}
	c.tellRegions(c.o.Now()) // if there is news: who does not know yet that it can be reached takes nothing from a region
	if x.process == 0 {
		return r, c.toOwners(r, SlotOf(x.item.id), entry{encoded: it.encode()})
	}
	if to := c.peer(x.process); to != nil && to.up {
		r.crossings.Relayed++
		c.offer(to, entry{encoded: it.encode()}, time.Time{})
	} else {
		c.dropCrossing(r)
	}
	return r, false
}

// routeOut passes on a crossing of a peer of this region to another one. The mutex is held.
func (c *Core) routeOut(p *peer, x *crossing, it *item) {
	r := c.region(x.to)
	switch {
	case r == nil:
		c.refusedCrossings++
	case p.abroad, x.from != regionHash(c.o.Self.Region), x.origin != p.start:
		r.crossings.Refused++
	case r.link() == nil:
		c.dropCrossing(r)
	default:
		encoded := it.encode()
		r.crossings.Relayed++
		r.crossings.BytesOut += uint64(len(encoded))
		c.offer(r.link(), entry{encoded: encoded}, time.Time{})
	}
}

// toOwners sends what came from a region to the live owners of a slot, and reports whether this node is one. The
// mutex is held.
func (c *Core) toOwners(r *region, slot int, e entry) (own bool) {
	at := &c.placement
	live := 0
	for _, i := range at.of(slot) {
		p := at.sites[i].peer
		switch {
		case p == nil:
			own = true
		case p.stays():
			r.crossings.Relayed++
			c.offer(p, e, time.Time{})
		default:
			continue
		}
		live++
	}
	if live == 0 {
		c.dropCrossing(r)
	}
	return own
}

// arrive hands on to Carts what came from another region, and answers. A state, which was for this process alone, goes
// to the other owners. The mutex is not held.
func (c *Core) arrive(p *peer, r *region, x *crossing) {
	held, lacks := c.o.Carts.Arrive(r.name, x.durable, x.item.id, x.item.body)
	slot := SlotOf(x.item.id)
	if held {
		p.reading.slots = append(p.reading.slots, slot)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if from := c.remote(r, x.origin); from != nil && x.item.kind == kindState {
		c.came(from, x.item.id)
	}
	if held && x.process != 0 {
		on := *x
		on.process, on.ticket = 0, 0
		c.toOwners(r, slot, entry{encoded: on.encode()})
	}
	if x.ticket != 0 {
		reply := item{kind: kindHolds, n: x.ticket, m: flag(held && !c.draining)}
		c.sendAbroad(r, &crossing{process: x.origin, durable: true, item: reply})
	}
	if lacks {
		reply := item{kind: kindWant, id: x.item.id}
		c.sendAbroad(r, &crossing{process: x.origin, durable: true, item: reply})
	}
}
