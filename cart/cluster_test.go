package cart

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// hang makes commits hang until the test is over.
func (f *fakeStore) hang() {
	f.hookCommit(func(ctx context.Context, _ []Change) error { <-ctx.Done(); return ctx.Err() })
}

// closing closes a Service whose store hangs.
func closing(t *testing.T, s *Service) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Close(ctx)
}

// A write that neither peers nor the database take is refused within half a second, or at once where that is
// known, and within two seconds where peers are there that do not answer, or whatever is asked.
func TestRefusalsComeInTime(t *testing.T) {
	full := func(f *fakeStore) { f.failCommits(ErrNoRoom) }
	for _, c := range []struct {
		name   string
		peers  int
		shared bool
		store  func(*fakeStore)
		want   Durability
		within time.Duration
	}{
		{"peers that do not answer, a database that hangs", 2, true, (*fakeStore).hang, Default, 2 * time.Second},
		{"peers that do not answer, a database without room", 2, true, full, Default, 2 * time.Second},
		{"peers that do not answer, files", 2, false, func(*fakeStore) {}, Default, 2 * time.Second},
		{"no peers, a database that hangs", 0, true, (*fakeStore).hang, Default, 500 * time.Millisecond},
		{"no peers, files", 0, false, func(*fakeStore) {}, Default, 0},
		{"the database wanted, which hangs", 2, true, (*fakeStore).hang, Database, 2 * time.Second},
		{"the database wanted, which has no room", 2, true, full, Database, 500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, peers := newFakeStore(), newFakeReplicator()
				x := newForeign(t, time.Now(), 1)
				store.put(x.id, x.states[1])
				s := New(Options{Store: store, Shared: c.shared, Replicator: peers})
				defer closing(t, s)
				x.client(t, s).want("A=1")
				c.store(store)
				peers.setPeers(c.peers)
				for range 2 { // the second time the node knows
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					began := time.Now()
					_, err := x.client(t, s).tryContext(ctx, Request{Durability: c.want, Steps: stepsOf([]Command{addN("A", 1)})})
					cancel()
					wantReason(t, err, NotDurable)
					if took := time.Since(began); took > c.within {
						t.Errorf("refused after %v", took)
					}
				}
				x.client(t, s).want("A=1")
				checkLists(t, s)
			})
		})
	}
}

// What is asked of the database is answered when the database has it, be it done, repeated or refused.
func TestDatabaseDurability(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := create(t, s)
		entered, release := store.blockCommits()
		ask := func(want Durability) <-chan answer {
			answers := make(chan answer, 1)
			go func() {
				r, err := c.try(Request{Key: "k", Durability: want, Steps: stepsOf([]Command{addN("A", 1)})})
				answers <- answer{r, err}
			}()
			synctest.Wait()
			return answers
		}
		first := ask(Default)
		peers.acknowledge(1)
		if r := wantAnswer(t, first, "A=1"); r.Reached != (Reached{Holders: 2}) {
			t.Errorf("%+v", r.Reached)
		}
		replay := ask(Database)
		<-entered
		wantPending(t, replay)
		release()
		if r := wantAnswer(t, replay, "A=1"); r.Reached != (Reached{Database: true}) || !r.Replayed {
			t.Errorf("%+v", r)
		}
		began := time.Now()
		if r := wantAnswer(t, ask(Database), "A=1"); r.Reached != (Reached{Database: true}) || time.Since(began) != 0 {
			t.Errorf("%+v after %v", r.Reached, time.Since(began))
		}
		store.failCommits(ErrNoRoom)
		s.committer.setNoRoom(ErrNoRoom)
		version := Version(c.read())
		_, err := c.try(Request{Durability: Database, Steps: stepsOf([]Command{addN("A", 1)})})
		wantReason(t, err, NotDurable)
		if Version(c.read()) != version || len(peers.sent) != 2 {
			t.Error("a write that was refused up front was made")
		}
		s.committer.setNoRoom(nil)
		store.failCommits(nil)
	})
}

