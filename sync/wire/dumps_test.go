package wire

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"github.com/google/go-cmp/cmp"
)

// unhex decodes annotated hex. It ignores white space, "|" and everything from "#" to the end
// of a line.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		for _, f := range strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '|' || r == '\n' || r == '\t' }) {
			digits.WriteString(f)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("bad hex in the test: %v", err)
	}
	return b
}

func v4(a, b, c, d byte) ctnetlink.Addr { return ctnetlink.Addr{a, b, c, d} }

func v6(a, b byte) ctnetlink.Addr {
	return ctnetlink.Addr{0x20, 0x01, 0x0d, 0xb8, 0, a, 15: b}
}

func tuple4(proto uint8, src, dst ctnetlink.Addr) ctnetlink.Tuple {
	return ctnetlink.Tuple{Family: nl.FamilyIPv4, Proto: proto, Src: src, Dst: dst, Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto}
}

func tuple6(proto uint8, src, dst ctnetlink.Addr) ctnetlink.Tuple {
	t := tuple4(proto, src, dst)
	t.Family = nl.FamilyIPv6
	return t
}

func ports(t ctnetlink.Tuple, src, dst uint16) ctnetlink.Tuple {
	t.SrcPort, t.DstPort = src, dst
	t.Has |= ctnetlink.TuplePorts
	return t
}

func icmp(t ctnetlink.Tuple, typ, code uint8, id uint16) ctnetlink.Tuple {
	t.ICMPType, t.ICMPCode, t.ICMPID = typ, code, id
	t.Has |= ctnetlink.TupleICMP
	return t
}

var (
	client = v4(192, 0, 2, 2)
	server = v4(198, 51, 100, 2)
	outer  = v4(198, 51, 100, 1) // the firewall's address towards the server
)

// flowDump is a message of a C daemon and the flow that it contains.
type flowDump struct {
	name   string
	hex    string
	header Header
	enc    Encoder
	flow   ctnetlink.Flow  // as received
	reply  ctnetlink.Tuple // in the sender's kernel; the flow's translations follow from it
}

