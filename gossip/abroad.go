package gossip

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// A peer of another region is abroad: it is no owner and no holder of anything here, nor does repair compare itself
// with it. Its link tells that its region can be reached.

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

// takeAbroad takes the items of a frame from another region. None cross yet.
func (*Core) takeAbroad(_ *peer, r *reader) error {
	r.fail("%d bytes of items from another region", len(r.b))
	return r.err
}

// RegionStatus is what there is to see of another region.
type RegionStatus struct {
	Region    string        `json:"region"`
	Reachable bool          `json:"reachable"`     // from this node: a link with one of the bridges is up
	RoundTrip time.Duration `json:"round_trip_ns"` // of the fastest such link
	Bridges   []LinkStatus  `json:"bridges"`       // by start id; a node that is no bridge has no link with them
}

// regions returns the other regions that are known, by name. The mutex is held.
func (c *Core) regions(now time.Time) []RegionStatus {
	regions := []RegionStatus{}
	for _, p := range c.abroad {
		i, found := slices.BinarySearchFunc(regions, p.who.Region, func(r RegionStatus, name string) int {
			return cmp.Compare(r.Region, name)
		})
		if !found {
			regions = slices.Insert(regions, i, RegionStatus{Region: p.who.Region, Bridges: []LinkStatus{}})
		}
		if r := &regions[i]; p.up || p.member {
			r.Bridges = append(r.Bridges, p.status(now))
			if p.up && (!r.Reachable || p.roundTrip < r.RoundTrip) {
				r.Reachable, r.RoundTrip = true, p.roundTrip
			}
		}
	}
	return regions
}
