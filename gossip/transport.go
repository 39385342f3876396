package gossip

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxStream is the bytes of a message on a stream: the states of some 1,500 members.
	maxStream = 1 << 20
	// maxStreams is the number of streams that may be at their first message.
	maxStreams = 32
)

// What memberlist puts before its messages.
const (
	labelMark      = 244 // then the length of the label, a byte, and the label
	encryptedMark  = 10  // on a stream: then the length of what is encrypted, 4 bytes
	compressedMark = 9   // no node of this cluster compresses, and 30 KB can become 40 MB
	checkedMark    = 12  // then a checksum, 4 bytes, and a message
	checkedHead    = 5
	sealHeader     = 13 // the version of the encryption, at most 1, and the nonce
	maxSeal        = 1
)

// transport is the gossip port: the datagrams and the streams of memberlist. Nothing reaches
// memberlist that was not encrypted with the key and under the label of the cluster, so that what it
// allocates, decodes and logs, peers alone decide. It decrypts again what was found good here.
type transport struct {
	label   string
	aead    cipher.AEAD
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
func newTransport(tcp *net.TCPListener, udp *net.UDPConn, address netip.AddrPort, secret []byte, label string, refused *refusals) (*transport, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	t := &transport{
		label:   label,
		aead:    aead,
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
	udp.SetReadBuffer(2 << 20) //nolint:errcheck // as much as the system grants
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.running.Go(t.receive)
	t.running.Go(func() { acceptAll(t.ctx, t.tcp, t.accept) })
	return t, nil
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
		tcp.Close() //nolint:errcheck // it has done nothing yet
		if addr.Port != 0 || try == 10 {
			return nil, nil, err
		}
	}
}

var (
	errCompressed = errors.New("compressed")
	errCrowd      = errors.New("too many connections that prove nothing")
	errKey        = errors.New("another key")
	errPlaintext  = errors.New("not encrypted")
	errSize       = errors.New("too long")
)

// receive hands the datagrams to memberlist.
func (t *transport) receive() {
	const most = 64 << 10
	b := make([]byte, most)
	var clear []byte
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(b)
		at := time.Now()
		if err != nil {
			if !sleep(t.ctx, 5*time.Millisecond) {
				return
			}
			continue
		}
		if clear, err = t.checkPacket(clear[:0], b[:n]); err != nil {
			t.refuse(from.String(), err)
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

// checkPacket decrypts a datagram onto b, or returns why there is nothing to decrypt.
func (t *transport) checkPacket(b, packet []byte) ([]byte, error) {
	head := 2 + len(t.label)
	if len(packet) < head || packet[0] != labelMark || string(packet[2:head]) != t.label || int(packet[1]) != len(t.label) {
		return b, errLabel
	}
	return t.decrypt(b, packet[head:], packet[2:head])
}

// decrypt opens onto b what memberlist sealed.
func (t *transport) decrypt(b, sealed, additional []byte) ([]byte, error) {
	if len(sealed) < sealHeader+t.aead.Overhead() || sealed[0] > maxSeal {
		return b, errPlaintext
	}
	clear, err := t.aead.Open(b, sealed[1:sealHeader], sealed[sealHeader:], additional)
	if err != nil {
		return b, errKey
	}
	switch message := clear[len(b):]; {
	case len(message) == 0:
		return b, ErrMalformed // memberlist looks at the first byte unasked
	case message[0] == compressedMark, message[0] == checkedMark && len(message) > checkedHead && message[checkedHead] == compressedMark:
		return b, errCompressed
	}
	return clear, nil
}

func (t *transport) refuse(from string, err error) {
	why := gossipSilent
	switch {
	case errors.Is(err, errLabel):
		why = gossipLabel
	case errors.Is(err, errPlaintext):
		why = gossipPlaintext
	case errors.Is(err, errKey), errors.Is(err, ErrMalformed):
		why = gossipKey
	case errors.Is(err, errSize):
		why = gossipSize
	case errors.Is(err, errCompressed):
		why = gossipCompressed
	}
	t.refused.add(why, from, err)
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
			s.unread, err = t.readStream(conn)
		}
		if !t.crowd.leave(s) {
			return // closed, and counted
		}
		if err != nil {
			if t.ctx.Err() == nil {
				t.refuse(conn.RemoteAddr().String(), err)
			}
			s.Close() //nolint:errcheck // there is nobody to tell
			return
		}
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			s.Close() //nolint:errcheck // there is nobody to tell
		}
	})
}

// readStream returns the label and the message of a stream as they came, when they are good.
func (t *transport) readStream(conn io.Reader) ([]byte, error) {
	var b bytes.Buffer
	label := 2 + len(t.label)
	if err := readMore(&b, conn, label); err != nil {
		return nil, err
	}
	if head := b.Bytes(); head[0] != labelMark || int(head[1]) != len(t.label) || string(head[2:]) != t.label {
		return nil, errLabel
	}
	if err := readMore(&b, conn, 1); err != nil {
		return nil, err
	}
	if b.Bytes()[label] != encryptedMark {
		return nil, errPlaintext
	}
	if err := readMore(&b, conn, 4); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b.Bytes()[label+1:])
	if n > maxStream {
		return nil, fmt.Errorf("%w: %d bytes, of %d at most", errSize, n, maxStream)
	}
	if err := readMore(&b, conn, int(n)); err != nil { // what is there, not what is announced, takes memory
		return nil, err
	}
	head := b.Bytes()[:label+5]
	additional := append(bytes.Clone(head[label:]), t.label...)
	if _, err := t.decrypt(nil, b.Bytes()[label+5:], additional); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func readMore(b *bytes.Buffer, conn io.Reader, n int) error {
	_, err := io.CopyN(b, conn, int64(n))
	return err
}

// track adds a stream to those that Shutdown closes, or closes it after Shutdown.
func (t *transport) track(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		s.Conn.Close() //nolint:errcheck // there is nobody to tell
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
		s.Conn.Close() //nolint:errcheck // there is nobody to tell
	}
	t.running.Wait()
	return err
}
