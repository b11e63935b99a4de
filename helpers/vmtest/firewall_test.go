//go:build vm

package vmtest

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// The addresses. With SNAT the server sees the firewall's outer address instead of the
// client's; with DNAT the client connects to the firewall instead of the server.
const (
	clientAddr = "192.0.2.2"
	innerAddr  = "192.0.2.1" // the firewall, towards the client
	outerAddr  = "198.51.100.1"
	serverAddr = "198.51.100.9"

	clientAddr6 = "2001:db8:1::2"
	innerAddr6  = "2001:db8:1::1"
	outerAddr6  = "2001:db8:2::1"
	serverAddr6 = "2001:db8:2::9"

	// link-local addresses between firewall and server, without duplicate address
	// detection, the same in every test
	routerLink = "fe80::1"
	serverLink = "fe80::9"
)

// addresses are the addresses of one family: of the client, both sides of the firewall, and
// the server.
type addresses struct{ client, inner, outer, server string }

var (
	v4 = addresses{clientAddr, innerAddr, outerAddr, serverAddr}
	v6 = addresses{clientAddr6, innerAddr6, outerAddr6, serverAddr6}
)

// firewall is a router between a client and a server. It is also a host, for the helpers of
// multicast protocols.
type firewall struct {
	t                      testing.TB
	client, router, server *netnstest.NS
}

func newFirewall(t testing.TB) *firewall {
	t.Helper()
	fw := &firewall{t, netnstest.New(t, "c"), netnstest.New(t, "r"), netnstest.New(t, "s")}
	batch(t, nil, "link add c0 netns "+fw.client.Name+" type veth peer name c0 netns "+fw.router.Name,
		"link add s0 netns "+fw.router.Name+" type veth peer name s0 netns "+fw.server.Name)
	batch(t, fw.client, "addr add "+clientAddr+"/24 dev c0", "addr add "+clientAddr6+"/64 dev c0 nodad",
		"link set c0 up", "route add default via "+innerAddr, "route add default via "+innerAddr6)
	batch(t, fw.router, "addr add "+innerAddr+"/24 dev c0", "addr add "+innerAddr6+"/64 dev c0 nodad",
		"addr add "+outerAddr+"/24 dev s0", "addr add "+outerAddr6+"/64 dev s0 nodad",
		"link set s0 addrgenmode none", "link set c0 up", "link set s0 up",
		"addr add "+routerLink+"/64 dev s0 nodad", "route add 224.0.0.0/4 dev s0")
	batch(t, fw.server, "addr add "+serverAddr+"/24 dev s0", "addr add "+serverAddr6+"/64 dev s0 nodad",
		"link set s0 addrgenmode none", "link set s0 up", "addr add "+serverLink+"/64 dev s0 nodad",
		"route add default via "+outerAddr, "route add default via "+outerAddr6)
	fw.router.Sysctl("net.ipv4.ip_forward", "1")
	fw.router.Sysctl("net.ipv6.conf.all.forwarding", "1")
	// Without a rate limit every refusal is answered at once.
	fw.router.Sysctl("net.ipv4.icmp_ratelimit", "0")
	fw.router.Sysctl("net.ipv6.icmp.ratelimit", "0")
	return fw
}

// batch runs ip(8) once with many lines, in the current namespace if ns is nil.
func batch(t testing.TB, ns *netnstest.NS, lines ...string) {
	t.Helper()
	text := strings.Join(lines, "\n") + "\n"
	if ns != nil {
		if r := ns.Run(text, "ip", "-batch", "-"); r.Code != 0 {
			t.Fatalf("ip -batch: %s", r.Stderr)
		}
		return
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ip -batch: %v: %s", err, out)
	}
}

// translation is the NAT that the firewall does.
type translation string

const (
	routed translation = "routed"
	snat   translation = "snat"
	dnat   translation = "dnat"
)

