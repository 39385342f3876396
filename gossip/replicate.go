package gossip

import "time"

// Replicate sends a change of a cart on its way to the peers that own it. Where so few of these are live that
// they are less than may fail at once, others get it in their place. It calls held, if not nil, with the start id of
// each peer that has told that it holds the change: once each, after Replicate has returned, from any goroutine. For
// a peer that does not get the change from here, or that is about to leave, it is not called.
func (c *Core) Replicate(id [16]byte, delta []byte, held func(holder uint64)) {
	it := item{kind: kindDelta, id: id, body: delta}
	encoded := it.encode()
	slot := SlotOf(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holdSlot(slot)
	c.toHolders(slot, func(p *peer) { c.offer(p, entry{encoded: encoded, held: held}, time.Time{}) })
}

// toHolders calls send with each peer that is to hold what is in a slot: its owners, live or not, and as many
// others as it takes to have enough that are live. The mutex is held.
func (c *Core) toHolders(slot int, send func(*peer)) {
	at := &c.placement
	live := 0
	for _, i := range at.of(slot) {
		p := at.sites[i].peer
		if p == nil {
			continue
		}
		send(p)
		if p.stays() {
			live++
		}
	}
	if live >= c.o.Tolerate {
		return
	}
	for _, s := range c.spares(slot) {
		if live == c.o.Tolerate {
			break
		}
		send(s.peer)
		live++
	}
}

// Mark sends a mark of a cart to the peers that Replicate sends a change to, with what goes there next, soon at
// the latest. A mark that was not sent yet is replaced by a later one of its cart.
func (c *Core) Mark(id [16]byte, mark []byte) {
	it := item{kind: kindMark, id: id, body: mark}
	encoded := it.encode()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	soon := now.Add(gather)
	c.toHolders(SlotOf(id), func(p *peer) {
		if len(encoded) > maxPiece {
			c.offer(p, entry{encoded: encoded}, soon)
		} else if c.makeRoom(p, len(encoded)) && p.out.mark(id, encoded, now, soon) {
			c.wake(p)
		}
	})
}

// offer puts an encoded item into the outbox of a peer, if there is room. The mutex is held.
func (c *Core) offer(p *peer, e entry, due time.Time) {
	if c.makeRoom(p, len(e.encoded)) {
		c.send(p, e, due)
	}
}

// send puts an encoded item into the outbox of a peer, in parts where it is long. The mutex is held.
func (c *Core) send(p *peer, e entry, due time.Time) {
	e.at = c.o.Now().UnixNano()
	switch {
	case len(e.encoded) > MaxPayload:
		p.counters.Dropped++
	case len(e.encoded) > maxPiece:
		p.out.pushParts(e, due)
		c.wake(p)
	case p.out.push(e, due):
		c.wake(p)
	}
}

// makeRoom reports whether there is room for an encoded item of so many bytes, after it has dropped
// what waits where there was none. What repair sends goes without: it bounds itself.
func (c *Core) makeRoom(p *peer, encoded int) bool {
	if p.out.room(encoded) {
		return true
	}
	p.counters.Overflows++
	p.counters.Dropped += uint64(p.out.dropWaiting())
	c.loseOn(p)
	if !p.abroad {
		c.abandon(p)
		c.needSync(p, "the outbox is full")
	}
	return p.out.room(encoded)
}

func (c *Core) wake(p *peer) {
	if p.up {
		c.o.Wake(p.start)
	}
}

// Next appends the next frame for a peer to b and returns both, or b as it was if there is nothing to
// send. Where again is not 0, it wants to be called after that time even if Wake is not.
func (c *Core) Next(start uint64, b []byte) (frame []byte, again time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.linked(start)
	if p == nil {
		return b, 0
	}
	now := c.o.Now()
	beat := !now.Before(p.beatAt)
	full, again := p.out.ready(now)
	if !full && !beat && !p.in.owes && p.echo == 0 {
		return b, again
	}
	full = p.out.open()

	h := header{acked: p.out.acked(), echo: p.echo, draining: c.draining}
	h.ack, h.refused = p.in.acknowledgement()
	if full {
		h.seq = p.out.seq + 1
		p.exchanged = now
	}
	if beat {
		h.clock = c.beat(p, now)
	}
	p.in.owes, p.echo = false, 0

	size := len(b)
	b = appendHeader(b, &h)
	if full {
		before := p.out.sent
		b = p.out.fill(b, now)
		p.counters.ItemsSent += uint64(p.out.sent - before)
	}
	p.counters.FramesSent++
	p.counters.BytesSent += uint64(len(b) - size)
	_, again = p.out.ready(now)
	return b, again
}

// beat returns the clock to be sent.
func (c *Core) beat(p *peer, now time.Time) uint64 {
	p.beatAt = now.Add(beatEvery)
	p.clock = uint64(max(1, now.UnixMilli()))
	p.clockAt = now
	if p.unechoed.IsZero() {
		p.unechoed = now
	}
	return p.clock
}
