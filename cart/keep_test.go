package cart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slotsWhere returns the slots for which in holds.
func slotsWhere(in func(slot int) bool) (z [slots / 64]uint64) {
	for slot := range slots {
		if in(slot) {
			z[slot/64] |= 1 << (slot % 64)
		}
	}
	return z
}

var (
	allSlots  = slotsWhere(func(int) bool { return true })
	evenSlots = slotsWhere(func(slot int) bool { return slot%2 == 0 })
	noSlots   [slots / 64]uint64
)

// newForeignIn is newForeign of a cart in a slot that is even, or odd.
func newForeignIn(t testing.TB, even bool, now time.Time, n int) foreign {
	x := newForeign(t, now, n)
	if x.id[1] &^= 1 << 4; !even {
		x.id[1] |= 1 << 4
	}
	return x
}

// wantNothingLeft checks that neither memory nor index have anything.
func wantNothingLeft(t *testing.T, s *Service) {
	t.Helper()
	if z := s.Stats(); z.Memory != 0 || z.Resident != 0 {
		t.Errorf("%d carts of %d bytes are in memory", z.Resident, z.Memory)
	}
	if *s.Digests() != [slots]uint64{} {
		t.Error("the index has something")
	}
	checkMemory(t, s)
	checkIndex(t, s)
	wantNothingUnsaved(t, s)
}

// Of slots that are lost, memory and the index let go everything that is stored. When they are gained again, the
// index tells of what is stored, and of what was stored meanwhile. Held ones stay as they are.
func TestSlotsThatAreLostAndGained(t *testing.T) {
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFakeStore()
				o := peered(store, newFakeReplicator())
				o.Shared = shared
				s := start(t, o)
				bring := func(even bool) {
					for i := range 40 {
						x := newForeignIn(t, even, time.Now(), 2)
						deliver(t, s, x.id, whole(x.states[2]))
						if i%2 == 0 {
							x.client(t, s).want("A=2")
						}
					}
					if err := s.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				bring(true)
				memory, of := s.Stats().Memory, *s.Digests()
				bring(false)
				both, ofBoth := s.Stats().Memory, *s.Digests()

				s.Keep(evenSlots, slotsWhere(func(slot int) bool { return slot%2 == 1 }))
				time.Sleep(3 * tick)
				if got := s.Stats().Memory; got != both || *s.Digests() != ofBoth {
					t.Errorf("of held slots %d bytes are in memory, not %d", got, both)
				}
				s.Keep(evenSlots, noSlots)
				if got := s.Stats().Memory; got != memory || *s.Digests() != of {
					t.Errorf("%d bytes are in memory, not %d", got, memory)
				}
				if s.Seeded() != evenSlots || !s.Indexed() {
					t.Error("the slots that are left are not indexed")
				}
				checkMemory(t, s)
				checkIndex(t, s)
				if len(store.carts) != 80 {
					t.Errorf("%d carts are stored", len(store.carts))
				}

				late := newForeignIn(t, false, time.Now(), 1)
				store.put(late.id, late.states[1])
				s.Keep(allSlots, noSlots)
				synctest.Wait()
				ofBoth[slotOf(late.id)] ^= VersionHash(late.id, late.states[1])
				if *s.Digests() != ofBoth || s.Seeded() != allSlots || !s.Indexed() {
					t.Error("the slots that were gained are not indexed")
				}
			})
		})
	}
}

