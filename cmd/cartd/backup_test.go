package main

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"cartd/cart"
	"cartd/cart/postgres"
	"cartd/internal/pgtest"
)

// cartd runs a command and returns its exit code and what it printed.
func cartd(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, nil, &out, &err)
	return code, out.String(), err.String()
}

// mustBackUp backs up a data directory to a new file.
func mustBackUp(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "cartd.backup")
	if code, stdout, stderr := cartd(t, "backup", "--data-dir", dir, file); code != 0 || !strings.HasPrefix(stdout, file+": ") {
		t.Fatalf("backup: exit code %d, %s%s", code, stdout, stderr)
	}
	return file
}

// joined is what restore tells of the carts.
type joined struct{ changed, unchanged, expired, damaged, erased int }

// mustRestore restores with the given arguments and checks what became of the carts.
func mustRestore(t *testing.T, want joined, args ...string) {
	t.Helper()
	code, stdout, stderr := cartd(t, append([]string{"restore"}, args...)...)
	if code != min(want.damaged, 1) {
		t.Fatalf("restore: exit code %d, %s%s", code, stdout, stderr)
	}
	var got joined
	for i, line := range strings.Split(strings.TrimSpace(stdout), "\n") {
		if counts := []*int{&got.changed, &got.unchanged, &got.expired, &got.damaged, &got.erased}; i > 0 && i <= len(counts) {
			var err error
			if *counts[i-1], err = strconv.Atoi(strings.Fields(line)[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got != want {
		t.Fatalf("restore tells of %+v, not %+v:\n%s%s", got, want, stdout, stderr)
	}
}

// shown is what a node shows of some carts.
func (p *process) shown(paths []string) map[string]string {
	p.t.Helper()
	all := make(map[string]string)
	for _, path := range paths {
		a := p.must("GET", path, "")
		all[path] = fmt.Sprintf("%d %s %s", a.status, a.header.Get("ETag"), a.body)
		if a.status == http.StatusNotFound {
			all[path] = "404"
		}
	}
	return all
}

// wantShown checks that a node shows the same as before.
func (p *process) wantShown(want map[string]string) {
	p.t.Helper()
	for path, before := range want {
		if got := p.shown([]string{path})[path]; got != before {
			p.t.Errorf("%s is %s, and was %s", path, got, before)
		}
	}
}

const addTee = `{"sku":"TEE-RED","quantity":1}`

func (p *process) mustDo(method, path, body string) answer {
	p.t.Helper()
	a := p.must(method, path, body)
	if a.status >= 300 {
		p.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// removeLines removes all lines of a cart.
func (p *process) removeLines(path string) {
	p.t.Helper()
	for _, line := range p.mustDo("GET", path, "").cart.LineItems {
		p.mustDo("DELETE", path+"/line-items/"+line.ID, "")
	}
}

// A backup that is made while carts are written has all that was acknowledged before, and what is restored of
// the last one is what the node shows, byte for byte.
func TestBackupUnderLoad(t *testing.T) {
	build(t)
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	const clients = 4
	var paths []string
	for range 5 * clients {
		paths = append(paths, p.create(1))
	}
	for range 3 {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for i := range clients {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if a, err := p.call("POST", paths[(i+n*clients)%len(paths)]+"/line-items", addTee); err != nil || a.status >= 300 {
						t.Errorf("%d %s %v", a.status, a.body, err)
						return
					}
				}
			})
		}
		before := make([]int64, len(paths))
		for i, path := range paths {
			before[i] = p.mustDo("GET", path, "").cart.TotalQuantity
		}
		file := mustBackUp(t, dir)
		close(stop)
		wg.Wait()
		into := t.TempDir()
		mustRestore(t, joined{changed: len(paths)}, "--data-dir", into, file)
		restored := start(t, into)
		for i, path := range paths {
			got, now := restored.mustDo("GET", path, "").cart.TotalQuantity, p.mustDo("GET", path, "").cart.TotalQuantity
			if got < before[i] || got > now {
				t.Errorf("%d units are restored; %d were there when the backup began, and %d later", got, before[i], now)
			}
		}
		restored.kill()
	}
	want := p.shown(paths)
	file := mustBackUp(t, dir)
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.output())
	}
	into := t.TempDir()
	mustRestore(t, joined{changed: len(paths)}, "--data-dir", into, file)
	start(t, into).wantShown(want)
	mustRestore(t, joined{unchanged: len(paths)}, "--data-dir", dir, mustBackUp(t, dir)) // of a node that is stopped
}

// What an older backup has is joined with what the store has: nothing newer is lost, what was removed stays
// removed, and what was erased stays erased. Into an empty store it brings what was, and a second time
// nothing. A cart that is damaged is told of and left out.
func TestRestore(t *testing.T) {
	build(t)
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	kept, removed, erased := p.create(1), p.create(2), p.create(3)
	old := []string{kept, removed, erased}
	then := p.shown(old)
	file := mustBackUp(t, dir)
	p.mustDo("POST", kept+"/line-items", addTee)
	p.removeLines(removed)
	p.mustDo("DELETE", erased, "")
	young := p.create(4)
	now := p.shown(append(old, young))
	if now[erased] != "404" {
		t.Fatalf("an erased cart is %s", now[erased])
	}

	if code, _, stderr := cartd(t, "restore", "--data-dir", dir, file); code != 1 || !strings.Contains(stderr, "a node is running") {
		t.Errorf("into a store that is in use: exit code %d, %s", code, stderr)
	}
	newer := mustBackUp(t, dir)
	p.terminate()
	mustRestore(t, joined{unchanged: 3, erased: 1}, "--data-dir", dir, file)
	p = start(t, dir)
	p.wantShown(now)
	p.terminate()

	into := t.TempDir()
	mustRestore(t, joined{changed: 3}, "--data-dir", into, file)
	mustRestore(t, joined{unchanged: 3}, "--data-dir", into, file)
	p = start(t, into)
	p.wantShown(then)
	p.terminate()
	mustRestore(t, joined{changed: 4, erased: 1}, "--data-dir", into, newer)
	p = start(t, into)
	p.wantShown(now)
	p.terminate()

	damage(t, file, joined{changed: 3}, kept)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	into = t.TempDir()
	mustRestore(t, joined{changed: 2, damaged: 1}, "--data-dir", into, file)
	p = start(t, into)
	if got := p.shown([]string{kept})[kept]; got != "404" {
		t.Errorf("the cart that is damaged in the backup is %s", got)
	}
	p.wantShown(map[string]string{removed: then[removed], erased: then[erased]})
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the backup was changed, %v", err)
	}
}

