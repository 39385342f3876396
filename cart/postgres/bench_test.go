//go:build unix

package postgres

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// serverProcessor returns the processor time that the server's processes have used, in user and
// kernel mode, where it is on this machine and there is a /proc.
func serverProcessor(tb testing.TB, s *Store) (used time.Duration, known bool) {
	rows, err := s.readers.Query(background, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		tb.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		tb.Fatal(err)
	}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // one that has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, field := range fields[11:13] { // utime and stime, in hundredths of a second
			n, err := strconv.Atoi(field)
			if err != nil {
				tb.Fatal(err)
			}
			used, known = used+time.Duration(n)*10*time.Millisecond, true
		}
	}
	return used, known
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

// BenchmarkFlush commits whole states of carts of five lines, of 20,000, each of which has changed
// since it was committed. cpu-µs/row is the processor time of this process, server-µs/row that of the
// server; "stranger" forgets what was remembered of the rows, so that each is read, and "new" commits
// carts that are in no row.
func BenchmarkFlush(b *testing.B) {
	s := open(b, pgtest.New(b), Options{StatementTimeout: 10 * time.Second})
	all := baskets(b, s, 20000)
	for _, size := range []int{250, 1000, 4000} {
		for _, who := range []string{"author", "stranger", "new"} {
			b.Run(fmt.Sprint(size, "/", who), func(b *testing.B) {
				var used, took time.Duration
				next := 0
				server, known := serverProcessor(b, s)
				b.ResetTimer()
				for range b.N {
					b.StopTimer()
					changes := make([]cart.Change, size)
					for i := range changes {
						o := all[next%len(all)]
						next++
						changes[i] = o.add(b, "sku-00003")
						changes[i].Delta = nil
						if who == "new" {
							changes[i].ID = cart.NewID()
						}
					}
					if who == "stranger" {
						s.known = memory{}
					}
					b.StartTimer()
					start, begin := time.Now(), processor(b)
					commit(b, s, changes...)
					took, used = took+time.Since(start), used+processor(b)-begin
				}
				b.StopTimer()
				rows := float64(b.N * size)
				b.ReportMetric(rows/took.Seconds(), "rows/s")
				b.ReportMetric(float64(used.Microseconds())/rows, "cpu-µs/row")
				if known {
					after, _ := serverProcessor(b, s)
					b.ReportMetric(float64((after-server).Microseconds())/rows, "server-µs/row")
				}
			})
		}
	}
}

// BenchmarkVersions lists the versions of 20,000 carts.
func BenchmarkVersions(b *testing.B) {
	s := open(b, pgtest.New(b), Options{})
	baskets(b, s, 20000)
	n := 0
	for b.Loop() {
		var after cart.ID
		for {
			page, err := s.Versions(b.Context(), after, cart.LastID, 4096)
			if err != nil {
				b.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			n += len(page)
			after = page[len(page)-1].ID
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "carts/s")
}

// BenchmarkSeeding starts a Service on 100,000 carts, of which it indexes all, or those of slots strewn among the
// others' as where nodes share them.
func BenchmarkSeeding(b *testing.B) {
	s := open(b, pgtest.New(b), Options{})
	baskets(b, s, 100_000)
	for _, part := range []uint64{1, 2, 8} {
		b.Run(fmt.Sprintf("1 of %d", part), func(b *testing.B) {
			var own [64]uint64
			random := rand.New(rand.NewPCG(1, part))
			for i := range 4096 {
				if random.Uint64N(part) == 0 {
					own[i/64] |= 1 << (i % 64)
				}
			}
			for b.Loop() {
				service := cart.New(cart.Options{Store: lasting{s}, Shared: true, Replicator: alone{}, Placed: true})
				service.Keep(own, [64]uint64{})
				for again := time.Tick(100 * time.Microsecond); !service.Indexed(); {
					<-again
				}
				if err := service.Close(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// lasting is a store that stays open when a Service on it is closed.
type lasting struct{ *Store }

func (lasting) Close() error { return nil }

// alone is a Replicator without peers.
type alone struct{ cart.Replicator }

func (alone) Peers() int { return 0 }

func BenchmarkLoad(b *testing.B) {
	s := open(b, pgtest.New(b), Options{})
	all := baskets(b, s, 10000)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Load(b.Context(), all[i*7919%len(all)].id); err != nil {
			b.Fatal(err)
		}
	}
}
