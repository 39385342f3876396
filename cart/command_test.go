package cart

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"cartd/crdt"
)

func TestCommandsOnLines(t *testing.T) {
	required := func(sku string) LineRef { return LineRef{SKU: sku, Required: true} }
	for _, tc := range []struct {
		name   string
		given  []Command
		do     Command
		want   string // what the cart shows then
		reason Reason // or why it is refused
		silent bool   // no event
	}{
		{name: "add to an absent line", do: addN("A", 2), want: "A=2"},
		{name: "add to a present line", given: []Command{addN("A", 2)}, do: addN("A", 3), want: "A=5"},
		{name: "add to a removed line", given: []Command{addN("A", 2), remove("A")}, do: addN("A", 3), want: "A=3"},
		{name: "add by id", given: []Command{addN("A", 2)}, do: Add{Line: byID("A"), Quantity: 1}, want: "A=3"},
		{name: "add by the id of a removed line", given: []Command{addN("A", 2), remove("A")}, do: Add{Line: byID("A"), Quantity: 1}, want: "A=1"},
		{name: "add by the id of no line", do: Add{Line: byID("A"), Quantity: 1}, reason: LineNotFound},
		{name: "add to no line", do: Add{Quantity: 1}, reason: LineNotFound},

		{name: "set an absent line", do: setN("A", 2), want: "A=2"},
		{name: "set a present line", given: []Command{addN("A", 2), addN("A", 5)}, do: setN("A", 3), want: "A=3"},
		{name: "set a set line", given: []Command{setN("A", 7)}, do: setN("A", 3), want: "A=3"},
		{name: "set to 0", given: []Command{addN("A", 2), addN("B", 1)}, do: setN("A", 0), want: "B=1"},
		{name: "set an absent line to 0", given: []Command{addN("B", 1)}, do: setN("A", 0), want: "B=1", silent: true},
		{name: "set by id", given: []Command{addN("A", 2)}, do: Set{Line: byID("A"), Quantity: 9}, want: "A=9"},
		{name: "set by the id of no line", do: Set{Line: byID("A"), Quantity: 9}, reason: LineNotFound},
		{name: "set to 0 by the id of no line", do: Set{Line: byID("A")}, want: "", silent: true},

		{name: "take off some", given: []Command{addN("A", 5)}, do: takeOff("A", 2), want: "A=3"},
		{name: "take off all", given: []Command{addN("A", 5)}, do: takeOff("A", 5), want: ""},
		{name: "take off more than there is", given: []Command{addN("A", 5)}, do: takeOff("A", 6), want: ""},
		{name: "take off several adds and a set", given: []Command{setN("A", 2), addN("A", 2), addN("A", 2)}, do: takeOff("A", 5), want: "A=1"},
		{name: "take off an absent line", do: takeOff("A", 1), want: "", silent: true},
		{name: "take off by id", given: []Command{addN("A", 5)}, do: Decrement{Line: byID("A"), Quantity: 1}, want: "A=4"},
		{name: "take off by the id of no line", do: Decrement{Line: byID("A"), Quantity: 1}, want: "", silent: true},

		{name: "remove", given: []Command{addN("A", 5), addN("B", 1), setN("A", 3)}, do: remove("A"), want: "B=1"},
		{name: "remove an absent line", given: []Command{addN("B", 1)}, do: remove("A"), want: "B=1", silent: true},
		{name: "remove by id", given: []Command{addN("A", 5)}, do: Remove{byID("A")}, want: ""},
		{name: "remove by the id of no line", do: Remove{byID("A")}, want: "", silent: true},

		{name: "clear", given: []Command{addN("A", 5), setN("B", 1)}, do: Clear{}, want: ""},
		{name: "clear an empty cart", do: Clear{}, want: "", silent: true},

		{name: "set a line that must be there", do: Set{Line: required("A"), Quantity: 2}, reason: LineNotFound},
		{name: "take off a line that must be there", do: Decrement{Line: required("A"), Quantity: 2}, reason: LineNotFound},
		{name: "remove a line that must be there", given: []Command{addN("A", 1), remove("A")}, do: Remove{required("A")}, reason: LineNotFound},
		{name: "describe a line that must be there", do: Describe{Line: required("A")}, reason: LineNotFound},
		{name: "remove a line that must be there and is", given: []Command{addN("A", 1)}, do: Remove{required("A")}, want: ""},
		{name: "describe nothing", given: []Command{addN("A", 1)}, do: Describe{Line: bySKU("A")}, want: "A=1", silent: true},
		{name: "describe the id of no line", do: Describe{Line: byID("A")}, reason: LineNotFound},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := create(t, start(t, Options{}), tc.given...)
			before := c.read()
			if tc.reason != "" {
				c.refused(tc.reason, tc.do)
				if after := c.read(); after != before {
					t.Fatalf("a refused command changed the cart to %q", linesOf(after))
				}
				return
			}
			r := c.do(tc.do)
			if got := linesOf(r.State); got != tc.want {
				t.Fatalf("the answer shows %q, want %q", got, tc.want)
			}
			c.want(tc.want)
			if silent := Version(before) == Version(r.State); silent != tc.silent {
				t.Fatalf("without an event: %v, want %v", silent, tc.silent)
			}
		})
	}
}

