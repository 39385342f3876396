package crdt

import (
	"bytes"
	"errors"
	"testing"
	"unsafe"
)

// FuzzDecodeState: whatever decodes as a state is in canonical form, takes memory in proportion to
// its encoding, and behaves as a state.
func FuzzDecodeState(f *testing.F) {
	full := everythingState(f)
	for _, s := range []*State{{}, {Erased: true}, cartOfTen(f), full} {
		f.Add(AppendState(nil, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again := AppendState(nil, s); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x", b, again)
		}
		if n, limit := footprint(&Delta{State: *s}), 1<<10+32*len(b); n > limit {
			t.Fatalf("%d bytes became %d", len(b), n)
		}
		if !equal(Join(s, s), s) {
			t.Fatal("a ∪ a ≠ a")
		}
		tryJoin(t, s, full)
		e := Event{Replica: 99, At: s.Lifetime.Updated, Operation: OperationID{1}}
		for _, l := range s.Lines[:min(3, len(s.Lines))] {
			tryApply(t, s, e.Add(s, l.Key, 1))
			tryApply(t, s, e.Decrement(s, l.Key, 1))
		}
		last := e.Clear(s)
		e.Forget(s, last, s.Lifetime.Updated)
		tryApply(t, s, last)
	})
}

// FuzzDecodeDelta: the same for deltas, with what they do to states and to each other.
func FuzzDecodeDelta(f *testing.F) {
	full := everythingState(f)
	other := everythingDelta(f)
	for _, d := range []*Delta{{}, {State: State{Erased: true}}, knownAdd(full), other, Event{Replica: 7}.Clear(full)} {
		f.Add(AppendDelta(nil, d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDelta(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again := AppendDelta(nil, d); !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x", b, again)
		}
		dots := int(unsafe.Sizeof(Dot{})) * (len(d.Cancelled) + len(d.Forgotten))
		if n, limit := footprint(d), 1<<10+32*len(b)+2*dots; n > limit {
			t.Fatalf("%d bytes and %d of dots became %d", len(b), dots, n)
		}
		twice := Merge(d, d)
		for _, s := range []*State{{}, {Erased: true}, full} {
			once := tryApply(t, s, d)
			if again := tryApply(t, s, twice); !equal(once, again) {
				t.Fatal("merged with itself a delta does something else")
			}
			tryApply(t, s, Merge(d, other))
			tryApply(t, s, Merge(other, d))
			tryJoin(t, once, full)
		}
	})
}

// tryApply applies d and checks what came out of it.
func tryApply(t *testing.T, s *State, d *Delta) *State {
	t.Helper()
	z, err := s.Apply(d)
	if errors.Is(err, ErrGap) {
		return s
	}
	if err != nil {
		t.Fatal(err)
	}
	if again, err := z.Apply(d); again != z || err != nil {
		t.Fatalf("applied again: %v", err)
	}
	decoded(t, z)
	return z
}

// tryJoin joins two states, in both orders where no event is claimed by both with different content.
func tryJoin(t *testing.T, a, b *State) {
	t.Helper()
	ab, ba := Join(a, b), Join(b, a)
	decoded(t, ab)
	for _, d := range a.VV {
		if b.VV.Get(d.Replica) > 0 {
			return
		}
	}
	if !equal(ab, ba) || !equal(Join(ab, b), ab) {
		t.Fatal("does not converge")
	}
}

// footprint returns how many bytes the slices and strings of d take.
func footprint(d *Delta) int {
	size := sizeOf(d.VV) + sizeOf(d.Base) + sizeOf(d.Lines) + sizeOf(d.order) + sizeOf(d.muted) +
		sizeOf(d.Operations) + sizeOf(d.Cancelled) + sizeOf(d.Forgotten) + sizeOf(d.Members)
	registers := func(r Registers) {
		size += sizeOf(r)
		for i := range r {
			size += len(r[i].Name) + len(r[i].Value)
		}
	}
	registers(d.Registers)
	for _, m := range d.Members {
		size += len(m.Value)
	}
	for _, l := range d.Lines {
		size += int(unsafe.Sizeof(*l)) + len(l.Key) + sizeOf(l.Counter)
		registers(l.Registers)
	}
	return size
}

func sizeOf[E any](s []E) int {
	var e E
	return cap(s) * int(unsafe.Sizeof(e))
}
