package gossip

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// two makes a cart have two owners.
func two(o *CoreOptions) { o.Replicas = 2 }

// stranger returns a node that does not own a cart.
func (s *scene) stranger(id [16]byte) *actor {
	for i, a := range s.actors {
		if !slices.Contains(s.owners(id), i) {
			return a
		}
	}
	s.t.Fatalf("all own %x", id)
	return nil
}

// spread makes n changes of as many carts, each at its first owner.
func (s *scene) spread(n int) {
	for n := range n {
		s.actors[s.owners(cartID(n))[0]].change(cartID(n))
	}
	s.settle()
}

// expectPlaced fails unless each of the first n carts is with its owners, equal, and with nobody else.
func (s *scene) expectPlaced(n int) {
	s.t.Helper()
	for n := range n {
		id := cartID(n)
		owners := s.owners(id)
		want := s.actors[owners[0]].carts.carts[id]
		if want == (vector{}) {
			s.t.Errorf("cart %d is not with %s, its first owner", n, s.actors[owners[0]].name)
		}
		for i, a := range s.actors {
			v, has := a.carts.carts[id]
			switch owns := slices.Contains(owners, i); {
			case a.gone:
			case owns && v != want:
				s.t.Errorf("cart %d: %v with %s, and %v with %s", n, want, s.actors[owners[0]].name, v, a.name)
			case has && !owns:
				s.t.Errorf("cart %d is with %s, which does not own it", n, a.name)
			}
		}
	}
}

func (s *scene) expectNothingHeld() {
	s.t.Helper()
	for _, a := range s.live() {
		expect(s.t, "slots that "+a.name+" holds", a.Status().Placement.Held, 0)
	}
}

func TestJoinMovesWhatItMust(t *testing.T) {
	const carts = 500
	s := connected(t, 5)
	s.spread(carts)
	before := make([]slotSet, 5)
	for i, a := range s.actors {
		before[i] = a.placement.own
	}
	joiner := memberOf(6)
	joiner.State = Joining
	a := s.add(joiner)
	s.meet()
	s.connect()
	s.run(3 * time.Second)
	expect(t, "the joiner is synced", a.Synced(), true)
	for id := range s.actors[0].carts.carts {
		if a.ownsSlot(SlotOf(id)) && a.carts.carts[id] != s.actors[0].carts.carts[id] {
			t.Fatalf("it is synced, and lacks %x", id)
		}
	}
	for i, b := range s.actors[:5] {
		expect(t, "slots of "+b.name+" while another one joins", b.placement.own, before[i])
	}

	s.turn(a, Active)
	for _, b := range s.actors[:5] {
		expect(t, "the joiner needs sync", b.link(a).NeedsSync, true)
	}
	s.settle()
	for _, b := range s.actors[:5] { // what they lost they keep for the time being
		if st := b.Status().Placement; st.Held == 0 || st.Held != int(st.Lost) || st.Gained != 0 || st.Sites != 6 {
			t.Errorf("%s: %+v", b.name, st)
		}
	}
	s.run(5 * time.Second)
	s.expectNothingHeld()
	s.expectPlaced(carts)
	moved := a.Status().Placement.Own
	if ideal := Slots * 3 / 6; moved < ideal*9/10 || moved > ideal*11/10 {
		t.Errorf("%d slots moved, of %d on average", moved, ideal)
	}
}

func TestRestartAtTheSameAddressMovesNothing(t *testing.T) {
	const carts = 200
	s := connected(t, 5)
	s.spread(carts)
	old := s.actors[4]
	own := old.placement.own
	s.end(old)
	s.run(10 * time.Second)
	m := memberOf(6)
	m.GossipAddr, m.State = old.self.GossipAddr, Joining
	a := s.add(m)
	s.meet()
	s.connect()
	s.run(3 * time.Second)
	expect(t, "the new process is synced", a.Synced(), true)
	s.turn(a, Active)
	s.run(40 * time.Second)
	expect(t, "its slots", a.placement.own, own)
	for _, b := range s.live()[:4] {
		st := b.Status().Placement
		expect(t, "slots that moved", []uint64{st.Gained, st.Lost}, []uint64{0, 0})
		expect(t, "sites", st.Sites, 5)
	}
	s.expectNothingHeld()
	s.expectPlaced(carts)
}

