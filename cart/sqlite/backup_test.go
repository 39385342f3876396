package sqlite

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"cartd/cart"
	"cartd/crdt"
)

// backedUp backs up the store in dir and opens the copy.
func backedUp(t *testing.T, dir string) (Saved, *Store) {
	t.Helper()
	copied := t.TempDir()
	saved, err := Backup(background, dir, filepath.Join(copied, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	return saved, open(t, copied)
}

// A backup has what was committed, with a snapshot or without, be the store open or closed, and nothing that
// was committed later.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	snapshot, journal := newBasket(), newBasket()
	commit(t, s, snapshot.add(t, "apples"))
	if err := s.round(); err != nil {
		t.Fatal(err)
	}
	commit(t, s, snapshot.add(t, "pears"), journal.add(t, "plums"))
	for range 2 {
		file := filepath.Join(t.TempDir(), "backup")
		saved, err := Backup(background, dir, file)
		info, e := os.Stat(file)
		if err != nil || e != nil {
			t.Fatal(err, e)
		}
		if saved.Carts != 2 || saved.Bytes != info.Size() || len(saved.Damaged) > 0 {
			t.Errorf("%+v, the file has %d bytes", saved, info.Size())
		}
		if info.Mode() != 0o600 {
			t.Errorf("the mode of the backup is %v", info.Mode())
		}
		wantFiles(t, filepath.Dir(file), "backup")
		_, copied := backedUp(t, dir)
		wantState(t, copied, snapshot)
		wantState(t, copied, journal)
		closeStore(t, s)
	}
}

// wantFiles checks what there is in a directory.
func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("there are %v, not %v", names, want)
	}
}

// Backups while carts are written, with rounds of snapshots and checkpoints, each have all that was committed
// when they began, and a history of each cart without a gap.
func TestBackupUnderWrites(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, dir, Options{SnapshotEvery: 20 * time.Millisecond, JournalBytes: 4 << 10, LogBytes: 64 << 10})
	baskets := []*basket{newBasket(), newBasket(), newBasket()}
	before := make([]*crdt.State, len(baskets))
	for n := range 5 {
		for i, b := range baskets {
			commit(t, s, b.add(t, "apples"))
			before[i] = b.state
		}
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := s.Commit(background, []cart.Change{baskets[i%len(baskets)].add(t, "pears")}); err != nil {
					done <- err
					return
				}
			}
		}()
		_, copied := backedUp(t, dir)
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for i, b := range baskets {
			got, err := copied.Load(background, b.id)
			if err != nil || !got.VV.Descends(before[i].VV) || !b.state.VV.Descends(got.VV) {
				t.Errorf("backup %d has %v of what was %v when it began, %v", n, got, before[i].VV, err)
			}
		}
	}
	closeStore(t, s)
}

// What a backup cannot be made of, or written to, is refused, and leaves nothing behind.
func TestBackupsThatFail(t *testing.T) {
	dir, to := t.TempDir(), t.TempDir()
	s := open(t, dir)
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	closeStore(t, s)
	taken := filepath.Join(to, "taken")
	if err := os.WriteFile(taken, []byte("of somebody"), 0o644); err != nil {
		t.Fatal(err)
	}
	done, cancel := context.WithCancel(background)
	cancel()
	for name, test := range map[string]struct {
		ctx       context.Context
		dir, file string
		want      error
	}{
		"no store":     {background, to, filepath.Join(to, "new"), fs.ErrNotExist},
		"no directory": {background, dir, filepath.Join(to, "none", "new"), fs.ErrNotExist},
		"a file":       {background, dir, taken, fs.ErrExist},
		"cancelled":    {done, dir, filepath.Join(to, "new"), context.Canceled},
	} {
		if _, err := Backup(test.ctx, test.dir, test.file); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	damageSnapshot(t, dir, b.id)
	saved, copied := backedUp(t, dir)
	if !slices.Equal(saved.Damaged, []cart.ID{b.id}) {
		t.Errorf("%+v", saved)
	}
	wantDamaged(t, copied, b)
	execute(t, dir, "INSERT INTO journal (seq, batch, checksum) VALUES (99, x'00', 0)")
	if _, err := Backup(background, dir, filepath.Join(to, "new")); !errors.Is(err, cart.ErrDamaged) {
		t.Errorf("with a damaged journal: %v", err)
	}
	wantFiles(t, to, "taken")
	if got, err := os.ReadFile(taken); !bytes.Equal(got, []byte("of somebody")) {
		t.Errorf("the file that was there is %q, %v", got, err)
	}
}

// A store can be closed while a backup reads it, and a backup that takes long holds up no commit.
func TestReadersInTheWay(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, dir, Options{SnapshotEvery: 24 * time.Hour, LogBytes: pageSize})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	reader, err := connect(dir, "", true, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	tx, err := reader.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM journal").Scan(&n); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for range 20 {
		commit(t, s, b.add(t, "pears"))
		if err := s.boundLog(); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	wantState(t, open(t, dir), b)
}
