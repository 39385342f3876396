package gossip

import (
	"slices"
	"time"
)

const (
	ticketLasts = 5 * time.Second
	maxTickets  = 1 << 16 // the oldest are void beyond that
	maxHolders  = maxRegions * maxReplicas
)

// ticket is what a crossing is sent with of which is to be told that it is held.
type ticket struct {
	expires time.Time

	held    func(holder uint64) // of a change
	holders []uint64            // that it was called for

	peer *peer // who gets a state; nil of a change
	link uint64
	size int // bytes
}

// tickets are those that have not expired, oldest first, without gaps in their numbers.
type tickets struct {
	queue fifo[*ticket]
	last  uint64 // number ever given
}

// addTicket returns the number of a new ticket. The mutex is held.
func (c *Core) addTicket(k *ticket) (number uint64) {
	t := &c.tickets
	if t.queue.len() == maxTickets {
		c.expire(t.queue.pop())
	}
	k.expires = c.o.Now().Add(ticketLasts)
	t.queue.push(k)
	t.last++
	return t.last
}

// find returns a ticket that has not expired, or nil.
func (t *tickets) find(number uint64) *ticket {
	first := t.last - uint64(t.queue.len()) + 1
	if number < first || number > t.last {
		return nil
	}
	return *t.queue.at(int(number - first))
}

// takeHolds takes what a process of another region says of a ticket. It returns what is to be called with its start id,
// or nil. The mutex is held.
func (c *Core) takeHolds(p *peer, it *item) (held func(holder uint64)) {
	k := c.tickets.find(it.n)
	if k == nil {
		return nil
	}
	if k.peer != nil {
		if k.peer == p {
			c.arrived(k)
			if it.m == 0 {
				c.needSync(p, "it did not take a cart")
			}
		}
		return nil
	}
	if it.m == 0 || k.held == nil || slices.Contains(k.holders, p.start) || len(k.holders) == maxHolders {
		return nil
	}
	k.holders = append(k.holders, p.start)
	return k.held
}

// arrived notes that a state came to whom it was sent. The mutex is held.
func (c *Core) arrived(k *ticket) {
	p := k.peer
	k.peer, k.held = nil, nil
	if p.link != k.link {
		return
	}
	p.unheld -= k.size
	if p.own != nil {
		p.own.word = c.o.Now()
	}
	c.sendOwed(p)
}

// expireTickets drops the tickets whose time is over. The mutex is held.
func (c *Core) expireTickets(now time.Time) {
	t := &c.tickets
	for t.queue.len() > 0 && !now.Before((*t.queue.at(0)).expires) {
		c.expire(t.queue.pop())
	}
}

// expire notes that a ticket is void. A state of which nothing was heard is lost. The mutex is held.
func (c *Core) expire(k *ticket) {
	if p := k.peer; p != nil && p.link == k.link {
		p.unheld -= k.size
		c.needSync(p, "nothing was heard of a state for it")
		c.sendOwed(p)
	}
}
