package sim

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/crdt"
	"cartd/gossip"
)

// checker has what is known of all carts, and looks at whatever is seen of them.
type checker struct {
	world    *world
	subjects []*subject // in order of creation
	byID     map[cart.ID]*subject
	owed     []debt // what databases have to get back
}

// debt is what a database had of a cart before it went back in time.
type debt struct {
	database *database
	subject  *subject
	what     extent
}

// subject is a cart, as the simulation knows it.
type subject struct {
	id      cart.ID
	label   string
	token   cart.Token
	model   model
	bytes   map[string]uint64 // hash of the encoding, by version vector
	looked  map[*crdt.State]bool
	shown   crdt.VV // what answers showed
	acked   crdt.VV // of these, the events of writes that were acknowledged
	erasing bool    // somebody asked for it
	erased  bool    // that was acknowledged
}

// authored takes the delta that a request made on a node.
func (c *checker) authored(n *node, id cart.ID, q *request, d *crdt.Delta) {
	w := c.world
	if q.subject == nil {
		q.subject = &subject{
			id: id, label: fmt.Sprintf("c%d", len(c.subjects)), bytes: map[string]uint64{}, looked: map[*crdt.State]bool{},
		}
		q.subject.model.replicas = map[crdt.ReplicaID][]int{}
		c.subjects = append(c.subjects, q.subject)
		c.byID[id] = q.subject
	}
	s := q.subject
	if d.Erased {
		s.erasing = true
		w.trace("%s %s erased by %s", n.name(), s.label, q.session)
		return
	}
	own := crdt.Dot{}
	for _, e := range d.VV {
		if d.Base.Get(e.Replica) < e.Seq {
			if own.Seq > 0 {
				w.fail("model", "%s: a request made events of two replicas", s.label)
				return
			}
			own = e
		}
	}
	before := d.Base.Get(own.Replica)
	if known := uint64(len(s.model.replicas[own.Replica])); known != before {
		w.fail("unique-dots", "%s: %s makes event %d of replica %016x, which has %d", s.label, n.name(), before+1, uint64(own.Replica), known)
		return
	}
	after := n.memory(id).latest
	seen, err := s.model.eventsOf(nil, slices.DeleteFunc(slices.Clone(after.VV), func(e crdt.Dot) bool { return e.Replica == own.Replica }))
	if err != nil {
		w.fail("unique-dots", "%s: %s knows %v", s.label, n.name(), err)
		return
	}
	for _, i := range s.model.replicas[own.Replica] {
		seen = seen.with(i)
	}
	by := &author{replica: own.Replica, seen: seen}
	if q.contextVV != nil {
		by.narrowed = true
		by.context, _ = s.model.eventsOf(nil, q.contextVV)
	}
	at := func(dot crdt.Dot) crdt.Timestamp {
		for _, l := range d.Lines {
			for _, e := range l.Counter {
				if e.Dot == dot {
					return e.At
				}
			}
		}
		return 0
	}
	first := len(s.model.events)
	if q.kind == toCreate {
		s.model.create(by)
	}
	for i, step := range q.steps {
		s.model.execute(by, step, q.operation(i), at)
	}
	if made := uint64(len(s.model.replicas[own.Replica])); made != own.Seq {
		w.fail("model", "%s: %s made %d events of %v, which come to %d", s.label, n.name(), own.Seq-before, q.steps, made-before)
	}
	q.made = own
	for i := range s.model.events[first:] {
		w.trace("%s %s %s by %s", n.name(), s.label, s.model.events[first+i].String(), q.session)
	}
}

// create makes the first event of a cart, which has no entry.
func (m *model) create(by *author) {
	m.events = append(m.events, event{kind: create, dot: crdt.Dot{Replica: by.replica, Seq: 1}})
	m.replicas[by.replica] = []int{len(m.events) - 1}
	by.seen = by.seen.with(len(m.events) - 1)
}

