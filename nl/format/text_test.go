package format

import (
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
)

func check(t *testing.T, name, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", name, got, want)
	}
}

func TestFlowText(t *testing.T) {
	const v4a, v4b = "192.0.2.1", "192.0.2.2"
	names := make([]string, 128)
	names[1], names[40] = "one", "forty"
	tests := []struct {
		name  string
		f     *ctnetlink.Flow
		style Style
		event *Event
		want  string
	}{
		{"tcp", ftpControl(), Style{}, nil,
			"tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=34746 dport=21 packets=5 bytes=290 src=192.0.2.2 dst=192.0.2.1 sport=21 dport=34746 packets=4 bytes=232 [ASSURED] mark=0 delta-time=1 helper=ftp use=1"},
		{"udp in a zone", flow(ports(tuple(17, v4a, v4b), 10, 53), timeout(999), status(8), mark(0), zone(7), use(1)), Style{}, nil,
			"udp      17 999 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=53 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=53 dport=10 mark=0 zone=7 use=1"},
		{"default zone", flow(ports(tuple(17, v4a, v4b), 10, 53), zone(0)), Style{}, nil,
			"udp      17 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=53 src=192.0.2.2 dst=192.0.2.1 sport=53 dport=10"},
		{"zones of the directions", flow(ports(tuple(17, v4a, v4b), 10, 53), origZone(3), replyZone(4)), Style{}, nil,
			"udp      17 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=53 zone-orig=3 src=192.0.2.2 dst=192.0.2.1 sport=53 dport=10 zone-reply=4"},
		{"udplite", flow(ports(tuple(136, v4a, v4b), 1000, 53), timeout(999), status(8), mark(0), use(1)), Style{}, nil,
			"udplite  136 999 src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=53 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=53 dport=1000 mark=0 use=1"},
		{"sctp", flow(ports(tuple(132, v4a, v4b), 1000, 53), timeout(999), sctp(4, 1, 2), status(8), mark(0), use(1)), Style{}, nil,
			"sctp     132 999 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=53 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=53 dport=1000 mark=0 use=1"},
		{"sctp heartbeat", flow(ports(tuple(132, v4a, v4b), 1, 2), sctp(9, 1, 2)), Style{}, nil,
			"sctp     132 HEARTBEAT_ACKED src=192.0.2.1 dst=192.0.2.2 sport=1 dport=2 src=192.0.2.2 dst=192.0.2.1 sport=2 dport=1"},
		{"gre", flow(ports(tuple(47, v4a, v4b), 16, 77), timeout(999), status(8), mark(0), use(1)), Style{}, nil,
			"gre      47 999 src=192.0.2.1 dst=192.0.2.2 srckey=0x10 dstkey=0x4d [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 srckey=0x4d dstkey=0x10 mark=0 use=1"},
		{"icmp", flow(icmp(tuple(1, v4a, v4b), 8, 0, 1226), timeout(999), status(8), mark(0), use(1)), Style{}, nil,
			"icmp     1 999 src=192.0.2.1 dst=192.0.2.2 type=8 code=0 id=1226 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 type=0 code=0 id=1226 mark=0 use=1"},
		{"icmpv6", flow(icmp(tuple(58, "2001:db8::1", "2001:db8::2"), 128, 0, 1226), timeout(999), status(8), mark(0), use(1)), Style{}, nil,
			"icmpv6   58 999 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=1226 [UNREPLIED] src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=1226 mark=0 use=1"},
		{"unknown protocol", flow(tuple(200, v4a, v4b), timeout(999), status(8), mark(0), use(1)), Style{}, nil,
			"unknown  200 999 src=192.0.2.1 dst=192.0.2.2 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 mark=0 use=1"},
		{"zone of the reply", flow(tuple(203, v4a, v4b), timeout(8), status(8), replyZone(4), mark(0), use(1)), Style{}, nil,
			"unknown  203 8 src=192.0.2.1 dst=192.0.2.2 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 zone-reply=4 mark=0 use=1"},
		{"dccp", flow(ports(tuple(33, v4a, v4b), 10, 20), timeout(30), dccpState(3), status(6)), Style{}, nil,
			"dccp     33 30 PARTOPEN src=192.0.2.1 dst=192.0.2.2 sport=10 dport=20 src=192.0.2.2 dst=192.0.2.1 sport=20 dport=10 [ASSURED]"},
		{"dccp without a tracker", flow(tuple(33, v4a, v4b), timeout(99)), Style{}, nil,
			"dccp     33 99 src=192.0.2.1 dst=192.0.2.2 sport=0 dport=0 src=192.0.2.2 dst=192.0.2.1 sport=0 dport=0"},
		{"offloaded in hardware", flow(ports(tuple(6, v4a, v4b), 10, 20), timeout(30), status(0xc006)), Style{}, nil,
			"tcp      6 30 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=20 src=192.0.2.2 dst=192.0.2.1 sport=20 dport=10 [HW_OFFLOAD]"},
		{"offloaded", flow(ports(tuple(6, v4a, v4b), 10, 20), status(0x4006)), Style{}, nil,
			"tcp      6 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=20 src=192.0.2.2 dst=192.0.2.1 sport=20 dport=10 [OFFLOAD]"},
		{"security", flow(ports(tuple(6, v4a, v4b), 10, 20), timeout(30), counters(3, 4, 3, 4), status(6), mark(4294967295), secmark(5), secctx("system_u:object_r:x"), zone(9), started(100*second), helper("ftp"), use(2)), Style{}, nil,
			"tcp      6 30 src=192.0.2.1 dst=192.0.2.2 sport=10 dport=20 packets=3 bytes=4 src=192.0.2.2 dst=192.0.2.1 sport=20 dport=10 packets=3 bytes=4 [ASSURED] mark=4294967295 secmark=5 secctx=system_u:object_r:x zone=9 delta-time=100 helper=ftp use=2"},
		{"ktimestamp, id, extended", ftpControl(), Style{KTimestamp: true, ID: true, Extended: true}, nil,
			"ipv4     2 tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=34746 dport=21 packets=5 bytes=290 src=192.0.2.2 dst=192.0.2.1 sport=21 dport=34746 packets=4 bytes=232 [ASSURED] mark=0 delta-time=1 [start=Mon Nov 23 01:00:26 2026] helper=ftp use=1 id=2072818273"},
		{"stop, one-digit day, zone", flow(tuple(200, v4a, v4b), started(20*24*3600*second), stopped(second)), Style{KTimestamp: true, Location: time.FixedZone("x", 3600)}, nil,
			"unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1 delta-time=1727999 [start=Tue Nov  3 02:00:27 2026] [stop=Mon Nov 23 02:00:26 2026]"},
		{"born after now", flow(tuple(200, v4a, v4b), func(f *ctnetlink.Flow) {
			f.TimestampStart = uint64(now) + 5*second
			f.Has |= ctnetlink.HasTimestampStart
		}), Style{}, nil,
			"unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1 delta-time=0"},
		{"extended IPv6", flow(tuple(200, "::1.2.3.4", "::ffff:1.2.3.4")), Style{Extended: true}, nil,
			"ipv6     10 unknown  200 src=::1.2.3.4 dst=::ffff:1.2.3.4 src=::ffff:1.2.3.4 dst=::1.2.3.4"},
		{"extended unknown family", flow(ctnetlink.Tuple{Family: 7, Proto: 17, Has: ctnetlink.TupleProto}), Style{Extended: true}, nil,
			"unknown  7 udp      17 sport=0 dport=0 sport=0 dport=0"},
		{"labels", flow(tuple(200, v4a, v4b), mark(0), use(1), labels(1, 3, 40)), Style{Labels: names}, nil,
			"unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1 mark=0 use=1 labels=one,forty"},
		{"labels without a name", flow(tuple(200, v4a, v4b), labels(3)), Style{Labels: names}, nil,
			"unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1 labels"},
		{"new", flow(ports(tuple(6, v4a, v4b), 1000, 80), timeout(100), tcpState(1), status(8), mark(7)), Style{}, &Event{Type: New, PortID: 18895, Progname: "conntrack"},
			"    [NEW] tcp      6 100 SYN_SENT src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=80 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=80 dport=1000 mark=7 [USERSPACE] portid=18895 progname=conntrack"},
		{"update", flow(ports(tuple(6, v4a, v4b), 1000, 80), timeout(99), tcpState(1), status(8), mark(9)), Style{}, &Event{Type: Update, PortID: 3363541974},
			" [UPDATE] tcp      6 99 SYN_SENT src=192.0.2.1 dst=192.0.2.2 sport=1000 dport=80 [UNREPLIED] src=192.0.2.2 dst=192.0.2.1 sport=80 dport=1000 mark=9 [USERSPACE] portid=3363541974"},
		{"destroy", flow(icmp(tuple(58, "2001:db8::1", "2001:db8::2"), 128, 0, 5), counters(0, 0, 0, 0), status(8), started(0)), Style{}, &Event{Type: Destroy, PortID: 18894, Progname: "conntrack"},
			"[DESTROY] icmpv6   58 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=5 packets=0 bytes=0 [UNREPLIED] src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=5 packets=0 bytes=0 delta-time=0 [USERSPACE] portid=18894 progname=conntrack"},
		{"timestamp", flow(tuple(200, v4a, v4b)), Style{Timestamp: true, Extended: true}, &Event{Type: New, Time: 1795395726001234999},
			"[1795395726.001234]\t    [NEW] ipv4     2 unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1"},
		{"timestamp long ago", flow(tuple(200, v4a, v4b)), Style{Timestamp: true}, &Event{Type: New, Time: 42e9},
			"[00000042.000000]\t    [NEW] unknown  200 src=192.0.2.1 dst=192.0.2.2 src=192.0.2.2 dst=192.0.2.1"},
		{"nothing known", &ctnetlink.Flow{}, Style{}, nil, ""},
		{"cached", ftpControl(), Style{Without: CacheWithout}, nil,
			"tcp      6 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=34746 dport=21 src=192.0.2.2 dst=192.0.2.1 sport=21 dport=34746 [ASSURED] mark=0 delta-time=1 helper=ftp"},
		{"cached, from a peer", flow(ports(tuple(47, v4a, v4b), 0, 0), status(8), mark(0), func(f *ctnetlink.Flow) { f.Reply = ctnetlink.Tuple{} }), Style{Without: CacheWithout}, nil,
			"gre      47 src=192.0.2.1 dst=192.0.2.2 srckey=0x0 dstkey=0x0 [UNREPLIED] mark=0"},
	}
	for _, tt := range tests {
		tt.style.Now = now
		check(t, tt.name, string(AppendFlow(nil, tt.f, &tt.style, tt.event)), tt.want)
	}
}

