// Package workload sends shoppers to the nodes of a region, keeps a ledger of what they did, and tells
// afterwards what was lost, came back, or was counted twice.
package workload
