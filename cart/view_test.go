package cart

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"cartd/crdt"
)

func viewOf(s *State) *View {
	v := new(View)
	v.Read(ID{1}, s, DefaultLimits)
	return v
}

func TestLinesComeInTheOrderOfTheirFirstAdd(t *testing.T) {
	now := newClock()
	a, b := author{t, 1, now.Now()}, author{t, 2, now.Now()}
	base := a.create(Token{})
	s := a.apply(base, addN("Z", 1), addN("M", 1), addN("A", 1), remove("M"), setN("M", 2), addN("Z", 1))
	if got := linesOf(s); got != "Z=2 M=2 A=1" {
		t.Errorf("the cart shows %q", got)
	}
	// The nodes' clocks stand at the same: ties go by key, whoever joins.
	left, right := a.apply(base, addN("Q", 1)), b.apply(base, addN("P", 1), addN("R", 1))
	for _, s := range []*State{crdt.Join(left, right), crdt.Join(right, left)} {
		if got := linesOf(s); got != "P=1 Q=1 R=1" {
			t.Errorf("the cart shows %q", got)
		}
	}
	// Details of a line that nothing was ever added to are no add.
	s = a.apply(base, Describe{bySKU("D"), Details{Title: new("x")}}, addN("C", 1), addN("D", 1))
	if got := linesOf(s); got != "C=1 D=1" {
		t.Errorf("the cart shows %q", got)
	}
}

func TestTotals(t *testing.T) {
	priced := func(sku string, n, price int64) Add {
		return Add{bySKU(sku), n, Details{UnitPrice: &Money{price, "EUR"}}}
	}
	a := author{t, 1, newClock().Now()}
	v := viewOf(a.apply(a.create(Token{}), priced("A", 2, 250), addN("B", 3), priced("C", 1, 0), priced("D", 4, 1), remove("D")))
	if v.TotalQuantity != 6 || v.Subtotal != 500 || v.Currency != "EUR" || len(v.Warnings) > 0 {
		t.Errorf("total %d, subtotal %d %s, warnings %q", v.TotalQuantity, v.Subtotal, v.Currency, v.Warnings)
	}
	var got []string
	for i := range v.Lines {
		l := &v.Lines[i]
		got = append(got, fmt.Sprint(l.SKU, l.Quantity, l.HasPrice, l.UnitPrice, l.HasSubtotal, l.Subtotal))
	}
	want := []string{"A2 true 250 true 500", "B3 false 0 false 0", "C1 true 0 true 0"}
	if !slices.Equal(got, want) {
		t.Errorf("the lines are %q, want %q", got, want)
	}
}

