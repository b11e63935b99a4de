package format

import (
	"strconv"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// prefixes mark the event at the beginning of a line of text.
var prefixes = [...]string{New: "    [NEW] ", Update: " [UPDATE] ", Destroy: "[DESTROY] "}

// appendFlowText writes the fields of a flow in the order of conntrack-tools. Each is followed by
// one space, the last of which is removed.
func appendFlowText(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	has := f.Has &^ s.Without
	if s.Timestamp {
		dst = appendStamp(dst, e.Time)
	}
	if e.Type != None {
		dst = append(dst, prefixes[e.Type]...)
	}
	if s.Extended {
		family := f.Family()
		dst = appendNumbered(dst, ctnetlink.FamilyName(family), uint64(family))
	}
	if proto, known := f.Proto(); known {
		dst = appendNumbered(dst, ctnetlink.ProtoName(proto), uint64(proto))
	}
	if has&ctnetlink.HasTimeout != 0 {
		dst = append(strconv.AppendUint(dst, uint64(f.Timeout), 10), ' ')
	}
	if name, ok := stateName(f, has); ok {
		dst = append(append(dst, name...), ' ')
	}

	dst = appendTupleText(dst, &f.Orig, tupleProto(&f.Orig), "src=", "dst=")
	if f.Orig.Has&ctnetlink.TupleZone != 0 {
		dst = appendNumber(dst, "zone-orig=", uint64(f.Orig.Zone))
	}
	if has&ctnetlink.HasCountersOrig != 0 {
		dst = appendCounters(dst, &f.CountersOrig)
	}
	if has&ctnetlink.HasStatus != 0 && f.Status&ctnetlink.StatusSeenReply == 0 {
		dst = append(dst, "[UNREPLIED] "...)
	}
	dst = appendTupleText(dst, &f.Reply, tupleProto(&f.Reply), "src=", "dst=")
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		dst = appendNumber(dst, "zone-reply=", uint64(f.Reply.Zone))
	}
	if has&ctnetlink.HasCountersReply != 0 {
		dst = appendCounters(dst, &f.CountersReply)
	}

	if has&ctnetlink.HasStatus != 0 {
		switch {
		case f.Status&ctnetlink.StatusHWOffload != 0:
			dst = append(dst, "[HW_OFFLOAD] "...)
		case f.Status&ctnetlink.StatusOffload != 0:
			dst = append(dst, "[OFFLOAD] "...)
		case f.Status&ctnetlink.StatusAssured != 0:
			dst = append(dst, "[ASSURED] "...)
		}
	}
	if has&ctnetlink.HasMark != 0 {
		dst = appendNumber(dst, "mark=", uint64(f.Mark))
	}
	if has&ctnetlink.HasSecmark != 0 {
		dst = appendNumber(dst, "secmark=", uint64(f.Secmark))
	}
	if has&ctnetlink.HasSecctx != 0 {
		dst = append(append(append(dst, "secctx="...), f.Secctx...), ' ')
	}
	if has&ctnetlink.HasZone != 0 && f.Zone != 0 {
		dst = appendNumber(dst, "zone=", uint64(f.Zone))
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		dst = appendNumber(dst, "delta-time=", s.age(f.TimestampStart, f.TimestampStop, has&ctnetlink.HasTimestampStop != 0))
	}
	if s.KTimestamp {
		if has&ctnetlink.HasTimestampStart != 0 {
			dst = append(appendDate(append(dst, "[start="...), s.local(int64(f.TimestampStart))), "] "...)
		}
		if has&ctnetlink.HasTimestampStop != 0 {
			dst = append(appendDate(append(dst, "[stop="...), s.local(int64(f.TimestampStop))), "] "...)
		}
	}
	if has&ctnetlink.HasHelper != 0 {
		dst = append(append(append(dst, "helper="...), f.Helper.Bytes()...), ' ')
	}
	if has&ctnetlink.HasUse != 0 {
		dst = appendNumber(dst, "use=", uint64(f.Use))
	}
	if s.ID && has&ctnetlink.HasID != 0 {
		dst = appendNumber(dst, "id=", uint64(f.ID))
	}
	if s.Labels != nil && has&ctnetlink.HasLabels != 0 {
		dst = appendLabels(dst, f, s.Labels)
	}
	return trimSpace(dst)
}

