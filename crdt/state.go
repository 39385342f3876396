package crdt

import (
	"cmp"
	"iter"
	"slices"
)

// State is one replica's knowledge: the lines, a set, registers, operation records and the version
// vector of the events that it contains. Equal version vectors mean equal states, and equal bytes
// in their encoding.
//
// A State is immutable: commands and joins make a new one, which shares what did not change. Its
// fields are for reading.
type State struct {
	VV         VV
	Lines      []*Line // sorted by key
	Members    Set
	Registers  Registers
	Operations Operations
	Lifetime   Lifetime
	Erased     bool // absorbing: joined with anything it stays, and nothing else is left

	muted Dots    // live entries that an alias keeps from counting; derived from Operations
	order []int32 // indexes of Lines by (First, Key); derived
}

// Line returns the line of key, or nil.
func (s *State) Line(key string) *Line {
	if i, ok := findLine(s.Lines, key); ok {
		return s.Lines[i]
	}
	return nil
}

// Ordered returns the lines in the order in which they were first added, ties by key, removed ones
// included.
func (s *State) Ordered() iter.Seq[*Line] {
	return func(yield func(*Line) bool) {
		for _, i := range s.order {
			if !yield(s.Lines[i]) {
				return
			}
		}
	}
}

// Counts reports whether the live entry or member of d counts: no alias of its operation is in the way.
func (s *State) Counts(d Dot) bool { return len(s.muted) == 0 || !s.muted.Has(d) }

// Quantity returns the quantity of l, a line of s. The line is present iff that is above zero.
func (s *State) Quantity(l *Line) int64 { return max(0, l.Counter.sum(s.Counts)) }

// derive computes what State keeps beside its content; like is a state that most of it may be
// shared with, or nil.
func (s *State) derive(like *State) {
	if like == nil {
		like = &State{}
	}
	if sameSlice(s.Operations, like.Operations) {
		s.muted = like.muted
	} else {
		s.muted = s.Operations.muted(func(Dot) bool { return true })
	}
	if slices.EqualFunc(s.Lines, like.Lines, samePlace) {
		s.order = like.order
	} else {
		s.order = s.orderLike(like)
	}
}

func samePlace(a, b *Line) bool { return a == b || a.First == b.First && a.Key == b.Key }

// orderLike sorts the lines, beginning with the order that they had in like: a line that is new is
// most often the last, and nothing remains to be done.
func (s *State) orderLike(like *State) []int32 {
	moved := make([]int32, len(like.Lines)) // index in like -> index here
	order := make([]int32, 0, len(s.Lines))
	added := make([]int32, 0, 1)
	k := 0
	for i, l := range s.Lines {
		for k < len(like.Lines) && like.Lines[k].Key < l.Key {
			k++
		}
		if k < len(like.Lines) && like.Lines[k].Key == l.Key {
			moved[k] = int32(i)
			k++
		} else {
			added = append(added, int32(i))
		}
	}
	for _, i := range like.order {
		order = append(order, moved[i])
	}
	order = append(order, added...)
	compare := func(i, k int32) int {
		a, b := s.Lines[i], s.Lines[k]
		if c := cmp.Compare(a.First, b.First); c != 0 {
			return c
		}
		return cmp.Compare(i, k)
	}
	if !slices.IsSortedFunc(order, compare) {
		slices.SortFunc(order, compare)
	}
	return order
}

// sameSlice reports whether a and b are one slice, or both empty.
func sameSlice[E any](a, b []E) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
