// Package stored is what the stores of carts share: the columns beside an encoded state, and how the
// state comes about.
package stored

import (
	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/crdt"
)

// Checksum hashes the id too, so that what was stored of another cart is no match.
func Checksum(id cart.ID, encoded []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(id[:]) // never fails
	_, _ = d.Write(encoded)
	return d.Sum64()
}

// MillisecondsPerHour converts the time of an expiry to its hour.
const MillisecondsPerHour = 60 * 60 * 1000

// Expiry returns when a cart expires, in milliseconds of Unix time, and whether it does.
func Expiry(s *crdt.State) (ms int64, expires bool) {
	if s.Erased || s.Lifetime.Expires == 0 {
		return 0, false
	}
	return s.Lifetime.Expires.Time().UnixMilli(), true
}

// Descends reports whether a holds everything that b holds.
func Descends(a, b *crdt.State) bool { return a.Erased || !b.Erased && a.VV.Descends(b.VV) }

// Apply applies those deltas to a state that can be, in whatever order, and returns the others. Without
// a state it begins from an empty one, and returns nil where no delta applies to that.
func Apply(state *crdt.State, deltas []*crdt.Delta) (joined *crdt.State, left []*crdt.Delta) {
	for before := -1; len(deltas) != before; {
		before, left = len(deltas), nil
		for _, d := range deltas {
			base := state
			if base == nil {
				base = new(crdt.State)
			}
			if next, err := base.Apply(d); err == nil {
				state = next
			} else { // a gap, perhaps until another was applied
				left = append(left, d)
			}
		}
		deltas = left
	}
	return state, deltas
}
