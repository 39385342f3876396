package crdt

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// chain is a history of one state by a few authors who see each other's events in part, as the deltas of
// its events.
func chain(t *rapid.T) (deltas []*Delta) {
	const authors = 3
	states := [authors]*State{{}, {}, {}}
	for i := range rapid.IntRange(1, 14).Draw(t, "events") {
		k := rapid.IntRange(0, authors-1).Draw(t, "author")
		if len(deltas) > 0 && rapid.Bool().Draw(t, "learns") {
			from := rapid.IntRange(0, authors-1).Draw(t, "from")
			states[k] = Join(states[k], states[from])
		}
		s := states[k]
		e := Event{Replica: ReplicaID(k + 1), At: s.Lifetime.Updated + 1 + Timestamp(i)}
		if rapid.IntRange(0, 3).Draw(t, "named") == 0 {
			e.Operation = OperationID{byte(rapid.IntRange(1, 3).Draw(t, "operation"))}
		}
		var d *Delta
		switch rapid.IntRange(0, 5).Draw(t, "command") {
		case 0, 1:
			d = e.Add(s, "A", 2)
		case 2:
			d = e.Assign(s, "A", 5)
		case 3:
			d = e.Decrement(s, "A", 1)
		case 4:
			d = e.Insert(s, "C")
		default:
			d = e.Remove(s, "A")
		}
		next, err := s.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		states[k], deltas = next, append(deltas, d)
	}
	return deltas
}

// applyAll applies deltas in whatever order they fit, and reports whether all did.
func applyAll(s *State, deltas ...*Delta) (*State, bool) {
	for len(deltas) > 0 {
		var left []*Delta
		for _, d := range deltas {
			next, err := s.Apply(d)
			if err != nil {
				left = append(left, d)
				continue
			}
			s = next
		}
		if len(left) == len(deltas) {
			return s, false
		}
		deltas = left
	}
	return s, true
}

// merged draws a delta of several events that adjoin, as those who keep deltas merge them.
func merged(t *rapid.T, deltas []*Delta) *Delta {
	d := deltas[rapid.IntRange(0, len(deltas)-1).Draw(t, "first")]
	for range rapid.IntRange(0, 4).Draw(t, "merges") {
		if o := deltas[rapid.IntRange(0, len(deltas)-1).Draw(t, "next")]; d.Adjoins(o) {
			d = Merge(d, o)
		}
	}
	return d
}

func equalStates(a, b *State) bool {
	return bytes.Equal(AppendState(nil, a), AppendState(nil, b))
}

// Whoever can join two deltas that adjoin, in some order, can join their merge, and has the same then. The
// merge holds the events of both, and no others.
func TestAdjoiningDeltasMergeWithoutLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deltas := chain(t)
		a, b := merged(t, deltas), merged(t, deltas)
		if a.Adjoins(b) != b.Adjoins(a) {
			t.Fatal("one adjoins the other, but not the other way round")
		}
		if !a.Adjoins(b) {
			return
		}
		m := Merge(a, b)
		for _, d := range []*Delta{a, b} {
			if !d.Within(m.Base, m.VV) {
				t.Fatalf("(%v, %v] is not within the merge (%v, %v]", d.Base, d.VV, m.Base, m.VV)
			}
		}
		receiver := new(State)
		for _, d := range deltas { // some of them, as far as they fit
			if rapid.Bool().Draw(t, "received") {
				receiver, _ = applyAll(receiver, d)
			}
		}
		both, fit := applyAll(receiver, a, b)
		if !fit {
			return
		}
		at, err := receiver.Apply(m)
		if err != nil {
			t.Fatalf("both can be joined to %v, but not their merge (%v, %v]", receiver.VV, m.Base, m.VV)
		}
		if !equalStates(at, both) {
			t.Fatalf("the merge leads to %+v, both deltas to %+v", at, both)
		}
	})
}

