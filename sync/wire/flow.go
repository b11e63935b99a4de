package wire

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Attribute numbers of flows (docs/sync-protocol.md).
const (
	flowIPv4         = 0
	flowIPv6         = 1
	flowProto        = 2
	flowPorts        = 3
	flowTCPState     = 4
	flowStatus       = 5
	flowTimeout      = 6
	flowMark         = 7
	flowMasterIPv4   = 8
	flowMasterIPv6   = 9
	flowMasterProto  = 10
	flowMasterPorts  = 11
	flowSNATIPv4     = 12
	flowDNATIPv4     = 13
	flowSNATPort     = 14
	flowDNATPort     = 15
	flowSeqAdj       = 16
	flowSCTPState    = 17
	flowSCTPVtagOrig = 18
	flowSCTPVtagRepl = 19
	flowDCCPState    = 20
	flowDCCPRole     = 21
	flowICMPType     = 22
	flowICMPCode     = 23
	flowICMPID       = 24
	flowTCPWScaleOrg = 25
	flowTCPWScaleRpl = 26
	flowHelper       = 27
	flowLabels       = 28
	flowSNATIPv6     = 29
	flowDNATIPv6     = 30
	flowSynproxy     = 31
	flowZone         = 32
)

// flowSizes are the sizes that a receiver requires.
var flowSizes = [...]attrSize{
	flowIPv4: {size: 8}, flowIPv6: {size: 32},
	flowProto: {size: 1}, flowPorts: {size: 4},
	flowTCPState: {size: 1}, flowStatus: {size: 4}, flowTimeout: {size: 4}, flowMark: {size: 4},
	flowMasterIPv4: {size: 8}, flowMasterIPv6: {size: 32},
	flowMasterProto: {size: 1}, flowMasterPorts: {size: 4},
	flowSNATIPv4: {size: 4}, flowDNATIPv4: {size: 4}, flowSNATPort: {size: 2}, flowDNATPort: {size: 2},
	flowSeqAdj:    {size: 24},
	flowSCTPState: {size: 1}, flowSCTPVtagOrig: {size: 4}, flowSCTPVtagRepl: {size: 4},
	flowDCCPState: {size: 1}, flowDCCPRole: {size: 1},
	flowICMPType: {size: 1}, flowICMPCode: {size: 1}, flowICMPID: {size: 2},
	flowTCPWScaleOrg: {size: 1}, flowTCPWScaleRpl: {size: 1},
	flowHelper: {size: 12, atMost: true}, flowLabels: {size: 1024, atMost: true},
	flowSNATIPv6: {size: 16}, flowDNATIPv6: {size: 16},
	flowSynproxy: {size: 12}, flowZone: {size: 2},
}

// maxHelperName is the longest helper name that a C daemon accepts; it refuses a whole
// message for a longer one.
const maxHelperName = 11

// MaxFlowLen bounds the size in bytes of a flow's message, header included.
const MaxFlowLen = 512

// Encoder holds the settings for what a node sends about its flows.
type Encoder struct {
	// OmitTimeout leaves out the timeout, so that receivers choose it (CommitTimeout).
	OmitTimeout bool
	// WindowTracking sends TCP's window scales (TCPWindowTracking).
	WindowTracking bool
}

