package cart

import (
	"context"
	"errors"
	"sync"

	"cartd/crdt"
)

// shard is a part of the carts. Who holds its lock only tries for that of a resident; who holds a
// resident's may take the shard's.
type shard struct {
	service *Service

	mu        sync.Mutex
	carts     map[ID]*resident
	loads     map[ID]*load      // under way
	fragments map[ID]*fragments // of carts that are not resident, and what a resident one still lacks the base of
	versions  map[ID]uint64     // of every cart that is known of; nil in a node that is alone
	doubtful  map[ID]uint64     // of those that are not in memory, and differed from what was stored when that was last read
	digests   [slotsPerShard]uint64

	own     shardSlots       // of which this node gets all changes
	held    shardSlots       // that it is to keep beside these
	recent  [2]shardSlots    // others, for which something came since the last tick, and since the one before
	reading shardSlots       // own ones that are being read from the store
	seeded  shardSlots       // own ones of which versions tells of all that is stored
	guests  map[ID]*resident // those that were not told of all changes
}

// load is a cart on its way into memory, for all who want it.
type load struct {
	asks     bool          // the peers too
	done     chan struct{} // closed when the rest is set
	resident *resident
	err      error
}

const shards = 256

func (s *Service) shard(id ID) *shard { return &s.shards[id[0]] }

func (sh *shard) get(id ID) *resident {
	r, _ := sh.find(id)
	return r
}

// find returns the resident cart of id, or nil, and whether it is a guest.
func (sh *shard) find(id ID) (r *resident, guest bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.carts[id], sh.guests[id] != nil
}

// owns reports whether this node owns a cart.
func (sh *shard) owns(id ID) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.own.has(id)
}

// acquire returns the resident cart of id, locked and unpacked. It loads the cart where it is not
// resident; many that want it at once cause one load. ask has the peers asked where the store does not
// have it, cannot tell, or may not have all that they have, and has a guest updated.
func (s *Service) acquire(ctx context.Context, id ID, ask bool) (*resident, error) {
	sh := s.shard(id)
	for {
		r, guest := sh.find(id)
		if r == nil {
			var err error
			if r, err = s.load(ctx, sh, id, ask && s.replicator != nil); err != nil {
				return nil, err
			}
			_, guest = sh.find(id)
		}
		r.mu.Lock()
		if r.gone {
			r.mu.Unlock()
			continue
		}
		r.used = s.tick.Load()
		if r.packed != nil {
			if err := r.unpack(); err != nil {
				r.mu.Unlock()
				return nil, &Error{Reason: Unavailable, Detail: "the cart cannot be read", Err: err}
			}
			s.resized(r)
		}
		if ask && guest {
			if err := s.update(ctx, r); err != nil {
				r.mu.Unlock()
				return nil, err
			}
		}
		return r, nil
	}
}

// load returns the resident cart of id, once it is, or gives up after loadWait. The load is nobody's:
// it goes on when the request that asked for it first ends.
func (s *Service) load(ctx context.Context, sh *shard, id ID, ask bool) (*resident, error) {
	over, stop := s.scheduler.After(loadWait)
	defer stop()
	for {
		sh.mu.Lock()
		if r := sh.carts[id]; r != nil {
			sh.mu.Unlock()
			return r, nil
		}
		l := sh.loads[id]
		if l == nil {
			l = &load{asks: ask, done: make(chan struct{})}
			sh.loads[id] = l
			s.background(func() {
				l.resident, l.err = s.fetch(sh, id, ask)
				sh.mu.Lock()
				sh.loaded(id)
				sh.mu.Unlock()
				close(l.done)
			})
		}
		sh.mu.Unlock()
		s.scheduler.Wait(l.done, over, ctx.Done())
		switch {
		case !isClosed(l.done):
			return nil, &Error{Reason: Unavailable, Detail: "the cart was not loaded in time", Err: ctx.Err()}
		case l.err != nil && ask && !l.asks:
			continue // the peers may have it
		}
		return l.resident, l.err
	}
}

