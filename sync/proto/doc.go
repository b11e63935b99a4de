// Package proto is the replication protocol as state machines: NOTRACK, ALARM and
// FT-FW. A machine has no socket, no clock and no goroutine. It is told what has
// happened and when, and says what to send; so a test can run two nodes over a
// lossy network for an hour of their time in a moment of ours, and repeat it.
//
// # Owner and machine
//
// The owner, one goroutine, has the caches, the links and the machine, and turns
// its loop like this:
//
//	m.Changed(object), m.Deleted(object)  // the kernel told of a change
//	m.Receive(now, link, from, header)    // a message came in
//	m.Tick(now)                           // m.Deadline() has come
//
// and after any of these
//
//	for {
//		send, ok := m.Next()
//		if !ok {
//			break
//		}
//		// encode send into a wire.Packer: a control message from its header,
//		// an object from what its cache holds now
//	}
//	// hand the datagrams to the link
//	m.Sent(now)
//	for o, ok := m.NextReleased(); ok; o, ok = m.NextReleased() {
//		// the slot of o is free
//	}
//
// A time is a time.Duration since an epoch of the owner's choice and never goes
// back. After each call the Deadline may be another.
//
// An object is queued, not its contents: a queued object that changes again keeps
// its place, and what goes out is its state at the moment of transmission. The
// message's type is that of the cache's status then: new, update or delete. The
// more the owner is behind, the more changes one message carries.
//
// A queue is a doubly linked list through one element for each slot of the
// owner's caches. An object is in one queue at most. So nothing is allocated for a
// change, however many objects there are, and no queue is longer than the objects
// and a bounded number of control messages.
//
// # Ends of flows
//
// A dead object keeps its slot until its end is sent, in FT-FW until that is
// acknowledged; NextReleased hands it back. Meanwhile the kernel may have a new
// flow of the same tuple, in another slot, and the old one's end, sent again after
// a loss, would remove it at the peer. Therefore: when Next gives a dead object
// whose tuple lives again, the owner sends its end and calls Changed for the
// living one, which is then sent after it.
//
// # FT-FW
//
// Every message of a process has the next sequence number, whatever it says and
// over whichever link it goes. The receiver acknowledges ranges, and reports gaps
// at once as ranges too. Sent messages stay in the resend queue until they are
// acknowledged; those reported missing are sent again with new numbers, objects
// with what they hold by then. A node that starts says HELLO on every message
// until it hears HELLO_BACK; whoever hears HELLO forgets what it knew of the
// peer's numbers and what it has sent to the former life.
//
// All this is the C daemon's protocol and works with it. Where the C daemon gives
// up, a machine of this package goes on:
//
//   - The receive state belongs to the peer: whoever is heard first on a link.
//     Another address on that link is ignored, counted and reported once
//     (ThirdNode), until the peer has been silent for ten seconds.
//   - A started peer knows nothing, so we tell it everything (BulkWanted), and it
//     has not told us its table, so we ask for everything (ResyncSent). We ask
//     also when we have started and a C daemon does not tell us everything, after
//     a gap of more messages than a resend queue holds, and when a report of ours
//     had to be dropped. Requests are repeated until they are acknowledged, at
//     most one in five seconds, then ten, up to a minute.
//   - A peer that reports messages missing which have left our full resend queue
//     gets everything without asking.
//   - What stays unacknowledged for ten seconds while later messages are
//     acknowledged is sent again.
//   - A row of late messages over two seconds is a peer that counts anew and whose
//     HELLO we missed.
//   - An acknowledgement never causes an acknowledgement before the second is
//     over, so a window of one is no storm; an acknowledgement that is queued and
//     not yet sent is extended.
//   - Acknowledgements wait at most a second even if we send all the time.
//
// # Everything, and nothing else
//
// A bulk goes at the peer's pace and behind all changes: its objects wait in a
// queue of their own while more than a window of messages is unacknowledged. It is
// enclosed in two control messages that a C daemon takes for signs of life:
// ALIVE with bit 0 before the first object, ALIVE with bit 7 when all of them are
// acknowledged, each with the bulk's number. What an external cache holds and was not
// announced between the two (BulkBegan, BulkComplete) is gone at the peer: flows whose
// end was lost in a restart do not stay for ever. Sweep judges whether that is to be
// believed. From a C daemon the marks never come, and nothing is removed.
//
// Between bulks the sender announces in its ALIVEs how many objects the peer should
// hold, and the receiver compares that with what it does hold (Agreement).
//
// # NOTRACK and ALARM
//
// NOTRACK only counts what is lost, for each address; RESYNC asks all nodes of the
// group for everything. ALARM has no control messages: every object is sent again
// and again and forgotten by others when it is not. Both work with any number of
// nodes.
package proto
