package nl

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"
)

// fullFlow has every attribute that both directions of the codec know.
func fullFlow() Flow {
	f := tcpFlow(77)
	f.Has |= HasStatusMask | HasMarkMask | HasZone | HasTCPWScaleOrig | HasTCPWScaleReply | HasTCPFlagsOrig |
		HasTCPFlagsReply | HasSeqAdjOrig | HasSeqAdjReply | HasSynproxy | HasNATSrc | HasNATDst | HasLabels |
		HasLabelsMask | HasHelper | HasHelperInfo | HasID
	f.StatusMask, f.MarkMask, f.Zone, f.ID = 6, 0xff, 9, 0xdeadbeef
	f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 14
	f.TCPFlagsOrig, f.TCPFlagsReply = TCPFlags{8, 8}, TCPFlags{10, 10}
	f.SeqAdjOrig, f.SeqAdjReply = SeqAdj{1, 2, 3}, SeqAdj{4, 5, ^uint32(0)}
	f.Synproxy = Synproxy{11, 12, 13}
	f.NATSrc = NAT{Addr: Addr{203, 0, 113, 1}, Port: 4000, HasAddr: true, HasPort: true}
	f.NATDst = NAT{Addr: Addr{203, 0, 113, 2}, HasAddr: true}
	f.Labels, f.LabelsLen = Labels{1, 0, 0, 1 << 31}, 4
	f.LabelsMask, f.LabelsMaskLen = Labels{2}, 1
	f.Helper.Set("ftp")
	f.HelperInfo = []byte{1, 2, 3, 4, 5}
	f.Orig.Has |= TupleZone
	f.Orig.Zone = 3
	f.Master = Tuple{Has: TupleAddrs | TupleProto | TuplePorts, Family: FamilyIPv6, Proto: ProtoTCP, Src: Addr{0x20, 1}, Dst: Addr{0x20, 2}, SrcPort: 1, DstPort: 21}
	return f
}

