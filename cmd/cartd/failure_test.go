package main

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"cartd/cart"
)

// A failed fsync may have dropped what it was to write: nothing is acknowledged after it, the
// process ends and says why, and whoever was told that a write is safe finds it after the restart.
func TestFailedFsync(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: it injects the failure")
	}
	dir := t.TempDir()
	p := start(t, dir)
	before := p.create(3)

	inject := exec.Command(strace, "-f", "-p", strconv.Itoa(p.cmd.Process.Pid),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO")
	stderr, err := inject.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inject.Start(); err != nil {
		t.Fatal(err)
	}
	attached := make(chan struct{})
	ended := make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(stderr)
		for first := true; lines.Scan(); first = false {
			if first && strings.Contains(lines.Text(), "attached") {
				close(attached)
			}
			said.WriteString(lines.Text() + "\n")
		}
	}()
	defer func() {
		inject.Process.Kill()
		<-ended
		inject.Wait()
	}()
	select {
	case <-attached:
	case <-ended:
		t.Skipf("strace cannot attach here: %s", said.String())
	}

	a, err := p.call("POST", before+"/line-items", `{"sku":"TEE-RED","quantity":1}`)
	if err == nil && (a.status != http.StatusServiceUnavailable || a.problem.Type != "/problems/not-durable") {
		t.Errorf("a write whose fsync failed got %d %s, not 503 not-durable", a.status, a.body)
	}
	if code := p.exitCode(); code != 1 {
		t.Errorf("exit code %d, not 1", code)
	}
	if out := p.output(); !strings.Contains(out, "cartd: the store failed") {
		t.Errorf("the last words do not tell what happened:\n%s", out)
	}

	p = start(t, dir)
	if a := p.must("GET", before, ""); a.status != http.StatusOK || a.cart.TotalQuantity < 3 {
		t.Errorf("after the restart the acknowledged write is %d %s", a.status, a.body)
	}
}

// A full disk fails writes, and nothing else: reads go on, what was acknowledged stays, and when
// there is room again so do writes, by themselves.
func TestFullDisk(t *testing.T) {
	build(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	// The filler leaves some room, and gives all of it back.
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	p := start(t, data)

	note := strings.Repeat("x", 1500)
	quantities := make(map[string]int64)
	var refused answer
	var refusedPath string
	for i := 0; refused.status == 0; i++ {
		if i == 5000 {
			t.Fatal("2 MB of disk took 5000 carts")
		}
		a := p.must("POST", "/v1/carts", `{"currency":"EUR","line_items":[{"sku":"TEE-RED","quantity":2}]}`)
		if a.status != http.StatusCreated {
			refused = a
			break
		}
		path := "/v1/carts/" + a.cart.ID
		quantities[path] = 2
		a = p.must("PATCH", path, fmt.Sprintf(`{"note":%q}`, note), "Idempotency-Key", "note")
		if a.status != http.StatusOK {
			refused, refusedPath = a, path
		}
	}
	if refused.status != http.StatusServiceUnavailable || refused.problem.Type != "/problems/not-durable" || refused.header.Get("Retry-After") == "" {
		t.Errorf("without room a write got %d %s, not 503 not-durable with Retry-After", refused.status, refused.body)
	}
	await(t, "the node is not ready", func() bool { return p.readyStatus() == http.StatusServiceUnavailable })
	for path, quantity := range quantities {
		if a := p.must("GET", path, ""); a.status != http.StatusOK || a.cart.TotalQuantity != quantity {
			t.Fatalf("without room a read got %d %s", a.status, a.body)
		}
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	await(t, "the node is ready again", func() bool { return p.readyStatus() == http.StatusOK })
	if refusedPath != "" {
		if a := p.must("PATCH", refusedPath, fmt.Sprintf(`{"note":%q}`, note), "Idempotency-Key", "note"); a.status != http.StatusOK || a.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("the retry of the write that waited for room got %d, replayed %q", a.status, a.header.Get("Idempotent-Replayed"))
		}
	}
	quantities[p.create(5)] = 5
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.output())
	}

	p = start(t, data)
	for path, quantity := range quantities {
		if a := p.must("GET", path, ""); a.status != http.StatusOK || a.cart.TotalQuantity != quantity {
			t.Fatalf("after the restart a read got %d %s", a.status, a.body)
		}
	}
	p.kill()
}

