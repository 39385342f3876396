package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// scene is a few Cores whose links are queues in memory and whose clock is a number. It does what Node
// does, in an order that depends on nothing else: it runs jobs, calls Next only after Wake or the time
// that Next told, and carries frames unless the test loses them.
type scene struct {
	t      tester
	now    time.Time
	actors []*actor // by start id, from 1 on
	change []func(*CoreOptions)

	// carry decides on a frame: it returns what arrives instead. Nil carries everything.
	carry func(from, to *actor, frame []byte) [][]byte
	// redial brings links up again that were found stale.
	redial bool
	// latency is how long a frame is on its way.
	latency time.Duration

	frames   int // carried
	largest  int // bytes of one
	backlog  int // bytes, the most that were on their way from one node to another
	trace    uint64
	closings int
}

// tester is a testing.T or a rapid.T.
type tester interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// actor is a node of a scene.
type actor struct {
	*Core
	name  string
	start uint64
	self  Member
	gone  bool
	scene *scene
	carts *eventCarts
	jobs  []job // first come, first run; those of one peer are in order like this
	ask   map[uint64]time.Time
	wire  map[uint64][]flight // frames on their way to a peer
}

// flight is a frame and when it arrives.
type flight struct {
	frame []byte
	at    time.Time
}

type job struct {
	peer uint64
	run  func(context.Context)
}

// newScene returns a scene of n nodes without links that are members of one region.
func newScene(t tester, n int, change ...func(*CoreOptions)) *scene {
	s := &scene{t: t, now: time.UnixMilli(1_700_000_000_000), change: change}
	for i := range n {
		s.add(memberOf(uint64(i + 1)))
	}
	s.meet()
	return s
}

// add starts a node, which nobody has heard of yet.
func (s *scene) add(m Member) *actor {
	a := &actor{name: m.Name, start: m.Start, self: m, scene: s, ask: map[uint64]time.Time{}, wire: map[uint64][]flight{}}
	a.carts = &eventCarts{actor: a, carts: map[[16]byte]vector{}, seeded: true}
	o := CoreOptions{
		Self: m, Carts: a.carts, Replicas: 3, Tolerate: 1, Logger: slog.New(slog.DiscardHandler),
		Now:   func() time.Time { return s.now },
		Rand:  rand.New(rand.NewPCG(1, m.Start)),
		Spawn: func(peer uint64, run func(context.Context)) { a.jobs = append(a.jobs, job{peer, run}) },
		Wake:  func(peer uint64) { a.ask[peer] = s.now },
	}
	for _, f := range s.change {
		f(&o)
	}
	a.Core = NewCore(o)
	s.actors = append(s.actors, a)
	return a
}

// live returns the nodes that are not gone.
func (s *scene) live() []*actor {
	return slices.DeleteFunc(slices.Clone(s.actors), func(a *actor) bool { return a.gone })
}

// meet tells all nodes of a region of each other.
func (s *scene) meet() {
	members := map[string][]Member{}
	for _, a := range s.live() {
		members[a.self.Region] = append(members[a.self.Region], a.self)
	}
	for _, a := range s.live() {
		a.SetMembers(members[a.self.Region])
	}
}

// turn makes a node tell of another state.
func (s *scene) turn(a *actor, state MemberState) {
	a.self.State = state
	a.SetDraining(state == Draining)
	s.meet()
}

// end ends a node, which says nothing of it.
func (s *scene) end(a *actor) {
	for _, b := range s.live() {
		if b != a && a.linked(b.start) != nil {
			s.down(a, b, "end")
		}
	}
	a.gone, a.jobs = true, nil
	s.meet()
}

// memberOf returns the member of a scene that has a start id.
func memberOf(start uint64) Member {
	name := string(rune('a' + start - 1))
	return Member{Start: start, Name: name, GossipAddr: name + ":7946", State: Active}
}

// connected returns a scene of n nodes that are linked and in sync.
func connected(t tester, n int, change ...func(*CoreOptions)) *scene {
	s := newScene(t, n, change...)
	s.connect()
	s.run(3 * time.Second)
	for _, a := range s.actors {
		if !a.Synced() {
			t.Fatalf("%s is not synced: %+v", a.name, a.Status())
		}
	}
	return s
}

// connect links all pairs of a region that are not linked.
func (s *scene) connect() {
	live := s.live()
	for i, a := range live {
		for _, b := range live[i+1:] {
			if a.self.Region == b.self.Region && a.linked(b.start) == nil {
				s.up(a, b)
			}
		}
	}
}

func (s *scene) up(a, b *actor) {
	for _, pair := range [][2]*actor{{a, b}, {b, a}} {
		if err := pair[0].Up(pair[1].self, MaxWire); err != nil {
			s.t.Fatalf("%v", err)
		}
	}
}

