package sim

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/crdt"
)

// world is one run.
type world struct {
	scheduler
	t     *testing.T
	seed  uint64
	plan  plan
	often string // the fault that is wanted often; or none

	network   network
	regions   []*region
	machines  []*machine // of all regions
	processes []*node    // all there ever were
	born      int
	carts     []*subject
	check     checker

	shopping   bool
	closing    chan struct{} // closed when shopping is over
	healing    chan struct{} // closed when all faults are to end
	faults     int           // going on
	parted     bool          // machines are cut off from each other
	severed    bool          // regions are
	hinderedAt time.Duration // when regions may not have got what they wanted of each other, last
	told       int           // counts what the Services are told to own
	exposed    []*node       // the dead, while what they held is not yet held elsewhere
	over       bool

	count   counts
	log     log
	failure string
	drawn   uint64        // ids that were drawn anew
	slowest time.Duration // for the replicas to become equal
}

// plan is what a seed decides before the run.
type plan struct {
	replicas     int // owners of a cart
	tolerate     int
	shared       bool // one database for all machines of a region, or else a file for each
	memory       int64
	outbox       int
	suspicion    time.Duration // before a process that cannot be reached is taken for dead
	farSuspicion time.Duration // likewise in the pool of all regions
	sessions     int
	pause        time.Duration
	trouble      time.Duration // how long there are faults
	calm         time.Duration // between two faults, at most
	erasures     int           // of 1000 requests
	loseAnswers  float64
}

// newWorld draws a plan.
func newWorld(t *testing.T, seed uint64, out io.Writer) *world {
	cryptotest.SetGlobalRandom(t, seed)
	w := &world{t: t, seed: seed, often: os.Getenv("FAULT"), closing: make(chan struct{}), healing: make(chan struct{}), count: counts{}}
	w.log.out = out
	w.rand = mathrand.New(mathrand.NewPCG(seed, 1))
	w.check.world, w.check.byID = w, map[cart.ID]*subject{}
	w.network.latency = time.Duration(100+w.rand.IntN(3000)) * time.Microsecond
	between := func(from, to time.Duration) time.Duration { return from + time.Duration(w.rand.Int64N(int64(to-from))) }
	oneIn := func(n int) bool { return w.rand.IntN(n) == 0 }
	p := &w.plan
	*p = plan{
		replicas: 3, tolerate: 1, shared: !oneIn(8), memory: 1 << 30,
		suspicion:    between(2*time.Second, 6*time.Second),
		farSuspicion: between(5*time.Second, 15*time.Second),
		sessions:     3 + w.rand.IntN(6),
		pause:        between(100*time.Millisecond, time.Second),
		trouble:      between(4*time.Second, 16*time.Second),
		calm:         between(200*time.Millisecond, 4*time.Second),
	}
	if oneIn(5) {
		p.outbox = 2000 + w.rand.IntN(20000)
	}
	several, least := oneIn(3), int(number(t, "REGIONS", 0))
	if least > 1 || several && least == 0 {
		w.drawRegions(max(least, 2+w.rand.IntN(maxRegions-1)))
	} else {
		w.drawRegion()
	}
	if p.shared && oneIn(2) {
		p.memory = int64(2000 + w.rand.IntN(6000))
	}
	if oneIn(6) {
		p.erasures = 8
	}
	if oneIn(3) {
		p.loseAnswers = 0.05
	}
	unsure, stale := oneIn(3), oneIn(3)
	zones := oneIn(3)
	for _, r := range w.regions {
		if unsure {
			r.database.unsure = 0.1
		}
		if stale {
			r.database.stale = 0.3
		}
		for i := range r.most {
			m := &machine{world: w, region: r, number: len(w.machines)}
			if zones {
				m.zone = fmt.Sprintf("z%d", i%3)
			}
			if oneIn(4) {
				m.skew = between(-2*time.Second, 2*time.Second)
			}
			if !p.shared {
				m.file = newDatabase(w, fmt.Sprintf("file %d", m.number))
			}
			r.machines = append(r.machines, m)
			w.machines = append(w.machines, m)
		}
	}
	w.introduce()
	w.trace("seed %d: %+v", seed, *p)
	for _, r := range w.regions {
		w.trace("%s: %d nodes, %d at most, which join %v and %v", r.name, r.nodes, r.most, r.join, r.joinAll)
	}
	return w
}

// drawRegion draws one region alone.
func (w *world) drawRegion() {
	nodes := 3
	if w.rand.IntN(3) == 0 {
		nodes = 4 + w.rand.IntN(2)
	}
	most := nodes
	if w.rand.IntN(3) == 0 || w.often == oftenResize {
		most += 1 + w.rand.IntN(maxNodes-nodes)
	}
	if nodes == 5 && w.rand.IntN(2) == 0 {
		w.plan.tolerate = 2
	}
	w.addRegion(nodes, most)
}

