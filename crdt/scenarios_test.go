package crdt

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"testing"
)

// TestTruthTable plays the truth table on the production code and on the model.
func TestTruthTable(t *testing.T) {
	for s := range truthTable() {
		t.Run(s.Name, func(t *testing.T) {
			if err := s.run(newProduction(t, s.ids()), visible); err != nil {
				t.Error(err)
			}
			if err := s.run(newModel(s.ids()), visible); err != nil {
				t.Errorf("the model: %v", err)
			}
		})
	}
}

type shows map[string]int64

// truths is what replicas show that changed one cart at once and then exchanged their states.
var truths = []struct {
	name, script string
	shows        shows
}{
	{"add ‖ add", "r1 add A 2; r2 add A 3", shows{"A": 5}},
	{"remove ‖ add", "r1 add A 2; r1 > r2; r1 remove A; r2 add A 1", shows{"A": 1}},
	{"remove ‖ remove", "r1 add A 2; r1 > r2; r1 remove A; r2 remove A", shows{}},
	{"remove ‖ remove, then add", "r1 add A 2; r1 > r2; r1 remove A; r2 remove A; r1 add A 1", shows{"A": 1}},
	{"clear ‖ add", "r1 add A 2; r1 add B 1; r1 > r2; r1 clear; r2 add B 4", shows{"B": 4}},
	{"set ‖ add", "r1 add A 2; r1 > r2; r1 set A 7; r2 add A 1", shows{"A": 8}},
	{"set ‖ remove", "r1 add A 2; r1 > r2; r1 set A 7; r2 remove A", shows{"A": 7}},
	{"set ‖ set", "r1 set A 5; r2 set A 7", shows{"A": 7}},
	{"set ‖ set, the later is the smaller", "r1 set A 7; r2 set A 5", shows{"A": 5}},
	{"set after set", "r1 set A 7; r1 > r2; r2 set A 5", shows{"A": 5}},
	{"the loser stays dead", "r1 set A 5; r2 set A 7; r1 > r2; r2 remove A", shows{}},
	{"decrement ‖ decrement", "r1 add A 5; r1 > r2; r1 decrement A 1; r2 decrement A 2", shows{"A": 2}},
	{"decrement ‖ remove", "r1 add A 5; r1 > r2; r1 decrement A 1; r2 remove A", shows{}},
	{
		"decrement ‖ remove hides what was added at once",
		"r1 add A 5; r1 > r2; r1 decrement A 1; r2 remove A; r2 add A 3",
		shows{"A": 2},
	},
	{"decrement of all ‖ add", "r1 add A 1; r1 > r2; r1 decrement A 4; r2 add A 3", shows{"A": 3}},
	{"decrement of nothing", "r1 decrement A 2; r2 add A 1", shows{"A": 1}},
	{"overdrawn", "r1 add A 3; r1 > r2; r1 decrement A 2; r2 decrement A 2", shows{}},
	{
		"overdrawn, then add",
		"r1 add A 3; r1 > r2; r1 decrement A 2; r2 decrement A 2; r1 > r2; r2 add A 1",
		shows{"A": 1},
	},
	{
		"overdrawn, then add by a client that saw less",
		"r1 add A 3; r1 > r2; r2 read t; r1 decrement A 2; r2 decrement A 2; r1 > r2; r2 add A 1 context=t",
		shows{"A": 1},
	},
	{"stale state", "r1 add A 1; r1 > r2; r2 remove A; r1 > r2", shows{}},

	{"remove of what the client saw", "r1 add A 1; r1 read t; r1 add A 2; r1 remove A context=t", shows{"A": 2}},
	{"set of what the client saw", "r1 add A 1; r1 read t; r1 add A 2; r1 set A 5 context=t", shows{"A": 7}},
	{
		"decrement of what the client saw",
		"r1 add A 1; r1 read t; r1 add A 2; r1 decrement A 2 context=t",
		shows{"A": 2},
	},

	{"retry elsewhere", "r1 add A 2 operation=p; r2 add A 2 operation=p", shows{"A": 2}},
	{"retry where it is known", "r1 add A 2 operation=p; r1 > r2; r2 add A 2 operation=p", shows{"A": 2}},
	{"retry of what was removed", "r1 add A 2 operation=p; r1 remove A; r2 add A 2 operation=p", shows{}},
	{
		"retry of a set that was replaced",
		"r1 set A 5 operation=p; r1 set A 7; r2 set A 5 operation=p",
		shows{"A": 7},
	},
	{"the greater twin was removed", "r1 add A 1 operation=p; r2 add A 1 operation=p; r2 > r3; r3 remove A", shows{}},
	{
		"retry of a decrement",
		"r1 add A 4; r1 > r2; r1 decrement A 1 operation=p; r2 decrement A 1 operation=p",
		shows{"A": 3},
	},
	{
		"decrement of the twin that the client saw",
		"r2 add A 3 operation=p; r2 read t; r1 add A 3 operation=p; r1 > r2; r2 decrement A 1 context=t",
		shows{"A": 2},
	},
	{
		"a twin is no debt",
		"r1 add A 4; r1 > r2; r1 decrement A 3 operation=p; r2 decrement A 3 operation=p; r1 > r2; r2 add A 1",
		shows{"A": 2},
	},
	{
		"a decrement under an id never removes",
		"r1 add A 1; r2 add A 1; r1 decrement A 1 operation=p; r2 decrement A 1 operation=p",
		shows{"A": 1},
	},
	{
		"a decrement under an id of nothing spends it",
		"r1 add A 3; r1 decrement A 1 operation=p; r2 decrement A 1 operation=p",
		shows{"A": 3},
	},
	{
		"retry of a remove",
		"r1 add A 2; r1 > r2; r2 add A 3; r1 remove A operation=p; r2 remove A operation=p",
		shows{},
	},

	{"memory loss", "r1 add A 1; r1 > r2; r1 restart 11; r1 add A 3", shows{"A": 4}},
}

