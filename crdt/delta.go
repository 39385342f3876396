package crdt

import (
	"errors"
	"slices"
	"strings"
)

// ErrGap is returned for a delta that needs events which the state does not hold. The full state
// of the delta's author always joins.
var ErrGap = errors.New("crdt: the delta needs events that the state does not hold")

// Delta is what the events in the interval (Base, VV] did: the entries that are live by these
// events alone, the registers they wrote, and the dots that they cancelled and forgot. It says
// nothing of what its author knew besides. A full state is the delta with an empty base.
// [Almeida, Shoker, Baquero 2018, "Delta state replicated data types"]
type Delta struct {
	State          // VV is the end of the interval
	Base      VV   // what a state must hold for the delta to be joined
	Cancelled Dots // of entries and members, below Base or within the interval
	Forgotten Dots // of operation records
}

// covers reports whether d is one of the delta's events.
func (d *Delta) covers(dot Dot) bool {
	return dot.Seq <= d.VV.Get(dot.Replica) && dot.Seq > d.Base.Get(dot.Replica)
}

// kills reports whether an entry that only the other side of a merge has is dead by d: cancelled,
// or covered and not here.
func (d *Delta) kills(dot Dot) bool { return d.covers(dot) || d.Cancelled.Has(dot) }

// mayKill reports whether d can kill anything that a holds.
func (d *Delta) mayKill(a *Delta) bool {
	if len(d.Cancelled) > 0 {
		return true
	}
	for _, e := range d.VV {
		if base := d.Base.Get(e.Replica); min(e.Seq, a.VV.Get(e.Replica)) > base {
			return true
		}
	}
	return false
}

// Join returns the least state that holds what a and b hold. It is commutative, associative and
// idempotent.
func Join(a, b *State) *State {
	var z Delta
	z.merge(&Delta{State: *a}, &Delta{State: *b}, nil)
	return z.asState(a)
}

// Apply joins a delta into s. Applying a delta again changes nothing, and of several deltas the
// order does not matter, except that a delta which needs what s does not hold is refused with
// ErrGap. It returns s itself where d holds nothing new.
func (s *State) Apply(d *Delta) (*State, error) {
	if s.Erased {
		return s, nil
	}
	if !d.Erased {
		if !s.VV.Descends(d.Base) {
			return nil, ErrGap
		}
		if s.VV.Descends(d.VV) {
			return s, nil
		}
	}
	var z Delta
	z.merge(&Delta{State: *s}, d, nil)
	return z.asState(s), nil
}

// Adjoins reports whether d and o leave no gap between their events of any replica. Then their merge
// loses nothing: it can be joined wherever both can, in some order, and does the same.
func (d *Delta) Adjoins(o *Delta) bool {
	if d.Erased || o.Erased {
		return true
	}
	for a, b := d.VV, o.VV; len(a) > 0 && len(b) > 0; {
		switch {
		case a[0].Replica < b[0].Replica:
			a = a[1:]
		case a[0].Replica > b[0].Replica:
			b = b[1:]
		default:
			r := a[0].Replica
			if d.Base.Get(r) > b[0].Seq || o.Base.Get(r) > a[0].Seq {
				return false
			}
			a, b = a[1:], b[1:]
		}
	}
	return true
}

// Within reports whether d has no event but those in the interval (base, end].
func (d *Delta) Within(base, end VV) bool {
	for _, e := range d.VV {
		if from := d.Base.Get(e.Replica); from < e.Seq && (from < base.Get(e.Replica) || e.Seq > end.Get(e.Replica)) {
			return false
		}
	}
	return !d.Erased
}

// Newest returns the greatest timestamp in d. Who joins it goes on from there.
func (d *Delta) Newest() Timestamp {
	newest := max(d.Lifetime.Created, d.Lifetime.Updated)
	registers := func(r Registers) {
		for i := range r {
			newest = max(newest, r[i].Stamp.At)
		}
	}
	registers(d.Registers)
	for _, l := range d.Lines {
		newest = max(newest, l.First)
		registers(l.Registers)
		for i := range l.Counter {
			newest = max(newest, l.Counter[i].At)
		}
	}
	for i := range d.Operations {
		newest = max(newest, d.Operations[i].At)
	}
	return newest
}

// Merge returns one delta for several: joining it does what joining a and then b does. It is a
// function of a and b alone, never of their author's present state.
func Merge(a, b *Delta) *Delta {
	z := new(Delta)
	z.merge(a, b, nil)
	return z
}

// Joiner joins states in storage that it uses again. The zero Joiner is ready to use.
type Joiner struct {
	a, b, z Delta
	lines   arena
}

