package proto

import (
	"iter"
	"math"
	"time"

	"ctbox/sync/wire"
)

// FTFWConfig holds the parameters of an FT-FW machine.
type FTFWConfig struct {
	// FirstSeq is the first sequence number: the time of day in seconds.
	FirstSeq wire.Seq
	// Window is the number of received messages after which an acknowledgement is
	// sent at once (ACKWindowSize); 0 means 300.
	Window int
	// Resend is the length of the resend queue (ResendQueueSize); 0 means 131072.
	Resend int
	// StartupResync requests a resync at once. A peer that runs this package sends
	// everything in answer to the HELLO anyway; a C daemon that does not is asked later.
	StartupResync bool
}

const (
	defaultWindow = 300
	defaultResend = 131072
)

// greeting is the state of our HELLO.
type greeting uint8

const (
	helloUnsent  greeting = iota // nothing has been sent yet
	helloSending                 // HELLO is set on every message until the peer answers
	helloAnswered
)

// FTFW is the mode FT-FW between two nodes: every message is acknowledged or resent. The
// messages are those of the C daemon; the package comment describes how a node recovers
// in cases where the C daemon does not.
type FTFW struct {
	queues
	config FTFWConfig

	now      time.Duration // of the last Receive or Tick
	seq      wire.Seq      // the next message's number
	hello    greeting
	sayBack  bool // answer the peer's HELLO with the next message
	alive    time.Duration
	gaveUp   bool // messages up to gaveUpTo can't be sent again
	gaveUpTo wire.Seq

	stuck      wire.Seq // the oldest unacknowledged, when newer ones are
	stuckSince time.Duration

	peer   peer
	resync resync
	bulk   bulk
	gaps   gaps
	notice announcer
	// dropped is set while the peer may hold objects that were dropped here without an
	// end. The numbers in held are wrong then, until a bulk is complete.
	dropped   bool
	committed time.Duration // when the last commit ended, 0 for none
	wasHeld   bool          // whether the peer held the object of the last Next before it
	wasBack   bool          // whether the message of the last Next answered HELLO
	stats     Stats
}

// NewFTFW returns an FT-FW machine that starts at now.
func NewFTFW(now time.Duration, config FTFWConfig) *FTFW {
	if config.Window <= 0 {
		config.Window = defaultWindow
	}
	if config.Resend <= 0 {
		config.Resend = defaultResend
	}
	m := &FTFW{config: config, seq: config.FirstSeq, alive: now + aliveInterval, dropped: true}
	m.init()
	m.resizeIndex(config.Resend)
	m.resync.interval = resyncInterval
	m.peer.began = now - helloPause
	m.peer.highestAt = now - lateTime
	m.bulk.number = config.FirstSeq
	if config.StartupResync {
		m.RequestResync(now)
	}
	return m
}

// SetLimits changes FTFWConfig's Window and Resend, which are above 0. A shorter
// resend queue drops nothing at once; each message added then displaces the oldest. A
// shorter window applies to messages since the last acknowledgement, too.
func (m *FTFW) SetLimits(window, resend int) {
	m.config.Window, m.config.Resend = window, resend
	m.peer.window = min(m.peer.window, window)
	m.resizeIndex(resend)
}

// SetIncomplete implements Machine.
func (m *FTFW) SetIncomplete(now time.Duration, lost uint32) { m.notice.set(now, lost) }

// Next implements Machine.
func (m *FTFW) Next() (Send, bool) {
	i, e, ok := m.pop(&m.transmit)
	if !ok && m.bulkRoom(m.config.Window, m.config.Resend, m.bulk.shrink) > 0 {
		i, e, ok = m.pop(&m.background)
	}
	if !ok {
		return Send{}, false
	}
	s := Send{Header: wire.Header{Seq: m.seq}}
	m.seq++
	if m.hello != helloAnswered {
		m.hello = helloSending
		s.Header.Flags |= wire.Hello
	}
	m.wasBack = m.sayBack
	if m.sayBack {
		s.Header.Flags |= wire.HelloBack
		m.sayBack = false
		m.peer.backed, m.peer.back = true, s.Header.Seq
	}
	e.seq = s.Header.Seq
	if !i.isControl() {
		s.Object = m.named(i, e)
		m.wasHeld = e.held
		m.setHeld(s.Object.Table, e, !e.dead)
		m.keep(i, e)
		return s, true
	}
	c := m.control(i)
	s.Control = true
	s.Header.Type = wire.Control
	s.Header.Flags |= c.flags
	s.Header.From, s.Header.To = c.from, c.to
	if c.flags == wire.Alive {
		if s.Header.CarriesNotice() {
			m.notice.fill(&s.Notice)
			m.fillHeld(&s.Notice)
			c.fillProbe(&s.Notice)
		}
		m.done(i, e)
		return s, true
	}
	m.keep(i, e)
	return s, true
}

// Withheld implements Machine.
func (m *FTFW) Withheld(o Object) {
	i, e := m.object(o)
	m.seq--
	m.sayBack = m.sayBack || m.wasBack
	m.setHeld(o.Table, e, false)
	if m.wasHeld {
		m.unsure()
	}
	if e.queue == resend { // unless it has been queued again meanwhile
		m.remove(i, e)
		m.outOfBulk(e)
		m.done(i, e)
	}
}

