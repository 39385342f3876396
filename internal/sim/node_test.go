package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"cartd/cart"
	"cartd/crdt"
	"cartd/gossip"
)

// machine is where processes run, one after the other. It has the address that others join.
type machine struct {
	world   *world
	region  *region
	number  int
	seed    bool // others are told to join it
	used    bool // a process runs there, or is to run again soon
	zone    string
	skew    time.Duration // of its clock
	file    *database     // its own, where there is no database for all
	process *node         // the last one
}

func (m *machine) gossipAddress() string { return fmt.Sprintf("gossip-%d", m.number) }
func (m *machine) wanAddress() string    { return fmt.Sprintf("wan-%d", m.number) }

// node is a process: a Service and a Core.
type node struct {
	world    *world
	machine  *machine
	member   gossip.Member
	lan, wan *pool // of its region, and of all regions where there are several
	term     *gossip.Term
	bridge   bool
	service  *cart.Service
	core     *gossip.Core
	store    *store
	dead     bool
	cutOff   time.Duration // when its last link went down
	leaving  bool          // others are told, and most clients
	complete bool          // it became active when it had what others have
	closed   bool          // it takes no requests any more
	left     bool          // it has said goodbye
	gone     chan struct{} // closed when it is dead
	running  context.Context
	cancel   context.CancelFunc
	queues   map[uint64]*queue
	ends     map[uint64]*end // by start id of the peer
	own      slots           // what the Core has told the Service to keep, because they are its own
	held     slots           // and because others may lack them
	placed   bool            // it was told once
	redial   map[uint64]time.Duration
}

// queue has the jobs for a peer, one at a time.
type queue struct {
	jobs    []func(context.Context)
	running bool
}

func (n *node) name() string { return n.member.Name }

// carts is what a Core sees of a Service, which is made after it.
type carts struct {
	*cart.Service
	node *node
}

// Keep is called in a job of the Core.
func (c *carts) Keep(own, held slots) {
	c.node.keep(own, held)
	c.Service.Keep(own, held)
}

// replicator is what a Service sees of a Core.
type replicator struct {
	*gossip.Core
	node *node
}

// Replicate is called in the activity of the request that made the delta.
func (r replicator) Replicate(id [16]byte, delta []byte, held func(uint64)) {
	r.node.world.authored(r.node, id, delta)
	r.Core.Replicate(id, delta, held)
}

// Home returns a slot whose shard has no cart yet: what order the carts of a shard are looked at in is for the
// Go runtime to decide.
func (r replicator) Home() int {
	for range 100 {
		slot := r.Core.Home()
		if slot < 0 || !r.node.world.hasShard(byte(slot>>4)) {
			return slot
		}
	}
	return -1
}

// boot starts a process on a machine.
func (w *world) boot(m *machine) {
	w.born++
	n := &node{
		world:   w,
		machine: m,
		gone:    make(chan struct{}),
		queues:  make(map[uint64]*queue),
		ends:    make(map[uint64]*end),
		redial:  make(map[uint64]time.Duration),
	}
	n.member = gossip.Member{
		Start: w.rand.Uint64() | 1, Name: fmt.Sprintf("n%d.%d", m.number, w.born),
		Region: m.region.name, Zone: m.zone, State: gossip.Joining, MinWire: gossip.MinWire, MaxWire: gossip.MaxWire,
		LinkAddr: fmt.Sprintf("link-%d", m.number), GossipAddr: m.gossipAddress(),
	}
	if len(w.regions) > 1 {
		n.member.WANAddr = m.wanAddress()
	}
	n.running, n.cancel = context.WithCancel(context.Background())
	c := &carts{node: n}
	n.core = gossip.NewCore(gossip.CoreOptions{
		Self: n.member, Carts: c, Replicas: w.plan.replicas, Tolerate: w.plan.tolerate, Now: n.clock, Logger: slog.New(slog.DiscardHandler),
		Rand:  rand.New(rand.NewPCG(w.rand.Uint64(), w.rand.Uint64())),
		Spawn: n.spawn, Wake: n.wake, MaxOutbox: w.plan.outbox,
	})
	db := m.region.database
	if m.file != nil {
		db = m.file
	}
	n.store = &store{database: db, node: n}
	n.service = cart.New(cart.Options{
		Store: n.store, Shared: m.file == nil, Replicator: replicator{n.core, n}, Placed: true, Tolerate: w.plan.tolerate,
		Memory: w.plan.memory, Now: n.clock, Scheduler: threads{&w.scheduler, n},
	})
	c.Service = n.service
	m.process, m.used = n, true
	w.processes = append(w.processes, n)
	w.trace("%s boots, start id %016x", n.name(), n.member.Start)
	n.lan = newPool(n, false, m.region.join)
	if len(w.regions) > 1 {
		n.wan, n.term = newPool(n, true, m.region.joinAll), gossip.NewTerm(true, n.clock())
	}
	n.tick()
	for _, l := range n.pools() {
		l.joinOthers()
	}
	w.start(n, n.name()+" join", n.join)
}

// When a process becomes an active one, as cmd/cartd has it.
const (
	joinTimeout = 10 * time.Second
	meetTimeout = 2 * time.Second
	meetAbroad  = 5 * time.Second
	joinTick    = 20 * time.Millisecond
)

// flushTimeout is how long a process waits for the database, or for others, before it leaves all the same, likewise.
const flushTimeout = time.Minute

