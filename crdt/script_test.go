package crdt

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// machine is an implementation of one state at several named replicas, which scripts drive. The
// production code is one, the model of model_test.go another, and the wrong rules of wrong_test.go
// are the rest.
type machine interface {
	// command executes c, or reports that its replica knows the operation.
	command(c command) (dot Dot, executed bool)
	// read remembers what a replica holds now as a context.
	read(at, as string)
	// deliver merges the deltas of events into one, in this order, and joins it unless it needs
	// what the receiver does not hold.
	deliver(events []string, to string) (joined bool)
	join(from, to string)
	restart(at string, id ReplicaID)

	// shown returns the lines with a quantity above zero.
	shown(at string) map[string]int64
	vv(at string) map[ReplicaID]uint64
	// encoding returns equal strings for equal replicas only.
	encoding(at string) string
}

// command is one command of a script.
type command struct {
	Do        string
	At        string
	Line      string
	N         int64
	TS        Timestamp
	Context   string
	Operation string
	Event     string // names the event and its delta

	// What the vectors have no words for, see history_test.go.
	value    string // of insert and discard
	writes   []write
	lifetime Lifetime  // without Updated
	forget   Timestamp // operation records that are older
	also     Dots      // observed beyond the context
}

// write is a register write, of the state where line is empty.
type write struct {
	line, name, value string
	deleted           bool
}

// step is one step of a script, with the fields of all kinds of steps.
type step struct {
	command
	Dot       *[2]uint64
	Replayed  bool
	As        string
	Events    []string
	From, To  string
	Joins     *bool
	ReplicaID ReplicaID `json:"replica_id"`
	expectation
}

type expectation struct {
	Lines map[string]int64
	VV    map[ReplicaID]uint64
}

// script is one case of the conformance vectors.
type script struct {
	Name, About, Kills string
	Seed               int64
	Replicas           map[string]ReplicaID
	Stores             []string
	Steps              []step
	Final              *expectation
}

// names returns all replicas and stores, sorted.
func (s *script) names() []string {
	names := slices.Concat(slices.Collect(maps.Keys(s.Replicas)), s.Stores)
	slices.Sort(names)
	return names
}

// ids returns the replica ids of a script; stores, which issue no commands, have none.
func (s *script) ids() map[string]ReplicaID {
	ids := maps.Clone(s.Replicas)
	for _, name := range s.Stores {
		ids[name] = 0
	}
	return ids
}

// checks says what of a script is compared.
type checks int

const (
	everything checks = iota
	// visible leaves out dots, version vectors, refusals and encodings: what a shopper sees has to be
	// right, and the same wherever the version vectors are.
	visible
)

// errScript marks an error in the script itself, for which no machine is to blame.
var errScript = errors.New("not a script")

// run plays a script and returns the first deviation.
func (s *script) run(m machine, level checks) error {
	r := runner{machine: m, names: s.names(), level: level, ts: 1 << 32}
	if s.Final == nil || len(s.Replicas) == 0 || len(s.Steps) == 0 {
		return fmt.Errorf("%w: %q has no steps, no replicas or no end", errScript, s.Name)
	}
	for i := range s.Steps {
		err := r.step(&s.Steps[i])
		if err == nil {
			err = r.invariants()
		}
		if err != nil {
			return fmt.Errorf("step %d (%s): %w", i+1, s.Steps[i].Do, err)
		}
	}
	if err := r.exchange(); err != nil {
		return err
	}
	for _, name := range r.names {
		if err := r.expect(name, s.Final); err != nil {
			return fmt.Errorf("at the end: %w", err)
		}
		if a, b := m.encoding(r.names[0]), m.encoding(name); level == everything && a != b {
			return fmt.Errorf("at the end: %s is %x and %s is %x", r.names[0], a, name, b)
		}
	}
	return nil
}

type runner struct {
	machine
	names []string
	level checks
	ts    Timestamp // of the last event that came without one
}

