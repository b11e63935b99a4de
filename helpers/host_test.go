package helpers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/conf"
	"ctbox/helpers/helper"
	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/nfqueue"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// fakeQueues takes packets from a test and gives it the verdicts. Real queues with helpers
// need a kernel with nfnetlink_cthelper: helpers/vmtest tests them.
type fakeQueues struct {
	packets  chan []*nfqueue.Packet
	verdicts []nfqueue.Verdict
	refuse   error
	closed   bool
}

func (f *fakeQueues) Bind(context.Context, uint16, uint32) error { return nil }

func (f *fakeQueues) Read(each func(*nfqueue.Packet), refused func(error)) (bool, error) {
	b, ok := <-f.packets
	if !ok {
		return false, io.ErrUnexpectedEOF
	}
	if f.refuse != nil {
		refused(f.refuse)
		f.refuse = nil
	}
	for _, p := range b {
		each(p)
	}
	return len(b) < 2, nil
}

func (f *fakeQueues) Answer(v *nfqueue.Verdict) {
	c := *v
	c.Payload = bytes.Clone(v.Payload)
	if v.Flow != nil {
		flow := v.Flow.Clone()
		c.Flow = &flow
	}
	if v.Expect != nil {
		expect := *v.Expect
		c.Expect = &expect
	}
	f.verdicts = append(f.verdicts, c)
}

func (f *fakeQueues) Full() bool   { return false }
func (f *fakeQueues) Flush() error { return nil }
func (f *fakeQueues) Stop() error  { f.packets <- nil; return nil }
func (f *fakeQueues) Close() error { f.closed = true; return nil }

// testHost returns a Host with one helper on queue 7, whose Read the test supplies.
type testHost struct {
	*Host
	t      testing.TB
	queues *fakeQueues
	said   *bytes.Buffer
	read   func(p *helper.Packet, a *helper.Answer)
}

func newTestHost(t testing.TB) *testHost {
	h := &testHost{t: t, queues: &fakeQueues{packets: make(chan []*nfqueue.Packet, 16)}, said: new(bytes.Buffer)}
	h.Host = newHost(slog.New(slog.NewTextHandler(h.said, nil)))
	h.Host.queues = h.queues
	h.ctx = context.Background()
	built := &helper.Helper{Name: "test", Protocols: []uint8{ctnetlink.ProtoTCP, ctnetlink.ProtoUDP}, PrivateLen: 8,
		Read: func(p *helper.Packet, a *helper.Answer) { h.read(p, a) }}
	h.byQueue[7] = built
	return h
}

// udp returns a packet of a UDP flow from 192.0.2.1:1000 to 198.51.100.2:69.
func udp(payload string) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2, 3, 232, 0, 69, 0, 0, 0, 0}
	b = append(b, payload...)
	b[3], b[25] = byte(len(b)), byte(len(b)-20)
	return b
}

// flow returns the flow of udp's packets, with SNAT to 198.51.100.1.
func udpFlow() ctnetlink.Flow {
	const has = ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts
	f := ctnetlink.Flow{Has: ctnetlink.HasStatus, Status: ctnetlink.StatusConfirmed | ctnetlink.StatusSrcNAT}
	f.Orig = ctnetlink.Tuple{Has: has, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP, Src: ctnetlink.Addr{192, 0, 2, 1}, Dst: ctnetlink.Addr{198, 51, 100, 2},
		SrcPort: 1000, DstPort: 69}
	f.Reply = f.Orig.Inverted()
	f.Reply.Dst = ctnetlink.Addr{198, 51, 100, 1}
	return f
}

func queued(f ctnetlink.Flow, payload string) *nfqueue.Packet {
	return &nfqueue.Packet{Queue: 7, ID: 1, EtherType: unix.ETH_P_IP, Payload: udp(payload), CT: f.Append(nil),
		HasInfo: true, Info: uint32(helper.New)}
}

// run passes the batches of packets to the Host and returns the verdicts.
func (h *testHost) run(batches ...[]*nfqueue.Packet) []nfqueue.Verdict {
	h.t.Helper()
	h.queues.verdicts = nil
	for _, b := range batches {
		h.queues.packets <- b
		if _, err := h.batch(); err != nil {
			h.t.Fatal(err)
		}
	}
	return h.queues.verdicts
}

