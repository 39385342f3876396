package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// decodeFrame returns header and items of a frame.
func decodeFrame(b []byte) (h header, items []item, err error) {
	r := reader{b: b}
	r.header(&h)
	for r.err == nil && len(r.b) > 0 {
		var it item
		if r.item(&it); r.err == nil {
			items = append(items, it)
		}
	}
	return h, items, r.err
}

func encodeFrame(h header, items []item) []byte {
	b := appendHeader(nil, &h)
	for i := range items {
		b = appendItem(b, &items[i])
	}
	return b
}

var someSlots = slotSet{0: 1, 63: 1 << 63}

// oneOfEach is an item of each kind.
func oneOfEach() []item {
	id := cartID(1)
	return []item{
		{kind: kindDelta, id: id, body: []byte("delta")},
		{kind: kindState, id: id, body: bytes.Repeat([]byte("state"), 100)},
		{kind: kindMark, id: id, body: []byte{}},
		{kind: kindPart, id: id, n: maxPiece + 5, m: maxPiece, body: []byte("parts")},
		{kind: kindFetch, id: id, n: 1 << 40},
		{kind: kindFetched, id: id, n: 300, m: 1, body: []byte("payload")},
		{kind: kindFetched, id: id, n: 300, body: []byte{}},
		{kind: kindRoot, n: 1, m: 1<<64 - 1, body: encodeSlots(&allSlots, &slotSet{}, &slotSet{})},
		{kind: kindEqual, n: 127},
		{kind: kindLater, n: 128},
		{kind: kindRoot, n: 1, m: 2, body: encodeSlots(&someSlots, &slotSet{1: 1}, &slotSet{1: 1, 2: 5})},
		{kind: kindDigests, n: 1, body: encodeDigests(new([Slots]uint64), &allSlots, &slotSet{})},
		{kind: kindDigests, n: 1, body: encodeDigests(new([Slots]uint64), &someSlots, &slotSet{1: 1})},
		{kind: kindListing, id: firstOf(7), n: 1, m: 1, body: encodeListing([]Version{{firstOf(7), 1}, {successor(firstOf(7)), 2}})},
		{kind: kindListing, id: firstOf(7), n: 1, m: listingMore | listingGiven, body: encodeListing([]Version{{firstOf(7), 1}})},
		{kind: kindListed, id: id, n: 1, m: listedMore | listedFailed},
		{kind: kindVector, id: id, body: []byte("vector")},
		{kind: kindWant, id: id},
		{kind: kindFinish, n: 1, m: 1},
		{kind: kindFinished, n: 1},
		someRoster.item(),
		(&word{region: "us"}).item(),
		someCrossing.wrap(),
		(&crossing{to: 1, process: 9, from: 2, origin: 3, item: item{kind: kindRoot, n: 1, m: 2, body: encodeSlots(&allSlots, &slotSet{}, &slotSet{})}}).wrap(),
		{kind: kindHolds, n: 1, m: 1},
	}
}

var (
	someRoster = word{region: "us", losses: 7, roster: roster{3, []seat{
		{hash: 1 << 60, zone: "a", start: 1 << 63}, {hash: 5}, {zone: "b", start: 6},
	}}}
	someCrossing = crossing{
		to: 1 << 63, from: 1 << 62, origin: 1<<64 - 1, ticket: 300, durable: true,
		item: item{kind: kindDelta, id: cartID(1), body: []byte("delta")},
	}
)

func testFrame() (header, []item) {
	return header{
		seq: 1 << 20, ack: 7, acked: 1 << 33, clock: 1_700_000_000_000, echo: 5,
		refused:  []refusal{{seq: 6, index: 0, lacks: true}, {seq: 6, index: maxItems - 1}, {seq: 7, index: 3}},
		draining: true,
	}, oneOfEach()
}

