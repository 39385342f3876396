package sqlite

import (
	"context"
	"fmt"
	"time"
)

const (
	checkEvery = time.Second // time between two looks at the size of the log
	pageSize   = 4096        // bytes of a page, SQLite's default
)

// background does what no commit waits for, until stop is closed.
func (s *Store) background() {
	defer close(s.done)
	ticker := time.NewTicker(min(checkEvery, s.opts.SnapshotEvery))
	defer ticker.Stop()
	last, stuck := time.Now(), false
	for {
		due := false
		select {
		case <-s.stop:
			return
		case <-s.wake:
			due = true
		case now := <-ticker.C:
			due = now.Sub(last) >= s.opts.SnapshotEvery
		}
		err := s.boundLog()
		if due {
			if e := s.round(); err == nil {
				err = e
			}
			last = time.Now()
		}
		if s.Err() != nil {
			return // it has been logged
		}
		switch {
		case err != nil && !stuck:
			s.log.Warn("snapshots or checkpoints have to wait", "error", err)
		case err == nil && stuck && due:
			s.log.Info("snapshots and checkpoints go on")
		}
		stuck = err != nil || stuck && !due
	}
}

// progress tells how far the log is checkpointed.
type progress struct {
	busy         int // 1 where a lock kept a checkpoint from being complete
	frames       int // in the log, of one page each
	checkpointed int // of them
}

// checkpoint runs a checkpoint of the given mode. roundMu is held.
func (s *Store) checkpoint(mode string) (p progress, err error) {
	if err := s.Err(); err != nil {
		return p, err
	}
	if mode == "RESTART" || mode == "TRUNCATE" { // which wait for readers
		if err := s.behind.setTimeout(readersTimeout); err != nil {
			return p, s.failedBehind("a checkpoint", err)
		}
		defer func() {
			if e := s.behind.setTimeout(busyTimeout); err == nil && e != nil {
				err = s.failedBehind("a checkpoint", e)
			}
		}()
	}
	err = s.behind.conn.QueryRowContext(context.Background(), "PRAGMA wal_checkpoint("+mode+")").
		Scan(&p.busy, &p.frames, &p.checkpointed)
	return p, s.failedBehind("a checkpoint", err)
}

// setTimeout sets how long the connection waits for locks.
func (b *behind) setTimeout(d time.Duration) error {
	_, err := b.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA busy_timeout(%d)", d.Milliseconds()))
	return err
}

// boundLog checkpoints the log when it has grown past its bound. The bulk of it is copied while
// commits go on; the last of it while they wait, so that the next one begins the log anew.
func (s *Store) boundLog() error {
	s.roundMu.Lock()
	defer s.roundMu.Unlock()
	p, err := s.checkpoint("NOOP")
	if err != nil || int64(p.frames-p.checkpointed)*pageSize < s.opts.LogBytes {
		return err
	}
	if _, err := s.checkpoint("PASSIVE"); err != nil {
		return err
	}
	mode := "PASSIVE"
	if int64(p.frames)*pageSize > 4*s.opts.LogBytes {
		mode = "RESTART" // readers have been in the way: wait for them
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	_, err = s.checkpoint(mode)
	return err
}

// emptyLog checkpoints all of the log and truncates it. While another process reads the log, as a backup does,
// it stays, and the next start goes on with it.
func (s *Store) emptyLog() error {
	s.roundMu.Lock()
	defer s.roundMu.Unlock()
	p, err := s.checkpoint("TRUNCATE")
	if err == nil && p.busy != 0 {
		s.log.Info("the log stays, because another process reads it", "pages", p.frames)
	}
	return err
}
