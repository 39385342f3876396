package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"cartd/cart"
	"cartd/cart/internal/stored"
	"cartd/crdt"
)

const selectRow = "SELECT revision, state, checksum, expires_hour FROM carts WHERE id = ?"

// row is the snapshot of a cart.
type row struct {
	revision int64       // 0 where there is no row, or none that can be read
	hour     int64       // when it expires, in hours of Unix time, or 0
	state    *crdt.State // nil where there is no row
}

// readRow reads the snapshot of a cart. Where there is none it returns the zero row; where it is
// damaged, what could be read and an error that wraps cart.ErrDamaged.
func readRow(ctx context.Context, stmt *sql.Stmt, id cart.ID) (r row, err error) {
	var encoded []byte
	var checksum int64
	var hour sql.NullInt64
	err = stmt.QueryRowContext(ctx, id[:]).Scan(&r.revision, &encoded, &checksum, &hour)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return row{}, nil
	case corrupt(err):
		return row{}, damaged(id, "its row cannot be read: %w", err)
	case err != nil:
		return row{}, err
	}
	r.hour = hour.Int64
	if sum := stored.Checksum(id, encoded); sum != uint64(checksum) {
		return r, damaged(id, "the checksum of its snapshot is %016x, not %016x", sum, uint64(checksum))
	}
	if r.state, err = crdt.DecodeState(encoded); err != nil {
		return r, damaged(id, "its snapshot cannot be decoded: %w", err)
	}
	return r, nil
}

// expiry returns when a cart expires, in milliseconds and in hours of Unix time, or nulls for never.
func expiry(s *crdt.State) (at, hour sql.NullInt64) {
	ms, expires := stored.Expiry(s)
	return sql.NullInt64{Int64: ms, Valid: expires}, sql.NullInt64{Int64: ms / stored.MillisecondsPerHour, Valid: expires}
}
