package proto

import (
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// Receive implements Receiver.
func (m *FTFW) Receive(now time.Duration, link int, from netip.Addr, h wire.Header) (Verdict, Events) {
	kind := h.Kind()
	if kind == wire.KindInvalid || (kind == wire.KindAck || kind == wire.KindNack) && h.To.Before(h.From) {
		return BadHeader, 0
	}
	m.now = now
	p := &m.peer
	fresh, ours := p.meet(now, link, from)
	if !ours {
		return Ignore, m.countThird(from)
	}
	var events Events
	if fresh {
		events |= m.restarted(now, h.Seq)
	}
	p.heard = now
	if h.Flags&wire.HelloBack != 0 && m.hello == helloSending {
		// A HELLO_BACK before our first message is for the process before this one.
		m.hello = helloAnswered
	}
	if h.Flags&wire.Hello != 0 {
		if !fresh && p.starts(now, h.Seq) {
			events |= m.restarted(now, h.Seq)
		}
		p.greeted, p.helloLast, p.helloAt = true, h.Seq, now
		m.sayBack = true
	}
	switch {
	case !p.have:
		if events&PeerStarted == 0 {
			m.found(now, h)
		}
	case h.Seq == p.last+1:
	case h.Seq.After(p.last + 1):
		m.gap(h.Seq)
	default:
		m.stats.Before++
		if !p.countsAnew(now, h.Seq) {
			return Ignore, events
		}
		events |= m.restarted(now, h.Seq)
	}
	verdict := Handled
	switch kind {
	case wire.KindData:
		verdict = Apply
		p.dataAt = now
	case wire.KindAck:
		m.acknowledged(now, h.From, h.To)
		m.settleUnmarked(now)
	case wire.KindNack:
		m.stats.NacksReceived++
		events |= m.missed(now, h.From, h.To)
	case wire.KindResync:
		events |= ResyncReceived
		if h.Flags&wire.Hello == 0 || now-p.began >= helloPause {
			// A request that comes with the peer's start is answered already. Later,
			// the peer may have flushed its cache since our answer.
			events |= m.bulk.want(now)
		}
	case wire.KindAlive:
		events |= m.marked(now, h)
	}
	m.arrived(now, h.Seq, kind)
	return verdict, events
}

// gap handles missing messages before seq: it acknowledges the messages before the gap and
// reports the gap.
func (m *FTFW) gap(seq wire.Seq) {
	p := &m.peer
	missing := uint32(seq - p.last - 1)
	m.stats.Lost += uint64(missing)
	if p.owed {
		m.acknowledge()
	}
	m.queueAnswer(control{flags: wire.Nack, from: p.last + 1, to: seq - 1})
	p.window = m.config.Window
	if int64(missing) >= int64(m.config.Resend-m.config.Window) {
		// The gap is larger than a resend queue: part of it is lost for good.
		m.resync.want(m.now)
	}
}

// arrived records seq as received and acknowledges it when due. Acknowledgements and
// ALIVEs never cause an acknowledgement at once, or two nodes with a window of one would
// never stop.
func (m *FTFW) arrived(now time.Duration, seq wire.Seq, kind wire.Kind) {
	p := &m.peer
	if !p.owed {
		p.owed, p.ackFrom, p.ackDue = true, seq, now+aliveInterval
	}
	p.arrived(now, seq)
	if kind == wire.KindAck || kind == wire.KindAlive {
		return
	}
	if p.window--; p.window <= 0 {
		m.acknowledge()
		p.window = m.config.Window
	}
}

// acknowledge queues an acknowledgement of all messages since the last one, or extends
// that one if it is still at the end of the queue.
func (m *FTFW) acknowledge() {
	p := &m.peer
	if last := m.transmit.tail; last != none && last.isControl() {
		if c := m.control(last); c.flags == wire.Ack && c.to+1 == p.ackFrom {
			c.to = p.last
			p.owed = false
			return
		}
	}
	m.queueAnswer(control{flags: wire.Ack, from: p.ackFrom, to: p.last})
	p.owed = false
}

// queueAnswer queues an ACK or NACK, unless so many control messages are queued already
// that nothing seems to leave.
func (m *FTFW) queueAnswer(c control) {
	if m.transmit.controls < maxControls {
		if c.flags == wire.Nack {
			m.stats.NacksSent++
			c.number = m.gaps.open(m.now)
		}
		m.queueControl(c)
	} else if c.flags == wire.Nack {
		m.resync.want(m.now)
	}
}

// acknowledged removes the messages of an acknowledged range from the resend queue. A
// range that was never sent belongs to the process before this one.
func (m *FTFW) acknowledged(now time.Duration, from, to wire.Seq) {
	if p := &m.peer; p.backed && !p.back.Before(from) && !p.back.After(to) {
		p.answered = true
	}
	m.eachSent(from, to, func(i id, e *element) {
		m.remove(i, e)
		if i.isControl() {
			switch c := m.control(i); {
			case m.resync.is(c):
				m.resync.granted, m.resync.grantedAt = true, now
			case c.flags == wire.Nack:
				m.gaps.close(c.number)
			}
		}
		m.outOfBulk(e)
		m.done(i, e)
	})
	m.resendStuck(now, from)
}

// resendStuck resends messages that have been older than the acknowledged ranges for
// stuckTime: either they or their acknowledgement are lost for good.
func (m *FTFW) resendStuck(now time.Duration, from wire.Seq) {
	if m.resend.head == none {
		return
	}
	oldest := m.at(m.resend.head).seq
	switch {
	case !oldest.Before(from) || !from.Before(m.seq):
		return
	case oldest != m.stuck:
		m.stuck, m.stuckSince = oldest, now
	case now-m.stuckSince >= stuckTime:
		m.requeue(oldest, from-1)
	}
}

// requeue resends the unacknowledged messages of a range.
func (m *FTFW) requeue(from, to wire.Seq) {
	m.eachSent(from, to, func(i id, e *element) {
		if i.isControl() && m.outdated(m.control(i)) {
			m.remove(i, e)
			m.done(i, e)
			return
		}
		m.stats.Resent++
		m.move(&m.transmit, i, e)
	})
}

// missed handles the peer's report of missing messages.
func (m *FTFW) missed(now time.Duration, from, to wire.Seq) Events {
	m.requeue(from, to)
	if m.gaveUp && to.Before(m.seq) && !from.After(m.gaveUpTo) {
		// Part of the range can't be resent. The peer may not notice, so the bulk does
		// not wait for its request.
		return m.bulk.want(now)
	}
	return 0
}

// eachSent calls do for the elements of the resend queue in the range; do may remove them.
// The queue is in the order of sequence numbers.
func (m *FTFW) eachSent(from, to wire.Seq, do func(id, *element)) {
	if !to.Before(m.seq) {
		return
	}
	for i := m.find(from); i != none; {
		e := m.at(i)
		if e.seq.After(to) {
			return
		}
		next := e.next
		do(i, e)
		i = next
	}
}

// restarted resets the state for a peer that has started with seq. The new process has
// neither received nor announced anything, so a bulk and a resync are due.
func (m *FTFW) restarted(now time.Duration, seq wire.Seq) Events {
	for {
		i, e, ok := m.pop(&m.resend)
		if !ok {
			break
		}
		m.giveUp(i, e)
	}
	m.peer.begin(now, seq, m.config.Window)
	m.dropped = true // until it has everything
	m.knowHeld()
	m.resync.want(now)
	m.resync.next = min(m.resync.next, now+m.resync.interval) // a bulk that the process before has begun does not end
	return PeerStarted | m.bulk.want(now)
}

// countThird counts a message from a node that is not our peer.
func (m *FTFW) countThird(from netip.Addr) Events {
	m.stats.ThirdNode++
	m.stats.Third = from
	if m.peer.noteStranger(from) {
		return ThirdNode
	}
	return 0
}
