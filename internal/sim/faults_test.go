package sim

import (
	"slices"
	"time"

	"cartd/gossip"
)

// fault is something that goes wrong for a while. It runs in an activity of its own and has put
// everything right when it returns.
type fault struct {
	name   string
	weight int
	run    func(w *world)
}

// faults are drawn by weight. Those that a plan does not allow do nothing.
var faults = []fault{
	{"partition", 22, (*world).partition},
	{"flicker", 8, (*world).flicker},
	{"reset", 14, (*world).reset},
	{"crash", 22, (*world).crash},
	{"drain", 8, (*world).drainOne},
	{"outage", 16, (*world).outage},
	{"hang", 8, (*world).hang},
	{"slow", 6, (*world).slow},
	{"stall", 6, (*world).stall},
	{"go back", 6, (*world).goBack},
	{"restart all", 20, (*world).restartAll},
}

// faultsOfRegions are drawn as well where there are several.
var faultsOfRegions = []fault{
	{"cut off", 20, (*world).cutOff},
	{"strand", 10, (*world).strand},
	{"lose a region", 14, (*world).loseRegion},
}

// oftenResize is what FAULT names where it is no fault that disturb draws.
const oftenResize = "resize"

// disturb begins one fault: every second time the one that is wanted often, if there is one.
func (w *world) disturb() {
	total, all := 0, faults
	if len(w.regions) > 1 {
		all = slices.Concat(faults, faultsOfRegions)
	}
	often := slices.IndexFunc(all, func(f fault) bool { return f.name == w.often })
	if often >= 0 && w.rand.IntN(2) == 0 {
		w.fault(all[often].run)
		return
	}
	for _, f := range all {
		total += f.weight
	}
	n := w.rand.IntN(total)
	for _, f := range all {
		if n -= f.weight; n < 0 {
			w.fault(f.run)
			return
		}
	}
}

// fault has run go wrong beside the rest.
func (w *world) fault(run func(w *world)) {
	w.faults++
	w.start(nil, "fault", func() {
		run(w)
		w.faults--
	})
}

// spare reports whether a machine that is used may be given up: others are not told to join there, and as many
// are left as there were to begin with.
func (w *world) spare(m *machine) bool {
	return m.used && !m.seed && m.region.used() > m.region.nodes
}

// resize has nodes join until as many are there as the plan has, then leave, and so on.
func (r *region) resize() {
	w := r.machines[0].world
	grows, pace := true, time.Duration(100+w.rand.IntN(2000))*time.Millisecond
	for !isClosed(w.healing) {
		var out, in []*machine
		for _, m := range r.machines {
			switch {
			case !m.used && (m.process == nil || m.process.dead):
				out = append(out, m)
			case w.spare(m) && !m.process.dead && !m.process.leaving:
				in = append(in, m)
			}
		}
		switch used := r.used(); {
		case used == r.nodes:
			grows = true
		case used == r.most || w.rand.IntN(20) == 0:
			grows = false
		}
		switch {
		case !w.check.cameBack():
		case grows && len(out) > 0:
			w.count["joins"]++
			w.boot(out[w.rand.IntN(len(out))])
		case !grows && len(in) > 0 && w.plan.shared:
			m := in[w.rand.IntN(len(in))]
			m.used = false
			w.fault(func(*world) { w.leave(m) })
		}
		w.last(0, pace)
	}
}

// leave stops the process of a machine in good order, for good.
func (w *world) leave(m *machine) {
	w.stop(m.process)
	w.count["leaves"]++
}

// last sleeps for a time between two bounds, or until everything is to be put right.
func (w *world) last(from, to time.Duration) {
	w.sleep(from+time.Duration(w.rand.Int64N(int64(to-from))), w.healing)
}

// partition cuts machines off from each other, in one of four ways. There is one at a time.
func (w *world) partition() {
	if w.parted {
		return
	}
	w.parted = true
	defer func() { w.parted = false }()
	cut := &w.network.blocked
	among := w.machines
	if w.rand.IntN(2) == 0 {
		among = w.anyRegion().machines
	}
	n := len(among)
	order := w.rand.Perm(n)
	for i := range order {
		order[i] = among[order[i]].number
	}
	kind := w.rand.IntN(4)
	var what string
	switch kind {
	case 0:
		what = "halves"
		k := 1 + w.rand.IntN(n-1)
		for _, i := range order[:k] {
			for _, j := range order[k:] {
				cut[i][j], cut[j][i] = true, true
			}
		}
	case 1:
		what = "one way"
		k := 1 + w.rand.IntN(n-1)
		for _, i := range order[:k] {
			for _, j := range order[k:] {
				cut[i][j] = true
			}
		}
	case 2:
		what = "ring"
		for i := range order {
			for j := range order {
				if d := (i - j + n) % n; i != j && d != 1 && d != n-1 {
					cut[order[i]][order[j]] = true
				}
			}
		}
		if n == 3 { // all are neighbours: a chain
			cut[order[0]][order[2]], cut[order[2]][order[0]] = true, true
		}
	default:
		what = "isolated"
		for _, j := range order[1:] {
			cut[j][order[0]], cut[order[0]][j] = true, true
		}
	}
	w.count[what]++
	w.trace("partition: %s %v", what, order)
	if w.rand.IntN(3) == 0 {
		w.last(50*time.Millisecond, time.Second)
	} else {
		w.last(time.Second, 12*time.Second)
	}
	w.network.blocked = [maxMachines][maxMachines]bool{}
	w.trace("partition is over")
}

