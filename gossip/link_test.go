package gossip

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// caller is somebody who dials a link port.
type caller struct {
	*credentials
	hello
}

// newCaller returns the caller of a start id with the key, label, region and wire versions of tests.
func newCaller(t testing.TB, key Key, start uint64) caller {
	id, err := newCredentials(ring(key), start)
	if err != nil {
		t.Fatal(err)
	}
	return caller{id, hello{label: "cartd", Member: Member{
		Start: start, Name: "10.0.0.9:7946/" + formatStart(start), State: Joining,
		LinkAddr: "10.0.0.9:7947", MinWire: MinWire, MaxWire: MaxWire,
	}}}
}

// lax shakes hands with whoever answers, for a link.
func (c caller) lax(conn net.Conn) *tls.Conn { return c.offering(conn, linkProtocol) }

// offering shakes hands with whoever answers, for one of some protocols.
func (c caller) offering(conn net.Conn, protocols ...string) *tls.Conn {
	config := c.config(protocols...)
	config.InsecureSkipVerify = true
	return tls.Client(conn, config)
}

// greet shakes hands and exchanges hellos.
func (c caller) greet(conn net.Conn) *tls.Conn {
	tls := c.lax(conn)
	_, _ = exchangeHello(tls, c.hello)
	return tls
}

// A caller who is refused meets errors, which are of no interest.

func say(w io.Writer, b []byte) { _, _ = w.Write(b) }

func hear(r io.Reader) { _, _ = io.Copy(io.Discard, r) }

func shake(conn *tls.Conn) { _ = conn.Handshake() }

// frameOf returns a frame of a body.
func frameOf(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestBadInputAtTheLinkPort(t *testing.T) {
	good := func(t *testing.T) caller { return newCaller(t, testKey, 7) }
	for _, tt := range []struct {
		name string
		why  reason
		do   func(t *testing.T, conn net.Conn)
	}{
		{"plaintext", linkPlaintext, func(_ *testing.T, conn net.Conn) {
			say(conn, []byte("GET / HTTP/1.1\r\nHost: cartd\r\n\r\n"))
		}},
		{"a frame in plaintext", linkPlaintext, func(t *testing.T, conn net.Conn) {
			say(conn, frameOf(appendHello(nil, good(t).hello)))
		}},
		{"TLS 1.2", linkHandshake, func(t *testing.T, conn net.Conn) {
			config := good(t).config(linkProtocol)
			config.InsecureSkipVerify, config.MinVersion, config.MaxVersion = true, tls.VersionTLS12, tls.VersionTLS12
			shake(tls.Client(conn, config))
		}},
		{"no certificate", linkHandshake, func(_ *testing.T, conn net.Conn) {
			hear(tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{requestProtocol}}))
		}},
		{"no protocol", linkProtocols, func(t *testing.T, conn net.Conn) { hear(good(t).offering(conn)) }},
		{"another protocol", linkProtocols, func(t *testing.T, conn net.Conn) { hear(good(t).offering(conn, "cartd-link/9", "h2")) }},
		{"requests of a stranger", linkStranger, func(t *testing.T, conn net.Conn) {
			hear(good(t).offering(conn, requestProtocol))
		}},
		{"requests under another key", linkCertificate, func(t *testing.T, conn net.Conn) {
			hear(newCaller(t, GenerateKey(), 7).offering(conn, requestProtocol))
		}},
		{"certificate of another key", linkCertificate, func(t *testing.T, conn net.Conn) {
			newCaller(t, GenerateKey(), 7).greet(conn)
		}},
		{"trust in another key", linkCertificate, func(t *testing.T, conn net.Conn) {
			shake(tls.Client(conn, newCaller(t, GenerateKey(), 7).client(1<<63, linkProtocol)))
		}},
		{"nothing", linkSilent, func(_ *testing.T, conn net.Conn) { hear(conn) }},
		{"end", linkSilent, func(*testing.T, net.Conn) {}},
		{"half a handshake", linkSilent, func(_ *testing.T, conn net.Conn) {
			say(conn, []byte{22, 3, 1, 2, 0, 1})
			hear(conn)
		}},
		{"no hello", linkSilent, func(t *testing.T, conn net.Conn) { hear(good(t).lax(conn)) }},
		{"half a hello", linkSilent, func(t *testing.T, conn net.Conn) {
			tls := good(t).lax(conn)
			say(tls, []byte{0, 0, 0, 99, 1})
			hear(tls)
		}},
		{"a long hello", linkHello, func(t *testing.T, conn net.Conn) {
			say(good(t).lax(conn), []byte{0, 0, 0xff, 0xff})
		}},
		{"garbage for a hello", linkHello, func(t *testing.T, conn net.Conn) {
			say(good(t).lax(conn), frameOf([]byte("garbage")))
		}},
		{"another label", linkLabel, func(t *testing.T, conn net.Conn) {
			c := good(t)
			c.label = "other"
			c.greet(conn)
		}},
		{"another region", linkRegion, func(t *testing.T, conn net.Conn) {
			c := good(t)
			c.Region = "mars"
			c.greet(conn)
		}},
		{"unknown wire version", linkWire, func(t *testing.T, conn net.Conn) {
			c := good(t)
			c.MinWire, c.MaxWire = MaxWire+1, MaxWire+9
			c.greet(conn)
		}},
		{"another's start id", linkIdentity, func(t *testing.T, conn net.Conn) {
			c := good(t)
			c.hello = newCaller(t, testKey, 8).hello
			c.greet(conn)
		}},
		{"one that is to be dialled", linkIdentity, func(t *testing.T, conn net.Conn) {
			newCaller(t, testKey, 1<<64-1).greet(conn)
		}},
		{"oversized frame", frameSize, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), binary.BigEndian.AppendUint32(nil, MaxFrame+1))
		}},
		{"the largest length", frameSize, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), []byte{0xff, 0xff, 0xff, 0xff})
		}},
		{"empty frame", frameSize, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), []byte{0, 0, 0, 0})
		}},
		{"truncated frame", frameTruncated, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), []byte{0, 0, 0, 9, 1})
		}},
		{"garbage for a frame", frameMalformed, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), frameOf([]byte("garbage")))
		}},
		{"a frame cut short", frameMalformed, func(t *testing.T, conn net.Conn) {
			say(good(t).greet(conn), frameOf([]byte{1}))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				t.Cleanup(func() { time.Sleep(time.Minute) })
				network := newMemoryNetwork()
				target := start(t, Options{network: network.host(hosts[0]), Member: Member{Start: 1 << 63}})
				other := start(t, Options{network: network.host(hosts[1]), Join: []string{target.addr()}})
				time.Sleep(5 * time.Second)
				if !linked(target, other) {
					t.Fatal("no cluster")
				}
				conn, err := network.host("10.0.0.9").Dial(t.Context(), target.Status().Self.LinkAddr)
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				tt.do(t, conn)
				if d := time.Since(began); d > proofTime {
					t.Errorf("it took %v", d)
				}
				synctest.Wait()
				conn.Close()
				time.Sleep(time.Second)
				for why, n := range target.Status().Refused {
					if want := map[bool]uint64{true: 1}[why == string(tt.why)]; n != want {
						t.Errorf("%s: %d", why, n)
					}
				}
				if !linked(target, other) {
					t.Error("the cluster suffers")
				}
			})
		})
	}
}

