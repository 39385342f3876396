package crdt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestModel plays the conformance vectors on the model.
func TestModel(t *testing.T) {
	for file, scripts := range vectors(t) {
		for _, s := range scripts {
			if err := s.run(newModel(s.ids()), everything); err != nil {
				t.Errorf("%s: %s: %v", file, s.Name, err)
			}
		}
	}
}

// happened is one event with all that its author knew. It is never compressed, cancelled or
// changed: what it means follows from who sees it.
type happened struct {
	kind      string
	dot       Dot
	at        Timestamp
	line      string
	n         int64 // of the entry; 0: there is none
	value     string
	operation string
	writes    []write
	lifetime  Lifetime

	seen     events // what its author had
	observed events // what its author's client had observed of that, and was live
	clears   bool   // whether it cancels what it observed of its line, value or everything
	forgets  events // whose operation records it drops, and whose entries it cancels
}

type events map[*happened]bool

// cancels reports whether e cancels the entry or member of x.
func (e *happened) cancels(x *happened) bool {
	if e.forgets[x] {
		return true
	}
	if !e.clears || !e.observed[x] {
		return false
	}
	switch e.kind {
	case "clear":
		return x.kind != "insert"
	case "insert", "discard":
		return x.kind == "insert" && x.value == e.value
	}
	return x.kind != "insert" && x.line == e.line
}

// dead reports whether a visible event cancelled x, or x never made an entry.
func (v events) dead(x *happened) bool {
	if x.n == 0 {
		return true
	}
	for e := range v {
		if e.cancels(x) {
			return true
		}
	}
	return false
}

func (v events) forgotten(x *happened) bool {
	for e := range v {
		if e.forgets[x] {
			return true
		}
	}
	return false
}

// aliases returns the visible events of one operation that were not forgotten.
func (v events) aliases(operation string) []*happened {
	if operation == "" {
		return nil
	}
	var aliases []*happened
	for x := range v {
		if x.operation == operation && !v.forgotten(x) {
			aliases = append(aliases, x)
		}
	}
	return aliases
}

// counts reports whether x is live and stands for its operation, among the observed aliases.
func (v events) counts(x *happened, observed events) bool {
	if v.dead(x) {
		return false
	}
	for _, a := range v.aliases(x.operation) {
		if v.dead(a) || observed[a] && a.dot.Compare(x.dot) < 0 {
			return false
		}
	}
	return true
}

// raw returns the quantity of a line over the observed events, which may be below zero.
func (v events) raw(line string, observed events) int64 {
	var sum int64
	var assigned *happened
	for x := range observed {
		switch {
		case x.line != line || x.kind == "insert" || !v.counts(x, observed):
		case x.kind != "set":
			sum += x.n
		case assigned == nil || x.at > assigned.at || x.at == assigned.at && x.dot.Compare(assigned.dot) > 0:
			assigned = x
		}
	}
	if assigned != nil {
		sum += assigned.n
	}
	return sum
}

// model is an observed-remove state by visibility of events alone, as the rules are written. It
// has no dot store and no deltas: a replica is the set of events that it has.
type model struct {
	ids      map[string]ReplicaID
	visible  map[string]events
	happened map[string]*happened // by name
	contexts map[string]events
}

func newModel(ids map[string]ReplicaID) *model {
	m := &model{maps.Clone(ids), map[string]events{}, map[string]*happened{}, map[string]events{}}
	for name := range ids {
		m.visible[name] = events{}
	}
	return m
}

func (m *model) command(c command) (Dot, bool) {
	v, id := m.visible[c.At], m.ids[c.At]
	if len(v.aliases(c.Operation)) > 0 {
		return Dot{}, false
	}
	e := &happened{
		kind: c.Do, dot: Dot{id, m.vv(c.At)[id] + 1}, at: c.TS,
		line: c.Line, value: c.value, operation: c.Operation, writes: c.writes, lifetime: c.lifetime,
		seen: maps.Clone(v), observed: maps.Clone(v), forgets: events{},
	}
	if c.Context != "" {
		maps.DeleteFunc(e.observed, func(x *happened, _ bool) bool {
			return !m.contexts[c.Context][x] && !slices.Contains(c.also, x.dot)
		})
	}
	q := max(0, v.raw(c.Line, e.observed))
	if c.Do == "add" && v.raw(c.Line, v) < 0 {
		e.clears, e.observed = true, maps.Clone(v)
	}
	// What is dead already makes no difference where all of seen is there. An event that cancels
	// nothing is joined without that, and must cancel nothing there either.
	maps.DeleteFunc(e.observed, func(x *happened, _ bool) bool { return v.dead(x) })
	switch c.Do {
	case "add":
		e.n = c.N
	case "set":
		e.n, e.clears = c.N, true
	case "decrement":
		if c.Operation == "" && q <= c.N {
			e.clears = true
		} else {
			e.n = -min(c.N, q)
		}
	case "insert":
		e.n, e.clears = 1, true
	case "remove", "clear", "discard":
		e.clears = true
	}
	for x := range v {
		if x.operation == "" || v.forgotten(x) {
			continue
		}
		aliases := v.aliases(x.operation)
		e.forgets[x] = slices.ContainsFunc(aliases, v.dead) &&
			!slices.ContainsFunc(aliases, func(a *happened) bool { return a.at >= c.forget })
	}
	v[e] = true
	m.happened[c.Event] = e
	return e.dot, true
}

