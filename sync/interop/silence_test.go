package interop

import (
	"encoding/json"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// TestSilentPeer checks that the log, -s network, -s link and the doctor report a peer whose
// messages are dropped or that is dead, and that the log has the end of the silence.
func TestSilentPeer(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, debian}, clause("FTFW {\n}", ""), "")
	a, peer := p.a, p.b.link(4, 0)
	heard := func(request string) bool {
		return strings.Contains(a.daemon.client("-s", request), "\tlast heard 0 s ago\n")
	}
	netnstest.Eventually(t, patience, "the peer is heard", func() bool { return heard("network") && heard("link") })
	if text := a.daemon.client("-s", "network"); !strings.Contains(text, "\npeers:\n\t"+peer+"\tlast heard ") {
		t.Errorf("-s network says\n%s", text)
	}
	a.doctor("ok", "sync-peer", peer)

	a.ns.NFT("table inet deaf { chain in { type filter hook input priority 0; udp dport 3780 drop; }; }")
	said := func(text string) bool { return strings.Contains(a.daemon.log(), text) }
	netnstest.Eventually(t, patience, "the silence is said", func() bool { return said("nothing has been heard from " + peer + " for ") })
	if heard("network") || heard("link") {
		t.Errorf("the peer is heard:\n%s%s", a.daemon.client("-s", "network"), a.daemon.client("-s", "link"))
	}
	a.doctor("error", "sync-peer", peer)
	a.ns.NFT("delete table inet deaf")
	netnstest.Eventually(t, patience, "its end is said", func() bool { return said(peer + " is heard again, after ") })
	if n := strings.Count(a.daemon.log(), "nothing has been heard"); n != 1 {
		t.Errorf("the silence is said %d times:\n%s", n, a.daemon.log())
	}
}

// doctor checks that the doctor reports a finding of this check and severity whose evidence
// contains text.
func (n *node) doctor(severity, check, seen string) {
	n.daemon.t.Helper()
	r := n.ns.Run("", netnstest.Applet(n.daemon.t, "ctbox"), "doctor", "--json", "--for", "conntrackd", "-C", n.daemon.path("conf"))
	var found []string
	for line := range strings.Lines(r.Stdout) {
		var f struct{ Severity, ID, Seen string }
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			n.daemon.t.Fatalf("%q: %v", line, err)
		}
		if f.ID == check {
			found = append(found, line)
			if f.Severity == severity && strings.Contains(f.Seen, seen) {
				return
			}
		}
	}
	n.daemon.t.Errorf("no finding %s of %s with %q in %q", severity, check, seen, found)
}
