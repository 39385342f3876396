package cart

import (
	"errors"
	"slices"

	"cartd/crdt"
)

// fragments are deltas of a cart that is not resident, or that it cannot be joined with yet. They count as
// held: nothing of them is let go before the store has it. Guarded by the shard's lock.
type fragments struct {
	id      ID
	shard   *shard
	deltas  []fragment
	taken   []*crdt.Delta // what the committer is saving
	queued  bool          // the committer will take them
	listed  bool          // the flusher will look at them
	lacked  bool          // the store, which nodes share, lacks something of them
	since   int64         // when the first of that came, in nanoseconds of Unix time
	takenAt int64         // when taken was, likewise
}

type fragment struct {
	delta *crdt.Delta
	safe  bool  // enough nodes hold it
	taken bool  // the committer is saving it
	saved bool  // the store has it, but who is loading the cart may have asked the store before
	size  int64 // estimate of its memory, in bytes
}

const (
	sizeFragments = 160 // and their place in the shard
	sizeFragment  = 80
	// maxMerged bounds what other deltas are merged into: each time it has to be gone through.
	maxMerged = 16 << 10
)

// sizeOfDelta estimates the memory of a fragment.
func sizeOfDelta(d *crdt.Delta) int64 {
	return sizeFragment + sizeOfState(&d.State) + int64(sizeDot*(len(d.Base)+len(d.Cancelled)+len(d.Forgotten)))
}

// covers reports whether all of a delta is known already.
func (f *fragments) covers(d *crdt.Delta) bool {
	return slices.ContainsFunc(f.deltas, func(g fragment) bool {
		return g.delta.Erased || d.Within(g.delta.Base, g.delta.VV)
	})
}

// mergeable reports whether each of two deltas has what the other needs of it, and needs nothing else that the
// other does not: then their merge loses nothing, and can be joined wherever either of them can. Of others
// one would have to wait for what the other lacks, perhaps for ever.
func mergeable(a, b *crdt.Delta) bool {
	return a.Erased || b.Erased || a.VV.Descends(b.Base) && b.VV.Descends(a.Base)
}

// add keeps a delta, together with one that it can be merged with. What the committer is saving stays as it is.
func (f *fragments) add(d *crdt.Delta, safe bool) {
	s := f.shard.service
	for i := range f.deltas {
		g := &f.deltas[i]
		if g.safe == safe && !g.taken && !g.saved && g.size < maxMerged && mergeable(g.delta, d) {
			g.delta = crdt.Merge(g.delta, d)
			s.memory.Add(-g.size)
			g.size = sizeOfDelta(g.delta)
			s.memory.Add(g.size)
			return
		}
	}
	g := fragment{delta: d, safe: safe, size: sizeOfDelta(d)}
	s.memory.Add(g.size)
	f.deltas = append(f.deltas, g)
}

// remove lets go the fragments for which gone holds, and the rest of f with the last of them.
func (f *fragments) remove(gone func(g *fragment) bool) {
	s := f.shard.service
	kept := f.deltas[:0]
	for i := range f.deltas {
		if g := &f.deltas[i]; gone(g) {
			s.memory.Add(-g.size)
		} else {
			kept = append(kept, *g)
		}
	}
	clear(f.deltas[len(kept):])
	f.deltas = kept
	if f.lacked && f.stored() {
		f.lacked = false
		s.backlog.remove(f.since)
	}
	if len(kept) == 0 && f.shard.fragments[f.id] == f {
		delete(f.shard.fragments, f.id)
		f.shard.lapse(f.id)
		s.memory.Add(-sizeFragments)
	}
}

// stored reports whether the store has all of them.
func (f *fragments) stored() bool {
	return !slices.ContainsFunc(f.deltas, func(g fragment) bool { return !g.saved })
}

// lack notes that the store lacks something of them.
func (f *fragments) lack() {
	if s := f.shard.service; s.lazy() && !f.lacked {
		f.lacked, f.since = true, s.now().UnixNano()
		s.backlog.add(f.since)
	}
}

// keep holds a delta as a fragment. The shard is locked.
func (sh *shard) keep(id ID, d *crdt.Delta, safe bool) {
	s := sh.service
	f := sh.fragments[id]
	if f == nil {
		f = &fragments{id: id, shard: sh}
		s.memory.Add(sizeFragments)
		sh.fragments[id] = f
	} else if f.covers(d) {
		s.repeated.Add(1)
		return
	}
	f.add(d, safe)
	f.lack()
	sh.touch(id)
	switch {
	case sh.carts[id] != nil: // whose version is that of its state
	case d.Erased:
		sh.setVersion(id, VersionHash(id, &d.State))
	default:
		// What came before and has been saved since must not be taken out again: then nodes would be equal
		// to those that never had it.
		if span := spanHash(id, d); len(d.Base) > 0 || sh.versions[id] != span {
			sh.setVersion(id, sh.versions[id]^span)
		}
	}
	f.list()
}

// list has the fragments saved in time. The shard is locked.
func (f *fragments) list() {
	s := f.shard.service
	switch {
	case f.queued || f.listed || f.stored():
	case s.lazy():
		f.listed = true
		s.flusher.add(s.due(f.id, max(f.since, f.takenAt)))
	default:
		f.queued = true
		s.committer.enqueue(f)
	}
}

// flush has the committer take the fragments of a cart, if it has any.
func (sh *shard) flush(id ID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	if f == nil {
		return
	}
	f.listed = false
	if !f.queued {
		f.queued = true
		sh.service.committer.enqueue(f)
	}
}

