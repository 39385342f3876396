// Package sim has no code but tests: a deterministic simulation of one to three regions. It runs the production
// [cartd/cart.Service] and [cartd/gossip.Core] of three to twelve nodes in one thread, under a seeded
// source of randomness, while messages are lost, nodes and regions die and come back, and checks what the design promises.
//
// # The way of a run
//
// A seed decides everything. It draws a plan: how many regions, one in two thirds of the runs, how many nodes to begin
// with and at most, how many of them may fail, how much memory, whose clock is wrong, how bad the network is. Then, in
// virtual time:
//
//   - The nodes boot, find each other, and become active when they have what the others have.
//   - Sessions of shoppers work at a few carts, at any node of any region, echo Cart-Context or do not, and repeat what
//     was not acknowledged, there or elsewhere, while faults come and go: partitions, resets, crashes with loss of memory,
//     drains, outages of the database, in some of which all processes restart one after the other. In a third
//     of the runs nodes join, up to nine, warm up, and leave again, or their machine is lost for good: a cart
//     has three owners, so that slots move.
//   - Where there are several regions, they are also cut off from each other, in one direction or in both; the database of
//     one is down while its nodes do not reach each other, so that others hold what its bridges take; and all nodes of one
//     die at once, and the database is wiped or not, when nothing that was shown depends on them.
//   - Everything is healed. Then the rejoin loop has its period to bring the nodes together, all have to agree
//     on who owns what, and five seconds after that the replicas of the owners have to be equal. In several regions it may
//     take longer by a period of the comparison between them, since who wrote last may have died before it told the
//     others, and by a session that is given up, since a bridge that is found may not know the way back yet. Who
//     is no owner has to let go of what it has.
//   - All nodes take a write and a read, the checkers look at every replica, and all nodes are closed.
//
// # What is real, and what is not
//
// Services and Cores are those of production, through their public interfaces. An activity of a Service
// is a coroutine; the scheduler resumes one of those that can go on, by chance, and lets virtual time
// pass when none can. The network carries the bytes that a Core makes. A request goes to any node; that of the
// cart's owners answers to whom [cartd/gossip.Core.Forward] has it passed on, by a model of the HTTP forwarder. The
// database is a model that joins,
// under outages, hangs, lost answers and stale reads; each region has one. Who is a bridge, production code decides
// ([cartd/gossip.Term]), and links between regions are between bridges, of 10 to 80 ms one way. Membership, of a region
// and of all regions, is a model of memberlist: who is out of
// reach for a while is forgotten, on both sides, and stays so until somebody joins again; and it tells, sooner or
// later, who is joining, active or about to leave.
//
// # What is checked
//
//   - lost-write: what was acknowledged is in every replica at the end.
//   - resurfaced: no replica ever has an entry that an event it knows has cancelled.
//   - quantity: what a state shows follows from the events in it, by a model that has nothing in common
//     with the code (model_test.go).
//   - counted-twice: the retry of a command counts once.
//   - equal-bytes: states with equal version vectors have equal encodings.
//   - dirty-read: what an answer showed is held, from then on, by so many live processes, owners or not, of whatever
//     region, or by the database of one, that the failures which are tolerated cannot take it away.
//   - part: what an answer shows begins with the creation of the cart.
//   - unique-dots: no two events have one name.
//   - session: a session that sends its context never goes back, and sees what it wrote.
//   - forward: no request is passed on twice.
//   - placement: a healed region agrees on the owners of each slot, in different zones where there are any.
//   - convergence: the owners of a cart, in all regions, are equal in time, and each database has what they have.
//   - came-back: what a database has lost, by going back in time, it gets again.
//   - recovery: a region that lost everything has what the others had stored before a node of it is active, if it
//     reaches them.
//   - left-over: who does not own a cart keeps nothing of it for ever.
//   - liveness: every request is answered in time, and a healed region takes writes at every node.
//
// What the simulation may do to the nodes is bounded by the promise: no more processes die than are
// tolerated, until what they held is held elsewhere again, or those that took their places are active and say that
// they have it. A region is lost when all that was shown is held by so many nodes elsewhere, or in a database that stays.
//
// # Running it
//
//	go test ./internal/sim                       200 seeds, and the planted bugs
//	SEEDS=1000 go test ./internal/sim -run TestSimulation -count=1 -v
//	SEED=17 go test ./internal/sim -run TestSimulation -count=1 -v     one seed, with its whole trace
//	REGIONS=2 …                                  several regions, at least so many, in each run; 1 is one alone
//	FAULT='restart all' …                        that fault often; the names are those of faults, and resize
package sim
