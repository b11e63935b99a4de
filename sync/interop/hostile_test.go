package interop

import (
	"math/rand/v2"
	"net"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
)

// TestGarbage sends a daemon malformed messages from the peer's address: every kind has its
// counter, and replication continues.
func TestGarbage(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, clause("NOTRACK {\n}", ""), "")
	p.each(func(n, _ *node) { n.connected(modes[1], transports[0]) })
	var conn net.Conn
	var err error
	p.b.ns.Do(func() {
		conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(p.b.link(4, 0))}}).Dial("udp", p.a.link(4, 0)+":3780")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	send := func(b []byte) {
		t.Helper()
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		counter string
		message []byte
	}{
		{"Truncated message:", []byte{0x10, 0, 0, 8, 1}},
		{"Bad message size:", []byte{0x10, 0, 0, 0, 0, 0, 0, 1}},
		{"Bad message size:", []byte{0x10, 0, 0, 100, 0, 0, 0, 1}},
		{"Wrong protocol version:", []byte{0x2a, 0x10, 0, 8, 0, 0, 0, 1}},
		{"Malformed header:", []byte{0x19, 0, 0, 8, 0, 0, 0, 1}},
		{"Malformed payload:", []byte{0x10, 0, 0, 8, 0, 0, 0, 1}},
		{"Malformed payload:", []byte{0x10, 0, 0, 16, 0, 0, 0, 1, 0, 8, 0, 99, 0, 0, 0, 0}},
	} {
		before := count(t, p.a.daemon.ask(statsNetwork), c.counter)
		send(c.message)
		netnstest.Eventually(t, patience, c.counter+" counts", func() bool {
			return count(t, p.a.daemon.ask(statsNetwork), c.counter) == before+1
		})
	}
	random := rand.NewChaCha8([32]byte{1})
	for size := range 1400 {
		b := make([]byte, size+1)
		random.Read(b)
		send(b)
	}
	f, g := p.a.flow(1), p.b.flow(1)
	p.a.kernel.create(&f)
	p.b.kernel.create(&g)
	p.replicated("after the garbage")
}

// TestStranger checks that messages from another host than the configured peer are refused,
// counted and reported once.
func TestStranger(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, debian}, clause("FTFW {\n}", ""), "")
	const stranger = "192.0.2.20"
	p.b.ns.IP("addr", "add", stranger+"/27", "dev", "sync0")
	p.b.ns.Do(func() {
		conn, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(stranger)}}).Dial("udp", p.a.link(4, 0)+":3780")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 3 {
			conn.Write([]byte{0x1a, 0x10, 0, 8, 0, 0, 0, 1})
		}
	})
	netnstest.Eventually(t, patience, "the stranger is named", func() bool { return strings.Contains(p.a.daemon.log(), stranger) })
	f, g := p.a.flow(1), p.b.flow(1)
	p.a.kernel.create(&f)
	p.b.kernel.create(&g)
	p.replicated("beside the stranger")
	if log := p.a.daemon.log(); !strings.Contains(log, "IPv4_Destination_Address") {
		t.Errorf("the log does not say which option would let the stranger in\n%s", log)
	}
	if n := strings.Count(p.a.daemon.log(), stranger); n != 1 {
		t.Errorf("the stranger is named %d times\n%s", n, p.a.daemon.log())
	}
}

// TestThirdNode checks that two FT-FW nodes ignore a third one in their multicast group, report
// it once each, and keep replicating.
func TestThirdNode(t *testing.T) {
	for _, who := range []program{ours, debian} {
		t.Run(string(who), func(t *testing.T) {
			t.Parallel()
			p := newUnlinkedPair(t)
			third := newNode(t, p, &sides[2])
			connect(t, faults{}, 1, p.a, p.b, third)
			clause := syncClause(modes[0], transports[2], "")
			p.start(programs{ours, ours}, clause, "")
			add := func(port uint16) {
				p.each(func(n, _ *node) { f := n.flow(port); n.kernel.create(&f) })
			}
			add(1)
			p.replicated("before the third")
			third.daemon = newDaemon(t, third.ns, who, clause(third.side, p.a.side), "")
			third.daemon.start()
			said := "ignoring " + third.link(4, 0) + ": FT-FW is for two nodes"
			p.each(func(n, _ *node) {
				netnstest.Eventually(t, patience, n.daemon.name()+" notices the third", func() bool {
					return strings.Contains(n.daemon.log(), said)
				})
			})
			for port := uint16(2); port < 100; port++ {
				add(port)
			}
			p.replicated("beside the third")
			p.each(func(n, _ *node) {
				if got := strings.Count(n.daemon.log(), said); got != 1 {
					t.Errorf("%s says it %d times\n%s", n.daemon.name(), got, n.daemon.log())
				}
				if lost := n.daemon.statistics().Lost; lost != 0 {
					t.Errorf("%s counts %d messages of its peer as lost", n.daemon.name(), lost)
				}
			})
		})
	}
}

// TestMissingInterface checks that a daemon starts without its dedicated interface, uses it when
// it appears, and again after it was removed and created anew.
func TestMissingInterface(t *testing.T) {
	t.Parallel()
	p := newUnlinkedPair(t)
	p.startRoles(programs{ours, ours}, clause("FTFW {\n}", ""), clause("FTFW {\n}", ""), "")
	for port := uint16(1); port <= 2; port++ {
		p.each(func(n, _ *node) { f := n.flow(port); n.kernel.create(&f) })
		p.link("sync0", 0)
		p.replicated("the interface is there")
		if port == 1 {
			p.a.ns.IP("link", "del", "sync0")
		}
	}
	if log := p.a.daemon.log(); !strings.Contains(log, "dedicated link sync0: no such interface, waiting for it") {
		t.Error(log)
	}
}

// TestLinkFlap takes the only dedicated link down while flows change.
func TestLinkFlap(t *testing.T) {
	for _, who := range pairings {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(who, clause("FTFW {\n}", ""), "")
			p.each(func(n, _ *node) { f := n.flow(60000); n.kernel.create(&f) })
			p.replicated("before")
			for range 3 {
				p.a.ns.IP("link", "set", "sync0", "down")
				flows := p.churn(func() {})
				p.a.ns.IP("link", "set", "sync0", "up")
				p.each(func(n, _ *node) { n.kernel.change(marked(&flows[n][0], 99)) })
				p.replicated("the link is up again")
				p.each(func(n, _ *node) {
					for i := range flows[n] {
						n.kernel.remove(&flows[n][i])
					}
				})
				p.replicated("removed")
			}
		})
	}
}

// TestSilentClient checks that clients that connect and send nothing do not delay others.
func TestSilentClient(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, clause("FTFW {\n}", ""), "")
	for range 10 {
		conn, err := net.Dial("unix", p.a.daemon.path("ctl"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	f := p.b.flow(1)
	p.b.kernel.create(&f)
	p.replicated("beside silent clients")
	p.a.daemon.commit()
	if n := len(p.a.kernel.flows()); n != 1 {
		t.Errorf("%d flows in the kernel after the commit, want 1", n)
	}
}
