// Package helpertest supports tests of helpers: it sends packets in both directions of a Flow
// through a helper and renders the answers as text.
package helpertest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// Flow is a flow with a helper. It keeps the private data from packet to packet, as the kernel
// does.
type Flow struct {
	ctnetlink.Flow
	Private []byte
	// Seq are the sequence numbers of the next byte in each direction. Send advances them.
	Seq [2]uint32

	t     testing.TB
	h     *helper.Helper
	proto uint8
	seen  bool
}

// New returns the flow from src to dst, for example "192.0.2.1:1000" and
// "[2001:db8::1]:21", without translation.
func New(t testing.TB, h *helper.Helper, proto uint8, src, dst string) *Flow {
	t.Helper()
	f := &Flow{t: t, h: h, proto: proto, Private: make([]byte, h.PrivateLen), Seq: [2]uint32{1000, 5000}}
	f.Orig = f.tuple(src, dst)
	f.Reply = f.tuple(dst, src)
	f.Has = ctnetlink.HasStatus
	f.Status = ctnetlink.StatusConfirmed
	return f
}

// NATed returns the flow from src to dst whose answers come from replySrc and go
// to replyDst.
func NATed(t testing.TB, h *helper.Helper, proto uint8, src, dst, replySrc, replyDst string) *Flow {
	t.Helper()
	f := New(t, h, proto, src, dst)
	f.Reply = f.tuple(replySrc, replyDst)
	if replyDst != src {
		f.Status |= ctnetlink.StatusSrcNAT
	}
	if replySrc != dst {
		f.Status |= ctnetlink.StatusDstNAT
	}
	return f
}

func (f *Flow) tuple(src, dst string) ctnetlink.Tuple {
	f.t.Helper()
	s, err := netip.ParseAddrPort(src)
	if err != nil {
		f.t.Fatal(err)
	}
	d, err := netip.ParseAddrPort(dst)
	if err != nil {
		f.t.Fatal(err)
	}
	t := ctnetlink.Tuple{Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Proto: f.proto, SrcPort: s.Port(), DstPort: d.Port()}
	t.Family = nl.FamilyIPv4
	if s.Addr().Is6() {
		t.Family = nl.FamilyIPv6
	}
	copy(t.Src[:], s.Addr().AsSlice())
	copy(t.Dst[:], d.Addr().AsSlice())
	return t
}

// Send passes a packet in that direction to the helper and returns its answer in Text's form.
// The first packet of a UDP flow is New, those of TCP flows are Established.
func (f *Flow) Send(d helper.Direction, payload string) string {
	f.t.Helper()
	info := helper.Established
	switch {
	case d == helper.Reply:
		info = helper.EstablishedReply
		f.seen = true
	case !f.seen && f.proto == unix.IPPROTO_UDP:
		info = helper.New
	}
	return f.SendAs(info, payload)
}

// SendAs is Send for a packet in that state.
func (f *Flow) SendAs(info helper.Info, payload string) string {
	f.t.Helper()
	p := f.Packet(info, payload)
	f.Seq[info.Direction()] += uint32(len(payload))
	var a helper.Answer
	f.h.Read(p, &a)
	if string(p.Payload) != payload {
		f.t.Error("the helper has written into the payload that it may only read")
	}
	if len(a.Expect) > 0 && !f.h.Supports(uint8(f.Orig.Family)) {
		f.t.Errorf("the helper expects something over family %d, and declares %v", f.Orig.Family, f.h.Families)
	}
	text, err := Text(p, &a)
	if err != nil {
		f.t.Error(err)
	}
	return text
}

// Packet returns the flow's next packet in that state, without sending it.
func (f *Flow) Packet(info helper.Info, payload string) *helper.Packet {
	return &helper.Packet{
		Flow: &f.Flow, Info: info, Payload: []byte(payload), Private: f.Private, Protocol: f.proto,
		Seq: f.Seq[info.Direction()],
	}
}

