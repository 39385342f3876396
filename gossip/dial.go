package gossip

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// steady is how long a link has been up when the next attempt to dial comes soon again.
const steady = 5 * time.Second

// dials are the attempts to keep up a link with each member of a greater start id: of two processes,
// the one with the smaller one dials.
type dials struct {
	// connect dials a member, runs the link and returns why it ended.
	connect func(ctx context.Context, peer Member) error
	logger  *slog.Logger
	running sync.WaitGroup

	mu    sync.Mutex
	peers map[uint64]*dial // those that have a goroutine
}

// dial is the state of one peer.
type dial struct {
	Member
	wanted   bool   // the member is still there
	failures uint64 // since the last link that was steady
	err      error  // of the last attempt
}

func newDials(connect func(context.Context, Member) error, logger *slog.Logger) *dials {
	return &dials{connect: connect, logger: logger, peers: make(map[uint64]*dial)}
}

// keep makes peers those that there have to be links with, until the context ends. A link that is up
// with another one is left alone: its own silence will end it.
func (d *dials) keep(ctx context.Context, peers []Member) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.peers {
		p.wanted = false
	}
	for _, peer := range peers {
		if p, known := d.peers[peer.Start]; known {
			p.Member, p.wanted = peer, true
			continue
		}
		d.peers[peer.Start] = &dial{Member: peer, wanted: true}
		d.running.Go(func() { d.run(ctx, peer.Start) })
	}
}

// run dials a peer again and again while it is wanted.
func (d *dials) run(ctx context.Context, start uint64) {
	pause := minRedial
	for {
		peer, wanted := d.next(start)
		if !wanted || ctx.Err() != nil {
			return
		}
		began := time.Now()
		err := d.connect(ctx, peer)
		if ctx.Err() != nil {
			return
		}
		fresh := time.Since(began) >= steady
		if fresh {
			pause = minRedial
		}
		d.note(start, err, fresh)
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return
		}
		pause = min(2*pause, maxRedial)
	}
}

func (d *dials) next(start uint64) (peer Member, wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.peers[start]
	if !p.wanted {
		delete(d.peers, start)
	}
	return p.Member, p.wanted
}

// note takes why a connection could not be made, or ended; a fresh one after it had been steady.
func (d *dials) note(start uint64, err error, fresh bool) {
	d.mu.Lock()
	p := d.peers[start]
	if fresh {
		p.failures = 0
	}
	p.failures++
	p.err = err
	name, failures := p.Name, p.failures
	d.mu.Unlock()
	if failures == 1 {
		d.logger.Info("gossip: dialling", "peer", name, "error", err)
	}
}

// last returns how often the last attempts to dial a peer failed, and why.
func (d *dials) last(start uint64) (failures uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.peers[start]; p != nil {
		failures, err = p.failures, p.err
	}
	return failures, err
}
