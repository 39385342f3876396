package crdt

import (
	"slices"
	"testing"
	"time"
)

// TestBase: an event that neither cancels nor takes off needs its author's earlier events alone, so
// that it joins where other authors' events have not arrived. All others need what their author had.
func TestBase(t *testing.T) {
	s := &State{}
	s = must(t, s, Event{Replica: 1, At: 1}.Add(s, "A", 5))
	s = must(t, s, Event{Replica: 2, At: 2}.Add(s, "A", 5))
	s = must(t, s, Event{Replica: 2, At: 3}.Insert(s, "code"))
	e := Event{Replica: 2, At: 4}
	aliased := e
	aliased.Operation = OperationID{1}
	nothing := e
	nothing.Narrowed = true
	own, all := VV{{2, 2}}, s.VV
	for name, c := range map[string]struct {
		d    *Delta
		base VV
	}{
		"add":                          {e.Add(s, "A", 1), own},
		"set of a new line":            {e.Assign(s, "B", 1), own},
		"set":                          {e.Assign(s, "A", 1), all},
		"set of nothing observed":      {nothing.Assign(s, "A", 1), own},
		"decrement":                    {e.Decrement(s, "A", 1), all},
		"decrement of all":             {e.Decrement(s, "A", 10), all},
		"decrement of nothing":         {e.Decrement(s, "B", 1), own},
		"aliased decrement of nothing": {aliased.Decrement(s, "B", 1), all},
		"remove":                       {e.Remove(s, "A"), all},
		"remove of nothing":            {e.Remove(s, "B"), own},
		"clear":                        {e.Clear(s), all},
		"insert":                       {e.Insert(s, "other"), own},
		"insert again":                 {e.Insert(s, "code"), all},
		"discard":                      {e.Discard(s, "code"), all},
		"touch":                        {e.Touch(s), own},
		"first event":                  {Event{Replica: 3, At: 4}.Add(s, "A", 1), nil},
	} {
		if !slices.Equal(c.d.Base, c.base) {
			t.Errorf("%s needs %v, want %v", name, c.d.Base, c.base)
		}
		if dot := s.VV.Next(2); c.base != nil && c.d.VV.Get(2) != dot.Seq {
			t.Errorf("%s ends at %v, want %v", name, c.d.VV, dot)
		}
	}
}

// TestVV: a version vector is a map, short or long.
func TestVV(t *testing.T) {
	for n := range 40 {
		var v VV
		for i := n; i > 0; i-- {
			v = v.With(Dot{ReplicaID(2 * i), uint64(i)})
		}
		for i := range 2*n + 2 {
			r := ReplicaID(i)
			var want uint64
			if i%2 == 0 && i <= 2*n {
				want = uint64(i / 2)
			}
			if got := v.Get(r); got != want {
				t.Fatalf("%v: %d events of %d, want %d", v, got, r, want)
			}
			if w := v.With(v.Next(r)); w.Get(r) != want+1 || !w.Descends(v) || v.Descends(w) || !slices.IsSortedFunc(w, Dot.Compare) {
				t.Fatalf("%v with another event of %d is %v", v, r, w)
			}
		}
	}
}

// TestWrite: the last write of a register in one event is the one that counts.
func TestWrite(t *testing.T) {
	e := Event{Replica: 1, At: 1}
	d := e.Touch(&State{})
	e.Write(d, "note", "old", false)
	e.Write(d, "note", "new", false)
	e.WriteLine(d, "A", "price", "1", false)
	e.WriteLine(d, "A", "price", "", true)
	e.WriteLine(d, "A", "title", "t", false)
	s := must(t, &State{}, d)
	if v, ok := s.Registers.Get("note"); v != "new" || !ok || len(s.Registers) != 1 {
		t.Errorf("registers %+v", s.Registers)
	}
	l := s.Line("A")
	if _, ok := l.Registers.Get("price"); ok || len(l.Registers) != 2 {
		t.Errorf("registers %+v", l.Registers)
	}
	if _, ok := l.Registers.Get("image"); ok || s.Line("B") != nil || s.Members.Has("x") {
		t.Error("something is there that nobody wrote")
	}
}

// TestTimestamp: a clock that went on is followed, one that went back is not.
func TestTimestamp(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6_999_999, time.UTC)
	at := TimestampAt(now)
	for name, c := range map[string]struct{ got, want Timestamp }{
		"after nothing":    {Timestamp(0).Next(now), at},
		"after the past":   {TimestampAt(now.Add(-time.Hour)).Next(now), at},
		"in the same ms":   {at.Next(now), at + 1},
		"after the future": {TimestampAt(now.Add(time.Hour)).Next(now), TimestampAt(now.Add(time.Hour)) + 1},
		"before 1970":      {TimestampAt(time.Unix(-1, 0)), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	if got := (at + 7).Time(); !got.Equal(now.Truncate(time.Millisecond)) {
		t.Errorf("%v became %v", now, got)
	}
}

// TestUnsupportedDot: a delta with an event outside its version vector is a bug of who made it, and
// must not become bytes that nobody can read.
func TestUnsupportedDot(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("encoded")
		}
	}()
	AppendState(nil, &State{Members: Set{{Dot{1, 1}, "x"}}})
}
