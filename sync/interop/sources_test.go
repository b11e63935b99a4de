package interop

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// with adds clauses to the dedicated link of a Sync clause over sync0.
func with(link func(me, peer *side) string, clauses ...string) func(me, peer *side) string {
	return func(me, peer *side) string {
		return strings.Replace(link(me, peer), "\tPort ", "\t"+strings.Join(clauses, "\n\t")+"\n\tPort ", 1)
	}
}

// TestPeerWithTwoAddresses checks Accept with a C daemon, which sends from the first address of
// its interface, whichever address its peer sends to.
func TestPeerWithTwoAddresses(t *testing.T) {
	t.Parallel()
	const second = "192.0.2.12"
	p := newPair(t)
	p.b.ns.IP("addr", "add", second+"/27", "dev", "sync0")
	plain := clause("FTFW {\n}", "")
	atSecond := func(clause func(me, peer *side) string) func(me, peer *side) string {
		return func(me, peer *side) string {
			return strings.ReplaceAll(clause(me, peer), p.b.link(4, 0)+"\n", second+"\n")
		}
	}
	accepting := func(me, peer *side) string {
		return with(atSecond(plain), "Accept "+p.b.link(4, 0))(me, peer)
	}
	p.startRoles(programs{ours, debian}, accepting, atSecond(plain), "")
	p.each(func(n, _ *node) { f := n.flow(1); n.kernel.create(&f) })
	p.replicated("with a peer that sends from its other address")
	if n := p.a.daemon.statistics().Links[0].Refused; n != 0 {
		t.Errorf("%d messages are refused", n)
	}
}

// TestRelay checks Accept with a relay on a firewall's loopback interface, which passes the
// daemon's messages to several nodes and theirs to the daemon.
func TestRelay(t *testing.T) {
	t.Parallel()
	const daemon, relay = "127.0.0.1", "127.0.0.2"
	p, third := newTrio(t)
	startRelay(t, p.a, relay+":3780", daemon+":3780", p.b.link(4, 0)+":3780", third.link(4, 0)+":3780")
	plain := clause("NOTRACK {\n}", "")
	relayed := func(me, _ *side) string {
		text := strings.Replace(plain(me, me), "IPv4_address "+me.link(4, 0), "IPv4_address "+daemon, 1)
		text = strings.Replace(text, "IPv4_Destination_Address "+me.link(4, 0), "IPv4_Destination_Address "+relay, 1)
		return with(func(_, _ *side) string { return text }, "Accept "+relay)(me, me)
	}
	p.startRoles(programs{ours, debian}, relayed, plain, "")
	third.daemon = newDaemon(t, third.ns, ours, plain(third.side, p.a.side), "")
	third.daemon.start()
	for _, n := range []*node{p.a, p.b, third} {
		f := n.flow(1)
		n.kernel.create(&f)
	}
	p.b.follows(p.a, "through the relay")
	third.follows(p.a, "through the relay")
	p.a.follows(p.b, "through the relay")
	p.a.follows(third, "through the relay")
}

// newTrio returns an unlinked pair and a third node, all on one network.
func newTrio(t *testing.T) (p *pair, third *node) {
	t.Helper()
	p = newUnlinkedPair(t)
	p.told = true // each receives the flows of two others
	third = newNode(t, p, &sides[2])
	connect(t, faults{}, 1, p.a, p.b, third)
	return p, third
}

// startRelay passes messages that arrive at the relay's address to all other nodes, and
// messages that arrive at the port of the node's own address to the daemon.
func startRelay(t *testing.T, n *node, relay, daemon string, others ...string) {
	t.Helper()
	listen := func(at string) (conn *net.UDPConn) {
		n.ns.Do(func() {
			var err error
			if conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at))); err != nil {
				t.Fatal(err)
			}
		})
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	inner, outer := listen(relay), listen(n.link(4, 0)+":3780")
	pass := func(from, through *net.UDPConn, to ...string) {
		buf := make([]byte, 64<<10)
		for {
			size, _, err := from.ReadFromUDPAddrPort(buf)
			if err != nil {
				if strings.Contains(err.Error(), "closed") {
					return
				}
				continue // a node that does not listen yet
			}
			for _, at := range to {
				_, _ = through.WriteToUDPAddrPort(buf[:size], netip.MustParseAddrPort(at))
			}
		}
	}
	go pass(inner, outer, others...)
	go pass(outer, inner, daemon)
}

// TestSeveralPeers checks that Also sends to further nodes without a group and accepts their
// messages. A C daemon has one peer.
func TestSeveralPeers(t *testing.T) {
	for _, m := range modes[1:] {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			p, third := newTrio(t)
			udp := syncClause(m, transports[0], "")
			to := func(others ...*side) func(me, peer *side) string {
				return func(me, peer *side) string {
					var also []string
					for _, other := range others {
						also = append(also, "Also "+other.link(4, 0))
					}
					return with(udp, also...)(me, peer)
				}
			}
			p.startRoles(programs{ours, ours}, to(third.side), to(third.side), "")
			third.daemon = newDaemon(t, third.ns, debian, udp(third.side, p.a.side), "")
			third.daemon.start()
			for _, n := range []*node{p.a, p.b, third} {
				f := n.flow(1)
				n.kernel.create(&f)
			}
			for _, n := range []struct{ at, from *node }{{p.a, p.b}, {p.a, third}, {p.b, p.a}, {third, p.a}, {third, p.b}} {
				n.at.follows(n.from, "with several peers")
			}
		})
	}
}