func (r *runner) step(s *step) error {
	for _, name := range []string{s.At, s.From, s.To} {
		if name != "" && !slices.Contains(r.names, name) {
			return fmt.Errorf("%w: no replica %q", errScript, name)
		}
	}
	switch s.Do {
	case "add", "set", "decrement", "remove", "clear":
		return r.execute(s)
	case "read":
		r.read(s.At, s.As)
	case "delta":
		return r.send(s)
	case "state":
		r.join(s.From, s.To)
	case "restart":
		r.restart(s.At, s.ReplicaID)
	case "expect":
		return r.expect(s.At, &s.expectation)
	default:
		return fmt.Errorf("%w: unknown step", errScript)
	}
	return nil
}

func (r *runner) execute(s *step) error {
	if (s.Dot == nil) != s.Replayed || (s.Event == "") != s.Replayed {
		return fmt.Errorf("%w: a command is either replayed or has an event and a dot", errScript)
	}
	c := s.command
	if c.TS == 0 {
		r.ts++
		c.TS = r.ts
	}
	before := r.encoding(c.At)
	dot, executed := r.command(c)
	if r.level == visible {
		return nil
	}
	switch {
	case executed == s.Replayed:
		return fmt.Errorf("executed: %t", executed)
	case !executed && before != r.encoding(c.At):
		return errors.New("a replay changed the state")
	case executed && dot != Dot{ReplicaID(s.Dot[0]), s.Dot[1]}:
		return fmt.Errorf("got the dot %v, want %v", dot, *s.Dot)
	}
	return nil
}

func (r *runner) send(s *step) error {
	if s.Joins == nil || len(s.Events) == 0 {
		return fmt.Errorf("%w: a delta of no events, or without joins", errScript)
	}
	before := r.encoding(s.To)
	joined := r.deliver(s.Events, s.To)
	if r.level == visible {
		return nil
	}
	if joined != *s.Joins {
		return fmt.Errorf("joined: %t", joined)
	}
	if joined { // what was joined has nothing more to say
		before = r.encoding(s.To)
		if !r.deliver(s.Events, s.To) {
			return errors.New("refused when delivered again")
		}
	}
	if before != r.encoding(s.To) {
		return errors.New("a delta that was refused or delivered again changed the state")
	}
	return nil
}

func (r *runner) expect(at string, want *expectation) error {
	if want.Lines == nil || want.VV == nil {
		return fmt.Errorf("%w: nothing expected of lines or vv", errScript)
	}
	if got := r.shown(at); !maps.Equal(got, want.Lines) {
		return fmt.Errorf("%s shows %v, want %v", at, got, want.Lines)
	}
	if got := r.vv(at); r.level == everything && !maps.Equal(got, want.VV) {
		return fmt.Errorf("%s has the version vector %v, want %v", at, got, want.VV)
	}
	return nil
}

// invariants checks what holds after every step: equal version vectors mean equal states, and a
// state joined with itself stays as it is.
func (r *runner) invariants() error {
	for i, a := range r.names {
		for _, b := range r.names[:i] {
			if !maps.Equal(r.vv(a), r.vv(b)) {
				continue
			}
			if x, y := r.shown(a), r.shown(b); !maps.Equal(x, y) {
				return fmt.Errorf("equal version vectors, but %s shows %v and %s %v", a, x, b, y)
			}
			if x, y := r.encoding(a), r.encoding(b); r.level == everything && x != y {
				return fmt.Errorf("equal version vectors, but %s is %x and %s is %x", a, x, b, y)
			}
		}
		before := r.encoding(a)
		if r.join(a, a); before != r.encoding(a) {
			return fmt.Errorf("%s changed when joined with itself", a)
		}
	}
	return nil
}

// exchange joins full states until nothing changes.
func (r *runner) exchange() error {
	for range 2 * len(r.names) {
		changed := false
		for _, from := range r.names {
			for _, to := range r.names {
				before := r.encoding(to)
				r.join(from, to)
				changed = changed || before != r.encoding(to)
			}
		}
		if !changed {
			return nil
		}
	}
	return errors.New("the exchange of states does not end")
}
