package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// balanced is two targets of which some are ready. It keeps where requests went.
type balanced struct {
	mu    sync.Mutex
	ready []string // hosts
	went  []string
}

func (b *balanced) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := httptest.NewRecorder()
	switch {
	case r.URL.Path != "/readyz":
		b.went = append(b.went, r.URL.Host)
		_, _ = w.WriteString("{}")
	case !slices.Contains(b.ready, r.URL.Host):
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return w.Result(), nil
}

func (b *balanced) set(ready ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = ready
}

func TestFollowsReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &balanced{ready: []string{"b"}}
		c := testClient(b, "http://a", "http://b")
		c.ready = followReadiness(t.Context(), b, c.targets)
		defer c.ready.close()
		h := c.cart()
		adds := func(n int) {
			t.Helper()
			for range n {
				if err := addOne(t.Context(), h); err != nil {
					t.Fatal(err)
				}
			}
		}
		expect := func(what string, want ...string) {
			t.Helper()
			if !slices.Equal(b.went, want) {
				t.Errorf("%s: requests went to %q, not %q", what, b.went, want)
			}
			b.went = nil
		}
		adds(2)
		expect("one is ready", "b", "b")
		b.set("a")
		time.Sleep(2 * readyEvery)
		adds(2)
		expect("the other one is", "a", "a")
		b.set()
		time.Sleep(2 * readyEvery)
		time.AfterFunc(10*time.Second, func() { b.set("b") })
		began := time.Now()
		adds(1)
		if waited := time.Since(began); waited < 10*time.Second || waited > 11*time.Second {
			t.Errorf("it waited %v until one was ready again", waited)
		}
		expect("none was ready for a while", "b")
		time.AfterFunc(10*time.Second, func() { b.set("a", "b") })
		if _, err := h.read(t.Context(), "http://a"); err != nil {
			t.Fatal(err)
		}
		expect("one in particular was not", "a")
		b.set()
		time.Sleep(2 * readyEvery)
		adds(1)
		if waited := time.Since(began); waited < time.Minute {
			t.Errorf("with none ready it gave up after %v", waited)
		}
	})
}