// Join is like the function Join, but the result is valid only until the next call, shares lines
// with a and b, and has no order for display.
func (j *Joiner) Join(a, b *State) *State {
	j.lines.used = 0
	j.a, j.b = Delta{State: *a}, Delta{State: *b}
	j.z.merge(&j.a, &j.b, &j.lines)
	j.z.muted = j.z.Operations.muted(func(Dot) bool { return true })
	return &j.z.State
}

// asState makes the result of a merge with a state a state, without what only a delta has. like
// shares most of its lines.
func (d *Delta) asState(like *State) *State {
	s := d.State
	if !s.Erased { // else nothing is left to derive from, however much like has
		s.derive(like)
	}
	return &s
}

// merge sets z to the merge of a and b, in z's storage. Lines come from the arena.
func (z *Delta) merge(a, b *Delta, lines *arena) {
	if a.Erased || b.Erased {
		*z = Delta{State: State{Erased: true}}
		return
	}
	m := merger{a: a, b: b, lines: lines}
	if z.VV == nil {
		z.VV = make(VV, 0, max(len(a.VV), len(b.VV)))
	}
	m.aKills, m.bKills = a.mayKill(b), b.mayKill(a)
	z.Base, z.VV = uniteSpans(z.Base[:0], z.VV[:0], a.Base, a.VV, b.Base, b.VV)
	m.base = z.Base

	z.Lines = m.mergeLines(z.Lines[:0])
	z.Members = m.mergeMembers(z.Members[:0])
	z.Registers = m.mergeRegisters(z.Registers[:0], a.Registers, b.Registers)
	z.Operations = m.mergeOperations(z.Operations[:0])
	z.Lifetime = a.Lifetime.join(b.Lifetime)
	z.Cancelled = z.Cancelled[:0].union(a.Cancelled, b.Cancelled)
	z.Forgotten = z.Forgotten[:0].union(a.Forgotten, b.Forgotten)
	z.Erased = false
}

// merger merges the content of two deltas, with
//
//	live = (A∩B) ∪ {d ∈ A: B does not kill d} ∪ {d ∈ B: A does not kill d}
//
// above base, the base of the result.
type merger struct {
	a, b           *Delta
	aKills, bKills bool // whether the side can kill anything of the other
	base           VV
	lines          *arena
}

func (m *merger) needed(d Dot) bool { return len(m.base) > 0 && m.base.Has(d) }

func (m *merger) keepA(d Dot) bool { return !(m.bKills && m.b.kills(d)) && !m.needed(d) }
func (m *merger) keepB(d Dot) bool { return !(m.aKills && m.a.kills(d)) && !m.needed(d) }

// dotted is what lives under the dot of its event.
type dotted interface{ dot() Dot }

func mergeDotted[S ~[]E, E dotted](m *merger, z, a, b S) S {
	for len(a) > 0 && len(b) > 0 {
		x, y := a[0].dot(), b[0].dot()
		switch {
		case x == y: // in both intervals, which then touch: not below the base of the result
			z, a, b = append(z, a[0]), a[1:], b[1:]
		case x.Compare(y) < 0:
			if m.keepA(x) {
				z = append(z, a[0])
			}
			a = a[1:]
		default:
			if m.keepB(y) {
				z = append(z, b[0])
			}
			b = b[1:]
		}
	}
	for i := range a {
		if m.keepA(a[i].dot()) {
			z = append(z, a[i])
		}
	}
	for i := range b {
		if m.keepB(b[i].dot()) {
			z = append(z, b[i])
		}
	}
	return z
}

func (m *merger) mergeLines(z []*Line) []*Line {
	a, b := m.a.Lines, m.b.Lines
	if cap(z) < max(len(a), len(b)) {
		z = make([]*Line, 0, max(len(a), len(b))+min(len(b), 1))
	}
	for len(a) > 0 && len(b) > 0 {
		if a[0] == b[0] {
			z, a, b = append(z, a[0]), a[1:], b[1:]
			continue
		}
		switch c := strings.Compare(a[0].Key, b[0].Key); {
		case c < 0:
			z, a = append(z, m.keepLine(a[0], m.bKills, m.keepA)), a[1:]
		case c > 0:
			z, b = append(z, m.keepLine(b[0], m.aKills, m.keepB)), b[1:]
		default:
			z, a, b = append(z, m.mergeLine(a[0], b[0])), a[1:], b[1:]
		}
	}
	if !m.bKills && len(m.base) == 0 {
		z, a = append(z, a...), nil
	}
	for _, l := range a {
		z = append(z, m.keepLine(l, m.bKills, m.keepA))
	}
	for _, l := range b {
		z = append(z, m.keepLine(l, m.aKills, m.keepB))
	}
	return z
}

