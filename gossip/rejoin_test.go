package gossip

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func testRejoin(seeds ...string) *Rejoin {
	return NewRejoin("10.0.0.1:7946", seeds, rand.New(rand.NewPCG(1, 2)))
}

var day = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func TestRejoinSeeds(t *testing.T) {
	r := testRejoin("10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946", "cartd.example:7946")
	if got, want := r.Due(day), []string{"10.0.0.2:7946", "10.0.0.3:7946", "cartd.example:7946"}; !slices.Equal(got, want) {
		t.Errorf("at first %v", got)
	}
	r.Alive("10.0.0.2:7946")
	if got := r.Due(day.Add(time.Millisecond)); got != nil {
		t.Errorf("at once %v", got)
	}
	if got, want := r.Due(day.Add(time.Minute)), []string{"10.0.0.3:7946", "cartd.example:7946"}; !slices.Equal(got, want) {
		t.Errorf("one alive: %v", got)
	}
	r.Lost("10.0.0.2:7946", day.Add(time.Hour))
	if got, want := r.Due(day.Add(time.Hour)), []string{"10.0.0.2:7946", "10.0.0.3:7946", "cartd.example:7946"}; !slices.Equal(got, want) {
		t.Errorf("lost again: %v", got)
	}
}

// rounds returns the times at which something is due.
func rounds(r *Rejoin, from time.Time, d time.Duration) (at []time.Duration) {
	for after := time.Duration(0); after < d; after += 10 * time.Millisecond {
		if r.Due(from.Add(after)) != nil {
			at = append(at, after)
		}
	}
	return at
}

func TestRejoinRounds(t *testing.T) {
	r := testRejoin("10.0.0.2:7946")
	at := rounds(r, day, time.Minute)
	if len(at) < 6 || at[1] > 1200*time.Millisecond || at[2]-at[1] > 2300*time.Millisecond {
		t.Errorf("alone: %v", at)
	}
	r.Alive("10.0.0.3:7946")
	at = rounds(r, day.Add(time.Hour), 10*time.Minute)
	apart := make(map[time.Duration]bool)
	for i := 1; i < len(at); i++ {
		d := at[i] - at[i-1]
		if apart[d] = true; d < 13*time.Second || d > 17*time.Second {
			t.Errorf("%v between two rounds", d)
		}
	}
	if len(at) < 36 || len(apart) < 10 {
		t.Errorf("%d rounds in 10 minutes, %d distances", len(at), len(apart))
	}
}

func TestRejoinForgetsAfterADay(t *testing.T) {
	r := testRejoin()
	r.Alive("10.0.0.2:7946")
	r.Lost("10.0.0.2:7946", day)
	if got := r.Due(day.Add(lostFor - time.Second)); !slices.Equal(got, []string{"10.0.0.2:7946"}) {
		t.Errorf("within a day: %v", got)
	}
	if got := r.Due(day.Add(lostFor + time.Minute)); got != nil {
		t.Errorf("after a day: %v", got)
	}
}

func TestRejoinIsBounded(t *testing.T) {
	r := testRejoin()
	for i := range 3 * maxLost {
		addr := fmt.Sprintf("10.0.1.%d:7946", i)
		r.Alive(addr)
		r.Lost(addr, day.Add(time.Duration(i)*time.Second))
	}
	got := r.Due(day.Add(time.Hour))
	if len(got) != maxLost || got[0] != "10.0.1.191:7946" || got[maxLost-1] != "10.0.1.128:7946" {
		t.Errorf("%d: %v", len(got), got)
	}
}

// Seeds that are named count until others are named; one who is alone is eager for a new one.
func TestRejoinNamedSeeds(t *testing.T) {
	r := testRejoin("10.0.0.2:7946")
	r.Due(day)
	rounds(r, day, time.Minute)
	r.Name([]string{"10.0.0.2:7946", "10.0.0.3:7946"})
	now := day.Add(time.Minute)
	if got, want := r.Due(now), []string{"10.0.0.2:7946", "10.0.0.3:7946"}; !slices.Equal(got, want) {
		t.Errorf("at once %v", got)
	}
	r.Name([]string{"10.0.0.3:7946"})
	if got := r.Due(now); got != nil {
		t.Errorf("again %v", got)
	}
	r.Alive("10.0.0.2:7946")
	r.Alive("10.0.0.3:7946")
	r.Lost("10.0.0.3:7946", now)
	r.Name([]string{"10.0.0.3:7946", "10.0.0.4:7946"})
	if got := r.Due(now); got != nil {
		t.Errorf("not alone, and before its turn: %v", got)
	}
	if got, want := r.Due(now.Add(time.Minute)), []string{"10.0.0.3:7946", "10.0.0.4:7946"}; !slices.Equal(got, want) {
		t.Errorf("missing: %v", got)
	}
	r.Name(nil)
	if got, want := r.Due(now.Add(time.Hour)), []string{"10.0.0.3:7946"}; !slices.Equal(got, want) { // it was lost
		t.Errorf("none is named: %v", got)
	}
}

// A process that comes back at its address is met before the former one is found dead.
func TestRejoinReplacement(t *testing.T) {
	r := testRejoin()
	r.Alive("10.0.0.2:7946")
	r.Alive("10.0.0.2:7946")
	r.Lost("10.0.0.2:7946", day)
	if r.Missing("10.0.0.2:7946") || r.Due(day) != nil {
		t.Error("missing while one is there")
	}
	r.Lost("10.0.0.2:7946", day)
	if !r.Missing("10.0.0.2:7946") {
		t.Error("not missing")
	}
	if got := r.Due(day.Add(time.Minute)); !slices.Equal(got, []string{"10.0.0.2:7946"}) {
		t.Errorf("%v", got)
	}
	r.Alive("10.0.0.2:7946")
	r.Left("10.0.0.2:7946")
	if !r.Missing("10.0.0.2:7946") || r.Due(day.Add(time.Hour)) != nil {
		t.Error("calls one that has left")
	}
	if r.Missing("10.0.0.1:7946") {
		t.Error("misses itself")
	}
}
