package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	beatEvery   = time.Second     // between two clocks sent to a peer
	deadAfter   = 3 * time.Second // without a word, an acknowledgement or an echo that is due
	forgetAfter = time.Minute     // after a process has left the region
)

// CoreOptions are what a Core is made with.
type CoreOptions struct {
	Self      Member
	Carts     Carts
	Replicas  int // owners of a cart in the region
	Tolerate  int // how many nodes may fail at once
	MaxOutbox int // bytes on their way to a peer, beside what repair sends; 64 MiB if 0
	Logger    *slog.Logger

	Now  func() time.Time
	Rand *rand.Rand

	// Spawn runs a job for a peer, after Spawn has returned: the jobs of one peer in order, one at a
	// time. They may block. Peer 0 has the jobs that are for none. The Core's mutex is held.
	Spawn func(peer uint64, job func(context.Context))

	// Wake tells that Next may have something to send to a peer, or to say when. It returns at once and
	// does not call the Core, whose mutex is held.
	Wake func(peer uint64)
}

// Core is the state of the replication with all peers of a node: frames, members and the passing of time
// come in, frames and calls of Carts go out. All methods may be called from any goroutine, within the
// bounds that they tell. No method calls Carts, or anything it was given, while it holds the mutex, but
// for Spawn and Wake.
//
// Equal calls at equal times, with jobs run at equal points, have equal results.
type Core struct {
	o CoreOptions

	mu        sync.Mutex
	peers     []*peer   // of the region, by start id
	abroad    []*peer   // bridges of other regions, by start id
	bridge    bool      // this node talks to other regions
	regions   []*region // the others that this node has heard of, by name
	wordAt    time.Time // when it is to tell of regions
	tickets   tickets
	placement placement
	held      held
	forwards  forwards
	wants     map[[16]byte]want
	fetches   []*fetch // not answered, oldest first
	requests  uint64   // fetches ever begun
	sessions  uint64   // sessions of repair ever begun
	repairAt  time.Time
	anywayAt  time.Time
	draining  bool     // this node is about to leave
	forgotten Counters // of the peers that were forgotten

	holdersAbroad    atomic.Int64 // processes of other regions that are there to hold a change
	refusedCrossings uint64       // that name no region that is known, or may be told of
}

// peer is another process of the region, or a bridge of another one, from when it is a member or has a link until
// forgetAfter after it is and has neither. Its outbox is filled all that time. Or it is a remote one, without a link.
type peer struct {
	start  uint64    // never changes, nor does abroad; the mutex guards everything else
	abroad bool      // a bridge of another region
	who    Member    // as SetMembers or SetBridges told last, or Up before that
	member bool      // as SetMembers or SetBridges told last
	left   time.Time // when it ceased to be a member, or its link went down after that
	up     bool      // its link is
	// draining is what the peer's last frame said: it is about to leave.
	draining bool
	met      bool   // its link was up once
	link     uint64 // counts the links; what began on another one has no business here

	out outbox
	in  inbox

	owns  slotSet // slots that its site is among the owners of
	both  slotSet // of these, those that this node owns, too
	given slotSet // held slots of which it has what this node has

	heard     time.Time // when the last frame came
	exchanged time.Time // when the last frame with items came or went
	beatAt    time.Time // when the next clock is to be sent
	clock     uint64    // the last one sent
	clockAt   time.Time // when
	unechoed  time.Time // when the first clock since the last echo was sent; zero if none was
	echo      uint64    // the peer's clock that is to be echoed; 0 if none
	roundTrip time.Duration
	offset    time.Duration // of the peer's clock, as it said last
	told      bool          // the peer said its clock

	repair
	cover
	remote
	counters Counters
	lastErr  string

	// What belongs to the caller of Receive, who is one at a time; the mutex does not guard it.
	reading struct {
		header   header
		assembly assembly
		held     []func(uint64)
		refused  []refused
		refusals []refusal
		slots    []int      // of the items that Carts hold
		states   [][16]byte // whole carts among them, held or not
		spurned  []int      // slots of those that they do not, and that no whole state is to follow
	}
}

// NewCore returns a Core without peers.
func NewCore(o CoreOptions) *Core {
	if o.MaxOutbox == 0 {
		o.MaxOutbox = defaultMaxOutbox
	}
	c := &Core{o: o, wants: make(map[[16]byte]want)}
	c.replace()
	return c
}

