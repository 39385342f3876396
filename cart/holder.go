package cart

import (
	"context"
	"errors"
	"slices"
	"time"

	"cartd/crdt"
)

// What this file has is for the nodes that hold the same carts: a Service takes what they send, and tells
// what it has. A payload is an encoded delta; a whole state is one that needs nothing.

// maxAhead is how far in the future a timestamp may be. Who joins a greater one goes on from there, and
// so does everybody else. [Kulkarni et al. 2014, section 3.3]
const maxAhead = 5 * time.Minute

// Refused counts payloads that peers sent and this node did not take.
type Refused struct {
	Malformed  int64 // they are not what a node sends
	TooNew     int64 // a timestamp is more than five minutes ahead
	OverMemory int64 // the node has no room for more that is unsaved
	Expired    int64 // the cart is one that is deleted, or about to be
}

// Deliver joins a payload that a peer sent, or keeps it as a fragment where the cart is not resident. It
// returns held when this node has what is in it and will not lose it while it runs. Otherwise the
// payload was refused, or, when lacks, needs what this node lacks: a whole state would be held.
func (s *Service) Deliver(_ uint64, id [16]byte, payload []byte) (held, lacks bool) {
	d := s.admissible(payload)
	if d == nil {
		return false, false
	}
	return s.take(id, d, false)
}

// admissible decodes a payload, unless it is to be refused.
func (s *Service) admissible(payload []byte) *crdt.Delta {
	d, err := crdt.DecodeDelta(payload)
	now := s.now()
	switch {
	case err != nil:
		s.refused.malformed.Add(1)
	case d.Newest() > crdt.TimestampAt(now.Add(maxAhead)):
		s.refused.tooNew.Add(1)
	case purged(&d.State, now):
		s.refused.expired.Add(1)
	case !s.makeRoom() && s.memory.Load() > s.budget+s.budget/8:
		s.refused.overMemory.Add(1)
	default:
		return d
	}
	return nil
}

// take joins a delta from elsewhere, where it is durable or not, or keeps it as a fragment.
func (s *Service) take(id ID, d *crdt.Delta, durable bool) (held, lacks bool) {
	// Its sender holds it, and this node does now.
	safe := durable || s.tolerate <= 1
	for {
		sh := s.shard(id)
		sh.mu.Lock()
		r := sh.carts[id]
		if r == nil {
			sh.keep(id, d, safe)
			sh.mu.Unlock()
			return true, false
		}
		sh.mu.Unlock()
		r.mu.Lock()
		if r.gone {
			r.mu.Unlock()
			continue
		}
		err := r.unpack()
		if err == nil {
			s.resized(r)
			err = s.join(r, d, safe)
		}
		if err == nil && durable {
			r.confirm(extentOf(&d.State))
		}
		r.mu.Unlock()
		switch {
		case errors.Is(err, crdt.ErrGap):
			return false, true
		case errors.Is(err, errForged):
			s.refused.malformed.Add(1)
			return false, false
		case err != nil:
			s.log.Error("a cart in memory cannot be read", "cart", id.String(), "error", err)
			return false, false
		}
		return true, false
	}
}

// join joins a delta from elsewhere into a resident cart. r.mu is held.
func (s *Service) join(r *resident, d *crdt.Delta, safe bool) error {
	if err := s.joinOne(r, d, safe); err != nil {
		return err
	}
	s.joinFragments(r)
	return nil
}

// errForged says that a payload has what nobody can have sent.
var errForged = errors.New("cart: a delta with events of this residence that it did not make, or of too many")

// joinOne is join, but for the fragments that it makes fit. r.mu is held.
func (s *Service) joinOne(r *resident, d *crdt.Delta, safe bool) error {
	if !r.latest.Erased && d.VV.Get(r.replica) > r.latest.VV.Get(r.replica) {
		return errForged
	}
	from := r.latest
	state, err := from.Apply(d)
	switch {
	case err != nil:
		return err
	case state == from:
		s.repeated.Add(1)
		return nil
	case len(state.VV) > crdt.MaxReplicas: // nobody could decode it
		return errForged
	}
	c := &change{state: state, events: extentOf(&d.State), safe: safe}
	r.push(c)
	if !s.shared && len(d.Base) == 0 { // maybe a state, which may not reach to what the store has
		d = &crdt.Delta{State: *state}
	}
	s.changed(r, from, d)
	if !safe {
		s.watch(c)
	}
	return nil
}

