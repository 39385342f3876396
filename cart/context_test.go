package cart

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

func TestContextRoundTrip(t *testing.T) {
	c := create(t, start(t, Options{}), addN("A", 1))
	s := c.read()
	x := c.contextOf(s)
	if !slices.Equal(x.vv, s.VV) || !x.seenBy(s) || x.seenBy(new(State)) {
		t.Fatalf("the context of %v is %v", s.VV, x.vv)
	}
	var none *Context
	if !none.seenBy(new(State)) {
		t.Error("no context is not seen")
	}
	// What was shown is a part of it: lines, quantities and prices.
	shown := map[uint64]string{x.shown: "A=1"}
	for _, command := range []Command{
		addN("A", 1), addN("B", 1),
		Add{bySKU("B"), 1, Details{UnitPrice: &Money{0, "EUR"}}},
		Set{bySKU("B"), 2, Details{UnitPrice: &Money{1, "EUR"}}},
	} {
		s := c.do(command).State
		x := c.contextOf(s)
		if before, ok := shown[x.shown]; ok {
			t.Errorf("%q and %q have one checksum", before, linesOf(s))
		}
		shown[x.shown] = linesOf(s)
	}
	before := c.contextOf(c.read()).shown
	if after := c.contextOf(c.do(PutCode{"X"}).State); after.shown != before {
		t.Error("a code changed the checksum of the lines")
	}
}

// encodeContext makes the text of a context with any content, valid or not.
func encodeContext(cart ID, content []byte) string {
	raw := append(slices.Clip(content), make([]byte, 8)...) // shown
	return base64.RawURLEncoding.EncodeToString(binary.LittleEndian.AppendUint32(raw, bind(cart, raw)))
}

func TestMalformedContexts(t *testing.T) {
	c := create(t, start(t, Options{}), addN("A", 1))
	var v View
	v.Read(c.id, c.read(), DefaultLimits)
	text := string(v.AppendContext(nil))
	dot := func(b []byte, replica uint64, seq ...byte) []byte {
		return append(binary.LittleEndian.AppendUint64(b, replica), seq...)
	}
	if _, err := ParseContext(c.id, encodeContext(c.id, dot(dot([]byte{1, 2}, 1, 1), 2, 0x80, 1))); err != nil {
		t.Fatalf("a made-up context: %v", err)
	}
	bad := map[string]string{
		"empty":                     "",
		"garbage":                   "not a context!",
		"padded":                    text + "=",
		"twice":                     text + text,
		"with a line break":         text[:10] + "\n" + text[10:],
		"in standard base64":        "+" + text[1:],
		"another version":           encodeContext(c.id, dot([]byte{2, 1}, 1, 1)),
		"of another cart":           encodeContext(NewID(), dot([]byte{1, 1}, 1, 1)),
		"no vector":                 encodeContext(c.id, []byte{1}),
		"a vector too short":        encodeContext(c.id, dot([]byte{1, 2}, 1, 1)),
		"a vector too long":         encodeContext(c.id, dot(dot([]byte{1, 1}, 1, 1), 2, 1)),
		"unsorted":                  encodeContext(c.id, dot(dot([]byte{1, 2}, 2, 1), 1, 1)),
		"a replica twice":           encodeContext(c.id, dot(dot([]byte{1, 2}, 1, 1), 1, 2)),
		"seq 0":                     encodeContext(c.id, dot([]byte{1, 1}, 1, 0)),
		"seq with needless zeros":   encodeContext(c.id, dot([]byte{1, 1}, 1, 0x81, 0)),
		"length with needless zero": encodeContext(c.id, dot([]byte{1, 0x81, 0}, 1, 1)),
		"seq without an end":        encodeContext(c.id, dot([]byte{1, 1}, 1, 0x80)),
		"a huge length":             encodeContext(c.id, binary.AppendUvarint([]byte{1}, 1<<62)),
		"too long":                  encodeContext(c.id, make([]byte, maxContext)),
	}
	for i := range len(text) {
		bad["cut at "+text[:i]] = text[:i]
	}
	for name, text := range bad {
		x, err := ParseContext(c.id, text)
		if !errors.Is(err, errContext) || x != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseContext(NewID(), text); !errors.Is(err, errContext) {
		t.Errorf("for another cart: %v", err)
	}
	// The last bits of base64 that carry nothing have one spelling, too.
	if n := len(text); base64.RawURLEncoding.DecodedLen(n)*8 < n*6 {
		other := text[:n-1] + string(text[n-1]+1)
		if _, err := ParseContext(c.id, other); !errors.Is(err, errContext) {
			t.Errorf("another spelling: %v", err)
		}
	}
}

func FuzzParseContext(f *testing.F) {
	id := ID{1, 2, 3}
	a := author{f, 1, newClock().Now()}
	s := a.apply(a.create(Token{}), addN("A", 1))
	b := author{f, 1 << 60, newClock().Now()}
	s = b.addOnes(s, 300)
	var v View
	v.Read(id, s, DefaultLimits)
	text := string(v.AppendContext(nil))
	f.Add(text)
	f.Add(text[:len(text)-1])
	f.Add(encodeContext(id, []byte{1, 0}))
	f.Add(text[:10] + "\r\n" + text[10:])
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		// Random text does not get past the checksum: read it as the content, too.
		for _, text := range []string{text, encodeContext(id, []byte(text))} {
			x, err := ParseContext(id, text)
			if err != nil {
				continue
			}
			for i, d := range x.vv {
				if d.Seq == 0 || i > 0 && x.vv[i-1].Replica >= d.Replica {
					t.Fatalf("%v is not a version vector", x.vv)
				}
			}
			raw := binary.AppendUvarint([]byte{contextVersion}, uint64(len(x.vv)))
			for _, d := range x.vv {
				raw = binary.AppendUvarint(binary.LittleEndian.AppendUint64(raw, uint64(d.Replica)), d.Seq)
			}
			raw = binary.LittleEndian.AppendUint64(raw, x.shown)
			raw = binary.LittleEndian.AppendUint32(raw, bind(id, raw))
			if again := base64.RawURLEncoding.EncodeToString(raw); again != text {
				t.Fatalf("%q is another spelling of %q", text, again)
			}
		}
	})
}

