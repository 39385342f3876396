package gossip

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// keysOf returns so many keys.
func keysOf(n int) (keys []Key) {
	for range n {
		keys = append(keys, GenerateKey())
	}
	return keys
}

// A ring has the keys that it was made of, in order, and is what its text says, however that is spaced.
func TestKeyringLaws(t *testing.T) {
	all := keysOf(MaxKeys)
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.Permutation(all).Draw(t, "keys")[:rapid.IntRange(1, MaxKeys).Draw(t, "count")]
		r, err := NewKeyring(keys...)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for i, k := range keys {
			if r.Fingerprints()[i] != k.Fingerprint() || !r.Has(k.Fingerprint()) {
				t.Errorf("key %d is not where it was", i)
			}
			text.WriteString(rapid.SampledFrom([]string{"", "\n", "# note\n", " \r\n\t#\r\n"}).Draw(t, "between"))
			text.WriteString(rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "before"))
			text.WriteString(k.Text())
			if i < len(keys)-1 {
				text.WriteString(rapid.SampledFrom([]string{"\n", "\r\n", " \n"}).Draw(t, "end"))
			}
		}
		if got, err := ParseKeyring(text.String()); err != nil || !got.Equal(r) {
			t.Errorf("%v: of %q", err, text.String())
		}
		other := slices.Clone(keys)
		slices.Reverse(other)
		if reversed, err := NewKeyring(other...); err != nil || reversed.Equal(r) != (len(keys) == 1) {
			t.Errorf("the order does not count: %v", err)
		}
		for _, k := range all[len(r.keys):] {
			if r.Has(k.Fingerprint()) != slices.Contains(keys, k) {
				t.Error("a key that it was not made of")
			}
		}
	})
}

func TestKeyringDoesNotChange(t *testing.T) {
	keys := keysOf(2)
	r := ring(keys...)
	first := keys[0]
	keys[0] = GenerateKey()
	r.Fingerprints()[0] = Fingerprint{}
	if !r.Equal(ring(first, keys[1])) {
		t.Error("changed from outside")
	}
}

func TestKeyringRefuses(t *testing.T) {
	k := keysOf(MaxKeys + 1)
	text := func(keys ...Key) (s string) {
		for _, k := range keys {
			s += k.Text() + "\n"
		}
		return s
	}
	for name, tt := range map[string]struct{ text, says string }{
		"empty":              {"", "no key"},
		"notes":              {"# a note\n\n#\n", "no key"},
		"malformed":          {text(k[0]) + "# note\n" + text(k[1])[:40] + "\n" + text(k[2]), "line 3 is not a cluster key"},
		"a note on the line": {text(k[0])[:44] + " # in use\n", "line 1 is not a cluster key"},
		"two on one line":    {k[0].Text() + " " + k[1].Text(), "line 1 is not a cluster key"},
		"guessable":          {text(k[0], Key{}), "line 2 is not a cluster key"},
		"too many":           {"\n" + text(k...), "line 6 is one key too many: 4 are the most"},
		"twice":              {text(k[0], k[1]) + "\n" + text(k[0]), "line 4 repeats the key of line 1"},
	} {
		_, err := ParseKeyring(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, k := range k {
			if strings.Contains(err.Error(), k.Text()[1:9]) {
				t.Errorf("%s: the error shows a key: %v", name, err)
			}
		}
	}
	for name, keys := range map[string][]Key{
		"none": nil, "too many": k, "twice": {k[0], k[1], k[0]}, "guessable": {k[0], {}},
	} {
		if _, err := NewKeyring(keys...); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestFingerprint(t *testing.T) {
	k := GenerateKey()
	f := k.Fingerprint()
	if text := f.String(); len(text) != 8 {
		t.Errorf("%q", text)
	}
	if got, err := ParseFingerprint(f.String()); err != nil || got != f {
		t.Errorf("%v, %v", got, err)
	}
	if other, err := ParseKey(k.Text()); err != nil || other.Fingerprint() != f {
		t.Errorf("one key has two: %v", err)
	}
	if GenerateKey().Fingerprint() == f {
		t.Error("two keys have one")
	}
	for _, use := range []string{gossipUse, authorityUse} {
		if bytes.Contains(k.derive(use), f[:]) {
			t.Error("it tells of a secret")
		}
	}
	for _, bad := range []string{"", "3f2a", "3f2a91bcd", "3f2a91bg", "3f2a91bc00"} {
		if _, err := ParseFingerprint(bad); err == nil {
			t.Errorf("%q: taken", bad)
		}
	}
}

// The gate lets pass what any of its keys sealed, and nothing that a former one did.
func TestGateFollowsTheKeys(t *testing.T) {
	k := keysOf(3)
	g, err := newGate(ring(k[0], k[1]), "cartd")
	if err != nil {
		t.Fatal(err)
	}
	passes := func(want ...Key) {
		t.Helper()
		for i, key := range k {
			var expected error
			if !slices.Contains(want, key) {
				expected = errKey
			}
			if err := g.checkPacket(labelled("cartd", seal(key, []byte("ping"), []byte("cartd")))); !errors.Is(err, expected) {
				t.Errorf("a datagram of key %d: %v", i, err)
			}
			if _, err := g.readStream(bytes.NewReader(streamOf(key, "cartd", []byte("ping")))); !errors.Is(err, expected) {
				t.Errorf("a stream of key %d: %v", i, err)
			}
		}
	}
	passes(k[0], k[1])
	if err := g.setKeys(ring(k[1], k[2])); err != nil {
		t.Fatal(err)
	}
	passes(k[1], k[2])
	if err := g.setKeys(ring(k[2])); err != nil {
		t.Fatal(err)
	}
	passes(k[2])
}
