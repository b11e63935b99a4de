package helpers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/nfqueue"
)

// table is the flow table of a namespace. Its flows have the kernel's ftp helper: the kernel
// treats the expectations of all helpers alike.
type table struct {
	e *expecter
	c *nl.Conn
	t testing.TB
}

func newTable(t testing.TB) *table {
	t.Helper()
	ns := netnstest.New(t, "expect")
	var c *nl.Conn
	ns.Do(func() {
		var err error
		if c, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { c.Close() })
	return &table{&expecter{conn: c}, c, t}
}

// master creates a flow with a helper and SNAT, and returns a packet of the flow.
func (tb *table) master(port uint16) *helper.Packet {
	tb.t.Helper()
	return tb.flow(port, ctnetlink.ProtoTCP, "ftp")
}

func (tb *table) flow(port uint16, proto uint8, name string) *helper.Packet {
	tb.t.Helper()
	f := udpFlow()
	f.Orig.Proto, f.Reply.Proto = proto, proto
	f.Orig.SrcPort, f.Reply.DstPort = port, port
	f.Has |= ctnetlink.HasTimeout | ctnetlink.HasHelper
	if proto == ctnetlink.ProtoTCP {
		f.Has |= ctnetlink.HasTCPState
		f.TCPState = ctnetlink.TCPStateEstablished
	}
	f.Timeout = 600
	f.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone
	f.Helper.Set(name)
	r := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv4, Attrs: f.Append}
	if err := tb.c.Do(context.Background(), r, nil); err != nil {
		tb.t.Fatal(err)
	}
	return &helper.Packet{Flow: &f, Info: helper.Established}
}

// announce returns the expectation of a PORT command: the server connects to a port.
func announce(p *helper.Packet, port uint16) *helper.Expectation {
	return &helper.Expectation{
		Protocol: ctnetlink.ProtoTCP, Src: netip.AddrPortFrom(p.Src(helper.Reply).Addr(), 0),
		Dst: netip.AddrPortFrom(p.Dst(helper.Reply).Addr(), port),
		NAT: &helper.NAT{Dir: helper.Reply, Port: port},
	}
}

// expect creates the expectation and returns its port.
func (tb *table) expect(p *helper.Packet, port uint16, free bool) (uint16, error) {
	tb.e.build(p, announce(p, port))
	err := tb.e.create(context.Background(), free)
	return tb.e.x.Tuple.DstPort, err
}

func (tb *table) must(p *helper.Packet, port uint16, free bool, want uint16) {
	tb.t.Helper()
	if got, err := tb.expect(p, port, free); err != nil || got != want {
		tb.t.Fatalf("got port %d, %v, want %d", got, err, want)
	}
}

// all returns the kernel's expectations by port.
func (tb *table) all() map[uint16]ctnetlink.Expect {
	tb.t.Helper()
	all := make(map[uint16]ctnetlink.Expect)
	_, err := tb.c.Dump(context.Background(), ctnetlink.Dump{Type: ctnetlink.TypeExpectGet}.Request(), func(m *nl.Message) error {
		var x ctnetlink.Expect
		err := x.Decode(m.Attrs)
		all[x.Tuple.DstPort] = x
		return err
	})
	if err != nil {
		tb.t.Fatal(err)
	}
	return all
}

