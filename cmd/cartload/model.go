package main

import (
	"fmt"

	"cartd/api"
)

// currency is that of all prices of the format online-retail.
const currency = "GBP"

// expected is what a cart must show after its commands, computed without cartd.
type expected struct {
	lines []*expectedLine // in the order in which they were first named
	bySKU map[string]*expectedLine
}

type expectedLine struct {
	sku      string
	quantity int64 // 0: not in the cart
	price    int64 // minor units
	title    string
	titled   bool
}

// expect computes the cart that the rows leave.
func expect(rows []row) *expected {
	e := &expected{bySKU: map[string]*expectedLine{}}
	for _, r := range rows {
		e.apply(r)
	}
	return e
}

// apply executes one row. An add carries price and title, and one without a title leaves the
// earlier one; a decrement carries neither, and takes off no more than there is. A line that was
// taken off and is added again has its title still.
func (e *expected) apply(r row) {
	l := e.bySKU[r.sku]
	if r.quantity < 0 {
		if l != nil {
			l.quantity = max(0, l.quantity+r.quantity)
		}
		return
	}
	if l == nil {
		l = &expectedLine{sku: r.sku}
		e.bySKU[r.sku] = l
		e.lines = append(e.lines, l)
	}
	l.quantity += r.quantity
	l.price = r.price
	if r.title != "" {
		l.title, l.titled = r.title, true
	}
}

// totals returns the lines that are in the cart, their units, and what they cost in minor units.
func (e *expected) totals() (lines int, quantity, subtotal int64) {
	for _, l := range e.lines {
		if l.quantity > 0 {
			lines++
			quantity += l.quantity
			subtotal += l.quantity * l.price
		}
	}
	return lines, quantity, subtotal
}

// compare returns in words each way in which the cart shown is not the expected one.
func (e *expected) compare(shown *api.Cart) []string {
	var wrong []string
	differ := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	inCart := map[string]*api.LineItem{}
	for i := range shown.LineItems {
		item := &shown.LineItems[i]
		l := e.bySKU[item.SKU]
		switch {
		case len(item.Options) > 0: // another line than that without
			differ("line %s: %d with options %v, expected none", item.SKU, item.Quantity, item.Options)
			continue
		case inCart[item.SKU] != nil:
			differ("line %s: in the cart twice, the second time with %d", item.SKU, item.Quantity)
			continue
		case l == nil || l.quantity == 0:
			differ("line %s: %d in the cart, expected none", item.SKU, item.Quantity)
		}
		inCart[item.SKU] = item
	}
	for _, l := range e.lines {
		if l.quantity == 0 {
			continue
		}
		item := inCart[l.sku]
		if item == nil {
			differ("line %s: not in the cart, expected %d", l.sku, l.quantity)
			continue
		}
		if n := int64(item.Quantity); n != l.quantity {
			differ("line %s: quantity %d, expected %d (%+d)", l.sku, n, l.quantity, n-l.quantity)
		}
		if !is(item.UnitPrice, l.price) {
			differ("line %s: unit price %s, expected %s", l.sku, amount(item.UnitPrice), pounds(l.price))
		}
		if want := l.quantity * l.price; !is(item.Subtotal, want) {
			differ("line %s: subtotal %s, expected %s", l.sku, amount(item.Subtotal), pounds(want))
		}
		switch {
		case l.titled && item.Title == nil:
			differ("line %s: no title, expected %q", l.sku, l.title)
		case !l.titled && item.Title != nil:
			differ("line %s: title %q, expected none", l.sku, *item.Title)
		case l.titled && *item.Title != l.title:
			differ("line %s: title %q, expected %q", l.sku, *item.Title, l.title)
		}
	}
	_, quantity, subtotal := e.totals()
	if shown.TotalQuantity != quantity {
		differ("total quantity %d, expected %d (%+d)", shown.TotalQuantity, quantity, shown.TotalQuantity-quantity)
	}
	if !is(&shown.Subtotal, subtotal) {
		differ("subtotal %s, expected %s", amount(&shown.Subtotal), pounds(subtotal))
	}
	if shown.Currency != currency {
		differ("currency %q, expected %s", shown.Currency, currency)
	}
	return wrong
}

func is(m *api.Money, minor int64) bool {
	return m != nil && m.Amount == minor && m.Currency == currency
}

func amount(m *api.Money) string {
	switch {
	case m == nil:
		return "missing"
	case m.Currency != currency:
		return fmt.Sprintf("%d of %q", m.Amount, m.Currency)
	}
	return pounds(m.Amount)
}

func pounds(pence int64) string {
	return fmt.Sprintf("%s %d.%02d", currency, pence/100, pence%100)
}
