package gossip

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// connectedRegions returns a scene of regions of n nodes each, whose bridges are linked, in sync.
func connectedRegions(t tester, n int, names string, change ...func(*CoreOptions)) *scene {
	s := newScene(t, 0, change...)
	for i, name := range strings.Fields(names) {
		for j := range n {
			s.add(memberIn(name, uint64(i*n+j+1)))
		}
	}
	s.meet()
	s.connect()
	s.bridge()
	s.run(5 * time.Second)
	for _, a := range s.actors {
		if !a.Synced() || !a.SyncedAbroad() {
			t.Fatalf("%s is not synced: %+v", a.name, a.Status())
		}
	}
	return s
}

func memberIn(region string, start uint64) Member {
	m := memberOf(start)
	m.Region, m.WAN = region, true
	return m
}

// bridge elects the bridges of all regions and links them.
func (s *scene) bridge() {
	bridges := map[string][]Member{}
	for _, a := range s.live() {
		if _, done := bridges[a.self.Region]; !done {
			bridges[a.self.Region] = s.elected(a.self.Region)
		}
	}
	for _, a := range s.live() {
		is := false
		var abroad []Member
		for region, elected := range bridges {
			if region != a.self.Region {
				abroad = append(abroad, elected...)
				continue
			}
			is = slices.ContainsFunc(elected, func(m Member) bool { return m.Start == a.start })
		}
		slices.SortFunc(abroad, byElection)
		a.SetBridges(is, abroad)
	}
	for _, a := range s.live() {
		for _, b := range s.live() {
			linked := a.linked(b.start) != nil
			switch both := a.Status().Bridge && b.Status().Bridge; {
			case a.self.Region >= b.self.Region:
			case both && !linked:
				s.up(a, b)
			case !both && linked:
				s.down(a, b, "no bridge any more")
			}
		}
	}
}

func (s *scene) elected(region string) []Member {
	var members []Member
	for _, a := range s.in(region) {
		members = append(members, a.self)
	}
	return elect(members)
}

// in returns the live nodes of a region.
func (s *scene) in(region string) []*actor {
	return slices.DeleteFunc(s.live(), func(a *actor) bool { return a.self.Region != region })
}

func (s *scene) bridges() []*actor {
	return slices.DeleteFunc(s.live(), func(a *actor) bool { return !a.Status().Bridge })
}

// plain returns a node of the first region that is no bridge.
func (s *scene) plain() *actor {
	for _, a := range s.in(s.actors[0].self.Region) {
		if !a.Status().Bridge {
			return a
		}
	}
	s.t.Fatalf("all are bridges")
	return nil
}

// cutAbroad closes all links between regions.
func (s *scene) cutAbroad() {
	for _, a := range s.live() {
		for _, b := range s.live() {
			if a.self.Region < b.self.Region && a.linked(b.start) != nil {
				s.down(a, b, "cut")
			}
		}
	}
}

// cross makes an event that is durable at once.
func (a *actor) cross(id [16]byte) {
	a.change(id)
	a.Cross(id, eventDelta(a.start, a.carts.carts[id][a.start]), true, nil)
}

// ownersIn returns the start ids of the owners of a cart in a region, in ascending order.
func (s *scene) ownersIn(region string, id [16]byte) (starts []uint64) {
	for _, a := range s.in(region) {
		if a.ownsSlot(SlotOf(id)) {
			starts = append(starts, a.start)
		}
	}
	return starts
}

// expectOwned fails unless each of some carts is there, and the same with all of its owners in all regions.
func (s *scene) expectOwned(ids ...[16]byte) {
	s.t.Helper()
	for _, id := range ids {
		if !slices.ContainsFunc(s.live(), func(a *actor) bool { return a.carts.carts[id] != vector{} }) {
			s.t.Errorf("%x is nowhere", id[:4])
		}
	}
	s.expectAlike(ids)
}

