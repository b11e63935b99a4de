package helpers

import (
	"context"
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// followMaster is the kernel's function (in nf_nat_core) that translates an expected flow
// as the announcing one is translated.
const followMaster = "nat-follow-master"

// maxPorts is how many ports are tried if the announced one is taken. Each costs a request
// to the kernel, and the sender may be an attacker.
const maxPorts = 64

// expecter creates expectations through ctnetlink. The kernel takes them only for flows
// in its table. A new flow is not in it yet: its expectations travel with the verdict.
type expecter struct {
	conn *nl.Conn
	x    ctnetlink.Expect // the expectation to create
	old  ctnetlink.Expect // the kernel's expectation of the same tuple
	sent ctnetlink.Expect // the expectation in the verdict
}

// build sets e.x to the kernel's form of the expectation w that p announces. The mask
// covers the whole destination, for which the kernel has no wildcard (struct
// nf_conntrack_tuple_mask in net/netfilter/nf_conntrack_tuple.h has a source only).
func (e *expecter) build(p *helper.Packet, w *helper.Expectation) {
	family := p.Flow.Family()
	x := &e.x
	*x = ctnetlink.Expect{Has: ctnetlink.ExpectHasFlags, Master: p.Flow.Orig}
	x.Master.Zone, x.Master.Has = 0, x.Master.Has&^ctnetlink.TupleZone
	x.Tuple = expectTuple(family, w.Protocol, w.Src, w.Dst)
	x.Mask = ctnetlink.Tuple{Has: x.Tuple.Has, Family: family, Proto: w.Protocol, Dst: ones(family), DstPort: 0xffff}
	if w.Src.Addr().IsValid() {
		x.Mask.Src = ones(family)
	}
	if w.Src.Port() != 0 {
		x.Mask.SrcPort = 0xffff
	}
	if w.Permanent {
		x.Flags = ctnetlink.ExpectPermanent
	}
	if w.Helper != "" {
		x.Helper.Set(w.Helper)
		x.Has |= ctnetlink.ExpectHasHelper
	}
	if p.Flow.Has&ctnetlink.HasZone != 0 && p.Flow.Zone != 0 {
		x.Zone = p.Flow.Zone
		x.Has |= ctnetlink.ExpectHasZone
	}
	if n := w.NAT; n != nil && p.NATed() {
		to, follow := netip.AddrPortFrom(netip.Addr{}, n.Port), followMaster
		if n.Follow != "" && isLoaded(n.Follow) {
			to, follow = netip.AddrPortFrom(n.Addr, n.Port), n.Follow
		}
		x.NATTuple = expectTuple(family, w.Protocol, to, netip.AddrPort{})
		x.NATDir = uint32(n.Dir)
		x.SetFn(follow)
		x.Has |= ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasFn
	}
}

// isLoaded reports whether the module of a NAT function other than nat-follow-master is
// loaded. The kernel refuses an expectation that names a missing one, and does not report
// that for an expectation in a verdict.
func isLoaded(follow string) bool {
	_, err := os.Stat("/sys/module/nf_nat_" + follow)
	return err == nil
}

func expectTuple(family, proto uint8, src, dst netip.AddrPort) ctnetlink.Tuple {
	t := ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: family, Proto: proto,
		SrcPort: src.Port(), DstPort: dst.Port()}
	copy(t.Src[:], src.Addr().AsSlice())
	copy(t.Dst[:], dst.Addr().AsSlice())
	return t
}

func ones(family uint8) (a ctnetlink.Addr) {
	size := 4
	if family == nl.FamilyIPv6 {
		size = 16
	}
	for i := range size {
		a[i] = 0xff
	}
	return a
}

// create creates e.x in the kernel. If the port is another flow's and free is set, it takes
// the next free port, which is e.x.Tuple.DstPort then. An existing expectation of the same
// flow is replaced: a retransmitted packet announces the same one.
func (e *expecter) create(ctx context.Context, free bool) error {
	for range maxPorts {
		err := e.request(ctx, ctnetlink.TypeExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		switch {
		case errors.Is(err, unix.EEXIST) && (!free || e.isOurs(ctx)):
			if err := e.remove(ctx); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return e.request(ctx, ctnetlink.TypeExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
		case free && (errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY)):
			e.nextPort()
		default:
			return err
		}
	}
	return unix.EADDRINUSE
}

// nextPort advances e.x to the next port to try. After 65535 comes 1024, the first
// unprivileged one.
func (e *expecter) nextPort() {
	if e.x.Tuple.DstPort == 0xffff {
		e.x.Tuple.DstPort = 1023
	}
	e.x.Tuple.DstPort++
}

// find advances e.x to a port without an expectation of another flow. It is for
// expectations in a verdict, for which the kernel reports no refusal.
func (e *expecter) find(ctx context.Context) error {
	for range maxPorts {
		found, err := e.look(ctx)
		if err != nil || !found || e.same() {
			return err
		}
		e.nextPort()
	}
	return unix.EADDRINUSE
}

// isOurs reports whether the kernel's expectation of e.x's tuple belongs to the same flow,
// for the same port of the same host.
func (e *expecter) isOurs(ctx context.Context) bool {
	found, err := e.look(ctx)
	return err == nil && found && e.same()
}

func (e *expecter) same() bool {
	const ports = ctnetlink.TuplePorts | ctnetlink.TupleAddrs | ctnetlink.TupleProto
	a, b := e.old.Master, e.x.Master
	a.Has, b.Has = a.Has&ports, b.Has&ports
	a.Zone, b.Zone = 0, 0
	return a == b && e.old.NATTuple.SrcPort == e.x.NATTuple.SrcPort
}

// look reads the kernel's expectation of e.x's tuple into e.old.
func (e *expecter) look(ctx context.Context) (found bool, err error) {
	want := ctnetlink.Expect{Has: e.x.Has & ctnetlink.ExpectHasZone, Zone: e.x.Zone, Tuple: e.x.Tuple}
	r := nl.Request{Type: ctnetlink.TypeExpectGet, Family: want.Tuple.Family, Attrs: want.Append}
	err = e.conn.Do(ctx, r, func(m *nl.Message) error {
		found = true
		e.old.Reset()
		return e.old.Decode(m.Attrs)
	})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return found, err
}

// remove deletes e.x from the kernel.
func (e *expecter) remove(ctx context.Context) error {
	want := ctnetlink.Expect{Has: e.x.Has & ctnetlink.ExpectHasZone, Zone: e.x.Zone, Tuple: e.x.Tuple}
	return e.conn.Do(ctx, nl.Request{Type: ctnetlink.TypeExpectDelete, Family: want.Tuple.Family, Attrs: want.Append}, nil)
}

func (e *expecter) request(ctx context.Context, typ nl.Type, flags uint16) error {
	return e.conn.Do(ctx, nl.Request{Type: typ, Flags: flags, Family: e.x.Tuple.Family, Attrs: e.x.Append}, nil)
}
