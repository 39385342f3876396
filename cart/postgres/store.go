package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
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
	// Lazy makes Open return a store also where the database cannot be reached. It is as one whose
	// database went away, and is set up when that comes back. Default: Open fails.
	Lazy bool
	// ReadOnly makes Open change nothing: it fails where the schema is not up to date. Commit and Purge
	// fail then, too.
	ReadOnly bool
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
	opts   Options
	log    *slog.Logger
	config *pgxpool.Config

	closed  atomic.Bool
	writers *pgxpool.Pool // for commits alone, so that no load is in their way
	readers *pgxpool.Pool

	breaker     *breaker
	heard       atomic.Int64 // when the database last answered, in nanoseconds of Unix time
	incarnation atomic.Int64 // of the database that connections were made to last; 0 if it does not tell
	isSetUp     bool         // used by Open and then by probe alone
	stop        context.CancelFunc
	running     sync.WaitGroup // the goroutines that probe and look again
	failed      chan struct{}

	writeMu sync.Mutex // held around each commit; guards buf
	buf     []byte     // encoded states and deltas, used again by each statement

	mu       sync.Mutex // guards the rest; held for no I/O
	known    memory
	reported map[cart.ID]bool // damaged carts that were logged
	lacking  map[cart.ID]bool // carts that were logged because changes of them were left out
	away     bool             // the last commit found no room in a database that can be reached
	stats    Stats
	failure  error
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
	s := &Store{
		opts:     opts,
		log:      opts.Logger,
		config:   config,
		failed:   make(chan struct{}),
		reported: make(map[cart.ID]bool),
		lacking:  make(map[cart.ID]bool),
	}
	s.breaker = newBreaker(s.log, s.probe)
	var running context.Context
	running, s.stop = context.WithCancel(context.Background())
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("postgres: open: %w", errors.Join(err, s.Close()))
	}
	s.running.Go(func() {
		if err := s.breaker.run(running); err != nil {
			s.fail(err)
		}
	})
	s.running.Go(func() { s.lookAgain(running) })
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if s.writers, err = pool(s.config, s.opts, writers, s.opts.checkConnection); err != nil {
		return err
	}
	if s.readers, err = pool(s.config, s.opts, s.opts.Readers, s.identify); err != nil {
		return err
	}
	err = s.setUp(ctx)
	if s.opts.Lazy && ctx.Err() == nil && mayBeSetUpLater(err) {
		s.breaker.open(0, err)
		return nil
	}
	return err
}

// setUp makes sure that the database may be used, once.
func (s *Store) setUp(ctx context.Context) error {
	if s.isSetUp {
		return nil
	}
	// The settings first: a server that is refused is not written to.
	checking, cancel := s.patience(ctx)
	defer cancel()
	if err := checkServer(checking, s.readers, s.log); err != nil {
		return err
	}
	if _, err := migrate(ctx, s.config, s.opts); err != nil {
		return err
	}
	s.isSetUp = true
	return nil
}

// probe returns nil where the database can be reached and may be used.
func (s *Store) probe(ctx context.Context) error {
	if err := s.setUp(ctx); err != nil {
		if ctx.Err() == nil && !mayBeSetUpLater(err) {
			return hopeless{err}
		}
		return err
	}
	// Who is refused now was not before: the database is being replaced, and nodes hold what it lacks.
	err := s.restoreTables(ctx)
	if errors.Is(err, errNoTables) || errors.Is(err, ErrNewerSchema) {
		return hopeless{err}
	}
	return err
}

var errNoTables = errors.New("its schema is up to date, and its tables are missing")

// restoreTables makes the tables of a database that was set up and has none any more: an empty one took its place. What
// the nodes hold they write there.
func (s *Store) restoreTables(ctx context.Context) error {
	waiting, cancel := s.patience(ctx)
	defer cancel()
	missing, err := s.lacksTables(waiting)
	if err != nil || !missing || s.opts.ReadOnly {
		return err
	}
	s.log.Error("the database is empty; its tables are made anew")
	if _, err := migrate(ctx, s.config, s.opts); err != nil {
		return err
	}
	missing, err = s.lacksTables(waiting)
	if missing {
		err = errNoTables
	}
	return err
}

func (s *Store) lacksTables(ctx context.Context) (missing bool, err error) {
	err = s.readers.QueryRow(ctx, "SELECT to_regclass('carts') IS NULL").Scan(&missing)
	return missing, err
}

// fail ends the store: it is one that Open would have refused.
func (s *Store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = fmt.Errorf("postgres: the database must not be used: %w", err)
	close(s.failed)
	s.log.Error("the database must not be used; the process should exit", "error", err)
}

