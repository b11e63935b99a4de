//go:build vm

package vmtest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// These helpers are for hosts that query a group: the firewall itself is the client and
// accepts the answers.

// group opens a socket of a multicast group at the server.
func (fw *firewall) group(t *testing.T, addr string, port int) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	fw.server.Do(func() {
		var dev *net.Interface
		if dev, err = net.InterfaceByName("s0"); err == nil {
			conn, err = net.ListenMulticastUDP("udp", dev, &net.UDPAddr{IP: net.ParseIP(addr), Port: port})
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// mDNS (RFC 6762) and SLP (RFC 2608): any host may answer, from the service's port.
func TestGroupService(t *testing.T) {
	for _, test := range []struct {
		kind     kind
		group    string
		lifetime int
	}{
		{mdns, "224.0.0.251", 30},
		{slp, "239.255.255.253", 16},
	} {
		k := test.kind
		t.Run(k.name, func(t *testing.T) {
			each(t, func(t *testing.T, p program) {
				fw := newFirewall(t)
				fw.register(k)
				fw.load(routed, true, k)
				defer fw.start(p, false, k).end()

				at := fw.group(t, test.group, k.port)
				from := datagrams(t, fw.router, outerAddr, 41000)
				post(t, from, "a question", addrPort(test.group, k.port))
				receive(t, at)
				fw.expects(t, expected{protocol: "udp", src: addrPort("0.0.0.0", k.port), dst: addrPort(outerAddr, 41000),
					master: flow{addrPort(outerAddr, 41000), addrPort(test.group, k.port)}, helper: k.name, permanent: true, lifetime: test.lifetime})
				at.Close()
				refusedDatagram(t, fw.server, serverAddr, k.port+1, addrPort(outerAddr, 41000))
				refusedDatagram(t, fw.server, serverAddr, k.port, addrPort(outerAddr, 41001))
				post(t, datagrams(t, fw.server, serverAddr, k.port), "an answer", addrPort(outerAddr, 41000))
				receive(t, from)
			})
		})
	}
}

const ssdpSearch = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n"

// A whole session with a UPnP device: search, answer, subscription, event.
func TestSSDP(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(ssdp, ssdpTCP)
		fw.load(routed, true, ssdp)
		defer fw.start(p, false, ssdp, ssdpTCP).end()

		at := fw.group(t, "239.255.255.250", 1900)
		from := datagrams(t, fw.router, outerAddr, 41000)
		search := flow{addrPort(outerAddr, 41000), "239.255.255.250:1900"}
		post(t, from, ssdpSearch, search.dst)
		receive(t, at)
		at.Close()
		reply := expected{protocol: "udp", dst: search.src, master: search, helper: "ssdp", permanent: true, lifetime: 300}
		fw.expects(t, reply)
		refusedDatagram(t, fw.server, serverAddr, 1900, addrPort(outerAddr, 41001))

		device := datagrams(t, fw.server, serverAddr, 1900)
		post(t, device, "HTTP/1.1 200 OK\r\nLOCATION: http://"+serverAddr+":49152/d.xml\r\n\r\n", search.src)
		receive(t, from)
		http := expected{protocol: "tcp", dst: addrPort(serverAddr, 49152),
			master: flow{addrPort(serverAddr, 1900), search.src}, helper: "ssdp", permanent: true, lifetime: 300}
		fw.expects(t, reply, http)

		s := dial(t, fw.router, 41010, addrPort(serverAddr, 49152), listen(t, fw.server, "", 49152))
		relay(t, s.client, s.server, subscribe(addrPort(outerAddr, 5000)))
		event := expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(outerAddr, 5000),
			master: flow{addrPort(outerAddr, 41010), addrPort(serverAddr, 49152)}, helper: "ssdp", lifetime: 300}
		fw.expects(t, reply, http, event)
		refused(t, fw.server, addrPort(outerAddr, 5001))

		// An event, which announces the next.
		s = dial(t, fw.server, 41020, addrPort(outerAddr, 5000), listen(t, fw.router, "", 5000))
		fw.expects(t, reply, http)
		relay(t, s.client, s.server, "NOTIFY /cb HTTP/1.1\r\n\r\n")
		event.master = flow{addrPort(serverAddr, 41020), addrPort(outerAddr, 5000)}
		fw.expects(t, reply, http, event)
	})
}

func subscribe(callback string) string {
	return "SUBSCRIBE /evt HTTP/1.1\r\nHOST: " + serverAddr + ":49152\r\nCALLBACK: <http://" + callback + "/cb>\r\nNT: upnp:event\r\n\r\n"
}

