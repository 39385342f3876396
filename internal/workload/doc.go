// Package workload sends clients to the nodes of a region, or of several, keeps a ledger of what they did, and tells
// afterwards what was lost, came back, or was counted twice.
//
// # What clients do
//
// [Start] creates the carts and sets the clients to work, until [Run.Stop]. A client does one thing at a time to one
// of the carts, which they share: it adds to lines that only grow (SHARED-…) or to one that is added to once (ONCE-…),
// sets or removes the line that is its alone (OWN-…), removes a line of the second kind that it has seen, whoever
// added it, sends a batch, or reads. One cart in six is the own of a client, which clears it now and then.
//
// Where nodes are of several regions, so are clients: each goes to nodes of its own region, and to those of others while
// none of these is ready, as a global load balancer would have it. What it has seen at home the others may lack.
//
// Every write has an Idempotency-Key, and every request the Cart-Context of the client's last answer. A request that
// is not answered goes to another node under the same key, until its outcome is known; a part of the writes whose
// outcome is unknown is let be. Where nodes say context-unavailable for a sixth of [Options.Patience] the client
// drops what it has seen and reads again. A removal that finds nothing is one that did not happen.
//
// net/http must not repeat a request by itself, which it does where a connection that it kept is closed before the
// answer: the attempt would be counted neither here nor by [Options.Observe]. So requests have bodies that cannot
// be read twice.
//
// # What is compared
//
// Each answer is compared with what its client was shown before and wrote itself. A line that only grows never falls;
// one that was added once may go, once somebody asked for that, and never comes back; the assignments of a line grow,
// so nobody is shown a smaller one after a greater one, and no other than its own on the line that is the client's.
//
// [Run.Audit] compares what all nodes show in the end. What was acknowledged has happened; what is of unknown outcome
// has or has not, each for itself; but what somebody was shown was durable, so it has happened, too. Of several
// explanations the verdict counts that with the fewest writes. Writes that [Run.AtRisk] names are as of unknown
// outcome, unless somebody was shown them at another time.
package workload
