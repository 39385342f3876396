package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"cartd/api"
)

const (
	// maxAnswer caps what is read of one answer, in bytes: a cart of 1,000 lines stays far below.
	maxAnswer = 8 << 20
	// maxContextRefusals is how often in a row a request is refused for its Cart-Context before it
	// goes without.
	maxContextRefusals = 3
)

// kind is what latencies are told apart by.
type kind int

const (
	kindCreate kind = iota
	kindAdd
	kindDecrement
	kindRead
	kinds
)

var kindNames = [kinds]string{"create", "add", "decrement", "read"}

func (k kind) String() string { return kindNames[k] }

// client sends requests to cartd, each until it is acknowledged or refused or its time is up, and
// counts what happened on the way. It may be used by any number of goroutines.
type client struct {
	http     *http.Client
	targets  []string      // base URLs without a slash at the end
	timeout  time.Duration // of one attempt
	retryFor time.Duration // of one request, from its first attempt to the start of its last one
	backoff  backoff
	context  bool       // echo Cart-Context
	ready    *readiness // which targets are; or nil, and all are taken for it
	stats    *stats

	hops    atomic.Uint64
	answers atomic.Int64 // of any status
}

func newClient(transport http.RoundTripper, targets []string, timeout, retryFor time.Duration, echo bool) *client {
	return &client{
		http: &http.Client{
			Transport: transport,
			// A redirect followed would turn a POST into a GET.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		targets:  targets,
		timeout:  timeout,
		retryFor: retryFor,
		backoff:  backoff{first: 25 * time.Millisecond, longest: 2 * time.Second},
		context:  echo,
		stats:    newStats(),
	}
}

// newTransport returns a transport that keeps a connection to each target for each worker.
func newTransport(workers int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns = 0 // no limit over all hosts
	t.MaxIdleConnsPerHost = workers
	t.DisableCompression = true // what is measured is cartd
	return t
}

// backoff spaces the attempts of a request: the delay doubles from first to longest, and half of it
// is drawn, so that clients that failed together do not come back together.
type backoff struct{ first, longest time.Duration }

func (b backoff) delay(attempt int) time.Duration {
	d := b.longest
	if attempt < 32 && b.first<<attempt < b.longest {
		d = b.first << attempt
	}
	return d/2 + rand.N(d/2+1)
}

// refusal is an answer that no retry would change.
type refusal struct {
	kind    kind
	problem string // the name of the problem type, or "status 418" where the answer is no problem
	detail  string
}

func (e *refusal) Error() string {
	s := fmt.Sprintf("%s refused: %s", e.kind, e.problem)
	if e.detail != "" {
		s += ": " + e.detail
	}
	return s
}

// unacknowledged is the end of a request's time. Whether it took effect is unknown.
type unacknowledged struct {
	kind     kind
	attempts int
	last     string // why the last attempt was not the last word
}

func (e *unacknowledged) Error() string {
	return fmt.Sprintf("%s not acknowledged after %d attempts: %s", e.kind, e.attempts, e.last)
}

// errNoAnswer ends a run: while a request was retried nobody was answered, not even by an error, so
// going on would take that long for each cart.
var errNoAnswer = errors.New("no target answers")

// request is one command or read, whatever the number of attempts.
type request struct {
	kind   kind
	method string
	path   string
	body   any    // to be sent as JSON, or nil
	key    string // Idempotency-Key, or empty
	target string // base URL, or empty to hop between those of the cart
	answer any    // what to decode an answer into, or nil
}

// cartHandle is a cart that was created: what is needed to send it commands. One goroutine uses it
// at a time.
type cartHandle struct {
	client  *client
	targets []string // that its requests hop between
	id      string
	token   string
	context string // the last Cart-Context
}

// create creates a cart at one of the targets, to which its requests will go, too. A retry makes another
// one, so an attempt that may have made one and whose answer never came leaves an abandoned cart.
func (c *client) create(ctx context.Context, targets []string) (*cartHandle, error) {
	h := &cartHandle{client: c, targets: targets}
	var created api.CreatedCart
	err := c.do(ctx, h, request{
		kind:   kindCreate,
		method: http.MethodPost,
		path:   "/v1/carts",
		body:   api.CartCreate{Currency: currency},
		answer: &created,
	})
	if err != nil {
		return nil, err
	}
	if created.ID == "" || created.Token == "" {
		return nil, &refusal{kind: kindCreate, problem: "malformed answer", detail: "no id or no token"}
	}
	h.id, h.token = created.ID, created.Token
	return h, nil
}

func (h *cartHandle) path() string { return "/v1/carts/" + url.PathEscape(h.id) }

// add adds to a line.
func (h *cartHandle) add(ctx context.Context, key string, item api.LineItemAdd) error {
	return h.client.do(ctx, h, request{
		kind:   kindAdd,
		method: http.MethodPost,
		path:   h.path() + "/line-items",
		body:   item,
		key:    key,
	})
}

// decrement takes units off a line, and nothing off one that is not there.
func (h *cartHandle) decrement(ctx context.Context, key, sku string, units int) error {
	return h.client.do(ctx, h, request{
		kind:   kindDecrement,
		method: http.MethodPost,
		path:   h.path() + "/operations",
		body: api.OperationBatch{Operations: []api.Operation{{
			Type:     api.OperationTypeDecrement,
			SKU:      &sku,
			Quantity: &units,
		}}},
		key: key,
	})
}

// read reads the cart from one target.
func (h *cartHandle) read(ctx context.Context, target string) (*api.Cart, error) {
	var cart api.Cart
	r := h.reading(&cart)
	r.target = target
	err := h.client.do(ctx, h, r)
	return &cart, err
}

// glance reads the cart from one target, once and without Cart-Context, and counts nothing. It returns nil
// where the answer is no cart.
func (h *cartHandle) glance(ctx context.Context, target string) *api.Cart {
	var cart api.Cart
	a := h.client.attempt(ctx, h, h.reading(&cart), target, "", nil)
	if !a.settled() || a.refused != nil {
		return nil
	}
	return &cart
}

func (h *cartHandle) reading(into *api.Cart) request {
	return request{kind: kindRead, method: http.MethodGet, path: h.path(), answer: into}
}

// do sends a request until it is acknowledged, which is nil, or refused, or retryFor is over, or ctx
// is done. What is recorded as latency is the time from the first attempt to the acknowledgement.
func (c *client) do(ctx context.Context, h *cartHandle, r request) error {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return err
		}
	}
	echo, contextRefusals := h.context, 0
	answers := c.answers.Load()
	started := time.Now()
	for attempt := 1; ; attempt++ {
		targets := h.targets
		if r.target != "" {
			targets = []string{r.target}
		}
		target := c.target(ctx, targets, c.retryFor-time.Since(started))
		a := c.attempt(ctx, h, r, target, echo, body)
		if ctx.Err() != nil && !a.settled() {
			return context.Cause(ctx)
		}
		if a.settled() {
			if a.refused != nil {
				c.stats.refuse(a.refused.problem)
				return a.refused
			}
			c.stats.acknowledge(r.kind, time.Since(started), a.replayed)
			if c.context {
				h.context = a.context
			}
			return nil
		}

		if r.kind == kindCreate && a.mayHaveHappened {
			c.stats.abandonedCarts.Add(1)
		}
		if a.again == contextUnavailable && echo != "" {
			if contextRefusals++; contextRefusals == maxContextRefusals {
				echo = ""
				c.stats.droppedContexts.Add(1)
			}
		}
		left := c.retryFor - time.Since(started)
		if left <= 0 || a.retryAfter > left {
			c.stats.unacknowledged.Add(1)
			err := &unacknowledged{kind: r.kind, attempts: attempt, last: a.again + ": " + a.detail}
			if c.answers.Load() == answers {
				return fmt.Errorf("%w: %w", errNoAnswer, err)
			}
			return err
		}
		c.stats.retry(a.again)
		if err := sleep(ctx, min(left, max(c.backoff.delay(attempt-1), a.retryAfter))); err != nil {
			return err
		}
	}
}

