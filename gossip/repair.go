package gossip

import (
	"context"
	"encoding/binary"
	"slices"
	"time"
)

// Repair makes the carts of two nodes equal, whatever was lost between them. One node opens a session:
//
//	opener                         other
//	root: a hash of all digests →
//	                             ← equal, and that was it; or later; or all digests
//	listings of slots that differ →
//	                             ← vectors of the carts it has in another version, or alone
//	                             ← want of those it lacks; listed
//	want of the carts it is behind in →
//	states of those it is ahead in, or that are wanted →
//	                             ← states of those that are wanted
//	… the next listings …
//	finish →
//	                             ← finished
//
// Nobody takes the next step while it owes the other a state, and what is on the link stays in order.
// So who has got finish, or finished, has got all that the other had when the digests were taken, but
// for carts that one of them could not load, which both words tell; and neither has more than a few
// hundred states under way, however many carts differ.
//
// The other remembers nothing of a session but its number. The opener gives one up when nothing is
// heard of it for a while, when the link goes down, or when its own outbox overflows; what comes of it
// later does no harm.
const (
	repairEvery  = time.Second      // between sessions, when there is a reason for one
	anywayEvery  = 10 * time.Second // between sessions, when there is none
	repairGiveUp = 10 * time.Second // after the last word of a session

	maxRound   = 256 << 10 // bytes of listings that are not answered
	roundSlots = 64        // listings that are not answered
	maxListing = 4096      // carts in a listing
	maxAnswer  = 256       // carts in the answer to a listing
	stateRoom  = 1 << 20   // bytes in the outbox beyond which no state is added
)

// What the answer to a listing says beside.
const (
	listedMore   = 1 << iota // it goes to the given id only
	listedFailed             // it leaves out carts that cannot be loaded at present
)

// repair is the part of a peer that repair is about.
type repair struct {
	// needsSync is set when something may have been lost, and cleared when a session that began
	// later has dealt with every difference.
	needsSync bool
	compare   bool      // a session is wanted, since the link came up
	repairAt  time.Time // not before then

	own     *session  // that this node opened; or nil
	serving uint64    // the session of the peer that began after needsSync was set last; or 0
	served  time.Time // the last word of a session of the peer

	// owed are carts whose state the peer is to get. A cart is in owing while it is there.
	owed    fifo[[16]byte]
	owing   map[[16]byte]struct{}
	sending bool // a job is at it

	steps    fifo[func(context.Context)] // to be done when nothing is owed
	stepping bool                        // a job is at the last one

	queued int // bytes of items that wait for their job
}

// session is one that this node opened.
type session struct {
	number uint64
	todo   fifo[[16]byte] // where listings of slots that differ are to begin
	open   int            // listings that were sent and not answered
	failed bool           // not every difference was dealt with
	word   time.Time      // when something happened last
}

// Synced reports whether no live peer may lack, or have, what this node has, or lacks, for any other
// reason than that it is under way.
func (c *Core) Synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(c.peers, func(p *peer) bool { return p.up && p.needsSync })
}

// needSync notes that something may have been lost on the way to a peer. The mutex is held.
func (c *Core) needSync(p *peer, why string) {
	if !p.needsSync {
		name := p.who.Name
		c.o.Spawn(p.start, func(ctx context.Context) {
			c.o.Logger.InfoContext(ctx, "gossip: a peer needs sync", "peer", name, "reason", why)
		})
	}
	p.needsSync = true
	p.serving = 0
	if p.own != nil {
		p.own.failed = true
	}
}

// inSync notes that a session has dealt with every difference. The mutex is held.
func (c *Core) inSync(p *peer) {
	if p.needsSync {
		name := p.who.Name
		c.o.Spawn(p.start, func(ctx context.Context) {
			c.o.Logger.InfoContext(ctx, "gossip: in sync with a peer", "peer", name)
		})
	}
	p.needsSync, p.compare = false, false
}

// compareSoon opens a session with a peer whose link came up: here at once, or there, and here later.
func (c *Core) compareSoon(p *peer, now time.Time) {
	p.compare = true
	p.repairAt = now
	if p.start < c.o.Self.Start {
		p.repairAt = now.Add(repairEvery)
	}
	c.startRepairs(now)
}

// startRepairs opens the sessions that are due and gives up those that are stuck. The mutex is held.
func (c *Core) startRepairs(now time.Time) {
	for _, p := range c.peers {
		if p.own != nil && now.Sub(p.own.word) > repairGiveUp {
			c.close(p, now)
		}
		if (p.needsSync || p.compare) && p.mayOpen(now) {
			c.openSession(p, now)
		}
	}
	if now.Before(c.repairAt) {
		return
	}
	c.repairAt = now.Add(repairEvery)
	anyway := !now.Before(c.anywayAt)
	var idle []*peer
	for _, p := range c.peers {
		if (anyway || now.Sub(p.exchanged) >= repairEvery) && p.mayOpen(now) {
			idle = append(idle, p)
		}
	}
	if len(idle) == 0 {
		return
	}
	if anyway {
		c.anywayAt = now.Add(anywayEvery)
	}
	c.openSession(idle[c.o.Rand.IntN(len(idle))], now)
}

