package gossip

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Options are what a node needs.
type Options struct {
	// Member is this process: Region, Zone, State (by default Joining) and APIAddr. Start is drawn
	// where it is 0, and the rest is filled in.
	Member Member

	Keys          Keyring
	Label         string   // of the cluster: nodes of another one are refused. Default: cartd; 64 bytes at most
	GossipListen  string   // host:port of memberlist, UDP and TCP; port 0 is any
	LinkListen    string   // host:port of the links; port 0 is any
	AdvertiseHost string   // that others reach this process at. Default: that of the listeners, or the first private address
	Join          []string // host:port of gossip ports of others
	WANListen     string   // host:port of the memberlist of all regions, UDP and TCP. Default: none; the region keeps to itself
	JoinWAN       []string // host:port of such ports of others, beside those in the region
	AdvertiseWAN  string   // host that other regions reach this process at, links too. Default: AdvertiseHost

	Replicas int // owners of a cart in the region. Default: 3
	Tolerate int // how many nodes may fail at once. Default: 1
	Carts    Carts
	Logger   *slog.Logger

	network network
	tune    func(*memberlist.Config)

	everyRegion bool // the options are those of the pool of all regions
}

// withDefaults returns the options with what was left out, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.Label == "" {
		o.Label = "cartd"
	}
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	if o.Tolerate == 0 {
		o.Tolerate = 1
	}
	if o.Member.State == 0 {
		o.Member.State = Joining
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.network == nil {
		o.network = internet{}
	}
	for o.Member.Start == 0 {
		var b [8]byte
		crand.Read(b[:])
		o.Member.Start = binary.BigEndian.Uint64(b[:])
	}
	o.Member.MinWire, o.Member.MaxWire = MinWire, MaxWire
	o.Member.Keys = o.Keys.Fingerprints()
	switch {
	case len(o.Keys.keys) == 0:
		return o, fmt.Errorf("%w: a node that can be joined needs one", errNoKey)
	case len(o.Label) > maxLabel:
		return o, fmt.Errorf("a label of more than %d bytes", maxLabel)
	case o.Carts == nil:
		return o, errors.New("no carts")
	}
	for _, addr := range slices.Concat(o.Join, o.JoinWAN) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return o, fmt.Errorf("an address to join: %w", err)
		}
	}
	return o, nil
}

// ofWAN returns the options of the pool of all regions.
func (o Options) ofWAN() Options {
	o.Label += "/wan"
	o.GossipListen, o.Join, o.AdvertiseHost = o.WANListen, o.JoinWAN, cmp.Or(o.AdvertiseWAN, o.AdvertiseHost)
	o.everyRegion = true
	return o
}

// ListenError says that a port cannot be opened.
type ListenError struct {
	Port string // gossip, link or wan
	Err  error
}

func (e *ListenError) Error() string { return fmt.Sprintf("gossip: the %s port: %v", e.Port, e.Err) }

// Unwrap returns Err.
func (e *ListenError) Unwrap() error { return e.Err }

// Node is a process of the region: its Core, with the network around it. It is safe for concurrent use.
type Node struct {
	o        Options
	core     *Core
	members  *members
	wan      *wan // nil where the region keeps to itself
	links    *links
	requests *requests
	dials    *dials
	jobs     *jobs
	refused  *refusals
	listener net.Listener // of links and requests; nil before Start

	keys sync.Mutex // held while they are replaced

	run     context.Context // ends with Stop
	cancel  context.CancelFunc
	running sync.WaitGroup
	stop    sync.Once
	stopped error
}

// New returns a node that does nothing yet, not even the jobs of its Core.
func New(o Options) (*Node, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	n := &Node{o: o, refused: newRefusals(o.Logger)}
	id, err := newCredentials(o.Keys, o.Member.Start)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	if n.members, err = newMembers(o, n.refused); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	n.run, n.cancel = context.WithCancel(context.Background())
	n.jobs = newJobs(n.run)
	n.core = NewCore(CoreOptions{
		Self:     o.Member,
		Carts:    o.Carts,
		Replicas: o.Replicas,
		Tolerate: o.Tolerate,
		Now:      time.Now,
		Rand:     rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		Spawn:    n.jobs.spawn,
		Wake:     func(peer uint64) { n.links.poke(peer) },
		Logger:   o.Logger,
	})
	n.links = newLinks(id, n.core, n.find, n.refused, o.Logger)
	n.requests = newRequests(n.links.credentials)
	n.dials = newDials(n.dial, o.Logger)
	if o.WANListen != "" {
		if n.wan, err = newWAN(n); err != nil {
			return nil, fmt.Errorf("gossip: %w", err)
		}
	}
	return n, nil
}