// withQuantity returns s after an add beyond what commands allow, at a price unless that is negative.
func withQuantity(t *testing.T, s *State, sku string, n, price int64) *State {
	t.Helper()
	event := crdt.Event{Replica: 1, At: s.Lifetime.Updated + 1}
	d := event.Add(s, sku, n)
	if price >= 0 {
		event.WriteLine(d, sku, registerPrice, fmt.Sprint(price), false)
	}
	s, err := s.Apply(d)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWarnings(t *testing.T) {
	a := author{t, 1, newClock().Now()}
	empty := a.create(Token{})
	t.Run("product", func(t *testing.T) {
		s := withQuantity(t, withQuantity(t, empty, "A", 1<<40, 1<<30), "B", 2, 3)
		v := viewOf(s)
		if v.Lines[0].HasSubtotal || !v.Lines[0].HasPrice || v.Subtotal != 6 || v.TotalQuantity != 1<<40+2 {
			t.Errorf("%+v, subtotal %d, total %d", v.Lines[0], v.Subtotal, v.TotalQuantity)
		}
		if len(v.Warnings) != 2 || !strings.Contains(v.Warnings[0], v.Lines[0].ID.String()) || !strings.Contains(v.Warnings[1], "subtotal") {
			t.Errorf("warnings %q", v.Warnings)
		}
	})
	t.Run("sum", func(t *testing.T) {
		s := withQuantity(t, withQuantity(t, empty, "A", 1, math.MaxInt64), "B", 1, 1)
		v := viewOf(s)
		if !v.Lines[0].HasSubtotal || v.Lines[0].Subtotal != math.MaxInt64 || v.Subtotal != math.MaxInt64 {
			t.Errorf("%+v, subtotal %d", v.Lines[0], v.Subtotal)
		}
		if len(v.Warnings) != 1 {
			t.Errorf("warnings %q", v.Warnings)
		}
	})
	t.Run("total quantity", func(t *testing.T) {
		s := withQuantity(t, withQuantity(t, empty, "A", math.MaxInt64, -1), "B", 1, -1)
		if v := viewOf(s); v.TotalQuantity != math.MaxInt64 {
			t.Errorf("total %d", v.TotalQuantity)
		}
	})
	t.Run("limits", func(t *testing.T) {
		commands := make([][]Command, 2)
		for i := range 51 {
			commands[i%2] = append(commands[i%2], addN(fmt.Sprint("L", i), 11), PutCode{fmt.Sprint("C", i)})
		}
		b := author{t, 2, a.now}
		s := crdt.Join(a.apply(empty, commands[0]...), b.apply(empty, commands[1]...))
		v := new(View)
		v.Read(ID{}, s, Limits{Lines: 50, Quantity: 11})
		if len(v.Warnings) != 2 {
			t.Errorf("warnings %q", v.Warnings)
		}
		v.Read(ID{}, s, Limits{Lines: 51, Quantity: 10})
		if len(v.Warnings) != 52 {
			t.Errorf("%d warnings", len(v.Warnings))
		}
		v.Read(ID{}, s, DefaultLimits)
		if len(v.Warnings) != 1 {
			t.Errorf("warnings %q", v.Warnings)
		}
	})
}

func TestViewIsReused(t *testing.T) {
	a := author{t, 1, newClock().Now()}
	s := a.create(Token{})
	s = a.apply(s, PutCode{"B"}, PutCode{"A"}, Update{Note: new(new("n"))})
	for i := range 5 {
		s = a.apply(s, Add{bySKU(fmt.Sprint("SKU-", i), Pair{"size", "M"}), 2, Details{UnitPrice: &Money{100, "EUR"}, Title: new("t")}})
	}
	smaller := a.apply(s, remove("SKU-1"), RemoveCode{"A"}, Remove{bySKU("SKU-2", Pair{"size", "M"})})
	var v View
	v.Read(ID{1}, s, DefaultLimits)
	n := 0
	if allocs := testing.AllocsPerRun(100, func() {
		v.Read(ID{1}, s, DefaultLimits)
		for i := range v.Lines {
			for range v.Lines[i].Options() {
				n++
			}
		}
		n += int(v.Version() & 1)
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	v.Read(ID{2}, smaller, DefaultLimits)
	if len(v.Lines) != 4 || !slices.Equal(v.Codes, []string{"B"}) || v.ID != (ID{2}) || v.TotalQuantity != 8 {
		t.Errorf("the view of a smaller cart has %d lines, codes %q, %d units", len(v.Lines), v.Codes, v.TotalQuantity)
	}
}

func TestVersion(t *testing.T) {
	now := newClock()
	a, b := author{t, 1, now.Now()}, author{t, 2, now.Now()}
	base := a.apply(a.create(Token{}), addN("A", 1))
	left, right := a.apply(base, addN("A", 1)), b.apply(base, remove("A"))
	versions := map[uint64]bool{}
	for _, s := range []*State{base, left, right, crdt.Join(left, right)} {
		versions[viewOf(s).Version()] = true
	}
	if len(versions) != 4 {
		t.Error("different carts have equal versions")
	}
	if viewOf(crdt.Join(left, right)).Version() != viewOf(crdt.Join(right, left)).Version() {
		t.Error("equal carts have different versions")
	}
	decoded, err := crdt.DecodeState(crdt.AppendState(nil, left))
	if err != nil || Version(decoded) != Version(left) {
		t.Error("a copy has another version", err)
	}
}

func TestTimesOfACart(t *testing.T) {
	now := newClock()
	c := create(t, start(t, Options{Now: now.Now}))
	created := now.Now()
	now.advance(time.Hour)
	c.do(addN("A", 1))
	v := viewOf(c.read())
	if !v.CreatedAt().Equal(created) || !v.UpdatedAt().Equal(created.Add(time.Hour)) || !v.ExpiresAt().Equal(created.Add(time.Hour+TimeToLive)) {
		t.Errorf("created %v, updated %v, expires %v", v.CreatedAt(), v.UpdatedAt(), v.ExpiresAt())
	}
}
