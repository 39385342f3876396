package gossip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxStreams is the number of streams that may be at their first message.
const maxStreams = 32

// transport is the gossip port: the datagrams and the streams of memberlist. Nothing reaches
// memberlist that was not encrypted with a key and under the label of the cluster, so that what it
// allocates, decodes and logs, peers alone decide. It decrypts again what was found good here.
type transport struct {
	gate    *gate
	refused *refusals
	address netip.AddrPort // to advertise

	udp     *net.UDPConn
	tcp     *net.TCPListener
	packets chan *memberlist.Packet
	streams chan net.Conn
	crowd   crowd

	ctx     context.Context // ends with Shutdown
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu   sync.Mutex
	open map[*stream]struct{} // nil after Shutdown
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport takes over the listeners, which others reach at address.
func newTransport(tcp *net.TCPListener, udp *net.UDPConn, address netip.AddrPort, gate *gate, refused *refusals) *transport {
	t := &transport{
		gate:    gate,
		refused: refused,
		address: address,
		udp:     udp,
		tcp:     tcp,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		open:    make(map[*stream]struct{}),
	}
	t.crowd = crowd{most: maxStreams, refused: func(conn net.Conn) {
		refused.add(gossipCrowd, conn.RemoteAddr().String(), errCrowd)
	}}
	_ = udp.SetReadBuffer(2 << 20) // as much as the system grants
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.running.Go(t.receive)
	t.running.Go(func() { acceptAll(t.ctx, t.tcp, t.accept) })
	return t
}

// listenBoth listens on one port of TCP and UDP. Where it may be any, one that is free for the one may be
// taken for the other.
func listenBoth(listen string) (*net.TCPListener, *net.UDPConn, error) {
	addr, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return nil, nil, err
	}
	for try := 0; ; try++ {
		tcp, err := net.ListenTCP("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		bound := tcp.Addr().(*net.TCPAddr)
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: addr.IP, Port: bound.Port, Zone: addr.Zone})
		if err == nil {
			return tcp, udp, nil
		}
		_ = tcp.Close() // it has done nothing yet
		if addr.Port != 0 || try == 10 {
			return nil, nil, err
		}
	}
}

// receive hands the datagrams to memberlist.
func (t *transport) receive() {
	const most = 64 << 10
	b := make([]byte, most)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(b)
		at := time.Now()
		if err != nil {
			if !sleep(t.ctx, 5*time.Millisecond) {
				return
			}
			continue
		}
		if err := t.gate.checkPacket(b[:n]); err != nil {
			t.refused.add(refusalOf(err), from.String(), err)
			continue
		}
		packet := &memberlist.Packet{Buf: bytes.Clone(b[:n]), From: net.UDPAddrFromAddrPort(from), Timestamp: at}
		select {
		case t.packets <- packet:
		case <-t.ctx.Done():
			return
		}
	}
}

// accept hands a stream to memberlist, once its first message is there and good. A stream has one message each way.
func (t *transport) accept(conn net.Conn) {
	s := &stream{Conn: conn, transport: t}
	if !t.track(s) {
		return
	}
	t.crowd.enter(s)
	t.running.Go(func() {
		err := s.SetDeadline(time.Now().Add(proofTime))
		if err == nil {
			s.unread, err = t.gate.readStream(conn)
		}
		if !t.crowd.leave(s) {
			return // closed, and counted
		}
		if err != nil {
			if t.ctx.Err() == nil {
				t.refused.add(refusalOf(err), conn.RemoteAddr().String(), err)
			}
			_ = s.Close()
			return
		}
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			_ = s.Close()
		}
	})
}

// track adds a stream to those that Shutdown closes, or closes it after Shutdown.
func (t *transport) track(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		_ = s.Conn.Close()
		return false
	}
	t.open[s] = struct{}{}
	return true
}

// stream is a stream of memberlist. One message is read from it.
type stream struct {
	net.Conn
	transport *transport
	unread    []byte // of a stream that was accepted: the message
	left      int    // of one that was dialled: the bytes that the answer may still have
}

func (s *stream) Read(b []byte) (n int, err error) {
	switch {
	case len(s.unread) > 0:
		n = copy(b, s.unread)
		s.unread = s.unread[n:]
	case s.left > 0:
		n, err = s.Conn.Read(b[:min(len(b), s.left)])
		s.left -= n
	default:
		err = io.EOF
	}
	return n, err
}

func (s *stream) Close() error {
	s.transport.mu.Lock()
	delete(s.transport.open, s)
	s.transport.mu.Unlock()
	return s.Conn.Close()
}

// FinalAdvertiseAddr returns the address that others reach this port at. It was settled before.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.address.Addr().Unmap().AsSlice(), int(t.address.Port()), nil
}

// WriteTo sends a datagram.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// WriteToAddress sends a datagram.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh returns the datagrams that came.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns the streams that came.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: conn, transport: t, left: maxStream}
	if !t.track(s) {
		return nil, net.ErrClosed
	}
	return s, nil
}

// DialAddressTimeout opens a stream.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown closes the port and every stream, and returns when nothing of the transport runs any more.
func (t *transport) Shutdown() error {
	t.cancel()
	err := errors.Join(t.tcp.Close(), t.udp.Close())
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for s := range open {
		_ = s.Conn.Close()
	}
	t.running.Wait()
	return err
}
