package sim

import (
	"reflect"

	"cartd/cart"
	"cartd/crdt"
)

// memory is what a process has in memory of a cart. The simulation looks there itself, by reflection: to
// ask the Service would load the cart.
type memory struct {
	resident        bool
	latest, durable *crdt.State // nil while the cart is packed
	packed          []byte
	fragments       []*crdt.Delta
}

func (n *node) memory(id cart.ID) (z memory) {
	key := reflect.ValueOf(id)
	shard := reflect.ValueOf(n.service).Elem().FieldByName("shards").Index(int(id[0]))
	if r := shard.FieldByName("carts").MapIndex(key); r.IsValid() {
		r = r.Elem()
		z.resident = true
		z.latest = (*crdt.State)(r.FieldByName("latest").UnsafePointer())
		z.durable = (*crdt.State)(r.FieldByName("durable").UnsafePointer())
		z.packed = r.FieldByName("packed").Bytes()
	}
	if f := shard.FieldByName("fragments").MapIndex(key); f.IsValid() {
		deltas := f.Elem().FieldByName("deltas")
		for i := range deltas.Len() {
			z.fragments = append(z.fragments, (*crdt.Delta)(deltas.Index(i).FieldByName("delta").UnsafePointer()))
		}
	}
	return z
}

// state returns the state of a resident cart, or nil.
func (z *memory) state() *crdt.State {
	if z.packed == nil {
		return z.latest
	}
	s, err := crdt.DecodeState(z.packed)
	if err != nil {
		return nil
	}
	return s
}

// extent is a set of events of a cart, or all of them where it is erased.
type extent struct {
	events set
	erased bool
}

// add puts what a state or a delta covers into the extent.
func (e *extent) add(m *model, base, end crdt.VV, erased bool) error {
	e.erased = e.erased || erased
	more, err := m.eventsOf(base, end)
	e.events = e.events.union(more)
	return err
}

// join puts what o has into the extent.
func (e *extent) join(o extent) { e.events, e.erased = e.events.union(o.events), e.erased || o.erased }

// covers reports whether e has all that o has.
func (e extent) covers(o extent) bool { return e.erased || !o.erased && o.events.within(e.events) }

// holds returns what a process has of a cart, in memory and in its own file.
func (n *node) holds(s *subject) (e extent, err error) {
	memory := n.memory(s.id)
	if state := memory.state(); state != nil {
		err = e.add(&s.model, nil, state.VV, state.Erased)
	}
	for _, d := range memory.fragments {
		if err == nil {
			err = e.add(&s.model, d.Base, d.VV, d.Erased)
		}
	}
	if n.machine.file != nil && err == nil {
		var file extent
		file, err = n.machine.file.holds(s)
		e.join(file)
	}
	return e, err
}

// holds returns what is committed of a cart.
func (d *database) holds(s *subject) (e extent, err error) {
	r := d.last(s.id)
	if r.state != nil {
		err = e.add(&s.model, nil, r.state.VV, r.state.Erased)
	}
	for _, f := range r.fragments {
		if err == nil {
			err = e.add(&s.model, f.Base, f.VV, f.Erased)
		}
	}
	return e, err
}

// sight is what can be seen of a cart, from one place or from several.
type sight struct {
	vv        crdt.VV
	erased    bool
	fragments []*crdt.Delta
}

func (z *sight) take(state *crdt.State, fragments []*crdt.Delta) {
	if state != nil {
		z.vv, z.erased = z.vv.Join(state.VV), z.erased || state.Erased
	}
	z.fragments = append(z.fragments, fragments...)
}

func (z *sight) join(o sight) {
	z.take(&crdt.State{VV: o.vv, Erased: o.erased}, o.fragments)
}

// whole returns the version vector of what can be put together.
func (z sight) whole() crdt.State {
	vv, erased := z.vv, z.erased
	for grown := true; grown; {
		grown = false
		for _, d := range z.fragments {
			erased = erased || d.Erased
			if vv.Descends(d.Base) && !vv.Descends(d.VV) {
				vv, grown = vv.Join(d.VV), true
			}
		}
	}
	return crdt.State{VV: vv, Erased: erased}
}

func (d *database) sight(id cart.ID) (z sight) {
	r := d.last(id)
	z.take(r.state, r.fragments)
	return z
}