// join makes the process an active one as soon as it has met another one, if there is any, and has what that has, and
// what other regions have that can be reached: while the database cannot be read, of it what the database lacks.
func (n *node) join() {
	w := n.world
	began := w.now
	for !n.dead && !n.mayBeActive(w.now-began) {
		w.sleep(joinTick, n.gone)
	}
	if n.dead || n.leaving {
		return
	}
	if n.complete = w.now-began <= joinTimeout; n.store.away() && n.core.Peers() > 0 {
		w.count["newcomers in an outage"]++
	}
	w.trace("%s has joined, %d linked, indexed %v, synced %v", n.name(), n.core.Peers(), n.service.Indexed(), n.core.Synced())
	n.announce(gossip.Active)
	w.check.recovered(n)
}

// mayBeActive reports whether a process that has waited for so long may be counted on by others.
func (n *node) mayBeActive(waited time.Duration) bool {
	met, late := n.core.Peers() > 0 || waited > meetTimeout, waited > joinTimeout
	if n.store.away() {
		linked, away := n.core.Uncovered()
		return met && linked == 0 && (away == 0 || late)
	}
	abroad := n.wan == nil || n.core.Abroad() > 0 || waited > meetAbroad
	return met && abroad && n.service.Indexed() && n.core.Synced() && n.core.SyncedAbroad() || late
}

// clock is the clock of the machine.
func (n *node) clock() time.Time {
	return epoch.Add(n.world.now + n.machine.skew)
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (n *node) spawn(peer uint64, job func(context.Context)) {
	if n.dead {
		return
	}
	q := n.queues[peer]
	if q == nil {
		q = &queue{}
		n.queues[peer] = q
	}
	q.jobs = append(q.jobs, job)
	if q.running {
		return
	}
	q.running = true
	n.world.start(n, n.name()+" job", func() {
		for len(q.jobs) > 0 {
			job := q.jobs[0]
			q.jobs = q.jobs[1:]
			job(n.running)
		}
		q.running = false
	})
}

// tick lets time pass for the core.
func (n *node) tick() {
	w := n.world
	w.after(time.Duration(5+w.rand.IntN(40))*time.Millisecond, func() {
		if n.dead {
			return
		}
		for _, peer := range n.core.Tick() {
			if e := n.ends[peer]; e != nil {
				e.close("stale")
			}
		}
		n.dial()
		n.tick()
	})
}

// crash ends the process at once: nothing that it does afterwards has an effect.
func (n *node) crash() {
	w := n.world
	w.trace("%s dies", n.name())
	w.count["crashes"]++
	n.exit()
	w.exposed = append(w.exposed, n)
	if n.machine.file != nil && w.rand.IntN(2) == 0 {
		n.machine.file = newDatabase(w, n.machine.file.name)
		w.trace("%s takes its file with it", n.name())
	}
}

// exit takes the process from the world and runs what is left of it to its end.
func (n *node) exit() {
	w := n.world
	n.dead = true
	close(n.gone)
	n.cancel()
	n.hangUp()
	w.count["evictions"] += int(n.service.Stats().Evicted)
	for _, r := range n.core.Status().Regions {
		w.count["crossings"] += int(r.Crossings.Received)
		w.count["relayed"] += int(r.Crossings.Relayed)
		w.count["crossings dropped"] += int(r.Crossings.Dropped)
		w.count["repairs between regions"] += int(r.Repairs.RepairsDone)
	}
	for _, q := range n.queues {
		q.jobs = nil
	}
	w.drain(n) // what is left then waits for the Service to be closed
	w.start(n, n.name()+" close", func() { _ = n.service.Close(n.running) })
	if stuck := w.drain(n); stuck != "" {
		w.fail("liveness", "%s: does not end when the node is closed", stuck)
	}
}

// busy reports whether the process is at a request.
func (n *node) busy() bool {
	return slices.ContainsFunc(n.world.activities, func(a *activity) bool { return a.owner == n && a.request != nil })
}

// drain ends the process in good order: it finishes the requests that it is at, saves what the database lacks, or
// leaves that to enough others, and closes its Service. No outage is as long as it waits for that.
func (n *node) drain() {
	w := n.world
	w.until(patience+slack, func() bool { return n.dead || !n.busy() })
	if n.dead {
		return
	}
	w.trace("%s drains", n.name())
	w.count["drains"]++
	ctx, cancel := context.WithCancel(n.running)
	deadline := w.after(flushTimeout, cancel)
	err := n.service.Flush(ctx)
	deadline.stopped = true
	cancel()
	if n.dead {
		return
	}
	w.trace("%s drained: %v", n.name(), err)
	if errors.Is(err, cart.ErrLeft) {
		w.count["handovers"]++
	}
	n.sayGoodbye()
	w.sleep(time.Duration(w.rand.IntN(int(200*time.Millisecond))), nil) // peers that have not heard it still send
	if !n.dead {
		n.exit()
	}
}

var errGone = errors.New("sim: the process is dead")

// authored is told of every delta that a Service makes.
func (w *world) authored(n *node, id cart.ID, encoded []byte) {
	if n.dead {
		return
	}
	d, err := crdt.DecodeDelta(encoded)
	if err != nil {
		w.fail("model", "%s made a delta that cannot be decoded: %v", n.name(), err)
		return
	}
	if s := w.check.byID[id]; s != nil && (d.Erased && s.erasing || !d.Erased && s.model.knows(d.VV)) {
		return // it is sent again
	}
	a := w.current
	if a == nil || a.request == nil {
		w.fail("model", "%s made a delta outside of a request", n.name())
		return
	}
	w.check.authored(n, id, a.request, d)
}
