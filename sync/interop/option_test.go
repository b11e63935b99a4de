package interop

import (
	"fmt"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// clause returns a Sync clause over sync0 with IPv4 and UDP.
func clause(mode, options string) func(me, peer *side) string {
	return func(me, peer *side) string {
		return fmt.Sprintf("Mode %s\n%s%s\n", mode, udp(4, 0, "sync0", "")(me, peer), options)
	}
}

// both runs a test with both assignments of the programs to two different roles.
var both = []programs{{ours, ours}, {ours, debian}, {debian, ours}}

// startRoles starts a with one clause and b with the other.
func (p *pair) startRoles(who programs, a, b func(me, peer *side) string, general string) {
	p.t.Helper()
	p.a.daemon = newDaemon(p.t, p.a.ns, who[0], a(p.a.side, p.b.side), general)
	p.b.daemon = newDaemon(p.t, p.b.ns, who[1], b(p.b.side, p.a.side), general)
	p.a.daemon.start()
	p.b.daemon.start()
}

// TestWithoutInternalCache checks DisableInternalCache: events are sent as they arrive.
func TestWithoutInternalCache(t *testing.T) {
	for _, who := range both {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.startRoles(who, clause("NOTRACK {\n DisableInternalCache on\n}", ""), clause("NOTRACK {\n}", ""), "")
			p.b.connected(modes[1], transports[0])
			p.lifeOfFlow(func(when string) { p.b.follows(p.a, when) })
			f := p.a.flow(9)
			p.a.kernel.create(&f)
			p.b.follows(p.a, "before the flush")
			p.b.daemon.client("-f", "external")
			p.b.daemon.client("-n")
			p.b.follows(p.a, "asked for everything")
		})
	}
}

// TestExpectationsWithoutInternalCache checks that expectations are sent, shown and counted like
// flows, which conntrack-tools does not do.
func TestExpectationsWithoutInternalCache(t *testing.T) {
	p := newPair(t)
	p.startRoles(programs{ours, ours}, clause("NOTRACK {\n DisableInternalCache on\n}", withExpects), clause("NOTRACK {\n}", withExpects), "")
	p.a.startTraffic()
	p.b.follows(p.a, "an FTP session expects a connection")
	shown := p.a.daemon.client("-i", "expect")
	if strings.Count(shown, "\n") != 1 || !strings.Contains(shown, fmt.Sprintf(" dport=%d ", ftpData)) || strings.Contains(shown, "active since") {
		t.Errorf("-i expect: %q", shown)
	}
	var created, updated, destroyed int
	said := p.a.daemon.client("-s", "expect")
	if _, err := fmt.Sscanf(said, "internal bypass:\nconnections new: %d\nconnections updated: %d\nconnections destroyed: %d\n",
		&created, &updated, &destroyed); err != nil || created-destroyed != 1 {
		t.Errorf("%v: -s expect: %q", err, said)
	}
	p.b.daemon.client("-f", "external")
	p.b.daemon.client("-n")
	p.b.follows(p.a, "asked for everything")
}

// TestWithoutExternalCache checks DisableExternalCache: received flows go to the kernel at once.
func TestWithoutExternalCache(t *testing.T) {
	for _, mode := range []string{"FTFW", "NOTRACK"} {
		for _, who := range both {
			t.Run(mode+"/"+who.String(), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				m := modes[0]
				if mode == "NOTRACK" {
					m = modes[1]
				}
				p.startRoles(who, clause(mode+" {\n}", ""), clause(mode+" {\n DisableExternalCache on\n}", ""), "")
				p.b.connected(m, transports[0])
				p.lifeOfFlow(func(when string) {
					t.Helper()
					diff := ""
					defer func() {
						if t.Failed() {
							t.Logf("%s\n%s\n%s", diff, p.a.daemon.log(), p.b.daemon.log())
						}
					}()
					netnstest.Eventually(t, patience, "the kernel of b has a's flows, "+when, func() bool {
						diff = difference(p.a.kernel.entries(), p.b.kernel.entries())
						return diff == ""
					})
				})
			})
		}
	}
}

