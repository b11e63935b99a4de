package format

import (
	"strconv"
	"unicode/utf8"

	"ctbox/nl/ctnetlink"
)

// The elements around all flows, or all expectations, of one run. Each ends
// with a newline.
const (
	XMLHeader       = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>\n"
	XMLFooter       = "</conntrack>\n"
	XMLExpectHeader = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>\n"
	XMLExpectFooter = "</expect>\n"
)

// flowTags open a flow element.
var flowTags = [...]string{
	None:    `<flow>`,
	New:     `<flow type="new">`,
	Update:  `<flow type="update">`,
	Destroy: `<flow type="destroy">`,
}

// independent are the attributes of which any adds the third meta element.
const independent = ctnetlink.HasTCPState | ctnetlink.HasSCTPState | ctnetlink.HasDCCPState | ctnetlink.HasTimeout | ctnetlink.HasMark |
	ctnetlink.HasSecmark | ctnetlink.HasSecctx | ctnetlink.HasZone | ctnetlink.HasUse | ctnetlink.HasStatus | ctnetlink.HasID | ctnetlink.HasLabels |
	ctnetlink.HasTimestampStart | ctnetlink.HasTimestampStop

// appendFlowXML writes one flow element. It adds to conntrack-tools' form in two places:
// SCTP and DCCP states have their own names, and the layer4 element of ICMP has type,
// code and id.
func appendFlowXML(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	has := f.Has &^ s.Without
	dst = append(dst, flowTags[e.Type]...)

	// Both directions have counters if the original one has.
	counters := has&ctnetlink.HasCountersOrig != 0
	dst = append(dst, `<meta direction="original">`...)
	dst = appendTupleXML(dst, &f.Orig)
	if counters {
		dst = appendCountersXML(dst, &f.CountersOrig)
	}
	dst = append(dst, `</meta><meta direction="reply">`...)
	dst = appendTupleXML(dst, &f.Reply)
	if counters && has&ctnetlink.HasCountersReply != 0 {
		dst = appendCountersXML(dst, &f.CountersReply)
	}
	dst = append(dst, `</meta>`...)

	if has&independent != 0 {
		dst = append(dst, `<meta direction="independent">`...)
		dst = appendIndependentXML(dst, f, has, s)
		dst = append(dst, `</meta>`...)
	}
	if s.Timestamp {
		dst = appendWhenXML(dst, s, e.Time)
	}
	if has&ctnetlink.HasHelper != 0 {
		dst = appendTextXML(dst, "helper", f.Helper.Bytes())
	}
	return append(dst, `</flow>`...)
}

func appendTupleXML(dst []byte, t *ctnetlink.Tuple) []byte {
	proto := tupleProto(t)
	dst = appendLayer3XML(dst, t.Family)
	dst = appendAddrsXML(dst, t)
	dst = append(dst, `</layer3>`...)
	dst = appendLayer4XML(dst, proto)
	dst = appendPortsXML(dst, t, proto)
	dst = append(dst, `</layer4>`...)
	if t.Has&ctnetlink.TupleZone != 0 {
		dst = appendNumberXML(dst, "zone", uint64(t.Zone))
	}
	return dst
}

func appendLayer3XML(dst []byte, family uint8) []byte {
	dst = strconv.AppendUint(append(dst, `<layer3 protonum="`...), uint64(family), 10)
	dst = append(append(dst, `" protoname="`...), ctnetlink.FamilyName(family)...)
	return append(dst, `">`...)
}

func appendLayer4XML(dst []byte, proto uint8) []byte {
	dst = strconv.AppendUint(append(dst, `<layer4 protonum="`...), uint64(proto), 10)
	dst = append(append(dst, `" protoname="`...), ctnetlink.ProtoName(proto)...)
	return append(dst, `">`...)
}

func appendAddrsXML(dst []byte, t *ctnetlink.Tuple) []byte {
	dst = AppendAddr(append(dst, `<src>`...), t.Family, &t.Src)
	dst = AppendAddr(append(dst, `</src><dst>`...), t.Family, &t.Dst)
	return append(dst, `</dst>`...)
}

