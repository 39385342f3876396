package gossip

import (
	"cmp"
	"slices"
	"time"
)

// NodeStatus is what there is to see of a node.
type NodeStatus struct {
	Self        Member             `json:"self"`
	Members     []Member           `json:"members"`             // the others of the region, as far as memberlist takes them for alive
	WANAddr     string             `json:"wan_addr,omitempty"`  // host:port of the memberlist of all regions; empty without
	WAN         []Member           `json:"wan,omitempty"`       // the others there, with their addresses there
	Strays      []string           `json:"strays,omitempty"`    // names of those there that say they are of this region, and have not been in it for 3 minutes
	Connections []ConnectionStatus `json:"connections"`         // by start id of the peer
	Refused     map[string]uint64  `json:"refused"`             // what came from the network and was refused, by reason
	RefusedAt   time.Time          `json:"refused_at,omitzero"` // the last of it
	Core        Status             `json:"core"`
}

// ConnectionStatus is the connection with a peer, up or not.
type ConnectionStatus struct {
	Peer     string    `json:"peer"` // its name
	Start    uint64    `json:"start,string"`
	Up       bool      `json:"up"`
	Since    time.Time `json:"since,omitzero"` // when it came up
	Wire     uint64    `json:"wire,omitempty"` // the version of the frames
	Key      string    `json:"key,omitempty"`  // fingerprint of the key that the peer proved itself with
	Dialled  bool      `json:"dialled"`        // this process dials, and not the peer
	Failures uint64    `json:"failures"`       // in dialling, since the last connection that was steady
	Error    string    `json:"error,omitempty"`
}

// Status returns what there is to see.
func (n *Node) Status() NodeStatus {
	s := NodeStatus{Core: n.core.Status()}
	s.Refused, s.RefusedAt = n.refused.snapshot()
	s.Self, s.Members = n.members.all()
	up := n.links.all()
	for _, l := range up {
		s.Connections = append(s.Connections, n.connection(s.Self, l.peer, l))
	}
	expected := s.Members
	if n.wan != nil {
		var self Member
		self, s.WAN = n.wan.pool.all()
		s.WANAddr, s.Strays = self.GossipAddr, n.wan.strays.names()
		if s.Self.Bridge = self.Bridge; self.Bridge {
			expected = slices.Concat(expected, BridgesAbroad(self, s.WAN))
		}
	}
	for _, m := range expected {
		if up[m.Start] == nil {
			s.Connections = append(s.Connections, n.connection(s.Self, m, nil))
		}
	}
	slices.SortFunc(s.Connections, func(a, b ConnectionStatus) int { return cmp.Compare(a.Start, b.Start) })
	return s
}

func (n *Node) connection(self, peer Member, l *link) ConnectionStatus {
	c := ConnectionStatus{Peer: peer.Name, Start: peer.Start, Dialled: self.Start < peer.Start}
	if l != nil {
		c.Up, c.Since, c.Wire, c.Key = true, l.since, l.wire, l.proven.String()
	}
	dials := n.dials
	if peer.Region != self.Region {
		dials = n.wan.dials
	}
	failures, err := dials.last(peer.Start)
	if c.Failures = failures; err != nil {
		c.Error = err.Error()
	}
	return c
}
