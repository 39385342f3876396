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
	"cartd/gossip"
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
	flushWarn   = 5 * time.Second // when it says that it waits for --flush-time
	leftTimeout = time.Second     // for the rest, after that
	// joinTimeout bounds how long a node is not ready because it may lack what other nodes have. While the database
	// cannot be read it bounds only how long it waits for those that it has no link with.
	joinTimeout = 10 * time.Second
	meetTimeout = 2 * time.Second // of that, because it has not met any
	// meetAbroadTimeout is longer: the first node of a region waits for others before it reaches other regions.
	meetAbroadTimeout = 5 * time.Second
	joinTick          = 20 * time.Millisecond
)

// node is one running cartd: the store, the service on it, in a cluster the connection with the other nodes,
// and the listeners in front.
type node struct {
	log      *slog.Logger
	config   config
	store    cart.Store
	storedIn string // where, for logs
	service  *cart.Service
	region   *gossip.Node // nil where the node is alone
	forwards *forwarder   // nil there, too
	keyWatch *keyWatch    // nil where the keys are not from a file
	left     bool         // in a stop: the database lacks what other nodes hold

	serving  atomic.Bool // all of the above is there
	joining  atomic.Bool // it is not known yet what this node lacks
	draining atomic.Bool

	public, admin         *http.Server
	publicAddr, adminAddr net.Addr
	served                chan error // what made a listener end

	stops []stopping // run last to first
}

// stopping is a step of a stop, and how long it may take.
type stopping struct {
	most time.Duration
	do   func(context.Context) error
}

// startNode starts a node. It runs until stop, and needs to be stopped when failed is closed.
func startNode(ctx context.Context, c config, log *slog.Logger) (n *node, err error) {
	n = &node{log: log, config: c, served: make(chan error, 3)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop())
		}
	}()
	admin, err := net.Listen("tcp", c.adminListen)
	if err != nil {
		return n, fmt.Errorf("--admin-listen: %w", err)
	}
	n.admin = n.serve(admin, n.adminHandler(), maxHeaderBytes)
	n.adminAddr = admin.Addr()

	if err := n.openStore(ctx); err != nil {
		return n, err
	}
	public, err := net.Listen("tcp", c.listen)
	if err != nil {
		return n, errors.Join(fmt.Errorf("--listen: %w", err), n.store.Close())
	}
	n.publicAddr = public.Addr()
	if err := n.startService(ctx); err != nil {
		return n, errors.Join(err, public.Close())
	}
	o := api.Options{Service: n.service, Dev: c.dev, Ready: n.isReady, Logger: log}
	if n.region != nil {
		n.forwards = newForwarder(n.region)
		// Until after the public listener, and with headers that have grown on the way.
		n.serve(n.region.Requests(), n.forwards.answer(n.closing(api.New(o))), 2*maxHeaderBytes)
		n.onStop(stopTimeout, n.forwards.close)
		o.Forwarder = n.forwards
	}
	n.serving.Store(true)
	n.public = n.serve(public, n.closing(api.New(o)), maxHeaderBytes)
	if n.region != nil {
		if n.keyWatch != nil {
			n.background(n.keyWatch.run) // until after the drain
		}
		n.onStop(n.config.cluster.drainTime+stopTimeout, n.drain)
		n.background(n.join)
	}
	n.warn()
	return n, nil
}

func (n *node) openStore(ctx context.Context) (err error) {
	c := n.config
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
	// The nodes of a cluster hold writes without the database, from the start.
	s, err := postgres.Open(ctx, c.databaseURL, postgres.Options{Logger: n.log, Lazy: c.cluster.keys != nil})
	if err == nil {
		n.store = s
	}
	return err
}

