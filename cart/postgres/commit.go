package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

const (
	// upsert writes snapshots where the row still is what it was, or is not there. What is given as its
	// revision is the tag of the row that is expected: a revision alone comes again, with other events, when
	// the database is taken back to an earlier state. A row that is not there was purged, or never written:
	// its first revision is a random number, and the tag of no row.
	upsert = `INSERT INTO carts (id, revision, state, checksum, version, expires_at, expires_hour)
		SELECT id, revision, state, checksum, version, expires_at, expires_hour
		FROM unnest($1::BYTEA[], $2::BIGINT[], $3::BYTEA[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[])
			AS w (id, revision, state, checksum, version, expires_at, expires_hour)
		ON CONFLICT (id) DO UPDATE SET revision = carts.revision + 1, state = excluded.state,
			checksum = excluded.checksum, version = excluded.version,
			expires_at = excluded.expires_at, expires_hour = excluded.expires_hour
		WHERE carts.revision # carts.version = excluded.revision
		RETURNING id, revision`

	// insertFragments replaces a damaged fragment by a whole one of the same name.
	insertFragments = `INSERT INTO fragments (id, checksum, delta, expires_at)
		SELECT id, checksum, delta, expires_at
		FROM unnest($1::BYTEA[], $2::BIGINT[], $3::BYTEA[], $4::BIGINT[]) AS w (id, checksum, delta, expires_at)
		ON CONFLICT (id, checksum) DO UPDATE SET delta = excluded.delta`

	deleteFragments = `DELETE FROM fragments WHERE (id, checksum) IN
		(SELECT id, checksum FROM unnest($1::BYTEA[], $2::BIGINT[]) AS w (id, checksum))`
)

// lockRows keeps others from changing rows that were lost to them before: who only compares and sets
// may lose for ever to one who need not read.
const lockRows = "SELECT id FROM carts WHERE id = ANY($1) ORDER BY id FOR UPDATE"

const (
	attemptsPerCommit = 16      // against rows that change at the same time
	cartsPerStatement = 512     // what a statement can write well within its timeout
	maxKept           = 1 << 20 // bytes of the buffer that stays allocated between commits
)

// pending is what a batch has of one cart.
type pending struct {
	id     cart.ID
	state  *crdt.State   // the join of what the authors knew, or nil where none told
	deltas []*crdt.Delta // changes that came without a state
	read   bool          // the row was changed by others: what is remembered of it is of no use
}

// collect groups changes by cart, in the order of the ids: writers of the same rows then wait for
// one another instead of both.
func collect(changes []cart.Change) []*pending {
	byID := make(map[cart.ID]*pending, len(changes))
	all := make([]*pending, 0, len(changes))
	for _, c := range changes {
		p := byID[c.ID]
		if p == nil {
			p = &pending{id: c.ID}
			byID[c.ID] = p
			all = append(all, p)
		}
		switch {
		case c.State == nil:
			p.deltas = append(p.deltas, c.Delta)
		case p.state == nil || stored.Descends(c.State, p.state):
			p.state = c.State
		default:
			p.state = crdt.Join(p.state, c.State)
		}
	}
	slices.SortFunc(all, func(a, b *pending) int { return bytes.Compare(a.id[:], b.id[:]) })
	return all
}

