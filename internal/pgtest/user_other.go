//go:build !unix

package pgtest

import "syscall"

func runAs(string) (*syscall.SysProcAttr, error) { return nil, nil }

func (s *Server) own(string) error { return nil }