func appendPortsXML(dst []byte, t *ctnetlink.Tuple, proto uint8) []byte {
	switch {
	case ctnetlink.HasPorts(proto):
		dst = appendNumberXML(dst, "sport", uint64(t.SrcPort))
		dst = appendNumberXML(dst, "dport", uint64(t.DstPort))
	case proto == ctnetlink.ProtoGRE:
		dst = appendHex(append(dst, `<srckey>0x`...), uint64(t.SrcPort))
		dst = appendHex(append(dst, `</srckey><dstkey>0x`...), uint64(t.DstPort))
		dst = append(dst, `</dstkey>`...)
	case ctnetlink.IsICMP(proto):
		// Not <type>, <code> and <id>: programs that look for the flow's <id>
		// anywhere in the element must not find this one.
		dst = appendNumberXML(dst, "icmp-type", uint64(t.ICMPType))
		dst = appendNumberXML(dst, "icmp-code", uint64(t.ICMPCode))
		dst = appendNumberXML(dst, "icmp-id", uint64(t.ICMPID))
	}
	return dst
}

func appendCountersXML(dst []byte, c *ctnetlink.Counters) []byte {
	dst = append(dst, `<counters>`...)
	dst = appendNumberXML(dst, "packets", c.Packets)
	dst = appendNumberXML(dst, "bytes", c.Bytes)
	return append(dst, `</counters>`...)
}

func appendIndependentXML(dst []byte, f *ctnetlink.Flow, has ctnetlink.Attr, s *Style) []byte {
	if name, ok := stateName(f, has); ok {
		dst = append(append(append(dst, `<state>`...), name...), `</state>`...)
	}
	if has&ctnetlink.HasTimeout != 0 {
		dst = appendNumberXML(dst, "timeout", uint64(f.Timeout))
	}
	if has&ctnetlink.HasMark != 0 {
		dst = appendNumberXML(dst, "mark", uint64(f.Mark))
	}
	if s.Labels != nil && has&ctnetlink.HasLabels != 0 {
		dst = append(dst, `<labels>`...)
		for bit, name := range s.Labels {
			if name != "" && f.Labels.Bit(bit) {
				dst = append(append(append(dst, `<label>`...), name...), `</label>`...)
			}
		}
		dst = append(dst, `</labels>`...)
	}
	if has&ctnetlink.HasSecmark != 0 {
		dst = appendNumberXML(dst, "secmark", uint64(f.Secmark))
	}
	if has&ctnetlink.HasSecctx != 0 {
		dst = appendTextXML(dst, "secctx", f.Secctx)
	}
	if has&ctnetlink.HasZone != 0 {
		dst = appendNumberXML(dst, "zone", uint64(f.Zone))
	}
	if has&ctnetlink.HasUse != 0 {
		dst = appendNumberXML(dst, "use", uint64(f.Use))
	}
	if has&ctnetlink.HasID != 0 {
		dst = appendNumberXML(dst, "id", uint64(f.ID))
	}
	if has&ctnetlink.HasStatus != 0 {
		if f.Status&ctnetlink.StatusAssured != 0 {
			dst = append(dst, `<assured/>`...)
		}
		if f.Status&ctnetlink.StatusSeenReply == 0 {
			dst = append(dst, `<unreplied/>`...)
		}
	}
	stopped := has&ctnetlink.HasTimestampStop != 0
	if s.KTimestamp && has&(ctnetlink.HasTimestampStart|ctnetlink.HasTimestampStop) != 0 {
		dst = append(dst, `<timestamp>`...)
		if has&ctnetlink.HasTimestampStart != 0 {
			dst = appendNumberXML(dst, "start", f.TimestampStart)
		}
		if stopped {
			dst = appendNumberXML(dst, "stop", f.TimestampStop)
		}
		dst = append(dst, `</timestamp>`...)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		// For an ended flow the difference is truncated to seconds, not start and stop.
		age := s.age(f.TimestampStart, f.TimestampStop, stopped)
		if stopped && f.TimestampStop > f.TimestampStart {
			age = (f.TimestampStop - f.TimestampStart) / 1e9
		}
		dst = appendNumberXML(dst, "deltatime", age)
	}
	return dst
}

