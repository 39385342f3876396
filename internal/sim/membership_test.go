package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"cartd/gossip"
)

// Membership is a model of memberlist: processes probe each other, directly and through others; news
// of who is alive spreads among those that can talk; who cannot be reached for a while is taken for dead
// and forgotten. Two groups that forgot each other stay apart until somebody joins.
// The state that a process is in spreads as who is alive does. Whom to join, and when, is production code:
// gossip.Rejoin.
const probeEvery = 200 * time.Millisecond

// pool is what a process knows of the others in a membership pool: that of its region, or that of all regions.
type pool struct {
	node   *node
	all    bool            // it is that of all regions
	view   []*pool         // whom its memberlist takes for alive, in order of birth
	heard  map[uint64]word // what these said of their state, and the process itself
	seen   map[uint64]time.Duration
	news   bool // it is not what the core was told
	left   bool // the process has said goodbye
	rejoin *gossip.Rejoin
}

// word is what a process says of itself.
type word struct {
	state  gossip.MemberState
	bridge bool // in the pool of all regions
	number int  // a greater one is newer
}

func newPool(n *node, all bool, join []string) *pool {
	l := &pool{node: n, all: all, heard: make(map[uint64]word), seen: make(map[uint64]time.Duration)}
	l.view = []*pool{l}
	l.heard[l.start()] = word{state: gossip.Joining}
	l.rejoin = gossip.NewRejoin(l.address(), join, rand.New(rand.NewPCG(l.start(), 0)))
	return l
}

func (l *pool) start() uint64 { return l.node.member.Start }

// address returns where others reach the pool.
func (l *pool) address() string {
	if l.all {
		return l.node.machine.wanAddress()
	}
	return l.node.member.GossipAddr
}

// of returns the same pool of another process.
func (l *pool) of(n *node) *pool {
	if l.all {
		return n.wan
	}
	return n.lan
}

// member returns what the pool knows of a process.
func (l *pool) member(p *pool) gossip.Member {
	said := l.heard[p.start()]
	m := p.node.member
	m.State, m.Bridge, m.GossipAddr = said.state, said.bridge, p.address()
	return m
}

// others returns those that are alive, as far as the pool knows.
func (l *pool) others() (others []gossip.Member) {
	for _, p := range l.view {
		if p != l {
			others = append(others, l.member(p))
		}
	}
	return others
}

// pools returns those pools of a process that it is in.
func (n *node) pools() []*pool {
	if n.wan == nil {
		return []*pool{n.lan}
	}
	return []*pool{n.lan, n.wan}
}

// probe updates what all processes know, for ever.
func (w *world) probe() {
	w.after(probeEvery, func() {
		var all []*pool
		for _, r := range w.regions {
			var ofRegion []*pool
			for _, n := range r.live() {
				ofRegion = append(ofRegion, n.lan)
				if n.wan != nil {
					all = append(all, n.wan)
				}
			}
			w.probeAll(ofRegion)
		}
		w.probeAll(all)
		w.probe()
	})
}

func (w *world) probeAll(live []*pool) {
	group := w.groups(live)
	for _, l := range live {
		l.probe(group)
	}
	for _, l := range live {
		l.tell()
	}
}

// groups numbers the groups of processes that can talk to each other, directly or not.
func (w *world) groups(live []*pool) map[*pool]int {
	group := make(map[*pool]int, len(live))
	for i, l := range live {
		if _, found := group[l]; found {
			continue
		}
		group[l] = i
		for todo := []*pool{l}; len(todo) > 0; todo = todo[1:] {
			for _, p := range live {
				if _, found := group[p]; !found && w.reaches(todo[0].node, p.node) {
					group[p] = i
					todo = append(todo, p)
				}
			}
		}
	}
	return group
}

