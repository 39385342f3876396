package crdt

import "slices"

// Kind is what an entry does to its line.
type Kind uint8

// The kinds of entries.
const (
	Increment  Kind = iota // adds N, which may be negative
	Assignment             // sets N ≥ 1; of several assignments that of the greatest (At, Dot) counts
)

// Entry is the effect of one event on one line, for as long as no event that observed it cancels it.
type Entry struct {
	Dot  Dot
	N    int64
	At   Timestamp // of an assignment; 0 for an increment
	Kind Kind
}

func (e Entry) dot() Dot { return e.Dot }

// Counter is the live entries of one line, sorted by dot. Nothing is summed away: an increment can
// be cancelled only under the dot under which it was observed.
type Counter []Entry

// sum returns the assignment that counts plus all increments that do. The sum of concurrent
// decrements can be below zero.
func (c Counter) sum(counts func(Dot) bool) int64 {
	var sum int64
	var assigned *Entry
	for i := range c {
		e := &c[i]
		switch {
		case !counts(e.Dot):
		case e.Kind == Increment:
			sum += e.N
		case assigned == nil || (Stamp{e.At, e.Dot}).Compare(Stamp{assigned.At, assigned.Dot}) > 0:
			assigned = e
		}
	}
	if assigned != nil {
		sum += assigned.N
	}
	return sum
}

// Line is a counter with a name, a place and registers of its own. A line that was removed keeps
// Key, First and Registers.
type Line struct {
	Key       string
	First     Timestamp // of the first event that put an entry here (min-register)
	Counter   Counter
	Registers Registers
}

// findLine returns the index of key in lines, or where it belongs.
func findLine(lines []*Line, key string) (int, bool) {
	return slices.BinarySearchFunc(lines, key, func(l *Line, key string) int {
		switch {
		case l.Key < key:
			return -1
		case l.Key > key:
			return 1
		}
		return 0
	})
}
