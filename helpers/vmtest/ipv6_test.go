//go:build vm

package vmtest

import "testing"

// The helpers over IPv6, except for those with tests of their own.
var (
	amanda6  = kind{"amanda", "inet6", "udp", 10080, 20, 0, ""}
	mdns6    = kind{"mdns", "inet6", "udp", 5353, 21, 0, ""}
	rpcTCP6  = kind{"rpc", "inet6", "tcp", 111, 22, 0, ""}
	rpcUDP6  = kind{"rpc", "inet6", "udp", 111, 23, 0, ""}
	sane6    = kind{"sane", "inet6", "tcp", 6566, 24, 0, ""}
	slp6     = kind{"slp", "inet6", "udp", 427, 25, 0, ""}
	ssdp6    = kind{"ssdp", "inet6", "udp", 1900, 26, 0, ""}
	ssdpTCP6 = kind{"ssdp", "inet6", "tcp", 49152, 27, 0, ""}
	tns6     = kind{"tns", "inet6", "tcp", 1521, 28, 0, ""}

	kinds6 = []kind{amanda6, mdns6, rpcTCP6, rpcUDP6, sane6, slp6, ssdp6, ssdpTCP6, tns6}
)

// Helpers whose protocols are the same over IPv6 work there too. FTP, TFTP and DHCPv6 have
// their own tests.
func TestIPv6(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		fw := newFirewall(t)
		fw.register(kinds6...)
		fw.load(routed, true, kinds6...)
		defer fw.start(p, false, kinds6...).end()
		for _, test := range []struct {
			name string
			run  func(*testing.T, program)
		}{
			{"amanda", fw.amanda6}, {"mdns", fw.mdns6}, {"rpc", fw.rpc6}, {"sane", fw.sane6},
			{"slp", fw.slp6}, {"ssdp", fw.ssdp6}, {"tns", fw.tns6},
		} {
			t.Run(test.name, func(t *testing.T) {
				test.run(t, p)
				fw.router.Must(applet("conntrack"), "-F", "expect")
			})
		}
	})
}

func (fw *firewall) amanda6(t *testing.T, p program) {
	at := datagrams(t, fw.server, serverAddr6, 10080)
	from := datagrams(t, fw.client, clientAddr6, 900)
	post(t, from, "Amanda 2.6 REQ\n", addrPort(serverAddr6, 10080))
	receive(t, at)
	post(t, at, "Amanda 2.6 REP\nCONNECT DATA 50001 MESG 50002 INDEX 50003\n", addrPort(clientAddr6, 900))
	receive(t, from)
	if defect(t, p, 107) {
		fw.expectsNone(t)
		return
	}
	var wants []expected
	for _, port := range []int{50001, 50002, 50003} {
		wants = append(wants, expected{protocol: "tcp", src: addrPort(clientAddr6, 0), dst: addrPort(serverAddr6, port),
			master: flow{addrPort(clientAddr6, 900), addrPort(serverAddr6, 10080)}, helper: "amanda", lifetime: 180})
	}
	fw.expects(t, wants...)
	refused(t, fw.client, addrPort(serverAddr6, 50004))
	for _, port := range []int{50001, 50002, 50003} {
		passes(t, fw.client, addrPort(serverAddr6, port), listen(t, fw.server, "", port), clientAddr6)
	}
}

func (fw *firewall) mdns6(t *testing.T, _ program) { fw.askGroup6(t, mdns6, "ff02::fb", 30) }
func (fw *firewall) slp6(t *testing.T, _ program)  { fw.askGroup6(t, slp6, "ff02::116", 16) }

// askGroup6 sends a query to a link-local group; the answer comes from the service's port.
func (fw *firewall) askGroup6(t *testing.T, k kind, group string, lifetime int) {
	t.Helper()
	here, there := zone(t, fw.router), zone(t, fw.server)
	at := fw.group(t, group, k.port)
	from := datagrams(t, fw.router, routerLink+here, 41000)
	post(t, from, "a question", addrPort(group+here, k.port))
	receive(t, at)
	fw.expects(t, expected{protocol: "udp", src: addrPort("::", k.port), dst: addrPort(routerLink, 41000),
		master: flow{addrPort(routerLink, 41000), addrPort(group, k.port)}, helper: k.name, permanent: true, lifetime: lifetime})
	at.Close()
	refusedDatagram(t, fw.server, serverLink+there, k.port+1, addrPort(routerLink+there, 41000))
	post(t, datagrams(t, fw.server, serverLink+there, k.port), "an answer", addrPort(routerLink+there, 41000))
	receive(t, from)
}

