package proto

import (
	"time"

	"ctbox/sync/wire"
)

// resync is the state of our request for everything.
type resync struct {
	wanted   bool
	since    time.Duration // when it was last wanted
	expected bool          // the peer's bulk was wanted when it began, and not long before
	number   uint64        // of the last request
	sent     bool          // the request is queued or sent
	granted  bool          // the peer has acknowledged it
	answered bool          // and then a C daemon has sent all that it has
	begun    bool          // the peer has marked the beginning of a bulk
	greeted  bool          // the request has to wait for the answer to our HELLO
	bulk     wire.Seq      // the number of the last bulk that began, if seen
	seen     bool
	next     time.Duration // the earliest time of the next request
	interval time.Duration

	grantedAt time.Duration
}

// want starts a new request for everything, which replaces any earlier one.
func (r *resync) want(now time.Duration) {
	r.wanted, r.since = true, now
	r.sent, r.granted, r.answered, r.begun, r.greeted = false, false, false, false, false
}

// begin records that the peer has begun a bulk.
func (r *resync) begin(now time.Duration, number wire.Seq) {
	// A C daemon answers without marks, so a request to one stays wanted.
	r.expected = r.wanted && now-r.since < maxResyncInterval
	r.wanted, r.sent, r.granted, r.begun, r.answered = true, true, true, true, false
	r.bulk, r.seen = number, true
	r.next = now + maxResyncInterval
}

func (r *resync) deadline() time.Duration {
	if !r.wanted || r.granted && !r.begun {
		return None
	}
	return r.next
}

// is reports whether c is the current request.
func (r *resync) is(c *control) bool {
	return r.sent && c.flags == wire.Resync && c.number == r.number
}

// RequestResync implements Machine.
func (m *FTFW) RequestResync(now time.Duration) {
	m.resync.wanted, m.resync.since = true, now
	m.ask(now)
}

// found handles the first message from a peer that was running before us. A peer that runs
// this package sends everything because of our HELLO. A C daemon has to be asked. If it
// was, its answer before this message is lost without a gap in the numbers, unless this
// message answers our HELLO and the request is all that we have sent.
func (m *FTFW) found(now time.Duration, h wire.Header) {
	r := &m.resync
	if r.sent && h.Flags&wire.HelloBack != 0 && m.seq == m.config.FirstSeq+1 {
		return
	}
	r.want(now)
	r.greeted = true
	r.next = now + resyncInterval
}

// tickResync repeats the request until the peer has acknowledged it.
func (m *FTFW) tickResync(now time.Duration) Events {
	r := &m.resync
	if now < r.deadline() {
		return 0
	}
	if r.greeted && m.hello != helloAnswered {
		// A C daemon drops its resend queue at each HELLO, so lost parts of its answer
		// would not be resent.
		r.next = now + aliveInterval
		return 0
	}
	if r.sent && !r.granted {
		// The request is queued or in the resend queue, and is resent if it is lost.
		r.next = now + r.interval
		return 0
	}
	m.ask(now)
	return ResyncSent
}

func (m *FTFW) ask(now time.Duration) {
	r := &m.resync
	r.sent, r.granted, r.answered, r.begun = true, false, false, false
	r.since = now
	r.next = now + r.interval
	r.interval = min(2*r.interval, maxResyncInterval)
	m.stats.Resyncs++
	r.number++
	m.queueControl(control{flags: wire.Resync, number: r.number})
}

// marked handles the marks around a bulk. The peer sends the end when all objects of the
// bulk are acknowledged, so losses in between do not matter.
func (m *FTFW) marked(now time.Duration, h wire.Header) Events {
	r := &m.resync
	if h.IsMark() {
		m.peer.ctbox = true
		m.knowHeld()
	}
	switch {
	case !h.IsMark():
		m.settleUnmarked(now)
	case h.Flags&wire.BulkBegin != 0 && (m.peer.overtaken(now, h.Seq) || r.seen && h.From == r.bulk):
		// The mark is late or a copy. Objects of the bulk have arrived before it, and
		// would seem to be gone at the peer.
	case h.Flags&wire.BulkBegin != 0:
		r.begin(now, h.From)
		return BulkBegan
	case r.begun && r.bulk == h.From:
		r.wanted, r.begun = false, false
		r.interval = resyncInterval
		r.next = now + r.interval
		if !r.expected {
			return BulkComplete | BulkUnasked
		}
		return BulkComplete
	default:
		// The beginning was lost, so the bulk has to be repeated.
		r.want(now)
		r.next = min(r.next, now+r.interval)
	}
	return 0
}

// BeginBulk implements Machine.
func (m *FTFW) BeginBulk(now time.Duration) bool {
	b := &m.bulk
	if b.running {
		// The peer may have flushed some of what this bulk has sent already.
		b.wanted = true
		return false
	}
	b.running, b.queued, b.failed, b.overflown, b.dropped = true, false, false, false, false
	m.now = now
	m.knowHeld()
	b.number++
	b.due = now + bulkInterval
	m.gaveUp = false
	m.stats.Bulks++
	m.queueControl(b.mark(wire.BulkBegin))
	return true
}

// Bulk implements Machine. The object is sent after the bulk's beginning even if it was
// queued before. Changes go first, and the number of unacknowledged messages is limited.
func (m *FTFW) Bulk(o Object) {
	i, e := m.object(o)
	if e.waits() {
		return
	}
	if e.queue == transmit {
		m.move(&m.transmit, i, e)
	} else {
		m.move(&m.background, i, e)
	}
	if !e.inBulk {
		e.inBulk = true
		m.bulk.left++
	}
}

// EndBulk implements Machine. The end is sent when the peer has acknowledged everything.
func (m *FTFW) EndBulk() {
	m.bulk.queued = true
	m.finishBulk()
}

// outOfBulk removes an element that was acknowledged, given up or dropped from the bulk,
// if it is in it.
func (m *FTFW) outOfBulk(e *element) {
	if e.inBulk {
		e.inBulk = false
		m.bulk.left--
		m.finishBulk()
	}
}

func (m *FTFW) finishBulk() {
	b := &m.bulk
	if !b.running || !b.queued || b.left > 0 {
		return
	}
	b.running = false
	defer m.knowHeld()
	if b.failed {
		b.wanted = true
		if b.overflown { // a restart of the peer says nothing about the pace
			b.shrink++
		}
		return
	}
	b.shrink = 0
	m.dropped = b.dropped
	m.queueControl(b.mark(wire.BulkEnd))
}

// Settled reports whether the external caches hold everything that the peer has announced:
// a bulk of the peer was complete, and no other is expected or running.
func (m *FTFW) Settled() bool { return !m.resync.wanted && m.resync.seen }

// Dropped implements Machine.
func (m *FTFW) Dropped(o Object) {
	_, e := m.object(o)
	m.outOfBulk(e)
	if e.held {
		m.setHeld(o.Table, e, false)
		m.unsure()
	}
	m.queues.Dropped(o)
}

// mark returns the control message for the bulk's beginning or end.
func (b *bulk) mark(end wire.Flags) control {
	return control{flags: wire.Alive | end, from: b.number, to: b.number}
}

// outdated reports whether a lost control message must not be resent: a bulk's beginning,
// because its objects have been sent; a bulk's end after the next bulk has begun, which it
// would seem to end; and a request that a later one has replaced.
func (m *FTFW) outdated(c *control) bool {
	switch {
	case c.flags&wire.BulkBegin != 0:
		return true
	case c.flags&wire.BulkEnd != 0:
		return c.from != m.bulk.number
	case c.flags == wire.Resync:
		return c.number != m.resync.number
	}
	return false
}
