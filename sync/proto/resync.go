package proto

import (
	"time"

	"ctbox/sync/wire"
)

// resync is our wish to be told everything.
type resync struct {
	wanted   bool
	since    time.Duration // wanted
	expected bool          // the bulk that began was wanted, and not long ago
	number   uint64        // of the last request
	sent     bool          // the request is on its way
	granted  bool          // the peer has acknowledged it
	begun    bool          // and begun to tell everything: it is one of ours
	greeted  bool          // not to be asked for before our HELLO is answered
	bulk     wire.Seq      // the number of the last bulk that began, if seen
	seen     bool
	next     time.Duration // no request before
	interval time.Duration
}

// want wishes for everything, whatever was asked for before.
func (r *resync) want(now time.Duration) {
	r.wanted, r.since = true, now
	r.sent, r.granted, r.begun, r.greeted = false, false, false, false
}

// begin notes that the peer has begun to tell everything.
func (r *resync) begin(now time.Duration, number wire.Seq) {
	// A C daemon answers without marks, so a wish may stand for ever.
	r.expected = r.wanted && now-r.since < maxResyncInterval
	r.wanted, r.sent, r.granted, r.begun = true, true, true, true
	r.bulk, r.seen = number, true
	r.next = now + maxResyncInterval
}

func (r *resync) deadline() time.Duration {
	if !r.wanted || r.granted && !r.begun {
		return None
	}
	return r.next
}

// is reports whether c is the request that stands.
func (r *resync) is(c *control) bool {
	return r.sent && c.flags == wire.Resync && c.number == r.number
}

// RequestResync implements Machine.
func (m *FTFW) RequestResync(now time.Duration) {
	m.resync.wanted, m.resync.since = true, now
	m.ask(now)
}

// found looks at the first message that we hear of a peer which has been running. One
// of ours tells us everything, because of our HELLO. A C daemon has to be asked, and
// if it was, what it answered before this message is lost and no gap says so, unless
// the message has the answer to our HELLO and the request is all that we have sent.
func (m *FTFW) found(now time.Duration, h wire.Header) {
	r := &m.resync
	if r.sent && h.Flags&wire.HelloBack != 0 && m.seq == m.config.FirstSeq+1 {
		return
	}
	r.want(now)
	r.greeted = true
	r.next = now + resyncInterval
}

// tickResync repeats the request until the peer has it.
func (m *FTFW) tickResync(now time.Duration) Events {
	r := &m.resync
	if now < r.deadline() {
		return 0
	}
	if r.greeted && m.hello != said {
		// At each HELLO a C daemon forgets what it has sent: what is lost of its
		// answer would not come again.
		r.next = now + aliveInterval
		return 0
	}
	if r.sent && !r.granted {
		// It is in the resend queue and gets there as soon as anything does.
		r.next = now + r.interval
		return 0
	}
	m.ask(now)
	return ResyncSent
}

func (m *FTFW) ask(now time.Duration) {
	r := &m.resync
	r.sent, r.granted, r.begun = true, false, false
	r.since = now
	r.next = now + r.interval
	r.interval = min(2*r.interval, maxResyncInterval)
	m.stats.Resyncs++
	r.number++
	m.queueControl(control{flags: wire.Resync, number: r.number})
}

// marked looks at the marks around a bulk. The peer sends the end when all that
// it sent since the beginning is acknowledged, so losses in between do not
// matter.
func (m *FTFW) marked(now time.Duration, h wire.Header) Events {
	r := &m.resync
	if h.IsMark() {
		m.peer.ctbox = true
		m.knowHeld()
	}
	switch {
	case !h.IsMark():
	case h.Flags&wire.BulkBegin != 0 && (m.peer.overtaken(now, h.Seq) || r.seen && h.From == r.bulk):
		// Late or a copy: what it should have come before is here already. Taken
		// seriously it would make all that seem to be gone.
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
		// We missed the beginning. Whatever it was for has to be done again.
		r.want(now)
		r.next = min(r.next, now+r.interval)
	}
	return 0
}

// BeginBulk implements Machine.
func (m *FTFW) BeginBulk(now time.Duration) bool {
	b := &m.bulk
	if b.running {
		// Of what was told already the peer may have forgotten some since.
		b.wanted = true
		return false
	}
	b.running, b.told, b.failed, b.overflown, b.dropped = true, false, false, false, false
	m.knowHeld()
	b.number++
	b.due = now + bulkInterval
	m.gaveUp = false
	m.stats.Bulks++
	m.queueControl(b.mark(wire.BulkBegin))
	return true
}

// Bulk implements Machine. The object is sent after the beginning even if it was
// queued before, but changes go first, and no more is on its way than the peer
// acknowledges.
func (m *FTFW) Bulk(o Object) {
	i, e := m.object(o)
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

// EndBulk implements Machine. The peer is told when it has everything.
func (m *FTFW) EndBulk() {
	m.bulk.told = true
	m.finishBulk()
}

// outOfBulk takes an element out of the bulk it may be in: acknowledged, given up
// or dropped.
func (m *FTFW) outOfBulk(e *element) {
	if e.inBulk {
		e.inBulk = false
		m.bulk.left--
		m.finishBulk()
	}
}

func (m *FTFW) finishBulk() {
	b := &m.bulk
	if !b.running || !b.told || b.left > 0 {
		return
	}
	b.running = false
	defer m.knowHeld()
	if b.failed {
		b.wanted = true
		if b.overflown { // not where the peer has started anew, which may happen any number of times
			b.shrink++
		}
		return
	}
	b.shrink = 0
	m.dropped = b.dropped
	m.queueControl(b.mark(wire.BulkEnd))
}

// Settled reports whether the external caches have everything that the peer announced:
// a bulk of it was complete, and no other is expected or under way.
func (m *FTFW) Settled() bool { return !m.resync.wanted && m.resync.seen }

// Dropped implements Machine.
func (m *FTFW) Dropped(o Object) {
	_, e := m.object(o)
	m.outOfBulk(e)
	if e.told {
		m.setTold(o.Table, e, false)
		m.unsure()
	}
	m.queues.Dropped(o)
}

// mark is the control message for an end of the bulk.
func (b *bulk) mark(end wire.Flags) control {
	return control{flags: wire.Alive | end, from: b.number, to: b.number}
}

// outdated reports whether a lost control message must not be sent again: the
// beginning of a bulk, because what it was to enclose has been sent; the end of a
// bulk when the next one has begun, which it would seem to end; a request that a
// later one has replaced.
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