// What is under way when its slot is lost comes to its end, and is let go then.
func TestSlotsAreLostInTheMiddle(t *testing.T) {
	type world struct {
		t     *testing.T
		store *fakeStore
		peers *fakeReplicator
		s     *Service
		x     foreign
	}
	for _, tc := range []struct {
		name  string
		lines string // that are stored in the end
		begin func(w *world) (end func())
	}{
		{"a fragment waits", "A=2", func(w *world) func() {
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			return func() {}
		}},
		{"a fragment is saved", "A=2", func(w *world) func() {
			entered, release := w.store.blockCommits()
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			<-entered
			return release
		}},
		{"a cart is dirty", "A=2", func(w *world) func() {
			w.x.client(w.t, w.s).want("A=1")
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			return func() {}
		}},
		{"a cart is saved", "A=2", func(w *world) func() {
			w.x.client(w.t, w.s).want("A=1")
			entered, release := w.store.blockCommits()
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			<-entered
			return release
		}},
		{"the store is away", "A=2", func(w *world) func() {
			w.x.client(w.t, w.s).want("A=1")
			w.store.failCommits(ErrNoRoom)
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			time.Sleep(time.Minute)
			return func() { w.store.failCommits(nil) }
		}},
		{"a cart is loaded", "A=1", func(w *world) func() {
			gate := make(chan struct{})
			w.store.hookLoad(func(context.Context, ID) error { <-gate; return nil })
			done := make(chan struct{})
			go func() { defer close(done); w.x.client(w.t, w.s).want("A=1") }()
			synctest.Wait()
			return func() { close(gate); <-done }
		}},
		{"a cart is loaded, and a fragment waits for it", "A=2", func(w *world) func() {
			gate := make(chan struct{})
			w.store.hookLoad(func(context.Context, ID) error { <-gate; return nil })
			done := make(chan struct{})
			go func() { defer close(done); w.x.client(w.t, w.s).want("A=2") }()
			synctest.Wait()
			deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
			return func() { close(gate); <-done }
		}},
		{"a write waits for the store", "A=5", func(w *world) func() {
			w.peers.setPeers(0)
			_, release := w.store.blockCommits()
			answers := w.x.client(w.t, w.s).begin("", addN("A", 4))
			return func() {
				release()
				wantAnswer(w.t, answers, "A=5")
			}
		}},
		{"a write waits for the peers", "A=5", func(w *world) func() {
			answers := w.x.client(w.t, w.s).begin("", addN("A", 4))
			return func() {
				w.peers.acknowledge(0)
				wantAnswer(w.t, answers, "A=5")
			}
		}},
		{"a read waits for its context", "A=2", func(w *world) func() {
			c := w.x.client(w.t, w.s)
			done := make(chan struct{})
			go func() {
				defer close(done)
				state, err := w.s.Read(w.t.Context(), c.id, c.access(), c.contextOf(w.x.states[2]))
				if err != nil || linesOf(state) != "A=2" {
					w.t.Errorf("the read: %v", err)
				}
			}()
			synctest.Wait()
			return func() {
				deliver(w.t, w.s, w.x.id, payload(w.x.deltas[2]))
				<-done
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, peers := newFakeStore(), newFakeReplicator()
				w := &world{t, store, peers, start(t, peered(store, peers)), newForeign(t, time.Now(), 2)}
				store.put(w.x.id, w.x.states[1])
				synctest.Wait()
				end := tc.begin(w)
				w.s.Keep(noSlots, noSlots)
				check := func() { checkIndex(t, w.s); checkLists(t, w.s) }
				check()
				end()
				check()
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if got := linesOf(store.state(w.x.id)); got != tc.lines {
					t.Errorf("stored is %q, want %q", got, tc.lines)
				}
				wantNothingLeft(t, w.s)
			})
		})
	}
}

// What comes for a slot that is not kept stays in the index for a while, until it is told that the slot is held.
func TestWhatComesForAnotherSlotStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		o := peered(store, newFakeReplicator())
		o.Shared, o.Placed = false, true
		s := start(t, o)
		x := newForeign(t, time.Now(), 1)
		want := VersionHash(x.id, x.states[1])
		for _, held := range [][slots / 64]uint64{allSlots, noSlots} {
			deliver(t, s, x.id, whole(x.states[1]))
			synctest.Wait()
			if s.Stats().Memory != 0 || store.state(x.id) == nil {
				t.Error("the fragment was not saved")
			}
			s.Keep(noSlots, noSlots) // by who does not know of it yet
			if got := s.Digests()[slotOf(x.id)]; got != want {
				t.Errorf("the digest is %x, not %x", got, want)
			}
			s.Keep(noSlots, held)
			time.Sleep(3 * tick)
			if held == noSlots {
				want = 0
			}
			if got := s.Digests()[slotOf(x.id)]; got != want {
				t.Errorf("the digest is %x, not %x", got, want)
			}
		}
		wantNothingLeft(t, s)
	})
}

