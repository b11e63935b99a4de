package ctnetlink

import (
	"ctbox/nl"
	"math/bits"
)

// Append appends f's attributes as a ctnetlink request carries them, in the
// order conntrack-tools sends them. Only present attributes are written, and of
// those only what the kernel takes: tuples, status, timeout, mark, protocol
// state, NAT, sequence adjustment, helper, zone, labels, synproxy, the masks of
// a dump and the id of a delete. Counters, use, timestamps, secmark and security
// context are the kernel's own.
func (f *Flow) Append(dst []byte) []byte {
	dst = f.Orig.append(dst, ctaTupleOrig)
	dst = f.Reply.append(dst, ctaTupleReply)
	dst = f.Master.append(dst, ctaTupleMaster)
	filter := f.Has&HasStatusMask != 0
	if f.Has&HasStatus != 0 && !filter {
		dst = nl.AppendU32(dst, ctaStatus, f.Status)
	}
	if f.Has&HasTimeout != 0 {
		dst = nl.AppendU32(dst, ctaTimeout, f.Timeout)
	}
	if f.Has&HasMark != 0 {
		dst = nl.AppendU32(dst, ctaMark, f.Mark)
	}
	if f.Has&HasMarkMask != 0 {
		dst = nl.AppendU32(dst, ctaMarkMask, f.MarkMask)
	}
	if filter {
		// A filter's status follows its mark.
		if f.Has&HasStatus != 0 {
			dst = nl.AppendU32(dst, ctaStatus, f.Status)
		}
		dst = nl.AppendU32(dst, ctaStatusMask, f.StatusMask)
	}
	dst = f.appendProtoinfo(dst)
	if f.Has&HasSeqAdjOrig != 0 {
		dst = f.SeqAdjOrig.append(dst, ctaSeqAdjOrig)
	}
	if f.Has&HasSeqAdjReply != 0 {
		dst = f.SeqAdjReply.append(dst, ctaSeqAdjReply)
	}
	if f.Has&HasNATSrc != 0 {
		dst = f.NATSrc.append(dst, ctaNATSrc, f.Family())
	}
	if f.Has&HasNATDst != 0 {
		dst = f.NATDst.append(dst, ctaNATDst, f.Family())
	}
	if f.Has&(HasHelper|HasHelperInfo) != 0 {
		var at int
		dst, at = nl.BeginNest(dst, ctaHelp)
		if f.Has&HasHelper != 0 {
			dst = nl.AppendString(dst, ctaHelpName, f.Helper.Bytes())
		}
		if f.Has&HasHelperInfo != 0 {
			dst = nl.AppendBytes(dst, ctaHelpInfo, f.HelperInfo)
		}
		dst = nl.EndNest(dst, at)
	}
	if f.Has&HasID != 0 {
		dst = nl.AppendU32(dst, ctaID, f.ID)
	}
	if f.Has&HasZone != 0 {
		dst = nl.AppendU16(dst, ctaZone, f.Zone)
	}
	if f.Has&HasLabels != 0 {
		dst = f.Labels.append(dst, ctaLabels, f.LabelsLen)
	}
	if f.Has&HasLabelsMask != 0 {
		dst = f.LabelsMask.append(dst, ctaLabelsMask, f.LabelsMaskLen)
	}
	if f.Has&HasSynproxy != 0 {
		var at int
		dst, at = nl.BeginNest(dst, ctaSynproxy)
		dst = nl.AppendU32(dst, ctaSynproxyISN, f.Synproxy.ISN)
		dst = nl.AppendU32(dst, ctaSynproxyITS, f.Synproxy.ITS)
		dst = nl.AppendU32(dst, ctaSynproxyTSOff, f.Synproxy.TSOff)
		dst = nl.EndNest(dst, at)
	}
	return dst
}

// append appends the tuple as attribute typ, or nothing when no field is present.
func (t *Tuple) append(dst []byte, typ uint16) []byte {
	if t.Has == 0 {
		return dst
	}
	dst, at := nl.BeginNest(dst, typ)
	if t.Has&TupleAddrs != 0 {
		var in int
		dst, in = nl.BeginNest(dst, ctaTupleIP)
		size, src, dstAttr := 4, uint16(ctaIPv4Src), uint16(ctaIPv4Dst)
		if t.Family == nl.FamilyIPv6 {
			size, src, dstAttr = 16, ctaIPv6Src, ctaIPv6Dst
		}
		if t.Has&TupleSrc != 0 {
			dst = nl.AppendBytes(dst, src, t.Src[:size])
		}
		if t.Has&TupleDst != 0 {
			dst = nl.AppendBytes(dst, dstAttr, t.Dst[:size])
		}
		dst = nl.EndNest(dst, in)
	}
	if t.Has&(TupleProto|TuplePorts|TupleICMP) != 0 {
		dst = t.appendProto(dst)
	}
	if t.Has&TupleZone != 0 {
		dst = nl.AppendU16(dst, ctaTupleZone, t.Zone)
	}
	return nl.EndNest(dst, at)
}

