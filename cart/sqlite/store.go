package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/crdt"
)

// Options tune a Store. The zero Options are the defaults.
type Options struct {
	// Logger gets what no caller is told: failures behind the commits, damaged carts. Default: none.
	Logger *slog.Logger
	// SnapshotEvery is the time between two rounds of snapshots. Default: 10 s.
	SnapshotEvery time.Duration
	// JournalBytes begins a round of snapshots at once when the batches in the journal pass it; it
	// bounds how long Open takes. Default: 16 MiB.
	JournalBytes int64
	// LogBytes begins a checkpoint when so much of the write-ahead log waits for one. Default: 64 MiB.
	LogBytes int64
	// Readers is the number of connections that Load may use at once. Default: 4.
	Readers int
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.SnapshotEvery = cmp.Or(o.SnapshotEvery, 10*time.Second)
	o.JournalBytes = cmp.Or(o.JournalBytes, 16<<20)
	o.LogBytes = cmp.Or(o.LogBytes, 64<<20)
	o.Readers = cmp.Or(o.Readers, 4)
	return o
}

// maxKeptBatch bounds the buffer that stays allocated between commits, in bytes.
const maxKeptBatch = 1 << 20

// Store is a cart.Store in a SQLite file. Its methods may be called from any goroutine.
type Store struct {
	opts    Options
	log     *slog.Logger
	lock    *os.File
	scratch string // a directory that goes when the store is closed, or ""

	writeMu sync.Mutex // held around each write transaction; guards the next four
	writer  *sql.DB    // one connection, synchronous=FULL
	insert  *sql.Stmt  // on writer
	batch   []byte     // used again by each commit
	closed  bool

	roundMu sync.Mutex        // held around each round of snapshots, checkpoint and purge, before writeMu
	behind  *behind           // the connection that they write on, synchronous=NORMAL
	left    []cart.ID         // carts of which the last round could not write all
	carried int64             // the row of the journal that holds nothing but what was left of them, or 0
	known   map[cart.ID]known // rows that the last round wrote
	written map[cart.ID]known // rows that this round has written
	states  []byte            // used again for each transaction's snapshots

	readers *sql.DB
	load    *sql.Stmt // on readers

	mu       sync.Mutex // guards the rest; held for no I/O, the last to be locked
	pending  map[cart.ID]entry
	journal  journal
	stats    Stats
	reported map[cart.ID]bool // damaged carts that were logged
	lacking  map[cart.ID]bool // carts that were logged because changes of them were left out
	failure  error
	failed   chan struct{}

	wake chan struct{} // tells the background that the journal passed its bound
	stop chan struct{}
	done chan struct{}
}

var _ cart.Store = (*Store)(nil)

// Open opens the store in dir, which it creates where it does not exist, with permissions for its
// owner alone. Errors wrap ErrInUse where another process, or another Store, has it open,
// ErrNewerSchema, or cart.ErrDamaged where the journal is damaged.
//
// The caller closes the store. What Open costs depends on the journal, not on the number of carts.
func Open(ctx context.Context, dir string, opts Options) (*Store, error) {
	s := newStore(opts.withDefaults())
	if err := s.open(ctx, dir); err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", dir, errors.Join(err, s.release()))
	}
	go s.background()
	return s, nil
}

func newStore(opts Options) *Store {
	return &Store{
		opts:     opts,
		log:      opts.Logger,
		pending:  make(map[cart.ID]entry),
		reported: make(map[cart.ID]bool),
		lacking:  make(map[cart.ID]bool),
		failed:   make(chan struct{}),
		wake:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
	}
}

func (s *Store) open(ctx context.Context, dir string) (err error) {
	if err := createDirectory(dir); err != nil {
		return err
	}
	if s.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		return err
	}
	if s.behind, err = openBehind(ctx, dir); err != nil {
		return err
	}
	if s.writer, err = connect(dir, "full", false, 1); err != nil {
		return err
	}
	s.insert, err = s.writer.PrepareContext(ctx, "INSERT INTO journal (seq, batch, checksum) VALUES (?, ?, ?)")
	if err != nil {
		return err
	}
	if s.readers, err = connect(dir, "", true, s.opts.Readers); err != nil {
		return err
	}
	if s.load, err = s.readers.PrepareContext(ctx, selectRow); err != nil {
		return err
	}
	return s.replay(ctx, s.readers)
}

// Close writes the snapshots of what is pending, checkpoints the log and releases the directory.
// An error does not mean that anything committed was lost: the journal has it.
func (s *Store) Close() error {
	s.writeMu.Lock()
	closed := s.closed
	s.closed = true
	s.writeMu.Unlock()
	if closed {
		return nil
	}
	close(s.stop)
	<-s.done
	err := s.Err()
	if err == nil {
		err = s.round()
	}
	if err == nil {
		err = s.emptyLog()
	}
	return errors.Join(err, s.release())
}

