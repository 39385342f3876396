package gossip

import (
	"context"
	"time"
)

// keepAfter is how long Carts are not told of slots that came or went, since more may do so.
const keepAfter = 200 * time.Millisecond

// meetFor is how long they are told of none while this node has met nobody: alone it would own all.
const meetFor = 2 * time.Second

// held are the slots that this node does not own and keeps all the same, since it may have something of them that
// not all of their owners have.
type held struct {
	slots slotSet

	tellAt   time.Time // when Carts are to be told of what changed; zero if nothing did
	telling  bool      // a job is about to
	told     bool      // they were
	toldOwn  slotSet
	toldHeld slotSet

	gained, lost uint64 // slots that this node came to own, or ceased to, since Carts were told first
}

// move makes the given slots those that this node owns. The mutex is held.
func (c *Core) move(own slotSet) {
	now := c.o.Now()
	at := &c.placement
	lost, gained := at.own.without(&own), own.without(&at.own)
	if own != at.own {
		at.own = own
		if c.held.told {
			c.held.gained += uint64(gained.len())
			c.held.lost += uint64(lost.len())
		}
		c.held.slots = c.held.slots.without(&own)
		c.hold(lost)
		c.held.tellAt = now.Add(keepAfter)
	}
	for p := range c.partners {
		p.given = p.given.and(&p.owns)
		c.share(p, now)
	}
	c.release()
}

// share finds out which slots this node and a peer own both, or lead both, where the peer is a remote one. The mutex is
// held.
func (c *Core) share(p *peer, now time.Time) {
	both := c.placement.own.and(&p.owns)
	if p.region != nil {
		both = c.placement.lead.and(&p.leads)
	}
	more := both.without(&p.both)
	p.both = both
	switch {
	case both.empty():
		p.needsSync, p.compare = false, false
	case !more.empty() && p.met:
		c.needSync(p, "it and this node share more slots")
		p.compareSoon(c.o.Self.Start, now)
	}
}

// hold keeps slots until their owners have what this node has of them from now on. The mutex is held.
func (c *Core) hold(slots slotSet) {
	if slots.empty() {
		return
	}
	c.held.slots = c.held.slots.or(&slots)
	for _, p := range c.peers {
		p.given = p.given.without(&slots)
		if p.own != nil {
			p.own.gives = p.own.gives.without(&slots)
		}
	}
}

// holdSlot keeps a slot, unless this node owns it, since there is something new in it, or about to be. The
// mutex is held.
func (c *Core) holdSlot(slot int) {
	if c.placement.own.has(slot) {
		return
	}
	was := c.held.slots.has(slot)
	var one slotSet
	one.add(slot)
	c.hold(one)
	if !was {
		c.tell()
	}
}

// gives returns the slots of which a peer is to get what this node has. The mutex is held.
func (c *Core) gives(p *peer) slotSet {
	if c.held.slots.empty() { // as nearly always
		return slotSet{}
	}
	left := c.held.slots.and(&p.owns)
	return left.without(&p.given)
}

// release lets go the held slots that are safe with their owners. A node that drains lets go none: what is safe
// now has to be so when it is gone. The mutex is held.
func (c *Core) release() {
	if c.draining {
		return
	}
	var safe slotSet
	for slot := range c.held.slots.all() {
		if c.safe(slot) {
			safe.add(slot)
		}
	}
	if safe.empty() {
		return
	}
	c.held.slots = c.held.slots.without(&safe)
	if c.held.tellAt.IsZero() {
		c.tell()
	}
}

// lacks notes that the peer did not take something of a slot: it was not given. The mutex is held.
func (p *peer) lacks(slot int) {
	var one slotSet
	one.add(slot)
	p.given, p.covered = p.given.without(&one), p.covered.without(&one)
	if p.own != nil {
		p.own.gives, p.own.cover = p.own.gives.without(&one), p.own.cover.without(&one)
	}
}

// safe reports whether all owners of a held slot, and enough that are live, have what this node has of it.
func (c *Core) safe(slot int) bool {
	at := &c.placement
	live := 0
	for _, i := range at.of(slot) {
		p := at.sites[i].peer
		if !p.given.has(slot) {
			return false
		}
		if p.stays() {
			live++
		}
	}
	return live > c.o.Tolerate
}

// allSafe reports whether that is so of all held slots. The mutex is held.
func (c *Core) allSafe() bool {
	for slot := range c.held.slots.all() {
		if !c.safe(slot) {
			return false
		}
	}
	return true
}

// tell tells Carts what to keep: what that is when the job runs. The mutex is held.
func (c *Core) tell() {
	h := &c.held
	h.tellAt = time.Time{}
	if h.telling {
		return
	}
	h.telling = true
	c.o.Spawn(0, func(context.Context) {
		c.mu.Lock()
		own, held := c.placement.own, h.slots
		news := !h.told || own != h.toldOwn || held != h.toldHeld
		h.telling, h.told, h.toldOwn, h.toldHeld = false, true, own, held
		c.mu.Unlock()
		if news {
			c.o.Carts.Keep(own, held)
		}
	})
}
