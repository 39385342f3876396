package cart

import (
	"bytes"
	"cmp"
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
	// refreshAfter is when it asks the store and the other nodes for that, and again.
	refreshAfter = 50 * time.Millisecond
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
	Store Store
	// Shared says that other nodes write to the store too, and that it outlives each of them. Where there
	// is a Replicator, only the commit to such a store acknowledges a write.
	Shared     bool
	Replicator Replicator // nil where the node is alone
	Placed     bool       // it owns the slots that Keep tells of, and before that none; else all, before that
	Tolerate   int        // how many nodes may fail at once, where there is a Replicator; 1 where zero
	Limits     Limits     // DefaultLimits where zero
	Memory     int64      // budget for carts in bytes; 1 GiB where zero
	Now        func() time.Time
	Logger     *slog.Logger
	Scheduler  Scheduler // that of the Go runtime where nil
}

// Service keeps the carts of one node. Its methods may be called from many goroutines.
type Service struct {
	store      Store
	shared     bool
	replicator Replicator
	tolerate   int
	limits     Limits
	now        func() time.Time
	log        *slog.Logger
	scheduler  Scheduler

	shards    [shards]shard
	committer *committer
	flusher   flusher
	backlog   ages // of the carts of which a store that nodes share lacks something
	losses    losses
	crossings crossings
	lags      lags
	asked     atomic.Int64 // times that other regions were asked to hold a cart
	placed    atomic.Bool  // it is known which slots are own
	gains     gains
	hedges    atomic.Int64
	answers   struct{ peers, database, notDurable atomic.Int64 } // to writes
	refused   struct{ malformed, tooNew, overMemory, expired atomic.Int64 }
	repeated  atomic.Int64

	budget    int64
	memory    atomic.Int64 // estimate of what resident carts take
	residents atomic.Int64
	evictions atomic.Int64
	evicting  sync.Mutex
	hand      int    // the shard that is searched next; guarded by evicting
	barren    search // the last that found nothing to evict; guarded by evicting

	tick    atomic.Int64
	running context.Context // until Close
	stop    context.CancelFunc

	activities struct { // what runs in the background, the committer apart
		sync.Mutex
		n    int
		over chan struct{} // closed when none is left; nil before Close
	}
}

// New returns a Service that runs until Close.
func New(o Options) *Service {
	s := &Service{
		store:      o.Store,
		shared:     o.Shared,
		replicator: o.Replicator,
		tolerate:   cmp.Or(o.Tolerate, 1),
		limits:     cmp.Or(o.Limits, DefaultLimits),
		now:        o.Now,
		log:        o.Logger,
		scheduler:  o.Scheduler,
		budget:     cmp.Or(o.Memory, 1<<30),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.scheduler == nil {
		s.scheduler = runtimeScheduler{}
	}
	s.placed.Store(!o.Placed)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.service = s
		if !o.Placed || o.Replicator == nil {
			sh.own = allOfShard
		}
		sh.carts, sh.loads, sh.fragments = make(map[ID]*resident), make(map[ID]*load), make(map[ID]*fragments)
		if s.replicator != nil {
			sh.versions, sh.guests = make(map[ID]uint64), make(map[ID]*resident)
		}
	}
	s.committer = newCommitter(s.store, s.scheduler, s.now)
	s.scheduler.Go(s.committer.run)
	s.background(s.janitor)
	if s.replicator != nil {
		s.flusher.pause = minPause
		s.background(s.flushing)
		s.background(s.seeding)
	}
	return s
}

// background runs f beside the rest; Close waits for it.
func (s *Service) background(f func()) {
	a := &s.activities
	a.Lock()
	a.n++
	a.Unlock()
	s.scheduler.Go(func() {
		f()
		a.Lock()
		defer a.Unlock()
		if a.n--; a.n == 0 && a.over != nil && !isClosed(a.over) {
			close(a.over)
		}
	})
}

