package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

// words are carts that are sets of words. A payload is words, a line each.
type words struct {
	mu    sync.Mutex
	carts map[[16]byte]map[string]bool
	lost  []uint64
}

func newWords() *words { return &words{carts: make(map[[16]byte]map[string]bool)} }

func (w *words) add(id [16]byte, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.carts[id] == nil {
		w.carts[id] = make(map[string]bool)
	}
	for word := range strings.Lines(string(payload)) {
		w.carts[id][word] = true
	}
}

func (w *words) all(id [16]byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.encode(id)
}

func (w *words) encode(id [16]byte) []byte {
	if w.carts[id] == nil {
		return nil
	}
	var list []string
	for word := range w.carts[id] {
		list = append(list, word)
	}
	slices.Sort(list)
	return []byte(strings.Join(list, ""))
}

func (w *words) Deliver(_ uint64, id [16]byte, payload []byte) (held, lacks bool) {
	w.add(id, payload)
	return true, false
}

func (w *words) Mark(uint64, [16]byte, []byte) {}

func (w *words) Recall(id [16]byte) ([]byte, bool) {
	b := w.all(id)
	return b, b != nil
}

func (*words) Keep(_, _ [Slots / 64]uint64) {}

func (*words) Seeded() [Slots / 64]uint64 { return allSlots }

func (w *words) Digests() *[Slots]uint64 {
	var d [Slots]uint64
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.carts {
		d[SlotOf(id)] ^= w.version(id)
	}
	return &d
}

func (w *words) version(id [16]byte) uint64 {
	h := fnv.New64a()
	h.Write(id[:])
	h.Write(w.encode(id))
	return h.Sum64()
}

func (w *words) EachVersion(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.SortedFunc(maps.Keys(w.carts), func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }) {
		if SlotOf(id) == SlotOf(from) && bytes.Compare(id[:], from[:]) >= 0 && !yield(id, w.version(id)) {
			return
		}
	}
}

func (w *words) EachUnsaved(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	w.EachVersion(from, yield)
}

func (w *words) Unsaved(_ context.Context, id [16]byte) ([][]byte, error) {
	return [][]byte{w.all(id)}, nil
}

func (w *words) Vector(_ context.Context, id [16]byte) ([]byte, bool, error) {
	b := w.all(id)
	return b, b != nil, nil
}

func (w *words) Compare(_ context.Context, id [16]byte, vector []byte) (ahead, behind bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	theirs := make(map[string]bool)
	for word := range strings.Lines(string(vector)) {
		theirs[word] = true
		behind = behind || !w.carts[id][word]
	}
	for word := range w.carts[id] {
		ahead = ahead || !theirs[word]
	}
	return ahead, behind, nil
}

func (w *words) Arrive(_ string, _ bool, id [16]byte, payload []byte) (held, lacks bool) {
	return w.Deliver(0, id, payload)
}

func (w *words) Durable(_ context.Context, id [16]byte) ([]byte, error) { return w.all(id), nil }

func (w *words) State(_ context.Context, id [16]byte) ([]byte, func(uint64), error) {
	return w.all(id), func(uint64) {}, nil
}

func (w *words) Lost(peer uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, peer)
}

// testNode is a node with its carts.
type testNode struct {
	*Node
	words *words
}

// testKey is the cluster key of all tests.
var testKey = GenerateKey()

// ring returns the ring of keys.
func ring(keys ...Key) Keyring {
	r, err := NewKeyring(keys...)
	if err != nil {
		panic(err)
	}
	return r
}

// start starts a node, which stops with the test. It is active, and owns everything, unless the options say otherwise.
func start(t testing.TB, o Options) testNode {
	t.Helper()
	w := newWords()
	if len(o.Keys.keys) == 0 {
		o.Keys = ring(testKey)
	}
	if o.Carts == nil {
		o.Carts = w
	}
	if o.Replicas == 0 {
		o.Replicas = 8
	}
	if o.Member.State == 0 {
		o.Member.State = Active
	}
	o.Logger = testLogger(t)
	if o.GossipListen == "" {
		o.GossipListen, o.LinkListen = "127.0.0.1:0", "127.0.0.1:0"
	}
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	return testNode{n, w}
}

