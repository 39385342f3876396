package cart

import (
	"maps"
	"sync"
	"time"

	"cartd/crdt"
)

// What this file has is for a cluster of several regions, each with a database of its own. A region tells the others
// what is durable, and nothing else, but where it can hold a write neither in enough of its nodes nor in its
// database: then it asks others to hold it. What gets lost on the way, repair between the regions finds.

// crossings are the carts with durable changes that the other regions have not been sent yet.
type crossings struct {
	mu    sync.Mutex
	carts []*resident
}

// add adds a cart, and reports whether it is the first one.
func (x *crossings) add(r *resident) (first bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.carts = append(x.carts, r)
	return len(x.carts) == 1
}

func (x *crossings) take() []*resident {
	x.mu.Lock()
	defer x.mu.Unlock()
	taken := x.carts
	x.carts = nil
	return taken
}

// cross has a change that this node made, and that has just become durable, sent to the other regions, together with
// those that do so within crossAfter. r.mu is held.
func (r *resident) cross(c *change) {
	s := r.service
	if c.delta == nil || s.replicator == nil || s.replicator.Abroad() == 0 {
		return
	}
	switch {
	case r.crossing == nil:
		r.crossing = c.delta
		if s.crossings.add(r) {
			s.background(s.crossAll)
		}
	case r.crossing.Adjoins(c.delta):
		r.crossing = crdt.Merge(r.crossing, c.delta)
	default: // a state tells of what is gone by what it covers: a merge would not any more
		r.crossing = &crdt.Delta{State: *c.state}
	}
}

// crossAfter is how long a durable change waits for others of its cart.
const crossAfter = 2 * time.Millisecond

// crossAll sends what has become durable, and does so in the next moment, to the other regions.
func (s *Service) crossAll() {
	over, stop := s.scheduler.After(crossAfter)
	defer stop()
	s.scheduler.Wait(over, s.running.Done(), nil)
	if s.running.Err() != nil {
		return
	}
	for _, r := range s.crossings.take() {
		r.mu.Lock()
		d := r.crossing
		r.crossing = nil
		r.mu.Unlock()
		s.replicator.Cross(r.id, crdt.AppendDelta(nil, d), true, nil)
	}
}

// askAbroad asks the other regions to hold what is not safe of a cart, for the sake of a change that this one holds
// neither in enough nodes nor in its database. r.mu is held.
func (c *change) askAbroad() {
	r := c.resident
	s := r.service
	if c.asked || !s.abroad() {
		return
	}
	payload, held := r.whole()
	for _, other := range r.unsafe {
		other.asked = true
	}
	s.asked.Add(1)
	s.replicator.Cross(r.id, payload, false, held)
}

// abroad reports whether processes of other regions are there to hold a write.
func (s *Service) abroad() bool { return s.replicator != nil && s.replicator.Abroad() >= s.tolerate }

// saves reports whether the store makes writes safe, and has done so just now.
func (s *Service) saves() bool {
	return s.shared && s.committer.unavailable() == nil && s.now().UnixNano()-s.committer.succeeded.Load() < int64(giveUpAfter)
}

// Arrive takes a payload that came from another region, as Deliver does. One that is durable there is so here, too; any
// other is to be held because its author's region cannot.
func (s *Service) Arrive(region string, durable bool, id [16]byte, payload []byte) (held, lacks bool) {
	d := s.admissible(payload)
	if d == nil {
		return false, false
	}
	if updated := d.Lifetime.Updated; updated != 0 {
		now := s.now()
		s.lags.of(region).observe(max(0, now.Sub(updated.Time())), now)
	}
	return s.take(id, d, durable)
}

// Lag tells how old what arrived from a region was, by the clocks of those who wrote it.
type Lag struct {
	Latencies               // since the start
	Recent    time.Duration // the greatest of the last 10 to 20 s; 0 if nothing came
}

// lag is what Lag tells.
type lag struct {
	latencies

	mu       sync.Mutex
	window   int64            // the number of the present window of time
	greatest [2]time.Duration // in that window, and in the one before
}

const lagWindow = 10 * time.Second

// at lets time pass. The mutex is held.
func (l *lag) at(now time.Time) {
	window := now.UnixNano() / int64(lagWindow)
	switch {
	case window == l.window+1:
		l.greatest = [2]time.Duration{0, l.greatest[0]}
	case window > l.window:
		l.greatest = [2]time.Duration{}
	}
	l.window = max(l.window, window)
}

func (l *lag) observe(d time.Duration, now time.Time) {
	l.latencies.observe(d)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at(now)
	l.greatest[0] = max(l.greatest[0], d)
}

func (l *lag) read(now time.Time) Lag {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at(now)
	return Lag{l.latencies.read(), max(l.greatest[0], l.greatest[1])}
}

// lags are those of the regions.
type lags struct {
	mu sync.Mutex
	by map[string]*lag
}

// maxRegions bounds the regions that are told apart.
const maxRegions = 64

func (l *lags) of(region string) *lag {
	l.mu.Lock()
	defer l.mu.Unlock()
	z := l.by[region]
	if z == nil {
		z = new(lag)
		if len(l.by) < maxRegions {
			if l.by == nil {
				l.by = make(map[string]*lag)
			}
			l.by[region] = z
		}
	}
	return z
}

func (l *lags) read(now time.Time) map[string]Lag {
	l.mu.Lock()
	by := maps.Clone(l.by)
	l.mu.Unlock()
	z := make(map[string]Lag, len(by))
	for region, lag := range by {
		z[region] = lag.read(now)
	}
	return z
}
