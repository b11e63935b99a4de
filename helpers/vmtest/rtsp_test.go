//go:build vm

package vmtest

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// ourProgram is our conntrackd: conntrack-tools has no helper for RTSP.
func ourProgram() program { return program{"ours", applet("conntrackd")} }

func rtspSetup(transport string) string {
	return "SETUP rtsp://tv.example/track1 RTSP/1.0\r\nCSeq: 2\r\nTransport: " + transport + "\r\n\r\n"
}

func rtspAnswer(transport string) string {
	return "RTSP/1.0 200 OK\r\nCSeq: 2\r\nSession: 12345678\r\nTransport: " + transport + "\r\n\r\n"
}

func clientPorts(port int) string {
	return fmt.Sprintf("RTP/AVP;unicast;client_port=%d-%d", port, port+1)
}

const (
	rtspOptions  = "OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n"
	rtspTeardown = "TEARDOWN rtsp://tv.example/ RTSP/1.0\r\nCSeq: 3\r\nSession: 12345678\r\n\r\n"
)

// pair are the expectations of two ports.
func pair(src, dst string, port int, master flow) []expected {
	e := expected{protocol: "udp", src: addrPort(src, 0), dst: addrPort(dst, port), master: master, helper: "rtsp", lifetime: 300}
	next := e
	next.dst = addrPort(dst, port+1)
	return []expected{e, next}
}

// In both families and with each translation: RTP and RTCP come through in either direction,
// whichever end sends first, and ports beside them do not. What no flow has met is no longer
// expected after TEARDOWN.
func TestRTSP(t *testing.T) {
	for _, family := range []struct {
		name string
		kind kind
		at   addresses
	}{{"ipv4", rtsp, v4}, {"ipv6", rtsp6, v6}} {
		for _, nat := range []translation{routed, snat, dnat} {
			if nat == routed && family.kind == rtsp6 {
				continue // nothing else than with IPv4, nor than with SNAT
			}
			t.Run(family.name+"/"+string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(family.kind)
				fw.load(nat, true, family.kind)
				defer fw.start(ourProgram(), false, family.kind).end()
				fw.stream(t, nat, family.kind, family.at)
				if nat == snat {
					fw.replaces(t, family.kind, family.at)
				}
			})
		}
	}
}

// open opens a control connection and sends its first request.
func (fw *firewall) open(t *testing.T, k kind, server string, port int, l *net.TCPListener) session {
	t.Helper()
	s := dial(t, fw.client, port, addrPort(server, k.port), l)
	relay(t, s.client, s.server, rtspOptions)
	return s
}

func (fw *firewall) stream(t *testing.T, nat translation, k kind, at addresses) {
	server, client := nat.of(at)
	l := listen(t, fw.server, "", k.port)
	defer l.Close()
	s := fw.open(t, k, server, 41000, l)
	master := flow{addrPort(at.client, 41000), addrPort(server, k.port)}

	// The request is split, and names the client's own address.
	setup := rtspSetup(clientPorts(4588) + ";destination=" + at.client)
	cut := strings.Index(setup, "Transport:")
	relay(t, s.client, s.server, setup[:cut])
	send(t, s.client, s.server, setup[cut:], strings.Replace(setup[cut:], "destination="+at.client, "destination="+client, 1))
	toClient := pair(at.server, client, 4588, master)
	fw.expects(t, toClient...)
	answer := func(client, server string) string {
		return rtspAnswer(clientPorts(4588) + ";server_port=6256-6257;destination=" + client + ";source=" + server)
	}
	send(t, s.server, s.client, answer(client, at.server), answer(at.client, server))
	toServer := pair(at.client, server, 6256, master)
	fw.expects(t, append(toClient, toServer...)...)

	// RTP: the client sends first, as it does to open a firewall of its own.
	clientRTP, serverRTP := datagrams(t, fw.client, at.client, 4588), datagrams(t, fw.server, at.server, 6256)
	post(t, clientRTP, "punch", addrPort(server, 6256))
	if _, from := receive(t, serverRTP); from.String() != addrPort(client, 4588) {
		t.Errorf("the client's packet came from %s", from)
	}
	post(t, serverRTP, "media", addrPort(client, 4588))
	if text, from := receive(t, clientRTP); text != "media" || from.String() != addrPort(server, 6256) {
		t.Errorf("%q came from %s", text, from)
	}
	// RTCP: the server does.
	clientRTCP, serverRTCP := datagrams(t, fw.client, at.client, 4589), datagrams(t, fw.server, at.server, 6257)
	post(t, serverRTCP, "report", addrPort(client, 4589))
	if text, from := receive(t, clientRTCP); text != "report" || from.String() != addrPort(server, 6257) {
		t.Errorf("%q came from %s", text, from)
	}
	post(t, clientRTCP, "loss", addrPort(server, 6257))
	if _, from := receive(t, serverRTCP); from.String() != addrPort(client, 4589) {
		t.Errorf("the client's report came from %s", from)
	}
	refusedDatagram(t, fw.server, at.server, 6258, addrPort(client, 4590))
	refusedDatagram(t, fw.client, at.client, 4600, addrPort(server, 6258))

	fw.expects(t, toClient[0], toServer[1])
	relay(t, s.client, s.server, rtspTeardown)
	fw.expectsNone(t)
	for _, c := range []io.Closer{clientRTP, serverRTP, clientRTCP, serverRTCP, s.client, s.server} {
		c.Close()
	}
}

