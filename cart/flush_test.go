package cart

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// written makes a cart with one acknowledged add, of which the database has nothing.
func written(t *testing.T, s *Service, peers *fakeReplicator) *client {
	t.Helper()
	x := newForeign(t, time.Now(), 1)
	deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]))
	c := x.client(t, s)
	c.want("A=1")
	n := len(peers.sent)
	add := c.begin("", addN("A", 1))
	peers.acknowledge(n)
	wantAnswer(t, add, "A=2")
	return c
}

// The first owner saves a cart after the pause, the next ones later, and not where a peer did.
func TestOwnersSaveInTurn(t *testing.T) {
	for rank, want := range []time.Duration{250 * time.Millisecond, time.Second, 1750 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			store, peers := newFakeStore(), newFakeReplicator()
			peers.rank = rank
			s := start(t, peered(store, peers))
			c, other := written(t, s, peers), written(t, s, peers)
			time.Sleep(want - flushTick)
			synctest.Wait()
			if store.state(c.id) != nil {
				t.Errorf("owner %d saved before %v", rank, want)
			}
			s.Mark(9, other.id, mark{stored: extentOf(other.read())}.encode())
			time.Sleep(3 * flushTick)
			synctest.Wait()
			if got := store.state(c.id); got == nil || linesOf(got) != "A=2" {
				t.Errorf("owner %d did not save within %v", rank, want)
			}
			if store.state(other.id) != nil {
				t.Error("what a peer saved was saved again")
			}
			if r := s.shard(other.id).get(other.id); !r.clean() {
				t.Error("what a peer saved is dirty")
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			wantNothingUnsaved(t, s)
		})
	}
}

// A mark that has less than the cart, or begins beyond what is known to be stored, leaves it dirty.
func TestMarksThatSayLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := written(t, s, peers)
		r := s.shard(c.id).get(c.id)
		state := c.read()
		s.Mark(9, c.id, mark{base: state.VV[:1], stored: extentOf(state)}.encode())
		if !r.dirty() {
			t.Error("a mark with a base that is not stored counts")
		}
		s.Mark(9, c.id, mark{stored: extent{vv: state.VV[:1]}}.encode())
		if !r.dirty() {
			t.Error("a mark of a part counts for all")
		}
		s.Mark(9, c.id, mark{base: state.VV[:1], stored: extentOf(state)}.encode())
		if r.dirty() {
			t.Error("a mark that adjoins what is stored does not count")
		}
		checkLists(t, s)
	})
}

// What changes while a commit has it is not taken for saved.
func TestChangesDuringACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := written(t, s, peers)
		entered, release := store.blockCommits()
		<-entered
		add := c.begin("", addN("A", 1))
		peers.acknowledge(1)
		wantAnswer(t, add, "A=3")
		release()
		synctest.Wait()
		r := s.shard(c.id).get(c.id)
		if got := linesOf(store.state(c.id)); got != "A=2" || !r.dirty() {
			t.Errorf("the store has %q, dirty %v", got, r.dirty())
		}
		checkLists(t, s)
		time.Sleep(minPause + 2*flushTick)
		synctest.Wait()
		if got := linesOf(store.state(c.id)); got != "A=3" || r.dirty() {
			t.Errorf("the store has %q, dirty %v", got, r.dirty())
		}
	})
}

// When a holder is lost, all is saved at once, also what is in a commit at that time, by one owner after the
// other.
func TestALostHolderMakesHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		s.flusher.pause = maxPause
		peers.rank = 1
		c := written(t, s, peers)
		x := newForeign(t, time.Now(), 1)
		deliver(t, s, x.id, payload(x.deltas[0]))
		busy := written(t, s, peers)
		entered, release := store.blockCommits()
		r := s.shard(busy.id).get(busy.id)
		r.mu.Lock()
		r.must = true
		s.save(r)
		r.mu.Unlock()
		<-entered
		n := len(peers.sent)
		add := busy.begin("", addN("A", 1))
		peers.acknowledge(n)
		wantAnswer(t, add, "A=3")
		s.Lost(9)
		release()
		checkLists(t, s)
		time.Sleep(afterLoss - flushTick)
		synctest.Wait()
		if store.state(c.id) != nil {
			t.Error("the second owner saved before its time")
		}
		time.Sleep(3 * flushTick)
		synctest.Wait()
		if store.state(c.id) == nil || store.state(x.id) == nil || linesOf(store.state(busy.id)) != "A=3" {
			t.Error("what a lost holder had is not saved")
		}
	})
}

