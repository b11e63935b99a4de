package format

import (
	"bytes"
	"encoding/hex"
	"math"
	"net/netip"
	"unsafe"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// u32 returns a reader of a 32-bit number.
func u32(field func(*ctnetlink.Flow) *uint32, bit ctnetlink.Attr) func(*FlowReader) {
	return func(r *FlowReader) {
		*field(r.f) = uint32(r.s.uint(math.MaxUint32))
		r.f.Has |= bit
	}
}

// u8 returns a reader of a number up to limit.
func u8(limit uint64, field func(*ctnetlink.Flow) *uint8, bit ctnetlink.Attr) func(*FlowReader) {
	return func(r *FlowReader) {
		*field(r.f) = uint8(r.s.uint(limit))
		r.f.Has |= bit
	}
}

// within returns a reader of an object with the members ms.
func within(ms members) func(*FlowReader) {
	return func(r *FlowReader) { r.object(ms) }
}

var flowMembers = members{
	{"event", (*FlowReader).readEvent},
	{"time", func(r *FlowReader) { r.e.Time = int64(r.s.seconds()) }},
	{"portid", func(r *FlowReader) { r.e.PortID = uint32(r.s.uint(math.MaxUint32)) }},
	{"family", (*FlowReader).readFamily},
	{"proto", func(r *FlowReader) { r.proto, r.protoKnown = uint8(r.s.uint(math.MaxUint8)), true }},
	{"proto_name", (*FlowReader).readProtoName},
	{"original", func(r *FlowReader) { r.readTuple(0, &r.f.Orig, &r.f.CountersOrig, ctnetlink.HasCountersOrig) }},
	{"reply", func(r *FlowReader) { r.readTuple(1, &r.f.Reply, &r.f.CountersReply, ctnetlink.HasCountersReply) }},
	{"master", func(r *FlowReader) { r.readTuple(2, &r.f.Master, nil, 0) }},
	{"timeout", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Timeout }, ctnetlink.HasTimeout)},
	{"state", (*FlowReader).readState},
	{"status", (*FlowReader).readStatus},
	{"mark", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Mark }, ctnetlink.HasMark)},
	{"secmark", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Secmark }, ctnetlink.HasSecmark)},
	{"secctx", func(r *FlowReader) {
		r.f.Secctx = append(r.f.Secctx[:0], r.s.string()...)
		r.f.Has |= ctnetlink.HasSecctx
	}},
	{"zone", func(r *FlowReader) {
		r.f.Zone = uint16(r.s.uint(math.MaxUint16))
		r.f.Has |= ctnetlink.HasZone
	}},
	{"use", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Use }, ctnetlink.HasUse)},
	{"id", u32(func(f *ctnetlink.Flow) *uint32 { return &f.ID }, ctnetlink.HasID)},
	{"labels", (*FlowReader).readLabels},
	{"start", func(r *FlowReader) {
		r.f.TimestampStart = r.s.seconds()
		r.f.Has |= ctnetlink.HasTimestampStart
	}},
	{"stop", func(r *FlowReader) {
		r.f.TimestampStop = r.s.seconds()
		r.f.Has |= ctnetlink.HasTimestampStop
	}},
	{"helper", (*FlowReader).readHelper},
	{"helper_info", (*FlowReader).readHelperInfo},
	{"tcp", within(tcpMembers)},
	{"sctp", within(sctpMembers)},
	{"dccp", within(dccpMembers)},
	{"seq_adjust", within(seqAdjustMembers)},
	{"synproxy", func(r *FlowReader) {
		r.f.Synproxy = ctnetlink.Synproxy{}
		r.f.Has |= ctnetlink.HasSynproxy
		r.object(synproxyMembers)
	}},
}

