package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spf13/pflag"

	"cartd/gossip"
	"cartd/internal/pgtest"
)

// keygen runs cartd keygen.
func keygen(t *testing.T) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"keygen"}, nil, &stdout, &stderr); code != 0 || stderr.Len() > 0 {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	return stdout.String()
}

func TestKeygen(t *testing.T) {
	first, second := keygen(t), keygen(t)
	if first == second {
		t.Errorf("twice the same key")
	}
	if text := strings.TrimSuffix(first, "\n"); len(text) != 44 || len(first) != 45 {
		t.Errorf("not one line of 44 characters: %q", first)
	} else if _, err := gossip.ParseKey(text); err != nil {
		t.Error(err)
	}
}

// TestClusterSettings: a node that can be joined has a key, what is out of range is refused in one line, and no
// key is shown.
func TestClusterSettings(t *testing.T) {
	key := strings.TrimSpace(keygen(t))
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := file("key", key+"\n"), file("bad", key[:40]+"\n")
	huge := file("huge", key+"\n")
	if err := os.Truncate(huge, 100<<20); err != nil {
		t.Fatal(err)
	}
	var others []string
	for range gossip.MaxKeys {
		others = append(others, strings.TrimSpace(keygen(t)))
	}
	with := func(args ...string) []string { return append([]string{"--cluster-key-file", good}, args...) }
	wan := func(args ...string) []string {
		return with(append([]string{"--region", "eu", "--wan-listen", ":7948"}, args...)...)
	}
	for _, test := range []struct {
		name    string
		args    []string
		environ []string
		says    string
	}{
		{"join without a key", []string{"--join", "10.0.0.7:7946"}, nil, "cartd keygen"},
		{"gossip port without a key", []string{"--gossip-listen", ":7946"}, nil, "cartd keygen"},
		{"link port without a key", nil, []string{"CARTD_LINK_LISTEN=:7947"}, "--link-listen"},
		{"failures to tolerate without a key", []string{"--tolerate", "1"}, nil, "--tolerate is for a node"},
		{"two keys", with("--cluster-key", key), nil, "contradict"},
		{"two keys, one a variable", with(), []string{"CARTD_CLUSTER_KEY=" + key}, "contradict"},
		{"no key in the flag", []string{"--cluster-key", ""}, nil, "--cluster-key is not a cluster key"},
		{"a short key", []string{"--cluster-key", key[:40]}, nil, "--cluster-key is not a cluster key"},
		{"a short key in a file", nil, []string{"CARTD_CLUSTER_KEY_FILE=" + bad}, "bad: line 1 is not a cluster key"},
		{"a key that is none", []string{"--cluster-key", strings.Repeat("A", 43) + "="}, nil, "--cluster-key is not a cluster key"},
		{"no file", []string{"--cluster-key-file", filepath.Join(dir, "none")}, nil, "--cluster-key-file: open"},
		{"a directory", []string{"--cluster-key-file", dir}, nil, "--cluster-key-file: read"},
		{"a file without an end", []string{"--cluster-key-file", "/dev/zero"}, nil, "not a file of keys: it has more than 16384 bytes"},
		{"a file of 100 MB", []string{"--cluster-key-file", huge}, nil, "not a file of keys: it has more than 16384 bytes"},
		{"an empty file", []string{"--cluster-key-file", file("empty", "")}, nil, "empty: no key"},
		{"a file of notes", []string{"--cluster-key-file", file("notes", "# none\n\n")}, nil, "notes: no key"},
		{"a key in the middle that is none", []string{"--cluster-key-file", file("middle", key+"\n"+others[0][:40]+"\n"+others[1])}, nil, "line 2 is not a cluster key"},
		{"five keys", []string{"--cluster-key-file", file("five", key+"\n# and\n"+strings.Join(others, "\n"))}, nil, "line 6 is one key too many: 4 are the most"},
		{"a key twice", []string{"--cluster-key-file", file("twice", key+"\r\n"+others[0]+"\r\n"+key+"\r\n")}, nil, "line 3 repeats the key of line 1"},
		{"one replica", with("--replicas", "1"), nil, "--replicas is 1, not 2 to 16"},
		{"many replicas", with("--replicas", "17"), nil, "--replicas is 17, not 2 to 16"},
		{"nothing to tolerate", with("--tolerate", "0"), nil, "--tolerate is 0, not 1 to 2"},
		{"all to fail", with("--tolerate", "3"), nil, "--tolerate is 3, not 1 to 2"},
		{"a long drain", with("--drain-time", "61s"), nil, "--drain-time is 1m1s, not 0 to 1m"},
		{"a drain that is over before", with("--drain-time", "-1s"), nil, "--drain-time is -1s"},
		{"a short flush", with("--flush-time", "999ms"), nil, "--flush-time is 999ms, not 1s to 1h"},
		{"a long flush", with("--flush-time", "61m"), nil, "--flush-time is 1h1m0s"},
		{"a drain alone", []string{"--drain-time", "1s"}, nil, "--drain-time is for a node"},
		{"no region", with("--region", ""), nil, "--region"},
		{"a region of two words", with("--region", "eu west"), nil, "--region"},
		{"a long zone", with("--zone", strings.Repeat("z", 65)), nil, "--zone"},
		{"an address without a port", with("--join", "10.0.0.7"), nil, "--join"},
		{"an address of port 0", with("--join", "10.0.0.7:0"), nil, "--join"},
		{"an address without a host", with("--join", "127.0.0.1:7946,:7946"), nil, `--join is ":7946"`},
		{"a host with a port", with("--advertise-host", "10.0.0.7:7946"), nil, "--advertise-host"},
		{"no host", with("--advertise-host", "0.0.0.0"), nil, "--advertise-host"},
		{"a host for other regions with a port", wan("--advertise-wan-host", "10.0.0.7:7948"), nil, "--advertise-wan-host"},
		{"a host for other regions without a port for them", with("--advertise-wan-host", "10.0.0.7"), nil, "give --wan-listen"},
		{"an address to join elsewhere without a port", wan("--join-wan", "10.0.0.7"), nil, `--join-wan is "10.0.0.7"`},
		{"other regions without a port for them", with("--join-wan", "10.0.0.7:7948", "--region", "eu"), nil, "give --wan-listen"},
		{"other regions without a name", with("--wan-listen", ":7948"), nil, "give each a name of its own, as --region"},
		{"other regions without a key", []string{"--wan-listen", ":7948"}, nil, "--wan-listen is for a node"},
		{"one port for two pools", wan("--wan-listen", "127.0.0.1:7946"), nil, "--gossip-listen and --wan-listen are both"},
		{"no address for other regions", wan("--wan-listen", "there"), nil, "--wan-listen"},
		{"one port for two", with("--link-listen", "127.0.0.1:7946"), nil, "--gossip-listen and --link-listen are both"},
		{"the API's port for links", with("--link-listen", "127.0.0.1:8080"), nil, "--listen and --link-listen are both"},
		{"no address", with("--gossip-listen", "here"), nil, "--gossip-listen"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"serve"}, test.args...), test.environ, &out, &out)
		said := out.String()
		if code != 2 || !strings.Contains(said, test.says) || strings.Count(said, "\n") != 1 || strings.Contains(said, key[:40]) || strings.Contains(said, others[0][:40]) {
			t.Errorf("%s: exit code %d: %s", test.name, code, said)
		}
	}
}

