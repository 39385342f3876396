package pgtest

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"testing"
)

// Dir returns the directory of the server, which has its data in "data", and where Run runs programs.
func (s *Server) Dir() string { return s.dir }

// Run runs one of the server's programs, such as pg_dump, as its user, and returns what it prints.
func (s *Server) Run(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	out, err := s.command(program, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return string(out)
}

// Database creates an empty database and returns its URL.
func (s *Server) Database(tb testing.TB, name string) string {
	tb.Helper()
	if err := Exec(s.URL, "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		tb.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Wipe replaces the data of a server that was stopped or killed by those that it began with.
func (s *Server) Wipe(tb testing.TB) {
	tb.Helper()
	if err := errors.Join(os.RemoveAll(s.data()), s.fill()); err != nil {
		tb.Fatal(err)
	}
}

// Recover starts a server that was stopped with a base backup, a directory in its own, in the place of its data,
// and with settings that tell how far to replay the log.
func (s *Server) Recover(tb testing.TB, base string, settings ...string) {
	tb.Helper()
	data := filepath.Join(s.dir, "data")
	signal := filepath.Join(s.dir, base, "recovery.signal")
	for _, do := range []func() error{
		func() error { return os.RemoveAll(data) },
		func() error { return os.WriteFile(signal, nil, 0o600) },
		func() error { return s.own(signal) },
		func() error { return os.Rename(filepath.Join(s.dir, base), data) },
	} {
		if err := do(); err != nil {
			tb.Fatal(err)
		}
	}
	s.options.Settings = append(s.options.Settings, settings...)
	s.Restart(tb)
}