var tupleMembers = members{
	{"proto", (*FlowReader).readTupleProto},
	{"src", func(r *FlowReader) { r.readAddr(&r.tuple.Src, ctnetlink.TupleSrc) }},
	{"dst", func(r *FlowReader) { r.readAddr(&r.tuple.Dst, ctnetlink.TupleDst) }},
	{"sport", func(r *FlowReader) { r.readPort(&r.tuple.SrcPort, ctnetlink.TupleSrcPort) }},
	{"dport", func(r *FlowReader) { r.readPort(&r.tuple.DstPort, ctnetlink.TupleDstPort) }},
	{"srckey", func(r *FlowReader) { r.readPort(&r.tuple.SrcPort, ctnetlink.TupleSrcPort) }},
	{"dstkey", func(r *FlowReader) { r.readPort(&r.tuple.DstPort, ctnetlink.TupleDstPort) }},
	{"icmp_type", func(r *FlowReader) {
		r.tuple.ICMPType = uint8(r.s.uint(math.MaxUint8))
		r.tuple.Has |= ctnetlink.TupleICMPType
	}},
	{"icmp_code", func(r *FlowReader) {
		r.tuple.ICMPCode = uint8(r.s.uint(math.MaxUint8))
		r.tuple.Has |= ctnetlink.TupleICMPCode
	}},
	{"icmp_id", func(r *FlowReader) { r.readPort(&r.tuple.ICMPID, ctnetlink.TupleICMPID) }},
	{"zone", func(r *FlowReader) { r.readPort(&r.tuple.Zone, ctnetlink.TupleZone) }},
	{"packets", func(r *FlowReader) { r.readCounter(func(c *ctnetlink.Counters) *uint64 { return &c.Packets }) }},
	{"bytes", func(r *FlowReader) { r.readCounter(func(c *ctnetlink.Counters) *uint64 { return &c.Bytes }) }},
}

var tcpMembers = members{
	{"window_scale_original", u8(ctnetlink.MaxWindowScale, func(f *ctnetlink.Flow) *uint8 { return &f.TCPWScaleOrig }, ctnetlink.HasTCPWScaleOrig)},
	{"window_scale_reply", u8(ctnetlink.MaxWindowScale, func(f *ctnetlink.Flow) *uint8 { return &f.TCPWScaleRepl }, ctnetlink.HasTCPWScaleReply)},
	{"flags_original", u8(math.MaxUint8, func(f *ctnetlink.Flow) *uint8 { return &f.TCPFlagsOrig.Value }, ctnetlink.HasTCPFlagsOrig)},
	{"flags_mask_original", u8(math.MaxUint8, func(f *ctnetlink.Flow) *uint8 { return &f.TCPFlagsOrig.Mask }, ctnetlink.HasTCPFlagsOrig)},
	{"flags_reply", u8(math.MaxUint8, func(f *ctnetlink.Flow) *uint8 { return &f.TCPFlagsReply.Value }, ctnetlink.HasTCPFlagsReply)},
	{"flags_mask_reply", u8(math.MaxUint8, func(f *ctnetlink.Flow) *uint8 { return &f.TCPFlagsReply.Mask }, ctnetlink.HasTCPFlagsReply)},
}

var sctpMembers = members{
	{"vtag_original", u32(func(f *ctnetlink.Flow) *uint32 { return &f.SCTPVtagOrig }, ctnetlink.HasSCTPVtagOrig)},
	{"vtag_reply", u32(func(f *ctnetlink.Flow) *uint32 { return &f.SCTPVtagReply }, ctnetlink.HasSCTPVtagReply)},
}

var dccpMembers = members{
	{"role", u8(math.MaxUint8, func(f *ctnetlink.Flow) *uint8 { return &f.DCCPRole }, ctnetlink.HasDCCPRole)},
	{"handshake_seq", func(r *FlowReader) {
		r.f.DCCPHandshakeSeq = r.s.uint(math.MaxUint64)
		r.f.Has |= ctnetlink.HasDCCPHandshakeSeq
	}},
}