func (m *merger) mergeLine(a, b *Line) *Line {
	if len(m.base) == 0 && a.same(b) {
		return a
	}
	z := m.lines.new()
	z.Key = a.Key
	z.First = leastKnown(a.First, b.First)
	z.Counter = mergeDotted(m, z.Counter[:0], a.Counter, b.Counter)
	z.Registers = m.mergeRegisters(z.Registers[:0], a.Registers, b.Registers)
	return z
}

// same reports whether l and o, of one key, hold the same events. Entries of one dot are equal, and
// so are writes of one register with one stamp: nothing else has to be looked at.
func (l *Line) same(o *Line) bool {
	if l.First != o.First || len(l.Counter) != len(o.Counter) || len(l.Registers) != len(o.Registers) {
		return false
	}
	for i := range l.Counter {
		if l.Counter[i].Dot != o.Counter[i].Dot {
			return false
		}
	}
	for i := range l.Registers {
		if l.Registers[i].Stamp != o.Registers[i].Stamp || l.Registers[i].Name != o.Registers[i].Name {
			return false
		}
	}
	return true
}

// keepLine returns l, which only one side has, without what the other kills.
func (m *merger) keepLine(l *Line, kills bool, keep func(Dot) bool) *Line {
	if !kills && len(m.base) == 0 {
		return l
	}
	kept := 0
	for i := range l.Counter {
		if keep(l.Counter[i].Dot) {
			kept++
		}
	}
	if kept == len(l.Counter) {
		return l
	}
	z := m.lines.new()
	z.Key, z.First = l.Key, l.First
	z.Counter = z.Counter[:0]
	for i := range l.Counter {
		if keep(l.Counter[i].Dot) {
			z.Counter = append(z.Counter, l.Counter[i])
		}
	}
	z.Registers = m.mergeRegisters(z.Registers[:0], l.Registers, nil)
	return z
}

// aAsIs reports whether what only a holds stays as it is and may be shared with the result.
func (m *merger) aAsIs() bool { return m.lines == nil && !m.bKills && len(m.base) == 0 }

func (m *merger) mergeMembers(z Set) Set {
	if len(m.b.Members) == 0 && m.aAsIs() {
		return m.a.Members
	}
	return mergeDotted(m, z, m.a.Members, m.b.Members)
}

func (m *merger) mergeRegisters(z, a, b Registers) Registers {
	if len(b) == 0 && m.lines == nil {
		return a
	}
	return z.join(a, b)
}

func (m *merger) mergeOperations(z Operations) Operations {
	a, b := m.a.Operations, m.b.Operations
	if len(m.a.Forgotten) == 0 && len(m.b.Forgotten) == 0 && m.aAsIs() {
		return insertOperations(a, b)
	}
	for len(a) > 0 || len(b) > 0 {
		c := -1
		switch {
		case len(a) == 0:
			c = 1
		case len(b) > 0:
			c = a[0].compare(b[0])
		}
		var o Operation
		var keep bool
		switch {
		case c < 0:
			o, keep, a = a[0], !m.b.covers(a[0].Dot), a[1:]
		case c > 0:
			o, keep, b = b[0], !m.a.covers(b[0].Dot), b[1:]
		default:
			o, keep = a[0], true
			o.Spent = a[0].Spent || b[0].Spent
			a, b = a[1:], b[1:]
		}
		if keep && !m.needed(o.Dot) && !m.a.Forgotten.Has(o.Dot) && !m.b.Forgotten.Has(o.Dot) {
			o.Spent = o.Spent || m.a.Cancelled.Has(o.Dot) || m.b.Cancelled.Has(o.Dot)
			z = append(z, o)
		}
	}
	return z
}

// insertOperations is mergeOperations where all of a stays as it is and nothing is forgotten: no event of
// b is in a, so the few records of b find their places among the many of a.
func insertOperations(a, b Operations) Operations {
	if len(b) == 0 {
		return a
	}
	z := make(Operations, 0, len(a)+len(b))
	for _, o := range b {
		i, _ := slices.BinarySearchFunc(a, o, Operation.compare)
		z = append(append(z, a[:i]...), o)
		a = a[i:]
	}
	return append(z, a...)
}

// arena hands out lines whose storage is used again after a reset of used. A nil arena allocates.
type arena struct {
	lines []*Line
	used  int
}

func (a *arena) new() *Line {
	if a == nil {
		return new(Line)
	}
	if a.used == len(a.lines) {
		a.lines = append(a.lines, new(Line))
	}
	a.used++
	return a.lines[a.used-1]
}