func TestFlowRoundTrip(t *testing.T) {
	sctp := Flow{Has: HasSCTPState | HasSCTPVtagOrig | HasSCTPVtagReply, SCTPState: 4, SCTPVtagOrig: 0x01020304, SCTPVtagReply: 5}
	sctp.Orig = Tuple{Has: TupleProto, Proto: ProtoSCTP}
	dccp := Flow{Has: HasDCCPState | HasDCCPRole | HasDCCPHandshakeSeq, DCCPState: 4, DCCPRole: 1, DCCPHandshakeSeq: 1 << 40}
	dccp.Orig = Tuple{Has: TupleProto, Proto: ProtoDCCP}
	icmp := Flow{}
	icmp.Orig = Tuple{Has: TupleAddrs | TupleProto | TupleICMP, Family: FamilyIPv4, Proto: ProtoICMP, Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}, ICMPType: 8, ICMPID: 0x1234}
	icmp.Reply = icmp.Orig.Inverted()
	icmp6 := icmp
	icmp6.Orig.Family, icmp6.Orig.Proto, icmp6.Orig.ICMPType = FamilyIPv6, ProtoICMPv6, 128
	icmp6.Reply = icmp6.Orig.Inverted()
	for i, want := range []Flow{{}, fullFlow(), sctp, dccp, icmp, icmp6} {
		var got Flow
		got.HelperInfo = nil
		if err := got.Decode(want.Append(nil)); err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		got.Secctx, want.Secctx = nil, nil
		if len(got.HelperInfo) == 0 {
			got.HelperInfo = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("flow %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestExpectRoundTrip(t *testing.T) {
	tuple := Tuple{Has: TupleAddrs | TupleProto | TuplePorts, Family: FamilyIPv4, Proto: ProtoTCP, Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}, SrcPort: 1, DstPort: 21}
	want := Expect{Has: ExpectHasTimeout | ExpectHasFlags | ExpectHasClass | ExpectHasZone | ExpectHasHelper | ExpectHasFn | ExpectHasNAT,
		Master: tuple, Tuple: tuple, Mask: tuple, NATTuple: tuple, NATDir: 1, Timeout: 300, Flags: ExpectUserspace, Class: 2, Zone: 8}
	want.Helper.Set("sip-20000")
	want.SetFn("nat-follow-master")
	var got Expect
	if err := got.Decode(want.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Attributes only the kernel sends, in bytes as Linux 6.18 sends them.
func TestDecodeKernelOnly(t *testing.T) {
	nest := func(typ uint16, parts ...[]byte) []byte {
		b, at := beginNest(nil, typ)
		for _, p := range parts {
			b = append(b, p...)
		}
		return endNest(b, at)
	}
	var b []byte
	b = append(b, nest(ctaCountersOrig, appendU64(nil, ctaCountersPackets, 5), appendU64(nil, ctaCountersBytes, 290), appendBytes(nil, 5, nil))...)
	b = append(b, nest(ctaCountersReply, appendU32(nil, ctaCounters32Packets, 4), appendU32(nil, ctaCounters32Bytes, 232))...)
	b = append(b, nest(ctaTimestamp, appendU64(nil, ctaTimestampStart, 1795395625947883824), appendU64(nil, ctaTimestampStop, 1795395625947883825))...)
	b = append(b, appendU64(nil, ctaTimestampEvent, 99)...)
	b = append(b, appendU32(nil, ctaUse, 2)...)
	b = append(b, appendU32(nil, ctaSecmark, 5)...)
	b = append(b, nest(ctaSecctx, appendString(nil, ctaSecctxName, []byte("system_u:object_r:x")))...)
	b = append(b, appendU32(nil, 999, 1)...) // unknown
	var f Flow
	if err := f.Decode(b); err != nil {
		t.Fatal(err)
	}
	if f.CountersOrig != (Counters{5, 290}) || f.CountersReply != (Counters{4, 232}) || f.TimestampStart != 1795395625947883824 ||
		f.TimestampStop != f.TimestampStart+1 || f.TimestampEvent != 99 || f.Use != 2 || f.Secmark != 5 || string(f.Secctx) != "system_u:object_r:x" {
		t.Errorf("got %+v", f)
	}
	want := HasCountersOrig | HasCountersReply | HasTimestampStart | HasTimestampStop | HasTimestampEvent | HasUse | HasSecmark | HasSecctx
	if f.Has != want {
		t.Errorf("has %b, want %b", f.Has, want)
	}
}

func TestDecodeShortAttribute(t *testing.T) {
	for _, tt := range []struct {
		b    []byte
		want string
	}{
		{appendBytes(nil, ctaTimeout, []byte{1, 2}), "decode flow: attribute 7 has only 2 bytes"},
		{[]byte{3, 0, 1, 0}, "decode flow: broken netlink attribute"},
		{appendBytes(nil, ctaTupleOrig, appendBytes(nil, ctaTupleIP, appendBytes(nil, ctaIPv4Src, []byte{1}))), "decode original tuple: attribute 1 has only 1 bytes"},
		{appendBytes(nil, ctaProtoinfo, []byte{200, 0, 1, 0}), "decode protocol information: broken netlink attribute"},
	} {
		if !littleEndian {
			continue // the literal headers above are little-endian; the encoder's own are tested everywhere
		}
		var f Flow
		if err := f.Decode(tt.b); err == nil || err.Error() != tt.want {
			t.Errorf("%x: %v, want %s", tt.b, err, tt.want)
		}
	}
}

func TestInverted(t *testing.T) {
	f := tcpFlow(5)
	if r := f.Orig.Inverted(); r.Inverted() != f.Orig {
		t.Errorf("inverted twice: %+v", r.Inverted())
	}
	half := Tuple{Has: TupleSrc | TupleSrcPort, Src: Addr{1}, SrcPort: 9}
	if r := half.Inverted(); r.Has != TupleDst|TupleDstPort || r.DstPort != 9 || r.Dst != half.Src {
		t.Errorf("inverted half tuple: %+v", r)
	}
	ping := Tuple{Has: TupleICMP | TupleProto, Proto: ProtoICMP, ICMPType: 13}
	if r := ping.Inverted(); r.ICMPType != 14 {
		t.Errorf("inverted timestamp request: type %d", r.ICMPType)
	}
	ping.ICMPType = 3
	if r := ping.Inverted(); r.ICMPType != NoICMPAnswer {
		t.Errorf("inverted unreachable: type %d", r.ICMPType)
	}
}

func TestParseAckText(t *testing.T) {
	for _, c := range []struct {
		flags   uint16
		refused uint32 // length of the refused request, as its header says
		want    string
	}{
		{ackTLVs | ackCapped, 0x1234, "invalid argument (invalid zone)"},
		{ackTLVs, nlmsgHeader, "invalid argument (invalid zone)"},
		{0, nlmsgHeader, "invalid argument"},
		{ackTLVs, 0x1000, "invalid argument"},
		{ackTLVs, 1 << 31, "invalid argument"}, // negative as an int of 32 bits
		{ackTLVs, 1<<32 - 1, "invalid argument"},
	} {
		b := make([]byte, nlmsgHeader+4+nlmsgHeader)
		native.PutUint16(b[4:], unix.NLMSG_ERROR)
		native.PutUint16(b[flagsOffset:], c.flags)
		errno := int32(-22)
		native.PutUint32(b[nlmsgHeader:], uint32(errno))
		native.PutUint32(b[nlmsgHeader+4:], c.refused)
		b = appendString(b, nlmsgerrAttrMsg, []byte("invalid zone"))
		if err := parseAck(b); err == nil || err.Error() != c.want {
			t.Errorf("flags %#x, a request of %#x bytes: got %v, want %s", c.flags, c.refused, err, c.want)
		}
	}
}

func TestHotPathAllocations(t *testing.T) {
	full := fullFlow()
	in := full.Append(nil)
	var f Flow
	buf := make([]byte, 0, 4096)
	for name, run := range map[string]func(){
		"decode": func() {
			if err := f.Decode(in); err != nil {
				t.Fatal(err)
			}
		},
		"encode":  func() { buf = full.Append(buf[:0]) },
		"request": func() { buf = (&Request{Type: TypeFlowNew, Flow: &full}).append(buf[:0], 1, 0) },
	} {
		run()
		if n := testing.AllocsPerRun(100, run); n != 0 {
			t.Errorf("%s: %v allocations a flow, want 0", name, n)
		}
	}
}

func FuzzDecodeFlow(f *testing.F) {
	full := fullFlow()
	f.Add(full.Append(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var flow, again Flow
		if flow.Decode(b) != nil {
			return
		}
		out := flow.Append(nil)
		if err := again.Decode(out); err != nil {
			t.Fatalf("own encoding refused: %v\n%s", err, hex.Dump(out))
		}
		if !bytes.Equal(again.Append(nil), out) {
			t.Fatalf("encoding is not stable:\n%x\n%x", out, again.Append(nil))
		}
	})
}

func FuzzDecodeExpect(f *testing.F) {
	e := Expect{Has: ExpectHasTimeout | ExpectHasNAT, Timeout: 3}
	f.Add(e.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e, again Expect
		if e.Decode(b) != nil {
			return
		}
		if err := again.Decode(e.Append(nil)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzMessages feeds the reader of whole datagrams.
func FuzzMessages(f *testing.F) {
	full := fullFlow()
	r := Request{Type: TypeFlowNew, Flow: &full}
	f.Add(r.append(r.append(nil, 1, 0), 2, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms := messages{rest: b}
		var m Message
		for ms.next() {
			if parseMessage(ms.raw, &m) == nil {
				var flow Flow
				_ = flow.Decode(m.Attrs)
			}
			_ = parseAck(ms.raw)
		}
	})
}

func BenchmarkDecodeFlow(b *testing.B) {
	plain := tcpFlow(1)
	plain.Has |= HasUse | HasID
	in := plain.Append(nil)
	var f Flow
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Decode(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendFlow(b *testing.B) {
	f := tcpFlow(1)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = f.Append(buf[:0])
	}
}

// dumpAttrs renders attributes for a readable diff: a line each, indented by
// depth, padding left out because its content means nothing.
func dumpAttrs(b []byte, indent string) string {
	var out strings.Builder
	a := attrs{}
	for len(b) >= attrHeader {
		n := int(native.Uint16(b))
		typ := native.Uint16(b[2:])
		if n < attrHeader || n > len(b) {
			fmt.Fprintf(&out, "%sbroken: %x\n", indent, b)
			break
		}
		a.val = b[attrHeader:n]
		b = b[min(align4(n), len(b)):]
		if typ&attrNested != 0 {
			fmt.Fprintf(&out, "%s%d {\n%s%s}\n", indent, typ&attrTypeMask, dumpAttrs(a.val, indent+"  "), indent)
		} else {
			fmt.Fprintf(&out, "%s%d: %x\n", indent, typ, a.val)
		}
	}
	return out.String()
}
