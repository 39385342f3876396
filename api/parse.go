package api

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// parser reads one JSON text, and stricter than encoding/json does: a name may come once in an
// object, strings are valid UTF-8 without control characters, whole numbers are written as such, and
// nothing follows. The readers of bodies ask for what they know and refuse the rest, so nothing is
// ever skipped and nothing nests deeper than they read. The first error ends it.
type parser struct {
	data    []byte
	pos     int
	pointer []byte // JSON pointer of the value that is being read
	err     error
}

// malformed refuses the text as such.
func (p *parser) malformed(format string, args ...any) {
	if p.err == nil {
		p.err = &problem{kind: malformedRequest, detail: fmt.Sprintf("at byte %d of the body: ", p.pos) + fmt.Sprintf(format, args...)}
	}
}

// invalid refuses the value that is being read.
func (p *parser) invalid(format string, args ...any) {
	if p.err == nil {
		p.err = &problem{kind: validationFailed, pointer: string(p.pointer), detail: fmt.Sprintf(format, args...)}
	}
}

func (p *parser) space() {
	for p.pos < len(p.data) {
		switch p.data[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// peek returns the first byte of the next token, or 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.err != nil || p.pos == len(p.data) {
		return 0
	}
	return p.data[p.pos]
}

func (p *parser) accept(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.pos++
	return true
}

func (p *parser) expect(c byte) bool {
	if p.accept(c) {
		return true
	}
	p.malformed("expected %q", c)
	return false
}

// end refuses what follows the value.
func (p *parser) end() {
	if p.space(); p.err == nil && p.pos < len(p.data) {
		p.malformed("something follows the JSON value")
	}
}

// wrongType refuses a value because want was expected, unless it is not JSON at all.
func (p *parser) wrongType(want string) {
	switch c := p.peek(); {
	case p.err != nil:
	case c == 0:
		p.malformed("the body ends early")
	case strings.IndexByte(`{["-0123456789tfn`, c) < 0:
		p.malformed("this is not a JSON value")
	default:
		p.invalid("%s is expected", want)
	}
}

// within reads a value with name appended to the pointer.
func (p *parser) within(name string, read func()) {
	n := len(p.pointer)
	p.pointer = append(p.pointer, '/')
	name = brief(name)
	if strings.ContainsAny(name, "~/") {
		name = strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	}
	p.pointer = append(p.pointer, name...)
	if read(); p.err == nil { // else the pointer of the error is kept
		p.pointer = p.pointer[:n]
	}
}

// object reads an object: member reads the value of each name.
func (p *parser) object(member func(name string)) {
	if p.peek() != '{' {
		p.wrongType("an object")
		return
	}
	p.pos++
	if p.accept('}') {
		return
	}
	var few [8]string
	names := few[:0]
	for p.err == nil {
		if p.peek() != '"' {
			p.malformed("a name is expected")
			return
		}
		name := p.text(false)
		if p.err != nil || !p.expect(':') {
			return
		}
		if slices.Contains(names, name) {
			p.malformed("the name %q comes twice", brief(name))
			return
		}
		if len(names) == maxMembers {
			p.invalid("more than %d members", maxMembers)
			return
		}
		names = append(names, name)
		p.within(name, func() { member(name) })
		if p.err != nil || p.accept('}') {
			return
		}
		p.expect(',')
	}
}

// maxMembers bounds the members of an object, which are compared with each other.
const maxMembers = 256

// unknown refuses a member that the API does not have.
func (p *parser) unknown(name string) { p.malformed("there is no field %q here", brief(name)) }

// brief cuts text of the client's that is repeated in an answer, to at most 64 bytes.
func brief(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// array reads an array: element reads each value.
func (p *parser) array(element func(i int)) {
	if p.peek() != '[' {
		p.wrongType("an array")
		return
	}
	p.pos++
	if p.accept(']') {
		return
	}
	for i := 0; p.err == nil; i++ {
		p.within(strconv.Itoa(i), func() { element(i) })
		if p.err != nil || p.accept(']') {
			return
		}
		p.expect(',')
	}
}

// null reads a null if one comes next.
func (p *parser) null() bool {
	if p.peek() != 'n' {
		return false
	}
	if !strings.HasPrefix(string(p.data[p.pos:min(len(p.data), p.pos+5)]), "null") {
		p.malformed("this is not a JSON value")
		return false
	}
	p.pos += len("null")
	return true
}

// integer reads a whole number.
func (p *parser) integer() int64 {
	if c := p.peek(); c != '-' && (c < '0' || c > '9') {
		p.wrongType("a whole number")
		return 0
	}
	start := p.pos
	number := p.number()
	if p.err != nil {
		return 0
	}
	if strings.ContainsAny(number, ".eE") {
		p.invalid("a whole number is expected, without fraction and exponent")
		return 0
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		p.pos = start
		p.invalid("the number is not between %d and %d", int64(math.MinInt64), int64(math.MaxInt64))
		return 0
	}
	return n
}

// number reads a number of the JSON grammar.
func (p *parser) number() string {
	start := p.pos
	if p.pos < len(p.data) && p.data[p.pos] == '-' {
		p.pos++
	}
	if p.pos < len(p.data) && p.data[p.pos] == '0' {
		p.pos++
	} else {
		p.digits()
	}
	if p.pos < len(p.data) && p.data[p.pos] == '.' {
		p.pos++
		p.digits()
	}
	if p.pos < len(p.data) && (p.data[p.pos] == 'e' || p.data[p.pos] == 'E') {
		p.pos++
		if p.pos < len(p.data) && (p.data[p.pos] == '+' || p.data[p.pos] == '-') {
			p.pos++
		}
		p.digits()
	}
	if p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
		p.malformed("a number must not begin with 0")
	}
	return string(p.data[start:p.pos])
}

func (p *parser) digits() {
	start := p.pos
	for p.pos < len(p.data) && p.data[p.pos] >= '0' && p.data[p.pos] <= '9' {
		p.pos++
	}
	if p.pos == start {
		p.malformed("a digit is expected")
	}
}

// string reads a string on one line.
func (p *parser) string() string { return p.stringValue(false) }

// lines reads a string that may have tabs and line breaks.
func (p *parser) lines() string { return p.stringValue(true) }

func (p *parser) stringValue(lines bool) string {
	if p.peek() != '"' {
		p.wrongType("a string")
		return ""
	}
	return p.text(lines)
}

// text reads the string whose quote comes next.
func (p *parser) text(lines bool) string {
	p.pos++
	start := p.pos
	for p.pos < len(p.data) {
		switch c := p.data[p.pos]; {
		case c == '"':
			s := p.data[start:p.pos]
			p.pos++
			return p.checked(string(s), lines)
		case c == '\\':
			return p.checked(p.escaped(start), lines)
		case c < ' ':
			p.malformed("a control character in a string")
			return ""
		}
		p.pos++
	}
	p.malformed("the string has no end")
	return ""
}

// escaped reads a string from start whose first escape is next.
func (p *parser) escaped(start int) string {
	b := append(make([]byte, 0, 2*(p.pos-start)+16), p.data[start:p.pos]...)
	for p.pos < len(p.data) {
		c := p.data[p.pos]
		p.pos++
		switch {
		case c == '"':
			return string(b)
		case c < ' ':
			p.malformed("a control character in a string")
			return ""
		case c != '\\':
			b = append(b, c)
			continue
		}
		if p.pos == len(p.data) {
			break
		}
		c = p.data[p.pos]
		p.pos++
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := p.hex()
			if utf16.IsSurrogate(r) {
				if p.pos+1 < len(p.data) && p.data[p.pos] == '\\' && p.data[p.pos+1] == 'u' {
					p.pos += 2
					r = utf16.DecodeRune(r, p.hex())
				} else {
					r = utf8.RuneError
				}
				if r == utf8.RuneError {
					p.malformed("half of a surrogate pair")
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			p.malformed("there is no escape \\%c", c)
		}
		if p.err != nil {
			return ""
		}
	}
	p.malformed("the string has no end")
	return ""
}

func (p *parser) hex() rune {
	if p.pos+4 <= len(p.data) {
		if n, err := strconv.ParseUint(string(p.data[p.pos:p.pos+4]), 16, 16); err == nil {
			p.pos += 4
			return rune(n)
		}
	}
	p.malformed("four hexadecimal digits are expected")
	return utf8.RuneError
}

// checked refuses invalid UTF-8 and control characters.
func (p *parser) checked(s string, lines bool) string {
	if p.err != nil {
		return ""
	}
	if !utf8.ValidString(s) {
		p.malformed("the string before is not valid UTF-8")
		return ""
	}
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != 0x7f && c != 0xc2 {
			continue
		}
		if r, _ := utf8.DecodeRuneInString(s[i:]); r >= ' ' && (r < 0x7f || r > 0x9f) || lines && (r == '\n' || r == '\r' || r == '\t') {
			continue
		}
		p.malformed("a control character in a string")
		return ""
	}
	return s
}