// expectAlike fails unless each of some carts is the same with all of its owners in all regions.
func (s *scene) expectAlike(ids [][16]byte) {
	s.t.Helper()
	for _, id := range ids {
		var first *actor
		for _, a := range s.live() {
			switch {
			case !a.ownsSlot(SlotOf(id)):
			case first == nil:
				first = a
			case a.carts.carts[id] != first.carts.carts[id]:
				s.t.Errorf("%x is %v at %s of %s and %v at %s of %s", id[:4], first.carts.carts[id], first.name, first.self.Region,
					a.carts.carts[id], a.name, a.self.Region)
			}
		}
	}
}

// crossingsIn returns the crossings in a frame.
func crossingsIn(t tester, frame []byte) (all []crossing) {
	_, items, err := decodeFrame(frame)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, it := range items {
		if it.kind != kindCross {
			continue
		}
		x, err := decodeCrossing(&it)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all = append(all, x)
	}
	return all
}

// spy has see called with each crossing on a link between regions.
func (s *scene) spy(see func(from, to *actor, x crossing)) {
	s.carry = func(from, to *actor, frame []byte) [][]byte {
		if from.self.Region != to.self.Region {
			for _, x := range crossingsIn(s.t, frame) {
				see(from, to, x)
			}
		}
		return [][]byte{frame}
	}
}

// What is durable in a region is with the owners of all others at once, and goes to each region once.
func TestChangeCrossesOnce(t *testing.T) {
	for _, names := range []string{"eu us", "eu us ap"} {
		s := connectedRegions(t, 5, names)
		a := s.plain()
		var ids [][16]byte
		for n := 0; len(ids) < 20; n++ {
			if id := cartID(n); a.ownsSlot(SlotOf(id)) {
				ids = append(ids, id)
			}
		}
		copies := map[string]int{}
		s.spy(func(_, to *actor, x crossing) {
			if x.item.kind == kindDelta {
				copies[to.self.Region]++
			}
		})
		for _, id := range ids {
			a.cross(id)
		}
		s.run(10 * time.Millisecond)
		s.expectOwned(ids...)
		for _, region := range strings.Fields(names)[1:] {
			expect(t, "copies that went to "+region, copies[region], len(ids))
			for _, b := range s.in(region) {
				for _, id := range ids {
					if _, has := b.carts.carts[id]; has != b.ownsSlot(SlotOf(id)) {
						t.Errorf("%s has %x: %v", b.name, id[:4], has)
					}
				}
			}
		}
		expect(t, "copies that went home", copies["eu"], 0)
	}
}

// Who holds a change of another region says so itself.
func TestOwnersAbroadHold(t *testing.T) {
	s := connectedRegions(t, 5, "eu us ap")
	a := s.plain()
	expect(t, "processes abroad", a.Abroad(), 6)
	for n := range 20 {
		id := cartID(n)
		if n%4 == 0 { // not everybody does
			s.actor(s.ownersIn("us", id)[0]).carts.refuse = func(other [16]byte) bool { return other == id }
		}
		var holders []uint64
		var event vector
		event[a.start] = 1
		a.Cross(id, eventDelta(a.start, 1), false, func(holder uint64) {
			holders = append(holders, holder)
			s.expectHeld(holder, id, event)
			expect(t, "the holder is alive", a.Alive(holder), true)
		})
		s.settle()
		s.run(20 * time.Millisecond)
		slices.Sort(holders)
		want := slices.Concat(s.ownersIn("us", id), s.ownersIn("ap", id))
		if n%4 == 0 {
			want = want[1:]
		}
		expect(t, "holders", holders, want)
	}
	for _, b := range s.actors[5:] {
		expect(t, "asked as often as arrived", b.carts.asked, b.carts.arrived)
	}
	s.run(ticketLasts + time.Second)
	expect(t, "tickets", a.tickets.queue.len(), 0)
	// A draining process takes with it what it holds.
	id := cartID(1)
	leaver := s.actor(s.ownersIn("us", id)[0])
	leaver.SetDraining(true)
	var holders []uint64
	a.Cross(id, eventDelta(a.start, 1), false, func(holder uint64) { holders = append(holders, holder) })
	s.settle()
	if slices.Contains(holders, leaver.start) {
		t.Errorf("%s holds a change, and leaves", leaver.name)
	}
}