// unsure records that the peer may hold an entry that is no longer counted.
func (m *FTFW) unsure() {
	m.dropped, m.bulk.dropped = true, true
	m.knowHeld()
}

// knowHeld decides whether ALIVEs announce how many entries the peer should hold. They do
// not to a C daemon, nor while the number is unknown or a bulk is running.
func (m *FTFW) knowHeld() {
	m.notice.held = m.peer.ctbox && !m.dropped && !m.bulk.running
	m.notice.committed = m.peer.ctbox && m.committed > 0
	if m.bulk.running && !m.notice.bulk {
		m.notice.due = max(m.notice.due, m.now+aliveInterval) // the mark comes first
	}
	m.notice.bulk = m.bulk.running
}

// Committed notes that this node has ended a commit, and announces it to a ctbox peer at once
// and then every second: what this node ends from now on, it ends as the one that has
// taken over.
func (m *FTFW) Committed(now time.Duration) {
	m.now = now
	m.committed = max(now, 1)
	m.knowHeld()
	m.notice.due = now
}

// Announce queues an ALIVE, whose notice the owner may add to (wire.Notice). With a probe's
// number it is one, and the owner sets its Size.
func (m *FTFW) Announce(probe uint32) { m.announce(probe) }

func (m *FTFW) fillHeld(n *wire.Notice) {
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

// Pending implements Machine.
func (m *FTFW) Pending() int {
	return m.transmit.len + min(m.background.len, max(0, m.bulkRoom(m.config.Window, m.config.Resend, m.bulk.shrink)))
}

// keep appends a sent element to the resend queue. A full queue gives up its oldest one.
func (m *FTFW) keep(i id, e *element) {
	if m.resend.len >= m.config.Resend {
		m.giveUpOldest()
	}
	m.append(&m.resend, i, e)
}

// giveUpOldest drops the oldest unacknowledged message.
func (m *FTFW) giveUpOldest() {
	if i, e, ok := m.pop(&m.resend); ok {
		m.stats.GivenUp++
		m.bulk.overflown = m.bulk.overflown || e.inBulk
		m.giveUp(i, e)
	}
}

// MakeRoom gives up unacknowledged messages, oldest first, until one of them was an
// object's end, so that NextReleased returns its slot. It reports whether there was one.
// The owner calls it when a table is full. The effect is that of a shorter resend queue:
// a peer that misses one of the messages is sent everything.
func (m *FTFW) MakeRoom() bool {
	dead := m.resend.dead
	for m.resend.dead > 0 && m.resend.dead == dead {
		m.giveUpOldest()
	}
	return dead > 0
}

// giveUp discards an element, taken from the resend queue, that the peer has not
// acknowledged.
func (m *FTFW) giveUp(i id, e *element) {
	m.gaveUp, m.gaveUpTo = true, e.seq
	m.bulk.failed = m.bulk.failed || e.inBulk
	m.outOfBulk(e)
	if i.isControl() {
		switch c := m.control(i); {
		case m.resync.is(c):
			m.resync.sent = false
		case c.flags == wire.Nack:
			// The messages that it reported missing will not be resent.
			m.gaps.close(c.number)
			m.resync.want(m.now)
		}
	}
	m.done(i, e)
}

// Sent implements Machine.
func (m *FTFW) Sent(now time.Duration) { m.alive = now + aliveInterval }

// Tick implements Machine.
func (m *FTFW) Tick(now time.Duration) Events {
	m.now = now
	p, alive := &m.peer, m.notice.tick(now)
	if idle := now >= m.alive; idle || p.owed && now >= p.ackDue {
		if p.owed {
			m.acknowledge()
		} else {
			alive = true
		}
		m.alive = now + aliveInterval
	}
	if alive {
		m.queueAlive()
	}
	events := m.tickResync(now)
	if m.peer.present(now) {
		events |= m.bulk.tick(now)
	}
	return events
}

// Deadline implements Machine.
func (m *FTFW) Deadline() time.Duration {
	d := min(m.alive, m.resync.deadline(), m.notice.deadline(), m.waitDeadline())
	if m.peer.present(m.now) {
		d = min(d, m.bulk.deadline())
	}
	if m.peer.owed {
		d = min(d, m.peer.ackDue)
	}
	return d
}

// Stats implements Machine.
func (m *FTFW) Stats() Stats {
	s := m.stats
	s.Transmit, s.Resend, s.ResendLimit = m.transmit.len+m.background.len, m.resend.len, m.config.Resend
	s.Controls, s.Waiting = len(m.controls)-m.free.len, m.waitingLen()
	return s
}

// Unacknowledged describes an element of the resend queue, for `conntrackd -s rsqueue`.
type Unacknowledged struct {
	Control bool
	Seq     wire.Seq
	Flags   wire.Flags // of control messages
}

// Unacknowledged iterates over the resend queue, oldest message first.
func (m *FTFW) Unacknowledged() iter.Seq[Unacknowledged] {
	return func(yield func(Unacknowledged) bool) {
		for i := m.resend.head; i != none; {
			e := m.at(i)
			u := Unacknowledged{Control: i.isControl(), Seq: e.seq}
			if u.Control {
				u.Flags = m.control(i).flags
			}
			if !yield(u) {
				return
			}
			i = e.next
		}
	}
}
