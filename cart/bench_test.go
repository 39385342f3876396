package cart

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"cartd/crdt"
)

// nullStore takes everything at once and has nothing.
type nullStore struct{}

func (nullStore) Load(context.Context, ID) (*State, error)           { return nil, ErrNotFound }
func (nullStore) Commit(context.Context, []Change) error             { return nil }
func (nullStore) Purge(context.Context, crdt.Timestamp) (int, error) { return 0, nil }
func (nullStore) Close() error                                       { return nil }

// fiveLines are the steps that fill a cart with five lines, with prices and titles of 24 bytes, each
// under a key of its own. The text of cart i is its own, as if it came from a request.
func fiveLines(i int) []Step {
	var steps []Step
	for k := range 5 {
		title := fmt.Sprintf("The title of product %03d", k)
		steps = append(steps, Step{Key: fmt.Sprint(i, k), Command: Add{bySKU(fmt.Sprintf("SKU-%04d", k)), 2, Details{
			UnitPrice: &Money{int64(1000 + i%100), "EUR"}, Title: &title,
		}}})
	}
	return steps
}

// fill returns n carts of five lines in a Service.
func fill(b testing.TB, n int) []*client {
	s := start(b, Options{Store: nullStore{}, Memory: 1 << 40})
	clients := make([]*client, n)
	for i := range clients {
		id, token, _, err := s.Create(b.Context(), "EUR", fiveLines(i), Default)
		if err != nil {
			b.Fatal(err)
		}
		clients[i] = &client{b, s, id, token}
	}
	return clients
}

// BenchmarkAdd is an add to a line of a cart in memory, durable at once; each cart is written in
// turn. Alone, an add waits for the committer; among others it shares a commit.
func BenchmarkAdd(b *testing.B) {
	const carts = 10_000
	add := func(b *testing.B, c *client, i int) {
		q := Request{Cart: c.id, Access: c.access(), Steps: []Step{{Command: addN("SKU-0002", 1)}}}
		if i/carts%50 == 49 { // entries do not pile up for ever
			q.Steps[0].Command = setN("SKU-0002", 1)
		}
		if _, err := c.s.Execute(b.Context(), &q); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("alone", func(b *testing.B) {
		clients := fill(b, carts)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			add(b, clients[i%carts], i)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		clients := fill(b, carts)
		var next atomic.Int64
		b.SetParallelism(16)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				i := int(next.Add(1))
				add(b, clients[i%carts], i)
			}
		})
	})
}

// BenchmarkRead is a read of a cart in memory under its token.
func BenchmarkRead(b *testing.B) {
	const carts = 10_000
	clients := fill(b, carts)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := clients[i%carts]
		if _, err := c.s.Read(b.Context(), c.id, c.access(), nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkView is the view of a five-line cart, and its context.
func BenchmarkView(b *testing.B) {
	clients := fill(b, 1)
	state := clients[0].read()
	var v View
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v.Read(clients[0].id, state, DefaultLimits)
		}
	})
	b.Run("context", func(b *testing.B) {
		text := make([]byte, 0, 128)
		b.ReportAllocs()
		for b.Loop() {
			text = v.AppendContext(text[:0])
		}
	})
	b.Run("parse context", func(b *testing.B) {
		text := string(v.AppendContext(nil))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseContext(v.ID, text); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// heapInUse returns the bytes of live objects.
func heapInUse() int64 {
	var m runtime.MemStats
	for range 3 { // what was unreachable, what that kept, and what pools kept
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// measured is what a cart takes, in bytes, and what the Service believes.
type measured struct{ real, estimate float64 }

// measureCarts measures n carts that were made by requests: as those left them, packed, and in use
// again.
func measureCarts(t testing.TB, n int, requests func(i int) []Request) (written, packed, unpacked measured) {
	s := start(t, Options{Store: nullStore{}, Memory: 1 << 40})
	clients := make([]client, n)
	empty := heapInUse()
	measure := func() measured {
		return measured{float64(heapInUse()-empty) / float64(n), float64(s.Stats().Memory) / float64(n)}
	}
	for i := range clients {
		id, token, _, err := s.Create(t.Context(), "EUR", nil, Default)
		if err != nil {
			t.Fatal(err)
		}
		clients[i] = client{t, s, id, token}
		for _, q := range requests(i) {
			clients[i].request(q)
		}
	}
	written = measure()
	s.tick.Add(idleTicks)
	s.packIdle(0, shards)
	packed = measure()
	for i := range clients {
		clients[i].read()
	}
	unpacked = measure()
	runtime.KeepAlive(clients)
	return written, packed, unpacked
}

// BenchmarkResidentMemory measures what a five-line cart takes in memory: as its commands left it,
// packed, and in use again. The estimate is what the Service accounts for.
func BenchmarkResidentMemory(b *testing.B) {
	const carts = 20_000
	for _, state := range []string{"written", "packed", "unpacked"} {
		b.Run(state, func(b *testing.B) {
			for b.Loop() {
				written, packed, unpacked := measureCarts(b, carts, func(i int) []Request { return []Request{{Steps: fiveLines(i)}} })
				m := map[string]measured{"written": written, "packed": packed, "unpacked": unpacked}[state]
				b.ReportMetric(m.real, "B/cart")
				b.ReportMetric(m.estimate, "estimated-B/cart")
			}
		})
	}
}
