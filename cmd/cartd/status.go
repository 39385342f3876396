package main

import (
	"fmt"
	"time"

	"cartd/cart"
	"cartd/cart/postgres"
	"cartd/cart/sqlite"
	"cartd/gossip"
)

// status is a reading of a node, which /debug/cluster shows and the metrics are made of. Durations are in
// seconds.
type status struct {
	Version string            `json:"version"`
	Time    time.Time         `json:"time"` // of the node, when this was read
	Ready   bool              `json:"ready"`
	Checks  map[string]string `json:"checks"`

	// Of a node of a cluster.
	Node     *memberStatus   `json:"node,omitempty"` // this one
	Members  []memberStatus  `json:"members"`        // the others that are alive
	Links    []linkStatus    `json:"links"`          // with them, and with those that went away a moment ago
	Linked   int             `json:"linked"`         // nodes that can hold a write at present, beside this one
	Needed   int             `json:"needed"`         // of those, for a write to be acknowledged without the database
	Counters gossip.Counters `json:"counters"`       // of all links since the start
	Clock    clockStatus     `json:"clock"`
	Slots    *slotsStatus    `json:"slots,omitempty"`
	Forwards forwardsStatus  `json:"forwards"`
	Refused  refusedStatus   `json:"refused"`
	KeyFile  *keyFileStatus  `json:"key_file,omitempty"` // where the keys are from one

	// Of a node that reaches other regions.
	WANAddress string         `json:"wan_address,omitempty"`
	WANSeeds   int            `json:"wan_seeds,omitempty"`   // addresses of --join-wan
	WANMembers []memberStatus `json:"wan_members,omitempty"` // the other nodes of all regions that are alive
	WANStrays  []string       `json:"wan_strays,omitempty"`  // names of those that say they are of this region, and have not been in it for 3 minutes
	Regions    []regionStatus `json:"regions,omitempty"`     // the others
	Abroad     int            `json:"abroad"`                // processes there that can hold a write at present

	Carts *cartsStatus `json:"carts,omitempty"` // nothing until the store is open
	Store *storeStatus `json:"store,omitempty"`
}

// memberStatus is a process of the region.
type memberStatus struct {
	Name          string `json:"name"`
	StartID       string `json:"start_id"`
	Region        string `json:"region"`
	Zone          string `json:"zone"`
	State         string `json:"state"` // joining, active or draining
	GossipAddress string `json:"gossip_address"`
	LinkAddress   string `json:"link_address"`
	APIAddress    string `json:"api_address"`
	WireMin       uint64 `json:"wire_min"`
	WireMax       uint64 `json:"wire_max"`

	Keys []string `json:"keys"` // fingerprints of its cluster keys, of the one in use first

	Bridge bool `json:"bridge,omitempty"` // it talks to other regions; said of this node, and of those of all regions
}

// regionStatus is another region. Only a bridge has links with it.
type regionStatus struct {
	Region    string       `json:"region"`
	Reachable bool         `json:"reachable"` // from this node, whoever the way goes by
	Since     time.Time    `json:"since"`     // that is so, or not
	Via       string       `json:"via,omitempty"`
	RoundTrip float64      `json:"round_trip_seconds"` // by the fastest link of this node; 0 where it has none
	Bridges   []linkStatus `json:"bridges"`

	Sites      int              `json:"sites"`     // that own slots there
	Processes  int              `json:"processes"` // that run there
	NeedSync   int              `json:"need_sync"` // of these, to be compared with this one, since something may have been lost
	Repairing  int              `json:"repairing"` // of these, being compared
	OwedStates int              `json:"owed_states"`
	Crossings  gossip.Crossings `json:"crossings"`
	Repairs    gossip.Counters  `json:"repairs"` // with the processes there

	Lag float64 `json:"lag_seconds"` // the greatest age of what arrived from there in the last 10 to 20 s

	lags cart.Latencies // since the start
}

// linked returns how many links of this node with the region are up.
func (r *regionStatus) linked() (n int) {
	for _, l := range r.Bridges {
		if l.Up {
			n++
		}
	}
	return n
}

