package cart

import (
	"fmt"
	"strings"
	"testing"
)

// What the Service accounts for is what the memory budget means: it has to be near the truth.
func TestEstimatesOfMemory(t *testing.T) {
	each := func(n int, request func(i, k int) Request) func(i int) []Request {
		return func(i int) (requests []Request) {
			for k := range n {
				requests = append(requests, request(i, k))
			}
			return requests
		}
	}
	one := func(c Command) Request { return Request{Steps: []Step{{Command: c}}} }
	long := func(n, i int) *string { return new(strings.Repeat("x", n-8) + fmt.Sprintf("%08d", i)) }
	for _, tc := range []struct {
		name     string
		carts    int
		requests func(i int) []Request
	}{
		{"empty", 2000, each(0, nil)},
		{"five lines", 2000, func(i int) []Request { return []Request{{Steps: fiveLines(i)}} }},
		{"many adds", 500, each(100, func(int, int) Request { return one(addN("A", 1)) })},
		{"many keyed adds", 200, each(100, func(_, k int) Request {
			return Request{Key: fmt.Sprint(k), Steps: []Step{{Command: addN("A", 1)}}}
		})},
		{"long details", 200, each(10, func(i, k int) Request {
			return one(Add{bySKU(fmt.Sprint(*long(100, i), k), Pair{"size", "M"}), 1, Details{ImageURL: new("https://x.test/" + *long(2000, i))}})
		})},
		{"metadata", 200, each(20, func(i, k int) Request {
			return one(Update{Note: new(long(1000, i)), Metadata: MetadataPatch{Edits: []MetadataEdit{{fmt.Sprint(*long(40, i), k), long(200, k)}}}})
		})},
		{"metadata of a line", 200, each(20, func(i, k int) Request {
			return one(Add{bySKU("A"), 1, Details{Metadata: MetadataPatch{Edits: []MetadataEdit{{fmt.Sprint("k", k), long(100, i)}}}}})
		})},
		{"codes", 200, each(40, func(i, k int) Request { return one(PutCode{fmt.Sprint(*long(40, i), k)}) })},
	} {
		t.Run(tc.name, func(t *testing.T) {
			written, packed, unpacked := measureCarts(t, tc.carts, tc.requests)
			for name, m := range map[string]measured{"written": written, "packed": packed, "unpacked": unpacked} {
				ratio := m.estimate / m.real
				t.Logf("%-8s %6.0f B, estimate %6.0f B, %.2f", name, m.real, m.estimate, ratio)
				if ratio < 0.75 || ratio > 1.25 {
					t.Errorf("%s: the estimate is %.2f of the truth", name, ratio)
				}
			}
		})
	}
}
