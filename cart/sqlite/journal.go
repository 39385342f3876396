package sqlite

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
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
		s.pending[id] = entry{rest: f.deltas()}
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

// fold merges the deltas of one cart. What may not be merged stays apart.
type fold []*run

// near bounds how many runs are looked at for one that a delta may be merged with.
const near = 64

func (f *fold) push(d *crdt.Delta) {
	for i := len(*f) - 1; i >= max(0, len(*f)-near); i-- {
		if r := (*f)[i]; mergeable(r.span(), d) {
			r.push(d)
			return
		}
	}
	*f = append(*f, &run{base: d.Base, vv: d.VV, erased: d.Erased, stack: []*crdt.Delta{d}, n: 1})
}

func (f *fold) deltas() []*crdt.Delta {
	all := make([]*crdt.Delta, len(*f))
	for i, r := range *f {
		all[i] = r.delta()
	}
	return all
}

// run is deltas that may be merged. Like the digits of a binary counter each delta in the stack stands
// for twice as many as the next, so that n deltas that come in order cost n·log n and not n².
type run struct {
	base, vv crdt.VV // of the merge of all
	erased   bool
	stack    []*crdt.Delta
	n        uint
}

// span returns a delta of the events of r, without what they did.
func (r *run) span() *crdt.Delta {
	return &crdt.Delta{State: crdt.State{VV: r.vv, Erased: r.erased}, Base: r.base}
}

func (r *run) push(d *crdt.Delta) {
	if !r.precedes(d) { // to be merged with all, and not first with the last ones, between which there may be a gap
		d = crdt.Merge(r.delta(), d)
		*r = run{base: d.Base, vv: d.VV, erased: d.Erased, stack: append(r.stack[:0], d), n: 1}
		return
	}
	r.vv = r.vv.Join(d.VV)
	r.stack = append(r.stack, d)
	r.n++
	for n := r.n; n&1 == 0; n >>= 1 {
		r.pop()
	}
}

// precedes reports whether the events of d are the next after those of r.
func (r *run) precedes(d *crdt.Delta) bool {
	return !d.Erased && !slices.ContainsFunc(d.VV, func(end crdt.Dot) bool {
		base := d.Base.Get(end.Replica)
		return base < end.Seq && base != r.vv.Get(end.Replica)
	})
}

// pop merges the last two deltas.
func (r *run) pop() {
	n := len(r.stack)
	r.stack[n-2] = crdt.Merge(r.stack[n-2], r.stack[n-1])
	r.stack = r.stack[:n-1]
}

func (r *run) delta() *crdt.Delta {
	for len(r.stack) > 1 {
		r.pop()
	}
	return r.stack[0]
}
