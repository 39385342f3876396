package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"cartd/gossip"
	"cartd/internal/pgtest"
)

// healthy is the status of one of three nodes with a database, of which nothing is short.
func healthy() *status {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	z := &status{
		Time: now, Ready: true, Linked: 2, Needed: 1,
		Checks:  map[string]string{"serving": "ok", "store": "ok", "joining": "ok", "clock": "ok", "peers": "2 linked, 1 needed"},
		Node:    &memberStatus{Name: "10.0.0.1:7946/a1", StartID: "a1", Zone: "one", State: "active"},
		Refused: refusedStatus{Network: map[string]uint64{"gossip-key": 0}, Payloads: map[string]int64{"malformed": 0}},
		Carts:   &cartsStatus{Resident: 1000, Unsaved: 12, OldestUnsaved: 0.3},
		Store:   &storeStatus{Kind: "postgres", Reachable: true},
	}
	for _, peer := range []string{"10.0.0.2:7946/b2", "10.0.0.3:7946/c3"} {
		id := peer[len(peer)-2:]
		z.Members = append(z.Members, memberStatus{Name: peer, StartID: id})
		z.Links = append(z.Links, linkStatus{Peer: peer, StartID: id, Up: true, RoundTrip: 0.0004, BacklogItems: 3, Lag: 0.02})
	}
	return z
}

// regions makes a node a bridge that reaches another region, which it returns.
func regions(z *status) *regionStatus {
	z.Node.Bridge, z.Node.Region, z.WANAddress, z.Abroad = true, "eu", "10.0.0.1:7948", 3
	z.WANMembers = []memberStatus{{Name: "10.1.0.1:7946/d4", StartID: "d4", Region: "us", Bridge: true}}
	z.Regions = []regionStatus{{
		Region: "us", Reachable: true, Since: z.Time.Add(-2 * time.Hour), Via: "10.1.0.1:7946/d4", RoundTrip: 0.08, Lag: 0.05,
		Crossings: gossip.Crossings{Sent: 120_000, Received: 110_000, Dropped: 7, LastDropped: z.Time.Add(-time.Hour)},
		Bridges: []linkStatus{
			{Peer: "10.1.0.1:7946/d4", StartID: "d4", Up: true, RoundTrip: 0.08},
			{Peer: "10.1.0.2:7946/e5", StartID: "e5", LastError: "i/o timeout"},
		},
	}}
	return &z.Regions[0]
}

// cutOff makes a region one that cannot be reached.
func cutOff(r *regionStatus) *regionStatus {
	r.Reachable, r.RoundTrip, r.Via = false, 0, ""
	r.Bridges[0].Up, r.Bridges[0].LastError = false, "i/o timeout"
	return r
}

// alone makes a node one without a cluster.
func alone(z *status, kind string) {
	z.Node, z.Members, z.Links, z.Linked, z.Needed = nil, nil, nil, 0, 0
	z.Store.Kind = kind
}

func lose(z *status, peers int) {
	z.Linked -= peers
	for i := range peers {
		z.Links[i].Up, z.Links[i].LastError = false, "EOF"
	}
	z.Members = z.Members[peers:]
}

