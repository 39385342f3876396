package gossip

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// startRegions starts three active nodes in each of some regions, on a network in memory, and waits until bridges
// are linked. The nodes of a region are those at 10.0.N.1 to 3, N from 1.
func startRegions(t testing.TB, network *memoryNetwork, regions ...string) (nodes [][]testNode) {
	t.Cleanup(func() { time.Sleep(time.Minute) }) // memberlist does not wait for a probe that is under way
	for i, region := range regions {
		nodes = append(nodes, nil)
		for j := range 3 {
			nodes[i] = append(nodes[i], startIn(t, network, region, i+1, j+1))
		}
	}
	for _, region := range nodes {
		for _, n := range region {
			n.SetState(Active)
		}
	}
	time.Sleep(2 * resignAfter) // of those that were the first to be active
	awaitBridges(t, nodes...)
	for i, region := range nodes {
		if !linked(region...) {
			t.Fatalf("%s is no region", regions[i])
		}
	}
	return nodes
}

// startIn starts a node of a region at 10.0.N.host, which joins. It knows one node of each of two regions.
func startIn(t testing.TB, network *memoryNetwork, region string, number, host int) testNode {
	t.Helper()
	return start(t, Options{
		network: network.host(fmt.Sprintf("10.0.%d.%d", number, host)),
		Member:  Member{Region: region, State: Joining},
		Join:    []string{fmt.Sprintf("10.0.%d.1:7946", number)},
		// Of the other regions, too, a node that need not be a bridge.
		WANListen: "0.0.0.0:7948", JoinWAN: []string{"10.0.1.1:7948", "10.0.2.3:7948"},
	})
}

// bridges returns the nodes of a region that say that they are bridges.
func bridges(region []testNode) []testNode {
	return slices.DeleteFunc(slices.Clone(region), func(n testNode) bool { return !n.wan.isBridge() })
}

// abroad returns the start ids of the bridges that a node has links with.
func abroad(n testNode) (starts []uint64) {
	for _, r := range n.Status().Core.Regions {
		for _, l := range r.Bridges {
			if l.Up {
				starts = append(starts, l.Start)
			}
		}
	}
	slices.Sort(starts)
	return starts
}

// converge is longer than it takes the pools to agree on who is a bridge, and the bridges to link.
const converge = time.Minute

// awaitBridges waits until each bridge has links with all bridges of other regions, and no other node has any.
func awaitBridges(t testing.TB, regions ...[]testNode) {
	t.Helper()
	var wrong string
	for began := time.Now(); time.Since(began) < converge; time.Sleep(100 * time.Millisecond) {
		if wrong = notBridged(regions); wrong == "" {
			return
		}
	}
	t.Fatalf("not within %v: %s", converge, wrong)
}

// notBridged tells what is wrong with the links between regions.
func notBridged(regions [][]testNode) string {
	for i, region := range regions {
		var remote []uint64
		for j, other := range regions {
			for _, n := range bridges(other) {
				if i != j {
					remote = append(remote, n.o.Member.Start)
				}
			}
		}
		slices.Sort(remote)
		if got := len(bridges(region)); got != min(maxBridges, len(region)) {
			return fmt.Sprintf("region %d of %d nodes has %d bridges", i, len(region), got)
		}
		for _, n := range region {
			want, is := remote, n.wan.isBridge()
			if !is {
				want = nil
			}
			if got := abroad(n); !slices.Equal(got, want) {
				return fmt.Sprintf("%s, a bridge: %v, is linked with %x abroad, not with %x", n.Status().Self.Name, is, got, want)
			}
		}
	}
	return ""
}

