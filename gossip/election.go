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
	candidates := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return !m.WAN || m.State == Draining })
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

// term is the time that a node is a bridge: from its election until resignAfter after it is elected no more.
type term struct {
	bridge bool
	ends   time.Time // zero while it is elected
}

// next takes the result of an election, which may be the one before again, and reports whether the node is a bridge. It is
// to be called again after a time, unless that is 0.
func (t *term) next(elected bool, now time.Time) (bridge bool, again time.Duration) {
	switch {
	case elected:
		*t = term{bridge: true}
	case t.bridge && t.ends.IsZero():
		t.ends = now.Add(resignAfter)
	case t.bridge && !now.Before(t.ends):
		*t = term{}
	}
	if t.ends.IsZero() {
		return t.bridge, 0
	}
	return t.bridge, t.ends.Sub(now)
}
