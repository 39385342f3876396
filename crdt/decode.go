package crdt

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// DecodeState decodes the encoding of a state. Every length is bounded by the bytes that are
// there before anything is allocated. Errors wrap ErrMalformed.
func DecodeState(b []byte) (*State, error) {
	s := new(State)
	if err := decode(b, func(r *decoder) { s = r.state() }); err != nil {
		return nil, err
	}
	return s, nil
}

// DecodeDelta decodes the encoding of a delta, under the same bounds as DecodeState.
func DecodeDelta(b []byte) (*Delta, error) {
	d := new(Delta)
	if err := decode(b, func(r *decoder) { d = r.delta(flagDelta) }); err != nil {
		return nil, err
	}
	return d, nil
}

// DecodeMsgpack reads what EncodeMsgpack wrote. The lengths that it allows are those of MaxEncoded
// bytes: prefer DecodeState where the bytes are at hand.
func (s *State) DecodeMsgpack(dec *msgpack.Decoder) error {
	r := decoder{dec: dec, left: streamed}
	*s = *r.state()
	return r.err
}

// DecodeMsgpack reads what EncodeMsgpack wrote, like the method of State.
func (d *Delta) DecodeMsgpack(dec *msgpack.Decoder) error {
	r := decoder{dec: dec, left: streamed}
	*d = *r.delta(flagDelta)
	return r.err
}

// MaxEncoded bounds what a stream, whose length is not known, may announce, in bytes.
const MaxEncoded = 1 << 20

func streamed() int { return MaxEncoded }

type pooledDecoder struct {
	from bytes.Reader
	dec  *msgpack.Decoder
}

var decoders = sync.Pool{New: func() any {
	p := new(pooledDecoder)
	p.dec = msgpack.NewDecoder(&p.from)
	return p
}}

func decode(b []byte, read func(*decoder)) error {
	p := decoders.Get().(*pooledDecoder)
	defer decoders.Put(p)
	p.from.Reset(b)
	p.dec.Reset(&p.from)
	r := decoder{dec: p.dec, left: p.from.Len}
	read(&r)
	if r.err == nil && p.from.Len() > 0 {
		r.fail("%d bytes after the end", p.from.Len())
	}
	p.from.Reset(nil)
	return r.err
}

// decoder reads primitives and keeps the first error; after one it returns zeros.
type decoder struct {
	dec  *msgpack.Decoder
	left func() int // bytes that are left
	err  error
	base VV
	vv   VV
}

func (r *decoder) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
}

func (r *decoder) failed(err error) bool {
	if err != nil {
		r.fail("%v", err)
	}
	return r.err != nil
}

func (r *decoder) uint() uint64 {
	if r.err != nil {
		return 0
	}
	n, err := r.dec.DecodeUint64()
	if r.failed(err) {
		return 0
	}
	return n
}

func (r *decoder) int() int64 {
	if r.err != nil {
		return 0
	}
	n, err := r.dec.DecodeInt64()
	if r.failed(err) {
		return 0
	}
	return n
}

// len reads the length of a list whose elements take at least size bytes.
func (r *decoder) len(size int) int {
	n := r.uint()
	if n > uint64(r.left()/size) {
		r.fail("a list of %d in %d bytes", n, r.left())
		return 0
	}
	return int(n)
}

// nil reports whether a nil comes next, and skips it.
func (r *decoder) nil() bool {
	if r.err != nil {
		return false
	}
	code, err := r.dec.PeekCode()
	if r.failed(err) || code != msgpcode.Nil {
		return false
	}
	return !r.failed(r.dec.DecodeNil())
}

func (r *decoder) bytes(n, limit int) []byte {
	if n < 0 || n > limit || n > r.left() {
		r.fail("a string of %d bytes", n)
		return nil
	}
	b := make([]byte, n)
	if r.failed(r.dec.ReadFull(b)) {
		return nil
	}
	return b
}

func (r *decoder) string() string {
	if r.err != nil {
		return ""
	}
	n, err := r.dec.DecodeBytesLen()
	if r.failed(err) {
		return ""
	}
	return string(r.bytes(n, MaxString))
}

func (r *decoder) replica(index uint64) (e Dot) {
	if r.err == nil && index >= uint64(len(r.vv)) {
		r.fail("replica %d of %d", index, len(r.vv))
	}
	if r.err != nil {
		return Dot{}
	}
	return r.vv[index]
}

