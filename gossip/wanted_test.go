package gossip

import (
	"fmt"
	"testing"
	"time"
)

// statesSent returns how many whole carts all nodes have sent.
func (s *scene) statesSent() (n uint64) {
	for _, a := range s.actors {
		n += a.Status().Counters.StatesSent
	}
	return n
}

// expectMoves fails unless about so many whole carts were sent as had to move.
func (s *scene) expectMoves(what string, sent uint64, had int) {
	s.t.Helper()
	if least, most := uint64(had), uint64(had)*6/5; sent < least || sent > most {
		s.t.Errorf("%s: %d whole carts were sent, of which %d had to move", what, sent, had)
	}
}

func TestCartsMoveOnce(t *testing.T) {
	const carts = 3000
	for _, latency := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		t.Run(fmt.Sprint(latency), func(t *testing.T) {
			s := connected(t, 6)
			s.spread(carts)
			s.latency = latency
			joiner := memberOf(7)
			joiner.State = Joining
			a := s.add(joiner)
			s.meet()
			s.connect()
			s.run(3 * time.Second)
			expect(t, "the joiner is synced", a.Synced(), true)
			s.turn(a, Active)
			s.run(5 * time.Second)
			s.expectPlaced(carts)
			s.expectNothingHeld()
			joined, moved := s.statesSent(), len(a.carts.carts)
			s.expectMoves("join", joined, moved)

			s.turn(a, Draining)
			s.run(5 * time.Second)
			expect(t, "handed over", a.HandedOver(), true)
			s.end(a)
			s.run(time.Second)
			s.expectPlaced(carts)
			s.expectNothingHeld()
			s.expectMoves("leave", s.statesSent()-joined, moved)
		})
	}
}

// twoHave returns a scene in which two nodes have the same carts and a third one has none, and what it wants of them
// is on the way to the first one.
func twoHave(t *testing.T, carts int) (s *scene, a, b, c *actor) {
	s = newScene(t, 3)
	a, b, c = s.actors[0], s.actors[1], s.actors[2]
	a.fill(0, carts)
	for id, v := range a.carts.carts {
		b.carts.put(id, v)
	}
	s.latency = time.Millisecond
	return s, a, b, c
}

func TestWhatOneCannotSendComesFromAnother(t *testing.T) {
	const carts = 50
	s, a, b, c := twoHave(t, carts)
	a.carts.stateless = true
	s.connect()
	s.run(wantWait)
	expect(t, "carts", len(c.carts.carts), 0)
	expect(t, "synced with the other one", c.link(b).NeedsSync, true)
	s.run(wantWait)
	expect(t, "carts", len(c.carts.carts), carts)
	expect(t, "synced with the other one", c.link(b).NeedsSync, false)
	expect(t, "wants", len(c.wants), 0)
}

func TestWhatALostLinkDoesNotBringComesFromAnother(t *testing.T) {
	const carts = 50
	s, a, b, c := twoHave(t, carts)
	s.carry = func(from, to *actor, frame []byte) [][]byte {
		if from == a && to == c && len(c.wants) > 0 {
			return nil
		}
		return [][]byte{frame}
	}
	s.connect()
	s.run(100 * time.Millisecond)
	expect(t, "carts", len(c.carts.carts), 0)
	s.down(a, c, "cut")
	s.run(repairEvery)
	expect(t, "carts", len(c.carts.carts), carts)
	expect(t, "synced", c.link(b).NeedsSync, false)
}

// A session that left out what another one was to bring leaves out nothing when it is repeated.
func TestNewcomerIsCoveredThoughOneCannotSend(t *testing.T) {
	const carts = 50
	s, a, b, c := twoHave(t, carts)
	c.carts.seeded, c.carts.broken = false, true
	a.carts.stateless = true
	s.connect()
	s.run(100 * time.Millisecond)
	expect(t, "carts", len(c.carts.carts), 0)
	s.run(repairEvery + 100*time.Millisecond)
	expect(t, "carts", len(c.carts.carts), carts)
	left := c.peer(b.start).both.without(&c.peer(b.start).covers)
	expect(t, "slots in which the other one does not cover it", left.len(), 0)
}

func TestWantsAreBounded(t *testing.T) {
	s := connected(t, 3)
	a := s.actors[0]
	p, q := a.peer(2), a.peer(3)
	for n := range maxWants + 1 {
		expect(t, "asked", a.want(p, cartID(n)), true)
	}
	expect(t, "wants", len(a.wants), maxWants)
	expect(t, "another one is asked for a cart", a.want(q, cartID(maxWants-1)), false)
	expect(t, "and for one beyond the bound", a.want(q, cartID(maxWants)), true)
	s.run(wantFor + repairEvery)
	expect(t, "wants after a while", len(a.wants), 0)
}
