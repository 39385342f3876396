package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// errNoBinaries says that there is nothing to start a server from.
var errNoBinaries = errors.New("no PostgreSQL here: install the package postgresql, or set DATABASE_URL")

// patience bounds every wait for a server.
const patience = 60 * time.Second

// Server is a throwaway server.
type Server struct {
	// URL is that of its database, for a superuser without a password.
	URL string

	bin, dir string
	settings []string
	attr     *syscall.SysProcAttr
	cmd      *exec.Cmd // nil while it is not running
	paused   []int     // the processes that Pause stopped
}

// Pid returns the id of the process that started the server's others, while it runs.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Start starts a server for a test, with settings like "fsync=off" beside the defaults.
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	s, err := create(settings)
	if errors.Is(err, errNoBinaries) {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// binaries returns the folder of initdb and postgres.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // the pattern is well-formed
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			return "", err
		}
		found = append(found, path)
	}
	for i := len(found) - 1; i >= 0; i-- {
		dir := filepath.Dir(found[i])
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil {
			return dir, nil
		}
	}
	return "", errNoBinaries
}

func create(settings []string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pg") // the path of a socket has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL:      "postgres://cartd@/postgres?host=" + url.QueryEscape(dir),
		bin:      bin,
		dir:      dir,
		settings: settings,
	}
	if err := s.init(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *Server) init() (err error) {
	if s.attr, err = runAs(s.dir); err != nil {
		return err
	}
	initdb := s.command("initdb", "-D", filepath.Join(s.dir, "data"), "-U", "cartd", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return s.start()
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = s.attr
	return cmd
}

// Restart starts a server that was stopped or killed, on the same data, and waits until it answers.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.start(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) start() error {
	args := []string{"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses="}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		logs, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		s.cmd = s.command("postgres", args...)
		s.cmd.Stdout, s.cmd.Stderr = logs, logs // files: no goroutine has to copy
		err = errors.Join(s.cmd.Start(), logs.Close())
		if err != nil {
			s.cmd = nil
			return err
		}
		ended, err := s.answers(ctx)
		if err == nil {
			return nil
		}
		if !ended || ctx.Err() != nil {
			out, _ := os.ReadFile(filepath.Join(s.dir, "log")) // for the message alone
			return fmt.Errorf("pgtest: the server does not start: %w\n%s", err, out)
		}
		// It ends where processes of a server that was killed still use its memory: once more.
	}
}

// answers waits until the server takes connections, or has ended.
func (s *Server) answers(ctx context.Context) (ended bool, err error) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		var conn *pgx.Conn
		if conn, err = pgx.Connect(ctx, s.URL); err == nil {
			return false, conn.Close(ctx)
		}
		if s.hasEnded() {
			return true, err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false, errors.Join(ctx.Err(), err)
		}
	}
}

// Stop ends the server as an operator would who does not wait for its clients.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	if err := s.end(syscall.SIGINT); err != nil {
		tb.Fatal(err)
	}
}

// Kill ends the server as a crash would.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	if s.cmd == nil {
		return
	}
	if err := errors.Join(s.resume(), s.killAll()); err != nil {
		tb.Fatal(err)
	}
	s.wait()
}

func (s *Server) end(signal syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := errors.Join(s.resume(), s.cmd.Process.Signal(signal)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	s.wait()
	return nil
}

func (s *Server) wait() {
	_ = s.cmd.Wait() // that it was killed is no news
	s.cmd = nil
}

// remove ends the server and removes its files. Processes of one that was killed may still be there
// for a moment, and write.
func (s *Server) remove() error {
	err := s.end(syscall.SIGQUIT)
	for range 100 {
		if e := os.RemoveAll(s.dir); e == nil {
			break
		}
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