// flicker makes the network bad for a while: frames are lost, doubled and overtake each other.
func (w *world) flicker() {
	if w.network.lose > 0 {
		return
	}
	w.count["flickers"]++
	w.trace("the network is bad")
	w.network.lose, w.network.duplicate, w.network.reorder = 0.05, 0.1, 0.1
	latency := w.network.latency
	w.network.latency *= time.Duration(1 + w.rand.IntN(8))
	w.last(200*time.Millisecond, 4*time.Second)
	w.network.lose, w.network.duplicate, w.network.reorder, w.network.latency = 0, 0, 0, latency
	w.trace("the network is good")
}

// reset breaks links.
func (w *world) reset() {
	for range 1 + w.rand.IntN(3) {
		if n := w.anyNode(); n != nil {
			for _, p := range w.live() {
				if e := n.ends[p.member.Start]; e != nil && w.rand.IntN(2) == 0 {
					w.count["resets"]++
					e.close("reset")
				}
			}
		}
		w.last(0, 200*time.Millisecond)
	}
}

// mayCrash reports whether one more process may die without that more are lost at once than are
// tolerated.
func (w *world) mayCrash() bool {
	w.check.settle()
	return len(w.exposed) < w.plan.tolerate && w.check.cameBack()
}

// whole reports whether all is as an operator waits for before the next process is stopped: each machine that is used
// has one that is active, and all are linked and know of nothing that others hold and they lack.
func (w *world) whole() bool {
	return !slices.ContainsFunc(w.regions, func(r *region) bool { return !r.complete() }) && w.linked() && !slices.ContainsFunc(w.live(), func(n *node) bool {
		linked, away := n.core.Uncovered()
		return n.lan.heard[n.member.Start].state != gossip.Active || linked > 0 || away > 0 || !n.core.SyncedAbroad()
	})
}

// restartIn is how long restartAll waits for a process before it brings the database back.
const restartIn = 15 * time.Second

// restartAll takes the database away while one process after the other dies, or is stopped, and another takes its
// place: the next one only when the region is whole again.
func (w *world) restartAll() {
	r := w.anyRegion()
	d := r.database
	if !w.plan.shared || r.most > r.nodes || w.parted || r.stricken {
		return
	}
	w.parted, r.stricken = true, true
	defer func() { w.parted, r.stricken = false, false }()
	ready := func() bool { return w.whole() && w.mayCrash() }
	if !w.until(restartIn, ready) || d.down || d.hung || isClosed(w.healing) {
		return
	}
	w.count["restarts of all"]++
	w.trace("%s is down, and all processes restart", d.name)
	d.down, d.changed = true, w.now
	for _, m := range r.machines {
		if !w.until(restartIn, ready) || isClosed(w.healing) || !w.restart(m) {
			break
		}
	}
	if d.down {
		d.down, d.changed = false, w.now
		w.trace("%s is up", d.name)
	}
}

// restart has the process of a machine die, or end in good order, and another one take its place. It reports whether
// that goes without the database, which it brings back if not.
func (w *world) restart(m *machine) bool {
	n, d := m.process, m.region.database
	if w.rand.IntN(2) == 0 {
		n.crash()
		w.sleep(soonAfterDeath, nil)
	} else {
		w.fault(func(w *world) { w.stop(n) })
		if !w.until(restartIn, func() bool { return n.dead }) {
			d.down, d.changed = false, w.now
			w.trace("%s is up, for %s cannot leave", d.name, n.name())
			w.until(flushTimeout, func() bool { return n.dead })
		}
	}
	w.last(0, time.Second)
	if m.process == n {
		w.boot(m)
	}
	return d.down
}

// crash kills a process and has another one take its place, unless the machine is lost for good.
func (w *world) crash() {
	n := w.victim()
	if n == nil || !w.mayCrash() {
		return
	}
	n.crash()
	if w.spare(n.machine) && w.rand.IntN(3) == 0 {
		w.count["machines lost"]++
		w.trace("machine %d is lost", n.machine.number)
		n.machine.used = false
		return
	}
	w.sleep(soonAfterDeath, nil)
	w.last(0, 5*time.Second)
	w.boot(n.machine)
}