// target returns where an attempt goes: to the next one of the targets. It waits until that is ready, as long as the
// request has time.
func (c *client) target(ctx context.Context, targets []string, patience time.Duration) string {
	if c.ready != nil {
		targets = c.ready.among(ctx, targets, patience)
	}
	if len(targets) == 1 {
		return targets[0]
	}
	return targets[(c.hops.Add(1)-1)%uint64(len(targets))]
}

const contextUnavailable = "503 context-unavailable"

// outcome is what became of one attempt.
type outcome struct {
	refused *refusal // final
	again   string   // why it is worth another attempt, in few words, or empty
	detail  string   // with again, in more words

	retryAfter      time.Duration // what the server asked for
	mayHaveHappened bool          // with again: the server may have executed it
	context         string
	replayed        bool
}

// settled reports whether the request was acknowledged or refused.
func (o outcome) settled() bool { return o.again == "" }

// attempt sends the request once. An answer that did not arrive whole is none.
func (c *client) attempt(ctx context.Context, h *cartHandle, r request, target, echo string, body []byte) outcome {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, target+r.path, bytes.NewReader(body))
	if err != nil {
		return outcome{refused: &refusal{kind: r.kind, problem: "malformed request", detail: err.Error()}}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	set := func(name, value string) {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	set("Cart-Token", h.token)
	set("Cart-Context", echo)
	set("Idempotency-Key", r.key)

	resp, err := c.http.Do(req)
	if err != nil {
		return failed(err)
	}
	c.answers.Add(1)
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return judge(r.kind, resp)
	}
	limited := &io.LimitedReader{R: resp.Body, N: maxAnswer + 1}
	var answer []byte
	if r.answer != nil {
		answer, err = io.ReadAll(limited)
	} else {
		_, err = io.Copy(io.Discard, limited) // acknowledged is what arrived whole
	}
	switch {
	case err != nil:
		return failed(err)
	case limited.N == 0:
		return outcome{refused: &refusal{kind: r.kind, problem: "malformed answer", detail: fmt.Sprintf("longer than %d bytes", maxAnswer)}}
	case r.answer != nil:
		if err := json.Unmarshal(answer, r.answer); err != nil {
			return outcome{refused: &refusal{kind: r.kind, problem: "malformed answer", detail: err.Error()}}
		}
	}
	return outcome{
		context:  resp.Header.Get("Cart-Context"),
		replayed: resp.Header.Get("Idempotent-Replayed") == "true",
	}
}

