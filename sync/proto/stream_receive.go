package proto

import (
	"time"

	"ctbox/sync/wire"
)

// Arrived begins a received datagram of a node. It returns false if the datagram is late:
// a later one was applied already, so the owner skips all of it.
func (m *Stream) Arrived(now time.Duration, node uint8, boot [16]byte, counter uint64) bool {
	m.now = now
	p := m.peer(node)
	if p == nil {
		return false
	}
	if !p.begins(&boot, counter) {
		m.stats.Before++
		return false
	}
	p.heard = now
	return true
}

// Receive processes a message of the datagram that Arrived began, in order. The owner applies
// an object's message if the verdict is Apply. The message may be reused after the call.
func (m *Stream) Receive(now time.Duration, node uint8, msg *wire.StreamMessage) (Verdict, Events) {
	m.now = now
	p := m.peer(node)
	if p == nil || !p.met {
		return Ignore, 0
	}
	before := m.reachPosition(p, msg)
	verdict, events := m.process(p, msg)
	return verdict, before | events
}

// reachPosition opens the gap that the last POSITION has shown, which it leaves to the message
// behind it: a STATE may begin a new stream there, and then nothing is missing.
func (m *Stream) reachPosition(p *streamPeer, msg *wire.StreamMessage) Events {
	if !p.unreached {
		return 0
	}
	p.unreached = false
	if msg.Type == wire.StreamState && p.stream != msg.Stream {
		return 0
	}
	return m.reach(p, p.position)
}

// process is Receive of what is behind the last POSITION.
func (m *Stream) process(p *streamPeer, msg *wire.StreamMessage) (Verdict, Events) {
	switch t := msg.Type; {
	case t.Numbered():
		return m.numbered(p, msg)
	case t == wire.Position:
		p.position, p.unreached = msg.From, true
	case t == wire.Void:
		return Handled, m.voided(p, msg)
	case t == wire.LostRange:
		return Handled, m.lost(p, msg)
	case t == wire.StreamState:
		return Handled, m.state(p, msg)
	case t == wire.StreamAck:
		if m.names(msg) {
			m.acknowledged(p, msg)
		}
	case t == wire.Ask:
		if m.names(msg) {
			return Handled, ResyncReceived | m.bulk.want(m.now)
		}
	}
	return Handled, 0
}

// names reports whether a message is for this life of this node.
func (m *Stream) names(msg *wire.StreamMessage) bool {
	return uint32(msg.Stream) == uint32(m.config.ID) && (m.config.Node == 0 || msg.Node == m.config.Node)
}

// numbered processes an object's message or a bulk's mark.
func (m *Stream) numbered(p *streamPeer, msg *wire.StreamMessage) (Verdict, Events) {
	n := msg.Number
	if !msg.Again {
		p.position = n + 1
	}
	if !p.known {
		return Ignore, 0
	}
	var events Events
	switch {
	case msg.Again:
		if !p.fill(n, n) {
			return Ignore, 0 // repeated for another peer
		}
		if len(p.gaps) > 0 && !p.bounded() {
			events = m.overrun(p)
		}
	case n.Before(p.expected):
		m.stats.Before++
		return Ignore, 0
	default:
		events = m.reach(p, n)
		p.expected = n + 1
	}
	if p.owed++; p.owed == 1 {
		p.ackDue = m.now + aliveInterval
	}
	if p.owed >= m.config.Window {
		m.setAck(p, true)
	}
	verdict := Apply
	switch msg.Type {
	case wire.StreamBulkBegin:
		verdict = Handled
		if !msg.Again {
			// Otherwise objects of the bulk have arrived before its beginning.
			p.begun, p.ended, p.expects = true, false, p.wanted
			p.began, p.number = n, msg.Bulk
			m.setAsk(p, false)
			events |= BulkBegan
		}
	case wire.StreamBulkEnd:
		verdict = Handled
		if p.begun && msg.Bulk == p.number {
			p.ended, p.end = true, n
		} else if p.wanted {
			p.askAt = min(p.askAt, m.now+aliveInterval)
		}
	}
	return verdict, events | m.settle(p)
}

// reach opens a gap if the next new message is next.
func (m *Stream) reach(p *streamPeer, next wire.Seq) Events {
	if !p.known || !next.After(p.expected) {
		return 0
	}
	m.stats.Lost += uint64(next - p.expected)
	m.setAck(p, true)
	if !p.open(m.now, next) {
		return m.overrun(p)
	}
	return 0
}