// probe forgets who has not been in reach for long, and exchanges views with those who are.
func (l *pool) probe(group map[*pool]int) {
	w := l.node.world
	suspicion := w.plan.suspicion
	if l.all {
		suspicion = w.plan.farSuspicion
	}
	for _, p := range slices.Clone(l.view) {
		switch at, found := group[p]; {
		case p == l:
		case found && at == group[l]:
			l.seen[p.start()] = w.now
		case w.now-l.seen[p.start()] > suspicion:
			w.trace("%s takes %s for dead", l.node.name(), p.node.name())
			w.count["forgotten"]++
			l.forget(p)
		}
	}
	for _, p := range slices.Clone(l.view) {
		if p != l && w.reaches(l.node, p.node) {
			l.exchange(p, group)
			p.exchange(l, group)
		}
	}
}

// exchange takes over from another process's view who can be reached, be it through others, and mostly in which
// state they are.
func (l *pool) exchange(p *pool, group map[*pool]int) {
	w := l.node.world
	for _, x := range p.view {
		start := x.start()
		known := slices.Contains(l.view, x)
		if at, found := group[x]; !known && found && at == group[l] && !x.left {
			l.view = append(l.view, x)
			l.heard[start], l.seen[start] = p.heard[start], w.now
			l.rejoin.Alive(x.address())
			l.news = true
		} else if known && l.heard[start].number < p.heard[start].number && w.rand.IntN(3) > 0 {
			l.heard[start] = p.heard[start]
			l.news = true
		}
	}
}

// joinOthers joins whom the rejoin loop names.
func (l *pool) joinOthers() {
	n := l.node
	w := n.world
	w.after(200*time.Millisecond, func() {
		if n.dead {
			return
		}
		for _, address := range l.rejoin.Due(n.clock()) {
			if l.rejoin.Missing(address) {
				w.after(w.delay(n, n), func() { l.meet(address) })
			}
		}
		l.joinOthers()
	})
}

// tell tells the core who is alive, if that has changed, and has an election held.
func (l *pool) tell() {
	n := l.node
	if !l.news || n.dead {
		return
	}
	l.news = false
	if !l.all {
		n.core.SetMembers(l.others())
	}
	n.elect()
}

// meet exchanges views with the process at an address, if there is one that can be reached.
func (l *pool) meet(address string) {
	w := l.node.world
	for _, m := range w.machines {
		if m.process == nil || m.process == l.node || !w.reaches(l.node, m.process) {
			continue
		}
		p := l.of(m.process)
		if p.address() != address {
			continue
		}
		w.trace("%s joins %s", l.node.name(), m.process.name())
		var live []*pool
		for _, n := range w.live() {
			if l.all || n.region() == l.node.region() {
				live = append(live, l.of(n))
			}
		}
		group := w.groups(live)
		l.exchange(p, group)
		p.exchange(l, group)
		l.tell()
		p.tell()
	}
}

// forget takes a process that is taken for dead, or said goodbye, out of the view.
func (l *pool) forget(p *pool) {
	l.view = slices.DeleteFunc(l.view, func(x *pool) bool { return x == p })
	l.news = true
	if l.heard[p.start()].state == gossip.Draining {
		l.rejoin.Left(p.address())
	} else {
		l.rejoin.Lost(p.address(), l.node.clock())
	}
}

// say changes what the process says of itself. It spreads from view to view.
func (l *pool) say(change func(*word)) {
	said := l.heard[l.start()]
	said.number++
	change(&said)
	l.heard[l.start()] = said
	l.news = true
}

// announce says in which state the process is.
func (n *node) announce(state gossip.MemberState) {
	n.world.trace("%s is %s", n.name(), [...]string{"", "joining", "active", "draining"}[state])
	n.core.SetDraining(state == gossip.Draining)
	for _, l := range n.pools() {
		l.say(func(said *word) { said.state = state })
		l.tell()
	}
}

// sayGoodbye tells those who can be reached that the process is about to end.
func (n *node) sayGoodbye() {
	w := n.world
	n.left = true
	for _, l := range n.pools() {
		l.left = true
		for _, p := range w.live() {
			if p == n || !w.reaches(n, p) {
				continue
			}
			w.after(w.delay(n, p), func() {
				if there := l.of(p); slices.Contains(there.view, l) {
					there.forget(l)
					there.tell()
				}
			})
		}
	}
}