// TestExpectationHasWhatWasAnnounced checks the requests to the kernel for everything that a
// helper can announce.
func TestExpectationHasWhatWasAnnounced(t *testing.T) {
	var e expecter
	build := func(change func(f *ctnetlink.Flow, w *helper.Expectation)) ctnetlink.Expect {
		f := udpFlow()
		f.Has &^= ctnetlink.HasZone
		f.Status |= ctnetlink.StatusSrcNAT
		p := &helper.Packet{Flow: &f, Info: helper.Established}
		w := announce(p, 4000)
		change(&f, w)
		e.build(p, w)
		return e.x
	}
	plain := build(func(*ctnetlink.Flow, *helper.Expectation) {})
	for _, c := range []struct {
		name   string
		change func(f *ctnetlink.Flow, w *helper.Expectation)
		want   func(x *ctnetlink.Expect)
	}{
		{"zone", func(f *ctnetlink.Flow, _ *helper.Expectation) { f.Zone, f.Has = 5, f.Has|ctnetlink.HasZone },
			func(x *ctnetlink.Expect) { x.Zone, x.Has = 5, x.Has|ctnetlink.ExpectHasZone }},
		{"default zone", func(f *ctnetlink.Flow, _ *helper.Expectation) { f.Zone, f.Has = 0, f.Has|ctnetlink.HasZone }, func(*ctnetlink.Expect) {}},
		{"helper", func(_ *ctnetlink.Flow, w *helper.Expectation) { w.Helper = "ssdp" },
			func(x *ctnetlink.Expect) { x.Helper.Set("ssdp"); x.Has |= ctnetlink.ExpectHasHelper }},
		{"permanent", func(_ *ctnetlink.Flow, w *helper.Expectation) { w.Permanent = true },
			func(x *ctnetlink.Expect) { x.Flags = ctnetlink.ExpectPermanent }},
		{"source port", func(_ *ctnetlink.Flow, w *helper.Expectation) { w.Src = netip.AddrPortFrom(w.Src.Addr(), 69) },
			func(x *ctnetlink.Expect) { x.Tuple.SrcPort, x.Mask.SrcPort = 69, 0xffff }},
		{"any source", func(_ *ctnetlink.Flow, w *helper.Expectation) { w.Src = netip.AddrPort{} },
			func(x *ctnetlink.Expect) { x.Tuple.Src, x.Mask.Src = ctnetlink.Addr{}, ctnetlink.Addr{} }},
		{"no NAT", func(f *ctnetlink.Flow, _ *helper.Expectation) { f.Status &^= ctnetlink.StatusSrcNAT }, func(x *ctnetlink.Expect) {
			x.NATTuple, x.NATDir, x.Fn = ctnetlink.Tuple{}, 0, ctnetlink.Expect{}.Fn
			x.Has &^= ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasFn
		}},
		{"a function that the kernel has not", func(_ *ctnetlink.Flow, w *helper.Expectation) { w.NAT.Follow = "none-such" }, func(*ctnetlink.Expect) {}},
	} {
		want := plain
		c.want(&want)
		if got := build(c.change); got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, want)
		}
	}
}

func TestExpectation(t *testing.T) {
	tb := newTable(t)
	p := tb.master(1000)
	tb.must(p, 2000, true, 2000)
	x, ok := tb.all()[2000]
	if !ok {
		t.Fatal("not in the kernel's table")
	}
	if x.Master.Src != p.Flow.Orig.Src || x.Master.SrcPort != 1000 || x.Tuple.Src != (ctnetlink.Addr{198, 51, 100, 2}) ||
		x.Tuple.Dst != (ctnetlink.Addr{198, 51, 100, 1}) || x.Mask.SrcPort != 0 || x.Mask.DstPort != 0xffff ||
		x.NATDir != 1 || x.NATTuple.SrcPort != 2000 || string(x.FnBytes()) != followMaster {
		t.Errorf("%+v", x)
	}
}

// If another flow has announced the port, the next port is used. A retransmitted packet
// gets the same port again.
func TestPortOfAnotherFlowIsNotUsed(t *testing.T) {
	tb := newTable(t)
	first, second, third := tb.master(1000), tb.master(1001), tb.master(1002)
	tb.must(first, 2000, true, 2000)
	tb.must(second, 2000, true, 2001)
	tb.must(first, 2000, true, 2000)
	tb.must(second, 2000, true, 2001)
	tb.must(third, 2000, true, 2002)
	tb.must(third, 65535, true, 65535)
	if all := tb.all(); len(all) != 3 { // one per flow: by the helper's policy a new one replaces the oldest
		t.Errorf("%d expectations", len(all))
	}
	tb.must(second, 65535, true, 1024)
}

// Without translation the port cannot change, so the new expectation replaces the other
// flow's.
func TestFixedPortIsTakenOver(t *testing.T) {
	tb := newTable(t)
	first, second := tb.master(1000), tb.master(1001)
	for _, p := range []*helper.Packet{first, second} {
		p.Flow.Status &^= ctnetlink.StatusSrcNAT
		tb.must(p, 2000, false, 2000)
	}
	if x := tb.all()[2000]; x.Master.SrcPort != 1001 || x.Has&ctnetlink.ExpectHasNAT != 0 {
		t.Errorf("%+v", x)
	}
}

