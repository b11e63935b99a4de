package ctnetlink

import "ctbox/nl"

// Decode sets f to the flow in attrs: what follows the nfgenmsg header of a
// ctnetlink message. What f held is gone, its memory is reused, so that decoding
// a dump allocates nothing. Unknown attributes are skipped. The error is an
// *AttrError; f is then half filled.
func (f *Flow) Decode(b []byte) error {
	f.Reset()
	a := nl.Attrs{Rest: b}
	for a.Next() {
		v := a.Value
		switch a.Type {
		case ctaTupleOrig:
			if err := f.Orig.decode(v, "original tuple"); err != nil {
				return err
			}
		case ctaTupleReply:
			if err := f.Reply.decode(v, "reply tuple"); err != nil {
				return err
			}
		case ctaTupleMaster:
			if err := f.Master.decode(v, "master tuple"); err != nil {
				return err
			}
		case ctaStatus, ctaTimeout, ctaMark, ctaUse, ctaID, ctaSecmark:
			if len(v) < 4 {
				return a.Short("flow")
			}
			f.setU32(a.Type, be.Uint32(v))
		case ctaZone:
			if len(v) < 2 {
				return a.Short("flow")
			}
			f.Zone = be.Uint16(v)
			f.Has |= HasZone
		case ctaProtoinfo:
			if err := f.decodeProtoinfo(v); err != nil {
				return err
			}
		case ctaCountersOrig:
			if err := f.CountersOrig.decode(v); err != nil {
				return err
			}
			f.Has |= HasCountersOrig
		case ctaCountersReply:
			if err := f.CountersReply.decode(v); err != nil {
				return err
			}
			f.Has |= HasCountersReply
		case ctaTimestamp:
			if err := f.decodeTimestamp(v); err != nil {
				return err
			}
		case ctaTimestampEvent:
			if len(v) < 8 {
				return a.Short("flow")
			}
			f.TimestampEvent = be.Uint64(v)
			f.Has |= HasTimestampEvent
		case ctaLabels:
			f.LabelsLen = f.Labels.decode(v)
			f.Has |= HasLabels
		case ctaLabelsMask:
			f.LabelsMaskLen = f.LabelsMask.decode(v)
			f.Has |= HasLabelsMask
		default:
			if err := f.decodeRare(&a); err != nil {
				return err
			}
		}
	}
	return a.End("flow")
}

func (f *Flow) setU32(typ uint16, v uint32) {
	switch typ {
	case ctaStatus:
		f.Status = v
		f.Has |= HasStatus
	case ctaTimeout:
		f.Timeout = v
		f.Has |= HasTimeout
	case ctaMark:
		f.Mark = v
		f.Has |= HasMark
	case ctaUse:
		f.Use = v
		f.Has |= HasUse
	case ctaID:
		f.ID = v
		f.Has |= HasID
	case ctaSecmark:
		f.Secmark = v
		f.Has |= HasSecmark
	}
}

// decodeRare takes the attributes that few flows have.
func (f *Flow) decodeRare(a *nl.Attrs) error {
	v := a.Value
	switch a.Type {
	case ctaHelp:
		in := nl.Attrs{Rest: v}
		for in.Next() {
			switch in.Type {
			case ctaHelpName:
				f.Helper = Name{}
				copy(f.Helper[:NameLen-1], in.Value)
				f.Has |= HasHelper
			case ctaHelpInfo:
				f.HelperInfo = append(f.HelperInfo[:0], in.Value...)
				f.Has |= HasHelperInfo
			}
		}
		return in.End("helper")
	case ctaSecctx:
		in := nl.Attrs{Rest: v}
		for in.Next() {
			if in.Type == ctaSecctxName {
				text := in.Value
				for len(text) > 0 && text[len(text)-1] == 0 {
					text = text[:len(text)-1]
				}
				f.Secctx = append(f.Secctx[:0], text...)
				f.Has |= HasSecctx
			}
		}
		return in.End("security context")
	case ctaSeqAdjOrig:
		f.Has |= HasSeqAdjOrig
		return f.SeqAdjOrig.decode(v)
	case ctaSeqAdjReply:
		f.Has |= HasSeqAdjReply
		return f.SeqAdjReply.decode(v)
	case ctaSynproxy:
		f.Synproxy = Synproxy{}
		f.Has |= HasSynproxy
		return decodeU32s(v, "synproxy", &f.Synproxy.ISN, &f.Synproxy.ITS, &f.Synproxy.TSOff)
	case ctaNATSrc:
		f.Has |= HasNATSrc
		return f.NATSrc.decode(v)
	case ctaNATDst:
		f.Has |= HasNATDst
		return f.NATDst.decode(v)
	case ctaMarkMask:
		if len(v) < 4 {
			return a.Short("flow")
		}
		f.MarkMask = be.Uint32(v)
		f.Has |= HasMarkMask
	case ctaStatusMask:
		if len(v) < 4 {
			return a.Short("flow")
		}
		f.StatusMask = be.Uint32(v)
		f.Has |= HasStatusMask
	}
	return nil
}

