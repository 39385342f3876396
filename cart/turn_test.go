package cart

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// hog is a command that takes as long as the test wants. It is an author that does not let go.
type hog struct {
	Clear
	working chan struct{}
	finish  chan struct{}
}

func (h hog) append(b []byte) []byte {
	close(h.working)
	<-h.finish
	return h.Clear.append(b)
}

// occupy keeps the turn at a cart, within a bubble, until release is called.
func (c *client) occupy() (release func()) {
	h := hog{working: make(chan struct{}), finish: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := c.try(Request{Key: "hog", Steps: []Step{{Command: h}}}); err != nil {
			c.t.Errorf("the author that took long: %v", err)
		}
	}()
	<-h.working
	return func() {
		close(h.finish)
		<-done
	}
}

// While a cart's author works, what was committed of the cart before is acknowledged, it is read,
// other carts are written, and who waits for a turn gives up in time, without an effect.
func TestAuthorHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, Options{Store: store})
		c, other := create(t, s, addN("A", 1)), create(t, s)
		entered, release := store.blockCommits()
		before := c.begin("", addN("A", 1))
		<-entered
		letGo := c.occupy()
		release()
		wantAnswer(t, before, "A=2")
		c.want("A=2")
		other.do(addN("B", 1))

		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		_, err := c.tryContext(ctx, Request{Steps: stepsOf([]Command{addN("A", 100)})})
		wantReason(t, err, NotDurable)
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it gave up after %v", took)
		}
		letGo()
		c.do(addN("C", 1))
		c.want("C=1") // the hog cleared what was there
	})
}

// Turns come in the order in which they were asked for, and so many wait at most.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := create(t, start(t, Options{}))
		letGo := c.occupy()
		var waiting []<-chan answer
		for i := range maxAuthors {
			waiting = append(waiting, c.begin("", setN("A", int64(i+1))))
		}
		c.refused(NotDurable, addN("A", 1))
		letGo()
		for _, w := range waiting {
			synctest.Wait()
			if a := <-w; a.err != nil {
				t.Fatal(a.err)
			}
		}
		c.want("A=256")
	})
}

// A cart whose author works is neither evicted nor packed.
func TestAuthorKeepsTheCart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := start(t, Options{})
		c := create(t, s)
		letGo := c.occupy()
		time.Sleep(3 * idleTicks * tick) // fake time
		r := s.shard(c.id).get(c.id)
		if r == nil || r.packed != nil || s.evictOne(s.shard(c.id)) {
			t.Error("the cart was taken from under its author")
		}
		letGo()
	})
}
