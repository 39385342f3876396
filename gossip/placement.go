package gossip

import "slices"

// candidate is a node that may own carts.
type candidate struct {
	start uint64
	zone  string
	score uint64 // for the slot that is being ranked
}

// rank orders the nodes by how much they are to own a slot, by rendezvous hashing: a node that comes or
// goes moves only those slots that it wins or loses. The best of each zone go before all others, so
// that the first few are in as many zones as there are; a node without a zone is in one of its own.
// Every node of a region finds the same order. See Thaler and Ravishankar, A Name-Based Mapping Scheme
// for Rendezvous, 1996. The scratch is returned, grown, for the next call.
func rank(slot int, nodes, scratch []candidate) []candidate {
	for i := range nodes {
		nodes[i].score = mix(nodes[i].start ^ mix(uint64(slot)))
	}
	slices.SortFunc(nodes, func(a, b candidate) int {
		if a.score > b.score || a.score == b.score && a.start < b.start {
			return -1
		}
		return 1
	})
	scratch = scratch[:0]
	n := 0
	for i, node := range nodes {
		if node.zone != "" && slices.ContainsFunc(nodes[:n], func(c candidate) bool { return c.zone == node.zone }) {
			scratch = append(scratch, nodes[i])
			continue
		}
		nodes[n] = node
		n++
	}
	copy(nodes[n:], scratch)
	return scratch
}

// mix is the finaliser of splitmix64, by Steele, Lea and Flood: a bijection in which every bit of the
// argument changes about half of the bits of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// slotSet is a set of slots.
type slotSet [Slots / 64]uint64

var allSlots = func() (all [Slots / 64]uint64) {
	for i := range all {
		all[i] = 1<<64 - 1
	}
	return all
}()

func (s *slotSet) has(slot int) bool { return s[slot/64]>>(slot%64)&1 != 0 }
func (s *slotSet) add(slot int)      { s[slot/64] |= 1 << (slot % 64) }

// placement is where this node and the peers that stay stand in the ranking of each slot. A slot is ranked
// when it is first asked for after nodes came or went.
type placement struct {
	nodes   []candidate // this node and the peers that stay, in any order
	scratch []candidate
	ranked  slotSet
	self    [Slots]uint16 // the place of this node, for the ranked slots
}

// place ranks a slot unless it is ranked. The mutex is held.
func (c *Core) place(slot int) {
	at := &c.placement
	if at.ranked.has(slot) {
		return
	}
	at.ranked.add(slot)
	at.scratch = rank(slot, at.nodes, at.scratch)
	for i, node := range at.nodes {
		if node.start == c.o.Self.Start {
			at.self[slot] = uint16(i)
		} else if i < c.o.Replicas {
			c.peer(node.start).owns.add(slot)
		}
	}
}

// replace forgets the ranking, since a node came or went. The mutex is held.
func (c *Core) replace() {
	at := &c.placement
	at.ranked = slotSet{}
	at.nodes = append(at.nodes[:0], candidate{start: c.o.Self.Start, zone: c.o.Self.Zone})
	for _, p := range c.peers {
		p.owns = slotSet{}
		if p.stays() {
			at.nodes = append(at.nodes, candidate{start: p.start, zone: p.who.Zone})
		}
	}
}

// Home returns a slot that this node is the first to own, drawn at random, or -1 where there is none.
func (c *Core) Home() int { return -1 }

// Forward finds out who is to answer a request for a cart. Where that is this node, as it is for a request that
// another node has passed on, here is true. Otherwise Forward calls try with one owner after the other, the best
// first, until one has answered. Where none has, this node answers for them, and keeps what it has of the cart until
// they have it.
func (c *Core) Forward(_ [16]byte, _ bool, _ func(owner Member) (answered bool)) (here bool) {
	return true
}

// Rank returns the place of this node among itself and the peers that stay in the order in which they are to
// own a cart: 0 for the first.
func (c *Core) Rank(id [16]byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	slot := SlotOf(id)
	c.place(slot)
	return int(c.placement.self[slot])
}
