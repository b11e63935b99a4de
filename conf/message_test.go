package conf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const clauseOfGeneral = `expected a clause of General or "}"`

var longPath = "/" + strings.Repeat("x", 256)

var errorTests = []struct{ src, want string }{
	{"general { }", `1:1: found "general", expected General, Sync, Stats, Helper or Export (did you mean General?)`},
	{"General { }\nxx", `2:1: found "xx", expected General, Sync, Stats, Helper or Export`},
	{"{ }", `1:1: found "{", expected General, Sync, Stats, Helper or Export`},
	{"General { } }", `1:13: found "}", expected General, Sync, Stats, Helper or Export`},
	{"General {", `1:10: found end of file, expected "}" for the General block that was opened in line 1`},
	{"General\n{\nFilter {\nProtocol Accept {\nTCP\n", `6:1: found end of file, expected "}" for the Protocol block that was opened in line 4`},
	{"Metrics { }", `1:1: found "Metrics", expected General, Sync, Stats, Helper or Export (Metrics belongs in General)`},
	{"General { LogFormat xml }", `1:21: found "xml", expected text or json`},
	{"Sync { UDP { Accept 192.0.2.1/24 } }", `1:21: found "192.0.2.1/24", expected an address, or a network as 192.0.2.0/24`},
	{"Sync { UDP { Accept 010.0.0.1 } }", `1:21: found "010.0.0.1", expected an address, or a network as 192.0.2.0/24`},
	{"Sync { UDP { Also 192.0.2.0/24 } }", `1:19: found "192.0.2.0/24", expected an address`},
	{"Sync { UDP { Also 225.0.0.50 } }", `1:19: found "225.0.0.50", expected an address`},
	{"Sync { TCP { Also 192.0.2.3 } }", `1:14: found "Also", expected a clause of TCP or "}" (Also belongs in UDP)`},
	{"Sync { Multicast { Accept 192.0.2.3 } }", `1:20: found "Accept", expected a clause of Multicast or "}" (Accept belongs in UDP or TCP)`},
	{"Export csv { }", `1:8: found "csv", expected ipfix or json`},
	{"Export jsn { }", `1:8: found "jsn", expected ipfix or json (did you mean json?)`},
	{"Export json { File flows }", `1:20: found "flows", expected - or an absolute path`},
	{"Export ipfix { Collector collector.example }", `1:26: found "collector.example", expected an address`},
	{"Export ipfix { Collector 0.0.0.0 }", `1:26: found "0.0.0.0", expected an address`},
	{"Export ipfix { Records { nta } }", `1:26: found "nta", expected nat or flow (did you mean nat?)`},
	{"Export ipfix { Records }", `1:24: found "}", expected nat or flow or "{"`},
	{"Export ipfix { Transport sctp }", `1:26: found "sctp", expected udp or tcp`},
	{"Sync { Ready { File ready } }", `1:21: found "ready", expected an absolute path`},
	{"Sync { Ready { Weight 0 } }", `1:23: found "0", expected a number from 1 to 253`},
	{"Sync { Ready { Weight 254 } }", `1:23: found "254", expected a number from 1 to 253`},
	{"General { Metrics { Listen 9107 } }", `1:28: found "9107", expected an address and a port, as 127.0.0.1:9107 or [::1]:9107`},
	{"General { Metrics { Listen 127.0.0.1:0 } }", `1:28: found "127.0.0.1:0", expected an address and a port, as 127.0.0.1:9107 or [::1]:9107`},
	{"General { Metrics { Listen [fe80::1%lo]:9107 } }", `1:28: found "[fe80::1%lo]:9107", expected an address and a port, as 127.0.0.1:9107 or [::1]:9107`},
	{"General }", `1:9: found "}", expected "{"`},
	{"General", `1:8: found end of file, expected "{"`},
	{"General {\n\tHashsize 5\n}", `2:2: found "Hashsize", ` + clauseOfGeneral + ` (did you mean HashSize?)`},
	{"General { HashSzie 5 }", `1:11: found "HashSzie", ` + clauseOfGeneral + ` (did you mean HashSize?)`},
	{"General { { } }", `1:11: found "{", ` + clauseOfGeneral},
	{"General { \"x\" }", `1:11: found "\"", ` + clauseOfGeneral},
	{"General { Port 5 }", `1:11: found "Port", ` + clauseOfGeneral + ` (Port belongs in UDP, TCP, Peer or Export)`},
	{"Stats { QueueNum 5 }", `1:9: found "QueueNum", expected a clause of Stats or "}" (QueueNum belongs in Type)`},
	{"General { SocketBuferSize 5 }", `1:11: found "SocketBuferSize", ` + clauseOfGeneral + ` (did you mean SocketBufferSize?)`},
	{"Stats { NetlinkEventsReliable on }", `1:9: found "NetlinkEventsReliable", expected a clause of Stats or "}" (NetlinkEventsReliable belongs in General)`},
	{"General { IPv6_Destionation_Address }", `1:11: found "IPv6_Destionation_Address", ` + clauseOfGeneral},
	{"Sync { UDP { IPv6_Destionation_Address ::1 } }", `1:14: found "IPv6_Destionation_Address", expected a clause of UDP or "}" (did you mean IPv6_Destination_Address?)`},
	{"General { \x00 }", `1:11: found "\x00", ` + clauseOfGeneral},
	{"General { " + strings.Repeat("x", 100) + " }", `1:11: found "` + strings.Repeat("x", 60) + `...", ` + clauseOfGeneral},

	{"General { HashSize }", `1:20: found "}", expected a number from 0 to 2147483647`},
	{"General { HashSize on }", `1:20: found "on", expected a number from 0 to 2147483647`},
	{"General { HashSize -1 }", `1:20: found "-1", expected a number from 0 to 2147483647`},
	{"General { HashSize 0x10 }", `1:20: found "0x10", expected a number from 0 to 2147483647`},
	{"General { HashSize 5k }", `1:20: found "5k", expected a number from 0 to 2147483647`},
	{"General { HashSize 5; }", `1:20: found "5;", expected a number from 0 to 2147483647`},
	{"General { HashSize 2147483648 }", `1:20: found "2147483648", expected a number from 0 to 2147483647`},
	{"General { HashSize 99999999999999999999999 }", `1:20: found "99999999999999999999999", expected a number from 0 to 2147483647`},
	{"General { HashSize 5 5 }", `1:22: found "5", ` + clauseOfGeneral},
	{"General { Nice 5 }", `1:16: found "5", expected a number with its sign, as +5 or -5`},
	{"General { Nice - }", `1:16: found "-", expected a number with its sign, as +5 or -5`},
	{"General { Nice +5x }", `1:16: found "+5x", expected a number with its sign, as +5 or -5`},
	{"General { Nice }", `1:16: found "}", expected a number with its sign, as +5 or -5`},
	{"General { Systemd maybe }", `1:19: found "maybe", expected on, yes, off or no`},
	{"General { Systemd of }", `1:19: found "of", expected on, yes, off or no (did you mean off?)`},
	{"General { Systemd |n }", `1:19: found "|n", expected on, yes, off or no (did you mean on?)`},
	{"General { LogFile maybe }", `1:19: found "maybe", expected on, off or an absolute path`},
	{"General { LogFile }", `1:19: found "}", expected on, off or an absolute path`},
	{"General { LogFile /x\x00 }", `1:19: found "/x\x00", expected on, off or an absolute path`},
	{"General { LogFile " + longPath + " }", "1:19: LogFile path is longer than 256 characters"},
	{"General { LockFile " + longPath + " }", "1:20: LockFile path is longer than 256 characters"},
	{"General { LockFile on }", `1:20: found "on", expected an absolute path`},
	{"General { Lockfile /x }", `1:11: found "Lockfile", ` + clauseOfGeneral + ` (did you mean LockFile?)`},
	{"Stats { LogFile " + longPath + " }", "1:17: stats LogFile path is longer than 256 characters"},
	{"General { UNIX { Path " + longPath[:108] + " } }", "1:23: Path is longer than 107 characters"},
	{"General { UNIX { Path x } }", `1:23: found "x", expected an absolute path`},
	{"General { UNIX { Path \"/x\" } }", `1:23: found "\"", expected an absolute path`},
	{"General { UNIX { Path /x\" } }", `1:25: found "\"", expected a clause of UNIX or "}"`},
	{"General { UNIX { Backlog } }", `1:26: found "}", expected a number from 0 to 2147483647`},
	{"General { Syslog 5 }", `1:18: found "5", expected on, off or a syslog facility: daemon, local0, local1, local2, local3, local4, local5, local6 or local7`},
	{"General { Syslog HashSize 5 }", `1:18: found "HashSize", expected on, off or a syslog facility: daemon, local0, local1, local2, local3, local4, local5, local6 or local7`},
	{"Sync { Options { ExpectationSync { ExpectationSync } } }", `1:36: found "ExpectationSync", expected the name of a helper`},
	{"General { Filter { Protocol Accept { Address } } }", `1:38: found "Address", expected the name of a protocol`},
	{"General { Syslog }", `1:18: found "}", expected on, off or a syslog facility: daemon, local0, local1, local2, local3, local4, local5, local6 or local7`},
	{"General { PollSecs 0 }", "1:20: `PollSecs' clause must be > 0"},
	{"General { NetlinkOverrunResync +10 }", `1:32: found "+10", expected on, off or a number from 0 to 2147483647`},
	{"General { Scheduler { Type other } }", "1:28: unknown scheduler `other'"},
	{"General { Scheduler { Type 5 } }", `1:28: found "5", expected RR or FIFO`},
	{"General { Scheduler { Type } }", `1:28: found "}", expected RR or FIFO`},
	{"General { Scheduler { Priority 100 } }", "1:32: `Priority' must be [0, 99]"},
	{"General { Scheduler { Priority -1 } }", `1:32: found "-1", expected a number from 0 to 99`},

	{"General { Filter Kernelspace { } }", `1:18: found "Kernelspace", expected From or "{"`},
	{"General { Filter From userspace { } }", `1:23: found "userspace", expected Userspace or Kernelspace (did you mean Userspace?)`},
	{"General { Filter { Protocol accept { } } }", `1:29: found "accept", expected Accept or Ignore (did you mean Accept?)`},
	{"General { Filter { Protocol { } } }", `1:29: found "{", expected Accept or Ignore`},
	{"General { Filter { Protocol Accept TCP } }", `1:36: found "TCP", expected "{"`},
	{"General { Filter { Protocol Accept { 256 } } }", `1:38: found "256", expected the name of a protocol`},
	{"General { Filter { Protocol Accept { { } } } }", `1:38: found "{", expected the name of a protocol or "}"`},
	{"General { Filter { Address Accept { 192.0.2.1 } } }", `1:37: found "192.0.2.1", expected a clause of Address or "}"`},
	{"General { Filter { Address Accept { IPv4_address localhost } } }", `1:50: found "localhost", expected an IPv4 address or network`},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.0/ } } }", `1:50: found "192.0.2.0/", expected an IPv4 address or network`},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.0/255.255.255.0 } } }", `1:50: found "192.0.2.0/255.255.255.0", expected an IPv4 address or network`},
	{"General { Filter { Address Accept { IPv6_address ::: } } }", `1:50: found ":::", expected an IPv6 address or network`},
	{"General { Filter { Address Accept { IPv6_address } } }", `1:50: found "}", expected an IPv6 address or network`},
	{"General { Filter { Mark { 1 } } }", `1:25: found "{", expected Accept or Ignore`},
	{"General { Filter { Mark Accept { -1 } } }", `1:34: found "-1", expected a mark as 0x1 or 0x1/0xff`},
	{"General { Filter { Mark Accept { 0x1/ } } }", `1:34: found "0x1/", expected a mark as 0x1 or 0x1/0xff`},
	{"General { Filter { Mark Accept { 4294967296 } } }", `1:34: found "4294967296", expected a mark as 0x1 or 0x1/0xff`},
	{"General { Filter { Mark Accept { 0x+1 } } }", `1:34: found "0x+1", expected a mark as 0x1 or 0x1/0xff`},
	{"General { Filter { Mark Accept { 0x100/0xff } } }", `1:34: mark 0x100/0xff matches nothing: its value has bits outside of its mask`},
	{"General { Filter { Zone Accept { 65536 } } }", `1:34: found "65536", expected a zone from 0 to 65535`},
	{"General { Filter { Zone Accept { blue } } }", `1:34: found "blue", expected a zone from 0 to 65535`},
	{"Sync { Delay { TCP 3601 } }", `1:20: found "3601", expected a number from 0 to 3600`},
	{"Sync { Delay { SCTP 3 } }", `1:16: found "SCTP", expected a clause of Delay or "}"`},
	{"General { Filter { State Accept { ESTABLISHED } } }", `1:47: found "}", expected a TCP state or "for TCP"`},
	{"General { Filter { State Accept { ESTABLISHED for UDP } } }", `1:51: found "UDP", expected TCP`},
	{"General { Filter { State Accept { established for TCP } } }", `1:35: found "established", expected a TCP state or "for TCP" (did you mean ESTABLISHED?)`},

	{"Sync { Mode foo { } }", `1:13: found "foo", expected FTFW, ALARM or NOTRACK`},
	{"Sync { Mode FTWF { } }", `1:13: found "FTWF", expected FTFW, ALARM or NOTRACK (did you mean FTFW?)`},
	{"Sync { Mode { } }", `1:13: found "{", expected FTFW, ALARM or NOTRACK`},
	{"Sync { Mode FTFW { RefreshTime 5 } }", `1:20: found "RefreshTime", expected a clause of Mode FTFW or "}" (RefreshTime belongs in Sync or Mode ALARM)`},
	{"Sync { Mode ALARM { StartupResync on } }", `1:21: found "StartupResync", expected a clause of Mode ALARM or "}" (StartupResync belongs in Mode FTFW or Mode NOTRACK)`},
	{"Sync { Mode FTFW { CommitTimeout 99999999999 } }", `1:34: found "99999999999", expected a number from 0 to 2147483647`},
	{"Sync { } Stats { }", "1:10: cannot use both `Stats' and `Sync' clauses in conntrackd.conf"},
	{"Stats { } Sync { }", "1:11: cannot use both `Stats' and `Sync' clauses in conntrackd.conf"},
	{"Sync { UDP { } TCP { } }", "1:16: cannot use `TCP' with other dedicated link protocols!"},
	{"Sync { TCP { } UDP { } }", "1:16: cannot use `UDP' with other dedicated link protocols!"},
	{"Sync { UDP { } Multicast { } }", "1:16: cannot use `Multicast' with other dedicated link protocols!"},
	{"Sync { UDP { } UDP { } UDP { } UDP { } UDP { } }", "1:40: too many dedicated links in the configuration file (Maximum: 4)"},
	{"Sync { UDP default { } }", `1:12: found "default", expected Default or "{" (did you mean Default?)`},
	{"Sync { UDP { Port 65536 } }", `1:19: found "65536", expected a number from 0 to 65535`},
	{"Sync { UDP { Interface eth0:1 } }", `1:24: found "eth0:1", expected the name of an interface`},
	{"Sync { UDP { Interface } }", `1:24: found "}", expected the name of an interface`},
	{"Sync { UDP { IPv4_address 192.0.2 } }", `1:27: found "192.0.2", expected an IPv4 address`},
	{"Sync { UDP { IPv6_address fe80::1%eth0 } }", `1:27: found "fe80::1%eth0", expected an IPv6 address`},
	{"Sync { UDP { IPv6_address ::ffff:192.0.2.1 } }", `1:27: found "::ffff:192.0.2.1", expected an IPv6 address`},
	{"Sync { Multicast { IPv6_interface lo } }", `1:35: found "lo", expected an IPv6 address`},
	{"Sync { Multicast { ErrorQueueLength 5 } }", `1:20: found "ErrorQueueLength", expected a clause of Multicast or "}" (ErrorQueueLength belongs in TCP)`},
	{"Sync { Options { ExpectationSync maybe } }", `1:34: found "maybe", expected on, off or "{" and the names of helpers`},
	{"Sync { Options { ExpectationSync { ftp, sip } } }", `1:36: found "ftp,", expected the name of a helper`},
	{"Sync { Options { ExpectationSync { ftp", `1:39: found end of file, expected "}" for the ExpectationSync block that was opened in line 1`},

	{"Helper { Setup true }", `1:16: found "true", expected on, yes, off or no`},
	{"Helper { Type ftp inet7 tcp { } }", "1:19: unknown layer 3 protocol"},
	{"Helper { Type ftp 4 tcp { } }", `1:19: found "4", expected inet or inet6`},
	{"Helper { Type ftp inet sctp { } }", "1:24: unknown layer 4 protocol"},
	{"Helper { Type ftp inet 6 { } }", `1:24: found "6", expected tcp or udp`},
	{"Helper { Type ftp inet }", `1:24: found "}", expected tcp or udp`},
	{"Helper { Type ftp inet udp { } }", "1:15: Unknown `ftp' helper"},
	{"Helper { Type sip inet udp { } }", "1:15: Unknown `sip' helper"},
	{"Helper { Type ftp. inet tcp { } }", "1:15: Unknown `ftp.' helper"},
	{"Helper { Type { } }", `1:15: found "{", expected the name of a helper`},
	{"Helper { Type ftp inet tcp { QueueNum 65536 } }", `1:39: found "65536", expected a number from 0 to 65535`},
	{"Helper { Type ftp inet tcp { QueueNum 1 QueueNum x } }", `1:50: found "x", expected a number from 0 to 65535`},
	{"Helper { Type ftp inet tcp { Setup on } }", `1:30: found "Setup", expected a clause of Type or "}" (Setup belongs in Helper)`},
	{"Helper { Type ftp inet tcp { Policy x { ExpectMax 1 } } }", "1:37: Unknown policy `x' in helper configuration"},
	{"Helper { Policy a { ExpectMax 1 } Policy b { ExpectMax 1 } Policy c { ExpectMax 1 } Policy d { ExpectMax 1 } Policy e { ExpectMax 1 } Type ftp inet tcp { } }",
		"1:117: Unknown policy `e' in helper configuration"},
	{"Helper { Type ftp inet tcp { Policy ftp { } } }", "1:30: Helper policy configuration empty, fix your configuration file, please"},
	{"Helper { Type ftp inet tcp { Policy abcdefghijklmnopq { ExpectMax 1 } } }", "1:37: Helper Policy is longer than 16 characters"},
	{"Helper { Type ftp inet tcp { Policy 5 { ExpectMax 1 } } }", `1:37: found "5", expected the name of a policy, which is that of the helper`},
	{"Helper { Type ftp inet tcp { Policy ftp { ExpectMax 256 } } }", `1:53: found "256", expected a number from 0 to 255`},
}

