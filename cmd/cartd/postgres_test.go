package main

import (
	"bytes"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"cartd/internal/pgtest"
)

// The data is in PostgreSQL: a node that is killed and one that is started find it there. Without
// PostgreSQL writes are refused and reads of resident carts go on; when it is back, so are writes.
func TestPostgres(t *testing.T) {
	build(t)
	server := pgtest.Start(t)
	p := startOn(t, "--database-url", server.URL)
	path := p.create(3)
	if a := p.must("POST", path+"/line-items", `{"sku":"TEE-RED","quantity":2}`); a.status != http.StatusOK && a.status != http.StatusCreated {
		t.Fatalf("add: %d %s", a.status, a.body)
	}
	wantQuantity := func(want int64) {
		t.Helper()
		if a := p.must("GET", path, ""); a.status != http.StatusOK || a.cart.TotalQuantity != want {
			t.Fatalf("got %d %s, want %d units", a.status, a.body, want)
		}
	}
	wantQuantity(5)
	p.kill()
	p = startOn(t, "--database-url", server.URL)
	wantQuantity(5)

	server.Stop(t)
	const add = `{"sku":"TEE-RED","quantity":1}`
	a := p.must("POST", path+"/line-items", add, "Idempotency-Key", "one")
	if a.status != http.StatusServiceUnavailable || a.problem.Type != "/problems/not-durable" || a.header.Get("Retry-After") == "" {
		t.Errorf("without PostgreSQL a write got %d %s, not 503 not-durable with Retry-After", a.status, a.body)
	}
	await(t, "the node is not ready", func() bool { return p.readyStatus() == http.StatusServiceUnavailable })
	wantQuantity(5)
	server.Restart(t)
	await(t, "the node is ready again", func() bool { return p.readyStatus() == http.StatusOK })
	if a := p.must("POST", path+"/line-items", add, "Idempotency-Key", "one"); a.status >= 300 || a.cart.TotalQuantity != 6 {
		t.Errorf("the retry got %d %s", a.status, a.body)
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.output())
	}
	p = startOn(t, "--database-url", server.URL)
	wantQuantity(6)
}

func TestMigrateCommand(t *testing.T) {
	build(t)
	url := pgtest.New(t)
	for _, want := range []string{"the schema went from version 0 to 1", "the schema is up to date, at version 1"} {
		var stdout, stderr bytes.Buffer
		// It runs in the environment of serve.
		code := run(t.Context(), []string{"migrate"}, []string{"CARTD_DATABASE_URL=" + url, "CARTD_LISTEN=:80"}, &stdout, &stderr)
		if code != 0 || !strings.Contains(stdout.String(), want) {
			t.Fatalf("exit code %d, %s%s", code, &stdout, &stderr)
		}
	}
}

// TestDatabaseSettings: what contradicts itself or cannot be used is refused, and no password shown.
func TestDatabaseSettings(t *testing.T) {
	const url = "postgres://cartd:sesame@127.0.0.1:1/db"
	for name, test := range map[string]struct {
		args, environ []string
		code          int
		says          string
	}{
		"both flags":       {[]string{"serve", "--database-url", url, "--data-dir", "x"}, nil, 2, "contradict"},
		"both variables":   {[]string{"serve"}, []string{"CARTD_DATABASE_URL=" + url, "CARTD_DATA_DIR=x"}, 2, "contradict"},
		"another variable": {[]string{"serve", "--database-url", url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, []string{"CARTD_DATA_DIR=x"}, 1, "postgres: open"},
		"empty":            {[]string{"serve"}, []string{"CARTD_DATABASE_URL="}, 2, "--database-url is not a URL"},
		"no PostgreSQL":    {[]string{"serve", "--database-url", "mysql://cartd:sesame@127.0.0.1/db"}, nil, 2, "--database-url is not a URL"},
		"malformed":        {[]string{"serve", "--database-url", "postgres://cartd:sesame@127.0.0.1:x/db"}, nil, 2, "--database-url is not a URL"},
		"nobody there":     {[]string{"serve", "--database-url", url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, nil, 1, "postgres: open"},
		"migrate nothing":  {[]string{"migrate"}, nil, 2, "needs --database-url"},
		"migrate nobody":   {[]string{"migrate", "--database-url", url}, nil, 1, "postgres: migrate"},
		"misspelt":         {[]string{"migrate"}, []string{"CARTD_DATABSE_URL=" + url}, 2, "there is no setting CARTD_DATABSE_URL"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), test.args, test.environ, &out, &out)
		if code != test.code || !strings.Contains(out.String(), test.says) || strings.Contains(out.String(), "sesame") {
			t.Errorf("%s: exit code %d: %s", name, code, &out)
		}
	}
}

// startOn starts cartd with the store that args say.
func startOn(t testing.TB, args ...string) *process {
	t.Helper()
	cartd, _ := build(t)
	p := launchCommand(t, exec.Command(cartd, append(listening(), args...)...))
	if p.api == "" {
		t.Fatalf("cartd did not start:\n%s", p.output())
	}
	return p
}
