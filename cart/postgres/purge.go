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

// deleteFragmentsExpired deletes fragments of carts that have no row, when the last of the cart expired.
const deleteFragmentsExpired = `DELETE FROM fragments AS f WHERE f.expires_at < $1
	AND NOT EXISTS (SELECT 1 FROM carts WHERE carts.id = f.id)
	AND NOT EXISTS (SELECT 1 FROM fragments AS o WHERE o.id = f.id AND (o.expires_at IS NULL OR o.expires_at >= $1))`

const cartsPerPurge = 1024

// Purge deletes the carts that expired in a millisecond before that of expiredBefore and returns
// how many, also along with an error. A cart that is changed meanwhile stays. What there is of a cart
// that never became whole is deleted too, and not counted.
func (s *Store) Purge(ctx context.Context, expiredBefore crdt.Timestamp) (int, error) {
	before := expiredBefore.Time().UnixMilli()
	purged := 0
	for lost := 0; ; {
		n, err := s.purge(ctx, deleteExpired, before/stored.MillisecondsPerHour, before, cartsPerPurge)
		purged += n
		if err == nil && n == 0 {
			_, err = s.purge(ctx, deleteFragmentsExpired, before)
			if err == nil {
				return purged, nil
			}
		}
		switch {
		case conflicts(err) && lost < attemptsPerCommit:
			lost++
		case err != nil:
			return purged, fmt.Errorf("postgres: purge: %w", err)
		}
	}
}

func (s *Store) purge(ctx context.Context, statement string, args ...any) (n int, err error) {
	err = s.reach(ctx, func() error {
		waiting, cancel := s.patience(ctx)
		defer cancel()
		tag, err := s.readers.Exec(waiting, statement, args...)
		n = int(tag.RowsAffected())
		return err
	})
	return n, err
}