// A bridge that is asked to relay confirms nothing of what it could not deliver.
func TestBridgeConfirmsNothing(t *testing.T) {
	s := connectedRegions(t, 5, "eu us")
	a, id := s.plain(), cartID(1)
	s.carry = func(from, to *actor, frame []byte) [][]byte {
		if from.self.Region == "us" && to.self.Region == "us" {
			return nil
		}
		return [][]byte{frame}
	}
	var holders []uint64
	a.Cross(id, eventDelta(a.start, 1), false, func(holder uint64) { holders = append(holders, holder) })
	s.settle()
	for _, holder := range holders {
		if b := s.actor(holder); !b.Status().Bridge || !b.ownsSlot(SlotOf(id)) || b.carts.carts[id][a.start] == 0 {
			t.Errorf("%s holds it", b.name)
		}
	}
}

// When a bridge dies, what it took with it is found by repair, by way of the other one.
func TestBridgeDies(t *testing.T) {
	s := connectedRegions(t, 4, "eu us")
	var ids [][16]byte
	for round := range 2 {
		bridge := s.actor(s.elected("eu")[0].Start)
		lost := 0
		s.carry = func(from, to *actor, frame []byte) [][]byte {
			if from == bridge && to.self.Region != "eu" {
				lost += len(crossingsIn(t, frame))
				return nil
			}
			return [][]byte{frame}
		}
		for n := range 50 {
			id := cartID(100*round + n)
			ids = append(ids, id)
			for _, region := range []string{"eu", "us"} {
				a := s.actor(s.ownersIn(region, id)[0])
				if a == bridge {
					a = s.actor(s.ownersIn(region, id)[1])
				}
				a.cross(id)
			}
		}
		s.run(500 * time.Millisecond)
		if lost == 0 {
			t.Fatal("nothing was lost")
		}
		s.end(bridge)
		s.carry = nil
		s.run(100 * time.Millisecond)
		s.bridge()
		s.run(5 * time.Second)
		s.expectOwned(ids...)
	}
}

// What both sides changed while they were apart is equal within five seconds.
func TestRegionsThatWereApart(t *testing.T) {
	s := connectedRegions(t, 3, "eu us ap")
	s.cutAbroad()
	s.run(time.Second)
	for _, a := range s.actors {
		expect(t, "processes abroad", a.Abroad(), 0)
		for _, r := range a.Status().Regions {
			expect(t, "reachable", r.Reachable, false)
		}
	}
	var ids [][16]byte
	for n := range 1000 {
		id := cartID(n % 700)
		ids = append(ids, id)
		s.actors[n%9].cross(id)
	}
	s.run(30 * time.Second)
	s.bridge()
	s.run(5 * time.Second)
	s.expectOwned(ids...)
	s.expectEqual(700)
	for _, a := range s.actors {
		expect(t, "synced", a.SyncedAbroad(), true)
		for _, r := range a.Status().Regions {
			if !r.Reachable || r.NeedSync > 0 || s.now.Sub(r.Since) > 5*time.Second {
				t.Errorf("%s: %+v", a.name, r)
			}
		}
	}
}

// An owner that lacks what a change builds on asks its author, before any repair.
func TestOwnerAbroadLacksTheBase(t *testing.T) {
	s := connectedRegions(t, 4, "eu us")
	a, id := s.plain(), cartID(1)
	for range 3 {
		a.change(id)
	}
	a.cross(id)
	s.run(10 * time.Millisecond)
	s.expectOwned(id)
}

// A region that lost everything gets it from another one.
func TestRegionComesBackEmpty(t *testing.T) {
	const carts = 3000
	s := connectedRegions(t, 3, "eu us")
	var ids [][16]byte
	for n := range carts {
		ids = append(ids, cartID(n))
		s.actors[n%3].cross(cartID(n))
	}
	s.run(time.Second)
	for _, a := range s.in("us") {
		s.end(a)
	}
	s.bridge()
	s.run(2 * time.Second)
	for start := range uint64(3) {
		s.add(memberIn("us", 7+start))
	}
	s.meet()
	s.connect()
	s.bridge()
	s.run(5 * time.Second)
	s.expectOwned(ids...)
	sent := 0
	for _, a := range s.in("eu") {
		sent += int(a.Status().Counters.StatesSent)
	}
	if sent > carts+carts/10 {
		t.Errorf("%d states were sent, of %d carts", sent, carts)
	}
}

