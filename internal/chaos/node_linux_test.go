package chaos

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// node is a cartd on a host of its own. It keeps its addresses when it is started again.
type node struct {
	*host
	region *region
	log    string // the file

	cmd  *exec.Cmd     // of the process that runs or ran last
	done chan struct{} // closed when it has ended

	mu   sync.Mutex
	away []period // when it was not one that has to answer
}

func (n *node) url(port int, path string) string {
	return fmt.Sprintf("http://%s:%d%s", n.address, port, path)
}

// Ports of a node on its host.
const (
	apiPort    = 8080
	adminPort  = 8081
	gossipPort = 7946
	linkPort   = 7947
	wanPort    = 7948
)

// start starts the process.
func (n *node) start() {
	n.t.Helper()
	at := func(host *host, port int) string { return host.address.String() + ":" + strconv.Itoa(port) }
	on := func(port int) string { return at(n.host, port) }
	var others, abroad []string
	for _, o := range n.region.cluster.nodes {
		switch {
		case o.region != n.region:
			abroad = append(abroad, at(o.host, wanPort))
		case o != n:
			others = append(others, at(o.host, gossipPort))
		}
	}
	logs, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer logs.Close()
	args := []string{
		"serve", "--dev",
		"--listen", on(apiPort), "--admin-listen", on(adminPort), "--gossip-listen", on(gossipPort), "--link-listen", on(linkPort),
		"--cluster-key-file", n.region.cluster.key, "--zone", n.name, "--join", strings.Join(others, ","),
		"--database-url", n.region.databaseURL(),
	}
	if len(abroad) > 0 {
		args = append(args, "--region", n.region.name, "--wan-listen", on(wanPort), "--join-wan", strings.Join(abroad, ","))
	}
	n.cmd = n.exec(n.region.cluster.cartd, args...)
	n.cmd.Env = environment()
	n.cmd.Stdout, n.cmd.Stderr = logs, logs
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupted test ends it in its own order
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan<- struct{}) {
		defer close(done)
		_ = cmd.Wait() // the exit code is read from ProcessState
	}(n.cmd, n.done)
}

// environment is what nodes get: nothing of the settings that the tests run under.
func environment() []string {
	var environ []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CARTD_") {
			environ = append(environ, e)
		}
	}
	return environ
}

// signal sends the process a signal.
func (n *node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("%s: %v: %v", n.name, s, err)
	}
}

// kill ends the process, as a crash would.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill() // an error means that it has ended
	<-n.done
}

// terminate asks the process to end, as an operator would, and waits until it has.
func (n *node) terminate() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	n.region.cluster.await(n.name+" has stopped", n.hasEnded)
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		n.t.Errorf("%s: exit code %d after SIGTERM", n.name, code)
	}
}

func (n *node) hasEnded() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// awaitReady waits until the node says that it is ready.
func (n *node) awaitReady() {
	n.t.Helper()
	n.region.cluster.await(n.name+" is ready", func() bool {
		if n.hasEnded() {
			n.t.Fatalf("%s has ended: %v", n.name, n.cmd.ProcessState)
		}
		status, _, err := get(n.url(apiPort, "/readyz"))
		return err == nil && status == http.StatusOK
	})
}

// leave says that the node need not answer from now on.
func (n *node) leave() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away = append(n.away, period{from: time.Now()})
}

// back returns when the node is ready, and says that it has to answer again.
func (n *node) back() {
	n.t.Helper()
	n.awaitReady()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.away[len(n.away)-1].to = time.Now()
}

// status is what is read of /debug/cluster.
type status struct {
	Node    struct{ Bridge bool }
	Linked  int
	Regions []struct {
		Reachable bool
		NeedSync  int `json:"need_sync"`
	}
	Carts struct{ Indexed bool }
}

// isInSync reports whether the node has links with all others of its region, and has been compared with every other
// region.
func (z status) isInSync(regions int) bool {
	for _, r := range z.Regions {
		if !r.Reachable || r.NeedSync > 0 {
			return false
		}
	}
	return z.Linked == size-1 && z.Carts.Indexed && len(z.Regions) == regions-1
}

func (n *node) status() (z status) {
	n.t.Helper()
	_, body, err := get(n.url(adminPort, "/debug/cluster"))
	if err == nil {
		err = json.Unmarshal(body, &z)
	}
	if err != nil {
		n.t.Fatalf("%s: /debug/cluster: %v", n.name, err)
	}
	return z
}

// statesSent returns how many carts the node has sent to others to repair them, since its start.
func (n *node) statesSent() int {
	n.t.Helper()
	_, body, err := get(n.url(adminPort, "/metrics"))
	if err != nil {
		n.t.Fatalf("%s: /metrics: %v", n.name, err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(body)))
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "cartd_repair_states_sent_total "); ok {
			sent, err := strconv.ParseFloat(text, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return int(sent)
		}
	}
	n.t.Fatalf("%s: /metrics has no cartd_repair_states_sent_total", n.name)
	return 0
}

// client asks nodes about themselves, each time over a new connection: one to a host that was cut off could hang.
var client = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (status int, body []byte, err error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(io.LimitReader(response.Body, 4<<20))
	return response.StatusCode, body, err
}
