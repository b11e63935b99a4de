package interop

import (
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// TestOneWayLink checks that a node whose messages are dropped, while the peer's arrive, says so in
// its log, status, metrics and doctor: at the start, where nothing of it has ever arrived, and later.
func TestOneWayLink(t *testing.T) {
	for _, who := range []programs{{ours, ours}, {ours, debian}} {
		for _, when := range []string{"at the start", "later"} {
			if who[1] == debian && when == "later" {
				continue // a C daemon says nothing of it
			}
			t.Run(who.String()+" "+when, func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				a, peer := p.a, p.b.link(4, 0)
				said := func(text string) bool { return strings.Contains(a.daemon.log(), text) }
				shows := func(text string) bool {
					return strings.Contains(a.daemon.client("-s", "network"), "\npaths to peers:\n\t"+peer+"\t"+text)
				}
				const deaf = "table inet deaf { chain in { type filter hook input priority 0; udp dport 3780 drop; }; }"
				if when == "at the start" {
					p.b.ns.NFT(deaf)
				}
				p.start(who, clause("FTFW {\n}", ""), "")
				if when == "later" {
					netnstest.Eventually(t, patience, "packets of the full MTU arrive", func() bool {
						return shows("messages arrive, also in packets of 1500 bytes\n")
					})
					a.doctor("ok", "sync-peer", "packets of 1500 bytes")
					p.b.ns.NFT(deaf)
				}
				netnstest.Eventually(t, patience, "the node says that it is not heard", func() bool {
					return said(peer+" has heard nothing for ") && shows("no message arrives\n")
				})
				a.doctor("error", "sync-peer", "no message of this node arrives")
				if n := metric(t, a.daemon, `conntrackd_peer_hears{peer="`+peer+`"}`); n != 0 {
					t.Errorf("the metric is %d", n)
				}
				if who[1] == ours && !strings.Contains(p.b.daemon.log(), "nothing has been heard from ") {
					t.Errorf("the deaf node says\n%s", p.b.daemon.log())
				}
				p.b.ns.NFT("delete table inet deaf")
				netnstest.Eventually(t, patience, "the node says that it is heard", func() bool { return said(peer + " hears this node again") })
				if n := strings.Count(a.daemon.log(), "has heard nothing for "); n != 1 {
					t.Errorf("it is said %d times:\n%s", n, a.daemon.log())
				}
			})
		}
	}
}

// TestPathOfSmallPackets checks that a path that drops large packets only is found at the start, over UDP
// and multicast, that a C daemon is not asked, and that no counter of it moves.
func TestPathOfSmallPackets(t *testing.T) {
	for name, link := range map[string]func(me, peer *side) string{"UDP": udp(4, 0, "sync0", ""), "UDP6": udp(6, 0, "sync0", ""), "multicast": multicast(4)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.b.ns.NFT("table inet narrow { chain in { type filter hook input priority 0; iifname sync0 meta length > 1400 counter drop; }; }")
			sync := func(me, peer *side) string { return "Mode NOTRACK {\n}\n" + link(me, peer) }
			p.start(programs{ours, ours}, sync, "")
			shows := func(n *node, text string) bool {
				_, paths, _ := strings.Cut(n.daemon.client("-s", "network"), "\npaths to peers:\n")
				return strings.Contains(paths, "\t"+text+"\n")
			}
			defer func() {
				if t.Failed() {
					t.Logf("%s\n%s\n%s", p.a.daemon.client("-s", "network"), p.a.daemon.log(), p.b.daemon.log())
				}
			}()
			netnstest.Eventually(t, patience, "the way to b is found narrow", func() bool {
				return shows(p.a, "messages arrive, but no packet of 1500 bytes") && strings.Contains(p.a.daemon.log(), "packets of 1500 bytes do not reach ")
			})
			netnstest.Eventually(t, patience, "the way to a is whole", func() bool {
				return shows(p.b, "messages arrive, also in packets of 1500 bytes")
			})
			p.a.doctor("error", "sync-peer", "packets of 1500 bytes do not arrive")
		})
	}
	t.Run("C daemon", func(t *testing.T) {
		t.Parallel()
		p := newPair(t)
		p.b.ns.NFT("table inet narrow { chain in { type filter hook input priority 0; iifname sync0 meta length > 1400 counter drop; }; }")
		p.start(programs{ours, debian}, clause("FTFW {\n}", ""), "")
		netnstest.Eventually(t, patience, "the way is not known", func() bool {
			return strings.Contains(p.a.daemon.client("-s", "network"), "\tnot known: the peer does not say what arrives (conntrack-tools does not)\n")
		})
		p.a.doctor("note", "sync-peer", "is not known")
		if text := p.b.daemon.ask(statsNetwork); strings.Contains(p.a.daemon.log(), "do not reach") || !strings.Contains(text, "Packets lost:\t\t                   0\n") {
			t.Errorf("%s\n%s", p.a.daemon.log(), text)
		}
	})
}