func (f *fragments) take(batch []Change) []Change {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	f.queued = false
	f.takenAt = f.shard.service.now().UnixNano()
	f.taken = f.taken[:0]
	for i := range f.deltas {
		g := &f.deltas[i]
		if g.saved {
			continue
		}
		g.taken = true
		f.taken = append(f.taken, g.delta)
		batch = append(batch, Change{ID: f.id, Delta: g.delta})
	}
	return batch
}

// saved lets go what was taken, unless the cart is being loaded.
func (f *fragments) saved() {
	sh := f.shard
	s := sh.service
	sh.mu.Lock()
	loading := sh.loads[f.id] != nil
	f.remove(func(g *fragment) bool {
		g.saved = g.saved || g.taken
		g.taken = false
		return g.saved && !loading
	})
	if f.lacked { // by what came since
		s.backlog.move(f.since, f.takenAt)
		f.since = f.takenAt
	}
	f.list()
	r := sh.carts[f.id]
	sh.mu.Unlock()
	for _, d := range f.taken {
		m := mark{base: d.Base, stored: extentOf(&d.State)}
		if r != nil { // it became resident in the meantime
			r.mark(m)
		}
		if s.lazy() {
			s.replicator.Mark(f.id, m.encode())
		}
	}
	clear(f.taken)
}

// mark takes what a peer knows of their safety. The shard is locked.
func (f *fragments) mark(m mark) {
	s := f.shard.service
	for i := range f.deltas {
		g := &f.deltas[i]
		g.safe = g.safe || m.durable.any() && m.durable.holds(extentOf(&g.delta.State))
	}
	if s.shared && m.stored.any() {
		loading := f.shard.loads[f.id] != nil
		f.remove(func(g *fragment) bool {
			g.saved = g.saved || m.stored.erased || g.delta.Within(m.base, m.stored.vv)
			return g.saved && !loading
		})
	}
}

// loaded ends a load of a cart, and lets go what was kept for it. The shard is locked.
func (sh *shard) loaded(id ID) {
	delete(sh.loads, id)
	if f := sh.fragments[id]; f != nil {
		f.remove(func(g *fragment) bool { return g.saved })
	}
}

// takeFragments hands over the fragments of a cart that can be joined to a state of it, and since when the store lacks
// some of them. The shard is locked.
func (sh *shard) takeFragments(id ID, state *State) (fit []fragment, since int64) {
	f := sh.fragments[id]
	if f == nil {
		return nil, 0
	}
	since = f.since
	f.remove(func(g *fragment) bool {
		fits := joins(state, g.delta)
		if fits {
			fit = append(fit, *g)
		}
		return fits
	})
	return fit, since
}

// joins reports whether a delta can be joined to a state.
func joins(state *State, d *crdt.Delta) bool {
	return state.Erased || d.Erased || state.VV.Descends(d.Base)
}

// joinFragments joins a resident cart with the fragments that fit by now. r.mu is held.
func (s *Service) joinFragments(r *resident) {
	sh := s.shard(r.id)
	for {
		sh.mu.Lock()
		fit, since := sh.takeFragments(r.id, r.latest)
		sh.mu.Unlock()
		if len(fit) == 0 {
			return
		}
		for _, f := range fit {
			_ = s.joinOne(r, f.delta, f.safe) // it fits
		}
		r.backdate(since)
	}
}

var errPart = errors.New("cart: this node has a part of the cart, and cannot reach the rest")

// keeps reports whether the shard has fragments of a cart.
func (sh *shard) keeps(id ID) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.fragments[id] != nil
}

// keepsBeyond reports whether the shard has fragments of a cart that an extent does not hold.
func (sh *shard) keepsBeyond(id ID, e extent) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	return f != nil && slices.ContainsFunc(f.deltas, func(g fragment) bool { return !e.holds(extentOf(&g.delta.State)) })
}

// beginning returns what the fragments of a cart make of it, if they begin with its first event and leave no
// gap: where the store has nothing of it, they are the whole cart. Else it returns nil.
func (sh *shard) beginning(id ID) (whole *State, safe bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	if f == nil {
		return nil, false
	}
	whole, gap := f.joinTo(new(State))
	if gap || !whole.Erased && whole.Lifetime.Created == 0 {
		return nil, false
	}
	return whole, !slices.ContainsFunc(f.deltas, func(g fragment) bool { return !g.safe })
}

// keepsGap reports whether some of the fragments of a cart cannot be joined with what is stored of it.
func (sh *shard) keepsGap(id ID, stored *State) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	if f == nil {
		return false
	}
	_, gap := f.joinTo(stored)
	return gap
}

// keepsGaps reports whether there are fragments of resident carts that the store lacks: they need what this node does
// not have, and no version that others compare with tells of them.
func (s *Service) keepsGaps() bool {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for id, f := range sh.fragments {
			if sh.carts[id] != nil && !f.stored() {
				sh.mu.Unlock()
				return true
			}
		}
		sh.mu.Unlock()
	}
	return false
}

// joinTo joins the fragments that can be joined to a state, and tells whether others are left.
func (f *fragments) joinTo(s *State) (state *State, gap bool) {
	left := slices.Clone(f.deltas)
	for n := -1; n != len(left); {
		n = len(left)
		left = slices.DeleteFunc(left, func(g fragment) bool {
			next, err := s.Apply(g.delta)
			if err != nil {
				return false
			}
			s = next
			return true
		})
	}
	return s, len(left) > 0
}
