package cart

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cartd/crdt"
)

// Times that the Service keeps to.
const (
	// contextWait is how long a request waits for this node to see what the client has seen.
	contextWait = 250 * time.Millisecond
	// loadWait is how long a request waits for a load, whatever holds that up. What the store says, it says
	// within loadTimeout, which is before that.
	loadWait    = 2 * time.Second
	loadTimeout = loadWait - 100*time.Millisecond
	// tick is the janitor's: in idleTicks it goes through all shards and packs the carts that were not used
	// for as long, and it purges every purgeTicks.
	tick       = time.Second
	idleTicks  = 10
	purgeTicks = 3600
)

// Options configure a Service. Only Store is required.
type Options struct {
	Store      Store
	Replicator Replicator // nil where the node is alone
	Limits     Limits     // DefaultLimits where zero
	Memory     int64      // budget for resident carts in bytes; 1 GiB where zero
	Now        func() time.Time
	Logger     *slog.Logger
}

// Service keeps the carts of one node. Its methods may be called from many goroutines.
type Service struct {
	store      Store
	replicator Replicator
	limits     Limits
	now        func() time.Time
	log        *slog.Logger

	shards    [shards]shard
	committer *committer

	budget    int64
	memory    atomic.Int64 // estimate of what resident carts take
	residents atomic.Int64
	evictions atomic.Int64
	evicting  sync.Mutex
	hand      int // the shard that is searched next; guarded by evicting

	tick       atomic.Int64
	running    context.Context // until Close
	stop       context.CancelFunc
	background sync.WaitGroup // the janitor and loads
}

