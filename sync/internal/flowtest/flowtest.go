// Package flowtest makes flows for tests.
package flowtest

import (
	"net/netip"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// TCP returns an established TCP flow from port 1000 of src to port 80 of dst.
func TCP(src, dst string) ctnetlink.Flow {
	f := ctnetlink.Flow{Has: ctnetlink.HasTCPState, TCPState: ctnetlink.TCPStateEstablished}
	f.Orig = ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoTCP, SrcPort: 1000, DstPort: 80}
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is6() {
		f.Orig.Family = nl.FamilyIPv6
	}
	copy(f.Orig.Src[:], s.AsSlice())
	copy(f.Orig.Dst[:], d.AsSlice())
	f.Reply = f.Orig.Inverted()
	return f
}

// Flows returns many TCP flows with an id that differ in the source port.
func Flows(count int) []ctnetlink.Flow {
	out := make([]ctnetlink.Flow, count)
	for i := range out {
		out[i] = TCP("192.0.2.1", "198.51.100.1")
		out[i].Orig.SrcPort = uint16(i)
		out[i].Reply = out[i].Orig.Inverted()
		out[i].Has |= ctnetlink.HasID
		out[i].ID = uint32(i)
	}
	return out
}