func (t *Tuple) appendProto(dst []byte) []byte {
	dst, at := nl.BeginNest(dst, ctaTupleProto)
	if t.Has&TupleProto != 0 {
		dst = nl.AppendU8(dst, ctaProtoNum, t.Proto)
	}
	if t.Has&TupleSrcPort != 0 {
		dst = nl.AppendU16(dst, ctaProtoSrcPort, t.SrcPort)
	}
	if t.Has&TupleDstPort != 0 {
		dst = nl.AppendU16(dst, ctaProtoDstPort, t.DstPort)
	}
	code, typ, id := uint16(ctaProtoICMPCode), uint16(ctaProtoICMPType), uint16(ctaProtoICMPID)
	if t.Proto == ProtoICMPv6 {
		code, typ, id = ctaProtoICMPv6Code, ctaProtoICMPv6Type, ctaProtoICMPv6ID
	}
	if t.Has&TupleICMPCode != 0 {
		dst = nl.AppendU8(dst, code, t.ICMPCode)
	}
	if t.Has&TupleICMPType != 0 {
		dst = nl.AppendU8(dst, typ, t.ICMPType)
	}
	if t.Has&TupleICMPID != 0 {
		dst = nl.AppendU16(dst, id, t.ICMPID)
	}
	return nl.EndNest(dst, at)
}

// appendProtoinfo writes the nest of the flow's own protocol, and nothing if the
// flow has no attribute of that protocol; attributes of another are left out.
func (f *Flow) appendProtoinfo(dst []byte) []byte {
	proto, _ := f.Proto()
	var at, in int
	switch {
	case proto == ProtoTCP && f.Has&TCPAttrs != 0:
		dst, at = nl.BeginNest(dst, ctaProtoinfo)
		dst, in = nl.BeginNest(dst, ctaProtoinfoTCP)
		if f.Has&HasTCPState != 0 {
			dst = nl.AppendU8(dst, ctaTCPState, f.TCPState)
		}
		if f.Has&HasTCPFlagsOrig != 0 {
			dst = append(nl.AppendAttrHeader(dst, ctaTCPFlagsOrig, 2), f.TCPFlagsOrig.Value, f.TCPFlagsOrig.Mask, 0, 0)
		}
		if f.Has&HasTCPFlagsReply != 0 {
			dst = append(nl.AppendAttrHeader(dst, ctaTCPFlagsReply, 2), f.TCPFlagsReply.Value, f.TCPFlagsReply.Mask, 0, 0)
		}
		if f.Has&HasTCPWScaleOrig != 0 {
			dst = nl.AppendU8(dst, ctaTCPWScaleOrig, min(f.TCPWScaleOrig, MaxWindowScale))
		}
		if f.Has&HasTCPWScaleReply != 0 {
			dst = nl.AppendU8(dst, ctaTCPWScaleReply, min(f.TCPWScaleRepl, MaxWindowScale))
		}
	case proto == ProtoSCTP && f.Has&SCTPAttrs != 0:
		dst, at = nl.BeginNest(dst, ctaProtoinfo)
		dst, in = nl.BeginNest(dst, ctaProtoinfoSCTP)
		if f.Has&HasSCTPState != 0 {
			dst = nl.AppendU8(dst, ctaSCTPState, f.SCTPState)
		}
		if f.Has&HasSCTPVtagOrig != 0 {
			dst = nl.AppendU32(dst, ctaSCTPVtagOrig, f.SCTPVtagOrig)
		}
		if f.Has&HasSCTPVtagReply != 0 {
			dst = nl.AppendU32(dst, ctaSCTPVtagReply, f.SCTPVtagReply)
		}
	case proto == ProtoDCCP && f.Has&DCCPAttrs != 0:
		dst, at = nl.BeginNest(dst, ctaProtoinfo)
		dst, in = nl.BeginNest(dst, ctaProtoinfoDCCP)
		if f.Has&HasDCCPState != 0 {
			dst = nl.AppendU8(dst, ctaDCCPState, f.DCCPState)
		}
		if f.Has&HasDCCPRole != 0 {
			dst = nl.AppendU8(dst, ctaDCCPRole, f.DCCPRole)
		}
		if f.Has&HasDCCPHandshakeSeq != 0 {
			dst = nl.AppendU64(dst, ctaDCCPHandshakeSeq, f.DCCPHandshakeSeq)
		}
	default:
		return dst
	}
	return nl.EndNest(nl.EndNest(dst, in), at)
}

func (s *SeqAdj) append(dst []byte, typ uint16) []byte {
	dst, at := nl.BeginNest(dst, typ)
	dst = nl.AppendU32(dst, ctaSeqAdjPos, s.CorrectionPos)
	dst = nl.AppendU32(dst, ctaSeqAdjBefore, s.OffsetBefore)
	dst = nl.AppendU32(dst, ctaSeqAdjAfter, s.OffsetAfter)
	return nl.EndNest(dst, at)
}

