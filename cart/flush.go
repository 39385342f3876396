package cart

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"sync"
	"time"
)

// How long the database may lack what enough nodes hold: between minPause, when it has little to do, and
// maxPause, so that a busy cart is written once for many changes.
const (
	minPause = 250 * time.Millisecond
	maxPause = 5 * time.Second

	// The pause grows while commits take more than a tenth of the time, and shrinks below half of that.
	flushShare = 0.1

	// The first owner of a cart writes it. The next ones do so where it did not: later by a pause
	// and so much, each.
	nextOwner = 500 * time.Millisecond
	// When a holder is lost, all flush at once, one owner so long after the other.
	afterLoss = 250 * time.Millisecond

	// hedgeAfter is when a write that the peers have not acknowledged goes to the database.
	hedgeAfter = 20 * time.Millisecond
	// giveUpAfter is when a write is refused that neither peers nor database have acknowledged: while enough
	// peers are there, which may be slow, as late as giveUpOnPeers.
	giveUpAfter   = 450 * time.Millisecond
	giveUpOnPeers = 2 * time.Second
	// reassureAfter is when the peers get the whole cart, because of a write that is still not known to be
	// safe: the news may be lost, or who acknowledged it.
	reassureAfter = 5 * time.Second
	// hurryAgain is how long the memory budget waits for the last hurry.
	hurryAgain = 50 * time.Millisecond

	flushTick = 5 * time.Millisecond
)

// flusher decides when the database, which the nodes of a region share, gets what they hold.
type flusher struct {
	mu      sync.Mutex
	due     dueHeap
	looking int    // entries that were taken off due and are being looked at
	listed  uint64 // entries so far
	hurried int64  // what the store lacks since then or longer is urgent
	pause   time.Duration
	judged  int64 // when pause was last looked at, and how long commits had taken by then
	busy    int64

	// Changes that were not safe when they were looked at last, in the order of that: not yet, when it was
	// time to hedge them, when it was time to give them up, since.
	young, old, unsure []hedge
	waiting            []hedge // past their time, but the database commits
}

// dueCart is a cart to look at: it may have been saved by then.
type dueCart struct {
	at     int64 // in nanoseconds of Unix time
	number uint64
	id     ID
	since  int64 // when the store began to lack something
}

type dueHeap []dueCart

func (h dueHeap) Len() int      { return len(h) }
func (h dueHeap) Swap(i, k int) { h[i], h[k] = h[k], h[i] }
func (h *dueHeap) Push(x any)   { *h = append(*h, x.(dueCart)) }
func (h dueHeap) Less(i, k int) bool {
	return cmp.Or(cmp.Compare(h[i].at, h[k].at), cmp.Compare(h[i].number, h[k].number)) < 0
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	*h = (*h)[:last]
	return d
}

// hedge is a change that is to be safe in time.
type hedge struct {
	at int64 // when it was made
	c  *change
}

// lazy reports whether the database gets a write only later, because nodes hold it meanwhile.
func (s *Service) lazy() bool { return s.replicator != nil && s.shared }

// acknowledges reports whether a commit makes a write safe: not where a file can die with its node while
// others are there to hold the write.
func (s *Service) acknowledges() bool { return s.replicator == nil || s.shared }

// trusted reports whether what the store has of a cart is safe: in a file of this node's own it is when so many others
// that are enough have been found to have all of it, which is looked at where this node owns the cart. Where more than
// one may fail, it may have what came just now from its author, and is on its way to the others.
func (s *Service) trusted(own bool) bool {
	return s.acknowledges() || own && s.tolerate == 1 && s.reachable() && s.replicator.Synced()
}

// enough reports whether a write is safe that these nodes hold, besides this one.
func (s *Service) enough(holders []uint64) bool {
	if len(holders) < s.tolerate {
		return false
	}
	if s.tolerate == 1 {
		return true // the one has just acknowledged it
	}
	alive := 0
	for _, h := range holders {
		if s.replicator.Alive(h) {
			alive++
		}
	}
	return alive >= s.tolerate
}

// reachable reports whether enough nodes are there to hold a write.
func (s *Service) reachable() bool { return s.replicator != nil && s.replicator.Peers() >= s.tolerate }

// save has the committer take what the store lacks of a cart. r.mu is held.
func (s *Service) save(r *resident) {
	if !r.queued {
		r.queued = true
		s.committer.enqueue(r)
	}
}

