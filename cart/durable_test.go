package cart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// answer is what a call in the background returned.
type answer struct {
	result Result
	err    error
}

// begin executes commands in the background, within a bubble, until they wait.
func (c *client) begin(key string, commands ...Command) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		r, err := c.try(Request{Key: key, Steps: stepsOf(commands)})
		answers <- answer{r, err}
	}()
	synctest.Wait()
	return answers
}

// wantPending checks that the answer has not come, within a bubble.
func wantPending(t *testing.T, answers <-chan answer) {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-answers:
		t.Fatalf("answered: %+v %v", a.result, a.err)
	default:
	}
}

// wantAnswer checks that the answer has come, within a bubble, and what it shows.
func wantAnswer(t *testing.T, answers <-chan answer, lines string) Result {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-answers:
		if a.err != nil || linesOf(a.result.State) != lines {
			t.Fatalf("the answer is %+v %v, want %q", a.result, a.err, lines)
		}
		return a.result
	default:
		t.Fatal("not answered")
	}
	panic("unreachable")
}

func TestNoDirtyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}), addN("A", 1))
		_, release := store.blockCommits()
		defer release()
		first := c.begin("", addN("A", 1))
		c.want("A=1")
		// A second writer observes the first's write, and both become durable in their order.
		second := c.begin("", takeOff("A", 2), addN("B", 1))
		c.want("A=1")
		wantPending(t, first)
		wantPending(t, second)
		release()
		wantAnswer(t, first, "A=2")
		wantAnswer(t, second, "B=1")
		c.want("B=1")
	})
}

func TestACartThatIsNotDurableIsNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		_, release := store.blockCommits()
		defer release()
		created := make(chan ID)
		go func() {
			id, _, _, err := s.Create(t.Context(), "EUR", nil, Default)
			if err != nil {
				t.Error(err)
			}
			created <- id
		}()
		synctest.Wait()
		for i := range s.shards {
			for id := range s.shards[i].carts {
				if _, err := s.Read(t.Context(), id, Access{Trusted: true}, nil); !isNotFound(err) {
					t.Error(err)
				}
			}
		}
		release()
		if _, err := s.Read(t.Context(), <-created, Access{Trusted: true}, nil); err != nil {
			t.Error(err)
		}
	})
}

// A refusal tells of what it saw. If that can still be lost, it waits.
func TestRefusalsAndReplaysTellOfDurableStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store, Limits: Limits{Lines: 9, Quantity: 2}}), addN("A", 1))
		_, release := store.blockCommits()
		defer release()
		removed := c.begin("k", remove("A"))
		retried := c.begin("k", remove("A"))
		gone := c.begin("", Remove{LineRef{SKU: "A", Required: true}})
		nothing := c.begin("", remove("A"))
		wantPending(t, removed)
		wantPending(t, retried)
		wantPending(t, gone)
		wantPending(t, nothing)
		c.want("A=1")
		release()
		wantAnswer(t, removed, "")
		wantReplayed(t, wantAnswer(t, retried, ""), true)
		wantAnswer(t, nothing, "")
		wantReason(t, (<-gone).err, LineNotFound)
	})
}

func TestAnErasureIsToldOnceItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}), addN("A", 1))
		replay := c.keyed("k", addN("A", 1))
		_, release := store.blockCommits()
		defer release()
		errs := make(chan error, 10)
		for range 2 { // the second is the retry of one that lost patience
			go func() { _, err := c.s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); errs <- err }()
			synctest.Wait()
		}
		write := c.begin("k", addN("A", 1))
		if _, err := c.s.Execute(t.Context(), &Request{Cart: c.id}); !isNotFound(err) {
			t.Errorf("who may not: %v", err)
		}
		wantPending(t, write)
		if len(errs) > 0 {
			t.Fatalf("answered: %v", <-errs)
		}
		if s := c.read(); linesOf(s) != linesOf(replay.State) {
			t.Error("the reader sees an erasure that can still be lost")
		}
		release()
		// Both are answered at once, in any order.
		one, two := <-errs, <-errs
		if one != nil {
			one, two = two, one
		}
		if one != nil || !isNotFound(two) {
			t.Errorf("Erase: %v, %v", one, two)
		}
		if a := <-write; !isNotFound(a.err) {
			t.Errorf("the write: %v", a.err)
		}
	})
}