// testLogger returns a logger whose lines a test shows that failed.
func testLogger(t testing.TB) *slog.Logger {
	b := new(lockedBuffer)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.String())
		}
	})
	return slog.New(slog.NewTextHandler(b, nil))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// kill stops a node that says nothing.
func (n testNode) kill() error {
	n.stop.Do(func() { n.stopped = n.close() })
	return n.stopped
}

func (n testNode) addr() string { return n.Status().Self.GossipAddr }

// put has a node take a word for a cart and replicate it.
func (n testNode) put(id [16]byte, word string) {
	payload := []byte(word + "\n")
	n.words.add(id, payload)
	n.core.Replicate(id, payload, func(uint64) {})
}

// has reports whether a node has all words of a cart, and no other.
func (n testNode) has(id [16]byte, words ...string) bool {
	slices.Sort(words)
	return string(n.words.all(id)) == strings.Join(words, "\n")+"\n"
}

// linked reports whether a node has links with all of others, both ways, and with nobody else.
func linked(nodes ...testNode) bool {
	for _, n := range nodes {
		_, others := n.members.all()
		if len(others) != len(nodes)-1 || n.core.Peers() != len(nodes)-1 {
			return false
		}
		for _, o := range nodes {
			self, _ := o.members.all()
			if !n.core.Alive(self.Start) {
				return false
			}
		}
	}
	return true
}

// patience is how long a test waits for what takes milliseconds, on a machine that is busy.
const patience = 20 * time.Second

// await waits until something holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestNodesOnLoopback(t *testing.T) {
	a := start(t, Options{Member: Member{Region: "eu", Zone: "a", State: Joining}})
	b := start(t, Options{Member: Member{Region: "eu", Zone: "b"}, Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })
	c := start(t, Options{Member: Member{Region: "eu", Zone: "c"}, Join: []string{b.addr()}})
	await(t, "three nodes", func() bool { return linked(a, b, c) })

	a.SetState(Active)
	for _, n := range []testNode{b, c} {
		await(t, "a new state", func() bool {
			_, others := n.members.all()
			return slices.ContainsFunc(others, func(m Member) bool { return m.GossipAddr == a.addr() && m.State == Active })
		})
	}
	id := cartID(1)
	for i, n := range []testNode{a, b, c} {
		n.put(id, fmt.Sprint(i))
	}
	for _, n := range []testNode{a, b, c} {
		await(t, "a change everywhere", func() bool { return n.has(id, "0", "1", "2") })
	}
	held := make(chan uint64, 2)
	a.core.Replicate(id, []byte("3\n"), func(holder uint64) { held <- holder })
	want := []uint64{b.Status().Self.Start, c.Status().Self.Start}
	if got := []uint64{<-held, <-held}; !slices.Equal(got, want) && !slices.Equal(got, []uint64{want[1], want[0]}) {
		t.Errorf("held by %x, not %x", got, want)
	}

	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	await(t, "two are left", func() bool { return linked(a, b) })
	status := a.Status()
	if status.Self.Zone != "a" || len(status.Members) != 1 || len(status.Connections) != 1 || !status.Connections[0].Up {
		t.Errorf("%+v", status)
	}
	for why, count := range status.Refused {
		if count != 0 {
			t.Errorf("%d refused: %s", count, why)
		}
	}
}

// A process that is killed says nothing; one that starts at its addresses is another one.
func TestKilledNodeIsReplaced(t *testing.T) {
	fast := func(c *memberlist.Config) {
		c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = 100*time.Millisecond, 50*time.Millisecond, 2
	}
	a := start(t, Options{tune: fast})
	b := start(t, Options{tune: fast, Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })
	former := b.Status().Self
	if err := b.kill(); err != nil {
		t.Fatal(err)
	}
	id := cartID(1)
	a.put(id, "while it is away")
	again := start(t, Options{
		tune: fast, Join: []string{a.addr()},
		GossipListen: former.GossipAddr, LinkListen: former.LinkAddr,
	})
	if self := again.Status().Self; self.Start == former.Start || self.Name == former.Name || self.GossipAddr != former.GossipAddr {
		t.Fatalf("%+v came back as %+v", former, self)
	}
	await(t, "the new process in place of the old one", func() bool { return linked(a, again) })
	await(t, "what it missed", func() bool { return again.has(id, "while it is away") })
	a.words.mu.Lock()
	defer a.words.mu.Unlock()
	if !slices.Contains(a.words.lost, former.Start) {
		t.Errorf("lost %x", a.words.lost)
	}
}

