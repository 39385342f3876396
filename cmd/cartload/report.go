package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// shownAtMost is how many mismatches, and how many failures, a report tells in words.
const shownAtMost = 20

// report is the outcome of a run. Latencies are in milliseconds, from the first attempt of a request
// to its acknowledged answer, so waits and retries are in them.
type report struct {
	Started     time.Time `json:"started"`
	Seconds     float64   `json:"seconds"` // of sending, without reading back
	Targets     []string  `json:"targets"`
	Regions     []entry   `json:"regions,omitempty"` // where more than one is named
	Files       []string  `json:"files"`
	Concurrency int       `json:"concurrency"`
	Stopped     string    `json:"stopped,omitempty"` // why the run ended early, or empty

	Carts          int64              `json:"carts"` // replayed to the last row
	CartsInFiles   int                `json:"carts_in_files"`
	CartsGivenUp   int64              `json:"carts_given_up"`
	Lines          int                `json:"lines"`      // that these carts must show
	Operations     int64              `json:"operations"` // acknowledged adds and decrements
	RowsInFiles    int                `json:"rows_in_files"`
	Rate           float64            `json:"operations_per_second"`
	Latency        map[string]latency `json:"latency"`
	Retries        map[string]int64   `json:"retries"`  // by reason
	Refusals       map[string]int64   `json:"refusals"` // by problem
	Unacknowledged int64              `json:"unacknowledged"`
	Replayed       int64              `json:"replayed"` // answered as executed by an earlier attempt
	Abandoned      int64              `json:"abandoned_carts_at_most"`
	Dropped        int64              `json:"contexts_dropped"` // requests that went on without Cart-Context

	Failures        int        `json:"failures"` // commands refused or not acknowledged
	FirstFailures   []string   `json:"first_failures"`
	CartsReadBack   int64      `json:"carts_read_back"`
	Late            int        `json:"late_reads"`   // in other regions, repeated until they were right
	LateSeconds     float64    `json:"late_seconds"` // from the last answer to the last of these
	Mismatches      int        `json:"mismatches"`
	FirstMismatches []mismatch `json:"first_mismatches"`
}

// entry is what entered at a region.
type entry struct {
	Region    string   `json:"region"`
	Countries []string `json:"countries"`
	Carts     int      `json:"carts"` // replayed to the last row
}

type latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// report sums a run up that ended with err. Nothing of it may be running any more.
func (r *replay) report(err error) *report {
	s := r.client.stats
	rep := &report{
		Started:        r.startedAt.UTC(),
		Seconds:        r.sending.Seconds(),
		Targets:        r.client.targets,
		Files:          r.files,
		Concurrency:    r.concurrency,
		Carts:          r.carts.Load(),
		CartsInFiles:   r.size.carts,
		CartsGivenUp:   r.givenUp.Load(),
		Operations:     s.operations.Load(),
		RowsInFiles:    r.size.operations,
		Latency:        map[string]latency{},
		Retries:        s.retries,
		Refusals:       s.refusals,
		Unacknowledged: s.unacknowledged.Load(),
		Replayed:       s.replayed.Load(),
		Abandoned:      s.abandonedCarts.Load(),
		Dropped:        s.droppedContexts.Load(),
		Failures:       len(r.failures),
		FirstFailures:  first(r.failures),
		CartsReadBack:  r.readBack.Load(),
		Late:           r.late,
		LateSeconds:    r.lag.Seconds(),
		Mismatches:     len(r.mismatches),
	}
	if len(r.regions) > 1 {
		rep.Regions = r.entries()
	}
	if err != nil {
		rep.Stopped = err.Error()
	}
	if r.sending > 0 {
		rep.Rate = float64(rep.Operations) / rep.Seconds
	}
	for _, c := range r.done {
		lines, _, _ := c.want.totals()
		rep.Lines += lines
	}
	for k, h := range s.latency {
		ms := func(us int64) float64 { return float64(us) / 1000 }
		rep.Latency[kind(k).String()] = latency{
			Count: h.TotalCount(),
			P50:   ms(h.ValueAtPercentile(50)),
			P99:   ms(h.ValueAtPercentile(99)),
			P999:  ms(h.ValueAtPercentile(99.9)),
			Max:   ms(h.Max()),
		}
	}
	slices.SortStableFunc(r.mismatches, func(a, b mismatch) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Invoice, b.Invoice), cmp.Compare(a.Target, b.Target))
	})
	rep.FirstMismatches = first(r.mismatches)
	return rep
}

