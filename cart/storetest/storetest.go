package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"cartd/cart"
	"cartd/crdt"
)

// Database is one database of an adapter, made for one test.
type Database interface {
	// Open returns a handle on the database. The suite closes it, except before Crash.
	Open(tb TB) cart.Store

	// Crash makes the next Open return what a process would find after a crash at this moment.
	// Handles that are open may be closed later; nothing that they do then may reach what the next
	// Open returns, unless the database is Shared.
	Crash(tb TB)

	// Shared tells whether several handles may be open at once.
	Shared() bool
}

// TB is what the suite needs of a testing.TB; a *rapid.T is one too.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// Filler is a Database that can be made full: from fill to the call of release, whatever a commit
// needs room for is refused.
type Filler interface {
	Fill(tb TB, s cart.Store) (release func())
}

// Run runs the suite. create makes an empty database, which is gone after the test.
func Run(t *testing.T, create func(t *testing.T) Database) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Database)
	}{
		{"NothingStored", nothingStored},
		{"RoundTrip", roundTrip},
		{"OneBatchManyChanges", oneBatchManyChanges},
		{"StaleAuthor", staleAuthor},
		{"TwoHandles", twoHandles},
		{"Fragment", fragment},
		{"Gap", gap},
		{"GapOfAnother", gapOfAnother},
		{"GapAtTheStart", gapAtTheStart},
		{"WholeStates", wholeStates},
		{"CommittedTwice", committedTwice},
		{"Reopen", reopen},
		{"Crash", crash},
		{"Erased", erased},
		{"Purge", purge},
		{"PurgePages", purgePages},
		{"Versions", versions},
		{"ManyCarts", manyCarts},
		{"LargeCart", largeCart},
		{"ConcurrentLoads", concurrentLoads},
		{"CancelledContext", cancelledContext},
		{"NoRoom", noRoom},
		{"Closed", closed},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, create(t)) })
	}
	t.Run("AnyHistory", func(t *testing.T) { anyHistory(t, create) })
}

// start is the time at which the suite's carts begin.
var start = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// author is a replica of one cart, which makes its changes.
type author struct {
	id      cart.ID
	replica crdt.ReplicaID
	state   *crdt.State
}

var replicas struct {
	sync.Mutex
	last crdt.ReplicaID
}

// newAuthor returns an author of a cart under a replica id of its own, who knows state, or nothing
// where state is nil.
func newAuthor(id cart.ID, state *crdt.State) *author {
	replicas.Lock()
	defer replicas.Unlock()
	replicas.last++
	if state == nil {
		state = new(crdt.State)
	}
	return &author{id, replicas.last, state}
}

func (a *author) event() crdt.Event {
	return crdt.Event{Replica: a.replica, At: a.state.Lifetime.Updated.Next(start)}
}

// change applies a delta that the author made and returns it as a change.
func (a *author) change(tb TB, d *crdt.Delta) cart.Change {
	tb.Helper()
	state, err := a.state.Apply(d)
	if err != nil {
		tb.Fatalf("apply an author's own delta: %v", err)
	}
	a.state = state
	return cart.Change{ID: a.id, Delta: d, State: state}
}

func (a *author) add(tb TB, line string, n int64) cart.Change {
	tb.Helper()
	e := a.event()
	d := e.Add(a.state, line, n)
	e.WriteLine(d, line, "price", "1299", false)
	return a.change(tb, d)
}

func (a *author) remove(tb TB, line string) cart.Change {
	tb.Helper()
	return a.change(tb, a.event().Remove(a.state, line))
}

func (a *author) expire(tb TB, at time.Time) cart.Change {
	tb.Helper()
	d := a.event().Touch(a.state)
	d.Lifetime.Expires = crdt.TimestampAt(at)
	return a.change(tb, d)
}

func (a *author) erase(tb TB) cart.Change {
	tb.Helper()
	return a.change(tb, &crdt.Delta{State: crdt.State{Erased: true}})
}

// open opens a handle that is closed at the end of the test.
func open(t *testing.T, db Database) cart.Store {
	t.Helper()
	s := db.Open(t)
	t.Cleanup(func() { _ = s.Close() }) // most often again
	return s
}

func commit(tb TB, s cart.Store, changes ...cart.Change) {
	tb.Helper()
	if err := s.Commit(context.Background(), changes); err != nil {
		tb.Fatalf("commit: %v", err)
	}
}

