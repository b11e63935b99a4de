package conntrack

import "ctbox/nl"

// restoredStatus are the status bits that a new flow can be given. The kernel
// refuses to be told that a flow was expected or is dying, and sets those of
// NAT and offloading itself.
const restoredStatus = nl.StatusSeenReply | nl.StatusAssured | nl.StatusFixedTimeout

// restore makes r the request for a flow that is like f, which a kernel, maybe
// another one, has listed. What only the kernel can know is left out: counters,
// id, references, times.
func restore(r, f *nl.Flow) {
	const same = nl.HasTimeout | nl.HasMark | nl.HasZone | nl.HasTCPState | nl.HasTCPWScaleOrig |
		nl.HasTCPWScaleReply | nl.HasSCTPState | nl.HasSCTPVtagOrig | nl.HasSCTPVtagReply |
		nl.HasDCCPState | nl.HasDCCPRole | nl.HasDCCPHandshakeSeq | nl.HasSeqAdjOrig | nl.HasSeqAdjReply |
		nl.HasSynproxy | nl.HasLabels | nl.HasHelper | nl.HasHelperInfo
	info := append(r.HelperInfo[:0], f.HelperInfo...)
	*r = *f
	r.HelperInfo, r.Secctx = info, nil
	r.Has = f.Has & same
	r.Orig = original(f)

	r.Status = f.Status&restoredStatus | nl.StatusConfirmed
	if f.Has&nl.HasStatus != 0 {
		r.Has |= nl.HasStatus
	}
	restoreNAT(r, f)
	if proto, _ := r.Proto(); proto == nl.ProtoTCP {
		restoreTCPFlags(r, f)
	}
}

// restoreNAT asks for the translation that makes f's two tuples what they are.
// The new flow begins with a reply that just turns the original round, from
// which the kernel translates.
func restoreNAT(r, f *nl.Flow) {
	plain := r.Orig.Inverted()
	if f.Reply.Has&nl.TupleZone != 0 {
		plain.Zone = f.Reply.Zone
		plain.Has |= nl.TupleZone
	}
	if f.Reply.Has == 0 {
		r.Reply = plain
		return
	}
	status := ^uint32(0)
	if f.Has&nl.HasStatus != 0 {
		status = f.Status
	}
	reply := f.Reply
	translated := false
	if status&nl.StatusSrcNATDone != 0 && (reply.Dst != plain.Dst || reply.DstPort != plain.DstPort || reply.ICMPID != plain.ICMPID) {
		r.NATSrc = nl.NAT{Addr: reply.Dst, HasAddr: true}
		switch {
		case nl.HasPorts(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.DstPort, true
		case nl.IsICMP(reply.Proto):
			r.NATSrc.Port, r.NATSrc.HasPort = reply.ICMPID, true
		}
		r.Has |= nl.HasNATSrc
		translated = true
	}
	if status&nl.StatusDstNATDone != 0 && (reply.Src != plain.Src || reply.SrcPort != plain.SrcPort) {
		r.NATDst = nl.NAT{Addr: reply.Src, HasAddr: true}
		if nl.HasPorts(reply.Proto) {
			r.NATDst.Port, r.NATDst.HasPort = reply.SrcPort, true
		}
		r.Has |= nl.HasNATDst
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
func restoreTCPFlags(r, f *nl.Flow) {
	const kept = nl.TCPFlagWindowScale | nl.TCPFlagSACK | nl.TCPFlagCloseInit
	flags := func(f nl.TCPFlags, has bool) nl.TCPFlags {
		switch {
		case !has:
			return nl.TCPFlags{Value: tcpFlagsOpen, Mask: tcpFlagsOpen}
		case f.Mask != 0:
			return f
		}
		return nl.TCPFlags{Value: f.Value&kept | nl.TCPFlagBeLiberal, Mask: kept | nl.TCPFlagBeLiberal}
	}
	r.TCPFlagsOrig = flags(f.TCPFlagsOrig, f.Has&nl.HasTCPFlagsOrig != 0)
	r.TCPFlagsReply = flags(f.TCPFlagsReply, f.Has&nl.HasTCPFlagsReply != 0)
	r.Has |= nl.HasTCPFlagsOrig | nl.HasTCPFlagsReply
}
