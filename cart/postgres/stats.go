package postgres

import (
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Stats is what a store has done since Open and how it is, for metrics.
type Stats struct {
	Commits    int64         // that succeeded
	Changes    int64         // in them
	Rows       int64         // snapshots written
	Fragments  int64         // changes written that could not be joined into a snapshot
	Conflicts  int64         // rows that others changed at the same time, so that they were written again
	Refused    int64         // commits that may be tried again
	CommitTime time.Duration // sum of the durations of the commits that succeeded
	LastBatch  int           // changes in the last of them
	LastCommit time.Duration // duration of the last of them

	Reachable bool
	AwaySince time.Time // when the database became unreachable; zero while it is reachable
	Outages   int64     // how often it did
	LastError error     // why it last was, or nil
	Damaged   int       // carts that were found damaged and were not replaced since

	Writers, Readers Pool
}

// Pool is the state of a pool of connections.
type Pool struct {
	Used, Idle, Max int           // connections
	Waits           int64         // how often one was waited for since Open
	Waited          time.Duration // for how long in all
}

// Stats returns the present numbers.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	z := s.stats
	z.Damaged = len(s.reported)
	s.mu.Unlock()
	s.breaker.mu.Lock()
	z.Reachable, z.Outages, z.LastError = s.breaker.cause == nil, s.breaker.outages, s.breaker.last
	if !z.Reachable {
		z.AwaySince = s.breaker.since
	}
	s.breaker.mu.Unlock()
	z.Writers, z.Readers = poolStats(s.writers), poolStats(s.readers)
	return z
}

// Reachable returns why the database cannot be reached at present, or nil. It asks nobody.
func (s *Store) Reachable() error { return s.breaker.reason() }

func poolStats(p *pgxpool.Pool) Pool {
	z := p.Stat()
	return Pool{
		Used: int(z.AcquiredConns()), Idle: int(z.IdleConns()), Max: int(z.MaxConns()),
		Waits: z.EmptyAcquireCount(), Waited: z.EmptyAcquireWaitTime(),
	}
}
