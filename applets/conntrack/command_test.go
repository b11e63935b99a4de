package conntrack

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func addr(s string) (a ctnetlink.Addr) {
	ip := netip.MustParseAddr(s)
	copy(a[:], ip.AsSlice())
	return a
}

// tuple4 is a tuple of IPv4 addresses with a protocol.
func tuple4(proto uint8, src, dst string) ctnetlink.Tuple {
	return ctnetlink.Tuple{Family: nl.FamilyIPv4, Proto: proto, Src: addr(src), Dst: addr(dst),
		Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto}
}

func withPorts(t ctnetlink.Tuple, src, dst uint16) ctnetlink.Tuple {
	t.SrcPort, t.DstPort = src, dst
	t.Has |= ctnetlink.TuplePorts
	return t
}

func withICMP(t ctnetlink.Tuple, typ, code uint8, id uint16) ctnetlink.Tuple {
	t.ICMPType, t.ICMPCode, t.ICMPID = typ, code, id
	t.Has |= ctnetlink.TupleICMP
	return t
}

const (
	hostA, hostB, hostC = "192.0.2.1", "198.51.100.2", "203.0.113.3"
)

func mustParse(t testing.TB, line string) Command {
	t.Helper()
	p, _ := testParser(t)
	c, text, _ := parseLine(t, p, line)
	if text != accepted {
		t.Fatalf("%s: %s", line, text)
	}
	return c
}

// TestNewFlowTuples: what is not given for one direction comes from the other.
// The comment on the right says what conntrack-tools sends where it differs.
func TestNewFlowTuples(t *testing.T) {
	const tcp = " -p tcp -t 10 --state NONE"
	ab := tuple4(ctnetlink.ProtoTCP, hostA, hostB)
	ba := tuple4(ctnetlink.ProtoTCP, hostB, hostA)
	pingAB, pingBA := ab, ba
	pingAB.Proto, pingBA.Proto = ctnetlink.ProtoICMP, ctnetlink.ProtoICMP
	for _, c := range []struct {
		line        string
		orig, reply ctnetlink.Tuple
	}{
		{"-s A -d B" + tcp + " --sport 1 --dport 2", withPorts(ab, 1, 2), withPorts(ba, 2, 1)},
		{"-r B -q A" + tcp + " --reply-port-src 2 --reply-port-dst 1", withPorts(ab, 1, 2), withPorts(ba, 2, 1)},
		{"-r B -q A" + tcp + " --sport 1 --dport 2", withPorts(ab, 1, 2), withPorts(ba, 2, 1)},                                // protocol 0
		{"-s A -d B" + tcp + " --reply-port-src 2 --reply-port-dst 1", withPorts(ab, 1, 2), withPorts(ba, 2, 1)},              // ports 0
		{"-s A -d B -r C" + tcp + " --sport 1 --dport 2", withPorts(ab, 1, 2), withPorts(tuple4(6, hostC, hostA), 2, 1)},      // a reply to 0.0.0.0 of protocol 0
		{"-s A -d B -r C -q A" + tcp + " --sport 1 --dport 2", withPorts(ab, 1, 2), withPorts(tuple4(6, hostC, hostA), 2, 1)}, // a reply of protocol 0
		{"-s A -d B" + tcp + " --sport 1 --dport 2 --reply-port-src 9", withPorts(ab, 1, 2), withPorts(ba, 9, 1)},             // 9 ignored
		{"-s A -d B -r C -q A" + tcp + " --sport 1 --dport 2 --reply-port-src 9 --reply-port-dst 1", withPorts(ab, 1, 2), withPorts(tuple4(6, hostC, hostA), 9, 1)},
		{"-s A -d B -p icmp -t 10 --icmp-type 8 --icmp-code 0 --icmp-id 5", withICMP(pingAB, 8, 0, 5), withICMP(pingBA, 0, 0, 5)},
		{"-p icmp -t 10 --icmp-type 8 --icmp-code 0 --icmp-id 5 -s A -d B -r B -q A", withICMP(pingAB, 8, 0, 5), withICMP(pingBA, 0, 0, 5)}, // a reply of protocol 0
		{"-r B -q A -p icmp -t 10 --icmp-type 8 --icmp-code 0 --icmp-id 5", withICMP(pingAB, 8, 0, 5), withICMP(pingBA, 0, 0, 5)},           // reply type 255
		{"-s A -d B -p icmp -t 10 --icmp-type 3 --icmp-code 1", withICMP(pingAB, 3, 1, 0), withICMP(pingBA, ctnetlink.NoICMPAnswer, 1, 0)},
		{"-r B -q A -p 200 -t 10", tuple4(200, hostA, hostB), tuple4(200, hostB, hostA)},
		{"-s A -d B -p gre -t 10 --srckey 0x10 --dstkey 077", withPorts(tuple4(ctnetlink.ProtoGRE, hostA, hostB), 16, 63), withPorts(tuple4(ctnetlink.ProtoGRE, hostB, hostA), 63, 16)},
	} {
		line := strings.NewReplacer(" A", " "+hostA, " B", " "+hostB, " C", " "+hostC).Replace(" " + c.line)
		for _, command := range []string{"-I", "-A"} {
			f := mustParse(t, command+line).Flow
			if diff := cmp.Diff(c.orig, f.Orig); diff != "" {
				t.Errorf("%s%s: original (-want +got):\n%s", command, line, diff)
			}
			if diff := cmp.Diff(c.reply, f.Reply); diff != "" {
				t.Errorf("%s%s: reply (-want +got):\n%s", command, line, diff)
			}
		}
	}
}

