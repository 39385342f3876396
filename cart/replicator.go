package cart

// Replicator keeps the other holders of a cart up to date. What it moves is opaque to it. Its methods
// return at once, and what they are given to call back is called later, from any goroutine.
type Replicator interface {
	// Replicate sends a delta, which must not be changed afterwards, to the other owners of a cart. It
	// calls held for each of them that has acknowledged it, with the start id of that process.
	Replicate(id [16]byte, delta []byte, held func(holder uint64))

	// Mark tells the other owners what this node knows of the safety of a cart.
	Mark(id [16]byte, mark []byte)

	// Cross sends a change of a cart to its owners in the other regions: one that is durable here, or one that this
	// region cannot hold. It calls held, if not nil, with the start id of each process there that has it.
	Cross(id [16]byte, delta []byte, durable bool, held func(holder uint64))

	// Abroad returns how many processes of other regions are there to hold a change at present.
	Abroad() int

	// Peers returns how many other nodes are there to hold a change at present.
	Peers() int

	// HandedOver reports whether enough other nodes have all that this one has: it is needed no more.
	HandedOver() bool

	// Alive reports whether a holder is still there.
	Alive(holder uint64) bool

	// Home returns a slot that this node is the first to own, drawn at random, or -1 where there is none: the first
	// twelve bits of the id of a cart that is to be made here.
	Home() int

	// Rank returns the place of this node among the owners of a cart: 0 is the first.
	Rank(id [16]byte) int

	// Synced reports whether this node knows of nothing that it may lack.
	Synced() bool

	// Fetch asks the other nodes for what they have in memory of a cart. It calls answer once, with the
	// whole, durable states that they have; complete tells whether all have answered. With lacking, which says that the
	// nodes of this region have a part of it at most, those of others are asked, too.
	Fetch(id [16]byte, lacking bool, answer func(payloads [][]byte, complete bool))
}

// Durability is how safe a write has to be before it is acknowledged.
type Durability int

// The durabilities that a request may ask for.
const (
	Default  Durability = iota // one node more holds it than may fail, or the database has it
	Database                   // the database has it
)

// Reached is how safe a write is.
type Reached struct {
	Database bool // the database has it
	Holders  int  // else so many nodes do, the author included
}
