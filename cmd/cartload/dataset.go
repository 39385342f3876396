package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// invoice is what a file says about one cart: the rows of one invoice number, in the file's order.
type invoice struct {
	file    string // base name
	number  string
	country string // of its first row
	rows    []row
}

// row is one command: an add where quantity is above zero, else a decrement.
type row struct {
	line     int // of the file, from 1
	sku      string
	title    string // as it stands in the file; empty where there is none
	quantity int64  // units; not 0, at most maxQuantity either way
	price    int64  // of one unit, in pence
}

// Bounds of what cartd takes as one command.
const (
	maxQuantity = 9_999
	maxPrice    = 100_000_000_000 // minor units
	maxSKU      = 128             // bytes
)

var onlineRetailHeader = []string{
	"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country",
}

// openInvoices reads the invoices of a file in the format online-retail. The error, if there is
// one, comes last and names the file.
func openInvoices(path string) iter.Seq2[invoice, error] {
	return func(yield func(invoice, error) bool) {
		f, err := os.Open(path)
		if err != nil {
			yield(invoice{}, err)
			return
		}
		defer func() { _ = f.Close() }() // it was only read
		for inv, err := range readInvoices(f, filepath.Base(path)) {
			if !yield(inv, err) {
				return
			}
		}
	}
}

// readInvoices reads the invoices of r, one at a time. All rows of an invoice stand together; a
// number that comes back later would be a cart that is half replayed, so it is an error. The error,
// if there is one, comes last; it names the file and the line.
func readInvoices(r io.Reader, file string) iter.Seq2[invoice, error] {
	return func(yield func(invoice, error) bool) {
		in := csv.NewReader(r)
		in.ReuseRecord = true
		in.FieldsPerRecord = -1 // checked below, in words
		fail := func(line int, err error) { yield(invoice{}, fmt.Errorf("%s:%d: %w", file, line, err)) }

		header, err := in.Read()
		switch {
		case errors.Is(err, io.EOF):
			fail(1, errors.New("the file is empty"))
			return
		case err != nil:
			yield(invoice{}, csvError(file, err))
			return
		case !slices.Equal(header, onlineRetailHeader):
			fail(1, fmt.Errorf("the header is not %q", strings.Join(onlineRetailHeader, ",")))
			return
		}

		seen := map[string]bool{}
		current := invoice{file: file}
		for {
			record, err := in.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				yield(invoice{}, csvError(file, err))
				return
			}
			line, _ := in.FieldPos(0)
			number, row, err := parseRow(record)
			if err != nil {
				fail(line, err)
				return
			}
			row.line = line
			if number != current.number {
				if seen[number] {
					fail(line, fmt.Errorf("invoice %s was followed by another one before: its rows must stand together", number))
					return
				}
				seen[number] = true
				if current.rows != nil && !yield(current, nil) {
					return
				}
				current = invoice{file: file, number: number, country: record[7]}
			}
			current.rows = append(current.rows, row)
		}
		if current.rows != nil {
			yield(current, nil)
		}
	}
}

// csvError puts an error of encoding/csv into the form of the others.
func csvError(file string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %w", file, parse.Line, parse.Err)
	}
	return fmt.Errorf("%s: %w", file, err)
}

func parseRow(record []string) (number string, r row, err error) {
	if len(record) != len(onlineRetailHeader) {
		return "", row{}, fmt.Errorf("%d columns, want %d", len(record), len(onlineRetailHeader))
	}
	number, r.sku, r.title = record[0], record[1], record[2]
	switch {
	case number == "":
		return "", row{}, errors.New("InvoiceNo is empty")
	case r.sku == "":
		return "", row{}, errors.New("StockCode is empty")
	case len(r.sku) > maxSKU:
		return "", row{}, fmt.Errorf("StockCode has %d bytes, at most %d are allowed", len(r.sku), maxSKU)
	case !utf8.ValidString(number) || !utf8.ValidString(r.sku) || !utf8.ValidString(r.title):
		return "", row{}, errors.New("not UTF-8") // JSON would replace it, and the title not compare equal
	}
	r.quantity, err = strconv.ParseInt(record[3], 10, 64)
	switch {
	case err != nil:
		return "", row{}, fmt.Errorf("quantity %q is not a whole number", record[3])
	case r.quantity == 0:
		return "", row{}, errors.New("quantity is 0")
	case r.quantity < -maxQuantity || r.quantity > maxQuantity:
		return "", row{}, fmt.Errorf("quantity %d is beyond ±%d", r.quantity, maxQuantity)
	}
	if r.price, err = parsePence(record[5]); err != nil {
		return "", row{}, fmt.Errorf("unit price %w", err)
	}
	return number, r, nil
}

// parsePence reads an amount in pounds, as in "2.5" or "607.49", without going through a float.
// Decimals beyond the second must be zero.
func parsePence(text string) (int64, error) {
	pounds, fraction, point := strings.Cut(text, ".")
	if !digits(pounds) || point && !digits(fraction) {
		return 0, fmt.Errorf("%q is not an amount", text)
	}
	if len(fraction) > 2 {
		if strings.Trim(fraction[2:], "0") != "" {
			return 0, fmt.Errorf("%q has a fraction of a penny", text)
		}
		fraction = fraction[:2]
	}
	pence, err := strconv.ParseInt(pounds+(fraction + "00")[:2], 10, 64)
	if err != nil || pence > maxPrice {
		return 0, fmt.Errorf("%q is more than %d pence", text, int64(maxPrice))
	}
	return pence, nil
}

// digits reports whether s is one or more decimal digits, and nothing else.
func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
