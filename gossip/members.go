package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	joinsAtOnce = 16
	tellFor     = time.Second     // how long a node waits until it has told somebody that it changed, or leaves
	tellAgain   = 2 * time.Second // after it has told: memberlist loses an update when others of its size come at a bad moment

	// wanPushPull is how often a node compares what it knows of all regions with another one, for who is a bridge is to be
	// known soon where both tellings were lost.
	wanPushPull = 15 * time.Second
)

// members are the processes of a pool, the region or all regions, as memberlist knows them.
type members struct {
	o       Options // those of the pool
	refused *refusals
	changed chan struct{} // receives when this process or others may have changed
	gate    *gate
	ring    *memberlist.Keyring

	transport memberlist.NodeAwareTransport // nil before open

	mu      sync.Mutex
	self    Member
	others  map[string]Member // those alive, by name
	rejoin  *Rejoin
	list    *memberlist.Memberlist // nil before start and after stop
	again   time.Time              // when this process is to tell of itself again; zero if it is not
	stopped bool                   // it leaves, or has left

	telling chan struct{} // has one while this process tells of itself
}

func newMembers(o Options, refused *refusals) (*members, error) {
	gate, err := newGate(o.Keys, o.Label)
	if err != nil {
		return nil, err
	}
	secrets := o.Keys.gossipSecrets()
	ring, err := memberlist.NewKeyring(secrets, secrets[0])
	return &members{
		o:       o,
		refused: refused,
		changed: make(chan struct{}, 1),
		telling: make(chan struct{}, 1),
		gate:    gate,
		ring:    ring,
		self:    o.Member,
		others:  make(map[string]Member),
	}, err
}

// open opens the gossip port, behind the gate, and returns the address that others reach it at.
func (m *members) open(ctx context.Context) (addr netip.AddrPort, err error) {
	m.transport, addr, err = m.o.network.Gossip(ctx, m.o, m.gate, m.refused)
	return addr, err
}

// port names the gossip port, as ListenError does.
func (m *members) port() string {
	if m.o.everyRegion {
		return "wan"
	}
	return "gossip"
}

// place says where this process is, and what it is called.
func (m *members) place(link, gossip netip.AddrPort, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.LinkAddr, m.self.GossipAddr, m.self.Name = link.String(), gossip.String(), name
	return m.self.check()
}

// placeWAN says where this process is in the pool of all regions.
func (m *members) placeWAN(gossip netip.AddrPort) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.WANAddr = netip.AddrPortFrom(gossip.Addr().Unmap().WithZone(""), gossip.Port()).String()
	return m.self.check()
}

// joinToo makes the addresses those to join beside those of the options.
func (m *members) joinToo(addrs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rejoin.Name(addrs)
}