func (m *model) read(at, as string) { m.contexts[as] = maps.Clone(m.visible[at]) }

// joins reports whether a delta of these events has to be joined: all that their authors had seen
// apart from the events themselves is there.
func (m *model) joins(names []string, to string) bool {
	together := maps.Clone(m.visible[to])
	for _, name := range names {
		together[m.happened[name]] = true
	}
	for _, name := range names {
		for x := range m.happened[name].seen {
			if !together[x] {
				return false
			}
		}
	}
	return true
}

func (m *model) deliver(names []string, to string) bool {
	if !m.joins(names, to) {
		return false
	}
	m.take(names, to)
	return true
}

// take makes events visible, whether or not what their authors had seen is.
func (m *model) take(names []string, to string) {
	for _, name := range names {
		m.visible[to][m.happened[name]] = true
	}
}

func (m *model) join(from, to string) { maps.Copy(m.visible[to], m.visible[from]) }

func (m *model) restart(at string, id ReplicaID) { m.ids[at], m.visible[at] = id, events{} }

func (m *model) shown(at string) map[string]int64 {
	shown := map[string]int64{}
	v := m.visible[at]
	for x := range v {
		if x.n != 0 && x.kind != "insert" {
			if n := v.raw(x.line, v); n > 0 {
				shown[x.line] = n
			}
		}
	}
	return shown
}

func (m *model) vv(at string) map[ReplicaID]uint64 {
	vv := map[ReplicaID]uint64{}
	for x := range m.visible[at] {
		vv[x.dot.Replica] = max(vv[x.dot.Replica], x.dot.Seq)
	}
	return vv
}

func (m *model) encoding(at string) string {
	dots := slices.Collect(maps.Keys(m.visible[at]))
	slices.SortFunc(dots, func(x, y *happened) int { return x.dot.Compare(y.dot) })
	var b strings.Builder
	for _, x := range dots {
		fmt.Fprintf(&b, "%p ", x)
	}
	return b.String()
}

// The rest is what the vectors do not ask for.

// members returns the values in the set.
func (m *model) members(at string) map[string]bool {
	members := map[string]bool{}
	for x := range m.visible[at] {
		if x.kind == "insert" && !m.visible[at].dead(x) {
			members[x.value] = true
		}
	}
	return members
}

// registers returns the value that each register shows, "line/name" → value.
func (m *model) registers(at string) map[string]string {
	shown, by := map[string]string{}, map[string]*happened{}
	for x := range m.visible[at] {
		for _, w := range x.writes {
			key := w.line + "/" + w.name
			last := by[key]
			if last != nil && (x.at < last.at || x.at == last.at && x.dot.Compare(last.dot) < 0) {
				continue
			}
			if by[key] = x; w.deleted {
				delete(shown, key)
			} else {
				shown[key] = w.value
			}
		}
	}
	return shown
}

// firsts returns for each line that was ever touched when it got its first entry, or 0.
func (m *model) firsts(at string) map[string]Timestamp {
	firsts := map[string]Timestamp{}
	for x := range m.visible[at] {
		for _, w := range x.writes {
			if w.line != "" {
				firsts[w.line] += 0
			}
		}
	}
	for x := range m.visible[at] {
		if x.n != 0 && x.kind != "insert" && (firsts[x.line] == 0 || x.at < firsts[x.line]) {
			firsts[x.line] = x.at
		}
	}
	return firsts
}

// operations returns the dots with an operation record, and whether it is spent.
func (m *model) operations(at string) map[Dot]bool {
	operations := map[Dot]bool{}
	for x := range m.visible[at] {
		if x.operation != "" && !m.visible[at].forgotten(x) {
			operations[x.dot] = m.visible[at].dead(x)
		}
	}
	return operations
}

func (m *model) lifetime(at string) Lifetime {
	var l Lifetime
	for x := range m.visible[at] {
		if created := x.lifetime.Created; created != 0 && (l.Created == 0 || created < l.Created) {
			l.Created = created
		}
		l.Updated = max(l.Updated, x.at)
		l.Expires = max(l.Expires, x.lifetime.Expires)
	}
	return l
}
