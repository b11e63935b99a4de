package wire

import (
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Unsayable is the reason why version 1 cannot represent a flow or an expectation. A message
// without the missing part would identify a different object at the receiver, and a commit
// would create that one.
type Unsayable uint8

// The reasons. Sayable means that version 1 can represent the object.
const (
	Sayable      Unsayable = iota
	OneWayZone             // a zone of one direction: two such flows would become one
	GREKeys                // GRE with keys (PPTP): would become the flow without keys
	UDPLitePorts           // UDP-Lite: would become the flow of ports 0
	ICMPID                 // translated ICMP identifier: replies would not be recognised
	ExpectZone             // an expectation in a zone: would become one of zone 0
	ExpectNAT6             // an IPv6 expectation with NAT: would become one without NAT
	Reasons                // the number of reasons, Sayable included
)

// UnsayableFlow returns the reason why version 1 cannot represent f, or Sayable.
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
		// Kernels from Linux 7.2 on do not know its ports and have a single flow.
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

// UnsayableExpect returns the reason why version 1 cannot represent x, or Sayable.
func UnsayableExpect(x *ctnetlink.Expect) Unsayable {
	switch {
	case x.Has&ctnetlink.ExpectHasZone != 0 && x.Zone != 0:
		return ExpectZone
	case x.Has&ctnetlink.ExpectHasNAT != 0 && x.NATTuple.Family == nl.FamilyIPv6 && x.NATTuple.Src != (ctnetlink.Addr{}):
		return ExpectNAT6
	}
	return Sayable
}
