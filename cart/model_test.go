package cart

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what one client believes of its cart.
type model struct {
	quantity map[string]int64
	ever     []string // lines, in the order of their first add
	title    map[string]string
	codes    map[string]bool
	note     *string
}

func (m *model) clone() *model {
	return &model{maps.Clone(m.quantity), slices.Clone(m.ever), maps.Clone(m.title), maps.Clone(m.codes), m.note}
}

var modelLimits = Limits{Lines: 4, Quantity: 20}

// put gives a line a quantity, or tells why it is refused.
func (m *model) put(sku string, n int64) Reason {
	held := m.quantity[sku]
	if n > modelLimits.Quantity {
		return QuantityExceeded
	}
	if n > 0 && !slices.Contains(m.ever, sku) {
		m.ever = append(m.ever, sku)
	}
	if m.quantity[sku] = max(0, n); m.quantity[sku] == 0 {
		delete(m.quantity, sku)
	}
	if held == 0 && len(m.quantity) > modelLimits.Lines {
		return TooManyLines
	}
	return ""
}

func (m *model) apply(c Command) Reason {
	switch c := c.(type) {
	case Add:
		if reason := m.put(c.Line.SKU, m.quantity[c.Line.SKU]+c.Quantity); reason != "" {
			return reason
		}
		if c.Title != nil {
			m.title[c.Line.SKU] = *c.Title
		}
	case Set:
		return m.put(c.Line.SKU, c.Quantity)
	case Decrement:
		return m.put(c.Line.SKU, m.quantity[c.Line.SKU]-c.Quantity)
	case Remove:
		if c.Line.Required && m.quantity[c.Line.SKU] == 0 {
			return LineNotFound
		}
		return m.put(c.Line.SKU, 0)
	case Clear:
		clear(m.quantity)
	case PutCode:
		m.codes[c.Code] = true
	case RemoveCode:
		delete(m.codes, c.Code)
	case Update:
		m.note = *c.Note
	}
	return ""
}

func (m *model) String() string {
	text := ""
	for _, sku := range m.ever {
		if n := m.quantity[sku]; n > 0 {
			text += fmt.Sprintf("%s %q=%d ", sku, m.title[sku], n)
		}
	}
	note := "none"
	if m.note != nil {
		note = *m.note
	}
	return text + fmt.Sprint(slices.Sorted(maps.Keys(m.codes)), " note ", note)
}

// shownAs renders a state as model.String does.
func shownAs(s *State) string {
	var v View
	v.Read(ID{}, s, modelLimits)
	text := ""
	for i := range v.Lines {
		title, _ := v.Lines[i].Title()
		text += fmt.Sprintf("%s %q=%d ", v.Lines[i].SKU, title, v.Lines[i].Quantity)
	}
	note, ok := v.Note()
	if !ok {
		note = "none"
	}
	return text + fmt.Sprint(v.Codes, " note ", note)
}

// machine is a client, two nodes with one store, and what the client should see.
type machine struct {
	store *fakeStore
	now   *clock
	nodes [2]*Service
	at    int // the node that the client talks to

	id    ID
	token Token
	seen  *Context
	model *model
	past  []pastRequest // under keys
	keys  int
}

type pastRequest struct {
	key   string
	at    time.Time
	steps []Step
}

func (m *machine) start(i int) {
	m.nodes[i] = New(Options{Store: m.store, Now: m.now.Now, Limits: modelLimits})
}

func (m *machine) stop(t *rapid.T, i int) {
	if err := m.nodes[i].Close(context.Background()); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func commands() *rapid.Generator[Command] {
	return rapid.Custom(func(t *rapid.T) Command {
		sku := rapid.SampledFrom([]string{"A", "B", "C", "D", "E", "F"}).Draw(t, "sku")
		n := rapid.Int64Range(1, 9).Draw(t, "n")
		switch rapid.SampledFrom([]string{"add", "add", "set", "take off", "take off", "remove", "required", "clear", "code", "no code", "note"}).Draw(t, "command") {
		case "add":
			a := addN(sku, n)
			if n > 6 {
				a.Title = new(fmt.Sprint("t", n))
			}
			return a
		case "set":
			return setN(sku, n-1)
		case "take off":
			return takeOff(sku, n)
		case "remove":
			return remove(sku)
		case "required":
			return Remove{LineRef{SKU: sku, Required: true}}
		case "clear":
			return Clear{}
		case "code":
			return PutCode{sku}
		case "no code":
			return RemoveCode{sku}
		default:
			if n > 6 {
				return Update{Note: new((*string)(nil))}
			}
			return Update{Note: new(new(fmt.Sprint(n)))}
		}
	})
}

func (m *machine) execute(q *Request, d time.Duration) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	q.Cart, q.Access = m.id, Access{Token: &m.token}
	return m.nodes[m.at].Execute(ctx, q)
}

func (m *machine) saw(t *rapid.T, s *State) {
	var v View
	v.Read(m.id, s, modelLimits)
	x, err := ParseContext(m.id, string(v.AppendContext(nil)))
	if err != nil {
		t.Fatal(err)
	}
	m.seen = x
	if got, want := shownAs(s), m.model.String(); got != want {
		t.Fatalf("the cart is %s, want %s", got, want)
	}
}

