// Package sqlite keeps carts in one SQLite file. It implements cart.Store.
//
// # The way of a commit
//
// A [Store] has three kinds of connections to one database in WAL mode. Commit encodes the deltas
// of a batch, whatever carts they belong to, into one blob and inserts it as one row of the table
// journal, on a connection with synchronous=FULL: one write to the write-ahead log and one sync of
// it, whatever the size of the batch. (The first commit after a checkpoint that emptied the log
// syncs its new header too. The sync is fsync(2): SQLite is built here without fdatasync.) The
// states that the batch led to go to a map in memory, pending. When Commit returns, everything
// that it must do has been done.
//
// Snapshots follow behind. One goroutine, started by Open and joined by Close, takes the pending
// carts every few seconds, or when the journal passes a bound, and joins each into its row of the
// table carts, by compare-and-set on the row's revision, a few rows to a transaction, so that a
// commit waits for at most one of them. Then it deletes the rows of the journal that the snapshots
// cover. It writes on a connection with synchronous=NORMAL, which syncs nothing: the log is
// written in order and checked on recovery by a running checksum, so if the deletion of a journal row
// survives a crash, then so do the snapshots that came before it. The same goroutine checkpoints
// the log when it passes a bound.
//
// Load joins the snapshot of a cart with what is pending of it, on one of a few read-only
// connections.
//
// A change may come without a state, from a peer that sent its delta alone, and may need events that
// died unacknowledged with their author. Such deltas stay pending, merged where that does not change
// which of them can be joined. Load and snapshots join what can be joined, in whatever order; the rest is
// carried along in one row of the journal until what it needs is committed, or the cart is purged.
//
// Open replays the journal: the deltas of each cart are merged likewise and stay pending, to be joined
// to the snapshot when the cart is loaded or its next snapshot is written. Open does not look at the
// snapshots, so what it costs depends on the journal, which is bounded, and not on how many carts
// there are.
//
// # What goes wrong
//
// Disk full: the commit is rolled back and refused with cart.ErrNoRoom; the next one is tried as
// usual. Snapshots and checkpoints that find no room are logged and tried again.
//
// Any other failure to write, of a commit or behind it, ends the store: after a failed fsync the
// kernel may have dropped what it could not write, and a second fsync that succeeds would prove
// nothing. Every later Commit returns the first failure, and the channel that Failed returns is
// closed. The process should exit; the next one recovers what the log holds.
//
// A damaged snapshot: Load returns cart.ErrDamaged. What the journal holds of that cart is carried
// along in the journal for as long as the row stays damaged, and a whole state of the cart, once
// committed, replaces the row. A cart without a snapshot of whose changes none can be joined is damaged
// too, until one can be.
//
// A damaged row of the journal: Open refuses and names the row.
package sqlite
