package crdt

import (
	"slices"

	"github.com/vmihailenco/msgpack/v5"
)

// DecodeState decodes the encoding of a state. What is decoded encodes to the same bytes again.
// Every length is bounded by the bytes that are there, or by MaxDots, before anything is allocated.
// Errors wrap ErrMalformed.
func DecodeState(b []byte) (*State, error) {
	r := decoder{reader: reader{b: b}}
	d := r.delta(0)
	if r.end(); r.err != nil {
		return nil, r.err
	}
	s := d.State // without what only a delta has
	s.derive(nil)
	return &s, nil
}

// DecodeDelta decodes the encoding of a delta, under the same rules as DecodeState.
func DecodeDelta(b []byte) (*Delta, error) {
	r := decoder{reader: reader{b: b}}
	d := r.delta(flagDelta)
	if r.end(); r.err != nil {
		return nil, r.err
	}
	return d, nil
}

// DecodeMsgpack reads what EncodeMsgpack wrote.
func (s *State) DecodeMsgpack(dec *msgpack.Decoder) error {
	b, err := dec.DecodeBytes()
	if err != nil {
		return err
	}
	z, err := DecodeState(b)
	if err == nil {
		*s = *z
	}
	return err
}

// DecodeMsgpack reads what EncodeMsgpack wrote.
func (d *Delta) DecodeMsgpack(dec *msgpack.Decoder) error {
	b, err := dec.DecodeBytes()
	if err != nil {
		return err
	}
	z, err := DecodeDelta(b)
	if err == nil {
		*d = *z
	}
	return err
}

// decoder reads what encoder wrote.
type decoder struct {
	reader
	base, vv VV
	names    []string // of registers, each once: lines have the same ones
}

func (r *decoder) end() {
	if len(r.b) > 0 {
		r.fail("%d bytes after the end", len(r.b))
	}
}

func (r *decoder) string() string { return string(r.text()) }

// name reads the name of a register.
func (r *decoder) name() string {
	b := r.text()
	for _, name := range r.names {
		if name == string(b) {
			return name
		}
	}
	name := string(b)
	r.names = append(r.names, name)
	return name
}

// replica returns the last event of the replica at index.
func (r *decoder) replica(index uint64) Dot {
	if index >= uint64(len(r.vv)) {
		r.fail("replica %d of %d", index, len(r.vv))
		return Dot{}
	}
	return r.vv[index]
}

// dotAt returns the dot (index, seq) of an event that the vector holds.
func (r *decoder) dotAt(index, seq uint64) Dot {
	e := r.replica(index)
	if seq == 0 || seq > e.Seq {
		r.fail("event %d of %d", seq, e.Seq)
	}
	return Dot{e.Replica, seq}
}

func (r *decoder) dot() Dot {
	index := r.uint()
	return r.dotAt(index, r.uint())
}

// own refuses a dot that is below the base of a delta: its entry has no place in it.
func (r *decoder) own(d Dot) Dot {
	if d.Seq <= r.base.Get(d.Replica) {
		r.fail("an entry of an event below the base")
	}
	return d
}

func (r *decoder) time(relativeTo Timestamp) Timestamp {
	ms := r.int() + int64(relativeTo>>logicalBits)
	counter := r.uint()
	if ms < 0 || ms >= 1<<(64-logicalBits) || counter >= 1<<logicalBits {
		r.fail("a timestamp out of range")
	}
	return Timestamp(ms)<<logicalBits | Timestamp(counter)
}

// known returns a timestamp that is there because it is not zero.
func (r *decoder) known(t Timestamp) Timestamp {
	if t == 0 {
		r.fail("a timestamp of zero")
	}
	return t
}