// failed judges an attempt that got no answer, or only a part of one.
func failed(err error) outcome {
	o := outcome{again: "connection", detail: err.Error(), mayHaveHappened: true}
	var network net.Error
	if errors.As(err, &network) && network.Timeout() {
		o.again = "timeout"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		o.mayHaveHappened = false
	}
	return o
}

// judge judges an answer that is not 2xx.
func judge(k kind, resp *http.Response) outcome {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return failed(err)
	}
	status, name, detail := strconv.Itoa(resp.StatusCode), "", ""
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "application/problem+json" {
		var p api.Problem
		if json.Unmarshal(body, &p) == nil && p.Type != "" {
			name, detail = strings.TrimPrefix(p.Type, "/problems/"), p.Detail
		}
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 || name == "idempotency-in-progress" {
		return outcome{
			again:           strings.TrimSpace(status + " " + name),
			detail:          detail,
			retryAfter:      retryAfter(resp.Header.Get("Retry-After")),
			mayHaveHappened: resp.StatusCode != http.StatusTooManyRequests,
		}
	}
	if name == "" {
		name = "status " + status
	}
	return outcome{refused: &refusal{kind: k, problem: name, detail: detail}}
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// sleep waits for d, or for the end of ctx, whose cause it returns then.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stats is what clients count. It may be used by any number of goroutines.
type stats struct {
	operations      atomic.Int64 // acknowledged adds and decrements
	replayed        atomic.Int64 // acknowledged as executed by an earlier attempt
	unacknowledged  atomic.Int64
	abandonedCarts  atomic.Int64
	droppedContexts atomic.Int64

	mu       sync.Mutex // guards what follows
	latency  [kinds]*hdrhistogram.Histogram
	retries  map[string]int64 // by reason
	refusals map[string]int64 // by problem
}

// Latencies are kept in microseconds, with three digits.
const longestLatency = int64(time.Hour / time.Microsecond)

func newStats() *stats {
	s := &stats{retries: map[string]int64{}, refusals: map[string]int64{}}
	for k := range s.latency {
		s.latency[k] = hdrhistogram.New(1, longestLatency, 3)
	}
	return s
}

func (s *stats) acknowledge(k kind, took time.Duration, replayed bool) {
	if k == kindAdd || k == kindDecrement {
		s.operations.Add(1)
	}
	if replayed {
		s.replayed.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Within bounds, so it cannot fail.
	_ = s.latency[k].RecordValue(min(max(1, took.Microseconds()), longestLatency))
}

func (s *stats) retry(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retries[reason]++
}

func (s *stats) refuse(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals[problem]++
}