// lifeOfFlow creates, changes and removes flows behind a.
func (p *pair) lifeOfFlow(replicated func(when string)) {
	p.t.Helper()
	plain, translated := p.a.flow(1), p.a.flow(2)
	translated.Has |= ctnetlink.HasNATSrc
	translated.NATSrc = ctnetlink.NAT{HasAddr: true, Port: 40001, HasPort: true}
	_, translated.NATSrc.Addr = parseAddr(p.a.outside)
	p.a.kernel.create(&plain)
	p.a.kernel.create(&translated)
	replicated("created")
	for _, f := range []*ctnetlink.Flow{&plain, &translated} {
		change := marked(f, 5)
		change.Has |= ctnetlink.HasTCPState
		change.TCPState = 4 // FIN_WAIT
		p.a.kernel.change(change)
	}
	replicated("changed")
	p.a.kernel.remove(&plain)
	p.a.kernel.remove(&translated)
	replicated("removed")
}

// TestCommitIsNotAnnounced checks that the changes of a commit are not announced to the peer
// that the flows came from.
func TestCommitIsNotAnnounced(t *testing.T) {
	for _, who := range both {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(who, clause("NOTRACK {\n}", ""), "")
			p.each(func(n, _ *node) { n.connected(modes[1], transports[0]) })
			f := p.a.flow(1)
			p.a.kernel.create(&f)
			p.replicated("created")
			p.b.daemon.commit()
			after := p.b.flow(2)
			p.b.kernel.create(&after)
			p.replicated("created after the commit")
		})
	}
}

// TestTimeouts checks that a committed flow gets CommitTimeout, and that -t flushes the kernel
// after PurgeTimeout.
func TestTimeouts(t *testing.T) {
	for _, who := range both {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(who, clause("FTFW {\n}", "CommitTimeout 180\nPurgeTimeout 1\n"), "")
			f := p.a.flow(1)
			p.a.kernel.create(&f)
			p.replicated("created")
			p.b.daemon.commit()
			flows := p.b.kernel.flows()
			if len(flows) != 1 || flows[0].Timeout > 180 || flows[0].Timeout < 100 {
				t.Errorf("committed flows %+v, want one with the timeout 180", flows)
			}
			p.b.daemon.client("-t")
			netnstest.Eventually(t, patience, "the kernel of b is empty after PurgeTimeout", func() bool { return len(p.b.kernel.flows()) == 0 })
		})
	}
}

// TestStartupResync checks that a node requests everything at its start.
func TestStartupResync(t *testing.T) {
	for _, mode := range []string{"FTFW", "NOTRACK"} {
		for _, who := range both {
			t.Run(mode+"/"+who.String(), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.a.daemon = newDaemon(t, p.a.ns, who[0], clause(mode+" {\n StartupResync on\n}", "")(p.a.side, p.b.side), "")
				p.b.daemon = newDaemon(t, p.b.ns, who[1], clause(mode+" {\n StartupResync on\n}", "")(p.b.side, p.a.side), "")
				f := p.a.flow(1)
				p.a.kernel.create(&f)
				p.a.daemon.start()
				p.b.daemon.start()
				p.replicated("started")
			})
		}
	}
}

// TestStartingNodeGetsEverything checks that a node that starts gets everything without a
// command, also from a C daemon, which sends nothing unasked.
func TestStartingNodeGetsEverything(t *testing.T) {
	for _, who := range pairings {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(who, clause("FTFW {\n}", ""), "")
			p.each(func(n, _ *node) { f := n.flow(1); n.kernel.create(&f) })
			p.replicated("created")
			p.a.daemon.stop()
			p.a.daemon.start()
			p.a.follows(p.b, "a has started again")
		})
	}
}

