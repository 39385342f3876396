package cart

import (
	"math"
	"sync"
	"time"
)

// What this file has tells operators of what the store lacks: how much, since when, and how much of it might be
// lost with one node.

// backlog is how many carts wait to be saved, and since when the first of them does.
type backlog struct {
	carts int
	since int64 // in nanoseconds of Unix time
}

func (b backlog) join(o backlog) backlog {
	if b.carts == 0 || o.carts > 0 && o.since < b.since {
		b.since = o.since
	}
	b.carts += o.carts
	return b
}

// ages counts the carts of which the store lacks something, by when it began to.
type ages struct {
	mu    sync.Mutex
	carts map[int64]int // by that time, in ageSteps of Unix time
}

// ageStep is how exact that is: a reading takes as long as there are steps.
const ageStep = int64(100 * time.Millisecond)

func (a *ages) add(since int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.carts == nil {
		a.carts = make(map[int64]int)
	}
	a.carts[since/ageStep]++
}

func (a *ages) remove(since int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if step := since / ageStep; a.carts[step] == 1 {
		delete(a.carts, step)
	} else {
		a.carts[step]--
	}
}

func (a *ages) move(from, to int64) {
	a.remove(from)
	a.add(to)
}

// all returns what is counted.
func (a *ages) all() backlog { return a.upTo(math.MaxInt64) }

// upTo returns what is counted of which the store lacks something since a time, or longer.
func (a *ages) upTo(since int64) (b backlog) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for step, carts := range a.carts {
		if step <= since/ageStep {
			b = b.join(backlog{carts, step * ageStep})
		}
	}
	return b
}

// losses are the peers that went away, and may have taken along what few other nodes hold.
type losses struct {
	mu sync.Mutex
	at map[uint64]int64 // when, by the start id, in nanoseconds of Unix time
}

// add notes a loss, and forgets those that nothing is left of that the store lacks.
func (l *losses) add(holder uint64, at int64, left backlog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h, lost := range l.at {
		if left.carts == 0 || lost < left.since {
			delete(l.at, h)
		}
	}
	if l.at == nil {
		l.at = make(map[uint64]int64)
	}
	l.at[holder] = at
}

// last returns when the last of those was lost that are not alive again; 0 if there is none.
func (l *losses) last(alive func(holder uint64) bool) (last int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h, at := range l.at {
		if !alive(h) {
			last = max(last, at)
		}
	}
	return last
}

// underReplicated returns how many carts have a write that the database lacks and that, as far as this node knows,
// too few live nodes hold: for longer than it takes to acknowledge or refuse a write. That is so of all that the
// database lacks while too few nodes are there, of what a lost node may have held, and of writes that were refused
// because nobody acknowledged them.
func (s *Service) underReplicated() int {
	if s.replicator == nil {
		return 0
	}
	doubtful := int64(math.MinInt64) // what the database lacks since then, or longer
	if s.lazy() {
		doubtful = s.losses.last(s.replicator.Alive)
		if !s.reachable() {
			doubtful = math.MaxInt64
		}
		doubtful = min(doubtful, s.now().Add(-giveUpAfter).UnixNano())
	}
	carts := make(map[*resident]bool)
	for _, h := range s.flusher.overdue() {
		r := h.c.resident
		r.mu.Lock()
		if !h.c.durable && (r.oldest == nil || r.oldestAt/ageStep > doubtful/ageStep) {
			carts[r] = true
		}
		r.mu.Unlock()
	}
	return len(carts) + s.backlog.upTo(doubtful).carts
}

// overdue returns the changes that were not safe in time when they were looked at last.
func (f *flusher) overdue() []hedge {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(append([]hedge(nil), f.waiting...), f.unsure...)
}
