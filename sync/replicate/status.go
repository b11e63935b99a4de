package replicate

import (
	"net/netip"
	"sort"
	"time"

	"ctbox/sync/cache"
	"ctbox/sync/link"
	"ctbox/sync/proto"
	"ctbox/sync/wire"
)

// Status is all numbers of a Replicator at one moment.
type Status struct {
	Links   []LinkStatus // in the configuration's order
	Wire    WireStatus
	Queues  QueuesStatus
	Peers   []PeerStatus // by address
	Replica ReplicaStatus
	Cluster ClusterStatus
}

// ClusterStatus is version 2 of the protocol.
type ClusterStatus struct {
	Version  uint8 // of the protocol that is spoken; 0 without a Cluster clause
	Name     string
	Node     uint8
	NodeName string
	Key      uint8 // the number of the key that seals; 0: what is sent is plain
	// AllowPlain: plain datagrams are accepted although there are keys.
	AllowPlain bool
	Nodes      int // that the clause names, this one included
	// Primary: this node is primary, as its datagrams say. Primaries counts the nodes that are,
	// this one included; of the peers only those that are heard.
	Primary   bool
	Primaries int
	Refused   []Refused // datagrams from addresses of no peer, by reason
}

// Refused counts datagrams that were refused for one reason. The reasons are words.
type Refused struct {
	Reason    string
	Datagrams uint64
}

// LinkStatus is one dedicated link.
type LinkStatus struct {
	Transport link.Transport
	Interface string
	State     link.State
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

// WireStatus counts messages that were refused, and what the sequence numbers show.
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

// PeerStatus is what was heard of one peer.
type PeerStatus struct {
	Addr        netip.AddrPort // port 0: C daemons send from any
	LastMessage time.Duration  // since its last message
	Messages    uint64         // received, good ones
	Ignored     bool           // FT-FW is for two nodes, and this is a third one
	Incomplete  uint64         // events of its kernel that it has lost and not yet made up for, as it says

	// What its notices say about the way from this node to it. C daemons do not Answer.
	Answers   bool
	OneWay    bool      // it hears nothing from this node
	Path      PathState // whether packets of PathBytes arrive
	PathBytes int
	CTBox     bool   // FT-FW: it has shown that it is not a C daemon
	Gaps      int    // FT-FW: gaps in what it sent that are not repaired yet
	Lacks     string // why this node is not in sync with it, "" if it is; node.Status sets it

	Member *MemberStatus // of version 2; nil for a peer of version 1
}

// MemberStatus is what a node knows of a peer that speaks version 2. A peer with several
// addresses has one.
type MemberStatus struct {
	Node    uint8
	Name    string
	Version uint8
	Key     uint8 // of its last datagram; 0 for a plain one
	// InSync, Promotable and Primary are what it says of itself.
	InSync, Promotable, Primary bool
	Refused                     []Refused

	// Equal: the peer's tables and this node's copy were equal at the last comparison of their
	// digests. Proven: they were equal once, LastEqual ago.
	Equal, Proven bool
	LastEqual     time.Duration
	Unproven      uint64 // changes by the peer that were applied since its tables were last equal
	Differences   uint64 // times that tables differed that had been equal
	Repaired      uint64 // entries that were fetched again or removed
	Skipped       uint64 // digests and answers that could not be compared, because messages were missing
	RepairBytes   uint64 // of the messages that have found the differences
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
	Waiting uint64        // flows that are not to be sent yet (Delay)
}

// Status returns the numbers of this moment. They are a copy.
func (r *Replicator) Status() Status {
	m := r.stats()
	s := Status{Links: r.links.status(), Wire: WireStatus{Received: r.received, Lost: m.Lost, Before: m.Before}, Replica: r.replica}
	s.Replica.Resent, s.Replica.GivenUp = m.Resent, m.GivenUp
	s.Replica.ResyncsAsked, s.Replica.ThirdNode = m.Resyncs, m.ThirdNode
	s.Replica.NacksSent, s.Replica.NacksRecv = m.NacksSent, m.NacksReceived
	s.Replica.Lag = r.lag()
	s.Replica.Pending, s.Replica.Unacked, s.Replica.Waiting = uint64(m.Transmit), uint64(m.Resend), uint64(m.Waiting)
	s.Peers = r.Peers()
	s.Queues = r.queues(&m)
	r.cluster.fillStatus(&s)
	return s
}

// Peers returns what was heard of each peer, by address.
func (r *Replicator) Peers() (all []PeerStatus) {
	for addr, p := range r.peers {
		peer := PeerStatus{Addr: netip.AddrPortFrom(addr, 0), Messages: p.messages,
			LastMessage: r.sched.Now() - p.last, Ignored: p.ignored,
			Incomplete: uint64(p.incomplete), Answers: p.way.answers, OneWay: p.way.oneWay, Path: p.way.path,
			PathBytes: r.packetLen(p.way.size)}
		peer.Member = r.cluster.memberStatus(p.node)
		r.fillReady(&peer)
		all = append(all, peer)
	}
	// slices.SortFunc costs 16 kB for each type.
	sort.Slice(all, func(i, j int) bool { return all[i].Addr.Compare(all[j].Addr) < 0 })
	return all
}

// stats returns the numbers of the machine, whose counters go on from those before it.
func (r *Replicator) stats() proto.Stats {
	m, p := r.machine.Stats(), &r.past
	m.Lost += p.Lost
	m.Before += p.Before
	m.Resent += p.Resent
	m.GivenUp += p.GivenUp
	m.Resyncs += p.Resyncs
	m.Bulks += p.Bulks
	m.NacksSent += p.NacksSent
	m.NacksReceived += p.NacksReceived
	m.ThirdNode += p.ThirdNode
	return m
}

// Forwarded returns what was forwarded where there is no internal cache.
func (r *Replicator) Forwarded() (flows, expects cache.TableStatus) {
	return r.forwarded.flows, r.forwarded.expects
}

// queues returns the protocol's queues, newest made first as conntrack-tools has them.
func (r *Replicator) queues(m *proto.Stats) QueuesStatus {
	q := QueuesStatus{Nodes: uint64(m.Controls)}
	q.Queues = append(q.Queues, QueueStatus{Name: "txqueue", Len: uint64(m.Transmit)})
	q.Queues = append(q.Queues, r.links.errorQueue())
	if r.ftfw != nil {
		q.Queues = append(q.Queues, QueueStatus{Name: "rsqueue", Len: uint64(m.Resend), Max: uint64(m.ResendLimit), NoSpace: m.GivenUp})
	}
	return q
}

// ResendQueue returns what the peer has not acknowledged yet, oldest first; ok is false
// where the mode has no such queue.
func (r *Replicator) ResendQueue() (queue []Resend, ok bool) {
	if r.ftfw == nil {
		return nil, false
	}
	for u := range r.ftfw.Unacknowledged() {
		queue = append(queue, Resend(u))
	}
	return queue, true
}
