package api

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"cartd/cart"
)

func TestLifeOfACart(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR","line_items":[{"sku":"TEE-RED","quantity":2,"options":{"size":"M"},"unit_price":{"amount":2500,"currency":"EUR"},"title":"Red tee"}]}`)
	if c.Currency != "EUR" || c.State != CartStateActive || c.TotalQuantity != 2 || c.Subtotal.Amount != 5000 {
		t.Errorf("created: %+v", c.CreatedCart)
	}
	line := c.LineItems[0]
	if line.SKU != "TEE-RED" || line.Options["size"] != "M" || *line.Title != "Red tee" || line.UnitPrice.Amount != 2500 || line.Subtotal.Amount != 5000 || line.ImageURL != nil {
		t.Errorf("line: %+v", line)
	}

	steps := []struct {
		method, path, body string
		quantity, subtotal int64
		lines              int
	}{
		{"POST", "/line-items", `{"sku":"TEE-RED","options":{"size":"M"}}`, 3, 7500, 1},
		{"POST", "/line-items", `{"sku":"MUG","quantity":4,"unit_price":{"amount":0,"currency":"EUR"},"image_url":"https://shop.example/mug.png","metadata":{"gift":"yes"}}`, 7, 7500, 2},
		{"PATCH", "/line-items/" + line.ID, `{"quantity":10}`, 14, 25000, 2},
		{"PATCH", "/line-items/" + line.ID, `{"quantity_delta":-3,"metadata":{"engraving":"A & B"}}`, 11, 17500, 2},
		{"PATCH", "/line-items/" + line.ID, `{"quantity_delta":1}`, 12, 20000, 2},
		{"PATCH", "/line-items/" + line.ID, `{"metadata":{"engraving":null}}`, 12, 20000, 2},
		{"PATCH", "", `{"note":"two\nlines","email":"ada@shop.example","metadata":{"channel":"app"}}`, 12, 20000, 2},
		{"PUT", "/discount-codes/SPRING", "", 12, 20000, 2},
		{"PUT", "/discount-codes/10%25%20OFF", "", 12, 20000, 2},
		{"DELETE", "/discount-codes/SPRING", "", 12, 20000, 2},
		{"DELETE", "/line-items/" + line.ID, "", 4, 0, 1},
		{"DELETE", "/line-items", "", 0, 0, 0},
		{"POST", "/line-items", `{"sku":"TEE-RED","options":{"size":"M"}}`, 1, 2500, 1}, // the registers stayed
	}
	for _, step := range steps {
		a := s.do(step.method, c.path+step.path, step.body).want(http.StatusOK)
		got := a.cart()
		if got.TotalQuantity != step.quantity || got.Subtotal.Amount != step.subtotal || len(got.LineItems) != step.lines {
			t.Errorf("%s %s %s: %s", step.method, step.path, step.body, a.body)
		}
		for _, name := range []string{"ETag", "Cart-Context", "Cart-Durability"} {
			if a.header.Get(name) == "" {
				t.Errorf("%s %s: no %s", step.method, step.path, name)
			}
		}
	}

	got := s.do("GET", c.path, "").want(http.StatusOK).cart()
	if *got.Note != "two\nlines" || *got.Email != "ada@shop.example" || got.Metadata["channel"] != "app" || fmt.Sprint(got.DiscountCodes) != "[10% OFF]" {
		t.Errorf("%+v", got)
	}
	got = s.do("PATCH", c.path, `{"note":null,"email":null,"metadata":null}`, "Content-Type", "application/merge-patch+json").want(http.StatusOK).cart()
	if got.Note != nil || got.Email != nil || len(got.Metadata) != 0 {
		t.Errorf("%+v", got)
	}

	s.do("DELETE", c.path, "").want(http.StatusNoContent)
	s.do("GET", c.path, "").wantProblem(http.StatusNotFound, "cart-not-found", "")
	s.do("DELETE", c.path, "").wantProblem(http.StatusNotFound, "cart-not-found", "")
}

