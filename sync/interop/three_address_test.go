package interop

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/internal/passtest"
)

// stream is a TCP connection on which lines go to and fro until it ends.
type stream struct {
	*passtest.Conn
	port  uint16
	lines atomic.Int64
	done  chan error // has the first error
}

func startStream(conn *passtest.Conn) *stream {
	s := &stream{Conn: conn, port: conn.Client.LocalAddr().(*net.TCPAddr).AddrPort().Port(), done: make(chan error, 1)}
	go io.Copy(conn.Server, conn.Server)
	go func() {
		r := bufio.NewReader(conn.Client)
		for {
			if _, err := io.WriteString(conn.Client, "line\n"); err != nil {
				s.done <- err
				return
			}
			conn.Client.SetReadDeadline(time.Now().Add(patience))
			if _, err := r.ReadString('\n'); err != nil {
				s.done <- err
				return
			}
			s.lines.Add(1)
			time.Sleep(5 * time.Millisecond) // leaves the CPU to the daemons
		}
	}()
	return s
}

// goOn waits until each stream has passed more lines.
func goOn(t testing.TB, when string, streams ...*stream) {
	t.Helper()
	for _, s := range streams {
		until := s.lines.Load() + 3
		netnstest.Eventually(t, patience, fmt.Sprintf("%s: the stream from port %d goes on", when, s.port), func() bool {
			select {
			case err := <-s.done:
				t.Fatalf("%s: the stream from port %d: %v", when, s.port, err)
			default:
			}
			return s.lines.Load() >= until
		})
	}
}

// reset ends a stream without the states in which the kernel would keep its flow for a while.
func (s *stream) reset() {
	s.Client.(*net.TCPConn).SetLinger(0)
	s.Client.Close()
}

// floats are addresses that move from gateway to gateway: the server's ones, and what the gateways translate the
// client to on the way there.
var floats = [3]struct{ server, outside string }{
	{"198.51.100.130", "203.0.113.77"}, {"198.51.100.131", "203.0.113.78"}, {"198.51.100.132", "203.0.113.79"},
}

// floatingCluster is three gateways between a client and a server.
type floatingCluster struct {
	*cluster
	*passtest.Network
	dials int
}

func newFloatingCluster(t testing.TB) *floatingCluster {
	t.Helper()
	f := &floatingCluster{cluster: newCluster(t, 3)}
	// A packet of one direction that passes a gateway while the other has moved already may be invalid there, and
	// would leave without translation.
	rules := "table inet floats {\n\tchain forward { type filter hook forward priority 0; ct state invalid drop; }\n\tchain hide {\n\t\ttype nat hook postrouting priority srcnat;\n"
	for _, addr := range floats {
		rules += fmt.Sprintf("\t\tip daddr %s snat ip to %s\n", addr.server, addr.outside)
	}
	var gateways []*netnstest.NS
	for _, n := range f.nodes {
		n.ns.NFT(rules + "\t}\n}")
		n.ns.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")
		gateways = append(gateways, n.ns)
	}
	f.Network = passtest.New(t, 1, gateways...)
	return f
}

// dial opens streams through the gateway that has a floating address.
func (f *floatingCluster) dial(float, streams int) (all []*stream) {
	f.cluster.t.Helper()
	for range streams {
		f.dials++
		conn := passtest.Dial(f.cluster.t, f.Clients[0], f.Server, passtest.Client4+":0", fmt.Sprintf("%s:%d", floats[float].server, 8000+f.dials))
		all = append(all, startStream(conn))
	}
	return all
}

// portsOf returns the source ports of a list of streams.
func portsOf(lists ...[]*stream) map[uint16]bool {
	set := map[uint16]bool{}
	for _, streams := range lists {
		for _, s := range streams {
			set[s.port] = true
		}
	}
	return set
}

// shownPorts returns the source ports of the flows to the server that -e with options shows.
func (n *node) shownPorts(options ...string) map[uint16]bool {
	n.daemon.t.Helper()
	set := map[uint16]bool{}
	for line := range strings.Lines(n.daemon.client(append([]string{"-e"}, options...)...)) {
		_, rest, ok := strings.Cut(line, " dst=198.51.100.1")
		if !ok {
			continue
		}
		_, rest, _ = strings.Cut(rest, " sport=")
		var port uint16
		fmt.Sscan(rest, &port)
		set[port] = true
	}
	return set
}