func (r *decoder) delta(kind uint64) *Delta {
	d := new(Delta)
	if v := r.uint(); v != wireVersion {
		r.fail("version %d", v)
		return d
	}
	flags := r.uint()
	allowed := uint64(flagsKnown)
	if kind != flagDelta {
		allowed &^= flagDelta | flagCancelled | flagForgotten
	}
	if flags&flagErased != 0 {
		allowed = kind | flagErased
	}
	if flags&flagDelta != kind || flags&^allowed != 0 {
		r.fail("flags %#x", flags)
		return d
	}
	if d.Erased = flags&flagErased != 0; d.Erased {
		return d
	}
	r.vector(d, kind)
	updated := Timestamp(r.uint())
	d.Lifetime.Updated = updated
	if flags&flagCreated != 0 {
		d.Lifetime.Created = r.known(r.time(updated))
	}
	if flags&flagExpires != 0 {
		d.Lifetime.Expires = r.known(r.time(updated))
	}
	r.lines(d)
	if flags&flagMembers != 0 {
		r.members(d)
	}
	if flags&flagRegisters != 0 {
		d.Registers = r.registers(updated)
		r.filled(len(d.Registers))
	}
	if flags&flagOperations != 0 {
		r.operations(d)
	}
	if flags&flagCancelled != 0 {
		d.Cancelled = r.dots()
		r.filled(len(d.Cancelled))
	}
	if flags&flagForgotten != 0 {
		d.Forgotten = r.dots()
		r.filled(len(d.Forgotten))
	}
	r.consistent(d)
	return d
}

// filled refuses a section that is there without need.
func (r *decoder) filled(n int) {
	if n == 0 {
		r.fail("an empty section")
	}
}

// consistent refuses a delta that both has and cancels an entry: of two such deltas, the order in
// which they are joined would matter.
func (r *decoder) consistent(d *Delta) {
	if len(d.Cancelled) > 0 {
		for _, l := range d.Lines {
			for i := range l.Counter {
				r.absent(l.Counter[i].Dot, d.Cancelled)
			}
		}
		for i := range d.Members {
			r.absent(d.Members[i].Dot, d.Cancelled)
		}
	}
	if len(d.Forgotten) > 0 {
		for i := range d.Operations {
			r.absent(d.Operations[i].Dot, d.Forgotten)
		}
	}
}

func (r *decoder) absent(d Dot, from Dots) {
	if from.Has(d) {
		r.fail("event %d of %#x is both there and gone", d.Seq, uint64(d.Replica))
	}
}

func (r *decoder) vector(d *Delta, kind uint64) {
	n := r.len(2)
	if n > MaxReplicas {
		r.fail("a version vector of %d", n)
		return
	}
	d.VV = make(VV, n)
	for i := range d.VV {
		e := &d.VV[i]
		e.Replica = ReplicaID(r.uint())
		var base uint64
		if kind == flagDelta {
			base = r.uint()
		}
		e.Seq = base + r.uint()
		if e.Seq == 0 || e.Seq < base || i > 0 && d.VV[i-1].Replica >= e.Replica {
			r.fail("not a version vector")
			return
		}
		if base > 0 {
			d.Base = append(d.Base, Dot{e.Replica, base})
		}
	}
	r.base, r.vv = d.Base, d.VV
}

func (r *decoder) lines(d *Delta) {
	n := r.len(4)
	if n == 0 {
		return
	}
	lines := make([]Line, n)
	d.Lines = make([]*Line, n)
	for i := range lines {
		l := &lines[i]
		d.Lines[i] = l
		r.line(l, d.Lifetime.Updated)
		if i > 0 && lines[i-1].Key >= l.Key {
			r.fail("lines out of order")
		}
		if r.err != nil {
			return
		}
	}
}

func (r *decoder) line(l *Line, updated Timestamp) {
	l.Key = r.string()
	first := updated
	if !r.nil() {
		first = r.known(r.time(updated))
		l.First = first
	}
	l.Registers = r.registers(first)
	l.Counter = r.counter(first)
}

func (r *decoder) members(d *Delta) {
	d.Members = make(Set, r.len(3))
	r.filled(len(d.Members))
	for i := range d.Members {
		m := &d.Members[i]
		m.Value = r.string()
		m.Dot = r.own(r.dot())
		if i > 0 && d.Members[i-1].Dot.Compare(m.Dot) >= 0 {
			r.fail("members out of order")
		}
		if r.err != nil {
			return
		}
	}
}

