package sim

import (
	"fmt"
	"strings"
	"testing"
)

// counts are how often what happened, in one run or in many.
type counts map[string]int

// kinds are what has to happen in any few hundred runs.
var kinds = []string{
	"operations", "acknowledged", "refused", "retries",
	"crashes", "drains", "handovers", "evictions", "forgotten",
	"joins", "leaves", "machines lost", "moved", "held", "released", "forwards", "unanswered", "take-overs",
	"halves", "one way", "ring", "isolated", "flickers", "resets", "stalls",
	"outages", "restarts of all", "newcomers in an outage", "replaced", "hangs", "unsure", "loads", "stale", "gaps", "commits", "gone back",
	"regions cut off", "regions cut one way", "stranded", "regions lost", "databases wiped", "elections", "links abroad",
	"crossings", "relayed", "crossings dropped", "repairs between regions", "held abroad", "recoveries",
	"links", "frames", "lost", "duplicated", "reordered",
}

func (c counts) add(o counts) {
	for kind, n := range o {
		c[kind] += n
	}
}

func (c counts) String() string {
	parts := make([]string, len(kinds))
	for i, kind := range kinds {
		parts[i] = fmt.Sprintf("%d %s", c[kind], kind)
	}
	return strings.Join(parts, ", ")
}

// wantAll checks that everything happened.
func (c counts) wantAll(t *testing.T) {
	for _, kind := range kinds {
		if c[kind] == 0 {
			t.Errorf("no %s in any run: the simulation does not do what it is for", kind)
		}
	}
}
