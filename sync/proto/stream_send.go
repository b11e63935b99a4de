package proto

import (
	"math"
	"time"

	"ctbox/sync/wire"
)

// Next implements Machine.
func (m *Stream) Next() (Send, bool) {
	if m.fresh && m.opening > 0 && m.Pending() > 0 {
		m.opening--
		m.stateNow = true
	}
	m.fresh = false
	if m.stateNow {
		m.stateNow = false
		return Send{Stream: true, Control: true, Message: m.stateMessage()}, true
	}
	if m.skipped {
		m.skipped = false
		return Send{Stream: true, Control: true, Message: wire.StreamMessage{Type: wire.Position, From: m.seq}}, true
	}
	if m.urgent > 0 {
		return m.nextUrgent(), true
	}
	if i, e, ok := m.nextRepeat(); ok {
		m.stats.Resent++
		m.last.again, m.last.held = true, e.held
		s := m.numberedSend(i, e)
		s.Again, s.Message.Again = true, s.Control
		return s, true
	}
	i, e, ok := m.pop(&m.transmit)
	if ok && i.isControl() && !m.control(i).kind.Numbered() {
		return m.unnumberedSend(i, e), true
	}
	if !ok {
		if i, e, ok = m.nextOfBulk(); !ok {
			return Send{}, false
		}
	}
	e.seq = m.seq
	m.seq++
	s := m.numberedSend(i, e)
	if s.Control {
		m.markSent(m.control(i), e.seq)
	} else {
		m.last.again, m.last.held = false, e.held
		m.setHeld(s.Object.Table, e, !e.dead)
	}
	m.keep(i, e)
	return s, true
}

// nextUrgent returns a due acknowledgement or request.
func (m *Stream) nextUrgent() Send {
	s := Send{Stream: true, Control: true}
	for _, p := range m.peers {
		switch {
		case p.ackNow:
			m.setAck(p, false)
			s.Message = m.ackMessage(p)
			return s
		case p.askNow:
			m.setAsk(p, false)
			s.Message = wire.StreamMessage{Type: wire.Ask, Node: p.node, Stream: p.stream}
			return s
		}
	}
	return s
}

func (m *Stream) ackMessage(p *streamPeer) wire.StreamMessage {
	p.owed = 0
	ack := wire.StreamMessage{Type: wire.StreamAck, Node: p.node, Stream: p.stream, From: p.expected}
	if len(p.gaps) > 0 {
		ack.From = p.gaps[0].from
		ack.Ranges = p.report(m.now, m.ranges[:0:wire.MaxAckRanges])
		m.stats.NacksSent += uint64(len(ack.Ranges))
	}
	return ack
}

func (m *Stream) stateMessage() wire.StreamMessage {
	s := wire.StreamMessage{Type: wire.StreamState, Stream: m.config.ID, Key: m.config.DigestKey, First: m.config.First}
	if m.complete {
		s.Flags |= wire.StateComplete
	}
	if m.bulk.running {
		s.Flags |= wire.StateBulk
	}
	return s
}

// numberedSend returns the message of an object or a bulk's mark.
func (m *Stream) numberedSend(i id, e *element) Send {
	s := Send{Stream: true, Header: wire.Header{Seq: e.seq}}
	if !i.isControl() {
		s.Object, s.Withdrawn = m.named(i, e), e.withdrawn
		return s
	}
	c := m.control(i)
	s.Control = true
	s.Message = wire.StreamMessage{Type: c.kind, Bulk: uint32(c.number), Number: e.seq}
	return s
}

// unnumberedSend returns a VOID, LOST or NOTICE.
func (m *Stream) unnumberedSend(i id, e *element) Send {
	c := m.control(i)
	s := Send{Stream: true, Control: true, Message: wire.StreamMessage{Type: c.kind, From: c.from, To: c.to}}
	if c.kind == wire.StreamNotice {
		m.notice.fill(&s.Notice)
		m.fillHeld(&s.Notice)
		c.fillProbe(&s.Notice)
	}
	m.done(i, e)
	return s
}

// nextRepeat returns the next element of the resend list that a peer is missing. What is no
// longer there is void or lost.
func (m *Stream) nextRepeat() (id, *element, bool) {
	r := &m.repeats
	for r.waiting() > 0 {
		want := r.at(r.done)
		i := m.find(want.next)
		if i == none || m.at(i).seq.After(want.To) {
			m.absent(want.next, want.To, want.lost)
			r.done++
			continue
		}
		e := m.at(i)
		if e.seq != want.next {
			m.absent(want.next, e.seq-1, want.lost)
		}
		want.next = e.seq + 1
		if want.next.After(want.To) {
			r.done++
		}
		return i, e, true
	}
	return none, nil, false
}

