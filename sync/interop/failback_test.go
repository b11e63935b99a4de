package interop

import (
	"math/rand/v2"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// translated returns a flow whose source is translated to this port of an address that both
// nodes of a pair share.
func translated(port, natPort uint16) ctnetlink.Flow {
	f := sides[0].flow(port)
	f.Has |= ctnetlink.HasNATSrc
	f.NATSrc = ctnetlink.NAT{HasAddr: true, HasPort: true, Port: natPort}
	_, f.NATSrc.Addr = parseAddr("192.0.2.200")
	return f
}

// takeOver does the same as primary-backup.sh on both nodes: to becomes the primary. With
// backupFirst the other node steps down first.
func takeOver(from, to *node, backupFirst bool) {
	down := func() {
		from.daemon.client("-t")
		from.daemon.client("-n")
	}
	if backupFirst {
		down()
	}
	for _, step := range []string{"-c", "-f", "-R", "-B"} {
		to.daemon.client(step)
	}
	if !backupFirst {
		down()
	}
}

// ports returns the ports of the kernel's flows, which identify them here.
func (k *kernel) ports() map[uint16]bool {
	k.t.Helper()
	set := map[uint16]bool{}
	for _, f := range k.flows() {
		set[f.Orig.SrcPort] = true
	}
	return set
}

// comparePorts reports the ports that are missing in got and those in excess.
func comparePorts(want, got map[uint16]bool) (missing, stale int) {
	for port := range want {
		if !got[port] {
			missing++
		}
	}
	for port := range got {
		if !want[port] {
			stale++
		}
	}
	return missing, stale
}

// TestFailBack takes over from node to node twenty times, within PurgeTimeout, while flows
// begin and end and reuse each other's translated ports. After each commit the kernel has
// exactly the live flows: no flow is missing, no ended flow is back, no flow was refused.
func TestFailBack(t *testing.T) {
	for _, mode := range []string{"FTFW {\n}", "NOTRACK {\n}"} {
		t.Run(mode[:4], func(t *testing.T) {
			t.Parallel()
			const begun, living = 100, 300
			p := newPair(t)
			p.start(programs{ours, ours}, clause(mode, ""), "")
			rng := rand.New(rand.NewPCG(1, 2))
			active, backup := p.a, p.b
			port, own := uint16(1000), map[*node][]uint16{}
			live := map[uint16]uint16{} // by port, the translated one
			var free []uint16
			for natPort := uint16(20000); natPort < 20000+living+begun; natPort++ {
				free = append(free, natPort)
			}
			begin := func() {
				port++
				live[port] = free[0]
				f := translated(port, free[0])
				free = free[1:]
				active.kernel.create(&f)
			}
			expected := func() map[uint16]bool {
				set := map[uint16]bool{}
				for port := range live {
					set[port] = true
				}
				for _, port := range own[active] {
					set[port] = true
				}
				return set
			}
			for len(live) < living {
				begin()
			}
			rounds := 5
			if netnstest.Long {
				rounds = 20
			}
			for round := range rounds {
				for port, natPort := range live {
					if len(live) == living-begun {
						break
					}
					delete(live, port)
					free = append([]uint16{natPort}, free...)
					f := translated(port, natPort)
					active.kernel.remove(&f)
				}
				for len(live) < living {
					begin()
				}
				// Flows of this node's own traffic that begin while it is the backup stay.
				port++
				f := sides[1].flow(port)
				backup.kernel.create(&f)
				own[backup] = append(own[backup], port)

				netnstest.Eventually(t, patience, "the backup has what the active's kernel has", func() bool {
					return len(backup.external()) == len(active.kernel.flows())
				})
				takeOver(active, backup, rng.IntN(2) == 0)
				own[backup] = append(own[backup], own[active]...)
				own[active] = nil
				active, backup = backup, active
				missing, stale := comparePorts(expected(), active.kernel.ports())
				if missing+stale > 0 {
					t.Fatalf("takeover %d: %d flows are missing, %d are stale\n%s\n%s", round, missing, stale, p.a.daemon.log(), p.b.daemon.log())
				}
			}
			p.each(func(n, _ *node) {
				if log := n.daemon.log(); strings.Contains(log, "can't be committed") || strings.Contains(log, "commit-") {
					t.Error(log)
				}
			})
		})
	}
}

// TestFailBackFromDebian does the same with a C daemon, which only announces a flow and then
// its end.
func TestFailBackFromDebian(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, debian}, clause("FTFW {\n}", ""), "")
	for port := uint16(1); port <= 100; port++ {
		f := translated(port, 20000+port)
		p.a.kernel.create(&f)
	}
	netnstest.Eventually(t, patience, "Debian's has everything", func() bool { return len(p.b.external()) == 100 })
	takeOver(p.a, p.b, false)
	netnstest.Eventually(t, patience, "Debian's has announced everything", func() bool { return len(p.a.external()) == 100 })
	want := map[uint16]bool{}
	for port := uint16(1); port <= 100; port++ {
		if f := translated(port, 20000+port); port <= 50 {
			p.b.kernel.remove(&f)
			f = translated(1000+port, 20000+port)
			p.b.kernel.create(&f)
			want[1000+port] = true
		} else {
			want[port] = true
		}
	}
	netnstest.Eventually(t, patience, "ours has the new flows, and its kernel has lost the ended ones", func() bool {
		return len(p.a.external()) == 100 && len(p.a.kernel.flows()) == 50
	})
	takeOver(p.b, p.a, false)
	if missing, stale := comparePorts(want, p.a.kernel.ports()); missing+stale > 0 {
		t.Errorf("%d flows are missing, %d are stale\n%s", missing, stale, p.a.daemon.log())
	}
}

