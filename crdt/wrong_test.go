package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// TestWrongRules plays the vectors on machines with one wrong rule each. The vectors have to catch
// every one of them by what a shopper sees, which is a wrong quantity or replicas that hold the
// same events and show different ones.
//
// One of these rules shows in the version vector alone, remove-without-dot: full states converge
// without dots of removals. But two replicas with equal version vectors then show different
// quantities, so repair, which compares version vectors, never exchanges their states.
func TestWrongRules(t *testing.T) {
	kills := map[string][]script{}
	all := slices.Collect(truthTable())
	for _, scripts := range vectors(t) {
		for _, s := range scripts {
			all = append(all, s)
			if s.Kills != "" {
				kills[s.Kills] = append(kills[s.Kills], s)
			}
		}
	}
	variants := map[string]bool{}
	for _, v := range wrongRules {
		variants[v.name] = true
		t.Run(v.name, func(t *testing.T) {
			if err := oneAdd.run(v.new(oneAdd.ids()), visible); err != nil {
				t.Fatalf("does not even add: %v", err)
			}
			cases := kills[v.name]
			if v.unnamed {
				cases = all
			} else if len(cases) == 0 {
				t.Fatal("no vector names this rule")
			}
			caught := 0
			for _, s := range cases {
				err := s.run(v.new(s.ids()), visible)
				if errors.Is(err, errScript) {
					t.Fatalf("%s: %v", s.Name, err)
				}
				if err != nil {
					t.Logf("%s: %v", s.Name, err)
					caught++
				} else if !v.unnamed {
					t.Errorf("%s does not catch it", s.Name)
				}
			}
			if caught == 0 {
				t.Error("not caught")
			}
		})
	}
	for name := range kills {
		if !variants[name] {
			t.Errorf("no machine has the wrong rule %q", name)
		}
	}
}

// TestAbstractMachine plays the vectors on the abstract machine without a wrong rule, so that what
// the vectors catch is the rule, not the machine.
func TestAbstractMachine(t *testing.T) {
	for file, scripts := range vectors(t) {
		for _, s := range scripts {
			if err := s.run(newAbstract(rules{})(s.ids()), everything); err != nil {
				t.Errorf("%s: %s: %v", file, s.Name, err)
			}
		}
	}
}

var oneAdd = scenario("r1 add A 2; r1 > r2", map[string]int64{"A": 2})

var wrongRules = []struct {
	name    string // as the vectors name it
	new     func(ids map[string]ReplicaID) machine
	unnamed bool // no vector names it: any of them or of the truth table has to catch it
}{
	{name: "lww-quantity", new: newLWW},
	{name: "max-merge", new: newMaxMerge},
	{name: "pn-counter", new: newPNCounter},
	{name: "fold-per-replica", new: newAbstract(rules{foldFrom: 1})}, // Riak's emcntr
	{name: "fold-own-increments", new: newAbstract(rules{foldFrom: 33})},
	{name: "set-as-difference", new: newAbstract(rules{setAsDifference: true})},
	{name: "unclamped-decrement", new: newAbstract(rules{unclamped: true})},
	{name: "debt-stays", new: newAbstract(rules{debtStays: true}), unnamed: true},
	{name: "remove-without-dot", new: newAbstract(rules{removeWithoutDot: true})},
	{name: "replica-id-reuse", new: newAbstract(rules{reuseID: true})},
	{name: "max-compressed-vv", new: newAbstract(rules{maxCompressed: true})},
	{name: "delta-without-base", new: newAbstract(rules{withoutBase: true}), unnamed: true},
	{name: "merged-base-of-first", new: newAbstract(rules{baseOfFirst: true})},
	{name: "merged-live-now", new: newAbstract(rules{liveNow: true})},
	{name: "alias-smallest-live", new: newAbstract(rules{smallestLive: true})},
	{name: "alias-decrement-becomes-remove", new: newAbstract(rules{decrementRemoves: true})},
	// The vector that names it has an alias without an entry only where a decrement may be a removal.
	{name: "alias-without-entry-ignored", new: newAbstract(rules{entrylessIgnored: true, decrementRemoves: true})},
	{name: "alias-without-entry-ignored-alone", new: newAbstract(rules{entrylessIgnored: true}), unnamed: true},
}

// rules are wrong rules of the abstract machine.
type rules struct {
	foldFrom         int  // an add that finds as many own increments live folds them into its own; 0: never
	setAsDifference  bool // a set is an increment by the difference
	unclamped        bool // a decrement takes off more than there is, and no add clears the debt
	debtStays        bool // no add clears a debt
	removeWithoutDot bool // a removal is no event
	reuseID          bool // a replica that lost its memory goes on under its old id
	maxCompressed    bool // the version vector is the greatest dot seen; deltas need nothing
	withoutBase      bool // deltas need only their authors' own earlier events
	baseOfFirst      bool // a merged delta needs what its first one does
	liveNow          bool // a merged delta carries what is live at its authors now
	smallestLive     bool // of several aliases the smallest live one counts, though one is spent
	decrementRemoves bool // a decrement under an id may become a removal
	entrylessIgnored bool // an alias without an entry does not spend its operation
}

