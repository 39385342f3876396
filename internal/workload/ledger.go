package workload

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// span is a time that something took, or when something was the case.
type span struct{ from, to time.Time }

func (s span) overlaps(t span) bool { return !s.from.After(t.to) && !t.from.After(s.to) }

// outcome of a write, as far as its client knows.
type outcome int

const (
	open         outcome = iota // not settled, or given up after it may have happened
	failed                      // given up, and certain not to have happened
	acknowledged                // answered with 2xx
)

// write is an operation that changes a cart, whatever the number of its attempts.
type write struct {
	id      uint64
	client  int
	kind    string
	changes []change

	took       span // until it was settled or given up
	outcome    outcome
	node       int    // that acknowledged it, and
	durability string // of the acknowledgement
	replayed   bool
}

// byPeers reports whether nothing but peers held the write when it was acknowledged.
func (w *write) byPeers() bool { return strings.HasPrefix(w.durability, "peers=") }

// change is what a write does to one line. A clear is the removal of each line that its author saw.
type change struct {
	Type  string `json:"type"` // add, set, remove
	SKU   string `json:"sku"`
	Units int64  `json:"units,omitempty"`
}

const (
	add    = "add"
	set    = "set"
	remove = "remove"
)

// What an SKU begins with tells what is done to its line.
const (
	sharedPrefix = "SHARED-" // everybody adds, and nobody takes anything off
	oncePrefix   = "ONCE-"   // added once, then perhaps removed by whoever sees it
	ownPrefix    = "OWN-"    // set and removed by one client alone
)

// cart is one cart, and the ledger of what was done to it.
type cart struct {
	number    int // as numbered by Options
	id, token string
	context   string // of its creation
	owner     int    // the client that it is the own of, or -1
	most      int    // writes that it gets
	created   *write

	mu     sync.Mutex
	writes []*write // that were begun
	lines  map[string]line
	full   bool // another one shall take its place
}

func (c *cart) path() string { return "/v1/carts/" + c.id }

// line is the ledger of one line. Its methods are called under the cart's lock.
type line interface {
	// asked is told of a change before its first request is sent.
	asked(w *write, c change)
	// shown compares the units that somebody was shown with the last ones that the same client was shown or made
	// of it, keeps what the answer proves, and returns what the client knows now.
	shown(before sight, units int64, during span) (after sight, err *contradiction)
	// judge compares the units that are there in the end with the ledger.
	judge(units int64, r risks) judgement
}

// newLine returns the ledger of a line that is changed for the first time.
func newLine(sku string) line {
	switch {
	case strings.HasPrefix(sku, oncePrefix):
		return new(once)
	case strings.HasPrefix(sku, ownPrefix):
		return new(register)
	}
	return new(counter)
}

// begin enters a write of which nothing was sent yet.
func (c *cart) begin(w *write) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, w)
	if len(c.writes) >= c.most {
		c.full = true
	}
	for _, z := range w.changes {
		l := c.lines[z.SKU]
		if l == nil {
			l = newLine(z.SKU)
			c.lines[z.SKU] = l
		}
		l.asked(w, z)
	}
}

// settle enters what became of a write, and the answer where it was acknowledged.
func (c *cart) settle(w *write, z outcome, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.outcome, w.took.to = z, time.Now()
	if z == acknowledged {
		w.node, w.durability, w.replayed = a.Node, a.Durability, a.replayed
	}
	if z == open && c.owner >= 0 {
		c.full = true // what a later clear has seen would not be certain
	}
}

func (c *cart) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = true
}

func (c *cart) isFull() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}

// sight is what a client knows of a line, from what it was shown and from its own writes. With the Cart-Context
// no answer may go behind it.
type sight struct {
	units int64 // the most that were shown; 0 is none yet
	gone  bool  // and then the line was not there any more
}

// there reports whether the line was there.
func (s sight) there() bool { return s.units > 0 && !s.gone }

// after returns what the author of a change knows when it is acknowledged.
func (s sight) after(c change) sight {
	switch c.Type {
	case add:
		return sight{units: s.units + c.Units}
	case set:
		return sight{units: c.Units}
	default:
		return sight{units: s.units, gone: s.units > 0}
	}
}

// contradiction is an answer that goes behind what its client knew or, with never, one that may never be.
type contradiction struct {
	never bool
	why   string
}

func behind(format string, args ...any) *contradiction {
	return &contradiction{why: fmt.Sprintf(format, args...)}
}

func never(format string, args ...any) *contradiction {
	return &contradiction{never: true, why: fmt.Sprintf(format, args...)}
}

// fate of a write, from what the ledger knows of it. The greater ones tell more.
type fate int

const (
	not   fate = iota // it did not happen
	maybe             // its outcome is unknown
	risky             // it was acknowledged, and may be lost all the same
	sure              // it was acknowledged
)

func (k Risk) during() span { return span{k.From, k.To} }

