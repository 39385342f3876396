package pgtest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// Pause has the server hang until Resume: it is there, and does nothing. It returns the ids of its processes.
func (s *Server) Pause(tb testing.TB) []int {
	tb.Helper()
	pids, err := s.processes()
	if s.paused = pids; err == nil {
		err = signalAll(pids, syscall.SIGSTOP)
	}
	if err != nil {
		tb.Fatal(errors.Join(err, s.resume()))
	}
	return pids
}

// Resume lets a server go on.
func (s *Server) Resume(tb testing.TB) {
	tb.Helper()
	if err := s.resume(); err != nil {
		tb.Fatal(err)
	}
}

func (s *Server) resume() error {
	pids := s.paused
	s.paused = nil
	return signalAll(pids, syscall.SIGCONT)
}

// killAll kills all processes of the server. Those of connections would outlive the first one for a while,
// and go on to commit.
func (s *Server) killAll() error {
	pids, err := s.processes()
	return errors.Join(err, signalAll(pids, syscall.SIGKILL))
}

func signalAll(pids []int, signal syscall.Signal) (err error) {
	for _, pid := range pids {
		if e := syscall.Kill(pid, signal); !errors.Is(e, syscall.ESRCH) { // it has ended by itself
			err = errors.Join(err, e)
		}
	}
	return err
}

// processes returns the ids of the server's processes. It stops the first one, so that it starts no more.
func (s *Server) processes() ([]int, error) {
	pids := []int{s.Pid()}
	if err := syscall.Kill(s.Pid(), syscall.SIGSTOP); err != nil {
		return pids, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// After the name, which is in parentheses: the state, and the id of the process that started it.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if parent, err := strconv.Atoi(string(fields[1])); err != nil || parent != s.Pid() {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return pids, err
		}
		pids = append(pids, pid)
	}
	return pids, err
}
