package gossip

import "time"

const (
	defaultMaxOutbox = 64 << 20 // bytes
	maxWindow        = 4 << 20  // bytes in frames that are not acknowledged
	entryOverhead    = 64       // bytes that an entry counts for, beside its encoding

	nagle  = time.Millisecond      // between two frames, while there are unacknowledged ones
	gather = 50 * time.Millisecond // that what is not urgent waits for company
)

// outbox is what is on its way to one peer: encoded items, first come, first sent. It is bounded in
// bytes; who pushes looks first whether there is room.
//
// An outbox outlives the link. What was sent and not acknowledged when the link went down is sent
// again on the next one, in the same order.
type outbox struct {
	limit int // bytes

	// entries are those in frames that are not acknowledged, and behind them those that wait.
	entries fifo[entry]
	sent    int // entries in frames

	// frames are those that are not acknowledged. Their numbers are seq-frames.len()+1 to seq.
	frames fifo[frame]
	seq    uint64

	bytes     int // that entries and marks count for: limit at most
	sentBytes int // of these, in frames

	// marks wait apart from the entries, since a later mark of a cart replaces an earlier one. They
	// become entries when a frame is made. order holds their carts, first come first.
	marks    map[[16]byte][]byte
	order    [][16]byte
	markedAt int64 // when the first of them came, in nanoseconds of Unix time

	due    time.Time // when the most urgent of those that wait wants to go; meaningless if none waits
	sentAt time.Time // of the newest frame
}

// entry is an encoded item, which may be shared with other outboxes, and what to call with the start id
// of the peer when it holds the item; or nil.
type entry struct {
	encoded []byte
	held    func(holder uint64)
	at      int64 // when it came, in nanoseconds of Unix time
}

func (e *entry) size() int { return len(e.encoded) + entryOverhead }

// frame is a frame that was sent.
type frame struct {
	items int
	bytes int
	at    time.Time
}

// waiting is how many items wait.
func (o *outbox) waiting() int { return o.entries.len() - o.sent + len(o.order) }

// acked is the number of the newest acknowledged frame.
func (o *outbox) acked() uint64 { return o.seq - uint64(o.frames.len()) }

// window is how many bytes may be in frames.
func (o *outbox) window() int { return min(maxWindow, o.limit/2) }

// room reports whether an encoded item of so many bytes fits, in parts where it is long.
func (o *outbox) room(encoded int) bool {
	pieces := 1 + encoded/maxPiece
	return o.bytes+encoded+pieces*(itemOverhead+entryOverhead) <= o.limit
}

// push puts an item at the end, which wants to go at the time due, and reports whether that changes what
// ready returns.
func (o *outbox) push(e entry, due time.Time) (wake bool) {
	wake = o.hasten(due, e.size())
	o.bytes += e.size()
	o.entries.push(e)
	return wake
}

// pushParts does the same with an item that travels in parts.
func (o *outbox) pushParts(e entry, due time.Time) {
	_, id := identity(e.encoded)
	parts(id, e.encoded, func(part []byte, last bool) {
		piece := entry{encoded: part, at: e.at}
		if last {
			piece.held = e.held
		}
		o.push(piece, due)
	})
}

// mark puts an encoded mark of a cart at the end, in place of one that still waits. It came just now.
func (o *outbox) mark(id [16]byte, encoded []byte, now, due time.Time) (wake bool) {
	size := len(encoded) + entryOverhead
	wake = o.hasten(due, size)
	if earlier, found := o.marks[id]; found {
		o.bytes -= len(earlier) + entryOverhead
	} else {
		if len(o.order) == 0 {
			o.markedAt = now.UnixNano()
		}
		o.order = append(o.order, id)
	}
	if o.marks == nil {
		o.marks = make(map[[16]byte][]byte)
	}
	o.marks[id] = encoded
	o.bytes += size
	return wake
}

// hasten notes that so many bytes more want to go at the time due, and reports whether that changes what
// ready returns.
func (o *outbox) hasten(due time.Time, size int) (changed bool) {
	waiting := o.bytes - o.sentBytes
	if o.waiting() == 0 || due.Before(o.due) {
		o.due = due
		return true
	}
	return waiting < flushSize && waiting+size >= flushSize
}

// ready reports whether a frame is to be made of what waits; if not, wait tells after which time
// it is, unless something else happens; 0 if nothing else but an acknowledgement can make it so.
func (o *outbox) ready(now time.Time) (ok bool, wait time.Duration) {
	if o.waiting() == 0 || o.sentBytes >= o.window() {
		return false, 0
	}
	if o.bytes-o.sentBytes >= flushSize {
		return true, 0
	}
	wait = o.due.Sub(now)
	if o.frames.len() > 0 {
		wait = max(wait, o.sentAt.Add(nagle).Sub(now))
	}
	return wait <= 0, max(0, wait)
}

