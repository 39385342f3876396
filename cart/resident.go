package cart

import (
	"context"
	"slices"
	"sync"

	"cartd/crdt"
)

// resident is a cart in memory, under a replica id of its own for as long as it stays. What every request
// needs comes first: most carts are not in the processor's cache.
type resident struct {
	mu sync.Mutex // guards everything but id, replica and service

	gone       bool  // evicted: look the cart up again
	authored   bool  // somebody is about to make the next state: nobody else may
	queued     bool  // the committer will take it
	must       bool  // it has to be saved even where enough nodes hold it by then
	listed     bool  // the flusher will look at it
	refreshing bool  // what store and peers have is on its way
	unread     bool  // the store did not say what it has: it may be more
	doubted    bool  // the store has another version, maybe less than it had
	parted     bool  // the store has parts that could not be joined with anything yet
	used       int64 // when it was last used, in ticks of the janitor
	read       int64 // when it last was what store and peers have, in ticks from 1; 0 where nobody asked the peers

	// latest is what commands observe: everything that this residence knows. durable is what
	// readers see: the newest state in this residence's sequence whose events are all safe. Both
	// are nil while the cart is packed, and durable is nil before the first event is safe.
	latest, durable *State
	packed          []byte // the encoding of a cart that is not in use

	id      ID
	replica crdt.ReplicaID
	service *Service

	authors []chan struct{} // closed, in this order, when it is the turn of who waits for it
	unsafe  []*change       // the changes between durable and latest, oldest first

	stored   extent      // what the store is known to have; the cart is dirty where that is not all
	unsaved  *crdt.Delta // the changes since the last take, for a store that wants deltas
	crossing *crdt.Delta // the durable changes that other regions are to be sent
	taken    *State      // what the committer is saving
	takenAt  int64       // since when
	oldest   *State      // the first state that the store did not have, and since when
	oldestAt int64       // in nanoseconds of Unix time

	moved   chan struct{} // closed when latest, durable or stored moves; nil where nobody waits
	waiting int           // requests that wait in await: the cart is in use
	size    int64         // estimate of its memory, in bytes
}

// change is a step in the sequence of a residence, on its way to being safe.
type change struct {
	resident *resident
	state    *State        // that it led to
	delta    *crdt.Delta   // the step to it, if this node made it
	events   extent        // what its delta reaches up to
	author   bool          // this node made it
	holders  []uint64      // other nodes that have it
	safe     bool          // so many have it, or the store
	durable  bool          // it is safe, and all before it are
	done     chan struct{} // closed when it is durable, or when nobody makes it so in time; nil where nobody waits
	closed   bool          // done is
	asked    bool          // other regions were asked to hold it
}

// extent is a set of events: those of a version vector, or whatever an erased cart absorbed.
type extent struct {
	vv     crdt.VV
	erased bool
}

func extentOf(s *State) extent { return extent{s.VV, s.Erased} }

func (e extent) covers(s *State) bool { return e.holds(extentOf(s)) }

func (e extent) holds(o extent) bool { return e.erased || !o.erased && e.vv.Descends(o.vv) }

// any reports whether e holds anything.
func (e extent) any() bool { return e.erased || len(e.vv) > 0 }

func (e extent) join(o extent) extent {
	if e.erased || o.erased {
		return extent{erased: true}
	}
	return extent{vv: e.vv.Join(o.vv)}
}

// push appends a change to the residence's sequence. r.mu is held.
func (r *resident) push(c *change) {
	c.resident = r
	r.latest = c.state
	if c.safe && len(r.unsafe) == 0 {
		r.show(c)
	} else {
		r.unsafe = append(r.unsafe, c)
	}
	r.broadcast()
}

// show notes that a change is durable, and all before it. What has come without the beginning of the cart yet is a part of
// it, which nobody is shown. r.mu is held.
func (r *resident) show(c *change) {
	c.durable = true
	if c.state.Erased || c.state.Lifetime.Created != 0 {
		r.durable = c.state
	}
}

// hold keeps the latest state from readers until enough other nodes are known to have it. r.mu is held.
func (r *resident) hold() {
	c := &change{state: r.latest, events: extentOf(r.latest)}
	r.push(c)
	r.service.watch(c)
	r.resend()
}

// behind reports whether the store has what the residence lacks. r.mu is held.
func (r *resident) behind() bool { return r.packed == nil && !extentOf(r.latest).holds(r.stored) }

// dirty reports whether the store lacks anything. r.mu is held.
func (r *resident) dirty() bool { return r.packed == nil && !r.stored.covers(r.latest) }

// take gives the committer what the store lacks.
func (r *resident) take(batch []Change) []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	must := r.must
	r.queued, r.must = false, false
	if !r.dirty() {
		return batch
	}
	if r.service.lazy() && !must && len(r.unsafe) == 0 {
		r.service.list(r) // its peers have come round
		return batch
	}
	c := Change{ID: r.id, Delta: r.unsaved, State: r.latest}
	r.unsaved, r.taken = nil, r.latest
	if r.service.lazy() {
		r.takenAt = r.service.now().UnixNano()
	}
	return append(batch, c)
}

