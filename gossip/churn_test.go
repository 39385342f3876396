package gossip

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever was cut, killed and started, nodes that can reach each other are one region soon after.
func TestChurn(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		r := rand.New(rand.NewPCG(seed, 0))
		ips := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"}
		network := newMemoryNetwork()
		nodes := make(map[string]testNode)
		begin := func(ip string) {
			nodes[ip] = start(t, Options{network: network.host(ip), Join: []string{ips[0] + ":7946", ips[1] + ":7946"}})
		}
		for _, ip := range ips {
			begin(ip)
		}
		id, words := cartID(1), []string(nil)
		for range 20 {
			switch ip := ips[r.IntN(len(ips))]; r.IntN(4) {
			case 0:
				cut := r.IntN(len(ips)-1) + 1
				r.Shuffle(len(ips), func(i, j int) { ips[i], ips[j] = ips[j], ips[i] })
				network.cut(ips[:cut], ips[cut:])
			case 1:
				network.mend(ips, ips)
			case 2:
				if n, up := nodes[ip]; up && len(nodes) > 2 {
					delete(nodes, ip)
					end := n.kill
					if r.IntN(2) == 0 {
						end = func() error { return n.Stop(t.Context()) }
					}
					if err := end(); err != nil {
						t.Error(err)
					}
				}
			case 3:
				if _, up := nodes[ip]; !up {
					begin(ip)
				}
			}
			for _, ip := range ips {
				if n, up := nodes[ip]; up && r.IntN(3) == 0 {
					word := fmt.Sprint(len(words))
					words = append(words, word)
					n.put(id, word)
				}
			}
			time.Sleep(time.Duration(r.IntN(60)) * time.Second)
		}
		network.mend(ips, ips)
		time.Sleep(rejoinEvery + 15*time.Second)
		var up []testNode
		for _, ip := range ips {
			if n, ok := nodes[ip]; ok {
				up = append(up, n)
			}
		}
		if !linked(up...) {
			for _, n := range up {
				t.Errorf("%+v", n.Status())
			}
		}
		all := up[0].words.all(id)
		if slices.ContainsFunc(up, func(n testNode) bool { return string(n.words.all(id)) != string(all) }) {
			t.Error("not equal")
		}
	})
}
