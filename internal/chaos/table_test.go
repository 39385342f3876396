package chaos

import (
	"fmt"
	"strings"
	"time"

	"cartd/internal/workload"
)

// row is what a run of a nemesis found.
type row struct {
	nemesis      string
	totals       workload.Totals
	verdict      workload.Verdict
	availability share
	gap          time.Duration
	convergence  time.Duration // since the fault was undone
	statesSent   int
	takeOver     time.Duration // 0: nobody had to
}

// table writes rows as a table in Markdown.
func table(rows []row) string {
	var b strings.Builder
	b.WriteString("| nemesis | operations | acknowledged | refused | lost | at risk, lost | resurfaced | doubled | sessions " +
		"| availability | longest gap | take-over | convergence | states sent |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		t, v := r.totals, r.verdict
		takeOver := "–"
		if r.takeOver > 0 {
			takeOver = seconds(r.takeOver)
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %v | %s | %s | %s | %d |\n",
			r.nemesis, t.Operations, t.Acknowledged, t.Refused, v.Lost, v.AtRiskLost, v.Resurfaced, v.Doubled, v.Sessions,
			r.availability, seconds(r.gap), takeOver, seconds(r.convergence), r.statesSent)
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
