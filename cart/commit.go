package cart

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// unsaved is what the store lacks something of: a resident cart, or the fragments of one that is not.
type unsaved interface {
	// take appends what the store lacks, at the time that the batch is made. It may be nothing by then.
	take(batch []Change) []Change
	// saved tells that the store has what was taken last.
	saved()
}

// committer groups what is unsaved into commits: a batch is whatever waits when the previous commit is
// done.
type committer struct {
	store     Store
	scheduler Scheduler
	now       func() time.Time

	mu      sync.Mutex
	queue   []unsaved
	since   int64         // when the first of queue came, in nanoseconds of Unix time
	saving  backlog       // what run has taken off the queue
	idle    chan struct{} // closed when there is something to do; nil while run does something
	stalled chan struct{} // closed while the store has no room, and when it failed
	noRoom  error         // why the store has none; nil while it has
	full    int64         // since when, in nanoseconds of Unix time
	closing bool

	commits   atomic.Int64 // made since the start
	latencies latencies    // of these
	busy      atomic.Int64 // nanoseconds that they took, but for the one that goes on
	began     atomic.Int64 // when that did, in nanoseconds of Unix time; 0 if there is none
	succeeded atomic.Int64 // when the last one did, in nanoseconds of Unix time

	running context.Context // until it failed
	stop    context.CancelFunc

	failed chan struct{} // closed when the store failed for good
	err    error         // why; set before failed is closed
	done   chan struct{} // closed when run has returned
}

// maxBatch bounds what a commit is made of. What one of them has is bounded by the size of a cart.
const maxBatch = 4096

// retryNoRoom is how long a store that had no room is left alone.
const retryNoRoom = 250 * time.Millisecond

func newCommitter(store Store, scheduler Scheduler, now func() time.Time) *committer {
	running, stop := context.WithCancel(context.Background())
	return &committer{
		store:     store,
		scheduler: scheduler,
		now:       now,
		running:   running,
		stop:      stop,
		stalled:   make(chan struct{}),
		failed:    make(chan struct{}),
		done:      make(chan struct{}),
	}
}

// enqueue has u saved soon.
func (c *committer) enqueue(u unsaved) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		c.since = c.now().UnixNano()
	}
	c.queue = append(c.queue, u)
	c.wake()
}

// backlog returns what is queued or being saved.
func (c *committer) backlog() backlog {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saving.join(backlog{len(c.queue), c.since})
}

// stalledSince returns since when the store takes nothing, and why; or a nil error.
func (c *committer) stalledSince() (since int64, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full, c.noRoom
}

// wake makes run go on. c.mu is held.
func (c *committer) wake() {
	if c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// stall returns a channel that is closed when the store takes nothing.
func (c *committer) stall() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stalled
}

// unavailable reports why nothing can be committed at present, or nil.
func (c *committer) unavailable() error {
	if isClosed(c.failed) {
		return c.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.noRoom
}

// drained reports whether nothing is queued or being committed.
func (c *committer) drained() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0 && c.idle != nil
}

// close commits what is queued and stops run. When ctx ends it gives up on a store without room; for a
// commit that has begun it waits as long as the store does.
func (c *committer) close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.wake()
	c.mu.Unlock()
	c.scheduler.Wait(c.done, ctx.Done(), nil)
	if !isClosed(c.done) {
		c.fail(ctx.Err())
		c.scheduler.Wait(c.done, nil, nil)
	}
	return c.err
}

// fail gives up: nothing is acknowledged any more.
func (c *committer) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.failed)
	if c.noRoom == nil {
		close(c.stalled)
	}
	c.stop()
}

func (c *committer) run() {
	defer close(c.done)
	var batch []unsaved
	var changes []Change
	for {
		c.mu.Lock()
		batch, c.queue = c.queue, batch[:0]
		c.saving = backlog{len(batch), c.since}
		if len(batch) == 0 {
			if c.closing {
				c.mu.Unlock()
				return
			}
			c.idle = make(chan struct{})
			idle := c.idle
			c.mu.Unlock()
			c.scheduler.Wait(idle, c.failed, nil)
			if isClosed(c.failed) {
				return
			}
			continue
		}
		c.mu.Unlock()
		for part := range slices.Chunk(batch, maxBatch) {
			changes = changes[:0]
			taken := part[:0] // that had something
			for _, u := range part {
				n := len(changes)
				if changes = u.take(changes); len(changes) > n {
					taken = append(taken, u)
				}
			}
			if len(changes) == 0 {
				continue
			}
			if !c.commit(changes) {
				return
			}
			for _, u := range taken {
				u.saved()
			}
			clear(changes)
		}
		clear(batch)
	}
}

// commit commits a batch, however long the store has no room for it, and reports whether it could.
func (c *committer) commit(changes []Change) bool {
	for {
		began := c.now()
		c.began.Store(began.UnixNano())
		err := c.store.Commit(c.running, changes)
		ended := c.now()
		c.began.Store(0)
		c.busy.Add(int64(ended.Sub(began)))
		switch {
		case err == nil:
			c.commits.Add(1)
			c.succeeded.Store(ended.UnixNano())
			c.latencies.observe(ended.Sub(began))
			c.setNoRoom(nil)
			return true
		case !errors.Is(err, ErrNoRoom):
			c.fail(err)
			return false
		}
		c.setNoRoom(err)
		over, stop := c.scheduler.After(retryNoRoom)
		c.scheduler.Wait(over, c.failed, nil)
		stop()
		if isClosed(c.failed) {
			return false
		}
	}
}

// setNoRoom notes why the store has no room, or with nil that it has.
func (c *committer) setNoRoom(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return // stalled for good
	case why != nil && c.noRoom == nil:
		c.full = c.now().UnixNano()
		close(c.stalled)
	case why == nil && c.noRoom != nil:
		c.stalled = make(chan struct{})
	}
	c.noRoom = why
}
