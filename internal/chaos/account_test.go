package chaos

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"cartd/internal/workload"
)

// period is a while during which a node was not one that has to answer. One without an end goes on.
type period struct{ from, to time.Time }

// overlaps reports whether some of the time from began to ended is in the period.
func (p period) overlaps(began, ended time.Time) bool {
	return !ended.Before(p.from) && (p.to.IsZero() || !began.After(p.to))
}

// account is what shoppers got, attempt by attempt.
type account struct {
	mu       sync.Mutex
	attempts []workload.Attempt
}

func (a *account) observe(z workload.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attempts = append(a.attempts, z)
}

// since returns the attempts that began at a time or later.
func (a *account) since(from time.Time) []workload.Attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	var late []workload.Attempt
	for _, z := range a.attempts {
		if !z.Began.Before(from) {
			late = append(late, z)
		}
	}
	return late
}

// share is how many of all attempts were answered as they should be.
type share struct {
	good, all int
	failures  map[string]int // the others, by what they got
}

// availability returns the share of attempts that succeeded, of those that no period of their node overlaps, and whose
// failure is not forgiven.
func availability(attempts []workload.Attempt, away [][]period, forgives func(workload.Attempt) bool) share {
	s := share{failures: make(map[string]int)}
	for _, z := range attempts {
		ended := z.Began.Add(z.Took)
		if slices.ContainsFunc(away[z.Node], func(p period) bool { return p.overlaps(z.Began, ended) }) {
			continue
		}
		if z.Outcome != workload.OK && forgives(z) {
			continue
		}
		s.all++
		if z.Outcome == workload.OK {
			s.good++
		} else {
			s.failures[fmt.Sprintf("%s at node %d: %s", z.Kind, z.Node+1, z.Problem)]++
		}
	}
	return s
}

// atLeast reports whether at least so many of 100,000 succeeded. Without attempts nothing is known, and it is not so.
func (s share) atLeast(of100000 int) bool { return s.all > 0 && s.good*100_000 >= of100000*s.all }

// most is 99.9 %, in parts of 100,000.
const most = 99_900

func (s share) String() string {
	if s.all == 0 {
		return "none asked"
	}
	return percent(s.good*100_000/s.all) + " %"
}

// percent writes parts of 100,000 as percents.
func percent(of100000 int) string { return fmt.Sprintf("%d.%03d", of100000/1000, of100000%1000) }

func isWrite(z workload.Attempt) bool { return z.Kind != "read" }

// longestGap returns the longest time between two times, in which no write was acknowledged.
func longestGap(attempts []workload.Attempt, from, to time.Time) time.Duration {
	acknowledged := []time.Time{from, to}
	for _, z := range attempts {
		if at := z.Began.Add(z.Took); isWrite(z) && z.Outcome == workload.OK && at.After(from) && at.Before(to) {
			acknowledged = append(acknowledged, at)
		}
	}
	slices.SortFunc(acknowledged, time.Time.Compare)
	longest := time.Duration(0)
	for i, at := range acknowledged[1:] {
		longest = max(longest, at.Sub(acknowledged[i]))
	}
	return longest
}

// takeOver returns the longest time, over all carts, until the first write to a cart was acknowledged after a kill:
// since the kill where a write was on its way then, otherwise since the first one that was sent. A cart whose
// writes were not acknowledged counts until the end.
func takeOver(attempts []workload.Attempt, killed, end time.Time) time.Duration {
	wanted, acknowledged := make(map[int]time.Time), make(map[int]time.Time)
	for _, z := range attempts {
		ended := z.Began.Add(z.Took)
		if !isWrite(z) || ended.Before(killed) {
			continue
		}
		since := z.Began
		if since.Before(killed) {
			since = killed
		}
		if first, ok := wanted[z.Cart]; !ok || since.Before(first) {
			wanted[z.Cart] = since
		}
		if z.Outcome != workload.OK {
			continue
		}
		if first, ok := acknowledged[z.Cart]; !ok || ended.Before(first) {
			acknowledged[z.Cart] = ended
		}
	}
	longest := time.Duration(0)
	for cart, since := range wanted {
		until, ok := acknowledged[cart]
		if !ok {
			until = end
		}
		longest = max(longest, until.Sub(since))
	}
	return longest
}
