package proto

import (
	"iter"
	"slices"
	"time"

	"ctbox/sync/wire"
)

// StreamConfig holds the parameters of a Stream.
type StreamConfig struct {
	// ID is random, different for each life of the node's stream.
	ID uint64
	// First is the number of the first message.
	First wire.Seq
	// Node is this node's number. Messages for another node are ignored. 0: all are ours.
	Node uint8
	// Window is the number of received messages after which an acknowledgement is sent
	// at once (ACKWindowSize); 0 means 300.
	Window int
	// Resend is the length of the resend list (ResendQueueSize); 0 means 131072.
	Resend int
	// Peers are the numbers of the other nodes, at most MaxStreamPeers.
	Peers []uint8
	// DigestKey is announced to the peers (package digest).
	DigestKey [16]byte
}

// MaxStreamPeers is the largest number of peers of a Stream.
const MaxStreamPeers = 15

// Stream is the mode FT-FW of version 2, among up to 16 nodes. Each node numbers what it
// announces in one stream, which every peer receives. The package comment describes the rules.
//
// The owner gives it each received datagram with Arrived and the datagram's messages with
// Receive, and sends what Next returns, in this order, in datagrams that each begin with a
// POSITION (wire.StreamPacker).
type Stream struct {
	queues
	config StreamConfig
	now    time.Duration // of the last call that had a time
	seq    wire.Seq      // the next new message's number
	peers  []*streamPeer

	// The sender.
	following  int      // peers
	releasedTo wire.Seq // all before it left the resend list at its head, or were superseded
	burnt      wire.Seq // a number that was skipped, so that each peer gets a LOST for it
	hasBurnt   bool
	repeats    repeats
	bulk       bulk
	bulkFrom   wire.Seq // the number of the bulk's beginning, once it was sent
	bulkBegun  bool     // it was sent
	cursor     wire.Seq // no older message in the resend list is due in the bulk
	cursorSet  bool
	complete   bool     // everything is announced
	last       struct { // what Withheld and Superseded take back
		again, held bool
	}

	// What Next returns before everything else.
	urgent   int // acknowledgements and requests
	stateNow bool
	skipped  bool // a number, which the next POSITION shows
	opening  int  // datagrams at the stream's begin that still get a STATE
	fresh    bool // the next message begins a datagram
	ranges   [wire.MaxAckRanges]wire.Range

	stateAt   time.Duration
	notice    announcer
	committed time.Duration // when the last commit ended, 0 for none
	stats     Stats
}

// openingStates is how many datagrams at the beginning of a stream have a STATE.
const openingStates = 10

// NewStream returns a Stream that starts at now.
func NewStream(now time.Duration, c StreamConfig) *Stream {
	if c.Window <= 0 {
		c.Window = defaultWindow
	}
	if c.Resend <= 0 {
		c.Resend = defaultResend
	}
	m := &Stream{config: c, now: now, seq: c.First, releasedTo: c.First, opening: openingStates, fresh: true}
	m.stateNow, m.stateAt = true, now+aliveInterval
	m.bulk.number = c.First
	m.init()
	m.resizeIndex(c.Resend)
	m.SetPeers(c.Peers)
	return m
}

// SetLimits changes StreamConfig's Window and Resend, which are above 0. A shorter resend
// list drops nothing at once; each message added then displaces the oldest.
func (m *Stream) SetLimits(window, resend int) {
	m.config.Window, m.config.Resend = window, resend
	m.resizeIndex(resend)
}

// SetPeers changes the numbers of the other nodes. What is known of those that remain stays.
func (m *Stream) SetPeers(nodes []uint8) {
	old := m.peers
	m.peers = nil
	for _, node := range nodes {
		if len(m.peers) == MaxStreamPeers || m.peer(node) != nil {
			continue
		}
		i := slices.IndexFunc(old, func(p *streamPeer) bool { return p.node == node })
		if i >= 0 {
			m.peers = append(m.peers, old[i])
		} else {
			m.peers = append(m.peers, &streamPeer{node: node, interval: resyncInterval})
		}
	}
	m.following, m.urgent = 0, 0
	for _, p := range m.peers {
		if p.following {
			m.following++
		}
		m.urgent += p.due()
	}
	m.releaseAcknowledged()
}

// peer returns the state of a node, or nil.
func (m *Stream) peer(node uint8) *streamPeer {
	for _, p := range m.peers {
		if p.node == node {
			return p
		}
	}
	return nil
}

// SetIncomplete implements Machine.
func (m *Stream) SetIncomplete(now time.Duration, lost uint32) { m.notice.set(now, lost) }

// Position returns the number of the next new message.
func (m *Stream) Position() wire.Seq { return m.seq }

// StateDue makes the next call of Next return a STATE.
func (m *Stream) StateDue() { m.stateNow = true }

// Holds reports whether o was announced and neither ended nor withdrawn since.
func (m *Stream) Holds(o Object) bool {
	e := m.at(id(o.Table)<<slotBits | id(uint32(o.Handle)&slotMask))
	return e.held && e.gen == uint32(o.Handle>>32)
}