// AppendFlow appends the message with header h and flow f: attributes in the C
// daemon's order, each where f has it. Translated addresses and ports come from
// NATSrc and NATDst where f has those, otherwise from the reply tuple. A helper whose
// name a C daemon would refuse is left out. Reply tuple, counters, secmark and
// identifiers have no attribute.
//
// A flow that is useless to a receiver (addresses, protocol or ports unknown) gives an
// IncompleteError and dst unchanged.
func (e Encoder) AppendFlow(dst []byte, h Header, f *ctnetlink.Flow) ([]byte, error) {
	if !complete(&f.Orig) {
		return dst, ErrIncompleteTuple
	}
	start := len(dst)
	dst = appendHeader(dst, h, 0)
	dst = appendAddrs(dst, flowIPv4, flowIPv6, &f.Orig)
	var status uint32
	if f.Has&ctnetlink.HasStatus != 0 {
		status = f.Status
	}
	dst = appendU32(dst, flowStatus, status)
	dst = appendU8(dst, flowProto, f.Orig.Proto)
	dst = e.appendProtoinfo(dst, f)
	if f.Has&ctnetlink.HasTimeout != 0 && !e.OmitTimeout {
		dst = appendU32(dst, flowTimeout, f.Timeout)
	}
	if f.Has&ctnetlink.HasMark != 0 {
		dst = appendU32(dst, flowMark, f.Mark)
	}
	dst = appendMaster(dst, &f.Master)
	dst = appendNAT(dst, f)
	if both := ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply; f.Has&both == both {
		dst = appendAttr(dst, flowSeqAdj, 24)
		for _, a := range [...]ctnetlink.SeqAdj{f.SeqAdjOrig, f.SeqAdjReply} {
			dst = binary.BigEndian.AppendUint32(dst, a.CorrectionPos)
			dst = binary.BigEndian.AppendUint32(dst, a.OffsetBefore)
			dst = binary.BigEndian.AppendUint32(dst, a.OffsetAfter)
		}
	}
	if f.Has&ctnetlink.HasHelper != 0 {
		if name := f.Helper.Bytes(); len(name) > 0 && len(name) <= maxHelperName {
			dst = appendText(dst, flowHelper, name)
		}
	}
	if words := f.Labels[:min(int(f.LabelsLen), ctnetlink.LabelWords)]; f.Has&ctnetlink.HasLabels != 0 && anySet(words) {
		dst = appendAttr(dst, flowLabels, 4*len(words))
		for _, w := range words {
			dst = binary.BigEndian.AppendUint32(dst, w)
		}
	}
	if f.Has&ctnetlink.HasSynproxy != 0 {
		dst = appendAttr(dst, flowSynproxy, 12)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.ITS)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.ISN)
		dst = binary.BigEndian.AppendUint32(dst, f.Synproxy.TSOff)
	}
	if f.Has&ctnetlink.HasZone != 0 {
		dst = appendU16(dst, flowZone, f.Zone)
	}
	setLength(dst, start)
	return dst, nil
}

// complete reports whether t identifies a flow on another node. A kernel without a DCCP
// tracker (Linux 6.18 and later) does not know the ports of DCCP flows: they are sent as
// zero then, as in the C daemon's messages.
func complete(t *ctnetlink.Tuple) bool {
	need := ctnetlink.TupleAddrs | ctnetlink.TupleProto
	switch {
	case t.Proto == ctnetlink.ProtoDCCP:
	case hasWirePorts(t.Proto):
		need |= ctnetlink.TuplePorts
	case ctnetlink.IsICMP(t.Proto):
		need |= ctnetlink.TupleICMP
	}
	return t.Has&need == need && t.Family != nl.FamilyUnspec
}

// appendProtoinfo appends the layer-4 group: ports or ICMP fields, then the
// protocol's state.
func (e Encoder) appendProtoinfo(dst []byte, f *ctnetlink.Flow) []byte {
	t := &f.Orig
	switch {
	case hasWirePorts(t.Proto):
		dst = appendPorts(dst, flowPorts, t.SrcPort, t.DstPort)
	case ctnetlink.IsICMP(t.Proto):
		dst = appendU8(dst, flowICMPType, t.ICMPType)
		dst = appendU8(dst, flowICMPCode, t.ICMPCode)
		dst = appendU16LE(dst, flowICMPID, t.ICMPID)
	}
	switch {
	case t.Proto == ctnetlink.ProtoTCP && f.Has&ctnetlink.HasTCPState != 0:
		dst = appendU8(dst, flowTCPState, f.TCPState)
		if e.WindowTracking && f.Has&ctnetlink.HasTCPWScaleOrig != 0 {
			dst = appendU8(dst, flowTCPWScaleOrg, f.TCPWScaleOrig)
		}
		if e.WindowTracking && f.Has&ctnetlink.HasTCPWScaleReply != 0 {
			dst = appendU8(dst, flowTCPWScaleRpl, f.TCPWScaleRepl)
		}
	case t.Proto == ctnetlink.ProtoSCTP && f.Has&ctnetlink.HasSCTPState != 0:
		dst = appendU8(dst, flowSCTPState, f.SCTPState)
		if f.Has&ctnetlink.HasSCTPVtagOrig != 0 {
			dst = appendU32(dst, flowSCTPVtagOrig, f.SCTPVtagOrig)
		}
		if f.Has&ctnetlink.HasSCTPVtagReply != 0 {
			dst = appendU32(dst, flowSCTPVtagRepl, f.SCTPVtagReply)
		}
	case t.Proto == ctnetlink.ProtoDCCP && f.Has&ctnetlink.HasDCCPState != 0:
		dst = appendU8(dst, flowDCCPState, f.DCCPState)
		if f.Has&ctnetlink.HasDCCPRole != 0 {
			dst = appendU8(dst, flowDCCPRole, f.DCCPRole)
		}
	}
	return dst
}

