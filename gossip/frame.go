package gossip

// Bounds of what travels on a link.
const (
	MaxFrame   = 512 << 10 // bytes of a frame's body
	MaxPayload = 16 << 20  // bytes of a payload

	flushSize  = 64 << 10         // a frame takes no further item beyond so many bytes
	maxPiece   = 192 << 10        // an encoded item of more bytes travels in parts
	maxItem    = MaxPayload + 128 // bytes of an encoded item
	maxItems   = 8192             // items of a frame
	maxRefused = 8192             // refused items that a frame names
)

// header begins every frame. After it come the items of the frame, until its end.
//
// A frame with items has a number: 1 for the first after the link came up, then the next one each.
// It is acknowledged by the ack of any later header of the other side: all items up to that frame are
// held there, but those that the same header names as refused. They are named until a header of
// ours says that the acknowledgement came, so that none is taken for held when frames are lost.
type header struct {
	seq     uint64 // the number of this frame; 0 if it has no items
	ack     uint64 // the sender has taken all frames up to this one
	acked   uint64 // the greatest ack that came to the sender
	clock   uint64 // the sender's clock, in ms since 1970, for the receiver to echo; or 0
	echo    uint64 // the clock of a frame that came to the sender; or 0
	refused []refusal

	draining bool // the sender is about to leave: what it acknowledges is not held for long
}

// refusal names an item that was not held, of a frame above acked and up to ack. A header names
// them in ascending order.
type refusal struct {
	seq   uint64
	index int
	lacks bool // the cart's whole state would be held
}

func (r refusal) before(s refusal) bool {
	return r.seq < s.seq || r.seq == s.seq && r.index < s.index
}

func appendHeader(b []byte, h *header) []byte {
	b = appendUint(b, h.seq)
	b = appendUint(b, h.ack)
	b = appendUint(b, h.acked)
	b = appendUint(b, h.clock)
	b = appendUint(b, h.echo)
	b = appendArray(b, len(h.refused))
	for _, r := range h.refused {
		b = appendUint(b, r.seq)
		b = appendUint(b, uint64(r.index))
		b = appendBool(b, r.lacks)
	}
	return appendBool(b, h.draining)
}

// header reads a header into h, whose list of refusals it uses again.
func (r *reader) header(h *header) {
	h.seq, h.ack, h.acked, h.clock, h.echo = r.uint(), r.uint(), r.uint(), r.uint(), r.uint()
	h.refused = h.refused[:0]
	n := r.array(3)
	if n > maxRefused {
		r.fail("%d refused items", n)
	}
	last := refusal{index: -1}
	for range n {
		next := refusal{seq: r.uint(), index: r.index(), lacks: r.bool()}
		if r.err != nil {
			break
		}
		if !last.before(next) || next.seq == 0 || next.seq > h.ack {
			r.fail("refused item %d of frame %d", next.index, next.seq)
			break
		}
		h.refused = append(h.refused, next)
		last = next
	}
	h.draining = r.bool()
	if (h.seq == 0) != (len(r.b) == 0) && r.err == nil {
		r.fail("frame %d with %d bytes of items", h.seq, len(r.b))
	}
}

// index reads the place of an item in its frame.
func (r *reader) index() int {
	n := r.uint()
	if n >= maxItems {
		r.fail("item %d of a frame", n)
		return 0
	}
	return int(n)
}

// kind says what an item is.
type kind uint8

// What travels. The numbers are those on the wire.
const (
	kindDelta kind = iota + 1 // body: the payload of a change of the cart
	kindState                 // body: the payload of the whole cart
	kindMark                  // body: what the sender knows of the safety of the cart
	kindPart                  // body: the bytes from m on of an encoded item that has n bytes

	kindFetch   // n: a request for the cart
	kindFetched // n: the request; body: the payload of the whole cart, if m is 1

	// Repair: n is the number of the session of who opened it. See repair.go.
	kindRoot     // m: a hash over the digests of some slots; body: which, and of which the sender is bare, see encodeSlots
	kindEqual    // the answer to a root: nothing differs
	kindLater    // the answer to a root: not now
	kindDigests  // the answer to a root: body: slots of those, and digests, see encodeDigests
	kindListing  // body: id and version of the carts from id on, in its slot; m tells of it, see listing
	kindListed   // the answer to a listing: m tells of it, see listed; id: where the next one begins
	kindVector   // an answer to a listing: body: the version vector of a cart
	kindWant     // the sender wants the whole cart
	kindFinish   // nothing is left to list; m is 1 if not every difference was dealt with
	kindFinished // the answer to a finish; m likewise

	// Between regions. See regions.go and cross.go.
	kindRegion // what the sender tells of a region: m and body as word has it
	kindCross  // id, n, m, body: something that goes to another region, as crossing has it
	kindHolds  // n: a ticket; m: 1 if the sender holds what came with it, 0 if it was refused; in crossings only

	kinds // one more than the last
)

// lasting reports whether an item has a meaning on the next link too.
func (k kind) lasting() bool { return k <= kindPart || k == kindCross }

// fields says which of its fields an item has on the wire.
type fields uint8

const (
	hasID fields = 1 << iota
	hasN
	hasM
	hasBody
)

// travels reports whether an item may be what a peer sends, of another region or not.
func (it *item) travels(abroad bool) bool {
	switch it.kind {
	case kindHolds: // in crossings only
		return false
	case kindRegion, kindCross:
		return true
	}
	return !abroad
}

