package amanda

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
)

// The tape server asks, the backup client answers.
const (
	tape     = "192.0.2.2"
	client   = "198.51.100.9"
	firewall = "198.51.100.1" // the translated address
	stranger = "203.0.113.7"  // a tape server outside, of a client behind NAT
)

var flows = map[string]func(testing.TB) *helpertest.Flow{
	"plain": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_UDP, tape+":900", client+":10080")
	},
	"ipv6": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_UDP, "[2001:db8::2]:900", "[2001:db8:9::9]:10080")
	},
	"snat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_UDP, tape+":900", client+":10080", client+":10080", firewall+":900")
	},
	"dnat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_UDP, stranger+":900", firewall+":10080", tape+":10080", stranger+":900")
	},
}

const (
	none = "accept; timeout 5m0s"
	exp  = "; tcp 192.0.2.2:* -> 198.51.100.9:%d"
)

// ports returns the answer to a reply that announces these ports.
func ports(format string, n ...int) string {
	var b strings.Builder
	b.WriteString(none)
	for _, port := range n {
		fmt.Fprintf(&b, format, port)
	}
	return b.String()
}

var replies = []struct {
	flow, reply string
	want        string
}{
	{"plain", "Amanda REP\nCONNECT DATA 50001 MESG 50002 INDEX 50003\n", ports(exp, 50001, 50002, 50003)},
	{"plain", "Amanda 3.5 REP HANDLE 000-00000008 SEQ 1\nCONNECT DATA 1 MESG 65535 INDEX 00003\nOPTIONS features=ff;\n", ports(exp, 1, 65535, 3)},
	{"plain", "CONNECT DATA 50001 MESG 50002 INDEX 50003", ports(exp, 50001, 50002, 50003)},
	{"plain", "CONNECT MESG 50002 DATA 50001\n", ports(exp, 50002, 50001)},
	{"plain", "CONNECT INDEX 50003 MESG 50002 DATA 50001\n", ports(exp, 50003, 50002, 50001)},
	{"plain", "CONNECT DATA 50001 DATA 50002\n", ports(exp, 50001)},
	{"plain", "CONNECT DATA 50001\nMESG 50002\n", ports(exp, 50001)},
	{"plain", "CONNECT DATA 50001\nOPTIONS MESG 50002 INDEX 50003\n", ports(exp, 50001)},
	{"plain", "CONNECT DATA 50001\x00 MESG 50002\n", ports(exp, 50001)},
	{"plain", "CONNECT DATA 99999 MESG 50002 INDEX 0\n", ports(exp, 50002)},
	{"plain", "CONNECT DATA 000001\n", none},
	{"plain", "CONNECT DATA 123456 \n", none},
	{"plain", "CONNECT DATA 99999999999999999999\n", none},
	{"plain", "CONNECT DATA 0 \n", none},
	{"plain", "CONNECT DATA  50001\n", none},
	{"plain", "CONNECT DATA\n50001\n", none},
	{"plain", "CONNECT DATA -1\n", none},
	{"plain", "CONNECT DATA \n", none},
	{"plain", "CONNECT \nDATA 5", none},
	{"plain", "CONNECT METADATA 5\n", none},
	{"plain", "connect DATA 5", none},
	{"plain", "DATA 5 CONNECT ", none},
	{"plain", "\x00CONNECT DATA 5", none},
	{"plain", "hello", none},
	{"plain", "", none},
	{"ipv6", "CONNECT DATA 50001 MESG 50002\n", ports("; tcp [2001:db8::2]:* -> [2001:db8:9::9]:%d", 50001, 50002)},
	{"snat", "CONNECT DATA 50001 MESG 50002 INDEX 50003\n",
		ports("; tcp 192.0.2.2:* -> 198.51.100.9:%[1]d nat=original:%[1]d or drop", 50001, 50002, 50003) +
			`; "CONNECT DATA 50001 MESG 50002 INDEX 50003\n"`},
	{"dnat", "CONNECT INDEX 3 MESG 50002 DATA 07 \nOPTIONS ;\n",
		ports("; tcp 203.0.113.7:* -> 198.51.100.1:%[1]d nat=original:%[1]d or drop", 3, 50002, 7) +
			`; "CONNECT INDEX 3 MESG 50002 DATA 7 \nOPTIONS ;\n"`},
	{"snat", "hello", none},
}

