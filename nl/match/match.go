// Package match decides which flows meet a predicate, and which of many predicates a flow
// meets, in one pass over a table.
//
// A Predicate is a set of conditions that a flow must all meet. New makes a Matcher of any
// number of them: it compares a flow only with the predicates that the flow's addresses,
// ports and marks leave, so that thousands cost little more than one.
//
// Nothing here does I/O, reads a clock or changes what it is given; values that are in use
// may be shared between goroutines.
package match

import (
	"encoding/binary"
	"math"
	"net/netip"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Field is a bit of Predicate.Has: a condition.
type Field uint32

// The conditions. Those on a direction are in Tuple.Has.
const (
	Proto Field = 1 << iota
	Mark
	Status
	ID
	Secmark
	Zone
	TCPState
	SCTPState
	DCCPState
	DCCPRole
	SCTPVtagOrig
	SCTPVtagReply
	Labels
	Timeout
	Age
	Packets
	Bytes
	SrcNAT
	DstNAT
	AnyNAT
	AnyEnd
	Never // no flow meets it, such as a label that the kernel has no room for
)

// Predicate is a set of conditions on a flow. Those whose bit is set in Has, those of the
// tuples, and Family unless it is nl.FamilyUnspec, must all be met; a predicate without
// conditions is met by every flow.
//
// A flow that lacks an attribute does not meet a condition on it. Zones and security marks
// are the exception: the kernel leaves them out when they are 0.
type Predicate struct {
	Has    Field
	Family uint8
	Proto  uint8 // layer-4 protocol

	Orig, Reply Tuple
	// Any has conditions that one direction must all meet, whichever it is.
	Any Tuple
	// End has an address, a port or both that one end has in one direction: source or
	// destination, original or reply.
	End End

	Mark, MarkMask     uint32 // the flow's mark & MarkMask == Mark
	Status, StatusMask uint32 // same with Status… bits
	ID, Secmark        uint32
	Zone               uint16 // of both directions; a zone of one direction is the Tuple's

	TCPState, SCTPState, DCCPState, DCCPRole uint8
	SCTPVtagOrig, SCTPVtagReply              uint32 // as in ctnetlink.Flow

	Labels ctnetlink.Labels // the flow has them all

	Timeout Range // seconds left
	// Age is whole seconds since the flow began, up to its end if it has ended, as
	// format.JSON's delta_time.
	Age            Range
	Packets, Bytes Range // of both directions together

	// NAT: the source, the destination, or either of them is translated, to the End if
	// that has an address.
	SrcNAT, DstNAT, AnyNAT End
}

// TupleField is a bit of Tuple.Has.
type TupleField uint16

// The conditions on one direction.
const (
	Src TupleField = 1 << iota
	Dst
	SrcPort
	DstPort
	ICMPType
	ICMPCode
	ICMPID
	TupleZone
	TuplePackets
	TupleBytes
)

// Tuple is conditions on one direction of a flow.
type Tuple struct {
	Has      TupleField
	Src, Dst Address
	// SrcPort and DstPort are ports, or the keys of GRE in a predicate with that
	// protocol. Without a protocol they are met by protocols with ports only.
	SrcPort, DstPort   Ports
	ICMPID             uint16
	ICMPType, ICMPCode uint8
	Zone               uint16 // zone of this direction only
	Packets, Bytes     Range
}

// Address is a set of addresses of one family: those that equal Addr in the bits of Mask.
// Bytes beyond an IPv4 address are zero in both.
type Address struct {
	Addr, Mask ctnetlink.Addr
	Family     uint8
}

// End is an address, a port, or both.
type End struct {
	Addr             Address
	Ports            Ports
	HasAddr, HasPort bool
}

// Ports is the ports from Min to Max, both included, in host order.
type Ports struct{ Min, Max uint16 }

// Range is the numbers from Min to Max, both included.
type Range struct{ Min, Max uint64 }

// AtLeast is the range of the numbers from n on.
func AtLeast(n uint64) Range { return Range{n, math.MaxUint64} }

// AtMost is the range of the numbers up to n.
func AtMost(n uint64) Range { return Range{0, n} }

// Port is the range of one port.
func Port(n uint16) Ports { return Ports{n, n} }

// Prefix is the set of a prefix's addresses. p must be valid.
func Prefix(p netip.Prefix) Address {
	a := Address{Family: nl.FamilyIPv6}
	size := 16
	if p.Addr().Is4() {
		v4 := p.Addr().As4()
		a.Family, size = nl.FamilyIPv4, 4
		copy(a.Addr[:], v4[:])
	} else {
		a.Addr = p.Addr().As16()
	}
	for i := range size {
		a.Mask[i] = ^byte(0xff >> min(max(p.Bits()-8*i, 0), 8))
		a.Addr[i] &= a.Mask[i]
	}
	return a
}

// Host is the set of one address. a must be valid.
func Host(a netip.Addr) Address { return Prefix(netip.PrefixFrom(a, a.BitLen())) }

func (r Range) has(n uint64) bool { return n >= r.Min && n <= r.Max }

func (p Ports) has(n uint16) bool { return n >= p.Min && n <= p.Max }

// words are an address as two numbers in network order, so that they compare as the
// address does.
func words(a *ctnetlink.Addr) (high, low uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

func (a *Address) has(family uint8, b *ctnetlink.Addr) bool {
	if family != a.Family {
		return false
	}
	high, low := words(b)
	wantHigh, wantLow := words(&a.Addr)
	maskHigh, maskLow := words(&a.Mask)
	return (high^wantHigh)&maskHigh|(low^wantLow)&maskLow == 0
}

// Match reports whether f meets p. now is the time to which ages are counted, in
// nanoseconds since the epoch.
func (p *Predicate) Match(f *ctnetlink.Flow, now int64) bool { return p.alternative(f, now) >= 0 }

// Conditions with alternatives: either direction for Any, one of four ends for End. An
// alternative's number is that of the direction times ends, plus that of the end.
const (
	directions = 2
	ends       = 4
)

// alternatives is the number of ways in which p can be met, at least 1.
func (p *Predicate) alternatives() (inDirections, inEnds int) {
	inDirections, inEnds = 1, 1
	if p.Any.Has != 0 {
		inDirections = directions
	}
	if p.Has&AnyEnd != 0 {
		inEnds = ends
	}
	return inDirections, inEnds
}

// alternative is the number of the first alternative by which f meets p, or -1.
func (p *Predicate) alternative(f *ctnetlink.Flow, now int64) int {
	if p.Family != nl.FamilyUnspec && f.Family() != p.Family || p.Has&Never != 0 {
		return -1
	}
	if p.Has&Proto != 0 && (f.Orig.Has&ctnetlink.TupleProto == 0 || f.Orig.Proto != p.Proto) {
		return -1
	}
	ports := p.Has&Proto != 0 || ctnetlink.HasPorts(f.Orig.Proto)
	if p.Orig.Has != 0 && !p.Orig.match(f, &f.Orig, ports) || p.Reply.Has != 0 && !p.Reply.match(f, &f.Reply, ports) {
		return -1
	}
	if p.Has&^(Proto|AnyEnd) != 0 && !p.attributes(f, now) {
		return -1
	}
	first := 0
	if p.Any.Has != 0 && !p.Any.match(f, &f.Orig, ports) {
		if !p.Any.match(f, &f.Reply, ports) {
			return -1
		}
		first = ends
	}
	if p.Has&AnyEnd == 0 {
		return first
	}
	for i := range ends {
		addr, port, t, bit := end(f, i)
		if (!p.End.HasAddr || t.Has&addrBit[i] != 0 && p.End.Addr.has(t.Family, addr)) &&
			(!p.End.HasPort || ports && t.Has&bit != 0 && p.End.Ports.has(port)) {
			return first + i
		}
	}
	return -1
}

var addrBit = [ends]ctnetlink.TupleAttr{ctnetlink.TupleSrc, ctnetlink.TupleDst, ctnetlink.TupleSrc, ctnetlink.TupleDst}

// end is one of the four ends of a flow: source and destination of the original, then
// those of the reply.
func end(f *ctnetlink.Flow, i int) (addr *ctnetlink.Addr, port uint16, t *ctnetlink.Tuple, bit ctnetlink.TupleAttr) {
	t = &f.Orig
	if i >= 2 {
		t = &f.Reply
	}
	if i%2 == 0 {
		return &t.Src, t.SrcPort, t, ctnetlink.TupleSrcPort
	}
	return &t.Dst, t.DstPort, t, ctnetlink.TupleDstPort
}

// match compares a direction. ports says whether ports count for the flow's protocol.
func (w *Tuple) match(f *ctnetlink.Flow, t *ctnetlink.Tuple, ports bool) bool {
	has := w.Has
	if has&Src != 0 && (t.Has&ctnetlink.TupleSrc == 0 || !w.Src.has(t.Family, &t.Src)) ||
		has&Dst != 0 && (t.Has&ctnetlink.TupleDst == 0 || !w.Dst.has(t.Family, &t.Dst)) {
		return false
	}
	if has&(SrcPort|DstPort) != 0 && (!ports ||
		has&SrcPort != 0 && (t.Has&ctnetlink.TupleSrcPort == 0 || !w.SrcPort.has(t.SrcPort)) ||
		has&DstPort != 0 && (t.Has&ctnetlink.TupleDstPort == 0 || !w.DstPort.has(t.DstPort))) {
		return false
	}
	return has&^(Src|Dst|SrcPort|DstPort) == 0 || w.matchRest(f, t)
}

// matchRest compares what few predicates have.
func (w *Tuple) matchRest(f *ctnetlink.Flow, t *ctnetlink.Tuple) bool {
	has := w.Has
	switch {
	case has&ICMPType != 0 && (t.Has&ctnetlink.TupleICMPType == 0 || t.ICMPType != w.ICMPType),
		has&ICMPCode != 0 && (t.Has&ctnetlink.TupleICMPCode == 0 || t.ICMPCode != w.ICMPCode),
		has&ICMPID != 0 && (t.Has&ctnetlink.TupleICMPID == 0 || t.ICMPID != w.ICMPID),
		has&TupleZone != 0 && present(t.Has&ctnetlink.TupleZone != 0, uint32(t.Zone)) != uint32(w.Zone):
		return false
	}
	if has&(TuplePackets|TupleBytes) == 0 {
		return true
	}
	c, counted := &f.CountersOrig, f.Has&ctnetlink.HasCountersOrig != 0
	if t == &f.Reply {
		c, counted = &f.CountersReply, f.Has&ctnetlink.HasCountersReply != 0
	}
	return counted && (has&TuplePackets == 0 || w.Packets.has(c.Packets)) && (has&TupleBytes == 0 || w.Bytes.has(c.Bytes))
}

// attributes compares what is not in a tuple.
func (p *Predicate) attributes(f *ctnetlink.Flow, now int64) bool {
	has, there := p.Has, f.Has
	switch {
	case has&Mark != 0 && (there&ctnetlink.HasMark == 0 || f.Mark&p.MarkMask != p.Mark),
		has&Status != 0 && (there&ctnetlink.HasStatus == 0 || f.Status&p.StatusMask != p.Status),
		has&ID != 0 && (there&ctnetlink.HasID == 0 || f.ID != p.ID),
		has&Zone != 0 && present(there&ctnetlink.HasZone != 0, uint32(f.Zone)) != uint32(p.Zone),
		has&Secmark != 0 && present(there&ctnetlink.HasSecmark != 0, f.Secmark) != p.Secmark,
		has&TCPState != 0 && (there&ctnetlink.HasTCPState == 0 || f.TCPState != p.TCPState),
		has&Timeout != 0 && (there&ctnetlink.HasTimeout == 0 || !p.Timeout.has(uint64(f.Timeout))),
		has&Age != 0 && (there&ctnetlink.HasTimestampStart == 0 || !p.Age.has(age(f, now))):
		return false
	}
	if has&(Packets|Bytes) != 0 {
		const both = ctnetlink.HasCountersOrig | ctnetlink.HasCountersReply
		if there&both != both ||
			has&Packets != 0 && !p.Packets.has(sum(f.CountersOrig.Packets, f.CountersReply.Packets)) ||
			has&Bytes != 0 && !p.Bytes.has(sum(f.CountersOrig.Bytes, f.CountersReply.Bytes)) {
			return false
		}
	}
	if has&(SCTPState|SCTPVtagOrig|SCTPVtagReply|DCCPState|DCCPRole|Labels) != 0 && !p.rareAttributes(f) {
		return false
	}
	return has&(SrcNAT|DstNAT|AnyNAT) == 0 || p.matchNAT(f)
}

// rareAttributes compares what few predicates have.
func (p *Predicate) rareAttributes(f *ctnetlink.Flow) bool {
	has, there := p.Has, f.Has
	switch {
	case has&SCTPState != 0 && (there&ctnetlink.HasSCTPState == 0 || f.SCTPState != p.SCTPState),
		has&SCTPVtagOrig != 0 && (there&ctnetlink.HasSCTPVtagOrig == 0 || f.SCTPVtagOrig != p.SCTPVtagOrig),
		has&SCTPVtagReply != 0 && (there&ctnetlink.HasSCTPVtagReply == 0 || f.SCTPVtagReply != p.SCTPVtagReply),
		has&DCCPState != 0 && (there&ctnetlink.HasDCCPState == 0 || f.DCCPState != p.DCCPState),
		has&DCCPRole != 0 && (there&ctnetlink.HasDCCPRole == 0 || f.DCCPRole != p.DCCPRole):
		return false
	}
	if has&Labels != 0 {
		for i, word := range p.Labels {
			if there&ctnetlink.HasLabels == 0 || f.Labels[i]&word != word {
				return false
			}
		}
	}
	return true
}

// present is v, or 0 when it is absent.
func present(there bool, v uint32) uint32 {
	if !there {
		return 0
	}
	return v
}

// sum is a + b, or the largest number.
func sum(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// age counts as format does: both ends are cut to seconds first.
func age(f *ctnetlink.Flow, now int64) uint64 {
	stop := uint64(max(now, 0))
	if f.Has&ctnetlink.HasTimestampStop != 0 {
		stop = f.TimestampStop
	}
	if stop <= f.TimestampStart {
		return 0
	}
	return stop/1e9 - f.TimestampStart/1e9
}

// matchNAT decides SrcNAT, DstNAT and AnyNAT. An ICMP flow is translated if its addresses
// or its id are.
func (p *Predicate) matchNAT(f *ctnetlink.Flow) bool {
	if p.Has&AnyNAT != 0 && !sourceNAT(f).meets(f, &p.AnyNAT) && !destinationNAT(f).meets(f, &p.AnyNAT) {
		return false
	}
	return (p.Has&SrcNAT == 0 || sourceNAT(f).meets(f, &p.SrcNAT)) &&
		(p.Has&DstNAT == 0 || destinationNAT(f).meets(f, &p.DstNAT))
}

// translation is one end of a flow as the original and the reply direction see
// it: NAT is where they differ.
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

// meets compares with what a NAT condition asks for: without an address any translation,
// with an address one to it, with a port also one to that port.
func (n translation) meets(f *ctnetlink.Flow, want *End) bool {
	if !want.HasAddr {
		return n.addr || n.port
	}
	return n.addr && want.Addr.has(f.Reply.Family, n.to) && (!want.HasPort || n.port && want.Ports.has(n.toPort))
}
