package format

import (
	"encoding/hex"
	"strconv"

	"ctbox/internal/jsonout"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// The JSON form is one object on one line for each flow, expectation or other record.
// docs/json.md specifies names and meanings, which do not change. A member is present
// only if the kernel sent the attribute.

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

// object writes the members of a JSON object that are particular to flows.
type object struct{ jsonout.Object }

func newObject(dst []byte) object { return object{jsonout.Object{Dst: dst}} }

func (o *object) addr(name string, family uint8, a *ctnetlink.Addr) {
	o.Name(name)
	o.Dst = append(AppendAddr(append(o.Dst, '"'), family, a), '"')
}

// bits writes an array of the names of the bits that are set.
func (o *object) bits(name string, names maskedBits, v uint32) {
	o.Name(name)
	o.Dst = append(o.Dst, '[')
	for _, n := range names {
		if v&n.bit != 0 {
			o.Dst = append(append(append(o.Dst, '"'), n.name...), '"', ',')
			v &^= n.bit
		}
	}
	for ; v != 0; v &= v - 1 {
		o.Dst = append(o.Dst, `"0x`...)
		o.Dst = append(appendHex(o.Dst, uint64(v&-v)), '"', ',')
	}
	if o.Dst[len(o.Dst)-1] == ',' {
		o.Dst = o.Dst[:len(o.Dst)-1]
	}
	o.Dst = append(o.Dst, ']')
}

func (o *object) event(e *Event) {
	if e.Type != None {
		o.Token("event", eventNames[e.Type])
	}
	if e.Time > 0 {
		o.Nanoseconds("time", uint64(e.Time))
	}
	if e.PortID != 0 {
		o.Uint("portid", uint64(e.PortID))
	}
	if e.Progname != "" {
		o.Bytes("progname", []byte(e.Progname))
	}
	o.netns(e.NetNS)
}

func (o *object) netns(name string) {
	if name != "" {
		o.Text("netns", name)
	}
}

// family writes the family, and proto the protocol, that the tuples share.
func (o *object) family(family uint8) {
	switch family {
	case nl.FamilyIPv4, nl.FamilyIPv6:
		o.Token("family", ctnetlink.FamilyName(family))
	}
}

func (o *object) proto(proto uint8) {
	o.Uint("proto", uint64(proto))
	if name := ctnetlink.ProtoName(proto); name != "unknown" {
		o.Token("proto_name", name)
	}
}

// tuple writes a tuple's members into an open object. proto and known are the
// protocol of the whole entry; the tuple's own is written only if it differs.
func (o *object) tuple(t *ctnetlink.Tuple, proto uint8, known bool) {
	own := t.Has&ctnetlink.TupleProto != 0
	switch {
	case own && (!known || t.Proto != proto):
		o.Uint("proto", uint64(t.Proto))
	case !own && known:
		o.Name("proto")
		o.Dst = append(o.Dst, "null"...)
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
		o.Uint(src, uint64(t.SrcPort))
	}
	if t.Has&ctnetlink.TupleDstPort != 0 {
		o.Uint(dst, uint64(t.DstPort))
	}
	if t.Has&ctnetlink.TupleICMPType != 0 {
		o.Uint("icmp_type", uint64(t.ICMPType))
	}
	if t.Has&ctnetlink.TupleICMPCode != 0 {
		o.Uint("icmp_code", uint64(t.ICMPCode))
	}
	if t.Has&ctnetlink.TupleICMPID != 0 {
		o.Uint("icmp_id", uint64(t.ICMPID))
	}
	if t.Has&ctnetlink.TupleZone != 0 {
		o.Uint("zone", uint64(t.Zone))
	}
}

// appendFlowJSON writes a flow as one object.
func appendFlowJSON(dst []byte, f *ctnetlink.Flow, s *Style, e *Event) []byte {
	has := f.Has &^ s.Without
	o := newObject(dst)
	o.Begin()
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
		o.Name(d.name)
		o.Begin()
		o.tuple(d.t, proto, known)
		if d.counted {
			o.Uint("packets", d.counters.Packets)
			o.Uint("bytes", d.counters.Bytes)
		}
		o.End()
	}
	if has&ctnetlink.HasTimeout != 0 {
		o.Uint("timeout", uint64(f.Timeout))
	}
	o.state(f, has)
	if has&ctnetlink.HasStatus != 0 {
		o.bits("status", jsonStatus, f.Status)
	}
	if has&ctnetlink.HasMark != 0 {
		o.Uint("mark", uint64(f.Mark))
	}
	if has&ctnetlink.HasSecmark != 0 {
		o.Uint("secmark", uint64(f.Secmark))
	}
	if has&ctnetlink.HasSecctx != 0 {
		o.Bytes("secctx", f.Secctx)
	}
	if has&ctnetlink.HasZone != 0 {
		o.Uint("zone", uint64(f.Zone))
	}
	if has&ctnetlink.HasUse != 0 {
		o.Uint("use", uint64(f.Use))
	}
	if has&ctnetlink.HasID != 0 {
		o.Uint("id", uint64(f.ID))
	}
	if has&ctnetlink.HasLabels != 0 {
		o.labels(f, s.Labels)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		o.Nanoseconds("start", f.TimestampStart)
	}
	if has&ctnetlink.HasTimestampStop != 0 {
		o.Nanoseconds("stop", f.TimestampStop)
	}
	if has&ctnetlink.HasTimestampStart != 0 {
		o.Uint("delta_time", s.age(f.TimestampStart, f.TimestampStop, has&ctnetlink.HasTimestampStop != 0))
	}
	if has&ctnetlink.HasHelper != 0 {
		o.Bytes("helper", f.Helper.Bytes())
	}
	if has&ctnetlink.HasHelperInfo != 0 {
		o.Name("helper_info")
		o.Dst = append(hex.AppendEncode(append(o.Dst, '"'), f.HelperInfo), '"')
	}
	o.protoinfo(f, has)
	o.adjustments(f, has)
	o.End()
	return o.Dst
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
		o.Name("state")
		o.Dst = append(strconv.AppendUint(append(o.Dst, '"'), uint64(number), 10), '"')
		return
	}
	o.Token("state", name)
}