func TestOperations(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"GBP"}`)
	const id = "0b6f8a52-6f5c-4f0e-9d7a-9f0f3a1c2b3d"
	a := s.do("POST", c.path+"/operations", `{"operations":[
		{"type":"add","sku":"A","quantity":3,"operation_id":"`+strings.ToUpper(id)+`"},
		{"type":"set","sku":"B","quantity":5,"unit_price":{"amount":100,"currency":"GBP"}},
		{"type":"decrement","sku":"A"},
		{"type":"decrement","sku":"NONE","quantity":7},
		{"type":"remove","sku":"NONE"}]}`).want(http.StatusOK)
	var got OperationResults
	a.decode(&got)
	var quantities []int
	for _, r := range got.Results {
		quantities = append(quantities, r.Quantity)
	}
	if fmt.Sprint(quantities) != "[3 5 2 0 0]" || got.Cart.TotalQuantity != 7 || got.Cart.Subtotal.Amount != 500 {
		t.Errorf("%s", a.body)
	}
	if *got.Results[0].OperationID != id || got.Results[1].OperationID != nil || *got.Results[0].LineItemID != got.Cart.LineItems[0].ID {
		t.Errorf("%s", a.body)
	}

	// The queue is sent again, with one more: what was executed is not executed again.
	a = s.do("POST", c.path+"/operations", `{"operations":[{"type":"add","sku":"A","quantity":3,"operation_id":"`+id+`"},
		{"type":"clear"},{"type":"set","line_item_id":"`+*got.Results[0].LineItemID+`","quantity":1}]}`).want(http.StatusOK)
	a.decode(&got)
	if !got.Results[0].Replayed || got.Results[1].Replayed || got.Cart.TotalQuantity != 1 || a.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("%s", a.body)
	}

	// All or none, and the refusal points at its operation.
	s.do("POST", c.path+"/operations", `{"operations":[{"type":"clear"},{"type":"add","sku":"A","quantity":9999}, {"type":"add","sku":"A","quantity":9999}]}`).
		wantProblem(http.StatusUnprocessableEntity, "quantity-limit", "/operations/2/quantity")
	if q := s.do("GET", c.path, "").cart().TotalQuantity; q != 1 {
		t.Errorf("a refused list left %d units", q)
	}
}

func TestAccess(t *testing.T) {
	s := open(t)
	c, other := s.create(`{"currency":"EUR"}`), s.create(`{"currency":"EUR"}`)
	if a := s.do("GET", c.path, "", "Cart-Token", c.token).want(http.StatusOK); strings.Contains(string(a.body), c.token) {
		t.Error("a read shows the token")
	}
	refused := map[string]answer{
		"no token":       s.do("GET", c.path, ""),
		"another's":      s.do("GET", c.path, "", "Cart-Token", other.token),
		"garbage":        s.do("GET", c.path, "", "Cart-Token", "garbage"),
		"unknown cart":   s.do("GET", "/v1/carts/"+cart.NewID().String(), "", "Cart-Token", c.token),
		"malformed cart": s.do("GET", "/v1/carts/nope", "", "Cart-Token", c.token),
		"traversal":      s.do("GET", "/v1/carts/..%2f..%2fetc", "", "Cart-Token", c.token),
	}
	erased := s.create(`{"currency":"EUR"}`)
	s.do("DELETE", erased.path, "", "Cart-Token", erased.token).want(http.StatusNoContent)
	refused["erased"] = s.do("GET", erased.path, "", "Cart-Token", erased.token)
	var same []byte
	for name, a := range refused {
		a.wantProblem(http.StatusNotFound, "cart-not-found", "")
		p := a.problem()
		a.header.Del("X-Request-Id")
		a.header.Del("Content-Length") // counts the path in instance
		text := fmt.Appendf(nil, "%s %s %s %v", p.Type, p.Title, p.Detail, a.header)
		if same == nil {
			same = text
		}
		if string(same) != string(text) {
			t.Errorf("%s is told apart: %s, not %s", name, text, same)
		}
	}
	s.do("POST", c.path+"/line-items", `{"sku":"A","unit_price":{"amount":1,"currency":"EUR"}}`, "Cart-Token", c.token).
		wantProblem(http.StatusUnprocessableEntity, "validation-failed", "/unit_price")

	s.now = s.now.Add(cart.TimeToLive + time.Hour)
	s.do("GET", c.path, "", "Cart-Token", c.token).wantProblem(http.StatusGone, "cart-expired", "")
	s.do("GET", c.path, "").wantProblem(http.StatusNotFound, "cart-not-found", "")
	s.now = s.now.Add(cart.TimeToPurge)
	s.do("GET", c.path, "", "Cart-Token", c.token).wantProblem(http.StatusNotFound, "cart-not-found", "")
}

func TestConditions(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR"}`)
	a := s.do("GET", c.path, "").want(http.StatusOK)
	tag := a.header.Get("ETag")
	for _, match := range []string{tag, "W/" + tag, `"x", ` + tag, "*"} {
		a := s.do("GET", c.path, "", "If-None-Match", match).want(http.StatusNotModified)
		if len(a.body) > 0 || a.header.Get("ETag") != tag || a.header.Get("Cart-Context") == "" {
			t.Errorf("If-None-Match %s: %q %v", match, a.body, a.header)
		}
	}
	after := s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "If-Match", tag, "Idempotency-Key", "k").want(http.StatusOK)
	s.do("GET", c.path, "", "If-None-Match", tag).want(http.StatusOK)
	s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "If-Match", tag).wantProblem(http.StatusPreconditionFailed, "precondition-failed", "")
	s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "If-Match", `"garbage"`).wantProblem(http.StatusPreconditionFailed, "precondition-failed", "")
	s.do("DELETE", c.path, "", "If-Match", tag).wantProblem(http.StatusPreconditionFailed, "precondition-failed", "")
	// The retry of a write that met its condition is a replay, not a conflict.
	again := s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "If-Match", tag, "Idempotency-Key", "k").want(http.StatusOK)
	if again.header.Get("ETag") != after.header.Get("ETag") || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%v", again.header)
	}
	s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "If-Match", "*").want(http.StatusOK)
	s.do("DELETE", c.path, "", "If-Match", s.do("GET", c.path, "").header.Get("ETag")).want(http.StatusNoContent)
}

