//go:build unix

package sqlite

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"cartd/cart"
	"cartd/crdt"
)

// baskets returns carts of five lines, and for each the change that leads there.
func baskets(tb testing.TB, n int) ([]*basket, []cart.Change) {
	tb.Helper()
	all, changes := make([]*basket, n), make([]cart.Change, n)
	for i := range all {
		b := newBasket()
		d := new(crdt.Delta)
		for line := range 5 {
			c := b.change(tb, func(e crdt.Event) *crdt.Delta {
				key := fmt.Sprintf("sku-%05d", line)
				d := e.Add(b.state, key, 1)
				e.WriteLine(d, key, "price", "1299", false)
				e.WriteLine(d, key, "title", "A title of 24 characters", false)
				return d
			})
			d = crdt.Merge(d, c.Delta)
		}
		all[i], changes[i] = b, cart.Change{ID: b.id, Delta: d, State: b.state}
	}
	return all, changes
}

// processor returns the processor time that the process has used, in user and kernel mode.
func processor(tb testing.TB) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkCommit commits adds to 10,000 carts of five lines, with everything that follows behind:
// snapshots, truncation and checkpoints. cpu-µs/add is the processor time of all of it.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := openWith(b, b.TempDir(), Options{})
			all, changes := baskets(b, 10000)
			for chunk := range slices.Chunk(changes, 100) {
				commit(b, s, chunk...)
			}
			if err := s.round(); err != nil {
				b.Fatal(err)
			}
			batches := make([][]cart.Change, b.N) // made before, in order not to measure the cart
			for i := range batches {
				for k := range size {
					o := all[(i*size+k)*7919%len(all)]
					batches[i] = append(batches[i], o.add(b, "sku-00003"))
				}
			}
			took := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			begin := processor(b)
			for _, changes := range batches {
				start := time.Now()
				commit(b, s, changes...)
				took = append(took, time.Since(start))
			}
			used := processor(b) - begin
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(used.Microseconds())/float64(b.N*size), "cpu-µs/add")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
		})
	}
}

// BenchmarkRound writes the snapshots of 10,000 carts that have one and truncates the journal.
func BenchmarkRound(b *testing.B) {
	s := open(b, b.TempDir())
	all, changes := baskets(b, 10000)
	commit(b, s, changes...)
	if err := s.round(); err != nil {
		b.Fatal(err)
	}
	var used time.Duration
	for b.Loop() {
		b.StopTimer()
		for i, o := range all {
			changes[i] = o.add(b, "sku-00003")
		}
		for chunk := range slices.Chunk(changes, 64) {
			commit(b, s, chunk...)
		}
		b.StartTimer()
		begin := processor(b)
		if err := s.round(); err != nil {
			b.Fatal(err)
		}
		used += processor(b) - begin
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N*len(all)), "cpu-µs/cart")
}

func BenchmarkLoad(b *testing.B) {
	s := open(b, b.TempDir())
	all, changes := baskets(b, 10000)
	commit(b, s, changes...)
	if err := s.round(); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := s.Load(b.Context(), all[i*7919%len(all)].id); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen opens a store of 1,000,000 carts after a crash, with a journal as long as it gets.
func BenchmarkOpen(b *testing.B) {
	const carts = 1_000_000
	dir := b.TempDir()
	s := openWith(b, dir, Options{SnapshotEvery: 24 * time.Hour, JournalBytes: 1 << 40})
	all, changes := baskets(b, 1000)
	for range carts / len(all) {
		for i := range changes {
			changes[i].ID = cart.NewID()
		}
		commit(b, s, changes...)
		if err := s.round(); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := s.checkpoint("TRUNCATE"); err != nil {
		b.Fatal(err)
	}
	all, changes = baskets(b, 10000)
	commit(b, s, changes...)
	if err := s.round(); err != nil {
		b.Fatal(err)
	}
	adds := 0
	for i := 0; s.Stats().JournalBytes < (Options{}).withDefaults().JournalBytes; i++ {
		var batch []cart.Change
		for k := range 64 {
			batch = append(batch, all[(i*64+k)*7919%len(all)].add(b, "sku-00003"))
		}
		commit(b, s, batch...)
		adds += len(batch)
	}
	abandon(b, s)
	for b.Loop() {
		s := open(b, dir)
		b.StopTimer()
		if got := s.Stats(); got.Pending != len(all) {
			b.Fatalf("got %+v", got)
		}
		abandon(b, s)
		b.StartTimer()
	}
	b.ReportMetric(float64(adds), "adds")
}

// abandon leaves the files of a store as a crash would.
func abandon(tb testing.TB, s *Store) {
	tb.Helper()
	err := s.fail("nothing", errors.New("it was abandoned"))
	if got := s.Close(); !errors.Is(got, err) {
		tb.Fatal(got)
	}
}
