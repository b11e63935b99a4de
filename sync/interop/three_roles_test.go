package interop

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
)

// notify starts the shipped script that keepalived calls when a node's role changes.
func (n *node) notify(role string) *netnstest.Process {
	t := n.daemon.t
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.ns.Command("sh", filepath.Join(root, "scripts/primary-backup.sh"), role)
	cmd.Env = append(cmd.Env, "CONNTRACKD_BIN="+ours.path(t), "CONNTRACKD_CONFIG="+n.daemon.path("conf"), "CONNTRACKD_LOCK="+n.daemon.path("lock"))
	return n.ns.Launch(cmd)
}

// ended waits for the end of a script, which must succeed.
func (n *node) ended(p *netnstest.Process) {
	n.daemon.t.Helper()
	if r := p.Wait(patience); r.Code != 0 {
		n.daemon.t.Errorf("%s: primary-backup.sh: %+v\n%s", n.name, r, n.daemon.log())
	}
}

// manners are the orders in which two nodes change their roles.
var manners = []string{"the backup first", "the primary first", "both at once"}

// exchange has to become the primary and from a backup, in one of the manners.
func exchange(from, to *node, manner string) {
	switch manner {
	case "the backup first":
		from.ended(from.notify("backup"))
		to.ended(to.notify("primary"))
	case "the primary first":
		to.ended(to.notify("primary"))
		from.ended(from.notify("backup"))
	default:
		up, down := to.notify("primary"), from.notify("backup")
		to.ended(up)
		from.ended(down)
	}
}

// shown returns the source ports of what a node's -e shows.
func (n *node) shown() map[uint16]bool {
	n.daemon.t.Helper()
	return sourcePorts(n.external())
}

// sourcePorts returns the source ports of entries.
func sourcePorts(entries map[entry]bool) map[uint16]bool {
	set := map[uint16]bool{}
	for e := range entries {
		_, rest, _ := strings.Cut(e, " sport=")
		var port uint16
		fmt.Sscan(rest, &port)
		set[port] = true
	}
	return set
}

// TestPingPongOfThree moves the role from node to node, as keepalived's script does, in any order of the commands,
// while flows begin and end and reuse each other's translated ports. After each takeover the kernel of
// the primary has exactly the flows that live, and so has what the other nodes show.
func TestPingPongOfThree(t *testing.T) {
	t.Parallel()
	const begun, living = 60, 200
	c := newCluster(t, 3)
	c.start(c.nodes...)
	rng := rand.New(rand.NewPCG(7, 8))
	primary := c.nodes[0]
	primary.ended(primary.notify("primary"))
	for _, n := range c.nodes[1:] {
		n.ended(n.notify("backup"))
	}
	port, live := uint16(1000), map[uint16]uint16{} // by port, the translated one
	var free []uint16
	for natPort := uint16(20000); natPort < 20000+living+begun; natPort++ {
		free = append(free, natPort)
	}
	turn := func() {
		t.Helper()
		for port, natPort := range live {
			if len(live) == living-begun {
				break
			}
			delete(live, port)
			free = append([]uint16{natPort}, free...)
			f := translated(port, natPort)
			primary.kernel.remove(&f)
		}
		for len(live) < living {
			port++
			live[port] = free[0]
			f := translated(port, free[0])
			free = free[1:]
			primary.kernel.create(&f)
		}
	}
	expected := func() map[uint16]bool {
		set := map[uint16]bool{}
		for port := range live {
			set[port] = true
		}
		return set
	}
	rounds := 6
	if netnstest.Long {
		rounds = 20
	}
	var spent time.Duration
	for round := range rounds {
		turn()
		when := fmt.Sprintf("before takeover %d", round+1)
		c.eventually(when+": the others show what the primary's kernel has", func() string {
			for _, n := range c.nodes {
				if n == primary {
					continue
				}
				if missing, stale := comparePorts(expected(), n.shown()); missing+stale > 0 {
					return fmt.Sprintf("at %s %d flows are missing, %d are stale", n.name, missing, stale)
				}
			}
			return ""
		})
		to := c.nodes[rng.IntN(3)]
		for to == primary {
			to = c.nodes[rng.IntN(3)]
		}
		manner := manners[rng.IntN(len(manners))]
		when = fmt.Sprintf("takeover %d, from %s to %s, %s", round+1, primary.name, to.name, manner)
		begin := time.Now()
		exchange(primary, to, manner)
		primary = to
		c.eventually(when+": the primary's kernel has everything", func() string {
			missing, stale := comparePorts(expected(), primary.kernel.ports())
			if stale > 0 {
				t.Fatalf("%s: %d flows are stale\n%s", when, stale, c.logs())
			}
			if missing > 0 {
				return fmt.Sprintf("%d flows are missing", missing)
			}
			return ""
		})
		spent += time.Since(begin)
	}
	t.Logf("%d takeovers in %.1f s", rounds, spent.Seconds())
	for _, n := range c.nodes {
		if log := n.daemon.log(); strings.Contains(log, "can't be committed") || strings.Contains(log, "commit-") {
			t.Error(log)
		}
	}
	// What a former primary has forgotten is not shown as the primary's, and everything that was withdrawn is gone.
	c.eventually("at the end one node owns everything", func() string {
		for _, n := range c.nodes {
			if n == primary {
				continue
			}
			all := len(entriesOf(n.daemon.client("-e")))
			if owned := len(entriesOf(n.daemon.client("-e", "--owner", primary.name))); owned != living || all != living {
				return fmt.Sprintf("%s shows %d flows, %d of %s; there are %d", n.name, all, owned, primary.name, living)
			}
		}
		return ""
	})
}