// down closes a link; what is on the way is lost.
func (s *scene) down(a, b *actor, why string) {
	for _, pair := range [][2]*actor{{a, b}, {b, a}} {
		delete(pair[0].wire, pair[1].start)
		delete(pair[0].ask, pair[1].start)
		pair[0].Down(pair[1].start, errors.New(why))
	}
	s.closings++
}

func (s *scene) actor(start uint64) *actor { return s.actors[start-1] }

// settle lets happen all that can without the passing of time.
func (s *scene) settle() {
	for steps := 0; ; steps++ {
		if steps == 1_000_000 {
			s.t.Fatalf("this does not end")
		}
		progress := false
		for _, a := range s.actors {
			progress = a.work() || progress
			progress = a.write() || progress
		}
		for _, a := range s.actors {
			progress = a.deliver() || progress
		}
		if !progress {
			return
		}
	}
}

// run lets time pass, in steps of a millisecond.
func (s *scene) run(d time.Duration) {
	for end := s.now.Add(d); ; {
		s.settle()
		if !s.now.Before(end) {
			return
		}
		s.now = s.next(end)
		if s.now.UnixMilli()%10 == 0 {
			s.tick()
		}
	}
}

// next returns the next millisecond in which something may happen, end at the latest.
func (s *scene) next(end time.Time) time.Time {
	soonest := s.now.Add(time.Duration(10-s.now.UnixMilli()%10) * time.Millisecond) // the next tick
	for _, a := range s.actors {
		for _, at := range a.ask {
			if at = at.Add(time.Millisecond - 1).Truncate(time.Millisecond); at.After(s.now) && at.Before(soonest) {
				soonest = at
			}
		}
		for _, frames := range a.wire {
			if len(frames) > 0 && frames[0].at.Before(soonest) {
				soonest = frames[0].at
			}
		}
	}
	if end.Before(soonest) {
		return end
	}
	return soonest
}

func (s *scene) tick() {
	for _, a := range s.live() {
		for _, stale := range a.Tick() {
			if a.linked(stale) != nil {
				s.down(a, s.actor(stale), "stale")
			}
		}
	}
	if s.redial {
		s.connect()
	}
}

// work runs the oldest job.
func (a *actor) work() bool {
	if len(a.jobs) == 0 {
		return false
	}
	next := a.jobs[0]
	a.jobs = a.jobs[1:]
	next.run(a.scene.t.Context())
	return true
}

// write asks for the frames whose time has come.
func (a *actor) write() (wrote bool) {
	for _, b := range a.scene.actors {
		at, asked := a.ask[b.start]
		if !asked || at.After(a.scene.now) {
			continue
		}
		delete(a.ask, b.start)
		if p := a.linked(b.start); p != nil {
			a.scene.backlog = max(a.scene.backlog, p.out.bytes)
		}
		for {
			frame, again := a.Next(b.start, nil)
			if again > 0 {
				a.ask[b.start] = a.scene.now.Add(again)
			}
			if len(frame) == 0 {
				break
			}
			wrote = true
			a.scene.note(a, b, frame)
			a.wire[b.start] = append(a.wire[b.start], flight{frame, a.scene.now.Add(a.scene.latency)})
		}
	}
	return wrote
}

func (s *scene) note(from, to *actor, frame []byte) {
	s.frames++
	s.largest = max(s.largest, len(frame))
	s.trace = mix(s.trace ^ from.start<<8 ^ to.start)
	for _, c := range frame {
		s.trace = mix(s.trace ^ uint64(c))
	}
}

// deliver hands over one frame for each link.
func (a *actor) deliver() (delivered bool) {
	for _, b := range a.scene.actors {
		frames := a.wire[b.start]
		if len(frames) == 0 || frames[0].at.After(a.scene.now) {
			continue
		}
		a.wire[b.start] = frames[1:]
		arrive := [][]byte{frames[0].frame}
		if a.scene.carry != nil {
			arrive = a.scene.carry(a, b, frames[0].frame)
		}
		for _, frame := range arrive {
			if err := b.Receive(a.start, frame); err != nil && !errors.Is(err, errDown) {
				a.scene.t.Fatalf("%s from %s: %v", b.name, a.name, err)
			}
		}
		delivered = true
	}
	return delivered
}

// link returns what a shows of its link with b.
func (a *actor) link(b *actor) LinkStatus {
	for _, l := range a.Status().Links {
		if l.Start == b.start {
			return l
		}
	}
	a.scene.t.Fatalf("%s knows nothing of %s", a.name, b.name)
	return LinkStatus{}
}