// release closes what was opened, in an order that keeps SQLite from checkpointing the log of a
// store that failed: the last connection to be closed would do so, unless it is a read-only one,
// and it would read frames back that may never have reached the disk.
func (s *Store) release() error {
	var errs []error
	closeReaders := func() {
		if s.load != nil {
			errs = append(errs, s.load.Close())
		}
		if s.readers != nil {
			errs = append(errs, s.readers.Close())
		}
	}
	failed := s.Err() != nil
	if !failed {
		closeReaders()
	}
	if s.insert != nil {
		errs = append(errs, s.insert.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	if s.behind != nil {
		errs = append(errs, s.behind.close())
	}
	if failed {
		closeReaders()
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	if s.scratch != "" {
		errs = append(errs, os.RemoveAll(s.scratch))
	}
	return errors.Join(errs...)
}

// Commit appends the deltas of all changes to the journal, as one row, and whole states where there
// is no delta. A state is nil where its author does not hold the whole cart; a delta needs what was
// committed before it, or earlier in the same call, and nothing else.
//
// A context that is done before the commit begins is the only other error, besides those that wrap
// cart.ErrNoRoom, after which nothing was written and the store goes on; once begun, a commit is
// not interrupted. A batch takes at most 1 GB.
func (s *Store) Commit(ctx context.Context, changes []cart.Change) error {
	if err := ctx.Err(); err != nil || len(changes) == 0 {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	if s.closed {
		return ErrClosed
	}
	begin := time.Now()
	s.batch = appendBatch(s.batch[:0], len(changes))
	for i := range changes {
		d := changes[i].Delta
		if d == nil {
			d = &crdt.Delta{State: *changes[i].State}
		}
		s.batch = appendChange(s.batch, changes[i].ID, d)
	}
	size := len(s.batch)
	seq := s.journal.last + 1 // changes only under writeMu
	_, err := s.insert.ExecContext(context.WithoutCancel(ctx), seq, s.batch, int64(xxhash.Sum64(s.batch)))
	if cap(s.batch) > maxKeptBatch {
		s.batch = nil
	}
	if err != nil {
		return s.commitFailed(seq, err)
	}
	s.committed(seq, size, changes, time.Since(begin))
	return nil
}

func (s *Store) committed(seq int64, size int, changes []cart.Change, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal.add(seq, size)
	for i := range changes {
		id := changes[i].ID
		s.pending[id] = s.pending[id].with(changes[i])
	}
	s.stats.Commits++
	s.stats.Changes += int64(len(changes))
	s.stats.LastBatch, s.stats.LastCommit = len(changes), took
	if s.journal.bytes >= s.opts.JournalBytes {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// commitFailed tells a commit that was rolled back for want of room from one whose outcome is
// unknown. It takes SQLite's word for the first only after it looked.
func (s *Store) commitFailed(seq int64, err error) error {
	noRoom := refused(err)
	if noRoom == nil {
		return s.fail("a commit", err)
	}
	var rows int
	if err := s.writer.QueryRow("SELECT count(*) FROM journal WHERE seq >= ?", seq).Scan(&rows); err != nil {
		return s.fail("the rollback of a commit", err)
	}
	if rows != 0 {
		return s.fail("the rollback of a commit", fmt.Errorf("row %d is there: %w", seq, err))
	}
	return fmt.Errorf("sqlite: commit: %w", noRoom)
}

// Load returns the join of what was committed of a cart, but for changes that need what was not. A
// context that is done ends it.
func (s *Store) Load(ctx context.Context, id cart.ID) (*crdt.State, error) {
	s.mu.Lock()
	e, isPending := s.pending[id] // before the row: a snapshot may move from here to there
	s.mu.Unlock()
	r, err := readRow(ctx, s.load, id)
	switch {
	case errors.Is(err, cart.ErrDamaged) && e.state != nil: // which will replace the row
		err = nil
	case errors.Is(err, cart.ErrDamaged):
		s.report(id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: load: %w", err)
	}
	if !isPending {
		if r.state == nil {
			return nil, cart.ErrNotFound
		}
		return r.state, nil
	}
	state, left := e.on(r.state)
	switch {
	case state == nil && !s.isPending(id): // any more: it was purged, or what was missing came
		return s.Load(ctx, id)
	case state == nil:
		err = beginsNowhere(id, left)
		s.report(id, err)
		return nil, fmt.Errorf("sqlite: load: %w", err)
	case len(left) > 0: // what they build on may come, or may have died unacknowledged with its author
		s.reportLeft(id, left)
	}
	return state, nil
}

// report logs a damaged cart, once.
func (s *Store) report(id cart.ID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.reported[id] {
		s.reported[id] = true
		s.log.Error("a stored cart is damaged", "cart", id.String(), "error", err)
	}
}

// reportLeft logs that changes of a cart are left out, once for as long as they are.
func (s *Store) reportLeft(id cart.ID, left []*crdt.Delta) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lacking[id] {
		s.lacking[id] = true
		s.log.Warn("a stored cart lacks what some of its changes build on", "cart", id.String(), "left_out", len(left))
	}
}

// Stats is what a store has done and what it has to do, for metrics.
type Stats struct {
	Commits    int64         // since Open
	Changes    int64         // in all commits
	Snapshots  int64         // rows written
	LastBatch  int           // changes in the last commit
	LastCommit time.Duration // duration of the last commit, its sync included
	LastRound  time.Duration // duration of the last round of snapshots

	JournalRows  int   // rows of the journal
	JournalBytes int64 // bytes of the batches in it
	Pending      int   // carts whose snapshot is behind
	Damaged      int   // carts that were found damaged and were not replaced since
}

// Stats returns the present numbers.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	z := s.stats
	z.JournalRows, z.JournalBytes = len(s.journal.rows), s.journal.bytes
	z.Pending, z.Damaged = len(s.pending), len(s.reported)
	return z
}
