package cart

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartd/crdt"
)

// region is a few Services that are wired to each other in memory: what one sends arrives later, out of
// order, or not at all.
type region struct {
	t       *testing.T
	options Options    // of each node
	store   *fakeStore // of all nodes, or nil where each has its own
	ending  chan struct{}
	jobs    sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
	nodes  []*node
	cuts   map[[2]uint64]bool // links that are cut, by the start ids of both ends
	loss   float64            // of deltas and acknowledgements
	calm   bool               // no more delays
}

// node is a Service in a region, and what it has as Replicator.
type node struct {
	region *region
	start  uint64
	s      *Service
	store  *nodeStore
	synced atomic.Bool
	dead   atomic.Bool
}

// nodeStore is what a node has of a store: nothing any more when it is dead.
type nodeStore struct {
	*fakeStore
	dead *atomic.Bool
}

func (n nodeStore) Commit(ctx context.Context, changes []Change) error {
	if n.dead.Load() {
		return errors.New("the node is dead")
	}
	return n.fakeStore.Commit(ctx, changes)
}

func (n nodeStore) Close() error { return nil }

func newRegion(t *testing.T, seed uint64, o Options) *region {
	return &region{
		t: t, options: o, ending: make(chan struct{}), cuts: make(map[[2]uint64]bool),
		random: rand.New(rand.NewPCG(seed, 1)),
	}
}

// join adds a node.
func (g *region) join() {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := &node{region: g, start: uint64(len(g.nodes) + 1)}
	n.synced.Store(true)
	store := g.store
	if store == nil {
		store = newFakeStore()
	}
	n.store = &nodeStore{store, &n.dead}
	o := g.options
	o.Replicator, o.Store, o.Shared = n, n.store, g.store != nil
	n.s = New(o)
	g.nodes = append(g.nodes, n)
}

// stop ends what is on its way, and the nodes.
func (g *region) stop() {
	close(g.ending)
	g.jobs.Wait()
	for _, n := range g.nodes {
		if err := n.s.Close(g.t.Context()); err != nil && !n.dead.Load() {
			g.t.Errorf("Close: %v", err)
		}
	}
}

// kill makes a node lose its memory.
func (g *region) kill(n *node) {
	n.dead.Store(true)
	for _, other := range g.living() {
		other.s.Lost(n.start)
	}
}

func (g *region) living() []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.nodes), func(n *node) bool { return n.dead.Load() })
}

func link(a, b *node) [2]uint64 { return [2]uint64{min(a.start, b.start), max(a.start, b.start)} }

func (g *region) linked(a, b *node) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !a.dead.Load() && !b.dead.Load() && !g.cuts[link(a, b)]
}

// cut cuts a link, or heals it.
func (g *region) cut(a, b *node, cut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cuts[link(a, b)] = cut
	a.synced.Store(false)
	b.synced.Store(false)
}

func (g *region) draw(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.random.IntN(n)
}

func (g *region) loses() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.random.Float64() < g.loss
}

// send does something at another node after a while, if it gets there.
func (g *region) send(from, to *node, do func()) {
	if g.loses() {
		return
	}
	delay := time.Duration(g.draw(3000)) * time.Microsecond
	if g.draw(50) == 0 {
		delay *= 50
	}
	g.mu.Lock()
	if g.calm {
		delay = time.Millisecond
	}
	g.mu.Unlock()
	select {
	case <-g.ending:
		return
	default:
	}
	g.jobs.Go(func() {
		time.Sleep(delay)
		if g.linked(from, to) {
			do()
		}
	})
}

func (n *node) peers() []*node {
	return slices.DeleteFunc(n.region.living(), func(o *node) bool { return o == n || !n.region.linked(n, o) })
}

func (n *node) Replicate(id [16]byte, delta []byte, held func(uint64)) {
	for _, p := range n.peers() {
		n.region.send(n, p, func() {
			has, lacks := p.s.Deliver(n.start, id, delta)
			switch {
			case has:
				n.region.send(p, n, func() { held(p.start) })
			case lacks:
				n.region.send(p, n, func() { n.sendState(p, id) })
			}
		})
	}
}

