package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cartd/cart"
	"cartd/gossip"
)

// region is machines that share a database and a membership pool.
type region struct {
	name        string
	number      int
	nodes, most int // to begin with, and when most are there
	machines    []*machine
	join        []string  // gossip addresses that its processes are told to join
	joinAll     []string  // and those in the pool of all regions
	database    *database // unless each machine has a file
	stricken    bool      // a fault is at all of it

	// What the other regions had stored when the database was wiped, and when that was; until it is known that the region
	// got it before it was active.
	bereft   []debt
	bereftAt time.Duration
}

const maxRegions = 3

func (w *world) addRegion(nodes, most int) {
	r := &region{name: fmt.Sprintf("r%d", len(w.regions)), number: len(w.regions), nodes: nodes, most: most}
	r.database = newDatabase(w, "database")
	if r.number > 0 {
		r.database.name += fmt.Sprintf(" %d", r.number)
	}
	w.regions = append(w.regions, r)
}

// introduce draws which machines others are told to join.
func (w *world) introduce() {
	for _, r := range w.regions {
		for _, m := range r.machines[:1+w.rand.IntN(r.nodes)] {
			m.seed = true
			r.join = append(r.join, m.gossipAddress())
		}
	}
	if len(w.regions) == 1 {
		return
	}
	var all []string
	for _, m := range w.machines {
		if m.seed {
			all = append(all, m.wanAddress())
		}
	}
	for _, r := range w.regions {
		r.joinAll = all
	}
}

func (n *node) region() *region { return n.machine.region }

// live returns the processes of the region that are not dead, in order of birth.
func (r *region) live() []*node {
	if len(r.machines) == 0 {
		return nil
	}
	return slices.DeleteFunc(r.machines[0].world.live(), func(n *node) bool { return n.region() != r })
}

// used returns how many machines are used.
func (r *region) used() (n int) {
	for _, m := range r.machines {
		if m.used {
			n++
		}
	}
	return n
}

// complete reports whether every machine that is used has a process.
func (r *region) complete() bool {
	return !slices.ContainsFunc(r.machines, func(m *machine) bool { return m.used && m.process.dead })
}

// elect holds an election and keeps the links with other regions, as gossip.Node does.
func (n *node) elect() {
	w := n.world
	if n.wan == nil || n.dead {
		return
	}
	self := n.lan.member(n.lan)
	bridge, again := n.term.Hold(self, n.lan.others(), n.clock())
	if again > 0 {
		w.after(again, n.elect)
	}
	abroad := gossip.BridgesAbroad(n.wan.member(n.wan), n.wan.others())
	n.core.SetBridges(bridge, abroad)
	if bridge != n.bridge {
		n.bridge = bridge
		if bridge {
			w.count["elections"]++
		}
		w.trace("%s is a bridge: %v", n.name(), bridge)
		n.wan.say(func(said *word) { said.bridge = bridge })
		n.wan.tell()
	}
	if bridge {
		return
	}
	for _, p := range w.processes {
		if e := n.ends[p.member.Start]; e != nil && p.region() != n.region() {
			e.close("it is no bridge any more")
		}
	}
}

// toLink returns whom the process is to have links with.
func (n *node) toLink() []*pool {
	peers := slices.Clone(n.lan.view)
	if n.bridge {
		for _, p := range n.wan.view {
			if p.node.region() != n.region() && n.wan.heard[p.start()].bridge {
				peers = append(peers, p)
			}
		}
	}
	return peers
}

var errNoBridge = errors.New("sim: another region, and one of the two is no bridge")

// agree returns why two processes can have no link, or nil: of two regions, bridges alone have one.
func agree(a, b *node) error {
	if a.region() != b.region() && !(a.bridge && b.bridge) {
		return errNoBridge
	}
	return nil
}

// heldAbroad reports whether it takes another region to hold an event: too few processes of this one have it, and its
// database does not.
func (r *region) heldAbroad(s *subject, what set) bool {
	if stored, _ := r.database.holds(s); stored.erased || what.within(stored.events) {
		return false
	}
	holders := 0
	for _, n := range r.live() {
		if e, _ := n.holds(s); e.erased || what.within(e.events) {
			holders++
		}
	}
	return holders <= r.machines[0].world.plan.tolerate
}

// toOthers calls do with every region but one.
func (w *world) toOthers(r *region, do func(*region)) {
	for _, other := range w.regions {
		if other != r {
			do(other)
		}
	}
}

func (w *world) anyRegion() *region { return w.regions[w.rand.IntN(len(w.regions))] }

// cutOff cuts a region off from the others, or in one direction only, from one of them. There is one such cut at a time.
func (w *world) cutOff() {
	if len(w.regions) == 1 || w.severed {
		return
	}
	w.severed = true
	defer func() { w.severed = false }()
	r := w.anyRegion()
	cut := &w.network.severed
	if w.rand.IntN(3) == 0 {
		other := w.regions[(r.number+1)%len(w.regions)]
		cut[r.number][other.number] = true
		w.count["regions cut one way"]++
		w.trace("%s does not reach %s", r.name, other.name)
	} else {
		w.toOthers(r, func(other *region) {
			cut[r.number][other.number], cut[other.number][r.number] = true, true
		})
		w.count["regions cut off"]++
		w.trace("%s is cut off", r.name)
	}
	w.last(50*time.Millisecond, 15*time.Second)
	*cut = [maxRegions][maxRegions]bool{}
	w.trace("the regions reach each other")
}

