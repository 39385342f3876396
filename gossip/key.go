package gossip

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Key is the secret that the nodes of a cluster share. It is never used itself: each use derives a
// key of its own from it (HKDF-SHA256, RFC 5869).
type Key struct{ secret [32]byte }

// ErrKey is wrapped by the errors of ParseKey, which never show any of the key.
var ErrKey = errors.New("not a cluster key: it has to be 32 random bytes in base64, 44 characters")

// GenerateKey draws a key.
func GenerateKey() (k Key) {
	rand.Read(k.secret[:])
	return k
}

// ParseKey is the inverse of Text. White space around the text does no harm.
func ParseKey(text string) (k Key, err error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Key{}, fmt.Errorf("%w: it is empty", ErrKey)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if len(b) != len(k.secret) {
		return Key{}, fmt.Errorf("%w: it is %d bytes", ErrKey, len(b))
	}
	copy(k.secret[:], b)
	if k.guessable() {
		return Key{}, fmt.Errorf("%w: all of its bytes are equal", ErrKey)
	}
	return k, nil
}

// guessable reports whether all bytes are equal, as they are in the zero Key.
func (k Key) guessable() bool {
	for _, b := range k.secret {
		if b != k.secret[0] {
			return false
		}
	}
	return true
}

// Text returns the key in standard base64, 44 characters.
func (k Key) Text() string { return base64.StdEncoding.EncodeToString(k.secret[:]) }

// String does not tell the key, so that no log does.
func (k Key) String() string { return "[cluster key]" }

// GoString is String.
func (k Key) GoString() string { return k.String() }

// LogValue is String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// What the key is used for.
const (
	gossipUse      = "cartd gossip v1"
	authorityUse   = "cartd link authority v1"
	fingerprintUse = "cartd key fingerprint v1"
)

// derive returns the 32 bytes of a use.
func (k Key) derive(use string) []byte {
	b, err := hkdf.Key(sha256.New, k.secret[:], nil, use, 32)
	if err != nil {
		panic(err) // it fails for lengths that SHA-256 cannot give
	}
	return b
}
