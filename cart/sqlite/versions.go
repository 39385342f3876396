package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"cartd/cart"
)

const selectVersions = "SELECT id, version FROM carts WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"

// Versions returns the versions of the next carts after one and up to last, in the order of their ids. Those
// whose snapshot is behind are loaded. A context that is done ends it.
func (s *Store) Versions(ctx context.Context, after, last cart.ID, limit int) ([]cart.StoredVersion, error) {
	var all []cart.StoredVersion
	for len(all) < limit {
		page, seen, err := s.versions(ctx, after, last, limit-len(all))
		if err != nil {
			return nil, fmt.Errorf("sqlite: versions: %w", err)
		}
		if seen == after {
			break
		}
		all, after = append(all, page...), seen
	}
	return all, nil
}

// versions returns at most limit of the next carts, and which was looked at last: those that are damaged are
// left out.
func (s *Store) versions(ctx context.Context, after, last cart.ID, limit int) (page []cart.StoredVersion, seen cart.ID, err error) {
	ids := s.pendingIn(after, last) // before the rows: a snapshot may move from here to there
	rows, err := s.readVersions(ctx, after, last, limit)
	if err != nil {
		return nil, after, err
	}
	if len(rows) == limit { // then no others can be in the page
		ids = slices.DeleteFunc(ids, func(id cart.ID) bool { return compare(id, rows[limit-1].ID) > 0 })
	}
	slices.SortFunc(ids, compare)
	seen = after
	for n := 0; n < limit && len(ids)+len(rows) > 0; n++ {
		isPending, isStored := len(ids) > 0, len(rows) > 0
		if isPending && isStored {
			order := compare(ids[0], rows[0].ID)
			isPending, isStored = order <= 0, order >= 0
		}
		var v cart.StoredVersion
		if isStored {
			v, rows = rows[0], rows[1:]
		}
		if isPending {
			v.ID, ids = ids[0], ids[1:]
			state, err := s.Load(ctx, v.ID)
			switch {
			case err == nil:
				v.Version, isStored = cart.VersionHash(v.ID, state), true
			case !errors.Is(err, cart.ErrDamaged) && !errors.Is(err, cart.ErrNotFound): // purged by now
				return nil, after, err
			}
		}
		seen = v.ID
		if isStored {
			page = append(page, v)
		}
	}
	return page, seen, nil
}

func compare(a, b cart.ID) int { return bytes.Compare(a[:], b[:]) }

// pendingIn returns the carts after one and up to last whose snapshot is behind.
func (s *Store) pendingIn(after, last cart.ID) (ids []cart.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.pending {
		if compare(id, after) > 0 && compare(id, last) <= 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *Store) readVersions(ctx context.Context, after, last cart.ID, limit int) ([]cart.StoredVersion, error) {
	rows, err := s.readers.QueryContext(ctx, selectVersions, after[:], last[:], limit)
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