func wantState(tb TB, s cart.Store, id cart.ID, want *crdt.State) {
	tb.Helper()
	got, err := s.Load(context.Background(), id)
	if err != nil {
		tb.Fatalf("load %v: %v", id, err)
	}
	if !bytes.Equal(crdt.AppendState(nil, got), crdt.AppendState(nil, want)) {
		tb.Fatalf("load %v: got %+v, want %+v", id, got, want)
	}
}

func wantNone(tb TB, s cart.Store, id cart.ID) {
	tb.Helper()
	if _, err := s.Load(context.Background(), id); !errors.Is(err, cart.ErrNotFound) {
		tb.Fatalf("load %v: got %v, want %v", id, err, cart.ErrNotFound)
	}
}

func nothingStored(t *testing.T, db Database) {
	s := open(t, db)
	wantNone(t, s, cart.NewID())
	commit(t, s)
	n, err := s.Purge(t.Context(), crdt.TimestampAt(start))
	if n != 0 || err != nil {
		t.Fatalf("purge: got %d, %v", n, err)
	}
}

func roundTrip(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	for _, line := range []string{"apples", "pears", "apples"} {
		commit(t, s, a.add(t, line, 2))
		wantState(t, s, a.id, a.state)
	}
	commit(t, s, a.remove(t, "apples"))
	wantState(t, s, a.id, a.state)
	wantNone(t, s, cart.NewID())
}

func oneBatchManyChanges(t *testing.T, db Database) {
	s := open(t, db)
	a, b := newAuthor(cart.NewID(), nil), newAuthor(cart.NewID(), nil)
	commit(t, s, a.add(t, "apples", 1), b.add(t, "pears", 1), a.remove(t, "apples"), a.add(t, "apples", 3))
	wantState(t, s, a.id, a.state)
	wantState(t, s, b.id, b.state)
	db.Crash(t)
	s = open(t, db)
	wantState(t, s, a.id, a.state)
	wantState(t, s, b.id, b.state)
}

// staleAuthor commits the state of an author who does not know what was committed before.
func staleAuthor(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	commit(t, s, a.add(t, "apples", 1))
	b, c := newAuthor(a.id, a.state), newAuthor(a.id, nil)
	commit(t, s, a.add(t, "apples", 1))
	commit(t, s, b.remove(t, "apples"))
	want := crdt.Join(a.state, b.state)
	wantState(t, s, a.id, want)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db) // now it is stored otherwise, perhaps
	commit(t, s, c.add(t, "pears", 5))
	want = crdt.Join(want, c.state)
	wantState(t, s, a.id, want)
	db.Crash(t)
	s = open(t, db)
	wantState(t, s, a.id, want)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantState(t, open(t, db), a.id, want)
}

func twoHandles(t *testing.T, db Database) {
	if !db.Shared() {
		t.Skip("this database has one handle at a time")
	}
	s, r := open(t, db), open(t, db)
	a := newAuthor(cart.NewID(), nil)
	commit(t, s, a.add(t, "apples", 1))
	b := newAuthor(a.id, a.state)
	commit(t, r, b.add(t, "apples", 1))
	commit(t, s, a.remove(t, "apples"))
	want := crdt.Join(a.state, b.state)
	wantState(t, s, a.id, want)
	wantState(t, r, a.id, want)
}

// bare returns a change as who does not hold the cart commits it.
func bare(c cart.Change) cart.Change {
	c.State = nil
	return c
}

// fragment commits changes whose author does not hold the cart.
func fragment(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	commit(t, s, bare(a.add(t, "apples", 1)))
	wantState(t, s, a.id, a.state)
	commit(t, s, bare(a.add(t, "pears", 1)), bare(a.remove(t, "apples")))
	wantState(t, s, a.id, a.state)
	db.Crash(t)
	s = open(t, db)
	wantState(t, s, a.id, a.state)
	commit(t, s, a.add(t, "plums", 1))
	commit(t, s, bare(a.remove(t, "pears")))
	wantState(t, s, a.id, a.state)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	wantState(t, s, a.id, a.state)
	commit(t, s, bare(a.add(t, "pears", 1)))
	wantState(t, s, a.id, a.state)
}

