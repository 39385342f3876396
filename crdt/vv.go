package crdt

// VV is a version vector: for each replica the sequence number of the last of its events that is
// known, sorted by replica id. Sequence numbers have no gaps, so a VV is exactly a set of events,
// and there is no dot cloud. A VV is immutable once shared. [Parker et al. 1983, "Detection of
// Mutual Inconsistency in Distributed Systems"]
type VV []Dot

// find returns the index of r in v, or where it belongs. A handful of entries is walked, which is
// shorter than a binary search.
func (v VV) find(r ReplicaID) (int, bool) {
	i := 0
	for end := len(v); end-i > 8; {
		if mid := int(uint(i+end) >> 1); v[mid].Replica > r {
			end = mid
		} else {
			i = mid
		}
	}
	for i < len(v) && v[i].Replica < r {
		i++
	}
	return i, i < len(v) && v[i].Replica == r
}

// Get returns the number of events of r that v holds.
func (v VV) Get(r ReplicaID) uint64 {
	if i, ok := v.find(r); ok {
		return v[i].Seq
	}
	return 0
}

// Has reports whether v holds the event d.
func (v VV) Has(d Dot) bool { return v.Get(d.Replica) >= d.Seq }

// Descends reports whether v holds every event of o: o ≤ v.
func (v VV) Descends(o VV) bool {
	for _, d := range o {
		if !v.Has(d) {
			return false
		}
	}
	return true
}

// Join returns the events that v or o holds.
func (v VV) Join(o VV) VV {
	switch {
	case v.Descends(o):
		return v
	case o.Descends(v):
		return o
	}
	_, z := uniteSpans(nil, make(VV, 0, len(v)+len(o)), nil, v, nil, o)
	return z
}

// Next returns the dot of the next event of r.
func (v VV) Next(r ReplicaID) Dot { return Dot{r, v.Get(r) + 1} }

// With returns a copy of v that holds the events of d.Replica up to d, and no others of it.
func (v VV) With(d Dot) VV {
	i, known := v.find(d.Replica)
	z := append(append(make(VV, 0, len(v)+1), v[:i]...), d)
	if known {
		i++
	}
	return append(z, v[i:]...)
}

// span is the events of one replica that a delta covers, (base, end], where it needs base.
type span struct {
	replica   ReplicaID
	base, end uint64
}

// nextSpan takes the span of the least replica off a delta's vectors. The replicas of base are
// among those of end.
func nextSpan(base, end VV) (s span, restBase, restEnd VV) {
	s = span{replica: end[0].Replica, end: end[0].Seq}
	if len(base) > 0 && base[0].Replica == s.replica {
		s.base, base = base[0].Seq, base[1:]
	}
	return s, base, end[1:]
}

// unite merges two spans of one replica. Spans that touch become one; of spans that do not, the
// events up to the greater base are no longer covered but needed.
func (s span) unite(t span) span {
	u := span{s.replica, max(s.base, t.base), max(s.end, t.end)}
	if s.base <= t.end && t.base <= s.end {
		u.base = min(s.base, t.base)
	}
	return u
}

// uniteSpans merges the intervals (aBase, aEnd] and (bBase, bEnd] per replica, into the storage of
// zBase and zEnd.
func uniteSpans(zBase, zEnd, aBase, aEnd, bBase, bEnd VV) (base, end VV) {
	for len(aEnd) > 0 || len(bEnd) > 0 {
		var s, t span
		switch {
		case len(bEnd) == 0 || len(aEnd) > 0 && aEnd[0].Replica < bEnd[0].Replica:
			s, aBase, aEnd = nextSpan(aBase, aEnd)
		case len(aEnd) == 0 || bEnd[0].Replica < aEnd[0].Replica:
			s, bBase, bEnd = nextSpan(bBase, bEnd)
		default:
			s, aBase, aEnd = nextSpan(aBase, aEnd)
			t, bBase, bEnd = nextSpan(bBase, bEnd)
			s = s.unite(t)
		}
		if s.base > 0 {
			zBase = append(zBase, Dot{s.replica, s.base})
		}
		zEnd = append(zEnd, Dot{s.replica, s.end})
	}
	return zBase, zEnd
}
