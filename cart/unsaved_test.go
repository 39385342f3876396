package cart

import (
	"context"
	"errors"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// unsavedOf returns the versions of what a Service says that the store lacks.
func unsavedOf(s *Service) map[ID]uint64 {
	versions := make(map[ID]uint64)
	for slot := range slots {
		var from ID
		from[0], from[1] = byte(slot>>4), byte(slot<<4)
		s.EachUnsaved(from, func(id [16]byte, version uint64) bool {
			versions[id] = version
			return true
		})
	}
	return versions
}

// While nothing can be loaded, a node gives another one what the store lacks, and that saves it.
func TestUnsavedIsGivenWithoutALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFakeStore()
		s := start(t, peered(store, newFakeReplicator()))
		clean, part, resident, erased := newForeign(t, time.Now(), 3), newForeign(t, time.Now(), 3), newForeign(t, time.Now(), 3), NewID()
		deliver(t, s, clean.id, whole(clean.states[3]))
		deliver(t, s, part.id, whole(part.states[2]))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		clean.client(t, s).want("A=3")
		store.failCommits(ErrNoRoom)
		deliver(t, s, resident.id, whole(resident.states[3]))
		resident.client(t, s).want("A=3")
		deliver(t, s, part.id, payload(part.deltas[3])) // what it builds on is in the store alone
		deliver(t, s, erased, whole(&State{Erased: true}))
		away := errors.New("the database is away")
		store.hookLoad(func(context.Context, ID) error { return away })

		unsaved := unsavedOf(s)
		for _, id := range []ID{part.id, resident.id, erased} {
			if _, found := unsaved[id]; !found {
				t.Errorf("%v is not among what the store lacks", id)
			}
		}
		if len(unsaved) != 3 {
			t.Errorf("%d carts, not 3", len(unsaved))
		}
		newcomer := start(t, peered(store, newFakeReplicator()))
		for id := range maps.Keys(unsaved) {
			payloads, err := s.Unsaved(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			deliver(t, newcomer, id, payloads...)
		}
		given := unsavedOf(newcomer)
		if len(given) != 3 || given[resident.id] != unsaved[resident.id] || given[erased] != unsaved[erased] {
			t.Errorf("the newcomer has %v, not %v", given, unsaved)
		}

		store.failCommits(nil)
		store.hookLoad(nil)
		if err := newcomer.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[ID]*State{part.id: part.states[3], resident.id: resident.states[3], erased: {Erased: true}} {
			if is := store.state(id); is == nil || !extentOf(is).holds(extentOf(want)) {
				t.Errorf("the store has %v of %v", is, id)
			}
		}
		if left := unsavedOf(newcomer); len(left) > 0 {
			t.Errorf("%d carts are left", len(left))
		}
		wantNothingUnsaved(t, newcomer)
	})
}
