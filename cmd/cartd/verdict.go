package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cartd/cart"
)

// level is how well a node keeps the promise that no acknowledged write is lost and that writes are taken.
type level int

const (
	fine     level = iota // nothing is short
	atRisk                // writes are safe and taken, and the next failure may change that
	refusing              // writes are refused
)

func (l level) String() string {
	switch l {
	case fine:
		return "ok"
	case atRisk:
		return "at risk"
	}
	return "failing"
}

// What operators are told of before a node is at risk by it.
const (
	slowBacklog   = 10 * time.Second // that the database is behind, of which up to 5 s are wanted
	slowPeer      = 3 * time.Second  // that a peer has not acknowledged
	noticedOffset = 5 * time.Second  // of clocks; a minute makes a node not ready
	slowRegion    = 5 * time.Second  // that what arrives from another region is old
	catchesUp     = time.Minute      // since another region was reached: until then it may be old
)

// finding is something that an operator is to know. A fine one needs nothing done at once.
type finding struct {
	level level
	about string // holders, database, …
	says  string
	why   string // of what nodes may find for different reasons; or empty
}

func (f *finding) String() string {
	if f.why == "" {
		return f.says
	}
	return f.says + ": " + f.why
}

// judge tells how a node is, by its status alone, the worst first.
func judge(z *status) []finding {
	var all findings
	all.serving(z)
	if z.Store != nil && z.Carts != nil {
		all.holders(z)
		all.store(z)
		all.backlog(z)
	}
	all.links(z)
	all.slots(z)
	all.regions(z)
	all.clock(z)
	all.refusals(z)
	all.keys(z)
	slices.SortStableFunc(all, func(a, b finding) int { return cmp.Compare(b.level, a.level) })
	return all
}

// worst returns the level of a node with these findings.
func worst(all []finding) (l level) {
	for _, f := range all {
		l = max(l, f.level)
	}
	return l
}

type findings []finding

func (all *findings) add(l level, about, format string, args ...any) {
	*all = append(*all, finding{level: l, about: about, says: fmt.Sprintf(format, args...)})
}

// shared reports whether the nodes of a region share the store: else its commit acknowledges nothing, but at a
// node that is alone.
func (z *status) shared() bool { return z.Store != nil && z.Store.Kind == "postgres" }

// lists reports whether one of the other live members is such a one.
func (z *status) lists(such func(memberStatus) bool) bool {
	return slices.ContainsFunc(z.Members, such)
}

// replaced reports whether a link is with a process that is gone, and another one has come in its place.
func (z *status) replaced(l linkStatus) bool {
	return !l.Up && z.lists(func(m memberStatus) bool { return m.StartID != l.StartID && shortName(m.Name) == shortName(l.Peer) })
}

func (z *status) storeName() string {
	if z.Store != nil && z.Store.Kind != "postgres" {
		return "disk"
	}
	return "database"
}

// takes reports whether the store takes what it is given.
func (z *status) takes() bool { return z.Store.Reachable && z.Store.StalledSince.IsZero() }

// held names what holds a write that is acknowledged.
func (z *status) held() string {
	switch {
	case z.Node == nil && z.shared():
		return "the database"
	case z.Node == nil:
		return "this node's disk"
	case z.shared():
		return fmt.Sprintf("%d nodes or the database", 1+z.Needed)
	}
	return fmt.Sprintf("%d nodes", 1+z.Needed)
}

// age tells how long ago something was when the status was read.
func (z *status) age(since time.Time) string { return inWords(z.Time.Sub(since)) }

func (all *findings) serving(z *status) {
	for _, check := range []string{"serving", "joining"} {
		if says, found := z.Checks[check]; found && says != "ok" {
			all.add(atRisk, check, "the node is not ready: %s", says)
		}
	}
}

// holders judges whether a write finds who holds it.
func (all *findings) holders(z *status) {
	if z.Node == nil {
		return
	}
	database := z.shared() && z.takes()
	switch {
	case z.Linked >= z.Needed:
	case database:
		all.add(atRisk, "holders", "%d other nodes linked, %d needed: only the database holds writes", z.Linked, z.Needed)
	case z.Abroad >= z.Needed:
		all.add(atRisk, "holders", "%d other nodes linked, %d needed, and no database: other regions hold writes", z.Linked, z.Needed)
	default:
		all.add(refusing, "holders", "%d other nodes linked, %d needed, and no database: nobody can hold a write", z.Linked, z.Needed)
	}
}

// store judges the database, or the file.
func (all *findings) store(z *status) {
	s, name, l := z.Store, z.storeName(), atRisk
	if max(z.Linked, z.Abroad) < z.Needed || z.Node == nil {
		l = refusing
	}
	switch {
	case !s.Reachable:
		all.add(l, name, "away for %s: %s", z.age(s.AwaySince), s.LastError)
	case !s.StalledSince.IsZero():
		all.add(l, name, "takes nothing for %s: %s", z.age(s.StalledSince), cause(s.StalledBy))
	}
	if s.Damaged > 0 {
		all.add(atRisk, "in doubt", "stored carts that fail their checksum: %d; they are answered 503 where no node has them in memory", s.Damaged)
	}
}

// cause leaves out of an error of the store what every such error says.
func cause(why string) string {
	if _, rest, found := strings.Cut(why, cart.ErrNoRoom.Error()+": "); found {
		return rest
	}
	return why
}

