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
	waiting, cancel := s.patience(ctx)
	defer cancel()
	all, err := readVersions(waiting, s.readers, after, limit)
	if err != nil && broken(err) { // as all connections are to a server that was started again
		s.readers.Reset()
		all, err = readVersions(waiting, s.readers, after, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: versions: %w", s.why(ctx, err))
	}
	return all, nil
}

func readVersions(ctx context.Context, c conn, after cart.ID, limit int) ([]cart.StoredVersion, error) {
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