// A process that owns nothing yet is compared with other regions, too.
func TestJoinerIsComparedAbroad(t *testing.T) {
	s := connectedRegions(t, 1, "eu us")
	for n := range 100 {
		s.actors[0].cross(cartID(n))
	}
	s.run(time.Second)
	s.cutAbroad()
	s.end(s.actors[1])
	m := memberIn("us", 3)
	m.State = Joining
	a := s.add(m)
	m.State = Active // a region of a single node elects it when it is active
	s.meet()
	s.run(time.Second)
	a.self = m
	s.meet()
	s.bridge()
	s.run(5 * time.Second)
	expect(t, "carts", len(a.carts.carts), 100)
	expect(t, "synced", a.SyncedAbroad(), true)
}

// What changes in another region, all nodes of this one hear soon, and not only its bridges.
func TestRosterIsPassedOn(t *testing.T) {
	s := connectedRegions(t, 3, "eu us")
	for _, a := range s.in("us") {
		if !a.Status().Bridge {
			s.end(a)
		}
	}
	s.run(100 * time.Millisecond)
	expect(t, "processes there", s.plain().Status().Regions[0].Processes, 2)
}

// What does not fit into the outbox of a link between regions, repair finds.
func TestOutboxAbroadOverflows(t *testing.T) {
	s := connectedRegions(t, 3, "eu us", func(o *CoreOptions) { o.MaxOutbox = 64 << 10 })
	hold := true
	s.carry = func(from, to *actor, frame []byte) [][]byte {
		if hold && from.self.Region != to.self.Region {
			return nil
		}
		return [][]byte{frame}
	}
	var ids [][16]byte
	for n := range 2000 {
		ids = append(ids, cartID(n))
		s.actors[n%3].cross(cartID(n))
		if n%50 == 0 {
			s.run(time.Millisecond)
		}
	}
	overflows := 0
	for _, a := range s.in("eu") {
		for _, r := range a.Status().Regions {
			for _, l := range r.Bridges {
				overflows += int(l.Counters.Overflows)
			}
		}
	}
	if overflows == 0 {
		t.Fatal("nothing overflowed")
	}
	s.cutAbroad()
	hold = false
	s.bridge()
	s.run(10 * time.Second)
	s.expectOwned(ids...)
}

// A cart that this region lacks is asked for where it may be, while the regions are not in sync.
func TestFetchAsksAbroad(t *testing.T) {
	s := connectedRegions(t, 3, "eu us")
	id := cartID(1)
	s.cutAbroad()
	s.actor(s.ownersIn("us", id)[0]).cross(id)
	s.run(time.Second)
	fetch := func(a *actor, lacking bool) (payloads int, complete bool) {
		answered := false
		a.Fetch(id, lacking, func(got [][]byte, all bool) { payloads, complete, answered = len(got), all, true })
		s.run(500 * time.Millisecond)
		expect(t, "it is answered", answered, true)
		return payloads, complete
	}
	for _, a := range s.in("eu") { // a region serves alone
		payloads, complete := fetch(a, true)
		expect(t, "payloads", payloads, 0)
		expect(t, "complete", complete, true)
	}
	for _, a := range s.in("us") { // nothing is compared
		a.carts.seeded = false
	}
	s.bridge()
	s.run(50 * time.Millisecond)
	for _, a := range s.in("eu") {
		payloads, complete := fetch(a, false)
		expect(t, "payloads", payloads, 1)
		expect(t, "complete", complete, true)
	}
	for _, a := range s.in("us") {
		a.carts.seeded = true
	}
	s.run(20 * time.Second)
	for _, a := range s.in("eu") {
		payloads, _ := fetch(a, false)
		expect(t, "payloads, of this region alone", payloads, 2)
		payloads, _ = fetch(a, true)
		expect(t, "payloads, where this region is lacking something", payloads, 3)
	}
}

