package ctnetlink

import (
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"

	"github.com/google/go-cmp/cmp"
)

// Each case is a request of conntrack-tools for a command line, and the Flow or Expect that this
// package must encode to the same attributes.
func TestRequestsEqualThePeers(t *testing.T) {
	tuple := func(proto uint8) Tuple {
		return Tuple{Has: TupleAddrs | TupleProto, Family: nl.FamilyIPv4, Proto: proto, Src: Addr{192, 0, 2, 1}, Dst: Addr{192, 0, 2, 2}}
	}
	ports := func(tu Tuple, src, dst uint16) Tuple {
		tu.Has |= TuplePorts
		tu.SrcPort, tu.DstPort = src, dst
		return tu
	}
	both := func(f Flow) Flow {
		f.Reply = f.Orig.Inverted()
		f.Has |= HasTimeout
		f.Timeout = 100
		return f
	}

	tcp := both(Flow{Has: HasStatus | HasMark | HasTCPState | HasTCPFlagsOrig | HasTCPFlagsReply | HasZone | HasNATSrc | HasNATDst,
		Orig: ports(tuple(ProtoTCP), 10, 20), Status: StatusAssured | StatusConfirmed, Mark: 5, Zone: 3,
		TCPState: TCPStateEstablished, TCPFlagsOrig: TCPFlags{10, 10}, TCPFlagsReply: TCPFlags{10, 10},
		NATSrc: NAT{Addr: Addr{198, 51, 100, 1}, Port: 99, HasAddr: true, HasPort: true},
		NATDst: NAT{Addr: Addr{203, 0, 113, 1}, HasAddr: true}})
	icmp := both(Flow{Orig: tuple(ProtoICMP)})
	icmp.Orig.Has |= TupleICMP
	icmp.Orig.ICMPType, icmp.Orig.ICMPID = 8, 7
	icmp.Reply = icmp.Orig.Inverted()
	icmp6 := icmp
	icmp6.Orig.Family, icmp6.Orig.Proto, icmp6.Orig.ICMPType = nl.FamilyIPv6, ProtoICMPv6, 128
	icmp6.Orig.Src, icmp6.Orig.Dst = Addr{0x20, 0x01, 0x0d, 0xb8, 15: 1}, Addr{0x20, 0x01, 0x0d, 0xb8, 15: 2}
	icmp6.Reply = icmp6.Orig.Inverted()
	sctp := both(Flow{Has: HasSCTPState | HasSCTPVtagOrig | HasSCTPVtagReply, Orig: ports(tuple(ProtoSCTP), 1, 2),
		SCTPState: 4, SCTPVtagOrig: CommandVtag(5), SCTPVtagReply: CommandVtag(6)})
	gre := both(Flow{Orig: ports(tuple(ProtoGRE), 1, 2)})
	gre.Orig.Has |= TupleZone
	gre.Orig.Zone = 4
	unknown := both(Flow{Orig: tuple(203)})
	filter := Flow{Has: HasMark | HasMarkMask | HasStatus | HasStatusMask, Mark: 3, MarkMask: 0xf, Status: 2, StatusMask: 2}
	// UDP: for TCP 1.4.7 puts half a port into the protocol number.
	expect := Expect{Has: ExpectHasTimeout, Timeout: 30,
		Master: ports(tuple(ProtoUDP), 1000, 21),
		Tuple:  ports(Tuple{Has: TupleAddrs | TupleProto, Family: nl.FamilyIPv4, Proto: ProtoUDP, Src: Addr{192, 0, 2, 2}, Dst: Addr{192, 0, 2, 1}}, 20, 41),
		Mask:   ports(Tuple{Has: TupleAddrs | TupleProto, Family: nl.FamilyIPv4, Proto: ProtoUDP, Src: Addr{255, 255, 255, 255}, Dst: Addr{255, 255, 255, 255}}, 0, 65535)}

	for _, tt := range []struct {
		name string
		args string
		want []byte
	}{
		{"tcp with NAT", "-I -s 192.0.2.1 -d 192.0.2.2 -p tcp --sport 10 --dport 20 --state ESTABLISHED -t 100 -u ASSURED -m 5 -w 3 -n 198.51.100.1:99 -g 203.0.113.1", tcp.Append(nil)},
		{"icmp", "-I -s 192.0.2.1 -d 192.0.2.2 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 7 -t 100", icmp.Append(nil)},
		{"icmpv6", "-I -s 2001:db8::1 -d 2001:db8::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 7 -t 100", icmp6.Append(nil)},
		{"sctp", "-I -s 192.0.2.1 -d 192.0.2.2 -p sctp --sport 1 --dport 2 --state ESTABLISHED --orig-vtag 5 --reply-vtag 6 -t 100", sctp.Append(nil)},
		{"gre with a zone of one direction", "-I -s 192.0.2.1 -d 192.0.2.2 -p gre --srckey 1 --dstkey 2 -t 100 --orig-zone 4", gre.Append(nil)},
		{"unknown protocol", "-I -s 192.0.2.1 -d 192.0.2.2 -p 203 -t 100", unknown.Append(nil)},
		{"dump filter", "-L -m 3/0xf -u SEEN_REPLY", filter.Append(nil)},
		{"expectation", "-I expect -s 192.0.2.1 -d 192.0.2.2 -p udp --sport 1000 --dport 21 --tuple-src 192.0.2.2 --tuple-dst 192.0.2.1 " +
			"--tuple-port-src 20 --tuple-port-dst 41 --mask-src 255.255.255.255 --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535 -t 30", expect.Append(nil)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := netnstest.New(t, "peer")
			_, sent := ns.Sent(netnstest.Peer(t, "conntrack"), strings.Fields(tt.args)...)
			if len(sent) == 0 {
				t.Fatal("the peer sent nothing")
			}
			if diff := cmp.Diff(dumpAttrs(sent[0][nl.HeadersLen:], ""), dumpAttrs(tt.want, "")); diff != "" {
				t.Errorf("attributes (-peer +ours):\n%s", diff)
			}
		})
	}
}
