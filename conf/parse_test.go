package conf

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sameConfig compares two Configs without the places in their files.
var sameConfig = cmp.Options{
	cmpopts.IgnoreUnexported(Config{}),
	cmpopts.IgnoreFields(Config{}, "File"),
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func mustParse(t testing.TB, src string) (*Config, []Warning) {
	t.Helper()
	c, warnings, err := Parse("x.conf", []byte(src))
	if err != nil {
		t.Fatalf("%v\nin: %s", err, src)
	}
	return c, warnings
}

// want returns the Config of an empty file after change.
func want(t *testing.T, change func(c *Config)) *Config {
	t.Helper()
	c := Default()
	change(c)
	return c
}

func newSync(change func(*Sync)) func(*Config) {
	return func(c *Config) {
		c.Sync = &Sync{
			ResendQueueSize: 131072, ACKWindowSize: 300,
			RefreshTime: time.Minute, CacheTimeout: 3 * time.Minute, PurgeTimeout: time.Minute,
			Delay: Delay{MinPackets: 3, Assured: true},
			Ready: Ready{Weight: 60, MaxLag: time.Second, StartGrace: 10 * time.Second, GiveUp: 5 * time.Minute},
		}
		change(c.Sync)
	}
}

func newCluster(change func(*Cluster)) func(*Config) {
	return newSync(func(s *Sync) {
		s.Cluster = &Cluster{Name: "a", Node: 1, NodeName: "fw1", Peers: []ClusterPeer{{Number: 2, Name: "fw2"}}}
		change(s.Cluster)
	})
}

func newLink(t Transport, change func(*Link)) func(*Config) {
	return newSync(func(s *Sync) {
		l := &Link{Transport: t, Default: true, Checksum: t != TCP}
		if t == TCP {
			l.ErrorQueueLength = 128
		}
		change(l)
		s.Links = []*Link{l}
	})
}

func general(change func(*General)) func(*Config) {
	return func(c *Config) { change(&c.General) }
}

func newStats(change func(*Stats)) func(*Config) {
	return func(c *Config) { c.Stats = &Stats{}; change(c.Stats) }
}

func newHelper(change func(*Helper)) func(*Config) {
	return func(c *Config) { c.Helper = &Helper{}; change(c.Helper) }
}

// newExport returns the change of an Export clause with its defaults.
func newExport(format ExportFormat, change func(*Export)) func(*Config) {
	return func(c *Config) {
		e := &Export{Format: format, Records: ExportFlows, Destinations: true, Domain: 1, TemplateRefresh: time.Minute, QueueLimit: 65536}
		change(e)
		c.Exports = append(c.Exports, e)
	}
}

func nothing[T any](*T) {}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func protocols(numbers ...uint8) (s ProtocolSet) {
	for _, n := range numbers {
		s.Add(n)
	}
	return s
}

func TestDefault(t *testing.T) {
	c, warnings := mustParse(t, "")
	if len(warnings) > 0 {
		t.Errorf("an empty file has warnings: %v", warnings)
	}
	want := &Config{General: General{
		HashSize: 65536, HashLimit: 262144, LockFile: "/var/lock/conntrackd.lock",
		NetlinkOverrunResync: 30 * time.Second, EventIterationLimit: 100, Systemd: true,
		Scheduler: Scheduler{Type: SchedulerRR, Priority: 99},
	}}
	for _, got := range []*Config{c, Default()} {
		if diff := cmp.Diff(want, got, sameConfig); diff != "" {
			t.Error(diff)
		}
	}
}

// clauseTests has every clause at least once, with all values and forms that
// conntrack-tools 1.4.9 understands.
var clauseTests = []struct {
	src  string
	want func(*Config)
}{
	{"General { }", nothing[Config]},
	{"# a comment without a newline", nothing[Config]},
	{"\xef\xbb\xbfGeneral{HashSize 5}# with a byte order mark\n", general(func(g *General) { g.HashSize = 5 })},
	{"General { HashSize 1 } General { HashLimit 2 HashSize 3#c\n }", general(func(g *General) { g.HashSize, g.HashLimit = 3, 2 })},
	{"General { HashSize 0 HashLimit 0 EventIterationLimit 0 NetlinkOverrunResync 0 }", nothing[Config]},
	{"General { LogFormat json }", general(func(g *General) { g.LogFormat = LogJSON })},
	{"General { Metrics { Listen 127.0.0.1:9107 } }", general(func(g *General) { g.MetricsListen = netip.MustParseAddrPort("127.0.0.1:9107") })},
	{"General { Metrics { Listen [::1]:65535 } }", general(func(g *General) { g.MetricsListen = netip.MustParseAddrPort("[::1]:65535") })},
	{"General { Metrics { Listen [::ffff:127.0.0.1]:1 } }", general(func(g *General) { g.MetricsListen = netip.MustParseAddrPort("127.0.0.1:1") })},
	{"General { Metrics { } }", nothing[Config]},
	{"General { LogFormat JSON LogFormat Text }", nothing[Config]},
	{"General { HashSize 0007 }", general(func(g *General) { g.HashSize = 7 })},
	{"General { HashSize 2147483647 }", general(func(g *General) { g.HashSize = 2147483647 })},
	{"General\r\n{\r\nHashLimit\r\n8\r\n}\r\n", general(func(g *General) { g.HashLimit = 8 })},
	{"General { HashSize # the number is in\n 9 # the next line\n}", general(func(g *General) { g.HashSize = 9 })},

	{"General { LogFile on }", general(func(g *General) { g.LogFile = "/var/log/conntrackd.log" })},
	{"General { LogFile YES }", general(func(g *General) { g.LogFile = "/var/log/conntrackd.log" })},
	{"General { LogFile off }", nothing[Config]},
	{"General { LogFile /tmp/x LogFile No }", general(func(g *General) { g.LogFile = "/tmp/x" })},
	{"General { LogFile on LogFile /tmp/x }", general(func(g *General) { g.LogFile = "/tmp/x" })},
	{"General { LogFile /" + strings.Repeat("x", 255) + " }", general(func(g *General) { g.LogFile = "/" + strings.Repeat("x", 255) })},
	{"General { LockFile /run/x }", general(func(g *General) { g.LockFile = "/run/x" })},

	{"General { Syslog on }", general(func(g *General) { g.Syslog = FacilityDaemon })},
	{"General { Syslog oN Syslog Off }", nothing[Config]},
	{"General { Syslog daemon }", general(func(g *General) { g.Syslog = FacilityDaemon })},
	{"General { Syslog local0 }", general(func(g *General) { g.Syslog = FacilityLocal0 })},
	{"General { Syslog local7 }", general(func(g *General) { g.Syslog = FacilityLocal7 })},
	{"General { Syslog local2 Syslog user }", general(func(g *General) { g.Syslog = FacilityLocal0 + 2*8 })},

	{"General { UNIX { } }", nothing[Config]},
	{"General { UNIX { Path /run/x Backlog 20 } }", general(func(g *General) { g.UNIXPath = "/run/x" })},
	{"General { UNIX { Path /" + strings.Repeat("x", 106) + " } }", general(func(g *General) { g.UNIXPath = "/" + strings.Repeat("x", 106) })},
	{"General { UNIX { Path /a;b#c{d}e } }", general(func(g *General) { g.UNIXPath = "/a;b#c{d}e" })},
	{"General { UNIX { Path /x} }", general(func(g *General) { g.UNIXPath = "/x" })},
	{"General{UNIX{Path /x}}", general(func(g *General) { g.UNIXPath = "/x" })},
	{"General { UNIX { Path /x\t# comment\n } }", general(func(g *General) { g.UNIXPath = "/x" })},
	{"General { UNIX { Path /x\r\n } }", general(func(g *General) { g.UNIXPath = "/x" })},
	{"General { UNIX { Path /\xc3\xa9 } }", general(func(g *General) { g.UNIXPath = "/\xc3\xa9" })},

	{"General { NetlinkBufferSize 1 NetlinkBufferSizeMaxGrowth 2 }", general(func(g *General) { g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth = 1, 2 })},
	{"General { SocketBufferSize 1 SocketBufferSizeMaxGrown 2 }", general(func(g *General) { g.NetlinkBufferSize, g.NetlinkBufferSizeMaxGrowth = 1, 2 })},
	{"General { SocketBufferSizeMaxGrowth 2 }", general(func(g *General) { g.NetlinkBufferSizeMaxGrowth = 2 })},
	{"General { NetlinkBufferSizeFixed Yes }", general(func(g *General) { g.NetlinkBufferSizeFixed = true })},
	{"General { NetlinkBufferSizeFixed on NetlinkBufferSizeFixed off }", nothing[Config]},
	{"General { NetlinkOverrunResync on }", nothing[Config]},
	{"General { NetlinkOverrunResync NO }", general(func(g *General) { g.NetlinkOverrunResync = 0 })},
	{"General { NetlinkOverrunResync 5 }", general(func(g *General) { g.NetlinkOverrunResync = 5 * time.Second })},
	{"General { NetlinkOverrunResync off NetlinkOverrunResync on }", nothing[Config]},
	{"General { NetlinkEventsReliable yes }", general(func(g *General) { g.NetlinkEventsReliable = true })},
	{"General { PollSecs 15 }", general(func(g *General) { g.PollInterval = 15 * time.Second })},
	{"General { PollSecs 2147483647 }", general(func(g *General) { g.PollInterval = 2147483647 * time.Second })},
	{"General { EventIterationLimit 7 }", general(func(g *General) { g.EventIterationLimit = 7 })},
	{"General { Systemd off }", general(func(g *General) { g.Systemd = false })},
	{"General { Systemd off Systemd on }", nothing[Config]},
	{"General { Nice -20 Nice +1 Nice -0 }", nothing[Config]},
	{"General { Scheduler { } }", nothing[Config]},
	{"General { Scheduler { Type fifo } }", general(func(g *General) { g.Scheduler.Type = SchedulerFIFO })},
	{"General { Scheduler { Priority 0 Type rR } }", general(func(g *General) { g.Scheduler.Priority = 0 })},
	{"General { Scheduler { Type FIFO Priority 20 } }", general(func(g *General) { g.Scheduler = Scheduler{SchedulerFIFO, 20} })},

	{"General { Filter { } }", nothing[Config]},
	{"General { Filter From Userspace { } }", nothing[Config]},
	{"General { Filter From Kernelspace { } }", general(func(g *General) { g.Filter.Kernelspace = true })},
	{"General { Filter From Kernelspace { Protocol Accept { TCP } } Filter { } }", general(func(g *General) {
		g.Filter.Protocol.Action, g.Filter.Protocol.Protocols = Accept, protocols(6)
	})},
	{"General { Filter { Protocol Accept { TCP UDP tcp SCTP dccp ICMP IPv6-ICMP UDPLite GRE 255 0 } } }", general(func(g *General) {
		g.Filter.Protocol.Action, g.Filter.Protocol.Protocols = Accept, protocols(6, 17, 132, 33, 1, 58, 136, 47, 255, 0)
	})},
	{"General { Filter { Protocol Ignore { TCP } Protocol Accept { UDP nosuch } } }", general(func(g *General) {
		g.Filter.Protocol.Action, g.Filter.Protocol.Protocols = Accept, protocols(6, 17)
	})},
	{"General { Filter { Protocol Accept { } Address Ignore { } State Accept { } } }", general(func(g *General) {
		g.Filter.Protocol.Action, g.Filter.Address.Action, g.Filter.State.Action = Accept, Ignore, Accept
	})},
	{"General { Filter { Mark Ignore { 0x1/0xff 7 0X07 0x0/0x10 } Zone Accept { 3 4 3 0 } } }", general(func(g *General) {
		g.Filter.Mark.Action, g.Filter.Mark.Marks = Ignore, []Mark{{1, 0xff}, {7, 1<<32 - 1}, {0, 0x10}}
		g.Filter.Zone.Action, g.Filter.Zone.Zones = Accept, []uint16{3, 4, 0}
	})},
	{"General { Filter { Mark Accept { 1 } Mark Ignore { } Zone Ignore { } } }", general(func(g *General) {
		g.Filter.Mark.Action, g.Filter.Mark.Marks, g.Filter.Zone.Action = Ignore, []Mark{{1, 1<<32 - 1}}, Ignore
	})},
	{"General { Filter { Address Ignore { IPv4_address 192.0.2.77/24 IPv4_address 192.0.2.1/32 IPv6_address 2001:DB8::1/32 IPv6_address ::1 } } }", general(func(g *General) {
		g.Filter.Address.Action = Ignore
		g.Filter.Address.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.1/32"),
			netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("::1/128")}
	})},
	{"General { Filter { Address Accept { IPv4_address 0300.0.2.010 IPv4_address 0.0.0.0/0 IPv6_address ::/0 } } }", general(func(g *General) {
		g.Filter.Address.Action = Accept
		g.Filter.Address.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.8/32"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	})},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.1 IPv4_address 192.0.2.1 } Address Ignore { IPv4_address 192.0.2.1 } } }", general(func(g *General) {
		g.Filter.Address.Action = Ignore
		g.Filter.Address.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	})},
	{"General { Filter { State Accept { SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK TIME_WAIT CLOSED LISTEN for TCP } } }", general(func(g *General) {
		g.Filter.State.Action, g.Filter.State.States = Accept, 0x3fe
	})},
	{"General { Filter { State Ignore { CLOSE for TCP for TCP ESTABLISHED ESTABLISHED for TCP } } }", general(func(g *General) {
		g.Filter.State.Action, g.Filter.State.States = Ignore, 1<<8|1<<3
	})},

	{"Sync { }", newSync(nothing[Sync])},
	{"Sync { Mode FTFW { } }", newSync(nothing[Sync])},
	{"Sync { Mode ftFW { ResendQueueSize 1 ACKWindowSize 2 CommitTimeout 3 PurgeTimeout 4 StartupResync on } }", newSync(func(s *Sync) {
		s.ResendQueueSize, s.ACKWindowSize, s.CommitTimeout, s.PurgeTimeout, s.StartupResync = 1, 2, 3*time.Second, 4*time.Second, true
	})},
	{"Sync { Mode FTFW { ResendQueueSize 0 ACKWindowSize 0 PurgeTimeout 0 CommitTimeout 0 DisableExternalCache yes } }", newSync(func(s *Sync) { s.DisableExternalCache = true })},
	{"Sync { Delay { } }", newSync(nothing[Sync])},
	{"Sync { Delay { TCP 3 UDP 5 Default 0 MinPackets 3 } }", newSync(func(s *Sync) { s.Delay.TCP, s.Delay.UDP = 3*time.Second, 5*time.Second })},
	{"Sync { Delay { Default 3600 MinPackets 0 Assured off } Delay { TCP 0 } }", newSync(func(s *Sync) {
		s.Delay = Delay{Default: MaxDelay}
	})},
	{"Sync { Mode nack { } }", newSync(nothing[Sync])},
	{"Sync { Mode alarm { RefreshTime 1 CacheTimeout 2 CommitTimeout 3 PurgeTimeout 4 } }", newSync(func(s *Sync) {
		s.Mode, s.RefreshTime, s.CacheTimeout, s.CommitTimeout, s.PurgeTimeout = ModeALARM, time.Second, 2*time.Second, 3*time.Second, 4*time.Second
	})},
	{"Sync { Mode persistent { RefreshTime 0 CacheTimeout 0 } }", newSync(func(s *Sync) { s.Mode = ModeALARM })},
	{"Sync { Mode PERSISTENT { } }", newSync(func(s *Sync) { s.Mode = ModeALARM })},
	{"Sync { Mode NoTrack { DisableInternalCache on DisableExternalCache on StartupResync on PurgeTimeout 4 } }", newSync(func(s *Sync) {
		s.Mode, s.DisableInternalCache, s.DisableExternalCache, s.StartupResync, s.PurgeTimeout = ModeNOTRACK, true, true, true, 4*time.Second
	})},
	{"Sync { Ready { } }", newSync(func(s *Sync) {})},
	{"Sync { Ready { File /run/ctbox/ready Weight 253 MaxLag 2 StartGrace 3 GiveUp 4 } }", newSync(func(s *Sync) {
		s.Ready = Ready{"/run/ctbox/ready", 253, 2 * time.Second, 3 * time.Second, 4 * time.Second}
	})},
	{"Sync { Ready { Weight 2 GiveUp off } Ready { MaxLag 0 } }", newSync(func(s *Sync) { s.Ready.Weight, s.Ready.GiveUp = 2, 0 })},
	{"Sync { Cluster { Name a Node 1 fw1 Peer 2 fw2 { } } }", newCluster(nothing[Cluster])},
	{"Sync { Cluster { Name x Node 3 x AllowPlain on } Cluster { Name a Node 1 fw1 Key 255 /k Peer 2 fw2 { Port 0 } AllowPlain off } }",
		newCluster(func(c *Cluster) { c.Keys, c.Send = []ClusterKey{{255, "/k"}}, 255 })},
	{"Sync { Cluster { HotStandby on Name a Node 1 fw1 Peer 2 fw2 { } } }", newCluster(func(c *Cluster) { c.HotStandby = true })},
	{"Sync { Cluster { AllowPlain yes Send 4 Key 3 /a Key 4 /b Peer 2 fw2 { Port 99 } Peer 16 A_b.c-9 { } Node 1 fw1 Name a } }",
		newCluster(func(c *Cluster) {
			c.Keys, c.Send, c.AllowPlain = []ClusterKey{{3, "/a"}, {4, "/b"}}, 4, true
			c.Peers[0].Port = 99
			c.Peers = append(c.Peers, ClusterPeer{Number: 16, Name: "A_b.c-9"})
		})},
	{"Sync { RefreshTime 1 CacheTimeout 2 CommitTimeout 3 PurgeTimeout 4 }", newSync(func(s *Sync) {
		s.RefreshTime, s.CacheTimeout, s.CommitTimeout, s.PurgeTimeout = time.Second, 2*time.Second, 3*time.Second, 4*time.Second
	})},
	{"Sync { Mode NOTRACK { CommitTimeout 5 } Mode ALARM { } }", newSync(func(s *Sync) { s.Mode, s.CommitTimeout = ModeALARM, 5*time.Second })},
	{"Sync { Mode FTFW { ACKWindowSize 5 } Mode NOTRACK { DisableExternalCache on DisableInternalCache on } }", newSync(func(s *Sync) {
		s.ACKWindowSize, s.DisableExternalCache = 5, true
	})},
	{"Sync { Mode NOTRACK { DisableExternalCache on StartupResync on CommitTimeout 5 } } Sync { Mode ALARM { } }", newSync(func(s *Sync) {
		s.Mode, s.CommitTimeout = ModeALARM, 5*time.Second
	})},
	{"Sync { CommitTimeout 5 Mode FTFW { DisableExternalCache on } }", newSync(func(s *Sync) { s.DisableExternalCache = true })},

	{"Sync { Multicast { } }", newLink(Multicast, nothing[Link])},
	{"Sync { Multicast Default { IPv4_address 225.0.0.50 Group 3780 IPv4_interface 192.0.2.1 Interface sync0 SndSocketBuffer 1 RcvSocketBuffer 2 Checksum off } }", newLink(Multicast, func(l *Link) {
		l.Address, l.Port, l.Local, l.Interface = addr("225.0.0.50"), 3780, addr("192.0.2.1"), "sync0"
		l.SndSocketBuffer, l.RcvSocketBuffer, l.Checksum = 1, 2, false
	})},
	{"Sync { Multicast { Interface sync0 IPv6_address ff08::1 IPv6_interface 2001:db8::1 Group 65535 } }", newLink(Multicast, func(l *Link) {
		l.Address, l.Port, l.Interface = addr("ff08::1"), 65535, "sync0"
	})},
	{"Sync { UDP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.2 Port 3780 Interface eth0.100 SndSocketBuffer 1 RcvSocketBuffer 2 Checksum no } }", newLink(UDP, func(l *Link) {
		l.Address, l.Destination, l.Port, l.Interface = addr("192.0.2.1"), addr("192.0.2.2"), 3780, "eth0.100"
		l.SndSocketBuffer, l.RcvSocketBuffer, l.Checksum = 1, 2, false
	})},
	{"Sync { UDP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 Port 0 } }", newLink(UDP, func(l *Link) {
		l.Address, l.Destination = addr("2001:db8::1"), addr("2001:db8::2")
	})},
	{"Sync { UDP { IPv6_address 2001:db8::1 IPv4_address 192.0.2.1 Port 1 Port 2 Interface a Interface b } }", newLink(UDP, func(l *Link) {
		l.Address, l.Port, l.Interface = addr("192.0.2.1"), 2, "b"
	})},
	{"Sync { UDP { IPv4_address 192.0.2.1 IPv4_address 192.0.2.256 IPv4_Destination_Address 192.0.2.2/24 IPv6_Destination_Address abcd } }", newLink(UDP, func(l *Link) {
		l.Address = addr("192.0.2.1")
	})},
	{"Sync { UDP { Accept 192.0.2.9 Also 192.0.2.3 Accept 198.51.100.0/24 Accept 192.0.2.9/32 Also 2001:db8::3 Also 192.0.2.3 } }", newLink(UDP, func(l *Link) {
		l.Accept = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), netip.MustParsePrefix("198.51.100.0/24")}
		l.Also = []netip.Addr{addr("192.0.2.3"), addr("2001:db8::3")}
	})},
	{"Sync { TCP { Accept ::1 Accept 2001:db8::/32 } }", newLink(TCP, func(l *Link) {
		l.Accept = []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("2001:db8::/32")}
	})},
	{"Sync { TCP { IPv4_address 192.0.2.1 IPv4_Destination_Address 192.0.2.2 Port 3780 Interface fe0 SndSocketBuffer 1 RcvSocketBuffer 2 Checksum off ErrorQueueLength 3 } }", newLink(TCP, func(l *Link) {
		l.Address, l.Destination, l.Port, l.Interface = addr("192.0.2.1"), addr("192.0.2.2"), 3780, "fe0"
		l.SndSocketBuffer, l.RcvSocketBuffer, l.ErrorQueueLength = 1, 2, 3
	})},
	{"Sync { TCP { IPv6_address 2001:db8::1 IPv6_Destination_Address 2001:db8::2 ErrorQueueLength 0 Interface TCP } }", newLink(TCP, func(l *Link) {
		l.Address, l.Destination, l.Interface = addr("2001:db8::1"), addr("2001:db8::2"), "TCP"
	})},
	{"Sync { UDP { Interface a } UDP Default { Interface b } UDP Default { Interface c } UDP { Interface d } }", newSync(func(s *Sync) {
		for i, name := range []string{"a", "b", "c", "d"} {
			s.Links = append(s.Links, &Link{Transport: UDP, Interface: name, Default: i == 2, Checksum: true})
		}
	})},

	{"Sync { Options { } }", newSync(nothing[Sync])},
	{"Sync { Options { TCPWindowTracking on ExpectationSync on } }", newSync(func(s *Sync) { s.TCPWindowTracking, s.ExpectationSync = true, true })},
	{"Sync { Options { ExpectationSync on ExpectationSync off } }", newSync(nothing[Sync])},
	{"Sync { Options { ExpectationSync { ftp q.931 ftp } ExpectationSync { RAS ad } } }", newSync(func(s *Sync) {
		s.ExpectationSync, s.ExpectationHelpers = true, []string{"ftp", "q.931", "RAS", "ad"}
	})},
	{"Sync { Options { ExpectationSync { ftp } ExpectationSync yes } }", newSync(func(s *Sync) { s.ExpectationSync = true })},
	{"Sync { Options { ExpectationSync { } } }", newSync(func(s *Sync) { s.ExpectationSync = true })},

	{"Stats { }", newStats(nothing[Stats])},
	{"Stats { LogFile on Syslog on }", newStats(func(s *Stats) { s.LogFile, s.Syslog = "/var/log/conntrackd-stats.log", FacilityDaemon })},
	{"Stats { LogFile /tmp/x LogFile off } Stats { Syslog local3 }", newStats(func(s *Stats) { s.LogFile, s.Syslog = "/tmp/x", FacilityLocal0+3*8 })},
	{"Stats { Syslog local1 } General { Syslog local2 }", func(c *Config) {
		c.General.Syslog = FacilityLocal0 + 2*8
		c.Stats = &Stats{Syslog: c.General.Syslog}
	}},

	{"Export ipfix { }", newExport(ExportIPFIX, nothing[Export])},
	{"Export ipfix { Collector 192.0.2.9 Port 4740 Transport tcp Domain 7 EnterpriseNumber 32473 Records { nat flow } Destinations off " +
		"TemplateRefresh 30 ActiveTimeout 300 QueueLimit 100 }", newExport(ExportIPFIX, func(e *Export) {
		*e = Export{Collector: addr("192.0.2.9"), Port: 4740, TCP: true, Domain: 7, Enterprise: 32473, Records: ExportNAT | ExportFlows,
			TemplateRefresh: 30 * time.Second, ActiveTimeout: 5 * time.Minute, QueueLimit: 100}
	})},
	{"Export ipfix { Collector 2001:db8::9 Transport UDP Records nat }", newExport(ExportIPFIX, func(e *Export) {
		e.Collector, e.Records = addr("2001:db8::9"), ExportNAT
	})},
	{"Export json { File /a Records { } } Export json { File - }", func(c *Config) {
		newExport(ExportJSON, func(e *Export) { e.File, e.Records = "/a", 0 })(c)
		newExport(ExportJSON, func(e *Export) { e.File = "-" })(c)
	}},
	{"Export json { Syslog 192.0.2.9 Socket /run/s }", newExport(ExportJSON, func(e *Export) {
		e.Syslog, e.Socket = addr("192.0.2.9"), "/run/s"
	})},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.1 } } } Export json { File /a Filter From Kernelspace { " +
		"Protocol Accept { TCP } Address Ignore { IPv4_address 192.0.2.1 IPv6_address 2001:db8::/32 } State Accept { CLOSE for TCP } } }", func(c *Config) {
		f := &c.General.Filter
		f.Address.Action, f.Address.Prefixes = Accept, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
		newExport(ExportJSON, func(e *Export) {
			e.File = "/a"
			f := &e.Filter
			f.Kernelspace = true
			f.Protocol.Action, f.Protocol.Protocols = Accept, protocols(6)
			f.Address.Action, f.Address.Prefixes = Ignore, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/32")}
			f.State.Action, f.State.States = Accept, 1<<8
		})(c)
	}},

	{"Helper { }", newHelper(nothing[Helper])},
	{"Helper { Setup yes } Helper { Setup off Setup on }", newHelper(func(h *Helper) { h.Setup = true })},
	{"Helper { Type ftp inet tcp { } }", newHelper(func(h *Helper) {
		h.Types = []*HelperType{{Name: "ftp", Protocol: 6, Policies: []HelperPolicy{{"ftp", 1, 300 * time.Second}}}}
	})},
	{"Helper { Type ssdp inet6 udp { QueueNum 65535 QueueLen 10240 Policy ssdp { ExpectMax 2 ExpectTimeout 3 } } Setup no }", newHelper(func(h *Helper) {
		h.Types = []*HelperType{{Name: "ssdp", IPv6: true, Protocol: 17, QueueNum: 65535, QueueLen: 10240,
			Policies: []HelperPolicy{{"ssdp", 2, 3 * time.Second}}}}
	})},
	{"Helper { Type ftp inet tcp { QueueNum 1 QueueNum 2 QueueLen 3 QueueLen 4 Policy ftp { ExpectMax 5 ExpectMax 6 } Policy ftp { ExpectTimeout 7 } } }", newHelper(func(h *Helper) {
		h.Types = []*HelperType{{Name: "ftp", Protocol: 6, QueueNum: 1, QueueLen: 3, Policies: []HelperPolicy{{"ftp", 6, 300 * time.Second}}}}
	})},
	{"Helper { Type tftp inet udp { Policy tftp { ExpectMax 0 ExpectTimeout 0 } } }", newHelper(func(h *Helper) {
		h.Types = []*HelperType{{Name: "tftp", Protocol: 17, Policies: []HelperPolicy{{"tftp", 255, 300 * time.Second}}}}
	})},
	{"Helper { QueueNum 5 QueueLen 7 Policy ftp { ExpectMax 3 } Type ftp inet tcp { QueueNum 1 } QueueNum 9 Type rpc inet udp { } Type rpc inet tcp { } QueueLen 1 }", newHelper(func(h *Helper) {
		h.Types = []*HelperType{
			{Name: "ftp", Protocol: 6, QueueNum: 5, QueueLen: 7, Policies: []HelperPolicy{{"ftp", 3, 300 * time.Second}}},
			{Name: "rpc", Protocol: 17, QueueNum: 9, Policies: []HelperPolicy{{"rpc", 1, 300 * time.Second}}},
			{Name: "rpc", Protocol: 6, Policies: []HelperPolicy{{"rpc", 1, 300 * time.Second}}},
		}
	})},
	{"Helper { Type ftp inet tcp { Policy ftp { ExpectMax 3 } } Type ftp inet6 tcp { Policy ftp { ExpectTimeout 4 } } Type ftp inet tcp { } }", newHelper(func(h *Helper) {
		for i := range 3 {
			h.Types = append(h.Types, &HelperType{Name: "ftp", IPv6: i == 1, Protocol: 6, Policies: []HelperPolicy{{"ftp", 3, 4 * time.Second}}})
		}
	})},
}

