package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"cartd/cart"
)

// Pauses between two probes: the first one, and what doubling it ends at.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// breaker is open while the database cannot be reached. Then nobody waits to find that out again but
// one probe at a time, in the background.
type breaker struct {
	log   *slog.Logger
	probe func(context.Context) error // nil says that the database can be reached

	opened chan struct{} // of capacity 1, holds a value when run has to begin to probe

	mu      sync.Mutex // guards the rest
	cause   error      // why it is open, of the last probe; nil while it is closed
	last    error      // the last cause that there was
	turns   uint64     // how often it was opened or closed
	outages int64      // how often it was opened
	since   time.Time  // of the last turn
}

func newBreaker(log *slog.Logger, probe func(context.Context) error) *breaker {
	return &breaker{log: log, probe: probe, opened: make(chan struct{}, 1)}
}

// enter returns what to give open, or an error that wraps cart.ErrNoRoom while the breaker is open.
func (b *breaker) enter() (turn uint64, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil {
		// Not wrapped: a timeout that was another's is none of the caller's.
		return 0, fmt.Errorf("%w: the database cannot be reached: %s", cart.ErrNoRoom, b.cause.Error())
	}
	return b.turns, nil
}

// open opens the breaker and reports whether it did. One who entered before the last turn comes too
// late to know.
func (b *breaker) open(turn uint64, cause error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cause != nil || turn != b.turns {
		return false
	}
	b.cause, b.last = cause, cause
	b.turns++
	b.outages++
	b.since = time.Now()
	b.opened <- struct{}{} // run took the one before, or else could not have closed the breaker
	b.log.Warn("the database cannot be reached", "error", cause)
	return true
}

func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log.Info("the database can be reached again", "after", time.Since(b.since).Round(time.Millisecond))
	b.cause = nil
	b.turns++
	b.since = time.Now()
}

func (b *breaker) failed(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cause, b.last = cause, cause
}

// reason returns why the breaker is open, or nil.
func (b *breaker) reason() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cause
}

// hopeless is the error of a probe after which there is no other.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// run probes while the breaker is open, until ctx is done or a probe is hopeless, and then returns
// the error of that.
func (b *breaker) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.opened:
		}
		for pause := firstPause; ; pause = min(2*pause, longestPause) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pause/2 + rand.N(pause/2)): // not all nodes at once
			}
			err := b.probe(ctx)
			if err == nil {
				b.close()
				break
			}
			b.failed(err)
			var h hopeless
			if errors.As(err, &h) {
				return h.error
			}
		}
	}
}
