package sqlite

import (
	"bytes"
	"errors"
	"testing"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

func encode(changes []change) []byte {
	b := appendBatch(nil, len(changes))
	for _, c := range changes {
		b = appendChange(b, c.id, c.delta)
	}
	return b
}

func batches(tb testing.TB) (batches [][]byte) {
	b := newBasket()
	changes := []change{{b.id, b.add(tb, "apples").Delta}, {b.id, b.remove(tb, "apples").Delta}}
	changes = append(changes, change{cart.NewID(), &crdt.Delta{State: crdt.State{Erased: true}}})
	for n := range len(changes) + 1 {
		batches = append(batches, encode(changes[:n]))
	}
	return batches
}

func TestBatch(t *testing.T) {
	for n, b := range batches(t) {
		var got []change
		if err := decodeBatch(b, func(c change) { got = append(got, c) }); err != nil || len(got) != n {
			t.Fatalf("%d changes: got %d, %v", n, len(got), err)
		}
		if !bytes.Equal(encode(got), b) {
			t.Errorf("%d changes: decoded and encoded again, they differ", n)
		}
		for i := range b {
			if err := decodeBatch(b[:i], func(change) {}); !errors.Is(err, errMalformedBatch) {
				t.Errorf("%d of %d bytes: got %v", i, len(b), err)
			}
		}
		if err := decodeBatch(append(b, 0), func(change) {}); !errors.Is(err, errMalformedBatch) {
			t.Errorf("a byte after the end: got %v", err)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	for _, b := range batches(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var changes []change
		err := decodeBatch(b, func(c change) { changes = append(changes, c) })
		if err != nil {
			if !errors.Is(err, errMalformedBatch) {
				t.Fatalf("got %v", err)
			}
			return
		}
		var again []change
		if err := decodeBatch(encode(changes), func(c change) { again = append(again, c) }); err != nil || len(again) != len(changes) {
			t.Fatalf("got %d of %d changes, %v", len(again), len(changes), err)
		}
	})
}

func TestFold(t *testing.T) {
	b := newBasket()
	e := crdt.Event{Replica: 9, At: crdt.TimestampAt(at)}
	before, err := b.state.Apply(e.Add(b.state, "pears", 1))
	if err != nil {
		t.Fatal(err)
	}
	b.state = before
	var f fold
	for i := range 100 {
		if i%7 == 6 { // which needs what the other replica did
			f.push(b.remove(t, "apples").Delta)
		} else {
			f.push(b.add(t, "apples").Delta)
		}
		if len(f) > 2 { // those until the first that needs the other replica, and the others
			t.Fatalf("%d runs after %d", len(f), i+1)
		}
		if n := len(f[len(f)-1].stack); n > 7 {
			t.Fatalf("%d deltas wait after %d", n, i+1)
		}
	}
	deltas := f.deltas()
	got, left := stored.Apply(before, deltas)
	if len(left) > 0 || !bytes.Equal(crdt.AppendState(nil, got), crdt.AppendState(nil, b.state)) {
		t.Fatalf("got %+v without %d, want %+v", got, len(left), b.state)
	}
}
