package storetest

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"cartd/cart"
	"cartd/crdt"
)

// anyHistory runs random histories against a model, which is one join per cart. rapid prints the
// seed of a failure and takes it back in -rapid.seed.
func anyHistory(t *testing.T, create func(t *testing.T) Database) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &history{db: create(t), committed: map[cart.ID]*crdt.State{}}
		defer func() {
			for _, s := range h.opened {
				_ = s.Close() // of one that crashed there is nothing to expect
			}
		}()
		h.open(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"author":   h.author,
			"change":   h.change,
			"catch up": h.catchUp,
			"commit":   h.commit,
			"restart":  h.restart,
			"":         h.check,
		})
	})
}

type history struct {
	db      Database
	store   cart.Store
	opened  []cart.Store // to be closed at the end
	ids     []cart.ID
	authors []*author
	waiting []cart.Change // made and not committed yet

	committed map[cart.ID]*crdt.State // the join of what was committed of each cart
}

func (h *history) open(t *rapid.T) {
	h.store = h.db.Open(t)
	h.opened = append(h.opened, h.store)
}

// author adds an author of a new cart, or of one that there is, who knows all that was committed
// or nothing.
func (h *history) author(t *rapid.T) {
	if i := rapid.IntRange(-1, len(h.ids)-1).Draw(t, "cart"); i < 0 {
		h.ids = append(h.ids, cart.NewID())
		h.authors = append(h.authors, newAuthor(h.ids[len(h.ids)-1], nil))
	} else if rapid.Bool().Draw(t, "knows") {
		h.authors = append(h.authors, newAuthor(h.ids[i], h.committed[h.ids[i]]))
	} else {
		h.authors = append(h.authors, newAuthor(h.ids[i], nil))
	}
}

func (h *history) draw(t *rapid.T) *author {
	if len(h.authors) == 0 {
		t.Skip("no author yet")
	}
	return h.authors[rapid.IntRange(0, len(h.authors)-1).Draw(t, "author")]
}

func (h *history) change(t *rapid.T) {
	a := h.draw(t)
	e, line := a.event(), fmt.Sprint("line ", rapid.IntRange(0, 3).Draw(t, "line"))
	var d *crdt.Delta
	switch n := rapid.Int64Range(1, 9).Draw(t, "n"); rapid.IntRange(0, 24).Draw(t, "kind") {
	default:
		d = e.Add(a.state, line, n)
	case 1, 2, 3:
		d = e.Assign(a.state, line, n)
	case 4, 5, 6:
		d = e.Remove(a.state, line)
	case 7, 8, 9:
		d = e.Decrement(a.state, line, n)
	case 10, 11:
		d = e.Insert(a.state, line)
	case 12:
		d = e.Clear(a.state)
	case 13, 14:
		e.Operation = crdt.OperationID{byte(n)}
		d = e.Add(a.state, line, n)
	case 15:
		d = e.Touch(a.state)
		e.Forget(a.state, d, e.At)
	case 16:
		d = &crdt.Delta{State: crdt.State{Erased: true}}
	}
	c := a.change(t, d)
	switch rapid.IntRange(0, 7).Draw(t, "holds") {
	case 0, 1:
		c.State = nil
	case 2, 3:
		c.Delta = nil
	}
	h.waiting = append(h.waiting, c)
}

// catchUp lets an author learn what was committed of the cart. It waits for what is not committed
// yet, which a delta must not build on.
func (h *history) catchUp(t *rapid.T) {
	if a := h.draw(t); h.committed[a.id] != nil {
		a.state = crdt.Join(a.state, h.committed[a.id])
	}
}

func (h *history) commit(t *rapid.T) {
	commit(t, h.store, h.waiting...)
	for _, c := range h.waiting {
		if h.committed[c.ID] == nil {
			h.committed[c.ID] = new(crdt.State)
		}
		if c.Delta == nil {
			h.committed[c.ID] = crdt.Join(h.committed[c.ID], c.State)
			continue
		}
		var err error
		if h.committed[c.ID], err = h.committed[c.ID].Apply(c.Delta); err != nil {
			t.Fatalf("the suite itself committed a delta that builds on one that it did not: %v", err)
		}
	}
	h.waiting = nil
}

// restart opens the database anew, after the store was closed or after a crash. A crash loses what
// is not committed: its authors are gone.
func (h *history) restart(t *rapid.T) {
	if rapid.Bool().Draw(t, "crash") {
		h.db.Crash(t)
		h.waiting, h.authors = nil, nil
	} else if err := h.store.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	h.open(t)
}

func (h *history) check(t *rapid.T) {
	for _, id := range h.ids {
		if want := h.committed[id]; want != nil {
			wantState(t, h.store, id, want)
		} else {
			wantNone(t, h.store, id)
		}
	}
}