// sendState sends another node the whole state of a cart.
func (n *node) sendState(to *node, id [16]byte) {
	payload, held, err := n.s.State(n.region.t.Context(), id)
	if err != nil || payload == nil {
		return
	}
	n.region.send(n, to, func() {
		if has, _ := to.s.Deliver(n.start, id, payload); has {
			n.region.send(to, n, func() { held(to.start) })
		}
	})
}

func (n *node) Mark(id [16]byte, mark []byte) {
	for _, p := range n.peers() {
		n.region.send(n, p, func() { p.s.Mark(n.start, id, mark) })
	}
}

func (n *node) Peers() int { return len(n.peers()) }

func (n *node) Alive(holder uint64) bool {
	return slices.ContainsFunc(n.peers(), func(p *node) bool { return p.start == holder })
}

func (n *node) Rank(id [16]byte) (rank int) {
	for _, p := range n.peers() {
		if (p.start+uint64(id[0]))%7 < (n.start+uint64(id[0]))%7 {
			rank++
		}
	}
	return rank
}

func (*node) Cross([16]byte, []byte, bool, func(uint64)) {}

func (*node) Abroad() int { return 0 }

func (n *node) HandedOver() bool { return n.Peers() > 1 }

func (*node) Home() int { return -1 }

func (n *node) Synced() bool { return n.synced.Load() }

func (n *node) Fetch(id [16]byte, _ bool, answer func([][]byte, bool)) {
	n.region.jobs.Go(func() {
		time.Sleep(2 * time.Millisecond)
		var payloads [][]byte
		complete := true
		for _, p := range n.region.living() {
			if p == n {
				continue
			}
			if !n.region.linked(n, p) || n.region.loses() {
				complete = false
			} else if payload, known := p.s.Recall(id); known {
				payloads = append(payloads, payload)
			}
		}
		answer(payloads, complete)
	})
}

// repair compares what two nodes have, as repair does that goes over the wire.
func (g *region) repair(a, b *node) {
	if !g.linked(a, b) || !a.s.Indexed() || !b.s.Indexed() {
		return
	}
	ctx := g.t.Context()
	ours, theirs := a.s.Digests(), b.s.Digests()
	known, knownThere := slotSet(a.s.Seeded()), slotSet(b.s.Seeded())
	for slot := range ours {
		if ours[slot] == theirs[slot] || !known.has(slot) || !knownThere.has(slot) {
			continue
		}
		from := ID{byte(slot >> 4), byte(slot << 4)}
		differ := make(map[ID]int)
		for i, n := range []*node{a, b} {
			n.s.EachVersion(from, func(id [16]byte, version uint64) bool {
				differ[id] ^= int(version) + i<<62
				return true
			})
		}
		for id := range differ {
			vector, known, err := b.s.Vector(ctx, id)
			if err != nil {
				continue
			}
			ahead, behind := true, false
			if known {
				if ahead, behind, err = a.s.Compare(ctx, id, vector); err != nil {
					continue
				}
			}
			if ahead {
				a.sendState(b, id)
			}
			if behind {
				b.sendState(a, id)
			}
		}
	}
	a.synced.Store(true)
	b.synced.Store(true)
}

// repairAll compares all nodes with each other.
func (g *region) repairAll() {
	living := g.living()
	for i, a := range living {
		for _, b := range living[i+1:] {
			g.repair(a, b)
		}
	}
}