// absent answers for numbers that are not in the resend list: those before lost are lost. The
// others are void, because everything that was sent since lost is here or was superseded; what
// superseded them was sent, or is in the transmit queue.
func (m *Stream) absent(from, to, lost wire.Seq) {
	if from.Before(lost) {
		until := to
		if !to.Before(lost) {
			until = lost - 1
		}
		m.answer(wire.LostRange, from, until)
		from = until + 1
	}
	if m.hasBurnt && !m.burnt.Before(from) && !m.burnt.After(to) {
		if from != m.burnt {
			m.answer(wire.Void, from, m.burnt-1)
		}
		m.answer(wire.LostRange, m.burnt, m.burnt)
		from = m.burnt + 1
	}
	if !from.After(to) {
		m.answer(wire.Void, from, to)
	}
}

// answer queues a VOID or LOST, or extends the one at the end of the queue.
func (m *Stream) answer(kind wire.StreamType, from, to wire.Seq) {
	if last := m.transmit.tail; last != none && last.isControl() {
		if c := m.control(last); c.kind == kind && c.to+1 == from {
			c.to = to
			return
		}
	}
	if m.transmit.controls < maxControls {
		m.queueControl(control{kind: kind, from: from, to: to})
	}
}

// nextOfBulk returns the next object of a bulk for which there is room: those that wait in the
// background, and then those in the resend list that were sent before the bulk.
func (m *Stream) nextOfBulk() (id, *element, bool) {
	if m.bulkRoom(m.config.Window, m.config.Resend, m.bulk.shrink) <= 0 {
		return none, nil, false
	}
	if i, e, ok := m.pop(&m.background); ok {
		m.outOfBulk(e)
		return i, e, true
	}
	if !m.bulk.queued || m.bulk.left == 0 || m.resend.head == none {
		return none, nil, false
	}
	if !m.cursorSet {
		m.cursor, m.cursorSet = m.at(m.resend.head).seq, true
	}
	for i := m.find(m.cursor); i != none; i = m.at(i).next {
		e := m.at(i)
		m.cursor = e.seq + 1
		if e.inBulk {
			m.remove(i, e)
			m.outOfBulk(e)
			return i, e, true
		}
	}
	return none, nil, false
}

// Pending implements Machine. The number of messages that answer a peer's report is estimated.
func (m *Stream) Pending() int {
	n := m.urgent + m.repeats.waiting() + m.transmit.len
	if m.stateNow {
		n++
	}
	if m.skipped {
		n++
	}
	ready := m.background.len
	if m.bulk.queued {
		ready = max(ready, m.bulk.left)
	}
	return n + min(ready, max(0, m.bulkRoom(m.config.Window, m.config.Resend, m.bulk.shrink)))
}

// keep appends a sent element to the resend list, if a peer follows. A full list gives up its
// oldest one.
func (m *Stream) keep(i id, e *element) {
	if m.following == 0 {
		m.releasedTo = e.seq + 1
		m.done(i, e)
		return
	}
	if m.resend.len >= m.config.Resend {
		m.giveUpOldest()
	}
	m.append(&m.resend, i, e)
}

// giveUpOldest drops the oldest unacknowledged message: it is lost for the peers that are
// missing it.
func (m *Stream) giveUpOldest() {
	i, e, ok := m.pop(&m.resend)
	if !ok {
		return
	}
	m.stats.GivenUp++
	m.bulk.overflown = m.bulk.overflown || m.bulk.running
	for _, p := range m.peers {
		if p.following && !p.lostTo.After(e.seq) {
			p.lostTo = e.seq + 1
		}
	}
	m.release(i, e)
}

// release ends the transmission of an element, which was taken from the resend list's head.
func (m *Stream) release(i id, e *element) {
	m.releasedTo = e.seq + 1
	if e.inBulk {
		m.append(&m.background, i, e) // for the peer that has requested the bulk
		return
	}
	m.done(i, e)
}

// MakeRoom is FTFW.MakeRoom.
func (m *Stream) MakeRoom() bool {
	dead := m.resend.dead
	for m.resend.dead > 0 && m.resend.dead == dead {
		m.giveUpOldest()
	}
	return dead > 0
}

// acknowledged processes an ACK of ours.
func (m *Stream) acknowledged(p *streamPeer, ack *wire.StreamMessage) {
	next := ack.From
	if next.After(m.seq) {
		return // of no stream of ours
	}
	switch {
	case p.following:
		if next.After(p.next) {
			p.next, p.moved = next, m.now
		}
	default:
		p.lostTo = m.releasedTo
		if p.stalled && !next.After(p.next) {
			break
		}
		p.following, p.stalled = true, false
		m.following++
		// The peer hears this node now. A request that it has not answered may have come before.
		if p.wanted && !p.begun {
			p.askAt, p.interval = min(p.askAt, m.now+beginsWithin), resyncInterval
		}
		p.next, p.moved = next, m.now
	}
	if p.next == m.seq {
		p.moved = m.now
	}
	if p.lostTo.Before(p.next) {
		p.lostTo = p.next
	}
	m.releaseAcknowledged()
	for _, r := range ack.Ranges {
		if r.From.Before(p.next) {
			r.From = p.next
		}
		if !r.To.Before(m.seq) {
			r.To = m.seq - 1
		}
		if r.To.Before(r.From) {
			continue
		}
		m.stats.NacksReceived++
		m.repeats.add(m.now, repeat{Range: r, lost: p.lostTo})
	}
}