func TestClauses(t *testing.T) {
	for _, tt := range clauseTests {
		c, _ := mustParse(t, tt.src)
		if diff := cmp.Diff(want(t, tt.want), c, sameConfig); diff != "" {
			t.Errorf("%s\n%s", tt.src, diff)
		}
	}
}

// TestEveryClauseIsTested checks that clauseTests has every clause of the table.
func TestEveryClauseIsTested(t *testing.T) {
	var all strings.Builder
	for _, tt := range clauseTests {
		all.WriteString(tt.src + " ")
	}
	words := make(map[string]bool)
	for _, w := range strings.FieldsFunc(all.String(), func(r rune) bool { return strings.ContainsRune(" \t\r\n{}#", r) }) {
		words[w] = true
	}
	var walk func(b *block)
	walk = func(b *block) {
		for _, keyword := range b.keywords() {
			if !words[keyword] {
				t.Errorf("%s in %s has no test", keyword, b.title)
			}
		}
		for i := range b.clauses {
			c := &b.clauses[i]
			if c.doc == "" {
				t.Errorf("%s in %s has no doc", c.name, b.title)
			}
			if n, ok := c.value.(nested); ok {
				for _, sub := range n.blocks() {
					walk(sub)
				}
			}
		}
	}
	walk(&grammar)
}

