package postgres

import (
	"context"
	"fmt"

	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// deleteExpired deletes some carts that expired. A row that is changed while the statement waits
// for it is judged again by what it then says. What has fragments is not whole and stays.
const deleteExpired = `DELETE FROM carts WHERE expires_at < $2 AND id IN (
	SELECT id FROM carts WHERE expires_hour <= $1 AND expires_at < $2
	AND NOT EXISTS (SELECT 1 FROM fragments WHERE fragments.id = carts.id)
	ORDER BY expires_hour LIMIT $3)`

const cartsPerPurge = 1024

// Purge deletes the carts that expired in a millisecond before that of expiredBefore and returns
// how many, also along with an error. A cart that is changed meanwhile stays.
func (s *Store) Purge(ctx context.Context, expiredBefore crdt.Timestamp) (int, error) {
	before := expiredBefore.Time().UnixMilli()
	purged := 0
	for lost := 0; ; {
		n := 0
		err := s.reach(ctx, func() (err error) {
			n, err = s.purge(ctx, before)
			return err
		})
		purged += n
		switch {
		case conflicts(err) && lost < attemptsPerCommit:
			lost++
		case err != nil:
			return purged, fmt.Errorf("postgres: purge: %w", err)
		case n == 0:
			return purged, nil
		}
	}
}

func (s *Store) purge(ctx context.Context, before int64) (int, error) {
	waiting, cancel := s.patience(ctx)
	defer cancel()
	tag, err := s.readers.Exec(waiting, deleteExpired, before/stored.MillisecondsPerHour, before, cartsPerPurge)
	return int(tag.RowsAffected()), err
}
