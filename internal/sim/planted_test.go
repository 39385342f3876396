package sim

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// planted is a bug: a change to one line or a few of a file, after which the simulation has to fail.
type planted struct {
	name     string
	file     string // below the root of the module
	old, new string
	by       []string // the checkers that may be the first to see it
	often    string   // the fault that brings it to light; none: any
}

var plantedBugs = []planted{
	{
		"own slots until the end", "gossip/placement.go",
		"if !c.draining {", "if c != nil {",
		[]string{"dirty-read", "lost-write", "placement", "convergence"},
		"resize",
	},
	{
		"leave before others have what the database lacks", "cart/flush.go",
		"s.replicator.HandedOver()", "s.replicator.Peers() > 0",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"skip the wait for acknowledgements", "cart/service.go",
		"if err := s.awaitSafe(ctx, r, ch, q.Durability); err != nil {", "if err := ctx.Err(); err != nil {",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"join a delta without its base", "crdt/delta.go",
		"if !s.VV.Descends(d.Base) {", "if false {",
		[]string{"lost-write", "resurfaced", "equal-bytes"},
		"",
	},
	{
		"merge deltas by the present state", "cart/command.go",
		"e.delta = crdt.Merge(e.delta, delta)",
		"e.delta = &crdt.Delta{State: crdt.Merge(e.delta, delta).State, Base: crdt.Merge(e.delta, delta).Base}",
		[]string{"resurfaced", "equal-bytes"},
		"",
	},
	{
		"reuse a replica id", "cart/shard.go",
		"replica: newReplicaID()", "replica: crdt.ReplicaID(id[1]) + 1",
		[]string{"unique-dots", "lost-write", "equal-bytes", "dirty-read", "convergence"},
		"",
	},
	{
		"overwrite a snapshot", "internal/sim/database_test.go",
		"state = crdt.Join(state, c.State)", "state = c.State",
		[]string{"dirty-read", "lost-write", "convergence"},
		"",
	},
	{
		"drop the rejoin loop", "gossip/rejoin.go",
		"if now.Before(r.next) {", "if now.Before(r.next) || r.pause == rejoinEvery {",
		[]string{"convergence"},
		"",
	},
	{
		"count an alias twice", "crdt/operation.go",
		"if counted {", "if counted && false {",
		[]string{"counted-twice"},
		"",
	},
	{
		"serve a fragment as the whole cart", "cart/shard.go",
		"case err == nil || r.durable != nil || began:", "case err == nil || r.durable != nil || began || sh.keeps(id):",
		[]string{"part"},
		"",
	},
	{
		"readers see what is not durable", "cart/service.go",
		"\treturn r.durable, nil\n}\n\n// Create", "\treturn r.latest, nil\n}\n\n// Create",
		[]string{"dirty-read"},
		"",
	},
	{
		"evict what the store lacks", "cart/resident.go",
		"!r.refreshing && !r.dirty()", "!r.refreshing",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"take one holder for enough", "cart/resident.go",
		"c.safe = r.service.enough(c.holders)", "c.safe = true",
		[]string{"dirty-read"},
		"",
	},
	{
		"mark as stored what was not taken", "cart/resident.go",
		"r.stored = r.stored.join(extentOf(r.taken))", "r.stored = r.stored.join(extentOf(r.latest))",
		[]string{"dirty-read", "lost-write", "convergence"},
		"",
	},
	{
		"lose held fragments at a load", "cart/fragment.go",
		"\t\t\t_ = s.joinOne(r, f.delta, f.safe) // it fits\n", "\t\t\t_ = f\n",
		[]string{"dirty-read", "lost-write", "part"},
		"",
	},
	{
		"take a commit to a node's own file for safe", "cart/flush.go",
		"return s.replicator == nil || s.shared }", "return true }",
		[]string{"dirty-read"},
		"",
	},
	{
		"acknowledge what was refused", "gossip/receive.go",
		"p.refuse(index, lacks)", "_ = lacks",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"forget what was not joined when a link comes up", "gossip/repair.go",
		"if equal {", "if equal || true {",
		[]string{"convergence", "dirty-read"},
		"",
	},
	{
		"take for saved what a database had once", "cart/holder.go",
		"!saving {\n\t\tr.stored = stored", "!saving {\n\t\tr.stored = r.stored.join(stored)",
		[]string{"came-back"},
		"go back",
	},
	{
		"look only at what the database has", "cart/index.go",
		"case found && is == version, !found && !shared:", "case found && is == version, !found:",
		[]string{"came-back"},
		"go back",
	},
	{
		"pass on what was passed on", "gossip/forward.go",
		"if own || forwarded {", "if own {",
		[]string{"forward"},
		"resize",
	},
	{
		"release a held slot before all of its owners have it", "gossip/held.go",
		"if !p.given.has(slot) {", "if false {",
		[]string{"convergence", "dirty-read", "lost-write", "left-over"},
		"resize",
	},
	{
		"let go of a slot with its ownership", "gossip/held.go",
		"c.hold(lost)", "_ = lost",
		[]string{"dirty-read", "lost-write", "convergence"},
		"resize",
	},
	{
		"give a newcomer nothing of what the database lacks", "gossip/cover.go",
		"if !known.has(slot) {", "if !known.has(slot) && false {",
		[]string{"dirty-read", "lost-write", "part"},
		"restart all",
	},
	{
		"be ready before the others gave what the database lacks", "gossip/cover.go",
		"p.needsSync && !left.empty():", "p.needsSync && !left.empty() && false:",
		[]string{"dirty-read", "lost-write"},
		"restart all",
	},
}