func TestHooks(t *testing.T) {
	ps := Parser{
		Helper: func(name string, protocol uint8) []HelperPolicy {
			if name != "mine" || protocol != 17 {
				return nil
			}
			return []HelperPolicy{{"one", 1, time.Second}, {"two", 2, 2 * time.Second}}
		},
		Protocol: func(name string) (uint8, bool) { return 200, name == "mine" },
	}
	c, _, err := ps.Parse("x.conf", []byte(`General { Filter { Protocol Accept { mine TCP } } }
		Helper { Type mine inet6 udp { Policy two { ExpectMax 9 } } }`))
	if err != nil {
		t.Fatal(err)
	}
	want := want(t, func(c *Config) {
		c.General.Filter.Protocol.Action, c.General.Filter.Protocol.Protocols = Accept, protocols(6, 200)
		c.Helper = &Helper{Types: []*HelperType{{Name: "mine", IPv6: true, Protocol: 17,
			Policies: []HelperPolicy{{"one", 1, time.Second}, {"two", 9, 2 * time.Second}}}}}
	})
	if diff := cmp.Diff(want, c, sameConfig); diff != "" {
		t.Error(diff)
	}
	if _, _, err := ps.Parse("x.conf", []byte("Helper { Type ftp inet tcp { } }")); err == nil {
		t.Error("the hook does not replace the helpers")
	}
}

