package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strings"
	"syscall"
	"time"

	"cartd/api"
)

// maxAnswer caps what is read of an answer, in bytes: a cart of maxCartWrites writes stays far below.
const maxAnswer = 4 << 20

// request is what a client wants, whatever the number of attempts.
type request struct {
	operation          uint64
	kind               string
	method, path, body string
	cart               *cart  // nil for its creation
	number             int    // of the cart
	context            string // Cart-Context, or empty
	durability         string // Cart-Durability, or empty
}

// answer is what an attempt got.
type answer struct {
	Attempt
	happened bool     // whether the attempt may have had an effect
	nothing  bool     // the line that was to be removed is not there, which settles the operation
	cart     api.Cart // of an answer that is OK, unless nothing
	token    string   // of a cart that was created
	context  string
	etag     string
	body     []byte
	replayed bool
}

// during is when what the answer shows was the case.
func (a *answer) during() span { return span{a.Began, a.Began.Add(a.Took)} }

// Words for attempts that got no answer.
const (
	refusedConnection = "connection refused"
	noConnection      = "no connection"
	noAnswer          = "no answer"
	timedOut          = "timeout"
)

// newHTTPClient returns the HTTP client of a run. It keeps connections as a load balancer does.
func newHTTPClient(o Options) *http.Client {
	dial := o.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: max(o.Clients, auditors), DisableCompression: true},
		// A redirect that is followed would be another request.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// send sends a request once.
func (r *Run) send(ctx context.Context, q request, client, node int) answer {
	a := answer{Attempt: Attempt{
		Client: client, Cart: q.number, Node: node, Operation: q.operation, Kind: q.kind, Began: time.Now(),
	}}
	if client >= 0 {
		a.Region = r.options.Nodes[r.home(client)[0]].Region
	}
	a.exchange(ctx, r.http, r.options.Nodes[node].API()+q.path, q, r.options.Timeout)
	a.Took = time.Since(a.Began)
	return a
}

func (a *answer) exchange(ctx context.Context, client *http.Client, url string, q request, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { a.Connected = true },
	})
	// A body that net/http cannot rewind, even an empty one: it would send the request a second time, unseen,
	// where a connection that it had kept turns out to be closed.
	r, err := http.NewRequestWithContext(ctx, q.method, url, io.NopCloser(strings.NewReader(q.body)))
	if err != nil {
		a.wrong("%v", err)
		return
	}
	r.ContentLength = int64(len(q.body))
	for name, value := range map[string]string{"Cart-Context": q.context, "Cart-Durability": q.durability} {
		if value != "" {
			r.Header.Set(name, value)
		}
	}
	if q.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if q.cart != nil {
		r.Header.Set("Cart-Token", q.cart.token)
	}
	if q.method != http.MethodGet {
		r.Header.Set("Idempotency-Key", fmt.Sprint("operation-", q.operation))
	}
	response, err := client.Do(r)
	if err != nil {
		a.unanswered(err)
		return
	}
	defer response.Body.Close()
	a.body, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		a.unanswered(err)
	case len(a.body) > maxAnswer:
		a.wrong("more than %d bytes", maxAnswer)
	default:
		a.judge(q, response)
	}
}

// unanswered judges an attempt that got no answer, or only a part of one.
func (a *answer) unanswered(err error) {
	a.Outcome, a.happened = Unknown, a.Connected
	var network net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		a.Problem = refusedConnection
	case errors.As(err, &network) && network.Timeout():
		a.Problem = timedOut
	case !a.Connected:
		a.Problem = noConnection
	default:
		a.Problem = noAnswer
	}
}

func (a *answer) wrong(format string, args ...any) {
	a.Outcome, a.happened, a.Problem = Wrong, true, fmt.Sprintf(format, args...)
}

// judge judges an answer that arrived whole.
func (a *answer) judge(q request, response *http.Response) {
	h := response.Header
	want := http.StatusOK
	if q.kind == "create" {
		want = http.StatusCreated
	}
	if response.StatusCode == want {
		a.context, a.etag, a.Durability = h.Get("Cart-Context"), h.Get("ETag"), h.Get("Cart-Durability")
		a.replayed = h.Get("Idempotent-Replayed") == "true"
		a.decode(q)
		return
	}
	var p api.Problem
	if err := json.Unmarshal(a.body, &p); err != nil || !strings.HasPrefix(p.Type, "/problems/") || p.Status != response.StatusCode {
		a.wrong("%d %.200s", response.StatusCode, a.body)
		return
	}
	name := strings.TrimPrefix(p.Type, "/problems/")
	later := h.Get("Retry-After") != ""
	switch {
	case later && response.StatusCode == http.StatusServiceUnavailable:
		a.Outcome, a.Problem = Refused, name
		a.happened = name != contextUnavailable && name != "cart-unavailable"
	case later && response.StatusCode == http.StatusTooManyRequests:
		a.Outcome, a.Problem = Refused, name
	case name == lineNotFound && q.kind == remove:
		a.nothing, a.Problem = true, name
	case name == cartNotFound && q.context == "":
		a.Outcome, a.Problem = Refused, name // this node has not heard of it
	default:
		a.wrong("%d %.200s", response.StatusCode, a.body)
	}
}

// Problems that clients can do something about.
const (
	contextUnavailable = "context-unavailable"
	cartNotFound       = "cart-not-found"
	lineNotFound       = "line-item-not-found"
)

// held is what Cart-Durability says: one node alone never acknowledges.
var held = regexp.MustCompile(`^(database|peers=([2-9]|[1-9][0-9]+))$`)

// decode reads a cart, and checks what holds for any.
func (a *answer) decode(q request) {
	var err error
	switch {
	case q.kind == "create":
		var z api.CreatedCart
		if err = json.Unmarshal(a.body, &z); err == nil {
			a.cart.ID, a.token = z.ID, z.Token
			a.cart.LineItems, a.cart.TotalQuantity = z.LineItems, z.TotalQuantity
		}
	case strings.HasSuffix(q.path, "/operations"):
		var z api.OperationResults
		err = json.Unmarshal(a.body, &z)
		a.cart = z.Cart
	default:
		err = json.Unmarshal(a.body, &a.cart)
	}
	if err != nil {
		a.wrong("%v in %.200s", err, a.body)
		return
	}
	var total int64
	units := make(map[string]int, len(a.cart.LineItems))
	for _, l := range a.cart.LineItems {
		if l.Quantity < 1 || units[l.SKU] > 0 {
			a.wrong("a line of %d units of %s, and another one of %d", l.Quantity, l.SKU, units[l.SKU])
			return
		}
		units[l.SKU] = l.Quantity
		total += int64(l.Quantity)
	}
	switch {
	case a.cart.ID == "" || q.cart != nil && a.cart.ID != q.cart.id:
		a.wrong("it shows cart %q", a.cart.ID)
	case a.cart.TotalQuantity != total:
		a.wrong("a total of %d units in %.200s", a.cart.TotalQuantity, a.body)
	case a.context == "" || a.etag == "":
		a.wrong("no Cart-Context or no ETag")
	case q.method != http.MethodGet && !held.MatchString(a.Durability):
		a.wrong("Cart-Durability is %q", a.Durability)
	case q.durability != "" && a.Durability != q.durability:
		a.wrong("Cart-Durability is %q, and %q was asked for", a.Durability, q.durability)
	}
}
