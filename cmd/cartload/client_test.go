package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cartd/api"
)

// step answers one request, or returns the error of a network.
type step func(w http.ResponseWriter, r *http.Request) error

// script is a transport without a network, so that synctest can keep the time. It answers the first
// request by the first step, and so on; the last step stays.
type script struct {
	steps []step
	seen  []*http.Request
}

func scripted(steps ...step) *script { return &script{steps: steps} }

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	i := min(len(s.seen), len(s.steps)-1)
	s.seen = append(s.seen, r)
	w := httptest.NewRecorder()
	if err := s.steps[i](w, r); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func respond(status int, body string, headers ...string) step {
	return func(w http.ResponseWriter, _ *http.Request) error {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, err := io.WriteString(w, body)
		return err
	}
}

func respondProblem(status int, name string, headers ...string) step {
	return respond(status, `{"type":"/problems/`+name+`","detail":"because"}`,
		append(headers, "Content-Type", "application/problem+json")...)
}

func fail(err error) step {
	return func(http.ResponseWriter, *http.Request) error { return err }
}

// hang answers when the attempt's time is up, as a network does.
func hang(_ http.ResponseWriter, r *http.Request) error {
	<-r.Context().Done()
	return r.Context().Err()
}

var (
	errReset = &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	errDial  = &net.OpError{Op: "dial", Err: errors.New("connection refused")}
)

func testClient(transport http.RoundTripper, targets ...string) *client {
	if len(targets) == 0 {
		targets = []string{"http://a"}
	}
	return newClient(transport, targets, 10*time.Second, time.Minute, true)
}

func (c *client) cart() *cartHandle {
	return &cartHandle{client: c, targets: c.targets, id: "cart", token: "secret", context: "seen"}
}

func addOne(ctx context.Context, h *cartHandle) error {
	return h.add(ctx, "key", api.LineItemAdd{SKU: "A"})
}

func TestRetriesUntilAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := scripted(
			fail(errReset),
			hang,
			respondProblem(503, "not-durable"),
			respond(502, "<html>"),
			respondProblem(429, "rate-limited"),
			respondProblem(409, "idempotency-in-progress"),
			respond(200, "{}", "Cart-Context", "newer", "Idempotent-Replayed", "true"),
		)
		c := testClient(transport)
		h := c.cart()
		started := time.Now()
		if err := addOne(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		took := time.Since(started)

		if len(transport.seen) != 7 {
			t.Errorf("%d attempts, want 7", len(transport.seen))
		}
		for i, r := range transport.seen {
			body, _ := io.ReadAll(r.Body)
			if string(body) != `{"sku":"A"}` || r.Header.Get("Idempotency-Key") != "key" ||
				r.Header.Get("Cart-Token") != "secret" || r.Header.Get("Cart-Context") != "seen" ||
				r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("attempt %d: %s %v", i, body, r.Header)
			}
		}
		if h.context != "newer" {
			t.Errorf("context %q", h.context)
		}
		wantRetries := map[string]int64{
			"connection": 1, "timeout": 1, "503 not-durable": 1, "502": 1, "429 rate-limited": 1, "409 idempotency-in-progress": 1,
		}
		if got := c.stats.retries; !mapsEqual(got, wantRetries) {
			t.Errorf("retries %v, want %v", got, wantRetries)
		}
		if n, r := c.stats.operations.Load(), c.stats.replayed.Load(); n != 1 || r != 1 {
			t.Errorf("%d operations, %d replayed", n, r)
		}
		// The latency is that of the operation, with the attempt that hung and all waits.
		if got := time.Duration(c.stats.latency[kindAdd].Max()) * time.Microsecond; took < 10*time.Second || got < took*99/100 || got > took*101/100 {
			t.Errorf("latency %s of an operation that took %s", got, took)
		}
	})
}