// TestTwoPrimaries checks that nodes that are primary at the same time are seen in the metrics and said once in
// each node's log, and that nothing is said before.
func TestTwoPrimaries(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	a, b := c.nodes[0], c.nodes[1]
	c.start(c.nodes...)
	for _, n := range c.nodes[1:] {
		n.ended(n.notify("backup"))
	}
	a.ended(a.notify("primary"))
	sees := func(what string, primaries int) {
		t.Helper()
		c.eventually(what, func() string {
			for _, n := range c.nodes {
				if got := metric(t, n.daemon, "conntrackd_primaries"); got != primaries {
					return fmt.Sprintf("%s sees %d primaries", n.name, got)
				}
			}
			return ""
		})
	}
	lines := func(want int) {
		t.Helper()
		for _, n := range c.nodes {
			if got := strings.Count(n.daemon.log(), "nodes say that they are primary"); got != want {
				t.Errorf("%s says %d times that two nodes are primary:\n%s", n.name, got, n.daemon.log())
			}
		}
	}
	sees("one primary", 1)
	lines(0)
	f := a.flow(1)
	a.kernel.create(&f)
	b.ended(b.notify("primary"))
	sees("two primaries", 2)
	lines(1)
	// a was asked and lives, so it keeps its flow.
	for _, n := range c.nodes[1:] {
		c.eventually("the flow stays with its owner", func() string {
			return difference(map[entry]bool{entryOfFlow(&f): true}, entriesOf(n.daemon.client("-e", "--owner", "a")))
		})
	}
	if n := len(b.kernel.flows()); n > 0 {
		t.Errorf("b has taken %d flows", n)
	}
	a.ended(a.notify("backup"))
	sees("one primary again", 1)
	c.eventually("b has the flow of the node that stepped down", func() string {
		missing, stale := comparePorts(map[uint16]bool{1: true}, b.kernel.ports())
		if missing+stale > 0 {
			return fmt.Sprintf("%d are missing, %d are stale", missing, stale)
		}
		return ""
	})
	lines(1)
}