// backlog judges what the database lacks.
func (all *findings) backlog(z *status) {
	c := z.Carts
	if c.UnderReplicated > 0 {
		all.add(atRisk, "backlog", "carts with writes that the database lacks and fewer than %d live nodes are known to hold: %d",
			1+z.Needed, c.UnderReplicated)
	}
	if oldest := seconds(c.OldestUnsaved); c.Unsaved > 0 && oldest > slowBacklog {
		all.add(atRisk, "backlog", "carts not yet saved: %d, the oldest write for %s", c.Unsaved, inWords(oldest))
	}
}

// links judges how well the peers keep up. One that is gone is a matter of the holders that are left.
func (all *findings) links(z *status) {
	for _, l := range z.Links {
		switch lag := seconds(l.Lag); {
		case z.replaced(l):
		case !l.Up && z.lists(func(m memberStatus) bool { return m.StartID == l.StartID }):
			all.add(atRisk, "link", "that with %s is down: %s", shortName(l.Peer), l.LastError)
		case !l.Up:
			all.add(fine, "lost", "%s is gone: %s", shortName(l.Peer), l.LastError)
		case l.NeedsSync:
			all.add(atRisk, "link", "%s needs sync: it may lack carts, and is being compared", shortName(l.Peer))
		case lag > slowPeer:
			all.add(atRisk, "link", "%s lags by %s; changes not acknowledged: %d", shortName(l.Peer), inWords(lag), l.BacklogItems)
		}
	}
}

func (all *findings) slots(z *status) {
	if z.Slots != nil && z.Slots.UnderReplicated > 0 && z.Linked >= z.Needed { // else all of them are
		all.add(atRisk, "slots", "with fewer than %d live owners: %d; their writes go to other nodes, or the database", z.Needed+1, z.Slots.UnderReplicated)
	}
}

// regions judges how other regions are reached, and how far behind they are.
func (all *findings) regions(z *status) {
	if len(z.Regions) == 0 && z.WANSeeds > 0 {
		all.add(atRisk, "regions", "no other one is known: no node answers at the addresses of --join-wan, or none of another region")
	}
	if len(z.WANStrays) > 0 {
		all.add(atRisk, "regions", "nodes that say they are of %s, and are not linked within it, such as %s: %d; "+
			"it is cut in two, or two regions have one name", z.Node.Region, shortName(z.WANStrays[0]), len(z.WANStrays))
	}
	for i := range z.Regions {
		r := &z.Regions[i]
		if !r.Reachable {
			says := fmt.Sprintf("%s cannot be reached for %s, and writes do not arrive there", r.Region, z.age(r.Since))
			*all = append(*all, finding{atRisk, "region", says, z.why(r)})
			continue
		}
		if z.Node.Bridge && r.linked() == 0 {
			all.add(atRisk, "region", "%s is reached by way of %s alone: %s", r.Region, shortName(r.Via), z.why(r))
		}
		if !slices.ContainsFunc(z.WANMembers, func(m memberStatus) bool { return m.Region == r.Region }) && z.WANAddress != "" {
			all.add(atRisk, "region", "%s is linked, and none of its nodes is heard of at the port of --wan-listen: "+
				"nobody would learn of a new bridge", r.Region)
		}
		if z.Time.Sub(r.Since) < catchesUp {
			continue
		}
		if lag := seconds(r.Lag); lag > slowRegion {
			all.add(atRisk, "lag", "what arrives from %s is up to %s old", r.Region, inWords(lag))
		}
		if x := r.Crossings; x.Dropped > 0 && z.Time.Sub(x.LastDropped) < time.Minute {
			all.add(atRisk, "dropped", "on the way between here and %s, the last %s ago: %d; repair makes up for it", r.Region, z.age(x.LastDropped), x.Dropped)
		}
	}
}

// why tells why this node has no link with another region.
func (z *status) why(r *regionStatus) string {
	switch {
	case !z.Node.Bridge:
		return "no bridge of this region has a link with it"
	case len(r.Bridges) == 0:
		return "none of its nodes is a bridge"
	}
	return r.Bridges[len(r.Bridges)-1].LastError
}

func (all *findings) keys(z *status) {
	if z.KeyFile != nil && z.KeyFile.LastError != "" {
		all.add(atRisk, "key file", "%s; the node goes on with the keys that it had, and would not start again", z.KeyFile.LastError)
	}
}

func (all *findings) clock(z *status) {
	switch offset := seconds(z.Clock.Offset); {
	case z.Clock.Bad:
		all.add(atRisk, "clock", "%s off most other nodes, more than a minute: the node is not ready", inWords(offset.Abs()))
	case offset.Abs() > noticedOffset:
		all.add(atRisk, "clock", "%s off the other nodes; more than a minute makes the node not ready", inWords(offset.Abs()))
	}
}

func (all *findings) refusals(z *status) {
	if said := counted(z.Refused.Network); said != "" {
		all.add(fine, "refused", "at the peer ports, the last %s ago: %s", z.age(z.Refused.NetworkLast), said)
	}
	if said := counted(z.Refused.Payloads); said != "" {
		all.add(fine, "refused", "changes from other nodes: %s", said)
	}
	if n := z.Refused.Crossings; n > 0 {
		all.add(fine, "refused", "items between regions that their sender may not send, or of unknown regions: %d", n)
	}
}

// counted names the reasons that anything was counted for.
func counted[N uint64 | int64](counts map[string]N) string {
	var said []string
	for _, reason := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[reason]; n > 0 {
			said = append(said, fmt.Sprintf("%s %d", reason, n))
		}
	}
	return strings.Join(said, ", ")
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// inWords rounds a duration to what matters of it.
func inWords(d time.Duration) string {
	switch a := d.Abs(); {
	case a < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case a < time.Second:
		return d.Round(time.Millisecond).String()
	case a < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case a < time.Hour:
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
