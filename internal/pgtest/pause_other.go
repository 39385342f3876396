//go:build !linux

package pgtest

import (
	"syscall"
	"testing"
)

// Pause skips the test: it needs /proc.
func (s *Server) Pause(tb testing.TB) []int {
	tb.Skip("a server can be paused on Linux only")
	return nil
}

// Resume does nothing.
func (s *Server) Resume(testing.TB) {}

func (s *Server) resume() error { return nil }

func (s *Server) killAll() error { return s.cmd.Process.Signal(syscall.SIGKILL) }