// plantedAbroad are bugs that it takes several regions to see.
var plantedAbroad = []planted{
	{
		"a bridge acknowledges before it delivers", "gossip/cross.go",
		"\tif x.process == 0 {\n",
		"\tif x.process == 0 {\n" +
			"c.sendAbroad(r, &crossing{process: x.origin, item: item{kind: kindHolds, n: x.ticket, m: 1}})\n",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"count who refused to hold", "gossip/ticket.go",
		"if it.m == 0 || k.held == nil", "if k.held == nil",
		[]string{"dirty-read", "lost-write"},
		"",
	},
	{
		"compare regions for a reason only", "gossip/remote.go",
		"return p.region != nil && !p.both.empty()", "return false && !p.both.empty()",
		[]string{"convergence"},
		"",
	},
	{
		"be active before the region was compared with others", "gossip/remote.go",
		"return p.up && p.needsSync })", "return false })",
		[]string{"recovery"},
		"lose a region",
	},
}

// TestPlantedBugs checks that the checkers check something: with any of these bugs in the sources, some
// of the first seeds fail, and by the checker that is there for it.
func TestPlantedBugs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a test binary for each of them")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	run := func(bug *planted, env ...string) {
		t.Run(strings.ReplaceAll(bug.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			bug.catch(t, root, env...)
		})
	}
	for i := range plantedBugs {
		run(&plantedBugs[i], "REGIONS=1")
	}
	for i := range plantedAbroad {
		run(&plantedAbroad[i], "REGIONS=2")
	}
}

var verdict = regexp.MustCompile(`seed (\d+): ([a-z-]+): .*`)

// catch builds this package with the bug and runs it.
func (b *planted) catch(t *testing.T, root string, env ...string) {
	dir := t.TempDir()
	overlay := b.overlay(t, root, dir)
	binary := filepath.Join(dir, "sim.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, "./internal/sim")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.Command(binary, "-test.run=^TestSimulation$")
	run.Dir = dir
	run.Env = append(append(os.Environ(), "SEEDS=300", "FIRST=1", "FAILURES=1", "FAULT="+b.often), env...)
	out, err := run.CombinedOutput()
	if err == nil {
		t.Fatal("no seed fails")
	}
	found := verdict.FindSubmatch(out)
	switch {
	case found == nil:
		t.Fatalf("%v: %s", err, out)
	case !slices.Contains(b.by, string(found[2])):
		t.Fatalf("caught by another checker than any of %v: %s", b.by, found[0])
	}
	t.Logf("%s", found[0])
}

// overlay writes the file with the bug in it, and the list of files that stand for others.
func (b *planted) overlay(t *testing.T, root, dir string) string {
	path := filepath.Join(root, filepath.FromSlash(b.file))
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), b.old); n != 1 {
		t.Fatalf("%s has %d times what the bug is planted in, not once: %q", b.file, n, b.old)
	}
	mutant := filepath.Join(dir, filepath.Base(b.file))
	replaced := strings.Replace(string(source), b.old, b.new, 1)
	if err := os.WriteFile(mutant, []byte(replaced), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
