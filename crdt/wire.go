package crdt

import (
	"encoding/binary"
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// The msgpack values that an encoding is made of. Each has one form only, the shortest: other forms
// are refused, so that equal states are equal bytes, wherever the bytes come from.

func appendUint(b []byte, n uint64) []byte {
	switch {
	case n <= uint64(msgpcode.PosFixedNumHigh):
		return append(b, byte(n))
	case n <= 0xff:
		return append(b, msgpcode.Uint8, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Uint16), uint16(n))
	case n <= 0xffff_ffff:
		return binary.BigEndian.AppendUint32(append(b, msgpcode.Uint32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, msgpcode.Uint64), n)
}

func appendInt(b []byte, n int64) []byte {
	switch {
	case n >= 0:
		return appendUint(b, uint64(n))
	case n >= -32:
		return append(b, byte(n))
	case n >= -1<<7:
		return append(b, msgpcode.Int8, byte(n))
	case n >= -1<<15:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Int16), uint16(n))
	case n >= -1<<31:
		return binary.BigEndian.AppendUint32(append(b, msgpcode.Int32), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, msgpcode.Int64), uint64(n))
}

func appendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, msgpcode.FixedStrLow|byte(n))
	case n <= 0xff:
		b = append(b, msgpcode.Str8, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, msgpcode.Str16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, msgpcode.Str32), uint32(n))
	}
	return append(b, s...)
}

func appendNil(b []byte) []byte { return append(b, msgpcode.Nil) }

func appendID(b []byte, id OperationID) []byte {
	return append(append(b, msgpcode.Bin8, byte(len(id))), id[:]...)
}

// reader takes values off b and keeps the first error; after one it returns zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

// take returns the next n bytes, or nil.
func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("cut off")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) code() byte {
	if len(r.b) == 0 {
		r.fail("cut off")
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// bigEndian reads an unsigned number of size bytes.
func (r *reader) bigEndian(size int) (n uint64) {
	for _, c := range r.take(size) {
		n = n<<8 | uint64(c)
	}
	return n
}

func (r *reader) uint() uint64 {
	c := r.code()
	if c <= msgpcode.PosFixedNumHigh {
		return uint64(c)
	}
	if c < msgpcode.Uint8 || c > msgpcode.Uint64 {
		r.fail("%#x for an unsigned number", c)
		return 0
	}
	size := 1 << (c - msgpcode.Uint8)
	n := r.bigEndian(size)
	if least := leastOf(size); n < least {
		r.fail("%d in %d bytes", n, size)
	}
	return n
}

// leastOf returns the least unsigned number that takes size bytes.
func leastOf(size int) uint64 {
	if size == 1 {
		return uint64(msgpcode.PosFixedNumHigh) + 1
	}
	return 1 << (4 * size)
}

func (r *reader) int() int64 {
	if len(r.b) == 0 || r.b[0] < msgpcode.Int8 || r.b[0] > msgpcode.Int64 && r.b[0] < msgpcode.NegFixedNumLow {
		n := r.uint()
		if n > 1<<63-1 {
			r.fail("a number of %d", n)
			return 0
		}
		return int64(n)
	}
	c := r.code()
	if c >= msgpcode.NegFixedNumLow {
		return int64(int8(c))
	}
	size := 1 << (c - msgpcode.Int8)
	unused := 64 - 8*size
	n := int64(r.bigEndian(size)<<unused) >> unused
	if size == 1 && n >= -32 || size > 1 && n >= -1<<(4*size-1) {
		r.fail("%d in %d bytes", n, size)
	}
	return n
}

// len reads the length of a list whose elements take at least size bytes each, so that no more is
// allocated than the bytes that are there can fill.
func (r *reader) len(size int) int {
	n := r.uint()
	if n > uint64(len(r.b)/size) {
		r.fail("a list of %d in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

// nil reports whether a nil comes next, and skips it.
func (r *reader) nil() bool {
	if len(r.b) == 0 || r.b[0] != msgpcode.Nil {
		return false
	}
	r.b = r.b[1:]
	return true
}

// text returns the bytes of a string, which are shared with b.
func (r *reader) text() []byte {
	var n, least uint64
	switch c := r.code(); {
	case msgpcode.IsFixedString(c):
		n = uint64(c & msgpcode.FixedStrMask)
	case c == msgpcode.Str8:
		n, least = r.bigEndian(1), 32
	case c == msgpcode.Str16:
		n, least = r.bigEndian(2), 1<<8
	default: // MaxString has no need of longer ones
		r.fail("%#x for a string", c)
		return nil
	}
	if n < least || n > MaxString {
		r.fail("a string of %d bytes", n)
		return nil
	}
	return r.take(int(n))
}

func (r *reader) id() (id OperationID) {
	if r.code() != msgpcode.Bin8 || r.code() != byte(len(id)) {
		r.fail("not an operation id")
	}
	copy(id[:], r.take(len(id)))
	return id
}