// covers reports whether a write that was acknowledged may be lost.
func (k Risk) covers(w *write) bool {
	return w.took.overlaps(k.during()) && (k.Database || w.byPeers()) && (k.Nodes == nil || slices.Contains(k.Nodes, w.node))
}

// risks are which writes may be lost.
type risks []Risk

func (r risks) at(s span) bool {
	return slices.ContainsFunc(r, func(k Risk) bool { return s.overlaps(k.during()) })
}

func (r risks) fate(w *write) fate {
	switch {
	case w.outcome == failed:
		return not
	case w.outcome == open:
		return maybe
	case slices.ContainsFunc(r, func(k Risk) bool { return k.covers(w) }):
		return risky
	default:
		return sure
	}
}

// proven returns sure for what somebody was shown, as only what is durable is shown, and else the fate.
func (r risks) proven(z fate, shown span) fate {
	if z != not && !shown.to.IsZero() && !r.at(shown) {
		return sure
	}
	return z
}

// judgement is what is wrong with a line: numbers of writes, the fewest that explain what is there.
type judgement struct {
	lost, resurfaced, doubled int
	atRiskLost                int // which is not wrong
	why                       string
}

// counter is a line that everybody adds to, and nobody takes anything off: for one client it never falls.
type counter struct {
	adds   []counted
	sum    int64 // of all units that were asked for
	most   int64 // the most units that somebody was shown,
	during span  // for the last time then
}

type counted struct {
	write *write
	units int64
}

func (l *counter) asked(w *write, c change) {
	l.adds = append(l.adds, counted{w, c.Units})
	l.sum += c.Units
}

func (l *counter) shown(before sight, units int64, during span) (sight, *contradiction) {
	switch {
	case units > l.sum:
		return before, never("%d units, of the %d that were asked for in all", units, l.sum)
	case units < before.units:
		return before, behind("%d units after %d", units, before.units)
	case units >= l.most:
		l.most, l.during = units, during
	}
	return sight{units: units}, nil
}

func (l *counter) judge(units int64, r risks) judgement {
	var least, total int64
	var certain, possible []int64 // units
	var cost []int                // of those possible: 1 where its absence is a loss
	for _, a := range l.adds {
		switch f := r.fate(a.write); f {
		case sure:
			certain = append(certain, a.units)
			least += a.units
			total += a.units
		case risky, maybe:
			possible = append(possible, a.units)
			cost = append(cost, int(f-maybe))
			total += a.units
		}
	}
	floor := least
	if r.proven(maybe, l.during) == sure {
		floor = max(floor, l.most)
	}
	why := fmt.Sprintf("%d units: %d are acknowledged, of %v any may be there", units, least, possible)
	switch {
	case units == total:
		return judgement{}
	case units > total:
		return judgement{doubled: fewest(append(certain, possible...), units-total), why: why}
	case units < least:
		return judgement{lost: fewest(certain, least-units), why: why}
	case units < floor:
		return judgement{lost: 1, why: fmt.Sprintf("%s, and somebody was shown %d", why, l.most)}
	}
	missing, ok := choose(possible, cost, units-least)
	if !ok {
		return judgement{lost: 1, why: why + ", but no choice of these makes it"}
	}
	return judgement{atRiskLost: missing}
}

// fewest returns how many of the units it takes at least to make a sum of that much, and 1 at least.
func fewest(units []int64, sum int64) int {
	units = slices.Sorted(slices.Values(units))
	n := 0
	for sum > 0 && n < len(units) {
		n++
		sum -= units[len(units)-n]
	}
	return max(1, n)
}

// choose returns the least cost of leaving out some of units so that the others make the sum, and whether they
// can. It takes as many steps as there are units times the sum, both bounded by maxCartWrites.
func choose(units []int64, cost []int, sum int64) (int, bool) {
	const impossible = -1
	least := make([]int, sum+1) // by sum, of the units so far
	for i := range least {
		least[i] = impossible
	}
	least[0] = 0
	for i, n := range units {
		for s := sum; s >= 0; s-- {
			without := least[s]
			if without != impossible {
				without += cost[i]
			}
			if s >= n && least[s-n] != impossible && (without == impossible || least[s-n] < without) {
				without = least[s-n]
			}
			least[s] = without
		}
	}
	return least[sum], least[sum] != impossible
}

// once is a line that is added once. A client that has seen it may see it go, but not come back.
type once struct {
	added    *write
	units    int64
	removals []*write
	seen     span // when it was shown for the last time
	gone     span // when somebody who had seen it was shown the cart without it, for the last time
}

func (l *once) asked(w *write, c change) {
	if c.Type == remove {
		l.removals = append(l.removals, w)
		return
	}
	l.added, l.units = w, c.Units
}

func (l *once) shown(before sight, units int64, during span) (sight, *contradiction) {
	switch {
	case units == 0 && before.units == 0:
		return before, nil
	case units == 0 && len(l.removals) == 0:
		return before, behind("it was there, and nobody has removed it")
	case units == 0:
		l.gone = during
		return sight{units: l.units, gone: true}, nil
	case units != l.units:
		return before, never("%d units of a line that %d were added to, once", units, l.units)
	case before.gone:
		return before, behind("it was removed, and is back")
	}
	l.seen = during
	return sight{units: units}, nil
}

