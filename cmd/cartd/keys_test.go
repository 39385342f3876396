package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cartd/gossip"
)

// keyFileOf writes a file and returns its path.
func keyFileOf(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replaceFile replaces a file at once.
func replaceFile(t testing.TB, path, content string) {
	t.Helper()
	fresh := path + ".fresh"
	if err := errors.Join(os.WriteFile(fresh, []byte(content), 0o600), os.Rename(fresh, path)); err != nil {
		t.Fatal(err)
	}
}

func contentOf(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// cli runs a command of cartd.
func cli(t testing.TB, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	if stdin != "" {
		in, err := os.Open(keyFileOf(t, stdin))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		former := os.Stdin
		os.Stdin = in
		defer func() { os.Stdin = former }()
	}
	var out, errs bytes.Buffer
	code = run(t.Context(), args, nil, &out, &errs)
	return code, out.String(), errs.String()
}

// TestKeys: a file goes through a rotation, keeps its comments, its mode and the link to it, and no key is
// shown that was not asked for.
func TestKeys(t *testing.T) {
	first, second, third := gossip.GenerateKey(), gossip.GenerateKey(), gossip.GenerateKey()
	one, two, three := first.Fingerprint().String(), second.Fingerprint().String(), third.Fingerprint().String()
	path := keyFileOf(t, "# the keys of eu-1\n"+first.Text())
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	fresh := keyFileOf(t, third.Text()+"\n")
	for _, step := range []struct {
		args  []string
		stdin string
		code  int
		says  string
		keys  []string
	}{
		{[]string{"list", link}, "", 0, one + "  in use\n", []string{one}},
		{[]string{"add", link, "--key-file", "-"}, second.Text() + "\n", 0, "has " + two + " now; " + one + " is in use", []string{one, two}},
		{[]string{"add", link, "--key-file", "-"}, second.Text(), 0, "has " + two + " already", []string{one, two}},
		{[]string{"remove", link, one}, "", 1, one + " is in use: use another key", []string{one, two}},
		{[]string{"use", link, two}, "", 0, two + " is in use", []string{two, one}},
		{[]string{"use", link, two}, "", 0, two + " is in use", []string{two, one}},
		{[]string{"list", link}, "", 0, two + "  in use\n" + one + "\n", []string{two, one}},
		{[]string{"add", link, "--key-file", fresh}, "", 0, "has " + three + " now", []string{two, one, three}},
		{[]string{"use", link, three}, "", 0, three + " is in use", []string{three, two, one}},
		{[]string{"remove", link, two}, "", 0, two + " is removed", []string{three, one}},
		{[]string{"remove", link, two}, "", 1, "has no key " + two, []string{three, one}},
		{[]string{"use", link, two}, "", 1, "has no key " + two, []string{three, one}},
		{[]string{"remove", link, one}, "", 0, one + " is removed", []string{three}},
		{[]string{"remove", link, three}, "", 1, three + " is the only key", []string{three}},

		{[]string{"use", link, "3f2a"}, "", 2, "not the fingerprint of a key", []string{three}},
		{[]string{"use", link}, "", 2, "accepts 2 arg", []string{three}},
		{[]string{"remove", link, three, "--admin", "here"}, "", 2, "--admin", []string{three}},
		{[]string{"status", "--admin", ""}, "", 2, "--admin", []string{three}},
		{[]string{"add", link, "--key-file", "-"}, first.Text() + "\n" + second.Text(), 1, "standard input is not a cluster key", []string{three}},
		{[]string{"add", link, "--key-file", "-"}, strings.Repeat("A", 1<<20), 1, "more than 16384 bytes", []string{three}},
		{[]string{"add", filepath.Dir(path)}, "", 1, "is not a regular file", []string{three}},
		{[]string{"add", path + "none"}, "", 1, "no such file", []string{three}},
	} {
		code, stdout, stderr := cli(t, step.stdin, append([]string{"keys"}, step.args...)...)
		said := stdout + stderr
		if code != step.code || !strings.Contains(said, step.says) || code != 0 && strings.Count(said, "\n") != 1 {
			t.Errorf("%v: exit code %d: %s", step.args, code, said)
		}
		for _, k := range []gossip.Key{first, second, third} {
			if strings.Contains(said, k.Text()[:40]) {
				t.Errorf("%v: a key is shown: %s", step.args, said)
			}
		}
		keys, err := readKeys(path)
		if err != nil || !slices.Equal(fingerprints(keys.Fingerprints()), step.keys) {
			t.Fatalf("%v: the file has %v, %v", step.args, fingerprints(keys.Fingerprints()), err)
		}
	}
	if got := contentOf(t, path); got != "# the keys of eu-1\n"+third.Text()+"\n" {
		t.Errorf("the file is %q", got)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if to, err := os.Readlink(link); err != nil || to != path {
		t.Errorf("the link is to %s, %v", to, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A fresh key is printed where that was asked for, alone, and is the one that the file got.
func TestKeysAddFresh(t *testing.T) {
	path := keyFileOf(t, keygen(t))
	if code, stdout, stderr := cli(t, "", "keys", "add", path); code != 0 || stderr != "" || strings.Contains(stdout, "=") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr := cli(t, "", "keys", "add", path, "--show")
	if code != 0 || !strings.HasSuffix(contentOf(t, path), stdout) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if key, err := gossip.ParseKey(stdout); err != nil || !strings.Contains(stderr, key.Fingerprint().String()) {
		t.Errorf("%v: %s", err, stderr)
	}
	cli(t, "", "keys", "add", path)
	if code, _, stderr := cli(t, "", "keys", "add", path); code != 1 || !strings.Contains(stderr, "line 5 is one key too many") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestKeysWarnsOfOpenFiles(t *testing.T) {
	path := keyFileOf(t, keygen(t))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := cli(t, "", "keys", "add", path); code != 0 || !strings.Contains(stderr, "every user of this machine can read") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestLinksHoldAKey(t *testing.T) {
	old, fresh := gossip.GenerateKey().Fingerprint(), gossip.GenerateKey().Fingerprint()
	holder := keyHolder{node: "a:1", keys: []string{fresh.String(), old.String()}, links: []string{fresh.String(), old.String()}}
	if err := canRemove([]keyHolder{holder}, old); err == nil || !strings.Contains(err.Error(), "links of node a:1") {
		t.Errorf("a key that a link was made with can be removed: %v", err)
	}
	holder.links = holder.links[:1]
	if err := canRemove([]keyHolder{holder}, old); err != nil {
		t.Error(err)
	}
}

func TestNextStep(t *testing.T) {
	type nodes map[string]string // the keys of each
	for name, tt := range map[string]struct {
		nodes nodes
		says  string
		wait  bool
	}{
		"one key":          {nodes{"a:1": "old", "b:1": "old"}, "all use old, and there is no other key", false},
		"added at one":     {nodes{"a:1": "old new", "b:1": "old"}, "new is missing at node b:1", true},
		"added everywhere": {nodes{"a:1": "old new", "b:1": "old new"}, "every node has new: it can be used now", false},
		"used by one":      {nodes{"a:1": "new old", "b:1": "old new"}, "new in use at node a:1 and old at node b:1", true},
		"used by all":      {nodes{"a:1": "new old", "b:1": "new old"}, "all use new: old can be removed", false},
		"removed at one":   {nodes{"a:1": "new", "b:1": "new old"}, "old is missing at node a:1; it can be removed", true},
		"used too early":   {nodes{"a:1": "new old", "b:1": "old", "c:1": "old"}, "node a:1 uses new, which is missing at nodes b:1, c:1: add it there", true},
		"apart":            {nodes{"a:1": "new", "b:1": "old"}, "node a:1 uses new, which is missing at node b:1", true},
		"three keys":       {nodes{"a:1": "x y z", "b:1": "x z y"}, "every node has y and z", false},
		"an older node":    {nodes{"a:1": "old", "b:1": ""}, "unknown keys at node b:1", true},
	} {
		var holders []keyHolder
		for node, keys := range tt.nodes {
			holders = append(holders, keyHolder{node: node, keys: strings.Fields(keys)})
		}
		slices.SortFunc(holders, func(a, b keyHolder) int { return strings.Compare(a.node, b.node) })
		says, err := nextStep(holders)
		if err != nil {
			says = err.Error()
		}
		if !strings.Contains(says, tt.says) || errors.Is(err, errWait) != tt.wait || (err != nil) != tt.wait {
			t.Errorf("%s: %s", name, says)
		}
	}
}

// nodesSay starts an operators' listener that shows a status.
func nodesSay(t *testing.T, z *status) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(z)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// TestKeysAsksNodes: what is too early is refused, and the file stays as it was.
func TestKeysAsksNodes(t *testing.T) {
	old, fresh := gossip.GenerateKey(), gossip.GenerateKey()
	one, two := old.Fingerprint().String(), fresh.Fingerprint().String()
	z := &status{Node: &memberStatus{Name: "a", GossipAddress: "10.0.0.1:7946"}, Members: []memberStatus{{Name: "b", GossipAddress: "10.0.0.2:7946"}}}
	admin := nodesSay(t, z)
	path := keyFileOf(t, old.Text()+"\n"+fresh.Text()+"\n")
	asks := func(wantCode int, says string, args ...string) {
		t.Helper()
		before := contentOf(t, path)
		code, stdout, stderr := cli(t, "", append([]string{"keys"}, args...)...)
		if code != wantCode || !strings.Contains(stdout+stderr, says) {
			t.Errorf("%v: exit code %d: %s%s", args, code, stdout, stderr)
		}
		if code != 0 && contentOf(t, path) != before {
			t.Errorf("%v: the file was changed", args)
		}
	}
	z.Node.Keys, z.Members[0].Keys = []string{one, two}, []string{one}
	asks(1, two+" is missing at node 10.0.0.2:7946", "status", "--admin", admin)
	asks(1, two+" cannot be used yet: missing at node 10.0.0.2:7946", "use", path, two, "--admin", admin)
	z.Members[0].Keys = []string{one, two}
	asks(1, "connection refused", "use", path, two, "--admin", admin, "--admin", "127.0.0.1:1")
	asks(0, two+": it can be used now", "status", "--admin", admin)
	asks(0, two+" is in use", "use", path, two, "--admin", admin)
	asks(1, one+" cannot be removed yet: in use at nodes 10.0.0.1:7946, 10.0.0.2:7946", "remove", path, one, "--admin", admin)
	z.Node.Keys, z.Members[0].Keys = []string{two, one}, []string{two, one}
	z.KeyFile = &keyFileStatus{LastError: "line 2 is bad"}
	asks(1, "is no good: line 2 is bad", "remove", path, one, "--admin", admin)
	z.KeyFile = nil
	asks(0, "10.0.0.2:7946  "+two+" "+one, "status", "--admin", admin)
	asks(0, one+" is removed", "remove", path, one, "--admin", admin)
	asks(1, "no cluster key", "status", "--admin", nodesSay(t, new(status)))
	asks(1, "connection refused", "status", "--admin", "127.0.0.1:1")
}

// TestKeyWatch: a node gets the keys of its file, and keeps them while that is no good.
func TestKeyWatch(t *testing.T) {
	old, fresh := gossip.GenerateKey(), gossip.GenerateKey()
	path := keyFileOf(t, old.Text())
	keys, err := readKeys(path)
	if err != nil {
		t.Fatal(err)
	}
	var has gossip.Keyring
	var refuse error
	logged := new(logs)
	w := newKeyWatch(path, keys, func(keys gossip.Keyring) error {
		if refuse == nil {
			has = keys
		}
		return refuse
	}, slog.New(slog.NewTextHandler(logged, nil)))
	w.reload()
	if z := w.read(); *z != (keyFileStatus{}) {
		t.Errorf("nothing has changed: %+v", z)
	}
	replaceFile(t, path, old.Text()+"\n"+fresh.Text())
	w.reload()
	w.reload()
	if z := w.read(); *z != (keyFileStatus{Changes: 1}) || !has.Has(fresh.Fingerprint()) {
		t.Errorf("a key was added: %+v", z)
	}
	before := has
	failures := int64(0)
	for name, spoil := range map[string]func(){
		"empty":     func() { replaceFile(t, path, "") },
		"malformed": func() { replaceFile(t, path, fresh.Text()+"\n"+old.Text()[:43]) },
		"long":      func() { replaceFile(t, path, strings.Repeat(old.Text()+"\n", 1000)) },
		"gone":      func() { _ = os.Remove(path) },
		"directory": func() { _ = os.Mkdir(path, 0o700) },
	} {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		spoil()
		failures++
		w.reload()
		w.reload()
		if z := w.read(); z.Failures != failures || z.LastError == "" || z.Changes != 1 || !has.Equal(before) {
			t.Errorf("%s: %+v", name, z)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	replaceFile(t, path, fresh.Text())
	refuse = errors.New("not now")
	w.reload()
	if z := w.read(); z.LastError != "not now" || !has.Equal(before) {
		t.Errorf("%+v", z)
	}
	refuse = nil
	w.reload()
	if z := w.read(); z.LastError != "" || z.Changes != 2 || has.Has(old.Fingerprint()) {
		t.Errorf("a key was removed: %+v", z)
	}
	for _, k := range []gossip.Key{old, fresh} {
		if strings.Contains(logged.String(), k.Text()[:40]) {
			t.Errorf("a key is in the log:\n%s", logged)
		}
	}
	if n := strings.Count(logged.String(), "level=ERROR"); n != 6 {
		t.Errorf("%d errors in the log, not 6:\n%s", n, logged)
	}
}
