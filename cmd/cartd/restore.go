package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cartd/cart"
	"cartd/cart/postgres"
	"cartd/cart/sqlite"
	"cartd/crdt"
)

func restoreCommand(environ []string) *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "restore FILE|postgres://…",
		Short: "Join the carts of a backup into a store",
		Long: "Join the carts of a backup, which is a file that cartd backup made or a PostgreSQL database, into the store of\n" +
			"--data-dir or --database-url. Nothing is overwritten: what the store has newer stays, and what was removed or\n" +
			"erased in either stays so. It can be repeated, and it moves a shop from one kind of store to the other.\n\n" +
			"No node may run on the data directory meanwhile; on the database nodes may run. A password for the database that\n" +
			"is read is best given as PGPASSWORD or in ~/.pgpass: the list of processes shows it otherwise.",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fromEnvironment(cmd, environ); err != nil {
				return usageError{err}
			}
			if err := p.check(cmd.Flags().Changed); err != nil {
				return usageError{err}
			}
			if err := p.checkSource(args[0]); err != nil {
				return usageError{err}
			}
			return restore(cmd, p, args[0])
		},
	}
	p.flags(cmd.Flags())
	return cmd
}

// check refuses settings that name no store, or two.
func (p *place) check(given func(flag string) bool) error {
	switch {
	case given(databaseURLFlag) && given(dataDirFlag):
		return errTwoStores
	case given(databaseURLFlag):
		return checkDatabaseURL(p.databaseURL)
	case p.dataDir == "":
		return errNoDataDir
	}
	return nil
}

// checkSource refuses to read from what is no database's URL, or from where the carts are to go.
func (p *place) checkSource(from string) error {
	if !isDatabaseURL(from) {
		if scheme, _, ok := strings.Cut(from, "://"); ok {
			return fmt.Errorf("what to restore is %s://…, neither a file nor a URL like postgres://user:password@host:5432/database", scheme)
		}
		return nil
	}
	if err := postgres.CheckURL(from); err != nil {
		return fmt.Errorf("what to restore is %w", err)
	}
	if p.databaseURL == "" {
		return nil
	}
	source, err := postgres.Address(from)
	if err != nil {
		return err
	}
	target, err := postgres.Address(p.databaseURL)
	if err == nil && source == target {
		err = fmt.Errorf("%s is both what to restore and where to", source)
	}
	return err
}

func isDatabaseURL(text string) bool {
	return strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://")
}