// flowDumps are messages of conntrackd, with documentation addresses. Messages with small
// sequence numbers are composed of attributes of several messages.
var flowDumps = []flowDump{
	{
		name: "TCP new with source NAT",
		hex: `
			10 00 00 4c 6b 03 8c c7              # new, length 76, sequence number
			00 0c 00 00 c0 00 02 02 c6 33 64 02  # original source and destination
			00 08 00 05 00 00 01 98              # status
			00 05 00 02 06 00 00 00              # protocol
			00 08 00 03 82 35 00 50              # ports 33333, 80
			00 05 00 04 01 00 00 00              # SYN_SENT
			00 08 00 06 00 00 00 78              # timeout 120
			00 08 00 0c c6 33 64 01              # source becomes 198.51.100.1
			00 06 00 0e 41 9c 00 00              # and port 40001, little-endian`,
		header: Header{Type: FlowNew, Seq: 0x6b038cc7},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTCPState | ctnetlink.HasTimeout | ctnetlink.HasNATSrc,
			Orig:   ports(tuple4(ctnetlink.ProtoTCP, client, server), 33333, 80),
			Status: 0x198, TCPState: 1, Timeout: 120,
			NATSrc: ctnetlink.NAT{Addr: outer, HasAddr: true, Port: 40001, HasPort: true},
		},
		reply: ports(tuple4(ctnetlink.ProtoTCP, server, outer), 80, 40001),
	},
	{
		name: "its update",
		hex: `
			11 00 00 4c 6b 03 8c c8 | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 01 9e | 00 05 00 02 06 00 00 00
			00 08 00 03 82 35 00 50 | 00 05 00 04 03 00 00 00 | 00 08 00 06 00 06 97 80 | 00 08 00 0c c6 33 64 01 | 00 06 00 0e 41 9c 00 00`,
		header: Header{Type: FlowUpdate, Seq: 0x6b038cc8},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTCPState | ctnetlink.HasTimeout | ctnetlink.HasNATSrc,
			Orig:   ports(tuple4(ctnetlink.ProtoTCP, client, server), 33333, 80),
			Status: 0x19e, TCPState: 3, Timeout: 432000,
			NATSrc: ctnetlink.NAT{Addr: outer, HasAddr: true, Port: 40001, HasPort: true},
		},
		reply: ports(tuple4(ctnetlink.ProtoTCP, server, outer), 80, 40001),
	},
	{
		name:   "UDP new",
		hex:    `10 00 00 34 6b 03 8c cc | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 01 88 | 00 05 00 02 11 00 00 00 | 00 08 00 03 ad 9c 00 35 | 00 08 00 06 00 00 00 1e`,
		header: Header{Type: FlowNew, Seq: 0x6b038ccc},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTimeout,
			Orig:   ports(tuple4(ctnetlink.ProtoUDP, client, server), 44444, 53),
			Status: 0x188, Timeout: 30,
		},
		reply: ports(tuple4(ctnetlink.ProtoUDP, server, client), 53, 44444),
	},
	{
		name:   "UDP delete with HELLO_BACK from a node with CommitTimeout",
		hex:    `12 40 00 2c 6b 03 8e db | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 01 8a | 00 05 00 02 11 00 00 00 | 00 08 00 03 c7 39 00 35`,
		header: Header{Type: FlowDelete, Flags: HelloBack, Seq: 0x6b038edb},
		enc:    Encoder{OmitTimeout: true},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus,
			Orig:   ports(tuple4(ctnetlink.ProtoUDP, client, server), 51001, 53),
			Status: 0x18a,
		},
		reply: ports(tuple4(ctnetlink.ProtoUDP, server, client), 53, 51001),
	},
	{
		name: "ICMP echo without NAT",
		hex: `
			11 00 00 44 6b 03 8c ce | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 0a | 00 05 00 02 01 00 00 00
			00 05 00 16 08 00 00 00 | 00 05 00 17 00 00 00 00  # type, code
			00 06 00 18 34 12 00 00                            # identifier 0x1234, little-endian
			00 08 00 06 00 00 00 1e`,
		header: Header{Type: FlowUpdate, Seq: 0x6b038cce},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTimeout,
			Orig:   icmp(tuple4(ctnetlink.ProtoICMP, client, server), 8, 0, 0x1234),
			Status: 0xa, Timeout: 30,
		},
		reply: icmp(tuple4(ctnetlink.ProtoICMP, server, client), 0, 0, 0x1234),
	},
	{
		name: "IPv6 TCP with source NAT",
		hex: `
			11 00 00 70 6b 03 8c fd
			00 24 00 01 20010db8000100000000000000000002 20010db8000200000000000000000002
			00 08 00 05 00 00 01 9e | 00 05 00 02 06 00 00 00 | 00 08 00 03 82 36 00 50 | 00 05 00 04 03 00 00 00
			00 08 00 06 00 06 97 80 | 00 14 00 1d 20010db8000200000000000000000001 | 00 06 00 0e 15 a4 00 00`,
		header: Header{Type: FlowUpdate, Seq: 0x6b038cfd},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTCPState | ctnetlink.HasTimeout | ctnetlink.HasNATSrc,
			Orig:   ports(tuple6(ctnetlink.ProtoTCP, v6(1, 2), v6(2, 2)), 33334, 80),
			Status: 0x19e, TCPState: 3, Timeout: 432000,
			NATSrc: ctnetlink.NAT{Addr: v6(2, 1), HasAddr: true, Port: 42005, HasPort: true},
		},
		reply: ports(tuple6(ctnetlink.ProtoTCP, v6(2, 2), v6(2, 1)), 80, 42005),
	},
	{
		name: "IPv6 destination NAT of ICMPv6",
		hex: `
			10 00 00 70 00 00 00 01
			00 24 00 01 20010db8000100000000000000000002 20010db8000200000000000000000008
			00 08 00 05 00 00 01 88 | 00 05 00 02 3a 00 00 00
			00 05 00 16 80 00 00 00 | 00 05 00 17 00 00 00 00 | 00 06 00 18 35 12 00 00
			00 08 00 06 00 00 00 1e | 00 14 00 1e 20010db8000200000000000000000002`,
		header: Header{Type: FlowNew, Seq: 1},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasNATDst,
			Orig:   icmp(tuple6(ctnetlink.ProtoICMPv6, v6(1, 2), v6(2, 8)), 128, 0, 0x1235),
			Status: 0x188, Timeout: 30,
			NATDst: ctnetlink.NAT{Addr: v6(2, 2), HasAddr: true},
		},
		reply: icmp(tuple6(ctnetlink.ProtoICMPv6, v6(2, 2), v6(1, 2)), 129, 0, 0x1235),
	},
	{
		name: "related data channel with destination NAT and all the rest",
		hex: `
			10 00 00 d0 00 00 00 02
			00 0c 00 00 c0 00 02 02 c6 33 64 08 | 00 08 00 05 00 00 01 9f | 00 05 00 02 06 00 00 00 | 00 08 00 03 82 35 1f 90
			00 05 00 04 03 00 00 00 | 00 05 00 19 0a 00 00 00 | 00 05 00 1a 07 00 00 00  # state, window scales
			00 08 00 06 00 00 00 78 | 00 08 00 07 00 00 ab cd                            # timeout, mark
			00 0c 00 08 c0 00 02 02 c6 33 64 02 | 00 05 00 0a 06 00 00 00 | 00 08 00 0b 88 bb 00 15  # master
			00 08 00 0d c6 33 64 02 | 00 06 00 0f 50 00 00 00                            # destination NAT, port 80
			00 1c 00 10 57 68 5a 43 00000000 00000002 00000000 00000000 00000000         # sequence adjustment
			00 08 00 1b 66 74 70 00                                                      # helper ftp
			00 14 00 1c 00000002 00000002 00000000 00000000                              # labels 1 and 33
			00 10 00 1f 00000001 00000002 00000003                                       # synproxy its, isn, tsoff
			00 06 00 20 00 07 00 00                                                      # zone 7`,
		header: Header{Type: FlowNew, Seq: 2},
		enc:    Encoder{WindowTracking: true},
		flow: ctnetlink.Flow{
			Has: ctnetlink.HasStatus | ctnetlink.HasTCPState | ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply | ctnetlink.HasTimeout | ctnetlink.HasMark |
				ctnetlink.HasNATDst | ctnetlink.HasSeqAdjOrig | ctnetlink.HasSeqAdjReply | ctnetlink.HasHelper | ctnetlink.HasLabels | ctnetlink.HasSynproxy | ctnetlink.HasZone,
			Orig:   ports(tuple4(ctnetlink.ProtoTCP, client, v4(198, 51, 100, 8)), 33333, 8080),
			Master: ports(tuple4(ctnetlink.ProtoTCP, client, server), 35003, 21),
			Status: 0x19f, TCPState: 3, TCPWScaleOrig: 10, TCPWScaleRepl: 7, Timeout: 120, Mark: 0xabcd, Zone: 7,
			NATDst:     ctnetlink.NAT{Addr: server, HasAddr: true, Port: 80, HasPort: true},
			SeqAdjOrig: ctnetlink.SeqAdj{CorrectionPos: 0x57685a43, OffsetAfter: 2},
			Helper:     ctnetlink.Name{'f', 't', 'p'},
			Labels:     ctnetlink.Labels{2, 2}, LabelsLen: 4,
			Synproxy: ctnetlink.Synproxy{ITS: 1, ISN: 2, TSOff: 3},
		},
		reply: ports(tuple4(ctnetlink.ProtoTCP, server, client), 80, 33333),
	},
	{
		name: "SCTP",
		hex: `
			10 00 00 4c 00 00 00 03 | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 08 | 00 05 00 02 84 00 00 00 | 00 08 00 03 82 35 00 50
			00 05 00 11 01 00 00 00 | 00 08 00 12 00 00 00 00 | 00 08 00 13 01 02 03 04 | 00 08 00 06 00 00 00 0a`,
		header: Header{Type: FlowNew, Seq: 3},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasSCTPState | ctnetlink.HasSCTPVtagOrig | ctnetlink.HasSCTPVtagReply | ctnetlink.HasTimeout,
			Orig:   ports(tuple4(ctnetlink.ProtoSCTP, client, server), 33333, 80),
			Status: 8, SCTPState: 1, SCTPVtagReply: 0x01020304, Timeout: 10,
		},
		reply: ports(tuple4(ctnetlink.ProtoSCTP, server, client), 80, 33333),
	},
	{
		name: "DCCP",
		hex: `
			10 00 00 44 00 00 00 04 | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 08 | 00 05 00 02 21 00 00 00 | 00 08 00 03 82 35 00 50
			00 05 00 14 04 00 00 00 | 00 05 00 15 01 00 00 00 | 00 08 00 06 00 00 00 0a`,
		header: Header{Type: FlowNew, Seq: 4},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasDCCPState | ctnetlink.HasDCCPRole | ctnetlink.HasTimeout,
			Orig:   ports(tuple4(ctnetlink.ProtoDCCP, client, server), 33333, 80),
			Status: 8, DCCPState: 4, DCCPRole: 1, Timeout: 10,
		},
		reply: ports(tuple4(ctnetlink.ProtoDCCP, server, client), 80, 33333),
	},
	{
		name: "DCCP of a kernel that does not track it",
		hex: `
			10 00 00 34 00 00 00 04 | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 08 | 00 05 00 02 21 00 00 00 | 00 08 00 03 00 00 00 00
			00 08 00 06 00 00 00 0a`,
		header: Header{Type: FlowNew, Seq: 4},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTimeout,
			Orig:   tuple4(ctnetlink.ProtoDCCP, client, server),
			Status: 8, Timeout: 10,
		},
		reply: tuple4(ctnetlink.ProtoDCCP, server, client),
	},
	{
		name: "a protocol without ports",
		hex: `
			10 00 00 44 00 00 00 05 | 00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 08 | 00 05 00 02 59 00 00 00
			00 08 00 06 00 00 02 58 | 00 08 00 07 00 00 00 00 | 00 10 00 1f 00000000 00000000 00000000`,
		header: Header{Type: FlowNew, Seq: 5},
		flow: ctnetlink.Flow{
			Has:    ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasMark | ctnetlink.HasSynproxy,
			Orig:   tuple4(89, client, server),
			Status: 8, Timeout: 600,
		},
		reply: tuple4(89, server, client),
	},
}

