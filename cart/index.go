package cart

import (
	"bytes"
	"slices"
	"time"

	"cartd/crdt"
)

// The index tells of every cart, resident or not, which version this node has of it, by [VersionHash]. A
// digest for each of a number of slots, which is the XOR of the versions in it, is what two nodes
// compare. Of a cart that is not resident the version is the one that was stored, with the fragments
// that came since: it may be wrong where a fragment did not begin where the store ended. Then digests
// differ that need not, and repair, which loads the cart, sets it right.

// slotsPerShard is how many slots the carts of a shard are in: a shard is the first eight bits of the id,
// a slot the first twelve.
const slotsPerShard = 16

func slotInShard(id ID) int { return int(id[1] >> 4) }

// setVersion notes the version of a cart. The shard is locked.
func (sh *shard) setVersion(id ID, version uint64) {
	if sh.versions == nil {
		return // a node that is alone compares nothing
	}
	sh.digests[slotInShard(id)] ^= sh.versions[id] ^ version
	sh.versions[id] = version
}

// forgetVersion takes a cart out of the index that is not stored, if nothing is known of it here.
func (sh *shard) forgetVersion(id ID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.carts[id] == nil && sh.fragments[id] == nil {
		sh.digests[slotInShard(id)] ^= sh.versions[id]
		delete(sh.versions, id)
	}
}

// reindex notes that a resident cart has moved from one state to another. r.mu is held.
func (s *Service) reindex(r *resident, from, to *State) {
	if s.replicator == nil {
		return
	}
	sh := s.shard(r.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if from == nil || from.Erased || to.Erased {
		sh.setVersion(r.id, VersionHash(r.id, to))
		return
	}
	sh.setVersion(r.id, sh.versions[r.id]^stepHash(r.id, from.VV, to.VV))
}

// stepHash is the difference between the versions of two vectors, of which the second descends from the
// first.
func stepHash(id ID, from, to crdt.VV) (sum uint64) {
	for i, k := 0, 0; k < len(to); k++ {
		switch {
		case i < len(from) && from[i] == to[k]:
			i++
		case i < len(from) && from[i].Replica == to[k].Replica:
			sum ^= vectorHash(id, from[i:i+1]) ^ vectorHash(id, to[k:k+1])
			i++
		default:
			sum ^= vectorHash(id, to[k:k+1])
		}
	}
	return sum
}

// spanHash is the difference that a delta makes to the version of a cart that had just its base.
func spanHash(id ID, d *crdt.Delta) (sum uint64) {
	for i, e := range d.VV {
		base := d.Base.Get(e.Replica)
		if base == e.Seq {
			continue
		}
		sum ^= vectorHash(id, d.VV[i:i+1])
		if base > 0 {
			sum ^= vectorHash(id, crdt.VV{{Replica: e.Replica, Seq: base}})
		}
	}
	return sum
}

const (
	seedBatch = 4096
	seedRetry = time.Second
	// seedAgain is how long it may take until a node learns of what only the database has: what a node
	// committed that could reach nobody else, and died.
	seedAgain = time.Minute
	// catchUps is how many carts are read anew at once for that, and catchUpPause how long after the last ones.
	catchUps     = 64
	catchUpPause = 50 * time.Millisecond
)

// seeding reads the versions of what is stored, at the start and, where other nodes write to the store,
// again and again.
func (s *Service) seeding() {
	for again := true; again; again = s.shared && s.pause(seedAgain) {
		s.seed()
	}
}

// pause waits, and reports whether the Service still runs then.
func (s *Service) pause(d time.Duration) bool {
	over, stop := s.scheduler.After(d)
	s.scheduler.Wait(over, s.running.Done(), nil)
	stop()
	return s.running.Err() == nil
}

// seed reads the versions of all that is stored.
func (s *Service) seed() {
	first, behind := !s.seeded.Load(), 0
	for after, done := (ID{}), false; !done; {
		stored, err := s.store.Versions(s.running, after, seedBatch)
		if s.running.Err() != nil {
			return
		}
		if err != nil {
			s.log.Warn("reading the versions of the stored carts", "error", err)
			if !s.pause(seedRetry) {
				return
			}
			continue
		}
		for _, v := range stored {
			after = v.ID
			sh := s.shard(v.ID)
			sh.mu.Lock()
			version, known := sh.versions[v.ID]
			if !known {
				sh.setVersion(v.ID, v.Version)
			}
			r := sh.carts[v.ID]
			sh.mu.Unlock()
			if known && version != v.Version && r != nil {
				s.catchUp(r, first)
				if behind++; behind%catchUps == 0 && !s.pause(catchUpPause) {
					return
				}
			}
		}
		done = len(stored) < seedBatch
	}
	s.seeded.Store(true)
}

// catchUp has a cart joined with what is stored of it, which nobody else may have: it was committed by a node
// that has died since. A cart that is dirty differs from what is stored anyway, but at first, when it came
// from a peer.
func (s *Service) catchUp(r *resident, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone || r.unpack() != nil {
		return
	}
	s.resized(r)
	if first || !r.dirty() {
		s.refresh(r)
	}
}

// versionsFrom returns what the index has of the slot of from, sorted by id and beginning at from.
func (sh *shard) versionsFrom(from ID) (z []StoredVersion) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for id, version := range sh.versions {
		if slotInShard(id) == slotInShard(from) && bytes.Compare(id[:], from[:]) >= 0 {
			z = append(z, StoredVersion{id, version})
		}
	}
	slices.SortFunc(z, func(a, b StoredVersion) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return z
}
