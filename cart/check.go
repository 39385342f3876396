package cart

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"cartd/crdt"
)

// invalid returns the error for a part of a request that is out of range.
func invalid(pointer, format string, args ...any) *Error {
	return &Error{Reason: Invalid, Pointer: pointer, Detail: fmt.Sprintf(format, args...)}
}

// checkText refuses text that is empty or blank where something must be said, too long, not UTF-8,
// or carries control or bidirectional formatting characters, which make what is shown differ from
// what is there.
func checkText(pointer, what, text string, limit int, required bool) error {
	switch {
	case required && strings.TrimSpace(text) == "":
		return invalid(pointer, "%s must not be blank", what)
	case len(text) > limit:
		return invalid(pointer, "%s has %d bytes, at most %d are allowed", what, len(text), limit)
	case !utf8.ValidString(text):
		return invalid(pointer, "%s is not valid UTF-8", what)
	}
	for _, r := range text {
		if unicode.IsControl(r) && !(what == "note" && (r == '\n' || r == '\t')) || unicode.Is(unicode.Bidi_Control, r) {
			return invalid(pointer, "%s has the control character %U", what, r)
		}
	}
	return nil
}

func checkPairs(pointer, what string, pairs []Pair, limit, maxName, maxValue int) error {
	if len(pairs) > limit {
		return invalid(pointer, "%d %s, at most %d are allowed", len(pairs), what, limit)
	}
	for _, p := range pairs {
		at := pointer + "/" + escapePointer(p.Name)
		if err := checkText(at, "the name", p.Name, maxName, true); err != nil {
			return err
		}
		if err := checkText(at, "the value", p.Value, maxValue, false); err != nil {
			return err
		}
	}
	return nil
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func escapePointer(s string) string { return pointerEscaper.Replace(s) }

func (c Add) check(limits Limits) error {
	if err := c.Line.check(); err != nil {
		return err
	}
	if err := checkQuantity(c.Quantity, 1, limits.Quantity); err != nil {
		return err
	}
	return c.Details.check()
}

func (c Set) check(limits Limits) error {
	if err := c.Line.check(); err != nil {
		return err
	}
	if err := checkQuantity(c.Quantity, 0, limits.Quantity); err != nil {
		return err
	}
	if c.Quantity == 0 && !c.Details.empty() {
		return invalid("/quantity", "a set to 0 removes the line and writes nothing about it")
	}
	return c.Details.check()
}

func (c Decrement) check(limits Limits) error {
	if err := c.Line.check(); err != nil {
		return err
	}
	return checkQuantity(c.Quantity, 1, limits.Quantity)
}

func (c Remove) check(Limits) error { return c.Line.check() }
func (note) check(Limits) error     { return nil }
func (c Clear) check(Limits) error  { return nil }

func (c Describe) check(Limits) error {
	if err := c.Line.check(); err != nil {
		return err
	}
	return c.Details.check()
}

func (c PutCode) check(Limits) error    { return checkText("", "the code", c.Code, MaxCode, true) }
func (c RemoveCode) check(Limits) error { return checkText("", "the code", c.Code, MaxCode, true) }

func (c Update) check(Limits) error {
	if c.Note != nil && *c.Note != nil {
		if err := checkText("/note", "note", **c.Note, MaxNote, false); err != nil {
			return err
		}
	}
	if c.Email != nil && *c.Email != nil {
		if err := checkEmail("/email", **c.Email); err != nil {
			return err
		}
	}
	return checkMetadata(c.Metadata)
}

func (d Details) check() error {
	if d.UnitPrice != nil {
		if d.UnitPrice.Amount < 0 || d.UnitPrice.Amount > MaxPrice {
			return invalid("/unit_price/amount", "a price of %d is not between 0 and %d minor units", d.UnitPrice.Amount, int64(MaxPrice))
		}
		if err := checkCurrency("/unit_price/currency", d.UnitPrice.Currency); err != nil {
			return err
		}
	}
	if d.Title != nil {
		if err := checkText("/title", "the title", *d.Title, MaxTitle, false); err != nil {
			return err
		}
	}
	if d.ImageURL != nil {
		if err := checkImageURL("/image_url", *d.ImageURL); err != nil {
			return err
		}
	}
	return checkMetadata(d.Metadata)
}

func (r LineRef) check() error {
	if r.SKU == "" {
		return nil
	}
	if err := checkText("/sku", "the SKU", r.SKU, MaxSKU, true); err != nil {
		return err
	}
	return checkOptions(r.Options)
}

func checkOptions(options []Pair) error {
	if err := checkPairs("/options", "options", options, MaxOptions, MaxOptionName, MaxOptionValue); err != nil {
		return err
	}
	options = sorted(options)
	for i := 1; i < len(options); i++ {
		if options[i].Name == options[i-1].Name {
			return invalid("/options/"+escapePointer(options[i].Name), "the option is there twice")
		}
	}
	return nil
}

func checkMetadata(p MetadataPatch) error {
	if len(p.Edits) > metadataEver {
		return invalid("/metadata", "%d entries, at most %d are allowed", len(p.Edits), metadataEver)
	}
	for _, m := range p.Edits {
		at := "/metadata/" + escapePointer(m.Name)
		if err := checkText(at, "the name", m.Name, MaxMetadataName, true); err != nil {
			return err
		}
		if m.Value == nil {
			continue
		}
		if err := checkText(at, "the value", *m.Value, MaxMetadataValue, false); err != nil {
			return err
		}
	}
	return nil
}

func checkQuantity(n, low, high int64) error {
	if n < low || n > high {
		return invalid("/quantity", "a quantity of %d is not between %d and %d", n, low, high)
	}
	return nil
}

// checkLine refuses the step from before to the present state if it made the line of key outgrow a
// limit. A merge may have overshot one before: what takes off, or leaves as it is, is not refused.
func (e *edit) checkLine(before *State, key string) error {
	l := e.state.Line(key)
	if l == nil {
		return nil
	}
	was := before.Line(key)
	if was == nil {
		was = new(crdt.Line)
	}
	q, held := e.state.Quantity(l), before.Quantity(was)
	switch {
	case q > e.limits.Quantity && q > held:
		return &Error{Reason: QuantityExceeded, Pointer: "/quantity", Detail: "the line would hold " + strconv.FormatInt(q, 10) +
			" units, at most " + strconv.FormatInt(e.limits.Quantity, 10) + " are allowed"}
	case len(l.Counter) > maxEntries && len(l.Counter) > len(was.Counter):
		return &Error{Reason: QuantityExceeded, Pointer: "/quantity", Detail: "the line has more than " + strconv.Itoa(maxEntries) +
			" changes that can still be undone one by one: set its quantity to replace them"}
	case len(l.Counter) > len(was.Counter) && countEntries(e.state) > maxCartEntries:
		return &Error{Reason: QuantityExceeded, Pointer: "/quantity", Detail: "the cart has more than " + strconv.Itoa(maxCartEntries) +
			" changes that can still be undone one by one: set the quantities of its lines to replace them"}
	case q > 0 && held == 0 && countLines(e.state) > e.limits.Lines:
		return &Error{Reason: TooManyLines, Detail: "the cart would have more than " + strconv.Itoa(e.limits.Lines) + " lines"}
	case len(e.state.Lines) > linesEver*e.limits.Lines && len(e.state.Lines) > len(before.Lines):
		return &Error{Reason: TooManyLines, Detail: "more than " + strconv.Itoa(linesEver*e.limits.Lines) +
			" different lines have been in the cart"}
	}
	if err := checkMetadataOf(was.Registers, l.Registers); err != nil {
		return err
	}
	return e.checkText(before)
}

// checkText refuses the step from before to the present state if it made the texts of the cart, those of
// removed lines included, outgrow their limit: they are in each answer, each snapshot and in memory.
func (e *edit) checkText(before *State) error {
	limit := max(minText, textPerLine*e.limits.Lines)
	if n := textOf(e.state); n > limit && n > textOf(before) {
		return &Error{Reason: TooLarge, Detail: "the texts of the cart would take " + strconv.Itoa(n) + " bytes, at most " +
			strconv.Itoa(limit) + " are allowed"}
	}
	return nil
}

// textOf returns how many bytes the SKUs, options and registers of a cart have.
func textOf(s *State) int {
	n := textOfRegisters(s.Registers)
	for _, l := range s.Lines {
		n += len(l.Key) + textOfRegisters(l.Registers)
	}
	return n
}

func textOfRegisters(registers crdt.Registers) int {
	n := 0
	for i := range registers {
		n += len(registers[i].Name) + len(registers[i].Value)
	}
	return n
}

// checkMetadataOf refuses registers that have more metadata than is allowed and than they had before.
func checkMetadataOf(before, registers crdt.Registers) error {
	present, ever := countMetadata(registers)
	if present <= MaxMetadata && ever <= metadataEver {
		return nil
	}
	wasPresent, wasEver := countMetadata(before)
	if present > MaxMetadata && present > wasPresent {
		return invalid("/metadata", "there would be %d entries, at most %d are allowed", present, MaxMetadata)
	}
	if ever > metadataEver && ever > wasEver {
		return invalid("/metadata", "more than %d different names have been used", metadataEver)
	}
	return nil
}

// countMetadata returns how many entries of metadata there are, and how many there ever were.
func countMetadata(registers crdt.Registers) (present, ever int) {
	for i := range registers {
		if !strings.HasPrefix(registers[i].Name, prefixMetadata) {
			continue
		}
		ever++
		if !registers[i].Deleted {
			present++
		}
	}
	return present, ever
}

func (e *edit) checkCodes(before *State) error {
	if n := len(codesOf(nil, e.state)); n > MaxCodes && n > len(codesOf(nil, before)) {
		return invalid("", "the cart would have %d discount codes, at most %d are allowed", n, MaxCodes)
	}
	return nil
}

// checkRecords refuses the step from before to the present state if it made the cart remember too many
// operation ids. What the step itself forgot makes room.
func (e *edit) checkRecords(before *State) error {
	if n := len(e.state.Operations); n > maxRecords && n > len(before.Operations) {
		return &Error{
			Reason: TooManyOperations,
			Detail: "the cart remembers " + strconv.Itoa(maxRecords) + " keys of requests and operations, for 48 hours at least",
		}
	}
	return nil
}

// currencies are the active codes of ISO 4217 that name a currency of a country or a union.
var currencies = strings.Fields(`
	AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD
	CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS
	GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW
	KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR
	MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR
	SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX
	USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`)

func checkCurrency(pointer, code string) error {
	if _, known := slices.BinarySearch(currencies, code); !known {
		return invalid(pointer, "%q is not a currency code of ISO 4217", code)
	}
	return nil
}

// checkEmail wants one @ with something on either side: whether an address exists only a message
// to it can tell.
func checkEmail(pointer, email string) error {
	if err := checkText(pointer, "email", email, MaxEmail, true); err != nil {
		return err
	}
	at := strings.LastIndexByte(email, '@')
	if at < 1 || at == len(email)-1 || strings.ContainsAny(email, " \t") {
		return invalid(pointer, "this is not an e-mail address")
	}
	return nil
}

// checkImageURL wants an absolute URL with a scheme that a page may show an image from.
func checkImageURL(pointer, text string) error {
	if err := checkText(pointer, "the URL", text, MaxImageURL, true); err != nil {
		return err
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return invalid(pointer, "this is not an http or https URL")
	}
	return nil
}
