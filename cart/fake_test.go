package cart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cartd/crdt"
)

// fakeStore keeps the joined states of carts. Its hooks run before an operation, without its lock,
// so they may block; an error that one returns becomes the operation's, and nothing happens.
type fakeStore struct {
	mu     sync.Mutex
	carts  map[ID]*State
	apart  map[ID][]*crdt.Delta // that cannot be joined yet
	loads  map[ID]int           // finished or not
	purges []crdt.Timestamp
	closed bool
	away   bool // no versions are told
	rows   int  // versions that were told

	onLoad   func(context.Context, ID) error
	onCommit func(context.Context, []Change) error
}

func newFakeStore() *fakeStore {
	return &fakeStore{carts: make(map[ID]*State), apart: make(map[ID][]*crdt.Delta), loads: make(map[ID]int)}
}

func (f *fakeStore) Load(ctx context.Context, id ID) (*State, error) {
	f.mu.Lock()
	f.loads[id]++
	hook := f.onLoad
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, id); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	s := f.carts[id]
	f.mu.Unlock()
	if s == nil {
		return nil, ErrNotFound
	}
	// A store returns a state of its own, made from bytes.
	return crdt.DecodeState(crdt.AppendState(nil, s))
}

func (f *fakeStore) Commit(ctx context.Context, changes []Change) error {
	f.mu.Lock()
	hook := f.onCommit
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, changes); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range changes {
		s := f.carts[c.ID]
		if s == nil {
			s = new(State)
		}
		if c.Delta == nil {
			s = crdt.Join(s, c.State)
		} else if next, err := s.Apply(c.Delta); err == nil {
			s = next
		} else if c.State == nil {
			f.apart[c.ID] = append(f.apart[c.ID], c.Delta)
		} else {
			return fmt.Errorf("the change of %v came before what it needs: %w", c.ID, err)
		}
		whole := fragments{}
		for _, d := range f.apart[c.ID] {
			whole.deltas = append(whole.deltas, fragment{delta: d})
		}
		if s, _ = whole.joinTo(s); s.Erased || len(s.VV) > 0 {
			f.carts[c.ID] = s
		}
		f.apart[c.ID] = slices.DeleteFunc(f.apart[c.ID], func(d *crdt.Delta) bool { return joins(s, d) })
	}
	return nil
}

func (f *fakeStore) Purge(_ context.Context, before crdt.Timestamp) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.purges = append(f.purges, before)
	n := 0
	for id, s := range f.carts {
		if s.Lifetime.Expires != 0 && s.Lifetime.Expires < before {
			delete(f.carts, id)
			n++
		}
	}
	return n, nil
}

func (f *fakeStore) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func (f *fakeStore) hookLoad(hook func(context.Context, ID) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onLoad = hook
}

func (f *fakeStore) hookCommit(hook func(context.Context, []Change) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onCommit = hook
}

// blockCommits makes commits wait until release is called, or their context ends. A value comes
// out of entered for each commit that begins to wait.
func (f *fakeStore) blockCommits() (entered <-chan struct{}, release func()) {
	in, gate := make(chan struct{}, 100), make(chan struct{})
	f.hookCommit(func(ctx context.Context, _ []Change) error {
		in <- struct{}{}
		select {
		case <-gate:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return in, sync.OnceFunc(func() {
		f.hookCommit(nil)
		close(gate)
	})
}

// failCommits makes every commit fail with err; nil ends that.
func (f *fakeStore) failCommits(err error) {
	if err == nil {
		f.hookCommit(nil)
		return
	}
	f.hookCommit(func(context.Context, []Change) error { return err })
}

func (f *fakeStore) state(id ID) *State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.carts[id]
}

func (f *fakeStore) put(id ID, s *State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.carts[id] = s
}

func (f *fakeStore) loadsOf(id ID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loads[id]
}

// fakeReplicator keeps what it was given, for a node with as many peers as the test says.
type fakeReplicator struct {
	mu         sync.Mutex
	peers      int
	handedOver atomic.Bool
	rank       int
	home       int    // a slot, or -1
	dead       uint64 // the start id of a peer that went away
	sent       []sent
	marks      []mark
	crossed    []crossed
	abroad     int // processes of other regions
	fetch      func(id ID) (payloads [][]byte, complete bool)
	elsewhere  [][]byte      // what other regions answer to a fetch, where this one is lacking something
	came       chan struct{} // a value for each delta
}

type crossed struct {
	sent
	durable bool
}

type sent struct {
	id    ID
	delta []byte
	held  func(holder uint64)
}

func newFakeReplicator() *fakeReplicator {
	return &fakeReplicator{peers: 2, home: -1, came: make(chan struct{}, 1000)}
}

func (f *fakeReplicator) Replicate(id [16]byte, delta []byte, held func(uint64)) {
	f.mu.Lock()
	f.sent = append(f.sent, sent{id, delta, held})
	f.mu.Unlock()
	f.came <- struct{}{}
}

func (f *fakeReplicator) Mark(_ [16]byte, encoded []byte) {
	m, err := decodeMark(encoded)
	if err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marks = append(f.marks, m)
}

func (f *fakeReplicator) Cross(id [16]byte, delta []byte, durable bool, held func(uint64)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crossed = append(f.crossed, crossed{sent{id, delta, held}, durable})
}

func (f *fakeReplicator) Abroad() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.abroad
}

func (f *fakeReplicator) setAbroad(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abroad = n
}

func (f *fakeReplicator) Peers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peers
}

