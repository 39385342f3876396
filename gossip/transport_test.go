package gossip

import (
	"bytes"
	"compress/lzw"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/vmihailenco/msgpack/v5"
)

// seal encrypts a message as memberlist does.
func seal(key Key, message, additional []byte) []byte {
	block, err := aes.NewCipher(key.derive(gossipUse))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	return aead.Seal(append([]byte{1}, nonce...), nonce, message, additional)
}

// labelled puts a label before a message.
func labelled(label string, message []byte) []byte {
	return append(append([]byte{labelMark, byte(len(label))}, label...), message...)
}

// streamOf returns an encrypted message as it goes over a stream.
func streamOf(key Key, label string, message []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{encryptedMark}, uint32(len(message)+sealHeader+16))
	return labelled(label, append(head, seal(key, message, append(bytes.Clone(head), label...))...))
}

// bomb returns a compressed message, of zeros, that grows to size.
func bomb(size int) []byte {
	var b bytes.Buffer
	w := lzw.NewWriter(&b, lzw.LSB, 8)
	zeros := make([]byte, 1<<20)
	for ; size > 0; size -= len(zeros) {
		if _, err := w.Write(zeros); err != nil {
			panic(err)
		}
	}
	w.Close()
	body, err := msgpack.Marshal(map[string]any{"Algo": uint8(0), "Buf": b.Bytes()})
	if err != nil {
		panic(err)
	}
	return append([]byte{compressedMark}, body...)
}

func TestBadInputAtTheGossipPort(t *testing.T) {
	a := start(t, Options{Member: Member{Zone: "a"}})
	b := start(t, Options{Join: []string{a.addr()}})
	await(t, "two nodes", func() bool { return linked(a, b) })

	ping := []byte("\x00\x82\xa5SeqNo\x01\xa4Node\xa0") // what memberlist would answer
	exploding := bomb(39 << 20)
	other := GenerateKey()
	label := []byte("cartd")
	large := binary.BigEndian.AppendUint32([]byte{encryptedMark}, 20<<20)
	for _, tt := range []struct {
		name, network string
		bytes         []byte
		why           reason
	}{
		{"no label", "udp", ping, gossipLabel},
		{"another label", "udp", labelled("other", seal(testKey, ping, []byte("other"))), gossipLabel},
		{"a longer label", "udp", labelled("cartd2", seal(testKey, ping, []byte("cartd2"))), gossipLabel},
		{"half a label", "udp", []byte{labelMark, 5, 'c', 'a'}, gossipLabel},
		{"nothing", "udp", nil, gossipLabel},
		{"label alone", "udp", labelled("cartd", nil), gossipPlaintext},
		{"plaintext", "udp", labelled("cartd", ping), gossipPlaintext},
		{"a bomb in plaintext", "udp", labelled("cartd", exploding), gossipPlaintext},
		{"garbage", "udp", labelled("cartd", make([]byte, 60<<10)), gossipKey},
		{"another key", "udp", labelled("cartd", seal(other, ping, label)), gossipKey},
		{"another key's bomb", "udp", labelled("cartd", seal(other, exploding, label)), gossipKey},
		{"sealed under another label", "udp", labelled("cartd", seal(testKey, ping, []byte("other"))), gossipKey},
		{"sealed void", "udp", labelled("cartd", seal(testKey, nil, label)), gossipKey},
		{"a bomb", "udp", labelled("cartd", seal(testKey, exploding, label)), gossipCompressed},

		{"no label", "tcp", append([]byte{6}, make([]byte, 100)...), gossipLabel},
		{"another label", "tcp", streamOf(testKey, "other", ping), gossipLabel},
		{"plaintext", "tcp", labelled("cartd", ping), gossipPlaintext},
		{"a bomb in plaintext", "tcp", labelled("cartd", exploding), gossipPlaintext},
		{"another key", "tcp", streamOf(other, "cartd", ping), gossipKey},
		{"garbage", "tcp", labelled("cartd", append([]byte{encryptedMark, 0, 0, 1, 0}, make([]byte, 256)...)), gossipKey},
		{"a bomb", "tcp", streamOf(testKey, "cartd", exploding), gossipCompressed},
		{"20 MB announced", "tcp", labelled("cartd", large), gossipSize},
		{"cut off", "tcp", labelled("cartd", []byte{encryptedMark, 0, 15, 0, 0, 1}), gossipSilent},
		{"nothing", "tcp", nil, gossipSilent},
	} {
		t.Run(tt.network+": "+tt.name, func(t *testing.T) {
			const times = 20
			before := a.Status().Refused[string(tt.why)]
			var m0, m1 runtime.MemStats
			runtime.ReadMemStats(&m0)
			for i := range uint64(times) {
				conn, err := net.Dial(tt.network, a.addr())
				if err != nil {
					t.Fatal(err)
				}
				say(conn, tt.bytes) // it may be refused before all is sent
				if tcp, ok := conn.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
					hear(conn)
				}
				conn.Close()
				await(t, "a refusal", func() bool { return a.Status().Refused[string(tt.why)] == before+i+1 })
			}
			runtime.ReadMemStats(&m1)
			if each := (m1.TotalAlloc - m0.TotalAlloc) / times; each > 2<<20 {
				t.Errorf("%d bytes were allocated for %d", each, len(tt.bytes))
			}
		})
	}
	if !linked(a, b) {
		t.Error("the cluster suffers")
	}
	c := start(t, Options{Join: []string{a.addr()}})
	await(t, "a third node", func() bool { return linked(a, b, c) })
}