// labels writes the numbers of the labels that are set and, if names is not nil, their
// names.
func (o *object) labels(f *ctnetlink.Flow, names []string) {
	o.Name("labels")
	o.Dst = append(o.Dst, '[')
	sep := false
	for bit := range ctnetlink.MaxLabels {
		if !f.Labels.Bit(bit) {
			continue
		}
		if sep {
			o.Dst = append(o.Dst, ',')
		}
		o.Dst = strconv.AppendUint(o.Dst, uint64(bit), 10)
		sep = true
	}
	o.Dst = append(o.Dst, ']')
	if names == nil {
		return
	}
	o.Name("label_names")
	o.Dst = append(o.Dst, '[')
	sep = false
	for bit, name := range names {
		if name == "" || !f.Labels.Bit(bit) {
			continue
		}
		if sep {
			o.Dst = append(o.Dst, ',')
		}
		o.Dst = append(append(append(o.Dst, '"'), name...), '"')
		sep = true
	}
	o.Dst = append(o.Dst, ']')
}

// protoinfo writes what the trackers of TCP, SCTP and DCCP know besides the
// state.
func (o *object) protoinfo(f *ctnetlink.Flow, has ctnetlink.Attr) {
	if has&(ctnetlink.HasTCPWScaleOrig|ctnetlink.HasTCPWScaleReply|ctnetlink.HasTCPFlagsOrig|ctnetlink.HasTCPFlagsReply) != 0 {
		o.Name("tcp")
		o.Begin()
		if has&ctnetlink.HasTCPWScaleOrig != 0 {
			o.Uint("window_scale_original", uint64(f.TCPWScaleOrig))
		}
		if has&ctnetlink.HasTCPWScaleReply != 0 {
			o.Uint("window_scale_reply", uint64(f.TCPWScaleRepl))
		}
		if has&ctnetlink.HasTCPFlagsOrig != 0 {
			o.Uint("flags_original", uint64(f.TCPFlagsOrig.Value))
			if f.TCPFlagsOrig.Mask != 0 {
				o.Uint("flags_mask_original", uint64(f.TCPFlagsOrig.Mask))
			}
		}
		if has&ctnetlink.HasTCPFlagsReply != 0 {
			o.Uint("flags_reply", uint64(f.TCPFlagsReply.Value))
			if f.TCPFlagsReply.Mask != 0 {
				o.Uint("flags_mask_reply", uint64(f.TCPFlagsReply.Mask))
			}
		}
		o.End()
	}
	if has&(ctnetlink.HasSCTPVtagOrig|ctnetlink.HasSCTPVtagReply) != 0 {
		o.Name("sctp")
		o.Begin()
		if has&ctnetlink.HasSCTPVtagOrig != 0 {
			o.Uint("vtag_original", uint64(f.SCTPVtagOrig))
		}
		if has&ctnetlink.HasSCTPVtagReply != 0 {
			o.Uint("vtag_reply", uint64(f.SCTPVtagReply))
		}
		o.End()
	}
	if has&(ctnetlink.HasDCCPRole|ctnetlink.HasDCCPHandshakeSeq) != 0 {
		o.Name("dccp")
		o.Begin()
		if has&ctnetlink.HasDCCPRole != 0 {
			o.Uint("role", uint64(f.DCCPRole))
		}
		if has&ctnetlink.HasDCCPHandshakeSeq != 0 {
			o.Uint("handshake_seq", f.DCCPHandshakeSeq)
		}
		o.End()
	}
}

