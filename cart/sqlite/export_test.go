package sqlite

import (
	"context"
	"fmt"
)

// Freeze keeps all files as they are between commits, until the function that it returns is called.
func (s *Store) Freeze() (thaw func()) {
	s.roundMu.Lock()
	return s.roundMu.Unlock
}

// Fill makes the database as full as a disk: no page can be added to it until release is called.
func (s *Store) Fill() (release func()) {
	limit := func(pages int) {
		s.roundMu.Lock()
		defer s.roundMu.Unlock()
		s.writeMu.Lock()
		defer s.writeMu.Unlock()
		pragma := fmt.Sprintf("PRAGMA max_page_count = %d", pages) // is never less than what there are
		for _, do := range []func() error{
			func() error { _, err := s.writer.Exec(pragma); return err },
			func() error { _, err := s.behind.conn.ExecContext(context.Background(), pragma); return err },
		} {
			if err := do(); err != nil {
				panic(err)
			}
		}
	}
	limit(1)
	return func() { limit(1 << 30) }
}
