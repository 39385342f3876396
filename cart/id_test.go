package cart

import (
	"errors"
	"testing"
)

func TestIDsHaveOneSpelling(t *testing.T) {
	id, token, line := NewID(), NewToken(), lineIDOf("A")
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Error(got, err)
	}
	if got, err := ParseLineID(line.String()); err != nil || got != line {
		t.Error(got, err)
	}
	if got, err := ParseToken(token.String()); err != nil || got != token {
		t.Error(got, err)
	}
	for _, appended := range []interface{ AppendText([]byte) ([]byte, error) }{id, line} {
		if b, err := appended.AppendText([]byte("x")); err != nil || len(b) != 23 || b[0] != 'x' {
			t.Errorf("%q %v", b, err)
		}
	}
	text := ID{}.String()
	for _, bad := range []string{"", text[1:], text + "A", text[:21] + "B", text[:21] + "=", "+" + text[1:], "\n" + text[1:], "\r\n" + text[2:]} {
		if _, err := ParseID(bad); !errors.Is(err, ErrMalformedID) {
			t.Errorf("the id %q: %v", bad, err)
		}
		if _, err := ParseLineID(bad); !errors.Is(err, ErrMalformedID) {
			t.Errorf("the line id %q: %v", bad, err)
		}
	}
	text = Token{}.String()
	for _, bad := range []string{"", text[1:], text + "A", text[:42] + "B", "/" + text[1:], "\n" + text[1:]} {
		if got, err := ParseToken(bad); !errors.Is(err, ErrMalformedID) || got != (Token{}) {
			t.Errorf("the token %q: %v", bad, err)
		}
	}
}

func TestErrors(t *testing.T) {
	cause := &Error{Reason: Unavailable}
	err := error(&Error{Reason: NotDurable, Detail: "why", Err: cause})
	if err.Error() != "cart: not-durable: why: cart: cart-unavailable" {
		t.Error(err)
	}
	step := inStep(err, 3)
	var e *Error
	if !errors.As(step, &e) || e.Detail != "why" || step.Error() != err.Error() {
		t.Error(step)
	}
	if ErrNotFound.Is(err) || !ErrNotFound.Is(&Error{Reason: NotFound}) {
		t.Error("errors are told apart by their reason")
	}
}