func away(z *status) {
	z.Store.Reachable, z.Store.AwaySince, z.Store.LastError = false, z.Time.Add(-2*time.Minute), "connection refused"
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(z *status)
		level  level
		want   string // what is found first
	}{
		{"healthy", func(*status) {}, fine, ""},
		{"one of three is lost", func(z *status) { lose(z, 1) }, fine, "lost: 10.0.0.2:7946 is gone: EOF"},
		{"one was replaced", func(z *status) { lose(z, 1); z.Members[0].Name = "10.0.0.2:7946/d4" }, fine, ""},
		{
			"the others are lost", func(z *status) { lose(z, 2) }, atRisk,
			"holders: 0 other nodes linked, 1 needed: only the database holds writes",
		},
		{"no link with a live member", func(z *status) { z.Linked, z.Links[1].Up = 1, false }, atRisk, "link: that with 10.0.0.3:7946 is down: "},
		{"the database is away", away, atRisk, "database: away for 2m0s: connection refused"},
		{"the database is away, and one node", func(z *status) { away(z); lose(z, 1) }, atRisk, "database: away for 2m0s: connection refused"},
		{
			"the database is away, and all other nodes", func(z *status) { away(z); lose(z, 2) }, refusing,
			"holders: 0 other nodes linked, 1 needed, and no database: nobody can hold a write",
		},
		{"the database is full", func(z *status) {
			z.Store.StalledSince, z.Store.StalledBy = z.Time.Add(-time.Second), "No space left on device"
		}, atRisk, "database: takes nothing for 1s: No space left on device"},
		{"the database is full, and the others are lost", func(z *status) {
			lose(z, 2)
			z.Store.StalledSince, z.Store.StalledBy = z.Time, "No space left on device"
		}, refusing, "holders: 0 other nodes linked, 1 needed, and no database: nobody can hold a write"},
		{"files of their own", func(z *status) { z.Store.Kind = "sqlite" }, fine, ""},
		{
			"files of their own, and the others are lost", func(z *status) { z.Store.Kind = "sqlite"; lose(z, 2) }, refusing,
			"holders: 0 other nodes linked, 1 needed, and no database: nobody can hold a write",
		},
		{"alone", func(z *status) { alone(z, "sqlite") }, fine, ""},
		{"alone, the disk is full", func(z *status) {
			alone(z, "sqlite")
			z.Store.StalledSince, z.Store.StalledBy = z.Time, "disk full"
		}, refusing, "disk: takes nothing for 0s: disk full"},
		{"alone, the database is away", func(z *status) { alone(z, "postgres"); away(z) }, refusing, "database: away for 2m0s: connection refused"},
		{"starting", func(z *status) {
			*z = status{Time: z.Time, Checks: map[string]string{"serving": "starting", "store": "ok"}}
		}, atRisk, "serving: the node is not ready: starting"},
		{"joining", func(z *status) { z.Checks["joining"] = "finding out" }, atRisk, "joining: the node is not ready: finding out"},
		{"behind", func(z *status) { z.Carts.OldestUnsaved = 12 }, atRisk, "backlog: carts not yet saved: 12, the oldest write for 12s"},
		{"as far behind as is wanted", func(z *status) { z.Carts.OldestUnsaved = 6 }, fine, ""},
		{
			"under-replicated", func(z *status) { z.Carts.UnderReplicated = 4 }, atRisk,
			"backlog: carts with writes that the database lacks and fewer than 2 live nodes are known to hold: 4",
		},
		{"a peer lags", func(z *status) { z.Links[0].Lag = 4 }, atRisk, "link: 10.0.0.2:7946 lags by 4s; changes not acknowledged: 3"},
		{
			"a peer needs sync", func(z *status) { z.Links[0].NeedsSync = true }, atRisk,
			"link: 10.0.0.2:7946 needs sync: it may lack carts, and is being compared",
		},
		{
			"a clock is off", func(z *status) { z.Clock.Offset = -7.5 }, atRisk,
			"clock: 7.5s off the other nodes; more than a minute makes the node not ready",
		},
		{
			"a clock is bad", func(z *status) { z.Clock = clockStatus{90, true} }, atRisk,
			"clock: 1m30s off most other nodes, more than a minute: the node is not ready",
		},
		{
			"a cart in doubt", func(z *status) { z.Store.Damaged = 2 }, atRisk,
			"in doubt: stored carts that fail their checksum: 2; they are answered 503 where no node has them in memory",
		},
		{
			"a key file that cannot be read", func(z *status) { z.KeyFile = &keyFileStatus{LastError: "line 2 is no key"} }, atRisk,
			"key file: line 2 is no key; the node goes on with the keys that it had, and would not start again",
		},
		{
			"short of owners", func(z *status) { z.Slots = &slotsStatus{Sites: 9, Own: 1365, UnderReplicated: 12} }, atRisk,
			"slots: with fewer than 2 live owners: 12; their writes go to other nodes, or the database",
		},
		{"refusals", func(z *status) {
			z.Refused.Network = map[string]uint64{"link-certificate": 3, "gossip-key": 7}
			z.Refused.NetworkLast = z.Time.Add(-time.Minute)
		}, fine, "refused: at the peer ports, the last 1m0s ago: gossip-key 7, link-certificate 3"},
		{"regions", func(z *status) { regions(z) }, fine, ""},
		{
			"a region is cut off", func(z *status) { cutOff(regions(z)) }, atRisk,
			"region: us cannot be reached for 2h0m, and writes do not arrive there: i/o timeout",
		},
		{
			"a region that others are to reach", func(z *status) { cutOff(regions(z)); z.Node.Bridge = false }, atRisk,
			"region: us cannot be reached for 2h0m, and writes do not arrive there: no bridge of this region has a link with it",
		},
		{
			"a region without bridges", func(z *status) { cutOff(regions(z)).Bridges = nil }, atRisk,
			"region: us cannot be reached for 2h0m, and writes do not arrive there: none of its nodes is a bridge",
		},
		{"a region by way of another bridge", func(z *status) {
			us := cutOff(regions(z))
			us.Reachable, us.Via = true, "10.0.0.2:7946/b2"
		}, atRisk, "region: us is reached by way of 10.0.0.2:7946 alone: i/o timeout"},
		{
			"a pool that sees one side", func(z *status) { regions(z); z.WANMembers = nil }, atRisk,
			"region: us is linked, and none of its nodes is heard of at the port of --wan-listen: nobody would learn of a new bridge",
		},
		{
			"no other region", func(z *status) { regions(z); z.Regions, z.WANSeeds = nil, 2 }, atRisk,
			"regions: no other one is known: no node answers at the addresses of --join-wan, or none of another region",
		},
		{
			"two regions of one name", func(z *status) { regions(z); z.WANStrays = []string{"10.1.0.1:7946/d4", "10.1.0.2:7946/e5"} }, atRisk,
			"regions: nodes that say they are of eu, and are not linked within it, such as 10.1.0.1:7946: 2; it is cut in two, or two regions have one name",
		},
		{"the first region", func(z *status) { regions(z); z.Regions = nil }, fine, ""},
		{"a region lags", func(z *status) { regions(z).Lag = 8 }, atRisk, "lag: what arrives from us is up to 8s old"},
		{"a region catches up", func(z *status) {
			us := regions(z)
			us.Lag, us.Since, us.Crossings.LastDropped = 3600, z.Time.Add(-catchesUp/2), z.Time
		}, fine, ""},
		{
			"crossings are dropped", func(z *status) { regions(z).Crossings.LastDropped = z.Time.Add(-2 * time.Second) }, atRisk,
			"dropped: on the way between here and us, the last 2s ago: 7; repair makes up for it",
		},
		{
			"other regions hold writes", func(z *status) { regions(z); z.Abroad = 2; lose(z, 2); away(z) }, atRisk,
			"holders: 0 other nodes linked, 1 needed, and no database: other regions hold writes",
		},
		{"refused changes", func(z *status) { z.Refused.Payloads["too-new"] = 1 }, fine, "refused: changes from other nodes: too-new 1"},
	} {
		z := healthy()
		test.change(z)
		found, first := judge(z), ""
		if len(found) > 0 {
			first = found[0].about + ": " + found[0].String()
		}
		if got := worst(found); got != test.level || first != test.want {
			t.Errorf("%s: %v, by %q; want %v, by %q", test.name, got, first, test.level, test.want)
		}
	}
}

