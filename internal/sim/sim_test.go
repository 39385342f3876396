package sim

import (
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// number returns the value of an environment variable that is a number.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text, found := os.LookupEnv(name)
	if !found {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSimulation runs SEEDS seeds from FIRST on, until FAILURES of them have failed, or just SEED.
func TestSimulation(t *testing.T) {
	first, seeds, most := number(t, "FIRST", 1), number(t, "SEEDS", 200), number(t, "FAILURES", 3)
	if testing.Short() {
		seeds = min(seeds, 20)
	}
	var out io.Writer
	if seed := number(t, "SEED", 0); seed > 0 {
		first, seeds = seed, 1
		if testing.Verbose() {
			out = os.Stdout
		}
	}
	sum := counts{}
	var slowest time.Duration
	began := time.Now()
	failed := uint64(0)
	for seed := first; seed < first+seeds && failed < most; seed++ {
		w := newWorld(t, seed, out)
		failure := w.run()
		sum.add(w.count)
		slowest = max(slowest, w.slowest)
		if failure == "" {
			continue
		}
		failed++
		if out == nil {
			t.Log("the end of the trace:\n" + w.log.String())
		}
		t.Errorf("seed %d: %s\nreplay: SEED=%d go test ./internal/sim -run TestSimulation -count=1 -v", seed, failure, seed)
	}
	t.Logf("%d seeds in %v, replicas equal after %v at most: %v", seeds, time.Since(began).Round(time.Millisecond), slowest, sum)
	if seeds >= 100 && failed == 0 && number(t, "REGIONS", 0) == 0 {
		sum.wantAll(t)
	}
}

// TestOneSeedOneTrace runs seeds twice.
func TestOneSeedOneTrace(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		var traces [2]uint64
		for i := range traces {
			w := newWorld(t, seed, nil)
			w.run()
			w.trace("%d steps, %d", w.steps, w.rand.Uint64())
			traces[i] = w.log.hash.Sum64()
		}
		if traces[0] != traces[1] {
			t.Errorf("seed %d has two traces", seed)
		}
	}
}
