// Package api serves the carts of a [cart.Service] over HTTP, as openapi.yaml says. The document comes
// first: routing and types are generated from it, and the tests hold every answer against it.
//
// A request passes the middleware of New, which names it and answers for a handler that panics. One for a
// cart that other nodes own goes to them, where there is a [Forwarder]. The generated router calls a
// method of [Server]; that reads the headers and the body (a parser that is stricter than
// encoding/json), hands package cart its commands, and writes the cart that comes back with encoders
// that append to a buffer. Whatever goes wrong is a problem (RFC 9457): the reasons of package cart are
// mapped to their statuses in one table.
package api