// What status prints of three nodes fits on a screen, whatever is wrong with them.
func TestStatusFitsOnAScreen(t *testing.T) {
	fit := func(name string, l level, readings []reading) string {
		t.Helper()
		var b bytes.Buffer
		if got := writeStatus(&b, answers(readings), readings); got != l {
			t.Errorf("%s: %v, not %v", name, got, l)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		for _, line := range lines {
			if utf8.RuneCountInString(line) > 100 {
				t.Errorf("%s: a line of %d columns: %s", name, utf8.RuneCountInString(line), line)
			}
		}
		if len(lines) > mostLines {
			t.Errorf("%s: %d lines:\n%s", name, len(lines), &b)
		}
		return b.String()
	}
	three := func(change func(i int, z *status)) (readings []reading) {
		for i := range 3 {
			z := healthy()
			change(i, z)
			readings = append(readings, reading{address: fmt.Sprintf("10.0.0.%d:8081", i+1), status: z})
		}
		return readings
	}
	if said := fit("healthy", fine, three(func(int, *status) {})); !strings.HasPrefix(said, "ok: every acknowledged write is held by 2 nodes or the database\n\nNODE") {
		t.Errorf("%s", said)
	}
	said := fit("all is wrong", refusing, three(func(i int, z *status) {
		lose(z, 2)
		away(z)
		z.Store.LastError = strings.Repeat("no\n\tno ", 100+i)
		z.Carts.UnderReplicated, z.Carts.OldestUnsaved, z.Store.Damaged = 7+i, 120, 3
		z.Clock = clockStatus{-3600, true}
		z.Refused.Network["gossip-key"] = 1 << 40
	}))
	if !strings.HasPrefix(said, "failing: writes are refused") || !strings.Contains(said, "at 3 of 3 nodes: 0 other nodes linked") {
		t.Errorf("%s", said)
	}
	fit("an error of one word", atRisk, three(func(_ int, z *status) { away(z); z.Store.LastError = strings.Repeat("x", 300) }))

	// What nodes find alike is said once, and two links are two.
	said = fit("links", atRisk, three(func(i int, z *status) {
		z.Carts.OldestUnsaved = float64(20 + i)
		if i < 2 {
			z.Links[i].Up = false
		}
	}))
	for _, line := range []string{
		"\n  backlog    at 3 of 3 nodes: carts not yet saved: 12, the oldest write for 20s\n",
		"\n  link       10.0.0.1:8081: that with 10.0.0.2:7946 is down:\n", "\n  link       10.0.0.2:8081: that with 10.0.0.3:7946 is down:\n",
	} {
		if !strings.Contains(said, line) {
			t.Errorf("no %q in\n%s", line, said)
		}
	}

	few := three(func(i int, z *status) { z.Carts.UnderReplicated = i })
	if said := fit("under-replicated", atRisk, few); !strings.HasPrefix(said, "at risk: writes are taken, but some are not known to be held by 2 nodes or the database:\n") {
		t.Errorf("%s", said)
	}

	// Of three nodes two are bridges, and one of them is cut off.
	said = fit("regions", atRisk, three(func(i int, z *status) {
		us := regions(z)
		if z.Node.Bridge = i < 2; i == 1 {
			cutOff(us)
			us.Reachable, us.Via = true, "10.0.0.2:7946/b2"
		}
	}))
	for _, line := range []string{
		"\neu      us     reached  2h0m  80ms        50ms  1 of 4  360000  330000    21       0\n",
		"\n10.0.0.1:7946  eu/one  bridge  yes ", "\n10.0.0.1:7946  eu/one  active  yes ",
	} {
		if !strings.Contains(said, line) {
			t.Errorf("no %q in\n%s", line, said)
		}
	}
	two := append(three(func(_ int, z *status) { regions(z) }), three(func(i int, z *status) {
		eu := regions(z)
		z.Node.Region, eu.Region, z.WANMembers[0].Region = "us", "eu", "eu"
		z.Links[0].Lag = float64(i)
		z.Slots, z.Forwards.Forwarded, z.Carts.AskedAbroad = &slotsStatus{Sites: 9, Own: 1365, Held: 40}, 12, 3
	})...)
	said = fit("two regions", fine, two)
	for _, line := range []string{
		"\nus      eu     reached ", "; 9 asked abroad\n", "\nrequests for carts of others: 36 passed on, ", "links with less to tell\n", "3, 2s",
	} {
		if !strings.Contains(said, line) {
			t.Errorf("no %q in\n%s", line, said)
		}
	}
	for i, r := range two {
		if r.status.Node.Bridge = i%3 < 2; i >= 3 {
			r.status.Node.Name = fmt.Sprintf("10.1.0.%d:7946/f6", i-2)
			two[i].address = fmt.Sprintf("10.1.0.%d:8081", i-2)
		}
		cutOff(&r.status.Regions[0])
	}
	said = fit("two regions that are cut off", atRisk, two)
	if !strings.Contains(said, "at 3 of 6 nodes: us cannot be reached for 2h0m, and writes do not arrive there: i/o\n") {
		t.Errorf("%s", said)
	}
	for _, r := range two {
		lose(r.status, 2)
		away(r.status)
		r.status.Clock = clockStatus{-3600, true}
		r.status.Carts.UnderReplicated = 7
		r.status.Abroad = 0
	}
	fit("two regions, and all is wrong", refusing, two)

	readings := three(func(int, *status) {})
	readings[1] = reading{address: "10.0.0.2:8081", err: fmt.Errorf("10.0.0.2:8081: connection refused")}
	if said := fit("one does not answer", atRisk, readings); !strings.Contains(said, "\n  no answer  10.0.0.2:8081: connection refused\n") {
		t.Errorf("%s", said)
	}
}

// ask runs a command for operators.
func ask(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, nil, &out, &err)
	return code, out.String(), err.String()
}

