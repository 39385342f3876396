package cart

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// take returns what was sent to other regions since the last call.
func (f *fakeReplicator) take() []crossed {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.crossed
	f.crossed = nil
	return taken
}

// joined returns what payloads make of a state.
func joined(t *testing.T, s *State, payloads ...[]byte) *State {
	t.Helper()
	for _, p := range payloads {
		d, err := crdt.DecodeDelta(p)
		if err == nil {
			s, err = s.Apply(d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// What becomes durable goes to the other regions, and not before: what a few milliseconds bring is one delta, and
// nothing goes where there is no other region.
func TestDurableChangesCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := written(t, s, peers)
		before := c.read()
		time.Sleep(time.Second)
		if n := len(peers.take()); n > 0 {
			t.Fatalf("%d deltas for nobody", n)
		}
		peers.setAbroad(3)
		n := len(peers.sent)
		first, second := c.begin("", addN("A", 1)), c.begin("", addN("B", 1))
		time.Sleep(3 * flushTick)
		if n := len(peers.take()); n > 0 {
			t.Fatalf("%d deltas of what is not durable", n)
		}
		peers.acknowledge(n + 1)
		peers.acknowledge(n)
		wantAnswer(t, first, "A=3")
		wantAnswer(t, second, "A=3 B=1")
		time.Sleep(3 * flushTick)
		taken := peers.take()
		if len(taken) != 1 || !taken[0].durable || taken[0].held != nil || taken[0].id != c.id {
			t.Fatalf("%+v", taken)
		}
		after := c.read()
		if got := joined(t, before, taken[0].delta); VersionHash(c.id, got) != VersionHash(c.id, after) {
			t.Errorf("the other regions have %s of %s", linesOf(got), linesOf(after))
		}
		if size, state := len(taken[0].delta), len(recalled(after)); size >= state {
			t.Errorf("%d bytes for two adds, and the cart has %d", size, state)
		}
	})
}

// A write that its region can hold neither in enough nodes nor in its database is held by another one, if there is
// one, and refused as late as peers are waited for.
func TestOtherRegionsHold(t *testing.T) {
	for name, c := range map[string]struct {
		peers  int
		store  func(*fakeStore)
		within time.Duration // until they are asked
	}{
		"no peers, no room":     {0, func(f *fakeStore) { f.failCommits(ErrNoRoom) }, 0},
		"no peers, a hang":      {0, (*fakeStore).hang, giveUpAfter + 2*flushTick},
		"silent peers, no room": {2, func(f *fakeStore) { f.failCommits(ErrNoRoom) }, hedgeAfter + 2*flushTick},
		"silent peers, a hang":  {2, (*fakeStore).hang, giveUpAfter + 2*flushTick},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, peers := newFakeStore(), newFakeReplicator()
				s := New(peered(store, peers))
				defer closing(t, s)
				x := newForeign(t, time.Now(), 1)
				store.put(x.id, x.states[1])
				client := x.client(t, s)
				client.want("A=1")
				c.store(store)
				_ = client.begin("", addN("A", 1)) // the node learns what its database does
				time.Sleep(3 * time.Second)
				peers.setPeers(c.peers)
				peers.setAbroad(2)
				if err := s.Ready(); err != nil {
					t.Errorf("not ready, though others are there: %v", err)
				}
				peers.take()
				began := time.Now()
				add := client.begin("", addN("A", 1))
				time.Sleep(c.within)
				synctest.Wait()
				asked := peers.take()
				if len(asked) != 1 || asked[0].durable || asked[0].held == nil {
					t.Fatalf("%+v after %v", asked, time.Since(began))
				}
				asked[0].held(77)
				wantAnswer(t, add, "A=3")
				if got := joined(t, new(State), asked[0].delta); linesOf(got) != "A=3" {
					t.Errorf("the other region holds %s", linesOf(got))
				}

				late := client.begin("", addN("A", 1)) // which nobody holds
				time.Sleep(giveUpOnPeers + time.Second)
				if a := <-late; !errors.Is(a.err, &Error{Reason: NotDurable}) {
					t.Errorf("%+v", a)
				}
			})
		})
	}
}

