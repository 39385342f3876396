package main

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cartd/internal/pgtest"
)

// TestDrain: a node that is told to stop says that it is not ready, and goes on taking connections and requests
// until balancers have noticed. Connections end with an answer, not under a request.
func TestDrain(t *testing.T) {
	build(t)
	t.Parallel()
	c := newCluster(t, 2, pgtest.Start(t).URL)
	leaver, other := c.node(0), c.node(1)
	path := leaver.create(1)
	if err := leaver.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ready := func() int { return leaver.must("GET", "/readyz", "").status }
	await(t, "the public listener says that the node is not ready", func() bool { return ready() == http.StatusServiceUnavailable })
	if got := leaver.readyStatus(); got != http.StatusServiceUnavailable {
		t.Errorf("the operators' listener says %d", got)
	}
	await(t, "the other node knows", func() bool {
		z := other.status()
		return len(z.Members) == 1 && z.Members[0].State == "draining" && z.Linked == 0
	})
	units, began := int64(1), time.Now()
	for !leaver.ended() {
		var a answer
		var err error
		key := "leaver-" + strconv.FormatInt(units, 10)
		await(t, "the leaver has a write saved", func() bool { // by the database, which may be busy
			a, err = leaver.call("POST", path+"/line-items", `{"sku":"TEE-RED"}`, "Idempotency-Key", key)
			return err != nil || a.status != http.StatusServiceUnavailable
		})
		if err != nil { // the listener is closed
			break
		}
		units++
		if a.status != http.StatusOK || a.header.Get("Cart-Durability") == "" || !a.closes {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		key = strconv.FormatInt(units, 10)
		await(t, "the other node has a write saved", func() bool { // which a busy database may not do in time
			a = other.must("POST", path+"/line-items", `{"sku":"TEE-RED"}`, "Idempotency-Key", key)
			return a.status == http.StatusOK
		})
		if a.header.Get("Cart-Durability") != "database" {
			t.Fatalf("the other node counts on the one that leaves: %d %v %s", a.status, a.header, a.body)
		}
		units++
	}
	t.Logf("%d requests in %v", units, time.Since(began))
	if units < 10 {
		t.Errorf("it took %d requests while it drained", units)
	}
	if code := leaver.exitCode(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, leaver.output())
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(leaver.api, "http://")); err == nil {
		conn.Close()
		t.Error("it still takes connections")
	}
	if got := other.must("GET", path, "").cart.TotalQuantity; got != units {
		t.Errorf("%d units, not %d", got, units)
	}
}
