// Package gossip keeps the carts of the nodes of a region equal. It moves payloads keyed by cart id
// and knows nothing of what is in them: what it needs of the carts is the interface [Carts].
//
// # The way of a change
//
//   - Replicate puts the delta of a change into the outbox of each peer that owns the cart.
//   - A link, one TLS connection a pair of nodes, takes what has gathered there as one frame: at once
//     when the link is idle, otherwise at 64 KiB or after 1 ms.
//   - The peer hands each delta to its Carts, which hold it from then on, or refuse it, and
//     acknowledges the frame: all up to its number, but those that were refused.
//   - The acknowledgement calls back to who replicated the change: one more process holds it.
//
// An outbox is bounded. What overflows is dropped, and the peer marked as in need of sync, as it is
// when it has just come up: repair then compares what both have and sends what one of them lacks. This
// is what makes every loss harmless.
//
// # Placement
//
// A cart is in one of [Slots] slots, and a slot is owned by a few sites, which are gossip addresses: by those that
// win it by rendezvous hashing, in distinct zones where there are any. A site is out when its process says that it
// drains, or has been lost for 30 s. What a node has of a slot that it does not own, it holds until all owners
// have it. Nodes may disagree on who owns a slot: what was acknowledged is held by enough nodes, whoever they are.
//
// # Repair
//
// Two nodes exchange a digest for each slot that both own, and for those that one of them holds for the other; for
// the slots that differ the version of each cart; for the carts that differ their version vectors; and
// then the states that one of them lacks.
//
// # Requests
//
// Forward finds an owner of a cart for a request that came to another node. The request takes a connection of its own
// kind at the link port: Dial opens one, and Requests hands out those that came.
//
// # Regions
//
// Two nodes of each region are its bridges, by an election that is a function of its members. Bridges have
// links with those of other regions, which they know from a pool of the nodes of all regions. What is durable in a region
// crosses to the owners of the cart in the others, by way of the bridges; and for each slot, the first live owner in
// one region repairs with that in another. A process of another region is a peer without a link: see remote.
//
// # What does the I/O
//
// [Core] is a state machine: frames, ticks and members come in, frames and calls of Carts go out. It
// starts no goroutine, opens no connection and reads no clock but the one it is given, so that a
// simulation can drive it. [Node] is a Core with memberlist, which tells who is there, and links.
package gossip