// damage changes a byte of carts in a store or a backup, which has so much. The journal has them otherwise.
func damage(t *testing.T, file string, has joined, paths ...string) {
	t.Helper()
	// Opened as a store once, the backup has snapshots of all carts.
	dir := t.TempDir()
	mustRestore(t, has, "--data-dir", dir, file)
	if err := os.Rename(filepath.Join(dir, "cartd.db"), file); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, path := range paths {
		id, err := cart.ParseID(filepath.Base(path))
		if err == nil {
			_, err = db.Exec("UPDATE carts SET checksum = checksum + 1 WHERE id = ?", id[:])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A cart that is damaged in the store is replaced by that of a backup.
func TestRestoreOfADamagedCart(t *testing.T) {
	build(t)
	t.Parallel()
	dir := t.TempDir()
	p := start(t, dir)
	paths := []string{p.create(1), p.create(2), p.create(3)}
	erased := p.create(4)
	want := p.shown(paths)
	want[erased] = "404"
	file := mustBackUp(t, dir)
	p.mustDo("DELETE", erased, "")
	p.terminate()
	damaged := filepath.Join(dir, "cartd.db")
	damage(t, damaged, joined{changed: 4, erased: 1}, paths[0], erased)
	if code, stdout, stderr := cartd(t, "backup", "--data-dir", dir, filepath.Join(t.TempDir(), "b")); code != 0 || !strings.Contains(stderr, filepath.Base(paths[0])) {
		t.Errorf("backup of a store with a damaged cart: exit code %d, %s%s", code, stdout, stderr)
	}
	mustRestore(t, joined{changed: 2, unchanged: 2, erased: 1}, "--data-dir", dir, file)
	start(t, dir).wantShown(want)
}

// A shop moves from a file to PostgreSQL, and back.
func TestRestoreIntoPostgres(t *testing.T) {
	build(t)
	t.Parallel()
	dir, url := t.TempDir(), pgtest.New(t)
	p := start(t, dir)
	paths := []string{p.create(1), p.create(2), p.create(3)}
	p.removeLines(paths[1])
	p.mustDo("DELETE", paths[2], "")
	want := p.shown(paths)
	p.terminate()
	file := mustBackUp(t, dir)
	mustRestore(t, joined{changed: 3, erased: 1}, "--database-url", url, file)
	mustRestore(t, joined{unchanged: 3, erased: 1}, "--database-url", url, file)
	startOn(t, "--database-url", url).wantShown(want)
	back := t.TempDir()
	mustRestore(t, joined{changed: 3, erased: 1}, "--data-dir", back, url)
	start(t, back).wantShown(want)
}

// TestBackupSettings: what cannot be backed up or restored is refused in one line that shows no password.
func TestBackupSettings(t *testing.T) {
	const url = "postgres://cartd:sesame@127.0.0.1:1/db"
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dump := filepath.Join(dir, "dump")
	if err := os.WriteFile(dump, []byte("PGDMP\x01\x0e\x00 and what is in it"), 0o600); err != nil {
		t.Fatal(err)
	}
	into := filepath.Join(dir, "data")
	nothing, temporary := mustBackUpNothing(t), t.TempDir()
	t.Setenv("TMPDIR", temporary)
	for name, test := range map[string]struct {
		args, environ []string
		code          int
		says          string
	}{
		"backup to nowhere":      {[]string{"backup"}, nil, 2, "accepts 1 arg"},
		"backup of PostgreSQL":   {[]string{"backup", "--database-url", url, "x"}, nil, 2, "pg_dump"},
		"backup of the variable": {[]string{"backup", "x"}, []string{"CARTD_DATABASE_URL=" + url}, 2, "pg_dump"},
		"backup of nothing":      {[]string{"backup", "--data-dir", dir, filepath.Join(dir, "x")}, nil, 1, "there is no store"},
		"backup of the flag":     {[]string{"backup", "--data-dir", dir, filepath.Join(dir, "x")}, []string{"CARTD_DATABASE_URL=" + url}, 1, "there is no store"},
		"restore of nothing":     {[]string{"restore"}, nil, 2, "accepts 1 arg"},
		"restore into two":       {[]string{"restore", "--data-dir", into, "--database-url", url, text}, nil, 2, "contradict"},
		"restore of no file":     {[]string{"restore", "--data-dir", into, filepath.Join(dir, "none")}, nil, 1, "no such file"},
		"restore of a text":      {[]string{"restore", "--data-dir", into, text}, nil, 1, "not a database"},
		"restore of no tables":   {[]string{"restore", "--data-dir", into, empty}, nil, 1, "or empty"},
		"restore of a dump":      {[]string{"restore", "--data-dir", into, dump}, nil, 1, "pg_restore"},
		"restore of itself":      {[]string{"restore", "--database-url", url, "postgresql://other@127.0.0.1:1/db?sslmode=disable"}, nil, 2, "both what to restore and where to"},
		"restore of a stranger":  {[]string{"restore", "--data-dir", into, "mysql://cartd:sesame@127.0.0.1/db"}, nil, 2, "neither a file nor a URL"},
		"restore of a directory": {[]string{"restore", "--data-dir", into, dir}, nil, 1, "directory"},
		"restore of no URL":      {[]string{"restore", "--data-dir", into, "postgres://cartd:sesame@127.0.0.1:x/db"}, nil, 2, "not a URL"},
		"restore of nobody":      {[]string{"restore", "--data-dir", into, url}, nil, 1, "what to restore"},
		"restore into nobody":    {[]string{"restore", "--database-url", url, nothing}, nil, 1, "postgres: open"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), test.args, test.environ, &out, &out)
		if code != test.code || !strings.Contains(out.String(), test.says) || strings.Contains(out.String(), "sesame") {
			t.Errorf("%s: exit code %d: %s", name, code, &out)
		}
	}
	if _, err := os.Stat(into); err == nil {
		t.Error("a store was made for nothing")
	}
	if left, err := os.ReadDir(temporary); len(left) > 0 || err != nil {
		t.Errorf("of what was refused %v is left, %v", left, err)
	}
}

// mustBackUpNothing returns a backup of a store without carts.
func mustBackUpNothing(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	store, _, err := (&place{dataDir: dir}).open(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	return mustBackUp(t, dir)
}

// A dump that is restored into a second database is joined into the first one while nodes run there: nothing
// newer is lost, and what the database lost since, it gets back.
func TestRestoreOfADump(t *testing.T) {
	build(t)
	t.Parallel()
	server := pgtest.Start(t)
	p := startOn(t, "--database-url", server.URL)
	kept, removed, erased, lost := p.create(1), p.create(2), p.create(3), p.create(4)
	then := p.shown([]string{kept, removed, erased, lost})
	server.Run(t, "pg_dump", "-h", server.Dir(), "-U", "cartd", "--format=custom", "--file=cartd.dump", "postgres")
	p.mustDo("POST", kept+"/line-items", addTee)
	p.removeLines(removed)
	p.mustDo("DELETE", erased, "")
	now := p.shown([]string{kept, removed, erased, lost})
	p.kill()
	id, err := cart.ParseID(filepath.Base(lost))
	if err == nil {
		err = pgtest.Exec(server.URL, "DELETE FROM carts WHERE id = $1", id[:])
	}
	if err != nil {
		t.Fatal(err)
	}

	second := server.Database(t, "restored")
	server.Run(t, "pg_restore", "-h", server.Dir(), "-U", "cartd", "--dbname=restored", "--no-owner", "cartd.dump")
	p = startOn(t, "--database-url", server.URL)
	p.wantShown(map[string]string{kept: now[kept], lost: "404"})
	mustRestore(t, joined{changed: 1, unchanged: 3, erased: 1}, "--database-url", server.URL, second)
	p.wantShown(now)
	mustRestore(t, joined{unchanged: 4, erased: 1}, "--database-url", server.URL, second)
	startOn(t, "--database-url", second).wantShown(then)

	third := server.Database(t, "nothing")
	if code, _, stderr := cartd(t, "restore", "--database-url", server.URL, third); code != 1 || !strings.Contains(stderr, "of something else, or empty") {
		t.Errorf("of a database that is not cartd's: exit code %d, %s", code, stderr)
	}
	if err := pgtest.Exec(third, "CREATE TABLE goose_db_version ()"); err != nil {
		t.Errorf("what was only to be read was changed: %v", err)
	}
}

// A database is taken back to a point in time, by a base backup and its archived log, while the nodes of its
// region run. It ends with everything that the nodes hold, and so do nodes that come later.
func TestPointInTimeRecovery(t *testing.T) {
	build(t)
	t.Parallel()
	server := pgtest.Start(t, "archive_mode=on", "archive_command=mkdir -p ../archive && cp %p ../archive/%f")
	c := newCluster(t, 3, server.URL)
	kept, removed, erased := c.node(0).create(1), c.node(1).create(2), c.node(2).create(3)
	saved := func() bool {
		for i := range c.nodes {
			if c.node(i).status().Carts.Unsaved > 0 {
				return false
			}
		}
		return true
	}
	await(t, "all is saved", saved)
	server.Run(t, "pg_basebackup", "-h", server.Dir(), "-U", "cartd", "-D", "base", "--checkpoint=fast")
	// A point in time is found by the commits before and after it.
	c.node(0).mustDo("POST", kept+"/line-items", addTee)
	await(t, "all is saved", saved)
	target := query(t, server.URL, "SELECT now()::text")
	c.node(0).mustDo("POST", kept+"/line-items", addTee)
	c.node(1).removeLines(removed)
	c.node(2).mustDo("DELETE", erased, "")
	young := c.node(0).create(4)
	await(t, "all is saved", saved)
	paths := []string{kept, removed, erased, young}
	latest := versions(t, server.URL)
	query(t, server.URL, "SELECT pg_switch_wal()::text")
	await(t, "the log is archived", func() bool {
		return query(t, server.URL, "SELECT (last_archived_time > $1::timestamptz)::text FROM pg_stat_archiver", target) == "true"
	})

	server.Stop(t)
	during := c.node(1).create(5) // which the nodes hold
	server.Recover(t, "base", "restore_command=cp ../archive/%f %p", "recovery_target_time="+target, "recovery_target_action=promote")
	await(t, "the recovery is over", func() bool { return query(t, server.URL, "SELECT pg_is_in_recovery()::text") == "false" })
	await(t, "the database has again what the nodes hold", func() bool {
		now := versions(t, server.URL)
		for id, version := range latest {
			if now[id] != version {
				return false
			}
		}
		return len(now) == len(latest)+1
	})

	want := c.node(0).shown(append(paths, during))
	if want[erased] != "404" {
		t.Errorf("a cart that was erased is %s", want[erased])
	}
	for i := range c.nodes {
		c.node(i).wantShown(want)
		c.node(i).kill()
	}
	newCluster(t, 2, server.URL).node(1).wantShown(want)
}

// query returns the text that a statement returns.
func query(t *testing.T, url, statement string, args ...any) (text string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	err = conn.QueryRow(t.Context(), statement, args...).Scan(&text)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	return text
}

// versions returns the versions of all carts in a database.
func versions(t *testing.T, url string) map[cart.ID]uint64 {
	t.Helper()
	s, err := postgres.Open(t.Context(), url, postgres.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := make(map[cart.ID]uint64)
	page, err := s.Versions(t.Context(), cart.ID{}, cart.LastID, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range page {
		all[v.ID] = v.Version
	}
	return all
}
