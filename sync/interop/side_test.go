package interop

import (
	"fmt"
	"net/netip"
	"strings"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// side is the networks behind a firewall of a pair, or of three. Flows of different sides have
// no address in common, so that each flow of a firewall that has committed can be attributed.
type side struct {
	name    string
	net4    string // beginning of an IPv4 address
	net6    string // beginning of an IPv6 address
	link4   string // address on the first dedicated link
	outside string // what sources are translated to
}

var sides = [3]side{
	{"a", "198.51.100.", "2001:db8:a::", "192.0.2.1", "192.0.2.193"},
	{"b", "203.0.113.", "2001:db8:b::", "192.0.2.2", "192.0.2.194"},
	{"c", "192.0.2.", "2001:db8:c::", "192.0.2.3", "192.0.2.195"},
}

// owns reports whether a flow began behind the firewall.
func (s *side) owns(e entry) bool {
	if _, master, ok := strings.Cut(e, " master-src="); ok {
		return strings.HasPrefix(master, s.net4)
	}
	return strings.Contains(e, " src="+s.net4) || strings.Contains(e, " src="+s.net6)
}

func (s *side) ownsTuple(t *ctnetlink.Tuple) bool {
	a := addrOf(t.Family, &t.Src).String()
	return strings.HasPrefix(a, s.net4) || strings.HasPrefix(a, s.net6)
}

func addrOf(family uint8, a *ctnetlink.Addr) netip.Addr {
	if family == nl.FamilyIPv6 {
		return netip.AddrFrom16(*a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

func parseAddr(s string) (family uint8, a ctnetlink.Addr) {
	ip := netip.MustParseAddr(s)
	copy(a[:], ip.AsSlice())
	if ip.Is6() {
		return nl.FamilyIPv6, a
	}
	return nl.FamilyIPv4, a
}

func (s *side) host4(n int) string { return fmt.Sprint(s.net4, n) }
func (s *side) host6(n int) string { return fmt.Sprint(s.net6, n) }

// server is the host number of the destination of all flows of a side.
const server = 200

// sample is a flow that the scenario creates, changes and removes.
type sample struct {
	name string
	flow ctnetlink.Flow
}

// protocol numbers without a name in conntrack's tables.
const (
	protoOSPF    = 89
	protoUnnamed = 253 // RFC 3692
)

// samples are flows of every kind: all protocols, translations with and without
// another port, both families, marks, labels, zones, masters.
func (s *side) samples() []sample {
	var all []sample
	port := uint16(1000)
	add := func(name string, proto uint8, v6 bool, change func(*ctnetlink.Flow)) *ctnetlink.Flow {
		port++
		src, dst := s.host4(len(all)+1), s.host4(server)
		if v6 {
			src, dst = s.host6(len(all)+1), s.host6(server)
		}
		f := ctnetlink.Flow{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout, Status: ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured, Timeout: 3000}
		t := &f.Orig
		t.Has, t.Proto = ctnetlink.TupleAddrs|ctnetlink.TupleProto, proto
		t.Family, t.Src = parseAddr(src)
		_, t.Dst = parseAddr(dst)
		switch proto {
		case ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6:
			t.Has |= ctnetlink.TupleICMP
			t.ICMPType, t.ICMPID = 8, port
			if v6 {
				t.ICMPType = 128
			}
		case ctnetlink.ProtoTCP, ctnetlink.ProtoUDP, ctnetlink.ProtoSCTP:
			t.Has |= ctnetlink.TuplePorts
			t.SrcPort, t.DstPort = port, 80
		case ctnetlink.ProtoGRE:
			t.Has |= ctnetlink.TuplePorts // without keys: GRE with keys is not replicated
		}
		switch proto {
		case ctnetlink.ProtoTCP:
			f.Has |= ctnetlink.HasTCPState
			f.TCPState = ctnetlink.TCPStateEstablished
		case ctnetlink.ProtoSCTP:
			f.Has |= ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply
			f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 4, 0x01020304, 0x05060708
		}
		if change != nil {
			change(&f)
		}
		f.Reply = f.Orig.Inverted()
		all = append(all, sample{name: name, flow: f})
		return &all[len(all)-1].flow
	}
	nat := func(addr string, port uint16) ctnetlink.NAT {
		n := ctnetlink.NAT{HasAddr: true, Port: port, HasPort: port != 0}
		_, n.Addr = parseAddr(addr)
		return n
	}
	snat := func(addr string, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasNATSrc; f.NATSrc = nat(addr, port) }
	}
	dnat := func(addr string, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) { f.Has |= ctnetlink.HasNATDst; f.NATDst = nat(addr, port) }
	}
	const v4, v6 = false, true

	master := add("TCP", ctnetlink.ProtoTCP, v4, nil).Orig
	add("TCP unreplied", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) { f.Status, f.TCPState = ctnetlink.StatusConfirmed, 1 })
	add("TCP, source translated", ctnetlink.ProtoTCP, v4, snat(s.outside, 0))
	add("TCP, source and port translated", ctnetlink.ProtoTCP, v4, snat(s.outside, 40001))
	add("TCP, destination translated", ctnetlink.ProtoTCP, v4, dnat(s.host4(server+1), 0))
	add("TCP, destination and port translated", ctnetlink.ProtoTCP, v4, dnat(s.host4(server+1), 8080))
	add("TCP, both translated", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) { snat(s.outside, 40002)(f); dnat(s.host4(server+1), 8081)(f) })
	add("TCP, mark and labels", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) {
		f.Has |= ctnetlink.HasMark | ctnetlink.HasLabels
		f.Mark, f.LabelsLen = 0xabcd, ctnetlink.LabelWords
		f.Labels.SetBit(1)
		f.Labels.SetBit(33)
		f.Labels.SetBit(127)
	})
	add("TCP in a zone", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) { f.Orig = master; f.Has |= ctnetlink.HasZone; f.Zone = 7 })
	add("TCP in another zone", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) { f.Orig = master; f.Has |= ctnetlink.HasZone; f.Zone = 8 })
	add("TCP with a master", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) { f.Master = master })
	add("TCP with offsets", ctnetlink.ProtoTCP, v4, func(f *ctnetlink.Flow) {
		snat(s.outside, 0)(f)
		f.Has |= ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply
		f.Status |= ctnetlink.StatusSeqAdjust
		f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: 7, OffsetBefore: 1, OffsetAfter: 2}
		f.SeqAdjReply = ctnetlink.SeqAdj{CorrectionPos: 9, OffsetBefore: 3, OffsetAfter: 4}
	})
	add("UDP", ctnetlink.ProtoUDP, v4, nil)
	add("UDP, both translated", ctnetlink.ProtoUDP, v4, func(f *ctnetlink.Flow) { snat(s.outside, 40003)(f); dnat(s.host4(server+1), 53)(f) })
	add("ICMP", ctnetlink.ProtoICMP, v4, nil)
	add("ICMP, source translated", ctnetlink.ProtoICMP, v4, snat(s.outside, 0))
	add("SCTP", ctnetlink.ProtoSCTP, v4, nil)
	add("SCTP, source translated", ctnetlink.ProtoSCTP, v4, snat(s.outside, 0))
	add("GRE", ctnetlink.ProtoGRE, v4, nil)
	add("DCCP", ctnetlink.ProtoDCCP, v4, nil)
	add("OSPF", protoOSPF, v4, nil)
	add("unnamed protocol", protoUnnamed, v4, nil)
	add("IPv6 TCP", ctnetlink.ProtoTCP, v6, nil)
	add("IPv6 TCP, source and port translated", ctnetlink.ProtoTCP, v6, snat(s.host6(1), 40004))
	add("IPv6 TCP, destination translated", ctnetlink.ProtoTCP, v6, dnat(s.host6(server+1), 0))
	add("IPv6 UDP", ctnetlink.ProtoUDP, v6, nil)
	add("IPv6 SCTP", ctnetlink.ProtoSCTP, v6, nil)
	add("ICMPv6", ctnetlink.ProtoICMPv6, v6, nil)
	add("IPv6 unnamed protocol", protoUnnamed, v6, nil)
	return all
}