func TestFlowDumpsRoundTrip(t *testing.T) {
	for _, d := range flowDumps {
		t.Run(d.name, func(t *testing.T) {
			raw := unhex(t, d.hex)

			kernel := d.flow
			kernel.Reply = d.reply
			kernel.Has &^= ctnetlink.HasNATSrc | ctnetlink.HasNATDst
			for name, f := range map[string]*ctnetlink.Flow{"from tuples": &kernel, "from translations": &d.flow} {
				got, err := d.enc.AppendFlow(nil, d.header, f)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, raw) {
					t.Errorf("%s:\n got %x\nwant %x", name, got, raw)
				}
			}

			var c Counters
			r := ReadDatagram(raw)
			m, ok := r.Next(&c)
			if !ok || m.Header != d.header || c != (Counters{}) {
				t.Fatalf("Next: %v, header %+v, counters %+v", ok, m.Header, c)
			}
			var f ctnetlink.Flow
			if err := ParseFlow(m.Body, &f); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d.flow, f); diff != "" {
				t.Errorf("parsed flow (-want +got):\n%s", diff)
			}
		})
	}
}

const expectHex = `
	13 00 00 b8 6b 03 8d 51
	00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 05 00 02 06 00 00 00 | 00 08 00 03 88 bb 00 15   # master
	00 0c 00 04 c6 33 64 02 c6 33 64 6f | 00 05 00 06 06 00 00 00 | 00 08 00 07 00 00 64 01   # expected
	00 0c 00 08 ff ff ff ff ff ff ff ff | 00 05 00 0a 06 00 00 00 | 00 08 00 0b 00 00 ff ff   # mask
	00 08 00 0c 00 00 01 2c | 00 08 00 0d 00 00 00 00 | 00 08 00 0e 00 00 00 00               # timeout, flags, class
	00 0c 00 0f 00 00 00 00 00 00 00 00 | 00 05 00 11 06 00 00 00                             # NAT address, protocol
	00 08 00 10 64 01 00 00 | 00 08 00 12 00 00 00 01                                         # NAT port, direction
	00 08 00 13 66 74 70 00                                                                   # helper ftp
	00 16 00 14 6e61742d666f6c6c6f772d6d617374657200 00 00                                    # nat-follow-master`

