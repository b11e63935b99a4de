package node

import (
	"net/netip"
	"time"

	"ctbox/sync/sched"
	"ctbox/sync/wire"
)

// Mode is what a node does.
type Mode uint8

// The modes. ModeNone is a daemon without Sync and Stats clause: it runs helpers
// at most.
const (
	ModeNone Mode = iota
	ModeStats
	ModeFTFW
	ModeALARM
	ModeNOTRACK
)

// Sync reports whether the mode replicates.
func (m Mode) Sync() bool { return m >= ModeFTFW }

// Status is all numbers of a node at one moment. It is a copy: nothing in it
// changes after it was handed out. Counters count from the node's start.
type Status struct {
	Mode Mode
	// ExpectationSync says whether the tables of expectations are there.
	ExpectationSync bool

	Internal, External CacheStatus // External is empty in statistics mode

	Traffic  Traffic
	Links    []LinkStatus // in the configuration's order
	Wire     WireStatus
	Queues   QueuesStatus
	Kernel   KernelStatus
	Peers    []PeerStatus // by address
	Replica  ReplicaStatus
	Commits  CommitsStatus
	Tasks    []TaskStatus  // what runs beside the loop at this moment, the longest first
	Uptime   time.Duration // since the node's start
	TaskFail uint64        // tasks that ended with an error
}

// CacheStatus is one cache with its two tables.
type CacheStatus struct {
	Kind           CacheKind
	Flows, Expects TableStatus
}

// CacheKind says what stands where a cache would.
type CacheKind uint8

// A cache may be replaced: the internal one by a bypass (DisableInternalCache:
// kernel events are sent as they come), the external one by an injector
// (DisableExternalCache: what peers send goes to the kernel at once).
const (
	CacheAbsent CacheKind = iota
	CacheStored
	CacheBypass
	CacheInject
)

// TableStatus counts what happened to a table. Active, Objects, NoSpace and Bytes
// are for CacheStored. CreateFailed counts for CacheInject too; UpdateFailed and
// DestroyFailed only there: a cache's updates do not fail.
type TableStatus struct {
	Active  uint64 // objects that are not dead
	Objects uint64 // all objects
	Limit   uint64 // HashLimit; 0 for none
	Bytes   uint64 // memory of the objects and their index

	Created, CreateFailed    uint64
	NoSpace                  uint64 // the part of CreateFailed that met the limit
	Updated, UpdateFailed    uint64
	Destroyed, DestroyFailed uint64
}

// Traffic sums both directions of ended flows that were cached; it needs
// net.netfilter.nf_conntrack_acct.
type Traffic struct{ Bytes, Packets uint64 }

// Transport is how a link carries messages.
type Transport uint8

// The transports, with the names of the configuration's clauses.
const (
	Multicast Transport = iota
	UDP
	TCP
)

// LinkState is the state of a link's interface.
type LinkState uint8

// Down: not IFF_UP (or not there). NoCarrier: up without IFF_RUNNING.
const (
	LinkDown LinkState = iota
	LinkNoCarrier
	LinkRunning
)

// LinkStatus is one dedicated link.
type LinkStatus struct {
	Transport Transport
	Interface string
	State     LinkState
	Active    bool // this link is the one that is used; the others wait

	// Of TCP: whether the peer is connected to us, and we to it.
	ServerConnected, ClientConnected bool

	BytesSent, BytesRecv     uint64
	PacketsSent, PacketsRecv uint64
	ErrorsSent, ErrorsRecv   uint64
	// Refused counts what came from a source that the configuration does not
	// name; it is no part of the numbers above.
	Refused uint64

	Heard       bool          // a good message has come over it
	LastMessage time.Duration // if Heard: since the last
}

// WireStatus counts messages that were refused, and what sequence numbers tell.
type WireStatus struct {
	Received wire.Counters
	Lost     uint64 // messages that never came
	Before   uint64 // messages that came again, or too late
}

// QueuesStatus is the queues and what is in them.
type QueuesStatus struct {
	Nodes  uint64 // elements of all queues that are no cached objects (control and error messages)
	Queues []QueueStatus
}

// QueueStatus is one queue. Names are those of conntrack-tools (txqueue, errorq,
// rsqueue); the order is that of its `-s queue`, newest made first.
type QueueStatus struct {
	Name    string
	Len     uint64
	Max     uint64 // elements that have room; 0 for no limit
	NoSpace uint64 // elements refused for want of room
}

// Resend is one element of FT-FW's resend queue: a control message, or an object
// of the internal cache.
type Resend struct {
	Control bool
	Seq     wire.Seq
	Flags   wire.Flags // of control messages
}

// KernelStatus counts what went over netlink.
type KernelStatus struct {
	Events        uint64 // received, filtered ones included
	Filtered      uint64
	UnknownEvents uint64 // of a type that means nothing here
	FailedEvents  uint64 // events that could not be read
	UnknownDumps  uint64
	Overruns      uint64 // times that the kernel had to drop events
	Lost          uint64 // events that the kernel dropped
	Missing       uint64 // lost events that no reading of the kernel's tables has made up yet
	Flushes       uint64 // of the kernel's tables, one a table
	Resyncs       uint64 // with the kernel's tables, one a table; not those of the start and of polling
	BufferSize    uint64 // of the event socket, bytes, as the kernel counts it
	LimitReached  uint64 // times that EventIterationLimit gave peers and commands a turn between events
}

// PeerStatus is what was heard of one peer.
type PeerStatus struct {
	Addr        netip.AddrPort // port 0: C daemons send from any
	LastMessage time.Duration  // since its last message
	Messages    uint64         // received, good ones
	Ignored     bool           // FT-FW is for two nodes, and this is a third one
	Incomplete  uint64         // events of its kernel that it has lost and not yet made up for, as it says
}

// ReplicaStatus is replication towards the peers, and what was asked for again.
type ReplicaStatus struct {
	Sent      uint64 // messages, states and expectations
	Received  uint64
	Resent    uint64 // messages sent again
	NacksSent uint64 // FT-FW: ranges reported missing, to the peer
	NacksRecv uint64 // and by it
	// ResyncsAsked and ResyncsServed count requests for everything, ours and
	// the peers'.
	ResyncsAsked, ResyncsServed uint64
	// EndedByPeer counts flows that were deleted from the kernel because the peer, which
	// has taken over, has ended them.
	EndedByPeer uint64
	// Unsaid counts messages that were not sent because the protocol has no place for
	// what the flow or expectation is, by reason.
	Unsaid    [wire.Reasons]uint64
	GivenUp   uint64 // messages that a peer missed and that could not be sent again
	ThirdNode uint64 // messages ignored because they came from a third FT-FW node

	Pending uint64        // changes that are not sent yet
	Lag     time.Duration // how long there have been some without a break; 0 without any
	Unacked uint64        // FT-FW: sent, and not acknowledged yet
}

// CommitsStatus is about commits.
type CommitsStatus struct {
	Count   uint64        // commits that ended
	Running bool          // one is under way
	Last    CommitResult  // the last that ended, if Count is not 0
	Age     time.Duration // since Last ended
}

// TaskStatus is a long piece of work that runs beside the loop, where
// conntrack-tools has a child process.
type TaskStatus struct {
	Type    sched.Kind
	Running time.Duration // since its start
	Done    uint64        // entries so far
}
