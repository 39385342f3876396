package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cartd/cart"
	"cartd/crdt"
)

// patience is how long a client waits for an answer.
const patience = 2 * time.Second

// prompt is how soon a write is refused that neither peers nor database can hold; waiting for a context
// comes before that.
const prompt, forContext = 500 * time.Millisecond, 250 * time.Millisecond

// slack is how much later than either an answer may come: by the scheduler's whims.
const slack = 200 * time.Millisecond

// session is a shopper: a token, perhaps a context, and the habit of trying again.
type session struct {
	world    *world
	name     string
	subject  *subject
	home     *machine
	echoes   bool    // it sends Cart-Context
	hops     float64 // share of requests that go elsewhere than home
	context  string
	seen     crdt.VV
	keys     int
	refusals int // for the sake of the context, one after the other
}

// request is one attempt at something.
type request struct {
	session   string
	subject   *subject
	kind      requestKind
	steps     []command
	key       string
	context   *cart.Context
	contextVV crdt.VV
	ifMatch   []uint64
	want      cart.Durability
	hops      int // how often it was passed on

	made crdt.Dot // the last event of it, if it made one
}

type requestKind int

const (
	toRead requestKind = iota
	toWrite
	toCreate
	toErase
)

// command is a command, as the model knows it.
type command struct {
	kind kind
	line string
	n    int64
}

func (c command) String() string { return fmt.Sprintf("%s %s %d", c.kind, c.line, c.n) }

func (c command) cart() cart.Command {
	line := cart.LineRef{SKU: c.line}
	switch c.kind {
	case add:
		return cart.Add{Line: line, Quantity: c.n}
	case assign:
		return cart.Set{Line: line, Quantity: c.n}
	case decrement:
		return cart.Decrement{Line: line, Quantity: c.n}
	case remove:
		return cart.Remove{Line: line}
	case putCode:
		return cart.PutCode{Code: c.line}
	case dropCode:
		return cart.RemoveCode{Code: c.line}
	}
	return cart.Clear{}
}

// operation names a step of a request across its retries.
func (q *request) operation(step int) string {
	if q.key == "" {
		return ""
	}
	return fmt.Sprintf("%s/%d", q.key, step)
}

// answer is what became of an attempt.
type answer struct {
	done     chan struct{}
	lost     bool // nobody knows
	err      error
	id       cart.ID
	token    cart.Token
	state    *cart.State
	replayed bool
}

// call has a process execute a request, and returns what the client learns.
func (w *world) call(n *node, q *request) *answer {
	a := &answer{done: make(chan struct{})}
	w.sleep(w.vary(w.network.latency)/2, nil)
	if n == nil || n.dead || n.closed {
		a.lost = true
		return a
	}
	ctx, cancel := context.WithCancel(n.running)
	deadline := w.after(patience, cancel)
	began, helpless := w.now, n.helpless()
	running := w.start(n, n.name()+" request of "+q.session, func() {
		defer close(a.done)
		n.serve(ctx, q, a)
		took := w.now - began
		if helpless && n.helpless() && reasonOf(a.err) == cart.NotDurable && took > prompt+forContext+slack {
			w.fail("liveness", "%s refused %s after %v, though nobody could hold the write", n.name(), q.session, took)
		}
		if took > patience+slack && !n.dead {
			w.fail("liveness", "%s: %s was answered after %v: %v", n.name(), q.session, took, a.err)
		}
	})
	running.request = q
	w.wait(a.done, n.gone, nil)
	deadline.stopped = true
	cancel()
	if n.dead || w.rand.Float64() < w.plan.loseAnswers {
		return &answer{lost: true}
	}
	w.sleep(w.vary(w.network.latency)/2, nil)
	return a
}

// helpless reports whether no link and no database has been there for the process for some time.
func (n *node) helpless() bool {
	w := n.world
	d := n.region().database
	if n.dead || !w.plan.shared || !d.down && !d.hung || w.now-d.changed < patience {
		return false
	}
	for _, e := range n.ends {
		if e.up {
			return false
		}
	}
	return w.now-n.cutOff > patience
}

