package ctnetlink

import "ctbox/nl"

// Attr is a bit of Flow.Has. Each bit is for one attribute that the kernel has sent, or that
// a request is to contain.
type Attr uint64

// Attributes of a flow. The tuples have presence bits of their own.
const (
	HasStatus Attr = 1 << iota
	HasStatusMask
	HasTimeout
	HasMark
	HasMarkMask
	HasUse
	HasID
	HasSecmark
	HasZone
	HasTCPState
	HasTCPWScaleOrig
	HasTCPWScaleReply
	HasTCPFlagsOrig
	HasTCPFlagsReply
	HasSCTPState
	HasSCTPVtagOrig
	HasSCTPVtagReply
	HasDCCPState
	HasDCCPRole
	HasDCCPHandshakeSeq
	HasCountersOrig
	HasCountersReply
	HasTimestampStart
	HasTimestampStop
	HasTimestampEvent
	HasSeqAdjOrig
	HasSeqAdjReply
	HasSynproxy
	HasNATSrc
	HasNATDst
	HasLabels
	HasLabelsMask
	HasHelper
	HasHelperInfo
	HasSecctx
)

// The attributes that only flows of one protocol have.
const (
	TCPAttrs  = HasTCPState | HasTCPWScaleOrig | HasTCPWScaleReply | HasTCPFlagsOrig | HasTCPFlagsReply
	SCTPAttrs = HasSCTPState | HasSCTPVtagOrig | HasSCTPVtagReply
	DCCPAttrs = HasDCCPState | HasDCCPRole | HasDCCPHandshakeSeq
)

// ForeignAttrs returns the attributes that flows of proto cannot have: a TCP state means
// nothing on a UDP flow.
func ForeignAttrs(proto uint8) Attr {
	switch proto {
	case ProtoTCP:
		return SCTPAttrs | DCCPAttrs
	case ProtoSCTP:
		return TCPAttrs | DCCPAttrs
	case ProtoDCCP:
		return TCPAttrs | SCTPAttrs
	}
	return TCPAttrs | SCTPAttrs | DCCPAttrs
}

// Addr is an IPv4 address in its first four bytes (the rest zero) or an IPv6
// address, in network order. The family is in the Tuple.
type Addr [16]byte

// TupleAttr is a bit of Tuple.Has.
type TupleAttr uint16

// Fields of a tuple that may be absent.
const (
	TupleSrc TupleAttr = 1 << iota
	TupleDst
	TupleProto
	TupleSrcPort
	TupleDstPort
	TupleICMPID
	TupleICMPType
	TupleICMPCode
	TupleZone
)

// TuplePorts and TupleICMP are the layer-4 fields that belong together, and
// TupleAddrs the two addresses.
const (
	TupleAddrs = TupleSrc | TupleDst
	TuplePorts = TupleSrcPort | TupleDstPort
	TupleICMP  = TupleICMPID | TupleICMPType | TupleICMPCode
)

// Tuple is one direction of a flow: who talks to whom (CTA_TUPLE_*). It is
// comparable; two tuples are equal when every present field is, provided that
// absent fields are zero, which the decoder guarantees.
type Tuple struct {
	Src, Dst Addr
	// SrcPort and DstPort are ports in host order. For GRE (version 1) they
	// hold the call keys, as the kernel keeps and sends them.
	SrcPort, DstPort uint16
	// ICMPID, ICMPType and ICMPCode serve both ICMP and ICMPv6; ICMPID is in
	// host order.
	ICMPID             uint16
	Zone               uint16 // zone of this direction only (CTA_TUPLE_ZONE)
	Has                TupleAttr
	Family             uint8 // nl.FamilyIPv4, nl.FamilyIPv6; nl.FamilyUnspec without addresses
	Proto              uint8
	ICMPType, ICMPCode uint8
}

// TCPFlags are the connection tracker's own flags of one direction: Value's bits
// count where Mask has them (struct nf_ct_tcp_flags).
type TCPFlags struct{ Value, Mask uint8 }

// Counters of one direction, present when nf_conntrack_acct is on.
type Counters struct{ Packets, Bytes uint64 }

// SeqAdj is the sequence number adjustment of one direction, made by helpers
// and SYNPROXY (CTA_SEQ_ADJ_*). The offsets are signed 32-bit numbers kept in
// their two's complement.
type SeqAdj struct{ CorrectionPos, OffsetBefore, OffsetAfter uint32 }