func TestResultsOfSteps(t *testing.T) {
	c := create(t, start(t, Options{}), addN("A", 2))
	r := c.do(addN("A", 1), setN("B", 4), takeOff("B", 1), remove("A"), Clear{}, remove("C"), Remove{byID("D")}, PutCode{"X"})
	a, b := lineIDOf("A"), lineIDOf("B")
	want := []StepResult{{a, 3, false}, {b, 4, false}, {b, 3, false}, {a, 0, false}, {}, {lineIDOf("C"), 0, false}, {}, {}}
	if !slices.Equal(r.Steps, want) || r.Replayed {
		t.Fatalf("the steps' results are %+v, want %+v", r.Steps, want)
	}
}

func TestOptionsAreIdentity(t *testing.T) {
	m, l := Pair{"size", "M"}, Pair{"size", "L"}
	red := Pair{"colour", "red"}
	options := []Pair{m, red}
	c := create(t, start(t, Options{}),
		Add{Line: bySKU("T", options...), Quantity: 1},
		Add{Line: bySKU("T", red, m), Quantity: 2},
		Add{Line: bySKU("T", l), Quantity: 4},
		Add{Line: LineRef{SKU: "T", Options: []Pair{}}, Quantity: 8},
		addN("T", 16),
		Add{Line: bySKU("T", Pair{"engraving", ""}, Pair{"z", "1"}), Quantity: 32})
	c.want("T(colour:red)(size:M)=3 T(size:L)=4 T=24 T(engraving:)(z:1)=32")
	if options[0] != m {
		t.Error("the options of the caller were sorted")
	}
	c.do(Remove{byID("T", red, m)})
	c.want("T(size:L)=4 T=24 T(engraving:)(z:1)=32")
}

// detailsOf renders what is known of the line of sku.
func detailsOf(t *testing.T, s *State, sku string) string {
	t.Helper()
	var v View
	v.Read(ID{}, s, DefaultLimits)
	for i := range v.Lines {
		l := &v.Lines[i]
		if l.SKU != sku {
			continue
		}
		title, hasTitle := l.Title()
		image, hasImage := l.ImageURL()
		text := fmt.Sprintf("price %d %v, title %q %v, image %q %v", l.UnitPrice, l.HasPrice, title, hasTitle, image, hasImage)
		for name, value := range l.Metadata() {
			text += fmt.Sprintf(", %s=%q", name, value)
		}
		return text
	}
	return "absent"
}

