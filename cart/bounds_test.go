package cart

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cartd/crdt"
)

// The key of a request is recorded even where its steps have keys of their own.
func TestRequestKeyBesideStepKeys(t *testing.T) {
	c := create(t, start(t, Options{}))
	own := func(sku, key string) Step { return Step{Command: addN(sku, 1), Key: key} }
	mixed := Request{Key: "K", Steps: []Step{own("A", "a"), {Command: addN("B", 1)}}}
	c.request(mixed)
	for name, q := range map[string]Request{
		"another body":                 {Key: "K", Steps: stepsOf([]Command{addN("B", 1)})},
		"another body with step keys":  {Key: "K", Steps: []Step{own("Z", "z")}},
		"the same step key and a step": {Key: "K", Steps: []Step{own("A", "a"), {Command: addN("C", 1)}}},
	} {
		_, err := c.try(q)
		if err == nil {
			t.Errorf("%s was executed", name)
			continue
		}
		wantReason(t, err, OperationReused)
	}
	if r := c.request(mixed); !r.Replayed {
		t.Error("the retry is not a replay")
	}
	c.want("A=1 B=1")

	// And the other way round.
	c.keyed("L", addN("D", 1))
	_, err := c.try(Request{Key: "L", Steps: []Step{own("E", "e")}})
	wantReason(t, err, OperationReused)
	c.want("A=1 B=1 D=1")
}

// A new cart takes as many lines as a cart may have.
func TestCreateLines(t *testing.T) {
	s := start(t, Options{Limits: Limits{Lines: 300, Quantity: 9}})
	steps := make([]Step, 301)
	for i := range steps {
		steps[i].Command = addN(fmt.Sprintf("SKU-%d", i), 1)
	}
	if _, _, _, err := s.Create(t.Context(), "EUR", steps, Default); err == nil {
		t.Error("301 lines of 300 were taken")
	} else {
		wantReason(t, err, TooManyLines)
	}
	_, _, r, err := s.Create(t.Context(), "EUR", steps[:300], Default)
	if err != nil || countLines(r.State) != 300 {
		t.Errorf("%v, %d lines", err, countLines(r.State))
	}
}

// Erasing waits for what the client has seen, and refuses a version that has passed.
func TestEraseConditions(t *testing.T) {
	s := start(t, Options{})
	c := create(t, s)
	a := author{t, 99, time.Now()}
	ahead := c.contextOf(a.apply(c.read(), addN("A", 1)))
	_, err := s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access(), Context: ahead})
	wantReason(t, err, ContextUnavailable)
	was := Version(c.read())
	c.do(addN("A", 1))
	_, err = s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access(), IfMatch: []uint64{was}})
	wantReason(t, err, PreconditionFailed)
	c.want("A=1")
}

// Every context that is given out can be sent back; a vector beyond that gives none.
func TestLargeContexts(t *testing.T) {
	s := author{t, 1, time.Now()}.create(NewToken())
	var v View
	for replicas := 1; replicas < 3000; replicas += 250 {
		many := *s
		many.VV = nil
		for i := range replicas {
			many.VV = append(many.VV, crdt.Dot{Replica: crdt.ReplicaID(1<<60 + i), Seq: 300})
		}
		id := NewID()
		v.Read(id, &many, DefaultLimits)
		text := string(v.AppendContext(nil))
		if text == "" {
			if replicas < 1500 {
				t.Errorf("no context of %d replicas", replicas)
			}
			continue
		}
		if c, err := ParseContext(id, text); err != nil || !c.seenBy(&many) {
			t.Errorf("%d replicas: %v", replicas, err)
		}
	}
}

// A cart remembers so many keys and no more; commands without one go on, and once it may forget, so do
// those with one.
func TestRecordLimit(t *testing.T) {
	for _, unkeyedFirst := range []bool{false, true} {
		clock := newClock()
		s := start(t, Options{Now: clock.Now})
		c := create(t, s, addN("A", 1))
		for i := range maxRecords / MaxOperations {
			steps := make([]Step, MaxOperations)
			for k := range steps {
				steps[k] = Step{Command: remove("X"), Key: fmt.Sprint(i, "-", k)}
			}
			c.request(Request{Steps: steps})
		}
		_, err := c.try(Request{Key: "one more", Steps: stepsOf([]Command{addN("A", 1)})})
		wantReason(t, err, TooManyOperations)
		c.do(addN("A", 1))
		if r := c.request(Request{Steps: []Step{{Command: remove("X"), Key: "0-0"}}}); !r.Replayed {
			t.Error("a key that is remembered is no replay")
		}
		clock.advance(RetryWindow + time.Hour)
		if unkeyedFirst {
			c.do(addN("A", 1))
		} else {
			c.keyed("first", addN("A", 1))
		}
		c.keyed("one more", addN("A", 1))
		c.want("A=4")
	}
}