// TestFlowFields looks at what options leave in the flow.
func TestFlowFields(t *testing.T) {
	const pair = " -s 192.0.2.1 -d 198.51.100.2"
	type fields struct {
		Has                ctnetlink.Attr
		Status, StatusMask uint32
		Mark, MarkMask     uint32
		Timeout, ID        uint32
		Secmark            uint32
		Zone               uint16
	}
	for _, c := range []struct {
		line string
		want fields
	}{
		{"-L", fields{}},
		{"-L -u SEEN_REPLY", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, Status: 2, StatusMask: 2}},
		{"-L -u assured,see", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, Status: 6, StatusMask: 6}},
		{"-L -u UNREPLIED", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, StatusMask: 2}},
		{"-D -u !ASSURED", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, StatusMask: 4}},
		{"-D -u ASSURED,UNREPLIED", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, Status: 4, StatusMask: 6}},
		{"-L -u ASSURED -u SEEN_REPLY", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, Status: 6, StatusMask: 6}},
		{"-L -u !A,!E,HW", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask, Status: 0x8000, StatusMask: 0x8005}},
		{"-L -u UNSET", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask}},
		{"-L -u S", fields{Has: ctnetlink.HasStatus | ctnetlink.HasStatusMask}},
		{"-U -u FIXED", fields{Has: ctnetlink.HasStatus, Status: 0x400}},
		{"-U -u !ASSURED", fields{Has: ctnetlink.HasStatus}},
		{"-I -p 200 -t 5 -u A" + pair, fields{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout, Status: 0xc, Timeout: 5}},
		{"-I -p 200 -t 5 -u UNSET" + pair, fields{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout, Status: 0x8, Timeout: 5}},
		{"-L -m 5", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 5, MarkMask: 0xffffffff}},
		{"-L -m 0x10/010", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 16, MarkMask: 8}},
		{"-L -m 5/0", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 5}},
		{"-L -m 5/4294967295", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 5, MarkMask: 0xffffffff}},
		{"-L -m 5/5", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 5, MarkMask: 5}},
		{"-U -m 5/3", fields{Has: ctnetlink.HasMark | ctnetlink.HasMarkMask, Mark: 5, MarkMask: 3}},
		{"-A -p 200 -t 5 -m 5/3" + pair, fields{Has: ctnetlink.HasMark | ctnetlink.HasTimeout, Mark: 5, MarkMask: 3, Timeout: 5}},
		{"-D -t 0", fields{Has: ctnetlink.HasTimeout}},
		{"-D -t 4294967295", fields{Has: ctnetlink.HasTimeout, Timeout: 4294967295}},
		{"-D -t 010", fields{Has: ctnetlink.HasTimeout, Timeout: 10}},
		{"-D -i 0xffffffff", fields{Has: ctnetlink.HasID, ID: 4294967295}},
		{"-L -c 7", fields{Has: ctnetlink.HasSecmark, Secmark: 7}},
		{"-L -w 0xff", fields{Has: ctnetlink.HasZone, Zone: 255}},
		{"-L -w 1 -w 2", fields{Has: ctnetlink.HasZone, Zone: 2}},
	} {
		f := mustParse(t, c.line).Flow
		got := fields{f.Has, f.Status, f.StatusMask, f.Mark, f.MarkMask, f.Timeout, f.ID, f.Secmark, f.Zone}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.line, got, c.want)
		}
	}
}