// Close commits what was accepted and releases the store. Of what a database lacks and enough nodes hold
// it writes nothing: that is what Flush is for. No other method may be running or be called afterwards.
func (s *Service) Close(ctx context.Context) error {
	s.stop()
	a := &s.activities
	a.Lock()
	over := make(chan struct{})
	if a.n == 0 {
		close(over)
	}
	a.over = over
	a.Unlock()
	s.scheduler.Wait(over, nil, nil)
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
func (s *Service) Ready() error {
	switch {
	case s.Err() != nil:
		return s.Err()
	case s.reachable(), s.abroad():
		return nil
	case !s.acknowledges():
		return errAlone
	}
	return s.committer.unavailable()
}

var errAlone = errors.New("cart: too few nodes are there to hold a write")

// Limits returns the limits that commands are held to.
func (s *Service) Limits() Limits { return s.limits }

// Stats is a reading of a Service.
type Stats struct {
	Resident int64 // carts
	Memory   int64 // estimate of what they take, in bytes
	Evicted  int64 // carts, since the start

	Unsaved         int           // carts of which the store lacks something
	OldestUnsaved   time.Duration // since the first of that
	UnderReplicated int           // carts with writes that too few nodes are known to hold, and not the store
	FlushPause      time.Duration // for which a write is left to the nodes alone, when all goes well
	StalledSince    time.Time     // when the store began to take nothing; zero while it does
	StalledBy       error         // why
	Commits         Latencies     // that succeeded, since the start

	Abroad map[string]Lag // by region

	AckedByPeers    int64   // writes that were acknowledged because enough nodes held them, since the start
	AckedByDatabase int64   // because the store, which may be a file, had them
	NotDurable      int64   // writes that were refused with NotDurable, since the start
	Hedges          int64   // writes that went to the database because nodes were late, since the start
	Refused         Refused // payloads of peers, since the start
	AskedAbroad     int64   // times that other regions were asked to hold a cart, since the start
	Repeated        int64   // payloads of peers that told nothing new, since the start
}

// Stats reads the service.
func (s *Service) Stats() Stats {
	z := Stats{
		Resident: s.residents.Load(),
		Memory:   s.memory.Load(),
		Evicted:  s.evictions.Load(),
		Hedges:   s.hedges.Load(),
		Refused: Refused{
			Malformed:  s.refused.malformed.Load(),
			TooNew:     s.refused.tooNew.Load(),
			OverMemory: s.refused.overMemory.Load(),
			Expired:    s.refused.expired.Load(),
		},
		Repeated:    s.repeated.Load(),
		AskedAbroad: s.asked.Load(),
		Abroad:      s.lags.read(s.now()),

		AckedByPeers:    s.answers.peers.Load(),
		AckedByDatabase: s.answers.database.Load(),
		NotDurable:      s.answers.notDurable.Load(),
		FlushPause:      s.flusher.pauses(),
		Commits:         s.committer.latencies.read(),
		UnderReplicated: s.underReplicated(),
	}
	unsaved := s.committer.backlog()
	if s.lazy() {
		unsaved = s.backlog.all()
	}
	z.Unsaved = unsaved.carts
	if unsaved.carts > 0 {
		z.OldestUnsaved = max(0, s.now().Sub(time.Unix(0, unsaved.since)))
	}
	if since, why := s.committer.stalledSince(); why != nil {
		z.StalledSince, z.StalledBy = time.Unix(0, since), why
	}
	return z
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
	Cart       ID
	Access     Access
	Context    *Context   // what the client has seen; nil: everything
	IfMatch    []uint64   // versions, one of which the cart must have; nil: any
	Key        string     // names the request across its retries, in this cart; empty: none
	Durability Durability // that it is to have before it is acknowledged
	Steps      []Step
}

// Result is the answer to a request.
type Result struct {
	State    *State // durable, and after all steps
	Steps    []StepResult
	Replayed bool // every step had been executed before
	Reached  Reached
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
	result, err := s.execute(ctx, q)
	s.answered(result.Reached, err)
	return result, err
}

// answered counts the answer to a write.
func (s *Service) answered(reached Reached, err error) {
	switch {
	case err == nil && reached.Database:
		s.answers.database.Add(1)
	case err == nil:
		s.answers.peers.Add(1)
	case errors.Is(err, &Error{Reason: NotDurable}):
		s.answers.notDurable.Add(1)
	}
}

func (s *Service) execute(ctx context.Context, q *Request) (Result, error) {
	if len(q.Steps) > MaxOperations {
		return Result{}, invalid("", "%d operations, at most %d are allowed", len(q.Steps), MaxOperations)
	}
	if err := s.check(q.Steps); err != nil {
		return Result{}, err
	}
	r, err := s.acquireSeen(ctx, q.Cart, q.Context)
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
		from := r.latest
		e := &edit{state: from, limits: s.limits}
		if e.state.Erased {
			return ErrNotFound
		}
		var err error
		if result, err = s.author(ctx, e, r, q); err != nil || e.delta == nil {
			return err
		}
		if err := s.writable(q.Durability); err != nil {
			return err
		}
		ch = s.push(r, e.delta, from, e.state, q.Durability)
		if result.State = ch.state; ch.state.Erased { // by a peer, while it was made
			ch = nil
			return ErrNotFound
		}
		return nil
	})
	switch {
	case errors.Is(err, &Error{Reason: NotDurable}):
		return Result{}, err
	case ch != nil:
		if err := s.awaitSafe(ctx, r, ch, q.Durability); err != nil {
			return Result{}, err
		}
		result.Reached = r.reached(ch)
		return result, nil
	// A refusal or a replay tells of what it observed, so that has to be durable first.
	case !s.awaitDurable(ctx, r, q.Durability):
		return Result{}, errNotDurable
	case err != nil:
		return Result{}, err
	case r.durable.Erased:
		return Result{}, ErrNotFound
	}
	result.State, result.Reached = r.durable, r.reached(nil)
	if q.Durability == Database && s.acknowledges() {
		result.Reached = Reached{Database: true} // what it replays is there, if not all that came since
	}
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

