package crdt

import (
	"fmt"
	"testing"
)

// cartOfTen returns a state of ten adds to lines with 8-byte keys and a price each.
func cartOfTen(t testing.TB) *State {
	s := &State{}
	for i := range 10 {
		s = must(t, s, pricedAdd(s, 0x9e3779b97f4a7c15, fmt.Sprintf("SKU-%04d", i)))
	}
	return s
}

// benchmarkTime is a timestamp of our days, in which all of the encoding's bytes are used.
const benchmarkTime Timestamp = 1_750_000_000_000 << logicalBits

func pricedAdd(s *State, r ReplicaID, key string) *Delta {
	e := Event{Replica: r, At: max(s.Lifetime.Updated, benchmarkTime) + 40<<logicalBits}
	d := e.Add(s, key, 1)
	e.WriteLine(d, key, "price", "1999", false)
	return d
}

func must(t testing.TB, s *State, d *Delta) *State {
	t.Helper()
	s, err := s.Apply(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// diverged returns two carts of ten lines. In each, adds with a price of their own changed as many of
// the lines as given, and none that the other changed.
func diverged(t testing.TB, lines int) (a, b *State) {
	s := cartOfTen(t)
	a, b = s, s
	for i := range lines {
		a = must(t, a, pricedAdd(a, 0x1f83d9abfb41bd6b, fmt.Sprintf("SKU-%04d", i)))
		b = must(t, b, pricedAdd(b, 0x5be0cd19137e2179, fmt.Sprintf("SKU-%04d", 9-i)))
	}
	return decoded(t, a), decoded(t, b) // sharing nothing, as they come off the wire
}

func decoded(t testing.TB, s *State) *State {
	t.Helper()
	s, err := DecodeState(AppendState(nil, s))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// knownAdd is the delta of one add to a line that the cart has, without registers.
func knownAdd(s *State) *Delta {
	return Event{Replica: 0x9e3779b97f4a7c15, At: s.Lifetime.Updated + 40<<logicalBits}.Add(s, "SKU-0003", 1)
}

// TestSizes holds the encodings to what they have to fit.
func TestSizes(t *testing.T) {
	s := cartOfTen(t)
	if n := len(AppendDelta(nil, knownAdd(s))); n > 64 {
		t.Errorf("the delta of an add to a known line takes %d bytes, at most 64 are allowed", n)
	}
	if n := len(AppendState(nil, s)); n > 400 {
		t.Errorf("a cart of ten adds with prices takes %d bytes, at most 400 are allowed", n)
	}
}

// TestJoinAllocatesNothing: a Joiner that is used again joins in place.
func TestJoinAllocatesNothing(t *testing.T) {
	a, b := diverged(t, 5)
	var j Joiner
	if n := testing.AllocsPerRun(100, func() { j.Join(a, b) }); n > 0 {
		t.Errorf("%v allocations a join", n)
	}
}

// BenchmarkJoin joins in place two carts of ten lines with prices, of which some or all differ.
func BenchmarkJoin(b *testing.B) {
	for _, lines := range []int{1, 5} {
		b.Run(fmt.Sprintf("differ=%d", 2*lines), func(b *testing.B) {
			x, y := diverged(b, lines)
			var j Joiner
			b.ReportAllocs()
			for b.Loop() {
				j.Join(x, y)
			}
		})
	}
}

func BenchmarkJoinState(b *testing.B) {
	x, y := diverged(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		Join(x, y)
	}
}

func BenchmarkApply(b *testing.B) {
	s := cartOfTen(b)
	d := knownAdd(s)
	b.ReportAllocs()
	for b.Loop() {
		must(b, s, d)
	}
}

func BenchmarkMerge(b *testing.B) {
	s := cartOfTen(b)
	d := knownAdd(s)
	e := knownAdd(must(b, s, d))
	b.ReportAllocs()
	for b.Loop() {
		Merge(d, e)
	}
}

func BenchmarkEncode(b *testing.B) {
	s := cartOfTen(b)
	buf := AppendState(nil, s)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendState(buf[:0], s)
	}
	b.ReportMetric(float64(len(buf)), "B/cart")
	b.ReportMetric(float64(len(AppendDelta(nil, knownAdd(s)))), "B/add")
}

func BenchmarkDecode(b *testing.B) {
	buf := AppendState(nil, cartOfTen(b))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeState(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeDelta(b *testing.B) {
	buf := AppendDelta(nil, knownAdd(cartOfTen(b)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeDelta(buf); err != nil {
			b.Fatal(err)
		}
	}
}
