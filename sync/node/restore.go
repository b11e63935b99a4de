package node

import (
	"time"

	"ctbox/nl"
)

// restorer turns what a peer told into what this node's kernel is to have.
type restorer struct {
	timeout        time.Duration // CommitTimeout; 0 for the flow's own
	windowTracking bool          // TCPWindowTracking
}

// staleTimeout is given to what, by its age, should have ended already: long
// enough for its owner's next packet, as conntrack-tools does.
const staleTimeout = 60 * time.Second

// left is the timeout of something that had `own` seconds when it was last heard
// of, age ago.
func (r *restorer) left(own uint32, age time.Duration) uint32 {
	if r.timeout > 0 {
		return uint32(r.timeout / time.Second)
	}
	rest := time.Duration(own)*time.Second - age
	// The kernel counts in seconds: less than one would be none, and the flow gone
	// as soon as it is there.
	if age < 0 || rest < time.Second {
		rest = staleTimeout
	}
	return uint32(rest / time.Second)
}

// liberal keeps the kernel from judging a TCP flow by windows that it has not
// seen.
var liberal = nl.TCPFlags{Value: nl.TCPFlagBeLiberal, Mask: nl.TCPFlagBeLiberal}

// scaled says that a TCP flow's windows are scaled.
var scaled = nl.TCPFlags{Value: nl.TCPFlagWindowScale, Mask: nl.TCPFlagWindowScale}

// flow sets out to the request that creates f, an entry of the external cache
// that was last heard of age ago, in this kernel. It shares f's variable parts.
//
// NAT is asked for with the exact address and port of the origin, also where the
// port was not changed: left to itself the kernel would pick another one in
// silence when the tuple is taken. So pinned, it refuses (EEXIST).
func (r *restorer) flow(out, f *nl.Flow, age time.Duration) {
	*out = *f
	out.Has &= nl.HasStatus | nl.HasMark | nl.HasZone | nl.HasLabels | nl.HasHelper | nl.HasSynproxy |
		nl.HasSeqAdjOrig | nl.HasSeqAdjReply | nl.HasTCPState | nl.HasSCTPState | nl.HasSCTPVtagOrig |
		nl.HasSCTPVtagReply | nl.HasDCCPState | nl.HasDCCPRole | nl.HasNATSrc | nl.HasNATDst
	if p := f.Orig.Proto; p == nl.ProtoGRE || p == nl.ProtoUDPLite {
		// The wire has no keys of GRE and no ports of UDP-Lite, and the kernel
		// wants some. 0 is true of GRE without keys.
		out.Orig.Has |= nl.TuplePorts
	}
	out.Reply = out.Orig.Inverted()
	if f.Reply.Has&nl.TupleZone != 0 {
		out.Reply.Has |= nl.TupleZone
		out.Reply.Zone = f.Reply.Zone
	}
	own := uint32(0)
	if f.Has&nl.HasTimeout != 0 {
		own = f.Timeout
	}
	out.Has |= nl.HasTimeout | nl.HasStatus
	out.Timeout = r.left(own, age)
	if f.Has&nl.HasStatus == 0 {
		out.Status = 0
	}
	// What a flow is because of its master follows from the master; offloading
	// is each kernel's own.
	out.Status &^= nl.StatusExpected | nl.StatusOffload | nl.StatusHWOffload | nl.StatusDying
	out.Status |= nl.StatusConfirmed
	if f.Orig.Proto == nl.ProtoTCP {
		r.window(out, f)
	}
	pin(out, &out.NATSrc, nl.HasNATSrc, f.Orig.Src, f.Orig.SrcPort)
	pin(out, &out.NATDst, nl.HasNATDst, f.Orig.Dst, f.Orig.DstPort)
}

// window gives a TCP flow its window scales, or takes window checks from it.
func (r *restorer) window(out, f *nl.Flow) {
	const scales = nl.HasTCPWScaleOrig | nl.HasTCPWScaleReply
	if r.windowTracking && f.Has&scales == scales {
		// The kernel takes scales only of a flow that is said to have some.
		out.Has |= scales | nl.HasTCPFlagsOrig | nl.HasTCPFlagsReply
		out.TCPFlagsOrig, out.TCPFlagsReply = scaled, scaled
		return
	}
	if f.Has&nl.HasTCPState == 0 {
		return // without a state the kernel takes no flags
	}
	out.Has |= nl.HasTCPFlagsOrig | nl.HasTCPFlagsReply
	out.TCPFlagsOrig, out.TCPFlagsReply = liberal, liberal
}

// pin completes a NAT of out: the address and port that the peer left out are
// the ones that were not changed.
func pin(out *nl.Flow, nat *nl.NAT, has nl.Attr, addr nl.Addr, port uint16) {
	if out.Has&has == 0 {
		return
	}
	if !nat.HasAddr {
		nat.Addr, nat.HasAddr = addr, true
	}
	switch {
	case !nl.HasPorts(out.Orig.Proto):
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
func changes(out, creation *nl.Flow) {
	*out = *creation
	out.Has &^= nl.HasNATSrc | nl.HasNATDst | nl.HasHelper | nl.HasSeqAdjOrig | nl.HasSeqAdjReply | nl.HasSynproxy
	out.Status &^= nl.StatusSrcNAT | nl.StatusDstNAT
	if hasMaster(creation) {
		// The creation has made it one, and the kernel takes no update that would
		// change that.
		out.Status |= nl.StatusExpected
	}
	out.Reply = nl.Tuple{}
	out.Master = nl.Tuple{}
}

// key sets out to the request that names f and nothing else.
func key(out, f *nl.Flow) {
	*out = nl.Flow{Orig: f.Orig, Has: f.Has & nl.HasZone, Zone: f.Zone}
}

// expect sets out to the request that creates e.
func (r *restorer) expect(out, e *nl.Expect, age time.Duration) {
	*out = *e
	own := uint32(0)
	if e.Has&nl.ExpectHasTimeout != 0 {
		own = e.Timeout
	}
	out.Has &^= nl.ExpectHasID
	out.Has |= nl.ExpectHasTimeout
	out.Timeout = r.left(own, age)
}
