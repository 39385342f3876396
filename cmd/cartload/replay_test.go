package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cartd/api"
)

// manyInvoices is a file of n invoices with three rows each.
func manyInvoices(n int) string {
	var b strings.Builder
	b.WriteString(header)
	for i := range n {
		fmt.Fprintf(&b, "%d,A,TEE,6,,2.55,,\n%d,B,MUG,2,,3.5,,\n%d,A,TEE,-1,,2.55,,\n", i+1, i+1, i+1)
	}
	return b.String()
}

// replayFile runs cartload replay on a file and returns the report besides what it printed.
func replayFile(ctx context.Context, t *testing.T, content string, args ...string) (code int, rep report, printed string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	args = append([]string{"replay", "--json", path, "--retry-for", "5s"}, args...)
	var stdout, stderr bytes.Buffer
	code = run(ctx, append(args, writeFile(t, content)), &stdout, &stderr)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	return code, rep, stdout.String() + stderr.String()
}

func TestReplay(t *testing.T) {
	_, url := startFake(t)
	code, rep, printed := replayFile(t.Context(), t, oneInvoice+"2,A,TEE,1,,1,,\n"+"C3,A,TEE,-1,,1,,\n", "--target", url)
	if code != exitOK || rep.Mismatches != 0 || rep.Stopped != "" {
		t.Fatalf("exit code %d: %s", code, printed)
	}
	if rep.Carts != 3 || rep.CartsInFiles != 3 || rep.Lines != 3 || rep.Operations != 7 || rep.RowsInFiles != 7 || rep.CartsReadBack != 3 {
		t.Errorf("%+v", rep)
	}
	for kind, want := range map[string]int64{"create": 3, "add": 5, "decrement": 2, "read": 3} {
		l := rep.Latency[kind]
		if l.Count != want || l.P50 <= 0 || l.P50 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
			t.Errorf("latency of %s: %+v", kind, l)
		}
	}
	for _, want := range []string{"carts", "3 of 3", "operations", "7 of 7", "ops/s", "p99.9", "mismatches"} {
		if !strings.Contains(printed, want) {
			t.Errorf("no %q in\n%s", want, printed)
		}
	}
}

// Every kind of wrong that a cart can suffer is found, wherever it happens: exit code 3.
func TestVerifierCatches(t *testing.T) {
	third := func(wrong func(command func())) func(*fakeCartd) {
		return func(f *fakeCartd) {
			n := 0
			f.execute = func(_ *fakeCartd, c *fakeCart, key string, command func()) {
				if c.keys[key] {
					return
				}
				if n++; n == 3 {
					wrong(command)
				} else {
					command()
				}
			}
		}
	}
	// break breaks the connection after the third command was executed.
	breakAfterThird := func(f *fakeCartd) {
		var n atomic.Int64
		f.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPost && r.URL.Path != "/v1/carts" && n.Add(1) == 3 {
				f.routes.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}
	for _, tt := range []struct {
		name  string
		fault func(*fakeCartd)
		want  string // empty: nothing is wrong
	}{
		{"nothing wrong", func(*fakeCartd) {}, ""},
		{"nothing wrong, an answer is lost", breakAfterThird, ""},
		{"a write is lost", third(func(func()) {}), "line A: quantity 6, expected 7 (-1)"},
		{"a write is doubled", third(func(command func()) { command(); command() }), "line A: quantity 8, expected 7 (+1)"},
		{
			"a retry is executed again",
			func(f *fakeCartd) {
				breakAfterThird(f)
				f.execute = func(_ *fakeCartd, _ *fakeCart, _ string, command func()) { command() }
			},
			"line A: quantity 8, expected 7 (+1)",
		},
		{
			"a removed line is resurrected",
			func(f *fakeCartd) {
				f.show = func(c *api.Cart) {
					if len(c.LineItems) == 2 {
						c.LineItems = append(c.LineItems, api.LineItem{SKU: "C", Quantity: 5})
					}
				}
			},
			"line C: 5 in the cart, expected none",
		},
		{
			"a total is wrong",
			func(f *fakeCartd) { f.show = func(c *api.Cart) { c.Subtotal.Amount++ } },
			"subtotal GBP 24.51, expected GBP 24.50",
		},
		{
			"a cart is gone",
			func(f *fakeCartd) {
				f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodGet {
						problem(w, http.StatusNotFound, "cart-not-found")
					}
					return r.Method == http.MethodGet
				}
			},
			"read refused: cart-not-found",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake, url := startFake(t)
			tt.fault(fake)
			code, rep, printed := replayFile(t.Context(), t, oneInvoice, "--target", url)
			if tt.want == "" {
				if code != exitOK || rep.Mismatches != 0 {
					t.Errorf("exit code %d: %s", code, printed)
				}
				return
			}
			if code != exitWrong || rep.Mismatches == 0 || rep.Stopped != "" {
				t.Fatalf("exit code %d: %s", code, printed)
			}
			if got := rep.FirstMismatches[0]; !strings.Contains(got.What, tt.want) || got.Invoice != "1" || got.File != "day.csv" {
				t.Errorf("got %v, want %s", got, tt.want)
			}
			if !strings.Contains(printed, tt.want) {
				t.Errorf("not told: %s", printed)
			}
		})
	}
}

func TestLostAnswersAreReplayed(t *testing.T) {
	fake, url := startFake(t)
	var n atomic.Int64
	fake.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
		if n.Add(1)%3 == 0 {
			fake.routes.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		return false
	}
	code, rep, printed := replayFile(t.Context(), t, manyInvoices(10), "--target", url)
	if code != exitOK || rep.Mismatches != 0 || sum(rep.Retries) == 0 || rep.Replayed == 0 {
		t.Errorf("exit code %d: %s", code, printed)
	}
	if created := int64(len(fake.carts)); rep.Abandoned != created-rep.Carts {
		t.Errorf("%d abandoned carts, there are %d", rep.Abandoned, created-rep.Carts)
	}
}

