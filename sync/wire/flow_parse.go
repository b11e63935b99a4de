package wire

import (
	"encoding/binary"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Largest state numbers of the kernel (nf_conntrack_tcp.h, nf_conntrack_sctp.h; DCCP
// before its removal). Older kernels index tables with the number they receive.
const (
	maxTCPState  = 9
	maxSCTPState = 9
	maxDCCPState = 9
	maxDCCPRole  = 1
)

// ParseFlow decodes the attributes of a flow message into f, which it resets
// first. Attributes may come in any order; of several with the same number the last
// counts. Every error is a PayloadError; f is then undefined.
//
// Translations go to f.NATSrc and f.NATDst. Window scales beyond
// ctnetlink.MaxWindowScale are reduced to it here, at the border, so that no larger one
// reaches a kernel. Attributes that do not belong to the flow's protocol are dropped, as
// are translated ports of 0, which C daemons send with ICMP.
func ParseFlow(body []byte, f *ctnetlink.Flow) error {
	f.Reset()
	f.NATSrc, f.NATDst = ctnetlink.NAT{}, ctnetlink.NAT{}
	families := familySet(0)
	for {
		num, p, rest, ok, err := nextAttr(body, flowSizes[:])
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		body = rest
		if err := storeFlowAttr(f, num, p, &families); err != nil {
			return err
		}
	}
	if f.Orig.Has&ctnetlink.TupleAddrs == 0 {
		return ErrNoAddress
	}
	if f.Orig.Has&ctnetlink.TupleProto == 0 {
		return ErrNoProto
	}
	if !complete(&f.Orig) {
		return ErrNoPorts
	}
	if !families.within(f.Orig.Family) || f.Master.Has&ctnetlink.TupleAddrs != 0 && f.Master.Family != f.Orig.Family {
		return ErrFamily
	}
	keepOwnAttrs(f)
	return nil
}

// familySet is the set of address families among the translations of one message.
type familySet uint8

const (
	hasIPv4 familySet = 1 << iota
	hasIPv6
)

func (s *familySet) add(addr []byte) {
	if len(addr) == 16 {
		*s |= hasIPv6
	} else {
		*s |= hasIPv4
	}
}

// within reports whether the set has no other family.
func (s familySet) within(family uint8) bool {
	if family == nl.FamilyIPv6 {
		return s&^hasIPv6 == 0
	}
	return s&^hasIPv4 == 0
}

func storeFlowAttr(f *ctnetlink.Flow, num int, p []byte, families *familySet) error {
	switch num {
	case flowIPv4, flowIPv6:
		parseAddrs(&f.Orig, p)
	case flowProto:
		parseProto(&f.Orig, p)
	case flowPorts:
		parsePorts(&f.Orig, p)
	case flowICMPType:
		f.Orig.ICMPType = p[0]
		f.Orig.Has |= ctnetlink.TupleICMPType
	case flowICMPCode:
		f.Orig.ICMPCode = p[0]
		f.Orig.Has |= ctnetlink.TupleICMPCode
	case flowICMPID:
		f.Orig.ICMPID = binary.LittleEndian.Uint16(p)
		f.Orig.Has |= ctnetlink.TupleICMPID
	case flowStatus:
		f.Status = binary.BigEndian.Uint32(p)
		f.Has |= ctnetlink.HasStatus
	case flowTimeout:
		f.Timeout = binary.BigEndian.Uint32(p)
		f.Has |= ctnetlink.HasTimeout
	case flowMark:
		f.Mark = binary.BigEndian.Uint32(p)
		f.Has |= ctnetlink.HasMark
	case flowZone:
		f.Zone = binary.BigEndian.Uint16(p)
		f.Has |= ctnetlink.HasZone
	case flowMasterIPv4, flowMasterIPv6:
		parseAddrs(&f.Master, p)
	case flowMasterProto:
		parseProto(&f.Master, p)
	case flowMasterPorts:
		parsePorts(&f.Master, p)
	case flowTCPState:
		return storeState(f, &f.TCPState, p[0], maxTCPState, ctnetlink.HasTCPState)
	case flowTCPWScaleOrg:
		f.TCPWScaleOrig = min(p[0], ctnetlink.MaxWindowScale)
		f.Has |= ctnetlink.HasTCPWScaleOrig
	case flowTCPWScaleRpl:
		f.TCPWScaleRepl = min(p[0], ctnetlink.MaxWindowScale)
		f.Has |= ctnetlink.HasTCPWScaleReply
	case flowSCTPState:
		return storeState(f, &f.SCTPState, p[0], maxSCTPState, ctnetlink.HasSCTPState)
	case flowSCTPVtagOrig:
		f.SCTPVtagOrig = binary.BigEndian.Uint32(p)
		f.Has |= ctnetlink.HasSCTPVtagOrig
	case flowSCTPVtagRepl:
		f.SCTPVtagReply = binary.BigEndian.Uint32(p)
		f.Has |= ctnetlink.HasSCTPVtagReply
	case flowDCCPState:
		return storeState(f, &f.DCCPState, p[0], maxDCCPState, ctnetlink.HasDCCPState)
	case flowDCCPRole:
		return storeState(f, &f.DCCPRole, p[0], maxDCCPRole, ctnetlink.HasDCCPRole)
	case flowSNATIPv4, flowSNATIPv6:
		families.add(p)
		storeNATAddr(&f.NATSrc, p)
		f.Has |= ctnetlink.HasNATSrc
	case flowDNATIPv4, flowDNATIPv6:
		families.add(p)
		storeNATAddr(&f.NATDst, p)
		f.Has |= ctnetlink.HasNATDst
	case flowSNATPort:
		storeNATPort(&f.NATSrc, p)
		f.Has |= ctnetlink.HasNATSrc
	case flowDNATPort:
		storeNATPort(&f.NATDst, p)
		f.Has |= ctnetlink.HasNATDst
	case flowSeqAdj:
		f.SeqAdjOrig = parseSeqAdj(p)
		f.SeqAdjReply = parseSeqAdj(p[12:])
		f.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
	case flowHelper:
		switch n := parseText(f.Helper[:], p); {
		case n < 0:
			return ErrAttrValue
		case n > 0:
			f.Has |= ctnetlink.HasHelper
		}
	case flowLabels:
		storeLabels(f, p)
	case flowSynproxy:
		f.Synproxy = ctnetlink.Synproxy{
			ITS:   binary.BigEndian.Uint32(p),
			ISN:   binary.BigEndian.Uint32(p[4:]),
			TSOff: binary.BigEndian.Uint32(p[8:]),
		}
		f.Has |= ctnetlink.HasSynproxy
	}
	return nil
}

func storeState(f *ctnetlink.Flow, field *uint8, v, largest uint8, has ctnetlink.Attr) error {
	if v > largest {
		return ErrAttrValue
	}
	*field = v
	f.Has |= has
	return nil
}

func storeNATAddr(n *ctnetlink.NAT, p []byte) {
	n.Addr = ctnetlink.Addr{}
	copy(n.Addr[:], p)
	n.HasAddr = true
}

func storeNATPort(n *ctnetlink.NAT, p []byte) {
	n.Port = binary.LittleEndian.Uint16(p)
	n.HasPort = n.Port != 0
}

func parseSeqAdj(p []byte) ctnetlink.SeqAdj {
	return ctnetlink.SeqAdj{
		CorrectionPos: binary.BigEndian.Uint32(p),
		OffsetBefore:  binary.BigEndian.Uint32(p[4:]),
		OffsetAfter:   binary.BigEndian.Uint32(p[8:]),
	}
}

// storeLabels stores as many words as a kernel has. A field that is not a multiple of a
// word is ignored, as by the C daemon.
func storeLabels(f *ctnetlink.Flow, p []byte) {
	if len(p) == 0 || len(p)%4 != 0 {
		return
	}
	f.Labels = ctnetlink.Labels{}
	n := min(len(p)/4, ctnetlink.LabelWords)
	for i := range n {
		f.Labels[i] = binary.BigEndian.Uint32(p[4*i:])
	}
	f.LabelsLen = uint8(n)
	f.Has |= ctnetlink.HasLabels
}

// keepOwnAttrs drops what does not belong to f's protocol, so that f and its tuples equal
// what a kernel would have sent.
func keepOwnAttrs(f *ctnetlink.Flow) {
	proto := f.Orig.Proto
	f.Has &^= ctnetlink.ForeignAttrs(proto)
	keepOwnFields(&f.Orig)
	keepOwnFields(&f.Master)
	if proto == ctnetlink.ProtoDCCP && f.Has&ctnetlink.HasDCCPState == 0 {
		// The sender's kernel does not track DCCP and knows no ports; a C daemon
		// sends uninitialised memory in their place.
		f.Orig.Has &^= ctnetlink.TuplePorts
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
	}
	if !hasPortsOrKeys(proto) {
		f.NATSrc.HasPort = false
		f.NATDst.HasPort = false
	}
	if !f.NATSrc.HasAddr && !f.NATSrc.HasPort {
		f.Has &^= ctnetlink.HasNATSrc
	}
	if !f.NATDst.HasAddr && !f.NATDst.HasPort {
		f.Has &^= ctnetlink.HasNATDst
	}
	// An incomplete master identifies no flow.
	if need := ctnetlink.TupleAddrs | ctnetlink.TupleProto; f.Master.Has&need != need {
		f.Master = ctnetlink.Tuple{}
	}
}

// keepOwnFields clears the layer-4 fields that t's protocol does not have.
func keepOwnFields(t *ctnetlink.Tuple) {
	if !hasPortsOrKeys(t.Proto) {
		t.Has &^= ctnetlink.TuplePorts
		t.SrcPort, t.DstPort = 0, 0
	}
	if !ctnetlink.IsICMP(t.Proto) {
		t.Has &^= ctnetlink.TupleICMP
		t.ICMPID, t.ICMPType, t.ICMPCode = 0, 0, 0
	}
}

func hasPortsOrKeys(proto uint8) bool {
	return ctnetlink.HasPorts(proto) || proto == ctnetlink.ProtoGRE
}