// Commit joins the changes into the snapshots of their carts. An error that wraps cart.ErrNoRoom
// says that the same changes may be committed again; unlike with a store of its own files, some of
// them may be written by then, which does no harm. A context that is done ends a commit with such
// an error too.
func (s *Store) Commit(ctx context.Context, changes []cart.Change) error {
	if err := ctx.Err(); err != nil || len(changes) == 0 {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	begin := time.Now()
	err := s.reach(ctx, func() error {
		for chunk := range slices.Chunk(collect(changes), cartsPerStatement) {
			if err := s.commit(ctx, chunk); err != nil {
				return err
			}
			s.answered()
		}
		return nil
	})
	s.note(err, len(changes), time.Since(begin))
	if err != nil {
		return fmt.Errorf("postgres: commit: %w", err)
	}
	return nil
}

// note counts a commit, and logs when a database that can be reached takes none and when it does again.
func (s *Store) note(err error, changes int, took time.Duration) {
	unreachable := s.Reachable() != nil // which is logged elsewhere
	s.mu.Lock()
	defer s.mu.Unlock()
	switch noRoom := errors.Is(err, cart.ErrNoRoom); {
	case err == nil:
		s.stats.Commits++
		s.stats.Changes += int64(changes)
		s.stats.CommitTime += took
		s.stats.LastBatch, s.stats.LastCommit = changes, took
		if s.away {
			s.log.Info("the database takes writes again")
		}
		s.away = false
	case noRoom:
		s.stats.Refused++
		if !s.away && !unreachable {
			s.away = true
			s.log.Warn("the database takes no writes at present", "error", err)
		}
	}
}

// commit writes carts until each is written, or was found to be.
func (s *Store) commit(ctx context.Context, all []*pending) error {
	var lost error
	reconnected, locking := false, false
	for range attemptsPerCommit {
		left, err := s.attempt(ctx, all, locking)
		switch {
		case err != nil && !reconnected && broken(err):
			// As all connections are to a server that was started again. Where it had carried out
			// the statement, the revisions differ now.
			reconnected, lost = true, err
			s.writers.Reset()
			continue
		case conflicts(err):
			lost = err
			s.count(func(z *Stats) { z.Conflicts++ })
			continue
		case err != nil:
			return err
		case len(left) == 0:
			return nil
		}
		s.count(func(z *Stats) { z.Conflicts += int64(len(left)) })
		locking = true
		all, lost = left, fmt.Errorf("%w: the rows of %d carts keep changing", cart.ErrNoRoom, len(left))
	}
	return lost
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// conn is a pool or a transaction.
type conn interface {
	querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// attempt returns the carts whose row was changed by others in the middle of it. It locks the rows
// where it has to, and then in a transaction.
func (s *Store) attempt(ctx context.Context, all []*pending, locking bool) (left []*pending, err error) {
	ctx, cancel := s.patience(ctx)
	defer cancel()
	if !locking {
		return s.run(ctx, s.writers, all, func() error { return nil })
	}
	tx, err := s.writers.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after Commit it does nothing
	ids := make([][]byte, len(all))
	for i, p := range all {
		ids[i] = p.id[:]
	}
	if _, err := tx.Exec(ctx, lockRows, ids); err != nil {
		return nil, err
	}
	return s.run(ctx, tx, all, func() error { return tx.Commit(ctx) })
}

func (s *Store) run(ctx context.Context, c conn, all []*pending, done func() error) (left []*pending, err error) {
	plan, err := s.plan(ctx, c, all)
	if err != nil {
		return nil, err
	}
	if cap(s.buf) > maxKept {
		s.buf = nil
	}
	// Each statement leaves the database in order: a delta is in fragments before the row that lacks
	// it is written, and leaves it when the row that has it is.
	if err := s.insertFragments(ctx, c, plan.fragments); err != nil {
		return nil, err
	}
	written, err := s.write(ctx, c, plan.writes)
	if err != nil {
		return nil, err
	}
	lost := make(map[cart.ID]bool)
	for _, w := range plan.writes {
		if _, ok := written[w.p.id]; !ok {
			w.p.read, lost[w.p.id] = true, true
			left = append(left, w.p)
		}
	}
	settled := slices.DeleteFunc(plan.settled, func(f settled) bool { return lost[f.id] })
	if err := s.deleteFragments(ctx, c, settled); err != nil {
		return nil, err
	}
	if err := done(); err != nil {
		return nil, err
	}
	s.count(func(z *Stats) {
		z.Rows += int64(len(written))
		z.Fragments += int64(len(plan.fragments))
	})
	s.remember(plan.writes, written)
	return left, nil
}

func (s *Store) count(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// remember takes note of rows that are certain to be in the database: one that only may be would
// have a revision that somebody else gives to something else.
func (s *Store) remember(writes []write, written map[cart.ID]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range writes {
		w := &writes[i]
		revision, ok := written[w.p.id]
		if w.replaces && ok {
			delete(s.reported, w.p.id)
			s.log.Warn("what was damaged of a stored cart was replaced", "cart", w.p.id.String())
		}
		if ok && !w.state.Erased { // whose vector no longer tells what it absorbs
			s.known.put(w.p.id, known{tagOf(revision, w.version), w.state.VV})
		} else {
			s.known.forget(w.p.id)
		}
	}
}

// write is a snapshot to be written.
type write struct {
	p        *pending
	before   int64 // the tag of the row that is there, or a first revision where there is none
	version  int64 // of state; set when it is written
	state    *crdt.State
	replaces bool // something damaged
}

// settled is a fragment that is part of the snapshot, or replaced by it.
type settled struct {
	id       cart.ID
	checksum int64
}

// unsettled is a delta that becomes a fragment.
type unsettled struct {
	id    cart.ID
	delta *crdt.Delta
}

type plan struct {
	writes    []write
	fragments []unsettled
	settled   []settled
}

// plan decides what has to be written, from what is remembered of the rows or from the rows.
func (s *Store) plan(ctx context.Context, c conn, all []*pending) (*plan, error) {
	z := &plan{writes: make([]write, 0, len(all))}
	var unknown []*pending
	var ids [][]byte
	s.mu.Lock()
	for _, p := range all {
		k, ok := s.known.get(p.id)
		if ok && !p.read && p.state != nil && len(p.deltas) == 0 && (p.state.Erased || p.state.VV.Descends(k.vv)) {
			z.writes = append(z.writes, write{p: p, before: k.tag, state: p.state})
		} else {
			unknown = append(unknown, p)
			ids = append(ids, p.id[:])
		}
	}
	s.mu.Unlock()
	if len(unknown) == 0 {
		return z, nil
	}
	rows, err := readRows(ctx, c, ids)
	if err != nil {
		return nil, err
	}
	for _, p := range unknown {
		s.join(z, p, rows[p.id])
	}
	slices.SortFunc(z.writes, func(a, b write) int { return bytes.Compare(a.p.id[:], b.p.id[:]) })
	return z, nil
}

// join adds to the plan what has to be written of a cart, given what the database has of it.
func (s *Store) join(z *plan, p *pending, r row) {
	if r.damage != nil && p.state == nil {
		s.report(p.id, r.damage)
		for _, d := range p.deltas {
			z.fragments = append(z.fragments, unsettled{p.id, d})
		}
		return
	}
	state := r.state
	switch {
	case p.state == nil:
	case state == nil || stored.Descends(p.state, state):
		state = p.state
	default:
		state = crdt.Join(state, p.state)
	}
	replaces := r.damage != nil
	deltas := p.deltas
	for _, f := range r.fragments {
		if f.damage == nil {
			deltas = append(slices.Clip(deltas), f.delta)
		} else if p.state != nil {
			replaces = true
			z.settled = append(z.settled, settled{p.id, f.checksum})
		}
	}
	state, gaps := stored.Apply(state, deltas)
	for _, f := range r.fragments {
		if f.damage == nil && !slices.Contains(gaps, f.delta) {
			z.settled = append(z.settled, settled{p.id, f.checksum})
		}
	}
	for _, d := range p.deltas {
		if slices.Contains(gaps, d) {
			z.fragments = append(z.fragments, unsettled{p.id, d})
		}
	}
	if state == nil || r.state != nil && stored.Descends(r.state, state) {
		return // nothing to write, or it is written
	}
	before := tagOf(r.revision, r.version)
	if r.revision == 0 {
		before = 1<<32 + rand.Int64N(1<<62)
	}
	z.writes = append(z.writes, write{p: p, before: before, state: state, replaces: replaces})
}

// write writes snapshots and returns the new revisions of the rows that were as expected.
func (s *Store) write(ctx context.Context, c conn, writes []write) (written map[cart.ID]int64, err error) {
	if len(writes) == 0 {
		return nil, nil
	}
	n := len(writes)
	ids, states := make([][]byte, n), make([][]byte, n)
	numbers := make([]int64, 3*n)
	tags, checksums, versions := numbers[:n:n], numbers[n:2*n:2*n], numbers[2*n:]
	ats, hours := make([]*int64, n), make([]*int64, n)
	s.buf = s.buf[:0]
	for i := range writes {
		w := &writes[i]
		start := len(s.buf)
		s.buf = crdt.AppendState(s.buf, w.state)
		ids[i], states[i] = w.p.id[:], s.buf[start:] // stays whole where buf moves
		tags[i] = w.before
		checksums[i] = int64(stored.Checksum(w.p.id, states[i]))
		w.version = int64(cart.VersionHash(w.p.id, w.state))
		versions[i] = w.version
		if at, expires := stored.Expiry(w.state); expires {
			hour := at / stored.MillisecondsPerHour
			ats[i], hours[i] = &at, &hour
		}
	}
	rows, err := c.Query(ctx, upsert, ids, tags, states, checksums, versions, ats, hours)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	written = make(map[cart.ID]int64, n)
	for rows.Next() {
		var b []byte
		var revision int64
		if err := rows.Scan(&b, &revision); err != nil {
			return nil, err
		}
		var id cart.ID
		copy(id[:], b)
		written[id] = revision
	}
	return written, rows.Err()
}

func (s *Store) insertFragments(ctx context.Context, c conn, fragments []unsettled) error {
	if len(fragments) == 0 {
		return nil
	}
	var ids, deltas [][]byte
	var checksums []int64
	var ats []*int64
	seen := make(map[settled]bool, len(fragments))
	s.buf = s.buf[:0]
	for _, f := range fragments {
		start := len(s.buf)
		s.buf = crdt.AppendDelta(s.buf, f.delta)
		name := settled{f.id, int64(stored.Checksum(f.id, s.buf[start:]))}
		if seen[name] { // a statement must not write one row twice
			continue
		}
		seen[name] = true
		ids, deltas, checksums = append(ids, f.id[:]), append(deltas, s.buf[start:]), append(checksums, name.checksum)
		var at *int64
		if ms, expires := stored.Expiry(&f.delta.State); expires {
			at = &ms
		}
		ats = append(ats, at)
	}
	_, err := c.Exec(ctx, insertFragments, ids, checksums, deltas, ats)
	return err
}

func (s *Store) deleteFragments(ctx context.Context, c conn, fragments []settled) error {
	if len(fragments) == 0 {
		return nil
	}
	ids, checksums := make([][]byte, len(fragments)), make([]int64, len(fragments))
	for i := range fragments {
		ids[i], checksums[i] = fragments[i].id[:], fragments[i].checksum
	}
	_, err := c.Exec(ctx, deleteFragments, ids, checksums)
	return err
}
