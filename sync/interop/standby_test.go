package interop

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/passtest"
)

// strict drops what no flow of the kernel accounts for.
const strict = `table inet strict {
	chain strict { type filter hook forward priority 0; ct state invalid drop; ct state new tcp flags & (syn | ack) != syn drop; }
}`

// kernelHas waits until the kernel of a node has as many flows to a port as wanted.
func (g *gateways) kernelHas(number int, port uint16, want int, when string) {
	g.t.Helper()
	var all []ctnetlink.Flow
	defer func() {
		if g.t.Failed() {
			for i := range all {
				g.t.Logf("%s: in the kernel of %s: %+v", when, g.nodes[number].name, all[i].Orig)
			}
		}
	}()
	netnstest.Eventually(g.t, patience, fmt.Sprintf("%s: the kernel of %s has %d flows to port %d", when, g.nodes[number].name, want, port), func() bool {
		all = g.nodes[number].kernel.flows()
		got := 0
		for i := range all {
			if all[i].Orig.DstPort == port {
				got++
			}
		}
		return got == want
	})
}

// With HotStandby the backup's kernel has the flows of the primary before any commit: at the primary's death
// packets of existing connections pass at once. The commit has nothing left to do, and afterwards
// the flows are the new primary's own.
func TestHotStandby(t *testing.T) {
	g := newGateways(t, 1, hiding+"\n"+strict, standby)
	s := passtest.DialFTP(t, g.Clients[0], g.Server, passtest.Client4, passtest.Server4)
	for primary := range 2 {
		backup := 1 - primary
		data, gone := s.Offer().Connect(), s.Offer().Connect()
		port := func(c *passtest.Conn) uint16 { return uint16(c.Client.RemoteAddr().(*net.TCPAddr).Port) }
		g.kernelHas(backup, 21, 1, "before the takeover")
		g.kernelHas(backup, port(data), 1, "before the takeover")
		if got := g.nodes[backup].daemon.client("-i"); strings.Contains(got, "dport=21 ") {
			t.Errorf("the backup's internal cache has the primary's flows:\n%s", got)
		}
		for _, f := range g.nodes[primary].kernel.flows() {
			if f.Orig.DstPort == port(gone) {
				g.nodes[primary].kernel.removeExactly(&f)
			}
		}
		g.kernelHas(backup, port(gone), 0, "after an end")

		g.nodes[primary].daemon.kill()
		g.Through(backup)
		data.Pass("still open")
		s.Command("NOOP", "200 nothing done")
		heir := g.nodes[backup].daemon
		heir.commit()
		for _, command := range []string{"-f", "-R", "-B"} {
			heir.client(command)
		}
		data.Pass("after the commit")
		netnstest.Eventually(t, patience, "the internal cache has what the kernel has", func() bool {
			text := heir.client("-i")
			return strings.Count(text, " dport=21 ") == 1 && strings.Count(text, fmt.Sprintf(" dport=%d ", port(data))) == 1
		})
		netnstest.Eventually(t, patience, "the commit finds nothing missing", func() bool {
			return strings.Contains(heir.log(), "Committed 0 new entries") && !strings.Contains(heir.log(), "can't be committed")
		})
		g.comeBack(primary)
		g.kernelHas(primary, port(data), 1, "after the way back")
		if t.Failed() {
			t.Fatalf("logs:\n%s\n%s", g.nodes[0].daemon.log(), g.nodes[1].daemon.log())
		}
	}
}