// overrun requests everything, because there were too many gaps to keep.
func (m *Stream) overrun(p *streamPeer) Events {
	p.incomplete = true
	return m.want(p)
}

// voided closes gaps whose numbers have no content any more. What superseded them is numbered
// before the datagram's position, and a bulk is complete only with that.
func (m *Stream) voided(p *streamPeer, msg *wire.StreamMessage) Events {
	if !p.known || !p.fill(msg.From, msg.To) {
		return 0
	}
	if p.ended {
		p.end = p.expected
	}
	if len(p.gaps) > 0 && !p.bounded() {
		return m.overrun(p)
	}
	return m.settle(p)
}

// lost closes gaps that the peer can't repeat.
func (m *Stream) lost(p *streamPeer, msg *wire.StreamMessage) Events {
	if !p.known || !p.fill(msg.From, msg.To) {
		return 0
	}
	p.incomplete = true
	var events Events
	if p.begun && msg.To.Before(p.began) {
		// The bulk that has begun since makes up for it.
		p.expects = true
	} else {
		events = m.want(p)
	}
	if len(p.gaps) > 0 && !p.bounded() {
		events |= m.overrun(p)
	}
	return events | m.settle(p)
}

// settle completes a bulk when nothing of it is missing.
func (m *Stream) settle(p *streamPeer) Events {
	if !p.ended || len(p.gaps) > 0 && p.gaps[0].from.Before(p.end) {
		return 0
	}
	p.begun, p.ended = false, false
	p.wanted, p.incomplete = false, false
	p.interval = resyncInterval
	m.setAsk(p, false)
	if !p.expects {
		return BulkComplete | BulkUnasked
	}
	return BulkComplete
}

// state processes a STATE, which begins a stream if its id is new.
func (m *Stream) state(p *streamPeer, msg *wire.StreamMessage) (events Events) {
	if !p.known || p.stream != msg.Stream {
		events = m.beginStream(p, msg.Stream)
	}
	p.complete = msg.Flags&wire.StateComplete != 0
	if msg.Flags&wire.StateBulk == 0 && p.begun && len(p.gaps) == 0 {
		events |= m.want(p) // the end of the bulk does not come
	}
	return events
}

// beginStream begins a peer's stream with the next number of the present datagram. What was
// announced before is missing, and what an earlier stream left here is outdated.
func (m *Stream) beginStream(p *streamPeer, id uint64) (events Events) {
	if p.known {
		// The peer has started: it has nothing of ours.
		events = PeerStarted
		p.stalled = false
		m.unfollow(p)
	}
	m.bulk.due = min(m.bulk.due, m.now) // the last one was for other lives, or for other peers
	p.known, p.stream = true, id
	p.expected, p.gaps, p.owed = p.position, p.gaps[:0], 0
	p.incomplete, p.interval, p.askAt = true, resyncInterval, m.now
	m.setAck(p, true)
	return events | m.want(p)
}

// want requests everything of a peer: at once, or when the last request is old enough.
func (m *Stream) want(p *streamPeer) Events {
	p.wanted, p.begun, p.ended = true, false, false
	if m.now < p.askAt {
		return 0
	}
	return m.ask(p)
}

func (m *Stream) ask(p *streamPeer) Events {
	p.askAt = m.now + p.interval
	p.interval = min(2*p.interval, maxResyncInterval)
	m.stats.Resyncs++
	m.setAsk(p, true)
	return ResyncSent
}

// RequestResync implements Machine.
func (m *Stream) RequestResync(now time.Duration) { m.requestResync(now, 0) }

// RequestResyncOf asks one peer for everything that it has. A node that is not known is not asked.
func (m *Stream) RequestResyncOf(now time.Duration, node uint8) { m.requestResync(now, node) }

// requestResync requests everything of a node, or of all for 0.
func (m *Stream) requestResync(now time.Duration, node uint8) {
	m.now = now
	for _, p := range m.peers {
		if p.known && (node == 0 || p.node == node) {
			p.askAt = now
			m.want(p)
		}
	}
}

// setAck and setAsk set whether an acknowledgement or a request is due at once.
func (m *Stream) setAck(p *streamPeer, due bool) { m.set(&p.ackNow, due) }
func (m *Stream) setAsk(p *streamPeer, due bool) { m.set(&p.askNow, due) }

func (m *Stream) set(flag *bool, due bool) {
	switch {
	case due && !*flag:
		m.urgent++
	case !due && *flag:
		m.urgent--
	}
	*flag = due
}
