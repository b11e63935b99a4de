package format

import (
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"ctbox/nl"
)

// The JSON form: one object a flow, an expectation or another record, on one
// line. Names and meanings are a promise to programs and stand in docs/json.md.
// A member is there only when the kernel sent the attribute.

// eventNames are the values of "event".
var eventNames = [...]string{New: "new", Update: "update", Destroy: "destroy"}

// jsonStatus are the names of all status bits. A bit without a name is written
// as a hexadecimal number in a string.
var jsonStatus = maskedBits{
	{nl.StatusExpected, "EXPECTED"},
	{nl.StatusSeenReply, "SEEN_REPLY"},
	{nl.StatusAssured, "ASSURED"},
	{nl.StatusConfirmed, "CONFIRMED"},
	{nl.StatusSrcNAT, "SRC_NAT"},
	{nl.StatusDstNAT, "DST_NAT"},
	{nl.StatusSeqAdjust, "SEQ_ADJUST"},
	{nl.StatusSrcNATDone, "SRC_NAT_DONE"},
	{nl.StatusDstNATDone, "DST_NAT_DONE"},
	{nl.StatusDying, "DYING"},
	{nl.StatusFixedTimeout, "FIXED_TIMEOUT"},
	{nl.StatusTemplate, "TEMPLATE"},
	{nl.StatusHelper, "HELPER"},
	{nl.StatusOffload, "OFFLOAD"},
	{nl.StatusHWOffload, "HW_OFFLOAD"},
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

func (o *object) addr(name string, family uint8, a *nl.Addr) {
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
		o.token("family", nl.FamilyName(family))
	}
}

func (o *object) proto(proto uint8) {
	o.uint("proto", uint64(proto))
	if name := nl.ProtoName(proto); name != "unknown" {
		o.token("proto_name", name)
	}
}

// tuple writes a tuple's members into an open object. proto and known are the
// protocol of the whole entry; the tuple's own is written only if it differs.
func (o *object) tuple(t *nl.Tuple, proto uint8, known bool) {
	own := t.Has&nl.TupleProto != 0
	switch {
	case own && (!known || t.Proto != proto):
		o.uint("proto", uint64(t.Proto))
	case !own && known:
		o.name("proto")
		o.dst = append(o.dst, "null"...)
	}
	if t.Has&nl.TupleSrc != 0 {
		o.addr("src", t.Family, &t.Src)
	}
	if t.Has&nl.TupleDst != 0 {
		o.addr("dst", t.Family, &t.Dst)
	}
	src, dst := "sport", "dport"
	if own && t.Proto == nl.ProtoGRE {
		src, dst = "srckey", "dstkey"
	}
	if t.Has&nl.TupleSrcPort != 0 {
		o.uint(src, uint64(t.SrcPort))
	}
	if t.Has&nl.TupleDstPort != 0 {
		o.uint(dst, uint64(t.DstPort))
	}
	if t.Has&nl.TupleICMPType != 0 {
		o.uint("icmp_type", uint64(t.ICMPType))
	}
	if t.Has&nl.TupleICMPCode != 0 {
		o.uint("icmp_code", uint64(t.ICMPCode))
	}
	if t.Has&nl.TupleICMPID != 0 {
		o.uint("icmp_id", uint64(t.ICMPID))
	}
	if t.Has&nl.TupleZone != 0 {
		o.uint("zone", uint64(t.Zone))
	}
}

// appendFlowJSON writes a flow as one object.
func appendFlowJSON(dst []byte, f *nl.Flow, s *Style, e *Event) []byte {
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
		t        *nl.Tuple
		counters *nl.Counters
		counted  bool
	}{
		{"original", &f.Orig, &f.CountersOrig, has&nl.HasCountersOrig != 0},
		{"reply", &f.Reply, &f.CountersReply, has&nl.HasCountersReply != 0},
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
	if has&nl.HasTimeout != 0 {
		o.uint("timeout", uint64(f.Timeout))
	}
	o.state(f, has)
	if has&nl.HasStatus != 0 {
		o.bits("status", jsonStatus, f.Status)
	}
	if has&nl.HasMark != 0 {
		o.uint("mark", uint64(f.Mark))
	}
	if has&nl.HasSecmark != 0 {
		o.uint("secmark", uint64(f.Secmark))
	}
	if has&nl.HasSecctx != 0 {
		o.text("secctx", f.Secctx)
	}
	if has&nl.HasZone != 0 {
		o.uint("zone", uint64(f.Zone))
	}
	if has&nl.HasUse != 0 {
		o.uint("use", uint64(f.Use))
	}
	if has&nl.HasID != 0 {
		o.uint("id", uint64(f.ID))
	}
	if has&nl.HasLabels != 0 {
		o.labels(f, s.Labels)
	}
	if has&nl.HasTimestampStart != 0 {
		o.seconds("start", f.TimestampStart)
	}
	if has&nl.HasTimestampStop != 0 {
		o.seconds("stop", f.TimestampStop)
	}
	if has&nl.HasTimestampStart != 0 {
		o.uint("delta_time", s.age(f.TimestampStart, f.TimestampStop, has&nl.HasTimestampStop != 0))
	}
	if has&nl.HasHelper != 0 {
		o.text("helper", f.Helper.Bytes())
	}
	if has&nl.HasHelperInfo != 0 {
		o.name("helper_info")
		o.dst = append(hex.AppendEncode(append(o.dst, '"'), f.HelperInfo), '"')
	}
	o.protoinfo(f, has)
	o.adjustments(f, has)
	o.close()
	return o.dst
}

