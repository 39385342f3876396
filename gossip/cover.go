package gossip

import "context"

// What this file has is for a database that cannot be read. A node that does not know what is stored of a slot can
// neither compare the slot with others, nor load what they have in another version. It is bare of the slot. Whoever
// has something of it then gives it what the database lacks, and that is all: the rest it will read itself. With
// that the peer is covered, until something for it is dropped.
//
// A node says which slots it is bare of when it opens a session, be it about nothing else, and when it answers. Who
// opens a session gives: so whoever hears of a bare peer opens one, unless the peer is covered.

// cover is the part of a peer that this is about.
type cover struct {
	bare    slotSet // slots that it owns and is bare of, as it said last
	covered slotSet // of these and of those that this node is bare of: it has what the database lacks and this node has
	covers  slotSet // slots of which this node has what the database lacks and the peer has, for it refused nothing
	taking  slotSet // what the session that is being served adds to covers
}

// uncovered returns the slots of which a peer wants what the database lacks. The mutex is held.
func (c *Core) uncovered(p *peer) slotSet {
	if p.bare.empty() || p.leaves() || p.region != nil { // another region has another database
		return slotSet{}
	}
	here := c.placement.own.or(&c.held.slots)
	here = here.and(&p.bare)
	return here.without(&p.covered)
}

// hearBare notes of which of the asked slots a peer is bare.
func (p *peer) hearBare(asked, bare *slotSet) {
	others := p.bare.without(asked)
	p.bare = others.or(bare)
}

// spurn notes that this node did not take something of a slot that the peer sent.
func (p *peer) spurn(slot int) {
	var one slotSet
	one.add(slot)
	p.covers, p.taking = p.covers.without(&one), p.taking.without(&one)
	if p.own != nil {
		p.own.took = p.own.took.without(&one)
	}
}

// Uncovered returns how many of the other nodes may hold what neither the database has nor this node: those with a
// link that do not leave, and active members without one.
func (c *Core) Uncovered() (linked, away int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		left := p.both.without(&p.covers)
		switch {
		case p.leaves():
		case p.up && p.needsSync && !left.empty():
			linked++
		case !p.up && p.member && p.who.State == Active:
			away++
		}
	}
	return linked, away
}

// takeBare finds out in which slots of a session the peer gets only what the database lacks: it is bare of those that
// it takes without a comparison, or this node is. So it is with all that is held for it, once a cart could not be
// loaded. The mutex is held.
func (c *Core) takeBare(p *peer, s *session, compared, taken *slotSet) {
	about := s.both.or(&s.give)
	asked, bare, takes := about.without(&s.bare), taken.without(&s.bare), compared.or(taken)
	bare = bare.and(&asked)
	p.hearBare(&asked, &bare)
	s.unsaved = about.and(taken)
	s.cover = s.unsaved
	s.gives = s.gives.and(&takes)
	s.both = s.both.and(compared)
	s.took = s.both
	known := p.covered.without(&s.give)
	for slot := range s.unsaved.all() {
		if !known.has(slot) {
			s.todo.push(firstOf(slot))
		}
	}
	if p.unloadable {
		s.unsaved = s.unsaved.or(&s.gives)
	}
}

// mode tells how the carts of a slot are listed.
func (s *session) mode(slot int) (flags uint64) {
	if s.give.has(slot) {
		flags = listingGiven
	}
	if s.unsaved.has(slot) {
		flags = listingGiven | listingUnsaved
	}
	return flags
}

// versionsFor returns the first carts of a slot, from an id on, that a session lists: limit of them at most.
func (c *Core) versionsFor(s *session, from [16]byte, limit int) []Version {
	if s.mode(SlotOf(from))&listingUnsaved != 0 {
		return c.unsaved(from, limit)
	}
	return c.versions(from, limit)
}

// unsaved returns the first carts of a slot, from an id on, of which the database lacks something: limit of them at
// most.
func (c *Core) unsaved(from [16]byte, limit int) (versions []Version) {
	c.o.Carts.EachUnsaved(from, func(id [16]byte, version uint64) bool {
		versions = append(versions, Version{id, version})
		return len(versions) < limit
	})
	return versions
}

// payloads returns what a peer that is owed a cart gets of it: all, as one payload and with what to call when the peer
// holds it; or what the database lacks, and held is nil.
func (c *Core) payloads(ctx context.Context, p *peer, id [16]byte, unsaved bool) (payloads [][]byte, held func(uint64), err error) {
	if unsaved {
		payloads, err = c.o.Carts.Unsaved(ctx, id)
		return payloads, nil, err
	}
	payload, held, err := c.stateFor(ctx, p, id)
	if payload != nil {
		payloads = [][]byte{payload}
	}
	return payloads, held, err
}