// Crossings and words that nobody may send are refused and counted, and go nowhere.
func TestForgedCrossings(t *testing.T) {
	hash := regionHash
	delta := item{kind: kindDelta, id: cartID(1), body: eventDelta(15, 1)}
	seats := []seat{{hash: 1, start: 99}}
	for name, c := range map[string]struct {
		abroad bool // the sender is of another region
		item   func(s *scene, from, to *actor) item
	}{
		"transit": {true, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("ap"), from: hash("us"), origin: from.start, item: delta}).wrap()
		}},
		"back home": {true, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("us"), from: hash("eu"), origin: from.start, item: delta}).wrap()
		}},
		"of another region": {true, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("eu"), from: hash("ap"), origin: from.start, item: delta}).wrap()
		}},
		"of a region that is not known": {true, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("eu"), from: hash("xx"), origin: from.start, item: delta}).wrap()
		}},
		"to a region that is not known": {false, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("xx"), from: hash("eu"), origin: from.start, item: delta}).wrap()
		}},
		"of another process": {false, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("us"), from: hash("eu"), origin: from.start + 100, item: delta}).wrap()
		}},
		"out, of another region": {false, func(_ *scene, from, _ *actor) item {
			return (&crossing{to: hash("us"), from: hash("ap"), origin: from.start, item: delta}).wrap()
		}},
		"for another process": {false, func(_ *scene, from, to *actor) item {
			return (&crossing{to: hash("eu"), process: from.start, from: hash("us"), origin: 7, item: delta}).wrap()
		}},
		"a word of another region": {true, func(*scene, *actor, *actor) item {
			return (&word{region: "ap", roster: roster{3, seats}}).item()
		}},
		"a word of this region": {false, func(*scene, *actor, *actor) item {
			return (&word{region: "eu", roster: roster{3, seats}}).item()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := connectedRegions(t, 3, "eu us ap")
			to := s.bridges()[0]
			from := s.plain()
			if c.abroad {
				from = s.actor(s.elected("us")[0].Start)
			}
			before, frames := to.refusals(), s.frames
			it := c.item(s, from, to)
			inject(t, to, from, &it)
			expect(t, "refused", to.refusals(), before+1)
			s.spy(func(_, _ *actor, x crossing) { t.Errorf("%+v crosses", x) })
			s.settle()
			for _, a := range s.actors {
				expect(t, "carts", len(a.carts.carts), 0)
			}
			if n := s.frames - frames; n > 2 {
				t.Errorf("%d frames", n)
			}
		})
	}
}

// refusals is how much of what is between regions a node has refused.
func (a *actor) refusals() (n uint64) {
	s := a.Status()
	n = s.RefusedCrossings
	for _, r := range s.Regions {
		n += r.Crossings.Refused
	}
	return n
}

// inject makes a node receive an item as the next frame of another one.
func inject(t *testing.T, to, from *actor, items ...*item) {
	t.Helper()
	p := to.linked(from.start)
	b := appendHeader(nil, &header{seq: p.in.received + 1, ack: p.out.acked()})
	for _, it := range items {
		b = appendItem(b, it)
	}
	if err := to.Receive(from.start, b); err != nil {
		t.Fatal(err)
	}
	from.linked(to.start).out.seq++
	from.linked(to.start).out.frames.push(frame{})
}