func TestLostSiteIsReplacedAfterAWhile(t *testing.T) {
	const carts = 200
	s := connected(t, 5)
	s.spread(carts)
	s.end(s.actors[4])
	s.run(replaceAfter - 50*time.Millisecond)
	for _, a := range s.live() {
		st := a.Status().Placement
		expect(t, "sites", st.Sites, 5)
		expect(t, "slots that moved", st.Gained, uint64(0))
	}
	s.run(100 * time.Millisecond)
	for _, a := range s.live() {
		st := a.Status().Placement
		expect(t, "sites", st.Sites, 4)
		expect(t, "slots that moved to it", st.Gained > 0, true)
	}
	s.run(5 * time.Second)
	s.expectNothingHeld()
	s.expectPlaced(carts)
}

func TestDrainingNodeHandsOver(t *testing.T) {
	const carts = 300
	s := connected(t, 5)
	s.spread(carts)
	a := s.actors[0]
	expect(t, "handed over before it drains", a.HandedOver(), false)
	s.turn(a, Draining)
	expect(t, "handed over at once", a.HandedOver(), false)
	expect(t, "its slots", a.Status().Placement.Own, 0)
	expect(t, "its home", a.Home(), -1)
	for range 500 {
		s.run(10 * time.Millisecond)
		if a.HandedOver() {
			break
		}
	}
	expect(t, "handed over", a.HandedOver(), true)
	s.end(a)
	s.expectPlaced(carts)
}

func TestDrainingNodeOfTwoDoesNotHandOver(t *testing.T) {
	s := connected(t, 2)
	s.actors[0].change(cartID(1))
	s.turn(s.actors[0], Draining)
	s.run(5 * time.Second)
	expect(t, "handed over to one", s.actors[0].HandedOver(), false)
	expect(t, "slots that it keeps", s.actors[0].Status().Placement.Held, Slots)
}

// A node that answers for the owners of a cart keeps it until all of them have it.
func TestTakenOverCartGoesToItsOwners(t *testing.T) {
	s := connected(t, 5, two)
	id := cartID(1)
	a, owners := s.stranger(id), s.owners(id)
	first, second := s.actors[owners[0]], s.actors[owners[1]]
	s.down(a, first, "cut")
	s.down(a, second, "cut")
	expect(t, "short", a.Status().Placement.Short > 0, true)
	tried := 0
	expect(t, "here", a.Forward(id, false, func(Member) bool { tried++; return true }), true)
	expect(t, "owners that were asked", tried, 0)
	holders := a.change(id)
	s.settle()
	expect(t, "holders, that own it not", len(*holders), 1)
	spare := s.actor((*holders)[0])
	expect(t, "slots that the spare holds", spare.Status().Placement.Held, 1)
	s.run(3 * time.Second)
	expect(t, "an owner has it from the spare", first.carts.carts[id], a.carts.carts[id])
	s.expectKeeps(a, id)

	s.up(a, first)
	s.run(5 * time.Second)
	s.expectKeeps(a, id) // the second owner has it from the first, as a cannot know
	s.up(a, second)
	s.run(5 * time.Second)
	s.expectNothingHeld()
	s.expectPlaced(0)
	_, kept := a.carts.carts[id]
	expect(t, "kept", kept, false)
	expect(t, "equal", first.carts.carts[id], second.carts.carts[id])
	expect(t, "taken over", a.Status().Placement.TakenOver, uint64(1))
}

func (s *scene) expectKeeps(a *actor, id [16]byte) {
	s.t.Helper()
	_, has := a.carts.carts[id]
	expect(s.t, a.name+" keeps it", []bool{has, a.carts.held.has(SlotOf(id))}, []bool{true, true})
}

