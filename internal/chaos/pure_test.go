package chaos

import (
	"testing"
	"time"

	"cartd/internal/workload"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

// attempt is one at a node, from one millisecond to another.
func attempt(node, from, to int, outcome workload.Outcome) workload.Attempt {
	return workload.Attempt{Node: node, Kind: "add", Began: at(from), Took: at(to).Sub(at(from)), Outcome: outcome}
}

func TestAvailability(t *testing.T) {
	const good, bad = workload.OK, workload.Refused
	forgives := func(z workload.Attempt) bool { return z.Problem == "forgiven" }
	forgiven := attempt(1, 100, 200, bad)
	forgiven.Problem = "forgiven"
	away := [][]period{{{at(100), at(200)}, {at(300), time.Time{}}}, nil}
	for _, test := range []struct {
		what      string
		attempt   workload.Attempt
		good, all int
	}{
		{"before", attempt(0, 50, 99, bad), 0, 1},
		{"ends while it is away", attempt(0, 50, 100, bad), 0, 0},
		{"begins while it is away", attempt(0, 200, 250, bad), 0, 0},
		{"all of it while it is away", attempt(0, 120, 130, good), 0, 0},
		{"away in the middle of it", attempt(0, 50, 250, bad), 0, 0},
		{"between", attempt(0, 201, 299, good), 1, 1},
		{"away for good", attempt(0, 1000, 1001, bad), 0, 0},
		{"another node", attempt(1, 100, 200, bad), 0, 1},
		{"forgiven", forgiven, 0, 0},
		{"no answer", attempt(1, 100, 200, workload.Unknown), 0, 1},
		{"an answer that may never be", attempt(1, 100, 200, workload.Wrong), 0, 1},
	} {
		if s := availability([]workload.Attempt{test.attempt}, away, forgives); s.good != test.good || s.all != test.all {
			t.Errorf("%s: %d of %d, not %d of %d", test.what, s.good, s.all, test.good, test.all)
		}
	}
}

func TestShare(t *testing.T) {
	for _, test := range []struct {
		good, all int
		text      string
		enough    bool
	}{
		{0, 0, "none asked", false},
		{1000, 1000, "100.000 %", true},
		{999, 1000, "99.900 %", true},
		{998, 999, "99.899 %", false},
		{99_999, 100_000, "99.999 %", true},
		{0, 7, "0.000 %", false},
	} {
		s := share{good: test.good, all: test.all}
		if s.String() != test.text || s.atLeast(most) != test.enough {
			t.Errorf("%d of %d: %v, %v", test.good, test.all, s, s.atLeast(most))
		}
	}
	if (share{good: 99_999, all: 100_000}).atLeast(100_000) {
		t.Error("99.999 % are all")
	}
}

func TestLongestGap(t *testing.T) {
	const good, bad = workload.OK, workload.Refused
	read := attempt(0, 0, 500, good)
	read.Kind = "read"
	for _, test := range []struct {
		what     string
		attempts []workload.Attempt
		ms       int
	}{
		{"nothing acknowledged", []workload.Attempt{attempt(0, 0, 400, bad), read}, 1000},
		{"at the begin", []workload.Attempt{attempt(0, 0, 700, good), attempt(0, 0, 900, good)}, 700},
		{"at the end", []workload.Attempt{attempt(0, 0, 100, good), attempt(0, 0, 300, good)}, 700},
		{"between, out of order", []workload.Attempt{attempt(0, 0, 800, good), attempt(0, 790, 795, good), attempt(0, 0, 200, good)}, 595},
		{"outside", []workload.Attempt{attempt(0, -10, -5, good), attempt(0, 900, 2000, good), attempt(0, 0, 400, good)}, 600},
	} {
		if gap := longestGap(test.attempts, at(0), at(1000)); gap != at(test.ms).Sub(start) {
			t.Errorf("%s: %v, not %d ms", test.what, gap, test.ms)
		}
	}
}

func TestTakeOver(t *testing.T) {
	const good, bad = workload.OK, workload.Unknown
	of := func(cart int, z workload.Attempt) workload.Attempt {
		z.Cart = cart
		return z
	}
	for _, test := range []struct {
		what     string
		attempts []workload.Attempt
		ms       int
	}{
		{"nobody wrote", []workload.Attempt{attempt(0, -100, -1, good)}, 0},
		{"on its way in the kill", []workload.Attempt{attempt(0, -50, 10, bad), attempt(1, 30, 70, good)}, 70},
		{"answered elsewhere", []workload.Attempt{attempt(0, -50, 10, bad), attempt(1, -5, 20, good), attempt(1, 400, 700, good)}, 20},
		{"later", []workload.Attempt{attempt(1, 300, 340, good), attempt(1, 500, 900, good)}, 40},
		{"never", []workload.Attempt{attempt(1, 300, 340, bad)}, 700},
		{
			"the slowest of all carts",
			[]workload.Attempt{of(1, attempt(1, 0, 40, good)), of(2, attempt(1, 100, 110, bad)), of(2, attempt(1, 150, 190, good)), of(3, attempt(1, 0, 5, good))},
			90,
		},
	} {
		if z := takeOver(test.attempts, at(0), at(1000)); z != at(test.ms).Sub(start) {
			t.Errorf("%s: %v, not %d ms", test.what, z, test.ms)
		}
	}
}

func TestTable(t *testing.T) {
	z := row{
		nemesis:      "kill",
		totals:       workload.Totals{Operations: 5, Acknowledged: 4, Refused: 3},
		verdict:      workload.Verdict{Lost: 6, AtRiskLost: 7, Resurfaced: 8, Doubled: 9, Sessions: 10},
		availability: share{good: 1999, all: 2000},
		gap:          1234 * time.Millisecond,
		convergence:  time.Second,
		statesSent:   11,
	}
	const want = `| nemesis | operations | acknowledged | refused | lost | at risk, lost | resurfaced | doubled | sessions | availability | longest gap | take-over | convergence | states sent |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| kill | 5 | 4 | 3 | 6 | 7 | 8 | 9 | 10 | 99.950 % | 1.23 s | – | 1.00 s | 11 |
`
	if got := table([]row{z}); got != want {
		t.Errorf("\n%s", got)
	}
}
