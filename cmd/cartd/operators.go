package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cartd/gossip"
)

// Exit codes of status, beside 0 where all is fine and 1 where no node answers.
const (
	exitAtRisk  exitCode = 3
	exitFailing exitCode = 4
)

// What status prints has 100 columns and, for up to six nodes, 25 lines.
const (
	screen       = 98 // columns, and room for an ellipsis
	mostLines    = 25
	mostFindings = 9 // lines
)

func membersCommand(environ []string) *cobra.Command {
	return askingCommand(environ, &cobra.Command{
		Use:   "members",
		Short: "Show the nodes of a region, as one of them sees them",
		Long: "Show the nodes of a region and the links with them, as the node sees them that is asked, which comes first.\n" +
			"With several --admin there is a table for each. Exit code 1: a node does not answer.",
	}, func(w io.Writer, readings []reading) error {
		for i, r := range answers(readings) {
			if i > 0 {
				fmt.Fprintln(w)
			}
			writeMembers(w, r.status)
		}
		return failures(readings)
	})
}

func statusCommand(environ []string) *cobra.Command {
	return askingCommand(environ, &cobra.Command{
		Use:   "status",
		Short: "Tell whether a region keeps its promise, and what is short if not",
		Long: "Tell whether nodes keep the promise that an acknowledged write is not lost, and take writes; and what is\n" +
			"short if not. It is about the nodes that are asked: give --admin of all of a region to learn of all.\n\n" +
			"Exit codes: 0 ok, 3 at risk (writes are safe and taken, and the next failure may change that), 4 failing (a\n" +
			"node refuses writes), 1 no node answers, 2 wrong flags.",
	}, func(w io.Writer, readings []reading) error {
		up := answers(readings)
		if len(up) == 0 {
			return failures(readings)
		}
		switch writeStatus(w, up, readings) {
		case refusing:
			return exitFailing
		case atRisk:
			return exitAtRisk
		}
		return nil
	})
}

// askingCommand makes a command of one that asks nodes for their status and shows what they say.
func askingCommand(environ []string, cmd *cobra.Command, show func(io.Writer, []reading) error) *cobra.Command {
	var c adminConfig
	cmd.Args = usageArgs(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := fromEnvironment(cmd, environ); err != nil {
			return usageError{err}
		}
		if err := c.check(); err != nil {
			return usageError{err}
		}
		readings, w := c.ask(cmd.Context()), cmd.OutOrStdout()
		if !c.json {
			return show(w, readings)
		}
		for _, r := range answers(readings) {
			if _, err := w.Write(r.raw); err != nil {
				return err
			}
		}
		return failures(readings)
	}
	c.flags(cmd.Flags())
	return cmd
}

// answers are the readings of nodes that answered.
func answers(readings []reading) []reading {
	return slices.DeleteFunc(slices.Clone(readings), func(r reading) bool { return r.err != nil })
}

// failures tells of the nodes that did not answer, or returns nil.
func failures(readings []reading) error {
	var errs []error
	for _, r := range readings {
		errs = append(errs, r.err)
	}
	return errors.Join(errs...)
}

func writeMembers(w io.Writer, z *status) {
	if z.Node == nil {
		fmt.Fprintln(w, "This node is alone: it has no cluster key.")
		return
	}
	t := newTable(w, "NAME", "REGION", "ZONE", "STATE", "API", "LINK", "ROUND TRIP", "BACKLOG", "CLOCK")
	links := make(map[string]linkStatus)
	for _, l := range z.Links {
		links[l.StartID] = l
	}
	row := func(m memberStatus, link ...string) {
		t.row(append([]string{m.Name, m.Region, m.Zone, m.stateColumn(), m.APIAddress}, link...)...)
	}
	row(*z.Node, "this node")
	for _, m := range z.Members {
		m.Bridge = slices.ContainsFunc(z.WANMembers, func(known memberStatus) bool { return known.StartID == m.StartID && known.Bridge })
		l, found := links[m.StartID]
		delete(links, m.StartID)
		if !found {
			row(m, "none")
			continue
		}
		row(m, linkColumns(l)...)
	}
	for _, l := range z.Links { // with processes that went away a moment ago
		if _, left := links[l.StartID]; left {
			row(memberStatus{Name: l.Peer, State: "gone"}, linkColumns(l)...)
		}
	}
	t.show()
}

