package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traffic is a stream of words that nodes take, all for one cart.
type traffic struct {
	stop  func() // and wait
	words atomic.Int64
	held  atomic.Int64 // by a peer
}

func startTraffic(t testing.TB, nodes ...testNode) *traffic {
	tr := new(traffic)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	tr.stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(tr.stop)
	for i, n := range nodes {
		running.Go(func() {
			for j := 0; sleep(ctx, time.Millisecond); j++ {
				payload := fmt.Appendf(nil, "%d-%d\n", i, j)
				n.words.add(cartID(1), payload)
				tr.words.Add(1)
				n.core.Replicate(cartID(1), payload, func(uint64) { tr.held.Add(1) })
			}
		})
	}
	return tr
}

// alwaysLinked fails the test when a node has fewer than so many peers, until the function that it returns is called.
func alwaysLinked(t testing.TB, peers int, nodes ...testNode) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for sleep(ctx, 20*time.Microsecond) {
			for _, n := range nodes {
				if got := n.core.Peers(); got < peers {
					t.Errorf("%s has %d peers", n.addr(), got)
				}
			}
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// setKeys gives nodes a ring one after the other, and waits until they all tell so and are linked.
func setKeys(t testing.TB, keys Keyring, nodes ...testNode) {
	t.Helper()
	for _, n := range nodes {
		if err := n.SetKeys(keys); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all know of the keys", func() bool {
		return !slices.ContainsFunc(nodes, func(n testNode) bool {
			self, others := n.members.all()
			return slices.ContainsFunc(append(others, self), func(m Member) bool { return !slices.Equal(m.Keys, keys.Fingerprints()) })
		})
	})
	await(t, "all are linked", func() bool { return linked(nodes...) })
}

