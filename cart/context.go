package cart

import (
	"encoding/base64"
	"encoding/binary"
	"strings"

	"github.com/cespare/xxhash/v2"

	"cartd/crdt"
)

// Context is what a client has seen of a cart. Its text form is opaque to clients, who send it
// back: base64url of a version byte, the version vector, a checksum of what was shown, and a
// checksum that binds it all to the cart.
type Context struct {
	vv    crdt.VV
	shown uint64
}

const (
	contextVersion = 1
	// maxContext bounds the text form, in bytes: about 1,600 residences that wrote. A server of HTTP
	// takes no larger header, nor, by default, do the proxies in front of it take one of a half.
	maxContext = 24 << 10
)

var errContext = &Error{Reason: MalformedContext, Detail: "Cart-Context is not one that this cart was shown with"}

// AppendContext appends the text form of the context of a client that was shown v, and nothing where it
// would be larger than can be sent back: such a client goes on without.
func (v *View) AppendContext(b []byte) []byte {
	raw := make([]byte, 0, 128)
	raw = append(raw, contextVersion)
	raw = binary.AppendUvarint(raw, uint64(len(v.state.VV)))
	for _, d := range v.state.VV {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(d.Replica))
		raw = binary.AppendUvarint(raw, d.Seq)
	}
	raw = binary.LittleEndian.AppendUint64(raw, v.shown())
	raw = binary.LittleEndian.AppendUint32(raw, bind(v.ID, raw))
	if base64.RawURLEncoding.EncodedLen(len(raw)) > maxContext {
		return b
	}
	return base64.RawURLEncoding.AppendEncode(b, raw)
}

// bind returns a checksum of a context's bytes and of the cart that it belongs to. It tells a
// client's mistake, not an attack: a context gives no access.
func bind(cart ID, raw []byte) uint32 {
	var h xxhash.Digest
	h.Reset()
	h.Write(cart[:])
	h.Write(raw)
	return uint32(h.Sum64())
}

// ParseContext reads the text form of a context of the cart.
func ParseContext(cart ID, text string) (*Context, error) {
	if len(text) > maxContext || strings.ContainsAny(text, "\r\n") { // which strict would skip
		return nil, errContext
	}
	raw, err := strict.DecodeString(text)
	if err != nil || len(raw) < 14 || raw[0] != contextVersion {
		return nil, errContext
	}
	raw, sum := raw[:len(raw)-4], raw[len(raw)-4:]
	if binary.LittleEndian.Uint32(sum) != bind(cart, raw) {
		return nil, errContext
	}
	raw, shown := raw[1:len(raw)-8], raw[len(raw)-8:]
	c := &Context{shown: binary.LittleEndian.Uint64(shown)}
	n, size := shortUvarint(raw)
	if size <= 0 || n > uint64(len(raw))/9 {
		return nil, errContext
	}
	raw = raw[size:]
	c.vv = make(crdt.VV, n)
	for i := range c.vv {
		if len(raw) < 9 {
			return nil, errContext
		}
		c.vv[i].Replica = crdt.ReplicaID(binary.LittleEndian.Uint64(raw))
		seq, size := shortUvarint(raw[8:])
		if size <= 0 || seq == 0 || i > 0 && c.vv[i-1].Replica >= c.vv[i].Replica {
			return nil, errContext
		}
		c.vv[i].Seq = seq
		raw = raw[8+size:]
	}
	if len(raw) > 0 {
		return nil, errContext
	}
	return c, nil
}

// shortUvarint is binary.Uvarint that refuses numbers with needless zeros.
func shortUvarint(b []byte) (n uint64, size int) {
	n, size = binary.Uvarint(b)
	if size > 1 && b[size-1] == 0 {
		return 0, 0
	}
	return n, size
}

// seenBy reports whether s holds everything that the client has seen.
func (c *Context) seenBy(s *State) bool { return c == nil || s.VV.Descends(c.vv) }