// linkColumns shows a link: LINK, ROUND TRIP, BACKLOG and CLOCK.
func linkColumns(l linkStatus) []string {
	backlog := strconv.Itoa(l.BacklogItems)
	if l.BacklogItems > 0 {
		backlog += ", " + inWords(seconds(l.Lag))
	}
	if !l.Up {
		return []string{"down", "", backlog}
	}
	return []string{"up", inWords(seconds(l.RoundTrip)), backlog, offset(l.ClockOffset)}
}

// offset shows how far a clock is ahead, in seconds.
func offset(s float64) string {
	sign := ""
	if s > 0 {
		sign = "+"
	}
	return sign + inWords(seconds(s))
}

// writeStatus shows what nodes said, on one screen for three of them, and returns the level of the worst. Of all
// that were asked, up are those that answered: one at least.
func writeStatus(w io.Writer, up, all []reading) (l level) {
	groups := groupFindings(up, all)
	for _, g := range groups {
		l = max(l, g.level)
	}
	held := up[0].status.held()
	switch l {
	case fine:
		fmt.Fprintf(w, "ok: every acknowledged write is held by %s\n", held)
	case atRisk:
		if slices.ContainsFunc(up, func(r reading) bool { return r.status.Carts != nil && r.status.Carts.UnderReplicated > 0 }) {
			fmt.Fprintf(w, "at risk: writes are taken, but some are not known to be held by %s:\n", held)
		} else {
			fmt.Fprintf(w, "at risk: writes are taken, and held by %s, but not everything is well:\n", held)
		}
	case refusing:
		fmt.Fprintf(w, "failing: writes are refused with 503, for they cannot be held by %s:\n", held)
	}
	var lines []string
	for _, g := range groups {
		if lines = append(lines, g.lines(len(all))...); len(lines) > mostFindings {
			lines = append(lines[:mostFindings-1], fmt.Sprintf("  … and more, %d findings in all: see --json", len(groups)))
			break
		}
	}
	fmt.Fprintln(w, strings.Join(append(lines, ""), "\n"))
	writeNodes(w, up)
	var rest bytes.Buffer
	writeRegions(&rest, up)
	writeTotals(&rest, up)
	const around = 5 // the verdict, an empty line before each of two tables, and their headers
	writeLinks(w, up, mostLines-around-len(lines)-len(up)-bytes.Count(rest.Bytes(), []byte("\n")))
	_, _ = rest.WriteTo(w) // as with a table
	return l
}

// group is what several nodes found alike. It shows what the first of them says.
type group struct {
	finding
	at    string // the address of that one
	nodes int
}