func appendMaster(dst []byte, t *ctnetlink.Tuple) []byte {
	if need := ctnetlink.TupleAddrs | ctnetlink.TupleProto; t.Has&need != need || t.Family == nl.FamilyUnspec {
		return dst
	}
	dst = appendAddrs(dst, flowMasterIPv4, flowMasterIPv6, t)
	dst = appendU8(dst, flowMasterProto, t.Proto)
	if t.Has&ctnetlink.TuplePorts == ctnetlink.TuplePorts {
		dst = appendPorts(dst, flowMasterPorts, t.SrcPort, t.DstPort)
	}
	return dst
}

// appendNAT appends the flow's translation. Ports of ICMP flows are never translated;
// the C daemon sends meaningless zeroes for them.
func appendNAT(dst []byte, f *ctnetlink.Flow) []byte {
	src, dest := translation(f)
	if src.HasAddr {
		dst = appendAddr(dst, flowSNATIPv4, flowSNATIPv6, f.Orig.Family, &src.Addr)
	}
	if dest.HasAddr {
		dst = appendAddr(dst, flowDNATIPv4, flowDNATIPv6, f.Orig.Family, &dest.Addr)
	}
	if src.HasPort {
		dst = appendU16LE(dst, flowSNATPort, src.Port)
	}
	if dest.HasPort {
		dst = appendU16LE(dst, flowDNATPort, dest.Port)
	}
	return dst
}

// translation returns the addresses and ports that f's source and destination are mapped
// to. The tuples count only where the status says that NAT was set up, or where there is
// no status, as in the C daemon.
func translation(f *ctnetlink.Flow) (src, dst ctnetlink.NAT) {
	status := f.Status
	if f.Has&ctnetlink.HasStatus == 0 {
		status = ctnetlink.StatusSrcNATDone | ctnetlink.StatusDstNATDone
	}
	o, r := &f.Orig, &f.Reply
	addrs := r.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs && r.Family == o.Family
	ports := r.Has&o.Has&ctnetlink.TuplePorts == ctnetlink.TuplePorts
	switch {
	case f.Has&ctnetlink.HasNATSrc != 0:
		src = f.NATSrc
	case status&ctnetlink.StatusSrcNATDone != 0:
		src = ctnetlink.NAT{
			Addr: r.Dst, HasAddr: addrs && r.Dst != o.Src,
			Port: r.DstPort, HasPort: ports && r.DstPort != o.SrcPort,
		}
	}
	switch {
	case f.Has&ctnetlink.HasNATDst != 0:
		dst = f.NATDst
	case status&ctnetlink.StatusDstNATDone != 0:
		dst = ctnetlink.NAT{
			Addr: r.Src, HasAddr: addrs && r.Src != o.Dst,
			Port: r.SrcPort, HasPort: ports && r.SrcPort != o.DstPort,
		}
	}
	return src, dst
}

func anySet(words []uint32) bool {
	for _, w := range words {
		if w != 0 {
			return true
		}
	}
	return false
}
