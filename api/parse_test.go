package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cartd/cart"
)

// Whatever a body is, reading it ends, with commands or with a problem; and what is read is JSON
// for encoding/json too.
func FuzzBodies(f *testing.F) {
	for _, body := range []string{
		`{"sku":"TEE-RED","quantity":2,"options":{"size":"M"},"unit_price":{"amount":2500,"currency":"EUR"},"title":"Red \u00e9\ud83d\ude00","metadata":{"a":"b"}}`,
		`{"currency":"EUR","line_items":[{"sku":"A"},{"sku":"B","quantity":3}]}`,
		`{"note":"two\nlines","email":null,"metadata":{"a":null,"b":"c"}}`,
		`{"quantity_delta":-3,"metadata":null}`,
		`{"operations":[{"type":"set","sku":"A","quantity":0},{"type":"clear","operation_id":"0b6f8a52-6f5c-4f0e-9d7a-9f0f3a1c2b3d"}]}`,
		`{"sku":"\ud800"}`, `{"a":-0.0e+10}`, `[[[[`, `"`, `{"sku":"` + "\xc2\x85" + `"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, read := range map[string]func(*parser){
			"lineItem":   func(p *parser) { p.lineItem(true) },
			"newCart":    func(p *parser) { p.newCart(true) },
			"cartPatch":  func(p *parser) { p.cartPatch() },
			"linePatch":  func(p *parser) { p.linePatch(cart.LineRef{}) },
			"operations": func(p *parser) { p.operations(true) },
		} {
			p := &parser{data: bytes.Clone(data)}
			read(p)
			p.end()
			if p.err == nil && !json.Valid(data) {
				t.Errorf("%s took %q, which is not JSON", name, data)
			}
			if p.err != nil && problemOf(p.err).kind == internalError {
				t.Errorf("%s: %v", name, p.err)
			}
		}
	})
}

// Strings are read as encoding/json reads them, or refused.
func FuzzString(f *testing.F) {
	for _, s := range []string{`"plain"`, `"\"\\\/\b\f\n\r\t"`, `"\u00e9\ud83d\ude00"`, `"\udc00"`, `"é😀"`, `"\x"`, `"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &parser{data: data}
		got := p.string()
		if p.end(); p.err != nil {
			return
		}
		var want string
		if err := json.Unmarshal(data, &want); err != nil || got != want {
			t.Errorf("%q is %q, not %q (%v)", data, got, want, err)
		}
	})
}

// What the encoder writes, encoding/json reads back.
func FuzzAppendString(f *testing.F) {
	f.Add("plain")
	f.Add("\"\\\n\t\x00\x7f\u0085\u2028é😀<>&")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ToValidUTF8(s, "?")
		var got string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil || got != s {
			t.Errorf("%q came back as %q (%v)", s, got, err)
		}
	})
}

func TestETag(t *testing.T) {
	for _, version := range []uint64{0, 1, 1 << 63, 1<<64 - 1} {
		tag := string(appendETag(nil, version))
		if got, ok := parseETag(tag); !ok || got != version {
			t.Errorf("%d is %s is %d", version, tag, got)
		}
	}
	for _, tag := range []string{"", `""`, `"AAAAAAAAAA"`, `"AAAAAAAAAA!"`, `"AAAAAAAAAAB"`, `AAAAAAAAAAA`, "\"AAAAAAAAAA\n\""} {
		if _, ok := parseETag(tag); ok {
			t.Errorf("%s is taken for an entity tag", tag)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 5, 7, 8e6, time.UTC)
	if got := string(appendTime(nil, at)); got != `"2026-11-23T09:05:07.008Z"` {
		t.Error(got)
	}
}
