package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cartd/api"
)

// Verdict is what an audit found. A write that changed several lines counts once for each of them.
type Verdict struct {
	Lost       int           // acknowledged, or shown to somebody, and missing or undone
	Resurfaced int           // what an acknowledged removal had seen, and is there again
	Doubled    int           // more than all that was acknowledged or is unknown makes
	AtRiskLost int           // missing among the writes that AtRisk named: no violation
	Sessions   int           // answers that went back behind what the client had seen or written
	Wrong      int           // answers that may never be, and operations that nobody took in time
	Unequal    int           // carts that were not the same on all nodes when the context ended
	Converged  time.Duration // from the call of Audit until all were the same, or the context ended
	Last       string        // what nodes showed of the cart that was the same last, while it was not
	Findings   []string      // one sentence each, at most 50
}

// OK reports whether everything that was promised held.
func (v Verdict) OK() bool {
	return v.Lost+v.Resurfaced+v.Doubled+v.Sessions+v.Wrong+v.Unequal == 0
}

// String is for logs.
func (v Verdict) String() string {
	return fmt.Sprintf("%d lost, %d resurfaced, %d doubled, %d lost at risk, %d sessions went back, %d wrong, %d carts unequal; the same everywhere within %v",
		v.Lost, v.Resurfaced, v.Doubled, v.AtRiskLost, v.Sessions, v.Wrong, v.Unequal, v.Converged.Round(time.Millisecond))
}

func (v *Verdict) find(format string, args ...any) {
	if len(v.Findings) < maxFindings {
		v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
	}
}