// What another region was asked to hold and has not heard of, or its answer, was lost: it is asked again, so that the
// retries of the write are answered.
func TestOtherRegionsAreAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := New(peered(store, peers))
		defer closing(t, s)
		x := newForeign(t, time.Now(), 1)
		store.put(x.id, x.states[1])
		client := x.client(t, s)
		client.want("A=1")
		store.failCommits(ErrNoRoom)
		peers.setPeers(0)
		peers.setAbroad(1)
		add := client.begin("a key", addN("A", 1))
		if a := <-add; !errors.Is(a.err, &Error{Reason: NotDurable}) {
			t.Fatalf("%+v", a)
		}
		if asked := peers.take(); len(asked) != 1 {
			t.Fatalf("%+v", asked)
		}
		time.Sleep(reassureAfter + time.Second)
		asked := peers.take()
		if len(asked) != 1 || asked[0].durable || asked[0].held == nil {
			t.Fatalf("asked again: %+v", asked)
		}
		asked[0].held(77)
		wantAnswer(t, client.begin("a key", addN("A", 1)), "A=2")
	})
}

// What comes from another region as durable is shown at once, whatever is tolerated; what is to be held is not, where
// two nodes are too few.
func TestArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		o := peered(store, peers)
		o.Tolerate = 2
		s := start(t, o)
		peers.setAbroad(2)
		x := newForeign(t, time.Now(), 4)
		arrive := func(durable bool, payload []byte) {
			t.Helper()
			if held, lacks := s.Arrive("far", durable, x.id, payload); !held || lacks {
				t.Fatalf("held %v, lacks %v", held, lacks)
			}
		}
		arrive(true, payload(x.deltas[0]))
		arrive(true, payload(x.deltas[1])) // a fragment
		x.client(t, s).want("A=1")
		arrive(true, payload(x.deltas[2]))
		x.client(t, s).want("A=2")
		arrive(false, payload(x.deltas[3]))
		x.client(t, s).want("A=2")
		arrive(true, payload(x.deltas[3]))
		x.client(t, s).want("A=3")
		if held, lacks := s.Arrive("far", true, x.id, []byte("junk")); held || lacks || s.Stats().Refused.Malformed != 1 {
			t.Errorf("junk: held %v, lacks %v", held, lacks)
		}
		if n := len(peers.take()); n > 0 {
			t.Errorf("%d deltas that came are sent on", n)
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.state(x.id); linesOf(got) != "A=3" {
			t.Errorf("the database has %s", linesOf(got))
		}
		if lag := s.Stats().Abroad["far"]; lag.Count != 5 {
			t.Errorf("%+v", lag)
		}
		payload, err := s.Durable(t.Context(), x.id)
		if err != nil || linesOf(joined(t, new(State), payload)) != "A=3" {
			t.Errorf("what is durable: %v", err)
		}
		if payload, err := s.Durable(t.Context(), NewID()); payload != nil || err != nil {
			t.Errorf("no cart: %x, %v", payload, err)
		}
	})
}

// A change that another region knows to be durable may come before the beginning of its cart is known to be: it is not
// shown without that.
func TestAPartFromAbroadIsNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		o := peered(store, newFakeReplicator())
		o.Tolerate = 2
		s := start(t, o)
		defer store.full("no room")() // else it would be durable soon
		x := newForeign(t, time.Now(), 1)
		d, state := author{t, 78, time.Now()}.step(x.states[0], addN("B", 1))
		if held, _ := s.Arrive("us", true, x.id, payload(d)); !held {
			t.Fatal("not held")
		}
		deliver(t, s, x.id, whole(state))
		read := func() (*State, error) { return s.Read(t.Context(), x.id, Access{Trusted: true}, nil) }
		if shown, err := read(); !errors.Is(err, &Error{Reason: Unavailable}) {
			t.Errorf("%s is shown, %v", linesOf(shown), err)
		}
		s.Mark(9, x.id, mark{durable: extentOf(state)}.encode())
		if shown, err := read(); err != nil || linesOf(shown) != linesOf(state) {
			t.Errorf("%v, %v", shown, err)
		}
	})
}

// What is recent of a lag is so for 10 s at least, and forgotten after 20.
func TestLag(t *testing.T) {
	var l lag
	begin := time.Unix(1_000_000_000, 0)
	l.observe(3*time.Second, begin)
	l.observe(time.Second, begin.Add(9*time.Second))
	for _, step := range []struct{ after, want time.Duration }{
		{9 * time.Second, 3 * time.Second},
		{19 * time.Second, 3 * time.Second},
		{20 * time.Second, 0},
	} {
		if got := l.read(begin.Add(step.after)); got.Recent != step.want || got.Count != 2 || got.Sum != 4*time.Second {
			t.Errorf("after %v: %+v", step.after, got)
		}
	}
	l.observe(time.Minute, begin.Add(21*time.Second))
	if got := l.read(begin.Add(time.Hour)); got.Recent != 0 || got.Count != 3 {
		t.Errorf("after an hour: %+v", got)
	}
}
