package gossip

// maxTries is how many owners a request is passed on to, one after the other.
const maxTries = 3

// forwards counts what came of requests for carts that this node does not own.
type forwards struct {
	forwarded uint64 // an owner answered
	takenOver uint64 // none did, and this node answered
	unheeded  uint64 // an owner was asked and did not answer
}

// Forward finds out who is to answer a request for a cart. Where that is this node, as it is for a request that
// another node has passed on, here is true. Otherwise Forward calls try with one live owner after the other, the
// best first and three at most, until one has answered. Where none has, this node answers for them, and keeps
// what it has of the cart until they have it.
func (c *Core) Forward(id [16]byte, forwarded bool, try func(owner Member) (answered bool)) (here bool) {
	owners, own := c.liveOwners(SlotOf(id))
	if own || forwarded {
		return true
	}
	unheeded := 0
	for _, owner := range owners[:min(len(owners), maxTries)] {
		if try(owner) {
			c.noteForward(SlotOf(id), true, unheeded)
			return false
		}
		unheeded++
	}
	c.noteForward(SlotOf(id), false, unheeded)
	return true
}

// liveOwners returns the peers that stay and own a slot, the best first, and whether this node does.
func (c *Core) liveOwners(slot int) (owners []Member, own bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := &c.placement
	if at.own.has(slot) {
		return nil, true
	}
	for _, i := range at.of(slot) {
		if p := at.sites[i].peer; p.stays() {
			owners = append(owners, p.who)
		}
	}
	return owners, false
}

// noteForward counts what came of passing on a request, and pins the slot where this node answers it instead.
func (c *Core) noteForward(slot int, answered bool, unheeded int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forwards.unheeded += uint64(unheeded)
	if answered {
		c.forwards.forwarded++
		return
	}
	c.forwards.takenOver++
	c.holdSlot(slot)
}