// Failed returns a channel that is closed when a store that was opened without its database found
// that Open would have refused that. Nothing is committed then, and Err tells why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns why Failed is closed, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// reach runs an operation, unless the database is known to be out of reach, and takes note of what
// it learned of that. Errors wrap cart.ErrNoRoom where the same may be tried again.
func (s *Store) reach(ctx context.Context, operation func() error) error {
	switch err := ctx.Err(); {
	case s.closed.Load():
		return ErrClosed
	case err != nil:
		return err
	}
	if err := s.Err(); err != nil {
		return err
	}
	turn, err := s.breaker.enter()
	if err != nil {
		return err
	}
	begin := time.Now()
	err = operation()
	switch {
	case gone(err), lacksTable(err):
		s.lost(turn, err)
	case !silent(err):
		s.answered()
	// A timeout says nothing where the caller had no time, or others got their answers meanwhile.
	case time.Since(begin) >= s.silence() && time.Since(time.Unix(0, s.heard.Load())) >= s.silence():
		s.lost(turn, err)
	}
	return refused(s.why(ctx, err))
}

// silence is how long nothing may be heard of a database that was asked something.
func (s *Store) silence() time.Duration {
	return min(time.Second, (s.opts.ConnectTimeout+s.opts.StatementTimeout)/2)
}

func (s *Store) answered() { s.heard.Store(time.Now().UnixNano()) }

// lost opens the breaker. The connections that there are will not get better.
func (s *Store) lost(turn uint64, err error) {
	if !s.closed.Load() && s.breaker.open(turn, err) {
		s.writers.Reset()
		s.readers.Reset()
	}
}

// patience returns a context that ends when the answer of a statement, and the connection that it
// may need, are overdue.
func (s *Store) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.opts.ConnectTimeout+s.opts.StatementTimeout)
}

// Close waits for what is under way and closes all connections.
func (s *Store) Close() error {
	s.closed.Store(true)
	s.stop()
	s.running.Wait()
	for _, p := range [...]*pgxpool.Pool{s.writers, s.readers} {
		if p != nil {
			p.Close()
		}
	}
	return nil
}

// read runs a query that only reads, once more where its connection was broken.
func (s *Store) read(ctx context.Context, query func(context.Context, querier) error) error {
	return s.reach(ctx, func() error {
		waiting, cancel := s.patience(ctx)
		defer cancel()
		err := query(waiting, s.readers)
		if err != nil && broken(err) { // as all connections are to a server that was started again
			s.readers.Reset()
			err = query(waiting, s.readers)
		}
		return err
	})
}

// Load returns the join of what was committed of a cart. A context that is done ends it. Errors wrap
// cart.ErrNoRoom where the database cannot be asked at present.
func (s *Store) Load(ctx context.Context, id cart.ID) (*crdt.State, error) {
	ids := [][]byte{id[:]}
	var rows map[cart.ID]row
	err := s.read(ctx, func(ctx context.Context, c querier) (err error) {
		rows, err = readRows(ctx, c, ids)
		return err
	})
	if corrupt(err) {
		err = damaged(id, "its rows cannot be read: %w", err)
		s.report(id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: load: %w", err)
	}
	state, left, err := rows[id].load(id)
	switch {
	case errors.Is(err, cart.ErrNotFound):
		s.unreport(id)
		return nil, err
	case err != nil:
		s.report(id, err)
		return nil, fmt.Errorf("postgres: load: %w", err)
	}
	s.unreport(id)
	s.noteLeft(id, left)
	return state, nil
}

// noteLeft logs that a load left changes of a cart out, once for as long as it does.
func (s *Store) noteLeft(id cart.ID, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case n == 0:
		delete(s.lacking, id)
	case !s.lacking[id]:
		s.lacking[id] = true
		s.log.Warn("a stored cart lacks what some of its changes build on", "cart", id.String(), "left_out", n)
	}
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

// unreport takes note that a cart can be read.
func (s *Store) unreport(id cart.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reported[id] {
		delete(s.reported, id)
		s.log.Info("a stored cart is not damaged any more", "cart", id.String())
	}
}

// Damaged carts are looked at again every recheckEvery, some at a time: another node may have replaced
// them, or a person.
const (
	recheckEvery = 30 * time.Second
	recheckMost  = 100
)

func (s *Store) lookAgain(ctx context.Context) {
	ticker := time.NewTicker(recheckEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.recheck(ctx)
		}
	}
}

// recheck loads damaged carts, which corrects what is known of them.
func (s *Store) recheck(ctx context.Context) {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.reported)) // in random order
	s.mu.Unlock()
	for _, id := range ids[:min(len(ids), recheckMost)] {
		_, _ = s.Load(ctx, id)
	}
}
