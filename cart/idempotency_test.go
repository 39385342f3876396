package cart

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cartd/crdt"
)

func wantReplayed(t *testing.T, r Result, replayed bool) {
	t.Helper()
	if r.Replayed != replayed {
		t.Fatalf("replayed: %v, want %v", r.Replayed, replayed)
	}
}

func TestRetryCountsOnce(t *testing.T) {
	c := create(t, start(t, Options{}))
	wantReplayed(t, c.keyed("k", addN("A", 2), PutCode{"X"}), false)
	c.do(addN("A", 1))
	r := c.keyed("k", addN("A", 2), PutCode{"X"})
	wantReplayed(t, r, true)
	if got := linesOf(r.State); got != "A=3" {
		t.Fatalf("the replay shows %q, not the current cart", got)
	}
	if got := r.Steps[0]; got != (StepResult{lineIDOf("A"), 3, true}) {
		t.Errorf("the result of the step is %+v", got)
	}
	c.want("A=3")

	// Nor does it count again once the line is gone.
	c.do(remove("A"))
	wantReplayed(t, c.keyed("k", addN("A", 2), PutCode{"X"}), true)
	c.want("")
}

// Whatever the ids of keys that are known, one that is not known is not a retry.
func TestUnknownKeysAreNotReplays(t *testing.T) {
	c := create(t, start(t, Options{}))
	for i := range 100 {
		wantReplayed(t, c.keyed(fmt.Sprint(i), addN("A", 1)), false)
	}
	for i := range 100 {
		wantReplayed(t, c.keyed(fmt.Sprint(i), addN("A", 1)), true)
	}
	c.want("A=100")
}

func TestEveryCommandIsReplayed(t *testing.T) {
	for _, command := range []Command{
		addN("A", 1), setN("A", 3), setN("A", 0), takeOff("A", 1), takeOff("A", 9), remove("A"),
		Clear{},
		takeOff("none", 1), remove("none"), setN("none", 0),
		RemoveCode{"none"},
		Remove{byID("none")},
		PutCode{"Y"},
		RemoveCode{"X"},
		Update{Note: new(new("n"))},
		Update{},
		Update{Metadata: MetadataPatch{DropAll: true}},
		Describe{bySKU("A"), Details{Title: new("t")}},
		Describe{Line: bySKU("A")},
	} {
		t.Run(fmt.Sprintf("%T %+v", command, command), func(t *testing.T) {
			c := create(t, start(t, Options{}), addN("A", 5), PutCode{"X"})
			first := c.keyed("k", command)
			wantReplayed(t, first, false)
			second := c.keyed("k", command)
			wantReplayed(t, second, true)
			if Version(first.State) != Version(second.State) {
				t.Error("the replay made an event")
			}
		})
	}
}

func TestKeyOfAnotherBody(t *testing.T) {
	c := create(t, start(t, Options{}))
	c.keyed("k", addN("A", 1), addN("B", 1))
	for name, commands := range map[string][]Command{
		"another quantity": {addN("A", 2), addN("B", 1)},
		"another line":     {addN("C", 1), addN("B", 1)},
		"another command":  {setN("A", 1), addN("B", 1)},
		"fewer":            {addN("A", 1)},
		"more":             {addN("A", 1), addN("B", 1), addN("C", 1)},
		"another order":    {addN("B", 1), addN("A", 1)},
		"a detail":         {Add{bySKU("A"), 1, Details{Title: new("")}}, addN("B", 1)},
		"an option":        {Add{Line: bySKU("A", Pair{"x", ""}), Quantity: 1}, addN("B", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.try(Request{Key: "k", Steps: stepsOf(commands)})
			wantReason(t, err, OperationReused)
		})
	}
	// The same body, spelt in another way.
	wantReplayed(t, c.keyed("k", Add{Line: LineRef{SKU: "A", Options: []Pair{}}, Quantity: 1}, addN("B", 1)), true)
	// A key is one of its cart, and a step's is not a request's.
	other := create(t, c.s)
	wantReplayed(t, other.keyed("k", addN("A", 9)), false)
	r := c.request(Request{Steps: []Step{{Command: addN("A", 9), Key: "k"}}})
	wantReplayed(t, r, false)
	c.want("A=10 B=1")
}

func TestOrderOfOptionsIsNotAnotherBody(t *testing.T) {
	c := create(t, start(t, Options{}))
	x, y := Pair{"x", "1"}, Pair{"y", "2"}
	metadata := func(edits ...MetadataEdit) Details { return Details{Metadata: MetadataPatch{Edits: edits}} }
	m, n := MetadataEdit{"m", new("1")}, MetadataEdit{"n", nil}
	c.keyed("k", Add{bySKU("A", x, y), 1, metadata(m, n)})
	wantReplayed(t, c.keyed("k", Add{bySKU("A", y, x), 1, metadata(n, m)}), true)
}

