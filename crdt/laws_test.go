package crdt

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// lived lets a random history happen and returns it.
func lived(t *rapid.T) *history {
	h := newHistory(t)
	t.Repeat(h.actions(func(*rapid.T) {}))
	return h
}

// drawState draws a state out of a history: what a replica holds or held, or, at times, an erased one.
func (h *history) drawState(t *rapid.T, label string) *State {
	states := slices.Clone(h.authored)
	for _, name := range h.names {
		states = append(states, h.states[name])
	}
	return rapid.SampledFrom(append(states, &State{Erased: true})).Draw(t, label)
}

// drawStretch draws a stretch of a history: what was known before it, and the deltas of three parts
// of it, in order.
func (h *history) drawStretch(t *rapid.T) (before *State, parts []*Delta) {
	if len(h.log) < 3 {
		t.Skip("no deltas")
	}
	first := rapid.IntRange(0, len(h.log)-3).Draw(t, "first")
	var earlier []*Delta
	for _, e := range h.log[:first] {
		earlier = append(earlier, h.decodeDelta(h.deltas[e]))
	}
	before, _ = settle(t, &State{}, earlier)
	for range 3 {
		last := rapid.IntRange(first+1, min(first+4, len(h.log)-2+len(parts))).Draw(t, "last")
		d := h.decodeDelta(h.deltas[h.log[first]])
		for _, e := range h.log[first+1 : last] {
			d = Merge(d, h.decodeDelta(h.deltas[e]))
		}
		parts, first = append(parts, d), last
	}
	return before, parts
}

// drawDeltas draws deltas of a history, at times an erased one among them.
func (h *history) drawDeltas(t *rapid.T, n int) []*Delta {
	if len(h.log) == 0 {
		t.Skip("no deltas")
	}
	deltas := make([]*Delta, n)
	for i := range deltas {
		if rapid.IntRange(0, 30).Draw(t, "erased") == 30 {
			deltas[i] = &Delta{State: State{Erased: true}}
			continue
		}
		first := rapid.IntRange(0, len(h.log)-1).Draw(t, "first")
		last := min(len(h.log), first+rapid.IntRange(1, 4).Draw(t, "events"))
		deltas[i] = h.decodeDelta(h.deltas[h.log[first]])
		for _, e := range h.log[first+1 : last] {
			deltas[i] = Merge(deltas[i], h.decodeDelta(h.deltas[e]))
		}
	}
	return deltas
}

func equal(a, b *State) bool { return bytes.Equal(AppendState(nil, a), AppendState(nil, b)) }

// TestJoinLaws: Join is commutative, associative and idempotent, an upper bound, and Joiner and
// Apply are the same algorithm.
func TestJoinLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := lived(t)
		var j Joiner
		for range 5 {
			a, b, c := h.drawState(t, "a"), h.drawState(t, "b"), h.drawState(t, "c")
			images := [][]byte{AppendState(nil, a), AppendState(nil, b), AppendState(nil, c)}
			ab := Join(a, b)
			switch {
			case !equal(ab, Join(b, a)):
				t.Fatal("a ∪ b ≠ b ∪ a")
			case !equal(Join(ab, c), Join(a, Join(b, c))):
				t.Fatal("(a ∪ b) ∪ c ≠ a ∪ (b ∪ c)")
			case !equal(Join(a, a), a):
				t.Fatal("a ∪ a ≠ a")
			case !equal(Join(ab, b), ab):
				t.Fatal("(a ∪ b) ∪ b ≠ a ∪ b")
			case !ab.Erased && !(ab.VV.Descends(a.VV) && ab.VV.Descends(b.VV)):
				t.Fatal("the join has lost events")
			case !equal(j.Join(a, b), ab), !equal(j.Join(ab, c), Join(ab, c)), !equal(j.Join(a, b), ab):
				t.Fatal("Joiner and Join disagree")
			}
			joined := j.Join(a, b)
			for _, l := range joined.Lines {
				if joined.Quantity(l) != ab.Quantity(ab.Line(l.Key)) {
					t.Fatalf("Joiner shows %d of %s, Join %d", joined.Quantity(l), l.Key, ab.Quantity(ab.Line(l.Key)))
				}
			}
			applied, err := a.Apply(&Delta{State: *b})
			if err != nil || !equal(applied, ab) {
				t.Fatalf("a state is not the delta with an empty base: %v", err)
			}
			for i, s := range []*State{a, b, c} {
				if !bytes.Equal(images[i], AppendState(nil, s)) {
					t.Fatal("an operand changed")
				}
			}
		}
	})
}