// Start opens the ports. It returns when others can reach this process; whom it can reach, it meets in
// the background. The context is that of the start. It is called once; a node that did not start needs
// no Stop.
func (n *Node) Start(ctx context.Context) (err error) {
	defer func() {
		if err == nil {
			return
		}
		n.cancel()
		if n.listener != nil {
			_ = n.listener.Close() // it has done nothing yet
		}
		for _, pool := range n.pools() {
			_ = pool.stop() // nor have they
		}
	}()
	if n.listener, err = n.o.network.Listen(ctx, n.o.LinkListen); err != nil {
		return &ListenError{"link", err}
	}
	name := ""
	for _, pool := range n.pools() {
		linkAddr, err := advertise(ctx, n.listener.Addr(), pool.o.AdvertiseHost)
		if err != nil {
			return &ListenError{"link", err}
		}
		addr, err := pool.open(ctx)
		if err != nil {
			return &ListenError{pool.port(), err}
		}
		if name == "" { // it has one name in all pools
			name = addr.String() + "/" + formatStart(n.o.Member.Start)
		}
		if err := pool.place(linkAddr, addr, name); err != nil {
			return err
		}
		if pool.o.everyRegion {
			if err := n.members.placeWAN(addr); err != nil {
				return err
			}
		}
	}
	self, _ := n.members.all()
	n.core.SetSelf(self, len(n.o.Join) > 0)
	for _, pool := range n.pools() {
		if err := pool.start(); err != nil {
			return fmt.Errorf("gossip: %w", err)
		}
	}
	n.jobs.start()
	for _, pool := range n.pools() {
		n.running.Go(func() { pool.rejoinUntil(n.run) })
	}
	n.running.Go(func() { n.accept(n.run) })
	n.running.Go(func() { n.follow(n.run) })
	n.running.Go(func() { n.tick(n.run) })
	if n.wan != nil {
		n.running.Go(func() { n.wan.follow(n.run) })
	}
	return nil
}

// pools returns the pools that this process is in, that of the region first.
func (n *Node) pools() []*members {
	if n.wan == nil {
		return []*members{n.members}
	}
	return []*members{n.members, n.wan.pool}
}

// inPools does something in all pools at the same time.
func (n *Node) inPools(do func(pool *members)) {
	var all sync.WaitGroup
	for _, pool := range n.pools() {
		all.Go(func() { do(pool) })
	}
	all.Wait()
}

// hello returns what this process says first on a link.
func (n *Node) hello() hello {
	self, _ := n.members.all()
	self.Bridge = n.wan != nil && n.wan.isBridge()
	return hello{label: n.o.Label, Member: self}
}

// find returns what is known of a process that has introduced itself, or errConflict.
func (n *Node) find(other Member) (Member, error) {
	known, err := n.members.find(other)
	if err != nil || n.wan == nil || other.Region == n.o.Member.Region {
		return known, err
	}
	return n.wan.pool.find(other)
}

// dial opens a link with a member, runs it and returns why it ended. When other keys are in use than those that
// the link was made with, it makes another one, which takes over.
func (n *Node) dial(ctx context.Context, peer Member) error {
	l, err := n.connect(ctx, peer)
	if err != nil {
		return err
	}
	defer func() { _ = l.conn.NetConn().Close() }()
	ended := n.runDialled(l)
	pause := time.After(maxRedial) // between two attempts: what a peer says of its keys may come later than its link
	for {
		select {
		case <-ended:
			return l.why
		case <-l.keys:
		case <-pause:
			pause = nil
		}
		if pause == nil && n.outdated(l) {
			if fresh, err := n.connect(ctx, peer); err == nil {
				l, ended = n.takeOver(l, ended, fresh)
			}
			pause = time.After(maxRedial)
		}
	}
}

// connect returns a link with a member, which is to be run.
func (n *Node) connect(ctx context.Context, peer Member) (*link, error) {
	conn, err := n.o.network.Dial(ctx, peer.LinkAddr)
	if err != nil {
		return nil, err
	}
	return n.links.dialled(ctx, conn, n.hello(), peer.Start)
}

// runDialled runs a link until ended is closed.
func (n *Node) runDialled(l *link) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.links.run(l) // it is why the link was closed
	}()
	return ended
}

// takeOver runs a fresh link in place of one that runs, and returns which of the two does then.
func (n *Node) takeOver(l *link, ended chan struct{}, fresh *link) (*link, chan struct{}) {
	began := n.runDialled(fresh)
	select {
	case <-ended:
	case <-began: // it came to nothing
		return l, ended
	}
	select {
	case <-fresh.heard: // the peer uses it, too
	case <-fresh.closed:
	}
	_ = l.conn.NetConn().Close()
	return fresh, began
}

