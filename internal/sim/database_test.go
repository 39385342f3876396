package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cartd/cart"
	"cartd/crdt"
)

// database is what the nodes of a region share, or the file of one of them. It joins, as all stores do.
type database struct {
	world   *world
	name    string
	rows    map[cart.ID][]row // what was committed of each cart, oldest first
	latency time.Duration
	down    bool          // nothing is answered but that there is no room
	hung    bool          // nothing is answered
	changed time.Duration // when it went down, or came up
	unsure  float64       // share of commits that are made and whose answer is lost
	stale   float64       // share of loads that are answered by what was there a while ago
}

// row is what is committed of a cart at one time.
type row struct {
	at        time.Duration
	state     *crdt.State   // nil where no fragment began it
	fragments []*crdt.Delta // which cannot be joined yet
}

func newDatabase(w *world, name string) *database {
	return &database{world: w, name: name, rows: make(map[cart.ID][]row), latency: time.Millisecond}
}

// last returns what is committed of a cart.
func (d *database) last(id cart.ID) row {
	rows := d.rows[id]
	if len(rows) == 0 {
		return row{}
	}
	return rows[len(rows)-1]
}

// load returns the join of what a row has.
func (r row) load() (*crdt.State, error) {
	switch {
	case r.state == nil && len(r.fragments) > 0:
		return nil, fmt.Errorf("%w: %d fragments build on changes that are missing", cart.ErrDamaged, len(r.fragments))
	case r.state == nil:
		return nil, cart.ErrNotFound
	}
	return crdt.DecodeState(crdt.AppendState(nil, r.state))
}

// join joins changes to what is committed.
func (d *database) join(changes []cart.Change) {
	for _, c := range changes {
		was := d.last(c.ID)
		state := was.state
		left := slices.Clone(was.fragments)
		if c.Delta != nil {
			left = append(left, c.Delta)
		} else {
			if state == nil {
				state = new(crdt.State)
			}
			state = crdt.Join(state, c.State)
		}
		for n := -1; n != len(left); {
			n = len(left)
			left = slices.DeleteFunc(left, func(delta *crdt.Delta) bool {
				base := state
				if base == nil {
					base = new(crdt.State)
				}
				next, err := base.Apply(delta)
				if err == nil {
					state = next
				}
				return err == nil
			})
		}
		d.rows[c.ID] = append(d.rows[c.ID], row{d.world.now, state, left})
		d.world.check.state(c.ID, state, d.name)
	}
}

// store is a database as a process sees it: as a cart.Store.
type store struct {
	*database
	node *node
}

const (
	timeout  = 1900 * time.Millisecond // of a load or a commit
	maxStale = 2 * time.Second

	// soonAfterDeath is when the last commit of a process that died is made, if it is. It is over before
	// another process takes its place and reads what is stored: nobody looks again.
	soonAfterDeath = 50 * time.Millisecond
)

var errTimeout = errors.New("sim: the database did not answer")

// ask takes the time of half a statement that began at a time, and fails where the database does.
func (s *store) ask(began time.Duration) error {
	w := s.world
	if s.node.dead {
		return errGone
	}
	d := s.latency/4 + time.Duration(w.rand.Int64N(int64(s.latency)))
	if w.rand.IntN(200) == 0 {
		d *= 50
	}
	w.sleep(min(d, began+timeout-w.now), s.node.gone)
	for s.hung && w.now < began+timeout && !s.node.dead {
		w.sleep(20*time.Millisecond, s.node.gone)
	}
	switch {
	case s.node.dead:
		return errGone
	case w.now >= began+timeout:
		return fmt.Errorf("%w: %w", cart.ErrNoRoom, errTimeout)
	case s.down:
		return fmt.Errorf("%w: the database is down", cart.ErrNoRoom)
	}
	return nil
}

// away reports whether the process has found that the database does not answer, or with errors.
func (s *store) away() bool { return s.down || s.hung && s.world.now-s.changed > timeout }