// What takes off sees what its client was shown, and nothing else.
func TestCommandsAreNarrowedToTheContext(t *testing.T) {
	for _, tc := range []struct {
		name         string
		seen, unseen []Command
		do           Command
		want         string
	}{
		{"remove", []Command{addN("A", 2)}, []Command{addN("A", 3)}, remove("A"), "A=3"},
		{"remove what was not seen", nil, []Command{addN("A", 3)}, remove("A"), "A=3"},
		{"set", []Command{addN("A", 2)}, []Command{addN("A", 3)}, setN("A", 1), "A=4"},
		{"set over a set that was not seen", []Command{setN("A", 2)}, []Command{setN("A", 5)}, setN("A", 3), "A=3"},
		{"set to 0", []Command{addN("A", 2)}, []Command{addN("A", 3)}, setN("A", 0), "A=3"},
		{"take off some", []Command{addN("A", 5)}, []Command{addN("A", 3)}, takeOff("A", 2), "A=6"},
		{"take off all that was seen", []Command{addN("A", 2)}, []Command{addN("A", 3)}, takeOff("A", 4), "A=3"},
		{"take off what was not seen", nil, []Command{addN("A", 3)}, takeOff("A", 1), "A=3"},
		{"take off what was removed meanwhile", []Command{addN("A", 5)}, []Command{remove("A"), addN("A", 4)}, takeOff("A", 2), "A=4"},
		{"clear", []Command{addN("A", 2), addN("B", 1)}, []Command{addN("A", 3), addN("C", 1)}, Clear{}, "A=3 C=1"},
		{"add", []Command{addN("A", 2)}, []Command{addN("A", 3)}, addN("A", 1), "A=6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, key := range []string{"", "k"} {
				c := create(t, start(t, Options{}), tc.seen...)
				seen := c.contextOf(c.read())
				c.do(tc.unseen...)
				q := Request{Context: seen, Key: key, Steps: stepsOf([]Command{tc.do})}
				c.request(q)
				c.want(tc.want)
				if key != "" {
					wantReplayed(t, c.request(q), true)
					c.want(tc.want)
				}
			}
		})
	}
	t.Run("code", func(t *testing.T) {
		c := create(t, start(t, Options{}))
		seen := c.contextOf(c.read())
		c.do(PutCode{"X"})
		c.request(Request{Context: seen, Steps: stepsOf([]Command{RemoveCode{"X"}})})
		if !c.read().Members.Has("X") {
			t.Error("a code was removed by who had not seen it")
		}
	})
}

