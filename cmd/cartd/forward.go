package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"cartd/cart"
	"cartd/gossip"
)

// Bounds on the connections to one owner. A request waits for one when all are in use. All may stay for a while when
// they are not: another one costs more than a request.
const (
	maxOwnerConns    = 128
	ownerIdleTimeout = 30 * time.Second // less than the owner's
)

// forwarder passes requests on to the nodes that own their carts, and counts those that others pass on to this one.
type forwarder struct {
	core      *gossip.Core
	transport *http.Transport // where a host is the start id of a node

	forOthers atomic.Int64 // requests
}

func newForwarder(region *gossip.Node) *forwarder {
	return &forwarder{core: region.Core(), transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			start, err := strconv.ParseUint(host, 16, 64)
			if err != nil {
				return nil, fmt.Errorf("no start id: %w", err)
			}
			return region.Dial(ctx, start)
		},
		DisableCompression:     true,
		MaxConnsPerHost:        maxOwnerConns,
		MaxIdleConnsPerHost:    maxOwnerConns,
		IdleConnTimeout:        ownerIdleTimeout,
		MaxResponseHeaderBytes: 2 * maxHeaderBytes,
	}}
}

// Forward has the owners of a cart tried.
func (f *forwarder) Forward(id cart.ID, try func(owner http.RoundTripper) (answered bool)) (here bool) {
	return f.core.Forward(id, false, func(m gossip.Member) bool { return try(owner{f.transport, m.Start}) })
}

// answer has next answer what others pass on. That it came over a connection of theirs is all that tells so, and what
// they pass on goes no further.
func (f *forwarder) answer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.forOthers.Add(1)
		next.ServeHTTP(w, r)
	})
}

// close closes the connections that are not in use.
func (f *forwarder) close(context.Context) error {
	f.transport.CloseIdleConnections()
	return nil
}

// owner is a node that is asked.
type owner struct {
	transport *http.Transport
	start     uint64
}

// RoundTrip sends a request to the node.
func (o owner) RoundTrip(r *http.Request) (*http.Response, error) {
	r.URL.Host = startID(o.start)
	return o.transport.RoundTrip(r)
}
