package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"cartd/api"
)

// replay sends files to cartd as carts and reads them back. Its counters may be read while it runs.
type replay struct {
	client      *client
	regions     []region
	converge    time.Duration // that other regions have to show what one has
	files       []string
	concurrency int // carts at a time
	size        size

	phase     atomic.Int32
	carts     atomic.Int64 // replayed to their last row
	givenUp   atomic.Int64 // carts with a command that was not acknowledged
	readBack  atomic.Int64 // reads compared
	sending   time.Duration
	startedAt time.Time

	mu         sync.Mutex // guards what follows
	done       []replayed
	late       int           // reads in other regions that had to be repeated
	lag        time.Duration // from the last answer until the last of those was as it is to be
	failures   []string      // what was refused or not acknowledged, in words
	mismatches []mismatch
}

// size is what the files hold.
type size struct {
	carts, operations int
	countries         []string // each once, in the order in which they appear
}

// replayed is a cart that was sent to its last row, and what it must show.
type replayed struct {
	invoice invoice // without its rows
	region  *region // that it entered at
	handle  *cartHandle
	want    *expected
}

// mismatch is one way in which a cart is not what its file says.
type mismatch struct {
	File    string `json:"file"`
	Invoice string `json:"invoice"`
	Cart    string `json:"cart"`
	Region  string `json:"region,omitempty"` // of the target
	Target  string `json:"target"`
	What    string `json:"what"`
}

func (m mismatch) String() string {
	at := m.Target
	if m.Region != "" {
		at = m.Region + ", " + at
	}
	return fmt.Sprintf("%s invoice %s, cart %s at %s: %s", m.File, m.Invoice, m.Cart, at, m.What)
}

// The phases of a replay.
const (
	phaseSending int32 = iota
	phaseReading
)

// measure reads the files without sending anything, so that a bad row in the last one does not leave
// half a replay behind.
func measure(ctx context.Context, files []string) (size, error) {
	var s size
	for _, path := range files {
		for inv, err := range openInvoices(path) {
			if err != nil {
				return s, err
			}
			if ctx.Err() != nil {
				return s, context.Cause(ctx)
			}
			s.carts++
			s.operations += len(inv.rows)
			if !slices.Contains(s.countries, inv.country) {
				s.countries = append(s.countries, inv.country)
			}
		}
	}
	return s, nil
}

// run sends every invoice and then compares every cart that was sent whole. It returns nil also
// where commands were refused or carts differ: the report tells.
func (r *replay) run(ctx context.Context) error {
	r.startedAt = time.Now()
	err := r.send(ctx)
	r.sending = time.Since(r.startedAt)
	if err != nil {
		return err
	}
	r.phase.Store(phaseReading)
	return r.verify(ctx)
}

// send replays the files, concurrency carts at a time.
func (r *replay) send(ctx context.Context) error {
	workers, ctx := errgroup.WithContext(ctx)
	invoices := make(chan invoice)
	workers.Go(func() error {
		defer close(invoices)
		for _, path := range r.files {
			for inv, err := range openInvoices(path) {
				if err != nil {
					return err
				}
				select {
				case invoices <- inv:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	for range r.concurrency {
		workers.Go(func() error {
			for inv := range invoices {
				if err := r.sendInvoice(ctx, inv); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return workers.Wait()
}

// sendInvoice makes a cart of an invoice, row by row. A row that is refused changes nothing and the
// next one follows; after one that was not acknowledged nobody knows what the cart holds, so it is
// given up. The error is one that ends the run.
func (r *replay) sendInvoice(ctx context.Context, inv invoice) error {
	region := r.enters(inv.country)
	h, err := r.client.create(ctx, region.targets)
	if err != nil {
		return r.giveUp(inv, inv.rows[0], err)
	}
	for _, row := range inv.rows {
		err := sendRow(ctx, h, row)
		var refused *refusal
		switch {
		case errors.As(err, &refused):
			r.note(inv, row, err)
		case err != nil:
			return r.giveUp(inv, row, err)
		}
	}
	r.carts.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, replayed{
		invoice: invoice{file: inv.file, number: inv.number, country: inv.country},
		region:  region,
		handle:  h,
		want:    expect(inv.rows),
	})
	return nil
}

// enters returns the region that takes the invoices of a country.
func (r *replay) enters(country string) *region {
	return &r.regions[max(0, slices.Index(r.size.countries, country))%len(r.regions)]
}

// sendRow sends one row. Its line number is its key: keys count per cart.
func sendRow(ctx context.Context, h *cartHandle, r row) error {
	key := "row-" + strconv.Itoa(r.line)
	if r.quantity < 0 {
		return h.decrement(ctx, key, r.sku, int(-r.quantity))
	}
	quantity := int(r.quantity)
	item := api.LineItemAdd{
		SKU:       r.sku,
		Quantity:  &quantity,
		UnitPrice: &api.Money{Amount: r.price, Currency: currency},
	}
	if r.title != "" {
		item.Title = &r.title
	}
	return h.add(ctx, key, item)
}

// giveUp notes that a cart ends at a row, or returns err where it ends the run.
func (r *replay) giveUp(inv invoice, at row, err error) error {
	if !ofOneRequest(err) {
		return err
	}
	r.givenUp.Add(1)
	r.note(inv, at, err)
	return nil
}

// note keeps what happened at a row for the report.
func (r *replay) note(inv invoice, at row, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf("%s:%d invoice %s: %v", inv.file, at.line, inv.number, err))
}

// ofOneRequest reports whether err is about one request, so that others may do better.
func ofOneRequest(err error) bool {
	var refused *refusal
	var lost *unacknowledged
	return !errors.Is(err, errNoAnswer) && (errors.As(err, &refused) || errors.As(err, &lost))
}

// verify reads every cart back from every target and compares it.
func (r *replay) verify(ctx context.Context) error {
	workers, working := errgroup.WithContext(ctx)
	workers.SetLimit(r.concurrency)
	for _, cart := range r.done {
		if working.Err() != nil {
			break
		}
		workers.Go(func() error {
			for i := range r.regions {
				for _, target := range r.regions[i].targets {
					if err := r.compare(working, cart, &r.regions[i], target); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := workers.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// compare reads a cart from one target. A cart that cannot be read is a mismatch.
func (r *replay) compare(ctx context.Context, c replayed, at *region, target string) error {
	if at != c.region {
		r.awaitCart(ctx, c, target)
	}
	shown, err := c.handle.read(ctx, target)
	var wrong []string
	switch {
	case err == nil:
		wrong = c.want.compare(shown)
	case ofOneRequest(err):
		wrong = []string{err.Error()}
	default:
		return err
	}
	r.readBack.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range wrong {
		r.mismatches = append(r.mismatches, mismatch{
			File: c.invoice.file, Invoice: c.invoice.number, Cart: c.handle.id, Region: at.name, Target: target, What: what,
		})
	}
	return nil
}

// glanceEvery is the pause between two looks for a cart that has not arrived in another region.
const glanceEvery = 20 * time.Millisecond

// awaitCart returns when a target of another region than the cart's shows it as it is to be, or when the time for that
// is over.
func (r *replay) awaitCart(ctx context.Context, c replayed, target string) {
	sent := r.startedAt.Add(r.sending)
	for first := true; ; first = false {
		shown := c.handle.glance(ctx, target)
		lag := time.Since(sent)
		switch {
		case shown != nil && len(c.want.compare(shown)) == 0:
			if !first {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.late++
				r.lag = max(r.lag, lag)
			}
			return
		case lag >= r.converge || sleep(ctx, glanceEvery) != nil:
			return
		}
	}
}
