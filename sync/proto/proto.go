package proto

import (
	"net/netip"
	"time"

	"ctbox/sync/wire"
)

// Table says which of the owner's internal caches an object is in.
type Table uint8

// The tables.
const (
	Flows Table = iota
	Expects
)

// Object names an object of the owner's internal caches. The low 32 bits of
// Handle number its slot, which no other object of the table has as long as the
// machine may refer to it, and which is below 2^30; the rest is the owner's.
type Object struct {
	Table  Table
	Handle uint64
}

// Send is a message that Next tells the owner to transmit.
type Send struct {
	// Header is complete for a control message. For an object its Type is for
	// the owner to fill in, from what its cache holds now: new, update or
	// delete.
	Header wire.Header
	// Control tells control messages from objects; without it Object is what
	// to encode.
	Control bool
	Object  Object
	// Notice is the body of an ALIVE; an empty one is none.
	Notice wire.Notice
}

// Verdict is what to do with a received message.
type Verdict uint8

// The verdicts. A message with Apply or Handled makes its link the current one.
const (
	Apply     Verdict = iota // data: decode it and change the external cache
	Handled                  // control: done
	Ignore                   // late, a duplicate, or not from our peer: counted in Stats
	BadHeader                // malformed: count wire.Counters.BadHeader
	BadType                  // malformed: count wire.Counters.BadType
)

// Events are what the owner has to do besides, or to log.
type Events uint8

// The events.
const (
	// BulkWanted: send everything, as the peer has asked for or needs. The owner
	// calls BeginBulk, Bulk for each object, first flows then expectations, and
	// EndBulk, in one go or in slices.
	BulkWanted Events = 1 << iota
	// ResyncReceived: the peer asked for everything ("resync requested by other
	// node"). BulkWanted may come later, to limit the rate, or have come already.
	ResyncReceived
	// ResyncSent: we ask the peer for everything, by ourselves.
	ResyncSent
	// BulkBegan and BulkComplete enclose everything that the peer has. What the
	// external caches hold and was not told again between the two is gone at the
	// peer and is to be removed, if Sweep believes it.
	BulkBegan
	BulkComplete
	// PeerStarted: the peer has just started, or another has taken its place.
	PeerStarted
	// ThirdNode: a node that is not our peer takes part; Stats.Third says which.
	// Reported once for each.
	ThirdNode
	// BulkUnasked comes with BulkComplete: nobody here asked for the bulk, and no start
	// let expect it. It may be the peer's operator's (-B), or not the peer's at all.
	BulkUnasked
)

// Machine is the protocol of one mode.
type Machine interface {
	// Changed, Deleted and Dropped report changes of the internal caches.
	Changed(o Object)
	Deleted(o Object)
	Dropped(o Object)
	// Withheld takes back the message of the object that Next returned last, which
	// could not be encoded or must not be sent. Its number is used again.
	Withheld(o Object)
	// NextReleased returns an object that was Deleted and whose slot is free
	// now. The owner calls it until there is none, after Receive, Tick and Next.
	NextReleased() (Object, bool)

	// SetIncomplete says how many events of the kernel are lost and not yet made up
	// for, 0 for none. Where a mode has ALIVEs, they announce it: a change of it at
	// once, what stands every second.
	SetIncomplete(now time.Duration, lost uint32)

	// RequestResync asks the peers for everything.
	RequestResync(now time.Duration)
	// BeginBulk, Bulk and EndBulk tell the peers everything. BeginBulk returns
	// false where a bulk is already on its way, which BulkWanted then follows, or
	// where the mode has none.
	BeginBulk(now time.Duration) bool
	Bulk(o Object)
	EndBulk()

	// Receive judges a message that came over the link with that number, from
	// that address.
	Receive(now time.Duration, link int, from netip.Addr, h wire.Header) (Verdict, Events)
	// Tick does what is due at now. It may be called at any time.
	Tick(now time.Duration) Events
	// Deadline is when Tick has something to do, if nothing else happens before.
	Deadline() time.Duration

	// Next returns the next message to transmit, if there is one that may be sent
	// now.
	Next() (Send, bool)
	// Pending is how many messages Next has to give now.
	Pending() int
	// Sent reports that everything that Next gave is on its way.
	Sent(now time.Duration)

	// Stats returns the machine's counters and sizes.
	Stats() Stats
}

// Stats are a machine's counters since it was made, and the sizes of its queues.
type Stats struct {
	Lost   uint64 // messages that the sequence numbers say are missing
	Before uint64 // late messages and duplicates

	Resent  uint64 // messages queued again because the peer missed them
	GivenUp uint64 // messages dropped from the full resend queue unacknowledged
	Resyncs uint64 // times we asked for everything
	Bulks   uint64 // times we told everything

	// Ranges reported missing, to the peer and by it.
	NacksSent, NacksReceived uint64

	ThirdNode uint64     // messages from nodes that are not our peer
	Third     netip.Addr // the last of those nodes

	Transmit, Resend int // queue lengths
	ResendLimit      int
	Controls         int // control messages that are queued
}

// None is the Deadline of a machine that waits for nothing.
const None = time.Duration(1<<63 - 1)

// Times and sizes of the protocol. The first is the C daemon's, the others are ours.
const (
	// aliveInterval is how long a node keeps silent, and how long it lets its
	// peer wait for an acknowledgement.
	aliveInterval = time.Second
	// resyncInterval is the least time between two requests for a resync; it
	// doubles with every one that does not end well. maxResyncInterval is also
	// how long a bulk that has begun may take to its end.
	resyncInterval    = 5 * time.Second
	maxResyncInterval = time.Minute
	// bulkInterval is the least time between the starts of two bulks.
	bulkInterval = 5 * time.Second
	// peerSilence is how long a peer has to be silent before another address
	// can take its place.
	peerSilence = 10 * time.Second
	// helloPause is the most between two messages of a node that says HELLO.
	helloPause = 2 * time.Second
	// lateTime is longer than a message can be under way.
	lateTime = 3 * time.Second
	// restartRun and restartTime are how many late messages in sequence, over
	// how long, mean that the peer counts anew and we missed its start.
	restartRun  = 3
	restartTime = 2 * time.Second
	// stuckTime is how long a message may stay unacknowledged while later ones
	// are acknowledged.
	stuckTime = 10 * time.Second
	// bulkWindow is how many messages may be unacknowledged for a bulk to go on.
	bulkWindow = 4096
	// maxControls bounds the control messages that wait for transmission.
	maxControls = 4096
)

// bulk is the sending of everything, and limits how often that happens.
type bulk struct {
	wanted bool          // by a peer, but not begun yet
	due    time.Duration // not before

	number  wire.Seq // of the last one that began; another life of ours has others
	running bool     // until its end is queued, or it has failed
	told    bool     // the owner has told all objects
	left    int      // objects of it that are not acknowledged
	failed  bool     // some never will be
	// overflown: they had to make room in the resend queue. shrink is how often in
	// a row a bulk failed so.
	overflown bool
	shrink    int
	// dropped: since its beginning objects were dropped that the peer holds.
	dropped bool
}

// want notes that a peer needs everything. It returns BulkWanted when that can
// begin at once.
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

// deadline is when tick has something to do.
func (b *bulk) deadline() time.Duration {
	if !b.wanted || b.running {
		return None
	}
	return b.due
}
