package crdt

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
	"pgregory.net/rapid"
)

// TestCodec: what was encoded decodes to itself, derived content included, and encodes to the same
// bytes again.
func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := lived(t)
		for _, at := range h.names {
			s := h.states[at]
			z := h.decodeState(AppendState(nil, s))
			if !equal(s, z) || !sameContent(s, z) {
				t.Fatalf("%+v became %+v", s, z)
			}
			if !slices.Equal(s.order, z.order) || !slices.Equal(s.muted, z.muted) {
				t.Fatalf("order %v, muted %v became %v and %v", s.order, s.muted, z.order, z.muted)
			}
		}
		for _, d := range h.drawDeltas(t, 3) {
			b := AppendDelta(nil, d)
			z := h.decodeDelta(b)
			if !bytes.Equal(b, AppendDelta(nil, z)) || !sameContent(&d.State, &z.State) ||
				!slices.Equal(d.Base, z.Base) || !slices.Equal(d.Cancelled, z.Cancelled) || !slices.Equal(d.Forgotten, z.Forgotten) {
				t.Fatalf("%+v became %+v", d, z)
			}
		}
	})
}

// sameContent compares content field by field; empty and nil are the same.
func sameContent(a, b *State) bool {
	return slices.Equal(a.VV, b.VV) && slices.Equal(a.Members, b.Members) &&
		slices.Equal(a.Registers, b.Registers) && slices.Equal(a.Operations, b.Operations) &&
		a.Lifetime == b.Lifetime && a.Erased == b.Erased &&
		slices.EqualFunc(a.Lines, b.Lines, func(l, m *Line) bool {
			return l.Key == m.Key && l.First == m.First &&
				slices.Equal(l.Counter, m.Counter) && slices.Equal(l.Registers, m.Registers)
		})
}

// TestMsgpack: states and deltas are one value among others in a msgpack stream.
func TestMsgpack(t *testing.T) {
	s := everythingState(t)
	d := Event{Replica: 1, At: s.Lifetime.Updated + 1}.Clear(s)
	type message struct {
		Before int
		State  *State
		Delta  *Delta
		After  string
	}
	b, err := msgpack.Marshal(message{1, s, d, "end"})
	if err != nil {
		t.Fatal(err)
	}
	var got message
	if err := msgpack.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Before != 1 || got.After != "end" || !equal(got.State, s) ||
		!bytes.Equal(AppendDelta(nil, got.Delta), AppendDelta(nil, d)) {
		t.Errorf("became %+v", got)
	}
	for i := range b {
		if err := msgpack.Unmarshal(b[:i], &got); err == nil {
			t.Errorf("the first %d bytes decode", i)
		}
	}
}

// everythingState has content of every kind.
func everythingState(t testing.TB) *State {
	s := cartOfTen(t)
	at := func() Event { return Event{Replica: 7, At: s.Lifetime.Updated + 1} }
	operation := func(id byte) Event {
		e := at()
		e.Operation = OperationID{id}
		return e
	}
	s = must(t, s, at().Assign(s, "SKU-0001", 5))
	s = must(t, s, at().Insert(s, "code"))
	s = must(t, s, operation(1).Add(s, "SKU-0002", 300))
	s = must(t, s, operation(2).Remove(s, "SKU-0002"))
	s = must(t, s, operation(3).Add(s, strings.Repeat("k", 300), 70_000))
	s = must(t, s, at().Decrement(s, strings.Repeat("k", 300), 40_000))
	d := at().Touch(s)
	d.Lifetime.Created, d.Lifetime.Expires = benchmarkTime, benchmarkTime+1<<40
	at().Write(d, "note", strings.Repeat("n", 40), false)
	at().Write(d, "gift", "", true)
	at().WriteLine(d, "nowhere", "price", "1", false)
	return must(t, s, d)
}

