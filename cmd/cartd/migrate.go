package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cartd/cart/postgres"
)

func migrateCommand(environ []string) *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the schema of a PostgreSQL database up to date",
		Long: "Bring the schema of a PostgreSQL database up to date. A node does so too when it starts; this is for a\n" +
			"database whose schema the node's user may not change.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			if url == "" {
				return usageError{errors.New("migrate needs --database-url; the schema of --data-dir is brought up to date by serve")}
			}
			if err := checkDatabaseURL(url); err != nil {
				return usageError{err}
			}
			return migrate(cmd, url)
		},
	}
	cmd.Flags().StringVar(&url, databaseURLFlag, "", "the database: postgres://user:password@host:5432/database")
	return cmd
}

func migrate(cmd *cobra.Command, url string) error {
	address, err := postgres.Address(url)
	if err != nil {
		return err
	}
	log := newLogger(cmd.ErrOrStderr(), isTerminal(cmd.OutOrStdout()))
	m, err := postgres.Migrate(cmd.Context(), url, postgres.Options{Logger: log})
	if err != nil {
		return err
	}
	if m.From == m.To {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: the schema is up to date, at version %d\n", address, m.To)
	} else {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: the schema went from version %d to %d\n", address, m.From, m.To)
	}
	return err
}
