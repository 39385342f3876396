package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cartd/cart"
)

// What bad input gets, and that the cart is unharmed by it.
func TestBadBodies(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR","line_items":[{"sku":"A","quantity":2}]}`)
	line := "/line-items/" + c.LineItems[0].ID
	long := strings.Repeat("x", 600)
	add := func(rest string) string { return `{"sku":"B",` + rest + `}` }
	const malformed, invalid = http.StatusBadRequest, http.StatusUnprocessableEntity
	for _, test := range []struct {
		name, method, path, body string
		status                   int
		problem, pointer         string
	}{
		{"cut off", "POST", "/line-items", `{"sku":`, malformed, "malformed-request", ""},
		{"blank", "POST", "/line-items", ` `, malformed, "malformed-request", ""},
		{"twice the same name", "POST", "/line-items", `{"sku":"B","sku":"C"}`, malformed, "malformed-request", ""},
		{"the same name escaped", "POST", "/line-items", `{"sku":"B","\u0073ku":"C"}`, malformed, "malformed-request", ""},
		{"trailing data", "POST", "/line-items", `{"sku":"B"}{}`, malformed, "malformed-request", ""},
		{"trailing comma", "POST", "/line-items", `{"sku":"B",}`, malformed, "malformed-request", ""},
		{"deep", "POST", "/line-items", strings.Repeat(`{"sku":`, 9000), invalid, "validation-failed", "/sku"},
		{"deep arrays", "POST", "/operations", strings.Repeat(`[`, 60000), invalid, "validation-failed", ""},
		{"not UTF-8", "POST", "/line-items", "{\"sku\":\"\xff\"}", malformed, "malformed-request", ""},
		{"NUL", "POST", "/line-items", "{\"sku\":\"a\x00b\"}", malformed, "malformed-request", ""},
		{"escaped NUL", "POST", "/line-items", `{"sku":"a\u0000b"}`, malformed, "malformed-request", ""},
		{"C1 control", "POST", "/line-items", `{"sku":"a\u0085b"}`, malformed, "malformed-request", ""},
		{"lone surrogate", "POST", "/line-items", `{"sku":"\ud800"}`, malformed, "malformed-request", ""},
		{"array", "POST", "/line-items", `[]`, invalid, "validation-failed", ""},
		{"unknown field", "POST", "/line-items", add(`"colour":1`), malformed, "malformed-request", ""},
		{"quantity below", "POST", "/line-items", add(`"quantity":-1`), invalid, "validation-failed", "/quantity"},
		{"quantity 0", "POST", "/line-items", add(`"quantity":0`), invalid, "validation-failed", "/quantity"},
		{"quantity of a part", "POST", "/line-items", add(`"quantity":1.5`), invalid, "validation-failed", "/quantity"},
		{"quantity 1e309", "POST", "/line-items", add(`"quantity":1e309`), invalid, "validation-failed", "/quantity"},
		{"quantity 2^63", "POST", "/line-items", add(`"quantity":9223372036854775808`), invalid, "validation-failed", "/quantity"},
		{"quantity in words", "POST", "/line-items", add(`"quantity":"1"`), invalid, "validation-failed", "/quantity"},
		{"quantity null", "POST", "/line-items", add(`"quantity":null`), invalid, "validation-failed", "/quantity"},
		{"quantity 01", "POST", "/line-items", add(`"quantity":01`), malformed, "malformed-request", ""},
		{"quantity above", "POST", "/line-items", add(`"quantity":10000`), invalid, "validation-failed", "/quantity"},
		{"quantity above, summed", "POST", "/line-items", `{"sku":"A","quantity":9999}`, invalid, "quantity-limit", "/quantity"},
		{"no SKU", "POST", "/line-items", `{}`, invalid, "validation-failed", "/sku"},
		{"SKU empty", "POST", "/line-items", `{"sku":""}`, invalid, "validation-failed", "/sku"},
		{"SKU blank", "POST", "/line-items", `{"sku":" "}`, invalid, "validation-failed", "/sku"},
		{"SKU long", "POST", "/line-items", `{"sku":"` + long[:129] + `"}`, invalid, "validation-failed", "/sku"},
		{"SKU bidirectional", "POST", "/line-items", `{"sku":"a\u202eb"}`, invalid, "validation-failed", "/sku"},
		{"SKU a number", "POST", "/line-items", `{"sku":7}`, invalid, "validation-failed", "/sku"},
		{"options a list", "POST", "/line-items", add(`"options":[]`), invalid, "validation-failed", "/options"},
		{"option a number", "POST", "/line-items", add(`"options":{"a/b":1}`), invalid, "validation-failed", "/options/a~1b"},
		{"option long", "POST", "/line-items", add(`"options":{"a":"` + long + `"}`), invalid, "validation-failed", "/options/a"},
		{"17 options", "POST", "/line-items", add(`"options":{` + members(17) + `}`), invalid, "validation-failed", "/options"},
		{"1000 options", "POST", "/line-items", add(`"options":{` + members(1000) + `}`), invalid, "validation-failed", "/options"},
		{"21 entries", "POST", "/line-items", add(`"metadata":{` + members(21) + `}`), invalid, "validation-failed", "/metadata"},
		{"price below", "POST", "/line-items", add(`"unit_price":{"amount":-1,"currency":"EUR"}`), invalid, "validation-failed", "/unit_price/amount"},
		{"price above", "POST", "/line-items", add(`"unit_price":{"amount":100000000001,"currency":"EUR"}`), invalid, "validation-failed", "/unit_price/amount"},
		{"price incomplete", "POST", "/line-items", add(`"unit_price":{"amount":1}`), invalid, "validation-failed", "/unit_price"},
		{"price in no currency", "POST", "/line-items", add(`"unit_price":{"amount":1,"currency":"XYZ"}`), invalid, "validation-failed", "/unit_price/currency"},
		{"price in another currency", "POST", "/line-items", add(`"unit_price":{"amount":1,"currency":"USD"}`), http.StatusConflict, "currency-mismatch", "/unit_price/currency"},
		{"title long", "POST", "/line-items", add(`"title":"` + long + `"`), invalid, "validation-failed", "/title"},
		{"image no URL", "POST", "/line-items", add(`"image_url":"javascript:alert(1)"`), invalid, "validation-failed", "/image_url"},
		{"set below", "PATCH", line, `{"quantity":-1}`, invalid, "validation-failed", "/quantity"},
		{"set above", "PATCH", line, `{"quantity":10000}`, invalid, "validation-failed", "/quantity"},
		{"delta far below", "PATCH", line, `{"quantity_delta":-9223372036854775808}`, invalid, "validation-failed", "/quantity_delta"},
		{"set and delta", "PATCH", line, `{"quantity":1,"quantity_delta":1}`, invalid, "validation-failed", ""},
		{"nothing to change", "PATCH", line, `{}`, invalid, "validation-failed", ""},
		{"line not there", "PATCH", "/line-items/AAAAAAAAAAAAAAAAAAAAAQ", `{"quantity":1}`, http.StatusNotFound, "line-item-not-found", ""},
		{"line malformed", "PATCH", "/line-items/x", `{"quantity":1}`, http.StatusNotFound, "line-item-not-found", ""},
		{"line not there to remove", "DELETE", "/line-items/x", ``, http.StatusNotFound, "line-item-not-found", ""},
		{"note long", "PATCH", "", `{"note":"` + strings.Repeat("x", 2001) + `"}`, invalid, "validation-failed", "/note"},
		{"e-mail no address", "PATCH", "", `{"email":"ada"}`, invalid, "validation-failed", "/email"},
		{"code long", "PUT", "/discount-codes/" + long[:65], ``, invalid, "validation-failed", ""},
		{"code blank", "PUT", "/discount-codes/%20", ``, invalid, "validation-failed", ""},
		{"no operations", "POST", "/operations", `{}`, invalid, "validation-failed", "/operations"},
		{"empty operations", "POST", "/operations", `{"operations":[]}`, invalid, "validation-failed", "/operations"},
		{"101 operations", "POST", "/operations", `{"operations":[` + strings.Repeat(`{"type":"clear"},`, 100) + `{"type":"clear"}]}`, invalid, "validation-failed", "/operations/100"},
		{"operation of no type", "POST", "/operations", `{"operations":[{"sku":"A"}]}`, invalid, "validation-failed", "/operations/0/type"},
		{"operation of another type", "POST", "/operations", `{"operations":[{"type":"add set","sku":"A"}]}`, invalid, "validation-failed", "/operations/0/type"},
		{"operation on no line", "POST", "/operations", `{"operations":[{"type":"add"}]}`, invalid, "validation-failed", "/operations/0"},
		{"operation on two", "POST", "/operations", `{"operations":[{"type":"remove","sku":"A","line_item_id":"AAAAAAAAAAAAAAAAAAAAAQ"}]}`, invalid, "validation-failed", "/operations/0"},
		{"operation id no UUID", "POST", "/operations", `{"operations":[{"type":"clear","operation_id":"1"}]}`, invalid, "validation-failed", "/operations/0/operation_id"},
		{"set of unknown line", "POST", "/operations", `{"operations":[{"type":"set","quantity":1,"line_item_id":"AAAAAAAAAAAAAAAAAAAAAQ"}]}`, http.StatusNotFound, "line-item-not-found", "/operations/0"},
		{"set to nothing said", "POST", "/operations", `{"operations":[{"type":"set","sku":"A"}]}`, invalid, "validation-failed", "/operations/0/quantity"},
		{"remove of units", "POST", "/operations", `{"operations":[{"type":"remove","sku":"A","quantity":1}]}`, invalid, "validation-failed", "/operations/0/quantity"},
		{"operation out of range", "POST", "/operations", `{"operations":[{"type":"clear"},{"type":"add","sku":"A","quantity":0}]}`, invalid, "validation-failed", "/operations/1/quantity"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := s.do(test.method, c.path+test.path, test.body)
			a.t = t
			a.wantProblem(test.status, test.problem, test.pointer)
		})
	}
	for body, pointer := range map[string]string{
		`{}`:                 "/currency",
		`{"currency":"eur"}`: "/currency",
		`{"currency":"EUR","line_items":[{"sku":"A"},{"sku":"B","quantity":0}]}`: "/line_items/1/quantity",
	} {
		s.do("POST", "/v1/carts", body).wantProblem(invalid, "validation-failed", pointer)
	}
	if got := s.do("GET", c.path, "").cart(); got.TotalQuantity != 2 || len(got.LineItems) != 1 || got.Note != nil {
		t.Errorf("bad input changed the cart: %+v", got)
	}
}

