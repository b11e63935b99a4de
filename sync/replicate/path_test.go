package replicate

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/seeds"
	"ctbox/sync/wire"
)

var pathSeed = flag.Uint64("pathseed", 0, "run the simulation of probes with this seed only")

// pathSim is a node, its peers, and the ways between them, in virtual time.
type pathSim struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	prober prober
	size   int
	peers  []*pathPeer
	sent   int
}

// pathPeer is a peer with the way to it. It announces something each second.
type pathPeer struct {
	way
	speaks   bool // it is a ctbox daemon
	limit    int  // larger messages do not reach it
	cut      bool // nothing does
	loss     int  // percent, both ways
	last     time.Duration
	probed   uint32
	probedIn int
	failures int // that the node has reported
	again    int
	deafened int
}

func (s *pathSim) lost(p *pathPeer) bool { return s.rng.IntN(100) < p.loss }

// run lets time pass in steps.
func (s *pathSim) run(d time.Duration) {
	const tick = 250 * time.Millisecond
	for end := s.now + d; s.now < end; s.now += tick {
		ways := make([]*way, len(s.peers))
		for i, p := range s.peers {
			ways[i] = &p.way
		}
		probe := s.prober.step(s.now, 0, s.size, ways, func(i int) { s.peers[i].failures++ })
		if probe {
			s.sent++
		}
		for _, p := range s.peers {
			small := s.now%time.Second == 0 && !p.cut && !s.lost(p)
			large := probe && !p.cut && s.size <= p.limit && !s.lost(p)
			if small || large {
				p.last = s.now
			}
			if large {
				p.probed, p.probedIn = s.prober.number, s.size
			}
			if (s.now%time.Second == tick || large) && p.speaks && !s.lost(p) {
				if p.hears(s.now, s.now-p.last) && p.oneWay {
					p.deafened++
				}
				if p.probed != 0 && s.prober.answered(&p.way, p.probed, p.probedIn) {
					p.again++
				}
			}
		}
	}
}

// expect checks what the node says of each peer.
func (s *pathSim) expect(what string) {
	s.t.Helper()
	for i, p := range s.peers {
		want := PathWhole
		switch {
		case !p.speaks || s.size == 0:
			want = PathUntested
		case p.cut:
			want = p.path // nothing is known any more
		case s.size > p.limit:
			want = PathBroken
		}
		if p.path != want || p.oneWay != (p.speaks && p.cut) {
			s.t.Errorf("%s: peer %d is %v, one-way %v; want %v, %v", what, i, p.path, p.oneWay, want, p.cut)
		}
	}
}

// TestPaths changes the ways to peers at random and checks that after a while the node knows
// each, that it says each change once, and how much it sends.
func TestPaths(t *testing.T) {
	first, last := uint64(1), seeds.Count(100)
	if *pathSeed != 0 {
		first, last = *pathSeed, *pathSeed
	}
	for seed := first; seed <= last && !t.Failed(); seed++ {
		s := &pathSim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), size: 1472}
		for range 1 + s.rng.IntN(3) {
			s.peers = append(s.peers, &pathPeer{speaks: s.rng.IntN(4) > 0, limit: 1472, loss: s.rng.IntN(6)})
		}
		s.run(30 * time.Second)
		s.expect("at the start")
		for _, p := range s.peers {
			if p.failures+p.again+p.deafened > 0 {
				t.Errorf("a whole way was called broken %d times and one-way %d times", p.failures, p.deafened)
			}
		}
		for range 4 {
			p := s.peers[s.rng.IntN(len(s.peers))]
			before := *p
			switch s.rng.IntN(3) {
			case 0:
				p.limit = []int{1472, 1400, 576}[s.rng.IntN(3)]
			case 1:
				p.cut = !p.cut
			case 2:
				s.size = []int{1472, 8972, 1452, 0}[s.rng.IntN(4)]
			}
			s.run(probePeriod + 10*time.Second)
			if p.deafened-before.deafened > 1 || p.failures-before.failures > 1 || p.again-before.again > 1 {
				t.Errorf("a change of a way was said more than once: %+v, before %+v", p, before)
			}
		}
		for _, p := range s.peers {
			p.cut = false
		}
		s.run(probeRetry + 30*time.Second)
		s.run(probePeriod)
		s.expect("at the end")
		if most := int(s.now/probeRetry)*probeTries + 8*probeTries; s.sent > most {
			t.Errorf("%d probes in %v", s.sent, s.now)
		}
		if t.Failed() {
			t.Logf("repeat with -pathseed %d", seed)
		}
	}
}

