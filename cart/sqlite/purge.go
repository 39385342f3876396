package sqlite

import (
	"context"
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
// how many, also along with an error. A cart that is changed meanwhile stays, whatever the change.
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
