package api

import (
	"encoding/base64"
	"encoding/binary"
	"iter"
	"strconv"
	"time"

	"cartd/cart"
)

// The encoders of responses append to a buffer: no reflection and, in a buffer that is used again,
// no allocation.

// appendCart appends the JSON of a cart. token is that of a cart just created, or nil.
func appendCart(b []byte, v *cart.View, token *cart.Token) []byte {
	b = append(b, `{"id":"`...)
	b, _ = v.ID.AppendText(b)
	if token != nil {
		b = append(b, `","token":"`...)
		b = append(b, token.String()...)
	}
	b = append(b, `","state":"active","customer_id":null,"currency":`...)
	b = appendString(b, v.Currency)
	b = append(b, `,"line_items":[`...)
	for i := range v.Lines {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendLine(b, &v.Lines[i], v.Currency)
	}
	b = append(b, `],"discount_codes":`...)
	b = appendStrings(b, v.Codes)
	b = append(b, `,"note":`...)
	b = appendOptional(b, v.Note)
	b = append(b, `,"email":`...)
	b = appendOptional(b, v.Email)
	b = append(b, `,"metadata":`...)
	b = appendPairs(b, v.Metadata())
	b = append(b, `,"total_quantity":`...)
	b = strconv.AppendInt(b, v.TotalQuantity, 10)
	b = append(b, `,"subtotal":`...)
	b = appendMoney(b, v.Subtotal, v.Currency)
	b = append(b, `,"created_at":`...)
	b = appendTime(b, v.CreatedAt())
	b = append(b, `,"updated_at":`...)
	b = appendTime(b, v.UpdatedAt())
	b = append(b, `,"expires_at":`...)
	b = appendTime(b, v.ExpiresAt())
	if len(v.Warnings) > 0 {
		b = append(b, `,"warnings":`...)
		b = appendStrings(b, v.Warnings)
	}
	return append(b, '}')
}

func appendLine(b []byte, l *cart.LineView, currency string) []byte {
	b = append(b, `{"id":"`...)
	b, _ = l.ID.AppendText(b)
	b = append(b, `","sku":`...)
	b = appendString(b, l.SKU)
	b = append(b, `,"options":`...)
	b = appendPairs(b, l.Options())
	b = append(b, `,"title":`...)
	b = appendOptional(b, l.Title)
	b = append(b, `,"image_url":`...)
	b = appendOptional(b, l.ImageURL)
	b = append(b, `,"quantity":`...)
	b = strconv.AppendInt(b, l.Quantity, 10)
	b = append(b, `,"unit_price":`...)
	b = appendAmount(b, l.UnitPrice, l.HasPrice, currency)
	b = append(b, `,"subtotal":`...)
	b = appendAmount(b, l.Subtotal, l.HasSubtotal, currency)
	b = append(b, `,"metadata":`...)
	b = appendPairs(b, l.Metadata())
	return append(b, '}')
}

// appendResults appends the JSON of the answer to a list of operations.
func appendResults(b []byte, v *cart.View, operations []operation, results []cart.StepResult) []byte {
	b = append(b, `{"cart":`...)
	b = appendCart(b, v, nil)
	b = append(b, `,"results":[`...)
	for i, o := range operations {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"type":`...)
		b = appendString(b, o.kind)
		b = append(b, `,"operation_id":`...)
		b = appendOptional(b, func() (string, bool) { return o.id, o.id != "" })
		b = append(b, `,"line_item_id":`...)
		line := results[i].Line
		if line == (cart.LineID{}) {
			line = o.line // of no line that ever was in the cart
		}
		b = appendOptional(b, func() (string, bool) { return line.String(), line != (cart.LineID{}) })
		b = append(b, `,"quantity":`...)
		b = strconv.AppendInt(b, results[i].Quantity, 10)
		b = append(b, `,"replayed":`...)
		b = strconv.AppendBool(b, results[i].Replayed)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

func appendAmount(b []byte, amount int64, ok bool, currency string) []byte {
	if !ok {
		return append(b, "null"...)
	}
	return appendMoney(b, amount, currency)
}

func appendMoney(b []byte, amount int64, currency string) []byte {
	b = append(b, `{"amount":`...)
	b = strconv.AppendInt(b, amount, 10)
	b = append(b, `,"currency":`...)
	b = appendString(b, currency)
	return append(b, '}')
}

func appendOptional(b []byte, value func() (string, bool)) []byte {
	if s, ok := value(); ok {
		return appendString(b, s)
	}
	return append(b, "null"...)
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendPairs(b []byte, pairs iter.Seq2[string, string]) []byte {
	b = append(b, '{')
	first := true
	for name, value := range pairs {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, name)
		b = append(b, ':')
		b = appendString(b, value)
	}
	return append(b, '}')
}

// appendTime appends t, which is in UTC, to the millisecond. [RFC 3339]
func appendTime(b []byte, t time.Time) []byte {
	return t.AppendFormat(b, `"2006-01-02T15:04:05.000Z"`)
}

// appendString appends the JSON of a string of valid UTF-8.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// appendETag appends the entity tag of a version. [RFC 9110, 8.8.3]
func appendETag(b []byte, version uint64) []byte {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], version)
	b = append(b, '"')
	b = base64.RawURLEncoding.AppendEncode(b, raw[:])
	return append(b, '"')
}

// parseETag reads what appendETag wrote.
func parseETag(tag string) (version uint64, ok bool) {
	if len(tag) != 13 || tag[0] != '"' || tag[12] != '"' {
		return 0, false
	}
	var raw [8]byte
	if n, err := base64.RawURLEncoding.Strict().Decode(raw[:], []byte(tag[1:12])); err != nil || n != len(raw) {
		return 0, false
	}
	return binary.BigEndian.Uint64(raw[:]), true
}
