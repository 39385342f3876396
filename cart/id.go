package cart

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
)

// ID names a cart: 128 random bits. Its text form is 22 characters of base64url.
type ID [16]byte

// LastID is the greatest id.
var LastID = ID(bytes.Repeat([]byte{0xff}, len(ID{})))

// NewID draws an id.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

// ErrMalformedID is returned for text that is not an id.
var ErrMalformedID = errors.New("cart: malformed id")

// ParseID reads the text form of an id, and no other spelling of it.
func ParseID(text string) (ID, error) {
	id, err := parse16(text)
	return ID(id), err
}

func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// AppendText appends the text form of id to b. It never fails.
func (id ID) AppendText(b []byte) ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(b, id[:]), nil
}

// LineID names a line of any cart: the first 128 bits of the SHA-256 of the line's key, so the same
// product with the same options is the same line wherever it was added.
type LineID [16]byte

func lineIDOf(key string) LineID {
	sum := sha256.Sum256([]byte(key))
	return LineID(sum[:16])
}

// ParseLineID reads the text form of a line id, and no other spelling of it.
func ParseLineID(text string) (LineID, error) {
	id, err := parse16(text)
	return LineID(id), err
}

func (id LineID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// AppendText appends the text form of id to b. It never fails.
func (id LineID) AppendText(b []byte) ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(b, id[:]), nil
}

var strict = base64.RawURLEncoding.Strict()

func parse16(text string) (id [16]byte, err error) {
	if len(text) != strict.EncodedLen(len(id)) {
		return id, ErrMalformedID
	}
	if n, err := strict.Decode(id[:], []byte(text)); err != nil || n != len(id) { // it skips line breaks
		return [16]byte{}, ErrMalformedID
	}
	return id, nil
}

// Token opens one cart to whoever holds it: 256 random bits, 43 characters of base64url. It is
// given out once; the cart keeps its SHA-256.
type Token [32]byte

// NewToken draws a token.
func NewToken() (t Token) {
	rand.Read(t[:])
	return t
}

// ParseToken reads the text form of a token.
func ParseToken(text string) (t Token, err error) {
	if len(text) != strict.EncodedLen(len(t)) {
		return t, ErrMalformedID
	}
	if n, err := strict.Decode(t[:], []byte(text)); err != nil || n != len(t) {
		return Token{}, ErrMalformedID
	}
	return t, nil
}

func (t Token) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

func (t Token) hash() [sha256.Size]byte { return sha256.Sum256(t[:]) }