// Mark takes what a peer knows of the safety of a cart.
func (s *Service) Mark(_ uint64, id [16]byte, encoded []byte) {
	m, err := decodeMark(encoded)
	if err != nil {
		s.refused.malformed.Add(1)
		return
	}
	sh := s.shard(id)
	sh.mu.Lock()
	r := sh.carts[id]
	if f := sh.fragments[id]; f != nil {
		f.mark(m)
	}
	sh.mu.Unlock()
	if r != nil {
		r.mark(m)
	}
}

// recallWait is how long Recall waits for this node's own file.
const recallWait = 100 * time.Millisecond

// Recall returns the durable state of a cart, as a payload, if it is in memory, or in a file of this node's
// own. An empty state says that there is more, which is not durable or not the whole cart, as far as this
// node knows.
func (s *Service) Recall(id [16]byte) (payload []byte, known bool) {
	sh := s.shard(id)
	r := sh.get(id)
	if r == nil && !s.shared {
		ctx, cancel := s.scheduler.WithTimeout(s.running, recallWait)
		defer cancel()
		held, err := s.acquire(ctx, id, false)
		if err != nil {
			return recalled(new(State)), !errors.Is(err, ErrNotFound)
		}
		held.mu.Unlock()
		r = held
	}
	if r == nil {
		whole, safe := sh.beginning(id)
		if !safe {
			whole = new(State)
		}
		return recalled(whole), safe || sh.keeps(id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	durable := r.durable
	if r.packed != nil {
		state, err := crdt.DecodeState(r.packed)
		if err != nil {
			return nil, false
		}
		durable = state
	}
	if durable == nil {
		durable = new(State)
	}
	return recalled(durable), true
}

func recalled(s *State) []byte { return crdt.AppendDelta(nil, &crdt.Delta{State: *s}) }

// Digests returns a digest of each slot: of two nodes, equal slots have equal digests.
func (s *Service) Digests() *[slots]uint64 {
	z := new([slots]uint64)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		copy(z[i*slotsPerShard:], sh.digests[:])
		sh.mu.Unlock()
	}
	return z
}

// EachVersion calls yield with each cart of the slot of from and its version, sorted by id and beginning at
// from, until it returns false.
func (s *Service) EachVersion(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	for _, v := range s.shard(from).versionsFrom(from) {
		if !yield(v.ID, v.Version) {
			return
		}
	}
}

// hold returns the resident cart of id, locked, loaded from the store where it has to be, or nil where
// there is no such cart, or only a part of it that nothing can be done with. It sets right what the index says.
func (s *Service) hold(ctx context.Context, id ID) (*resident, error) {
	r, err := s.acquire(ctx, id, false)
	switch {
	case errors.Is(err, ErrNotFound):
		s.shard(id).forgetVersion(id)
		return nil, nil
	case errors.Is(err, errPart), errors.Is(err, ErrDamaged): // a whole state makes it a cart again
		return nil, nil
	case err != nil:
		return nil, err
	case purged(r.latest, s.now()):
		s.drop(r)
		r.mu.Unlock()
		return nil, nil
	}
	return r, nil
}

// drop lets go a cart that every node deletes. r.mu is held.
func (s *Service) drop(r *resident) {
	if !r.clean() {
		return
	}
	sh := s.shard(r.id)
	sh.mu.Lock()
	sh.remove(r)
	sh.mu.Unlock()
	sh.forgetVersion(r.id)
}

// Vector returns the encoded version vector of a cart, which it may load; known is false where there is no
// such cart.
func (s *Service) Vector(ctx context.Context, id [16]byte) (vector []byte, known bool, err error) {
	r, err := s.hold(ctx, id)
	if r == nil {
		return nil, false, err
	}
	defer r.mu.Unlock()
	return crdt.AppendState(nil, &State{VV: r.latest.VV, Erased: r.latest.Erased}), true, nil
}

// Compare tells whether this node has something of a cart that a version vector lacks, and the other way
// round. It may load the cart. An error with behind says that this node has fragments that the vector lacks, and
// cannot join them with what else it has.
func (s *Service) Compare(ctx context.Context, id [16]byte, vector []byte) (ahead, behind bool, err error) {
	other, err := crdt.DecodeState(vector)
	if err != nil {
		s.refused.malformed.Add(1)
		return false, false, err
	}
	r, err := s.hold(ctx, id)
	if r != nil {
		defer r.mu.Unlock()
	}
	switch {
	case err != nil:
		return false, false, err
	case s.shard(id).keepsBeyond(id, extentOf(other)):
		return false, true, errPart
	case r == nil:
		return false, true, nil
	}
	return !extentOf(other).covers(r.latest), !extentOf(r.latest).covers(other), nil
}

// State returns the whole latest state of a cart, as a payload, and what to call when a peer holds it,
// with its start id. It may load the cart. A nil payload says that there is no such cart.
func (s *Service) State(ctx context.Context, id [16]byte) (payload []byte, held func(holder uint64), err error) {
	r, err := s.hold(ctx, id)
	if r == nil {
		return nil, nil, err
	}
	defer r.mu.Unlock()
	payload, held = r.whole()
	return payload, held, nil
}

// Durable returns the whole durable state of a cart, as a payload. It may load the cart. A nil payload says that there
// is no such cart, as far as others are to know.
func (s *Service) Durable(ctx context.Context, id [16]byte) (payload []byte, err error) {
	r, err := s.hold(ctx, id)
	if r == nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if r.durable == nil {
		return nil, nil
	}
	return recalled(r.durable), nil
}

// whole returns the latest state as a payload, and what to call when a peer holds it. r.mu is held.
func (r *resident) whole() (payload []byte, held func(holder uint64)) {
	unsafe := slices.Clone(r.unsafe)
	return crdt.AppendDelta(nil, &crdt.Delta{State: *r.latest}), func(holder uint64) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range unsafe {
			r.credit(c, holder)
		}
		r.advance()
	}
}

