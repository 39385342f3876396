package cart

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

func TestLifeOfACart(t *testing.T) {
	store := newFakeStore()
	s := start(t, Options{Store: store})
	id, token, r, err := s.Create(t.Context(), "EUR", stepsOf([]Command{addN("A", 2), addN("B", 1)}), Default)
	if err != nil {
		t.Fatal(err)
	}
	if linesOf(r.State) != "A=2 B=1" || r.Steps[0].Quantity != 2 || r.Steps[1].Line != lineIDOf("B") {
		t.Errorf("the answer to Create is %+v", r)
	}
	c := &client{t, s, id, token}
	c.want("A=2 B=1")
	if n := len(c.do(addN("A", 1)).State.VV); n != 1 {
		t.Errorf("one residence has %d entries in the version vector", n)
	}
	stored := store.state(id)
	if Version(stored) != Version(c.read()) {
		t.Error("the store has another cart than the service")
	}
	if hash := token.hash(); !slices.ContainsFunc(stored.Registers, func(r crdt.Register) bool { return r.Value == string(hash[:]) }) {
		t.Error("the hash of the token is not stored")
	}

	_, err = c.try(Request{Steps: stepsOf([]Command{remove("A"), addN("C", 0)})})
	wantReason(t, err, Invalid)
	if _, err := s.Erase(t.Context(), &Request{Cart: id, Access: c.access(), IfMatch: []uint64{1}}); !errors.Is(err, errPrecondition) {
		t.Errorf("Erase of another version: %v", err)
	}
	if _, err := s.Erase(t.Context(), &Request{Cart: id, Access: c.access(), IfMatch: []uint64{1, Version(c.read())}}); err != nil {
		t.Fatal(err)
	}
	if !store.state(id).Erased {
		t.Error("the cart is not erased in the store")
	}
	if _, err := c.try(Request{}); !isNotFound(err) {
		t.Errorf("after Erase: %v", err)
	}
}

// Another's cart, an erased and an unknown one cannot be told apart.
func TestWhoMay(t *testing.T) {
	store := newFakeStore()
	s := start(t, Options{Store: store})
	c, other, erased := create(t, s, addN("A", 1)), create(t, s), create(t, s)
	if _, err := s.Erase(t.Context(), &Request{Cart: erased.id, Access: erased.access()}); err != nil {
		t.Fatal(err)
	}
	reloaded := start(t, Options{Store: store})
	for name, tc := range map[string]struct {
		id     ID
		access Access
	}{
		"no token":                {c.id, Access{}},
		"another cart's token":    {c.id, other.access()},
		"a token nearly right":    {c.id, Access{Token: &Token{1}}},
		"an unknown cart":         {NewID(), c.access()},
		"an unknown cart trusted": {NewID(), Access{Trusted: true}},
		"erased":                  {erased.id, erased.access()},
		"erased trusted":          {erased.id, Access{Trusted: true}},
		"erased without a token":  {erased.id, Access{}},
	} {
		for _, s := range []*Service{s, reloaded} {
			if _, err := s.Read(t.Context(), tc.id, tc.access, nil); !isNotFound(err) {
				t.Errorf("Read, %s: %v", name, err)
			}
			q := &Request{Cart: tc.id, Access: tc.access, Steps: stepsOf([]Command{addN("A", 1)})}
			if _, err := s.Execute(t.Context(), q); !isNotFound(err) {
				t.Errorf("Execute, %s: %v", name, err)
			}
			if _, err := s.Erase(t.Context(), q); !isNotFound(err) {
				t.Errorf("Erase, %s: %v", name, err)
			}
		}
	}
	if _, err := s.Read(t.Context(), c.id, Access{Trusted: true}, nil); err != nil {
		t.Error(err)
	}
	// Whether a command is refused is nobody's business but the cart's holder's.
	q := &Request{Cart: c.id, Steps: stepsOf([]Command{Remove{LineRef{SKU: "none", Required: true}}})}
	if _, err := s.Execute(t.Context(), q); !isNotFound(err) {
		t.Error(err)
	}
	c.want("A=1")
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, now := newFakeStore(), newClock()
		s := start(t, Options{Store: store, Now: now.Now})
		c, old, young := create(t, s, addN("A", 1)), create(t, s), create(t, s)
		erased := create(t, s)
		if _, err := s.Erase(t.Context(), &Request{Cart: erased.id, Access: erased.access()}); err != nil {
			t.Fatal(err)
		}
		now.advance(TimeToLive)
		c.want("A=1")
		now.advance(time.Millisecond)
		mine, theirs := c.access(), Access{}
		add := stepsOf([]Command{addN("A", 1)})
		_, err := s.Read(t.Context(), c.id, mine, nil)
		wantReason(t, err, Expired)
		_, err = s.Execute(t.Context(), &Request{Cart: c.id, Access: mine, Steps: add})
		wantReason(t, err, Expired)
		if _, err := s.Read(t.Context(), c.id, theirs, nil); !isNotFound(err) {
			t.Error(err)
		}
		if _, err := s.Execute(t.Context(), &Request{Cart: c.id, Access: theirs, Steps: add}); !isNotFound(err) {
			t.Error(err)
		}
		if _, err := s.Erase(t.Context(), &Request{Cart: c.id, Access: theirs}); !isNotFound(err) {
			t.Error(err)
		}
		if _, err := s.Erase(t.Context(), &Request{Cart: young.id, Access: young.access()}); err != nil {
			t.Errorf("who may can erase an expired cart: %v", err)
		}

		now.advance(TimeToPurge)
		for _, a := range []Access{mine, theirs, {Trusted: true}} {
			if _, err := s.Read(t.Context(), c.id, a, nil); !isNotFound(err) {
				t.Error(err)
			}
			if _, err := s.Execute(t.Context(), &Request{Cart: c.id, Access: a, Steps: add}); !isNotFound(err) {
				t.Error(err)
			}
		}
		if store.state(old.id) == nil {
			t.Error("purged before the janitor came")
		}
		time.Sleep(purgeTicks*tick + 2*tick)
		if store.state(c.id) != nil || store.state(old.id) != nil {
			t.Error("not purged after an hour")
		}
		if store.state(erased.id) == nil || store.state(young.id) == nil {
			t.Error("the marker of an erased cart was purged")
		}
	})
}

