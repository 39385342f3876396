package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cartd/gossip"
	"cartd/internal/pgtest"
)

// TestRollingRestart: the days of a real shop, or an invented one, are replayed at three nodes, where requests hop
// from one to the next, while one node after the other is stopped and started again. No request fails, not
// even by a refused connection, and every cart is what the files say.
func TestRollingRestart(t *testing.T) {
	build(t)
	t.Parallel()
	r := newRolling(t)
	files := days(t)
	restarted, replayed := make(chan struct{}), make(chan int)
	go func() {
		passes := 0
		for over := false; !over && r.replay(files); passes++ {
			select {
			case <-restarted:
				over = true
			default:
			}
		}
		replayed <- passes
	}()
	for i := range r.nodes {
		r.restart(i)
	}
	close(restarted)
	t.Logf("all files %d times", <-replayed)
}

// TestRestartsDuringAnOutage: while the database is away writes are acknowledged, and then one node after the other is
// stopped, or killed, and another takes its place, each only when the one before is ready. When the database is back,
// nothing is lost.
func TestRestartsDuringAnOutage(t *testing.T) {
	build(t)
	for _, test := range []struct {
		name    string
		restart func(*rolling, int)
	}{{"stopped", (*rolling).restart}, {"killed", (*rolling).replace}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRolling(t)
			units := make(map[string]int64)
			for i := range 60 {
				units[r.nodes[i%3].create(1)] = 1
			}
			await(t, "all is saved", func() bool {
				for _, n := range r.nodes {
					if n.status().Carts.Unsaved > 0 {
						return false
					}
				}
				return true
			})
			r.database.Kill(t)
			await(t, "the nodes know", func() bool {
				for _, n := range r.nodes {
					if n.status().Store.Reachable {
						return false
					}
				}
				return true
			})
			i := 0
			for path := range units {
				if i++; i <= 20 { // what they build on, only the database has in the end
					r.add(i%3, path)
					units[path]++
				}
			}
			for i := range 20 {
				units[r.nodes[i%3].create(1)] = 1
			}
			for i := range r.nodes {
				test.restart(r, i)
			}
			path := r.nodes[0].create(1) // with newcomers alone
			r.add(1, path)
			units[path] = 2
			r.database.Restart(t)
			for i := range r.nodes {
				for path, want := range units {
					await(t, "the node shows what was acknowledged", func() bool {
						a := r.nodes[i].must("GET", path, "")
						return a.status == http.StatusOK && a.cart.TotalQuantity == want
					})
				}
			}
			for i := range r.nodes {
				r.end(i)
			}
			fresh := startOn(t, "--database-url", r.database.URL)
			for path, want := range units {
				if a := fresh.must("GET", path, ""); a.status != http.StatusOK || a.cart.TotalQuantity != want {
					t.Errorf("the database has %d %s, not %d units", a.status, a.body, want)
				}
			}
		})
	}
}

// add adds a unit to a cart, at a node.
func (r *rolling) add(i int, path string) {
	r.t.Helper()
	if a := r.nodes[i].must("POST", path+"/line-items", `{"sku":"TEE-RED"}`); a.status != http.StatusOK {
		r.t.Fatalf("add: %d %s", a.status, a.body)
	}
}

// days returns the files of the shop's days.
func days(t *testing.T) []string {
	dir := os.Getenv("SHARED_DIR")
	files, err := filepath.Glob(filepath.Join(dir, "data/online-retail", "*.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if dir == "" || len(files) == 0 {
		t.Log("no real days: set SHARED_DIR")
		return []string{inventedDay(t)}
	}
	return files
}

// rolling is three nodes on a database, each with addresses of its own that it keeps over a restart.
type rolling struct {
	t        *testing.T
	database *pgtest.Server
	args     [][]string
	apis     []string
	nodes    []*process
}

func newRolling(t *testing.T) *rolling {
	r := &rolling{t: t, database: pgtest.Start(t)}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(gossip.GenerateKey().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 3
	var gossipAt []string
	for range size {
		gossipAt = append(gossipAt, freeAddress(t))
	}
	for i := range size {
		r.args = append(r.args, []string{
			"serve", "--dev", "--database-url", r.database.URL, "--cluster-key-file", key, "--join", strings.Join(gossipAt, ","),
			"--listen", freeAddress(t), "--admin-listen", freeAddress(t), "--gossip-listen", gossipAt[i], "--link-listen", freeAddress(t),
		})
		r.nodes = append(r.nodes, r.launch(i))
		r.apis = append(r.apis, r.nodes[i].api)
	}
	for _, n := range r.nodes {
		await(t, "all nodes are ready", func() bool { return n.readyStatus() == http.StatusOK })
	}
	return r
}

func (r *rolling) launch(i int) *process {
	r.t.Helper()
	cartd, _ := build(r.t)
	p := launchCommand(r.t, exec.Command(cartd, r.args[i]...))
	if p.api == "" {
		r.t.Fatalf("cartd did not start:\n%s", p.output())
	}
	return p
}

// replay replays files at all nodes that are ready, and reports whether all was well.
func (r *rolling) replay(files []string) bool {
	_, cartload := build(r.t)
	reportFile := filepath.Join(r.t.TempDir(), "report.json")
	out, err := exec.CommandContext(r.t.Context(), cartload, append([]string{
		"replay", "--follow-ready", "--concurrency", "1", "--target", strings.Join(r.apis, ","), "--json", reportFile,
	}, files...)...).CombinedOutput()
	if err != nil {
		r.t.Errorf("cartload: %v\n%s", err, out)
		return false
	}
	var report struct {
		Retries    map[string]int
		Mismatches int
		Operations int
	}
	content, err := os.ReadFile(reportFile)
	if err == nil {
		err = json.Unmarshal(content, &report)
	}
	if err != nil || len(report.Retries) > 0 || report.Mismatches > 0 || report.Operations == 0 {
		r.t.Errorf("%v %+v\n%s", err, report, out)
		return false
	}
	return true
}

// restart stops a node and starts it again. It returns when the node is ready.
func (r *rolling) restart(i int) {
	r.t.Helper()
	r.end(i)
	r.start(i)
}

// replace kills a node and starts it again. It returns when the node is ready.
func (r *rolling) replace(i int) {
	r.t.Helper()
	r.nodes[i].kill()
	r.start(i)
}

// end stops a node in good order.
func (r *rolling) end(i int) {
	r.t.Helper()
	if code := r.nodes[i].terminate(); code != 0 {
		r.t.Errorf("exit code %d:\n%s", code, r.nodes[i].output())
	}
}

func (r *rolling) start(i int) {
	r.t.Helper()
	r.nodes[i] = r.launch(i)
	await(r.t, "the node is ready", func() bool { return r.nodes[i].readyStatus() == http.StatusOK })
}
