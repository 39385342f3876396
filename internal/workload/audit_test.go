package workload

import (
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestAuditCounts: one write that is undone behind the back of clients that have stopped is one in the verdict, and
// with AtRisk it is none that counts.
func TestAuditCounts(t *testing.T) {
	t.Parallel()
	// first returns the first line of a kind that is in the ledger for which ok holds.
	type find func(prefix string, ok func(c *cart, l line, sku string) bool) (c *cart, sku string)
	onceRemoved := func(_ *cart, l line, _ string) bool {
		o := l.(*once)
		return len(o.removals) > 0 && o.removals[0].outcome == acknowledged
	}
	onceThere := func(_ *cart, l line, _ string) bool { return len(l.(*once).removals) == 0 }
	last := func(l line) assignment { a := l.(*register).assignments; return a[len(a)-1] }
	tests := []struct {
		name   string
		spoil  func(f *fakeRegion, find find)
		want   Verdict
		atRisk Verdict
	}{
		{
			name: "an add to a shared line is missing",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(sharedPrefix, func(*cart, line, string) bool { return true })
				f.carts[c.id].lines[sku] -= int(c.lines[sku].(*counter).adds[0].units)
			},
			want: Verdict{Lost: 1}, atRisk: Verdict{AtRiskLost: 1},
		},
		{
			name: "a shared line has too much",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(sharedPrefix, func(*cart, line, string) bool { return true })
				f.carts[c.id].lines[sku]++
			},
			want: Verdict{Doubled: 1}, atRisk: Verdict{Doubled: 1},
		},
		{
			name: "a line that was added once is missing",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(oncePrefix, onceThere)
				delete(f.carts[c.id].lines, sku)
			},
			want: Verdict{Lost: 1}, atRisk: Verdict{AtRiskLost: 1},
		},
		{
			name: "a line that was added once counts twice",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(oncePrefix, onceThere)
				f.carts[c.id].lines[sku] *= 2
			},
			want: Verdict{Doubled: 1}, atRisk: Verdict{Doubled: 1},
		},
		{
			name: "a line that was added once is there in part",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(oncePrefix, func(c *cart, l line, sku string) bool { return onceThere(c, l, sku) && l.(*once).units > 1 })
				f.carts[c.id].lines[sku]--
			},
			want: Verdict{Lost: 1}, atRisk: Verdict{Lost: 1},
		},
		{
			name: "a line that was added once and removed is back",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(oncePrefix, onceRemoved)
				f.carts[c.id].lines[sku] = int(c.lines[sku].(*once).units)
			},
			want: Verdict{Resurfaced: 1}, atRisk: Verdict{AtRiskLost: 1},
		},
		{
			name: "an assignment is undone",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(ownPrefix, func(_ *cart, l line, _ string) bool { return last(l).units > 1 })
				a := c.lines[sku].(*register).assignments
				f.carts[c.id].lines[sku] = int(a[len(a)-2].units)
			},
			want: Verdict{Lost: 1}, atRisk: Verdict{AtRiskLost: 1},
		},
		{
			name: "the removal of an assignment is undone",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(ownPrefix, func(_ *cart, l line, _ string) bool { return last(l).units == 0 })
				a := c.lines[sku].(*register).assignments
				f.carts[c.id].lines[sku] = int(a[len(a)-2].units)
			},
			want: Verdict{Resurfaced: 1}, atRisk: Verdict{AtRiskLost: 1},
		},
		{
			name: "two assignments sum up",
			spoil: func(f *fakeRegion, find find) {
				c, sku := find(ownPrefix, func(_ *cart, l line, _ string) bool { return last(l).units > 1 })
				f.carts[c.id].lines[sku] += int(c.lines[sku].(*register).last - 1)
			},
			want: Verdict{Doubled: 1}, atRisk: Verdict{Doubled: 1},
		},
		{
			name: "there is what nobody has added",
			spoil: func(f *fakeRegion, find find) {
				c, _ := find(ownPrefix, func(*cart, line, string) bool { return true })
				f.carts[c.id].lines["TEE-RED"] = 1
			},
			want: Verdict{Doubled: 1}, atRisk: Verdict{Doubled: 1},
		},
	}
	f := newFakeRegion(t, 2)
	began := time.Now()
	r := start(t, f.options(seed(t)))
	work(t, r, 800)
	if v := audit(t, r); !v.OK() {
		t.Fatalf("before: %v\n%s", v, strings.Join(v.Findings, "\n"))
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f.mu.Lock()
			before := make(map[string]map[string]int)
			for id, c := range f.carts {
				before[id] = maps.Clone(c.lines)
			}
			test.spoil(f, func(prefix string, ok func(c *cart, l line, sku string) bool) (*cart, string) {
				for _, c := range r.all {
					for sku, l := range c.lines {
						if strings.HasPrefix(sku, prefix) && ok(c, l, sku) {
							return c, sku
						}
					}
				}
				f.mu.Unlock()
				t.Fatal("there is no such line to spoil")
				return nil, ""
			})
			f.mu.Unlock()
			check := func(want Verdict) {
				t.Helper()
				v := audit(t, r)
				findings := v.Findings
				if len(findings) == 0 != want.OK() {
					t.Errorf("%d findings", len(findings))
				}
				if v.Converged, v.Findings = 0, nil; !equal(v, want) {
					t.Errorf("%v, not %v\n%s", v, want, strings.Join(findings, "\n"))
				}
			}
			check(test.want)
			r.AtRisk(Risk{From: began.Add(-time.Hour), To: began.Add(-time.Minute)}) // nothing was acknowledged then
			check(test.want)
			r.AtRisk(Risk{From: began, To: time.Now()})
			check(test.atRisk)

			r.risks = nil
			for id, lines := range before {
				f.carts[id].lines = lines
			}
		})
	}
}

