package interop

import (
	"fmt"
	"strings"
	"testing"
)

// settles waits until the kernels of these nodes have exactly the flows with these ports, and each node's
// internal cache those that it owns, which the others show as its.
func (c *cluster) settles(when string, owns map[*node][]uint16, nodes ...*node) {
	c.t.Helper()
	c.eventually(when, func() string {
		all := map[uint16]bool{}
		for _, ports := range owns {
			for _, port := range ports {
				all[port] = true
			}
		}
		for _, n := range nodes {
			if missing, stale := comparePorts(all, n.kernel.ports()); missing+stale > 0 {
				return fmt.Sprintf("the kernel of %s lacks %d flows, and has %d too many", n.name, missing, stale)
			}
			for _, other := range nodes {
				own := map[uint16]bool{}
				for _, port := range owns[other] {
					own[port] = true
				}
				text, what := n.daemon.client("-i"), "internal cache"
				if n != other {
					text, what = n.daemon.client("-e", "--owner", other.name), "copy of the flows of "+other.name
				}
				if missing, stale := comparePorts(own, sourcePorts(entriesOf(text))); missing+stale > 0 {
					return fmt.Sprintf("the %s of %s lacks %d flows, and has %d too many", what, n.name, missing, stale)
				}
			}
		}
		return ""
	})
}

// Three hot standbys, of which two have connections of their own. The third one takes over from the one that dies, and
// then from the one that lives; that one takes all back. Each kernel always has all flows, and what their owner ends
// leaves all kernels.
func TestHotStandbyOfThree(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.mode, c.role = "PurgeTimeout 1", "HotStandby on"
	a, b, third := c.nodes[0], c.nodes[1], c.nodes[2]
	c.start(c.nodes...)
	b.daemon.client("-t") // it is the backup
	owns := map[*node][]uint16{}
	begin := func(n *node, from, to uint16) {
		t.Helper()
		for port := from; port <= to; port++ {
			f := n.flow(port)
			n.kernel.create(&f)
			owns[n] = append(owns[n], port)
		}
	}
	// end has a node end its first flow, which began behind another one, perhaps.
	end := func(n, behind *node) {
		t.Helper()
		f := behind.flow(owns[n][0])
		n.kernel.remove(&f)
		owns[n] = owns[n][1:]
	}
	takes := func(n *node, want []string, args ...string) {
		t.Helper()
		out := n.daemon.client(append([]string{"-c"}, args...)...)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != len(want) {
			t.Fatalf("-c %v: %q", args, out)
		}
		for i, line := range lines {
			name, said, _ := strings.Cut(want[i], " ")
			if !strings.HasPrefix(line, name) || !strings.HasSuffix(line, said) {
				t.Errorf("-c %v: %q, want %q", args, line, want[i])
			}
		}
	}
	begin(a, 1001, 1008)
	begin(third, 3001, 3008)
	c.settles("before any takeover", owns, c.nodes...)
	end(third, third)
	end(a, a)
	c.settles("what the owners end leaves all kernels", owns, c.nodes...)

	a.daemon.kill()
	takes(b, []string{"a: taken, in the kernel already", "c keeps its flows"})
	owns[b], owns[a] = owns[a], nil
	living := []*node{b, third}
	c.settles("after the death of a", owns, living...)
	end(b, a)
	end(third, third)
	c.settles("what the owners end after the takeover leaves both kernels", owns, living...)

	own := owns[third][0]
	takes(b, []string{"c: taken, in the kernel already"}, "--owner", "c")
	owns[b], owns[third] = append(owns[third], owns[b]...), nil
	c.settles("b has taken from c, which lives", owns, living...)
	if owns[b][0] != own {
		t.Fatal("not the flow of c")
	}
	end(b, third)
	c.settles("what b ends of c's flows leaves c's kernel", owns, living...)
	for _, f := range third.kernel.flows() {
		if f.Timeout < 3000 {
			t.Errorf("c's kernel forgets a flow that it has lost in %d s", f.Timeout)
		}
	}

	begin(third, 3101, 3102)
	c.settles("c has flows again", owns, living...)
	takes(third, []string{"b: taken, in the kernel already"}, "--owner", "b")
	owns[third], owns[b] = append(owns[b], owns[third]...), nil
	c.settles("c has taken all back", owns, living...)
	end(third, third)
	c.settles("what c ends leaves b's kernel", owns, living...)

	// The purge of b leaves what c owns.
	b.daemon.client("-t")
	c.eventually("b has purged", func() string {
		if !strings.Contains(b.daemon.log(), "flushing kernel conntrack table (scheduled)") {
			return "not yet"
		}
		return ""
	})
	c.settles("after the purge", owns, living...)

	// a comes back after a reboot.
	a.kernel.flush()
	a.daemon.start()
	c.settles("a is back", owns, c.nodes...)
	c.inSync("at the end", c.nodes...)
	for _, n := range c.nodes {
		if log := n.daemon.log(); strings.Contains(log, "can't be committed") || strings.Contains(log, "could not") || strings.Contains(log, "differ from the copy here") {
			t.Errorf("%s:\n%s", n.name, log)
		}
	}
}
