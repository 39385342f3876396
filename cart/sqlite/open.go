package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the driver

	"cartd/migrations"
)

const (
	databaseName = "cartd.db"
	lockName     = "cartd.lock"

	// busyTimeout is how long SQLite waits for a lock of another process. Connections of this package do
	// not wait for each other.
	busyTimeout = time.Second
	// readersTimeout is how long commits wait until the log can begin anew, for readers of this process: one
	// that takes longer is a backup.
	readersTimeout = 50 * time.Millisecond

	writerCache = 16 << 10 // KiB of pages that a writing connection keeps
	readerCache = 4 << 10  // KiB of pages that a reading connection keeps
)

// createDirectory makes dir and an empty database in it, which SQLite gives its permissions to the
// files that it adds.
func createDirectory(dir string) error {
	var grown []string // directories that get an entry
	for d := filepath.Clean(dir); filepath.Dir(d) != d; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		grown = append(grown, filepath.Dir(d))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range grown {
		if err := syncDirectory(d); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, databaseName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// dataSource is the name of the database for the driver.
func dataSource(dir, synchronous string, readOnly bool) (string, error) {
	q := url.Values{"_txlock": {"immediate"}}
	pragma := func(name, value string) { q.Add("_pragma", name+"("+value+")") }
	pragma("busy_timeout", strconv.FormatInt(busyTimeout.Milliseconds(), 10))
	if readOnly {
		q.Set("mode", "ro")
		pragma("cache_size", strconv.Itoa(-readerCache))
	} else {
		pragma("journal_mode", "wal")
		pragma("synchronous", synchronous)
		pragma("fullfsync", "1") // on Apple's systems, where fsync alone stops at the drive's cache
		pragma("checkpoint_fullfsync", "1")
		pragma("wal_autocheckpoint", "0")
		pragma("cache_size", strconv.Itoa(-writerCache))
	}
	return fileURI(filepath.Join(dir, databaseName), q)
}

// fileURI is the name of a file for SQLite, with parameters.
func fileURI(path string, q url.Values) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if path = filepath.ToSlash(path); path[0] != '/' {
		path = "/" + path // a drive letter
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String(), nil
}

func connect(dir, synchronous string, readOnly bool, conns int) (*sql.DB, error) {
	name, err := dataSource(dir, synchronous, readOnly)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// migrate brings the schema up to date.
func migrate(ctx context.Context, db *sql.DB) error {
	p, current, known, err := schemaOf(ctx, db)
	if err == nil && current < known {
		_, err = p.Up(ctx)
	}
	return err
}

// schemaOf returns the version of a database's schema, and the one that this program knows, which is not less.
func schemaOf(ctx context.Context, db *sql.DB) (p *goose.Provider, current, known int64, err error) {
	schema, err := fs.Sub(migrations.SQLite, "sqlite")
	if err != nil {
		return nil, 0, 0, err
	}
	p, err = goose.NewProvider(goose.DialectSQLite3, db, schema, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, 0, 0, err
	}
	current, known, err = p.GetVersions(ctx)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("read the version of the schema: %w", err)
	}
	if current > known {
		err = fmt.Errorf("%w: its schema has version %d, and this program knows %d", ErrNewerSchema, current, known)
	}
	return p, current, known, err
}
