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

// sniffer sees the messages on an interface, both ways.
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

// poll takes what has come and returns the number of messages seen so far.
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

// await runs do and waits until a message that is wanted comes after it.
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

// kernel changes the connection tracking table of a namespace and hears of it.
type kernel struct {
	t      *testing.T
	conn   *nl.Conn
	events *nl.Subscription
}

func openKernel(t *testing.T, ns *netnstest.NS) *kernel {
	k := &kernel{t: t}
	var err, err2 error
	ns.Do(func() {
		k.conn, err = nl.Dial()
		k.events, err2 = nl.Subscribe(nl.EventOptions{Groups: nl.AllFlowEvents | nl.AllExpectEvents})
	})
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	t.Cleanup(func() { k.conn.Close(); k.events.Close() })
	return k
}

func (k *kernel) do(r nl.Request) {
	k.t.Helper()
	if err := k.conn.Do(k.t.Context(), r, nil); err != nil {
		k.t.Fatalf("request %#x for %+v %+v: %v", r.Type, r.Flow, r.Expect, err)
	}
}

// created is the message that we would send of the next new object that the
// kernel tells of.
func (k *kernel) created() []byte {
	k.t.Helper()
	var out []byte
	var reuse *nl.Events
	for out == nil {
		events, err := k.events.Next(k.t.Context(), reuse)
		if err != nil {
			k.t.Fatal(err)
		}
		reuse = events
		err = events.Each(func(m *nl.Message, _ time.Time) error {
			if !m.IsNew() || out != nil {
				return nil
			}
			enc := Encoder{WindowTracking: true}
			var err error
			if m.IsExpect() {
				var x nl.Expect
				if err := x.Decode(m.Attrs); err != nil {
					return err
				}
				out, err = enc.AppendExpect(nil, Header{Type: ExpectNew}, &x)
				return err
			}
			var f nl.Flow
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

// liveFlow is a flow that the test makes in the kernel.
type liveFlow struct {
	step string
	flow nl.Flow
}

func liveFlows() []liveFlow {
	const confirmed = nl.StatusConfirmed
	flow := func(orig nl.Tuple, timeout uint32) nl.Flow {
		return nl.Flow{
			Has:  nl.HasStatus | nl.HasTimeout,
			Orig: orig, Reply: orig.Inverted(), Status: confirmed, Timeout: timeout,
		}
	}
	with := func(f nl.Flow, has nl.Attr, change func(*nl.Flow)) nl.Flow {
		f.Has |= has
		change(&f)
		return f
	}
	tcp := func(port uint16) nl.Flow {
		return with(flow(ports(tuple4(nl.ProtoTCP, client, server), port, 80), 300), nl.HasTCPState,
			func(f *nl.Flow) { f.TCPState = nl.TCPStateEstablished })
	}
	snat := func(a nl.Addr, port uint16) func(*nl.Flow) {
		return func(f *nl.Flow) { f.NATSrc = nl.NAT{Addr: a, HasAddr: true, Port: port, HasPort: port != 0} }
	}
	dnat := func(a nl.Addr, port uint16) func(*nl.Flow) {
		return func(f *nl.Flow) { f.NATDst = nl.NAT{Addr: a, HasAddr: true, Port: port, HasPort: port != 0} }
	}
	echo := icmp(tuple4(nl.ProtoICMP, client, server), 8, 0, 0x1234)
	echo6 := icmp(tuple6(nl.ProtoICMPv6, v6(1, 2), v6(2, 2)), 128, 0, 0x1235)
	return []liveFlow{
		{"TCP", tcp(1000)},
		{"TCP with window scales", with(tcp(1001), nl.HasTCPWScaleOrig|nl.HasTCPWScaleReply,
			func(f *nl.Flow) { f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 10 })},
		{"TCP with source NAT", with(tcp(1002), nl.HasNATSrc, snat(outer, 40001))},
		{"TCP with destination NAT", with(tcp(1003), nl.HasNATDst, dnat(v4(203, 0, 113, 9), 8080))},
		{"TCP with mark, labels and zone", with(tcp(1004), nl.HasMark|nl.HasLabels|nl.HasZone,
			func(f *nl.Flow) { f.Mark, f.Zone, f.Labels, f.LabelsLen = 0xabcd, 7, nl.Labels{2, 2}, 4 })},
		{"TCP with helper", with(flow(ports(tuple4(nl.ProtoTCP, client, server), 1005, 21), 300), nl.HasTCPState|nl.HasHelper,
			func(f *nl.Flow) { f.TCPState = nl.TCPStateEstablished; f.Helper.Set("ftp") })},
		{"TCP with its master", with(tcp(1006), 0, func(f *nl.Flow) {
			f.Master = ports(tuple4(nl.ProtoTCP, client, server), 1005, 21)
		})},
		{"TCP with sequence adjustment", with(tcp(1007), nl.HasNATSrc|nl.HasSeqAdjOrig|nl.HasSeqAdjReply, func(f *nl.Flow) {
			f.Status |= nl.StatusSeqAdjust
			f.NATSrc = nl.NAT{Addr: outer, HasAddr: true}
			f.SeqAdjOrig = nl.SeqAdj{CorrectionPos: 0x57685a43, OffsetAfter: 2}
		})},
		{"TCP with synproxy", with(tcp(1008), nl.HasSynproxy, func(f *nl.Flow) { f.Synproxy = nl.Synproxy{ISN: 1, ITS: 2, TSOff: 3} })},
		{"UDP", flow(ports(tuple4(nl.ProtoUDP, client, server), 44444, 53), 30)},
		{"UDP with both NATs", with(flow(ports(tuple4(nl.ProtoUDP, client, server), 44445, 53), 30), nl.HasNATSrc|nl.HasNATDst,
			func(f *nl.Flow) { snat(outer, 50001)(f); dnat(v4(203, 0, 113, 9), 5353)(f) })},
		{"UDP-Lite", flow(ports(tuple4(nl.ProtoUDPLite, client, server), 1, 2), 30)},
		{"UDP-Lite with NAT", with(flow(ports(tuple4(nl.ProtoUDPLite, client, server), 3, 4), 30), nl.HasNATSrc, snat(outer, 5))},
		{"SCTP", with(flow(ports(tuple4(nl.ProtoSCTP, client, server), 2000, 80), 300), nl.HasSCTPState|nl.HasSCTPVtagOrig|nl.HasSCTPVtagReply,
			func(f *nl.Flow) { f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply = 4, 0x01020304, 0x05060708 })},
		{"ICMP", flow(echo, 30)},
		{"ICMP with NAT", with(flow(echo, 30), nl.HasNATSrc, func(f *nl.Flow) {
			f.Orig.ICMPID, f.Reply.ICMPID = 0x4321, 0x4321
			snat(outer, 0)(f)
		})},
		{"GRE", flow(ports(tuple4(nl.ProtoGRE, client, server), 0x10, 0x4d), 30)},
		{"OSPF", flow(tuple4(89, client, server), 600)},
		{"IPv6 TCP with source NAT", with(flow(ports(tuple6(nl.ProtoTCP, v6(1, 2), v6(2, 2)), 1009, 80), 300), nl.HasTCPState|nl.HasNATSrc,
			func(f *nl.Flow) { f.TCPState = nl.TCPStateEstablished; snat(v6(2, 1), 42005)(f) })},
		{"IPv6 UDP with destination NAT", with(flow(ports(tuple6(nl.ProtoUDP, v6(1, 2), v6(2, 2)), 1010, 53), 30), nl.HasNATDst,
			dnat(v6(2, 9), 0))},
		{"ICMPv6", flow(echo6, 30)},
	}
}

func liveExpect() nl.Expect {
	any4 := v4(255, 255, 255, 255)
	x := nl.Expect{
		Has:      nl.ExpectHasTimeout | nl.ExpectHasFlags | nl.ExpectHasClass | nl.ExpectHasHelper | nl.ExpectHasNAT | nl.ExpectHasFn,
		Master:   ports(tuple4(nl.ProtoTCP, client, server), 1005, 21),
		Tuple:    ports(tuple4(nl.ProtoTCP, server, client), 0, 25601),
		Mask:     ports(tuple4(nl.ProtoTCP, any4, any4), 0, 0xffff),
		Timeout:  300,
		NATTuple: ports(tuple4(nl.ProtoTCP, v4(203, 0, 113, 9), nl.Addr{}), 25602, 0),
		NATDir:   1,
	}
	x.Helper.Set("ftp")
	x.SetFn("nat-follow-master")
	return x
}

// TestDebianDaemons lets two of Debian's conntrackd replicate and looks at every
// message: what the sender makes of a new flow is what we would send of the
// kernel's event, and every message survives parsing and encoding. With -update
// the messages become testdata.
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
			k.do(nl.Request{Type: nl.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.flow.Family(), Flow: &f.flow})
			ours = k.created()
		}, typeIs(FlowNew))
		compareBodies(t, f.step, ours, theirs)
	}
	expect := liveExpect()
	var ours []byte
	theirs := s.await("expectation", func() {
		k.do(nl.Request{Type: nl.TypeExpectNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv4, Expect: &expect})
		ours = k.created()
	}, typeIs(ExpectNew))
	compareBodies(t, "expectation", ours, theirs)

	change := flows[0].flow
	change.Has |= nl.HasMark
	change.Mark, change.Status = 42, nl.StatusConfirmed|nl.StatusSeenReply|nl.StatusAssured
	s.await("update", func() { k.do(nl.Request{Type: nl.TypeFlowNew, Family: nl.FamilyIPv4, Flow: &change}) }, typeIs(FlowUpdate))

	s.await("resync with the kernel and bulk", func() { da.Tell("-R"); da.Tell("-B") }, typeIs(ExpectUpdate))

	b.NFT(`add rule ip filter in udp dport 3780 drop`)
	lost := nl.Flow{Orig: ports(tuple4(nl.ProtoUDP, client, server), 44444, 53)}
	s.await("delete that gets lost", func() { k.do(nl.Request{Type: nl.TypeFlowDelete, Family: nl.FamilyIPv4, Flow: &lost}) }, typeIs(FlowDelete))
	b.NFT(`flush chain ip filter in`)
	s.await("negative acknowledgement", func() {
		k.do(nl.Request{Type: nl.TypeExpectDelete, Family: nl.FamilyIPv4, Expect: &nl.Expect{Tuple: expect.Tuple, Mask: expect.Mask, Master: expect.Master}})
	}, flagIs(Nack))
	s.await("acknowledgement", func() {}, flagIs(Ack))
	s.await("resync request", func() { db.Tell("-n") }, flagIs(Resync))
	s.await("deletes", func() { k.do(nl.Request{Type: nl.TypeFlowDelete, Family: nl.FamilyIPv6, Flow: &nl.Flow{}}) }, typeIs(FlowDelete))

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

// compareBodies compares two messages but for their headers, and but for the
// zero ports of theirs that ours has not.
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