// execute runs in the activity of the request.
func (w *world) execute(ctx context.Context, n *node, q *request, a *answer) {
	w.count["operations"]++
	access := cart.Access{Trusted: true}
	steps := make([]cart.Step, len(q.steps))
	for i, c := range q.steps {
		steps[i].Command = c.cart()
	}
	var result cart.Result
	switch q.kind {
	case toCreate:
		w.freshID()
		a.id, a.token, result, a.err = n.service.Create(ctx, "EUR", steps, q.want)
		a.state = result.State
	case toRead:
		a.state, a.err = n.service.Read(ctx, q.subject.id, access, q.context)
	case toErase:
		_, a.err = n.service.Erase(ctx, &cart.Request{Cart: q.subject.id, Access: access, Context: q.context, Durability: q.want})
	case toWrite:
		result, a.err = n.service.Execute(ctx, &cart.Request{
			Cart: q.subject.id, Access: access, Context: q.context, IfMatch: q.ifMatch, Key: q.key,
			Durability: q.want, Steps: steps,
		})
		a.state, a.replayed = result.State, result.Replayed
	}
	if n.dead {
		return
	}
	s := q.subject
	if a.err != nil {
		w.count["refused"]++
		w.trace("%s %s refused: %v", n.name(), q.session, a.err)
		if s != nil && !s.erasing && q.context != nil && errors.Is(a.err, cart.ErrNotFound) {
			w.fail("session", "%s told %s, which had seen the cart, that there is none", n.name(), q.session)
		}
		return
	}
	w.count["acknowledged"]++
	if q.kind == toErase {
		w.trace("%s %s acknowledged: erased", n.name(), q.session)
		s.erased = true
		w.check.held(s, extent{erased: true}, "what "+n.name()+" acknowledged of "+s.label)
		return
	}
	w.trace("%s %s acknowledged: %v", n.name(), q.session, w.vector(a.state))
	if q.kind == toCreate {
		s.token = a.token
	}
	if q.want == cart.Database && !result.Reached.Database {
		w.fail("lost-write", "%s acknowledged a write that was to be in the database: %+v", n.name(), result.Reached)
	}
	w.check.answered(n, q, a.state, a.replayed)
	if q.made.Seq == 0 {
		return
	}
	made, _ := s.model.eventsOf(nil, crdt.VV{q.made})
	if len(w.regions) > 1 && n.region().heldAbroad(s, made) {
		w.count["held abroad"]++
	}
	if q.want == cart.Database {
		stored, err := n.region().database.holds(s)
		if err == nil && !stored.erased && !made.within(stored.events) && !w.check.owes(n.region().database, s) {
			w.fail("lost-write", "%s acknowledged a write as stored, which the database does not have", n.name())
		}
	}
}

func reasonOf(err error) cart.Reason {
	var e *cart.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Reason
	}
	return cart.Reason(err.Error())
}

// shop is what a session does until the clients are to end.
func (s *session) shop() {
	w := s.world
	for s.subject == nil && w.shopping {
		s.create()
	}
	for w.shopping {
		pause := time.Duration(w.rand.Int64N(int64(w.plan.pause)))
		if w.rand.IntN(40) == 0 {
			pause += time.Duration(w.rand.IntN(int(12 * time.Second)))
		}
		w.sleep(pause, w.closing)
		if !w.shopping {
			return
		}
		switch n := w.rand.IntN(1000); {
		case n < 330:
			s.try(&request{kind: toRead})
		case n < 330+w.plan.erasures:
			s.try(&request{kind: toErase})
		default:
			s.write()
		}
	}
}

// create makes the cart of the session, unless another one has made it.
func (s *session) create() {
	w := s.world
	q := &request{kind: toCreate, session: s.name}
	if w.rand.IntN(2) == 0 {
		q.steps = []command{{add, w.line(), 1 + w.rand.Int64N(5)}}
	}
	a := w.call(s.node(), q)
	if a.lost || a.err != nil {
		w.sleep(time.Duration(w.rand.IntN(int(300*time.Millisecond))), nil)
		return
	}
	s.subject = q.subject
	s.learn(a.state)
	w.carts = append(w.carts, q.subject)
}