// owners returns the indices of the actors that own a cart in their own view, in the order of their ranks.
func (s *scene) owners(id [16]byte) (owners []int) {
	for i, a := range s.actors {
		if a.ownsSlot(SlotOf(id)) {
			owners = append(owners, i)
		}
	}
	slices.SortFunc(owners, func(i, j int) int { return s.actors[i].Rank(id) - s.actors[j].Rank(id) })
	return owners
}

// expectEqual fails unless all nodes have the same carts, n of them if n is not negative.
func (s *scene) expectEqual(n int) {
	s.t.Helper()
	first := s.actors[0].carts
	if n >= 0 && len(first.carts) != n {
		s.t.Errorf("%s has %d carts, not %d", s.actors[0].name, len(first.carts), n)
	}
	for _, a := range s.actors[1:] {
		if *a.carts.Digests() == *first.Digests() {
			continue
		}
		for id, v := range first.carts {
			if !bytes.Equal(v.encode(), a.carts.carts[id].encode()) {
				s.t.Errorf("%x is %v at %s and %v at %s", id, v, s.actors[0].name, a.carts.carts[id], a.name)
				break
			}
		}
		s.t.Errorf("%s has %d carts, %s %d", s.actors[0].name, len(first.carts), a.name, len(a.carts.carts))
	}
}

// eventCarts are carts of which nothing is known but how many events of each author they have.
type eventCarts struct {
	actor  *actor
	carts  map[[16]byte]vector
	slots  [Slots][][16]byte // their ids, in order
	seeded bool
	stored map[[16]byte]bool // carts of which the database lacks nothing

	refuse    func(id [16]byte) bool // payloads that are refused
	broken    bool                   // nothing can be loaded
	stateless bool                   // no payload can be made of a cart
	tolerant  bool                   // payloads and vectors that are not from a test are taken
	marks     []string
	lost      []uint64
	delivered int // payloads
	states    int // of these, whole carts
	arrived   int // of these, from another region
	asked     int // of these, such as are not durable there
	vectors   int // calls of Vector

	keeps     int // calls of Keep
	own, held slotSet
	unseeded  slotSet
}

// vector is the state of a cart: the number of events by author, in the order of the scene.
type vector [16]uint64

