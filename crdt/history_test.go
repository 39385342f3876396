package crdt

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestMain makes random tests somewhat longer than they are by default. Flags on the command line
// still decide: -rapid.checks, -rapid.steps, and -rapid.seed to see a failure again.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{"rapid.checks": "200", "rapid.steps": "40"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	m.Run()
}

// TestHistories lets random histories happen to the production code and to the model: commands at
// several replicas, retries elsewhere, contexts, deltas lost, repeated, reordered and merged, full
// states, memory loss. Both have to agree after every step, and to converge.
func TestHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(t)
		t.Repeat(h.actions(h.check))
		h.converge()
		h.check(t)
		for _, name := range h.names {
			if h.encoding(name) != h.encoding(h.names[0]) {
				t.Fatalf("%s and %s did not converge", name, h.names[0])
			}
		}
	})
}

// history is what happened so far.
type history struct {
	*production
	model    *model
	names    []string // of the replicas and of a store
	replicas []string
	log      []string // the events, in the order in which they happened
	authored []*State // the state of the author after each
	contexts []string
	retries  map[string]command // by operation
	fresh    ReplicaID
}

func newHistory(t *rapid.T) *history {
	h := &history{
		replicas: []string{"r1", "r2", "r3", "r4"}, retries: map[string]command{}, fresh: 10,
	}
	h.replicas = h.replicas[:rapid.IntRange(3, 4).Draw(t, "replicas")]
	h.names = append(h.names, h.replicas...)
	h.names = append(h.names, "db")
	ids := map[string]ReplicaID{"db": 0}
	for i, name := range h.replicas {
		ids[name] = ReplicaID(i + 1)
	}
	h.production, h.model = newProduction(t, ids), newModel(ids)
	return h
}

// actions returns what can happen, and what is checked after each.
func (h *history) actions(check func(*rapid.T)) map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"":       check,
		"read":   h.drawRead,
		"delta":  h.drawDelta,
		"outbox": h.drawOutbox,
		"state": func(t *rapid.T) {
			from, to := h.drawName(t, "from"), h.drawName(t, "to")
			t.Logf("%s joins %s", to, from)
			h.joinBoth(from, to)
		},
		"restart": func(t *rapid.T) {
			at := h.drawReplica(t)
			h.fresh++
			t.Logf("%s restarts as %d", at, h.fresh)
			h.restart(at, h.fresh)
			h.model.restart(at, h.fresh)
			if rapid.Bool().Draw(t, "snapshot") {
				h.joinBoth("db", at)
			}
		},
		"retry": func(t *rapid.T) {
			if len(h.retries) == 0 {
				t.Skip()
			}
			c := h.retries[rapid.SampledFrom(slices.Sorted(maps.Keys(h.retries))).Draw(t, "operation")]
			h.execute(t, c)
		},
	}
	for _, do := range []string{"add", "set", "decrement", "remove", "clear", "insert", "discard", "touch"} {
		actions[do] = func(t *rapid.T) { h.execute(t, h.drawCommand(t, do)) }
	}
	return actions
}

func (h *history) drawName(t *rapid.T, label string) string {
	return rapid.SampledFrom(h.names).Draw(t, label)
}

func (h *history) drawReplica(t *rapid.T) string { return rapid.SampledFrom(h.replicas).Draw(t, "at") }

func oneOf(t *rapid.T, label string, values ...string) string {
	return rapid.SampledFrom(values).Draw(t, label)
}

// drawCommand draws what the command's client says of it.
func (h *history) drawCommand(t *rapid.T, do string) command {
	c := command{
		Do:        do,
		Line:      oneOf(t, "line", "A", "B", "C"),
		N:         rapid.Int64Range(1, 4).Draw(t, "n"),
		Operation: oneOf(t, "operation", "", "", "p1", "p2", "p3", "p4"),
		value:     oneOf(t, "value", "x", "y"),
	}
	for _, w := range []write{
		{name: oneOf(t, "register", "", "", "", "note", "name")},
		{line: c.Line, name: oneOf(t, "line register", "", "", "price", "title")},
	} {
		if w.name != "" {
			w.value, w.deleted = oneOf(t, "to", "1", "2", ""), rapid.Bool().Draw(t, "deleted")
			if w.deleted {
				w.value = ""
			}
			c.writes = append(c.writes, w)
		}
	}
	return c
}