func TestDetails(t *testing.T) {
	c := create(t, start(t, Options{}), addN("A", 1))
	want := func(details string) {
		t.Helper()
		if got := detailsOf(t, c.read(), "A"); got != details {
			t.Fatalf("the line has %s, want %s", got, details)
		}
	}
	patch := func(edits ...MetadataEdit) MetadataPatch { return MetadataPatch{Edits: edits} }
	want(`price 0 false, title "" false, image "" false`)

	c.do(Add{Line: bySKU("A"), Quantity: 1, Details: Details{UnitPrice: &Money{100, "EUR"}, Title: new("one"), ImageURL: new("https://x.test/1")}})
	want(`price 100 true, title "one" true, image "https://x.test/1" true`)
	c.do(addN("A", 1))
	want(`price 100 true, title "one" true, image "https://x.test/1" true`)
	c.do(Add{Line: byID("A"), Quantity: 1, Details: Details{UnitPrice: &Money{0, "EUR"}, Title: new("")}})
	want(`price 0 true, title "" true, image "https://x.test/1" true`)
	c.do(Set{Line: byID("A"), Quantity: 1, Details: Details{Title: new("three"), ImageURL: new("http://x.test/3")}})
	want(`price 0 true, title "three" true, image "http://x.test/3" true`)

	c.do(Describe{Line: byID("A"), Details: Details{Metadata: patch(MetadataEdit{"b", new("1")}, MetadataEdit{"a", new("")})}})
	want(`price 0 true, title "three" true, image "http://x.test/3" true, a="", b="1"`)
	c.do(Add{Line: byID("A"), Quantity: 1, Details: Details{Metadata: patch(MetadataEdit{"b", nil}, MetadataEdit{"c", new("2")})}})
	want(`price 0 true, title "three" true, image "http://x.test/3" true, a="", c="2"`)
	c.do(Describe{Line: byID("A"), Details: Details{Metadata: MetadataPatch{DropAll: true, Edits: []MetadataEdit{{"d", new("3")}}}}})
	want(`price 0 true, title "three" true, image "http://x.test/3" true, d="3"`)

	c.do(remove("A"))
	c.do(addN("A", 2))
	want(`price 0 true, title "three" true, image "http://x.test/3" true, d="3"`)
}

func TestUpdateOfTheCart(t *testing.T) {
	c := create(t, start(t, Options{}))
	want := func(wanted string) {
		t.Helper()
		var v View
		v.Read(c.id, c.read(), DefaultLimits)
		note, hasNote := v.Note()
		email, hasEmail := v.Email()
		got := fmt.Sprintf("%q %v %q %v %v", note, hasNote, email, hasEmail, maps.Collect(v.Metadata()))
		if got != wanted {
			t.Fatalf("the cart has %s, want %s", got, wanted)
		}
	}
	want(`"" false "" false map[]`)
	c.do(Update{Note: new(new("by\nFriday")), Email: new(new("a@b.test"))})
	want(`"by\nFriday" true "a@b.test" true map[]`)
	c.do(Update{Note: new((*string)(nil)), Metadata: MetadataPatch{Edits: []MetadataEdit{{"k", new("v")}, {"l", new("w")}}}})
	want(`"" false "a@b.test" true map[k:v l:w]`)
	c.do(Update{Note: new(new("")), Email: new((*string)(nil)), Metadata: MetadataPatch{Edits: []MetadataEdit{{"k", nil}}}})
	want(`"" true "" false map[l:w]`)
	c.do(Update{Metadata: MetadataPatch{DropAll: true}})
	want(`"" true "" false map[]`)
	before := c.read()
	c.do(Update{})
	if Version(c.read()) != Version(before) {
		t.Error("an update of nothing made an event")
	}
}

func TestDiscountCodes(t *testing.T) {
	c := create(t, start(t, Options{}), PutCode{"SPRING"}, PutCode{"AUTUMN"}, PutCode{"SPRING"})
	if got := codesOf(nil, c.read()); !slices.Equal(got, []string{"AUTUMN", "SPRING"}) {
		t.Fatalf("the codes are %q", got)
	}
	c.do(RemoveCode{"SPRING"})
	before := c.read()
	c.do(RemoveCode{"SPRING"})
	if after := c.read(); Version(after) != Version(before) || !slices.Equal(codesOf(nil, after), []string{"AUTUMN"}) {
		t.Fatalf("the codes are %q", codesOf(nil, after))
	}
}

