package main

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	readyEvery   = 100 * time.Millisecond
	readyTimeout = time.Second // of one question
)

// readiness knows which targets are ready, as a load balancer does: by asking each of them for /readyz, ten
// times a second.
type readiness struct {
	client  *http.Client
	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	ready   map[string]bool
	changed chan struct{} // closed when ready changes
}

// followReadiness asks until close. It returns when each target has been asked once.
func followReadiness(ctx context.Context, transport http.RoundTripper, targets []string) *readiness {
	r := &readiness{
		client:  &http.Client{Transport: transport, Timeout: readyTimeout},
		ready:   make(map[string]bool),
		changed: make(chan struct{}),
	}
	ctx, r.stop = context.WithCancel(ctx)
	var first sync.WaitGroup
	for _, target := range targets {
		first.Add(1)
		r.running.Go(func() {
			r.ask(ctx, target)
			first.Done()
			for sleep(ctx, readyEvery) == nil {
				r.ask(ctx, target)
			}
		})
	}
	first.Wait()
	return r
}

func (r *readiness) close() {
	r.stop()
	r.running.Wait()
}

func (r *readiness) ask(ctx context.Context, target string) {
	ready := false
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target+"/readyz", nil)
	if err == nil {
		if resp, err := r.client.Do(req); err == nil {
			ready = resp.StatusCode == http.StatusOK
			resp.Body.Close()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready[target] != ready {
		r.ready[target] = ready
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// among returns those of the targets that are ready. It waits until one is, for so long at most; then it
// returns all of them.
func (r *readiness) among(ctx context.Context, targets []string, patience time.Duration) []string {
	over := time.After(patience)
	for {
		r.mu.Lock()
		changed := r.changed
		ready := slices.DeleteFunc(slices.Clone(targets), func(target string) bool { return !r.ready[target] })
		r.mu.Unlock()
		if len(ready) > 0 {
			return ready
		}
		select {
		case <-changed:
		case <-over:
			return targets
		case <-ctx.Done():
			return targets
		}
	}
}
