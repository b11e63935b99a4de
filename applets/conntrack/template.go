package conntrack

import "ctbox/nl"

// completeStatus makes the status to compare or to send from what -u said.
func (p *Parser) completeStatus() {
	f := &p.cmd.Flow
	switch p.cmd.Op {
	case OpCreate, OpAdd:
		f.Has &^= nl.HasMarkMask
		if f.Has&nl.HasStatus != 0 {
			f.Status |= nl.StatusConfirmed
		}
	case OpUpdate:
	default:
		if f.Has&nl.HasStatus != 0 {
			f.StatusMask = f.Status | p.notStatus
			f.Has |= nl.HasStatusMask
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
	if nl.IsICMP(f.Orig.Proto) {
		// The kernel insists on an id; without --icmp-id it is 0.
		f.Orig.Has |= nl.TupleICMPID
		f.Reply.Has |= nl.TupleICMPID
	}
	p.addTCPFlags()
	c.setUpNAT(nl.HasNATSrc, &f.NATSrc, c.SrcNAT)
	c.setUpNAT(nl.HasNATDst, &f.NATDst, c.DstNAT)
}

// completeWanted fills the tuple that a flow is looked up by: the original one
// if its addresses are there, else the reply.
func (p *Parser) completeWanted() {
	c := p.cmd
	f := &c.Flow
	proto := f.Orig.Proto
	if f.Orig.Has&nl.TupleAddrs == nl.TupleAddrs {
		fill(&f.Orig, &f.Reply)
		return
	}
	addProto(&f.Reply, proto, c.Family)
	fill(&f.Reply, &f.Orig)
}

func addProto(t *nl.Tuple, proto, family uint8) {
	t.Family = family
	t.Proto = proto
	t.Has |= nl.TupleProto
}

// fill gives t each part of the opposite tuple that t lacks, inverted.
func fill(t, opposite *nl.Tuple) {
	const portTuple = nl.TupleAddrs | nl.TuplePorts
	if t.Has&portTuple == portTuple {
		return
	}
	inv := opposite.Inverted()
	lacks := inv.Has &^ t.Has
	if lacks&nl.TupleSrc != 0 {
		t.Src = inv.Src
	}
	if lacks&nl.TupleDst != 0 {
		t.Dst = inv.Dst
	}
	if lacks&nl.TupleSrcPort != 0 {
		t.SrcPort = inv.SrcPort
	}
	if lacks&nl.TupleDstPort != 0 {
		t.DstPort = inv.DstPort
	}
	if lacks&nl.TupleICMPID != 0 {
		t.ICMPID = inv.ICMPID
	}
	if lacks&nl.TupleICMPType != 0 {
		t.ICMPType = inv.ICMPType
	}
	if lacks&nl.TupleICMPCode != 0 {
		t.ICMPCode = inv.ICMPCode
	}
	t.Has |= lacks & (nl.TupleAddrs | nl.TuplePorts | nl.TupleICMP)
}

// The TCP tracker did not see the start of a flow made by hand, so it must not
// insist on windows; one that is closing has seen a FIN or RST.
const (
	tcpFlagsOpen    = nl.TCPFlagBeLiberal | nl.TCPFlagSACK
	tcpFlagsClosing = tcpFlagsOpen | nl.TCPFlagCloseInit
)

func (p *Parser) addTCPFlags() {
	f := &p.cmd.Flow
	if p.proto == noProtocol || protocols[p.proto].number != nl.ProtoTCP {
		return
	}
	flags := nl.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
	if f.Has&nl.HasTCPState != 0 && f.TCPState >= nl.TCPStateTimeWait {
		flags = nl.TCPFlags{Value: tcpFlagsClosing, Mask: tcpFlagsClosing}
	}
	f.TCPFlagsOrig, f.TCPFlagsReply = flags, flags
	f.Has |= nl.HasTCPFlagsOrig | nl.HasTCPFlagsReply
}

// setUpNAT makes a NAT option a part of a new flow. Without an address it asks
// for nothing; the kernel takes ports for TCP and UDP.
func (c *Command) setUpNAT(has nl.Attr, to *nl.NAT, nat nl.NAT) {
	if !nat.HasAddr {
		return
	}
	if proto := c.Flow.Orig.Proto; proto != nl.ProtoTCP && proto != nl.ProtoUDP {
		nat.HasPort, nat.Port = false, 0
	}
	*to = nat
	c.Flow.Has |= has
}

// completeExpect makes the expectation that the line describes.
func (p *Parser) completeExpect() {
	c := p.cmd
	x := &c.Expect
	if nl.IsICMP(c.Flow.Orig.Proto) {
		// The options of ICMP are refused, but the kernel wants the fields.
		c.Flow.Orig.Has |= nl.TupleICMP
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
		x.Has |= nl.ExpectHasTimeout
	case OpDelete, OpGet:
		x.Tuple = c.Flow.Orig
	}
}