// Synproxy is what SYNPROXY needs to continue a flow (CTA_SYNPROXY).
type Synproxy struct{ ISN, ITS, TSOff uint32 }

// NAT is the address, and with HasPort the port, that a new flow's tuple is to
// be mapped to (CTA_NAT_SRC, CTA_NAT_DST). Requests only: the kernel answers
// with tuples.
type NAT struct {
	Addr    Addr
	Port    uint16 // host order, minimum and maximum of the range alike
	HasAddr bool
	HasPort bool
}

// LabelWords is the number of 32-bit words of the kernel's label bit field.
const LabelWords = 4

// MaxLabels is the number of labels a flow can carry.
const MaxLabels = LabelWords * 32

// Labels is the label bit field of a flow: label b is bit b%32 of word b/32.
// The kernel sends and takes the words in the machine's byte order (CTA_LABELS). On
// 64-bit big-endian kernels, whose bit field consists of 64-bit words, that makes label
// 3 of a connlabel rule number 35 here, as in conntrack-tools (docs/conntrack.md).
type Labels [LabelWords]uint32

// NameLen is the kernel's size of a helper's name, the final NUL included
// (NF_CT_HELPER_NAME_LEN).
const NameLen = 16

// Name is a short text such as a helper's name in a fixed array, so that a Flow
// stays free of pointers. It ends at the first NUL.
type Name [NameLen]byte

// Flow is one entry of the connection tracking table, or the attributes of a request about
// one. It is a value: everything common is in fixed arrays, so that a decoder can reuse one
// Flow for millions of entries.
//
// Every attribute may be absent. A field means something only when its bit in
// Has (or in the tuple's Has) is set; fields whose bit is clear are undefined. Integers are
// in host order.
type Flow struct {
	Has Attr

	Orig, Reply Tuple
	Master      Tuple // the flow this one is related to (CTA_TUPLE_MASTER)

	Status, StatusMask uint32 // Status… bits; the mask goes with dumps only
	Timeout            uint32 // seconds left
	Mark, MarkMask     uint32
	Use                uint32 // kernel references
	ID                 uint32 // opaque; not stable across kernels or nodes
	Secmark            uint32
	Zone               uint16 // zone of both directions

	TCPState                     uint8 // nl.TCPState… / enum tcp_conntrack
	TCPWScaleOrig, TCPWScaleRepl uint8
	TCPFlagsOrig, TCPFlagsReply  TCPFlags
	SCTPState                    uint8
	DCCPState, DCCPRole          uint8
	LabelsLen, LabelsMaskLen     uint8 // words present in Labels and LabelsMask
	SCTPVtagOrig, SCTPVtagReply  uint32
	DCCPHandshakeSeq             uint64
	CountersOrig, CountersReply  Counters
	TimestampStart               uint64 // nanoseconds since the epoch
	TimestampStop                uint64
	TimestampEvent               uint64 // when the kernel made this event
	SeqAdjOrig, SeqAdjReply      SeqAdj
	Synproxy                     Synproxy
	NATSrc, NATDst               NAT
	Labels, LabelsMask           Labels
	Helper                       Name

	// The rare variable-sized parts. A decoder reuses their memory.
	HelperInfo []byte // private data of a user-space helper (CTA_HELP_INFO)
	Secctx     []byte // security context, without the final NUL
}

// Reset makes f an empty flow and keeps the memory of its variable parts.
func (f *Flow) Reset() {
	f.Has = 0
	f.Orig = Tuple{}
	f.Reply = Tuple{}
	f.Master = Tuple{}
	f.HelperInfo = f.HelperInfo[:0]
	f.Secctx = f.Secctx[:0]
}

// Clone returns a copy of f that shares no memory with it.
func (f *Flow) Clone() Flow {
	c := *f
	c.HelperInfo = append([]byte(nil), f.HelperInfo...)
	c.Secctx = append([]byte(nil), f.Secctx...)
	return c
}

// FlowKey identifies a flow of one kernel, also among flows that have the same tuple one
// after the other. The id alone is not enough: it is a 32-bit hash, which two flows can share.
type FlowKey struct {
	Orig Tuple
	Zone uint16 // 0 without a zone
	ID   uint32 // 0 without an id
}

