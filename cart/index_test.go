package cart

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// Two nodes that get the same deltas and states of a few carts in different orders, with evictions, loads,
// saves and a start in between, end with equal digests: those that were wrong meanwhile are set right by
// whoever compares.
func TestIndexesOfEqualCartsAreEqual(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		for range 60 {
			const carts = 4
			var foreigners [carts]foreign
			for i := range foreigners {
				foreigners[i] = newForeign(t, time.Now(), 5)
			}
			store := newFakeStore()
			if random.IntN(2) == 0 {
				store.put(foreigners[0].id, foreigners[0].states[random.IntN(6)])
			}
			nodes := []*Service{New(peered(store, newFakeReplicator())), New(peered(store, newFakeReplicator()))}
			for _, s := range nodes {
				scatter(t, random, s, foreigners[:])
			}
			compare := func() {
				for i := range foreigners {
					a, b := nodes[0], nodes[1]
					id := foreigners[i].id
					vector, known, err := a.Vector(t.Context(), id)
					if err != nil || !known {
						t.Fatalf("known %v, %v", known, err)
					}
					if ahead, behind, err := b.Compare(t.Context(), id, vector); ahead || behind || err != nil {
						t.Fatalf("ahead %v, behind %v, %v", ahead, behind, err)
					}
				}
			}
			compare()
			if *nodes[0].Digests() != *nodes[1].Digests() {
				t.Error("equal carts have different digests")
			}
			for _, s := range nodes {
				for i := range foreigners {
					x := &foreigners[i]
					want := VersionHash(x.id, x.states[5])
					s.EachVersion(x.id, func(id [16]byte, version uint64) bool {
						if id == x.id && version != want {
							t.Error("the index has another version than the cart")
						}
						return true
					})
				}
				checkIndex(t, s)
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			third := New(peered(store, newFakeReplicator()))
			synctest.Wait()
			if !third.Indexed() || *third.Digests() != *nodes[0].Digests() {
				t.Error("a node that starts has other digests than those before")
			}
			for _, s := range append(nodes, third) {
				if err := s.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// scatter delivers the deltas of carts in a random order, with states for what does not fit, while the carts
// come and go.
func scatter(t *testing.T, random *rand.Rand, s *Service, foreigners []foreign) {
	type part struct {
		x *foreign
		b []byte
	}
	var parts []part
	for i := range foreigners {
		x := &foreigners[i]
		for k, d := range x.deltas {
			parts = append(parts, part{x, payload(d)})
			if random.IntN(6) == 0 {
				parts = append(parts, part{x, whole(x.states[k])})
			}
		}
	}
	random.Shuffle(len(parts), func(i, k int) { parts[i], parts[k] = parts[k], parts[i] })
	for _, p := range parts {
		if _, lacks := s.Deliver(9, p.x.id, p.b); lacks {
			deliver(t, s, p.x.id, whole(p.x.states[random.IntN(6)]))
		}
		switch random.IntN(8) {
		case 0:
			_, _ = s.Read(t.Context(), p.x.id, Access{Trusted: true}, nil)
		case 1:
			s.evictOne(s.shard(p.x.id))
		case 2:
			time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		case 3:
			s.tick.Add(idleTicks)
			s.packIdle(0, shards)
		}
		checkIndex(t, s)
	}
	for i := range foreigners {
		deliver(t, s, foreigners[i].id, whole(foreigners[i].states[5]))
	}
}

// What a node's own file has of a cart, others are told of, also where one of them sent less of it before that was read.
func TestAFileHasMoreThanAPeerSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		x := newForeign(t, time.Now(), 3)
		store.put(x.id, x.states[3])
		store.setAway(true)
		s := start(t, Options{Store: store, Replicator: newFakeReplicator()})
		deliver(t, s, x.id, whole(x.states[1]))
		synctest.Wait() // that is saved
		store.setAway(false)
		time.Sleep(2 * seedRetry)
		s.EachVersion(x.id, func(id [16]byte, version uint64) bool {
			if want := VersionHash(x.id, x.states[3]); id == x.id && version != want {
				t.Errorf("the index has %x, the file %x", version, want)
			}
			return true
		})
	})
}

// The steps and the spans of a history change the version as the states do.
func TestVersionsOfSteps(t *testing.T) {
	id := NewID()
	x := newForeign(t, time.Now(), 4)
	b := author{t, 3, time.Now()}
	d, last := b.step(x.states[4], remove("A"), addN("B", 1))
	states, deltas := append(x.states, last), append(x.deltas, d)
	for i := range states {
		for k := i; k < len(states); k++ {
			got := VersionHash(id, states[i]) ^ stepHash(id, states[i].VV, states[k].VV)
			if got != VersionHash(id, states[k]) {
				t.Errorf("the step from %d to %d", i, k)
			}
			if k == i {
				continue
			}
			m := deltas[i+1]
			for _, d := range deltas[i+2 : k+1] {
				m = crdt.Merge(m, d)
			}
			if VersionHash(id, states[i])^spanHash(id, m) != VersionHash(id, states[k]) {
				t.Errorf("the span from %d to %d", i, k)
			}
		}
	}
}

// A cart that is not there any more leaves the index when somebody compares it, be it in memory or not.
func TestCartsThatArePurgedLeaveTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		o, clock := peered(store, newFakeReplicator()), newClock()
		o.Now = clock.Now
		s := start(t, o)
		now := clock.Now()
		x, y := newForeign(t, now, 1), newForeign(t, now, 1)
		deliver(t, s, x.id, whole(x.states[1]))
		deliver(t, s, y.id, whole(y.states[1]))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.client(t, s).want("A=1")
		clock.advance(TimeToLive + TimeToPurge + time.Second)
		s.purge()
		if len(store.carts) > 0 || *s.Digests() == [shards * slotsPerShard]uint64{} {
			t.Fatalf("%d carts are stored", len(store.carts))
		}
		for _, id := range []ID{x.id, y.id} {
			if p, _, err := s.State(t.Context(), id); p != nil || err != nil {
				t.Errorf("a cart that was purged is told of: %v", err)
			}
		}
		if *s.Digests() != [shards * slotsPerShard]uint64{} || s.Stats().Resident != 0 {
			t.Errorf("the index still has a cart, %d are resident", s.Stats().Resident)
		}
		checkMemory(t, s)
	})
}

