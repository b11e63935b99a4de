package interop

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/passtest"
)

// gateways is a cluster of two gateways, with a dedicated link (sync0), between clients and a
// server.
type gateways struct {
	*passtest.Network
	t     *testing.T
	nodes [2]*node
}

// protocol is what the nodes of a pair speak.
type protocol string

const (
	version1 protocol = "version 1"
	plain    protocol = "version 2, plain"
	sealed   protocol = "version 2, sealed"
	standby  protocol = "version 2, sealed, with a hot standby"
)

// newGateways starts two gateways with these rules.
func newGateways(t *testing.T, clients int, rules string, speak protocol) *gateways {
	t.Helper()
	g := &gateways{t: t}
	for i := range g.nodes {
		ns := netnstest.New(t, sides[i].name)
		ns.NFT(`table inet untracked {
			chain in { type filter hook prerouting priority raw; iifname "sync*" notrack; }
			chain out { type filter hook output priority raw; oifname "sync*" notrack; }
		}`)
		ns.NFT(rules)
		g.nodes[i] = &node{side: &sides[i], ns: ns, kernel: openKernel(t, ns)}
	}
	p := &pair{t: t, a: g.nodes[0], b: g.nodes[1]}
	p.link("sync0", 0)
	g.Network = passtest.New(t, clients, p.a.ns, p.b.ns)
	for i, n := range g.nodes {
		n.pair = p
		n.daemon = newDaemon(t, n.ns, ours, "", "")
		n.daemon.configure(g.clause(i, speak), "")
		n.daemon.start()
	}
	if speak == plain {
		// Nodes without keys begin with version 1.
		for _, n := range g.nodes {
			netnstest.Eventually(t, patience, n.name+" speaks version 2", func() bool {
				return strings.Contains(n.daemon.log(), "version 2 of the protocol is spoken, in the clear")
			})
		}
	}
	return g
}

// clause returns the Sync clause of a gateway.
func (g *gateways) clause(number int, speak protocol) string {
	g.t.Helper()
	n, peer := g.nodes[number], g.nodes[1-number]
	const expects = "Options {\n\tExpectationSync on\n}\n"
	if speak == version1 {
		return "Mode FTFW {\n}\n" + udp(4, 0, "sync0", "")(n.side, peer.side) + expects
	}
	key := ""
	if speak == sealed || speak == standby {
		file := n.daemon.path("key")
		secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1, 7, 42, 99}, 8))
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			g.t.Fatal(err)
		}
		key = "Key 3 " + file + "\n\tSend 3"
	}
	if speak == standby {
		key += "\n\tHotStandby on"
	}
	return fmt.Sprintf(`Mode FTFW {
}
UDP {
	IPv4_address %s
	Port 3780
	Interface sync0
}
Cluster {
	Name edge
	Node %d %s
	Peer %d %s {
		IPv4_Destination_Address %s
	}
	%s
}
%s`, n.link(4, 0), number+1, n.name, 2-number, peer.name, peer.link(4, 0), key, expects)
}

// copied waits until the backup's external cache, shown by -e with options, has a text as often
// as wanted.
func (g *gateways) copied(primary int, text string, want int, options ...string) {
	g.t.Helper()
	backup := g.nodes[1-primary].daemon
	last := ""
	defer func() {
		if g.t.Failed() {
			g.t.Logf("the external cache of %s:\n%s\nlogs:\n%s\n%s", backup.name(), last, g.nodes[0].daemon.log(), g.nodes[1].daemon.log())
		}
	}()
	netnstest.Eventually(g.t, patience, fmt.Sprintf("%d %q are in the external cache", want, text), func() bool {
		last = backup.client(append([]string{"-e"}, options...)...)
		return strings.Count(last, text) == want
	})
}

// takeOver kills the daemon of the gateway that has the traffic. The other one commits what it
// has and gets the traffic, as by primary-backup.sh.
func (g *gateways) takeOver(primary int) {
	g.t.Helper()
	g.nodes[primary].daemon.kill()
	heir := g.nodes[1-primary].daemon
	heir.commit()
	g.Through(1 - primary)
	for _, command := range []string{"-f", "-R", "-B"} {
		heir.client(command)
	}
}

// comeBack starts the daemon of the gateway that has lost the traffic, with an empty kernel.
func (g *gateways) comeBack(number int) {
	g.t.Helper()
	n := g.nodes[number]
	n.kernel.flush()
	n.daemon.start()
	n.daemon.client("-n")
}

// zoned puts all that a gateway forwards into a zone.
const zoned = `table inet zoned {
	chain zones { type filter hook prerouting priority raw; iifname { client0, server } ct zone set 5; }
}`

// hiding is the rules of a gateway with the kernel's FTP helper whose clients have an address
// of another length outside.
const hiding = `table inet hide {
	ct helper ftp { type "ftp" protocol tcp; }
	chain helpers { type filter hook prerouting priority 0; tcp dport 21 ct state new ct helper set "ftp"; }
	chain hide {
		type nat hook postrouting priority srcnat;
		oifname server ip daddr 198.51.100.129 snat ip to 203.0.113.77
	}
}`

// FTP in active mode behind NAT survives a takeover and the way back with its control
// connection, whose sequence numbers are adjusted, an open data connection, and one that is
// expected.
func TestFTPSurvivesTakeover(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		speak       protocol
	}{
		{"version 1", hiding, version1},
		{"sealed", hiding, sealed},
		{"in a zone", hiding + "\n" + zoned, sealed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := newGateways(t, 1, c.rules, c.speak)
			s := passtest.DialFTP(t, g.Clients[0], g.Server, passtest.Client4, passtest.Server4)
			data := s.Offer().Connect()
			offers := 1 // each makes the connection's text one byte longer
			for primary := range 2 {
				expected := s.Offer()
				g.copied(primary, fmt.Sprintf("dport=%d ", expected.At.Port()), 1, "expect")
				offers++
				g.copied(primary, fmt.Sprintf(`"offset_after":%d}`, offers), 1, "ct", "--json")
				g.copied(primary, fmt.Sprintf(" dport=%d ", data.Client.RemoteAddr().(*net.TCPAddr).Port), 1, "ct")
				g.takeOver(primary)
				data.Pass("still open")
				expected.Connect().Close()
				s.Command("NOOP", "200 nothing done")
				s.Offer().Connect().Close()
				offers++
				s.Command("NOOP", "200 nothing done")
				for _, f := range g.nodes[1-primary].kernel.flows() {
					if f.Orig.DstPort == 21 && (f.Has&ctnetlink.HasSeqAdjOrig == 0 || f.Helper.String() != "ftp") {
						t.Errorf("the control connection is %+v", f)
					}
				}
				g.comeBack(primary)
			}
		})
	}
}