func TestFrameRoundTrip(t *testing.T) {
	h, items := testFrame()
	kindsSeen := map[kind]bool{}
	for _, it := range items {
		kindsSeen[it.kind] = true
	}
	if len(kindsSeen) != int(kinds)-1 {
		t.Errorf("%d of %d kinds are tested", len(kindsSeen), kinds-1)
	}
	gotH, got, err := decodeFrame(encodeFrame(h, items))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(gotH, h) {
		t.Errorf("%+v, want %+v", gotH, h)
	}
	for i := range items {
		if got[i].body == nil { // of a kind without one
			got[i].body = items[i].body
		}
		if !reflect.DeepEqual(got[i], items[i]) {
			t.Errorf("%+v, want %+v", got[i], items[i])
		}
	}
}

func TestSizeOfAFrameOfOneDelta(t *testing.T) {
	delta := item{kind: kindDelta, id: cartID(1), body: make([]byte, 41)}
	if n := len(delta.encode()); n != 1+2+16+2+41 {
		t.Errorf("a delta of 41 bytes takes %d", n)
	}
	if n := len(encodeFrame(header{seq: 100, ack: 100, acked: 100}, nil)); n != 7 {
		t.Errorf("a header takes %d bytes", n)
	}
	for _, it := range oneOfEach() {
		if n := len(it.encode()); n > itemOverhead+len(it.body) {
			t.Errorf("kind %d takes %d bytes beside its body", it.kind, n-len(it.body))
		}
	}
}

