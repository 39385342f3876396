package cart

// slotsWhere returns the slots for which in holds.
func slotsWhere(in func(slot int) bool) (z [slots / 64]uint64) {
	for slot := range slots {
		if in(slot) {
			z[slot/64] |= 1 << (slot % 64)
		}
	}
	return z
}

var allSlots, noSlots = slotsWhere(func(int) bool { return true }), [slots / 64]uint64{}