// Text is an answer as text: "accept" or "drop"; then, separated by "; ", the
// flow's new timeout, each expectation and, if the packet is rewritten, its new
// payload, quoted. An expectation reads
//
//	tcp *:* -> 192.0.2.1:1234 permanent helper=ssdp nat=reply:1234
//
// with "nat" only where the flow is translated, which is "nat=reply:192.0.2.1:1234
// by sip" for another function of the kernel than nat-follow-master, and " or drop"
// at the end where a refusal drops the packet. Several ports read "4000-4001", and "forget"
// comes first where the flow's expectations are removed. The payload is the result if every port is
// free. An error describes an answer that a helper must not give.
func Text(p *helper.Packet, a *helper.Answer) (string, error) {
	if a.Drop {
		return "drop", nil
	}
	parts := []string{"accept"}
	if a.Forget {
		parts = append(parts, "forget")
	}
	if a.Timeout != 0 {
		if a.Timeout < 0 || a.Timeout%time.Second != 0 {
			return "", fmt.Errorf("timeout of %v", a.Timeout)
		}
		parts = append(parts, "timeout "+a.Timeout.String())
	}
	var edits []helper.Edit
	for i := range a.Expect {
		e := &a.Expect[i]
		text, err := expectation(p, e)
		if err != nil {
			return "", err
		}
		if a.OnRefusal == helper.DropPacket {
			text += " or drop"
		}
		parts = append(parts, text)
		if e.Announced != nil && p.NATed() {
			to := netip.AddrPortFrom(p.Dst(p.Dir().Other()).Addr(), e.Dst.Port())
			edits = e.AppendEdits(edits, to)
		}
	}
	if len(a.Edits) > 0 {
		if !p.NATed() {
			return "", fmt.Errorf("a packet of a flow that is not translated is rewritten")
		}
		edits = append(edits, a.Edits...)
	}
	if len(edits) > 0 {
		helper.SortEdits(edits)
		payload, err := helper.AppendPayload(nil, p.Payload, edits)
		if err != nil {
			return "", err
		}
		parts = append(parts, fmt.Sprintf("%q", payload))
	}
	return strings.Join(parts, "; "), nil
}

func expectation(p *helper.Packet, e *helper.Expectation) (string, error) {
	proto, ok := map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp"}[e.Protocol]
	switch {
	case !ok:
		return "", fmt.Errorf("expectation of protocol %d", e.Protocol)
	case !e.Dst.Addr().IsValid():
		return "", fmt.Errorf("expectation without a destination")
	case e.Dst.Addr().Is6() != p.IPv6(), e.Src.Addr().IsValid() && e.Src.Addr().Is6() != p.IPv6():
		return "", fmt.Errorf("expectation of another family: %v -> %v", e.Src, e.Dst)
	case e.NAT != nil && e.NAT.Addr.IsValid() != (e.NAT.Follow != ""):
		return "", fmt.Errorf("translation by %q to %v", e.NAT.Follow, e.NAT.Addr)
	case e.NAT != nil && e.NAT.Addr.IsValid() && e.NAT.Addr.Is6() != p.IPv6():
		return "", fmt.Errorf("translation to another family: %v", e.NAT.Addr)
	case e.Ports < 0 || int(e.Dst.Port())+e.Span() > 1<<16 || e.NAT != nil && int(e.NAT.Port)+e.Span() > 1<<16:
		return "", fmt.Errorf("expectation of %d ports from %d", e.Ports, e.Dst.Port())
	case e.Announced != nil && e.NAT == nil:
		return "", fmt.Errorf("expectation announced, and without NAT")
	}
	text := proto + " " + end(e.Src) + " -> " + end(e.Dst)
	if e.Ports > 1 {
		text += fmt.Sprint("-", int(e.Dst.Port())+e.Ports-1)
	}
	if e.Permanent {
		text += " permanent"
	}
	if e.Helper != "" {
		text += " helper=" + e.Helper
	}
	if e.NAT != nil && p.NATed() {
		text += " nat=" + [...]string{"original", "reply"}[e.NAT.Dir] + ":"
		if e.NAT.Follow == "" {
			text += fmt.Sprint(e.NAT.Port)
		} else {
			text += fmt.Sprint(netip.AddrPortFrom(e.NAT.Addr, e.NAT.Port), " by ", e.NAT.Follow)
		}
	}
	return text, nil
}

func end(a netip.AddrPort) string {
	addr, port := "*", "*"
	if a.Addr().IsValid() {
		if addr = a.Addr().String(); a.Addr().Is6() {
			addr = "[" + addr + "]"
		}
	}
	if a.Port() != 0 {
		port = fmt.Sprint(a.Port())
	}
	return addr + ":" + port
}

// Allocs returns how often the helper allocates memory to read the packet, with a reused
// Answer.
func (f *Flow) Allocs(info helper.Info, payload string) float64 {
	p, a := f.Packet(info, payload), helper.Answer{}
	return testing.AllocsPerRun(100, func() {
		a.Reset()
		f.h.Read(p, &a)
	})
}

// Benchmark measures how long the helper takes to read the packet.
func (f *Flow) Benchmark(b *testing.B, info helper.Info, payload string) {
	p, a := f.Packet(info, payload), helper.Answer{}
	b.ReportAllocs()
	for b.Loop() {
		a.Reset()
		f.h.Read(p, &a)
	}
}