// A cart that others own is read anew for a request, and shown as it is when nobody can be asked only where it is
// held. It leaves memory when it is not used any more.
func TestGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		o := peered(store, peers)
		o.Placed = true
		s := start(t, o)
		x := newForeign(t, time.Now(), 5)
		c := x.client(t, s)
		peersHave := func(state *State) {
			peers.mu.Lock()
			defer peers.mu.Unlock()
			peers.fetch = func(ID) ([][]byte, bool) {
				if state == nil {
					return nil, false
				}
				return [][]byte{whole(state)}, true
			}
		}
		store.put(x.id, x.states[1])
		peersHave(x.states[2])
		c.want("A=2") // which only they have
		loads := store.loadsOf(x.id)
		for range 100 {
			c.want("A=2")
		}
		if store.loadsOf(x.id) != loads {
			t.Error("it was read anew for each request")
		}
		r := s.shard(x.id).get(x.id)
		inUse := func() { // for as long as what is known of it may be shown
			for range 8 {
				time.Sleep(tick / 2)
				_, _ = s.Read(t.Context(), x.id, c.access(), nil)
			}
			if s.shard(x.id).get(x.id) != r {
				t.Error("it has left memory")
			}
		}
		store.put(x.id, x.states[3])
		inUse()
		c.want("A=3")
		peersHave(x.states[4])
		inUse()
		c.want("A=4")

		store.hookLoad(func(context.Context, ID) error { return errors.New("the database is away") })
		inUse()
		c.want("A=4") // as the peers say
		peersHave(nil)
		s.Keep(noSlots, allSlots)
		inUse()
		c.want("A=4") // nobody says anything
		s.Keep(noSlots, noSlots)
		_, err := s.Read(t.Context(), x.id, c.access(), nil)
		wantReason(t, err, Unavailable)
		store.hookLoad(nil)
		time.Sleep(3 * idleTicks * tick)
		wantNothingLeft(t, s)
	})
}

// A cart that was resident when its slot was gained is read anew once: it was not told of what came before.
func TestAGuestThatIsOwnedNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		x := newForeign(t, time.Now(), 3)
		c := x.client(t, s)
		store.put(x.id, x.states[1])
		c.want("A=1")
		s.Keep(noSlots, allSlots)
		store.put(x.id, x.states[2])
		time.Sleep(3 * tick)
		store.setAway(true) // nor does it read of what is stored
		s.Keep(allSlots, noSlots)
		c.want("A=2")
		loads := store.loadsOf(x.id)
		time.Sleep(3 * tick)
		c.want("A=2")
		if store.loadsOf(x.id) != loads {
			t.Error("it was read anew though it is owned")
		}
	})
}

// Requests at a guest find the resident they began with: it leaves when it was not used for a tick, so that not
// each of them writes under another replica id.
func TestGuestsStayWhileTheyAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		peers.setPeers(0)
		o := peered(store, peers)
		o.Placed = true
		s := start(t, o)
		c := create(t, s)
		for range 30 {
			c.do(addN("A", 1))
			time.Sleep(tick / 2)
		}
		if n := len(c.read().VV); n != 1 {
			t.Errorf("%d replica ids", n)
		}
		time.Sleep(5 * tick)
		wantNothingLeft(t, s)
	})
}