// fetch makes a cart resident that is in the store, or with a peer.
func (s *Service) fetch(sh *shard, id ID, ask bool) (*resident, error) {
	ctx, cancel := s.scheduler.WithTimeout(s.running, loadTimeout)
	defer cancel()
	stored, err := s.store.Load(ctx, id)
	var part *State
	if err == nil && !stored.Erased && stored.Lifetime.Created == 0 {
		// What a peer held of the cart was saved, and its beginning was not yet.
		part, stored, err = stored, nil, errPart
	}
	absent := errors.Is(err, ErrNotFound)
	r := &resident{id: id, replica: newReplicaID(), service: s, latest: new(State)}
	began, doubtful := false, false
	r.parted = part != nil || errors.Is(err, ErrDamaged)
	r.unread = part == nil && unread(err)
	own := sh.owns(id)
	trusted := s.trusted(own)
	if err == nil {
		r.latest, r.stored = stored, extentOf(stored)
		if trusted {
			r.durable = stored
		}
		doubtful = ask && (!own || !s.replicator.Synced() || sh.keepsGap(id, stored))
	} else {
		whole, _ := sh.beginning(id)
		began = whole != nil
		doubtful = ask && !(began && absent)
	}
	if doubtful {
		states, complete := s.ask(id, false)
		if len(states) == 0 && !began && (part != nil || absent && (sh.keeps(id) || sh.indexes(id))) {
			states, complete = s.ask(id, true)
		}
		for _, state := range states {
			r.latest = crdt.Join(r.latest, state)
			if r.durable != nil {
				state = crdt.Join(r.durable, state)
			}
			r.durable = state
		}
		if len(states) == 0 && !complete && absent {
			return nil, &Error{Reason: Unavailable, Detail: "nodes that may have the cart did not answer, or cannot tell"}
		}
	}
	if part != nil && (r.durable != nil || began) {
		r.latest, r.stored = crdt.Join(r.latest, part), extentOf(part)
	}
	if r.durable != nil && (trusted || extentOf(r.durable).covers(r.latest)) {
		r.durable = r.latest
	}
	switch {
	case err == nil || r.durable != nil || began:
	case absent && !sh.keeps(id):
		return nil, ErrNotFound
	case errors.Is(err, ErrDamaged):
		return nil, &Error{Reason: Unavailable, Detail: "what is stored of the cart is damaged", Err: err}
	case absent || part != nil:
		return nil, &Error{Reason: Unavailable, Detail: "the cart cannot be put together", Err: errPart}
	default:
		return nil, &Error{Reason: Unavailable, Detail: "the cart cannot be loaded", Err: err}
	}
	if ask {
		r.read = s.tick.Load() + 1
	}
	if err := s.admit(sh, r); err != nil {
		return nil, err
	}
	r.mu.Unlock()
	return r, nil
}

// ask returns what the peers have in memory of a cart, and whether that is all. Other regions are asked as well where
// this one is lacking something of it.
func (s *Service) ask(id ID, lacking bool) (states []*State, complete bool) {
	var answer struct {
		payloads [][]byte
		complete bool
	}
	answered := make(chan struct{})
	s.replicator.Fetch(id, lacking, func(payloads [][]byte, complete bool) {
		answer.payloads, answer.complete = payloads, complete
		close(answered)
	})
	s.scheduler.Wait(answered, s.running.Done(), nil)
	if !isClosed(answered) {
		return nil, false
	}
	now := s.now()
	for _, p := range answer.payloads {
		d, err := crdt.DecodeDelta(p)
		switch {
		case err != nil || len(d.Base) > 0:
			s.refused.malformed.Add(1)
		case !extentOf(&d.State).any():
			answer.complete = false
		case d.Newest() > crdt.TimestampAt(now.Add(maxAhead)):
			s.refused.tooNew.Add(1)
		case purged(&d.State, now):
			s.refused.expired.Add(1)
		default:
			if state, err := new(State).Apply(d); err == nil {
				states = append(states, state)
			}
		}
	}
	return states, answer.complete
}

