package conntrack

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// hintFixedTimeout explains the EPERM of a change that names a timeout.
const hintFixedTimeout = "the flow's timeout is fixed, status FIXED_TIMEOUT"

// updateTries bounds how often updateExisting reads a flow that traffic changes between
// the reading and the update.
const updateTries = 3

// updateExisting repeats an -A that the kernel refused because the flow exists and the
// request names what can be given to new flows only: NAT and the master. Where they are
// the flow's own, as in a saved table that is loaded onto the live one, the update
// leaves them out. Status bits that the flow has and the request lacks, which the kernel
// lets nobody take away, are kept. want is the request and is changed; cause is the
// refusal. The error is ready to be printed, or cause's own.
func (s *session) updateExisting(c *Command, want *ctnetlink.Flow, cause error) error {
	if want.Has&ctnetlink.HasLabels != 0 && isErrno(cause, unix.ENOSPC) {
		return &refusal{op: c.Op, err: cause, hint: noRoomForLabels}
	}
	if c.Op != OpAdd || !isErrno(cause, unix.EOPNOTSUPP, unix.EBUSY, unix.EPERM) {
		return s.refused(c, cause)
	}
	conn, err := s.ask()
	if err != nil {
		return err
	}
	status := want.Status
	for range updateTries {
		var have ctnetlink.Flow
		if err := ctnetlink.Get(s.brief(), conn, wanted(want), &have); err != nil {
			return s.refused(c, cause)
		}
		switch {
		case want.Has&(ctnetlink.HasNATSrc|ctnetlink.HasNATDst) != 0 && !sameReply(want, &have):
			return &refusal{op: c.Op, err: cause, hint: "the flow exists with another NAT, its reply is " + tupleText(&have.Reply) + "; delete it first"}
		case want.Master.Has != 0 && want.Master != have.Master:
			return &refusal{op: c.Op, err: cause, hint: "the flow exists and is not related to the one that the line names; delete it first"}
		}
		update := *want
		update.Has &^= ctnetlink.HasNATSrc | ctnetlink.HasNATDst
		update.Master = ctnetlink.Tuple{}
		if update.Has&ctnetlink.HasStatus != 0 {
			update.Status = status | have.Status
		}
		if have.Status&ctnetlink.StatusFixedTimeout != 0 && status&ctnetlink.StatusFixedTimeout != 0 {
			// The line says of itself that the timeout is fixed.
			update.Has &^= ctnetlink.HasTimeout
		}
		err := conn.Do(s.brief(), nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE, Family: c.Family, Attrs: update.Append}, nil)
		switch {
		case err == nil:
			return nil
		case isErrno(err, unix.EPERM) && have.Status&ctnetlink.StatusFixedTimeout != 0 && update.Has&ctnetlink.HasTimeout != 0:
			return &refusal{op: c.Op, err: err, hint: hintFixedTimeout}
		case !isErrno(err, unix.EBUSY):
			return s.refused(c, err)
		}
		cause = err
	}
	return s.refused(c, cause)
}

// sameReply reports whether the translation that want asks for would make the reply
// tuple that have has.
func sameReply(want, have *ctnetlink.Flow) bool {
	r := want.Reply
	if want.Has&ctnetlink.HasNATSrc != 0 {
		r.Dst = want.NATSrc.Addr
		if want.NATSrc.HasPort && ctnetlink.IsICMP(r.Proto) {
			r.ICMPID = want.NATSrc.Port
		} else if want.NATSrc.HasPort {
			r.DstPort = want.NATSrc.Port
		}
	}
	if want.Has&ctnetlink.HasNATDst != 0 {
		r.Src = want.NATDst.Addr
		if want.NATDst.HasPort {
			r.SrcPort = want.NATDst.Port
		}
	}
	h := &have.Reply
	return r.Src == h.Src && r.Dst == h.Dst && r.SrcPort == h.SrcPort && r.DstPort == h.DstPort && r.ICMPID == h.ICMPID
}

// tupleText is a tuple for a message: "192.0.2.1:80 -> 192.0.2.2:1000".
func tupleText(t *ctnetlink.Tuple) string {
	end := func(a ctnetlink.Addr, port uint16) string {
		addr := netip.AddrFrom16(a)
		if t.Family == nl.FamilyIPv4 {
			addr = netip.AddrFrom4([4]byte(a[:4]))
		}
		if t.Has&ctnetlink.TuplePorts == 0 {
			return addr.String()
		}
		return netip.AddrPortFrom(addr, port).String()
	}
	text := end(t.Src, t.SrcPort) + " -> " + end(t.Dst, t.DstPort)
	if t.Has&ctnetlink.TupleICMPID != 0 {
		text += fmt.Sprintf(" id %d", t.ICMPID)
	}
	return text
}