// The texts of a cart are bounded as a whole, and what makes them shorter is taken.
func TestTextLimit(t *testing.T) {
	c := create(t, start(t, Options{Limits: Limits{Lines: 10, Quantity: 9}}))
	value := strings.Repeat("v", MaxMetadataValue)
	fill := func(sku string) Command {
		var p MetadataPatch
		for i := range MaxMetadata {
			p.Edits = append(p.Edits, MetadataEdit{fmt.Sprint(i), &value})
		}
		return Add{Line: bySKU(sku), Quantity: 1, Details: Details{Metadata: p}}
	}
	full := 0
	for ; ; full++ {
		if _, err := c.try(Request{Steps: stepsOf([]Command{fill(fmt.Sprint(full)), remove(fmt.Sprint(full))})}); err != nil {
			wantReason(t, err, TooLarge)
			break
		}
	}
	if n := textOf(c.read()); n > minText || n < minText-MaxMetadata*(MaxMetadataValue+10) {
		t.Errorf("%d bytes were taken", n)
	}
	note := strings.Repeat("n", MaxNote)
	p := &note
	for range 20 { // may fit once, and is then replaced
		if _, err := c.try(Request{Steps: stepsOf([]Command{Update{Note: &p}})}); err != nil {
			wantReason(t, err, TooLarge)
		}
	}
	c.do(Add{Line: bySKU("0"), Quantity: 1, Details: Details{Metadata: MetadataPatch{DropAll: true}}})
	c.do(Update{Note: &p})
}

// Deleting metadata that is not there changes nothing.
func TestDeletionOfAbsentMetadata(t *testing.T) {
	c := create(t, start(t, Options{}), addN("A", 1))
	ghost := MetadataPatch{Edits: []MetadataEdit{{Name: "ghost"}}}
	c.do(Update{Metadata: ghost}, Describe{Line: bySKU("A"), Details: Details{Metadata: ghost}})
	s := c.read()
	if len(s.Registers) != 2 || len(s.Line("A").Registers) != 0 {
		t.Errorf("registers %v and %v", s.Registers, s.Line("A").Registers)
	}
}

// A code that was put under one key in two places, and removed by who saw one of them, is gone.
func TestCodeUnderOneKey(t *testing.T) {
	now := time.Now()
	here, there, third := author{t, 1, now}, author{t, 2, now}, author{t, 3, now}
	s := here.create(NewToken())
	keyed := func(a author) *State {
		e := &edit{state: s, limits: hugeLimits}
		event := crdt.Event{Replica: a.replica, At: s.Lifetime.Updated.Next(now), Operation: OperationID{1}}
		if err := e.apply(event, PutCode{"SPRING"}); err != nil {
			t.Fatal(err)
		}
		return e.state
	}
	a, b := keyed(here), keyed(there)
	if codes := codesOf(nil, crdt.Join(a, b)); len(codes) != 1 {
		t.Errorf("put twice: %v", codes)
	}
	if codes := codesOf(nil, crdt.Join(third.apply(a, RemoveCode{"SPRING"}), b)); len(codes) != 0 {
		t.Errorf("removed: %v", codes)
	}
}

// A cart takes so many entries and no more, and can be cleared then: what that cancels is read again.
func TestEntriesOfACart(t *testing.T) {
	store, now := newFakeStore(), newClock()
	s := start(t, Options{Store: store, Now: now.Now, Limits: Limits{Lines: 20, Quantity: 1 << 20}})
	c := &client{t, s, NewID(), NewToken()}
	a := author{t, 1, now.Now()}
	state := a.create(c.token)
	const lines = 10
	d := &crdt.Delta{Base: state.VV}
	d.VV = crdt.VV{{Replica: 1, Seq: 1 + maxCartEntries - 1}}
	d.Lifetime.Updated = state.Lifetime.Updated + 1
	for seq, line := uint64(2), 0; line < lines; line++ {
		l := &crdt.Line{Key: fmt.Sprintf("L%02d", line), First: d.Lifetime.Updated}
		for ; seq <= uint64(line+1)*maxCartEntries/lines; seq++ {
			l.Counter = append(l.Counter, crdt.Entry{Dot: crdt.Dot{Replica: 1, Seq: seq}, N: 1})
		}
		d.Lines = append(d.Lines, l)
	}
	state, err := state.Apply(d)
	if err != nil {
		t.Fatal(err)
	}
	store.put(c.id, state)

	c.do(addN("one more", 1))
	c.refused(QuantityExceeded, addN("another", 1))
	c.refused(QuantityExceeded, addN("L00", 1))
	c.do(setN("L01", 5))
	c.do(addN("another", 1))

	cleared := crdt.Event{Replica: 2, At: c.read().Lifetime.Updated + 1}.Clear(c.read())
	again, err := crdt.DecodeDelta(crdt.AppendDelta(nil, cleared))
	if err != nil || len(again.Cancelled) != countEntries(c.read()) {
		t.Errorf("%v", err)
	}
	c.do(Clear{})
	c.want("")
}

// A cart that so many residences have written takes no writes of another, and can be erased.
func TestReplicasOfACart(t *testing.T) {
	store, now := newFakeStore(), newClock()
	s := start(t, Options{Store: store, Now: now.Now})
	c := &client{t, s, NewID(), NewToken()}
	state := *author{t, 1, now.Now()}.create(c.token)
	for r := crdt.ReplicaID(2); len(state.VV) < maxReplicas; r++ {
		state.VV = append(state.VV, crdt.Dot{Replica: r, Seq: 1})
	}
	store.put(c.id, &state)
	c.refused(TooLarge, addN("A", 1))
	if _, err := s.Erase(t.Context(), &Request{Cart: c.id, Access: c.access()}); err != nil {
		t.Error(err)
	}
}
