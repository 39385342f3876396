package cart

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// step returns the delta from s to the state after the commands, and that state.
func (a author) step(s *State, commands ...Command) (*crdt.Delta, *State) {
	a.t.Helper()
	e := &edit{state: s, limits: hugeLimits}
	for _, c := range commands {
		if err := e.apply(crdt.Event{Replica: a.replica, At: e.state.Lifetime.Updated.Next(a.now)}, c); err != nil {
			a.t.Fatalf("%+v: %v", c, err)
		}
	}
	return e.delta, e.state
}

// payload encodes a delta as a peer would send it.
func payload(d *crdt.Delta) []byte { return crdt.AppendDelta(nil, d) }

// whole encodes a state as a peer would send it.
func whole(s *State) []byte { return payload(&crdt.Delta{State: *s}) }

// deliver hands a Service what must be held.
func deliver(t testing.TB, s *Service, id ID, payloads ...[]byte) {
	t.Helper()
	for _, p := range payloads {
		if held, lacks := s.Deliver(9, id, p); !held || lacks {
			t.Fatalf("held %v, lacks %v", held, lacks)
		}
	}
}

// fragmentsOf returns how many fragments there are of a cart.
func fragmentsOf(s *Service, id ID) int {
	sh := s.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f := sh.fragments[id]; f != nil {
		return len(f.deltas)
	}
	return 0
}

// foreign is a cart that another node made: its id and token, and its states and deltas step by step.
type foreign struct {
	id     ID
	token  Token
	states []*State
	deltas []*crdt.Delta // the i-th leads to the i-th state
}

// newForeign makes a cart of n adds of A.
func newForeign(t testing.TB, now time.Time, n int) foreign {
	a := author{t, 77, now}
	f := foreign{id: NewID(), token: NewToken()}
	s := a.create(f.token)
	f.states, f.deltas = append(f.states, s), append(f.deltas, &crdt.Delta{State: *s})
	for range n {
		var d *crdt.Delta
		d, s = a.step(s, addN("A", 1))
		f.states, f.deltas = append(f.states, s), append(f.deltas, d)
	}
	return f
}

func (f foreign) client(t testing.TB, s *Service) *client { return &client{t, s, f.id, f.token} }

// peered returns the options of a node of a region with a database.
func peered(store Store, peers *fakeReplicator) Options {
	return Options{Store: store, Shared: true, Replicator: peers}
}

// What comes of a cart that nobody uses is held, merged where it touches, saved when it is due, and gone then.
func TestFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 5)
		for _, i := range []int{0, 1, 3, 4, 4, 1, 3} { // 2 is missing
			deliver(t, s, x.id, payload(x.deltas[i]))
		}
		if n := fragmentsOf(s, x.id); n != 2 {
			t.Errorf("%d fragments of two runs of events", n)
		}
		checkMemory(t, s)
		checkLists(t, s)
		time.Sleep(minPause - flushTick)
		synctest.Wait()
		if store.state(x.id) != nil {
			t.Error("saved before it was due")
		}
		time.Sleep(3 * flushTick)
		synctest.Wait()
		if fragmentsOf(s, x.id) != 0 || s.Stats().Memory != 0 {
			t.Errorf("%d fragments of %d bytes are left", fragmentsOf(s, x.id), s.Stats().Memory)
		}
		if len(peers.marks) != 2 {
			t.Errorf("%d marks", len(peers.marks))
		}
		x.client(t, s).want("A=1")
		deliver(t, s, x.id, payload(x.deltas[2])) // which closes the gap in the store, not in memory
		held, lacks := s.Deliver(9, x.id, payload(x.deltas[5]))
		if held || !lacks {
			t.Errorf("a delta that does not fit: held %v, lacks %v", held, lacks)
		}
		deliver(t, s, x.id, whole(x.states[5]))
		x.client(t, s).want("A=5")
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		checkMemory(t, s)
		checkIndex(t, s)
		wantNothingUnsaved(t, s)
	})
}

