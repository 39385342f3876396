package api

import (
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"cartd/cart"
)

// Options configure the HTTP API. Only Service is required.
type Options struct {
	Service *cart.Service
	// Dev trusts every caller: any cart without its token, and prices.
	Dev bool
	// Timeout bounds how long a write may wait for what it needs; 2 s where zero. What a read waits for,
	// package cart bounds.
	Timeout time.Duration
	// Forwarder passes on requests for carts that other nodes own; where nil, this node answers all.
	Forwarder Forwarder
	// Ready reports whether the node is to be sent requests; where nil, it always is.
	Ready  func() bool
	Logger *slog.Logger
}

// Server answers the HTTP API. Its methods are those of the generated ServerInterface.
type Server struct {
	service   *cart.Service
	dev       bool
	timeout   time.Duration
	forwarder Forwarder
	ready     func() bool
	log       *slog.Logger
}

var _ ServerInterface = (*Server)(nil)

//go:embed openapi.yaml
var document []byte

// New returns the handler of the HTTP API.
func New(o Options) http.Handler {
	s := &Server{service: o.Service, dev: o.Dev, timeout: o.Timeout, forwarder: o.Forwarder, ready: o.Ready, log: o.Logger}
	if s.timeout == 0 {
		s.timeout = 2 * time.Second
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.ready == nil {
		s.ready = func() bool { return true }
	}
	mux := chi.NewRouter()
	mux.Use(requestID, s.recoverer, middleware.GetHead)
	mux.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &problem{kind: notFound, detail: "there is no such path"})
	})
	mux.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allow := allowed(mux, r.URL.EscapedPath())
		if allow == "" { // a method that no path has, on no path
			s.fail(w, r, &problem{kind: notFound, detail: "there is no such path"})
			return
		}
		s.fail(w, r, &problem{
			kind:   methodNotAllowed,
			detail: "the path takes " + allow,
			header: http.Header{"Allow": {allow}},
		})
	})
	direct := chi.Router(mux)
	var middlewares []MiddlewareFunc
	if s.forwarder != nil {
		direct, middlewares = mux.With(s.passOn), []MiddlewareFunc{s.passOn}
	}
	HandlerWithOptions(s, ChiServerOptions{
		BaseRouter:  mux,
		Middlewares: middlewares,
		ErrorHandlerFunc: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, &problem{kind: malformedRequest, detail: err.Error()})
		},
	})
	// The two routes that most requests take go past the generated binding of parameters, which goes
	// through reflection.
	direct.Get("/v1/carts/{cart_id}", func(w http.ResponseWriter, r *http.Request) {
		s.GetCart(w, r, cartIDOf(r))
	})
	direct.Post("/v1/carts/{cart_id}/line-items", func(w http.ResponseWriter, r *http.Request) {
		s.AddLineItem(w, r, cartIDOf(r))
	})
	return mux
}

// cartIDOf returns the cart's id in the path of a request.
func cartIDOf(r *http.Request) CartID {
	id := chi.URLParam(r, "cart_id")
	if strings.IndexByte(id, '%') >= 0 {
		if decoded, err := url.PathUnescape(id); err == nil {
			return decoded
		}
	}
	return id
}

// allowed lists the methods of a path.
func allowed(mux *chi.Mux, path string) string {
	var methods []string
	for _, method := range []string{"DELETE", "GET", "PATCH", "POST", "PUT"} {
		if !mux.Match(chi.NewRouteContext(), method, path) {
			continue
		}
		if methods = append(methods, method); method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	return strings.Join(methods, ", ")
}

// GetOpenAPI serves the document that this package is generated from.
func (s *Server) GetOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Cache-Control", "no-cache")
	w.Write(document)
}

// GetReadiness tells load balancers whether to send requests here.
func (s *Server) GetReadiness(w http.ResponseWriter, r *http.Request) {
	if !s.ready() {
		s.fail(w, r, &problem{kind: notReady, detail: "the node starts, stops, or could not acknowledge a write"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(Readiness{Status: ReadinessStatusOk}) // who asked may be gone
}

// requestID names the request, as the client did or with a name of its own: one of the process, and a
// number.
func requestID(next http.Handler) http.Handler {
	process := rand.Text()[:12] + "-"
	var requests atomic.Uint64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !visible(id, 128) {
			id = process + strconv.FormatUint(requests.Add(1), 10)
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r)
	})
}

// visible reports whether s is 1 to limit visible ASCII characters.
func visible(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// recoverer answers a request whose handler panicked.
func (s *Server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.fail(w, r, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}()
		next.ServeHTTP(w, r)
	})
}