// A write keeps a cart for another 30 days; a read does not.
func TestAWriteProlongsTheLife(t *testing.T) {
	now := newClock()
	c := create(t, start(t, Options{Now: now.Now}))
	for range 3 {
		now.advance(TimeToLive - time.Hour)
		c.read()
		c.do(addN("A", 1))
	}
	now.advance(TimeToLive - time.Hour)
	c.want("A=3")
	now.advance(2 * time.Hour)
	_, err := c.s.Read(t.Context(), c.id, c.access(), nil)
	wantReason(t, err, Expired)
}

func TestServicesDefaults(t *testing.T) {
	s := start(t, Options{})
	if s.Limits() != DefaultLimits || s.Ready() != nil || s.Err() != nil || s.budget != 1<<30 {
		t.Errorf("limits %+v, ready %v, err %v, budget %d", s.Limits(), s.Ready(), s.Err(), s.budget)
	}
	select {
	case <-s.Failed():
		t.Error("failed")
	default:
	}
}

func TestCloseClosesTheStore(t *testing.T) {
	store := newFakeStore()
	s := New(Options{Store: store})
	if err := s.Close(t.Context()); err != nil || !store.closed {
		t.Errorf("Close: %v, closed %v", err, store.closed)
	}
}

func TestCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := New(Options{Store: store})
		c := create(t, s)
		entered, release := store.blockCommits()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		for range 10 {
			go func() {
				_, err := c.tryContext(ctx, Request{Steps: stepsOf([]Command{addN("A", 1)})})
				gone <- err
			}()
		}
		<-entered
		synctest.Wait()
		cancel() // the callers leave, what they wrote is still on its way
		for range 10 {
			wantReason(t, <-gone, NotDurable)
		}
		go func() {
			time.Sleep(time.Second)
			release()
		}()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := linesOf(store.state(c.id)); got != "A=10" {
			t.Errorf("the store has %q", got)
		}
	})
}

// A store that hangs, or has no room, does not keep Close longer than its context allows.
func TestCloseGivesUp(t *testing.T) {
	for name, commit := range map[string]func(context.Context, []Change) error{
		"hangs":   func(ctx context.Context, _ []Change) error { <-ctx.Done(); return ctx.Err() },
		"no room": func(context.Context, []Change) error { return ErrNoRoom },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newFakeStore()
				s := New(Options{Store: store})
				c := create(t, s)
				store.hookCommit(commit)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := c.tryContext(ctx, Request{Steps: stepsOf([]Command{addN("A", 1)})})
				wantReason(t, err, NotDurable)
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Close: %v", err)
				}
				if !store.closed {
					t.Error("the store was not closed")
				}
			})
		})
	}
}

// A load that nobody waits for any more ends before the store is closed.
func TestCloseEndsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := New(Options{Store: store})
		ended := make(chan bool, 1)
		store.hookLoad(func(ctx context.Context, _ ID) error {
			<-ctx.Done()
			store.mu.Lock()
			defer store.mu.Unlock()
			ended <- store.closed
			return ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := s.Read(ctx, NewID(), Access{Trusted: true}, nil)
		wantReason(t, err, Unavailable)
		began := time.Now()
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(ended) == 0 || <-ended || time.Since(began) != 0 {
			t.Error("the store was closed under a load")
		}
	})
}
