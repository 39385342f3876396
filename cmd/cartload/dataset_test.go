package main

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestReadInvoices(t *testing.T) {
	content := header +
		"1,A,\"TEE, RED \",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n" +
		"1,A,,-2,,0,,\n" +
		"2,\"B\n2\",MUG,1,,607.490,,\n" +
		"C3,D,Discount,-1,,27.5,,Malta\n"
	want := []invoice{
		{"day.csv", "1", "United Kingdom", []row{{2, "A", "TEE, RED ", 6, 255}, {3, "A", "", -2, 0}}},
		{"day.csv", "2", "", []row{{4, "B\n2", "MUG", 1, 60749}}},
		{"day.csv", "C3", "Malta", []row{{6, "D", "Discount", -1, 2750}}},
	}
	var got []invoice
	for inv, err := range readInvoices(strings.NewReader(content), "day.csv") {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, inv)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestReadInvoicesStopsWhenAsked(t *testing.T) {
	content := header + "1,A,,1,,1,,\n" + "2,A,,1,,1,,\n" + "3,A,,1,,1,,\n"
	n := 0
	for _, err := range readInvoices(strings.NewReader(content), "day.csv") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d invoices", n)
	}
}

func TestReadInvoicesErrors(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content string
		want    string
	}{
		{"empty", "", "day.csv:1: the file is empty"},
		{"other header", "a,b\n", "day.csv:1: the header is not"},
		{"columns", header + "1,A,TEE\n", "day.csv:2: 3 columns, want 8"},
		{"no invoice number", header + ",A,TEE,1,,1,,\n", "day.csv:2: InvoiceNo is empty"},
		{"no SKU", header + "1,,TEE,1,,1,,\n", "day.csv:2: StockCode is empty"},
		{"long SKU", header + "1," + strings.Repeat("A", 129) + ",TEE,1,,1,,\n", "day.csv:2: StockCode has 129 bytes"},
		{"not UTF-8", header + "1,A,TEE \xa3,1,,1,,\n", "day.csv:2: not UTF-8"},
		{"no quantity", header + "1,A,TEE,,,1,,\n", `day.csv:2: quantity "" is not a whole number`},
		{"quantity", header + "1,A,TEE,1.5,,1,,\n", `day.csv:2: quantity "1.5" is not a whole number`},
		{"quantity 0", header + "1,A,TEE,1,,1,,\n1,A,TEE,0,,1,,\n", "day.csv:3: quantity is 0"},
		{"large quantity", header + "1,A,TEE,10000,,1,,\n", "day.csv:2: quantity 10000 is beyond"},
		{"large return", header + "1,A,TEE,-80995,,1,,\n", "day.csv:2: quantity -80995 is beyond"},
		{"price", header + "1,A,TEE,1,,-11062.06,,\n", `day.csv:2: unit price "-11062.06" is not an amount`},
		{"invoice apart", header + "1,A,,1,,1,,\n2,A,,1,,1,,\n1,B,,1,,1,,\n", "day.csv:4: invoice 1 was followed"},
		{"quotes", header + "1,A,\"TEE\"X,1,,1,,\n", "day.csv:2: "},
		{"open quote", header + "1,A,\"TEE,1,,1,,\n", "day.csv:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var last error
			for _, err := range readInvoices(strings.NewReader(tt.content), "day.csv") {
				if last != nil {
					t.Error("something came after the error")
				}
				last = err
			}
			if last == nil || !strings.HasPrefix(last.Error(), tt.want) {
				t.Errorf("got %v, want %s", last, tt.want)
			}
		})
	}
}

func TestParsePence(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "0.0": 0, "7.9": 790, "2.55": 255, "607.49": 60749, "12": 1200, "0.01": 1, "1.100": 110,
		"0.29": 29, "1.15": 115, "4.35": 435, // which floats times 100 get wrong
		"1000000000": maxPrice, "001.5": 150,
	} {
		if got, err := parsePence(text); err != nil || got != want {
			t.Errorf("parsePence(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "1.", ".5", "-1", "+1", "1e2", "1,50", " 1", "0x10", "1.001", "1.2.3", "1_0", "1000000000.01",
		"99999999999999999999",
	} {
		if got, err := parsePence(text); err == nil {
			t.Errorf("parsePence(%q) = %d, want an error", text, got)
		}
	}
}

func FuzzReadInvoices(f *testing.F) {
	f.Add(oneInvoice)
	f.Add(header + "1,A,\"TEE\nX\",-5,,0.1,,\n2,B,,1,,1,,\n")
	f.Add(header + "1,A,TEE,0,,1,,\n")
	f.Fuzz(func(t *testing.T, content string) {
		seen := map[string]bool{}
		line := 1
		ended := false
		for inv, err := range readInvoices(strings.NewReader(content), "f") {
			if ended {
				t.Fatal("something came after the error")
			}
			if err != nil {
				ended = true
				if !strings.HasPrefix(err.Error(), "f:") {
					t.Fatalf("%v does not name the file", err)
				}
				continue
			}
			if len(inv.rows) == 0 || inv.number == "" || seen[inv.number] {
				t.Fatalf("invoice %q with %d rows, seen %t", inv.number, len(inv.rows), seen[inv.number])
			}
			seen[inv.number] = true
			for _, r := range inv.rows {
				if r.line <= line {
					t.Fatalf("line %d after %d", r.line, line)
				}
				line = r.line
				if r.sku == "" || r.quantity == 0 || max(r.quantity, -r.quantity) > maxQuantity || r.price < 0 || r.price > maxPrice {
					t.Fatalf("row %+v", r)
				}
			}
			expect(inv.rows).totals()
		}
	})
}

// The days of the fixtures, as far as they are there.
func TestRealDays(t *testing.T) {
	dir := filepath.Join(cmp.Or(os.Getenv("SHARED_DIR"), "../../../shared"), "data", "online-retail")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no data: %v; SHARED_DIR names the folder that holds data/online-retail", err)
	}
	for file, want := range map[string]struct{ carts, operations, countries int }{
		"2010-12-01.csv": {143, 3108, 7},
		"2011-06-15.csv": {90, 1718, 5},
		"2011-11-17.csv": {170, 3621, 13},
	} {
		got, err := measure(t.Context(), []string{filepath.Join(dir, file)})
		if err != nil || got.carts != want.carts || got.operations != want.operations || len(got.countries) != want.countries {
			t.Errorf("%s: %+v, %v, want %+v", file, got, err, want)
		}
	}
}
