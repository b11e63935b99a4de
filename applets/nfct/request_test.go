package nfct

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"

	"ctbox/helpers/builtin"
	"ctbox/internal/netnstest"

	"github.com/google/go-cmp/cmp"
)

// describe renders a request: the headers but for the sequence number, and the
// attributes. Padding, which the peer leaves as it finds it, is not shown.
func describe(m []byte) string {
	const sequence, sequenceEnd, headers = 8, 12, 20
	if len(m) < headers {
		return hex.EncodeToString(m)
	}
	return fmt.Sprintf("%x … %x\n%s", m[:sequence], m[sequenceEnd:headers], describeAttrs(m[headers:], "  "))
}

func describeAttrs(b []byte, indent string) string {
	const header, nested = 4, 0x8000
	text := ""
	for len(b) >= header {
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < header || n > len(b) {
			break
		}
		if typ&nested != 0 {
			text += fmt.Sprintf("%s%d, %d bytes\n%s", indent, typ&^nested, n, describeAttrs(b[header:n], indent+"  "))
		} else {
			text += fmt.Sprintf("%s%d, %d bytes: %x\n", indent, typ, n, b[header:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	if len(b) > 0 {
		text += fmt.Sprintf("%srest: %x\n", indent, b)
	}
	return text
}

// Every request, header and attributes, is byte for byte that of Debian's nfct. Neither
// program changes anything: without CAP_NET_ADMIN the kernel reads the request and
// refuses it.
func TestRequestsEqualThePeers(t *testing.T) {
	ns := netnstest.New(t, "requests")
	powerless := []string{"--bounding-set", "-net_admin"}
	sent := func(nfct, line string) []string {
		r, messages := ns.Sent("setpriv", append(append(powerless, nfct), words(line)...)...)
		if r.Code != 1 {
			t.Errorf("%s %s: %+v, want a refusal", nfct, line, r)
		}
		var list []string
		for _, m := range messages {
			list = append(list, describe(m))
		}
		return list
	}
	lines := []string{
		"list timeout", "flush timeout", "get timeout t1", "delete timeout t1", "get timeout ''",
		"delete timeout a-name-of-some-thirty-one-bytes",
		"add timeout t1 inet tcp established 100 close 5", "add timeout t1 inet6 tcp close 5 established 100 syn_sent 1",
		"add timeout x inet tcp", "add timeout x inet generic timeout 600", "add timeout x inet6 icmpv6 timeout 17179869",
		"add timeout x inet udplite replied 0 replied 3", "add timeout x inet gre unreplied 1 replied 2",
		"add timeout x inet sctp closed 1 cookie_wait 2 cookie_echoed 3 established 4 shutdown_sent 5 shutdown_recd 6 shutdown_ack_sent 7",
		"add timeout x inet dccp request 1 respond 2 partopen 3 open 4 closereq 5 closing 6 timewait 7",
		"add timeout x inet tcp syn_sent 1 syn_recv 2 established 3 fin_wait 4 close_wait 5 last_ack 6 time_wait 7 close 8 syn_sent2 9 retrans 10 unacknowledged 11",
		"default-set timeout inet udp unreplied 11", "default-set timeout inet6 icmp timeout 3", "default-get timeout inet tcp", "default-get timeout inet6 esp",

		"list helper", "flush helper", "get helper ftp", "get helper ftp inet tcp", "get helper x inet6 udp", "get helper ''",
		"get helper a-name-of-15-by", "delete helper ftp", "delete helper ftp inet tcp", "delete helper rpc inet6 udp",
	}
	for _, h := range builtin.All() {
		if h.Ours {
			continue
		}
		for _, proto := range h.Protocols {
			args := h.Name + " inet " + map[uint8]string{6: "tcp", 17: "udp"}[proto]
			lines = append(lines, "add helper "+args, "disable helper "+args)
		}
	}
	lines = append(lines, "add helper ftp inet6 tcp", "disable helper tftp inet6 udp")
	for _, line := range lines {
		theirs, ours := sent(netnstest.Peer(t, "nfct"), line), sent(netnstest.Applet(t, "nfct"), line)
		if len(theirs) != 1 {
			t.Fatalf("nfct %s: the peer sent %d messages", line, len(theirs))
		}
		if diff := cmp.Diff(theirs, ours); diff != "" {
			t.Errorf("nfct %s (-theirs +ours):\n%s", line, diff)
		}
	}
}