// Before it is told which slots it owns, a node that is to be told reads nothing; then it reads those.
func TestPlaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		var want [slots]uint64
		for i := range 60 {
			x := newForeignIn(t, i%3 == 0, time.Now(), 1)
			store.put(x.id, x.states[1])
			if i%3 == 0 {
				want[slotOf(x.id)] ^= VersionHash(x.id, x.states[1])
			}
		}
		o := peered(store, newFakeReplicator())
		o.Placed = true
		s := start(t, o)
		time.Sleep(2*seedAgain + seedAgain/4)
		if s.Indexed() || s.Seeded() != noSlots || *s.Digests() != [slots]uint64{} || store.told() > 0 {
			t.Errorf("%d versions were read before it was known of what", store.told())
		}
		s.Keep(evenSlots, noSlots)
		synctest.Wait()
		if !s.Indexed() || s.Seeded() != evenSlots || *s.Digests() != want {
			t.Error("the slots are not indexed")
		}
		rows := store.told()
		time.Sleep(seedAgain / 2)
		if store.told() != rows {
			t.Error("they were read again before it was time")
		}
	})
}

// told returns how many versions were told.
func (f *fakeStore) told() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rows
}

// An empty set is known to be that.
func TestPlacedNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := peered(newFakeStore(), newFakeReplicator())
		o.Placed = true
		s := start(t, o)
		s.Keep(noSlots, noSlots)
		if !s.Indexed() {
			t.Error("a node that owns nothing waits for something")
		}
	})
}

// Slots that are gained while others are read, or lost and gained again, are read after that.
func TestSlotsAreGainedWhileOthersAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &gatedStore{fakeStore: newFakeStore(), gate: make(chan struct{})}
		x := newForeignIn(t, true, time.Now(), 1)
		y := newForeignIn(t, false, time.Now(), 1)
		store.put(y.id, y.states[1])
		o := peered(store.fakeStore, newFakeReplicator())
		o.Store, o.Placed = store, true
		s := start(t, o)
		s.Keep(evenSlots, noSlots)
		synctest.Wait() // it has asked
		s.Keep(noSlots, noSlots)
		store.put(x.id, x.states[1])
		s.Keep(allSlots, noSlots)
		store.gate <- struct{}{}
		synctest.Wait()
		if s.Seeded() != noSlots {
			t.Error("slots are taken for read that were lost meanwhile")
		}
		close(store.gate)
		synctest.Wait()
		d := s.Digests()
		if s.Seeded() != allSlots || d[slotOf(x.id)] == 0 || d[slotOf(y.id)] == 0 {
			t.Error("the slots are not indexed")
		}
	})
}

// gatedStore answers with what there was when it was asked, after it took something from gate.
type gatedStore struct {
	*fakeStore
	gate chan struct{}
}

func (g *gatedStore) Versions(ctx context.Context, after, last ID, limit int) ([]StoredVersion, error) {
	page, err := g.fakeStore.Versions(ctx, after, last, limit)
	select {
	case <-g.gate:
	case <-ctx.Done():
	}
	return page, err
}

// What a store lost that was taken back, this node saves again of what it owns, and of nothing else.
func TestADatabaseThatWentBackInSomeSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		own, other := newForeignIn(t, true, time.Now(), 2), newForeignIn(t, false, time.Now(), 2)
		for _, x := range []foreign{own, other} {
			deliver(t, s, x.id, whole(x.states[2]))
			x.client(t, s).want("A=2")
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Keep(evenSlots, slotsWhere(func(slot int) bool { return slot%2 == 1 }))
		for _, x := range []foreign{own, other} {
			store.goBack(x.id, x.states[1])
		}
		store.setAway(true)
		time.Sleep(2 * seedProbe)
		store.setAway(false)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := linesOf(store.state(own.id)); got != "A=2" {
			t.Errorf("what it owns is %q", got)
		}
		if got := linesOf(store.state(other.id)); got != "A=1" {
			t.Errorf("what it holds is %q", got)
		}
	})
}

