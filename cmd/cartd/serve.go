package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

func serveCommand(environ []string) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: "Run a node, which keeps its carts in an SQLite file, or in a PostgreSQL database with --database-url.\n\n" +
			"Each flag can be given as a variable too: --data-dir as CARTD_DATA_DIR. A flag goes before its variable.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			if err := c.check(cmd.Flags().Changed); err != nil {
				return usageError{err}
			}
			return serve(cmd, c)
		},
	}
	c.flags(cmd.Flags())
	return cmd
}

func serve(cmd *cobra.Command, c config) error {
	terminal := isTerminal(cmd.OutOrStdout())
	log := newLogger(cmd.ErrOrStderr(), terminal)
	n, err := startNode(cmd.Context(), c, log)
	if err != nil {
		return err
	}
	if terminal {
		banner(cmd.OutOrStdout(), c, n)
	} else {
		log.Info("serving", "version", version(), "listen", n.publicAddr.String(), "admin_listen", n.adminAddr.String(), "store", n.storedIn)
	}
	if c.dev {
		log.Warn("--dev: every caller is trusted with every cart and with prices; keep this node to yourself")
	}
	if err := n.wait(cmd.Context()); err != nil {
		log.Error("stopping", "error", err)
		_ = n.stop() // what it finds is the same failure
		return err
	}
	log.Info("stopping", "reason", "signal")
	if err := n.stop(); err != nil {
		return fmt.Errorf("stopped, but not cleanly: %w", err)
	}
	log.Info("stopped")
	return nil
}

func banner(w io.Writer, c config, n *node) {
	fmt.Fprintf(w, "cartd %s\n  API       http://%s   (the contract: /openapi.yaml)\n  operators http://%s/readyz\n  carts in  %s, up to %s of them in memory\n",
		version(), n.publicAddr, n.adminAddr, n.storedIn, c.memory)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// newLogger logs for people on a terminal and in JSON elsewhere.
func newLogger(w io.Writer, terminal bool) *slog.Logger {
	if terminal {
		_, plain := os.LookupEnv("NO_COLOR")
		return slog.New(tint.NewTextHandler(w, &tint.Options{TimeFormat: time.TimeOnly, NoColor: plain}))
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}
