package sqlite

import (
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"cartd/cart"
	"cartd/crdt"
)

var (
	// ErrInUse says that another process has the directory open.
	ErrInUse = errors.New("sqlite: the directory is in use")
	// ErrNewerSchema says that the database was written by a newer version of this program.
	ErrNewerSchema = errors.New("sqlite: the database is newer than this program")
	// ErrClosed is returned by the methods of a store that was closed.
	ErrClosed = errors.New("sqlite: the store is closed")
)

// errorCode returns the extended SQLite result code of err, or 0 where it has none.
func errorCode(err error) int {
	var coded interface{ Code() int }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}

// refused returns err as one that wraps cart.ErrNoRoom where it is certain that SQLite wrote
// nothing and may be asked again, and nil for any other error: the disk is full, the file that the
// connections share (its size is the only thing of it that can fail so) could not grow, or another
// process held the write lock for longer than busyTimeout.
func refused(err error) error {
	switch code := errorCode(err); {
	case code&0xff == sqlite3.SQLITE_FULL, code == sqlite3.SQLITE_IOERR_SHMSIZE:
		return fmt.Errorf("%w: %w", cart.ErrNoRoom, err)
	case code&0xff == sqlite3.SQLITE_BUSY:
		return fmt.Errorf("%w while another process holds the write lock: %w", cart.ErrNoRoom, err)
	}
	return nil
}

// corrupt reports whether SQLite found its own file structure damaged.
func corrupt(err error) bool {
	code := errorCode(err) & 0xff
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

// damaged is the error of a cart that cannot be read.
func damaged(id cart.ID, format string, args ...any) error {
	return fmt.Errorf("%w: %v: %w", cart.ErrDamaged, id, fmt.Errorf(format, args...))
}

// beginsNowhere is the error of a cart of which nothing can be joined.
func beginsNowhere(id cart.ID, left []*crdt.Delta) error {
	return damaged(id, "%d changes in the journal build on others that are missing", len(left))
}

// fail ends the store with the first failure to write and returns it, this time and ever after.
func (s *Store) fail(doing string, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = fmt.Errorf("sqlite: %s failed, and nothing will be written any more: %w", doing, err)
		close(s.failed)
		s.log.Error("the store failed; the process should exit", "doing", doing, "error", err)
	}
	return s.failure
}

// Err returns why the store refuses every commit, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// Failed returns a channel that is closed when the store failed to write, for whatever reason but
// want of room. Nothing is committed from then on, and Err tells why.
func (s *Store) Failed() <-chan struct{} { return s.failed }
