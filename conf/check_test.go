package conf

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lab is a host on which a good configuration has no findings: lo, eth0 with a
// service address, sync0 and sync1 as dedicated links, and some odd devices.
func lab() Env {
	sysctls := map[string]string{"net/netfilter/nf_conntrack_max": "262144", "net/netfilter/nf_conntrack_acct": "1", "net/netfilter/nf_conntrack_events": "2"}
	return Env{
		Interfaces: func() ([]Interface, error) {
			return []Interface{
				{Name: "lo", MTU: 65536, Up: true, Loopback: true, Addresses: addrs("127.0.0.1", "::1")},
				{Name: "eth0", MTU: 1500, Up: true, Multicast: true, Addresses: addrs("198.51.100.1")},
				{Name: "sync0", MTU: 1500, Up: true, Multicast: true, Addresses: addrs("192.0.2.1", "2001:db8::1")},
				{Name: "sync1", MTU: 1500, Up: true, Multicast: true, Addresses: addrs("203.0.113.1")},
				{Name: "down0", MTU: 1500, Multicast: true, Addresses: addrs("192.0.2.65")},
				{Name: "tiny0", MTU: 575, Up: true, Addresses: addrs("192.0.2.129")},
			}, nil
		},
		Creatable: func(path string) error {
			switch {
			case strings.HasPrefix(path, "/ro/"):
				return &fs.PathError{Op: "access", Path: "/ro", Err: unix.EROFS}
			case strings.HasPrefix(path, "/missing/"):
				return &fs.PathError{Op: "stat", Path: "/missing", Err: unix.ENOENT}
			}
			return nil
		},
		Type: func(path string) (fs.FileMode, bool) {
			types := map[string]fs.FileMode{"/run/locked": 0, "/run/precious": 0, "/run/empty": 0, "/run/stale": fs.ModeSocket, "/run/link": fs.ModeSymlink,
				"/run/ctbox": fs.ModeDir}
			mode, ok := types[path]
			return mode, ok
		},
		Head: func(path string) string {
			return map[string]string{"/run/locked": "1234\n", "/run/precious": "do not lose\n"}[path]
		},
		Kernel: func(f Feature) error { return nil },
		Sysctl: func(path string) (string, error) {
			if v, ok := sysctls[path]; ok {
				return v, nil
			}
			return "", fs.ErrNotExist
		},
	}
}

const unixPath = "General { UNIX { Path /run/x } }\n"

