package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// ErrMalformed is wrapped by the error of whatever decodes bytes that are not what they have to be.
var ErrMalformed = errors.New("gossip: malformed")

// The msgpack values that metadata, hellos and frames are made of. They are written in their shortest
// form and read in any.

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

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, msgpcode.True)
	}
	return append(b, msgpcode.False)
}

func appendArray(b []byte, n int) []byte {
	switch {
	case n < 16:
		return append(b, msgpcode.FixedArrayLow|byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, msgpcode.Array16), uint16(n))
	}
	return binary.BigEndian.AppendUint32(append(b, msgpcode.Array32), uint32(n))
}

func appendBytes(b, v []byte) []byte {
	switch n := len(v); {
	case n <= 0xff:
		b = append(b, msgpcode.Bin8, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, msgpcode.Bin16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, msgpcode.Bin32), uint32(n))
	}
	return append(b, v...)
}

func appendString(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, msgpcode.FixedStrLow|byte(n))
	case n <= 0xff:
		b = append(b, msgpcode.Str8, byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, msgpcode.Str16), uint16(n))
	}
	return append(b, s...)
}

// reader takes values off b and keeps the first error; after one it returns zeros. It allocates
// nothing but the strings that it returns.
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

// end fails when there is something left.
func (r *reader) end() {
	if len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
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
	switch {
	case c <= msgpcode.PosFixedNumHigh:
		return uint64(c)
	case c >= msgpcode.Uint8 && c <= msgpcode.Uint64:
		return r.bigEndian(1 << (c - msgpcode.Uint8))
	}
	r.fail("%#x for an unsigned number", c)
	return 0
}

func (r *reader) bool() bool {
	switch c := r.code(); c {
	case msgpcode.True:
		return true
	case msgpcode.False:
	default:
		r.fail("%#x for a boolean", c)
	}
	return false
}

// array reads the length of a list whose elements take at least size bytes each, so that no more is
// allocated than the bytes that are there can fill.
func (r *reader) array(size int) int {
	var n uint64
	switch c := r.code(); {
	case msgpcode.IsFixedArray(c):
		n = uint64(c & msgpcode.FixedArrayMask)
	case c == msgpcode.Array16:
		n = r.bigEndian(2)
	case c == msgpcode.Array32:
		n = r.bigEndian(4)
	default:
		r.fail("%#x for a list", c)
		return 0
	}
	if n > uint64(len(r.b)/size) {
		r.fail("a list of %d in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

// bytes returns most bytes at most, which are shared with b.
func (r *reader) bytes(most int) []byte {
	c := r.code()
	if c < msgpcode.Bin8 || c > msgpcode.Bin32 {
		r.fail("%#x for bytes", c)
		return nil
	}
	return r.limited(r.bigEndian(1<<(c-msgpcode.Bin8)), most)
}

// text returns a string of most bytes at most.
func (r *reader) text(most int) string {
	switch c := r.code(); {
	case msgpcode.IsFixedString(c):
		return string(r.limited(uint64(c&msgpcode.FixedStrMask), most))
	case c >= msgpcode.Str8 && c <= msgpcode.Str32:
		return string(r.limited(r.bigEndian(1<<(c-msgpcode.Str8)), most))
	default:
		r.fail("%#x for a string", c)
		return ""
	}
}

func (r *reader) limited(n uint64, most int) []byte {
	if n > uint64(most) {
		r.fail("%d bytes, of %d at most", n, most)
		return nil
	}
	return r.take(int(n))
}

// id reads the id of a cart.
func (r *reader) id() (id [16]byte) {
	b := r.bytes(len(id))
	if r.err == nil && len(b) != len(id) {
		r.fail("an id of %d bytes", len(b))
	}
	copy(id[:], b)
	return id
}