// What a node holds is not released when too few of its owners are there, or one that is cannot take it.
func TestHeldSlotIsNotReleasedTooEarly(t *testing.T) {
	prepare := func(t *testing.T, change ...func(*CoreOptions)) (s *scene, a, first, second *actor, id [16]byte) {
		s = connected(t, 5, change...)
		id = cartID(1)
		owners := s.owners(id)
		a = s.stranger(id)
		expect(t, "here", a.Forward(id, false, func(Member) bool { return false }), true)
		a.carts.put(id, vector{15: 1})
		return s, a, s.actors[owners[0]], s.actors[owners[1]], id
	}
	t.Run("an owner refuses it", func(t *testing.T) {
		s, a, first, _, id := prepare(t, two)
		first.carts.refuse = func([16]byte) bool { return true }
		s.run(10 * time.Second)
		s.expectKeeps(a, id)
		first.carts.refuse = nil
		s.run(3 * time.Second)
		s.expectNothingHeld()
	})
	t.Run("it cannot be loaded", func(t *testing.T) {
		s, a, first, second, id := prepare(t, two)
		a.carts.stateless = true
		s.run(10 * time.Second)
		s.expectKeeps(a, id)
		a.carts.stateless = false
		s.run(3 * time.Second)
		s.expectNothingHeld()
		expect(t, "owners have it", []vector{first.carts.carts[id], second.carts.carts[id]}, []vector{{15: 1}, {15: 1}})
	})
	t.Run("an owner was lost", func(t *testing.T) {
		s, a, first, _, id := prepare(t) // two of three are left
		s.end(first)
		s.run(replaceAfter - time.Second)
		s.expectKeeps(a, id) // it may come back
		s.run(10 * time.Second)
		s.expectNothingHeld()
		for _, i := range s.owners(id) {
			if !s.actors[i].gone {
				expect(t, "an owner has it", s.actors[i].carts.carts[id], vector{15: 1})
			}
		}
	})
	t.Run("an owner does not take it for its own", func(t *testing.T) {
		s, a, other, owner, id := prepare(t, two)
		members := []Member{}
		for _, b := range s.actors {
			if b != owner {
				members = append(members, b.self)
			}
		}
		phantom := memberOf(6)
		for owner.ownsSlot(SlotOf(id)) { // it knows of a member that the others do not know
			phantom.GossipAddr += "0"
			owner.SetMembers(append(slices.Clone(members), phantom))
		}
		s.run(10 * time.Second)
		s.expectKeeps(a, id)
		expect(t, "the other owner has it", other.carts.carts[id], vector{15: 1})
		owner.carts.put(id, vector{15: 1}) // which it may let go at any time
		s.run(10 * time.Second)
		s.expectKeeps(a, id)
		phantom.State = Draining
		owner.SetMembers(append(members, phantom))
		s.run(3 * time.Second)
		s.expectNothingHeld()
		expect(t, "it has it", owner.carts.carts[id], vector{15: 1})
	})
	t.Run("the link of an owner goes down after it got it", func(t *testing.T) {
		s, a, first, second, id := prepare(t, two)
		s.down(a, first, "cut")
		s.run(3 * time.Second)
		s.down(a, second, "cut")
		s.up(a, first)
		s.run(3 * time.Second)
		s.expectKeeps(a, id) // both got it, and one is there
		s.up(a, second)
		s.run(100 * time.Millisecond)
		s.expectNothingHeld()
	})
	t.Run("something new comes", func(t *testing.T) {
		s, a, first, second, id := prepare(t, two)
		s.down(a, second, "cut")
		s.run(3 * time.Second)
		expect(t, "the first owner has it", first.carts.carts[id], vector{15: 1})
		s.down(a, first, "cut")
		a.change(id)
		s.up(a, second)
		s.run(3 * time.Second)
		s.expectKeeps(a, id) // the first has not all of it
		s.up(a, first)
		s.run(3 * time.Second)
		s.expectNothingHeld()
		want := vector{15: 1}
		want[a.start] = 1
		expect(t, "owners have it", []vector{first.carts.carts[id], second.carts.carts[id]}, []vector{want, want})
	})
}

