package gossip

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// errDown is the answer to a frame for which there is no link.
var errDown = errors.New("gossip: the link is down")

// maxTodo is how many bytes of a peer's questions wait for their job.
const maxTodo = 8 << 20

// Replicate sends a change of a cart on its way to all peers: at once to those that own the cart, soon
// to the others. It calls held, if not nil, with the start id of each peer that has told that it holds
// the change: once each, after Replicate has returned, from any goroutine. For a peer that does not
// get the change from here it is not called.
func (c *Core) Replicate(id [16]byte, delta []byte, held func(holder uint64)) {
	it := item{kind: kindDelta, id: id, body: delta}
	encoded := it.encode()
	slot := SlotOf(id)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place(slot)
	var soon time.Time
	for _, p := range c.peers {
		if p.owns.has(slot) || !p.up {
			c.offer(p, entry{encoded, held}, time.Time{})
			continue
		}
		if soon.IsZero() {
			soon = c.o.Now().Add(gather)
		}
		c.offer(p, entry{encoded, held}, soon)
	}
}

// Mark sends a mark of a cart to all peers with what goes there next, soon at the latest. A mark that
// was not sent yet is replaced by a later one of its cart.
func (c *Core) Mark(id [16]byte, mark []byte) {
	it := item{kind: kindMark, id: id, body: mark}
	encoded := it.encode()
	c.mu.Lock()
	defer c.mu.Unlock()
	soon := c.o.Now().Add(gather)
	for _, p := range c.peers {
		if len(encoded) > maxPiece {
			c.offer(p, entry{encoded: encoded}, soon)
		} else if c.makeRoom(p, len(encoded)) && p.out.mark(id, encoded, soon) {
			c.wake(p)
		}
	}
}

// offer puts an encoded item into the outbox of a peer, if there is room. The mutex is held.
func (c *Core) offer(p *peer, e entry, due time.Time) {
	if c.makeRoom(p, len(e.encoded)) {
		c.send(p, e, due)
	}
}

