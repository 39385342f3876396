package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	dialsAtOnce     = 4   // to one peer: many more would crowd each other out there
	maxRequestConns = 512 // that one peer has here
)

var errStranger = errors.New("no member of this region, and not linked")

// requests are the connections with peers that carry requests, those that came and those that were dialled.
type requests struct {
	credentials func() *credentials
	accepted    chan net.Conn // to the listener
	done        chan struct{} // closed when the listener is

	mu      sync.Mutex
	open    map[*requestConn]struct{}
	turns   map[uint64]chan struct{} // to dial a peer, by start id
	closed  bool                     // so is done
	stopped bool
}

func newRequests(credentials func() *credentials) *requests {
	return &requests{
		credentials: credentials,
		accepted:    make(chan net.Conn),
		done:        make(chan struct{}),
		open:        make(map[*requestConn]struct{}),
		turns:       make(map[uint64]chan struct{}),
	}
}

// requestConn is a connection that carries requests, to the peer that dialled it or from it.
type requestConn struct {
	secured
	dialled  bool // by this process
	requests *requests
	once     sync.Once
	closed   chan struct{}
}

// Close ends the connection.
func (c *requestConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// abort is Close without a TLS alert, which would wait for a peer that does not read.
func (c *requestConn) abort() {
	c.forget()
	_ = c.NetConn().Close() // whoever uses it finds out
}

func (c *requestConn) forget() {
	c.once.Do(func() {
		c.requests.mu.Lock()
		delete(c.requests.open, c)
		c.requests.mu.Unlock()
		close(c.closed)
	})
}

// enter adds a connection to those that are open, unless there is to be none.
func (rs *requests) enter(conn secured, dialled bool) (*requestConn, error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	c := &requestConn{secured: conn, dialled: dialled, requests: rs, closed: make(chan struct{})}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	switch {
	case rs.stopped:
		return nil, errStopped
	case !rs.credentials().has(c.proven): // it was removed during the handshake
		return nil, errRemoved
	}
	if !dialled {
		if rs.closed {
			return nil, errStopped
		}
		n := 0
		for o := range rs.open {
			if !o.dialled && o.peer == c.peer {
				n++
			}
		}
		if n >= maxRequestConns {
			return nil, errCrowd
		}
	}
	rs.open[c] = struct{}{}
	return c, nil
}

// carry hands a connection that came to who listens, and returns when it is closed.
func (rs *requests) carry(conn secured) error {
	c, err := rs.enter(conn, false)
	if err != nil {
		return err
	}
	select {
	case rs.accepted <- c:
		<-c.closed
	case <-rs.done:
		c.abort()
	case <-c.closed:
	}
	return nil
}

// turn waits for one of the few attempts to dial a peer that there may be at a time.
func (rs *requests) turn(ctx context.Context, start uint64) (over func(), err error) {
	rs.mu.Lock()
	turns := rs.turns[start]
	if turns == nil {
		turns = make(chan struct{}, dialsAtOnce)
		rs.turns[start] = turns
	}
	rs.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// keysChanged closes the connections that were made with a key that is not there any more.
func (rs *requests) keysChanged() {
	id := rs.credentials()
	rs.abort(func(c *requestConn) bool { return !id.has(c.proven) || !id.has(c.ours) })
}

// keep closes the connections that were dialled to processes that are no members.
func (rs *requests) keep(members []Member) {
	gone := func(start uint64) bool {
		return !slices.ContainsFunc(members, func(m Member) bool { return m.Start == start })
	}
	rs.abort(func(c *requestConn) bool { return c.dialled && gone(c.peer) })
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for start, turns := range rs.turns {
		if len(turns) == 0 && gone(start) {
			delete(rs.turns, start)
		}
	}
}

// abort closes the connections that something is true of.
func (rs *requests) abort(is func(*requestConn) bool) {
	var those []*requestConn
	rs.mu.Lock()
	for c := range rs.open {
		if is(c) {
			those = append(those, c)
		}
	}
	rs.mu.Unlock()
	for _, c := range those {
		c.abort()
	}
}

// stop closes all connections; there are none after it.
func (rs *requests) stop() {
	rs.closeListener()
	rs.mu.Lock()
	rs.stopped = true
	rs.mu.Unlock()
	rs.abort(func(*requestConn) bool { return true })
}

func (rs *requests) closeListener() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if !rs.closed {
		rs.closed = true
		close(rs.done)
	}
}

// requestListener hands out the connections that came.
type requestListener struct {
	*requests
	addr net.Addr
}

func (l requestListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l requestListener) Close() error {
	l.closeListener()
	return nil
}

func (l requestListener) Addr() net.Addr { return l.addr }

// Requests returns the listener whose connections are those of peers that carry requests: processes of the region that
// have proved themselves with a cluster key. They are closed when that key is removed, and when the node stops. It is
// called after Start. When the listener is closed, the node refuses such connections.
func (n *Node) Requests() net.Listener { return requestListener{n.requests, n.listener.Addr()} }

// Dial opens a connection that carries requests to the process of a start id, within 5 s. Four at a time are dialled to a
// process; others wait. The connection is closed when the key that it was made with is removed, when the process
// is no member any more, and when this node stops.
func (n *Node) Dial(ctx context.Context, start uint64) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	defer context.AfterFunc(n.run, cancel)()
	conn, err := n.dialRequests(ctx, start)
	if err != nil {
		return nil, fmt.Errorf("gossip: dial %s: %w", formatStart(start), err)
	}
	return conn, nil
}

func (n *Node) dialRequests(ctx context.Context, start uint64) (*requestConn, error) {
	over, err := n.requests.turn(ctx, start)
	if err != nil {
		return nil, err
	}
	defer over()
	peer, known := n.peer(start)
	if !known {
		return nil, errStranger
	}
	raw, err := n.o.network.Dial(ctx, peer.LinkAddr)
	if err != nil {
		return nil, err
	}
	id := n.links.credentials()
	conn, err := id.prove(ctx, tls.Client(raw, id.client(start, requestProtocol)))
	if err != nil && ctx.Err() == nil {
		n.links.refuse(raw, err)
	}
	var c *requestConn
	if err == nil {
		c, err = n.requests.enter(conn, true)
	}
	if err != nil {
		_ = raw.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	return c, nil
}

// peer returns the process of a start id, if it is a member or linked.
func (n *Node) peer(start uint64) (Member, bool) {
	if m, known := n.members.byStart(start); known {
		return m, true
	}
	return n.links.peer(start)
}