// groupFindings puts together what nodes found, and what they did not answer, the worst first.
func groupFindings(up, all []reading) (groups []group) {
	add := func(f finding, at string) {
		same := func(g group) bool {
			return g.level == f.level && g.about == f.about && g.at != at && alike(g.says, f.says)
		}
		if i := slices.IndexFunc(groups, same); i >= 0 {
			groups[i].nodes++
			return
		}
		groups = append(groups, group{f, at, 1})
	}
	for _, r := range up {
		for _, f := range judge(r.status) {
			add(f, r.address)
		}
	}
	for _, r := range all {
		if r.err != nil {
			add(finding{level: atRisk, about: "no answer", says: r.err.Error()}, "")
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int { return cmp.Compare(b.level, a.level) })
	return groups
}

// alike reports whether two findings differ in how many or how long at most.
func alike(a, b string) bool {
	number := func(word string) bool {
		return word[0] >= '0' && word[0] <= '9' && !strings.Contains(strings.TrimRight(word, ":"), ":") // no address
	}
	return slices.EqualFunc(strings.Fields(a), strings.Fields(b), func(a, b string) bool {
		return a == b || number(a) && number(b)
	})
}

// lines shows what was found in a line or two.
func (g group) lines(asked int) []string {
	where := ""
	switch {
	case g.nodes > 1:
		where = fmt.Sprintf("at %d of %d nodes: ", g.nodes, asked)
	case asked > 1 && g.at != "":
		where = g.at + ": "
	}
	const margin = 13
	var lines []string
	line := fmt.Sprintf("  %-9s ", g.about)
	for _, word := range strings.Fields(where + g.String()) { // errors may have several lines
		if long := []rune(word); len(long) > screen-margin {
			word = string(long[:screen-margin-1]) + "…"
		}
		if utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > screen {
			lines = append(lines, line)
			line = strings.Repeat(" ", margin-1)
		}
		line += " " + word
	}
	if lines = append(lines, line); len(lines) > 2 {
		return []string{lines[0], lines[1] + " …"}
	}
	return lines
}

func writeNodes(w io.Writer, up []reading) {
	place := "ZONE"
	if slices.ContainsFunc(up, func(r reading) bool { return len(r.status.Regions) > 0 }) {
		place = "REGION"
	}
	t := newTable(w, "NODE", place, "STATE", "READY", "LINKED", "NEED", "SLOTS", "STORE", "CARTS", "UNSAVED", "OLDEST", "IN DOUBT")
	for _, r := range up {
		z := r.status
		name, zone, state := r.address, "", "alone"
		if z.Node != nil {
			name, zone, state = shortName(z.Node.Name), z.Node.Zone, z.Node.stateColumn()
			if place == "REGION" {
				zone = strings.TrimSuffix(z.Node.Region+"/"+zone, "/")
			}
		}
		row := []string{name, zone, state, "no", "", "", ""}
		if z.Ready {
			row[3] = "yes"
		}
		if z.Node != nil {
			row[4], row[5] = strconv.Itoa(z.Linked), strconv.Itoa(z.Needed)
		}
		if p := z.Slots; p != nil {
			row[6] = strconv.Itoa(p.Own)
			if p.Held > 0 {
				row[6] += fmt.Sprintf("+%d", p.Held)
			}
		}
		if c, s := z.Carts, z.Store; c != nil && s != nil {
			row = append(row, s.state(), strconv.FormatInt(c.Resident, 10), strconv.Itoa(c.Unsaved),
				inWords(seconds(c.OldestUnsaved)), strconv.Itoa(s.Damaged))
		}
		t.row(row...)
	}
	t.show()
}

// stateColumn shows the state of a process. A bridge is active, unless a region has but joining ones.
func (m *memberStatus) stateColumn() string {
	if m.Bridge && m.State == stateName(gossip.Active) {
		return "bridge"
	}
	return m.State
}

// shortName leaves the start id out of the name of a process.
func shortName(name string) string {
	address, _, _ := strings.Cut(name, "/")
	return address
}

// state is what a store does, in a word.
func (s *storeStatus) state() string {
	switch {
	case !s.Reachable:
		return "away"
	case !s.StalledSince.IsZero():
		return "stalled"
	}
	return "ok"
}

// writeLinks shows the links in so many lines at most, those with the longest backlog if not all.
func writeLinks(w io.Writer, up []reading, most int) {
	type row struct {
		from string
		linkStatus
	}
	var rows []row
	for _, r := range up {
		for _, l := range r.status.Links {
			if !r.status.replaced(l) {
				rows = append(rows, row{shortName(r.status.Node.Name), l})
			}
		}
	}
	left := 0
	if len(rows) > most {
		slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.trouble(), a.trouble()) })
		left = len(rows) - max(0, most-1)
		rows = rows[:len(rows)-left]
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "LINK FROM", "TO", "IS", "ROUND TRIP", "BACKLOG", "CLOCK")
	for _, r := range rows {
		t.row(append([]string{r.from, shortName(r.Peer)}, linkColumns(r.linkStatus)...)...)
	}
	t.show()
	if left > 0 {
		fmt.Fprintf(w, "… and %d links with less to tell\n", left)
	}
}

// trouble grows with how much there is to be told of a link.
func (l *linkStatus) trouble() float64 {
	if !l.Up {
		return math.Inf(1)
	}
	return l.Lag
}

// way is how a region reaches another one, as the nodes say that were asked.
type way struct {
	nodes, reach int
	since        time.Time // that is so at all of them
	at           time.Time // when that was asked
	roundTrip    float64
	lag          float64
	links, up    int
	crossings    gossip.Crossings
	needSync     int
}

