package gossip

import (
	"context"
	"sync"
)

// jobs runs what may block, such as a look into the database, for each peer in order and one at a time.
// The jobs of one peer do not wait for those of another.
type jobs struct {
	ctx     context.Context // of the jobs
	running sync.WaitGroup

	mu      sync.Mutex
	started bool
	queues  map[uint64][]func(context.Context) // not empty, or of a peer that has a goroutine
}

// newJobs returns jobs that wait for start and stop when the context ends.
func newJobs(ctx context.Context) *jobs {
	return &jobs{ctx: ctx, queues: make(map[uint64][]func(context.Context))}
}

// spawn adds a job to those of a peer.
func (j *jobs) spawn(peer uint64, job func(context.Context)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ctx.Err() != nil {
		return
	}
	queue, running := j.queues[peer]
	j.queues[peer] = append(queue, job)
	if j.started && !running {
		j.running.Go(func() { j.run(peer) })
	}
}

// start runs the jobs that there are, and from now on all others.
func (j *jobs) start() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.started = true
	for peer := range j.queues {
		j.running.Go(func() { j.run(peer) })
	}
}

// run runs the jobs of a peer until there are none.
func (j *jobs) run(peer uint64) {
	for job := j.next(peer); job != nil; job = j.next(peer) {
		job(j.ctx)
	}
}

func (j *jobs) next(peer uint64) (job func(context.Context)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	queue := j.queues[peer]
	if len(queue) == 0 || j.ctx.Err() != nil {
		delete(j.queues, peer)
		return nil
	}
	job, queue[0] = queue[0], nil
	j.queues[peer] = queue[1:]
	return job
}

// wait returns when no job runs any more. The context of the jobs has to have ended before.
func (j *jobs) wait() {
	j.mu.Lock()   // after this, spawn adds nothing
	j.mu.Unlock() //nolint:staticcheck // see above
	j.running.Wait()
}
