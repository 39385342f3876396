//go:build !unix

package pgtest

func (s *Server) hasEnded() bool { return false }