// writable refuses a write that neither peers nor the store would take as is wanted, before anything is
// changed.
func (s *Service) writable(want Durability) error {
	err := s.Ready()
	if err == nil && want == Database {
		err = s.committer.unavailable()
	}
	if err != nil {
		return &Error{Reason: NotDurable, Detail: "the store takes no writes at present: nothing was changed", Err: err}
	}
	return nil
}

// push makes a delta the next change of a residence and sends it on its way. It led from a state to another
// when it was made; what peers sent meanwhile is concurrent to it. r.mu is held.
func (s *Service) push(r *resident, d *crdt.Delta, made, state *State, want Durability) *change {
	from := r.latest
	if from != made {
		var err error
		if state, err = from.Apply(d); err != nil {
			panic(err) // its author held what it needs, and a state only grows
		}
	}
	c := &change{state: state, delta: d, events: extentOf(&d.State), author: true, done: make(chan struct{})}
	if state == from { // erased
		return c
	}
	r.push(c)
	s.changed(r, from, d)
	if s.replicator != nil {
		if want == Database || s.shared && !s.reachable() {
			r.must = r.must || want == Database
			s.save(r)
		}
		s.watch(c)
		if !s.reachable() && !s.saves() {
			c.askAbroad()
		}
		s.replicator.Replicate(r.id, crdt.AppendDelta(make([]byte, 0, 96), d), func(holder uint64) { r.heldBy(c, holder) })
	}
	return c
}

// changed accounts for the step of a residence from a state to its latest by a delta, and has it saved in
// time. r.mu is held.
func (s *Service) changed(r *resident, from *State, d *crdt.Delta) {
	s.resized(r)
	s.reindex(r, from, r.latest)
	if !s.shared {
		switch {
		case r.unsaved == nil:
		case r.unsaved.Adjoins(d):
			d = crdt.Merge(r.unsaved, d)
		default: // a state tells of what is gone by what it covers: a merge would not any more
			d = &crdt.Delta{State: *r.latest}
		}
		r.unsaved = d
	}
	if !s.lazy() {
		s.save(r)
		return
	}
	if !r.dirty() { // a mark said so before the change came
		r.settle(s.now().UnixNano())
		return
	}
	if r.oldest == nil {
		r.lack(s.now().UnixNano())
	}
	s.list(r)
}