// Decrements under a context that never moves do not make the line's memory grow for ever.
func TestDecrementsUnderAStaleContextAreBounded(t *testing.T) {
	store, now := newFakeStore(), newClock()
	c := &client{t, start(t, Options{Store: store, Now: now.Now}), NewID(), NewToken()}
	a := author{t, 1, now.Now()}
	store.put(c.id, a.addOnes(a.create(c.token), maxEntries-1))
	seen := c.contextOf(c.read())
	q := Request{Context: seen, Steps: stepsOf([]Command{takeOff("A", 1)})}
	c.request(q)
	_, err := c.try(q)
	wantReason(t, err, QuantityExceeded)
}

func TestContextAhead(t *testing.T) {
	ahead := func(c *client) *Context {
		x := c.contextOf(c.read())
		return &Context{vv: x.vv.With(x.vv.Next(x.vv[0].Replica))}
	}
	t.Run("never comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := create(t, start(t, Options{}), addN("A", 1))
			x := ahead(c)
			for _, call := range []func() error{
				func() error { _, err := c.s.Read(t.Context(), c.id, c.access(), x); return err },
				func() error {
					_, err := c.try(Request{Context: x, Steps: stepsOf([]Command{addN("A", 1)})})
					return err
				},
			} {
				began := time.Now()
				wantReason(t, call(), ContextUnavailable)
				if waited := time.Since(began); waited != 250*time.Millisecond {
					t.Errorf("waited %v", waited)
				}
			}
			c.want("A=1")
		})
	})
	t.Run("comes in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := create(t, start(t, Options{}), addN("A", 1))
			x := ahead(c)
			began := time.Now()
			answers := make(chan error, 2)
			go func() {
				s, err := c.s.Read(t.Context(), c.id, c.access(), x)
				if err == nil && linesOf(s) != "A=2" {
					err = errors.New("the read shows " + linesOf(s))
				}
				answers <- err
			}()
			go func() {
				_, err := c.try(Request{Context: x, Steps: stepsOf([]Command{PutCode{"X"}})})
				answers <- err
			}()
			time.Sleep(100 * time.Millisecond)
			c.do(addN("A", 1))
			for range 2 {
				if err := <-answers; err != nil {
					t.Error(err)
				}
			}
			if waited := time.Since(began); waited != 100*time.Millisecond {
				t.Errorf("waited %v", waited)
			}
		})
	})
	t.Run("erased meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := create(t, start(t, Options{}), addN("A", 1))
			x := ahead(c)
			answers := make(chan error, 2)
			go func() {
				_, err := c.s.Read(t.Context(), c.id, c.access(), x)
				answers <- err
			}()
			go func() {
				_, err := c.try(Request{Context: x, Steps: stepsOf([]Command{addN("A", 1)})})
				answers <- err
			}()
			synctest.Wait()
			if _, err := c.s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := <-answers; !isNotFound(err) {
					t.Errorf("the error is %v", err)
				}
			}
		})
	})
	// A read waits until what the client has seen is durable, not only known.
	t.Run("known but not durable", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newFakeStore()
			c := create(t, start(t, Options{Store: store}), addN("A", 1))
			x := ahead(c)
			_, release := store.blockCommits()
			defer release()
			c.begin("", addN("A", 1))
			_, err := c.s.Read(t.Context(), c.id, c.access(), x)
			wantReason(t, err, ContextUnavailable)
			answer := make(chan *State)
			go func() {
				s, _ := c.s.Read(t.Context(), c.id, c.access(), x)
				answer <- s
			}()
			synctest.Wait()
			release()
			if s := <-answer; s == nil || linesOf(s) != "A=2" {
				t.Error("the read did not get what its client has seen")
			}
		})
	})
}

// A context with the vector of many residences still fits its bound.
func TestContextOfManyResidences(t *testing.T) {
	a := author{t, 1, newClock().Now()}
	s := a.create(Token{})
	for i := range 300 {
		b := author{t, crdt.ReplicaID(1<<60 + i), newClock().Now()}
		s = b.addOnes(s, 10)
	}
	var v View
	v.Read(ID{}, s, DefaultLimits)
	x, err := ParseContext(ID{}, string(v.AppendContext(nil)))
	if err != nil || !slices.Equal(x.vv, s.VV) {
		t.Fatal(err)
	}
}
