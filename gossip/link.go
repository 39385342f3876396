package gossip

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"
)

const (
	frameHeader = 4               // bytes: the length of the body, big endian
	readAhead   = 16 << 10        // bytes: a record of TLS has no more
	writeTime   = 3 * time.Second // a peer that does not read for so long is as good as dead
	maxRedial   = time.Second     // the pauses between attempts to dial double from minRedial to maxRedial
	minRedial   = 100 * time.Millisecond
)

// Why a link is closed.
var (
	errStale    = errors.New("nothing heard for too long")
	errReplaced = errors.New("the peer has come with a new connection")
	errStopped  = errors.New("this node stops")
	errRenewed  = errors.New("the link gave way to one that was made with the keys in use")
	errRemoved  = errors.New("the peer proved itself with a key that was removed")
	errFrame    = errors.New("a frame of a length that no frame has")
)

// link is a connection with a peer after the hellos: two goroutines that carry frames between it and
// the core.
type link struct {
	peer  Member
	wire  uint64
	conn  *tls.Conn
	core  *Core
	since time.Time

	proven Fingerprint // of the key that the peer proved itself with
	ours   Fingerprint // of the one that this process did with

	wake   chan struct{} // receives when the core may have a frame
	keys   chan struct{} // receives when other keys may be in use, here or there
	heard  chan struct{} // closed when the first frame came
	closed chan struct{} // closed when why is set
	done   chan struct{} // closed when the core has been told Down
	once   sync.Once
	why    error
}

func newLink(in introduction, conn *tls.Conn, core *Core) *link {
	return &link{
		peer:   in.peer,
		wire:   in.wire,
		proven: in.proven,
		ours:   in.ours,
		conn:   conn,
		core:   core,
		since:  time.Now(),
		wake:   make(chan struct{}, 1),
		keys:   make(chan struct{}, 1),
		heard:  make(chan struct{}),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
	}
}

// run carries frames until the link is closed, and returns why it was. Where another link takes over, that one
// tells the core.
func (l *link) run() error {
	defer close(l.done)
	if err := l.core.Up(l.peer, l.wire); err != nil {
		l.close(err)
		l.core.Down(l.peer.Start, err) // it may have taken over
		return err
	}
	var writer sync.WaitGroup
	writer.Go(func() { l.close(l.write()) })
	l.close(l.read())
	writer.Wait()
	if !errors.Is(l.why, errRenewed) {
		l.core.Down(l.peer.Start, l.why)
	}
	return l.why
}

// close ends both goroutines; the first reason counts. A connection that gives way is left open: to the peer, who may
// not have made the other one its own yet, its end would be that of the link.
func (l *link) close(why error) {
	l.once.Do(func() {
		l.why = why
		close(l.closed)
		if errors.Is(why, errRenewed) {
			_ = l.conn.NetConn().SetDeadline(time.Unix(1, 0)) // it fails where the connection is closed
			return
		}
		l.conn.NetConn().Close() //nolint:errcheck // and no TLS alert: it would wait for a peer that does not read
	})
}

// poke lets the writer ask the core for a frame.
func (l *link) poke() { poke(l.wake) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// write sends what the core has, a frame a call.
func (l *link) write() error {
	again := time.NewTimer(0)
	defer again.Stop()
	b := make([]byte, frameHeader, 4<<10)
	for {
		frame, pause := l.core.Next(l.peer.Start, b[:frameHeader])
		if n := len(frame) - frameHeader; n > 0 {
			b = frame
			binary.BigEndian.PutUint32(b, uint32(n))
			if err := l.conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
				return err
			}
			if _, err := l.conn.Write(b); err != nil {
				return err
			}
			continue
		}
		var later <-chan time.Time
		if pause > 0 {
			again.Reset(pause)
			later = again.C
		}
		select {
		case <-l.wake:
		case <-later:
		case <-l.closed:
			return l.why
		}
	}
}

// read hands each frame to the core.
func (l *link) read() error {
	r := bufio.NewReaderSize(l.conn, readAhead)
	var b []byte
	var err error
	for first := true; ; first = false {
		if b, err = readFrame(r, b[:0], MaxFrame); err != nil {
			return err
		}
		if first {
			close(l.heard)
		}
		if err := l.core.Receive(l.peer.Start, b); err != nil {
			return fmt.Errorf("%w: %w", errRefusedFrame, err)
		}
	}
}

var errRefusedFrame = errors.New("a frame that the core refuses")

