package cart

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// wantBacklog checks what operators are told: how many carts are unsaved, since when, and how many of them too
// few nodes are known to hold.
func wantBacklog(t *testing.T, s *Service, unsaved int, oldest time.Duration, underReplicated int) {
	t.Helper()
	synctest.Wait()
	z := s.Stats()
	if z.Unsaved != unsaved || z.OldestUnsaved < oldest || z.OldestUnsaved > oldest+time.Duration(ageStep) || z.UnderReplicated != underReplicated {
		t.Errorf("%d unsaved since %v, %d under-replicated; want %d since %v, and %d",
			z.Unsaved, z.OldestUnsaved, z.UnderReplicated, unsaved, oldest, underReplicated)
	}
}

// full makes commits fail for want of room until release is called.
func (f *fakeStore) full(why string) (release func()) {
	f.hookCommit(func(context.Context, []Change) error { return fmt.Errorf("%w: %s", ErrNoRoom, why) })
	return func() { f.hookCommit(nil) }
}

// A cart is unsaved from its first write until the database has it, whoever saved it: also where this node
// would have looked at it later, and where the news comes before the write.
func TestBacklogIsWhatTheDatabaseLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		peers.rank = 2
		s := start(t, peered(store, peers))
		wantBacklog(t, s, 0, 0, 0)
		c := written(t, s, peers)
		x := newForeign(t, time.Now(), 3)
		deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]))
		time.Sleep(200 * time.Millisecond)
		wantBacklog(t, s, 2, 200*time.Millisecond, 0)

		s.Mark(9, c.id, mark{stored: extentOf(c.read())}.encode())
		wantBacklog(t, s, 1, 200*time.Millisecond, 0)
		saved := x.deltas[1].VV
		s.Mark(9, x.id, mark{stored: extent{vv: saved}}.encode())
		wantBacklog(t, s, 0, 0, 0)

		y := newForeign(t, time.Now(), 1)
		deliver(t, s, y.id, payload(y.deltas[0]))
		y.client(t, s).want("")
		s.Mark(9, y.id, mark{stored: extent{vv: y.deltas[1].VV}}.encode())
		deliver(t, s, y.id, payload(y.deltas[1]))
		wantBacklog(t, s, 0, 0, 0)
		checkLists(t, s)
	})
}

// While the database takes nothing, the oldest write stays the oldest, of a cart as of fragments, and however
// much comes later; and it is told since when and why.
func TestBacklogDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		release := store.full("the disk is full")
		c := written(t, s, peers)
		x := newForeign(t, time.Now(), 3)
		deliver(t, s, x.id, payload(x.deltas[0]))
		time.Sleep(30 * time.Second)
		deliver(t, s, x.id, payload(x.deltas[1]))
		add := c.begin("", addN("A", 1))
		peers.acknowledge(1)
		wantAnswer(t, add, "A=3")
		time.Sleep(30 * time.Second)
		wantBacklog(t, s, 2, time.Minute, 0)
		z := s.Stats()
		if since := time.Since(z.StalledSince); since < 59*time.Second || since > time.Minute || !errors.Is(z.StalledBy, ErrNoRoom) {
			t.Errorf("stalled since %v by %v", since, z.StalledBy)
		}
		checkLists(t, s)

		// What a lost node may have held is doubtful until it is saved, unless the process comes back.
		s.Lost(1)
		wantBacklog(t, s, 2, time.Minute, 0)
		peers.setDead(1)
		wantBacklog(t, s, 2, time.Minute, 2)
		peers.setPeers(0)
		later := newForeign(t, time.Now(), 1)
		deliver(t, s, later.id, payload(later.deltas[0]))
		time.Sleep(time.Second)
		wantBacklog(t, s, 3, time.Minute+time.Second, 3)
		release()
		time.Sleep(time.Second)
		wantBacklog(t, s, 0, 0, 0)
		if z := s.Stats(); !z.StalledSince.IsZero() || z.StalledBy != nil || z.Commits.Count == 0 {
			t.Errorf("%+v", z)
		}
	})
}

// A write that nobody acknowledged is one of an under-replicated cart from when it is refused until somebody does.
func TestARefusedWriteIsUnderReplicated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		c := written(t, s, peers)
		release := store.full("away")
		add, again := c.begin("", addN("A", 1)), c.begin("", addN("A", 1))
		wantBacklog(t, s, 1, 0, 0)
		time.Sleep(giveUpOnPeers + time.Second)
		synctest.Wait()
		for _, answers := range []<-chan answer{add, again} {
			if a := <-answers; !errors.Is(a.err, &Error{Reason: NotDurable}) {
				t.Errorf("%+v", a)
			}
		}
		wantBacklog(t, s, 1, giveUpOnPeers+time.Second, 1)
		peers.acknowledge(1)
		peers.acknowledge(2)
		wantBacklog(t, s, 1, giveUpOnPeers+time.Second, 0)
		if z := s.Stats(); z.AckedByPeers != 1 || z.AckedByDatabase != 0 || z.NotDurable != 2 {
			t.Errorf("%d writes acknowledged by peers, %d by the database, %d refused", z.AckedByPeers, z.AckedByDatabase, z.NotDurable)
		}
		release()
	})
}

// A node that is alone tells of what waits for its store.
func TestBacklogOfANodeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		c := create(t, s)
		wantBacklog(t, s, 0, 0, 0)
		entered, release := store.blockCommits()
		add := c.begin("", addN("A", 1))
		<-entered
		time.Sleep(time.Second)
		wantBacklog(t, s, 1, time.Second, 0)
		release()
		wantAnswer(t, add, "A=1")
		wantBacklog(t, s, 0, 0, 0)
		if z := s.Stats(); z.AckedByDatabase != 2 || z.AckedByPeers != 0 || z.Commits.Count != 2 || z.Commits.Sum != time.Second {
			t.Errorf("%+v", z)
		}
	})
}

func TestLatencies(t *testing.T) {
	var l latencies
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, time.Second, time.Hour} {
		l.observe(d)
	}
	z := l.read()
	if z.Count != 5 || z.Sum != time.Hour+time.Second+2*time.Millisecond+1 {
		t.Errorf("%+v", z)
	}
	want := map[time.Duration]int64{time.Millisecond: 2, 2500 * time.Microsecond: 3, 500 * time.Millisecond: 3, time.Second: 4, 5 * time.Second: 4}
	for _, class := range z.Classes {
		if n, checked := want[class.UpTo]; checked && n != class.Count {
			t.Errorf("%d up to %v, not %d", class.Count, class.UpTo, n)
		}
	}
}

// A cart that becomes resident lacks since when its fragments did.
func TestReadingDoesNotRejuvenate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := newFakeStore(), newFakeReplicator()
		s := start(t, peered(store, peers))
		defer store.full("away")()
		x := newForeign(t, time.Now(), 1)
		deliver(t, s, x.id, payload(x.deltas[0]), payload(x.deltas[1]))
		time.Sleep(6 * time.Second)
		s.Lost(9)
		peers.setDead(9)
		wantBacklog(t, s, 1, 6*time.Second, 1)
		x.client(t, s).want(linesOf(x.states[1]))
		wantBacklog(t, s, 1, 6*time.Second, 1)
	})
}