// Items between regions that are malformed end the link.
func TestMalformedCrossings(t *testing.T) {
	delta := item{kind: kindDelta, id: cartID(1), body: eventDelta(1, 1)}
	plain := crossing{to: 1, from: 2, origin: 3, item: delta}
	change := func(f func(*crossing)) item {
		x := plain
		f(&x)
		return x.wrap()
	}
	many := word{region: "us", roster: roster{replicas: 3}}
	for i := range uint64(maxSites + 1) {
		many.roster.sites = append(many.roster.sites, seat{hash: i + 1, start: i + 1})
	}
	twice := word{region: "us", roster: roster{3, []seat{{hash: 1, start: 1}, {hash: 2, start: 1}}}}
	nobody := word{region: "us", roster: roster{3, []seat{{zone: "a"}}}}
	greedy := word{region: "us", roster: roster{maxReplicas + 1, []seat{{hash: 1, start: 1}}}}
	none := word{region: "us", roster: roster{0, []seat{{hash: 1, start: 1}}}}
	long := word{region: strings.Repeat("x", maxPlace+1)}
	valid := change(func(*crossing) {})
	if !valid.valid() {
		t.Fatal("a valid one is refused")
	}
	root := item{kind: kindRoot, body: encodeSlots(&allSlots, &slotSet{}, &slotSet{})}
	for name, it := range map[string]item{
		"to where it comes from":   change(func(x *crossing) { x.from = 1 }),
		"of nobody":                change(func(x *crossing) { x.origin = 0 }),
		"a mark":                   change(func(x *crossing) { x.item.kind = kindMark }),
		"a crossing in a crossing": change(func(x *crossing) { x.item.kind = kindCross }),
		"a part":                   change(func(x *crossing) { x.item.kind = kindPart }),
		"a word":                   change(func(x *crossing) { x.item = item{kind: kindRegion} }),
		"of no kind":               change(func(x *crossing) { x.item.kind = kinds }),
		"a root for all":           change(func(x *crossing) { x.item = root }),
		"a root that is none":      change(func(x *crossing) { x.process, x.item = 9, item{kind: kindRoot, body: []byte("x")} }),
		"a delta with a number":    change(func(x *crossing) { x.item.n = 1 }),
		"a want with a body":       change(func(x *crossing) { x.process, x.item.kind = 9, kindWant }),
		"cut off":                  {kind: kindCross, n: 1, body: valid.body[:3]},
		"many sites":               many.item(),
		"a process at two sites":   twice.item(),
		"a site that is none":      nobody.item(),
		"many owners":              greedy.item(),
		"sites without owners":     none.item(),
		"a long name":              long.item(),
		"a word cut off":           {kind: kindRegion, body: twice.item().body[:6]},
	} {
		if it.valid() {
			t.Errorf("%s: taken", name)
		}
	}
	s := connectedRegions(t, 2, "eu us")
	a, b := s.in("eu")[0], s.in("us")[0]
	for _, it := range []item{delta, root, {kind: kindMark}, {kind: kindHolds}, {kind: kindFetch}} {
		frame := appendItem(appendHeader(nil, &header{seq: a.linked(b.start).in.received + 1}), &it)
		if err := a.Receive(b.start, frame); !errors.Is(err, ErrMalformed) {
			t.Errorf("an item of kind %d from another region: %v", it.kind, err)
		}
	}
}

// What a node remembers of other regions is bounded.
func TestMemoryOfRegionsIsBounded(t *testing.T) {
	s := connectedRegions(t, 3, "eu us")
	a := s.plain()
	bridge := s.bridges()[0]
	for n := range maxRegions + 100 {
		w := word{region: "r" + string(binary.BigEndian.AppendUint16(nil, uint16(n))), roster: roster{3, []seat{{hash: 1, start: 50}}}}
		it := w.item()
		inject(t, a, bridge, &it)
	}
	expect(t, "regions", len(a.Status().Regions), maxRegions)
	if a.Status().RefusedCrossings < 100 {
		t.Error("nothing is refused")
	}
	for range maxTickets + 1000 {
		a.Cross(cartID(1), nil, false, func(uint64) {})
	}
	expect(t, "tickets", a.tickets.queue.len(), maxTickets)
	s.now = s.now.Add(ticketLasts)
	a.Tick()
	expect(t, "tickets", a.tickets.queue.len(), 0)
}

// faultyRegions is a run of regions under faults that rapid draws.
type faultyRegions struct {
	*scene
	r     *rapid.T
	ids   [][16]byte
	ended bool
}

