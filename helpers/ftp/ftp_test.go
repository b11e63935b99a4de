package ftp

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

// The hosts of the tests.
const (
	client   = "192.0.2.2"
	server   = "198.51.100.9"
	firewall = "198.51.100.1" // the translated address
	stranger = "203.0.113.7"  // a client outside, of a server behind NAT
)

// flows are the flows of the tests. In "dnat" the server is behind NAT and has the address
// that is the client's in the others.
var flows = map[string]func(testing.TB) *helpertest.Flow{
	"plain": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":21")
	},
	"ipv6": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, "[2001:db8::2]:43086", "[2001:db8:9::9]:21")
	},
	"snat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":21", server+":21", firewall+":43086")
	},
	"dnat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, stranger+":43086", firewall+":21", client+":21", stranger+":43086")
	},
	"snat6": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP,
			"[2001:db8::2]:43086", "[2001:db8:9::9]:21", "[2001:db8:9::9]:21", "[2001:db8:9::1]:43086")
	},
}

// greeted returns a flow after the first line in each direction.
func greeted(t testing.TB, flow string) *helpertest.Flow {
	t.Helper()
	f := flows[flow](t)
	for _, first := range []string{f.Send(helper.Reply, "220 hi\r\n"), f.Send(helper.Original, "USER a\r\n")} {
		if first != "accept" {
			t.Fatalf("first line: %s", first)
		}
	}
	return f
}

const (
	none    = "accept"
	active  = "accept; tcp 198.51.100.9:* -> 192.0.2.2:1234 or drop"
	passive = "accept; tcp 192.0.2.2:* -> 198.51.100.9:5000 or drop"
)

