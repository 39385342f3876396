package sim

import (
	"fmt"
	"math/bits"
	"slices"

	"cartd/crdt"
)

// model is what a cart means, as the rules are written: by which events see which. It keeps every event
// with all that its author knew, never compressed, cancelled or changed, and has no lattice, no delta and
// no dot store. What a replica has to show follows from the set of events that it has.
type model struct {
	events   []event
	replicas map[crdt.ReplicaID][]int // indexes of events, by sequence number from 1
}

// event is one accepted command.
type event struct {
	dot       crdt.Dot
	kind      kind
	line      string // or the discount code, where it is about one
	n         int64  // of the entry
	entry     bool   // it has one
	at        crdt.Timestamp
	operation string // "" is none
	kills     set    // the entries that it cancels
}

// kind is a kind of command.
type kind string

const (
	create    kind = "create"
	add       kind = "add"
	assign    kind = "set"
	decrement kind = "decrement"
	remove    kind = "remove"
	clean     kind = "clear"
	putCode   kind = "code"
	dropCode  kind = "drop-code"
)

func (k kind) aboutCode() bool { return k == putCode || k == dropCode }

// set is a set of events, by their indexes.
type set []uint64

func (s set) has(i int) bool { return i/64 < len(s) && s[i/64]>>(i%64)&1 != 0 }

func (s set) with(i int) set {
	for len(s) <= i/64 {
		s = append(s, 0)
	}
	s[i/64] |= 1 << (i % 64)
	return s
}

func (s set) union(o set) set {
	z := slices.Clone(s)
	for len(z) < len(o) {
		z = append(z, 0)
	}
	for i := range o {
		z[i] |= o[i]
	}
	return z
}

// less returns what is in s and not in o.
func (s set) less(o set) set {
	z := slices.Clone(s)
	for i := range min(len(z), len(o)) {
		z[i] &^= o[i]
	}
	return z
}

func (s set) within(o set) bool { return s.less(o).len() == 0 }

