package gossip

import (
	"cmp"
	"slices"
	"time"
)

// maxBridges is how many bridges a region has.
const maxBridges = 2

// elect returns the bridges of a region: of its members those at the best addresses, by the hash of the address.
// What does not reach other regions, or drains, is none. One that joins is one only where active ones are missing: so
// the first nodes of a region that comes back get what the others have before they are active. All who know the same
// members elect the same, and the loss of one changes one at most. Two processes at one address, one of which is no
// more, are elected both.
func elect(members []Member) (bridges []Member) {
	candidates := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.WANAddr == "" || m.State == Draining })
	slices.SortFunc(candidates, func(a, b Member) int {
		return cmp.Or(cmp.Compare(flag(b.State == Active), flag(a.State == Active)), byElection(a, b))
	})
	addresses, last := 0, ""
	for _, m := range candidates {
		if m.GossipAddr != last {
			addresses, last = addresses+1, m.GossipAddr
		}
		if addresses > maxBridges {
			break
		}
		bridges = append(bridges, m)
	}
	return bridges
}

// byElection orders the candidates of an election, the best first.
func byElection(a, b Member) int {
	return cmp.Or(
		cmp.Compare(hashAddr(b.GossipAddr), hashAddr(a.GossipAddr)),
		cmp.Compare(a.GossipAddr, b.GossipAddr),
		cmp.Compare(a.Start, b.Start),
	)
}

// resignAfter is how long a node stays a bridge after others were elected: they take over before it goes, and a
// member that flaps closes no links.
const resignAfter = 3 * time.Second

// Term is the time that a process is a bridge of its region: from its election until 3 s after it is elected no more. A
// Term is not safe for concurrent use.
type Term struct {
	bridge bool
	ends   time.Time // zero while it is elected
	meets  time.Time // until then it may not know yet who are bridges
}

// NewTerm returns the Term of a process that starts now, and joins others of its region, or is told of none.
func NewTerm(joins bool, now time.Time) *Term {
	t := &Term{}
	if joins {
		t.meets = now.Add(meetFor)
	}
	return t
}

// Hold holds an election among the members of the region, self and the others, and reports whether self is a bridge. It
// is to be called when the members may have changed, and again after a time, unless that is 0.
func (t *Term) Hold(self Member, others []Member, now time.Time) (bridge bool, again time.Duration) {
	if wait := t.meets.Sub(now); wait > 0 && self.State == Joining {
		return false, wait
	}
	is := func(m Member) bool { return m.Start == self.Start }
	return t.next(slices.ContainsFunc(elect(append(slices.Clone(others), self)), is), now)
}

// next takes the result of an election, which may be the one before again. See Hold.
func (t *Term) next(elected bool, now time.Time) (bridge bool, again time.Duration) {
	switch {
	case elected:
		t.bridge, t.ends = true, time.Time{}
	case t.bridge && t.ends.IsZero():
		t.ends = now.Add(resignAfter)
	case t.bridge && !now.Before(t.ends):
		t.bridge, t.ends = false, time.Time{}
	}
	if t.ends.IsZero() {
		return t.bridge, 0
	}
	return t.bridge, t.ends.Sub(now)
}

// BridgesAbroad returns those of the other processes in the pool of all regions that are bridges of other regions than
// self's. A bridge has links with them.
func BridgesAbroad(self Member, others []Member) []Member {
	return slices.DeleteFunc(slices.Clone(others), func(m Member) bool { return m.Region == self.Region || !m.Bridge })
}