// state looks at a state of a cart, wherever it was seen.
func (c *checker) state(id cart.ID, state *crdt.State, where string) {
	s := c.byID[id]
	if state == nil || s == nil || s.looked[state] || c.world.failed() {
		return
	}
	s.looked[state] = true
	w := c.world
	if state.Erased {
		if !s.erasing {
			w.fail("lost-write", "%s is erased at %s, which nobody asked for", s.label, where)
		}
		return
	}
	key := string(crdt.AppendState(nil, &crdt.State{VV: state.VV}))
	hash := xxhash.Sum64(crdt.AppendState(nil, state))
	if known, found := s.bytes[key]; found && known != hash {
		w.fail("equal-bytes", "%s at %s has the events of another state, and other bytes: %v", s.label, where, state.VV)
		return
	} else if found {
		return
	}
	s.bytes[key] = hash
	visible, err := s.model.eventsOf(nil, state.VV)
	if err != nil {
		w.fail("unique-dots", "%s at %s: %v", s.label, where, err)
		return
	}
	r := s.model.read(visible)
	if checker, problem := r.compareEntries(state); problem == "" {
		c.compareShown(s, r, state, where)
	} else {
		w.fail(checker, "%s at %s: %s", s.label, where, problem)
	}
}

// compareEntries compares what is live with what the model says.
func (r reading) compareEntries(state *crdt.State) (checker, problem string) {
	live := map[crdt.Dot]string{}
	for _, l := range state.Lines {
		for _, e := range l.Counter {
			live[e.Dot] = fmt.Sprint(l.Key, " ", e.N)
		}
	}
	for _, m := range state.Members {
		live[m.Dot] = fmt.Sprint("code ", m.Value)
	}
	r.visible.each(func(i int) {
		e := &r.m.events[i]
		is, found := live[e.dot]
		delete(live, e.dot)
		want := fmt.Sprint(e.line, " ", e.n)
		if e.kind == putCode {
			want = fmt.Sprint("code ", e.line)
		}
		switch {
		case problem != "":
		case found && (!e.entry || r.dead.has(i)):
			checker, problem = "resurfaced", fmt.Sprintf("%v is live, and was cancelled", e)
		case !found && e.entry && !r.dead.has(i):
			checker, problem = "lost-write", fmt.Sprintf("%v has no entry, and nothing cancelled it", e)
		case found && is != want:
			checker, problem = "quantity", fmt.Sprintf("the entry of %v is %q", e, is)
		}
	})
	if problem == "" && len(live) > 0 {
		return "resurfaced", fmt.Sprintf("entries %v of events that the state does not have", live)
	}
	return checker, problem
}

// compareShown compares quantities and codes with what the model says.
func (c *checker) compareShown(s *subject, r reading, state *crdt.State, where string) {
	lines, codes := map[string]int64{}, map[string]bool{}
	for _, l := range state.Lines {
		if q := state.Quantity(l); q > 0 {
			lines[l.Key] = q
		}
	}
	for _, m := range state.Members {
		if state.Counts(m.Dot) {
			codes[m.Value] = true
		}
	}
	same := func(r reading) bool { return maps.Equal(r.lines(), lines) && maps.Equal(r.codes(), codes) }
	if same(r) {
		return
	}
	checker, twins := "quantity", r
	if twins.twins = true; same(twins) {
		checker = "counted-twice"
	}
	c.world.fail(checker, "%s at %s shows %v %v, and not %v %v", s.label, where, lines, codes, r.lines(), r.codes())
}

// answered looks at what a process answered.
func (c *checker) answered(n *node, q *request, state *crdt.State, replayed bool) {
	s, w := q.subject, c.world
	c.state(s.id, state, n.name())
	if w.failed() {
		return
	}
	visible, err := s.model.eventsOf(nil, state.VV)
	if err != nil {
		w.fail("unique-dots", "%s: %v", s.label, err)
		return
	}
	c.held(s, extent{visible, state.Erased}, fmt.Sprintf("what %s showed of %s", n.name(), s.label))
	if !state.Erased && !visible.has(0) {
		w.fail("part", "%s showed a part of %s, without its beginning: %v", n.name(), s.label, state.VV)
	}
	s.shown = s.shown.Join(state.VV)
	if q.made.Seq > 0 {
		s.acked = s.acked.Join(crdt.VV{q.made})
	}
	switch {
	case !state.VV.Descends(q.contextVV):
		w.fail("session", "%s showed %s a state without what it had seen:%s", n.name(), q.session, s.model.lacking(state.VV, q.contextVV))
	case q.made.Seq > 0 && !state.VV.Has(q.made):
		w.fail("session", "%s does not see its own write at %s", q.session, n.name())
	case replayed && q.key != "" && !slices.ContainsFunc(s.model.events, func(e event) bool {
		return e.operation == q.operation(0) && state.VV.Has(e.dot)
	}):
		w.fail("lost-write", "%s said that it had executed %s before, and does not show it", n.name(), q.key)
	}
}

