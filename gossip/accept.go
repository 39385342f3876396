package gossip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// proofTime is how long a connection may take to prove that it has the cluster key.
const proofTime = 5 * time.Second

// acceptAll hands each connection of a listener to f, until the context ends and the listener is closed.
func acceptAll(ctx context.Context, listener net.Listener, f func(net.Conn)) {
	const most = time.Second
	pause := 5 * time.Millisecond
	for {
		conn, err := listener.Accept()
		if err == nil {
			f(conn)
			pause = 5 * time.Millisecond
			continue
		}
		if !sleep(ctx, pause) { // out of file descriptors, perhaps: it may get better
			return
		}
		pause = min(2*pause, most)
	}
}

// sleep returns false when the context ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

var errCrowd = errors.New("too many connections that prove nothing")

// crowd are the connections that have proved nothing yet, a bounded number of them. Where there are
// too many, the one that has been at it for longest gives way: the newest is as likely as any to be a
// peer, and a peer needs milliseconds.
type crowd struct {
	most    int
	refused func(net.Conn) // called for a connection that gave way

	mu    sync.Mutex
	conns []net.Conn // in the order of their coming
}

// enter adds a connection.
func (c *crowd) enter(conn net.Conn) {
	var oldest net.Conn
	c.mu.Lock()
	if len(c.conns) >= c.most {
		oldest = c.conns[0]
		c.conns = append(c.conns[:0], c.conns[1:]...)
	}
	c.conns = append(c.conns, conn)
	c.mu.Unlock()
	if oldest != nil {
		c.refused(oldest)
		_ = oldest.Close()
	}
}

// leave removes a connection, and returns false for one that had to give way before.
func (c *crowd) leave(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.conns {
		if other == conn {
			c.conns = append(c.conns[:i], c.conns[i+1:]...)
			return true
		}
	}
	return false
}
