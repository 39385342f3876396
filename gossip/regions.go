package gossip

import (
	"cmp"
	"slices"
	"time"
)

const (
	tellRegionsEvery = 10 * time.Second // a bridge, unless something changed: a link loses no word but where it overflows
	settleFor        = 10 * time.Second // after a loss, until those who compare have done so

	maxWays = 8 // to a region: more than there are bridges while they change
)

// region is another region, as this node knows it.
type region struct {
	name  string
	hash  uint64
	ways  []way     // to it, the best first; none while it cannot be reached
	via   *peer     // of the first one, when it was looked at last; or nil
	since time.Time // when it became reachable, or ceased to be
	told  bool      // this node told its own region that it reaches it

	// broken counts how often something may have been lost on this node's own links with the region.
	broken  uint64
	settles time.Time // until then, this node does not know whether its region lacks something of it

	roster    roster    // as the first way told last
	placement placement // the sites and the owners of slots there
	remotes   []*peer   // the processes there, by start id
	past      Counters  // of those that were there before
	holders   int       // how many of them are to hold a change

	crossings Crossings
}

// way is how to get to a region: by a link of this node with a bridge there, or by a bridge of this region that has
// one. It is there as long as the link, unless the peer says otherwise.
type way struct {
	via  *peer
	word word
}

// byWay orders ways, the best first: own links, and then bridges by election.
func byWay(a, b way) int {
	return cmp.Or(cmp.Compare(flag(b.via.abroad), flag(a.via.abroad)), byElection(a.via.who, b.via.who))
}

// regionHash stands for the name of a region.
func regionHash(name string) uint64 { return hashAddr(name) }

// reachable reports whether there is a way.
func (r *region) reachable() bool { return len(r.ways) > 0 }

// link returns this node's own link with the region, or nil.
func (r *region) link() *peer {
	if len(r.ways) > 0 && r.ways[0].via.abroad {
		return r.ways[0].via
	}
	return nil
}

// region returns another region by its hash, or nil.
func (c *Core) region(hash uint64) *region {
	for _, r := range c.regions {
		if r.hash == hash {
			return r
		}
	}
	return nil
}

// meetRegion returns another region by its name, which may be a new one. It is nil where there are so many that no
// more are told apart. The mutex is held.
func (c *Core) meetRegion(name string) *region {
	i, found := slices.BinarySearchFunc(c.regions, name, func(r *region, name string) int { return cmp.Compare(r.name, name) })
	if found {
		return c.regions[i]
	}
	if len(c.regions) == maxRegions {
		return nil
	}
	r := &region{name: name, hash: regionHash(name), since: c.o.Now()}
	c.regions = slices.Insert(c.regions, i, r)
	return r
}

// takeRegion takes what a peer tells of a region: a bridge of that region, or one of this node's.
func (c *Core) takeRegion(p *peer, it *item) {
	w, _ := decodeWord(it) // it is valid
	c.mu.Lock()
	defer c.mu.Unlock()
	var r *region
	if w.region != c.o.Self.Region && (!p.abroad || w.region == p.who.Region) {
		r = c.meetRegion(w.region)
	}
	switch {
	case r == nil:
		c.refusedCrossings++
	case len(w.roster.sites) == 0:
		c.dropWay(r, p)
	case p.up:
		c.addWay(r, way{via: p, word: w})
	}
}

// addWay notes a way, which may be known. The mutex is held.
func (c *Core) addWay(r *region, w way) {
	i := slices.IndexFunc(r.ways, func(known way) bool { return known.via == w.via })
	switch {
	case i >= 0:
		if r.ways[i].word.losses != w.word.losses {
			c.lose(r, false)
		}
		r.ways[i] = w
	case len(r.ways) == maxWays:
		c.refusedCrossings++
		return
	default:
		r.ways = append(r.ways, w)
	}
	slices.SortFunc(r.ways, byWay)
	c.follow(r)
}

// dropWay notes that a way is no more, and reports whether it was one. What was on it may be lost. The mutex is held.
func (c *Core) dropWay(r *region, via *peer) (was bool) {
	i := slices.IndexFunc(r.ways, func(w way) bool { return w.via == via })
	if i < 0 {
		return false
	}
	r.ways = slices.Delete(r.ways, i, i+1)
	c.lose(r, via.abroad)
	c.follow(r)
	return true
}

// dropWays drops those that a peer was on. If it was a bridge of this region, what it passed on to owners may have come to
// some of them only. The mutex is held.
func (c *Core) dropWays(via *peer) {
	was := false
	for _, r := range c.regions {
		was = c.dropWay(r, via) || was
	}
	if !was || via.abroad {
		return
	}
	now := c.o.Now()
	for _, p := range c.peers {
		if p.up {
			p.compareSoon(c.o.Self.Start, now)
		}
	}
}

// loseOn notes that something was dropped that was to go to a peer, maybe what this node tells of regions, or what goes to
// other regions by way of it. The mutex is held.
func (c *Core) loseOn(via *peer) {
	if soon := c.o.Now().Add(repairEvery); soon.Before(c.wordAt) {
		c.wordAt = soon
	}
	for _, r := range c.regions {
		if r.via == via {
			c.lose(r, via.abroad)
		}
	}
}

// lose notes that something may have been lost on the way to a region: on an own link, of which the others of this
// region are told, or elsewhere. The mutex is held.
func (c *Core) lose(r *region, own bool) {
	now := c.o.Now()
	r.settles = now.Add(settleFor)
	if own {
		r.broken++
		c.wordAt = now
	}
	for _, p := range r.remotes {
		c.needSync(p, "something may have been lost on the way to its region")
		p.compareSoon(c.o.Self.Start, now)
	}
}

// follow goes by the best way there is now, and believes what that tells of the region. The mutex is held.
func (c *Core) follow(r *region) {
	now := c.o.Now()
	var via *peer
	if r.reachable() {
		via = r.ways[0].via
	}
	switched := via != r.via
	if switched {
		if via == nil || r.via == nil {
			r.since = now
		}
		if via != nil && r.via != nil {
			c.lose(r, false) // what goes by two ways may come in any order
		}
		r.via = via
		c.wordAt = now
	}
	news := via != nil && !r.ways[0].word.roster.equal(r.roster)
	if news {
		r.roster = r.ways[0].word.roster
		c.wordAt = now // so do those who go by way of this node
	}
	if news || switched {
		c.settle(r)
	}
}

// tellRegions tells the peers of this region which others this node reaches, and bridges of these of this one. The
// mutex is held.
func (c *Core) tellRegions(now time.Time) {
	if now.Before(c.wordAt) {
		return
	}
	c.wordAt = now.Add(tellRegionsEvery)
	if c.bridge {
		c.tellAll(c.abroad, &word{region: c.o.Self.Region, roster: c.roster()})
	}
	for _, r := range c.regions {
		link := r.link()
		if link == nil && !r.told {
			continue
		}
		r.told = link != nil
		w := word{region: r.name, losses: r.broken}
		if r.told {
			w.roster = r.ways[0].word.roster
		}
		c.tellAll(c.peers, &w)
	}
}

func (c *Core) tellAll(peers []*peer, w *word) {
	it := w.item()
	encoded := it.encode()
	for _, p := range peers {
		if p.up {
			c.offer(p, entry{encoded: encoded}, time.Time{})
		}
	}
}
