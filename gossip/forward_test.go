package gossip

import (
	"slices"
	"testing"
	"time"
)

func TestForward(t *testing.T) {
	s := connected(t, 7, func(o *CoreOptions) { o.Replicas = 4 })
	id := cartID(1)
	last := ranked(SlotOf(id), s.actors[0].placement.sites)[6]
	a := s.actors[slices.IndexFunc(s.actors, func(a *actor) bool { return a.self.GossipAddr == last })]
	var owners []string
	for _, i := range s.owners(id) {
		owners = append(owners, s.actors[i].name)
	}
	forward := func(a *actor, forwarded bool, answers ...string) (here bool, tried []string) {
		here = a.Forward(id, forwarded, func(owner Member) bool {
			tried = append(tried, owner.Name)
			return slices.Contains(answers, owner.Name)
		})
		return here, tried
	}
	here, tried := forward(s.actors[s.owners(id)[1]], false)
	expect(t, "at an owner", []any{here, tried}, []any{true, []string(nil)})
	here, tried = forward(a, true)
	expect(t, "what was passed on", []any{here, tried}, []any{true, []string(nil)})
	here, tried = forward(a, false, owners...)
	expect(t, "all answer", []any{here, tried}, []any{false, owners[:1]})
	here, tried = forward(a, false, owners[1])
	expect(t, "the first does not", []any{here, tried}, []any{false, owners[:2]})
	expect(t, "held", a.Status().Placement.Held, 0)
	here, tried = forward(a, false)
	expect(t, "none answers", []any{here, tried}, []any{true, owners[:3]})

	st := a.Status().Placement
	expect(t, "forwarded, taken over, unheeded", []uint64{st.Forwarded, st.TakenOver, st.Unheeded}, []uint64{2, 1, 4})
	expect(t, "held", st.Held, 1)

	s.turn(s.actors[s.owners(id)[0]], Draining) // it owns nothing any more
	s.settle()
	_, tried = forward(a, false, owners...)
	expect(t, "the first drains", tried, owners[1:2])
}

func TestHomeIsASlotThatTheNodeIsTheFirstOf(t *testing.T) {
	s := connected(t, 5)
	for _, a := range s.actors {
		homes := map[int]bool{}
		for range 100 {
			home := a.Home()
			homes[home] = true
			expect(t, "rank", a.Rank(firstOf(home)), 0)
			expect(t, "own", a.ownsSlot(home), true)
		}
		if len(homes) < 50 {
			t.Errorf("%d slots in 100 draws", len(homes))
		}
	}
}

// Changes that come to a node that does not own the cart, pinned or not, are held until the owners have them.
func TestChangeWhereTheCartIsNotOwned(t *testing.T) {
	s := connected(t, 5, two)
	id := cartID(1)
	a := s.stranger(id)
	s.carry = func(*actor, *actor, []byte) [][]byte { return nil }
	a.change(id)
	s.settle()
	expect(t, "held", a.Status().Placement.Held, 1)
	s.carry = nil
	s.redial = true
	s.run(10 * time.Second)
	s.expectNothingHeld()
	for _, i := range s.owners(id) {
		expect(t, "an owner has it", s.actors[i].carts.carts[id][a.start], uint64(1))
	}
}