// The commit to a file of the node's own acknowledges nothing.
func TestOwnFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, Options{Store: store, Replicator: peers})
		x := newForeign(t, time.Now(), 1)
		store.put(x.id, x.states[1])
		c := x.client(t, s)
		write := c.begin("k", addN("A", 1))
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if linesOf(store.state(c.id)) != "A=2" {
			t.Error("it is not in the file")
		}
		wantPending(t, write)
		c.want("A=1")
		peers.acknowledge(0)
		if r := wantAnswer(t, write, "A=2"); r.Reached != (Reached{Holders: 2}) {
			t.Errorf("%+v", r.Reached)
		}
		// The marks of a peer tell of its own file.
		s.Mark(9, c.id, mark{stored: extent{vv: crdt.VV{{Replica: 5, Seq: 9}}}}.encode())
		if r := s.shard(c.id).get(c.id); r.behind() {
			t.Error("a peer's file counts as a database")
		}
	})
}

// A write whose acknowledgements were all lost is sent again, and safe then.
func TestWritesAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, Options{Store: store, Replicator: peers})
		x := newForeign(t, time.Now(), 1)
		store.put(x.id, x.states[1])
		c := x.client(t, s)
		for range 2 {
			write := c.begin("", addN("A", 1))
			time.Sleep(giveUpAfter + 2*flushTick)
			synctest.Wait()
			wantReason(t, (<-write).err, NotDurable)
		}
		c.want("A=1")
		time.Sleep(reassureAfter + 3*flushTick)
		synctest.Wait()
		if len(peers.sent) != 3 || !bytes.Equal(peers.sent[2].delta, whole(s.shard(c.id).get(c.id).latest)) {
			t.Fatalf("%d payloads were sent", len(peers.sent))
		}
		peers.acknowledge(2)
		c.want("A=3")
		time.Sleep(2 * reassureAfter)
		synctest.Wait()
		if len(peers.sent) != 3 {
			t.Error("what is safe was sent again")
		}
		wantNothingUnsaved(t, s)
	})
}

// While an author works, what a peer sends is joined; both have their effect, and the author's what it saw.
func TestPeerWritesWhileAuthorWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 2)
		deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]))
		c := x.client(t, s)
		c.want("A=1")
		letGo := c.occupy() // it clears the cart
		deliver(t, s, x.id, payload(x.deltas[2]))
		c.want("A=2")
		letGo()
		c.want("A=1") // what came meanwhile is concurrent to the clearing
		letGo = c.occupy0("late", addN("B", 1))
		deliver(t, s, x.id, payload(&crdt.Delta{State: State{Erased: true}}))
		letGo()
		if _, err := s.Read(t.Context(), c.id, c.access(), nil); !isNotFound(err) {
			t.Error(err)
		}
		checkIndex(t, s)
	})
}

// occupy0 keeps the turn for a request that is refused in the end, as the cart is gone.
func (c *client) occupy0(key string, command Command) (release func()) {
	h := hog{working: make(chan struct{}), finish: make(chan struct{})}
	done := make(chan error)
	go func() {
		_, err := c.try(Request{Key: key, Steps: []Step{{Command: h}, {Command: command}}})
		done <- err
	}()
	<-h.working
	return func() {
		close(h.finish)
		if err := <-done; !isNotFound(err) {
			c.t.Errorf("the author whose cart was erased: %v", err)
		}
	}
}

