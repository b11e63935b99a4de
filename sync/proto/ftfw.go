package proto

import (
	"iter"
	"math"
	"time"

	"ctbox/sync/wire"
)

// FTFWConfig is how an FT-FW machine starts.
type FTFWConfig struct {
	// FirstSeq is the first sequence number: the time of day in seconds.
	FirstSeq wire.Seq
	// Window is after how many received messages the peer gets an
	// acknowledgement at once (ACKWindowSize); 0 is 300.
	Window int
	// Resend is how many messages are kept for retransmission
	// (ResendQueueSize); 0 is 131072.
	Resend int
	// StartupResync asks the peer for everything at once. A peer of ours tells it
	// anyway when it hears the HELLO; a C daemon that does not is asked later.
	StartupResync bool
}

const (
	defaultWindow = 300
	defaultResend = 131072
)

// greeting is how far our HELLO has come.
type greeting uint8

const (
	silent greeting = iota // nothing has been sent yet
	saying                 // on every message, until the peer answers
	said
)

// FTFW is the mode FT-FW: two nodes, every message is acknowledged or sent
// again. What is sent follows the C daemon (sheet section 11); how a node
// converges where the C daemon gives up stands in the package comment.
type FTFW struct {
	queues
	config FTFWConfig

	now      time.Duration // of the last Receive or Tick
	seq      wire.Seq      // the next to give out
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
	notice announcer
	told   [2]int // objects of each table that the peer holds, if all arrives
	// dropped: the peer may hold objects that were dropped since without an end, so
	// the numbers above say nothing until a bulk is complete.
	dropped   bool
	committed time.Duration // the last commit ended; 0: none
	wasTold   bool          // the object that Next returned last, before
	wasBack   bool          // its message answered HELLO
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

// SetLimits changes FTFWConfig's Window and Resend, which are above 0. What a
// longer resend queue holds stays there until it is acknowledged. A shorter window
// counts for the messages that have arrived since the last acknowledgement, too.
func (m *FTFW) SetLimits(window, resend int) {
	m.config.Window, m.config.Resend = window, resend
	m.peer.window = min(m.peer.window, window)
	m.resizeIndex(resend)
}

// SetIncomplete implements Machine.
func (m *FTFW) SetIncomplete(now time.Duration, lost uint32) { m.notice.set(now, lost) }

// Next implements Machine. The owner fills a batch of datagrams with what it
// returns; an object's content is what its cache holds at that moment.
func (m *FTFW) Next() (Send, bool) {
	i, e, ok := m.pop(&m.transmit)
	if !ok && m.resend.len < m.bulkWindow() {
		i, e, ok = m.pop(&m.background)
	}
	if !ok {
		return Send{}, false
	}
	s := Send{Header: wire.Header{Seq: m.seq}}
	m.seq++
	if m.hello != said {
		m.hello = saying
		s.Header.Flags |= wire.Hello
	}
	m.wasBack = m.sayBack
	if m.sayBack {
		s.Header.Flags |= wire.HelloBack
		m.sayBack = false
	}
	e.seq = s.Header.Seq
	if !i.isControl() {
		s.Object = m.named(i, e)
		m.wasTold = e.told
		m.setTold(s.Object.Table, e, !e.dead)
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
		}
		m.done(i, e)
		return s, true
	}
	m.keep(i, e)
	return s, true
}

// setTold notes whether the peer holds an object, as far as this node has said.
func (m *FTFW) setTold(t Table, e *element, told bool) {
	switch {
	case told && !e.told:
		m.told[t]++
	case !told && e.told:
		m.told[t]--
	}
	e.told = told
}

// Withheld implements Machine.
func (m *FTFW) Withheld(o Object) {
	i, e := m.object(o)
	m.seq--
	m.sayBack = m.sayBack || m.wasBack
	m.setTold(o.Table, e, false)
	if m.wasTold {
		m.unsure()
	}
	if e.queue == resend { // it may have been queued again meanwhile
		m.remove(i, e)
		m.outOfBulk(e)
		m.done(i, e)
	}
}

// unsure notes that the peer holds an entry which is not counted any more.
func (m *FTFW) unsure() {
	m.dropped, m.bulk.dropped = true, true
	m.knowHeld()
}

// knowHeld has ALIVEs announce how many entries the peer holds, or not: not to a C
// daemon, and not while the number is unknown or a bulk changes it.
func (m *FTFW) knowHeld() {
	m.notice.held = m.peer.ctbox && !m.dropped && !m.bulk.running
	m.notice.committed = m.peer.ctbox && m.committed > 0
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

func (m *FTFW) fillHeld(n *wire.Notice) {
	if m.notice.held {
		n.Has |= wire.HasHeld
		n.HeldFlows, n.HeldExpects = uint32(m.told[Flows]), uint32(m.told[Expects])
	}
	if m.notice.committed {
		n.Has |= wire.HasCommitted
		n.Committed = uint32(min(max(m.now-m.committed, 0)/time.Millisecond, math.MaxUint32))
	}
}

// Pending implements Machine.
func (m *FTFW) Pending() int {
	if room := m.bulkWindow() - m.resend.len; room > 0 {
		return m.transmit.len + min(m.background.len, room)
	}
	return m.transmit.len
}

// bulkWindow is how far the resend queue may fill up for a bulk: so far that an
// acknowledgement comes before it is full, and that it holds what comes between.
// Each time that it did not, the next bulk goes half as far.
func (m *FTFW) bulkWindow() int {
	room := min(max(bulkWindow, 4*m.config.Window), m.config.Resend-1)
	return max(1, room>>min(m.bulk.shrink, 30))
}

// keep puts a sent element into the resend queue, whose oldest has to go when it
// is full.
func (m *FTFW) keep(i id, e *element) {
	if m.resend.len >= m.config.Resend {
		m.giveUpOldest()
	}
	m.append(&m.resend, i, e)
}

// giveUpOldest drops the oldest message that is not acknowledged.
func (m *FTFW) giveUpOldest() {
	if i, e, ok := m.pop(&m.resend); ok {
		m.stats.GivenUp++
		m.bulk.overflown = m.bulk.overflown || e.inBulk
		m.giveUp(i, e)
	}
}

// MakeRoom gives up unacknowledged messages, the oldest first, until one of them was
// an object's end, so that NextReleased hands its slot back. It reports whether there
// was one. A table that is full has a use for the slot; the resend queue is shorter
// then than ResendQueueSize, and what a peer misses is made up for in the same way.
func (m *FTFW) MakeRoom() bool {
	dead := m.resend.dead
	for m.resend.dead > 0 && m.resend.dead == dead {
		m.giveUpOldest()
	}
	return dead > 0
}

// giveUp ends the way of an element that was in the resend queue and that the
// peer has not acknowledged.
func (m *FTFW) giveUp(i id, e *element) {
	m.gaveUp, m.gaveUpTo = true, e.seq
	m.bulk.failed = m.bulk.failed || e.inBulk
	m.outOfBulk(e)
	if i.isControl() {
		switch c := m.control(i); {
		case m.resync.is(c):
			m.resync.sent = false
		case c.flags == wire.Nack:
			// What it asked for will not come any more.
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
	d := min(m.alive, m.resync.deadline(), m.notice.deadline())
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
	s.Controls = len(m.controls) - m.free.len
	return s
}

// Unacknowledged is an element of the resend queue, as `conntrackd -s rsqueue`
// lists it.
type Unacknowledged struct {
	Control bool
	Seq     wire.Seq
	Flags   wire.Flags // of control messages
}

// Unacknowledged walks the resend queue, the oldest message first.
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