// admit makes a cart resident, if there is room for it, and locks it before anybody can evict it. It is
// joined with the fragments that came before it.
func (s *Service) admit(sh *shard, r *resident) error {
	if !s.makeRoom() {
		return &Error{Reason: ServiceOverCapacity, Detail: "the node holds as many unsaved carts as its memory allows"}
	}
	r.mu.Lock()
	r.used = s.tick.Load()
	s.residents.Add(1)
	sh.mu.Lock()
	sh.carts[r.id] = r
	if !sh.own.has(r.id) {
		sh.guests[r.id] = r
	}
	indexed, version := sh.versions[r.id], VersionHash(r.id, r.latest)
	stale := indexed != 0 && indexed != version && sh.fragments[r.id] == nil
	sh.setVersion(r.id, version)
	sh.mu.Unlock()
	if stale { // the store has said that it has another version
		s.refresh(r)
	}
	s.resized(r)
	if !s.acknowledges() && r.durable != r.latest && extentOf(r.latest).any() {
		r.hold()
	}
	if r.durable != nil && r.dirty() { // what a peer had and the store did not
		s.changed(r, nil, &crdt.Delta{State: *r.latest})
	}
	s.joinFragments(r)
	return nil
}

// resized accounts for what a residence now takes. r.mu is held.
func (s *Service) resized(r *resident) {
	size := r.measure()
	s.memory.Add(size - r.size)
	r.size = size
}

// evictionSample is how many carts of a shard are looked at to find one that was not used for
// long: the choice is nearly that of a full LRU. [Redis, "Key eviction"]
const evictionSample = 8

// search is when a search for carts to evict was made: nothing has changed much since if there was
// neither a tick of the janitor, counted from 1, nor a commit.
type search struct{ tick, commits int64 }

// makeRoom evicts clean carts until the budget is kept. It reports whether it could: dirty carts
// stay.
func (s *Service) makeRoom() bool {
	if s.memory.Load() <= s.budget {
		return true
	}
	s.evicting.Lock()
	defer s.evicting.Unlock()
	now := search{s.tick.Load() + 1, s.committer.commits.Load()}
	if s.barren == now && s.memory.Load() > s.budget {
		return false // to look at all carts again for each request would cost more than it brings
	}
	for misses := 0; s.memory.Load() > s.budget; {
		sh := &s.shards[s.hand]
		s.hand = (s.hand + 1) % shards
		if s.evictOne(sh) {
			misses = 0
		} else if misses++; misses == shards {
			s.barren = now
			if s.lazy() && s.flusher.relaxed(s.now().UnixNano()) {
				s.hurry() // what is saved can be evicted
			}
			return false
		}
	}
	return true
}

// evictOne evicts the least recently used of a sample of clean carts in the shard.
func (s *Service) evictOne(sh *shard) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var victim *resident
	n := 0
	for _, r := range sh.carts { // in random order
		if n >= evictionSample && victim != nil {
			break
		}
		if !r.mu.TryLock() {
			continue // in use
		}
		n++
		if r.clean() && (victim == nil || r.used < victim.used) {
			if victim != nil {
				victim.mu.Unlock()
			}
			victim = r
		} else {
			r.mu.Unlock()
		}
	}
	if victim == nil {
		return false
	}
	sh.remove(victim)
	s.evictions.Add(1)
	victim.mu.Unlock()
	return true
}

// remove makes a cart not resident. It is locked, and so is the shard.
func (sh *shard) remove(r *resident) {
	r.gone = true
	delete(sh.carts, r.id)
	delete(sh.guests, r.id)
	sh.lapse(r.id)
	sh.service.memory.Add(-r.size)
	sh.service.residents.Add(-1)
}

// packIdle packs the carts of some shards that were not used for idleTicks, and refreshes those that the
// store has more of, or may have.
func (s *Service) packIdle(first, n int) {
	now := s.tick.Load()
	for i := first; i < first+n && i < shards; i++ {
		sh := &s.shards[i]
		sh.mu.Lock()
		idle := make([]*resident, 0, len(sh.carts))
		for _, r := range sh.carts {
			idle = append(idle, r)
		}
		sh.mu.Unlock()
		for _, r := range idle {
			if !r.mu.TryLock() {
				continue
			}
			switch {
			case r.gone:
			case r.behind() || r.unread:
				s.refresh(r)
			case r.packed == nil && r.clean() && now-r.used >= idleTicks:
				r.pack()
				s.resized(r)
			}
			r.mu.Unlock()
		}
	}
}
