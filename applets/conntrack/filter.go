package conntrack

import (
	"net/netip"

	"ctbox/internal/feature"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/match"
)

// filter decides which flows a command applies to. It checks all conditions of the
// command line, even those that the kernel was asked to check: older kernels ignore
// filters that they do not know.
type filter struct {
	conditions match.Predicate
	file       *predicateFile // --match, or nil
}

// newFilter makes the filter of a command that lists, deletes, updates, gets or
// watches flows.
func newFilter(c *Command) *filter {
	f := new(filter)
	setConditions(&f.conditions, c)
	return f
}

// newFilter makes the filter of a command with its file of predicates.
func (s *session) newFilter(c *Command) *filter {
	f := newFilter(c)
	f.file = s.predicates
	return f
}

// match reports whether f is one of the wanted flows.
func (w *filter) match(f *ctnetlink.Flow) bool {
	return w.conditions.Match(f, 0) && (!feature.Match || w.file == nil || w.file.match(f))
}

// setConditions makes p, which is zero, what the command line asks of a flow.
func setConditions(p *match.Predicate, c *Command) {
	want := &c.Flow
	p.Family = c.Family
	setTupleConditions(&p.Orig, &want.Orig)
	setTupleConditions(&p.Reply, &want.Reply)
	if c.Has(OptMaskSrc) {
		p.Orig.Src.Mask = c.SrcMask
	}
	if c.Has(OptMaskDst) {
		p.Orig.Dst.Mask = c.DstMask
	}
	if want.Orig.Has&ctnetlink.TupleProto != 0 {
		p.Has, p.Proto = p.Has|match.Proto, want.Orig.Proto
	}
	for _, nat := range [...]struct {
		opt  Option
		bit  match.Field
		want *ctnetlink.NAT
		end  *match.End
	}{{OptSrcNAT, match.SrcNAT, &c.SrcNAT, &p.SrcNAT}, {OptDstNAT, match.DstNAT, &c.DstNAT, &p.DstNAT}, {OptAnyNAT, match.AnyNAT, &c.AnyNAT, &p.AnyNAT}} {
		if c.Has(nat.opt) {
			p.Has |= nat.bit
			if nat.want.HasAddr {
				*nat.end = match.End{HasAddr: true, Addr: host(nat.want.Addr, c.Family), HasPort: nat.want.HasPort, Ports: match.Port(nat.want.Port)}
			}
		}
	}
	if c.Has(OptLabel) {
		p.Has, p.Labels = p.Has|match.Labels, c.Labels.Bits
		if c.Labels.Beyond {
			p.Has |= match.Never
		}
	}
	attribute := func(has ctnetlink.Attr, bit match.Field) bool {
		if want.Has&has == 0 {
			return false
		}
		p.Has |= bit
		return true
	}
	if attribute(ctnetlink.HasID, match.ID) {
		p.ID = want.ID
	}
	if c.Op == OpUpdate {
		return // the rest are the values to set
	}
	if c.Has(OptMark) {
		p.Has, p.Mark, p.MarkMask = p.Has|match.Mark, want.Mark, want.MarkMask
	}
	if c.Has(OptStatus) {
		p.Has, p.Status, p.StatusMask = p.Has|match.Status, want.Status, want.StatusMask
	}
	if attribute(ctnetlink.HasTimeout, match.Timeout) {
		p.Timeout = match.Range{Min: uint64(want.Timeout), Max: uint64(want.Timeout)}
	}
	if attribute(ctnetlink.HasZone, match.Zone) {
		p.Zone = want.Zone
	}
	if attribute(ctnetlink.HasSecmark, match.Secmark) {
		p.Secmark = want.Secmark
	}
	if attribute(ctnetlink.HasTCPState, match.TCPState) {
		p.TCPState = want.TCPState
	}
	if attribute(ctnetlink.HasSCTPState, match.SCTPState) {
		p.SCTPState = want.SCTPState
	}
	if attribute(ctnetlink.HasSCTPVtagOrig, match.SCTPVtagOrig) {
		p.SCTPVtagOrig = want.SCTPVtagOrig
	}
	if attribute(ctnetlink.HasSCTPVtagReply, match.SCTPVtagReply) {
		p.SCTPVtagReply = want.SCTPVtagReply
	}
	if attribute(ctnetlink.HasDCCPState, match.DCCPState) {
		p.DCCPState = want.DCCPState
	}
	if attribute(ctnetlink.HasDCCPRole, match.DCCPRole) {
		p.DCCPRole = want.DCCPRole
	}
}

// host is the set of one address.
func host(a ctnetlink.Addr, family uint8) match.Address {
	return match.Address{Addr: a, Mask: prefixMask(addrBits(family)), Family: family}
}