// A key is rotated under traffic: the nodes are linked all the time, every word reaches every node from the one that
// took it, nothing is refused, and in the end the old key is good for nothing.
func TestRotation(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	c := start(t, Options{Join: []string{a.addr()}})
	nodes := []testNode{a, b, c}
	await(t, "three nodes", func() bool { return linked(nodes...) })
	tr := startTraffic(t, nodes...)
	more := func() {
		t.Helper()
		before := tr.held.Load()
		await(t, "words are held", func() bool { return tr.held.Load() > before+100 })
	}
	more()

	stop := alwaysLinked(t, 2, nodes...)
	fresh := GenerateKey()
	proven := func(key Key) {
		t.Helper()
		await(t, "all links are proven with "+key.Fingerprint().String(), func() bool {
			return !slices.ContainsFunc(nodes, func(n testNode) bool {
				connections := n.Status().Connections
				return len(connections) != 2 || slices.ContainsFunc(connections, func(c ConnectionStatus) bool {
					return !c.Up || c.Key != key.Fingerprint().String()
				})
			})
		})
	}
	setKeys(t, ring(testKey, fresh), nodes...)
	proven(testKey)
	more()
	setKeys(t, ring(fresh, testKey), nodes...)
	proven(fresh)
	more()
	links := a.links.all()
	setKeys(t, ring(fresh), nodes...)
	for peer, l := range a.links.all() {
		if links[peer] != l {
			t.Error("a link was closed that the old key had no part in")
		}
	}
	more()
	stop()

	tr.stop()
	await(t, "every word is held by both peers", func() bool { return tr.held.Load() == 2*tr.words.Load() })
	for _, n := range nodes {
		if got := strings.Count(string(n.words.all(cartID(1))), "\n"); int64(got) != tr.words.Load() {
			t.Errorf("%s has %d words, not %d", n.addr(), got, tr.words.Load())
		}
		for why, count := range n.Status().Refused {
			if count != 0 {
				t.Errorf("%d refused: %s", count, why)
			}
		}
	}
	t.Logf("%d words", tr.words.Load())

	former := start(t, Options{Join: []string{a.addr()}, Keys: ring(testKey)})
	await(t, "the old key is refused at the gossip port", func() bool { return a.Status().Refused[string(gossipKey)] > 0 })
	conn, err := net.Dial("tcp", a.Status().Self.LinkAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	newCaller(t, testKey, 1).greet(conn)
	await(t, "the old key is refused at the link port", func() bool { return a.Status().Refused[string(linkCertificate)] > 0 })
	if !linked(nodes...) || !linked(former) {
		t.Error("a node with the old key is in")
	}
}

// Who only proved to have a key that was removed is out at once, and stays out; the others stay.
func TestRemovedKeyEndsItsLinks(t *testing.T) {
	fresh := GenerateKey()
	a := start(t, Options{Keys: ring(fresh, testKey), Member: Member{Start: 1 << 63}})
	b := start(t, Options{Keys: ring(fresh, testKey), Join: []string{a.addr()}})
	late := start(t, Options{Keys: ring(testKey, fresh), Member: Member{Start: 7}, Join: []string{a.addr()}})
	await(t, "three nodes", func() bool { return linked(a, b, late) })
	with := func(n testNode) *link { return a.links.all()[n.Status().Self.Start] }
	kept, lost := with(b), with(late)
	if kept.proven != fresh.Fingerprint() || lost.proven != testKey.Fingerprint() {
		t.Fatalf("proven with %v and %v", kept.proven, lost.proven)
	}
	if err := a.SetKeys(ring(fresh)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost.done:
		if !errors.Is(lost.why, errRemoved) {
			t.Errorf("closed for %v", lost.why)
		}
	case <-time.After(patience):
		t.Error("the link under the removed key is up")
	}
	await(t, "the late one is refused", func() bool {
		refused := a.Status().Refused
		return refused[string(linkCertificate)] > 0 && refused[string(gossipKey)] > 0
	})
	if with(late) != nil || with(b) != kept {
		t.Error("not the right ones are linked")
	}
	if err := late.SetKeys(ring(fresh)); err != nil {
		t.Fatal(err)
	}
	await(t, "the late one has the key", func() bool { return with(late) != nil && with(late).proven == fresh.Fingerprint() })
}

// A key that the peer lacks takes no link away: the one that there is stays until the peer has the key.
func TestKeyUsedTooEarly(t *testing.T) {
	fresh := GenerateKey()
	a := start(t, Options{Keys: ring(testKey, fresh), Member: Member{Start: 7}}) // which dials
	b := start(t, Options{Member: Member{Start: 1 << 63}, Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })
	with := func() *link { return a.links.all()[b.Status().Self.Start] }
	before := with()
	stop := alwaysLinked(t, 1, a, b)
	if err := a.SetKeys(ring(fresh, testKey)); err != nil {
		t.Fatal(err)
	}
	await(t, "the new key is refused", func() bool {
		return a.Status().Refused[string(linkCertificate)] > 0 && b.Status().Refused[string(gossipKey)] > 0
	})
	if with() != before {
		t.Error("another link")
	}
	a.put(cartID(1), "on the old link")
	await(t, "a change", func() bool { return b.has(cartID(1), "on the old link") })
	if err := b.SetKeys(ring(testKey, fresh)); err != nil {
		t.Fatal(err)
	}
	await(t, "another link", func() bool {
		l := with()
		return l != nil && l != before && l.ours == fresh.Fingerprint()
	})
	stop()
}

// A handshake that began before its key was removed makes no link after that.
func TestKeyRemovedDuringHandshake(t *testing.T) {
	fresh := GenerateKey()
	a := start(t, Options{Keys: ring(fresh, testKey), Member: Member{Start: 1 << 63}})
	conn, err := net.Dial("tcp", a.Status().Self.LinkAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := newCaller(t, testKey, 7)
	tls := c.lax(conn)
	if err := tls.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := a.SetKeys(ring(fresh)); err != nil {
		t.Fatal(err)
	}
	_, _ = exchangeHello(tls, c.hello)
	hear(tls)
	if a.core.Peers() != 0 {
		t.Error("a link")
	}
}

func TestSetKeysRefusesNone(t *testing.T) {
	a := start(t, Options{})
	if err := a.SetKeys(Keyring{}); !errors.Is(err, errNoKey) {
		t.Errorf("%v", err)
	}
	if got := a.Status().Self.Keys; !slices.Equal(got, ring(testKey).Fingerprints()) {
		t.Errorf("%v", got)
	}
}

// Two keys are used by turns and others come and go while words do: every word gets through.
func TestKeysChangeUnderTraffic(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	used, idle := append(keysOf(1), testKey), keysOf(MaxKeys-2)
	a := start(t, Options{Keys: ring(used...)})
	b := start(t, Options{Keys: ring(used...), Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })
	tr := startTraffic(t, a, b)
	var changing sync.WaitGroup
	for i, n := range []testNode{a, b} {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		changing.Go(func() {
			for range 10 {
				first := r.IntN(2)
				others := append(slices.Clone(idle), used[1-first])
				r.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
				others = slices.DeleteFunc(others, func(k Key) bool { return slices.Contains(idle, k) && r.IntN(2) == 0 })
				if err := n.SetKeys(ring(append([]Key{used[first]}, others...)...)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	changing.Wait()
	await(t, "the link", func() bool { return linked(a, b) })
	tr.stop()
	await(t, "every word is held by the peer", func() bool { return tr.held.Load() == tr.words.Load() })
	if !slices.Equal(a.words.all(cartID(1)), b.words.all(cartID(1))) {
		t.Error("they differ")
	}
	for _, why := range []reason{gossipKey, linkCertificate} {
		if n := a.Status().Refused[string(why)] + b.Status().Refused[string(why)]; n != 0 {
			t.Errorf("%d refused: %s", n, why)
		}
	}
}

// memberlist reads the keys that its ring returned without a lock: they stay as they are while the ring changes.
// The first one is always that in use.
func TestKeysAreReadWhileTheyChange(t *testing.T) {
	k := keysOf(MaxKeys)
	m, err := newMembers(Options{Keys: ring(k...)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	first := k[0].derive(gossipUse)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		for ctx.Err() == nil {
			secrets := m.ring.GetKeys()
			if !slices.Equal(secrets[0], first) {
				t.Error("another key is in use")
			}
			for _, secret := range secrets {
				if len(secret) != len(first) {
					t.Error("no key")
				}
			}
		}
	})
	for range 1000 {
		for _, keys := range []Keyring{ring(k[0], k[2], k[3]), ring(k[0]), ring(k...)} {
			if err := errors.Join(m.addKeys(keys), m.setKeys(keys)); err != nil {
				t.Fatal(err)
			}
			got := m.ring.GetKeys()
			if len(got) != len(keys.keys) {
				t.Fatalf("%d keys, not %d", len(got), len(keys.keys))
			}
		}
	}
	cancel()
	reading.Wait()
}
