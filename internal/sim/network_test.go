package sim

import (
	"errors"
	"slices"
	"time"

	"cartd/gossip"
)

// network says who can reach whom, and how well.
type network struct {
	blocked   [maxMachines][maxMachines]bool // from machine to machine
	severed   [maxRegions][maxRegions]bool   // from region to region
	latency   time.Duration                  // the usual one, of which a frame takes between half and double
	far       time.Duration                  // likewise, from region to region
	lose      float64                        // share of frames that are lost although the link stands
	duplicate float64
	reorder   float64
}

const (
	maxNodes    = 9  // of a region that is alone
	maxMachines = 12 // of all regions
)

// end is one side of a link.
type end struct {
	node     *node
	other    *end
	up       bool
	closed   bool
	incoming []flight // by time of arrival
	arrival  *timer
	reading  bool
	pump     *timer
}

// flight is a frame on its way.
type flight struct {
	at    time.Duration
	frame []byte
}

func (w *world) passes(from, to *node) bool {
	return !w.network.blocked[from.machine.number][to.machine.number] &&
		!w.network.severed[from.region().number][to.region().number]
}

// reaches reports whether both can talk to each other.
func (w *world) reaches(a, b *node) bool {
	return !a.dead && !b.dead && w.passes(a, b) && w.passes(b, a)
}

// delay is how long a message takes from a process to another.
func (w *world) delay(from, to *node) time.Duration {
	if from.region() != to.region() {
		return w.vary(w.network.far)
	}
	return w.vary(w.network.latency)
}

// vary returns how long something takes this time.
func (w *world) vary(usual time.Duration) time.Duration {
	d := usual/2 + time.Duration(w.rand.Int64N(int64(usual)*3/2))
	if w.rand.IntN(100) == 0 {
		d += time.Duration(w.rand.IntN(int(60 * time.Millisecond)))
	}
	return d
}

// dial begins the links that this node is to begin and does not have.
func (n *node) dial() {
	w := n.world
	for _, p := range n.toLink() {
		start := p.start()
		if start <= n.member.Start || n.ends[start] != nil || w.now < n.redial[start] {
			continue
		}
		n.redial[start] = w.now + time.Duration(100+w.rand.IntN(1900))*time.Millisecond
		if w.reaches(n, p.node) {
			w.connect(n, p.node)
		}
	}
}

// connect makes a link between two processes. Both have it a little later, one after the other.
func (w *world) connect(dialer, acceptor *node) {
	near, far := &end{node: dialer}, &end{node: acceptor}
	near.other, far.other = far, near
	dialer.ends[acceptor.member.Start] = near
	w.after(w.delay(dialer, acceptor), func() {
		if acceptor.dead || near.closed || agree(dialer, acceptor) != nil {
			near.close("refused")
			return
		}
		if earlier := acceptor.ends[dialer.member.Start]; earlier != nil {
			earlier.close("another link came up")
		}
		acceptor.ends[dialer.member.Start] = far
		far.open()
		w.after(w.delay(acceptor, dialer), near.open)
	})
}

func (e *end) open() {
	n := e.node
	if n.dead || e.closed || e.up {
		return
	}
	w, other := n.world, e.other.node
	if err := agree(n, other); err != nil { // by now
		e.close(err.Error())
		return
	}
	e.up = true
	w.count["links"]++
	w.trace("%s: link with %s is up", n.name(), other.name())
	peer := other.member
	peer.State = gossip.Joining // as a hello says
	if other.region() != n.region() {
		peer.GossipAddr = other.wan.address()
		w.count["links abroad"]++
	}
	if err := n.core.Up(peer, 1); err != nil {
		w.fail("liveness", "%s: Up: %v", n.name(), err)
	}
	e.arrive()
}

// close closes this side. The other one learns of it by a message, or not.
func (e *end) close(why string) {
	if e.closed {
		return
	}
	n := e.node
	w := n.world
	e.closed = true
	if n.ends[e.other.node.member.Start] == e {
		delete(n.ends, e.other.node.member.Start)
	}
	e.incoming = nil
	if e.up && !n.dead {
		w.trace("%s: link with %s is down: %s", n.name(), e.other.node.name(), why)
		n.core.Down(e.other.node.member.Start, errors.New(why))
	}
	if e.up {
		n.cutOff = w.now
	}
	e.up = false
	w.after(w.delay(n, e.other.node), func() {
		if w.passes(n, e.other.node) {
			e.other.close("the other side closed")
		}
	})
}