// SetSelf tells what this process is, where that was not known when the Core was made, and whether there are others
// to meet: then Carts are told of no slots before one of them is met, or a while has passed. It comes before
// anything else.
func (c *Core) SetSelf(self Member, others bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Self = self
	c.replace()
	if others {
		c.held.tellAt = c.o.Now().Add(meetFor)
	}
}

// find returns where the peer of a start id is among peers, or would be.
func find(peers []*peer, start uint64) (int, bool) {
	return slices.BinarySearchFunc(peers, start, func(p *peer, start uint64) int { return cmp.Compare(p.start, start) })
}

func byStart(a, b *peer) int { return cmp.Compare(a.start, b.start) }

// peer returns the peer of the region that has a start id, or nil.
func (c *Core) peer(start uint64) *peer {
	if i, found := find(c.peers, start); found {
		return c.peers[i]
	}
	return nil
}

// linked returns the peer of a start id, of whatever region, if its link is up, or nil.
func (c *Core) linked(start uint64) *peer {
	for _, peers := range c.everywhere() {
		if i, found := find(peers, start); found && peers[i].up {
			return peers[i]
		}
	}
	return nil
}

// everywhere returns the peers of the region and those abroad.
func (c *Core) everywhere() [2][]*peer { return [2][]*peer{c.peers, c.abroad} }

// meet returns the peer of a start id, which is a new one that m tells of if it was not known.
func (c *Core) meet(m Member) *peer {
	peers, abroad := &c.peers, m.Region != c.o.Self.Region
	if abroad {
		peers = &c.abroad
		c.meetRegion(m.Region)
	}
	i, found := find(*peers, m.Start)
	if !found {
		p := &peer{start: m.Start, abroad: abroad, who: m, out: outbox{limit: c.o.MaxOutbox}}
		*peers = slices.Insert(*peers, i, p)
	}
	return (*peers)[i]
}

// SetMembers tells which processes of the region are alive. This one may be among them.
func (c *Core) SetMembers(members []Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range members {
		if m.Start != c.o.Self.Start {
			c.meet(m).who = m
		}
	}
	present(c.peers, members, c.o.Now())
	c.replace() // a zone may have changed
}

// present notes which peers are members.
func present(peers []*peer, members []Member, now time.Time) {
	for _, p := range peers {
		is := slices.ContainsFunc(members, func(m Member) bool { return m.Start == p.start })
		if p.member && !is {
			p.left = now
		}
		p.member = is
	}
}

// Up tells that there is a link with a peer, which speaks a version of the frames. It carries, in order
// if at all, what Next returns here to Receive there and the other way round, until Down is called
// here and there; nothing of it comes after that. If the peer was up, its former link is down.
func (c *Core) Up(m Member, wire uint64) error {
	if m.Start == c.o.Self.Start {
		return errors.New("gossip: a link of a node with itself")
	}
	if wire < MinWire || wire > MaxWire {
		return fmt.Errorf("gossip: version %d of the frames", wire)
	}
	c.mu.Lock()
	if m.Region != c.o.Self.Region && !c.bridge {
		c.mu.Unlock()
		return errNoBridge
	}
	p := c.meet(m)
	if !p.member && m.GossipAddr != "" {
		p.who = m
	}
	var over answers
	if p.up {
		over = c.down(p, errors.New("gossip: another link came up"))
	}
	now := c.o.Now()
	p.up = true // that it drains, it goes on to do
	p.link++
	p.in = inbox{}
	p.heard, p.exchanged, p.beatAt, p.unechoed = now, now, now, time.Time{}
	p.clock, p.echo = 0, 0
	if !p.abroad {
		if !p.met {
			p.met, p.needsSync = true, true
		}
		c.replace()
		if soon := now.Add(keepAfter); !c.held.told && soon.Before(c.held.tellAt) {
			c.held.tellAt = soon
		}
		p.compareSoon(c.o.Self.Start, now)
		c.startRepairs(now)
		c.sendOwed(p)
	}
	c.wordAt = now
	c.o.Wake(p.start)
	c.mu.Unlock()
	over.call()
	return nil
}

// Down tells that the link with a peer is gone, and why.
func (c *Core) Down(start uint64, why error) {
	c.mu.Lock()
	p := c.linked(start)
	if p == nil {
		c.mu.Unlock()
		return
	}
	over := c.down(p, why)
	c.mu.Unlock()
	over.call()
}