// TestCommandFields looks at what options leave in the command.
func TestCommandFields(t *testing.T) {
	for _, c := range []struct {
		line string
		want func(*Command)
	}{
		{"", func(c *Command) { c.Family = nl.FamilyIPv4 }},
		{"-L", func(c *Command) { c.Op = OpList }},
		{"-L dying", func(c *Command) { c.Op, c.Table = OpList, TableDying }},
		{"-L unc", func(c *Command) { c.Op, c.Table = OpList, TableUnconfirmed }},
		{"-L expect", func(c *Command) { c.Op, c.Table, c.Family = OpList, TableExpect, nl.FamilyIPv4 }},
		{"--dump=expect", func(c *Command) { c.Op, c.Table, c.Family = OpList, TableExpect, nl.FamilyIPv4 }},
		{"-Ce", func(c *Command) { c.Op, c.Table, c.Family = OpCount, TableExpect, nl.FamilyIPv4 }},
		{"-F", func(c *Command) { c.Op = OpFlush }},
		{"-F -f ipv6", func(c *Command) { c.Op, c.Family, c.Given = OpFlush, nl.FamilyIPv6, OptFamily }},
		{"-S", func(c *Command) { c.Op, c.Family = OpStats, nl.FamilyIPv4 }},
		{"-V", func(c *Command) { c.Op, c.Family = OpVersion, nl.FamilyIPv4 }},
		{"-h -p icmpv6", func(c *Command) {
			c.Op, c.Family, c.Given, c.HelpProto = OpHelp, nl.FamilyIPv4, OptProto, "icmpv6"
			c.Flow.Orig = ctnetlink.Tuple{Proto: ctnetlink.ProtoICMPv6, Has: ctnetlink.TupleProto}
		}},
		{"-h -p ipv6-icmp", func(c *Command) {
			c.Op, c.Family, c.Given, c.HelpProto = OpHelp, nl.FamilyIPv4, OptProto, "unknown"
			c.Flow.Orig = ctnetlink.Tuple{Proto: ctnetlink.ProtoICMPv6, Has: ctnetlink.TupleProto}
		}},
		{"-R x", func(c *Command) { c.Op, c.LoadFile = OpLoad, "x" }},
		{"--load-file -", func(c *Command) { c.Op, c.LoadFile = OpLoad, "-" }},
		{"-L -a x -z", func(c *Command) { c.Op, c.Given = OpList, OptZero }},
		{"-E -e n,DEST", func(c *Command) { c.Op, c.Given, c.Events = OpEvents, OptEventMask, EventNew|EventDestroy }},
		{"-E -e D", func(c *Command) { c.Op, c.Given = OpEvents, OptEventMask }},
		{"-E -e U -e all", func(c *Command) { c.Op, c.Given, c.Events = OpEvents, OptEventMask, EventAll }},
		{"-E -b 65536 --queue-size 0x100000", func(c *Command) {
			c.Op, c.Given, c.BufferSize, c.QueueSize = OpEvents, OptBufferSize|OptQueueSize, 65536, 1<<20
		}},
		{"-L -o xml,i -oext", func(c *Command) { c.Op, c.Given, c.Output = OpList, OptOutput, OutXML|OutID|OutExtended }},
		{"-L -o j", func(c *Command) { c.Op, c.Given, c.Output = OpList, OptOutput, OutJSON }},
		{"-L -s 192.0.2.7/25", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptSrc|OptMaskSrc, nl.FamilyIPv4
			c.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: addr("192.0.2.7"), Has: ctnetlink.TupleSrc}
			c.SrcMask = addr("255.255.255.128")
		}},
		{"-L -d 2001:db8::/29", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptDst|OptMaskDst, nl.FamilyIPv6
			c.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv6, Dst: addr("2001:db8::"), Has: ctnetlink.TupleDst}
			c.DstMask = addr("ffff:fff8::")
		}},
		{"-L -s 192.0.2.7/0", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptSrc|OptMaskSrc, nl.FamilyIPv4
			c.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: addr("192.0.2.7"), Has: ctnetlink.TupleSrc}
		}},
		{"-L -s 192.0.2.7/32", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptSrc, nl.FamilyIPv4
			c.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: addr("192.0.2.7"), Has: ctnetlink.TupleSrc}
		}},
		{"-L --mask-src 255.0.255.0 -s 192.0.2.7", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptSrc|OptMaskSrc, nl.FamilyIPv4
			c.Flow.Orig = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: addr("192.0.2.7"), Has: ctnetlink.TupleSrc}
			c.SrcMask = addr("255.0.255.0")
		}},
		{"-L -r 1 -q 0x7f.1", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptReplySrc|OptReplyDst, nl.FamilyIPv4
			c.Flow.Reply = ctnetlink.Tuple{Family: nl.FamilyIPv4, Src: addr("0.0.0.1"), Dst: addr("127.0.0.1"), Has: ctnetlink.TupleAddrs}
		}},
		{"-L -n", func(c *Command) { c.Op, c.Given = OpList, OptSrcNAT }},
		{"-L -n 192.0.2.7:80 -g192.0.2.8", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptSrcNAT|OptDstNAT, nl.FamilyIPv4
			c.SrcNAT = ctnetlink.NAT{Addr: addr("192.0.2.7"), Port: 80, HasAddr: true, HasPort: true}
			c.DstNAT = ctnetlink.NAT{Addr: addr("192.0.2.8"), HasAddr: true}
		}},
		{"-L --any-nat [2001:db8::7]:443", func(c *Command) {
			c.Op, c.Given, c.Family = OpList, OptAnyNAT, nl.FamilyIPv6
			c.AnyNAT = ctnetlink.NAT{Addr: addr("2001:db8::7"), Port: 443, HasAddr: true, HasPort: true}
		}},
		{"-L --orig-zone 5 '-)7'", func(c *Command) {
			c.Op, c.Given = OpList, OptOrigZone|OptReplyZone
			c.Flow.Orig = ctnetlink.Tuple{Zone: 5, Has: ctnetlink.TupleZone}
			c.Flow.Reply = ctnetlink.Tuple{Zone: 7, Has: ctnetlink.TupleZone}
		}},
		{"-D -p udp --sport 0 --dport 65535 --reply-port-src domain", func(c *Command) {
			c.Op, c.Given, c.HelpProto = OpDelete, OptProto, "udp"
			c.Flow.Orig = ctnetlink.Tuple{Proto: ctnetlink.ProtoUDP, DstPort: 65535, Has: ctnetlink.TuplePorts | ctnetlink.TupleProto}
			c.Flow.Reply = ctnetlink.Tuple{SrcPort: 53, Has: ctnetlink.TupleSrcPort}
		}},
	} {
		var want Command
		c.want(&want)
		got := mustParse(t, c.line)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.line, diff)
		}
	}
}

