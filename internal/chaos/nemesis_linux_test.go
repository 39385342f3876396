package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// nemesis is something that goes wrong.
type nemesis struct {
	name string
	// fault does it and returns when it has undone it, after the duration that the region was given.
	fault func(r *region)
	// available is how many of 100,000 attempts have to succeed at nodes that run and are not cut off; 0: nothing is
	// promised.
	available int
	// kills says that a node dies, so that others have to take over, and how many carts have to be repaired is bounded.
	kills bool
	// loses says that more nodes die at once than are tolerated. What peers alone acknowledged in the time before
	// may be lost then.
	loses bool
	disk  int64 // bytes for the database, 0: enough
	needs string
}

var nemeses = []nemesis{
	{name: "kill", fault: kill, available: most, kills: true},
	{name: "pause", fault: pauseNode, available: most},
	{name: "isolate", fault: isolate, available: most},
	{name: "one-way", fault: oneWay, available: most},
	{name: "loss", fault: loss, available: 99_000},
	{name: "database-killed", fault: killDatabase, available: most},
	{name: "database-paused", fault: pauseDatabase, available: most},
	{name: "disk-full", fault: fillDisk, available: most, disk: 64 << 20},
	{name: "slow-fsync", fault: slowFsync, available: most, needs: "strace"},
	{name: "failing-fsync", fault: failingFsync, available: most, needs: "strace"},
	{name: "kill-all", fault: killAll, loses: true},
	{name: "rolling-restart", fault: rollingRestart, available: 100_000},
}

// selected returns the nemeses of a list of names with commas between them; "all" are all.
func selected(list string) (all []nemesis, err error) {
	if list == "all" {
		return nemeses, nil
	}
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(nemeses, func(n nemesis) bool { return n.name == strings.TrimSpace(name) })
		if i < 0 {
			var names []string
			for _, n := range nemeses {
				names = append(names, n.name)
			}
			return nil, fmt.Errorf("there is no nemesis %q; there are %s", name, strings.Join(names, ", "))
		}
		all = append(all, nemeses[i])
	}
	return all, nil
}

// kill: a node dies, and half-way it is back, with an empty memory.
func kill(r *region) {
	v := r.victim()
	v.leave()
	v.kill()
	r.pass(r.duration / 2)
	v.start()
	v.back()
	r.rest()
}

// pauseNode: a node hangs.
func pauseNode(r *region) {
	v := r.victim()
	v.leave()
	v.signal(syscall.SIGSTOP)
	r.rest()
	v.signal(syscall.SIGCONT)
}

// isolate: a node is cut off from the other nodes and the database, and not from clients.
func isolate(r *region) {
	v := r.victim()
	v.leave()
	for _, h := range r.hosts() {
		if h != v.host {
			v.drop(h)
			h.drop(v.host)
		}
	}
	r.rest()
	r.heal()
}

// oneWay: a node does not get what another one sends.
func oneWay(r *region) {
	i := r.random.IntN(size)
	from, to := r.nodes[i], r.nodes[(i+1+r.random.IntN(size-1))%size]
	to.drop(from.host)
	r.rest()
	r.heal()
}

// loss: each packet between hosts is lost with a probability of 20 %.
func loss(r *region) {
	for _, to := range r.hosts() {
		for _, from := range r.hosts() {
			if from != to {
				to.drop(from, "-m", "statistic", "--mode", "random", "--probability", "0.2")
			}
		}
	}
	r.rest()
	r.heal()
}

// heal has all hosts take all packets. That some were dropped before shows that there was a fault.
func (r *region) heal() {
	r.t.Helper()
	dropped := 0
	for _, h := range r.hosts() {
		dropped += h.heal()
	}
	r.t.Logf("%d packets were dropped", dropped)
	if dropped == 0 {
		r.t.Error("no packet was dropped: there was no fault")
	}
}

// hosts returns all hosts.
func (r *region) hosts() []*host {
	all := []*host{r.host}
	for _, n := range r.nodes {
		all = append(all, n.host)
	}
	return all
}

// killDatabase: the database dies.
func killDatabase(r *region) {
	r.server.Kill(r.t)
	r.rest()
	r.server.Restart(r.t)
}

// pauseDatabase: the database hangs.
func pauseDatabase(r *region) {
	r.server.Pause(r.t)
	r.rest()
	r.server.Resume(r.t)
}

// fillDisk: there is no room left for the database.
func fillDisk(r *region) {
	free := r.fill()
	r.rest()
	free()
	r.said(r.serverLog(), "No space left on device")
	r.revive()
}

// slowFsync: an fsync of the database takes half a second.
func slowFsync(r *region) {
	const delay = 500 * time.Millisecond
	stop := r.inject(fmt.Sprintf("delay_enter=%d", delay.Microseconds()))
	r.rest()
	stop()
	r.said(r.straceLog(), "(DELAYED)")
}

// failingFsync: every fsync of the database fails. It ends all connections then, and cannot recover.
func failingFsync(r *region) {
	stop := r.inject("error=EIO")
	r.rest()
	stop()
	r.said(r.straceLog(), "(INJECTED)")
	r.revive()
}

// said checks that a log has what shows that there was a fault.
func (r *region) said(path, what string) {
	r.t.Helper()
	log, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	n := bytes.Count(log, []byte(what))
	r.t.Logf("%s: %d times", what, n)
	if n == 0 {
		r.t.Errorf("%s does not say %q: there was no fault", filepath.Base(path), what)
	}
}

// revive has the database run again if it has ended.
func (r *region) revive() {
	r.t.Helper()
	if r.server.Ended() {
		r.t.Log("the database has ended, and is started again")
		r.server.Restart(r.t)
	}
}

// killAll: all nodes die at once, and half-way they are back.
func killAll(r *region) {
	for _, n := range r.nodes {
		n.leave()
		n.signal(syscall.SIGKILL)
	}
	for _, n := range r.nodes {
		<-n.done
	}
	r.pass(r.duration / 2)
	for _, n := range r.nodes {
		n.start()
	}
	for _, n := range r.nodes {
		n.back()
	}
	r.rest()
}

// rollingRestart: the nodes are stopped and started again, one after the other, each of them once at least.
func rollingRestart(r *region) {
	for {
		for _, n := range r.nodes {
			n.terminate()
			n.start()
			n.awaitReady()
		}
		if time.Since(r.broken) >= r.duration {
			return
		}
	}
}