// Payloads that no node sends are refused and counted, and leave the cart as it was.
func TestRefusedPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := create(t, s, addN("A", 1))
		before := crdt.AppendState(nil, c.read())
		own := s.shard(c.id).get(c.id).replica
		now := time.Now()
		step := func(a author, s *State) []byte { d, _ := a.step(s, addN("A", 1)); return payload(d) }
		long := c.read()
		for _, p := range []struct {
			payload []byte
			want    Refused
		}{
			{[]byte("x"), Refused{Malformed: 1}},
			{step(author{t, own, now}, long), Refused{Malformed: 1}},
			{step(author{t, 5, now.Add(maxAhead + time.Second)}, long), Refused{TooNew: 1}},
			{step(author{t, 5, now.Add(-TimeToLive - TimeToPurge - time.Hour)}, new(State)), Refused{Expired: 1}},
		} {
			was := s.Stats().Refused
			held, lacks := s.Deliver(9, c.id, p.payload)
			got := s.Stats().Refused
			got.Malformed -= was.Malformed
			got.TooNew -= was.TooNew
			got.Expired -= was.Expired
			if held || lacks || got != p.want {
				t.Errorf("held %v, lacks %v, %+v, want %+v", held, lacks, got, p.want)
			}
		}
		if !bytes.Equal(crdt.AppendState(nil, c.read()), before) {
			t.Error("the cart changed")
		}
		d, _ := author{t, 5, now}.step(long, addN("A", 1))
		for range 3 {
			deliver(t, s, c.id, payload(d))
			c.want("A=2")
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		deliver(t, s, c.id, payload(d))
		if r := s.shard(c.id).get(c.id); r.dirty() {
			t.Error("a duplicate makes a cart dirty")
		}
	})
}

// With two nodes that may fail, what a peer made is shown when its author tells that it is safe, and an erasure
// when that is in what it tells of.
func TestMarksOfWhatIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		o := peered(store, peers)
		o.Tolerate = 2
		s := start(t, o)
		store.hang()
		x := newForeign(t, time.Now(), 2)
		deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]))
		c := x.client(t, s)
		_, err := s.Read(t.Context(), x.id, c.access(), nil)
		wantReason(t, err, Unavailable)
		s.Mark(9, x.id, mark{durable: extentOf(x.states[1])}.encode())
		c.want("A=1")
		deliver(t, s, x.id, payload(x.deltas[2]))
		c.want("A=1")
		s.Mark(9, x.id, mark{durable: extentOf(x.states[1])}.encode())
		c.want("A=1")
		deliver(t, s, x.id, payload(&crdt.Delta{State: State{Erased: true}}))
		s.Mark(9, x.id, mark{durable: extentOf(x.states[2])}.encode())
		c.want("A=2")
		s.Mark(9, x.id, mark{durable: extent{erased: true}}.encode())
		if _, err := s.Read(t.Context(), x.id, c.access(), nil); !isNotFound(err) {
			t.Error(err)
		}
		store.failCommits(nil)
		s.committer.fail(errors.New("enough"))
	})
}

// That the database has a change may be known before the change comes: it is safe then.
func TestAMarkComesBeforeTheChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		peers.setPeers(0)
		o := peered(store, peers)
		o.Tolerate = 2
		s := start(t, o)
		x := newForeign(t, time.Now(), 2)
		store.put(x.id, x.states[1])
		x.client(t, s).want(linesOf(x.states[1]))
		s.Mark(9, x.id, mark{stored: extentOf(x.states[2])}.encode())
		deliver(t, s, x.id, payload(x.deltas[2]))
		x.client(t, s).want(linesOf(x.states[2]))
	})
}

// A holder that was away when it was counted counts when it is back.
func TestHoldersAreCountedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := &mortal{fakeReplicator: newFakeReplicator()}
		s := start(t, Options{Replicator: peers, Tolerate: 2})
		r := &resident{id: NewID(), replica: 5, service: s, latest: new(State)}
		c := &change{state: r.latest}
		r.push(c)
		r.heldBy(c, 1)
		peers.gone = 1
		r.heldBy(c, 2)
		if c.safe {
			t.Error("a holder that is gone counts")
		}
		peers.gone = 0
		r.heldBy(c, 2)
		if !c.durable {
			t.Error("a holder that is back does not count")
		}
	})
}

type mortal struct {
	*fakeReplicator
	gone uint64
}

func (m *mortal) Alive(holder uint64) bool { return holder != m.gone }

