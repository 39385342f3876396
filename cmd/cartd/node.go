package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"cartd/api"
	"cartd/cart"
	"cartd/cart/postgres"
	"cartd/cart/sqlite"
)

// Bounds on connections. Slow clients lose theirs.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second // headers and the 64 KiB of a body
	writeTimeout      = 30 * time.Second // since the headers were read: a body that is too slow gets its answer
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 32 << 10
	// stopTimeout bounds how long a stop waits for requests in flight, and then for the store.
	stopTimeout = 15 * time.Second
)

// node is one running cartd: the store, the service on it, and the listeners in front.
type node struct {
	log      *slog.Logger
	store    cart.Store
	storedIn string                       // where, for logs
	service  atomic.Pointer[cart.Service] // nil until the store is open
	draining atomic.Bool

	public, admin         *http.Server
	publicAddr, adminAddr net.Addr
	served                chan error // what made a listener end

	stops []func(context.Context) error // run last to first
}

// startNode starts a node. It runs until stop, and needs to be stopped when failed is closed.
func startNode(ctx context.Context, c config, log *slog.Logger) (n *node, err error) {
	n = &node{log: log, served: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop())
		}
	}()
	admin, err := net.Listen("tcp", c.adminListen)
	if err != nil {
		return n, fmt.Errorf("--admin-listen: %w", err)
	}
	n.admin = n.serve(admin, n.adminHandler())
	n.adminAddr = admin.Addr()

	if err := n.openStore(ctx, c); err != nil {
		return n, err
	}
	limits := cart.DefaultLimits
	limits.Lines = c.maxLines
	service := cart.New(cart.Options{Store: n.store, Limits: limits, Memory: int64(c.memory), Logger: log})
	n.stops = append(n.stops, service.Close)

	public, err := net.Listen("tcp", c.listen)
	if err != nil {
		return n, fmt.Errorf("--listen: %w", err)
	}
	n.service.Store(service)
	n.public = n.serve(public, api.New(api.Options{Service: service, Dev: c.dev, Logger: log}))
	n.publicAddr = public.Addr()
	return n, nil
}

func (n *node) openStore(ctx context.Context, c config) (err error) {
	if c.databaseURL == "" {
		n.storedIn = c.dataDir
		// Only a store that was opened goes into the interface: nil in there would not be nil.
		s, err := sqlite.Open(ctx, c.dataDir, sqlite.Options{Logger: n.log})
		if err == nil {
			n.store = s
		}
		return err
	}
	if n.storedIn, err = postgres.Address(c.databaseURL); err != nil {
		return err
	}
	s, err := postgres.Open(ctx, c.databaseURL, postgres.Options{Logger: n.log})
	if err == nil {
		n.store = s
	}
	return err
}

// serve serves a listener until stop.
func (n *node) serve(l net.Listener, h http.Handler) *http.Server {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" is a path that there is not
		ErrorLog:                     slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.served <- err
		}
	}()
	n.stops = append(n.stops, func(ctx context.Context) error {
		err := server.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		<-done
		return err
	})
	return server
}

// failing is a store that writes behind the commits too, where no request is told of a failure.
type failing interface {
	Failed() <-chan struct{}
	Err() error
}

// wait returns when ctx is done, with nil, or when the node cannot go on, with the reason.
func (n *node) wait(ctx context.Context) error {
	var behind <-chan struct{}
	f, ok := n.store.(failing)
	if ok {
		behind = f.Failed()
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-n.served:
		return err
	case <-n.service.Load().Failed():
		return storeFailed(n.service.Load().Err())
	case <-behind:
		return storeFailed(f.Err())
	}
}

func storeFailed(err error) error {
	return fmt.Errorf("the store failed, and what it was asked to write may be lost: no write is acknowledged any more; "+
		"look after the disk or the database and start again: %w", err)
}

// stop ends the node: not ready, requests in flight finish, what was accepted is written, and the
// operator's listener goes last.
func (n *node) stop() error {
	n.draining.Store(true)
	var errs []error
	for i := len(n.stops) - 1; i >= 0; i-- {
		errs = append(errs, within(stopTimeout, n.stops[i]))
	}
	n.stops = nil
	return errors.Join(errs...)
}

// within calls stop with a context that ends after timeout, and gives up on it a moment later: a write
// that hangs in the kernel is not to be interrupted, and the process ends all the same.
func within(timeout time.Duration, stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- stop(ctx) }()
	select {
	case err := <-done:
		return err
	case <-time.After(timeout + time.Second):
		return fmt.Errorf("it did not stop within %v", timeout)
	}
}

func (n *node) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		report(w, map[string]string{"process": "ok"}, true)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		checks, ready := n.ready()
		report(w, checks, ready)
	})
	return mux
}

// ready returns what each check says, and whether all are content.
func (n *node) ready() (checks map[string]string, ready bool) {
	checks = map[string]string{"serving": "ok", "store": "ok"}
	ready = true
	fail := func(check, why string) { checks[check], ready = why, false }
	if n.draining.Load() {
		fail("serving", "stopping")
	}
	if service := n.service.Load(); service == nil {
		fail("serving", "starting")
	} else if err := service.Ready(); err != nil {
		fail("store", err.Error())
	}
	return checks, ready
}

func report(w http.ResponseWriter, checks map[string]string, ok bool) {
	w.Header().Set("Content-Type", "application/json")
	status := "ok"
	if !ok {
		status = "failing"
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "checks": checks}) // who asked may be gone
}
