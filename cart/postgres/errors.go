package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"cartd/cart"
)

var (
	// ErrNewerSchema says that the database was written by a newer version of this program.
	ErrNewerSchema = errors.New("postgres: the database is newer than this program")
	// ErrUnsafe says that the server is set up to lose what it acknowledged.
	ErrUnsafe = errors.New("postgres: the server runs with fsync=off and loses commits in a crash")
	// ErrClosed is returned by the methods of a store that was closed.
	ErrClosed = errors.New("postgres: the store is closed")
)

// conflicts reports whether the server ended a transaction in favour of another one.
func conflicts(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01")
}

// lacksTable reports whether a table is not there: the database may be an empty one, in the place of another.
func lacksTable(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "42P01"
}

// refused returns err as one that wraps cart.ErrNoRoom where the same changes may be committed
// again, and err itself where that would fail for ever or the store was closed.
func refused(err error) error {
	if err == nil || errors.Is(err, ErrClosed) || !passes(err) {
		return err
	}
	return fmt.Errorf("%w: %w", cart.ErrNoRoom, err)
}

// passes reports whether a failure is one of the server's situation or of the way to it, not of
// what it was asked.
func passes(err error) bool {
	if errors.Is(err, ErrUnsafe) || errors.As(err, new(*pgconn.ConnectError)) { // whatever the server said, it was asked nothing
		return true
	}
	var e *pgconn.PgError
	if errors.As(err, &e) {
		switch e.Code {
		case "25006", // read only: a standby, after a failover
			"40001", "40P01", "40003", // serialization, deadlock, outcome unknown
			"42P01", // no such table: they are made anew
			"55P03", // a lock was not to be had
			"57014": // statement_timeout
			return true
		}
		switch class := e.Code[:min(2, len(e.Code))]; class {
		case "08", // connection
			"53", // disk, memory, connections
			"58": // the server's system
			return true
		case "57": // it stops, crashed, or starts
			return e.Code != "57000"
		}
		return false
	}
	return pgconn.SafeToRetry(err) || silent(err) || broken(err)
}

// silent reports whether there was no answer, for which somebody would not wait any longer.
func silent(err error) bool {
	var network net.Error
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		pgconn.Timeout(err) || errors.As(err, &network) && network.Timeout()
}

// gone reports whether there is nobody to ask: a network or a server that is away, or comes or goes.
// A server that refuses what it was asked is not gone, nor is one that has no more connections to give.
func gone(err error) bool {
	var e *pgconn.PgError
	switch {
	case err == nil || silent(err):
		return false
	case errors.As(err, &e):
		return broken(err) || e.Code == "57P03" || strings.HasPrefix(e.Code, "08")
	}
	return broken(err) || errors.As(err, new(*pgconn.ConnectError))
}

// mayBeSetUpLater reports whether what hindered the setup of a store is likely to pass: not a server
// that refuses the user, the database, or is refused.
func mayBeSetUpLater(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) && (strings.HasPrefix(e.Code, "28") || strings.HasPrefix(e.Code, "3D")) {
		return false
	}
	return err != nil && !errors.Is(err, ErrUnsafe) && passes(err)
}

// broken reports whether a connection was lost. The driver wraps what the network or the server
// said, or has closed the connection before.
func broken(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code == "57P01" || e.Code == "57P02" // the server stops, or crashed
	}
	var scan pgx.ScanArgError
	if errors.As(err, &scan) {
		return false
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, net.ErrClosed) || isEOF(err) ||
		strings.HasSuffix(err.Error(), "conn closed")
}

// corrupt reports whether the server found its own files damaged.
func corrupt(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "XX001" || e.Code == "XX002")
}

// damaged is the error of a cart of which something stored cannot be read.
func damaged(id cart.ID, format string, args ...any) error {
	return fmt.Errorf("%w: %v: %w", cart.ErrDamaged, id, fmt.Errorf(format, args...))
}

// CheckURL refuses what is no URL of a PostgreSQL database. Its error never tells the password.
func CheckURL(text string) error {
	_, err := parseURL(text)
	return err
}

// errURL tells nothing of a URL: where it cannot be parsed, any of its parts may be the password.
var errURL = errors.New("not a URL like postgres://user@host:5432/database; " +
	"in a password / ? # [ ] @ % are written as %2F, %3F, %23, %5B, %5D, %40 and %25")

func checkScheme(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return errURL
	}
	return nil
}
