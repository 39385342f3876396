package gossip

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// fill gives a node carts from..to-1, of an event each.
func (a *actor) fill(from, to int) {
	for n := from; n < to; n++ {
		v := a.carts.carts[cartID(n)]
		v[a.start]++
		a.carts.put(cartID(n), v)
	}
}

func TestLinkThatComesUpIsRepairedAtOnce(t *testing.T) {
	s := newScene(t, 3)
	for i, a := range s.actors {
		a.fill(100*i, 100*i+150)
	}
	s.connect()
	expect(t, "synced", s.actors[0].Synced(), false)
	s.run(100 * time.Millisecond)
	s.run(3 * time.Second) // the sessions of three pairs at once may be in each other's way
	s.expectEqual(350)
	for _, a := range s.actors {
		expect(t, "synced", a.Synced(), true)
	}
}

func TestRepairAfterACutOfALink(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	s.down(a, b, "cut")
	a.fill(0, 10)
	b.fill(5, 15)
	s.run(10 * time.Second)
	done, other := a.link(b).Counters.RepairsDone, b.link(a).Counters.Repairs
	s.up(a, b)
	s.settle()
	s.expectEqual(15)
	expect(t, "sessions of a", a.link(b).Counters.RepairsDone, done+1)
	expect(t, "sessions of b", b.link(a).Counters.Repairs, other)
}

func TestOverflowMarksThePeerAndRepairMakesItEqual(t *testing.T) {
	s := connected(t, 2, func(o *CoreOptions) { o.MaxOutbox = 100 << 10 })
	a, b := s.actors[0], s.actors[1]
	s.down(a, b, "cut")
	said := 0
	for n := range 5000 {
		a.fill(n, n+1)
		a.Replicate(cartID(n), eventDelta(a.start, 1), func(holder uint64) {
			said++
			s.expectHeld(holder, cartID(n), vector{1: 1})
		})
		if backlog := a.link(b).BacklogBytes; backlog > 100<<10 {
			t.Fatalf("a backlog of %d bytes", backlog)
		}
	}
	if a.link(b).Counters.Overflows == 0 || !a.link(b).NeedsSync {
		t.Fatalf("no overflow: %+v", a.link(b))
	}
	s.up(a, b)
	s.run(5 * time.Second)
	s.expectEqual(5000)
	expect(t, "synced", a.Synced(), true)
	if said == 0 || said > 4000 {
		t.Errorf("%d of 5000 deltas are said to be held", said)
	}
}

func TestRepairOfThousandsOfCarts(t *testing.T) {
	s := newScene(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.fill(0, 20_000)
	b.fill(15_000, 30_000)
	s.up(a, b)
	s.run(500 * time.Millisecond)
	s.expectEqual(30_000)
	expect(t, "sessions", a.link(b).Counters.Repairs+b.link(a).Counters.Repairs, 1)
	expect(t, "states to a", a.carts.states, 15_000)
	expect(t, "states to b", b.carts.states, 20_000)
	if s.largest > MaxFrame {
		t.Errorf("a frame of %d bytes", s.largest)
	}
	if s.backlog > 2*stateRoom {
		t.Errorf("a backlog of %d bytes", s.backlog)
	}
}

func TestWhoIsSyncedHasEverything(t *testing.T) {
	padding = make([]byte, 100<<10) // the states do not fit into an outbox at once
	defer func() { padding = make([]byte, 300) }()
	const n = 60
	for _, test := range []struct {
		name       string
		here, from int // carts of the opener, and the first one of the other
	}{
		{"the opener has everything", n, n},
		{"the other has everything", 0, 0},
		{"both have something", n / 2, n / 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, 2)
			a, b := s.actors[0], s.actors[1]
			a.fill(0, test.here)
			b.fill(test.from, n)
			s.carry = func(_, _ *actor, frame []byte) [][]byte {
				for _, x := range s.actors {
					if x.Synced() && len(x.carts.carts) < n {
						t.Fatalf("%s is synced, with %d of %d carts", x.name, len(x.carts.carts), n)
					}
				}
				return [][]byte{frame}
			}
			s.up(a, b)
			s.settle()
			s.expectEqual(n)
			expect(t, "synced", []bool{a.Synced(), b.Synced()}, []bool{true, true})
		})
	}
}

// oneSlot returns ids that are all in one slot.
func oneSlot(n int) [][16]byte {
	ids := make([][16]byte, n)
	for i := range ids {
		ids[i] = firstOf(7)
		binary.BigEndian.PutUint32(ids[i][12:], uint32(i))
	}
	return ids
}