// A cart whose stored row is damaged is refused, whole, and no other is.
func TestDamagedSnapshot(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	damaged, sound := p.create(3), p.create(4)
	if code := p.terminate(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.output())
	}

	db, err := sql.Open("sqlite", filepath.Join(dir, "cartd.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	id, err := cart.ParseID(filepath.Base(damaged))
	if err != nil {
		t.Fatal(err)
	}
	var state []byte
	if err := db.QueryRow(`SELECT state FROM carts WHERE id = ?`, id[:]).Scan(&state); err != nil {
		t.Fatalf("the cart has no snapshot after a clean stop: %v", err)
	}
	state[len(state)/2] ^= 0x10
	if _, err := db.Exec(`UPDATE carts SET state = ? WHERE id = ?`, state, id[:]); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	p = start(t, dir)
	for _, request := range [][3]string{{"GET", damaged, ""}, {"POST", damaged + "/line-items", `{"sku":"X"}`}, {"DELETE", damaged, ""}} {
		a := p.must(request[0], request[1], request[2])
		if a.status != http.StatusServiceUnavailable || a.problem.Type != "/problems/cart-unavailable" || a.header.Get("Retry-After") == "" {
			t.Errorf("%s of the damaged cart got %d %s, not 503 cart-unavailable", request[0], a.status, a.body)
		}
	}
	if a := p.must("GET", sound, ""); a.status != http.StatusOK || a.cart.TotalQuantity != 4 {
		t.Errorf("the other cart got %d %s", a.status, a.body)
	}
	if !strings.Contains(p.output(), "damaged") {
		t.Errorf("the damage is not in the logs:\n%s", p.output())
	}
}

// A stop under load: requests in flight are answered, nothing that was acknowledged is lost, and
// the process ends with 0.
func TestStopUnderLoad(t *testing.T) {
	dir := t.TempDir()
	p := start(t, dir)
	const clients = 8
	type ledger struct {
		path  string
		acked int64
	}
	results := make(chan ledger, clients)
	started := make(chan struct{}, clients)
	for range clients {
		l := ledger{path: p.create(1), acked: 1}
		go func() {
			defer func() { results <- l }()
			for i := 0; ; i++ {
				a, err := p.call("POST", l.path+"/line-items", `{"sku":"TEE-RED"}`)
				if err != nil || a.status != http.StatusOK {
					return
				}
				if l.acked++; i == 20 {
					started <- struct{}{}
				}
			}
		}()
	}
	for range clients {
		<-started
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.output())
	}
	p2 := start(t, dir)
	for range clients {
		l := <-results
		// One more than was acknowledged may be there: its answer went down with the connection.
		if a := p2.must("GET", l.path, ""); a.cart.TotalQuantity < l.acked || a.cart.TotalQuantity > l.acked+1 {
			t.Errorf("%d units acknowledged, %d found", l.acked, a.cart.TotalQuantity)
		}
	}
}

// A second process on the data directory of a running one is refused.
func TestDataDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	start(t, dir)
	p := launch(t, dir)
	if code := p.exitCode(); code != 1 || p.api != "" {
		t.Errorf("exit code %d", code)
	}
	if out := p.output(); strings.Count(out, "\n") != 1 || !strings.Contains(out, "in use") {
		t.Errorf("not one clear line:\n%s", out)
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		name    string
		args    []string
		environ []string
		code    int
		says    string
	}{
		{"unknown flag", []string{"serve", "--nope"}, nil, 2, "--nope"},
		{"unknown command", []string{"sing"}, nil, 2, "sing"},
		{"argument", []string{"serve", "now"}, nil, 2, "now"},
		{"unknown variable", []string{"serve"}, []string{"CARTD_DATADIR=x"}, 2, "CARTD_DATADIR"},
		{"malformed variable", []string{"serve"}, []string{"CARTD_MEMORY=lots"}, 2, "CARTD_MEMORY"},
		{"malformed flag", []string{"serve", "--memory", "-3MiB"}, nil, 2, "memory"},
		{"one address for two listeners", []string{"serve", "--listen", ":7", "--admin-listen", ":7"}, nil, 2, ":7"},
		{"too little memory", []string{"serve", "--memory", "1KiB"}, nil, 2, "1MiB"},
		{"no lines", []string{"serve", "--max-lines", "0"}, nil, 2, "max-lines"},
		{"no directory", []string{"serve"}, []string{"CARTD_DATA_DIR="}, 2, "data-dir"},
		{"version", []string{"version"}, nil, 0, "cartd "},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr strings.Builder
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			code := run(ctx, test.args, test.environ, &stdout, &stderr)
			said := stdout.String() + stderr.String()
			if code != test.code || !strings.Contains(said, test.says) || strings.Count(said, "\n") != 1 {
				t.Errorf("exit code %d, not %d, and said:\n%s", code, test.code, said)
			}
		})
	}
}