// appendWhenXML writes a date in the style's zone, weekdays from Sunday = 1.
func appendWhenXML(dst []byte, s *Style, ns int64) []byte {
	t := s.local(ns)
	hour, minute, second := t.Clock()
	year, month, day := t.Date()
	dst = appendNumberXML(append(dst, `<when>`...), "hour", uint64(hour))
	dst = append(appendTwo(append(dst, `<min>`...), minute), `</min>`...)
	dst = append(appendTwo(append(dst, `<sec>`...), second), `</sec>`...)
	dst = appendNumberXML(dst, "wday", uint64(t.Weekday())+1)
	dst = appendNumberXML(dst, "day", uint64(day))
	dst = appendNumberXML(dst, "month", uint64(month))
	dst = appendNumberXML(dst, "year", uint64(year))
	return append(dst, `</when>`...)
}

func appendNumberXML(dst []byte, tag string, v uint64) []byte {
	dst = append(append(append(dst, '<'), tag...), '>')
	dst = strconv.AppendUint(dst, v, 10)
	return append(append(append(dst, '<', '/'), tag...), '>')
}

func appendTextXML(dst []byte, tag string, text []byte) []byte {
	dst = append(append(append(dst, '<'), tag...), '>')
	dst = appendEscapedXML(dst, text)
	return append(append(append(dst, '<', '/'), tag...), '>')
}

// appendEscapedXML writes a text as XML 1.0 character data. Characters that XML does not
// allow, and bytes that are not UTF-8, become U+FFFD.
func appendEscapedXML(dst, text []byte) []byte {
	for len(text) > 0 {
		c := text[0]
		if c < utf8.RuneSelf {
			switch {
			case c == '<':
				dst = append(dst, "&lt;"...)
			case c == '>':
				dst = append(dst, "&gt;"...)
			case c == '&':
				dst = append(dst, "&amp;"...)
			case c < ' ' && c != '\t' || c == 0x7f:
				dst = utf8.AppendRune(dst, utf8.RuneError)
			default:
				dst = append(dst, c)
			}
			text = text[1:]
			continue
		}
		r, size := utf8.DecodeRune(text)
		if r == 0xfffe || r == 0xffff {
			r = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, r)
		text = text[size:]
	}
	return dst
}

// appendExpectXML writes one expectation.
func appendExpectXML(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	has := x.Has &^ s.WithoutExpect
	proto := tupleProto(&x.Tuple)
	parts := [...]struct {
		tag, end string
		t        *ctnetlink.Tuple
		proto    uint8
	}{
		{"<expected>", "</expected>", &x.Tuple, proto},
		{"<mask>", "</mask>", &x.Mask, proto},
		{"<master>", "</master>", &x.Master, tupleProto(&x.Master)},
	}
	dst = append(dst, flowTags[e.Type]...)
	dst = appendLayer3XML(dst, x.Tuple.Family)
	for _, p := range parts {
		dst = append(appendAddrsXML(append(dst, p.tag...), p.t), p.end...)
	}
	dst = append(dst, `</layer3>`...)
	dst = appendLayer4XML(dst, proto)
	for _, p := range parts {
		dst = append(appendPortsXML(append(dst, p.tag...), p.t, p.proto), p.end...)
	}
	dst = append(dst, `</layer4><meta>`...)

	if has&ctnetlink.ExpectHasHelper != 0 {
		dst = appendTextXML(dst, "helper-name", x.Helper.Bytes())
	}
	if has&ctnetlink.ExpectHasTimeout != 0 {
		dst = appendNumberXML(dst, "timeout", uint64(x.Timeout))
	}
	if has&ctnetlink.ExpectHasClass != 0 {
		dst = appendNumberXML(dst, "class", uint64(x.Class))
	}
	if has&ctnetlink.ExpectHasZone != 0 {
		dst = appendNumberXML(dst, "zone", uint64(x.Zone))
	}
	if s.Timestamp {
		dst = appendWhenXML(dst, s, e.Time)
	}
	if has&ctnetlink.ExpectHasFlags != 0 {
		if x.Flags&ctnetlink.ExpectPermanent != 0 {
			dst = append(dst, `<permanent/>`...)
		}
		if x.Flags&ctnetlink.ExpectInactive != 0 {
			dst = append(dst, `<inactive/>`...)
		}
		if x.Flags&ctnetlink.ExpectUserspace != 0 {
			dst = append(dst, `<userspace/>`...)
		}
	}
	return append(dst, `</meta></flow>`...)
}
