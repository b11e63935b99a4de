package rtsp

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/helpers/helper"
	"ctbox/helpers/helper/helpertest"
	"ctbox/internal/seeds"
)

// The hosts of the tests.
const (
	client   = "192.0.2.2"
	server   = "198.51.100.9"
	firewall = "198.51.100.1" // what the other side sees behind NAT
	stranger = "203.0.113.7"  // a client of a hidden server
	media    = "198.51.100.77"
)

// flows are those that the tests use. In "dnat" the server is hidden at the address that
// elsewhere is the client's.
var flows = map[string]func(testing.TB) *helpertest.Flow{
	"plain": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":554")
	},
	"ipv6": func(t testing.TB) *helpertest.Flow {
		return helpertest.New(t, Helper, unix.IPPROTO_TCP, "[2001:db8::2]:43086", "[2001:db8:9::9]:554")
	},
	"snat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, client+":43086", server+":554", server+":554", firewall+":43086")
	},
	"dnat": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP, stranger+":43086", firewall+":554", client+":554", stranger+":43086")
	},
	"snat6": func(t testing.TB) *helpertest.Flow {
		return helpertest.NATed(t, Helper, unix.IPPROTO_TCP,
			"[2001:db8::2]:43086", "[2001:db8:9::9]:554", "[2001:db8:9::9]:554", "[2001:db8:9::1]:43086")
	},
}

var names = []string{"plain", "ipv6", "snat", "dnat", "snat6"}

const (
	options = "OPTIONS rtsp://198.51.100.9/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
	none    = "accept"
)

// open returns a flow after a first request.
func open(t testing.TB, flow string) *helpertest.Flow {
	t.Helper()
	f := flows[flow](t)
	if got := f.Send(helper.Original, options); got != none {
		t.Fatalf("first request: %s", got)
	}
	return f
}

// offered returns a flow after a SETUP with client_port=4588-4589.
func offered(t testing.TB, flow string) *helpertest.Flow {
	t.Helper()
	f := open(t, flow)
	if got := f.Send(helper.Original, request("RTP/AVP;unicast;client_port=4588-4589")); got == none {
		t.Fatal("SETUP announces nothing")
	}
	return f
}

func request(transport string) string {
	return "SETUP rtsp://198.51.100.9/track1 RTSP/1.0\r\nCSeq: 3\r\nTransport: " + transport + "\r\nUser-Agent: test\r\n\r\n"
}

func reply(transport string) string {
	return "RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: 47112344;timeout=60\r\nTransport: " + transport + "\r\n\r\n"
}

