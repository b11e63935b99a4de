//go:build vm

package vmtest

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// Numbers of the port mapper's protocol, version 2 (RFC 1833).
const (
	portMapper = 100000
	pmapSet    = 1
	pmapGet    = 3
	nfs        = 100003
)

// pmap returns a call to the port mapper for a program's port.
func pmap(xid, procedure, protocol, port uint32) string {
	return words(xid, 0, 2, portMapper, 2, procedure, 0, 0, 0, 0, nfs, 3, protocol, port)
}

// record prepends the mark of a last fragment, which TCP needs (RFC 5531).
func record(message string) string {
	return words(1<<31|uint32(len(message))) + message
}

// rpcbind runs a real port mapper with one service on a TCP and a UDP port.
func (fw *firewall) rpcbind(tcp, udp uint32) {
	fw.t.Helper()
	fw.server.Start("rpcbind", "-f", "-i")
	bound(fw.t, fw.server, "udp", 111)
	bound(fw.t, fw.server, "tcp", 111)
	conn := peer(fw.t, fw.server, "127.0.0.1", 700, "127.0.0.1:111")
	for _, call := range []string{pmap(1, pmapSet, 6, tcp), pmap(2, pmapSet, 17, udp)} {
		post(fw.t, conn, call, "")
		if got, _ := receive(fw.t, conn); got[len(got)-4:] != words(1) {
			fw.t.Fatalf("rpcbind does not take the service: %x", got)
		}
	}
}

// A client asks a real rpcbind for the port of a service, over UDP and TCP.
func TestRPC(t *testing.T) {
	const tcp, udp = 42000, 42010
	each(t, func(t *testing.T, p program) {
		for _, nat := range []translation{routed, snat, dnat} {
			t.Run(string(nat), func(t *testing.T) {
				fw := newFirewall(t)
				fw.register(rpcTCP, rpcUDP)
				fw.load(nat, true, rpcTCP, rpcUDP)
				fw.rpcbind(tcp, udp)
				defer fw.start(p, false, rpcTCP, rpcUDP).end()
				server, client := nat.of(v4)
				master := flow{addrPort(clientAddr, 41000), addrPort(server, 111)}

				t.Run("udp", func(t *testing.T) {
					from := peer(t, fw.client, clientAddr, 41000, addrPort(server, 111))
					post(t, from, pmap(7, pmapGet, 17, 0), "")
					reply, _ := receive(t, from)
					if got := binary.BigEndian.Uint32([]byte(reply[len(reply)-4:])); got != udp {
						t.Fatalf("port %d, want %d", got, udp)
					}
					fw.expects(t, expected{protocol: "udp", src: addrPort(clientAddr, 0), dst: addrPort(server, udp),
						master: master, helper: "rpc", permanent: true, lifetime: 300})
					if nat == dnat && defect(t, p, 1) {
						return
					}
					refusedDatagram(t, fw.client, clientAddr, 41001, addrPort(server, udp+1))
					at := datagrams(t, fw.server, serverAddr, udp)
					// The expectation allows several connections.
					for port := 41002; port < 41004; port++ {
						conn := peer(t, fw.client, clientAddr, port, addrPort(server, udp))
						post(t, conn, "call", "")
						_, source := receive(t, at)
						post(t, at, "reply", source.String())
						receive(t, conn)
						if source.Addr().String() != client {
							t.Errorf("the call came from %s, want %s", source, client)
						}
					}
				})
				t.Run("tcp", func(t *testing.T) {
					conn, err := connect(t, fw.client, 41000, addrPort(server, 111))
					if err != nil {
						t.Fatal(err)
					}
					if got := ask(t, conn, pmap(8, pmapGet, 6, 0)); got != tcp {
						t.Fatalf("port %d, want %d", got, tcp)
					}
					want := expected{protocol: "tcp", src: addrPort(clientAddr, 0), dst: addrPort(server, tcp),
						master: master, helper: "rpc", permanent: true, lifetime: 300}
					before := expected{protocol: "udp", src: addrPort(clientAddr, 0), dst: addrPort(server, udp),
						master: master, helper: "rpc", permanent: true, lifetime: 300}
					fw.expects(t, want, before)
					if nat == dnat && defect(t, p, 1) {
						return
					}
					refused(t, fw.client, addrPort(server, tcp+1))
					l := listen(t, fw.server, "", tcp)
					passes(t, fw.client, addrPort(server, tcp), l, client)
					passes(t, fw.client, addrPort(server, tcp), l, client)
				})
			})
		}
	})
}

// ask sends a call over TCP and returns the last number of the reply.
func ask(t *testing.T, conn net.Conn, call string) uint32 {
	t.Helper()
	if _, err := io.WriteString(conn, record(call)); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 4+28)
	if _, err := io.ReadFull(conn, reply); err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(reply[28:])
}
