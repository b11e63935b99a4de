package format

import (
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The JSON form: one object a flow, an expectation or another record, on one
// line. Names and meanings are a promise to programs and stand in docs/json.md.
// A member is there only when the kernel sent the attribute.

// eventNames are the values of "event".
var eventNames = [...]string{New: "new", Update: "update", Destroy: "destroy"}

// jsonStatus are the names of all status bits. A bit without a name is written
// as a hexadecimal number in a string.
var jsonStatus = maskedBits{
	{ctnetlink.StatusExpected, "EXPECTED"},
	{ctnetlink.StatusSeenReply, "SEEN_REPLY"},
	{ctnetlink.StatusAssured, "ASSURED"},
	{ctnetlink.StatusConfirmed, "CONFIRMED"},
	{ctnetlink.StatusSrcNAT, "SRC_NAT"},
	{ctnetlink.StatusDstNAT, "DST_NAT"},
	{ctnetlink.StatusSeqAdjust, "SEQ_ADJUST"},
	{ctnetlink.StatusSrcNATDone, "SRC_NAT_DONE"},
	{ctnetlink.StatusDstNATDone, "DST_NAT_DONE"},
	{ctnetlink.StatusDying, "DYING"},
	{ctnetlink.StatusFixedTimeout, "FIXED_TIMEOUT"},
	{ctnetlink.StatusTemplate, "TEMPLATE"},
	{ctnetlink.StatusHelper, "HELPER"},
	{ctnetlink.StatusOffload, "OFFLOAD"},
	{ctnetlink.StatusHWOffload, "HW_OFFLOAD"},
}

// object writes the members of one JSON object. Its zero value with dst set is
// ready after open.
type object struct{ dst []byte }

func (o *object) open()  { o.dst = append(o.dst, '{') }
func (o *object) close() { o.dst = append(o.dst, '}') }

// name writes a member's name; what follows is its value.
func (o *object) name(name string) {
	if last := o.dst[len(o.dst)-1]; last != '{' && last != '[' {
		o.dst = append(o.dst, ',')
	}
	o.dst = append(append(append(o.dst, '"'), name...), '"', ':')
}

func (o *object) uint(name string, v uint64) {
	o.name(name)
	o.dst = strconv.AppendUint(o.dst, v, 10)
}

func (o *object) int(name string, v int64) {
	o.name(name)
	o.dst = strconv.AppendInt(o.dst, v, 10)
}

// token writes a text that needs no escapes.
func (o *object) token(name, v string) {
	o.name(name)
	o.dst = append(append(append(o.dst, '"'), v...), '"')
}

func (o *object) text(name string, v []byte) {
	o.name(name)
	o.dst = AppendJSONString(o.dst, v)
}

// seconds writes a time in nanoseconds as seconds with nine decimals: exact, and
// a number that programs without 64-bit integers read well.
func (o *object) seconds(name string, ns uint64) {
	o.name(name)
	o.dst = append(strconv.AppendUint(o.dst, ns/1e9, 10), '.')
	o.dst = appendPadded(o.dst, ns%1e9, 9)
}

func (o *object) addr(name string, family uint8, a *ctnetlink.Addr) {
	o.name(name)
	o.dst = append(AppendAddr(append(o.dst, '"'), family, a), '"')
}

// bits writes an array of the names of the bits that are set.
func (o *object) bits(name string, names maskedBits, v uint32) {
	o.name(name)
	o.dst = append(o.dst, '[')
	for _, n := range names {
		if v&n.bit != 0 {
			o.dst = append(append(append(o.dst, '"'), n.name...), '"', ',')
			v &^= n.bit
		}
	}
	for ; v != 0; v &= v - 1 {
		o.dst = append(o.dst, `"0x`...)
		o.dst = append(appendHex(o.dst, uint64(v&-v)), '"', ',')
	}
	if o.dst[len(o.dst)-1] == ',' {
		o.dst = o.dst[:len(o.dst)-1]
	}
	o.dst = append(o.dst, ']')
}

func (o *object) event(e *Event) {
	if e.Type != None {
		o.token("event", eventNames[e.Type])
	}
	if e.Time > 0 {
		o.seconds("time", uint64(e.Time))
	}
	if e.PortID != 0 {
		o.uint("portid", uint64(e.PortID))
	}
	if e.Progname != "" {
		o.text("progname", []byte(e.Progname))
	}
}

// family writes the family, and proto the protocol, that the tuples share.
func (o *object) family(family uint8) {
	switch family {
	case nl.FamilyIPv4, nl.FamilyIPv6:
		o.token("family", ctnetlink.FamilyName(family))
	}
}

func (o *object) proto(proto uint8) {
	o.uint("proto", uint64(proto))
	if name := ctnetlink.ProtoName(proto); name != "unknown" {
		o.token("proto_name", name)
	}
}

// tuple writes a tuple's members into an open object. proto and known are the
// protocol of the whole entry; the tuple's own is written only if it differs.
func (o *object) tuple(t *ctnetlink.Tuple, proto uint8, known bool) {
	own := t.Has&ctnetlink.TupleProto != 0
	switch {
	case own && (!known || t.Proto != proto):
		o.uint("proto", uint64(t.Proto))
	case !own && known:
		o.name("proto")
		o.dst = append(o.dst, "null"...)
	}
	if t.Has&ctnetlink.TupleSrc != 0 {
		o.addr("src", t.Family, &t.Src)
	}
	if t.Has&ctnetlink.TupleDst != 0 {
		o.addr("dst", t.Family, &t.Dst)
	}
	src, dst := "sport", "dport"
	if own && t.Proto == ctnetlink.ProtoGRE {
		src, dst = "srckey", "dstkey"
	}
	if t.Has&ctnetlink.TupleSrcPort != 0 {
		o.uint(src, uint64(t.SrcPort))
	}
	if t.Has&ctnetlink.TupleDstPort != 0 {
		o.uint(dst, uint64(t.DstPort))
	}
	if t.Has&ctnetlink.TupleICMPType != 0 {
		o.uint("icmp_type", uint64(t.ICMPType))
	}
	if t.Has&ctnetlink.TupleICMPCode != 0 {
		o.uint("icmp_code", uint64(t.ICMPCode))
	}
	if t.Has&ctnetlink.TupleICMPID != 0 {
		o.uint("icmp_id", uint64(t.ICMPID))
	}
	if t.Has&ctnetlink.TupleZone != 0 {
		o.uint("zone", uint64(t.Zone))
	}
}

// appendFlowJSON writes a flow as one object.
func appendFlowJSON(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	has := f.Has &^ s.Without
	o := object{dst}
	o.open()
	o.event(e)
	o.family(f.Family())
	proto, known := f.Proto()
	if known {
		o.proto(proto)
	}
	directions := [...]struct {
		name     string
		t        *ctnetlink.Tuple
		counters *ctnetlink.Counters
		counted  bool
	}{
		{"original", &f.Orig, &f.CountersOrig, has&ctnetlink.HasCountersOrig != 0},
		{"reply", &f.Reply, &f.CountersReply, has&ctnetlink.HasCountersReply != 0},
		{"master", &f.Master, nil, false},
	}
	for i := range directions {
		d := &directions[i]
		if d.t.Has == 0 && !d.counted {
			continue
		}
		o.name(d.name)
		o.open()
		o.tuple(d.t, proto, known)
		if d.counted {
			o.uint("packets", d.counters.Packets)
			o.uint("bytes", d.counters.Bytes)
		}
		o.close()
	}
	if has&ctnetlink.HasTimeout != 0 {
		o.uint("timeout", uint64(f.Timeout))
	}
	o.state(f, has)
	if has&ctnetlink.HasStatus != 0 {
		o.bits("status", jsonStatus, f.Status)
	}
	if has&ctnetlink.HasMark != 0 {
		o.uint("mark", uint64(f.Mark))
	}
	if has&ctnetlink.HasSecmark != 0 {
		o.uint("secmark", uint64(f.Secmark))
	}
	if has&ctnetlink.HasSecctx != 0 {
		o.text("secctx", f.Secctx)
	}
	if has&ctnetlink.HasZone != 0 {
		o.uint("zone", uint64(f.Zone))
	}
	if has&ctnetlink.HasUse != 0 {
		o.uint("use", uint64(f.Use))
	}
	if has&ctnetlink.HasID != 0 {
		o.uint("id", uint64(f.ID))
	}
	if has&ctnetlink.HasLabels != 0 {
		o.labels(f, s.Labels)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		o.seconds("start", f.TimestampStart)
	}
	if has&ctnetlink.HasTimestampStop != 0 {
		o.seconds("stop", f.TimestampStop)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		o.uint("delta_time", s.age(f.TimestampStart, f.TimestampStop, has&ctnetlink.HasTimestampStop != 0))
	}
	if has&ctnetlink.HasHelper != 0 {
		o.text("helper", f.Helper.Bytes())
	}
	if has&ctnetlink.HasHelperInfo != 0 {
		o.name("helper_info")
		o.dst = append(hex.AppendEncode(append(o.dst, '"'), f.HelperInfo), '"')
	}
	o.protoinfo(f, has)
	o.adjustments(f, has)
	o.close()
	return o.dst
}

// state writes the layer-4 state by name, or by number if it has none.
func (o *object) state(f *ctnetlink.Flow, has ctnetlink.Attr) {
	name, ok := stateName(f, has)
	if !ok {
		return
	}
	number := f.TCPState
	switch {
	case has&ctnetlink.HasTCPState != 0:
	case has&ctnetlink.HasSCTPState != 0:
		number = f.SCTPState
	default:
		number = f.DCCPState
	}
	if name == "NONE" && number != 0 {
		o.name("state")
		o.dst = append(strconv.AppendUint(append(o.dst, '"'), uint64(number), 10), '"')
		return
	}
	o.token("state", name)
}

// labels writes the numbers of the labels that are set and, if the caller gave
// names, the names.
func (o *object) labels(f *ctnetlink.Flow, names []string) {
	o.name("labels")
	o.dst = append(o.dst, '[')
	sep := false
	for bit := range ctnetlink.MaxLabels {
		if !f.Labels.Bit(bit) {
			continue
		}
		if sep {
			o.dst = append(o.dst, ',')
		}
		o.dst = strconv.AppendUint(o.dst, uint64(bit), 10)
		sep = true
	}
	o.dst = append(o.dst, ']')
	if names == nil {
		return
	}
	o.name("label_names")
	o.dst = append(o.dst, '[')
	sep = false
	for bit, name := range names {
		if name == "" || !f.Labels.Bit(bit) {
			continue
		}
		if sep {
			o.dst = append(o.dst, ',')
		}
		o.dst = append(append(append(o.dst, '"'), name...), '"')
		sep = true
	}
	o.dst = append(o.dst, ']')
}

// protoinfo writes what the trackers of TCP, SCTP and DCCP know besides the
// state.
func (o *object) protoinfo(f *ctnetlink.Flow, has ctnetlink.Attr) {
	if has&(ctnetlink.HasTCPWScaleOrig|ctnetlink.HasTCPWScaleReply|ctnetlink.HasTCPFlagsOrig|ctnetlink.HasTCPFlagsReply) != 0 {
		o.name("tcp")
		o.open()
		if has&ctnetlink.HasTCPWScaleOrig != 0 {
			o.uint("window_scale_original", uint64(f.TCPWScaleOrig))
		}
		if has&ctnetlink.HasTCPWScaleReply != 0 {
			o.uint("window_scale_reply", uint64(f.TCPWScaleRepl))
		}
		if has&ctnetlink.HasTCPFlagsOrig != 0 {
			o.uint("flags_original", uint64(f.TCPFlagsOrig.Value))
			if f.TCPFlagsOrig.Mask != 0 {
				o.uint("flags_mask_original", uint64(f.TCPFlagsOrig.Mask))
			}
		}
		if has&ctnetlink.HasTCPFlagsReply != 0 {
			o.uint("flags_reply", uint64(f.TCPFlagsReply.Value))
			if f.TCPFlagsReply.Mask != 0 {
				o.uint("flags_mask_reply", uint64(f.TCPFlagsReply.Mask))
			}
		}
		o.close()
	}
	if has&(ctnetlink.HasSCTPVtagOrig|ctnetlink.HasSCTPVtagReply) != 0 {
		o.name("sctp")
		o.open()
		if has&ctnetlink.HasSCTPVtagOrig != 0 {
			o.uint("vtag_original", uint64(f.SCTPVtagOrig))
		}
		if has&ctnetlink.HasSCTPVtagReply != 0 {
			o.uint("vtag_reply", uint64(f.SCTPVtagReply))
		}
		o.close()
	}
	if has&(ctnetlink.HasDCCPRole|ctnetlink.HasDCCPHandshakeSeq) != 0 {
		o.name("dccp")
		o.open()
		if has&ctnetlink.HasDCCPRole != 0 {
			o.uint("role", uint64(f.DCCPRole))
		}
		if has&ctnetlink.HasDCCPHandshakeSeq != 0 {
			o.uint("handshake_seq", f.DCCPHandshakeSeq)
		}
		o.close()
	}
}

// adjustments writes what helpers and SYNPROXY do to sequence numbers.
func (o *object) adjustments(f *ctnetlink.Flow, has ctnetlink.Attr) {
	if has&(ctnetlink.HasSeqAdjOrig|ctnetlink.HasSeqAdjReply) != 0 {
		o.name("seq_adjust")
		o.open()
		if has&ctnetlink.HasSeqAdjOrig != 0 {
			o.seqAdj("original", &f.SeqAdjOrig)
		}
		if has&ctnetlink.HasSeqAdjReply != 0 {
			o.seqAdj("reply", &f.SeqAdjReply)
		}
		o.close()
	}
	// The kernel sends it with every flow that could have one.
	if has&ctnetlink.HasSynproxy != 0 && f.Synproxy != (ctnetlink.Synproxy{}) {
		o.name("synproxy")
		o.open()
		o.uint("isn", uint64(f.Synproxy.ISN))
		o.uint("its", uint64(f.Synproxy.ITS))
		o.uint("tsoff", uint64(f.Synproxy.TSOff))
		o.close()
	}
}

func (o *object) seqAdj(name string, a *ctnetlink.SeqAdj) {
	o.name(name)
	o.open()
	o.uint("position", uint64(a.CorrectionPos))
	o.int("offset_before", int64(int32(a.OffsetBefore)))
	o.int("offset_after", int64(int32(a.OffsetAfter)))
	o.close()
}

// AppendJSONString appends text as a JSON string, in quotes. Bytes that are no
// UTF-8 become U+FFFD.
func AppendJSONString(dst, text []byte) []byte {
	dst = append(dst, '"')
	for len(text) > 0 {
		c := text[0]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRune(text)
			dst = utf8.AppendRune(dst, r)
			text = text[size:]
			continue
		}
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default:
			dst = append(dst, c)
		}
		text = text[1:]
	}
	return append(dst, '"')
}