// stateName returns the name of the layer-4 state, if the flow has one.
func stateName(f *ctnetlink.Flow, has ctnetlink.Attr) (string, bool) {
	switch {
	case has&ctnetlink.HasTCPState != 0:
		return ctnetlink.TCPStateName(f.TCPState), true
	case has&ctnetlink.HasSCTPState != 0:
		return ctnetlink.SCTPStateName(f.SCTPState), true
	case has&ctnetlink.HasDCCPState != 0:
		return ctnetlink.DCCPStateName(f.DCCPState), true
	}
	return "", false
}

// appendTupleText writes addresses and layer-4 fields, or nothing for an absent tuple.
// Layer-4 fields that the kernel did not send, as for a protocol without a tracker (DCCP
// since Linux 6.18), are written as zero.
func appendTupleText(dst []byte, t *ctnetlink.Tuple, proto uint8, srcName, dstName string) []byte {
	if t.Family == nl.FamilyIPv4 || t.Family == nl.FamilyIPv6 {
		dst = AppendAddr(append(dst, srcName...), t.Family, &t.Src)
		dst = append(append(dst, ' '), dstName...)
		dst = append(AppendAddr(dst, t.Family, &t.Dst), ' ')
	}
	switch {
	case ctnetlink.HasPorts(proto):
		dst = appendNumber(dst, "sport=", uint64(t.SrcPort))
		dst = appendNumber(dst, "dport=", uint64(t.DstPort))
	case ctnetlink.IsICMP(proto):
		dst = appendNumber(dst, "type=", uint64(t.ICMPType))
		dst = appendNumber(dst, "code=", uint64(t.ICMPCode))
		dst = appendNumber(dst, "id=", uint64(t.ICMPID))
	case proto == ctnetlink.ProtoGRE:
		dst = append(appendHex(append(dst, "srckey=0x"...), uint64(t.SrcPort)), ' ')
		dst = append(appendHex(append(dst, "dstkey=0x"...), uint64(t.DstPort)), ' ')
	}
	return dst
}

func appendCounters(dst []byte, c *ctnetlink.Counters) []byte {
	return appendNumber(appendNumber(dst, "packets=", c.Packets), "bytes=", c.Bytes)
}

// appendLabels writes the names of the labels that are set. As in conntrack-tools, the
// equals sign is omitted if no label has a name.
func appendLabels(dst []byte, f *ctnetlink.Flow, names []string) []byte {
	dst = append(dst, "labels"...)
	sep := byte('=')
	for bit, name := range names {
		if name != "" && f.Labels.Bit(bit) {
			dst = append(append(dst, sep), name...)
			sep = ','
		}
	}
	return append(dst, ' ')
}

// appendOrigin writes the process that caused the event, unless it was the kernel, and
// the network namespace.
func appendOrigin(dst []byte, e *Event) []byte {
	if e.PortID != 0 {
		dst = strconv.AppendUint(append(dst, " [USERSPACE] portid="...), uint64(e.PortID), 10)
		if e.Progname != "" {
			dst = append(append(dst, " progname="...), e.Progname...)
		}
	}
	return AppendNetNS(dst, e.NetNS)
}

// AppendNetNS appends the name of a network namespace as lines of text end with it, " netns="
// and the name, or nothing for "". A ? replaces each byte that would end the word.
func AppendNetNS(dst []byte, name string) []byte {
	if name == "" {
		return dst
	}
	dst = append(dst, " netns="...)
	for i := range len(name) {
		c := name[i]
		if c <= ' ' || c == 0x7f {
			c = '?'
		}
		dst = append(dst, c)
	}
	return dst
}

// appendNumbered writes a name in a column of eight and its number.
func appendNumbered(dst []byte, name string, number uint64) []byte {
	dst = append(dst, name...)
	for n := len(name); n < 8; n++ {
		dst = append(dst, ' ')
	}
	return append(strconv.AppendUint(append(dst, ' '), number, 10), ' ')
}

// appendNumber writes name and number and a space.
func appendNumber(dst []byte, name string, v uint64) []byte {
	return append(strconv.AppendUint(append(dst, name...), v, 10), ' ')
}