// drainOne stops a process in good order and has another one take its place.
func (w *world) drainOne() {
	n := w.anyNode()
	if n == nil || !n.region().complete() || !w.plan.shared || !w.check.cameBack() {
		return
	}
	w.stop(n)
	w.last(50*time.Millisecond, 2*time.Second)
	if n.machine.process == n {
		w.boot(n.machine)
	}
}

// stop stops a process in good order.
func (w *world) stop(n *node) {
	n.leaving = true
	n.announce(gossip.Draining)
	if w.rand.IntN(3) == 0 {
		w.start(nil, "fault", w.outage)
	}
	w.sleep(300*time.Millisecond, n.gone)
	n.closed = true
	if !n.dead {
		n.drain()
	}
}

// victim returns who is to die: a bridge, rather often.
func (w *world) victim() *node {
	n := w.anyNode()
	for range 2 {
		if n != nil && !n.bridge {
			n = w.anyNode()
		}
	}
	return n
}

// someDatabase returns the database of a region, or the file of a machine.
func (w *world) someDatabase() *database {
	if w.plan.shared {
		return w.anyRegion().database
	}
	return w.machines[w.rand.IntN(len(w.machines))].file
}

// outage has the database refuse everything.
func (w *world) outage() {
	d := w.someDatabase()
	if d.down || d.hung {
		return
	}
	w.count["outages"]++
	w.trace("%s is down", d.name)
	d.down, d.changed = true, w.now
	w.last(100*time.Millisecond, 8*time.Second)
	d.down, d.changed = false, w.now
	w.trace("%s is up", d.name)
}

// hang has the database answer nothing.
func (w *world) hang() {
	d := w.someDatabase()
	if d.down || d.hung {
		return
	}
	w.count["hangs"]++
	w.trace("%s hangs", d.name)
	d.hung, d.changed = true, w.now
	w.last(100*time.Millisecond, 6*time.Second)
	d.hung, d.changed = false, w.now
	w.trace("%s hangs no more", d.name)
}

// slow makes the database slow.
func (w *world) slow() {
	d := w.someDatabase()
	latency := d.latency
	if latency > 10*time.Millisecond {
		return
	}
	d.latency = time.Duration(10+w.rand.IntN(150)) * time.Millisecond
	w.trace("%s is slow: %v", d.name, d.latency)
	w.last(500*time.Millisecond, 6*time.Second)
	d.latency = latency
	w.trace("%s is fast", d.name)
}

// goBack takes the database back to an earlier state, as recovery to a point in time does, and a failover to a
// standby that lags. Only carts go back of which enough processes have in memory what the database loses:
// of others it would be lost. No process may go until the database has it again, since all take what they hold
// for saved, until they look; nor may it leave their memory, as it does where a cart gets other owners.
func (w *world) goBack() {
	if !w.plan.shared || w.plan.memory < 1<<20 || !w.check.cameBack() {
		return
	}
	w.check.settle()
	if len(w.exposed) > 0 || slices.ContainsFunc(w.live(), func(n *node) bool { return n.leaving || n.held != slots{} }) {
		return
	}
	r := w.anyRegion()
	d := r.database
	to := w.now - time.Duration(w.rand.Int64N(int64(10*time.Second)))
	if w.rand.IntN(2) == 0 {
		to = 0 // before there was any cart
	}
	for _, s := range w.check.subjects {
		rows := d.rows[s.id]
		kept := len(rows)
		for kept > 0 && rows[kept-1].at > to {
			kept--
		}
		was, err := d.holds(s)
		if kept == len(rows) || err != nil || !w.check.inMemory(r, s, was) {
			continue
		}
		d.rows[s.id] = rows[:kept:kept]
		w.check.owed = append(w.check.owed, debt{d, s, was})
		w.count["gone back"]++
		w.trace("%s goes back to %v with %s", d.name, to, s.label)
	}
}

// stall stops a process for a while, as a machine does that has no memory left: nothing reaches it and
// nothing leaves it, but its clock goes on.
func (w *world) stall() {
	if w.parted {
		return
	}
	n := w.anyNode()
	if n == nil {
		return
	}
	w.parted = true
	defer func() { w.parted = false }()
	w.count["stalls"]++
	w.trace("%s stalls", n.name())
	for j := range w.machines {
		if j != n.machine.number {
			w.network.blocked[j][n.machine.number] = true
		}
	}
	w.last(50*time.Millisecond, 2*time.Second)
	w.network.blocked = [maxMachines][maxMachines]bool{}
	w.trace("%s goes on", n.name())
}