// drawRegions draws several regions.
func (w *world) drawRegions(n int) {
	w.network.far = time.Duration(20+w.rand.IntN(21)) * time.Millisecond
	w.plan.shared = true
	if w.plan.outbox > 0 { // so much as a comparison takes, which crosses as one piece
		w.plan.outbox += 50_000
	}
	for range n {
		nodes := 2 + w.rand.IntN(3)
		most := nodes
		if n < maxRegions && w.rand.IntN(4) == 0 {
			most++
		}
		w.addRegion(nodes, most)
	}
	switch w.rand.IntN(4) {
	case 0:
		w.plan.tolerate = 2
	case 1, 2:
		w.plan.replicas = 2 // so that bridges own little
	}
}

// run runs it, and returns why it failed.
func (w *world) run() string {
	w.probe()
	w.lookOften()
	w.start(nil, "director", func() {
		w.direct()
		w.over = true
	})
	for !w.over && w.failure == "" && w.panicked == "" {
		w.step()
		if w.steps > 5_000_000 {
			w.fail("liveness", "the run does not end")
		}
	}
	if w.panicked != "" {
		w.failure = w.panicked
		w.release()
		return w.failure // locks may be held
	}
	w.end()
	return w.failure
}

// direct is the way of a run.
func (w *world) direct() {
	for _, r := range w.regions {
		for _, m := range r.machines[:r.nodes] {
			w.boot(m)
			w.sleep(time.Duration(w.rand.IntN(int(200*time.Millisecond))), nil)
		}
		if r.most > r.nodes {
			w.fault(func(*world) { r.resize() })
		}
	}
	w.shopping = true
	shoppers := w.openShop()
	for end := w.now + w.plan.trouble; w.now < end; {
		w.sleep(time.Duration(w.rand.Int64N(int64(w.plan.calm))), nil)
		w.disturb()
	}
	w.trace("all is healed")
	close(w.healing)
	for w.faults > 0 {
		w.sleep(10*time.Millisecond, nil)
	}
	for _, r := range w.regions {
		r.database.unsure, r.database.stale = 0, 0
	}
	w.shopping = false
	close(w.closing)
	for _, done := range shoppers {
		w.wait(done, nil, nil)
	}
	w.converge()
	w.lookAtAll()
	w.closeAll()
}

// openShop starts the sessions.
func (w *world) openShop() (shoppers []chan struct{}) {
	for i := range w.plan.sessions {
		s := &session{
			world: w, name: fmt.Sprintf("s%d", i), home: w.machines[w.rand.IntN(len(w.machines))],
			echoes: w.rand.IntN(3) > 0, hops: [...]float64{0, 0.1, 0.5, 1}[w.rand.IntN(4)],
		}
		done := make(chan struct{})
		shoppers = append(shoppers, done)
		w.start(nil, s.name, func() {
			defer close(done)
			if i > 2 || i > 0 && w.rand.IntN(2) == 0 { // shares a cart
				for len(w.carts) == 0 && w.shopping {
					w.sleep(50*time.Millisecond, w.closing)
				}
				if len(w.carts) > 0 {
					s.subject = w.carts[w.rand.IntN(len(w.carts))]
				}
			}
			s.shop()
		})
	}
	return shoppers
}

// How long healing may take.
const (
	meetAgain = 22 * time.Second // a period of the rejoin loop and a dial
	placed    = time.Second      // nothing has changed in who owns what
	placeIn   = 45 * time.Second // who joins is active, and who was lost owns nothing any more
	healIn    = 5 * time.Second  // all replicas are equal after the last link is up, and it is clear who owns them
	makeRoom  = 10 * time.Second // where memory is short: what was refused waits for the database to have the rest
	saveIn    = 12 * time.Second // and the database has all: as long as the third owner waits
	letGoIn   = 25 * time.Second // and nobody keeps what is not its own: as long as who is no owner waits to save it
	lookIn    = time.Minute      // a node looks for what the database has no more

	// crossIn is how much longer it takes where there are several regions: a change whose author died before it sent it
	// there is found when they are compared without a reason, and that gets lost where a bridge does not know the way
	// back yet.
	crossIn = 10*time.Second + 3*time.Second
)

// healIn is how long the replicas may differ.
func (w *world) healIn() time.Duration {
	d := healIn
	if w.plan.memory < 1<<20 {
		d += makeRoom
	}
	return d + w.crossIn()
}