func TestRead(t *testing.T) {
	for _, c := range replies {
		t.Run(fmt.Sprintf("%s %q", c.flow, c.reply), func(t *testing.T) {
			f := flows[c.flow](t)
			if got := f.Send(helper.Original, c.reply); got != "accept" {
				t.Errorf("as a request: %s", got)
			}
			if got := f.Send(helper.Reply, c.reply); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		})
	}
}

// Each of the three ports is replaced in its place, also by a longer or shorter number.
func TestRewrite(t *testing.T) {
	var a helper.Answer
	p := flows["snat"](t).Packet(helper.EstablishedReply, "CONNECT DATA 50001 MESG 50002 INDEX 50003\nOPTIONS ;\n")
	Helper.Read(p, &a)
	var edits []helper.Edit
	for i, port := range []uint16{9, 65535, 1024} {
		edits = a.Expect[i].AppendEdits(edits, netip.AddrPortFrom(netip.MustParseAddr(firewall), port))
	}
	got, err := helper.AppendPayload(nil, p.Payload, edits)
	if want := "CONNECT DATA 9 MESG 65535 INDEX 1024\nOPTIONS ;\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// A truncated datagram announces no port that the whole one does not, except for a port
// whose digits are cut.
func TestReadCutOff(t *testing.T) {
	const whole = "Amanda REP\nCONNECT DATA 50001 MESG 50002 INDEX 50003\n"
	for n := range whole {
		got := flows["plain"](t).Send(helper.Reply, whole[:n])
		announced := strings.TrimPrefix(got, none)
		if i := strings.LastIndexByte(announced, ':'); i >= 0 && strings.HasSuffix(whole[:n], " "+announced[i+1:]) {
			announced = announced[:i] // the number that the text ends with
		}
		if !strings.HasPrefix(got, none) || !strings.HasPrefix(ports(exp, 50001, 50002, 50003), none+announced) {
			t.Errorf("%q: %s", whole[:n], got)
		}
	}
}

func TestReadAllocates(t *testing.T) {
	for _, c := range replies {
		if c.want != none {
			continue
		}
		if n := flows[c.flow](t).Allocs(helper.EstablishedReply, c.reply); n != 0 {
			t.Errorf("%q allocates %v times", c.reply, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, payload := range map[string]string{
		"estimate":  "Amanda 3.5 REP HANDLE 000-00000008 SEQ 1\nOPTIONS features=ffff;\n/home 0 SIZE 123456\n/ 1 SIZE 42\n",
		"announced": "Amanda 3.5 REP HANDLE 000-00000008 SEQ 1\nCONNECT DATA 50001 MESG 50002 INDEX 50003\n",
	} {
		b.Run(name, func(b *testing.B) {
			flows["plain"](b).Benchmark(b, helper.EstablishedReply, payload)
		})
	}
}

// Every expected connection leads to the sender of the packet, and the payload has its port
// at the announced offset.
func FuzzRead(f *testing.F) {
	names := []string{"plain", "ipv6", "snat", "dnat"}
	for _, c := range replies {
		for i, name := range names {
			if name == c.flow {
				f.Add([]byte(c.reply), uint8(i))
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte, flow uint8) {
		p := flows[names[int(flow)%len(names)]](t).Packet(helper.EstablishedReply, string(payload))
		var a helper.Answer
		Helper.Read(p, &a)
		if _, err := helpertest.Text(p, &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Expect) > int(Helper.ExpectMax) {
			t.Fatalf("%d expectations", len(a.Expect))
		}
		for _, e := range a.Expect {
			if e.Src != netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0) || e.Dst.Addr() != p.Dst(helper.Original).Addr() || e.Dst.Port() == 0 {
				t.Fatalf("%v -> %v", e.Src, e.Dst)
			}
			text := payload[e.Announced.At:][:e.Announced.Len]
			if port, digits := helper.Number(text, 65535); digits != len(text) || uint16(port) != e.Dst.Port() {
				t.Fatalf("port %d announced as %q", e.Dst.Port(), text)
			}
		}
	})
}