// state writes the layer-4 state by name, or by number if it has none.
func (o *object) state(f *nl.Flow, has nl.Attr) {
	name, ok := stateName(f, has)
	if !ok {
		return
	}
	number := f.TCPState
	switch {
	case has&nl.HasTCPState != 0:
	case has&nl.HasSCTPState != 0:
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
func (o *object) labels(f *nl.Flow, names []string) {
	o.name("labels")
	o.dst = append(o.dst, '[')
	sep := false
	for bit := range nl.MaxLabels {
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
func (o *object) protoinfo(f *nl.Flow, has nl.Attr) {
	if has&(nl.HasTCPWScaleOrig|nl.HasTCPWScaleReply|nl.HasTCPFlagsOrig|nl.HasTCPFlagsReply) != 0 {
		o.name("tcp")
		o.open()
		if has&nl.HasTCPWScaleOrig != 0 {
			o.uint("window_scale_original", uint64(f.TCPWScaleOrig))
		}
		if has&nl.HasTCPWScaleReply != 0 {
			o.uint("window_scale_reply", uint64(f.TCPWScaleRepl))
		}
		if has&nl.HasTCPFlagsOrig != 0 {
			o.uint("flags_original", uint64(f.TCPFlagsOrig.Value))
			if f.TCPFlagsOrig.Mask != 0 {
				o.uint("flags_mask_original", uint64(f.TCPFlagsOrig.Mask))
			}
		}
		if has&nl.HasTCPFlagsReply != 0 {
			o.uint("flags_reply", uint64(f.TCPFlagsReply.Value))
			if f.TCPFlagsReply.Mask != 0 {
				o.uint("flags_mask_reply", uint64(f.TCPFlagsReply.Mask))
			}
		}
		o.close()
	}
	if has&(nl.HasSCTPVtagOrig|nl.HasSCTPVtagReply) != 0 {
		o.name("sctp")
		o.open()
		if has&nl.HasSCTPVtagOrig != 0 {
			o.uint("vtag_original", uint64(f.SCTPVtagOrig))
		}
		if has&nl.HasSCTPVtagReply != 0 {
			o.uint("vtag_reply", uint64(f.SCTPVtagReply))
		}
		o.close()
	}
	if has&(nl.HasDCCPRole|nl.HasDCCPHandshakeSeq) != 0 {
		o.name("dccp")
		o.open()
		if has&nl.HasDCCPRole != 0 {
			o.uint("role", uint64(f.DCCPRole))
		}
		if has&nl.HasDCCPHandshakeSeq != 0 {
			o.uint("handshake_seq", f.DCCPHandshakeSeq)
		}
		o.close()
	}
}

// adjustments writes what helpers and SYNPROXY do to sequence numbers.
func (o *object) adjustments(f *nl.Flow, has nl.Attr) {
	if has&(nl.HasSeqAdjOrig|nl.HasSeqAdjReply) != 0 {
		o.name("seq_adjust")
		o.open()
		if has&nl.HasSeqAdjOrig != 0 {
			o.seqAdj("original", &f.SeqAdjOrig)
		}
		if has&nl.HasSeqAdjReply != 0 {
			o.seqAdj("reply", &f.SeqAdjReply)
		}
		o.close()
	}
	// The kernel sends it with every flow that could have one.
	if has&nl.HasSynproxy != 0 && f.Synproxy != (nl.Synproxy{}) {
		o.name("synproxy")
		o.open()
		o.uint("isn", uint64(f.Synproxy.ISN))
		o.uint("its", uint64(f.Synproxy.ITS))
		o.uint("tsoff", uint64(f.Synproxy.TSOff))
		o.close()
	}
}

func (o *object) seqAdj(name string, a *nl.SeqAdj) {
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
