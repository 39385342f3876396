package cart

import (
	"context"
	"time"
)

// Scheduler runs what a Service does at the same time, and waits. The default leaves both to the Go
// runtime; a simulation brings its own, to decide what happens in which order.
type Scheduler interface {
	// Go runs f beside what is running.
	Go(f func())

	// Wait returns when one of the channels is closed. One that is nil never is.
	Wait(a, b, c <-chan struct{})

	// After returns a channel that is closed after d, unless stop is called before.
	After(d time.Duration) (done <-chan struct{}, stop func())

	// WithTimeout is context.WithTimeout by the time of After.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

// runtimeScheduler is the Scheduler of the Go runtime.
type runtimeScheduler struct{}

func (runtimeScheduler) Go(f func()) { go f() }

func (runtimeScheduler) Wait(a, b, c <-chan struct{}) {
	select {
	case <-a:
	case <-b:
	case <-c:
	}
}

func (runtimeScheduler) After(d time.Duration) (<-chan struct{}, func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(done) })
	return done, func() { timer.Stop() }
}

func (runtimeScheduler) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}

// isClosed reports whether a channel that nothing is sent to is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
