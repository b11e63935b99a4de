package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// cluster is the nodes of a sealed Cluster, all on one wire (sync0). Each is linked to every other.
type cluster struct {
	t     testing.TB
	nodes []*node
	wire  *badWire
	key   string

	mode  string        // options of the mode
	limit string        // of flows, if it is not that of newDaemon
	role  string        // options of the Cluster
	steps int           // of begin
	last  map[*node]int // the last step that has made flows of a node, which are there
}

// newCluster creates n firewalls, without daemons.
func newCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, key: newKeyFile(t), last: map[*node]int{}}
	for i := range n {
		c.nodes = append(c.nodes, newNode(t, nil, &sides[i]))
	}
	c.wire = connect(t, faults{}, 1, c.nodes...)
	return c
}

// number returns the number of a side's node in its Cluster.
func (s *side) number() int { return int(s.name[0]-'a') + 1 }

// clause returns the Sync clause of a node whose peers are the other ones of these nodes.
func (c *cluster) clause(n *node, nodes ...*node) string {
	var peers strings.Builder
	for _, p := range nodes {
		if p != n {
			fmt.Fprintf(&peers, "\tPeer %d %s {\n\t\tIPv4_Destination_Address %s\n\t}\n", p.number(), p.name, p.link(4, 0))
		}
	}
	return fmt.Sprintf(`Mode FTFW {
	%s
}
UDP {
	IPv4_address %s
	Port 3780
	Interface sync0
	SndSocketBuffer 8388608
	RcvSocketBuffer 8388608
}
Cluster {
	Name edge
	Node %d %s
	%s
%s	Key 1 %s
}
%s
`, c.mode, n.link(4, 0), n.number(), n.name, c.role, peers.String(), c.key, withExpects)
}

// configure writes the configuration of these nodes, which are each other's peers.
func (c *cluster) configure(nodes ...*node) {
	c.t.Helper()
	for _, n := range nodes {
		if n.daemon == nil {
			n.daemon = newDaemon(c.t, n.ns, ours, "", "")
		}
		n.daemon.configure(c.clause(n, nodes...), c.limit)
	}
}

// start starts the daemons of these nodes, which are each other's peers.
func (c *cluster) start(nodes ...*node) {
	c.t.Helper()
	c.configure(nodes...)
	for _, n := range nodes {
		n.daemon.launch()
	}
	for _, n := range nodes {
		n.daemon.awaitAnswer()
	}
}

// peerState is what a node says of a peer.
type peerState struct {
	Node   int
	Name   string
	InSync bool `json:"in_sync"`
	Lacks  string
	Digest *struct {
		Equal                 bool
		Differences, Repaired uint64
	}
}

// peerStates returns what -s peers says of each peer that was heard, by name.
func (n *node) peerStates() map[string]peerState {
	n.daemon.t.Helper()
	text, _, _ := strings.Cut(n.daemon.ask(statsPeers|withOutcome|asJSON), "\n")
	var all struct{ Peers []peerState }
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		n.daemon.t.Fatalf("%s: %v in %q", n.daemon.name(), err, text)
	}
	peers := map[string]peerState{}
	for _, p := range all.Peers {
		peers[p.Name] = p
	}
	return peers
}

// eventually waits until done returns "", which says what is still wrong.
func (c *cluster) eventually(what string, done func() string) {
	c.t.Helper()
	wrong := ""
	defer func() {
		if wrong != "" {
			c.t.Logf("%s: %s\n%s", what, wrong, c.logs())
		}
	}()
	netnstest.Eventually(c.t, patience, what, func() bool {
		wrong = done()
		return wrong == ""
	})
}

func (c *cluster) logs() string {
	var s strings.Builder
	for _, n := range c.nodes {
		if n.daemon != nil {
			fmt.Fprintf(&s, "\n%s:\n%s", n.daemon.name(), n.daemon.log())
			if text, err := n.daemon.request(statsPeers); err == nil {
				s.WriteString(text)
			}
		}
	}
	return s.String()
}

// inSync waits until each of these nodes says that it is in sync with each other one, and that its
// copy is proven to be equal.
func (c *cluster) inSync(when string, nodes ...*node) {
	c.t.Helper()
	c.eventually(when+": all are in sync and equal", func() string {
		for _, n := range nodes {
			states := n.peerStates()
			for _, p := range nodes {
				if p == n {
					continue
				}
				s, ok := states[p.name]
				switch {
				case !ok:
					return fmt.Sprintf("%s has not heard %s", n.name, p.name)
				case !s.InSync:
					return fmt.Sprintf("%s lacks of %s: %s", n.name, p.name, s.Lacks)
				case s.Digest == nil || !s.Digest.Equal:
					return fmt.Sprintf("%s has not proven that its copy of %s is equal", n.name, p.name)
				}
			}
		}
		return ""
	})
}

// holds returns the difference between what a node holds of its peers and the kernels of these.
// Nodes beside them are not looked at.
func (n *node) holds(of ...*node) string {
	want, got := map[entry]bool{}, map[entry]bool{}
	all := n.external()
	maps.Copy(all, entriesOf(n.daemon.ask(dumpExternalExp)))
	for _, from := range of {
		if from != n {
			maps.Copy(want, about(from.kernel.entries(), from.side))
			maps.Copy(want, about(from.kernel.expectEntries(), from.side))
			maps.Copy(got, about(all, from.side))
		}
	}
	return difference(want, got)
}

