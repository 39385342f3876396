package sim

import (
	"slices"
	"time"

	"cartd/gossip"
)

// Membership is a model of memberlist: processes probe each other, directly and through others; news
// of who is alive spreads among those that can talk; who cannot be reached for a while is taken for dead
// and forgotten. Two groups that forgot each other stay apart until somebody joins.
// Whom to join, and when, is production code: gossip.Rejoin.
const probeEvery = 200 * time.Millisecond

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
			n.view = slices.DeleteFunc(n.view, func(x *node) bool { return x == p })
			n.rejoin.Lost(p.member.GossipAddr, n.clock())
			n.news = true
		}
	}
	for _, p := range slices.Clone(n.view) {
		if p != n && w.reaches(n, p) {
			n.exchange(p, group)
			p.exchange(n, group)
		}
	}
}

// exchange takes over from another process's view who can be reached, be it through others.
func (n *node) exchange(p *node, group map[*node]int) {
	for _, x := range p.view {
		if at, found := group[x]; found && at == group[n] && !slices.Contains(n.view, x) {
			n.view = append(n.view, x)
			n.seen[x.member.Start] = n.world.now
			n.rejoin.Alive(x.member.GossipAddr)
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
				w.after(w.delay(), func() { n.join(address) })
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
	members := make([]gossip.Member, len(n.view))
	for i, p := range n.view {
		members[i] = p.member
	}
	n.core.SetMembers(members)
}

// join exchanges views with the process at an address, if there is one that can be reached.
func (n *node) join(address string) {
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