// goBack has a store go back to an earlier state of a cart, or to nothing of it where that is nil.
func (f *fakeStore) goBack(id ID, s *State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.carts[id] = s; s == nil {
		delete(f.carts, id)
	}
}

// setAway has the store tell no versions, or tell them again.
func (f *fakeStore) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

// What a database has lost, because it was taken back to an earlier state, it gets again of whoever holds it:
// states of carts in memory, packed or not, and the end of carts that were erased, in memory or not. Of others
// the index forgets what nobody can show any more.
func TestADatabaseThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		const carts = 3
		var used, packed, evicted, erased, gone [carts]foreign
		for _, kind := range []*[carts]foreign{&used, &packed, &evicted, &erased, &gone} {
			for i := range kind {
				x := newForeign(t, time.Now(), 4)
				kind[i] = x
				deliver(t, s, x.id, whole(x.states[4]))
				if kind != &evicted {
					x.client(t, s).want(linesOf(x.states[4]))
				}
				if kind == &erased || kind == &gone {
					deliver(t, s, x.id, whole(&State{Erased: true}))
				}
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range gone {
			for sh := s.shard(gone[i].id); sh.get(gone[i].id) != nil; {
				s.evictOne(sh)
			}
		}
		for i := range packed { // that may have been evicted with the others
			packed[i].client(t, s).want(linesOf(packed[i].states[4]))
		}
		time.Sleep(2 * idleTicks * tick)
		for i := range used {
			used[i].client(t, s).want(linesOf(used[i].states[4]))
			if r := s.shard(packed[i].id).get(packed[i].id); r.packed == nil {
				t.Error("a cart that nobody used is not packed")
			}
		}

		for i, n := range [carts]int{3, 1, 0} {
			for _, x := range []foreign{used[i], packed[i], evicted[i], erased[i], gone[i]} {
				if n > 0 {
					store.goBack(x.id, x.states[n])
				} else {
					store.goBack(x.id, nil)
				}
			}
		}
		time.Sleep(2*seedAgain + 10*time.Second)
		synctest.Wait()
		for i, n := range [carts]int{3, 1, 0} {
			for _, x := range []foreign{used[i], packed[i]} {
				if got := store.state(x.id); got == nil || VersionHash(x.id, got) != VersionHash(x.id, x.states[4]) {
					t.Errorf("a cart in memory was not saved again: %v", got)
				}
			}
			for _, x := range []foreign{erased[i], gone[i]} {
				if got := store.state(x.id); got == nil || !got.Erased {
					t.Errorf("a cart is not erased any more: %v", got)
				}
			}
			x := evicted[i]
			version, known := s.shard(x.id).versions[x.id]
			if known != (n > 0) || known && version != VersionHash(x.id, x.states[n]) {
				t.Errorf("the index tells of what is nowhere: %x", version)
			}
		}
		wantNothingUnsaved(t, s)
		checkIndex(t, s)
		checkMemory(t, s)
	})
}

