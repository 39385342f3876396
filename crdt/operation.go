package crdt

import (
	"bytes"
	"slices"
)

// OperationID names a command across its retries. Zero is none.
type OperationID [16]byte

// Operation records that the event Dot executed ID at the time At. It is live while the event's
// entry is, and spent once that entry was cancelled or where there never was one. A dot that the
// version vector holds and that has no record has been forgotten, or never had an id. Join: the
// greatest of unseen < live < spent < forgotten.
//
// Events with one id are aliases of one operation: a retry that reached another replica. If any of
// them is spent none counts, else only that with the smallest dot does.
type Operation struct {
	ID    OperationID
	Dot   Dot
	At    Timestamp
	Spent bool
}

func (o Operation) compare(p Operation) int {
	if c := bytes.Compare(o.ID[:], p.ID[:]); c != 0 {
		return c
	}
	return o.Dot.Compare(p.Dot)
}

// Operations is a list of records sorted by id, then by dot.
type Operations []Operation

// Of returns the records of one id: the aliases of one operation.
func (o Operations) Of(id OperationID) Operations { return o.WithPrefix(id[:]) }

// WithPrefix returns the records whose id starts with prefix.
func (o Operations) WithPrefix(prefix []byte) Operations {
	i, _ := slices.BinarySearchFunc(o, prefix, func(o Operation, prefix []byte) int {
		return bytes.Compare(o.ID[:len(prefix)], prefix)
	})
	n := 0
	for i+n < len(o) && bytes.HasPrefix(o[i+n].ID[:], prefix) {
		n++
	}
	return o[i : i+n]
}

// aliases returns how many of the first records share their id.
func (o Operations) aliases() int {
	n := 0
	for n < len(o) && o[n].ID == o[0].ID {
		n++
	}
	return n
}

// muted returns the dots of live records that do not count because of an alias, sorted. Where the
// author of a command observed only what context holds, a spent alias counts from the whole state
// and the smallest dot is that under the context.
func (o Operations) muted(observed func(Dot) bool) Dots {
	var muted Dots
	for len(o) > 0 {
		group := o[:o.aliases()]
		o = o[len(group):]
		if len(group) == 1 {
			continue
		}
		counted := slices.ContainsFunc(group, func(a Operation) bool { return a.Spent })
		for _, a := range group {
			if a.Spent || !observed(a.Dot) {
				continue
			}
			if counted {
				muted = append(muted, a.Dot)
			}
			counted = true
		}
	}
	slices.SortFunc(muted, Dot.Compare)
	return muted
}
