// Package proto is the replication protocol as state machines: NOTRACK, ALARM and
// FT-FW, and Stream, which is version 2 of FT-FW. A machine has no socket, no clock and no goroutine. Its methods take events
// with their times and return the messages to send, so a test can simulate an hour of two
// nodes on a lossy network within moments, and repeat it.
//
// # Owner and machine
//
// The owner, one goroutine at a time, has the caches, the links and the machine. It calls
//
//	m.Changed(object), m.Deleted(object)  // the kernel reported a change
//	m.Receive(now, link, from, header)    // a message arrived
//	m.Tick(now)                           // m.Deadline() was reached
//
// and after any of these
//
//	for {
//		send, ok := m.Next()
//		if !ok {
//			break
//		}
//		// encode send into a wire.Packer: a control message from its header,
//		// an object from its cache entry as it is now
//	}
//	// hand the datagrams to the link
//	m.Sent(now)
//	for o, ok := m.NextReleased(); ok; o, ok = m.NextReleased() {
//		// the slot of o is free
//	}
//
// Times are durations since an epoch of the owner's choice and never decrease. Any call
// may change the Deadline.
//
// A machine queues objects, not their contents: a queued object that changes again keeps
// its place, and the message carries its state at the time of transmission. The message's
// type follows from the object's status in the cache at that time: new, update or delete.
// So the further the owner is behind, the more changes one message carries.
//
// A queue is a doubly linked list of elements, one for each slot of the owner's caches. An
// object is in one queue at most. A change therefore allocates nothing, and the length of
// a queue is bounded by the number of objects and a fixed number of control messages.
//
// # Ends of flows
//
// A dead object keeps its slot until its end is sent, in FT-FW until that is
// acknowledged; then NextReleased returns it. Meanwhile the kernel may have a new flow
// with the same tuple, in another slot, which the old flow's end, resent after a loss,
// would remove at the peer. Therefore, when Next returns a dead object whose tuple is in
// use again, the owner sends the end and calls Changed for the new flow, which is then
// sent after it.
//
// # Delays
//
// An object that has just begun may wait before it is sent (Wait): until its delay has passed,
// which NextWaited reports, until the owner calls Changed, or until it is Deleted, and then it is
// never sent. The owner does not call Changed for a waiting object because a dead one has the
// same tuple: the peers have never heard of the waiting one.
//
// # FT-FW
//
// A process numbers all its messages in one sequence, of any kind and over any link. The
// receiver acknowledges ranges of numbers and reports gaps at once, also as ranges. Sent
// messages stay in the resend queue until they are acknowledged. Messages that are
// reported missing are resent with new numbers, objects with their current contents. A
// node that has just started sets HELLO on every message until it receives HELLO_BACK. A
// node that receives HELLO resets its receive state and drops its resend queue.
//
// This protocol is compatible with conntrack-tools' conntrackd ("the C daemon"). A machine
// of this package also recovers in cases where the C daemon does not:
//
//   - The receive state belongs to the peer, which is the first node heard on a link.
//     Messages from another address on that link are ignored, counted and reported once
//     (ThirdNode), until the peer has been silent for ten seconds.
//   - A peer that has started has lost its external cache, so it is sent everything
//     (BulkWanted), and has not announced its own table, so a resync is requested
//     (ResyncSent). A resync is also requested from a C daemon that does not answer our
//     HELLO with a bulk, after a gap that is larger than a resend queue, and when one of
//     our reports had to be dropped. Requests are repeated until they are acknowledged,
//     first after five seconds, then ten, up to a minute.
//   - A peer that reports missing messages which have left the full resend queue is sent
//     everything without a request.
//   - A message that stays unacknowledged for ten seconds while later ones are
//     acknowledged is resent.
//   - A sequence of late messages over two seconds means that the peer has restarted its
//     numbering and its HELLO was lost.
//   - An acknowledgement causes another one only after a second, so a window of one
//     causes no storm. An acknowledgement that is still queued is extended.
//   - An acknowledgement waits for at most a second, even while data is being sent.
//
// # Bulks
//
// A bulk is sent at the peer's pace and after all changes: its objects wait in a queue of
// their own while more than a window of messages is unacknowledged. Two control messages
// enclose it, which a C daemon treats as signs of life: ALIVE with bit 0 before the first
// object, and ALIVE with bit 7 when all objects are acknowledged, each with the bulk's
// number. Entries of an external cache that were not announced between the two (BulkBegan,
// BulkComplete) no longer exist at the peer. Removing them gets rid of flows whose end was
// lost in a restart; Sweep decides whether a bulk is credible. A C daemon never sends these
// marks, so nothing is removed on its behalf.
//
// Between bulks the sender announces in its ALIVEs how many objects the peer should hold,
// and the receiver compares that number with its external cache (Agreement).
//
// # Versions
//
// Two nodes with a Cluster clause agree on version 2 of the protocol, or on version 1: Versions
// decides, and the owner exchanges the machine.
//
// # Stream
//
// Version 2 works among up to 16 nodes. A node numbers the objects that it announces and the
// marks around its bulks in one stream, and sends each datagram to all peers. Acknowledgements,
// answers and notices have no numbers. Each datagram gives the number of the sender's next new
// message (POSITION), so that a receiver notices the loss of the last ones, too.
//
// A receiver applies the datagrams of a sender only in the order in which the sender made them
// (Arrived). So it always holds what the sender had announced at some moment, except what the
// open gaps contain. If no gap is open (Whole) and nothing was lost for good (Incomplete) it holds
// exactly that, and a digest that arrives then can be compared.
//
//   - A number that a peer is missing is repeated with the same number (AGAIN), with the object's
//     contents of now, if the object was not sent or changed since.
//   - Otherwise the number is void. VOID follows what superseded the number: it waits behind
//     everything that is queued.
//   - What left the resend list because no following peer needed it, or because the list was
//     full, is LOST. So is a number that is skipped when objects that the peers hold are dropped
//     without an end: each peer notices the gap and learns that its copy is incomplete.
//
// A peer follows from its first acknowledgement of this stream. It stops following when it is
// silent, or acknowledges nothing new, for ten seconds. The resend list holds what some following
// peer has not acknowledged; a full list gives up its oldest message, without which the peers that
// miss it get a LOST.
//
// A receiver begins a peer's stream with the peer's STATE and requests everything (ASK), as it does
// after a LOST. A bulk makes up for what is lost if its beginning arrived in order. If it was
// repeated, objects of the bulk have arrived before, and the receiver asks again. A bulk leaves
// out what was sent since its beginning; its end has a number, and means something when no gap
// before it is open.
//
// A repeated end of an object, whose tuple another announced object has by then, would remove that
// object at the peer. The owner takes it back with Superseded instead.
//
// # NOTRACK and ALARM
//
// NOTRACK counts lost messages for each address and does not resend them; RESYNC requests
// everything from all nodes of the group. ALARM has no control messages: a node announces
// every object periodically, and others remove objects that are no longer announced. Both
// work with any number of nodes.
package proto
