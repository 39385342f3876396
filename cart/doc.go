// Package cart is the shopping cart and the service that keeps the carts of one node. It builds on
// package crdt and knows no network, no SQL and no HTTP: what it needs of them are the interfaces
// [Store] and [Replicator].
//
// # The life of a write
//
// A caller hands [Service.Execute] a [Request]: commands for one cart, what its client has seen of
// the cart ([Context]), and perhaps a key that names the request across retries.
//
//   - The cart becomes resident, if it is not: loaded from the store, once for all who want it, and
//     given a replica id that was never used before.
//   - The request waits for its turn: of those that change one cart, one at a time makes the next
//     state, while commits and readers go on.
//   - The commands observe the cart's latest state. Those that were executed before are skipped.
//     Every other becomes an event (crdt.Event), and the events together one delta and the next
//     latest state. One refused command refuses them all, and nothing has happened.
//   - The change joins the queue of the committer and, in a cluster, goes to the other holders. The
//     committer hands the store whatever waits when the last commit is done, as one commit.
//   - When the store has it, or enough holders do, the change is safe. The durable state of the cart
//     moves on to it as soon as all changes before it are safe too.
//   - Execute returns that state. Readers are shown durable states only, and a refusal or a replay
//     waits until what it observed is durable, so nobody learns of a write that can still be lost.
//
// A store without room fails the writes that wait, with [NotDurable], and refuses the next ones
// before they change anything; what it could not take is offered again until it can. After any other
// failure of the store it is unknown what is on disk: the Service acknowledges nothing any more and
// closes [Service.Failed].
//
// # Memory
//
// A cart that was not used for a while is packed into its encoding. Beyond the memory budget the
// carts that were not used for longest are evicted, but never one that is dirty: if those alone
// exceed the budget, requests for other carts are refused with [ServiceOverCapacity].
//
// # Time
//
// An expired cart is refused with [Expired]. [TimeToPurge] later it is deleted.
package cart