// Something that comes while a session gives is not taken for given by it.
func TestWhatComesDuringASessionIsNotGiven(t *testing.T) {
	s := connected(t, 5, two)
	id := cartID(1)
	late := successor(id)
	a, owner := s.stranger(id), s.actors[s.owners(id)[0]]
	a.Forward(id, false, func(Member) bool { return false })
	a.carts.put(id, vector{15: 1})
	came := false
	s.carry = func(from, to *actor, frame []byte) [][]byte {
		_, items, _ := decodeFrame(frame)
		finished := slices.ContainsFunc(items, func(it item) bool { return it.kind == kindFinished })
		if finished && from == owner && to == a && !came {
			came = true
			a.carts.put(late, vector{15: 1})
			a.mu.Lock()
			a.holdSlot(SlotOf(late))
			a.mu.Unlock()
		}
		return [][]byte{frame}
	}
	for steps := 0; a.Status().Placement.Held > 0; steps++ {
		if steps == 10_000 {
			t.Fatal("it is held for ever")
		}
		s.run(time.Millisecond)
	}
	expect(t, "something came late", came, true)
	for _, i := range s.owners(id) {
		expect(t, "an owner has it when it is released", s.actors[i].carts.carts[late], vector{15: 1})
	}
}

// Who gives does not get what the owner has beside.
func TestGiverDoesNotPull(t *testing.T) {
	s := connected(t, 5, two)
	ids := oneSlot(600)
	a := s.stranger(ids[0])
	for _, i := range s.owners(ids[0]) {
		for n, id := range ids {
			if n%3 > 0 {
				s.actors[i].carts.put(id, vector{14: 2})
			}
		}
	}
	a.Forward(ids[0], false, func(Member) bool { return false })
	for n, id := range ids {
		switch n % 30 {
		case 0: // that no owner has
			a.carts.put(id, vector{15: 1})
		case 1: // in which both have something
			a.carts.put(id, vector{14: 1, 15: 1})
		case 2: // that is behind
			a.carts.put(id, vector{14: 1})
		}
	}
	delivered := a.carts.delivered
	s.run(5 * time.Second)
	s.expectNothingHeld()
	expect(t, "payloads that came", a.carts.delivered, delivered)
	for _, i := range s.owners(ids[0]) {
		owner := s.actors[i]
		expect(t, "carts", len(owner.carts.carts), 420)
		expect(t, "versions", []vector{owner.carts.carts[ids[0]], owner.carts.carts[ids[1]], owner.carts.carts[ids[2]]},
			[]vector{{15: 1}, {14: 2, 15: 1}, {14: 2}})
		if n := owner.carts.states; n > 60 {
			t.Errorf("%d states came, of 60 that it lacked", n)
		}
		if n := owner.carts.vectors; n > 100 {
			t.Errorf("%d vectors were loaded, for 40 carts that differ", n)
		}
	}
}

// Who is asked about a slot that it does not own says that it cannot tell.
func TestListingOfASlotThatIsNotOwned(t *testing.T) {
	s := connected(t, 5, two)
	ids := oneSlot(1)
	a, peer := s.stranger(ids[0]), s.actors[s.owners(ids[0])[0]]
	listing := item{kind: kindListing, id: ids[0], n: 1, body: encodeListing([]Version{{ids[0], 1}})}
	a.takeRepair(t.Context(), a.peer(peer.start), &listing)
	var said []item
	s.carry = func(_, _ *actor, frame []byte) [][]byte {
		_, items, _ := decodeFrame(frame)
		said = append(said, items...)
		return nil
	}
	s.settle()
	expect(t, "answer", said, []item{{kind: kindListed, n: 1, m: listedFailed}})
}