func truthTable() iter.Seq[script] {
	return func(yield func(script) bool) {
		for _, c := range truths {
			s := scenario(c.script, c.shows)
			if s.Name = c.name; !yield(*s) {
				return
			}
		}
	}
}

// scenario makes a script of replicas r1, r2 and r3 from lines like
//
//	r1 add A 2 operation=p; r1 > r2; r2 read t; r2 remove A context=t; r2 restart 11
//
// and of what all show at the end.
func scenario(text string, shown map[string]int64) *script {
	s := &script{
		Replicas: map[string]ReplicaID{"r1": 1, "r2": 2, "r3": 3},
		Final:    &expectation{Lines: shown, VV: map[ReplicaID]uint64{}},
	}
	for i, line := range strings.Split(text, ";") {
		words := strings.Fields(line)
		st := step{Dot: new([2]uint64)}
		st.Event = fmt.Sprintf("e%d", i)
		for k := len(words) - 1; k > 0; k-- {
			if name, ok := strings.CutPrefix(words[k], "operation="); ok {
				st.Operation, words = name, words[:k]
			} else if name, ok := strings.CutPrefix(words[k], "context="); ok {
				st.Context, words = name, words[:k]
			}
		}
		n := uint64(0)
		if last, err := strconv.ParseUint(words[len(words)-1], 10, 32); err == nil {
			n, words = last, words[:len(words)-1]
		}
		switch st.At, st.Do = words[0], words[1]; st.Do {
		case ">":
			st.Do, st.From, st.To = "state", words[0], words[2]
		case "read":
			st.As = words[2]
		case "restart":
			st.ReplicaID = ReplicaID(n)
		case "clear":
		default:
			st.Line, st.N = words[2], int64(n)
		}
		s.Steps = append(s.Steps, st)
	}
	return s
}