// What every node deletes is not saved again when the database has deleted it.
func TestWhatIsPurgedIsNotSavedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		o, clock := peered(store, newFakeReplicator()), newClock()
		o.Now = clock.Now
		s := start(t, o)
		x := newForeign(t, clock.Now(), 1)
		deliver(t, s, x.id, whole(x.states[1]))
		x.client(t, s).want("A=1")
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		clock.advance(TimeToLive + TimeToPurge + time.Second)
		s.purge()
		time.Sleep(seedAgain + 10*time.Second)
		synctest.Wait()
		if len(store.carts) > 0 || s.Stats().Resident > 0 || *s.Digests() != [shards * slotsPerShard]uint64{} {
			t.Errorf("%d carts are stored, %d resident", len(store.carts), s.Stats().Resident)
		}
	})
}

// A database that was away is compared at once when it is back: it may be at an earlier state.
func TestADatabaseThatWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		x := newForeign(t, time.Now(), 4)
		deliver(t, s, x.id, whole(x.states[4]))
		x.client(t, s).want(linesOf(x.states[4]))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.setAway(true)
		time.Sleep(2 * seedProbe)
		store.goBack(x.id, x.states[1])
		store.setAway(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := store.state(x.id); VersionHash(x.id, got) != VersionHash(x.id, x.states[4]) {
			t.Errorf("a cart in memory was not saved again: %v", got)
		}
	})
}

// restartable is a store that tells when it may have gone back.
type restartable struct {
	*fakeStore
	incarnation atomic.Int64
}

func (r *restartable) Incarnation() int64 { return r.incarnation.Load() }

// A store that says that it may have gone back is compared at once, and otherwise within a minute.
func TestAnotherIncarnationIsComparedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &restartable{fakeStore: newFakeStore()}
		store.incarnation.Store(1)
		o := peered(store.fakeStore, newFakeReplicator())
		o.Store = store
		s := start(t, o)
		x := newForeign(t, time.Now(), 1)
		deliver(t, s, x.id, whole(x.states[1]))
		x.client(t, s).want(linesOf(x.states[1]))
		backAfter := func(what string, incarnation int64, least, most time.Duration) {
			t.Helper()
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			store.goBack(x.id, nil)
			store.incarnation.Store(incarnation)
			began := time.Now()
			for store.state(x.id) == nil && time.Since(began) < 2*seedAgain {
				time.Sleep(flushTick)
			}
			if took := time.Since(began); took < least || took > most {
				t.Errorf("%s: saved again after %v", what, took)
			}
		}
		time.Sleep(seedAgain / 2)
		backAfter("another incarnation", 2, 0, 2*seedProbe)
		backAfter("the same one", 2, seedAgain/2, seedAgain+2*seedProbe)
	})
}

// A cart that is dirty when the database has gone back is saved whole, whatever others save of it: what they say that
// the database has builds on what it has lost.
func TestADirtyCartOfADatabaseThatWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		peers.rank = 2
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 3)
		deliver(t, s, x.id, whole(x.states[2]))
		x.client(t, s).want(linesOf(x.states[2]))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.goBack(x.id, x.states[1])
		time.Sleep(seedAgain - time.Second)
		deliver(t, s, x.id, whole(x.states[3]))
		time.Sleep(time.Second + 100*time.Millisecond)
		synctest.Wait()
		last := crdt.VV{{Replica: 77, Seq: x.states[3].VV.Get(77)}}
		s.Mark(9, x.id, mark{base: x.states[2].VV, stored: extent{vv: last}}.encode()) // of a node that saved the last step alone
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.state(x.id); VersionHash(x.id, got) != VersionHash(x.id, x.states[3]) {
			t.Errorf("the database has %s of %s", linesOf(got), linesOf(x.states[3]))
		}
	})
}

// A cart that the store has another version of is not evicted before the store has said what it has.
func TestACartInDoubtStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		o := peered(store, peers)
		s := start(t, o)
		x := newForeign(t, time.Now(), 2)
		deliver(t, s, x.id, whole(x.states[2]))
		x.client(t, s).want(linesOf(x.states[2]))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		store.goBack(x.id, x.states[1])
		store.hookLoad(func(context.Context, ID) error { return context.DeadlineExceeded })
		time.Sleep(2*seedAgain + 10*time.Second)
		for range 3 {
			s.evictOne(s.shard(x.id))
		}
		store.hookLoad(nil)
		time.Sleep(2 * idleTicks * tick)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.state(x.id); VersionHash(x.id, got) != VersionHash(x.id, x.states[2]) {
			t.Errorf("the database has %s of %s", linesOf(got), linesOf(x.states[2]))
		}
		checkMemory(t, s)
	})
}
