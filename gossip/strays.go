package gossip

import (
	"slices"
	"sync"
	"time"
)

// strayAfter is longer than the pool of all regions takes to find a process dead that its region misses.
const strayAfter = 3 * time.Minute

// strays are processes in the pool of all regions that say that they are of this region, and are not in its pool: those
// of another region of the same name, or of the other half of this one.
type strays struct {
	mu    sync.Mutex
	known map[string]*stray // by name
}

type stray struct {
	since time.Time
	found bool // it has been one for strayAfter
}

// see takes who else is in the region and in the pool of all regions. It returns the names of those that have been strays
// for strayAfter now, and when it is to be called again, unless that is 0.
func (s *strays) see(name string, region, all []Member, now time.Time) (found []string, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.known
	s.known = make(map[string]*stray)
	for _, m := range all {
		if m.Region != name || slices.ContainsFunc(region, func(o Member) bool { return o.Name == m.Name }) {
			continue
		}
		one := before[m.Name]
		if one == nil {
			one = &stray{since: now}
		}
		s.known[m.Name] = one
		switch wait := one.since.Add(strayAfter).Sub(now); {
		case one.found:
		case wait <= 0:
			one.found = true
			found = append(found, m.Name)
		case again == 0 || wait < again:
			again = wait
		}
	}
	return found, again
}

// names returns those of the strays that were found, sorted.
func (s *strays) names() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, one := range s.known {
		if one.found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
