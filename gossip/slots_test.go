package gossip

import (
	"testing"

	"pgregory.net/rapid"
)

// A set of slots is read as it was written, and takes no more than a bit for each slot there is.
func TestSetsOfSlots(t *testing.T) {
	check := func(t tester, s slotSet) {
		t.Helper()
		b := s.append(nil)
		r := reader{b: b}
		if got := r.slots(); r.err != nil || len(r.b) > 0 || got != s {
			t.Errorf("%d slots are read as %d, with %d bytes left: %v", s.len(), got.len(), len(r.b), r.err)
		}
		if len(b) > slotsSize+3 {
			t.Errorf("%d slots take %d bytes", s.len(), len(b))
		}
	}
	check(t, slotSet{})
	check(t, allSlots)
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.SampledFrom([]int{3, fewSlots, Slots}).Draw(t, "most")
		var s slotSet
		for _, slot := range rapid.SliceOfN(rapid.IntRange(0, Slots-1), 0, most).Draw(t, "slots") {
			s.add(slot)
		}
		check(t, s)
		rest := allSlots.without(&s)
		check(t, rest)
	})
}
