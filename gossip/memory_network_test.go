package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memoryNetwork is a network in memory that can be cut. It works inside a synctest bubble.
type memoryNetwork struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener // by host:port
	gossips   map[string]*memoryGossip   // by host:port
	cuts      map[[2]string]bool         // from host to host
	conns     map[*memoryConn]struct{}
}

func newMemoryNetwork() *memoryNetwork {
	return &memoryNetwork{
		listeners: make(map[string]*memoryListener),
		gossips:   make(map[string]*memoryGossip),
		cuts:      make(map[[2]string]bool),
		conns:     make(map[*memoryConn]struct{}),
	}
}

// cut parts each of some hosts from each of others: what is under way is lost, connections break.
func (n *memoryNetwork) cut(some, others []string) { n.set(some, others, true) }

// mend takes back a cut.
func (n *memoryNetwork) mend(some, others []string) { n.set(some, others, false) }

func (n *memoryNetwork) set(some, others []string, cut bool) {
	var broken []*memoryConn
	n.mu.Lock()
	for _, a := range some {
		for _, b := range others {
			n.cuts[[2]string{a, b}], n.cuts[[2]string{b, a}] = cut, cut
		}
	}
	for c := range n.conns {
		if n.cuts[[2]string{c.from, c.to}] {
			broken = append(broken, c)
		}
	}
	n.mu.Unlock()
	for _, c := range broken {
		c.sever()
	}
}

// host is the network as one machine sees it.
func (n *memoryNetwork) host(ip string) *memoryHost { return &memoryHost{n, ip} }

type memoryHost struct {
	*memoryNetwork
	ip string
}

var _ network = (*memoryHost)(nil)

const memoryLinkPort, memoryGossipPort, memoryWANPort = 7947, 7946, 7948

func (h *memoryHost) addr(port int) string { return fmt.Sprintf("%s:%d", h.ip, port) }

func (h *memoryHost) Listen(context.Context, string) (net.Listener, error) {
	l := &memoryListener{host: h, conns: make(chan net.Conn, 16), done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.listeners[h.addr(memoryLinkPort)] != nil {
		return nil, errors.New("address already in use")
	}
	h.listeners[h.addr(memoryLinkPort)] = l
	return l, nil
}

func (h *memoryHost) Dial(ctx context.Context, addr string) (net.Conn, error) {
	h.mu.Lock()
	l := h.listeners[addr]
	h.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return h.connect(ctx, l.host.ip, l.conns, l.done)
}

// connect gives one end of a new connection to accept and returns the other.
func (h *memoryHost) connect(ctx context.Context, to string, accept chan net.Conn, done chan struct{}) (net.Conn, error) {
	a, b := net.Pipe()
	near, far := h.wrap(a, h.ip, to), h.wrap(b, to, h.ip)
	h.mu.Lock()
	cut := h.cuts[[2]string{h.ip, to}]
	if !cut {
		h.conns[near], h.conns[far] = struct{}{}, struct{}{}
	}
	h.mu.Unlock()
	err := errors.New("no route to host")
	if !cut {
		select {
		case accept <- far:
			select {
			case <-done: // perhaps after the last conn was taken from accept
				drain(accept)
			default:
			}
			return near, nil
		case <-done:
			err = errors.New("connection refused")
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	near.Close()
	far.Close()
	return nil, err
}

// drain closes the connections that nobody will accept any more.
func drain(accept <-chan net.Conn) {
	for {
		select {
		case conn := <-accept:
			conn.Close()
		default:
			return
		}
	}
}

// memoryConn is one end of a connection. Unlike that of net.Pipe, its Write does not wait for the reader.
type memoryConn struct {
	net.Conn
	network  *memoryNetwork
	from, to string
	more     chan struct{}
	done     chan struct{}
	once     sync.Once

	mu      sync.Mutex
	pending []byte
}

func (n *memoryNetwork) wrap(conn net.Conn, from, to string) *memoryConn {
	c := &memoryConn{
		Conn: conn, network: n, from: from, to: to,
		more: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go c.carry()
	return c
}

func (c *memoryConn) Write(b []byte) (int, error) {
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	c.mu.Lock()
	c.pending = append(c.pending, b...)
	c.mu.Unlock()
	select {
	case c.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

// carry writes what is pending, also what was when the connection was closed, and closes the pipe.
func (c *memoryConn) carry() {
	defer c.Conn.Close()
	for open := true; open; {
		select {
		case <-c.more:
		case <-c.done:
			open = false
		}
		c.mu.Lock()
		b := c.pending
		c.pending = nil
		c.mu.Unlock()
		if len(b) == 0 {
			continue
		}
		if _, err := c.Conn.Write(b); err != nil {
			return
		}
	}
}

func (c *memoryConn) SetDeadline(t time.Time) error    { return c.Conn.SetReadDeadline(t) }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return memoryAddr(c.from + ":1") }
func (c *memoryConn) RemoteAddr() net.Addr             { return memoryAddr(c.to + ":1") }

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.done) })
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	write := c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) // the reader may not be there
	return errors.Join(write, c.Conn.SetReadDeadline(time.Unix(1, 0)))
}