// hangUp is what becomes of the links of a process that dies: the others notice at once, when their own
// frames are not acknowledged, or anything between. What it sent still arrives until then.
func (n *node) hangUp() {
	w := n.world
	silent := w.rand.IntN(4) == 0 // as a machine without power
	for _, p := range w.processes {
		e := n.ends[p.member.Start]
		if e == nil {
			continue
		}
		e.closed, e.up, e.incoming = true, false, nil
		if !silent {
			w.after(w.delay(n, p), func() {
				if w.passes(n, p) {
					e.other.close("the other side is gone")
				}
			})
		}
	}
	clear(n.ends)
}

// wake is called with the mutex of the core held.
func (n *node) wake(peer uint64) {
	e := n.ends[peer]
	if e == nil || e.closed || n.dead {
		return
	}
	if e.pump != nil && e.pump.at > n.world.now {
		e.pump.stopped = true
		e.pump = nil
	}
	if e.pump == nil {
		e.pump = n.world.after(0, e.send)
	}
}

// send sends what there is to send.
func (e *end) send() {
	e.pump = nil
	n := e.node
	if e.closed || n.dead || !e.up {
		return
	}
	for {
		frame, again := n.core.Next(e.other.node.member.Start, nil)
		if len(frame) > 0 {
			e.transmit(frame)
			continue
		}
		if again > 0 && e.pump == nil {
			e.pump = n.world.after(again, e.send)
		}
		return
	}
}

func (e *end) transmit(frame []byte) {
	w := e.node.world
	w.count["frames"]++
	chance := w.rand.Float64()
	lost := chance < w.network.lose
	w.trace("%s → %s %d B%s", e.node.name(), e.other.node.name(), len(frame), map[bool]string{true: ", lost"}[lost])
	if lost {
		w.count["lost"]++
		return
	}
	if e.other.closed {
		return
	}
	at := w.now + w.delay(e.node, e.other.node)
	in := &e.other.incoming
	if w.network.reorder > 0 && w.rand.Float64() < w.network.reorder {
		w.count["reordered"]++
	} else if len(*in) > 0 {
		at = max(at, (*in)[len(*in)-1].at)
	}
	e.other.expect(flight{at, frame})
	if w.network.duplicate > 0 && w.rand.Float64() < w.network.duplicate {
		w.count["duplicated"]++
		e.other.expect(flight{at + w.delay(e.node, e.other.node), frame})
	}
	e.other.arrive()
}

func (e *end) expect(f flight) {
	i := len(e.incoming)
	for i > 0 && e.incoming[i-1].at > f.at {
		i--
	}
	e.incoming = slices.Insert(e.incoming, i, f)
}

// arrive takes what has arrived, and comes back for what has not. Taking a frame may block.
func (e *end) arrive() {
	n := e.node
	w := n.world
	switch {
	case e.closed || n.dead || !e.up || e.reading || len(e.incoming) == 0:
	case e.incoming[0].at > w.now:
		e.comeBack(e.incoming[0].at)
	case !w.passes(e.other.node, n):
		e.comeBack(w.now + 40*time.Millisecond) // TCP tries again
	default:
		e.reading = true
		w.start(n, n.name()+" link", e.read)
	}
}

// read takes the frames that have arrived.
func (e *end) read() {
	n := e.node
	w := n.world
	from := e.other.node
	for !e.closed && len(e.incoming) > 0 && e.incoming[0].at <= w.now && w.passes(from, n) {
		frame := e.incoming[0].frame
		e.incoming = e.incoming[1:]
		w.trace("%s ← %s %d B", n.name(), from.name(), len(frame))
		if err := n.core.Receive(from.member.Start, frame); err != nil {
			w.trace("%s ← %s: %v", n.name(), from.name(), err)
			e.close(err.Error())
		}
	}
	e.reading = false
	e.arrive()
}

func (e *end) comeBack(at time.Duration) {
	w := e.node.world
	if e.arrival != nil && !e.arrival.stopped {
		if e.arrival.at <= at {
			return
		}
		e.arrival.stopped = true
	}
	var t *timer
	t = w.after(at-w.now, func() {
		t.stopped = true
		e.arrive()
	})
	e.arrival = t
}

// linked reports whether every two processes of a region have a link, and every two bridges of different regions, and
// all know that.
func (w *world) linked() bool {
	live := w.live()
	for _, a := range live {
		for _, b := range live {
			same := a.region() == b.region()
			if a == b || !same && !(a.bridge && b.bridge) {
				continue
			}
			if e := a.ends[b.member.Start]; e == nil || !e.up {
				return false
			}
		}
		if !a.reachesAll() {
			return false
		}
	}
	return true
}

// live returns the processes that are not dead, in order of birth.
func (w *world) live() (live []*node) {
	for _, n := range w.processes {
		if !n.dead {
			live = append(live, n)
		}
	}
	return live
}
