// Package storetest is the contract of cart.Store as a suite of tests. The test of every adapter
// calls Run; what an adapter can do beyond the contract, it tests itself.
//
// The law behind all of it: whatever the order of commits, loads, restarts and crashes, a load
// returns the join of everything that was committed of the cart, in the same canonical bytes.
package storetest
