package cart

import (
	"bytes"
	"context"
	"slices"

	"cartd/crdt"
)

// What this file has is for a database that cannot be read. A node that starts then does not know what is stored, and
// will read it later; of what the others hold beside, they give it without having to load a cart.

// EachUnsaved is [Service.EachVersion] for the carts of which the store lacks something. A store that nodes do not
// share can go with its node: there it is for all.
func (s *Service) EachUnsaved(from [16]byte, yield func(id [16]byte, version uint64) bool) {
	if !s.shared {
		s.EachVersion(from, yield)
		return
	}
	for _, v := range s.shard(from).unsavedFrom(from) {
		if !yield(v.ID, v.Version) {
			return
		}
	}
}

// unsavedFrom returns the versions of the carts of the slot of from of which the store lacks something, sorted by id
// and beginning at from.
func (sh *shard) unsavedFrom(from ID) (z []StoredVersion) {
	maybe := make(map[ID]*resident) // nil where there are fragments that the store lacks
	versions := make(map[ID]uint64)
	wanted := func(id ID) bool { return slotInShard(id) == slotInShard(from) && bytes.Compare(id[:], from[:]) >= 0 }
	sh.mu.Lock()
	for id, r := range sh.carts {
		if wanted(id) {
			maybe[id], versions[id] = r, sh.versions[id]
		}
	}
	for id, f := range sh.fragments {
		if wanted(id) && !f.stored() {
			maybe[id], versions[id] = nil, sh.versions[id]
		}
	}
	sh.mu.Unlock()
	for id, r := range maybe {
		if r == nil || r.isDirty() {
			z = append(z, StoredVersion{id, versions[id]})
		}
	}
	slices.SortFunc(z, func(a, b StoredVersion) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return z
}

// isDirty reports whether the store lacks anything of the cart.
func (r *resident) isDirty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty()
}

// Unsaved returns what this node has of a cart and the store lacks, as payloads, or more. It loads nothing, but from a
// store that nodes do not share.
func (s *Service) Unsaved(ctx context.Context, id [16]byte) (payloads [][]byte, err error) {
	if !s.shared {
		payload, _, err := s.State(ctx, id)
		if payload != nil {
			payloads = [][]byte{payload}
		}
		return payloads, err
	}
	r, parts := s.shard(id).parts(id)
	if r != nil {
		r.mu.Lock()
		if r.dirty() {
			payload, _ := r.whole()
			payloads = append(payloads, payload)
		}
		r.mu.Unlock()
	}
	for _, d := range parts {
		payloads = append(payloads, crdt.AppendDelta(nil, d))
	}
	return payloads, nil
}

// parts returns the resident cart of id, or nil, and those of its fragments that the store lacks.
func (sh *shard) parts(id ID) (r *resident, parts []*crdt.Delta) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if f := sh.fragments[id]; f != nil {
		for _, g := range f.deltas {
			if !g.saved {
				parts = append(parts, g.delta)
			}
		}
	}
	return sh.carts[id], parts
}