func (s set) len() (n int) {
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

// each calls f with each index.
func (s set) each(f func(i int)) {
	for k, word := range s {
		for ; word != 0; word &= word - 1 {
			f(64*k + bits.TrailingZeros64(word))
		}
	}
}

// eventsOf returns the events of a version vector above another one.
func (m *model) eventsOf(base, end crdt.VV) (s set, err error) {
	for _, d := range end {
		known := m.replicas[d.Replica]
		if uint64(len(known)) < d.Seq {
			return nil, fmt.Errorf("event %d of replica %016x was never made", d.Seq, uint64(d.Replica))
		}
		for _, i := range known[min(base.Get(d.Replica), d.Seq):d.Seq] {
			s = s.with(i)
		}
	}
	return s, nil
}

// knows reports whether all events of a version vector were made.
func (m *model) knows(vv crdt.VV) bool {
	for _, d := range vv {
		if uint64(len(m.replicas[d.Replica])) < d.Seq {
			return false
		}
	}
	return true
}

// list writes events, one a line.
func (m *model) list(s set) (list string) {
	s.each(func(i int) { list += "\n\t" + m.events[i].String() })
	return list
}

// lacking writes the events of a vector that another one does not have.
func (m *model) lacking(has, of crdt.VV) string {
	all, _ := m.eventsOf(nil, of)
	some, _ := m.eventsOf(nil, has)
	return m.list(all.less(some))
}

// reading is what a set of events comes to.
type reading struct {
	m       *model
	visible set
	dead    set             // entries that are cancelled
	spent   map[string]bool // operations one of whose aliases is
	twins   bool            // ignore that a retry counts once: what a wrong implementation would show
}

func (m *model) read(visible set) reading {
	r := reading{m: m, visible: visible, spent: map[string]bool{}}
	visible.each(func(i int) { r.dead = r.dead.union(m.events[i].kills) })
	visible.each(func(i int) {
		if e := &m.events[i]; e.operation != "" && (!e.entry || r.dead.has(i)) {
			r.spent[e.operation] = true
		}
	})
	return r
}

// counts reports whether an event stands for its operation among those observed.
func (r reading) counts(i int, observed set) bool {
	e := &r.m.events[i]
	if !e.entry || r.dead.has(i) {
		return false
	}
	if e.operation == "" || r.twins {
		return true
	}
	if r.spent[e.operation] {
		return false
	}
	first := true
	observed.each(func(k int) {
		if o := &r.m.events[k]; o.operation == e.operation && o.dot.Compare(e.dot) < 0 {
			first = false
		}
	})
	return first
}

// raw returns the quantity of a line over the observed events, which may be below zero.
func (r reading) raw(line string, observed set) int64 {
	var sum int64
	var assigned *event
	observed.each(func(i int) {
		e := &r.m.events[i]
		switch {
		case e.kind.aboutCode() || e.line != line || !r.counts(i, observed):
		case e.kind != assign:
			sum += e.n
		case assigned == nil || e.at > assigned.at || e.at == assigned.at && e.dot.Compare(assigned.dot) > 0:
			assigned = e
		}
	})
	if assigned != nil {
		sum += assigned.n
	}
	return sum
}

// lines returns what is in the cart.
func (r reading) lines() map[string]int64 {
	lines := map[string]int64{}
	r.visible.each(func(i int) {
		e := &r.m.events[i]
		if _, done := lines[e.line]; e.entry && !e.kind.aboutCode() && !done {
			lines[e.line] = max(0, r.raw(e.line, r.visible))
		}
	})
	for line, n := range lines {
		if n == 0 {
			delete(lines, line)
		}
	}
	return lines
}

// codes returns the discount codes in the cart.
func (r reading) codes() map[string]bool {
	codes := map[string]bool{}
	r.visible.each(func(i int) {
		if e := &r.m.events[i]; e.kind == putCode && r.counts(i, r.visible) {
			codes[e.line] = true
		}
	})
	return codes
}

// author is who makes an event, and what of the cart it knows.
type author struct {
	replica  crdt.ReplicaID
	seen     set
	narrowed bool
	context  set // what the client has seen, where narrowed
}

// execute makes the event of a command, or none, where the command does nothing or was executed before.
func (m *model) execute(by *author, c command, operation string, at func(crdt.Dot) crdt.Timestamp) {
	if operation != "" {
		known := false
		by.seen.each(func(i int) {
			if m.events[i].operation == operation {
				known = true
				by.context = by.context.with(i) // its outcome is observed by the steps after it
			}
		})
		if known {
			return
		}
	}
	r := m.read(by.seen)
	observed := by.seen
	if by.narrowed {
		observed = by.seen.less(by.seen.less(by.context))
	}
	e := event{kind: c.kind, line: c.line, n: c.n, operation: operation}
	live := func(in set, about func(*event) bool) (s set) {
		in.less(r.dead).each(func(i int) {
			if x := &m.events[i]; x.entry && about(x) {
				s = s.with(i)
			}
		})
		return s
	}
	ofLine := func(x *event) bool { return !x.kind.aboutCode() && x.line == c.line }
	ofCode := func(x *event) bool { return x.kind.aboutCode() && x.line == c.line }
	changes := true
	switch c.kind {
	case add:
		e.entry = true
		if r.raw(c.line, by.seen) < 0 {
			e.kills = live(by.seen, ofLine)
		}
	case assign:
		if e.entry = c.n > 0; !e.entry {
			e.kind = remove
			changes = r.raw(c.line, by.seen) > 0
		}
		e.kills = live(observed, ofLine)
	case decrement:
		changes = r.raw(c.line, by.seen) > 0
		q := max(0, r.raw(c.line, observed))
		if operation == "" && q <= c.n {
			e.kills = live(observed, ofLine)
		} else {
			e.n = -min(c.n, q)
			e.entry = q > 0
		}
	case remove:
		changes = r.raw(c.line, by.seen) > 0
		e.kills = live(observed, ofLine)
	case clean:
		changes = len(r.lines()) > 0
		e.kills = live(observed, func(x *event) bool { return !x.kind.aboutCode() })
	case putCode:
		e.entry = true
		e.kills = live(by.seen, ofCode)
	case dropCode:
		changes = live(by.seen, ofCode).len() > 0
		e.kills = live(observed, ofCode)
	}
	if !changes && operation == "" {
		return
	}
	known := m.replicas[by.replica]
	e.dot = crdt.Dot{Replica: by.replica, Seq: uint64(len(known)) + 1}
	if e.at = at(e.dot); e.at == 0 { // a later step has cancelled it: it was after all that its author saw
		by.seen.each(func(i int) { e.at = max(e.at, m.events[i].at+1) })
	}
	i := len(m.events)
	m.events = append(m.events, e)
	m.replicas[by.replica] = append(known, i)
	by.seen = slices.Clone(by.seen).with(i)
	by.context = slices.Clone(by.context).with(i)
}

func (e *event) String() string {
	s := fmt.Sprintf("%s %s %d at %016x:%d", e.kind, e.line, e.n, uint64(e.dot.Replica), e.dot.Seq)
	if e.operation != "" {
		s += " as " + e.operation
	}
	return s
}