func TestIdempotencyKey(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR"}`)
	path := c.path + "/line-items"
	for i := range 3 {
		a := s.do("POST", path, `{"sku":"A","quantity":2}`, "Idempotency-Key", "one").want(http.StatusOK)
		if replayed := a.header.Get("Idempotent-Replayed") == "true"; replayed != (i > 0) || a.cart().TotalQuantity != 2 {
			t.Errorf("attempt %d: replayed %t: %s", i, replayed, a.body)
		}
	}
	s.do("POST", path, `{"sku":"A","quantity":3}`, "Idempotency-Key", "one").wantProblem(http.StatusUnprocessableEntity, "idempotency-key-reused", "")
	s.do("DELETE", path, "", "Idempotency-Key", "one").wantProblem(http.StatusUnprocessableEntity, "idempotency-key-reused", "")
	for _, key := range []string{"", strings.Repeat("k", 256), "a b", "ü"} {
		s.do("POST", path, `{"sku":"A"}`, "Idempotency-Key", key).wantProblem(http.StatusBadRequest, "malformed-request", "")
	}
	line := s.do("GET", c.path, "").cart().LineItems[0].ID
	s.do("DELETE", path+"/"+line, "", "Idempotency-Key", "two").want(http.StatusOK)
	a := s.do("DELETE", path+"/"+line, "", "Idempotency-Key", "two").want(http.StatusOK) // and not 404
	if a.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%v", a.header)
	}
	s.do("DELETE", path+"/"+line, "", "Idempotency-Key", "three").wantProblem(http.StatusNotFound, "line-item-not-found", "")
}

