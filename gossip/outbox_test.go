package gossip

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.UnixMilli(1_700_000_000_000)

// delta returns an entry of so many bytes on the wire.
func delta(n int) entry { return entry{encoded: make([]byte, n)} }

func TestWhenAnOutboxIsReady(t *testing.T) {
	type step struct {
		at   time.Duration
		do   func(o *outbox, now time.Time)
		ok   bool
		wait time.Duration
	}
	push := func(n int, due time.Duration) func(*outbox, time.Time) {
		return func(o *outbox, _ time.Time) { o.push(delta(n), noon.Add(due)) }
	}
	send := func(o *outbox, now time.Time) { o.fill(nil, now) }
	ack := func(o *outbox, _ time.Time) { o.ack(&header{ack: o.seq}, nil, nil) }
	ms := time.Millisecond
	tests := []struct {
		name  string
		steps []step
	}{
		{"nothing waits", []step{{0, nil, false, 0}}},
		{"idle: at once", []step{{0, push(100, 0), true, 0}}},
		{"a frame is unacknowledged: after 1 ms", []step{
			{0, push(100, 0), true, 0},
			{0, send, false, 0},
			{ms / 4, push(100, 0), false, 3 * ms / 4},
			{ms / 2, push(100, 0), false, ms / 2},
			{ms, nil, true, 0},
		}},
		{"or when it is acknowledged", []step{
			{0, push(100, 0), true, 0},
			{0, send, false, 0},
			{ms / 4, push(100, 0), false, 3 * ms / 4},
			{ms / 2, ack, true, 0},
		}},
		{"or when there is enough for a frame", []step{
			{0, push(100, 0), true, 0},
			{0, send, false, 0},
			{0, push(flushSize, 0), true, 0},
		}},
		{"not urgent: gathered", []step{
			{0, push(100, gather), false, gather},
			{ms, push(100, gather+ms), false, gather - ms},
			{gather, nil, true, 0},
		}},
		{"not urgent, but something urgent comes", []step{
			{0, push(100, gather), false, gather},
			{ms, push(100, 0), true, 0},
		}},
		{"not urgent, but enough for a frame", []step{
			{0, push(flushSize, gather), true, 0},
		}},
		{"the window is full: an acknowledgement opens it", []step{
			{0, push(maxWindow, 0), true, 0},
			{0, send, false, 0},
			{0, push(flushSize, 0), false, 0},
			{time.Minute, nil, false, 0},
			{time.Minute, ack, true, 0},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := &outbox{limit: defaultMaxOutbox}
			for i, step := range test.steps {
				if step.do != nil {
					step.do(o, noon.Add(step.at))
				}
				if ok, wait := o.ready(noon.Add(step.at)); ok != step.ok || wait != step.wait {
					t.Errorf("step %d: %v in %v, want %v in %v", i+1, ok, wait, step.ok, step.wait)
				}
			}
		})
	}
}

// outboxModel says what an outbox has to do: items leave in the order in which they came, and each is
// held, refused, dropped, or still there.
type outboxModel struct {
	outbox
	next      int
	entries   []int // in order, sent ones first
	sent      int
	frames    []int // items of each frame
	held      []int // as the outbox says
	wantsHeld []int
	marks     int
}

func (m *outboxModel) check(t *rapid.T) {
	if got, want := m.waiting(), len(m.entries)-m.sent+m.marks; got != want {
		t.Fatalf("%d wait, not %d", got, want)
	}
	bytes := 0
	for i := range m.outbox.entries.len() {
		e := m.outbox.entries.at(i)
		bytes += e.size()
	}
	for _, mark := range m.outbox.marks {
		bytes += len(mark) + entryOverhead
	}
	if m.bytes != bytes {
		t.Fatalf("%d bytes are counted, and %d there", m.bytes, bytes)
	}
	if !slices.Equal(m.held, m.wantsHeld) {
		t.Fatalf("%v are held, not %v", m.held, m.wantsHeld)
	}
}

func TestOutboxAgainstItsModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := &outboxModel{outbox: outbox{limit: 1 << 20}}
		r.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"push": func(r *rapid.T) {
				n := m.next
				m.next++
				it := item{kind: kindDelta, id: cartID(n), body: make([]byte, rapid.SampledFrom([]int{0, 40 << 10}).Draw(r, "size"))}
				due := noon.Add(rapid.SampledFrom([]time.Duration{0, gather}).Draw(r, "due"))
				was, wait := m.ready(noon)
				wake := m.push(entry{encoded: it.encode(), held: func(uint64) { m.held = append(m.held, n) }}, due)
				if is, less := m.ready(noon); !wake && (is && !was || less < wait || wait == 0 && less > 0) {
					r.Fatalf("ready was %v in %v and is %v in %v, without a wake", was, wait, is, less)
				}
				m.entries = append(m.entries, n)
			},
			"mark": func(r *rapid.T) {
				id := cartID(rapid.IntRange(0, 3).Draw(r, "cart"))
				if _, found := m.outbox.marks[id]; !found {
					m.marks++
				}
				it := item{kind: kindMark, id: id, body: make([]byte, rapid.IntRange(0, 9).Draw(r, "size"))}
				m.mark(id, it.encode(), noon, noon)
			},
			"fill": func(r *rapid.T) {
				if !m.open() {
					r.Skip("nothing waits")
				}
				m.fill(nil, noon)
				for range m.marks {
					m.entries = append(m.entries, -1)
				}
				m.marks = 0
				items := m.outbox.frames.at(len(m.frames)).items
				m.frames = append(m.frames, items)
				m.sent += items
			},
			"ack": func(r *rapid.T) {
				n := rapid.IntRange(0, len(m.frames)).Draw(r, "frames")
				h := header{ack: m.acked() + uint64(n)}
				var refusedAll []int
				for i, items := range m.frames[:n] {
					for index := range items {
						number := m.entries[index]
						if rapid.IntRange(0, 4).Draw(r, "refuse") == 0 {
							h.refused = append(h.refused, refusal{seq: m.acked() + uint64(i) + 1, index: index})
							refusedAll = append(refusedAll, number)
						} else if number >= 0 {
							m.wantsHeld = append(m.wantsHeld, number)
						}
					}
					m.entries = m.entries[items:]
					m.sent -= items
				}
				m.frames = m.frames[n:]
				held, refused := m.ack(&h, nil, nil)
				for _, f := range held {
					f(0)
				}
				if len(refused) != len(refusedAll) {
					r.Fatalf("%d are refused, not %d", len(refused), len(refusedAll))
				}
				for i, n := range refusedAll {
					if n >= 0 && refused[i].id != cartID(n) {
						r.Fatalf("%x is refused, not %x", refused[i].id, cartID(n))
					}
				}
			},
			"rewind": func(*rapid.T) {
				it := item{kind: kindWant, id: cartID(0)} // has no meaning afterwards
				m.push(entry{encoded: it.encode()}, noon)
				m.rewind()
				m.sent, m.frames = 0, nil
			},
			"drop": func(*rapid.T) {
				m.dropWaiting()
				m.entries, m.marks = m.entries[:m.sent], 0
			},
		})
	})
}

func TestInboxNamesWhatWasRefusedUntilThatIsKnown(t *testing.T) {
	var in inbox
	in.take(1, nil)
	in.take(2, []refusal{{2, 0, true}, {2, 5, false}})
	in.take(3, []refusal{{3, 1, false}})
	check := func(ack uint64, names int) {
		t.Helper()
		gotAck, refused := in.acknowledgement()
		expect(t, "ack", gotAck, ack)
		expect(t, "refused", len(refused), names)
	}
	check(3, 3)
	in.confirm(1)
	check(3, 3)
	in.confirm(2)
	check(3, 1)
	in.confirm(0) // an old frame
	check(3, 1)
	in.confirm(3)
	check(3, 0)
}

func TestAcknowledgementCoversNoMoreThanItNames(t *testing.T) {
	var in inbox
	for seq := range uint64(4) {
		refused := make([]refusal, maxItems/2+1)
		for i := range refused {
			refused[i] = refusal{seq: seq + 1, index: i}
		}
		in.take(seq+1, refused)
	}
	for acked := range uint64(4) {
		in.owes = false
		in.confirm(acked)
		ack, refused := in.acknowledgement()
		expect(t, "ack", ack, acked+1)
		expect(t, "refused", len(refused), maxItems/2+1)
		expect(t, "owes", in.owes, true)
		if acked == 2 {
			break
		}
	}
}

func TestFIFO(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var f fifo[int]
		var model []int
		next := 0
		r.Repeat(map[string]func(*rapid.T){
			"": func(r *rapid.T) {
				if f.len() != len(model) {
					r.Fatalf("%d, not %d", f.len(), len(model))
				}
				for i, want := range model {
					if got := *f.at(i); got != want {
						r.Fatalf("%d at %d, not %d", got, i, want)
					}
				}
			},
			"push": func(r *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(r, "n") {
					f.push(next)
					model = append(model, next)
					next++
				}
			},
			"drop": func(r *rapid.T) {
				n := rapid.IntRange(0, len(model)).Draw(r, "n")
				f.drop(n)
				model = model[n:]
			},
			"truncate": func(r *rapid.T) {
				n := rapid.IntRange(0, len(model)).Draw(r, "n")
				f.truncate(n)
				model = model[:n:n]
			},
		})
	})
}

// The lag is the age of what came first and is not acknowledged, whether it was sent or not.
func TestLag(t *testing.T) {
	o := outbox{limit: 1 << 20}
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	push := func(seconds int) {
		it := item{kind: kindDelta, id: cartID(seconds)}
		o.push(entry{encoded: it.encode(), at: at(seconds).UnixNano()}, at(seconds))
	}
	lag := func(now, want int) {
		t.Helper()
		expect(t, "lag in seconds", o.lag(at(now)).Seconds(), float64(want))
	}
	lag(0, 0)
	o.mark(cartID(9), make([]byte, 20), at(0), at(0))
	o.mark(cartID(9), make([]byte, 20), at(1), at(1)) // in place of the first, whose news is not told either
	lag(1, 1)
	push(2)
	lag(3, 3)
	o.fill(nil, at(3))
	push(4)
	lag(5, 3) // the mark was behind
	o.rewind()
	lag(6, 4)
	o.fill(nil, at(6))
	o.ack(&header{ack: o.seq}, nil, nil)
	lag(7, 0)
	push(8)
	o.dropWaiting()
	lag(9, 0)
}