// execute executes c somewhere, under a context or not, by a clock that may be wrong.
func (h *history) execute(t *rapid.T, c command) {
	c.At = h.drawReplica(t)
	c.Event = fmt.Sprintf("e%d", len(h.log)+1)
	s := h.states[c.At]
	clock := rapid.Int64Range(0, 9).Draw(t, "clock")
	c.TS = s.Lifetime.Updated.Next(time.UnixMilli(clock))
	if len(h.contexts) > 0 && rapid.Bool().Draw(t, "narrowed") {
		c.Context = rapid.SampledFrom(h.contexts).Draw(t, "context")
		if own := s.VV.Get(h.ids[c.At]); own > 0 && rapid.Bool().Draw(t, "also the last") {
			c.also = c.also.With(Dot{h.ids[c.At], own})
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "dated") == 0 {
		c.lifetime = Lifetime{Created: c.TS, Expires: c.TS + Timestamp(clock)<<20}
	}
	if rapid.IntRange(0, 5).Draw(t, "forgetful") == 0 {
		c.forget = c.TS - min(c.TS, Timestamp(rapid.Int64Range(0, 5).Draw(t, "for"))<<logicalBits)
	}
	t.Logf("%+v", c)
	dot, executed := h.command(c)
	wantDot, wantExecuted := h.model.command(c)
	if executed != wantExecuted || dot != wantDot {
		t.Fatalf("%+v: %v (%t), want %v (%t)", c, dot, executed, wantDot, wantExecuted)
	}
	if !executed {
		return
	}
	h.log = append(h.log, c.Event)
	h.authored = append(h.authored, h.states[c.At])
	if c.Operation != "" {
		h.retries[c.Operation] = c
	}
}

func (h *history) drawRead(t *rapid.T) {
	at, as := h.drawName(t, "at"), fmt.Sprintf("t%d", len(h.contexts)+1)
	t.Logf("%s read as %s", at, as)
	h.read(at, as)
	h.model.read(at, as)
	h.contexts = append(h.contexts, as)
}

// drawOutbox sends what a peer's outbox merged: events in the order in which they happened, with
// holes where a delta was lost.
func (h *history) drawOutbox(t *rapid.T) {
	if len(h.log) == 0 {
		t.Skip()
	}
	first := rapid.IntRange(0, len(h.log)-1).Draw(t, "first")
	last := min(len(h.log), first+rapid.IntRange(1, 6).Draw(t, "events"))
	events := slices.Clone(h.log[first:last])
	if lost := rapid.IntRange(-6, len(events)-1).Draw(t, "lost"); lost >= 0 && len(events) > 1 {
		events = slices.Delete(events, lost, lost+1)
	}
	h.send(t, events, true)
}

// drawDelta sends any events in any order.
func (h *history) drawDelta(t *rapid.T) {
	if len(h.log) == 0 {
		t.Skip()
	}
	h.send(t, rapid.SliceOfN(rapid.SampledFrom(h.log), 1, 3).Draw(t, "events"), false)
}

// send delivers a delta. The production code may need less than the model, where an event cancels
// nothing, but no more: unless the events were merged out of order.
func (h *history) send(t *rapid.T, events []string, ordered bool) {
	to := h.drawName(t, "to")
	joined := h.deliver(events, to)
	t.Logf("%s joins %v: %t", to, events, joined)
	if !joined && (ordered || len(events) == 1) && h.model.joins(events, to) {
		t.Fatalf("%s refused %v", to, events)
	}
	if joined {
		h.model.take(events, to)
	}
}

func (h *history) joinBoth(from, to string) {
	h.join(from, to)
	h.model.join(from, to)
}

func (h *history) converge() {
	for range 2 {
		for _, from := range h.names {
			for _, to := range h.names {
				h.joinBoth(from, to)
			}
		}
	}
}

// check compares the production code with the model, and replicas that hold the same events.
func (h *history) check(t *rapid.T) {
	for i, at := range h.names {
		s := h.states[at]
		same(t, at, "vv", h.vv(at), h.model.vv(at))
		same(t, at, "shown", h.shown(at), h.model.shown(at))
		same(t, at, "operations", recorded(s), h.model.operations(at))
		same(t, at, "registers", written(s), h.model.registers(at))
		same(t, at, "members", members(s), h.model.members(at))
		if s.Lifetime != h.model.lifetime(at) {
			t.Fatalf("%s: lifetime %v, want %v", at, s.Lifetime, h.model.lifetime(at))
		}
		checkOrder(t, s, h.model.firsts(at))
		for _, other := range h.names[:i] {
			if maps.Equal(h.vv(at), h.vv(other)) && h.encoding(at) != h.encoding(other) {
				t.Fatalf("%s and %s hold the same events, but differ", at, other)
			}
		}
	}
}

func same[K, V comparable](t *rapid.T, at, what string, got, want map[K]V) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Fatalf("%s: %s %v, want %v", at, what, got, want)
	}
}

func recorded(s *State) map[Dot]bool {
	operations := map[Dot]bool{}
	for _, o := range s.Operations {
		operations[o.Dot] = o.Spent
	}
	return operations
}

func members(s *State) map[string]bool {
	members := map[string]bool{}
	for _, m := range s.Members {
		members[m.Value] = s.Members.Has(m.Value)
	}
	return members
}

// written returns the registers that show a value, "line/name" → value.
func written(s *State) map[string]string {
	registers := map[string]string{}
	add := func(line string, rs Registers) {
		for _, r := range rs {
			if v, ok := rs.Get(r.Name); ok {
				registers[line+"/"+r.Name] = v
			}
		}
	}
	add("", s.Registers)
	for _, l := range s.Lines {
		add(l.Key, l.Registers)
	}
	return registers
}

// checkOrder checks that the lines are displayed by the time of their first entry, then by key.
func checkOrder(t *rapid.T, s *State, firsts map[string]Timestamp) {
	want := slices.SortedFunc(maps.Keys(firsts), func(a, b string) int {
		return cmp.Or(cmp.Compare(firsts[a], firsts[b]), cmp.Compare(a, b))
	})
	var got []string
	for l := range s.Ordered() {
		got = append(got, l.Key)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("order %v, want %v", got, want)
	}
}
