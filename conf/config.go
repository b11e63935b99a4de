package conf

import (
	"net/netip"
	"slices"
	"time"

	"ctbox/nl/ctnetlink"
)

// Config is a parsed file, with the defaults of everything that it leaves out.
// It is made by Parse or Default, is not copied, and once made may be read by
// several goroutines.
type Config struct {
	File string // the name given to Parse, for messages

	General General
	Sync    *Sync   // nil without a Sync clause: no replication
	Stats   *Stats  // nil without a Stats clause; never beside Sync
	Helper  *Helper // nil without a Helper clause
	Exports []*Export

	pos map[any]Pos // where fields were set, by the pointer to the field
}

// Where returns the place at which the file sets a field, and reports whether it sets the
// field at all. field is a pointer to a field of c (&c.General.HashSize), or the *Sync,
// *Stats, *Helper, *Link or *HelperType itself for the place of its clause.
func (c *Config) Where(field any) (Pos, bool) {
	pos, ok := c.pos[field]
	return pos, ok
}

// General is the General clause.
type General struct {
	HashSize  uint32 // buckets of every cache in conntrack-tools; a hint here
	HashLimit uint32 // objects in a cache, at most

	LogFile   string    // absolute path, "" for none
	Syslog    Facility  // FacilityOff for none
	LogFormat LogFormat // of LogFile and the console
	LockFile  string    // absolute path
	UNIXPath  string    // path of the control socket; "" for none

	MetricsListen netip.AddrPort // of the HTTP server for metrics; the zero AddrPort for none

	NetlinkBufferSize          uint32        // bytes; 0 leaves the default
	NetlinkBufferSizeMaxGrowth uint32        // bytes
	NetlinkBufferSizeFixed     bool          // never exceed the two sizes above, as in conntrack-tools
	NetlinkOverrunResync       time.Duration // delay from a further overrun to the resynchronisation; 0: no resynchronisation
	NetlinkEventsReliable      bool
	PollInterval               time.Duration // period of polling; 0 for events
	EventIterationLimit        uint32        // events handled in a row

	Systemd   bool
	Scheduler Scheduler
	Filter    Filter
}

// EventBuffer returns the initial size of the event socket's buffer that the file asks for,
// 0 for the default; unused reports that the file gives a size that is not used.
func (g *General) EventBuffer() (size int, unused bool) {
	bounded := g.NetlinkBufferSizeMaxGrowth != 0 || g.NetlinkBufferSizeFixed
	if bounded && g.NetlinkBufferSize > g.NetlinkBufferSizeMaxGrowth {
		return 0, true
	}
	return int(g.NetlinkBufferSize), false
}

// LogFormat is the format of the daemon's log.
type LogFormat uint8

// The formats: lines as in conntrack-tools, or a JSON object per line.
const (
	LogText LogFormat = iota
	LogJSON
)

// Facility is the number of a syslog facility in syslog(3) (LOG_DAEMON is 3<<3), or
// FacilityOff.
type Facility uint8

// The facilities of conntrackd.conf; the local ones are FacilityLocal0 to FacilityLocal7, 8 apart.
const (
	FacilityOff    Facility = 0
	FacilityDaemon Facility = 3 << 3
	FacilityLocal0 Facility = 16 << 3
	FacilityLocal7 Facility = 23 << 3
)

// Scheduler is the Scheduler clause: a real-time policy of sched(7).
type Scheduler struct {
	Type     SchedulerType
	Priority uint32 // 0 to 99; sched(7) needs at least 1
}

// SchedulerType is the number of a policy in sched_setscheduler(2).
type SchedulerType uint8

// The two policies.
const (
	SchedulerFIFO SchedulerType = 1
	SchedulerRR   SchedulerType = 2
)

// Filter is the Filter clause. A flow must pass all its parts; a part with NoAction passes
// every flow.
type Filter struct {
	// Kernelspace: filter events in the kernel, on the event socket, by Protocol, Address and
	// State.
	Kernelspace bool

	Protocol struct {
		Action    Action
		Protocols ProtocolSet
	}
	// Address is matched against the original source and the reply source.
	Address struct {
		Action   Action
		Prefixes []netip.Prefix // masked, each once, in the file's order
	}
	// State concerns TCP flows only.
	State struct {
		Action Action
		States TCPStates
	}
	Mark struct {
		Action Action
		Marks  []Mark // each once, in the file's order
	}
	// Zone is matched against the zones that a flow was given, which may be of one direction;
	// a flow without any is in zone 0.
	Zone struct {
		Action Action
		Zones  []uint16 // each once, in the file's order
	}
}

// Mark is the marks m with m&Mask == Value.
type Mark struct{ Value, Mask uint32 }

// Active reports whether any part has an action.
func (f *Filter) Active() bool {
	return f.inKernel() || f.Mark.Action != NoAction || f.Zone.Action != NoAction
}

