package match

import (
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Dump is the dump of the table that has at least the flows that meet any of the
// predicates: the kernel leaves out others where all predicates agree on a value. A
// receiver compares again, as with any ctnetlink.Dump.
func (m *Matcher) Dump() ctnetlink.Dump {
	d := ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}
	if len(m.predicates) == 0 {
		return d
	}
	common := m.predicates[0].dumped()
	for i := range m.predicates[1:] {
		agree(&common, m.predicates[1+i].dumped())
	}
	d.Family = common.Orig.Family
	if d.Family == nl.FamilyUnspec {
		common.Orig.Has, common.Reply.Has = 0, 0
	}
	d.FilterTuples = common.Orig.Has|common.Reply.Has != 0
	if common.Has != 0 || d.FilterTuples {
		d.Filter = &common
	}
	return d
}

// dumped is what of p a dump can have the kernel compare. Orig.Family is that of all flows
// that meet p, or nl.FamilyUnspec.
func (p *Predicate) dumped() ctnetlink.Flow {
	w := ctnetlink.Flow{}
	if p.Has&Mark != 0 {
		w.Mark, w.MarkMask = p.Mark, p.MarkMask
		w.Has |= ctnetlink.HasMark | ctnetlink.HasMarkMask
	}
	if p.Has&Status != 0 && p.StatusMask != 0 {
		w.Status, w.StatusMask = p.Status, p.StatusMask
		w.Has |= ctnetlink.HasStatus | ctnetlink.HasStatusMask
	}
	// The zone of one direction makes the kernel's zone differ from what the flow's own
	// attribute says, so zone 0 is not for the kernel.
	if p.Has&Zone != 0 && p.Zone != 0 {
		w.Zone = p.Zone
		w.Has |= ctnetlink.HasZone
	}
	family := p.Family
	for _, end := range [...]struct {
		has  bool
		addr *Address
	}{
		{p.Orig.Has&Src != 0, &p.Orig.Src}, {p.Orig.Has&Dst != 0, &p.Orig.Dst},
		{p.Reply.Has&Src != 0, &p.Reply.Src}, {p.Reply.Has&Dst != 0, &p.Reply.Dst},
		{p.Any.Has&Src != 0, &p.Any.Src}, {p.Any.Has&Dst != 0, &p.Any.Dst},
		{p.Has&AnyEnd != 0 && p.End.HasAddr, &p.End.Addr},
		{p.Has&SrcNAT != 0 && p.SrcNAT.HasAddr, &p.SrcNAT.Addr}, {p.Has&DstNAT != 0 && p.DstNAT.HasAddr, &p.DstNAT.Addr},
	} {
		if end.has {
			family = end.addr.Family
		}
	}
	w.Orig, w.Reply = p.Orig.dumped(p), p.Reply.dumped(p)
	if p.Has&Proto != 0 {
		w.Orig.Proto = p.Proto
		w.Orig.Has |= ctnetlink.TupleProto
		if w.Reply.Has != 0 {
			w.Reply.Proto = p.Proto
			w.Reply.Has |= ctnetlink.TupleProto
		}
	}
	w.Orig.Family, w.Reply.Family = family, family
	return w
}

// dumped is the fields that have one value. Those of a protocol need the protocol.
func (w *Tuple) dumped(p *Predicate) ctnetlink.Tuple {
	t := ctnetlink.Tuple{}
	if w.Has&Src != 0 && w.Src.single() {
		t.Src, t.Has = w.Src.Addr, t.Has|ctnetlink.TupleSrc
	}
	if w.Has&Dst != 0 && w.Dst.single() {
		t.Dst, t.Has = w.Dst.Addr, t.Has|ctnetlink.TupleDst
	}
	if p.Has&Proto == 0 {
		return t
	}
	if w.Has&SrcPort != 0 && w.SrcPort.Min == w.SrcPort.Max {
		t.SrcPort, t.Has = w.SrcPort.Min, t.Has|ctnetlink.TupleSrcPort
	}
	if w.Has&DstPort != 0 && w.DstPort.Min == w.DstPort.Max {
		t.DstPort, t.Has = w.DstPort.Min, t.Has|ctnetlink.TupleDstPort
	}
	if ctnetlink.IsICMP(p.Proto) {
		t.ICMPType, t.ICMPCode, t.ICMPID = w.ICMPType, w.ICMPCode, w.ICMPID
		for _, bit := range [...]struct {
			field TupleField
			attr  ctnetlink.TupleAttr
		}{{ICMPType, ctnetlink.TupleICMPType}, {ICMPCode, ctnetlink.TupleICMPCode}, {ICMPID, ctnetlink.TupleICMPID}} {
			if w.Has&bit.field != 0 {
				t.Has |= bit.attr
			}
		}
	}
	return t
}