// releaseAcknowledged releases what all following peers have acknowledged.
func (m *Stream) releaseAcknowledged() {
	if m.resend.head == none {
		return
	}
	next := m.seq
	for _, p := range m.peers {
		if p.following && p.next.Before(next) {
			next = p.next
		}
	}
	for m.resend.head != none && m.at(m.resend.head).seq.Before(next) {
		i, e, _ := m.pop(&m.resend)
		m.release(i, e)
	}
}

// watch stops keeping messages for a peer that is silent, or that has acknowledged nothing new
// for as long.
func (m *Stream) watch(p *streamPeer) {
	if !p.following {
		return
	}
	if !p.present(m.now) {
		m.unfollow(p)
		return
	}
	p.stalled = m.resend.head != none && !p.next.After(m.at(m.resend.head).seq) && m.now-p.moved >= peerSilence
	if p.stalled {
		m.unfollow(p)
	}
}

func (m *Stream) unfollow(p *streamPeer) {
	if !p.following {
		return
	}
	p.following = false
	m.following--
	m.releaseAcknowledged()
}

// Changed implements Machine.
func (m *Stream) Changed(o Object) {
	_, e := m.object(o)
	m.outOfBulk(e)
	e.withdrawn, e.silent = false, false
	m.queues.Changed(o)
}

// Wait implements Machine.
func (m *Stream) Wait(now time.Duration, o Object, c Class) {
	_, e := m.object(o)
	m.outOfBulk(e)
	e.withdrawn, e.silent = false, false
	m.queues.Wait(now, o, c)
}

// Deleted implements Machine. An object that the peers do not hold is released at once.
func (m *Stream) Deleted(o Object) {
	i, e := m.object(o)
	m.outOfBulk(e)
	e.withdrawn, e.silent = false, false
	switch {
	case e.held || e.queue != unqueued && e.queue != released:
		m.queues.Deleted(o)
	case e.queue == unqueued:
		m.setDead(i, e, true)
		m.done(i, e)
	}
}

// Withdrawn is Deleted for an object that has not ended but is no longer announced by this
// node. NextReleased returns it, too.
func (m *Stream) Withdrawn(o Object) {
	m.Deleted(o)
	_, e := m.object(o)
	e.withdrawn, e.silent = true, true
}

// Dropped implements Machine.
func (m *Stream) Dropped(o Object) {
	_, e := m.object(o)
	m.outOfBulk(e)
	if e.held {
		m.setHeld(o.Table, e, false)
		m.burn()
	}
	e.withdrawn, e.silent = false, false
	m.queues.Dropped(o)
}

// burn skips a number, which becomes a gap at each peer and is answered with LOST: the peers
// hold something that has no end, and need a bulk.
func (m *Stream) burn() {
	m.complete, m.bulk.dropped = false, true
	if !m.hasBurnt || m.burnt+1 != m.seq {
		m.burnt, m.hasBurnt = m.seq, true
		m.seq++
		m.skipped = true
	}
	m.stateNow = true
	m.knowHeld()
}

// Withheld implements Machine.
func (m *Stream) Withheld(o Object) {
	m.takeBack(o)
	if m.last.held {
		m.burn() // nothing replaces it at the peers
	}
}

// Superseded is Withheld for a dead object whose identity another object, by, has. by was
// announced, or is queued: its message replaces what the peers hold. If it has none after all,
// the peers hold something that has no end, as when by itself had been announced.
func (m *Stream) Superseded(o, by Object) {
	held := m.last.held
	m.takeBack(o)
	if held {
		_, e := m.object(by)
		m.setHeld(by.Table, e, true)
	}
}

// takeBack takes back the object that Next returned last.
func (m *Stream) takeBack(o Object) {
	i, e := m.object(o)
	number := e.seq
	if !m.last.again {
		m.seq--
	}
	m.setHeld(o.Table, e, false)
	if e.queue == resend { // unless it has been queued again meanwhile
		m.remove(i, e)
		m.outOfBulk(e)
		m.done(i, e)
	}
	if m.last.again {
		m.absent(number, number, number)
	}
}

