// Package chaos has no code but tests: three nodes and a PostgreSQL, or two regions of as many, each a host of its own
// in a network namespace, shoppers at work, and one thing at a time that goes wrong. It checks what the documentation
// promises, by what the shoppers got and by what the carts show in the end.
//
// # The way of a run
//
// Each nemesis has a cluster of its own: a bridge and network namespaces on it, four of a region, for a database and
// three nodes. Regions are cut off from each other by rules for packets between their hosts. The shoppers of [cartd/internal/workload] are in the root namespace, on the bridge's own address, and send requests
// to nodes that say they are ready, as a load balancer would. Of two regions each has half of the shoppers, who work on
// the same carts and stay in their region while it has a ready node: who goes back and forth while the regions are cut
// off is told to come back, as her own writes go before an answer. They work for a while; the nemesis does its work for
// as long as it was given, and undoes it; the shoppers stop at once. That is on purpose: from then on nothing but the
// nodes themselves can bring the nodes together, since no request makes them look at a cart. Then the carts are
// read at every node of all regions until all show the same, and are compared with the ledger of the shoppers. In the
// end every database has every cart.
//
// # What is checked
//
//   - Nothing acknowledged is lost, nothing removed comes back, nothing is counted twice, no session goes back in
//     time, and no answer is one that may never be.
//   - All nodes show the same of every cart within 5 s after the fault was undone.
//   - Nodes that run and are not cut off answer 99.9 % of what they are sent. The time of an attempt counts as a
//     whole: one at a node that was killed, paused, cut off or stopped meanwhile, and not seen ready again since,
//     is left out. In a rolling restart all attempts count, and all succeed. While every fifth packet is lost, it
//     is 99 %. Nothing is promised after all nodes died: who was shown what is lost now is told to come back.
//   - What all nodes of a single region lost at once had been acknowledged by peers alone, and in the 5 s before. What a
//     region lost that has another one beside it, in the last second; also what its database had acknowledged, where
//     that is lost as well, and nothing that the other region acknowledged. Until who was shown it gives up to ask for
//     it, "context-unavailable" is the right answer, and not counted.
//   - After a kill somebody takes over within a second: for every cart that somebody wanted to write. The nodes
//     repair the one that is back without sending each other everything again and again.
//   - The fault was one: packets were dropped, the database was missed.
//
// # Running it
//
//	make chaos                                      all of it, for 15 s each
//	make chaos NEMESIS=kill,isolate DURATION=4s     some of it
//	make chaos NEMESIS=kill SEED=17                 the same victim and the same shoppers again
//
// It needs Linux, root, iproute2, iptables, the binaries of PostgreSQL, and for some of it strace. All that is made
// carries the id of the process in its name and is removed in the end; what a run left that was killed is
// removed by the next one. A failure leaves a directory with the logs, the ledger and what the nodes say of
// themselves, and tells where.
package chaos