// InKernel reports whether the kernel is to filter events.
func (f *Filter) InKernel() bool { return f.Kernelspace && f.inKernel() }

// inKernel reports whether a part that the kernel can apply has an action.
func (f *Filter) inKernel() bool {
	return f.Protocol.Action != NoAction || f.Address.Action != NoAction || f.State.Action != NoAction
}

// Equal reports whether both filters let the same flows pass, in the same place.
func (f *Filter) Equal(g *Filter) bool {
	return f.Kernelspace == g.Kernelspace && f.Protocol == g.Protocol && f.State == g.State &&
		f.Address.Action == g.Address.Action && slices.Equal(f.Address.Prefixes, g.Address.Prefixes) &&
		f.Mark.Action == g.Mark.Action && slices.Equal(f.Mark.Marks, g.Mark.Marks) &&
		f.Zone.Action == g.Zone.Action && slices.Equal(f.Zone.Zones, g.Zone.Zones)
}

// Action is what a filter does with a flow on its list. An Accept filter drops all other
// flows, even if its list is empty.
type Action = ctnetlink.ListAction

// NoAction is the action of a filter that is not in the file.
const (
	NoAction = ctnetlink.NoList
	Accept   = ctnetlink.Accept
	Ignore   = ctnetlink.Ignore
)

// ProtocolSet is a set of layer 4 protocol numbers.
type ProtocolSet [4]uint64

// Add adds a protocol.
func (s *ProtocolSet) Add(protocol uint8) { s[protocol/64] |= 1 << (protocol % 64) }

// Has reports whether the protocol is in the set.
func (s *ProtocolSet) Has(protocol uint8) bool { return s[protocol/64]>>(protocol%64)&1 != 0 }

// TCPStates is a set of enum tcp_conntrack states (linux/netfilter/nf_conntrack_tcp.h),
// bit n for state n.
type TCPStates uint16

// Has reports whether the state is in the set.
func (s TCPStates) Has(state uint8) bool { return state < 16 && s>>state&1 != 0 }

// Sync is the Sync clause.
type Sync struct {
	Mode Mode

	ResendQueueSize uint32 // ModeFTFW: messages kept until acknowledged
	ACKWindowSize   uint32 // ModeFTFW: messages between acknowledgements

	RefreshTime  time.Duration // ModeALARM: base of the period in which a state is sent again
	CacheTimeout time.Duration // ModeALARM: life of an external entry that is not refreshed

	CommitTimeout time.Duration // timeout of committed flows; 0: the rest of their own
	PurgeTimeout  time.Duration // from conntrackd -t to the flush of the kernel's table

	DisableInternalCache bool // ModeNOTRACK
	DisableExternalCache bool // ModeFTFW, ModeNOTRACK
	StartupResync        bool // ModeFTFW, ModeNOTRACK: ask the peer for everything at start

	Delay Delay
	Ready Ready

	Links []*Link // at most MaxLinks, all of one Transport, exactly one Default unless empty

	Cluster *Cluster // nil without the clause; ModeFTFW over UDP links only

	TCPWindowTracking bool
	ExpectationSync   bool
	// ExpectationHelpers limits ExpectationSync to these helpers; empty for all helpers.
	// A name is compared without regard to case and matches every helper whose name
	// starts with it: sip matches sip-5060.
	ExpectationHelpers []string
}

// Delay is the Delay clause: how long a new flow waits before it is replicated. The zero
// value delays nothing.
type Delay struct {
	TCP, UDP, Default time.Duration // by protocol, at most MaxDelay; 0 for none
	MinPackets        uint32        // a flow with so many packets does not wait; 0: packets do not count
	Assured           bool          // an assured flow does not wait
}

// MaxDelay is the longest that a flow waits.
const MaxDelay = time.Hour

// Active reports whether any flow waits.
func (d *Delay) Active() bool { return d.TCP > 0 || d.UDP > 0 || d.Default > 0 }

// Ready is the Ready clause: when the node may take over. Without the clause it has the
// defaults and no File.
type Ready struct {
	File       string        // absolute path, "" for none
	Weight     uint32        // 1 to 253; File has 0 or -Weight
	MaxLag     time.Duration // at least a second, as the two below
	StartGrace time.Duration
	GiveUp     time.Duration // 0 for never
}

// Cluster is the Cluster clause: the nodes that version 2 of the protocol runs between, and
// their keys.
type Cluster struct {
	Name       string // 1 to 63 of A-Z a-z 0-9 _ . -
	Node       uint8  // this node's number, 1 to MaxNode
	NodeName   string // as Name
	Peers      []ClusterPeer
	Keys       []ClusterKey
	Send       uint8 // the number of the key that seals; 0 without Keys: nothing is sealed
	AllowPlain bool  // accept datagrams that are not sealed, too
	HotStandby bool  // the peers' flows are in this node's kernel, too
}