func TestExpectText(t *testing.T) {
	const tail = "proto=6 src=192.0.2.2 dst=192.0.2.1 sport=0 dport=5142 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.0.2.1 master-dst=192.0.2.2 sport=41840 dport=21"
	sip := ftpData()
	sip.Zone, sip.Flags, sip.Class = 5, 7, 1
	sip.Has |= ctnetlink.ExpectHasZone | ctnetlink.ExpectHasFlags
	sip.Helper.Set("sip-20000")
	tests := []struct {
		name  string
		x     *ctnetlink.Expect
		style Style
		event *Event
		want  string
	}{
		{"listed", ftpData(), Style{}, nil, "298 " + tail + " class=0 helper=ftp"},
		{"extended changes nothing", ftpData(), Style{Extended: true, ID: true, KTimestamp: true, Format: Save}, nil, "298 " + tail + " class=0 helper=ftp"},
		{"new", ftpData(), Style{}, &Event{Type: New}, "    [NEW] 298 " + tail + " class=0 helper=ftp"},
		{"flags", sip, Style{}, &Event{Type: New}, "    [NEW] 298 " + tail + " zone=5 PERMANENT,INACTIVE,USERSPACE class=1 helper=sip-20000"},
		{"timestamp", ftpData(), Style{Timestamp: true}, &Event{Time: 1795395810001234000}, "[1795395810.001234]\t298 " + tail + " class=0 helper=ftp"},
		{"cached", ftpData(), Style{WithoutExpect: ctnetlink.ExpectHasTimeout}, nil, tail + " class=0 helper=ftp"},
		{"bare", &ctnetlink.Expect{}, Style{}, nil, ""},
	}
	for _, tt := range tests {
		check(t, tt.name, string(AppendExpect(nil, tt.x, &tt.style, tt.event)), tt.want)
	}
}

