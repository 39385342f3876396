package crdt

import (
	"cmp"
	"strings"
)

// Stamp is the place of a register write in the total order of writes: by timestamp, then by dot.
type Stamp struct {
	At  Timestamp
	Dot Dot
}

// Compare orders stamps by timestamp, then by dot.
func (s Stamp) Compare(t Stamp) int {
	if c := cmp.Compare(s.At, t.At); c != 0 {
		return c
	}
	return s.Dot.Compare(t.Dot)
}

// Register is a named last-writer-wins register. Join: the write with the greater stamp. A deleted
// register stays, without a value, so that an older write does not come back.
// [Johnson & Thomas 1975, RFC 677]
type Register struct {
	Name    string
	Value   string
	Deleted bool
	Stamp   Stamp
}

// Registers are sorted by name, each name once. Join: by name.
type Registers []Register

// Get returns the value of the register name, and whether it was written and not deleted since.
func (r Registers) Get(name string) (string, bool) {
	for i := range r {
		if r[i].Name == name {
			return r[i].Value, !r[i].Deleted
		}
	}
	return "", false
}

// put adds a write to a delta under construction; a later write of the same name replaces it.
func (r Registers) put(w Register) Registers {
	i := 0
	for i < len(r) && r[i].Name < w.Name {
		i++
	}
	if i < len(r) && r[i].Name == w.Name {
		r[i] = w
		return r
	}
	r = append(r, Register{})
	copy(r[i+1:], r[i:])
	r[i] = w
	return r
}

// join appends the join of a and b to z.
func (z Registers) join(a, b Registers) Registers {
	for len(a) > 0 && len(b) > 0 {
		switch c := strings.Compare(a[0].Name, b[0].Name); {
		case c < 0:
			z, a = append(z, a[0]), a[1:]
		case c > 0:
			z, b = append(z, b[0]), b[1:]
		default:
			later := &a[0]
			if b[0].Stamp.Compare(later.Stamp) > 0 {
				later = &b[0]
			}
			z, a, b = append(z, *later), a[1:], b[1:]
		}
	}
	return append(append(z, a...), b...)
}