// linkStatus is the link with a peer, up or not. The backlog is what waits to be sent or acknowledged.
type linkStatus struct {
	Peer      string    `json:"peer"` // its name
	StartID   string    `json:"start_id"`
	Up        bool      `json:"up"`
	Draining  bool      `json:"draining,omitempty"` // the peer is about to leave: what it holds does not count
	Since     time.Time `json:"since,omitzero"`     // when it came up
	Key       string    `json:"key,omitempty"`      // fingerprint of the one that the peer proved itself with
	Dialled   bool      `json:"dialled"`            // by this node
	Failures  uint64    `json:"dial_failures"`      // since it was up for a while
	LastError string    `json:"last_error,omitempty"`

	RoundTrip     float64 `json:"round_trip_seconds"`
	BacklogItems  int     `json:"backlog_items"`
	BacklogBytes  int     `json:"backlog_bytes"`
	Lag           float64 `json:"lag_seconds"` // age of the oldest of the backlog
	UnackedFrames int     `json:"unacknowledged_frames"`
	UnackedBytes  int     `json:"unacknowledged_bytes"`
	OwedStates    int     `json:"owed_states"` // whole carts that the peer is to get
	NeedsSync     bool    `json:"needs_sync"`
	Repairing     bool    `json:"repairing"`
	ClockOffset   float64 `json:"clock_offset_seconds"` // of the peer's clock from this node's

	Counters gossip.Counters `json:"counters"` // since the peer was met
}

type clockStatus struct {
	Offset float64 `json:"offset_seconds"` // of the others' clocks, their median
	Bad    bool    `json:"bad"`            // most of them are more than a minute off
}

// slotsStatus is how the slots that carts are in are placed, as far as this node knows.
type slotsStatus struct {
	Sites           int    `json:"sites"`            // addresses whose nodes own slots, those lost a moment ago included
	Own             int    `json:"own"`              // slots that this node owns
	Held            int    `json:"held"`             // that it keeps until their owners have what it has of them
	UnderReplicated int    `json:"under_replicated"` // with so few live owners that writes need another node, or the database
	Gained          uint64 `json:"gained"`           // that it came to own, since the start
	Lost            uint64 `json:"lost"`             // that it ceased to own, since the start
}

// forwardsStatus counts requests for carts, since the start.
type forwardsStatus struct {
	Forwarded uint64 `json:"forwarded"`  // this node does not own the cart, and an owner answered
	TakenOver uint64 `json:"taken_over"` // no owner answered, and this node did
	Unheeded  uint64 `json:"unheeded"`   // times that an owner was asked and did not answer
	ForOthers int64  `json:"for_others"` // another node passed it on, and this one answered
}

// refusedStatus counts what came from elsewhere and was not taken, by reason, since the start.
type refusedStatus struct {
	Network     map[string]uint64 `json:"network"`               // at the peer ports
	NetworkLast time.Time         `json:"network_last,omitzero"` // when there was the last of these
	Payloads    map[string]int64  `json:"payloads"`              // changes of carts, from peers
	Crossings   uint64            `json:"crossings"`             // between regions, from peers that may not send them, or about unknown ones
}

type cartsStatus struct {
	Resident        int64   `json:"resident"`
	MemoryBytes     int64   `json:"memory_bytes"`
	Evicted         int64   `json:"evicted"`
	Unsaved         int     `json:"unsaved"` // the store lacks something of them
	OldestUnsaved   float64 `json:"oldest_unsaved_seconds"`
	UnderReplicated int     `json:"under_replicated"` // of these: too few nodes are known to hold what the database lacks
	FlushPause      float64 `json:"flush_pause_seconds"`
	Indexed         bool    `json:"indexed"`
	Repeated        int64   `json:"repeated_payloads"` // changes from peers that told nothing new

	// Writes since the start.
	AckedByPeers    int64 `json:"acknowledged_by_peers"`
	AckedByDatabase int64 `json:"acknowledged_by_database"`
	NotDurable      int64 `json:"refused_not_durable"` // neither held them in time
	Hedges          int64 `json:"hedges"`              // that went to the database because peers were late
	AskedAbroad     int64 `json:"asked_abroad"`        // times that other regions were asked to hold a cart
}