func expectDump() ctnetlink.Expect {
	x := ctnetlink.Expect{
		Has: ctnetlink.ExpectHasTimeout | ctnetlink.ExpectHasFlags | ctnetlink.ExpectHasClass | ctnetlink.ExpectHasNAT | ctnetlink.ExpectHasHelper | ctnetlink.ExpectHasFn,

		Master:   ports(tuple4(ctnetlink.ProtoTCP, client, server), 35003, 21),
		Tuple:    ports(tuple4(ctnetlink.ProtoTCP, server, v4(198, 51, 100, 111)), 0, 25601),
		Mask:     ports(tuple4(ctnetlink.ProtoTCP, v4(255, 255, 255, 255), v4(255, 255, 255, 255)), 0, 0xffff),
		Timeout:  300,
		NATTuple: ports(tuple4(ctnetlink.ProtoTCP, ctnetlink.Addr{}, ctnetlink.Addr{}), 25601, 0),
		NATDir:   1,
		Helper:   ctnetlink.Name{'f', 't', 'p'},
	}
	x.SetFn("nat-follow-master")
	return x
}

func TestExpectDumpRoundTrip(t *testing.T) {
	raw := unhex(t, expectHex)
	want := expectDump()
	h := Header{Type: ExpectNew, Seq: 0x6b038d51}
	got, err := Encoder{}.AppendExpect(nil, h, &want)
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%v\n got %x\nwant %x", err, got, raw)
	}
	var c Counters
	r := ReadDatagram(raw)
	m, ok := r.Next(&c)
	if !ok || m.Header != h {
		t.Fatalf("Next: %v, header %+v, counters %+v", ok, m.Header, c)
	}
	var x ctnetlink.Expect
	if err := ParseExpect(m.Body, &x); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, x); diff != "" {
		t.Errorf("parsed expectation (-want +got):\n%s", diff)
	}
}

