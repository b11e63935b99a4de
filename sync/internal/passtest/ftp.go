package passtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

const patience = 20 * time.Second

// Conn is a TCP connection, both of its ends in the test.
type Conn struct {
	Client, Server net.Conn
	t              testing.TB
	fromClient     *bufio.Reader // at the server
	fromServer     *bufio.Reader
}

// Dial opens a connection between two namespaces. The server listens at an address, which is also
// where the client reaches it; the client has the address from, on any port unless it names one.
func Dial(t testing.TB, client, server *netnstest.NS, from, to string) *Conn {
	t.Helper()
	l := listen(t, server, to)
	defer l.Close()
	return connect(t, client, from, to, l)
}

func listen(t testing.TB, at *netnstest.NS, addr string) (l net.Listener) {
	t.Helper()
	var err error
	at.Do(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// connect dials to from a namespace and takes the other end from a listener.
func connect(t testing.TB, from *netnstest.NS, addr, to string, l net.Listener) *Conn {
	t.Helper()
	c := &Conn{t: t}
	local := netip.MustParseAddrPort(addr)
	var err error
	from.Do(func() {
		c.Client, err = (&net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(local), Timeout: patience}).Dial("tcp", to)
	})
	if err != nil {
		t.Fatalf("from %s to %s: %v", addr, to, err)
	}
	t.Cleanup(func() { c.Client.Close() })
	l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	if c.Server, err = l.Accept(); err != nil {
		t.Fatalf("from %s to %s: %v", addr, to, err)
	}
	t.Cleanup(func() { c.Server.Close() })
	c.fromClient, c.fromServer = bufio.NewReader(c.Server), bufio.NewReader(c.Client)
	return c
}

// Close ends the connection.
func (c *Conn) Close() {
	c.Client.Close()
	c.Server.Close()
}

// Pass sends a line in either direction and checks that it arrives as it was sent.
func (c *Conn) Pass(text string) {
	c.t.Helper()
	if got := c.toServer(text); got != text {
		c.t.Errorf("%q arrives as %q", text, got)
	}
	if got := c.toClient(text); got != text {
		c.t.Errorf("%q comes back as %q", text, got)
	}
}

// toServer sends a line to the server and returns what arrives there.
func (c *Conn) toServer(text string) string {
	c.t.Helper()
	return c.line(c.Client, c.Server, c.fromClient, text)
}

func (c *Conn) toClient(text string) string {
	c.t.Helper()
	return c.line(c.Server, c.Client, c.fromServer, text)
}

func (c *Conn) line(from, to net.Conn, r *bufio.Reader, text string) string {
	c.t.Helper()
	if _, err := io.WriteString(from, text+"\r\n"); err != nil {
		c.t.Fatalf("%q: %v", text, err)
	}
	to.SetReadDeadline(time.Now().Add(patience))
	got, err := r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q does not arrive: %v", text, err)
	}
	return strings.TrimSuffix(got, "\r\n")
}

// FTP is an FTP session in active mode (RFC 959, RFC 2428 over IPv6): a client in one namespace,
// a server in another.
type FTP struct {
	*Conn
	client, server *netnstest.NS
	local          netip.Addr // of the client
	remote         netip.Addr
}

// DialFTP opens a session.
func DialFTP(t testing.TB, client, server *netnstest.NS, from, to string) *FTP {
	t.Helper()
	s := &FTP{client: client, server: server, local: netip.MustParseAddr(from), remote: netip.MustParseAddr(to)}
	s.Conn = Dial(t, client, server, net.JoinHostPort(from, "0"), net.JoinHostPort(to, "21"))
	if got := s.toClient("220 ready"); got != "220 ready" {
		t.Errorf("the greeting arrives as %q", got)
	}
	s.Command("USER anonymous", "230 in")
	return s
}

// Command sends a command, which must arrive unchanged, and its reply.
func (s *FTP) Command(command, reply string) {
	s.t.Helper()
	if got := s.toServer(command); got != command {
		s.t.Errorf("%q arrives as %q", command, got)
	}
	if got := s.toClient(reply); got != reply {
		s.t.Errorf("%q arrives as %q", reply, got)
	}
}

// Offer is a data connection that the client has asked the server to open.
type Offer struct {
	At netip.AddrPort // what the server was asked for
	s  *FTP
	l  net.Listener
}

// Offer listens for a data connection and asks the server to open it.
func (s *FTP) Offer() *Offer {
	s.t.Helper()
	l := listen(s.t, s.client, net.JoinHostPort(s.local.String(), "0"))
	s.t.Cleanup(func() { l.Close() })
	at := l.Addr().(*net.TCPAddr).AddrPort()
	var command string
	if s.local.Is4() {
		a, p := s.local.As4(), at.Port()
		command = fmt.Sprintf("PORT %d,%d,%d,%d,%d,%d", a[0], a[1], a[2], a[3], p>>8, p&0xff)
	} else {
		command = fmt.Sprintf("EPRT |2|%s|%d|", s.local, at.Port())
	}
	got := s.toServer(command)
	o := &Offer{s: s, l: l}
	var err error
	if o.At, err = parseOffer(got); err != nil {
		s.t.Fatalf("%q arrives as %q: %v", command, got, err)
	}
	if got := s.toClient("200 ok"); got != "200 ok" {
		s.t.Errorf("the reply to %s arrives as %q", command, got)
	}
	return o
}

func parseOffer(command string) (netip.AddrPort, error) {
	if rest, ok := strings.CutPrefix(command, "EPRT |2|"); ok {
		addr, port, _ := strings.Cut(strings.TrimSuffix(rest, "|"), "|")
		return netip.ParseAddrPort(net.JoinHostPort(addr, port))
	}
	n := strings.Split(strings.TrimPrefix(command, "PORT "), ",")
	if len(n) != 6 {
		return netip.AddrPort{}, fmt.Errorf("%d numbers", len(n))
	}
	high, err1 := strconv.ParseUint(n[4], 10, 8)
	low, err2 := strconv.ParseUint(n[5], 10, 8)
	addr, err := netip.ParseAddr(strings.Join(n[:4], "."))
	if err1 != nil || err2 != nil {
		err = fmt.Errorf("a port of %s and %s", n[4], n[5])
	}
	return netip.AddrPortFrom(addr, uint16(high<<8|low)), err
}

// Connect opens the data connection from the server. Its Client is the end at the FTP server.
func (o *Offer) Connect() *Conn {
	o.s.t.Helper()
	c := connect(o.s.t, o.s.server, net.JoinHostPort(o.s.remote.String(), "0"), o.At.String(), o.l)
	c.Pass("data")
	return c
}