func mapsEqual(a, b map[string]int64) bool {
	return breakdown(a) == breakdown(b)
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		date := time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat)
		for _, tt := range []struct {
			value       string
			least, most time.Duration
		}{
			{"7", 7 * time.Second, 7 * time.Second},
			{"0", time.Microsecond, time.Second},
			{"soon", time.Microsecond, time.Second},
			{"-1", time.Microsecond, time.Second},
			{date, 12 * time.Second, 20 * time.Second},
		} {
			transport := scripted(respondProblem(503, "not-durable", "Retry-After", tt.value), respond(200, "{}"))
			started := time.Now()
			if err := addOne(t.Context(), testClient(transport).cart()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(started); took < tt.least || took > tt.most {
				t.Errorf("Retry-After: %s: came again after %s", tt.value, took)
			}
		}
	})
}

func TestGivesUpAfterRetryFor(t *testing.T) {
	for _, tt := range []struct {
		name     string
		step     step
		noAnswer bool
	}{
		{"errors", respondProblem(503, "not-durable"), false},
		{"a server that asks for more time than there is", respondProblem(503, "not-durable", "Retry-After", "3600"), false},
		{"silence", hang, true},
		{"nobody there", fail(errDial), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := scripted(tt.step)
				c := testClient(transport)
				started := time.Now()
				err := addOne(t.Context(), c.cart())
				took := time.Since(started)
				var lost *unacknowledged
				if !errors.As(err, &lost) || lost.attempts != len(transport.seen) || errors.Is(err, errNoAnswer) != tt.noAnswer {
					t.Errorf("got %v after %d attempts", err, len(transport.seen))
				}
				if took > c.retryFor+c.timeout {
					t.Errorf("after %s", took)
				}
				if n := c.stats.unacknowledged.Load(); n != 1 {
					t.Errorf("%d unacknowledged", n)
				}
			})
		})
	}
}

func TestOneCartInTroubleIsNotNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *client
		transport := scripted(func(w http.ResponseWriter, r *http.Request) error {
			c.answers.Add(1) // to somebody else
			return hang(w, r)
		})
		c = testClient(transport)
		if err := addOne(t.Context(), c.cart()); !ofOneRequest(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRefusedAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name    string
		step    step
		problem string
	}{
		{"problem", respondProblem(422, "line-limit"), "line-limit"},
		{"no problem document", respond(404, "gone fishing"), "status 404"},
		{"broken problem document", respond(400, "{", "Content-Type", "application/problem+json"), "status 400"},
		{"redirect", respond(307, "", "Location", "http://b"), "status 307"},
		{"endless answer", respond(200, strings.Repeat(" ", maxAnswer+1)), "malformed answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			transport := scripted(tt.step)
			c := testClient(transport)
			err := addOne(t.Context(), c.cart())
			var refused *refusal
			if !errors.As(err, &refused) || refused.problem != tt.problem {
				t.Errorf("got %v, want %s", err, tt.problem)
			}
			if len(transport.seen) != 1 || c.stats.refusals[tt.problem] != 1 || c.stats.operations.Load() != 0 {
				t.Errorf("%d attempts, refusals %v", len(transport.seen), c.stats.refusals)
			}
		})
	}
}

func TestMalformedCartIsRefused(t *testing.T) {
	transport := scripted(respond(200, "{"))
	var refused *refusal
	if _, err := testClient(transport).cart().read(t.Context(), "http://a"); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
	transport = scripted(respond(201, "{}"))
	if _, err := testClient(transport).create(t.Context(), []string{"http://a"}); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

func TestContextIsDroppedWhereItCannotBeMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unavailable := respondProblem(503, "context-unavailable", "Retry-After", "1")
		transport := scripted(unavailable, unavailable, unavailable, respond(200, "{}", "Cart-Context", "newer"))
		c := testClient(transport)
		h := c.cart()
		if err := addOne(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		var sent []string
		for _, r := range transport.seen {
			sent = append(sent, r.Header.Get("Cart-Context"))
		}
		if want := []string{"seen", "seen", "seen", ""}; !slices.Equal(sent, want) {
			t.Errorf("sent contexts %q, want %q", sent, want)
		}
		if h.context != "newer" || c.stats.droppedContexts.Load() != 1 {
			t.Errorf("context %q, %d dropped", h.context, c.stats.droppedContexts.Load())
		}
	})
}

