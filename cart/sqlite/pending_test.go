package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// bare returns a change as who does not hold the cart commits it.
func bare(c cart.Change) cart.Change {
	c.State = nil
	return c
}

func round(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.round(); err != nil {
		tb.Fatal(err)
	}
}

func wantNone(tb testing.TB, s *Store, b *basket) {
	tb.Helper()
	if _, err := s.Load(background, b.id); !errors.Is(err, cart.ErrNotFound) {
		tb.Fatalf("got %v, want %v", err, cart.ErrNotFound)
	}
}

// TestLeftInTheJournal: what cannot be joined waits in one row of the journal, and costs nothing but that.
func TestLeftInTheJournal(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := openWith(t, dir, Options{SnapshotEvery: 24 * time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b, other := newBasket(), newBasket()
	commit(t, s, b.add(t, "apples"))
	shown := &basket{b.id, b.state}
	lost := bare(b.add(t, "lost"))
	commit(t, s, bare(b.remove(t, "apples")))
	for i := range 5 {
		commit(t, s, bare(b.add(t, "pears")), other.add(t, "plums"))
		round(t, s)
		round(t, s)
		want := Stats{JournalRows: 1, Pending: 1, Snapshots: int64(2 + i)}
		if got := s.Stats(); got.JournalRows != want.JournalRows || got.Pending != want.Pending || got.Snapshots != want.Snapshots || got.Damaged != 0 {
			t.Fatalf("after round %d: got %+v, want %+v", i, got, want)
		}
		wantState(t, s, shown)
	}
	if n := strings.Count(log.String(), b.id.String()); n != 1 {
		t.Errorf("it is logged %d times:\n%s", n, &log)
	}
	closeStore(t, s)
	s = open(t, dir)
	if got := s.Stats(); got.JournalRows != 1 || len(s.pending[b.id].rest) != 1 {
		t.Errorf("after a restart: %+v, %d deltas", got, len(s.pending[b.id].rest))
	}
	wantState(t, s, shown)
	commit(t, s, lost)
	wantState(t, s, b)
	round(t, s)
	if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 {
		t.Errorf("after the lost change came: %+v", got)
	}
	wantState(t, s, b)
}

// TestLeftWithoutAStart: a cart of which nothing can be joined is damaged until something can be.
func TestLeftWithoutAStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := newBasket()
	first, second := bare(b.add(t, "apples")), b.state
	lost := bare(b.add(t, "lost"))
	commit(t, s, bare(b.add(t, "pears")))
	wantDamaged(t, s, b)
	closeStore(t, s)
	s = open(t, dir)
	round(t, s)
	wantDamaged(t, s, b)
	if got := s.Stats(); got.JournalRows != 1 || got.Pending != 1 || got.Damaged != 1 {
		t.Fatalf("got %+v", got)
	}
	commit(t, s, first)
	round(t, s)
	wantState(t, s, &basket{b.id, second})
	if got := s.Stats(); got.JournalRows != 1 || got.Pending != 1 || got.Damaged != 0 {
		t.Fatalf("got %+v", got)
	}
	commit(t, s, lost)
	wantState(t, s, b)
	closeStore(t, s)
	wantState(t, open(t, dir), b)
}

// TestStateJoinsWhatWasLeft: a whole state brings what the changes that were left build on.
func TestStateJoinsWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	lost := b.add(t, "lost")
	commit(t, s, bare(b.remove(t, "apples")))
	round(t, s)
	commit(t, s, cart.Change{ID: b.id, State: lost.State})
	wantState(t, s, b)
	closeStore(t, s)
	s = open(t, dir)
	if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 {
		t.Errorf("got %+v", got)
	}
	wantState(t, s, b)
}

// TestPurgeOfWhatWasLeft: what is left of a cart goes when all of the cart expired.
func TestPurgeOfWhatWasLeft(t *testing.T) {
	dir, after := t.TempDir(), t.TempDir()
	s := open(t, dir)
	old, young, headless := newBasket(), newBasket(), newBasket()
	commit(t, s, old.add(t, "apples"), young.add(t, "apples"))
	shown := &basket{young.id, young.state}
	for _, b := range []*basket{old, young, headless} {
		b.add(t, "lost")
		c := bare(b.add(t, "pears"))
		if b == young {
			c.Delta.Lifetime.Expires = crdt.TimestampAt(at.AddDate(0, 0, 60))
		}
		commit(t, s, c)
	}
	wantPurged := func(want, days int) {
		t.Helper()
		if n, err := s.Purge(t.Context(), crdt.TimestampAt(at.AddDate(0, 0, days))); n != want || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, want)
		}
	}
	wantPurged(0, 29)
	wantPurged(1, 31)
	wantPurged(0, 31)
	check := func() {
		t.Helper()
		wantNone(t, s, old)
		wantNone(t, s, headless)
		wantState(t, s, shown)
		if got := s.Stats(); got.JournalRows != 1 || got.Pending != 1 || got.Damaged != 0 {
			t.Fatalf("got %+v", got)
		}
	}
	check()
	copyDatabase(t, after, dir)
	s = open(t, after)
	check()
	wantPurged(1, 61)
	wantNone(t, s, young)
	if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 {
		t.Errorf("got %+v", got)
	}
}