// A node that is behind what a client has seen, or a peer has saved, catches up from the store.
func TestANodeCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 3)
		store.put(x.id, x.states[0])
		c := x.client(t, s)
		c.want("")
		synctest.Wait()
		store.put(x.id, x.states[1]) // by a node that this one never hears of
		c.want("")
		began := time.Now()
		state, err := s.Read(t.Context(), x.id, c.access(), c.contextOf(x.states[1]))
		if err != nil || linesOf(state) != "A=1" || time.Since(began) != refreshAfter {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		store.put(x.id, x.states[3])
		s.Mark(9, x.id, mark{stored: extentOf(x.states[3])}.encode())
		c.want("A=1")
		time.Sleep(idleTicks * tick)
		synctest.Wait()
		c.want("A=3")
		_, err = s.Read(t.Context(), x.id, c.access(), &Context{vv: crdt.VV{{Replica: 1, Seq: 1}}})
		wantReason(t, err, ContextUnavailable)
		checkIndex(t, s)
	})
}

// Who has seen a cart is not told that it does not exist.
func TestUnknownCartsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 1)
		c := x.client(t, s)
		_, err := s.Read(t.Context(), x.id, c.access(), c.contextOf(x.states[1]))
		wantReason(t, err, ContextUnavailable)
		if _, err := s.Read(t.Context(), x.id, c.access(), nil); !isNotFound(err) {
			t.Error(err)
		}
		for _, answer := range []struct {
			payload  []byte
			complete bool
		}{{nil, false}, {whole(new(State)), true}} {
			peers.fetch = func(ID) ([][]byte, bool) {
				if answer.payload == nil {
					return nil, answer.complete
				}
				return [][]byte{answer.payload}, answer.complete
			}
			_, err = s.Read(t.Context(), x.id, c.access(), nil)
			wantReason(t, err, Unavailable)
		}
		peers.fetch = func(ID) ([][]byte, bool) { return [][]byte{whole(x.states[1])}, false }
		c.want("A=1")
	})
}

// A cart that the database of this region has lost is got from another one.
func TestLostCartIsFetchedAbroad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		x := newForeign(t, time.Now(), 3)
		store.put(x.id, x.states[2])
		s := start(t, peered(store, peers))
		time.Sleep(10 * time.Second) // until it is in the index
		store.goBack(x.id, nil)
		peers.elsewhere = [][]byte{whole(x.states[3])}
		x.client(t, s).want("A=3")
		time.Sleep(10 * time.Second)
		if state := store.state(x.id); state == nil || !extentOf(state).covers(x.states[3]) {
			t.Errorf("stored is %v", state)
		}
	})
}

// A cart of which this region has a part alone, since its database lost the rest, is got from another one.
func TestPartIsFetchedAbroad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 3)
		deliver(t, s, x.id, payload(x.deltas[2]))
		c := x.client(t, s)
		_, err := s.Read(t.Context(), x.id, c.access(), nil)
		wantReason(t, err, Unavailable)
		peers.elsewhere = [][]byte{whole(x.states[3])}
		c.want("A=3")
		time.Sleep(10 * time.Second)
		if state := store.state(x.id); state == nil || !extentOf(state).covers(x.states[3]) {
			t.Errorf("stored is %v", state)
		}
	})
}

