package gossip

import "slices"

// Bounds of what is told of regions.
const (
	maxRegions  = 64
	maxSites    = 1024 // of a region, those of processes that own nothing included
	maxReplicas = 64   // owners of a cart
)

// roster is what a region tells the others of itself: where its processes run, so that everybody finds out who owns
// what there.
type roster struct {
	replicas int // owners of a cart
	sites    []seat
}

// seat is a site in a roster.
type seat struct {
	hash  uint64 // of its address; 0 of a process that owns nothing yet
	zone  string
	start uint64 // of the process there; 0 if there is none just now
}

// word is what a process tells of a region: a bridge of the regions that it reaches to its own region, and of its own
// region to bridges of others.
type word struct {
	region string
	// losses changes when something may have been lost on the way to the region.
	losses uint64
	// roster has no sites where the region cannot be reached this way.
	roster roster
}

func (w *word) item() item {
	b := appendString(nil, w.region)
	b = appendUint(b, uint64(w.roster.replicas))
	b = appendArray(b, len(w.roster.sites))
	for _, s := range w.roster.sites {
		b = appendUint(b, s.hash)
		b = appendString(b, s.zone)
		b = appendUint(b, s.start)
	}
	return item{kind: kindRegion, m: w.losses, body: b}
}

const minSeat = 3 // bytes of an encoded one

// decodeWord reads what an item tells of a region. No process is in a roster twice.
func decodeWord(it *item) (word, error) {
	r := reader{b: it.body}
	w := word{region: r.text(maxPlace), losses: it.m}
	replicas := r.uint()
	n := r.array(minSeat)
	if replicas > maxReplicas || n > maxSites || n > 0 && replicas == 0 {
		r.fail("a roster of %d sites, %d of them for each cart", n, replicas)
		return word{}, r.err
	}
	w.roster = roster{replicas: int(replicas), sites: make([]seat, n)}
	starts := make([]uint64, 0, n)
	for i := range w.roster.sites {
		s := seat{hash: r.uint(), zone: r.text(maxPlace), start: r.uint()}
		w.roster.sites[i] = s
		if s.start != 0 {
			starts = append(starts, s.start)
		}
		if s.hash == 0 && s.start == 0 {
			r.fail("a site that is none")
		}
	}
	live := len(starts)
	slices.Sort(starts)
	if len(slices.Compact(starts)) < live {
		r.fail("a process at two sites")
	}
	r.end()
	return w, r.err
}

func (r roster) equal(other roster) bool {
	return r.replicas == other.replicas && slices.Equal(r.sites, other.sites)
}

// roster returns that of this node's region, as this node knows it. The mutex is held.
func (c *Core) roster() roster {
	z := roster{replicas: c.o.Replicas}
	listed := make(map[uint64]bool, len(c.placement.sites))
	for _, s := range c.placement.sites {
		live := seat{hash: s.hash, zone: s.zone}
		switch {
		case s.peer == nil:
			live.start = c.o.Self.Start
		case s.peer.stays():
			live.start = s.peer.start
		}
		listed[live.start] = true
		z.sites = append(z.sites, live)
	}
	for _, p := range c.peers {
		if p.stays() && !p.leaves() && !listed[p.start] {
			z.sites = append(z.sites, seat{zone: p.who.Zone, start: p.start})
		}
	}
	z.sites = z.sites[:min(len(z.sites), maxSites)]
	return z
}