func TestTruncatedFrame(t *testing.T) {
	h, items := testFrame()
	for i := range items {
		frame := encodeFrame(h, items[i:i+1])
		for n := range frame {
			if n > 200 && n%97 != 0 {
				continue // within a body
			}
			if _, _, err := decodeFrame(frame[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("kind %d, %d of %d bytes: %v", items[i].kind, n, len(frame), err)
			}
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	id := cartID(1)
	ordered := encodeListing([]Version{{firstOf(7), 1}, {successor(firstOf(7)), 2}})
	many := make([]refusal, maxRefused+1)
	for i := range many {
		many[i] = refusal{seq: uint64(i + 1)}
	}
	tests := []struct {
		name  string
		h     header
		items []item
	}{
		{"items without a number", header{}, []item{{kind: kindWant, id: id}}},
		{"a number without items", header{seq: 1}, nil},
		{"refused twice", header{ack: 1, refused: []refusal{{seq: 1}, {seq: 1}}}, nil},
		{"refused in disorder", header{ack: 2, refused: []refusal{{seq: 2}, {seq: 1}}}, nil},
		{"refused and not acknowledged", header{ack: 1, refused: []refusal{{seq: 2}}}, nil},
		{"refused before the first", header{ack: 1, refused: []refusal{{seq: 0}}}, nil},
		{"refused beyond any frame", header{ack: 1, refused: []refusal{{seq: 1, index: maxItems}}}, nil},
		{"too many refused", header{ack: 1 << 20, refused: many}, nil},
		{"a part of nothing", header{seq: 1}, []item{{kind: kindPart, n: maxPiece + 1}}},
		{"a part of what needs none", header{seq: 1}, []item{{kind: kindPart, n: 2, body: []byte("x")}}},
		{"a part of too much", header{seq: 1}, []item{{kind: kindPart, n: maxItem + 1, body: []byte("x")}}},
		{"a part beyond the end", header{seq: 1}, []item{{kind: kindPart, n: maxPiece + 1, m: maxPiece + 1, body: []byte("x")}}},
		{"a part far beyond", header{seq: 1}, []item{{kind: kindPart, n: maxPiece + 1, m: 1<<64 - 1, body: []byte("x")}}},
		{"nothing fetched, with a payload", header{seq: 1}, []item{{kind: kindFetched, body: []byte("x")}}},
		{"no sets of slots", header{seq: 1}, []item{{kind: kindRoot}}},
		{"too few sets of slots", header{seq: 1}, []item{{kind: kindRoot, body: (&slotSet{}).append(someSlots.append(nil))}}},
		{"more than three sets of slots", header{seq: 1}, []item{{kind: kindRoot, body: (&slotSet{}).append(encodeSlots(&someSlots, &slotSet{}, &slotSet{}))}}},
		{"three sets without a slot", header{seq: 1}, []item{{kind: kindRoot, body: encodeSlots(&slotSet{}, &slotSet{}, &slotSet{})}}},
		{"more slots than there are", header{seq: 1}, []item{{kind: kindRoot, body: appendUint(nil, Slots+1)}}},
		{"a slot beyond the last one", header{seq: 1}, []item{{kind: kindRoot, body: []byte{1, 0x10, 0, 0, 0}}}},
		{"slots in disorder", header{seq: 1}, []item{{kind: kindRoot, body: []byte{2, 0, 2, 0, 1, 0, 0}}}},
		{"a slot twice", header{seq: 1}, []item{{kind: kindRoot, body: []byte{2, 0, 2, 0, 2, 0, 0}}}},
		{"fewer slots than it says", header{seq: 1}, []item{{kind: kindRoot, body: append(appendUint(nil, fewSlots), make([]byte, slotsSize+2)...)}}},
		{"a slot in both sets", header{seq: 1}, []item{{kind: kindRoot, body: encodeSlots(&someSlots, &slotSet{0: 3}, &slotSet{})}}},
		{"a slot that both own and the opener is bare of", header{seq: 1}, []item{{kind: kindRoot, body: encodeSlots(&someSlots, &slotSet{}, &slotSet{0: 3})}}},
		{"digests of one set of slots", header{seq: 1}, []item{{kind: kindDigests, body: someSlots.append(nil)}}},
		{"too few digests", header{seq: 1}, []item{{kind: kindDigests, body: (&slotSet{}).append(someSlots.append(nil))}}},
		{"too many digests", header{seq: 1}, []item{{kind: kindDigests, body: append(encodeDigests(new([Slots]uint64), &someSlots, &slotSet{}), make([]byte, digestSize)...)}}},
		{"half a cart listed", header{seq: 1}, []item{{kind: kindListing, id: firstOf(7), body: ordered[:listingSize+1]}}},
		{"listed twice", header{seq: 1}, []item{{kind: kindListing, id: firstOf(7), body: append(ordered[:listingSize:listingSize], ordered...)}}},
		{"listed before the first", header{seq: 1}, []item{{kind: kindListing, id: successor(firstOf(7)), body: ordered}}},
		{"listed of another slot", header{seq: 1}, []item{{kind: kindListing, id: firstOf(6), body: ordered}}},
		{"an unknown flag of a listing", header{seq: 1}, []item{{kind: kindListing, id: firstOf(7), m: 8}}},
		{"more than nothing listed", header{seq: 1}, []item{{kind: kindListing, id: firstOf(7), m: 1}}},
		{"an unknown end of a listing", header{seq: 1}, []item{{kind: kindListed, m: 4}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if h, items, err := decodeFrame(encodeFrame(test.h, test.items)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%v, %+v %+v", err, h, items)
			}
		})
	}
}

// A length that is announced and does not come must not be allocated.
func TestAnnouncedLengths(t *testing.T) {
	header := appendHeader(nil, &header{seq: 1})
	id := cartID(1)
	delta := append(appendBytes([]byte{byte(kindDelta)}, id[:]), 0xc6) // bin 32
	tests := map[string][]byte{
		"a body of 4 GiB":          append(bytes.Clone(header), binary.BigEndian.AppendUint32(bytes.Clone(delta), 1<<32-1)...),
		"a body of 16 MiB":         append(bytes.Clone(header), binary.BigEndian.AppendUint32(bytes.Clone(delta), 16<<20)...),
		"4 billion refused":        {1, 1, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff},
		"a body with other length": append(bytes.Clone(header), append(bytes.Clone(delta), 0, 0, 0, 2, 'x')...),
	}
	for name, frame := range tests {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := decodeFrame(frame)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrMalformed) || strings.Contains(err.Error(), "kind") {
			t.Errorf("%s: %v", name, err)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
			t.Errorf("%s: %d bytes allocated", name, allocated)
		}
	}
}

func TestParts(t *testing.T) {
	whole := item{kind: kindState, id: cartID(1), body: make([]byte, 3*maxPiece)}
	encoded := whole.encode()
	var pieces []item
	parts(whole.id, encoded, func(part []byte, last bool) {
		if len(part) > maxPiece+itemOverhead {
			t.Errorf("a part of %d bytes", len(part))
		}
		r := reader{b: part}
		var it item
		if r.item(&it); r.err != nil {
			t.Fatal(r.err)
		}
		pieces = append(pieces, it)
		expect(t, "last", last, len(pieces) == 4)
	})
	tests := []struct {
		name  string
		order []int
		whole bool
	}{
		{"in order", []int{0, 1, 2, 3}, true},
		{"begun again", []int{0, 1, 0, 1, 2, 3}, true},
		{"one is missing", []int{0, 1, 3}, false},
		{"the first is missing", []int{1, 2, 3}, false},
		{"one comes twice", []int{0, 1, 1, 2, 3}, false},
		{"the end comes again", []int{0, 1, 2, 3, 3}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var a assembly
			for i, n := range test.order {
				got, last, complete := a.add(&pieces[n])
				expect(t, "last", last, n == 3)
				if i < len(test.order)-1 {
					continue
				}
				expect(t, "whole", complete, test.whole)
				if complete && !bytes.Equal(got, encoded) {
					t.Error("another item")
				}
			}
		})
	}
}

func FuzzFrame(f *testing.F) {
	h, items := testFrame()
	items = slices.DeleteFunc(items, func(it item) bool { return len(it.body) > 1000 }) // which take long to minimise
	f.Add(encodeFrame(h, items))
	f.Add(encodeFrame(header{ack: 3}, nil))
	for i := range items {
		f.Add(encodeFrame(header{seq: 1}, items[i:i+1]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, items, err := decodeFrame(b)
		size := 0
		for _, it := range items {
			size += len(it.body)
		}
		if size > len(b) {
			t.Fatalf("%d bytes of bodies in %d bytes", size, len(b))
		}
		if n := cap(h.refused); n > len(b)+8 {
			t.Fatalf("room for %d refused items of %d bytes", n, len(b))
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		again := encodeFrame(h, items)
		if len(again) > len(b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
		h2, items2, err := decodeFrame(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encodeFrame(h2, items2), again) || len(items2) != len(items) {
			t.Fatalf("%x became %x", again, encodeFrame(h2, items2))
		}
	})
}

// What regions tell of themselves, and what goes between them, is read as it was written.
func TestCrossingsRoundTrip(t *testing.T) {
	it := someCrossing.wrap()
	if x, err := decodeCrossing(&it); err != nil || !reflect.DeepEqual(x, someCrossing) {
		t.Errorf("%+v, %v, want %+v", x, err, someCrossing)
	}
	it = someRoster.item()
	if w, err := decodeWord(&it); err != nil || !reflect.DeepEqual(w, someRoster) {
		t.Errorf("%+v, %v, want %+v", w, err, someRoster)
	}
	delta := item{kind: kindDelta, id: cartID(1), body: make([]byte, 64)}
	x := crossing{to: 1 << 63, from: 1 << 62, origin: 1 << 61, item: delta}
	if more := len(x.encode()) - len(delta.encode()); more > 42 {
		t.Errorf("a change takes %d bytes more when it crosses", more)
	}
}

func FuzzCrossing(f *testing.F) {
	for _, it := range oneOfEach() {
		if it.kind == kindCross {
			f.Add(it.id[:], it.n, it.m, it.body)
		}
	}
	f.Fuzz(func(t *testing.T, id []byte, n, m uint64, b []byte) {
		it := item{kind: kindCross, n: n, m: m, body: b}
		copy(it.id[:], id)
		x, err := decodeCrossing(&it)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		again := x.wrap()
		if y, err := decodeCrossing(&again); err != nil || len(again.body) > len(b) || !bytes.Equal(y.encode(), x.encode()) {
			t.Fatalf("%+v became %+v, %v", x, y, err)
		}
	})
}

func FuzzRegion(f *testing.F) {
	for _, it := range oneOfEach() {
		if it.kind == kindRegion {
			f.Add(it.m, it.body)
		}
	}
	f.Fuzz(func(t *testing.T, m uint64, b []byte) {
		w, err := decodeWord(&item{kind: kindRegion, m: m, body: b})
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if n := cap(w.roster.sites); n > len(b)/minSeat || n > maxSites {
			t.Fatalf("room for %d sites of %d bytes", n, len(b))
		}
		again := w.item()
		if v, err := decodeWord(&again); err != nil || len(again.body) > len(b) || !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v became %+v, %v", w, v, err)
		}
	})
}

// What a bridge of another region sends, whatever it is, never makes the Core panic.
func FuzzReceiveFromAbroad(f *testing.F) {
	h := header{seq: 1}
	for _, it := range oneOfEach() {
		f.Add(encodeFrame(h, []item{it}))
	}
	for _, inner := range oneOfEach() {
		if inner.kind.crosses() && len(inner.body) < 1000 {
			x := crossing{to: regionHash("eu"), process: 1, from: regionHash("us"), origin: 2, ticket: 1, item: inner}
			f.Add(encodeFrame(h, []item{(&word{region: "us", roster: roster{1, []seat{{hash: 5, start: 2}}}}).item(), x.wrap()}))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScene(t, 0)
		a, peer := s.add(memberIn("eu", 1)), s.add(memberIn("us", 2))
		a.SetBridges(true, []Member{peer.self})
		if err := a.Up(peer.self, MaxWire); err != nil {
			t.Fatal(err)
		}
		a.carts.tolerant = true
		if err := a.Receive(peer.start, b); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		for range 1000 {
			if !a.work() && !a.write() {
				break
			}
		}
	})
}

// What a peer sends, whatever it is, never makes the Core panic.
func FuzzReceive(f *testing.F) {
	h, items := testFrame()
	h.seq, h.ack, h.refused = 1, 0, nil
	items = slices.DeleteFunc(items, func(it item) bool { return len(it.body) > 1000 })
	f.Add(encodeFrame(h, items))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newScene(t, 2)
		a, peer := s.actors[0], s.actors[1]
		if err := a.Up(peer.o.Self, MaxWire); err != nil {
			t.Fatal(err)
		}
		a.carts.tolerant = true
		if err := a.Receive(peer.start, b); err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatal(err)
		}
		for range 1000 { // answers are written, and lead nowhere
			if !a.work() && !a.write() {
				break
			}
		}
	})
}