func equal(v, w Verdict) bool {
	return v.Lost == w.Lost && v.Resurfaced == w.Resurfaced && v.Doubled == w.Doubled && v.AtRiskLost == w.AtRiskLost &&
		v.Sessions == w.Sessions && v.Wrong == w.Wrong && v.Unequal == w.Unequal
}

// What the database has acknowledged is not at risk; a cart that no node has is lost with all that is in it.
func TestAuditDatabase(t *testing.T) {
	t.Parallel()
	f := newFakeRegion(t, 2)
	began := time.Now()
	o := f.options(seed(t))
	o.Carts, o.CartWrites = 2, 1000
	o.Durability = func(cart int) string { return []string{"", "database"}[cart] }
	r := start(t, o)
	work(t, r, 300)
	if z := r.Totals(); z.ByPeers == 0 || z.ByDatabase == 0 || z.ByPeers+z.ByDatabase != z.Acknowledged {
		t.Errorf("each cart should have been acknowledged in its own way: %v", z)
	}
	r.AtRisk(Risk{From: began, To: time.Now()})
	for _, c := range r.all {
		f.mu.Lock()
		clear(f.carts[c.id].lines)
		f.mu.Unlock()
		v := audit(t, r)
		if lost := map[bool]int{true: v.Lost, false: v.AtRiskLost}[c.number == 1]; lost == 0 {
			t.Errorf("cart %d is empty: %v", c.number, v)
		}
		if c.number == 0 && v.Lost != 0 {
			t.Errorf("lost, though at risk: %v", v)
		}
	}
	emptied := audit(t, r)
	f.mu.Lock()
	clear(f.carts)
	f.mu.Unlock()
	if v := auditWithin(t, r, 2*time.Second); v.Lost != emptied.Lost+1 || v.AtRiskLost != emptied.AtRiskLost+1 || v.Unequal != 0 {
		t.Errorf("without the carts: %v; while they were empty: %v", v, emptied)
	}
}

// TestChoose: compared with all ways to choose.
func TestChoose(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seed(t), 0))
	for range 2000 {
		n := random.IntN(8)
		units, cost := make([]int64, n), make([]int, n)
		var all int64
		for i := range n {
			units[i], cost[i] = 1+random.Int64N(9), random.IntN(2)
			all += units[i]
		}
		sum := random.Int64N(all + 1)
		want := -1
		for chosen := range 1 << n {
			var s int64
			left := 0
			for i := range n {
				if chosen>>i&1 == 1 {
					s += units[i]
				} else {
					left += cost[i]
				}
			}
			if s == sum && (want < 0 || left < want) {
				want = left
			}
		}
		if least, ok := choose(units, cost, sum); ok != (want >= 0) || ok && least != want {
			t.Fatalf("to make %d of %v at costs %v: %d %t, not %d", sum, units, cost, least, ok, want)
		}
	}
}