// decode sets t to the tuple in v. Absent fields become zero.
func (t *Tuple) decode(v []byte, object string) error {
	*t = Tuple{}
	a := nl.Attrs{Rest: v}
	for a.Next() {
		switch a.Type {
		case ctaTupleIP:
			if err := t.decodeIP(a.Value, object); err != nil {
				return err
			}
		case ctaTupleProto:
			if err := t.decodeProto(a.Value, object); err != nil {
				return err
			}
		case ctaTupleZone:
			if len(a.Value) < 2 {
				return a.Short(object)
			}
			t.Zone = be.Uint16(a.Value)
			t.Has |= TupleZone
		}
	}
	return a.End(object)
}

func (t *Tuple) decodeIP(v []byte, object string) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		size, family := 4, uint8(nl.FamilyIPv4)
		if a.Type == ctaIPv6Src || a.Type == ctaIPv6Dst {
			size, family = 16, nl.FamilyIPv6
		}
		switch a.Type {
		case ctaIPv4Src, ctaIPv6Src:
			if len(a.Value) < size {
				return a.Short(object)
			}
			t.Src = Addr{}
			copy(t.Src[:], a.Value[:size])
			t.Has |= TupleSrc
			t.Family = family
		case ctaIPv4Dst, ctaIPv6Dst:
			if len(a.Value) < size {
				return a.Short(object)
			}
			t.Dst = Addr{}
			copy(t.Dst[:], a.Value[:size])
			t.Has |= TupleDst
			t.Family = family
		}
	}
	return a.End(object)
}

func (t *Tuple) decodeProto(v []byte, object string) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		size := 1
		switch a.Type {
		case ctaProtoSrcPort, ctaProtoDstPort, ctaProtoICMPID, ctaProtoICMPv6ID:
			size = 2
		}
		if len(a.Value) < size {
			return a.Short(object)
		}
		switch a.Type {
		case ctaProtoNum:
			t.Proto = a.Value[0]
			t.Has |= TupleProto
		case ctaProtoSrcPort:
			t.SrcPort = be.Uint16(a.Value)
			t.Has |= TupleSrcPort
		case ctaProtoDstPort:
			t.DstPort = be.Uint16(a.Value)
			t.Has |= TupleDstPort
		case ctaProtoICMPID, ctaProtoICMPv6ID:
			t.ICMPID = be.Uint16(a.Value)
			t.Has |= TupleICMPID
		case ctaProtoICMPType, ctaProtoICMPv6Type:
			t.ICMPType = a.Value[0]
			t.Has |= TupleICMPType
		case ctaProtoICMPCode, ctaProtoICMPv6Code:
			t.ICMPCode = a.Value[0]
			t.Has |= TupleICMPCode
		}
	}
	return a.End(object)
}

func (f *Flow) decodeProtoinfo(v []byte) error {
	outer := nl.Attrs{Rest: v}
	for outer.Next() {
		var err error
		switch outer.Type {
		case ctaProtoinfoTCP:
			err = f.decodeTCP(outer.Value)
		case ctaProtoinfoSCTP:
			err = f.decodeSCTP(outer.Value)
		case ctaProtoinfoDCCP:
			err = f.decodeDCCP(outer.Value)
		}
		if err != nil {
			return err
		}
	}
	return outer.End("protocol information")
}

func (f *Flow) decodeTCP(v []byte) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		if len(a.Value) < 1 {
			return a.Short("TCP information")
		}
		switch a.Type {
		case ctaTCPState:
			f.TCPState = a.Value[0]
			f.Has |= HasTCPState
		case ctaTCPWScaleOrig:
			f.TCPWScaleOrig = a.Value[0]
			f.Has |= HasTCPWScaleOrig
		case ctaTCPWScaleReply:
			f.TCPWScaleRepl = a.Value[0]
			f.Has |= HasTCPWScaleReply
		case ctaTCPFlagsOrig:
			if len(a.Value) < 2 {
				return a.Short("TCP information")
			}
			f.TCPFlagsOrig = TCPFlags{a.Value[0], a.Value[1]}
			f.Has |= HasTCPFlagsOrig
		case ctaTCPFlagsReply:
			if len(a.Value) < 2 {
				return a.Short("TCP information")
			}
			f.TCPFlagsReply = TCPFlags{a.Value[0], a.Value[1]}
			f.Has |= HasTCPFlagsReply
		}
	}
	return a.End("TCP information")
}

