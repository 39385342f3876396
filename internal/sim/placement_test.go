package sim

import (
	"math/bits"

	"cartd/cart"
	"cartd/gossip"
)

// slots is a set of slots.
type slots = [gossip.Slots / 64]uint64

func has(s *slots, slot int) bool { return s[slot/64]>>(slot%64)&1 != 0 }

// gained returns how many slots are in now and not in before.
func gained(before, now *slots) (n int) {
	for i := range now {
		n += bits.OnesCount64(now[i] &^ before[i])
	}
	return n
}

// keep notes which slots the process is told to keep.
func (n *node) keep(own, held slots) {
	w := n.world
	if n.dead {
		return
	}
	var none slots
	more, fewer := gained(&n.own, &own), gained(&own, &n.own)
	pinned, released := gained(&n.held, &held), gained(&held, &n.held)
	w.trace("%s owns %d slots, %d more and %d fewer, and holds %d, %d more and %d fewer",
		n.name(), gained(&none, &own), more, fewer, gained(&none, &held), pinned, released)
	if n.placed {
		w.count["moved"] += more
	}
	w.count["held"] += pinned
	w.count["released"] += released
	n.own, n.held, n.placed = own, held, true
}

// owns reports whether the process is an owner of a cart, as far as it knows.
func (n *node) owns(id cart.ID) bool { return has(&n.own, gossip.SlotOf(id)) }

// keeps reports whether it is one, or holds the cart until the owners have it.
func (n *node) keeps(id cart.ID) bool { return n.owns(id) || has(&n.held, gossip.SlotOf(id)) }