func TestRepairOfASlotWithMoreCartsThanAListing(t *testing.T) {
	const n = 2*maxListing + 1000
	tests := []struct {
		name     string
		at       func(i int) (a, b bool)
		sessions uint64
	}{
		{"all at one", func(int) (bool, bool) { return true, false }, 1},
		{"all at the other", func(int) (bool, bool) { return false, true }, 1},
		{"by turns", func(i int) (bool, bool) { return i%2 == 0, i%2 == 1 }, 1},
		{"nearly equal", func(i int) (bool, bool) { return i != maxListing, i != 2*maxListing-1 }, 1},
		{"equal", func(int) (bool, bool) { return true, true }, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, 2)
			a, b := s.actors[0], s.actors[1]
			for i, id := range oneSlot(n) {
				atA, atB := test.at(i)
				if atA {
					a.carts.put(id, vector{1})
				}
				if atB {
					b.carts.put(id, vector{1})
				}
			}
			s.up(a, b)
			s.settle()
			s.expectEqual(n)
			expect(t, "sessions", a.link(b).Counters.Repairs+b.link(a).Counters.Repairs, test.sessions)
			expect(t, "synced", []bool{a.Synced(), b.Synced()}, []bool{true, true})
		})
	}
}

func TestUnseededNodeIsNotCompared(t *testing.T) {
	for _, unseeded := range []int{0, 1} {
		s := newScene(t, 2)
		s.actors[unseeded].carts.seeded = false
		s.actors[1-unseeded].fill(0, 10)
		s.actors[1-unseeded].carts.save(10)
		s.connect()
		s.run(5 * time.Second)
		for _, a := range s.actors {
			expect(t, "synced", a.Synced(), false)
			expect(t, "states", a.carts.states, 0)
		}
		holders := s.actors[0].change(cartID(100)) // all else works
		s.settle()
		expect(t, "holders", *holders, []uint64{2})

		s.actors[unseeded].carts.seeded = true
		s.run(3 * time.Second)
		s.expectEqual(11)
		for _, a := range s.actors {
			expect(t, "synced", a.Synced(), true)
		}
	}
}

// What is seeded is compared while the rest is not; the two are not in sync before all is.
func TestSlotsThatAreNotSeededAreLeftForLater(t *testing.T) {
	for unseeded := range 2 {
		s := connected(t, 2)
		a, b := s.actors[0], s.actors[1]
		s.down(a, b, "cut")
		late := slotSet{}
		for n := range 50 {
			late.add(SlotOf(cartID(n)))
		}
		s.actors[unseeded].carts.unseeded = late
		a.fill(0, 100)
		a.carts.save(100) // else they are given all the same
		a.needSync(a.peer(b.start), "the test says so")
		b.needSync(b.peer(a.start), "the test says so")
		s.up(a, b)
		s.run(5 * time.Second)
		for n := range 100 {
			if _, has := b.carts.carts[cartID(n)]; has == late.has(SlotOf(cartID(n))) {
				t.Errorf("cart %d, with a slot that is not seeded: %t", n, has)
			}
		}
		expect(t, "synced", []bool{a.Synced(), b.Synced()}, []bool{false, false})
		s.actors[unseeded].carts.unseeded = slotSet{}
		s.run(3 * time.Second)
		s.expectEqual(100)
		expect(t, "synced", []bool{a.Synced(), b.Synced()}, []bool{true, true})
	}
}

func TestCartsThatCannotBeLoadedAreLeftForLater(t *testing.T) {
	for broken := range 2 {
		s := newScene(t, 2)
		s.actors[broken].carts.broken = true
		for _, a := range s.actors {
			a.fill(0, 10)
		}
		s.connect()
		for range 500 {
			s.run(10 * time.Millisecond)
			for _, a := range s.actors {
				expect(t, "synced", a.Synced(), false)
			}
		}
		s.actors[broken].carts.broken = false
		s.run(5 * time.Second)
		s.expectEqual(10)
		for _, a := range s.actors {
			expect(t, "synced", a.Synced(), true)
		}
	}
}

func TestStatesThatCannotBeLoadedAreLeftForLater(t *testing.T) {
	for broken := range 2 {
		s := newScene(t, 2)
		s.actors[broken].carts.stateless = true
		s.actors[broken].fill(0, 10)
		s.connect()
		for range 500 {
			s.run(10 * time.Millisecond)
			for _, a := range s.actors {
				expect(t, "synced", a.Synced(), false)
			}
		}
		s.actors[broken].carts.stateless = false
		s.run(5 * time.Second)
		s.expectEqual(10)
	}
}

func TestOneSessionAtATimeAPeer(t *testing.T) {
	p := &peer{up: true}
	p.repairAt = noon
	open := func(after time.Duration, want bool) {
		t.Helper()
		expect(t, "may open", p.mayOpen(noon.Add(after)), want)
	}
	open(-1, false)
	open(0, true)
	p.serving, p.served = 1, noon
	open(time.Second, false)
	open(repairGiveUp+1, true) // the peer gave up
	p.serving, p.own = 0, &session{}
	open(time.Second, false)
	p.own, p.up = nil, false
	open(time.Second, false)
}

