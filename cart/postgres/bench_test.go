//go:build unix

package postgres

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"cartd/cart"
	"cartd/crdt"
	"cartd/internal/pgtest"
)

// processor returns the processor time that this process has used, in user and kernel mode. The
// server's is not in it.
func processor(tb testing.TB) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// baskets returns carts of five lines, which are in the database.
func baskets(tb testing.TB, s *Store, n int) []*basket {
	all, changes := make([]*basket, n), make([]cart.Change, n)
	for i := range all {
		b := newBasket()
		for line := range 5 {
			changes[i] = b.change(tb, func(e crdt.Event) *crdt.Delta {
				key := fmt.Sprintf("sku-%05d", line)
				d := e.Add(b.state, key, 1)
				e.WriteLine(d, key, "price", "1299", false)
				e.WriteLine(d, key, "title", "A title of 24 characters", false)
				return d
			})
		}
		all[i] = b
	}
	commit(tb, s, changes...)
	return all
}

// BenchmarkCommit commits adds to 10,000 carts of five lines. cpu-µs/add is the processor time of
// this process; "stranger" forgets what was remembered of the rows, so that each is read.
func BenchmarkCommit(b *testing.B) {
	s := open(b, pgtest.New(b), Options{})
	all := baskets(b, s, 10000)
	for _, size := range []int{1, 8, 64} {
		for _, who := range []string{"author", "stranger"} {
			b.Run(fmt.Sprint(size, "/", who), func(b *testing.B) {
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
					if who == "stranger" {
						s.known = memory{}
					}
					start := time.Now()
					commit(b, s, changes...)
					took = append(took, time.Since(start))
				}
				used := processor(b) - begin
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(used.Microseconds())/float64(b.N*size), "cpu-µs/add")
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			})
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	s := open(b, pgtest.New(b), Options{})
	all := baskets(b, s, 10000)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Load(b.Context(), all[i*7919%len(all)].id); err != nil {
			b.Fatal(err)
		}
	}
}
