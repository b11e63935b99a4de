package wire

import (
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func TestUnsayable(t *testing.T) {
	base := func(proto uint8) ctnetlink.Flow {
		f := flowDumps[0].flow
		f.Orig.Proto = proto
		f.Orig.Has &^= ctnetlink.TuplePorts | ctnetlink.TupleICMP
		f.Orig.SrcPort, f.Orig.DstPort = 0, 0
		switch {
		case ctnetlink.IsICMP(proto):
			f.Orig.Has |= ctnetlink.TupleICMP
			f.Orig.ICMPType, f.Orig.ICMPID = 8, 77
		default:
			f.Orig.Has |= ctnetlink.TuplePorts
		}
		f.Reply = f.Orig.Inverted()
		return f
	}
	ports := func(f ctnetlink.Flow, src, dst uint16) ctnetlink.Flow {
		f.Orig.SrcPort, f.Orig.DstPort = src, dst
		f.Reply = f.Orig.Inverted()
		return f
	}
	with := func(f ctnetlink.Flow, change func(*ctnetlink.Flow)) ctnetlink.Flow { change(&f); return f }
	for _, c := range []struct {
		name string
		flow ctnetlink.Flow
		want Unsayable
	}{
		{"TCP", ports(base(ctnetlink.ProtoTCP), 1, 2), Sayable},
		{"zone of both directions", with(base(ctnetlink.ProtoTCP), func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasZone; f.Zone = 3 }), Sayable},
		{"zone of the original direction", with(base(ctnetlink.ProtoTCP), func(f *ctnetlink.Flow) { f.Orig.Has |= ctnetlink.TupleZone; f.Orig.Zone = 3 }), OneWayZone},
		{"zone of the reply direction", with(base(ctnetlink.ProtoUDP), func(f *ctnetlink.Flow) { f.Reply.Has |= ctnetlink.TupleZone; f.Reply.Zone = 3 }), OneWayZone},
		{"GRE", base(ctnetlink.ProtoGRE), Sayable},
		{"GRE with a key", ports(base(ctnetlink.ProtoGRE), 0, 9), GREKeys},
		{"GRE with the reply's key", with(base(ctnetlink.ProtoGRE), func(f *ctnetlink.Flow) { f.Reply.DstPort = 1 }), GREKeys},
		{"UDP-Lite", ports(base(ctnetlink.ProtoUDPLite), 1, 2), UDPLitePorts},
		{"UDP-Lite without ports", with(base(ctnetlink.ProtoUDPLite), func(f *ctnetlink.Flow) { f.Orig.Has &^= ctnetlink.TuplePorts }), Sayable},
		{"DCCP", ports(base(ctnetlink.ProtoDCCP), 1, 2), Sayable},
		{"OSPF", base(89), Sayable},
		{"ICMP", base(ctnetlink.ProtoICMP), Sayable},
		{"ICMP, another identifier", with(base(ctnetlink.ProtoICMP), func(f *ctnetlink.Flow) { f.Reply.ICMPID = 78 }), ICMPID},
		{"ICMP, another address", with(base(ctnetlink.ProtoICMP), func(f *ctnetlink.Flow) { f.Reply.Dst[3]++ }), Sayable},
		{"ICMP without a reply tuple", with(base(ctnetlink.ProtoICMP), func(f *ctnetlink.Flow) { f.Reply = ctnetlink.Tuple{} }), Sayable},
	} {
		if got := UnsayableFlow(&c.flow); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*ctnetlink.Expect)
		want   Unsayable
	}{
		{"plain", func(*ctnetlink.Expect) {}, Sayable},
		{"zone 0", func(x *ctnetlink.Expect) { x.Has |= ctnetlink.ExpectHasZone }, Sayable},
		{"zone 7", func(x *ctnetlink.Expect) { x.Has |= ctnetlink.ExpectHasZone; x.Zone = 7 }, ExpectZone},
		{"NAT of IPv4", func(x *ctnetlink.Expect) { x.Has |= ctnetlink.ExpectHasNAT; x.NATTuple = x.Master }, Sayable},
		{"NAT of IPv6", func(x *ctnetlink.Expect) {
			x.Has |= ctnetlink.ExpectHasNAT
			x.NATTuple = ctnetlink.Tuple{Family: nl.FamilyIPv6, Src: ctnetlink.Addr{0x20, 1}}
		}, ExpectNAT6},
		{"NAT of IPv6 to no address", func(x *ctnetlink.Expect) {
			x.Has |= ctnetlink.ExpectHasNAT
			x.NATTuple = ctnetlink.Tuple{Family: nl.FamilyIPv6}
		}, Sayable},
	} {
		x := expectDump()
		c.change(&x)
		if got := UnsayableExpect(&x); got != c.want {
			t.Errorf("expectation, %s: %d, want %d", c.name, got, c.want)
		}
	}
}