// held checks that enough live processes hold something of a cart, of whatever region, or the database of one.
func (c *checker) held(s *subject, what extent, name string) {
	w := c.world
	need := max(1, w.plan.tolerate+1-len(w.exposed))
	missing, lacking := c.heldBy(s, what, need, w.live(), w.databases())
	switch {
	case what.erased && lacking:
		w.fail("dirty-read", "%s, its end, is not held by %d live processes, nor by a database", name, need)
	case missing.len() > 0:
		w.fail("dirty-read", "%s is not held by %d live processes, nor by a database:%s", name, need, s.model.list(missing))
	}
}

// databases returns those of all regions.
func (w *world) databases() (all []*database) {
	for _, r := range w.regions {
		all = append(all, r.database)
	}
	return all
}

// heldBy returns what fewer than so many of some live processes hold that have not said goodbye, and none of some
// databases does.
func (c *checker) heldBy(s *subject, what extent, need int, live []*node, databases []*database) (missing set, lacking bool) {
	w := c.world
	missing = what.events
	for _, d := range databases {
		stored, err := d.holds(s)
		if err != nil {
			w.fail("unique-dots", "%s in the database: %v", s.label, err)
		}
		if stored.erased {
			return nil, false
		}
		missing = missing.less(stored.events)
	}
	if missing.len() == 0 && !what.erased {
		return nil, false
	}
	holders, erased := map[int]int{}, 0
	for _, n := range live {
		if n.left {
			continue
		}
		e, err := n.holds(s)
		if err != nil {
			w.fail("unique-dots", "%s at %s: %v", s.label, n.name(), err)
		}
		if e.erased {
			erased++
		}
		missing.each(func(i int) {
			if e.erased || e.events.has(i) {
				holders[i]++
			}
		})
	}
	short := set{}
	missing.each(func(i int) {
		if holders[i] < need {
			short = short.with(i)
		}
	})
	return short, erased < need
}

// settle forgets the deaths whose consequences are over: nothing that the dead sent is under way, and either
// everything that anybody has is held as safely as if they were alive, or an operator would take them for replaced.
func (c *checker) settle() {
	w := c.world
	if len(w.exposed) == 0 {
		return
	}
	live := w.live()
	for _, n := range live {
		for _, dead := range w.exposed {
			if n.ends[dead.member.Start] != nil {
				return
			}
		}
	}
	if w.whole() && !slices.ContainsFunc(w.exposed, func(dead *node) bool { return !dead.machine.process.complete }) {
		w.count["replaced"]++
		w.exposed = nil
		return
	}
	for _, s := range c.subjects {
		known := extent{}
		for _, n := range live {
			e, _ := n.holds(s)
			known.join(e)
		}
		missing, lacking := c.heldBy(s, known, w.plan.tolerate+1, live, w.databases())
		if known.erased && lacking || !known.erased && missing.len() > 0 {
			return
		}
	}
	w.exposed = nil
}

// inMemory reports whether as many owners in a region have something of a cart in memory as one is to survive.
func (c *checker) inMemory(r *region, s *subject, what extent) bool {
	n := 0
	for _, p := range r.owners(s.id) {
		memory := p.memory(s.id)
		var e extent
		if state := memory.state(); state != nil && e.add(&s.model, nil, state.VV, state.Erased) == nil && e.covers(what) {
			n++
		}
	}
	return n > c.world.plan.tolerate
}

// cameBack reports whether all databases have again what they had before they went back in time.
func (c *checker) cameBack() bool {
	c.owed = slices.DeleteFunc(c.owed, func(d debt) bool {
		stored, err := d.database.holds(d.subject)
		return err == nil && stored.covers(d.what)
	})
	return len(c.owed) == 0
}

// owes reports whether a database has gone back in time with a cart.
func (c *checker) owes(database *database, s *subject) bool {
	return slices.ContainsFunc(c.owed, func(d debt) bool { return d.database == database && d.subject == s })
}

// look checks whatever is in memory and in the database, and that nobody has let go of what was shown.
func (c *checker) look() {
	for _, s := range c.subjects {
		shown, _ := s.model.eventsOf(nil, s.shown)
		c.held(s, extent{shown, s.erased}, "what was shown of "+s.label)
		for _, n := range c.world.live() {
			memory := n.memory(s.id)
			c.state(s.id, memory.latest, n.name()+"'s memory")
			c.state(s.id, memory.durable, n.name()+"'s memory")
		}
	}
}

