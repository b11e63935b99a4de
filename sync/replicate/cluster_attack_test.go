//go:build !no_cluster

package replicate

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// sitedPair is two nodes of a sealed Cluster in namespaces of their own, with one link.
type sitedPair struct {
	spaces  [2]*netnstest.NS
	configs [2]*conf.Sync
	nodes   [2]*sited
}

func newSitedPair(t *testing.T) *sitedPair {
	t.Helper()
	p := &sitedPair{}
	key := keyFile(t, newKey(t, 'a'), 0o600)
	var ends [2]netnstest.End
	for i := range p.nodes {
		p.spaces[i] = netnstest.New(t, fmt.Sprintf("fw%d", 1+i))
		p.configs[i] = clusterConfig(i, key)
		l := p.configs[i].Links[0]
		l.Checksum, l.RcvSocketBuffer, l.SndSocketBuffer = true, 16<<20, 16<<20
		ends[i] = netnstest.End{NS: p.spaces[i], Dev: l.Interface, Addrs: []string{l.Address.String() + "/28"}}
	}
	netnstest.Link(t, ends[0], ends[1])
	for i := range p.nodes {
		p.nodes[i] = runSited(t, p.spaces[i], p.configs[i])
	}
	return p
}

// tapAll has tap called with each datagram that the node sends from now on; it returns false for
// one that is lost.
func (s *sited) tapAll(tap func(datagram []byte) bool) {
	s.do(func() {
		out := wire.NewPacker(1)
		s.links.tap = func(p *wire.Packer) {
			out.Reset()
			for i := range p.Datagrams() {
				if d := p.Datagram(i); tap(d) {
					out.AddWhole(append(out.Buffer(), d...))
				}
			}
			if out.Datagrams() > 0 {
				s.links.all[0].Send(out)
			}
		}
	})
}

// tape records what a node sends. Challenges are left out: a challenge of any life is answered, which
// does no harm, so it is not refused.
type tape struct{ datagrams [][]byte }

func (r *tape) record(d []byte) bool {
	if len(r.datagrams) < seal.WindowLen && d[0] == seal.Version<<4|byte(seal.Sealed) {
		r.datagrams = append(r.datagrams, bytes.Clone(d))
	}
	return true
}

// assault makes datagrams that a stranger in the peer's place can send.
type assault struct {
	random   *rand.Rand
	now, old tape // of the peer's present life, and of the one before
	stranger *seal.Session
	counter  uint64
	buf      []byte
}

// genuine returns a datagram of the tape, which may be altered.
func (a *assault) genuine(r *tape) []byte {
	a.buf = append(a.buf[:0], r.datagrams[a.random.IntN(len(r.datagrams))]...)
	return a.buf
}

// fresh is genuine with a counter that has not been seen yet.
func (a *assault) fresh() []byte {
	d := a.genuine(&a.now)
	a.counter++
	binary.BigEndian.PutUint64(d[20:], 1<<40+a.counter)
	return d
}

