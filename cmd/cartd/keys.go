package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cartd/gossip"
)

func keysCommand(environ []string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Change the key of a cluster while it runs",
		Long: "Change the key of a cluster while it runs. The file of --cluster-key-file may have up to " + fmt.Sprint(gossip.MaxKeys) + " keys, one a\n" +
			"line: a node uses the first and takes what other nodes do with any of them. It reads the file again when\n" +
			"it changes. So: add a key on every node; when all have it, use it on every node; when all use it, remove the\n" +
			"former one on every node. Keys go by their fingerprints, which are no secrets.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(keysListCommand(), keysAddCommand(),
		keysStepCommand(environ, keysStep{
			name:  "use",
			short: "Make a key of a file the one in use",
			can:   canUse,
			edit:  (*keyFile).use,
			did:   "%v is in use",
		}),
		keysStepCommand(environ, keysStep{
			name:  "remove",
			short: "Remove a key that is not in use from a file",
			can:   canRemove,
			edit:  (*keyFile).remove,
			did:   "%v is removed",
		}),
		keysStatusCommand(environ))
	return cmd
}

func keysListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list FILE",
		Short: "Show the fingerprints of the keys in a file",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := readKeys(args[0])
			if err != nil {
				return err
			}
			for i, f := range keys.Fingerprints() {
				note := ""
				if i == 0 {
					note = "  in use"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%v%s\n", f, note)
			}
			return nil
		},
	}
}

func keysAddCommand() *cobra.Command {
	var from string
	var show bool
	cmd := &cobra.Command{
		Use:   "add FILE",
		Short: "Add a key to a file: a fresh one, or that of --key-file",
		Long: "Add a key to a file: a fresh one, or that of --key-file, which all other nodes get. The key that is in use\n" +
			"stays in use. A key that the file has already changes nothing.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := editKeys(cmd, args[0])
			if err != nil {
				return err
			}
			key := gossip.GenerateKey()
			if cmd.Flags().Changed("key-file") {
				if key, err = readKey(from, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			fingerprint := key.Fingerprint()
			says := fmt.Sprintf("%s has %v already; %v is in use", f.path, fingerprint, f.inUse())
			if !f.keys.Has(fingerprint) {
				if err := f.add(key); err != nil {
					return err
				}
				if err := f.write(); err != nil {
					return err
				}
				says = fmt.Sprintf("%s has %v now; %v is in use", f.path, fingerprint, f.inUse())
			}
			if show {
				fmt.Fprintln(cmd.OutOrStdout(), key.Text())
				fmt.Fprintln(cmd.ErrOrStderr(), says)
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), says)
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "key-file", "", "file with the one key to add, as cartd keygen prints it; - is the standard input")
	cmd.Flags().BoolVar(&show, "show", false, "print the key that was added, for the other nodes")
	return cmd
}

// readKey reads the one key of a file, or of the standard input where the name is -.
func readKey(name string, stdin io.Reader) (gossip.Key, error) {
	text, err := "", error(nil)
	if name == "-" {
		name = "standard input"
		text, err = readAtMost(stdin)
	} else {
		text, err = readText(name)
	}
	if err != nil {
		return gossip.Key{}, err
	}
	key, err := gossip.ParseKey(text)
	if err != nil {
		return gossip.Key{}, fmt.Errorf("%s is %w", name, err)
	}
	return key, nil
}

// editKeys opens a file of keys, and warns of what its permissions are.
func editKeys(cmd *cobra.Command, name string) (*keyFile, error) {
	f, err := openKeyFile(name)
	if err == nil && othersMayRead(f.info) {
		fmt.Fprintf(cmd.ErrOrStderr(), "cartd: every user of this machine can read %s (%v)\n", f.path, f.info.Mode().Perm())
	}
	return f, err
}

// keysStep is a step of a rotation, on one node.
type keysStep struct {
	name, short string
	can         func([]keyHolder, gossip.Fingerprint) error // why it is not to be taken yet
	edit        func(*keyFile, gossip.Fingerprint) error
	did         string
}

func keysStepCommand(environ []string, s keysStep) *cobra.Command {
	var admin adminConfig
	cmd := &cobra.Command{
		Use:   s.name + " FILE FINGERPRINT",
		Short: s.short,
		Args:  usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			fingerprint, err := gossip.ParseFingerprint(args[1])
			if err == nil && cmd.Flags().Changed("admin") {
				err = admin.check()
			}
			if err != nil {
				return usageError{err}
			}
			f, err := editKeys(cmd, args[0])
			if err != nil {
				return err
			}
			if err := s.edit(f, fingerprint); err != nil {
				return err
			}
			if cmd.Flags().Changed("admin") {
				holders, err := keyHolders(cmd.Context(), admin)
				if err == nil {
					err = s.can(holders, fingerprint)
				}
				if err != nil {
					return err
				}
			}
			if err := f.write(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: "+s.did+"\n", f.path, fingerprint)
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&admin.addresses, "admin", nil,
		"ask these nodes first, by the addresses of their operators' listeners, and refuse the step where it is too early; may be repeated")
	return cmd
}

func keysStatusCommand(environ []string) *cobra.Command {
	var admin adminConfig
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which node has which keys, and what the next step can be",
		Long: "Show which node has which keys, and say what the next step can be. The exit code is 0 when there is one or none\n" +
			"is needed, 1 when it has to wait. A node knows the members that are alive: where some are not, ask again later.",
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			if err := admin.check(); err != nil {
				return usageError{err}
			}
			holders, err := keyHolders(cmd.Context(), admin)
			if err != nil {
				return err
			}
			for _, h := range holders {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", h.node, strings.Join(h.keys, " "))
			}
			says, err := nextStep(holders)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), says)
			return nil
		},
	}
	admin.flags(cmd.Flags())
	return cmd
}
