package wire

import (
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Unsayable is why version 1 has no true message for a flow or an expectation. A
// message that leaves out what it has no place for would name something else at the
// receiver, and a commit would create that.
type Unsayable uint8

// The reasons. Sayable is none.
const (
	Sayable      Unsayable = iota
	OneWayZone             // a zone of one direction: two such flows would be one
	GREKeys                // GRE with keys (PPTP): would be the flow without keys
	UDPLitePorts           // UDP-Lite: the flow of ports 0
	ICMPID                 // the identifier is translated: no reply would be recognised
	ExpectZone             // an expectation in a zone: another one, of the zone 0
	ExpectNAT6             // an expectation with NAT of IPv6: the one without NAT
	Reasons                // how many there are, Sayable included
)

// UnsayableFlow returns why version 1 cannot say what f is.
func UnsayableFlow(f *ctnetlink.Flow) Unsayable {
	o, r := &f.Orig, &f.Reply
	if (o.Has|r.Has)&ctnetlink.TupleZone != 0 {
		return OneWayZone
	}
	switch o.Proto {
	case ctnetlink.ProtoGRE:
		if o.SrcPort|o.DstPort|r.SrcPort|r.DstPort != 0 {
			return GREKeys
		}
	case ctnetlink.ProtoUDPLite:
		// Kernels from Linux 7.2 on know no ports of it, and there is one flow.
		if o.Has&ctnetlink.TuplePorts != 0 && o.SrcPort|o.DstPort != 0 {
			return UDPLitePorts
		}
	case ctnetlink.ProtoICMP, ctnetlink.ProtoICMPv6:
		if o.Has&r.Has&ctnetlink.TupleICMPID != 0 && o.ICMPID != r.ICMPID {
			return ICMPID
		}
	}
	return Sayable
}

// UnsayableExpect returns why version 1 cannot say what x is.
func UnsayableExpect(x *ctnetlink.Expect) Unsayable {
	switch {
	case x.Has&ctnetlink.ExpectHasZone != 0 && x.Zone != 0:
		return ExpectZone
	case x.Has&ctnetlink.ExpectHasNAT != 0 && x.NATTuple.Family == nl.FamilyIPv6 && x.NATTuple.Src != (ctnetlink.Addr{}):
		return ExpectNAT6
	}
	return Sayable
}