func restore(cmd *cobra.Command, into place, from string) (err error) {
	ctx := cmd.Context()
	log := newLogger(cmd.ErrOrStderr(), isTerminal(cmd.OutOrStdout()))
	source, name, err := openBackup(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, targetName, err := into.open(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	begin := time.Now()
	r := restoration{from: source, into: target, now: begin, log: log}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("after %d carts: %w; what was joined stays, and the same restore can be run again", r.read, err)
	}
	r.report(cmd.OutOrStdout(), name, targetName, sinceRounded(begin))
	if r.damaged > 0 {
		return fmt.Errorf("%d carts of %s are damaged and were skipped", r.damaged, name)
	}
	return nil
}

// open opens a store to write to.
func (p *place) open(ctx context.Context, log *slog.Logger) (store cart.Store, name string, err error) {
	if p.databaseURL == "" {
		s, err := sqlite.Open(ctx, p.dataDir, sqlite.Options{Logger: log})
		if errors.Is(err, sqlite.ErrInUse) {
			err = fmt.Errorf("a node is running: stop it first: %w", err)
		}
		if err != nil {
			return nil, "", err
		}
		return &paced{s}, p.dataDir, nil
	}
	if name, err = postgres.Address(p.databaseURL); err != nil {
		return nil, "", err
	}
	s, err := postgres.Open(ctx, p.databaseURL, postgres.Options{Logger: log})
	if err != nil {
		return nil, "", err
	}
	return s, name, nil
}

// paced is a file whose commits wait for snapshots that are far behind: what has none is in memory.
type paced struct{ *sqlite.Store }

const (
	maxJournal  = 64 << 20 // bytes
	journalTick = 10 * time.Millisecond
)

func (p *paced) Commit(ctx context.Context, changes []cart.Change) error {
	ticker := time.NewTicker(journalTick)
	defer ticker.Stop()
	for p.Stats().JournalBytes > maxJournal {
		select {
		case <-ticker.C:
		case <-p.Failed():
			return p.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return p.Store.Commit(ctx, changes)
}

// openBackup opens a store to read from, which is not changed.
func openBackup(ctx context.Context, from string) (store cart.Store, name string, err error) {
	if !isDatabaseURL(from) {
		if isDump(from) {
			return nil, "", fmt.Errorf("%s was made by pg_dump: have pg_restore make a database of it, and name that instead", from)
		}
		s, err := sqlite.OpenBackup(ctx, from)
		if err != nil {
			return nil, "", err
		}
		return s, from, nil
	}
	if name, err = postgres.Address(from); err != nil {
		return nil, "", err
	}
	s, err := postgres.Open(ctx, from, postgres.Options{ReadOnly: true})
	if err != nil {
		return nil, "", fmt.Errorf("what to restore: %w", err)
	}
	return s, name, nil
}

// isDump reports whether a file begins as those that pg_dump makes for pg_restore.
func isDump(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false // who opens it next says why
	}
	defer f.Close() //nolint:errcheck // it was only read
	const mark = "PGDMP"
	start := make([]byte, len(mark))
	_, err = io.ReadFull(f, start)
	return err == nil && string(start) == mark
}

// restoration joins the carts of one store into another one.
type restoration struct {
	from, into cart.Store
	now        time.Time
	log        *slog.Logger

	batch []cart.Change
	size  int    // of the states in it, in bytes
	buf   []byte // an encoded state, used again

	read      int // carts of the backup
	changed   int // the store lacked something of them
	unchanged int
	expired   int // so long ago that every node deletes them: left out
	damaged   int // in the backup: left out
	erased    int // of those that changed or did not
}

const (
	cartsPerPage    = 1024
	cartsPerCommit  = 256
	bytesPerCommit  = 4 << 20
	reportRestoring = 10 * time.Second
)

func (r *restoration) run(ctx context.Context) error {
	told := time.Now()
	for after := (cart.ID{}); ; {
		page, err := r.from.Versions(ctx, after, cart.LastID, cartsPerPage)
		if err != nil {
			return err
		}
		for _, v := range page {
			after = v.ID
			if err := r.take(ctx, v.ID); err != nil {
				return err
			}
			if time.Since(told) > reportRestoring {
				told = time.Now()
				r.log.Info("restoring", "read", r.read, "changed", r.changed, "unchanged", r.unchanged, "damaged", r.damaged)
			}
		}
		if len(page) < cartsPerPage {
			return r.commit(ctx)
		}
	}
}

// take reads a cart, and puts what the store lacks of it into the batch.
func (r *restoration) take(ctx context.Context, id cart.ID) error {
	state, err := r.from.Load(ctx, id)
	switch {
	case errors.Is(err, cart.ErrNotFound): // it was purged by now
		return nil
	case errors.Is(err, cart.ErrDamaged):
		r.read++
		r.damaged++
		r.log.Error("a cart of the backup is damaged and is skipped", "cart", id.String(), "error", err)
		return nil
	case err != nil:
		return err
	}
	r.read++
	joined, lacks := state, true
	switch there, err := r.into.Load(ctx, id); {
	case err == nil:
		joined = crdt.Join(there, state)
		lacks = cart.VersionHash(id, joined) != cart.VersionHash(id, there)
	case errors.Is(err, cart.ErrNotFound):
	case errors.Is(err, cart.ErrDamaged): // which a whole state replaces
		if joined, err = r.unlessErased(ctx, id, state); err != nil {
			return err
		}
		state = joined
	default:
		return err
	}
	switch {
	case !joined.Erased && joined.Lifetime.Expires < crdt.TimestampAt(r.now.Add(-cart.TimeToPurge)):
		r.expired++
		return nil
	case joined.Erased:
		r.erased++
	}
	if !lacks {
		r.unchanged++
		return nil
	}
	r.changed++
	r.batch = append(r.batch, cart.Change{ID: id, State: state})
	r.buf = crdt.AppendState(r.buf[:0], state)
	if r.size += len(r.buf); r.size < bytesPerCommit && len(r.batch) < cartsPerCommit {
		return nil
	}
	return r.commit(ctx)
}

// unlessErased returns the state to store of a cart that is damaged there: of one that was erased, as the version beside
// it tells, it stays so.
func (r *restoration) unlessErased(ctx context.Context, id cart.ID, state *crdt.State) (*crdt.State, error) {
	before := id // the last id that comes before it
	for i := len(before) - 1; i >= 0; i-- {
		if before[i]--; before[i] != 0xff {
			break
		}
	}
	page, err := r.into.Versions(ctx, before, id, 1)
	erased := &crdt.State{Erased: true}
	if err == nil && len(page) == 1 && page[0] == (cart.StoredVersion{ID: id, Version: cart.VersionHash(id, erased)}) {
		return erased, nil
	}
	return state, err
}

func (r *restoration) commit(ctx context.Context) error {
	err := r.into.Commit(ctx, r.batch)
	clear(r.batch)
	r.batch, r.size = r.batch[:0], 0
	return err
}

// report tells what became of the carts.
func (r *restoration) report(w io.Writer, from, into string, took time.Duration) {
	fmt.Fprintf(w, "%s is joined into %s: %d carts in %v\n", from, into, r.read, took)
	for _, line := range []struct {
		n    int
		what string
	}{
		{r.changed, "changed: the store lacked something of them"},
		{r.unchanged, "unchanged: the store had all of them"},
		{r.expired, "expired long ago: left out"},
		{r.damaged, "damaged in the backup: left out"},
		{r.erased, "of all are erased"},
	} {
		fmt.Fprintf(w, "%9d %s\n", line.n, line.what)
	}
}