// A node that is not heard is believed to be so only after a while, and not right after its own
// start.
func TestOneWay(t *testing.T) {
	var w way
	for _, step := range []struct {
		at, nothing time.Duration
		want        bool
	}{
		{time.Second, time.Minute, false},                // it has just started
		{6 * time.Second, time.Minute, false},            // the first time
		{8 * time.Second, time.Minute, false},            // not for long enough
		{9 * time.Second, 100 * time.Millisecond, false}, // both directions were cut
		{20 * time.Second, peerQuiet, false},
		{23 * time.Second, peerQuiet + 3*time.Second, true},
		{30 * time.Second, 15 * time.Second, true},
		{31 * time.Second, peerQuiet - 1, false},
	} {
		before := w.oneWay
		if changed := w.hears(step.at, step.nothing); w.oneWay != step.want || changed != (before != step.want) {
			t.Errorf("at %v, nothing for %v: %v, changed %v", step.at, step.nothing, w.oneWay, changed)
		}
	}
}

// A peer that greets for as long as that hears no answer.
func TestOneWayGreetings(t *testing.T) {
	var w way
	for _, step := range []struct {
		at          time.Duration
		hello, want bool
	}{
		{0, true, false}, {time.Second, true, false}, {7 * time.Second, true, false},
		{8*time.Second + 1, true, true}, {9 * time.Second, true, true}, {10 * time.Second, false, false},
		{11 * time.Second, true, false}, {12 * time.Second, false, false}, {30 * time.Second, true, false},
	} {
		before := w.oneWay
		if changed := w.greeted(step.at, step.hello); w.oneWay != step.want || changed != (before != step.want) {
			t.Errorf("at %v, hello %v: %v, changed %v", step.at, step.hello, w.oneWay, changed)
		}
	}
	// What its notices say stays.
	w = way{oneWay: true}
	if w.greeted(time.Minute, false) || !w.oneWay {
		t.Error("a message without HELLO ended what a notice had said")
	}
}

// Answers to earlier rounds, or about another size, prove nothing.
func TestLateAnswers(t *testing.T) {
	w := way{answers: true}
	p := prober{number: 1<<32 - 2} // numbers wrap around
	none := func(int) { t.Error("a way is called broken") }
	for at, want := range map[int]bool{0: true} {
		if got := p.step(time.Duration(at), 0, 1472, []*way{&w}, none); got != want {
			t.Fatalf("a probe is sent: %v", got)
		}
	}
	for _, c := range []struct {
		probe uint32
		size  int
	}{{1<<32 - 2, 1472}, {1<<32 - 1, 1400}, {0, 1472}} {
		if p.answered(&w, c.probe, c.size); w.path != PathUntested {
			t.Errorf("%+v is taken for an answer", c)
		}
	}
	if p.answered(&w, 1<<32-1, 1472); w.path != PathWhole || w.size != 1472 {
		t.Errorf("the answer is not taken: %+v", w)
	}
}

// couple is two idle nodes in virtual time, a and b, and the ways between them.
type couple struct {
	a, b         *listener
	cut, narrow  bool // from a to b: nothing arrives, or only what is short
	datagrams    int
	longest      int
	aAddr, bAddr netip.Addr
}

func newCouple(t *testing.T, mode conf.Mode) *couple {
	c := &couple{a: newListener(t, mode, 1), b: newListener(t, mode, 1), aAddr: netip.MustParseAddr("192.0.2.1"), bAddr: netip.MustParseAddr("192.0.2.2")}
	for _, l := range []*listener{c.a, c.b} {
		l.packer = wire.NewPacker(l.links.all[0].Capacity())
	}
	return c
}

// pass lets time pass; messages arrive at once.
func (c *couple) pass(d time.Duration) {
	for end := c.a.sched.Now() + d; c.a.sched.Now() < end; {
		for _, l := range []*listener{c.a, c.b} {
			l.sched.SetNow(l.sched.Now() + 100*time.Millisecond)
			if now := l.sched.Now(); now >= l.machine.Deadline() {
				l.protocolEvents(l.external, l.machine.Tick(now))
			}
			if (pathSource{l.Replicator}).Due() <= l.sched.Now() {
				_ = (pathSource{l.Replicator}).Run()
			}
			if at := l.hearing.next; l.sched.Now() >= at {
				l.checkPeers(at)
			}
		}
		for range 3 { // answers to answers
			c.carry(c.a, c.b, c.aAddr, c.cut, c.narrow)
			c.carry(c.b, c.a, c.bAddr, false, false)
		}
	}
}