// Held returns how many objects of a table the peers hold once everything has arrived.
func (m *Stream) Held(t Table) int { return m.held[t] }

// Unannounced notes that o was stored and is not announced before the next bulk, or before it
// changes.
func (m *Stream) Unannounced(o Object) {
	if _, e := m.object(o); !e.held {
		e.silent = true
	}
}

// Overlooked reports whether everything was announced but o, of which the machine has not been
// informed: neither by Unannounced nor by a call that queues it.
func (m *Stream) Overlooked(o Object) bool {
	e := m.at(id(o.Table)<<slotBits | id(uint32(o.Handle)&slotMask))
	known := e.gen == uint32(o.Handle>>32) && (e.held || e.silent || e.queue != unqueued)
	return m.complete && !m.bulk.running && !known
}

// Whole reports whether a node's stream is known and no gap is open: everything that the node
// had announced up to the current message was applied here.
func (m *Stream) Whole(node uint8) bool {
	p := m.peer(node)
	return p != nil && p.known && len(p.gaps) == 0
}

// Complete reports whether a node has announced everything that it has, by its last STATE.
func (m *Stream) Complete(node uint8) bool {
	p := m.peer(node)
	return p != nil && p.known && p.complete
}

// Incomplete reports whether messages of a node are lost for good, or are not known to have
// arrived, and neither a bulk nor Proven has made up for them.
func (m *Stream) Incomplete(node uint8) bool {
	p := m.peer(node)
	return p == nil || !p.known || p.incomplete
}

// Proven records that the copy of a node's tables was found to be equal.
func (m *Stream) Proven(node uint8) {
	if p := m.peer(node); p != nil && p.known {
		p.incomplete, p.wanted = false, false
		m.setAsk(p, false)
	}
}

// Follows reports whether messages are kept until a node has acknowledged them.
func (m *Stream) Follows(node uint8) bool {
	p := m.peer(node)
	return p != nil && p.following
}

// Receipt returns what was received of what a node has.
func (m *Stream) Receipt(node uint8, now time.Duration) Receipt {
	p := m.peer(node)
	if p == nil || !p.known {
		return Receipt{}
	}
	got := Receipt{Gaps: len(p.gaps)}
	if got.Gaps > 0 {
		got.Late = max(0, now-p.gaps[0].since-aliveInterval)
	}
	switch {
	case !p.wanted && !p.incomplete:
		got.Copy = CopyArrived
	case p.begun:
		got.Copy = CopyGranted
	case p.wanted:
		got.Copy = CopyRequested
	}
	return got
}

// Committed is FTFW.Committed.
func (m *Stream) Committed(now time.Duration) {
	m.now = now
	m.committed = max(now, 1)
	m.knowHeld()
	m.notice.due = now
}

// Announce is FTFW.Announce, with a NOTICE.
func (m *Stream) Announce(probe uint32) {
	if m.transmit.controls < maxControls {
		m.queueControl(control{kind: wire.StreamNotice, number: uint64(probe)})
	}
}

// Tick implements Machine.
func (m *Stream) Tick(now time.Duration) Events {
	m.now = now
	if m.notice.tick(now) {
		m.Announce(0)
	}
	beat := now >= m.stateAt
	if beat {
		m.stateNow, m.stateAt = true, now+aliveInterval
	}
	var events Events
	present := false
	for _, p := range m.peers {
		m.watch(p)
		present = present || p.present(now)
		if p.known && (beat || p.owed > 0 && now >= p.ackDue || len(p.gaps) > 0 && now >= p.gapDue) {
			m.setAck(p, true)
		}
		if now >= p.askDeadline() {
			events |= m.ask(p)
		}
	}
	if present {
		events |= m.bulk.tick(now)
	}
	return events
}

// Deadline implements Machine.
func (m *Stream) Deadline() time.Duration {
	d := min(m.stateAt, m.notice.deadline(), m.waitDeadline())
	present := false
	for _, p := range m.peers {
		present = present || p.present(m.now)
		if p.owed > 0 && !p.ackNow {
			d = min(d, p.ackDue)
		}
		if len(p.gaps) > 0 && !p.ackNow {
			d = min(d, p.gapDue)
		}
		d = min(d, p.askDeadline())
	}
	if present {
		d = min(d, m.bulk.deadline())
	}
	return d
}

// Sent implements Machine.
func (m *Stream) Sent(now time.Duration) { m.now, m.fresh = now, true }

// Stats implements Machine.
func (m *Stream) Stats() Stats {
	s := m.stats
	s.Transmit, s.Resend, s.ResendLimit = m.transmit.len+m.background.len, m.resend.len, m.config.Resend
	s.Controls, s.Waiting = len(m.controls)-m.free.len, m.waitingLen()
	return s
}

// Unacknowledged iterates over the resend list, oldest message first.
func (m *Stream) Unacknowledged() iter.Seq[Unacknowledged] {
	return func(yield func(Unacknowledged) bool) {
		for i := m.resend.head; i != none; {
			e := m.at(i)
			if !yield(Unacknowledged{Control: i.isControl(), Seq: e.seq}) {
				return
			}
			i = e.next
		}
	}
}

var _ Machine = (*Stream)(nil)
