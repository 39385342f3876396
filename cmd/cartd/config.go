package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cartd/cart/postgres"
)

// config is the settings of a node.
type config struct {
	listen      string
	adminListen string
	dataDir     string
	databaseURL string // holds a password: never to be shown
	dev         bool
	maxLines    int
	memory      byteSize
	cluster     clusterConfig
}

const (
	envPrefix = "CARTD_"

	dataDirFlag    = "data-dir"
	defaultDataDir = "./cartd-data"

	databaseURLFlag  = "database-url"
	databaseURLUsage = "keep carts in this PostgreSQL database, not in --data-dir: postgres://user:password@host:5432/database"
)

// flags declares the flag of each setting.
func (c *config) flags(f *pflag.FlagSet) {
	c.memory = 1 << 30
	f.StringVar(&c.listen, "listen", "127.0.0.1:8080", "address of the HTTP API")
	f.StringVar(&c.adminListen, "admin-listen", "127.0.0.1:8081", "address for operators: /livez, /readyz, /metrics, /debug/cluster")
	f.StringVar(&c.dataDir, dataDirFlag, defaultDataDir, "directory of the store, created where it is missing")
	f.StringVar(&c.databaseURL, databaseURLFlag, "", databaseURLUsage)
	f.BoolVar(&c.dev, "dev", false, "trust every caller: any cart without its token, and prices")
	f.IntVar(&c.maxLines, "max-lines", 1000, "lines that a cart may have, 1 to 10000")
	f.Var(&c.memory, "memory", "memory for carts, as 512MiB or in bytes; carts that were not used for longest leave it")
	c.cluster.flags(f)
}

// check refuses settings that are out of range or contradict each other. given tells of a flag
// whether it was set, by itself or by its variable.
func (c *config) check(given func(flag string) bool) error {
	if err := c.cluster.check(given); err != nil {
		return err
	}
	if err := c.checkListeners(); err != nil {
		return err
	}
	switch {
	case given(databaseURLFlag) && given(dataDirFlag):
		return errTwoStores
	case c.dataDir == "":
		return errNoDataDir
	case c.maxLines < 1 || c.maxLines > 10_000:
		return fmt.Errorf("--max-lines is %d, not 1 to 10000", c.maxLines)
	case c.memory < 1<<20:
		return fmt.Errorf("--memory is %s, less than 1MiB", c.memory)
	}
	if given(databaseURLFlag) {
		return checkDatabaseURL(c.databaseURL)
	}
	return nil
}

var (
	errTwoStores = errors.New("--database-url and --data-dir contradict each other: carts are kept in one of them")
	errNoDataDir = errors.New("--data-dir must not be empty")
)

// checkListeners refuses addresses that nothing can listen on, and one address for two listeners.
func (c *config) checkListeners() error {
	type listener struct{ flag, address string }
	all := []listener{{"--listen", c.listen}, {"--admin-listen", c.adminListen}}
	if c.cluster.keys != nil {
		all = append(all, listener{"--gossip-listen", c.cluster.gossipListen}, listener{"--link-listen", c.cluster.linkListen})
		if c.cluster.wanListen != "" {
			all = append(all, listener{"--" + wanListenFlag, c.cluster.wanListen})
		}
	}
	for i, l := range all {
		if _, err := net.ResolveTCPAddr("tcp", l.address); err != nil || l.address == "" {
			return fmt.Errorf("%s is %q, not an address like 127.0.0.1:8080", l.flag, l.address)
		}
		for _, other := range all[:i] {
			if l.address == other.address && !strings.HasSuffix(l.address, ":0") {
				return fmt.Errorf("%s and %s are both %s", other.flag, l.flag, l.address)
			}
		}
	}
	return nil
}

func checkDatabaseURL(url string) error {
	if err := postgres.CheckURL(url); err != nil {
		return fmt.Errorf("--database-url is %w", err) // which does not tell the password
	}
	return nil
}

// fromEnvironment sets each flag that was not given from its variable: --data-dir from
// CARTD_DATA_DIR. A CARTD_ variable that no flag goes by is an error: most likely it is misspelt. One
// that only a flag of another command goes by is none: the commands run in one environment. A variable gives
// way to the flag that would contradict it, too.
func fromEnvironment(cmd *cobra.Command, environ []string) error {
	flags := cmd.Flags()
	known := make(map[string]*pflag.Flag)
	variables := make(map[string]bool)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			known[variableOf(f)] = f
		}
	})
	given := make(map[string]bool)
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	elsewhere := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(config).flags(elsewhere)
	new(adminConfig).flags(elsewhere)
	elsewhere.VisitAll(func(f *pflag.Flag) { variables[variableOf(f)] = true })
	for _, entry := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		f := known[name]
		if f == nil && variables[name] {
			continue
		}
		if f == nil {
			return fmt.Errorf("there is no setting %s", name)
		}
		if f.Changed || given[instead[f.Name]] {
			continue
		}
		if err := flags.Set(f.Name, value); err != nil {
			return fmt.Errorf("%s=%q: %w", name, value, err) // secrets are texts, which any value is
		}
	}
	return nil
}

// instead names the flag that says where carts are kept instead.
var instead = map[string]string{databaseURLFlag: dataDirFlag, dataDirFlag: databaseURLFlag}

// variableOf returns the name of the variable that sets a flag.
func variableOf(f *pflag.Flag) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// byteSize is a number of bytes, written with or without a unit.
type byteSize int64

var units = []struct {
	suffix string
	size   int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// Set reads 1073741824, 1GiB or 1.5GiB.
func (b *byteSize) Set(text string) error {
	for _, unit := range units {
		number, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(number, 64)
		if bytes := n * float64(unit.size); err == nil && bytes >= 0 && bytes < math.MaxInt64 {
			*b = byteSize(bytes)
			return nil
		}
		break
	}
	return errors.New("a size is a number of bytes, or one with KiB, MiB, GiB or TiB")
}

func (b byteSize) String() string {
	for _, unit := range units {
		if n := int64(b); n > 0 && n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.suffix
		}
	}
	return "0B"
}

// Type names the kind of value in the help text.
func (b *byteSize) Type() string { return "size" }
