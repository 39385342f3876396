//go:build !linux

package pgtest

import (
	"errors"
	"os/exec"
)

// enter makes a command that fails: there are network namespaces on Linux only.
func enter(namespace string, cmd *exec.Cmd) *exec.Cmd {
	if namespace != "" {
		cmd.Err = errors.New("network namespaces are there on Linux only")
	}
	return cmd
}