// gap commits changes without one that they need. It comes later.
func gap(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	first, want := bare(a.add(t, "apples", 1)), a.state
	missing := bare(a.add(t, "pears", 1))
	later := []cart.Change{bare(a.add(t, "plums", 1)), bare(a.remove(t, "apples")), bare(a.add(t, "figs", 1))}
	b, c := newAuthor(a.id, nil), newAuthor(a.id, nil)
	reopened := func() cart.Store {
		t.Helper()
		wantState(t, s, a.id, want)
		wantVersion(t, s, a.id, want)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, db)
		wantState(t, s, a.id, want)
		db.Crash(t)
		s = open(t, db)
		wantState(t, s, a.id, want)
		wantVersion(t, s, a.id, want)
		return s
	}
	commit(t, s, first, later[0])
	s = reopened()
	commit(t, s, bare(b.add(t, "figs", 2)))
	want = crdt.Join(want, b.state)
	s = reopened()
	commit(t, s, later[1:]...)
	s = reopened()
	commit(t, s, c.add(t, "apples", 3))
	want = crdt.Join(want, c.state)
	s = reopened()
	commit(t, s, missing)
	want = crdt.Join(want, a.state)
	s = reopened()
	commit(t, s, bare(a.remove(t, "figs")))
	want = crdt.Join(want, a.state)
	reopened()
}

// gapOfAnother commits a change that needs what another author did and nobody committed. It takes none
// of what came before it away.
func gapOfAnother(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	b := newAuthor(a.id, nil)
	commit(t, s, bare(a.add(t, "apples", 1)))
	want := a.state
	missing := bare(b.add(t, "pears", 1))
	a.state = crdt.Join(a.state, b.state)
	commit(t, s, bare(a.remove(t, "pears")), bare(a.add(t, "plums", 1)))
	for range 2 {
		wantState(t, s, a.id, want)
		wantVersion(t, s, a.id, want)
		db.Crash(t)
		s = open(t, db)
	}
	commit(t, s, missing)
	wantState(t, s, a.id, a.state)
	wantVersion(t, s, a.id, a.state)
	db.Crash(t)
	wantState(t, open(t, db), a.id, a.state)
}

// gapAtTheStart commits changes of which none can be joined before the first comes.
func gapAtTheStart(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	first := bare(a.add(t, "apples", 1))
	commit(t, s, bare(a.add(t, "pears", 1)), bare(a.remove(t, "apples")))
	for range 2 {
		if _, err := s.Load(t.Context(), a.id); !errors.Is(err, cart.ErrDamaged) {
			t.Fatalf("load: got %v, want %v", err, cart.ErrDamaged)
		}
		if page, err := s.Versions(t.Context(), cart.ID{}, cart.LastID, 2); len(page) > 0 || err != nil {
			t.Fatalf("versions: got %v, %v", page, err)
		}
		db.Crash(t)
		s = open(t, db)
	}
	commit(t, s, first)
	wantState(t, s, a.id, a.state)
	wantVersion(t, s, a.id, a.state)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantState(t, open(t, db), a.id, a.state)
}

// wantVersion checks the version of the only cart.
func wantVersion(tb TB, s cart.Store, id cart.ID, state *crdt.State) {
	tb.Helper()
	want := cart.StoredVersion{ID: id, Version: cart.VersionHash(id, state)}
	if page, err := s.Versions(context.Background(), cart.ID{}, cart.LastID, 2); err != nil || len(page) != 1 || page[0] != want {
		tb.Fatalf("versions: got %v, %v, want %v", page, err, want)
	}
}

// wholeStates commits many carts at once, of which only the state is given, as who flushes what
// others wrote does.
func wholeStates(t *testing.T, db Database) {
	s := open(t, db)
	whole := func(c cart.Change) cart.Change {
		c.Delta = nil
		return c
	}
	var authors []*author
	var changes []cart.Change
	for range 1100 {
		a := newAuthor(cart.NewID(), nil)
		authors, changes = append(authors, a), append(changes, whole(a.add(t, "apples", 1)))
	}
	commit(t, s, changes...)
	changes = changes[:0]
	for i, a := range authors {
		switch i % 4 {
		case 0:
			changes = append(changes, whole(a.remove(t, "apples")))
		case 1: // by who knows nothing
			b := newAuthor(a.id, nil)
			changes = append(changes, whole(b.add(t, "pears", 1)))
			a.state = crdt.Join(a.state, b.state)
		case 2:
			changes = append(changes, whole(a.erase(t)))
		}
	}
	commit(t, s, changes...)
	commit(t, s, changes...)
	check := func() {
		t.Helper()
		for _, a := range authors {
			wantState(t, s, a.id, a.state)
		}
	}
	check()
	db.Crash(t)
	s = open(t, db)
	check()
	last := authors[0].add(t, "plums", 1)
	last.State = nil // builds on what came without a delta
	commit(t, s, last)
	wantState(t, s, authors[0].id, authors[0].state)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	check()
}