// list has the flusher look at a cart when it is due. r.mu is held.
func (s *Service) list(r *resident) {
	if s.lazy() && !r.listed && !r.queued && r.taken == nil {
		r.listed = true
		s.flusher.add(s.due(r.id, r.oldestAt))
	}
}

// due tells when this node saves what the store lacks of a cart since a time.
func (s *Service) due(id ID, since int64) dueCart {
	rank := int64(s.replicator.Rank(id))
	f := &s.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	at := since + int64(f.pause)*(rank+1) + int64(nextOwner)*rank
	if since <= f.hurried {
		at = min(at, f.hurried+int64(afterLoss)*rank)
	}
	return dueCart{at: at, id: id, since: since}
}

func (f *flusher) add(d dueCart) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed++
	d.number = f.listed
	heap.Push(&f.due, d)
}

// next takes a cart that is due off the list, for who calls looked when that is done.
func (f *flusher) next(now int64) (d dueCart, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.due) == 0 || f.due[0].at > now {
		return d, false
	}
	f.looking++
	return heap.Pop(&f.due).(dueCart), true
}

func (f *flusher) looked() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looking--
}

// pauses returns how long a write is left to the nodes alone.
func (f *flusher) pauses() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pause
}

// idle reports whether nothing is listed or being looked at, and how much was listed so far.
func (f *flusher) idle() (idle bool, listed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.due) == 0 && f.looking == 0, f.listed
}

// relaxed reports whether the last hurry was some time ago.
func (f *flusher) relaxed(now int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now-f.hurried >= int64(hurryAgain)
}

// flushing flushes and hedges until Close.
func (s *Service) flushing() {
	for {
		over, stop := s.scheduler.After(flushTick)
		s.scheduler.Wait(over, s.running.Done(), nil)
		stop()
		if s.running.Err() != nil {
			return
		}
		now := s.now().UnixNano()
		s.hedge(now)
		s.adapt(now)
		s.flushDue(now)
	}
}

// flushDue saves what is due by now.
func (s *Service) flushDue(now int64) {
	for {
		d, ok := s.flusher.next(now)
		if !ok {
			return
		}
		sh := s.shard(d.id)
		if r := sh.get(d.id); r != nil {
			s.flushResident(r, d, now)
		}
		sh.flush(d.id)
		s.flusher.looked()
	}
}

func (s *Service) flushResident(r *resident, d dueCart, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listed = false
	switch {
	case r.gone || !r.dirty():
	case r.oldestAt > d.since && s.due(r.id, r.oldestAt).at > now:
		s.list(r) // what was unsaved then has been saved by somebody
	default:
		r.must = true
		s.save(r)
	}
}

// adapt makes the pause longer or shorter.
func (s *Service) adapt(now int64) {
	f := &s.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if now-f.judged < int64(minPause) {
		return
	}
	busy := s.committer.busy.Load()
	if began := s.committer.began.Load(); began > 0 {
		busy += now - began // a long commit counts while it goes on
	}
	share := float64(busy-f.busy) / float64(now-f.judged)
	f.judged, f.busy = now, busy
	switch {
	case share > flushShare:
		f.pause = min(maxPause, f.pause*5/4)
	case share < flushShare/2:
		f.pause = max(minPause, f.pause*4/5)
	}
}

