package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"

	"cartd/cart"
)

// owners are a Forwarder that has these tried, whatever the cart.
type owners []http.RoundTripper

func (o owners) Forward(_ cart.ID, try func(http.RoundTripper) bool) (here bool) {
	for _, owner := range o {
		if try(owner) {
			return false
		}
	}
	return true
}

// roundTrip is a RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// ownerOf answers by a handler, which sees a request as it comes over a connection.
type ownerOf struct {
	http.Handler
	seen []*http.Request
}

func (o *ownerOf) RoundTrip(out *http.Request) (*http.Response, error) {
	out.URL.Host = "owner"
	var wire bytes.Buffer
	if err := out.Write(&wire); err != nil {
		return nil, err
	}
	r, err := http.ReadRequest(bufio.NewReader(&wire))
	if err != nil {
		return nil, err
	}
	o.seen = append(o.seen, r)
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w.Result(), nil
}

var errAway = errors.New("connection refused")

// away is an owner that is not there.
var away = roundTrip(func(*http.Request) (*http.Response, error) { return nil, errAway })

// hangs is an owner that takes requests and answers none.
var hangs = roundTrip(func(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
})

// mute does what a request says, and is gone before it answers.
func mute(owner http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		response, err := owner.RoundTrip(r)
		if err == nil {
			response.Body.Close()
		}
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	})
}

// through returns a handler that passes everything on to owners.
func through(s *shop, o ...http.RoundTripper) *shop {
	other := *s
	other.handler = New(Options{Service: s.service, Forwarder: owners(o), Timeout: 400 * time.Millisecond})
	return &other
}

// A node that passes requests on answers as the owner does.
func TestRelayedAnswers(t *testing.T) {
	owner := open(t)
	other := through(open(t), &ownerOf{Handler: owner.handler})
	c := owner.create(`{"currency":"EUR","line_items":[{"sku":"A"}]}`)
	both := func(method, path, body string, headers ...string) {
		t.Helper()
		headers = append(headers, "Cart-Token", c.token, "X-Request-Id", "the-client's")
		direct, relayed := owner.do(method, path, body, headers...), other.do(method, path, body, headers...)
		if direct.status != relayed.status || !bytes.Equal(direct.body, relayed.body) || fmt.Sprint(direct.header) != fmt.Sprint(relayed.header) {
			t.Errorf("%s %s: %d %v %s, not %d %v %s", method, path, relayed.status, relayed.header, relayed.body, direct.status, direct.header, direct.body)
		}
	}
	tag := owner.do("GET", c.path, "", "Cart-Token", c.token).want(http.StatusOK).header.Get("ETag")
	for _, method := range []string{"GET", "HEAD"} {
		both(method, c.path, "")
		both(method, c.path, "", "If-None-Match", tag)
	}
	if a := other.do("GET", c.path, ""); a.status != http.StatusNotFound {
		t.Errorf("without a token: %d", a.status)
	}
	for _, refused := range [][3]string{
		{"POST", c.path + "/line-items", `{"sku":""}`},
		{"POST", c.path + "/line-items", `{`},
		{"POST", c.path + "/operations", `{"operations":[]}`},
		{"PATCH", c.path, ``},
		{"PUT", c.path + "/line-items", ``},
		{"GET", c.path + "/nothing", ``},
		{"GET", "/v1/carts/short", ``},
		{"POST", "/v1/carts/" + strings.Repeat("x", 23) + "/line-items", `{"sku":"A"}`},
		{"PATCH", c.path + "/line-items/none", `{"quantity":1}`},
	} {
		both(refused[0], refused[1], refused[2])
	}
	both("PATCH", c.path, `{"note":"x"}`, "If-Match", `"AAAAAAAAAAA"`)
	both("POST", c.path+"/line-items", `{"sku":"A"}`, "Cart-Durability", "none")
	both("POST", c.path+"/line-items", `{"sku":"A"}`, "Idempotency-Key", "")

	for _, w := range writes(c.LineItems[0].ID) {
		a := other.do(w[0], c.path+w[1], w[2], "Cart-Token", c.token)
		if a.status >= 500 || a.header.Get("Cart-Durability") == "" && a.status < 300 {
			t.Errorf("%s %s: %d %v %s", w[0], w[1], a.status, a.header, a.body)
		}
	}
	if a := owner.do("GET", c.path, "", "Cart-Token", c.token); a.status != http.StatusNotFound {
		t.Errorf("it was to be erased: %d %s", a.status, a.body)
	}
	if a := other.do("POST", "/v1/carts", `{"currency":"EUR"}`).want(http.StatusCreated); owner.do("GET", "/v1/carts/"+a.cart().ID, "").status != http.StatusNotFound {
		t.Error("a cart was not created where it was asked for")
	}
}

