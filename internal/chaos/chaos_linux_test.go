package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cartd/internal/pgtest"
)

var (
	chaosNemesis  = flag.String("chaos.nemesis", "", "nemeses that TestChaos runs, with commas, or all; it is skipped without")
	chaosDuration = flag.Duration("chaos.duration", 15*time.Second, "how long each of them is at work")
	chaosSeed     = flag.Uint64("chaos.seed", 0, "seed of the shoppers and of the choice of victims; 0 draws one")
)

const (
	// converge is the time until all nodes have to be equal, after the fault was undone.
	converge = 5 * time.Second
	// takesOver is the time until somebody has to take the writes of a node that died.
	takesOver = time.Second
	// flushWindow is how long a write may be in the memory of nodes alone.
	flushWindow = 5 * time.Second
	// crossWindow is how long a write may be in one region alone, while there is a way to the others.
	crossWindow = time.Second
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// prepared is what all clusters of a run share.
type prepared struct {
	ctx   context.Context // done when the run is interrupted
	dir   string
	cartd string // the binary
	data  string // the files of an empty database
}

// TestChaos has each nemesis at work in a cluster of its own.
func TestChaos(t *testing.T) {
	if *chaosNemesis == "" {
		t.Skip("nemeses are asked for: make chaos")
	}
	chosen, err := selected(*chaosNemesis)
	if err != nil {
		t.Fatal(err)
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	p := prepare(t)
	t.Logf("SEED=%d", seed)
	var rows []row
	for _, n := range chosen {
		if p.ctx.Err() != nil {
			t.Fatal("interrupted")
		}
		t.Run(n.name, func(t *testing.T) {
			if _, err := exec.LookPath(n.needs); n.needs != "" && err != nil {
				t.Skipf("%s is not installed", n.needs)
			}
			rows = append(rows, try(newCluster(t, p, n, seed, *chaosDuration), n))
		})
	}
	fmt.Printf("\n%d carts, %d nodes a region, %d clients, faults of %v, SEED=%d\n\n%s\n", carts, size, clients, *chaosDuration, seed, table(rows))
}

// prepare makes what all clusters share, and skips the test where something is missing.
func prepare(t *testing.T) *prepared {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("hosts are network namespaces, which only root can make")
	}
	for program, from := range map[string]string{"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: %s", from, err)
		}
	}
	if err := removeStale(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(t.Context(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process
	dir := workFolder(os.Getpid())
	p := &prepared{ctx: ctx, dir: dir, cartd: filepath.Join(dir, "cartd"), data: filepath.Join(dir, "database")}
	t.Cleanup(func() {
		if err := removeRun(os.Getpid()); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(dir, 0o755); err != nil { // the database's user goes through it
		t.Fatal(err)
	}
	var both sync.WaitGroup
	var built, made error
	both.Go(func() {
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", p.cartd, "cartd/cmd/cartd").CombinedOutput(); err != nil {
			built = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	// With segments of 1 MiB the log needs a new file soon, and so finds out that the disk is full.
	both.Go(func() { made = pgtest.Init(p.data, "--wal-segsize=1") })
	both.Wait()
	if errors.Is(made, pgtest.ErrNoBinaries) {
		t.Skip(made)
	}
	if err := errors.Join(built, made); err != nil {
		t.Fatal(err)
	}
	return p
}

// try has a nemesis at work in a cluster, and checks what came of it.
func try(c *cluster, n nemesis) row {
	t := c.t
	t.Helper()
	var durability func(cart int) string
	if n.loses > 0 {
		durability = func(cart int) string {
			if cart%4 == 0 {
				return ""
			}
			return "database"
		}
	}
	c.start(durability)
	began := time.Now()
	c.pass(warmUp + n.loses) // so that there are writes that may not be lost

	before := make(map[*exec.Cmd]int) // a process that is started counts from 0
	for _, n := range c.atWork() {
		before[n.cmd] = n.statesSent()
	}
	c.broken = time.Now()
	n.fault(c)
	undone := time.Now()
	if n.loses > 0 {
		// Who was shown what is lost now would ask for it for 5 s, before going on without. Nobody waits for answers.
		for _, n := range c.nodes {
			n.leave()
		}
		c.cutOff()
	}
	c.shoppers.Stop()
	worked := time.Since(began)
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	audit := time.Now()
	verdict := c.shoppers.Audit(ctx)

	attempts := c.account.since(c.broken)
	z := row{
		nemesis:      n.name,
		totals:       c.shoppers.Totals(),
		verdict:      verdict,
		availability: availability(attempts, c.away(), c.forgives),
		gap:          longestGap(attempts, c.broken, undone),
		convergence:  audit.Sub(undone) + verdict.Converged,
	}
	for _, n := range c.nodes {
		z.statesSent += n.statesSent() - before[n.cmd]
	}
	if n.kills {
		z.takeOver = takeOver(c.account.since(began), c.broken, undone)
	}
	for _, r := range c.regions {
		c.await("the database has all carts", func() bool {
			r.revive() // it may have taken until now to find that it cannot recover
			return r.stored() >= len(c.shoppers.Carts())
		})
	}
	t.Logf("%.0f requests/s; %v", float64(z.totals.Attempts)/worked.Seconds(), z.totals)
	judge(t, n, z)
	return z
}

// judge checks what the documentation promises.
func judge(t *testing.T, n nemesis, z row) {
	t.Helper()
	if v := z.verdict; !v.OK() {
		t.Errorf("%d lost, %d resurfaced, %d doubled, %d sessions, %d wrong, %d unequal",
			v.Lost, v.Resurfaced, v.Doubled, v.Sessions, v.Wrong, v.Unequal)
	}
	for _, finding := range z.verdict.Findings {
		t.Log(finding)
	}
	if z.convergence > converge {
		t.Errorf("all nodes are equal %v after the fault was undone, not within %v; before: %s", z.convergence, converge, z.verdict.Last)
	}
	if len(z.availability.failures) > 0 {
		t.Logf("%d of %d attempts at nodes that have to answer were not answered as they should be: %v",
			z.availability.all-z.availability.good, z.availability.all, z.availability.failures)
	}
	if n.available > 0 && !z.availability.atLeast(n.available) {
		t.Errorf("availability is %v, not %s %%", z.availability, percent(n.available))
	}
	// The one that is back gets a cart from each of the others at most, and as much is left for what these owe each other.
	if most := 2 * (size - 1) * carts; n.kills && z.statesSent > most {
		t.Errorf("nodes sent %d carts to repair others, more than %d: there are %d", z.statesSent, most, carts)
	}
	if n.kills && (z.gap > takesOver || z.takeOver > takesOver) {
		t.Errorf("for %v nothing was acknowledged, and for %v nothing of a cart that somebody wrote, not at most %v", z.gap, z.takeOver, takesOver)
	}
}

func TestSelected(t *testing.T) {
	for list, want := range map[string]int{"all": len(nemeses), "kill": 1, "kill, loss": 2} {
		if got, err := selected(list); err != nil || len(got) != want || want < 3 && got[0].name != "kill" {
			t.Errorf("%q: %d, %v", list, len(got), err)
		}
	}
	for _, list := range []string{"", "kil", "kill,", "kill,all"} {
		if _, err := selected(list); err == nil {
			t.Errorf("%q names nemeses", list)
		}
	}
}
