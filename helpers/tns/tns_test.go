package tns

import (
	"bytes"
	"encoding/binary"
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
	stranger = "203.0.113.77" // a client outside, of a server behind NAT
)

// flows are the flows of the tests. In "dnat" the server is behind NAT and has the address
// that is the client's in the others.
var flows = map[string]func(testing.TB) *helpertest.Flow{
	"plain": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":1521")
	},
	"ipv6": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, "[2001:db8::2]:43086", "[2001:db8:9::9]:1521")
	},
	"snat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":1521", server+":1521", firewall+":43086")
	},
	"dnat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, stranger+":43086", firewall+":1521", client+":1521", stranger+":43086")
	},
	"dnat6": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP,
			"[2001:db8:7::7]:43086", "[2001:db8:9::1]:1521", "[2001:db8::2]:1521", "[2001:db8:7::7]:43086")
	},
}

// tns returns a packet with this type and body.
func tns(kind byte, body string) string {
	b := binary.BigEndian.AppendUint16(nil, uint16(headerLen+len(body)))
	return string(append(b, 0, 0, kind, 0, 0, 0)) + body
}

func redirect(text string) string {
	return tns(typeRedirect, string(binary.BigEndian.AppendUint16(nil, uint16(len(text))))+text)
}

func data(text string) string { return tns(typeData, "\x00\x00"+text) }

const (
	none      = "accept"
	text      = "(ADDRESS=(PROTOCOL=tcp)(DEV=8)(HOST=198.51.100.9)(PORT=32771))"
	announces = "accept; tcp 192.0.2.2:* -> 198.51.100.9:32771 or drop"
)

// texts are texts of a REDIRECT with the expectations that follow from them.
var texts = []struct{ flow, text, want string }{
	{"plain", text, announces},
	{"plain", "(DESCRIPTION=(ADDRESS=(PROTOCOL=tcp)(HOST=203.0.113.8)(PORT=1526)))",
		"accept; tcp 192.0.2.2:* -> 203.0.113.8:1526 or drop"},
	{"plain", "(ADDRESS=(HOST= 198.51.100.9 )(PORT= 1526 ))", "accept; tcp 192.0.2.2:* -> 198.51.100.9:1526 or drop"},
	{"plain", "(HOST=198.51.100.9)(PORT=1526)", "accept; tcp 192.0.2.2:* -> 198.51.100.9:1526 or drop"},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(A=(B=1))(PORT=1526))", "accept; tcp 192.0.2.2:* -> 198.51.100.9:1526 or drop"},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=1526))\x00(DESCRIPTION=(HOST=203.0.113.8)(PORT=1))",
		"accept; tcp 192.0.2.2:* -> 198.51.100.9:1526 or drop"},
	{"plain", "(ADDRESS=(HOST=dbhost)(PORT=1526))", none},
	{"plain", "(ADDRESS=(HOST=dbhost)(PORT=1526))\x00(ADDRESS=(HOST=203.0.113.8)(PORT=1))", none},
	{"plain", "(ADDRESS=(A=B))\x00(ADDRESS=(HOST=203.0.113.8)(PORT=1))", none},
	{"plain", "(ADDRESS=(PORT=1526)(HOST=198.51.100.9))", none},
	{"plain", "(A=(ADDRESS=(PORT=1526)(HOST=198.51.100.9))(ADDRESS=(PORT=1)(HOST=203.0.113.8)))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(A=(PORT=1526)))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)PORT=1526)", none},
	{"plain", "(address=(host=198.51.100.9)(port=1526))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=0))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=65536))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=99999999999999999999))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=-1))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=  ))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=1526x))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9)(PORT=1526", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9(PORT=1526))", none},
	{"plain", "(ADDRESS=(HOST=198.51.300.9)(PORT=1526))", none},
	{"plain", "(ADDRESS=(HOST=198.51.100.9.1)(PORT=1526))", none},
	{"plain", "(ADDRESS=(HOST=2001:db8:9::9)(PORT=1526))", none},
	{"plain", "(ADDRESS=(HOST=)(PORT=1526))", none},
	{"plain", "HOST=198.51.100.9)(PORT=1526)", none},
	{"plain", "(", none},
	{"plain", "no address", none},
	{"ipv6", "(ADDRESS=(HOST=2001:DB8:9:0::9)(PORT=1526))", "accept; tcp [2001:db8::2]:* -> [2001:db8:9::9]:1526 or drop"},
	{"ipv6", "(ADDRESS=(HOST=198.51.100.9)(PORT=1526))", none},

	// The client is behind NAT: the text is unchanged, and flows to another host are left to rules.
	{"snat", text, "accept; tcp 192.0.2.2:* -> 198.51.100.9:32771 nat=original:32771 or drop"},
	{"snat", "(ADDRESS=(HOST=203.0.113.8)(PORT=1526))", "accept; tcp 192.0.2.2:* -> 203.0.113.8:1526 or drop"},
	// The server is behind NAT: the client gets the address that it knows.
	{"dnat", "(ADDRESS=(HOST=192.0.2.2)(PORT=1526))", "accept; tcp 203.0.113.77:* -> 198.51.100.1:1526 nat=original:1526 or drop"},
	{"dnat", "(ADDRESS=(HOST= 192.0.2.2 )(DEV=8)(PORT= 1526 ))\x00(A=B)",
		"accept; tcp 203.0.113.77:* -> 198.51.100.1:1526 nat=original:1526 or drop"},
	{"dnat", "(ADDRESS=(HOST=198.51.100.1)(PORT=1526))", "accept; tcp 203.0.113.77:* -> 198.51.100.1:1526 nat=original:1526 or drop"},
	{"dnat", "(ADDRESS=(HOST=192.0.2.3)(PORT=1526))", "accept; tcp 203.0.113.77:* -> 192.0.2.3:1526 or drop"},
	{"dnat6", "(ADDRESS=(HOST=2001:db8::2)(PORT=1526))",
		"accept; tcp [2001:db8:7::7]:* -> [2001:db8:9::1]:1526 nat=original:1526 or drop"},
}