// everythingDelta has content of every kind.
func everythingDelta(t testing.TB) *Delta {
	s := everythingState(t)
	e := Event{Replica: 7, At: s.Lifetime.Updated + 1, Operation: OperationID{9}}
	d := e.Assign(s, "SKU-0005", 2)
	e.Write(d, "note", "x", false)
	e.WriteLine(d, "SKU-0005", "price", "2", false)
	e.Forget(s, d, e.At)
	e = Event{Replica: 7, At: e.At + 1}
	d = Merge(d, e.Insert(must(t, s, d), "code"))
	if len(d.Cancelled) == 0 || len(d.Forgotten) == 0 || len(d.Members) == 0 || len(d.Operations) == 0 {
		t.Fatalf("%+v does not have everything", d)
	}
	return d
}

// TestTruncated: no part of an encoding is one, nor is one with something after it.
func TestTruncated(t *testing.T) {
	s, d := AppendState(nil, everythingState(t)), AppendDelta(nil, everythingDelta(t))
	for i := range s {
		if _, err := DecodeState(s[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d bytes of a state: %v", i, err)
		}
	}
	for i := range d {
		if _, err := DecodeDelta(d[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d bytes of a delta: %v", i, err)
		}
	}
	if _, err := DecodeState(append(s, 0)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte after the end: %v", err)
	}
	if _, err := DecodeState(d); !errors.Is(err, ErrMalformed) {
		t.Errorf("a delta for a state: %v", err)
	}
	if _, err := DecodeDelta(s[:len(s)-1]); !errors.Is(err, ErrMalformed) {
		t.Errorf("a state for a delta: %v", err)
	}
}

// wire builds an encoding by hand: numbers, strings, nil and raw bytes.
func wire(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = appendNil(b)
		case int:
			b = appendInt(b, int64(v))
		case uint64:
			b = appendUint(b, v)
		case string:
			b = appendString(b, v)
		case OperationID:
			b = appendID(b, v)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

// TestHostile decodes what no encoder wrote. Nothing of it may be taken, and none may make the
// decoder allocate much more than its own length.
func TestHostile(t *testing.T) {
	const huge = uint64(math.MaxUint64)
	const (
		members    = int(flagMembers)
		registers  = int(flagRegisters)
		operations = int(flagOperations)
		cancelled  = int(flagDelta | flagCancelled)
		forgotten  = int(flagDelta | flagForgotten)
	)
	id := OperationID{1}
	// A state begins with version, flags, vector, updated, lines; a delta's vector has a base.
	state := func(flags int, rest ...any) []byte {
		return append(wire(wireVersion, flags, 2, 1, 3, 2, 3, 9), wire(rest...)...)
	}
	delta := func(flags int, rest ...any) []byte {
		return append(wire(wireVersion, flags, 1, 1, 1, 5, 9), wire(rest...)...)
	}
	for name, b := range map[string][]byte{
		"nothing":                nil,
		"version 0":              wire(0, 0, 0, 0, 0),
		"version 2":              wire(2, 0, 0, 0, 0),
		"unknown flag":           wire(wireVersion, int(flagsKnown)+1, 0, 0, 0),
		"all flags":              wire(wireVersion, huge, 0, 0, 0),
		"cancelled in a state":   state(int(flagCancelled), 0, 1, 0, 1, 1),
		"erased with more":       wire(wireVersion, int(flagErased|flagMembers)),
		"something after erased": wire(wireVersion, int(flagErased), 0),
		"nil for a number":       wire(nil, 0, 0, 0, 0),
		"nil for flags":          wire(wireVersion, nil, 0, 0, 0),
		"nil for a count":        wire(wireVersion, 0, nil, 0, 0),
		"nil for a seq":          wire(wireVersion, 0, 1, 1, nil, 0, 0),
		"nil for a time":         wire(wireVersion, 0, 0, nil, 0),
		"nil for n":              state(0, 1, "A", nil, 0, 1, 0, 1, 1, nil),
		"negative for a number":  wire(wireVersion, 0, -1, 0, 0),
		"float for a number":     wire(wireVersion, 0, []byte{msgpcode.Double, 0, 0, 0, 0, 0, 0, 0, 0}, 0, 0),
		"a number in two bytes":  wire(wireVersion, 0, []byte{msgpcode.Uint8, 0}, 0, 0),
		"a number in nine bytes": wire([]byte{msgpcode.Uint64, 0, 0, 0, 0, 0, 0, 0, wireVersion}, 0, 0, 0, 0),
		"a signed one":           state(0, 1, "A", nil, 0, 1, 0, 1, 1, []byte{msgpcode.Int8, 5}),
		"a long negative":        state(0, 1, "A", nil, 0, 1, 0, 1, 1, []byte{msgpcode.Int16, 0xff, 0xf0}),
		"a long string":          state(0, 1, []byte{msgpcode.Str8, 1, 'A'}, nil, 0, 0),
		"bytes for a string":     state(0, 1, []byte{msgpcode.Bin8, 1, 'A'}, nil, 0, 0),

		"huge vector":          wire(wireVersion, 0, huge, 0, 0),
		"vector of its bytes":  wire(wireVersion, 0, 200, make([]byte, 400)),
		"long vector":          wire(wireVersion, 0, MaxReplicas+1, bytes.Repeat([]byte{1}, 2*MaxReplicas+2)),
		"huge lines":           state(0, huge),
		"lines of 2^31":        state(0, 1<<31),
		"huge key":             state(0, 1, []byte{msgpcode.Str32, 0xff, 0xff, 0xff, 0xff}),
		"key beyond the end":   state(0, 1, []byte{msgpcode.Str16, 0x1f, 0xff}),
		"key beyond limits":    state(0, 1, strings.Repeat("k", MaxString+1), nil, 0, 0),
		"huge registers":       state(0, 1, "A", nil, huge),
		"huge runs":            state(0, 1, "A", nil, 0, huge),
		"huge run":             state(0, 1, "A", nil, 0, 1, 0, huge),
		"huge n":               state(0, 1, "A", nil, 0, 1, 0, 1, 1, MaxN+1),
		"huge negative n":      state(0, 1, "A", nil, 0, 1, 0, 1, 1, -MaxN-1),
		"n of 2^64-1":          state(0, 1, "A", nil, 0, 1, 0, 1, 1, huge),
		"huge seq":             state(0, 1, "A", nil, 0, 1, 0, 2, huge, 1, 2, 1),
		"huge members":         state(members, 0, huge),
		"huge state registers": state(registers, 0, huge),
		"huge operations":      state(operations, 0, huge),
		"huge cancelled":       delta(cancelled, 0, huge),
		"huge run of dots":     delta(cancelled, 0, 1, 0, 1, huge),
		"run past the vector":  delta(cancelled, 0, 1, 0, 5, 3),
		"run of no dots":       delta(cancelled, 0, 1, 0, 1, 0),
		"many runs":            wire(wireVersion, cancelled, 1, 1, 1, huge>>1, 9, 0, 2, 0, 1, MaxDots, 0, MaxDots+2, 1),
		"time overflows":       wire(wireVersion, int(flagCreated), 0, huge, math.MaxInt64, 0, 0),
		"time before 1970":     wire(wireVersion, int(flagCreated), 0, 9, -1, 0, 0),
		"counter overflows":    wire(wireVersion, int(flagCreated), 0, 9, 0, 1<<logicalBits, 0),
		"base overflows":       wire(wireVersion, int(flagDelta), 1, 1, huge, 2, 0, 0),

		"vector out of order":          wire(wireVersion, 0, 2, 2, 1, 1, 1, 0, 0),
		"vector with a replica twice":  wire(wireVersion, 0, 2, 1, 1, 1, 1, 0, 0),
		"replica without events":       wire(wireVersion, 0, 1, 1, 0, 0, 0),
		"lines out of order":           state(0, 2, "B", nil, 0, 0, "A", nil, 0, 0),
		"a line twice":                 state(0, 2, "A", nil, 0, 0, "A", nil, 0, 0),
		"first of zero":                state(0, 1, "A", 0, 0, 0, 0, 0),
		"created zero":                 wire(wireVersion, int(flagCreated), 0, 0, 0, 0, 0),
		"expires zero":                 wire(wireVersion, int(flagExpires), 0, 0, 0, 0, 0),
		"entries out of order":         state(0, 1, "A", nil, 0, 2, 2, 1, 1, 1, 0, 1, 1, 1),
		"an entry twice":               state(0, 1, "A", nil, 0, 1, 0, 2, 1, 1, 0, 1),
		"a run in two":                 state(0, 1, "A", nil, 0, 2, 0, 1, 1, 1, 0, 1, 2, 1),
		"a run of nothing":             state(0, 1, "A", nil, 0, 1, 0, 0, 0, 0),
		"an assignment of zero":        state(0, 1, "A", nil, 0, 1, 1, 1, 0, 0, 0),
		"unknown replica":              state(0, 1, "A", nil, 0, 1, 4, 1, 1, 1),
		"unknown event":                state(0, 1, "A", nil, 0, 1, 0, 1, 4, 1),
		"event zero":                   state(0, 1, "A", nil, 0, 1, 1, 0, 1, 0, 0),
		"entry below the base":         delta(int(flagDelta), 1, "A", nil, 0, 1, 0, 1, 1, 1),
		"registers out of order":       state(registers, 0, 2, "b", "", 0, 1, 0, 0, "a", "", 0, 1, 0, 0),
		"register of an unknown event": state(registers, 0, 1, "a", "", 0, 4, 0, 0),
		"no registers":                 state(registers, 0, 0),
		"no members":                   state(members, 0, 0),
		"members out of order":         state(members, 0, 2, "a", 0, 2, "b", 0, 1),
		"no operations":                state(operations, 0, 0),
		"short operation id":           state(operations, 0, 1, []byte{msgpcode.Bin8, 15}, make([]byte, 15), 0, 1, 0, 0, 0),
		"operations out of order":      state(operations, 0, 2, id, 0, 2, 0, 0, id, 0, 1, 0, 0),
		"no cancelled":                 delta(cancelled, 0, 0),
		"no forgotten":                 delta(forgotten, 0, 0),
		"dots out of order":            delta(cancelled, 0, 2, 0, 4, 1, 0, 2, 1),
		"dots in two runs":             delta(cancelled, 0, 2, 0, 2, 1, 0, 3, 1),
		"live and cancelled":           delta(cancelled, 1, "A", nil, 0, 1, 0, 1, 3, 1, 1, 0, 3, 1),
		"member and cancelled":         delta(cancelled|members, 0, 1, "a", 0, 3, 1, 0, 3, 1),
		"known and forgotten":          delta(forgotten|operations, 0, 1, id, 0, 3, 0, 0, 1, 0, 3, 1),
	} {
		t.Run(name, func(t *testing.T) {
			allocated := allocates(func() {
				if s, err := DecodeState(b); !errors.Is(err, ErrMalformed) {
					t.Errorf("decodes to %+v, %v", s, err)
				}
				if d, err := DecodeDelta(b); !errors.Is(err, ErrMalformed) {
					t.Errorf("decodes to %+v, %v", d, err)
				}
			})
			limit := 8<<10 + 64*uint64(len(b))
			if name == "many runs" { // of MaxDots, before the one that is too much
				limit += 2 * MaxDots * uint64(unsafe.Sizeof(Dot{})) // twice with the race detector
			}
			if allocated > limit {
				t.Errorf("allocated %d bytes for %d", allocated, len(b))
			}
		})
	}
	// The helpers make what decodes: it is the oddity of each case that is refused.
	for name, b := range map[string][]byte{
		"state": state(members|registers|operations, 1, "A", nil, 0, 2, 0, 1, 1, 1, 2, 1, 1, 1,
			1, "a", 0, 2, 1, "b", "", 0, 1, 0, 0, 1, id, 0, 3, 0, 0),
		"delta": delta(cancelled|forgotten, 1, "A", nil, 0, 1, 0, 1, 3, 1, 1, 0, 4, 2, 1, 0, 1, 1),
	} {
		_, stateErr := DecodeState(b)
		_, deltaErr := DecodeDelta(b)
		if name == "state" && stateErr != nil || name == "delta" && deltaErr != nil {
			t.Errorf("%s: %v, %v", name, stateErr, deltaErr)
		}
	}
}

// allocates returns how many bytes f allocates.
func allocates(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