// members returns n members of an object.
func members(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`"k%d":"v"`, i)
	}
	return strings.Join(list, ",")
}

func TestBadRequests(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR"}`)
	post := func(body io.Reader, headers ...string) *http.Request {
		r := httptest.NewRequest("POST", c.path+"/line-items", body)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		return r
	}
	const json = "application/json"
	body := func() io.Reader { return strings.NewReader(`{"sku":"A"}`) }
	large := strings.Repeat(" ", maxBody+1)
	for _, test := range []struct {
		name    string
		request *http.Request
		status  int
		problem string
	}{
		{"no type", post(body()), http.StatusUnsupportedMediaType, "unsupported-media-type"},
		{"text", post(body(), "Content-Type", "text/plain"), http.StatusUnsupportedMediaType, "unsupported-media-type"},
		{"merge patch to add", post(body(), "Content-Type", "application/merge-patch+json"), http.StatusUnsupportedMediaType, "unsupported-media-type"},
		{"Latin 1", post(body(), "Content-Type", json+"; charset=latin1"), http.StatusUnsupportedMediaType, "unsupported-media-type"},
		{"gzip", post(body(), "Content-Type", json, "Content-Encoding", "gzip"), http.StatusUnsupportedMediaType, "unsupported-media-type"},
		{"empty", post(nil, "Content-Type", json), http.StatusBadRequest, "malformed-request"},
		{"large", post(strings.NewReader(large), "Content-Type", json), http.StatusRequestEntityTooLarge, "body-too-large"},
		{"large, of unknown length", post(io.MultiReader(strings.NewReader(large)), "Content-Type", json), http.StatusRequestEntityTooLarge, "body-too-large"},
		{"durability", post(body(), "Content-Type", json, "Cart-Durability", "memory"), http.StatusBadRequest, "malformed-request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := s.send(test.request)
			a.t = t
			a.wantProblem(test.status, test.problem, "")
		})
	}
	s.send(post(body(), "Content-Type", json+"; charset=UTF-8", "Cart-Durability", "database")).want(http.StatusOK)

	// What may come once is not taken twice, whichever of the two would have been right.
	for _, name := range []string{"Cart-Token", "Cart-Context", "Idempotency-Key", "Cart-Durability", "Content-Type", "Content-Encoding"} {
		r := post(body(), "Content-Type", json)
		r.Header.Add(name, "default")
		r.Header.Add(name, "x")
		s.send(r).wantProblem(http.StatusBadRequest, "malformed-request", "")
	}
	// What is repeated of the input is cut.
	for _, a := range []answer{
		s.do("POST", c.path+"/line-items", `{"`+strings.Repeat("\u202e", 10_000)+`":1}`),
		s.do("POST", c.path+"/line-items", `{"sku":"A","options":{"`+strings.Repeat("/", 50_000)+`":1}}`),
		s.do("GET", "/"+strings.Repeat("x", 30_000), ""),
	} {
		if len(a.body) > 2000 {
			t.Errorf("an answer of %d bytes: %.200s", len(a.body), a.body)
		}
	}
}

func TestLineLimit(t *testing.T) {
	s := open(t, dev, func(_ *Options, o *cart.Options) { o.Limits = cart.Limits{Lines: 2, Quantity: 9999} })
	c := s.create(`{"currency":"EUR","line_items":[{"sku":"A"},{"sku":"B"}]}`)
	s.do("POST", c.path+"/line-items", `{"sku":"C"}`).wantProblem(http.StatusUnprocessableEntity, "line-limit", "")
	s.do("POST", c.path+"/line-items", `{"sku":"B"}`).want(http.StatusOK)
}
