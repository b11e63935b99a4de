package interop

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// mode is a replication mode with the options that the scenario needs.
type mode struct {
	name    string
	options string
	// dialogue is set if nodes can request everything (-n, -B). In ALARM mode everything
	// is announced periodically instead.
	dialogue bool
}

var modes = []mode{
	{"FTFW", "ACKWindowSize 20", true},
	{"NOTRACK", "", true},
	{"ALARM", "RefreshTime 2\n\tCacheTimeout 120", false},
}

type transport struct {
	name   string
	clause func(me, peer *side) string
}

var transports = []transport{
	{"UDP-IPv4", udp(4, 0, "sync0", "")},
	{"UDP-IPv6", udp(6, 0, "sync0", "")},
	{"multicast-IPv4", multicast(4)},
	{"multicast-IPv6", multicast(6)},
}

var overTCP = []transport{{"TCP-IPv4", tcp(4)}, {"TCP-IPv6", tcp(6)}}

func syncClause(m mode, tr transport, more string) func(me, peer *side) string {
	return func(me, peer *side) string {
		return fmt.Sprintf("Mode %s {\n\t%s\n}\n%s%s\n", m.name, m.options, tr.clause(me, peer), more)
	}
}

const withExpects = "Options {\n\tExpectationSync on\n}"

// chosen is the subset of combinations for short runs: each mode with both programs, and one of
// each other transport and family.
var chosen = []string{"TCP-IPv4/ours+Debian", "FTFW/multicast-IPv6/ours+Debian"}

func isChosen(name string) bool {
	return netnstest.Long || strings.Contains(name, "/UDP-IPv4/") ||
		slices.ContainsFunc(chosen, func(part string) bool { return strings.HasSuffix(name, part) })
}

// TestMatrix runs the scenario on every combination.
func TestMatrix(t *testing.T) {
	for _, m := range modes {
		trs := transports
		if m.name == "NOTRACK" {
			trs = append(trs[:len(trs):len(trs)], overTCP...)
		}
		for _, tr := range trs {
			for _, who := range pairings {
				name := fmt.Sprintf("%s/%s/%s", m.name, tr.name, who)
				if !isChosen(name) {
					continue
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					p := newPair(t)
					p.start(who, syncClause(m, tr, withExpects), "")
					p.each(func(n, _ *node) { n.connected(m, tr) })
					(&scenario{pair: p, mode: m, transport: tr}).run()
				})
			}
		}
	}
}

// connected waits, in NOTRACK mode, until n has heard its peer and, over TCP, is connected in
// both directions: earlier messages would be lost. n must be the node that was started last;
// the other node may not have noticed yet that its connections are dead.
func (n *node) connected(m mode, tr transport) {
	n.daemon.t.Helper()
	if m.name != "NOTRACK" {
		return
	}
	netnstest.Eventually(n.daemon.t, patience, n.daemon.name()+" hears its peer", func() bool {
		text := n.daemon.ask(statsFlows)
		if strings.HasPrefix(tr.name, "TCP") && !strings.Contains(text, "server=connected client=connected") {
			return false
		}
		_, received, _ := strings.Cut(text, "Pckts sent")
		return count(n.daemon.t, received, "") > 0
	})
}

// scenario is a sequence of changes by flows, operators and machines.
type scenario struct {
	*pair
	mode      mode
	transport transport
	samples   map[*node][]sample
}

func (s *scenario) run() {
	s.t.Helper()
	s.create()
	s.change()
	s.traffic()
	s.askAgain()
	s.restart()
	s.commit()
	s.flushKernel()
	s.remove()
}

// create creates all samples on both sides.
func (s *scenario) create() {
	s.t.Helper()
	s.samples = map[*node][]sample{}
	s.each(func(n, _ *node) {
		s.samples[n] = n.samples()
		for i := range s.samples[n] {
			n.kernel.create(&s.samples[n][i].flow)
		}
	})
	s.replicated("created")
}

// change gives every flow another mark, and TCP flows another state.
func (s *scenario) change() {
	s.t.Helper()
	s.each(func(n, _ *node) {
		for i := range s.samples[n] {
			f := &s.samples[n][i].flow
			change := ctnetlink.Flow{Orig: f.Orig, Has: f.Has&ctnetlink.HasZone | ctnetlink.HasMark, Zone: f.Zone, Mark: uint32(i + 1)}
			if f.Has&ctnetlink.HasTCPState != 0 {
				change.Has |= ctnetlink.HasTCPState
				change.TCPState = 4 // FIN_WAIT
			}
			n.kernel.change(&change)
		}
	})
	s.replicated("changed")
}

// traffic adds flows and expectations of real traffic.
func (s *scenario) traffic() {
	s.t.Helper()
	s.each(func(n, _ *node) { n.startTraffic() })
	s.replicated("real traffic")
}

