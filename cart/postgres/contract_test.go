package postgres_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"cartd/cart"
	"cartd/cart/postgres"
	"cartd/cart/storetest"
	"cartd/internal/pgtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := pgtest.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

func TestContract(t *testing.T) {
	t.Parallel()
	// The histories of one test share a schema, with the carts of those before in it: to migrate
	// a hundred takes longer than all the rest.
	schemas := make(map[*testing.T]database)
	storetest.Run(t, func(t *testing.T) storetest.Database {
		if _, ok := schemas[t]; !ok {
			schemas[t] = database{pgtest.New(t)}
		}
		return schemas[t]
	})
}

type database struct{ url string }

func (d database) Open(tb storetest.TB) cart.Store {
	tb.Helper()
	s, err := postgres.Open(context.Background(), d.url, postgres.Options{})
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return s
}

// Crash does nothing: the process keeps nothing that was committed, and a crash of the server is a
// test of its own.
func (d database) Crash(storetest.TB) {}

func (d database) Shared() bool { return true }