// setTupleConditions makes the present fields of a direction conditions.
func setTupleConditions(t *match.Tuple, want *ctnetlink.Tuple) {
	has := func(attr ctnetlink.TupleAttr, bit match.TupleField) bool {
		if want.Has&attr == 0 {
			return false
		}
		t.Has |= bit
		return true
	}
	if has(ctnetlink.TupleSrc, match.Src) {
		t.Src = host(want.Src, want.Family)
	}
	if has(ctnetlink.TupleDst, match.Dst) {
		t.Dst = host(want.Dst, want.Family)
	}
	if has(ctnetlink.TupleSrcPort, match.SrcPort) {
		t.SrcPort = match.Port(want.SrcPort)
	}
	if has(ctnetlink.TupleDstPort, match.DstPort) {
		t.DstPort = match.Port(want.DstPort)
	}
	if has(ctnetlink.TupleICMPType, match.ICMPType) {
		t.ICMPType = want.ICMPType
	}
	if has(ctnetlink.TupleICMPCode, match.ICMPCode) {
		t.ICMPCode = want.ICMPCode
	}
	if has(ctnetlink.TupleICMPID, match.ICMPID) {
		t.ICMPID = want.ICMPID
	}
	if has(ctnetlink.TupleZone, match.TupleZone) {
		t.Zone = want.Zone
	}
}

// orZero returns v, or 0 when it is absent.
func orZero[T uint16 | uint32](there bool, v T) T {
	if !there {
		return 0
	}
	return v
}

// kernelFilter returns the part of a filter that the kernel can check in a dump, and
// whether it contains tuples. It never excludes a flow that matches.
func kernelFilter(c *Command) (wanted *ctnetlink.Flow, tuples bool) {
	w := &ctnetlink.Flow{}
	if c.Op != OpUpdate {
		if c.Has(OptMark) {
			w.Mark, w.MarkMask = c.Flow.Mark, c.Flow.MarkMask
			w.Has |= ctnetlink.HasMark | ctnetlink.HasMarkMask
		}
		if c.Has(OptStatus) {
			w.Status, w.StatusMask = c.Flow.Status, c.Flow.StatusMask
			w.Has |= ctnetlink.HasStatus | ctnetlink.HasStatusMask
		}
		// With a zone in one direction only, the kernel's zone differs from the flow's
		// attribute, so zone 0 is compared here.
		if c.Flow.Has&ctnetlink.HasZone != 0 && c.Flow.Zone != 0 {
			w.Zone = c.Flow.Zone
			w.Has |= ctnetlink.HasZone
		}
	}
	if c.Family != nl.FamilyUnspec {
		w.Orig, w.Reply = c.Flow.Orig, c.Flow.Reply
		w.Orig.Family, w.Reply.Family = c.Family, c.Family
		w.Orig.Has &^= ctnetlink.TupleZone
		w.Reply.Has &^= ctnetlink.TupleZone
		if c.Has(OptMaskSrc) {
			w.Orig.Has &^= ctnetlink.TupleSrc
		}
		if c.Has(OptMaskDst) {
			w.Orig.Has &^= ctnetlink.TupleDst
		}
		tuples = w.Orig.Has|w.Reply.Has != 0
	}
	if w.Has == 0 && !tuples {
		return nil, false
	}
	return w, tuples
}

// eventFilter returns the part of a filter that the kernel can check for the event
// socket, or nil.
func eventFilter(c *Command) *ctnetlink.EventFilter {
	e := &ctnetlink.EventFilter{Family: c.Family}
	orig := &c.Flow.Orig
	if orig.Has&ctnetlink.TupleProto != 0 {
		e.Proto = orig.Proto
	}
	if orig.Has&ctnetlink.TupleSrc != 0 {
		e.Src = prefix(orig.Family, &orig.Src, c.Has(OptMaskSrc), &c.SrcMask)
	}
	if orig.Has&ctnetlink.TupleDst != 0 {
		e.Dst = prefix(orig.Family, &orig.Dst, c.Has(OptMaskDst), &c.DstMask)
	}
	if e.Empty() {
		return nil
	}
	return e
}

// prefix returns the address and mask as a prefix, or the zero Prefix if the mask is not
// contiguous, which only match can compare.
func prefix(family uint8, a *ctnetlink.Addr, masked bool, mask *ctnetlink.Addr) netip.Prefix {
	size := 16
	addr := netip.AddrFrom16(*a)
	if family == nl.FamilyIPv4 {
		size = 4
		addr = netip.AddrFrom4([4]byte(a[:4]))
	}
	bits := 8 * size
	if masked {
		bits = 0
		for bits < 8*size && mask[bits/8]&(0x80>>(bits%8)) != 0 {
			bits++
		}
		for i := bits; i < 8*size; i++ {
			if mask[i/8]&(0x80>>(i%8)) != 0 {
				return netip.Prefix{}
			}
		}
	}
	return netip.PrefixFrom(addr, bits)
}