// One node of a region that joins others brings all of it into the pool of all regions, be it elected or not. What is
// gone for good is not joined any more.
func TestOneNodeJoinsForItsRegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // memberlist does not wait for a probe that is under way
		network := newMemoryNetwork()
		startIn := func(region string, number, host int, joinWAN ...string) testNode {
			return start(t, Options{
				network:   network.host(fmt.Sprintf("10.0.%d.%d", number, host)),
				Member:    Member{Region: region},
				Join:      []string{fmt.Sprintf("10.0.%d.1:7946", number)},
				WANListen: "0.0.0.0:7948", JoinWAN: joinWAN,
			})
		}
		us := []testNode{startIn("us", 2, 1)}
		var candidates []Member
		for host := range 3 {
			candidates = append(candidates, Member{GossipAddr: fmt.Sprintf("10.0.1.%d:7946", host+1), State: Active, WANAddr: "10.0.1.1:7948"})
		}
		elected := elect(candidates)
		var eu []testNode
		var joins testNode
		for host, c := range candidates {
			if slices.ContainsFunc(elected, func(m Member) bool { return m.GossipAddr == c.GossipAddr }) {
				eu = append(eu, startIn("eu", 1, host+1))
				continue
			}
			joins = startIn("eu", 1, host+1, "10.0.2.1:7948")
			eu = append(eu, joins)
		}
		time.Sleep(2 * resignAfter) // of those that were the first to be there
		awaitBridges(t, eu, us)
		if joins.wan.isBridge() {
			t.Error("the node that joins is a bridge")
		}

		gone := eu[0]
		if gone.Node == joins.Node {
			gone = eu[1]
		}
		self, _ := gone.members.all()
		gone.SetState(Draining)
		_ = gone.Stop(t.Context())
		time.Sleep(converge)
		left := slices.DeleteFunc(slices.Clone(eu), func(n testNode) bool { return n.Node == gone.Node })
		for _, n := range left {
			pool := n.wan.pool
			pool.mu.Lock()
			due := pool.rejoin.Due(time.Now().Add(time.Hour))
			pool.mu.Unlock()
			if slices.Contains(due, self.WANAddr) {
				t.Errorf("%s is joined, which has left", self.WANAddr)
			}
		}
		awaitBridges(t, left, us)
	})
}

// Two regions of one name, each of which would ignore the other one, are told of. A node that died is not.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		regions := startRegions(t, network, "eu", "us")
		strays := func(region []testNode) (names []string) {
			for _, n := range region {
				names = append(names, n.Status().Strays...)
			}
			return names
		}
		_ = regions[1][0].kill()
		us := regions[1][1:]
		for range 2 * strayAfter / time.Second {
			time.Sleep(time.Second)
			if got := strays(slices.Concat(regions[0], us)); len(got) > 0 {
				t.Fatalf("%v: one of them died", got)
			}
		}

		twin := startIn(t, network, "eu", 3, 1)
		self, _ := twin.members.all()
		time.Sleep(strayAfter - time.Second)
		if got := strays(regions[0]); len(got) > 0 {
			t.Errorf("%v so early", got)
		}
		time.Sleep(converge)
		for _, n := range regions[0] {
			if got := n.Status().Strays; !slices.Equal(got, []string{self.Name}) {
				t.Errorf("%v", got)
			}
		}
		if got := twin.Status().Strays; len(got) != 3 {
			t.Errorf("there: %v", got)
		}
		if got := strays(us); len(got) > 0 {
			t.Errorf("abroad: %v", got)
		}
		twin.SetState(Draining)
		_ = twin.Stop(t.Context())
		time.Sleep(converge)
		if got := strays(regions[0]); len(got) > 0 {
			t.Errorf("%v: it has left", got)
		}
	})
}

// TestAdvertiseWAN: a process tells other regions of a host that its own does not hear of.
func TestAdvertiseWAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, Options{
			network: newMemoryNetwork().host("10.0.1.1"), WANListen: "0.0.0.0:7948", AdvertiseHost: "10.0.1.1", AdvertiseWAN: "192.0.2.7",
		})
		here, _ := n.members.all()
		there, _ := n.wan.pool.all()
		if here.LinkAddr != "10.0.1.1:7947" || there.LinkAddr != "192.0.2.7:7947" {
			t.Errorf("its region is told of %s, and the others of %s", here.LinkAddr, there.LinkAddr)
		}
	})
}

func TestBridges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		regions := startRegions(t, newMemoryNetwork(), "eu", "us", "ap")
		for _, region := range regions {
			for _, n := range region {
				// What is abroad owns nothing here, and counts as a holder only for who asks for one abroad.
				core := n.core
				if core.Peers() != 2 || len(core.Status().Links) != 2 || !core.Synced() {
					t.Errorf("%d peers, %+v", core.Peers(), core.Status().Links)
				}
				for _, start := range abroad(n) {
					if !core.Alive(start) {
						t.Error("a bridge abroad is not there")
					}
				}
				s := n.Status()
				if len(s.WAN) != 8 || len(s.Members) != 2 || s.Core.Bridge != s.Self.Bridge || len(s.Core.Regions) != 2 {
					t.Errorf("%+v", s)
				}
				for _, r := range s.Core.Regions {
					if !r.Reachable || r.Processes != 3 || len(r.Bridges) != maxBridges {
						t.Errorf("%+v", r)
					}
				}
				for why, count := range s.Refused {
					if count != 0 {
						t.Errorf("%d refused: %s", count, why)
					}
				}
			}
		}
		id := cartID(1)
		regions[0][0].put(id, "here")
		time.Sleep(30 * time.Second)
		for i, region := range regions {
			for _, n := range region {
				if n.words.all(id) == nil {
					t.Errorf("region %d: a node has not got the cart", i)
				}
			}
		}
		awaitBridges(t, regions...)
	})
}

