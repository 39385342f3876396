//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"cartd/api"
	"cartd/internal/pgtest"
)

var (
	clusterRounds   = flag.Int("cluster.rounds", 0, "rounds of BenchmarkCluster, which is skipped without")
	clusterDuration = flag.Duration("cluster.duration", 4*time.Second, "how long BenchmarkCluster measures a rate")
	clusterBaseline = flag.Bool("cluster.baseline", false, "be the handler that BenchmarkCluster compares with")
)

const (
	benchCarts       = 10_000
	benchConnections = 32
	benchRate        = 1000 // adds a second
)

// setup is what is measured.
type setup struct {
	name  string
	start func(b *testing.B, server *pgtest.Server) (*bench, error)
}

// bench is a setup that runs.
type bench struct {
	load
	nodes []*process
	debug bool // they tell of themselves
}

var setups = []setup{
	{"handler", func(b *testing.B, _ *pgtest.Server) (*bench, error) {
		p := launchCommand(b, exec.Command(os.Args[0], "-test.run=^TestBaselineHandler$", "-cluster.baseline"))
		return &bench{nodes: []*process{p}}, nil
	}},
	{"1 node, SQLite", func(b *testing.B, _ *pgtest.Server) (*bench, error) {
		return &bench{nodes: []*process{start(b, b.TempDir())}, debug: true}, nil
	}},
	{"1 node", func(b *testing.B, server *pgtest.Server) (*bench, error) {
		url, err := database(server)
		return &bench{nodes: []*process{startOn(b, "--database-url", url)}, debug: true}, err
	}},
	{"3 nodes", func(b *testing.B, server *pgtest.Server) (*bench, error) {
		url, err := database(server)
		z := &bench{debug: true}
		for _, n := range newCluster(b, 3, url).nodes {
			z.nodes = append(z.nodes, n.process)
		}
		return z, err
	}},
}

// database makes an empty database.
func database(server *pgtest.Server) (url string, err error) {
	name := fmt.Sprint("bench", time.Now().UnixNano())
	url = strings.Replace(server.URL, "/postgres?", "/"+name+"?", 1)
	return url, pgtest.Exec(server.URL, "CREATE DATABASE "+name)
}

// BenchmarkCluster measures adds at one node and at three, as make bench-cluster prints them. The setups take
// turns, as what else the machine does varies; each turn begins with fresh processes and carts.
func BenchmarkCluster(b *testing.B) {
	if *clusterRounds == 0 {
		b.Skip("takes minutes: make bench-cluster")
	}
	build(b)
	server := pgtest.Start(b)
	results := make([][]result, len(setups))
	for range *clusterRounds {
		for i, s := range setups {
			results[i] = append(results[i], measure(b, s, server))
		}
	}
	b.ReportMetric(0, "ns/op")
	printResults(results)
}

// result is what was measured in a turn of a setup.
type result struct {
	adds                       float64 // a second, at most
	nodeCPU, databaseCPU       float64 // seconds for 10,000 adds at that rate, and until all are saved
	loadCPU                    float64 // of the load
	at1000, atHalf             *outcome
	halfRate                   float64
	saved, conflicts           float64 // carts written to the store for 10,000 adds, and how often two nodes wrote one at once
	pause                      float64 // seconds for which the nodes left the database alone
	inPeers, database, refused int64   // at all rates
	hedges                     int64
}

func measure(b *testing.B, s setup, server *pgtest.Server) (z result) {
	b.Helper()
	n, err := s.start(b, server)
	if err != nil {
		b.Fatal(err)
	}
	defer n.stop()
	for _, p := range n.nodes {
		n.targets = append(n.targets, strings.TrimPrefix(p.api, "http://"))
	}
	n.tb = b
	n.prepare(benchCarts)
	n.settle()

	before := n.total()
	nodes, pg, own := n.cpu(), cpuOf(b, server.Pid()), ownCPU(b)
	most := n.closed(benchConnections, *clusterDuration)
	own = ownCPU(b) - own
	z.pause = n.total().pause
	n.settle()
	after := n.total()
	each := 10_000 / float64(most.acked())
	z.adds = most.rate()
	z.nodeCPU, z.databaseCPU, z.loadCPU = (n.cpu()-nodes)*each, (cpuOf(b, server.Pid())-pg)*each, own*each
	z.saved, z.conflicts = float64(after.changes-before.changes)*each, float64(after.conflicts-before.conflicts)*each

	z.at1000 = n.open(benchRate, *clusterDuration)
	z.halfRate = z.adds / 2
	z.atHalf = n.open(z.halfRate, *clusterDuration)
	for _, o := range []*outcome{most, z.at1000, z.atHalf} {
		z.inPeers += o.inPeers
		z.database += o.database
		z.refused += o.refused
	}
	z.hedges = n.total().hedges - before.hedges
	return z
}