func TestWhatNobodyToldOfIsFoundInTime(t *testing.T) {
	s := connected(t, 3)
	s.actors[1].fill(0, 3)
	s.run(5 * time.Second)
	s.expectEqual(3)
}

func TestRepairGoesOnUnderLoad(t *testing.T) {
	s := connected(t, 2)
	a, b := s.actors[0], s.actors[1]
	a.fill(0, 10)
	s.run(time.Millisecond)
	for n := range 1200 { // never idle
		a.change(cartID(100 + n%50))
		b.change(cartID(150 + n%50))
		s.run(10 * time.Millisecond)
	}
	if len(b.carts.carts) != 110 {
		t.Errorf("%d carts, not 110", len(b.carts.carts))
	}
}

func TestDifferences(t *testing.T) {
	id := func(n byte) [16]byte { return [16]byte{15: n} }
	ours := []Version{{id(1), 1}, {id(2), 1}, {id(4), 1}, {id(6), 1}}
	theirs := []Version{{id(1), 1}, {id(2), 2}, {id(3), 1}, {id(6), 1}, {id(7), 1}}
	want := []difference{{id(2), true}, {id(3), false}, {id(4), true}, {id(7), false}}
	if got := differences(ours, theirs); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSuccessor(t *testing.T) {
	expect(t, "successor", successor([16]byte{14: 1, 15: 0xff}), [16]byte{14: 2})
	expect(t, "of the greatest", successor([16]byte{0: 0, 1: 0xff}), [16]byte{0: 0, 1: 0xff, 15: 1})
	for slot := range Slots {
		if SlotOf(firstOf(slot)) != slot {
			t.Fatalf("the first id of slot %d is in slot %d", slot, SlotOf(firstOf(slot)))
		}
	}
}

// random is a run of a scene under faults that rapid draws.
func random(t *rapid.T, s *scene) {
	faults := true
	s.redial = true
	s.carry = func(_, _ *actor, frame []byte) [][]byte {
		if !faults {
			return [][]byte{frame}
		}
		switch rapid.IntRange(0, 60).Draw(t, "fate") {
		case 1:
			return nil
		case 2:
			return [][]byte{frame, frame}
		}
		return [][]byte{frame}
	}
	draw := func(what string) *actor { return s.actors[rapid.IntRange(0, len(s.actors)-1).Draw(t, what)] }
	cart := func() [16]byte { return cartID(rapid.IntRange(0, 9).Draw(t, "cart")) }
	steps := rapid.IntRange(1, 60).Draw(t, "steps")
	for range steps {
		switch rapid.IntRange(0, 12).Draw(t, "step") {
		case 0:
			draw("mark").Mark(cart(), []byte("m"))
		case 1:
			draw("fetch").Fetch(cart(), false, func([][]byte, bool) {})
		case 2:
			a, b := draw("cut"), draw("from")
			if a != b && a.Alive(b.start) {
				s.redial = false
				s.down(a, b, "cut")
			}
		case 3:
			s.redial = true
		case 4:
			a := draw("loaded")
			a.carts.broken = !a.carts.broken
		case 5:
			a := draw("seeded")
			a.carts.seeded = !a.carts.seeded
		case 6:
			reorder(draw("reorder"))
		case 7:
			s.run(time.Duration(rapid.IntRange(1, 300).Draw(t, "ms")) * time.Millisecond)
		default:
			for range rapid.IntRange(1, 4).Draw(t, "changes") {
				draw("change").change(cart())
			}
			if rapid.Bool().Draw(t, "flush") {
				s.settle()
			}
		}
	}
	faults, s.redial = false, true
	for _, a := range s.actors {
		a.carts.broken, a.carts.seeded = false, true
	}
}

// reorder swaps the first frames on each way from a node.
func reorder(a *actor) {
	a.work()
	a.write()
	for _, b := range a.scene.actors {
		if frames := a.wire[b.start]; len(frames) > 1 {
			frames[0], frames[1] = frames[1], frames[0]
		}
	}
}

func TestAllAreEqualAfterFaults(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		outbox := rapid.SampledFrom([]int{0, 4 << 10}).Draw(r, "outbox")
		s := newScene(r, 3, func(o *CoreOptions) { o.MaxOutbox = outbox })
		s.connect()
		random(r, s)
		for range 15 { // a stale link is found after 3 s, and a stuck session after 10 s
			s.run(time.Second)
		}
		s.expectEqual(-1)
		for _, a := range s.actors {
			expect(r, "synced", a.Synced(), true)
		}
	})
}

func TestEqualInputsHaveEqualOutputs(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.IntRange(1, 1<<30).Draw(r, "seed")
		script := rapid.Custom(func(r *rapid.T) uint64 {
			s := newScene(r, 3)
			s.connect()
			random(r, s)
			s.run(3 * time.Second)
			return s.trace
		})
		if one, two := script.Example(seed), script.Example(seed); one != two {
			r.Fatalf("seed %d: the frames are %x, then %x", seed, one, two)
		}
	})
}
