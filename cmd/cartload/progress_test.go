package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func testReplay() *replay {
	r := &replay{client: testClient(http.DefaultTransport, "http://a", "http://b"), size: size{carts: 2000}}
	r.carts.Store(490)
	r.givenUp.Store(10)
	r.client.stats.operations.Store(12_000)
	return r
}

func TestProgressWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testReplay()
		var out bytes.Buffer
		stop := showProgress(r, &out)
		time.Sleep(6 * time.Second)
		r.phase.Store(phaseReading)
		r.readBack.Store(7)
		time.Sleep(5 * time.Second)
		stop()
		want := "500 of 2,000 carts, 2,400 ops/s\n7 of 980 carts read back\n"
		if got := out.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestProgressOnTerminal(t *testing.T) {
	for _, color := range []bool{true, false} {
		var out bytes.Buffer
		p := &progress{replay: testReplay(), w: &out, terminal: true, color: color, started: time.Now().Add(-time.Hour)}
		p.redraw()
		first := out.String()
		if !strings.HasPrefix(first, "\r") || strings.Contains(first, "\n") || strings.Contains(first, "\x1b") != color {
			t.Errorf("got %q", first)
		}
		if filled := strings.Count(first, "█"); filled != barWidth/4 {
			t.Errorf("%d of %d filled", filled, barWidth)
		}
		// What is shorter blanks what was longer.
		out.Reset()
		p.replay.size.carts = 500
		p.redraw()
		if !strings.HasSuffix(out.String(), "  ") || !strings.Contains(out.String(), "500 of 500 carts") {
			t.Errorf("got %q", out.String())
		}
	}
}
