package commit

import (
	"time"

	"ctbox/conf"
	"ctbox/nl/ctnetlink"
)

// restorer converts cached entries of the peer into requests to this node's kernel.
type restorer struct {
	timeout        time.Duration // CommitTimeout; 0 for the flow's own
	windowTracking bool          // TCPWindowTracking
}

func newRestorer(cfg *conf.Sync) restorer {
	return restorer{timeout: cfg.CommitTimeout, windowTracking: cfg.TCPWindowTracking}
}

// staleTimeout is the timeout of an entry that should have expired by its age: long enough
// for the flow's next packet, as in conntrack-tools.
const staleTimeout = 60 * time.Second

// left returns the timeout of an entry that had own seconds when it was announced, age ago.
func (r *restorer) left(own uint32, age time.Duration) uint32 {
	if r.timeout > 0 {
		return uint32(r.timeout / time.Second)
	}
	rest := time.Duration(own)*time.Second - age
	// The kernel counts in seconds: with less than one the flow would expire at once.
	if age < 0 || rest < time.Second {
		rest = staleTimeout
	}
	return uint32(rest / time.Second)
}

// liberal disables the kernel's check of a TCP flow's windows, which it has not seen.
var liberal = ctnetlink.TCPFlags{Value: ctnetlink.TCPFlagBeLiberal, Mask: ctnetlink.TCPFlagBeLiberal}

// scaled marks a TCP flow's windows as scaled.
var scaled = ctnetlink.TCPFlags{Value: ctnetlink.TCPFlagWindowScale, Mask: ctnetlink.TCPFlagWindowScale}

// flow sets out to the request that creates f, an entry of the external cache
// that was last heard of age ago, in this kernel. It shares f's variable parts.
//
// NAT is requested with the exact address and port of the origin, even where the port was
// not changed: otherwise the kernel would choose another port without notice when the tuple
// is taken. With all of it given the kernel refuses instead (EEXIST).
func (r *restorer) flow(out, f *ctnetlink.Flow, age time.Duration) {
	*out = *f
	out.Has &= ctnetlink.HasStatus | ctnetlink.HasMark | ctnetlink.HasZone | ctnetlink.HasLabels | ctnetlink.HasHelper | ctnetlink.HasSynproxy |
		ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply | ctnetlink.HasTCPState | ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig |
		ctnetlink.HasSCTPVtagReply | ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole | ctnetlink.HasNATSrc | ctnetlink.HasNATDst
	if p := f.Orig.Proto; p == ctnetlink.ProtoGRE || p == ctnetlink.ProtoUDPLite {
		// Version 1 has no keys of GRE and no ports of UDP-Lite, and the kernel
		// wants some. 0 is true of GRE without keys.
		out.Orig.Has |= ctnetlink.TuplePorts
	}
	out.Reply = out.Orig.Inverted()
	if f.Reply.Has&ctnetlink.TupleZone != 0 {
		out.Reply.Has |= ctnetlink.TupleZone
		out.Reply.Zone = f.Reply.Zone
	}
	own := uint32(0)
	if f.Has&ctnetlink.HasTimeout != 0 {
		own = f.Timeout
	}
	out.Has |= ctnetlink.HasTimeout | ctnetlink.HasStatus
	out.Timeout = r.left(own, age)
	if f.Has&ctnetlink.HasStatus == 0 {
		out.Status = 0
	}
	// EXPECTED follows from the master, and offloading is each kernel's own.
	out.Status &^= ctnetlink.StatusExpected | ctnetlink.StatusOffload | ctnetlink.StatusHWOffload | ctnetlink.StatusDying
	out.Status |= ctnetlink.StatusConfirmed
	if f.Orig.Proto == ctnetlink.ProtoTCP {
		r.window(out, f)
	}
	if r := &f.Reply; out.Has&(ctnetlink.HasNATSrc|ctnetlink.HasNATDst) == 0 && r.Has&ctnetlink.TupleAddrs == ctnetlink.TupleAddrs && r.Proto == f.Orig.Proto {
		translate(out, &f.Reply)
		return
	}
	pin(out, &out.NATSrc, ctnetlink.HasNATSrc, f.Orig.Src, f.Orig.SrcPort)
	pin(out, &out.NATDst, ctnetlink.HasNATDst, f.Orig.Dst, f.Orig.DstPort)
}

