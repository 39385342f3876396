package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"cartd/cart"
	"cartd/crdt"
	"cartd/gossip"
)

// machine is where processes run, one after the other. It has the address that others join.
type machine struct {
	number  int
	used    bool // a process runs there, or is to run again soon
	zone    string
	skew    time.Duration // of its clock
	file    *database     // its own, where there is no database for all
	process *node         // the last one
}

// node is a process: a Service and a Core.
type node struct {
	world   *world
	machine *machine
	member  gossip.Member
	service *cart.Service
	core    *gossip.Core
	store   *store
	dead    bool
	cutOff  time.Duration // when its last link went down
	leaving bool          // others are told, and most clients
	closed  bool          // it takes no requests any more
	gone    chan struct{} // closed when it is dead
	running context.Context
	cancel  context.CancelFunc
	queues  map[uint64]*queue
	ends    map[uint64]*end // by start id of the peer
	own     slots           // what the Core has told the Service to keep, because they are its own
	held    slots           // and because others may lack them
	placed  bool            // it was told once
	view    []*node         // whom its memberlist takes for alive, in order of birth
	heard   map[uint64]word // what these said of their state, and the process itself
	news    bool            // it is not what the core was told
	seen    map[uint64]time.Duration
	redial  map[uint64]time.Duration
	rejoin  *gossip.Rejoin
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
		heard:   make(map[uint64]word),
		seen:    make(map[uint64]time.Duration),
		redial:  make(map[uint64]time.Duration),
	}
	n.member = gossip.Member{
		Start: w.rand.Uint64() | 1, Name: fmt.Sprintf("n%d.%d", m.number, w.born),
		Region: "r", Zone: m.zone, State: gossip.Joining, MinWire: gossip.MinWire, MaxWire: gossip.MaxWire,
		LinkAddr: fmt.Sprintf("link-%d", m.number), GossipAddr: fmt.Sprintf("gossip-%d", m.number),
	}
	n.running, n.cancel = context.WithCancel(context.Background())
	c := &carts{node: n}
	n.core = gossip.NewCore(gossip.CoreOptions{
		Self: n.member, Carts: c, Replicas: replicas, Tolerate: w.plan.tolerate, Now: n.clock, Logger: slog.New(slog.DiscardHandler),
		Rand:  rand.New(rand.NewPCG(w.rand.Uint64(), w.rand.Uint64())),
		Spawn: n.spawn, Wake: n.wake, MaxOutbox: w.plan.outbox,
	})
	db := w.database
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
	n.view = []*node{n}
	n.heard[n.member.Start] = word{state: gossip.Joining}
	n.rejoin = gossip.NewRejoin(n.member.GossipAddr, w.plan.join, rand.New(rand.NewPCG(n.member.Start, 0)))
	n.tick()
	n.joinOthers()
	w.start(n, n.name()+" join", n.join)
}

// replicas is how many owners a cart has.
const replicas = 3

// When a process becomes an active one, as cmd/cartd has it.
const (
	joinTimeout = 10 * time.Second
	meetTimeout = 2 * time.Second
	joinTick    = 20 * time.Millisecond
)

// join makes the process an active one as soon as it has met another one, if there is any, and has what that has,
// as far as the database can be read.
func (n *node) join() {
	w := n.world
	began := w.now
	for !n.dead && w.now < began+joinTimeout {
		met := n.core.Peers() > 0 || w.now > began+meetTimeout
		if met && (n.service.Indexed() && n.core.Synced() || n.store.away()) {
			break
		}
		w.sleep(joinTick, n.gone)
	}
	if n.dead || n.leaving {
		return
	}
	w.trace("%s has joined, %d linked, indexed %v, synced %v", n.name(), n.core.Peers(), n.service.Indexed(), n.core.Synced())
	n.announce(gossip.Active)
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
	for _, q := range n.queues {
		q.jobs = nil
	}
	w.drain(n) // what is left then waits for the Service to be closed
	w.start(n, n.name()+" close", func() { _ = n.service.Close(n.running) })
	if stuck := w.drain(n); stuck != "" {
		w.fail("liveness", "%s: does not end when the node is closed", stuck)
	}
}

// drain ends the process in good order: it saves what the database lacks, or leaves that to enough others, and
// closes its Service.
func (n *node) drain() {
	w := n.world
	w.trace("%s drains", n.name())
	w.count["drains"]++
	ctx, cancel := context.WithCancel(n.running)
	patience := w.after(5*time.Second, cancel)
	err := n.service.Flush(ctx)
	patience.stopped = true
	cancel()
	if n.dead {
		return
	}
	w.trace("%s drained: %v", n.name(), err)
	if errors.Is(err, cart.ErrLeft) {
		w.count["handovers"]++
	}
	if err == nil || errors.Is(err, cart.ErrLeft) {
		n.sayGoodbye()
		n.exit()
		return
	}
	if !w.mayCrash() {
		w.trace("%s stays", n.name())
		return
	}
	n.crash()
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
