package postgres

import (
	"cartd/cart"
	"cartd/crdt"
)

// maxKnown bounds how many carts one generation of a memory holds.
const maxKnown = 1 << 14

// known is what a process remembers of a row that it wrote.
type known struct {
	tag int64
	vv  crdt.VV
}

// tagOf returns what tells a row from what it was before, and from what others made of what it was before:
// its revision XOR the version of its state.
func tagOf(revision, version int64) int64 { return revision ^ version }

// memory remembers the rows that were written last, between maxKnown and twice as many. The zero
// memory is ready to use.
type memory struct {
	young, old map[cart.ID]known
}

func (m *memory) get(id cart.ID) (known, bool) {
	k, ok := m.young[id]
	if !ok {
		k, ok = m.old[id]
	}
	return k, ok
}

func (m *memory) put(id cart.ID, k known) {
	if m.young == nil || len(m.young) >= maxKnown {
		m.old, m.young = m.young, make(map[cart.ID]known)
	}
	m.young[id] = k
}

func (m *memory) forget(id cart.ID) {
	delete(m.young, id)
	delete(m.old, id)
}
