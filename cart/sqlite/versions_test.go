package sqlite

import (
	"maps"
	"testing"

	"cartd/cart"
)

// TestVersionsOfDamagedCarts: a damaged snapshot counts with the version beside it, and what has none
// neither counts nor ends a page.
func TestVersionsOfDamagedCarts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := map[cart.ID]uint64{}
	hurt := newBasket()
	commit(t, s, hurt.add(t, "apples"))
	want[hurt.id] = cart.VersionHash(hurt.id, hurt.state)
	closeStore(t, s)
	damageSnapshot(t, dir, hurt.id)
	s = open(t, dir)
	for i := range 12 {
		b := newBasket()
		c := b.add(t, "apples")
		if i%3 > 0 { // the journal never gets what this builds on
			c = b.remove(t, "apples")
			c.State = nil
		} else {
			want[b.id] = cart.VersionHash(b.id, b.state)
		}
		commit(t, s, c)
	}
	late := hurt.add(t, "pears")
	late.State = nil
	commit(t, s, late)

	for _, limit := range []int{1, 2, 3, 100} {
		got := map[cart.ID]uint64{}
		var after cart.ID
		for n := limit; n == limit; {
			page, err := s.Versions(t.Context(), after, cart.LastID, limit)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range page {
				got[v.ID], after = v.Version, v.ID
			}
			n = len(page)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%d at a time: got %x, want %x", limit, got, want)
		}
	}
}
