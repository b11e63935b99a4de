package interop

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"ctbox/nl/ctnetlink"
)

// client is the host number of the source of the scenario's traffic.
const client = 100

// traffic is real connections through a firewall. They stay open until the test ends.
type traffic struct{ n *node }

// startTraffic opens, through a firewall, a translated TCP connection, a UDP exchange over IPv6,
// a ping, and an FTP session that expects a data connection.
func (n *node) startTraffic() {
	t := n.daemon.t
	t.Helper()
	for _, a := range []string{n.host4(client), n.host4(server), n.host4(server + 1), n.outside} {
		n.ns.IP("addr", "add", a+"/32", "dev", "lo")
	}
	for _, a := range []string{n.host6(client), n.host6(server)} {
		n.ns.IP("addr", "add", a+"/128", "dev", "lo", "nodad")
	}
	s := traffic{n}
	s.exchange("tcp", n.host4(client), net.JoinHostPort(n.host4(server), "8000"), net.JoinHostPort(n.host4(server+1), "9000"), "data")
	s.exchange("udp", n.host6(client), net.JoinHostPort(n.host6(server), "53"), net.JoinHostPort(n.host6(server), "53"), "query")
	s.exchange("tcp", n.host4(client), net.JoinHostPort(n.host4(server), "21"), net.JoinHostPort(n.host4(server), "21"), passive(n.host4(server)))
	n.ns.Must("ping", "-q", "-c", "1", "-I", n.host4(client), n.host4(server))
	if x := n.kernel.expects(); len(x) != 1 {
		t.Fatalf("%s: the FTP session gives the expectations %+v, want one", n.name, x)
	}
}

// ftpData is the port that the FTP session's data connection is expected at.
const ftpData = 25601

// passive is an FTP server's answer to PASV (RFC 959).
func passive(addr string) string {
	a := net.ParseIP(addr).To4()
	return fmt.Sprintf("227 Entering Passive Mode (%d,%d,%d,%d,%d,%d)\r\n", a[0], a[1], a[2], a[3], ftpData>>8, ftpData&0xff)
}

// exchange sends a message from from to the server, which listens at at and is reached at to,
// and an answer back. Both ends stay open.
func (s traffic) exchange(network, from, to, at, answer string) {
	t := s.n.daemon.t
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s from %s to %s: %v", network, from, to, err)
		}
	}
	keep := func(c io.Closer) { t.Cleanup(func() { c.Close() }) }
	s.n.ns.Do(func() {
		if network == "udp" {
			server, err := net.ListenPacket(network, at)
			check(err)
			keep(server)
			check(ask(server, from, to, answer))
			return
		}
		// Keep-alive probes would recreate flows that the scenario flushes.
		listener, err := (&net.ListenConfig{KeepAlive: -1}).Listen(t.Context(), network, at)
		check(err)
		keep(listener)
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience, KeepAlive: -1}).Dial(network, to)
		check(err)
		keep(conn)
		server, err := listener.Accept()
		check(err)
		keep(server)
		// The FTP helper reads only lines that follow another line.
		for _, text := range []string{"welcome\r\n", answer} {
			check(pass(conn, server, "hello\r\n"))
			check(pass(server, conn, text))
		}
	})
}

// pass sends text from one end of a connection to the other.
func pass(from io.Writer, to net.Conn, text string) error {
	if _, err := io.WriteString(from, text); err != nil {
		return err
	}
	to.SetReadDeadline(time.Now().Add(patience))
	_, err := io.ReadFull(to, make([]byte, len(text)))
	return err
}

// ask sends a datagram and waits for an answer. While the system sets up an address the datagram
// may be lost, and a socket that once had no route keeps failing.
func ask(server net.PacketConn, from, to, answer string) error {
	for deadline := time.Now().Add(patience); ; {
		err := askOnce(server, from, to, answer)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func askOnce(server net.PacketConn, from, to, answer string) error {
	conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	buf := make([]byte, 256)
	server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	_, peer, err := server.ReadFrom(buf)
	if err != nil {
		return err
	}
	if _, err = server.WriteTo([]byte(answer), peer); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(buf)
	return err
}

// expectKey is the identity of an expectation on the wire and in both programs.
func expectKey(x *ctnetlink.Expect, whole bool) string {
	key := fmt.Sprintf("%+v %+v %+v flags=%d helper=%s", x.Master, x.Tuple, x.Mask, x.Flags, x.Helper.String())
	if whole {
		key += " class=" + strconv.Itoa(int(x.Class)) + fmt.Sprintf(" nat=%+v/%d fn=%s", x.NATTuple, x.NATDir, x.FnBytes())
	}
	return key
}