// A packet that cannot be read is accepted, with nothing else in the verdict, and the reason
// is logged.
func TestUnreadablePacketsPass(t *testing.T) {
	good := udpFlow()
	half := udpFlow()
	half.Reply.Has = 0
	otherProto := udpFlow()
	otherProto.Orig.Proto = ctnetlink.ProtoTCP
	for _, c := range []struct {
		name   string
		packet func(*nfqueue.Packet)
		said   string
	}{
		{"no payload", func(p *nfqueue.Packet) { p.Payload = nil }, "packet with no payload"},
		{"truncated", func(p *nfqueue.Packet) { p.Truncated = true }, "truncated packet, skipping"},
		{"no flow", func(p *nfqueue.Packet) { p.CT = nil }, "no CT attached to this packet"},
		{"no state", func(p *nfqueue.Packet) { p.HasInfo = false }, "no CT attached to this packet"},
		{"ARP", func(p *nfqueue.Packet) { p.EtherType = 0x0806 }, "unknown layer 3 protocol (2054), skipping"},
		{"short", func(p *nfqueue.Packet) { p.Payload = p.Payload[:19] }, "no room for IPv4 header"},
		{"fragment", func(p *nfqueue.Packet) { p.Payload[6] = 0x20 }, "fragment, skipping"},
		{"broken flow", func(p *nfqueue.Packet) { p.CT = p.CT[:len(p.CT)-9] }, "cannot convert message to CT"},
		{"half a flow", func(p *nfqueue.Packet) { p.CT = half.Append(nil) }, "cannot convert message to CT"},
		{"flow of another protocol", func(p *nfqueue.Packet) { p.CT = otherProto.Append(nil) }, "cannot convert message to CT"},
		{"queue of nobody", func(p *nfqueue.Packet) { p.Queue = 8 }, "no helper is configured for this packet's flow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHost(t)
			h.read = func(*helper.Packet, *helper.Answer) { t.Error("the helper has read it") }
			p := queued(good, "text")
			c.packet(p)
			got := h.run([]*nfqueue.Packet{p})
			if len(got) != 1 || got[0].Drop || got[0].ID != 1 || got[0].Queue != p.Queue ||
				got[0].Payload != nil || got[0].Flow != nil || got[0].Expect != nil {
				t.Errorf("verdicts %+v", got)
			}
			if !strings.Contains(h.said.String(), c.said) {
				t.Errorf("said %q", h.said)
			}
			if n := h.Stats.Unread.Load(); n != 1 {
				t.Errorf("%d unread", n)
			}
		})
	}
}

// The verdict contains only what has changed.
func TestVerdictHasWhatChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		read func(p *helper.Packet, a *helper.Answer)
		want func(v *nfqueue.Verdict) bool
	}{
		{"nothing", func(*helper.Packet, *helper.Answer) {}, func(v *nfqueue.Verdict) bool {
			return !v.Drop && v.Flow == nil && v.Payload == nil && v.Expect == nil
		}},
		{"drop", func(_ *helper.Packet, a *helper.Answer) { a.Drop, a.Timeout = true, time.Minute }, func(v *nfqueue.Verdict) bool {
			return v.Drop && v.Flow == nil
		}},
		{"drop after a change of private data", func(p *helper.Packet, a *helper.Answer) { a.Drop, p.Private[7] = true, 9 },
			func(v *nfqueue.Verdict) bool { return v.Drop && v.Flow == nil }},
		{"timeout", func(_ *helper.Packet, a *helper.Answer) { a.Timeout = time.Minute }, func(v *nfqueue.Verdict) bool {
			return v.Flow.Has == ctnetlink.HasTimeout && v.Flow.Timeout == 60
		}},
		{"private data", func(p *helper.Packet, _ *helper.Answer) { p.Private[7] = 9 }, func(v *nfqueue.Verdict) bool {
			return v.Flow.Has == ctnetlink.HasHelper|ctnetlink.HasHelperInfo && v.Flow.Helper.String() == "test" &&
				bytes.Equal(v.Flow.HelperInfo, []byte{0, 0, 0, 0, 0, 0, 0, 9})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newTestHost(t)
			h.read = c.read
			f := udpFlow()
			f.Helper.Set("test")
			f.Has |= ctnetlink.HasHelper
			if got := h.run([]*nfqueue.Packet{queued(f, "text")}); len(got) != 1 || !c.want(&got[0]) {
				t.Errorf("verdicts %+v", got)
			}
		})
	}
}