// Frames that the Core makes are within the bounds that it asks of others.
func TestFramesAreWithinBounds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		o := outbox{limit: defaultMaxOutbox}
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 40, 1 << 10, 60 << 10, 190 << 10, 600 << 10}), 1, 40).Draw(r, "sizes")
		n := 0
		for i, size := range sizes {
			it := item{kind: kindDelta, id: cartID(i), body: make([]byte, size)}
			if encoded := it.encode(); len(encoded) > maxPiece {
				o.pushParts(entry{encoded: encoded}, o.due)
				n += 1 + len(encoded)/maxPiece
			} else {
				o.push(entry{encoded: encoded}, o.due)
				n++
			}
		}
		h := header{ack: 1 << 63, refused: make([]refusal, maxRefused)}
		for i := range h.refused {
			h.refused[i] = refusal{seq: 1<<62 + uint64(i), index: i}
		}
		for o.waiting() > 0 {
			h.seq = o.seq + 1
			frame := o.fill(appendHeader(nil, &h), o.due)
			if len(frame) > MaxFrame {
				r.Fatalf("a frame of %d bytes", len(frame))
			}
			_, items, err := decodeFrame(frame)
			if err != nil || len(items) == 0 {
				r.Fatalf("%d items: %v", len(items), err)
			}
			n -= len(items)
			if !o.open() && o.sentBytes < o.window() && o.waiting() > 0 {
				r.Fatal("what waits is not sent")
			}
		}
		if n != 0 {
			r.Fatalf("%d items are missing", n)
		}
	})
}