// readFrame returns the body of the next frame in b, or in a larger buffer.
func readFrame(r io.Reader, b []byte, most int) ([]byte, error) {
	if cap(b) < frameHeader {
		b = make([]byte, frameHeader, 4<<10)
	}
	if _, err := io.ReadFull(r, b[:frameHeader]); err != nil {
		return b, err
	}
	n := binary.BigEndian.Uint32(b[:frameHeader])
	if n == 0 || n > uint32(most) {
		return b, fmt.Errorf("%w: %d bytes, of %d at most", errFrame, n, most)
	}
	if cap(b) < int(n) {
		b = make([]byte, n, min(2*int(n), most))
	}
	b = b[:n]
	if _, err := io.ReadFull(r, b); err != nil {
		return b, fmt.Errorf("%w: %w", errTruncated, err)
	}
	return b, nil
}

var errTruncated = errors.New("a frame that was cut off")

// links are the links of a node: at most one a peer.
type links struct {
	refused *refusals
	logger  *slog.Logger
	core    *Core
	find    func(Member) (Member, error) // adds to a hello what memberlist knows
	crowd   crowd

	mu      sync.Mutex
	id      *credentials
	up      map[uint64]*link // by start id
	stopped bool
}

// introduction is what two processes learn of each other before there is a link.
type introduction struct {
	peer         Member
	wire         uint64
	proven, ours Fingerprint
}

// maxHalfOpen is the number of connections that may be before their hello at a time.
const maxHalfOpen = 128

func newLinks(id *credentials, core *Core, find func(Member) (Member, error), refused *refusals, logger *slog.Logger) *links {
	ls := &links{id: id, refused: refused, logger: logger, core: core, find: find, up: make(map[uint64]*link)}
	ls.crowd = crowd{most: maxHalfOpen, refused: func(conn net.Conn) {
		refused.add(linkCrowd, conn.RemoteAddr().String(), errCrowd)
	}}
	return ls
}

// dialled returns a link on a connection with the process of start id peer, which is to be run.
func (ls *links) dialled(ctx context.Context, raw net.Conn, ours hello, peer uint64) (*link, error) {
	id := ls.credentials()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, err := id.prove(ctx, tls.Client(raw, id.client(peer, linkProtocol)))
	var in introduction
	if err == nil {
		in, err = ls.introduce(conn, ours)
	}
	if err != nil && ctx.Err() == nil {
		ls.refuse(raw, err)
	}
	if !stop() || err != nil {
		_ = raw.Close()
		return nil, errors.Join(ctx.Err(), err)
	}
	return newLink(in, conn.Conn, ls.core), nil
}

// accepted runs a link on a connection that came, if it is a peer's, or has carry use it for requests.
func (ls *links) accepted(ctx context.Context, raw net.Conn, ours hello, carry func(secured) error) {
	defer func() { _ = raw.Close() }()
	id := ls.credentials()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, err := id.prove(ctx, tls.Server(raw, id.server()))
	forRequests := err == nil && conn.protocol == requestProtocol
	var in introduction
	if err == nil && !forRequests {
		in, err = ls.introduce(conn, ours)
	}
	if !ls.crowd.leave(raw) {
		return // closed, and counted
	}
	if forRequests {
		defer stop()
		if err := carry(conn); err != nil && ctx.Err() == nil {
			ls.refuse(raw, err)
		}
		return
	}
	if err == nil && in.peer.Start >= ours.Start {
		err = fmt.Errorf("%w: %s is to be dialled from here", errIdentity, in.peer.Name)
	}
	if err != nil && ctx.Err() == nil {
		ls.refuse(raw, err)
	}
	if !stop() || err != nil {
		return
	}
	err = ls.run(newLink(in, conn.Conn, ls.core))
	if errors.Is(err, errRenewed) && raw.SetDeadline(time.Now().Add(proofTime)) == nil {
		stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
		defer stop()
		_, _ = io.Copy(io.Discard, raw) // until the peer closes it
	}
}

// introduce exchanges hellos, in what is left of proofTime.
func (ls *links) introduce(conn secured, ours hello) (in introduction, err error) {
	h, err := exchangeHello(conn, ours)
	if err != nil {
		return in, err
	}
	if conn.peer != h.Start {
		return in, fmt.Errorf("%w: %s says that it is %s", errIdentity, formatStart(conn.peer), h.Name)
	}
	in.proven, in.ours = conn.proven, conn.ours
	if in.wire, err = ours.agree(h); err != nil {
		return in, err
	}
	if in.peer, err = ls.find(h.Member); err != nil {
		return in, err
	}
	return in, conn.SetDeadline(time.Time{})
}

// credentials returns what a connection that begins now is secured with.
func (ls *links) credentials() *credentials {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.id
}

// setCredentials replaces the credentials, and closes the links whose peer proved itself with a key that is
// not there any more.
func (ls *links) setCredentials(id *credentials) {
	ls.mu.Lock()
	ls.id = id
	ls.mu.Unlock()
	for _, l := range ls.all() {
		if !id.has(l.proven) {
			l.close(errRemoved)
		}
	}
	ls.keysChanged()
}

