package conntrack

import (
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// completeStatus makes the status to compare or to send from what -u said.
func (p *Parser) completeStatus() {
	f := &p.cmd.Flow
	switch p.cmd.Op {
	case OpCreate, OpAdd:
		f.Has &^= ctnetlink.HasMarkMask
		if f.Has&ctnetlink.HasStatus != 0 {
			f.Status |= ctnetlink.StatusConfirmed
		}
	case OpUpdate:
	default:
		if f.Has&ctnetlink.HasStatus != 0 {
			f.StatusMask = f.Status | p.notStatus
			f.Has |= ctnetlink.HasStatusMask
		}
	}
}

// completeTuples makes what a command sends out of what the line gave.
func (p *Parser) completeTuples() {
	c := p.cmd
	if c.Table == TableExpect {
		p.completeExpect()
		return
	}
	switch c.Op {
	case OpCreate, OpAdd:
		p.completeCreated()
	case OpUpdate:
		p.addTCPFlags()
	case OpGet:
		p.completeWanted()
	}
}

// completeCreated fills a new flow's two tuples: whatever part was not given
// for a direction, be it addresses, ports or zone, is what the other direction
// says. With -n or -g the kernel translates the reply tuple from there.
func (p *Parser) completeCreated() {
	c := p.cmd
	f := &c.Flow
	addProto(&f.Orig, f.Orig.Proto, c.Family)
	addProto(&f.Reply, f.Orig.Proto, c.Family)
	fill(&f.Orig, &f.Reply)
	fill(&f.Reply, &f.Orig)
	if ctnetlink.IsICMP(f.Orig.Proto) {
		// The kernel insists on an id; without --icmp-id it is 0.
		f.Orig.Has |= ctnetlink.TupleICMPID
		f.Reply.Has |= ctnetlink.TupleICMPID
		if (f.Orig.Proto == ctnetlink.ProtoICMPv6) != (c.Family == nl.FamilyIPv6) {
			// The kernel tracks neither ICMP over IPv6 nor ICMPv6 over IPv4: it is to refuse.
			f.Reply.ICMPType = ctnetlink.NoICMPAnswer
		}
	}
	p.addTCPFlags()
	c.setUpNAT(ctnetlink.HasNATSrc, &f.NATSrc, c.SrcNAT)
	c.setUpNAT(ctnetlink.HasNATDst, &f.NATDst, c.DstNAT)
}

// completeWanted fills the tuple that a flow is looked up by: the original one
// if its addresses are there, else the reply.
func (p *Parser) completeWanted() {
	c := p.cmd
	f := &c.Flow
	proto := f.Orig.Proto
	if f.Orig.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs {
		fill(&f.Orig, &f.Reply)
		return
	}
	addProto(&f.Reply, proto, c.Family)
	fill(&f.Reply, &f.Orig)
}

func addProto(t *ctnetlink.Tuple, proto, family uint8) {
	t.Family = family
	t.Proto = proto
	t.Has |= ctnetlink.TupleProto
}

// fill gives t each part of the opposite tuple that t lacks, inverted.
func fill(t, opposite *ctnetlink.Tuple) {
	const portTuple = ctnetlink.TupleAddrs | ctnetlink.TuplePorts
	if t.Has&portTuple == portTuple {
		return
	}
	inv := opposite.Inverted()
	lacks := inv.Has &^ t.Has
	if lacks&ctnetlink.TupleSrc != 0 {
		t.Src = inv.Src
	}
	if lacks&ctnetlink.TupleDst != 0 {
		t.Dst = inv.Dst
	}
	if lacks&ctnetlink.TupleSrcPort != 0 {
		t.SrcPort = inv.SrcPort
	}
	if lacks&ctnetlink.TupleDstPort != 0 {
		t.DstPort = inv.DstPort
	}
	if lacks&ctnetlink.TupleICMPID != 0 {
		t.ICMPID = inv.ICMPID
	}
	if lacks&ctnetlink.TupleICMPType != 0 {
		t.ICMPType = inv.ICMPType
	}
	if lacks&ctnetlink.TupleICMPCode != 0 {
		t.ICMPCode = inv.ICMPCode
	}
	t.Has |= lacks & (ctnetlink.TupleAddrs | ctnetlink.TuplePorts | ctnetlink.TupleICMP)
}

// The TCP tracker did not see the start of a flow made by hand, so it must not
// insist on windows; one that is closing has seen a FIN or RST.
const (
	tcpFlagsOpen    = ctnetlink.TCPFlagBeLiberal | ctnetlink.TCPFlagSACK
	tcpFlagsClosing = tcpFlagsOpen | ctnetlink.TCPFlagCloseInit
)

func (p *Parser) addTCPFlags() {
	f := &p.cmd.Flow
	if p.proto == noProtocol || protocols[p.proto].number != ctnetlink.ProtoTCP {
		return
	}
	flags := ctnetlink.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
	if f.Has&ctnetlink.HasTCPState != 0 && f.TCPState >= ctnetlink.TCPStateTimeWait {
		flags = ctnetlink.TCPFlags{Value: tcpFlagsClosing, Mask: tcpFlagsClosing}
	}
	f.TCPFlagsOrig, f.TCPFlagsReply = flags, flags
	f.Has |= ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
}

// setUpNAT makes a NAT option a part of a new flow. Without an address it asks
// for nothing; the kernel takes ports for TCP and UDP.
func (c *Command) setUpNAT(has ctnetlink.Attr, to *ctnetlink.NAT, nat ctnetlink.NAT) {
	if !nat.HasAddr {
		return
	}
	if proto := c.Flow.Orig.Proto; proto != ctnetlink.ProtoTCP && proto != ctnetlink.ProtoUDP {
		nat.HasPort, nat.Port = false, 0
	}
	*to = nat
	c.Flow.Has |= has
}

// completeExpect makes the expectation that the line describes.
func (p *Parser) completeExpect() {
	c := p.cmd
	x := &c.Expect
	if ctnetlink.IsICMP(c.Flow.Orig.Proto) {
		// The options of ICMP are refused, but the kernel wants the fields.
		c.Flow.Orig.Has |= ctnetlink.TupleICMP
	}
	switch c.Op {
	case OpCreate:
		x.Master = c.Flow.Orig
		proto := c.Flow.Orig.Proto
		addProto(&x.Tuple, proto, c.Family)
		addProto(&x.Mask, proto, c.Family)
		setSrc(&x.Mask, c.SrcMask, c.Family)
		setDst(&x.Mask, c.DstMask, c.Family)
		x.Timeout = c.Flow.Timeout
		x.Has |= ctnetlink.ExpectHasTimeout
	case OpDelete, OpGet:
		x.Tuple = c.Flow.Orig
	}
}
