package conntrack

import "ctbox/nl/ctnetlink"

// restoredStatus are the status bits that a new flow can be given. The kernel
// refuses to be told that a flow was expected or is dying, and sets those of
// NAT and offloading itself.
const restoredStatus = ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusFixedTimeout

// restore makes r the request for a flow that is like f, which a kernel, maybe
// another one, has listed. What only the kernel can know is left out: counters,
// id, references, times.
func restore(r, f *ctnetlink.Flow) {
	const same = ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasZone | ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig |
		ctnetlink.HasTCPWScaleReply | ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply |
		ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole | ctnetlink.HasDCCPHandshakeSeq | ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply |
		ctnetlink.HasSynproxy | ctnetlink.HasLabels | ctnetlink.HasHelper | ctnetlink.HasHelperInfo
	info := append(r.HelperInfo[:0], f.HelperInfo...)
	*r = *f
	r.HelperInfo, r.Secctx = info, nil
	r.Has = f.Has & same
	r.Orig = original(f)

	r.Status = f.Status&restoredStatus | ctnetlink.StatusConfirmed
	if f.Has&ctnetlink.HasStatus != 0 {
		r.Has |= ctnetlink.HasStatus
	}
	restoreNAT(r, f)
	if proto, _ := r.Proto(); proto == ctnetlink.ProtoTCP {
		restoreTCPFlags(r, f)
	}
}

// restoreNAT asks for the translation that makes f's two tuples what they are.
// The new flow begins with a reply that just turns the original round, from
// which the kernel translates.
func restoreNAT(r, f *ctnetlink.Flow) {
	plain := r.Orig.Inverted()
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		plain.Zone = f.Reply.Zone
		plain.Has |= ctnetlink.TupleZone
	}
	if f.Reply.Has == 0 {
		r.Reply = plain
		return
	}
	status := ^uint32(0)
	if f.Has&ctnetlink.HasStatus != 0 {
		status = f.Status
	}
	reply := f.Reply
	translated := false
	if status&ctnetlink.StatusSrcNATDone != 0 && (reply.Dst != plain.Dst || reply.DstPort != plain.DstPort || reply.ICMPID != plain.ICMPID) {
		r.NATSrc = ctnetlink.NAT{Addr: reply.Dst, HasAddr: true}
		switch {
		case ctnetlink.HasPorts(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.DstPort, true
		case ctnetlink.IsICMP(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.ICMPID, true
		}
		r.Has |= ctnetlink.HasNATSrc
		translated = true
	}
	if status&ctnetlink.StatusDstNATDone != 0 && (reply.Src != plain.Src || reply.SrcPort != plain.SrcPort) {
		r.NATDst = ctnetlink.NAT{Addr: reply.Src, HasAddr: true}
		if ctnetlink.HasPorts(reply.Proto) {
			r.NATDst.Port, r.NATDst.HasPort = reply.SrcPort, true
		}
		r.Has |= ctnetlink.HasNATDst
		translated = true
	}
	if translated {
		r.Reply = plain
	}
}

// restoreTCPFlags keeps what was agreed about window scaling and selective
// acknowledgements. The kernel does not know the windows of a flow that it did
// not see, so it must be liberal about them. A mask says that the flags were
// written by hand.
func restoreTCPFlags(r, f *ctnetlink.Flow) {
	const kept = ctnetlink.TCPFlagWindowScale | ctnetlink.TCPFlagSACK | ctnetlink.TCPFlagCloseInit
	flags := func(f ctnetlink.TCPFlags, has bool) ctnetlink.TCPFlags {
		switch {
		case !has:
			return ctnetlink.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
		case f.Mask != 0:
			return f
		}
		return ctnetlink.TCPFlags{Value: f.Value&kept | ctnetlink.TCPFlagBeLiberal, Mask: kept | ctnetlink.TCPFlagBeLiberal}
	}
	r.TCPFlagsOrig = flags(f.TCPFlagsOrig, f.Has&ctnetlink.HasTCPFlagsOrig != 0)
	r.TCPFlagsReply = flags(f.TCPFlagsReply, f.Has&ctnetlink.HasTCPFlagsReply != 0)
	r.Has |= ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
}