// The search for a free port gives up after maxPorts.
func TestSearchForPortEnds(t *testing.T) {
	tb := newTable(t)
	for i := range uint16(maxPorts) {
		tb.must(tb.master(1000+i), 3000+i, true, 3000+i)
	}
	if port, err := tb.expect(tb.master(5000), 3000, true); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("port %d, %v", port, err)
	}
}

// run makes the expectations of n ports and returns the first.
func (tb *table) run(p *helper.Packet, port uint16, n int, free bool) (uint16, error) {
	tb.e.build(p, announce(p, port))
	made, err := tb.e.createRun(context.Background(), nil, n, free)
	if err != nil {
		return 0, err
	}
	if len(made) != n {
		tb.t.Errorf("%d of %d expectations", len(made), n)
	}
	return made[0].Tuple.DstPort, nil
}

// backup makes a flow whose helper may have three expectations.
func (tb *table) backup(port uint16) *helper.Packet {
	tb.t.Helper()
	return tb.flow(port, ctnetlink.ProtoUDP, "amanda")
}

// If one port of a pair is another flow's, both move to the next even port; the ports of the
// same flow are replaced, and nothing is left of what could not be had.
func TestExpectationsOfPairs(t *testing.T) {
	tb := newTable(t)
	first, second, third := tb.backup(1000), tb.backup(1001), tb.backup(1002)
	for _, c := range []struct {
		p          *helper.Packet
		port, want uint16
	}{
		{first, 2000, 2000},
		{second, 2000, 2002},
		{first, 2000, 2000},  // sent again
		{second, 2000, 2002}, // this one, too
		{third, 1999, 2004},  // 2000 is taken, and the next even ones
		{third, 65534, 65534},
		{first, 3001, 3001}, // an odd one, if it is free
	} {
		if got, err := tb.run(c.p, c.port, 2, true); err != nil || got != c.want {
			t.Fatalf("%d: got %d, %v, want %d", c.port, got, err, c.want)
		}
	}
	if got, err := tb.run(second, 65534, 2, true); err != nil || got != 1024 {
		t.Fatalf("got %d, %v", got, err)
	}
	all := tb.all()
	if _, ok := all[1999]; ok {
		t.Error("the first port of a pair whose second was taken is left")
	}
	for port, host := range map[uint16]uint16{1024: 65534, 1025: 65535, 3001: 3001, 3002: 3002, 65534: 65534, 65535: 65535} {
		if x, ok := all[port]; !ok || x.NATTuple.SrcPort != host {
			t.Errorf("port %d leads to %d, want %d", port, x.NATTuple.SrcPort, host)
		}
	}
}

// Where the ports can't be others, they are expected for both.
func TestExpectationsOfPairOfAnother(t *testing.T) {
	tb := newTable(t)
	for port := range uint16(2) {
		p := tb.backup(1000 + port)
		p.Flow.Status &^= ctnetlink.StatusSrcNAT
		if got, err := tb.run(p, 2000, 2, false); err != nil || got != 2000 {
			t.Fatalf("got %d, %v", got, err)
		}
	}
	if x := tb.all()[2001]; x.Master.SrcPort != 1001 {
		t.Errorf("%+v", x)
	}
}

func TestExpectationsPairsAreTaken(t *testing.T) {
	tb := newTable(t)
	for i := range uint16(maxPorts) {
		tb.must(tb.backup(1000+i), 3001+2*i, true, 3001+2*i)
	}
	if port, err := tb.run(tb.backup(5000), 3000, 2, true); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("port %d, %v", port, err)
	}
	if all := tb.all(); len(all) != maxPorts {
		t.Errorf("%d expectations, want %d", len(all), maxPorts)
	}
}