// askAgain empties the external caches and fills them again: a requests everything from b, and
// then sends everything to b unasked.
func (s *scenario) askAgain() {
	s.t.Helper()
	s.a.daemon.client("-f", "external")
	s.a.daemon.client("-n")
	s.replicated("asked for everything")
	s.b.daemon.client("-f", "external")
	s.a.daemon.client("-B")
	s.replicated("told everything")
	asked := strings.Contains(s.a.daemon.log(), "] resync requested\n")
	if asked != s.mode.dialogue {
		s.t.Errorf("after -n in mode %s a has asked: %v\n%s", s.mode.name, asked, s.a.daemon.log())
	}
}

// restart stops b and kills a. Each gets the other's flows back, by its own request or
// unasked.
func (s *scenario) restart() {
	s.t.Helper()
	s.b.daemon.stop()
	s.b.daemon.start()
	s.b.connected(s.mode, s.transport)
	s.b.daemon.client("-n")
	s.replicated("b has restarted")
	s.a.daemon.kill()
	s.a.daemon.start()
	s.a.connected(s.mode, s.transport)
	s.b.daemon.client("-B")
	s.replicated("a was killed and started")
}

// flushKernel empties a's kernel. b must keep its entries of a: the flush may be part of b's
// takeover.
func (s *scenario) flushKernel() {
	s.t.Helper()
	known := about(s.b.external(), s.a.side)
	s.a.daemon.client("-F")
	netnstest.Eventually(s.t, patience, "the kernel and the internal cache of a are empty", func() bool {
		return len(s.a.kernel.flows()) == 0 && len(s.a.internal()) == 0
	})
	// The next flow that b receives comes after every message that the flush caused.
	f := s.samples[s.a][0].flow
	f.Orig.SrcPort++
	f.Reply = f.Orig.Inverted()
	s.a.kernel.create(&f)
	known[entryOfFlow(&f)] = true
	netnstest.Eventually(s.t, patience, "b hears of a flow after the flush", func() bool { return s.b.external()[entryOfFlow(&f)] })
	if d := difference(known, about(s.b.external(), s.a.side)); d != "" {
		s.t.Errorf("a flush of a's kernel changed the external cache of b:\n%s", d)
	}
	s.a.kernel.remove(&f)
}

// commit brings the flows and expectations of each side into the kernel of the
// other, and compares the two kernels.
func (s *scenario) commit() {
	s.t.Helper()
	s.each(func(from, to *node) {
		to.daemon.commit()
		s.compareKernels(from, to)
		s.compareExpects(from, to)
	})
	if s.t.Failed() {
		s.t.Logf("logs:\n%s\n%s", s.a.daemon.log(), s.b.daemon.log())
	}
	// Committed flows are part of a bulk, and a peer that has just started may still be
	// requesting one.
	s.told = true
	s.replicated("committed")
	s.each(func(n, _ *node) {
		netnstest.Eventually(s.t, patience, n.daemon.name()+": the internal cache is the kernel's table after the commit",
			func() bool { return difference(n.kernel.entries(), n.internal()) == "" })
	})
}

func (s *scenario) compareKernels(from, to *node) {
	s.t.Helper()
	there := map[identity]ctnetlink.Flow{}
	for _, f := range to.kernel.flows() {
		there[identityOf(&f)] = f
	}
	names := map[identity]string{}
	for _, x := range s.samples[from] {
		names[identityOf(&x.flow)] = x.name
	}
	for _, f := range from.kernel.flows() {
		if !from.ownsTuple(&f.Orig) {
			continue
		}
		got, ok := there[identityOf(&f)]
		if !ok {
			s.t.Errorf("%s: %s is not in the kernel of %s", names[identityOf(&f)], entryOfFlow(&f), to.daemon.name())
		} else if d := compareFlows(&f, &got, to.daemon.program); d != "" {
			s.t.Errorf("%s: %s in the kernel of %s:%s", names[identityOf(&f)], entryOfFlow(&f), to.daemon.name(), d)
		}
	}
}

func (s *scenario) compareExpects(from, to *node) {
	s.t.Helper()
	// Debian's daemon restores neither class nor NAT of expectations.
	whole := to.daemon.program == ours
	there := map[string]bool{}
	for _, x := range to.kernel.expects() {
		there[expectKey(&x, whole)] = true
	}
	for _, x := range from.kernel.expects() {
		if from.ownsTuple(&x.Master) && !there[expectKey(&x, whole)] {
			s.t.Errorf("%s has not the expectation %s but %v", to.daemon.name(), expectKey(&x, whole), there)
		}
	}
}

// remove ends the flows of b.
func (s *scenario) remove() {
	s.t.Helper()
	for i := range s.samples[s.b] {
		s.b.kernel.remove(&s.samples[s.b][i].flow)
	}
	s.a.follows(s.b, "removed")
}
