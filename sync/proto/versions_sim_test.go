package proto

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/sync/seal"
	"ctbox/sync/wire"
)

// versionPlan is a node's program and file.
type versionPlan struct {
	clause  bool           // a Cluster clause; without it the node speaks version 1, as a C daemon does
	cluster string         // its name
	keys    map[uint8]byte // contents of the key files by number
	send    uint8
	allow   bool // AllowPlain
}

func (p versionPlan) String() string {
	if !p.clause {
		return "version 1"
	}
	return fmt.Sprintf("%s keys %v send %d allow %v", p.cluster, p.keys, p.send, p.allow)
}

// plain reports whether the node accepts anything in the clear.
func (p versionPlan) plain() bool { return !p.clause || p.send == 0 || p.allow }

var versionPlans = []versionPlan{
	{},
	{clause: true, cluster: "edge"},
	{clause: true, cluster: "core"},
	{clause: true, cluster: "edge", keys: map[uint8]byte{3: 1}, send: 3, allow: true},
	{clause: true, cluster: "edge", keys: map[uint8]byte{3: 1}, send: 3},
	{clause: true, cluster: "edge", keys: map[uint8]byte{3: 1, 4: 2}, send: 4, allow: true},
	{clause: true, cluster: "edge", keys: map[uint8]byte{3: 1, 4: 2}, send: 3},
	{clause: true, cluster: "edge", keys: map[uint8]byte{4: 2}, send: 4, allow: true},
	{clause: true, cluster: "edge", keys: map[uint8]byte{3: 9}, send: 3, allow: true}, // a wrong file
}

// versionBest returns what both nodes should come to speak; ok is false if they can't.
func versionBest(a, b versionPlan) (v Version, ok bool) {
	opens := func(x, y versionPlan) bool { // y opens what x seals
		content, has := y.keys[x.send]
		return x.send != 0 && has && content == x.keys[x.send]
	}
	switch {
	case !a.clause || !b.clause:
		return Version1, a.plain() && b.plain()
	case a.cluster != b.cluster:
		return 0, false
	case opens(a, b) && opens(b, a):
		return Version2Sealed, true
	}
	return Version2Plain, a.plain() && b.plain()
}

// versionNode is one process: Versions, the Session, and a model of what FT-FW's greeting does.
type versionNode struct {
	s        *versionSim
	number   uint8
	plan     versionPlan
	versions *Versions
	session  *seal.Session

	answered bool // HELLO was
	sayBack  bool
	nextSend time.Duration

	changes       int
	lastApplied   time.Duration
	sealedApplied time.Duration // 0: never, or what followed was announced
}

// versionMessage is one on the wire: a datagram of version 2, or a message of version 1.
type versionMessage struct {
	at       time.Duration
	to       uint8
	two      []byte
	hello    bool
	back     bool
	offer    wire.Offer
	hasOffer bool
}

type versionSim struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	now    time.Duration
	nodes  [3]*versionNode // by number
	flight []versionMessage
	loss   int // of 100
	delay  time.Duration
	log    []string
}

// Read is the Session's source of random bytes.
func (s *versionSim) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.random.Uint32())
	}
	return len(b), nil
}

func (s *versionSim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%v: ", s.now)+fmt.Sprintf(format, args...))
}

func (s *versionSim) fail(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.log {
		s.t.Log(line)
	}
	s.t.Fatalf("seed %d, %v: %s", s.seed, s.now, fmt.Sprintf(format, args...))
}

func (s *versionSim) ring(p versionPlan) *seal.Ring {
	keys := map[uint8][seal.KeyLen]byte{}
	for number, content := range p.keys {
		keys[number] = [seal.KeyLen]byte{content, 1}
	}
	ring, err := seal.NewRing(p.cluster, keys, p.send)
	if err != nil {
		s.t.Fatal(err)
	}
	return ring
}

func (s *versionSim) config(number uint8, p versionPlan) VersionsConfig {
	ring := s.ring(p)
	o := wire.Offer{Cluster: wire.ClusterHash(p.cluster), Node: number, Version: 2, Plain: p.plain(), Send: p.send}
	at := 0
	for n := range uint8(255) {
		if _, ok := p.keys[n]; ok {
			o.Keys[at] = wire.OfferKey{Number: n, Check: ring.Check(n)}
			at++
		}
	}
	return VersionsConfig{Offer: o, Peer: 3 - number}
}