func (f *fakeReplicator) setPeers(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peers = n
}

func (f *fakeReplicator) HandedOver() bool { return f.handedOver.Load() }

func (f *fakeReplicator) Home() int { return f.home }

func (f *fakeReplicator) setDead(holder uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = holder
}

func (f *fakeReplicator) Alive(holder uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return holder != f.dead
}

func (f *fakeReplicator) Synced() bool { return true }

func (f *fakeReplicator) Rank([16]byte) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rank
}

func (f *fakeReplicator) Fetch(id [16]byte, lacking bool, answer func([][]byte, bool)) {
	f.mu.Lock()
	fetch := f.fetch
	f.mu.Unlock()
	var payloads [][]byte
	complete := true
	if fetch != nil {
		payloads, complete = fetch(id)
	}
	if lacking {
		payloads = append(payloads, f.elsewhere...)
	}
	go answer(payloads, complete)
}

// acknowledge has a peer acknowledge the i-th delta.
func (f *fakeReplicator) acknowledge(i int) {
	f.mu.Lock()
	held := f.sent[i].held
	f.mu.Unlock()
	held(1)
}

// clock is a clock that stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// start returns a Service that is closed with the test.
func start(t testing.TB, o Options) *Service {
	t.Helper()
	if o.Store == nil {
		o.Store = newFakeStore()
	}
	s := New(o)
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil && s.Err() == nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// client is a client of one cart that shows its token.
type client struct {
	t     testing.TB
	s     *Service
	id    ID
	token Token
}

// create makes a cart in EUR.
func create(t testing.TB, s *Service, commands ...Command) *client {
	t.Helper()
	id, token, _, err := s.Create(t.Context(), "EUR", stepsOf(commands), Default)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return &client{t, s, id, token}
}

// at returns the client as it talks to another Service.
func (c *client) at(s *Service) *client { return &client{c.t, s, c.id, c.token} }

func stepsOf(commands []Command) []Step {
	var steps []Step
	for _, command := range commands {
		steps = append(steps, Step{Command: command})
	}
	return steps
}

// try executes q, completed by the cart and the token.
func (c *client) try(q Request) (Result, error) {
	return c.tryContext(c.t.Context(), q)
}

func (c *client) tryContext(ctx context.Context, q Request) (Result, error) {
	q.Cart, q.Access = c.id, c.access()
	return c.s.Execute(ctx, &q)
}

func (c *client) access() Access { return Access{Token: &c.token} }

// do executes commands that must succeed.
func (c *client) do(commands ...Command) Result {
	c.t.Helper()
	return c.request(Request{Steps: stepsOf(commands)})
}

// keyed executes commands, which must succeed, under a key of the request.
func (c *client) keyed(key string, commands ...Command) Result {
	c.t.Helper()
	return c.request(Request{Key: key, Steps: stepsOf(commands)})
}

func (c *client) request(q Request) Result {
	c.t.Helper()
	r, err := c.try(q)
	if err != nil {
		c.t.Fatalf("Execute(%+v): %v", q.Steps, err)
	}
	return r
}

// refused executes commands that must be refused for the reason.
func (c *client) refused(reason Reason, commands ...Command) {
	c.t.Helper()
	_ = c.refusal(reason, commands...)
}

// refusal is refused, and returns the Error.
func (c *client) refusal(reason Reason, commands ...Command) *Error {
	c.t.Helper()
	_, err := c.try(Request{Steps: stepsOf(commands)})
	return refusalOf(c.t, err, reason)
}

func (c *client) read() *State {
	c.t.Helper()
	s, err := c.s.Read(c.t.Context(), c.id, c.access(), nil)
	if err != nil {
		c.t.Fatalf("Read: %v", err)
	}
	return s
}

// want compares what the cart shows.
func (c *client) want(lines string) {
	c.t.Helper()
	if got := linesOf(c.read()); got != lines {
		c.t.Fatalf("the cart shows %q, want %q", got, lines)
	}
}

// contextOf returns the context of a client that was shown s.
func (c *client) contextOf(s *State) *Context {
	c.t.Helper()
	var v View
	v.Read(c.id, s, DefaultLimits)
	x, err := ParseContext(c.id, string(v.AppendContext(nil)))
	if err != nil {
		c.t.Fatalf("ParseContext: %v", err)
	}
	return x
}

// wantReason checks that err is an Error of the reason.
func wantReason(t testing.TB, err error, reason Reason) {
	t.Helper()
	_ = refusalOf(t, err, reason)
}

// refusalOf is wantReason, and returns the Error.
func refusalOf(t testing.TB, err error, reason Reason) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Fatalf("the error is %v, want one of reason %s", err, reason)
	}
	return e
}