// outdated reports whether a link was made with another key than this process uses now, or than the peer says that it
// uses.
func (n *Node) outdated(l *link) bool {
	id := n.links.credentials()
	if l.ours != id.inUse {
		return true
	}
	peer, err := n.find(l.peer)
	return err == nil && len(peer.Keys) > 0 && peer.Keys[0] != l.proven && id.has(peer.Keys[0])
}

// accept takes connections that become links, or carry requests.
func (n *Node) accept(ctx context.Context) {
	acceptAll(ctx, n.listener, func(conn net.Conn) {
		n.links.crowd.enter(conn)
		n.running.Go(func() { n.links.accepted(ctx, conn, n.hello(), n.carry) })
	})
}

// carry has a connection of a peer carry requests until it is closed.
func (n *Node) carry(conn secured) error {
	if _, known := n.peer(conn.peer); !known {
		return fmt.Errorf("%w: %s", errStranger, formatStart(conn.peer))
	}
	return n.requests.carry(conn)
}

// follow tells the core and the dials of every change of the members.
func (n *Node) follow(ctx context.Context) {
	for {
		select {
		case <-n.members.changed:
		case <-ctx.Done():
			return
		}
		self, others := n.members.all()
		n.core.SetMembers(others)
		n.links.keysChanged()
		n.requests.keep(others)
		n.dials.keep(ctx, toDial(self, others))
		if n.wan != nil {
			n.wan.pool.joinToo(wanAddrs(others))
			poke(n.wan.region)
		}
	}
}

// toDial returns those of the others that this process dials, and not they this one.
func toDial(self Member, others []Member) (greater []Member) {
	for _, o := range others {
		if o.Start > self.Start {
			greater = append(greater, o)
		}
	}
	return greater
}

// How often the core's clock ticks. What needs the finer one, a request to peers that is to be given
// up, needs a link.
const (
	tickLinked = 10 * time.Millisecond
	tickAlone  = 50 * time.Millisecond
)

// tick moves the core's clock and closes the links that it finds dead.
func (n *Node) tick(ctx context.Context) {
	pause := tickAlone
	for sleep(ctx, pause) {
		for _, peer := range n.core.Tick() {
			n.links.close(peer, errStale)
		}
		pause = tickAlone
		if n.links.count() > 0 {
			pause = tickLinked
		}
	}
}

// Core returns the state machine that the node drives.
func (n *Node) Core() *Core { return n.core }

// SetState tells the others what state this process is in. It returns when one of them knows, or after
// a second; the rest hear of it from each other.
func (n *Node) SetState(state MemberState) {
	n.core.SetDraining(state == Draining)
	n.inPools(func(pool *members) { pool.setState(state) })
}

// SetKeys replaces the keys of the node. From then on it encrypts and proves itself with the first of them, and
// refuses what others did with a key that is not among them: links, and connections for requests, whose peer
// proved itself so are closed. Other links stay until one that is made with the keys in use takes over. It returns when one of the others knows of
// the keys, or after a second.
func (n *Node) SetKeys(keys Keyring) error {
	n.keys.Lock()
	defer n.keys.Unlock()
	if len(keys.keys) == 0 {
		return fmt.Errorf("gossip: %w", errNoKey)
	}
	id, err := newCredentials(keys, n.o.Member.Start)
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	var errs []error
	for _, pool := range n.pools() {
		errs = append(errs, pool.replaceKeys(keys))
	}
	n.links.setCredentials(id)
	n.requests.keysChanged()
	n.inPools(func(pool *members) { pool.tell(func(self *Member) { self.Keys = keys.Fingerprints() }) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// Stop leaves the region, closes the links and returns when nothing of the node runs any more, or when
// the context ends. Later calls return what the first one did.
func (n *Node) Stop(ctx context.Context) error {
	n.stop.Do(func() {
		done := make(chan error, 1)
		go func() { done <- n.leave(ctx) }()
		select {
		case n.stopped = <-done:
		case <-ctx.Done():
			n.stopped = fmt.Errorf("gossip: stop: %w", ctx.Err())
		}
	})
	return n.stopped
}

func (n *Node) leave(ctx context.Context) error {
	n.inPools(func(pool *members) {
		if err := pool.leave(ctx); err != nil {
			n.o.Logger.Warn("gossip: left without a word", "error", err) // the others will find out
		}
	})
	return n.close()
}

// close is Stop without a word to the others.
func (n *Node) close() error {
	n.cancel()
	var err error
	for _, pool := range n.pools() {
		err = errors.Join(err, pool.stop())
	}
	if n.listener != nil {
		err = errors.Join(err, n.listener.Close())
	}
	n.links.stop()
	n.requests.stop()
	n.running.Wait()
	n.dials.running.Wait()
	if n.wan != nil {
		n.wan.dials.running.Wait()
	}
	n.jobs.wait()
	return err
}