// crossIn is how much longer it takes where there are several regions.
func (w *world) crossIn() time.Duration {
	if len(w.regions) > 1 {
		return crossIn
	}
	return 0
}

// converge waits until the replicas are equal.
func (w *world) converge() {
	if !w.until(meetAgain, w.linked) {
		w.fail("convergence", "the nodes have no links %v after the last fault", meetAgain)
		return
	}
	w.trace("all links are up")
	why, since, told := "", w.now, w.told
	if !w.until(placeIn, func() bool {
		if w.told != told {
			since, told = w.now, w.told
		}
		if w.now-since < placed {
			return false
		}
		since, why = w.now, w.check.misplaced()
		return why == ""
	}) {
		w.fail("placement", "%v after the last link came up: %s", placeIn, why)
		return
	}
	w.trace("all agree on who owns what")
	if why = w.check.strays(); why != "" {
		w.fail("placement", "%s", why)
		return
	}
	if w.rand.IntN(4) == 0 { // when nobody writes, which would save the cart again
		w.until(letGoIn, func() bool { return w.check.leftOver() == "" })
		w.goBack()
	}
	if !w.until(lookIn+saveIn, w.check.cameBack) {
		w.fail("came-back", "a database does not have again what it had of %d carts before it went back in time", len(w.check.owed))
		return
	}
	// What a node that is gone for good has told the database alone, the others find when they look there. Where
	// another one takes its place, that one looks at once.
	gone := w.count["leaves"]+w.count["machines lost"] > 0
	began := w.now
	if !w.until(w.healIn(), func() bool { why = w.check.differences(!gone); return why == "" }) {
		w.fail("convergence", "%v after it was clear who owns what: %s", w.healIn(), why)
		return
	}
	if !w.until(lookIn+healIn, func() bool { why = w.check.differences(true); return why == "" }) {
		w.fail("convergence", "%v after the nodes were equal: %s", lookIn+healIn, why)
		return
	}
	w.trace("all replicas are equal after %v", w.now-began)
	w.slowest = max(w.slowest, w.now-began)
	if !w.until(saveIn, func() bool { why = cmp.Or(w.check.unshown(), w.check.unsaved()); return why == "" }) {
		w.fail("convergence", "%v after the replicas were equal: %s", saveIn, why)
		return
	}
	w.letGo()
}

// letGo waits until nobody keeps anything of a cart that is not its own.
func (w *world) letGo() {
	began, why := w.now, ""
	if !w.until(letGoIn, func() bool { why = w.check.leftOver(); return why == "" }) {
		w.fail("left-over", "%v after the owners had everything: %s", letGoIn, why)
		return
	}
	w.trace("nobody keeps what is not its own after %v", w.now-began)
}

// lookAtAll has every node take a write and show every cart.
func (w *world) lookAtAll() {
	for _, s := range w.check.subjects {
		for _, n := range w.live() {
			if w.failed() {
				return
			}
			if s.erasing || len(s.shown) == 0 && w.nowhere(s) {
				break
			}
			q := &request{session: "probe", subject: s, kind: toWrite, steps: []command{{add, "A", 1}}}
			a := &answer{}
			w.until(saveIn, func() bool { // where memory is short, it waits for the database
				w.atOnce(n, q, a)
				return reasonOf(a.err) != cart.ServiceOverCapacity
			})
			if a.err != nil {
				w.fail("liveness", "%s refuses a write of %s when all is well: %v", n.name(), s.label, a.err)
			}
		}
	}
	why, within := "", saveIn+w.crossIn()
	if !w.until(within, func() bool { why = cmp.Or(w.check.differences(true), w.check.unshown()); return why == "" }) {
		w.fail("convergence", "%v after the last write: %s", within, why)
		return
	}
	w.letGo()
	for _, s := range w.check.subjects {
		for _, n := range w.live() {
			if w.failed() {
				return
			}
			q := &request{session: "probe", subject: s}
			a := &answer{}
			w.until(saveIn, func() bool { // what it has just loaded may be older than what it holds beside
				w.atOnce(n, q, a)
				return a.err == nil && (a.state.Erased || a.state.VV.Descends(s.shown)) || reasonOf(a.err) == cart.NotFound
			})
			switch {
			case a.err == nil:
				w.check.final(n, s, a.state)
			case reasonOf(a.err) == cart.NotFound && (s.erasing || len(s.shown) == 0 && w.nowhere(s)):
			case reasonOf(a.err) == cart.NotFound && len(s.shown) > 0:
				w.fail("lost-write", "%s says that there is no %s", n.name(), s.label)
			default:
				w.fail("liveness", "%s does not show %s when all is well: %v", n.name(), s.label, a.err)
			}
		}
	}
}