// The flow of a first packet is not in the kernel's table yet, so its expectation travels
// with the verdict, and a translated address in a rewritten packet.
func TestFirstPacketExpectsByVerdict(t *testing.T) {
	h := newTestHost(t)
	h.read = func(p *helper.Packet, a *helper.Answer) {
		for range 2 {
			a.Expect = append(a.Expect, helper.Expectation{
				Protocol: ctnetlink.ProtoUDP, Src: netip.AddrPortFrom(p.Src(helper.Reply).Addr(), 0), Dst: p.Dst(helper.Reply), Permanent: true,
				NAT: &helper.NAT{Dir: helper.Reply, Port: p.Src(helper.Original).Port()},
			})
		}
	}
	f := udpFlow()
	f.Status &^= ctnetlink.StatusConfirmed
	got := h.run([]*nfqueue.Packet{queued(f, "text")})
	if len(got) != 1 || got[0].Expect == nil || got[0].Flow == nil || got[0].Drop {
		t.Fatalf("verdicts %+v", got)
	}
	x := got[0].Expect
	if x.Tuple.Src != (ctnetlink.Addr{198, 51, 100, 2}) || x.Tuple.SrcPort != 0 || x.Tuple.Dst != (ctnetlink.Addr{198, 51, 100, 1}) || x.Tuple.DstPort != 1000 ||
		x.Mask.Src != (ctnetlink.Addr{255, 255, 255, 255}) || x.Mask.SrcPort != 0 || x.Mask.DstPort != 0xffff || x.Flags != ctnetlink.ExpectPermanent ||
		x.NATDir != 1 || x.NATTuple.SrcPort != 1000 || string(x.FnBytes()) != followMaster || x.Master != f.Orig {
		t.Errorf("expectation %+v", x)
	}
	if !strings.Contains(h.said.String(), "only one expectation") || h.Stats.Refused.Load() != 1 {
		t.Errorf("the second one: %s", h.said)
	}
}

// A packet that announces more than MaxExpect expectations creates none of them.
func TestTooManyExpectations(t *testing.T) {
	h := newTestHost(t)
	h.read = func(p *helper.Packet, a *helper.Answer) {
		p.Private[0] = 9
		a.OnRefusal = helper.DropPacket
		for range helper.MaxExpect + 1 {
			a.Expect = append(a.Expect, helper.Expectation{Protocol: ctnetlink.ProtoUDP, Dst: p.Dst(helper.Reply)})
		}
	}
	got := h.run([]*nfqueue.Packet{queued(udpFlow(), "text")})
	if len(got) != 1 || got[0].Drop || got[0].Expect != nil || got[0].Flow == nil || got[0].Flow.Has != ctnetlink.HasHelper|ctnetlink.HasHelperInfo {
		t.Errorf("verdicts %+v", got)
	}
	if n := h.Stats.Expectations.Load(); n != 0 || !strings.Contains(h.said.String(), "announces more than 8 flows") {
		t.Errorf("%d expectations; said %q", n, h.said)
	}
}

// A helper reads the private data that it wrote last, also with packets that were queued
// before that and carry older data.
func TestPrivateDataOfABurst(t *testing.T) {
	h := newTestHost(t)
	var seen []byte
	h.read = func(p *helper.Packet, _ *helper.Answer) {
		seen = append(seen, p.Private[0])
		p.Private[0]++
	}
	f := udpFlow()
	f.HelperInfo, f.Has = []byte{5, 0, 0, 0, 0, 0, 0, 0}, f.Has|ctnetlink.HasHelperInfo
	other := f.Clone()
	other.Orig.SrcPort, other.Reply.DstPort = 2, 2
	packet := func(f ctnetlink.Flow) *nfqueue.Packet { return queued(f, "text") }
	h.run(
		[]*nfqueue.Packet{packet(f), packet(f), packet(other), packet(f)}, // 5 6 5 7
		[]*nfqueue.Packet{packet(f), packet(other)},                       // a full batch again: 8 6
		[]*nfqueue.Packet{packet(f)},                                      // a short batch, queued before the last verdicts: 9
		[]*nfqueue.Packet{packet(f)},                                      // still queued before the verdict of that packet: 10
		nil,
		[]*nfqueue.Packet{packet(f)}, // queued after all verdicts: the kernel's data
	)
	if want := []byte{5, 6, 5, 7, 8, 6, 9, 10, 5}; !bytes.Equal(seen, want) {
		t.Errorf("seen %d, want %d", seen, want)
	}
	if len(h.private.flows) > 1 {
		t.Errorf("%d flows are remembered", len(h.private.flows))
	}
}

// A new flow begins without private data, even if an ended flow had the same tuple.
func TestPrivateDataOfANewFlow(t *testing.T) {
	h := newTestHost(t)
	var seen []byte
	h.read = func(p *helper.Packet, _ *helper.Answer) {
		seen = append(seen, p.Private[0])
		p.Private[0]++
	}
	f := udpFlow()
	f.ID, f.Has = 1, f.Has|ctnetlink.HasID
	next := f.Clone()
	next.ID = 2
	h.run([]*nfqueue.Packet{queued(f, "text"), queued(f, "text"), queued(next, "text")})
	if want := []byte{0, 1, 0}; !bytes.Equal(seen, want) {
		t.Errorf("seen %d, want %d", seen, want)
	}
}