func TestWithoutContext(t *testing.T) {
	transport := scripted(
		respond(201, `{"id":"cart","token":"secret"}`, "Cart-Context", "seen"),
		respond(200, "{}", "Cart-Context", "newer"))
	c := testClient(transport)
	c.context = false
	h, err := c.create(t.Context(), c.targets)
	if err != nil {
		t.Fatal(err)
	}
	if err := addOne(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if _, sent := transport.seen[1].Header["Cart-Context"]; sent {
		t.Error("sent a context")
	}
}

func TestAbandonedCarts(t *testing.T) {
	created := respond(201, `{"id":"cart","token":"secret"}`)
	for _, tt := range []struct {
		name string
		step step
		want int64
	}{
		{"answer lost", fail(errReset), 1},
		{"no answer in time", hang, 1},
		{"not durable", respondProblem(503, "not-durable"), 1},
		{"too many requests", respondProblem(429, "rate-limited"), 0},
		{"not connected", fail(errDial), 0},
		{"at once", created, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := scripted(tt.step, created)
				c := testClient(transport)
				h, err := c.create(t.Context(), c.targets)
				if err != nil || h.id != "cart" || h.token != "secret" {
					t.Fatalf("%+v, %v", h, err)
				}
				if got := c.stats.abandonedCarts.Load(); got != tt.want {
					t.Errorf("%d abandoned carts, want %d", got, tt.want)
				}
			})
		})
	}
}

func TestRequestsHopBetweenTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := scripted(fail(errReset), respond(200, "{}"))
		h := testClient(transport, "http://a", "http://b", "http://c/base").cart()
		for range 3 {
			if err := addOne(t.Context(), h); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.read(t.Context(), "http://b"); err != nil {
			t.Fatal(err)
		}
		var urls []string
		for _, r := range transport.seen {
			urls = append(urls, r.URL.String())
		}
		want := []string{
			"http://a/v1/carts/cart/line-items", "http://b/v1/carts/cart/line-items", // the retry hops, too
			"http://c/base/v1/carts/cart/line-items", "http://a/v1/carts/cart/line-items", "http://b/v1/carts/cart",
		}
		if !slices.Equal(urls, want) {
			t.Errorf("got  %q\nwant %q", urls, want)
		}
	})
}

func TestStopsWhenCancelled(t *testing.T) {
	stop := errors.New("stop")
	for _, tt := range []struct {
		name string
		step step
	}{
		{"in an attempt", hang},
		{"between attempts", respondProblem(503, "not-durable", "Retry-After", "30")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(stop) })
				transport := scripted(tt.step)
				c := testClient(transport)
				started := time.Now()
				if err := addOne(ctx, c.cart()); !errors.Is(err, stop) || time.Since(started) != time.Second {
					t.Errorf("got %v after %s", err, time.Since(started))
				}
				if c.stats.unacknowledged.Load() != 0 {
					t.Error("counted as not acknowledged")
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 20 * time.Millisecond, longest: time.Second}
	for attempt, most := range []time.Duration{20, 40, 80, 160, 320, 640, 1000, 1000, 1000} {
		most *= time.Millisecond
		for range 100 {
			if d := b.delay(attempt); d < most/2 || d > most {
				t.Fatalf("attempt %d: %s, want %s to %s", attempt, d, most/2, most)
			}
		}
	}
	if d := b.delay(1 << 30); d < time.Second/2 || d > time.Second {
		t.Errorf("%s", d)
	}
}

// A connection that breaks in the middle of an answer is no acknowledgement.
func TestAnswerCutShortIsRepeated(t *testing.T) {
	var attempts atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if attempts.Add(1) == 1 {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "{}")
	}))
	defer s.Close()
	transport := newTransport(1)
	defer transport.CloseIdleConnections()
	c := testClient(transport, s.URL)
	c.backoff = backoff{first: time.Microsecond, longest: time.Microsecond}
	if err := addOne(t.Context(), c.cart()); err != nil || attempts.Load() != 2 || c.stats.retries["connection"] != 1 {
		t.Errorf("%v after %d attempts, retries %v", err, attempts.Load(), c.stats.retries)
	}
}