// dotAt returns the dot (index, seq) of an event that the vector holds.
func (r *decoder) dotAt(index, seq uint64) Dot {
	e := r.replica(index)
	if r.err == nil && (seq == 0 || seq > e.Seq) {
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
	if r.err == nil && d.Seq <= r.base.Get(d.Replica) {
		r.fail("an entry of an event below the base")
	}
	return d
}

func (r *decoder) time(relativeTo Timestamp) Timestamp {
	ms := r.int() + int64(relativeTo>>logicalBits)
	counter := r.uint()
	if r.err == nil && (ms < 0 || ms >= 1<<(64-logicalBits) || counter >= 1<<logicalBits) {
		r.fail("a timestamp out of range")
	}
	return Timestamp(ms)<<logicalBits | Timestamp(counter)
}

func (r *decoder) state() *State {
	d := r.delta(0)
	if r.err == nil {
		d.derive(nil)
	}
	return &d.State
}

func (r *decoder) delta(kind uint64) *Delta {
	d := new(Delta)
	if v := r.uint(); r.err == nil && v != wireVersion {
		r.fail("version %d", v)
	}
	flags := r.uint()
	if r.err == nil && (flags&flagDelta != kind || flags&^uint64(flagsKnown) != 0) {
		r.fail("flags %#x", flags)
	}
	if r.err != nil {
		return d
	}
	if d.Erased = flags&flagErased != 0; d.Erased {
		if flags != kind|flagErased {
			r.fail("flags %#x", flags)
		}
		return d
	}
	r.vector(d, kind)
	d.Lifetime.Updated = Timestamp(r.uint())
	updated := d.Lifetime.Updated
	if flags&flagCreated != 0 {
		d.Lifetime.Created = r.time(updated)
	}
	if flags&flagExpires != 0 {
		d.Lifetime.Expires = r.time(updated)
	}
	list(r, 4, func(i int, l **Line) {
		*l = r.line(updated)
		if i > 0 && d.Lines[i-1].Key >= (*l).Key {
			r.fail("lines out of order")
		}
	}, &d.Lines)
	if flags&flagMembers != 0 {
		list(r, 3, func(i int, m *Member) {
			m.Value, m.Dot = r.string(), r.own(r.dot())
			if i > 0 && d.Members[i-1].Dot.Compare(m.Dot) >= 0 {
				r.fail("members out of order")
			}
		}, &d.Members)
	}
	if flags&flagRegisters != 0 {
		d.Registers = r.registers(updated)
	}
	if flags&flagOperations != 0 {
		list(r, 19, func(i int, o *Operation) {
			*o = r.operation(updated)
			if i > 0 && d.Operations[i-1].compare(*o) >= 0 {
				r.fail("operations out of order")
			}
		}, &d.Operations)
	}
	if flags&flagCancelled != 0 {
		d.Cancelled = r.dots()
	}
	if flags&flagForgotten != 0 {
		d.Forgotten = r.dots()
	}
	return d
}

// list reads a list of elements that take at least size bytes each into to, at which read may look
// back.
func list[S ~[]E, E any](r *decoder, size int, read func(int, *E), to *S) {
	n := r.len(size)
	if n == 0 {
		return
	}
	*to = make(S, n)
	for i := range *to {
		if read(i, &(*to)[i]); r.err != nil {
			return
		}
	}
}

func (r *decoder) vector(d *Delta, kind uint64) {
	n := r.len(2)
	if n > maxReplica {
		r.fail("a version vector of %d", n)
		return
	}
	d.VV = make(VV, 0, n)
	for range n {
		e := Dot{Replica: ReplicaID(r.uint())}
		var base uint64
		if kind == flagDelta {
			base = r.uint()
		}
		e.Seq = base + r.uint()
		if r.err != nil {
			return
		}
		if e.Seq == 0 || e.Seq < base || len(d.VV) > 0 && d.VV[len(d.VV)-1].Replica >= e.Replica {
			r.fail("not a version vector")
			return
		}
		if base > 0 {
			d.Base = append(d.Base, Dot{e.Replica, base})
		}
		d.VV = append(d.VV, e)
	}
	r.base, r.vv = d.Base, d.VV
}

func (r *decoder) line(updated Timestamp) *Line {
	l := &Line{Key: r.string()}
	first := updated
	if !r.nil() {
		first = r.time(updated)
		l.First = first
		if r.err == nil && first == 0 {
			r.fail("a timestamp out of range")
		}
	}
	l.Registers = r.registers(first)
	l.Counter = r.counter(first)
	return l
}

func (r *decoder) registers(relativeTo Timestamp) Registers {
	var z Registers
	list(r, 6, func(i int, g *Register) {
		g.Name = r.string()
		if g.Deleted = r.nil(); !g.Deleted {
			g.Value = r.string()
		}
		g.Stamp.Dot = r.dot()
		g.Stamp.At = r.time(relativeTo)
		if i > 0 && z[i-1].Name >= g.Name {
			r.fail("registers out of order")
		}
	}, &z)
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
		kind := Kind(index & 1)
		index >>= 1
		if kind == Assignment {
			dot := r.own(r.dotAt(index, r.uint()))
			n := r.int()
			c = append(c, Entry{Dot: dot, N: n, At: r.time(first), Kind: Assignment})
			if r.err == nil && n < 1 {
				r.fail("an assignment of %d", n)
			}
		} else {
			n := r.len(2)
			if r.err == nil && n == 0 {
				r.fail("an empty run")
			}
			seq := uint64(0)
			for range n {
				difference := r.uint()
				if seq += difference; r.err == nil && difference > seq {
					r.fail("event out of range")
				}
				c = append(c, Entry{Dot: r.own(r.dotAt(index, seq)), N: r.int()})
				if r.err != nil {
					return nil
				}
			}
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

func (r *decoder) operation(updated Timestamp) (o Operation) {
	if r.err != nil {
		return o
	}
	n, err := r.dec.DecodeBytesLen()
	if r.failed(err) {
		return o
	}
	if n != len(o.ID) {
		r.fail("an operation id of %d bytes", n)
		return o
	}
	if r.failed(r.dec.ReadFull(o.ID[:])) {
		return o
	}
	index := r.uint()
	o.Spent = index&1 != 0
	o.Dot = r.own(r.dotAt(index>>1, r.uint()))
	o.At = r.time(updated)
	return o
}

func (r *decoder) dots() Dots {
	var z Dots
	for range r.len(3) {
		d := r.dot()
		n := r.uint()
		if r.err == nil && (n == 0 || n > MaxDots || len(z)+int(n) > MaxDots) {
			r.fail("a run of %d dots", n)
		}
		if r.err == nil && (len(z) > 0 && z[len(z)-1].Compare(d) >= 0 || n-1 > r.vv.Get(d.Replica)-d.Seq) {
			r.fail("dots out of order")
		}
		if r.err != nil {
			return nil
		}
		for i := range n {
			z = append(z, Dot{d.Replica, d.Seq + i})
		}
	}
	return z
}
