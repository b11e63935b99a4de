package interop

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/passtest"
)

// marking has the kernel change a flow's mark with each packet, which is an event by the kernel itself.
const marking = `table inet marking {
	chain forward { type filter hook forward priority 0; meta l4proto udp ct mark set numgen inc mod 65536; }
}`

// queries are UDP exchanges between the client and the server that go on until the test ends.
type queries struct {
	ports   map[uint16]bool // of the client
	answers atomic.Int64
}

// query starts as many exchanges. Each sends a datagram every 20 ms.
func (f *floatingCluster) query(number int) *queries {
	t := f.cluster.t
	t.Helper()
	q := &queries{ports: map[uint16]bool{}}
	var server net.PacketConn
	var err error
	f.Server.Do(func() { server, err = net.ListenPacket("udp", passtest.Server4+":53") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(buf[:n], from)
		}
	}()
	var conns []net.Conn
	for range number {
		var conn net.Conn
		f.Clients[0].Do(func() {
			conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(passtest.Client4)}}).Dial("udp", passtest.Server4+":53")
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
		q.ports[conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()] = true
		go func() {
			buf := make([]byte, 64)
			for {
				switch _, err := conn.Read(buf); {
				case err == nil:
					q.answers.Add(1)
				case t.Context().Err() != nil:
					return
				}
			}
		}()
	}
	go func() {
		ticks := time.NewTicker(20 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-ticks.C:
			}
			for _, conn := range conns {
				conn.Write([]byte("query"))
			}
		}
	}()
	return q
}

// goOn waits until so many more answers have come.
func (q *queries) goOn(t testing.TB, when string, more int64) {
	t.Helper()
	until := q.answers.Load() + more
	netnstest.Eventually(t, patience, when+": answers come", func() bool { return q.answers.Load() >= until })
}

// kernelPorts returns the source ports of the kernel's UDP flows.
func (n *node) kernelPorts() map[uint16]bool {
	n.kernel.t.Helper()
	set := map[uint16]bool{}
	for _, f := range n.kernel.flows() {
		if f.Orig.Proto == ctnetlink.ProtoUDP {
			set[f.Orig.SrcPort] = true
		}
	}
	return set
}

// TestAsymmetricPaths has two living nodes see one direction each of the same connections, whose flows the kernel of
// each changes with every packet. A flow moves at most once in 10 s, so that the node that does not own it
// sends nothing about it, and none is lost when either node dies.
func TestAsymmetricPaths(t *testing.T) {
	t.Parallel()
	const flows = 50
	watched := 5 * time.Second
	if netnstest.Long {
		watched = 30 * time.Second
	}
	f := newFloatingCluster(t)
	a, b, third := f.nodes[0], f.nodes[1], f.nodes[2]
	for _, n := range f.nodes {
		n.ns.NFT(marking)
	}
	f.start(f.nodes...)
	q := f.query(flows)
	owned := func(by *node) func() string {
		return func() string {
			if missing, more := comparePorts(q.ports, third.shownPorts("--owner", by.name)); missing+more > 0 {
				return fmt.Sprintf("%d are missing, %d are too many", missing, more)
			}
			return ""
		}
	}
	f.eventually("a owns the flows", owned(a))
	b.daemon.client("-c", "--owner", "a")
	f.FloatBack(passtest.Client4, 1)
	f.eventually("b owns the flows", owned(b))
	q.goOn(t, "with a path for each direction", flows)

	sent := func(n *node) int { return metric(t, n.daemon, `conntrackd_messages_total{direction="sent"}`) }
	before, cpu := sent(a), cpuOf(a.daemon.process.Pid())+cpuOf(b.daemon.process.Pid())
	owner, moves := "b", 0
	begin, events := time.Now(), a.daemon.statistics().Kernel.Events
	for time.Since(begin) < watched {
		now := "b"
		if len(third.shownPorts("--owner", "a")) > flows/2 {
			now = "a"
		}
		if now != owner {
			owner, moves = now, moves+1
		}
		time.Sleep(50 * time.Millisecond)
	}
	spent := time.Since(begin)
	most := int(spent/(10*time.Second)) + 1
	used := cpuOf(a.daemon.process.Pid()) + cpuOf(b.daemon.process.Pid()) - cpu
	got := a.daemon.statistics().Kernel.Events - events
	t.Logf("in %v the flows moved %d times; a had %d events and sent %d messages; both used %v of CPU", spent.Round(time.Second), moves, got, sent(a)-before, used)
	if moves > most {
		t.Errorf("the flows moved %d times in %v", moves, spent)
	}
	if !netnstest.Long && sent(a)-before > 2*flows {
		t.Errorf("the node that does not own the flows sent %d messages in %v", sent(a)-before, spent)
	}
	if used > spent/2 {
		t.Errorf("both nodes used %v of CPU in %v", used, spent)
	}
	if got == 0 {
		t.Error("a had no events")
	}

	dies := func(n *node) {
		t.Helper()
		var others []*node
		for _, o := range f.nodes {
			if o != n {
				others = append(others, o)
			}
		}
		f.wire.isolate(partition([]*node{n}, others)...)
		n.daemon.kill()
		third.daemon.client("-c")
	}
	dies(b)
	f.FloatBack(passtest.Client4, 0)
	q.goOn(t, "after b died", flows)
	there := third.kernelPorts()
	for port := range third.shownPorts("--owner", "a") {
		there[port] = true
	}
	if missing, _ := comparePorts(q.ports, there); missing > 0 {
		t.Errorf("after b died %d flows are missing\n%s", missing, f.logs())
	}
	dies(a)
	if missing, more := comparePorts(q.ports, third.kernelPorts()); missing+more > 0 {
		t.Errorf("after a died, too, %d flows are missing, %d are too many\n%s", missing, more, f.logs())
	}
}