// saved tells that the store has what was taken.
func (r *resident) saved() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored = r.stored.join(extentOf(r.taken))
	r.taken = nil
	if r.parted { // now they may be
		r.parted = false
		r.service.refresh(r)
	}
	r.settle(r.takenAt)
	r.service.announce(r)
}

// settle draws the conclusions from what the store now has, to which it was given at a time. r.mu is held.
func (r *resident) settle(since int64) {
	if r.service.acknowledges() {
		for _, c := range r.unsafe {
			c.safe = c.safe || r.stored.covers(c.state)
		}
		r.advance()
	}
	r.broadcast()
	switch {
	case !r.service.lazy():
	case r.dirty():
		if r.oldest == nil || r.stored.covers(r.oldest) {
			r.lack(since)
		}
		r.service.list(r)
	default:
		r.lackNothing()
	}
}

// lack notes that the store, which nodes share, lacks the latest state and has all before it, since a time.
// r.mu is held.
func (r *resident) lack(since int64) {
	r.lackNothing()
	r.oldest, r.oldestAt = r.latest, since
	r.service.backlog.add(since)
}

// backdate notes that what the store lacks of the latest state it has lacked since an earlier time, when the cart was
// not resident. r.mu is held.
func (r *resident) backdate(since int64) {
	if r.oldest != nil && since < r.oldestAt {
		r.service.backlog.move(r.oldestAt, since)
		r.oldestAt = since
	}
}

// lackNothing notes that the store has everything. r.mu is held.
func (r *resident) lackNothing() {
	if r.oldest != nil {
		r.oldest = nil
		r.service.backlog.remove(r.oldestAt)
	}
}

// heldBy tells that a peer has the change.
func (r *resident) heldBy(c *change, holder uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.credit(c, holder)
	r.advance()
}

// credit counts a holder of a change. r.mu is held.
func (r *resident) credit(c *change, holder uint64) {
	if c.safe {
		return
	}
	if !slices.Contains(c.holders, holder) {
		c.holders = append(c.holders, holder)
	}
	c.safe = r.service.enough(c.holders)
}

// confirm notes that what others hold is safe. r.mu is held.
func (r *resident) confirm(durable extent) {
	for _, c := range r.unsafe {
		c.safe = c.safe || durable.any() && durable.holds(c.events)
	}
	r.advance()
}

// advance moves durable over the changes that are safe without a gap. r.mu is held.
func (r *resident) advance() {
	n, authored := 0, false
	for n < len(r.unsafe) && r.unsafe[n].safe {
		c := r.unsafe[n]
		r.show(c)
		c.close()
		r.cross(c)
		authored = authored || c.author
		n++
	}
	if n == 0 {
		return
	}
	if n == len(r.unsafe) {
		r.unsafe = nil
	} else {
		r.unsafe = r.unsafe[n:]
	}
	r.broadcast()
	if authored && r.service.tolerate > 1 {
		r.service.announce(r)
	}
}

// close lets go who waits for the change. r.mu is held.
func (c *change) close() {
	if !c.closed {
		c.closed = true
		if c.done != nil {
			close(c.done)
		}
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
		r.service.scheduler.Wait(moved, giveUp, ctx.Done())
		over = isClosed(giveUp) || ctx.Err() != nil
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
	r.service.scheduler.Wait(turn, ctx.Done(), nil)
	r.mu.Lock()
	if isClosed(turn) {
		return nil
	}
	i := slices.Index(r.authors, turn)
	r.authors = slices.Delete(r.authors, i, i+1)
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

var errBusy = &Error{Reason: NotDurable, Detail: "more is asked of the node than it keeps up with: nothing was changed"}

// clean reports whether the cart is durable as it is, the store is known to have it, and nobody is at it. r.mu is
// held.
func (r *resident) clean() bool {
	return len(r.unsafe) == 0 && r.waiting == 0 && !r.authored && !r.queued && r.taken == nil && !r.refreshing && !r.dirty() &&
		!r.unread && !r.doubted
}

// pack exchanges the states of a clean cart for their encoding. r.mu is held.
func (r *resident) pack() {
	b := crdt.AppendState(nil, r.latest)
	r.packed = append(make([]byte, 0, len(b)), b...)
	r.latest, r.durable, r.stored = nil, nil, extent{}
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
	r.latest, r.durable, r.packed, r.stored = s, s, nil, extentOf(s)
	return nil
}

// Estimates of memory, in bytes. TestEstimatesOfMemory compares them with what is measured.
const (
	sizeResident = 260 // and its place in the shard
	sizeState    = 320
	sizeDot      = 16 // of the version vector
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
	return sizeResident + sizeOfState(r.latest)
}

func sizeOfState(s *State) int64 {
	size := sizeState + sizeDot*len(s.VV) + sizeRecord*len(s.Operations) + sizeOfRegisters(s.Registers)
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
