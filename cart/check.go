package cart

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
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
	return c.Details.check()
}

func (c Decrement) check(limits Limits) error {
	if err := c.Line.check(); err != nil {
		return err
	}
	return checkQuantity(c.Quantity, 1, limits.Quantity)
}

func (c Remove) check(Limits) error { return c.Line.check() }
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
	return checkPairs("/options", "options", options, MaxOptions, MaxOptionName, MaxOptionValue)
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

// checkLimits refuses the step from before to the present state if the line of key outgrew a limit.
func (e *edit) checkLimits(before *State, key string) error {
	l := e.state.Line(key)
	if l == nil {
		return nil
	}
	q := e.state.Quantity(l)
	switch {
	case q > e.limits.Quantity:
		return &Error{Reason: QuantityExceeded, Pointer: "/quantity", Detail: "the line would hold " + strconv.FormatInt(q, 10) +
			" units, at most " + strconv.FormatInt(e.limits.Quantity, 10) + " are allowed"}
	case len(l.Counter) > maxEntries:
		return &Error{Reason: QuantityExceeded, Pointer: "/quantity", Detail: "the line has more than " + strconv.Itoa(maxEntries) +
			" changes that can still be undone one by one: set its quantity to replace them"}
	case q > 0 && quantityOf(before, key) == 0 && countLines(e.state) > e.limits.Lines:
		return &Error{Reason: TooManyLines, Detail: "the cart would have more than " + strconv.Itoa(e.limits.Lines) + " lines"}
	case len(e.state.Lines) > linesEver*e.limits.Lines:
		return &Error{Reason: TooManyLines, Detail: "more than " + strconv.Itoa(linesEver*e.limits.Lines) +
			" different lines have been in the cart"}
	}
	return e.checkMetadata(key)
}

func (e *edit) checkMetadata(key string) error {
	registers := e.state.Registers
	if key != "" {
		if l := e.state.Line(key); l != nil {
			registers = l.Registers
		}
	}
	present, ever := 0, 0
	for i := range registers {
		if len(registers[i].Name) <= len(prefixMetadata) || registers[i].Name[:len(prefixMetadata)] != prefixMetadata {
			continue
		}
		ever++
		if !registers[i].Deleted {
			present++
		}
	}
	if present > MaxMetadata {
		return invalid("/metadata", "there would be %d entries, at most %d are allowed", present, MaxMetadata)
	}
	if ever > metadataEver {
		return invalid("/metadata", "more than %d different names have been used", metadataEver)
	}
	return nil
}

func (e *edit) checkCodes() error {
	if n := len(codesOf(nil, e.state)); n > MaxCodes {
		return invalid("", "the cart would have %d discount codes, at most %d are allowed", n, MaxCodes)
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
