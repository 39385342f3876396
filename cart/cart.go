package cart

import (
	"crypto/subtle"
	"encoding/binary"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"cartd/crdt"
)

// State is a cart at one moment: immutable.
type State = crdt.State

// OperationID names a command across its retries.
type OperationID = crdt.OperationID

// The names of registers. They are on the wire and on disk, once for each line: hence so short.
const (
	registerCurrency = "c" // of the cart
	registerToken    = "t" // of the cart: the SHA-256 of its token
	registerNote     = "n" // of the cart
	registerEmail    = "e" // of the cart

	registerPrice = "p" // of a line: decimal minor units of the cart's currency
	registerTitle = "t" // of a line
	registerImage = "i" // of a line

	prefixMetadata = "m." // of both, followed by the key
)

// Money is an amount in minor units of a currency.
type Money struct {
	Amount   int64
	Currency string // ISO 4217
}

// Pair is a named string: an option of a line, or an entry of metadata.
type Pair struct {
	Name, Value string
}

// lineKey returns the key of the line of a product with options: the SKU, and for each option, in
// the order of their names, a NUL, the name, a NUL and the value. No part contains a NUL.
func lineKey(sku string, options []Pair) string {
	if len(options) == 0 {
		return sku
	}
	var b strings.Builder
	b.WriteString(sku)
	for _, o := range sorted(options) {
		b.WriteByte(0)
		b.WriteString(o.Name)
		b.WriteByte(0)
		b.WriteString(o.Value)
	}
	return b.String()
}

// sorted returns pairs sorted by name. It leaves those that it is given as they are: they are the
// caller's, who may have handed them to others too.
func sorted(pairs []Pair) []Pair {
	byName := func(a, b Pair) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(pairs, byName) {
		pairs = slices.Clone(pairs)
		slices.SortFunc(pairs, byName)
	}
	return pairs
}

// splitKey returns the SKU and the encoded options of a line's key.
func splitKey(key string) (sku, options string) {
	sku, options, _ = strings.Cut(key, "\x00")
	return sku, options
}

// pairsOf iterates over encoded options.
func pairsOf(options string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for options != "" {
			var name, value string
			name, options, _ = strings.Cut(options, "\x00")
			value, options, _ = strings.Cut(options, "\x00")
			if !yield(name, value) {
				return
			}
		}
	}
}

func currencyOf(s *State) string {
	currency, _ := s.Registers.Get(registerCurrency)
	return currency
}

// priceOf returns the unit price of a line, if it has one.
func priceOf(l *crdt.Line) (amount int64, ok bool) {
	text, ok := l.Registers.Get(registerPrice)
	if !ok {
		return 0, false
	}
	amount, err := strconv.ParseInt(text, 10, 64)
	return amount, err == nil
}

// opens reports whether t is the token of the cart, in a time that does not depend on how much of
// it is right.
func (t Token) opens(s *State) bool {
	stored, ok := s.Registers.Get(registerToken)
	hash := t.hash()
	return ok && subtle.ConstantTimeCompare([]byte(stored), hash[:]) == 1
}

// How long a cart lives.
const (
	TimeToLive  = 30 * 24 * time.Hour // since the last write; then it is expired
	TimeToPurge = 7 * 24 * time.Hour  // since it expired; then it is deleted
	RetryWindow = 48 * time.Hour      // in which the retry of a command is known as one
)

func expired(s *State, now time.Time) bool {
	return s.Lifetime.Expires != 0 && s.Lifetime.Expires < crdt.TimestampAt(now)
}

// purged reports whether s expired so long ago that every replica has deleted it or will.
func purged(s *State, now time.Time) bool { return expired(s, now.Add(-TimeToPurge)) }

// Version is a hash of the events that a state contains. Equal carts have equal versions on every
// node.
func Version(s *State) uint64 {
	var b [16]byte
	var h xxhash.Digest
	h.Reset()
	for _, d := range s.VV {
		binary.LittleEndian.PutUint64(b[:8], uint64(d.Replica))
		binary.LittleEndian.PutUint64(b[8:], d.Seq)
		h.Write(b[:])
	}
	return h.Sum64()
}

// countEntries returns how many entries are live on all lines.
func countEntries(s *State) int {
	n := 0
	for _, l := range s.Lines {
		n += len(l.Counter)
	}
	return n
}

// countLines returns how many lines are present.
func countLines(s *State) int {
	n := 0
	for _, l := range s.Lines {
		if s.Quantity(l) > 0 {
			n++
		}
	}
	return n
}

// codesOf appends the discount codes of a cart to codes, sorted.
func codesOf(codes []string, s *State) []string {
	for i := range s.Members {
		if s.Counts(s.Members[i].Dot) {
			codes = append(codes, s.Members[i].Value)
		}
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}
