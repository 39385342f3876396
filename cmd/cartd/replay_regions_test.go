package main

import (
	"os/exec"
	"strings"
	"testing"

	"cartd/internal/pgtest"
)

// startRegions starts regions of so many nodes each, on a database each, with further arguments.
func startRegions(t testing.TB, size int, names []string, more ...string) (regions []*cluster) {
	t.Helper()
	for _, name := range names {
		args := append([]string{"--region", name, "--wan-listen", "127.0.0.1:0"}, more...)
		if len(regions) == 0 {
			regions = append(regions, newCluster(t, size, pgtest.New(t), args...))
			continue
		}
		r := &cluster{t: t, url: pgtest.New(t), key: regions[0].key, args: args, abroad: regions[0]}
		r.start(size)
		regions = append(regions, r)
	}
	return regions
}

// awaitRegions returns when each node reaches all other regions.
func awaitRegions(t testing.TB, regions []*cluster) {
	t.Helper()
	for _, r := range regions {
		for i := range r.nodes {
			await(t, "the node reaches the other regions", func() bool {
				reached := 0
				for _, other := range r.node(i).status().Regions {
					if other.Reachable {
						reached++
					}
				}
				return reached == len(regions)-1
			})
		}
	}
}

// TestReplayRegions: the days of a real shop, or an invented one, are replayed over three regions, each country's invoices
// at one of them. Every node of every region then shows every cart as the files say.
func TestReplayRegions(t *testing.T) {
	_, cartload := build(t)
	t.Parallel()
	names := []string{"eu", "us", "ap"}
	regions := startRegions(t, 2, names)
	awaitRegions(t, regions)
	var targets []string
	for i, r := range regions {
		for _, n := range r.nodes {
			targets = append(targets, names[i]+"="+n.api)
		}
	}
	said, err := exec.CommandContext(t.Context(), cartload,
		append([]string{"replay", "--target", strings.Join(targets, ",")}, days(t)...)...).CombinedOutput()
	t.Logf("\n%s", said)
	if err != nil {
		t.Errorf("cartload: %v", err)
	}
	for _, name := range names {
		if !strings.Contains(string(said), "entered at "+name) {
			t.Errorf("nothing entered at %s", name)
		}
	}
	if t.Failed() {
		for i, r := range regions {
			for _, n := range r.nodes {
				t.Logf("a node of %s:\n%s", names[i], n.output())
			}
		}
	}
}
