package sqlite

import (
	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// entry is what was committed of a cart and may not be in its snapshot yet. It is a value: whoever
// read it may go on with it while others replace it.
type entry struct {
	state *crdt.State // what its author knew of the cart, or nil where no author told
	rest  *crdt.Delta // changes that no state is known to hold, or nil
}

// with returns e joined with a change.
func (e entry) with(c cart.Change) entry {
	switch {
	case c.State == nil:
		e.rest = mergeDeltas(e.rest, c.Delta)
	case e.state == nil || stored.Descends(c.State, e.state):
		e.state = c.State
	default:
		e.state = crdt.Join(e.state, c.State)
	}
	return e.settled()
}

// settled returns e with rest applied to state, where it can be.
func (e entry) settled() entry {
	if e.state != nil && e.rest != nil {
		if state, err := e.state.Apply(e.rest); err == nil {
			e = entry{state: state}
		}
	}
	return e
}

// on returns the join of e with the snapshot, which is nil for a cart without a snapshot. It returns
// crdt.ErrGap where e needs events that the snapshot does not hold.
func (e entry) on(snapshot *crdt.State) (*crdt.State, error) {
	state := e.state
	switch {
	case state == nil && snapshot == nil:
		state = new(crdt.State)
	case state == nil:
		state = snapshot
	case snapshot != nil && !stored.Descends(state, snapshot):
		state = crdt.Join(snapshot, state)
	}
	if e.rest == nil {
		return state, nil
	}
	return state.Apply(e.rest)
}

func mergeDeltas(a, b *crdt.Delta) *crdt.Delta {
	if a == nil {
		return b
	}
	return crdt.Merge(a, b)
}

// settle removes from pending what is now in the snapshot of a cart. mu is held.
func (s *Store) settle(id cart.ID, written entry) {
	e := s.pending[id]
	if e.state == written.state {
		e.state = nil
	}
	if e.rest == written.rest {
		e.rest = nil
	}
	if e == (entry{}) {
		delete(s.pending, id)
	} else {
		s.pending[id] = e
	}
}
