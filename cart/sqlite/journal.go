package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cespare/xxhash/v2"

	"cartd/cart"
	"cartd/crdt"
)

// A batch is a version byte, the number of changes as a varint, and for each change the cart's id,
// the length of the delta as 4 bytes (little-endian) and the delta.
const (
	batchVersion  = 1
	batchOverhead = 16 + 4 // bytes of a change besides its delta
)

// errMalformedBatch is returned for bytes that are not a batch.
var errMalformedBatch = errors.New("sqlite: malformed batch")

// change is a delta of one cart, as the journal holds it.
type change struct {
	id    cart.ID
	delta *crdt.Delta
}

func appendBatch(b []byte, n int) []byte {
	return binary.AppendUvarint(append(b, batchVersion), uint64(n))
}

func appendChange(b []byte, id cart.ID, delta *crdt.Delta) []byte {
	b = append(b, id[:]...)
	start := len(b) + 4
	b = crdt.AppendDelta(append(b, 0, 0, 0, 0), delta)
	binary.LittleEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	return b
}

// decodeBatch calls each with the changes of a batch in their order. It allocates no more than the
// bytes that are there can hold. Errors wrap errMalformedBatch.
func decodeBatch(b []byte, each func(change)) error {
	if len(b) == 0 || b[0] != batchVersion {
		return fmt.Errorf("%w: unknown version", errMalformedBatch)
	}
	count, n := binary.Uvarint(b[1:])
	if n <= 0 || count > uint64(len(b)/batchOverhead) {
		return fmt.Errorf("%w: a count of %d in %d bytes", errMalformedBatch, count, len(b))
	}
	for b = b[1+n:]; count > 0; count-- {
		if len(b) < batchOverhead {
			return fmt.Errorf("%w: it ends early", errMalformedBatch)
		}
		c := change{id: cart.ID(b[:16])}
		length := binary.LittleEndian.Uint32(b[16:])
		if b = b[batchOverhead:]; uint64(length) > uint64(len(b)) {
			return fmt.Errorf("%w: a delta of %d bytes in %d", errMalformedBatch, length, len(b))
		}
		var err error
		if c.delta, err = crdt.DecodeDelta(b[:length]); err != nil {
			return fmt.Errorf("%w: cart %v: %w", errMalformedBatch, c.id, err)
		}
		b = b[length:]
		each(c)
	}
	if len(b) > 0 {
		return fmt.Errorf("%w: %d bytes after its end", errMalformedBatch, len(b))
	}
	return nil
}

// journalRow is what is kept in memory of a row of the journal.
type journalRow struct {
	seq  int64
	size int
}

// journal is the rows that the table holds, in order.
type journal struct {
	rows  []journalRow
	bytes int64 // sum of their sizes
	last  int64 // the greatest seq that was there at Open or was written since, or 0
}

func (j *journal) add(seq int64, size int) {
	j.rows = append(j.rows, journalRow{seq, size})
	j.bytes += int64(size)
	j.last = seq
}

// drop forgets the rows up to seq.
func (j *journal) drop(seq int64) {
	n := 0
	for n < len(j.rows) && j.rows[n].seq <= seq {
		j.bytes -= int64(j.rows[n].size)
		n++
	}
	j.rows = append(j.rows[:0], j.rows[n:]...)
}

// replay reads the journal into pending. It reads all of it before it reports damaged rows.
func (s *Store) replay(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, "SELECT seq, batch, checksum FROM journal ORDER BY seq")
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	defer rows.Close()
	folds := make(map[cart.ID]*fold)
	var broken []string
	for rows.Next() {
		var seq, checksum int64
		var batch sql.RawBytes
		if err := rows.Scan(&seq, &batch, &checksum); err != nil {
			return fmt.Errorf("read the journal: %w", err)
		}
		if err := replayRow(folds, batch, uint64(checksum)); err != nil {
			broken = append(broken, fmt.Sprintf("row %d (%d bytes: %v)", seq, len(batch), err))
			continue
		}
		s.journal.add(seq, len(batch))
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the journal after row %d: %w; restore a backup of the directory", s.journal.last, err)
	}
	if len(broken) > 0 {
		return fmt.Errorf("%w: in the journal: %s; each row is one batch of acknowledged changes that are not in a "+
			"snapshot yet; restore a backup of the directory, or, to go on without these changes, delete the rows by "+
			"hand (DELETE FROM journal WHERE seq = …)", cart.ErrDamaged, strings.Join(broken, ", "))
	}
	for id, f := range folds {
		s.pending[id] = entry{rest: f.delta()}
	}
	return nil
}

func replayRow(folds map[cart.ID]*fold, batch []byte, checksum uint64) error {
	if sum := xxhash.Sum64(batch); sum != checksum {
		return fmt.Errorf("its checksum is %016x, not %016x", sum, checksum)
	}
	return decodeBatch(batch, func(c change) {
		f := folds[c.id]
		if f == nil {
			f = new(fold)
			folds[c.id] = f
		}
		f.push(c.delta)
	})
}

// fold merges the deltas of one cart in the order in which they are pushed. Like the digits of a
// binary counter each delta in the stack stands for twice as many as the next, so that n deltas
// cost n·log n and not n².
type fold struct {
	stack []*crdt.Delta
	n     uint
}

func (f *fold) push(d *crdt.Delta) {
	f.stack = append(f.stack, d)
	f.n++
	for n := f.n; n&1 == 0; n >>= 1 {
		f.pop()
	}
}

// pop merges the last two deltas.
func (f *fold) pop() {
	n := len(f.stack)
	f.stack[n-2] = crdt.Merge(f.stack[n-2], f.stack[n-1])
	f.stack = f.stack[:n-1]
}

func (f *fold) delta() *crdt.Delta {
	for len(f.stack) > 1 {
		f.pop()
	}
	return f.stack[0]
}