// settle lets everything arrive, with the region whole, and checks that all nodes and the store then have the
// same.
func (g *region) settle() {
	g.mu.Lock()
	g.loss, g.calm = 0, true
	clear(g.cuts)
	g.mu.Unlock()
	for _, n := range g.living() {
		n.s.Keep(allSlots, noSlots)
	}
	time.Sleep(5 * time.Second)
	for range 3 {
		g.repairAll()
		time.Sleep(time.Second)
	}
	for _, n := range g.living() {
		if err := n.s.Flush(g.t.Context()); err != nil {
			g.t.Errorf("Flush: %v", err)
		}
	}
	time.Sleep(2 * idleTicks * tick) // marks that were lost are sent again with what is saved next
	synctest.Wait()
	var first *node
	for _, n := range g.living() {
		checkMemory(g.t, n.s)
		checkIndex(g.t, n.s)
		wantNothingUnsaved(g.t, n.s)
		if first == nil {
			first = n
		} else if *first.s.Digests() != *n.s.Digests() {
			g.t.Errorf("the nodes %d and %d have different digests", first.start, n.start)
		}
	}
}

// checkIndex checks that the index has the versions of what is resident.
func checkIndex(t testing.TB, s *Service) {
	t.Helper()
	for _, r := range residentsOf(s) {
		r.mu.Lock()
		state, err := r.latest, error(nil)
		if r.packed != nil {
			state, err = crdt.DecodeState(r.packed)
		}
		sh := s.shard(r.id)
		sh.mu.Lock()
		if err != nil || !r.gone && sh.versions[r.id] != VersionHash(r.id, state) {
			t.Errorf("the index has another version of %v than there is (%v)", r.id, err)
		}
		sh.mu.Unlock()
		r.mu.Unlock()
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		var digests [slotsPerShard]uint64
		for id, version := range sh.versions {
			digests[slotInShard(id)] ^= version
		}
		for id := range sh.versions {
			if !sh.kept().has(id) && sh.carts[id] == nil && sh.fragments[id] == nil {
				t.Errorf("the index has %v, of which nothing is in memory, in a slot that is not kept", id)
			}
		}
		if digests != sh.digests {
			t.Errorf("the digests of the shard %d are not those of its versions", i)
		}
		sh.mu.Unlock()
	}
}

// checkLists checks that nothing that is unsaved was forgotten.
func checkLists(t testing.TB, s *Service) {
	t.Helper()
	due := func(id ID) bool {
		f := &s.flusher
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.looking > 0 || slices.ContainsFunc(f.due, func(d dueCart) bool { return d.id == id })
	}
	lacked := 0
	for _, r := range residentsOf(s) {
		r.mu.Lock()
		switch {
		case r.gone:
		case r.dirty() && !r.listed && !r.queued && r.taken == nil:
			t.Errorf("%v is dirty and in no list", r.id)
		case s.lazy() && r.listed && !due(r.id):
			t.Errorf("%v takes itself for listed", r.id)
		case s.lazy() && r.dirty() != (r.oldest != nil):
			t.Errorf("%v is counted in the backlog: %v, dirty: %v", r.id, r.oldest != nil, r.dirty())
		}
		if r.oldest != nil && !r.gone {
			lacked++
		}
		r.mu.Unlock()
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for id, f := range sh.fragments {
			if !f.listed && !f.queued && slices.ContainsFunc(f.deltas, func(g fragment) bool { return !g.taken && !g.saved }) {
				t.Errorf("fragments of %v are in no list", id)
			}
			if s.lazy() && f.listed && !due(id) {
				t.Errorf("fragments of %v take themselves for listed", id)
			}
			if f.lacked != (s.lazy() && !f.stored()) {
				t.Errorf("fragments of %v are counted in the backlog: %v", id, f.lacked)
			}
			if f.lacked {
				lacked++
			}
		}
		sh.mu.Unlock()
	}
	if n := s.backlog.all().carts; n != lacked {
		t.Errorf("%d carts are counted in the backlog, not %d", n, lacked)
	}
}

