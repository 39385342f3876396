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
	t     *testing.T
	args  [][]string
	apis  []string
	nodes []*process
}

func newRolling(t *testing.T) *rolling {
	r := &rolling{t: t}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(gossip.GenerateKey().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	url := pgtest.Start(t).URL
	const size = 3
	var gossipAt []string
	for range size {
		gossipAt = append(gossipAt, freeAddress(t))
	}
	for i := range size {
		r.args = append(r.args, []string{
			"serve", "--dev", "--database-url", url, "--cluster-key-file", key, "--join", strings.Join(gossipAt, ","),
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
	if code := r.nodes[i].terminate(); code != 0 {
		r.t.Errorf("exit code %d:\n%s", code, r.nodes[i].output())
	}
	r.nodes[i] = r.launch(i)
	await(r.t, "the node is ready", func() bool { return r.nodes[i].readyStatus() == http.StatusOK })
}