// Whole nodes of other clusters do not get in.
func TestStrangersAtTheGossipPort(t *testing.T) {
	a := start(t, Options{})
	for _, tt := range []struct {
		name string
		o    Options
		why  reason
	}{
		{"another key", Options{Keys: ring(GenerateKey())}, gossipKey},
		{"another label", Options{Label: "other"}, gossipLabel},
		{"no encryption", Options{tune: func(c *memberlist.Config) { c.Keyring = nil }}, gossipPlaintext},
	} {
		tt.o.Join = []string{a.addr()}
		b := start(t, tt.o)
		await(t, tt.name, func() bool { return a.Status().Refused[string(tt.why)] > 0 })
		if !linked(a) || !linked(b) {
			t.Errorf("%s: joined", tt.name)
		}
		if err := b.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A stream that says nothing is given up, and does not hold the end of the node.
func TestSilentStream(t *testing.T) {
	t.Parallel()
	a := start(t, Options{})
	conn, err := net.Dial("tcp", a.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(labelled("cartd", nil)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if b, err := io.ReadAll(conn); len(b) != 0 || err != nil || time.Since(began) < proofTime-time.Second {
		t.Errorf("%d bytes, %v, after %v", len(b), err, time.Since(began))
	}
	if n := a.Status().Refused[string(gossipSilent)]; n != 1 {
		t.Errorf("%d refused", n)
	}
	if conn, err = net.Dial("tcp", a.addr()); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), proofTime/2)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// Whoever lacks the key gets nothing past the gate, and into no panic.
func FuzzGate(f *testing.F) {
	g, err := newGate(ring(testKey, GenerateKey()), "cartd")
	if err != nil {
		f.Fatal(err)
	}
	sealed := labelled("cartd", seal(GenerateKey(), []byte("ping"), []byte("cartd")))
	f.Add(sealed)
	f.Add(streamOf(GenerateKey(), "cartd", []byte("ping")))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if g.checkPacket(b) == nil {
			t.Error("a forged datagram")
		}
		if _, err := g.readStream(bytes.NewReader(b)); err == nil {
			t.Error("a forged stream")
		}
		if !bytes.Equal(b, before) {
			t.Error("changed")
		}
	})
}