func TestKeysOfSteps(t *testing.T) {
	c := create(t, start(t, Options{}))
	step := func(key string, command Command) Step { return Step{Command: command, Key: key} }
	one, two, three := step("1", addN("A", 1)), step("2", addN("A", 2)), step("3", takeOff("A", 3))

	wantReplayed(t, c.request(Request{Steps: []Step{one, two}}), false)
	r := c.request(Request{Steps: []Step{two, three}})
	wantReplayed(t, r, false)
	if !r.Steps[0].Replayed || r.Steps[1].Replayed || r.Steps[0].Quantity != 3 || r.Steps[1].Quantity != 0 {
		t.Errorf("the results of the steps are %+v", r.Steps)
	}
	c.want("")
	wantReplayed(t, c.request(Request{Steps: []Step{one, two, three}}), true)
	c.want("")

	_, err := c.try(Request{Steps: []Step{one, step("3", addN("A", 3))}})
	wantReason(t, err, OperationReused)
	var at *StepError
	if !errors.As(err, &at) || at.Step != 1 {
		t.Errorf("the error is not of step 1: %v", err)
	}
	// With steps that have no key it is no replay, but those that have one count once.
	r = c.request(Request{Steps: []Step{one, {Command: addN("B", 1)}}})
	wantReplayed(t, r, false)
	c.want("B=1")
}

func TestKeyTwiceInOneBatch(t *testing.T) {
	c := create(t, start(t, Options{}))
	step := Step{Command: addN("A", 1), Key: "k"}
	r := c.request(Request{Steps: []Step{step, step}})
	if r.Steps[0].Replayed || !r.Steps[1].Replayed {
		t.Errorf("the results of the steps are %+v", r.Steps)
	}
	c.want("A=1")
	if n := len(c.read().Operations); n != 1 {
		t.Errorf("%d records", n)
	}
	wantReplayed(t, c.request(Request{Steps: []Step{step, step}}), true)
	c.want("A=1")
	_, err := c.try(Request{Steps: []Step{{Command: addN("B", 1), Key: "l"}, {Command: addN("B", 2), Key: "l"}}})
	wantReason(t, err, OperationReused)
	c.want("A=1")
}

// A retry may arrive after the cart has changed: what found nothing finds nothing.
func TestRetryOfWhatDidNothing(t *testing.T) {
	for _, command := range []Command{takeOff("A", 1), remove("A"), setN("A", 0), Clear{}} {
		c := create(t, start(t, Options{}))
		wantReplayed(t, c.keyed("k", command), false)
		c.do(addN("A", 2))
		wantReplayed(t, c.keyed("k", command), true)
		c.want("A=2")
	}
	c := create(t, start(t, Options{}))
	c.keyed("k", RemoveCode{"X"})
	c.do(PutCode{"X"})
	c.keyed("k", RemoveCode{"X"})
	if !c.read().Members.Has("X") {
		t.Error("the retry removed the code")
	}
}

func TestRetryUnderAnIfMatch(t *testing.T) {
	c := create(t, start(t, Options{}))
	match := []uint64{Version(c.read())}
	q := Request{Key: "k", IfMatch: match, Steps: stepsOf([]Command{addN("A", 1)})}
	wantReplayed(t, c.request(q), false)
	wantReplayed(t, c.request(q), true)
	c.want("A=1")

	q.Key = "another"
	_, err := c.try(q)
	wantReason(t, err, PreconditionFailed)
	_, err = c.try(Request{IfMatch: []uint64{}, Steps: q.Steps})
	wantReason(t, err, PreconditionFailed)
	q.IfMatch = append(match, Version(c.read()))
	c.request(q)
	c.want("A=2")
}

func TestRecordsAreForgotten(t *testing.T) {
	now := newClock()
	c := create(t, start(t, Options{Now: now.Now}))
	c.keyed("live", addN("L", 1))
	c.keyed("spent", addN("S", 1))
	c.keyed("removal", remove("S"))
	now.advance(RetryWindow - time.Minute)
	c.do(addN("X", 1))
	if n := len(c.read().Operations); n != 3 {
		t.Fatalf("%d records before 48 h are over", n)
	}
	now.advance(2 * time.Minute)
	// Time alone forgets nothing, and the retry itself is no event.
	wantReplayed(t, c.keyed("spent", addN("S", 1)), true)
	c.want("L=1 X=1")
	c.do(addN("X", 1))
	if n := len(c.read().Operations); n != 1 {
		t.Fatalf("%d records after 48 h, want that of what is still in the cart", n)
	}
	wantReplayed(t, c.keyed("spent", addN("S", 1)), false)
	wantReplayed(t, c.keyed("live", addN("L", 1)), true)
	c.want("L=1 S=1 X=2")
}

// The same request at two nodes that do not hear of each other counts once when they do.
func TestRetryAtAnotherReplica(t *testing.T) {
	now := newClock()
	store := newFakeStore()
	c := create(t, start(t, Options{Store: store, Now: now.Now}), addN("A", 1))
	there := newFakeStore()
	there.put(c.id, store.state(c.id))
	d := c.at(start(t, Options{Store: there, Now: now.Now}))
	wantReplayed(t, c.keyed("k", addN("A", 2)), false)
	wantReplayed(t, d.keyed("k", addN("A", 2)), false)

	both := newFakeStore()
	both.put(c.id, crdt.Join(store.state(c.id), there.state(c.id)))
	e := c.at(start(t, Options{Store: both, Now: now.Now}))
	e.want("A=3")
	wantReplayed(t, e.keyed("k", addN("A", 2)), true)
	e.do(remove("A"))
	wantReplayed(t, e.keyed("k", addN("A", 2)), true)
	e.want("")
}
