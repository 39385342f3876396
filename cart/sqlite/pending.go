package sqlite

import (
	"slices"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// entry is what was committed of a cart and may not be in its snapshot yet. It is a value: whoever
// read it may go on with it while others replace it.
type entry struct {
	state *crdt.State   // what its author knew of the cart, or nil where no author told
	rest  []*crdt.Delta // changes that no state is known to hold
}

func (e entry) empty() bool { return e.state == nil && len(e.rest) == 0 }

// with returns e joined with a change.
func (e entry) with(c cart.Change) entry {
	switch {
	case c.State == nil:
		e.rest = gather(e.rest, c.Delta)
	case e.state == nil || stored.Descends(c.State, e.state):
		e.state = c.State
	default:
		e.state = crdt.Join(e.state, c.State)
	}
	if e.state != nil {
		e.state, e.rest = stored.Apply(e.state, e.rest)
	}
	return e
}

// on returns the join of e with the snapshot, which is nil for a cart without a snapshot, and the
// changes that need events which neither holds. There is no state where nothing can be joined.
func (e entry) on(snapshot *crdt.State) (state *crdt.State, left []*crdt.Delta) {
	state = snapshot
	switch {
	case e.state == nil:
	case state == nil || stored.Descends(e.state, state):
		state = e.state
	default:
		state = crdt.Join(state, e.state)
	}
	return stored.Apply(state, e.rest)
}

// without returns those deltas that are not among others.
func without(deltas, others []*crdt.Delta) []*crdt.Delta {
	if len(others) == 0 {
		return deltas
	}
	gone := make(map[*crdt.Delta]bool, len(others))
	for _, d := range others {
		gone[d] = true
	}
	return slices.DeleteFunc(slices.Clone(deltas), func(d *crdt.Delta) bool { return gone[d] })
}

// gather returns deltas and d, which is merged with those that it may be merged with.
func gather(deltas []*crdt.Delta, d *crdt.Delta) []*crdt.Delta {
	apart := make([]*crdt.Delta, 0, len(deltas)+1)
	for _, o := range deltas {
		if mergeable(o, d) {
			d = crdt.Merge(o, d)
		} else {
			apart = append(apart, o)
		}
	}
	return append(apart, d)
}

// mergeable reports whether the merge of a and b can be joined wherever one of them can. Then it does no
// harm where what the other needs never comes.
func mergeable(a, b *crdt.Delta) bool { return follows(a, b) || follows(b, a) }

// follows reports whether whoever can join a can then join b, and whoever can join b can join a or has
// joined it: b needs all of it, and who holds an event holds what that needs.
func follows(a, b *crdt.Delta) bool {
	if a.Erased || b.Erased {
		return true
	}
	return a.Adjoins(b) && a.VV.Descends(b.Base) && (b.VV.Descends(a.Base) || needsAll(b, a))
}

// needsAll reports whether b needs all events of a.
func needsAll(b, a *crdt.Delta) bool {
	return !slices.ContainsFunc(a.VV, func(end crdt.Dot) bool { return !a.Base.Has(end) && !b.Base.Has(end) })
}

// settle removes from pending what is now in the snapshot of a cart. mu is held.
func (s *Store) settle(id cart.ID, written entry) {
	e := s.pending[id]
	if e.state == written.state {
		e.state = nil
	}
	e.rest = without(e.rest, written.rest)
	if e.empty() {
		delete(s.pending, id)
	} else {
		s.pending[id] = e
	}
}