// assaults are the kinds of datagrams, and for which reasons they may be refused.
var assaults = []struct {
	name    string
	make    func(a *assault) []byte
	reasons []seal.Verdict
}{
	{"forged", func(a *assault) []byte {
		d := a.fresh()
		for i := seal.HeaderLen; i < len(d); i++ {
			d[i] = byte(a.random.Uint32())
		}
		return d
	}, []seal.Verdict{seal.BadTag}},
	{"replayed", func(a *assault) []byte { return a.genuine(&a.now) }, []seal.Verdict{seal.Replayed}},
	{"replayed, one bit altered", func(a *assault) []byte {
		d := a.genuine(&a.now)
		d[seal.HeaderLen+a.random.IntN(len(d)-seal.HeaderLen)] ^= 1 << a.random.IntN(8)
		return d
	}, []seal.Verdict{seal.Replayed}},
	{"altered counter", (*assault).fresh, []seal.Verdict{seal.BadTag}},
	{"altered flags", func(a *assault) []byte { d := a.fresh(); d[3] ^= 1 << a.random.IntN(8); return d }, []seal.Verdict{seal.BadTag}},
	{"cut", func(a *assault) []byte {
		d := a.fresh()
		return d[:seal.HeaderLen+a.random.IntN(len(d)-seal.HeaderLen)]
	}, []seal.Verdict{seal.BadTag}},
	{"cut in the header", func(a *assault) []byte { return a.fresh()[:1+a.random.IntN(seal.HeaderLen-1)] }, []seal.Verdict{seal.Malformed}},
	{"longer", func(a *assault) []byte { return append(a.fresh(), 0) }, []seal.Verdict{seal.BadTag}},
	{"another kind", func(a *assault) []byte { d := a.fresh(); d[0] = seal.Version<<4 | byte(3+a.random.IntN(13)); return d }, []seal.Verdict{seal.Malformed}},
	{"plain, of this life", func(a *assault) []byte { d := a.fresh(); d[0], d[1] = seal.Version<<4|byte(seal.Plain), 0; return d }, []seal.Verdict{seal.BadPlain}},
	{"plain", func(a *assault) []byte {
		h := seal.Header{Kind: seal.Plain, Node: 1, Counter: 1}
		binary.BigEndian.PutUint64(h.Boot[:], a.random.Uint64())
		f := flowtest.TCP("203.0.113.66", "203.0.113.67")
		body, _ := wire.Encoder{}.AppendCompactFlow(nil, &f, false)
		d := wire.StreamMessage{Type: wire.Position, From: 1}
		out := d.Append(h.Append(a.buf[:0]))
		return append(append(out, byte(wire.StreamFlowNew), byte(len(body))), body...)
	}, []seal.Verdict{seal.BadPlain}},
	{"version 1", func(a *assault) []byte {
		f := flowtest.TCP("203.0.113.66", "203.0.113.67")
		d, _ := wire.Encoder{}.AppendFlow(a.buf[:0], wire.Header{Type: wire.FlowNew, Seq: wire.Seq(a.random.Uint32())}, &f)
		return d
	}, []seal.Verdict{seal.BadPlain}},
	{"version 1's greetings", func(a *assault) []byte {
		return wire.AppendControl(a.buf[:0], wire.Header{Type: wire.Control, Flags: wire.Alive | wire.Hello, Seq: wire.Seq(a.random.Uint32())})
	}, []seal.Verdict{seal.BadPlain}},
	{"a key that nobody has", func(a *assault) []byte { d := a.fresh(); d[1] = 2 + byte(a.random.IntN(254)); return d }, []seal.Verdict{seal.BadKey}},
	{"another key", func(a *assault) []byte { return a.stranger.Append(nil, 0, a.fresh()[:60]) }, []seal.Verdict{seal.BadLife, seal.BadTag}},
	{"invented lives", func(a *assault) []byte {
		d := a.fresh()
		binary.BigEndian.PutUint64(d[4:], a.random.Uint64())
		return d
	}, []seal.Verdict{seal.BadLife, seal.BadTag}},
	{"forged challenges", func(a *assault) []byte { d := a.fresh(); d[0] = seal.Version<<4 | byte(seal.Challenge); return d }, []seal.Verdict{seal.BadTag}},
	{"an old life", func(a *assault) []byte { return a.genuine(&a.old) }, []seal.Verdict{seal.BadLife}},
	{"an old life, altered", func(a *assault) []byte { d := a.genuine(&a.old); d[len(d)-1] ^= 1; return d }, []seal.Verdict{seal.BadLife, seal.BadTag}},
	{"the victim's number", func(a *assault) []byte { d := a.fresh(); d[2] = 2; return d }, []seal.Verdict{seal.BadNode}},
	{"a third number", func(a *assault) []byte { d := a.fresh(); d[2] = 3 + byte(a.random.IntN(253)); return d }, []seal.Verdict{seal.BadNode}},
}