// sever closes the connection and loses what is pending.
func (c *memoryConn) sever() {
	c.Conn.Close()
	c.Close()
}

type memoryAddr string

func (a memoryAddr) Network() string { return "memory" }
func (a memoryAddr) String() string  { return string(a) }

type memoryListener struct {
	host  *memoryHost
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Addr() net.Addr { return memoryAddr(l.host.addr(memoryLinkPort)) }

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.host.mu.Lock()
		delete(l.host.listeners, l.host.addr(memoryLinkPort))
		l.host.mu.Unlock()
		close(l.done)
		drain(l.conns)
	})
	return nil
}

// memoryGossip is a transport of memberlist. Unlike that of memberlist itself it never blocks, and its
// Shutdown closes what is open.
type memoryGossip struct {
	*memoryHost
	port    int
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (h *memoryHost) Gossip(_ context.Context, o Options, _ *gate, _ *refusals) (memberlist.NodeAwareTransport, netip.AddrPort, error) {
	port := memoryGossipPort
	if o.everyRegion {
		port = memoryWANPort
	}
	addr := h.addr(port)
	g := &memoryGossip{
		memoryHost: h,
		port:       port,
		packets:    make(chan *memberlist.Packet, 256),
		streams:    make(chan net.Conn, 16),
		done:       make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gossips[addr] != nil {
		return nil, netip.AddrPort{}, errors.New("address already in use")
	}
	h.gossips[addr] = g
	return g, netip.MustParseAddrPort(addr), nil
}

func (g *memoryGossip) find(addr string) *memoryGossip {
	g.mu.Lock()
	defer g.mu.Unlock()
	if to := g.gossips[addr]; to != nil && !g.cuts[[2]string{g.ip, to.ip}] {
		return to
	}
	return nil
}

func (g *memoryGossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return net.ParseIP(g.ip).To4(), g.port, nil
}

func (g *memoryGossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if to := g.find(addr); to != nil {
		from := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(g.addr(g.port)))
		select {
		case to.packets <- &memberlist.Packet{Buf: append([]byte(nil), b...), From: from, Timestamp: now}:
		default: // as UDP does
		}
	}
	return now, nil
}

func (g *memoryGossip) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, a.Addr)
}

func (g *memoryGossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := g.find(addr)
	if to == nil {
		return nil, errors.New("no route to host")
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.connect(ctx, to.ip, to.streams, to.done)
}

func (g *memoryGossip) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(a.Addr, timeout)
}

func (g *memoryGossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *memoryGossip) StreamCh() <-chan net.Conn           { return g.streams }

func (g *memoryGossip) Shutdown() error {
	g.once.Do(func() {
		g.mu.Lock()
		delete(g.gossips, g.addr(g.port))
		g.mu.Unlock()
		close(g.done)
		drain(g.streams)
	})
	return nil
}
