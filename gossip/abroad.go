package gossip

import (
	"errors"
	"slices"
	"time"
)

// A bridge of another region is abroad: it is no owner and no holder of anything here, nor does repair compare itself
// with it. What goes on its link is what regions tell of themselves, and what crosses.

// SetBridges tells whether this node is a bridge, and which bridges of other regions there are. Only a bridge has
// links with these: the caller closes those that are up when it ceases to be one.
func (c *Core) SetBridges(bridge bool, abroad []Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bridge = bridge
	for _, m := range abroad {
		c.meet(m).who = m
	}
	present(c.abroad, abroad, c.o.Now())
}

var errNoBridge = errors.New("gossip: a link with another region, and this node is no bridge")

// RegionStatus is what there is to see of another region.
type RegionStatus struct {
	Region    string        `json:"region"`
	Reachable bool          `json:"reachable"`     // there is a way to it from this node
	Since     time.Time     `json:"since"`         // that is so, or not
	Via       string        `json:"via,omitempty"` // the peer that the way goes by: a bridge there, or one of this region
	RoundTrip time.Duration `json:"round_trip_ns"` // of the fastest link with it; of a bridge
	Bridges   []LinkStatus  `json:"bridges"`       // by start id; a node that is no bridge has no link with them

	Sites      int `json:"sites"`       // that own slots there, as its bridge told last
	Processes  int `json:"processes"`   // that run there
	NeedSync   int `json:"need_sync"`   // of these, those that may lack, or have, what this node has, or lacks
	Repairing  int `json:"repairing"`   // of these, those that this node is being compared with
	OwedStates int `json:"owed_states"` // whole carts that they are to get

	Crossings Crossings `json:"crossings"`
	Repairs   Counters  `json:"repairs"` // of the processes there, since the start
}

// regionStatus returns what there is to see of the other regions, by name. The mutex is held.
func (c *Core) regionStatus(now time.Time) []RegionStatus {
	all := make([]RegionStatus, 0, len(c.regions))
	for _, r := range c.regions {
		s := RegionStatus{
			Region: r.name, Reachable: r.reachable(), Since: r.since, Bridges: []LinkStatus{},
			Sites: len(r.placement.sites), Processes: len(r.remotes), Crossings: r.crossings,
			Repairs: r.past,
		}
		if r.via != nil {
			s.Via = r.via.who.Name
		}
		for _, p := range r.remotes {
			s.NeedSync += int(flag(p.needsSync))
			s.Repairing += int(flag(p.own != nil))
			s.OwedStates += p.owed.len()
			s.Repairs.add(&p.counters)
		}
		for _, p := range c.abroad {
			if p.who.Region != r.name || !p.up && !p.member {
				continue
			}
			s.Bridges = append(s.Bridges, p.status(now))
			if p.up && (s.RoundTrip == 0 || p.roundTrip < s.RoundTrip) {
				s.RoundTrip = p.roundTrip
			}
		}
		all = append(all, s)
	}
	return slices.Clip(all)
}
