package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	// DefaultTimeout is how long an attempt waits for its answer: far beyond the 2 s that a node takes at most, as
	// the machine may be busy.
	DefaultTimeout = 10 * time.Second
	// DefaultPatience is how long an operation is repeated.
	DefaultPatience = 30 * time.Second
)

// Node is where a node is found. Its base URL may change when it is replaced.
type Node struct {
	Name string
	API  func() string // base URL of the public listener: http://10.77.0.11:8080
}

// Options say who does what, and where.
type Options struct {
	Nodes   []Node
	Carts   int           // at work at a time; Start creates them, spread over the nodes
	Clients int           // each does one thing at a time
	Rest    time.Duration // mean pause of a client between two operations
	Seed    uint64        // of what the clients draw; when they do it, time decides
	// FollowReady sends requests only to nodes whose GET /readyz on the public listener said 200 at the last
	// poll (each 100 ms), as a load balancer would. While none is ready the clients wait.
	FollowReady bool
	// Durability of the writes to a cart: "", or "database" (the Cart-Durability header). Nil asks for nothing.
	Durability func(cart int) string
	// Observe is told of every attempt, from the goroutine that made it: at once by several. May be nil.
	Observe func(Attempt)
	// Dial makes the connections; nil is that of net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Timeout of one attempt; 0 is DefaultTimeout.
	Timeout time.Duration
	// Patience is how long an operation is repeated, waiting for a ready node included. Then it is given up, which
	// counts as Wrong. 0 is DefaultPatience.
	Patience time.Duration
}

// Outcome is what an attempt came to.
type Outcome int

const (
	// OK is an answer that settles the operation: 2xx, or 404 for a line that somebody else has removed.
	OK Outcome = iota
	// Refused is a problem with Retry-After, 503 or 429.
	Refused
	// Unknown is no answer: the connection was refused or reset, or the time was up.
	Unknown
	// Wrong is an answer that may never be.
	Wrong
)

// Attempt is one request that was sent once.
type Attempt struct {
	Client     int    // -1 is Start
	Cart, Node int    // as numbered by Options
	Operation  uint64 // the attempts of one operation share it, and its Idempotency-Key
	Kind       string // add, set, remove, clear, batch, read, create
	Began      time.Time
	Took       time.Duration
	Outcome    Outcome
	Connected  bool   // whether there was a connection: false for a refused one
	Problem    string // the type of the problem without /problems/, or the error; empty when OK
	Durability string // of an acknowledged write: "peers=2", "database"
}

// Totals are what the clients have done so far.
type Totals struct {
	Operations   int64            // writes that were begun
	Acknowledged int64            // writes that were
	ByPeers      int64            // of these, by peers alone
	ByDatabase   int64            // of these, by the database
	Replays      int64            // of these, answered as executed by an earlier attempt
	Failed       int64            // writes that certainly did not happen, and were given up
	Unknown      int64            // writes that were given up, and may have happened
	Reads        int64            // reads that were answered
	Created      int64            // carts
	Attempts     int64            // requests sent, of any kind
	Refused      int64            // attempts that were refused
	Dropped      int64            // times that a client went on without its Cart-Context
	Sessions     int64            // see Verdict
	Wrong        int64            // see Verdict
	Retries      map[string]int64 // attempts that settled nothing, by problem; "timeout", "refused", "reset" without an answer
}

// Run is clients at work.
type Run struct{}

var errNotYet = errors.New("not built yet")

// Start creates the carts and sends the clients to work, until Stop or the end of ctx.
func Start(context.Context, Options) (*Run, error) { return nil, errNotYet }

// Stop returns when every client has finished what it is at. It may be called again.
func (r *Run) Stop() {}

// Totals returns what the clients have done so far.
func (r *Run) Totals() Totals { return Totals{} }

// String is for logs.
func (t Totals) String() string { return fmt.Sprintf("%d writes", t.Operations) }

// AtRisk says that writes which peers alone acknowledged in [from, to] may be lost.
func (r *Run) AtRisk(from, to time.Time) {}

// Audit compares what all nodes show with the ledger, after Stop.
func (r *Run) Audit(context.Context) Verdict { return Verdict{} }

// WriteLedger writes what the clients did, a JSON object a line.
func (r *Run) WriteLedger(io.Writer) error { return errNotYet }

// Verdict is what an audit found. A write to several lines counts once for each of them.
type Verdict struct {
	Lost       int           // acknowledged, or shown, and missing or undone
	Resurfaced int           // removed, and there again
	Doubled    int           // counted more than once
	AtRiskLost int           // lost among the writes that AtRisk named: no violation
	Sessions   int           // answers that went back behind what the client had seen or written
	Wrong      int           // answers that may never be, and operations that nobody took in time
	Unequal    int           // carts that were not the same on all nodes when the context ended
	Converged  time.Duration // from the call of Audit until all were the same
	Findings   []string      // one sentence each, at most 50
}

// OK reports whether everything that was promised held.
func (v Verdict) OK() bool {
	return v.Lost+v.Resurfaced+v.Doubled+v.Sessions+v.Wrong+v.Unequal == 0
}
