package workload

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cartd/api"
)

// fakeRegion is nodes that show the same carts at once. It executes a command once for each Idempotency-Key, knows
// what a Cart-Context has seen, and does wrong what a test asks it to.
type fakeRegion struct {
	t     testing.TB
	nodes []*fakeNode

	// fault, if set, is what goes wrong with a request besides; it runs under the lock.
	fault func(q *http.Request) fault
	// twice, if set, makes it forget that it has executed a command.
	twice func() bool
	// after, if set, is called after each command on a cart, with the answer made: what it does comes after that.
	after func(c *fakeCart)
	// show, if set, may change what a node shows.
	show func(node int, c *fakeCart, z *api.Cart)
	// respond, if set, may answer instead; it reports whether it has.
	respond func(node int, w http.ResponseWriter, q *http.Request) bool

	mu      sync.Mutex
	carts   map[string]*fakeCart
	created int
}

type fakeNode struct {
	*httptest.Server
	unready  atomic.Bool
	polls    atomic.Int64
	requests atomic.Int64 // but polls
}

// fault is what goes wrong with a request.
type fault int

const (
	none        fault = iota
	lost              // the request does not arrive
	cut               // it is executed, and the answer does not arrive
	notDurable        // it is executed, and refused
	unavailable       // it is refused
	late              // it is executed after some others, if nobody has repeated it, and the answer does not arrive
)

type fakeCart struct {
	id       string
	version  int
	lines    map[string]int
	keys     map[string]bool
	versions []map[string]int // what it showed, by version
	contexts []string         // by version; none is used again
	late     []func()         // commands that are on their way
}

func newFakeRegion(t testing.TB, nodes int) *fakeRegion {
	f := &fakeRegion{t: t, carts: make(map[string]*fakeCart)}
	for i := range nodes {
		n := new(fakeNode)
		n.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { f.serve(i, w, q) }))
		t.Cleanup(n.Close)
		f.nodes = append(f.nodes, n)
	}
	return f
}

// options are those of a run that is short and dense.
func (f *fakeRegion) options(seed uint64) Options {
	o := Options{Carts: 12, Clients: 6, CartWrites: 80, Seed: seed}
	for i, n := range f.nodes {
		o.Nodes = append(o.Nodes, Node{Name: fmt.Sprint("node-", i), API: func() string { return n.URL }})
	}
	return o
}

// randomFaults lets one in ten requests fail somehow.
func randomFaults(seed uint64) func(*http.Request) fault {
	random := rand.New(rand.NewPCG(seed, 0))
	return func(*http.Request) fault { return fault(max(0, random.IntN(40)-34)) }
}

