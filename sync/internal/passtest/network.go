// Package passtest sends traffic through firewalls: clients and a server, and between them
// gateways of which one has the traffic. A test moves the traffic from one gateway to another,
// as a takeover does, while connections are open.
package passtest

import (
	"fmt"
	"testing"

	"ctbox/internal/netnstest"
)

// Addresses of the hosts. All clients share the same addresses, as hosts in different VRFs may:
// only the gateway's interface distinguishes them.
const (
	Client4, Client6 = "192.0.2.240", "2001:db8:c::129"
	Server4, Server6 = "198.51.100.129", "2001:db8:d::129"
)

// Outside4 and Outside6 are networks that gateways can translate clients to. The server sends
// what is for them to the gateway that has the traffic.
const (
	Outside4, Outside6 = "203.0.113.0/25", "2001:db8:f::/64"
)

// Network is clients and a server, with gateways between them.
type Network struct {
	Clients []*netnstest.NS
	Server  *netnstest.NS

	t        testing.TB
	gateways []*netnstest.NS
}

// New makes a number of clients, at most 7, and a server, and links each to every gateway. A
// gateway's interface to client i is client<i>, the one to the server is server. It routes what
// is for the clients by the packet's mark: i+1 for client i; without one to client 0. Gateway 0
// has the traffic.
func New(t testing.TB, clients int, gateways ...*netnstest.NS) *Network {
	t.Helper()
	n := &Network{Server: netnstest.New(t, "server"), t: t, gateways: gateways}
	for i := range clients {
		n.Clients = append(n.Clients, netnstest.New(t, fmt.Sprintf("client%d", i)))
	}
	for g, gateway := range gateways {
		gateway.Sysctl("net.ipv4.ip_forward", "1")
		gateway.Sysctl("net.ipv6.conf.all.forwarding", "1")
		n.link(gateway, g, "server", n.Server, serverLink)
		for i, client := range n.Clients {
			n.link(gateway, g, fmt.Sprintf("client%d", i), client, i)
		}
	}
	for _, host := range n.hosts() {
		host.addrs()
	}
	n.Through(0)
	return n
}

// serverLink is the server's number among the hosts that a gateway is linked to.
const serverLink = 7

// link connects a gateway with a host over a network of its own.
func (n *Network) link(gateway *netnstest.NS, number int, dev string, host *netnstest.NS, which int) {
	n.t.Helper()
	near4, far4 := linkAddrs(number, which, false)
	near6, far6 := linkAddrs(number, which, true)
	netnstest.Link(n.t,
		netnstest.End{NS: gateway, Dev: dev, Addrs: []string{near4 + "/31", near6 + "/126"}},
		netnstest.End{NS: host, Dev: fmt.Sprintf("gateway%d", number), Addrs: []string{far4 + "/31", far6 + "/126"}})
	to4, to6, tables := Server4, Server6, []string{"main"}
	if which != serverLink {
		table := fmt.Sprint(which + 1)
		gateway.IP("rule", "add", "fwmark", table, "table", table)
		gateway.IP("-6", "rule", "add", "fwmark", table, "table", table)
		to4, to6, tables = Client4, Client6, []string{table}
		if which == 0 {
			tables = append(tables, "main")
		}
	}
	for _, table := range tables {
		gateway.IP("route", "add", to4, "via", far4, "table", table)
		gateway.IP("-6", "route", "add", to6, "via", far6, "table", table)
	}
}

// linkAddrs returns the addresses of a gateway and a host on the link between them.
func linkAddrs(gateway, host int, v6 bool) (near, far string) {
	if v6 {
		net := fmt.Sprintf("2001:db8:%x:%x::", 0x200+gateway, host)
		return net + "1", net + "2"
	}
	last := 128 + 16*host + 2*gateway
	return fmt.Sprintf("203.0.113.%d", last), fmt.Sprintf("203.0.113.%d", last+1)
}

// host is a client or the server.
type host struct {
	*netnstest.NS
	addr4, addr6 string
	to4, to6     []string // networks behind the gateway
	which        int
}

func (n *Network) hosts() []host {
	all := []host{{n.Server, Server4, Server6, []string{Outside4, Client4}, []string{Outside6, Client6}, serverLink}}
	for i, c := range n.Clients {
		all = append(all, host{c, Client4, Client6, []string{Server4}, []string{Server6}, i})
	}
	return all
}

func (h host) addrs() {
	h.IP("addr", "add", h.addr4+"/32", "dev", "lo")
	h.IP("addr", "add", h.addr6+"/128", "dev", "lo", "nodad")
}

// Through makes the traffic pass through another gateway.
func (n *Network) Through(gateway int) {
	n.t.Helper()
	for _, h := range n.hosts() {
		via4, _ := linkAddrs(gateway, h.which, false)
		via6, _ := linkAddrs(gateway, h.which, true)
		for _, to := range h.to4 {
			h.IP("route", "replace", to, "via", via4, "src", h.addr4)
		}
		for _, to := range h.to6 {
			h.IP("-6", "route", "replace", to, "via", via6, "src", h.addr6)
		}
	}
}

// Float makes client 0 reach another address of the server through a gateway, and the server an
// address of Outside4. A gateway that translates the client to the second one on the way to the
// first can so have a part of the traffic, which a further call moves.
func (n *Network) Float(server4, outside4 string, gateway int) {
	n.t.Helper()
	n.Server.IP("addr", "replace", server4+"/32", "dev", "lo")
	for g, ns := range n.gateways {
		_, via := linkAddrs(g, serverLink, false)
		ns.IP("route", "replace", server4, "via", via)
	}
	n.FloatBack(outside4, gateway)
	via, _ := linkAddrs(gateway, 0, false)
	n.Clients[0].IP("route", "replace", server4, "via", via, "src", Client4)
}

// FloatBack moves only the way from the server to client 0: what is for this address passes
// through a gateway.
func (n *Network) FloatBack(addr4 string, gateway int) {
	n.t.Helper()
	via, _ := linkAddrs(gateway, serverLink, false)
	n.Server.IP("route", "replace", addr4, "via", via)
}
