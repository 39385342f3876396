package gossip

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// ranked returns the addresses in the order of a slot.
func ranked(slot int, sites []site) []string {
	sites = slices.Clone(sites)
	rank(slot, sites)
	return addresses(sites)
}

func addresses(sites []site) []string {
	addrs := make([]string, len(sites))
	for i, s := range sites {
		addrs[i] = s.addr
	}
	return addrs
}

// someSites returns sites in the order of their addresses.
func someSites(n, zones int) []site {
	sites := make([]site, n)
	for i := range sites {
		m := Member{GossipAddr: fmt.Sprintf("10.0.0.%03d:7946", i)}
		if zones > 0 {
			m.Zone = fmt.Sprint("zone ", i%zones)
		}
		sites[i] = newSite(m, nil)
	}
	return sites
}

func TestRankDoesNotDependOnTheOrder(t *testing.T) {
	sites := someSites(7, 3)
	reversed := slices.Clone(sites)
	slices.Reverse(reversed)
	for slot := range Slots {
		if a, b := ranked(slot, sites), ranked(slot, reversed); !slices.Equal(a, b) {
			t.Fatalf("slot %d: %v and %v", slot, a, b)
		}
	}
}

// The ranking is part of the protocol: nodes of different versions have to agree on it.
func TestRankStaysAsItIs(t *testing.T) {
	var sites []site
	for _, m := range []Member{
		{GossipAddr: "10.0.0.1:7946", Zone: "x"},
		{GossipAddr: "10.0.0.2:7946", Zone: "x"},
		{GossipAddr: "[fd00::3]:7946", Zone: "y"},
		{GossipAddr: "10.0.0.4:7946"},
	} {
		sites = append(sites, newSite(m, nil))
	}
	hash := fnv.New64a()
	for slot := range Slots {
		for _, addr := range ranked(slot, sites) {
			_, _ = hash.Write([]byte(addr))
		}
	}
	if got, want := hash.Sum64(), uint64(0x8f7e77012f2a7931); got != want {
		t.Errorf("%#x, not %#x", got, want)
	}
}

func TestOwnersAreTheFirstOfTheRanking(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "sites")
		at := placement{sites: someSites(n, 0)}
		for i := range at.sites {
			at.sites[i].zone = rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(r, "zone")
		}
		replicas := rapid.IntRange(1, 6).Draw(r, "replicas")
		at.choose(replicas)
		for slot := range Slots {
			var owners []string
			for _, i := range at.of(slot) {
				owners = append(owners, at.sites[i].addr)
			}
			if want := ranked(slot, at.sites)[:min(n, replicas)]; !slices.Equal(owners, want) {
				r.Fatalf("slot %d: %v, want %v", slot, owners, want)
			}
		}
	})
}

func TestOwnersAreInDistinctZones(t *testing.T) {
	at := placement{sites: someSites(9, 3)}
	at.choose(3)
	for slot := range Slots {
		zones := map[string]bool{}
		for _, i := range at.of(slot) {
			zones[at.sites[i].zone] = true
		}
		if len(zones) != 3 {
			t.Fatalf("slot %d: zones %v", slot, zones)
		}
	}
}

func TestOwnersAreSpreadEvenly(t *testing.T) {
	at := placement{sites: someSites(8, 0)}
	at.choose(3)
	owns := make([]int, 8)
	for _, i := range at.owners {
		owns[i]++
	}
	for i, n := range owns {
		if mean := Slots * 3 / 8; n < mean*9/10 || n > mean*11/10 {
			t.Errorf("%s owns %d slots, of %d on average", at.sites[i].addr, n, mean)
		}
	}
}

// A site that comes or goes moves only those slots that it wins or loses.
func TestWhoComesMovesOnlyWhatItWins(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(3, 20).Draw(r, "sites")
		zones := rapid.SampledFrom([]int{0, 2, 3, 5}).Draw(r, "zones")
		first := rapid.IntRange(0, 1<<20).Draw(r, "first address")
		sites := make([]site, n+1)
		for i := range sites {
			sites[i] = newSite(Member{GossipAddr: fmt.Sprintf("host-%07d:7946", first+i)}, nil)
			if zones > 0 {
				sites[i].zone = fmt.Sprint("zone ", i%zones)
			}
		}
		comes := rapid.IntRange(0, n).Draw(r, "comes")
		with := placement{sites: sites}
		without := placement{sites: slices.Delete(slices.Clone(sites), comes, comes+1)}
		with.choose(3)
		without.choose(3)
		moved := 0
		for slot := range Slots {
			var before []string
			for _, i := range without.of(slot) {
				before = append(before, without.sites[i].addr)
			}
			for _, i := range with.of(slot) {
				if addr := with.sites[i].addr; addr == sites[comes].addr {
					moved++
				} else if !slices.Contains(before, addr) {
					r.Fatalf("slot %d moved to %s when %s came", slot, addr, sites[comes].addr)
				}
			}
		}
		if ideal := Slots * 3 / (n + 1); zones == 0 && moved > ideal*6/5 { // five standard deviations
			r.Errorf("%d slots moved, of %d on average", moved, ideal)
		}
	})
}

func TestNodesAgreeOnTheRanking(t *testing.T) {
	s := connected(t, 3)
	for n := range 100 {
		var places []int
		for _, a := range s.actors {
			places = append(places, a.Rank(cartID(n)))
		}
		slices.Sort(places)
		expect(t, "places", places, []int{0, 1, 2})
	}
	s.down(s.actors[0], s.actors[2], "cut")
	for n := range 100 {
		if place := s.actors[0].Rank(cartID(n)); place > 1 {
			t.Errorf("place %d of 2", place)
		}
	}
}