// down returns the fetches that are over by it. The mutex is held.
func (c *Core) down(p *peer, why error) answers {
	p.up = false
	p.link++
	p.left = c.o.Now()
	if why != nil {
		p.lastErr = why.Error()
	}
	p.out.rewind()
	c.dropWays(p)
	if p.abroad {
		return nil
	}
	c.abandon(p)
	c.replace()
	c.lost(p)
	return c.unasked(p)
}

// lost tells that a peer cannot be counted on any more. The mutex is held.
func (c *Core) lost(p *peer) {
	c.o.Spawn(p.start, func(context.Context) { c.o.Carts.Lost(p.start) })
}

// Tick lets time pass. It is to be called every 5 to 50 ms. It returns the peers whose link is of no use
// any more: the caller closes these and calls Down.
func (c *Core) Tick() (stale []uint64) {
	c.mu.Lock()
	now := c.o.Now()
	for _, peers := range c.everywhere() {
		for _, p := range peers {
			switch {
			case !p.up:
			case p.stale(now):
				stale = append(stale, p.start)
			case !now.Before(p.beatAt):
				c.o.Wake(p.start)
			}
		}
	}
	c.peers, c.abroad = c.forget(c.peers, now), c.forget(c.abroad, now)
	if out := c.placement.expires; !out.IsZero() && !now.Before(out) {
		c.replace()
	}
	if at := c.held.tellAt; !at.IsZero() && !now.Before(at) {
		c.tell()
	}
	c.tellRegions(now)
	c.expireTickets(now)
	c.startRepairs(now)
	over := c.overdue(now)
	c.mu.Unlock()
	over.call()
	return stale
}

// stale reports whether the peer owes a sign of life, in either direction, for too long.
func (p *peer) stale(now time.Time) bool {
	since := p.heard
	if !p.unechoed.IsZero() && p.unechoed.Before(since) {
		since = p.unechoed
	}
	if at, found := p.out.oldest(); found && at.Before(since) {
		since = at
	}
	return now.Sub(since) > deadAfter
}

// forget returns the peers but those that left long ago.
func (c *Core) forget(peers []*peer, now time.Time) []*peer {
	return slices.DeleteFunc(peers, func(p *peer) bool {
		if p.up || p.member || now.Sub(p.left) < forgetAfter {
			return false
		}
		c.forgotten.add(&p.counters)
		return true
	})
}

// stays reports whether the peer can be counted on to hold something: its link is up, and it is not about to
// leave.
func (p *peer) stays() bool { return p.up && !p.draining }

// SetDraining tells whether this node is about to leave. Every frame says so, so that no peer takes an
// acknowledgement that comes from now on for one of a holder. It owns nothing any more: what it has, it keeps until
// the owners have it.
func (c *Core) SetDraining(draining bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining == draining {
		return
	}
	c.draining = draining
	c.replace()
	now := c.o.Now()
	for _, p := range c.peers {
		p.beatAt = now
		if draining {
			p.repairAt = now
		}
		c.wake(p)
	}
	c.startRepairs(now)
}

// Peers returns how many peers can be counted on to hold something: those with a link that do not drain.
func (c *Core) Peers() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.stays() {
			n++
		}
	}
	return n
}

// HandedOver reports whether enough peers have all that this node has, as far as it knows; once it drains, all that
// it had acknowledged before. Of peers that cannot read the database, and of carts that cannot be loaded, it is what
// the database lacks. In a region where not every node owns everything, only a node that drains has handed over, when
// it holds nothing that is not safe with its owners.
func (c *Core) HandedOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	abreast, idle := 0, true
	for _, p := range c.peers {
		if !p.stays() {
			continue
		}
		if p.owed.len() > 0 || p.steps.len() > 0 || p.out.sent+p.out.waiting() > 0 {
			idle = false
			continue
		}
		gives, lacking := c.gives(p), p.both.without(&p.covered)
		if p.owns == allSlots && (!p.needsSync || lacking.empty()) && gives.empty() {
			abreast++
		}
	}
	if len(c.placement.sites) <= c.o.Replicas {
		return abreast > c.o.Tolerate
	}
	return c.draining && idle && c.allSafe()
}

// Alive reports whether the process of a start id is this one, or a peer that can be counted on, or one of another
// region that can be reached.
func (c *Core) Alive(holder uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(holder)
	return holder == c.o.Self.Start || p != nil && p.stays() || c.aliveAbroad(holder)
}
