package crdt

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestVectors plays the conformance vectors on the production code.
func TestVectors(t *testing.T) {
	for file, scripts := range vectors(t) {
		t.Run(file, func(t *testing.T) {
			for _, s := range scripts {
				t.Run(s.Name, func(t *testing.T) {
					if err := s.run(newProduction(t, s.ids()), everything); err != nil {
						t.Errorf("%s: %v", s.About, err)
					}
				})
			}
		})
	}
}

// TestVectorsFolder checks that neither an empty folder nor a step that nobody knows passes.
func TestVectorsFolder(t *testing.T) {
	dir := t.TempDir()
	for content, want := range map[string]error{
		"":   errNoVectors,
		"[]": errNoVectors,
		`[{"name": "a", "replicas": {"r1": 1}, "steps": [{"do": "fold"}], "final": {"lines": {}, "vv": {}}}]`: errScript,
	} {
		if content != "" {
			if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		files, err := readVectors(dir)
		for _, scripts := range files {
			for _, s := range scripts {
				err = errors.Join(err, s.run(newProduction(t, s.ids()), visible))
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", content, err, want)
		}
		_ = os.Remove(filepath.Join(dir, "a.json"))
	}
}

var errNoVectors = errors.New("no vectors")

// vectors returns the scripts by file, of the folder CARTD_VECTORS, or else of the vectors in the
// shared folder. Without a folder the test is skipped.
func vectors(t *testing.T) map[string][]script {
	dir, given := os.LookupEnv("CARTD_VECTORS")
	if !given {
		if shared, ok := os.LookupEnv("SHARED_DIR"); ok {
			dir = filepath.Join(shared, "vectors")
		} else {
			dir = filepath.FromSlash("../../shared/vectors")
		}
	}
	if _, err := os.Stat(dir); !given && errors.Is(err, os.ErrNotExist) {
		t.Skipf("no conformance vectors in %s: set CARTD_VECTORS to their folder", dir)
	}
	files, err := readVectors(dir)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readVectors(dir string) (map[string][]script, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	files := map[string][]script{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		var scripts []script
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&scripts); err != nil {
			return nil, err
		}
		if len(scripts) == 0 {
			return nil, errNoVectors
		}
		files[filepath.Base(name)] = scripts
	}
	if len(files) == 0 {
		return nil, errNoVectors
	}
	return files, nil
}

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// production is the production code as a machine. Whatever travels passes through the codec.
type production struct {
	t        tester
	ids      map[string]ReplicaID
	states   map[string]*State
	deltas   map[string][]byte // by event
	contexts map[string]VV
}

func newProduction(t tester, ids map[string]ReplicaID) *production {
	p := &production{t, maps.Clone(ids), map[string]*State{}, map[string][]byte{}, map[string]VV{}}
	for name := range ids {
		p.states[name] = &State{}
	}
	return p
}

// operationID makes an id of a name.
func operationID(name string) (id OperationID) {
	copy(id[:], name)
	return id
}

func (p *production) command(c command) (Dot, bool) {
	p.t.Helper()
	s := p.states[c.At]
	e := Event{Replica: p.ids[c.At], At: c.TS, Operation: operationID(c.Operation)}
	if c.Context != "" {
		e.Context, e.Also, e.Narrowed = p.contexts[c.Context], c.also, true
	}
	if c.Operation != "" && len(s.Operations.Of(e.Operation)) > 0 {
		return Dot{}, false
	}
	d := p.delta(e, s, c)
	d.Lifetime.Created, d.Lifetime.Expires = c.lifetime.Created, c.lifetime.Expires
	for _, w := range c.writes {
		if w.line == "" {
			e.Write(d, w.name, w.value, w.deleted)
		} else {
			e.WriteLine(d, w.line, w.name, w.value, w.deleted)
		}
	}
	if c.forget != 0 {
		e.Forget(s, d, c.forget)
	}
	next, err := s.Apply(d)
	if err != nil {
		p.t.Fatalf("%s refuses its own delta: %v", c.At, err)
	}
	p.states[c.At] = next
	p.deltas[c.Event] = AppendDelta(nil, d)
	return s.VV.Next(e.Replica), true
}

func (p *production) delta(e Event, s *State, c command) *Delta {
	switch c.Do {
	case "add":
		return e.Add(s, c.Line, c.N)
	case "set":
		return e.Assign(s, c.Line, c.N)
	case "decrement":
		return e.Decrement(s, c.Line, c.N)
	case "remove":
		return e.Remove(s, c.Line)
	case "clear":
		return e.Clear(s)
	case "insert":
		return e.Insert(s, c.value)
	case "discard":
		return e.Discard(s, c.value)
	case "touch":
		return e.Touch(s)
	}
	p.t.Fatalf("unknown command %q", c.Do)
	return nil
}

func (p *production) read(at, as string) { p.contexts[as] = p.states[at].VV }

func (p *production) deliver(events []string, to string) bool {
	p.t.Helper()
	d := p.decodeDelta(p.deltas[events[0]])
	for _, e := range events[1:] {
		d = Merge(d, p.decodeDelta(p.deltas[e]))
	}
	d = p.decodeDelta(AppendDelta(nil, d))
	s, err := p.states[to].Apply(d)
	if errors.Is(err, ErrGap) {
		return false
	}
	if err != nil {
		p.t.Fatalf("%v", err)
	}
	p.states[to] = s
	return true
}

func (p *production) join(from, to string) {
	p.t.Helper()
	a, b := p.states[to], p.decodeState(AppendState(nil, p.states[from]))
	z := Join(a, b)
	var j Joiner
	if got := AppendState(nil, j.Join(a, b)); !bytes.Equal(got, AppendState(nil, z)) {
		p.t.Fatalf("Joiner and Join disagree")
	}
	p.states[to] = z
}

func (p *production) restart(at string, id ReplicaID) {
	p.ids[at], p.states[at] = id, &State{}
}

func (p *production) shown(at string) map[string]int64 {
	shown := map[string]int64{}
	for l := range p.states[at].Ordered() {
		if n := p.states[at].Quantity(l); n > 0 {
			shown[l.Key] = n
		}
	}
	return shown
}

func (p *production) vv(at string) map[ReplicaID]uint64 {
	vv := map[ReplicaID]uint64{}
	for _, d := range p.states[at].VV {
		vv[d.Replica] = d.Seq
	}
	return vv
}

func (p *production) encoding(at string) string { return string(AppendState(nil, p.states[at])) }

func (p *production) decodeState(b []byte) *State {
	p.t.Helper()
	s, err := DecodeState(b)
	if err != nil {
		p.t.Fatalf("%x does not decode: %v", b, err)
	}
	return s
}

func (p *production) decodeDelta(b []byte) *Delta {
	p.t.Helper()
	d, err := DecodeDelta(b)
	if err != nil {
		p.t.Fatalf("%x does not decode: %v", b, err)
	}
	return d
}
