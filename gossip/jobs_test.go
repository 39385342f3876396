package gossip

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		j := newJobs(ctx)
		var mu sync.Mutex
		ran := make(map[uint64][]int)
		began := time.Now()
		for i := range 10 {
			for peer := range uint64(3) {
				j.spawn(peer, func(context.Context) {
					if peer == 0 {
						time.Sleep(time.Second) // as a look into the database may take
					}
					mu.Lock()
					defer mu.Unlock()
					ran[peer] = append(ran[peer], i)
				})
			}
		}
		synctest.Wait()
		mu.Lock()
		if len(ran) > 0 {
			t.Errorf("%v before the start", ran)
		}
		mu.Unlock()
		j.start()
		synctest.Wait()
		mu.Lock()
		for peer := range uint64(2) {
			if got := ran[peer+1]; !slices.Equal(got, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
				t.Errorf("peer %d: %v while another one's job blocks", peer+1, got)
			}
		}
		mu.Unlock()
		time.Sleep(4500 * time.Millisecond)
		j.spawn(7, func(ctx context.Context) { <-ctx.Done() })
		cancel()
		j.wait()
		if after := time.Since(began); len(ran[0]) != 5 || after != 5*time.Second {
			t.Errorf("%v ran and %v passed", ran[0], after)
		}
		j.spawn(1, func(context.Context) { t.Error("a job ran after the end") })
		synctest.Wait()
	})
}
