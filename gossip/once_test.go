package gossip

import (
	"testing"
	"time"
)

// sentStates returns how many whole carts all nodes have sent.
func (s *scene) sentStates() (n uint64) {
	for _, a := range s.actors {
		n += a.Status().Counters.StatesSent
	}
	return n
}

// expectMoves fails unless about so many whole carts were sent as carts had to move.
func (s *scene) expectMoves(what string, sent uint64, carts int) {
	s.t.Helper()
	if most := uint64(carts) * 6 / 5; sent < uint64(carts) || sent > most {
		s.t.Errorf("%s: %d whole carts were sent, for %d that had to move", what, sent, carts)
	} else if t, ok := s.t.(*testing.T); ok {
		t.Logf("%s: %d whole carts were sent, for %d that had to move", what, sent, carts)
	}
}

func TestCartsMoveOnce(t *testing.T) {
	const carts = 6000
	s := connected(t, 6)
	s.spread(carts)
	s.run(5 * time.Second)
	s.latency = 20 * time.Millisecond
	before := s.sentStates()
	joiner := memberOf(7)
	joiner.State = Joining
	a := s.add(joiner)
	s.meet()
	s.connect()
	began := s.now
	for !a.Synced() {
		s.run(10 * time.Millisecond)
	}
	t.Logf("synced after %v", s.now.Sub(began))
	s.turn(a, Active)
	s.run(5 * time.Second)
	s.expectPlaced(carts)
	s.expectNothingHeld()
	moved := len(a.carts.carts)
	s.expectMoves("join", s.sentStates()-before, moved)

	before = s.sentStates()
	s.turn(a, Draining)
	for !a.HandedOver() {
		s.run(10 * time.Millisecond)
	}
	s.end(a)
	s.run(5 * time.Second)
	s.expectPlaced(carts)
	s.expectNothingHeld()
	s.expectMoves("leave", s.sentStates()-before, moved)
}