// TestWindowTracking checks that a committed flow has the origin's window scales with
// TCPWindowTracking, and the flag BE_LIBERAL without it.
func TestWindowTracking(t *testing.T) {
	for _, on := range []string{"on", "off"} {
		for _, who := range both {
			t.Run(on+"/"+who.String(), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.start(who, clause("FTFW {\n}", "Options {\n TCPWindowTracking "+on+"\n}"), "")
				f := p.a.flow(1)
				f.Has |= ctnetlink.HasTCPWScaleOrig | ctnetlink.HasTCPWScaleReply | ctnetlink.HasTCPFlagsOrig | ctnetlink.HasTCPFlagsReply
				f.TCPWScaleOrig, f.TCPWScaleRepl = 7, 10
				// The kernel sends a scale only if its flag is set.
				f.TCPFlagsOrig = ctnetlink.TCPFlags{Value: ctnetlink.TCPFlagWindowScale, Mask: ctnetlink.TCPFlagWindowScale}
				f.TCPFlagsReply = f.TCPFlagsOrig
				p.a.kernel.create(&f)
				p.replicated("created")
				p.b.daemon.commit()
				flows := p.b.kernel.flows()
				if len(flows) != 1 {
					t.Fatalf("committed flows %+v", flows)
				}
				got := &flows[0]
				if on == "on" && who[1] == debian {
					// It sets the scales without the flags that the kernel requires
					// with them, and so restores no scale.
					return
				}
				scaled := got.TCPWScaleOrig == 7 && got.TCPWScaleRepl == 10
				liberal := got.TCPFlagsOrig.Value&ctnetlink.TCPFlagBeLiberal != 0 && got.TCPFlagsReply.Value&ctnetlink.TCPFlagBeLiberal != 0
				if scaled != (on == "on") || liberal != (on == "off") {
					t.Errorf("window scales %d and %d, flags %+v and %+v", got.TCPWScaleOrig, got.TCPWScaleRepl, got.TCPFlagsOrig, got.TCPFlagsReply)
				}
			})
		}
	}
}

// TestFilters checks that ignored flows are not replicated, with the filter in the kernel or in
// the daemon, and that the ends of replicated flows always are. (Debian's daemon keeps a flow
// forever if its filter ignores the last state.)
func TestFilters(t *testing.T) {
	for _, where := range []string{"Userspace", "Kernelspace"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(programs{ours, debian}, clause("FTFW {\n}", ""), fmt.Sprintf(`Filter From %s {
		Protocol Accept {
			TCP
		}
		Address Ignore {
			IPv4_address %s
		}
		State Accept {
			ESTABLISHED for TCP
		}
	}`, where, p.a.host4(2)))
			wanted, other := p.a.flow(1), p.a.flow(2)
			_, other.Orig.Src = parseAddr(p.a.host4(2))
			other.Reply = other.Orig.Inverted()
			third := p.a.flow(3)
			third.TCPState = 1 // SYN_SENT
			udp := p.a.flow(4)
			udp.Has &^= ctnetlink.HasTCPState
			udp.Orig.Proto = ctnetlink.ProtoUDP
			udp.Reply = udp.Orig.Inverted()
			for _, f := range []*ctnetlink.Flow{&other, &third, &udp, &wanted} {
				p.a.kernel.create(f)
			}
			replicates := func(want ...entry) {
				t.Helper()
				set := map[entry]bool{}
				for _, e := range want {
					set[e] = true
				}
				diff := ""
				defer func() {
					if t.Failed() {
						t.Log(diff)
					}
				}()
				netnstest.Eventually(t, patience, fmt.Sprintf("b knows %d flows", len(want)), func() bool {
					diff = difference(set, p.b.external())
					return diff == ""
				})
			}
			replicates(entryOfFlow(&wanted))
			closing := ctnetlink.Flow{Orig: wanted.Orig, Has: ctnetlink.HasTCPState, TCPState: ctnetlink.TCPStateTimeWait}
			p.a.kernel.change(&closing)
			p.a.kernel.remove(&wanted)
			replicates()
		})
	}
}

// TestPolling checks that without events the kernel's table is read every PollSecs.
func TestPolling(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, debian}, clause("FTFW {\n}", ""), "PollSecs 1")
	p.lifeOfFlow(func(when string) { p.b.follows(p.a, when) })
	if log := p.a.daemon.log(); !strings.Contains(log, "running in polling mode") {
		t.Error(log)
	}
}