func (n *bench) stop() {
	for _, p := range n.nodes {
		p.kill()
	}
}

// total is what the nodes tell of themselves, added up.
type total struct {
	unsaved                             int
	commits, changes, conflicts, hedges int64
	pause                               float64 // the longest, in seconds
}

func (n *bench) total() (z total) {
	if !n.debug {
		return z
	}
	for _, p := range n.nodes {
		response, err := http.Get(p.admin + "/debug/cluster")
		if err != nil {
			n.tb.Fatal(err)
		}
		var s status
		err = json.NewDecoder(response.Body).Decode(&s)
		response.Body.Close()
		if err != nil {
			n.tb.Fatal(err)
		}
		z.unsaved += s.Carts.Unsaved + s.Store.Pending
		z.commits += s.Store.Commits
		z.changes += s.Store.Changes
		z.conflicts += s.Store.Conflicts
		z.hedges += s.Carts.Hedges
		z.pause = max(z.pause, s.Carts.FlushPause)
	}
	return z
}

// settle returns when the nodes have saved everything, and have committed nothing for a while.
func (n *bench) settle() {
	n.tb.Helper()
	began := time.Now()
	last, since := n.total(), began
	for time.Since(since) < 300*time.Millisecond {
		if time.Since(began) > time.Minute {
			n.tb.Fatalf("the nodes do not come to rest: %+v", last)
		}
		<-time.After(20 * time.Millisecond)
		if z := n.total(); z.commits != last.commits || z.unsaved > 0 {
			last, since = z, time.Now()
		}
	}
}

// cpu returns the seconds of processor that the nodes have used.
func (n *bench) cpu() (seconds float64) {
	for _, p := range n.nodes {
		seconds += cpuOf(n.tb, p.cmd.Process.Pid)
	}
	return seconds
}

// cpuOf returns the seconds of processor that a process has used, and those that it started.
func cpuOf(tb testing.TB, pid int) (seconds float64) {
	tb.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	const ticks = 100 // a second, on every Linux that Go runs on
	found := false
	for _, path := range all {
		content, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// After the name, which is in parentheses: the state, the parent, …; see proc(5).
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		number := func(i int) int {
			n, err := strconv.Atoi(fields[i-3])
			if err != nil {
				tb.Fatalf("%s: %v", path, err)
			}
			return n
		}
		is := filepath.Base(filepath.Dir(path)) == strconv.Itoa(pid)
		if is || number(4) == pid {
			seconds += float64(number(14)+number(15)) / ticks
		}
		if is { // and of those that have ended
			seconds += float64(number(16)+number(17)) / ticks
		}
		found = found || is
	}
	if !found {
		tb.Fatalf("there is no process %d", pid)
	}
	return seconds
}

