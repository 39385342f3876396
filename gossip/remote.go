package gossip

import (
	"context"
	"slices"
	"time"
)

// remoteGiveUp is how long a session with a process of another region waits for a word of it: nothing tells that an
// item was lost on the way.
const remoteGiveUp = 3 * time.Second

// remote is the part of a peer that is a process of another region, which this node has no link with: what goes there
// crosses. Sessions of repair with it are about the slots that this node leads here, and it there: whose first live
// owners they are. What they bring goes to the other owners, too.
type remote struct {
	region   *region // nil of a peer with a link
	leads    slotSet // slots that it leads
	unheld   int     // bytes of the states that are on their way, of which it has not said that they came
	anywayAt time.Time
}

// settle finds out which processes a region has, and which of them lead which slots. The mutex is held.
func (c *Core) settle(r *region) {
	at := &r.placement
	at.sites = at.sites[:0]
	remotes := make([]*peer, 0, len(r.roster.sites))
	r.holders = 0
	for _, s := range r.roster.sites {
		var p *peer
		if s.start != 0 && s.start != c.o.Self.Start && c.peer(s.start) == nil {
			p = c.meetRemote(r, s.start)
			remotes = append(remotes, p)
		}
		if s.hash == 0 {
			continue
		}
		at.sites = append(at.sites, site{hash: s.hash, zone: s.zone, peer: p})
		if p != nil {
			r.holders++
		}
	}
	r.holders = min(r.holders, r.roster.replicas)
	at.choose(r.roster.replicas)
	slices.SortFunc(remotes, byStart)
	gone := r.remotes
	r.remotes = remotes
	for _, p := range gone {
		if c.remote(r, p.start) != p {
			c.part(p)
			c.forgotten.add(&p.counters)
			r.past.add(&p.counters)
		}
	}
	for _, p := range remotes {
		p.leads = slotSet{}
	}
	for slot := range Slots {
		if p := at.leader(slot); p != nil {
			p.leads.add(slot)
		}
	}
	now := c.o.Now()
	for _, p := range remotes {
		if up := r.reachable(); up != p.up {
			if p.up = up; up {
				p.compareSoon(c.o.Self.Start, now)
			} else {
				c.part(p)
			}
		}
		c.share(p, now)
	}
	c.countAbroad()
}

// leader returns the process at the first owner of a slot that has one, or nil.
func (at *placement) leader(slot int) *peer {
	for _, i := range at.of(slot) {
		if p := at.sites[i].peer; p != nil {
			return p
		}
	}
	return nil
}

// meetRemote returns a process of a region, which may be a new one. The mutex is held.
func (c *Core) meetRemote(r *region, start uint64) *peer {
	if p := c.remote(r, start); p != nil {
		return p
	}
	who := Member{Start: start, Region: r.name, Name: r.name + "/" + formatStart(start)}
	return &peer{start: start, who: who, met: true, remote: remote{region: r}}
}

// remote returns the process of a region that has a start id, or nil. The mutex is held.
func (*Core) remote(r *region, start uint64) *peer {
	if i, found := find(r.remotes, start); found {
		return r.remotes[i]
	}
	return nil
}

// part gives up what is going on with a process that cannot be reached any more. The mutex is held.
func (c *Core) part(p *peer) {
	p.up = false
	p.link++
	p.unheld = 0
	c.abandon(p)
	if over := c.unasked(p); len(over) > 0 {
		c.o.Spawn(0, func(context.Context) { over.call() })
	}
}

// countAbroad notes how many processes of other regions are there to hold a change. The mutex is held.
func (c *Core) countAbroad() {
	n := 0
	for _, r := range c.regions {
		if r.reachable() {
			n += r.holders
		}
	}
	c.holdersAbroad.Store(int64(n))
}

// Abroad returns how many processes of other regions are there to hold a change at present.
func (c *Core) Abroad() int { return int(c.holdersAbroad.Load()) }

// aliveAbroad reports whether a process of another region is there. The mutex is held.
func (c *Core) aliveAbroad(start uint64) bool {
	return slices.ContainsFunc(c.regions, func(r *region) bool {
		p := c.remote(r, start)
		return p != nil && p.up
	})
}

// SyncedAbroad reports whether this node has been compared, since it may have lost something, with all the processes
// of other regions that can be reached and that it is to be compared with.
func (c *Core) SyncedAbroad() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.regions {
		if slices.ContainsFunc(r.remotes, func(p *peer) bool { return p.up && p.needsSync }) {
			return false
		}
	}
	return true
}

// partners calls yield with all peers that repair deals with.
func (c *Core) partners(yield func(*peer) bool) {
	for _, p := range c.peers {
		if !yield(p) {
			return
		}
	}
	for _, r := range c.regions {
		for _, p := range r.remotes {
			if !yield(p) {
				return
			}
		}
	}
}

// askAbroad returns those processes that are to be asked for a cart, too, since they may have what this region lacks:
// who leads its slot in each region that this one is not in sync with, or in all where it is known to be lacking
// something. The mutex is held.
func (c *Core) askAbroad(slot int, lacking bool) (leaders []*peer) {
	now := c.o.Now()
	for _, r := range c.regions {
		if !r.reachable() {
			continue
		}
		p := r.placement.leader(slot)
		switch {
		case p == nil || !p.up:
		case lacking, p.both.has(slot) && p.needsSync, !p.both.has(slot) && now.Before(r.settles):
			leaders = append(leaders, p)
		}
	}
	return leaders
}

// compareAnyway reports whether a session with a remote peer is due, though there is no reason for one. One of both
// sides opens it. The mutex is held.
func (c *Core) compareAnyway(p *peer, now time.Time) bool {
	return p.region != nil && !p.both.empty() && c.o.Self.Start < p.start && !now.Before(p.anywayAt)
}

// stateFor returns the state of a cart that a peer is to get, and what to call when it holds it: a remote one gets what
// is durable.
func (c *Core) stateFor(ctx context.Context, p *peer, id [16]byte) (payload []byte, held func(holder uint64), err error) {
	if p.region == nil {
		return c.o.Carts.State(ctx, id)
	}
	payload, err = c.o.Carts.Durable(ctx, id)
	return payload, nil, err
}

// sendState sends a state to a peer. The mutex is held.
func (c *Core) sendState(p *peer, it item, held func(holder uint64)) {
	p.counters.StatesSent++
	if p.region == nil {
		c.send(p, entry{encoded: it.encode(), held: held}, time.Time{})
		return
	}
	k := &ticket{peer: p, link: p.link, size: len(it.body)}
	p.unheld += k.size
	c.sendRemote(p, it, c.addTicket(k))
}

// answerFetch answers a fetch from another region, whose database this one's carts are not in.
func (c *Core) answerFetch(ctx context.Context, p *peer, it *item) {
	reply := item{kind: kindFetched, id: it.id, n: it.n}
	if payload, err := c.o.Carts.Durable(ctx, it.id); err == nil && payload != nil {
		reply.m, reply.body = 1, payload
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ask(p, reply)
}
