package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"syscall"
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
			"With a cluster key it is one of the nodes of a region: each of them takes any write to any cart, and a write\n" +
			"is acknowledged when enough of them hold it. They find each other by --join.\n\n" +
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
	hangup := make(chan os.Signal, 1) // nobody reads it: SIGHUP ends no node, and one with a file of keys reads that
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	n, err := startNode(cmd.Context(), c, log)
	if err != nil {
		return err
	}
	if terminal {
		banner(cmd.OutOrStdout(), c, n)
	} else {
		log.Info("serving", append([]any{
			"version", version(), "listen", n.publicAddr.String(), "admin_listen", n.adminAddr.String(), "store", n.storedIn,
		}, n.place()...)...)
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

// place tells where in a cluster the node is, as the attributes of a log line.
func (n *node) place() []any {
	if n.region == nil {
		return nil
	}
	s := n.region.Status()
	place := []any{
		"region", s.Self.Region, "zone", s.Self.Zone, "start_id", startID(s.Self.Start),
		"gossip", s.Self.GossipAddr, "link", s.Self.LinkAddr,
	}
	if s.WANAddr != "" {
		place = append(place, "wan", s.WANAddr)
	}
	return place
}

// warn logs what an operator may not have had in mind.
func (n *node) warn() {
	c := n.config
	if c.dev {
		n.log.Warn("--dev: every caller is trusted with every cart and with prices; keep this node to yourself")
	}
	if n.region == nil {
		return
	}
	if c.databaseURL == "" {
		n.log.Warn("carts are in a file of this node, which can die with it: a write is acknowledged only when other nodes hold it, "+
			"and not while too few are there; with --database-url the region has a store that all its nodes share",
			"needed", c.cluster.tolerate)
	}
	self := n.region.Status().Self
	if a, err := netip.ParseAddrPort(self.LinkAddr); err == nil && a.Addr().IsLoopback() && joinsElsewhere(slices.Concat(c.cluster.join, c.cluster.joinWAN)) {
		n.log.Warn("nodes on other machines cannot reach this one: it listens on the loopback; see --gossip-listen, --link-listen, --wan-listen and --advertise-host",
			"gossip", self.GossipAddr, "link", self.LinkAddr)
	}
}

// joinsElsewhere reports whether some address to join is not on this machine.
func joinsElsewhere(join []string) bool {
	return slices.ContainsFunc(join, func(address string) bool {
		host, _, _ := net.SplitHostPort(address)
		ip, err := netip.ParseAddr(host)
		return host != "localhost" && (err != nil || !ip.IsLoopback())
	})
}

func banner(w io.Writer, c config, n *node) {
	fmt.Fprintf(w, "cartd %s\n  API       http://%s   (the contract: /openapi.yaml)\n  operators http://%s/readyz\n  carts in  %s, up to %s of them in memory\n",
		version(), n.publicAddr, n.adminAddr, n.storedIn, c.memory)
	if n.region != nil {
		self := n.region.Status().Self
		fmt.Fprintf(w, "  region    %s, as %s; links at %s\n", self.Region, self.Name, self.LinkAddr)
	}
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
