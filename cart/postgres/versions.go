package postgres

import (
	"context"
	"fmt"

	"cartd/cart"
)

const selectVersions = "SELECT id, version FROM carts WHERE id > $1 ORDER BY id LIMIT $2"

// Versions returns the versions of the next carts after one, in the order of their ids. Fragments
// are not counted in, and a cart that has nothing else is left out. A context that is done ends it.
func (s *Store) Versions(ctx context.Context, after cart.ID, limit int) ([]cart.StoredVersion, error) {
	var all []cart.StoredVersion
	err := s.read(ctx, func(ctx context.Context, c querier) (err error) {
		all, err = readVersions(ctx, c, after, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: versions: %w", err)
	}
	return all, nil
}

func readVersions(ctx context.Context, c querier, after cart.ID, limit int) ([]cart.StoredVersion, error) {
	rows, err := c.Query(ctx, selectVersions, after[:], limit)
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
