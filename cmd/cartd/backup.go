package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cartd/cart/sqlite"
)

// place is the settings of where carts are kept.
type place struct {
	dataDir     string
	databaseURL string // holds a password: never to be shown
}

func (p *place) flags(f *pflag.FlagSet) {
	f.StringVar(&p.dataDir, dataDirFlag, defaultDataDir, "directory of the store")
	f.StringVar(&p.databaseURL, databaseURLFlag, "", "the PostgreSQL database: postgres://user:password@host:5432/database")
}

func backupCommand(environ []string) *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the carts of a data directory to a file",
		Long: "Copy the carts of --data-dir to a file, as they are at one point in time. The node may be running; it is not\n" +
			"disturbed. The copy is checked before it gets its name, and nothing is overwritten. Carts in PostgreSQL are\n" +
			"backed up by pg_dump, or by archiving its log; see docs/backup.md.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			switch {
			case cmd.Flags().Changed(databaseURLFlag):
				return usageError{errors.New("backup is for --data-dir; a PostgreSQL database is backed up by pg_dump, see docs/backup.md")}
			case p.dataDir == "":
				return usageError{errNoDataDir}
			}
			return backup(cmd, p.dataDir, args[0])
		},
	}
	p.flags(cmd.Flags())
	return cmd
}

func backup(cmd *cobra.Command, dir, file string) error {
	begin := time.Now()
	saved, err := sqlite.Backup(cmd.Context(), dir, file)
	if err != nil {
		return err
	}
	for _, id := range saved.Damaged {
		fmt.Fprintln(cmd.ErrOrStderr(), "damaged, in the store too:", id)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d carts, %d bytes, checked, in %v\n", file, saved.Carts, saved.Bytes, sinceRounded(begin))
	return err
}

// sinceRounded returns the time since then as people read it.
func sinceRounded(begin time.Time) time.Duration { return time.Since(begin).Round(time.Millisecond) }