// translate requests what a flow's reply tuple and status say about NAT (version 2 of the
// protocol). Where the kernel translates, the request has the untranslated tuple and the
// translation; a reply tuple that differs without NAT, as in a flow that conntrack(8) has
// created, is requested as it is.
func translate(out *ctnetlink.Flow, reply *ctnetlink.Tuple) {
	proto := out.Orig.Proto
	hasPort := ctnetlink.HasPorts(proto)
	if proto == ctnetlink.ProtoGRE {
		// The kernel ignores keys in a request for NAT, and never chooses others by itself. It
		// keeps those of the tuples.
		out.Reply.SrcPort, out.Reply.DstPort = reply.SrcPort, reply.DstPort
	}
	if out.Status&ctnetlink.StatusSrcNAT != 0 {
		out.Has |= ctnetlink.HasNATSrc
		out.NATSrc = ctnetlink.NAT{Addr: reply.Dst, HasAddr: true, Port: reply.DstPort, HasPort: hasPort}
		if ctnetlink.IsICMP(proto) {
			// The identifier takes the place of the source's port.
			out.NATSrc.Port, out.NATSrc.HasPort = reply.ICMPID, true
		}
	} else {
		out.Reply.Dst, out.Reply.DstPort, out.Reply.ICMPID = reply.Dst, reply.DstPort, reply.ICMPID
	}
	if out.Status&ctnetlink.StatusDstNAT != 0 {
		out.Has |= ctnetlink.HasNATDst
		out.NATDst = ctnetlink.NAT{Addr: reply.Src, HasAddr: true, Port: reply.SrcPort, HasPort: hasPort}
	} else {
		out.Reply.Src, out.Reply.SrcPort = reply.Src, reply.SrcPort
	}
}

// window sets a TCP flow's window scales, or disables its window checks.
func (r *restorer) window(out, f *ctnetlink.Flow) {
	const scales = ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply
	if r.windowTracking && f.Has&scales == scales {
		// The kernel accepts scales only with the flag.
		out.Has |= scales | ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
		out.TCPFlagsOrig, out.TCPFlagsReply = scaled, scaled
		return
	}
	if f.Has&ctnetlink.HasTCPState == 0 {
		return // without a state the kernel takes no flags
	}
	out.Has |= ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
	out.TCPFlagsOrig, out.TCPFlagsReply = liberal, liberal
}

// pin completes a NAT of out: an address or port that the peer left out was not changed.
func pin(out *ctnetlink.Flow, nat *ctnetlink.NAT, has ctnetlink.Attr, addr ctnetlink.Addr, port uint16) {
	if out.Has&has == 0 {
		return
	}
	if !nat.HasAddr {
		nat.Addr, nat.HasAddr = addr, true
	}
	switch {
	case !ctnetlink.HasPorts(out.Orig.Proto):
		// C daemons send ports of 0 for ICMP, which has none.
		nat.HasPort = false
		if nat.Addr == addr {
			out.Has &^= has
		}
	case !nat.HasPort:
		nat.Port, nat.HasPort = port, true
	}
}

// changes sets out to the request that brings the flow which creation f makes up
// to date. What the kernel refuses to change in a living flow is left out: NAT,
// master and helper.
func changes(out, creation *ctnetlink.Flow) {
	*out = *creation
	out.Has &^= ctnetlink.HasNATSrc | ctnetlink.HasNATDst | ctnetlink.HasHelper | ctnetlink.HasSynproxy
	out.Status &^= ctnetlink.StatusSrcNAT | ctnetlink.StatusDstNAT
	if hasMaster(creation) {
		// The creation has made it one, and the kernel takes no update that would
		// change that.
		out.Status |= ctnetlink.StatusExpected
	}
	out.Reply = ctnetlink.Tuple{}
	out.Master = ctnetlink.Tuple{}
}

// key sets out to the request that names f and nothing else.
func key(out, f *ctnetlink.Flow) {
	*out = ctnetlink.Flow{Orig: f.Orig, Has: f.Has & ctnetlink.HasZone, Zone: f.Zone}
}

// expect sets out to the request that creates e.
func (r *restorer) expect(out, e *ctnetlink.Expect, age time.Duration) {
	*out = *e
	own := uint32(0)
	if e.Has&ctnetlink.ExpectHasTimeout != 0 {
		own = e.Timeout
	}
	out.Has &^= ctnetlink.ExpectHasID
	out.Has |= ctnetlink.ExpectHasTimeout
	out.Timeout = r.left(own, age)
}
