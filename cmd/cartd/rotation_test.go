package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cartd/gossip"
	"cartd/internal/pgtest"
)

// TestKeyRotation: three processes change their key by their files, as an operator does it, and acknowledge
// every write meanwhile. In the end the former key opens nothing.
func TestKeyRotation(t *testing.T) {
	build(t)
	t.Parallel()
	t.Run("database", func(t *testing.T) { testKeyRotation(t, pgtest.New(t)) })
	t.Run("files", func(t *testing.T) { testKeyRotation(t, "") }) // a write needs a link
	t.Run("two owners", func(t *testing.T) { testKeyRotation(t, pgtest.New(t), "--replicas", "2") })
}

func testKeyRotation(t *testing.T, url string, args ...string) {
	former := gossip.GenerateKey()
	c := &cluster{t: t, url: url, args: args}
	var files, admins []string
	for range 3 {
		c.key = keyFileOf(t, former.Text()+"\n")
		n := c.launch()
		c.nodes, files, admins = append(c.nodes, n), append(files, c.key), append(admins, "--admin", strings.TrimPrefix(n.admin, "http://"))
	}
	for _, n := range c.nodes {
		await(t, "all nodes are linked and ready", func() bool { return n.status().Linked == 2 && n.readyStatus() == http.StatusOK })
	}
	path := c.node(0).create(1)
	units := atomic.Int64{}
	units.Store(1)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer stop()
	for _, n := range c.nodes {
		writing.Go(func() {
			ticker := time.NewTicker(10 * time.Millisecond)
			defer ticker.Stop()
			for ctx.Err() == nil {
				a, err := n.call("POST", path+"/line-items", `{"sku":"TEE-RED"}`)
				if err != nil || a.status != http.StatusOK {
					t.Errorf("a write: %d %s %v", a.status, a.body, err)
					return
				}
				units.Add(1)
				<-ticker.C
			}
		})
	}
	more := func() {
		t.Helper()
		before := units.Load()
		await(t, "writes are acknowledged", func() bool { return units.Load() > before+100 })
	}
	// keys runs a command on the file of a node until it is not too early for it.
	keys := func(args ...string) {
		t.Helper()
		said := ""
		await(t, strings.Join(args, " "), func() bool {
			code, stdout, stderr := cli(t, "", append(append([]string{"keys"}, args...), admins...)...)
			if code == 0 {
				return true
			}
			if stdout+stderr != said {
				said = stdout + stderr
				t.Logf("%s: %s", strings.Join(args, " "), said)
			}
			return false
		})
	}

	more()
	_, fresh, _ := cli(t, "", "keys", "add", files[0], "--show")
	key, err := gossip.ParseKey(fresh)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files[1:] {
		if code, _, stderr := cli(t, fresh, "keys", "add", file, "--key-file", "-"); code != 0 {
			t.Fatal(stderr)
		}
	}
	fingerprint := key.Fingerprint().String()
	for _, file := range files {
		keys("use", file, fingerprint)
	}
	if err := c.node(0).cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	more()
	for _, file := range files {
		keys("remove", file, former.Fingerprint().String())
	}
	for i, n := range c.nodes {
		await(t, "all have the new key alone", func() bool {
			z := n.status()
			for _, m := range append(z.Members, *z.Node) {
				if fmt.Sprint(m.Keys) != "["+fingerprint+"]" {
					return false
				}
			}
			for _, l := range z.Links {
				if !l.Up || l.Key != fingerprint {
					return false
				}
			}
			return z.Linked == 2
		})
		if z := n.status(); z.KeyFile.Failures != 0 || z.KeyFile.Changes == 0 {
			t.Errorf("node %d: %+v", i, z.KeyFile)
		}
	}
	keys("status")
	more()
	stop()
	writing.Wait()
	if a := c.everywhere(path, time.Now().Add(5*time.Second)); a.cart.TotalQuantity != units.Load() {
		t.Errorf("%d units, not %d", a.cart.TotalQuantity, units.Load())
	}
	for i, n := range c.nodes {
		for reason, count := range n.status().Refused.Network {
			if count != 0 {
				t.Errorf("node %d refused %d: %s", i, count, reason)
			}
		}
	}

	c.key = keyFileOf(t, former.Text())
	stranger := c.launch()
	await(t, "the former key is refused", func() bool { return c.node(0).status().Refused.Network["gossip-key"] > 0 })
	if z := stranger.status(); len(z.Members) != 0 || z.Linked != 0 {
		t.Errorf("a node with the former key has met %v", z.Members)
	}
	for i, n := range append(c.nodes, stranger) {
		if z := n.status(); n != stranger && z.Linked != 2 {
			t.Errorf("node %d has %d links", i, z.Linked)
		}
		for _, k := range []gossip.Key{former, key} {
			if strings.Contains(n.output(), k.Text()[:40]) {
				t.Errorf("a key is in the log of node %d", i)
			}
		}
	}
	t.Logf("%d writes", units.Load())
}
