package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoBinaries says that there is nothing to start a server from.
var ErrNoBinaries = errors.New("no PostgreSQL here: install the package postgresql, or set DATABASE_URL")

// patience bounds every wait for a server.
const patience = 60 * time.Second

// Server is a throwaway server.
type Server struct {
	// URL is that of its database, for a superuser without a password.
	URL string

	bin, dir string
	options  Options
	attr     *syscall.SysProcAttr
	cmd      *exec.Cmd // nil while it is not running
	paused   []int     // the processes that Pause stopped
}

// Options say where and how a server runs.
type Options struct {
	// Settings like "fsync=off", beside the defaults.
	Settings []string
	// Dir is a folder for all its files, which is made; none: a temporary one. It is removed with the server.
	Dir string
	// Log is the file that the server's output is added to; none: one in Dir.
	Log string
	// Data is a folder that Init made, whose content the server starts with; none: it is made anew.
	Data string
	// Namespace is the network namespace to run in, by the name that ip-netns(8) gave it; none: that of
	// the test. It needs Linux and root.
	Namespace string
	// Address is an IP address to listen on, at Port, for everyone of its network; none: only a Unix socket.
	Address string
}

// Port is where a server listens that was given an address.
const Port = 5432

// Pid returns the id of the process that started the server's others, while it runs.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Start starts a server for a test, with settings like "fsync=off" beside the defaults.
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	return StartWith(tb, Options{Settings: settings})
}

// StartWith starts a server for a test.
func StartWith(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := create(o)
	if errors.Is(err, ErrNoBinaries) {
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
	return "", ErrNoBinaries
}

// Init makes the files of a database, for Options.Data, in a folder that is made. Arguments are those of initdb,
// like "--wal-segsize=1".
func Init(dir string, args ...string) error {
	s, err := place(Options{Dir: dir})
	if err != nil {
		return err
	}
	return s.init(dir, args...)
}

func create(o Options) (*Server, error) {
	s, err := place(o)
	if err != nil {
		return nil, err
	}
	if err := s.fill(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// place makes the folder of a server.
func place(o Options) (s *Server, err error) {
	s = &Server{options: o}
	if s.bin, err = binaries(); err != nil {
		return nil, err
	}
	if s.dir = o.Dir; s.dir == "" {
		s.dir, err = os.MkdirTemp("", "pg") // the path of a socket has at most 107 bytes
	} else {
		err = os.Mkdir(s.dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	s.URL = fmt.Sprintf("postgres://cartd@/postgres?host=%s&port=%d", url.QueryEscape(s.dir), Port)
	if s.attr, err = runAs(s.dir); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// fill makes the files of the database.
func (s *Server) fill() error {
	data := s.data()
	if s.options.Data == "" {
		if err := s.init(data); err != nil {
			return err
		}
	} else if out, err := exec.Command("cp", "-a", s.options.Data, data).CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w\n%s", s.options.Data, err, out)
	}
	if s.options.Address == "" {
		return nil
	}
	hba, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = hba.WriteString("host all all samenet trust\n")
	return errors.Join(err, hba.Close())
}

func (s *Server) init(data string, args ...string) error {
	args = append([]string{"-D", data, "-U", "cartd", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"}, args...)
	if out, err := s.command("initdb", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) log() string { return cmp.Or(s.options.Log, filepath.Join(s.dir, "log")) }

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
	args := []string{"-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(Port), "-c", "listen_addresses=" + s.options.Address}
	for _, setting := range s.options.Settings {
		args = append(args, "-c", setting)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		logs, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		s.cmd = enter(s.options.Namespace, s.command("postgres", args...))
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
			out, _ := os.ReadFile(s.log()) // for the message alone
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

// Ended reports whether the server is not running: by itself, or because it was stopped or killed.
func (s *Server) Ended() bool { return s.cmd == nil || s.hasEnded() }

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
