package cart

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// residentsOf returns the carts in memory, none of them locked.
func residentsOf(s *Service) (all []*resident) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, r := range sh.carts {
			all = append(all, r)
		}
		sh.mu.Unlock()
	}
	return all
}

// checkMemory checks that what is accounted for is what is resident.
func checkMemory(t testing.TB, s *Service) {
	t.Helper()
	var residents, memory int64
	for _, r := range residentsOf(s) {
		r.mu.Lock()
		residents++
		memory += r.size
		if r.gone || s.shard(r.id).get(r.id) != r || r.size != r.measure() {
			t.Errorf("the cart %v: gone %v, size %d, measured %d", r.id, r.gone, r.size, r.measure())
		}
		r.mu.Unlock()
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for id, f := range sh.fragments {
			memory += sizeFragments
			for _, g := range f.deltas {
				memory += g.size
				if g.size != sizeOfDelta(g.delta) {
					t.Errorf("a fragment of %v: size %d, measured %d", id, g.size, sizeOfDelta(g.delta))
				}
			}
			if f.id != id || len(f.deltas) == 0 {
				t.Errorf("%d fragments of %v", len(f.deltas), id)
			}
		}
		if len(sh.loads) > 0 {
			t.Errorf("%d loads are left over", len(sh.loads))
		}
		sh.mu.Unlock()
	}
	if got := s.Stats(); got.Memory != memory || got.Resident != residents {
		t.Errorf("accounted for %d carts of %d bytes, resident are %d of %d", got.Resident, got.Memory, residents, memory)
	}
}

// sizeOf returns the size of a resident cart.
func (c *client) sizeOf() int64 {
	r := c.s.shard(c.id).get(c.id)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

func TestEviction(t *testing.T) {
	store := newFakeStore()
	size := create(t, start(t, Options{Store: store}), addN("A", 1)).sizeOf()
	s := start(t, Options{Store: store, Memory: 10 * size})
	var clients []*client
	for range 100 {
		clients = append(clients, create(t, s, addN("A", 1)))
		if got := s.Stats(); got.Memory > 11*size || got.Resident > 11 {
			t.Fatalf("%d carts of %d bytes in a budget of %d", got.Resident, got.Memory, 10*size)
		}
	}
	checkMemory(t, s)
	for range 3 {
		for _, c := range clients {
			c.do(addN("A", 1))
		}
		checkMemory(t, s)
	}
	for _, c := range clients {
		c.want("A=4")
		// Each residence that wrote has a replica id of its own.
		if n := len(c.read().VV); n < 3 || n > 4 {
			t.Fatalf("%d entries in the version vector", n)
		}
	}
	if got := s.Stats(); got.Evicted < 300 || got.Resident+got.Evicted < 400 {
		t.Errorf("%+v", got)
	}
}

// Reading alone makes no entry in the version vector.
func TestReloadedCartHasAFreshReplica(t *testing.T) {
	store := newFakeStore()
	s := start(t, Options{Store: store, Memory: 1})
	c := create(t, s, addN("A", 1))
	other := create(t, s)
	for range 5 {
		c.want("A=1")
		other.want("")
	}
	if n := len(c.read().VV); n != 1 {
		t.Fatalf("%d entries in the version vector after reloads", n)
	}
	before := c.read().VV
	other.want("")
	after := c.do(addN("A", 1)).State.VV
	if len(after) != 2 || !after.Has(before[0]) || after.Has(crdt.Dot{Replica: before[0].Replica, Seq: before[0].Seq + 1}) {
		t.Errorf("the vector went from %v to %v", before, after)
	}
	checkMemory(t, s)
}

// The carts that were used last stay. A shard is searched as a whole where it is this small.
func TestEvictionTakesTheLeastRecentlyUsed(t *testing.T) {
	s := start(t, Options{})
	sh := &s.shards[0]
	var residents []*resident
	for i := range evictionSample {
		r := &resident{id: ID{0, byte(i)}, latest: new(State), durable: new(State)}
		if err := s.admit(sh, r); err != nil {
			t.Fatal(err)
		}
		r.used = int64((i * 5) % evictionSample)
		r.mu.Unlock()
		residents = append(residents, r)
	}
	for want := range evictionSample {
		if !s.evictOne(sh) {
			t.Fatal("nothing was evicted")
		}
		for _, r := range residents {
			if r.gone != (r.used <= int64(want)) {
				t.Fatalf("after %d evictions the cart used at %d is gone: %v", want+1, r.used, r.gone)
			}
		}
	}
	if s.evictOne(sh) {
		t.Error("something was evicted from an empty shard")
	}
	checkMemory(t, s)
}

func TestDirtyCartsAreNotEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		size := create(t, start(t, Options{Store: store})).sizeOf()
		s := start(t, Options{Store: store, Memory: 5 * size})
		absent, clean := create(t, s), create(t, s)
		_, release := store.blockCommits()
		defer release()
		answers := make(chan error, 100)
		for range 20 {
			go func() {
				_, _, _, err := s.Create(t.Context(), "EUR", nil, Default)
				answers <- err
			}()
			synctest.Wait()
		}
		if n := s.Stats().Resident; n != 6 {
			t.Fatalf("%d carts are resident in a budget of 5", n)
		}
		for len(answers) > 0 {
			wantReason(t, <-answers, ServiceOverCapacity)
		}
		for _, c := range []*client{absent, clean} { // both are gone
			_, err := s.Read(t.Context(), c.id, c.access(), nil)
			wantReason(t, err, ServiceOverCapacity)
			_, err = c.try(Request{Steps: stepsOf([]Command{addN("A", 1)})})
			wantReason(t, err, ServiceOverCapacity)
		}
		checkMemory(t, s)
		release()
		synctest.Wait()
		for range len(answers) {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		absent.do(addN("A", 1))
		clean.want("")
		checkMemory(t, s)
	})
}

func TestARequestKeepsTheCartItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{Memory: 1})
		c := create(t, s, addN("A", 1))
		x := c.contextOf(c.read())
		x = &Context{vv: x.vv.With(x.vv.Next(x.vv[0].Replica))}
		answers := make(chan error)
		go func() {
			_, err := s.Read(t.Context(), c.id, c.access(), x)
			answers <- err
		}()
		synctest.Wait()
		r := s.shard(c.id).get(c.id)
		r.used = -100
		s.packIdle(0, shards)
		if s.makeRoom() || r.gone || r.packed != nil {
			t.Fatal("a cart that a request waits for was evicted or packed")
		}
		c.do(addN("A", 1))
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
		if !s.makeRoom() || !r.gone {
			t.Fatal("a cart that nobody waits for stays")
		}
		checkMemory(t, s)
	})
}

func TestIdleCartsArePacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		packed := func(c *client) bool {
			r := s.shard(c.id).get(c.id)
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.packed != nil
		}
		idle, used, erased := create(t, s), create(t, s), create(t, s)
		idle.keyed("k", Add{bySKU("A", Pair{"size", "M"}), 2, Details{UnitPrice: &Money{100, "EUR"}, Title: new("t")}}, PutCode{"X"})
		if _, err := s.Erase(t.Context(), &Request{Cart: erased.id, Access: erased.access()}); err != nil {
			t.Fatal(err)
		}
		before := idle.read()
		memory := s.Stats().Memory
		for range 2 * idleTicks {
			time.Sleep(tick)
			used.read()
		}
		if !packed(idle) || !packed(erased) || packed(used) {
			t.Fatalf("packed: idle %v, erased %v, used %v", packed(idle), packed(erased), packed(used))
		}
		if got := s.Stats().Memory; got >= memory {
			t.Errorf("packing took the memory from %d to %d bytes", memory, got)
		}
		checkMemory(t, s)

		after := idle.read()
		if packed(idle) || !bytes.Equal(crdt.AppendState(nil, before), crdt.AppendState(nil, after)) || linesOf(after) != linesOf(before) {
			t.Error("the unpacked cart is not the one that was packed")
		}
		if got := s.Stats().Memory; got >= memory {
			t.Errorf("accounted for %d bytes", got)
		}
		checkMemory(t, s)
		wantReplayed(t, idle.keyed("k", Add{bySKU("A", Pair{"size", "M"}), 2, Details{UnitPrice: &Money{100, "EUR"}, Title: new("t")}}, PutCode{"X"}), true)
		if n := len(idle.do(addN("A", 1)).State.VV); n != 1 {
			t.Errorf("%d entries in the version vector: packing is not a new residence", n)
		}
		if _, err := s.Erase(t.Context(), &Request{Cart: erased.id, Access: erased.access()}); !isNotFound(err) {
			t.Error(err)
		}
		if store.loadsOf(idle.id) != 0 {
			t.Error("a packed cart was loaded")
		}
	})
}

func TestDirtyCartsAreNotPacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		c := create(t, s)
		_, release := store.blockCommits()
		defer release()
		pending := c.begin("", addN("A", 1))
		time.Sleep(3 * idleTicks * tick)
		if s.shard(c.id).get(c.id).packed != nil {
			t.Error("a dirty cart was packed")
		}
		release()
		wantAnswer(t, pending, "A=1")
		time.Sleep(3 * idleTicks * tick)
		if s.shard(c.id).get(c.id).packed == nil {
			t.Error("a clean cart was not packed")
		}
		c.want("A=1")
	})
}

// Carts that grow, or are unpacked, take no new room; the janitor makes it.
func TestTheJanitorKeepsTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{Memory: 20_000})
		var clients []*client
		for range 5 {
			clients = append(clients, create(t, s))
		}
		for _, c := range clients {
			c.do(Add{bySKU("A"), 1, Details{ImageURL: new("https://x.test/" + string(bytes.Repeat([]byte("x"), 2000)))}})
			var commands []Command
			for range 100 {
				commands = append(commands, addN("A", 1))
			}
			c.do(commands...)
		}
		if s.Stats().Memory <= 20_000 || s.Stats().Evicted > 0 {
			t.Fatalf("%+v", s.Stats())
		}
		time.Sleep(2 * tick)
		if s.Stats().Memory > 20_000 {
			t.Fatalf("%+v", s.Stats())
		}
		checkMemory(t, s)
	})
}

func TestAPackedCartThatCannotBeRead(t *testing.T) {
	s := start(t, Options{})
	c, other := create(t, s), create(t, s)
	r := s.shard(c.id).get(c.id)
	r.mu.Lock()
	r.pack()
	r.packed = r.packed[:len(r.packed)/2]
	s.resized(r)
	r.mu.Unlock()
	_, err := s.Read(context.Background(), c.id, c.access(), nil)
	wantReason(t, err, Unavailable)
	other.do(addN("A", 1))
}

// What holders have is safe, but only what the store has may leave the memory: all of it.
func TestCartsThatOnlyHoldersHaveStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, Options{Store: store, Shared: true, Replicator: peers, Memory: 1})
		c := create(t, s)
		gates := make(chan struct{})
		store.hookCommit(func(context.Context, []Change) error { <-gates; return nil })
		first, second := c.begin("", addN("A", 1)), c.begin("", addN("A", 1))
		synctest.Wait()
		peers.acknowledge(1)
		peers.acknowledge(2)
		wantAnswer(t, first, "A=1")
		wantAnswer(t, second, "A=2")
		for range 1 { // before the commit
			time.Sleep(3 * idleTicks * tick)
			r := s.shard(c.id).get(c.id)
			if r == nil || r.packed != nil {
				t.Fatal("a cart that the store does not have was evicted or packed")
			}
			gates <- struct{}{}
			synctest.Wait()
		}
		time.Sleep(2 * tick) // past the janitor's next
		if s.shard(c.id).get(c.id) != nil {
			t.Error("a clean cart beyond the budget stays")
		}
		c.want("A=2")
	})
}

// Carts are evicted as fast as they are admitted.
func TestEvictionWhileCartsAreAdmitted(t *testing.T) {
	store := newFakeStore()
	s := start(t, Options{Store: store})
	done := make(chan struct{})
	evicted := make(chan struct{})
	go func() {
		defer close(evicted)
		for {
			select {
			case <-done:
				return
			default:
				for i := range s.shards {
					s.evictOne(&s.shards[i])
				}
				s.packIdle(0, shards)
			}
		}
	}()
	var clients []*client
	for range 2000 {
		clients = append(clients, create(t, s, addN("A", 1)))
		c := clients[len(clients)/2]
		c.do(addN("A", 1))
		c.read()
	}
	close(done)
	<-evicted
	checkMemory(t, s)
	for _, c := range clients {
		if got, want := linesOf(c.read()), linesOf(store.state(c.id)); got != want {
			t.Fatalf("the cart shows %q, the store has %q", got, want)
		}
	}
	checkMemory(t, s)
}