// replaces has two connections announce one pair of ports. The second one gets another, with
// longer numbers, and what both ends see of the connection fits, also behind that.
func (fw *firewall) replaces(t *testing.T, k kind, at addresses) {
	server, client := snat.of(at)
	l := listen(t, fw.server, "", k.port)
	first, second := fw.open(t, k, server, 41001, l), fw.open(t, k, server, 41002, l)
	relay(t, first.client, first.server, rtspSetup(clientPorts(9998)))
	send(t, second.client, second.server, rtspSetup(clientPorts(9998))+rtspOptions, rtspSetup(clientPorts(10000))+rtspOptions)
	send(t, second.server, second.client, rtspAnswer(clientPorts(10000)), rtspAnswer(clientPorts(9998)))
	relay(t, second.server, second.client, rtspAnswer("RTP/AVP/TCP;interleaved=0-1"))
	relay(t, second.client, second.server, rtspOptions)
	left := pair(at.server, client, 9998, flow{addrPort(at.client, 41001), addrPort(server, k.port)})
	fw.expects(t, append(pair(at.server, client, 10000, flow{addrPort(at.client, 41002), addrPort(server, k.port)}), left...)...)

	to, from := datagrams(t, fw.client, at.client, 9999), datagrams(t, fw.server, at.server, 6301)
	post(t, from, "report", addrPort(client, 10001))
	if text, source := receive(t, to); text != "report" || source.String() != addrPort(server, 6301) {
		t.Errorf("%q came from %s", text, source)
	}
	relay(t, second.client, second.server, rtspTeardown)
	fw.expects(t, left...)
}

