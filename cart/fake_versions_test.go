package cart

import (
	"bytes"
	"context"
	"slices"
)

func (f *fakeStore) Versions(_ context.Context, after, last ID, limit int) ([]StoredVersion, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.away {
		return nil, ErrNoRoom
	}
	var all []StoredVersion
	for id, s := range f.carts {
		if bytes.Compare(id[:], after[:]) > 0 && bytes.Compare(id[:], last[:]) <= 0 {
			all = append(all, StoredVersion{id, VersionHash(id, s)})
		}
	}
	slices.SortFunc(all, func(a, b StoredVersion) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	all = all[:min(limit, len(all))]
	f.rows += len(all)
	return all, nil
}

func (nullStore) Versions(context.Context, ID, ID, int) ([]StoredVersion, error) { return nil, nil }