func (c *couple) carry(from, to *listener, addr netip.Addr, cut, narrow bool) {
	for {
		s, ok := from.machine.Next()
		if !ok {
			break
		}
		from.packer.Add(from.encode(from.packer.Buffer(), &s))
	}
	for i := range from.packer.Datagrams() {
		b := from.packer.Datagram(i)
		c.datagrams++
		c.longest = max(c.longest, len(b))
		if cut || narrow && len(b) > 500 {
			continue
		}
		reader := wire.ReadDatagram(b)
		for m, ok := reader.Next(&to.received); ok; m, ok = reader.Next(&to.received) {
			to.takeMessage(0, addr, &m)
		}
	}
	if from.packer.Datagrams() > 0 {
		from.packer.Reset()
		from.machine.Sent(from.sched.Now() + time.Millisecond) // sending takes a while
	}
}

func (c *couple) wayToB() way { return c.a.peers[c.bAddr].way }

// TestTwoNodesTestTheirPaths has two nodes find out about the ways between them.
func TestTwoNodesTestTheirPaths(t *testing.T) {
	for _, mode := range []conf.Mode{conf.ModeFTFW, conf.ModeNOTRACK} {
		c := newCouple(t, mode)
		c.pass(30 * time.Second)
		if w := c.wayToB(); w.oneWay || w.path != PathWhole || w.size != 548 || c.longest != 548 {
			t.Errorf("%v: the way is %+v, the longest datagram %d", mode, w, c.longest)
		}
		before := c.datagrams
		c.pass(time.Minute)
		if got := c.datagrams - before; got > 2*60+10 {
			t.Errorf("%v: two idle nodes sent %d datagrams in a minute", mode, got)
		}
		for _, l := range []*listener{c.a, c.b} {
			for _, line := range l.said() {
				if strings.HasPrefix(line, "packets") || strings.Contains(line, "hear") {
					t.Errorf("%v: nothing is wrong, and the log has %q", mode, line)
				}
			}
		}

		c.narrow = true
		c.pass(probePeriod + 10*time.Second)
		if w := c.wayToB(); w.oneWay || w.path != PathBroken {
			t.Errorf("%v: the narrow way is %+v", mode, w)
		}
		c.narrow = false
		c.pass(2 * probeRetry)
		if w := c.wayToB(); w.path != PathWhole {
			t.Errorf("%v: the way that is whole again is %+v", mode, w)
		}
		c.cut = true
		c.pass(30 * time.Second)
		if w := c.wayToB(); !w.oneWay || w.path != PathWhole {
			t.Errorf("%v: the cut way is %+v", mode, w)
		}
		c.cut = false
		c.pass(5 * time.Second)
		if w := c.wayToB(); w.oneWay {
			t.Errorf("%v: the way is %+v", mode, w)
		}
		said := slices.DeleteFunc(c.a.said(), func(line string) bool { return !strings.Contains(line, "192.0.2.2") })
		want := []string{"packets of 576 bytes do not reach 192.0.2.2, ", "packets of 576 bytes reach 192.0.2.2 again",
			"192.0.2.2 has heard nothing for ", "192.0.2.2 hears this node again"}
		if !slices.EqualFunc(said, want, strings.HasPrefix) {
			t.Errorf("%v: said %q", mode, said)
		}
		if log := c.b.log.String(); !strings.Contains(log, "nothing has been heard from 192.0.2.1 for ") {
			t.Errorf("%v: the node that hears nothing says %q", mode, log)
		}
	}
}

// A node that was never heard is greeted for ever.
func TestNodeThatWasNeverHeard(t *testing.T) {
	c := newCouple(t, conf.ModeFTFW)
	c.cut = true
	c.pass(20 * time.Second)
	if w := c.wayToB(); !w.oneWay {
		t.Errorf("the way is %+v", w)
	}
	c.cut = false
	c.pass(10 * time.Second)
	if w := c.wayToB(); w.oneWay || !w.answers {
		t.Errorf("the way is %+v", w)
	}
}