// The expectations of one flow are removed, and of no other.
func TestForget(t *testing.T) {
	tb := newTable(t)
	first, second := tb.backup(1000), tb.backup(1001)
	for p, port := range map[*helper.Packet]uint16{first: 2000, second: 3000} {
		if _, err := tb.run(p, port, 2, true); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there are none
		if err := tb.e.forget(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		all := tb.all()
		_, left := all[3000]
		if len(all) != 2 || !left {
			t.Fatalf("%v", all)
		}
	}
	second.Flow.Orig.SrcPort = 999 // a flow that has ended
	if err := tb.e.forget(t.Context(), second); err != nil {
		t.Fatal(err)
	}
}

// find chooses the same ports for expectations that travel with a verdict.
func TestFindPort(t *testing.T) {
	tb := newTable(t)
	first, second := tb.master(1000), tb.master(1001)
	tb.must(first, 2000, true, 2000)
	for p, want := range map[*helper.Packet]uint16{first: 2000, second: 2001} {
		tb.e.build(p, announce(p, 2000))
		if err := tb.e.find(context.Background()); err != nil || tb.e.x.Tuple.DstPort != want {
			t.Errorf("port %d, %v, want %d", tb.e.x.Tuple.DstPort, err, want)
		}
	}
}

func TestExpectationWithoutMaster(t *testing.T) {
	tb := newTable(t)
	p := tb.master(1000)
	p.Flow.Orig.SrcPort = 999
	if _, err := tb.expect(p, 2000, true); !errors.Is(err, unix.ENOENT) {
		t.Errorf("error %v", err)
	}
	if n := len(tb.all()); n != 0 {
		t.Errorf("%d expectations", n)
	}
}

// A packet that is dropped because the kernel refuses its expectation leaves the private data
// unchanged, so that its retransmission is read in the same way.
func TestRetransmissionAfterRefusal(t *testing.T) {
	tb := newTable(t)
	h := newTestHost(t)
	h.expect.conn = tb.c
	p := tb.master(1000)
	unknown := p.Flow.Clone()
	unknown.Orig.SrcPort = 999
	h.read = func(p *helper.Packet, a *helper.Answer) {
		if p.Private[0] == 0 {
			a.OnRefusal = helper.DropPacket
			a.Expect = append(a.Expect, *announce(p, 2000))
			a.Expect[0].Announced = &helper.Announced{Append: func(dst []byte, _ netip.AddrPort) []byte { return dst }}
		}
		p.Private[0] = 1
	}
	q := queued(unknown, "")
	q.Payload = tcp("text")
	for _, v := range h.run([]*nfqueue.Packet{q}, []*nfqueue.Packet{q}) {
		if !v.Drop || v.Flow != nil {
			t.Errorf("verdict %+v", v)
		}
	}
	if n := h.Stats.Refused.Load(); n != 2 {
		t.Errorf("refused %d times, want 2", n)
	}
}

// If the rewritten packet is too long, its expectation is removed and the packet dropped.
func TestRewrittenPacketThatIsTooLong(t *testing.T) {
	tb := newTable(t)
	h := newTestHost(t)
	h.expect.conn = tb.c
	p := tb.master(1000)
	h.read = func(p *helper.Packet, a *helper.Answer) {
		w := announce(p, 2000)
		w.Protocol = ctnetlink.ProtoTCP
		w.Announced = &helper.Announced{At: 0, Len: 1, Append: func(dst []byte, _ netip.AddrPort) []byte {
			return append(dst, make([]byte, 66000)...)
		}}
		a.Expect = append(a.Expect, *w)
	}
	f := p.Flow.Clone()
	q := queued(f, "text")
	q.Payload = tcp("text")
	got := h.run([]*nfqueue.Packet{q})
	if len(got) != 1 || !got[0].Drop || got[0].Payload != nil {
		t.Errorf("verdicts %+v", got)
	}
	if n := len(tb.all()); n != 0 {
		t.Errorf("%d expectations are left", n)
	}
}

// tcp returns a packet of the flow of master(1000).
func tcp(payload string) []byte {
	b := udp("")[:20]
	b[9] = unix.IPPROTO_TCP
	b = append(b, 3, 232, 0, 69, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0, 0, 0, 0, 0, 0)
	b = append(b, payload...)
	b[3] = byte(len(b))
	return b
}

// The expectation is in the kernel's table, and the rewritten packet announces its port.
func TestAnnouncedPort(t *testing.T) {
	tb := newTable(t)
	h := newTestHost(t)
	h.expect.conn = tb.c
	tb.must(tb.master(1001), 2000, true, 2000)
	p := tb.master(1000)
	h.read = func(p *helper.Packet, a *helper.Answer) {
		w := announce(p, 2000)
		w.Announced = &helper.Announced{At: 5, Len: 4, Append: func(dst []byte, to netip.AddrPort) []byte {
			return append(dst, to.String()...)
		}}
		a.Expect = append(a.Expect, *w)
	}
	q := queued(p.Flow.Clone(), "")
	q.Payload = tcp("PORT 2000\r\n")
	got := h.run([]*nfqueue.Packet{q})
	if len(got) != 1 || got[0].Drop || got[0].Flow == nil || got[0].Expect != nil {
		t.Fatalf("verdicts %+v", got)
	}
	if text := string(got[0].Payload[40:]); text != "PORT 198.51.100.1:2001\r\n" {
		t.Errorf("payload %q", text)
	}
	x, ok := tb.all()[2001]
	if !ok || x.NATTuple.SrcPort != 2000 || x.Timeout < uint32(time.Minute/time.Second) {
		t.Errorf("%+v", x)
	}
}

// All that an answer can ask for at once: expectations of the flow go, a pair gets other ports,
// which two parts of the packet have, and another part is changed. A failed pair leaves the
// packet's announcement as it is.
func TestPairIsAnnounced(t *testing.T) {
	tb := newTable(t)
	h := newTestHost(t)
	h.expect.conn = tb.c
	if _, err := tb.run(tb.backup(1001), 2000, 2, true); err != nil {
		t.Fatal(err)
	}
	p := tb.backup(1000)
	if _, err := tb.run(p, 3000, 2, true); err != nil {
		t.Fatal(err)
	}
	port := func(beyond uint16) func(dst []byte, to netip.AddrPort) []byte {
		return func(dst []byte, to netip.AddrPort) []byte { return fmt.Append(dst, to.Port()+beyond) }
	}
	h.read = func(p *helper.Packet, a *helper.Answer) {
		w := announce(p, 2000)
		w.Ports = 2
		w.Announced = &helper.Announced{At: 5, Len: 4, Append: port(1), Next: &helper.Announced{At: 0, Len: 4, Append: port(0)}}
		a.Forget = true
		a.Expect = append(a.Expect, *w)
		a.Edits = append(a.Edits, helper.Edit{At: 10, Len: 1, Text: []byte("yes")})
	}
	q := queued(p.Flow.Clone(), "2000-2001 ?")
	got := h.run([]*nfqueue.Packet{q})
	if len(got) != 1 || got[0].Drop || got[0].Expect != nil || string(got[0].Payload[28:]) != "2002-2003 yes" {
		t.Fatalf("verdicts %+v", got)
	}
	all := tb.all()
	for _, port := range []uint16{2000, 2001, 2002, 2003} {
		if _, ok := all[port]; !ok {
			t.Errorf("port %d is not expected", port)
		}
	}
	if len(all) != 4 || h.Stats.Expectations.Load() != 2 {
		t.Errorf("%d expectations, %d counted", len(all), h.Stats.Expectations.Load())
	}
	// A flow that is not in the table: the pair is refused, the rest is done.
	ended := p.Flow.Clone()
	ended.Orig.SrcPort = 999
	got = h.run([]*nfqueue.Packet{queued(ended, "2000-2001 ?")})
	if len(got) != 1 || got[0].Drop || string(got[0].Payload[28:]) != "2000-2001 yes" || h.Stats.Refused.Load() != 1 {
		t.Errorf("verdicts %+v", got)
	}
}

// Behind an IPv6 packet of another length the sequence numbers are adjusted here, in either
// direction, once for each packet, and the kernel is not asked to.
func TestIPv6SequenceNumbers(t *testing.T) {
	tb := newTable(t)
	h := newTestHost(t)
	h.expect.conn = tb.c
	f := ctnetlink.Flow{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPState | ctnetlink.HasHelper, Timeout: 600,
		TCPState: ctnetlink.TCPStateEstablished,
		Status:   ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured | ctnetlink.StatusSrcNAT | ctnetlink.StatusSrcNATDone}
	f.Orig = expectTuple(nl.FamilyIPv6, ctnetlink.ProtoTCP, netip.MustParseAddrPort("[2001:db8:1::2]:1000"), netip.MustParseAddrPort("[2001:db8:2::9]:554"))
	f.Reply = f.Orig.Inverted()
	f.Helper.Set("ftp")
	create := nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv6, Attrs: f.Append}
	if err := tb.c.Do(t.Context(), create, nil); err != nil {
		t.Fatal(err)
	}
	text := ""
	h.read = func(_ *helper.Packet, a *helper.Answer) {
		a.Edits = append(a.Edits, helper.Edit{At: 0, Len: 4, Text: []byte(text)})
	}
	for _, c := range []struct {
		info         helper.Info
		seq          uint32
		text         string
		orig, answer ctnetlink.SeqAdj
	}{
		{helper.Established, 100, "longer", ctnetlink.SeqAdj{CorrectionPos: 100, OffsetAfter: 2}, ctnetlink.SeqAdj{}},
		{helper.Established, 100, "longer", ctnetlink.SeqAdj{CorrectionPos: 100, OffsetAfter: 2}, ctnetlink.SeqAdj{}}, // sent again
		{helper.Established, 200, "longer", ctnetlink.SeqAdj{CorrectionPos: 200, OffsetBefore: 2, OffsetAfter: 4}, ctnetlink.SeqAdj{}},
		{helper.Established, 300, "same", ctnetlink.SeqAdj{CorrectionPos: 200, OffsetBefore: 2, OffsetAfter: 4}, ctnetlink.SeqAdj{}},
		{helper.EstablishedReply, 0xfffffff0, "a", ctnetlink.SeqAdj{CorrectionPos: 200, OffsetBefore: 2, OffsetAfter: 4},
			ctnetlink.SeqAdj{CorrectionPos: 0xfffffff0, OffsetAfter: 0xfffffffd}},
		{helper.EstablishedReply, 5, "ab", ctnetlink.SeqAdj{CorrectionPos: 200, OffsetBefore: 2, OffsetAfter: 4},
			ctnetlink.SeqAdj{CorrectionPos: 5, OffsetBefore: 0xfffffffd, OffsetAfter: 0xfffffffb}},
	} {
		text = c.text
		b := append([]byte{0x60, 0, 0, 0, 0, 24, unix.IPPROTO_TCP, 64}, make([]byte, 32)...)
		b = append(b, 3, 232, 2, 42, byte(c.seq>>24), byte(c.seq>>16), byte(c.seq>>8), byte(c.seq), 0, 0, 0, 1, 0x50, 0x18, 0, 0, 0, 0, 0, 0)
		q := &nfqueue.Packet{Queue: 7, ID: 1, EtherType: unix.ETH_P_IPV6, Payload: append(b, "text"...), CT: f.Append(nil), HasInfo: true, Info: uint32(c.info)}
		got := h.run([]*nfqueue.Packet{q})
		if len(got) != 1 || got[0].Drop || string(got[0].Payload[60:]) != c.text || (got[0].Flow == nil) != (c.text != "same") {
			t.Fatalf("%q: verdicts %+v\n%s", c.text, got, h.said)
		}
		var now ctnetlink.Flow
		get := nl.Request{Type: ctnetlink.TypeFlowGet, Family: nl.FamilyIPv6, Attrs: (&ctnetlink.Flow{Orig: f.Orig}).Append}
		if err := tb.c.Do(t.Context(), get, func(m *nl.Message) error { return now.Decode(m.Attrs) }); err != nil {
			t.Fatal(err)
		}
		if now.SeqAdjOrig != c.orig || now.SeqAdjReply != c.answer {
			t.Errorf("%q at %d: %+v %+v, want %+v %+v", c.text, c.seq, now.SeqAdjOrig, now.SeqAdjReply, c.orig, c.answer)
		}
	}
	// The packet of a flow that has ended is dropped: what follows it could not be adjusted.
	text = "longer"
	f.Orig.SrcPort, f.Reply.DstPort = 999, 999
	q := &nfqueue.Packet{Queue: 7, ID: 1, EtherType: unix.ETH_P_IPV6, CT: f.Append(nil), HasInfo: true}
	q.Payload = append([]byte{0x60, 0, 0, 0, 0, 24, unix.IPPROTO_TCP, 64}, make([]byte, 32+20)...)
	q.Payload[40+12] = 0x50
	q.Payload = append(q.Payload, "text"...)
	if got := h.run([]*nfqueue.Packet{q}); len(got) != 1 || !got[0].Drop {
		t.Errorf("verdicts %+v", got)
	}
}