// nowhere reports whether nobody has anything of a cart, which its creation may come to.
func (w *world) nowhere(s *subject) bool {
	for _, r := range w.regions {
		if stored, _ := r.database.holds(s); stored.events.len() > 0 {
			return false
		}
	}
	for _, n := range w.live() {
		if e, _ := n.holds(s); e.events.len() > 0 {
			return false
		}
	}
	return true
}

// atOnce has a node answer a request, without a network between it and the client.
func (w *world) atOnce(n *node, q *request, a *answer) {
	done := make(chan struct{})
	w.start(n, n.name()+" probe", func() {
		defer close(done)
		n.serve(n.running, q, a)
	}).request = q
	w.wait(done, nil, nil)
}

// closeAll closes all nodes.
func (w *world) closeAll() {
	for _, n := range w.live() {
		n.exit()
	}
}

// end closes what a failure left open, and checks that nobody is left waiting.
func (w *world) end() {
	defer w.release()
	failure := w.failure
	w.failure = "" // what else fails tells only of a run that has not
	w.shopping = false
	for _, c := range []chan struct{}{w.closing, w.healing} {
		if !isClosed(c) {
			close(c)
		}
	}
	w.closeAll()
	for limit := w.steps + 100_000; len(w.activities) > 0 && w.steps < limit && w.panicked == ""; {
		if len(w.timers) == 0 && !w.anyReady() {
			break
		}
		w.step()
	}
	left := ""
	for _, a := range w.activities {
		left += " " + a.name
	}
	if left != "" {
		w.fail("liveness", "activities are left:%s", left)
	}
	w.failure = cmp.Or(failure, w.failure)
}

func (w *world) anyReady() bool {
	for _, a := range w.activities {
		if a.ready || a.released() {
			return true
		}
	}
	return false
}

// lookOften looks at all memories, again and again.
func (w *world) lookOften() {
	w.after(100*time.Millisecond, func() {
		if w.hindered() {
			w.hinderedAt = w.now
		}
		w.check.look()
		w.check.settle()
		w.lookOften()
	})
}

// freshID makes sure that the id that is drawn next begins like that of no other cart: what order the
// carts of a shard are looked at in is for the Go runtime to decide.
func (w *world) freshID() {
	for {
		w.drawn++
		seed := w.seed<<20 + w.drawn
		cryptotest.SetGlobalRandom(w.t, seed)
		var id [16]byte
		rand.Read(id[:])
		if !w.hasShard(id[0]) {
			cryptotest.SetGlobalRandom(w.t, seed)
			return
		}
	}
}

// hasShard reports whether a cart begins with a byte: whether it is in that shard.
func (w *world) hasShard(first byte) bool {
	return slices.ContainsFunc(w.check.subjects, func(s *subject) bool { return s.id[0] == first })
}

// fail ends the run.
func (w *world) fail(checker, format string, args ...any) {
	if w.failure == "" {
		w.failure = checker + ": " + fmt.Sprintf(format, args...)
		w.trace("FAILED %s", w.failure)
	}
}

func (w *world) failed() bool { return w.failure != "" }

// log keeps the last lines of a trace, and a hash of all.
type log struct {
	out   io.Writer // gets all lines, if not nil
	lines []string
	next  int
	hash  xxhash.Digest
}

const keptLines = 250

func (l *log) add(line string) {
	_, _ = l.hash.WriteString(line)
	if l.out != nil {
		_, _ = fmt.Fprintln(l.out, line)
	}
	if len(l.lines) < keptLines {
		l.lines = append(l.lines, line)
		return
	}
	l.lines[l.next] = line
	l.next = (l.next + 1) % keptLines
}

func (l *log) String() string {
	return strings.Join(append(append([]string(nil), l.lines[l.next:]...), l.lines[:l.next]...), "\n")
}

// trace notes an event.
func (w *world) trace(format string, args ...any) {
	w.log.add(fmt.Sprintf("%10.4f ", w.now.Seconds()*1000) + fmt.Sprintf(format, args...))
}

// label names a cart.
func (w *world) label(id cart.ID) string {
	if s := w.check.byID[id]; s != nil {
		return s.label
	}
	return id.String()
}

// vector writes a version vector in short.
func (w *world) vector(s *crdt.State) string {
	switch {
	case s == nil:
		return "-"
	case s.Erased:
		return "erased"
	}
	var b strings.Builder
	for _, d := range s.VV {
		fmt.Fprintf(&b, "%03x:%d ", uint64(d.Replica)>>52, d.Seq)
	}
	return strings.TrimSpace(b.String())
}