func TestContext(t *testing.T) {
	s := open(t, dev)
	c, other := s.create(`{"currency":"EUR","line_items":[{"sku":"A"}]}`), s.create(`{"currency":"EUR"}`)
	saw := s.do("GET", c.path, "").header.Get("Cart-Context")
	s.do("POST", c.path+"/line-items", `{"sku":"A","quantity":4}`).want(http.StatusOK)
	line := c.LineItems[0].ID
	if q := s.do("DELETE", c.path+"/line-items/"+line, "", "Cart-Context", saw).want(http.StatusOK).cart().TotalQuantity; q != 4 {
		t.Errorf("removing what was seen left %d units, not the 4 that were not", q)
	}
	if q := s.do("PATCH", c.path+"/line-items/"+line, `{"quantity":2}`, "Cart-Context", saw).want(http.StatusOK).cart().TotalQuantity; q != 6 {
		t.Errorf("setting what was seen made %d units, not 2 beside the 4 unseen", q)
	}
	for name, text := range map[string]string{
		"another cart's": s.do("GET", other.path, "").header.Get("Cart-Context"),
		"truncated":      saw[:len(saw)-4],
		"garbage":        "garbage",
		"too long":       strings.Repeat("A", 10_000),
	} {
		if a := s.do("GET", c.path, "", "Cart-Context", text); a.status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

func TestNoSuchPath(t *testing.T) {
	s := open(t, dev)
	for _, path := range []string{"/", "/v1", "/v1/carts/", "/v2/carts"} {
		s.do("GET", path, "").wantProblem(http.StatusNotFound, "not-found", "")
	}
	for path, allow := range map[string]string{
		"/v1/carts":              "POST",
		"/v1/carts/x":            "DELETE, GET, HEAD, PATCH",
		"/v1/carts/x/line-items": "DELETE, POST",
		"/openapi.yaml":          "GET, HEAD",
	} {
		a := s.do("PUT", path, "")
		a.wantProblem(http.StatusMethodNotAllowed, "method-not-allowed", "")
		if got := a.header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow: %s, not %s", path, got, allow)
		}
	}
	c := s.create(`{"currency":"EUR"}`)
	head, get := s.do("HEAD", c.path, ""), s.do("GET", c.path, "").want(http.StatusOK)
	if head.status != http.StatusOK || head.header.Get("ETag") != get.header.Get("ETag") {
		t.Errorf("HEAD: %d %v", head.status, head.header)
	}
	if a := s.do("GET", "/openapi.yaml", "").want(http.StatusOK); string(a.body) != string(document) {
		t.Error("the document is not the embedded one")
	}
}

// Load balancers learn whether to send requests, and nothing else.
func TestReadiness(t *testing.T) {
	ready := false
	s := open(t, func(o *Options, _ *cart.Options) { o.Ready = func() bool { return ready } })
	s.do("GET", "/readyz", "").wantProblem(http.StatusServiceUnavailable, "not-ready", "")
	ready = true
	if a := s.do("GET", "/readyz", "").want(http.StatusOK); strings.TrimSpace(string(a.body)) != `{"status":"ok"}` || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("ready: %v %s", a.header, a.body)
	}
}

func TestRequestID(t *testing.T) {
	s := open(t, dev)
	if got := s.do("GET", "/", "", "X-Request-Id", "abc-1").header.Get("X-Request-Id"); got != "abc-1" {
		t.Errorf("X-Request-Id %q", got)
	}
	for _, id := range []string{strings.Repeat("x", 129), "a b", "a\"<"} {
		if got := s.do("GET", "/", "", "X-Request-Id", id).header.Get("X-Request-Id"); got == id && id != "a\"<" || got == "" {
			t.Errorf("X-Request-Id %q", got)
		}
	}
}

// A handler that panics answers as one that failed.
func TestPanic(t *testing.T) {
	s := open(t, dev)
	server := &Server{log: slog.New(slog.DiscardHandler)}
	s.handler = requestID(server.recoverer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("ouch") })))
	a := s.do("GET", "/v1/carts/x", "")
	a.wantProblem(http.StatusInternalServerError, "internal-error", "")
	if strings.Contains(string(a.body), "ouch") {
		t.Errorf("the client is told: %s", a.body)
	}
}