func (fw *firewall) rpc6(t *testing.T, _ program) {
	const udp, tcp = 42000, 42010
	want := expected{protocol: "udp", src: addrPort(clientAddr6, 0), dst: addrPort(serverAddr6, udp),
		master: flow{addrPort(clientAddr6, 41000), addrPort(serverAddr6, 111)}, helper: "rpc", permanent: true, lifetime: 300}

	at := datagrams(t, fw.server, serverAddr6, 111)
	from := datagrams(t, fw.client, clientAddr6, 41000)
	post(t, from, pmap(7, pmapGet, 17, 0), addrPort(serverAddr6, 111))
	receive(t, at)
	post(t, at, words(7, 1, 0, 0, 0, 0, udp), addrPort(clientAddr6, 41000))
	receive(t, from)
	fw.expects(t, want)
	refusedDatagram(t, fw.client, clientAddr6, 41001, addrPort(serverAddr6, udp+1))
	service := datagrams(t, fw.server, serverAddr6, udp)
	post(t, datagrams(t, fw.client, clientAddr6, 41002), "call", addrPort(serverAddr6, udp))
	receive(t, service)

	s := dial(t, fw.client, 41000, addrPort(serverAddr6, 111), listen(t, fw.server, serverAddr6, 111))
	relay(t, s.client, s.server, record(pmap(8, pmapGet, 6, 0)))
	relay(t, s.server, s.client, record(words(8, 1, 0, 0, 0, 0, tcp)))
	before := want
	want.protocol, want.dst = "tcp", addrPort(serverAddr6, tcp)
	fw.expects(t, want, before)
	refused(t, fw.client, addrPort(serverAddr6, tcp+1))
	passes(t, fw.client, addrPort(serverAddr6, tcp), listen(t, fw.server, "", tcp), clientAddr6)
}

func (fw *firewall) sane6(t *testing.T, _ program) {
	s := dial(t, fw.client, 41030, addrPort(serverAddr6, 6566), listen(t, fw.server, serverAddr6, 6566))
	relay(t, s.client, s.server, words(7, 0))
	relay(t, s.server, s.client, words(0, 42030, 0x1234, 0))
	fw.expects(t, expected{protocol: "tcp", src: addrPort(clientAddr6, 0), dst: addrPort(serverAddr6, 42030),
		master: flow{addrPort(clientAddr6, 41030), addrPort(serverAddr6, 6566)}, helper: "sane", lifetime: 300})
	refused(t, fw.client, addrPort(serverAddr6, 42031))
	passes(t, fw.client, addrPort(serverAddr6, 42030), listen(t, fw.server, "", 42030), clientAddr6)
}

func (fw *firewall) ssdp6(t *testing.T, p program) {
	here, there := zone(t, fw.router), zone(t, fw.server)
	at := fw.group(t, "ff02::c", 1900)
	from := datagrams(t, fw.router, routerLink+here, 41040)
	search := flow{addrPort(routerLink, 41040), addrPort("ff02::c", 1900)}
	post(t, from, ssdpSearch, addrPort("ff02::c"+here, 1900))
	receive(t, at)
	at.Close()
	reply := expected{protocol: "udp", src: "[::]:0", dst: search.src, master: search, helper: "ssdp", permanent: true, lifetime: 300}
	fw.expects(t, reply)
	refusedDatagram(t, fw.server, serverLink+there, 1900, addrPort(routerLink+there, 41041))

	device := datagrams(t, fw.server, serverLink+there, 1900)
	post(t, device, "HTTP/1.1 200 OK\r\nLOCATION: http://["+serverLink+"]:49153/d.xml\r\n\r\n", addrPort(routerLink+there, 41040))
	receive(t, from)
	port := 49153
	if defect(t, p, 14) {
		port = 80
	}
	fw.expects(t, reply, expected{protocol: "tcp", src: "[::]:0", dst: addrPort(serverLink, port),
		master: flow{addrPort(serverLink, 1900), search.src}, helper: "ssdp", permanent: true, lifetime: 300})
}

func (fw *firewall) tns6(t *testing.T, p program) {
	s := dial(t, fw.client, 41050, addrPort(serverAddr6, 1521), listen(t, fw.server, serverAddr6, 1521))
	relay(t, s.client, s.server, tnsPacket(1, "(CONNECT_DATA=)"))
	relay(t, s.server, s.client, tnsRedirect(tnsAddress(serverAddr6, 42050)))
	if defect(t, p, 106) {
		fw.expectsNone(t)
		return
	}
	fw.expects(t, expected{protocol: "tcp", src: addrPort(clientAddr6, 0), dst: addrPort(serverAddr6, 42050),
		master: flow{addrPort(clientAddr6, 41050), addrPort(serverAddr6, 1521)}, helper: "tns", lifetime: 300})
	refused(t, fw.client, addrPort(serverAddr6, 42051))
	passes(t, fw.client, addrPort(serverAddr6, 42050), listen(t, fw.server, "", 42050), clientAddr6)
}
