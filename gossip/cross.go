package gossip

// Cross sends a change of a cart to its owners in the other regions.
func (c *Core) Cross(_ [16]byte, _ []byte, _ bool, _ func(holder uint64)) {}

// Abroad returns how many processes of other regions are there to hold a change at present.
func (c *Core) Abroad() int { return 0 }
