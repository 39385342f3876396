package sim

import (
	"container/heap"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"
)

// scheduler runs activities one at a time, in an order that its source of randomness decides, and has a
// clock that goes on when none of them can.
type scheduler struct {
	rand       *rand.Rand
	now        time.Duration // since the run began
	timers     timers
	numbered   uint64
	activities []*activity
	idle       []*coroutine
	ready      []*activity // scratch
	current    *activity
	steps      int
	panicked   string // by an activity
}

// activity is a function that runs beside others, as a coroutine.
type activity struct {
	name    string
	owner   *node // on which it runs; nil for what is outside
	request *request
	runs    *coroutine
	over    bool
	waits   [3]<-chan struct{}
	ready   bool          // one of waits is closed
	at      time.Duration // when it goes on, once it is ready
}

// coroutine runs activities, one after the other: a new one would have to grow its stack first.
type coroutine struct {
	resume func() (struct{}, bool)
	yield  func(struct{}) bool
	stop   func()
	f      func() // the next one
}

func newCoroutine() *coroutine {
	c := &coroutine{}
	c.resume, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		c.yield = yield
		for again := true; again; again = yield(struct{}{}) {
			c.f()
		}
	})
	return c
}

// timer is something that happens at a time.
type timer struct {
	at      time.Duration
	number  uint64
	f       func()
	stopped bool
}

type timers []*timer

func (t timers) Len() int      { return len(t) }
func (t timers) Swap(i, k int) { t[i], t[k] = t[k], t[i] }
func (t timers) Less(i, k int) bool {
	return t[i].at < t[k].at || t[i].at == t[k].at && t[i].number < t[k].number
}
func (t *timers) Push(x any) { *t = append(*t, x.(*timer)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	*t = (*t)[:last]
	return x
}

// after has f called, outside of activities, after d.
func (s *scheduler) after(d time.Duration, f func()) *timer {
	s.numbered++
	t := &timer{at: s.now + max(0, d), number: s.numbered, f: f}
	heap.Push(&s.timers, t)
	return t
}

// start runs f as an activity of a node.
func (s *scheduler) start(owner *node, name string, f func()) *activity {
	a := &activity{name: name, owner: owner}
	if last := len(s.idle) - 1; last >= 0 {
		a.runs, s.idle = s.idle[last], s.idle[:last]
	} else {
		a.runs = newCoroutine()
	}
	a.runs.f = func() {
		defer func() {
			a.over = true
			if p := recover(); p != nil {
				s.panicked = fmt.Sprintf("%s: panic: %v\n%s", name, p, debug.Stack())
			}
		}()
		f()
	}
	a.ready, a.at = true, s.now+s.hesitation()
	s.activities = append(s.activities, a)
	return a
}

// hesitation is how long something that could go on does not.
func (s *scheduler) hesitation() time.Duration {
	switch n := s.rand.IntN(128); {
	case n == 0:
		return time.Duration(s.rand.IntN(int(30 * time.Millisecond)))
	case n < 16:
		return time.Duration(s.rand.IntN(int(2 * time.Millisecond)))
	}
	return 0
}

// wait returns when one of the channels is closed, to the activity that calls it.
func (s *scheduler) wait(x, y, z <-chan struct{}) {
	a := s.current
	a.waits = [...]<-chan struct{}{x, y, z}
	if a.released() && s.rand.IntN(4) > 0 {
		return
	}
	a.ready = false
	a.runs.yield(struct{}{})
}

// sleep returns after d, or when x is closed.
func (s *scheduler) sleep(d time.Duration, x <-chan struct{}) {
	over := make(chan struct{})
	t := s.after(d, func() { close(over) })
	s.wait(over, x, nil)
	t.stopped = true
}

// until polls a condition, and reports whether it held before d was over.
func (s *scheduler) until(d time.Duration, holds func() bool) bool {
	for end := s.now + d; ; {
		if holds() {
			return true
		}
		if s.now >= end {
			return false
		}
		s.sleep(20*time.Millisecond, nil)
	}
}

func (a *activity) released() bool {
	return isClosed(a.waits[0]) || isClosed(a.waits[1]) || isClosed(a.waits[2])
}

// isClosed reports whether a channel that nothing is sent to is closed.
func isClosed(c <-chan struct{}) bool {
	if c == nil {
		return false
	}
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// step resumes an activity that can go on, or lets time pass until something happens.
func (s *scheduler) step() {
	s.steps++
	s.ready = s.ready[:0]
	next := time.Duration(1<<63 - 1)
	for _, a := range s.activities {
		if !a.ready && a.released() {
			a.ready, a.at = true, s.now+s.hesitation()
		}
		switch {
		case !a.ready:
		case a.at <= s.now:
			s.ready = append(s.ready, a)
		default:
			next = min(next, a.at)
		}
	}
	if len(s.ready) > 0 {
		s.run(s.ready[s.rand.IntN(len(s.ready))])
		return
	}
	if len(s.timers) == 0 || s.timers[0].at > next {
		s.now = next
		return
	}
	t := heap.Pop(&s.timers).(*timer)
	s.now = max(s.now, t.at)
	if !t.stopped {
		t.f()
	}
}

func (s *scheduler) run(a *activity) {
	before := s.current
	s.current = a
	_, _ = a.runs.resume()
	s.current = before
	if a.over {
		i := slices.Index(s.activities, a)
		s.activities = slices.Delete(s.activities, i, i+1)
		s.idle = append(s.idle, a.runs)
	}
}

// release ends the coroutines that run nothing.
func (s *scheduler) release() {
	for _, c := range s.idle {
		c.stop()
	}
	s.idle = nil
}

// drain runs the activities of a node to their end, without letting time pass. It returns the name of
// one that does not end.
func (s *scheduler) drain(owner *node) (stuck string) {
	for {
		var a *activity
		stuck = ""
		for _, x := range s.activities {
			if x.owner == owner {
				stuck = x.name
				if x.ready || x.released() {
					a = x
					break
				}
			}
		}
		if a == nil || s.panicked != "" {
			return stuck
		}
		s.run(a)
	}
}

// threads is the cart.Scheduler of a node.
type threads struct {
	*scheduler
	node *node
}

func (t threads) Go(f func())                  { t.start(t.node, t.node.name()+" service", f) }
func (t threads) Wait(x, y, z <-chan struct{}) { t.wait(x, y, z) }

func (t threads) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	x := t.after(d, cancel)
	return ctx, func() {
		x.stopped = true
		cancel()
	}
}

func (t threads) After(d time.Duration) (<-chan struct{}, func()) {
	done := make(chan struct{})
	x := t.after(d, func() { close(done) })
	return done, func() { x.stopped = true }
}