// abstract is an observed-remove store of dots with maps for everything: slow, without a codec,
// and short enough to turn its rules one by one.
type abstract struct {
	rules
	ids      map[string]ReplicaID
	states   map[string]*dotDelta // with an empty base
	deltas   map[string]*dotDelta // by event
	authors  map[string]string    // of events
	contexts map[string]map[ReplicaID]uint64
}

// dotDelta is what happened in the interval (base, vv]; with an empty base it is a state.
type dotDelta struct {
	base, vv  map[ReplicaID]uint64
	entries   map[Dot]dotEntry
	executed  map[Dot]execution
	cancelled map[Dot]bool
}

type dotEntry struct {
	line string
	n    int64
	set  bool
	ts   Timestamp
}

type execution struct {
	operation        string
	spent, entryless bool
}

func newDotDelta() *dotDelta {
	return &dotDelta{
		map[ReplicaID]uint64{},
		map[ReplicaID]uint64{},
		map[Dot]dotEntry{},
		map[Dot]execution{},
		map[Dot]bool{},
	}
}

func newAbstract(r rules) func(map[string]ReplicaID) machine {
	return func(ids map[string]ReplicaID) machine {
		a := &abstract{
			r, maps.Clone(ids),
			map[string]*dotDelta{},
			map[string]*dotDelta{},
			map[string]string{},
			map[string]map[ReplicaID]uint64{},
		}
		for name := range ids {
			a.states[name] = newDotDelta()
		}
		return a
	}
}

// kills reports whether an entry that d does not have is dead by d.
func (d *dotDelta) kills(x Dot) bool {
	return d.cancelled[x] || x.Seq > d.base[x.Replica] && x.Seq <= d.vv[x.Replica]
}

// take adds to z what a has and b does not kill, above z's base.
func (d *dotDelta) take(a, b *dotDelta) {
	for x, e := range a.entries {
		if _, both := b.entries[x]; (both || !b.kills(x)) && x.Seq > d.base[x.Replica] {
			d.entries[x] = e
		}
	}
	for x, e := range a.executed {
		if x.Seq > d.base[x.Replica] {
			e.spent = e.spent || d.executed[x].spent || a.cancelled[x] || b.cancelled[x]
			d.executed[x] = e
		}
	}
	maps.Copy(d.cancelled, a.cancelled)
}

func (m *abstract) merge(a, b *dotDelta) *dotDelta {
	z := newDotDelta()
	for _, side := range []*dotDelta{a, b} {
		for id := range side.vv {
			z.vv[id] = max(a.vv[id], b.vv[id])
			if a.base[id] <= b.vv[id] && b.base[id] <= a.vv[id] {
				z.base[id] = min(a.base[id], b.base[id])
			} else {
				z.base[id] = max(a.base[id], b.base[id])
			}
			if m.baseOfFirst {
				z.base[id] = a.base[id]
			}
		}
	}
	z.take(a, b)
	z.take(b, a)
	return z
}

// joined returns the state s with d.
func (m *abstract) joined(s, d *dotDelta) *dotDelta {
	z := m.merge(s, d)
	clear(z.base)
	clear(z.cancelled)
	return z
}

func (m *abstract) join(from, to string) { m.states[to] = m.joined(m.states[to], m.states[from]) }

func (m *abstract) deliver(events []string, to string) bool {
	d := m.deltas[events[0]]
	for _, e := range events[1:] {
		d = m.merge(d, m.deltas[e])
	}
	if m.liveNow && len(events) > 1 {
		d.entries = map[Dot]dotEntry{}
		for _, e := range events {
			for x, entry := range m.states[m.authors[e]].entries {
				if x.Seq > d.base[x.Replica] && x.Seq <= d.vv[x.Replica] {
					d.entries[x] = entry
				}
			}
		}
	}
	for id, base := range d.base {
		if !m.maxCompressed && m.states[to].vv[id] < base {
			return false
		}
	}
	m.states[to] = m.joined(m.states[to], d)
	return true
}