// A replay that waits while the cart is erased does not show what is left of it.
func TestReplayOfAnErasedCart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}))
		_, release := store.blockCommits()
		defer release()
		c.begin("k", addN("A", 1))
		retried := c.begin("k", addN("A", 1))
		erased := make(chan error, 1)
		go func() { _, err := c.s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); erased <- err }()
		synctest.Wait()
		release()
		if err := <-erased; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		// The change before the erasure may be seen durable, or both at once.
		if a := <-retried; !isNotFound(a.err) && (a.err != nil || a.result.State.Erased) {
			t.Errorf("%+v %v", a.result, a.err)
		}
	})
}

func TestWhatWaitsIsOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		a, b := create(t, s), create(t, s)
		entered, release := store.blockCommits()
		defer release()
		a.begin("", addN("A", 1))
		for range 5 {
			a.begin("", addN("A", 1))
			b.begin("", addN("B", 1))
		}
		sizes := make(chan int, 10)
		store.hookCommit(func(_ context.Context, changes []Change) error {
			sizes <- len(changes)
			return nil
		})
		if len(entered) != 1 {
			t.Fatalf("%d commits at a time", len(entered))
		}
		releaseKeepingHook(store, release, func(_ context.Context, changes []Change) error {
			sizes <- len(changes)
			return nil
		})
		synctest.Wait()
		if len(sizes) != 1 || <-sizes != 2 { // one change for each cart
			t.Error("what waited was not one commit")
		}
		a.want("A=6")
		b.want("B=5")
	})
}

// releaseKeepingHook lets a blocked commit go on; the next ones get hook.
func releaseKeepingHook(store *fakeStore, release func(), hook func(context.Context, []Change) error) {
	release()
	store.hookCommit(hook)
}

func TestAcknowledgementsOfHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		c := create(t, start(t, Options{Store: store, Shared: true, Replicator: peers})) // change 0: by the commit
		_, release := store.blockCommits()
		defer release()

		// One that holders have is answered before the commit.
		first := c.begin("", addN("A", 1))
		wantPending(t, first)
		peers.acknowledge(1)
		wantAnswer(t, first, "A=1")
		c.want("A=1")

		// One is safe only when all before it are.
		second, third, fourth := c.begin("", addN("A", 1)), c.begin("", addN("A", 1)), c.begin("", addN("A", 1))
		peers.acknowledge(3)
		wantPending(t, third)
		c.want("A=1")
		peers.acknowledge(2)
		wantAnswer(t, second, "A=2")
		wantAnswer(t, third, "A=3")
		wantPending(t, fourth)
		c.want("A=3")

		// What only holders have keeps the cart in memory.
		if r := c.s.shard(c.id).get(c.id); r.clean() || !r.dirty() {
			t.Error("the cart is clean before the commit")
		}
		release()
		if a := <-fourth; a.err != nil || a.result.Reached != (Reached{Database: true}) { // the hedge
			t.Errorf("%+v, %v", a.result.Reached, a.err)
		}
		peers.acknowledge(0) // late
		peers.acknowledge(4)
		time.Sleep(time.Second)
		if r := c.s.shard(c.id).get(c.id); !r.clean() {
			t.Error("the cart is dirty after the commit")
		}
		if len(peers.sent) != 5 {
			t.Errorf("%d changes were replicated", len(peers.sent))
		}
	})
}

