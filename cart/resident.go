package cart

import (
	"context"
	"errors"
	"slices"
	"sync"

	"cartd/crdt"
)

// resident is a cart in memory, under a replica id of its own for as long as it stays.
type resident struct {
	id      ID
	replica crdt.ReplicaID

	mu sync.Mutex // guards everything below

	// latest is what commands observe: everything that this residence knows. durable is what
	// readers see: the newest state in this residence's sequence whose events are all safe. Both
	// are nil while the cart is packed, and durable is nil before the first event is safe.
	latest, durable *State
	packed          []byte // the encoding of a cart that is not in use

	authored    bool            // somebody is about to make the next state: nobody else may
	authors     []chan struct{} // closed, in this order, when it is the turn of who waits for it
	unsafe      []*change       // the changes between durable and latest, oldest first
	uncommitted int             // changes that the store does not have yet; above 0 the cart is dirty
	moved       chan struct{}   // closed when latest or durable moves; nil where nobody waits
	waiting     int             // requests that wait in await: the cart is in use
	gone        bool            // evicted: look the cart up again
	used        int64           // when it was last used, in ticks of the janitor
	size        int64           // estimate of its memory, in bytes
}

// change is a Change on its way to being safe.
type change struct {
	Change
	resident *resident
	safe     bool            // guarded by resident.mu
	done     chan struct{}   // closed when this change and all before it are safe
	stalled  <-chan struct{} // closed when the store has no room for it, or failed
}

// push appends a change to the residence's sequence. r.mu is held.
func (r *resident) push(c *change) {
	r.latest = c.State
	r.unsafe = append(r.unsafe, c)
	r.uncommitted++
	r.broadcast()
}

// committed tells that the store has the change.
func (r *resident) committed(c *change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.uncommitted--
	r.advance(c)
}

// acknowledged tells that enough holders have the change.
func (r *resident) acknowledged(c *change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance(c)
}

// advance marks c safe and moves durable over the changes that are safe without a gap.
func (r *resident) advance(c *change) {
	c.safe = true
	n := 0
	for n < len(r.unsafe) && r.unsafe[n].safe {
		r.durable = r.unsafe[n].State
		close(r.unsafe[n].done)
		n++
	}
	if n == len(r.unsafe) {
		r.unsafe = nil
	} else {
		r.unsafe = r.unsafe[n:]
	}
	if n > 0 {
		r.broadcast()
	}
}

func (r *resident) broadcast() {
	if r.moved != nil {
		close(r.moved)
		r.moved = nil
	}
}

// await waits until ready holds for the residence, and reports whether it does when ctx is done or
// giveUp closed. r.mu is held on the way in and out, but not while it waits.
func (r *resident) await(ctx context.Context, giveUp <-chan struct{}, ready func() bool) bool {
	r.waiting++
	defer func() { r.waiting-- }()
	for over := false; !ready(); {
		if over {
			return false
		}
		if r.moved == nil {
			r.moved = make(chan struct{})
		}
		moved := r.moved
		r.mu.Unlock()
		select {
		case <-moved:
		case <-giveUp:
			over = true
		case <-ctx.Done():
			over = true
		}
		r.mu.Lock()
	}
	return true
}

// maxAuthors bounds how many requests wait for their turn at one cart.
const maxAuthors = 256

// inTurn calls author when nobody else makes the next state of the residence, or returns an error
// when that is not before ctx is done. r.mu is held on the way in and out and when author is called,
// which may let it go: what commits and reads the cart does not wait for its author.
func (r *resident) inTurn(ctx context.Context, author func() error) error {
	if err := r.takeTurn(ctx); err != nil {
		return err
	}
	defer r.passTurn()
	return author()
}