// load installs rules that accept only the helpers' services and related flows. It attaches
// the helpers with nft's ct helper objects unless attach is false. Everything else is
// rejected with an ICMP error, so that a test need not wait for a timeout.
func (fw *firewall) load(nat translation, attach bool, kinds ...kind) {
	fw.t.Helper()
	var objects, set, accept, redirect strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&accept, "\t\tmeta nfproto %s %s dport %d ct state new accept\n", k.nfproto(), k.protocol, k.port)
		if attach {
			fmt.Fprintf(&objects, "\tct helper %s { type %q protocol %s; l3proto %s; }\n", k.object(), k.name, k.protocol, k.l3proto())
			fmt.Fprintf(&set, "\t\tmeta nfproto %s %s dport %d ct helper set %q\n", k.nfproto(), k.protocol, k.port, k.object())
		}
		ip, a := "ip", v4
		if k.family == "inet6" {
			ip, a = "ip6", v6
		}
		fmt.Fprintf(&redirect, "\t\tiifname \"c0\" %s daddr %s %s dport %d dnat %[1]s to %[5]s\n", ip, a.inner, k.protocol, k.port, a.server)
	}
	text := fmt.Sprintf(`table inet fw {
%[1]s
	chain pre {
		type filter hook prerouting priority filter
%[2]s	}
	chain out {
		type filter hook output priority filter
%[2]s	}
	chain input {
		type filter hook input priority filter; policy drop
		ct state established,related accept
		meta l4proto { icmp, icmpv6 } accept
		ct state invalid drop
		counter reject with icmpx admin-prohibited
	}
	chain forward {
		type filter hook forward priority filter; policy drop
		ct state established,related accept
%[3]s		ct state invalid drop
		counter reject with icmpx admin-prohibited
	}
}
`, objects.String(), set.String(), accept.String())
	switch nat {
	case snat:
		text += "table inet nat {\n\tchain post {\n\t\ttype nat hook postrouting priority srcnat\n\t\toifname \"s0\" masquerade\n\t}\n}\n"
	case dnat:
		text += "table inet nat {\n\tchain pre {\n\t\ttype nat hook prerouting priority dstnat\n" + redirect.String() + "\t}\n}\n"
	}
	fw.router.NFT(text)
}

// of returns the address at which the client sees the server, and the server the client.
func (nat translation) of(a addresses) (server, client string) {
	switch nat {
	case snat:
		return a.server, a.outer
	case dnat:
		return a.inner, a.client
	}
	return a.server, a.client
}

// queue is a line of the kernel's table of queues.
type queue struct{ number, owner, waiting, mode, size, dropped, unsent, sent int }

func (fw *firewall) queues() []queue {
	fw.t.Helper()
	var table []byte
	fw.router.Do(func() {
		var err error
		if table, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue"); err != nil && !os.IsNotExist(err) {
			fw.t.Fatal(err)
		}
	})
	var all []queue
	for line := range strings.Lines(string(table)) {
		var q queue
		if _, err := fmt.Sscan(line, &q.number, &q.owner, &q.waiting, &q.mode, &q.size, &q.dropped, &q.unsent, &q.sent); err != nil {
			fw.t.Fatalf("queues: %q: %v", line, err)
		}
		all = append(all, q)
	}
	return all
}

// bound reports whether a program reads whole packets from a queue.
func (fw *firewall) bound(number int) bool {
	fw.t.Helper()
	return slices.ContainsFunc(fw.queues(), func(q queue) bool { return q.number == number && q.mode == 2 })
}

// waiting returns how many packets wait in a queue.
func (fw *firewall) waiting(number int) int {
	fw.t.Helper()
	for _, q := range fw.queues() {
		if q.number == number {
			return q.waiting
		}
	}
	return 0
}

// queued returns the number of packets that all queues have received.
func (fw *firewall) queued() (n int) {
	fw.t.Helper()
	for _, q := range fw.queues() {
		n += q.sent
	}
	return n
}