// changes is what a few authors of one cart did, who sometimes learned of one another.
func drawChanges(t *rapid.T, id cart.ID) []cart.Change {
	var authors [3]crdt.State
	changes := make([]cart.Change, rapid.IntRange(1, 14).Draw(t, "changes"))
	for i := range changes {
		who := rapid.IntRange(0, len(authors)-1).Draw(t, "author")
		s := &authors[who]
		if from := rapid.IntRange(-3, len(authors)-1).Draw(t, "learns from"); from >= 0 {
			s = crdt.Join(s, &authors[from])
		}
		e := crdt.Event{Replica: crdt.ReplicaID(who + 1), At: s.Lifetime.Updated.Next(at)}
		line := fmt.Sprint("line ", rapid.IntRange(0, 1).Draw(t, "line"))
		var d *crdt.Delta
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0, 1:
			d = e.Add(s, line, 1)
		case 2:
			d = e.Remove(s, line)
		case 3:
			d = e.Assign(s, line, 2)
		}
		s, err := s.Apply(d)
		if err != nil {
			t.Fatal(err)
		}
		authors[who] = *s
		changes[i] = cart.Change{ID: id, Delta: d}
		if rapid.IntRange(0, 9).Draw(t, "whole") == 0 {
			changes[i] = cart.Change{ID: id, State: s}
		}
	}
	return changes
}

// joined joins changes one by one, as far as they can be, and returns nil where none can be.
func joined(changes []cart.Change) *crdt.State {
	state := new(crdt.State)
	for range changes { // each round joins one at least, or nothing more
		for _, c := range changes {
			d := c.Delta
			if d == nil {
				d = &crdt.Delta{State: *c.State}
			}
			if next, err := state.Apply(d); err == nil {
				state = next
			}
		}
	}
	if len(state.VV) == 0 {
		return nil
	}
	return state
}

func same(a, b *crdt.State) bool {
	return a == nil && b == nil || a != nil && b != nil && bytes.Equal(crdt.AppendState(nil, a), crdt.AppendState(nil, b))
}

// TestMergedIsJoinedAlike: of deltas in any order, with gaps, the same can be joined after they were merged.
func TestMergedIsJoinedAlike(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		changes := rapid.Permutation(drawChanges(rt, cart.ID{1})).Draw(rt, "order")
		before := joined(changes[:rapid.IntRange(0, len(changes)).Draw(rt, "before")])
		if before != nil {
			changes = append(changes, cart.Change{State: before})
		}
		changes = changes[rapid.IntRange(0, len(changes)-1).Draw(rt, "lost"):]
		var f fold
		var gathered []*crdt.Delta
		for _, c := range changes {
			d := c.Delta
			if d == nil {
				d = &crdt.Delta{State: *c.State}
			}
			f.push(d)
			gathered = gather(gathered, d)
		}
		want := joined(changes)
		if got, _ := stored.Apply(nil, f.deltas()); !same(got, want) {
			rt.Errorf("at once: got %+v, want %+v", got, want)
		}
		if got, _ := stored.Apply(nil, gathered); !same(got, want) {
			rt.Errorf("one by one: got %+v, want %+v", got, want)
		}
	})
}

// TestAnyOrder: at any time a load returns what can be joined of the changes that came, and the join of
// all in the end.
func TestAnyOrder(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		h := &orders{t: rt, root: root, id: cart.NewID()}
		h.open()
		defer func() { _ = h.s.Close() }()
		changes := rapid.Permutation(drawChanges(rt, h.id)).Draw(rt, "order")
		for n := 0; n < len(changes); {
			more := rapid.IntRange(1, min(3, len(changes)-n)).Draw(rt, "batch")
			if err := h.s.Commit(background, changes[n:n+more]); err != nil {
				rt.Fatal(err)
			}
			n += more
			for range 2 {
				h.check(joined(changes[:n]))
				h.act()
			}
			h.check(joined(changes[:n]))
		}
		if err := h.s.round(); err != nil {
			rt.Fatal(err)
		}
		if got := h.s.Stats(); got.JournalRows != 0 || got.Pending != 0 || got.Damaged != 0 {
			rt.Errorf("in the end: %+v", got)
		}
	})
}

type orders struct {
	t    *rapid.T
	root string
	dir  string
	id   cart.ID
	s    *Store
}

// open opens the store of dir, or an empty one.
func (h *orders) open() {
	var err error
	if h.dir == "" {
		if h.dir, err = os.MkdirTemp(h.root, ""); err != nil {
			h.t.Fatal(err)
		}
	}
	if h.s, err = Open(background, h.dir, Options{SnapshotEvery: 24 * time.Hour}); err != nil {
		h.t.Fatal(err)
	}
}

// act runs a round of snapshots, a restart, a crash or nothing.
func (h *orders) act() {
	var err error
	switch rapid.IntRange(0, 3).Draw(h.t, "then") {
	case 1:
		err = h.s.round()
	case 2:
		err = h.s.Close()
		h.open()
	case 3:
		crashed := h.s
		from := h.dir
		h.dir = ""
		if h.dir, err = os.MkdirTemp(h.root, ""); err == nil {
			err = os.CopyFS(h.dir, os.DirFS(from))
		}
		_ = crashed.Close()
		h.open()
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// check compares what is loaded, and its version, with what can be joined.
func (h *orders) check(want *crdt.State) {
	got, err := h.s.Load(background, h.id)
	if err != nil && (want != nil || !errors.Is(err, cart.ErrDamaged)) {
		h.t.Fatalf("got %v, want %+v", err, want)
	}
	if err == nil && !same(got, want) {
		h.t.Fatalf("got %+v, want %+v", got, want)
	}
	page, err := h.s.Versions(background, cart.ID{}, cart.LastID, 2)
	if err != nil || want == nil && len(page) > 0 ||
		want != nil && (len(page) != 1 || page[0] != cart.StoredVersion{ID: h.id, Version: cart.VersionHash(h.id, want)}) {
		h.t.Fatalf("got versions %v, %v of %+v", page, err, want)
	}
}
