package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
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
	if sum := checksumOf(id, encoded); sum != uint64(checksum) {
		return r, damaged(id, "the checksum of its snapshot is %016x, not %016x", sum, uint64(checksum))
	}
	if r.state, err = crdt.DecodeState(encoded); err != nil {
		return r, damaged(id, "its snapshot cannot be decoded: %w", err)
	}
	return r, nil
}

// checksumOf covers the id too, so that the state of another cart is no match.
func checksumOf(id cart.ID, encoded []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(id[:]) // never fails
	_, _ = d.Write(encoded)
	return d.Sum64()
}

// versionOf hashes the id and the version vector of a cart, which together tell all of its content.
// Carts that are erased are equal whatever their vectors were.
func versionOf(id cart.ID, s *crdt.State) uint64 {
	var d xxhash.Digest
	var b [16]byte
	d.Reset()
	_, _ = d.Write(id[:])
	if s.Erased {
		_, _ = d.WriteString("erased")
		return d.Sum64()
	}
	for _, e := range s.VV {
		binary.LittleEndian.PutUint64(b[:], uint64(e.Replica))
		binary.LittleEndian.PutUint64(b[8:], e.Seq)
		_, _ = d.Write(b[:])
	}
	return d.Sum64()
}

const millisecondsPerHour = 60 * 60 * 1000

// expiry returns when a cart expires, in milliseconds and in hours of Unix time, or nulls for never.
func expiry(s *crdt.State) (at, hour sql.NullInt64) {
	if s.Erased || s.Lifetime.Expires == 0 {
		return at, hour
	}
	ms := s.Lifetime.Expires.Time().UnixMilli()
	return sql.NullInt64{Int64: ms, Valid: true}, sql.NullInt64{Int64: ms / millisecondsPerHour, Valid: true}
}
