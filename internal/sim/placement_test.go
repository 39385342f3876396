package sim

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

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
	if own != n.own {
		w.told++
	}
	n.own, n.held, n.placed = own, held, true
}

// owners returns the processes of a region that own a cart, as far as they know.
func (r *region) owners(id cart.ID) []*node {
	return slices.DeleteFunc(r.live(), func(n *node) bool { return !n.owns(id) })
}

// owns reports whether the process is an owner of a cart, as far as it knows.
func (n *node) owns(id cart.ID) bool { return has(&n.own, gossip.SlotOf(id)) }

// misplaced tells where the nodes have different views of who owns what, or other ones than they should, or "".
func (c *checker) misplaced() (why string) {
	for _, r := range c.world.regions {
		why = cmp.Or(why, r.misplaced())
	}
	return why
}

func (r *region) misplaced() string {
	live := r.live()
	if len(live) == 0 {
		return ""
	}
	owners, places := min(live[0].world.plan.replicas, len(live)), 0
	for _, n := range live {
		places += gained(&slots{}, &n.own)
	}
	if places != owners*gossip.Slots {
		return fmt.Sprintf("%d slots have %d owners in all", gossip.Slots, places)
	}
	spread := 0
	if live[0].machine.zone != "" {
		spread = min(owners, zonesOf(live))
	}
	for slot := range gossip.Slots {
		ranked := make([]*node, owners)
		for _, n := range live {
			rank := n.core.Rank(cart.ID{byte(slot >> 4), byte(slot << 4)})
			switch own := has(&n.own, slot); {
			case own != (rank < owners):
				return fmt.Sprintf("slot %d: %s is number %d of %d owners", slot, n.name(), rank, owners)
			case own && ranked[rank] != nil:
				return fmt.Sprintf("slot %d: %s and %s are both number %d", slot, ranked[rank].name(), n.name(), rank)
			case own:
				ranked[rank] = n
			}
		}
		if spread > 0 && zonesOf(ranked[:owners]) < spread {
			return fmt.Sprintf("slot %d: its owners are in fewer than %d zones", slot, spread)
		}
	}
	return ""
}

// zonesOf returns in how many zones some nodes are.
func zonesOf(nodes []*node) (zones int) {
	for i, n := range nodes {
		if !slices.ContainsFunc(nodes[:i], func(p *node) bool { return p.machine.zone == n.machine.zone }) {
			zones++
		}
	}
	return zones
}

// leftOver tells what a node keeps of carts that it does not own, or "".
func (c *checker) leftOver() string {
	for _, n := range c.world.live() {
		if held := gained(&slots{}, &n.held); held > 0 {
			return fmt.Sprintf("%s holds %d slots that it does not own", n.name(), held)
		}
		for _, s := range c.subjects {
			if memory := n.memory(s.id); !n.owns(s.id) && (memory.resident || len(memory.fragments) > 0) {
				return fmt.Sprintf("%s keeps %s, which it does not own", n.name(), s.label)
			}
		}
		for slot, digest := range n.service.Digests() {
			if digest != 0 && !has(&n.own, slot) {
				return fmt.Sprintf("%s has carts of slot %d in its index, which it does not own", n.name(), slot)
			}
		}
	}
	return ""
}

// strays tells which node does not find the first owner of a cart, or "".
func (c *checker) strays() (why string) {
	for _, s := range c.subjects {
		for _, n := range c.world.live() {
			n.core.Forward(s.id, false, func(owner gossip.Member) bool {
				if p := c.world.processAt(owner.LinkAddr); p == nil || p.core.Rank(s.id) != 0 {
					why = fmt.Sprintf("%s takes %s for the first owner of %s", n.name(), owner.Name, s.label)
				}
				return true
			})
		}
	}
	return why
}