// Key returns the key of f, which must have the whole original tuple.
func (f *Flow) Key() FlowKey {
	k := FlowKey{Orig: f.Orig}
	if f.Has&HasZone != 0 {
		k.Zone = f.Zone
	}
	if f.Has&HasID != 0 {
		k.ID = f.ID
	}
	return k
}

// Family returns the address family of the flow's tuples: that of the original tuple if it has
// one, otherwise that of the reply.
func (f *Flow) Family() uint8 {
	if f.Orig.Family != nl.FamilyUnspec {
		return f.Orig.Family
	}
	return f.Reply.Family
}

// Proto returns the layer-4 protocol and whether it is known: that of the original tuple if it
// has one, otherwise that of the reply.
func (f *Flow) Proto() (proto uint8, known bool) {
	if f.Orig.Has&TupleProto != 0 {
		return f.Orig.Proto, true
	}
	return f.Reply.Proto, f.Reply.Has&TupleProto != 0
}

// HasPorts reports whether proto has two ports that tuples carry and that the
// conntrack command names sport and dport. GRE's keys are not counted as ports.
func HasPorts(proto uint8) bool {
	switch proto {
	case ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP, ProtoDCCP:
		return true
	}
	return false
}

// IsICMP reports whether proto is ICMP or ICMPv6.
func IsICMP(proto uint8) bool { return proto == ProtoICMP || proto == ProtoICMPv6 }

// invertedICMP maps an ICMP type to the type of its answer, and for ICMPv6 in
// the second table. Types that no answer belongs to are absent (RFC 792,
// RFC 4443, RFC 4620).
var (
	invertedICMP   = map[uint8]uint8{8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17}
	invertedICMPv6 = map[uint8]uint8{128: 129, 129: 128, 139: 140, 140: 139}
)

// NoICMPAnswer is what InvertICMPType returns for a type without an answer. The
// kernel refuses it.
const NoICMPAnswer = 255

// InvertICMPType returns the type that answers typ, proto being ProtoICMP or
// ProtoICMPv6, or NoICMPAnswer.
func InvertICMPType(proto, typ uint8) uint8 {
	m := invertedICMP
	if proto == ProtoICMPv6 {
		m = invertedICMPv6
	}
	if r, ok := m[typ]; ok {
		return r
	}
	return NoICMPAnswer
}

// Inverted returns the tuple of the opposite direction as it is without NAT:
// source and destination exchanged, the ICMP type turned into its answer. The
// zone of a direction stays behind.
func (t *Tuple) Inverted() Tuple {
	r := *t
	r.Src, r.Dst = t.Dst, t.Src
	r.SrcPort, r.DstPort = t.DstPort, t.SrcPort
	r.Zone = 0
	r.Has = t.Has &^ (TupleAddrs | TuplePorts | TupleZone)
	for _, pair := range [...][2]TupleAttr{
		{TupleSrc, TupleDst}, {TupleDst, TupleSrc},
		{TupleSrcPort, TupleDstPort}, {TupleDstPort, TupleSrcPort},
	} {
		if t.Has&pair[0] != 0 {
			r.Has |= pair[1]
		}
	}
	if t.Has&TupleICMPType != 0 {
		r.ICMPType = InvertICMPType(t.Proto, t.ICMPType)
	}
	return r
}

// String returns the name's text.
func (n *Name) String() string { return string(n.Bytes()) }

// Bytes returns the name's text as a part of n itself.
func (n *Name) Bytes() []byte {
	for i, c := range n {
		if c == 0 {
			return n[:i]
		}
	}
	return n[:]
}

// Set makes n the text s, cut to what a name holds.
func (n *Name) Set(s string) {
	*n = Name{}
	copy(n[:NameLen-1], s)
}

// Bit reports whether label b is set. Labels beyond the field never are.
func (l *Labels) Bit(b int) bool {
	return b >= 0 && b < MaxLabels && l[b/32]&(1<<(b%32)) != 0
}

// SetBit sets label b, which must be in [0, MaxLabels).
func (l *Labels) SetBit(b int) { l[b/32] |= 1 << (b % 32) }

// ClearBit clears label b, which must be in [0, MaxLabels).
func (l *Labels) ClearBit(b int) { l[b/32] &^= 1 << (b % 32) }

// Empty reports whether no label is set.
func (l *Labels) Empty() bool { return *l == Labels{} }
