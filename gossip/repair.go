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
//	root: slots, and a hash of their digests →
//	                             ← equal, and that was it; or later; or the digests of those it takes part with
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
// for carts that one of them could not load, or that a third node is about to send (see wanted.go), which
// both words tell; and neither has more than a few hundred states under way, however many carts differ.
//
// A session is about the slots that both own, and those that the opener holds for the other. Of the latter only what
// the opener has is compared, and nothing goes back. The other leaves out what it does not own, as far as it knows;
// then neither takes the other for in sync, and the opener tries again. So it is where one of the two cannot tell of
// a slot: there the opener gives what the database lacks. See cover.go.
//
// The other remembers nothing of a session but its number and the slots that both own. The opener gives one up when
// nothing is heard of it for a while, when the link goes down, or when its own outbox overflows; what comes of
// it later does no harm.
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

// What a listing says beside.
const (
	listingMore    = 1 << iota // there are more carts in the slot
	listingGiven               // the opener gives: it wants to hear of the listed carts only
	listingUnsaved             // and these with what the database lacks: no vectors are wanted
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

	own      *session  // that this node opened; or nil
	serving  uint64    // the session of the peer that began after needsSync was set last; or 0
	compared slotSet   // slots that it compares, of those that both own
	served   time.Time // the last word of a session of the peer
	skipped  bool      // that session left out carts that another peer is about to send
	again    bool      // the one before it did
	stateAt  time.Time // when the peer sent a whole cart last

	// owed are carts whose state the peer is to get. A cart is in owing while it is there.
	owed    fifo[[16]byte]
	owing   map[[16]byte]struct{}
	sending bool // a job is at it

	steps    fifo[func(context.Context)] // to be done when nothing is owed
	stepping bool                        // a job is at the last one

	// unloadable is set when a session failed since a cart cannot be loaded: what is held for the peer is then given
	// without that.
	unloadable bool

	queued int // bytes of items that wait for their job
}

// session is one that this node opened.
type session struct {
	number  uint64
	both    slotSet        // slots that it is about, and that both own
	give    slotSet        // the others that it is about
	gives   slotSet        // of these, those that are held and in which nothing has changed here since it began
	bare    slotSet        // slots that this node does not know all of
	unsaved slotSet        // those in which the peer gets only what the database lacks
	cover   slotSet        // of these, those in which it has refused nothing
	took    slotSet        // slots that were compared, those in which this node has refused nothing
	partial bool           // it leaves out slots that both own
	todo    fifo[[16]byte] // where listings of slots that differ are to begin
	open    int            // listings that were sent and not answered
	failed  bool           // not every difference was dealt with
	word    time.Time      // when something happened last
}

// Synced reports whether no live peer may lack, or have, what this node has, or lacks, for any other
// reason than that it is under way.
func (c *Core) Synced() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.ContainsFunc(c.peers, func(p *peer) bool { return p.up && p.needsSync })
}

// ownsSlot reports whether this node owns a slot.
func (c *Core) ownsSlot(slot int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.placement.own.has(slot)
}

