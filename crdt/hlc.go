package crdt

import "time"

// Timestamp is a hybrid logical clock reading: 48 bits of Unix time in milliseconds, 16 bits of
// counter. It breaks ties between concurrent assignments and register writes and orders lines for
// display; nothing else depends on it. [Kulkarni et al. 2014, "Logical Physical Clocks"]
type Timestamp uint64

const logicalBits = 16

// TimestampAt returns the first timestamp of the millisecond of t. Times before 1970 give 0.
func TimestampAt(t time.Time) Timestamp {
	return Timestamp(max(0, t.UnixMilli())) << logicalBits
}

// Next returns a timestamp greater than t and, where the clock went on since t, equal to now.
func (t Timestamp) Next(now time.Time) Timestamp {
	return max(t+1, TimestampAt(now))
}

// Time returns the physical part of t, to the millisecond, in UTC.
func (t Timestamp) Time() time.Time { return time.UnixMilli(int64(t >> logicalBits)).UTC() }

// Lifetime is when a state began, was last changed, and ends. Join: the least Created and the
// greatest Updated and Expires; a zero Created is unknown.
type Lifetime struct {
	Created, Updated, Expires Timestamp
}

func (l Lifetime) join(o Lifetime) Lifetime {
	return Lifetime{leastKnown(l.Created, o.Created), max(l.Updated, o.Updated), max(l.Expires, o.Expires)}
}

// leastKnown is the join of a min-register in which 0 stands for unknown.
func leastKnown(a, b Timestamp) Timestamp {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
