package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"

	"cartd/cart"
	"cartd/cart/internal/stored"
)

// Saved tells what a backup holds.
type Saved struct {
	Carts   int64     // erased ones included
	Bytes   int64     // of the file
	Damaged []cart.ID // carts that fail their checksum, as they do in the store
}

// Backup writes a copy of the store in dir, as it is at one point in time, to a file that must not be there
// yet. The store may be in use by another process, which goes on meanwhile, or be closed. The copy is one
// SQLite file, which its owner alone may read, and has what was committed, snapshots and journal. It
// is checked, and synced, before it gets its name; when Backup fails or ctx is done, there is no such file.
//
// Errors wrap [fs.ErrNotExist] where there is no store in dir, or no directory for the file, [fs.ErrExist] where
// the file exists, and [cart.ErrDamaged] where the store is damaged beyond single carts.
func Backup(ctx context.Context, dir, file string) (Saved, error) {
	saved, err := backup(ctx, dir, file)
	if err != nil {
		return Saved{}, fmt.Errorf("sqlite: backup of %s: %w", dir, err)
	}
	return saved, nil
}

func backup(ctx context.Context, dir, file string) (saved Saved, err error) {
	if _, err := os.Stat(filepath.Join(dir, databaseName)); err != nil {
		return saved, fmt.Errorf("there is no store: %w", err)
	}
	if _, err := os.Lstat(file); err == nil {
		return saved, exists(file)
	}
	// SQLite takes an empty file for the database that it is to make.
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*.part") // for its owner alone
	if err != nil {
		return saved, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if err := vacuumInto(ctx, dir, f.Name()); err != nil {
		return saved, err
	}
	if saved, err = check(ctx, f.Name()); err != nil {
		return saved, fmt.Errorf("the copy is not good: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return saved, err
	}
	saved.Bytes = info.Size()
	if err := f.Sync(); err != nil {
		return saved, err
	}
	// A link, unlike a new name, replaces nothing that was made meanwhile.
	if err := os.Link(f.Name(), file); errors.Is(err, fs.ErrExist) {
		return saved, exists(file)
	} else if err != nil {
		return saved, err
	}
	return saved, syncDirectory(filepath.Dir(file))
}

func exists(file string) error {
	return fmt.Errorf("%s: %w, and is not replaced", file, fs.ErrExist)
}

// vacuumInto writes a copy of a store's database. It reads in one transaction, which does not block commits.
func vacuumInto(ctx context.Context, dir, file string) (err error) {
	db, err := connect(dir, "", true, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO ?", file)
	if corrupt(err) {
		err = fmt.Errorf("%w: %w", cart.ErrDamaged, err)
	}
	return err
}

// check reads all of a copy, in which a damaged cart is no error.
func check(ctx context.Context, file string) (saved Saved, err error) {
	err = reading(file, func(db *sql.DB) error {
		if err := checkFile(ctx, db, "integrity_check"); err != nil {
			return err
		}
		if err := checkCarts(ctx, db, &saved); err != nil {
			return err
		}
		return checkJournal(ctx, db, &saved)
	})
	return saved, err
}

// reading calls f with a database in a file that nobody changes.
func reading(file string, f func(*sql.DB) error) (err error) {
	name, err := fileURI(file, url.Values{"mode": {"ro"}, "immutable": {"1"}})
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return f(db)
}

// checkFile refuses what is no store, or damaged beyond single carts.
func checkFile(ctx context.Context, db *sql.DB, pragma string) error {
	var tables int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = ?", goose.DefaultTablename).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return errors.New("it is a database of something else, or empty")
	}
	if _, _, _, err := schemaOf(ctx, db); err != nil {
		return err
	}
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA "+pragma+"(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("%w: %s", cart.ErrDamaged, verdict)
	}
	return nil
}

// checkCarts counts the snapshots of a copy.
func checkCarts(ctx context.Context, db *sql.DB, saved *Saved) error {
	rows, err := db.QueryContext(ctx, "SELECT id, state, checksum FROM carts")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, state sql.RawBytes
		var checksum int64
		if err := rows.Scan(&id, &state, &checksum); err != nil {
			return err
		}
		var named cart.ID
		copy(named[:], id)
		saved.Carts++
		if stored.Checksum(named, state) != uint64(checksum) {
			saved.Damaged = append(saved.Damaged, named)
		}
	}
	return rows.Err()
}

// checkJournal replays the journal of a copy, and counts the carts that have no snapshot yet.
func checkJournal(ctx context.Context, db *sql.DB, saved *Saved) error {
	s := &Store{pending: make(map[cart.ID]entry)}
	if err := s.replay(ctx, db); err != nil {
		return err
	}
	for id := range s.pending {
		var rows int64
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM carts WHERE id = ?", id[:]).Scan(&rows); err != nil {
			return err
		}
		saved.Carts += 1 - rows
	}
	return nil
}

// OpenBackup opens a copy of a backup as a store, in a temporary directory that goes when the store is closed:
// a store brings its schema up to date, and writes snapshots. The file itself is not changed.
//
// Errors wrap those of Open, and [cart.ErrDamaged] where the file is damaged beyond single carts.
func OpenBackup(ctx context.Context, file string) (*Store, error) {
	s := newStore(Options{}.withDefaults())
	if err := s.openBackup(ctx, file); err != nil {
		return nil, fmt.Errorf("sqlite: open the backup %s: %w", file, errors.Join(err, s.release()))
	}
	go s.background()
	return s, nil
}

func (s *Store) openBackup(ctx context.Context, file string) (err error) {
	if log, err := os.Stat(file + "-wal"); err == nil && log.Size() > 0 {
		return errors.New("its log is beside it, so it is the store of a node; a backup of that directory can be opened")
	}
	if s.scratch, err = os.MkdirTemp("", "cartd-backup-*"); err != nil {
		return err
	}
	copied := filepath.Join(s.scratch, databaseName)
	if err := copyFile(copied, file); err != nil {
		return err
	}
	err = reading(copied, func(db *sql.DB) error { return checkFile(ctx, db, "quick_check") })
	if err != nil {
		return err
	}
	return s.open(ctx, s.scratch)
}

func copyFile(to, from string) (err error) {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