// appendStamp writes "[SECONDS.MICROS]" and a tab, zero-filled to 8 and 6
// digits. conntrack-tools blank-pads the latter for expectations, which moves
// the decimal places; here they are always digits.
func appendStamp(dst []byte, ns int64) []byte {
	ns = max(ns, 0)
	dst = appendPadded(append(dst, '['), uint64(ns/1e9), 8)
	dst = appendPadded(append(dst, '.'), uint64(ns%1e9/1e3), 6)
	return append(dst, ']', '\t')
}

// appendPadded writes v with at least width digits.
func appendPadded(dst []byte, v uint64, width int) []byte {
	for limit := uint64(10); width > 1; width-- {
		if v < limit {
			for ; width > 1; width-- {
				dst = append(dst, '0')
			}
			break
		}
		limit *= 10
	}
	return strconv.AppendUint(dst, v, 10)
}

// appendDate writes a time as ctime(3) does: "Mon Nov 23 01:00:25 2026".
func appendDate(dst []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	dst = append(append(dst, t.Weekday().String()[:3]...), ' ')
	dst = append(append(dst, month.String()[:3]...), ' ')
	if day < 10 {
		dst = append(dst, ' ')
	}
	dst = append(strconv.AppendInt(dst, int64(day), 10), ' ')
	dst = append(appendTwo(dst, hour), ':')
	dst = append(appendTwo(dst, minute), ':')
	dst = append(appendTwo(dst, second), ' ')
	return strconv.AppendInt(dst, int64(year), 10)
}

func appendTwo(dst []byte, v int) []byte {
	return append(dst, byte('0'+v/10), byte('0'+v%10))
}

func trimSpace(dst []byte) []byte {
	if n := len(dst); n > 0 && dst[n-1] == ' ' {
		return dst[:n-1]
	}
	return dst
}

// maskedBits are names of bits, written in the order of the bits.
type maskedBits []struct {
	bit  uint32
	name string
}

// appendBits writes the names of the bits that are set in v, with commas.
func (names maskedBits) appendBits(dst []byte, v uint32) ([]byte, bool) {
	any := false
	for _, n := range names {
		if v&n.bit == 0 {
			continue
		}
		if any {
			dst = append(dst, ',')
		}
		dst = append(dst, n.name...)
		any = true
	}
	return dst, any
}

// expectFlags are the names of expectation flags.
var expectFlags = maskedBits{
	{ctnetlink.ExpectPermanent, "PERMANENT"},
	{ctnetlink.ExpectInactive, "INACTIVE"},
	{ctnetlink.ExpectUserspace, "USERSPACE"},
}

// appendExpectText writes the fields of an expectation.
func appendExpectText(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	has := x.Has &^ s.WithoutExpect
	if s.Timestamp {
		dst = appendStamp(dst, e.Time)
	}
	if e.Type != None {
		dst = append(dst, prefixes[e.Type]...)
	}
	if has&ctnetlink.ExpectHasTimeout != 0 {
		dst = append(strconv.AppendUint(dst, uint64(x.Timeout), 10), ' ')
	}
	if x.Tuple.Has&ctnetlink.TupleProto != 0 {
		dst = appendNumber(dst, "proto=", uint64(x.Tuple.Proto))
	}
	dst = appendTupleText(dst, &x.Tuple, tupleProto(&x.Tuple), "src=", "dst=")
	dst = appendTupleText(dst, &x.Mask, tupleProto(&x.Tuple), "mask-src=", "mask-dst=")
	dst = appendTupleText(dst, &x.Master, tupleProto(&x.Master), "master-src=", "master-dst=")
	if has&ctnetlink.ExpectHasZone != 0 {
		dst = appendNumber(dst, "zone=", uint64(x.Zone))
	}
	if has&ctnetlink.ExpectHasFlags != 0 {
		var any bool
		if dst, any = expectFlags.appendBits(dst, x.Flags); any {
			dst = append(dst, ' ')
		}
	}
	if has&ctnetlink.ExpectHasClass != 0 {
		dst = appendNumber(dst, "class=", uint64(x.Class))
	}
	if has&ctnetlink.ExpectHasHelper != 0 {
		dst = append(append(dst, "helper="...), x.Helper.Bytes()...)
	}
	return trimSpace(dst)
}