// TestNodesChange restarts a node with an empty kernel under the same number, then under another one, and removes a
// peer whose flows then age out.
func TestNodesChange(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	c.start(c.nodes...)
	c.begin(c.nodes...)
	c.replicated("at the start", c.nodes...)
	c.inSync("at the start", c.nodes...)

	// A reboot: what b had is nobody's. Flows with the same tuples begin behind it, as after a reset.
	b.daemon.kill()
	c.flush(b)
	b.daemon.start()
	f := c.flow(b, 2, 0)
	b.kernel.create(&f)
	c.replicated("after b's reboot", c.nodes...)
	c.inSync("after b's reboot", c.nodes...)

	// Node 3 becomes node 4, with its flows.
	third.daemon.stop()
	renumber := strings.NewReplacer("Node 3 c", "Node 4 d", "Peer 3 c", "Peer 4 d").Replace
	for _, n := range c.nodes {
		n.daemon.configure(renumber(c.clause(n, c.nodes...)), "")
	}
	a.daemon.client("--reload")
	b.daemon.client("--reload")
	third.daemon.start()
	c.replicated("after c has become node 4", c.nodes...)
	for _, n := range []*node{a, b} {
		c.eventually(n.name+" knows node 4 alone", func() string {
			states := n.peerStates()
			if s, ok := states["d"]; !ok || !s.InSync {
				return fmt.Sprintf("d: %+v", s)
			}
			if _, there := states["c"]; there {
				return "c is there"
			}
			return ""
		})
		if shown := entriesOf(n.daemon.client("-e", "--owner", "d")); len(shown) != 3 {
			t.Errorf("%s shows %d flows of node 4", n.name, len(shown))
		}
	}

	// b is removed. What the others hold of it ages out, and they go on as a pair.
	b.daemon.stop()
	rest := []*node{a, third}
	c.mode = "PurgeTimeout 3"
	for _, n := range rest {
		n.daemon.configure(renumber(c.clause(n, rest...)), "")
		n.daemon.client("--reload")
	}
	c.begin(rest...)
	c.replicated("after b was removed", rest...)
	c.eventually("the flows of the removed node are gone", func() string {
		for _, n := range rest {
			if left := about(n.external(), b.side); len(left) > 0 {
				return fmt.Sprintf("%s has %d", n.name, len(left))
			}
		}
		return ""
	})
}

// TestTakeBack takes the flows of a living node, all by its name, and has that node take them back by their
// addresses: the flows of the other two nodes stay where they are.
func TestTakeBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	c.start(c.nodes...)
	const flows = 300
	for _, n := range c.nodes {
		for i := range uint32(flows) {
			f := n.numbered(i)
			n.kernel.create(&f)
		}
	}
	owns := func(when string, numbers ...int) {
		t.Helper()
		c.eventually(when, func() string {
			for _, n := range c.nodes {
				for i, of := range c.nodes {
					if n == of {
						continue
					}
					if got := len(entriesOf(n.daemon.client("-e", "--owner", of.name))); got != numbers[i] {
						return fmt.Sprintf("%s shows %d flows of %s, not %d", n.name, got, of.name, numbers[i])
					}
				}
			}
			return ""
		})
	}
	owns("at the start", flows, flows, flows)
	a.daemon.client("-c", "--owner", "b")
	owns("a has taken b's flows", 2*flows, 0, flows)
	back := func(n *node) {
		for _, net := range []string{n.net4 + "0/24", n.net6 + "/64"} {
			n.daemon.client("-c", "--src", net)
		}
	}
	back(b)
	owns("b has taken them back", flows, flows, flows)
	for range 5 { // while the takeovers before it last
		a.daemon.client("-c", "--owner", "b")
		owns("a has taken b's flows again", 2*flows, 0, flows)
		back(b)
		owns("b has taken them back again", flows, flows, flows)
	}
	c.replicated("b has taken them back", c.nodes...)
	if missing := difference(b.kernel.entries(), about(a.kernel.entries(), b.side)); missing != "" {
		t.Errorf("a's kernel against b's:\n%s", missing)
	}
	if n := len(third.kernel.entries()); n != flows {
		t.Errorf("c's kernel has %d flows", n)
	}
}
