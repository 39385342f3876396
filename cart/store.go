package cart

import (
	"context"
	"errors"

	"cartd/crdt"
)

// Store keeps carts durable. The Service calls Commit from one goroutine at a time and everything
// else from many. Every implementation passes the suite of package storetest.
//
// A store that nodes share may be taken back to an earlier state while they run. It may have a method
// Incarnation() int64, whose result changes when that could have happened: then the nodes look at once, and
// otherwise within a minute.
type Store interface {
	// Load returns the join of everything that was committed of a cart, but for deltas that need what
	// was not. It returns ErrNotFound for a cart that nothing was committed of, and an error that wraps
	// ErrDamaged where what is stored fails its checksum, or begins nowhere; then the cart is left as
	// it is.
	Load(ctx context.Context, id ID) (*crdt.State, error)

	// Commit returns nil once all changes survive a crash of the process and of the machine. It
	// joins: what is stored of a cart and is not in a change stays. What a delta needs was committed
	// before, or comes earlier in changes.
	//
	// An error that wraps ErrNoRoom, or that of a context which was done before, says that the same
	// changes may be committed again: nothing was written, or what was does no harm when it is joined
	// once more. After any other error it is unknown what is on disk, and the process must not
	// acknowledge again.
	Commit(ctx context.Context, changes []Change) error

	// Purge deletes the carts that expired before the given time and returns how many. Erased
	// carts do not expire.
	Purge(ctx context.Context, expiredBefore crdt.Timestamp) (int, error)

	// Versions returns the versions of stored carts, ordered by id: of at most limit carts whose ids come
	// after one and up to another, last, which is counted in. The zero ID begins, LastID reaches to the end
	// of all; fewer than limit are the end of the range, in which the store reads nothing else. What was
	// committed before is counted in, with two exceptions. A damaged cart has the version that is stored beside
	// it, and is left out where there is none. Changes that a store keeps apart because it cannot join them yet
	// are left out too, and with them a cart that has nothing else.
	Versions(ctx context.Context, after, last ID, limit int) ([]StoredVersion, error)

	// Close writes out what was delayed and releases the store.
	Close() error
}

// Change is one step in the life of a cart: the delta, and the state that it led to. State is nil where
// its author does not hold the whole cart. Delta is nil where the state alone tells all, for a store
// that is shared: it has to join the state anyway.
type Change struct {
	ID    ID
	Delta *crdt.Delta
	State *crdt.State
}

var (
	// ErrDamaged says that what is stored of a cart fails its checksum.
	ErrDamaged = errors.New("cart: the stored cart is damaged")
	// ErrNoRoom says that a store takes no commit at present, for want of room or because it cannot be
	// reached, and that the same commit may be tried again.
	ErrNoRoom = errors.New("cart: the store has no room")
)