func (f *Flow) decodeSCTP(v []byte) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		switch a.Type {
		case ctaSCTPState:
			if len(a.Value) < 1 {
				return a.Short("SCTP information")
			}
			f.SCTPState = a.Value[0]
			f.Has |= HasSCTPState
		case ctaSCTPVtagOrig, ctaSCTPVtagReply:
			if len(a.Value) < 4 {
				return a.Short("SCTP information")
			}
			if a.Type == ctaSCTPVtagOrig {
				f.SCTPVtagOrig = be.Uint32(a.Value)
				f.Has |= HasSCTPVtagOrig
			} else {
				f.SCTPVtagReply = be.Uint32(a.Value)
				f.Has |= HasSCTPVtagReply
			}
		}
	}
	return a.End("SCTP information")
}

func (f *Flow) decodeDCCP(v []byte) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		switch a.Type {
		case ctaDCCPState, ctaDCCPRole:
			if len(a.Value) < 1 {
				return a.Short("DCCP information")
			}
			if a.Type == ctaDCCPState {
				f.DCCPState = a.Value[0]
				f.Has |= HasDCCPState
			} else {
				f.DCCPRole = a.Value[0]
				f.Has |= HasDCCPRole
			}
		case ctaDCCPHandshakeSeq:
			if len(a.Value) < 8 {
				return a.Short("DCCP information")
			}
			f.DCCPHandshakeSeq = be.Uint64(a.Value)
			f.Has |= HasDCCPHandshakeSeq
		}
	}
	return a.End("DCCP information")
}

func (c *Counters) decode(v []byte) error {
	*c = Counters{}
	a := nl.Attrs{Rest: v}
	for a.Next() {
		size := 8
		if a.Type == ctaCounters32Packets || a.Type == ctaCounters32Bytes {
			size = 4
		}
		switch a.Type {
		case ctaCountersPackets, ctaCountersBytes, ctaCounters32Packets, ctaCounters32Bytes:
			if len(a.Value) < size {
				return a.Short("counters")
			}
		}
		switch a.Type {
		case ctaCountersPackets:
			c.Packets = be.Uint64(a.Value)
		case ctaCountersBytes:
			c.Bytes = be.Uint64(a.Value)
		case ctaCounters32Packets:
			c.Packets = uint64(be.Uint32(a.Value))
		case ctaCounters32Bytes:
			c.Bytes = uint64(be.Uint32(a.Value))
		}
	}
	return a.End("counters")
}

func (f *Flow) decodeTimestamp(v []byte) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		switch a.Type {
		case ctaTimestampStart, ctaTimestampStop:
			if len(a.Value) < 8 {
				return a.Short("timestamp")
			}
			if a.Type == ctaTimestampStart {
				f.TimestampStart = be.Uint64(a.Value)
				f.Has |= HasTimestampStart
			} else {
				f.TimestampStop = be.Uint64(a.Value)
				f.Has |= HasTimestampStop
			}
		}
	}
	return a.End("timestamp")
}

// decode takes as many whole words as l holds and returns their number.
func (l *Labels) decode(v []byte) uint8 {
	*l = Labels{}
	n := min(len(v)/4, LabelWords)
	for i := range n {
		l[i] = native.Uint32(v[4*i:])
	}
	return uint8(n)
}

func (s *SeqAdj) decode(v []byte) error {
	*s = SeqAdj{}
	return decodeU32s(v, "sequence adjustment", &s.CorrectionPos, &s.OffsetBefore, &s.OffsetAfter)
}

// decodeU32s takes a nest whose attributes 1, 2, … are 32-bit numbers.
func decodeU32s(v []byte, object string, fields ...*uint32) error {
	a := nl.Attrs{Rest: v}
	for a.Next() {
		i := int(a.Type) - 1
		if i < 0 || i >= len(fields) {
			continue
		}
		if len(a.Value) < 4 {
			return a.Short(object)
		}
		*fields[i] = be.Uint32(a.Value)
	}
	return a.End(object)
}

func (n *NAT) decode(v []byte) error {
	*n = NAT{}
	a := nl.Attrs{Rest: v}
	for a.Next() {
		size := 0
		switch a.Type {
		case ctaNATv4Min:
			size = 4
		case ctaNATv6Min:
			size = 16
		case ctaNATProto:
			in := nl.Attrs{Rest: a.Value}
			for in.Next() {
				if in.Type != ctaProtoNATPortMin {
					continue
				}
				if len(in.Value) < 2 {
					return in.Short("NAT port")
				}
				n.Port, n.HasPort = be.Uint16(in.Value), true
			}
			if err := in.End("NAT port"); err != nil {
				return err
			}
			continue
		default:
			continue
		}
		if len(a.Value) < size {
			return a.Short("NAT")
		}
		copy(n.Addr[:], a.Value[:size])
		n.HasAddr = true
	}
	return a.End("NAT")
}