type storeStatus struct {
	Kind         string    `json:"kind"` // postgres or sqlite
	At           string    `json:"at"`
	Reachable    bool      `json:"reachable"`
	AwaySince    time.Time `json:"away_since,omitzero"` // while it cannot be reached
	Outages      int64     `json:"outages"`
	LastError    string    `json:"last_error,omitempty"`
	StalledSince time.Time `json:"stalled_since,omitzero"` // while it takes no commit, reachable or not
	StalledBy    string    `json:"stalled_by,omitempty"`
	Commits      int64     `json:"commits"`
	Changes      int64     `json:"changes"`   // in the commits
	Conflicts    int64     `json:"conflicts"` // rows that another node changed at the same time
	Fragments    int64     `json:"fragments"` // changes kept apart because they could not be joined
	LastBatch    int       `json:"last_batch"`
	LastCommit   float64   `json:"last_commit_seconds"`
	Damaged      int       `json:"damaged"` // carts that fail their checksum
	Connections  int       `json:"connections"`
	Pending      int       `json:"pending"` // carts whose snapshot is behind the journal
	Journal      int64     `json:"journal_bytes"`

	latencies cart.Latencies // of the commits
}

// status reads the node.
func (n *node) status() *status {
	z := &status{Version: version(), Time: time.Now(), Members: []memberStatus{}, Links: []linkStatus{}}
	z.Checks, z.Ready = n.ready()
	if !n.serving.Load() {
		return z
	}
	carts := n.service.Stats()
	z.carts(carts, n.service.Indexed())
	z.store(n.store, n.storedIn)
	z.commits(carts)
	if n.region != nil {
		z.cluster(n.region.Status(), n.config.cluster.tolerate)
		z.lags(carts.Abroad)
		z.Abroad, z.WANSeeds = n.region.Core().Abroad(), len(n.config.cluster.joinWAN)
		z.Forwards.ForOthers = n.forwards.forOthers.Load()
		if n.keyWatch != nil {
			z.KeyFile = n.keyWatch.read()
		}
		offset, bad := n.region.Core().ClockSkew()
		z.Clock = clockStatus{offset.Seconds(), bad}
	}
	return z
}

func (z *status) carts(s cart.Stats, indexed bool) {
	z.Carts = &cartsStatus{
		Resident:        s.Resident,
		MemoryBytes:     s.Memory,
		Evicted:         s.Evicted,
		Unsaved:         s.Unsaved,
		OldestUnsaved:   s.OldestUnsaved.Seconds(),
		UnderReplicated: s.UnderReplicated,
		FlushPause:      s.FlushPause.Seconds(),
		Indexed:         indexed,
		Repeated:        s.Repeated,

		AckedByPeers:    s.AckedByPeers,
		AckedByDatabase: s.AckedByDatabase,
		NotDurable:      s.NotDurable,
		Hedges:          s.Hedges,
		AskedAbroad:     s.AskedAbroad,
	}
	z.Refused.Payloads = map[string]int64{
		"malformed":   s.Refused.Malformed,
		"too-new":     s.Refused.TooNew,
		"over-memory": s.Refused.OverMemory,
		"expired":     s.Refused.Expired,
	}
}

func (z *status) store(store cart.Store, at string) {
	switch store := store.(type) {
	case *postgres.Store:
		s := store.Stats()
		z.Store = &storeStatus{
			Kind: "postgres", At: at, Reachable: s.Reachable, AwaySince: s.AwaySince, Outages: s.Outages,
			Commits: s.Commits, Changes: s.Changes, Conflicts: s.Conflicts, Fragments: s.Fragments,
			LastBatch: s.LastBatch, LastCommit: s.LastCommit.Seconds(), Damaged: s.Damaged,
			Connections: s.Writers.Used + s.Readers.Used,
		}
		if s.LastError != nil {
			z.Store.LastError = s.LastError.Error()
		}
	case *sqlite.Store:
		s := store.Stats()
		z.Store = &storeStatus{
			Kind: "sqlite", At: at, Reachable: true,
			Commits: s.Commits, Changes: s.Changes,
			LastBatch: s.LastBatch, LastCommit: s.LastCommit.Seconds(), Damaged: s.Damaged,
			Pending: s.Pending, Journal: s.JournalBytes,
		}
	}
}

// commits tells how the store takes what it is given.
func (z *status) commits(s cart.Stats) {
	z.Store.latencies = s.Commits
	z.Store.StalledSince = s.StalledSince
	if s.StalledBy != nil {
		z.Store.StalledBy = s.StalledBy.Error()
	}
}