func TestLabelOptions(t *testing.T) {
	bits := func(labels ...int) (l ctnetlink.Labels) {
		for _, b := range labels {
			l.SetBit(b)
		}
		return l
	}
	for _, c := range []struct {
		line           string
		filter, add    LabelSet
		del            LabelSet
		delAll, hasMap bool
	}{
		{line: "-L"},
		{line: "-L -o labels", hasMap: true},
		{line: "-L -l one", filter: LabelSet{Bits: bits(1)}, hasMap: true},
		{line: "-L -l one,forty -l last", filter: LabelSet{Bits: bits(1, 40, 127)}, hasMap: true},
		{line: "-L -l 'far beyond,two'", filter: LabelSet{Bits: bits(2), Beyond: true}, hasMap: true},
		{line: "-U --label-add one,two -l forty", filter: LabelSet{Bits: bits(40)}, add: LabelSet{Bits: bits(1, 2)}, hasMap: true},
		{line: "-U --label-del one,two", del: LabelSet{Bits: bits(1, 2)}, hasMap: true},
		{line: "-U --label-del=two", del: LabelSet{Bits: bits(2)}, hasMap: true},
		{line: "-U '->two'", del: LabelSet{Bits: bits(2)}, hasMap: true},
		{line: "-U --label-del", delAll: true, hasMap: true},
		{line: "-U --label-del -m 1", delAll: true, hasMap: true},
	} {
		got := mustParse(t, c.line)
		if got.Labels != c.filter || got.LabelsAdd != c.add || got.LabelsDel != c.del ||
			got.LabelDelAll != c.delAll || (got.LabelMap != nil) != c.hasMap {
			t.Errorf("%s: %v %v %v %v %v", c.line, got.Labels, got.LabelsAdd, got.LabelsDel, got.LabelDelAll, got.LabelMap != nil)
		}
	}
}