// The runs of a set have all of its slots, and go over the gaps that they may and no others.
func TestRunsOfSlots(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		density, gap := 1+random.IntN(20), random.IntN(12)
		z := slotSet(slotsWhere(func(int) bool { return random.IntN(density) == 0 }))
		in, end := 0, -1-gap-1
		for from := 0; ; {
			first, last := z.run(from, gap)
			if first == slots {
				break
			}
			if first-end-1 <= gap || !z.has(first) || !z.has(last) {
				t.Fatalf("a run from %d to %d after %d, with gaps of %d", first, last, end, gap)
			}
			hole := 0
			for i := first; i <= last; i++ {
				if hole++; z.has(i) {
					hole = 0
					in++
				}
				if hole > gap {
					t.Fatalf("a hole at %d", i)
				}
			}
			from, end = last+1, last
		}
		all := 0
		for i := range slots {
			if z.has(i) {
				all++
			}
		}
		if in != all {
			t.Fatalf("%d of %d slots", in, all)
		}
	}
}

// However the slots are strewn, their carts are all read: with few queries where there are few carts, and without
// most of the others where there are many.
func TestReadingStrewnSlots(t *testing.T) {
	for _, tc := range []struct{ carts, pages, rows int }{
		{0, 1, 0},
		{1000, 1, 1000},
		{60_000, slots / 8, 24_000},
	} {
		t.Run(fmt.Sprint(tc.carts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := new(sortedStore)
				random := rand.New(rand.NewPCG(1, 2))
				own := slotSet(slotsWhere(func(int) bool { return random.IntN(8) == 0 }))
				var want [slots]uint64
				var versions []StoredVersion
				for i := range tc.carts {
					v := StoredVersion{NewID(), uint64(i + 1)}
					versions = append(versions, v)
					if own.has(slotOf(v.ID)) {
						want[slotOf(v.ID)] ^= v.Version
					}
				}
				store.add(versions)
				o := peered(store, newFakeReplicator())
				o.Placed = true
				s := start(t, o)
				synctest.Wait()
				s.Keep(own, noSlots)
				synctest.Wait()
				if *s.Digests() != want || s.Seeded() != own {
					t.Error("the slots are not indexed")
				}
				if store.pages > tc.pages || store.rows > tc.rows {
					t.Errorf("%d versions were read in %d pages", store.rows, store.pages)
				}
			})
		})
	}
}

// A new cart is in a slot that its node is the first to own.
func TestACartIsMadeAtHome(t *testing.T) {
	peers := newFakeReplicator()
	peers.setPeers(0)
	s := start(t, peered(newFakeStore(), peers))
	ids := make(map[ID]bool)
	for _, home := range []int{0, 1, 15, 16, 2748, slots - 1} {
		peers.home = home
		for range 20 {
			c := create(t, s)
			if slotOf(c.id) != home || ids[c.id] {
				t.Fatalf("the cart %x is in the slot %d, not %d", c.id, slotOf(c.id), home)
			}
			ids[c.id] = true
		}
	}
}

// Slots come and go while carts are written by clients and peers, read, evicted, packed and saved, or not. Every
// change that was acknowledged is in memory or in the store at any time, and counts once in the end.
func TestKeepStress(t *testing.T) {
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			synctest.Test(t, func(t *testing.T) { testKeepStress(t, seed, shared) })
		})
	}
}

