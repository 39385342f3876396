package workload

import (
	"context"
	"net/http"
	"slices"
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

// others returns those of some nodes that were ready and, unless it is the only one, without the one that was asked
// last.
func (r *readiness) others(nodes []int, last int) []int {
	up := slices.DeleteFunc(slices.Clone(nodes), func(i int) bool { return !r.nodes[i].Load() })
	if len(up) < 2 {
		return up
	}
	return slices.DeleteFunc(up, func(i int) bool { return i == last })
}

// regions returns the nodes of each region, in the order in which they are first named.
func regions(nodes []Node) (all [][]int) {
	numbers := make(map[string]int)
	for i, n := range nodes {
		number, known := numbers[n.Region]
		if !known {
			number = len(all)
			numbers[n.Region] = number
			all = append(all, nil)
		}
		all[number] = append(all[number], i)
	}
	return all
}

// home returns the nodes of a client's region; all where it is Start, which has none.
func (r *Run) home(client int) []int {
	if client < 0 {
		return slices.Concat(r.regions...)
	}
	return r.regions[client%len(r.regions)]
}