// start is a new process of a node.
func (s *versionSim) start(number uint8, p versionPlan) {
	n := &versionNode{s: s, number: number, plan: p, nextSend: s.now}
	s.note("node %d starts: %v", number, p)
	if p.clause {
		n.versions = NewVersions(s.now, s.config(number, p))
		n.session = seal.NewSession(s.now, seal.Config{Node: number, Peers: []uint8{3 - number}, Ring: s.ring(p), AllowPlain: p.allow, Random: s})
		n.apply(0)
	}
	s.nodes[number] = n
}

// reload puts another file in force. The clause and the cluster's name take a restart.
func (s *versionSim) reload(number uint8, p versionPlan) {
	n := s.nodes[number]
	if p.clause != n.plan.clause || p.cluster != n.plan.cluster {
		s.start(number, p)
		return
	}
	s.note("node %d reloads: %v", number, p)
	n.plan = p
	if p.clause {
		e := n.versions.SetConfig(s.now, s.config(number, p))
		n.session.SetRing(s.ring(p))
		n.session.SetAllowPlain(p.allow)
		n.apply(e)
	}
}

func (n *versionNode) speaks() Version {
	if n.versions == nil {
		return Version1
	}
	return n.versions.Speaks()
}

func (n *versionNode) apply(e VersionEvents) {
	if e&VersionChanged != 0 {
		n.answered, n.sayBack = false, false
	}
	if e&(VersionChanged|SealingChanged) != 0 {
		n.changes++
		n.s.note("node %d speaks %v (events %b)", n.number, n.speaks(), e)
	}
	if e&PlainExpected != 0 {
		n.session.ForgetSealed(3 - n.number)
		n.sealedApplied = 0
	}
	n.session.SetPlain(n.speaks() != Version2Sealed)
}

func (s *versionSim) send(m versionMessage) {
	if s.random.IntN(100) < s.loss {
		return
	}
	m.at = s.now + time.Duration(s.random.Int64N(int64(s.delay)+1))
	s.flight = append(s.flight, m)
}

func (n *versionNode) transmit() {
	s := n.s
	if n.session != nil {
		n.session.Tick(s.now)
		for {
			_, datagram, ok := n.session.NextChallenge(nil)
			if !ok {
				break
			}
			n.sendTwo(datagram)
		}
	}
	if n.speaks() != Version1 && n.session.HasControls(s.now) {
		n.nextSend = s.now
	}
	if s.now < n.nextSend {
		return
	}
	n.nextSend = s.now + aliveInterval
	if n.versions != nil && n.versions.RefusesPeer(s.now) {
		s.send(versionMessage{to: 3 - n.number, offer: n.versions.Offer(), hasOffer: true})
	}
	if n.speaks() != Version1 {
		payload := n.session.AppendControls(s.now, nil, 1000)
		notice := wire.Notice{Has: wire.HasOffer, Offer: n.versions.Offer()}
		n.sendTwo(n.session.Append(nil, 0, notice.AppendBody(payload)))
		return
	}
	m := versionMessage{to: 3 - n.number, hello: !n.answered, back: n.sayBack}
	if n.versions != nil && n.versions.Offers() && !m.hello && !m.back {
		m.offer, m.hasOffer = n.versions.Offer(), true
	}
	n.sayBack = false
	s.send(m)
	if !n.plan.plain() {
		s.fail("node %d sends version 1", n.number)
	}
}

func (n *versionNode) sendTwo(datagram []byte) {
	if h, _ := seal.ParseHeader(datagram); h.Key == 0 && !n.plan.plain() {
		n.s.fail("node %d sends in the clear", n.number)
	}
	n.s.send(versionMessage{to: 3 - n.number, two: datagram})
}

func (n *versionNode) receive(m versionMessage) {
	if m.two != nil {
		n.receiveTwo(m.two)
		return
	}
	taken := true
	if n.versions != nil {
		if m.hasOffer {
			n.apply(n.versions.HeardOffer(n.s.now, &m.offer, Version1))
		}
		var e VersionEvents
		taken, e = n.versions.Heard1(n.s.now, m.hello)
		n.apply(e)
	}
	if !taken {
		return
	}
	n.applied(false)
	n.sayBack = n.sayBack || m.hello
	n.answered = n.answered || m.back
}

func (n *versionNode) receiveTwo(datagram []byte) {
	if n.session == nil {
		return
	}
	now := n.s.now
	h, payload, v := n.session.Open(now, 3-n.number, nil, datagram)
	switch v {
	case seal.Consumed:
		n.versions.Challenged(now)
	case seal.BadKey, seal.BadTag:
		n.apply(n.versions.Unopened(now))
	}
	if v != seal.Accepted {
		return
	}
	var notice wire.Notice
	if notice.ParseBody(payload) != nil || notice.Has != wire.HasOffer {
		n.s.fail("the payload is % x", payload)
	}
	sealed := h.Key != 0
	if !n.versions.Trusts(sealed) {
		n.apply(n.versions.HeardOffer(now, &notice.Offer, Version2(sealed)))
		if !n.versions.Trusts(sealed) {
			return
		}
	}
	n.applied(sealed)
	n.apply(n.versions.Heard2(now, sealed))
	n.apply(n.versions.HeardOffer(now, &notice.Offer, Version2(sealed)))
}