func (n *NAT) append(dst []byte, typ uint16, family uint8) []byte {
	dst, at := nl.BeginNest(dst, typ)
	if n.HasAddr {
		if family == nl.FamilyIPv6 {
			dst = nl.AppendBytes(dst, ctaNATv6Min, n.Addr[:16])
		} else {
			dst = nl.AppendBytes(dst, ctaNATv4Min, n.Addr[:4])
		}
	}
	if n.HasPort {
		var in int
		dst, in = nl.BeginNest(dst, ctaNATProto)
		dst = nl.AppendU16(dst, ctaProtoNATPortMin, n.Port)
		dst = nl.AppendU16(dst, ctaProtoNATPortMax, n.Port)
		dst = nl.EndNest(dst, in)
	}
	return nl.EndNest(dst, at)
}

func (l *Labels) append(dst []byte, typ uint16, words uint8) []byte {
	n := min(int(words), LabelWords)
	dst = nl.AppendAttrHeader(dst, typ, 4*n)
	for _, w := range l[:n] {
		dst = native.AppendUint32(dst, w)
	}
	return dst
}

// appendFilter appends CTA_FILTER: which fields of the request's tuples, as
// appended by Append, a dump is to compare. The flags are in the machine's
// order, unlike nearly everything else.
func (f *Flow) appendFilter(dst []byte) []byte {
	dst, at := nl.BeginNest(dst, ctaFilter)
	for _, d := range [...]struct {
		attr  uint16
		tuple *Tuple
	}{{ctaFilterOrigFlags, &f.Orig}, {ctaFilterReplyFlags, &f.Reply}} {
		dst = nl.AppendAttrHeader(dst, d.attr, 4)
		dst = native.AppendUint32(dst, d.tuple.filterFlags())
	}
	return nl.EndNest(dst, at)
}

// filterFlags returns the CTA_FILTER bits of the tuple's present fields, except for IPv6
// addresses: the kernel (Linux 5.8 to 6.18 at least) takes the result of their
// comparison for its opposite, and would leave out just the flows that match.
func (t *Tuple) filterFlags() uint32 {
	has := t.Has
	if t.Family == nl.FamilyIPv6 {
		has &^= TupleAddrs
	}
	var flags uint32
	icmp := [3]uint32{filterICMPType, filterICMPCode, filterICMPID}
	if t.Proto == ProtoICMPv6 {
		icmp = [3]uint32{filterICMPv6Type, filterICMPv6Code, filterICMPv6ID}
	}
	for _, m := range [...]struct {
		has  TupleAttr
		flag uint32
	}{
		{TupleSrc, filterIPSrc}, {TupleDst, filterIPDst}, {TupleZone, filterZone}, {TupleProto, filterProtoNum},
		{TupleSrcPort, filterSrcPort}, {TupleDstPort, filterDstPort},
		{TupleICMPType, icmp[0]}, {TupleICMPCode, icmp[1]}, {TupleICMPID, icmp[2]},
	} {
		if has&m.has != 0 {
			flags |= m.flag
		}
	}
	return flags
}

// Append appends e's attributes as an expectation request carries them. Absent
// tuples and attributes are left out; the id is the kernel's own.
func (e *Expect) Append(dst []byte) []byte {
	dst = e.Tuple.append(dst, ctaExpectTuple)
	dst = e.Master.append(dst, ctaExpectMaster)
	dst = e.Mask.append(dst, ctaExpectMask)
	if e.Has&ExpectHasTimeout != 0 {
		dst = nl.AppendU32(dst, ctaExpectTimeout, e.Timeout)
	}
	if e.Has&ExpectHasFlags != 0 {
		dst = nl.AppendU32(dst, ctaExpectFlags, e.Flags)
	}
	if e.Has&ExpectHasClass != 0 {
		dst = nl.AppendU32(dst, ctaExpectClass, e.Class)
	}
	if e.Has&ExpectHasZone != 0 {
		dst = nl.AppendU16(dst, ctaExpectZone, e.Zone)
	}
	if e.Has&ExpectHasHelper != 0 {
		dst = nl.AppendString(dst, ctaExpectHelpName, e.Helper.Bytes())
	}
	if e.Has&ExpectHasFn != 0 {
		dst = nl.AppendString(dst, ctaExpectFn, e.FnBytes())
	}
	if e.Has&ExpectHasNAT != 0 {
		var at int
		dst, at = nl.BeginNest(dst, ctaExpectNAT)
		dst = nl.AppendU32(dst, ctaExpectNATDir, e.NATDir)
		dst = e.NATTuple.append(dst, ctaExpectNATTuple)
		dst = nl.EndNest(dst, at)
	}
	return dst
}

// littleEndian is true if the machine is little-endian.
var littleEndian = native.Uint16([]byte{1, 0}) == 1

// CommandVtag converts an SCTP verification tag between its value and the
// number that conntrack(8) shows and takes for it. conntrack-tools swaps the tag
// once too often on little-endian machines; scripts and saved tables have its
// numbers. The conversion is its own inverse.
func CommandVtag(tag uint32) uint32 {
	if littleEndian {
		return bits.ReverseBytes32(tag)
	}
	return tag
}