func testKeepStress(t *testing.T, seed uint64, shared bool) {
	const (
		workers = 12
		carts   = 8
		rounds  = 120
	)
	store := newFakeStore()
	peers := &promptPeers{fakeReplicator: newFakeReplicator()}
	o := Options{Store: store, Shared: shared, Replicator: peers, Memory: 40_000}
	s := start(t, o)
	var clients []*client
	var foreigners []foreign
	for range carts {
		clients = append(clients, create(t, s))
		foreigners = append(foreigners, newForeign(t, time.Now(), rounds))
	}
	var commits atomic.Int64
	store.hookCommit(func(context.Context, []Change) error {
		if commits.Add(1)%20 == 0 {
			return ErrNoRoom
		}
		return nil
	})
	var acknowledged [carts]atomic.Int64
	var held [carts]struct {
		sync.Mutex
		upTo int
	}
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := range rounds {
				k := random.IntN(carts)
				c, x := clients[k], foreigners[k]
				switch action := random.IntN(12); {
				case action < 4:
					key := fmt.Sprintf("%d-%d", w, i)
					for {
						ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
						_, err := c.tryContext(ctx, Request{Key: key, Steps: stepsOf([]Command{addN("A", 1)})})
						cancel()
						if err == nil {
							break
						}
						if !errors.Is(err, &Error{Reason: NotDurable}) && !errors.Is(err, &Error{Reason: ServiceOverCapacity}) {
							t.Errorf("refused: %v", err)
							return
						}
						time.Sleep(20 * time.Millisecond)
					}
					acknowledged[k].Add(1)
				case action < 7:
					h := &held[k]
					h.Lock()
					ok, lacks := s.Deliver(9, x.id, payload(x.deltas[h.upTo]))
					if lacks {
						ok, _ = s.Deliver(9, x.id, whole(x.states[h.upTo]))
					}
					if ok && h.upTo < rounds {
						h.upTo++
					}
					h.Unlock()
				case action < 9:
					before := acknowledged[k].Load()
					if state, err := s.Read(t.Context(), c.id, c.access(), nil); err == nil && quantityOf(state, "A") < before {
						t.Errorf("a read shows %d units, %d adds were acknowledged", quantityOf(state, "A"), before)
					}
				case action < 11:
					half := func() [slots / 64]uint64 { return slotsWhere(func(int) bool { return random.IntN(2) == 0 }) }
					peers.keeping.Lock()
					s.Keep(half(), half())
					peers.keeping.Unlock()
				default:
					s.tick.Add(idleTicks)
					s.packIdle(0, shards)
					s.makeRoom()
				}
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			}
		})
	}
	working.Wait()
	store.hookCommit(nil)
	s.Keep(noSlots, noSlots)
	if err := s.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	time.Sleep(20 * time.Second)
	synctest.Wait()
	wantNothingLeft(t, s)
	for k := range carts {
		if got, want := quantityOf(store.state(clients[k].id), "A"), acknowledged[k].Load(); got != want {
			t.Errorf("the cart %d has %d units, %d adds were acknowledged", k, got, want)
		}
		if n := held[k].upTo; n > 0 {
			x := foreigners[k]
			stored := store.state(x.id)
			if stored == nil || !stored.VV.Descends(x.states[n-1].VV) {
				t.Errorf("of %d changes of a peer not all are stored", n)
			}
		}
	}
	s.Keep(allSlots, noSlots)
	synctest.Wait()
	again := start(t, Options{Store: store, Shared: shared, Replicator: newFakeReplicator()})
	synctest.Wait()
	if *s.Digests() != *again.Digests() {
		t.Error("what is indexed is not what is stored")
	}
}

// promptPeers acknowledge what they get at once.
type promptPeers struct {
	*fakeReplicator
	keeping sync.Mutex // one call of Keep is made at a time
}

func (*promptPeers) Replicate(_ [16]byte, _ []byte, held func(uint64)) { go held(1) }
func (*promptPeers) Mark([16]byte, []byte)                             {}

// sortedStore has versions, and no carts.
type sortedStore struct {
	nullStore
	all         []StoredVersion
	pages, rows int // that were told
}

func (z *sortedStore) add(versions []StoredVersion) {
	z.all = append(z.all, versions...)
	slices.SortFunc(z.all, func(a, b StoredVersion) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

func (z *sortedStore) Versions(_ context.Context, after, last ID, limit int) ([]StoredVersion, error) {
	upTo := func(id ID) int {
		n, found := slices.BinarySearchFunc(z.all, id, func(v StoredVersion, id ID) int { return bytes.Compare(v.ID[:], id[:]) })
		if found {
			n++
		}
		return n
	}
	from := upTo(after)
	page := z.all[from:min(upTo(last), from+limit)]
	z.pages, z.rows = z.pages+1, z.rows+len(page)
	return page, nil
}
