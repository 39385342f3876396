package cart

import (
	"slices"

	"cartd/crdt"
)

// fragments are deltas of a cart that is not resident, or that it cannot be joined with yet. They count as
// held: nothing of them is let go before the store has it. Guarded by the shard's lock.
type fragments struct {
	id     ID
	shard  *shard
	deltas []fragment
	taken  []fragment // what the committer is saving
	size   int64      // estimate of their memory, in bytes
	queued bool       // the committer will take them
	listed bool       // the flusher will look at them
	since  int64      // when the first came, in nanoseconds of Unix time
}

type fragment struct {
	delta *crdt.Delta
	safe  bool // enough nodes hold it
}

const (
	sizeFragments = 160 // and their place in the shard
	sizeDelta     = 400
)

// covers reports whether all of a delta is known already.
func (f *fragments) covers(d *crdt.Delta) bool {
	return slices.ContainsFunc(f.deltas, func(g fragment) bool {
		return g.delta.Erased || d.Within(g.delta.Base, g.delta.VV)
	})
}

// add keeps a delta, together with one that it touches: a merge with any other would lose what lies between
// their bases.
func (f *fragments) add(d *crdt.Delta, safe bool) {
	for i := range f.deltas {
		if g := &f.deltas[i]; g.safe == safe && g.delta.Adjoins(d) {
			g.delta = crdt.Merge(g.delta, d)
			return
		}
	}
	f.deltas = append(f.deltas, fragment{delta: d, safe: safe})
}

// keep holds a delta, of so many bytes when encoded, as a fragment. The shard is locked.
func (sh *shard) keep(id ID, d *crdt.Delta, size int, safe bool) {
	s := sh.service
	f := sh.fragments[id]
	if f == nil {
		f = &fragments{id: id, shard: sh, since: s.now().UnixNano(), size: sizeFragments}
		s.memory.Add(f.size)
		sh.fragments[id] = f
	} else if f.covers(d) {
		return
	}
	f.add(d, safe)
	grown := int64(size) + sizeDelta
	f.size += grown
	s.memory.Add(grown)
	switch {
	case sh.carts[id] != nil: // whose version is that of its state
	case d.Erased:
		sh.setVersion(id, VersionHash(id, &d.State))
	default:
		sh.setVersion(id, sh.versions[id]^spanHash(id, d))
	}
	f.list()
}

// list has the fragments saved in time. The shard is locked.
func (f *fragments) list() {
	s := f.shard.service
	switch {
	case f.queued || f.listed:
	case s.lazy():
		f.listed = true
		s.flusher.add(dueCart{at: f.since + s.flushDelay(f.id), id: f.id, since: f.since})
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
	f.taken = slices.Clone(f.deltas)
	for _, g := range f.taken {
		batch = append(batch, Change{ID: f.id, Delta: g.delta})
	}
	return batch
}

// saved lets go what was taken.
func (f *fragments) saved() {
	sh := f.shard
	s := sh.service
	sh.mu.Lock()
	taken := f.taken
	f.taken = nil
	f.deltas = slices.DeleteFunc(f.deltas, func(g fragment) bool {
		return slices.ContainsFunc(taken, func(t fragment) bool { return t.delta == g.delta })
	})
	f.settle()
	r := sh.carts[f.id]
	sh.mu.Unlock()
	for _, g := range taken {
		m := mark{base: g.delta.Base, stored: extentOf(&g.delta.State)}
		if r != nil { // it became resident in the meantime
			r.mark(m)
		}
		if s.lazy() {
			s.replicator.Mark(f.id, m.encode())
		}
	}
}

// mark lets go what the store has, by what a peer says. The shard is locked.
func (f *fragments) mark(m mark) {
	f.deltas = slices.DeleteFunc(f.deltas, func(g fragment) bool {
		return m.stored.erased || g.delta.Within(m.base, m.stored.vv)
	})
	f.settle()
}

// settle forgets fragments of which nothing is left. The shard is locked.
func (f *fragments) settle() {
	s := f.shard.service
	if len(f.deltas) > 0 {
		f.since = s.now().UnixNano()
		f.list()
		return
	}
	s.memory.Add(-f.size)
	f.size = 0
	if f.shard.fragments[f.id] == f {
		delete(f.shard.fragments, f.id)
	}
}

// takeFragments hands over the fragments of a cart that becomes resident. The shard is locked.
func (sh *shard) takeFragments(id ID) []fragment {
	f := sh.fragments[id]
	if f == nil {
		return nil
	}
	deltas := f.deltas
	f.deltas = nil
	f.settle()
	return deltas
}

// keeps reports whether the shard has fragments of a cart.
func (sh *shard) keeps(id ID) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.fragments[id] != nil
}

// keepsBeginning reports whether the fragments of a cart begin with its first event and leave no gap: where
// the store has nothing of it, they are the whole cart.
func (sh *shard) keepsBeginning(id ID) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	if f == nil {
		return false
	}
	whole, gap := f.joinTo(new(State))
	return !gap && (whole.Erased || whole.Lifetime.Created != 0)
}

// keepsGap reports whether some of the fragments of a cart cannot be joined with what is stored of it.
func (sh *shard) keepsGap(id ID, stored *State) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f := sh.fragments[id]
	if f == nil || stored == nil {
		return false
	}
	_, gap := f.joinTo(stored)
	return gap
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
