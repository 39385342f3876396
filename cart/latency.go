package cart

import (
	"slices"
	"sync/atomic"
	"time"
)

// latencyBounds are the upper bounds of the classes that latencies are counted in. What is longer is in none.
var latencyBounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
	50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// Latencies is a histogram.
type Latencies struct {
	Count   int64
	Sum     time.Duration
	Classes []LatencyClass // in ascending order
}

// LatencyClass tells how many of the latencies were so long or shorter.
type LatencyClass struct {
	UpTo  time.Duration
	Count int64
}

// latencies counts latencies.
type latencies struct {
	classes [len(latencyBounds) + 1]atomic.Int64
	sum     atomic.Int64
}

func (l *latencies) observe(d time.Duration) {
	class, _ := slices.BinarySearch(latencyBounds[:], d)
	l.classes[class].Add(1)
	l.sum.Add(int64(d))
}

func (l *latencies) read() Latencies {
	z := Latencies{Sum: time.Duration(l.sum.Load())}
	for i := range l.classes {
		z.Count += l.classes[i].Load()
		if i < len(latencyBounds) {
			z.Classes = append(z.Classes, LatencyClass{latencyBounds[i], z.Count})
		}
	}
	return z
}
