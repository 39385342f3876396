package cart

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// operationPrefix is how much of an operation id is made of the key that the client gave; the rest
// tells which command it was for. Two commands under one key differ after the prefix only.
const operationPrefix = 12

// operationID returns the id of the command number index under a key of the client's, in the cart.
func operationID(cart ID, key string, index int, fingerprint uint32) (id OperationID) {
	b := make([]byte, 0, 64)
	b = append(b, cart[:]...)
	b = binary.AppendUvarint(b, uint64(index))
	b = append(b, key...)
	sum := sha256.Sum256(b)
	copy(id[:operationPrefix], sum[:])
	binary.BigEndian.PutUint32(id[operationPrefix:], fingerprint)
	return id
}

// fingerprint tells commands apart that came under one key.
func fingerprint(steps ...Step) uint32 {
	b := make([]byte, 0, 128)
	for _, s := range steps {
		b = s.Command.append(appendText(b, s.Key))
	}
	return uint32(xxhash.Sum64(b))
}

// operationIDs returns the id of each step: from its own key, else from the request's, else none. The
// request's key is recorded with the first step; where that has a key of its own, mark is the id of an
// event that does nothing else.
func (r *Request) operationIDs() (mark OperationID, ids []OperationID) {
	ids = make([]OperationID, len(r.Steps))
	var whole uint32
	if r.Key != "" {
		whole = fingerprint(r.Steps...)
	}
	ofRequest := func(i int) OperationID { return operationID(r.Cart, "request\x00"+r.Key, i, whole) }
	for i, s := range r.Steps {
		switch {
		case s.Key != "":
			ids[i] = operationID(r.Cart, "step\x00"+s.Key, 0, fingerprint(s))
			if i == 0 && r.Key != "" {
				mark = ofRequest(0)
			}
		case r.Key != "":
			ids[i] = ofRequest(i)
		}
	}
	return mark, ids
}

// The append methods of commands write fields in this form: text with its length, numbers as
// varints, absent values as a 0 byte.

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendOptional(b []byte, s *string) []byte {
	if s == nil {
		return append(b, 0)
	}
	return appendText(append(b, 1), *s)
}

func appendPairs(b []byte, pairs []Pair) []byte {
	b = binary.AppendUvarint(b, uint64(len(pairs)))
	for _, p := range pairs {
		b = appendText(appendText(b, p.Name), p.Value)
	}
	return b
}

func (c Add) append(b []byte) []byte {
	return c.Details.append(binary.AppendVarint(c.Line.append(append(b, 'a')), c.Quantity))
}

func (c Set) append(b []byte) []byte {
	return c.Details.append(binary.AppendVarint(c.Line.append(append(b, 's')), c.Quantity))
}

func (c Decrement) append(b []byte) []byte {
	return binary.AppendVarint(c.Line.append(append(b, 'd')), c.Quantity)
}

func (c Remove) append(b []byte) []byte     { return c.Line.append(append(b, 'r')) }
func (note) append(b []byte) []byte         { return append(b, 'n') }
func (c Clear) append(b []byte) []byte      { return append(b, 'c') }
func (c PutCode) append(b []byte) []byte    { return appendText(append(b, 'p'), c.Code) }
func (c RemoveCode) append(b []byte) []byte { return appendText(append(b, 'q'), c.Code) }

func (c Describe) append(b []byte) []byte {
	return c.Details.append(c.Line.append(append(b, 'm')))
}

func (c Update) append(b []byte) []byte {
	b = append(b, 'u')
	for _, field := range []**string{c.Note, c.Email} {
		if field == nil {
			b = append(b, 0)
		} else {
			b = appendOptional(append(b, 1), *field)
		}
	}
	return appendMetadata(b, c.Metadata)
}

func (r LineRef) append(b []byte) []byte {
	return appendPairs(appendText(append(b, r.ID[:]...), r.SKU), sorted(r.Options))
}

func (c Details) append(b []byte) []byte {
	if c.UnitPrice == nil {
		b = append(b, 0)
	} else {
		b = appendText(binary.AppendVarint(append(b, 1), c.UnitPrice.Amount), c.UnitPrice.Currency)
	}
	return appendMetadata(appendOptional(appendOptional(b, c.Title), c.ImageURL), c.Metadata)
}

func appendMetadata(b []byte, p MetadataPatch) []byte {
	dropAll := byte(0)
	if p.DropAll {
		dropAll = 1
	}
	b = append(b, dropAll)
	edits := slices.SortedFunc(slices.Values(p.Edits), func(x, y MetadataEdit) int { return cmp.Compare(x.Name, y.Name) })
	b = binary.AppendUvarint(b, uint64(len(edits)))
	for _, m := range edits {
		b = appendOptional(appendText(b, m.Name), m.Value)
	}
	return b
}
