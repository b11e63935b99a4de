package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// TestBadWire changes flows while the wire loses, duplicates, reorders and corrupts packets.
// Afterwards FT-FW must have recovered everything, over every transport.
func TestBadWire(t *testing.T) {
	for _, c := range []struct {
		name       string
		faults     faults
		transports []transport
	}{
		{"loss", faults{loss: 15}, transports[:1]},
		{"duplication", faults{duplicate: 30}, transports[:1]},
		{"reordering", faults{reorder: 30}, transports[:1]},
		{"corruption", faults{corrupt: 10}, transports[:1]},
		{"all", faults{loss: 15, duplicate: 10, reorder: 10, corrupt: 5}, transports},
	} {
		for _, tr := range c.transports {
			for _, who := range pairings {
				t.Run(fmt.Sprintf("%s/%s/%s", c.name, tr.name, who), func(t *testing.T) {
					t.Parallel()
					overBadWire(t, c.faults, tr, who)
				})
			}
		}
	}
}

func overBadWire(t *testing.T, f faults, tr transport, who programs) {
	t.Helper()
	p := newUnlinkedPair(t)
	w := p.connect(faults{})
	p.start(who, syncClause(modes[0], tr, ""), "")
	// The C daemon detects no loss before the exchange of HELLOs is complete.
	p.each(func(n, _ *node) { f := n.flow(1); n.kernel.create(&f) })
	p.replicated("before the faults")
	w.set(f)
	flows := p.churn(func() { w.awaitMore(t, 2) })
	// A last change of every flow makes a receiver detect earlier losses, if it arrives: the C
	// daemon only recovers from a loss that a later message reveals.
	w.set(faults{})
	p.each(func(n, _ *node) {
		for i := range flows[n] {
			n.kernel.change(marked(&flows[n][i], 77))
		}
	})
	p.replicated("after the faults")
	if w.harm() < 5 {
		t.Errorf("only %d of %d packets were spoilt", w.harm(), w.carried())
	}
}

// churn creates, changes and removes flows on both sides and returns the remaining ones.
// between is called after each round.
func (p *pair) churn(between func()) map[*node][]ctnetlink.Flow {
	p.t.Helper()
	const rounds, perRound = 20, 20
	left := map[*node][]ctnetlink.Flow{}
	for round := range rounds {
		p.each(func(n, _ *node) {
			for i := range perRound {
				f := n.flow(uint16(1000 + round*perRound + i))
				n.kernel.create(&f)
				n.kernel.change(marked(&f, uint32(round+1)))
				if i%2 == 0 {
					n.kernel.remove(&f)
				} else {
					left[n] = append(left[n], f)
				}
			}
		})
		between()
	}
	return left
}

// flow returns a plain TCP flow of the side.
func (s *side) flow(port uint16) ctnetlink.Flow {
	f := ctnetlink.Flow{Has: ctnetlink.HasStatus | ctnetlink.HasTimeout | ctnetlink.HasTCPState, Status: ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured,
		Timeout: 3000, TCPState: ctnetlink.TCPStateEstablished}
	t := &f.Orig
	t.Has, t.Proto = ctnetlink.TupleAddrs|ctnetlink.TupleProto|ctnetlink.TuplePorts, ctnetlink.ProtoTCP
	t.Family, t.Src = parseAddr(s.host4(1))
	_, t.Dst = parseAddr(s.host4(server))
	t.SrcPort, t.DstPort = port, 80
	f.Reply = f.Orig.Inverted()
	return f
}

// marked returns the change that gives f a mark.
func marked(f *ctnetlink.Flow, mark uint32) *ctnetlink.Flow {
	return &ctnetlink.Flow{Orig: f.Orig, Has: ctnetlink.HasMark, Mark: mark}
}

// TestFailover removes the first of two dedicated links: replication continues over the second,
// and returns to the first when the second is removed.
func TestFailover(t *testing.T) {
	for _, who := range pairings {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.link("sync1", 1)
			p.start(who, func(me, peer *side) string {
				return "Mode FTFW {\n}\n" + udp(4, 0, "sync0", "Default")(me, peer) + udp(4, 1, "sync1", "")(me, peer)
			}, "")
			add := func(port uint16) {
				p.each(func(n, _ *node) { f := n.flow(port); n.kernel.create(&f) })
			}
			add(1)
			p.replicated("on the first link")
			for round, dev := range []string{"sync0", "sync1"} {
				other := [2]string{"sync1", "sync0"}[round]
				p.a.ns.IP("link", "set", dev, "down")
				add(uint16(10 * (round + 1)))
				p.replicated("without " + dev)
				p.each(func(n, _ *node) {
					netnstest.Eventually(t, patience, n.daemon.name()+" sends on "+other, func() bool {
						return strings.Contains(n.daemon.ask(statsFlows), fmt.Sprintf("(active device=%s)", other))
					})
				})
				p.a.ns.IP("link", "set", dev, "up")
			}
		})
	}
}