// start starts memberlist on the gossip port.
func (m *members) start() error {
	c := memberlist.DefaultLANConfig()
	if m.o.everyRegion {
		c = memberlist.DefaultWANConfig()
		c.PushPullInterval = wanPushPull
	}
	c.Name = m.self.Name
	c.Transport = m.transport
	c.Label = m.o.Label
	c.Keyring = m.ring
	c.GossipVerifyIncoming = true
	c.GossipVerifyOutgoing = true
	c.EnableCompression = false
	c.Logger = log.New(gossipLog{m.o.Logger}, "", 0)
	c.Delegate, c.Events, c.Alive, c.Conflict = m, m, m, m
	if m.o.tune != nil {
		m.o.tune(c)
	}
	m.rejoin = NewRejoin(m.self.GossipAddr, m.o.Join, rand.New(rand.NewPCG(m.self.Start, 0)))
	list, err := memberlist.Create(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = list
	return err
}

// leave tells the others that this process goes, and returns when one of them knows, or after a second.
func (m *members) leave(ctx context.Context) error {
	patience := tellFor
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	m.telling <- struct{}{}
	defer func() { <-m.telling }()
	m.mu.Lock()
	list := m.list
	m.stopped = true
	m.mu.Unlock()
	if list == nil || patience <= 0 {
		return ctx.Err()
	}
	return list.Leave(patience)
}

// stop stops memberlist and closes the gossip port.
func (m *members) stop() error {
	m.mu.Lock()
	list := m.list
	m.list, m.stopped = nil, true
	clear(m.others)
	m.mu.Unlock()
	switch {
	case list != nil:
		return list.Shutdown() // which closes the port
	case m.transport != nil:
		return m.transport.Shutdown()
	}
	return nil
}

// setState changes the state of this process and returns when another one knows, or after a second.
func (m *members) setState(state MemberState) {
	m.tell(func(self *Member) { self.State = state })
}

// tell changes what this process tells of itself and returns when another one knows, or after a second.
func (m *members) tell(change func(self *Member)) {
	m.mu.Lock()
	change(&m.self)
	m.again = time.Now().Add(tellAgain)
	m.mu.Unlock()
	m.signal()
	m.announce()
}

// announce tells of this process and returns when another one knows, or after a second.
func (m *members) announce() {
	m.telling <- struct{}{}
	defer func() { <-m.telling }()
	m.mu.Lock()
	list, stopped := m.list, m.stopped
	m.mu.Unlock()
	if list == nil || stopped {
		return
	}
	if err := list.UpdateNode(tellFor); err != nil {
		m.o.Logger.Debug("gossip: nobody knows of the change yet", "error", err) // the next push/pull tells
	}
}

// replaceKeys makes keys those that the pool is secured with. What passes the gate, memberlist can read: it has a new
// key before the gate does, and an old one for longer.
func (m *members) replaceKeys(keys Keyring) error {
	return errors.Join(m.addKeys(keys), m.gate.setKeys(keys), m.setKeys(keys))
}

// addKeys makes memberlist take what keys encrypted, beside what it has taken before.
func (m *members) addKeys(keys Keyring) error {
	var errs []error
	for _, secret := range keys.gossipSecrets() {
		errs = append(errs, m.ring.AddKey(secret))
	}
	return errors.Join(errs...)
}

// setKeys makes memberlist encrypt with the first key, and take what all of keys encrypted and nothing else. They were
// added before.
//
// RemoveKey writes to the list that a reader of the ring may have at hand, unless it removes the last one: so
// all but the first go, from the end, and those that stay are added again.
func (m *members) setKeys(keys Keyring) error {
	secrets := keys.gossipSecrets()
	errs := []error{m.ring.UseKey(secrets[0])}
	if had := m.ring.GetKeys(); len(had) > len(secrets) {
		for _, secret := range slices.Backward(had[1:]) {
			errs = append(errs, m.ring.RemoveKey(secret))
		}
	}
	return errors.Join(append(errs, m.addKeys(keys))...)
}

// all returns this process and the others, sorted by name.
func (m *members) all() (self Member, others []Member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.others {
		others = append(others, o)
	}
	slices.SortFunc(others, func(a, b Member) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return m.self, others
}

// find returns what is known of a process that has introduced itself, or errConflict.
func (m *members) find(other Member) (Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.conflict(other); err != nil {
		return Member{}, err
	}
	known, found := m.others[other.Name]
	switch {
	case !found:
		return other, nil
	case known.Region != other.Region:
		return Member{}, fmt.Errorf("%w: %s is in region %q and in %q", errConflict, other.Name, known.Region, other.Region)
	}
	return known, nil
}

// byStart returns the other process of a start id, if it is alive.
func (m *members) byStart(start uint64) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.others {
		if o.Start == start {
			return o, true
		}
	}
	return Member{}, false
}

// conflict returns errConflict if another process has the start id. The mutex is held.
func (m *members) conflict(other Member) error {
	taken := ""
	if m.self.Start == other.Start {
		taken = m.self.Name
	}
	for _, o := range m.others {
		if o.Start == other.Start {
			taken = o.Name
		}
	}
	if taken == "" || taken == other.Name {
		return nil
	}
	return fmt.Errorf("%w: %s and %s", errConflict, taken, other.Name)
}

// rejoinUntil joins whom Rejoin names, and tells of this process again, until the context ends.
func (m *members) rejoinUntil(ctx context.Context) {
	var joins sync.WaitGroup
	defer joins.Wait()
	turns := make(chan struct{}, joinsAtOnce)
	for {
		m.mu.Lock()
		now := time.Now()
		due := m.rejoin.Due(now)
		again := !m.again.IsZero() && !now.Before(m.again)
		if again {
			m.again = time.Time{}
		}
		m.mu.Unlock()
		if again {
			joins.Go(m.announce)
		}
		for _, addr := range due {
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return
			}
			joins.Go(func() {
				defer func() { <-turns }()
				m.join(ctx, addr)
			})
		}
		if !sleep(ctx, 200*time.Millisecond) {
			return
		}
	}
}