// context draws what the client sends of what it has seen.
func (m *machine) context(t *rapid.T) *Context {
	if rapid.Bool().Draw(t, "context") {
		return m.seen
	}
	return nil
}

func (m *machine) write(t *rapid.T) {
	drawn := rapid.SliceOfN(commands(), 1, 4).Draw(t, "commands")
	past := pastRequest{at: m.now.Now(), steps: stepsOf(drawn)}
	if rapid.Bool().Draw(t, "keyed") {
		m.keys++
		past.key = fmt.Sprint("k", m.keys)
	}
	for i := range past.steps {
		if rapid.IntRange(0, 3).Draw(t, "key of the step") == 0 {
			m.keys++
			past.steps[i].Key = fmt.Sprint("s", m.keys)
		}
	}
	next := m.model.clone()
	var reason Reason
	var at int
	for i, c := range drawn {
		if reason = next.apply(c); reason != "" {
			at = i
			break
		}
	}
	q := &Request{Context: m.context(t), Key: past.key, Steps: past.steps}
	if rapid.Bool().Draw(t, "if match") {
		q.IfMatch = []uint64{m.version(t)}
	}
	r, err := m.execute(q, time.Minute)
	if reason != "" {
		var step *StepError
		if !errors.Is(err, &Error{Reason: reason}) || !errors.As(err, &step) || step.Step != at {
			t.Fatalf("the error is %v, want %s at step %d", err, reason, at)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.model = next
	m.saw(t, r.State)
	keyed := past.key != "" || !slices.ContainsFunc(past.steps, func(s Step) bool { return s.Key == "" })
	if r.Replayed {
		t.Fatal("a new request was replayed")
	}
	if keyed {
		m.past = append(m.past, past)
	}
}

func (m *machine) version(t *rapid.T) uint64 {
	s, err := m.nodes[m.at].Read(context.Background(), m.id, Access{Token: &m.token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Version(s)
}

// drawPast draws a request whose retry is still known as one.
func (m *machine) drawPast(t *rapid.T) pastRequest {
	m.past = slices.DeleteFunc(m.past, func(p pastRequest) bool { return m.now.Now().Sub(p.at) > RetryWindow })
	if len(m.past) == 0 {
		t.Skip("nothing to repeat")
	}
	return rapid.SampledFrom(m.past).Draw(t, "past")
}

func (m *machine) retry(t *rapid.T) {
	p := m.drawPast(t)
	q := &Request{Context: m.context(t), Key: p.key, Steps: p.steps}
	if rapid.Bool().Draw(t, "if match") {
		q.IfMatch = []uint64{} // would refuse anything but a replay
	}
	r, err := m.execute(q, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Replayed {
		t.Fatal("a retry counted")
	}
	m.saw(t, r.State)
}

func (m *machine) reuse(t *rapid.T) {
	p := m.drawPast(t)
	steps := slices.Clone(p.steps)
	steps[0].Command = Describe{bySKU("A"), Details{Title: new("another")}}
	_, err := m.execute(&Request{Key: p.key, Steps: steps}, time.Minute)
	if !errors.Is(err, &Error{Reason: OperationReused}) {
		t.Fatalf("a key for another body: %v", err)
	}
}

func (m *machine) read(t *rapid.T) {
	s, err := m.nodes[m.at].Read(context.Background(), m.id, Access{Token: &m.token}, m.context(t))
	if err != nil {
		t.Fatal(err)
	}
	m.saw(t, s)
}

// forget drops what a node keeps in memory: the other node has written since.
func (m *machine) forget(t *rapid.T, i int) {
	for k := range m.nodes[i].shards {
		for m.nodes[i].evictOne(&m.nodes[i].shards[k]) {
			continue
		}
	}
	checkAccount(t, m.nodes[i], 0)
}

func checkAccount(t *rapid.T, s *Service, residents int64) {
	if got := s.Stats(); got.Resident != residents || residents == 0 && got.Memory != 0 {
		t.Fatalf("accounted for %+v", got)
	}
}

func TestServiceAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			store: newFakeStore(), now: newClock(),
			model: &model{quantity: map[string]int64{}, title: map[string]string{}, codes: map[string]bool{}},
		}
		for i := range m.nodes {
			m.start(i)
			defer func() { m.stop(t, i) }()
		}
		id, token, r, err := m.nodes[0].Create(context.Background(), "EUR", nil, Default)
		if err != nil {
			t.Fatal(err)
		}
		m.id, m.token = id, token
		m.saw(t, r.State)
		t.Repeat(map[string]func(*rapid.T){
			"write":  m.write,
			"write2": m.write,
			"write3": m.write,
			"retry":  m.retry,
			"reuse":  m.reuse,
			"read":   m.read,
			"evict":  func(t *rapid.T) { m.forget(t, m.at) },
			"pack": func(*rapid.T) {
				s := m.nodes[m.at]
				s.tick.Add(idleTicks)
				s.packIdle(0, shards)
			},
			"restart": func(t *rapid.T) {
				m.stop(t, m.at)
				m.start(m.at)
			},
			"other node": func(t *rapid.T) {
				m.at = 1 - m.at
				m.forget(t, m.at)
			},
			"time": func(t *rapid.T) {
				m.now.advance(time.Duration(rapid.IntRange(0, 20*3600).Draw(t, "seconds")) * time.Second)
			},
		})
	})
}