// Whatever a peer sends, nothing panics and the cart of another node's making can be used.
func FuzzPeer(f *testing.F) {
	x := newForeign(f, time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), 3)
	f.Add(byte(0), payload(x.deltas[2]))
	f.Add(byte(1), whole(x.states[3]))
	f.Add(byte(2), mark{base: x.states[1].VV, stored: extentOf(x.states[2]), durable: extentOf(x.states[1])}.encode())
	f.Add(byte(3), crdt.AppendState(nil, x.states[2]))
	f.Add(byte(0), payload(&crdt.Delta{State: State{Erased: true}}))
	f.Fuzz(func(t *testing.T, what byte, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			store, peers := newFakeStore(), newFakeReplicator()
			o := peered(store, peers)
			o.Shared = what&4 != 0
			s := start(t, o)
			deliver(t, s, x.id, whole(x.states[1]))
			if what&8 != 0 {
				x.client(t, s).read()
			}
			for range 2 {
				switch what % 4 {
				case 0, 1:
					s.Deliver(9, x.id, b)
				case 2:
					s.Mark(9, x.id, b)
				case 3:
					_, _, _ = s.Compare(t.Context(), x.id, b)
				}
			}
			synctest.Wait()
			checkMemory(t, s)
			checkLists(t, s)
			_, _ = s.Read(t.Context(), x.id, Access{Trusted: true}, nil)
			_, _, _ = s.State(t.Context(), x.id)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if stored := store.state(x.id); stored == nil || !stored.Erased && !stored.VV.Descends(x.states[1].VV) {
				t.Error("the cart lost what was held")
			}
			checkMemory(t, s)
		})
	})
}

// What only the database has, since who committed it has died, comes to the nodes that have the cart in
// memory.
func TestWhatOnlyTheDatabaseHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		used, idle := written(t, s, peers), written(t, s, peers)
		time.Sleep(3 * idleTicks * tick)
		used.want("A=2")
		other := author{t, 77, time.Now()}
		for _, c := range []*client{used, idle} {
			store.put(c.id, other.apply(store.state(c.id), addN("B", 1)))
		}
		used.want("A=2")
		time.Sleep(seedAgain + tick)
		synctest.Wait()
		used.want("A=2 B=1")
		idle.want("A=2 B=1")
		wantNothingUnsaved(t, s)
	})
}

// A payload that comes again changes nothing, and is counted.
func TestRepeatedPayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 1)
		deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[0]))
		if n := s.Stats().Repeated; n != 1 {
			t.Errorf("%d fragments came again", n)
		}
		before := linesOf(x.client(t, s).read())
		deliver(t, s, x.id, payload(x.deltas[0]))
		if n := s.Stats().Repeated; n != 2 {
			t.Errorf("%d payloads came again", n)
		}
		x.client(t, s).want(before)
	})
}

// What a node reads from a file of its own, others may have refused before it started: it is shown, and replayed, once
// so many of them have it as are enough.
func TestAFileAloneMakesNothingSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := New(Options{Store: store, Replicator: peers})
		x := newForeign(t, time.Now(), 0)
		deliver(t, s, x.id, payload(x.deltas[0]))
		c := x.client(t, s)
		_ = c.begin("key", addN("A", 1)) // which nobody acknowledges
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}

		peers = newFakeReplicator()
		peers.setPeers(0)
		c.s = start(t, Options{Store: store, Replicator: peers})
		if _, err := c.try(Request{Key: "key", Steps: stepsOf([]Command{addN("A", 1)})}); !errors.Is(err, &Error{Reason: NotDurable}) {
			t.Errorf("what only a file has is replayed: %v", err)
		}
		if _, err := c.s.Read(t.Context(), c.id, Access{Token: &c.token}, nil); !errors.Is(err, &Error{Reason: Unavailable}) {
			t.Errorf("what only a file has is shown: %v", err)
		}
		peers.setPeers(2)
		peers.acknowledge(0)
		c.want("A=1")
		checkMemory(t, c.s)
	})
}

// Who erased a cart holds what others still have of it, and what it wrote itself is no forgery.
func TestAnErasedCartIsHeld(t *testing.T) {
	o := peered(newFakeStore(), nil)
	o.Replicator = &promptPeers{fakeReplicator: newFakeReplicator()}
	s := start(t, o)
	c := create(t, s, addN("A", 1))
	before := whole(c.read())
	if _, err := s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); err != nil {
		t.Fatal(err)
	}
	if held, lacks := s.Deliver(9, c.id, before); !held || lacks {
		t.Errorf("held %v, lacks %v", held, lacks)
	}
}
