package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"cartd/api"
)

// ofCountries is a file of an invoice for each country.
func ofCountries(countries ...string) string {
	content := header
	for i, country := range countries {
		number := string(rune('1' + i))
		content += number + ",A,TEE,6,,2.55,," + country + "\n" + number + ",B,MUG,2,,3.5,," + country + "\n"
	}
	return content
}

// regional is a target that is far from the others: of the carts that were made elsewhere it shows nothing in the first
// answer to a read, half in the second, and then all, unless it never does.
type regional struct {
	*fakeCartd
	never bool

	mu    sync.Mutex
	own   map[string]bool // carts that were made here
	reads map[string]int
}

func (r *regional) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	recorded := httptest.NewRecorder()
	r.fakeCartd.ServeHTTP(recorded, q)
	var c api.Cart
	_ = json.Unmarshal(recorded.Body.Bytes(), &c)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case q.URL.Path == "/v1/carts":
		r.own[c.ID] = true
	case q.Method != http.MethodGet && !r.own[c.ID]:
		problem(w, http.StatusTeapot, "of-another-region")
		return
	case q.Method == http.MethodGet && !r.own[c.ID]:
		if r.reads[c.ID]++; r.reads[c.ID] == 1 {
			problem(w, http.StatusNotFound, "cart-not-found")
			return
		}
		if r.never || r.reads[c.ID] == 2 {
			c.LineItems = c.LineItems[:1]
			_ = json.NewEncoder(w).Encode(c)
			return
		}
	}
	w.Header().Set("Cart-Context", recorded.Header().Get("Cart-Context"))
	w.WriteHeader(recorded.Code)
	_, _ = recorded.Body.WriteTo(w)
}

// startRegions serves so many targets in as many regions, and returns them and the arguments that name them.
func startRegions(t *testing.T, names ...string) (regions []*regional, args []string) {
	all := newFake()
	for _, name := range names {
		r := &regional{fakeCartd: all, own: make(map[string]bool), reads: make(map[string]int)}
		s := httptest.NewServer(r)
		t.Cleanup(s.Close)
		regions = append(regions, r)
		args = append(args, "--target", name+"="+s.URL)
	}
	return regions, args
}

// TestCountriesEnterAtRegions: each country's carts are sent to one region, and read back from all, which may be
// late with those of others.
func TestCountriesEnterAtRegions(t *testing.T) {
	regions, args := startRegions(t, "eu", "us", "ap")
	code, rep, printed := replayFile(t.Context(), t, ofCountries("UK", "France", "UK", "Japan", "EIRE", "France"), args...)
	if code != exitOK || rep.Mismatches != 0 || sum(rep.Refusals) != 0 || rep.CartsReadBack != 18 {
		t.Fatalf("exit code %d: %s", code, printed)
	}
	want := []entry{{"eu", []string{"UK", "EIRE"}, 3}, {"us", []string{"France"}, 2}, {"ap", []string{"Japan"}, 1}}
	for i, r := range regions {
		if e := rep.Regions[i]; e.Region != want[i].Region || !slices.Equal(e.Countries, want[i].Countries) || e.Carts != want[i].Carts || len(r.own) != e.Carts {
			t.Errorf("%d carts entered at %+v, not %+v", len(r.own), e, want[i])
		}
	}
	if rep.Late != 12 || rep.LateSeconds <= 0 || !strings.Contains(printed, "late in other regions") {
		t.Errorf("%s", printed)
	}
}

// TestRegionThatDiffers: the cart that a region does not show in time is told, with that region.
func TestRegionThatDiffers(t *testing.T) {
	regions, args := startRegions(t, "eu", "us")
	regions[1].never = true
	code, rep, printed := replayFile(t.Context(), t, ofCountries("UK", "France"), append(args, "--converge", "100ms")...)
	if code != exitWrong || rep.Mismatches != 1 {
		t.Fatalf("exit code %d: %s", code, printed)
	}
	if m := rep.FirstMismatches[0]; m.Region != "us" || m.Invoice != "1" || !strings.Contains(m.What, "line B: not in the cart, expected 2") || !strings.Contains(printed, " at us, http://") {
		t.Errorf("%+v\n%s", m, printed)
	}
}