// wantNothingUnsaved checks that nothing waits for the store, or for being safe.
func wantNothingUnsaved(t testing.TB, s *Service) {
	t.Helper()
	for _, r := range residentsOf(s) {
		r.mu.Lock()
		if !r.clean() {
			t.Errorf("%v is not clean: %d unsafe, dirty %v", r.id, len(r.unsafe), r.dirty())
		}
		r.mu.Unlock()
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for id, f := range sh.fragments {
			t.Errorf("%d fragments of %v", len(f.deltas), id)
		}
		sh.mu.Unlock()
	}
	f := &s.flusher
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.due)+len(f.young)+len(f.old)+len(f.waiting)+len(f.unsure)+f.looking > 0 {
		t.Errorf("the flusher has %d, %d, %d, %d, %d", len(f.due), len(f.young), len(f.old), len(f.waiting), len(f.unsure))
	}
	if n := s.backlog.all().carts; n > 0 {
		t.Errorf("%d carts are counted in the backlog", n)
	}
}

// Random commands at random nodes of a region whose links are cut, whose deltas, marks and acknowledgements are
// delayed and lost, whose database is away now and then, and of which one node dies. Every add that was
// acknowledged counts, and counts once; nobody's reads go back behind what she was told; in the end all
// have the same.
func TestRegion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, o := range []struct {
		name   string
		shared bool
		moving bool // slots are lost and gained
		Options
	}{
		{"one may fail", true, false, Options{Tolerate: 1}},
		{"little memory", true, false, Options{Tolerate: 1, Memory: 30_000}},
		{"two may fail", true, false, Options{Tolerate: 2}},
		{"slots move", true, true, Options{Tolerate: 1}},
		{"slots move, and two may fail", true, true, Options{Tolerate: 2}},
		{"each its own file", false, false, Options{Tolerate: 1}},
		{"each its own file, two may fail", false, false, Options{Tolerate: 2}},
		{"each its own file, slots move", false, true, Options{Tolerate: 1}},
	} {
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testRegion(t, seed, o.shared, o.moving, o.Options) })
		})
	}
}

func testRegion(t *testing.T, seed uint64, shared, moving bool, o Options) {
	const (
		workers = 8
		carts   = 8
		rounds  = 60
	)
	g := newRegion(t, seed, o)
	if shared {
		g.store = newFakeStore()
	}
	defer g.stop()
	for range 4 {
		g.join()
	}
	time.Sleep(time.Millisecond)
	var clients []*client
	for i := range carts {
		clients = append(clients, create(t, g.nodes[i%len(g.nodes)].s))
	}
	g.loss = 0.02
	done := make(chan struct{})
	var mishaps sync.WaitGroup
	mishaps.Go(func() { g.mishaps(done, shared, moving) })

	until := func(call func(n *node) error) {
		for attempts := 0; ; attempts++ {
			living := g.living()
			n := living[g.draw(len(living))]
			err := call(n)
			var e *Error
			switch {
			case n.dead.Load():
			case err == nil:
				return
			case errors.As(err, &e) && slices.Contains([]Reason{NotDurable, ServiceOverCapacity, Unavailable, ContextUnavailable}, e.Reason):
			default:
				t.Errorf("refused: %v", err)
				return
			}
			if attempts == 300 {
				t.Errorf("refused for a minute: %v", err)
				return
			}
			time.Sleep(time.Duration(g.draw(200)) * time.Millisecond)
		}
	}
	var acknowledged [carts]atomic.Int64
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)+2))
			mine := fmt.Sprint("W", w)
			var seen [carts]*Context
			var own, last [carts]int64
			for i := range rounds {
				k := random.IntN(carts)
				c := clients[k]
				execute := func(key string, command Command, want Durability) {
					until(func(n *node) error {
						ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
						defer cancel()
						began := time.Now()
						r, err := c.at(n.s).tryContext(ctx, Request{Key: key, Context: seen[k], Durability: want, Steps: stepsOf([]Command{command})})
						if took := time.Since(began); took > 2500*time.Millisecond {
							t.Errorf("a write took %v: %v", took, err)
						}
						if err == nil && !n.dead.Load() {
							seen[k] = c.contextOf(r.State)
							if want == Database && shared && !r.Reached.Database {
								t.Errorf("reached %+v, not the database", r.Reached)
							}
						}
						return err
					})
				}
				key := fmt.Sprintf("%d-%d", w, i)
				switch action := random.IntN(10); {
				case action < 4:
					execute(key, addN("A", 1), cmp.Or(Durability(random.IntN(20)/19), Default))
					own[k]++
					acknowledged[k].Add(1)
				case action < 6:
					last[k] = random.Int64N(50) + 1
					execute(key, setN(mine, last[k]), Default)
				default:
					until(func(n *node) error {
						state, err := n.s.Read(t.Context(), c.id, c.access(), seen[k])
						if err == nil && !n.dead.Load() {
							if got := quantityOf(state, "A"); got < own[k] {
								t.Errorf("a read shows %d units to who was told of %d", got, own[k])
							}
							if got := quantityOf(state, mine); got != last[k] {
								t.Errorf("a read shows %d units to who set %d", got, last[k])
							}
							seen[k] = c.contextOf(state)
						}
						return err
					})
				}
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			}
		})
	}
	working.Wait()
	close(done)
	mishaps.Wait()
	g.settle()
	g.checkCarts(clients, acknowledged[:])
}