// A backup that starts again finds the primary's flows of its former life in the kernel. They are not its own: they
// end with the primary's. So do those of a primary that has stepped down, when its purge comes.
func TestHotStandbyStartsAgainAndStepsDown(t *testing.T) {
	p := newPair(t)
	tr := inCluster(4, newKeyFile(t))
	p.start(programs{ours, ours}, func(me, peer *side) string {
		clause := syncClause(ftfw, tr, withExpects)(me, peer)
		clause = strings.Replace(clause, "Mode FTFW {", "Mode FTFW {\n\tPurgeTimeout 1", 1)
		return strings.Replace(clause, "Name edge", "Name edge\n\tHotStandby on", 1)
	}, "")
	defer func() {
		if t.Failed() {
			t.Logf("logs:\n%s\n%s", p.a.daemon.log(), p.b.daemon.log())
		}
	}()
	has := func(n *node, want ...uint16) func() bool {
		return func() bool {
			got := n.kernel.ports()
			for _, port := range want {
				if !got[port] {
					return false
				}
			}
			return len(got) == len(want)
		}
	}
	inCache := func(n *node, flows int) func() bool {
		return func() bool { return n.daemon.statistics().Caches["internal"].Flows.Active == uint64(flows) }
	}
	flows := map[uint16]ctnetlink.Flow{}
	for port := uint16(1001); port <= 1004; port++ {
		f := p.a.side.flow(port)
		flows[port] = f
		p.a.kernel.create(&f)
	}
	p.a.daemon.client("-c")
	netnstest.Eventually(t, patience, "the backup's kernel has the flows", has(p.b, 1001, 1002, 1003, 1004))

	p.b.daemon.kill()
	p.b.daemon.start()
	netnstest.Eventually(t, patience, "the internal cache of the backup that has started again is empty", inCache(p.b, 0))
	netnstest.Eventually(t, patience, "the primary has its flows", inCache(p.a, 4))
	netnstest.Eventually(t, patience, "its kernel keeps the flows", has(p.b, 1001, 1002, 1003, 1004))
	end := func(n *node, port uint16) {
		f := flows[port]
		n.kernel.remove(&f)
	}
	end(p.a, 1001)
	netnstest.Eventually(t, patience, "what has ended is gone", has(p.b, 1002, 1003, 1004))

	p.b.daemon.client("-c", "--mark", "1") // none of them; it reads the kernel's table in the background
	p.b.daemon.client("-c")
	p.a.daemon.client("-t")
	netnstest.Eventually(t, patience, "the new primary owns the flows", inCache(p.b, 3))
	netnstest.Eventually(t, patience, "the purge leaves nothing in the internal cache", inCache(p.a, 0))
	netnstest.Eventually(t, patience, "the purge leaves the new primary's flows", has(p.a, 1002, 1003, 1004))
	end(p.b, 1002)
	netnstest.Eventually(t, patience, "what the new primary ends is gone", has(p.a, 1003, 1004))
	if got := p.b.kernel.ports(); len(got) != 2 {
		t.Errorf("the new primary has %v", got)
	}
}

// A hot standby's exporter does not record the flows that are only kept in its kernel, neither their begin nor
// their end there. What packets have passed since a takeover it does.
func TestHotStandbyRecordsWhatPasses(t *testing.T) {
	t.Parallel()
	g := newGateways(t, 1, hiding+"\n"+strict, standby)
	for i, n := range g.nodes {
		n.ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
		n.daemon.stop()
		n.daemon.configure(g.clause(i, standby), "}\nExport json {\n\tFile "+n.daemon.path("flows")+"\n\tRecords flow")
		n.daemon.start()
	}
	records := func(number int, event string, port uint16) int {
		text, err := os.ReadFile(g.nodes[number].daemon.path("flows"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		got := 0
		for line := range strings.Lines(string(text)) {
			original, _, _ := strings.Cut(line, `"reply"`)
			_, to, _ := strings.Cut(original, `"dport":`)
			if strings.Contains(original, `"event":"`+event+`"`) && strings.HasPrefix(strings.ReplaceAll(to, "}", ","), fmt.Sprintf("%d,", port)) {
				got++
			}
		}
		return got
	}
	defer func() {
		if t.Failed() {
			for _, n := range g.nodes {
				text, err := os.ReadFile(n.daemon.path("flows"))
				t.Logf("%s, %v:\n%s\n%s", n.name, err, text, n.daemon.log())
			}
		}
	}()
	recorded := func(number int, event string, port uint16) {
		t.Helper()
		netnstest.Eventually(t, patience, fmt.Sprintf("%s has recorded %s of a flow to port %d", g.nodes[number].name, event, port), func() bool {
			return records(number, event, port) == 1
		})
	}
	s := passtest.DialFTP(t, g.Clients[0], g.Server, passtest.Client4, passtest.Server4)
	data, gone := s.Offer().Connect(), s.Offer().Connect()
	port := func(c *passtest.Conn) uint16 { return uint16(c.Client.RemoteAddr().(*net.TCPAddr).Port) }
	g.kernelHas(1, 21, 1, "before the takeover")
	g.kernelHas(1, port(data), 1, "before the takeover")
	g.kernelHas(1, port(gone), 1, "before the takeover")
	end := func(number int, port uint16) {
		for _, f := range g.nodes[number].kernel.flows() {
			if f.Orig.DstPort == port {
				g.nodes[number].kernel.removeExactly(&f)
			}
		}
	}
	end(0, port(gone))
	g.kernelHas(1, port(gone), 0, "after an end")
	recorded(0, "new", port(data))
	recorded(0, "new", port(gone))
	recorded(0, "destroy", port(gone))
	// What the backup records after all that says that it has seen it.
	marker := g.nodes[1].flow(1)
	marker.Orig.DstPort, marker.Reply.SrcPort = 81, 81
	g.nodes[1].kernel.create(&marker)
	recorded(1, "new", 81)

	g.nodes[0].daemon.kill()
	g.Through(1)
	g.nodes[1].daemon.commit()
	data.Pass("after the takeover")
	end(1, port(data))
	recorded(1, "destroy", port(data))
	for _, event := range []string{"new", "destroy"} {
		if n := records(1, event, port(gone)) + records(1, event, 21); n > 0 {
			t.Errorf("the backup has recorded %d times %s of flows that did not pass it", n, event)
		}
	}
}
