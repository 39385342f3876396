package gossip

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// takeRequests answers every connection for requests of a node with what comes over it, until the test ends.
func takeRequests(t testing.TB, n testNode) {
	t.Helper()
	l := n.Requests()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = n.Stop(context.Background())
		running.Wait()
	})
}

// echo sends a word over a connection and returns an error unless it comes back.
func echo(conn net.Conn) error {
	const word = "word"
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return err
	}
	b := make([]byte, len(word))
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != word {
		return errors.New(string(b))
	}
	return nil
}

// dialRequests opens a connection for requests that works.
func dialRequests(t testing.TB, from, to testNode) net.Conn {
	t.Helper()
	conn, err := from.Dial(t.Context(), to.Status().Self.Start)
	if err == nil {
		err = echo(conn)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ended waits until a connection is closed from elsewhere.
func ended(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return // it is closed
	}
	_, err := conn.Read(make([]byte, 1))
	if timeout := net.Error(nil); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection is open: %v", err)
	}
}

func (n testNode) openRequests() int {
	n.requests.mu.Lock()
	defer n.requests.mu.Unlock()
	return len(n.requests.open)
}

// Connections for requests go both ways between nodes that are linked by one, and end with either side.
func TestRequestConnections(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	takeRequests(t, a)
	takeRequests(t, b)
	await(t, "two nodes", func() bool { return linked(a, b) })
	there, back := dialRequests(t, a, b), dialRequests(t, b, a)
	if a.openRequests() != 2 || b.openRequests() != 2 {
		t.Errorf("%d and %d open", a.openRequests(), b.openRequests())
	}
	if err := back.Close(); err != nil {
		t.Error(err)
	}
	await(t, "both forget the one that was closed", func() bool { return a.openRequests() == 1 && b.openRequests() == 1 })
	if conn, err := a.Dial(t.Context(), 4711); !errors.Is(err, errStranger) {
		t.Errorf("%v %v", conn, err)
	}
	if conn, err := a.Dial(t.Context(), a.Status().Self.Start); !errors.Is(err, errStranger) {
		t.Errorf("to itself: %v %v", conn, err)
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	ended(t, there)
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if conn, err := a.Dial(t.Context(), b.Status().Self.Start); err == nil {
		t.Errorf("%v, after Stop", conn)
	}
	for why, count := range a.Status().Refused {
		if count != 0 {
			t.Errorf("%d refused: %s", count, why)
		}
	}
}

// A listener that is closed takes none any more; those that it has handed out stay.
func TestRequestListenerCloses(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	takeRequests(t, b)
	await(t, "two nodes", func() bool { return linked(a, b) })
	before := dialRequests(t, a, b)
	if err := b.Requests().Close(); err != nil {
		t.Error(err)
	}
	if conn, err := a.Dial(t.Context(), b.Status().Self.Start); err == nil {
		ended(t, conn)
		_ = conn.Close()
	}
	if err := echo(before); err != nil {
		t.Error(err)
	}
}

// A connection that was made with a key that is removed is closed by both sides, whoever's key it was; others stay.
func TestRemovedKeyEndsRequestConnections(t *testing.T) {
	fresh := GenerateKey()
	nodes := func(t *testing.T) (former, a, b testNode) {
		former = start(t, Options{Keys: ring(testKey, fresh)})
		a = start(t, Options{Keys: ring(fresh, testKey), Join: []string{former.addr()}})
		b = start(t, Options{Keys: ring(fresh, testKey), Join: []string{former.addr()}})
		for _, n := range []testNode{former, a, b} {
			takeRequests(t, n)
		}
		await(t, "three nodes", func() bool { return linked(former, a, b) })
		return former, a, b
	}
	t.Run("the peer's", func(t *testing.T) {
		former, a, b := nodes(t)
		from, to, kept := dialRequests(t, former, a), dialRequests(t, a, former), dialRequests(t, b, a)
		if err := a.SetKeys(ring(fresh)); err != nil {
			t.Fatal(err)
		}
		ended(t, from)
		ended(t, to)
		if err := echo(kept); err != nil {
			t.Error(err)
		}
		if conn, err := former.Dial(t.Context(), a.Status().Self.Start); err == nil {
			ended(t, conn)
			_ = conn.Close()
		}
	})
	t.Run("one's own", func(t *testing.T) {
		former, a, b := nodes(t)
		from, to, kept := dialRequests(t, former, a), dialRequests(t, a, former), dialRequests(t, b, a)
		if err := former.SetKeys(ring(fresh)); err != nil {
			t.Fatal(err)
		}
		ended(t, from)
		ended(t, to)
		if err := echo(kept); err != nil {
			t.Error(err)
		}
		if err := echo(dialRequests(t, former, a)); err != nil {
			t.Errorf("with the key that is left: %v", err)
		}
	})
}

// A peer has so many connections and no more; that does nothing to those of another.
func TestRequestConnectionsAreBounded(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	c := start(t, Options{Join: []string{a.addr()}})
	takeRequests(t, a)
	await(t, "three nodes", func() bool { return linked(a, b, c) })
	for range maxRequestConns {
		dialRequests(t, b, a)
	}
	conn, err := b.Dial(t.Context(), a.Status().Self.Start)
	if err == nil {
		ended(t, conn)
		_ = conn.Close()
	}
	await(t, "one too many is counted", func() bool { return a.Status().Refused[string(linkCrowd)] == 1 })
	dialRequests(t, c, a)
}

// Connections that were dialled to a process end when the region takes it for dead.
func TestRequestConnectionsToTheDeadEnd(t *testing.T) {
	fast := func(c *memberlist.Config) {
		c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = 100*time.Millisecond, 50*time.Millisecond, 2
	}
	a := start(t, Options{tune: fast})
	b := start(t, Options{tune: fast, Join: []string{a.addr()}})
	takeRequests(t, b)
	await(t, "two nodes", func() bool { return linked(a, b) })
	conn := dialRequests(t, a, b)
	if err := b.members.stop(); err != nil { // it is as good as dead, and its connections are there
		t.Fatal(err)
	}
	ended(t, conn)
	await(t, "it is forgotten", func() bool { return a.openRequests() == 0 })
}

// A peer that takes the connection and says nothing holds up its own dials alone.
func TestDialIsBounded(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	takeRequests(t, b)
	await(t, "two nodes", func() bool { return linked(a, b) })
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a.members.mu.Lock()
	a.members.others["silent"] = Member{Name: "silent", Start: 4711, LinkAddr: silent.Addr().String()}
	a.members.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	var dialling sync.WaitGroup
	for range 2 * dialsAtOnce {
		dialling.Go(func() {
			if conn, err := a.Dial(ctx, 4711); !errors.Is(err, context.Canceled) {
				t.Errorf("%v %v", conn, err)
			}
		})
	}
	for range dialsAtOnce {
		conn, err := silent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	dialRequests(t, a, b)
	cancel()
	dialling.Wait()
}

// HTTP works over such connections, and is kept alive.
func TestRequestsCarryHTTP(t *testing.T) {
	a := start(t, Options{})
	b := start(t, Options{Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })
	server := &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.Method+" "+r.URL.Path)
		}),
	}
	served := make(chan error)
	go func() { served <- server.Serve(b.Requests()) }()
	transport := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return a.Dial(ctx, b.Status().Self.Start)
		},
	}
	for range 10 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://owner/path", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(got) != "PUT /path" {
			t.Errorf("%s %v", got, err)
		}
	}
	if a.openRequests() != 1 || b.openRequests() != 1 {
		t.Errorf("%d and %d connections", a.openRequests(), b.openRequests())
	}
	transport.CloseIdleConnections()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	await(t, "all are closed", func() bool { return a.openRequests() == 0 && b.openRequests() == 0 })
}
