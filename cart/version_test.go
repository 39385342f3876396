package cart

import (
	"testing"

	"cartd/crdt"
)

func TestVersionHash(t *testing.T) {
	id := ID{1, 2, 3}
	one := &crdt.State{VV: crdt.VV{{Replica: 7, Seq: 1}}}
	two := &crdt.State{VV: crdt.VV{{Replica: 7, Seq: 2}}}
	both := &crdt.State{VV: crdt.VV{{Replica: 7, Seq: 2}, {Replica: 9, Seq: 1}}}
	erased := &crdt.State{VV: one.VV, Erased: true}
	seen := map[uint64]bool{}
	for _, s := range []*crdt.State{one, two, both, erased} {
		seen[VersionHash(id, s)] = true
		seen[VersionHash(ID{3, 2, 1}, s)] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d versions of 8", len(seen))
	}
	if VersionHash(id, erased) != VersionHash(id, &crdt.State{Erased: true}) {
		t.Error("carts that are erased differ")
	}
	// An entry more costs one hash, whatever the others are.
	if got := vectorHash(id, two.VV) ^ vectorHash(id, crdt.VV{{Replica: 9, Seq: 1}}); got != VersionHash(id, both) {
		t.Errorf("got %x, want %x", got, VersionHash(id, both))
	}
	// Nodes compare them, so what they are never changes.
	if got, want := VersionHash(id, both), uint64(0x8f0caa95ffe30b31); got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	if got, want := VersionHash(id, erased), uint64(0x9bc7c2ea8813a1be); got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { VersionHash(id, both); VersionHash(id, erased) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkVersionHash(b *testing.B) {
	s := &crdt.State{VV: crdt.VV{{Replica: 7, Seq: 12}, {Replica: 8, Seq: 3}, {Replica: 9, Seq: 1}}}
	for b.Loop() {
		VersionHash(ID{1, 2, 3}, s)
	}
}