var segments = []struct {
	flow    string
	dir     helper.Direction
	segment string
	want    string
}{
	{"plain", helper.Original, "PORT 192,0,2,2,4,210\r\n", active},
	{"plain", helper.Original, "port 192,0,2,2,4,210\r\n", active},
	{"plain", helper.Original, "PORT 192,000,002,002,004,210\r\n", active},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210\r", active},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|1234|\r\n", active},
	{"plain", helper.Original, "EPRT !1!192.0.2.2!1234!\r\n", active},
	{"plain", helper.Original, "EPRT :1:192.0.2.2:1234:\r\n", active},
	{"plain", helper.Original, "EPRT /1/192.0.2.2/1234/\r\n", active},
	{"plain", helper.Original, "eprt ~1~192.0.2.2~1234~\r\n", active},
	{"plain", helper.Original, "NOOP\r\nPORT 192,0,2,2,4,210\r\n", active},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210\r\nRETR file\r\n", active},
	{"plain", helper.Original, "\nPORT 192,0,2,2,4,210\r\n", active},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210\r\nEPRT |1|192.0.2.2|1235|\r\n",
		active + "; tcp 198.51.100.9:* -> 192.0.2.2:1235 or drop"},
	{"plain", helper.Reply, "227 Entering Passive Mode (198,51,100,9,19,136)\r\n", passive},
	{"plain", helper.Reply, "227 (198,51,100,9,19,136)", passive},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (|||5000|)\r\n", passive},
	{"plain", helper.Reply, "229 (!!!5000!)\r\n", passive},
	{"plain", helper.Reply, "200 ok\r\n227 Entering Passive Mode (198,51,100,9,19,136)\r\n", passive},

	// another host's address
	{"plain", helper.Original, "PORT 192,0,2,3,4,210\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.3|1234|\r\n", none},
	{"plain", helper.Reply, "227 Entering Passive Mode (198,51,100,8,19,136)\r\n", none},

	// not the command, or in the wrong direction
	{"plain", helper.Original, "XPORT 192,0,2,2,4,210\r\n", none},
	{"plain", helper.Original, "PORTS 192,0,2,2,4,210\r\n", none},
	{"plain", helper.Original, "PORT  192,0,2,2,4,210\r\n", none},
	{"plain", helper.Original, "PORT\r\n 192,0,2,2,4,210\r\n", none},
	{"plain", helper.Original, "PORT", none},
	{"plain", helper.Original, "", none},
	{"plain", helper.Original, "227 Entering Passive Mode (192,0,2,2,19,136)\r\n", none},
	{"plain", helper.Reply, "PORT 198,51,100,9,4,210\r\n", none},
	{"plain", helper.Reply, "227-Entering Passive Mode (198,51,100,9,19,136)\r\n", none},

	// wrong syntax
	{"plain", helper.Original, "EPRT \x7f1\x7f192.0.2.2\x7f1234\x7f\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|65536|\r\n", none},
	{"plain", helper.Reply, "229 (|1|5000|)\r\n", none},
	{"plain", helper.Reply, "229 (|1|65536|)\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210,9\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,,\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2, 2,4,210\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4,210 \r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|1234\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|1234!\r\n", none},
	{"plain", helper.Original, "EPRT |1| 192.0.2.2|1234|\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2|1234|\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2\r\n", none},
	{"plain", helper.Original, "EPRT |3|192.0.2.2|1234|\r\n", none},
	{"plain", helper.Original, "EPRT |2|192.0.2.2|1234|\r\n", none},
	{"plain", helper.Original, "EPRT |2|::1|1234|\r\n", none},
	{"plain", helper.Original, "EPRT |2|::ffff:192.0.2.2|1234|\r\n", none},
	{"plain", helper.Original, "EPRT 119211921\r\n", none},
	{"plain", helper.Original, "EPRT  1 192.0.2.2 1234 \r\n", none},
	{"plain", helper.Reply, "227 =198,51,100,9,19,136\r\n", none},
	{"plain", helper.Reply, "227 Entering Passive Mode 198,51,100,9,19,136\r\n", none},
	{"plain", helper.Reply, "227 Entering Passive Mode\r\n(198,51,100,9,19,136)\r\n", none},
	{"plain", helper.Reply, "227 Entering Passive Mode (198,51,100,9,19,136\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode |||5000|\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (||5000|)\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (|||5000)\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (||!5000|)\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (   5000 )\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (|1|198.51.100.9|5000|)\r\n", none},

	// numbers out of range
	{"plain", helper.Original, "PORT 192,0,2,258,4,210\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,260,210\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,4,99999999999999999999\r\n", none},
	{"plain", helper.Original, "PORT 192,0,2,2,0,0\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|0|\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|66770|\r\n", none},
	{"plain", helper.Original, "EPRT |1|192.0.2.2|99999999999|\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (|||70536|)\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (|||0|)\r\n", none},
	{"plain", helper.Reply, "229 Entering Extended Passive Mode (||||)\r\n", none},

	// IPv6
	{"ipv6", helper.Original, "EPRT |2|2001:db8::2|1234|\r\n",
		"accept; tcp [2001:db8:9::9]:* -> [2001:db8::2]:1234 or drop"},
	{"ipv6", helper.Original, "EPRT |2|2001:DB8:0:0:0:0:0:2|1234|\r\n",
		"accept; tcp [2001:db8:9::9]:* -> [2001:db8::2]:1234 or drop"},
	{"ipv6", helper.Reply, "229 Entering Extended Passive Mode (|||5000|)\r\n",
		"accept; tcp [2001:db8::2]:* -> [2001:db8:9::9]:5000 or drop"},
	{"ipv6", helper.Original, "EPRT |2|2001:db8::3|1234|\r\n", none},
	{"ipv6", helper.Original, "EPRT |2|2001:db8::2%eth0|1234|\r\n", none},
	{"ipv6", helper.Original, "EPRT |1|2001:db8::2|1234|\r\n", none},
	{"ipv6", helper.Original, "EPRT |3|2001:db8::2|1234|\r\n", none},
	{"ipv6", helper.Original, "EPRT |1|192.0.2.2|1234|\r\n", none},
	{"ipv6", helper.Original, "PORT 192,0,2,2,4,210\r\n", none},
	{"ipv6", helper.Reply, "227 Entering Passive Mode (198,51,100,9,19,136)\r\n", none},

	// a client behind NAT
	{"snat", helper.Original, "PORT 192,0,2,2,4,210\r\n",
		`accept; tcp 198.51.100.9:* -> 198.51.100.1:1234 nat=reply:1234 or drop; "PORT 198,51,100,1,4,210\r\n"`},
	{"snat", helper.Original, "EPRT !1!192.0.2.2!1234!\r\n",
		`accept; tcp 198.51.100.9:* -> 198.51.100.1:1234 nat=reply:1234 or drop; "EPRT |1|198.51.100.1|1234|\r\n"`},
	{"snat", helper.Original, "NOOP\r\nPORT 192,0,2,2,4,210\r\nPORT 192,0,2,2,4,211\r\nNOOP\r\n",
		"accept; tcp 198.51.100.9:* -> 198.51.100.1:1234 nat=reply:1234 or drop" +
			"; tcp 198.51.100.9:* -> 198.51.100.1:1235 nat=reply:1235 or drop" +
			`; "NOOP\r\nPORT 198,51,100,1,4,210\r\nPORT 198,51,100,1,4,211\r\nNOOP\r\n"`},
	{"snat", helper.Reply, "227 Entering Passive Mode (198,51,100,9,19,136)\r\n",
		"accept; tcp 192.0.2.2:* -> 198.51.100.9:5000 nat=original:5000 or drop" +
			`; "227 Entering Passive Mode (198,51,100,9,19,136)\r\n"`},
	{"snat", helper.Original, "PORT 198,51,100,1,4,210\r\n", // a client that knows its outer address
		`accept; tcp 198.51.100.9:* -> 198.51.100.1:1234 nat=reply:1234 or drop; "PORT 198,51,100,1,4,210\r\n"`},
	{"snat", helper.Original, "PORT 198,51,100,9,4,210\r\n", none},
	{"snat", helper.Original, "PORT 192,0,2,2,,\r\n", none},
	{"snat", helper.Original, "PORT 192,0,2,2,0,0\r\n", none},
	{"snat", helper.Original, "EPRT |1|192.0.2.2|99999999999|\r\n", none},
	{"snat6", helper.Original, "EPRT :2:2001.db8..2:1234:\r\n", none},
	{"snat6", helper.Original, "EPRT |2|2001:db8::2|1234|\r\n",
		`accept; tcp [2001:db8:9::9]:* -> [2001:db8:9::1]:1234 nat=reply:1234 or drop; "EPRT |2|2001:db8:9::1|1234|\r\n"`},

	// a server behind NAT
	{"dnat", helper.Reply, "227 Entering Passive Mode (192,0,2,2,19,136)\r\n",
		"accept; tcp 203.0.113.7:* -> 198.51.100.1:5000 nat=original:5000 or drop" +
			`; "227 Entering Passive Mode (198,51,100,1,19,136)\r\n"`},
	{"dnat", helper.Reply, "227 Entering Passive Mode (198,51,100,1,19,136)\r\n",
		"accept; tcp 203.0.113.7:* -> 198.51.100.1:5000 nat=original:5000 or drop" +
			`; "227 Entering Passive Mode (198,51,100,1,19,136)\r\n"`},
	{"dnat", helper.Reply, "229 Entering Extended Passive Mode (!!!5000!)\r\n",
		"accept; tcp 203.0.113.7:* -> 198.51.100.1:5000 nat=original:5000 or drop" +
			`; "229 Entering Extended Passive Mode (|||5000|)\r\n"`},
	{"dnat", helper.Original, "PORT 203,0,113,7,4,210\r\n",
		"accept; tcp 192.0.2.2:* -> 203.0.113.7:1234 nat=reply:1234 or drop" +
			`; "PORT 203,0,113,7,4,210\r\n"`},
}

