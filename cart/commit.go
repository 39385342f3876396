package cart

import (
	"context"
	"errors"
	"sync"
	"time"
)

// committer groups changes into commits: one goroutine, and a batch is whatever waits when the
// previous commit is done.
type committer struct {
	store Store

	mu      sync.Mutex
	queue   []*change
	stalled chan struct{} // closed while the store has no room, and when it failed
	noRoom  bool
	closing bool

	running context.Context // until it failed
	stop    context.CancelFunc

	wake   chan struct{} // has room for one
	failed chan struct{} // closed when the store failed for good
	err    error         // why; set before failed is closed
	done   chan struct{} // closed when run has returned
}

// retryNoRoom is how long a store that had no room is left alone.
const retryNoRoom = 250 * time.Millisecond

func newCommitter(store Store) *committer {
	running, stop := context.WithCancel(context.Background())
	return &committer{
		store:   store,
		running: running,
		stop:    stop,
		stalled: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		failed:  make(chan struct{}),
		done:    make(chan struct{}),
	}
}

// enqueue hands a change over. It returns a channel that is closed when the store turns out not to
// take it.
func (c *committer) enqueue(ch *change) (stalled <-chan struct{}) {
	c.mu.Lock()
	c.queue = append(c.queue, ch)
	stalled = c.stalled
	c.mu.Unlock()
	c.signal()
	return stalled
}

// stall returns a channel that is closed when the store takes nothing.
func (c *committer) stall() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stalled
}

func (c *committer) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// unavailable reports why nothing can be committed at present, or nil.
func (c *committer) unavailable() error {
	select {
	case <-c.failed:
		return c.err
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noRoom {
		return ErrNoRoom
	}
	return nil
}

// close commits what is queued and stops run. When ctx ends it gives up on a store without room; for a
// commit that has begun it waits as long as the store does.
func (c *committer) close(ctx context.Context) error {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.signal()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		c.fail(ctx.Err())
		<-c.done
		return c.err
	}
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
	if !c.noRoom {
		close(c.stalled)
	}
	c.stop()
}

func (c *committer) run() {
	defer close(c.done)
	var batch []*change
	var changes []Change
	for {
		batch, changes = batch[:0], changes[:0]
		c.mu.Lock()
		batch, c.queue = c.queue, batch
		closing := c.closing
		c.mu.Unlock()
		if len(batch) == 0 {
			if closing {
				return
			}
			select {
			case <-c.wake:
				continue
			case <-c.failed:
				return
			}
		}
		for _, ch := range batch {
			changes = append(changes, ch.Change)
		}
		if !c.commit(changes) {
			return
		}
		for _, ch := range batch {
			ch.resident.committed(ch)
		}
		clear(batch)
		clear(changes)
	}
}

// commit commits a batch, however long the store has no room for it, and reports whether it could.
func (c *committer) commit(changes []Change) bool {
	for {
		err := c.store.Commit(c.running, changes)
		switch {
		case err == nil:
			c.setNoRoom(false)
			return true
		case !errors.Is(err, ErrNoRoom):
			c.fail(err)
			return false
		}
		c.setNoRoom(true)
		select {
		case <-time.After(retryNoRoom):
		case <-c.failed:
			return false
		}
	}
}

func (c *committer) setNoRoom(noRoom bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return // stalled for good
	case noRoom && !c.noRoom:
		close(c.stalled)
	case !noRoom && c.noRoom:
		c.stalled = make(chan struct{})
	}
	c.noRoom = noRoom
}