func TestPutCodeWinsOverConcurrentRemoval(t *testing.T) {
	a, b := author{t, 1, newClock().Now()}, author{t, 2, newClock().Now()}
	s := a.apply(a.create(Token{}), PutCode{"X"}, PutCode{"Y"})
	s = crdt.Join(a.apply(s, RemoveCode{"X"}, RemoveCode{"Y"}), b.apply(s, PutCode{"X"}))
	if got := codesOf(nil, s); !slices.Equal(got, []string{"X"}) {
		t.Fatalf("the codes are %q, want X alone", got)
	}
}

// A client that never moves its context puts a code again and again.
func TestCodesDoNotPileUpUnderAStaleContext(t *testing.T) {
	c := create(t, start(t, Options{}))
	stale := c.contextOf(c.read())
	for range 10 {
		c.request(Request{Context: stale, Steps: stepsOf([]Command{PutCode{"X"}})})
	}
	if n := len(c.read().Members); n != 1 {
		t.Fatalf("one code takes %d members", n)
	}
}

func TestBoundsOfFields(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	pairs := func(n int) (pairs []Pair) {
		for i := range n {
			pairs = append(pairs, Pair{fmt.Sprint("o", i), "v"})
		}
		return pairs
	}
	details := func(d Details) Add { return Add{Line: bySKU("A"), Quantity: 1, Details: d} }
	metadata := func(name string, value *string) MetadataPatch {
		return MetadataPatch{Edits: []MetadataEdit{{name, value}}}
	}
	many := func(n int) (p MetadataPatch) {
		for i := range n {
			p.Edits = append(p.Edits, MetadataEdit{Name: fmt.Sprint("m", i)})
		}
		return p
	}
	text := func(s string) **string { return new(&s) }
	for _, tc := range []struct {
		name    string
		command Command
		pointer string // of the error; "ok": none
	}{
		{"quantity 0", addN("A", 0), "/quantity"},
		{"quantity -1", addN("A", -1), "/quantity"},
		{"quantity at most", addN("A", 9999), "ok"},
		{"quantity beyond", addN("A", 10000), "/quantity"},
		{"set below 0", setN("A", -1), "/quantity"},
		{"set at most", setN("A", 9999), "ok"},
		{"set beyond", setN("A", 10000), "/quantity"},
		{"take off 0", takeOff("A", 0), "/quantity"},
		{"take off beyond", takeOff("A", 10000), "/quantity"},

		{"blank sku", addN(" ", 1), "/sku"},
		{"long sku", addN(long(128), 1), "ok"},
		{"too long sku", addN(long(129), 1), "/sku"},
		{"sku with NUL", addN("A\x00B", 1), "/sku"},
		{"sku with a line feed", addN("A\nB", 1), "/sku"},
		{"sku that is not UTF-8", addN("A\xff", 1), "/sku"},
		{"sku that turns around", addN("A\u202eB", 1), "/sku"},
		{"removal of a bad sku", Remove{bySKU("\x01")}, "/sku"},
		{"set of a bad sku", setN("\x01", 1), "/sku"},
		{"decrement of a bad sku", takeOff("\x01", 1), "/sku"},
		{"description of a bad sku", Describe{Line: bySKU("\x01")}, "/sku"},

		{"all options", Add{Line: bySKU("A", pairs(16)...), Quantity: 1}, "ok"},
		{"an option too many", Add{Line: bySKU("A", pairs(17)...), Quantity: 1}, "/options"},
		{"option without a name", Add{Line: bySKU("A", Pair{"", "x"}), Quantity: 1}, "/options/"},
		{"option without a value", Add{Line: bySKU("A", Pair{"x", ""}), Quantity: 1}, "ok"},
		{"long option", Add{Line: bySKU("A", Pair{long(64), long(128)}), Quantity: 1}, "ok"},
		{"too long name of an option", Add{Line: bySKU("A", Pair{long(65), "x"}), Quantity: 1}, "/options/" + long(65)},
		{"too long value of an option", Add{Line: bySKU("A", Pair{"x/~", long(129)}), Quantity: 1}, "/options/x~1~0"},
		{"option with NUL", Add{Line: bySKU("A", Pair{"x", "\x00"}), Quantity: 1}, "/options/x"},
		{"option twice", Add{Line: bySKU("A", Pair{"x", "1"}, Pair{"y", "1"}, Pair{"x", "2"}), Quantity: 1}, "/options/x"},

		{"price 0", details(Details{UnitPrice: &Money{0, "EUR"}}), "ok"},
		{"negative price", details(Details{UnitPrice: &Money{-1, "EUR"}}), "/unit_price/amount"},
		{"highest price", details(Details{UnitPrice: &Money{MaxPrice, "EUR"}}), "ok"},
		{"price beyond", details(Details{UnitPrice: &Money{MaxPrice + 1, "EUR"}}), "/unit_price/amount"},
		{"no currency", details(Details{UnitPrice: &Money{1, ""}}), "/unit_price/currency"},
		{"currency in small letters", details(Details{UnitPrice: &Money{1, "eur"}}), "/unit_price/currency"},
		{"unknown currency", details(Details{UnitPrice: &Money{1, "XYZ"}}), "/unit_price/currency"},

		{"long title", details(Details{Title: new(long(512))}), "ok"},
		{"too long title", details(Details{Title: new(long(513))}), "/title"},
		{"title with a tab", details(Details{Title: new("a\tb")}), "/title"},
		{"long image URL", details(Details{ImageURL: new("https://x.test/" + long(2048-15))}), "ok"},
		{"too long image URL", details(Details{ImageURL: new("https://x.test/" + long(2048-14))}), "/image_url"},
		{"image URL without a host", details(Details{ImageURL: new("https:///x")}), "/image_url"},
		{"relative image URL", details(Details{ImageURL: new("/x.png")}), "/image_url"},
		{"image URL of a script", details(Details{ImageURL: new("javascript:alert(1)")}), "/image_url"},
		{"image URL that is none", details(Details{ImageURL: new("https://%zz")}), "/image_url"},
		{"empty image URL", details(Details{ImageURL: new("")}), "/image_url"},

		{"long metadata", details(Details{Metadata: metadata(long(64), new(long(512)))}), "ok"},
		{"metadata without a name", details(Details{Metadata: metadata("", nil)}), "/metadata/"},
		{"too long name of metadata", details(Details{Metadata: metadata(long(65), nil)}), "/metadata/" + long(65)},
		{"too long value of metadata", Update{Metadata: metadata("k", new(long(513)))}, "/metadata/k"},
		{"bad value of metadata", Set{Line: bySKU("A"), Quantity: 1, Details: Details{Metadata: metadata("k", new("\x7f"))}}, "/metadata/k"},
		{"bad value of a description", Describe{Line: bySKU("A"), Details: Details{Metadata: metadata("k", new("\x7f"))}}, "/metadata/k"},
		{"many edits", Update{Metadata: many(80)}, "ok"},
		{"too many edits", Update{Metadata: many(81)}, "/metadata"},

		{"long note", Update{Note: text(long(2000))}, "ok"},
		{"too long note", Update{Note: text(long(2001))}, "/note"},
		{"note of two lines", Update{Note: text("a\n\tb")}, "ok"},
		{"note with a bell", Update{Note: text("a\a")}, "/note"},
		{"email", Update{Email: text(long(249) + "@b.de")}, "ok"},
		{"too long email", Update{Email: text(long(250) + "@b.de")}, "/email"},
		{"email without a name", Update{Email: text("@b.de")}, "/email"},
		{"email without a host", Update{Email: text("b@")}, "/email"},
		{"email without an at", Update{Email: text("b.de")}, "/email"},
		{"email with a space", Update{Email: text("a b@c.de")}, "/email"},
		{"blank email", Update{Email: text("")}, "/email"},

		{"long code", PutCode{long(64)}, "ok"},
		{"too long code", PutCode{long(65)}, ""},
		{"blank code", PutCode{" "}, ""},
		{"bad code", RemoveCode{"\x00"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := create(t, start(t, Options{}))
			before := c.read()
			_, err := c.try(Request{Steps: []Step{{Command: addN("Z", 1)}, {Command: tc.command}}})
			if tc.pointer == "ok" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if e := refusalOf(t, err, Invalid); e.Pointer != tc.pointer {
				t.Errorf("the error points to %q, want %q", e.Pointer, tc.pointer)
			}
			var step *StepError
			if !errors.As(err, &step) || step.Step != 1 {
				t.Errorf("the error is not of step 1: %v", err)
			}
			if c.read() != before {
				t.Error("a refused request changed the cart")
			}
		})
	}
}

