package gossip

import (
	"maps"
	"time"
)

// A node that comes to own a slot is compared with its other owners, and with who holds the slot, all at once: each of
// them has what this node lacks. So that a cart comes once, it is wanted from one of them, and the sessions with the
// others leave it out. These have not dealt with every difference then: they are repeated, and find most carts equal.
//
// Where the database cannot be read, what a peer sends is not the whole cart, and another one may have other parts of
// it: there a session that left out something leaves out nothing when it is repeated.
const (
	wantWait = 2 * time.Second  // without a whole cart of a peer, before another one is asked
	wantFor  = 10 * time.Second // from when all are asked again
	maxWants = 1 << 16          // beyond these, carts may come twice
)

// want is that of a whole cart, which has not come.
type want struct {
	from *peer // who was asked
	link uint64
	at   time.Time
}

// want asks a peer for a whole cart, unless another one is about to send it. The mutex is held.
func (c *Core) want(p *peer, id [16]byte) (asked bool) {
	now := c.o.Now()
	w, found := c.wants[id]
	again := found && w.from == p && w.link == p.link
	if found && w.from != p && w.pending(now) {
		return false
	}
	// Where the peer did not send it before, others are to have their turn.
	if !again && (found || len(c.wants) < maxWants) {
		c.wants[id] = want{p, p.link, now}
	}
	c.ask(p, item{kind: kindWant, id: id})
	return true
}

// pending reports whether the cart may still come.
func (w *want) pending(now time.Time) bool {
	last := w.at
	if w.from.stateAt.After(last) {
		last = w.from.stateAt
	}
	return w.from.up && w.from.link == w.link && now.Sub(last) < wantWait
}

// came notes that a peer sent a whole cart. The mutex is held.
func (c *Core) came(p *peer, id [16]byte) {
	p.stateAt = c.o.Now()
	delete(c.wants, id)
}

// compareAgain wants a session since the last one left out carts. The mutex is held.
func (p *peer) compareAgain() { p.compare = !p.both.empty() }

// forgetWants drops those that are old. The mutex is held.
func (c *Core) forgetWants(now time.Time) {
	maps.DeleteFunc(c.wants, func(_ [16]byte, w want) bool { return now.Sub(w.at) >= wantFor })
}
