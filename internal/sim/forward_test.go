package sim

import (
	"context"
	"fmt"
	"time"

	"cartd/gossip"
)

// forwardTimeout is how long an owner has to answer a request that another node has passed on.
const forwardTimeout = 500 * time.Millisecond

// serve has a process answer a request, or pass it on to an owner of the cart, as the HTTP forwarder does. It runs
// in the activity of the request.
func (n *node) serve(ctx context.Context, q *request, a *answer) {
	w := n.world
	if q.kind == toCreate {
		w.execute(ctx, n, q, a)
		return
	}
	forwarded := q.hops > 0
	here := n.core.Forward(q.subject.id, forwarded, func(owner gossip.Member) (answered bool) {
		if forwarded {
			w.fail("forward", "%s passes on what was passed on to it: %s of %s by %s", n.name(), q.subject.label, q.session, owner.Name)
			return true
		}
		return n.forward(ctx, owner, q, a)
	})
	if !here || n.dead || w.failed() {
		return
	}
	if !forwarded && n.placed && !n.owns(q.subject.id) {
		w.count["take-overs"]++
		w.trace("%s takes over %s for %s", n.name(), q.subject.label, q.session)
	}
	w.execute(ctx, n, q, a)
}

// forward passes a request on to an owner, and reports whether that has answered in time. A write without a key
// gets one first, so that it counts once whoever executes it after that.
func (n *node) forward(ctx context.Context, owner gossip.Member, q *request, a *answer) (answered bool) {
	w := n.world
	if ctx.Err() != nil || n.dead {
		return false
	}
	w.count["forwards"]++
	if q.kind == toWrite && q.key == "" {
		q.key = fmt.Sprintf("forward-%d", w.count["forwards"])
	}
	w.trace("%s passes %s of %s on to %s", n.name(), q.session, q.subject.label, owner.Name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := w.after(forwardTimeout, cancel)
	defer func() { deadline.stopped = true }()

	over := ctx.Done()
	p := w.processAt(owner.LinkAddr)
	silent := w.rand.IntN(4) == 0 // nobody says that nobody is there
	if !w.carry(n, p, over) || p.closed {
		if silent {
			w.wait(over, nil, nil)
		}
		return n.unanswered(owner)
	}
	again := *q
	again.hops++
	b := &answer{done: make(chan struct{})}
	there, abandon := context.WithCancel(p.running)
	w.start(p, p.name()+" forwarded request of "+q.session, func() {
		defer close(b.done)
		p.serve(there, &again, b)
	}).request = &again
	w.wait(b.done, over, p.gone)
	if !isClosed(b.done) {
		w.after(w.delay(n, p), abandon) // the connection is closed
		return n.unanswered(owner)
	}
	abandon()
	if p.dead || w.rand.Float64() < w.plan.loseAnswers || !w.carry(p, n, over) {
		return n.unanswered(owner)
	}
	a.err, a.state, a.replayed = b.err, b.state, b.replayed
	return true
}

// unanswered notes that an owner has not answered a request.
func (n *node) unanswered(owner gossip.Member) bool {
	n.world.count["unanswered"]++
	n.world.trace("%s gets no answer from %s", n.name(), owner.Name)
	return false
}

// carry takes a message from a process to another, and reports whether it arrives before over is closed.
func (w *world) carry(from, to *node, over <-chan struct{}) bool {
	w.sleep(w.vary(w.network.latency), over)
	for to != nil && !to.dead && !from.dead && !w.passes(from, to) && !isClosed(over) {
		w.sleep(40*time.Millisecond, over) // TCP tries again
	}
	return to != nil && !to.dead && !from.dead && !isClosed(over)
}

// processAt returns the process that listens on an address, or nil.
func (w *world) processAt(linkAddr string) *node {
	for _, m := range w.machines {
		if p := m.process; p != nil && p.member.LinkAddr == linkAddr && !p.dead {
			return p
		}
	}
	return nil
}
