package gossip

// crossing is what goes from a process to another region: to one process there, or to the owners of a cart.
type crossing struct {
	to      uint64 // the region, by regionHash
	process uint64 // its start id; 0 for the owners of the cart
	from    uint64 // the region that it comes from
	origin  uint64 // the start id of who sent it
	ticket  uint64 // under which who holds it is to say so; or 0
	durable bool   // where it comes from
	item    item   // what goes there
}

// crosses reports whether items of a kind go to other regions.
func (k kind) crosses() bool {
	switch k {
	case kindMark, kindPart, kindRegion, kindCross:
		return false
	}
	return true
}

// encode returns the encoding as an item. The id of the cart is in it once.
func (x *crossing) encode() []byte {
	it := x.wrap()
	return it.encode()
}

// wrap returns the crossing as an item.
func (x *crossing) wrap() item {
	b := make([]byte, 0, 4*9+1+3*9+len(x.item.body))
	b = appendUint(b, x.from)
	b = appendUint(b, x.origin)
	b = appendUint(b, x.ticket)
	b = appendBool(b, x.durable)
	b = appendUint(b, uint64(x.item.kind))
	b = appendUint(b, x.item.n)
	b = appendUint(b, x.item.m)
	b = append(b, x.item.body...)
	return item{kind: kindCross, id: x.item.id, n: x.to, m: x.process, body: b}
}

// decodeCrossing reads a crossing, whose body is shared with the item.
func decodeCrossing(it *item) (crossing, error) {
	r := reader{b: it.body}
	x := crossing{to: it.n, process: it.m, from: r.uint(), origin: r.uint(), ticket: r.uint(), durable: r.bool()}
	k := r.uint()
	if k == 0 || k >= uint64(kinds) || !kind(k).crosses() {
		r.fail("an item of kind %d that crosses", k)
	}
	x.item = item{kind: kind(k), id: it.id, n: r.uint(), m: r.uint(), body: r.b}
	switch {
	case r.err != nil:
	case x.from == x.to:
		r.fail("it crosses to where it comes from")
	case x.origin == 0:
		r.fail("it comes from nobody")
	case x.process == 0 && !x.toAll():
		r.fail("an item of kind %d for all owners", k)
	case !x.item.fits() || !x.item.valid():
		r.fail("an item of kind %d, with %d, %d and %d bytes, that crosses", k, x.item.n, x.item.m, len(x.item.body))
	}
	return x, r.err
}

// toAll reports whether it may be for all owners of the cart.
func (x *crossing) toAll() bool { return x.item.kind == kindDelta || x.item.kind == kindState }

// fits reports whether an item has only those fields that its kind has.
func (it *item) fits() bool {
	has := fieldsOf[it.kind]
	return (has&hasID != 0 || it.id == [16]byte{}) && (has&hasN != 0 || it.n == 0) &&
		(has&hasM != 0 || it.m == 0) && (has&hasBody != 0 || len(it.body) == 0)
}
