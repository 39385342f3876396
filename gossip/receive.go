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
	for _, slot := range p.reading.slots {
		c.holdSlot(slot)
	}
	for _, id := range p.reading.states {
		c.came(p, id)
	}
	for _, slot := range p.reading.spurned {
		p.spurn(slot)
	}
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
	c.takeDraining(p, h)
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

// takeDraining notes whether the peer is about to leave.
func (c *Core) takeDraining(p *peer, h *header) {
	if p.draining == h.draining {
		return
	}
	p.draining = h.draining
	if p.abroad {
		return
	}
	c.replace()
	if p.draining {
		c.lost(p)
	}
}

// takeAck takes what an acknowledgement says of the items that were sent.
func (c *Core) takeAck(p *peer, h *header) {
	if h.ack <= p.out.acked() {
		return
	}
	p.reading.held, p.reading.refused = p.out.ack(h, p.reading.held, p.reading.refused[:0])
	if !p.stays() {
		p.reading.held = p.reading.held[:0] // what it holds, it takes with it
	}
	for _, r := range p.reading.refused {
		p.counters.RefusedByPeer++
		if p.abroad {
			c.loseOn(p)
			continue
		}
		switch {
		case r.kind == kindDelta && r.lacks:
			c.owe(p, r.id)
		case r.kind != kindState: // which is left to a later session
			c.needSync(p, "it refused a change")
		}
		p.lacks(SlotOf(r.id))
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
	p.reading.slots, p.reading.states, p.reading.spurned = p.reading.slots[:0], p.reading.states[:0], p.reading.spurned[:0]
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
		if !it.travels(p.abroad) {
			r.fail("an item of kind %d on a link", it.kind)
			break
		}
		switch it.kind {
		case kindRegion:
			c.takeRegion(p, &it)
		case kindCross:
			c.takeCross(p, &it)
		case kindDelta, kindState:
			if it.kind == kindState {
				p.reading.states = append(p.reading.states, it.id)
			}
			if held, lacks := c.o.Carts.Deliver(p.start, it.id, it.body); held {
				p.reading.slots = append(p.reading.slots, SlotOf(it.id))
			} else {
				p.refuse(index, lacks)
				if !lacks || it.kind == kindState {
					p.reading.spurned = append(p.reading.spurned, SlotOf(it.id))
				}
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
