package gossip

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

const (
	slotsSize  = Slots / 8 // bytes of a bit for each slot
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

// fewSlots is from how many slots on an encoded set has a bit for each slot there is, and not a number for each of its own.
const fewSlots = slotsSize / 2

// append appends the encoding of the set: how many slots it has and, unless that is none or all, which: the numbers of a
// few, 2 bytes each, in ascending order, or a bit for each slot there is.
func (s *slotSet) append(b []byte) []byte {
	n := s.len()
	b = appendUint(b, uint64(n))
	switch {
	case n == Slots:
	case n < fewSlots:
		for slot := range s.all() {
			b = binary.BigEndian.AppendUint16(b, uint16(slot))
		}
	default:
		for _, word := range s {
			b = binary.BigEndian.AppendUint64(b, word)
		}
	}
	return b
}

// slots reads a set of slots.
func (r *reader) slots() (s slotSet) {
	n := r.uint()
	switch {
	case n > Slots:
		r.fail("a set of %d slots", n)
	case n == Slots:
		return allSlots
	case n < fewSlots:
		for least := 0; n > 0 && r.err == nil; n-- {
			slot := int(r.bigEndian(2))
			if slot < least || slot >= Slots {
				r.fail("slot %d out of order", slot)
				break
			}
			s.add(slot)
			least = slot + 1
		}
	default:
		for i := range s {
			s[i] = r.bigEndian(8)
		}
		if s.len() != int(n) {
			r.fail("%d slots, and not %d", s.len(), n)
		}
	}
	return s
}

// encodeSlots returns the body of a root: the slots that both own, those that are given, and those that the opener is
// bare of.
func encodeSlots(both, give, bare *slotSet) []byte {
	return bare.append(give.append(both.append(nil)))
}

// decodeSlots reads the body of a root. It names a slot, and none twice but those that are given by who is bare of them.
func decodeSlots(b []byte) (both, give, bare slotSet, err error) {
	r := reader{b: b}
	both, give, bare = r.slots(), r.slots(), r.slots()
	r.end()
	others := give.or(&bare)
	about, twice := both.or(&others), both.and(&others)
	if about.empty() || !twice.empty() {
		r.fail("a session about %d slots, %d of them twice", about.len(), twice.len())
	}
	return both, give, bare, r.err
}

// encodeDigests returns the body of the answer to a root: the slots that are compared, those that are taken without
// that since one of the two is bare of them, and the digest of each slot that is compared.
func encodeDigests(digests *[Slots]uint64, compared, taken *slotSet) []byte {
	b := make([]byte, 0, 2*(slotsSize+3)+digestSize*compared.len())
	b = taken.append(compared.append(b))
	for slot := range compared.all() {
		b = binary.BigEndian.AppendUint64(b, digests[slot])
	}
	return b
}

// decodeDigests returns both sets of slots, and the encoded digests, one after the other.
func decodeDigests(b []byte) (compared, taken slotSet, digests []byte, err error) {
	r := reader{b: b}
	compared, taken = r.slots(), r.slots()
	digests = r.take(digestSize * compared.len())
	r.end()
	return compared, taken, digests, r.err
}
