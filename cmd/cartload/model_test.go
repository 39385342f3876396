package main

import (
	"slices"
	"testing"

	"cartd/api"
)

func TestExpect(t *testing.T) {
	for _, tt := range []struct {
		name string
		rows []row
		want []expectedLine // in the cart
	}{
		{"nothing", nil, nil},
		{
			"adds of one SKU sum, the last price stands",
			[]row{{0, "A", "TEE", 2, 100}, {0, "A", "RED TEE", 3, 90}},
			[]expectedLine{{"A", 5, 90, "RED TEE", true}},
		},
		{
			"a row without a title leaves the earlier one",
			[]row{{0, "A", "TEE", 2, 100}, {0, "A", "", 3, 0}},
			[]expectedLine{{"A", 5, 0, "TEE", true}},
		},
		{"no title at all", []row{{0, "A", "", 2, 100}}, []expectedLine{{"A", 2, 100, "", false}}},
		{"case tells SKUs apart", []row{{0, "a", "", 1, 1}, {0, "A", "", 2, 1}}, []expectedLine{{"a", 1, 1, "", false}, {"A", 2, 1, "", false}}},
		{"a return of what is not there", []row{{0, "A", "TEE", -2, 100}}, nil},
		{
			"a return leaves price and title",
			[]row{{0, "A", "TEE", 5, 100}, {0, "A", "RETURN", -2, 7}},
			[]expectedLine{{"A", 3, 100, "TEE", true}},
		},
		{"a return of all", []row{{0, "A", "TEE", 5, 100}, {0, "A", "", -5, 100}}, nil},
		{
			"a return leaves no debt, and the title comes back with the line",
			[]row{{0, "A", "TEE", 5, 100}, {0, "A", "", -9, 100}, {0, "A", "", 2, 80}},
			[]expectedLine{{"A", 2, 80, "TEE", true}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := expect(tt.rows)
			var got []expectedLine
			for _, l := range e.lines {
				if l.quantity > 0 {
					got = append(got, *l)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if n, _, _ := e.totals(); n != len(tt.want) {
				t.Errorf("%d lines, want %d", n, len(tt.want))
			}
		})
	}
}

func TestCompare(t *testing.T) {
	rows := []row{{0, "A", "TEE", 2, 250}, {0, "B", "", 1, 0}, {0, "C", "HAT", 3, 100}, {0, "C", "", -3, 100}}
	line := func(sku string) func(*api.Cart) *api.LineItem {
		return func(c *api.Cart) *api.LineItem {
			for i := range c.LineItems {
				if c.LineItems[i].SKU == sku {
					return &c.LineItems[i]
				}
			}
			return nil
		}
	}
	a, b := line("A"), line("B")
	for _, tt := range []struct {
		name   string
		change func(c *api.Cart)
		want   []string
	}{
		{"as it should be", func(*api.Cart) {}, nil},
		{"quantity", func(c *api.Cart) { a(c).Quantity = 1 }, []string{"line A: quantity 1, expected 2 (-1)"}},
		{"price", func(c *api.Cart) { a(c).UnitPrice.Amount = 249 }, []string{"line A: unit price GBP 2.49, expected GBP 2.50"}},
		{"currency", func(c *api.Cart) { a(c).UnitPrice.Currency = "EUR" }, []string{`line A: unit price 250 of "EUR", expected GBP 2.50`}},
		{"no price", func(c *api.Cart) { b(c).UnitPrice = nil }, []string{"line B: unit price missing, expected GBP 0.00"}},
		{"subtotal", func(c *api.Cart) { a(c).Subtotal.Amount++ }, []string{"line A: subtotal GBP 5.01, expected GBP 5.00"}},
		{"title", func(c *api.Cart) { a(c).Title = new("TEE ") }, []string{`line A: title "TEE ", expected "TEE"`}},
		{"no title", func(c *api.Cart) { a(c).Title = nil }, []string{`line A: no title, expected "TEE"`}},
		{"title from nowhere", func(c *api.Cart) { b(c).Title = new("MUG") }, []string{`line B: title "MUG", expected none`}},
		{"line lost", func(c *api.Cart) { c.LineItems = c.LineItems[1:] }, []string{"line A: not in the cart, expected 2"}},
		{
			"line resurrected",
			func(c *api.Cart) { c.LineItems = append(c.LineItems, api.LineItem{SKU: "C", Quantity: 3}) },
			[]string{"line C: 3 in the cart, expected none"},
		},
		{
			"line from nowhere",
			func(c *api.Cart) { c.LineItems = append(c.LineItems, api.LineItem{SKU: "X", Quantity: 3}) },
			[]string{"line X: 3 in the cart, expected none"},
		},
		{
			"line twice",
			func(c *api.Cart) { c.LineItems = append(c.LineItems, api.LineItem{SKU: "B", Quantity: 4}) },
			[]string{"line B: in the cart twice, the second time with 4"},
		},
		{
			"options",
			func(c *api.Cart) { b(c).Options = map[string]string{"size": "M"} },
			[]string{"line B: 1 with options map[size:M], expected none", "line B: not in the cart, expected 1"},
		},
		{"total quantity", func(c *api.Cart) { c.TotalQuantity = 4 }, []string{"total quantity 4, expected 3 (+1)"}},
		{"total", func(c *api.Cart) { c.Subtotal.Amount = 0 }, []string{"subtotal GBP 0.00, expected GBP 5.00"}},
		{"cart's currency", func(c *api.Cart) { c.Currency = "EUR" }, []string{`currency "EUR", expected GBP`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shown := &api.Cart{
				Currency: "GBP",
				LineItems: []api.LineItem{
					{SKU: "A", Quantity: 2, Title: new("TEE"), UnitPrice: gbp(250), Subtotal: gbp(500)},
					{SKU: "B", Quantity: 1, UnitPrice: gbp(0), Subtotal: gbp(0)},
				},
				TotalQuantity: 3,
				Subtotal:      *gbp(500),
			}
			tt.change(shown)
			if got := expect(rows).compare(shown); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func gbp(pence int64) *api.Money { return &api.Money{Amount: pence, Currency: "GBP"} }
