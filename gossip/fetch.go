package gossip

import (
	"context"
	"slices"
	"time"
)

// How long the answers to a fetch are waited for.
const (
	fetchWait       = 150 * time.Millisecond
	fetchWaitAbroad = 400 * time.Millisecond // where another region is asked, too
)

// fetch is a question to the peers, which not all have answered yet.
type fetch struct {
	request  uint64
	deadline time.Time
	waiting  []uint64 // start ids of the peers that have not answered
	payloads [][]byte
	lost     bool // a member cannot be asked, or went away without an answer
	answer   func(payloads [][]byte, complete bool)
}

// answers are fetches that are over, and whose answer is to be called without the mutex.
type answers []*fetch

func (a answers) call() {
	for _, f := range a {
		f.answer(f.payloads, len(f.waiting) == 0 && !f.lost)
	}
}

// Fetch asks all live peers for the durable state of a cart, as far as they have it in memory, and calls
// answer with what came: once, after Fetch has returned, from any goroutine, when all have answered, or
// after 150 ms. It is complete if every member has answered. Where this region is lacking something of the cart, or may
// be, who leads the cart's slot in each other region is asked, too, as far as it can be reached, for 400 ms.
func (c *Core) Fetch(id [16]byte, lacking bool, answer func(payloads [][]byte, complete bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	f := &fetch{request: c.requests, deadline: c.o.Now().Add(fetchWait), answer: answer}
	it := item{kind: kindFetch, id: id, n: f.request}
	encoded := it.encode()
	for _, p := range c.peers {
		switch {
		case p.up:
			f.waiting = append(f.waiting, p.start)
			c.offer(p, entry{encoded: encoded}, time.Time{})
		case p.member:
			f.lost = true
		}
	}
	for _, p := range c.askAbroad(SlotOf(id), lacking) {
		f.waiting = append(f.waiting, p.start)
		f.deadline = c.o.Now().Add(fetchWaitAbroad)
		c.ask(p, it)
	}
	if len(f.waiting) == 0 {
		c.o.Spawn(0, func(context.Context) { answers{f}.call() })
		return
	}
	c.fetches = append(c.fetches, f)
}

// recall answers a fetch. The mutex is not held.
func (c *Core) recall(p *peer, it *item) {
	reply := item{kind: kindFetched, id: it.id, n: it.n}
	if payload, known := c.o.Carts.Recall(it.id); known {
		reply.m, reply.body = 1, payload
	}
	encoded := reply.encode()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offer(p, entry{encoded: encoded}, time.Time{})
}

// fetched takes a peer's answer and appends the fetch if it is the last one. The mutex is held.
func (c *Core) fetched(p *peer, it *item, over answers) answers {
	for i, f := range c.fetches {
		if f.request != it.n || !f.strike(p.start) {
			continue
		}
		if it.m == 1 {
			f.payloads = append(f.payloads, it.body)
		}
		if len(f.waiting) == 0 {
			c.fetches = slices.Delete(c.fetches, i, i+1)
			over = append(over, f)
		}
		break
	}
	return over
}

// strike takes a peer off those that are waited for, if it is one.
func (f *fetch) strike(start uint64) bool {
	i := slices.Index(f.waiting, start)
	if i < 0 {
		return false
	}
	f.waiting = slices.Delete(f.waiting, i, i+1)
	return true
}

// unasked takes a peer that went away off all fetches and returns those that are over. The mutex is held.
func (c *Core) unasked(p *peer) (over answers) {
	c.fetches = slices.DeleteFunc(c.fetches, func(f *fetch) bool {
		if !f.strike(p.start) {
			return false
		}
		f.lost = f.lost || p.region == nil // a region serves without the others
		if len(f.waiting) > 0 {
			return false
		}
		over = append(over, f)
		return true
	})
	return over
}

// overdue returns the fetches whose time is over. The mutex is held.
func (c *Core) overdue(now time.Time) answers {
	var over answers
	c.fetches = slices.DeleteFunc(c.fetches, func(f *fetch) bool {
		if now.Before(f.deadline) {
			return false
		}
		over = append(over, f)
		return true
	})
	return over
}
