package nl

// Decode sets f to the flow in attrs: what follows the nfgenmsg header of a
// ctnetlink message. What f held is gone, its memory is reused, so that decoding
// a dump allocates nothing. Unknown attributes are skipped. The error is an
// *AttrError; f is then half filled.
func (f *Flow) Decode(b []byte) error {
	f.Reset()
	a := attrs{rest: b}
	for a.next() {
		v := a.val
		switch a.typ {
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
				return a.short("flow")
			}
			f.setU32(a.typ, be.Uint32(v))
		case ctaZone:
			if len(v) < 2 {
				return a.short("flow")
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
				return a.short("flow")
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
	return a.end("flow")
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
func (f *Flow) decodeRare(a *attrs) error {
	v := a.val
	switch a.typ {
	case ctaHelp:
		in := attrs{rest: v}
		for in.next() {
			switch in.typ {
			case ctaHelpName:
				f.Helper = Name{}
				copy(f.Helper[:NameLen-1], in.val)
				f.Has |= HasHelper
			case ctaHelpInfo:
				f.HelperInfo = append(f.HelperInfo[:0], in.val...)
				f.Has |= HasHelperInfo
			}
		}
		return in.end("helper")
	case ctaSecctx:
		in := attrs{rest: v}
		for in.next() {
			if in.typ == ctaSecctxName {
				text := in.val
				for len(text) > 0 && text[len(text)-1] == 0 {
					text = text[:len(text)-1]
				}
				f.Secctx = append(f.Secctx[:0], text...)
				f.Has |= HasSecctx
			}
		}
		return in.end("security context")
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
			return a.short("flow")
		}
		f.MarkMask = be.Uint32(v)
		f.Has |= HasMarkMask
	case ctaStatusMask:
		if len(v) < 4 {
			return a.short("flow")
		}
		f.StatusMask = be.Uint32(v)
		f.Has |= HasStatusMask
	}
	return nil
}

// decode sets t to the tuple in v. Absent fields become zero.
func (t *Tuple) decode(v []byte, object string) error {
	*t = Tuple{}
	a := attrs{rest: v}
	for a.next() {
		switch a.typ {
		case ctaTupleIP:
			if err := t.decodeIP(a.val, object); err != nil {
				return err
			}
		case ctaTupleProto:
			if err := t.decodeProto(a.val, object); err != nil {
				return err
			}
		case ctaTupleZone:
			if len(a.val) < 2 {
				return a.short(object)
			}
			t.Zone = be.Uint16(a.val)
			t.Has |= TupleZone
		}
	}
	return a.end(object)
}

func (t *Tuple) decodeIP(v []byte, object string) error {
	a := attrs{rest: v}
	for a.next() {
		size, family := 4, uint8(FamilyIPv4)
		if a.typ == ctaIPv6Src || a.typ == ctaIPv6Dst {
			size, family = 16, FamilyIPv6
		}
		switch a.typ {
		case ctaIPv4Src, ctaIPv6Src:
			if len(a.val) < size {
				return a.short(object)
			}
			t.Src = Addr{}
			copy(t.Src[:], a.val[:size])
			t.Has |= TupleSrc
			t.Family = family
		case ctaIPv4Dst, ctaIPv6Dst:
			if len(a.val) < size {
				return a.short(object)
			}
			t.Dst = Addr{}
			copy(t.Dst[:], a.val[:size])
			t.Has |= TupleDst
			t.Family = family
		}
	}
	return a.end(object)
}

func (t *Tuple) decodeProto(v []byte, object string) error {
	a := attrs{rest: v}
	for a.next() {
		size := 1
		switch a.typ {
		case ctaProtoSrcPort, ctaProtoDstPort, ctaProtoICMPID, ctaProtoICMPv6ID:
			size = 2
		}
		if len(a.val) < size {
			return a.short(object)
		}
		switch a.typ {
		case ctaProtoNum:
			t.Proto = a.val[0]
			t.Has |= TupleProto
		case ctaProtoSrcPort:
			t.SrcPort = be.Uint16(a.val)
			t.Has |= TupleSrcPort
		case ctaProtoDstPort:
			t.DstPort = be.Uint16(a.val)
			t.Has |= TupleDstPort
		case ctaProtoICMPID, ctaProtoICMPv6ID:
			t.ICMPID = be.Uint16(a.val)
			t.Has |= TupleICMPID
		case ctaProtoICMPType, ctaProtoICMPv6Type:
			t.ICMPType = a.val[0]
			t.Has |= TupleICMPType
		case ctaProtoICMPCode, ctaProtoICMPv6Code:
			t.ICMPCode = a.val[0]
			t.Has |= TupleICMPCode
		}
	}
	return a.end(object)
}

func (f *Flow) decodeProtoinfo(v []byte) error {
	outer := attrs{rest: v}
	for outer.next() {
		var err error
		switch outer.typ {
		case ctaProtoinfoTCP:
			err = f.decodeTCP(outer.val)
		case ctaProtoinfoSCTP:
			err = f.decodeSCTP(outer.val)
		case ctaProtoinfoDCCP:
			err = f.decodeDCCP(outer.val)
		}
		if err != nil {
			return err
		}
	}
	return outer.end("protocol information")
}

func (f *Flow) decodeTCP(v []byte) error {
	a := attrs{rest: v}
	for a.next() {
		if len(a.val) < 1 {
			return a.short("TCP information")
		}
		switch a.typ {
		case ctaTCPState:
			f.TCPState = a.val[0]
			f.Has |= HasTCPState
		case ctaTCPWScaleOrig:
			f.TCPWScaleOrig = a.val[0]
			f.Has |= HasTCPWScaleOrig
		case ctaTCPWScaleReply:
			f.TCPWScaleRepl = a.val[0]
			f.Has |= HasTCPWScaleReply
		case ctaTCPFlagsOrig:
			if len(a.val) < 2 {
				return a.short("TCP information")
			}
			f.TCPFlagsOrig = TCPFlags{a.val[0], a.val[1]}
			f.Has |= HasTCPFlagsOrig
		case ctaTCPFlagsReply:
			if len(a.val) < 2 {
				return a.short("TCP information")
			}
			f.TCPFlagsReply = TCPFlags{a.val[0], a.val[1]}
			f.Has |= HasTCPFlagsReply
		}
	}
	return a.end("TCP information")
}

func (f *Flow) decodeSCTP(v []byte) error {
	a := attrs{rest: v}
	for a.next() {
		switch a.typ {
		case ctaSCTPState:
			if len(a.val) < 1 {
				return a.short("SCTP information")
			}
			f.SCTPState = a.val[0]
			f.Has |= HasSCTPState
		case ctaSCTPVtagOrig, ctaSCTPVtagReply:
			if len(a.val) < 4 {
				return a.short("SCTP information")
			}
			if a.typ == ctaSCTPVtagOrig {
				f.SCTPVtagOrig = be.Uint32(a.val)
				f.Has |= HasSCTPVtagOrig
			} else {
				f.SCTPVtagReply = be.Uint32(a.val)
				f.Has |= HasSCTPVtagReply
			}
		}
	}
	return a.end("SCTP information")
}

func (f *Flow) decodeDCCP(v []byte) error {
	a := attrs{rest: v}
	for a.next() {
		switch a.typ {
		case ctaDCCPState, ctaDCCPRole:
			if len(a.val) < 1 {
				return a.short("DCCP information")
			}
			if a.typ == ctaDCCPState {
				f.DCCPState = a.val[0]
				f.Has |= HasDCCPState
			} else {
				f.DCCPRole = a.val[0]
				f.Has |= HasDCCPRole
			}
		case ctaDCCPHandshakeSeq:
			if len(a.val) < 8 {
				return a.short("DCCP information")
			}
			f.DCCPHandshakeSeq = be.Uint64(a.val)
			f.Has |= HasDCCPHandshakeSeq
		}
	}
	return a.end("DCCP information")
}

func (c *Counters) decode(v []byte) error {
	*c = Counters{}
	a := attrs{rest: v}
	for a.next() {
		size := 8
		if a.typ == ctaCounters32Packets || a.typ == ctaCounters32Bytes {
			size = 4
		}
		switch a.typ {
		case ctaCountersPackets, ctaCountersBytes, ctaCounters32Packets, ctaCounters32Bytes:
			if len(a.val) < size {
				return a.short("counters")
			}
		}
		switch a.typ {
		case ctaCountersPackets:
			c.Packets = be.Uint64(a.val)
		case ctaCountersBytes:
			c.Bytes = be.Uint64(a.val)
		case ctaCounters32Packets:
			c.Packets = uint64(be.Uint32(a.val))
		case ctaCounters32Bytes:
			c.Bytes = uint64(be.Uint32(a.val))
		}
	}
	return a.end("counters")
}

func (f *Flow) decodeTimestamp(v []byte) error {
	a := attrs{rest: v}
	for a.next() {
		switch a.typ {
		case ctaTimestampStart, ctaTimestampStop:
			if len(a.val) < 8 {
				return a.short("timestamp")
			}
			if a.typ == ctaTimestampStart {
				f.TimestampStart = be.Uint64(a.val)
				f.Has |= HasTimestampStart
			} else {
				f.TimestampStop = be.Uint64(a.val)
				f.Has |= HasTimestampStop
			}
		}
	}
	return a.end("timestamp")
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
	a := attrs{rest: v}
	for a.next() {
		i := int(a.typ) - 1
		if i < 0 || i >= len(fields) {
			continue
		}
		if len(a.val) < 4 {
			return a.short(object)
		}
		*fields[i] = be.Uint32(a.val)
	}
	return a.end(object)
}

func (n *NAT) decode(v []byte) error {
	*n = NAT{}
	a := attrs{rest: v}
	for a.next() {
		size := 0
		switch a.typ {
		case ctaNATv4Min:
			size = 4
		case ctaNATv6Min:
			size = 16
		case ctaNATProto:
			in := attrs{rest: a.val}
			for in.next() {
				if in.typ != ctaProtoNATPortMin {
					continue
				}
				if len(in.val) < 2 {
					return in.short("NAT port")
				}
				n.Port, n.HasPort = be.Uint16(in.val), true
			}
			if err := in.end("NAT port"); err != nil {
				return err
			}
			continue
		default:
			continue
		}
		if len(a.val) < size {
			return a.short("NAT")
		}
		copy(n.Addr[:], a.val[:size])
		n.HasAddr = true
	}
	return a.end("NAT")
}
