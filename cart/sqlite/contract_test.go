package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartd/cart"
	"cartd/cart/sqlite"
	"cartd/cart/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database { return newDatabase(t, sqlite.Options{}) })
}

// TestContractBusy runs the suite with snapshots and checkpoints between all commits.
func TestContractBusy(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Database {
		return newDatabase(t, sqlite.Options{SnapshotEvery: time.Millisecond, JournalBytes: 1, LogBytes: 1})
	})
}

type database struct {
	root, dir string
	opts      sqlite.Options
	store     *sqlite.Store // the last that was opened
}

func newDatabase(t *testing.T, opts sqlite.Options) *database {
	root := t.TempDir()
	return &database{root: root, dir: filepath.Join(root, "0"), opts: opts}
}

func (d *database) Open(tb storetest.TB) cart.Store {
	tb.Helper()
	s, err := sqlite.Open(context.Background(), d.dir, d.opts)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	d.store = s
	return s
}

// Crash copies the files as they are between two writes.
func (d *database) Crash(tb storetest.TB) {
	tb.Helper()
	next, err := os.MkdirTemp(d.root, "")
	if err != nil {
		tb.Fatalf("crash: %v", err)
	}
	defer d.store.Freeze()()
	copyFiles(tb, next, d.dir)
	d.dir = next
}

func copyFiles(tb storetest.TB, to, from string) {
	tb.Helper()
	for _, name := range []string{"cartd.db", "cartd.db-wal"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			tb.Fatalf("copy: %v", err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			tb.Fatalf("copy: %v", err)
		}
	}
}

func (d *database) Fill(_ storetest.TB, s cart.Store) (release func()) {
	return s.(*sqlite.Store).Fill()
}

func (d *database) Shared() bool { return false }