// A C daemon on a kernel that does not track DCCP sends uninitialised memory as ports,
// different in every message.
func TestPortsOfUntrackedDCCPAreIgnored(t *testing.T) {
	raw := unhex(t, `00 0c 00 00 c0 00 02 02 c6 33 64 02 | 00 08 00 05 00 00 00 08 | 00 05 00 02 21 00 00 00 | 00 08 00 03 00 00 0b b8`)
	var f ctnetlink.Flow
	if err := ParseFlow(raw, &f); err != nil {
		t.Fatal(err)
	}
	if want := tuple4(ctnetlink.ProtoDCCP, client, server); f.Orig != want {
		t.Errorf("got %+v, want %+v", f.Orig, want)
	}
}

func TestIPv6ExpectationKeepsItsTranslation(t *testing.T) {
	want := expectDump()
	for _, tup := range []*ctnetlink.Tuple{&want.Master, &want.Tuple, &want.Mask, &want.NATTuple} {
		tup.Family = nl.FamilyIPv6
	}
	raw, err := Encoder{OmitTimeout: true}.AppendExpect(nil, Header{Type: ExpectDelete}, &want)
	if err != nil {
		t.Fatal(err)
	}
	want.Timeout = 0
	want.Has &^= ctnetlink.ExpectHasTimeout
	var x ctnetlink.Expect
	if err := ParseExpect(raw[HeaderLen:], &x); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, x); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestControlMessages(t *testing.T) {
	for _, c := range []struct {
		hex    string
		header Header
		kind   Kind
	}{
		{"1a 30 00 08 6b 03 95 8b", Header{Type: Control, Flags: Alive | Hello, Seq: 0x6b03958b}, KindAlive},
		{"1a 10 00 08 6b 03 8e 55", Header{Type: Control, Flags: Alive, Seq: 0x6b038e55}, KindAlive},
		{"1a 08 00 10 6b 03 8c c7 6b 03 8c c6 6b 03 8c c8", Header{Control, Ack, 0x6b038cc7, 0x6b038cc6, 0x6b038cc8}, KindAck},
		{"1a 28 00 10 00 00 00 01 00 00 00 02 00 00 00 03", Header{Control, Ack | Hello, 1, 2, 3}, KindAck},
		{"1a 68 00 10 6b 03 95 8b 6b 03 95 8b 6b 03 95 8b", Header{Control, Ack | Hello | HelloBack, 0x6b03958b, 0x6b03958b, 0x6b03958b}, KindAck},
		{"1a 04 00 10 6b 03 8d 7b 6b 03 8d c1 6b 03 8d c6", Header{Control, Nack, 0x6b038d7b, 0x6b038dc1, 0x6b038dc6}, KindNack},
		{"1a 02 00 10 6b 03 8e ad 00 00 00 00 00 00 00 00", Header{Control, Resync, 0x6b038ead, 0, 0}, KindResync},
	} {
		raw := unhex(t, c.hex)
		if got := AppendControl(nil, c.header); !bytes.Equal(got, raw) {
			t.Errorf("%+v:\n got %x\nwant %x", c.header, got, raw)
		}
		var n Counters
		r := ReadDatagram(raw)
		m, ok := r.Next(&n)
		if !ok || m.Header != c.header || m.Kind() != c.kind || len(m.Body) != 0 {
			t.Errorf("%x: %v, %+v kind %d, counters %+v", raw, ok, m.Header, m.Kind(), n)
		}
	}
}