// isNotFound reports whether err is the one answer for all carts that a caller may not know of.
func isNotFound(err error) bool {
	return err == ErrNotFound //nolint:errorlint // the very value, so that nothing tells the carts apart
}

// linesOf renders the lines of s, in the order of display: "A=2 B(size:M)=1".
func linesOf(s *State) string {
	var v View
	v.Read(ID{}, s, DefaultLimits)
	text := ""
	for i := range v.Lines {
		l := &v.Lines[i]
		if i > 0 {
			text += " "
		}
		text += l.SKU
		for name, value := range l.Options() {
			text += "(" + name + ":" + value + ")"
		}
		text += fmt.Sprintf("=%d", l.Quantity)
	}
	return text
}

// quantityOf returns the quantity of the line of key; 0 where it is absent.
func quantityOf(s *State, key string) int64 {
	if l := s.Line(key); l != nil {
		return s.Quantity(l)
	}
	return 0
}

// bySKU names a line by its product.
func bySKU(sku string, options ...Pair) LineRef { return LineRef{SKU: sku, Options: options} }

// byID names the same line by its id.
func byID(sku string, options ...Pair) LineRef {
	return LineRef{ID: lineIDOf(lineKey(sku, options))}
}

func addN(sku string, n int64) Add { return Add{Line: bySKU(sku), Quantity: n} }
func setN(sku string, n int64) Set { return Set{Line: bySKU(sku), Quantity: n} }
func remove(sku string) Remove     { return Remove{bySKU(sku)} }
func takeOff(sku string, n int64) Decrement {
	return Decrement{Line: bySKU(sku), Quantity: n}
}

// hugeLimits let everything pass.
var hugeLimits = Limits{Lines: 1 << 30, Quantity: 1 << 60}

// author makes states without a Service, as another node would.
type author struct {
	t       testing.TB
	replica crdt.ReplicaID
	now     time.Time
}

// create returns the state of a new cart in EUR.
func (a author) create(token Token) *State {
	return new(Service{now: func() time.Time { return a.now }}).
		create(&resident{replica: a.replica, latest: new(State)}, "EUR", token).state
}

// apply returns s after the commands.
func (a author) apply(s *State, commands ...Command) *State {
	a.t.Helper()
	e := &edit{state: s, limits: hugeLimits}
	for _, c := range commands {
		if err := e.apply(crdt.Event{Replica: a.replica, At: e.state.Lifetime.Updated.Next(a.now)}, c); err != nil {
			a.t.Fatalf("%+v: %v", c, err)
		}
	}
	return e.state
}

// addOnes returns s after n adds of one unit to the line of A, in one step.
func (a author) addOnes(s *State, n int) *State {
	a.t.Helper()
	seq := s.VV.Get(a.replica)
	at := s.Lifetime.Updated + 1
	d := &crdt.Delta{State: State{VV: crdt.VV{{Replica: a.replica, Seq: seq + uint64(n)}}, Lifetime: crdt.Lifetime{Updated: at}}}
	if seq > 0 {
		d.Base = crdt.VV{{Replica: a.replica, Seq: seq}}
	}
	l := &crdt.Line{Key: "A", First: at}
	for i := range n {
		l.Counter = append(l.Counter, crdt.Entry{Dot: crdt.Dot{Replica: a.replica, Seq: seq + 1 + uint64(i)}, N: 1})
	}
	d.Lines = []*crdt.Line{l}
	z, err := s.Apply(d)
	if err != nil {
		a.t.Fatal(err)
	}
	return z
}