func TestLimits(t *testing.T) {
	small := Options{Limits: Limits{Lines: 2, Quantity: 10}}
	t.Run("quantity", func(t *testing.T) {
		c := create(t, start(t, small), addN("A", 9))
		c.do(addN("A", 1))
		if e := c.refusal(QuantityExceeded, addN("A", 1)); e.Pointer != "/quantity" {
			t.Errorf("the error points to %q", e.Pointer)
		}
		c.do(setN("A", 10))
		c.refused(QuantityExceeded, addN("A", 1))
		c.do(takeOff("A", 1), addN("A", 1))
		c.want("A=10")
	})
	t.Run("lines", func(t *testing.T) {
		c := create(t, start(t, small), addN("A", 1), addN("B", 1))
		c.refused(TooManyLines, addN("C", 1))
		c.refused(TooManyLines, setN("C", 1))
		c.do(addN("A", 1))
		c.do(remove("B"), addN("C", 1))
		c.refused(TooManyLines, addN("B", 1))
		c.want("A=2 C=1")
	})
	t.Run("lines ever", func(t *testing.T) {
		c := create(t, start(t, small))
		for i := range 8 {
			sku := fmt.Sprint("L", i)
			c.do(addN(sku, 1))
			c.do(remove(sku))
		}
		c.refused(TooManyLines, addN("L8", 1))
		c.refused(TooManyLines, Describe{Line: bySKU("L8"), Details: Details{Title: new("x")}})
		c.do(addN("L0", 1))
		c.want("L0=1")
	})
	t.Run("metadata", func(t *testing.T) {
		c := create(t, start(t, Options{}), addN("A", 1))
		edits := func(from, to int, value *string) (p MetadataPatch) {
			for i := from; i < to; i++ {
				p.Edits = append(p.Edits, MetadataEdit{fmt.Sprint("k", i), value})
			}
			return p
		}
		for _, write := range []func(MetadataPatch) Command{
			func(p MetadataPatch) Command { return Update{Metadata: p} },
			func(p MetadataPatch) Command { return Describe{byID("A"), Details{Metadata: p}} },
		} {
			c.do(write(edits(0, 20, new("v"))))
			if e := c.refusal(Invalid, write(edits(20, 21, new("v")))); e.Pointer != "/metadata" {
				t.Errorf("the error points to %q", e.Pointer)
			}
			c.do(write(edits(0, 20, new("w"))))
			for i := 20; i < 80; i += 20 { // as many names as may ever be
				c.do(write(MetadataPatch{DropAll: true, Edits: edits(i, i+20, new("v")).Edits}))
			}
			c.refused(Invalid, write(MetadataPatch{DropAll: true, Edits: edits(80, 81, new("v")).Edits}))
			c.do(write(MetadataPatch{DropAll: true, Edits: edits(0, 20, new("v")).Edits}))
		}
	})
	t.Run("codes", func(t *testing.T) {
		c := create(t, start(t, Options{}))
		for i := range MaxCodes {
			c.do(PutCode{fmt.Sprint("C", i)})
		}
		c.refused(Invalid, PutCode{"D"})
		c.do(PutCode{"C0"})
		c.do(RemoveCode{"C1"}, PutCode{"D"})
	})
	t.Run("currency", func(t *testing.T) {
		c := create(t, start(t, Options{}))
		if e := c.refusal(WrongCurrency, Add{bySKU("A"), 1, Details{UnitPrice: &Money{1, "USD"}}}); e.Pointer != "/unit_price/currency" {
			t.Errorf("the error points to %q", e.Pointer)
		}
		if _, _, _, err := c.s.Create(t.Context(), "EURO", nil, Default); refusalOf(t, err, Invalid).Pointer != "/currency" {
			t.Error(err)
		}
	})
	t.Run("operations", func(t *testing.T) {
		c := create(t, start(t, Options{}))
		c.refused(Invalid, slices.Repeat([]Command{addN("A", 1)}, 101)...)
		c.do(slices.Repeat([]Command{addN("A", 1)}, 100)...)
		c.want("A=100")
	})
}

