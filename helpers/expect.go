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
		err := e.replace(ctx, free)
		if !free || !isTaken(err) {
			return err
		}
		e.nextPort()
	}
	return unix.EADDRINUSE
}

// replace creates e.x in place of the same flow's, or, unless free is set, of any flow's.
func (e *expecter) replace(ctx context.Context, free bool) error {
	err := e.request(ctx, ctnetlink.TypeExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if !errors.Is(err, unix.EEXIST) || free && !e.isOurs(ctx) {
		return err
	}
	if err := e.remove(ctx); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return e.request(ctx, ctnetlink.TypeExpectNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
}

// nextPort advances e.x to the next port to try. After 65535 comes 1024, the first
// unprivileged one.
func (e *expecter) nextPort() {
	if e.x.Tuple.DstPort == 0xffff {
		e.x.Tuple.DstPort = 1023
	}
	e.x.Tuple.DstPort++
}

// createRun creates an expectation for each of n consecutive ports, from that of e.x on, and
// appends them to made. If one is another flow's and free is set, all move to the next even
// port. After an error none of them is left.
func (e *expecter) createRun(ctx context.Context, made []ctnetlink.Expect, n int, free bool) ([]ctnetlink.Expect, error) {
	first, before := e.x, len(made)
	for range maxPorts {
		err := e.createEach(ctx, &made, first, n, free)
		if err == nil {
			return made, nil
		}
		for _, x := range made[before:] {
			e.x = x
			_ = e.remove(ctx) // it expires otherwise
		}
		made = made[:before]
		if !free || !isTaken(err) {
			return made, err
		}
		first.Tuple.DstPort = nextRun(first.Tuple.DstPort, n)
	}
	return made, unix.EADDRINUSE
}

// createEach creates e.x for each of n ports from first's on.
func (e *expecter) createEach(ctx context.Context, made *[]ctnetlink.Expect, first ctnetlink.Expect, n int, free bool) error {
	for i := range uint16(n) {
		e.x = first
		e.x.Tuple.DstPort += i
		if first.Has&ctnetlink.ExpectHasNAT != 0 {
			e.x.NATTuple.SrcPort += i
		}
		err := e.replace(ctx, free)
		if err != nil {
			return err
		}
		*made = append(*made, e.x)
	}
	return nil
}

// nextRun returns the next even port with n-1 ports behind it. After the last comes 1024, the
// first unprivileged one.
func nextRun(port uint16, n int) uint16 {
	next := int(port) + 2 - int(port&1)
	if next+n > 1<<16 {
		return 1024
	}
	return uint16(next)
}

// isTaken reports whether the kernel has refused an expectation because of another flow's.
func isTaken(err error) bool { return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) }

// forget removes the expectations of p's flow.
func (e *expecter) forget(ctx context.Context, p *helper.Packet) error {
	of := ctnetlink.Expect{Master: p.Flow.Orig}
	of.Master.Zone, of.Master.Has = 0, of.Master.Has&^ctnetlink.TupleZone
	if p.Flow.Has&ctnetlink.HasZone != 0 && p.Flow.Zone != 0 {
		of.Zone, of.Has = p.Flow.Zone, ctnetlink.ExpectHasZone
	}
	var all []ctnetlink.Expect
	r := ctnetlink.Dump{Type: ctnetlink.TypeExpectGet, Family: of.Master.Family}.Request()
	r.Attrs = of.Append
	_, err := e.conn.Dump(ctx, r, func(m *nl.Message) error {
		var x ctnetlink.Expect
		if err := x.Decode(m.Attrs); err != nil {
			return err
		}
		if sameTuple(x.Master, of.Master) {
			all = append(all, x)
		}
		return nil
	})
	if errors.Is(err, unix.ENOENT) { // the flow has ended, and so have they
		return nil
	}
	for _, x := range all {
		e.x = x
		if failed := e.remove(ctx); failed != nil && !errors.Is(failed, unix.ENOENT) {
			err = errors.Join(err, failed)
		}
	}
	return err
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

// isOurs reports whether the kernel's expectation of e.x's tuple belongs to the same flow, or to
// another one between the same hosts, for the same port of the same host.
func (e *expecter) isOurs(ctx context.Context) bool {
	found, err := e.look(ctx)
	return err == nil && found && e.same()
}

func (e *expecter) same() bool {
	old := e.old.Master
	if e.x.NATDir == uint32(helper.Original) {
		// A service, which the same client sees at the same address: RTSP servers often have
		// one pair of ports for all sessions.
		old.SrcPort = e.x.Master.SrcPort
	}
	return sameTuple(old, e.x.Master) && e.old.NATTuple.SrcPort == e.x.NATTuple.SrcPort
}

// sameTuple compares addresses, ports and protocols.
func sameTuple(a, b ctnetlink.Tuple) bool {
	const ports = ctnetlink.TuplePorts | ctnetlink.TupleAddrs | ctnetlink.TupleProto
	a.Has, b.Has = a.Has&ports, b.Has&ports
	a.Zone, b.Zone = 0, 0
	return a == b
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