// ownCPU returns the seconds of processor that this process has used.
func ownCPU(tb testing.TB) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// printResults prints a table, each value the median of the rounds.
func printResults(results [][]result) {
	columns := []struct {
		name   string
		format string
		of     func(r result) float64
	}{
		{"adds/s at most", "%.0f", func(r result) float64 { return r.adds }},
		{"CPU s / 10,000 adds: nodes", "%.2f", func(r result) float64 { return r.nodeCPU }},
		{"PostgreSQL", "%.2f", func(r result) float64 { return r.databaseCPU }},
		{"together", "%.2f", func(r result) float64 { return r.nodeCPU + r.databaseCPU }},
		{"the load", "%.2f", func(r result) float64 { return r.loadCPU }},
		{"carts saved / 10,000 adds", "%.0f", func(r result) float64 { return r.saved }},
		{"of these, two nodes at once", "%.0f", func(r result) float64 { return r.conflicts }},
		{"pause between flushes, s", "%.2f", func(r result) float64 { return r.pause }},
		{"p50 at 1,000/s, ms", "%.2f", func(r result) float64 { return ms(r.at1000.latencies, 50) }},
		{"p99", "%.2f", func(r result) float64 { return ms(r.at1000.latencies, 99) }},
		{"sent late, p99", "%.2f", func(r result) float64 { return ms(r.at1000.late, 99) }},
		{"half of the maximum, adds/s", "%.0f", func(r result) float64 { return r.halfRate }},
		{"p50 at that rate, ms", "%.2f", func(r result) float64 { return ms(r.atHalf.latencies, 50) }},
		{"p99", "%.2f", func(r result) float64 { return ms(r.atHalf.latencies, 99) }},
		{"sent late, p99", "%.2f", func(r result) float64 { return ms(r.atHalf.late, 99) }},
		{"acknowledged by peers, %", "%.2f", func(r result) float64 { return 100 * float64(r.inPeers) / float64(r.inPeers+r.database) }},
		{"adds that peers were late with", "%.0f", func(r result) float64 { return float64(r.hedges) }},
		{"refused", "%.0f", func(r result) float64 { return float64(r.refused) }},
	}
	fmt.Printf("\n%d rounds of %v; %d carts of five lines, %d connections, %d processors. Median (least to greatest).\n\n| |",
		*clusterRounds, *clusterDuration, benchCarts, benchConnections, runtime.NumCPU())
	for _, s := range setups {
		fmt.Printf(" %s |", s.name)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(setups)))
	for _, c := range columns {
		fmt.Printf("| %s |", c.name)
		for _, rounds := range results {
			least, middle, greatest := spread(rounds, c.of)
			fmt.Printf(" "+c.format+" ("+c.format+" to "+c.format+") |", middle, least, greatest)
		}
		fmt.Println()
	}
	// Ratios within a round, as the machine changes between them.
	together := columns[3].of
	for _, against := range []int{0, 2} {
		fmt.Printf("| CPU against %s |", setups[against].name)
		for i := range results {
			ratios := make([]float64, len(results[i]))
			for round, r := range results[i] {
				ratios[round] = together(r) / together(results[against][round])
			}
			least, middle, greatest := spread(ratios, func(x float64) float64 { return x })
			fmt.Printf(" %.2f (%.2f to %.2f) |", middle, least, greatest)
		}
		fmt.Println()
	}
}

func ms(sorted []time.Duration, p float64) float64 { return percentile(sorted, p).Seconds() * 1000 }

// spread returns the least, the median and the greatest value.
func spread[T any](all []T, of func(T) float64) (least, middle, greatest float64) {
	values := make([]float64, len(all))
	for i, v := range all {
		values[i] = of(v)
	}
	slices.SortFunc(values, cmp.Compare[float64])
	n := len(values)
	return values[0], (values[(n-1)/2] + values[n/2]) / 2, values[n-1]
}

// TestBaselineHandler is a process of its own: the least that a server in Go needs for such requests. It parses
// them and answers with a cart of five lines that it has ready.
func TestBaselineHandler(t *testing.T) {
	if !*clusterBaseline {
		t.Skip("a process of BenchmarkCluster")
	}
	const id = "AAAAAAAAAAAAAAAAAAAAAA"
	cart := api.Cart{ID: id, State: "active", Currency: "EUR", DiscountCodes: []string{}, CreatedAt: time.Now(), UpdatedAt: time.Now(), ExpiresAt: time.Now()}
	for i, sku := range skus {
		title, price := "A title of 24 characters", int64(1000+i)
		cart.LineItems = append(cart.LineItems, api.LineItem{
			ID: "AAAAAAAAAAA", SKU: sku, Options: map[string]string{}, Title: &title, Quantity: 2,
			UnitPrice: &api.Price{Amount: price, Currency: "EUR"}, Subtotal: &api.Money{Amount: 2 * price, Currency: "EUR"},
		})
	}
	body, err := json.Marshal(cart)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, status int) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("ETag", `"AAAAAAAAAAA"`)
		h.Set("Cart-Context", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
		w.WriteHeader(status)
		_, _ = w.Write(body) // who asked may be gone
	}
	r := chi.NewRouter()
	r.Post("/v1/carts", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusCreated) })
	r.Get("/v1/carts/{id}", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK) })
	r.Post("/v1/carts/{id}/line-items", func(w http.ResponseWriter, r *http.Request) {
		var item api.LineItemAdd
		if err := json.NewDecoder(r.Body).Decode(&item); err != nil || chi.URLParam(r, "id") != id {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		answer(w, http.StatusOK)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, `{"msg":"serving","listen":%q,"admin_listen":""}`+"\n", l.Addr())
	t.Fatal(http.Serve(l, r))
}
