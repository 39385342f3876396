package gossip

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// holder holds everything and keeps nothing.
type holder struct{ *words }

func (holder) Deliver(uint64, [16]byte, []byte) (held, lacks bool) { return true, false }

// BenchmarkLink measures deltas of 100 bytes that a peer on loopback acknowledges, so many of them under
// way at a time, and the CPU that both nodes take for one.
func BenchmarkLink(b *testing.B) {
	for _, window := range []int{1, 16, 256, 4096} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			from := start(b, Options{Carts: holder{newWords()}})
			to := start(b, Options{Carts: holder{newWords()}, Join: []string{from.addr()}})
			await(b, "a link", func() bool { return linked(from, to) })
			payload := make([]byte, 100)
			turns := make(chan struct{}, window)
			held := func(uint64) { <-turns }
			before := cpu()
			n := 0
			for b.Loop() {
				turns <- struct{}{}
				from.core.Replicate(cartID(n%1000), payload, held)
				n++
			}
			for range window { // until the last one is held
				turns <- struct{}{}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "deltas/s")
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(n), "cpu-ns/delta")
		})
	}
}

// cpu returns the CPU time that this process took.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