// send puts an encoded item into the outbox of a peer, in parts where it is long. The mutex is held.
func (c *Core) send(p *peer, e entry, due time.Time) {
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
	c.abandon(p)
	c.needSync(p, "the outbox is full")
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

	h := header{acked: p.out.acked(), echo: p.echo}
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
		b = p.out.fill(b, now)
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

// Receive takes a frame that a peer sent. It may be called for one frame of a peer at a time. After an
// error the link is to be closed. The frame is not kept.
func (c *Core) Receive(start uint64, frame []byte) error {
	c.mu.Lock()
	p := c.linked(start)
	if p == nil {
		c.mu.Unlock()
		return errDown
	}
	r := reader{b: frame}
	link := p.link
	fresh, err := c.takeHeader(p, &r, len(frame))
	c.mu.Unlock()

	for _, held := range p.reading.held {
		held(start)
	}
	clear(p.reading.held)
	if err != nil || !fresh {
		return err
	}
	todo, err := c.takeItems(p, &r)

	c.mu.Lock()
	if p.link != link {
		c.mu.Unlock()
		return errDown
	}
	if err != nil {
		p.counters.Malformed++
		p.lastErr = err.Error()
		c.mu.Unlock()
		return err
	}
	p.in.take(p.reading.header.seq, p.reading.refusals)
	p.counters.Refused += uint64(len(p.reading.refusals))
	over := c.todo(p, todo)
	c.o.Wake(p.start)
	c.mu.Unlock()
	over.call()
	return nil
}

// takeHeader takes all of a frame but its items. What is to be called lies in p.reading then. It
// reports whether the frame has items that did not come before. The mutex is held.
func (c *Core) takeHeader(p *peer, r *reader, size int) (fresh bool, err error) {
	h := &p.reading.header
	p.reading.held = p.reading.held[:0]
	r.header(h)
	if r.err == nil && h.ack > p.out.seq {
		r.fail("frame %d is acknowledged, after %d were sent", h.ack, p.out.seq)
	}
	if r.err != nil {
		p.counters.Malformed++
		p.lastErr = r.err.Error()
		return false, r.err
	}
	now := c.o.Now()
	p.heard = now
	p.counters.FramesReceived++
	p.counters.BytesReceived += uint64(size)
	p.in.confirm(h.acked)
	c.takeClock(p, h, now)
	c.takeAck(p, h)
	if p.in.owes || p.echo != 0 {
		c.o.Wake(p.start)
	}

	switch {
	case h.seq == 0:
		return false, nil
	case h.seq <= p.in.received:
		p.counters.Duplicates++
		p.in.owes = true
		c.o.Wake(p.start)
		return false, nil
	case h.seq > p.in.received+1:
		p.counters.Gaps++
		return false, nil
	}
	p.exchanged = now
	return true, nil
}

func (c *Core) takeClock(p *peer, h *header, now time.Time) {
	if h.echo != 0 {
		p.unechoed = time.Time{}
		if h.echo == p.clock {
			p.roundTrip = now.Sub(p.clockAt)
		}
	}
	if h.clock != 0 {
		p.echo = h.clock
		p.offset = time.UnixMilli(int64(h.clock)).Add(p.roundTrip / 2).Sub(now)
		p.told = true
	}
}

// takeAck takes what an acknowledgement says of the items that were sent.
func (c *Core) takeAck(p *peer, h *header) {
	if h.ack <= p.out.acked() {
		return
	}
	p.reading.held, p.reading.refused = p.out.ack(h, p.reading.held, p.reading.refused[:0])
	for _, r := range p.reading.refused {
		p.counters.RefusedByPeer++
		switch {
		case r.kind == kindDelta && r.lacks:
			c.owe(p, r.id)
		case r.kind != kindState:
			c.needSync(p, "it refused a change")
		}
	}
	c.sendOwed(p)
	if p.out.waiting() > 0 {
		c.o.Wake(p.start)
	}
}

// takeItems hands the items of a frame on to Carts. What of it was refused lies in p.reading then. It
// returns the items that are left to do.
func (c *Core) takeItems(p *peer, r *reader) (todo []item, err error) {
	p.reading.refusals = p.reading.refusals[:0]
	var it item
	for index := 0; len(r.b) > 0; index++ {
		if index == maxItems {
			r.fail("more than %d items", maxItems)
			break
		}
		r.item(&it)
		if r.err != nil {
			break
		}
		if it.kind == kindPart {
			encoded, last, whole := p.reading.assembly.add(&it)
			if last && !whole {
				p.refuse(index, true)
			}
			if encoded == nil {
				continue
			}
			inner := reader{b: encoded}
			inner.item(&it)
			inner.end()
			if it.kind == kindPart {
				inner.fail("a part of parts")
			}
			if inner.err != nil {
				r.err = inner.err
				break
			}
		}
		switch it.kind {
		case kindDelta, kindState:
			if held, lacks := c.o.Carts.Deliver(p.start, it.id, it.body); !held {
				p.refuse(index, lacks)
			}
		case kindMark:
			c.o.Carts.Mark(p.start, it.id, it.body)
		case kindFetch:
			c.recall(p, &it)
		default:
			it.body = bytes.Clone(it.body)
			todo = append(todo, it)
		}
	}
	return todo, r.err
}

// refuse notes that an item of the frame that is being read is not held.
func (p *peer) refuse(index int, lacks bool) {
	p.reading.refusals = append(p.reading.refusals, refusal{p.reading.header.seq, index, lacks})
}

// todo takes the answers to fetches among the items, and gives the others to a job. The mutex is held.
func (c *Core) todo(p *peer, items []item) (over answers) {
	size := 0
	rest := items[:0]
	for _, it := range items {
		if it.kind == kindFetched {
			over = c.fetched(p, &it, over)
			continue
		}
		rest = append(rest, it)
		size += itemOverhead + len(it.body)
	}
	if len(rest) == 0 {
		return over
	}
	if p.queued+size > maxTodo {
		p.counters.Overflows++
		p.counters.Dropped += uint64(len(rest))
		c.abandon(p)
		return over
	}
	p.queued += size
	link := p.link
	c.o.Spawn(p.start, func(ctx context.Context) {
		for i := range rest {
			if c.on(p, link) {
				c.takeRepair(ctx, p, &rest[i])
			}
		}
		c.mu.Lock()
		p.queued -= size
		c.mu.Unlock()
	})
	return over
}

// on reports whether a link is the present one of a peer.
func (c *Core) on(p *peer, link uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.link == link
}