func TestRead(t *testing.T) {
	for _, c := range segments {
		t.Run(fmt.Sprintf("%s %q", c.flow, c.segment), func(t *testing.T) {
			if got := greeted(t, c.flow).Send(c.dir, c.segment); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

// A truncated segment announces the same as the whole, or nothing.
func TestReadCutOff(t *testing.T) {
	for _, c := range segments {
		if c.flow != "plain" || c.want != active && c.want != passive {
			continue
		}
		for n := range c.segment {
			if got := greeted(t, c.flow).Send(c.dir, c.segment[:n]); got != none && got != c.want {
				t.Errorf("%q: %s", c.segment[:n], got)
			}
		}
	}
}

// The payload can be rewritten with another port than the announced one.
func TestAnnouncedPort(t *testing.T) {
	to := netip.MustParseAddrPort(firewall + ":65535")
	for i, want := range []string{"198,51,100,1,255,255", "|1|198.51.100.1|65535|", "198,51,100,1,255,255", "|||65535|"} {
		if got := announcements[i].write([]byte("-"), to); string(got) != "-"+want {
			t.Errorf("%s %q", announcements[i].verb, got)
		}
	}
}

func TestLineStarts(t *testing.T) {
	const port = "PORT 192,0,2,2,4,210\r\n"
	t.Run("first line", func(t *testing.T) {
		f := flows["plain"](t)
		if got := f.Send(helper.Original, port); got != none {
			t.Error(got)
		}
		if got := f.Send(helper.Original, port); got != active {
			t.Errorf("second line: %s", got)
		}
	})
	t.Run("elsewhere in the stream", func(t *testing.T) {
		f := greeted(t, "plain")
		f.Seq[helper.Original]++
		if got := f.Send(helper.Original, port); got != none {
			t.Error(got)
		}
		if got := f.Send(helper.Original, port); got != active {
			t.Errorf("after its end: %s", got)
		}
	})
	t.Run("within a line", func(t *testing.T) {
		f := greeted(t, "plain")
		f.Send(helper.Original, "RETR some")
		if got := f.Send(helper.Original, port); got != none {
			t.Error(got)
		}
		if got := f.Send(helper.Original, port); got != active {
			t.Errorf("after its end: %s", got)
		}
	})
	t.Run("of the other direction", func(t *testing.T) {
		f := greeted(t, "plain")
		f.Seq[helper.Reply] = f.Seq[helper.Original]
		if got := f.Send(helper.Reply, "229 (|||5000|)\r\n"); got != none {
			t.Error(got)
		}
	})
	t.Run("new flow", func(t *testing.T) {
		if got := greeted(t, "plain").SendAs(helper.New, port); got != none {
			t.Error(got)
		}
	})
	t.Run("answer without an end", func(t *testing.T) {
		f := greeted(t, "plain")
		if got := f.Send(helper.Reply, "227 (198,51,100,9,19,136)"); got != passive {
			t.Error(got)
		}
		if got := f.Send(helper.Reply, "227 (198,51,100,9,19,136)\r\n"); got != none {
			t.Errorf("what follows on the same line: %s", got)
		}
	})
	t.Run("after a refused command", func(t *testing.T) {
		f := greeted(t, "plain")
		if got := f.Send(helper.Original, "PORT 192,0,2,3,4,210\r\n"); got != none {
			t.Error(got)
		}
		if got := f.Send(helper.Original, port); got != active {
			t.Error(got)
		}
	})
	t.Run("segment without payload", func(t *testing.T) {
		f := greeted(t, "plain")
		f.Send(helper.Original, "")
		if got := f.Send(helper.Original, port); got != active {
			t.Error(got)
		}
	})
	for _, first := range []uint32{1000, 0xfffffff0, 0xfffffff8, 0xffffffff, 0x7ffffff0, 0} {
		t.Run(fmt.Sprintf("retransmission from %#x", first), func(t *testing.T) {
			f := flows["plain"](t)
			f.Seq[helper.Original] = first
			f.Send(helper.Original, "USER a\r\n")
			for range 3 {
				at := f.Seq[helper.Original]
				for _, again := range []string{"first", "second", "third"} {
					f.Seq[helper.Original] = at
					if got := f.Send(helper.Original, port); got != active {
						t.Errorf("%s at %#x: %s", again, at, got)
					}
				}
			}
			// The third last line is forgotten and does not displace newer ones.
			next := f.Seq[helper.Original]
			f.Seq[helper.Original] = first
			f.Send(helper.Original, "USER a\r\n")
			if got := f.Send(helper.Original, port); got != none {
				t.Errorf("old line: %s", got)
			}
			f.Seq[helper.Original] = next
			if got := f.Send(helper.Original, port); got != active {
				t.Errorf("line after an old one: %s", got)
			}
		})
	}
}

// The private data has the format of conntrack-tools.
func TestPrivateDataIsConntrackTools(t *testing.T) {
	f := flows["plain"](t)
	f.Seq = [2]uint32{0xfffffffe, 5000}
	for _, c := range []struct {
		dir  helper.Direction
		line string
		want string
	}{
		{helper.Reply, "220 hello\r\n", "0000000000000000 93130000 00000000 00000000 01000000"},
		{helper.Original, "USER a\r\n", "06000000 00000000 93130000 00000000 01000000 01000000"},
		{helper.Original, "RETR", "06000000 00000000 93130000 00000000 01000000 01000000"},
		{helper.Original, "\n", "06000000 0b000000 93130000 00000000 02000000 01000000"},
		{helper.Original, "\r\n", "0d000000 0b000000 93130000 00000000 02000000 01000000"},
	} {
		f.Send(c.dir, c.line)
		if got, want := hex.EncodeToString(f.Private), strings.ReplaceAll(c.want, " ", ""); got != want {
			t.Errorf("after %q %s, want %s", c.line, got, want)
		}
	}
	// invalid counts
	for i := range f.Private {
		f.Private[i] = 0xff
	}
	f.Send(helper.Original, "NOOP\r\n")
	f.Send(helper.Reply, "200 ok\r\n")
}

func info(d helper.Direction) helper.Info {
	if d == helper.Reply {
		return helper.EstablishedReply
	}
	return helper.Established
}

// Only announcements, and addresses to parse, cause allocations.
func TestReadAllocates(t *testing.T) {
	for _, c := range segments {
		if c.want != none || strings.HasPrefix(c.segment, "EPRT") {
			continue
		}
		if n := greeted(t, c.flow).Allocs(info(c.dir), c.segment); n != 0 {
			t.Errorf("%q allocates %v times", c.segment, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, payload := range map[string]string{
		"command":   "RETR some/file.tar.gz\r\n",
		"announced": "EPRT |1|192.0.2.2|1234|\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			greeted(b, "plain").Benchmark(b, helper.Established, payload)
		})
	}
}

// Every expected connection leads to the sender of the packet, and rewriting the payload with
// the announced address and port announces the same.
func FuzzRead(f *testing.F) {
	names := []string{"plain", "ipv6", "snat", "dnat", "snat6"}
	for _, c := range segments {
		f.Add([]byte(c.segment), c.dir == helper.Reply, uint8(slices.Index(names, c.flow)))
	}
	f.Fuzz(func(t *testing.T, payload []byte, reply bool, flow uint8) {
		dir := helper.Original
		if reply {
			dir = helper.Reply
		}
		p := greeted(t, names[int(flow)%len(names)]).Packet(info(dir), string(payload))
		private := slices.Clone(p.Private)
		var a, again helper.Answer
		Helper.Read(p, &a)
		if _, err := helpertest.Text(p, &a); err != nil {
			t.Fatal(err)
		}
		var edits []helper.Edit
		for i := range a.Expect {
			e := &a.Expect[i]
			if e.Src != netip.AddrPortFrom(p.Src(dir.Other()).Addr(), 0) || e.Dst.Addr() != p.Dst(dir.Other()).Addr() || e.Dst.Port() == 0 {
				t.Fatalf("%v -> %v", e.Src, e.Dst)
			}
			edits = e.AppendEdits(edits, netip.AddrPortFrom(p.Src(dir).Addr(), e.Dst.Port()))
		}
		var err error
		if p.Payload, err = helper.AppendPayload(nil, p.Payload, edits); err != nil {
			t.Fatal(err)
		}
		p.Private = private
		Helper.Read(p, &again)
		if !slices.EqualFunc(a.Expect, again.Expect, func(x, y helper.Expectation) bool { return x.Dst == y.Dst }) {
			t.Fatalf("%q announces %v, %q %v", payload, a.Expect, p.Payload, again.Expect)
		}
	})
}
