package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultTimeout is how long an attempt waits for its answer: far beyond the 2 s that a node takes at most, as
	// the machine may be busy.
	DefaultTimeout = 10 * time.Second
	// DefaultPatience is how long an operation is repeated.
	DefaultPatience = 30 * time.Second

	// DefaultCartWrites is how many writes a cart gets: it has up to a hundred lines then.
	DefaultCartWrites = 400

	// maxCartWrites keeps a cart below its limits: 5,000 keys, 1,000 lines, 9,999 units of a line.
	maxCartWrites = 1000
	// ownedCarts is of how many carts one is a client's own, which clears it now and then.
	ownedCarts = 6
	// maxFindings is how many findings are told in words.
	maxFindings = 50
	// auditors is how many carts an audit reads at a time.
	auditors = 4
)

// Node is where a node is found. Its base URL may change when it is replaced.
type Node struct {
	Name string
	// Region of the node. Clients are spread over the regions, and each goes to nodes of its own, as long as one of
	// these is ready: what is acknowledged in a region that is cut off, the others cannot show.
	Region string
	API    func() string // base URL of the public listener: http://10.77.0.11:8080
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
	// CartWrites is after how many writes a new cart takes the place of one, under the same number: 1 to 1,000;
	// 0 is DefaultCartWrites.
	CartWrites int
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
	// Refused is a problem with Retry-After, 503 or 429; or a cart that the node does not know, asked for without a
	// Cart-Context.
	Refused
	// Unknown is no answer: the connection was refused or reset, or the time was up.
	Unknown
	// Wrong is an answer that may never be.
	Wrong
)

// Attempt is one request that was sent once.
type Attempt struct {
	Client     int    // -1 is Start
	Region     string // of the client; none of Start
	Cart, Node int    // as numbered by Options
	Operation  uint64 // the attempts of one operation share it, and its Idempotency-Key
	Kind       string // one of add, set, remove, clear, batch, read, create
	Began      time.Time
	Took       time.Duration
	Outcome    Outcome
	Connected  bool // whether there was a connection: false for a refused one
	// Problem is the type of the problem without /problems/ or, without an answer, "connection refused", "no connection",
	// "no answer" or "timeout", or what is wrong. When OK it is empty, or line-item-not-found.
	Problem    string
	Durability string // of an acknowledged write: "peers=2", "database"
}

// Totals are what the clients have done so far.
type Totals struct {
	Operations   int64            // writes that were begun
	Acknowledged int64            // writes that were
	ByPeers      int64            // of these, by peers alone
	ByDatabase   int64            // of these, by the database
	Replays      int64            // of these, answered as executed by an earlier attempt
	Failed       int64            // writes that certainly did not happen: given up, or removals that found nothing
	Unknown      int64            // writes that were given up, and may have happened
	Reads        int64            // reads that were answered
	Created      int64            // carts
	Attempts     int64            // requests sent, of any kind
	Refused      int64            // attempts that were refused
	Dropped      int64            // times that a client went on without its Cart-Context
	Sessions     int64            // see Verdict
	Wrong        int64            // see Verdict
	Retries      map[string]int64 // attempts that settled nothing, by Attempt.Problem
}

// String is for logs.
func (t Totals) String() string {
	return fmt.Sprintf("%d writes, %d acknowledged (%d by peers, %d by the database, %d of these replays), %d failed, "+
		"%d of unknown outcome, %d reads, %d contexts dropped, %d carts, %d attempts, retries: %v",
		t.Operations, t.Acknowledged, t.ByPeers, t.ByDatabase, t.Replays, t.Failed,
		t.Unknown, t.Reads, t.Dropped, t.Created, t.Attempts, t.Retries)
}

// Run is clients at work. Its methods may be called by any number of goroutines.
type Run struct {
	options    Options
	regions    [][]int // the nodes of each, in the order of Options
	began      time.Time
	http       *http.Client
	ready      readiness
	operations atomic.Uint64   // numbers given out
	running    context.Context // ends what is in flight
	end        context.CancelFunc
	stopping   context.Context // begins nothing more
	stop       context.CancelFunc
	clients    sync.WaitGroup
	polls      sync.WaitGroup
	replacing  sync.Mutex // held by who replaces a cart

	mu         sync.Mutex
	carts      []*cart // by number
	all        []*cart // those that were replaced, too
	totals     Totals
	complaints []string
	risks      risks
}

// Start creates the carts and sends the clients to work, until Stop. The end of ctx cuts off what is in flight, whose
// outcome then is unknown. It fails where a cart cannot be created.
func Start(ctx context.Context, o Options) (*Run, error) {
	if len(o.Nodes) == 0 || o.Carts < 1 || o.Clients < 1 {
		return nil, errors.New("workload: nodes, carts and clients are needed")
	}
	if o.CartWrites == 0 {
		o.CartWrites = DefaultCartWrites
	}
	if o.CartWrites < 1 || o.CartWrites > maxCartWrites {
		return nil, fmt.Errorf("workload: a cart gets 1 to %d writes", maxCartWrites)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	r := &Run{options: o, began: time.Now(), http: newHTTPClient(o), carts: make([]*cart, o.Carts)}
	r.totals.Retries = make(map[string]int64)
	r.regions = regions(o.Nodes)
	r.running, r.end = context.WithCancel(ctx)
	r.stopping, r.stop = context.WithCancel(r.running)
	r.ready.nodes = make([]atomic.Bool, len(o.Nodes))
	for i, n := range o.Nodes {
		if o.FollowReady {
			r.polls.Go(func() { r.ready.poll(r.running, r.http, i, n) })
		} else {
			r.ready.nodes[i].Store(true)
		}
	}
	founder := r.newClient(-1)
	for i := range o.Carts {
		c := founder.create(i)
		if c == nil {
			err := context.Cause(r.running)
			r.Stop()
			return nil, errors.Join(fmt.Errorf("workload: cart %d cannot be created: %v", i, r.complaints), err)
		}
		r.enter(c)
	}
	for i := range o.Clients {
		r.clients.Go(r.newClient(i).shop)
	}
	return r, nil
}

// Stop returns when every client has finished what it is at. It may be called again.
func (r *Run) Stop() {
	r.stop()
	r.clients.Wait()
	r.end()
	r.polls.Wait()
	r.http.CloseIdleConnections()
}

// Carts returns the paths of all carts so far, as /v1/carts/ID.
func (r *Run) Carts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var paths []string
	for _, c := range r.all {
		paths = append(paths, c.path())
	}
	return paths
}

// cart returns the cart of a number.
func (r *Run) cart(number int) *cart {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.carts[number]
}

// enter puts a cart in the place of its number.
func (r *Run) enter(c *cart) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.carts[c.number] = c
	r.all = append(r.all, c)
}

// Risk says which writes may be lost, as more failed at once than may.
type Risk struct {
	From, To time.Time // when they were under way
	Nodes    []int     // that acknowledged them, as numbered by Options; nil: any
	Database bool      // those that the database acknowledged as well, and not only those that peers alone did
}

// AtRisk says that some writes may be lost. The audit then takes them as of unknown outcome, and counts those that are
// missing as AtRiskLost. What somebody was shown outside the time of a risk is not at risk.
func (r *Run) AtRisk(k Risk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.risks = append(r.risks, k)
}