// When a bridge dies, another node takes its place, and nothing is told to the carts of other regions.
func TestBridgeIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		regions := startRegions(t, newMemoryNetwork(), "eu", "us")
		eu, us := regions[0], regions[1]
		dead := bridges(eu)[0]
		_ = dead.kill()
		eu = slices.DeleteFunc(eu, func(n testNode) bool { return n.Node == dead.Node })
		awaitBridges(t, eu, us)
		for _, n := range us {
			if lost := n.words.lost; len(lost) > 0 {
				t.Errorf("%s lost %x", n.Status().Self.Name, lost)
			}
		}
		for _, n := range bridges(eu) {
			if !n.Status().Core.Regions[0].Reachable {
				t.Error("the other region is lost")
			}
		}
		time.Sleep(2 * forgetAfter)
		for _, n := range us {
			if b := n.Status().Core.Regions[0].Bridges; len(b) != 2 {
				t.Errorf("%+v", b)
			}
		}
	})
}

// A node that joins is no bridge where others are, not even before it has met them. Where there are none, it is one: so it
// gets what other regions have before it is active.
func TestJoinersAsBridges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		regions := startRegions(t, network, "eu", "us")
		newcomer := startIn(t, network, "eu", 1, 4)
		for range 100 {
			time.Sleep(50 * time.Millisecond)
			if newcomer.wan.isBridge() {
				t.Fatal("a newcomer is a bridge")
			}
		}
		if got := len(newcomer.Status().Members); got != 3 {
			t.Errorf("%d other members", got)
		}

		mars := []testNode{startIn(t, network, "mars", 3, 2), startIn(t, network, "mars", 3, 3)} // none is where they join
		awaitBridges(t, append(regions, mars)...)
		for _, n := range mars {
			if s := n.Status(); s.Self.State != Joining || !s.Core.Regions[0].Reachable {
				t.Errorf("%+v", s.Core.Regions)
			}
		}
	})
}

// A bridge that drains gives way before it goes: there are links all the time.
func TestBridgeResigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		regions := startRegions(t, newMemoryNetwork(), "eu", "us")
		eu, us := regions[0], regions[1]
		leaving := bridges(eu)[0]
		leaving.SetState(Draining)
		for range 200 {
			time.Sleep(100 * time.Millisecond)
			for _, n := range bridges(us) {
				if !n.Status().Core.Regions[0].Reachable {
					t.Fatal("the region was out of reach")
				}
			}
		}
		if leaving.wan.isBridge() || len(bridges(eu)) != 2 {
			t.Errorf("%d bridges", len(bridges(eu)))
		}
		awaitBridges(t, slices.DeleteFunc(slices.Clone(eu), func(n testNode) bool { return n.Node == leaving.Node }), us)
		if got := abroad(leaving); len(got) > 0 {
			t.Errorf("links with %x", got)
		}
		leaving.SetState(Active)
		time.Sleep(2 * resignAfter)
		awaitBridges(t, eu, us)
	})
}

// Regions that were cut off from each other find each other again, and know all the time whether they can be reached.
func TestRegionsThatWereSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		regions := startRegions(t, network, "eu", "us")
		hosts := [][]string{{"10.0.1.1", "10.0.1.2", "10.0.1.3"}, {"10.0.2.1", "10.0.2.2", "10.0.2.3"}}
		network.cut(hosts[0], hosts[1])
		time.Sleep(deadAfter + time.Second)
		reachable := func(n testNode) bool {
			return slices.ContainsFunc(n.Status().Core.Regions, func(r RegionStatus) bool { return r.Reachable })
		}
		for _, region := range regions {
			if !linked(region...) {
				t.Error("a region fell apart")
			}
			for _, n := range bridges(region) {
				if reachable(n) {
					t.Error("the other region can be reached")
				}
			}
		}
		time.Sleep(apart)
		network.mend(hosts[0], hosts[1])
		awaitBridges(t, regions...)
	})
}