// Load is answered by what is committed when the question arrives, and sometimes by less.
func (s *store) Load(_ context.Context, id cart.ID) (*crdt.State, error) {
	w := s.world
	w.count["loads"]++
	began := w.now
	if err := s.ask(began); err != nil {
		w.trace("%s load %s: %v", s.node.name(), w.label(id), err)
		return nil, err
	}
	read := s.last(id)
	if w.rand.Float64() < s.stale {
		before := w.now - time.Duration(w.rand.Int64N(int64(maxStale)))
		for i := len(s.rows[id]) - 1; i >= 0; i-- {
			if read = s.rows[id][i]; read.at <= before {
				break
			}
			read = row{}
		}
		if len(s.rows[id]) > 0 && read.at != s.last(id).at {
			w.count["stale"]++
			w.trace("%s load %s: stale", s.node.name(), w.label(id))
		}
	}
	if err := s.ask(began); err != nil {
		w.trace("%s load %s: %v", s.node.name(), w.label(id), err)
		return nil, err
	}
	state, err := read.load()
	if len(read.fragments) > 0 {
		w.count["gaps"]++
	}
	w.trace("%s load %s: %v %v", s.node.name(), w.label(id), w.vector(state), err)
	return state, err
}

// Commit joins. When it fails it may have joined all the same, or do so later.
func (s *store) Commit(_ context.Context, changes []cart.Change) error {
	w := s.world
	if s.node.dead {
		return errGone
	}
	w.count["commits"]++
	began := w.now
	changes = slices.Clone(changes) // what is made later is made of these
	sent := !s.down
	err := s.ask(began)
	if err == nil {
		s.join(changes)
	} else if sent && w.rand.IntN(2) == 0 {
		w.trace("%s commit of %d: later", s.node.name(), len(changes))
		w.count["unsure"]++
		late := time.Second
		if s.node.dead { // a database does not go on for long when its client is gone
			late = soonAfterDeath
		}
		w.after(time.Duration(w.rand.Int64N(int64(late))), func() { s.join(changes) })
	}
	if err == nil {
		if err = s.ask(began); err != nil {
			w.count["unsure"]++
		}
	}
	if err == nil && w.rand.Float64() < s.unsure {
		w.count["unsure"]++
		err = fmt.Errorf("%w: the answer was lost", cart.ErrNoRoom)
	}
	for _, c := range changes {
		what := c.State
		if what == nil {
			what = &c.Delta.State
		}
		w.trace("%s commit %s to %s: %v%s %v", s.node.name(), w.label(c.ID), s.name, w.vector(what), w.above(c), err)
	}
	return err
}

// above tells what a fragment builds on.
func (w *world) above(c cart.Change) string {
	if c.State != nil {
		return ""
	}
	return " above " + w.vector(&crdt.State{VV: c.Delta.Base})
}

// Purge has nothing to do: no run lasts as long as a cart lives.
func (s *store) Purge(context.Context, crdt.Timestamp) (int, error) { return 0, nil }

// Versions returns the versions of what is joined.
func (s *store) Versions(_ context.Context, after, last cart.ID, limit int) ([]cart.StoredVersion, error) {
	if err := s.ask(s.world.now); err != nil {
		s.world.trace("%s versions: %v", s.node.name(), err)
		return nil, err
	}
	s.world.trace("%s versions", s.node.name())
	var versions []cart.StoredVersion
	for id := range s.rows {
		if state := s.last(id).state; state != nil && bytes.Compare(id[:], after[:]) > 0 && bytes.Compare(id[:], last[:]) <= 0 {
			versions = append(versions, cart.StoredVersion{ID: id, Version: cart.VersionHash(id, state)})
		}
	}
	slices.SortFunc(versions, func(a, b cart.StoredVersion) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return versions[:min(limit, len(versions))], nil
}

// Close has nothing to write.
func (s *store) Close() error { return nil }
