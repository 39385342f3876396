package gossip

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxKeys is the number of keys that a Keyring has at most: the fingerprints of all of them have to fit
// into the metadata of a member.
const MaxKeys = 4

// Keyring is 1 to MaxKeys cluster keys, each of them once. A node encrypts and proves itself with the
// first one, which is in use, and takes what others did with any of them. So the nodes of a cluster
// understand each other as long as every node has the keys that the others use: a key is changed
// without a pause when all nodes have it before one uses it, and none uses it before one gives it up.
//
// A Keyring does not change. The zero Keyring has no key, and no node takes it.
type Keyring struct{ keys []Key }

// NewKeyring returns the ring of keys, the one in use first.
func NewKeyring(keys ...Key) (Keyring, error) {
	if len(keys) == 0 {
		return Keyring{}, errNoKey
	}
	if len(keys) > MaxKeys {
		return Keyring{}, fmt.Errorf("%d keys, of %d at most", len(keys), MaxKeys)
	}
	for i, k := range keys {
		if k.guessable() {
			return Keyring{}, fmt.Errorf("%w: all of its bytes are equal", ErrKey)
		}
		if indexOfKey(keys[:i], k.Fingerprint()) >= 0 {
			return Keyring{}, fmt.Errorf("the key %v twice", k.Fingerprint())
		}
	}
	return Keyring{slices.Clone(keys)}, nil
}

var errNoKey = errors.New("no key")

// ParseKeyring reads keys as Key.Text returns them, one a line, the one in use first. Blank lines, lines
// that begin with #, and white space around a key do no harm. An error tells the line, and nothing of the keys.
func ParseKeyring(text string) (Keyring, error) {
	var keys []Key
	var lines []int // where they are
	number := 0
	for line := range strings.Lines(text) {
		number++
		if !IsKeyLine(line) {
			continue
		}
		k, err := ParseKey(line)
		if err != nil {
			return Keyring{}, fmt.Errorf("line %d is %w", number, err)
		}
		if i := indexOfKey(keys, k.Fingerprint()); i >= 0 {
			return Keyring{}, fmt.Errorf("line %d repeats the key of line %d", number, lines[i])
		}
		if len(keys) == MaxKeys {
			return Keyring{}, fmt.Errorf("line %d is one key too many: %d are the most", number, MaxKeys)
		}
		keys, lines = append(keys, k), append(lines, number)
	}
	return NewKeyring(keys...)
}

// IsKeyLine reports whether ParseKeyring takes a line for a key.
func IsKeyLine(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && line[0] != '#'
}

// indexOfKey returns the index of the key of a fingerprint, or -1.
func indexOfKey(keys []Key, f Fingerprint) int {
	return slices.IndexFunc(keys, func(k Key) bool { return k.Fingerprint() == f })
}

// Fingerprints returns those of the keys, of the one in use first.
func (r Keyring) Fingerprints() []Fingerprint {
	prints := make([]Fingerprint, len(r.keys))
	for i, k := range r.keys {
		prints[i] = k.Fingerprint()
	}
	return prints
}

// Has reports whether the ring has the key of a fingerprint.
func (r Keyring) Has(f Fingerprint) bool { return indexOfKey(r.keys, f) >= 0 }

// Equal reports whether both rings have the same keys in the same order.
func (r Keyring) Equal(other Keyring) bool { return slices.Equal(r.keys, other.keys) }

// gossipSecrets returns what memberlist encrypts with, of each key.
func (r Keyring) gossipSecrets() [][]byte {
	secrets := make([][]byte, len(r.keys))
	for i, k := range r.keys {
		secrets[i] = k.derive(gossipUse)
	}
	return secrets
}

// Fingerprint is the name of a key, for people. It is derived from the key and tells nothing of it.
type Fingerprint [4]byte

// Fingerprint returns the name of the key.
func (k Key) Fingerprint() Fingerprint { return Fingerprint(k.derive(fingerprintUse)[:4]) }

// String returns 8 hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// ParseFingerprint is the inverse of String.
func ParseFingerprint(text string) (f Fingerprint, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(f) {
		return Fingerprint{}, fmt.Errorf("%q is not the fingerprint of a key: 8 hexadecimal digits", text)
	}
	return Fingerprint(b), nil
}
