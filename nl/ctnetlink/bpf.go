package ctnetlink

import (
	"ctbox/nl"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
)

// EventFilter is the filter that the kernel applies to an event before it queues it: a
// classic BPF program on the socket. Zero fields don't filter. An event without the
// attribute in question passes, so the receiver must check again; events that the filter
// drops cannot match. Expectation events always pass.
type EventFilter struct {
	Family uint8
	Proto  uint8 // 0 does not filter; no flow has protocol 0
	// Src and Dst are prefixes of the original direction's addresses. A flow of
	// the other family is dropped.
	Src, Dst netip.Prefix

	// Lists, all of which must let the event pass. With Accept only the events on the
	// list pass, with Ignore only the others.
	Protos   List[uint8]        // layer-4 protocols
	Prefixes List[netip.Prefix] // original source or reply source
	States   List[uint8]        // TCP states; destroy events always pass
}

// List is a list of the event filter.
type List[T any] struct {
	Action ListAction
	Items  []T
}

// ListAction is the action for an event that is on a List.
type ListAction uint8

// The zero ListAction is that of a list that filters nothing.
const (
	NoList ListAction = iota
	Accept
	Ignore
)

// String returns the action's name in conntrackd.conf.
func (a ListAction) String() string {
	switch a {
	case Accept:
		return "Accept"
	case Ignore:
		return "Ignore"
	}
	return "none"
}

// Empty reports whether the filter lets everything pass.
func (f *EventFilter) Empty() bool {
	return f.Family == nl.FamilyUnspec && f.Proto == 0 && !f.Src.IsValid() && !f.Dst.IsValid() &&
		f.Protos.Action == NoList && f.Prefixes.Action == NoList && f.States.Action == NoList
}

// assemble returns the program. Offsets are those of the datagram: netlink
// header, nfgenmsg, attributes.
func (f *EventFilter) assemble() ([]bpf.RawInstruction, error) {
	family := f.Family
	for _, p := range [...]netip.Prefix{f.Src, f.Dst} {
		if p.IsValid() && p.Addr().Is4() {
			family = nl.FamilyIPv4
		} else if p.IsValid() {
			family = nl.FamilyIPv6
		}
	}
	p := program{}
	// The type's high byte is the subsystem; the type is in the machine's order
	// and loads are big-endian.
	p.add(bpf.LoadAbsolute{Off: 9 - messageByte(), Size: 1})
	p.add(bpf.JumpIf{Cond: bpf.JumpEqual, Val: subsysConntrack, SkipTrue: 1})
	p.add(bpfAccept)
	if family != nl.FamilyUnspec {
		p.add(bpf.LoadAbsolute{Off: nl.NetlinkHeaderLen, Size: 1})
		p.require(uint32(family))
	}
	if f.Proto != 0 {
		next := p.newLabel()
		p.nested(next, ctaTupleOrig, ctaTupleProto, ctaProtoNum)
		p.add(bpf.LoadIndirect{Off: nl.AttrHeaderLen, Size: 1})
		p.require(uint32(f.Proto))
		p.place(next)
	}
	for _, side := range [...]struct {
		prefix netip.Prefix
		v4, v6 uint32
	}{{f.Src, ctaIPv4Src, ctaIPv6Src}, {f.Dst, ctaIPv4Dst, ctaIPv6Dst}} {
		if !side.prefix.IsValid() || side.prefix.Bits() == 0 {
			continue
		}
		attr := side.v6
		if side.prefix.Addr().Is4() {
			attr = side.v4
		}
		next := p.newLabel()
		p.nested(next, ctaTupleOrig, ctaTupleIP, attr)
		p.prefix(side.prefix, next)
		p.add(bpfReject)
		p.place(next)
	}
	p.lists(f)
	p.add(bpfAccept)
	if err := p.link(); err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(p.ins)
	if err != nil {
		return nil, fmt.Errorf("assemble event filter: %w", err)
	}
	return raw, nil
}

var (
	bpfAccept = bpf.RetConstant{Val: 0xffffffff}
	bpfReject = bpf.RetConstant{Val: 0}
)
