package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

var background = context.Background()

// basket is a cart and its only author.
type basket struct {
	id    cart.ID
	state *crdt.State
}

func newBasket() *basket { return &basket{cart.NewID(), new(crdt.State)} }

var at = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func (b *basket) change(tb testing.TB, command func(e crdt.Event) *crdt.Delta) cart.Change {
	tb.Helper()
	d := command(crdt.Event{Replica: 7, At: b.state.Lifetime.Updated.Next(at)})
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

// open opens a store that does nothing behind the test's back, and closes it after the test.
func open(tb testing.TB, dir string) *Store {
	tb.Helper()
	return openWith(tb, dir, Options{SnapshotEvery: 24 * time.Hour})
}

func openWith(tb testing.TB, dir string, opts Options) *Store {
	tb.Helper()
	s, err := Open(background, dir, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func closeStore(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
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

// execute changes a database that no store has open.
func execute(tb testing.TB, dir, statement string, args ...any) {
	tb.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, databaseName))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	result, err := db.Exec(statement, args...)
	if err != nil {
		tb.Fatal(err)
	}
	if n, err := result.RowsAffected(); n == 0 || err != nil {
		tb.Fatalf("%s: %d rows, %v", statement, n, err)
	}
}

// damageSnapshot flips a byte in the middle of the snapshot of a cart.
func damageSnapshot(tb testing.TB, dir string, id cart.ID) {
	tb.Helper()
	execute(tb, dir, `UPDATE carts SET state = CAST(substr(state, 1, length(state)/2)
		|| CASE substr(state, length(state)/2 + 1, 1) WHEN x'00' THEN x'01' ELSE x'00' END
		|| substr(state, length(state)/2 + 2) AS BLOB) WHERE id = ?`, id[:])
}

func TestDamagedSnapshot(t *testing.T) {
	dir := t.TempDir()
	hurt, whole := newBasket(), newBasket()
	s := open(t, dir)
	commit(t, s, hurt.add(t, "apples"), whole.add(t, "pears"))
	closeStore(t, s)
	damageSnapshot(t, dir, hurt.id)

	var log bytes.Buffer
	s = openWith(t, dir, Options{SnapshotEvery: 24 * time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	wantDamaged(t, s, hurt)
	wantDamaged(t, s, hurt)
	wantState(t, s, whole)
	if n := strings.Count(log.String(), hurt.id.String()); n != 2 { // the attribute and the error's text
		t.Errorf("the damaged cart is logged %d/2 times:\n%s", n, &log)
	}
	closeStore(t, s)
	wantDamaged(t, open(t, dir), hurt)
}

// TestDamagedSnapshotKeepsChanges: what is committed of a cart whose snapshot is damaged stays in
// the journal, through truncations and restarts, until a whole state comes.
func TestDamagedSnapshotKeepsChanges(t *testing.T) {
	dir := t.TempDir()
	hurt, whole := newBasket(), newBasket()
	s := open(t, dir)
	commit(t, s, hurt.add(t, "apples"))
	closeStore(t, s)
	damageSnapshot(t, dir, hurt.id)

	fragment := func(c cart.Change) cart.Change {
		c.State = nil
		return c
	}
	s = open(t, dir)
	commit(t, s, fragment(hurt.add(t, "pears")), whole.add(t, "pears"))
	commit(t, s, fragment(hurt.remove(t, "apples")))
	for range 3 {
		if err := s.round(); err != nil {
			t.Fatal(err)
		}
		if got := s.Stats(); got.JournalRows != 1 || got.Pending != 1 || got.Damaged != 1 {
			t.Fatalf("after a round: %+v", got)
		}
		wantDamaged(t, s, hurt)
	}
	seq := s.journal.last
	commit(t, s, whole.add(t, "apples"))
	closeStore(t, s)

	s = open(t, dir)
	if got := s.Stats(); got.JournalRows != 1 || s.journal.last <= seq {
		t.Fatalf("after a restart: %+v, row %d", got, s.journal.last)
	}
	wantDamaged(t, s, hurt)
	wantState(t, s, whole)

	// A backup of the row is put back: the changes since are still there.
	closeStore(t, s)
	repaired := t.TempDir()
	copyDatabase(t, repaired, dir)
	first := &basket{hurt.id, new(crdt.State)}
	encoded := crdt.AppendState(nil, first.add(t, "apples").State)
	execute(t, repaired, "UPDATE carts SET state = ?, checksum = ? WHERE id = ?",
		encoded, int64(stored.Checksum(hurt.id, encoded)), hurt.id[:])
	s = open(t, repaired)
	wantState(t, s, hurt)
	closeStore(t, s)

	// Or another holder of the cart commits its state.
	s = open(t, dir)
	commit(t, s, hurt.add(t, "plums"))
	wantState(t, s, hurt)
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 || got.Damaged != 0 {
		t.Fatalf("after the repair: %+v", got)
	}
	closeStore(t, s)
	wantState(t, open(t, dir), hurt)
}

// TestDamagedWhileResident: the row of a cart that is in memory as a whole is replaced.
func TestDamagedWhileResident(t *testing.T) {
	dir := t.TempDir()
	b := newBasket()
	s := open(t, dir)
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	damageSnapshot(t, dir, b.id)
	wantDamaged(t, s, b)
	commit(t, s, b.add(t, "pears"))
	wantState(t, s, b)
	closeStore(t, s)
	wantState(t, open(t, dir), b)
}

func copyDatabase(tb testing.TB, to, from string) {
	tb.Helper()
	for _, name := range []string{databaseName, databaseName + "-wal"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), content, 0o600)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func TestDamagedJournal(t *testing.T) {
	dir, after := t.TempDir(), t.TempDir()
	a, b := newBasket(), newBasket()
	s := open(t, dir)
	commit(t, s, a.add(t, "apples"))
	commit(t, s, b.add(t, "pears"))
	commit(t, s, b.add(t, "plums"))
	copyDatabase(t, after, dir)
	execute(t, after, "UPDATE journal SET batch = CAST(substr(batch, 1, 30) || x'ff' || substr(batch, 32) AS BLOB) WHERE seq = 1")

	_, err := Open(background, after, Options{})
	if !errors.Is(err, cart.ErrDamaged) || !strings.Contains(err.Error(), "row 1 ") || strings.Contains(err.Error(), "row 2") {
		t.Fatalf("got %v, want an error that names row 1", err)
	}
	execute(t, after, "DELETE FROM journal WHERE seq = 1")
	s = open(t, after)
	wantState(t, s, b)
	if _, err := s.Load(background, a.id); !errors.Is(err, cart.ErrNotFound) {
		t.Fatalf("got %v, want %v", err, cart.ErrNotFound)
	}
}

func TestNewerSchema(t *testing.T) {
	dir := t.TempDir()
	closeStore(t, open(t, dir))
	execute(t, dir, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	if _, err := Open(background, dir, Options{}); !errors.Is(err, ErrNewerSchema) || !strings.Contains(err.Error(), "99") {
		t.Fatalf("got %v, want %v", err, ErrNewerSchema)
	}
	execute(t, dir, "DELETE FROM goose_db_version WHERE version_id = 99")
	open(t, dir)
}

func TestSecondOpener(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(background, dir, Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("got %v, want %v by process %d", err, ErrInUse, os.Getpid())
	}
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	closeStore(t, s)
	wantState(t, open(t, dir), b)
}

func TestFilesAreForTheirOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%41", "deeper")
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	for _, name := range []string{"", databaseName, databaseName + "-wal", databaseName + "-shm", lockName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%q has mode %v", name, info.Mode())
		}
	}
}

// TestCloseLeavesOneFile: the last connection that is closed removes the log, so none is left open.
func TestCloseLeavesOneFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	wantState(t, s, b)
	closeStore(t, s)
	for _, name := range []string{databaseName + "-wal", databaseName + "-shm"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

// TestFailedCommit: after a failure that is not want of room, nothing is acknowledged, whatever
// would happen now, and what was committed before is there after a restart.
func TestFailedCommit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, b.add(t, "apples"))

	before := b.state
	next := b.add(t, "apples")
	exec(t, s.writer, "PRAGMA query_only = ON")
	err := s.Commit(background, []cart.Change{next})
	if errorCode(err) != sqlite3.SQLITE_READONLY || errors.Is(err, cart.ErrNoRoom) {
		t.Fatalf("got %v", err)
	}
	exec(t, s.writer, "PRAGMA query_only = OFF")
	wantFailed(t, s, err)
	b.state = before
	wantState(t, s, b)

	log, statErr := os.Stat(filepath.Join(dir, databaseName+"-wal"))
	if statErr != nil {
		t.Fatal(statErr)
	}
	if got := s.Close(); !errors.Is(got, err) {
		t.Errorf("close: got %v, want %v", got, err)
	}
	if left, err := os.Stat(filepath.Join(dir, databaseName+"-wal")); err != nil || left.Size() != log.Size() {
		t.Errorf("the log of a store that failed was checkpointed: %v", err)
	}
	s = open(t, dir)
	wantState(t, s, b)
	commit(t, s, b.add(t, "pears"))
}

func exec(tb testing.TB, db interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}, statement string,
) {
	tb.Helper()
	if _, err := db.ExecContext(background, statement); err != nil {
		tb.Fatal(err)
	}
}

// wantFailed checks that the store has ended with err.
func wantFailed(tb testing.TB, s *Store, err error) {
	tb.Helper()
	select {
	case <-s.Failed():
	default:
		tb.Error("Failed is not closed")
	}
	if s.Err() == nil || s.Err().Error() != err.Error() {
		tb.Errorf("Err: got %v, want %v", s.Err(), err)
	}
	got := s.Commit(background, []cart.Change{newBasket().add(tb, "apples")})
	if got == nil || got.Error() != err.Error() {
		tb.Errorf("commit: got %v, want %v", got, err)
	}
	if got := s.round(); got == nil {
		tb.Error("a failed store writes snapshots")
	}
}

func TestFailureBehindTheCommits(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	exec(t, s.behind.conn, "PRAGMA query_only = ON")
	err := s.round()
	if errorCode(err) != sqlite3.SQLITE_READONLY {
		t.Fatalf("got %v", err)
	}
	exec(t, s.behind.conn, "PRAGMA query_only = OFF")
	wantFailed(t, s, err)
	wantState(t, s, b)
}

type coded int

func (c coded) Error() string { return fmt.Sprint("code ", int(c)) }
func (c coded) Code() int     { return int(c) }

func TestErrorClasses(t *testing.T) {
	for _, test := range []struct {
		err    error
		noRoom bool
	}{
		{coded(sqlite3.SQLITE_FULL), true},
		{fmt.Errorf("wrapped: %w", coded(sqlite3.SQLITE_FULL)), true},
		{coded(sqlite3.SQLITE_IOERR_SHMSIZE), true},
		{coded(sqlite3.SQLITE_BUSY), true},
		{coded(sqlite3.SQLITE_BUSY_SNAPSHOT), true},
		{coded(sqlite3.SQLITE_IOERR), false},
		{coded(sqlite3.SQLITE_IOERR_FSYNC), false},
		{coded(sqlite3.SQLITE_IOERR_WRITE), false},
		{coded(sqlite3.SQLITE_IOERR_SHMMAP), false},
		{coded(sqlite3.SQLITE_CORRUPT), false},
		{coded(sqlite3.SQLITE_READONLY), false},
		{coded(sqlite3.SQLITE_NOMEM), false},
		{errors.New("no code"), false},
	} {
		s := &Store{failed: make(chan struct{}), log: slog.New(slog.DiscardHandler)}
		err := s.failedBehind("a test", test.err)
		if !errors.Is(err, test.err) || errors.Is(err, cart.ErrNoRoom) != test.noRoom {
			t.Errorf("%v: got %v", test.err, err)
		}
		if failed := s.Err() != nil; failed == test.noRoom {
			t.Errorf("%v: the store failed: %v", test.err, failed)
		}
	}
}

// TestNoRoomBehindTheCommits: snapshots that find no room wait, and nothing is lost.
func TestNoRoomBehindTheCommits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var baskets []*basket
	for range 100 {
		b := newBasket()
		for i := range 5 {
			commit(t, s, b.add(t, fmt.Sprint("line ", i)))
		}
		baskets = append(baskets, b)
	}
	release := s.Fill()
	if err := s.round(); !errors.Is(err, cart.ErrNoRoom) || s.Err() != nil {
		t.Fatalf("got %v, want %v; %v", err, cart.ErrNoRoom, s.Err())
	}
	for _, b := range baskets {
		wantState(t, s, b)
	}
	release()
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.Pending != 0 || got.JournalRows != 0 {
		t.Fatalf("got %+v", got)
	}
	for _, b := range baskets {
		wantState(t, s, b)
	}
}