// refresh has a resident cart joined with what the store and the peers have of it. r.mu is held.
func (s *Service) refresh(r *resident) {
	if s.replicator == nil || r.refreshing || s.running.Err() != nil {
		return
	}
	r.refreshing = true // and so it stays
	was := r.stored
	s.background(func() {
		ctx, cancel := s.scheduler.WithTimeout(s.running, loadTimeout)
		defer cancel()
		stored, err := s.store.Load(ctx, r.id)
		states, _ := s.ask(r.id, false)
		own := s.shard(r.id).owns(r.id)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refreshing = false
		switch {
		case err == nil:
			r.learn(extentOf(stored), was)
			s.joinState(r, stored, s.trusted(own))
		case !unread(err): // there is nothing, or nothing that can be read
			r.learn(extent{}, was)
		}
		if r.unread = unread(err); !r.unread || len(states) > 0 {
			r.read = s.tick.Load() + 1
		}
		for _, state := range states {
			s.joinState(r, state, true)
		}
		r.settle(s.now().UnixNano())
	})
}

// joinState joins a whole state from elsewhere into a resident cart. r.mu is held.
func (s *Service) joinState(r *resident, state *State, safe bool) {
	if err := s.join(r, &crdt.Delta{State: *state}, safe); err != nil {
		s.log.Error("a cart cannot be joined with what is stored of it", "cart", r.id.String(), "error", err)
	}
}

// unread reports whether a load failed so that it is not known what the store has.
func unread(err error) bool {
	return err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDamaged)
}

// learn takes what the store has of the cart, as it said when it was known to have had something: perhaps less,
// where a store that nodes share was taken back to an earlier state. Then the rest is saved again. r.mu is held.
func (r *resident) learn(stored, was extent) {
	saving := r.taken != nil || !was.holds(r.stored) // or has saved since: the store may have been asked before
	if r.service.shared && !saving {
		r.stored = stored
	} else {
		r.stored = r.stored.join(stored)
	}
}

// Lost tells that a peer went away, and with it what it held, or that it is about to: what the database lacks
// is saved at once.
func (s *Service) Lost(holder uint64) {
	if s.lazy() {
		s.losses.add(holder, s.now().UnixNano(), s.backlog.all())
		s.hurry()
	}
}