func TestErrors(t *testing.T) {
	for _, tt := range errorTests {
		c, _, err := Parse("x.conf", []byte(tt.src))
		var conf *Error
		switch {
		case err == nil:
			t.Errorf("%q is accepted", tt.src)
		case c != nil:
			t.Errorf("%q: there is an error and a Config", tt.src)
		case !errors.As(err, &conf) || conf.File != "x.conf":
			t.Errorf("%q: %T is not an *Error of x.conf", tt.src, err)
		case err.Error() != "x.conf:"+tt.want:
			t.Errorf("%q:\n got %s\nwant x.conf:%s", tt.src, err, tt.want)
		}
	}
}

var warningTests = []struct {
	src  string
	want []string // each begins with the letter of When
}{
	{"General { Nice -1 }", []string{"A 1:11: deprecated nice configuration, ignoring. The nice value can be set externally with nice(1) and renice(1)."}},
	{"General { UNIX { Backlog 5 } }", []string{"A 1:18: deprecated unix backlog configuration, ignoring."}},
	{"General { Syslog foo }", []string{"A 1:18: 'foo' is not a known syslog facility, ignoring"}},
	{"General { Syslog LOCAL0 }", []string{"A 1:18: 'LOCAL0' is not a known syslog facility, ignoring"}},
	{"Stats { Syslog foo }", []string{"A 1:16: 'foo' is not a known syslog facility, ignoring."}},
	{"Stats { Syslog local1 } General { Syslog local2 }", []string{"A 1:9: conflicting Syslog facility values, defaulting to General"}},
	{"General { Syslog local2 } Stats { Syslog local1 }", []string{"A 1:35: conflicting Syslog facility values, defaulting to General"}},
	{"General { Syslog local2 } Stats { Syslog on }", nil},
	{"Stats { Syslog on } General { Syslog local2 }", []string{"A 1:9: conflicting Syslog facility values, defaulting to General"}},
	{"Stats { Syslog local2 } General { Syslog on }", nil},
	{"General { Syslog on } Stats { Syslog daemon }", nil},
	{"General { Syslog off } Stats { Syslog local1 }", nil},
	{"General { SocketBufferSize 5 }", []string{"C 1:11: SocketBufferSize is an old name of NetlinkBufferSize"}},
	{"General { HashSize 5\nHashSize 6 }", []string{"C 2:1: HashSize is given again and replaces the one in line 1"}},
	{"General { LogFile /x LogFile off }", []string{"C 1:22: LogFile off does not undo the LogFile before it"}},

	{"Sync { }", []string{"S 1:1: No synchronization mode specified. Defaulting to FT-FW mode."}},
	{"Sync { Mode Nack { } }", []string{"A 1:13: Now `nack' mode is called `ftfw'. Please, update your conntrackd.conf file."}},
	{"Sync { Mode persistenT { } }", []string{"A 1:13: Now `persistent' mode is called `alarm'. Please, update your conntrackd.conf file."}},
	{"Sync { Mode FTFW { CommitTimeout 5 DisableExternalCache on } }", []string{"A 1:20: `CommitTimeout' can't be combined with `DisableExternalCache', ignoring this option. Fix your configuration file."}},
	{"Sync { Mode FTFW { } Mode ALARM { } }", []string{"C 1:22: Mode ALARM does not count beside Mode FTFW"}},
	{"Sync { Mode NOTRACK { } Mode ALARM { } }", []string{"C 1:8: Mode NOTRACK does not count beside Mode ALARM"}},
	{"Sync { Mode NOTRACK { DisableInternalCache on } Mode FTFW { } }", []string{
		"C 1:8: Mode NOTRACK does not count beside Mode FTFW",
		"A 1:23: DisableInternalCache was set for another mode than FTFW, which is used, ignoring"}},
	{"Sync { Mode NOTRACK { DisableExternalCache on StartupResync on } Mode ALARM { } }", []string{
		"C 1:8: Mode NOTRACK does not count beside Mode ALARM",
		"A 1:23: DisableExternalCache was set for another mode than ALARM, which is used, ignoring",
		"A 1:47: StartupResync was set for another mode than ALARM, which is used, ignoring"}},

	{"Sync { Mode FTFW { } UDP { IPv4_address 192.0.2.256 } }", []string{"A 1:41: 192.0.2.256 is not a valid IPv4 address"}},
	{"Sync { Mode FTFW { } UDP { IPv4_address 08.0.2.1 } }", []string{"A 1:41: 08.0.2.1 is not a valid IPv4 address"}},
	{"Sync { Mode FTFW { } UDP { IPv4_address 0300.0.2.1 } }", []string{"C 1:41: 0300.0.2.1 is read as 192.0.2.1: a group that starts with 0 is octal"}},
	{"Sync { Mode FTFW { } UDP { IPv4_address 192.0.2.1/24 } }", []string{"A 1:41: 192.0.2.1/24 is not a valid IPv4 address"}},
	{"Sync { Mode FTFW { } UDP { IPv4_address 2001:db8::1 } }", []string{"A 1:41: 2001:db8::1 is not a valid IPv4 address"}},
	{"Sync { Mode FTFW { } UDP { IPv6_address 192.0.2.1 } }", []string{"A 1:41: 192.0.2.1 is not a valid IPv6 address"}},
	{"Sync { Mode FTFW { } UDP { IPv6_address abcd } }", []string{"A 1:41: abcd is not a valid IPv6 address"}},
	{"Sync { Mode FTFW { } UDP { IPv6_address 2001:db8::1/64 } }", []string{"A 1:41: 2001:db8::1/64 is not a valid IPv6 address"}},
	{"Sync { Mode FTFW { } TCP { IPv6_Destination_Address 1:2 } }", []string{"A 1:53: 1:2 is not a valid IPv6 address"}},
	{"Sync { Mode FTFW { } TCP { Checksum on } }", []string{"C 1:28: Checksum has no effect over TCP"}},
	{"Sync { Mode FTFW { } Multicast { IPv6_interface 2001:db8::1 } }", []string{"A 1:34: `IPv6_interface' not required, ignoring"}},
	{"Sync { Mode FTFW { } Multicast { IPv4_address 225.0.0.1 IPv6_address ff08::1 } }", []string{
		"A 1:57: your multicast address is IPv6 but is binded to an IPv4 interface? Surely this is not what you want",
		"C 1:57: IPv6_address is given again and replaces the one in line 1"}},
	{"Sync { Mode FTFW { } Multicast { IPv6_address ff08::1 IPv4_address 225.0.0.1 } }", []string{
		"A 1:55: your multicast address is IPv4 but is binded to an IPv6 interface? Surely, this is not what you want",
		"C 1:55: IPv4_address is given again and replaces the one in line 1"}},
	{"Sync { Mode FTFW { } Multicast { IPv6_address ff08::1 IPv4_interface 192.0.2.1 } }", []string{
		"A 1:55: your multicast interface is IPv4 but is binded to an IPv6 interface? Surely, this is not what you want"}},
	{"Sync { Mode FTFW { } Multicast { IPv4_interface 192.0.2.1 IPv6_address ff08::1 } }", []string{
		"A 1:59: your multicast address is IPv6 but is binded to an IPv4 interface? Surely this is not what you want"}},
	{"Sync { Mode FTFW { } UDP Default { } UDP Default { } }", []string{"C 1:42: Default is given again and replaces that of the UDP link before"}},

	{"General { Filter { Protocol Accept { nosuch } } }", []string{"A 1:38: getprotobyname() cannot find protocol `nosuch' in /etc/protocols"}},
	{"General { Filter { Protocol Accept { Tcp } } }", []string{"A 1:38: getprotobyname() cannot find protocol `Tcp' in /etc/protocols"}},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.0/33 } } }", []string{"A 1:50: 192.0.2.0/33 is not a valid network, ignoring"}},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.0/99999999999 } } }", []string{"A 1:50: 192.0.2.0/99999999999 is not a valid network, ignoring"}},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.256/24 } } }", []string{"A 1:50: 192.0.2.256 is not a valid IPv4, ignoring"}},
	{"General { Filter { Address Accept { IPv4_address ::1 } } }", []string{"A 1:50: ::1 is not a valid IPv4, ignoring"}},
	{"General { Filter { Address Accept { IPv4_address ::1/64 } } }", []string{"A 1:50: ::1/64 is not a valid network, ignoring"}},
	{"General { Filter { Address Accept { IPv6_address ::1/129 } } }", []string{"A 1:50: ::1/129 is not a valid network, ignoring"}},
	{"General { Filter { Address Accept { IPv6_address 192.0.2.1/64 } } }", []string{"A 1:50: 192.0.2.1 is not a valid IPv6, ignoring"}},
	{"General { Filter { Address Accept { IPv6_address abcd } } }", []string{"A 1:50: abcd is not a valid IPv6, ignoring"}},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.0/24 IPv4_address 192.0.2.0/24 } } }", []string{"A 1:76: netmask 192.0.2.0 is repeated in the ignore pool"}},
	{"General { Filter { Address Accept { IPv4_address 192.0.2.1 IPv4_address 192.0.2.1 IPv6_address ::/1 IPv6_address ::/1 } } }", nil},

	{"Helper { Type ftp inet tcp { QueueNum 1\nQueueNum 2 } }", []string{"C 2:1: QueueNum is given again, but that in line 1 counts"}},
	{"Helper { Type ftp inet tcp { Policy ftp { ExpectMax 1 }\nPolicy ftp { ExpectMax 2 } } }", []string{"C 2:1: Policy ftp is given again, but that in line 1 counts"}},
	{"Helper { Type dhcpv6 inet udp { QueueNum 1 } }", []string{"S 1:22: Type dhcpv6 inet udp never expects anything: the helper reads inet6 only"}},
	{"Helper { Type dhcpv6 inet6 udp { QueueNum 1 } Type ftp inet6 tcp { QueueNum 2 } }", nil},
	{"Helper { QueueNum 1 Type ftp inet tcp { } }", []string{"C 1:10: QueueNum stands outside of a Type and counts for the next one"}},
	{"Helper { Policy ftp { ExpectMax 1 } }", []string{
		"C 1:10: Policy stands outside of a Type and counts for the next one",
		"C 1:1: Helper has clauses of a Type after its last Type; they count for none"}},
}