// TestDeltasInAnyOrder: whatever the order in which the deltas of a history arrive, as soon as they
// can be joined, the outcome is the join of the states of their authors.
func TestDeltasInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := lived(t)
		want := &State{}
		for _, s := range h.authored {
			want = Join(want, s)
		}
		got, _ := settle(t, &State{}, h.everyDelta(t))
		if !equal(got, want) {
			t.Fatalf("by deltas %x, by states %x", AppendState(nil, got), AppendState(nil, want))
		}
	})
}

// everyDelta returns all deltas of a history, in a random order and some of them twice.
func (h *history) everyDelta(t *rapid.T) []*Delta {
	var deltas []*Delta
	if len(h.log) == 0 {
		return nil
	}
	events := rapid.Permutation(h.log).Draw(t, "order")
	events = append(events, rapid.SliceOfN(rapid.SampledFrom(h.log), 0, 5).Draw(t, "again")...)
	for _, e := range events {
		deltas = append(deltas, h.decodeDelta(h.deltas[e]))
	}
	return deltas
}

// settle applies deltas until no more of them can be. It returns those that are left.
func settle(t tester, s *State, deltas []*Delta) (*State, []*Delta) {
	for {
		var refused []*Delta
		for _, d := range deltas {
			next, err := s.Apply(d)
			if errors.Is(err, ErrGap) {
				refused = append(refused, d)
				continue
			}
			again, err := next.Apply(d)
			if err != nil || again != next {
				t.Fatalf("applying a delta again changed the state: %v", err)
			}
			s = next
		}
		if len(refused) == len(deltas) || len(refused) == 0 {
			return s, refused
		}
		deltas = refused
	}
}

// TestMergeLaws: to join a merged delta is to join its parts, however they were merged, and to
// merge is commutative.
func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := lived(t)
		for range 5 {
			s, d := h.drawState(t, "s"), h.drawDeltas(t, 3)
			if rapid.Bool().Draw(t, "stretch") {
				s, d = h.drawStretch(t)
			}
			parts, err := s, error(nil)
			for _, d := range d {
				if err == nil {
					parts, err = parts.Apply(d)
				}
			}
			if ab, ba := Merge(d[0], d[1]), Merge(d[1], d[0]); !bytes.Equal(AppendDelta(nil, ab), AppendDelta(nil, ba)) {
				t.Fatalf("%+v is not %+v", ab, ba)
			}
			eventually, left := settle(t, s, d)
			for i, merged := range []*Delta{
				Merge(Merge(d[0], d[1]), d[2]),
				Merge(d[0], Merge(d[1], d[2])),
				Merge(Merge(Merge(d[0], d[1]), d[2]), Merge(d[1], d[0])),
				Merge(Merge(d[2], d[1]), d[0]),
			} {
				joined, mergedErr := s.Apply(merged)
				switch {
				case err == nil && mergedErr != nil && i < 2:
					t.Fatalf("the parts join in turn, but merged they need %v", merged.Base)
				case mergedErr == nil && len(left) > 0:
					t.Fatalf("merged they join, but a part needs %v", left[0].Base)
				case mergedErr == nil && !equal(joined, eventually):
					t.Fatal("a merged delta does something else than its parts")
				case mergedErr == nil && err == nil && !equal(joined, parts):
					t.Fatal("a merged delta does something else than its parts in turn")
				}
			}
		}
	})
}

