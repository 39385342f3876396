package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"cartd/cart"
	"cartd/crdt"
	"cartd/internal/pgtest"
)

var background = context.Background()

// basket is a cart as one of its authors knows it.
type basket struct {
	id      cart.ID
	replica crdt.ReplicaID
	state   *crdt.State
}

func newBasket() *basket { return &basket{cart.NewID(), 7, new(crdt.State)} }

var at = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func (b *basket) change(tb testing.TB, command func(e crdt.Event) *crdt.Delta) cart.Change {
	tb.Helper()
	d := command(crdt.Event{Replica: b.replica, At: b.state.Lifetime.Updated.Next(at)})
	d.Lifetime.Expires = crdt.TimestampAt(at.AddDate(0, 0, 30))
	state, err := b.state.Apply(d)
	if err != nil {
		tb.Fatal(err)
	}
	b.state = state
	return cart.Change{ID: b.id, Delta: d, State: state}
}

func (b *basket) add(tb testing.TB, line string) cart.Change {
	tb.Helper()
	return b.change(tb, func(e crdt.Event) *crdt.Delta { return e.Add(b.state, line, 1) })
}

func (b *basket) remove(tb testing.TB, line string) cart.Change {
	tb.Helper()
	return b.change(tb, func(e crdt.Event) *crdt.Delta { return e.Remove(b.state, line) })
}

func bare(c cart.Change) cart.Change {
	c.State = nil
	return c
}

