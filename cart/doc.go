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
//   - The change becomes durable once it and all before it are safe: on a node that is alone, when the store
//     has it. Execute then returns the state that it led to.
//
// Readers are shown durable states only, and a refusal or a replay waits until what it observed is durable, so
// nobody learns of a write that can still be lost.
//
// A node that is alone hands its store whatever waits when the last commit is done, as one commit. A store
// without room fails the writes that wait, with [NotDurable], and refuses the next ones before they change
// anything; what it could not take is offered again until it can. After any other failure it is unknown what
// is on disk: the Service acknowledges nothing any more and closes [Service.Failed].
//
// # In a region
//
// With a [Replicator] other nodes hold the same carts, and a write is safe when [Options.Tolerate] of them have
// it besides its author, whatever becomes of the database meanwhile:
//
//   - The delta goes to the peers. Each joins it, or keeps it as a fragment where it does not have the cart in
//     memory, and lets nothing of it go before the store has it ([Service.Deliver]).
//   - After 20 ms without enough of them the change goes to the database, whose commit makes it safe as well.
//     After 450 ms without either the caller is told [NotDurable]; the change stays, and may become safe.
//   - The database gets what is safe later: from the first owner of a cart after a pause of 250 ms to 5 s, from
//     the next ones where that did not, from all at once when a holder is lost. Who saved a cart tells the
//     others so ([Service.Mark]).
//   - What gets lost on the way is repaired: nodes compare digests of what they have, and send each other whole
//     states ([Service.Digests], [Service.Vector], [Service.Compare], [Service.State]).
//   - A cart is in one of 4096 slots, by its id. [Service.Keep] tells which of them this node owns, and compares with
//     the store; what it has of others it lets go once that is safe.
//
// Nodes that each keep a file of their own save at once, and that acknowledges nothing: [Options.Shared].
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
