//go:build !unix

package pgtest

import "syscall"

func runAs(string) (*syscall.SysProcAttr, error) { return nil, nil }
