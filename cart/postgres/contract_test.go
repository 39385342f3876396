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
	storetest.Run(t, func(t *testing.T) storetest.Database { return database{pgtest.New(t)} })
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