// A node with another key, or another label, gets into no pool; one that reaches no other region is no bridge.
func TestStrangersAreNoBridges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newMemoryNetwork()
		regions := startRegions(t, network, "eu", "us")
		mars := Options{Member: Member{Region: "mars", State: Active}, WANListen: "0.0.0.0:7948", JoinWAN: []string{"10.0.1.1:7948"}}
		var strangers []testNode
		for i, change := range []func(*Options){
			func(o *Options) { o.Keys = ring(GenerateKey()) },
			func(o *Options) { o.Label = "another" },
		} {
			o := mars
			o.network = network.host(fmt.Sprintf("10.0.9.%d", i))
			change(&o)
			strangers = append(strangers, start(t, o))
		}
		home := start(t, Options{
			network: network.host("10.0.1.9"), Member: Member{Region: "eu", State: Active}, Join: []string{"10.0.1.1:7946"},
		})
		time.Sleep(20 * time.Second)
		for _, n := range strangers {
			if s := n.Status(); len(s.WAN) > 0 || len(s.Connections) > 0 || !s.Self.Bridge {
				t.Errorf("%+v", s)
			}
		}
		if s := home.Status(); len(s.Members) != 3 || s.Self.Bridge || len(s.Connections) != 3 {
			t.Errorf("%+v", s)
		}
		awaitBridges(t, regions...)
	})
}

// A bridge of its own making is refused by nodes that are none, and the other way round.
func TestLinkAbroadNeedsTwoBridges(t *testing.T) {
	c := NewCore(CoreOptions{
		Self: Member{Start: 1, Region: "eu"}, Carts: newWords(), Now: time.Now, Wake: func(uint64) {},
		Spawn: func(peer uint64, _ func(context.Context)) {
			if peer != 0 {
				t.Errorf("a job for %d", peer)
			}
		},
		Replicas: 3, Tolerate: 1,
	})
	far := Member{Start: 2, Region: "us", Name: "far", Bridge: true}
	c.SetBridges(false, []Member{far})
	if err := c.Up(far, MaxWire); err == nil {
		t.Error("a node that is no bridge has a link abroad")
	}
	c.SetBridges(true, []Member{far})
	if err := c.Up(far, MaxWire); err != nil {
		t.Fatal(err)
	}
	if c.Peers() != 0 || c.Alive(2) || c.HandedOver() || len(c.Status().Links) != 0 {
		t.Errorf("it counts: %+v", c.Status())
	}
	c.Replicate(cartID(1), []byte("delta"), func(uint64) { t.Error("held abroad") })
	c.Mark(cartID(1), []byte("mark"))
	frame, _ := c.Next(2, nil)
	r := reader{b: frame}
	if r.header(new(header)); r.err != nil || len(r.b) > 0 {
		t.Errorf("a frame of %d bytes, %d of them items: %v", len(frame), len(r.b), r.err)
	}
	b := appendHeader(nil, &header{seq: 1})
	it := item{kind: kindDelta, id: cartID(1), body: []byte("delta")}
	if err := c.Receive(2, appendItem(b, &it)); err == nil {
		t.Error("a change from another region is taken")
	}
	if stats := c.Status().Regions; len(stats) != 1 || stats[0].Region != "us" || stats[0].Reachable || stats[0].Bridges[0].Counters.Malformed != 1 {
		t.Errorf("%+v", stats)
	}
	c.Down(2, nil)
	if c.Status().Regions[0].Reachable {
		t.Error("reachable without a link")
	}
}

// The keys of the pool of all regions are replaced with those of the region.
func TestKeysOfRegionsAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		regions := startRegions(t, newMemoryNetwork(), "eu", "us")
		all := slices.Concat(regions...)
		second := GenerateKey()
		for _, keys := range []Keyring{ring(testKey, second), ring(second, testKey), ring(second)} {
			for _, n := range all {
				if err := n.SetKeys(keys); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(20 * time.Second)
			awaitBridges(t, regions...)
		}
		for _, n := range all {
			for _, l := range n.links.all() {
				if want := second.Fingerprint(); l.proven != want || l.ours != want {
					t.Errorf("a link made with %v and %v", l.proven, l.ours)
				}
			}
			for _, m := range n.Status().WAN {
				if !slices.Equal(m.Keys, ring(second).Fingerprints()) {
					t.Errorf("%s has %v", m.Name, m.Keys)
				}
			}
		}
	})
}