func (m *abstract) command(c command) (Dot, bool) {
	s, id := m.states[c.At], m.ids[c.At]
	for _, e := range s.executed {
		if c.Operation != "" && e.operation == c.Operation {
			return Dot{}, false
		}
	}
	all := func(Dot) bool { return true }
	observed := all
	if c.Context != "" {
		observed = func(x Dot) bool { return x.Seq <= m.contexts[c.Context][x.Replica] }
	}
	dot := Dot{id, s.vv[id] + 1}
	d := newDotDelta()
	d.base, d.vv = maps.Clone(s.vv), maps.Clone(s.vv)
	q := s.raw(m.rules, c.Line, observed)
	cancel := func(observed func(Dot) bool) {
		for x, e := range s.entries {
			if observed(x) && (c.Do == "clear" || e.line == c.Line) {
				d.cancelled[x] = true
			}
		}
	}
	put := func(e dotEntry) {
		e.line = c.Line
		d.entries[dot] = e
	}
	switch {
	case c.Do == "add":
		put(dotEntry{n: c.N + m.fold(s, d, id, c.Line)})
		if s.raw(m.rules, c.Line, all) < 0 && !m.unclamped && !m.debtStays {
			cancel(all)
		}
	case c.Do == "set" && m.setAsDifference:
		put(dotEntry{n: c.N - q})
	case c.Do == "set":
		put(dotEntry{n: c.N, set: true, ts: c.TS})
		cancel(observed)
	case c.Do == "decrement" && m.unclamped:
		put(dotEntry{n: -c.N})
	case c.Do == "decrement" && c.N < q:
		put(dotEntry{n: -c.N})
	case c.Do == "decrement" && c.Operation != "" && !m.decrementRemoves:
		if q > 0 {
			put(dotEntry{n: -q})
		}
	default:
		cancel(observed)
		if m.removeWithoutDot {
			dot = Dot{}
		}
	}
	if dot != (Dot{}) {
		d.vv[id] = dot.Seq
		if c.Operation != "" {
			entryless := len(d.entries) == 0
			d.executed[dot] = execution{c.Operation, entryless, entryless}
		}
	}
	if m.withoutBase || len(d.cancelled) == 0 && c.Do != "decrement" {
		own := func(r ReplicaID, _ uint64) bool { return r != id }
		maps.DeleteFunc(d.base, own)
		maps.DeleteFunc(d.vv, own)
	}
	m.deltas[c.Event], m.authors[c.Event] = d, c.At
	m.states[c.At] = m.joined(s, d)
	return dot, true
}

// fold cancels the replica's own increments in d and returns their sum, if there are enough.
func (m *abstract) fold(s, d *dotDelta, id ReplicaID, line string) (sum int64) {
	own := map[Dot]bool{}
	for x, e := range s.entries {
		if x.Replica == id && e.line == line && !e.set {
			own[x] = true
			sum += e.n
		}
	}
	if m.foldFrom == 0 || len(own) < m.foldFrom {
		return 0
	}
	maps.Copy(d.cancelled, own)
	return sum
}

// counts reports whether x stands for its operation.
func (d *dotDelta) counts(r rules, x Dot, observed func(Dot) bool) bool {
	operation := d.executed[x].operation
	for a, e := range d.executed {
		switch {
		case operation == "" || e.operation != operation || a == x:
		case !e.spent && observed(a) && a.Compare(x) < 0:
			return false
		case e.spent && !r.smallestLive && !(e.entryless && r.entrylessIgnored):
			return false
		}
	}
	return true
}

// raw returns the quantity of a line, which may be below zero.
func (d *dotDelta) raw(r rules, line string, observed func(Dot) bool) int64 {
	var sum int64
	var winner Stamp
	var assigned int64
	for x, e := range d.entries {
		stamp := Stamp{e.ts, x}
		switch {
		case e.line != line || !observed(x) || !d.counts(r, x, observed):
		case !e.set:
			sum += e.n
		case winner == Stamp{} || stamp.Compare(winner) > 0:
			winner, assigned = stamp, e.n
		}
	}
	return sum + assigned
}

func (m *abstract) read(at, as string) { m.contexts[as] = maps.Clone(m.states[at].vv) }

func (m *abstract) restart(at string, id ReplicaID) {
	m.states[at] = newDotDelta()
	if !m.reuseID {
		m.ids[at] = id
	}
}

func (m *abstract) shown(at string) map[string]int64 {
	shown := map[string]int64{}
	s := m.states[at]
	for _, e := range s.entries {
		if n := s.raw(m.rules, e.line, func(Dot) bool { return true }); n > 0 {
			shown[e.line] = n
		}
	}
	return shown
}

func (m *abstract) vv(at string) map[ReplicaID]uint64 { return m.states[at].vv }

func (m *abstract) encoding(at string) string { // fmt sorts maps
	s := m.states[at]
	return fmt.Sprint(s.vv, s.entries, s.executed)
}

