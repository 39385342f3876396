package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"cartd/migrations"
)

// How long a process waits for another one that migrates: 240 attempts. The lease is what remains
// of the lock of a process that died.
const (
	lockEvery    = 250 * time.Millisecond
	lockAttempts = 240
	lockLease    = 10 * time.Second
)

func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func parseURL(text string) (*pgxpool.Config, error) {
	if err := checkScheme(text); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(text)
	if err != nil {
		return nil, errURL
	}
	return config, nil
}

// Address returns where a database is, as host:port/name, without user and password.
func Address(text string) (string, error) {
	config, err := parseURL(text)
	if err != nil {
		return "", err
	}
	c := config.ConnConfig
	return net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database, nil
}

// pool returns a pool of at most so many connections, which are made when they are needed, and used
// where check, if it is there, returns nil.
func pool(config *pgxpool.Config, opts Options, conns int, check func(context.Context, *pgx.Conn) error) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.MaxConns, config.MinConns, config.MinIdleConns = int32(conns), 0, 0
	config.PingTimeout = opts.ConnectTimeout
	config.ConnConfig.ConnectTimeout = opts.ConnectTimeout
	config.AfterConnect = check
	// The server gives up first, as long as it can be reached: then the connection stays.
	setDefault(config.ConnConfig.RuntimeParams, "statement_timeout", strconv.FormatInt(opts.StatementTimeout.Milliseconds(), 10))
	setDefault(config.ConnConfig.RuntimeParams, "application_name", "cartd")
	opts.restrict(config.ConnConfig.RuntimeParams)
	return pgxpool.NewWithConfig(context.Background(), config) // connects to nothing yet
}

// restrict has the server refuse writes on a connection of a store that only reads.
func (o Options) restrict(params map[string]string) {
	if o.ReadOnly {
		params["default_transaction_read_only"] = "on"
	}
}

func setDefault(params map[string]string, name, value string) {
	if _, ok := params[name]; !ok {
		params[name] = value
	}
}

// settings returns those of a server's settings that tell whether it may lose what it acknowledged.
// Databases that have no such settings are taken at their word.
func settings(ctx context.Context, c querier) (map[string]string, error) {
	rows, err := c.Query(ctx, "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit')")
	if err != nil {
		return nil, fmt.Errorf("read the server's settings: %w", err)
	}
	defer rows.Close()
	all := make(map[string]string)
	for rows.Next() {
		var name, setting string
		if err := rows.Scan(&name, &setting); err != nil {
			return nil, err
		}
		all[name] = setting
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the server's settings: %w", err)
	}
	return all, nil
}

// checkServer refuses a server that may lose what it acknowledged.
func checkServer(ctx context.Context, c querier, log *slog.Logger) error {
	all, err := settings(ctx, c)
	if err != nil {
		return err
	}
	if all["fsync"] == "off" {
		return ErrUnsafe
	}
	if all["synchronous_commit"] == "off" {
		log.Warn("the database runs with synchronous_commit=off: a crash of its server loses the last acknowledged writes")
	}
	return nil
}

// checkConnection refuses a connection for commits to a server that may lose them, as another one may
// that took the place of the one that Open saw.
func (o Options) checkConnection(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, o.StatementTimeout)
	defer cancel()
	return checkServer(ctx, c, slog.New(slog.DiscardHandler))
}

// identify notes which database it is that a connection was made to, and of which server. One that does not tell is
// none the worse.
func (s *Store) identify(ctx context.Context, c *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.StatementTimeout)
	defer cancel()
	var started time.Time
	var database int64
	err := c.QueryRow(ctx, "SELECT pg_postmaster_start_time(), oid::bigint FROM pg_database WHERE datname = current_database()").Scan(&started, &database)
	var refused *pgconn.PgError
	switch {
	case err == nil:
		s.incarnation.Store(started.UnixMicro() + database)
	case !errors.As(err, &refused):
		return err
	}
	return nil
}

// Incarnation changes when connections are made to another server or database than before, or to a server that was
// started again, as they are after a recovery to a point in time and after a failover. It is 0 until there was one.
func (s *Store) Incarnation() int64 { return s.incarnation.Load() }

// Migration tells what Migrate did.
type Migration struct {
	From, To int64 // versions of the schema
}

// Migrate brings the schema of a database up to date. One process does so at a time, others wait
// for it. Errors wrap ErrNewerSchema where the schema is newer than this program.
func Migrate(ctx context.Context, url string, opts Options) (Migration, error) {
	config, err := parseURL(url)
	if err != nil {
		return Migration{}, fmt.Errorf("postgres: %w", err)
	}
	m, err := migrate(ctx, config, opts.withDefaults())
	if err != nil {
		return m, fmt.Errorf("postgres: migrate: %w", err)
	}
	return m, nil
}

// migrate runs on connections of its own: no timeout applies to the statements of a migration.
func migrate(ctx context.Context, config *pgxpool.Config, opts Options) (m Migration, err error) {
	c := config.ConnConfig.Copy()
	c.ConnectTimeout = opts.ConnectTimeout
	setDefault(c.RuntimeParams, "application_name", "cartd migrate")
	opts.restrict(c.RuntimeParams)
	db := stdlib.OpenDB(*c)
	defer func() { err = errors.Join(err, db.Close()) }()

	schema, err := fs.Sub(migrations.Postgres, "postgres")
	if err != nil {
		return m, err
	}
	// Not PostgreSQL's advisory locks: CockroachDB takes them and does nothing.
	locker, err := lock.NewPostgresTableLocker(
		lock.WithTableLockTimeout(lockEvery, lockAttempts),
		lock.WithTableLeaseDuration(lockLease),
		lock.WithTableHeartbeatInterval(lockLease/4),
		lock.WithTableLogger(opts.Logger))
	if err != nil {
		return m, err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, schema,
		goose.WithDisableGlobalRegistry(true), goose.WithLocker(locker))
	if err != nil {
		return m, err
	}
	if opts.ReadOnly { // else goose would try to make its table
		if err := checkTables(ctx, db); err != nil {
			return m, err
		}
	}
	current, known, err := p.GetVersions(ctx)
	if err != nil {
		return m, fmt.Errorf("read the version of the schema: %w", err)
	}
	m = Migration{From: current, To: max(current, known)}
	if current > known {
		return m, fmt.Errorf("%w: its schema has version %d, and this program knows %d", ErrNewerSchema, current, known)
	}
	switch {
	case current == known: // no right to change anything is needed
	case opts.ReadOnly:
		err = fmt.Errorf("its schema has version %d, not %d: cartd migrate brings it up to date", current, known)
	default:
		_, err = p.Up(ctx)
	}
	return m, err
}

// checkTables refuses a database without a schema of this program.
func checkTables(ctx context.Context, db *sql.DB) error {
	var tables int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_name = $1", goose.DefaultTablename).Scan(&tables)
	if err == nil && tables == 0 {
		err = errors.New("it is a database of something else, or empty, or its tables are another user's")
	}
	return err
}