// open reports whether a frame can be made of what waits, urgent or not.
func (o *outbox) open() bool { return o.waiting() > 0 && o.sentBytes < o.window() }

// fill appends the items of the next frame to b: one at least.
func (o *outbox) fill(b []byte, now time.Time) []byte {
	o.release()
	start := len(b)
	f := frame{at: now}
	for f.items < maxItems && o.sent < o.entries.len() && len(b)-start < flushSize {
		e := o.entries.at(o.sent)
		b = append(b, e.encoded...)
		o.sent++
		f.items++
		f.bytes += e.size()
	}
	o.seq++
	o.frames.push(f)
	o.sentBytes += f.bytes
	o.sentAt = now
	return b
}

// release turns the marks into entries.
func (o *outbox) release() {
	for _, id := range o.order {
		o.entries.push(entry{encoded: o.marks[id], at: o.markedAt})
	}
	clear(o.marks)
	o.order = o.order[:0]
}

// ack takes the acknowledgement of a header, which may be an old one, and removes what it is about.
// It appends what is to be called since an item is held, and the items that were refused.
func (o *outbox) ack(h *header, held []func(uint64), refused []refused) ([]func(uint64), []refused) {
	names := h.refused
	for o.acked() < h.ack {
		seq := o.acked() + 1
		f := *o.frames.at(0)
		for len(names) > 0 && names[0].seq < seq {
			names = names[1:]
		}
		for i := range f.items {
			e := o.entries.at(i)
			if len(names) > 0 && names[0].seq == seq && names[0].index == i {
				refused = append(refused, refusedEntry(e.encoded, names[0].lacks))
				names = names[1:]
			} else if e.held != nil {
				held = append(held, e.held)
			}
		}
		o.frames.drop(1)
		o.entries.drop(f.items)
		o.sent -= f.items
		o.sentBytes -= f.bytes
		o.bytes -= f.bytes
	}
	return held, refused
}

// refused is an item that the peer did not hold.
type refused struct {
	kind  kind
	id    [16]byte
	lacks bool
}

func refusedEntry(encoded []byte, lacks bool) refused {
	k, id := identity(encoded)
	return refused{kind: k, id: id, lacks: lacks}
}

// oldest returns when the oldest frame that is not acknowledged was sent.
func (o *outbox) oldest() (at time.Time, found bool) {
	if o.frames.len() == 0 {
		return time.Time{}, false
	}
	return o.frames.at(0).at, true
}

// lag is the age of the oldest item that waits to be sent or acknowledged; 0 if there is none.
func (o *outbox) lag(now time.Time) time.Duration {
	oldest := now.UnixNano()
	if o.entries.len() > 0 {
		oldest = min(oldest, o.entries.at(0).at)
	}
	if len(o.order) > 0 {
		oldest = min(oldest, o.markedAt)
	}
	return time.Duration(now.UnixNano() - oldest)
}

// rewind makes what was sent and not acknowledged wait again, ahead of the rest, for a new link. What
// has a meaning on this link only is dropped.
func (o *outbox) rewind() {
	o.frames.drop(o.frames.len())
	o.seq, o.sent, o.sentBytes = 0, 0, 0
	o.due, o.sentAt = time.Time{}, time.Time{}
	o.entries.keep(func(e *entry) bool {
		k, _ := identity(e.encoded)
		if k.lasting() {
			return true
		}
		o.bytes -= e.size()
		return false
	})
}

// dropWaiting removes what waits and returns how many items that were.
func (o *outbox) dropWaiting() int {
	n := o.waiting()
	o.entries.truncate(o.sent)
	clear(o.marks)
	o.order = o.order[:0]
	o.bytes = o.sentBytes
	return n
}

// fifo is a queue: what was pushed first is at 0.
type fifo[T any] struct {
	items []T // those before head are gone
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) at(i int) *T { return &f.items[f.head+i] }

func (f *fifo[T]) push(v T) {
	if len(f.items) == cap(f.items) && f.head > len(f.items)/2 {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, v)
}

// drop removes the first n.
func (f *fifo[T]) drop(n int) {
	clear(f.items[f.head : f.head+n])
	f.head += n
	if f.len() > 0 {
		return
	}
	f.items, f.head = f.items[:0], 0
	if cap(f.items) > 4096 {
		f.items = nil
	}
}

// truncate removes all but the first n.
func (f *fifo[T]) truncate(n int) {
	clear(f.items[f.head+n:])
	f.items = f.items[:f.head+n]
}

// keep removes those that stay does not hold of.
func (f *fifo[T]) keep(stay func(*T) bool) {
	kept := f.head
	for i := f.head; i < len(f.items); i++ {
		if stay(&f.items[i]) {
			f.items[kept] = f.items[i]
			kept++
		}
	}
	f.truncate(kept - f.head)
}

// pop removes the first and returns it.
func (f *fifo[T]) pop() T {
	v := *f.at(0)
	f.drop(1)
	return v
}
