// Command cartd keeps shopping carts and serves them over HTTP.
//
// Exit codes: 0 after a clean stop, 1 after a failure while running, 2 for settings that it was
// started with and cannot follow. Those of status are 0, 3 and 4 for a region that is ok, at risk or
// failing, and 1 where no node answers.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "cartd",
		Short:         "Shopping carts that any node takes writes to and no failure loses writes of",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(serveCommand(environ), membersCommand(environ), statusCommand(environ), backupCommand(environ),
		restoreCommand(environ), migrateCommand(environ), keygenCommand(), keysCommand(environ), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var verdict exitCode
	if errors.As(err, &verdict) {
		return int(verdict)
	}
	fmt.Fprintln(stderr, "cartd:", err)
	if errors.As(err, new(usageError)) {
		return 2
	}
	return 1
}

// exitCode ends the process without a word: what there is to say, the command has said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is an error in the settings.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usageArgs makes the errors of a check of arguments usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "cartd", version())
			return err
		},
	}
}

// version returns the version that the build is of: the module's, and the commit where it is known.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	return v + " " + info.GoVersion
}
