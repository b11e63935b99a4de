package conntrack

import (
	"net/netip"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// filter decides which flows a command applies to. It checks all conditions of the
// command line, even those that the kernel was asked to check: older kernels ignore
// filters that they do not know.
type filter struct {
	want *Command
	// Derived from want, so that one comparison skips a test that is not needed.
	family   uint8
	nat      bool
	labels   bool
	mark     bool
	status   bool
	orig     tupleFilter
	reply    tupleFilter
	compared ctnetlink.Attr // attributes of want.Flow that must be equal
}

// newFilter makes the filter of a command that lists, deletes, updates, gets or
// watches flows. c must not change while the filter is in use.
func newFilter(c *Command) *filter {
	f := &filter{
		want:   c,
		family: c.Family,
		nat:    c.Has(OptSrcNAT | OptDstNAT | OptAnyNAT),
		labels: c.Has(OptLabel),
		orig:   newTupleFilter(&c.Flow.Orig),
		reply:  newTupleFilter(&c.Flow.Reply),
	}
	if c.Has(OptMaskSrc) {
		f.orig.srcMask = c.SrcMask
	}
	if c.Has(OptMaskDst) {
		f.orig.dstMask = c.DstMask
	}
	if c.Op == OpUpdate {
		// The rest are the values to set.
		f.compared = c.Flow.Has & ctnetlink.HasID
		return f
	}
	f.mark = c.Has(OptMark)
	f.status = c.Has(OptStatus)
	f.compared = c.Flow.Has & (ctnetlink.HasID | ctnetlink.HasTimeout | ctnetlink.HasZone | ctnetlink.HasSecmark | comparedProtocol)
	return f
}

// comparedProtocol are the protocols' own attributes that are compared. The TCP flags
// of -p tcp are only sent.
const comparedProtocol = ctnetlink.HasTCPState | ctnetlink.HasSCTPState | ctnetlink.HasDCCPState |
	ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply | ctnetlink.HasDCCPRole

// match reports whether f is one of the wanted flows.
func (w *filter) match(f *ctnetlink.Flow) bool {
	if w.family != nl.FamilyUnspec && f.Family() != w.family {
		return false
	}
	if w.nat && !w.matchNAT(f) {
		return false
	}
	want := &w.want.Flow
	if w.mark && (f.Has&ctnetlink.HasMark == 0 || f.Mark&want.MarkMask != want.Mark) {
		return false
	}
	if w.labels && !hasLabels(f, &w.want.Labels) {
		return false
	}
	if w.status && (f.Has&ctnetlink.HasStatus == 0 || f.Status&want.StatusMask != want.Status) {
		return false
	}
	return w.orig.match(&f.Orig) && w.reply.match(&f.Reply) &&
		(w.compared == 0 || w.matchAttributes(f))
}

func hasLabels(f *ctnetlink.Flow, want *LabelSet) bool {
	if want.Beyond || f.Has&ctnetlink.HasLabels == 0 {
		return false
	}
	for i, word := range want.Bits {
		if f.Labels[i]&word != word {
			return false
		}
	}
	return true
}

func (w *filter) matchAttributes(f *ctnetlink.Flow) bool {
	want := &w.want.Flow
	// A flow without one of these attributes does not match, except for zone and
	// security mark, which the kernel omits when they are 0.
	if f.Has&w.compared|ctnetlink.HasZone|ctnetlink.HasSecmark != w.compared|ctnetlink.HasZone|ctnetlink.HasSecmark {
		return false
	}
	has := w.compared
	switch {
	case has&ctnetlink.HasID != 0 && f.ID != want.ID,
		has&ctnetlink.HasTimeout != 0 && f.Timeout != want.Timeout,
		has&ctnetlink.HasTCPState != 0 && f.TCPState != want.TCPState,
		has&ctnetlink.HasSCTPState != 0 && f.SCTPState != want.SCTPState,
		has&ctnetlink.HasSCTPVtagOrig != 0 && f.SCTPVtagOrig != want.SCTPVtagOrig,
		has&ctnetlink.HasSCTPVtagReply != 0 && f.SCTPVtagReply != want.SCTPVtagReply,
		has&ctnetlink.HasDCCPState != 0 && f.DCCPState != want.DCCPState,
		has&ctnetlink.HasDCCPRole != 0 && f.DCCPRole != want.DCCPRole:
		return false
	}
	if has&ctnetlink.HasZone != 0 && orZero(f.Has&ctnetlink.HasZone != 0, f.Zone) != want.Zone {
		return false
	}
	return has&ctnetlink.HasSecmark == 0 || orZero(f.Has&ctnetlink.HasSecmark != 0, f.Secmark) == want.Secmark
}

// orZero returns v if present is true, else 0.
func orZero[T uint16 | uint32](present bool, v T) T {
	if !present {
		return 0
	}
	return v
}

// tupleFilter compares the fields that are present in want.
type tupleFilter struct {
	want             *ctnetlink.Tuple
	has              ctnetlink.TupleAttr
	srcMask, dstMask ctnetlink.Addr
}

var noMask = ctnetlink.Addr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func newTupleFilter(want *ctnetlink.Tuple) tupleFilter {
	return tupleFilter{want: want, has: want.Has, srcMask: noMask, dstMask: noMask}
}

func (w *tupleFilter) match(t *ctnetlink.Tuple) bool {
	has, want := w.has, w.want
	if has == 0 {
		return true
	}
	// An absent zone is zone 0; all other fields must be present to be compared.
	if t.Has&has|ctnetlink.TupleZone != has|ctnetlink.TupleZone {
		return false
	}
	switch {
	case has&ctnetlink.TupleProto != 0 && t.Proto != want.Proto,
		has&ctnetlink.TupleSrcPort != 0 && t.SrcPort != want.SrcPort,
		has&ctnetlink.TupleDstPort != 0 && t.DstPort != want.DstPort,
		has&ctnetlink.TupleICMPType != 0 && t.ICMPType != want.ICMPType,
		has&ctnetlink.TupleICMPCode != 0 && t.ICMPCode != want.ICMPCode,
		has&ctnetlink.TupleICMPID != 0 && t.ICMPID != want.ICMPID,
		has&ctnetlink.TupleZone != 0 && t.Zone != want.Zone:
		return false
	}
	if has&ctnetlink.TupleAddrs == 0 {
		return true
	}
	return t.Family == want.Family &&
		(has&ctnetlink.TupleSrc == 0 || equalMasked(&t.Src, &want.Src, &w.srcMask)) &&
		(has&ctnetlink.TupleDst == 0 || equalMasked(&t.Dst, &want.Dst, &w.dstMask))
}

func equalMasked(a, b, mask *ctnetlink.Addr) bool {
	if *a == *b {
		return true
	}
	if *mask == noMask {
		return false
	}
	for i := range a {
		if (a[i]^b[i])&mask[i] != 0 {
			return false
		}
	}
	return true
}

// matchNAT checks -n, -g and -j. Unlike conntrack-tools it compares IPv6 addresses, and
// regards an ICMP flow as translated only if its addresses or its id are.
func (w *filter) matchNAT(f *ctnetlink.Flow) bool {
	c := w.want
	if c.Has(OptAnyNAT) {
		return sourceNAT(f).matches(&c.AnyNAT) || destinationNAT(f).matches(&c.AnyNAT)
	}
	return (!c.Has(OptSrcNAT) || sourceNAT(f).matches(&c.SrcNAT)) &&
		(!c.Has(OptDstNAT) || destinationNAT(f).matches(&c.DstNAT))
}

// translation compares one end of a flow in the original and in the reply direction.
// They differ where NAT translates.
type translation struct {
	addr, port bool // translated
	to         *ctnetlink.Addr
	toPort     uint16
}

func sourceNAT(f *ctnetlink.Flow) translation {
	n := translation{to: &f.Reply.Dst, toPort: f.Reply.DstPort}
	if f.Has&ctnetlink.HasStatus != 0 && f.Status&ctnetlink.StatusSrcNATDone == 0 {
		return n
	}
	n.addr = f.Reply.Dst != f.Orig.Src
	n.port = f.Reply.DstPort != f.Orig.SrcPort || f.Reply.ICMPID != f.Orig.ICMPID
	return n
}

func destinationNAT(f *ctnetlink.Flow) translation {
	n := translation{to: &f.Reply.Src, toPort: f.Reply.SrcPort}
	if f.Has&ctnetlink.HasStatus != 0 && f.Status&ctnetlink.StatusDstNATDone == 0 {
		return n
	}
	n.addr = f.Reply.Src != f.Orig.Dst
	n.port = f.Reply.SrcPort != f.Orig.DstPort
	return n
}

// matches reports whether n fulfils a NAT option: without an address any translation
// does, with an address one to it, with a port also one to that port.
func (n translation) matches(want *ctnetlink.NAT) bool {
	if !want.HasAddr {
		return n.addr || n.port
	}
	return n.addr && *n.to == want.Addr && (!want.HasPort || n.port && n.toPort == want.Port)
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
