package crdt

import (
	"cmp"
	"slices"
)

// ReplicaID names one residence of a state in one process. It is drawn at random whenever a state
// becomes resident, by creation or by a load, and never reused: a replica that forgot its memory
// and went on under its old id would mint a dot twice.
type ReplicaID uint64

// Dot names one event: the Seq-th event of Replica, counted from 1 without gaps.
type Dot struct {
	Replica ReplicaID
	Seq     uint64
}

// Compare orders dots by replica id, then by sequence number.
func (d Dot) Compare(e Dot) int {
	if c := cmp.Compare(d.Replica, e.Replica); c != 0 {
		return c
	}
	return cmp.Compare(d.Seq, e.Seq)
}

// Dots is a set of dots, sorted and without duplicates.
type Dots []Dot

// Has reports whether d is in the set.
func (s Dots) Has(d Dot) bool {
	low, high := 0, len(s)
	for low < high {
		mid := int(uint(low+high) >> 1)
		switch c := s[mid].Compare(d); {
		case c == 0:
			return true
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return false
}

// With returns s with d in it. It may change s.
func (s Dots) With(d Dot) Dots {
	i, found := slices.BinarySearchFunc(s, d, Dot.Compare)
	if found {
		return s
	}
	return slices.Insert(s, i, d)
}

// union appends the union of a and b to z.
func (s Dots) union(a, b Dots) Dots {
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c < 0:
			s, a = append(s, a[0]), a[1:]
		case c > 0:
			s, b = append(s, b[0]), b[1:]
		default:
			s, a, b = append(s, a[0]), a[1:], b[1:]
		}
	}
	return append(append(s, a...), b...)
}