// TestOperatorsCommands asks the nodes of a region, and one that is alone.
func TestOperatorsCommands(t *testing.T) {
	url := pgtest.New(t)
	key := strings.TrimSpace(keygen(t))
	a := startMember(t, key, nil, "--database-url", url, "--zone", "one")
	b := startMember(t, key, []*member{a}, "--database-url", url, "--zone", "two")
	a.wantReady()
	b.wantReady()
	single := startMember(t, key, nil, "--data-dir", t.TempDir())
	admin := a.adminAddr.String() + "," + b.adminAddr.String()

	await(t, "the region is fine", func() bool {
		code, stdout, _ := ask(t, "status", "--admin", admin)
		return code == 0 && strings.HasPrefix(stdout, "ok: ") && strings.Count(stdout, " up ") == 2
	})
	code, stdout, stderr := ask(t, "members", "--admin", a.adminAddr.String())
	lines := strings.Split(stdout, "\n")
	if code != 0 || len(lines) != 4 || !strings.HasPrefix(lines[1], a.region.Status().Self.Name) || !strings.Contains(lines[1], "this node") ||
		!strings.HasPrefix(lines[2], b.region.Status().Self.Name) || !strings.Contains(lines[2], b.publicAddr.String()) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	code, stdout, _ = ask(t, "status", "--json", "--admin", a.adminAddr.String())
	if z := new(status); code != 0 || json.Unmarshal([]byte(stdout), z) != nil || z.Node.Name != a.region.Status().Self.Name {
		t.Errorf("exit code %d: %s", code, stdout)
	}

	// Nobody else can hold a write of this one, and its file acknowledges nothing.
	if code, stdout, _ := ask(t, "status", "--admin", single.adminAddr.String()); code != int(exitFailing) || !strings.HasPrefix(stdout, "failing: ") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	b.halt()
	await(t, "the region is at risk", func() bool {
		code, stdout, _ := ask(t, "status", "--admin", admin)
		return code == int(exitAtRisk) && strings.Contains(stdout, "only the database holds writes") && strings.Contains(stdout, "no answer")
	})
	if code, stdout, stderr := ask(t, "members", "--admin", admin); code != 1 || !strings.Contains(stdout, "this node") || !strings.Contains(stderr, b.adminAddr.String()) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := ask(t, "status", "--admin", b.adminAddr.String()); code != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	// The API is no operators' listener.
	if code, _, stderr := ask(t, "status", "--admin", a.publicAddr.String()); code != 1 || !strings.Contains(stderr, "no operators' listener") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

// A node that is alone has a status, too, and its commands run in the environment of serve.
func TestOperatorsCommandsAlone(t *testing.T) {
	p := start(t, t.TempDir())
	address := strings.TrimPrefix(p.admin, "http://")
	var out bytes.Buffer
	code := run(t.Context(), []string{"status"}, []string{"CARTD_ADMIN=" + address, "CARTD_DATA_DIR=x"}, &out, &out)
	if code != 0 || !strings.HasPrefix(out.String(), "ok: every acknowledged write is held by this node's disk\n") {
		t.Errorf("exit code %d: %s", code, &out)
	}
	if code, stdout, _ := ask(t, "status", "--json", "--admin", address+","+address); code != 0 || strings.Count(stdout, `"checks"`) != 1 {
		t.Errorf("a node that was named twice was not asked once: exit code %d: %s", code, stdout)
	}
	if code, stdout, _ := ask(t, "members", "--admin", address); code != 0 || stdout != "This node is alone: it has no cluster key.\n" {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	for _, args := range [][]string{{"status", "--admin", "here"}, {"members", "--admin", ""}, {"status", "now"}} {
		if code, _, stderr := ask(t, args...); code != 2 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
}
