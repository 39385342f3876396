package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"cartd/gossip"
)

// clusterConfig is what a node needs to be one of a region.
type clusterConfig struct {
	keys          *gossip.Keyring // nil: the node is alone
	keyText       string          // never to be shown, nor are the keys
	keyFile       string
	region        string
	zone          string
	join          []string
	gossipListen  string
	linkListen    string
	wanListen     string
	joinWAN       []string
	advertiseHost string
	advertiseWAN  string // host
	replicas      int
	tolerate      int
	drainTime     time.Duration
	flushTime     time.Duration
}

const (
	keyFlag     = "cluster-key"
	keyFileFlag = "cluster-key-file"

	wanListenFlag = "wan-listen"
)

// maxReplicas bounds --replicas: each of them gets every write.
const maxReplicas = 16

// Bounds of --drain-time and --flush-time: whoever stops a node waits for both.
const (
	maxDrainTime = time.Minute
	minFlushTime = time.Second
	maxFlushTime = time.Hour
)

// clusterFlags are the flags that mean nothing to a node that is alone.
var clusterFlags = []string{
	"join", "gossip-listen", "link-listen", "wan-listen", "join-wan", "advertise-host", "advertise-wan-host", "region", "zone",
	"replicas", "tolerate", "drain-time", "flush-time",
}

func (c *clusterConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&c.keyFile, keyFileFlag, "", "file with the key of the cluster, as cartd keygen prints it, or several: makes this a node of a region")
	f.StringVar(&c.keyText, keyFlag, "", "the key itself; the list of processes shows it, so rather give a file")
	f.StringVar(&c.region, "region", "local", "region of the node; its nodes share a database")
	f.StringVar(&c.zone, "zone", "", "zone of the node: nodes of one zone may fail together")
	f.StringSliceVar(&c.join, "join", nil, "gossip addresses of other nodes, host:port; may be repeated")
	f.StringVar(&c.gossipListen, "gossip-listen", "127.0.0.1:7946", "address for membership, TCP and UDP")
	f.StringVar(&c.linkListen, "link-listen", "127.0.0.1:7947", "address for the links that carry the carts, TCP")
	f.StringVar(&c.wanListen, wanListenFlag, "", "address for the membership of all regions, TCP and UDP (default none: the region keeps to itself)")
	f.StringSliceVar(&c.joinWAN, "join-wan", nil, "addresses of nodes of other regions, as their --wan-listen, host:port; may be repeated; on one node of the region is enough, better on all")
	f.StringVar(&c.advertiseHost, "advertise-host", "", "host that other nodes reach this one at (default: that of --gossip-listen and --link-listen, or the first private address)")
	f.StringVar(&c.advertiseWAN, "advertise-wan-host", "", "host that nodes of other regions reach this one at (default: that of --advertise-host)")
	f.IntVar(&c.replicas, "replicas", 3, fmt.Sprintf("nodes of the region that own a cart, 2 to %d: they get its writes at once", maxReplicas))
	f.IntVar(&c.tolerate, "tolerate", 1, "nodes that may fail at once without a loss: a write is acknowledged when one more holds it")
	f.DurationVar(&c.drainTime, "drain-time", 2*time.Second, fmt.Sprintf("how long a node that is told to stop goes on serving, for balancers that have not noticed, 0 to %v", maxDrainTime))
	f.DurationVar(&c.flushTime, "flush-time", time.Minute, fmt.Sprintf("how long it then waits for the database, or for enough others to hold what that lacks, %v to %v", minFlushTime, maxFlushTime))
}