func open(tb testing.TB, url string, opts Options) *Store {
	tb.Helper()
	s, err := Open(background, url, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func commit(tb testing.TB, s *Store, changes ...cart.Change) {
	tb.Helper()
	if err := s.Commit(background, changes); err != nil {
		tb.Fatal(err)
	}
}

func wantState(tb testing.TB, s *Store, b *basket) {
	tb.Helper()
	got, err := s.Load(background, b.id)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(crdt.AppendState(nil, got), crdt.AppendState(nil, b.state)) {
		tb.Fatalf("got %+v, want %+v", got, b.state)
	}
}

func wantDamaged(tb testing.TB, s *Store, b *basket) {
	tb.Helper()
	_, err := s.Load(background, b.id)
	if !errors.Is(err, cart.ErrDamaged) || !strings.Contains(err.Error(), b.id.String()) {
		tb.Fatalf("got %v, want an error that wraps %v and names %v", err, cart.ErrDamaged, b.id)
	}
}

func execute(tb testing.TB, url, statement string, args ...any) {
	tb.Helper()
	if err := pgtest.Exec(url, statement, args...); err != nil {
		tb.Fatal(err)
	}
}

// fragments returns how many rows the table has.
func fragments(tb testing.TB, s *Store) (n int) {
	tb.Helper()
	if err := s.readers.QueryRow(background, "SELECT count(*) FROM fragments").Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

const flipByte = "UPDATE carts SET state = set_byte(state, length(state)/2, get_byte(state, length(state)/2) # 1) WHERE id = $1"

// TestDamagedRow: what is damaged is told, once, and stays as it is; changes of the cart are kept
// beside it, and a whole state replaces it.
func TestDamagedRow(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	var log bytes.Buffer
	s := open(t, url, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	hurt, whole := newBasket(), newBasket()
	commit(t, s, hurt.add(t, "apples"), whole.add(t, "pears"))
	execute(t, url, flipByte, hurt.id[:])
	wantDamaged(t, s, hurt)
	wantDamaged(t, s, hurt)
	wantState(t, s, whole)
	if v, err := s.Versions(background, cart.ID{}, cart.LastID, 3); err != nil || len(v) != 2 ||
		!slices.Contains(v, cart.StoredVersion{ID: hurt.id, Version: cart.VersionHash(hurt.id, hurt.state)}) {
		t.Errorf("got %x, %v", v, err)
	}
	if n := strings.Count(log.String(), "cart="+hurt.id.String()); n != 1 {
		t.Errorf("the damaged cart is logged %d times:\n%s", n, &log)
	}

	other := open(t, url, Options{})
	wantDamaged(t, other, hurt)
	wantReported := func(s *Store, n int) {
		t.Helper()
		if got := s.Stats().Damaged; got != n {
			t.Errorf("%d damaged carts, not %d", got, n)
		}
	}
	wantReported(other, 1)

	pears := bare(hurt.add(t, "pears"))
	commit(t, s, pears, whole.add(t, "apples"))
	commit(t, s, pears, bare(hurt.remove(t, "apples")), pears)
	wantDamaged(t, s, hurt)
	wantState(t, s, whole)
	if n := fragments(t, s); n != 2 {
		t.Errorf("%d fragments, not 2", n)
	}

	other.recheck(background)
	wantReported(other, 1)
	elsewhere := &basket{hurt.id, 8, hurt.state} // knows nothing of what follows here
	commit(t, s, bare(hurt.add(t, "plums")))
	elsewhere.add(t, "figs")
	commit(t, s, cart.Change{ID: hurt.id, Delta: nil, State: elsewhere.state})
	hurt.state = crdt.Join(hurt.state, elsewhere.state)
	wantReported(s, 0)
	other.recheck(background) // what another store replaced
	wantReported(other, 0)
	wantState(t, s, hurt)
	if n := fragments(t, s); n != 0 {
		t.Errorf("%d fragments are left", n)
	}
}

// TestDamagedFragment: a fragment that cannot be read makes the cart damaged, until a whole state
// replaces both.
func TestDamagedFragment(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s := open(t, url, Options{})
	b := newBasket()
	b.add(t, "apples")
	remove := b.remove(t, "apples") // builds on what the database never gets
	commit(t, s, bare(remove))
	wantDamaged(t, s, b)
	execute(t, url, "UPDATE fragments SET delta = delta || '\\x00'")
	wantDamaged(t, s, b)
	commit(t, s, bare(remove)) // the whole fragment again
	if n := fragments(t, s); n != 1 {
		t.Errorf("%d fragments, not 1", n)
	}
	execute(t, url, "UPDATE fragments SET delta = delta || '\\x00'")
	commit(t, s, b.add(t, "pears"))
	wantState(t, s, b)
	if n := fragments(t, s); n != 0 {
		t.Errorf("%d fragments are left", n)
	}
}

// TestFragmentBeforeItsBase: a delta that arrives first is joined when what it needs is there.
func TestFragmentBeforeItsBase(t *testing.T) {
	t.Parallel()
	s := open(t, pgtest.New(t), Options{})
	b := newBasket()
	add, remove := bare(b.add(t, "apples")), bare(b.remove(t, "apples"))
	commit(t, s, remove)
	wantDamaged(t, s, b)
	commit(t, s, add)
	wantState(t, s, b)
	if n := fragments(t, s); n != 0 {
		t.Errorf("%d fragments are left", n)
	}
}

// TestPurgeOfFragments: what never became a whole cart goes when all of it expired.
func TestPurgeOfFragments(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s := open(t, url, Options{})
	orphan := func() (b *basket, remove cart.Change) {
		b = newBasket()
		b.add(t, "apples")
		return b, bare(b.remove(t, "apples"))
	}
	_, old := orphan()
	b, older := orphan()
	b.add(t, "pears")
	younger := bare(b.remove(t, "pears"))
	younger.Delta.Lifetime.Expires = crdt.TimestampAt(at.AddDate(0, 0, 60))
	hurt := newBasket()
	commit(t, s, old, older, younger, hurt.add(t, "apples"))
	execute(t, url, flipByte, hurt.id[:])
	commit(t, s, bare(hurt.add(t, "pears")))

	wantLeft := func(purgedAt time.Time, want int) {
		t.Helper()
		if n, err := s.Purge(background, crdt.TimestampAt(purgedAt)); n != 0 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n := fragments(t, s); n != want {
			t.Errorf("%d fragments, not %d", n, want)
		}
	}
	wantLeft(at.AddDate(0, 0, 30), 4)
	wantLeft(at.AddDate(0, 0, 31), 3) // older may be needed by younger
	wantLeft(at.AddDate(0, 0, 61), 1) // that of the damaged cart
}

// TestMemory: what is remembered of a row saves reading it, and harms nothing where it is wrong.
func TestMemory(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s, other := open(t, url, Options{}), open(t, url, Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	commit(t, s, b.add(t, "apples")) // from memory
	wantState(t, s, b)
	o := &basket{b.id, 8, new(crdt.State)}
	commit(t, other, o.add(t, "pears"))
	commit(t, s, b.add(t, "apples")) // the revision is another one by now
	b.state = crdt.Join(b.state, o.state)
	wantState(t, s, b)

	execute(t, url, "DELETE FROM carts") // as a purge
	commit(t, s, b.add(t, "plums"))
	wantState(t, s, b)
	execute(t, url, "DELETE FROM carts")
	commit(t, other, o.add(t, "figs"))
	commit(t, s, b.add(t, "plums"))
	b.state = crdt.Join(b.state, o.state)
	wantState(t, s, b)

	erase := cart.Change{ID: b.id, Delta: &crdt.Delta{State: crdt.State{Erased: true}}, State: &crdt.State{Erased: true}}
	commit(t, s, erase)
	commit(t, s, b.add(t, "plums"))
	b.state = erase.State
	wantState(t, s, b)

	var m memory
	for range 5 * maxKnown {
		m.put(cart.NewID(), known{})
	}
	if n := len(m.young) + len(m.old); n > 2*maxKnown {
		t.Errorf("%d rows are remembered", n)
	}
}

// TestDatabaseThatWentBack: a database that is taken back to an earlier state counts revisions anew. What
// another store made of a row since then is not overwritten by one that remembers the same revision of it.
func TestDatabaseThatWentBack(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s, other := open(t, url, Options{}), open(t, url, Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	o := &basket{b.id, 8, b.state}
	execute(t, url, "CREATE TABLE earlier AS SELECT * FROM carts")
	commit(t, s, b.add(t, "plums"))
	commit(t, s, b.add(t, "plums"))

	execute(t, url, "DELETE FROM carts")
	execute(t, url, "INSERT INTO carts SELECT * FROM earlier")
	commit(t, other, o.add(t, "pears"))
	commit(t, other, o.add(t, "pears"))
	wantState(t, other, o)
	commit(t, s, b.add(t, "figs"))
	b.state = crdt.Join(b.state, o.state)
	wantState(t, s, b)
}

// TestTwoWriters: two stores write the same carts at once, and what is stored in the end is the
// join of all.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	const carts, rounds = 8, 50
	ids := make([]cart.ID, carts)
	for i := range ids {
		ids[i] = cart.NewID()
	}
	var authors [2][]*basket
	var wg sync.WaitGroup
	for i := range authors {
		s := open(t, url, Options{})
		for _, id := range ids {
			authors[i] = append(authors[i], &basket{id, crdt.ReplicaID(i + 1), new(crdt.State)})
		}
		wg.Go(func() {
			for range rounds {
				var changes []cart.Change
				for k := range authors[i] { // in different orders
					b := authors[i][(k*(i*2+1))%carts]
					c := b.add(t, "apples")
					if k%3 == 0 {
						c = bare(c)
					}
					changes = append(changes, c)
				}
				if err := s.Commit(background, changes); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	s := open(t, url, Options{})
	for k := range ids {
		wantState(t, s, &basket{id: ids[k], state: crdt.Join(authors[0][k].state, authors[1][k].state)})
	}
}

// TestServerKilled: a crash of the server loses nothing that was committed. A process of the
// server that outlives the crash for a moment may still take a commit, which then counts too.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.URL, Options{})
	b := newBasket()
	for range 3 {
		commit(t, s, b.add(t, "apples"))
		server.Kill(t)
		lost := b.add(t, "pears")
		err := s.Commit(background, []cart.Change{lost})
		if err != nil && !errors.Is(err, cart.ErrNoRoom) {
			t.Fatalf("got %v, want %v", err, cart.ErrNoRoom)
		}
		server.Restart(t)
		if err != nil {
			commitAgain(t, s, lost)
		}
		wantState(t, s, b)
	}
}

// commitAgain commits as the committer does: until it is told that it is done.
func commitAgain(t *testing.T, s *Store, changes ...cart.Change) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := s.Commit(background, changes)
		if err == nil {
			return
		}
		if !errors.Is(err, cart.ErrNoRoom) {
			t.Fatal(err)
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// TestNoAnswer: a server that accepts and says nothing costs no more than the timeouts.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.URL, Options{ConnectTimeout: 200 * time.Millisecond, StatementTimeout: 200 * time.Millisecond})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))

	// Another transaction holds the row for longer than a statement may take.
	tx, err := s.readers.Begin(background)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(background) //nolint:errcheck // it is rolled back below, or the test failed
	if _, err := tx.Exec(background, "SELECT id FROM carts FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	next := b.add(t, "apples")
	if err := s.Commit(background, []cart.Change{next}); !errors.Is(err, cart.ErrNoRoom) {
		t.Fatalf("got %v, want %v", err, cart.ErrNoRoom)
	}
	if err := tx.Rollback(background); err != nil {
		t.Fatal(err)
	}
	commit(t, s, next)
	wantState(t, s, b)

	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	begin := time.Now()
	if _, err := Open(background, "postgres://cartd@"+silent.Addr().String()+"/x", s.opts); err == nil {
		t.Fatal("a server that says nothing was opened")
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestUnsafeServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, "fsync=off")
	if _, err := Open(background, server.URL, Options{}); !errors.Is(err, ErrUnsafe) {
		t.Fatalf("got %v, want %v", err, ErrUnsafe)
	}
	if err := pgtest.Exec(server.URL, "SELECT 1 FROM goose_db_version"); err == nil {
		t.Error("the server was refused, and written to")
	}
}

func TestAsynchronousServer(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	open(t, pgtest.New(t)+"&synchronous_commit=off", Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "synchronous_commit=off") {
		t.Errorf("no warning:\n%s", &log)
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	var wg sync.WaitGroup
	for range 4 { // at once, on an empty schema
		wg.Go(func() {
			if m, err := Migrate(background, url, Options{}); err != nil || m.To != 1 {
				t.Errorf("got %+v, %v", m, err)
			}
		})
	}
	wg.Wait()
	if m, err := Migrate(background, url, Options{}); err != nil || m != (Migration{1, 1}) {
		t.Errorf("got %+v, %v", m, err)
	}
	execute(t, url, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)")
	if _, err := Open(background, url, Options{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("got %v, want %v", err, ErrNewerSchema)
	}
	if _, err := Migrate(background, url, Options{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("got %v, want %v", err, ErrNewerSchema)
	}
}

// TestErrorClasses: what passes by itself is tried again, what does not ends the process.
func TestErrorClasses(t *testing.T) {
	for code, again := range map[string]bool{
		"53100": true,  // disk full
		"53200": true,  // out of memory
		"53300": true,  // too many connections
		"57P01": true,  // the server shuts down
		"57P03": true,  // it starts
		"57014": true,  // statement timeout
		"08006": true,  // connection failure
		"40001": true,  // serialization failure
		"40P01": true,  // deadlock
		"25006": true,  // a standby
		"58030": true,  // I/O error
		"42703": false, // no such column
		"42501": false, // no such right
		"23502": false, // a value is missing
		"22P02": false, // a value is malformed
		"XX001": false, // data corrupted
		"":      false,
	} {
		err := refused(fmt.Errorf("write: %w", &pgconn.PgError{Code: code}))
		if errors.Is(err, cart.ErrNoRoom) != again {
			t.Errorf("%q: got %v", code, err)
		}
	}
	if err := refused(ErrClosed); errors.Is(err, cart.ErrNoRoom) {
		t.Error("a store that was closed is tried again")
	}
}

// TestSchemaGone: a schema that cannot be put right ends the store.
func TestSchemaGone(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s := open(t, url, Options{})
	execute(t, url, "DROP TABLE carts")
	change := newBasket().add(t, "apples")
	if err := s.Commit(background, []cart.Change{change}); !errors.Is(err, cart.ErrNoRoom) {
		t.Errorf("got %v, want %v", err, cart.ErrNoRoom)
	}
	<-s.Failed()
	if err := s.Commit(background, []cart.Change{change}); err == nil || errors.Is(err, cart.ErrNoRoom) {
		t.Errorf("got %v", err)
	}
}

// TestEmptied: an empty database in the place of the one that was opened gets its tables anew, whether it was seen
// that it came or not.
func TestEmptied(t *testing.T) {
	t.Parallel()
	for _, seen := range []bool{true, false} {
		server := pgtest.Start(t)
		s := open(t, server.URL, Options{})
		b := newBasket()
		commit(t, s, b.add(t, "apples"))
		server.Stop(t)
		next := b.add(t, "pears")
		if seen {
			wantAway(t, s, b, next)
		}
		server.Wipe(t)
		server.Restart(t)
		commitAgain(t, s, next)
		wantState(t, s, b)
		select {
		case <-s.Failed():
			t.Error(s.Err())
		default:
		}
	}
}

// TestServerRebuilt: a store that was set up waits for its database where another server took the place of the one
// before, and does not have it yet.
func TestServerRebuilt(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.Database(t, "carts"), Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	next := b.add(t, "pears")
	server.Stop(t)
	wantAway(t, s, b, next)
	server.Wipe(t)
	server.Restart(t)
	deadline := time.After(20 * time.Second)
	for err := s.Reachable(); err == nil || !strings.Contains(err.Error(), "3D000"); err = s.Reachable() {
		select {
		case <-s.Failed():
			t.Fatal(s.Err())
		case <-deadline:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	execute(t, server.URL, "CREATE DATABASE carts")
	commitAgain(t, s, next)
	wantState(t, s, b)
}

// TestSecrets: no error and no address tells the password.
func TestSecrets(t *testing.T) {
	for _, url := range []string{
		"postgres://user:sesame@127.0.0.1:1/db",
		"postgres://user@127.0.0.1:1/db?password=sesame",
		"postgres://user:ses/ame@127.0.0.1:1/db",
		"postgres://user:sesame@127.0.0.1:port/db",
		"postgres://user:sesame@127.0.0.1:1/db?sslmode=maybe",
		"user=user password=sesame host=127.0.0.1",
		"mysql://user:sesame@127.0.0.1:1/db",
	} {
		_, err := Open(background, url, Options{})
		if err == nil {
			t.Fatalf("%s was opened", url)
		}
		address, addressErr := Address(url)
		_, migrateErr := Migrate(background, url, Options{})
		for _, text := range []string{err.Error(), address, fmt.Sprint(addressErr), migrateErr.Error(), fmt.Sprint(CheckURL(url))} {
			if strings.Contains(text, "sesame") || strings.Contains(text, "ses/") || strings.Contains(text, ":ses") {
				t.Errorf("%s: %s", url, text)
			}
		}
	}
}