func TestRefusedRow(t *testing.T) {
	fake, url := startFake(t)
	var n atomic.Int64
	fake.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/line-items") && n.Add(1) == 2 {
			problem(w, http.StatusUnprocessableEntity, "line-limit")
			return true
		}
		return false
	}
	code, rep, printed := replayFile(t.Context(), t, oneInvoice, "--target", url)
	if code != exitWrong || rep.Refusals["line-limit"] != 1 || rep.Operations != 4 || rep.Failures != 1 {
		t.Errorf("exit code %d: %s", code, printed)
	}
	// The other rows were sent all the same.
	if want := "line B: not in the cart, expected 2"; rep.FirstMismatches[0].What != want {
		t.Errorf("got %v, want %s", rep.FirstMismatches, want)
	}
	if want := "day.csv:3 invoice 1: add refused: line-limit: the fake says so"; rep.FirstFailures[0] != want {
		t.Errorf("got %q, want %q", rep.FirstFailures, want)
	}
}

func TestUnacknowledgedRowGivesItsCartUp(t *testing.T) {
	fake, url := startFake(t)
	fake.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/cart-1/") {
			w.Header().Set("Retry-After", "60")
			problem(w, http.StatusServiceUnavailable, "not-durable")
			return true
		}
		return false
	}
	code, rep, printed := replayFile(t.Context(), t, manyInvoices(3), "--target", url)
	if code != exitWrong || rep.Unacknowledged != 1 || rep.CartsGivenUp != 1 || rep.Carts != 2 || rep.Mismatches != 0 {
		t.Errorf("exit code %d: %s", code, printed)
	}
}

func TestNobodyThereStopsTheRun(t *testing.T) {
	_, url := startFake(t)
	dead := httptest.NewServer(nil)
	dead.Close()
	code, rep, printed := replayFile(t.Context(), t, manyInvoices(3), "--target", dead.URL, "--retry-for", "0s")
	if code != exitFailed || rep.Stopped == "" || !strings.Contains(printed, errNoAnswer.Error()) {
		t.Errorf("exit code %d: %s", code, printed)
	}
	// One of two is no reason to stop.
	code, rep, printed = replayFile(t.Context(), t, oneInvoice, "--target", dead.URL, "--target", url, "--concurrency", "1", "--retry-for", "300ms")
	if rep.Operations != 5 {
		t.Errorf("exit code %d: %s", code, printed)
	}
}

func TestEveryTargetIsReadBack(t *testing.T) {
	fake := newFake()
	good := httptest.NewServer(fake)
	defer good.Close()
	var stale sync.Map // what the second target shows: carts without their last line
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			fake.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		fake.ServeHTTP(rec, r)
		var c api.Cart
		_ = json.Unmarshal(rec.Body.Bytes(), &c)
		c.LineItems = c.LineItems[:1]
		stale.Store(c.ID, true)
		_ = json.NewEncoder(w).Encode(c)
	}))
	defer behind.Close()
	code, rep, printed := replayFile(t.Context(), t, manyInvoices(2), "--target", good.URL, "--target", behind.URL)
	if code != exitWrong || rep.CartsReadBack != 4 || rep.Mismatches != 2 {
		t.Errorf("exit code %d: %s", code, printed)
	}
	for _, m := range rep.FirstMismatches {
		if m.Target != behind.URL {
			t.Errorf("%v, want it of %s", m, behind.URL)
		}
	}
}

func TestOnlyTheFirstMismatchesAreTold(t *testing.T) {
	fake, url := startFake(t)
	fake.show = func(c *api.Cart) { c.TotalQuantity++ }
	code, rep, printed := replayFile(t.Context(), t, manyInvoices(30), "--target", url)
	if code != exitWrong || rep.Mismatches != 30 || len(rep.FirstMismatches) != shownAtMost {
		t.Errorf("exit code %d: %s", code, printed)
	}
	if !strings.Contains(printed, "the first 20 of 30") {
		t.Errorf("%s", printed)
	}
}

func TestInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(*http.Request, int64) bool
	}{
		{"while sending", func(_ *http.Request, n int64) bool { return n == 10 }},
		{"while reading back", func(r *http.Request, _ int64) bool { return r.Method == http.MethodGet }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			fake, url := startFake(t)
			var n atomic.Int64
			fake.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
				if tt.at(r, n.Add(1)) {
					cancel(errors.New("interrupt signal received"))
					_, _ = io.Copy(io.Discard, r.Body)
					<-r.Context().Done() // the client has hung up
					panic(http.ErrAbortHandler)
				}
				return false
			}
			code, rep, printed := replayFile(ctx, t, manyInvoices(20), "--target", url, "--concurrency", "2")
			if code != exitFailed || rep.Stopped != "interrupt signal received" {
				t.Errorf("exit code %d: %s", code, printed)
			}
			if !strings.Contains(printed, "stopped early: interrupt signal received") || rep.Operations == 0 || rep.CartsReadBack >= 20 {
				t.Errorf("%s", printed)
			}
		})
	}
}

func TestReportThatCannotBeWritten(t *testing.T) {
	_, url := startFake(t)
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"replay", "--target", url, "--json", t.TempDir(), writeFile(t, oneInvoice)}, io.Discard, &stderr)
	if code != exitFailed {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
}