func (s *sited) refused() (all [seal.Verdicts]uint64, sum uint64) {
	s.do(func() {
		all = s.cluster.unknown
		for reason, n := range s.cluster.members[1].refused {
			all[reason] += n
		}
	})
	for _, n := range all {
		sum += n
	}
	return all, sum
}

// TestClusterAttack sends a node of a sealed pair 42,000 datagrams of all kinds that a stranger can
// make from the peer's address, a million in the long form. None is accepted, each is counted under
// its reason, and the peer's flows arrive meanwhile.
func TestClusterAttack(t *testing.T) {
	t.Parallel()
	rounds := 2
	if netnstest.Long {
		rounds = 48
	}
	const batch = 1000
	p := newSitedPair(t)
	all := flowtest.Flows(20 * rounds * len(assaults))
	a := &assault{random: rand.New(rand.NewPCG(1, 13)), buf: make([]byte, 0, 4096)}
	victim := p.nodes[1]
	next := 0
	say := func(n int) {
		p.nodes[0].do(func() {
			for range n {
				p.nodes[0].store(&all[next], true)
				next++
			}
		})
	}
	record := func(r *tape) {
		p.nodes[0].tapAll(r.record)
		for range 5 {
			say(20)
			netnstest.Eventually(t, 20*time.Second, "recorded flows arrive", func() (has bool) {
				victim.do(func() { has = victim.external.Flows.Len() == next })
				return has
			})
		}
		p.nodes[0].do(func() { p.nodes[0].links.tap = nil }) // the tape is read now
	}
	record(&a.old)
	p.nodes[0].end()
	p.nodes[0] = runSited(t, p.spaces[0], p.configs[0])
	next = 0
	say(100)
	victim.awaits("the peer has started again", next)
	record(&a.now)
	ring, err := seal.NewRing("edge", map[uint8][seal.KeyLen]byte{1: {1}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	a.stranger = seal.NewSession(0, seal.Config{Node: 1, Peers: []uint8{2}, Ring: ring, Random: rand.NewChaCha8([32]byte{1})})

	var conn *net.UDPConn
	p.spaces[0].Do(func() {
		conn, err = net.DialUDP("udp", &net.UDPAddr{IP: p.configs[0].Links[0].Address.AsSlice()}, &net.UDPAddr{IP: p.configs[1].Links[0].Address.AsSlice(), Port: 3780})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began, sent := time.Now(), 0
	for range rounds {
		for _, k := range assaults {
			before, sum := victim.refused()
			for range batch {
				if _, err := conn.Write(k.make(a)); err != nil {
					t.Fatal(err)
				}
			}
			say(3)
			sent += batch
			for deadline := time.Now().Add(10 * time.Second); ; {
				now, n := victim.refused()
				if n < sum+batch && time.Now().Before(deadline) {
					continue
				}
				for reason, n := range now {
					if n > before[reason] && !slices.Contains(k.reasons, seal.Verdict(reason)) {
						t.Errorf("%s: %d are refused as %v", k.name, n-before[reason], seal.Verdict(reason))
					}
				}
				if n != sum+batch {
					t.Errorf("%s: %d of %d datagrams are refused", k.name, n-sum, batch)
				}
				break
			}
			if t.Failed() {
				t.Fatal(victim.log.String())
			}
		}
	}
	t.Logf("%d datagrams in %v", sent, time.Since(began))
	victim.awaits("after the attack", next)
	p.nodes[0].awaits("after the attack", 0)
	for _, s := range p.nodes {
		s.do(func() {
			if m := s.Status().Peers[0].Member; m.Differences > 0 || s.received != (wire.Counters{}) {
				t.Errorf("%s: %+v, %+v", s.name, m, s.received)
			}
		})
	}
	if n := strings.Count(victim.log.String(), "\n"); n > 60 {
		t.Errorf("%d lines of log: %.3000s", n, victim.log.String())
	}
}

// The last datagrams of a sender, as many as a window has, are replayed to a receiver that starts
// again: before its challenge, while it is under way, and after it. None is accepted.
func TestClusterReplayAroundRestart(t *testing.T) {
	w := newTown(t, keyFile(t, newKey(t, 'a'), 0o600))
	w.bothProven("before")
	a := w.nodes[0]
	var recorded [][]byte
	w.lose = func(from int, d []byte) bool {
		if from == 0 {
			recorded = append(recorded, bytes.Clone(d))
			recorded = recorded[max(0, len(recorded)-seal.WindowLen):]
		}
		return false
	}
	all := flowtest.Flows(300)
	for i := 0; len(recorded) < seal.WindowLen; i++ {
		f := &all[i%len(all)]
		f.Has |= ctnetlink.HasMark
		f.Mark = uint32(i)
		a.rewrite(f)
		if i >= len(all) && i%3 == 0 {
			a.end(f)
		}
		w.pass(10 * time.Millisecond)
	}
	tape := slices.Clone(recorded)
	if len(tape) != seal.WindowLen {
		t.Fatalf("%d datagrams are recorded", len(tape))
	}
	b := w.start(1, w.nodes[1].cfg, w.nodes[1].internal)
	replay := func(when string) {
		t.Helper()
		received, taken := b.replica.Received, b.external.Flows.Len()
		before := b.cluster.members[1].refused
		for _, d := range tape {
			b.cluster.takes(0, a.addr, d)
		}
		refused := 0
		for reason, n := range b.cluster.members[1].refused {
			refused += int(n - before[reason])
		}
		if b.replica.Received != received || b.external.Flows.Len() != taken || refused != len(tape) {
			t.Fatalf("%s: %d of %d are refused, %d messages applied", when, refused, len(tape), b.replica.Received-received)
		}
	}
	replay("before the challenge")
	// Replays that lead to the challenge, whose answer is under way.
	w.lose = func(from int, d []byte) bool { return from == 0 }
	w.pass(20 * time.Millisecond)
	replay("while the challenge is under way")
	w.lose = nil
	w.until("known again", 10*time.Second, func() bool { return b.cluster.session.Knows(1) })
	replay("right after it")
	w.bothProven("all")
	replay("later")
	w.bothProven("at the end")
	if m := b.Status().Peers[0].Member; m.Differences > 0 {
		t.Errorf("%+v", m)
	}
}

// The recording of a sealed pair shows no address, no ports and no key; that of a plain pair shows
// the addresses and ports.
func TestClusterWireShowsNothing(t *testing.T) {
	secret := newKey(t, 'a')
	key, err := seal.ParseKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	working := seal.Derive(key, "edge", "seal")
	for _, keys := range [][]string{nil, {keyFile(t, secret, 0o600)}} {
		w := newTown(t, keys...)
		var recording []byte
		w.lose = func(_ int, d []byte) bool { recording = append(recording, d...); return false }
		var flows []ctnetlink.Flow
		for i := range 200 {
			v4 := flowtest.TCP(fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("198.51.100.%d", i))
			v6 := flowtest.TCP(fmt.Sprintf("2001:db8:1::%x", i+1), fmt.Sprintf("2001:db8:2::%x", i+1))
			flows = append(flows, v4, v6)
		}
		for i := range flows {
			w.nodes[i%2].store(&flows[i], true)
			if i%10 == 0 {
				x := testExpect(&flows[i], uint16(i+1))
				w.nodes[i%2].storeExpect(&x)
			}
		}
		w.bothProven("all")
		for i := range flows[:100] {
			w.nodes[i%2].end(&flows[i])
		}
		w.bothProven("ends")
		found := 0
		for i := range flows {
			o := &flows[i].Orig
			size := 4
			if netip.AddrFrom16(o.Src).Is4In6() || o.Family == 10 {
				size = 16
			}
			// Addresses follow each other, so random bytes do not look like two of them.
			if bytes.Contains(recording, append(bytes.Clone(o.Src[:size]), o.Dst[:size]...)) {
				found++
			}
		}
		sealed := len(keys) > 0
		if sealed != (found == 0) || !sealed && found < len(flows) {
			t.Errorf("sealed %v: the addresses of %d of %d flows are in the recording of %d bytes", sealed, found, len(flows), len(recording))
		}
		// All flows have the same ports, next to each other. Random bytes may look like them once.
		o := &flows[0].Orig
		ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, o.SrcPort), o.DstPort)
		if n := bytes.Count(recording, ports); sealed && n > 1 || !sealed && n < len(flows) {
			t.Errorf("sealed %v: the ports are %d times in the recording of %d bytes", sealed, n, len(recording))
		}
		for _, k := range [][]byte{key[:], working[:], []byte(strings.TrimSpace(secret)), []byte("edge"), []byte("fw1")} {
			if bytes.Contains(recording, k) {
				t.Errorf("%q is in the recording", k)
			}
		}
	}
}

// refusalKinds are datagrams by what becomes of them, made from a genuine one.
var refusalKinds = []struct {
	name  string
	alter func(d []byte, random *rand.Rand)
}{
	{"accepted", func([]byte, *rand.Rand) {}},
	{"tag", func(d []byte, _ *rand.Rand) { d[len(d)-1] ^= 1 }},
	{"replay", func(d []byte, _ *rand.Rand) { clear(d[20:27]); d[27] = 1 }},
	{"plain", func(d []byte, _ *rand.Rand) { d[0], d[1] = seal.Version<<4, 0 }},
	{"version 1", func(d []byte, _ *rand.Rand) { d[0] = wire.Version << 4 }},
	{"key", func(d []byte, _ *rand.Rand) { d[1] = 9 }},
	{"node", func(d []byte, _ *rand.Rand) { d[2] = 9 }},
	{"this node", func(d []byte, _ *rand.Rand) { d[2] = 2 }},
	{"malformed", func(d []byte, _ *rand.Rand) { d[0] = seal.Version<<4 | 9 }},
	{"life", func(d []byte, random *rand.Rand) { binary.BigEndian.PutUint64(d[4:], random.Uint64()) }},
	{"challenge", func(d []byte, random *rand.Rand) {
		d[0] = seal.Version<<4 | byte(seal.Challenge)
		binary.BigEndian.PutUint64(d[4:], random.Uint64())
	}},
}

// BenchmarkClusterRefused is what a node does with one datagram of flows: a full one of established
// flows, and one with a single flow. A refused one costs less than the accepted one.
func BenchmarkClusterRefused(b *testing.B) {
	for _, flows := range []int{1, 30} {
		for _, k := range refusalKinds {
			b.Run(fmt.Sprintf("%d/%s", flows, k.name), func(b *testing.B) {
				w := newTown(b, keyFile(b, newKey(b, 'a'), 0o600))
				w.bothProven("before")
				random := rand.New(rand.NewPCG(1, 14))
				all := flowtest.Flows(1000)
				from, to := w.nodes[0], w.nodes[1]
				var batch [][]byte
				w.lose = func(n int, d []byte) bool {
					if n == 0 {
						batch = append(batch, bytes.Clone(d))
					}
					return true
				}
				for i := 0; b.Loop(); i++ {
					if i%64 == 0 {
						b.StopTimer()
						for batch = batch[:0]; len(batch) < 64; {
							for j := range flows {
								f := &all[(i+j)%len(all)]
								f.Has |= ctnetlink.HasMark
								f.Mark = random.Uint32()
								from.rewrite(f)
							}
							from.Transmit()
						}
						for _, d := range batch {
							k.alter(d, random)
						}
						b.StartTimer()
					}
					to.cluster.takes(0, from.addr, batch[i%64])
				}
			})
		}
	}
}