// startService starts the service on the store and, in a cluster, what connects it with the other nodes.
// Each of these two needs the other: the carts are filled in before the region calls them.
func (n *node) startService(ctx context.Context) error {
	c := n.config
	limits := cart.DefaultLimits
	limits.Lines = c.maxLines
	o := cart.Options{Store: n.store, Limits: limits, Memory: int64(c.memory), Logger: n.log}
	var carts struct{ gossip.Carts }
	if c.cluster.keys != nil {
		region, err := gossip.New(n.gossipOptions(&carts))
		if err != nil {
			return errors.Join(err, n.store.Close())
		}
		o.Replicator, o.Placed, o.Tolerate, o.Shared = region.Core(), true, c.cluster.tolerate, c.databaseURL != ""
		n.region = region
		if c.cluster.keyFile != "" {
			n.keyWatch = newKeyWatch(c.cluster.keyFile, *c.cluster.keys, region.SetKeys, n.log)
		}
		n.joining.Store(true)
	}
	n.service = cart.New(o)
	n.onStop(stopTimeout, n.closeService)
	if n.region == nil {
		return nil
	}
	carts.Carts = n.service
	if err := n.region.Start(ctx); err != nil {
		var l *gossip.ListenError
		if errors.As(err, &l) {
			return fmt.Errorf("--%s-listen: %w", l.Port, l.Err)
		}
		return err
	}
	n.onStop(stopTimeout, n.region.Stop)
	n.onStop(c.cluster.flushTime, n.flush)
	return nil
}

func (n *node) gossipOptions(carts gossip.Carts) gossip.Options {
	c := n.config.cluster
	return gossip.Options{
		Member:        gossip.Member{Region: c.region, Zone: c.zone, APIAddr: n.apiAddr()},
		Keys:          *c.keys,
		GossipListen:  c.gossipListen,
		LinkListen:    c.linkListen,
		AdvertiseHost: c.advertiseHost,
		Join:          c.join,
		WANListen:     c.wanListen,
		JoinWAN:       c.joinWAN,
		AdvertiseWAN:  c.advertiseWAN,
		Replicas:      c.replicas,
		Tolerate:      c.tolerate,
		Carts:         carts,
		Logger:        n.log,
	}
}

// apiAddr returns where other nodes find the HTTP API, or nothing where that is not known.
func (n *node) apiAddr() string {
	host, port, err := net.SplitHostPort(n.publicAddr.String())
	if err != nil {
		return ""
	}
	switch ip := net.ParseIP(host); {
	case n.config.cluster.advertiseHost != "" && !ip.IsLoopback():
		host = n.config.cluster.advertiseHost
	case ip.IsUnspecified():
		return ""
	}
	return net.JoinHostPort(host, port)
}

// join makes the node an active one as soon as it has met another one, if it knows of any, and has what that
// has, and what other regions have that can be reached: while the database cannot be read, of it what the database
// lacks. What it does not find out in time, repair finds later.
func (n *node) join(ctx context.Context) {
	ticker := time.NewTicker(joinTick)
	defer ticker.Stop()
	began := time.Now()
	for !n.mayBeActive(time.Since(began)) {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
	n.joining.Store(false)
	n.region.SetState(gossip.Active)
	core := n.region.Core()
	n.log.Info("active", "linked", core.Peers(), "indexed", n.service.Indexed(), "synced", core.Synced())
}

// mayBeActive reports whether a node that has waited for so long may be counted on by others.
func (n *node) mayBeActive(waited time.Duration) bool {
	core := n.region.Core()
	met := len(n.config.cluster.join) == 0 || core.Peers() > 0 || waited > meetTimeout
	late := waited > joinTimeout
	if n.unreachable() != nil {
		linked, away := core.Uncovered()
		return met && linked == 0 && (away == 0 || late)
	}
	abroad := len(n.config.cluster.joinWAN) == 0 || core.Abroad() > 0 || waited > meetAbroadTimeout
	return met && abroad && n.service.Indexed() && core.Synced() && core.SyncedAbroad() || late
}

// drain tells the other nodes that this one is about to leave, so that none counts on what it holds, and goes on
// serving for a while: for those who send requests here until they have noticed that it is not ready.
func (n *node) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.config.cluster.drainTime)
	defer cancel()
	n.region.SetState(gossip.Draining)
	<-ctx.Done()
	return nil
}

