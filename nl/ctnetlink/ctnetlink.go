// Package ctnetlink is the interface to the kernel's connection tracking: flows and
// expectations, their statistics, dumps, changes and events
// (linux/netfilter/nfnetlink_conntrack.h).
//
// flow.go and expect.go hold the types; decode.go and encode.go turn netlink
// attributes into them and back, without any I/O. The functions in table.go carry
// requests over an nl.Conn; changes are nl.Requests whose Attrs is (*Flow).Append or
// (*Expect).Append. Subscribe receives events.
//
// Byte order: payloads are in network order on the wire (labels and CTA_FILTER's
// flags are the exceptions); every value in this package's types is in host order.
package ctnetlink

import (
	"ctbox/nl"
	"encoding/binary"
)

// be and native are the two byte orders of ctnetlink: attribute payloads and headers.
var (
	be     = binary.BigEndian
	native = binary.NativeEndian
)

// The numbers of linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h and
// nf_conntrack_common.h that this package uses. They are ABI: equal on every
// architecture, never renumbered. They are in the kernel's order, for comparison with the
// header.

// Netlink subsystems: the high byte of a message type.
const (
	subsysConntrack = 1
	subsysExpect    = 2
)

// Message types of the conntrack and expectation subsystems
// (ipctnl_msg_types, ctnl_exp_msg_types).
const (
	TypeFlowNew            nl.Type = subsysConntrack << 8
	TypeFlowGet            nl.Type = subsysConntrack<<8 | 1
	TypeFlowDelete         nl.Type = subsysConntrack<<8 | 2
	TypeFlowGetZero        nl.Type = subsysConntrack<<8 | 3
	TypeFlowStatsCPU       nl.Type = subsysConntrack<<8 | 4
	TypeFlowStats          nl.Type = subsysConntrack<<8 | 5
	TypeFlowGetDying       nl.Type = subsysConntrack<<8 | 6
	TypeFlowGetUnconfirmed nl.Type = subsysConntrack<<8 | 7

	TypeExpectNew      nl.Type = subsysExpect << 8
	TypeExpectGet      nl.Type = subsysExpect<<8 | 1
	TypeExpectDelete   nl.Type = subsysExpect<<8 | 2
	TypeExpectStatsCPU nl.Type = subsysExpect<<8 | 3
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