func TestStartRefuses(t *testing.T) {
	ports := map[string]string{"host unreachable": "link", "gossip port": "gossip", "link port": "link"}
	for name, o := range map[string]Options{
		"no key":           {Carts: newWords()},
		"no carts":         {Keys: ring(testKey)},
		"label":            {Keys: ring(testKey), Carts: newWords(), Label: strings.Repeat("l", maxLabel+1)},
		"region":           {Keys: ring(testKey), Carts: newWords(), Member: Member{Region: strings.Repeat("r", maxPlace+1)}},
		"address to join":  {Keys: ring(testKey), Carts: newWords(), Join: []string{"10.0.0.1"}},
		"host unreachable": {Keys: ring(testKey), Carts: newWords(), AdvertiseHost: "0.0.0.0"},
		"gossip port":      {Keys: ring(testKey), Carts: newWords(), GossipListen: "127.0.0.1:x"},
		"link port":        {Keys: ring(testKey), Carts: newWords(), LinkListen: "192.0.2.1:0"},
	} {
		if o.GossipListen == "" {
			o.GossipListen = "127.0.0.1:0"
		}
		if o.LinkListen == "" {
			o.LinkListen = "127.0.0.1:0"
		}
		n, err := New(o)
		if err == nil {
			if err = n.Start(t.Context()); err == nil {
				_ = n.Stop(t.Context())
			}
		}
		var listen *ListenError
		if port := ports[name]; err == nil || errors.As(err, &listen) != (port != "") || listen != nil && listen.Port != port {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hosts are the machines of a cluster in memory.
var hosts = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}

// startMemory starts a node for each host, on a network in memory, and waits until they are linked.
func startMemory(t testing.TB, network *memoryNetwork) (nodes []testNode) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // memberlist does not wait for a probe that is under way
	for _, ip := range hosts {
		nodes = append(nodes, start(t, Options{network: network.host(ip), Join: []string{hosts[0] + ":7946"}}))
	}
	time.Sleep(5 * time.Second)
	if !linked(nodes...) {
		t.Fatal("no cluster")
	}
	return nodes
}

// apart is longer than it takes memberlist to find a node dead and to forget it.
const apart = 5 * time.Minute

func TestSplitHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		nodes := startMemory(t, network)
		a, b, c := nodes[0], nodes[1], nodes[2]
		network.cut(hosts[:1], hosts[1:])
		id := cartID(1)
		a.put(id, "a")
		b.put(id, "b")
		time.Sleep(apart)
		if !linked(a) || !linked(b, c) || !c.has(id, "b") {
			t.Fatal("not apart")
		}
		if known := a.members.list.NumMembers(); known != 1 {
			t.Fatalf("%d members", known)
		}
		network.mend(hosts[:1], hosts[1:])
		time.Sleep(rejoinEvery + 5*time.Second)
		if !linked(nodes...) {
			t.Errorf("apart 20 s after the network was mended: %+v", a.Status().Members)
		}
		for _, n := range nodes {
			if !n.has(id, "a", "b") {
				t.Errorf("%s has %q", n.Status().Self.Name, n.words.all(id))
			}
		}
	})
}

// Nothing but the rejoin loop makes them whole.
func TestSplitLastsWithoutRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		nodes := startMemory(t, network)
		network.cut(hosts[:1], hosts[1:])
		time.Sleep(apart)
		for _, n := range nodes {
			n.members.mu.Lock()
			clear(n.members.rejoin.lost)
			n.members.rejoin.seeds = nil
			n.members.mu.Unlock()
		}
		network.mend(hosts[:1], hosts[1:])
		time.Sleep(apart)
		if !linked(nodes[0]) || !linked(nodes[1], nodes[2]) {
			t.Error("together again")
		}
	})
}

