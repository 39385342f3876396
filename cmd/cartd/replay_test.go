package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The days of a real shop, or an invented one where they are not at hand, are replayed while the
// server is killed twice and started again on the same data. cartload then compares every line and
// total with the files: an acknowledged operation that was lost, or one that was counted twice,
// makes it end with 3.
func TestReplay(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []string
		kills []int64 // after so many answers
	}{
		{"invented day, killed twice", []string{inventedDay(t)}, []int64{300, 900}},
		{"three days", nil, nil},
		{"three days, killed twice", nil, []int64{1500, 5000}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.files == nil {
				var err error
				if test.files, err = filepath.Glob(filepath.Join(shared(t, "data/online-retail"), "*.csv")); err != nil || len(test.files) == 0 {
					t.Fatalf("no days: %v", err)
				}
			}
			replay(t, test.files, test.kills)
		})
	}
}

func replay(t *testing.T, files []string, kills []int64) {
	_, cartload := build(t)
	dir := t.TempDir()
	address := freeAddress(t)
	p := start(t, dir, "--listen", address)

	// The proxy counts answers, so that the kills come in the middle.
	target := &url.URL{Scheme: "http", Host: address}
	reverse := httputil.NewSingleHostReverseProxy(target)
	reverse.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	var answers atomic.Int64
	due := make(chan struct{}, len(kills))
	reverse.ModifyResponse = func(*http.Response) error {
		n := answers.Add(1)
		for _, at := range kills {
			if n == at {
				due <- struct{}{}
			}
		}
		return nil
	}
	proxy := httptest.NewServer(reverse)
	defer proxy.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	load := exec.CommandContext(ctx, cartload, append([]string{"replay", "--target", proxy.URL, "--format", "online-retail"}, files...)...)
	load.Env = environment()
	var said strings.Builder
	load.Stdout, load.Stderr = &said, &said
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- load.Wait() }()
	for range kills {
		select {
		case <-due:
			p.kill()
			p = start(t, dir, "--listen", address)
		case err := <-ended:
			t.Fatalf("cartload ended before the server was killed: %v\n%s", err, said.String())
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("cartload: %v\n%s\n%s", err, said.String(), p.output())
	}
	t.Logf("\n%s", said.String())
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.output())
	}
}

// freeAddress returns an address that a process can listen on, again and again. Its port is below those
// that outgoing connections get, which could take it while nobody listens.
func freeAddress(t *testing.T) string {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// inventedDay writes a day of invoices in the format of the real ones: the same products again,
// returns, prices of 0, empty descriptions, and one long invoice; of three countries.
func inventedDay(t *testing.T) string {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "2010-12-09.csv")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := csv.NewWriter(f)
	write := func(row ...string) {
		if err := w.Write(row); err != nil {
			t.Fatal(err)
		}
	}
	write("InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")
	countries := []string{"United Kingdom", "France", "Japan"}
	for invoice := range 60 {
		rows := 1 + random.IntN(30)
		if invoice == 0 {
			rows = 400
		}
		number := fmt.Sprint(540000 + invoice)
		for range rows {
			product := random.IntN(60)
			quantity := 1 + random.IntN(12)
			if invoice%20 == 7 {
				quantity, number = -quantity, fmt.Sprint("C", 540000+invoice)
			}
			description := fmt.Sprintf("PRODUCT \"%d\"", product)
			if product%17 == 0 {
				description = ""
			}
			write(
				number, fmt.Sprintf("%05dA", product), description, fmt.Sprint(quantity),
				"2010-12-09 08:26:00", fmt.Sprintf("%d.%02d", product%13, product), "17850.0", countries[invoice%len(countries)],
			)
		}
	}
	w.Flush()
	if err := w.Error(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