// Flush returns when the store has everything, whatever is on its way.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		peers.rank = 2
		s := start(t, peered(store, peers))
		c, other := written(t, s, peers), written(t, s, peers)
		x := newForeign(t, time.Now(), 1)
		deliver(t, s, x.id, payload(x.deltas[0]))
		entered, release := store.blockCommits()
		var done atomic.Bool
		go func() {
			if err := s.Flush(t.Context()); err != nil {
				t.Error(err)
			}
			done.Store(true)
		}()
		<-entered
		add := c.begin("", addN("A", 1))
		peers.acknowledge(2)
		wantAnswer(t, add, "A=3")
		time.Sleep(time.Second)
		synctest.Wait()
		if done.Load() {
			t.Fatal("Flush returned before the commit")
		}
		release()
		time.Sleep(5 * flushTick) // a commit, what came during it, and a look at both
		synctest.Wait()
		if !done.Load() || linesOf(store.state(c.id)) != "A=3" || store.state(other.id) == nil || store.state(x.id) == nil {
			t.Error("Flush returned, but not everything is stored")
		}
		wantUnlisted(t, s)
	})
}

// What a store does not take, Flush leaves to so many other nodes that none needs this one.
func TestFlushLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		written(t, s, peers)
		entered, release := store.blockCommits()
		flushed := make(chan error, 1)
		go func() { flushed <- s.Flush(t.Context()) }()
		<-entered
		peers.handedOver.Store(false)
		time.Sleep(10 * giveUpAfter)
		select {
		case err := <-flushed:
			t.Fatalf("Flush returned %v, and one node is all that has the write", err)
		default:
		}
		peers.handedOver.Store(true)
		if err := <-flushed; !errors.Is(err, ErrLeft) {
			t.Errorf("Flush returned %v", err)
		}
		release()
	})
}

// wantUnlisted checks that the flusher has no carts.
func wantUnlisted(t *testing.T, s *Service) {
	t.Helper()
	if idle, _ := s.flusher.idle(); !idle || !s.committer.drained() {
		t.Error("something is listed or queued")
	}
}

// The pause grows while commits take much of the time, and shrinks when they do not.
func TestPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, peered(newFakeStore(), newFakeReplicator()))
		step := func(share float64) time.Duration {
			f := &s.flusher
			f.mu.Lock()
			now := f.judged + int64(minPause)
			s.committer.busy.Store(f.busy + int64(share*float64(minPause)))
			f.mu.Unlock()
			s.adapt(now)
			return s.Stats().FlushPause
		}
		if got := step(0); got != minPause {
			t.Errorf("%v without load", got)
		}
		last := minPause
		for range 30 {
			if got := step(0.5); got < last || got > maxPause {
				t.Fatalf("from %v to %v under load", last, got)
			} else {
				last = got
			}
		}
		if last != maxPause || step(0.07) != maxPause {
			t.Errorf("%v under load", last)
		}
		for range 30 {
			last = step(0.01)
		}
		if last != minPause {
			t.Errorf("%v after the load", last)
		}
	})
}

// Changes that are safe are not kept in memory for long, and a database that commits other carts is waited for.
func TestChangesAreLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := written(t, s, peers)
		time.Sleep(hedgeAfter + 2*flushTick)
		synctest.Wait()
		f := &s.flusher
		if len(f.young)+len(f.old)+len(f.waiting)+len(f.unsure) > 0 {
			t.Error("a change that is safe is still watched")
		}
		entered, release := store.blockCommits()
		peers.setPeers(0)
		late := c.begin("", addN("A", 1))
		<-entered
		s.committer.succeeded.Store(time.Now().Add(giveUpAfter).UnixNano()) // as if for others
		time.Sleep(giveUpAfter + 2*flushTick)
		synctest.Wait()
		wantPending(t, late)
		began := time.Now()
		a := <-late
		wantReason(t, a.err, NotDurable)
		if took := time.Since(began); took > giveUpAfter+2*flushTick {
			t.Errorf("given up %v after the last commit", took)
		}
		release()
		synctest.Wait()
		c.want("A=3")
	})
}

// A cart that was damaged is read again when it is saved, but not while the Service closes.
func TestCloseSavesWhatWasDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := New(peered(store, peers))
		x := newForeign(t, time.Now(), 1)
		store.hookLoad(func(context.Context, ID) error { return ErrDamaged })
		peers.fetch = func(ID) ([][]byte, bool) { return [][]byte{whole(x.states[1])}, true }
		x.client(t, s).want(linesOf(x.states[1]))
		entered, release := store.blockCommits()
		<-entered
		closed := make(chan error, 1)
		go func() { closed <- s.Close(t.Context()) }()
		synctest.Wait()
		release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}
