package gossip

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	rejoinEvery = 15 * time.Second
	rejoinFirst = time.Second // while nobody was ever met, doubled from round to round
	lostFor     = 24 * time.Hour
	maxLost     = 64
)

// Rejoin says whom to join, and when: memberlist forgets a dead member after a while, so that the
// halves of a cluster that was split never find each other again by themselves. Every 15 s it names
// the seeds, those given and those named, and the members lost in the last 24 h, the last 64 of them, but for those alive. A
// process that has met nobody yet is more eager.
//
// A Rejoin is not safe for concurrent use.
type Rejoin struct {
	self  string
	seeds []string // those given
	named []string // others, which are no seeds given
	rand  *rand.Rand
	alive map[string]int // processes alive at the address: one that comes back is there before the old one is lost
	lost  map[string]time.Time
	next  time.Time
	pause time.Duration
}

// NewRejoin returns the Rejoin of the process at the gossip address self.
func NewRejoin(self string, seeds []string, r *rand.Rand) *Rejoin {
	return &Rejoin{
		self:  self,
		seeds: seeds,
		rand:  r,
		alive: make(map[string]int),
		lost:  make(map[string]time.Time),
		pause: rejoinFirst,
	}
}

// Name makes the addresses seeds, beside those given, in place of those named before. A process that is alone takes a new
// one up at once.
func (r *Rejoin) Name(addrs []string) {
	before := r.named
	r.named = slices.DeleteFunc(slices.Clone(addrs), func(addr string) bool { return slices.Contains(r.seeds, addr) })
	isNew := func(addr string) bool { return !slices.Contains(before, addr) }
	if len(r.alive) == 0 && slices.ContainsFunc(r.named, isNew) {
		r.next, r.pause = time.Time{}, rejoinFirst
	}
}

// Alive tells that a process at the address was met.
func (r *Rejoin) Alive(addr string) {
	r.alive[addr]++
	delete(r.lost, addr)
	r.pause = rejoinEvery
}

// Left tells that a process that was alive has gone for good, as it said.
func (r *Rejoin) Left(addr string) {
	if r.alive[addr]--; r.alive[addr] <= 0 {
		delete(r.alive, addr)
	}
}

// Lost tells that a process that was alive is no more.
func (r *Rejoin) Lost(addr string, now time.Time) {
	r.Left(addr)
	if !r.Missing(addr) {
		return
	}
	r.lost[addr] = now
	if len(r.lost) > maxLost {
		delete(r.lost, r.longestLost())
	}
}

func (r *Rejoin) longestLost() (addr string) {
	for a, at := range r.lost {
		if addr == "" || at.Before(r.lost[addr]) || at.Equal(r.lost[addr]) && a < addr {
			addr = a
		}
	}
	return addr
}

// Missing reports whether no process at the address is known to be alive.
func (r *Rejoin) Missing(addr string) bool { return addr != r.self && r.alive[addr] == 0 }

// Due returns the addresses to join at a given time: none unless a round is due.
func (r *Rejoin) Due(now time.Time) (addrs []string) {
	if now.Before(r.next) {
		return nil
	}
	pause := r.pause
	r.pause = min(2*r.pause, rejoinEvery)
	r.next = now.Add(pause*9/10 + time.Duration(r.rand.Int64N(int64(pause/5)))) // nodes cut off together do not call together

	for _, seed := range slices.Concat(r.seeds, r.named) {
		if r.Missing(seed) {
			addrs = append(addrs, seed)
		}
	}
	return append(addrs, r.recent(now)...)
}

// recent returns the lost ones that are no seeds, the last first, and forgets those of a day ago.
func (r *Rejoin) recent(now time.Time) (addrs []string) {
	for addr, at := range r.lost {
		if now.Sub(at) >= lostFor {
			delete(r.lost, addr)
		} else if !slices.Contains(r.seeds, addr) && !slices.Contains(r.named, addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, func(a, b string) int {
		return cmp.Or(r.lost[b].Compare(r.lost[a]), cmp.Compare(a, b))
	})
	return addrs
}