func (r *resident) takeTurn(ctx context.Context) error {
	if !r.authored {
		r.authored = true
		return nil
	}
	if len(r.authors) == maxAuthors {
		return errBusy
	}
	turn := make(chan struct{})
	r.authors = append(r.authors, turn)
	r.mu.Unlock()
	select {
	case <-turn:
		r.mu.Lock()
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	if i := slices.Index(r.authors, turn); i >= 0 {
		r.authors = slices.Delete(r.authors, i, i+1)
	} else {
		r.passTurn() // it came at the same time
	}
	return errBusy
}

func (r *resident) passTurn() {
	if len(r.authors) == 0 {
		r.authored = false
		return
	}
	close(r.authors[0])
	r.authors = slices.Delete(r.authors, 0, 1)
}

var errBusy = &Error{Reason: NotDurable, Detail: "more is asked of the cart than the node keeps up with: nothing was changed"}

// clean reports whether the cart is durable as it is and nobody is at it. r.mu is held.
func (r *resident) clean() bool {
	return r.uncommitted == 0 && len(r.unsafe) == 0 && r.waiting == 0 && !r.authored
}

// pack exchanges the states of a clean cart for their encoding. r.mu is held.
func (r *resident) pack() {
	b := crdt.AppendState(nil, r.latest)
	r.packed = append(make([]byte, 0, len(b)), b...)
	r.latest, r.durable = nil, nil
}

// unpack makes a packed cart usable. r.mu is held.
func (r *resident) unpack() error {
	if r.packed == nil {
		return nil
	}
	s, err := crdt.DecodeState(r.packed)
	if err != nil {
		return err
	}
	r.latest, r.durable, r.packed = s, s, nil
	return nil
}

// Estimates of memory, in bytes. TestEstimatesOfMemory compares them with what is measured.
const (
	sizeResident = 190 // and its place in the shard
	sizeState    = 320
	sizeLine     = 100
	sizeEntry    = 48
	sizeRegister = 84
	sizeMember   = 52
	sizeRecord   = 56
)

// measure estimates the memory of the residence. r.mu is held.
func (r *resident) measure() int64 {
	if r.packed != nil {
		return sizeResident + int64(cap(r.packed))
	}
	s := r.latest
	size := sizeResident + sizeState + sizeRecord*len(s.Operations) + sizeOfRegisters(s.Registers)
	for i := range s.Members {
		size += sizeMember + len(s.Members[i].Value)
	}
	for _, l := range s.Lines {
		size += sizeLine + len(l.Key) + sizeEntry*len(l.Counter) + sizeOfRegisters(l.Registers)
	}
	return int64(size)
}

func sizeOfRegisters(registers crdt.Registers) int {
	return sizeRegister*len(registers) + textOfRegisters(registers)
}

// shard is a part of the resident carts. Who holds its lock only tries for that of a resident;
// who holds a resident's may take the shard's.
type shard struct {
	mu    sync.Mutex
	carts map[ID]*resident
	loads map[ID]*load // under way
}

// load is a cart on its way into memory, for all who want it.
type load struct {
	done     chan struct{} // closed when the rest is set
	resident *resident
	err      error
}

const shards = 256

func (s *Service) shard(id ID) *shard { return &s.shards[id[0]] }

func (sh *shard) get(id ID) *resident {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.carts[id]
}

// acquire returns the resident cart of id, locked and unpacked. It loads the cart where it is not
// resident; many that want it at once cause one load.
func (s *Service) acquire(ctx context.Context, id ID) (*resident, error) {
	sh := s.shard(id)
	for {
		r := sh.get(id)
		if r == nil {
			var err error
			if r, err = s.load(ctx, sh, id); err != nil {
				return nil, err
			}
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
		return r, nil
	}
}

// load returns the resident cart of id, once it is, or gives up after loadWait. The load is nobody's:
// it goes on when the request that asked for it first ends.
func (s *Service) load(ctx context.Context, sh *shard, id ID) (*resident, error) {
	sh.mu.Lock()
	if r := sh.carts[id]; r != nil {
		sh.mu.Unlock()
		return r, nil
	}
	l := sh.loads[id]
	if l == nil {
		l = &load{done: make(chan struct{})}
		sh.loads[id] = l
		s.background.Go(func() {
			l.resident, l.err = s.fetch(sh, id)
			sh.mu.Lock()
			delete(sh.loads, id)
			sh.mu.Unlock()
			close(l.done)
		})
	}
	sh.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	select {
	case <-l.done:
		return l.resident, l.err
	case <-ctx.Done():
		return nil, &Error{Reason: Unavailable, Detail: "the cart was not loaded in time", Err: ctx.Err()}
	}
}

// fetch makes a cart resident that is in the store.
func (s *Service) fetch(sh *shard, id ID) (*resident, error) {
	ctx, cancel := context.WithTimeout(s.running, loadTimeout)
	defer cancel()
	state, err := s.store.Load(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, ErrNotFound
	case errors.Is(err, ErrDamaged):
		return nil, &Error{Reason: Unavailable, Detail: "what is stored of the cart is damaged", Err: err}
	case err != nil:
		return nil, &Error{Reason: Unavailable, Detail: "the cart cannot be loaded", Err: err}
	}
	r := &resident{id: id, replica: newReplicaID(), latest: state, durable: state}
	if err := s.admit(sh, r); err != nil {
		return nil, err
	}
	r.mu.Unlock()
	return r, nil
}

// admit makes a cart resident, if there is room for it, and locks it before anybody can evict it.
func (s *Service) admit(sh *shard, r *resident) error {
	if !s.makeRoom() {
		return &Error{Reason: ServiceOverCapacity, Detail: "the node holds as many unsaved carts as its memory allows"}
	}
	r.mu.Lock()
	r.used = s.tick.Load()
	s.residents.Add(1)
	s.resized(r)
	sh.mu.Lock()
	sh.carts[r.id] = r
	sh.mu.Unlock()
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

// makeRoom evicts clean carts until the budget is kept. It reports whether it could: dirty carts
// stay.
func (s *Service) makeRoom() bool {
	if s.memory.Load() <= s.budget {
		return true
	}
	s.evicting.Lock()
	defer s.evicting.Unlock()
	for misses := 0; s.memory.Load() > s.budget; {
		sh := &s.shards[s.hand]
		s.hand = (s.hand + 1) % shards
		if s.evictOne(sh) {
			misses = 0
		} else if misses++; misses == shards {
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
	victim.gone = true
	delete(sh.carts, victim.id)
	s.memory.Add(-victim.size)
	s.residents.Add(-1)
	s.evictions.Add(1)
	victim.mu.Unlock()
	return true
}

// packIdle packs the carts of some shards that were not used for idleTicks.
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
			if !r.gone && r.packed == nil && r.clean() && now-r.used >= idleTicks {
				r.pack()
				s.resized(r)
			}
			r.mu.Unlock()
		}
	}
}