// rewritten replaces the private addresses of a text by the translated ones.
var rewritten = strings.NewReplacer("192.0.2.2", firewall, "2001:db8::2", "2001:db8:9::1")

func TestRead(t *testing.T) {
	for _, c := range texts {
		for _, packet := range []func(string) string{redirect, data} {
			t.Run(fmt.Sprintf("%s %q", c.flow, packet(c.text)), func(t *testing.T) {
				f := flows[c.flow](t)
				want := c.want
				if strings.Contains(want, "nat=") {
					want += fmt.Sprintf("; %q", packet(rewritten.Replace(c.text)))
				}
				if packet(c.text)[typeAt] == typeData {
					if got := f.Send(helper.Reply, redirect("")); got != none || f.Private[0] != textToCome {
						t.Errorf("REDIRECT without text: %s, private %x", got, f.Private)
					}
				}
				if got := f.Send(helper.Reply, packet(c.text)); got != want {
					t.Errorf("%s\nwant %s", got, want)
				}
				if f.Private[0] != ordinary {
					t.Errorf("private %x", f.Private)
				}
				if got := f.Send(helper.Reply, data(c.text)); got != none {
					t.Errorf("later DATA: %s", got)
				}
			})
		}
	}
}

func TestReadPackets(t *testing.T) {
	unhex := func(text string) string {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const accept = 2
	type sent struct {
		info    helper.Info
		payload string
		want    string
		private byte
	}
	const reply, original = helper.EstablishedReply, helper.Established
	for _, c := range []struct {
		name  string
		steps []sent
	}{
		{"as captured", []sent{{reply, unhex("0048 0000 05 00 0000 003e") + text, announces, 0}}},
		{"REDIRECT without text, DATA", []sent{{reply, unhex("000a 0000 05 00 0000 0000"), none, 1}, {reply, data(text), announces, 0}}},
		{"REDIRECT with the length of DATA", []sent{{reply, unhex("000a 0000 05 00 0000 003e"), none, 1}, {reply, data(text), announces, 0}}},
		{"both in a segment", []sent{{reply, redirect("") + data(text), announces, 0}}},
		{"behind a short packet", []sent{{reply, tns(11, "") + redirect(text), announces, 0}}},
		{"something else in between", []sent{{reply, redirect(""), none, 1}, {reply, tns(accept, "abcd"), none, 0}, {reply, data(text), none, 0}}},
		{"acknowledgement in between", []sent{{reply, redirect(""), none, 1}, {reply, "", none, 1}, {reply, data(text), announces, 0}}},
		{"client in between", []sent{{reply, redirect(""), none, 1}, {original, data("x"), none, 1}, {reply, data(text), announces, 0}}},
		{"half a header in between", []sent{{reply, redirect(""), none, 1}, {reply, "\x00\x0a\x00", none, 0}}},
		{"DATA without flags", []sent{{reply, redirect(""), none, 1}, {reply, tns(typeData, "\x00"), none, 0}}},
		{"DATA alone", []sent{{reply, data(text), none, 0}}},
		{"of the client", []sent{{original, redirect(text), none, 0}, {helper.New, redirect(text), none, 0}}},
		{"of a flow without a connection", []sent{{helper.RelatedReply, redirect(text), none, 0}}},
		{"another type", []sent{{reply, tns(accept, redirect(text)[headerLen:]), none, 0}}},
		{"length shorter than the header", []sent{{reply, "\x00\x07" + redirect(text)[2:], none, 0}}},
		{"length without the data's", []sent{{reply, "\x00\x09" + redirect(text)[2:], none, 0}}},
		{"length that ends within the text", []sent{{reply, "\x00\x40" + redirect(text)[2:], none, 0}}},
		{"data length that ends within the text", []sent{{reply, redirect(text)[:8] + "\x00\x10" + text, none, 0}}},
		{"lengths beyond the segment", []sent{{reply, "\xff\xff" + redirect(text)[2:8] + "\xff\xff" + text, announces, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := flows["plain"](t)
			for _, s := range c.steps {
				if got := f.SendAs(s.info, s.payload); got != s.want || f.Private[0] != s.private {
					t.Errorf("%q: %s, private %x, want %s, %02x", s.payload, got, f.Private, s.want, s.private)
				}
			}
		})
	}
}

// An address and a port of other lengths change the packet's length, anywhere in the segment,
// and clear the checksums.
func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		name, before, packet, to, want string
	}{
		{"longer", "", redirect("(HOST=192.0.2.2)(DEV=8)(PORT=9))"), "198.51.100.1:65535", redirect("(HOST=198.51.100.1)(DEV=8)(PORT=65535))")},
		{"shorter", "", redirect("(HOST=192.0.2.2)(PORT=65535))"), "192.0.2.1:9", redirect("(HOST=192.0.2.1)(PORT=9))")},
		{"equal", "", redirect("(HOST=192.0.2.2)(PORT=65535))"), "192.0.2.1:65534", redirect("(HOST=192.0.2.1)(PORT=65534))")},
		{"beyond the segment", "", "\xff\xfd" + redirect("(HOST=192.0.2.2)(PORT=9))")[2:], "198.51.100.1:9", "\xff\xff" + redirect("(HOST=198.51.100.1)(PORT=9))")[2:]},
		{"DATA", redirect(""), data("(HOST=192.0.2.2)(PORT=9))"), "198.51.100.1:65535", data("(HOST=198.51.100.1)(PORT=65535))")},
	} {
		t.Run(c.name, func(t *testing.T) {
			packet := []byte(c.before + c.packet)
			copy(packet[len(c.before)+checkAt:], "\x12\x34")
			copy(packet[len(c.before)+headerCheckAt:], "\x56\x78")
			p, a := flows["dnat"](t).Packet(helper.EstablishedReply, string(packet)), helper.Answer{}
			Helper.Read(p, &a)
			if len(a.Expect) != 1 {
				t.Fatalf("%d expectations", len(a.Expect))
			}
			got, err := helper.AppendPayload(nil, p.Payload, a.Expect[0].AppendEdits(nil, netip.MustParseAddrPort(c.to)))
			if err != nil || string(got) != c.before+c.want {
				t.Errorf("%q, %v, want %q", got, err, c.before+c.want)
			}
		})
	}
}