func (z *status) cluster(s gossip.NodeStatus, needed int) {
	self := memberStatusOf(s.Self)
	z.Node = &self
	for _, m := range s.Members {
		z.Members = append(z.Members, memberStatusOf(m))
	}
	connections := make(map[uint64]gossip.ConnectionStatus)
	for _, c := range s.Connections {
		connections[c.Start] = c
	}
	z.Needed = needed
	for _, l := range s.Core.Links {
		z.Links = append(z.Links, linkStatusOf(l, connections[l.Start]))
		if l.Up && !l.Draining {
			z.Linked++
		}
	}
	z.WANAddress, z.WANStrays = s.WANAddr, s.Strays
	for _, m := range s.WAN {
		z.WANMembers = append(z.WANMembers, memberStatusOf(m))
	}
	for _, r := range s.Core.Regions {
		region := regionStatus{
			Region: r.Region, Reachable: r.Reachable, Since: r.Since, Via: r.Via, RoundTrip: r.RoundTrip.Seconds(),
			Sites: r.Sites, Processes: r.Processes, NeedSync: r.NeedSync, Repairing: r.Repairing, OwedStates: r.OwedStates,
			Crossings: r.Crossings, Repairs: r.Repairs, Bridges: []linkStatus{},
		}
		for _, l := range r.Bridges {
			region.Bridges = append(region.Bridges, linkStatusOf(l, connections[l.Start]))
		}
		z.Regions = append(z.Regions, region)
	}
	z.Refused.Network, z.Refused.NetworkLast, z.Refused.Crossings = s.Refused, s.RefusedAt, s.Core.RefusedCrossings
	z.Counters = s.Core.Counters
	p := s.Core.Placement
	z.Slots = &slotsStatus{p.Sites, p.Own, p.Held, p.Short, p.Gained, p.Lost}
	z.Forwards.Forwarded, z.Forwards.TakenOver, z.Forwards.Unheeded = p.Forwarded, p.TakenOver, p.Unheeded
}

// lags tells how old what arrived from other regions was.
func (z *status) lags(by map[string]cart.Lag) {
	for i := range z.Regions {
		r := &z.Regions[i]
		lag := by[r.Region]
		r.Lag, r.lags = lag.Recent.Seconds(), lag.Latencies
	}
}

func memberStatusOf(m gossip.Member) memberStatus {
	return memberStatus{
		Name:          m.Name,
		StartID:       startID(m.Start),
		Region:        m.Region,
		Zone:          m.Zone,
		State:         stateName(m.State),
		GossipAddress: m.GossipAddr,
		LinkAddress:   m.LinkAddr,
		APIAddress:    m.APIAddr,
		WireMin:       m.MinWire,
		WireMax:       m.MaxWire,
		Keys:          fingerprints(m.Keys),
		Bridge:        m.Bridge,
	}
}

func linkStatusOf(l gossip.LinkStatus, c gossip.ConnectionStatus) linkStatus {
	z := linkStatus{
		Peer:          l.Peer,
		StartID:       startID(l.Start),
		Up:            l.Up,
		Draining:      l.Draining,
		Since:         c.Since,
		Key:           c.Key,
		Dialled:       c.Dialled,
		Failures:      c.Failures,
		LastError:     l.LastError,
		RoundTrip:     l.RoundTrip.Seconds(),
		BacklogItems:  l.BacklogItems,
		BacklogBytes:  l.BacklogBytes,
		Lag:           l.Lag.Seconds(),
		UnackedFrames: l.UnackedFrames,
		UnackedBytes:  l.UnackedBytes,
		OwedStates:    l.OwedStates,
		NeedsSync:     l.NeedsSync,
		Repairing:     l.Repairing,
		ClockOffset:   l.ClockOffset.Seconds(),
		Counters:      l.Counters,
	}
	if !l.Up && c.Error != "" {
		z.LastError = c.Error // why there is no link is the newer news
	}
	return z
}

// startID writes a start id as names and logs do.
func startID(id uint64) string { return fmt.Sprintf("%016x", id) }

func stateName(s gossip.MemberState) string {
	switch s {
	case gossip.Joining:
		return "joining"
	case gossip.Active:
		return "active"
	case gossip.Draining:
		return "draining"
	}
	return fmt.Sprintf("unknown (%d)", s)
}
