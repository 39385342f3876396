package cart

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
)

// What this file has is for a region with more nodes than a cart has owners. A node indexes the slots that it owns
// and is told of their changes. It keeps what it has of those that it holds for others, and for a while of any that
// something came for: who replicates tells only later that they are held. Of the rest it keeps what the store
// lacks. A resident cart that this node does not own is a guest: nobody tells it of its changes. So is one that was
// resident when its slot was gained.

// slotsPerShard is how many slots the carts of a shard are in: a shard is the first eight bits of the id,
// a slot the first twelve.
const (
	slotsPerShard = 16
	slots         = shards * slotsPerShard
)

func slotOf(id ID) int         { return int(binary.BigEndian.Uint16(id[:]) >> 4) }
func slotInShard(id ID) int    { return int(id[1] >> 4) }
func slotBit(id ID) shardSlots { return 1 << slotInShard(id) }

// lastOf returns the greatest id of a slot.
func lastOf(slot int) ID {
	id := LastID
	binary.BigEndian.PutUint16(id[:], uint16(slot<<4|0xf))
	return id
}

// shardSlots is a set of slots of a shard, a bit each.
type shardSlots uint16

const allOfShard = ^shardSlots(0)

func (z shardSlots) has(id ID) bool { return z&slotBit(id) != 0 }

// slotSet is a set of slots.
type slotSet [slots / 64]uint64

const shardsPerWord = 64 / slotsPerShard

func (z *slotSet) has(slot int) bool { return z[slot/64]>>(slot%64)&1 != 0 }

func (z *slotSet) ofShard(i int) shardSlots {
	return shardSlots(z[i/shardsPerWord] >> (i % shardsPerWord * slotsPerShard))
}

func (z *slotSet) addShard(i int, of shardSlots) {
	z[i/shardsPerWord] |= uint64(of) << (i % shardsPerWord * slotsPerShard)
}

// run returns the first and the last slot of the next run in the set, from one on. It goes over gaps of at most so
// many slots. Where there is none, first is slots.
func (z *slotSet) run(from, gap int) (first, last int) {
	for first = from; first < slots && !z.has(first); {
		first++
	}
	last = first
	for i := first + 1; i < slots && i <= last+gap+1; i++ {
		if z.has(i) {
			last = i
		}
	}
	return first, last
}

// Keep tells which slots this node owns, and which it is to hold beside these: the bit slot%64 of the word slot/64.
// Those that it gains are indexed soon, and [Service.Seeded] then. Of those that are neither own nor held it lets go
// what is in memory and in the index, once the store has it; nothing is deleted from the store. One call is made at
// a time. A node that is alone keeps all.
func (s *Service) Keep(own, held [slots / 64]uint64) {
	if s.replicator == nil {
		return
	}
	gained := false
	for i := range s.shards {
		own, held := (*slotSet)(&own).ofShard(i), (*slotSet)(&held).ofShard(i)
		if s.shards[i].assign(own, held) {
			gained = true
		}
	}
	s.placed.Store(true)
	if gained {
		s.gains.tell()
	}
}

// gains tells when this node owns slots that it did not before.
type gains struct {
	mu   sync.Mutex
	next chan struct{} // nil where nobody waits
}

// wait returns a channel that is closed when that is so.
func (g *gains) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = make(chan struct{})
	}
	return g.next
}

func (g *gains) tell() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next != nil {
		close(g.next)
		g.next = nil
	}
}

// Seeded returns the slots that this node owns of which Digests and EachVersion tell of every cart that is stored.
func (s *Service) Seeded() [slots / 64]uint64 {
	var z slotSet
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		z.addShard(i, sh.seeded)
		sh.mu.Unlock()
	}
	return z
}

// Indexed reports whether these are all that this node owns, and it knows which it does.
func (s *Service) Indexed() bool {
	if s.replicator == nil || !s.placed.Load() {
		return false
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		missing := sh.own &^ sh.seeded
		sh.mu.Unlock()
		if missing != 0 {
			return false
		}
	}
	return true
}

// kept returns the slots of which the shard lets go nothing. The shard is locked.
func (sh *shard) kept() shardSlots { return sh.own | sh.held | sh.recent[0] | sh.recent[1] }

// assign tells which slots are own, and which are held. It reports whether some are own that were not.
func (sh *shard) assign(own, held shardSlots) (gained bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before := sh.kept()
	gained = own&^sh.own != 0
	if changed := own ^ sh.own; changed != 0 {
		for id, r := range sh.carts {
			if changed.has(id) {
				sh.guests[id] = r
			}
		}
	}
	sh.own, sh.held = own, held
	sh.reading &= own
	sh.seeded &= own
	sh.release(before&^sh.kept(), math.MaxInt64)
	return gained
}

// touch notes that something came for a cart that others own. The shard is locked.
func (sh *shard) touch(id ID) { sh.recent[0] |= slotBit(id) &^ sh.own }

// age lets a tick of the janitor pass for the slots that are not own.
func (sh *shard) age(now int64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before := sh.kept()
	sh.recent = [2]shardSlots{0, sh.recent[0]}
	sh.release(before&^sh.kept(), now-1)
	sh.evictGuests(now - 1)
}

// release lets go of some slots. What is not clean, or was used since a tick, stays for now, in the index as well. The
// shard is locked.
func (sh *shard) release(gone shardSlots, since int64) {
	if gone == 0 {
		return
	}
	sh.evictGuests(since)
	left := make(map[ID]uint64) // a map does not shrink
	for id, version := range sh.versions {
		if gone.has(id) && sh.carts[id] == nil && sh.fragments[id] == nil {
			sh.unindex(id)
		} else {
			left[id] = version
		}
	}
	sh.versions = left
}

// evictGuests evicts the carts that are clean, whose slots are not kept, and that were not used since a tick. The
// shard is locked.
func (sh *shard) evictGuests(since int64) {
	kept := sh.kept()
	for id, r := range sh.guests {
		if kept.has(id) || !r.mu.TryLock() {
			continue
		}
		if r.clean() && r.used < since {
			sh.remove(r)
		}
		r.mu.Unlock()
	}
}

// lapse takes a cart out of the index that has left memory, if its slot is not kept. The shard is locked.
func (sh *shard) lapse(id ID) {
	if !sh.kept().has(id) && sh.carts[id] == nil && sh.fragments[id] == nil {
		sh.unindex(id)
	}
}

// update has a guest joined with what the store and the peers have of it, unless that was done within a tick. Where
// neither can be asked, a cart that is kept is shown as it is, for its owners may be away as well. r.mu is held on the
// way in and out, but not while it waits.
func (s *Service) update(ctx context.Context, r *resident) error {
	least := s.tick.Load()
	if r.read < least {
		over, stop := s.scheduler.After(loadWait)
		defer stop()
		s.refresh(r)
		r.await(ctx, over, func() bool { return !r.refreshing })
	}
	sh := s.shard(r.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case r.read >= least:
		if sh.own.has(r.id) { // now it is told of all that comes
			delete(sh.guests, r.id)
		}
	case !sh.kept().has(r.id):
		return &Error{Reason: Unavailable, Detail: "the cart is other nodes', and what it is now cannot be read", Err: ctx.Err()}
	}
	return nil
}
