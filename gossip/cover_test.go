package gossip

import (
	"testing"
	"time"
)

// outage has a node restart, at its address, while the database is away: it knows nothing of what is stored, and
// nobody can load anything.
func (s *scene) outage(before *actor) *actor {
	s.end(before)
	for _, a := range s.live() {
		a.carts.broken = true
	}
	m := memberOf(uint64(len(s.actors) + 1))
	m.GossipAddr, m.State = before.self.GossipAddr, Joining
	a := s.add(m)
	a.carts.seeded, a.carts.broken = false, true
	s.meet()
	s.connect()
	return a
}

// expectUncovered fails unless so many peers may hold what a node lacks.
func (a *actor) expectUncovered(linked, away int) {
	a.scene.t.Helper()
	l, w := a.Uncovered()
	expect(a.scene.t, "linked and away", [2]int{l, w}, [2]int{linked, away})
}

func TestNewcomerIsGivenWhatTheDatabaseLacks(t *testing.T) {
	const carts, saved = 3000, 2000
	for _, leaves := range []bool{true, false} {
		s := connected(t, 3)
		s.spread(carts)
		for _, a := range s.actors {
			a.carts.save(saved)
		}
		if leaves {
			s.turn(s.actors[0], Draining)
		}
		a := s.outage(s.actors[0])
		a.expectUncovered(2, 0)
		s.run(3 * time.Second)
		a.expectUncovered(0, 0)
		expect(t, "carts", len(a.carts.carts), carts-saved)
		expect(t, "synced", a.Synced(), false)

		// What comes while it is not counted on yet, it gets when it is.
		late := cartID(carts)
		s.actors[1].change(late)
		s.turn(a, Active)
		s.run(time.Second)
		expect(t, "a late change", a.carts.carts[late], s.actors[1].carts.carts[late])

		// Nothing is given again while nothing changes.
		received := a.link(s.actors[1]).Counters.BytesReceived
		s.run(20 * time.Second)
		if n := a.link(s.actors[1]).Counters.BytesReceived - received; n > 20*4000 {
			t.Errorf("%d bytes in 20 s, that tell nothing new", n)
		}

		// The next ones restart, and the newcomer counts for what it has.
		for _, b := range s.actors[1:3] {
			s.turn(b, Draining)
			expect(t, "handed over at once", b.HandedOver(), false)
			s.run(3 * time.Second)
			expect(t, "handed over", b.HandedOver(), true)
			c := s.outage(b)
			s.run(3 * time.Second)
			c.expectUncovered(0, 0)
			s.turn(c, Active)
			s.run(time.Second)
		}
		for _, c := range s.live() {
			expect(t, "carts of a newcomer", len(c.carts.carts), carts-saved+1)
		}

		// The database is back: all is compared.
		for _, c := range s.live() {
			c.carts.seeded, c.carts.broken = true, false
		}
		s.run(5 * time.Second)
		for _, c := range s.live() {
			expect(t, "synced", c.Synced(), true)
		}
	}
}

// Two nodes that were bare hear that the other one is not any more, though there is nothing to give.
func TestBareNoMore(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.carts.seeded, b.carts.seeded = false, false
	s.run(3 * time.Second)
	a.carts.seeded, b.carts.seeded = true, true
	a.needSync(a.peer(b.start), "the test says so")
	b.needSync(b.peer(a.start), "the test says so")
	s.run(5 * time.Second)
	for _, c := range s.actors {
		expect(t, "synced", c.Synced(), true)
	}
}

// Where carts cannot be loaded, what is held for those who know all that is stored is given without that, too.
func TestHandsOverWhatCannotBeLoaded(t *testing.T) {
	const carts, saved = 100, 60
	s := connected(t, 3)
	s.spread(carts)
	for _, a := range s.actors {
		a.carts.save(saved)
	}
	a := s.actors[0]
	for n := range carts {
		if n%2 == 0 {
			s.actors[1].carts.evict(cartID(n))
		}
	}
	for _, b := range s.actors {
		b.carts.broken = true
	}
	s.turn(a, Draining)
	s.run(5 * time.Second)
	expect(t, "handed over", a.HandedOver(), true)
	expect(t, "carts", len(s.actors[1].carts.carts), carts-saved/2)
}

// What a newcomer refuses, it is not taken to have, nor does it think so.
func TestNewcomerThatRefusesIsNotCovered(t *testing.T) {
	s := connected(t, 3)
	s.spread(10)
	a := s.outage(s.actors[0])
	full := true
	a.carts.refuse = func(id [16]byte) bool { return full && id == cartID(3) }
	s.run(3 * time.Second)
	a.expectUncovered(2, 0)
	s.turn(a, Active)
	s.run(3 * time.Second)
	a.expectUncovered(2, 0)
	s.turn(s.actors[1], Draining)
	s.run(5 * time.Second)
	expect(t, "handed over", s.actors[1].HandedOver(), false)
	full = false
	s.run(5 * time.Second)
	expect(t, "handed over", s.actors[1].HandedOver(), true)
	expect(t, "carts", len(a.carts.carts), 10)
	a.expectUncovered(0, 0)
}

// A change for it that is dropped makes a peer that was covered one that is not.
func TestDroppedChangeUncovers(t *testing.T) {
	s := connected(t, 3, func(o *CoreOptions) { o.MaxOutbox = 20 << 10 })
	a := s.outage(s.actors[0])
	s.turn(a, Active)
	s.run(3 * time.Second)
	b := s.actors[1]
	s.down(a, b, "cut")
	const carts = 1000
	for n := range carts {
		b.change(cartID(n))
	}
	expect(t, "overflows", b.link(a).Counters.Overflows > 0, true)
	s.connect()
	s.run(5 * time.Second)
	expect(t, "carts", len(a.carts.carts), carts)
}

// A member without a link may hold something, too.
func TestMemberWithoutALinkDoesNotCover(t *testing.T) {
	s := connected(t, 3)
	s.spread(10)
	a := s.outage(s.actors[0])
	s.down(a, s.actors[2], "cut")
	s.run(2 * time.Second)
	a.expectUncovered(0, 1)
	s.connect()
	s.run(2 * time.Second)
	a.expectUncovered(0, 0)
}
