package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// shared is the server of the test binary.
var shared struct {
	mu     sync.Mutex
	server *Server
	err    error
}

// TB is what New needs of a testing.TB.
type TB interface {
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Skip(args ...any)
}

var _ TB = testing.TB(nil)

// New returns a URL under which a test finds an empty schema, which is gone after the test.
func New(tb TB) string {
	tb.Helper()
	server, err := serverURL()
	if errors.Is(err, ErrNoBinaries) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatal("DATABASE_URL is no URL") // the error would tell the password
	}
	schema := "test_" + strings.ToLower(rand.Text())
	if err := Exec(server, "CREATE SCHEMA "+schema); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := Exec(server, "DROP SCHEMA "+schema+" CASCADE"); err != nil {
			tb.Errorf("drop the schema: %v", err)
		}
	})
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func serverURL() (string, error) {
	if u := os.Getenv("DATABASE_URL"); u != "" {
		return u, nil
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = create(Options{})
	}
	if shared.err != nil {
		return "", shared.err
	}
	return shared.server.URL, nil
}

// Close ends the server that New started, if it did.
func Close() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		return nil
	}
	return shared.server.remove()
}

// Count returns how many rows a table has.
func Count(url, table string) (rows int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&rows)
	return rows, errors.Join(err, conn.Close(ctx))
}

// Exec executes a statement on a connection of its own.
func Exec(url, statement string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement, args...)
	return errors.Join(err, conn.Close(ctx))
}
