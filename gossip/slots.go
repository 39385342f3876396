package gossip

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

const (
	slotsSize  = Slots / 8 // bytes of an encoded set of slots
	digestSize = 8         // bytes of an encoded digest
)

// slotSet is a set of slots.
type slotSet [Slots / 64]uint64

var allSlots = slotSet(func() (all [Slots / 64]uint64) {
	for i := range all {
		all[i] = 1<<64 - 1
	}
	return all
}())

func (s *slotSet) has(slot int) bool { return s[slot/64]>>(slot%64)&1 != 0 }
func (s *slotSet) add(slot int)      { s[slot/64] |= 1 << (slot % 64) }
func (s *slotSet) empty() bool       { return *s == slotSet{} }

func (s *slotSet) len() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// and returns the slots that are in both sets.
func (s *slotSet) and(t *slotSet) (both slotSet) {
	for i := range both {
		both[i] = s[i] & t[i]
	}
	return both
}

// or returns the slots that are in one of the sets, or in both.
func (s *slotSet) or(t *slotSet) (either slotSet) {
	for i := range either {
		either[i] = s[i] | t[i]
	}
	return either
}

// without returns the slots of s that are not in t.
func (s *slotSet) without(t *slotSet) (rest slotSet) {
	for i := range rest {
		rest[i] = s[i] &^ t[i]
	}
	return rest
}

// all returns the slots of the set in ascending order.
func (s *slotSet) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, word := range s {
			for ; word != 0; word &= word - 1 {
				if !yield(64*i + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

func (s *slotSet) append(b []byte) []byte {
	for _, word := range s {
		b = binary.BigEndian.AppendUint64(b, word)
	}
	return b
}

// decodeSlotSet reads a set from the first slotsSize bytes.
func decodeSlotSet(b []byte) (s slotSet) {
	for i := range s {
		s[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return s
}

// encodeSlots returns the body of a root: the slots that both own, those that are given, and those that the opener is
// bare of. It is empty where that is all, none and none.
func encodeSlots(both, give, bare *slotSet) []byte {
	if *both == allSlots && give.empty() && bare.empty() {
		return nil
	}
	return bare.append(give.append(both.append(make([]byte, 0, 3*slotsSize))))
}

func decodeSlots(b []byte) (both, give, bare slotSet) {
	if len(b) == 0 {
		return allSlots, slotSet{}, slotSet{}
	}
	return decodeSlotSet(b), decodeSlotSet(b[slotsSize:]), decodeSlotSet(b[2*slotsSize:])
}

// validSlots reports whether b is the body of a root. It names a slot, and none twice but those that are given by who
// is bare of them.
func validSlots(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if len(b) != 3*slotsSize {
		return false
	}
	both, give, bare := decodeSlots(b)
	others := give.or(&bare)
	about, twice := both.or(&others), both.and(&others)
	return !about.empty() && twice.empty()
}

// encodeDigests returns the body of the answer to a root: the slots that are compared, those that are taken without
// that since one of the two is bare of them, and the digest of each slot that is compared.
func encodeDigests(digests *[Slots]uint64, compared, taken *slotSet) []byte {
	b := make([]byte, 0, 2*slotsSize+digestSize*compared.len())
	b = taken.append(compared.append(b))
	for slot := range compared.all() {
		b = binary.BigEndian.AppendUint64(b, digests[slot])
	}
	return b
}

// decodeDigests returns both sets of slots, and the encoded digests, one after the other.
func decodeDigests(b []byte) (compared, taken slotSet, digests []byte) {
	return decodeSlotSet(b), decodeSlotSet(b[slotsSize:]), b[2*slotsSize:]
}

func validDigests(b []byte) bool {
	if len(b) < 2*slotsSize {
		return false
	}
	compared, _, digests := decodeDigests(b)
	return len(digests) == digestSize*compared.len()
}