func committedTwice(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	add := a.add(t, "apples", 1)
	remove := a.remove(t, "apples")
	commit(t, s, add, remove)
	commit(t, s, add)
	commit(t, s, remove, add, add)
	wantState(t, s, a.id, a.state)
	db.Crash(t)
	wantState(t, open(t, db), a.id, a.state)
}

func reopen(t *testing.T, db Database) {
	a := newAuthor(cart.NewID(), nil)
	for range 3 {
		s := db.Open(t)
		commit(t, s, a.add(t, "apples", 1))
		commit(t, s, a.remove(t, "apples"), a.add(t, "pears", 2))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = db.Open(t)
		wantState(t, s, a.id, a.state)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func crash(t *testing.T, db Database) {
	a := newAuthor(cart.NewID(), nil)
	for range 3 {
		s := open(t, db)
		commit(t, s, a.add(t, "apples", 1))
		commit(t, s, a.remove(t, "apples"), a.add(t, "pears", 2))
		db.Crash(t)
		s = open(t, db)
		wantState(t, s, a.id, a.state)
		db.Crash(t)
	}
}

func erased(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	commit(t, s, a.add(t, "apples", 1), a.expire(t, start))
	late := newAuthor(a.id, a.state)
	commit(t, s, a.erase(t))
	want := &crdt.State{Erased: true}
	wantState(t, s, a.id, want)
	commit(t, s, late.add(t, "pears", 1))
	wantState(t, s, a.id, want)
	db.Crash(t)
	s = open(t, db)
	wantState(t, s, a.id, want)
	if n, err := s.Purge(t.Context(), crdt.TimestampAt(start.Add(time.Hour))); n != 0 || err != nil {
		t.Fatalf("purge: got %d, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	commit(t, s, late.add(t, "plums", 1))
	wantState(t, s, a.id, want)
}

func purge(t *testing.T, db Database) {
	s := open(t, db)
	at := start.Add(30 * 24 * time.Hour)
	old, older, young, endless := newAuthor(cart.NewID(), nil), newAuthor(cart.NewID(), nil), newAuthor(cart.NewID(), nil), newAuthor(cart.NewID(), nil)
	commit(t, s, older.expire(t, at.Add(-24*time.Hour)), old.expire(t, at), young.expire(t, at), endless.add(t, "pears", 1))
	commit(t, s, young.expire(t, at.Add(time.Millisecond)))

	wantPurged := func(want int, before time.Time) {
		t.Helper()
		if n, err := s.Purge(t.Context(), crdt.TimestampAt(before)); n != want || err != nil {
			t.Fatalf("purge: got %d, %v, want %d", n, err, want)
		}
	}
	wantPurged(1, at) // what expires at a time has not expired before it
	wantNone(t, s, older.id)
	wantState(t, s, old.id, old.state)
	wantPurged(1, at.Add(time.Millisecond))
	wantPurged(0, at.Add(time.Millisecond))
	wantNone(t, s, old.id)
	db.Crash(t)
	s = open(t, db)
	wantNone(t, s, older.id)
	wantNone(t, s, old.id)
	wantState(t, s, young.id, young.state)
	wantState(t, s, endless.id, endless.state)

	commit(t, s, young.expire(t, at.Add(time.Hour)))
	wantPurged(0, at.Add(time.Hour))
	wantState(t, s, young.id, young.state)
}

func purgePages(t *testing.T, db Database) {
	s := open(t, db)
	const carts = 2500
	var changes []cart.Change
	for i := range carts {
		a := newAuthor(cart.NewID(), nil)
		changes = append(changes, a.expire(t, start.Add(time.Duration(i)*time.Minute)))
	}
	commit(t, s, changes...)
	if n, err := s.Purge(t.Context(), crdt.TimestampAt(start.Add((carts-1)*time.Minute))); n != carts-1 || err != nil {
		t.Fatalf("purge: got %d, %v, want %d", n, err, carts-1)
	}
	wantNone(t, s, changes[0].ID)
	wantState(t, s, changes[carts-1].ID, changes[carts-1].State)
}

// versions compares what Versions returns of the whole and of ranges, page by page, with the states that were
// committed.
func versions(t *testing.T, db Database) {
	s := open(t, db)
	listed := func(after, last cart.ID, limit int) map[cart.ID]uint64 {
		t.Helper()
		all := make(map[cart.ID]uint64)
		for {
			page, err := s.Versions(t.Context(), after, last, limit)
			if err != nil {
				t.Fatalf("versions: %v", err)
			}
			for _, v := range page {
				if bytes.Compare(v.ID[:], after[:]) <= 0 || bytes.Compare(v.ID[:], last[:]) > 0 {
					t.Fatalf("versions: %v does not come after %v, and up to %v", v.ID, after, last)
				}
				all[v.ID], after = v.Version, v.ID
			}
			switch n := len(page); {
			case n > limit:
				t.Fatalf("versions: got %d, the limit is %d", n, limit)
			case n < limit:
				return all
			}
		}
	}
	want := make(map[cart.ID]uint64)
	check := func() {
		t.Helper()
		bounds := []cart.ID{{}, cart.LastID}
		for id := range want {
			if len(bounds) < 6 {
				bounds = append(bounds, id)
			}
		}
		for _, after := range bounds {
			for _, last := range bounds {
				in := maps.Clone(want)
				maps.DeleteFunc(in, func(id cart.ID, _ uint64) bool {
					return bytes.Compare(id[:], after[:]) <= 0 || bytes.Compare(id[:], last[:]) > 0
				})
				for _, limit := range []int{1, 7, 1000} {
					if got := listed(after, last, limit); !maps.Equal(got, in) {
						t.Fatalf("versions after %v and up to %v, %d at a time: got %x, want %x", after, last, limit, got, in)
					}
				}
			}
		}
	}
	check()
	var authors []*author
	for i := range 20 {
		a := newAuthor(cart.NewID(), nil)
		c := a.add(t, "apples", 1)
		if i%3 == 0 {
			c.State = nil
		}
		commit(t, s, c)
		authors, want[a.id] = append(authors, a), cart.VersionHash(a.id, a.state)
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	check()
	for i, a := range authors {
		switch i % 4 {
		case 0:
			commit(t, s, a.remove(t, "apples"))
		case 1:
			commit(t, s, a.erase(t))
		case 2: // by who does not know all of the cart
			b := newAuthor(a.id, nil)
			commit(t, s, b.add(t, "pears", 1))
			a.state = crdt.Join(a.state, b.state)
		}
		want[a.id] = cart.VersionHash(a.id, a.state)
	}
	gone := newAuthor(cart.NewID(), nil)
	commit(t, s, gone.expire(t, start))
	want[gone.id] = cart.VersionHash(gone.id, gone.state)
	check()
	db.Crash(t)
	s = open(t, db)
	check()
	if n, err := s.Purge(t.Context(), crdt.TimestampAt(start.Add(time.Hour))); n != 1 || err != nil {
		t.Fatalf("purge: got %d, %v", n, err)
	}
	delete(want, gone.id)
	check()
}

func manyCarts(t *testing.T, db Database) {
	s := open(t, db)
	var authors []*author
	for range 20 {
		var changes []cart.Change
		for range 50 {
			a := newAuthor(cart.NewID(), nil)
			authors = append(authors, a)
			changes = append(changes, a.add(t, "apples", 1))
		}
		commit(t, s, changes...)
	}
	check := func() {
		t.Helper()
		for _, a := range authors {
			wantState(t, s, a.id, a.state)
		}
	}
	check()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	check()
}

func largeCart(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	var changes []cart.Change
	for i := range 1000 {
		e := a.event()
		line := fmt.Sprintf("line %d", i)
		d := e.Assign(a.state, line, int64(i+1))
		e.WriteLine(d, line, "title", string(bytes.Repeat([]byte{'a' + byte(i%26)}, 200)), false)
		changes = append(changes, a.change(t, d))
	}
	commit(t, s, changes...)
	wantState(t, s, a.id, a.state)
	db.Crash(t)
	s = open(t, db)
	wantState(t, s, a.id, a.state)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, db)
	wantState(t, s, a.id, a.state)
	commit(t, s, a.change(t, a.event().Clear(a.state)))
	wantState(t, s, a.id, a.state)
}

// concurrentLoads loads carts while they are committed: what a load returns holds what was
// committed before it began, and nothing that was not handed to Commit when it ended.
func concurrentLoads(t *testing.T, db Database) {
	s := open(t, db)
	const carts, rounds, loaders = 8, 40, 4
	var mu sync.Mutex
	begun, committed := map[cart.ID]*crdt.State{}, map[cart.ID]*crdt.State{}
	var authors []*author
	for range carts {
		a := newAuthor(cart.NewID(), nil)
		authors = append(authors, a)
		begun[a.id], committed[a.id] = a.state, a.state
	}
	finished := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range loaders {
		wg.Go(func() {
			for k := i; ; k++ {
				select {
				case <-finished:
					return
				default:
				}
				id := authors[k%carts].id
				mu.Lock()
				least := committed[id]
				mu.Unlock()
				got, err := s.Load(context.Background(), id)
				if errors.Is(err, cart.ErrNotFound) {
					got, err = new(crdt.State), nil
				}
				mu.Lock()
				most := begun[id]
				mu.Unlock()
				if err != nil {
					t.Errorf("load: %v", err)
				} else if !got.VV.Descends(least.VV) || !most.VV.Descends(got.VV) {
					t.Errorf("load: got %v, want from %v to %v", got.VV, least.VV, most.VV)
				}
			}
		})
	}
	defer close(finished)
	for range rounds {
		var changes []cart.Change
		mu.Lock()
		for _, a := range authors {
			changes = append(changes, a.add(t, "apples", 1))
			begun[a.id] = a.state
		}
		mu.Unlock()
		commit(t, s, changes...)
		mu.Lock()
		for _, a := range authors {
			committed[a.id] = a.state
		}
		mu.Unlock()
	}
}

func cancelledContext(t *testing.T, db Database) {
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	first := a.add(t, "apples", 1)
	commit(t, s, first)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	next := a.add(t, "apples", 1)
	if err := s.Commit(ctx, []cart.Change{next}); !errors.Is(err, context.Canceled) {
		t.Fatalf("commit: got %v, want %v", err, context.Canceled)
	}
	if _, err := s.Load(ctx, a.id); !errors.Is(err, context.Canceled) {
		t.Fatalf("load: got %v, want %v", err, context.Canceled)
	}
	if _, err := s.Purge(ctx, crdt.TimestampAt(start)); !errors.Is(err, context.Canceled) {
		t.Fatalf("purge: got %v, want %v", err, context.Canceled)
	}
	if _, err := s.Versions(ctx, cart.ID{}, cart.LastID, 1); !errors.Is(err, context.Canceled) {
		t.Fatalf("versions: got %v, want %v", err, context.Canceled)
	}
	wantState(t, s, a.id, first.State)
	commit(t, s, next)
	wantState(t, s, a.id, next.State)
}

func noRoom(t *testing.T, db Database) {
	filler, ok := db.(Filler)
	if !ok {
		t.Skip("this database cannot be made full")
	}
	s := open(t, db)
	a := newAuthor(cart.NewID(), nil)
	commit(t, s, a.add(t, "apples", 1))
	release := filler.Fill(t, s)
	stored := a.state
	e := a.event()
	d := e.Add(a.state, "pears", 1)
	for i := range 64 {
		e.Write(d, fmt.Sprint("note ", i), string(bytes.Repeat([]byte{'x'}, 4096)), false)
	}
	big := a.change(t, d)
	for range 3 {
		if err := s.Commit(t.Context(), []cart.Change{big}); !errors.Is(err, cart.ErrNoRoom) {
			t.Fatalf("commit: got %v, want %v", err, cart.ErrNoRoom)
		}
		wantState(t, s, a.id, stored)
	}
	release()
	commit(t, s, big)
	wantState(t, s, a.id, a.state)
	db.Crash(t)
	wantState(t, open(t, db), a.id, a.state)
}

func closed(t *testing.T, db Database) {
	s := db.Open(t)
	a := newAuthor(cart.NewID(), nil)
	change := a.add(t, "apples", 1)
	commit(t, s, change)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("close again: %v", err)
	}
	if err := s.Commit(t.Context(), []cart.Change{change}); err == nil {
		t.Fatal("a commit to a closed store succeeds")
	}
	if _, err := s.Load(t.Context(), a.id); err == nil || errors.Is(err, cart.ErrNotFound) {
		t.Fatalf("a load from a closed store: %v", err)
	}
	if _, err := s.Versions(t.Context(), cart.ID{}, cart.LastID, 1); err == nil {
		t.Fatal("versions of a closed store")
	}
	if _, err := s.Purge(t.Context(), 0); err == nil {
		t.Fatal("a purge of a closed store succeeds")
	}
}
