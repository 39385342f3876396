package crdt

// Member says that one event put Value into the set.
type Member struct {
	Dot   Dot
	Value string
}

func (m Member) dot() Dot { return m.Dot }

// Set is an add-wins observed-remove set: the live members, sorted by dot. A value is in the set
// as long as one member that counts ([State.Counts]) has it. Removing a value cancels the members that
// its author observed; one that was put concurrently stays. [Bieniusa et al. 2012, arXiv:1210.3368]
type Set []Member

// Has reports whether a member has value, be it one that an alias keeps from counting.
func (s Set) Has(value string) bool {
	for i := range s {
		if s[i].Value == value {
			return true
		}
	}
	return false
}
