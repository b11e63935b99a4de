package proto

import (
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// Table identifies one of the owner's internal caches.
type Table uint8

// The tables.
const (
	Flows Table = iota
	Expects
)

// Object identifies an object of the owner's internal caches. The low 32 bits of Handle
// are its slot, below 2^30, which no other object of the table may use until the machine
// has released it. The high bits are for the owner's use.
type Object struct {
	Table  Table
	Handle uint64
}

// Send is a message for the owner to transmit.
type Send struct {
	// Header is complete for a control message. For an object, the owner sets its
	// Type from the object's state in the cache: new, update or delete.
	Header wire.Header
	// Control is set for a control message. Otherwise the message is that of Object.
	Control bool
	Object  Object
	// Notice is the body of an ALIVE or NOTICE. The zero value means no body.
	Notice wire.Notice

	// The rest is set by a Stream, of which of Header only Seq is set, in numbered
	// messages.

	Stream    bool // the message is of version 2
	Again     bool // it repeats Header.Seq
	Withdrawn bool // the object is withdrawn, whatever its state
	// Message is a control message, complete but for the body of a NOTICE, which is
	// Notice. Its Ranges are valid until the next call of Next.
	Message wire.StreamMessage
}

// Verdict is what the owner does with a received message.
type Verdict uint8

// The verdicts. A message with Apply or Handled makes its link the current one.
const (
	Apply     Verdict = iota // data: decode it and change the external cache
	Handled                  // control: done
	Ignore                   // late, a duplicate, or not from our peer: counted in Stats
	BadHeader                // malformed: count wire.Counters.BadHeader
	BadType                  // malformed: count wire.Counters.BadType
)

// Events is a set of things for the owner to do or log.
type Events uint8

// The events.
const (
	// BulkWanted: the peer has requested or needs everything. The owner calls
	// BeginBulk, then Bulk for each object, flows before expectations, then EndBulk,
	// at once or in slices.
	BulkWanted Events = 1 << iota
	// ResyncReceived: the peer requested a resync ("resync requested by other node").
	// BulkWanted may follow later, to limit the rate, or may have come already.
	ResyncReceived
	// ResyncSent: the machine requested a resync on its own.
	ResyncSent
	// BulkBegan and BulkComplete enclose everything that the peer has. Entries of the
	// external caches that were not announced between the two no longer exist at the
	// peer; Sweep decides whether the owner removes them.
	BulkBegan
	BulkComplete
	// PeerStarted: the peer has just started, or another node has replaced it.
	PeerStarted
	// ThirdNode: a message came from a node that is not the peer, whose address is
	// Stats.Third. Reported once for each node.
	ThirdNode
	// BulkUnasked comes with BulkComplete if this node had not requested the bulk and no
	// start explains it. The peer's operator may have sent it (-B), or an attacker.
	BulkUnasked
)

// Machine is the protocol of one mode.
type Machine interface {
	// Changed, Deleted and Dropped report changes of the internal caches.
	Changed(o Object)
	Deleted(o Object)
	Dropped(o Object)
	// SetDelays, Wait, Waits and NextWaited delay new objects, see queues.
	SetDelays(d [Classes]time.Duration)
	Wait(now time.Duration, o Object, c Class)
	Waits(o Object) bool
	NextWaited(now time.Duration) (Object, bool)
	// Withheld takes back the object that Next returned last, because it can't be
	// encoded or must not be sent. The next message uses its number.
	Withheld(o Object)
	// NextReleased returns an object that was Deleted and whose slot is free again.
	// The owner calls it until it returns false, after Receive, Tick and Next.
	NextReleased() (Object, bool)

	// SetIncomplete sets the number of the kernel's events that are lost and not yet
	// made up for. The modes that have ALIVEs announce it in them, when it becomes zero
	// or grows much at once, otherwise every second.
	SetIncomplete(now time.Duration, lost uint32)

	// RequestResync requests everything from the peers.
	RequestResync(now time.Duration)
	// BeginBulk, Bulk and EndBulk send everything to the peers. BeginBulk returns false
	// if a bulk is running, after which BulkWanted follows, or if the mode has no bulks.
	BeginBulk(now time.Duration) bool
	Bulk(o Object)
	EndBulk()

	// Tick does what is due. It may be called at any time.
	Tick(now time.Duration) Events
	// Deadline returns when the owner has to call Tick, and NextWaited, if no other call
	// changes it.
	Deadline() time.Duration

	// Next returns the next message that may be transmitted now, if there is one.
	Next() (Send, bool)
	// Pending returns how many messages Next would return now.
	Pending() int
	// Sent records that the messages from Next were transmitted.
	Sent(now time.Duration)

	// Stats returns the machine's counters and sizes.
	Stats() Stats
}

// Receiver is a machine of version 1.
type Receiver interface {
	Machine
	// Receive processes the header of a message that arrived on a link, given by its
	// number, from an address.
	Receive(now time.Duration, link int, from netip.Addr, h wire.Header) (Verdict, Events)
}

// Stats holds a machine's counters since its creation and the sizes of its queues.
type Stats struct {
	Lost   uint64 // messages missing according to the sequence numbers
	Before uint64 // late messages and duplicates

	Resent  uint64 // messages that were queued again
	GivenUp uint64 // messages dropped from the resend queue unacknowledged
	Resyncs uint64 // resyncs requested
	Bulks   uint64 // bulks sent

	// Ranges reported missing to the peer, and by it.
	NacksSent, NacksReceived uint64

	ThirdNode uint64     // messages from nodes that are not our peer
	Third     netip.Addr // the last of those nodes

	Transmit, Resend int // queue lengths
	Waiting          int // objects that are not to be sent yet
	ResendLimit      int
	Controls         int // queued control messages
}

// None is the Deadline of a machine that has no timer running.
const None = time.Duration(1<<63 - 1)

// Times and sizes of the protocol. aliveInterval is the C daemon's, the others are ours.
const (
	// aliveInterval is the longest time without a message, and the longest delay of an
	// acknowledgement.
	aliveInterval = time.Second
	// resyncInterval is the least time between two requests for a resync. It doubles
	// with every request, up to maxResyncInterval, until a bulk is complete.
	// maxResyncInterval is also the longest time that a bulk may take.
	resyncInterval    = 5 * time.Second
	maxResyncInterval = time.Minute
	// bulkInterval is the least time between the starts of two bulks.
	bulkInterval = 5 * time.Second
	// peerSilence is how long a peer has to be silent before another node can replace
	// it.
	peerSilence = 10 * time.Second
	// helloPause is the longest time between two messages of a node that sends HELLO.
	helloPause = 2 * time.Second
	// lateTime is longer than any message is in transit.
	lateTime = 3 * time.Second
	// restartRun late messages in sequence, over restartTime, mean that the peer has
	// started again and its HELLO was lost.
	restartRun  = 3
	restartTime = 2 * time.Second
	// stuckTime is how long a message may stay unacknowledged while later ones
	// are acknowledged.
	stuckTime = 10 * time.Second
	// bulkWindow is the most unacknowledged messages with which a bulk continues.
	bulkWindow = 4096
	// maxControls bounds the control messages that wait for transmission.
	maxControls = 4096
)

// bulk is the state of sending everything, and limits how often that happens.
type bulk struct {
	wanted bool          // requested or needed, and not begun yet
	due    time.Duration // not before

	number  wire.Seq // of the last bulk; different for each process
	running bool     // until its end is queued (Stream: sent), or it has failed
	queued  bool     // the owner has called Bulk for all objects
	left    int      // its objects that are not acknowledged
	ending  bool     // its end is queued; Stream
	failed  bool     // some were given up
	// overflown: some were given up because the resend queue was full. shrink counts
	// the bulks in a row that failed for this reason.
	overflown bool
	shrink    int
	// dropped: objects that the peer holds were dropped since the bulk began.
	dropped bool
}

// want records that a peer needs everything. It returns BulkWanted if the bulk can begin
// at once.
func (b *bulk) want(now time.Duration) Events {
	b.wanted = true
	return b.tick(now)
}

func (b *bulk) tick(now time.Duration) Events {
	if !b.wanted || b.running || now < b.due {
		return 0
	}
	b.wanted = false
	b.due = now + bulkInterval
	return BulkWanted
}

// deadline returns when tick is due.
func (b *bulk) deadline() time.Duration {
	if !b.wanted || b.running {
		return None
	}
	return b.due
}