// mayOpen reports whether there is a link with the peer and no session on it, and there was none just now.
func (p *peer) mayOpen(now time.Time) bool {
	serving := p.serving != 0 && now.Sub(p.served) <= repairGiveUp
	return p.up && p.own == nil && !serving && !now.Before(p.repairAt)
}

func (c *Core) openSession(p *peer, now time.Time) {
	c.sessions++
	s := &session{number: c.sessions, word: now}
	p.own = s
	p.counters.Repairs++
	c.o.Spawn(p.start, func(context.Context) { c.sendRoot(p, s) })
}

// close ends the session that this node opened. The mutex is held.
func (c *Core) close(p *peer, now time.Time) {
	p.own = nil
	p.repairAt = now.Add(repairEvery)
}

// complete ends the session that this node opened, when both have what differed. The mutex is held.
func (c *Core) complete(p *peer, now time.Time) {
	if !p.own.failed {
		c.inSync(p)
	}
	c.close(p, now)
}

// abandon gives up all sessions with a peer, since some of what belongs to them is lost; the peer is
// told so while the link is up. The mutex is held.
func (c *Core) abandon(p *peer) {
	now := c.o.Now()
	if p.own != nil {
		c.close(p, now)
	}
	serving := p.serving
	p.serving = 0
	p.steps.drop(p.steps.len())
	if p.up && serving != 0 {
		c.ask(p, item{kind: kindLater, n: serving})
	}
}

// ask sends an item of repair. The mutex is held.
func (c *Core) ask(p *peer, it item) { c.send(p, entry{encoded: it.encode()}, time.Time{}) }

// session returns the session of a number, if it is going on, and notes the word of it. The mutex is held.
func (c *Core) session(p *peer, number uint64) *session {
	if p.own == nil || p.own.number != number {
		return nil
	}
	p.own.word = c.o.Now()
	return p.own
}

// takeRepair takes an item of repair, in a job.
func (c *Core) takeRepair(ctx context.Context, p *peer, it *item) {
	switch it.kind {
	case kindRoot:
		c.answerRoot(p, it)
	case kindDigests:
		c.takeDigests(p, it)
	case kindVector:
		c.takeVector(ctx, p, it)
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.takeWord(p, it)
	}
}

// takeWord takes an item of repair that needs no cart, or not yet. The mutex is held.
func (c *Core) takeWord(p *peer, it *item) {
	switch it.kind {
	case kindWant:
		c.owe(p, it.id)
		return
	case kindListing:
		if p.steps.len() > roundSlots { // no session has so many
			p.counters.Dropped++
			return
		}
		c.step(p, func(ctx context.Context) { c.answerListing(ctx, p, it) })
		return
	case kindFinish:
		c.step(p, func(context.Context) { c.answerFinish(p, it) })
		return
	}
	s := c.session(p, it.n)
	if s == nil {
		return
	}
	switch it.kind {
	case kindEqual:
		p.counters.RepairsEqual++
		c.complete(p, s.word)
	case kindLater:
		c.close(p, s.word)
	case kindListed:
		c.takeListed(p, s, it)
	case kindFinished:
		s.failed = s.failed || it.m == 1
		if !s.failed {
			p.counters.RepairsDone++
		}
		c.complete(p, s.word)
	}
}

// sendRoot opens a session, if every cart is known here.
func (c *Core) sendRoot(p *peer, s *session) {
	seeded := c.o.Carts.Seeded() == allSlots
	var hash uint64
	if seeded {
		hash = root(c.o.Carts.Digests())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p.own != s:
	case !seeded:
		c.close(p, c.o.Now())
	default:
		c.ask(p, item{kind: kindRoot, n: s.number, m: hash})
	}
}

// answerRoot answers the opening of a session. Of two that are opened from both sides, the one of the
// smaller start id goes on.
func (c *Core) answerRoot(p *peer, it *item) {
	seeded := c.o.Carts.Seeded() == allSlots
	c.mu.Lock()
	if !seeded || p.own != nil && c.o.Self.Start < p.start {
		c.ask(p, item{kind: kindLater, n: it.n})
		c.mu.Unlock()
		return
	}
	if p.own != nil {
		c.close(p, c.o.Now())
	}
	p.serving, p.served = it.n, c.o.Now()
	c.mu.Unlock()

	digests := c.o.Carts.Digests()
	equal := root(digests) == it.m

	c.mu.Lock()
	defer c.mu.Unlock()
	if equal {
		c.endServing(p, it.n)
		c.ask(p, item{kind: kindEqual, n: it.n})
		return
	}
	body := make([]byte, 0, 8*Slots)
	for _, d := range digests {
		body = binary.BigEndian.AppendUint64(body, d)
	}
	c.ask(p, item{kind: kindDigests, n: it.n, body: body})
}