// TestOnlyTheActiveNodeEnds checks that a node keeps every flow when it steps down and takes over
// again while the other node never did, although the other node's copies end.
func TestOnlyTheActiveNodeEnds(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, clause("FTFW {\n}", ""), "")
	want := map[uint16]bool{}
	for port := uint16(1); port <= 50; port++ {
		f := translated(port, 20000+port)
		p.a.kernel.create(&f)
		want[port] = true
	}
	has := func(n *node, what string, flows int) {
		t.Helper()
		netnstest.Eventually(t, patience, what, func() bool { return len(n.external()) == flows })
	}
	has(p.b, "b has a's flows", 50)
	takeOver(p.a, p.b, false)
	has(p.a, "a has b's flows", 50)
	takeOver(p.b, p.a, false)
	has(p.b, "b has a's flows again", 50)

	// a is active, and b's copies end; then a steps down, more of them end, and a is active
	// again.
	end := func(first, last uint16) {
		t.Helper()
		for port := first; port <= last; port++ {
			f := translated(port, 20000+port)
			p.b.kernel.remove(&f)
		}
		// A message sent after these ends has arrived.
		f := p.b.flow(last)
		p.b.kernel.create(&f)
		netnstest.Eventually(t, patience, "the ends have arrived", func() bool { return p.a.external()[entryOfFlow(&f)] })
		p.b.kernel.remove(&f)
	}
	end(1, 20)
	p.a.daemon.client("-t")
	p.a.daemon.client("-n")
	end(21, 50)
	if missing, _ := comparePorts(want, p.a.kernel.ports()); missing > 0 {
		t.Errorf("%d flows are gone from the kernel of a node whose peer has not taken over\n%s", missing, p.a.daemon.log())
	}
	p.a.daemon.client("-c")
	if missing, _ := comparePorts(want, p.a.kernel.ports()); missing > 0 {
		t.Errorf("%d flows are missing after the commit\n%s", missing, p.a.daemon.log())
	}
}

// TestOwnFlowsStay checks that a flow of a backup's own traffic stays when the peer's flow with
// the same tuple ends.
func TestOwnFlowsStay(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, clause("FTFW {\n}", ""), "")
	var flows [3]ctnetlink.Flow
	for i := range flows {
		flows[i] = p.a.flow(uint16(i + 1))
		p.a.kernel.create(&flows[i])
	}
	netnstest.Eventually(t, patience, "b has a's flows", func() bool { return len(p.b.external()) == 3 })
	takeOver(p.a, p.b, true)
	netnstest.Eventually(t, patience, "a has b's flows", func() bool { return len(p.a.external()) == 3 })
	p.a.kernel.remove(&flows[0])
	p.a.kernel.create(&flows[0])
	for i := range flows {
		p.b.kernel.remove(&flows[i])
	}
	want := map[uint16]bool{1: true}
	netnstest.Eventually(t, patience, "what b has ended is gone at a, and the flow that began there is not", func() bool {
		missing, stale := comparePorts(want, p.a.kernel.ports())
		if missing > 0 {
			t.Fatalf("a's own flow is gone\n%s", p.a.daemon.log())
		}
		return stale == 0 && len(p.a.external()) == 0
	})
}
