package sim

import (
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

// word is what a process says of its state.
type word struct {
	state  gossip.MemberState
	number int // a greater one is newer
}

// probe updates the views of all processes, for ever.
func (w *world) probe() {
	w.after(probeEvery, func() {
		live := w.live()
		group := w.groups(live)
		for _, n := range live {
			n.probe(group)
		}
		for _, n := range live {
			n.tell()
		}
		w.probe()
	})
}

// groups numbers the groups of processes that can talk to each other, directly or not.
func (w *world) groups(live []*node) map[*node]int {
	group := make(map[*node]int, len(live))
	for i, n := range live {
		if _, found := group[n]; found {
			continue
		}
		group[n] = i
		for todo := []*node{n}; len(todo) > 0; todo = todo[1:] {
			for _, p := range live {
				if _, found := group[p]; !found && w.reaches(todo[0], p) {
					group[p] = i
					todo = append(todo, p)
				}
			}
		}
	}
	return group
}

// probe forgets who has not been in reach for long, and exchanges views with those who are.
func (n *node) probe(group map[*node]int) {
	w := n.world
	for _, p := range slices.Clone(n.view) {
		switch at, found := group[p]; {
		case p == n:
		case found && at == group[n]:
			n.seen[p.member.Start] = w.now
		case w.now-n.seen[p.member.Start] > w.plan.suspicion:
			w.trace("%s takes %s for dead", n.name(), p.name())
			w.count["forgotten"]++
			n.forget(p)
		}
	}
	for _, p := range slices.Clone(n.view) {
		if p != n && w.reaches(n, p) {
			n.exchange(p, group)
			p.exchange(n, group)
		}
	}
}

// exchange takes over from another process's view who can be reached, be it through others, and mostly in which
// state they are.
func (n *node) exchange(p *node, group map[*node]int) {
	w := n.world
	for _, x := range p.view {
		start := x.member.Start
		known := slices.Contains(n.view, x)
		if at, found := group[x]; !known && found && at == group[n] && !x.left {
			n.view = append(n.view, x)
			n.heard[start], n.seen[start] = p.heard[start], w.now
			n.rejoin.Alive(x.member.GossipAddr)
			n.news = true
		} else if known && n.heard[start].number < p.heard[start].number && w.rand.IntN(3) > 0 {
			n.heard[start] = p.heard[start]
			n.news = true
		}
	}
}

// joinOthers joins whom the rejoin loop names.
func (n *node) joinOthers() {
	w := n.world
	w.after(200*time.Millisecond, func() {
		if n.dead {
			return
		}
		for _, address := range n.rejoin.Due(n.clock()) {
			if n.rejoin.Missing(address) {
				w.after(w.delay(), func() { n.meet(address) })
			}
		}
		n.joinOthers()
	})
}

// tell tells the core who is alive, if that has changed.
func (n *node) tell() {
	if !n.news || n.dead {
		return
	}
	n.news = false
	others := make([]gossip.Member, 0, len(n.view))
	for _, p := range n.view {
		if p != n {
			m := p.member
			m.State = n.heard[m.Start].state
			others = append(others, m)
		}
	}
	n.core.SetMembers(others)
}

// meet exchanges views with the process at an address, if there is one that can be reached.
func (n *node) meet(address string) {
	w := n.world
	for _, m := range w.machines {
		p := m.process
		if p == nil || p == n || p.member.GossipAddr != address || !w.reaches(n, p) {
			continue
		}
		w.trace("%s joins %s", n.name(), p.name())
		group := w.groups(w.live())
		n.exchange(p, group)
		p.exchange(n, group)
		n.tell()
		p.tell()
	}
}

// forget takes a process that is taken for dead, or said goodbye, out of the view.
func (n *node) forget(p *node) {
	n.view = slices.DeleteFunc(n.view, func(x *node) bool { return x == p })
	n.news = true
	if n.heard[p.member.Start].state == gossip.Draining {
		n.rejoin.Left(p.member.GossipAddr)
	} else {
		n.rejoin.Lost(p.member.GossipAddr, n.clock())
	}
}

// announce says in which state the process is. It spreads from view to view.
func (n *node) announce(state gossip.MemberState) {
	n.world.trace("%s is %s", n.name(), [...]string{"", "joining", "active", "draining"}[state])
	said := n.heard[n.member.Start]
	n.heard[n.member.Start] = word{state, said.number + 1}
	n.core.SetDraining(state == gossip.Draining)
	n.news = true
	n.tell()
}

// sayGoodbye tells those who can be reached that the process is about to end.
func (n *node) sayGoodbye() {
	w := n.world
	n.left = true
	for _, p := range w.live() {
		if p == n || !w.reaches(n, p) {
			continue
		}
		w.after(w.delay(), func() {
			if slices.Contains(p.view, n) {
				p.forget(n)
				p.tell()
			}
		})
	}
}