// parsed returns the settings that arguments of serve make.
func parsed(t testing.TB, args ...string) config {
	t.Helper()
	var c config
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := c.check(f.Changed); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestJoinMayBeRepeated(t *testing.T) {
	c := parsed(t, "--cluster-key", strings.TrimSpace(keygen(t)), "--join", "a.example:7946,[fd00::7]:7946", "--join", "10.0.0.7:1")
	if got := strings.Join(c.cluster.join, " "); got != "a.example:7946 [fd00::7]:7946 10.0.0.7:1" {
		t.Errorf("joins %s", got)
	}
	if c.cluster.keys == nil || c.cluster.keyText != "" {
		t.Error("the key was not taken, or its text was kept")
	}
}

// logs is what a node logs.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// member is a node in this process, and a client of it.
type member struct {
	*node
	process
	logs *logs
	key  string
}

// startMember starts a node of a region whose other nodes are given; args say where its carts are.
func startMember(t testing.TB, key string, others []*member, args ...string) *member {
	t.Helper()
	const free = "127.0.0.1:0"
	args = append(args, "--dev", "--listen", free, "--admin-listen", free, "--gossip-listen", free, "--link-listen", free, "--cluster-key", key)
	for _, o := range others {
		args = append(args, "--join", o.region.Status().Self.GossipAddr)
	}
	m := &member{logs: new(logs), key: key}
	n, err := startNode(t.Context(), parsed(t, args...), slog.New(slog.NewJSONHandler(m.logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	m.node = n
	m.process = process{t: t, api: "http://" + n.publicAddr.String(), admin: "http://" + n.adminAddr.String()}
	t.Cleanup(func() { m.halt() })
	return m
}

// halt stops the node, if it runs.
func (m *member) halt() {
	m.process.t.Helper()
	if err := m.stop(); err != nil {
		m.process.t.Errorf("stop: %v\n%s", err, m.logs)
	}
	if strings.Contains(m.logs.String(), m.key) {
		m.process.t.Errorf("the key is in the log")
	}
}

// debug reads /debug/cluster, in which nothing is but what status has.
func (m *member) debug() (z status) {
	m.process.t.Helper()
	d := json.NewDecoder(strings.NewReader(m.get("/debug/cluster")))
	d.DisallowUnknownFields()
	if err := d.Decode(&z); err != nil {
		m.process.t.Fatal(err)
	}
	return z
}

// get reads from the operators' listener.
func (m *member) get(path string) string {
	m.process.t.Helper()
	response, err := http.Get(m.process.admin + path)
	if err != nil {
		m.process.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		m.process.t.Fatal(err)
	}
	return string(b)
}

// add adds a unit to the cart at path and returns the durability that was reached. What was not durable it
// repeats under one key, as clients do: then it counts once.
func (m *member) add(path string, headers ...string) (reached string) {
	m.process.t.Helper()
	headers = append(headers, "Idempotency-Key", rand.Text())
	await(m.process.t, "the write is acknowledged", func() bool {
		a := m.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`, headers...)
		reached = a.header.Get("Cart-Durability")
		switch {
		case a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "" && reached == "":
			return false
		case a.status != http.StatusOK:
			m.process.t.Fatalf("add: %d %s\n%s", a.status, a.body, m.logs)
		}
		return true
	})
	return reached
}

func (m *member) wantReady() {
	m.process.t.Helper()
	await(m.process.t, "the node is ready", func() bool { return m.readyStatus() == http.StatusOK })
}

// TestRegion: two nodes take each other's carts, and tell operators of it.
func TestRegion(t *testing.T) {
	t.Run("database", func(t *testing.T) { testRegion(t, true, "--database-url", pgtest.New(t)) })
	t.Run("files", func(t *testing.T) { testRegion(t, false) })
}

func testRegion(t *testing.T, shared bool, args ...string) {
	where := func() []string {
		if shared {
			return args
		}
		return []string{"--data-dir", t.TempDir()}
	}
	key := strings.TrimSpace(keygen(t))
	a := startMember(t, key, nil, append(where(), "--zone", "one")...)
	b := startMember(t, key, []*member{a}, append(where(), "--zone", "two")...)
	if !shared && !strings.Contains(a.logs.String(), "can die with it") {
		t.Error("the log does not tell what a file of one's own means")
	}
	await(t, "the nodes are linked", func() bool { return a.debug().Linked == 1 && b.debug().Linked == 1 })
	a.wantReady()
	b.wantReady()

	path := a.create(1)
	units := int64(1)
	// A write that both hold says so. A busy machine may be too slow for that, and goes to the database.
	await(t, "both nodes hold a write", func() bool { units++; return a.add(path) == "peers=2" })
	want := "peers=2"
	if shared {
		want = "database"
	}
	if got := b.add(path, "Cart-Durability", "database"); got != want {
		t.Errorf("reached %q, not %q", got, want)
	}
	units++
	seen := a.must("GET", path, "").header.Get("Cart-Context")
	if got := b.must("GET", path, "", "Cart-Context", seen); got.status != http.StatusOK {
		t.Errorf("%d %s", got.status, got.body)
	}
	await(t, "both nodes show all units", func() bool {
		return a.must("GET", path, "").cart.TotalQuantity == units && b.must("GET", path, "").cart.TotalQuantity == units
	})

	for _, m := range []*member{a, b} {
		other := a
		if m == a {
			other = b
		}
		z := m.debug()
		if z.Node == nil || len(z.Members) != 1 || len(z.Links) != 1 || z.Carts == nil || z.Store == nil {
			t.Fatalf("incomplete: %s", m.get("/debug/cluster"))
		}
		self := startID(other.region.Status().Self.Start)
		if z.Members[0].StartID != self || z.Members[0].Region != "local" || z.Members[0].LinkAddress == "" ||
			z.Links[0].StartID != self || !z.Links[0].Up || z.Links[0].Peer != z.Members[0].Name ||
			z.Needed != 1 || !z.Ready || z.Carts.Resident != 1 || !z.Carts.Indexed || !z.Store.Reachable {
			t.Errorf("it does not tell of the other node: %s", m.get("/debug/cluster"))
		}
		if said := m.logs.String(); !strings.Contains(said, `"peer":"`+z.Links[0].Peer) {
			t.Errorf("the log does not name the peer:\n%s", said)
		}
		page := m.get("/metrics")
		for _, line := range []string{
			"cartd_members 2", `cartd_link_up{peer="` + z.Links[0].Peer + `"} 1`, "cartd_peers_linked 1", "cartd_carts_resident 1",
			`cartd_gossip_refused_total{reason="link-plaintext"} 0`, `cartd_payloads_refused_total{reason="malformed"} 0`,
			"cartd_store_reachable 1", "cartd_ready 1", "go_goroutines ", "process_cpu_seconds_total ",
		} {
			if !strings.Contains(page, "\n"+line) {
				t.Errorf("no %q in the metrics:\n%s", line, page)
			}
		}
		problems, err := testutil.CollectAndLint(&metrics{m.node.status})
		if err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
	}

	// A node that is left alone takes writes only where there is a database.
	b.halt()
	await(t, "the other node has gone", func() bool { return a.debug().Linked == 0 })
	if !shared {
		await(t, "the node is not ready", func() bool { return a.readyStatus() == http.StatusServiceUnavailable })
		if got := a.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`); got.status != http.StatusServiceUnavailable {
			t.Errorf("%d %s", got.status, got.body)
		}
		return
	}
	a.wantReady()
	if got := a.add(path); got != "database" {
		t.Errorf("reached %q alone", got)
	}
}

// TestRegionWithoutDatabase: nodes that start while the database is away take writes, and save them when it
// is back.
func TestRegionWithoutDatabase(t *testing.T) {
	server := pgtest.Start(t)
	server.Stop(t)
	key := strings.TrimSpace(keygen(t))
	a := startMember(t, key, nil, "--database-url", server.URL)
	if code := a.readyStatus(); code != http.StatusServiceUnavailable {
		t.Errorf("a node with neither peers nor a database is ready: %d", code)
	}
	b := startMember(t, key, []*member{a}, "--database-url", server.URL, "--flush-time", "3s")
	a.wantReady()
	b.wantReady()
	path := a.create(1)
	if got := a.add(path); got != "peers=2" {
		t.Errorf("reached %q", got)
	}
	units := int64(2)
	if z := a.debug(); z.Store.Reachable || z.Carts.Unsaved == 0 || z.Checks["store"] == "ok" {
		t.Errorf("it does not tell of the database: %+v %+v %v", z.Store, z.Carts, z.Checks)
	}
	server.Restart(t)
	await(t, "the database has everything", func() bool { z := a.debug(); return z.Store.Reachable && z.Carts.Unsaved == 0 })
	if got := b.add(path, "Cart-Durability", "database"); got != "database" {
		t.Errorf("reached %q", got)
	}
	units++
	await(t, "both nodes show all units", func() bool {
		return a.must("GET", path, "").cart.TotalQuantity == units && b.must("GET", path, "").cart.TotalQuantity == units
	})

	// A node that stops without the database says so where too few others are there to hold what that lacks.
	server.Stop(t)
	if got := b.add(path); got != "peers=2" {
		t.Errorf("reached %q", got)
	}
	units++
	if err := b.stop(); err == nil || !strings.Contains(err.Error(), "too few other nodes hold them") {
		t.Errorf("stop: %v", err)
	}
	server.Restart(t)
	await(t, "the database has everything", func() bool { z := a.debug(); return z.Store.Reachable && z.Carts.Unsaved == 0 })
	if got := a.must("GET", path, ""); got.cart.TotalQuantity != units {
		t.Errorf("%d units, not %d", got.cart.TotalQuantity, units)
	}
}

// TestRegions: bridges of two regions are linked, and operators see which region can be reached.
func TestRegions(t *testing.T) {
	key := strings.TrimSpace(keygen(t))
	startIn := func(region string, others []*member, joinWAN ...*member) *member {
		args := []string{"--data-dir", t.TempDir(), "--region", region, "--wan-listen", "127.0.0.1:0"}
		for _, m := range joinWAN {
			args = append(args, "--join-wan", m.region.Status().WANAddr)
		}
		return startMember(t, key, others, args...)
	}
	a := startIn("eu", nil)
	b := startIn("eu", []*member{a}, a)
	c := startIn("us", nil, b)
	reached := func(m *member, region string, bridges int) bool {
		z := m.debug()
		return z.Node.Bridge && len(z.Regions) == 1 && z.Regions[0].Region == region && z.Regions[0].Reachable &&
			len(z.Regions[0].Bridges) == bridges && !slices.ContainsFunc(z.Regions[0].Bridges, func(l linkStatus) bool { return !l.Up })
	}
	await(t, "the regions reach each other", func() bool {
		return reached(a, "us", 1) && reached(b, "us", 1) && reached(c, "eu", 2)
	})

	if z := a.debug(); len(z.WANMembers) != 2 || len(z.Members) != 1 || len(z.Links) != 1 || z.Linked != 1 || z.WANAddress != a.region.Status().WANAddr {
		t.Errorf("%s", a.get("/debug/cluster"))
	}
	if z := c.debug(); len(z.Members) != 0 || len(z.Links) != 0 || z.Linked != 0 || !z.Regions[0].Bridges[0].Up || z.Regions[0].Bridges[0].Key == "" {
		t.Errorf("%s", c.get("/debug/cluster"))
	}
	page := c.get("/metrics")
	for _, line := range []string{"cartd_wan_members 3", "cartd_bridge 1", `cartd_region_reachable{region="eu"} 1`, "cartd_members 1", `cartd_region_links{region="eu"} 2`} {
		if !strings.Contains(page, "\n"+line) {
			t.Errorf("no %q in the metrics:\n%s", line, page)
		}
	}
	problems, err := testutil.CollectAndLint(&metrics{c.node.status})
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	await(t, "status shows the ways between the regions", func() bool {
		_, said, _ := ask(t, "status", "--admin", a.adminAddr.String()+","+b.adminAddr.String()+","+c.adminAddr.String())
		return strings.Contains(said, "\neu      us     reached ") && strings.Contains(said, "\nus      eu     reached ")
	})

	b.halt()
	await(t, "one bridge is left", func() bool { return reached(c, "eu", 1) })
	a.halt()
	await(t, "the region is out of reach", func() bool { return strings.Contains(c.get("/metrics"), `cartd_region_reachable{region="eu"} 0`) })
	if _, said, _ := ask(t, "status", "--admin", c.adminAddr.String()); !strings.Contains(said, "eu cannot be reached for ") {
		t.Errorf("%s", said)
	}
}

// TestPortInUse: the error names the flag of the port.
func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	key := strings.TrimSpace(keygen(t))
	ports := []string{"--listen", "--admin-listen", "--gossip-listen", "--link-listen", "--wan-listen"}
	for _, flag := range ports {
		args := []string{"--data-dir", t.TempDir(), "--cluster-key", key, "--region", "eu"}
		for _, f := range ports {
			if f == flag {
				args = append(args, f, taken.Addr().String())
			} else {
				args = append(args, f, "127.0.0.1:0")
			}
		}
		_, err := startNode(t.Context(), parsed(t, args...), slog.New(slog.DiscardHandler))
		if err == nil || !strings.HasPrefix(err.Error(), flag+": ") || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

// A node that is alone tells operators of its carts and its store, and of no cluster.
func TestStatusAlone(t *testing.T) {
	n, err := startNode(t.Context(), parsed(t, "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m := &member{node: n, process: process{t: t, admin: "http://" + n.adminAddr.String()}, logs: new(logs), key: "none"}
	defer m.halt()
	if z := m.debug(); z.Node != nil || len(z.Members)+len(z.Links) > 0 || z.Carts == nil || z.Store.Kind != "sqlite" || !z.Ready || len(z.Checks) != 2 {
		t.Errorf("%s", m.get("/debug/cluster"))
	}
	if page := m.get("/metrics"); strings.Contains(page, "cartd_members") || !strings.Contains(page, "\ncartd_carts_resident 0\n") {
		t.Errorf("%s", page)
	}
}
