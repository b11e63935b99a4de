package ctnetlink

import (
	"bytes"
	"ctbox/nl"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
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
	f.Master = Tuple{Has: TupleAddrs | TupleProto | TuplePorts, Family: nl.FamilyIPv6, Proto: ProtoTCP, Src: Addr{0x20, 1}, Dst: Addr{0x20, 2}, SrcPort: 1, DstPort: 21}
	return f
}

func TestFlowRoundTrip(t *testing.T) {
	sctp := Flow{Has: HasSCTPState | HasSCTPVtagOrig | HasSCTPVtagReply, SCTPState: 4, SCTPVtagOrig: 0x01020304, SCTPVtagReply: 5}
	sctp.Orig = Tuple{Has: TupleProto, Proto: ProtoSCTP}
	dccp := Flow{Has: HasDCCPState | HasDCCPRole | HasDCCPHandshakeSeq, DCCPState: 4, DCCPRole: 1, DCCPHandshakeSeq: 1 << 40}
	dccp.Orig = Tuple{Has: TupleProto, Proto: ProtoDCCP}
	icmp := Flow{}
	icmp.Orig = Tuple{Has: TupleAddrs | TupleProto | TupleICMP, Family: nl.FamilyIPv4, Proto: ProtoICMP, Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}, ICMPType: 8, ICMPID: 0x1234}
	icmp.Reply = icmp.Orig.Inverted()
	icmp6 := icmp
	icmp6.Orig.Family, icmp6.Orig.Proto, icmp6.Orig.ICMPType = nl.FamilyIPv6, ProtoICMPv6, 128
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
	tuple := Tuple{Has: TupleAddrs | TupleProto | TuplePorts, Family: nl.FamilyIPv4, Proto: ProtoTCP, Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}, SrcPort: 1, DstPort: 21}
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
		b, at := nl.BeginNest(nil, typ)
		for _, p := range parts {
			b = append(b, p...)
		}
		return nl.EndNest(b, at)
	}
	var b []byte
	b = append(b, nest(ctaCountersOrig, nl.AppendU64(nil, ctaCountersPackets, 5), nl.AppendU64(nil, ctaCountersBytes, 290), nl.AppendBytes(nil, 5, nil))...)
	b = append(b, nest(ctaCountersReply, nl.AppendU32(nil, ctaCounters32Packets, 4), nl.AppendU32(nil, ctaCounters32Bytes, 232))...)
	b = append(b, nest(ctaTimestamp, nl.AppendU64(nil, ctaTimestampStart, 1795395625947883824), nl.AppendU64(nil, ctaTimestampStop, 1795395625947883825))...)
	b = append(b, nl.AppendU64(nil, ctaTimestampEvent, 99)...)
	b = append(b, nl.AppendU32(nil, ctaUse, 2)...)
	b = append(b, nl.AppendU32(nil, ctaSecmark, 5)...)
	b = append(b, nest(ctaSecctx, nl.AppendString(nil, ctaSecctxName, []byte("system_u:object_r:x")))...)
	b = append(b, nl.AppendU32(nil, 999, 1)...) // unknown
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
		{nl.AppendBytes(nil, ctaTimeout, []byte{1, 2}), "decode flow: attribute 7 has only 2 bytes"},
		{[]byte{3, 0, 1, 0}, "decode flow: broken netlink attribute"},
		{nl.AppendBytes(nil, ctaTupleOrig, nl.AppendBytes(nil, ctaTupleIP, nl.AppendBytes(nil, ctaIPv4Src, []byte{1}))), "decode original tuple: attribute 1 has only 1 bytes"},
		{nl.AppendBytes(nil, ctaProtoinfo, []byte{200, 0, 1, 0}), "decode protocol information: broken netlink attribute"},
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
		"encode": func() { buf = full.Append(buf[:0]) },
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
	one := nl.EndMessage(full.Append(nl.BeginMessage(nil, TypeFlowNew, 0, 1, nl.FamilyIPv4, 0, 0)), 0)
	f.Add(append(one, one...))
	f.Fuzz(func(t *testing.T, b []byte) {
		ms := nl.Messages{Rest: b}
		var m nl.Message
		for ms.Next() {
			if m.Parse(ms.Raw) == nil {
				var flow Flow
				_ = flow.Decode(m.Attrs)
			}
			_ = nl.ParseAck(ms.Raw)
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
	a := nl.Attrs{}
	for len(b) >= nl.AttrHeaderLen {
		n := int(native.Uint16(b))
		typ := native.Uint16(b[2:])
		if n < nl.AttrHeaderLen || n > len(b) {
			fmt.Fprintf(&out, "%sbroken: %x\n", indent, b)
			break
		}
		a.Value = b[nl.AttrHeaderLen:n]
		b = b[min(nl.Align(n), len(b)):]
		if typ&unix.NLA_F_NESTED != 0 {
			fmt.Fprintf(&out, "%s%d {\n%s%s}\n", indent, typ&^unix.NLA_F_NESTED, dumpAttrs(a.Value, indent+"  "), indent)
		} else {
			fmt.Fprintf(&out, "%s%d: %x\n", indent, typ, a.Value)
		}
	}
	return out.String()
}
