package proto

import (
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// maxTracked bounds the addresses whose sequence numbers NoTrack follows.
const maxTracked = 64

// NoTrack is the mode NOTRACK: best effort, between any number of nodes in a group.
// Sequence numbers serve only the statistics, which are kept for each address.
type NoTrack struct {
	queues
	seq    wire.Seq
	alive  time.Duration // when the next ALIVE is due
	bulk   bulk
	notice announcer
	peers  map[netip.Addr]wire.Seq // the last sequence number of each
	lost   uint64
	before uint64
	asked  uint64
	bulks  uint64
}

// NewNoTrack returns a NOTRACK machine that starts at now. first is its first
// sequence number, the time of day in seconds. With startupResync it requests a resync
// at once.
func NewNoTrack(now time.Duration, first wire.Seq, startupResync bool) *NoTrack {
	m := &NoTrack{seq: first, alive: now + aliveInterval, peers: make(map[netip.Addr]wire.Seq)}
	m.init()
	if startupResync {
		m.RequestResync(now)
	}
	return m
}

// SetIncomplete implements Machine.
func (m *NoTrack) SetIncomplete(now time.Duration, lost uint32) { m.notice.set(now, lost) }

// Announce is FTFW.Announce.
func (m *NoTrack) Announce(probe uint32) { m.announce(probe) }

// Withheld implements Machine.
func (m *NoTrack) Withheld(o Object) { m.seq--; m.unsent(o) }

// RequestResync implements Machine.
func (m *NoTrack) RequestResync(time.Duration) {
	m.asked++
	m.queueControl(control{flags: wire.Resync})
}

// BeginBulk implements Machine. The mode has no marks around a bulk, but a bulk that is
// requested during another one has to wait, or they would pile up.
func (m *NoTrack) BeginBulk(now time.Duration) bool {
	if m.bulk.running {
		m.bulk.wanted = true
		return false
	}
	m.bulks++
	m.bulk.running = true
	m.bulk.due = now + bulkInterval
	return true
}

// Bulk implements Machine.
func (m *NoTrack) Bulk(o Object) {
	if !m.Waits(o) {
		m.Changed(o)
	}
}

// EndBulk implements Machine.
func (m *NoTrack) EndBulk() { m.bulk.running = false }

// Receive implements Receiver. Late messages are applied like others.
func (m *NoTrack) Receive(now time.Duration, _ int, from netip.Addr, h wire.Header) (Verdict, Events) {
	m.track(from, h.Seq)
	var verdict Verdict
	var events Events
	switch h.Kind() {
	case wire.KindData:
		verdict = Apply
	case wire.KindResync:
		verdict, events = Handled, ResyncReceived|m.bulk.want(now)
	case wire.KindAlive:
		verdict = Handled
	default:
		return BadHeader, 0
	}
	if _, known := m.peers[from]; !known && len(m.peers) >= maxTracked {
		clear(m.peers)
	}
	m.peers[from] = h.Seq
	return verdict, events
}

func (m *NoTrack) track(from netip.Addr, seq wire.Seq) {
	last, ok := m.peers[from]
	switch {
	case !ok || seq == last+1:
	case seq.After(last + 1):
		m.lost += uint64(seq - last - 1)
	default:
		m.before++
	}
}

// Tick implements Machine.
func (m *NoTrack) Tick(now time.Duration) Events {
	if due := m.notice.tick(now); due || now >= m.alive {
		m.queueAlive()
		m.alive = now + aliveInterval
	}
	return m.bulk.tick(now)
}

// Deadline implements Machine.
func (m *NoTrack) Deadline() time.Duration {
	return min(m.alive, m.bulk.deadline(), m.notice.deadline(), m.waitDeadline())
}

// Next implements Machine.
func (m *NoTrack) Next() (Send, bool) {
	i, e, ok := m.pop(&m.transmit)
	if !ok {
		return Send{}, false
	}
	s := Send{Header: m.Unqueued()}
	if i.isControl() {
		s.Control = true
		s.Header.Type = wire.Control
		s.Header.Flags = m.control(i).flags
		if s.Header.CarriesNotice() {
			m.notice.fill(&s.Notice)
			m.control(i).fillProbe(&s.Notice)
		}
	} else {
		s.Object = m.named(i, e)
		e.held = !e.dead
	}
	m.done(i, e)
	return s, true
}

// Unqueued returns the header for a message that bypasses the queue, as a node without
// internal caches sends for each event. The caller sets its Type.
func (m *NoTrack) Unqueued() wire.Header {
	h := wire.Header{Seq: m.seq}
	m.seq++
	return h
}

// Sent implements Machine.
func (m *NoTrack) Sent(now time.Duration) { m.alive = now + aliveInterval }

// Stats implements Machine.
func (m *NoTrack) Stats() Stats {
	return Stats{
		Lost: m.lost, Before: m.before, Resyncs: m.asked, Bulks: m.bulks,
		Transmit: m.transmit.len, Waiting: m.waitingLen(), Controls: len(m.controls) - m.free.len,
	}
}
