// Package postgres keeps carts in a PostgreSQL database. It implements cart.Store.
//
// # The way of a commit
//
// Commit joins the changes of each cart, joins that with what the database has of the cart, and
// writes the snapshots of all carts of the batch in one statement, which is one transaction and one
// round trip. The statement compares and sets: a row is written only where it has the revision
// and the version that the join began from, so two processes that write one cart never overwrite each
// other, not even where the database was taken back to an earlier state and counts revisions anew. Carts
// whose row was changed meanwhile are locked, loaded, joined and written again, in a transaction; the
// others are done.
//
// What was last written of a cart by this process is remembered, its revision and its version
// vector, for a bounded number of carts. Where a change comes with a whole state that descends from
// there, the row need not be read at all. A memory that is wrong costs a round trip and nothing
// else: revision or version differ, and the row is loaded.
//
// A delta that cannot be joined, because its author did not hold the whole cart and the snapshot is
// damaged or lacks what the delta needs, goes to the table fragments. Load joins fragments with the
// snapshot, and the first commit that reads the cart's row and can join them moves them there.
//
// The statements run one by one, and rows are written in the order of their ids. They stay within
// the SQL that CockroachDB and YugabyteDB share with PostgreSQL. Both are untested.
//
// # What goes wrong
//
// The network, a server that stops, fails over or has no room, a timeout: the error wraps
// cart.ErrNoRoom. Where the connection broke before the answer came, the statement may have been
// carried out all the same, and with more than one statement or several attempts some carts may be
// written and others not. The promise of cart.ErrNoRoom, that the changes may be committed again,
// holds: a commit joins, and what is joined twice is there once. Whoever commits again
// until Commit returns nil has what he would have had without the failure. Until then others may
// load what nobody was told is durable; it is durable where they see it, since they read it from
// the database.
//
// Any other error is one of the schema, but for one that is missing, of this program or of damaged data: nothing can be
// promised, and Commit returns it as it is.
//
// A damaged row: Load returns cart.ErrDamaged and the row stays as it is. Deltas of the cart become
// fragments; a whole state of the cart, once committed, replaces the row. A damaged fragment
// makes Load return cart.ErrDamaged too. Damaged carts are looked at again every 30 s, since another
// process may have replaced them.
//
// A database that is away: nobody waits for timeouts to find out again. What fails because no server
// is there, or because nothing is heard of one for a second, opens a breaker: until a probe in the
// background, after pauses that grow from 100 ms to 2 s, reaches the database again, every method
// returns at once with an error that wraps cart.ErrNoRoom, and nothing was written. A cart is never
// taken for missing because the database is.
//
// A database that is away when the process starts: with Options.Lazy Open returns a store whose
// breaker is open. Its first probe that reaches the database also does what Open would have done. What
// Open would have refused then ends the store: Failed is closed, and Err tells why.
//
// A database without tables, where there were some, is an empty one that took the place of the one before: as after
// an outage, its tables are made anew. Then it gets what the nodes hold.
// Until it is there and lets them in, it is away. Tables that are missing where the schema is up to date end the store.
//
// A server that runs with fsync=off may lose what it said is committed: Open refuses it. So does
// each new connection for commits, since another server may have taken the place of the one that Open
// saw; these commits are tried again as if there were no room. What a server changes while a connection
// to it lasts, an hour at most, goes unnoticed. With synchronous_commit=off it loses the last moments:
// Open warns.
package postgres
