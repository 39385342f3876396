// Package crdt is a small library of delta-state CRDTs: what several replicas may change at once,
// without asking each other, and merge into one outcome.
//
// It knows no I/O, no clock and no logger: everything in it is a pure function of values. A
// [State] is made of lattices, one a file:
//
//   - [VV], the version vector: which events the state contains.
//   - [Line], a [Counter] of entries: increments and assignments, each under the dot of its event.
//   - [Set], an add-wins set.
//   - [Registers], last writer wins.
//   - [Operations], which command every event executed, so that a retry counts once.
//   - [Lifetime], a minimum and two maxima.
//
// # The way of an event
//
// A command becomes an [Event] at one replica: it observes a state, takes the next [Dot] of its
// replica, and makes a [Delta], which says what this event did. [State.Apply] joins the delta, at
// its author like anywhere else. [Merge] makes one delta of several on their way to one
// destination. [Join] joins full states, which heals whatever got lost. All three are one
// algorithm: a state is a delta with an empty base.
//
// # Laws
//
// Join is commutative, associative and idempotent, so replicas that hold the same events are
// equal, whatever the order and the number of times in which they learned of them. A version
// vector is exactly a set of events: equal vectors mean equal states, and equal bytes in the
// canonical encoding. A delta is joined only by who holds its base, so there is no dot cloud.
//
// # Glossary
//
//	replica    one residence of a state in one process
//	event      an accepted command; a removal is one too
//	dot        the name of an event: (replica id, sequence number)
//	entry      what an event put on a line, alive until an event that observed it cancels it
//	operation  a command with an id of its own; events with one id are its aliases
//	context    the version vector that a command's author had observed
package crdt
