package postgres

import (
	"context"
	"fmt"

	"cartd/cart"
)

const selectVersions = "SELECT id, version FROM carts WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"

// Versions returns the versions of the next carts after one and up to last, in the order of their ids. Fragments
// are not counted in, and a cart that has nothing else is left out. A context that is done ends it.
func (s *Store) Versions(ctx context.Context, after, last cart.ID, limit int) ([]cart.StoredVersion, error) {
	var all []cart.StoredVersion
	err := s.read(ctx, func(ctx context.Context, c querier) (err error) {
		all, err = readVersions(ctx, c, after, last, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: versions: %w", err)
	}
	return all, nil
}

func readVersions(ctx context.Context, c querier, after, last cart.ID, limit int) ([]cart.StoredVersion, error) {
	rows, err := c.Query(ctx, selectVersions, after[:], last[:], limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []cart.StoredVersion
	for rows.Next() {
		var id []byte
		var version int64
		if err := rows.Scan(&id, &version); err != nil {
			return nil, err
		}
		v := cart.StoredVersion{Version: uint64(version)}
		copy(v.ID[:], id)
		all = append(all, v)
	}
	return all, rows.Err()
}