// TestJudge: what several writes of unknown outcome, or at risk, allow.
func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Now()
	at := func(minutes int) span {
		s := now.Add(time.Duration(minutes) * time.Minute)
		return span{s, s.Add(time.Second)}
	}
	risks := risks{{From: at(10).from, To: at(20).to}}
	writing := func(z outcome, durability string, minutes int) *write {
		return &write{outcome: z, durability: durability, took: at(minutes)}
	}
	acked, atRisk, inDatabase := writing(acknowledged, "peers=2", 1), writing(acknowledged, "peers=2", 15), writing(acknowledged, "database", 15)
	unknown, refused := writing(open, "", 15), writing(failed, "", 15)

	adds := func(most int64, during span, writes map[*write][]int64) *counter {
		l := &counter{most: most, during: during}
		for w, units := range writes {
			for _, n := range units {
				l.asked(w, change{Type: add, Units: n})
			}
		}
		return l
	}
	assign := func(seen map[int]span, writes ...any) *register {
		l := new(register)
		for i := 0; i < len(writes); i += 2 {
			c := change{set, "", int64(writes[i+1].(int))}
			if c.Units == 0 {
				c.Type = remove
			}
			l.asked(writes[i].(*write), c)
		}
		for i, s := range seen {
			l.assignments[i].seen = s
		}
		return l
	}
	single := func(w *write, seen span, gone span, removals ...*write) *once {
		return &once{added: w, units: 3, seen: seen, gone: gone, removals: removals}
	}
	several := map[*write][]int64{acked: {5, 5}, unknown: {2, 7}, refused: {1}}
	risky := map[*write][]int64{acked: {5}, inDatabase: {5}, atRisk: {2, 7}, unknown: {4}}
	lost, resurfaced, doubled := judgement{lost: 1}, judgement{resurfaced: 1}, judgement{doubled: 1}
	missing := func(n int) judgement { return judgement{atRiskLost: n} }
	fine := judgement{}
	for _, test := range []struct {
		name string
		line line
		want map[int64]judgement
	}{
		{"adds of unknown outcome", adds(0, span{}, several), map[int64]judgement{
			10: fine, 12: fine, 17: fine, 19: fine, 9: lost, 5: lost, 4: {lost: 2}, 0: {lost: 2}, 11: lost, 18: lost, 20: doubled, 30: {doubled: 2},
		}},
		{"adds of unknown outcome, one was shown", adds(12, at(1), several), map[int64]judgement{
			10: lost, 12: fine, 17: fine, 19: fine,
		}},
		{"adds of unknown outcome, one was shown at risk", adds(12, at(12), several), map[int64]judgement{10: fine, 12: fine}},
		{"adds at risk", adds(0, span{}, risky), map[int64]judgement{
			23: fine, 19: fine, 16: missing(1), 21: missing(1), 12: missing(1), 14: missing(2), 10: missing(2), 5: lost, 11: lost, 24: doubled,
		}},
		{"adds at risk, shown afterwards", adds(19, at(30), risky), map[int64]judgement{19: fine, 16: lost, 21: missing(1)}},

		{"set, then an unknown set", assign(nil, acked, 1, acked, 2, unknown, 3), map[int64]judgement{
			2: fine, 3: fine, 1: lost, 0: lost, 4: doubled, 5: doubled,
		}},
		{"set, then an unknown set that was shown", assign(map[int]span{1: at(1)}, acked, 1, unknown, 2), map[int64]judgement{2: fine, 1: lost}},
		{"set, then an unknown removal", assign(nil, acked, 1, unknown, 0), map[int64]judgement{0: fine, 1: fine, 2: doubled}},
		{"set, then an unknown removal that was shown", assign(map[int]span{1: at(1)}, acked, 1, unknown, 0), map[int64]judgement{0: fine, 1: resurfaced}},
		{"set, then a refused set", assign(nil, acked, 1, refused, 2), map[int64]judgement{1: fine, 0: lost, 2: doubled}},
		{"set and removed", assign(nil, acked, 1, acked, 2, acked, 0), map[int64]judgement{0: fine, 1: resurfaced, 2: resurfaced, 3: doubled}},
		{"an unknown set alone", assign(nil, unknown, 1), map[int64]judgement{0: fine, 1: fine, 2: doubled}},
		{"sets at risk", assign(nil, acked, 1, atRisk, 2, atRisk, 0, atRisk, 3), map[int64]judgement{
			3: fine, 0: missing(1), 2: missing(2), 1: missing(3), 4: doubled,
		}},
		{"sets at risk, one in the database", assign(nil, acked, 1, atRisk, 2, inDatabase, 3, atRisk, 4), map[int64]judgement{
			4: fine, 3: missing(1), 2: lost, 1: lost, 0: lost,
		}},
		{"sets at risk, from nothing", assign(nil, atRisk, 1, atRisk, 2), map[int64]judgement{0: missing(2), 1: missing(1), 2: fine}},
		{"sets at risk, one was shown afterwards", assign(map[int]span{1: at(30)}, acked, 1, atRisk, 2, atRisk, 3), map[int64]judgement{
			1: lost, 2: missing(1), 3: fine,
		}},

		{"added once", single(acked, span{}, span{}), map[int64]judgement{3: fine, 0: lost, 2: lost, 6: doubled}},
		{"added once, unknown", single(unknown, span{}, span{}), map[int64]judgement{3: fine, 0: fine, 6: doubled}},
		{"added once, unknown, and shown", single(unknown, at(1), span{}), map[int64]judgement{3: fine, 0: lost}},
		{"added once, unknown, and shown at risk", single(unknown, at(15), span{}), map[int64]judgement{3: fine, 0: fine}},
		{"added once, refused", single(refused, span{}, span{}), map[int64]judgement{3: doubled, 0: fine}},
		{"added once at risk", single(atRisk, span{}, span{}), map[int64]judgement{3: fine, 0: missing(1), 6: doubled}},
		{"added once at risk, shown afterwards", single(atRisk, at(30), span{}), map[int64]judgement{3: fine, 0: lost}},
		{"added and removed", single(acked, span{}, span{}, acked), map[int64]judgement{0: fine, 3: resurfaced, 6: doubled}},
		{"added, removed, unknown", single(acked, span{}, span{}, unknown), map[int64]judgement{0: fine, 3: fine}},
		{"added, removed, unknown, and gone", single(acked, span{}, at(1), unknown), map[int64]judgement{0: fine, 3: resurfaced}},
		{"added, removal refused", single(acked, span{}, span{}, refused), map[int64]judgement{0: lost, 3: fine}},
		{"added, removed at risk", single(acked, span{}, span{}, atRisk), map[int64]judgement{0: fine, 3: missing(1)}},
		{"added, removed at risk and by another one", single(acked, span{}, span{}, atRisk, acked), map[int64]judgement{0: fine, 3: resurfaced}},
	} {
		for units, want := range test.want {
			got := test.line.judge(units, risks)
			if (got.why != "") != (got.lost+got.resurfaced+got.doubled > 0) {
				t.Errorf("%s, %d units: %+v: a reason for what is wrong, and for nothing else", test.name, units, got)
			}
			if got.why = ""; got != want {
				t.Errorf("%s, %d units: %+v, not %+v", test.name, units, got, want)
			}
		}
	}
}