func TestFlowSave(t *testing.T) {
	const v4a, v4b = "192.0.2.1", "192.0.2.2"
	dnat := flow(ports(tuple(6, v4a, v4b), 10, 20), timeout(499), status(0x18a|ctnetlink.StatusDstNATDone), tcpState(9))
	setAddr(&dnat.Reply.Src, "192.0.2.3")
	dnat.Reply.SrcPort = 80
	snat := flow(ports(tuple(17, "2001:db8::1", "2001:db8::2"), 10, 20), status(0x4|ctnetlink.StatusSrcNATDone))
	setAddr(&snat.Reply.Dst, "2001:db8::3")
	dccp := flow(ports(tuple(33, v4a, v4b), 10, 20), dccpState(4), func(f *ctnetlink.Flow) { f.DCCPRole = 1; f.Has |= ctnetlink.HasDCCPRole })
	tests := []struct {
		name  string
		f     *ctnetlink.Flow
		style Style
		event *Event
		want  string
	}{
		{"tcp", ftpControl(), Style{}, nil,
			"-A -t 431999 -u SEEN_REPLY,ASSURED -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p tcp --sport 34746 --dport 21 --reply-port-src 21 --reply-port-dst 34746 --state ESTABLISHED"},
		{"destination NAT", dnat, Style{}, nil,
			"-A -t 499 -u SEEN_REPLY -s 192.0.2.1 -d 192.0.2.2 -g 192.0.2.3 -q 192.0.2.1 -p tcp --sport 10 --dport 20 --reply-port-src 80 --reply-port-dst 10 --state SYN_SENT2"},
		{"source NAT", snat, Style{}, nil,
			"-A -u ASSURED -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -n 2001:db8::3 -p udp --sport 10 --dport 20 --reply-port-src 20 --reply-port-dst 10"},
		{"NAT that changed nothing", flow(tuple(203, v4a, v4b), status(2|ctnetlink.StatusSrcNATDone|ctnetlink.StatusDstNATDone)), Style{}, nil,
			"-A -u SEEN_REPLY -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p 203"},
		{"zone of the original", flow(tuple(203, v4a, v4b), origZone(3)), Style{}, nil,
			"-A --orig-zone 3 -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p 203"},
		{"zone of the reply", flow(tuple(203, v4a, v4b), timeout(8), status(8), replyZone(4), mark(3)), Style{}, nil,
			"-A -t 8 -u UNSET --reply-zone 4 -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p 203"},
		{"gre", flow(ports(tuple(47, v4a, v4b), 16, 77), timeout(999), status(8)), Style{}, nil,
			"-A -t 999 -u UNSET -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p gre --srckey 16 --dstkey 77 --reply-key-src 77 --reply-key-dst 16"},
		{"icmp", flow(icmp(tuple(1, v4a, v4b), 8, 0, 3), status(0x40a), secmark(2), zone(7)), Style{}, nil,
			"-A -u SEEN_REPLY,FIXED_TIMEOUT -c 2 -w 7 -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 3"},
		{"icmpv6", flow(icmp(tuple(58, "2001:db8::1", "2001:db8::2"), 128, 0, 3)), Style{Delete: true}, nil,
			"-D -s 2001:db8::1 -d 2001:db8::2 -r 2001:db8::2 -q 2001:db8::1 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 3"},
		{"sctp", flow(ports(tuple(132, v4a, v4b), 5, 6), sctp(8, ctnetlink.CommandVtag(67305985), ctnetlink.CommandVtag(7))), Style{}, &Event{Type: Update},
			"-U -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p sctp --sport 5 --dport 6 --reply-port-src 6 --reply-port-dst 5 --state HEARTBEAT_SENT --orig-vtag 67305985 --reply-vtag 7"},
		{"dccp", dccp, Style{}, &Event{Type: New},
			"-A -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p dccp --sport 10 --dport 20 --reply-port-src 20 --reply-port-dst 10 --state OPEN --role server"},
		{"dccp without a tracker", flow(tuple(33, v4a, v4b), timeout(99), status(8)), Style{}, nil,
			"-A -t 99 -u UNSET -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p dccp"},
		{"destroy", flow(ports(tuple(17, v4a, v4b), 5555, 53), timeout(29), status(2)), Style{}, &Event{Type: Destroy, PortID: 21371, Progname: "conntrack"},
			"-D -t 29 -u SEEN_REPLY -s 192.0.2.1 -d 192.0.2.2 -r 192.0.2.2 -q 192.0.2.1 -p udp --sport 5555 --dport 53 --reply-port-src 53 --reply-port-dst 5555 [USERSPACE] portid=21371 progname=conntrack"},
	}
	for _, tt := range tests {
		tt.style.Format = Save
		check(t, tt.name, string(AppendFlow(nil, tt.f, &tt.style, tt.event)), tt.want)
	}
}