// In whatever order deltas and states come, and whenever the cart becomes resident and is saved, nothing is
// lost and nothing stays behind.
func TestFragmentsInAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		for range 100 {
			store, peers := newFakeStore(), newFakeReplicator()
			s := New(peered(store, peers))
			x := newForeign(t, time.Now(), 6)
			b := author{t, 88, time.Now()} // who removes what 77 added, and adds
			last := x.states[6]
			var others []*crdt.Delta
			for range 3 {
				var d *crdt.Delta
				d, last = b.step(last, remove("A"), addN("A", 2), addN("B", 1))
				others = append(others, d)
			}
			all := append(append([]*crdt.Delta(nil), x.deltas...), others...)
			var left [][]byte
			for i := 0; i < len(all); {
				d := all[i]
				for i++; i < len(all) && random.IntN(3) == 0 && d.Adjoins(all[i]); i++ {
					d = crdt.Merge(d, all[i])
				}
				left = append(left, payload(d))
			}
			left = append(left, left[random.IntN(len(left))]) // a duplicate
			random.Shuffle(len(left), func(i, k int) { left[i], left[k] = left[k], left[i] })
			for _, p := range left {
				held, lacks := s.Deliver(9, x.id, p)
				if !held && !lacks {
					t.Fatal("refused")
				}
				switch random.IntN(4) {
				case 0:
					_, _ = s.Read(t.Context(), x.id, Access{Trusted: true}, nil)
				case 1:
					time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
					synctest.Wait()
				case 2:
					s.evictOne(s.shard(x.id))
				}
				checkMemory(t, s)
				checkLists(t, s)
			}
			for _, p := range left {
				s.Deliver(9, x.id, p)
			}
			deliver(t, s, x.id, whole(last)) // as a sender does who is told that something lacks
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want := crdt.AppendState(nil, last)
			if got := store.state(x.id); got == nil || !bytes.Equal(crdt.AppendState(nil, got), want) {
				t.Errorf("stored is %s, want %s", dumpOf(got), dumpOf(last))
			}
			got, err := s.Read(t.Context(), x.id, Access{Trusted: true}, nil)
			if err != nil || !bytes.Equal(crdt.AppendState(nil, got), want) {
				t.Errorf("the cart is %s, want %s (%v)", dumpOf(got), dumpOf(last), err)
			}
			synctest.Wait()
			wantNothingUnsaved(t, s)
			checkMemory(t, s)
			checkIndex(t, s)
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What comes while the committer saves is not let go with what it saves, nor kept with it for ever.
func TestFragmentsThatComeDuringACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 50)
		deliver(t, s, x.id, payload(x.deltas[0]))
		size := s.Stats().Memory
		for i := range 50 { // one more during each commit
			entered, release := store.blockCommits()
			<-entered
			deliver(t, s, x.id, payload(x.deltas[i+1]))
			checkLists(t, s)
			release()
			synctest.Wait()
			if got := s.Stats().Memory; got > 3*size {
				t.Fatalf("%d bytes after %d deltas", got, i+1)
			}
			checkMemory(t, s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if fragmentsOf(s, x.id) != 0 || linesOf(store.state(x.id)) != "A=50" {
			t.Errorf("%d fragments are left, the store has %q", fragmentsOf(s, x.id), linesOf(store.state(x.id)))
		}
	})
}

// A load that asked the store before fragments were saved still gets them.
func TestFragmentsThatAreSavedDuringALoad(t *testing.T) {
	for _, how := range []string{"saved", "marked"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, peers := newFakeStore(), newFakeReplicator()
				s := start(t, peered(store, peers))
				x := newForeign(t, time.Now(), 2)
				deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]), payload(x.deltas[2]))
				gate := make(chan struct{})
				store.hookLoad(func(context.Context, ID) error { <-gate; return ErrNotFound }) // as it was when it was asked
				read := make(chan error, 1)
				go func() {
					state, err := s.Read(t.Context(), x.id, Access{Token: &x.token}, nil)
					if err == nil && linesOf(state) != "A=2" {
						t.Errorf("the cart shows %q", linesOf(state))
					}
					read <- err
				}()
				synctest.Wait()
				if how == "saved" {
					if err := s.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					s.Mark(9, x.id, mark{stored: extentOf(x.states[2])}.encode())
				}
				synctest.Wait()
				close(gate)
				if err := <-read; err != nil {
					t.Error(err)
				}
				checkMemory(t, s)
				checkIndex(t, s)
			})
		})
	}
}

// What was kept for a load that failed goes with it.
func TestFragmentsOfALoadThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		x := newForeign(t, time.Now(), 3)
		deliver(t, s, x.id, payload(x.deltas[2])) // not the beginning
		gate := make(chan struct{})
		store.hookLoad(func(context.Context, ID) error { <-gate; return errors.New("away") })
		read := make(chan error, 1)
		go func() { _, err := s.Read(t.Context(), x.id, Access{Trusted: true}, nil); read <- err }()
		synctest.Wait()
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if fragmentsOf(s, x.id) != 1 {
			t.Errorf("%d fragments while the cart is loaded", fragmentsOf(s, x.id))
		}
		close(gate)
		wantReason(t, <-read, Unavailable)
		if fragmentsOf(s, x.id) != 0 || s.Stats().Memory != 0 {
			t.Errorf("%d fragments of %d bytes", fragmentsOf(s, x.id), s.Stats().Memory)
		}
	})
}