func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		c, other := create(t, s, addN("A", 1)), create(t, s)
		c.keyed("before", addN("A", 1))
		_, release := store.blockCommits()
		waiting, too := c.begin("k", addN("A", 1)), other.begin("k", addN("B", 1))
		began := time.Now()
		full := fmt.Errorf("disk: %w", ErrNoRoom)
		releaseKeepingHook(store, release, func(context.Context, []Change) error { return full })
		// The first commit was let through; the second one finds no room.
		wantAnswer(t, waiting, "A=3")
		wantReason(t, (<-too).err, NotDurable)
		if time.Since(began) != 0 {
			t.Errorf("told after %v", time.Since(began))
		}

		if !errors.Is(s.Ready(), ErrNoRoom) {
			t.Errorf("Ready: %v", s.Ready())
		}
		version := Version(s.shard(c.id).get(c.id).latest)
		_, err := c.try(Request{Key: "l", Steps: stepsOf([]Command{addN("A", 1)})})
		if e := refusalOf(t, err, NotDurable); !errors.Is(e, ErrNoRoom) {
			t.Errorf("refused up front: %v", err)
		}
		if Version(s.shard(c.id).get(c.id).latest) != version {
			t.Error("a write that was refused up front changed the cart")
		}
		if _, _, _, err := s.Create(t.Context(), "EUR", nil, Default); !errors.Is(err, ErrNoRoom) {
			t.Errorf("Create: %v", err)
		}
		if _, err := s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); !errors.Is(err, ErrNoRoom) {
			t.Errorf("Erase: %v", err)
		}
		c.want("A=3")
		other.want("")
		// A replay of what is durable needs no room; of what is not it has to wait.
		wantReplayed(t, c.keyed("before", addN("A", 1)), true)
		_, err = other.try(Request{Key: "k", Steps: stepsOf([]Command{addN("B", 1)})})
		wantReason(t, err, NotDurable)

		time.Sleep(10 * time.Second)
		other.want("")
		store.failCommits(nil)
		time.Sleep(retryNoRoom)
		synctest.Wait()
		other.want("B=1")
		if s.Ready() != nil || s.Err() != nil {
			t.Errorf("Ready: %v, Err: %v", s.Ready(), s.Err())
		}
		wantReplayed(t, other.keyed("k", addN("B", 1)), true)
		wantReplayed(t, c.keyed("l", addN("A", 1)), false)
		other.want("B=1")
		c.want("A=4")
		checkMemory(t, s)
	})
}

func TestFatalErrorOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		c := create(t, s, addN("A", 1))
		_, release := store.blockCommits()
		written, lost := c.begin("k", addN("A", 1)), c.begin("", addN("A", 1))
		replayed := c.begin("k", addN("A", 1))
		broken := errors.New("input/output error")
		commits := 0
		releaseKeepingHook(store, release, func(context.Context, []Change) error { commits++; return broken })
		wantAnswer(t, written, "A=2")
		wantReason(t, (<-lost).err, NotDurable)
		<-replayed // its event is durable, what else it saw is not: either answer is true
		<-s.Failed()
		if !errors.Is(s.Err(), broken) || !errors.Is(s.Ready(), broken) {
			t.Errorf("Err: %v, Ready: %v", s.Err(), s.Ready())
		}

		store.failCommits(nil) // too late
		_, err := c.try(Request{Key: "l", Steps: stepsOf([]Command{addN("A", 1)})})
		if e := refusalOf(t, err, NotDurable); !errors.Is(e, broken) {
			t.Error(err)
		}
		_, err = c.try(Request{Key: "k", Steps: stepsOf([]Command{addN("A", 1)})})
		wantReason(t, err, NotDurable)
		if _, _, _, err := s.Create(t.Context(), "EUR", nil, Default); !errors.Is(err, broken) {
			t.Errorf("Create: %v", err)
		}
		time.Sleep(time.Minute)
		c.want("A=2")
		if commits != 1 || linesOf(store.state(c.id)) != "A=2" {
			t.Errorf("%d commits after the error, the store has %q", commits-1, linesOf(store.state(c.id)))
		}
		if err := s.committer.close(t.Context()); !errors.Is(err, broken) {
			t.Errorf("close: %v", err)
		}
	})
}

func TestCallerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}))
		_, release := store.blockCommits()
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		q := Request{Key: "k", Steps: stepsOf([]Command{addN("A", 1)})}
		for range 2 { // the write, then its replay
			_, err := c.tryContext(ctx, q)
			wantReason(t, err, NotDurable)
		}
		c.want("")
		release()
		synctest.Wait()
		c.want("A=1")
		wantReplayed(t, c.request(q), true)
		c.want("A=1")
	})
}

func TestManyReadersCauseOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}), addN("A", 1))
		c = c.at(start(t, Options{Store: store}))
		gate := make(chan struct{})
		store.hookLoad(func(context.Context, ID) error { <-gate; return nil })
		// The first leaves before the load is done: the others still get it.
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := c.s.Read(ctx, c.id, c.access(), nil)
			first <- err
		}()
		synctest.Wait()
		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { c.want("A=1") })
		}
		synctest.Wait()
		cancel()
		if e := refusalOf(t, <-first, Unavailable); !errors.Is(e, context.Canceled) {
			t.Error(e)
		}
		close(gate)
		readers.Wait()
		if n := store.loadsOf(c.id); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestErrorsOfLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}), addN("A", 1))
		other := create(t, c.s, addN("B", 1))
		s := start(t, Options{Store: store})
		c, other = c.at(s), other.at(s)
		busy := errors.New("busy")
		for _, cause := range []error{busy, fmt.Errorf("snapshot: %w", ErrDamaged), fmt.Errorf("snapshot: %w", ErrNoRoom)} {
			store.hookLoad(func(_ context.Context, id ID) error {
				if id == c.id {
					return cause
				}
				return nil
			})
			_, err := s.Read(t.Context(), c.id, c.access(), nil)
			if e := refusalOf(t, err, Unavailable); !errors.Is(e, cause) {
				t.Error(e)
			}
			_, err = c.try(Request{Steps: stepsOf([]Command{addN("A", 1)})})
			wantReason(t, err, Unavailable)
			other.do(addN("B", 1))
		}
		store.hookLoad(nil)
		c.want("A=1")

		// A load has an end of its own.
		s = start(t, Options{Store: store})
		store.hookLoad(func(ctx context.Context, _ ID) error { <-ctx.Done(); return ctx.Err() })
		began := time.Now()
		_, err := s.Read(t.Context(), c.id, c.access(), nil)
		wantReason(t, err, Unavailable)
		if waited := time.Since(began); waited != loadTimeout {
			t.Errorf("waited %v", waited)
		}
		store.hookLoad(nil)
		c.at(s).want("A=1")

		// What is not there is asked for again, too.
		id := NewID()
		for range 2 {
			if _, err := s.Read(t.Context(), id, Access{Trusted: true}, nil); !isNotFound(err) {
				t.Error(err)
			}
		}
		store.put(id, store.state(c.id))
		if _, err := s.Read(t.Context(), id, Access{Trusted: true}, nil); err != nil {
			t.Error(err)
		}
	})
}

// Who waits for a load gives up in time, whatever it is that holds the load up.
func TestWaitForALoadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		c := create(t, start(t, Options{Store: store}), addN("A", 1))
		c = c.at(start(t, Options{Store: store}))
		gate := make(chan struct{})
		store.hookLoad(func(context.Context, ID) error { <-gate; return nil })
		began := time.Now()
		_, err := c.s.Read(t.Context(), c.id, c.access(), nil)
		wantReason(t, err, Unavailable)
		if took := time.Since(began); took != loadWait {
			t.Errorf("it gave up after %v", took)
		}
		close(gate)
		synctest.Wait()
		c.want("A=1")
	})
}
