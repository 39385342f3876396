package gossip

import (
	"slices"
	"time"
)

// Status is what there is to see of a Core.
type Status struct {
	Links     []LinkStatus    `json:"links"`    // with peers of the region, by start id of the peer
	Bridge    bool            `json:"bridge"`   // this node talks to other regions
	Regions   []RegionStatus  `json:"regions"`  // the others
	Counters  Counters        `json:"counters"` // of all peers since the start, those that were forgotten included
	Placement PlacementStatus `json:"placement"`

	// RefusedCrossings are items from peers about regions that are not known, or that these may not tell of.
	RefusedCrossings uint64 `json:"refused_crossings"`
}

// PlacementStatus is what there is to see of the slots, as this node knows them, and of the requests for carts that
// it does not own.
type PlacementStatus struct {
	Sites int `json:"sites"` // that own slots
	Own   int `json:"own"`   // slots that this node owns
	Held  int `json:"held"`  // slots that it does not own, and keeps until their owners have what it has of them
	Short int `json:"short"` // slots with no more live owners than nodes may fail at once: their writes need others

	Gained uint64 `json:"gained"` // slots that it came to own since its start
	Lost   uint64 `json:"lost"`   // slots that it ceased to own

	Forwarded uint64 `json:"forwarded"`  // requests that an owner answered
	TakenOver uint64 `json:"taken_over"` // requests that no owner answered, so that this node did
	Unheeded  uint64 `json:"unheeded"`   // times that an owner was asked and did not answer
}

// LinkStatus is what there is to see of a peer and of the link with it.
type LinkStatus struct {
	Peer   string `json:"peer"` // its name
	Start  uint64 `json:"start,string"`
	Region string `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"`

	Up        bool `json:"up"`
	Draining  bool `json:"draining"` // the peer is about to leave: what it holds does not count
	NeedsSync bool `json:"needs_sync"`
	Repairing bool `json:"repairing"` // a session of repair that this node opened is going on

	RoundTrip   time.Duration `json:"round_trip_ns"`
	ClockOffset time.Duration `json:"clock_offset_ns"` // of the peer's clock from this node's

	BacklogItems  int `json:"backlog_items"` // that wait to be sent, or to be acknowledged
	BacklogBytes  int `json:"backlog_bytes"`
	UnackedFrames int `json:"unacked_frames"`
	UnackedBytes  int `json:"unacked_bytes"`
	OwedStates    int `json:"owed_states"` // whole carts that the peer is to get

	Lag time.Duration `json:"lag_ns"` // age of the oldest item of the backlog; 0 if there is none

	LastError string   `json:"last_error,omitempty"`
	Counters  Counters `json:"counters"`
}

// Counters count what happened on links.
type Counters struct {
	FramesSent     uint64 `json:"frames_sent"`
	BytesSent      uint64 `json:"bytes_sent"`
	ItemsSent      uint64 `json:"items_sent"` // in these frames; those that were sent again count again
	FramesReceived uint64 `json:"frames_received"`
	BytesReceived  uint64 `json:"bytes_received"`

	Duplicates uint64 `json:"duplicates"` // frames that came again
	Gaps       uint64 `json:"gaps"`       // frames that came before one that was missing
	Malformed  uint64 `json:"malformed"`  // frames that could not be decoded

	Refused       uint64 `json:"refused"`         // items that came and were not held
	RefusedByPeer uint64 `json:"refused_by_peer"` // items that were sent and not held

	Overflows uint64 `json:"overflows"` // times that an outbox, or what is to be done for a peer, had no room
	Dropped   uint64 `json:"dropped"`   // items that were not sent, or not looked at, for that reason

	Repairs      uint64 `json:"repairs"`       // sessions of repair that this node opened
	RepairsEqual uint64 `json:"repairs_equal"` // of these, those that found no difference
	RepairsDone  uint64 `json:"repairs_done"`  // of these, those that dealt with all differences
	StatesSent   uint64 `json:"states_sent"`   // whole carts
}

// add adds d to c.
func (c *Counters) add(d *Counters) {
	c.FramesSent += d.FramesSent
	c.BytesSent += d.BytesSent
	c.ItemsSent += d.ItemsSent
	c.FramesReceived += d.FramesReceived
	c.BytesReceived += d.BytesReceived
	c.Duplicates += d.Duplicates
	c.Gaps += d.Gaps
	c.Malformed += d.Malformed
	c.Refused += d.Refused
	c.RefusedByPeer += d.RefusedByPeer
	c.Overflows += d.Overflows
	c.Dropped += d.Dropped
	c.Repairs += d.Repairs
	c.RepairsEqual += d.RepairsEqual
	c.RepairsDone += d.RepairsDone
	c.StatesSent += d.StatesSent
}

// Status returns what there is to see.
func (c *Core) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.o.Now()
	s := Status{Links: make([]LinkStatus, 0, len(c.peers)), Bridge: c.bridge, Regions: c.regionStatus(now), Counters: c.forgotten}
	s.RefusedCrossings = c.refusedCrossings
	s.Placement = PlacementStatus{
		Sites: len(c.placement.sites),
		Own:   c.placement.own.len(),
		Held:  c.held.slots.len(),
		Short: c.placement.short,

		Gained: c.held.gained,
		Lost:   c.held.lost,

		Forwarded: c.forwards.forwarded,
		TakenOver: c.forwards.takenOver,
		Unheeded:  c.forwards.unheeded,
	}
	for _, p := range c.peers {
		s.Links = append(s.Links, p.status(now))
	}
	for p := range c.partners {
		s.Counters.add(&p.counters)
	}
	for _, p := range c.abroad {
		s.Counters.add(&p.counters)
	}
	return s
}

func (p *peer) status(now time.Time) LinkStatus {
	return LinkStatus{
		Peer:   p.who.Name,
		Start:  p.start,
		Region: p.who.Region,
		Zone:   p.who.Zone,

		Up:        p.up,
		Draining:  p.draining,
		NeedsSync: p.needsSync,
		Repairing: p.own != nil,

		RoundTrip:   p.roundTrip,
		ClockOffset: p.offset,

		BacklogItems:  p.out.sent + p.out.waiting(),
		BacklogBytes:  p.out.bytes,
		UnackedFrames: p.out.frames.len(),
		UnackedBytes:  p.out.sentBytes,
		OwedStates:    p.owed.len(),
		Lag:           p.out.lag(now),

		LastError: p.lastErr,
		Counters:  p.counters,
	}
}

// maxSkew is how far the clocks of nodes may be apart.
const maxSkew = time.Minute

// ClockSkew compares the clock of this node with those of its live peers. The offset is the median of
// theirs from this node's, and of two middle ones the smaller: of three nodes the one that is off is off both
// others, and they are not. bad reports that more than half of them are off by more than a minute.
func (c *Core) ClockSkew() (offset time.Duration, bad bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var offsets []time.Duration
	far := 0
	for _, p := range c.peers {
		if !p.up || !p.told {
			continue
		}
		offsets = append(offsets, p.offset)
		if p.offset.Abs() > maxSkew {
			far++
		}
	}
	if len(offsets) == 0 {
		return 0, false
	}
	slices.Sort(offsets)
	lower, upper := offsets[(len(offsets)-1)/2], offsets[len(offsets)/2]
	if lower.Abs() < upper.Abs() {
		upper = lower
	}
	return upper, 2*far > len(offsets)
}
