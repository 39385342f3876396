package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"cartd/api"
)

const header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"

const oneInvoice = header +
	"1,A,TEE ,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n" +
	"1,B,MUG,2,2010-12-01 08:26:00,3.5,17850.0,United Kingdom\n" +
	"1,A,,1,2010-12-01 08:26:00,2.5,17850.0,United Kingdom\n" +
	"1,C,HAT,5,2010-12-01 08:26:00,0,17850.0,United Kingdom\n" +
	"1,C,HAT,-5,2010-12-01 08:26:00,0,17850.0,United Kingdom\n"

// writeFile writes a file of the test's own and returns its path.
func writeFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "day.csv")
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// fakeCartd keeps carts in memory, executes a command once for each Idempotency-Key, and does wrong
// what a test asks it to.
type fakeCartd struct {
	requests atomic.Int64
	routes   *http.ServeMux

	// intercept, if set, sees every request first; if it returns true that was the answer.
	intercept func(w http.ResponseWriter, r *http.Request) bool
	// execute, if set, replaces the execution of a command on a cart. It runs under the lock.
	execute func(f *fakeCartd, c *fakeCart, key string, command func())
	// show, if set, may change what a read shows.
	show func(cart *api.Cart)

	mu    sync.Mutex
	carts map[string]*fakeCart
}

type fakeCart struct {
	id, token string
	version   int
	keys      map[string]bool
	lines     []*fakeLine
}

type fakeLine struct {
	sku      string
	quantity int
	price    *api.Money
	title    *string
}

func newFake() *fakeCartd {
	f := &fakeCartd{routes: http.NewServeMux(), carts: map[string]*fakeCart{}}
	f.routes.HandleFunc("POST /v1/carts", f.create)
	f.routes.HandleFunc("GET /v1/carts/{id}", f.command(func(*fakeCart, *json.Decoder) (func(), error) { return func() {}, nil }))
	f.routes.HandleFunc("POST /v1/carts/{id}/line-items", f.command(add))
	f.routes.HandleFunc("POST /v1/carts/{id}/operations", f.command(operations))
	return f
}

// startFake serves a fake until the test ends.
func startFake(t testing.TB) (*fakeCartd, string) {
	f := newFake()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, s.URL
}

func (f *fakeCartd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	if f.intercept == nil || !f.intercept(w, r) {
		f.routes.ServeHTTP(w, r)
	}
}

func (f *fakeCartd) create(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.carts) + 1
	c := &fakeCart{id: fmt.Sprintf("cart-%d", n), token: fmt.Sprintf("token-%d", n), keys: map[string]bool{}}
	f.carts[c.id] = c
	cart := c.api()
	w.Header().Set("Cart-Context", c.context())
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(api.CreatedCart{
		ID: cart.ID, Currency: cart.Currency, LineItems: cart.LineItems, Token: c.token,
	})
}

// command makes a handler of what decodes a command and returns its execution.
func (f *fakeCartd) command(decode func(*fakeCart, *json.Decoder) (func(), error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		c := f.carts[r.PathValue("id")]
		if c == nil || c.token != r.Header.Get("Cart-Token") {
			problem(w, http.StatusNotFound, "cart-not-found")
			return
		}
		command, err := decode(c, json.NewDecoder(r.Body))
		if err != nil {
			problem(w, http.StatusBadRequest, "malformed-request")
			return
		}
		key := r.Header.Get("Idempotency-Key")
		switch {
		case r.Method == http.MethodGet:
		case f.execute != nil:
			f.execute(f, c, key, command)
		case c.keys[key]:
			w.Header().Set("Idempotent-Replayed", "true")
		default:
			command()
		}
		c.keys[key] = true
		c.version++
		cart := c.api()
		if f.show != nil {
			f.show(cart)
		}
		w.Header().Set("Cart-Context", c.context())
		_ = json.NewEncoder(w).Encode(cart)
	}
}

func add(c *fakeCart, body *json.Decoder) (func(), error) {
	var item api.LineItemAdd
	if err := body.Decode(&item); err != nil {
		return nil, err
	}
	return func() {
		l := c.line(item.SKU)
		if l == nil {
			l = &fakeLine{sku: item.SKU}
			c.lines = append(c.lines, l)
		}
		l.quantity += *item.Quantity
		l.price = item.UnitPrice
		if item.Title != nil {
			l.title = item.Title
		}
	}, nil
}

func operations(c *fakeCart, body *json.Decoder) (func(), error) {
	var batch api.OperationBatch
	if err := body.Decode(&batch); err != nil {
		return nil, err
	}
	return func() {
		for _, o := range batch.Operations {
			if l := c.line(*o.SKU); l != nil && o.Type == api.OperationTypeDecrement {
				l.quantity = max(0, l.quantity-*o.Quantity)
			}
		}
	}, nil
}

func (c *fakeCart) line(sku string) *fakeLine {
	i := slices.IndexFunc(c.lines, func(l *fakeLine) bool { return l.sku == sku })
	if i < 0 {
		return nil
	}
	return c.lines[i]
}

func (c *fakeCart) context() string { return fmt.Sprintf("%s@%d", c.id, c.version) }

func (c *fakeCart) api() *api.Cart {
	cart := &api.Cart{ID: c.id, Currency: currency, LineItems: []api.LineItem{}, Subtotal: api.Money{Currency: currency}}
	for _, l := range c.lines {
		if l.quantity == 0 {
			continue
		}
		subtotal := api.Money{Amount: int64(l.quantity) * l.price.Amount, Currency: currency}
		cart.LineItems = append(cart.LineItems, api.LineItem{
			SKU: l.sku, Quantity: l.quantity, Title: l.title, UnitPrice: l.price, Subtotal: &subtotal,
		})
		cart.TotalQuantity += int64(l.quantity)
		cart.Subtotal.Amount += subtotal.Amount
	}
	return cart
}

func problem(w http.ResponseWriter, status int, name string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{
		Type: "/problems/" + name, Title: name, Status: status, Detail: "the fake says so",
	})
}