// Whatever was lost between regions and within them, they become equal.
func TestRegionsUnderFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long, in one thread")
	}
	rapid.Check(t, func(r *rapid.T) {
		names := rapid.SampledFrom([]string{"eu us", "eu us ap"}).Draw(r, "regions")
		limit := rapid.SampledFrom([]int{0, 20 << 10}).Draw(r, "outbox")
		z := &faultyRegions{r: r, scene: connectedRegions(r, 3, names, two, func(o *CoreOptions) { o.MaxOutbox = limit })}
		for range rapid.IntRange(5, 30).Draw(r, "steps") {
			z.step()
		}
		z.heal()
	})
}

func (z *faultyRegions) any(what string) *actor { return rapid.SampledFrom(z.live()).Draw(z.r, what) }

func (z *faultyRegions) step() {
	switch rapid.SampledFrom([]string{"change", "change", "burst", "quiet", "cut", "mend", "flap", "elect", "end", "lose", "drain"}).Draw(z.r, "step") {
	case "change":
		z.write(1, true)
	case "burst":
		z.write(40, true)
	case "quiet": // its author does not tell the other regions
		z.write(3, false)
	case "cut":
		a, b := z.any("from"), z.any("to")
		if a != b && a.linked(b.start) != nil {
			z.down(a, b, "cut")
		}
	case "mend":
		z.connect()
		z.bridge()
	case "flap":
		z.cutAbroad()
		z.bridge()
	case "elect":
		z.bridge()
	case "end":
		if a := z.any("end"); len(z.actors) < 15 && len(z.in(a.self.Region)) > 1 {
			z.end(a)
			z.ended = true
			m := memberIn(a.self.Region, uint64(len(z.actors)+1))
			z.add(m)
			z.meet()
		}
	case "lose":
		z.carry = func(_, _ *actor, frame []byte) [][]byte {
			if rapid.IntRange(0, 9).Draw(z.r, "lost") == 0 {
				return nil
			}
			return [][]byte{frame}
		}
	case "drain":
		a := z.any("drain")
		z.turn(a, Draining)
		z.run(100 * time.Millisecond)
		z.turn(a, Active)
	}
	z.run(time.Duration(rapid.IntRange(0, 800).Draw(z.r, "ms")) * time.Millisecond)
	z.carry = nil
}

func (z *faultyRegions) write(n int, crosses bool) {
	for range n {
		a := z.any("author")
		id := cartID(rapid.IntRange(0, 60).Draw(z.r, "cart"))
		if z.ids = append(z.ids, id); crosses {
			a.cross(id)
		} else {
			a.change(id)
		}
	}
}

// heal lets the regions come to rest.
func (z *faultyRegions) heal() {
	for range 2 { // links that lost frames are found stale
		z.run(4 * time.Second)
		z.connect()
		z.bridge()
	}
	z.run(15 * time.Second)
	if z.ended { // who is new has not met those that were lost: until these are out, it takes others for owners
		z.run(replaceAfter)
	}
	z.expectAlike(z.ids)
	z.expectNothingHeld()
	for _, a := range z.live() {
		if !a.SyncedAbroad() {
			z.t.Errorf("%s of %s is not in sync: %+v", a.name, a.self.Region, a.Status().Regions)
		}
	}
}

// What a bridge passes on comes after the word that its region can be reached: sessions that are opened at once are
// not lost on a node that has not heard of it.
func TestWordGoesFirst(t *testing.T) {
	s := connectedRegions(t, 3, "eu us")
	s.cutAbroad()
	for i, a := range s.actors {
		a.cross(cartID(i))
	}
	s.run(5 * time.Second)
	s.bridge()
	s.settle()
	s.tick() // bridges tell those of the other region
	s.settle()
	for range 3 { // one region is slower
		for _, a := range s.in("eu") {
			a.Tick()
		}
		s.settle()
	}
	s.run(2 * time.Second)
	for _, a := range s.live() {
		if !a.SyncedAbroad() {
			t.Errorf("%s is not synced: %+v", a.name, a.Status())
		}
	}
	s.expectOwned(cartID(0), cartID(3))
}