// needSync notes that something may have been lost on the way to a peer. One that owns nothing of what this node
// owns needs no sync. The mutex is held.
func (c *Core) needSync(p *peer, why string) {
	needed := !p.both.empty()
	if needed && !p.needsSync {
		name := p.who.Name
		c.o.Spawn(p.start, func(ctx context.Context) {
			c.o.Logger.InfoContext(ctx, "gossip: a peer needs sync", "peer", name, "reason", why)
		})
	}
	p.needsSync = needed
	p.serving = 0
	p.covered = slotSet{}
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

// compareSoon wants a session of this node, of start id self, with the peer: here at once, or there, and here later.
func (p *peer) compareSoon(self uint64, now time.Time) {
	p.compare = true
	p.repairAt = now
	if p.start < self {
		p.repairAt = now.Add(repairEvery)
	}
}

// startRepairs opens the sessions that are due and gives up those that are stuck. The mutex is held.
func (c *Core) startRepairs(now time.Time) {
	for p := range c.partners {
		if p.own != nil && now.Sub(p.own.word) > p.patience() {
			c.close(p, now)
		}
		if p.mayOpen(now) && c.wantsSession(p, now) {
			c.openSession(p, now)
		}
		if p.region != nil {
			c.sendOwed(p) // there may be room now in the outbox that it goes by
		}
	}
	if now.Before(c.repairAt) {
		return
	}
	c.repairAt = now.Add(repairEvery)
	c.forgetWants(now)
	anyway := !now.Before(c.anywayAt)
	var idle []*peer
	for _, p := range c.peers {
		if (anyway || now.Sub(p.exchanged) >= repairEvery) && !p.both.empty() && p.mayOpen(now) {
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

// wantsSession reports whether there is a reason for a session with the peer. The mutex is held.
func (c *Core) wantsSession(p *peer, now time.Time) bool {
	if p.needsSync || p.compare || c.compareAnyway(p, now) {
		return true
	}
	if p.region != nil { // nothing is held for it
		return false
	}
	gives, uncovered := c.gives(p), c.uncovered(p)
	return !gives.empty() || !uncovered.empty()
}

// mayOpen reports whether there is a link with the peer and no session on it, and there was none just now.
func (p *peer) mayOpen(now time.Time) bool {
	serving := p.serving != 0 && now.Sub(p.served) <= p.patience()
	return p.up && p.own == nil && !serving && !now.Before(p.repairAt)
}

// patience is how long a session lasts after the last word of it.
func (p *peer) patience() time.Duration {
	if p.region != nil {
		return remoteGiveUp
	}
	return repairGiveUp
}

func (c *Core) openSession(p *peer, now time.Time) {
	c.sessions++
	s := &session{number: c.sessions, word: now}
	p.own = s
	p.anywayAt = now.Add(anywayEvery)
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
	s := p.own
	c.close(p, now)
	if s.failed {
		return
	}
	p.given = p.given.or(&s.gives)
	p.covered, p.covers = p.covered.or(&s.cover), p.covers.or(&s.took)
	p.unloadable = false
	c.release()
	if s.partial {
		p.compare = true
	} else {
		c.inSync(p)
	}
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
func (c *Core) ask(p *peer, it item) {
	if p.region != nil {
		c.sendRemote(p, it, 0)
		return
	}
	c.send(p, entry{encoded: it.encode()}, time.Time{})
}

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
	case kindFetch:
		c.answerFetch(ctx, p, it)
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
		s.took = s.both
		about := s.both.or(&s.give)
		p.hearBare(&about, &slotSet{}) // it has compared all of them
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

// sendRoot opens a session about what is known here.
func (c *Core) sendRoot(p *peer, s *session) {
	seeded := slotSet(c.o.Carts.Seeded())
	about, some := c.choose(p, s, &seeded)
	if !some {
		return
	}
	hash := root(c.o.Carts.Digests(), &about)
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.own == s {
		c.ask(p, item{kind: kindRoot, n: s.number, m: hash, body: encodeSlots(&s.both, &s.give, &s.bare)})
	}
}

// choose finds out which slots a session is about. If there are none, and none that this node is bare of, it is over.
// What changes in a slot from here on is not given by it.
func (c *Core) choose(p *peer, s *session, seeded *slotSet) (about slotSet, some bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.own != s {
		return slotSet{}, false
	}
	if p.region == nil { // which reads the same database
		s.bare = p.both.without(seeded)
	}
	s.both = p.both.and(seeded)
	s.gives = c.gives(p)
	bare := s.bare.or(&p.bare)
	p.covered = p.covered.and(&bare)
	uncovered, lacking := c.uncovered(p), s.bare.without(&p.covered)
	s.give = s.gives.or(&uncovered)
	s.give = s.give.or(&lacking)
	s.both = s.both.without(&s.give)
	s.partial = s.both != p.both
	about = s.both.or(&s.give)
	if about.empty() && s.bare.empty() {
		c.close(p, c.o.Now())
		return about, false
	}
	return about, true
}

// answerRoot answers the opening of a session. Of two that are opened from both sides, the one of the
// smaller start id goes on, and the other side opens its own again after that, if it still needs one.
func (c *Core) answerRoot(p *peer, it *item) {
	seeded := slotSet(c.o.Carts.Seeded())
	both, give, bare, _ := decodeSlots(it.body) // it is valid
	about, asked := both.or(&give), both.or(&bare)
	c.mu.Lock()
	p.hearBare(&asked, &bare)
	takes := about.and(&c.placement.own)
	if p.region != nil { // which has another database
		takes = takes.and(&seeded)
	}
	if takes.empty() || p.own != nil && c.o.Self.Start < p.start {
		if uncovered := c.uncovered(p); !uncovered.empty() {
			p.repairAt = c.o.Now()
		}
		c.ask(p, item{kind: kindLater, n: it.n})
		c.mu.Unlock()
		return
	}
	p.own = nil
	p.serving, p.served = it.n, c.o.Now()
	p.again, p.skipped = p.skipped, false
	compared := takes.and(&seeded)
	compared = compared.without(&bare)
	p.compared, p.taking = compared.and(&both), takes
	c.mu.Unlock()

	digests := c.o.Carts.Digests()
	equal := compared == about && root(digests, &compared) == it.m

	c.mu.Lock()
	defer c.mu.Unlock()
	if equal {
		c.endServing(p, it.n)
		c.ask(p, item{kind: kindEqual, n: it.n})
		return
	}
	taken := takes.without(&compared)
	c.ask(p, item{kind: kindDigests, n: it.n, body: encodeDigests(digests, &compared, &taken)})
}

// endServing ends the session of a peer, when both have what differed. The mutex is held.
func (c *Core) endServing(p *peer, number uint64) {
	if p.serving != number {
		return
	}
	p.serving = 0
	p.covers = p.covers.or(&p.taking)
	if rest := p.both.without(&p.compared); rest.empty() {
		c.inSync(p)
	}
}

// takeDigests finds the slots that differ.
func (c *Core) takeDigests(p *peer, it *item) {
	ours := c.o.Carts.Digests()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session(p, it.n)
	if s == nil {
		return
	}
	compared, taken, theirs, _ := decodeDigests(it.body) // it is valid
	if p.region != nil {
		taken = slotSet{} // it has another database
	}
	if left := s.both.without(&compared); !left.empty() {
		s.partial = true
	}
	c.takeBare(p, s, &compared, &taken)
	for slot := range compared.all() {
		differ := ours[slot] != binary.BigEndian.Uint64(theirs)
		theirs = theirs[digestSize:]
		if differ && (s.both.has(slot) || s.give.has(slot) && ours[slot] != 0) {
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
		versions := c.versionsFor(s, from, maxListing+1)
		if len(versions) > maxListing {
			versions, listing.m = versions[:maxListing], listingMore
		}
		listing.m |= s.mode(SlotOf(from))
		if len(versions) == 0 && listing.m&listingUnsaved != 0 {
			c.skipListing(s)
			continue
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

// skipListing takes back a listing that would be empty.
func (c *Core) skipListing(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.open--
}

// answerListing says of each cart that differs what is here, or that it is wanted.
func (c *Core) answerListing(ctx context.Context, p *peer, it *item) {
	reply := item{kind: kindListed, n: it.n}
	if !c.ownsSlot(SlotOf(it.id)) { // any more
		reply.m = listedFailed
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ask(p, reply)
		return
	}
	theirs := decodeListing(it.body)
	var ours []Version
	if it.m&listingGiven != 0 {
		ours = c.versionsOf(theirs)
	} else {
		// If there are more of ours than this, more than maxAnswer differ before the last one.
		ours = c.versions(it.id, len(theirs)+maxAnswer+1)
	}
	if it.m&listingMore != 0 {
		reply.id, reply.m = successor(theirs[len(theirs)-1].ID), listedMore
		ours = before(reply.id, ours)
	}
	differ := differences(ours, theirs)
	if len(differ) > maxAnswer {
		reply.id, reply.m = differ[maxAnswer].id, listedMore
		differ = differ[:maxAnswer]
	}
	answer := make([]item, 0, len(differ))
	for _, d := range differ {
		d.here = d.here && it.m&listingUnsaved == 0
		about, err := c.about(ctx, d)
		if err != nil {
			reply.m |= listedFailed
			continue
		}
		answer = append(answer, about)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	p.served = c.o.Now()
	for _, about := range answer {
		if about.kind == kindWant && (it.m&listingUnsaved == 0 || !p.again) {
			p.skipped = !c.want(p, about.id) || p.skipped
			continue
		}
		c.ask(p, about)
	}
	c.ask(p, reply)
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
		p.own.failed, p.unloadable = true, true
	}
	if ahead && err == nil {
		c.owe(p, it.id)
	}
	if behind && (err != nil || c.placement.own.has(SlotOf(it.id))) && !c.want(p, it.id) && p.own != nil {
		p.own.failed = true
		p.compareAgain()
	}
}

// takeListed takes the end of the answer to a listing. The mutex is held.
func (c *Core) takeListed(p *peer, s *session, it *item) {
	if it.m&listedFailed != 0 {
		s.failed, p.unloadable = true, true
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
	failed := it.m == 1 || p.serving != it.n || p.skipped
	if failed {
		p.serving = 0
	} else {
		c.endServing(p, it.n)
	}
	if p.skipped {
		p.compareAgain()
	}
	c.ask(p, item{kind: kindFinished, n: it.n, m: flag(failed)})
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}
