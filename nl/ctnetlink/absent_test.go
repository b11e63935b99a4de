package ctnetlink

import (
	"ctbox/nl"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// again encodes f as a request and decodes it.
func again(t *testing.T, f *Flow) Flow {
	t.Helper()
	var got Flow
	if err := got.Decode(f.Append(nil)); err != nil {
		t.Fatal(err)
	}
	return got
}

// An attribute that a flow does not have is not in the request either: the kernel would set
// it, or refuse the request.
func TestEachAttributeAlone(t *testing.T) {
	tcp := fullFlow()
	sctp := Flow{Has: HasSCTPState | HasSCTPVtagOrig | HasSCTPVtagReply, Orig: tcp.Orig}
	dccp := Flow{Has: HasDCCPState | HasDCCPRole | HasDCCPHandshakeSeq, Orig: tcp.Orig}
	sctp.Orig.Proto, dccp.Orig.Proto = ProtoSCTP, ProtoDCCP
	for _, full := range []*Flow{&tcp, &sctp, &dccp} {
		for bit := Attr(1); bit != 0 && bit <= full.Has; bit <<= 1 {
			if full.Has&bit == 0 {
				continue
			}
			f := *full
			f.Has = bit
			if got := again(t, &f); got.Has != bit || got.Orig != f.Orig {
				t.Errorf("protocol %d: %b alone becomes %b, of %+v", f.Orig.Proto, bit, got.Has, got.Orig)
			}
			f.Has = full.Has &^ bit
			if got := again(t, &f); got.Has != f.Has {
				t.Errorf("protocol %d: without %b it becomes %b, want %b", f.Orig.Proto, bit, got.Has, f.Has)
			}
		}
	}
	ping := Tuple{Has: TupleAddrs | TupleProto | TupleICMP | TupleZone, Family: nl.FamilyIPv4, Proto: ProtoICMP,
		Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}, ICMPType: 8, ICMPCode: 1, ICMPID: 0x1234, Zone: 3}
	for _, full := range []Tuple{tcp.Orig, ping} {
		for bit := TupleAttr(1); bit <= full.Has; bit <<= 1 {
			if full.Has&bit == 0 {
				continue
			}
			f := Flow{Orig: full}
			f.Orig.Has = bit
			if got := again(t, &f); got.Orig.Has != bit {
				t.Errorf("protocol %d: tuple with %b alone becomes %+v", full.Proto, bit, got.Orig)
			}
			f.Orig.Has = full.Has &^ bit
			if got := again(t, &f); got.Orig.Has != f.Orig.Has {
				t.Errorf("protocol %d: tuple without %b becomes %+v", full.Proto, bit, got.Orig)
			}
		}
	}
}

func TestTranslationsOfIPv6(t *testing.T) {
	f := Flow{Has: HasNATSrc | HasNATDst, Orig: Tuple{Has: TupleAddrs | TupleProto | TuplePorts, Family: nl.FamilyIPv6, Proto: ProtoUDP,
		Src: Addr{0x20, 1, 0xd, 0xb8, 15: 1}, Dst: Addr{0x20, 1, 0xd, 0xb8, 15: 2}, SrcPort: 4000, DstPort: 53}}
	f.NATSrc = NAT{Addr: Addr{0x20, 1, 0xd, 0xb8, 15: 9}, HasAddr: true, Port: 4001, HasPort: true}
	f.NATDst = NAT{Port: 5353, HasPort: true}
	if diff := cmp.Diff(f, again(t, &f)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDecodeSecurityContextWithItsEnd(t *testing.T) {
	b, at := nl.BeginNest(nil, ctaSecctx)
	b = nl.EndNest(nl.AppendBytes(b, ctaSecctxName, []byte("kernel_t\x00\x00")), at)
	var f Flow
	if err := f.Decode(b); err != nil || string(f.Secctx) != "kernel_t" {
		t.Errorf("%q, %v", f.Secctx, err)
	}
}

func TestDecodeShortNests(t *testing.T) {
	nest := func(typ uint16, part []byte) []byte {
		b, at := nl.BeginNest(nil, typ)
		return nl.EndNest(append(b, part...), at)
	}
	empty := func(typ uint16) []byte { return nl.AppendBytes(nil, typ, nil) }
	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"TCP state", nest(ctaProtoinfo, nest(ctaProtoinfoTCP, empty(ctaTCPState)))},
		{"TCP flags", nest(ctaProtoinfo, nest(ctaProtoinfoTCP, nl.AppendU8(nil, ctaTCPFlagsOrig, 1)))},
		{"SCTP state", nest(ctaProtoinfo, nest(ctaProtoinfoSCTP, empty(ctaSCTPState)))},
		{"SCTP tag", nest(ctaProtoinfo, nest(ctaProtoinfoSCTP, nl.AppendU16(nil, ctaSCTPVtagOrig, 1)))},
		{"DCCP state", nest(ctaProtoinfo, nest(ctaProtoinfoDCCP, empty(ctaDCCPState)))},
		{"DCCP sequence", nest(ctaProtoinfo, nest(ctaProtoinfoDCCP, nl.AppendU32(nil, ctaDCCPHandshakeSeq, 1)))},
		{"sequence adjustment", nest(ctaSeqAdjOrig, nl.AppendU16(nil, ctaSeqAdjPos, 1))},
		{"NAT address", nest(ctaNATSrc, nl.AppendU16(nil, ctaNATv4Min, 1))},
		{"NAT port", nest(ctaNATSrc, nest(ctaNATProto, nl.AppendU8(nil, ctaProtoNATPortMin, 1)))},
		{"counters", nest(ctaCountersOrig, nl.AppendU32(nil, ctaCountersPackets, 1))},
		{"timestamp", nest(ctaTimestamp, nl.AppendU32(nil, ctaTimestampStart, 1))},
		{"synproxy", nest(ctaSynproxy, nl.AppendU16(nil, ctaSynproxyISN, 1))},
		{"zone", empty(ctaZone)},
		{"id", nl.AppendU16(nil, ctaID, 1)},
		{"protocol", nest(ctaTupleOrig, nest(ctaTupleProto, empty(ctaProtoNum)))},
		{"port", nest(ctaTupleOrig, nest(ctaTupleProto, nl.AppendU8(nil, ctaProtoSrcPort, 1)))},
		{"ICMP id", nest(ctaTupleOrig, nest(ctaTupleProto, nl.AppendU8(nil, ctaProtoICMPID, 1)))},
		{"tuple's zone", nest(ctaTupleOrig, nl.AppendU8(nil, ctaTupleZone, 1))},
	} {
		var f Flow
		if err := f.Decode(tt.b); err == nil {
			t.Errorf("%s: %+v", tt.name, f)
		}
	}
}

func TestEmptyFilters(t *testing.T) {
	for _, f := range []EventFilter{
		{Family: nl.FamilyIPv4}, {Proto: ProtoTCP}, {Src: manyPrefixes(1)[0]}, {Dst: manyPrefixes(1)[0]},
		{Protos: List[uint8]{Action: Ignore}}, {Prefixes: List[netip.Prefix]{Action: Ignore}}, {States: List[uint8]{Action: Accept}},
	} {
		if f.Empty() {
			t.Errorf("%+v is empty", f)
		}
	}
	if !(&EventFilter{}).Empty() {
		t.Error("the zero filter is not empty")
	}
}
