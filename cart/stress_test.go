package cart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Many clients, few carts, a budget that holds less than all of them, a store that has no room now
// and then, and a janitor in a hurry. Every add that was acknowledged counts, and counts once.
// It runs in a bubble because waiting for room takes time there, but no time here.
func TestStress(t *testing.T) {
	const (
		workers = 16
		carts   = 6
		rounds  = 150
	)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		size := create(t, start(t, Options{Store: store}), addN("A", 1)).sizeOf()
		s := start(t, Options{Store: store, Memory: 3 * size})
		var clients []*client
		for range carts {
			clients = append(clients, create(t, s))
		}
		var commits atomic.Int64
		store.hookCommit(func(context.Context, []Change) error {
			if commits.Add(1)%40 == 0 {
				return ErrNoRoom
			}
			return nil
		})

		// until repeats a call, as a client would, until it is answered.
		until := func(call func() error) {
			for {
				err := call()
				if err == nil {
					return
				}
				again := slices.ContainsFunc(
					[]error{&Error{Reason: NotDurable}, &Error{Reason: ServiceOverCapacity}, context.DeadlineExceeded},
					func(target error) bool { return errors.Is(err, target) })
				if !again {
					t.Errorf("refused: %v", err)
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		var acknowledged [carts]atomic.Int64
		var last [workers][carts]int64
		var working sync.WaitGroup
		for w := range workers {
			working.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(w)))
				var seen [carts]*Context
				mine := fmt.Sprint("W", w)
				var own [carts]int64 // adds that this worker was told of
				for i := range rounds {
					n := random.IntN(carts)
					c := clients[n]
					switch action := random.IntN(10); {
					case action < 5:
						key, ctx := fmt.Sprintf("%d-%d", w, i), t.Context()
						until(func() error {
							ctx, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(400))*time.Millisecond)
							defer cancel()
							r, err := c.tryContext(ctx, Request{Key: key, Context: seen[n], Steps: stepsOf([]Command{addN("A", 1)})})
							if err == nil {
								seen[n] = c.contextOf(r.State)
							}
							return err
						})
						own[n]++
						acknowledged[n].Add(1)
					case action < 6:
						q := random.Int64N(50) + 1
						until(func() error {
							_, err := c.try(Request{Steps: stepsOf([]Command{setN(mine, q)})})
							return err
						})
						last[w][n] = q
					case action < 9:
						until(func() error {
							state, err := c.s.Read(t.Context(), c.id, c.access(), seen[n])
							if err == nil {
								if got := quantityOf(state, "A"); got < own[n] {
									t.Errorf("a read shows %d units to who was told of %d", got, own[n])
								}
								if got := quantityOf(state, mine); got != last[w][n] {
									t.Errorf("a read shows %d units to who set %d", got, last[w][n])
								}
							}
							return err
						})
					default:
						s.tick.Add(idleTicks)
						s.packIdle(0, shards)
						s.makeRoom()
					}
				}
			})
		}
		working.Wait()
		store.hookCommit(nil)
		time.Sleep(2 * retryNoRoom)
		synctest.Wait()
		checkMemory(t, s)
		if s.Stats().Evicted == 0 {
			t.Error("nothing was evicted")
		}
		again := start(t, Options{Store: store})
		for n, c := range clients {
			for _, c := range []*client{c, c.at(again)} {
				state := c.read()
				if got, want := quantityOf(state, "A"), acknowledged[n].Load(); got != want {
					t.Errorf("the cart %d has %d units, %d adds were acknowledged", n, got, want)
				}
				for w := range workers {
					if got := quantityOf(state, fmt.Sprint("W", w)); got != last[w][n] {
						t.Errorf("the cart %d has %d units of worker %d, which set %d", n, got, w, last[w][n])
					}
				}
			}
		}
	})
}