// endServing ends the session of a peer, when both have what differed. The mutex is held.
func (c *Core) endServing(p *peer, number uint64) {
	if p.serving == number {
		p.serving = 0
		c.inSync(p)
	}
}

// takeDigests finds the slots that differ.
func (c *Core) takeDigests(p *peer, it *item) {
	digests := c.o.Carts.Digests()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session(p, it.n)
	if s == nil {
		return
	}
	for slot, d := range digests {
		if d != binary.BigEndian.Uint64(it.body[8*slot:]) {
			s.todo.push(firstOf(slot))
		}
	}
	c.nextRound(p, s)
}

// nextRound sends the next listings when nothing is owed any more. The mutex is held.
func (c *Core) nextRound(p *peer, s *session) {
	c.step(p, func(context.Context) { c.sendListings(p, s) })
}

// sendListings sends a round of listings, or finish after the last one.
func (c *Core) sendListings(p *peer, s *session) {
	for size := 0; size+maxListing*listingSize <= maxRound; {
		from, some := c.nextListing(p, s)
		if !some {
			break
		}
		listing := item{kind: kindListing, id: from, n: s.number}
		versions := c.versions(from, maxListing+1)
		if len(versions) > maxListing {
			versions, listing.m = versions[:maxListing], 1
		}
		listing.body = encodeListing(versions)
		size += len(listing.body)
		c.mu.Lock()
		if p.own == s {
			c.ask(p, listing)
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.own == s && s.open == 0 {
		c.ask(p, item{kind: kindFinish, n: s.number, m: flag(s.failed)})
	}
}

// nextListing returns where the next listing begins, if this round has room for one.
func (c *Core) nextListing(p *peer, s *session) (from [16]byte, some bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.own != s || s.todo.len() == 0 || s.open == roundSlots {
		return from, false
	}
	s.open++
	s.word = c.o.Now()
	return s.todo.pop(), true
}

// answerListing says of each cart that differs what is here, or that it is wanted.
func (c *Core) answerListing(ctx context.Context, p *peer, it *item) {
	theirs := decodeListing(it.body)
	// If there are more of ours than this, more than maxAnswer differ before the last one.
	ours := c.versions(it.id, len(theirs)+maxAnswer+1)
	reply := item{kind: kindListed, n: it.n}
	if it.m == 1 {
		reply.id, reply.m = successor(theirs[len(theirs)-1].ID), listedMore
		ours = before(reply.id, ours)
	}
	differ := differences(ours, theirs)
	if len(differ) > maxAnswer {
		reply.id, reply.m = differ[maxAnswer].id, listedMore
		differ = differ[:maxAnswer]
	}
	answer := make([]item, 0, len(differ)+1)
	for _, d := range differ {
		about, err := c.about(ctx, d)
		if err != nil {
			reply.m |= listedFailed
			continue
		}
		answer = append(answer, about)
	}
	answer = append(answer, reply)

	c.mu.Lock()
	defer c.mu.Unlock()
	p.served = c.o.Now()
	for _, about := range answer {
		c.ask(p, about)
	}
}

// about returns what to say of a cart that differs.
func (c *Core) about(ctx context.Context, d difference) (item, error) {
	if d.here {
		vector, known, err := c.o.Carts.Vector(ctx, d.id)
		if err != nil || known {
			return item{kind: kindVector, id: d.id, body: vector}, err
		}
	}
	return item{kind: kindWant, id: d.id}, nil
}

// takeVector finds out who has what the other lacks.
func (c *Core) takeVector(ctx context.Context, p *peer, it *item) {
	ahead, behind, err := c.o.Carts.Compare(ctx, it.id, it.body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && p.own != nil {
		p.own.failed = true
	}
	if ahead && err == nil {
		c.owe(p, it.id)
	}
	if behind && err == nil {
		c.ask(p, item{kind: kindWant, id: it.id})
	}
}

// takeListed takes the end of the answer to a listing. The mutex is held.
func (c *Core) takeListed(p *peer, s *session, it *item) {
	if it.m&listedFailed != 0 {
		s.failed = true
	}
	if it.m&listedMore != 0 {
		s.todo.push(it.id)
	}
	if s.open--; s.open == 0 {
		c.nextRound(p, s)
	}
}

// answerFinish ends a session of the peer.
func (c *Core) answerFinish(p *peer, it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := it.m == 1 || p.serving != it.n
	if failed {
		p.serving = 0
	} else {
		c.endServing(p, it.n)
	}
	c.ask(p, item{kind: kindFinished, n: it.n, m: flag(failed)})
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}