// keysChanged tells the links that other keys may be in use, here or there.
func (ls *links) keysChanged() {
	for _, l := range ls.all() {
		poke(l.keys)
	}
}

// refuse counts a connection that came to nothing, unless that is as it has to be.
func (ls *links) refuse(conn net.Conn, err error) {
	if errors.Is(err, errBridge) {
		return
	}
	var (
		record tls.RecordHeaderError
		verify *tls.CertificateVerificationError
		op     *net.OpError
		why    = linkSilent // it ended, or its time did
	)
	switch {
	case errors.Is(err, errProtocol):
		why = linkProtocols
	case errors.Is(err, errStranger):
		why = linkStranger
	case errors.Is(err, errCrowd):
		why = linkCrowd
	case errors.Is(err, errStopped), errors.Is(err, errRemoved):
		return
	case errors.Is(err, errIdentity):
		why = linkIdentity
	case errors.Is(err, errConflict):
		why = linkConflict
	case errors.Is(err, errLabel):
		why = linkLabel
	case errors.Is(err, errRegion):
		why = linkRegion
	case errors.Is(err, errWire):
		why = linkWire
	case errors.Is(err, ErrMalformed), errors.Is(err, errFrame):
		why = linkHello
	case errors.As(err, &record):
		why = linkPlaintext
	case errors.As(err, &verify), errors.As(err, &op) && op.Op == "remote error":
		why = linkCertificate // one side or the other does not take it
	case op != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
	case errors.Is(err, errHandshake):
		why = linkHandshake
	}
	ls.refused.add(why, conn.RemoteAddr().String(), err)
}

// run makes the link that of its peer, runs it and returns why it ended. A link that the peer had before
// gives way: the peer knows better whether it is of any use. If that was made with other keys, it need not be of
// none, and for the core there is a link all the time.
func (ls *links) run(l *link) error {
	gaveWay := false
	for {
		before, err := ls.enter(l)
		if err != nil {
			l.close(err)
			if gaveWay {
				ls.core.Down(l.peer.Start, err)
			}
			return err
		}
		if before == nil {
			break
		}
		if before.ours != l.ours || before.proven != l.proven {
			before.close(errRenewed)
		} else {
			before.close(errReplaced)
		}
		<-before.done
		gaveWay = gaveWay || errors.Is(before.why, errRenewed)
		ls.remove(before)
	}
	ls.logger.Info("gossip: link up", "peer", l.peer.Name, "wire", l.wire)
	err := l.run()
	ls.remove(l)
	ls.logger.Info("gossip: link down", "peer", l.peer.Name, "error", err)
	switch {
	case errors.Is(err, errReplaced):
		ls.refused.add(linkReplaced, l.peer.Name, err)
	case errors.Is(err, errFrame):
		ls.refused.add(frameSize, l.peer.Name, err)
	case errors.Is(err, errTruncated):
		ls.refused.add(frameTruncated, l.peer.Name, err)
	case errors.Is(err, errRefusedFrame):
		ls.refused.add(frameMalformed, l.peer.Name, err)
	}
	return err
}

// enter makes the link that of its peer, unless there is another one, which it returns, or there is to be none.
func (ls *links) enter(l *link) (before *link, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ls.stopped:
		return nil, errStopped
	case !ls.id.has(l.proven): // it was removed during the handshake
		return nil, errRemoved
	}
	before = ls.up[l.peer.Start]
	if before == nil {
		ls.up[l.peer.Start] = l
	}
	return before, nil
}

func (ls *links) remove(l *link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.up[l.peer.Start] == l {
		delete(ls.up, l.peer.Start)
	}
}

// poke wakes the writer of a peer.
func (ls *links) poke(peer uint64) {
	ls.mu.Lock()
	l := ls.up[peer]
	ls.mu.Unlock()
	if l != nil {
		l.poke()
	}
}

// peer returns the process of a start id, if it is linked.
func (ls *links) peer(start uint64) (Member, bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l := ls.up[start]; l != nil {
		return l.peer, true
	}
	return Member{}, false
}

// close closes the link of a peer.
func (ls *links) close(peer uint64, why error) {
	ls.mu.Lock()
	l := ls.up[peer]
	ls.mu.Unlock()
	if l != nil {
		l.close(why)
	}
}

// stop closes all links; no link comes up after it.
func (ls *links) stop() {
	ls.mu.Lock()
	ls.stopped = true
	up := make([]*link, 0, len(ls.up))
	for _, l := range ls.up {
		up = append(up, l)
	}
	ls.mu.Unlock()
	for _, l := range up {
		l.close(errStopped)
	}
}

// all returns the links by the start id of the peer.
func (ls *links) all() map[uint64]*link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return maps.Clone(ls.up)
}

// count returns the number of links.
func (ls *links) count() int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return len(ls.up)
}