func (v vector) encode() (b []byte) {
	for _, n := range v {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func decodeVector(b []byte) (v vector) {
	for i := range v {
		v[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return v
}

// covers reports whether v has all that w has.
func (v vector) covers(w vector) bool {
	for i := range v {
		if v[i] < w[i] {
			return false
		}
	}
	return true
}

// change makes an event, replicates it, and returns where the start ids go that are said to hold it.
// That they do is checked as they come.
func (a *actor) change(id [16]byte) *[]uint64 {
	v := a.carts.carts[id]
	v[a.start]++
	a.carts.put(id, v)
	holders := new([]uint64)
	var alone vector
	alone[a.start] = v[a.start]
	a.Replicate(id, eventDelta(a.start, v[a.start]), func(holder uint64) {
		*holders = append(*holders, holder)
		a.scene.expectHeld(holder, id, alone)
	})
	return holders
}

func (s *scene) expectHeld(holder uint64, id [16]byte, v vector) {
	s.t.Helper()
	if !s.actor(holder).carts.carts[id].covers(v) {
		s.t.Errorf("%x: %s is said to hold %v and has %v", id, s.actor(holder).name, v, s.actor(holder).carts.carts[id])
	}
}

// eventDelta is the delta of an event: author and number, in 9 bytes. Any other payload is a state.
func eventDelta(author, n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(author)}, n)
}

func (c *eventCarts) Deliver(_ uint64, id [16]byte, payload []byte) (held, lacks bool) {
	c.delivered++
	if c.refuse != nil && c.refuse(id) {
		return false, false
	}
	if c.tolerant {
		return len(payload)%2 == 0, len(payload)%3 == 0
	}
	v := c.carts[id]
	if len(payload) == 9 {
		author, n := payload[0], binary.BigEndian.Uint64(payload[1:])
		if n > v[author]+1 {
			return false, true
		}
		v[author] = max(v[author], n)
	} else {
		c.states++
		for i, n := range decodeVector(payload) {
			v[i] = max(v[i], n)
		}
	}
	c.put(id, v)
	return true, false
}

func (c *eventCarts) Arrive(_ string, durable bool, id [16]byte, payload []byte) (held, lacks bool) {
	c.arrived++
	if !durable {
		c.asked++
	}
	return c.Deliver(0, id, payload)
}

func (c *eventCarts) Mark(from uint64, id [16]byte, mark []byte) {
	c.marks = append(c.marks, fmt.Sprintf("%d %x %s", from, id[:2], mark))
}

func (c *eventCarts) Recall(id [16]byte) ([]byte, bool) {
	v, known := c.carts[id]
	return v.encode(), known
}

// Keep drops what is in other slots, at once.
func (c *eventCarts) Keep(own, held [Slots / 64]uint64) {
	c.keeps++
	c.own, c.held = own, held
	keep := c.own.or(&c.held)
	for slot, ids := range c.slots {
		if keep.has(slot) {
			continue
		}
		for _, id := range slices.Clone(ids) {
			c.evict(id)
		}
	}
}

func (c *eventCarts) Seeded() (slots [Slots / 64]uint64) {
	switch seeded := c.own; {
	case !c.seeded:
	case c.keeps == 0:
		slots = allSlots
	default:
		slots = seeded.without(&c.unseeded)
	}
	return slots
}

func (c *eventCarts) version(id [16]byte) uint64 {
	h := mix(mix(binary.BigEndian.Uint64(id[:])) ^ binary.BigEndian.Uint64(id[8:]))
	for _, n := range c.carts[id] {
		h = mix(h ^ n)
	}
	return h
}

func (c *eventCarts) Digests() *[Slots]uint64 {
	d := new([Slots]uint64)
	for id := range c.carts {
		d[SlotOf(id)] ^= c.version(id)
	}
	return d
}

func (c *eventCarts) EachVersion(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	ids := c.slots[SlotOf(from)]
	i, _ := slices.BinarySearchFunc(ids, from, compareIDs)
	for _, id := range ids[i:] {
		if !yield(id, c.version(id)) {
			return
		}
	}
}

func compareIDs(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }

// EachUnsaved is EachVersion: nothing is stored but what a test says.
func (c *eventCarts) EachUnsaved(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	c.EachVersion(from, func(id [16]byte, version uint64) bool { return c.stored[id] || yield(id, version) })
}

// Unsaved loads nothing, so it does not mind what is broken.
func (c *eventCarts) Unsaved(_ context.Context, id [16]byte) (payloads [][]byte, err error) {
	if c.stateless {
		return nil, errBroken
	}
	if v, known := c.carts[id]; known && !c.stored[id] {
		payloads = [][]byte{append(v.encode(), padding...)}
	}
	return payloads, nil
}

// save has the database take the first carts.
func (c *eventCarts) save(carts int) {
	if c.stored == nil {
		c.stored = make(map[[16]byte]bool)
	}
	for n := range carts {
		c.stored[cartID(n)] = true
	}
}

// put sets a cart.
func (c *eventCarts) put(id [16]byte, v vector) {
	if _, known := c.carts[id]; !known {
		ids := c.slots[SlotOf(id)]
		i, _ := slices.BinarySearchFunc(ids, id, compareIDs)
		c.slots[SlotOf(id)] = slices.Insert(ids, i, id)
	}
	c.carts[id] = v
}

// evict forgets a cart.
func (c *eventCarts) evict(id [16]byte) {
	delete(c.carts, id)
	c.slots[SlotOf(id)] = slices.DeleteFunc(c.slots[SlotOf(id)], func(other [16]byte) bool { return other == id })
}

var errBroken = errors.New("out of reach")

func (c *eventCarts) Vector(_ context.Context, id [16]byte) ([]byte, bool, error) {
	if c.broken {
		return nil, false, errBroken
	}
	c.vectors++
	v, known := c.carts[id]
	return v.encode(), known, nil
}

func (c *eventCarts) Compare(_ context.Context, id [16]byte, other []byte) (ahead, behind bool, err error) {
	if c.broken {
		return false, false, errBroken
	}
	if c.tolerant {
		return len(other)%2 == 0, len(other)%3 == 0, nil
	}
	v, w := c.carts[id], decodeVector(other)
	return !w.covers(v), !v.covers(w), nil
}

// padding makes states larger than vectors.
var padding = make([]byte, 300)

func (c *eventCarts) State(_ context.Context, id [16]byte) ([]byte, func(uint64), error) {
	if c.broken || c.stateless {
		return nil, nil, errBroken
	}
	v, known := c.carts[id]
	if !known {
		return nil, nil, nil
	}
	return append(v.encode(), padding...), func(holder uint64) { c.actor.scene.expectHeld(holder, id, v) }, nil
}

func (c *eventCarts) Durable(ctx context.Context, id [16]byte) ([]byte, error) {
	payload, _, err := c.State(ctx, id)
	return payload, err
}

func (c *eventCarts) Lost(peer uint64) { c.lost = append(c.lost, peer) }

// cartID returns one of the ids that tests use, spread over the slots.
func cartID(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], mix(uint64(n)))
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}