// A slot with more carts than a listing can be given, too.
func TestGivingMoreThanAListing(t *testing.T) {
	s := connected(t, 5, two)
	ids := oneSlot(maxListing + 1000)
	a := s.stranger(ids[0])
	a.Forward(ids[0], false, func(Member) bool { return false })
	for _, id := range ids {
		a.carts.put(id, vector{15: 1})
	}
	s.run(10 * time.Second)
	s.expectNothingHeld()
	for _, i := range s.owners(ids[0]) {
		expect(t, "carts", len(s.actors[i].carts.carts), len(ids))
	}
}

// A node that knows less of the region than the others is compared in what all agree on, again and again, and
// catches up with the rest.
func TestPartialViews(t *testing.T) {
	s := connected(t, 5, two)
	a := s.actors[0]
	s.end(s.actors[4])
	late := s.add(memberOf(6))
	members := []Member{late.self}
	for _, b := range s.live() {
		if b != a && b != late {
			members = append(members, b.self)
		}
	}
	for _, b := range s.live() {
		if b != a {
			b.SetMembers(append(slices.Clone(members), a.self))
			if b != late {
				s.up(b, late)
			}
		}
	}
	s.run(replaceAfter + 5*time.Second) // a knows of 4 sites, the others of 5
	expect(t, "sites", []int{a.Status().Placement.Sites, late.Status().Placement.Sites}, []int{4, 5})
	before := a.Status().Counters.Repairs
	for n := range 300 {
		if id := cartID(n); s.actors[1].ownsSlot(SlotOf(id)) {
			s.actors[1].carts.put(id, vector{15: 1})
		}
	}
	s.run(20 * time.Second)
	if n := a.Status().Counters.Repairs - before; n > 3*21 {
		t.Errorf("%d sessions with 3 peers in 20 s", n)
	}
	for n := range 300 {
		id := cartID(n)
		if b := s.actors[1]; a.ownsSlot(SlotOf(id)) && b.ownsSlot(SlotOf(id)) {
			expect(t, "a cart that both own", a.carts.carts[id], b.carts.carts[id])
		}
	}
	s.meet()
	s.connect()
	s.run(15 * time.Second)
	s.expectNothingHeld()
	for n := range 300 {
		owners := slices.DeleteFunc(s.owners(cartID(n)), func(i int) bool { return s.actors[i].gone })
		expect(t, "a cart in the end", s.actors[owners[0]].carts.carts[cartID(n)], s.actors[owners[1]].carts.carts[cartID(n)])
	}
}

func TestKeepIsToldWhenAllIsQuiet(t *testing.T) {
	s := newScene(t, 5)
	s.run(keepAfter - 20*time.Millisecond)
	keeps := func() (n []int) {
		for _, a := range s.actors {
			n = append(n, a.carts.keeps)
		}
		return n
	}
	expect(t, "before", keeps(), []int{0, 0, 0, 0, 0})
	s.run(40 * time.Millisecond)
	expect(t, "first", keeps(), []int{1, 1, 1, 1, 1})
	s.connect()
	s.run(3 * time.Second)
	id := cartID(1)
	a := s.stranger(id)
	n := a.carts.keeps
	a.Forward(id, false, func(Member) bool { return false })
	s.settle()
	expect(t, "told at once of a slot that is pinned", a.carts.keeps, n+1)
	expect(t, "held", a.carts.held.has(SlotOf(id)), true)
	s.run(3 * time.Second)
	expect(t, "told at once of its release", a.carts.keeps, n+2)
}

// faultyRegion is a run of a region under faults that rapid draws. No database is there: what was acknowledged is held by
// the nodes alone, of which one at a time may be lost.
type faultyRegion struct {
	*scene
	r     *rapid.T
	acked map[[16]byte]vector
	wrote map[[16]byte]vector
}

