package workload

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// end is how the repetition of an operation ended.
type end int

const (
	answered  end = iota // by an answer that is OK
	givenUp              // the outcome is let be, or an answer was wrong, or nobody took it in time
	forgotten            // no node has what the client has seen, or the cart
)

// repeat sends a request to one node after the other until it is answered, and tells whether an attempt that was
// not may have had an effect. With letBe an outcome that is unknown stays so.
func (z *client) repeat(q request, letBe bool) (a answer, happened bool, e end) {
	began := time.Now()
	var unavailable time.Time // since when nobody has what the client has seen
	for {
		node := z.pick(began.Add(z.options.Patience))
		if node < 0 {
			z.gaveUp(q, "no node is ready")
			return a, happened, givenUp
		}
		a = z.send(z.running, q, z.number, node)
		z.count(a)
		happened = happened || a.happened
		switch {
		case a.Outcome == OK:
			return a, happened, answered
		case a.Outcome == Wrong:
			z.complain(true, "%s at %s: %s", q, z.options.Nodes[node].Name, a.Problem)
			return a, happened, givenUp
		case z.running.Err() != nil, letBe && happened:
			return a, happened, givenUp
		case a.Problem != contextUnavailable && a.Problem != cartNotFound:
		case unavailable.IsZero():
			unavailable = a.Began
		case time.Since(unavailable) > z.options.Patience/6:
			return a, happened, forgotten
		}
		if time.Since(began) > z.options.Patience {
			z.gaveUp(q, a.Problem)
			return a, happened, givenUp
		}
		z.wait(z.pause(backoff))
	}
}

func (z *client) gaveUp(q request, why string) {
	if z.running.Err() == nil {
		z.complain(true, "%s: nobody takes it for %v, at last: %s", q, z.options.Patience, why)
	}
}

func (q request) String() string {
	s := fmt.Sprintf("operation %d, %s %s", q.operation, q.method, q.path)
	if q.body != "" {
		s += " " + q.body
	}
	return s
}

// pick draws another node than the last one, of another region than its own only where that has none. With FollowReady
// it waits for one that is ready, and returns -1 where there is none before the deadline.
func (z *client) pick(deadline time.Time) int {
	for {
		up := z.ready.others(z.home(z.number), z.node)
		if len(up) == 0 {
			up = z.ready.others(slices.Concat(z.regions...), z.node)
		}
		if len(up) > 0 {
			z.node = up[z.random.IntN(len(up))]
			return z.node
		}
		if time.Now().After(deadline) || z.running.Err() != nil {
			return -1
		}
		z.wait(pollInterval / 10)
	}
}

// wait returns after d, or when nothing is to be waited for any more.
func (z *client) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-z.running.Done():
	}
}

// write makes changes to a cart.
func (z *client) write(v *view, q request, letBe bool, changes ...change) {
	w := &write{id: z.operations.Add(1), client: z.number, kind: q.kind, changes: changes, took: span{from: time.Now()}}
	v.cart.begin(w)
	z.counted(func(t *Totals) { t.Operations++ })
	q.operation, q.durability = w.id, z.durability(v.cart.number)
	a, happened, e := z.repeat(v.request(q), letBe)
	switch {
	case e == answered && !a.nothing:
		v.cart.settle(w, acknowledged, a)
		z.counted(func(t *Totals) { t.acknowledged(w) })
		for _, c := range changes {
			v.sights[c.SKU] = v.sights[c.SKU].after(c)
		}
		z.shown(v, a)
	case happened:
		v.cart.settle(w, open, a)
		z.counted(func(t *Totals) { t.Unknown++ })
		v.leave(changes)
	default:
		v.cart.settle(w, failed, a)
		z.counted(func(t *Totals) { t.Failed++ })
		v.leave(changes)
		if a.nothing {
			z.nothing(v, w, a)
		}
	}
	if e == forgotten {
		z.forget(v)
	}
}

// leave makes the client take another line of its own where one of the changes was to that and did not succeed.
func (v *view) leave(changes []change) {
	if slices.ContainsFunc(changes, func(c change) bool { return strings.HasPrefix(c.SKU, ownPrefix) }) {
		v.own++
	}
}

// nothing is the end of a removal that found nothing to remove: somebody else was faster.
func (z *client) nothing(v *view, w *write, a answer) {
	v.removable = nil
	sku := w.changes[0].SKU
	v.cart.mu.Lock()
	defer v.cart.mu.Unlock()
	if err := v.cart.lines[sku].(*once).missing(w, a.during()); err != nil {
		z.complain(false, "%s: %s: %s", z.about(v, a), sku, err.why)
	}
}

// read reads a cart.
func (z *client) read(v *view) {
	q := request{operation: z.operations.Add(1), kind: "read", method: http.MethodGet}
	switch a, _, e := z.repeat(v.request(q), false); e {
	case answered:
		z.counted(func(t *Totals) { t.Reads++ })
		z.shown(v, a)
	case forgotten:
		z.forget(v)
	}
}