// hurry has everything saved at once, first by the first owners.
func (s *Service) hurry() {
	now := s.now().UnixNano()
	f := &s.flusher
	f.mu.Lock()
	f.hurried = now
	due := f.due
	f.due = nil
	f.looking++ // at so many that writes must not wait for it
	f.mu.Unlock()
	for i := range due {
		d := &due[i]
		d.at = min(d.at, now+int64(s.replicator.Rank(d.id))*int64(afterLoss))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.due = append(due, f.due...)
	heap.Init(&f.due)
	f.looking--
}

// watch has something done for a change that is not safe in time: one that this node made goes to the
// database, and is given up if that does not help.
func (s *Service) watch(c *change) {
	f := &s.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	f.young = append(f.young, hedge{s.now().UnixNano(), c})
}

// hedge sends changes that are late to the database, gives up those that are too late, and sends the peers
// again what is still not safe.
func (s *Service) hedge(now int64) {
	f := &s.flusher
	f.mu.Lock()
	late := cut(&f.young, now-int64(hedgeAfter))
	overdue := append(f.waiting, cut(&f.old, now-int64(giveUpAfter))...)
	f.waiting = nil
	unsure := cut(&f.unsure, now-int64(reassureAfter))
	f.mu.Unlock()

	var old, waiting, lost []hedge
	for _, h := range late {
		if h.c.hedge() {
			old = append(old, h)
		}
	}
	for _, h := range overdue {
		switch unsafe, again := h.c.giveUp(h.at, now); {
		case again:
			waiting = append(waiting, h)
		case unsafe:
			lost = append(lost, hedge{now, h.c})
		}
	}
	for _, h := range unsure {
		if h.c.reassure() {
			lost = append(lost, hedge{now, h.c})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old, f.waiting, f.unsure = append(f.old, old...), append(f.waiting, waiting...), append(f.unsure, lost...)
}

// cut takes off all hedges up to a time.
func cut(from *[]hedge, upTo int64) []hedge {
	n := 0
	for n < len(*from) && (*from)[n].at <= upTo {
		n++
	}
	if n == 0 {
		return nil
	}
	taken := (*from)[:n:n]
	if *from = (*from)[n:]; len(*from) == 0 {
		*from = nil
	}
	return taken
}

// hedge has the database save a change that this node made, and reports whether it is not durable yet. Where
// it is only what came before that is not known to be safe, the peers get the whole cart.
func (c *change) hedge() bool {
	r := c.resident
	s := r.service
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.durable {
		return false
	}
	if c.author && s.shared {
		s.hedges.Add(1)
		s.save(r)
	}
	if c.author && !c.safe && !s.saves() {
		c.askAbroad()
	}
	if c.author && c.safe && s.reachable() {
		r.resend()
	}
	return true
}

// giveUp lets go who waits for a change, made at a time, that is not going to be safe. A database that
// commits is waited for, and for a while so are peers: then it is to be looked at again.
func (c *change) giveUp(made, now int64) (unsafe, again bool) {
	r := c.resident
	r.mu.Lock()
	defer r.mu.Unlock()
	commits := r.service.shared && now-r.service.committer.succeeded.Load() < int64(giveUpAfter)
	if !c.durable && c.author && !commits {
		c.askAbroad()
	}
	peers := now-made < int64(giveUpOnPeers) && (r.service.reachable() || c.asked)
	if !c.durable && c.author && (commits || peers) {
		return true, true
	}
	unsafe = !c.durable
	c.close()
	return unsafe, false
}

// reassure sends the peers the whole cart, or other regions where this one cannot hold it, if the change is the first
// that is not safe, and reports whether it is not safe.
func (c *change) reassure() bool {
	r := c.resident
	s := r.service
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.durable {
		return false
	}
	if r.unsafe[0] != c {
		return true
	}
	switch {
	case s.reachable():
		r.resend()
	case c.author && !s.saves():
		c.asked = false // what was asked, or the answer, may be lost
		c.askAbroad()
	}
	return true
}

// resend sends the peers the whole cart, whose acknowledgement is one of all changes. r.mu is held.
func (r *resident) resend() {
	payload, held := r.whole()
	r.service.replicator.Replicate(r.id, payload, held)
}

// ErrLeft is what Flush returns when the store lacks what enough other nodes hold.
var ErrLeft = errors.New("cart: the store lacks writes, which are left to the other nodes")

// Flush saves everything that the store lacks. It returns when that is done, or with what ctx says; with ErrLeft
// when the store has taken nothing for a while and so many other nodes have all there is that none needs this one.
func (s *Service) Flush(ctx context.Context) error {
	began := s.now().UnixNano()
	for s.lazy() {
		s.flushDue(1<<63 - 1)
		idle, before := s.flusher.idle()
		if idle && s.committer.drained() {
			if _, after := s.flusher.idle(); after == before {
				break // nothing was on its way from one to the other
			}
		}
		over, stop := s.scheduler.After(flushTick)
		s.scheduler.Wait(over, ctx.Done(), s.committer.failed)
		stop()
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.Err(); err != nil {
			return err
		}
		waited := s.now().UnixNano() - max(began, s.committer.succeeded.Load())
		if waited > int64(giveUpAfter) && s.replicator.HandedOver() && !s.keepsGaps() {
			return ErrLeft
		}
	}
	return nil
}