func TestCheck(t *testing.T) {
	const link = "UDP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.2 Port 3780 Interface sync0 }"
	const group = "Multicast { IPv4_address 225.0.0.50 IPv4_interface 192.0.2.1 Group 3780 Interface sync0 }"
	sync := func(links string) string { return unixPath + "Sync { Mode FTFW { }\n" + links + " }" }
	for _, tt := range []struct {
		src  string
		want []string // each begins with the letter of the severity
	}{
		{sync(link), nil},
		{sync(group), nil},
		{sync(group + " Multicast { IPv4_address 225.0.0.51 IPv4_interface 203.0.113.1 Group 3781 Interface sync1 }"), nil},
		{sync("TCP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 Port 3780 Interface sync0 }"), nil},
		{sync("Multicast { IPv6_address ff08::1 Group 3780 Interface sync0 }"), nil},
		{sync("UDP { IPv4_address 127.0.0.2 IPv4_Destination_Address 127.0.0.2 Port 3780 Interface lo }"), nil},
		{unixPath + "Stats { LogFile on }", nil},
		{unixPath + "Helper { Type ftp inet tcp { } Type ftp inet6 tcp { QueueNum 1 } }", nil},

		{"", []string{"C no Path in UNIX: the daemon could not be controlled", "C neither Sync nor Stats nor Helper nor Export: the daemon would do nothing"}},
		{"Stats { }", []string{"C no Path in UNIX: the daemon could not be controlled"}},
		{"General { UNIX { Path /missing/x } LogFile /ro/log LockFile /ro/lock }\nStats { LogFile /ro/stats }", []string{
			"F 1:36: cannot create LogFile /ro/log: /ro: read-only file system",
			"F 1:52: cannot create LockFile /ro/lock: /ro: read-only file system",
			"F 1:18: cannot create Path /missing/x: /missing: no such file or directory",
			"F 2:9: cannot create stats LogFile /ro/stats: /ro: read-only file system"}},
		{"General { UNIX { Path /run/x } LockFile /run/locked LogFile /x }\nStats { LogFile //x }", []string{
			"C 2:9: the flows and the daemon's messages go to one LogFile"}},
		{"General { UNIX { Path /run/x } LockFile /run/empty }\nStats { }", []string{
			"N 1:32: lockfile `/run/empty' exists, perhaps conntrackd already running?"}},
		{"General { UNIX { Path /run/stale } LockFile /run/precious }\nStats { }", []string{
			"F 1:36: LockFile /run/precious exists and is not a lock file"}},
		{"General { UNIX { Path /run/precious } }\nStats { }", []string{"F 1:18: Path /run/precious exists and is not a socket"}},
		{"General { UNIX { Path /run/link } }\nStats { }", []string{"F 1:18: Path /run/link exists and is not a socket"}},
		{"General { UNIX { Path /run/x } NetlinkBufferSize 2 NetlinkBufferSizeMaxGrowth 1\nScheduler { Priority 0 } HashLimit 5 }\nStats { }", []string{
			"C 1:32: NetlinkBufferSize is greater than NetlinkBufferSizeMaxGrowth, the default is used instead",
			"C 2:13: Priority 0 is no priority of a real-time policy: these are 1 to 99",
			"N 2:26: HashLimit 5 is below net.netfilter.nf_conntrack_max, 262144: a full table does not fit the cache"}},
		{"General { UNIX { Path /run/x } NetlinkBufferSize 2 }\nStats { }", nil}, // no maximum, none that it could exceed
		{"General { UNIX { Path /run/x } NetlinkBufferSizeFixed on NetlinkBufferSize 2 }\nStats { }", []string{
			"C 1:58: NetlinkBufferSize has no effect without NetlinkBufferSizeMaxGrowth where NetlinkBufferSizeFixed is on, " +
				"the system's default is used instead"}},
		{"General { UNIX { Path /run/x } PollSecs 5 NetlinkEventsReliable on }\nStats { }", []string{"N 1:43: NetlinkEventsReliable has no effect with PollSecs"}},
		{"General { UNIX { Path /run/x } Filter { Protocol Accept { } Address Accept { } } }\nStats { }", []string{
			"C 1:41: Protocol Accept with an empty list drops every flow", "C 1:61: Address Accept with an empty list drops every flow"}},
		{"General { UNIX { Path /run/x } Filter { Mark Accept { } Zone Accept { } } }\nStats { }", []string{
			"C 1:41: Mark Accept with an empty list drops every flow", "C 1:57: Zone Accept with an empty list drops every flow"}},
		{"General { UNIX { Path /run/x } Filter { Address Accept { IPv4_address 192.0.2.1 } } }\nStats { }", []string{
			"N 1:41: Address Accept lists no IPv6 address, so every IPv6 flow is dropped"}},
		{"General { UNIX { Path /run/x } Filter { Address Accept { IPv6_address ::1 } } }\nStats { }", []string{
			"N 1:41: Address Accept lists no IPv4 address, so every IPv4 flow is dropped"}},

		{unixPath + "Export ipfix { Collector 192.0.2.9 Records { nat flow } Destinations off }", nil},
		{unixPath + "Export json { File /flows } Export json { File - Records nat Destinations off }", nil},
		{unixPath + "Export ipfix { }", []string{"F 2:1: Export ipfix has no Collector"}},
		{unixPath + "Export ipfix { Collector 192.0.2.9 File /a }", []string{"F 2:1: Export ipfix goes to a Collector only; File, Socket and Syslog are for json"}},
		{unixPath + "Export json { Collector 192.0.2.9 }", []string{"F 2:1: Export json goes to a File, Socket or Syslog; Collector is for ipfix"}},
		{unixPath + "Export json { File /a Syslog 192.0.2.9 }", []string{"F 2:1: Export json needs one of File, Socket and Syslog, and has 2"}},
		{unixPath + "Export json { File /a Records { } }", []string{"F 2:1: Export json has an empty list of Records"}},
		{unixPath + "Export json { File /ro/a }", []string{"F 2:15: cannot create File /ro/a: /ro: read-only file system"}},
		{unixPath + "Export json { File /a Records { nat flow } Destinations off }", []string{
			"N 2:23: Records nat adds nothing to Records flow as json, which has the begin and the end of each flow",
			"N 2:44: Destinations off has no effect on Records flow"}},
		{unixPath + "Export ipfix { Collector 192.0.2.9 Records nat ActiveTimeout 5 }\nExport ipfix { Collector 192.0.2.9 Port 4739 }", []string{
			"N 2:48: ActiveTimeout has no effect without Records flow",
			"C 3:1: another Export goes to 192.0.2.9:4739, too"}},
		{unixPath + "Export json { File /a Filter { Protocol Accept { } } }", []string{"C 2:32: Protocol Accept with an empty list drops every flow"}},

		{unixPath + "Sync { }", []string{"F 2:1: no dedicated link: one Multicast, UDP or TCP clause is needed"}},
		{unixPath + "Sync { Mode FTFW { ACKWindowSize 1 }\n" + link + " }", []string{"C 2:20: ACKWindowSize 1 makes nodes with conntrack-tools acknowledge acknowledgements for ever"}},
		{unixPath + "General { PollSecs 1 } Sync { Options { ExpectationSync on }\n" + link + " }", []string{"N 2:41: ExpectationSync has no effect with PollSecs on nodes with conntrack-tools"}},
		{unixPath + "Sync { Delay { TCP 3 MinPackets 3 }\n" + link + " }", nil}, // the lab counts packets
		{unixPath + "Sync { Delay { TCP 0 }\n" + link + " }", []string{"C 2:16: Delay delays nothing: it has neither TCP nor UDP nor Default"}},
		{unixPath + "Sync { Mode NOTRACK { DisableInternalCache on } Delay { UDP 3 }\n" + link + " }", []string{
			"C 2:57: Delay has no effect with DisableInternalCache: without that cache flows have no place to wait"}},
		{unixPath + "Sync { Mode FTFW { DisableExternalCache on } Delay { UDP 3 }\n" + link + " }", []string{
			"C 2:54: Delay with DisableExternalCache: where packets of a flow take paths over both nodes, the other node does not " +
				"know the flow until the delay ends"}},
		{sync("Ready { File /run/ctbox/ready } " + link), []string{
			"N 3:9: Weight 60 must exceed the difference between the nodes' priorities in keepalived.conf"}},
		{sync("Ready { File /run/new/ready Weight 20 } " + link), []string{
			"N 3:29: Weight 20 must exceed the difference between the nodes' priorities in keepalived.conf",
			"C 3:9: no directory /run/new: keepalived tracks nothing in it unless it is there first"}},
		{sync("Ready { File /run/stale/ready } " + link), []string{
			"N 3:9: Weight 60 must exceed the difference between the nodes' priorities in keepalived.conf",
			"C 3:9: /run/stale is not a directory"}},
		{strings.Replace(sync("Ready { File /run/link } "+link), "FTFW", "NOTRACK", 1), []string{
			"N 3:9: Weight 60 must exceed the difference between the nodes' priorities in keepalived.conf",
			"C 3:9: Mode NOTRACK does not repair what is lost: a node counts as in sync that may lack flows",
			"C 3:9: File /run/link exists and is not a plain file"}},
		{sync("Ready { File /run//x Weight 1 } " + link), []string{"F 3:9: File /run//x is Path, too"}},
		{sync("UDP { IPv4_address 192.0.2.1 Port 3780 Interface sync0 } Cluster { Name a Node 1 x Key 1 /k\n" +
			"Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), nil},
		{sync("UDP { Port 3780 Interface sync0 }\nCluster { Name a Node 1 x Key 1 /k AllowPlain on\n" +
			"Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), []string{
			"C 4:36: AllowPlain on is for a migration only: datagrams that are not sealed can be forged",
			"N 3:1: without IPv4_address the link listens on every address"}},
		{sync(link + "\nCluster { Name a Node 1 x AllowPlain on Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), []string{
			"C 4:1: Cluster has no Key: flows cross the link in the clear, and can be forged"}},
		{sync(link + "\nCluster { Name a Node 1 x Key 1 /k HotStandby on Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), []string{
			"N 4:36: HotStandby keeps the peers' flows in this kernel, too: each costs about 350 bytes of kernel memory, 87 MB at most, " +
				"and about 10 µs of CPU time when it begins, changes or ends, and four times an hour",
			"C 4:36: net.netfilter.nf_conntrack_max is 262144: with HotStandby the table has up to 524288 flows (HashLimit for each of 2 nodes), " +
				"and a full one takes no flow of a peer and no new connection"}},
		{"General { HashLimit 131072 } " + sync(link+"\nCluster { Name a Node 1 x Key 1 /k HotStandby on Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), []string{
			"N 4:36: HotStandby keeps the peers' flows in this kernel, too: each costs about 350 bytes of kernel memory, 43 MB at most, " +
				"and about 10 µs of CPU time when it begins, changes or ends, and four times an hour"}},
		{"General { HashLimit 131071 } " + sync(link+"\nCluster { Name a Node 1 x Key 1 /k HotStandby on Peer 2 y { IPv4_Destination_Address 192.0.2.2 } }"), []string{
			"N 1:11: HashLimit 131071 is below net.netfilter.nf_conntrack_max, 262144: a full table of 2 nodes' flows does not fit their caches",
			"N 4:36: HotStandby keeps the peers' flows in this kernel, too: each costs about 350 bytes of kernel memory, 43 MB at most, " +
				"and about 10 µs of CPU time when it begins, changes or ends, and four times an hour"}},
		{sync("UDP { }"), []string{"F 3:1: the UDP link needs a Port from 1 to 65535",
			"F 3:1: the UDP link needs the peer's address, in IPv4_Destination_Address or IPv6_Destination_Address",
			"F 3:1: the UDP link needs an Interface"}},
		{sync("Multicast { Group 0 }"), []string{"F 3:13: the Multicast link needs a Group from 1 to 65535",
			"F 3:1: the Multicast link needs the group's address, in IPv4_address or IPv6_address",
			"F 3:1: the Multicast link needs an Interface"}},
		{sync(strings.Replace(link, "sync0", "nosuch", 1)), []string{"F 3:75: nosuch is an invalid interface: the daemon would wait for it"}},
		{sync(strings.Replace(link, "sync0", "eth0", 1)), []string{"C 3:7: 192.0.2.1 is an address of sync0, not of eth0"}},
		{sync(strings.Replace(link, "192.0.2.1 ", "192.0.2.9 ", 1)), []string{"F 3:7: 192.0.2.9 is no address of this host"}},
		{sync(strings.Replace(link, "192.0.2.2", "192.0.2.1", 1)), []string{"F 3:30: the peer's address is the local one"}},
		{sync(strings.Replace(link, "192.0.2.2", "225.0.0.50", 1)), []string{"F 3:30: 225.0.0.50 is no address of a peer"}},
		{sync(strings.Replace(link, "IPv4_address 192.0.2.1", "", 1)), []string{"N 3:1: without IPv4_address the link listens on every address"}},
		{sync(strings.Replace(link, "IPv4_address 192.0.2.1", "IPv6_address 2001:db8::1", 1)), []string{
			"F 3:32: the local address 2001:db8::1 and the peer's, 192.0.2.2, are not of one family"}},
		{sync("UDP { IPv4_address 192.0.2.65 IPv4_Destination_Address 192.0.2.66 Port 1 Interface down0 }"), []string{"C 3:74: down0 is down"}},
		{sync("UDP { IPv4_address 192.0.2.129 IPv4_Destination_Address 192.0.2.130 Port 1 Interface tiny0 }"), []string{"C 3:76: tiny0 has an MTU of 575, messages need 576"}},
		{sync("Multicast { IPv4_address 225.0.0.1 IPv4_interface 192.0.2.129 Group 1 Interface tiny0 }"), []string{
			"C 3:71: tiny0 has an MTU of 575, messages need 576", "F 3:71: tiny0 has no multicast"}},
		{sync(strings.Replace(group, "225.0.0.50", "192.0.2.50", 1)), []string{"F 3:13: 192.0.2.50 is no multicast address"}},
		{sync(strings.Replace(group, "IPv4_interface 192.0.2.1", "", 1)), nil},
		{sync(strings.Replace(group, "IPv4_interface 192.0.2.1", "IPv4_interface 192.0.2.9", 1)), []string{"F 3:37: 192.0.2.9 is no address of this host"}},
		{sync(strings.Replace(group, "IPv4_interface 192.0.2.1", "IPv4_interface 203.0.113.1", 1)), []string{"C 3:37: 203.0.113.1 is an address of sync1, not of sync0"}},
		{sync(strings.Replace(group, "IPv4_address 225.0.0.50", "IPv6_address ff08::1", 1)), []string{"N 3:34: IPv4_interface has no effect with an IPv6 group"}},
		{sync("Multicast { IPv6_address ff08::1 IPv4_interface 192.0.2.9 Group 3780 Interface sync0 }"), []string{"N 3:34: IPv4_interface has no effect with an IPv6 group"}},
		{strings.Replace(sync(strings.Replace(link, "Interface", "Accept 198.51.100.0/24 Also 192.0.2.3 Interface", 1)), "FTFW", "NOTRACK", 1), nil},
		{sync(strings.Replace(link, "Interface", "Also 192.0.2.3 Interface", 1)), []string{
			"F 3:75: Also 192.0.2.3 needs Mode NOTRACK or ALARM: FTFW is for two nodes"}},
		{strings.Replace(sync(strings.Replace(link, "Interface", "Also 2001:db8::3 Interface", 1)), "FTFW", "ALARM", 1), []string{
			"F 3:75: Also 2001:db8::3 is not of the family of the link's 192.0.2.2"}},
		{strings.Replace(sync(strings.Replace(link, "Interface", "Also 192.0.2.2 Interface", 1)), "FTFW", "ALARM", 1), []string{
			"C 3:75: Also 192.0.2.2 is the peer's address: it is sent everything twice"}},
		{sync(strings.Replace(link, "Interface", "Accept 2001:db8::3 Interface", 1)), []string{
			"N 3:75: Accept 2001:db8::3/128 has no effect on an IPv4 link"}},
		{sync("UDP { IPv4_address 127.0.0.1 IPv4_Destination_Address 127.0.0.2 Port 3780 Interface lo }"), []string{
			"N 3:30: 127.0.0.2 is an address of this host: a relay there is heard only if it sends from that address and through lo; " +
				"Accept names others"}},
		{sync(strings.Replace(link, "192.0.2.2", "203.0.113.1", 1)), []string{
			"N 3:30: 203.0.113.1 is an address of this host: a relay there is heard only if it sends from that address and through " +
				"sync0; Accept names others"}},
		{sync(strings.Replace(link, "IPv4_Destination_Address 192.0.2.2", "IPv4_Destination_Address 203.0.113.1 Accept 127.0.0.3", 1)), nil},
		{sync(group + "\n" + group), []string{"C 4:62: the links share a group and a port: each receives what is for the other"}},
		{sync(link + "\n" + link), []string{"F 4:65: port 3780 of that address belongs to the link before"}},
		{sync("UDP { IPv4_Destination_Address 192.0.2.2 Port 3780 Interface sync0 }\n" +
			"UDP { IPv6_Destination_Address 2001:db8::2 Port 3780 Interface sync0 }"), []string{
			"N 3:1: without IPv4_address the link listens on every address", "N 4:1: without IPv6_address the link listens on every address"}},
		{sync("UDP { IPv4_Destination_Address 192.0.2.2 Port 3780 Interface sync0 }\n" + link), []string{
			"N 3:1: without IPv4_address the link listens on every address", "F 4:65: port 3780 of that address belongs to the link before"}},

		{unixPath + "Helper { }", []string{"C 2:1: Helper without any Type does nothing"}},
		{unixPath + "Helper { Type ftp inet tcp { }\nType tftp inet udp { } Type ftp inet tcp { QueueNum 1 } }", []string{
			"N 3:1: QueueNum 0 is that of Type ftp, too; in conntrack-tools the packets of both are one helper's",
			"C 3:24: Type ftp inet tcp is there already, and the first one counts"}},
	} {
		c, _ := mustParse(t, tt.src)
		found := c.Check(lab())
		compareFindings(t, tt.src, found, tt.want)
		// CheckFile finds the same, except what depends on the host.
		ofFile := slices.DeleteFunc(slices.Clone(found), func(f Finding) bool { return f.Host })
		if got := c.CheckFile(); !slices.Equal(got, ofFile) {
			t.Errorf("%s:\n got %q\nwant %q", tt.src, got, ofFile)
		}
	}
}

func compareFindings(t *testing.T, src string, found []Finding, want []string) {
	t.Helper()
	var got []string
	for _, f := range found {
		got = append(got, string("NCF"[f.Severity])+" "+strings.TrimPrefix(strings.TrimPrefix(f.String(), "x.conf:"), " "))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", src, got, want)
	}
}

// TestCheckKernel checks configurations on a host whose kernel lacks what they need.
func TestCheckKernel(t *testing.T) {
	poor := lab()
	poor.Interfaces = func() ([]Interface, error) { return nil, errors.New("no netlink") }
	poor.Kernel = func(f Feature) error { return errors.New("no " + string(f) + " here") }
	poor.Sysctl = func(string) (string, error) { return "0", nil }
	const link = "UDP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.2 Port 3780 Interface sync0 }"
	for _, tt := range []struct {
		src  string
		want []string
	}{
		{unixPath + "Sync { " + link + " }", []string{"F 2:1: cannot list the interfaces: no netlink", "F cannot use the kernel's ctnetlink: no ctnetlink here"}},
		{unixPath + "Stats { }", []string{"N 2:1: net.netfilter.nf_conntrack_acct is 0: flows have no packet and byte counts",
			"F cannot use the kernel's ctnetlink: no ctnetlink here"}},
		{unixPath + "Helper { Type ftp inet tcp { } }", []string{
			"F 2:1: cannot use the kernel's nfqueue, which Helper needs: no nfqueue here",
			"F 2:1: cannot use the kernel's cthelper, which Helper needs: no cthelper here"}},
	} {
		c, _ := mustParse(t, tt.src)
		found := c.Check(poor)
		compareFindings(t, tt.src, found, tt.want)
		if i := slices.IndexFunc(found, func(f Finding) bool { return !f.Host }); i >= 0 {
			t.Errorf("%s: %q is about the file", tt.src, found[i])
		}
	}

	quiet := lab()
	quiet.Sysctl = func(path string) (string, error) {
		if path == "net/netfilter/nf_conntrack_events" {
			return "0", nil
		}
		return "1", nil
	}
	c, _ := mustParse(t, unixPath+"Stats { }")
	compareFindings(t, "no events", c.Check(quiet), []string{
		"F net.netfilter.nf_conntrack_events is 0: the kernel sends no events, set it to 1 or use PollSecs"})
	c, _ = mustParse(t, unixPath+"General { PollSecs 5 } Stats { }")
	compareFindings(t, "polling", c.Check(quiet), nil)
}