// source has the server take a stream, rtsp://SERVER/live, and sends it RTP and RTCP as long as
// the test runs.
func (fw *firewall) source(t *testing.T) {
	t.Helper()
	conn, err := connect(t, fw.server, 0, "127.0.0.1:5545")
	if err != nil {
		t.Fatal(err)
	}
	reader := textproto.NewReader(bufio.NewReader(conn))
	do := func(request, header, body string) textproto.MIMEHeader {
		t.Helper()
		fmt.Fprintf(conn, "%s RTSP/1.0\r\nCSeq: 1\r\n%sContent-Length: %d\r\n\r\n%s", request, header, len(body), body)
		status, err := reader.ReadLine()
		if err != nil || !strings.Contains(status, " 200 ") {
			t.Fatalf("%s: %q, %v", request, status, err)
		}
		answer, err := reader.ReadMIMEHeader()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	const url = "rtsp://127.0.0.1:5545/live"
	do("ANNOUNCE "+url, "", "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:streamid=0\r\n")
	answer := do("SETUP "+url+"/streamid=0", "Transport: "+clientPorts(7000)+";mode=record\r\n", "")
	_, ports, _ := strings.Cut(answer.Get("Transport"), "server_port=")
	port, _, _ := strings.Cut(ports, "-")
	do("RECORD "+url, "", "")

	media := peer(t, fw.server, "127.0.0.1", 7000, "127.0.0.1:"+port)
	media.SetDeadline(time.Time{})
	ended := make(chan struct{})
	var sends sync.WaitGroup
	t.Cleanup(func() { close(ended); sends.Wait() })
	sends.Go(func() {
		for pace := time.NewTicker(50 * time.Millisecond); ; {
			for _, kind := range []byte{0, 200} { // RTP with PCMU, RTCP's sender report
				_, _ = media.Write(append([]byte{0x80, kind}, make([]byte, 26)...))
			}
			select {
			case <-pace.C:
			case <-ended:
				return
			}
		}
	})
}

// runs starts a program on the server and waits until it listens on a port.
func (fw *firewall) runs(t *testing.T, port int, name string, args ...string) {
	t.Helper()
	p := fw.server.Start(name, args...)
	netnstest.Eventually(t, 2*patience, fmt.Sprintf("%s listens on port %d", name, port), func() bool {
		if p.Ended() {
			r := p.Wait(patience)
			t.Fatalf("%s ended with status %d:\n%s%s", name, r.Code, r.Stdout, r.Stderr)
		}
		return isBound(t, fw.server, "tcp", port)
	})
}

//go:embed testdata/rtsp.py
var rtspClient []byte

// A stream from a real server, rtsp-server-perl, through the firewall to a real client, that of
// libcurl.
func TestRTSPStream(t *testing.T) {
	script := filepath.Join(t.TempDir(), "rtsp.py")
	if err := os.WriteFile(script, rtspClient, 0o644); err != nil {
		t.Fatal(err)
	}
	fw := newFirewall(t)
	fw.unregister()
	defer fw.start(ourProgram(), true, rtsp).end()
	fw.runs(t, 5545, "rtsp-server-perl", "--loglevel", "0")
	fw.source(t)
	for i, nat := range []translation{snat, dnat} {
		t.Run(string(nat), func(t *testing.T) {
			fw.router.NFT("flush ruleset")
			fw.load(nat, true, rtsp)
			server, _ := nat.of(v4)
			first, port := 4588+10*i, 20002+2*i
			want := fmt.Sprintf("RTP/AVP;unicast;client_port=%d-%d;server_port=%d-%d\n0 %s %[3]d\n200 %[5]s %[4]d\n", first, first+1, port, port+1, server)
			r := fw.client.Run("", "python3", script, "rtsp://"+server+"/live", fmt.Sprint(first))
			if r.Code != 0 || r.Stdout != want {
				t.Errorf("status %d: %s%s\nwant:\n%s", r.Code, r.Stdout, r.Stderr, want)
			}
			netnstest.Eventually(t, patience, "nothing is expected after TEARDOWN", func() bool {
				left, _ := fw.expectations("ipv4")
				return len(left) == 0
			})
		})
	}
}

// A registered helper without a rule is a finding of ctbox doctor, until the rule that it names
// is there.
func TestDoctorNamesRule(t *testing.T) {
	fw := newFirewall(t)
	fw.register(rtsp)
	look := func() map[string]string {
		t.Helper()
		r := fw.router.Run("", applet("ctbox"), "doctor", "--json", "--for", "nfct")
		found := make(map[string]string)
		for line := range strings.Lines(r.Stdout) {
			var f struct{ Severity, ID, Fix string }
			if err := json.Unmarshal([]byte(line), &f); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if f.ID == "helper-rules" {
				found[f.Severity] = f.Fix
			}
		}
		return found
	}
	// Modules that other tests have loaded are notes.
	found := look()
	if found["warning"] == "" {
		t.Fatalf("%v", found)
	}
	fw.router.Must("sh", "-c", found["warning"])
	found = look()
	if fix, still := found["warning"]; still || len(found) == 0 {
		t.Errorf("with the rule: %q of %v", fix, found)
	}
}