// Transports that a client offers, and what comes of them. Rewritten is the header's new value,
// "" where the packet is not rewritten.
var offers = []struct{ flow, transport, want, rewritten string }{
	{"plain", "RTP/AVP;unicast;client_port=4588-4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP/UDP;unicast;CLIENT_PORT=4588-4589;mode=\"PLAY\"", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP ; unicast ; client_port=4588-4589 ", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;mode=\"PLAY,RECORD;x\";client_port=4588-4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "client_port=4588-4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588/4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588/6000", "udp 198.51.100.9:* -> 192.0.2.2:4588; udp 198.51.100.9:* -> 192.0.2.2:6000", ""},
	{"plain", "RTP/AVP;unicast;client_port=4589/4588", "udp 198.51.100.9:* -> 192.0.2.2:4589; udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	{"plain", "MP2T/H2221/UDP;unicast;client_port=4588", "udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4588", "udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4595", "udp 198.51.100.9:* -> 192.0.2.2:4588-4595", ""},
	{"plain", "RTP/AVP;unicast;client_port=65534-65535", "udp 198.51.100.9:* -> 192.0.2.2:65534-65535", ""},
	// several transports, the same ports or others
	{"plain", "RTP/AVP/UDP;unicast;client_port=4588-4589,RTP/AVP;unicast;client_port=4588-4589,RTP/AVP/TCP;interleaved=0-1",
		"udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "x-real-rdt/udp;client_port=4588;mode=play,RTP/AVP;unicast;client_port=4600-4601",
		"udp 198.51.100.9:* -> 192.0.2.2:4588; udp 198.51.100.9:* -> 192.0.2.2:4600-4601", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4589\r\nTransport: RTP/AVP;unicast;client_port=4600-4601",
		"udp 198.51.100.9:* -> 192.0.2.2:4588-4589; udp 198.51.100.9:* -> 192.0.2.2:4600-4601", ""},
	{"plain", "RTP/AVP/TCP;unicast;interleaved=0-1", "", ""},
	{"plain", "RTP/AVP/TCP;unicast;client_port=4588-4589", "", ""},
	{"plain", "RTP/AVP;multicast;port=4588-4589;ttl=127", "", ""},
	{"plain", "RTP/AVP;multicast;client_port=4588-4589", "", ""},
	// the client's own address, or another host's
	{"plain", "RTP/AVP;unicast;destination=192.0.2.2;client_port=4588-4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;destination=192.0.2.2:4588", "udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	{"plain", "RTP/AVP;unicast;destination=192.0.2.2:4588;client_port=4588-4589", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4589;destination=192.0.2.2:4588", "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;destination=192.0.2.3;client_port=4588-4589", "", ""},
	{"plain", "RTP/AVP;unicast;destination=tv.example;client_port=4588-4589", "", ""},
	{"plain", "RTP/AVP;unicast;destination=192.0.2.3:4588", "", ""},
	// RTSP 2.0
	{"plain", `RTP/AVP/UDP;unicast;dest_addr=":4588"/":4589"`, "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", `RTP/AVP/UDP;unicast;dest_addr="192.0.2.2:4588"/"192.0.2.2:4589";mode="PLAY"`, "udp 198.51.100.9:* -> 192.0.2.2:4588-4589", ""},
	{"plain", `RTP/AVP/UDP;unicast;dest_addr="192.0.2.2:4588"/"192.0.2.3:4589"`, "", ""},
	{"plain", `RTP/AVP/UDP;unicast;dest_addr=":4588"`, "udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	// not the grammar
	{"plain", "RTP/AVP;unicast;client_port=", "", ""},
	{"plain", "RTP/AVP;unicast;client_port", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=0-1", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4589-4590", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588,4589", "udp 198.51.100.9:* -> 192.0.2.2:4588", ""},
	{"plain", "RTP/AVP;unicast;client_port=4589-4588", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4596", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=65535-65536", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=99999999999", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588x", "", ""},
	{"plain", "RTP/AVP;unicast;xclient_port=4588-4589", "", ""},
	{"plain", "", "", ""},

	{"ipv6", "RTP/AVP;unicast;client_port=4588-4589", "udp [2001:db8:9::9]:* -> [2001:db8::2]:4588-4589", ""},
	{"ipv6", "RTP/AVP;unicast;destination=2001:db8::2;client_port=4588-4589", "udp [2001:db8:9::9]:* -> [2001:db8::2]:4588-4589", ""},
	{"ipv6", "RTP/AVP;unicast;destination=[2001:DB8::2]:4588", "udp [2001:db8:9::9]:* -> [2001:db8::2]:4588", ""},
	{"ipv6", `RTP/AVP;unicast;dest_addr="[2001:db8::2]:4588"/"[2001:db8::2]:4589"`, "udp [2001:db8:9::9]:* -> [2001:db8::2]:4588-4589", ""},
	{"ipv6", "RTP/AVP;unicast;destination=192.0.2.2;client_port=4588-4589", "", ""},
	{"ipv6", "RTP/AVP;unicast;destination=[2001:db8::2;client_port=4588-4589", "udp [2001:db8:9::9]:* -> [2001:db8::2]:4588-4589", ""},

	// a client behind NAT: its address is the firewall's for the server
	{"snat", "RTP/AVP;unicast;client_port=4588-4589",
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588", "RTP/AVP;unicast;client_port=4588-4589"},
	{"snat", "RTP/AVP;unicast;destination=192.0.2.2;client_port=4588-4589",
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588", "RTP/AVP;unicast;destination=198.51.100.1;client_port=4588-4589"},
	{"snat", "RTP/AVP;unicast;client_port=4588-4589;destination=\"192.0.2.2\"",
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588", "RTP/AVP;unicast;client_port=4588-4589;destination=\"198.51.100.1\""},
	{"snat", "RTP/AVP;unicast;destination=192.0.2.2:4588",
		"udp 198.51.100.9:* -> 198.51.100.1:4588 nat=reply:4588", "RTP/AVP;unicast;destination=198.51.100.1:4588"},
	{"snat", "RTP/AVP;unicast;destination=198.51.100.1;client_port=4588-4589", // a client that knows its outer address
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588", "RTP/AVP;unicast;destination=198.51.100.1;client_port=4588-4589"},
	{"snat", "RTP/AVP;unicast;destination=192.0.2.3;client_port=4588-4589", "", ""},
	{"snat", `RTP/AVP;unicast;dest_addr="192.0.2.2:4588"/"192.0.2.2:4589"`,
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588", `RTP/AVP;unicast;dest_addr="198.51.100.1:4588"/"198.51.100.1:4589"`},
	{"snat", "A;client_port=4588-4589,B;client_port=4600/4700,C;client_port=4588-4589",
		"udp 198.51.100.9:* -> 198.51.100.1:4588-4589 nat=reply:4588; udp 198.51.100.9:* -> 198.51.100.1:4600 nat=reply:4600; " +
			"udp 198.51.100.9:* -> 198.51.100.1:4700 nat=reply:4700", "A;client_port=4588-4589,B;client_port=4600/4700,C;client_port=4588-4589"},
	{"snat6", "RTP/AVP;unicast;destination=[2001:db8::2]:4588",
		"udp [2001:db8:9::9]:* -> [2001:db8:9::1]:4588 nat=reply:4588", "RTP/AVP;unicast;destination=[2001:db8:9::1]:4588"},
	{"snat6", "RTP/AVP/TCP;unicast;interleaved=0-1;destination=2001:db8::2", "", ""},

	// a server behind NAT
	{"dnat", "RTP/AVP;unicast;client_port=4588-4589",
		"udp 192.0.2.2:* -> 203.0.113.7:4588-4589 nat=reply:4588", "RTP/AVP;unicast;client_port=4588-4589"},
}

// want is an answer as helpertest has it.
func want(expect, rewritten string, message func(string) string) string {
	text := none
	if expect != "" {
		text += "; " + expect
	}
	if rewritten != "" {
		text += fmt.Sprintf("; %q", message(rewritten))
	}
	return text
}

func TestOffer(t *testing.T) {
	for _, c := range offers {
		t.Run(c.flow+" "+c.transport, func(t *testing.T) {
			if got, want := open(t, c.flow).Send(helper.Original, request(c.transport)), want(c.want, c.rewritten, request); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

// Answers to client_port=4588-4589.
var answers = []struct{ flow, transport, want, rewritten string }{
	{"plain", "RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257", "udp 192.0.2.2:* -> 198.51.100.9:6256-6257", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4589;server_port=6256", "udp 192.0.2.2:* -> 198.51.100.9:6256", ""},
	{"plain", "RTP/AVP;unicast;client_port=4588-4589;server_port=6256/7000;ssrc=1234ABCD",
		"udp 192.0.2.2:* -> 198.51.100.9:6256; udp 192.0.2.2:* -> 198.51.100.9:7000", ""},
	{"plain", "RTP/AVP;unicast;destination=192.0.2.2;source=198.51.100.9;client_port=4588-4589;server_port=6256-6257",
		"udp 192.0.2.2:* -> 198.51.100.9:6256-6257", ""},
	{"plain", "RTP/AVP;unicast;source=media.example;client_port=4588-4589;server_port=6256-6257",
		"udp 192.0.2.2:* -> 198.51.100.9:6256-6257", ""},
	{"plain", "RTP/AVP;unicast;server_port=6256-6257", "udp 192.0.2.2:* -> 198.51.100.9:6256-6257", ""}, // the client's is left out
	{"plain", "RTP/AVP;unicast;client_port=4588-4589", "", ""},
	{"plain", "RTP/AVP/TCP;unicast;interleaved=0-1", "", ""},
	{"plain", "RTP/AVP;multicast;destination=233.252.0.1;port=4588-4589", "", ""},
	// ports that the client has not announced
	{"plain", "RTP/AVP;unicast;client_port=22-23;server_port=6256-6257", "", ""},
	{"plain", "RTP/AVP;unicast;client_port=22;source=198.51.100.77", "", ""},
	// media from another host
	{"plain", "RTP/AVP;unicast;source=198.51.100.77;client_port=4588-4589;server_port=6256-6257",
		"udp 198.51.100.77:* -> 192.0.2.2:4588-4589; udp 192.0.2.2:* -> 198.51.100.77:6256-6257", ""},
	{"plain", "RTP/AVP;unicast;source=198.51.100.77", "udp 198.51.100.77:* -> 192.0.2.2:4588-4589", ""},
	{"plain", "RTP/AVP;unicast;source=2001:db8::77;client_port=4588-4589;server_port=6256-6257",
		"udp 192.0.2.2:* -> 198.51.100.9:6256-6257", ""},
	{"plain", `RTP/AVP;unicast;dest_addr="192.0.2.2:4588"/"192.0.2.2:4589";src_addr="198.51.100.77:6256"/"198.51.100.77:6257"`,
		"udp 198.51.100.77:* -> 192.0.2.2:4588-4589; udp 192.0.2.2:* -> 198.51.100.77:6256-6257", ""},
	{"ipv6", "RTP/AVP;unicast;source=2001:db8::77;client_port=4588-4589;server_port=6256-6257",
		"udp [2001:db8::77]:* -> [2001:db8::2]:4588-4589; udp [2001:db8::2]:* -> [2001:db8::77]:6256-6257", ""},

	{"snat", "RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257;source=198.51.100.9",
		"udp 192.0.2.2:* -> 198.51.100.9:6256-6257 nat=original:6256", ""},
	{"snat", "RTP/AVP;unicast;destination=198.51.100.1;client_port=4588-4589;server_port=6256-6257",
		"udp 192.0.2.2:* -> 198.51.100.9:6256-6257 nat=original:6256",
		"RTP/AVP;unicast;destination=192.0.2.2;client_port=4588-4589;server_port=6256-6257"},
	{"snat", "RTP/AVP;unicast;source=198.51.100.77;client_port=4588-4589;server_port=6256-6257", // comes with the server's address
		"udp 198.51.100.77:* -> 198.51.100.1:4588-4589 nat=reply:4588",
		"RTP/AVP;unicast;source=198.51.100.9;client_port=4588-4589;server_port=6256-6257"},
	{"snat6", "RTP/AVP;unicast;destination=2001:db8:9::1;client_port=4588-4589;server_port=6256-6257",
		"udp [2001:db8::2]:* -> [2001:db8:9::9]:6256-6257 nat=original:6256",
		"RTP/AVP;unicast;destination=2001:db8::2;client_port=4588-4589;server_port=6256-6257"},
	{"dnat", "RTP/AVP;unicast;source=192.0.2.2;client_port=4588-4589;server_port=6256-6257",
		"udp 203.0.113.7:* -> 198.51.100.1:6256-6257 nat=original:6256",
		"RTP/AVP;unicast;source=198.51.100.1;client_port=4588-4589;server_port=6256-6257"},
	{"dnat", `RTP/AVP;unicast;dest_addr=":4588"/":4589";src_addr="192.0.2.2:6256"/"192.0.2.2:6257"`,
		"udp 203.0.113.7:* -> 198.51.100.1:6256-6257 nat=original:6256",
		`RTP/AVP;unicast;dest_addr=":4588"/":4589";src_addr="198.51.100.1:6256"/"198.51.100.1:6257"`},
}

func TestAnswer(t *testing.T) {
	for _, c := range answers {
		t.Run(c.flow+" "+c.transport, func(t *testing.T) {
			if got, want := offered(t, c.flow).Send(helper.Reply, reply(c.transport)), want(c.want, c.rewritten, reply); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

const (
	transportUDP  = "RTP/AVP;unicast;client_port=4588-4589"
	expectUDP     = "udp 198.51.100.9:* -> 192.0.2.2:4588-4589"
	answerUDP     = "RTP/AVP;unicast;client_port=4588-4589;server_port=6256-6257"
	expectAnswer  = "udp 192.0.2.2:* -> 198.51.100.9:6256-6257"
	announced     = none + "; " + expectUDP
	announcedBack = none + "; " + expectAnswer
)

// Several messages in a segment, with bodies and media between them.
func TestSegments(t *testing.T) {
	body := "SET_PARAMETER rtsp://198.51.100.9/ RTSP/1.0\r\ncontent-length: %d\r\n\r\n%s"
	inBody := fmt.Sprintf(body, len(request(transportUDP)), request(transportUDP))
	other := request("RTP/AVP;unicast;client_port=4600-4601")
	for _, c := range []struct {
		name     string
		dir      helper.Direction
		segments []string
		want     []string
	}{
		{"pipelined", helper.Original, []string{request(transportUDP) + other}, []string{announced + "; udp 198.51.100.9:* -> 192.0.2.2:4600-4601"}},
		{"after another", helper.Original, []string{options + request(transportUDP)}, []string{announced}},
		{"empty lines before it", helper.Original, []string{"\r\n\n" + request(transportUDP)}, []string{announced}},
		{"bare newlines", helper.Original, []string{strings.ReplaceAll(request(transportUDP), "\r", "")}, []string{announced}},
		{"many ports", helper.Original, []string{request("A;client_port=10-17") + other},
			[]string{none + "; udp 198.51.100.9:* -> 192.0.2.2:10-17; udp 198.51.100.9:* -> 192.0.2.2:4600-4601"}},
		{"within a body", helper.Original, []string{inBody}, []string{none}},
		{"behind a body", helper.Original, []string{inBody + other}, []string{none + "; udp 198.51.100.9:* -> 192.0.2.2:4600-4601"}},
		{"a body of its own segment", helper.Original, []string{inBody[:len(inBody)-len(request(transportUDP))], request(transportUDP), other},
			[]string{none, none, none + "; udp 198.51.100.9:* -> 192.0.2.2:4600-4601"}},
		{"within media", helper.Original, []string{"$\x00\x00" + string(rune(len(request(transportUDP)))) + request(transportUDP)}, []string{none}},
		{"behind media", helper.Original, []string{"$\x00\x00\x03abc$\x01\x00\x00" + request(transportUDP)}, []string{announced}},
		{"media in a segment of its own", helper.Original, []string{"$\x00\x00" + string(rune(len(other))), other, request(transportUDP)}, []string{none, none, announced}},
		{"an answer of the client's", helper.Original, []string{"RTSP/1.0 200 OK\r\nTransport: " + transportUDP + "\r\n\r\n" + request(transportUDP)}, []string{announced}},
		{"not RTSP any more", helper.Original, []string{"junk\r\n" + request(transportUDP), request(transportUDP)}, []string{none, announced}},
		{"HTTP's version", helper.Original, []string{strings.Replace(request(transportUDP), "RTSP/1.0", "HTTP/1.0", 1)}, []string{none}},
		{"lower case", helper.Original, []string{strings.Replace(request(transportUDP), "SETUP", "setup", 1)}, []string{none}},
		{"another request with that header", helper.Original, []string{strings.Replace(request(transportUDP), "SETUP", "DESCRIBE", 1)}, []string{none}},
		{"behind the header's end", helper.Original, []string{"SETUP rtsp://198.51.100.9/ RTSP/1.0\r\n\r\nTransport: " + transportUDP + "\r\n\r\n"}, []string{none}},
		{"the server's request", helper.Reply, []string{request(transportUDP)}, []string{none}},
		{"a refusal", helper.Reply, []string{strings.Replace(reply(answerUDP), "200 OK", "461 Unsupported Transport", 1)}, []string{none}},
		{"an answer after another", helper.Reply, []string{"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 2\r\n\r\nab" + reply(answerUDP)}, []string{announcedBack}},
		{"an answer within a body", helper.Reply, []string{"RTSP/1.0 200 OK\r\nContent-Length: 999\r\n\r\n" + reply(answerUDP)}, []string{none}},
		{"RTSP 2.0", helper.Reply, []string{strings.Replace(reply(answerUDP), "RTSP/1.0", "RTSP/2.0", 1)}, []string{announcedBack}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := open(t, "plain")
			if c.dir == helper.Reply {
				f = offered(t, "plain")
			}
			for i, segment := range c.segments {
				if got := f.Send(c.dir, segment); got != c.want[i] {
					t.Errorf("segment %d: %s, want %s", i, got, c.want[i])
				}
			}
		})
	}
}

// A message that is split between lines is read as a whole one is, wherever that is, and so is
// what follows a line that was cut. Within the Transport line only a parameter that is cut is
// missed. Nothing else is ever announced.
func TestSplit(t *testing.T) {
	messages := map[helper.Direction]string{helper.Original: request(transportUDP), helper.Reply: reply(answerUDP)}
	for dir, text := range messages {
		whole := map[helper.Direction]string{helper.Original: announced, helper.Reply: announcedBack}[dir]
		begin := strings.Index(text, "Transport:")
		end := begin + strings.Index(text[begin:], "\r\n")
		for n := 1; n < len(text); n++ {
			f := open(t, "plain")
			if dir == helper.Reply {
				f = offered(t, "plain")
			}
			first, second := f.Send(dir, text[:n]), f.Send(dir, text[n:])
			got := first
			if first == none {
				got = second
			} else if second != none {
				t.Errorf("%q announces again", text[n:])
			}
			if got != none && got != whole {
				t.Errorf("%q | %q: %s", text[:n], text[n:], got)
			}
			// Read in any case: split outside of the first line and the header's name.
			firstLine := strings.Index(text, "\r\n") + 2
			if n >= firstLine && (n <= begin || n >= end+1) && got != whole {
				t.Errorf("%q | %q: %s, want %s", text[:n], text[n:], got, whole)
			}
			if dir == helper.Original && n < firstLine && n >= len("SETUP ") && got != whole {
				t.Errorf("cut first line %q: %s", text[:n], got)
			}
			// The next message is found, except where the split hides the header's end.
			if dir == helper.Original {
				next := f.Send(dir, request("A;client_port=4600-4601"))
				if next == none {
					next = f.Send(dir, request("A;client_port=4600-4601"))
				}
				if next != none+"; udp 198.51.100.9:* -> 192.0.2.2:4600-4601" {
					t.Errorf("after %q | %q: %s", text[:n], text[n:], next)
				}
			}
		}
	}
	// each line in a segment, each parameter in a segment
	for dir, text := range messages {
		for _, separator := range []string{"\n", ";"} {
			f := open(t, "plain")
			if dir == helper.Reply {
				f = offered(t, "plain")
			}
			var got []string
			for _, part := range strings.SplitAfter(text, separator) {
				if part == "" {
					continue
				}
				if text := f.Send(dir, part); text != none {
					got = append(got, text)
				}
			}
			if separator == "\n" && !slices.Equal(got, []string{map[helper.Direction]string{helper.Original: announced, helper.Reply: announcedBack}[dir]}) {
				t.Errorf("split at each %q: %v", separator, got)
			}
		}
	}
}

// Random streams in random segments: each SETUP is announced, and nothing that bodies and media
// have in them. Where segments end anywhere, what is announced is still some SETUP's.
func TestRandomStreams(t *testing.T) {
	for seed := range seeds.Count(2000) {
		r := rand.New(rand.NewPCG(seed, 0))
		stream, cuts := options, []int{len(options)}
		want := make(map[uint16]bool)
		add := func(text string, lines bool) {
			if lines {
				for i, c := range text {
					if c == '\n' {
						cuts = append(cuts, len(stream)+i+1)
					}
				}
			}
			stream += text
			cuts = append(cuts, len(stream))
		}
		for i := range 12 {
			port := uint16(4000 + 2*i)
			one := request(fmt.Sprintf("RTP/AVP;unicast;client_port=%d-%d", port, port+1))
			switch r.IntN(5) {
			case 0, 1:
				want[port] = true
				add(one, true)
			case 2:
				add("GET_PARAMETER rtsp://198.51.100.9/ RTSP/1.0\r\nCSeq: 7\r\n\r\n", true)
			case 3:
				add(fmt.Sprintf("SET_PARAMETER rtsp://198.51.100.9/ RTSP/1.0\r\nContent-Length: %d\r\n\r\n", len(one)), false)
				add(one, true)
			case 4:
				add("$\x00"+string([]byte{byte(len(one) >> 8), byte(len(one))}), false)
				add(one, true)
			}
		}
		anywhere := seed%2 == 1
		f := flows["plain"](t)
		f.Seq[helper.Original] = r.Uint32()
		got := make(map[uint16]bool)
		for at, next := 0, 0; at < len(stream); at = next {
			if next = at + 1 + r.IntN(200); !anywhere || at == 0 {
				next = cuts[slices.IndexFunc(cuts, func(cut int) bool { return cut > at && (at == 0 || r.IntN(6) == 0 || cut == len(stream)) })]
			}
			next = min(next, len(stream))
			for range 1 + r.IntN(2) { // and again
				p := f.Packet(helper.Established, stream[at:next])
				var a helper.Answer
				Helper.Read(p, &a)
				for _, e := range a.Expect {
					got[e.Dst.Port()] = true
				}
			}
			f.Seq[helper.Original] += uint32(next - at)
		}
		for port := range got {
			if !want[port] {
				t.Errorf("seed %d: port %d is announced, which no SETUP has", seed, port)
			}
		}
		if !anywhere && len(got) != len(want) {
			t.Errorf("seed %d: got %v, want %v", seed, got, want)
		}
	}
}

// A header whose body cannot be skipped ends the reading.
func TestSplitHeaderOfBody(t *testing.T) {
	f := open(t, "plain")
	for _, segment := range []string{"SET_PARAMETER rtsp://198.51.100.9/ RTSP/1.0\r\nContent-Length: 999\r\n", "\r\n" + request(transportUDP), request(transportUDP)} {
		if got := f.Send(helper.Original, segment); got != none {
			t.Errorf("%q: %s", segment, got)
		}
	}
}

// A connection that does not begin with a request of RTSP is never read: a web page can have a
// browser send anything but that.
func TestForeignConnection(t *testing.T) {
	for _, first := range []string{
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", "\x16\x03\x01\x02\x00", "RTSP/1.0 200 OK\r\n\r\n", "$\x00\x00\x01a", "\r\n", "OPTIONS * RTSP/1.0",
		"SETUP  \r\n", " * RTSP/1.0\r\n\r\n", "a * RTSP/1.0\r\n\r\n",
	} {
		f := flows["plain"](t)
		for range 3 {
			if got := f.Send(helper.Original, first); got != none {
				t.Errorf("%q: %s", first, got)
			}
			if got := f.Send(helper.Original, request(transportUDP)); got != none {
				t.Errorf("after %q: %s", first, got)
			}
		}
		if got := f.Send(helper.Reply, reply(answerUDP)); got != none {
			t.Errorf("answer after %q: %s", first, got)
		}
	}
}

// What is sent again is read again, together with what follows or not, and also at the end of
// the numbers.
func TestRetransmission(t *testing.T) {
	for _, first := range []uint32{1000, 0, 0xffffffff, 0x7ffffff0, 0xffffff80} {
		f := flows["plain"](t)
		f.Seq[helper.Original] = first
		f.Send(helper.Original, options)
		at := f.Seq[helper.Original]
		for range 3 {
			f.Seq[helper.Original] = at
			if got := f.Send(helper.Original, request(transportUDP)); got != announced {
				t.Errorf("from %#x: %s", first, got)
			}
		}
		f.Seq[helper.Original] = at
		if got := f.Send(helper.Original, request(transportUDP)+request("A;client_port=4600-4601")); got != announced+"; udp 198.51.100.9:* -> 192.0.2.2:4600-4601" {
			t.Errorf("with the next one, from %#x: %s", first, got)
		}
		end := f.Seq[helper.Original]
		f.Seq[helper.Original] = first // too old
		if got := f.Send(helper.Original, options); got != none {
			t.Error(got)
		}
		f.Seq[helper.Original] = end
		if got := f.Send(helper.Original, request(transportUDP)); got != announced {
			t.Errorf("after an old one: %s", got)
		}
	}
	t.Run("answer", func(t *testing.T) {
		f := offered(t, "plain")
		at := f.Seq[helper.Reply]
		for range 3 {
			f.Seq[helper.Reply] = at
			if got := f.Send(helper.Reply, reply(answerUDP)); got != announcedBack {
				t.Error(got)
			}
		}
	})
}

// After a segment that was not seen, reading goes on where a segment begins with a message,
// unless the client sends media, which may look like one.
func TestGap(t *testing.T) {
	for _, sends := range []string{"", "$\x00\x00\x01a"} {
		f := open(t, "plain")
		f.Send(helper.Original, sends)
		f.Seq[helper.Original] += 100
		if got := f.Send(helper.Original, "rest of something\r\n"+request(transportUDP)); got != none {
			t.Error(got)
		}
		want := announced
		if sends != "" {
			want = none
		}
		if got := f.Send(helper.Original, request(transportUDP)); got != want {
			t.Errorf("after %q: %s, want %s", sends, got, want)
		}
	}
}

// Ports that were replaced are the client's again in the answer.
func TestReplacedPorts(t *testing.T) {
	f := open(t, "snat")
	p := f.Packet(helper.Established, request("A;client_port=4588-4589,B;client_port=4588-4589"))
	f.Seq[helper.Original] += uint32(len(p.Payload))
	var a helper.Answer
	Helper.Read(p, &a)
	edits := a.Expect[0].AppendEdits(nil, netip.MustParseAddrPort(firewall+":50000"))
	helper.SortEdits(edits)
	payload, err := helper.AppendPayload(nil, p.Payload, edits)
	if err != nil || len(a.Expect) != 1 || string(payload) != request("A;client_port=50000-50001,B;client_port=50000-50001") {
		t.Fatalf("%q, %v", payload, err)
	}
	for _, c := range []struct{ transport, want, rewritten string }{
		{"A;client_port=50000-50001;server_port=6256-6257", "udp 192.0.2.2:* -> 198.51.100.9:6256-6257 nat=original:6256",
			"A;client_port=4588-4589;server_port=6256-6257"},
		{"A;client_port=50000-50001;source=198.51.100.77", "udp 198.51.100.77:* -> 198.51.100.1:50000-50001 nat=reply:4588",
			"A;client_port=4588-4589;source=198.51.100.9"},
		{"A;client_port=4588-4589;server_port=6256-6257", "", ""},
	} {
		if got, want := f.Send(helper.Reply, reply(c.transport)), want(c.want, c.rewritten, reply); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	// After a pause the flows may have expired: the media are expected at the ports that the
	// server has.
	for _, c := range []struct{ method, want string }{
		{"PLAY", none}, {"PAUSE", none}, {"PLAY", none + "; udp 198.51.100.9:* -> 198.51.100.1:50000-50001 nat=reply:4588"}, {"PLAY", none},
	} {
		if got := f.Send(helper.Original, c.method+" rtsp://198.51.100.9/ RTSP/1.0\r\nSession: 47112344\r\n\r\n"); got != c.want {
			t.Errorf("%s: %s, want %s", c.method, got, c.want)
		}
	}
}

const teardown = "TEARDOWN rtsp://198.51.100.9/ RTSP/1.0\r\nCSeq: 9\r\nSession: 47112344\r\n\r\n"

func TestTeardown(t *testing.T) {
	f := offered(t, "plain")
	f.Send(helper.Reply, reply(answerUDP))
	f.Send(helper.Reply, reply(answerUDP))
	if got := f.Send(helper.Original, teardown); got != "accept; forget" {
		t.Error(got)
	}
	// What the server sends now concerns nothing.
	if got := f.Send(helper.Reply, reply(answerUDP)); got != none {
		t.Error(got)
	}
	if got := f.Send(helper.Original, teardown+request(transportUDP)); got != "accept; forget; "+expectUDP {
		t.Errorf("with the next session: %s", got)
	}
	f.Send(helper.Reply, reply(answerUDP))
	if got := f.Send(helper.Reply, strings.Replace(reply(answerUDP), "47112344", "47112345", 1)); got != announcedBack {
		t.Error(got)
	}
	if got := f.Send(helper.Original, teardown); got != none {
		t.Errorf("one of several sessions: %s", got)
	}
}

// The newest streams are known, and the others' answers expect nothing.
func TestManyStreams(t *testing.T) {
	f := open(t, "plain")
	for i := range streams + 1 {
		f.Send(helper.Original, request(fmt.Sprintf("A;client_port=%d-%d", 4000+2*i, 4001+2*i)))
	}
	for i := range streams + 1 {
		got := f.Send(helper.Reply, reply(fmt.Sprintf("A;client_port=%d-%d;server_port=6256-6257", 4000+2*i, 4001+2*i)))
		if want := map[bool]string{true: none, false: announcedBack}[i == 0]; got != want {
			t.Errorf("stream %d: %s, want %s", i, got, want)
		}
	}
}

// Private data of nobody's making.
func TestPrivate(t *testing.T) {
	if privateLen > 32 || flagBits+3*phaseBits > 16 || lost > phaseMask {
		t.Fatalf("%d bytes of private data, %d bits", privateLen, flagBits+3*phaseBits)
	}
	var m, again memory
	m = memory{flags: started | several, from: place{setup, 1}, next: place{lost, 0xffffffff}, reply: place{transportRest, 7},
		streams: [streams]stream{{4588, 4590, 2}, {1, 2, 3}, {65535, 0, 255}}, id: 0xffff}
	b := make([]byte, privateLen)
	m.store(b)
	if again.load(b); again != m {
		t.Errorf("%+v, want %+v", again, m)
	}
	f := flows["snat"](t)
	for i := range f.Private {
		f.Private[i] = 0xfd // not foreign
	}
	f.Send(helper.Original, request(transportUDP))
	f.Send(helper.Reply, reply(answerUDP))
}

// Only what announces something allocates.
func TestReadAllocates(t *testing.T) {
	for _, c := range []struct {
		flow string
		dir  helper.Direction
		text string
		most float64
	}{
		{"plain", helper.Original, options, 0},
		{"plain", helper.Original, teardown, 0},
		{"plain", helper.Original, request("RTP/AVP/TCP;unicast;interleaved=0-1"), 0},
		{"plain", helper.Original, "$\x00\x05\x00" + strings.Repeat("media", 256), 0},
		{"plain", helper.Reply, "$\x00\x05\x00" + strings.Repeat("media", 256), 0},
		{"plain", helper.Reply, "RTSP/1.0 200 OK\r\nCSeq: 4\r\n\r\n", 0},
		{"plain", helper.Original, request(transportUDP), 8},
		{"snat", helper.Original, request(transportUDP), 8},
		{"dnat", helper.Reply, reply(answerUDP), 8},
	} {
		info := map[helper.Direction]helper.Info{helper.Original: helper.Established, helper.Reply: helper.EstablishedReply}[c.dir]
		if n := offered(t, c.flow).Allocs(info, c.text); n > c.most {
			t.Errorf("%s %.40q allocates %v times, want at most %v", c.flow, c.text, n, c.most)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name string
		info helper.Info
		text string
	}{
		{"command", helper.Established, options},
		{"announced", helper.Established, request(transportUDP)},
		{"answered", helper.EstablishedReply, reply(answerUDP)},
		{"media", helper.EstablishedReply, "$\x00\x05\x00" + strings.Repeat("media", 256)},
	} {
		b.Run(c.name, func(b *testing.B) { offered(b, "plain").Benchmark(b, c.info, c.text) })
	}
}

// Any packets, with any private data.
func FuzzRead(f *testing.F) {
	helpertest.Fuzz(f, Helper, options, request(transportUDP), reply(answerUDP), teardown,
		request(`A;dest_addr="192.0.2.2:4588"/"192.0.2.2:4589",B;destination=[2001:db8::2]:1;client_port=1/3`),
		"$\x00\x00\x01a"+request(transportUDP))
}

// Two segments of a client and one of the server, however they are split: what is expected comes
// from the RTSP server or the source that it names to ports that the client has announced, or
// from the client.
func FuzzSession(f *testing.F) {
	for _, c := range offers {
		f.Add(uint8(slices.Index(names, c.flow)), uint16(60), []byte(request(c.transport)), []byte(reply(answerUDP)))
	}
	for _, c := range answers {
		f.Add(uint8(slices.Index(names, c.flow)), uint16(9), []byte(request(transportUDP)), []byte(reply(c.transport)))
	}
	f.Fuzz(func(t *testing.T, flow uint8, split uint16, client, server []byte) {
		s := open(t, names[int(flow)%len(names)])
		n := min(int(split), len(client))
		var ports []netip.AddrPort
		for i, segment := range [][]byte{client[:n], client[n:], server} {
			info := helper.Established
			if i == 2 {
				info = helper.EstablishedReply
			}
			if len(segment) == 0 {
				continue
			}
			p := s.Packet(info, string(segment))
			s.Seq[info.Direction()] += uint32(len(segment))
			var a helper.Answer
			Helper.Read(p, &a)
			if _, err := helpertest.Text(p, &a); err != nil {
				t.Fatal(err)
			}
			for _, e := range a.Expect {
				toClient := e.Dst.Addr() == p.Dst(helper.Reply).Addr() && (e.NAT.Dir == helper.Reply)
				switch {
				case e.Protocol != unix.IPPROTO_UDP || e.Src.Port() != 0 || e.Dst.Port() == 0 || !e.Src.Addr().IsValid():
					t.Fatalf("%v -> %v", e.Src, e.Dst)
				case i < 2 && (!toClient || e.Src.Addr() != p.Src(helper.Reply).Addr()):
					t.Fatalf("%v -> %v", e.Src, e.Dst)
				case i < 2:
					ports = append(ports, e.Dst)
				case toClient && !slices.Contains(ports, e.Dst):
					t.Fatalf("the server opens a port that the client has not announced: %v", e.Dst)
				case !toClient && e.Src.Addr() != p.Src(helper.Original).Addr():
					t.Fatalf("%v -> %v", e.Src, e.Dst)
				}
			}
		}
	})
}
