package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// A commit waits for at most one transaction of a round, so these are small.
const (
	rowsPerTransaction  = 16       // snapshots that are written, or carts that are purged
	rowsPerTruncation   = 256      // rows of the journal that are deleted
	bytesPerTruncation  = 64 << 10 // bytes of their batches
	attemptsPerSnapshot = 3        // against a row that changes at the same time
)

// behind is the connection on which everything is written that no commit waits for.
type behind struct {
	db                      *sql.DB
	conn                    *sql.Conn
	begin, commit, rollback *sql.Stmt
	read                    *sql.Stmt
	insert, update          *sql.Stmt // of snapshots
	move                    *sql.Stmt // an update of a snapshot whose hour of expiry changes
	carry, truncate         *sql.Stmt // rows of the journal
	purge                   *sql.Stmt
	statements              []*sql.Stmt // all of these
}

// openBehind connects and brings the schema up to date.
func openBehind(ctx context.Context, dir string) (*behind, error) {
	db, err := connect(dir, "normal", false, 1)
	if err != nil {
		return nil, err
	}
	b := &behind{db: db}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *behind) open(ctx context.Context) (err error) {
	if err := migrate(ctx, b.db); err != nil {
		return err
	}
	if b.conn, err = b.db.Conn(ctx); err != nil {
		return err
	}
	for stmt, text := range map[**sql.Stmt]string{
		&b.begin:    "BEGIN IMMEDIATE",
		&b.commit:   "COMMIT",
		&b.rollback: "ROLLBACK",
		&b.read:     selectRow,
		&b.insert: `INSERT INTO carts (revision, state, checksum, version, expires_at, expires_hour, id)
			VALUES (1, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
		&b.update: `UPDATE carts SET revision = revision + 1, state = ?, checksum = ?, version = ?, expires_at = ?
			WHERE id = ? AND revision = ?`,
		&b.move: `UPDATE carts SET revision = revision + 1, state = ?, checksum = ?, version = ?, expires_at = ?,
			expires_hour = ? WHERE id = ? AND revision = ?`,
		&b.carry:    "INSERT INTO journal (seq, batch, checksum) VALUES (?, ?, ?)",
		&b.truncate: "DELETE FROM journal WHERE seq <= ?",
		&b.purge:    "DELETE FROM carts WHERE id = ? AND expires_at < ?",
	} {
		if *stmt, err = b.conn.PrepareContext(ctx, text); err != nil { //nolint:sqlclosecheck // close does
			return fmt.Errorf("prepare %q: %w", text, err)
		}
		b.statements = append(b.statements, *stmt)
	}
	return nil
}

// close closes the statements too: one that is left open would keep the connection.
func (b *behind) close() error {
	var errs []error
	for _, stmt := range b.statements {
		errs = append(errs, stmt.Close())
	}
	if b.conn != nil {
		errs = append(errs, b.conn.Close())
	}
	return errors.Join(append(errs, b.db.Close())...)
}

// transact runs f in a transaction of its own, and after it was committed done, with mu held.
// Commits wait meanwhile. Whatever fails is rolled back; anything but want of room also ends the
// store.
func (s *Store) transact(doing string, f func() error, done func()) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.Err(); err != nil {
		return err
	}
	_, err := s.behind.begin.Exec()
	if err == nil {
		if err = f(); err == nil {
			_, err = s.behind.commit.Exec()
		}
		if err != nil {
			_, _ = s.behind.rollback.Exec() // fails where SQLite has rolled back already
		}
	}
	if err != nil {
		return s.failedBehind(doing, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done()
	return nil
}

// failedBehind judges a failure to write that no commit is told of.
func (s *Store) failedBehind(doing string, err error) error {
	if err == nil {
		return nil
	}
	if noRoom := refused(err); noRoom != nil {
		return fmt.Errorf("sqlite: %s: %w", doing, noRoom)
	}
	return s.fail(doing, err)
}

// round writes a snapshot of every cart that is pending and deletes the rows of the journal that
// the snapshots cover.
func (s *Store) round() error {
	s.roundMu.Lock()
	defer s.roundMu.Unlock()
	return s.roundLocked()
}

func (s *Store) roundLocked() error {
	begin := time.Now()
	s.mu.Lock()
	rows, end := s.journal.rows, s.journal.last
	if len(rows) == 0 || len(rows) == 1 && rows[0].seq == s.carried {
		s.mu.Unlock()
		return nil
	}
	ids := slices.Collect(maps.Keys(s.pending))
	s.mu.Unlock()
	s.known, s.written = s.written, make(map[cart.ID]known)

	var left []cart.ID
	for chunk := range slices.Chunk(ids, rowsPerTransaction) {
		some, err := s.snapshot(chunk)
		if err != nil {
			return err
		}
		left = append(left, some...)
	}
	s.left = left
	if err := s.truncate(end, left); err != nil {
		return err
	}
	s.mu.Lock()
	s.stats.LastRound = time.Since(begin)
	s.mu.Unlock()
	return nil
}

// snapshot writes the snapshots of a few carts and returns those of which something must stay in the
// journal.
func (s *Store) snapshot(ids []cart.ID) (left []cart.ID, err error) {
	writes := make([]write, 0, len(ids))
	for range attemptsPerSnapshot {
		writes = writes[:0]
		for _, id := range ids {
			s.mu.Lock()
			e, ok := s.pending[id]
			s.mu.Unlock()
			if !ok {
				continue
			}
			w, err := s.prepare(id, e)
			damaged := errors.Is(err, cart.ErrDamaged)
			if err != nil && !damaged {
				return nil, s.failedBehind("reading a snapshot", err)
			}
			if damaged {
				s.report(id, err)
			} else if len(w.left) > 0 {
				s.reportLeft(id, w.left)
			}
			if (damaged || len(w.left) > 0) && !slices.Contains(left, id) { // as it may be after an attempt
				left = append(left, id)
			}
			if !w.written.empty() {
				writes = append(writes, w)
			}
		}
		if ids, err = s.write(writes); err != nil || len(ids) == 0 {
			return left, err
		}
	}
	return nil, fmt.Errorf("sqlite: the snapshots of %d carts keep changing", len(ids))
}

// write is a snapshot to be written.
type write struct {
	id       cart.ID
	before   row
	state    *crdt.State
	written  entry         // the part of the pending entry that state holds
	left     []*crdt.Delta // the other part, which cannot be joined yet
	replaces bool          // a damaged row

	start, end int   // of the encoding of state in a buffer
	revision   int64 // of the row after it was written
}

// known is what a round remembers of a row that it wrote, so that the next round need not read it
// again to learn that the state of a busy cart descends from it.
type known struct {
	revision int64
	hour     int64 // of expiry, as in row
	vv       crdt.VV
}

// prepare joins into the snapshot of a cart what can be joined of e. A state replaces what is damaged,
// changes wait until it is not; then it returns an error that wraps cart.ErrDamaged.
func (s *Store) prepare(id cart.ID, e entry) (write, error) {
	if k, ok := s.known[id]; ok && len(e.rest) == 0 && (e.state.Erased || e.state.VV.Descends(k.vv)) {
		return write{id: id, before: row{revision: k.revision, hour: k.hour}, state: e.state, written: e}, nil
	}
	before, err := readRow(context.Background(), s.behind.read, id)
	replaces := errors.Is(err, cart.ErrDamaged) && e.state != nil && before.revision != 0
	if err != nil && !replaces {
		return write{}, err
	}
	state, left := e.on(before.state)
	if state == nil {
		return write{}, beginsNowhere(id, left)
	}
	e.rest = without(e.rest, left)
	return write{id: id, before: before, state: state, written: e, left: left, replaces: replaces}, nil
}

// write writes snapshots in one transaction and returns the carts whose row has changed since it
// was read.
func (s *Store) write(writes []write) (changed []cart.ID, err error) {
	if len(writes) == 0 {
		return nil, nil
	}
	s.states = s.states[:0]
	for i := range writes {
		w := &writes[i]
		w.start = len(s.states)
		s.states = crdt.AppendState(s.states, w.state)
		w.end = len(s.states)
	}
	err = s.transact("writing snapshots", func() error {
		for i := range writes {
			w := &writes[i]
			written, err := s.behind.put(w, s.states[w.start:w.end])
			if err != nil {
				return err
			}
			if !written {
				changed = append(changed, w.id)
			}
		}
		return nil
	}, func() {
		for i := range writes {
			if w := &writes[i]; slices.Contains(changed, w.id) {
				delete(s.known, w.id)
			} else {
				s.noteWritten(w)
			}
		}
	})
	if cap(s.states) > maxKeptBatch {
		s.states = nil
	}
	return changed, err
}

// noteWritten takes note of a snapshot that is in the database. mu is held.
func (s *Store) noteWritten(w *write) {
	s.settle(w.id, w.written)
	s.stats.Snapshots++
	if len(w.left) == 0 {
		delete(s.lacking, w.id)
	}
	if s.reported[w.id] {
		delete(s.reported, w.id)
		s.log.Warn("a damaged cart can be loaded again", "cart", w.id.String())
	}
	if !w.state.Erased {
		_, hour := expiry(w.state)
		s.written[w.id] = known{w.revision, hour.Int64, w.state.VV}
	}
}

// put writes one snapshot and reports whether its row was as w expects it.
func (b *behind) put(w *write, encoded []byte) (bool, error) {
	if w.before.state != nil && stored.Descends(w.before.state, w.state) {
		w.revision = w.before.revision
		return true, nil
	}
	w.revision = w.before.revision + 1
	checksum, version := int64(stored.Checksum(w.id, encoded)), int64(cart.VersionHash(w.id, w.state))
	at, hour := expiry(w.state)
	var result sql.Result
	var err error
	switch {
	case w.before.revision == 0:
		result, err = b.insert.Exec(encoded, checksum, version, at, hour, w.id[:])
	case hour.Int64 == w.before.hour && !w.replaces:
		result, err = b.update.Exec(encoded, checksum, version, at, w.id[:], w.before.revision)
	default:
		result, err = b.move.Exec(encoded, checksum, version, at, hour, w.id[:], w.before.revision)
	}
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// truncate deletes the rows of the journal up to end. What is pending of the carts left, whose snapshot
// cannot hold all of it, is carried to a new row first.
func (s *Store) truncate(end int64, left []cart.ID) error {
	for carry := len(left) > 0; ; carry = false {
		upTo := s.nextTruncation(end)
		if upTo == 0 {
			return nil
		}
		var seq int64
		var batch []byte
		err := s.transact("truncating the journal", func() error {
			if carry {
				seq, batch = s.journal.last+1, s.batchOf(left) // changes only under writeMu
				if _, err := s.behind.carry.Exec(seq, batch, int64(xxhash.Sum64(batch))); err != nil {
					return err
				}
			}
			_, err := s.behind.truncate.Exec(upTo)
			return err
		}, func() {
			s.journal.drop(upTo)
			if carry {
				s.journal.add(seq, len(batch))
				s.carried = seq
			}
		})
		if err != nil {
			return err
		}
	}
}

// nextTruncation returns the last of the rows to delete next, or 0.
func (s *Store) nextTruncation(end int64) (upTo int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := 0
	for i, r := range s.journal.rows {
		if r.seq > end || i == rowsPerTruncation || size > 0 && size+r.size > bytesPerTruncation {
			break
		}
		upTo, size = r.seq, size+r.size
	}
	return upTo
}

// batchOf encodes what is pending of some carts.
func (s *Store) batchOf(ids []cart.ID) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var changes []change
	for _, id := range ids {
		e := s.pending[id]
		if e.state != nil {
			changes = append(changes, change{id, &crdt.Delta{State: *e.state}})
		}
		for _, d := range e.rest {
			changes = append(changes, change{id, d})
		}
	}
	b := appendBatch(nil, len(changes))
	for _, c := range changes {
		b = appendChange(b, c.id, c.delta)
	}
	return b
}
