package interop

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// node is one firewall of a pair.
type node struct {
	*side
	pair   *pair
	ns     *netnstest.NS
	kernel *kernel
	daemon *daemon
}

// pair is two firewalls with a dedicated link (sync0) between them.
type pair struct {
	t    testing.TB
	a, b *node
	// told is set when each node may have received its own flows from the other, which
	// has committed them.
	told bool
}

// programs are the implementations of a pair's daemons, a's first.
type programs [2]program

func (p programs) String() string { return fmt.Sprintf("%s+%s", p[0], p[1]) }

// pairings are the mixed pair and the pair of ctbox daemons. Each node of a pair is the origin
// of flows and the replica of the other's, so the order does not matter.
var pairings = []programs{{ours, debian}, {ours, ours}}

// newPair creates the two firewalls, without daemons. Both track and translate flows, except
// the replication itself.
func newPair(t testing.TB) *pair {
	t.Helper()
	p := newUnlinkedPair(t)
	p.link("sync0", 0)
	return p
}

// newUnlinkedPair is newPair without the dedicated link.
func newUnlinkedPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{t: t}
	p.a, p.b = newNode(t, p, &sides[0]), newNode(t, p, &sides[1])
	return p
}

func newNode(t testing.TB, p *pair, s *side) *node {
	t.Helper()
	ns := netnstest.New(t, s.name)
	ns.NFT(rules(s))
	for _, proto := range []string{"udp", "icmp", "icmpv6"} {
		// The flows of the scenario's traffic outlive it, also on a slow machine.
		ns.Sysctl("net.netfilter.nf_conntrack_"+proto+"_timeout", "600")
	}
	for _, what := range []string{"unacknowledged", "max_retrans"} {
		// While data is unacknowledged the kernel gives a connection a shorter timeout,
		// and sends no event when that ends: a replica may have either.
		ns.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_"+what, "432000")
	}
	return &node{side: s, pair: p, ns: ns, kernel: openKernel(t, ns)}
}

// link adds dedicated link number i.
func (p *pair) link(dev string, i int) {
	p.t.Helper()
	end := func(n *node) netnstest.End {
		return netnstest.End{NS: n.ns, Dev: dev, Addrs: []string{n.link(4, i) + "/27", n.link(6, i) + "/64"}}
	}
	netnstest.Link(p.t, end(p.a), end(p.b))
}

// link returns the address on dedicated link number i.
func (s *side) link(family, i int) string {
	last := s.link4[len(s.link4)-1:]
	if family == 6 {
		return fmt.Sprintf("2001:db8:%d::%s", 0x100+i, last)
	}
	return fmt.Sprintf("192.0.2.%d", 32*i+int(last[0]-'0'))
}

// rules make the kernel track everything except the dedicated links, translate the scenario's
// traffic, follow FTP, and reserve room for labels.
func rules(s *side) string {
	return fmt.Sprintf(`
table inet firewall {
	ct helper ftp { type "ftp" protocol tcp; }
	chain untracked_in { type filter hook prerouting priority raw; iifname "sync*" notrack; }
	chain untracked_out { type filter hook output priority raw; oifname "sync*" notrack; }
	chain helpers { type filter hook output priority 0; tcp dport 21 ct helper set "ftp"; }
	chain tracked { type filter hook prerouting priority 0; ct state new accept; ct label 120 accept; }
	chain forward_to { type nat hook output priority -100; ip daddr %[1]s tcp dport 8000 dnat ip to %[2]s:9000; }
	chain hide { type nat hook postrouting priority 100; ip saddr %[3]s tcp dport { 21, 9000 } snat ip to %[4]s; }
}
`, s.host4(server), s.host4(server+1), s.host4(100), s.outside)
}

// start starts both daemons with their Sync clauses.
func (p *pair) start(who programs, sync func(me, peer *side) string, general string) {
	p.t.Helper()
	p.a.daemon = newDaemon(p.t, p.a.ns, who[0], sync(p.a.side, p.b.side), general)
	p.b.daemon = newDaemon(p.t, p.b.ns, who[1], sync(p.b.side, p.a.side), general)
	p.a.daemon.launch()
	p.b.daemon.launch()
	p.a.daemon.awaitAnswer()
	p.b.daemon.awaitAnswer()
}

// each iterates over both nodes, each with the other one.
func (p *pair) each(do func(from, to *node)) {
	p.t.Helper()
	do(p.a, p.b)
	do(p.b, p.a)
}

// external returns the external cache, internal the internal one.
func (n *node) external() map[entry]bool { return entriesOf(n.daemon.ask(dumpExternal)) }
func (n *node) internal() map[entry]bool { return entriesOf(n.daemon.ask(dumpInternal)) }

// replicated waits until the external cache of each has exactly the flows of the
// other's kernel that began behind the other.
func (p *pair) replicated(when string) {
	p.t.Helper()
	p.each(func(from, to *node) {
		p.t.Helper()
		to.follows(from, when)
	})
}

// follows waits until n's external cache has exactly the other's own flows.
func (n *node) follows(from *node, when string) {
	t := n.daemon.t
	t.Helper()
	diff := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s: external cache of %s against the kernel of %s (- missing, + too many):\n%s\nlogs:\n%s\n%s",
				when, n.daemon.name(), from.daemon.name(), diff, from.daemon.log(), n.daemon.log())
		}
	}()
	netnstest.Eventually(t, patience, when+": "+n.daemon.name()+" has the other's flows", func() bool {
		want, got := about(from.kernel.entries(), from.side), n.external()
		if n.daemon.expects {
			maps.Copy(want, about(from.kernel.expectEntries(), from.side))
			maps.Copy(got, entriesOf(n.daemon.ask(dumpExternalExp)))
		}
		if n.pair.told {
			got = about(got, from.side)
		}
		diff = difference(want, got)
		return diff == ""
	})
}

// udp, multicast and tcp return the clauses of a dedicated link.
func udp(family, i int, dev string, option string) func(me, peer *side) string {
	return func(me, peer *side) string {
		return fmt.Sprintf("UDP %[6]s {\n\tIPv%[1]d_address %[2]s\n\tIPv%[1]d_Destination_Address %[3]s\n\tPort %[5]d\n\tInterface %[4]s\n\tChecksum on\n}\n",
			family, me.link(family, i), peer.link(family, i), dev, 3780+i, option)
	}
}

func tcp(family int) func(me, peer *side) string {
	return func(me, peer *side) string {
		return "TCP" + strings.TrimPrefix(udp(family, 0, "sync0", "")(me, peer), "UDP")
	}
}

func multicast(family int) func(me, peer *side) string {
	return func(me, peer *side) string {
		if family == 6 {
			return "Multicast {\n\tIPv6_address ff08::1\n\tGroup 3780\n\tInterface sync0\n}\n"
		}
		return fmt.Sprintf("Multicast {\n\tIPv4_address 225.0.0.50\n\tGroup 3780\n\tIPv4_interface %s\n\tInterface sync0\n}\n", me.link(4, 0))
	}
}