// BeginBulk implements Machine. The beginning is sent before everything that is queued, so
// that what is queued need not be sent twice.
func (m *Stream) BeginBulk(now time.Duration) bool {
	m.now = now
	b := &m.bulk
	if b.running {
		b.wanted = true
		return false
	}
	if b.overflown {
		b.shrink++
	} else {
		b.shrink = 0
	}
	b.running, b.queued, b.ending, b.overflown, b.dropped = true, false, false, false, false
	b.number++
	b.due = now + bulkInterval
	m.bulkBegun, m.cursorSet = false, false
	m.stats.Bulks++
	m.queueControl(control{kind: wire.StreamBulkBegin, number: uint64(b.number)})
	m.toFront(&m.transmit)
	m.knowHeld()
	return true
}

// toFront moves the last element of a list to its front.
func (m *Stream) toFront(l *list) {
	i := l.tail
	if i == l.head {
		return
	}
	e := m.at(i)
	l.tail = e.prev
	m.at(e.prev).next = none
	m.at(l.head).prev = i
	e.prev, e.next = none, l.head
	l.head = i
}

// Bulk implements Machine. What is queued is sent after the bulk's beginning anyway.
func (m *Stream) Bulk(o Object) {
	i, e := m.object(o)
	switch {
	case e.dead && e.withdrawn:
		m.Changed(o)
		return
	case e.waits() || e.dead || e.inBulk || e.queue == transmit:
		return
	case m.bulkBegun && e.held && uint32(e.seq-m.bulkFrom) < uint32(m.seq-m.bulkFrom):
		return // sent since the bulk's beginning
	case e.queue != resend:
		m.move(&m.background, i, e)
	}
	e.withdrawn, e.silent, e.inBulk = false, false, true
	m.bulk.left++
}

// EndBulk implements Machine. The end is sent when all objects have been sent.
func (m *Stream) EndBulk() {
	m.bulk.queued = true
	m.finishBulk()
}

// outOfBulk removes an element from the bulk, if it is in it.
func (m *Stream) outOfBulk(e *element) {
	if e.inBulk {
		e.inBulk = false
		m.bulk.left--
		m.finishBulk()
	}
}

func (m *Stream) finishBulk() {
	b := &m.bulk
	if b.running && b.queued && b.left == 0 && !b.ending {
		b.ending = true
		m.queueControl(control{kind: wire.StreamBulkEnd, number: uint64(b.number)})
	}
}

// markSent records that a bulk's mark got its number.
func (m *Stream) markSent(c *control, seq wire.Seq) {
	if c.kind == wire.StreamBulkBegin {
		m.bulkFrom, m.bulkBegun = seq, true
		return
	}
	m.bulk.running = false
	m.complete = m.complete || !m.bulk.dropped
	m.stateNow = true // the peers compare digests from then on
	m.knowHeld()
}

// knowHeld is FTFW.knowHeld.
func (m *Stream) knowHeld() {
	m.notice.held = m.complete && !m.bulk.running
	m.notice.committed = m.committed > 0
	if m.bulk.running && !m.notice.bulk {
		m.notice.due = max(m.notice.due, m.now+aliveInterval)
	}
	m.notice.bulk = m.bulk.running
}

func (m *Stream) fillHeld(n *wire.Notice) {
	if m.notice.bulk {
		n.Has |= wire.HasBulk
	}
	if m.notice.held {
		n.Has |= wire.HasHeld
		n.HeldFlows, n.HeldExpects = uint32(m.held[Flows]), uint32(m.held[Expects])
	}
	if m.notice.committed {
		n.Has |= wire.HasCommitted
		n.Committed = uint32(min(max(m.now-m.committed, 0)/time.Millisecond, math.MaxUint32))
	}
}

// Claim queues o, which the peers hold as another node's flow so far, behind what is more urgent.
func (m *Stream) Claim(o Object) {
	i, e := m.object(o)
	if e.dead || e.queue != unqueued {
		m.Changed(o)
		return
	}
	e.withdrawn, e.silent = false, false
	m.move(&m.background, i, e)
}

// Backlog returns how many objects wait in the background: claims, and a part of a bulk.
func (m *Stream) Backlog() int { return m.background.len }

// DropClaims takes back claims that were not sent: the node leaves the flows to their owners.
func (m *Stream) DropClaims() {
	for i := m.background.head; i != none; {
		e := m.at(i)
		next := e.next
		if !i.isControl() && !e.inBulk && !e.held && !e.dead {
			m.remove(i, e)
			e.silent = true
		}
		i = next
	}
}

// Announces reports whether o is announced by this node: the peers hold it, or will by what is
// queued, or it waits. An object that has ended or is withdrawn is not.
func (m *Stream) Announces(o Object) bool {
	e := m.at(id(o.Table)<<slotBits | id(uint32(o.Handle)&slotMask))
	return e.gen == uint32(o.Handle>>32) && !e.dead &&
		(e.held || e.queue == transmit || e.queue == background || e.waits())
}