func TestEntriesOfALine(t *testing.T) {
	store, now := newFakeStore(), newClock()
	s := start(t, Options{Store: store, Now: now.Now, Limits: Limits{Lines: 1, Quantity: 1 << 20}})
	c := &client{t, s, NewID(), NewToken()}
	a := author{t, 1, now.Now()}
	store.put(c.id, a.addOnes(a.create(c.token), maxEntries-1))

	c.do(addN("A", 1))
	c.want("A=10000")
	c.refused(QuantityExceeded, addN("A", 1))
	c.refused(QuantityExceeded, takeOff("A", 1))
	c.do(setN("A", 10000))
	c.do(addN("A", 1))
	c.want("A=10001")
	if n := len(c.read().Line("A").Counter); n != 2 {
		t.Errorf("the line has %d entries", n)
	}
}

// What a merge took beyond a limit can still be taken off, changed and kept.
func TestLimitsAfterAMerge(t *testing.T) {
	now := newClock()
	a, b := author{t, 1, now.Now()}, author{t, 2, now.Now()}
	token := NewToken()
	base := a.create(token)
	var left, right []Command
	var leftMeta, rightMeta MetadataPatch
	for i := range 15 {
		left = append(left, addN(fmt.Sprint("L", i), 8), PutCode{fmt.Sprint("L", i)})
		right = append(right, addN(fmt.Sprint("R", i), 8), PutCode{fmt.Sprint("R", i)})
		leftMeta.Edits = append(leftMeta.Edits, MetadataEdit{fmt.Sprint("l", i), new("v")})
		rightMeta.Edits = append(rightMeta.Edits, MetadataEdit{fmt.Sprint("r", i), new("v")})
	}
	for i := range 20 {
		left = append(left, PutCode{fmt.Sprint("LL", i)})
		right = append(right, PutCode{fmt.Sprint("RR", i)})
	}
	left = append(left, addN("X", 8), Update{Metadata: leftMeta}, Describe{bySKU("X"), Details{Metadata: leftMeta}})
	right = append(right, addN("X", 8), Update{Metadata: rightMeta}, Describe{bySKU("X"), Details{Metadata: rightMeta}})
	joined := crdt.Join(a.apply(base, left...), b.apply(base, right...))

	store := newFakeStore()
	c := &client{t, start(t, Options{Store: store, Now: now.Now, Limits: Limits{Lines: 5, Quantity: 10}}), NewID(), token}
	store.put(c.id, joined)
	var v View
	v.Read(c.id, c.read(), c.s.Limits())
	if len(v.Lines) != 31 || len(v.Warnings) != 3 {
		t.Fatalf("%d lines, warnings %q", len(v.Lines), v.Warnings)
	}
	c.refused(QuantityExceeded, addN("X", 1))
	c.refused(TooManyLines, addN("new", 1))
	c.refused(Invalid, PutCode{"new"})
	c.refused(Invalid, Update{Metadata: MetadataPatch{Edits: []MetadataEdit{{"new", new("v")}}}})
	c.refused(Invalid, Describe{bySKU("X"), Details{Metadata: MetadataPatch{Edits: []MetadataEdit{{"new", new("v")}}}}})

	c.do(takeOff("X", 1))
	c.do(addN("L1", 1), setN("R1", 9))
	c.do(PutCode{"L1"}, RemoveCode{"L2"})
	c.do(Update{Note: new(new("x")), Metadata: MetadataPatch{Edits: []MetadataEdit{{"l1", nil}, {"l2", new("w")}}}})
	c.do(Describe{bySKU("X"), Details{Metadata: MetadataPatch{Edits: []MetadataEdit{{"l1", nil}, {"l2", new("w")}}}}})
	c.do(setN("X", 3), addN("X", 1))
	if got := quantityOf(c.read(), "X"); got != 4 {
		t.Errorf("X has %d units", got)
	}
}

