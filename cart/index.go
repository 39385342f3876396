package cart

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"cartd/crdt"
)

// The index tells of every cart in the slots that this node keeps, resident or not, which version it has of it, by
// [VersionHash]. A digest for each slot, which is the XOR of the versions in it, is what two nodes compare. Of a cart that is not resident the version is the one that was stored, with the fragments
// that came since: it may be wrong where a fragment did not begin where the store ended. Then digests
// differ that need not, and repair, which loads the cart, sets it right.

// setVersion notes the version of a cart. The shard is locked.
func (sh *shard) setVersion(id ID, version uint64) {
	if sh.versions == nil {
		return // a node that is alone compares nothing
	}
	sh.digests[slotInShard(id)] ^= sh.versions[id] ^ version
	sh.versions[id] = version
}

// unindex takes a cart out of the index. The shard is locked.
func (sh *shard) unindex(id ID) {
	sh.digests[slotInShard(id)] ^= sh.versions[id]
	delete(sh.versions, id)
	delete(sh.doubtful, id)
}

// indexes reports whether a cart is in the index, which it is while it is stored, as far as this node knows.
func (sh *shard) indexes(id ID) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	_, known := sh.versions[id]
	return known
}

// forgetVersion takes a cart out of the index that is not stored, if nothing is known of it here.
func (sh *shard) forgetVersion(id ID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.carts[id] == nil && sh.fragments[id] == nil {
		sh.unindex(id)
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
	sh.touch(r.id)
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
	// seedOver is how many carts of other nodes' slots are rather read than left out: a query more takes as long, and
	// longer over a network.
	seedOver  = 64
	seedRetry = time.Second
	// seedAgain is how long it may take until a node learns of what only the database has: what a node
	// committed that could reach nobody else, and died. And of what the database has no more, because it was
	// taken back to an earlier state.
	seedAgain = time.Minute
	// seedProbe is how often it asks the store whether it is there, so as not to wait for that long when it was
	// not: an operator takes a database away to take it back.
	seedProbe = time.Second
	// catchUps is how many carts are read anew at once for that, and catchUpPause how long after the last ones.
	catchUps     = 64
	catchUpPause = 50 * time.Millisecond
)

// seeding reads the versions of what is stored in the slots that this node owns: of those that it gains, and, where
// other nodes write to the store, of all again and again.
func (s *Service) seeding() {
	var incarnation int64
	rest := 0 // probes, before all are read again
	for s.running.Err() == nil {
		gained := s.gains.wait()
		all := rest == 0
		if all {
			incarnation = s.incarnation()
		}
		away := s.seed(all)
		incarnation = cmp.Or(incarnation, s.incarnation()) // it was read from for the first time
		if all {
			rest = int(seedAgain / seedProbe)
		}
		switch {
		case !s.shared:
			s.scheduler.Wait(gained, s.running.Done(), nil)
		case away: // some of it was read before that
			rest = 0
			s.pause(seedRetry)
		default:
			over, stop := s.scheduler.After(seedProbe)
			s.scheduler.Wait(over, gained, s.running.Done())
			stop()
			if !isClosed(over) {
				continue
			}
			if rest--; s.mayHaveGoneBack(incarnation) {
				rest = 0
			}
		}
	}
}

// incarnation is what the store says that changes when it may have been taken back, or 0.
func (s *Service) incarnation() int64 {
	if store, ok := s.store.(interface{ Incarnation() int64 }); ok {
		return store.Incarnation()
	}
	return 0
}

// mayHaveGoneBack reports whether the store is away, or not in the incarnation that it was in: it may be at an earlier
// state.
func (s *Service) mayHaveGoneBack(incarnation int64) bool {
	_, err := s.store.Versions(s.running, LastID, LastID, 1)
	return err != nil || s.incarnation() != incarnation
}

// pause waits, and reports whether the Service still runs then.
func (s *Service) pause(d time.Duration) bool {
	over, stop := s.scheduler.After(d)
	s.scheduler.Wait(over, s.running.Done(), nil)
	stop()
	return s.running.Err() == nil
}

// seed reads the versions of what is stored in the slots that this node owns, all of them or those that it has not
// read since it does, and compares them with the index. It reports whether the store was away in the middle of it.
func (s *Service) seed(all bool) (away bool) {
	wanted := s.toRead(all)
	c := comparison{service: s, stored: make(map[ID]uint64)}
	read, carts := 0, 0 // slots, and what was in them
	after := ID{}
	for from := 0; ; {
		gap := slots // until it is known how many carts a slot has
		if read > 0 {
			gap = seedOver * read / max(1, carts)
		}
		first, last := wanted.run(from, gap)
		if first == slots {
			break
		}
		if first > from {
			after = lastOf(first - 1)
		}
		page, err := s.store.Versions(s.running, after, lastOf(last), seedBatch)
		if s.running.Err() != nil {
			return away
		}
		if err != nil {
			if !away {
				s.log.Warn("reading the versions of the stored carts", "error", err)
			}
			away = true
			if !s.pause(seedRetry) {
				return away
			}
			continue
		}
		for _, v := range page {
			if !c.upTo(int(v.ID[0])) {
				return away
			}
			if wanted.has(slotOf(v.ID)) {
				c.stored[v.ID] = v.Version
			}
		}
		if after, from = lastOf(last), last+1; len(page) == seedBatch {
			after = page[seedBatch-1].ID
			from = slotOf(after) // which may have more
		}
		read, carts = read+slotOf(after)-first+1, carts+len(page)
	}
	c.upTo(shards)
	return away
}

// toRead returns the slots that are to be read now, of which the shards know it.
func (s *Service) toRead(all bool) (wanted slotSet) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		if sh.reading = sh.own; !all {
			sh.reading &^= sh.seeded
		}
		wanted.addShard(i, sh.reading)
		sh.mu.Unlock()
	}
	return wanted
}