// owned waits until the peers of a node show that it owns the flows of exactly these streams.
func (f *floatingCluster) owned(when string, by *node, lists ...[]*stream) {
	f.cluster.t.Helper()
	want := portsOf(lists...)
	for _, n := range f.nodes {
		if n == by || n.daemon.process.Ended() {
			continue
		}
		f.eventually(fmt.Sprintf("%s: %s shows the %d flows of %s", when, n.name, len(want), by.name), func() string {
			by.kernel.flows() // a listing removes what has expired, which the kernel itself may do a minute later
			if missing, more := comparePorts(want, n.shownPorts("--owner", by.name)); missing+more > 0 {
				return fmt.Sprintf("%d are missing, %d are too many", missing, more)
			}
			return ""
		})
	}
}

// take has a gateway take flows over, and moves floating addresses to it.
func (f *floatingCluster) take(gateway int, options []string, moved ...int) (stdout string) {
	f.cluster.t.Helper()
	stdout = f.nodes[gateway].daemon.client(append([]string{"-c"}, options...)...)
	for _, i := range moved {
		f.Float(floats[i].server, floats[i].outside, gateway)
	}
	return stdout
}

// TestFloatingAddress moves one of several floating addresses with its flows by -c --nat-src, while TCP streams
// run through the gateways' NAT: all streams go on, and the flows of the other addresses stay where they
// are. Then the gateway that had two addresses dies, and another one takes what it had left.
func TestFloatingAddress(t *testing.T) {
	t.Parallel()
	f := newFloatingCluster(t)
	a, b, third := f.nodes[0], f.nodes[1], f.nodes[2]
	for i, gateway := range []int{0, 0, 2} {
		f.Float(floats[i].server, floats[i].outside, gateway)
	}
	f.start(f.nodes...)
	first, second, last := f.dial(0, 4), f.dial(1, 4), f.dial(2, 4)
	all := func() (streams []*stream) { return append(append(append(streams, first...), second...), last...) }
	f.owned("at the start", a, first, second)
	f.owned("at the start", third, last)

	inKernel := func(when string, n *node, lists ...[]*stream) {
		t.Helper()
		if missing, more := comparePorts(portsOf(lists...), n.kernel.ports()); missing+more > 0 {
			t.Errorf("%s: in the kernel of %s %d flows are missing, %d are too many\n%s", when, n.name, missing, more, f.logs())
		}
	}
	said := f.take(1, []string{"--nat-src", floats[0].outside}, 0)
	inKernel("after the first address moved", b, first)
	goOn(t, "after the first address moved", all()...)
	f.owned("after the first address moved", a, second)
	f.owned("after the first address moved", b, first)
	f.owned("after the first address moved", third, last)
	if !strings.Contains(said, "a: ") || !strings.Contains(said, ": 4 flows taken\n") {
		t.Errorf("-c says:\n%s", said)
	}

	// It moves back; meanwhile a stream has ended, and another one has begun.
	ended := first[0]
	ended.reset()
	first = append(first[1:], f.dial(0, 1)...)
	f.owned("after a stream has ended", b, first)
	f.take(0, []string{"--nat-src", floats[0].outside}, 0)
	inKernel("after the first address moved back", a, first, second)
	goOn(t, "after the first address moved back", all()...)
	f.owned("after the first address moved back", a, first, second)
	f.owned("after the first address moved back", b)

	// Both nodes now have an epoch above 0 for some flows. The second address moves, and a dies.
	f.take(1, []string{"--nat-src", floats[1].outside}, 1)
	goOn(t, "after the second address moved", all()...)
	f.owned("after the second address moved", b, second)
	f.wire.isolate(partition([]*node{a}, []*node{b, third})...)
	a.daemon.kill()
	said = f.take(2, nil, 0)
	inKernel("after a died", third, first, last)
	goOn(t, "after a died", all()...)
	f.owned("after a died", b, second)
	f.owned("after a died", third, first, last)
	if !strings.Contains(said, "b keeps its flows") {
		t.Errorf("-c says:\n%s", said)
	}
}