// What an owner gets is what the client sent, but for what is about the connection, and with a key.
func TestRelayedRequests(t *testing.T) {
	owner := &ownerOf{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close, Cart-Hop")
		w.Header().Set("Cart-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Idempotent-Replayed", "true")
		w.Header().Set("X-Request-Id", r.Header.Get("X-Request-Id"))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.Copy(w, r.Body)
	})}
	handler := New(Options{Forwarder: owners{away, owner}})
	const path = "/v1/carts/AAAAAAAAAAAAAAAAAAAAAA"
	do := func(method, path, body string, header http.Header) (*http.Request, *httptest.ResponseRecorder) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header = header
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusTeapot {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		if got := w.Header(); got["Connection"] != nil || got["Cart-Hop"] != nil || got["Keep-Alive"] != nil || got.Get("X-Request-Id") == "" {
			t.Errorf("%v", got)
		}
		seen := owner.seen[len(owner.seen)-1]
		if seen.Method != method || seen.RequestURI != path || seen.Header.Get("X-Request-Id") != w.Header().Get("X-Request-Id") {
			t.Errorf("%s %s %v", seen.Method, seen.RequestURI, seen.Header)
		}
		return seen, w
	}
	seen, w := do("POST", path+"/line-items?a=%20b", `{"sku":"A"}`, http.Header{
		"Content-Type": {"application/json"}, "Cart-Token": {"t"}, "Cart-Context": {"c"}, "If-Match": {"a", "b"}, "X-Request-Id": {"the-client's"},
		"Connection": {"keep-alive, Private", "upgrade"}, "Private": {"x"}, "Upgrade": {"h2c"}, "Te": {"trailers"}, "Expect": {"100-continue"},
		"User-Agent": {"shop"},
	})
	want := http.Header{
		"Content-Type": {"application/json"}, "Cart-Token": {"t"}, "Cart-Context": {"c"}, "If-Match": {"a", "b"}, "X-Request-Id": {"the-client's"},
		"Idempotency-Key": seen.Header["Idempotency-Key"], "Content-Length": {"11"}, "User-Agent": {"shop"},
	}
	if fmt.Sprint(seen.Header) != fmt.Sprint(want) || len(seen.Header.Get("Idempotency-Key")) < 20 || w.Body.String() != `{"sku":"A"}` {
		t.Errorf("%v %s", seen.Header, w.Body)
	}
	if w.Header().Get("Idempotent-Replayed") != "" {
		t.Error("the client is told of a key that it did not give")
	}
	first := seen.Header.Get("Idempotency-Key")
	if seen, _ = do("DELETE", path+"/discount-codes/10%25%20OFF", "ignored", http.Header{}); seen.ContentLength > 0 || seen.Header.Get("Idempotency-Key") == first {
		t.Errorf("%d bytes, %v", seen.ContentLength, seen.Header)
	}
	seen, w = do("PUT", path+"/discount-codes/A", "", http.Header{"Idempotency-Key": {"mine"}})
	if seen.Header.Get("Idempotency-Key") != "mine" || w.Header().Get("Idempotent-Replayed") != "true" {
		t.Errorf("%v %v", seen.Header, w.Header())
	}
	if seen, _ = do("PUT", path+"/discount-codes/A", "", http.Header{"Idempotency-Key": {"a", "b"}}); len(seen.Header["Idempotency-Key"]) != 2 {
		t.Errorf("%v", seen.Header)
	}
	for _, method := range []string{"GET", "HEAD"} {
		if seen, _ = do(method, path, "", http.Header{}); seen.Header["Idempotency-Key"] != nil {
			t.Errorf("%v", seen.Header)
		}
	}
}