var seqAdjustMembers = members{
	{"original", func(r *FlowReader) { r.readSeqAdj(&r.f.SeqAdjOrig, ctnetlink.HasSeqAdjOrig) }},
	{"reply", func(r *FlowReader) { r.readSeqAdj(&r.f.SeqAdjReply, ctnetlink.HasSeqAdjReply) }},
}

var seqAdjMembers = members{
	{"position", func(r *FlowReader) { r.seqAdj.CorrectionPos = uint32(r.s.uint(math.MaxUint32)) }},
	{"offset_before", func(r *FlowReader) { r.seqAdj.OffsetBefore = uint32(r.s.int()) }},
	{"offset_after", func(r *FlowReader) { r.seqAdj.OffsetAfter = uint32(r.s.int()) }},
}

var synproxyMembers = members{
	{"isn", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Synproxy.ISN }, ctnetlink.HasSynproxy)},
	{"its", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Synproxy.ITS }, ctnetlink.HasSynproxy)},
	{"tsoff", u32(func(f *ctnetlink.Flow) *uint32 { return &f.Synproxy.TSOff }, ctnetlink.HasSynproxy)},
}

func (r *FlowReader) readEvent() {
	r.s.peek()
	at := r.s.at
	name := r.s.string()
	for t := New; t <= Destroy; t++ {
		if string(name) == eventNames[t] {
			r.e.Type = t
			return
		}
	}
	if string(name) == lostEvent {
		r.s.fail(at, "events were lost here")
		return
	}
	r.s.fail(at, "unknown event")
}

func (r *FlowReader) readFamily() {
	r.s.peek()
	at := r.s.at
	name := r.s.string()
	for _, family := range [...]uint8{nl.FamilyIPv4, nl.FamilyIPv6} {
		if string(name) == ctnetlink.FamilyName(family) {
			r.family = family
			return
		}
	}
	r.s.fail(at, "unknown family")
}

func (r *FlowReader) readProtoName() {
	name := r.s.string()
	if r.protoKnown {
		return
	}
	for proto := range 256 {
		if known := ctnetlink.ProtoName(uint8(proto)); known != "unknown" && string(name) == known {
			r.namedProto, r.protoNamed = uint8(proto), true
		}
	}
}

func (r *FlowReader) readTuple(index int, t *ctnetlink.Tuple, counters *ctnetlink.Counters, counted ctnetlink.Attr) {
	if counters != nil {
		*counters = ctnetlink.Counters{}
	}
	r.tupleProtos[index] = tupleInherits
	r.tupleIndex, r.tuple, r.counters, r.counted = index, t, counters, counted
	r.object(tupleMembers)
}

// readTupleProto reads a tuple's own protocol; null is a tuple without a protocol.
func (r *FlowReader) readTupleProto() {
	r.tupleProtos[r.tupleIndex] = tupleOwn
	if r.s.null() {
		return
	}
	r.tuple.Proto = uint8(r.s.uint(math.MaxUint8))
	r.tuple.Has |= ctnetlink.TupleProto
}

func (r *FlowReader) readPort(field *uint16, bit ctnetlink.TupleAttr) {
	*field = uint16(r.s.uint(math.MaxUint16))
	r.tuple.Has |= bit
}

func (r *FlowReader) readCounter(field func(*ctnetlink.Counters) *uint64) {
	v := r.s.uint(math.MaxUint64)
	if r.counters != nil {
		*field(r.counters) = v
		r.f.Has |= r.counted
	}
}

func (r *FlowReader) readAddr(a *ctnetlink.Addr, bit ctnetlink.TupleAttr) {
	r.s.peek()
	at := r.s.at
	text := r.s.string()
	if r.s.err != nil {
		return
	}
	family, ok := parseAddr(text, a)
	if !ok {
		r.s.fail(at, "not an IP address")
		return
	}
	if r.tuple.Family != nl.FamilyUnspec && r.tuple.Family != family {
		r.s.fail(at, "src and dst differ in their family")
		return
	}
	r.tuple.Family = family
	r.tuple.Has |= bit
}

