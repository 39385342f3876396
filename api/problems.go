package api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"cartd/cart"
)

// problem is a refusal on its way to the client. It is an error, so that whatever finds one can
// return it.
type problem struct {
	kind    problemKind
	detail  string
	pointer string // JSON pointer to the value that is at fault, or empty
	header  http.Header
}

func (p *problem) Error() string { return "api: " + p.kind.name + ": " + p.detail }

// problemKind is what a client compares: the name in the problem's type, its status and its title.
type problemKind struct {
	name   string
	status int
	title  string
}

// The kinds of problems that arise in this package.
var (
	malformedRequest     = problemKind{"malformed-request", http.StatusBadRequest, "The request cannot be read"}
	validationFailed     = problemKind{"validation-failed", http.StatusUnprocessableEntity, "A value is out of range"}
	unsupportedMediaType = problemKind{"unsupported-media-type", http.StatusUnsupportedMediaType, "The body is not of a type that is read here"}
	bodyTooLarge         = problemKind{"body-too-large", http.StatusRequestEntityTooLarge, "The body is too large"}
	notFound             = problemKind{"not-found", http.StatusNotFound, "There is no such path"}
	methodNotAllowed     = problemKind{"method-not-allowed", http.StatusMethodNotAllowed, "The path has no such method"}
	notReady             = problemKind{"not-ready", http.StatusServiceUnavailable, "Send requests elsewhere"}
	internalError        = problemKind{"internal-error", http.StatusInternalServerError, "Something went wrong here"}
)

// kindOf maps the reasons of package cart, once and for all.
var kindOf = map[cart.Reason]problemKind{
	cart.NotFound:            {"cart-not-found", http.StatusNotFound, "There is no such cart"},
	cart.LineNotFound:        {"line-item-not-found", http.StatusNotFound, "There is no such line item in the cart"},
	cart.Expired:             {"cart-expired", http.StatusGone, "The cart has expired"},
	cart.Invalid:             validationFailed,
	cart.WrongCurrency:       {"currency-mismatch", http.StatusConflict, "The price is not in the cart's currency"},
	cart.TooManyLines:        {"line-limit", http.StatusUnprocessableEntity, "The cart has too many lines"},
	cart.QuantityExceeded:    {"quantity-limit", http.StatusUnprocessableEntity, "The line has too many units"},
	cart.TooLarge:            {"size-limit", http.StatusUnprocessableEntity, "The cart is too large"},
	cart.TooManyOperations:   {"rate-limited", http.StatusTooManyRequests, "Too many requests under keys"},
	cart.PreconditionFailed:  {"precondition-failed", http.StatusPreconditionFailed, "The cart has changed"},
	cart.OperationReused:     {"idempotency-key-reused", http.StatusUnprocessableEntity, "The key was used for something else"},
	cart.MalformedContext:    malformedRequest,
	cart.NotDurable:          {"not-durable", http.StatusServiceUnavailable, "The write is not safe"},
	cart.ContextUnavailable:  {"context-unavailable", http.StatusServiceUnavailable, "This node has not seen what the client has"},
	cart.Unavailable:         {"cart-unavailable", http.StatusServiceUnavailable, "The cart cannot be loaded"},
	cart.ServiceOverCapacity: {"cart-unavailable", http.StatusServiceUnavailable, "The cart cannot be loaded"},
}

// How long a client is asked to wait, in seconds: after a 503, and for a cart to forget keys.
const (
	retryAfter     = "1"
	retryAfterKeys = "3600"
)

// problemOf returns what to tell a client of an error.
func problemOf(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	var e *cart.Error
	if !errors.As(err, &e) {
		return &problem{kind: internalError, detail: "the request was not answered; it is in the logs under its X-Request-Id"}
	}
	return &problem{kind: kindOf[e.Reason], detail: e.Detail, pointer: e.Pointer}
}

// fail answers with the problem that err is.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	if p.kind == internalError {
		s.log.Error("request failed", "error", err, "method", r.Method, "path", r.URL.Path, "request_id", w.Header().Get("X-Request-Id"))
	}
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	switch p.kind.status {
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", retryAfter)
	case http.StatusTooManyRequests:
		h.Set("Retry-After", retryAfterKeys)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	b := make([]byte, 0, 512)
	b = append(b, `{"type":"/problems/`...)
	b = append(b, p.kind.name...)
	b = append(b, `","title":`...)
	b = appendString(b, p.kind.title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.kind.status), 10)
	b = append(b, `,"detail":`...)
	b = appendString(b, sentence(p.detail))
	b = append(b, `,"instance":`...)
	b = appendString(b, instance(r))
	if p.kind == validationFailed || p.pointer != "" {
		b = append(b, `,"errors":[{"pointer":`...)
		b = appendString(b, p.pointer)
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
		b = append(b, `}]`...)
	}
	b = append(b, "}\n"...)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(p.kind.status)
	w.Write(b) // the client may be gone; there is nobody to tell
}

// instance names the request by its path, of which it shows up to 256 bytes.
func instance(r *http.Request) string {
	path := strings.ToValidUTF8(r.URL.EscapedPath(), "�")
	return strings.ToValidUTF8(path[:min(len(path), 256)], "")
}

// sentence makes a detail a sentence.
func sentence(detail string) string {
	if detail == "" {
		return ""
	}
	return strings.ToUpper(detail[:1]) + detail[1:] + "."
}
