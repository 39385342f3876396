package chaos

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// What this package makes is found by its name, in which the id of the process comes after this.
const (
	namespacePrefix = "cartd-chaos-" // of namespaces, and of the folder in the folder for temporary files
	linkPrefix      = "cc"           // of a bridge and what is plugged into it: such a name has at most 15 bytes
)

// network is a bridge with hosts plugged into it. The root namespace has an address there, too.
type network struct {
	t      *testing.T
	bridge string
	prefix netip.Prefix
	hosts  []*host
}

// host is a network namespace.
type host struct {
	t         *testing.T
	name      string
	namespace string
	address   netip.Addr
}

// newNetwork makes a network, which is gone after the test.
func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, bridge: linkPrefix + strconv.Itoa(os.Getpid()), prefix: freePrefix(t)}
	t.Cleanup(func() {
		if err := removeNetwork(os.Getpid()); err != nil {
			t.Error(err)
		}
	})
	ip(t, "link", "add", n.bridge, "type", "bridge")
	ip(t, "address", "add", netip.PrefixFrom(n.address(1), n.prefix.Bits()).String(), "dev", n.bridge)
	ip(t, "link", "set", n.bridge, "up")
	return n
}

// freePrefix returns 256 addresses of those that are set aside for tests of networks (RFC 2544), of which this machine
// has none. Where to look first depends on the process, so that two of them hardly meet.
func freePrefix(t *testing.T) netip.Prefix {
	t.Helper()
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	const all = 2 * 256 // in 198.18.0.0/15
	for i := range all {
		k := (os.Getpid() + i) % all
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(18 + k/256), byte(k), 0}), 24)
		taken := false
		for _, a := range own {
			p, err := netip.ParsePrefix(a.String())
			taken = taken || err == nil && p.Overlaps(prefix)
		}
		if !taken {
			return prefix
		}
	}
	t.Fatal("198.18.0.0/15 is all in use")
	return netip.Prefix{}
}

// address returns an address of the network.
func (n *network) address(i byte) netip.Addr {
	a := n.prefix.Addr().As4()
	a[3] = i
	return netip.AddrFrom4(a)
}

// plug makes a host.
func (n *network) plug(name string) *host {
	n.t.Helper()
	i := len(n.hosts) + 1
	h := &host{
		t:         n.t,
		name:      name,
		namespace: fmt.Sprintf("%s%d-%s", namespacePrefix, os.Getpid(), name),
		address:   n.address(byte(10 + i)),
	}
	n.hosts = append(n.hosts, h)
	plug := fmt.Sprintf("%s-%d", n.bridge, i)
	ip(n.t, "netns", "add", h.namespace)
	ip(n.t, "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", h.namespace)
	ip(n.t, "link", "set", plug, "master", n.bridge, "up")
	ip(n.t, "-n", h.namespace, "address", "add", netip.PrefixFrom(h.address, n.prefix.Bits()).String(), "dev", "eth0")
	ip(n.t, "-n", h.namespace, "link", "set", "lo", "up")
	ip(n.t, "-n", h.namespace, "link", "set", "eth0", "up")
	return h
}

// exec returns a command in the host. It is the process that is started, no child of it.
func (h *host) exec(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", h.namespace, name}, args...)...)
}

// drop has the host take no packet any more that another one sends to it, or only so many by chance where options of
// iptables say so.
func (h *host) drop(from *host, options ...string) {
	h.t.Helper()
	args := append([]string{"netns", "exec", h.namespace, "iptables", "-A", "INPUT", "-s", from.address.String()}, options...)
	ip(h.t, append(args, "-j", "DROP")...)
}

// heal has the host take all packets, and returns how many were dropped.
func (h *host) heal() (dropped int) {
	h.t.Helper()
	list := ip(h.t, "netns", "exec", h.namespace, "iptables", "-nvxL", "INPUT")
	ip(h.t, "netns", "exec", h.namespace, "iptables", "-F", "INPUT")
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "DROP" {
			n, err := strconv.Atoi(fields[0])
			if err != nil {
				h.t.Fatalf("iptables: %q", line)
			}
			dropped += n
		}
	}
	return dropped
}

// ip runs a command of iproute2, and returns what it printed.
func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// removeNetwork removes the hosts and the bridge of a process, and ends what runs in the hosts. What is not
// there is removed already.
func removeNetwork(pid int) (err error) {
	namespaces, _ := filepath.Glob(fmt.Sprintf("/run/netns/%s%d-*", namespacePrefix, pid)) // the pattern is well-formed
	for _, path := range namespaces {
		name := filepath.Base(path)
		pids, e := exec.Command("ip", "netns", "pids", name).Output()
		err = errors.Join(err, e)
		for field := range strings.FieldsSeq(string(pids)) {
			if p, e := strconv.Atoi(field); e == nil {
				_ = syscall.Kill(p, syscall.SIGKILL) // it may have ended
			}
		}
		err = errors.Join(err, exec.Command("ip", "netns", "delete", name).Run())
	}
	// A pair of interfaces goes with either of them; that of a namespace goes a moment after the last process there.
	links, _ := filepath.Glob(fmt.Sprintf("/sys/class/net/%s%d*", linkPrefix, pid))
	for _, path := range links {
		name := filepath.Base(path)
		if suffix := strings.TrimPrefix(name, linkPrefix+strconv.Itoa(pid)); suffix != "" && suffix[0] != '-' {
			continue // of a process whose id begins like this one
		}
		if out, e := exec.Command("ip", "link", "delete", name).CombinedOutput(); e != nil && !strings.Contains(string(out), "Cannot find device") {
			err = errors.Join(err, fmt.Errorf("ip link delete %s: %w: %s", name, e, out))
		}
	}
	return err
}
