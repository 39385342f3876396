//go:build linux

package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"cartd/gossip"
	"cartd/internal/pgtest"
)

// BenchmarkForward compares a request at an owner of its cart with one at a node that passes it on: processor time
// of the three nodes, which are in this process, and of the client. The two take turns.
func BenchmarkForward(b *testing.B) {
	key, url := gossip.GenerateKey().Text(), pgtest.Start(b).URL
	var nodes []*member
	for range 3 {
		nodes = append(nodes, startMember(b, strings.TrimSpace(key), nodes, "--database-url", url, "--replicas", "2"))
	}
	for _, n := range nodes {
		n.wantReady()
		await(b, "all nodes are active", n.allActive(3))
	}
	path := nodes[0].create(1)
	for i := range 5 {
		nodes[0].must("POST", path+"/line-items", fmt.Sprintf(`{"sku":"SKU-%d"}`, i))
	}
	owner, other := nodes[0], nodes[0] // which the counters tell
	for _, n := range nodes {
		before := n.debug().Forwards.Forwarded
		if n.must("GET", path, ""); n.debug().Forwards.Forwarded > before {
			other = n
		} else {
			owner = n
		}
	}
	for _, request := range []struct{ name, method, path, body string }{
		{"read", "GET", path, ""},
		{"add", "POST", path + "/line-items", `{"sku":"SKU-0"}`},
	} {
		b.Run(request.name, func(b *testing.B) {
			var cpu, took [2]float64
			for i := range b.N {
				for j, n := range []*member{owner, other} {
					if (i+j)%2 == 1 { // by turns, who is first
						j, n = 1-j, map[*member]*member{owner: other, other: owner}[n]
					}
					began, before := time.Now(), ownCPU(b)
					if a := n.must(request.method, request.path, request.body); a.status != http.StatusOK {
						b.Fatalf("%d %s", a.status, a.body)
					}
					cpu[j] += ownCPU(b) - before
					took[j] += time.Since(began).Seconds()
				}
			}
			for j, name := range []string{"owner", "other"} {
				b.ReportMetric(cpu[j]/float64(b.N)*1e6, "cpu-µs/"+name)
				b.ReportMetric(took[j]/float64(b.N)*1e6, "µs/"+name)
			}
			b.ReportMetric(cpu[1]/cpu[0], "cpu-ratio")
		})
	}
}