// Who has the key may come again before the old connection is found dead.
func TestNewConnectionReplacesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		network := newMemoryNetwork()
		target := start(t, Options{network: network.host(hosts[0]), Member: Member{Start: 1 << 63}})
		var last net.Conn
		for range 3 {
			conn, err := network.host("10.0.0.9").Dial(t.Context(), target.Status().Self.LinkAddr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			last = newCaller(t, testKey, 7).greet(conn)
			synctest.Wait()
			if n := target.core.Peers(); n != 1 {
				t.Fatalf("%d peers", n)
			}
		}
		if n := target.Status().Refused[string(linkReplaced)]; n != 2 {
			t.Errorf("%d replaced", n)
		}
		if _, err := readFrame(last, nil, MaxFrame); err != nil {
			t.Errorf("the last one: %v", err)
		}
	})
}

// A thousand connections that say nothing, at both ports, keep no peer out.
func TestCrowd(t *testing.T) {
	a := start(t, Options{Member: Member{Start: 1 << 63}})
	before := heap()
	const many = 1000
	for range many {
		for _, addr := range []string{a.Status().Self.LinkAddr, a.addr()} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
	}
	await(t, "all but the last ones go", func() bool {
		refused := a.Status().Refused
		return refused[string(linkCrowd)] == many-maxHalfOpen && refused[string(gossipCrowd)] == many-maxStreams
	})
	if n := runtime.NumGoroutine(); n > maxHalfOpen+maxStreams+100 {
		t.Errorf("%d goroutines", n)
	}
	if after := heap(); after > before+32<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	began := time.Now()
	b := start(t, Options{Member: Member{Start: 1}, Join: []string{a.addr()}})
	await(t, "a peer comes in", func() bool { return linked(a, b) })
	if d := time.Since(began); d > proofTime {
		t.Errorf("a peer came in after %v only", d)
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// A peer that does not read holds neither a goroutine nor the node's Stop.
func TestPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	a := start(t, Options{Member: Member{Start: 1 << 63}})
	conn, err := net.Dial("tcp", a.Status().Self.LinkAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	newCaller(t, testKey, 7).greet(conn)
	await(t, "a link", func() bool { return a.core.Peers() == 1 })
	for i := range 100 {
		a.core.Replicate(cartID(i), make([]byte, 100<<10), func(uint64) { t.Error("held") })
	}
	await(t, "the end of the link", func() bool { return a.core.Peers() == 0 })
}

func TestRightKeyWrongProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		accept := make(chan net.Conn, 1)
		here, err := newMemoryNetwork().host(hosts[0]).connect(t.Context(), hosts[1], accept, nil)
		if err != nil {
			t.Fatal(err)
		}
		there := <-accept
		server, client := newCaller(t, testKey, 8), newCaller(t, testKey, 7)
		go func() {
			defer there.Close()
			shake(tls.Server(there, server.server()))
		}()
		defer here.Close()
		err = tls.Client(here, client.client(9, linkProtocol)).Handshake()
		if want := fmt.Sprintf("%s answers for %s", formatStart(8), formatStart(9)); !errors.Is(err, errIdentity) || !containsText(err, want) {
			t.Errorf("%v", err)
		}
	})
}
