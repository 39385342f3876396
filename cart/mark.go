package cart

import (
	"encoding/binary"
	"errors"

	"cartd/crdt"
)

// mark is what a node tells the others of the safety of a cart.
type mark struct {
	base    crdt.VV // the database has what is in (base, stored]
	stored  extent
	durable extent // so many nodes hold this, that the author shows it to readers
}

var errMark = errors.New("cart: malformed mark")

// encode returns the encodings of two deltas without content, each after its length.
func (m mark) encode() []byte {
	b := make([]byte, 0, 64)
	for _, d := range [...]crdt.Delta{
		{State: State{VV: m.stored.vv, Erased: m.stored.erased}, Base: m.base},
		{State: State{VV: m.durable.vv, Erased: m.durable.erased}},
	} {
		at := len(b)
		b = crdt.AppendDelta(append(b, 0, 0, 0, 0), &d)
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return b
}

func decodeMark(b []byte) (m mark, err error) {
	var parts [2]*crdt.Delta
	for i := range parts {
		if len(b) < 4 {
			return m, errMark
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return m, errMark
		}
		if parts[i], err = crdt.DecodeDelta(b[:n]); err != nil {
			return m, err
		}
		b = b[n:]
	}
	if len(b) > 0 {
		return m, errMark
	}
	return mark{parts[0].Base, extentOf(&parts[0].State), extentOf(&parts[1].State)}, nil
}

// announce tells the other owners how far the cart is safe. r.mu is held.
func (s *Service) announce(r *resident) {
	if s.replicator == nil {
		return
	}
	var m mark
	if s.shared {
		m.stored = r.stored
	}
	if s.tolerate > 1 && r.durable != nil {
		m.durable = extentOf(r.durable)
	}
	if m.stored.any() || m.durable.any() {
		s.replicator.Mark(r.id, m.encode())
	}
}

// mark draws the conclusions from what a node knows of the cart.
func (r *resident) mark(m mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone || r.packed != nil {
		return
	}
	if r.service.shared && (m.stored.erased || r.stored.vv.Descends(m.base)) {
		r.stored = r.stored.join(m.stored)
	}
	r.confirm(m.durable)
	r.settle(r.service.now().UnixNano())
}