// add adds what a node says.
func (y *way) add(z *status, r *regionStatus) {
	y.nodes++
	if r.Reachable {
		y.reach++
	}
	if r.Since.After(y.since) {
		y.since = r.Since
	}
	y.at = z.Time
	if r.RoundTrip > 0 && (y.roundTrip == 0 || r.RoundTrip < y.roundTrip) {
		y.roundTrip = r.RoundTrip
	}
	y.lag = max(y.lag, r.Lag)
	if z.Node.Bridge {
		y.links += len(r.Bridges)
		y.up += r.linked()
	}
	y.crossings.Sent += r.Crossings.Sent
	y.crossings.Received += r.Crossings.Received
	y.crossings.Dropped += r.Crossings.Dropped
	y.needSync += r.NeedSync
}

// writeRegions shows how regions reach each other: a line for each way.
func writeRegions(w io.Writer, up []reading) {
	ways := make(map[string]way) // by the names of both
	for _, r := range up {
		z := r.status
		for i := range z.Regions {
			name := z.Node.Region + " " + z.Regions[i].Region
			y := ways[name]
			y.add(z, &z.Regions[i])
			ways[name] = y
		}
	}
	if len(ways) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "REGION", "OTHER", "IS", "FOR", "ROUND TRIP", "LAG", "LINKS", "SENT", "RECEIVED", "DROPPED", "TO SYNC")
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		y := ways[name]
		t.row(append(strings.Fields(name), y.columns()...)...)
	}
	t.show()
}

// columns shows all but the names.
func (y *way) columns() []string {
	is, roundTrip, lag, links := "reached", "", "", ""
	switch y.reach {
	case 0:
		is = "cut off"
	case y.nodes:
	default:
		is = fmt.Sprintf("%d of %d", y.reach, y.nodes)
	}
	if y.roundTrip > 0 {
		roundTrip = inWords(seconds(y.roundTrip))
	}
	if y.lag > 0 {
		lag = inWords(seconds(y.lag))
	}
	if y.links > 0 {
		links = fmt.Sprintf("%d of %d", y.up, y.links)
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return []string{
		is, inWords(y.at.Sub(y.since).Truncate(time.Second)), roundTrip, lag, links,
		number(y.crossings.Sent), number(y.crossings.Received), number(y.crossings.Dropped), strconv.Itoa(y.needSync),
	}
}

func writeTotals(w io.Writer, up []reading) {
	var total cartsStatus
	var forwards forwardsStatus
	for _, r := range up {
		if c := r.status.Carts; c != nil {
			total.AckedByPeers += c.AckedByPeers
			total.AckedByDatabase += c.AckedByDatabase
			total.NotDurable += c.NotDurable
			total.AskedAbroad += c.AskedAbroad
		}
		forwards.Forwarded += r.status.Forwards.Forwarded
		forwards.TakenOver += r.status.Forwards.TakenOver
		forwards.ForOthers += r.status.Forwards.ForOthers
	}
	fmt.Fprintf(w, "\nwrites since the start: %d held by nodes, %d by the %s, %d refused with 503",
		total.AckedByPeers, total.AckedByDatabase, up[0].status.storeName(), total.NotDurable)
	if total.AskedAbroad > 0 {
		fmt.Fprintf(w, "; %d asked abroad", total.AskedAbroad)
	}
	fmt.Fprintln(w)
	if forwards != (forwardsStatus{}) {
		fmt.Fprintf(w, "requests for carts of others: %d passed on, %d answered for others, %d taken over\n",
			forwards.Forwarded, forwards.ForOthers, forwards.TakenOver)
	}
}

// table is text in columns.
type table struct {
	*tabwriter.Writer // which holds the rows back
	columns           int
}

func newTable(w io.Writer, header ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), len(header)}
	t.row(header...)
	return t
}

// show writes what the rows are. A command line has nowhere to report that its terminal is gone.
func (t table) show() { _ = t.Flush() }

// row adds a row. What is empty or missing shows as a dash.
func (t table) row(cells ...string) {
	row := make([]string, t.columns)
	for i := range row {
		row[i] = "-"
		if i < len(cells) && cells[i] != "" {
			row[i] = cells[i]
		}
	}
	fmt.Fprintln(t, strings.Join(row, "\t"))
}