// Audit reads each cart at every node until all show the same of it, by ETag and body, or until ctx ends, and compares
// that with the ledger. A cart that is not the same everywhere is not compared. It stops the clients first.
func (r *Run) Audit(ctx context.Context) Verdict {
	r.Stop()
	defer r.http.CloseIdleConnections()
	began := time.Now()
	r.mu.Lock()
	v := Verdict{Sessions: int(r.totals.Sessions), Wrong: int(r.totals.Wrong)}
	risks := slices.Clone(r.risks)
	inspections := make([]*inspection, len(r.all))
	for i, c := range r.all {
		inspections[i] = &inspection{cart: c}
	}
	r.mu.Unlock()

	for left := inspections; len(left) > 0 && ctx.Err() == nil; {
		r.inspect(ctx, left)
		left = slices.DeleteFunc(slices.Clone(left), (*inspection).equal)
		if len(left) > 0 {
			v.Last = r.differences(left[0])
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval / 4):
			}
		}
	}
	v.Converged = time.Since(began)
	for _, i := range inspections {
		switch {
		case i.equal():
			i.cart.compare(i.shown[0].cart.LineItems, risks, &v)
		case i.gone():
			if risks.fate(i.cart.created) == sure {
				v.Lost++
				v.find("cart %s: no node has it", i.cart.id)
			} else {
				v.AtRiskLost++
			}
			i.cart.compare(nil, risks, &v)
		default:
			v.Unequal++
			v.find("cart %s is not the same everywhere: %s", i.cart.id, r.differences(i))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.complaints {
		v.find("%s", c)
	}
	return v
}

// inspection is what the nodes show of a cart.
type inspection struct {
	cart  *cart
	shown []answer // by node; none before the first round was complete
}

// inspect reads carts at every node, some at a time. What ctx cuts off is left as it was.
func (r *Run) inspect(ctx context.Context, all []*inspection) {
	var working sync.WaitGroup
	places := make(chan struct{}, auditors)
	for _, i := range all {
		places <- struct{}{}
		working.Go(func() {
			defer func() { <-places }()
			var shown []answer
			for node := range r.options.Nodes {
				shown = append(shown, r.send(ctx, request{
					kind: "read", method: http.MethodGet, path: i.cart.path(), cart: i.cart, number: i.cart.number,
				}, -1, node))
			}
			if ctx.Err() == nil || i.shown == nil {
				i.shown = shown
			}
		})
	}
	working.Wait()
}

// equal reports whether all nodes show the cart, and the same of it.
func (i *inspection) equal() bool {
	return len(i.shown) > 0 && !slices.ContainsFunc(i.shown, func(a answer) bool {
		return a.Outcome != OK || a.etag != i.shown[0].etag || !bytes.Equal(a.body, i.shown[0].body)
	})
}

// gone reports whether no node has the cart.
func (i *inspection) gone() bool {
	return len(i.shown) > 0 && !slices.ContainsFunc(i.shown, func(a answer) bool { return a.Problem != cartNotFound })
}

// differences tells what each node shows of a cart, up to 1,000 bytes each.
func (r *Run) differences(i *inspection) string {
	var s strings.Builder
	for node, a := range i.shown {
		fmt.Fprintf(&s, "%s: %s %s %.1000s; ", r.options.Nodes[node].Name, a.Problem, a.etag, a.body)
	}
	return s.String()
}

// compare adds what the lines of the cart tell, in the light of the ledger, to a verdict.
func (c *cart) compare(lines []api.LineItem, r risks, v *Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	units := make(map[string]int64, len(c.lines))
	for sku := range c.lines {
		units[sku] = 0
	}
	for _, l := range lines {
		units[l.SKU] = int64(l.Quantity)
	}
	for _, sku := range slices.Sorted(maps.Keys(units)) {
		j := judgement{doubled: 1, why: fmt.Sprintf("%d units, and nobody has added it", units[sku])}
		if l := c.lines[sku]; l != nil {
			j = l.judge(units[sku], r)
		}
		v.Lost += j.lost
		v.Resurfaced += j.resurfaced
		v.Doubled += j.doubled
		v.AtRiskLost += j.atRiskLost
		if j.why != "" {
			v.find("cart %s: %s: %s", c.id, sku, j.why)
		}
	}
}

// entry is a line of the ledger that is written down.
type entry struct {
	Time       time.Time `json:"time"`
	Type       string    `json:"type"` // invoke; then ok, fail for what certainly did not happen, or unknown
	Operation  uint64    `json:"operation"`
	Client     int       `json:"client"` // -1 is Start
	Cart       string    `json:"cart"`
	Kind       string    `json:"kind"`
	Changes    []change  `json:"changes,omitempty"`    // with invoke
	Durability string    `json:"durability,omitempty"` // with ok
	Replayed   bool      `json:"replayed,omitempty"`   // with ok
}

// WriteLedger writes the writes of all carts by time, a JSON object a line: when each was begun (invoke), and what
// became of it (ok, fail or unknown).
func (r *Run) WriteLedger(w io.Writer) error {
	r.mu.Lock()
	carts := slices.Clone(r.all)
	r.mu.Unlock()
	var entries []entry
	for _, c := range carts {
		entries = append(entries, c.entries(r.began)...)
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return a.Time.Compare(b.Time) })
	lines := json.NewEncoder(w)
	for _, e := range entries {
		if err := lines.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

// entries returns the ledger of a cart. Times count from when the run began, whatever becomes of the wall clock.
func (c *cart) entries(began time.Time) []entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var entries []entry
	for _, w := range append([]*write{c.created}, c.writes...) {
		e := entry{Time: began.Add(w.took.from.Sub(began)), Type: "invoke", Operation: w.id, Client: w.client, Cart: c.id, Kind: w.kind}
		end := e
		e.Changes = w.changes
		entries = append(entries, e)
		if w.took.to.IsZero() {
			continue // it is not settled
		}
		end.Time, end.Durability, end.Replayed = began.Add(w.took.to.Sub(began)), w.durability, w.replayed
		end.Type = map[outcome]string{open: "unknown", failed: "fail", acknowledged: "ok"}[w.outcome]
		entries = append(entries, end)
	}
	return entries
}
