package workload

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// pollInterval is how often a node is asked whether it is ready.
	pollInterval = 100 * time.Millisecond
	// pollTimeout is how long its answer is awaited; without one it is not ready.
	pollTimeout = 500 * time.Millisecond
)

// readiness is which nodes were ready at the last poll.
type readiness struct{ nodes []atomic.Bool }

// poll asks a node whether it is ready, again and again, until ctx ends.
func (r *readiness) poll(ctx context.Context, client *http.Client, i int, node Node) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		r.nodes[i].Store(isReady(ctx, client, node))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func isReady(ctx context.Context, client *http.Client, node Node) bool {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, node.API()+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := client.Do(q)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// others returns the nodes that were ready and, unless it is the only one, without the one that was asked last.
func (r *readiness) others(last int) []int {
	var up []int
	for i := range r.nodes {
		if i != last && r.nodes[i].Load() {
			up = append(up, i)
		}
	}
	if len(up) == 0 && last >= 0 && r.nodes[last].Load() {
		up = append(up, last)
	}
	return up
}