// reached tells how safe a change is, or the whole cart where c is nil. r.mu is held.
func (r *resident) reached(c *change) Reached {
	state := r.durable
	holders := 1 + r.service.tolerate
	if c != nil {
		state, holders = c.state, max(holders, 1+len(c.holders))
	}
	if r.service.acknowledges() && r.stored.covers(state) {
		return Reached{Database: true}
	}
	return Reached{Holders: holders}
}

// awaitSafe waits until a change that was pushed is durable, and as durable as is wanted. r.mu is held on
// the way in and out, but not while it waits.
func (s *Service) awaitSafe(ctx context.Context, r *resident, c *change, want Durability) error {
	var stalled <-chan struct{} // the hedger gives up where there are peers
	if s.replicator == nil || want == Database {
		stalled = s.committer.stall()
	}
	r.mu.Unlock()
	s.scheduler.Wait(c.done, stalled, ctx.Done())
	r.mu.Lock()
	if !c.durable {
		return errNotDurable
	}
	if want == Database && !r.await(ctx, s.committer.stall(), func() bool { return r.stored.covers(c.state) }) {
		return errNotDurable
	}
	return nil
}

// awaitDurable waits until the latest state of a residence is durable, and as durable as is wanted, or one
// that came after it. r.mu is held on the way in and out, but not while it waits.
func (s *Service) awaitDurable(ctx context.Context, r *resident, want Durability) bool {
	target := r.latest
	stall := s.committer.stall()
	if s.replicator != nil && want == Default { // the store may take longer, as for a write
		over, stop := s.scheduler.After(giveUpAfter)
		defer stop()
		stall = over
	}
	if want == Database && s.replicator != nil && r.dirty() {
		r.must = true
		s.save(r)
	}
	return r.await(ctx, stall, func() bool {
		return r.durable != nil && extentOf(r.durable).covers(target) && (want == Default || r.stored.covers(target))
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
	if !s.awaitDurable(ctx, r, Default) {
		return errNotDurable
	}
	return ErrNotFound
}

// acquireSeen is acquire for a client that has seen the cart, or not where c is nil.
func (s *Service) acquireSeen(ctx context.Context, id ID, c *Context) (*resident, error) {
	r, err := s.acquire(ctx, id, true)
	if errors.Is(err, ErrNotFound) && c != nil && s.replicator != nil {
		return nil, errContextUnavailable // it is somewhere else, maybe with nodes that this one never met
	}
	return r, err
}

// awaitContext waits until the state that at returns holds what the client has seen.
func (s *Service) awaitContext(ctx context.Context, r *resident, c *Context, at func() *State) error {
	ready := func() bool { state := at(); return state != nil && (state.Erased || c.seenBy(state)) }
	if ready() {
		return nil
	}
	for waited := time.Duration(0); waited < contextWait; waited += refreshAfter {
		over, stop := s.scheduler.After(refreshAfter)
		seen := r.await(ctx, over, ready)
		stop()
		if seen {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		s.refresh(r)
	}
	return errContextUnavailable
}

var errContextUnavailable = &Error{Reason: ContextUnavailable, Detail: "this node has not seen what Cart-Context tells of; another one may have"}

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
	r, err := s.acquireSeen(ctx, id, c)
	if err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	durable := func() *State { return r.durable }
	if r.durable == nil {
		if c == nil && (len(r.unsafe) == 0 || r.unsafe[0].author) {
			return nil, ErrNotFound // not created yet, as far as anybody was told
		}
		if s.awaitContext(ctx, r, nil, durable) != nil {
			return nil, &Error{Reason: Unavailable, Detail: "the cart is not safe yet, as far as this node knows"}
		}
	}
	if err := s.admits(r.durable, a); err != nil {
		return nil, err
	}
	if err := s.awaitContext(ctx, r, c, durable); err != nil {
		return nil, err
	}
	if r.durable.Erased {
		return nil, ErrNotFound
	}
	return r.durable, nil
}

// Create makes a cart and returns its id, the token that opens it, and its durable state after
// the steps.
func (s *Service) Create(ctx context.Context, currency string, steps []Step, want Durability) (ID, Token, Result, error) {
	fail := func(err error) (ID, Token, Result, error) {
		s.answered(Reached{}, err)
		return ID{}, Token{}, Result{}, err
	}
	if err := checkCurrency("/currency", currency); err != nil {
		return fail(err)
	}
	if len(steps) > s.limits.Lines {
		return fail(&Error{Reason: TooManyLines, Detail: fmt.Sprintf("the cart would have %d lines, at most %d are allowed", len(steps), s.limits.Lines)})
	}
	if err := s.check(steps); err != nil {
		return fail(err)
	}
	if err := s.writable(want); err != nil {
		return fail(err)
	}
	id, token := s.newID(), NewToken()
	r := &resident{id: id, replica: newReplicaID(), service: s, latest: new(State)}
	e := s.create(r, currency, token)
	result, err := s.apply(ctx, e, r, &Request{Cart: id, Steps: steps})
	if err != nil {
		return fail(err)
	}
	if err := s.admit(s.shard(id), r); err != nil {
		return fail(err)
	}
	defer r.mu.Unlock()
	c := s.push(r, e.delta, r.latest, e.state, want)
	if err := s.awaitSafe(ctx, r, c, want); err != nil {
		return fail(err)
	}
	result.State, result.Reached = c.state, r.reached(c)
	s.answered(result.Reached, nil)
	return id, token, result, nil
}

// newID draws the id of a cart of which this node is the first owner, if it is that of any.
func (s *Service) newID() ID {
	id := NewID()
	if s.replicator != nil {
		if slot := s.replicator.Home(); slot >= 0 {
			id[0], id[1] = byte(slot>>4), byte(slot<<4)|id[1]&0xf
		}
	}
	return id
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
func (s *Service) Erase(ctx context.Context, q *Request) (Reached, error) {
	reached, err := s.erase(ctx, q)
	s.answered(reached, err)
	return reached, err
}

func (s *Service) erase(ctx context.Context, q *Request) (Reached, error) {
	r, err := s.acquireSeen(ctx, q.Cart, q.Context)
	if err != nil {
		return Reached{}, err
	}
	defer r.mu.Unlock()
	if err := s.admitsWrite(ctx, r, q.Access); err != nil && !errors.Is(err, &Error{Reason: Expired}) {
		return Reached{}, err
	}
	if err := s.awaitContext(ctx, r, q.Context, func() *State { return r.latest }); err != nil {
		return Reached{}, err
	}
	var c *change
	err = r.inTurn(ctx, func() error {
		if r.latest.Erased {
			return ErrNotFound
		}
		if q.IfMatch != nil && !slices.Contains(q.IfMatch, Version(r.latest)) {
			return errPrecondition
		}
		if err := s.writable(q.Durability); err != nil {
			return err
		}
		erased := State{Erased: true}
		c = s.push(r, &crdt.Delta{State: erased}, r.latest, &erased, q.Durability)
		return nil
	})
	switch {
	case errors.Is(err, &Error{Reason: NotDurable}):
		return Reached{}, err
	case c != nil:
		if err := s.awaitSafe(ctx, r, c, q.Durability); err != nil {
			return Reached{}, err
		}
		return r.reached(c), nil
	case !s.awaitDurable(ctx, r, q.Durability): // what the refusal tells of
		return Reached{}, errNotDurable
	}
	return Reached{}, err
}

// janitor packs carts that are not in use and purges those that expired long ago.
func (s *Service) janitor() {
	const perTick = (shards + idleTicks - 1) / idleTicks
	for {
		over, stop := s.scheduler.After(tick)
		s.scheduler.Wait(over, s.running.Done(), nil)
		stop()
		if s.running.Err() != nil {
			return
		}
		now := s.tick.Add(1)
		for i := range s.shards {
			s.shards[i].age(now)
		}
		s.makeRoom() // carts grow where they are, and when they are unpacked
		s.packIdle(int(now%idleTicks)*perTick, perTick)
		if now%purgeTicks == 1 {
			s.background(s.purge)
		}
	}
}

func (s *Service) purge() {
	ctx, cancel := s.scheduler.WithTimeout(s.running, time.Minute)
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
