package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"cartd/cart"
)

// fiveLines creates a cart of five lines with titles and prices.
func fiveLines(s *shop) created {
	c := s.create(`{"currency":"EUR"}`)
	for i := range 5 {
		s.do("POST", c.path+"/line-items", fmt.Sprintf(`{"sku":"SKU-%04d","quantity":2,"title":"A title of 24 characters","unit_price":{"amount":%d,"currency":"EUR"}}`, i, 1000+i)).want(http.StatusOK)
	}
	return c
}

// quiet is a ResponseWriter that keeps nothing but the header.
type quiet struct{ header http.Header }

func (w *quiet) Header() http.Header         { return w.header }
func (w *quiet) Write(b []byte) (int, error) { return len(b), nil }
func (w *quiet) WriteHeader(int)             {}

// The handler without sockets: a read of a resident five-line cart.
func BenchmarkRead(b *testing.B) {
	s := open(b, dev)
	c := fiveLines(s)
	r := httptest.NewRequest("GET", c.path, nil)
	w := &quiet{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		s.handler.ServeHTTP(w, r)
	}
}

// The handler without sockets, with as many clients as a batch of the store has room for: a
// durable add to a line of a five-line cart. From time to time the line is set, as its entries add up.
func BenchmarkAdd(b *testing.B) {
	s := open(b, dev)
	const clients = 32
	paths := make(chan [2]string, clients)
	for range clients {
		c := fiveLines(s)
		paths <- [2]string{c.path + "/line-items", c.path + "/line-items/" + s.do("GET", c.path, "").cart().LineItems[0].ID}
	}
	b.SetParallelism(clients / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		path := <-paths
		w := &quiet{http.Header{}}
		for i := 1; pb.Next(); i++ {
			r := httptest.NewRequest("POST", path[0], strings.NewReader(`{"sku":"SKU-0000","quantity":1}`))
			if i%50 == 0 {
				r = httptest.NewRequest("PATCH", path[1], strings.NewReader(`{"quantity":1}`))
			}
			r.Header.Set("Content-Type", "application/json")
			s.handler.ServeHTTP(w, r)
		}
	})
}

// A view to JSON.
func BenchmarkViewJSON(b *testing.B) {
	s := open(b, dev)
	c := fiveLines(s)
	id, err := cart.ParseID(c.ID)
	if err != nil {
		b.Fatal(err)
	}
	state, err := s.service.Read(b.Context(), id, cart.Access{Trusted: true}, nil)
	if err != nil {
		b.Fatal(err)
	}
	var v cart.View
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		v.Read(id, state, cart.DefaultLimits)
		out = appendCart(out[:0], &v, nil)
	}
	b.SetBytes(int64(len(out)))
}

// The bodies of an add.
func BenchmarkParse(b *testing.B) {
	body := []byte(`{"sku":"SKU-0001","quantity":2,"title":"A title of 24 characters","unit_price":{"amount":2500,"currency":"EUR"}}`)
	b.ReportAllocs()
	for b.Loop() {
		p := &parser{data: body}
		p.lineItem(true)
		if p.end(); p.err != nil {
			b.Fatal(p.err)
		}
	}
}