// differences tells what keeps the owners of each cart from knowing what any process knows, or a database, or "".
// Events that build on others which died with their author, unacknowledged, are not looked for.
func (c *checker) differences(stored bool) string {
	w := c.world
	live := w.live()
	for _, s := range c.subjects {
		var all sight
		stores := make([]sight, len(w.regions))
		for i, r := range w.regions {
			if stores[i] = r.database.sight(s.id); stored {
				all.join(stores[i])
			}
		}
		kept := make([]sight, len(live))
		for i, n := range live {
			memory := n.memory(s.id)
			kept[i].take(memory.state(), memory.fragments)
			if n.owns(s.id) && !memory.resident { // it would be loaded
				kept[i].join(stores[n.region().number])
				if n.machine.file != nil {
					kept[i].join(n.machine.file.sight(s.id))
				}
			}
			all.join(kept[i])
		}
		most := all.whole()
		for i, n := range live {
			switch has := kept[i].whole(); {
			case !n.owns(s.id):
			case most.Erased && !has.Erased:
				return fmt.Sprintf("%s does not know that %s is erased", n.name(), s.label)
			case !most.Erased && !has.VV.Descends(most.VV):
				return fmt.Sprintf("%s lacks of %s%s", n.name(), s.label, s.model.lacking(has.VV, most.VV))
			}
		}
	}
	return c.digestsDiffer()
}

// digestsDiffer tells of two owners of a slot whose digests of it differ, or "".
func (c *checker) digestsDiffer() string {
	live := c.world.live()
	var first [gossip.Slots]*node
	var digest [gossip.Slots]uint64
	for _, n := range live {
		for slot, d := range n.service.Digests() {
			switch {
			case !has(&n.own, slot):
			case first[slot] == nil:
				first[slot], digest[slot] = n, d
			case d != digest[slot]:
				return fmt.Sprintf("the digests of %s and %s differ: %s", first[slot].name(), n.name(), c.versions(slot, first[slot], n))
			}
		}
	}
	return ""
}

// versions tells which carts of a slot have different versions in the indexes of two nodes.
func (c *checker) versions(slot int, a, b *node) (list string) {
	for _, s := range c.subjects {
		if gossip.SlotOf(s.id) != slot {
			continue
		}
		version := func(n *node) (v uint64) {
			n.service.EachVersion(s.id, func(id [16]byte, version uint64) bool {
				if id == s.id {
					v = version
				}
				return id != s.id
			})
			return v
		}
		if x, y := version(a), version(b); x != y {
			list += fmt.Sprintf("%s %016x %016x, ", s.label, x, y)
		}
	}
	return list
}

// unshown tells what a process knows and does not show to readers, or "".
func (c *checker) unshown() string {
	for _, s := range c.subjects {
		for _, n := range c.world.live() {
			memory := n.memory(s.id)
			if memory.latest != memory.durable {
				return fmt.Sprintf("%s does not show all that it knows of %s", n.name(), s.label)
			}
		}
	}
	return ""
}

// unsaved tells what the database lacks of what live processes have, or "".
func (c *checker) unsaved() string {
	w := c.world
	for _, s := range c.subjects {
		for _, n := range w.live() {
			database := n.region().database
			if n.machine.file != nil {
				database = n.machine.file
			}
			stored, _ := database.holds(s)
			e, _ := n.holds(s)
			if e.erased && !stored.erased || !stored.erased && !e.events.within(stored.events) {
				return fmt.Sprintf("%s has of %s what %s lacks", n.name(), s.label, database.name)
			}
		}
	}
	return ""
}

// final compares a state that a process answered with at the end with all that was ever promised.
func (c *checker) final(n *node, s *subject, state *crdt.State) {
	w := c.world
	c.state(s.id, state, n.name()+" at the end")
	switch {
	case state.Erased:
	case s.erased:
		w.fail("resurfaced", "%s is back at %s, and was erased", s.label, n.name())
	case !state.VV.Descends(s.acked):
		w.fail("lost-write", "%s at %s has lost acknowledged writes:%s", s.label, n.name(), s.model.lacking(state.VV, s.acked))
	case !state.VV.Descends(s.shown):
		w.fail("dirty-read", "%s at %s has lost what was shown:%s", s.label, n.name(), s.model.lacking(state.VV, s.shown))
	}
}
