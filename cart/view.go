package cart

import (
	"encoding/binary"
	"iter"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"cartd/crdt"
)

// View is a cart as a shopper sees it. It can be filled again, and then allocates nothing for a
// cart that is no larger; what it returns is valid until then.
type View struct {
	ID            ID
	Currency      string
	Lines         []LineView // in the order in which they were first added
	Codes         []string   // discount codes, sorted
	TotalQuantity int64
	Subtotal      int64 // of the lines that have a price, in minor units
	Warnings      []string

	state *State
}

// LineView is a line that is in the cart.
type LineView struct {
	ID          LineID
	SKU         string
	Quantity    int64
	UnitPrice   int64 // minor units; see HasPrice
	Subtotal    int64
	HasPrice    bool
	HasSubtotal bool // false where there is no price, or the product is beyond an int64

	options string
	line    *crdt.Line
}

// Read fills v with the cart of id at the state s, as limits would have it.
func (v *View) Read(id ID, s *State, limits Limits) {
	*v = View{ID: id, Currency: currencyOf(s), Lines: v.Lines[:0], Codes: v.Codes[:0], Warnings: v.Warnings[:0], state: s}
	overflow := false
	for l := range s.Ordered() {
		q := s.Quantity(l)
		if q <= 0 {
			continue
		}
		line := LineView{ID: lineIDOf(l.Key), Quantity: q, line: l}
		line.SKU, line.options = splitKey(l.Key)
		if line.UnitPrice, line.HasPrice = priceOf(l); line.HasPrice {
			line.Subtotal, line.HasSubtotal = multiply(q, line.UnitPrice)
			sum, ok := add(v.Subtotal, line.Subtotal)
			if line.HasSubtotal && ok {
				v.Subtotal = sum
			} else {
				overflow = true
			}
		}
		if q > limits.Quantity {
			v.Warnings = append(v.Warnings, "the line "+line.ID.String()+" holds more than "+strconv.FormatInt(limits.Quantity, 10)+" units")
		}
		v.Lines = append(v.Lines, line)
		v.TotalQuantity, _ = add(v.TotalQuantity, q)
	}
	v.Codes = codesOf(v.Codes, s)
	if len(v.Lines) > limits.Lines {
		v.Warnings = append(v.Warnings, "the cart has more than "+strconv.Itoa(limits.Lines)+" lines")
	}
	if len(v.Codes) > MaxCodes {
		v.Warnings = append(v.Warnings, "the cart has more than "+strconv.Itoa(MaxCodes)+" discount codes")
	}
	if overflow {
		v.Warnings = append(v.Warnings, "the subtotal leaves out lines whose amount is too large")
	}
}

// Reset lets go of the cart that v was filled with.
func (v *View) Reset() {
	clear(v.Lines)
	clear(v.Codes)
	*v = View{Lines: v.Lines[:0], Codes: v.Codes[:0], Warnings: v.Warnings[:0]}
}

// multiply returns a·b of factors that are not negative, and whether it fits.
func multiply(a, b int64) (int64, bool) {
	high, low := bits.Mul64(uint64(a), uint64(b))
	return int64(low), high == 0 && low <= math.MaxInt64
}

// add returns a+b of summands that are not negative, and whether it fits; else a.
func add(a, b int64) (int64, bool) {
	if a > math.MaxInt64-b {
		return a, false
	}
	return a + b, true
}

// Version is the version of the state that is shown.
func (v *View) Version() uint64 { return Version(v.state) }

// Note returns the note, if there is one.
func (v *View) Note() (string, bool) { return v.state.Registers.Get(registerNote) }

// Email returns the e-mail address, if there is one.
func (v *View) Email() (string, bool) { return v.state.Registers.Get(registerEmail) }

// Metadata iterates over the cart's metadata, sorted by name.
func (v *View) Metadata() iter.Seq2[string, string] { return metadataOf(v.state.Registers) }

// CreatedAt is when the cart was created, to the millisecond.
func (v *View) CreatedAt() time.Time { return v.state.Lifetime.Created.Time() }

// UpdatedAt is when the cart was last changed, to the millisecond.
func (v *View) UpdatedAt() time.Time { return v.state.Lifetime.Updated.Time() }

// ExpiresAt is when the cart ends, to the millisecond.
func (v *View) ExpiresAt() time.Time { return v.state.Lifetime.Expires.Time() }

// Title returns the line's title, if it has one.
func (l *LineView) Title() (string, bool) { return l.line.Registers.Get(registerTitle) }

// ImageURL returns the URL of the line's image, if it has one.
func (l *LineView) ImageURL() (string, bool) { return l.line.Registers.Get(registerImage) }

// Options iterates over the line's options, sorted by name.
func (l *LineView) Options() iter.Seq2[string, string] { return pairsOf(l.options) }

// Metadata iterates over the line's metadata, sorted by name.
func (l *LineView) Metadata() iter.Seq2[string, string] { return metadataOf(l.line.Registers) }

func metadataOf(registers crdt.Registers) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range registers {
			name, ok := strings.CutPrefix(registers[i].Name, prefixMetadata)
			if ok && !registers[i].Deleted && !yield(name, registers[i].Value) {
				return
			}
		}
	}
}

// shown is a checksum of what a shopper decides by: lines, quantities and prices.
func (v *View) shown() uint64 {
	var b [32]byte
	var h xxhash.Digest
	h.Reset()
	for i := range v.Lines {
		l := &v.Lines[i]
		copy(b[:16], l.ID[:])
		binary.LittleEndian.PutUint64(b[16:], uint64(l.Quantity))
		price := int64(-1)
		if l.HasPrice {
			price = l.UnitPrice
		}
		binary.LittleEndian.PutUint64(b[24:], uint64(price))
		h.Write(b[:])
	}
	return h.Sum64()
}
