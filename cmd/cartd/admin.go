package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/pflag"
)

const (
	adminTimeout   = 3 * time.Second // for a node to answer
	maxAdminAnswer = 16 << 20        // bytes
)

// adminConfig says which nodes a command for operators asks.
type adminConfig struct {
	addresses []string // of the operators' listeners
	json      bool     // show what they say as it is
}

func (c *adminConfig) flags(f *pflag.FlagSet) {
	f.StringSliceVar(&c.addresses, "admin", []string{"127.0.0.1:8081"},
		"addresses of the operators' listeners of the nodes to ask, host:port, as their --admin-listen; with commas or repeated")
	f.BoolVar(&c.json, "json", false, "print what each node answers at /debug/cluster, as it is, one after the other")
}

func (c *adminConfig) check() error {
	if len(c.addresses) == 0 {
		return errors.New("--admin must not be empty")
	}
	for _, address := range c.addresses {
		host, port, err := net.SplitHostPort(address)
		if n, _ := strconv.ParseUint(port, 10, 16); err != nil || !isHost(host) || n == 0 {
			return fmt.Errorf("--admin is %q, not the address of a node's operators' listener like 127.0.0.1:8081", address)
		}
	}
	asked := make(map[string]bool)
	c.addresses = slices.DeleteFunc(c.addresses, func(address string) bool {
		again := asked[address]
		asked[address] = true
		return again
	})
	return nil
}

// reading is what a node said of itself, or why it said nothing.
type reading struct {
	address string
	status  *status
	raw     []byte // the status as it came
	err     error
}

// ask asks all nodes at the same time, and returns the readings in the order of the addresses.
func (c *adminConfig) ask(ctx context.Context) []reading {
	readings := make([]reading, len(c.addresses))
	var all sync.WaitGroup
	for i, address := range c.addresses {
		all.Go(func() {
			r := reading{address: address}
			r.status, r.raw, r.err = fetchStatus(ctx, address)
			readings[i] = r
		})
	}
	all.Wait()
	return readings
}

// fetchStatus reads the status of the node whose operators' listener is at an address. Fields that another
// version of cartd has are left out of it, and are in raw.
func fetchStatus(ctx context.Context, address string) (z *status, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/debug/cluster", nil)
	if err != nil {
		return nil, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		if e := new(url.Error); errors.As(err, &e) {
			err = e.Err // the rest is the address
		}
		return nil, nil, fmt.Errorf("%s: %w", address, err)
	}
	defer response.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s: %w", address, err)
	case response.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("%s: %s, which is no operators' listener of cartd", address, response.Status)
	}
	z = new(status)
	if err := json.Unmarshal(raw, z); err != nil {
		return nil, nil, fmt.Errorf("%s: no status of cartd: %w", address, err)
	}
	return z, raw, nil
}