// values is a machine whose states are values to be merged, lines by name. Its deltas are its
// states; it has version vectors only so that they can be compared.
type values[L any] struct {
	ids      map[string]ReplicaID
	states   map[string]map[string]L
	deltas   map[string]map[string]L
	vvs      map[string]map[ReplicaID]uint64
	deltaVVs map[string]map[ReplicaID]uint64
	quantity func(L) int64
	change   func(l L, by int64, s Stamp) L // by: added to the quantity
	merge    func(a, b L) L
}

func newValues[L any](
	ids map[string]ReplicaID, quantity func(L) int64, change func(L, int64, Stamp) L, merge func(a, b L) L,
) machine {
	m := &values[L]{
		maps.Clone(ids),
		map[string]map[string]L{},
		map[string]map[string]L{},
		map[string]map[ReplicaID]uint64{},
		map[string]map[ReplicaID]uint64{},
		quantity, change, merge,
	}
	for name := range ids {
		m.restart(name, ids[name])
	}
	return m
}

func (m *values[L]) command(c command) (Dot, bool) {
	s, vv, id := m.states[c.At], m.vvs[c.At], m.ids[c.At]
	vv[id]++
	dot := Dot{id, vv[id]}
	change := func(line string, by int64) {
		s[line] = m.change(s[line], by, Stamp{c.TS, dot})
	}
	q := m.quantity(s[c.Line])
	switch c.Do {
	case "add":
		change(c.Line, c.N)
	case "set":
		change(c.Line, c.N-q)
	case "decrement":
		change(c.Line, -min(c.N, q))
	case "remove":
		change(c.Line, -q)
	case "clear":
		for line := range s {
			change(line, -m.quantity(s[line]))
		}
	}
	m.deltas[c.Event], m.deltaVVs[c.Event] = maps.Clone(s), maps.Clone(vv)
	return dot, true
}

func (m *values[L]) take(to string, s map[string]L, vv map[ReplicaID]uint64) {
	for line, l := range s {
		if own, ok := m.states[to][line]; ok {
			l = m.merge(own, l)
		}
		m.states[to][line] = l
	}
	for id, seq := range vv {
		m.vvs[to][id] = max(m.vvs[to][id], seq)
	}
}

func (m *values[L]) deliver(events []string, to string) bool {
	for _, e := range events {
		m.take(to, m.deltas[e], m.deltaVVs[e])
	}
	return true
}

func (m *values[L]) join(from, to string) {
	m.take(to, maps.Clone(m.states[from]), maps.Clone(m.vvs[from]))
}

func (m *values[L]) restart(at string, id ReplicaID) {
	m.ids[at], m.states[at], m.vvs[at] = id, map[string]L{}, map[ReplicaID]uint64{}
}

func (m *values[L]) shown(at string) map[string]int64 {
	shown := map[string]int64{}
	for line, l := range m.states[at] {
		if n := m.quantity(l); n > 0 {
			shown[line] = n
		}
	}
	return shown
}

func (m *values[L]) read(string, string)               {}
func (m *values[L]) vv(at string) map[ReplicaID]uint64 { return m.vvs[at] }
func (m *values[L]) encoding(at string) string         { return fmt.Sprint(m.states[at], m.vvs[at]) }

// newLWW makes a machine whose quantities are last-writer-wins registers.
func newLWW(ids map[string]ReplicaID) machine {
	type quantity struct {
		n     int64
		stamp Stamp
	}
	return newValues(ids,
		func(q quantity) int64 { return q.n },
		func(q quantity, by int64, s Stamp) quantity { return quantity{q.n + by, s} },
		func(a, b quantity) quantity {
			if a.stamp.Compare(b.stamp) < 0 {
				return b
			}
			return a
		})
}

// newMaxMerge makes a machine that merges two carts as their union, with the greater quantity.
func newMaxMerge(ids map[string]ReplicaID) machine {
	return newValues(ids,
		func(n int64) int64 { return n },
		func(n, by int64, _ Stamp) int64 { return n + by },
		func(a, b int64) int64 { return max(a, b) })
}

// newPNCounter makes a machine with one PN-counter a line, in which a removal subtracts.
func newPNCounter(ids map[string]ReplicaID) machine {
	type counts struct{ p, n int64 }
	type counter map[ReplicaID]counts
	return newValues(ids,
		func(c counter) int64 {
			var sum int64
			for _, own := range c {
				sum += own.p - own.n
			}
			return max(0, sum)
		},
		func(c counter, by int64, s Stamp) counter {
			z := counter{}
			maps.Copy(z, c)
			own := z[s.Dot.Replica]
			z[s.Dot.Replica] = counts{own.p + max(0, by), own.n + max(0, -by)}
			return z
		},
		func(a, b counter) counter {
			z := maps.Clone(a)
			for id, c := range b {
				z[id] = counts{max(z[id].p, c.p), max(z[id].n, c.n)}
			}
			return z
		})
}