func (r *decoder) registers(relativeTo Timestamp) Registers {
	n := r.len(6)
	if n == 0 {
		return nil
	}
	z := make(Registers, n)
	for i := range z {
		g := &z[i]
		g.Name = r.name()
		if g.Deleted = r.nil(); !g.Deleted {
			g.Value = r.string()
		}
		g.Stamp.Dot = r.dot()
		g.Stamp.At = r.time(relativeTo)
		if i > 0 && z[i-1].Name >= g.Name {
			r.fail("registers out of order")
		}
		if r.err != nil {
			return nil
		}
	}
	return z
}

func (r *decoder) counter(first Timestamp) Counter {
	runs := r.len(4)
	if runs == 0 {
		return nil
	}
	c := make(Counter, 0, runs)
	for range runs {
		index := r.uint()
		if Kind(index&1) == Assignment {
			c = append(c, r.assignment(index>>1, first))
		} else {
			c = r.increments(c, index>>1)
		}
		if r.err != nil {
			return nil
		}
	}
	for i := range c {
		if i > 0 && c[i-1].Dot.Compare(c[i].Dot) >= 0 {
			r.fail("entries out of order")
		}
		if c[i].N > MaxN || c[i].N < -MaxN {
			r.fail("a quantity of %d", c[i].N)
		}
	}
	return c
}

func (r *decoder) assignment(index uint64, first Timestamp) Entry {
	e := Entry{Dot: r.own(r.dotAt(index, r.uint())), N: r.int(), At: r.time(first), Kind: Assignment}
	if e.N < 1 {
		r.fail("an assignment of %d", e.N)
	}
	return e
}

// increments appends a run of increments of the replica at index to c.
func (r *decoder) increments(c Counter, index uint64) Counter {
	n, replica := r.len(2), r.replica(index).Replica
	if n == 0 {
		r.fail("an empty run")
	}
	if last := len(c) - 1; last >= 0 && c[last].Kind == Increment && c[last].Dot.Replica == replica {
		r.fail("a run in two parts")
	}
	c = slices.Grow(c, n)
	seq := uint64(0)
	for range n {
		difference := r.uint()
		if seq += difference; seq < difference {
			r.fail("an event out of range")
		}
		c = append(c, Entry{Dot: r.own(r.dotAt(index, seq)), N: r.int()})
		if r.err != nil {
			return nil
		}
	}
	return c
}

func (r *decoder) operations(d *Delta) {
	d.Operations = make(Operations, r.len(19))
	r.filled(len(d.Operations))
	for i := range d.Operations {
		o := &d.Operations[i]
		o.ID = r.id()
		index := r.uint()
		o.Spent = index&1 != 0
		o.Dot = r.own(r.dotAt(index>>1, r.uint()))
		o.At = r.time(d.Lifetime.Updated)
		if i > 0 && d.Operations[i-1].compare(*o) >= 0 {
			r.fail("operations out of order")
		}
		if r.err != nil {
			return
		}
	}
}

// dots reads the one list whose size its bytes do not bound, as it consists of runs: MaxDots does.
func (r *decoder) dots() Dots {
	var z Dots
	for range r.len(3) {
		d := r.dot()
		n := r.uint()
		if last := len(z) - 1; last >= 0 && (z[last].Compare(d) >= 0 || z[last] == Dot{d.Replica, d.Seq - 1}) {
			r.fail("runs of dots out of order")
		}
		if n == 0 || n > uint64(MaxDots-len(z)) || n-1 > r.vv.Get(d.Replica)-d.Seq {
			r.fail("a run of %d dots", n)
		}
		if r.err != nil {
			return nil
		}
		z = slices.Grow(z, int(n))
		for i := range n {
			z = append(z, Dot{d.Replica, d.Seq + i})
		}
	}
	return z
}