// The number of flows whose private data is kept is limited.
func TestPrivateDataIsBounded(t *testing.T) {
	h := newTestHost(t)
	h.read = func(p *helper.Packet, _ *helper.Answer) { p.Private[0] = 1 }
	f := udpFlow()
	two := make([]*nfqueue.Packet, 2)
	for i := range 2 * maxRemembered {
		f.Orig.SrcPort = uint16(i)
		two[i%2] = queued(f, "text")
		if i%2 == 1 {
			h.run(two)
		}
	}
	if n := len(h.private.flows); n == 0 || n > maxRemembered {
		t.Errorf("%d flows are remembered", n)
	}
}

// The flow's helper reads a packet, also if it comes through another helper's queue.
func TestFlowDecidesTheHelper(t *testing.T) {
	h := newTestHost(t)
	h.read = func(*helper.Packet, *helper.Answer) { t.Error("read by the queue's helper") }
	read := 0
	var name ctnetlink.Name
	name.Set("other")
	h.byName[object{name, ctnetlink.ProtoUDP}] = &helper.Helper{Name: "other", Read: func(p *helper.Packet, _ *helper.Answer) {
		read++
		if len(p.Private) != 0 {
			t.Errorf("%d bytes of private data", len(p.Private))
		}
	}}
	f := udpFlow()
	f.Helper, f.Has = name, f.Has|ctnetlink.HasHelper
	h.run([]*nfqueue.Packet{queued(f, "text")})
	if read != 1 {
		t.Error("not read")
	}
}

// At the end of Run the waiting packets are answered and everything is closed.
func TestRunEnds(t *testing.T) {
	h := newTestHost(t)
	h.read = func(*helper.Packet, *helper.Answer) {}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.queues.packets <- []*nfqueue.Packet{queued(udpFlow(), "1"), queued(udpFlow(), "2")}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(h.queues.verdicts) != 2 || !h.queues.closed {
		t.Errorf("%d verdicts, closed %v", len(h.queues.verdicts), h.queues.closed)
	}
}

func TestRunFails(t *testing.T) {
	h := newTestHost(t)
	close(h.queues.packets)
	if err := h.Run(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || !h.queues.closed {
		t.Errorf("%v, closed %v", err, h.queues.closed)
	}
}

// Errors of the kernel have the texts of strerror(3), which the manuals quote.
func TestRefusalTexts(t *testing.T) {
	ftp := &conf.HelperType{Name: "ftp", QueueNum: 7}
	for _, c := range []struct {
		got  error
		want string
	}{
		{setError(ftp, true, &nl.Error{Errno: unix.EBUSY}), "trying to configure cthelper `ftp': Device or resource busy; "},
		{setError(ftp, false, &nl.Error{Errno: unix.EINVAL}), "trying to configure cthelper `ftp': Invalid argument; "},
		{bindError(ftp, &nl.Error{Errno: unix.EPERM}), "trying to bind queue 7 of cthelper `ftp': Operation not permitted; "},
		{bindError(ftp, fmt.Errorf("receive from queue socket: %w", unix.ENOBUFS)),
			"trying to bind queue 7 of cthelper `ftp': receive from queue socket: no buffer space available"},
	} {
		if !strings.HasPrefix(c.got.Error(), c.want) {
			t.Errorf("%s\nwant %s", c.got, c.want)
		}
	}
	if err := setError(ftp, true, &nl.Error{Errno: unix.EBUSY}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v is no EBUSY", err)
	}
}

// Packets from outside cannot fill the log, and suppressed lines are counted even if the text
// does not come again.
func TestLogIsLimited(t *testing.T) {
	h := newTestHost(t)
	for range 1000 {
		h.warn("the same")
	}
	h.warn("another")
	h.quiet.Close()
	if n := strings.Count(h.said.String(), "the same"); n != 2 || !strings.Contains(h.said.String(), "the same (and 999 times more)") ||
		strings.Count(h.said.String(), "another") != 1 {
		t.Errorf("said %q", h.said)
	}
}

// A packet that announces nothing causes no allocation.
func TestAnswerAllocations(t *testing.T) {
	h := newTestHost(t)
	h.Host.queues = discard{h.queues}
	h.read = func(p *helper.Packet, _ *helper.Answer) { p.Private[0]++ }
	q := queued(udpFlow(), "text")
	h.answer(q)
	if n := testing.AllocsPerRun(100, func() { h.answer(q) }); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

type discard struct{ *fakeQueues }

func (discard) Answer(*nfqueue.Verdict) {}
