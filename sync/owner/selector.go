package owner

import (
	"net/netip"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Selector is the part of the peers' flows that a takeover takes (-c with options). The zero
// Selector is all of them. A flow has to meet every condition that is set. Selectors are
// comparable.
type Selector struct {
	Node   uint8        // the owner's number; 0 for any owner
	NATSrc netip.Addr   // that the source address is translated to; zero for any
	Src    netip.Prefix // of the original source address; zero for any
	Zone   uint16       // of both directions, or of the original direction alone
	// HasZone says that Zone counts. Zone 0 is that of flows without a zone, and of flows
	// whose reply direction alone has one.
	HasZone bool
	// Mark is compared in the bits of Mask if HasMark. A flow without a mark has mark 0.
	Mark, Mask uint32
	HasMark    bool
}

// Empty reports whether s has no condition. A takeover with an empty Selector (a plain -c)
// asks the owners first; any other takes without asking.
func (s *Selector) Empty() bool {
	return s.Node == 0 && !s.NATSrc.IsValid() && !s.Src.IsValid() && !s.HasZone && !s.HasMark
}

// Matches reports whether f meets all conditions but Node, which a flow does not have. The
// translated source address is that of a flow of version 2 (the reply's destination where
// SRC_NAT is set) or of version 1 (NATSrc).
func (s *Selector) Matches(f *ctnetlink.Flow) bool {
	if s.HasMark {
		var mark uint32
		if f.Has&ctnetlink.HasMark != 0 {
			mark = f.Mark
		}
		if (mark^s.Mark)&s.Mask != 0 {
			return false
		}
	}
	if s.HasZone && zone(f) != s.Zone {
		return false
	}
	if s.Src.IsValid() && (f.Orig.Has&ctnetlink.TupleSrc == 0 || !s.Src.Contains(address(f.Orig.Family, f.Orig.Src))) {
		return false
	}
	return !s.NATSrc.IsValid() || translated(f) == s.NATSrc
}

// zone returns the zone of f's original direction.
func zone(f *ctnetlink.Flow) uint16 {
	switch {
	case f.Has&ctnetlink.HasZone != 0:
		return f.Zone
	case f.Orig.Has&ctnetlink.TupleZone != 0:
		return f.Orig.Zone
	}
	return 0
}

// translated returns the address that f's source address is translated to, and the zero Addr
// where it is not translated.
func translated(f *ctnetlink.Flow) netip.Addr {
	switch {
	case f.Has&ctnetlink.HasNATSrc != 0 && f.NATSrc.HasAddr:
		return address(f.Orig.Family, f.NATSrc.Addr)
	case f.Has&ctnetlink.HasStatus != 0 && f.Status&ctnetlink.StatusSrcNAT != 0 && f.Reply.Has&ctnetlink.TupleDst != 0:
		return address(f.Reply.Family, f.Reply.Dst)
	}
	return netip.Addr{}
}

// address returns a as a netip.Addr.
func address(family uint8, a ctnetlink.Addr) netip.Addr {
	if family == nl.FamilyIPv4 {
		return netip.AddrFrom4([4]byte(a[:4]))
	}
	return netip.AddrFrom16(a)
}