// missing compares that a removal found nothing to remove with what was asked for: in vain after another one only.
func (l *once) missing(w *write, during span) *contradiction {
	if !slices.ContainsFunc(l.removals, func(z *write) bool { return z != w }) {
		return behind("it is not there for one who saw it, and nobody has removed it")
	}
	l.gone = during
	return nil
}

func (l *once) judge(units int64, r risks) judgement {
	added, removed := r.proven(r.fate(l.added), l.seen), not
	for _, w := range l.removals {
		removed = max(removed, r.fate(w))
	}
	removed = r.proven(removed, l.gone)
	switch {
	case units == 0 && removed > not:
		return judgement{}
	case units == 0 && added == sure:
		return judgement{lost: 1, why: fmt.Sprintf("the %d units are missing, and nobody has removed them", l.units)}
	case units == 0 && added == risky:
		return judgement{atRiskLost: 1}
	case units == 0:
		return judgement{}
	case units > l.units:
		return judgement{doubled: 1, why: fmt.Sprintf("%d units of a line that %d were added to, once", units, l.units)}
	case units < l.units:
		return judgement{lost: 1, why: fmt.Sprintf("%d of %d units that were added at once", units, l.units)}
	case removed == sure:
		return judgement{resurfaced: 1, why: fmt.Sprintf("the %d units were removed, and are back", units)}
	case added == not:
		return judgement{doubled: 1, why: fmt.Sprintf("%d units of an add that was refused", units)}
	case removed == risky:
		return judgement{atRiskLost: 1}
	}
	return judgement{}
}

// register is a line that one client alone sets and removes, and leaves to itself after an outcome that it does not
// know. Each assignment is greater than those before, so nobody sees a smaller one after a greater one.
type register struct {
	assignments []assignment // 0 units are a removal
	last        int64        // that was assigned
	removed     int64        // what was the last one when it was removed for the last time
}

type assignment struct {
	write *write
	units int64
	seen  span // when its effect was shown for the last time
}

func (l *register) asked(w *write, c change) {
	l.assignments = append(l.assignments, assignment{write: w, units: c.Units})
	if c.Type == remove {
		l.removed = l.last
	} else {
		l.last = c.Units
	}
}

func (l *register) shown(before sight, units int64, during span) (sight, *contradiction) {
	switch {
	case units == 0 && before.units == 0:
		return before, nil
	case units == 0 && l.removed < before.units:
		return before, behind("it had %d units, and nobody has removed them", before.units)
	case units == 0:
		// At least the first removal after that has happened, or one that came later.
		i := l.assignment(before.units)
		i += slices.IndexFunc(l.assignments[i:], func(a assignment) bool { return a.units == 0 })
		l.assignments[i].seen = during
		return sight{units: before.units, gone: true}, nil
	case units > l.last:
		return before, never("%d units, and no more than %d were asked for", units, l.last)
	case units < before.units || units == before.units && before.gone:
		return before, behind("%d units after %s", units, before)
	}
	l.assignments[l.assignment(units)].seen = during
	return sight{units: units}, nil
}

func (s sight) String() string {
	if s.gone {
		return fmt.Sprintf("%d, and their removal", s.units)
	}
	return fmt.Sprint(s.units)
}

// assignment returns the index of the assignment of so many units, or -1.
func (l *register) assignment(units int64) int {
	return slices.IndexFunc(l.assignments, func(a assignment) bool { return a.units == units })
}

func (l *register) judge(units int64, r risks) judgement {
	lost := 0 // acknowledged at risk, and undone if the units are those of an earlier one
	for i, a := range slices.Backward(l.assignments) {
		f := r.proven(r.fate(a.write), a.seen)
		switch {
		case f == not:
			continue
		case a.units == units:
			return judgement{atRiskLost: lost}
		case f == risky:
			lost++
		case f == sure:
			return l.undone(i, units)
		}
	}
	if units == 0 {
		return judgement{atRiskLost: lost}
	}
	return judgement{doubled: 1, why: fmt.Sprintf("%d units that nobody may have assigned", units)}
}

// undone judges units that are there instead of those that assignment i has certainly made.
func (l *register) undone(i int, units int64) judgement {
	a := l.assignments[i]
	earlier := func(e assignment) bool { return e.units == units }
	switch {
	case units > 0 && !slices.ContainsFunc(l.assignments[:i], earlier):
		return judgement{doubled: 1, why: fmt.Sprintf("%d units that nobody may have assigned: the last were %d", units, a.units)}
	case a.units == 0:
		return judgement{resurfaced: 1, why: fmt.Sprintf("the %d units were removed, and are back", units)}
	default:
		return judgement{lost: 1, why: fmt.Sprintf("%d units, and %d were assigned last", units, a.units)}
	}
}
