package workload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"cartd/api"
)

const (
	// backoff is how long a client waits before it repeats an operation, on average.
	backoff = 30 * time.Millisecond
	// sharedLines is how many lines of a cart everybody adds to.
	sharedLines = 4
	// mostUnits is how many units an add has at most.
	mostUnits = 9
)

// client does one thing at a time.
type client struct {
	*Run
	number int // -1 is Start
	random *rand.Rand
	node   int           // that was asked last, or -1
	views  map[int]*view // by the number of the cart
}

// view is what a client knows of a cart.
type view struct {
	cart      *cart
	context   string // of the last answer
	sights    map[string]sight
	removable []api.LineItem // the lines that were added once, in the last answer
	own       int            // how many lines it has left to themselves
}

func (r *Run) newClient(number int) *client {
	return &client{
		Run: r, number: number, node: -1, views: make(map[int]*view),
		random: rand.New(rand.NewPCG(r.options.Seed, uint64(number))),
	}
}

func newView(c *cart) *view {
	return &view{cart: c, context: c.context, sights: make(map[string]sight)}
}

// shop goes on until the run is stopped.
func (z *client) shop() {
	timer := time.NewTimer(z.pause(z.options.Rest))
	defer timer.Stop()
	for {
		select {
		case <-z.stopping.Done():
			return
		case <-timer.C:
		}
		if v := z.choose(); v != nil {
			z.act(v)
		}
		timer.Reset(z.pause(z.options.Rest))
	}
}

// pause draws a time around a mean.
func (z *client) pause(mean time.Duration) time.Duration {
	return mean/2 + time.Duration(z.random.Int64N(int64(mean)+1))
}

// choose draws one of the carts that the client may use, and nil where a new one was wanted and not to be had.
func (z *client) choose() *view {
	for {
		i := z.random.IntN(z.options.Carts)
		c := z.cart(i)
		if c.owner >= 0 && c.owner != z.number {
			continue // the first cart is everybody's, so this ends
		}
		if c.isFull() {
			if c = z.replace(c); c == nil {
				return nil
			}
		}
		if z.views[i] == nil || z.views[i].cart != c {
			z.views[i] = newView(c)
		}
		return z.views[i]
	}
}

// act does one thing to a cart.
func (z *client) act(v *view) {
	once := func() change {
		return change{add, fmt.Sprintf("%s%d-%d", oncePrefix, z.number, z.operations.Add(1)), z.units()}
	}
	shared := func() change {
		return change{add, fmt.Sprint(sharedPrefix, z.random.IntN(sharedLines)), z.units()}
	}
	if v.cart.owner >= 0 {
		shared = once // lines that are cleared
	}
	switch n := z.random.IntN(20); {
	case n < 6:
		z.add(v, shared())
	case n < 9:
		z.add(v, once())
	case n < 11:
		z.commands(v, set, z.set(v))
	case n == 11:
		if v.sights[z.own(v)].there() {
			z.commands(v, remove, change{Type: remove, SKU: z.own(v)})
		} else {
			z.commands(v, set, z.set(v))
		}
	case n == 12:
		z.commands(v, "batch", shared(), z.set(v))
	case n < 16 && len(v.removable) > 0:
		z.remove(v)
	case n == 16 && v.cart.owner >= 0:
		z.clear(v)
	default:
		z.read(v)
	}
}

func (z *client) units() int64 { return 1 + z.random.Int64N(mostUnits) }

// own names the line of the cart that is the client's alone.
func (z *client) own(v *view) string { return fmt.Sprintf("%s%d-%d", ownPrefix, z.number, v.own) }

// set is the next assignment to the client's own line.
func (z *client) set(v *view) change {
	return change{set, z.own(v), v.sights[z.own(v)].units + 1}
}

// add adds units to a line. Some unknown outcomes are let be.
func (z *client) add(v *view, c change) {
	body := marshal(api.LineItemAdd{SKU: c.SKU, Quantity: pointer(int(c.Units))})
	z.write(v, request{kind: add, method: http.MethodPost, path: "/line-items", body: body}, z.random.IntN(3) == 0, c)
}

// commands sends changes as one request.
func (z *client) commands(v *view, kind string, changes ...change) {
	var batch api.OperationBatch
	for _, c := range changes {
		o := api.Operation{Type: api.OperationType(c.Type), SKU: &c.SKU}
		if c.Type != remove {
			o.Quantity = pointer(int(c.Units))
		}
		batch.Operations = append(batch.Operations, o)
	}
	z.write(v, request{kind: kind, method: http.MethodPost, path: "/operations", body: marshal(batch)}, z.random.IntN(8) == 0, changes...)
}

// remove removes a line that it was shown and that was added once, by whomever.
func (z *client) remove(v *view) {
	l := v.removable[z.random.IntN(len(v.removable))]
	c := change{Type: remove, SKU: l.SKU}
	if z.random.IntN(2) == 0 {
		z.commands(v, remove, c)
		return
	}
	z.write(v, request{kind: remove, method: http.MethodDelete, path: "/line-items/" + url.PathEscape(l.ID)}, false, c)
}

// clear removes all that it has seen of a cart that nobody else uses.
func (z *client) clear(v *view) {
	var changes []change
	for sku, s := range v.sights {
		if s.there() {
			changes = append(changes, change{Type: remove, SKU: sku})
		}
	}
	z.write(v, request{kind: "clear", method: http.MethodDelete, path: "/line-items"}, false, changes...)
}

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // these types have nothing that cannot be
	}
	return string(b)
}

func pointer(n int) *int { return &n }
