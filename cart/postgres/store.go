package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"cartd/cart"
	"cartd/crdt"
)

// Options tune a Store. The zero Options are the defaults.
type Options struct {
	// Logger gets what no caller is told: damaged carts, a database that is away and back. Default: none.
	Logger *slog.Logger
	// ConnectTimeout bounds how long a connection may take to be made. Default: 2 s.
	ConnectTimeout time.Duration
	// StatementTimeout bounds how long a statement may take. Default: 2 s.
	StatementTimeout time.Duration
	// Readers is the number of connections that Load may use at once. Default: 4.
	Readers int
}

func (o Options) withDefaults() Options {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, 2*time.Second)
	o.StatementTimeout = cmp.Or(o.StatementTimeout, 2*time.Second)
	o.Readers = cmp.Or(o.Readers, 4)
	return o
}

// Commits use one connection at a time; the others replace it while one that broke is torn down.
const writers = 3

// Store is a cart.Store in a PostgreSQL database, which it may share with other stores. Its methods
// may be called from any goroutine.
type Store struct {
	opts Options
	log  *slog.Logger

	closed  atomic.Bool
	writers *pgxpool.Pool // for commits alone, so that no load is in their way
	readers *pgxpool.Pool

	writeMu sync.Mutex // held around each commit; guards buf
	buf     []byte     // encoded states and deltas, used again by each statement

	mu       sync.Mutex // guards the rest; held for no I/O
	known    memory
	reported map[cart.ID]bool // damaged carts that were logged
	away     bool             // the last commit did not reach the database, or found no room there
}

var _ cart.Store = (*Store)(nil)

// Open opens the store in the database at a URL like postgres://user:password@host:5432/database,
// whose schema it brings up to date. Errors wrap ErrNewerSchema or ErrUnsafe where the database
// must not be used, and never tell the password.
//
// The caller closes the store.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	config, err := parseURL(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: open: %w", err)
	}
	s := &Store{opts: opts, log: opts.Logger, reported: make(map[cart.ID]bool)}
	if err := s.open(ctx, config); err != nil {
		return nil, fmt.Errorf("postgres: open: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, config *pgxpool.Config) (err error) {
	if s.writers, err = pool(config, s.opts, writers); err != nil {
		return err
	}
	if s.readers, err = pool(config, s.opts, s.opts.Readers); err != nil {
		return err
	}
	// The settings first: a server that is refused is not written to.
	checking, cancel := s.patience(ctx)
	defer cancel()
	if err := checkServer(checking, s.readers, s.log); err != nil {
		return err
	}
	_, err = migrate(ctx, config, s.opts)
	return err
}

// patience returns a context that ends when the answer of a statement, and the connection that it
// may need, are overdue.
func (s *Store) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.opts.ConnectTimeout+s.opts.StatementTimeout)
}

// Close waits for what is under way and closes all connections.
func (s *Store) Close() error {
	s.closed.Store(true)
	for _, p := range [...]*pgxpool.Pool{s.writers, s.readers} {
		if p != nil {
			p.Close()
		}
	}
	return nil
}

// Load returns the join of what was committed of a cart. A context that is done ends it.
func (s *Store) Load(ctx context.Context, id cart.ID) (*crdt.State, error) {
	waiting, cancel := s.patience(ctx)
	defer cancel()
	ids := [][]byte{id[:]}
	rows, err := readRows(waiting, s.readers, ids)
	if err != nil && broken(err) { // as all connections are to a server that was started again
		s.readers.Reset()
		rows, err = readRows(waiting, s.readers, ids)
	}
	if corrupt(err) {
		err = damaged(id, "its rows cannot be read: %w", err)
		s.report(id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: load: %w", s.why(ctx, err))
	}
	state, err := rows[id].load(id)
	switch {
	case errors.Is(err, cart.ErrNotFound):
		return nil, err
	case err != nil:
		s.report(id, err)
		return nil, fmt.Errorf("postgres: load: %w", err)
	}
	return state, nil
}

// why returns err, or what it is a consequence of: the store was closed, or ctx is done.
func (s *Store) why(ctx context.Context, err error) error {
	switch done := ctx.Err(); {
	case s.closed.Load():
		return ErrClosed
	case done != nil && !errors.Is(err, done):
		return fmt.Errorf("%w: %w", done, err)
	}
	return err
}

// report logs a damaged cart, once, and makes the next commit look at what is there.
func (s *Store) report(id cart.ID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known.forget(id)
	if !s.reported[id] {
		s.reported[id] = true
		s.log.Error("a stored cart is damaged", "cart", id.String(), "error", err)
	}
}