// strand takes its database away from a region, and the processes there from each other: they have other regions to hold
// what they take, where they are bridges.
func (w *world) strand() {
	r := w.anyRegion()
	d := r.database
	if len(w.regions) == 1 || !w.plan.shared || w.parted || d.down || d.hung {
		return
	}
	w.parted = true
	defer func() { w.parted = false }()
	w.trace("%s is down, and the processes of %s do not reach each other", d.name, r.name)
	d.down, d.changed = true, w.now
	for _, a := range r.machines {
		for _, b := range r.machines {
			w.network.blocked[a.number][b.number] = a != b
		}
	}
	w.count["stranded"]++
	w.last(500*time.Millisecond, 8*time.Second)
	w.network.blocked = [maxMachines][maxMachines]bool{}
	w.trace("the processes of %s reach each other", r.name)
	w.last(0, 2*time.Second)
	d.down, d.changed = false, w.now
	w.trace("%s is up", d.name)
}

// loseRegion has all processes of a region die at once, and its database too, now and then: when what was shown is safe
// without them. It comes back with what its database has, or with nothing.
func (w *world) loseRegion() {
	r := w.anyRegion()
	if len(w.regions) == 1 || !w.plan.shared || r.stricken {
		return
	}
	r.stricken = true
	defer func() { r.stricken = false }()
	wiped := w.rand.IntN(2) == 0
	if !w.until(loseIn, func() bool { return w.mayLose(r, wiped) }) || isClosed(w.healing) {
		return
	}
	w.count["regions lost"]++
	w.trace("%s is lost", r.name)
	dead := r.live()
	for _, n := range dead {
		n.crash()
	}
	w.sleep(soonAfterDeath, nil)
	if wiped {
		w.count["databases wiped"]++
		w.trace("%s is wiped", r.database.name)
		r.database.rows = make(map[cart.ID][]row)
		r.bereft, r.bereftAt = nil, w.now
		w.toOthers(r, func(other *region) {
			for _, s := range w.check.subjects {
				if stored, err := other.database.holds(s); err == nil {
					r.bereft = append(r.bereft, debt{other.database, s, stored})
				}
			}
		})
	}
	w.last(0, 8*time.Second)
	for _, n := range dead {
		if m := n.machine; m.process == n && m.used {
			w.boot(m)
			w.sleep(time.Duration(w.rand.IntN(int(300*time.Millisecond))), nil)
		}
	}
}

// loseIn is how long loseRegion waits for that what a region has is safe without it.
const loseIn = 10 * time.Second

// mayLose reports whether a region may be lost, and its database with it: nothing that was shown is then.
func (w *world) mayLose(r *region, wiped bool) bool {
	w.check.settle()
	if len(w.exposed) > 0 || !w.check.cameBack() {
		return false
	}
	var rest []*node
	for _, n := range w.live() {
		if n.region() != r && !n.left {
			rest = append(rest, n)
		}
	}
	var stores []*database
	for _, other := range w.regions {
		if other != r || !wiped {
			stores = append(stores, other.database)
		}
	}
	for _, s := range w.check.subjects {
		shown, _ := s.model.eventsOf(nil, s.shown)
		missing, lacking := w.check.heldBy(s, extent{shown, s.erased}, w.plan.tolerate+1, rest, stores)
		if s.erased && lacking || missing.len() > 0 {
			return false
		}
	}
	return true
}

// reachesAll reports whether a process knows the way to all other regions, and their processes.
func (n *node) reachesAll() bool {
	abroad := 0
	n.world.toOthers(n.region(), func(r *region) { abroad += min(n.world.plan.replicas, len(r.live())) })
	return n.core.Abroad() == abroad
}

// hindered reports whether regions may not get what they want of each other at present.
func (w *world) hindered() bool {
	return w.parted || w.severed || w.network.lose > 0 ||
		slices.ContainsFunc(w.regions, func(r *region) bool { return r.database.down || r.database.hung })
}

// recovered checks that a region whose database was wiped has again what the others had, when the first of its processes
// is active: if nothing hindered it.
func (c *checker) recovered(n *node) {
	w, r := c.world, n.region()
	if r.bereft == nil || !n.complete || !n.reachesAll() {
		return
	}
	if w.hinderedAt < r.bereftAt {
		w.count["recoveries"]++
		for _, d := range r.bereft {
			has, _ := r.database.holds(d.subject)
			for _, p := range r.live() {
				e, _ := p.holds(d.subject)
				has.join(e)
			}
			if !has.covers(d.what) {
				w.fail("recovery", "%s is active, and its region, which lost everything, lacks of %s what was stored in %s",
					n.name(), d.subject.label, d.database.name)
			}
		}
	}
	r.bereft = nil
}