// ClusterPeer is another node of the cluster.
type ClusterPeer struct {
	Number    uint8        // 1 to MaxNode, not Cluster.Node
	Name      string       // as Cluster.Name
	Addresses []netip.Addr // for each of Links in their order: the peer's address on it
	Port      uint16       // 0 for the port of each link
}

// ClusterKey is a key of the cluster, which all nodes have under its number.
type ClusterKey struct {
	Number uint8  // 1 to 255
	File   string // absolute path
}

// The limits of a Cluster.
const (
	MaxNode        = 16
	MaxPeers       = 15
	MaxClusterKeys = 16
)

// Mode is a replication protocol.
type Mode uint8

// ModeFTFW is the mode of a Sync clause without a Mode.
const (
	ModeFTFW Mode = iota
	ModeALARM
	ModeNOTRACK
)

// MaxLinks is the largest number of dedicated links in a file.
const MaxLinks = 4

// Link is a dedicated link: a Multicast, UDP or TCP clause. An address that the file does
// not give, or gives wrongly, is the zero Addr.
type Link struct {
	Transport Transport
	Default   bool // the link to start with

	Interface   string     // "" if missing
	Address     netip.Addr // Multicast: the group. UDP, TCP: the local address, zero for any
	Local       netip.Addr // Multicast: the IPv4 address of the interface
	Destination netip.Addr // UDP, TCP: the peer
	Port        uint16     // Group of Multicast, Port of UDP and TCP; 0 if missing

	Accept []netip.Prefix // UDP, TCP: where messages may come from besides Destination and Also; masked
	Also   []netip.Addr   // UDP: other peers

	SndSocketBuffer  uint32 // bytes; 0 leaves the system's default
	RcvSocketBuffer  uint32 // bytes; 0 leaves the system's default
	Checksum         bool   // Multicast, UDP: fill in the UDP checksum
	ErrorQueueLength uint32 // TCP: buffers kept while the peer is away
}

// Is6 reports whether the link runs over IPv6. The family is that of Destination if the
// link has one, otherwise that of Address.
func (l *Link) Is6() bool {
	if l.Destination.IsValid() {
		return l.Destination.Is6()
	}
	return l.Address.Is6()
}

// Transport is how a link carries messages.
type Transport uint8

// The names are those of the clauses.
const (
	Multicast Transport = iota
	UDP
	TCP
)

// String returns the name of the transport's clause.
func (t Transport) String() string { return [...]string{"Multicast", "UDP", "TCP"}[t] }

// Stats is the Stats clause.
type Stats struct {
	LogFile string   // absolute path, "" for none
	Syslog  Facility // FacilityOff for none; if General has one too, that one
}

// Export is an Export clause: where records of flows go, and which.
type Export struct {
	Format ExportFormat

	// The destination, one of these (Problem): the first of ExportIPFIX, the others of
	// ExportJSON.
	Collector netip.Addr
	File      string // absolute path, "-" for standard output
	Socket    string // absolute path of a Unix socket
	Syslog    netip.Addr

	Port uint16 // of Collector or Syslog; 0 for the usual one (Destination)
	TCP  bool   // else UDP

	Records      ExportRecords
	Destinations bool // of translated flows

	Domain          uint32 // ExportIPFIX
	Enterprise      uint32 // ExportIPFIX; 0 for none
	TemplateRefresh time.Duration
	ActiveTimeout   time.Duration // 0 for never
	QueueLimit      uint32        // records
	Filter          Filter
}

// ExportFormat is the form of records.
type ExportFormat uint8

// The forms.
const (
	ExportIPFIX ExportFormat = iota
	ExportJSON
)

// ExportRecords is a set of kinds of records.
type ExportRecords uint8

// The kinds.
const (
	ExportNAT ExportRecords = 1 << iota
	ExportFlows
)

// Helper is the Helper clause.
type Helper struct {
	Setup bool          // create the kernel's helper objects; otherwise they must exist
	Types []*HelperType // in the file's order; conntrack-tools sets them up from the last to the first
}

// HelperType is a Type clause: a user-space helper and its queue.
type HelperType struct {
	Name     string
	IPv6     bool  // inet6, otherwise inet
	Protocol uint8 // IPPROTO_TCP or IPPROTO_UDP

	QueueNum uint16 // NFQUEUE number
	QueueLen uint32 // packets that may wait; 0 leaves the kernel's default of 1024

	// Policies are all policies of the helper, with its defaults where the file has no
	// Policy clause. A Policy clause applies to every Type of that name and protocol.
	Policies []HelperPolicy
}

// HelperPolicy limits the expectations of a helper.
type HelperPolicy struct {
	Name          string        // the kernel's name of the class, at most 16 bytes
	ExpectMax     uint32        // simultaneous expectations of a flow, 1 to 255
	ExpectTimeout time.Duration // life of an expectation, whole seconds
}
