//go:build vm

package vmtest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

func addrPort(addr string, port int) string { return net.JoinHostPort(addr, fmt.Sprint(port)) }

// listen accepts TCP connections in a namespace for the duration of the test.
func listen(t testing.TB, ns *netnstest.NS, addr string, port int) *net.TCPListener {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", addrPort(addr, port)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// connect opens a TCP connection, from the given port unless that is 0.
func connect(t testing.TB, ns *netnstest.NS, port int, to string) (net.Conn, error) {
	t.Helper()
	return connectFrom(t, ns, "", port, to)
}

func connectFrom(t testing.TB, ns *netnstest.NS, addr string, port int, to string) (conn net.Conn, err error) {
	t.Helper()
	dialer := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr), Port: port}}
	ns.Do(func() { conn, err = dialer.Dial("tcp", to) })
	if err == nil {
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}

// session is a TCP connection through the firewall: both ends.
type session struct{ client, server net.Conn }

// dial opens a connection from ns to the address to, which leads to the listener.
func dial(t testing.TB, ns *netnstest.NS, port int, to string, l *net.TCPListener) session {
	t.Helper()
	return dialFrom(t, ns, "", port, to, l)
}

func dialFrom(t testing.TB, ns *netnstest.NS, addr string, port int, to string, l *net.TCPListener) session {
	t.Helper()
	client, err := connectFrom(t, ns, addr, port, to)
	if err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	l.SetDeadline(time.Now().Add(patience))
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	server.SetDeadline(time.Now().Add(patience))
	return session{client, server}
}

// send writes to one end and checks that want arrives at the other.
func send(t testing.TB, from, to net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(from, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(to, got); err != nil || string(got) != want {
		t.Fatalf("sent %q, got %q (%v), want %q", text, got[:n], err, want)
	}
}

// relay sends bytes and checks that they arrive unchanged.
func relay(t testing.TB, from, to net.Conn, text string) {
	t.Helper()
	send(t, from, to, text, text)
}

// passes checks that a TCP connection to a listener succeeds, and that it arrives from the
// source address.
func passes(t testing.TB, ns *netnstest.NS, to string, l *net.TCPListener, source string) {
	t.Helper()
	s := dial(t, ns, 0, to, l)
	relay(t, s.client, s.server, "there")
	relay(t, s.server, s.client, "and back")
	if got := s.server.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got.Unmap() != netip.MustParseAddr(source) {
		t.Errorf("connection to %s came from %s, want %s", to, got, source)
	}
}

// refused checks that the firewall refuses a TCP connection to a port.
func refused(t testing.TB, ns *netnstest.NS, to string) {
	t.Helper()
	_, err := connect(t, ns, 0, to)
	checkRefused(t, to, err)
}

// checkRefused checks that an error is the result of the firewall's rejection.
func checkRefused(t testing.TB, to string, err error) {
	t.Helper()
	if !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.EACCES) {
		t.Errorf("%s: got %v, want the firewall to refuse it", to, err)
	}
}

// datagrams opens a UDP socket at an address, without a peer.
func datagrams(t testing.TB, ns *netnstest.NS, addr string, port int) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	var err error
	at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)))
	ns.Do(func() { conn, err = net.ListenUDP("udp", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// peer opens a connected UDP socket: it reports an error if the firewall rejects its
// datagrams.
func peer(t testing.TB, ns *netnstest.NS, addr string, port int, to string) *net.UDPConn {
	t.Helper()
	var conn net.Conn
	var err error
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)))}
	ns.Do(func() { conn, err = dialer.Dial("udp", to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.UDPConn)
}

// bound waits until a program has bound a port of tcp or udp.
func bound(t testing.TB, ns *netnstest.NS, protocol string, port int) {
	t.Helper()
	netnstest.Eventually(t, patience, fmt.Sprintf("%s port %d is bound", protocol, port), func() bool { return isBound(t, ns, protocol, port) })
}

func isBound(t testing.TB, ns *netnstest.NS, protocol string, port int) bool {
	t.Helper()
	local := fmt.Sprintf(":%04X", port)
	var tables []byte
	ns.Do(func() {
		for _, name := range []string{protocol, protocol + "6"} {
			// number: local remote …
			table, err := os.ReadFile("/proc/thread-self/net/" + name)
			if err != nil {
				t.Fatal(err)
			}
			tables = append(tables, table...)
		}
	})
	for line := range strings.Lines(string(tables)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasSuffix(f[1], local) {
			return true
		}
	}
	return false
}

// receive returns the next datagram and its source.
func receive(t testing.TB, conn *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 1<<16)
	n, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("nothing arrived at %s: %v", conn.LocalAddr(), err)
	}
	return string(b[:n]), netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
}

// post sends a datagram, to the socket's peer if to is "".
func post(t testing.TB, conn *net.UDPConn, text, to string) {
	t.Helper()
	var err error
	if to == "" {
		_, err = conn.Write([]byte(text))
	} else {
		_, err = conn.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// refusedDatagram checks that the firewall refuses a datagram to a port.
func refusedDatagram(t testing.TB, ns *netnstest.NS, addr string, port int, to string) {
	t.Helper()
	conn := peer(t, ns, addr, port, to)
	defer conn.Close()
	post(t, conn, "unexpected", "")
	_, err := conn.Read(make([]byte, 1))
	checkRefused(t, to, err)
}

// badChecksums returns the number of received TCP segments with a wrong checksum.
func badChecksums(t testing.TB, ns *netnstest.NS) int {
	t.Helper()
	var table []byte
	var err error
	ns.Do(func() { table, err = os.ReadFile("/proc/thread-self/net/snmp") })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if f[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if i := slices.Index(names, "InCsumErrors"); i > 0 && i < len(f) {
			n, _ := strconv.Atoi(f[i])
			return n
		}
	}
	t.Fatal("no InCsumErrors")
	return 0
}
