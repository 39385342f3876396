package gossip

import (
	"fmt"
	"slices"
	"testing"
)

// ranked returns the start ids in the order of a slot.
func ranked(slot int, nodes []candidate) []uint64 {
	nodes = slices.Clone(nodes)
	rank(slot, nodes, nil)
	starts := make([]uint64, len(nodes))
	for i, node := range nodes {
		starts[i] = node.start
	}
	return starts
}

func someNodes(n, zones int) []candidate {
	nodes := make([]candidate, n)
	for i := range nodes {
		nodes[i].start = mix(uint64(i))
		if zones > 0 {
			nodes[i].zone = fmt.Sprint("zone ", i%zones)
		}
	}
	return nodes
}

func TestRankDoesNotDependOnTheOrder(t *testing.T) {
	nodes := someNodes(7, 3)
	reversed := slices.Clone(nodes)
	slices.Reverse(reversed)
	for slot := range Slots {
		if a, b := ranked(slot, nodes), ranked(slot, reversed); !slices.Equal(a, b) {
			t.Fatalf("slot %d: %v and %v", slot, a, b)
		}
	}
}

// The ranking is part of the protocol: nodes of different versions have to agree on it.
func TestRankStaysAsItIs(t *testing.T) {
	nodes := []candidate{{start: 1, zone: "x"}, {start: 2, zone: "x"}, {start: 3, zone: "y"}, {start: 4}}
	hash := uint64(0)
	for slot := range Slots {
		for _, start := range ranked(slot, nodes) {
			hash = mix(hash ^ start)
		}
	}
	if want := uint64(0x73e063e3bde8c7); hash != want {
		t.Errorf("%#x, not %#x", hash, want)
	}
}

func TestOwnersAreInDistinctZones(t *testing.T) {
	nodes := someNodes(9, 3)
	for slot := range Slots {
		zones := map[string]bool{}
		for _, start := range ranked(slot, nodes)[:3] {
			i := slices.IndexFunc(nodes, func(c candidate) bool { return c.start == start })
			zones[nodes[i].zone] = true
		}
		if len(zones) != 3 {
			t.Fatalf("slot %d: zones %v", slot, zones)
		}
	}
}

func TestOwnersAreSpreadEvenly(t *testing.T) {
	nodes := someNodes(8, 0)
	owns := map[uint64]int{}
	for slot := range Slots {
		for _, start := range ranked(slot, nodes)[:3] {
			owns[start]++
		}
	}
	for start, n := range owns {
		if mean := Slots * 3 / 8; n < mean*9/10 || n > mean*11/10 {
			t.Errorf("%x owns %d slots, of %d on average", start, n, mean)
		}
	}
}

func TestWhoComesMovesOnlyWhatItWins(t *testing.T) {
	nodes := someNodes(8, 0)
	moved := 0
	for slot := range Slots {
		with, without := ranked(slot, nodes), ranked(slot, nodes[:7])
		with = slices.DeleteFunc(with, func(start uint64) bool { return start == nodes[7].start })
		if !slices.Equal(with, without) {
			t.Fatalf("slot %d: %v with another node, %v without", slot, with, without)
		}
		if ranked(slot, nodes)[0] == nodes[7].start {
			moved++
		}
	}
	if moved < Slots/10 || moved > Slots/6 {
		t.Errorf("%d slots moved, of %d", moved, Slots)
	}
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