func TestWarnings(t *testing.T) {
	for _, tt := range warningTests {
		_, warnings := mustParse(t, tt.src)
		var got []string
		for _, w := range warnings {
			got = append(got, string("ASC"[w.When])+" "+strings.TrimPrefix(w.String(), "x.conf:"))
		}
		if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
			t.Errorf("%q:\n got %q\nwant %q", tt.src, got, tt.want)
		}
	}
}

// The log has the place of warnings that conntrack-tools does not give.
func TestWarningInTheLog(t *testing.T) {
	for src, want := range map[string]string{
		"Helper { Type dhcpv6 inet udp { } }": "x.conf:1:22: Type dhcpv6 inet udp never expects anything: the helper reads inet6 only",
		"General { Nice -1 }":                 "deprecated nice configuration, ignoring. The nice value can be set externally with nice(1) and renice(1).",
	} {
		_, warnings := mustParse(t, src)
		if len(warnings) != 1 || warnings[0].LogText() != want {
			t.Errorf("%s: %q", src, warnings)
		}
	}
}

// The log line of the old mode's warning is followed by an empty line, as in conntrack-tools.
func TestWarningKeepsItsNewline(t *testing.T) {
	_, warnings := mustParse(t, "Sync { Mode NACK { } }")
	if len(warnings) != 1 || !strings.HasSuffix(warnings[0].Text, ".\n") {
		t.Errorf("got %q", warnings)
	}
}

func TestWarningsBeforeAnError(t *testing.T) {
	_, warnings, err := Parse("x.conf", []byte("General { Nice -1 HashSize }"))
	if err == nil || len(warnings) != 1 || warnings[0].File != "x.conf" {
		t.Errorf("got %v, %v", warnings, err)
	}
}

func TestLoad(t *testing.T) {
	name := filepath.Join(t.TempDir(), "conntrackd.conf")
	if _, _, err := Load(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(name, []byte("General { HashSize 5 }"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(name)
	if err != nil || c.General.HashSize != 5 || c.File != name {
		t.Errorf("got %+v, %v", c, err)
	}
}

// A file without an end, such as a device, is read up to the largest size of a file.
func TestLoadEndless(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan int)
	go func() {
		total := 0
		defer func() { written <- total }()
		pipe, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return
		}
		defer pipe.Close()
		for chunk := make([]byte, 1<<20); total < 4*maxSize; {
			n, err := pipe.Write(chunk)
			if total += n; err != nil {
				return
			}
		}
	}()
	_, _, err := Load(name)
	if want := name + ": the file is larger than 16 MiB"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if n := <-written; n > 2*maxSize {
		t.Errorf("%d bytes were read", n)
	}
}
