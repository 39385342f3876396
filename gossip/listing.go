package gossip

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const listingSize = 24 // bytes for a cart in a listing: id, version

// versions returns the first carts of a slot, from an id on: limit of them at most.
func (c *Core) versions(from [16]byte, limit int) (versions []Version) {
	c.o.Carts.EachVersion(from, func(id [16]byte, version uint64) bool {
		versions = append(versions, Version{id, version})
		return len(versions) < limit
	})
	return versions
}

// versionsOf returns the versions here of the carts of a listing, all of one slot.
func (c *Core) versionsOf(listed []Version) (versions []Version) {
	if len(listed) == 0 {
		return nil
	}
	c.o.Carts.EachVersion(listed[0].ID, func(id [16]byte, version uint64) bool {
		for len(listed) > 0 && bytes.Compare(listed[0].ID[:], id[:]) < 0 {
			listed = listed[1:]
		}
		if len(listed) > 0 && listed[0].ID == id {
			versions = append(versions, Version{id, version})
		}
		return len(listed) > 0
	})
	return versions
}

// before returns the versions of the carts before an id.
func before(id [16]byte, versions []Version) []Version {
	n, _ := slices.BinarySearchFunc(versions, id, func(v Version, id [16]byte) int { return bytes.Compare(v.ID[:], id[:]) })
	return versions[:n]
}

func encodeListing(versions []Version) []byte {
	b := make([]byte, 0, len(versions)*listingSize)
	for _, v := range versions {
		b = append(b, v.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, v.Version)
	}
	return b
}

func decodeListing(b []byte) []Version {
	versions := make([]Version, len(b)/listingSize)
	for i := range versions {
		entry := b[i*listingSize:]
		versions[i] = Version{[16]byte(entry), binary.BigEndian.Uint64(entry[16:])}
	}
	return versions
}

// validListing reports whether the carts of a listing are in order, and in the slot of from, and not
// before it.
func validListing(from [16]byte, b []byte) bool {
	if len(b)%listingSize != 0 {
		return false
	}
	for i := 0; i < len(b); i += listingSize {
		id := [16]byte(b[i:])
		order := bytes.Compare(from[:], id[:])
		if order > 0 || order == 0 && i > 0 || SlotOf(id) != SlotOf(from) {
			return false
		}
		from = id
	}
	return true
}

// difference is a cart that two nodes have in different versions, or that one of them has alone.
type difference struct {
	id   [16]byte
	here bool
}

// differences compares two lists of carts, each in order.
func differences(ours, theirs []Version) (differ []difference) {
	for len(ours) > 0 || len(theirs) > 0 {
		switch order := compareHeads(ours, theirs); {
		case order < 0:
			differ = append(differ, difference{ours[0].ID, true})
			ours = ours[1:]
		case order > 0:
			differ = append(differ, difference{theirs[0].ID, false})
			theirs = theirs[1:]
		default:
			if ours[0].Version != theirs[0].Version {
				differ = append(differ, difference{ours[0].ID, true})
			}
			ours, theirs = ours[1:], theirs[1:]
		}
	}
	return differ
}

// compareHeads compares the first ids of two lists, one of which is not empty. The end of a list comes
// after every id.
func compareHeads(a, b []Version) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return bytes.Compare(a[0].ID[:], b[0].ID[:])
}

// root returns a hash of the digests of slots.
func root(digests *[Slots]uint64, slots *slotSet) (hash uint64) {
	for slot := range slots.all() {
		hash = mix(hash ^ digests[slot])
	}
	return hash
}

// firstOf returns the least id of a slot.
func firstOf(slot int) (id [16]byte) {
	id[0], id[1] = byte(slot>>4), byte(slot<<4)
	return id
}

// successor returns the next id.
func successor(id [16]byte) [16]byte {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}
