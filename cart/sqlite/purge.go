package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

const (
	selectExpired = "SELECT id FROM carts WHERE expires_hour <= ? AND expires_at < ? AND id > ? ORDER BY id LIMIT ?"
	cartsPerQuery = 1024
)

// Purge deletes the carts that expired in a millisecond before that of expiredBefore and returns
// how many, also along with an error. A cart that is changed meanwhile stays, whatever the change. What
// there is of a cart that never became whole is deleted too, and not counted.
func (s *Store) Purge(ctx context.Context, expiredBefore crdt.Timestamp) (int, error) {
	s.roundMu.Lock()
	defer s.roundMu.Unlock()
	if s.isClosed() {
		return 0, ErrClosed
	}
	// After a round, what is left of a cart in the journal is also pending, and keeps it: a cart
	// that is deleted cannot come back from there.
	if err := s.roundLocked(); err != nil {
		return 0, err
	}
	before := expiredBefore.Time().UnixMilli()
	if err := s.forgetLeft(before); err != nil {
		return 0, err
	}
	purged := 0
	for last := []byte{}; ; {
		ids, err := s.expired(ctx, before, last)
		if err != nil {
			return purged, fmt.Errorf("sqlite: purge: %w", err)
		}
		for chunk := range slices.Chunk(ids, rowsPerTransaction) {
			n, err := s.purge(chunk, before)
			if err != nil {
				return purged, err
			}
			purged += n
		}
		if len(ids) < cartsPerQuery {
			return purged, nil
		}
		last = ids[len(ids)-1][:]
	}
}

// forgetLeft forgets what the last round left of carts that expired before a time in milliseconds, and
// runs another, so that it is not in the journal either.
func (s *Store) forgetLeft(before int64) error {
	forgotten := false
	for _, id := range s.left {
		s.mu.Lock()
		e := s.pending[id]
		s.mu.Unlock()
		if e.state != nil { // by now
			continue
		}
		r, err := readRow(context.Background(), s.behind.read, id)
		switch {
		case errors.Is(err, cart.ErrDamaged):
			continue
		case err != nil:
			return s.failedBehind("reading a snapshot", err)
		}
		if _, left := e.on(r.state); len(left) == len(e.rest) && allExpired(r.state, left, before) && s.forget(id, e) {
			forgotten = true
		}
	}
	if !forgotten {
		return nil
	}
	s.carried = 0
	return s.roundLocked()
}

// forget removes an entry from pending, if it is still there as it was.
func (s *Store) forget(id cart.ID, was entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.pending[id]
	if e.state != was.state || !slices.Equal(e.rest, was.rest) {
		return false
	}
	delete(s.pending, id)
	delete(s.lacking, id)
	delete(s.reported, id)
	return true
}

// allExpired reports whether a cart expired before a time in milliseconds, also with what is left of it.
func allExpired(state *crdt.State, left []*crdt.Delta, before int64) bool {
	last, expires := int64(0), false
	extend := func(s *crdt.State) {
		if ms, ok := stored.Expiry(s); ok {
			last, expires = max(last, ms), true
		}
	}
	if state != nil {
		extend(state)
	}
	for _, d := range left {
		extend(&d.State)
	}
	return expires && last < before
}

func (s *Store) isClosed() bool {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	return s.closed
}

// expired returns the next carts after one that expired before a time in milliseconds.
func (s *Store) expired(ctx context.Context, before int64, after []byte) (ids []cart.ID, err error) {
	rows, err := s.readers.QueryContext(ctx, selectExpired, before/stored.MillisecondsPerHour, before, after, cartsPerQuery)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id cart.ID
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		copy(id[:], b)
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// purge deletes a few carts that expired before a time in milliseconds, unless they are pending,
// and returns how many.
func (s *Store) purge(ids []cart.ID, before int64) (purged int, err error) {
	err = s.transact("purging carts", func() error {
		for _, id := range ids {
			if s.isPending(id) { // no commit comes in between
				continue
			}
			result, err := s.behind.purge.Exec(id[:], before)
			if err != nil {
				return err
			}
			n, err := result.RowsAffected()
			if err != nil {
				return err
			}
			purged += int(n)
		}
		return nil
	}, func() {})
	if err != nil {
		return 0, err
	}
	return purged, nil
}

func (s *Store) isPending(id cart.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pending[id]
	return ok
}