// A body that is refused is refused here, as it would be by an owner, who is not asked.
func TestRelayRefusesBodies(t *testing.T) {
	direct := open(t, dev)
	other := through(direct, roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("an owner was asked")
		return nil, errAway
	}))
	c := direct.create(`{"currency":"EUR"}`)
	long := `{"sku":"` + strings.Repeat("x", maxBody) + `"}`
	for name, make := range map[string]func() *http.Request{
		"long": func() *http.Request {
			return httptest.NewRequest("POST", c.path+"/line-items", strings.NewReader(long))
		},
		"long, of unknown length": func() *http.Request {
			return httptest.NewRequest("POST", c.path+"/line-items", io.MultiReader(strings.NewReader(long)))
		},
		"ends early": func() *http.Request {
			return httptest.NewRequest("PATCH", c.path, io.MultiReader(strings.NewReader(`{"note":`), brokenReader{}))
		},
		"compressed": func() *http.Request {
			r := httptest.NewRequest("PATCH", c.path, strings.NewReader("{}"))
			r.Header.Set("Content-Encoding", "gzip")
			return r
		},
		"of another type": func() *http.Request {
			r := httptest.NewRequest("POST", c.path+"/operations", strings.NewReader("{}"))
			r.Header.Set("Content-Type", "text/plain")
			return r
		},
	} {
		var answers []answer
		for _, s := range []*shop{direct, other} {
			r := make()
			if r.Header.Get("Content-Type") == "" {
				r.Header.Set("Content-Type", "application/json")
			}
			r.Header.Set("X-Request-Id", "one")
			answers = append(answers, s.send(r))
		}
		if a, b := answers[0], answers[1]; a.status < 400 || a.status != b.status || !bytes.Equal(a.body, b.body) || fmt.Sprint(a.header) != fmt.Sprint(b.header) {
			t.Errorf("%s: %d %v %s, not %d %v %s", name, b.status, b.header, b.body, a.status, a.header, a.body)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A write counts once, whoever of the owners did it and did not say so, and also where this node does it in the end.
func TestRelayedWriteCountsOnce(t *testing.T) {
	s := open(t, dev)
	owner := &ownerOf{Handler: s.handler}
	for name, tries := range map[string][]http.RoundTripper{
		"away":            {away, owner},
		"hangs":           {hangs, owner},
		"mute":            {mute(owner), owner},
		"mute twice":      {mute(owner), mute(owner), owner},
		"all away":        {away, away, away},
		"all mute":        {mute(owner), mute(owner)},
		"mute, then away": {mute(owner), away},
		"cut off":         {cut(owner, 20), owner},
	} {
		other := through(s, tries...)
		other.handler = New(Options{Service: s.service, Dev: true, Forwarder: owners(tries), Timeout: 400 * time.Millisecond})
		c := s.create(`{"currency":"EUR"}`)
		for i, want := range []int64{1, 2, 2} {
			var headers []string
			if i > 0 {
				headers = []string{"Idempotency-Key", "the-client's"}
			}
			a := other.do("POST", c.path+"/line-items", `{"sku":"A"}`, headers...).want(http.StatusOK)
			if got := a.cart().TotalQuantity; got != want {
				t.Errorf("%s: %d units, not %d", name, got, want)
			}
		}
		if got := s.do("GET", c.path, "").cart().TotalQuantity; got != 2 {
			t.Errorf("%s: %d units", name, got)
		}
		if a := other.do("GET", c.path, "").want(http.StatusOK); a.cart().TotalQuantity != 2 {
			t.Errorf("%s: a read: %s", name, a.body)
		}
	}
}

// A write without a key goes without one where the cart has no room for more keys. Then it is tried once.
func TestRelayedWriteWithoutRoomForKeys(t *testing.T) {
	s := open(t, dev)
	full := &ownerOf{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") != "" {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		s.handler.ServeHTTP(w, r)
	})}
	never := roundTrip(func(*http.Request) (*http.Response, error) {
		t.Error("it is tried again")
		return nil, errAway
	})
	c := s.create(`{"currency":"EUR"}`)
	do := func(headers http.Header, o ...http.RoundTripper) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", c.path+"/line-items", strings.NewReader(`{"sku":"A"}`))
		r.Header = headers
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		through(s, o...).handler.ServeHTTP(w, r)
		return w
	}
	if w := do(http.Header{}, full, never); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	unknown := func(w *httptest.ResponseRecorder) {
		t.Helper()
		if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "/problems/not-durable") || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	unknown(do(http.Header{}, away, full, never)) // the first one may have made the change, for all one knows
	if w := do(http.Header{"Idempotency-Key": {"mine"}}, full, never); w.Code != http.StatusTooManyRequests {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	tries := 0
	once := roundTrip(func(r *http.Request) (*http.Response, error) {
		if tries++; tries == 2 {
			return mute(full).RoundTrip(r)
		}
		return full.RoundTrip(r)
	})
	unknown(do(http.Header{}, once, never))
	if got := s.do("GET", c.path, "").cart().TotalQuantity; got != 2 {
		t.Errorf("%d units", got)
	}
}