func (f *fakeRegion) serve(node int, w http.ResponseWriter, q *http.Request) {
	n := f.nodes[node]
	if q.URL.Path == "/readyz" {
		n.polls.Add(1)
		if n.unready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	n.requests.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.respond != nil && f.respond(node, w, q) {
		return
	}
	var z fault
	if f.fault != nil {
		z = f.fault(q)
	}
	answer := w
	switch z {
	case lost:
		panic(http.ErrAbortHandler)
	case unavailable:
		fakeProblem(w, http.StatusServiceUnavailable, "cart-unavailable")
		return
	case cut, notDurable:
		answer = httptest.NewRecorder()
	case late:
		f.delay(q)
		panic(http.ErrAbortHandler)
	}
	f.answer(node, answer, q)
	switch z {
	case cut:
		panic(http.ErrAbortHandler)
	case notDurable:
		fakeProblem(w, http.StatusServiceUnavailable, "not-durable")
	}
}

// delay executes a command on a cart after the next twenty. What it removes then is what was there now.
func (f *fakeRegion) delay(q *http.Request) {
	id, what, _ := strings.Cut(strings.TrimPrefix(q.URL.Path, "/v1/carts/"), "/")
	c := f.carts[id]
	if c == nil || q.Method == http.MethodGet {
		return
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	key, before, left := q.Header.Get("Idempotency-Key"), maps.Clone(c.lines), 20
	var command func()
	command = func() {
		if left--; left > 0 {
			c.late = append(c.late, command)
			return
		}
		now := maps.Clone(c.lines)
		if c.keys[key] || !c.execute(q.Method, what, body) {
			return
		}
		c.keys[key] = true
		for sku, n := range now {
			if c.lines[sku] == 0 && before[sku] != n {
				c.lines[sku] = n
			}
		}
	}
	c.late = append(c.late, command)
}

func (f *fakeRegion) answer(node int, w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/v1/carts" {
		id := fmt.Sprintf("cart-%d", f.created)
		f.created++
		c := &fakeCart{id: id, lines: map[string]int{}, keys: map[string]bool{}, versions: []map[string]int{{}}, contexts: []string{newContext(id)}}
		f.carts[id] = c
		c.headers(w)
		w.Header().Set("Cart-Durability", heldBy(q))
		w.WriteHeader(http.StatusCreated)
		fakeJSON(w, api.CreatedCart{ID: id, Token: "token of " + id})
		return
	}
	parts := strings.SplitN(strings.TrimPrefix(q.URL.Path, "/v1/carts/"), "/", 2)
	c := f.carts[parts[0]]
	context := q.Header.Get("Cart-Context")
	switch {
	case context != "" && !strings.HasPrefix(context, parts[0]+"@"):
		fakeProblem(w, http.StatusBadRequest, "malformed-request")
		return
	case context != "" && (c == nil || !slices.Contains(c.contexts, context)):
		fakeProblem(w, http.StatusServiceUnavailable, "context-unavailable")
		return
	case c == nil || q.Header.Get("Cart-Token") != "token of "+c.id:
		fakeProblem(w, http.StatusNotFound, "cart-not-found")
		return
	}
	if q.Method == http.MethodGet {
		c.headers(w)
		fakeJSON(w, f.cart(node, c))
		return
	}
	key := q.Header.Get("Idempotency-Key")
	batch := len(parts) > 1 && parts[1] == "operations"
	if c.keys[key] && (f.twice == nil || !f.twice()) {
		w.Header().Set("Idempotent-Replayed", "true")
	} else {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if !c.execute(q.Method, parts[1], body) {
			fakeProblem(w, http.StatusNotFound, "line-item-not-found")
			return
		}
		c.keys[key] = true
		c.commit()
	}
	c.headers(w)
	w.Header().Set("Cart-Durability", heldBy(q))
	if z := f.cart(node, c); batch {
		fakeJSON(w, api.OperationResults{Cart: z})
	} else {
		fakeJSON(w, z)
	}
	if f.after != nil {
		f.after(c)
	}
}

func heldBy(q *http.Request) string {
	if q.Header.Get("Cart-Durability") != "" {
		return "database"
	}
	return "peers=2"
}

// execute executes a command, and reports whether the line was there that it needs.
func (c *fakeCart) execute(method, what string, body []byte) bool {
	var item api.LineItemAdd
	var batch api.OperationBatch
	switch {
	case method == http.MethodPost && what == "line-items" && json.Unmarshal(body, &item) == nil:
		c.lines[item.SKU] += *item.Quantity
	case method == http.MethodPost && what == "operations" && json.Unmarshal(body, &batch) == nil:
		for _, o := range batch.Operations {
			switch o.Type {
			case api.OperationTypeAdd:
				c.lines[*o.SKU] += *o.Quantity
			case api.OperationTypeSet:
				c.lines[*o.SKU] = *o.Quantity
			case api.OperationTypeRemove:
				delete(c.lines, *o.SKU)
			}
		}
	case method == http.MethodDelete && what == "line-items":
		clear(c.lines)
	case method == http.MethodDelete:
		sku := strings.TrimPrefix(what, "line-items/id of ")
		if c.lines[sku] == 0 {
			return false
		}
		delete(c.lines, sku)
	default:
		panic(http.ErrAbortHandler)
	}
	return true
}

// commit makes the lines the next version.
func (c *fakeCart) commit() {
	c.version++
	c.versions = append(c.versions, maps.Clone(c.lines))
	c.contexts = append(c.contexts, newContext(c.id))
	if due := c.late; len(due) > 0 {
		c.late = nil
		for _, command := range due {
			command()
		}
	}
}

// lose makes the cart what it was some versions ago.
func (c *fakeCart) lose(versions int) {
	c.version = max(0, c.version-versions)
	c.versions, c.contexts = c.versions[:c.version+1], c.contexts[:c.version+1]
	c.lines = maps.Clone(c.versions[c.version])
}

func newContext(id string) string { return fmt.Sprintf("%s@%x", id, rand.Uint64()) }

func (c *fakeCart) headers(w http.ResponseWriter) {
	w.Header().Set("Cart-Context", c.contexts[c.version])
	w.Header().Set("ETag", fmt.Sprintf("%q", c.contexts[c.version]))
}

func (f *fakeRegion) cart(node int, c *fakeCart) api.Cart {
	z := fakeLines(c.id, c.lines)
	if f.show != nil {
		f.show(node, c, &z)
	}
	return z
}

func fakeLines(id string, lines map[string]int) api.Cart {
	z := api.Cart{ID: id, LineItems: []api.LineItem{}}
	for sku, n := range lines {
		if n > 0 {
			z.LineItems = append(z.LineItems, api.LineItem{ID: "id of " + sku, SKU: sku, Quantity: n})
			z.TotalQuantity += int64(n)
		}
	}
	slices.SortFunc(z.LineItems, func(a, b api.LineItem) int { return strings.Compare(a.SKU, b.SKU) })
	return z
}

func fakeProblem(w http.ResponseWriter, status int, name string) {
	w.Header().Set("Content-Type", "application/problem+json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
	fakeJSON(w, api.Problem{Type: "/problems/" + name, Status: status})
}

func fakeJSON(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the client has gone, and there is nobody else to tell
}