// A merge across a gap would cover less than both did: those are told apart.
func TestDeltasWithAGapDoNotAdjoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deltas := chain(t)
		a, b := merged(t, deltas), merged(t, deltas)
		m := Merge(a, b)
		if covers := a.Within(m.Base, m.VV) && b.Within(m.Base, m.VV); !covers && a.Adjoins(b) {
			t.Fatalf("(%v, %v] and (%v, %v] adjoin, but their merge is (%v, %v]", a.Base, a.VV, b.Base, b.VV, m.Base, m.VV)
		}
	})
	e := Event{Replica: 1, At: 1}
	s := new(State)
	var d [3]*Delta
	for i := range d {
		d[i] = e.Add(s, "A", 1)
		s, _ = s.Apply(d[i])
	}
	erased := &Delta{State: State{Erased: true}}
	for _, c := range []struct {
		name string
		a, b *Delta
		want bool
	}{
		{"neighbours", d[0], d[1], true},
		{"a gap", d[0], d[2], false},
		{"the same", d[1], d[1], true},
		{"one within the other", Merge(d[0], d[1]), d[0], true},
		{"erased", erased, d[2], true},
	} {
		if c.a.Adjoins(c.b) != c.want || c.b.Adjoins(c.a) != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.a.Adjoins(c.b), c.want)
		}
	}
}

// A delta is within an interval iff a state that has the interval has nothing new to learn of it.
func TestWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		deltas := chain(t)
		d, o := merged(t, deltas), merged(t, deltas)
		want := true
		for _, e := range d.VV {
			for seq := d.Base.Get(e.Replica) + 1; seq <= e.Seq; seq++ {
				want = want && seq > o.Base.Get(e.Replica) && seq <= o.VV.Get(e.Replica)
			}
		}
		if got := d.Within(o.Base, o.VV); got != want {
			t.Fatalf("(%v, %v] within (%v, %v]: %v", d.Base, d.VV, o.Base, o.VV, got)
		}
		if want {
			if s, fit := applyAll(new(State), deltas...); !fit || !d.Within(nil, s.VV) {
				t.Fatal("not within all there is")
			}
		}
	})
	if (&Delta{State: State{Erased: true}}).Within(nil, VV{{Replica: 1, Seq: 1}}) {
		t.Error("an erasure is within events")
	}
}

// Newest is the greatest timestamp anywhere in a delta.
func TestNewest(t *testing.T) {
	s := new(State)
	const at, late = 100, 1000
	for name, make := range map[string]func() *Delta{
		"the update":   func() *Delta { return Event{Replica: 1, At: late}.Touch(s) },
		"the creation": func() *Delta { d := Event{Replica: 1, At: at}.Touch(s); d.Lifetime.Created = late; return d },
		"a register": func() *Delta {
			d := Event{Replica: 1, At: at}.Touch(s)
			Event{Replica: 1, At: late}.Write(d, "n", "v", false)
			return d
		},
		"a register of a line": func() *Delta {
			d := Event{Replica: 1, At: at}.Touch(s)
			Event{Replica: 1, At: late}.WriteLine(d, "A", "n", "v", false)
			return d
		},
		"the place of a line": func() *Delta { d := Event{Replica: 1, At: at}.Add(s, "A", 1); d.Lines[0].First = late; return d },
		"an assignment": func() *Delta {
			d := Event{Replica: 1, At: at}.Assign(s, "A", 1)
			d.Lines[0].Counter[0].At = late
			return d
		},
		"an operation": func() *Delta {
			d := Event{Replica: 1, At: at, Operation: OperationID{1}}.Touch(s)
			d.Operations[0].At = late
			return d
		},
	} {
		if got := make().Newest(); got != late {
			t.Errorf("%s: %d, want %d", name, got, late)
		}
	}
}

// A join of vectors is the least vector that descends from both.
func TestJoinOfVectors(t *testing.T) {
	vector := rapid.Custom(func(t *rapid.T) VV {
		var v VV
		for r := ReplicaID(1); r < 6; r++ {
			if seq := rapid.Uint64Range(0, 3).Draw(t, "seq"); seq > 0 {
				v = append(v, Dot{Replica: r, Seq: seq})
			}
		}
		return v
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := vector.Draw(t, "a"), vector.Draw(t, "b")
		z := a.Join(b)
		for r := ReplicaID(0); r < 7; r++ {
			if want := max(a.Get(r), b.Get(r)); z.Get(r) != want {
				t.Fatalf("%v and %v join to %v", a, b, z)
			}
		}
		for i := range z {
			if z[i].Seq == 0 || i > 0 && z[i-1].Replica >= z[i].Replica {
				t.Fatalf("%v is not a vector", z)
			}
		}
	})
}
