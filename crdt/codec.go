package crdt

import (
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// The wire format, a sequence of msgpack values:
//
//	version, flags, vector, times, lines, [members], [registers], [operations], [cancelled], [forgotten]
//
// An erased state is version and flags alone. Sections in brackets are there iff their flag is,
// which is iff they are not empty. Dots are (index into the vector, seq). Timestamps but that of
// the last update are relative, as (milliseconds, counter). Increments of one replica on one line
// are a run: the index once, then (difference of seq, n) each. Everything is sorted, so equal
// states are equal bytes.
const wireVersion = 1

const (
	flagDelta uint64 = 1 << iota
	flagErased
	flagCreated
	flagExpires
	flagMembers
	flagRegisters
	flagOperations
	flagCancelled
	flagForgotten
	flagsKnown = 1<<iota - 1
)

// Bounds on what is decoded.
const (
	MaxString   = 8 << 10 // bytes of a key, name or value
	MaxN        = 1 << 32 // the absolute value of an entry's n
	MaxDots     = 1 << 20 // dots that one delta cancels or forgets
	MaxReplicas = 1 << 16 // entries of a version vector
)

// ErrMalformed is returned for bytes that are not the encoding of a state or a delta.
var ErrMalformed = errors.New("crdt: malformed encoding")

var (
	_ msgpack.CustomEncoder = (*State)(nil)
	_ msgpack.CustomDecoder = (*State)(nil)
	_ msgpack.CustomEncoder = (*Delta)(nil)
	_ msgpack.CustomDecoder = (*Delta)(nil)
)

// EncodeMsgpack writes the canonical encoding of s as one value, a byte string.
func (s *State) EncodeMsgpack(enc *msgpack.Encoder) error {
	return enc.EncodeBytes(AppendState(nil, s))
}

// EncodeMsgpack writes the canonical encoding of d as one value, a byte string.
func (d *Delta) EncodeMsgpack(enc *msgpack.Encoder) error {
	return enc.EncodeBytes(AppendDelta(nil, d))
}

// AppendState appends the canonical encoding of s to b.
func AppendState(b []byte, s *State) []byte {
	w := encoder{b: b}
	w.delta(&Delta{State: *s}, 0)
	return w.b
}

// AppendDelta appends the canonical encoding of d to b.
func AppendDelta(b []byte, d *Delta) []byte {
	w := encoder{b: b}
	w.delta(d, flagDelta)
	return w.b
}

// encoder appends to b, with dots as indexes into vv.
type encoder struct {
	b  []byte
	vv VV
}

func (w *encoder) uint(n uint64)   { w.b = appendUint(w.b, n) }
func (w *encoder) int(n int64)     { w.b = appendInt(w.b, n) }
func (w *encoder) len(n int)       { w.b = appendUint(w.b, uint64(n)) }
func (w *encoder) string(s string) { w.b = appendString(w.b, s) }
func (w *encoder) nil()            { w.b = appendNil(w.b) }

// index returns the place of r in the version vector, which holds every event that left a trace.
func (w *encoder) index(r ReplicaID) uint64 {
	i, known := w.vv.find(r)
	if !known {
		panic(fmt.Sprintf("crdt: replica %#x is not in the version vector", uint64(r)))
	}
	return uint64(i)
}

func (w *encoder) dot(d Dot) {
	w.uint(w.index(d.Replica))
	w.uint(d.Seq)
}

func (w *encoder) time(t, relativeTo Timestamp) {
	w.int(int64(t>>logicalBits) - int64(relativeTo>>logicalBits))
	w.uint(uint64(t) & (1<<logicalBits - 1))
}

func (w *encoder) delta(d *Delta, flags uint64) {
	for _, f := range [...]struct {
		flag uint64
		set  bool
	}{
		{flagErased, d.Erased},
		{flagCreated, d.Lifetime.Created != 0},
		{flagExpires, d.Lifetime.Expires != 0},
		{flagMembers, len(d.Members) > 0},
		{flagRegisters, len(d.Registers) > 0},
		{flagOperations, len(d.Operations) > 0},
		{flagCancelled, len(d.Cancelled) > 0},
		{flagForgotten, len(d.Forgotten) > 0},
	} {
		if f.set {
			flags |= f.flag
		}
	}
	w.uint(wireVersion)
	w.uint(flags)
	if d.Erased {
		return
	}
	w.vv = d.VV
	w.len(len(d.VV))
	for _, e := range d.VV {
		w.uint(uint64(e.Replica))
		base := d.Base.Get(e.Replica)
		if flags&flagDelta != 0 {
			w.uint(base)
		}
		w.uint(e.Seq - base)
	}
	updated := d.Lifetime.Updated
	w.uint(uint64(updated))
	if flags&flagCreated != 0 {
		w.time(d.Lifetime.Created, updated)
	}
	if flags&flagExpires != 0 {
		w.time(d.Lifetime.Expires, updated)
	}
	w.len(len(d.Lines))
	for _, l := range d.Lines {
		w.line(l, updated)
	}
	if flags&flagMembers != 0 {
		w.len(len(d.Members))
		for i := range d.Members {
			w.string(d.Members[i].Value)
			w.dot(d.Members[i].Dot)
		}
	}
	if flags&flagRegisters != 0 {
		w.registers(d.Registers, updated)
	}
	if flags&flagOperations != 0 {
		w.operations(d.Operations, updated)
	}
	if flags&flagCancelled != 0 {
		w.dots(d.Cancelled)
	}
	if flags&flagForgotten != 0 {
		w.dots(d.Forgotten)
	}
}

// line writes key, first timestamp or nil where it is unknown, registers and counter.
func (w *encoder) line(l *Line, updated Timestamp) {
	w.string(l.Key)
	first := l.First
	if first == 0 {
		w.nil()
		first = updated
	} else {
		w.time(first, updated)
	}
	w.registers(l.Registers, first)
	w.counter(l.Counter, first)
}

func (w *encoder) registers(registers Registers, relativeTo Timestamp) {
	w.len(len(registers))
	for i := range registers {
		r := &registers[i]
		w.string(r.Name)
		if r.Deleted {
			w.nil()
		} else {
			w.string(r.Value)
		}
		w.dot(r.Stamp.Dot)
		w.time(r.Stamp.At, relativeTo)
	}
}

// run returns how many of the first entries of c are increments of one replica, or 1 for an
// assignment.
func (c Counter) run() int {
	n := 1
	for c[0].Kind == Increment && n < len(c) && c[n].Kind == Increment && c[n].Dot.Replica == c[0].Dot.Replica {
		n++
	}
	return n
}

// counter writes the number of runs, and for each 2·index + kind; then of increments how many and
// (difference of seq, n) each, of an assignment seq, n and timestamp.
func (w *encoder) counter(c Counter, first Timestamp) {
	runs := 0
	for rest := c; len(rest) > 0; rest = rest[rest.run():] {
		runs++
	}
	w.len(runs)
	for len(c) > 0 {
		run := c[:c.run()]
		c = c[len(run):]
		w.uint(w.index(run[0].Dot.Replica)<<1 | uint64(run[0].Kind))
		if run[0].Kind == Assignment {
			w.uint(run[0].Dot.Seq)
			w.int(run[0].N)
			w.time(run[0].At, first)
			continue
		}
		w.len(len(run))
		seq := uint64(0)
		for i := range run {
			w.uint(run[i].Dot.Seq - seq)
			w.int(run[i].N)
			seq = run[i].Dot.Seq
		}
	}
}

// operations writes id, 2·index + spent, seq and timestamp of each.
func (w *encoder) operations(operations Operations, updated Timestamp) {
	w.len(len(operations))
	for i := range operations {
		o := &operations[i]
		w.b = appendID(w.b, o.ID)
		spent := uint64(0)
		if o.Spent {
			spent = 1
		}
		w.uint(w.index(o.Dot.Replica)<<1 | spent)
		w.uint(o.Dot.Seq)
		w.time(o.At, updated)
	}
}

// run returns how many of the first dots follow each other.
func (s Dots) run() int {
	n := 1
	for n < len(s) && s[n].Replica == s[0].Replica && s[n].Seq == s[0].Seq+uint64(n) {
		n++
	}
	return n
}

// dots writes the number of runs, and dot and length of each.
func (w *encoder) dots(dots Dots) {
	runs := 0
	for rest := dots; len(rest) > 0; rest = rest[rest.run():] {
		runs++
	}
	w.len(runs)
	for len(dots) > 0 {
		n := dots.run()
		w.dot(dots[0])
		w.len(n)
		dots = dots[n:]
	}
}
