package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func expect[T any](t tester, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func TestChangeIsHeldByEachPeerOnce(t *testing.T) {
	s := connected(t, 3)
	holders := s.actors[0].change(cartID(1))
	s.settle()
	expect(t, "holders", *holders, []uint64{2, 3})
	s.run(5 * time.Second)
	expect(t, "holders", *holders, []uint64{2, 3})
	s.expectEqual(1)
}

// What a node holds that is about to leave, counts for nothing.
func TestDrainingPeerDoesNotCount(t *testing.T) {
	s := connected(t, 3)
	a := s.actors[0]
	expect(t, "peers", a.Peers(), 2)
	expect(t, "handed over", a.HandedOver(), true)
	before := a.change(cartID(1))
	s.actors[1].SetDraining(true)
	after := a.change(cartID(1))
	expect(t, "handed over, with changes on the way", a.HandedOver(), false)
	s.settle()
	expect(t, "holders of what was on the way when one began to drain", *before, []uint64{3})
	expect(t, "holders", *after, []uint64{3})
	expect(t, "peers", a.Peers(), 1)
	expect(t, "handed over to one", a.HandedOver(), false)
	expect(t, "alive", []bool{a.Alive(1), a.Alive(2), a.Alive(3)}, []bool{true, false, true})
	expect(t, "whose loss the carts were told of", a.carts.lost, []uint64{2})
	s.expectEqual(1) // it gets everything all the same
	s.actors[1].SetDraining(false)
	s.settle()
	expect(t, "peers", a.Peers(), 2)
}

func TestRefusedDeltaIsFollowedByTheState(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.change(cartID(1))
	s.settle()
	b.carts.evict(cartID(1)) // evicted, say
	holders := a.change(cartID(1))
	s.settle()
	expect(t, "holders of the delta alone", *holders, []uint64(nil))
	expect(t, "states", b.carts.states, 1)
	expect(t, "refused here", b.link(a).Counters.Refused, 1)
	expect(t, "refused there", a.link(b).Counters.RefusedByPeer, 1)
	s.expectEqual(1)
}

func TestManyRefusedDeltasOfACartAreFollowedByOneState(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.carts.put(cartID(1), vector{0, 5})
	for range 100 {
		a.change(cartID(1))
	}
	s.settle()
	expect(t, "states", b.carts.states, 1)
	s.expectEqual(1)
}

func TestRefusedPayloadIsLeftToRepair(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	b.carts.refuse = func([16]byte) bool { return true }
	holders := a.change(cartID(1))
	s.settle()
	expect(t, "synced", a.Synced(), false)
	s.run(3 * time.Second)
	expect(t, "holders", *holders, []uint64(nil))
	expect(t, "synced after the state was refused too", a.Synced(), true)
	b.carts.refuse = nil
	s.run(5 * time.Second)
	s.expectEqual(1)
}

func TestRefusalsAreNotLostWithTheirFrame(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	b.carts.refuse = func(id [16]byte) bool { return id == cartID(1) }
	drop := true
	s.carry = func(from, _ *actor, frame []byte) [][]byte {
		if from == b && drop {
			return nil
		}
		return [][]byte{frame}
	}
	refused := a.change(cartID(1))
	s.settle() // the acknowledgement that names it is lost
	drop = false
	taken := a.change(cartID(2))
	s.run(100 * time.Millisecond)
	expect(t, "holders of what was refused", *refused, []uint64(nil))
	expect(t, "holders of what was not", *taken, []uint64{2})
}

func TestDuplicateFramesAreIgnored(t *testing.T) {
	s := connected(t, 2)
	s.carry = func(_, _ *actor, frame []byte) [][]byte { return [][]byte{frame, frame} }
	a, b := s.actors[0], s.actors[1]
	delivered := b.carts.delivered
	holders := a.change(cartID(1))
	s.run(100 * time.Millisecond)
	expect(t, "holders", *holders, []uint64{2})
	expect(t, "deliveries", b.carts.delivered-delivered, 1)
	if b.link(a).Counters.Duplicates == 0 {
		t.Error("no duplicate was counted")
	}
}

func TestLostFrameResetsTheLink(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	lose := 1
	s.carry = func(from, _ *actor, frame []byte) [][]byte {
		if from == a && lose > 0 {
			lose--
			return nil
		}
		return [][]byte{frame}
	}
	first := a.change(cartID(1))
	s.run(10 * time.Millisecond)
	second := a.change(cartID(1))
	s.run(2900 * time.Millisecond)
	expect(t, "links closed", s.closings, 0)
	if b.link(a).Counters.Gaps == 0 {
		t.Error("no gap was counted")
	}
	expect(t, "holders", [][]uint64{*first, *second}, [][]uint64{nil, nil})

	s.run(200 * time.Millisecond)
	expect(t, "links closed", s.closings, 1)
	expect(t, "live links", a.Peers(), 0)
	s.connect()
	s.run(10 * time.Millisecond)
	expect(t, "holders", [][]uint64{*first, *second}, [][]uint64{{2}, {2}})
	expect(t, "refused", b.link(a).Counters.Refused, 0)
}

func TestOutboxOutlivesTheLink(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	var holders []*[]uint64
	s.carry = func(_, _ *actor, _ []byte) [][]byte { return nil }
	holders = append(holders, a.change(cartID(1)))
	s.settle()
	s.carry = nil
	s.down(a, b, "cut")
	expect(t, "last error", a.link(b).LastError, "cut")
	expect(t, "b is alive", a.Alive(b.start), false)
	expect(t, "lag at the cut", a.link(b).Lag < time.Second, true)
	for i := range 5 {
		holders = append(holders, a.change(cartID(i)))
	}
	s.run(time.Second)
	expect(t, "lag of what was on its way", a.link(b).Lag >= time.Second, true)
	expect(t, "lost", a.carts.lost, []uint64{2})
	expect(t, "backlog", a.link(b).BacklogItems, 6)
	s.up(a, b)
	s.settle()
	for _, h := range holders {
		expect(t, "holders", *h, []uint64{2})
	}
	expect(t, "refused", b.link(a).Counters.Refused, 0) // they came in order
	expect(t, "backlog", a.link(b).BacklogItems, 0)
	expect(t, "lag", a.link(b).Lag, 0)
	s.expectEqual(5)
}

func TestSilentPeerIsStale(t *testing.T) {
	s := connected(t, 2)
	s.carry = func(from, _ *actor, frame []byte) [][]byte {
		if from == s.actors[1] {
			return nil
		}
		return [][]byte{frame}
	}
	s.run(2900 * time.Millisecond)
	expect(t, "links closed", s.closings, 0)
	s.run(1200 * time.Millisecond)
	expect(t, "links closed", s.closings, 1)
}

func TestPeerThatDoesNotHearIsStale(t *testing.T) {
	s := connected(t, 2)
	mute, other := s.actors[0], s.actors[1]
	mute.carts.seeded, other.carts.seeded = false, false // nothing but beats and echoes
	s.carry = func(from, _ *actor, frame []byte) [][]byte {
		if from == mute {
			return nil
		}
		return [][]byte{frame}
	}
	for range 450 { // the other one finds out too, but does nothing about it
		s.settle()
		s.now = s.now.Add(10 * time.Millisecond)
		other.Tick()
		if slices.Contains(mute.Tick(), other.start) {
			return
		}
	}
	t.Error("it hears, and does not notice that it is not heard")
}

func TestIdleLinkOnlyBeats(t *testing.T) {
	s := connected(t, 2)
	frames := s.frames
	s.run(20 * time.Second)
	// A beat and an echo for each side and second, and a comparison of roots each second at most.
	if n := s.frames - frames; n < 40 || n > 20*(4+6) {
		t.Errorf("%d frames in 20 s", n)
	}
	expect(t, "links closed", s.closings, 0)
}

func TestRoundTripAndClocks(t *testing.T) {
	s := newScene(t, 4, func(o *CoreOptions) {
		if o.Self.Start != 1 {
			now := o.Now
			o.Now = func() time.Time { return now().Add(2 * time.Minute) }
		}
	})
	offset, bad := s.actors[0].ClockSkew()
	expect(t, "offset without peers", offset, 0)
	expect(t, "bad without peers", bad, false)
	s.connect()
	s.run(2 * time.Second)
	expect(t, "round trip", s.actors[0].link(s.actors[1]).RoundTrip, 0)
	offset, bad = s.actors[0].ClockSkew()
	expect(t, "offset", offset, 2*time.Minute)
	expect(t, "bad", bad, true)
	offset, bad = s.actors[1].ClockSkew()
	expect(t, "offset of the others", offset, 0)
	expect(t, "bad of the others", bad, false)
}

// Of three nodes it is the one whose clock is off that is told so, on whichever side it is.
func TestTheClockOfOneOfThree(t *testing.T) {
	for _, ahead := range []time.Duration{-2 * time.Minute, 2 * time.Minute} {
		s := newScene(t, 3, func(o *CoreOptions) {
			if o.Self.Start == 1 {
				now := o.Now
				o.Now = func() time.Time { return now().Add(ahead) }
			}
		})
		s.connect()
		s.run(2 * time.Second)
		for i, want := range []time.Duration{-ahead, 0, 0} {
			offset, bad := s.actors[i].ClockSkew()
			expect(t, "offset", offset, want)
			expect(t, "bad", bad, want != 0)
		}
	}
}

func TestClockIsEchoedAtOnce(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.carts.seeded, b.carts.seeded = false, false // nothing else is sent
	s.run(300 * time.Millisecond)
	s.now = s.now.Add(beatEvery)
	a.Tick()
	frames := b.link(a).Counters.FramesSent
	s.settle()
	if got := b.link(a).Counters.FramesSent; got == frames {
		t.Error("no echo")
	}
	expect(t, "waits for an echo", a.peer(b.start).unechoed.IsZero(), true)
}

func TestWhoLeftIsForgotten(t *testing.T) {
	s := connected(t, 3)
	a, c := s.actors[0], s.actors[2]
	a.SetMembers([]Member{a.o.Self, s.actors[1].o.Self})
	s.run(2 * forgetAfter)
	expect(t, "links while the third is linked", len(a.Status().Links), 2)
	s.down(a, c, "cut")
	a.change(cartID(1))
	s.run(forgetAfter - time.Second)
	expect(t, "links soon after", len(a.Status().Links), 2)
	total := a.Status().Counters.FramesSent
	s.run(2 * time.Second)
	expect(t, "links at last", len(a.Status().Links), 1)
	if got := a.Status().Counters.FramesSent; got < total {
		t.Errorf("the counter of frames went back from %d to %d", total, got)
	}
}

func TestMarks(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.Mark(cartID(1), []byte("one"))
	a.Mark(cartID(2), []byte("other"))
	a.Mark(cartID(1), []byte("two"))
	s.run(gather - time.Millisecond)
	expect(t, "marks before the time", b.carts.marks, []string(nil))
	s.run(time.Millisecond)
	id1, id2 := cartID(1), cartID(2)
	expect(t, "marks", b.carts.marks, []string{fmt.Sprintf("1 %x two", id1[:2]), fmt.Sprintf("1 %x other", id2[:2])})

	a.Mark(cartID(1), []byte("three"))
	a.change(cartID(1))
	s.settle()
	expect(t, "marks, with the next delta", len(b.carts.marks), 3)
}

func TestOwnersAloneGetAChange(t *testing.T) {
	s := connected(t, 4, func(o *CoreOptions) { o.Replicas = 2 })
	for n := range 20 {
		a := s.actors[s.owners(cartID(n))[0]]
		holders := a.change(cartID(n))
		s.run(time.Second)
		expect(t, "holders", len(*holders), 1)
		for i, b := range s.actors {
			_, has := b.carts.carts[cartID(n)]
			expect(t, "has it", has, slices.Contains(s.owners(cartID(n)), i))
		}
	}
}

func TestFetch(t *testing.T) {
	type result struct {
		payloads int
		complete bool
	}
	fetch := func(a *actor, id [16]byte) *[]result {
		results := new([]result)
		a.Fetch(id, false, func(payloads [][]byte, complete bool) {
			*results = append(*results, result{len(payloads), complete})
		})
		return results
	}
	t.Run("all answer", func(t *testing.T) {
		s := connected(t, 3)
		s.actors[1].carts.put(cartID(1), vector{1, 2, 3})
		some, none := fetch(s.actors[0], cartID(1)), fetch(s.actors[0], cartID(2))
		expect(t, "before", *some, []result(nil))
		s.settle()
		expect(t, "a cart that one has", *some, []result{{1, true}})
		expect(t, "a cart that none has", *none, []result{{0, true}})
		s.run(time.Second)
		expect(t, "later", *some, []result{{1, true}})
	})
	t.Run("alone", func(t *testing.T) {
		s := newScene(t, 1)
		results := fetch(s.actors[0], cartID(1))
		expect(t, "before", *results, []result(nil))
		s.settle()
		expect(t, "answer", *results, []result{{0, true}})
	})
	t.Run("cut off", func(t *testing.T) {
		s := newScene(t, 2) // members without a link
		results := fetch(s.actors[0], cartID(1))
		s.settle()
		expect(t, "answer", *results, []result{{0, false}})
	})
	t.Run("one is silent", func(t *testing.T) {
		s := connected(t, 3)
		s.actors[1].carts.put(cartID(1), vector{1})
		s.carry = func(from, _ *actor, frame []byte) [][]byte {
			if from == s.actors[2] {
				return nil
			}
			return [][]byte{frame}
		}
		results := fetch(s.actors[0], cartID(1))
		s.run(fetchWait - 10*time.Millisecond)
		expect(t, "before", *results, []result(nil))
		s.run(20 * time.Millisecond)
		expect(t, "answer", *results, []result{{1, false}})
	})
	t.Run("one goes away", func(t *testing.T) {
		s := connected(t, 2)
		results := fetch(s.actors[0], cartID(1))
		s.down(s.actors[0], s.actors[1], "cut")
		expect(t, "answer", *results, []result{{0, false}})
		s.run(time.Second)
		expect(t, "later", *results, []result{{0, false}})
	})
}

func TestUpRefuses(t *testing.T) {
	s := newScene(t, 2)
	a, b := s.actors[0], s.actors[1]
	if err := a.Up(a.o.Self, MaxWire); err == nil {
		t.Error("a link with itself")
	}
	if err := a.Up(b.o.Self, MaxWire+1); err == nil {
		t.Error("a version that it does not know")
	}
	expect(t, "links", a.Peers(), 0)
	if err := a.Receive(b.start, nil); err == nil {
		t.Error("a frame without a link")
	}
	frame, again := a.Next(b.start, []byte("x"))
	expect(t, "frame", string(frame), "x")
	expect(t, "again", again, 0)
}

func TestMalformedFrameIsAnErrorAndCounted(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	good := appendHeader(nil, &header{seq: b.peer(a.start).in.received + 1})
	for _, items := range [][]byte{{0}, {byte(kinds)}, {byte(kindWant)}, nil} {
		if err := b.Receive(a.start, append(slices.Clone(good), items...)); err == nil {
			t.Errorf("%x: no error", items)
		}
	}
	if err := b.Receive(a.start, appendHeader(nil, &header{ack: 1 << 40})); err == nil {
		t.Error("the acknowledgement of what was not sent: no error")
	}
	expect(t, "malformed", b.link(a).Counters.Malformed, 5)
	holders := a.change(cartID(1)) // nothing of it was taken
	s.settle()
	expect(t, "holders", *holders, []uint64{2})
}

func TestFrameOfAFormerLinkChangesNothing(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	// While b hands the delta to its carts, the link goes down and up again.
	once := true
	b.carts.refuse = func([16]byte) bool {
		if once {
			once = false
			s.down(a, b, "cut")
			s.up(a, b)
		}
		return false
	}
	first := a.change(cartID(1))
	second := a.change(cartID(1))
	s.run(time.Second)
	expect(t, "holders", [][]uint64{*first, *second}, [][]uint64{{2}, {2}})
	expect(t, "links closed", s.closings, 1)
	s.expectEqual(1)
}

func TestLongPayloadTravelsInParts(t *testing.T) {
	s := connected(t, 2)
	padding = make([]byte, 5<<20)
	defer func() { padding = make([]byte, 300) }()
	a, b := s.actors[0], s.actors[1]
	a.carts.put(cartID(1), vector{0, 7})
	s.run(3 * time.Second)
	s.expectEqual(1)
	expect(t, "states", b.carts.states, 1)
	expect(t, "refused", b.link(a).Counters.Refused, 0)
	if s.largest > MaxFrame || s.largest < maxPiece {
		t.Errorf("the largest frame has %d bytes", s.largest)
	}
}
