package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// namesOf returns the names of members, sorted.
func namesOf(members []Member) (names []string) {
	for _, m := range members {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

func TestElect(t *testing.T) {
	at := func(name string, change ...func(*Member)) Member {
		m := Member{Name: name, GossipAddr: "10.0.0." + name + ":7946", State: Active, WANAddr: "10.0.0.1:7948"}
		for _, f := range change {
			f(&m)
		}
		return m
	}
	state := func(s MemberState) func(*Member) { return func(m *Member) { m.State = s } }
	order := []Member{at("1"), at("2"), at("3"), at("4")}
	slices.SortFunc(order, func(a, b Member) int {
		if hashAddr(a.GossipAddr) > hashAddr(b.GossipAddr) {
			return -1
		}
		return 1
	})
	first, second, third := order[0].Name, order[1].Name, order[2].Name
	twin := func(m *Member) { m.Name += "'"; m.Start++ }
	for name, tt := range map[string]struct {
		members []Member
		want    []string
	}{
		"nobody":          {nil, nil},
		"one":             {[]Member{at(third)}, []string{third}},
		"two":             {[]Member{at(third), at(second)}, []string{second, third}},
		"the best of all": {[]Member{at(third), at(second), at(first)}, []string{first, second}},
		"joining":         {[]Member{at(first, state(Joining)), at(second), at(third)}, []string{second, third}},
		"all joining":     {[]Member{at(first, state(Joining)), at(second, state(Joining)), at(third, state(Joining))}, []string{first, second}},
		"all but one":     {[]Member{at(first, state(Joining)), at(second, state(Joining)), at(third)}, []string{first, third}},
		"draining":        {[]Member{at(first), at(second, state(Draining)), at(third)}, []string{first, third}},
		"without WAN":     {[]Member{at(first, func(m *Member) { m.WANAddr = "" }), at(third)}, []string{third}},
		"two at one address": {
			[]Member{at(first), at(third), at(first, twin), at(second)}, []string{first, first + "'", second},
		},
	} {
		slices.Sort(tt.want)
		if got := namesOf(elect(tt.members)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, not %v", name, got, tt.want)
		}
	}
}

// The election is part of the protocol: nodes of different versions have to agree on it.
func TestElectionStaysAsItIs(t *testing.T) {
	hash := uint64(0)
	for i := range 256 {
		hash = mix(hash ^ hashAddr(fmt.Sprintf("10.0.0.%d:7946", i)))
	}
	if want := uint64(0x6486d1801fb5c959); hash != want {
		t.Errorf("%#x, not %#x", hash, want)
	}
}

// All nodes elect the same, whatever the order in which they know each other, and one that is lost or comes changes one
// bridge at most.
func TestElectionChangesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.SliceOfNDistinct(rapid.IntRange(0, 255), 1, 20, rapid.ID[int]).Draw(t, "hosts")
		var members []Member
		for _, host := range hosts {
			addr := fmt.Sprintf("10.0.0.%d:7946", host)
			state := rapid.SampledFrom([]MemberState{Active, Active, Joining, Draining}).Draw(t, "state")
			members = append(members, Member{Name: addr, GossipAddr: addr, State: state, WANAddr: "10.0.0.1:7948"})
		}
		all := namesOf(elect(members))
		if got := namesOf(elect(rapid.Permutation(members).Draw(t, "order"))); !slices.Equal(got, all) {
			t.Fatalf("%v in one order, %v in another", all, got)
		}
		staying := len(slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.State == Draining }))
		if len(all) != min(maxBridges, staying) {
			t.Fatalf("%d bridges of %d nodes that stay", len(all), staying)
		}
		lost := rapid.IntRange(0, len(members)-1).Draw(t, "lost")
		rest := namesOf(elect(slices.Delete(slices.Clone(members), lost, lost+1)))
		changed := 0
		for _, name := range all {
			if name != members[lost].Name && !slices.Contains(rest, name) {
				t.Fatalf("%s is no bridge without %s: %v, and %v before", name, members[lost].Name, rest, all)
			}
		}
		for _, name := range rest {
			if !slices.Contains(all, name) {
				changed++
			}
		}
		if changed > 1 {
			t.Fatalf("%v without %s, %v before", rest, members[lost].Name, all)
		}
	})
}

// A bridge resigns a while after others were elected, unless it is elected again.
func TestTerm(t *testing.T) {
	var (
		at     Term
		now    = time.UnixMilli(0)
		begins = now
	)
	for _, step := range []struct {
		after   time.Duration // since the beginning
		elected bool
		bridge  bool
		again   time.Duration
	}{
		{0, false, false, 0},
		{1, true, true, 0},
		{2, true, true, 0},
		{10, false, true, resignAfter},
		{11, false, true, resignAfter - 1},
		{12, true, true, 0},
		{20, false, true, resignAfter},
		{20 + resignAfter, false, false, 0},
		{21 + resignAfter, false, false, 0},
		{22 + resignAfter, true, true, 0},
	} {
		now = begins.Add(step.after)
		if bridge, again := at.next(step.elected, now); bridge != step.bridge || again != step.again {
			t.Fatalf("after %d, elected %v: %v, again after %v", step.after, step.elected, bridge, again)
		}
	}
}
