package nl

// The numbers of linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h and
// nf_conntrack_common.h that this package speaks. They are ABI: equal on every
// architecture, never renumbered. They keep the kernel's order so that a reader
// can hold the header beside them.

// Netlink subsystems: the high byte of a message type.
const (
	subsysConntrack = 1
	subsysExpect    = 2
)

// Type is a whole netlink message type: subsystem<<8 | message.
type Type uint16

// Message types of the conntrack and expectation subsystems
// (ipctnl_msg_types, ctnl_exp_msg_types).
const (
	TypeFlowNew            Type = subsysConntrack << 8
	TypeFlowGet            Type = subsysConntrack<<8 | 1
	TypeFlowDelete         Type = subsysConntrack<<8 | 2
	TypeFlowGetZero        Type = subsysConntrack<<8 | 3
	TypeFlowStatsCPU       Type = subsysConntrack<<8 | 4
	TypeFlowStats          Type = subsysConntrack<<8 | 5
	TypeFlowGetDying       Type = subsysConntrack<<8 | 6
	TypeFlowGetUnconfirmed Type = subsysConntrack<<8 | 7

	TypeExpectNew      Type = subsysExpect << 8
	TypeExpectGet      Type = subsysExpect<<8 | 1
	TypeExpectDelete   Type = subsysExpect<<8 | 2
	TypeExpectStatsCPU Type = subsysExpect<<8 | 3
)

// Address families as nfgenmsg and the tables use them. They are Linux's
// AF_UNSPEC, AF_INET and AF_INET6.
const (
	FamilyUnspec = 0
	FamilyIPv4   = 2
	FamilyIPv6   = 10
)

// Layer-4 protocol numbers that conntrack knows by name (IANA).
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoGRE     = 47
	ProtoICMPv6  = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// Bits of Flow.Status (enum ip_conntrack_status).
const (
	StatusExpected     = 0x1
	StatusSeenReply    = 0x2
	StatusAssured      = 0x4
	StatusConfirmed    = 0x8
	StatusSrcNAT       = 0x10
	StatusDstNAT       = 0x20
	StatusSeqAdjust    = 0x40
	StatusSrcNATDone   = 0x80
	StatusDstNATDone   = 0x100
	StatusDying        = 0x200
	StatusFixedTimeout = 0x400
	StatusTemplate     = 0x800
	StatusHelper       = 0x2000
	StatusOffload      = 0x4000
	StatusHWOffload    = 0x8000
)

// Bits of TCPFlags (nf_conntrack_tcp.h).
const (
	TCPFlagWindowScale = 0x1
	TCPFlagSACK        = 0x2
	TCPFlagCloseInit   = 0x4
	TCPFlagBeLiberal   = 0x8
)

// MaxWindowScale is the largest window scale RFC 7323 section 2.3 allows. Older
// kernels take larger ones over netlink and then shift out of range.
const MaxWindowScale = 14

// Attribute numbers, top level (enum ctattr_type).
const (
	ctaTupleOrig      = 1
	ctaTupleReply     = 2
	ctaStatus         = 3
	ctaProtoinfo      = 4
	ctaHelp           = 5
	ctaNATSrc         = 6
	ctaTimeout        = 7
	ctaMark           = 8
	ctaCountersOrig   = 9
	ctaCountersReply  = 10
	ctaUse            = 11
	ctaID             = 12
	ctaNATDst         = 13
	ctaTupleMaster    = 14
	ctaSeqAdjOrig     = 15
	ctaSeqAdjReply    = 16
	ctaSecmark        = 17
	ctaZone           = 18
	ctaSecctx         = 19
	ctaTimestamp      = 20
	ctaMarkMask       = 21
	ctaLabels         = 22
	ctaLabelsMask     = 23
	ctaSynproxy       = 24
	ctaFilter         = 25
	ctaStatusMask     = 26
	ctaTimestampEvent = 27
)

// Attribute numbers inside the nests.
const (
	ctaTupleIP    = 1
	ctaTupleProto = 2
	ctaTupleZone  = 3

	ctaIPv4Src = 1
	ctaIPv4Dst = 2
	ctaIPv6Src = 3
	ctaIPv6Dst = 4

	ctaProtoNum        = 1
	ctaProtoSrcPort    = 2
	ctaProtoDstPort    = 3
	ctaProtoICMPID     = 4
	ctaProtoICMPType   = 5
	ctaProtoICMPCode   = 6
	ctaProtoICMPv6ID   = 7
	ctaProtoICMPv6Type = 8
	ctaProtoICMPv6Code = 9

	ctaProtoinfoTCP  = 1
	ctaProtoinfoDCCP = 2
	ctaProtoinfoSCTP = 3

	ctaTCPState       = 1
	ctaTCPWScaleOrig  = 2
	ctaTCPWScaleReply = 3
	ctaTCPFlagsOrig   = 4
	ctaTCPFlagsReply  = 5

	ctaDCCPState        = 1
	ctaDCCPRole         = 2
	ctaDCCPHandshakeSeq = 3

	ctaSCTPState     = 1
	ctaSCTPVtagOrig  = 2
	ctaSCTPVtagReply = 3

	ctaCountersPackets   = 1
	ctaCountersBytes     = 2
	ctaCounters32Packets = 3
	ctaCounters32Bytes   = 4

	ctaTimestampStart = 1
	ctaTimestampStop  = 2

	ctaNATv4Min = 1
	ctaNATv4Max = 2
	ctaNATProto = 3
	ctaNATv6Min = 4
	ctaNATv6Max = 5

	ctaProtoNATPortMin = 1
	ctaProtoNATPortMax = 2

	ctaSeqAdjPos    = 1
	ctaSeqAdjBefore = 2
	ctaSeqAdjAfter  = 3

	ctaSynproxyISN   = 1
	ctaSynproxyITS   = 2
	ctaSynproxyTSOff = 3

	ctaHelpName = 1
	ctaHelpInfo = 2

	ctaSecctxName = 1

	ctaFilterOrigFlags  = 1
	ctaFilterReplyFlags = 2
)

// Attribute numbers of expectations (enum ctattr_expect, ctattr_expect_nat).
const (
	ctaExpectMaster   = 1
	ctaExpectTuple    = 2
	ctaExpectMask     = 3
	ctaExpectTimeout  = 4
	ctaExpectID       = 5
	ctaExpectHelpName = 6
	ctaExpectZone     = 7
	ctaExpectFlags    = 8
	ctaExpectClass    = 9
	ctaExpectNAT      = 10
	ctaExpectFn       = 11

	ctaExpectNATDir   = 1
	ctaExpectNATTuple = 2
)

// Bits of CTA_FILTER's ORIG_FLAGS and REPLY_FLAGS: which fields of the request's
// tuple take part in the comparison.
const (
	filterIPSrc      = 1 << 0
	filterIPDst      = 1 << 1
	filterZone       = 1 << 2
	filterProtoNum   = 1 << 3
	filterSrcPort    = 1 << 4
	filterDstPort    = 1 << 5
	filterICMPType   = 1 << 6
	filterICMPCode   = 1 << 7
	filterICMPID     = 1 << 8
	filterICMPv6Type = 1 << 9
	filterICMPv6Code = 1 << 10
	filterICMPv6ID   = 1 << 11
)
