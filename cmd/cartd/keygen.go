package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cartd/gossip"
)

func keygenCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen",
		Short: "Print a fresh key for a cluster",
		Long: "Print a fresh key for a cluster: 32 random bytes in base64. All nodes of the cluster get the same one, by\n" +
			"--cluster-key-file. Whoever has it can join the cluster, read all carts and change them.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), gossip.GenerateKey().Text())
			return err
		},
	}
}
