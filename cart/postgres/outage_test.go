package postgres

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cartd/cart"
	"cartd/internal/pgtest"
)

var discard = slog.New(slog.DiscardHandler)

// TestBreaker: while it is open it probes, with pauses that grow to a bound, and nobody enters.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var probes []time.Time
		answer := errors.New("still away")
		b := newBreaker(discard, func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			probes = append(probes, time.Now())
			return answer
		})
		answers := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			answer = err
		}
		probed := func() []time.Time {
			mu.Lock()
			defer mu.Unlock()
			return probes
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.run(ctx) }()

		turn, err := b.enter()
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if !b.open(turn, errors.New("away")) || b.open(turn, errors.New("away")) {
			t.Error("it does not open once")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		last, longest := begin, firstPause
		for i, at := range probed() {
			if pause := at.Sub(last); pause < longest/2 || pause > longest {
				t.Errorf("pause %d took %v, not from %v to %v", i, pause, longest/2, longest)
			}
			last, longest = at, min(2*longest, longestPause)
		}
		if n := len(probed()); n < 30 || n > 66 {
			t.Errorf("%d probes in a minute", n)
		}
		cause := b.reason()
		if cause == nil || cause.Error() != "still away" {
			t.Errorf("got %v", cause)
		}
		if _, err := b.enter(); !errors.Is(err, cart.ErrNoRoom) || errors.Is(err, cause) || !strings.Contains(err.Error(), "still away") {
			t.Errorf("got %v", err)
		}

		answers(nil)
		time.Sleep(longestPause)
		synctest.Wait()
		if b.open(turn, errors.New("away")) {
			t.Error("who entered before the outage opens it again")
		}
		n := len(probed())
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(probed()) != n {
			t.Error("it probes while it is closed")
		}
		if turn, err = b.enter(); err != nil {
			t.Fatal(err)
		}

		answers(hopeless{errors.New("never")})
		b.open(turn, errors.New("away"))
		if err := <-done; err == nil || err.Error() != "never" {
			t.Errorf("got %v", err)
		}
		cancel()
		if err := b.run(ctx); err != nil {
			t.Error(err)
		}
	})
}

// wantAway checks that nothing can be had of a store, soon, and nothing is taken for missing.
func wantAway(t *testing.T, s *Store, b *basket, next cart.Change) {
	t.Helper()
	for name, operation := range map[string]func() error{
		"commit":   func() error { return s.Commit(background, []cart.Change{next}) },
		"load":     func() error { _, err := s.Load(background, b.id); return err },
		"versions": func() error { _, err := s.Versions(background, cart.ID{}, cart.LastID, 1); return err },
		"purge":    func() error { _, err := s.Purge(background, 0); return err },
	} {
		begin := time.Now()
		if err := operation(); !errors.Is(err, cart.ErrNoRoom) || errors.Is(err, context.DeadlineExceeded) ||
			errors.Is(err, cart.ErrNotFound) || errors.Is(err, cart.ErrDamaged) {
			t.Errorf("%s: got %v, want %v", name, err, cart.ErrNoRoom)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("%s: a refusal took %v", name, took)
		}
	}
	if s.Reachable() == nil || s.Stats().Reachable || s.Stats().LastError == nil {
		t.Errorf("got %v, %+v", s.Reachable(), s.Stats())
	}
}

// awaitReachable waits for a probe to find the database.
func awaitReachable(t *testing.T, s *Store) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for s.Reachable() != nil {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal(s.Reachable())
		}
	}
}

