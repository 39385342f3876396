package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lockedCarts are eventCarts that may be used from many goroutines.
type lockedCarts struct {
	mu    sync.Mutex
	inner eventCarts
}

func (c *lockedCarts) Deliver(from uint64, id [16]byte, payload []byte) (held, lacks bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Deliver(from, id, payload)
}

func (c *lockedCarts) Mark(from uint64, id [16]byte, mark []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inner.Mark(from, id, mark)
}

func (c *lockedCarts) Recall(id [16]byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Recall(id)
}

func (*lockedCarts) Keep(_, _ [Slots / 64]uint64) {}

func (*lockedCarts) Seeded() [Slots / 64]uint64 { return allSlots }

func (c *lockedCarts) Digests() *[Slots]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Digests()
}

func (c *lockedCarts) EachVersion(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inner.EachVersion(from, yield)
}

func (c *lockedCarts) EachUnsaved(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	c.EachVersion(from, yield)
}

func (c *lockedCarts) Unsaved(ctx context.Context, id [16]byte) ([][]byte, error) {
	payload, _, err := c.State(ctx, id)
	return [][]byte{payload}, err
}

func (c *lockedCarts) Vector(ctx context.Context, id [16]byte) ([]byte, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Vector(ctx, id)
}

func (c *lockedCarts) Compare(ctx context.Context, id [16]byte, vector []byte) (ahead, behind bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Compare(ctx, id, vector)
}

func (c *lockedCarts) Arrive(region string, durable bool, id [16]byte, payload []byte) (held, lacks bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inner.Arrive(region, durable, id, payload)
}

func (c *lockedCarts) Durable(ctx context.Context, id [16]byte) ([]byte, error) {
	payload, _, err := c.State(ctx, id)
	return payload, err
}

func (c *lockedCarts) State(_ context.Context, id [16]byte) ([]byte, func(uint64), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.inner.carts[id]
	return append(v.encode(), padding...), func(uint64) {}, nil
}

func (c *lockedCarts) Lost(uint64) {}

// machine runs a Core with goroutines, as Node does.
type machine struct {
	*Core
	start uint64
	carts *lockedCarts
	jobs  map[uint64]chan func(context.Context)
	wake  map[uint64]chan struct{}
	in    map[uint64]chan []byte
}

// All methods from many goroutines at once, with links that come and go: for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, changes = 3, 300
		ctx, stop := context.WithCancel(t.Context())
		var all, writers sync.WaitGroup
		var machines [nodes + 1]*machine
		var held atomic.Int64
		for start := uint64(1); start <= nodes; start++ {
			machines[start] = newMachine(start, nodes)
		}
		for _, m := range machines[1:] {
			for start := range uint64(nodes + 1) {
				all.Go(func() { m.runJobs(ctx, start) })
				if start != 0 && start != m.start {
					all.Go(func() { m.runWriter(ctx, machines[start]) })
					all.Go(func() { m.runReader(ctx, start) })
				}
			}
			all.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(5 * time.Millisecond)
					for _, stale := range m.Tick() {
						reconnect(t, m, machines[stale])
					}
					m.Status()
				}
			})
			for range 2 {
				writers.Go(func() {
					for n := range changes {
						m.change(cartID(n%20), &held)
						m.Mark(cartID(n%20), []byte("mark"))
						m.Fetch(cartID(n%20), false, func([][]byte, bool) {})
						if n%10 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
		}
		for a := range uint64(nodes + 1) {
			for b := range a {
				if b > 0 {
					reconnect(t, machines[a], machines[b])
				}
			}
		}
		writers.Go(func() { // a link that comes and goes; what is under way on it is lost
			for range 10 {
				time.Sleep(3 * time.Millisecond)
				reconnect(t, machines[1], machines[2])
			}
		})
		writers.Wait()
		time.Sleep(10 * time.Second)
		stop()
		all.Wait()
		for _, m := range machines[2:] {
			if !bytes.Equal(m.carts.everything(), machines[1].carts.everything()) {
				t.Errorf("%d and 1 differ", m.start)
			}
		}
		if n := held.Load(); n == 0 || n > nodes*2*changes*(nodes-1) {
			t.Errorf("%d deltas are said to be held", n)
		}
	})
}

func newMachine(start uint64, nodes int) *machine {
	m := &machine{
		start: start, carts: &lockedCarts{}, jobs: map[uint64]chan func(context.Context){},
		wake: map[uint64]chan struct{}{}, in: map[uint64]chan []byte{},
	}
	m.carts.inner.carts = map[[16]byte]vector{}
	for peer := range uint64(nodes + 1) {
		m.jobs[peer] = make(chan func(context.Context), 100_000)
		m.wake[peer] = make(chan struct{}, 1)
		m.in[peer] = make(chan []byte, 1000)
	}
	m.Core = NewCore(CoreOptions{
		Self: memberOf(start), Carts: m.carts, Replicas: 3, Tolerate: 1, Logger: slog.New(slog.DiscardHandler),
		Now: time.Now, Rand: rand.New(rand.NewPCG(1, start)),
		Spawn: func(peer uint64, job func(context.Context)) { m.jobs[peer] <- job },
		Wake: func(peer uint64) {
			select {
			case m.wake[peer] <- struct{}{}:
			default:
			}
		},
	})
	return m
}

var reconnecting sync.Mutex

func reconnect(t *testing.T, a, b *machine) {
	reconnecting.Lock()
	defer reconnecting.Unlock()
	a.Down(b.start, nil)
	b.Down(a.start, nil)
	a.drain(b.start)
	b.drain(a.start)
	for _, pair := range [][2]*machine{{a, b}, {b, a}} {
		if err := pair[0].Up(memberOf(pair[1].start), MaxWire); err != nil {
			t.Error(err)
		}
	}
}

func (m *machine) change(id [16]byte, held *atomic.Int64) {
	m.carts.mu.Lock()
	defer m.carts.mu.Unlock() // changes of a cart are replicated in their order
	v := m.carts.inner.carts[id]
	v[m.start]++
	m.carts.inner.put(id, v)
	m.Replicate(id, eventDelta(m.start, v[m.start]), func(uint64) { held.Add(1) })
}

func (m *machine) runJobs(ctx context.Context, peer uint64) {
	for {
		select {
		case job := <-m.jobs[peer]:
			job(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (m *machine) runWriter(ctx context.Context, to *machine) {
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-m.wake[to.start]:
		case <-again.C:
		case <-ctx.Done():
			return
		}
		for {
			frame, wait := m.Next(to.start, nil)
			if wait > 0 {
				again.Reset(wait)
			}
			if len(frame) == 0 {
				break
			}
			select {
			case to.in[m.start] <- frame:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (m *machine) runReader(ctx context.Context, from uint64) {
	for {
		select {
		case frame := <-m.in[from]:
			_ = m.Receive(from, frame) // one of a former link may come late: an error, or soon a stale link
		case <-ctx.Done():
			return
		}
	}
}

func (m *machine) drain(from uint64) {
	for {
		select {
		case <-m.in[from]:
		default:
			return
		}
	}
}

func (c *lockedCarts) everything() (b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for slot := range Slots {
		for _, id := range c.inner.slots[slot] {
			b = append(b, id[:]...)
			b = append(b, c.inner.carts[id].encode()...)
		}
	}
	return b
}
