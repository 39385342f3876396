package gossip

// Member is a process of the cluster.
type Member struct {
	Start  uint64 // the start id, drawn when the process starts: a process that comes back is another holder
	Name   string // of the process, unique in the cluster
	Region string
	Zone   string // nodes of one zone fail together; empty where there are none
	State  MemberState

	LinkAddr   string // host:port of its link listener
	GossipAddr string // host:port of its memberlist, in the pool that tells of it
	APIAddr    string // host:port of its HTTP API

	MinWire, MaxWire uint64 // versions of the frames that it understands

	Keys []Fingerprint // of its cluster keys, of the one in use first; none of a process that does not tell

	WANAddr string // host:port of its memberlist of all regions; empty where it is in none, and in what that pool tells
	Bridge  bool   // it talks to other regions; told in that pool and on links only
}

// MemberState is where a process is in its life.
type MemberState uint8

// States of a member.
const (
	Joining MemberState = iota + 1
	Active
	Draining // about to leave: nobody counts on what it holds
)

// Versions of the frames that this code understands.
const (
	MinWire = 1
	MaxWire = 1
)