// New returns a Service that runs until Close.
func New(o Options) *Service {
	s := &Service{
		store:      o.Store,
		replicator: o.Replicator,
		limits:     o.Limits,
		now:        o.Now,
		log:        o.Logger,
		budget:     o.Memory,
		committer:  newCommitter(o.Store),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	if s.limits == (Limits{}) {
		s.limits = DefaultLimits
	}
	if s.budget == 0 {
		s.budget = 1 << 30
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for i := range s.shards {
		s.shards[i].carts, s.shards[i].loads = make(map[ID]*resident), make(map[ID]*load)
	}
	go s.committer.run()
	s.background.Go(s.janitor)
	return s
}

// Close commits what was accepted and releases the store. No other method may be running or be
// called afterwards.
func (s *Service) Close(ctx context.Context) error {
	s.stop()
	s.background.Wait()
	return errors.Join(s.committer.close(ctx), s.store.Close())
}

// Failed returns a channel that is closed when the store failed for good: from then on nothing is
// acknowledged, and the process has to be started again. Err then tells why.
func (s *Service) Failed() <-chan struct{} { return s.committer.failed }

// Err returns why Failed is closed.
func (s *Service) Err() error {
	select {
	case <-s.committer.failed:
		return s.committer.err
	default:
		return nil
	}
}

// Ready returns why the service cannot acknowledge writes at present, or nil.
func (s *Service) Ready() error { return s.committer.unavailable() }

// Limits returns the limits that commands are held to.
func (s *Service) Limits() Limits { return s.limits }

// Stats is a reading of a Service.
type Stats struct {
	Resident int64 // carts
	Memory   int64 // estimate of what they take, in bytes
	Evicted  int64 // carts, since the start
}

// Stats reads the service.
func (s *Service) Stats() Stats {
	return Stats{Resident: s.residents.Load(), Memory: s.memory.Load(), Evicted: s.evictions.Load()}
}

// Access is what a caller shows to be let at a cart.
type Access struct {
	Token   *Token
	Trusted bool // may have any cart, whatever the token
}

// Step is a command of a request.
type Step struct {
	Command Command
	Key     string // names the command across its retries, in this cart; empty: by Request.Key
}

// Request is a list of commands for one cart, which are applied in order, all or none.
type Request struct {
	Cart    ID
	Access  Access
	Context *Context // what the client has seen; nil: everything
	IfMatch []uint64 // versions, one of which the cart must have; nil: any
	Key     string   // names the request across its retries, in this cart; empty: none
	Steps   []Step
}

// Result is the answer to a request.
type Result struct {
	State    *State // durable, and after all steps
	Steps    []StepResult
	Replayed bool // every step had been executed before
}

// StepResult is what became of a step.
type StepResult struct {
	Line     LineID // zero where the step was about no line, or none that is known
	Quantity int64  // of that line after the step
	Replayed bool   // it had been executed before
}

// Execute applies a request and returns once what it did is durable, or was refused. After an
// Error of reason NotDurable it may have been applied: the retry under the same key counts once.
func (s *Service) Execute(ctx context.Context, q *Request) (Result, error) {
	if len(q.Steps) > MaxOperations {
		return Result{}, invalid("", "%d operations, at most %d are allowed", len(q.Steps), MaxOperations)
	}
	if err := s.check(q.Steps); err != nil {
		return Result{}, err
	}
	r, err := s.acquire(ctx, q.Cart)
	if err != nil {
		return Result{}, err
	}
	defer r.mu.Unlock()
	if err := s.admitsWrite(ctx, r, q.Access); err != nil {
		return Result{}, err
	}
	if err := s.awaitContext(ctx, r, q.Context, func() *State { return r.latest }); err != nil {
		return Result{}, err
	}
	if r.latest.Erased { // while it waited
		return Result{}, s.admitsWrite(ctx, r, q.Access)
	}
	var result Result
	var ch *change
	err = r.inTurn(ctx, func() error {
		e := &edit{state: r.latest, limits: s.limits}
		if e.state.Erased {
			return ErrNotFound
		}
		var err error
		if result, err = s.author(ctx, e, r, q); err != nil || e.delta == nil {
			return err
		}
		if err := s.writable(); err != nil {
			return err
		}
		result.State = e.state
		ch = s.push(r, Change{ID: q.Cart, Delta: e.delta, State: e.state})
		return nil
	})
	switch {
	case errors.Is(err, &Error{Reason: NotDurable}):
		return Result{}, err
	case ch != nil:
		if err := s.awaitSafe(ctx, r, ch); err != nil {
			return Result{}, err
		}
		return result, nil
	// A refusal or a replay tells of what it observed, so that has to be durable first.
	case !s.awaitDurable(ctx, r):
		return Result{}, errNotDurable
	case err != nil:
		return Result{}, err
	case r.durable.Erased:
		return Result{}, ErrNotFound
	}
	result.State = r.durable
	return result, nil
}

// author applies a request in its turn. r.mu is held on the way in and out, but not meanwhile.
func (s *Service) author(ctx context.Context, e *edit, r *resident, q *Request) (Result, error) {
	r.mu.Unlock()
	defer r.mu.Lock()
	return s.apply(ctx, e, r, q)
}

var errPrecondition = &Error{Reason: PreconditionFailed, Detail: "the cart has changed since"}

var errNotDurable = &Error{Reason: NotDurable, Detail: "the write is not safe yet and may still take effect: " +
	"repeat it under the same Idempotency-Key"}

// writable refuses a write that the store would not take, before anything is changed.
func (s *Service) writable() error {
	if err := s.committer.unavailable(); err != nil {
		return &Error{Reason: NotDurable, Detail: "the store takes no writes at present: nothing was changed", Err: err}
	}
	return nil
}

// push makes a change the latest of a residence and sends it on its way. r.mu is held.
func (s *Service) push(r *resident, c Change) *change {
	ch := &change{Change: c, resident: r, done: make(chan struct{})}
	r.push(ch)
	s.resized(r)
	ch.stalled = s.committer.enqueue(ch)
	return ch
}

// awaitSafe waits until a change that was pushed is durable. r.mu is held on the way in and out, but
// not while it waits.
func (s *Service) awaitSafe(ctx context.Context, r *resident, ch *change) error {
	r.mu.Unlock()
	defer r.mu.Lock()
	if s.replicator != nil {
		s.replicator.Replicate(ch.Change, func() { r.acknowledged(ch) })
	}
	select {
	case <-ch.done:
		return nil
	case <-ch.stalled:
	case <-ctx.Done():
	}
	select {
	case <-ch.done: // at the same time
		return nil
	default:
		return errNotDurable
	}
}

// awaitDurable waits until the latest state of a residence is durable, or one that came after it.
func (s *Service) awaitDurable(ctx context.Context, r *resident) bool {
	target := r.latest
	return r.await(ctx, s.committer.stall(), func() bool {
		return r.durable != nil && (r.durable.Erased || !target.Erased && r.durable.VV.Descends(target.VV))
	})
}

func (s *Service) check(steps []Step) error {
	for i, step := range steps {
		if err := step.Command.check(s.limits); err != nil {
			return inStep(err, i)
		}
	}
	return nil
}

// StepError is the refusal of a request for the sake of one step.
type StepError struct {
	Step int
	Err  error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

func inStep(err error, step int) error { return &StepError{Step: step, Err: err} }

// admits refuses a cart that is not the caller's, and only tells whose it is that it expired.
func (s *Service) admits(state *State, a Access) error {
	now := s.now()
	if state.Erased || purged(state, now) || !a.Trusted && (a.Token == nil || !a.Token.opens(state)) {
		return ErrNotFound
	}
	if expired(state, now) {
		return &Error{Reason: Expired, Detail: "the cart expired at " + state.Lifetime.Expires.Time().Format(time.RFC3339)}
	}
	return nil
}

// admitsWrite is admits for who is about to observe the latest state, but that the cart was erased
// is told only once that is durable: nobody may take a cart for gone that can come back.
func (s *Service) admitsWrite(ctx context.Context, r *resident, a Access) error {
	if !r.latest.Erased || r.durable == nil || r.durable.Erased {
		return s.admits(r.latest, a)
	}
	if err := s.admits(r.durable, a); err != nil {
		return err
	}
	if !s.awaitDurable(ctx, r) {
		return errNotDurable
	}
	return ErrNotFound
}

// awaitContext waits until the state that at returns holds what the client has seen.
func (s *Service) awaitContext(ctx context.Context, r *resident, c *Context, at func() *State) error {
	ready := func() bool { state := at(); return state != nil && (state.Erased || c.seenBy(state)) }
	if ready() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, contextWait)
	defer cancel()
	if !r.await(ctx, nil, ready) {
		return &Error{Reason: ContextUnavailable, Detail: "this node has not seen what Cart-Context tells of; another one may have"}
	}
	return nil
}

// executed returns the records of earlier executions of an operation. It refuses an id that differs
// only in what the command was from a known one, or from one of those before it in the request.
func executed(state *State, id OperationID, before []OperationID) (crdt.Operations, error) {
	known := state.Operations.Of(id)
	another := func(earlier OperationID) bool {
		return earlier != id && bytes.Equal(earlier[:operationPrefix], id[:operationPrefix])
	}
	if len(known) == 0 && (len(state.Operations.WithPrefix(id[:operationPrefix])) > 0 || slices.ContainsFunc(before, another)) {
		return nil, &Error{Reason: OperationReused, Detail: "the key was used for another request"}
	}
	return known, nil
}

// replays returns, for each step of a request, the records of its earlier executions, and whether
// all steps have some.
func replays(state *State, ids []OperationID) (known []crdt.Operations, all bool, err error) {
	known = make([]crdt.Operations, len(ids))
	all = len(ids) > 0
	for i, id := range ids {
		if id != (OperationID{}) {
			if known[i], err = executed(state, id, ids[:i]); err != nil {
				return nil, false, inStep(err, i)
			}
		}
		all = all && len(known[i]) > 0
	}
	return known, all, nil
}

// apply applies the steps of a request that were not executed before.
func (s *Service) apply(ctx context.Context, e *edit, r *resident, q *Request) (Result, error) {
	mark, ids := q.operationIDs()
	known, all, err := replays(e.state, ids)
	if err != nil {
		return Result{}, err
	}
	if !all && q.IfMatch != nil && !slices.Contains(q.IfMatch, Version(e.state)) {
		return Result{}, errPrecondition
	}
	result := Result{Steps: make([]StepResult, len(q.Steps)), Replayed: all}
	event := crdt.Event{Replica: r.replica}
	if q.Context != nil {
		event.Context, event.Narrowed = q.Context.vv, true
	}
	execute := func(c Command, id OperationID) error {
		event.At, event.Operation = e.state.Lifetime.Updated.Next(s.now()), id
		event.Also = event.Also.With(e.state.VV.Next(r.replica))
		return e.apply(event, c)
	}
	if mark != (OperationID{}) {
		if marked, err := executed(e.state, mark, nil); err != nil {
			return Result{}, inStep(err, 0)
		} else if len(marked) == 0 {
			if err := execute(note{}, mark); err != nil {
				return Result{}, inStep(err, 0)
			}
		}
	}
	for i, step := range q.Steps {
		if ctx.Err() != nil {
			return Result{}, errBusy
		}
		at := &result.Steps[i]
		repeated := ids[i] != (OperationID{}) && slices.Contains(ids[:i], ids[i])
		if repeated || len(known[i]) > 0 {
			at.Replayed = true
			for _, o := range known[i] {
				event.Also = event.Also.With(o.Dot)
			}
		} else if err := execute(step.Command, ids[i]); err != nil {
			return Result{}, inStep(err, i)
		}
		if key, line := e.find(step.Command.about()); key != "" {
			at.Line = lineIDOf(key)
			if line != nil {
				at.Quantity = e.state.Quantity(line)
			}
		}
	}
	return result, nil
}

// Read returns the durable state of a cart, which holds what c tells of. It waits for a load of the cart
// and for the context, both of which have bounds of their own.
func (s *Service) Read(ctx context.Context, id ID, a Access, c *Context) (*State, error) {
	r, err := s.acquire(ctx, id)
	if err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	if r.durable == nil {
		return nil, ErrNotFound // not created yet, as far as anybody was told
	}
	if err := s.admits(r.durable, a); err != nil {
		return nil, err
	}
	if err := s.awaitContext(ctx, r, c, func() *State { return r.durable }); err != nil {
		return nil, err
	}
	if r.durable.Erased {
		return nil, ErrNotFound
	}
	return r.durable, nil
}

// Create makes a cart and returns its id, the token that opens it, and its durable state after
// the steps.
func (s *Service) Create(ctx context.Context, currency string, steps []Step) (ID, Token, Result, error) {
	fail := func(err error) (ID, Token, Result, error) { return ID{}, Token{}, Result{}, err }
	if err := checkCurrency("/currency", currency); err != nil {
		return fail(err)
	}
	if len(steps) > s.limits.Lines {
		return fail(&Error{Reason: TooManyLines, Detail: fmt.Sprintf("the cart would have %d lines, at most %d are allowed", len(steps), s.limits.Lines)})
	}
	if err := s.check(steps); err != nil {
		return fail(err)
	}
	if err := s.writable(); err != nil {
		return fail(err)
	}
	id, token := NewID(), NewToken()
	r := &resident{id: id, latest: new(State), replica: newReplicaID()}
	e := s.create(r, currency, token)
	result, err := s.apply(ctx, e, r, &Request{Cart: id, Steps: steps})
	if err != nil {
		return fail(err)
	}
	if err := s.admit(s.shard(id), r); err != nil {
		return fail(err)
	}
	defer r.mu.Unlock()
	result.State = e.state
	if err := s.awaitSafe(ctx, r, s.push(r, Change{ID: id, Delta: e.delta, State: e.state})); err != nil {
		return fail(err)
	}
	return id, token, result, nil
}

// create returns an edit that has made the first event of a cart.
func (s *Service) create(r *resident, currency string, token Token) *edit {
	event := crdt.Event{Replica: r.replica, At: crdt.Timestamp(0).Next(s.now())}
	d := event.Touch(r.latest)
	hash := token.hash()
	event.Write(d, registerCurrency, currency, false)
	event.Write(d, registerToken, string(hash[:]), false)
	d.Lifetime = crdt.Lifetime{
		Created: event.At,
		Updated: event.At,
		Expires: crdt.TimestampAt(event.At.Time().Add(TimeToLive)),
	}
	state, err := r.latest.Apply(d)
	if err != nil {
		panic(err) // the delta has no base
	}
	return &edit{state: state, delta: d, limits: s.limits}
}

// Erase deletes a cart for good: what is known of it anywhere goes when it learns of this.
func (s *Service) Erase(ctx context.Context, q *Request) error {
	r, err := s.acquire(ctx, q.Cart)
	if err != nil {
		return err
	}
	defer r.mu.Unlock()
	if err := s.admitsWrite(ctx, r, q.Access); err != nil && !errors.Is(err, &Error{Reason: Expired}) {
		return err
	}
	if err := s.awaitContext(ctx, r, q.Context, func() *State { return r.latest }); err != nil {
		return err
	}
	var ch *change
	err = r.inTurn(ctx, func() error {
		if r.latest.Erased {
			return ErrNotFound
		}
		if q.IfMatch != nil && !slices.Contains(q.IfMatch, Version(r.latest)) {
			return errPrecondition
		}
		if err := s.writable(); err != nil {
			return err
		}
		erased := &State{Erased: true}
		ch = s.push(r, Change{ID: q.Cart, Delta: &crdt.Delta{State: *erased}, State: erased})
		return nil
	})
	switch {
	case errors.Is(err, &Error{Reason: NotDurable}):
		return err
	case ch != nil:
		return s.awaitSafe(ctx, r, ch)
	case !s.awaitDurable(ctx, r): // what the refusal tells of
		return errNotDurable
	}
	return err
}

// janitor packs carts that are not in use and purges those that expired long ago.
func (s *Service) janitor() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	const perTick = (shards + idleTicks - 1) / idleTicks
	for {
		select {
		case <-s.running.Done():
			return
		case <-ticker.C:
		}
		now := s.tick.Add(1)
		s.makeRoom() // carts grow where they are, and when they are unpacked
		s.packIdle(int(now%idleTicks)*perTick, perTick)
		if now%purgeTicks == 1 {
			s.purge()
		}
	}
}

func (s *Service) purge() {
	ctx, cancel := context.WithTimeout(s.running, time.Minute)
	defer cancel()
	n, err := s.store.Purge(ctx, crdt.TimestampAt(s.now().Add(-TimeToPurge)))
	if err != nil {
		s.log.Error("purge of expired carts", "error", err)
	} else if n > 0 {
		s.log.Info("purged expired carts", "carts", n)
	}
}

func newReplicaID() crdt.ReplicaID {
	var b [8]byte
	rand.Read(b[:])
	return crdt.ReplicaID(binary.LittleEndian.Uint64(b[:]))
}