// check reads the keys and refuses what is out of range.
func (c *clusterConfig) check(given func(flag string) bool) error {
	if err := c.readKeys(given); err != nil {
		return err
	}
	if c.keys == nil {
		for _, flag := range clusterFlags {
			if given(flag) {
				return fmt.Errorf("--%s is for a node that can be joined, and such a node needs a key: "+
					"make one for all nodes with \"cartd keygen\", and give it as --%s", flag, keyFileFlag)
			}
		}
		return nil
	}
	switch {
	case !isName(c.region) || c.region == "":
		return fmt.Errorf("--region is %q, not 1 to 64 letters, digits, dots, hyphens and underscores", c.region)
	case !isName(c.zone):
		return fmt.Errorf("--zone is %q, not up to 64 letters, digits, dots, hyphens and underscores", c.zone)
	case c.replicas < 2 || c.replicas > maxReplicas:
		return fmt.Errorf("--replicas is %d, not 2 to %d", c.replicas, maxReplicas)
	case c.tolerate < 1 || c.tolerate >= c.replicas:
		return fmt.Errorf("--tolerate is %d, not 1 to %d: fewer than --replicas", c.tolerate, c.replicas-1)
	case c.drainTime < 0 || c.drainTime > maxDrainTime:
		return fmt.Errorf("--drain-time is %v, not 0 to %v", c.drainTime, maxDrainTime)
	case c.flushTime < minFlushTime || c.flushTime > maxFlushTime:
		return fmt.Errorf("--flush-time is %v, not %v to %v", c.flushTime, minFlushTime, maxFlushTime)
	case given("advertise-host") && !isHost(c.advertiseHost):
		return fmt.Errorf("--advertise-host is %q, not a host that others can reach: a name or an address, without a port", c.advertiseHost)
	case given("advertise-wan-host") && !isHost(c.advertiseWAN):
		return fmt.Errorf("--advertise-wan-host is %q, not a host that others can reach: a name or an address, without a port", c.advertiseWAN)
	case c.advertiseWAN != "" && c.wanListen == "":
		return fmt.Errorf("--advertise-wan-host is for a node that other regions can reach: give --%s", wanListenFlag)
	case len(c.joinWAN) > 0 && c.wanListen == "":
		return fmt.Errorf("--join-wan is for a node that other regions can reach, too: give --%s", wanListenFlag)
	case c.wanListen != "" && !given("region"):
		return fmt.Errorf("--%s is for one of several regions: give each a name of its own, as --region", wanListenFlag)
	}
	if err := checkJoin("join", c.join); err != nil {
		return err
	}
	return checkJoin("join-wan", c.joinWAN)
}

// checkJoin refuses what is no address of a node.
func checkJoin(flag string, addresses []string) error {
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if n, _ := strconv.ParseUint(port, 10, 16); err != nil || !isHost(host) || n == 0 {
			return fmt.Errorf("--%s is %q, not the address of a node like 10.0.0.7:7946", flag, address)
		}
	}
	return nil
}

// readKeys reads the keys from where they were given. No error shows any of them.
func (c *clusterConfig) readKeys(given func(flag string) bool) error {
	switch {
	case given(keyFlag) && given(keyFileFlag):
		return errors.New("--cluster-key and --cluster-key-file contradict each other: keys come from one of them")
	case given(keyFileFlag):
		keys, err := readKeys(c.keyFile)
		if err != nil {
			return fmt.Errorf("--%s: %w; \"cartd keygen\" makes a key", keyFileFlag, err)
		}
		c.keys = &keys
	case given(keyFlag):
		key, err := gossip.ParseKey(c.keyText)
		if err != nil {
			return fmt.Errorf("--%s is %w; \"cartd keygen\" makes one", keyFlag, err)
		}
		keys, err := gossip.NewKeyring(key)
		if err != nil {
			return fmt.Errorf("--%s: %w", keyFlag, err)
		}
		c.keys, c.keyText = &keys, ""
	}
	return nil
}

// isName reports whether a region or a zone can be called so. None is a name, too.
func isName(s string) bool {
	const others = "-._"
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r) {
			return false
		}
	}
	return len(s) <= 64
}

// isHost reports whether s is an address of one host, or a name that could be one's.
func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return !a.IsUnspecified()
	}
	return s != "" && len(s) <= 253 && !strings.ContainsAny(s, ":/ \t\r\n[]%")
}