// mishaps cuts links, takes the database away, kills a node and moves slots, until done is closed.
func (g *region) mishaps(done chan struct{}, shared, moving bool) {
	killed := false
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(100+g.draw(600)) * time.Millisecond):
		}
		living := g.living()
		a, b := living[g.draw(len(living))], living[g.draw(len(living))]
		for _, n := range living {
			checkLists(g.t, n.s)
		}
		if moving {
			own, held := slotsWhere(func(int) bool { return g.draw(2) == 0 }), slotsWhere(func(int) bool { return g.draw(4) == 0 })
			a.s.Keep(own, held)
		}
		switch g.draw(5) {
		case 0:
			if a != b {
				g.cut(a, b, true)
				time.Sleep(time.Duration(g.draw(1500)) * time.Millisecond)
				g.cut(a, b, false)
			}
		case 1:
			if !shared {
				continue
			}
			if g.draw(2) == 0 {
				g.store.failCommits(ErrNoRoom)
			} else {
				_, release := g.store.blockCommits()
				defer release()
				time.AfterFunc(time.Second, release)
			}
			g.store.hookLoad(func(context.Context, ID) error { return errors.New("the database is away") })
			time.Sleep(time.Second)
			g.store.failCommits(nil)
			g.store.hookLoad(nil)
		case 2:
			if killed || i < 10 {
				continue
			}
			killed = true
			g.kill(a)
			time.Sleep(time.Second)
			g.join()
			time.Sleep(time.Second)
			fallthrough
		default:
			g.repairAll()
		}
	}
}

// checkCarts checks that all nodes show the same carts, with so many units.
func (g *region) checkCarts(clients []*client, acknowledged []atomic.Int64) {
	for k, c := range clients {
		var encoded []byte
		for _, n := range g.living() {
			state, err := n.s.Read(g.t.Context(), c.id, c.access(), nil)
			if err != nil {
				g.t.Errorf("the cart %d at node %d: %v", k, n.start, err)
				continue
			}
			if got, want := quantityOf(state, "A"), acknowledged[k].Load(); got != want {
				g.t.Errorf("the cart %d has %d units at node %d, %d adds were acknowledged", k, got, n.start, want)
			}
			b := crdt.AppendState(nil, state)
			if encoded == nil {
				encoded = b
			}
			stored := n.store.state(c.id)
			if !bytes.Equal(b, encoded) {
				g.t.Errorf("the cart %d at node %d is not what others have: %v", k, n.start, state.VV)
			}
			if stored == nil || !bytes.Equal(b, crdt.AppendState(nil, stored)) {
				g.t.Errorf("the cart %d at node %d is not what is stored: %s and %s", k, n.start, dumpOf(state), dumpOf(stored))
			}
		}
	}
}

// dumpOf renders the lines of a state with their entries.
func dumpOf(s *State) string {
	if s == nil {
		return "nothing"
	}
	text := fmt.Sprint(s.VV)
	for _, l := range s.Lines {
		text += fmt.Sprintf(" %s@%d%v%v", l.Key, l.First, l.Counter, l.Registers)
	}
	return text
}