// comparison goes through the shards, with what is stored of the carts of each.
type comparison struct {
	service *Service
	next    int // the shard that stored is of
	stored  map[ID]uint64
	behind  int // carts that were looked at
}

// upTo compares the shards before one, and returns false when the Service is closed meanwhile.
func (c *comparison) upTo(shard int) bool {
	for ; c.next < shard; c.next++ {
		sh := &c.service.shards[c.next]
		differ := sh.compare(c.stored, c.service.shared)
		for _, d := range differ {
			d.resident.doubt()
		}
		for _, d := range differ {
			c.service.catchUp(d.resident, d.first)
			if c.behind++; c.behind%catchUps == 0 && !c.service.pause(catchUpPause) {
				return false
			}
		}
		clear(c.stored)
	}
	return true
}

// difference is a cart in memory of which the store has another version, or nothing.
type difference struct {
	resident *resident
	first    bool // it is stored, and its slot was not read before
}

// compare sets right what the index says of carts that are not in memory, and returns those that are and of
// which the store has another version, or nothing. Other nodes write to a shared store, and it may be taken
// back to an earlier state. It is about the slots that were read and are still own.
func (sh *shard) compare(stored map[ID]uint64, shared bool) (differ []difference) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	read := sh.reading
	sh.reading = 0
	if read == 0 {
		return nil
	}
	first := read &^ sh.seeded
	sh.seeded |= read
	for id, version := range stored {
		if _, known := sh.versions[id]; !known && read.has(id) {
			sh.setVersion(id, version)
		}
	}
	doubtful := make(map[ID]uint64)
	for id, version := range sh.versions {
		is, found := stored[id]
		was, again := sh.doubtful[id]
		r := sh.carts[id]
		switch {
		case !read.has(id):
			if again {
				doubtful[id] = was
			}
		case found && is == version, !found && !shared:
		case r != nil:
			differ = append(differ, difference{r, found && first.has(id)})
		case !shared && found && first.has(id): // a peer's came before it was read: what both make, a load tells
			sh.setVersion(id, is)
		case !shared || sh.fragments[id] != nil || sh.loads[id] != nil: // it may be on its way to the store
		case version == VersionHash(id, &State{Erased: true}):
			sh.keep(id, &crdt.Delta{State: State{Erased: true}}, true)
		case !again || was != version:
			doubtful[id] = version // but it may have come to the store while that was read
		case found:
			sh.setVersion(id, is)
		default:
			sh.unindex(id)
		}
	}
	sh.doubtful = doubtful
	return differ
}

// doubt keeps a cart in memory until catchUp has looked after it.
func (r *resident) doubt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubted = r.service.shared
}

// catchUp has a cart joined with what is stored of it, which nobody else may have: it was committed by a node
// that has died since. Or it is the store that lacks what it once had. A cart that is dirty differs from what
// is stored anyway, but at first, when it came from a peer.
func (s *Service) catchUp(r *resident, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.doubted = false
	if r.gone || r.unpack() != nil {
		return
	}
	s.resized(r)
	switch {
	case !first && r.dirty():
		r.stored = extent{} // it may have less than it had: all of the cart is saved, whatever others save of it
	case purged(r.latest, s.now()): // from the store as well
		s.drop(r)
	default:
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