func TestNothingIsLostWhileSlotsMove(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long, in one thread")
	}
	rapid.Check(t, func(r *rapid.T) {
		replicas := rapid.IntRange(2, 3).Draw(r, "replicas")
		n := rapid.IntRange(4, 6).Draw(r, "nodes")
		z := &faultyRegion{r: r, acked: map[[16]byte]vector{}, wrote: map[[16]byte]vector{}}
		z.scene = connected(r, n, func(o *CoreOptions) { o.Replicas = replicas })
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			z.step()
			z.run(time.Duration(rapid.IntRange(0, 1500).Draw(r, "ms")) * time.Millisecond)
		}
		z.heal()
		z.expectNothingHeld()
		for id, acked := range z.acked {
			for _, i := range z.owners(id) {
				if a := z.actors[i]; !a.gone && !a.carts.carts[id].covers(acked) {
					r.Errorf("%x is %v with %s, and %v was acknowledged", id, a.carts.carts[id], a.name, acked)
				}
			}
		}
		for _, a := range z.live() {
			for id := range a.carts.carts {
				if !a.ownsSlot(SlotOf(id)) {
					r.Errorf("%s has %x and does not own it", a.name, id)
				}
			}
		}
	})
}

func (z *faultyRegion) any(what string) *actor {
	live := z.live()
	return live[rapid.IntRange(0, len(live)-1).Draw(z.r, what)]
}

func (z *faultyRegion) step() {
	switch rapid.IntRange(0, 9).Draw(z.r, "step") {
	case 0: // a node is lost, once all is well again
		z.heal()
		if len(z.live()) > 3 {
			z.end(z.any("lost"))
			z.run(time.Duration(rapid.IntRange(0, 3000).Draw(z.r, "ms")) * time.Millisecond)
			z.write()
			z.heal()
		}
	case 1:
		if len(z.actors) < 10 {
			m := memberOf(uint64(len(z.actors) + 1))
			if gone := slices.IndexFunc(z.actors, func(a *actor) bool { return a.gone && a.self.GossipAddr != "" }); gone >= 0 {
				m.GossipAddr, z.actors[gone].self.GossipAddr = z.actors[gone].self.GossipAddr, ""
			}
			z.add(m)
			z.meet()
			z.connect()
		}
	case 2:
		if a := z.any("drains"); len(z.live()) > 4 && !a.draining {
			z.turn(a, Draining)
			for range 300 {
				z.run(10 * time.Millisecond)
				if a.HandedOver() {
					z.end(a)
					return
				}
			}
			z.turn(a, Active)
		}
	case 3:
		a, b := z.any("cut"), z.any("from")
		if a != b && a.linked(b.start) != nil {
			z.down(a, b, "cut")
		}
	case 4:
		z.connect()
	default:
		for range rapid.IntRange(1, 4).Draw(z.r, "writes") {
			z.write()
		}
	}
}

// heal lets a region come to rest.
func (z *faultyRegion) heal() {
	z.connect()
	for range (replaceAfter + 10*time.Second) / (10 * time.Millisecond) {
		z.settle()
		z.now = z.now.Add(10 * time.Millisecond)
		z.tick()
	}
	z.settle()
}

// write makes a change of a cart at the node that a request for it comes to.
func (z *faultyRegion) write() {
	a, id := z.any("at"), cartID(rapid.IntRange(0, 19).Draw(z.r, "cart"))
	owner := a
	if !a.Forward(id, false, func(m Member) bool {
		owner = z.actor(m.Start)
		return a.linked(m.Start) != nil
	}) {
		owner.Forward(id, true, nil)
	}
	// It loads the cart: what others have of it, in place of the database.
	v := owner.carts.carts[id]
	for _, b := range z.live() {
		for i, n := range b.carts.carts[id] {
			v[i] = max(v[i], n)
		}
	}
	if !v.covers(z.acked[id]) {
		z.r.Errorf("%x is %v, and %v was acknowledged", id, v, z.acked[id])
	}
	wrote := z.wrote[id]
	wrote[owner.start]++
	z.wrote[id] = wrote
	v[owner.start] = wrote[owner.start]
	owner.carts.put(id, v)
	owner.Replicate(id, eventDelta(owner.start, v[owner.start]), func(uint64) {
		acked := z.acked[id]
		acked[owner.start] = max(acked[owner.start], wrote[owner.start])
		z.acked[id] = acked
	})
}