// TestServerStopped: without a server everything is refused, soon; that is logged once.
func TestServerStopped(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	var log lockedBuffer
	s := open(t, server.URL, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	server.Stop(t)
	next := b.add(t, "apples")
	if _, err := s.Load(background, b.id); !errors.Is(err, cart.ErrNoRoom) {
		t.Fatalf("got %v, want %v", err, cart.ErrNoRoom)
	}
	for range 3 {
		wantAway(t, s, b, next)
	}
	server.Restart(t)
	awaitReachable(t, s)
	commit(t, s, next)
	wantState(t, s, b)
	if got := log.String(); strings.Count(got, "cannot be reached") != 1 || strings.Count(got, "reached again") != 1 || strings.Contains(got, "writes") {
		t.Errorf("logged:\n%s", got)
	}
	if z := s.Stats(); z.Outages != 1 || z.Commits != 2 || z.Refused != 3 || z.Rows != 2 || !z.Reachable || z.LastError == nil {
		t.Errorf("got %+v", z)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSilentServer: a database from which nothing comes back is taken for unreachable when it was
// silent for a while, whoever ended the wait, and not because somebody had no time.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	p := newProxy(t, server.URL)
	s := open(t, p.url, Options{ConnectTimeout: 500 * time.Millisecond, StatementTimeout: 500 * time.Millisecond})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	next := b.add(t, "apples")
	thaw := p.freeze()
	load := func(patience time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(background, patience)
		defer cancel()
		if _, err := s.Load(ctx, b.id); !errors.Is(err, cart.ErrNoRoom) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
	load(10 * time.Millisecond)
	if err := s.Reachable(); err != nil {
		t.Errorf("a hurried caller says that %v", err)
	}
	load(s.silence() + 100*time.Millisecond)
	wantAway(t, s, b, next)
	thaw()
	awaitReachable(t, s)
	commit(t, s, next)
	wantState(t, s, b)
}

// proxy stands between a store and its database.
type proxy struct {
	url    string
	target string
	gate   sync.RWMutex // held for writing while the network is frozen
	group  sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

func newProxy(t *testing.T, server string) *proxy {
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{url: "postgres://cartd@" + l.Addr().String() + "/postgres?sslmode=disable", target: u.Query().Get("host") + "/.s.PGSQL.5432"}
	p.group.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", p.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			p.group.Go(func() { p.copy(client, server) })
			p.group.Go(func() { p.copy(server, client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.group.Wait()
	})
	return p
}

// freeze keeps back everything that is sent, until thaw is called.
func (p *proxy) freeze() (thaw func()) {
	p.gate.Lock()
	return p.gate.Unlock
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.gate.RLock()
		_, err = to.Write(b[:n])
		p.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

// TestUnsafeSuccessor: a server that loses commits and takes the place of one that does not gets none.
func TestUnsafeSuccessor(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.URL, Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	stored := *b
	next := b.add(t, "apples")
	setFsync(t, server, "off")
	server.Stop(t)
	server.Restart(t)
	for range 2 {
		if err := s.Commit(background, []cart.Change{next}); !errors.Is(err, cart.ErrNoRoom) || !errors.Is(err, ErrUnsafe) {
			t.Fatalf("got %v, want %v and %v", err, cart.ErrNoRoom, ErrUnsafe)
		}
	}
	wantState(t, s, &stored)
	setFsync(t, server, "on")
	server.Stop(t)
	server.Restart(t)
	commitAgain(t, s, next)
	wantState(t, s, b)
}

// TestIncarnation: it changes with a server that was started again, with a database that another one took the place
// of, and with nothing else.
func TestIncarnation(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	s := open(t, server.Database(t, "carts"), Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	wantState(t, s, b)
	first := s.Incarnation()
	commit(t, s, b.add(t, "apples"))
	wantState(t, s, b)
	if again := s.Incarnation(); first == 0 || again != first {
		t.Errorf("%d, and then %d", first, again)
	}
	for _, change := range []func(){
		func() {
			server.Stop(t)
			server.Restart(t)
		},
		func() {
			execute(t, server.URL, "DROP DATABASE carts WITH (FORCE)")
			execute(t, server.URL, "CREATE DATABASE carts")
		},
	} {
		before := s.Incarnation()
		change()
		for s.Incarnation() == before {
			if _, err := s.Load(background, b.id); err != nil && !errors.Is(err, cart.ErrNoRoom) {
				t.Fatal(err)
			}
		}
	}
}

func setFsync(t *testing.T, server *pgtest.Server, value string) {
	t.Helper()
	execute(t, server.URL, "ALTER SYSTEM SET fsync = "+value)
}

// TestLazy: a store can be had before its database, and is set up with it.
func TestLazy(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	server.Stop(t)
	if _, err := Open(background, server.URL, Options{}); err == nil {
		t.Fatal("a database that is not there was opened")
	}
	s := open(t, server.URL, Options{Lazy: true})
	b := newBasket()
	next := b.add(t, "apples")
	wantAway(t, s, b, next)
	server.Restart(t)
	awaitReachable(t, s)
	commit(t, s, next)
	wantState(t, s, b)
	select {
	case <-s.Failed():
		t.Error(s.Err())
	default:
	}
	if s.Err() != nil {
		t.Error(s.Err())
	}

	server.Stop(t)
	other := open(t, server.URL, Options{Lazy: true})
	if err := other.Close(); err != nil { // while it probes
		t.Error(err)
	}
	if _, err := other.Load(background, b.id); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
}

// TestLazyRefused: what Open would have refused ends a store that was there before.
func TestLazyRefused(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	for _, test := range []struct {
		do, undo string
		want     error
	}{
		{"ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET fsync = on", ErrUnsafe},
		{
			"INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)",
			"DELETE FROM goose_db_version WHERE version_id = 99",
			ErrNewerSchema,
		},
	} {
		if _, err := Migrate(background, server.URL, Options{}); err != nil {
			t.Fatal(err)
		}
		execute(t, server.URL, test.do)
		server.Stop(t)
		s := open(t, server.URL, Options{Lazy: true})
		server.Restart(t)
		select {
		case <-s.Failed():
		case <-time.After(20 * time.Second):
			t.Fatal("it did not fail")
		}
		if err := s.Err(); !errors.Is(err, test.want) {
			t.Errorf("got %v, want %v", err, test.want)
		}
		b := newBasket()
		if err := s.Commit(background, []cart.Change{b.add(t, "apples")}); !errors.Is(err, test.want) || errors.Is(err, cart.ErrNoRoom) {
			t.Errorf("commit: got %v, want %v", err, test.want)
		}
		if _, err := s.Load(background, b.id); !errors.Is(err, test.want) {
			t.Errorf("load: got %v, want %v", err, test.want)
		}
		if _, err := Open(background, server.URL, Options{Lazy: true}); !errors.Is(err, test.want) {
			t.Errorf("open: got %v, want %v", err, test.want)
		}
		execute(t, server.URL, test.undo)
		server.Stop(t)
		server.Restart(t)
	}
	if _, err := Open(background, strings.Replace(server.URL, "cartd@", "nobody@", 1), Options{Lazy: true}); err == nil {
		t.Error("a user that the server does not know")
	}
}

// TestStats counts what a store does.
func TestStats(t *testing.T) {
	t.Parallel()
	url := pgtest.New(t)
	s, other := open(t, url, Options{}), open(t, url, Options{})
	b := newBasket()
	commit(t, s, b.add(t, "apples"))
	o := &basket{b.id, 8, b.state}
	commit(t, other, o.add(t, "pears"))
	commit(t, s, b.add(t, "plums"), newBasket().add(t, "figs")) // the row is not as it is remembered
	z := s.Stats()
	if z.Commits != 2 || z.Changes != 3 || z.Rows != 3 || z.Conflicts != 1 || z.LastBatch != 2 || z.Refused != 0 || z.Fragments != 0 {
		t.Errorf("got %+v", z)
	}
	if z.LastCommit <= 0 || z.CommitTime <= z.LastCommit || !z.Reachable || z.Outages != 0 || z.LastError != nil {
		t.Errorf("got %+v", z)
	}
	if z.Writers.Max != writers || z.Readers.Max != 4 || z.Writers.Idle+z.Writers.Used == 0 {
		t.Errorf("got %+v, %+v", z.Writers, z.Readers)
	}
}
