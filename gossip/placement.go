package gossip

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"
)

// replaceAfter is how long a site keeps its slots after its process was lost without a word, so that one that
// restarts finds them where they were.
const replaceAfter = 30 * time.Second

// site is where a process of the region runs: its gossip address. A process that restarts there owns what the one
// before it owned.
type site struct {
	addr  string
	zone  string
	hash  uint64 // of addr
	score uint64 // for the slot that is being ranked
	peer  *peer  // the process; nil if it is this one
}

func newSite(m Member, p *peer) site {
	return site{addr: m.GossipAddr, zone: m.Zone, hash: hashAddr(m.GossipAddr), peer: p}
}

// hashAddr returns the hash of a gossip address. Those of similar addresses are unlike each other.
func hashAddr(addr string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(addr)) // it never fails
	return mix(h.Sum64())
}

// rank orders sites by how much they are to own a slot, by rendezvous hashing: a site that comes or goes moves
// only those slots that it wins or loses. The best of each zone go before all others, so that the first few are in
// as many zones as there are; a site without a zone is in one of its own. Every node of a region finds the
// same order. See Thaler and Ravishankar, A Name-Based Mapping Scheme for Rendezvous, 1996.
func rank(slot int, sites []site) {
	for i := range sites {
		sites[i].score = mix(sites[i].hash ^ mix(uint64(slot)))
	}
	slices.SortFunc(sites, func(a, b site) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.addr, b.addr))
	})
	var others []site
	n := 0
	for i, s := range sites {
		if s.zone != "" && slices.ContainsFunc(sites[:n], func(t site) bool { return t.zone == s.zone }) {
			others = append(others, sites[i])
			continue
		}
		sites[n] = s
		n++
	}
	copy(sites[n:], others)
}

// mix is the finaliser of splitmix64, by Steele, Lea and Flood: a bijection in which every bit of the
// argument changes about half of the bits of the result.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// placement is which sites own each slot, and what of them is alive.
type placement struct {
	sites   []site    // by address
	copies  int       // owners of a slot
	owners  []uint16  // of each slot so many indices of sites, the best first
	expires time.Time // when a site that was lost is out; zero if none was

	own   slotSet       // slots that this node owns
	lead  slotSet       // of these, those whose first live owner it is
	place [Slots]uint16 // of this node among the live owners; for a slot that it does not own, their number
	homes []uint16      // slots whose first live owner this node is
	short int           // slots with no more live owners than nodes may fail at once
}

// of returns the owners of a slot, as indices of sites.
func (at *placement) of(slot int) []uint16 { return at.owners[slot*at.copies : (slot+1)*at.copies] }

// choose finds the owners of all slots: the first ones in the order of rank.
func (at *placement) choose(replicas int) {
	at.copies = min(replicas, len(at.sites))
	at.owners = slices.Grow(at.owners[:0], Slots*at.copies)[:Slots*at.copies]
	zoneOf, zones := zonesOf(at.sites)
	best := make([]int, zones) // the site of each zone
	s := make(scores, len(at.sites))
	for slot := range Slots {
		seed := mix(uint64(slot))
		for i := range best {
			best[i] = -1
		}
		for i := range s {
			s[i] = mix(at.sites[i].hash ^ seed)
			if z := zoneOf[i]; best[z] < 0 || s.beats(i, best[z]) {
				best[z] = i
			}
		}
		owners, n := at.of(slot), 0
		for _, i := range best {
			n = s.insert(owners, n, i)
		}
		if n == len(owners) {
			continue
		}
		others, n := owners[n:], 0
		for i := range s {
			if best[zoneOf[i]] != i {
				n = s.insert(others, n, i)
			}
		}
	}
}

// scores are those of sites, which are in the order of their addresses, for one slot.
type scores []uint64

func (s scores) beats(i, j int) bool { return s[i] > s[j] || s[i] == s[j] && i < j }

// insert puts a site among the first n of best, which are in order, if there is room or it beats one of them. It
// returns how many there are then.
func (s scores) insert(best []uint16, n, candidate int) int {
	if n < len(best) {
		n++
	} else if !s.beats(candidate, int(best[n-1])) {
		return n
	}
	i := n - 1
	for ; i > 0 && s.beats(candidate, int(best[i-1])); i-- {
		best[i] = best[i-1]
	}
	best[i] = uint16(candidate)
	return n
}

// zonesOf numbers the zones of sites. A site without one is in one of its own.
func zonesOf(sites []site) (zoneOf []int, zones int) {
	zoneOf = make([]int, len(sites))
	numbers := make(map[string]int)
	for i, s := range sites {
		number, known := numbers[s.zone]
		if !known || s.zone == "" {
			number = zones
			numbers[s.zone] = number
			zones++
		}
		zoneOf[i] = number
	}
	return zoneOf, zones
}

