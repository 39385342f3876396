package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Exit codes of status, beside 0 where all is fine and 1 where no node answers.
const (
	exitAtRisk  exitCode = 3
	exitFailing exitCode = 4
)

// What status prints has 100 columns, and for three nodes 25 lines.
const (
	screen       = 98 // columns, and room for an ellipsis
	mostFindings = 9  // lines
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
		t.row(append([]string{m.Name, m.Region, m.Zone, m.State, m.APIAddress}, link...)...)
	}
	row(*z.Node, "this node")
	for _, m := range z.Members {
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
	writeLinks(w, up)
	writeRegions(w, up)
	writeTotals(w, up)
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
			add(finding{atRisk, "no answer", r.err.Error()}, "")
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
	for _, word := range strings.Fields(where + g.says) { // errors may have several lines
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
	t := newTable(w, "NODE", "ZONE", "STATE", "READY", "LINKED", "NEEDED", "SLOTS", "STORE", "CARTS", "UNSAVED", "OLDEST", "IN DOUBT")
	for _, r := range up {
		z := r.status
		name, zone, state := r.address, "", "alone"
		if z.Node != nil {
			name, zone, state = shortName(z.Node.Name), z.Node.Zone, z.Node.State
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

func writeLinks(w io.Writer, up []reading) {
	t := newTable(w, "LINK FROM", "TO", "IS", "ROUND TRIP", "BACKLOG", "CLOCK")
	rows := 0
	for _, r := range up {
		for _, l := range r.status.Links {
			if r.status.replaced(l) {
				continue
			}
			t.row(append([]string{shortName(r.status.Node.Name), shortName(l.Peer)}, linkColumns(l)...)...)
			rows++
		}
	}
	if rows > 0 {
		fmt.Fprintln(w)
		t.show()
	}
}

// writeRegions shows how regions reach each other, as the bridges among the nodes say: a line for each way.
func writeRegions(w io.Writer, up []reading) {
	ways := make(map[string]regionStatus) // by the names of both
	for _, r := range up {
		z := r.status
		for _, to := range z.Regions {
			name := z.Node.Region + " " + to.Region
			way := ways[name]
			if z.Node.Bridge {
				way.Bridges = append(way.Bridges, to.Bridges...)
				way.Reachable = way.Reachable || to.Reachable
				if to.RoundTrip > 0 && (way.RoundTrip == 0 || to.RoundTrip < way.RoundTrip) {
					way.RoundTrip = to.RoundTrip
				}
			}
			ways[name] = way
		}
	}
	if len(ways) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := newTable(w, "REGION FROM", "TO", "IS", "ROUND TRIP", "LINKS")
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		t.row(append(strings.Fields(name), ways[name].columns()...)...)
	}
	t.show()
}

// columns shows the way to a region: IS, ROUND TRIP and LINKS. What only nodes know that are no bridges is nothing.
func (way regionStatus) columns() []string {
	linked := 0
	for _, l := range way.Bridges {
		if l.Up {
			linked++
		}
	}
	links := fmt.Sprintf("%d of %d", linked, len(way.Bridges))
	switch {
	case len(way.Bridges) == 0:
		return nil
	case !way.Reachable:
		return []string{"cut off", "", links}
	}
	return []string{"reached", inWords(seconds(way.RoundTrip)), links}
}

func writeTotals(w io.Writer, up []reading) {
	var total cartsStatus
	for _, r := range up {
		if c := r.status.Carts; c != nil {
			total.AckedByPeers += c.AckedByPeers
			total.AckedByDatabase += c.AckedByDatabase
			total.NotDurable += c.NotDurable
		}
	}
	fmt.Fprintf(w, "\nwrites since the start: %d held by nodes, %d by the %s, %d refused with 503\n",
		total.AckedByPeers, total.AckedByDatabase, up[0].status.storeName(), total.NotDurable)
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
