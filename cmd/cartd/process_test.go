package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cartd/api"
	"cartd/internal/pgtest"
)

// The tests of this file's kind run the real binaries, which are built once.
var binaries struct {
	once          sync.Once
	dir           string
	cartd, loader string
	err           error
}

func TestMain(m *testing.M) {
	binaries.dir, binaries.err = os.MkdirTemp("", "cartd-test")
	code := m.Run()
	if err := errors.Join(os.RemoveAll(binaries.dir), pgtest.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build builds cartd and cartload and returns their paths.
func build(t testing.TB) (cartd, cartload string) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs processes")
	}
	b := &binaries
	b.once.Do(func() {
		if b.err != nil {
			return
		}
		b.cartd, b.loader = filepath.Join(b.dir, "cartd"), filepath.Join(b.dir, "cartload")
		out, err := exec.Command("go", "build", "-o", b.dir, "cartd/cmd/cartd", "cartd/cmd/cartload").CombinedOutput()
		if err != nil {
			b.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.cartd, b.loader
}

// process is a running cartd.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	api   string // base URLs
	admin string

	mu   sync.Mutex
	logs bytes.Buffer
	done chan struct{} // closed when it has ended and its logs are read
}

// environment is what child processes get: nothing of the settings that the tests run under.
func environment() []string {
	var environ []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, envPrefix) {
			environ = append(environ, e)
		}
	}
	return environ
}

// start starts cartd on a data directory and waits until it serves. Listening addresses are free
// ones unless args say otherwise.
func start(t testing.TB, dir string, args ...string) *process {
	t.Helper()
	p := launch(t, dir, args...)
	if p.api == "" {
		t.Fatalf("cartd did not start:\n%s", p.output())
	}
	return p
}

// launch starts cartd and returns when it serves or has ended.
func launch(t testing.TB, dir string, args ...string) *process {
	t.Helper()
	cartd, _ := build(t)
	return launchCommand(t, exec.Command(cartd, append(append(listening(), "--data-dir", dir), args...)...))
}

// listening returns the arguments of every node that a test starts.
func listening() []string {
	return []string{"serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}
}

func launchCommand(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	p.cmd.Env = environment()
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan [2]string, 1)
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.mu.Lock()
			p.logs.Write(append(lines.Bytes(), '\n'))
			p.mu.Unlock()
			var entry struct {
				Msg         string
				Listen      string
				AdminListen string `json:"admin_listen"`
			}
			if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Msg == "serving" {
				serving <- [2]string{"http://" + entry.Listen, "http://" + entry.AdminListen}
			}
		}
		_ = p.cmd.Wait() // the exit code is read from ProcessState
	}()
	t.Cleanup(p.kill)
	select {
	case at := <-serving:
		p.api, p.admin = at[0], at[1]
	case <-p.done:
	case <-time.After(30 * time.Second):
		t.Fatalf("cartd neither serves nor ends:\n%s", p.output())
	}
	return p
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logs.String()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	<-p.done
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// exitCode waits until the process has ended.
func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		p.t.Fatalf("cartd does not end:\n%s", p.output())
		return -1
	}
}

func (p *process) terminate() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.exitCode()
}

// answer is what a request got.
type answer struct {
	status  int
	header  http.Header
	closes  bool // the connection, after it
	body    []byte
	cart    api.CreatedCart
	problem api.Problem
}

// call sends a request with a JSON body, or none where body is empty.
func (p *process) call(method, path, body string, headers ...string) (answer, error) {
	r, err := http.NewRequest(method, p.api+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return send(http.DefaultClient, r)
}

// send sends a request.
func send(client *http.Client, r *http.Request) (answer, error) {
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, header: response.Header, closes: response.Close}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		return answer{}, err
	}
	switch {
	case len(a.body) == 0:
	case response.StatusCode < 300:
		err = json.Unmarshal(a.body, &a.cart)
	default:
		err = json.Unmarshal(a.body, &a.problem)
	}
	return a, err
}

// must is call where nothing may go wrong on the way.
func (p *process) must(method, path, body string, headers ...string) answer {
	p.t.Helper()
	a, err := p.call(method, path, body, headers...)
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", method, path, err, p.output())
	}
	return a
}

// create creates a cart with n units of a product and returns its path.
func (p *process) create(n int) string {
	p.t.Helper()
	a := p.must("POST", "/v1/carts", fmt.Sprintf(`{"currency":"EUR","line_items":[{"sku":"TEE-RED","quantity":%d}]}`, n))
	if a.status != http.StatusCreated {
		p.t.Fatalf("create: %d %s", a.status, a.body)
	}
	return "/v1/carts/" + a.cart.ID
}

// await waits until ready holds.
func await(t testing.TB, what string, ready func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// readyStatus returns the status of /readyz, or 0 where nobody answers.
func (p *process) readyStatus() int {
	response, err := http.Get(p.admin + "/readyz")
	if err != nil {
		return 0
	}
	response.Body.Close()
	return response.StatusCode
}

// shared returns the path of a fixture, or skips the test.
func shared(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("SHARED_DIR")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		t.Skipf("there are no fixtures in %s: set SHARED_DIR", path)
	}
	return path
}
