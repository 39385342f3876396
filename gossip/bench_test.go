package gossip

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"
)

// noCarts hold everything and keep nothing.
type noCarts struct{ Carts }

func (noCarts) Deliver(uint64, [16]byte, []byte) (held, lacks bool) { return true, false }
func (noCarts) Seeded() (none [Slots / 64]uint64)                   { return none }
func (noCarts) Keep(_, _ [Slots / 64]uint64)                        {}

func benchCore(b *testing.B, self, peers int) *Core {
	c := NewCore(CoreOptions{
		Self: memberOf(uint64(self)), Carts: noCarts{}, Replicas: 3, Tolerate: 1, Logger: slog.New(slog.DiscardHandler),
		Now: time.Now, Rand: rand.New(rand.NewPCG(1, 1)),
		Spawn: func(uint64, func(context.Context)) {}, Wake: func(uint64) {},
	})
	for start := 1; start <= peers+1; start++ {
		if start == self {
			continue
		}
		if err := c.Up(memberOf(uint64(start)), MaxWire); err != nil {
			b.Fatal(err)
		}
	}
	return c
}

// What it costs to find the owners of all slots among 24 nodes, when one of them comes or goes.
func BenchmarkPlacement(b *testing.B) {
	for _, zones := range []int{0, 3} {
		b.Run(map[int]string{0: "no zones", 3: "3 zones"}[zones], func(b *testing.B) {
			at := placement{sites: someSites(24, zones)}
			b.ReportAllocs()
			for b.Loop() {
				at.choose(3)
			}
		})
	}
	b.Run("up and down", func(b *testing.B) {
		c := benchCore(b, 1, 23)
		b.ReportAllocs()
		for b.Loop() {
			c.Down(24, nil)
			if err := c.Up(memberOf(24), MaxWire); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a delta of 41 bytes costs its author for each of two peers, acknowledgements included.
func BenchmarkSend(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(map[int]string{1: "alone", 32: "in frames of 32"}[batch], func(b *testing.B) {
			c := benchCore(b, 1, 2)
			payload := make([]byte, 41)
			said := 0
			held := func(uint64) { said++ }
			var frame, ack []byte
			var seq uint64
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				c.Replicate(cartID(n), payload, held)
				if n%batch != batch-1 {
					continue
				}
				seq++
				ack = appendHeader(ack[:0], &header{ack: seq})
				for peer := range uint64(2) {
					frame, _ = c.Next(peer+2, frame[:0])
					if err := c.Receive(peer+2, ack); err != nil {
						b.Fatal(err)
					}
				}
			}
			if said < 2*(b.N-batch) {
				b.Fatalf("%d of %d are held", said, 2*b.N)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/delta/peer")
		})
	}
}

// What a delta of 41 bytes costs the peer that takes it, the acknowledgement included.
func BenchmarkReceive(b *testing.B) {
	for _, batch := range []int{1, 32} {
		b.Run(map[int]string{1: "alone", 32: "in frames of 32"}[batch], func(b *testing.B) {
			c := benchCore(b, 2, 1)
			items := make([]item, batch)
			for i := range items {
				items[i] = item{kind: kindDelta, id: cartID(i), body: make([]byte, 41)}
			}
			body := encodeFrame(header{}, items)[len(appendHeader(nil, &header{})):]
			var frame, ack []byte
			var seq uint64
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if n%batch != 0 {
					continue
				}
				seq++
				frame = append(appendHeader(frame[:0], &header{seq: seq, acked: seq}), body...)
				if err := c.Receive(1, frame); err != nil {
					b.Fatal(err)
				}
				ack, _ = c.Next(1, ack[:0])
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/delta")
		})
	}
}
