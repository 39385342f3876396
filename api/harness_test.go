package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"go.uber.org/goleak"

	"cartd/cart"
	"cartd/cart/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shop is the API over a store in a temporary directory. Every answer is held against the OpenAPI
// document.
type shop struct {
	t       testing.TB
	handler http.Handler
	service *cart.Service
	router  routers.Router
	now     time.Time
}

func open(t testing.TB, configure ...func(*Options, *cart.Options)) *shop {
	t.Helper()
	s := &shop{t: t, now: time.Now()}
	store, err := sqlite.Open(t.Context(), t.TempDir(), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o, co := Options{}, cart.Options{Store: store, Now: func() time.Time { return s.now }}
	for _, c := range configure {
		c(&o, &co)
	}
	s.service = cart.New(co)
	o.Service = s.service
	s.handler = New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.service.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s.router, err = gorillamux.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	return s
}

func dev(o *Options, _ *cart.Options) { o.Dev = true }

// answer is what a request got.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

// do sends a request: headers are names and values in turn.
func (s *shop) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, reader)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return s.send(r)
}

func (s *shop) send(r *http.Request) answer {
	s.t.Helper()
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	a := answer{t: s.t, status: w.Code, header: w.Header(), body: w.Body.Bytes()}
	s.hold(r, a)
	return a
}

// hold holds an answer against the document.
func (s *shop) hold(r *http.Request, a answer) {
	s.t.Helper()
	if a.header.Get("X-Request-Id") == "" {
		s.t.Errorf("%s %s: no X-Request-Id", r.Method, r.URL)
	}
	if a.status >= 400 {
		p := a.problem()
		if a.header.Get("Content-Type") != "application/problem+json" || p.Status != a.status || p.Title == "" || p.Detail == "" ||
			!strings.HasPrefix(p.Type, "/problems/") || !strings.HasPrefix(r.URL.EscapedPath(), p.Instance) || p.Instance == "" {
			s.t.Errorf("%s %s: not a problem: %d %s", r.Method, r.URL, a.status, a.body)
		}
		if wait := a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests; wait != (a.header.Get("Retry-After") != "") {
			s.t.Errorf("%s %s: %d with Retry-After %q", r.Method, r.URL, a.status, a.header.Get("Retry-After"))
		}
	}
	if r.Method == http.MethodHead {
		return // answered like GET; the document does not list it
	}
	route, parameters, err := s.router.FindRoute(r)
	if err != nil {
		if a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
			s.t.Errorf("%s %s is not in the document and got %d", r.Method, r.URL, a.status)
		}
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: parameters, Route: route},
		Status:                 a.status,
		Header:                 a.header,
		Body:                   io.NopCloser(bytes.NewReader(a.body)),
		Options:                &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		s.t.Errorf("%s %s: not as the document says: %v", r.Method, r.URL, err)
	}
}

func (a answer) decode(to any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, to); err != nil {
		a.t.Fatalf("%v: %s", err, a.body)
	}
}

func (a answer) problem() (p Problem) {
	a.t.Helper()
	a.decode(&p)
	return p
}

// want fails the test unless the status is as given.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status %d, not %d: %s", a.status, status, a.body)
	}
	return a
}

// wantProblem fails the test unless the answer is that problem, and points at pointer.
func (a answer) wantProblem(status int, name, pointer string) {
	a.t.Helper()
	if a.status != status {
		a.t.Errorf("status %d, not %d: %s", a.status, status, a.body)
		return
	}
	p := a.problem()
	if p.Type != "/problems/"+name {
		a.t.Errorf("%s, not %s: %s", p.Type, name, a.body)
	}
	switch {
	case pointer == "" && len(p.Errors) > 0 && p.Errors[0].Pointer != "", pointer != "" && (len(p.Errors) != 1 || p.Errors[0].Pointer != pointer):
		a.t.Errorf("the errors do not point at %q: %s", pointer, a.body)
	}
}

func (a answer) cart() (c Cart) {
	a.t.Helper()
	a.decode(&c)
	return c
}

// created is a cart as its client knows it.
type created struct {
	path  string
	token string
	CreatedCart
}

func (s *shop) create(body string) created {
	s.t.Helper()
	a := s.do("POST", "/v1/carts", body).want(http.StatusCreated)
	var c CreatedCart
	a.decode(&c)
	if a.header.Get("Location") != "/v1/carts/"+c.ID || len(c.Token) != 43 {
		s.t.Fatalf("Location %q, token %q", a.header.Get("Location"), c.Token)
	}
	return created{path: "/v1/carts/" + c.ID, token: c.Token, CreatedCart: c}
}
