package gossip

import "context"

// Slots is the number of slots that carts are in: that of a cart is the first twelve bits of its id.
const Slots = 4096

// SlotOf returns the slot of a cart.
func SlotOf(id [16]byte) int { return int(id[0])<<4 | int(id[1])>>4 }

// Carts are the carts of this node, as far as gossip is concerned with them. A payload is the
// encoding of a delta or of a whole state; both are joined in the same way, and joining one again
// changes nothing. The methods may be called from any goroutine; those without a context do no I/O.
type Carts interface {
	// Deliver takes a payload that the peer of start id from sent. When it returns held, this node
	// keeps what is in it until it is durable elsewhere. Otherwise lacks tells why: the payload needs
	// what this node lacks, and the whole state would be held; or the payload is refused.
	// The payload must not be kept or changed after the return.
	Deliver(from uint64, id [16]byte, payload []byte) (held, lacks bool)

	// Arrive takes a payload from another region, as Deliver does. Where it is not durable there, it is to be held
	// because that region cannot.
	Arrive(region string, durable bool, id [16]byte, payload []byte) (held, lacks bool)

	// Mark takes what the peer of start id from knows of the safety of a cart.
	Mark(from uint64, id [16]byte, mark []byte)

	// Recall returns the durable state of a cart, as a payload, if it is in memory.
	Recall(id [16]byte) (payload []byte, known bool)

	// Keep tells which slots this node owns, and which it is to keep beside these, since not all of their owners
	// are known to have what it has of them. Of all other slots it lets go what is stored, or safe elsewhere, and
	// tells no more in Digests. Until the first call it keeps all slots.
	Keep(own, held [Slots / 64]uint64)

	// Seeded returns the slots of which Digests and EachVersion tell of every cart that is stored.
	Seeded() (slots [Slots / 64]uint64)

	// Digests returns a digest of each slot: equal slots of two nodes have equal digests, and unequal
	// ones nearly never do.
	Digests() *[Slots]uint64

	// EachVersion calls yield with the id and the version of each cart of the slot of from, in the order
	// of their ids and beginning at from, until it returns false. Carts of one id are equal if their
	// versions are, nearly certainly.
	EachVersion(from [16]byte, yield func(id [16]byte, version uint64) bool)

	// Vector returns the encoded version vector of a cart, which it may load, and known as false where
	// there is no such cart. An error says that the cart cannot be loaded at present.
	Vector(ctx context.Context, id [16]byte) (vector []byte, known bool, err error)

	// Compare tells whether this node has something of the cart that the version vector lacks (ahead)
	// and the other way round (behind); both, or neither, may be. It may load the cart. An error says that this is not
	// known at present; with behind, that it will be when this node has joined the other's state.
	Compare(ctx context.Context, id [16]byte, vector []byte) (ahead, behind bool, err error)

	// State returns the whole latest state of a cart, as a payload, and what to call when a peer holds it,
	// from any goroutine and with its start id. It may load the cart. A nil payload says that there is
	// no such cart.
	State(ctx context.Context, id [16]byte) (payload []byte, held func(holder uint64), err error)

	// EachUnsaved is EachVersion, but only for carts of which this node has what the database lacks. Where nodes share
	// no database, that is all of them.
	EachUnsaved(from [16]byte, yield func(id [16]byte, version uint64) bool)

	// Unsaved returns what this node has of a cart and the database lacks, as payloads, or more. It loads the cart
	// only where nodes share no database.
	Unsaved(ctx context.Context, id [16]byte) (payloads [][]byte, err error)

	// Durable returns the whole durable state of a cart, as a payload. It may load the cart. A nil payload says
	// that there is nothing durable of such a cart.
	Durable(ctx context.Context, id [16]byte) (payload []byte, err error)

	// Lost tells that a peer went away, and with it what it held, or that it is about to.
	Lost(peer uint64)
}

// Version is the version of a cart.
type Version struct {
	ID      [16]byte
	Version uint64
}
