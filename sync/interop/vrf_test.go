package interop

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"ctbox/sync/internal/passtest"
)

// vrfs are the rules of a gateway whose clients have equal addresses. They are in the original
// zones 3 and 4, as the VRFs of a VyOS router are, and each has an address of its own outside.
const vrfs = `table inet vrf {
	chain zones {
		type filter hook prerouting priority raw;
		iifname client0 ct original zone set 3
		iifname client1 ct original zone set 4
	}
	chain marks {
		type filter hook prerouting priority mangle;
		iifname client0 ct mark set 1
		iifname client1 ct mark set 2
		iifname server meta mark set ct mark
	}
	chain hide {
		type nat hook postrouting priority srcnat;
		oifname server ip daddr 198.51.100.129 snat ip to ct mark map { 1 : 203.0.113.103, 2 : 203.0.113.104 }
		oifname server ip6 daddr 2001:db8:d::129 snat ip6 to ct mark map { 1 : 2001:db8:f::103, 2 : 2001:db8:f::104 }
	}
}`

// Two connections of clients with equal addresses and ports, which only their original zones
// tell apart, survive a takeover and the way back: each stays in its zone and keeps its address
// outside.
func TestOriginalZonesSurviveTakeover(t *testing.T) {
	for _, c := range []struct {
		client, server string
		outside        [2]string
		speak          protocol
	}{
		{passtest.Client4, passtest.Server4, [2]string{"203.0.113.103", "203.0.113.104"}, plain},
		{passtest.Client6, passtest.Server6, [2]string{"2001:db8:f::103", "2001:db8:f::104"}, sealed},
	} {
		t.Run(string(c.speak), func(t *testing.T) {
			t.Parallel()
			g := newGateways(t, 2, vrfs, c.speak)
			var conns [2]*passtest.Conn
			for i := range conns {
				conns[i] = passtest.Dial(t, g.Clients[i], g.Server, net.JoinHostPort(c.client, "5000"), net.JoinHostPort(c.server, "8000"))
			}
			pass := func(when string) {
				t.Helper()
				for i, conn := range conns {
					if got := conn.Server.RemoteAddr().(*net.TCPAddr).AddrPort(); got != netip.AddrPortFrom(netip.MustParseAddr(c.outside[i]), 5000) {
						t.Errorf("%s the server sees client %d as %v", when, i, got)
					}
					conn.Pass(when)
				}
			}
			pass("before")
			for primary := range 2 {
				for zone := 3; zone <= 4; zone++ {
					g.copied(primary, fmt.Sprintf("zone-orig=%d ", zone), 1, "ct")
				}
				g.takeOver(primary)
				pass("after a takeover")
				outside := map[uint16]string{}
				for _, f := range g.nodes[1-primary].kernel.flows() {
					if f.Orig.SrcPort == 5000 {
						outside[f.Orig.Zone] += addrOf(f.Reply.Family, &f.Reply.Dst).String()
					}
				}
				if len(outside) != 2 || outside[3] != c.outside[0] || outside[4] != c.outside[1] {
					t.Errorf("addresses by zone after the takeover: %v", outside)
				}
				g.comeBack(primary)
			}
			for _, n := range g.nodes {
				if log := n.daemon.log(); strings.Contains(log, "not replicated") {
					t.Errorf("%s says:\n%s", n.name, log)
				}
			}
		})
	}
}
