package sqlite

// Freeze keeps all files as they are between commits, until the function that it returns is called.
func (s *Store) Freeze() (thaw func()) {
	s.roundMu.Lock()
	return s.roundMu.Unlock
}