// adjustments writes what helpers and SYNPROXY do to sequence numbers.
func (o *object) adjustments(f *ctnetlink.Flow, has ctnetlink.Attr) {
	if has&(ctnetlink.HasSeqAdjOrig|ctnetlink.HasSeqAdjReply) != 0 {
		o.Name("seq_adjust")
		o.Begin()
		if has&ctnetlink.HasSeqAdjOrig != 0 {
			o.seqAdj("original", &f.SeqAdjOrig)
		}
		if has&ctnetlink.HasSeqAdjReply != 0 {
			o.seqAdj("reply", &f.SeqAdjReply)
		}
		o.End()
	}
	// The kernel sends the attribute with every flow that could have it.
	if has&ctnetlink.HasSynproxy != 0 && f.Synproxy != (ctnetlink.Synproxy{}) {
		o.Name("synproxy")
		o.Begin()
		o.Uint("isn", uint64(f.Synproxy.ISN))
		o.Uint("its", uint64(f.Synproxy.ITS))
		o.Uint("tsoff", uint64(f.Synproxy.TSOff))
		o.End()
	}
}

func (o *object) seqAdj(name string, a *ctnetlink.SeqAdj) {
	o.Name(name)
	o.Begin()
	o.Uint("position", uint64(a.CorrectionPos))
	o.Int("offset_before", int64(int32(a.OffsetBefore)))
	o.Int("offset_after", int64(int32(a.OffsetAfter)))
	o.End()
}

// appendExpectJSON writes an expectation as one object.
func appendExpectJSON(dst []byte, x *ctnetlink.Expect, s *Style, e *Event) []byte {
	has := x.Has &^ s.WithoutExpect
	o := newObject(dst)
	o.Begin()
	o.event(e)
	o.family(x.Tuple.Family)
	proto, known := x.Tuple.Proto, x.Tuple.Has&ctnetlink.TupleProto != 0
	if known {
		o.proto(proto)
	}
	for _, part := range [...]struct {
		name string
		t    *ctnetlink.Tuple
	}{{"expected", &x.Tuple}, {"mask", &x.Mask}, {"master", &x.Master}} {
		if part.t.Has == 0 {
			continue
		}
		o.Name(part.name)
		o.Begin()
		o.tuple(part.t, proto, known)
		o.End()
	}
	if has&ctnetlink.ExpectHasTimeout != 0 {
		o.Uint("timeout", uint64(x.Timeout))
	}
	if has&ctnetlink.ExpectHasZone != 0 {
		o.Uint("zone", uint64(x.Zone))
	}
	if has&ctnetlink.ExpectHasFlags != 0 {
		o.bits("flags", expectFlags, x.Flags)
	}
	if has&ctnetlink.ExpectHasClass != 0 {
		o.Uint("class", uint64(x.Class))
	}
	if has&ctnetlink.ExpectHasHelper != 0 {
		o.Bytes("helper", x.Helper.Bytes())
	}
	if has&ctnetlink.ExpectHasID != 0 {
		o.Uint("id", uint64(x.ID))
	}
	if has&ctnetlink.ExpectHasNAT != 0 {
		o.Name("nat")
		o.Begin()
		if x.NATDir == 0 {
			o.Token("direction", "original")
		} else {
			o.Token("direction", "reply")
		}
		o.tuple(&x.NATTuple, proto, known)
		o.End()
	}
	if has&ctnetlink.ExpectHasFn != 0 {
		o.Bytes("function", x.FnBytes())
	}
	o.End()
	return o.Dst
}

// AppendCountJSON appends the number of entries in a table ("conntrack" or
// "expect").
func AppendCountJSON(dst []byte, table string, count uint64) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("table", table)
	o.Uint("count", count)
	o.End()
	return o.Dst
}

// AppendZoneCountJSON appends the number of a table's entries in a zone.
func AppendZoneCountJSON(dst []byte, table string, zone uint16, count uint64) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("table", table)
	o.Uint("zone", uint64(zone))
	o.Uint("count", count)
	o.End()
	return o.Dst
}

// AppendNetNSCountJSON appends the number of entries of the table in a network namespace;
// netns is "" for the caller's own without a name.
func AppendNetNSCountJSON(dst []byte, table, netns string, count uint64) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("table", table)
	o.netns(netns)
	o.Uint("count", count)
	o.End()
	return o.Dst
}

// AppendLostJSON appends the record for messages that the kernel dropped from a stream
// of events. e.Time is when the loss was noticed.
func AppendLostJSON(dst []byte, messages uint64, e *Event) []byte {
	o := newObject(dst)
	o.Begin()
	o.Token("event", lostEvent)
	if e.Time > 0 {
		o.Nanoseconds("time", uint64(e.Time))
	}
	o.Uint("messages", messages)
	o.netns(e.NetNS)
	o.End()
	return o.Dst
}

// lostEvent is the "event" of AppendLostJSON.
const lostEvent = "lost"

// Counter is one number of a statistics record.
type Counter struct {
	Name  string
	Value uint64
}

// AppendStatsJSON appends the counters of one CPU.
func AppendStatsJSON(dst []byte, cpu uint, counters []Counter) []byte {
	o := newObject(dst)
	o.Begin()
	o.Uint("cpu", uint64(cpu))
	for _, c := range counters {
		o.Uint(c.Name, c.Value)
	}
	o.End()
	return o.Dst
}