func TestBatchIsAtomic(t *testing.T) {
	c := create(t, start(t, Options{Limits: Limits{Lines: 3, Quantity: 10}}), addN("A", 1))
	before := c.read()
	_, err := c.try(Request{Key: "k", Steps: stepsOf([]Command{addN("A", 1), addN("B", 1), PutCode{"X"}, addN("A", 9)})})
	wantReason(t, err, QuantityExceeded)
	var step *StepError
	if !errors.As(err, &step) || step.Step != 3 {
		t.Errorf("the error is not of step 3: %v", err)
	}
	if c.read() != before {
		t.Fatal("a refused batch changed the cart")
	}
	// Nor does it make its key known.
	if r := c.keyed("k", addN("A", 1)); r.Replayed {
		t.Error("a refused batch is replayed")
	}
	c.want("A=2")
}

// The later steps of a batch see what the earlier did, even if the batch's client has seen nothing.
func TestStepsObserveEarlierSteps(t *testing.T) {
	s := start(t, Options{})
	c := create(t, s)
	stale := c.contextOf(c.read())
	c.do(addN("A", 1)) // unseen
	steps := func(commands ...Command) Request { return Request{Context: stale, Steps: stepsOf(commands)} }

	c.request(steps(addN("A", 5), takeOff("A", 2), addN("B", 1), remove("B")))
	c.want("A=4")
	c.request(steps(setN("A", 7), addN("A", 1), setN("A", 2)))
	c.want("A=6") // the unseen ones stay
	c.request(steps(addN("C", 3), Clear{}))
	c.want("A=6")
	c.request(steps(PutCode{"X"}, RemoveCode{"X"}))
	if codes := codesOf(nil, c.read()); len(codes) != 0 {
		t.Errorf("the codes are %q", codes)
	}
	// A step that was executed before is one that the next one sees.
	first := Step{Command: addN("D", 5), Key: "first"}
	c.request(Request{Context: stale, Steps: []Step{first}})
	c.request(Request{Context: stale, Steps: []Step{first, {Command: remove("D"), Key: "second"}}})
	c.want("A=6")
}

// Concurrent decrements can take more than there is. That debt is nobody's: a later add counts.
func TestAddAfterDebt(t *testing.T) {
	now := newClock()
	a, b := author{t, 1, now.Now()}, author{t, 2, now.Now()}
	token := NewToken()
	s := a.apply(a.create(token), addN("A", 3))
	s = crdt.Join(a.apply(s, takeOff("A", 2)), b.apply(s, takeOff("A", 2)))
	store := newFakeStore()
	c := &client{t, start(t, Options{Store: store, Now: now.Now}), NewID(), token}
	store.put(c.id, s)
	c.want("")
	c.do(addN("A", 2))
	c.want("A=2")
}
