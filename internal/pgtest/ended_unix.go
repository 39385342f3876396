//go:build unix

package pgtest

import "syscall"

// hasEnded reports whether the server's process has ended, and collects it then.
func (s *Server) hasEnded() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(s.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	if err == nil && pid == 0 {
		return false
	}
	_ = s.cmd.Process.Release() // it was collected here
	s.cmd = nil
	return true
}
