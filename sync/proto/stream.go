package proto

import (
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
	// StartupResync has no effect: a stream requests everything of each peer anyway.
	StartupResync bool
	// Peers are the numbers of the other nodes.
	Peers []uint8
	// DigestKey is announced to the peers (package digest).
	DigestKey [16]byte
}

// Stream is the mode FT-FW of version 2, among up to 16 nodes.
type Stream struct {
	queues
	config StreamConfig
	stats  Stats
}

// NewStream returns a Stream that starts at now.
func NewStream(now time.Duration, c StreamConfig) *Stream {
	m := &Stream{config: c}
	m.init()
	return m
}

// SetIncomplete implements Machine.
func (m *Stream) SetIncomplete(now time.Duration, lost uint32) {}

// Withheld implements Machine.
func (m *Stream) Withheld(o Object) {}

// Superseded is Withheld for a dead object with whose identity another object, by, is
// announced or queued: no end is sent, because by replaces it at the peers.
func (m *Stream) Superseded(o, by Object) {}

// RequestResync implements Machine.
func (m *Stream) RequestResync(now time.Duration) {}

// BeginBulk implements Machine.
func (m *Stream) BeginBulk(now time.Duration) bool { return false }

// Bulk implements Machine.
func (m *Stream) Bulk(o Object) {}

// EndBulk implements Machine.
func (m *Stream) EndBulk() {}

// Arrived begins a received datagram of a node. It returns false if the datagram is late:
// a later one was applied already, so the owner skips all of it.
func (m *Stream) Arrived(now time.Duration, node uint8, boot [16]byte, counter uint64) bool {
	return false
}

// Receive processes a message of the datagram that Arrived began, in order. The owner applies
// an object's message if the verdict is Apply. The message may be reused after the call.
func (m *Stream) Receive(now time.Duration, node uint8, msg *wire.StreamMessage) (Verdict, Events) {
	return Ignore, 0
}

// Whole reports whether a node's stream is known and no gap is open: everything that the node
// had announced up to the current message was applied here.
func (m *Stream) Whole(node uint8) bool { return false }

// Complete reports whether a node has announced everything that it has, by its last STATE.
func (m *Stream) Complete(node uint8) bool { return false }

// Incomplete reports whether messages of a node are lost for good, or are not known to have
// arrived, and neither a bulk nor Proven has made up for them.
func (m *Stream) Incomplete(node uint8) bool { return false }

// Proven records that the copy of a node's tables was found to be equal.
func (m *Stream) Proven(node uint8) {}

// Receipt returns what was received of what a node has.
func (m *Stream) Receipt(node uint8, now time.Duration) Receipt { return Receipt{} }

// SetLimits changes StreamConfig's Window and Resend, which are above 0.
func (m *Stream) SetLimits(window, resend int) {}

// SetPeers changes the numbers of the other nodes.
func (m *Stream) SetPeers(nodes []uint8) {}

// Position returns the number of the next new message.
func (m *Stream) Position() wire.Seq { return m.config.First }

// StateDue makes the next call of Next return a STATE.
func (m *Stream) StateDue() {}

// Holds reports whether o was announced and neither ended nor withdrawn since.
func (m *Stream) Holds(o Object) bool { return false }

// Withdrawn is Deleted for an object that has not ended but is no longer announced by this
// node. NextReleased returns it, too.
func (m *Stream) Withdrawn(o Object) {}

// MakeRoom is FTFW.MakeRoom.
func (m *Stream) MakeRoom() bool { return false }

// Committed is FTFW.Committed.
func (m *Stream) Committed(now time.Duration) {}

// Announce is FTFW.Announce, with a NOTICE.
func (m *Stream) Announce(probe uint32) {}

// Tick implements Machine.
func (m *Stream) Tick(now time.Duration) Events { return 0 }

// Deadline implements Machine.
func (m *Stream) Deadline() time.Duration { return m.waitDeadline() }

// Next implements Machine.
func (m *Stream) Next() (Send, bool) { return Send{}, false }

// Sent implements Machine.
func (m *Stream) Sent(now time.Duration) {}

// Stats implements Machine.
func (m *Stream) Stats() Stats { return m.stats }

var _ Machine = (*Stream)(nil)