// write makes up a command and tries it until it is known what became of it.
func (s *session) write() {
	w := s.world
	q := &request{kind: toWrite, steps: []command{w.command()}}
	for w.rand.IntN(10) == 0 {
		q.steps = append(q.steps, w.command())
	}
	if w.rand.IntN(2) == 0 {
		s.keys++
		q.key = fmt.Sprintf("%s-%d", s.name, s.keys)
	}
	if w.rand.IntN(12) == 0 && w.plan.shared {
		q.want = cart.Database
	}
	if w.rand.IntN(30) == 0 {
		q.ifMatch = []uint64{cart.Version(&cart.State{VV: s.seen})}
	}
	if q.key != "" && w.rand.IntN(12) == 0 {
		s.hedge(q)
		return
	}
	s.try(q)
}

// hedge sends a command to two nodes at once.
func (s *session) hedge(q *request) {
	w := s.world
	twin := *q
	done := make(chan struct{})
	s.address(&twin)
	w.start(nil, s.name+" hedge", func() {
		defer close(done)
		w.call(w.anyNode(), &twin)
	})
	s.try(q)
	w.wait(done, nil, nil)
}

// try sends a request, and again where it may not have taken effect and cannot do so twice.
func (s *session) try(q *request) {
	w := s.world
	for attempt := range 5 {
		again := *q
		s.address(&again)
		if attempt > 0 {
			w.count["retries"]++
		}
		a := w.call(s.node(), &again)
		reason := reasonOf(a.err)
		switch {
		case a.err == nil && !a.lost:
			s.refusals = 0
			if a.state != nil {
				s.learn(a.state)
			}
			return
		case a.lost || reason == cart.NotDurable:
			if q.key == "" && q.kind == toWrite {
				return
			}
		case reason == cart.ContextUnavailable:
			if s.refusals++; s.refusals > 4 { // it goes on without, as if it were new
				s.context, s.seen, s.refusals = "", nil, 0
			}
		case reason == cart.PreconditionFailed || reason == cart.NotFound || q.kind == toRead:
			return
		}
		w.sleep(time.Duration(w.rand.IntN(int(400*time.Millisecond))), w.closing)
		if !w.shopping {
			return
		}
	}
}

// address fills in what each attempt of a session carries.
func (s *session) address(q *request) {
	q.session, q.subject = s.name, s.subject
	if !s.echoes || s.context == "" {
		return
	}
	c, err := cart.ParseContext(s.subject.id, s.context)
	if err != nil {
		s.world.fail("session", "%s: its context is refused: %v", s.name, err)
		return
	}
	q.context, q.contextVV = c, s.seen
}

// learn takes note of what the session has seen.
func (s *session) learn(state *cart.State) {
	var v cart.View
	v.Read(s.subject.id, state, cart.DefaultLimits)
	s.context, s.seen = string(v.AppendContext(nil)), state.VV
}

// node returns where the next request goes.
func (s *session) node() *node {
	w := s.world
	if p := s.home.process; p != nil && !p.dead && w.rand.Float64() >= s.hops {
		return p
	}
	return w.anyNode()
}

func (w *world) anyNode() *node {
	live := slices.DeleteFunc(w.live(), func(n *node) bool { return n.leaving })
	if len(live) == 0 {
		return nil
	}
	return live[w.rand.IntN(len(live))]
}

func (w *world) line() string { return string(rune('A' + w.rand.IntN(3))) }

func (w *world) command() command {
	line, n := w.line(), 1+w.rand.Int64N(5)
	switch x := w.rand.IntN(100); {
	case x < 42:
		return command{add, line, n}
	case x < 58:
		return command{assign, line, n - 1}
	case x < 74:
		return command{decrement, line, n}
	case x < 84:
		return command{remove, line, 0}
	case x < 89:
		return command{clean, "", 0}
	case x < 96:
		return command{putCode, "X" + line, 0}
	}
	return command{dropCode, "X" + line, 0}
}