// TestNewFlowNAT: -n and -g are set up, ports for TCP and UDP only.
func TestNewFlowNAT(t *testing.T) {
	nat := ctnetlink.NAT{Addr: addr(hostC), Port: 99, HasAddr: true, HasPort: true}
	addrOnly := ctnetlink.NAT{Addr: addr(hostC), HasAddr: true}
	const line = "-I -s 192.0.2.1 -d 198.51.100.2 --timeout 5 "
	for _, c := range []struct {
		line     string
		has      ctnetlink.Attr
		src, dst ctnetlink.NAT
	}{
		{"-p udp --sport 1 --dport 2 -n 203.0.113.3:99", ctnetlink.HasNATSrc, nat, ctnetlink.NAT{}},
		{"-p udp --sport 1 --dport 2 -g 203.0.113.3 -n 203.0.113.3:99", ctnetlink.HasNATSrc | ctnetlink.HasNATDst, nat, addrOnly},
		{"-p udplite --sport 1 --dport 2 -n 203.0.113.3:99", ctnetlink.HasNATSrc, addrOnly, ctnetlink.NAT{}},
		{"-p udp --sport 1 --dport 2 -n", 0, ctnetlink.NAT{}, ctnetlink.NAT{}},
	} {
		f := mustParse(t, line+c.line).Flow
		if f.Has&(ctnetlink.HasNATSrc|ctnetlink.HasNATDst) != c.has || f.NATSrc != c.src || f.NATDst != c.dst {
			t.Errorf("%s: %v %v %v", c.line, f.Has, f.NATSrc, f.NATDst)
		}
	}
}

// TestTCPFlags: see addTCPFlags.
func TestTCPFlags(t *testing.T) {
	const both = ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
	for _, c := range []struct {
		line  string
		value uint8
	}{
		{"-I -s 192.0.2.1 -d 198.51.100.2 -t 5 -p tcp --sport 1 --dport 2 --state ESTABLISHED", 0x0a},
		{"-A -s 192.0.2.1 -d 198.51.100.2 -t 5 -p 6 --sport 1 --dport 2 --state TIME_WAIT", 0x0e},
		{"-A -s 192.0.2.1 -d 198.51.100.2 -t 5 -p 6 --sport 1 --dport 2 --state CLOSE", 0x0e},
		{"-U -p tcp", 0x0a},
		{"-U", 0},
		{"-L -p tcp", 0},
		{"-I -s 192.0.2.1 -d 198.51.100.2 -t 5 -p udp --sport 1 --dport 2", 0},
	} {
		f := mustParse(t, c.line).Flow
		want := ctnetlink.TCPFlags{Value: c.value, Mask: c.value}
		if f.TCPFlagsOrig != want || f.TCPFlagsReply != want || (f.Has&both == both) != (c.value != 0) {
			t.Errorf("%s: %v %v", c.line, f.TCPFlagsOrig, f.TCPFlagsReply)
		}
	}
}

// TestProtocolStates: states, roles and verification tags.
func TestProtocolStates(t *testing.T) {
	f := mustParse(t, "-L -p tcp --state LISTEN").Flow
	if f.Has != ctnetlink.HasTCPState || f.TCPState != 9 {
		t.Errorf("LISTEN: %v, %d", f.Has, f.TCPState)
	}
	f = mustParse(t, "-U -p sctp --state SHUTDOWN_ACK_SENT --orig-vtag 67305985 --reply-vtag 4294967295").Flow
	if f.Has != ctnetlink.HasSCTPState|ctnetlink.HasSCTPVtagOrig|ctnetlink.HasSCTPVtagReply || f.SCTPState != 7 ||
		ctnetlink.CommandVtag(f.SCTPVtagOrig) != 67305985 || f.SCTPVtagReply != 0xffffffff {
		t.Errorf("SCTP: %v, %d, %x, %x", f.Has, f.SCTPState, f.SCTPVtagOrig, f.SCTPVtagReply)
	}
	f = mustParse(t, "-h -p dccp --state INVALID --role SERV").Flow
	if f.Has != ctnetlink.HasDCCPState|ctnetlink.HasDCCPRole || f.DCCPState != 9 || f.DCCPRole != 1 {
		t.Errorf("DCCP: %v, %d, %d", f.Has, f.DCCPState, f.DCCPRole)
	}
}