// TestTranslatedTupleTaken commits a flow whose translated address and port another flow of the
// backup uses. That flow fails, is named and counted; the rest is committed. (With the C daemon
// the kernel picks another port, without a message.)
func TestTranslatedTupleTaken(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""), "")
	translated := p.a.flow(1)
	translated.Has |= ctnetlink.HasNATSrc
	translated.NATSrc = ctnetlink.NAT{HasAddr: true, Port: 40001, HasPort: true}
	_, translated.NATSrc.Addr = parseAddr(p.a.outside)
	p.a.kernel.create(&translated)
	plain := p.a.flow(2)
	p.a.kernel.create(&plain)
	// The answer to this one would go to the same address and port.
	taken := p.b.flow(40001)
	_, taken.Orig.Src = parseAddr(p.a.outside)
	taken.Orig.Dst = translated.Orig.Dst
	taken.Reply = taken.Orig.Inverted()
	p.b.kernel.create(&taken)
	p.b.follows(p.a, "created")
	r := p.b.ns.Run("", ours.path(t), "-C", p.b.daemon.path("conf"), "-c")
	log := p.b.daemon.log()
	if r.Code != 0 || !strings.Contains(r.Stderr, "1 of 2 entries can't be committed") || !strings.Contains(log, "commit-create: ") || !strings.Contains(log, "sport=1 dport=80") ||
		!strings.Contains(log, "Committed 1 new entries") || !strings.Contains(log, "1 entries can't be committed") {
		t.Errorf("-c: %+v\n%s", r, log)
	}
}

// TestLimitReached checks that a peer with more flows than HashLimit does no harm, and that the
// excess flows are counted.
func TestLimitReached(t *testing.T) {
	const limit, flows = 64, 100
	for _, who := range pairings {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(who, syncClause(modes[1], transports[0], ""), fmt.Sprintf("HashLimit %d", limit))
			p.each(func(n, _ *node) { n.connected(modes[1], transports[0]) })
			for i := range flows {
				f := p.b.flow(uint16(1 + i))
				p.b.kernel.create(&f)
			}
			netnstest.Eventually(t, patience, "both caches are full and the rest is counted", func() bool {
				text := p.b.daemon.ask(statsCache)
				return count(t, text, "no space left in cache:") == flows-limit && len(p.b.internal()) == limit && len(p.a.external()) == limit
			})
		})
	}
}

// TestLimitWhileAway checks that ended flows whose ends no peer acknowledges do not keep new
// flows out of the cache, and that a returning peer gets the new flows.
func TestLimitWhileAway(t *testing.T) {
	const limit = 64
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""), fmt.Sprintf("HashLimit %d", limit))
	first := p.a.flow(1)
	p.a.kernel.create(&first)
	p.b.follows(p.a, "before b is away")
	p.b.daemon.stop()
	for i := range limit / 4 {
		for j := range limit / 4 {
			f := p.a.flow(uint16(100 + j))
			p.a.kernel.create(&f)
			p.a.kernel.remove(&f)
		}
		// The daemon has not sent anything while it reads a batch of events.
		f := p.a.flow(uint16(1000 + i))
		p.a.kernel.create(&f)
		netnstest.Eventually(t, patience, "a knows a flow that began while b is away", func() bool { return p.a.internal()[entryOfFlow(&f)] })
	}
	p.b.daemon.start()
	p.b.follows(p.a, "when b is back")
	if lost := count(t, p.a.daemon.ask(statsCache), "no space left in cache:"); lost != 0 {
		t.Errorf("%d flows were refused", lost)
	}
}

// TestOverrun loses events in a buffer that is too small: a resynchronisation
// finds new flows and those whose end was lost.
func TestOverrun(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""), "")
	p.a.daemon.stop()
	p.a.daemon.configure(syncClause(modes[0], transports[0], "")(p.a.side, p.b.side),
		"NetlinkBufferSize 2304\n\tNetlinkBufferSizeMaxGrowth 2304\n\tNetlinkBufferSizeFixed on\n\tNetlinkOverrunResync 1")
	p.a.daemon.start()
	deadline := time.Now().Add(patience)
	for port := uint16(1); ; port++ {
		f := p.a.flow(port)
		p.a.kernel.create(&f)
		if port%2 == 0 {
			p.a.kernel.remove(&f)
		}
		if port%500 == 0 && count(t, p.a.daemon.ask(statsRuntime), "netlink overrun:") > 0 {
			break
		}
		if time.Now().After(deadline) || port == 60000 {
			t.Fatal("no event is lost")
		}
	}
	p.b.follows(p.a, "after the overrun")
}

// TestCommitLosesNothing commits more flows than the buffer has room for events. The internal
// cache must equal the kernel's table anyway, without waiting for the resynchronisation after
// an overrun.
func TestCommitLosesNothing(t *testing.T) {
	t.Parallel()
	const flows = 5000
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""), "")
	p.b.daemon.stop()
	p.b.daemon.configure(syncClause(modes[0], transports[0], "")(p.b.side, p.a.side),
		"NetlinkBufferSize 2304\n\tNetlinkBufferSizeMaxGrowth 2304\n\tNetlinkBufferSizeFixed on\n\tNetlinkOverrunResync 3600")
	p.b.daemon.start()
	for port := range flows {
		f := p.a.flow(uint16(1000 + port))
		p.a.kernel.create(&f)
	}
	p.b.follows(p.a, "created")
	p.b.daemon.commit()
	if n := len(p.b.kernel.flows()); n != flows {
		t.Errorf("%d flows in the kernel, want %d", n, flows)
	}
	diff := ""
	defer func() {
		if t.Failed() {
			t.Logf("%s\n%s", diff, p.b.daemon.log())
		}
	}()
	netnstest.Eventually(t, patience, "the internal cache is the kernel's table", func() bool {
		diff = difference(p.b.kernel.entries(), p.b.internal())
		return diff == ""
	})
	if count(t, p.b.daemon.ask(statsRuntime), "netlink overrun:") == 0 {
		t.Error("no event was lost")
	}
}
