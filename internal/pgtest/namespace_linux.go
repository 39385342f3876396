package pgtest

import (
	"fmt"
	"os/exec"
)

// enter has a command run in a network namespace, unless that has no name. Who enters one is root, and only then
// the user of the command.
func enter(namespace string, cmd *exec.Cmd) *exec.Cmd {
	if namespace == "" {
		return cmd
	}
	args := []string{"--net=/run/netns/" + namespace}
	attr := *cmd.SysProcAttr
	if user := attr.Credential; user != nil {
		args = append(args, fmt.Sprint("--setuid=", user.Uid), fmt.Sprint("--setgid=", user.Gid))
		attr.Credential = nil
	}
	inside := exec.Command("nsenter", append(args, cmd.Args...)...)
	inside.Dir, inside.SysProcAttr = cmd.Dir, &attr
	return inside
}