// A truncated segment announces the same as the whole, or nothing.
func TestReadCutOff(t *testing.T) {
	for _, packet := range []string{redirect(text), redirect("") + data(text)} {
		for n := range packet {
			if got := flows["plain"](t).Send(helper.Reply, packet[:n]); got != none && got != announces {
				t.Errorf("%q: %s", packet[:n], got)
			}
		}
		if got := flows["plain"](t).Send(helper.Reply, packet); got != announces {
			t.Errorf("%q: %s", packet, got)
		}
	}
}

// Only announcements, and addresses to parse, cause allocations.
func TestReadAllocates(t *testing.T) {
	var packets []string
	for _, c := range texts {
		if c.flow == "plain" && c.want == none && (!strings.Contains(c.text, "HOST=") || strings.Contains(c.text, "dbhost")) {
			packets = append(packets, redirect(c.text))
		}
	}
	packets = append(packets, "", redirect(""), data("row"), tns(2, "accepted"), strings.Repeat("\x00\x08\x00\x00\x06\x00\x00\x00", 100))
	for _, payload := range packets {
		if n := flows["plain"](t).Allocs(helper.EstablishedReply, payload); n != 0 {
			t.Errorf("%q allocates %v times", payload, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for name, payload := range map[string]string{
		"data":      data(strings.Repeat("row", 400)),
		"announced": redirect(text),
	} {
		b.Run(name, func(b *testing.B) {
			flows["plain"](b).Benchmark(b, helper.EstablishedReply, payload)
		})
	}
}

// Every expected connection comes from the client, and rewriting the payload with the
// announced address and port announces the same.
func FuzzRead(f *testing.F) {
	names := []string{"plain", "ipv6", "snat", "dnat", "dnat6"}
	for _, c := range texts {
		flow := uint8(slices.Index(names, c.flow))
		f.Add([]byte(redirect(c.text)), false, flow)
		f.Add([]byte(data(c.text)), true, flow)
		f.Add([]byte(redirect("")+data(c.text)), false, flow)
	}
	f.Fuzz(func(t *testing.T, payload []byte, toCome bool, flow uint8) {
		p := flows[names[int(flow)%len(names)]](t).Packet(helper.EstablishedReply, string(payload))
		read := func() (a helper.Answer) {
			p.Private[0] = ordinary
			if toCome {
				p.Private[0] = textToCome
			}
			Helper.Read(p, &a)
			return a
		}
		a := read()
		if _, err := helpertest.Text(p, &a); err != nil {
			t.Fatal(err)
		}
		if len(a.Expect) == 0 {
			return
		}
		e := &a.Expect[0]
		if len(a.Expect) > 1 || e.Src != netip.AddrPortFrom(p.Src(helper.Original).Addr(), 0) || e.Dst.Port() == 0 {
			t.Fatalf("%v", a.Expect)
		}
		if e.Announced == nil {
			return
		}
		if bytes.IndexByte(payload[e.Announced.At:][:e.Announced.Len], ')') < 0 {
			t.Fatalf("%q", payload[e.Announced.At:][:e.Announced.Len])
		}
		var err error
		if p.Payload, err = helper.AppendPayload(nil, p.Payload, e.AppendEdits(nil, netip.AddrPortFrom(p.Src(helper.Reply).Addr(), e.Dst.Port()))); err != nil {
			t.Fatal(err)
		}
		if again := read(); len(again.Expect) != 1 || again.Expect[0].Dst != e.Dst {
			t.Fatalf("%q announces %v, %q %v", payload, e.Dst, p.Payload, again.Expect)
		}
	})
}