// presence is how much there is of a process: the more, the greater.
type presence int

const (
	absent  presence = iota // it left, or was lost long ago
	missing                 // it was lost just now
	listed                  // it is a member
	inTouch                 // its link is up
)

func (p *peer) presence(now time.Time) presence {
	switch {
	case p.up:
		return inTouch
	case p.member:
		return listed
	case now.Sub(p.left) < replaceAfter:
		return missing
	}
	return absent
}

// leaves reports whether the peer said that it is about to leave.
func (p *peer) leaves() bool { return p.draining || p.who.State == Draining }

// survey returns the sites that are to own slots, by address, and when one of them that was lost is to do so
// no more. The mutex is held.
func (c *Core) survey() (sites []site, expires time.Time) {
	now := c.o.Now()
	if !c.draining {
		sites = append(sites, newSite(c.o.Self, nil))
	}
	peers := slices.DeleteFunc(slices.Clone(c.peers), func(p *peer) bool {
		return p.who.GossipAddr == "" || p.who.GossipAddr == c.o.Self.GossipAddr
	})
	slices.SortStableFunc(peers, func(a, b *peer) int {
		return cmp.Or(cmp.Compare(a.who.GossipAddr, b.who.GossipAddr), cmp.Compare(flag(b.up), flag(a.up)),
			b.heard.Compare(a.heard), cmp.Compare(b.presence(now), a.presence(now)))
	})
	for len(peers) > 0 {
		n := 1
		for n < len(peers) && peers[n].who.GossipAddr == peers[0].who.GossipAddr {
			n++
		}
		// Whoever is there now stands for those that were there before, and whoever left did so for those, too: they
		// may be members still.
		here := peers[:n]
		peers = peers[n:]
		if here[0].leaves() {
			continue
		}
		here = slices.DeleteFunc(here, func(p *peer) bool { return p.presence(now) == absent })
		active := slices.IndexFunc(here, func(p *peer) bool { return p.who.State == Active && !p.leaves() })
		if active < 0 {
			continue
		}
		sites = append(sites, newSite(here[0].who, here[0]))
		if p := here[active]; p.presence(now) == missing {
			if out := p.left.Add(replaceAfter); expires.IsZero() || out.Before(expires) {
				expires = out
			}
		}
	}
	slices.SortFunc(sites, func(a, b site) int { return cmp.Compare(a.addr, b.addr) })
	return sites, expires
}

// replace finds out anew which slots this node and the peers own, since a process came, went or changed. The
// mutex is held.
func (c *Core) replace() {
	at := &c.placement
	sites, expires := c.survey()
	same := slices.EqualFunc(at.sites, sites, func(a, b site) bool { return a.addr == b.addr && a.zone == b.zone })
	at.sites, at.expires = sites, expires
	if !same {
		at.choose(c.o.Replicas)
	}
	for _, p := range c.peers {
		p.owns = slotSet{}
	}
	var own slotSet
	at.lead = slotSet{}
	at.homes, at.short = at.homes[:0], 0
	for slot := range Slots {
		place, live := -1, 0
		for _, i := range at.of(slot) {
			p := at.sites[i].peer
			if p == nil {
				own.add(slot)
				place = live
				live++
				continue
			}
			p.owns.add(slot)
			if p.stays() {
				live++
			}
		}
		if place == 0 {
			at.homes = append(at.homes, uint16(slot))
			at.lead.add(slot)
		}
		if live <= c.o.Tolerate {
			at.short++
		}
		if place < 0 {
			place = live
		}
		at.place[slot] = uint16(place)
	}
	c.move(own)
	c.wordAt = c.o.Now()
}

// Home returns a slot whose first live owner is this node, drawn at random, or -1 where there is none.
func (c *Core) Home() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	homes := c.placement.homes
	if len(homes) == 0 {
		return -1
	}
	return int(homes[c.o.Rand.IntN(len(homes))])
}

// Rank returns the place of this node among the live owners of a cart: 0 for the first. For a node that is none
// it is their number.
func (c *Core) Rank(id [16]byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.placement.place[SlotOf(id)])
}

// spares returns the peers that stay and own a slot not, in the order in which they would. The mutex is held.
func (c *Core) spares(slot int) []site {
	var spares []site
	for _, p := range c.peers {
		if p.stays() && !p.owns.has(slot) {
			spares = append(spares, newSite(p.who, p))
		}
	}
	rank(slot, spares)
	return spares
}