// closing has clients close their connection after an answer, from when the node is not ready any more: one
// that is still open when the listener closes may be closed under a request.
func (n *node) closing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// flush saves what the nodes of the region hold and the database lacks, or leaves it to the other nodes: as soon as
// enough of them have it. Until then it keeps it for them.
func (n *node) flush(ctx context.Context) error {
	late := time.AfterFunc(flushWarn, func() {
		n.log.Warn("the database lacks writes, and too few other nodes hold them: the node goes on holding them",
			"for", n.config.cluster.flushTime, "database", n.unreachable())
	})
	defer late.Stop()
	err := n.service.Flush(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cart.ErrLeft):
		n.left = true
		n.log.Warn("the database lacks writes, which are left to the other nodes", "database", n.unreachable())
		return nil
	}
	return fmt.Errorf("the database lacks writes, and too few other nodes hold them: %w", err)
}

// closeService closes the service. What is left to other nodes need not wait for the database once more.
func (n *node) closeService(ctx context.Context) error {
	if !n.left {
		return n.service.Close(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, leftTimeout)
	defer cancel()
	if err := n.service.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil // as flush said
}

// background runs f beside the rest until stop.
func (n *node) background(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	n.onStop(stopTimeout, func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// serve serves a listener until stop, requests with so many bytes of headers at most.
func (n *node) serve(l net.Listener, h http.Handler, headerBytes int) *http.Server {
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,

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
	n.onStop(stopTimeout, func(ctx context.Context) error {
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
	case <-n.service.Failed():
		return storeFailed(n.service.Err())
	case <-behind:
		return storeFailed(f.Err())
	}
}

func storeFailed(err error) error {
	return fmt.Errorf("the store failed, and what it was asked to write may be lost: no write is acknowledged any more; "+
		"look after the disk or the database and start again: %w", err)
}

// onStop adds a step, which is taken before those that are there.
func (n *node) onStop(most time.Duration, do func(context.Context) error) {
	n.stops = append(n.stops, stopping{most, do})
}

// stop ends the node: not ready, but in a region serving until that is noticed; requests in flight finish, those that
// other nodes have passed on last; what was accepted is written, or held by enough other nodes, and the operator's listener goes last.
func (n *node) stop() error {
	n.draining.Store(true)
	var errs []error
	for i := len(n.stops) - 1; i >= 0; i-- {
		errs = append(errs, within(n.stops[i].most, n.stops[i].do))
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
	mux.HandleFunc("GET /debug/cluster", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(n.status()) // who asked may be gone
	})
	mux.Handle("GET /metrics", metricsHandler(n.status, n.log))
	return mux
}

// ready returns what each check says, and whether the node is ready. A check that says something else than
// ok need not be failing: a database that is away is none where enough nodes are there.
func (n *node) ready() (checks map[string]string, ready bool) {
	checks = map[string]string{"serving": "ok", "store": "ok"}
	ready = true
	fail := func(check, why string) { checks[check], ready = why, false }
	if n.draining.Load() {
		fail("serving", "stopping")
	}
	if !n.serving.Load() {
		fail("serving", "starting")
		return checks, ready
	}
	refuses := n.service.Ready()
	ready = ready && refuses == nil
	if away := n.unreachable(); away != nil {
		checks["store"] = away.Error()
		ready = ready && n.hasHolders()
	} else if refuses != nil {
		checks["store"] = refuses.Error()
	}
	if n.region == nil {
		return checks, ready
	}
	core := n.region.Core()
	checks["peers"] = fmt.Sprintf("%d linked, %d needed", core.Peers(), n.config.cluster.tolerate)
	checks["joining"], checks["clock"] = "ok", "ok"
	if n.joining.Load() {
		fail("joining", "finding out what this node lacks")
	}
	if offset, bad := core.ClockSkew(); bad {
		fail("clock", fmt.Sprintf("most of the other nodes have a clock that is %v off", offset.Round(time.Second)))
	}
	return checks, ready
}

// hasHolders reports whether enough other nodes are there to hold a write, in this region or in others.
func (n *node) hasHolders() bool {
	if n.region == nil {
		return false
	}
	core, needed := n.region.Core(), n.config.cluster.tolerate
	return core.Peers() >= needed || core.Abroad() >= needed
}

func (n *node) isReady() bool {
	_, ready := n.ready()
	return ready
}

// unreachable returns why the database cannot be reached at present, or nil.
func (n *node) unreachable() error {
	if s, ok := n.store.(*postgres.Store); ok {
		return s.Reachable()
	}
	return nil
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
