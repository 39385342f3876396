package cart

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"cartd/crdt"
)

// StoredVersion is the version of a cart as a store has it.
type StoredVersion struct {
	ID      ID
	Version uint64 // VersionHash of its state
}

// VersionHash hashes the id and the version vector of a cart, which together tell all of its
// content. Carts that are erased are equal whatever their vectors were.
//
// It is the XOR over the entries of the vector of xxHash64 of the id, the replica and the sequence
// number, as 8 bytes each, little-endian, so that a vector with one entry more, or with another in
// its place, need not be hashed anew. Of an erased cart it is xxHash64 of the id and "erased".
func VersionHash(id ID, s *crdt.State) uint64 {
	if s.Erased {
		var b [len(id) + len(erasedMark)]byte
		copy(b[copy(b[:], id[:]):], erasedMark)
		return xxhash.Sum64(b[:])
	}
	return vectorHash(id, s.VV)
}

const erasedMark = "erased"

// vectorHash is VersionHash of a cart that is not erased.
func vectorHash(id ID, vv crdt.VV) (sum uint64) {
	var b [len(id) + 16]byte
	copy(b[:], id[:])
	for _, e := range vv {
		binary.LittleEndian.PutUint64(b[len(id):], uint64(e.Replica))
		binary.LittleEndian.PutUint64(b[len(id)+8:], e.Seq)
		sum ^= xxhash.Sum64(b[:])
	}
	return sum
}