// TestLockOfAnotherProcess: who holds the write lock for long is told of as want of room, not as
// the end of the store.
func TestLockOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	db, err := sql.Open("sqlite", filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(background)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exec(t, conn, "BEGIN IMMEDIATE")
	b := newBasket()
	c := b.add(t, "apples")
	if err := s.Commit(background, []cart.Change{c}); !errors.Is(err, cart.ErrNoRoom) {
		t.Fatalf("got %v, want %v", err, cart.ErrNoRoom)
	}
	exec(t, conn, "ROLLBACK")
	commit(t, s, c)
	wantState(t, s, b)
}

// TestRoundsUnderLoad: commits, loads, rounds of snapshots and checkpoints at the same time.
func TestRoundsUnderLoad(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, dir, Options{SnapshotEvery: time.Millisecond, JournalBytes: 4 << 10, LogBytes: 256 << 10})
	var baskets []*basket
	for range 50 {
		baskets = append(baskets, newBasket())
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Load(background, baskets[i%len(baskets)].id); err != nil && !errors.Is(err, cart.ErrNotFound) {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 400 {
		var changes []cart.Change
		for k := range 10 {
			b := baskets[(i*7+k)%len(baskets)]
			if i%5 == 4 {
				changes = append(changes, b.remove(t, "line 1"))
			} else {
				changes = append(changes, b.add(t, fmt.Sprint("line ", i%3)))
			}
		}
		commit(t, s, changes...)
	}
	close(stop)
	wg.Wait()
	await(t, func() bool { return s.Stats().Pending == 0 && s.Stats().JournalRows == 0 })
	for _, b := range baskets {
		wantState(t, s, b)
	}
	if info, err := os.Stat(filepath.Join(dir, databaseName+"-wal")); err != nil || info.Size() > 16<<20 {
		t.Errorf("the log has %d bytes, %v", info.Size(), err)
	}
	closeStore(t, s)
	s = open(t, dir)
	if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 {
		t.Errorf("after a clean end: %+v", got)
	}
	for _, b := range baskets {
		wantState(t, s, b)
	}
}

// await waits for a condition.
func await(tb testing.TB, condition func() bool) {
	tb.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			tb.Fatal("the condition did not come true within 10 s")
		}
	}
}