// TestErased: an erased state is absorbing and has nothing left.
func TestErased(t *testing.T) {
	full, err := (&State{}).Apply(Event{Replica: 1, At: 1}.Add(&State{}, "A", 1))
	if err != nil {
		t.Fatal(err)
	}
	erased := &State{Erased: true}
	want := AppendState(nil, erased)
	gap := Event{Replica: 1, At: 2}.Remove(full, "A")
	byDelta, err := full.Apply(&Delta{State: State{Erased: true}})
	if err != nil {
		t.Fatal(err)
	}
	stays, err := erased.Apply(gap)
	if err != nil {
		t.Fatal(err)
	}
	merged, err := full.Apply(Merge(gap, &Delta{State: State{Erased: true}}))
	if err != nil {
		t.Fatal(err)
	}
	var j Joiner
	for what, s := range map[string]*State{
		"full ∪ erased":         Join(full, erased),
		"erased ∪ full":         Join(erased, full),
		"by Joiner":             j.Join(full, erased),
		"by a delta":            byDelta,
		"a delta after erasure": stays,
		"by a merged delta":     merged,
	} {
		if !s.Erased || !bytes.Equal(AppendState(nil, s), want) || len(s.Lines) > 0 || len(s.VV) > 0 {
			t.Errorf("%s: %+v", what, s)
		}
		for l := range s.Ordered() {
			t.Errorf("%s: shows %s", what, l.Key)
		}
	}
	if s := j.Join(full, full); !equal(s, full) {
		t.Errorf("a Joiner that joined an erased state gives %+v", s)
	}
}

// TestForget: records leave with an event, take their live twins along, and do not come back with
// what is delivered late.
func TestForget(t *testing.T) {
	id := OperationID{7}
	r1, r2, r3 := &State{}, &State{}, &State{}
	apply := func(s **State, deltas ...*Delta) {
		t.Helper()
		for _, d := range deltas {
			next, err := (*s).Apply(d)
			if err != nil {
				t.Fatal(err)
			}
			*s = next
		}
	}
	var deltas []*Delta
	issue := func(s **State, d *Delta) {
		t.Helper()
		apply(s, d)
		deltas = append(deltas, d)
	}
	// Two replicas execute one operation, and one of them removes its outcome.
	issue(&r1, Event{Replica: 1, At: 10, Operation: id}.Add(r1, "A", 1))
	issue(&r2, Event{Replica: 2, At: 20, Operation: id}.Add(r2, "A", 1))
	issue(&r1, Event{Replica: 1, At: 30}.Remove(r1, "A"))
	apply(&r1, deltas...)
	if got := r1.Operations.Of(id); len(got) != 2 || !got[0].Spent || got[1].Spent {
		t.Fatalf("records %+v, want a spent one and a live twin", got)
	}
	if n := r1.Quantity(r1.Line("A")); n != 0 || len(r1.Line("A").Counter) != 1 {
		t.Fatalf("shows %d of %v, want a twin that does not count", n, r1.Line("A").Counter)
	}

	// The twin is not older: nothing is forgotten yet.
	e := Event{Replica: 1, At: 40}
	young := e.Add(r1, "B", 1)
	if e.Forget(r1, young, 20); len(young.Forgotten) > 0 {
		t.Fatalf("forgets %v", young.Forgotten)
	}
	forget := e.Add(r1, "B", 1)
	e.Forget(r1, forget, 21)
	issue(&r1, forget)
	if len(r1.Operations) > 0 || len(r1.Line("A").Counter) > 0 {
		t.Fatalf("%+v and %+v are left", r1.Operations, r1.Line("A").Counter)
	}

	// What was lost and repeated arrives in any order, merged or not.
	before := r1
	apply(&r1, deltas...)
	apply(&r1, Merge(Merge(deltas[0], deltas[1]), deltas[2]))
	r1 = Join(r1, r2)
	if !equal(r1, before) {
		t.Fatal("old deltas brought something back")
	}
	apply(&r3, deltas[1], Merge(Merge(deltas[0], deltas[2]), deltas[3]), deltas[0])
	apply(&r2, deltas[0], deltas[2])
	r2 = Join(r2, r1)
	if !equal(r1, r2) || !equal(r1, r3) {
		t.Fatalf("did not converge:\n%+v\n%+v\n%+v", r1, r2, r3)
	}

	// An alias that nobody who forgot knew of counts anew: the documented limit.
	late, err := (&State{}).Apply(Event{Replica: 9, At: 15, Operation: id}.Add(&State{}, "A", 1))
	if err != nil {
		t.Fatal(err)
	}
	if s := Join(r1, late); s.Quantity(s.Line("A")) != 1 {
		t.Fatal("a late alias does not count")
	}
}