// replicated waits until each of these nodes holds exactly the flows of each other one's kernel that began
// behind that one.
func (c *cluster) replicated(when string, nodes ...*node) {
	c.t.Helper()
	c.eventually(when+": all have the flows of the others", func() string {
		for _, n := range nodes {
			if diff := n.holds(nodes...); diff != "" {
				return "external cache of " + n.name + " against the other kernels (- missing, + too many):\n" + diff
			}
		}
		return ""
	})
}

// change makes changes behind each of these nodes: a flow begins and changes, and of those of the change before
// one changes and one ends.
func (c *cluster) change(nodes ...*node) {
	c.t.Helper()
	for _, n := range nodes {
		if last := c.last[n]; last > 0 {
			f := c.flow(n, last, 1)
			n.kernel.remove(&f)
		}
		c.begin(n)
	}
}

// begin is change without a flow that ends.
func (c *cluster) begin(nodes ...*node) {
	c.t.Helper()
	for _, n := range nodes {
		c.steps++
		for i := range 3 {
			f := c.flow(n, c.steps, i)
			n.kernel.create(&f)
		}
		for _, step := range []int{c.steps, c.last[n]} {
			if step > 0 {
				f := c.flow(n, step, 0)
				n.kernel.change(marked(&f, uint32(c.steps)))
			}
		}
		c.last[n] = c.steps
	}
}

// flush ends all flows of a node's kernel.
func (c *cluster) flush(n *node) {
	c.t.Helper()
	n.kernel.flush()
	delete(c.last, n)
}

func (c *cluster) flow(n *node, step, i int) ctnetlink.Flow {
	return n.flow(uint16(10000 + 10*step + i))
}

// partition returns the ways to cut so that each of the two groups hears nothing of the other.
func partition(some, others []*node) (ways []way) {
	for _, a := range some {
		for _, b := range others {
			ways = append(ways, way{a.name, b.name}, way{b.name, a.name})
		}
	}
	return ways
}

// TestThreeNodes checks that each of three nodes always gets what the other two have: flows of every kind, and
// what begins, changes and ends while a node is dead, while a link is cut in both directions or in one,
// and while peers are added and removed.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	all := c.nodes
	a, b, third := all[0], all[1], all[2]
	for _, n := range all {
		samples := n.samples()
		for i := range samples {
			n.kernel.create(&samples[i].flow)
		}
	}
	settled := func(when string, nodes ...*node) {
		t.Helper()
		c.replicated(when, nodes...)
		c.inSync(when, nodes...)
	}
	c.start(all...)
	c.change(all...)
	settled("at the start", all...)

	b.daemon.kill()
	c.change(all...)
	c.replicated("while b is dead", a, third)
	b.daemon.start()
	c.change(all...)
	settled("after b was killed", all...)

	b.daemon.stop()
	c.change(all...)
	c.flush(b)
	b.daemon.start()
	settled("after b has lost its flows", all...)

	for _, cut := range []struct {
		name string
		ways []way
		rest [][]*node // those that still hear each other
	}{
		{"a and b", partition([]*node{a}, []*node{b}), [][]*node{{a, third}, {b, third}}},
		{"from a to b", []way{{"a", "b"}}, [][]*node{{a, third}, {b, third}}},
		{"c and both others", partition([]*node{third}, []*node{a, b}), [][]*node{{a, b}}},
	} {
		c.wire.isolate(cut.ways...)
		c.change(all...)
		for _, nodes := range cut.rest {
			c.replicated("without the way between "+cut.name, nodes...)
		}
		c.wire.isolate()
		settled("after a cut between "+cut.name, all...)
	}
	for _, n := range all {
		if log := n.daemon.log(); strings.Contains(log, "differ from the copy here") {
			t.Errorf("%s has found a difference:\n%s", n.name, log)
		}
	}
}

// TestPeersByReload takes a pair to a cluster of three and back by reloading, while flows begin and end.
func TestPeersByReload(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	pair := []*node{a, b}
	settled := func(when string, nodes ...*node) {
		t.Helper()
		c.change(nodes...)
		c.replicated(when, nodes...)
		c.inSync(when, nodes...)
	}
	c.start(pair...)
	settled("two nodes", pair...)

	c.begin(third)
	c.configure(c.nodes...)
	a.daemon.client("--reload")
	third.daemon.start()
	settled("a knows the third node", a, third)
	c.replicated("a knows the third node, b does not", pair...)
	b.daemon.client("--reload")
	settled("three nodes", c.nodes...)

	for range 2 {
		c.configure(pair...)
		for _, n := range pair {
			n.daemon.client("--reload")
		}
		settled("the third node was removed", pair...)
		for _, n := range pair {
			if _, there := n.peerStates()[third.name]; there {
				t.Errorf("%s has the removed node in -s peers", n.name)
			}
		}
		c.configure(c.nodes...)
		for _, n := range pair {
			n.daemon.client("--reload")
		}
		settled("the third node is back", c.nodes...)
	}
}