// applied checks that what is applied now may be.
func (n *versionNode) applied(sealed bool) {
	n.lastApplied = n.s.now
	switch {
	case sealed:
		n.sealedApplied = n.s.now
	case !n.plan.plain():
		n.s.fail("node %d accepts in the clear", n.number)
	case n.plan.send != 0 && n.sealedApplied != 0 && n.s.now-n.sealedApplied < sealedLasts:
		n.s.fail("node %d accepts in the clear after a sealed datagram", n.number)
	}
}

func (s *versionSim) run(d time.Duration) {
	for end := s.now + d; s.now < end; {
		s.now += 20 * time.Millisecond
		for _, n := range s.nodes[1:] {
			n.transmit()
		}
		kept := s.flight[:0]
		for _, m := range s.flight {
			if m.at > s.now {
				kept = append(kept, m)
			} else {
				s.nodes[m.to].receive(m)
			}
		}
		s.flight = kept
	}
}

// change restarts or reloads a node with another plan.
func (s *versionSim) change() {
	number := uint8(1 + s.random.IntN(2))
	p := versionPlans[s.random.IntN(len(versionPlans))]
	if s.random.IntN(2) == 0 {
		s.start(number, p)
	} else {
		s.reload(number, p)
	}
}

// settled checks that the nodes have come to the best version that both can speak, hear each other, and change no more.
func (s *versionSim) settled() {
	a, b := s.nodes[1], s.nodes[2]
	best, ok := versionBest(a.plan, b.plan)
	before := a.changes + b.changes
	for range 30 {
		s.run(time.Second)
		if ok && (a.speaks() != best || b.speaks() != best) {
			s.fail("they speak %v and %v; %v would be best", a.speaks(), b.speaks(), best)
		}
		if lately := s.now - 4*time.Second; ok && s.loss == 0 && (a.lastApplied < lately || b.lastApplied < lately) {
			s.fail("they speak %v and do not hear each other: %v, %v", best, a.lastApplied, b.lastApplied)
		}
	}
	if a.changes+b.changes != before {
		s.fail("they have changed again")
	}
	if lately := s.now - 20*time.Second; !ok && a.plan.clause && b.plan.clause && (a.lastApplied > lately || b.lastApplied > lately) &&
		a.plan.cluster != b.plan.cluster {
		s.fail("two clusters accept something of each other: %v, %v", a.lastApplied, b.lastApplied)
	}
}

// settleTime returns how long the nodes may take from now: 10 s, and before that what is left of the time
// in which nothing in the clear is accepted.
func (s *versionSim) settleTime() (d time.Duration) {
	d = 10 * time.Second
	a, b := s.nodes[1], s.nodes[2]
	if best, ok := versionBest(a.plan, b.plan); !ok || best != Version2Sealed && a.speaks() == Version2Sealed && b.speaks() == Version2Sealed {
		d += sealedLasts // each lacks the other's key, and has to find out
	}
	for _, n := range s.nodes[1:] {
		if n.versions != nil && n.versions.RefusesPeer(s.now) {
			// An offer that does not fit may still be under way, and a message comes each second.
			d = max(d, wrongLasts+s.delay+2*aliveInterval)
		}
		if n.sealedApplied != 0 {
			d = max(d, n.sealedApplied+sealedLasts-s.now+10*time.Second)
		}
	}
	return d
}

func TestSimulatedVersions(t *testing.T) {
	for seed := range seeds.Count(600) {
		simulateVersions(t, seed)
	}
}

func simulateVersions(t *testing.T, seed uint64) {
	s := &versionSim{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 13))}
	s.delay = time.Duration(s.random.IntN(300)) * time.Millisecond
	faults := s.random.IntN(30)
	s.start(1, versionPlans[s.random.IntN(len(versionPlans))])
	s.start(2, versionPlans[s.random.IntN(len(versionPlans))])
	for range 4 {
		s.loss = faults
		for range 1 + s.random.IntN(3) {
			s.change()
			s.run(time.Duration(s.random.IntN(8000)) * time.Millisecond)
		}
		s.loss = 0
		s.run(s.delay + 20*time.Millisecond) // what is under way may be sealed, and counts for settleTime
		s.run(s.settleTime())
		s.settled()
	}
}
