package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKeyText(t *testing.T) {
	k := GenerateKey()
	text := k.Text()
	if len(text) != 44 {
		t.Fatalf("%d characters", len(text))
	}
	for _, variant := range []string{text, text + "\n", "  " + text} {
		if got, err := ParseKey(variant); err != nil || got != k {
			t.Errorf("ParseKey(%q): %v", variant, err)
		}
	}
	if GenerateKey() == k {
		t.Error("two keys are equal")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	text := GenerateKey().Text()
	for name, bad := range map[string]string{
		"empty":       "",
		"white space": " \n",
		"cut off":     text[:40],
		"no padding":  text[:43],
		"hexadecimal": strings.Repeat("0123456789abcdef", 4),
		"too long":    text[:43] + "A" + text,
		"foreign":     "#" + text[1:],
		"16 bytes":    "AAECAwQFBgcICQoLDA0ODw==",
		"zero":        Key{}.Text(),
	} {
		_, err := ParseKey(bad)
		if !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
		}
		if len(bad) > 8 && strings.Contains(fmt.Sprint(err), bad[1:8]) {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func TestKeyIsNotShown(t *testing.T) {
	k := GenerateKey()
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("start", "key", k, "options", struct{ Key Key }{k})
	fmt.Fprintf(&log, "%v %+v %#v %s", k, struct{ Key Key }{k}, k, k)
	if shown := log.String(); strings.Contains(shown, k.Text()) || strings.Contains(shown, fmt.Sprint(k.secret[0])+" "+fmt.Sprint(k.secret[1])) {
		t.Errorf("shown: %s", shown)
	}
}

func TestKeyUsesDiffer(t *testing.T) {
	k := GenerateKey()
	gossip, authority := k.derive(gossipUse), k.derive(authorityUse)
	if bytes.Equal(gossip, authority) || bytes.Equal(gossip, k.secret[:]) || bytes.Equal(authority, k.secret[:]) {
		t.Error("two uses of one secret")
	}
	if len(gossip) != 32 || len(authority) != 32 {
		t.Errorf("%d and %d bytes", len(gossip), len(authority))
	}
	if !bytes.Equal(gossip, k.derive(gossipUse)) {
		t.Error("not the same twice")
	}
}