// A subscription through a firewall: with SNAT the address for the events is rewritten too.
func TestSSDPSubscription(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(ssdpTCP)
				fw.load(nat, true, ssdpTCP)
				defer fw.start(p, false, ssdpTCP).end()
				server, client := nat.of(v4)
				s := dial(t, fw.client, 41000, addrPort(server, 49152), listen(t, fw.server, "", 49152))
				send(t, s.client, s.server, subscribe(addrPort(clientAddr, 5000)), subscribe(addrPort(client, 5000)))
				fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(client, 5000),
					master: flow{addrPort(clientAddr, 41000), addrPort(server, 49152)}, helper: "ssdp", lifetime: 300})
				refused(t, fw.server, addrPort(client, 5001))
				if nat == snat && defect(t, p, 1) {
					return
				}
				// The event passes and announces the next one, which passes too.
				l := listen(t, fw.client, "", 5000)
				for port := 41020; port < 41022; port++ {
					s = dial(t, fw.server, port, addrPort(client, 5000), l)
					fw.expectsNone(t)
					relay(t, s.client, s.server, "NOTIFY /cb HTTP/1.1\r\n\r\n")
					fw.expects(t, expected{protocol: "tcp", src: addrPort(serverAddr, 0), dst: addrPort(client, 5000),
						master: flow{addrPort(serverAddr, port), addrPort(client, 5000)}, helper: "ssdp", lifetime: 300})
				}
			})
		}
	})
}

// The answer to a search with SNAT comes to the translated address, and only the NAT function
// of nf_nat_sip leads it to the client.
func TestSSDPTranslatedSearch(t *testing.T) {
	const outside = "198.51.100.2"
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.router.Must("busybox", "modprobe", "nf_nat_sip")
		fw.router.IP("addr", "add", outside+"/24", "dev", "s0")
		fw.register(ssdp)
		fw.load(routed, true, ssdp)
		fw.router.NFT("table ip nat {\n\tchain post {\n\t\ttype nat hook postrouting priority srcnat\n\t\tudp dport 1900 snat to " + outside + "\n\t}\n}\n")
		defer fw.start(p, false, ssdp).end()

		at := fw.group(t, "239.255.255.250", 1900)
		from := datagrams(t, fw.router, outerAddr, 41000)
		post(t, from, ssdpSearch, "239.255.255.250:1900")
		post(t, from, "something else", "239.255.255.250:1900")
		text, source := receive(t, at)
		if defect(t, p, 13) {
			// The queue is in order, so the search would have come first.
			if text == ssdpSearch {
				t.Error("the search arrived")
			}
			return
		}
		if text != ssdpSearch || source.String() != addrPort(outside, 41000) {
			t.Fatalf("%q from %s", text, source)
		}
		at.Close()
		fw.expects(t, expected{protocol: "udp", dst: addrPort(outside, 41000),
			master: flow{addrPort(outerAddr, 41000), "239.255.255.250:1900"}, helper: "ssdp", permanent: true, lifetime: 300})
		post(t, datagrams(t, fw.server, serverAddr, 1900), "HTTP/1.1 200 OK\r\n\r\n", addrPort(outside, 41000))
		receive(t, from)
	})
}

// zone returns the zone of the link between firewall and server as a number: package net
// caches names across namespaces.
func zone(t *testing.T, ns *netnstest.NS) string {
	t.Helper()
	var dev *net.Interface
	var err error
	ns.Do(func() { dev, err = net.InterfaceByName("s0") })
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%%%d", dev.Index)
}

// DHCPv6 (RFC 8415): a server answers from its own address.
func TestDHCPv6(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(dhcpv6)
		fw.load(routed, true, dhcpv6)
		defer fw.start(p, false, dhcpv6).end()

		at := fw.group(t, "ff02::1:2", 547)
		here, there := zone(t, fw.router), zone(t, fw.server)
		from := datagrams(t, fw.router, routerLink+here, 546)
		group := "[ff02::1:2" + here + "]:547"
		master := flow{addrPort(routerLink, 546), addrPort("ff02::1:2", 547)}

		// LEASEQUERY is not for clients (RFC 5007).
		const query, solicit = "\x0e\x00\x00\x01", "\x01\xaa\xbb\xcc"
		post(t, from, query, group)
		post(t, from, solicit, group)
		if !defect(t, p, 101) {
			if text, _ := receive(t, at); text != query {
				t.Errorf("%q arrived", text)
			}
		}
		if text, _ := receive(t, at); text != solicit {
			t.Errorf("%q arrived", text)
		}
		at.Close()
		fw.expects(t, expected{protocol: "udp", src: "[::]:0", dst: addrPort(routerLink, 546), master: master,
			helper: "dhcpv6", permanent: true, lifetime: 300})
		// The flow's timeout is the longest answer time of a server, instead of the default of 30 s.
		flows := strings.Fields(fw.router.Must(applet("conntrack"), "-L", "-f", "ipv6", "-p", "udp", "--sport", "546"))
		if len(flows) < 3 {
			t.Fatal("no flow")
		}
		if left, err := strconv.Atoi(flows[2]); err != nil || left <= 30 || left > 120 {
			t.Errorf("the flow lives for %s s, want 120", flows[2])
		}
		refusedDatagram(t, fw.server, serverLink+there, 548, addrPort(routerLink+there, 545))
		post(t, datagrams(t, fw.server, serverLink+there, 547), "\x02\xaa\xbb\xcc", addrPort(routerLink+there, 546))
		receive(t, from)
	})
}
