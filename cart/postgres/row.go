package postgres

import (
	"context"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

// selectRows reads snapshots and fragments in one statement and so from one point in time: a
// fragment that moves into a snapshot meanwhile is seen in one of them.
const selectRows = `SELECT id, revision, state, checksum, version FROM carts WHERE id = ANY($1)
	UNION ALL SELECT id, CAST(0 AS BIGINT), delta, checksum, CAST(0 AS BIGINT) FROM fragments WHERE id = ANY($1)`

// row is what the database has of a cart.
type row struct {
	revision  int64       // 0 where there is no snapshot
	version   int64       // that is stored beside the snapshot
	state     *crdt.State // nil where there is no snapshot, or a damaged one
	damage    error       // of the snapshot
	fragments []fragment
}

// fragment is a delta that is not in the snapshot.
type fragment struct {
	checksum int64       // also its name
	delta    *crdt.Delta // nil where it is damaged
	damage   error
}

// readRows reads what the database has of the given carts. Carts that it has nothing of are not in
// the result.
func readRows(ctx context.Context, c querier, ids [][]byte) (map[cart.ID]row, error) {
	rows, err := c.Query(ctx, selectRows, ids)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make(map[cart.ID]row, len(ids))
	for rows.Next() {
		var idBytes, encoded []byte
		var revision, checksum, version int64
		if err := rows.Scan(&idBytes, &revision, &encoded, &checksum, &version); err != nil {
			return nil, err
		}
		var id cart.ID
		copy(id[:], idBytes)
		r := all[id]
		if revision == 0 {
			f := fragment{checksum: checksum}
			if f.damage = verify(id, "fragment", encoded, checksum); f.damage == nil {
				if f.delta, err = crdt.DecodeDelta(encoded); err != nil {
					f.damage = damaged(id, "a fragment cannot be decoded: %w", err)
				}
			}
			r.fragments = append(r.fragments, f)
		} else {
			r.revision, r.version = revision, version
			if r.damage = verify(id, "snapshot", encoded, checksum); r.damage == nil {
				if r.state, err = crdt.DecodeState(encoded); err != nil {
					r.damage = damaged(id, "its snapshot cannot be decoded: %w", err)
				}
			}
		}
		all[id] = r
	}
	return all, rows.Err()
}

func verify(id cart.ID, what string, encoded []byte, checksum int64) error {
	if sum := stored.Checksum(id, encoded); sum != uint64(checksum) {
		return damaged(id, "the checksum of its %s is %016x, not %016x", what, sum, uint64(checksum))
	}
	return nil
}

// load returns the join of what the database has of a cart, as far as it can be joined, and how many
// fragments cannot be, or the first damage.
func (r row) load(id cart.ID) (state *crdt.State, left int, err error) {
	if r.damage != nil {
		return nil, 0, r.damage
	}
	deltas := make([]*crdt.Delta, 0, len(r.fragments))
	for _, f := range r.fragments {
		if f.damage != nil {
			return nil, 0, f.damage
		}
		deltas = append(deltas, f.delta)
	}
	state, gaps := stored.Apply(r.state, deltas)
	switch {
	case state != nil: // what the others build on may come, or may have died unacknowledged with its author
		return state, len(gaps), nil
	case len(gaps) > 0:
		return nil, 0, damaged(id, "%d fragments build on changes that are missing", len(gaps))
	}
	return nil, 0, cart.ErrNotFound
}