// single reports whether a is one address.
func (a *Address) single() bool {
	want := 128
	if a.Family == nl.FamilyIPv4 {
		want = 32
	}
	return maskBits(&a.Mask) == want
}

// agree takes from a what b says otherwise.
func agree(a *ctnetlink.Flow, b ctnetlink.Flow) {
	if b.Has&ctnetlink.HasMark == 0 || a.Mark != b.Mark || a.MarkMask != b.MarkMask {
		a.Has &^= ctnetlink.HasMark | ctnetlink.HasMarkMask
	}
	if b.Has&ctnetlink.HasStatus == 0 || a.Status != b.Status || a.StatusMask != b.StatusMask {
		a.Has &^= ctnetlink.HasStatus | ctnetlink.HasStatusMask
	}
	if b.Has&ctnetlink.HasZone == 0 || a.Zone != b.Zone {
		a.Has &^= ctnetlink.HasZone
	}
	for _, t := range [...]struct{ a, b *ctnetlink.Tuple }{{&a.Orig, &b.Orig}, {&a.Reply, &b.Reply}} {
		a, b := t.a, t.b
		if a.Family != b.Family {
			a.Family = nl.FamilyUnspec
		}
		for _, f := range [...]struct {
			bit   ctnetlink.TupleAttr
			equal bool
		}{
			{ctnetlink.TupleSrc, a.Src == b.Src}, {ctnetlink.TupleDst, a.Dst == b.Dst},
			{ctnetlink.TupleSrcPort, a.SrcPort == b.SrcPort}, {ctnetlink.TupleDstPort, a.DstPort == b.DstPort},
			{ctnetlink.TupleICMPType, a.ICMPType == b.ICMPType}, {ctnetlink.TupleICMPCode, a.ICMPCode == b.ICMPCode},
			{ctnetlink.TupleICMPID, a.ICMPID == b.ICMPID}, {ctnetlink.TupleProto, a.Proto == b.Proto},
		} {
			if b.Has&f.bit == 0 || !f.equal {
				a.Has &^= f.bit
			}
		}
		if a.Has&ctnetlink.TupleProto == 0 {
			a.Has &= ctnetlink.TupleAddrs
		}
	}
}

// Key is what identifies a flow: its original tuple, and the zone of both directions.
type Key struct {
	Orig ctnetlink.Tuple
	Zone uint16
}

// Key returns the key of the only flow that can meet p, if p names one: all of an original
// tuple without ranges and masks, and the zone. It is what a request for the flow has.
func (p *Predicate) Key() (key Key, ok bool) {
	if p.Has&(Proto|Zone) != Proto|Zone || (p.Orig.Has|p.Reply.Has)&TupleZone != 0 || p.Orig.Has&(Src|Dst) != Src|Dst {
		return key, false
	}
	t := p.Orig.dumped(p)
	t.Proto, t.Family = p.Proto, p.Orig.Src.Family
	t.Has |= ctnetlink.TupleProto
	need := ctnetlink.TupleAddrs
	switch {
	case ctnetlink.IsICMP(t.Proto):
		need |= ctnetlink.TupleICMP
	case ctnetlink.HasPorts(t.Proto) || t.Proto == ctnetlink.ProtoGRE:
		need |= ctnetlink.TuplePorts
	}
	return Key{t, p.Zone}, t.Has&need == need
}
