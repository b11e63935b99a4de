package interop

import (
	"fmt"
	"net/netip"
	"strings"

	"ctbox/nl"
)

// side is one of a pair's two firewalls, or of three: what is behind it. Flows of
// different sides have no address in common, so that the table of a firewall that has
// committed tells whose flow is whose.
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

func (s *side) ownsTuple(t *nl.Tuple) bool {
	a := addrOf(t.Family, &t.Src).String()
	return strings.HasPrefix(a, s.net4) || strings.HasPrefix(a, s.net6)
}

func addrOf(family uint8, a *nl.Addr) netip.Addr {
	if family == nl.FamilyIPv6 {
		return netip.AddrFrom16(*a)
	}
	return netip.AddrFrom4([4]byte(a[:4]))
}

func parseAddr(s string) (family uint8, a nl.Addr) {
	ip := netip.MustParseAddr(s)
	copy(a[:], ip.AsSlice())
	if ip.Is6() {
		return nl.FamilyIPv6, a
	}
	return nl.FamilyIPv4, a
}

func (s *side) host4(n int) string { return fmt.Sprint(s.net4, n) }
func (s *side) host6(n int) string { return fmt.Sprint(s.net6, n) }

// server is the number of the host that all flows of a side go to.
const server = 200

// sample is a flow that the scenario makes, changes and removes.
type sample struct {
	name string
	flow nl.Flow
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
	add := func(name string, proto uint8, v6 bool, change func(*nl.Flow)) *nl.Flow {
		port++
		src, dst := s.host4(len(all)+1), s.host4(server)
		if v6 {
			src, dst = s.host6(len(all)+1), s.host6(server)
		}
		f := nl.Flow{Has: nl.HasStatus | nl.HasTimeout, Status: nl.StatusConfirmed | nl.StatusSeenReply | nl.StatusAssured, Timeout: 3000}
		t := &f.Orig
		t.Has, t.Proto = nl.TupleAddrs|nl.TupleProto, proto
		t.Family, t.Src = parseAddr(src)
		_, t.Dst = parseAddr(dst)
		switch proto {
		case nl.ProtoICMP, nl.ProtoICMPv6:
			t.Has |= nl.TupleICMP
			t.ICMPType, t.ICMPID = 8, port
			if v6 {
				t.ICMPType = 128
			}
		case nl.ProtoTCP, nl.ProtoUDP, nl.ProtoUDPLite, nl.ProtoSCTP, nl.ProtoGRE:
			t.Has |= nl.TuplePorts
			t.SrcPort, t.DstPort = port, 80
		}
		switch proto {
		case nl.ProtoTCP:
			f.Has |= nl.HasTCPState
			f.TCPState = nl.TCPStateEstablished
		case nl.ProtoSCTP:
			f.Has |= nl.HasSCTPState | nl.HasSCTPVtagOrig | nl.HasSCTPVtagReply
			f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 4, 0x01020304, 0x05060708
		}
		if change != nil {
			change(&f)
		}
		f.Reply = f.Orig.Inverted()
		all = append(all, sample{name: name, flow: f})
		return &all[len(all)-1].flow
	}
	nat := func(addr string, port uint16) nl.NAT {
		n := nl.NAT{HasAddr: true, Port: port, HasPort: port != 0}
		_, n.Addr = parseAddr(addr)
		return n
	}
	snat := func(addr string, port uint16) func(*nl.Flow) {
		return func(f *nl.Flow) { f.Has |= nl.HasNATSrc; f.NATSrc = nat(addr, port) }
	}
	dnat := func(addr string, port uint16) func(*nl.Flow) {
		return func(f *nl.Flow) { f.Has |= nl.HasNATDst; f.NATDst = nat(addr, port) }
	}
	const v4, v6 = false, true

	master := add("TCP", nl.ProtoTCP, v4, nil).Orig
	add("TCP unreplied", nl.ProtoTCP, v4, func(f *nl.Flow) { f.Status, f.TCPState = nl.StatusConfirmed, 1 })
	add("TCP, source translated", nl.ProtoTCP, v4, snat(s.outside, 0))
	add("TCP, source and port translated", nl.ProtoTCP, v4, snat(s.outside, 40001))
	add("TCP, destination translated", nl.ProtoTCP, v4, dnat(s.host4(server+1), 0))
	add("TCP, destination and port translated", nl.ProtoTCP, v4, dnat(s.host4(server+1), 8080))
	add("TCP, both translated", nl.ProtoTCP, v4, func(f *nl.Flow) { snat(s.outside, 40002)(f); dnat(s.host4(server+1), 8081)(f) })
	add("TCP, mark and labels", nl.ProtoTCP, v4, func(f *nl.Flow) {
		f.Has |= nl.HasMark | nl.HasLabels
		f.Mark, f.LabelsLen = 0xabcd, nl.LabelWords
		f.Labels.SetBit(1)
		f.Labels.SetBit(33)
		f.Labels.SetBit(127)
	})
	add("TCP in a zone", nl.ProtoTCP, v4, func(f *nl.Flow) { f.Orig = master; f.Has |= nl.HasZone; f.Zone = 7 })
	add("TCP in another zone", nl.ProtoTCP, v4, func(f *nl.Flow) { f.Orig = master; f.Has |= nl.HasZone; f.Zone = 8 })
	add("TCP with a master", nl.ProtoTCP, v4, func(f *nl.Flow) { f.Master = master })
	add("TCP with offsets", nl.ProtoTCP, v4, func(f *nl.Flow) {
		snat(s.outside, 0)(f)
		f.Has |= nl.HasSeqAdjOrig | nl.HasSeqAdjReply
		f.Status |= nl.StatusSeqAdjust
		f.SeqAdjOrig = nl.SeqAdj{CorrectionPos: 7, OffsetBefore: 1, OffsetAfter: 2}
		f.SeqAdjReply = nl.SeqAdj{CorrectionPos: 9, OffsetBefore: 3, OffsetAfter: 4}
	})
	add("UDP", nl.ProtoUDP, v4, nil)
	add("UDP, both translated", nl.ProtoUDP, v4, func(f *nl.Flow) { snat(s.outside, 40003)(f); dnat(s.host4(server+1), 53)(f) })
	add("UDP-Lite", nl.ProtoUDPLite, v4, nil)
	add("ICMP", nl.ProtoICMP, v4, nil)
	add("ICMP, source translated", nl.ProtoICMP, v4, snat(s.outside, 0))
	add("SCTP", nl.ProtoSCTP, v4, nil)
	add("SCTP, source translated", nl.ProtoSCTP, v4, snat(s.outside, 0))
	add("GRE", nl.ProtoGRE, v4, nil)
	add("DCCP", nl.ProtoDCCP, v4, nil)
	add("OSPF", protoOSPF, v4, nil)
	add("unnamed protocol", protoUnnamed, v4, nil)
	add("IPv6 TCP", nl.ProtoTCP, v6, nil)
	add("IPv6 TCP, source and port translated", nl.ProtoTCP, v6, snat(s.host6(1), 40004))
	add("IPv6 TCP, destination translated", nl.ProtoTCP, v6, dnat(s.host6(server+1), 0))
	add("IPv6 UDP", nl.ProtoUDP, v6, nil)
	add("IPv6 SCTP", nl.ProtoSCTP, v6, nil)
	add("ICMPv6", nl.ProtoICMPv6, v6, nil)
	add("IPv6 unnamed protocol", protoUnnamed, v6, nil)
	return all
}
