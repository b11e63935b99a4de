package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/peertest"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write what Debian's conntrackd sends to testdata")

const patience = 20 * time.Second

// ftfw is the Sync clause of a daemon that replicates over sync0.
func ftfw(local, peer string) string {
	return fmt.Sprintf(`Mode FTFW {
		ACKWindowSize 5
	}
	UDP {
		IPv4_address %s
		IPv4_Destination_Address %s
		Port 3780
		Interface sync0
	}
	Options {
		TCPWindowTracking On
		ExpectationSync On
	}`, local, peer)
}

// sniffer captures the messages on an interface, in both directions.
type sniffer struct {
	t    *testing.T
	fd   int
	step string
	seen []capturedMessage
}

func sniff(t *testing.T, ns *netnstest.NS) *sniffer {
	s := &sniffer{t: t, fd: -1}
	var err error
	ns.Do(func() {
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	})
	if err != nil {
		t.Fatal("packet socket:", err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// poll reads the captured packets and returns the number of messages so far.
func (s *sniffer) poll() int {
	buf := make([]byte, 65536)
	for {
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			return len(s.seen)
		}
		p := buf[:n]
		const udpPort = 3780
		if len(p) < 28 || p[0] != 0x45 || p[9] != unix.IPPROTO_UDP || int(p[22])<<8|int(p[23]) != udpPort {
			continue
		}
		p = p[28 : int(p[2])<<8|int(p[3])] // up to the IP length, without IP and UDP headers
		var c Counters
		for r := ReadDatagram(p); ; {
			rest := r.rest
			if _, ok := r.Next(&c); !ok {
				break
			}
			s.seen = append(s.seen, capturedMessage{s.step, bytes.Clone(rest[:len(rest)-len(r.rest)])})
		}
		if c != (Counters{}) {
			s.t.Errorf("%s: %x is refused: %+v", s.step, p, c)
		}
	}
}

// await runs do and waits for a wanted message after it.
func (s *sniffer) await(step string, do func(), want func(h Header) bool) []byte {
	s.t.Helper()
	at := s.poll()
	s.step = step
	do()
	var found []byte
	netnstest.Eventually(s.t, patience, step, func() bool {
		for s.poll(); at < len(s.seen) && found == nil; at++ {
			var c Counters
			r := ReadDatagram(s.seen[at].raw)
			if m, ok := r.Next(&c); ok && want(m.Header) {
				found = s.seen[at].raw
			}
		}
		return found != nil
	})
	return found
}

func typeIs(typ Type) func(Header) bool { return func(h Header) bool { return h.Type == typ } }

func flagIs(flag Flags) func(Header) bool {
	return func(h Header) bool { return h.Flags&flag != 0 }
}

// kernel changes the flow table of a namespace and receives its events.
type kernel struct {
	t      *testing.T
	conn   *nl.Conn
	events *ctnetlink.Subscription
}

func openKernel(t *testing.T, ns *netnstest.NS) *kernel {
	k := &kernel{t: t}
	var err, err2 error
	k.conn, err = nl.Dial(nl.Config{NetNS: ns.FD()})
	k.events, err2 = ctnetlink.Subscribe(ctnetlink.EventOptions{NetNS: ns.FD(), Groups: ctnetlink.AllFlowEvents | ctnetlink.AllExpectEvents})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	t.Cleanup(func() { k.conn.Close(); k.events.Close() })
	return k
}

func (k *kernel) do(r nl.Request) {
	k.t.Helper()
	if err := k.conn.Do(k.t.Context(), r, nil); err != nil {
		k.t.Fatalf("request %#x with %x: %v", r.Type, r.Attrs(nil), err)
	}
}

// created returns the message that ctbox would send for the kernel's next new object.
func (k *kernel) created() []byte {
	k.t.Helper()
	var out []byte
	var reuse *ctnetlink.Events
	for out == nil {
		events, err := k.events.Next(k.t.Context(), reuse)
		if err != nil {
			k.t.Fatal(err)
		}
		reuse = events
		err = events.Each(func(m *nl.Message, _ time.Time) error {
			if !ctnetlink.IsNew(m) || out != nil {
				return nil
			}
			enc := Encoder{WindowTracking: true}
			var err error
			if ctnetlink.IsExpect(m) {
				var x ctnetlink.Expect
				if err := x.Decode(m.Attrs); err != nil {
					return err
				}
				out, err = enc.AppendExpect(nil, Header{Type: ExpectNew}, &x)
				return err
			}
			var f ctnetlink.Flow
			if err := f.Decode(m.Attrs); err != nil {
				return err
			}
			out, err = enc.AppendFlow(nil, Header{}, &f)
			return err
		})
		if err != nil {
			k.t.Fatal(err)
		}
	}
	return out
}

// liveFlow is a flow that the test creates in the kernel.
type liveFlow struct {
	step string
	flow ctnetlink.Flow
}

func liveFlows() []liveFlow {
	const confirmed = ctnetlink.StatusConfirmed
	flow := func(orig ctnetlink.Tuple, timeout uint32) ctnetlink.Flow {
		return ctnetlink.Flow{
			Has:  ctnetlink.HasStatus | ctnetlink.HasTimeout,
			Orig: orig, Reply: orig.Inverted(), Status: confirmed, Timeout: timeout,
		}
	}
	with := func(f ctnetlink.Flow, has ctnetlink.Attr, change func(*ctnetlink.Flow)) ctnetlink.Flow {
		f.Has |= has
		change(&f)
		return f
	}
	tcp := func(port uint16) ctnetlink.Flow {
		return with(flow(ports(tuple4(ctnetlink.ProtoTCP, client, server), port, 80), 300), ctnetlink.HasTCPState,
			func(f *ctnetlink.Flow) { f.TCPState = ctnetlink.TCPStateEstablished })
	}
	snat := func(a ctnetlink.Addr, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) {
			f.NATSrc = ctnetlink.NAT{Addr: a, HasAddr: true, Port: port, HasPort: port != 0}
		}
	}
	dnat := func(a ctnetlink.Addr, port uint16) func(*ctnetlink.Flow) {
		return func(f *ctnetlink.Flow) {
			f.NATDst = ctnetlink.NAT{Addr: a, HasAddr: true, Port: port, HasPort: port != 0}
		}
	}
	echo := icmp(tuple4(ctnetlink.ProtoICMP, client, server), 8, 0, 0x1234)
	echo6 := icmp(tuple6(ctnetlink.ProtoICMPv6, v6(1, 2), v6(2, 2)), 128, 0, 0x1235)
	return []liveFlow{
		{"TCP", tcp(1000)},
		{"TCP with window scales", with(tcp(1001), ctnetlink.HasTCPWScaleOrig|ctnetlink.HasTCPWScaleReply,
			func(f *ctnetlink.Flow) { f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 10 })},
		{"TCP with source NAT", with(tcp(1002), ctnetlink.HasNATSrc, snat(outer, 40001))},
		{"TCP with destination NAT", with(tcp(1003), ctnetlink.HasNATDst, dnat(v4(203, 0, 113, 9), 8080))},
		{"TCP with mark, labels and zone", with(tcp(1004), ctnetlink.HasMark|ctnetlink.HasLabels|ctnetlink.HasZone,
			func(f *ctnetlink.Flow) { f.Mark, f.Zone, f.Labels, f.LabelsLen = 0xabcd, 7, ctnetlink.Labels{2, 2}, 4 })},
		{"TCP with helper", with(flow(ports(tuple4(ctnetlink.ProtoTCP, client, server), 1005, 21), 300), ctnetlink.HasTCPState|ctnetlink.HasHelper,
			func(f *ctnetlink.Flow) { f.TCPState = ctnetlink.TCPStateEstablished; f.Helper.Set("ftp") })},
		{"TCP with its master", with(tcp(1006), 0, func(f *ctnetlink.Flow) {
			f.Master = ports(tuple4(ctnetlink.ProtoTCP, client, server), 1005, 21)
		})},
		{"TCP with sequence adjustment", with(tcp(1007), ctnetlink.HasNATSrc|ctnetlink.HasSeqAdjOrig|ctnetlink.HasSeqAdjReply, func(f *ctnetlink.Flow) {
			f.Status |= ctnetlink.StatusSeqAdjust
			f.NATSrc = ctnetlink.NAT{Addr: outer, HasAddr: true}
			f.SeqAdjOrig = ctnetlink.SeqAdj{CorrectionPos: 0x57685a43, OffsetAfter: 2}
		})},
		{"TCP with synproxy", with(tcp(1008), ctnetlink.HasSynproxy, func(f *ctnetlink.Flow) { f.Synproxy = ctnetlink.Synproxy{ISN: 1, ITS: 2, TSOff: 3} })},
		{"UDP", flow(ports(tuple4(ctnetlink.ProtoUDP, client, server), 44444, 53), 30)},
		{"UDP with both NATs", with(flow(ports(tuple4(ctnetlink.ProtoUDP, client, server), 44445, 53), 30), ctnetlink.HasNATSrc|ctnetlink.HasNATDst,
			func(f *ctnetlink.Flow) { snat(outer, 50001)(f); dnat(v4(203, 0, 113, 9), 5353)(f) })},
		{"UDP-Lite", flow(ports(tuple4(ctnetlink.ProtoUDPLite, client, server), 1, 2), 30)},
		{"UDP-Lite with NAT", with(flow(ports(tuple4(ctnetlink.ProtoUDPLite, client, server), 3, 4), 30), ctnetlink.HasNATSrc, snat(outer, 5))},
		{"SCTP", with(flow(ports(tuple4(ctnetlink.ProtoSCTP, client, server), 2000, 80), 300), ctnetlink.HasSCTPState|ctnetlink.HasSCTPVtagOrig|ctnetlink.HasSCTPVtagReply,
			func(f *ctnetlink.Flow) { f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 4, 0x01020304, 0x05060708 })},
		{"ICMP", flow(echo, 30)},
		{"ICMP with NAT", with(flow(echo, 30), ctnetlink.HasNATSrc, func(f *ctnetlink.Flow) {
			f.Orig.ICMPID, f.Reply.ICMPID = 0x4321, 0x4321
			snat(outer, 0)(f)
		})},
		{"GRE", flow(ports(tuple4(ctnetlink.ProtoGRE, client, server), 0x10, 0x4d), 30)},
		{"OSPF", flow(tuple4(89, client, server), 600)},
		{"IPv6 TCP with source NAT", with(flow(ports(tuple6(ctnetlink.ProtoTCP, v6(1, 2), v6(2, 2)), 1009, 80), 300), ctnetlink.HasTCPState|ctnetlink.HasNATSrc,
			func(f *ctnetlink.Flow) { f.TCPState = ctnetlink.TCPStateEstablished; snat(v6(2, 1), 42005)(f) })},
		{"IPv6 UDP with destination NAT", with(flow(ports(tuple6(ctnetlink.ProtoUDP, v6(1, 2), v6(2, 2)), 1010, 53), 30), ctnetlink.HasNATDst,
			dnat(v6(2, 9), 0))},
		{"ICMPv6", flow(echo6, 30)},
	}
}

func liveExpect() ctnetlink.Expect {
	any4 := v4(255, 255, 255, 255)
	x := ctnetlink.Expect{
		Has:      ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasFlags | ctnetlink.ExpectHasClass | ctnetlink.ExpectHasHelper | ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasFn,
		Master:   ports(tuple4(ctnetlink.ProtoTCP, client, server), 1005, 21),
		Tuple:    ports(tuple4(ctnetlink.ProtoTCP, server, client), 0, 25601),
		Mask:     ports(tuple4(ctnetlink.ProtoTCP, any4, any4), 0, 0xffff),
		Timeout:  300,
		NATTuple: ports(tuple4(ctnetlink.ProtoTCP, v4(203, 0, 113, 9), ctnetlink.Addr{}), 25602, 0),
		NATDir:   1,
	}
	x.Helper.Set("ftp")
	x.SetFn("nat-follow-master")
	return x
}

// TestDebianDaemons checks every message between two of Debian's conntrackd. For a new flow
// the sender's message must equal the one that ctbox would send for the kernel's event, and
// every message must survive parsing and encoding. With -update the messages become testdata.
func TestDebianDaemons(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Link(t,
		netnstest.End{NS: a, Dev: "sync0", Addrs: []string{"192.0.2.129/25"}},
		netnstest.End{NS: b, Dev: "sync0", Addrs: []string{"192.0.2.130/25"}})
	b.NFT(`table ip filter { chain in { type filter hook input priority 0; }; }`)
	s := sniff(t, b)

	var da, db *peertest.Daemon
	s.await("start of the first", func() { da = peertest.Start(t, a, ftfw("192.0.2.129", "192.0.2.130")) }, flagIs(Alive))
	s.await("start of the second", func() { db = peertest.Start(t, b, ftfw("192.0.2.130", "192.0.2.129")) }, flagIs(HelloBack))
	k := openKernel(t, a)

	flows := liveFlows()
	for i := range flows {
		f := &flows[i]
		var ours []byte
		theirs := s.await(f.step, func() {
			k.do(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.flow.Family(), Attrs: f.flow.Append})
			ours = k.created()
		}, typeIs(FlowNew))
		compareBodies(t, f.step, ours, theirs)
	}
	expect := liveExpect()
	var ours []byte
	theirs := s.await("expectation", func() {
		k.do(nl.Request{Type: ctnetlink.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv4, Attrs: expect.Append})
		ours = k.created()
	}, typeIs(ExpectNew))
	compareBodies(t, "expectation", ours, theirs)

	change := flows[0].flow
	change.Has |= ctnetlink.HasMark
	change.Mark, change.Status = 42, ctnetlink.StatusConfirmed|ctnetlink.StatusSeenReply|ctnetlink.StatusAssured
	s.await("update", func() { k.do(nl.Request{Type: ctnetlink.TypeFlowNew, Family: nl.FamilyIPv4, Attrs: change.Append}) }, typeIs(FlowUpdate))

	s.await("resync with the kernel and bulk", func() { da.Command("-R"); da.Command("-B") }, typeIs(ExpectUpdate))

	b.NFT(`add rule ip filter in udp dport 3780 drop`)
	lost := ctnetlink.Flow{Orig: ports(tuple4(ctnetlink.ProtoUDP, client, server), 44444, 53)}
	s.await("delete that gets lost", func() { k.do(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv4, Attrs: lost.Append}) }, typeIs(FlowDelete))
	b.NFT(`flush chain ip filter in`)
	s.await("negative acknowledgement", func() {
		k.do(nl.Request{Type: ctnetlink.TypeExpectDelete, Family: nl.FamilyIPv4, Attrs: (&ctnetlink.Expect{Tuple: expect.Tuple, Mask: expect.Mask, Master: expect.Master}).Append})
	}, flagIs(Nack))
	s.await("acknowledgement", func() {}, flagIs(Ack))
	s.await("resync request", func() { db.Command("-n") }, flagIs(Resync))
	s.await("deletes", func() {
		k.do(nl.Request{Type: ctnetlink.TypeFlowDelete, Family: nl.FamilyIPv6, Attrs: (&ctnetlink.Flow{}).Append})
	}, typeIs(FlowDelete))

	db.Stop()
	da.Stop()
	s.poll()
	for _, m := range s.seen {
		checkRoundTrip(t, m)
	}
	if *update && !t.Failed() {
		writeCapture(t, s.seen)
	}
}

// compareBodies compares two messages without their headers, and without the zero ports that
// only the C daemon sends.
func compareBodies(t *testing.T, step string, ours, theirs []byte) {
	t.Helper()
	if want := withoutZeroPorts(theirs); !bytes.Equal(ours[HeaderLen:], want[HeaderLen:]) {
		t.Errorf("%s:\nours   %x\ntheirs %x", step, ours[HeaderLen:], want[HeaderLen:])
	}
}

func writeCapture(t *testing.T, messages []capturedMessage) {
	var out bytes.Buffer
	step := ""
	for _, m := range messages {
		if m.step != step {
			step = m.step
			fmt.Fprintf(&out, "# %s\n", step)
		}
		fmt.Fprintln(&out, hex.EncodeToString(m.raw))
	}
	if err := os.WriteFile(captureFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
