package crdt

import "slices"

// Event describes the event that a command is about to become: who makes it, when, and what its
// author had observed. Its methods are the delta-mutators; each returns the delta of the one event
// that it makes and leaves s as it is.
type Event struct {
	Replica   ReplicaID
	At        Timestamp   // greater than every timestamp in the state
	Operation OperationID // zero: none
	Context   VV          // what the author had observed; see Narrowed
	Narrowed  bool        // whether only Context and Also were observed, or else the whole state
	Also      Dots        // observed beyond Context: the earlier commands of the same request
}

func (e Event) observed(d Dot) bool {
	return !e.Narrowed || e.Context.Has(d) || len(e.Also) > 0 && e.Also.Has(d)
}

// begin returns the delta of an event that has no effect yet. It needs only its author's earlier
// events.
func (e Event) begin(s *State) (*Delta, Dot) {
	dot := s.VV.Next(e.Replica)
	d := &Delta{}
	d.VV = VV{dot}
	if dot.Seq > 1 {
		d.Base = VV{{dot.Replica, dot.Seq - 1}}
	}
	d.Lifetime.Updated = e.At
	if e.Operation != (OperationID{}) {
		d.Operations = Operations{{ID: e.Operation, Dot: dot, At: e.At, Spent: true}}
	}
	return d, dot
}

// needAll makes a delta need everything that its author had: for events that cancel, or whose
// effect was measured by what was there.
func (d *Delta) needAll(s *State, dot Dot) {
	d.Base = s.VV
	d.VV = s.VV.With(dot)
}

// put makes entry the delta's entry on the line of key.
func (d *Delta) put(key string, at Timestamp, entry Entry) {
	d.Lines = []*Line{{Key: key, First: at, Counter: Counter{entry}}}
	if len(d.Operations) > 0 {
		d.Operations[0].Spent = false
	}
}

func (d *Delta) cancel(s *State, dot Dot, cancelled Dots) {
	if len(cancelled) > 0 {
		d.needAll(s, dot)
		slices.SortFunc(cancelled, Dot.Compare)
		d.Cancelled = cancelled
	}
}

// observedOf returns the dots of key's line that the author observed.
func (e Event) observedOf(s *State, key string) Dots {
	var dots Dots
	if l := s.Line(key); l != nil {
		for i := range l.Counter {
			if e.observed(l.Counter[i].Dot) {
				dots = append(dots, l.Counter[i].Dot)
			}
		}
	}
	return dots
}

// Add adds n ≥ 1 to a line. Where concurrent decrements left the line below zero it cancels all of
// it first: a debt never swallows a later add.
func (e Event) Add(s *State, key string, n int64) *Delta {
	d, dot := e.begin(s)
	d.put(key, e.At, Entry{Dot: dot, N: n})
	if l := s.Line(key); l != nil && l.Counter.sum(s.Counts) < 0 {
		d.cancel(s, dot, Event{}.observedOf(s, key))
	}
	return d
}

// Assign sets a line to n ≥ 1 and cancels what the author observed of it.
func (e Event) Assign(s *State, key string, n int64) *Delta {
	d, dot := e.begin(s)
	d.put(key, e.At, Entry{Dot: dot, N: n, At: e.At, Kind: Assignment})
	d.cancel(s, dot, e.observedOf(s, key))
	return d
}

// Decrement takes n ≥ 1 off a line, of which the author observed a quantity q. Where n ≥ q it
// removes the line; under an operation id it never does, because its alias might have met another
// quantity, but takes off min(n, q).
func (e Event) Decrement(s *State, key string, n int64) *Delta {
	q := e.Quantity(s, key)
	aliased := e.Operation != (OperationID{})
	if n >= q && !aliased {
		return e.Remove(s, key)
	}
	d, dot := e.begin(s)
	d.needAll(s, dot)
	if q > 0 {
		d.put(key, e.At, Entry{Dot: dot, N: -min(n, q)})
	}
	return d
}

