package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// How often progress is told: on a terminal the line is drawn again, elsewhere lines add up.
const (
	redrawEvery = 100 * time.Millisecond
	lineEvery   = 5 * time.Second
)

// progress tells how far a replay is until it is stopped.
type progress struct {
	replay   *replay
	w        io.Writer
	terminal bool
	color    bool
	started  time.Time
	width    int // of what is drawn on the terminal

	stop chan struct{}
	done sync.WaitGroup
}

// showProgress starts to tell on w. Call the function that it returns to end that; a terminal's line
// is then gone.
func showProgress(r *replay, w io.Writer) (stop func()) {
	p := &progress{
		replay:   r,
		w:        w,
		terminal: isTerminal(w),
		color:    os.Getenv("NO_COLOR") == "",
		started:  time.Now(),
		stop:     make(chan struct{}),
	}
	p.done.Go(p.run)
	return func() {
		close(p.stop)
		p.done.Wait()
	}
}

// isTerminal reports whether w is a terminal on which a line can be drawn again.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

func (p *progress) run() {
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if p.terminal {
				p.redraw()
			} else {
				fmt.Fprintln(p.w, p.text())
			}
		case <-p.stop:
			if p.terminal {
				fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
			}
			return
		}
	}
}

// text says in words how far the replay is.
func (p *progress) text() string {
	done, all, what := p.position()
	rate := float64(p.replay.client.stats.operations.Load()) / time.Since(p.started).Seconds()
	if what == "read back" {
		return fmt.Sprintf("%s of %s carts read back", thousands(done), thousands(all))
	}
	return fmt.Sprintf("%s of %s carts, %s ops/s", thousands(done), thousands(all), thousands(int64(rate)))
}

func (p *progress) position() (done, all int64, what string) {
	r := p.replay
	if r.phase.Load() == phaseReading {
		return r.readBack.Load(), r.carts.Load() * int64(len(r.client.targets)), "read back"
	}
	return r.carts.Load() + r.givenUp.Load(), int64(r.size.carts), "sent"
}

// barWidth is that of the bar where there is room, in columns.
const barWidth = 30

// redraw draws the line over the one before. Where it got shorter the rest is blanked.
func (p *progress) redraw() {
	text := p.text()
	bar := max(0, min(barWidth, p.columns()-len(text)-3))
	done, all, _ := p.position()
	filled := 0
	if all > 0 {
		filled = int(done * int64(bar) / all)
	}
	full, rest := strings.Repeat("█", filled), strings.Repeat("░", bar-filled)
	width := bar + 2 + len(text)
	blank := strings.Repeat(" ", max(0, p.width-width))
	p.width = width
	if p.color {
		full = "\x1b[32m" + full + "\x1b[0m"
	}
	fmt.Fprintf(p.w, "\r%s%s  %s%s", full, rest, text, blank)
}

// columns is the width of the terminal, which may change at any time.
func (p *progress) columns() int {
	if f, ok := p.w.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
			return columns
		}
	}
	return 80
}