// parseAddr reads an address without a zone.
func parseAddr(text []byte, a *ctnetlink.Addr) (family uint8, ok bool) {
	if len(text) == 0 || bytes.IndexByte(text, '%') >= 0 {
		return 0, false
	}
	// ParseAddr keeps its text only in the error and in the zone, which are dropped here.
	// A copy would be the only allocation for a line.
	addr, err := netip.ParseAddr(unsafe.String(&text[0], len(text)))
	if err != nil {
		return 0, false
	}
	*a = ctnetlink.Addr{}
	if addr.Is4() {
		b := addr.As4()
		copy(a[:], b[:])
		return nl.FamilyIPv4, true
	}
	*a = addr.As16()
	return nl.FamilyIPv6, true
}

func (r *FlowReader) readState() {
	r.s.peek()
	r.stateAt = r.s.at
	text := r.s.string()
	if r.s.err != nil {
		return
	}
	if len(text) == 0 || len(text) > len(r.state) {
		r.s.fail(r.stateAt, "unknown state")
		return
	}
	r.stateN = copy(r.state[:], text)
}

func (r *FlowReader) readStatus() {
	r.f.Status = 0
	r.f.Has |= ctnetlink.HasStatus
	r.s.list(func() {
		r.s.peek()
		at := r.s.at
		name := r.s.string()
		for _, n := range jsonStatus {
			if string(name) == n.name {
				r.f.Status |= n.bit
				return
			}
		}
		bits, ok := hex32(name)
		if !ok {
			r.s.fail(at, "unknown status")
			return
		}
		r.f.Status |= bits
	})
}

// hex32 reads "0x" and up to eight digits.
func hex32(text []byte) (uint32, bool) {
	if len(text) < 3 || len(text) > 10 || string(text[:2]) != "0x" {
		return 0, false
	}
	var v uint32
	for _, c := range text[2:] {
		var d byte
		switch {
		case c >= '0' && c <= '9':
			d = c - '0'
		case c >= 'a' && c <= 'f':
			d = c - 'a' + 10
		case c >= 'A' && c <= 'F':
			d = c - 'A' + 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(d)
	}
	return v, true
}

func (r *FlowReader) readLabels() {
	r.f.Labels = ctnetlink.Labels{}
	r.f.LabelsLen = ctnetlink.LabelWords
	r.f.Has |= ctnetlink.HasLabels
	r.s.list(func() {
		if bit := r.s.uint(ctnetlink.MaxLabels - 1); r.s.err == nil {
			r.f.Labels.SetBit(int(bit))
		}
	})
}

func (r *FlowReader) readHelper() {
	r.s.peek()
	at := r.s.at
	name := r.s.string()
	if len(name) >= ctnetlink.NameLen || bytes.IndexByte(name, 0) >= 0 {
		r.s.fail(at, "helper name longer than 15 bytes or with a NUL")
		return
	}
	r.f.Helper = ctnetlink.Name{}
	copy(r.f.Helper[:], name)
	r.f.Has |= ctnetlink.HasHelper
}

func (r *FlowReader) readHelperInfo() {
	r.s.peek()
	at := r.s.at
	var err error
	r.f.HelperInfo, err = hex.AppendDecode(r.f.HelperInfo[:0], r.s.string())
	if err != nil {
		r.s.fail(at, "expected an even number of hexadecimal digits")
	}
	r.f.Has |= ctnetlink.HasHelperInfo
}

func (r *FlowReader) readSeqAdj(a *ctnetlink.SeqAdj, bit ctnetlink.Attr) {
	*a = ctnetlink.SeqAdj{}
	r.seqAdj = a
	r.f.Has |= bit
	r.object(seqAdjMembers)
}