// request completes a request about the cart.
func (v *view) request(q request) request {
	q.path = v.cart.path() + q.path
	q.cart, q.number, q.context = v.cart, v.cart.number, v.context
	return q
}

// forget makes the client go on without what it has seen of a cart, as no node has that. Its own line may have been
// written behind its back then, as far as it knows, so it takes another one.
func (z *client) forget(v *view) {
	if v.context == "" || v.cart.owner >= 0 {
		v.cart.retire() // no node has it, or what a clear has seen would not be certain
		return
	}
	z.counted(func(t *Totals) { t.Dropped++ })
	*v = view{cart: v.cart, sights: make(map[string]sight), own: v.own + 1}
	z.read(v)
}

// shown compares a cart that the client was shown with what it knew.
func (z *client) shown(v *view, a answer) {
	units := make(map[string]int64, len(a.cart.LineItems))
	v.context, v.removable = a.context, v.removable[:0]
	for _, l := range a.cart.LineItems {
		units[l.SKU] = int64(l.Quantity)
	}
	for sku := range v.sights {
		units[sku] += 0
	}
	var wrong, back []string
	v.cart.mu.Lock()
	defer v.cart.mu.Unlock()
	for sku, n := range units {
		err := never("%d units, and nobody has added it", n)
		if l := v.cart.lines[sku]; l != nil {
			v.sights[sku], err = l.shown(v.sights[sku], n, a.during())
		}
		switch {
		case err == nil:
		case err.never:
			wrong = append(wrong, sku+": "+err.why)
		default:
			back = append(back, sku+": "+err.why)
		}
	}
	for _, l := range a.cart.LineItems {
		if strings.HasPrefix(l.SKU, oncePrefix) && v.sights[l.SKU].there() {
			v.removable = append(v.removable, l)
		}
	}
	if len(wrong) > 0 {
		z.complain(true, "%s: %s", z.about(v, a), strings.Join(wrong, "; "))
	}
	if len(back) > 0 {
		z.complain(false, "%s: %s", z.about(v, a), strings.Join(back, "; "))
	}
}

// about tells which answer is wrong.
func (z *client) about(v *view, a answer) string {
	return fmt.Sprintf("client %d, operation %d (%s), cart %s at %s", z.number, a.Operation, a.Kind, v.cart.id, z.options.Nodes[a.Node].Name)
}

// create creates a cart. A retry makes another one, and the one that was not answered stays unseen.
func (z *client) create(number int) *cart {
	q := request{
		operation: z.operations.Add(1), kind: "create", method: http.MethodPost, path: "/v1/carts", body: `{"currency":"EUR"}`,
		number: number, durability: z.durability(number),
	}
	began := time.Now()
	a, _, e := z.repeat(q, false)
	if e != answered {
		return nil
	}
	c := &cart{
		number: number, id: a.cart.ID, token: a.token, context: a.context, owner: -1,
		most: z.options.CartWrites, lines: make(map[string]line),
		created: &write{
			id: q.operation, client: z.number, kind: q.kind, took: span{began, time.Now()}, outcome: acknowledged,
			node: a.Node, durability: a.Durability,
		},
	}
	if number%ownedCarts == ownedCarts-1 {
		c.owner = number / ownedCarts % max(1, z.options.Clients)
	}
	z.counted(func(t *Totals) { t.Created++ })
	return c
}

// replace returns the cart that takes the place of a full one, and nil where none could be created.
func (z *client) replace(old *cart) *cart {
	z.replacing.Lock()
	defer z.replacing.Unlock()
	if c := z.cart(old.number); c != old {
		return c // somebody else was faster
	}
	c := z.create(old.number)
	if c != nil {
		z.enter(c)
	}
	return c
}

func (r *Run) durability(cart int) string {
	if r.options.Durability == nil {
		return ""
	}
	return r.options.Durability(cart)
}

// count counts an attempt, and tells who observes.
func (r *Run) count(a answer) {
	r.counted(func(t *Totals) {
		t.Attempts++
		switch a.Outcome {
		case Refused:
			t.Refused++
			t.Retries[a.Problem]++
		case Unknown:
			t.Retries[a.Problem]++
		}
	})
	if r.options.Observe != nil {
		r.options.Observe(a.Attempt)
	}
}

func (t *Totals) acknowledged(w *write) {
	t.Acknowledged++
	if w.byPeers() {
		t.ByPeers++
	} else {
		t.ByDatabase++
	}
	if w.replayed {
		t.Replays++
	}
}

func (r *Run) counted(count func(*Totals)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(&r.totals)
}

// complain keeps what clients were told and may not be.
func (r *Run) complain(wrong bool, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if wrong {
		r.totals.Wrong++
	} else {
		r.totals.Sessions++
	}
	if len(r.complaints) < maxFindings {
		r.complaints = append(r.complaints, fmt.Sprintf(format, args...))
	}
}

// Totals returns what the clients have done so far.
func (r *Run) Totals() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.totals
	t.Retries = maps.Clone(t.Retries)
	return t
}