// entries returns what entered at each region.
func (r *replay) entries() []entry {
	entries := make([]entry, len(r.regions))
	for i := range r.regions {
		e := &entries[i]
		e.Region = r.regions[i].name
		for _, country := range r.size.countries {
			if r.enters(country) == &r.regions[i] {
				e.Countries = append(e.Countries, country)
			}
		}
		for _, c := range r.done {
			if c.region == &r.regions[i] {
				e.Carts++
			}
		}
	}
	return entries
}

// first returns the part of s that a report shows: never nil, for JSON.
func first[T any](s []T) []T {
	return append([]T{}, s[:min(len(s), shownAtMost)]...)
}

// wrong says in one line what makes the run fail that went to its end, or nothing.
func (rep *report) wrong() string {
	var parts []string
	part := func(n int64, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, thousands(n)+" "+many)
		}
	}
	part(int64(rep.Mismatches), "mismatch", "mismatches")
	part(sum(rep.Refusals), "request refused", "requests refused")
	part(rep.Unacknowledged, "request not acknowledged", "requests not acknowledged")
	return strings.Join(parts, ", ")
}

// print writes the report as a table.
func (rep *report) print(w io.Writer) error {
	if rep.Stopped != "" {
		fmt.Fprintf(w, "stopped early: %s\n", rep.Stopped)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value, note string) {
		if note != "" {
			value += "\t" + note
		}
		fmt.Fprintf(t, "%s\t%s\n", name, value)
	}
	of := func(n int64, all int) string { return thousands(n) + " of " + thousands(int64(all)) }

	line("carts", of(rep.Carts, rep.CartsInFiles), givenUp(rep.CartsGivenUp))
	line("lines", thousands(int64(rep.Lines)), "")
	line("operations", of(rep.Operations, rep.RowsInFiles), "")
	line("rate", thousands(int64(rep.Rate))+" ops/s", fmt.Sprintf("in %.1f s, %d carts at a time", rep.Seconds, rep.Concurrency))
	line("retries", thousands(sum(rep.Retries)), breakdown(rep.Retries))
	line("replayed answers", thousands(rep.Replayed), "")
	line("abandoned carts", thousands(rep.Abandoned), "at most")
	line("contexts dropped", thousands(rep.Dropped), "")
	line("refusals", thousands(sum(rep.Refusals)), breakdown(rep.Refusals))
	line("unacknowledged", thousands(rep.Unacknowledged), "")
	for _, e := range rep.Regions {
		line("entered at "+e.Region, thousands(int64(e.Carts))+" carts", "of "+strings.Join(e.Countries, ", "))
	}
	if rep.Late > 0 {
		line("late in other regions", thousands(int64(rep.Late)), fmt.Sprintf("of the reads, until %.2f s after the last answer", rep.LateSeconds))
	}
	line("mismatches", thousands(int64(rep.Mismatches)), "in "+thousands(rep.CartsReadBack)+" carts read back")
	if err := t.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w, "\nlatency in ms, from the first attempt to the acknowledged answer")
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tcount\tp50\tp99\tp99.9\tmax\t")
	for _, name := range kindNames {
		l := rep.Latency[name]
		fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t\n", name, thousands(l.Count), l.P50, l.P99, l.P999, l.Max)
	}
	if err := t.Flush(); err != nil {
		return err
	}

	if err := some(w, "refused or not acknowledged", rep.FirstFailures, rep.Failures); err != nil {
		return err
	}
	return some(w, "mismatches", rep.FirstMismatches, rep.Mismatches)
}

// some prints the first of all things of a kind, one a line.
func some[T any](w io.Writer, title string, shown []T, all int) error {
	if len(shown) == 0 {
		return nil
	}
	if len(shown) < all {
		title += fmt.Sprintf(", the first %d of %s", len(shown), thousands(int64(all)))
	}
	_, err := fmt.Fprintf(w, "\n%s:\n", title)
	for _, s := range shown {
		_, err = fmt.Fprintf(w, "  %v\n", s)
	}
	return err
}

func givenUp(n int64) string {
	if n == 0 {
		return ""
	}
	return thousands(n) + " given up"
}

// breakdown lists counts, the greatest first.
func breakdown(counts map[string]int64) string {
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = name + " " + thousands(counts[name])
	}
	return strings.Join(names, ", ")
}

func sum(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// thousands groups the digits of n, which is not negative.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeJSON writes the report to a file.
func (rep *report) writeJSON(path string) error {
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o666)
}