func TestSnapshotsFollow(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := openWith(t, dir, Options{SnapshotEvery: 10 * time.Second})
		b := newBasket()
		commit(t, s, b.add(t, "apples"))
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if got := s.Stats(); got.JournalRows != 1 || got.Pending != 1 || got.Snapshots != 0 {
			t.Errorf("before: %+v", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := s.Stats(); got.JournalRows != 0 || got.Pending != 0 || got.Snapshots != 1 {
			t.Errorf("after: %+v", got)
		}
		wantState(t, s, b)
	})
}

// TestSnapshotOfARowThatChanged: a row that was written since it was read is joined again.
func TestSnapshotOfARowThatChanged(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	w, err := s.prepare(b.id, s.pending[b.id])
	if err != nil {
		t.Fatal(err)
	}
	other := &crdt.State{}
	e := crdt.Event{Replica: 9, At: crdt.TimestampAt(at)}
	other, err = other.Apply(e.Add(other, "pears", 1))
	if err != nil {
		t.Fatal(err)
	}
	put := w
	put.state = other
	if ok, err := s.behind.put(&put, crdt.AppendState(nil, other)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for range 2 {
		changed, err := s.write([]write{w})
		if err != nil || len(changed) != 1 || s.Stats().Pending != 1 {
			t.Fatalf("got %v, %v, %+v", changed, err, s.Stats())
		}
	}
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	b.state = crdt.Join(b.state, other)
	wantState(t, s, b)

	// The round remembers the row that it wrote, and finds out that it is another one.
	e.At = e.At.Next(at)
	other, err = other.Apply(e.Add(other, "plums", 1))
	if err != nil {
		t.Fatal(err)
	}
	r, err := readRow(background, s.behind.read, b.id)
	if err != nil {
		t.Fatal(err)
	}
	put = write{id: b.id, before: r, state: crdt.Join(r.state, other)}
	if ok, err := s.behind.put(&put, crdt.AppendState(nil, put.state)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	b.state = crdt.Join(b.state, other)
	wantState(t, s, b)
}

// TestErasedRow: of an erased cart two bytes are kept, for good.
func TestErasedRow(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, b.change(t, func(crdt.Event) *crdt.Delta { return &crdt.Delta{State: crdt.State{Erased: true}} }))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	var length int
	var at, hour sql.NullInt64
	err := s.readers.QueryRow("SELECT length(state), expires_at, expires_hour FROM carts WHERE id = ?", b.id[:]).Scan(&length, &at, &hour)
	if err != nil || length != 2 || at.Valid || hour.Valid {
		t.Errorf("got %d bytes, %v, %v, %v", length, at, hour, err)
	}
}

// TestRoundAfterAStaleAuthor: a state that does not descend from the row that the last round wrote
// is joined with it.
func TestRoundAfterAStaleAuthor(t *testing.T) {
	s := open(t, t.TempDir())
	b := newBasket()
	stale := crdt.Event{Replica: 9, At: crdt.TimestampAt(at)}
	d := stale.Add(b.state, "pears", 1)
	other, err := b.state.Apply(d)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, cart.Change{ID: b.id, Delta: d, State: other})
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	b.state = crdt.Join(b.state, other)
	wantState(t, s, b)
}

// TestPurgeOfACartThatChanges: a cart that is changed after it was found to have expired stays.
func TestPurgeOfACartThatChanges(t *testing.T) {
	dir, after := t.TempDir(), t.TempDir()
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	before := at.AddDate(0, 0, 31).UnixMilli()
	ids, err := s.expired(background, before, []byte{})
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	c := b.remove(t, "apples")
	c.State = nil
	commit(t, s, c)
	if n, err := s.purge(ids, before); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	wantState(t, s, b)
	copyDatabase(t, after, dir)
	wantState(t, open(t, after), b)
}
