package api

import (
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	"cartd/cart"
)

// replicator is a region of so many other nodes, all of which hold what they are sent.
type replicator struct{ peers atomic.Int64 }

func (f *replicator) Replicate(_ [16]byte, _ []byte, held func(uint64)) {
	peers := uint64(f.peers.Load())
	go func() {
		for peer := range peers {
			held(peer + 1)
		}
	}()
}

func (f *replicator) Fetch(_ [16]byte, _ bool, answer func([][]byte, bool)) { go answer(nil, true) }

func (f *replicator) Peers() int                               { return int(f.peers.Load()) }
func (*replicator) Mark([16]byte, []byte)                      {}
func (*replicator) Alive(uint64) bool                          { return true }
func (*replicator) Rank([16]byte) int                          { return 0 }
func (*replicator) Cross([16]byte, []byte, bool, func(uint64)) {}
func (*replicator) Abroad() int                                { return 0 }
func (*replicator) HandedOver() bool                           { return false }
func (*replicator) Home() int                                  { return -1 }
func (*replicator) Synced() bool                               { return true }

// writes returns each kind of write: method, path below the cart's, body.
func writes(line string) [][3]string {
	return [][3]string{
		{"POST", "/line-items", `{"sku":"B"}`},
		{"PATCH", "", `{"note":"hi"}`},
		{"PATCH", "/line-items/" + line, `{"quantity":3}`},
		{"POST", "/operations", `{"operations":[{"type":"add","sku":"C"}]}`},
		{"PUT", "/discount-codes/SPRING", ``},
		{"DELETE", "/discount-codes/SPRING", ``},
		{"DELETE", "/line-items/" + line, ``},
		{"DELETE", "/line-items", ``},
		{"DELETE", "", ``},
	}
}

// A write is answered with the durability that it reached, and with that of the database where it was
// asked for. The clock stands still, so nothing goes to the database by itself.
func TestDurability(t *testing.T) {
	for _, test := range []struct {
		name    string
		peers   int64 // other nodes; none: the node is alone
		shared  bool
		asks    string
		answers []string
	}{
		{"alone", 0, false, "default", []string{"database"}},
		{"alone, the database", 0, false, "database", []string{"database"}},
		{"one peer", 1, true, "default", []string{"peers=2"}},
		{"one peer, the database", 1, true, "database", []string{"database"}},
		{"four peers", 4, true, "default", []string{"peers=2", "peers=3", "peers=4", "peers=5"}},
		{"one peer, a file each", 1, false, "default", []string{"peers=2"}},
		{"one peer, a file each, the database", 1, false, "database", []string{"peers=2"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			region := &replicator{}
			region.peers.Store(test.peers)
			s := open(t, dev, func(_ *Options, o *cart.Options) {
				if o.Shared = test.shared; test.peers > 0 {
					o.Replicator = region
				}
			})
			check := func(what string, a answer) {
				t.Helper()
				if got := a.header.Get("Cart-Durability"); !slices.Contains(test.answers, got) {
					t.Errorf("%s: Cart-Durability is %q, not one of %q", what, got, test.answers)
				}
			}
			const asks = "Cart-Durability"
			a := s.do("POST", "/v1/carts", `{"currency":"EUR","line_items":[{"sku":"A"}]}`, asks, test.asks).want(http.StatusCreated)
			check("create", a)
			c := a.cart()
			path := "/v1/carts/" + c.ID
			for _, w := range writes(c.LineItems[0].ID) {
				a := s.do(w[0], path+w[1], w[2], asks, test.asks)
				if a.status >= 300 {
					t.Fatalf("%s %s: %d %s", w[0], w[1], a.status, a.body)
				}
				check(w[0]+" "+w[1], a)
				if w[0] == "POST" {
					if got := s.do("GET", path, "").want(http.StatusOK).header.Get("Cart-Durability"); got != "" {
						t.Errorf("a read tells of durability: %q", got)
					}
				}
			}
		})
	}
}

// What a replay repeats is as safe as was asked, too.
func TestDurabilityOfReplay(t *testing.T) {
	region := &replicator{}
	region.peers.Store(1)
	s := open(t, dev, func(_ *Options, o *cart.Options) { o.Shared, o.Replicator = true, region })
	c := s.create(`{"currency":"EUR"}`)
	for _, step := range [][2]string{{"default", "peers=2"}, {"default", "peers=2"}, {"database", "database"}} {
		a := s.do("POST", c.path+"/line-items", `{"sku":"A"}`, "Idempotency-Key", "one", "Cart-Durability", step[0]).want(http.StatusOK)
		if got := a.header.Get("Cart-Durability"); got != step[1] {
			t.Errorf("%s: Cart-Durability is %q, not %q", step[0], got, step[1])
		}
	}
}

// A value that there is not is refused by every write, and changes nothing.
func TestUnknownDurability(t *testing.T) {
	s := open(t, dev)
	c := s.create(`{"currency":"EUR","line_items":[{"sku":"A"}]}`)
	for _, value := range []string{"", "Database", "peers=2", "database,default", "default "} {
		s.do("POST", "/v1/carts", `{"currency":"EUR"}`, "Cart-Durability", value).wantProblem(http.StatusBadRequest, "malformed-request", "")
		for _, w := range writes(c.LineItems[0].ID) {
			s.do(w[0], c.path+w[1], w[2], "Cart-Durability", value).wantProblem(http.StatusBadRequest, "malformed-request", "")
		}
	}
	if a := s.do("GET", c.path, ""); a.header.Get("ETag") == "" || len(a.cart().LineItems) != 1 || a.cart().Note != nil {
		t.Errorf("a refused write changed the cart: %s", a.body)
	}
}