// TestWantedFlow: -G looks a flow up by its original tuple, else by its reply.
func TestWantedFlow(t *testing.T) {
	ab := withPorts(tuple4(ctnetlink.ProtoTCP, hostA, hostB), 1, 2)
	f := mustParse(t, "-G -s 192.0.2.1 -d 198.51.100.2 -p tcp --sport 1 --dport 2").Flow
	if f.Orig != ab || f.Reply != (ctnetlink.Tuple{}) {
		t.Errorf("by the original tuple: %+v %+v", f.Orig, f.Reply)
	}
	f = mustParse(t, "-G -s 192.0.2.1 -d 198.51.100.2 -p tcp --reply-port-src 2 --reply-port-dst 1").Flow
	if f.Orig != ab {
		t.Errorf("with the reply's ports: %+v", f.Orig)
	}
	f = mustParse(t, "-G -r 192.0.2.1 -q 198.51.100.2 -p tcp --reply-port-src 1 --reply-port-dst 2").Flow
	if f.Orig.Has&ctnetlink.TupleAddrs != 0 || f.Reply != ab {
		t.Errorf("by the reply tuple: %+v %+v", f.Orig, f.Reply)
	}
}

func TestExpectations(t *testing.T) {
	master := withPorts(tuple4(ctnetlink.ProtoTCP, hostA, hostB), 1, 21)
	wanted := withPorts(tuple4(ctnetlink.ProtoTCP, hostB, hostA), 0, 99)
	mask := withPorts(tuple4(ctnetlink.ProtoTCP, "255.255.255.0", "255.255.255.255"), 0, 65535)
	c := mustParse(t, "-I expect -s 192.0.2.1 -d 198.51.100.2 -p tcp --sport 1 --dport 21 -t 300 "+
		"--tuple-src 198.51.100.2/24 --tuple-dst 192.0.2.1 --mask-dst 255.255.255.255 "+
		"--tuple-port-src 0 --tuple-port-dst 99 --mask-port-src 0 --mask-port-dst 65535")
	want := ctnetlink.Expect{Has: ctnetlink.ExpectHasTimeout, Master: master, Tuple: wanted, Mask: mask, Timeout: 300}
	if diff := cmp.Diff(want, c.Expect); diff != "" {
		t.Errorf("-I expect (-want +got):\n%s", diff)
	}
	for _, op := range []string{"-D", "-G"} {
		c = mustParse(t, op+" expect -s 192.0.2.1 -d 198.51.100.2 -p tcp --sport 1 --dport 21 --reply-port-src 21 --reply-port-dst 1")
		if diff := cmp.Diff(ctnetlink.Expect{Tuple: master}, c.Expect); diff != "" {
			t.Errorf("%s expect (-want +got):\n%s", op, diff)
		}
	}
	c = mustParse(t, "-I expect -s 192.0.2.1 -d 198.51.100.2 -p icmp -t 5 --tuple-src 192.0.2.1/24 --tuple-dst 192.0.2.1/24")
	if want := withICMP(tuple4(ctnetlink.ProtoICMP, hostA, hostB), 0, 0, 0); c.Expect.Master != want {
		t.Errorf("an ICMP master: %+v", c.Expect.Master)
	}
}

// TestCommandsAreIndependent: nothing of one line is left for the next.
func TestCommandsAreIndependent(t *testing.T) {
	lines := []string{
		"-L -s 192.0.2.1/24 -n 203.0.113.3 -l one -o save -u ASSURED,!SEEN_REPLY -p tcp --state NONE -w 5",
		"-D", "-U --label-add one -m 5/3 -p tcp", "-U", "-R x", "-E -e NEW -b 5", "-h -p tcp",
		"-I expect -s 192.0.2.1 -d 198.51.100.2 -p icmp -t 5 --tuple-src 192.0.2.1/24 --tuple-dst 192.0.2.1/24",
		"-L expect", "-U --label-del", "-D -p 200", "foo", saveLines[0], "-D -p foo", saveLines[3],
	}
	p, _ := testParser(t)
	var reused Command
	for _, line := range append(lines, lines...) {
		var fresh Command
		one, _ := testParser(t)
		freshErr := one.Parse(words(line), &fresh)
		reusedErr := p.Parse(words(line), &reused)
		if (freshErr == nil) != (reusedErr == nil) {
			t.Fatalf("%s: %v and %v", line, freshErr, reusedErr)
		}
		if freshErr != nil {
			continue
		}
		sameMap := cmp.Comparer(func(a, b *LabelMap) bool { return (a == nil) == (b == nil) })
		if diff := cmp.Diff(fresh, reused, sameMap); diff != "" {
			t.Errorf("%s (-fresh +reused):\n%s", line, diff)
		}
	}
}