func TestWhere(t *testing.T) {
	c, _ := mustParse(t, "General {\n\tHashSize 5\n}\nSync {\n UDP {\n  Interface a\n }\n}")
	l := c.Sync.Links[0]
	for field, want := range map[any]Pos{&c.General.HashSize: {2, 2}, c.Sync: {4, 1}, l: {5, 2}, &l.Interface: {6, 3}} {
		if got, ok := c.Where(field); !ok || got != want {
			t.Errorf("%T: got %v, %v, want %v", field, got, ok, want)
		}
	}
	if pos, ok := c.Where(&c.General.HashLimit); ok {
		t.Errorf("HashLimit was set at %v", pos)
	}
	if _, ok := Default().Where(&c.General.HashSize); ok {
		t.Error("the field of another Config has a place")
	}
}

func TestSizeLimit(t *testing.T) {
	src := make([]byte, maxSize+1)
	for i := range src {
		src[i] = ' '
	}
	if _, _, err := Parse("x.conf", src[1:]); err != nil {
		t.Error(err)
	}
	const want = "x.conf: the file is larger than 16 MiB"
	if _, _, err := Parse("x.conf", src); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestFilterActive(t *testing.T) {
	for src, want := range map[string]bool{
		"Filter { }": false, "Filter From Kernelspace { }": false, "Filter { Protocol Ignore { } }": true,
		"Filter { Address Ignore { } }": true, "Filter { State Accept { } }": true,
	} {
		c, _ := mustParse(t, "General { "+src+" }")
		if got := c.General.Filter.Active(); got != want {
			t.Errorf("%s: %v", src, got)
		}
	}
}

func TestLinkFamily(t *testing.T) {
	for src, want := range map[string]bool{
		"": false, "IPv4_address 192.0.2.1": false, "IPv6_address ::1": true,
		"IPv6_Destination_Address ::1": true, "IPv6_address ::1 IPv4_Destination_Address 192.0.2.1": false,
	} {
		c, _ := mustParse(t, "Sync { UDP { "+src+" } }")
		if got := c.Sync.Links[0].Is6(); got != want {
			t.Errorf("%s: %v", src, got)
		}
	}
}