// A peer that falls silent while its connection stays up is as good as gone.
func TestLinkThatBreaksComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := startMemory(t, newMemoryNetwork())
		for _, l := range nodes[0].links.all() {
			l.close(errStale)
		}
		synctest.Wait()
		if linked(nodes...) {
			t.Fatal("still linked")
		}
		time.Sleep(time.Second)
		if !linked(nodes...) {
			t.Error("no link after a second")
		}
	})
}

// What a node tells of itself it tells twice, for memberlist may lose it.
func TestStateIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		t.Cleanup(func() { time.Sleep(time.Minute) })
		var nodes []testNode
		for _, ip := range hosts {
			nodes = append(nodes, start(t, Options{
				network: network.host(ip), Join: []string{hosts[0] + ":7946"},
				// Nothing else tells of a node.
				tune: func(c *memberlist.Config) { c.ProbeInterval, c.PushPullInterval = time.Hour, time.Hour },
			}))
		}
		time.Sleep(5 * time.Second)
		network.cut(hosts[:1], hosts[1:])
		nodes[0].SetState(Draining)
		network.mend(hosts[:1], hosts[1:])
		know := func() (n int) {
			for _, other := range nodes[1:] {
				for _, m := range other.Status().Members {
					if m.GossipAddr == nodes[0].addr() && m.State == Draining {
						n++
					}
				}
			}
			return n
		}
		if know() > 0 {
			t.Fatal("nothing was lost")
		}
		time.Sleep(tellAgain + 2*time.Second)
		if n := know(); n != 2 {
			t.Errorf("%d of 2 know", n)
		}
	})
}

func TestConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		nodes := startMemory(t, network)
		self := nodes[1].Status().Self

		// The copy of a machine: the same start id at another address.
		twin := start(t, Options{
			network: network.host("10.0.0.9"), Member: Member{Start: self.Start}, Join: []string{hosts[0] + ":7946"},
		})
		// A process that takes the name of another one.
		m, err := newMembers(Options{Member: self, Keys: ring(testKey)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := memberlist.DefaultLANConfig()
		c.Name, c.Label, c.SecretKey, c.EnableCompression = self.Name, "cartd", testKey.derive(gossipUse), false
		c.Transport, _, _ = network.host("10.0.0.8").Gossip(t.Context(), Options{}, nil, nil)
		c.Logger = nil
		c.LogOutput = new(lockedBuffer)
		c.Delegate = m
		double, err := memberlist.Create(c)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = double.Shutdown() }()
		if _, err := double.Join([]string{hosts[0] + ":7946"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if !linked(nodes...) {
			t.Error("the cluster suffers")
		}
		if twin.core.Peers() != 0 {
			t.Error("the copy has a link")
		}
		if n := nodes[0].Status().Refused[string(gossipConflict)]; n < 2 {
			t.Errorf("%d conflicts", n)
		}
	})
}

func TestOtherRegionIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		nodes := startMemory(t, network)
		stranger := start(t, Options{
			network: network.host("10.0.0.9"), Member: Member{Region: "mars"}, Join: []string{hosts[0] + ":7946"},
		})
		time.Sleep(10 * time.Second)
		if !linked(nodes...) || !linked(stranger) {
			t.Error("regions are mixed")
		}
		if nodes[0].Status().Refused[string(gossipRegion)] == 0 {
			t.Error("not counted")
		}
	})
}

// A node that has not started, or has stopped, is there to be looked at.
func TestStatusAtAnyTime(t *testing.T) {
	n, err := New(Options{Keys: ring(testKey), Carts: newWords(), Member: Member{Zone: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	n.SetState(Active)
	if s := n.Status(); s.Self.State != Active || s.Self.Start == 0 || len(s.Members) != 0 {
		t.Errorf("%+v", s)
	}
	answered := make(chan struct{})
	n.Core().Fetch(cartID(1), false, func([][]byte, bool) { close(answered) })
	select {
	case <-answered:
		t.Error("a job ran before the start")
	default:
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	n.SetState(Draining)
	if s := n.Status(); s.Self.State != Draining {
		t.Errorf("%+v", s)
	}
}

func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		nodes := startMemory(t, network)
		network.cut(hosts[:1], hosts[1:])
		nodes[0].jobs.spawn(1, func(ctx context.Context) { <-ctx.Done() })
		began := time.Now()
		if err := nodes[0].Stop(t.Context()); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if err := nodes[0].Stop(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}