// join joins what stands behind an address, which may be a name of many, but for those that are alive.
func (m *members) join(ctx context.Context, addr string) {
	resolved, err := resolve(ctx, addr)
	if err != nil {
		m.o.Logger.Warn("gossip: address to join", "addr", addr, "error", err)
		return
	}
	for _, r := range resolved {
		m.mu.Lock()
		missing, list := m.rejoin.Missing(r.String()), m.list
		m.mu.Unlock()
		if !missing || list == nil {
			continue
		}
		if _, err := list.Join([]string{r.String()}); err != nil {
			m.o.Logger.Debug("gossip: join", "addr", r.String(), "error", err)
		}
	}
}

// resolve returns the addresses of host:port.
func resolve(ctx context.Context, addr string) (resolved []netip.AddrPort, err error) {
	if a, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{a}, nil
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range ips {
		resolved = append(resolved, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return resolved, err
}

// memberlist calls the methods below with its locks held: they do nothing that could wait for it.

// NodeMeta returns the metadata of this process.
func (m *members) NodeMeta(int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return encodeMetadata(m.self)
}

// NotifyMsg ignores messages: there are links for them. So do the next three methods.
func (m *members) NotifyMsg([]byte) {}

// GetBroadcasts has none.
func (m *members) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState has none.
func (m *members) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores it.
func (m *members) MergeRemoteState([]byte, bool) {}

// NotifyAlive refuses what is no member of this pool. It is asked about this process too.
func (m *members) NotifyAlive(n *memberlist.Node) error {
	other, err := decodeMetadata(n.Name, n.Address(), n.Meta)
	if err != nil {
		m.refused.add(gossipMember, n.Address(), err)
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other.Region != m.self.Region && !m.o.everyRegion {
		err = fmt.Errorf("%w: %q, and here it is %q", errRegion, other.Region, m.self.Region)
		m.refused.add(gossipRegion, n.Address(), err)
		return err
	}
	if err = m.conflict(other); err != nil {
		m.refused.add(gossipConflict, n.Address(), err)
	}
	return err
}

var errConflict = errors.New("two processes have one start id: they are copies of one machine, perhaps, with the state of its random numbers")

// NotifyConflict counts a process that comes with the name of another one.
func (m *members) NotifyConflict(existing, other *memberlist.Node) {
	err := fmt.Errorf("%w: %s is at %s and at %s", errConflict, existing.Name, existing.Address(), other.Address())
	m.refused.add(gossipConflict, other.Address(), err)
}

// NotifyJoin takes in a process.
func (m *members) NotifyJoin(n *memberlist.Node) { m.learn(n, true) }

// NotifyUpdate takes in what changed of a process.
func (m *members) NotifyUpdate(n *memberlist.Node) { m.learn(n, false) }

func (m *members) learn(n *memberlist.Node, joined bool) {
	other, err := decodeMetadata(n.Name, n.Address(), n.Meta)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || other.Name == m.self.Name || m.stopped {
		return
	}
	m.others[other.Name] = other
	if joined {
		m.rejoin.Alive(other.GossipAddr)
		m.o.Logger.Info("gossip: member joined", "peer", other.Name, "region", other.Region, "zone", other.Zone)
	}
	m.signal()
}

// NotifyLeave removes a process that left or is taken for dead.
func (m *members) NotifyLeave(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	other, known := m.others[n.Name]
	if !known {
		return
	}
	delete(m.others, n.Name)
	if other.State == Draining {
		m.rejoin.Left(other.GossipAddr)
	} else {
		m.rejoin.Lost(other.GossipAddr, time.Now())
	}
	m.o.Logger.Info("gossip: member left or failed", "peer", other.Name, "region", other.Region, "zone", other.Zone)
	m.signal()
}

func (m *members) signal() { poke(m.changed) }

// gossipLog takes the lines that memberlist logs. What it calls an error, a node that is down or a
// datagram that was lost, it has to cope with by itself: at most a warning.
type gossipLog struct{ logger *slog.Logger }

func (l gossipLog) Write(line []byte) (int, error) {
	level, text := slog.LevelWarn, bytes.TrimSpace(line)
	for _, known := range []struct {
		mark  string
		level slog.Level
	}{
		{"[DEBUG] ", slog.LevelDebug},
		{"[INFO] ", slog.LevelDebug}, // members says the same in its own words
		{"[WARN] ", slog.LevelInfo},
		{"[ERR] ", slog.LevelWarn},
		{"[ERROR] ", slog.LevelWarn},
	} {
		if rest, ok := bytes.CutPrefix(text, []byte(known.mark)); ok {
			level, text = known.level, rest
			break
		}
	}
	text = bytes.TrimPrefix(text, []byte("memberlist: "))
	l.logger.Log(context.Background(), level, "gossip: memberlist", "said", string(text))
	return len(line), nil
}