// Remove cancels what the author observed of a line.
func (e Event) Remove(s *State, key string) *Delta {
	d, dot := e.begin(s)
	d.cancel(s, dot, e.observedOf(s, key))
	return d
}

// Clear cancels what the author observed of all lines.
func (e Event) Clear(s *State) *Delta {
	d, dot := e.begin(s)
	var dots Dots
	for _, l := range s.Lines {
		dots = append(dots, e.observedOf(s, l.Key)...)
	}
	d.cancel(s, dot, dots)
	return d
}

// Insert puts value into the set, in place of the members of that value that the author observed.
func (e Event) Insert(s *State, value string) *Delta {
	d := e.Discard(s, value)
	dot := s.VV.Next(e.Replica)
	d.Members = Set{{Dot: dot, Value: value}}
	if len(d.Operations) > 0 {
		d.Operations[0].Spent = false
	}
	return d
}

// Discard removes value from the set, as far as the author observed it.
func (e Event) Discard(s *State, value string) *Delta {
	d, dot := e.begin(s)
	var dots Dots
	for _, m := range s.Members {
		if m.Value == value && e.observed(m.Dot) {
			dots = append(dots, m.Dot)
		}
	}
	d.cancel(s, dot, dots)
	return d
}

// Touch returns an event without an entry, to which registers can be added.
func (e Event) Touch(s *State) *Delta {
	d, _ := e.begin(s)
	return d
}

// Quantity returns the quantity of a line, counted over what the author observed alone.
func (e Event) Quantity(s *State, key string) int64 {
	l := s.Line(key)
	if l == nil {
		return 0
	}
	if !e.Narrowed {
		return s.Quantity(l)
	}
	muted := s.Operations.muted(e.observed)
	return max(0, l.Counter.sum(func(d Dot) bool { return e.observed(d) && !muted.Has(d) }))
}

// Write makes the event d, which e made, write a register of the state, or delete it.
func (e Event) Write(d *Delta, name, value string, deleted bool) {
	d.Registers = d.Registers.put(e.register(d, name, value, deleted))
}

// WriteLine makes the event d, which e made, write a register of the line of key, or delete it.
func (e Event) WriteLine(d *Delta, key, name, value string, deleted bool) {
	i, ok := findLine(d.Lines, key)
	if !ok {
		d.Lines = slices.Insert(d.Lines, i, &Line{Key: key})
	}
	l := d.Lines[i]
	l.Registers = l.Registers.put(e.register(d, name, value, deleted))
}

func (e Event) register(d *Delta, name, value string, deleted bool) Register {
	dot := Dot{e.Replica, d.VV.Get(e.Replica)}
	return Register{Name: name, Value: value, Deleted: deleted, Stamp: Stamp{e.At, dot}}
}

// Forget makes the event d, which e made on s, forget the operations all of whose records are
// spent or have a spent alias and are older than before. Their live aliases, which do not count,
// are cancelled, so that none begins to.
func (e Event) Forget(s *State, d *Delta, before Timestamp) {
	var forgotten, cancelled Dots
	for o := s.Operations; len(o) > 0; {
		group := o[:o.aliases()]
		o = o[len(group):]
		spent := slices.ContainsFunc(group, func(a Operation) bool { return a.Spent })
		recent := slices.ContainsFunc(group, func(a Operation) bool { return a.At >= before })
		if !spent || recent {
			continue
		}
		for _, a := range group {
			forgotten = append(forgotten, a.Dot)
			if !a.Spent {
				cancelled = append(cancelled, a.Dot)
			}
		}
	}
	if len(forgotten) == 0 {
		return
	}
	slices.SortFunc(forgotten, Dot.Compare)
	slices.SortFunc(cancelled, Dot.Compare)
	d.needAll(s, Dot{e.Replica, d.VV.Get(e.Replica)})
	d.Forgotten = forgotten
	d.Cancelled = Dots(nil).union(d.Cancelled, cancelled)
}