// fieldsOf tells the fields of the items of each kind.
var fieldsOf = [kinds]fields{
	kindDelta:    hasID | hasBody,
	kindState:    hasID | hasBody,
	kindMark:     hasID | hasBody,
	kindPart:     hasID | hasN | hasM | hasBody,
	kindFetch:    hasID | hasN,
	kindFetched:  hasID | hasN | hasM | hasBody,
	kindRoot:     hasN | hasM | hasBody,
	kindEqual:    hasN,
	kindLater:    hasN,
	kindDigests:  hasN | hasBody,
	kindListing:  hasID | hasN | hasM | hasBody,
	kindListed:   hasID | hasN | hasM,
	kindVector:   hasID | hasBody,
	kindWant:     hasID,
	kindFinish:   hasN | hasM,
	kindFinished: hasN | hasM,
	kindRegion:   hasM | hasBody,
	kindCross:    hasID | hasN | hasM | hasBody,
	kindHolds:    hasN | hasM,
}

// item is one thing that travels: its kind on the wire, then those of its fields that the kind has.
type item struct {
	kind kind
	id   [16]byte
	n, m uint64
	body []byte
}

// itemOverhead bounds the bytes of an encoded item without its body.
const itemOverhead = 1 + 2 + 16 + 9 + 9 + 5

func appendItem(b []byte, it *item) []byte {
	has := fieldsOf[it.kind]
	b = appendUint(b, uint64(it.kind))
	if has&hasID != 0 {
		b = appendBytes(b, it.id[:])
	}
	if has&hasN != 0 {
		b = appendUint(b, it.n)
	}
	if has&hasM != 0 {
		b = appendUint(b, it.m)
	}
	if has&hasBody != 0 {
		b = appendBytes(b, it.body)
	}
	return b
}

// encode returns an item's encoding.
func (it *item) encode() []byte {
	return appendItem(make([]byte, 0, itemOverhead+len(it.body)), it)
}

// item reads an item into it. Its body is shared with the bytes that are read.
func (r *reader) item(it *item) {
	*it = item{}
	k := r.uint()
	if k == 0 || k >= uint64(kinds) {
		r.fail("an item of kind %d", k)
		return
	}
	it.kind = kind(k)
	has := fieldsOf[it.kind]
	if has&hasID != 0 {
		it.id = r.id()
	}
	if has&hasN != 0 {
		it.n = r.uint()
	}
	if has&hasM != 0 {
		it.m = r.uint()
	}
	if has&hasBody != 0 {
		it.body = r.bytes(MaxPayload)
	}
	if r.err == nil && !it.valid() {
		r.fail("an item of kind %d, with %d, %d and %d bytes", k, it.n, it.m, len(it.body))
	}
}

// valid reports whether the fields of an item fit each other.
func (it *item) valid() bool {
	switch it.kind {
	case kindPart:
		return it.n > maxPiece && it.n <= maxItem && len(it.body) > 0 && it.m <= it.n-min(it.n, uint64(len(it.body)))
	case kindFetched:
		return it.m == 1 || it.m == 0 && len(it.body) == 0
	case kindRoot:
		_, _, _, err := decodeSlots(it.body)
		return err == nil
	case kindDigests:
		_, _, _, err := decodeDigests(it.body)
		return err == nil
	case kindListing:
		return it.m <= listingMore|listingGiven|listingUnsaved && (it.m&listingMore == 0 || len(it.body) > 0) && validListing(it.id, it.body)
	case kindListed:
		return it.m <= listedMore|listedFailed
	case kindFinish, kindFinished, kindHolds:
		return it.m <= 1
	case kindRegion:
		_, err := decodeWord(it)
		return err == nil
	case kindCross:
		_, err := decodeCrossing(it)
		return err == nil
	}
	return true
}

// identity returns kind and cart of an encoded item, without decoding the rest.
func identity(encoded []byte) (kind, [16]byte) {
	k := kind(encoded[0])
	var id [16]byte
	if fieldsOf[k]&hasID != 0 {
		copy(id[:], encoded[3:])
	}
	return k, id
}

// assembly puts parts together. What it holds grows with what has come, not with what was announced.
type assembly struct {
	id    [16]byte
	total uint64
	b     []byte
}

// add takes a part. It returns the encoded item when the part was the last one; whole is false
// then if parts before it are missing.
func (a *assembly) add(part *item) (encoded []byte, last, whole bool) {
	switch {
	case part.m == 0:
		*a = assembly{id: part.id, total: part.n}
	case part.id != a.id || part.n != a.total || part.m != uint64(len(a.b)):
		*a = assembly{}
	}
	last = part.m+uint64(len(part.body)) == part.n
	if a.total == 0 {
		return nil, last, false
	}
	a.b = append(a.b, part.body...)
	if !last {
		return nil, false, false
	}
	encoded = a.b
	*a = assembly{}
	return encoded, true, true
}

// parts calls yield with each part of an encoded item.
func parts(id [16]byte, encoded []byte, yield func(part []byte, last bool)) {
	total := uint64(len(encoded))
	for offset := 0; offset < len(encoded); offset += maxPiece {
		end := min(offset+maxPiece, len(encoded))
		part := item{kind: kindPart, id: id, n: total, m: uint64(offset), body: encoded[offset:end]}
		yield(part.encode(), end == len(encoded))
	}
}
