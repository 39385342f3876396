// Command cartload puts load on cartd and verifies what cartd kept of it.
//
// cartload replay goes this way: the files are read once to find bad rows (dataset.go); then each
// invoice becomes a cart, whose rows are sent in order through a client that repeats a command until
// it is acknowledged or refused (replay.go, client.go); then every cart is read back and compared with
// what its rows alone say it must hold (model.go); the report tells all of it (report.go).
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the run did not come to its end
	exitUsage  = 2
	exitWrong  = 3 // carts differ, or requests were refused or not acknowledged
)

// exit is an error with an exit code; any other error of a command is one of usage.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole program without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:               "cartload",
		Short:             "Put load on cartd and verify what it kept",
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return flagsFromEnv(cmd.Flags()) },
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(replayCommand(), versionCommand())

	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "cartload: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	var e *exit
	if errors.As(err, &e) {
		return e.code
	}
	return exitUsage
}

// flagsFromEnv sets each flag that the command line leaves out from CARTLOAD_<NAME>, if that is
// there: --retry-for from CARTLOAD_RETRY_FOR.
func flagsFromEnv(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		name := "CARTLOAD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := os.Getenv(name)
		if value == "" || f.Changed || f.Name == "help" || err != nil {
			return
		}
		if bad := flags.Set(f.Name, value); bad != nil {
			err = fmt.Errorf("%s=%q: %w", name, value, bad)
		}
	})
	return err
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "cartload", version())
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
	return cmp.Or(info.Main.Version, "(devel)") + " " + info.GoVersion
}

// replayFlags is what the command line says of a replay.
type replayFlags struct {
	targets     []string
	format      string
	concurrency int
	retryFor    time.Duration
	timeout     time.Duration
	context     bool
	followReady bool
	converge    time.Duration
	json        string
}

func replayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay [flags] FILE…",
		Short: "Send a shop's invoices as carts, read them back and compare",
		Long: `Sends a shop's invoices as carts, reads every cart back and compares it with what the file says.

The format online-retail is CSV with the columns of the UCI data set "Online Retail". An invoice is a
cart in GBP; its rows are sent in order: a positive quantity as an add with price and title, a negative
one as a decrement.

Where targets are given with their regions, as eu=http://…, each country's invoices enter at one of
these: the countries are dealt out to the regions in the order in which both appear. Every cart is read
back from all targets of all regions. Those of the region that it entered at must show it at once, the
others within --converge of the last answer.

Every flag can also be set as CARTLOAD_<FLAG>, as in CARTLOAD_RETRY_FOR=10s.

Exit codes: 0 all carts are as the file says; 1 the run did not come to its end; 2 usage; 3 a cart
differs, or a request was refused or not acknowledged.`,
		Args: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				return errors.New("replay wants at least one file")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, files []string) error {
			regions, err := f.check()
			if err != nil {
				return err
			}
			return f.replay(cmd.Context(), regions, files, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.targets, "target", []string{"http://127.0.0.1:8080"}, "base `[REGION=]URL` of cartd; may be repeated: requests hop from one to the next, of one region")
	flags.StringVar(&f.format, "format", "online-retail", "`format` of the files: online-retail")
	flags.IntVar(&f.concurrency, "concurrency", 8, "carts at a time, 1 to 10000")
	flags.DurationVar(&f.retryFor, "retry-for", time.Minute, "how long a request is retried; 0: not at all")
	flags.DurationVar(&f.timeout, "timeout", 10*time.Second, "how long one attempt may take")
	flags.BoolVar(&f.context, "context", true, "echo Cart-Context")
	flags.BoolVar(&f.followReady, "follow-ready", false, "ask each target for /readyz, ten times a second, and send requests only where it says yes")
	flags.DurationVar(&f.converge, "converge", 10*time.Second, "how long after the last answer a cart may be missing or older in other regions than its own")
	flags.StringVar(&f.json, "json", "", "write the report to this `file`, too")
	return cmd
}

// check refuses flags that make no sense and returns the targets by region.
func (f *replayFlags) check() ([]region, error) {
	switch {
	case f.format != "online-retail":
		return nil, fmt.Errorf("--format %q is unknown: it is online-retail", f.format)
	case f.concurrency < 1 || f.concurrency > 10_000:
		return nil, fmt.Errorf("--concurrency %d is not between 1 and 10000", f.concurrency)
	case f.retryFor < 0:
		return nil, fmt.Errorf("--retry-for %s is negative", f.retryFor)
	case f.timeout <= 0:
		return nil, fmt.Errorf("--timeout %s is not above 0", f.timeout)
	case f.converge < 0:
		return nil, fmt.Errorf("--converge %s is negative", f.converge)
	}
	return parseTargets(f.targets)
}

// replay runs a replay to its end, prints the report, and returns an error where the exit code is
// not 0.
func (f *replayFlags) replay(ctx context.Context, regions []region, files []string, stdout, stderr io.Writer) error {
	size, err := measure(ctx, files)
	if err != nil {
		return &exit{exitFailed, err}
	}
	transport := newTransport(f.concurrency)
	defer transport.CloseIdleConnections()
	targets := allTargets(regions)
	r := &replay{
		client:      newClient(transport, targets, f.timeout, f.retryFor, f.context),
		regions:     regions,
		converge:    f.converge,
		files:       files,
		concurrency: f.concurrency,
		size:        size,
	}
	if f.followReady {
		r.client.ready = followReadiness(ctx, transport, targets)
		defer r.client.ready.close()
	}
	stop := showProgress(r, stderr)
	err = r.run(ctx)
	stop()

	rep := r.report(err)
	if printed := rep.print(stdout); printed != nil {
		return &exit{exitFailed, printed}
	}
	if f.json != "" {
		if written := rep.writeJSON(f.json); written != nil {
			return &exit{exitFailed, written}
		}
	}
	if err != nil {
		return &exit{exitFailed, err}
	}
	if wrong := rep.wrong(); wrong != "" {
		return &exit{exitWrong, errors.New(wrong)}
	}
	return nil
}