// A mark lets go what the database has, and nothing else.
func TestMarksOfFragments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newForeign(t, time.Now(), 6)
		for _, c := range []struct {
			name string
			mark mark
			left int
		}{
			{"of all", mark{stored: extentOf(x.states[6])}, 0},
			{"of more", mark{stored: extent{vv: crdt.VV{{Replica: 7, Seq: 9}, {Replica: 77, Seq: 99}}}}, 0},
			{"of an erasure", mark{stored: extent{erased: true}}, 0},
			{"of the first", mark{stored: extentOf(x.states[2])}, 1},
			{"of the last alone", mark{base: x.states[4].VV, stored: extentOf(x.states[6])}, 1},
			{"of a part", mark{stored: extentOf(x.states[1])}, 2},
			{"of another's events", mark{stored: extent{vv: crdt.VV{{Replica: 78, Seq: 99}}}}, 2},
			{"of what is durable", mark{durable: extentOf(x.states[6])}, 2},
		} {
			store, peers := newFakeStore(), newFakeReplicator()
			s := New(peered(store, peers))
			deliver(t, s, x.id, payload(crdt.Merge(crdt.Merge(x.deltas[0], x.deltas[1]), x.deltas[2])))
			deliver(t, s, x.id, payload(crdt.Merge(x.deltas[5], x.deltas[6])))
			s.Mark(9, x.id, c.mark.encode())
			if got := fragmentsOf(s, x.id); got != c.left {
				t.Errorf("a mark %s leaves %d fragments, want %d", c.name, got, c.left)
			}
			checkMemory(t, s)
			checkLists(t, s)
			if err := s.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Fragments that are the whole cart serve it, to peers too, though the database has nothing of it or is away.
func TestFragmentsThatAreTheCart(t *testing.T) {
	for _, cause := range []error{ErrNotFound, errors.New("away")} {
		synctest.Test(t, func(t *testing.T) {
			store, peers := newFakeStore(), newFakeReplicator()
			s := start(t, peered(store, peers))
			store.hookLoad(func(context.Context, ID) error { return cause })
			x := newForeign(t, time.Now(), 2)
			deliver(t, s, x.id, payload(x.deltas[1]))
			if p, known := s.Recall(x.id); !known || !bytes.Equal(p, whole(new(State))) {
				t.Errorf("a part is told as %x, %v", p, known)
			}
			_, err := s.Read(t.Context(), x.id, Access{Trusted: true}, nil)
			wantReason(t, err, Unavailable)
			deliver(t, s, x.id, payload(x.deltas[0]))
			if p, known := s.Recall(x.id); !known || !bytes.Equal(p, whole(x.states[1])) {
				t.Errorf("the cart is told as %x, %v", p, known)
			}
			x.client(t, s).want("A=1")
			x.client(t, s).begin("", addN("B", 1))
			if len(peers.sent) != 1 {
				t.Error("the cart takes no writes")
			}
			peers.acknowledge(0)
			x.client(t, s).want("A=1 B=1")
		})
	}
}

// A fragment that many deltas were merged into is not gone through for each that comes.
func TestFragmentsAreMergedInBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, peered(newFakeStore(), newFakeReplicator()))
		x := newForeign(t, time.Now(), 1000)
		for _, d := range x.deltas {
			deliver(t, s, x.id, payload(d))
		}
		if n := fragmentsOf(s, x.id); n < 2 || n > 20 {
			t.Errorf("%d fragments", n)
		}
		checkMemory(t, s)
		x.client(t, s).want("A=1000")
		if n := fragmentsOf(s, x.id); n != 0 {
			t.Errorf("%d fragments of a resident cart", n)
		}
		checkMemory(t, s)
	})
}

// What comes is not held up by what lacks its base, in memory nor in the store.
func TestAGapHoldsUpNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		x := newForeign(t, time.Now(), 2)
		b := author{t, 5, time.Now()}
		_, lost := b.step(x.states[0], addN("B", 1))
		gap, _ := b.step(lost, addN("B", 1))
		deliver(t, s, x.id, payload(gap), payload(x.deltas[0]), payload(x.deltas[1]))
		c := author{t, 6, time.Now()}
		late, _ := c.step(x.states[0], addN("C", 1))
		deliver(t, s, x.id, payload(late))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := store.state(x.id); got == nil || linesOf(got) != "A=1 C=1" {
			t.Errorf("stored is %s", dumpOf(got))
		}
	})
}

// A merge can be joined wherever either part can.
func TestMergeable(t *testing.T) {
	x := newForeign(t, time.Now(), 5)
	b := author{t, 5, time.Now()}
	d, s := b.step(x.states[2], addN("A", 1))
	e, s := b.step(s, remove("A"))
	f, _ := b.step(s, addN("B", 1))
	all := append(x.deltas, d, e, f)
	merges := 0
	for _, p := range all {
		for _, q := range all {
			if p == q || !mergeable(p, q) {
				continue
			}
			merges++
			m := crdt.Merge(p, q)
			if !p.Base.Descends(m.Base) || !q.Base.Descends(m.Base) {
				t.Errorf("(%v, %v] and (%v, %v] merge to (%v, %v]", p.Base, p.VV, q.Base, q.VV, m.Base, m.VV)
			}
		}
	}
	if merges == 0 {
		t.Error("nothing can be merged")
	}
}
