package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/wire"
)

// streamConfig returns the configuration of a TCP link over the loopback interface. A TCP
// link dials from its own goroutines, which are outside any namespace that a test has
// entered, so these tests use the namespace that TestMain starts them in.
func streamConfig(local, peer string, port uint16) Config {
	return Config{Transport: TCP, Interface: "lo", Address: addr(local), Destination: addr(peer), Port: port, ErrorQueue: 4}
}

func openStreamLink(t *testing.T, c Config) *site {
	t.Helper()
	return openWithTimeout(t, c, defaultPeerTimeout)
}

// openWithTimeout is openStreamLink with another peer timeout.
func openWithTimeout(t *testing.T, c Config, timeout time.Duration) *site {
	t.Helper()
	s := &site{batches: make(chan *Batch, 4)}
	s.link = New(c, 7, channel(s.batches), Reports{Refused: func(a netip.Addr) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused = append(s.refused, a)
	}})
	s.link.peerTimeout = timeout
	if err := s.link.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.link.Close)
	return s
}

// freePort returns a port without a listener.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestStreamReconnects(t *testing.T) {
	port := freePort(t)
	// One address serves both ends: a link's own source is the address it dials.
	a := openStreamLink(t, streamConfig("127.0.0.2", "127.0.0.1", port))
	for _, text := range []string{"lost", "one", "two", "three", "four"} {
		a.link.Send(packed(100, text))
	}
	if s := a.link.Stats(); s.Queued != 4 || s.QueueDropped != 1 || s.ClientConnected {
		t.Errorf("without a peer: %+v", s)
	}
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(addr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two", "three", "four"} {
		if got := readMessage(t, conn); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	// The peer closes the connection: the link connects again by itself.
	conn.Close()
	if conn, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	netnstest.Eventually(t, 10*time.Second, "connection", func() bool { return a.link.Stats().ClientConnected })
	a.link.Send(packed(100, "again"))
	if got := readMessage(t, conn); got != "again" {
		t.Errorf("got %q after a reconnection", got)
	}
}

func readMessage(t *testing.T, conn net.Conn) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	head := make([]byte, wire.HeaderLen)
	if _, err := readFull(conn, head); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, int(head[2])<<8+int(head[3])-wire.HeaderLen)
	if _, err := readFull(conn, text); err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readFull(conn net.Conn, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = conn.Read(b[n:])
		n += k
	}
	return n, err
}

func dialFrom(t *testing.T, local string, port uint16) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	conn, err := d.Dial("tcp4", netip.AddrPortFrom(addr("127.0.0.3"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestStreamReceives(t *testing.T) {
	port := freePort(t)
	b := openStreamLink(t, streamConfig("127.0.0.3", "127.0.0.2", port))

	stranger := dialFrom(t, "127.0.0.9", port)
	netnstest.Eventually(t, 10*time.Second, "refusal", func() bool { return b.link.Stats().Refused == 1 })
	if n, err := stranger.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from a connection that should be closed", n)
	}

	// Messages that arrive in pieces.
	conn := dialFrom(t, "127.0.0.2", port)
	bytes := packed(100, "first", "second", "third").Bytes()
	for i := 0; i < len(bytes); i += 5 {
		if _, err := conn.Write(bytes[i:min(i+5, len(bytes))]); err != nil {
			t.Fatal(err)
		}
	}
	all := ""
	for len(all) < len(bytes) {
		batch := <-b.batches
		batch.Each(func(_ netip.Addr, d []byte) { all += string(d) })
	}
	if all != string(bytes) {
		t.Errorf("got %q", all)
	}

	// A new connection replaces the old one.
	second := dialFrom(t, "127.0.0.2", port)
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from the replaced connection", n)
	}
	// What can't be a message is delivered for the owner to count, and ends the connection.
	if _, err := second.Write([]byte{0x10, 0, 0, 3, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	batch := <-b.batches
	if batch.Len() != 1 {
		t.Errorf("%d parts", batch.Len())
	}
	if n, err := second.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from a connection that should have ended", n)
	}
}

// A peer whose host has lost power does not close its connection, and the kernel would
// retransmit for a quarter of an hour, too rarely to notice the host's return for minutes.
// The link gives the connection up after the peer timeout and keeps later writes queued.
func TestStreamPeerTimeout(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	a := openWithTimeout(t, streamConfig("127.0.0.2", "127.0.0.1", port), time.Second)
	first, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	connected := func() bool { return a.link.Stats().ClientConnected }
	netnstest.Eventually(t, 20*time.Second, "connection", connected)

	nft(t, fmt.Sprintf("table ip gone { chain in { type filter hook input priority 0; tcp dport %d drop; }; }", port))
	a.link.Send(packed(100, "into nothing"))
	netnstest.Eventually(t, 30*time.Second, "the end of the connection", func() bool { return !connected() })
	a.link.Send(packed(100, "kept"))
	nft(t, "delete table ip gone")
	second, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got := readMessage(t, second); got != "kept" {
		t.Errorf("got %q after the peer came back", got)
	}
}

// nft loads rules into the namespace that the tests run in.
func nft(t *testing.T, rules string) {
	t.Helper()
	if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

// A link that is closed writes nothing more, so Close does not wait for a peer that does not
// read.
func TestStreamWritesNothingAfterClose(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp4", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := &stream{link: New(Config{Transport: TCP}, 0, nil, Reports{}), queue: [][]byte{{1}, {2}}, wake: make(chan struct{}, 1)}
	s.feed(ctx, conn)
	if got := s.link.Stats(); got.PacketsSent != 0 || len(s.queue) != 2 {
		t.Errorf("%d writes, %d left in the queue", got.PacketsSent, len(s.queue))
	}
}