// TestNothingToRemove: a removal that finds nothing proves that another one has happened, and is a lie without one.
func TestNothingToRemove(t *testing.T) {
	t.Parallel()
	added, unknown, mine := &write{outcome: acknowledged}, new(write), &write{outcome: failed}
	during := span{time.Now(), time.Now()}
	l := &once{added: added, units: 3, removals: []*write{mine}}
	if l.missing(mine, during) == nil {
		t.Error("nobody has removed it")
	}
	l.removals = append(l.removals, unknown)
	if err := l.missing(mine, during); err != nil {
		t.Error(err.why)
	}
	if j := l.judge(3, nil); j.resurfaced != 1 {
		t.Errorf("it was gone, and is back: %+v", j)
	}
}

// TestRisk: a risk covers what its nodes acknowledged in its time, and what the database did where it says so.
func TestRisk(t *testing.T) {
	t.Parallel()
	now := time.Now()
	in, later := span{now, now.Add(time.Second)}, span{now.Add(time.Minute), now.Add(time.Hour)}
	const peers, database = "peers=2", "database"
	for _, test := range []struct {
		what  string
		risk  Risk
		write write
		want  fate
	}{
		{"any node", Risk{}, write{node: 1, durability: peers, took: in}, risky},
		{"one of the nodes", Risk{Nodes: []int{0, 1}}, write{node: 1, durability: peers, took: in}, risky},
		{"another node", Risk{Nodes: []int{0, 2}}, write{node: 1, durability: peers, took: in}, sure},
		{"no node", Risk{Nodes: []int{}}, write{node: 1, durability: peers, took: in}, sure},
		{"another time", Risk{Nodes: []int{1}, Database: true}, write{node: 1, durability: peers, took: later}, sure},
		{"the database has it", Risk{}, write{durability: database, took: in}, sure},
		{"the database is lost, too", Risk{Database: true}, write{durability: database, took: in}, risky},
		{"another database is lost", Risk{Nodes: []int{1}, Database: true}, write{durability: database, took: in}, sure},
	} {
		test.risk.From, test.risk.To, test.write.outcome = now, now.Add(time.Second), acknowledged
		if got := (risks{test.risk}).fate(&test.write); got != test.want {
			t.Errorf("%s: %d, not %d", test.what, got, test.want)
		}
	}
}