// cut cuts answers off after so many bytes.
func cut(owner http.RoundTripper, after int64) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		response, err := owner.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		response.Body = io.NopCloser(io.MultiReader(io.LimitReader(response.Body, after), brokenReader{}))
		return response, nil
	})
}

// answers is an owner that answers with the body that reader reads.
func answers(reader io.Reader) http.RoundTripper {
	return roundTrip(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(reader)}, nil
	})
}

// A long answer goes through as it comes. One that ends early ends early for the client.
func TestRelayedAnswerIsLong(t *testing.T) {
	const path = "/v1/carts/AAAAAAAAAAAAAAAAAAAAAA"
	long := bytes.Repeat([]byte("0123456789abcde\n"), 20_000)
	for _, size := range []int{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, len(long)} {
		w := httptest.NewRecorder()
		New(Options{Forwarder: owners{answers(bytes.NewReader(long[:size]))}}).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), long[:size]) {
			t.Errorf("%d: %d with %d bytes", size, w.Code, w.Body.Len())
		}
	}
	server := httptest.NewServer(New(Options{Forwarder: owners{answers(io.MultiReader(bytes.NewReader(long), brokenReader{})), away}}))
	defer server.Close()
	response, err := server.Client().Get(server.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("%d bytes, and a whole answer", len(got))
	}
}

// An owner has 500 ms, or 1.5 s where the database is waited for, and all of them 2 s; then it is the next one's turn.
func TestRelayIsBounded(t *testing.T) {
	const path = "/v1/carts/AAAAAAAAAAAAAAAAAAAAAA"
	for _, test := range []struct {
		name       string
		durability string
		owners     []http.RoundTripper
		starts     []time.Duration // of the tries that came to an owner
		took       time.Duration
	}{
		{"one hangs", "", []http.RoundTripper{hangs}, []time.Duration{0, 500 * time.Millisecond}, 500 * time.Millisecond},
		{"three hang", "", []http.RoundTripper{hangs, hangs, hangs}, []time.Duration{0, 500 * time.Millisecond, time.Second, 1500 * time.Millisecond}, 1500 * time.Millisecond},
		{"the database", "database", []http.RoundTripper{hangs}, []time.Duration{0, 1500 * time.Millisecond}, 1500 * time.Millisecond},
		{"the answer stops", "", []http.RoundTripper{stuck}, []time.Duration{0, 500 * time.Millisecond}, 500 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var starts []time.Duration
				var all owners
				for _, o := range append(test.owners, answers(strings.NewReader("done"))) {
					all = append(all, roundTrip(func(r *http.Request) (*http.Response, error) {
						starts = append(starts, time.Since(began))
						return o.RoundTrip(r)
					}))
				}
				r := httptest.NewRequest("PUT", path+"/discount-codes/A", nil)
				if test.durability != "" {
					r.Header.Set("Cart-Durability", test.durability)
				}
				w := httptest.NewRecorder()
				New(Options{Forwarder: all}).ServeHTTP(w, r)
				if w.Body.String() != "done" || !slices.Equal(starts, test.starts) || time.Since(began) != test.took {
					t.Errorf("%q after %v, tries at %v", w.Body, time.Since(began), starts)
				}
			})
		})
	}
}

// stuck begins an answer and sends none of it.
var stuck = roundTrip(func(r *http.Request) (*http.Response, error) {
	body, w := io.Pipe()
	context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: body}, nil
})

// This node has what time is left when no owner answered, and a client that went away ends nothing.
func TestRelayLeavesTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{timeout: 2 * time.Second, forwarder: owners{hangs, hangs, hangs}, log: slog.New(slog.DiscardHandler)}
		mux, asked := chi.NewRouter(), 0
		mux.With(s.passOn).Get("/{cart_id}", func(_ http.ResponseWriter, r *http.Request) {
			asked++
			ctx, cancel := s.deadline(r)
			defer cancel()
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != 500*time.Millisecond || ctx.Err() != nil {
				t.Errorf("%v, %v", time.Until(deadline), ctx.Err())
			}
		})
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, "GET", "/AAAAAAAAAAAAAAAAAAAAAA", nil))
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}
