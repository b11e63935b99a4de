package owner

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/internal/flowtest"
	"ctbox/sync/wire"
)

// The simulation has 16 nodes, each with a model of its kernel's table, and a network that loses,
// repeats, delays and reorders datagrams and is cut in parts. Everything of version 2 but the seal
// and the sockets is the real thing: caches, Book, Question, Stream, ledgers and comparers.

const (
	simNodes   = MaxNode
	simChanges = 20000
	simTime    = time.Minute // in which the changes happen
	simStep    = 5 * time.Millisecond
	ringLen    = 128 // steps, longer than any datagram takes
	aliens     = 16  // flows that only a fault puts into a copy
)

type sim struct {
	t   *testing.T
	rng *rand.Rand
	now time.Duration

	nodes   []*simNode
	flows   int
	window  int
	resend  int
	eager   bool // each stored flow is hashed at once
	faults  bool // copies are altered
	encoder wire.Encoder

	template, asked, received, encoded ctnetlink.Flow
	version, id                        uint32
	connections                        []uint32 // by version
	connection                         []uint32 // by flow, the last one
	ended                              []bool   // by flow: the owner has ended the last connection
	moves                              []move   // by flow
	home                               []uint8  // by flow, the node that its packets come through

	ring      [ringLen][]delivery
	free      []*packet
	step      int
	loss      float64
	duplicate float64
	delay     int                 // steps, of each datagram
	jitter    int                 // most steps more
	cut       [simNodes + 1]Nodes // nothing arrives from the node at these
	plans     []plan
	left      []cache.Handle
	figures   figures
	failures  int
}

// figures are counted in a simulation.
type figures struct {
	Changes, Datagrams, Deliveries, Lost, Bytes        int
	Messages, Applied, Repeated                        int
	Moves, Claims, Withdrawn, Takeovers, Taken, Starts int
	Compared, Altered, Differences, Repaired           int
	MostQueued                                         int
	Settling                                           time.Duration
}

func (a *figures) add(b *figures) {
	a.Changes, a.Datagrams, a.Deliveries, a.Lost, a.Bytes = a.Changes+b.Changes, a.Datagrams+b.Datagrams, a.Deliveries+b.Deliveries, a.Lost+b.Lost, a.Bytes+b.Bytes
	a.Messages, a.Applied, a.Repeated = a.Messages+b.Messages, a.Applied+b.Applied, a.Repeated+b.Repeated
	a.Moves, a.Claims, a.Withdrawn, a.Takeovers, a.Taken, a.Starts = a.Moves+b.Moves, a.Claims+b.Claims, a.Withdrawn+b.Withdrawn, a.Takeovers+b.Takeovers, a.Taken+b.Taken, a.Starts+b.Starts
	a.Compared, a.Altered, a.Differences, a.Repaired = a.Compared+b.Compared, a.Altered+b.Altered, a.Differences+b.Differences, a.Repaired+b.Repaired
	a.MostQueued, a.Settling = max(a.MostQueued, b.MostQueued), max(a.Settling, b.Settling)
}

// print prints the figures of so many seeds.
func (a *figures) print(seeds uint64, took time.Duration) {
	for _, row := range []struct {
		name  string
		value any
	}{
		{"seeds", seeds},
		{"changes", a.Changes},
		{"datagrams sent", a.Datagrams},
		{"datagrams lost", a.Lost},
		{"datagrams received", a.Deliveries},
		{"bytes received", a.Bytes},
		{"messages received", a.Messages},
		{"messages about flows applied", a.Applied},
		{"messages repeated", a.Repeated},
		{"starts of a daemon", a.Starts},
		{"takeovers", a.Takeovers},
		{"flows taken", a.Taken},
		{"moves because of a kernel", a.Moves},
		{"claims in the background", a.Claims},
		{"withdrawn", a.Withdrawn},
		{"comparisons of digests", a.Compared},
		{"copies altered", a.Altered},
		{"differences found", a.Differences},
		{"differences repaired", a.Repaired},
		{"most messages queued", a.MostQueued},
		{"longest time to settle", a.Settling},
		{"time", took.Round(time.Second)},
	} {
		fmt.Printf("%-30s %v\n", row.name, row.value)
	}
}

// packet is a datagram, whose payload its receivers share.
type packet struct {
	refs    int
	from    uint8
	primary bool
	boot    [16]byte
	counter uint64
	b       []byte
}

type delivery struct {
	to uint8
	p  *packet
}

// plan is something that happens at a time.
type plan struct {
	at time.Duration
	do func()
}

func newSim(t *testing.T, seed uint64, changes int) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 14)), now: time.Hour}
	s.flows = 300 + s.rng.IntN(500)
	s.window, s.resend = []int{1, 10, 300}[s.rng.IntN(3)], []int{100, 1000, 131072}[s.rng.IntN(3)]
	s.eager, s.faults = s.chance(0.5), s.chance(0.5)
	s.template = flowtest.TCP("192.0.2.1", "198.51.100.1")
	s.template.Has |= ctnetlink.HasMark | ctnetlink.HasStatus | ctnetlink.HasID
	s.template.Status = ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply
	s.asked = s.template
	s.connections = make([]uint32, 1, 2*changes)
	s.connection, s.ended, s.home = make([]uint32, s.flows), make([]bool, s.flows), make([]uint8, s.flows)
	s.moves = make([]move, s.flows)
	for i := range s.home {
		s.home[i] = s.anyNode()
		s.ended[i] = true
	}
	for id := uint8(1); id <= simNodes; id++ {
		n := newSimNode(s, id)
		s.nodes = append(s.nodes, n)
		s.plan(s.now+s.upTo(time.Second), n.start)
	}
	return s
}

func (s *sim) chance(p float64) bool              { return s.rng.Float64() < p }
func (s *sim) upTo(d time.Duration) time.Duration { return time.Duration(s.rng.Int64N(int64(d))) }
func (s *sim) anyNode() uint8                     { return uint8(1 + s.rng.IntN(simNodes)) }
func (s *sim) node(id uint8) *simNode             { return s.nodes[id-1] }
func (s *sim) newID() uint32                      { s.id++; return s.id }
func (s *sim) plan(at time.Duration, do func())   { s.plans = append(s.plans, plan{at, do}) }
func (s *sim) after(d time.Duration, do func())   { s.plan(s.now+d, do) }
func (s *sim) at(end time.Duration, do func())    { s.plan(time.Hour+2*time.Second+s.upTo(end), do) }

func (s *sim) errorf(format string, args ...any) {
	if s.failures++; s.failures < 10 {
		s.t.Errorf("at %v: "+format, append([]any{s.now - time.Hour}, args...)...)
	}
}

// flow returns flow i with what a kernel has of it.
func (s *sim) flow(i int, k *kernelFlow) *ctnetlink.Flow {
	f := &s.template
	f.Orig.SrcPort, f.Reply.DstPort = uint16(i), uint16(i)
	f.Mark, f.ID = k.version, k.id
	return f
}

// transmit sends a payload to all other nodes.
func (s *sim) transmit(n *simNode, payload []byte) {
	var p *packet
	if last := len(s.free) - 1; last >= 0 {
		p, s.free = s.free[last], s.free[:last]
	} else {
		p = &packet{b: make([]byte, 0, 1500)}
	}
	p.from, p.primary, p.boot, p.counter, p.b = n.id, n.primary, n.boot, n.counter, append(p.b[:0], payload...)
	p.refs = 1
	s.figures.Datagrams++
	for to := uint8(1); to <= simNodes; to++ {
		if to == n.id {
			continue
		}
		if s.cut[n.id].Has(to) || s.loss > 0 && s.chance(s.loss) {
			s.figures.Lost++
			continue
		}
		s.deliver(to, p)
		if s.duplicate > 0 && s.chance(s.duplicate) {
			s.deliver(to, p)
		}
	}
	s.release(p)
}

func (s *sim) deliver(to uint8, p *packet) {
	at := s.step + 1 + s.delay
	if s.jitter > 0 {
		at += s.rng.IntN(s.jitter + 1)
		if s.rng.IntN(100) == 0 {
			at += s.rng.IntN(40)
		}
	}
	at %= ringLen
	p.refs++
	s.ring[at] = append(s.ring[at], delivery{to, p})
	s.figures.Deliveries++
	s.figures.Bytes += len(p.b)
}

func (s *sim) release(p *packet) {
	if p.refs--; p.refs == 0 {
		s.free = append(s.free, p)
	}
}

// run lets time pass. Each step has so many changes, on average.
func (s *sim) run(end time.Duration, changes float64) {
	for s.now < end && s.failures == 0 {
		for i := 0; i < len(s.plans); i++ {
			if p := s.plans[i]; p.at <= s.now {
				s.plans[i] = s.plans[len(s.plans)-1]
				s.plans = s.plans[:len(s.plans)-1]
				p.do()
				i--
			}
		}
		if changes > 0 {
			whole := int(changes)
			if s.chance(changes - float64(whole)) {
				whole++
			}
			for range whole {
				s.change()
			}
		}
		arrived := s.ring[s.step%ringLen]
		for _, d := range arrived {
			if n := s.node(d.to); n.up {
				n.receive(d.p)
			}
			s.release(d.p)
		}
		s.ring[s.step%ringLen] = arrived[:0]
		for _, n := range s.nodes {
			if n.up {
				n.turn()
			}
		}
		if s.now%time.Second == 0 {
			for _, n := range s.nodes {
				if n.up {
					n.bounded()
					if s.now%(5*time.Second) == 0 {
						n.shows()
					}
				}
			}
		}
		s.now += simStep
		s.step++
	}
}

// change changes a flow.
func (s *sim) change() {
	s.figures.Changes++
	i := s.rng.IntN(s.flows)
	n := s.node(s.home[i])
	switch k, what := &n.kernel[i], s.rng.IntN(100); {
	case what < 3: // the packets take another way
		if o := s.anyNode(); s.machine(o) {
			s.home[i] = o
		}
		s.traffic(s.node(s.home[i]), i)
	case what < 10: // some of them
		s.traffic(s.node(s.anyNode()), i)
	case what < 13: // some other entry times out
		if o := s.node(s.anyNode()); o.kernel[i].there {
			s.destroy(o, i)
		}
	case what < 20 && k.there:
		s.process(n, i)
	case what < 40 && k.there:
		s.destroy(n, i)
	default:
		s.traffic(n, i)
	}
}

// machine reports whether a machine runs.
func (s *sim) machine(id uint8) bool { return s.node(id).up || s.node(id).life > 0 }

func (s *sim) newVersion(i int) uint32 {
	s.version++
	s.connections = append(s.connections, s.connection[i])
	return s.version
}

// traffic is a packet of flow i that changes its state in the kernel of n.
func (s *sim) traffic(n *simNode, i int) {
	k := &n.kernel[i]
	isNew, alone := !k.there, true
	for _, o := range s.nodes {
		alone = alone && (o == n || !o.kernel[i].there)
	}
	if s.ended[i] || isNew && alone {
		s.connection[i]++
		s.ended[i] = false
	}
	if isNew {
		*k = kernelFlow{there: true, id: s.newID()}
	}
	if n.up {
		n.ended[i] = heardEnd{} // it goes on here
	}
	k.caused, k.version, k.traffic = true, s.newVersion(i), s.now
	n.event(i, isNew, ByKernel)
}

// process is a process that changes a flow.
func (s *sim) process(n *simNode, i int) {
	n.kernel[i].version = s.newVersion(i)
	n.event(i, false, Changed)
}

// destroy ends a flow in the kernel of n.
func (s *sim) destroy(n *simNode, i int) {
	if n.up && !n.missing {
		n.destroyed(i)
	}
	n.kernel[i].there, n.kernel[i].caused = false, false
}

// disturb plans one kind of trouble.
func (s *sim) disturb() {
	n, other := s.node(s.anyNode()), s.node(s.anyNode())
	long := time.Second + s.upTo(20*time.Second)
	switch s.rng.IntN(12) {
	case 0, 1: // a machine fails, and another one takes its flows
		s.at(simTime, func() {
			n.die()
			s.moveHomes(n.id, other.id)
			plain := s.chance(0.5)
			s.after(time.Second+s.upTo(4*time.Second), func() {
				if plain {
					other.takeover(0)
				} else {
					other.takeover(n.id)
				}
			})
			s.after(long, func() { s.restart(n) })
		})
	case 2: // a daemon fails
		s.at(simTime, func() {
			n.stop()
			s.after(s.upTo(long), func() { s.restart(n) })
		})
	case 3, 4: // a node steps down, and another one takes its flows
		s.at(simTime, func() {
			n.down = true
			n.setPrimary()
			s.moveHomes(n.id, other.id)
			s.after(s.upTo(time.Second), func() { other.takeover(0) })
			s.after(long, func() { n.down = false; n.setPrimary() })
		})
	case 5: // both at once
		s.at(simTime, func() {
			s.after(s.upTo(time.Second), func() { n.takeover(0) })
			s.after(s.upTo(time.Second), func() { other.takeover(0) })
		})
	case 6: // two nodes do not hear each other, or one does not hear the other
		both := s.chance(0.5)
		s.at(simTime, func() {
			s.cutOff(NodesOf(n.id), NodesOf(other.id), both, long)
		})
	case 7, 8: // two groups
		group := Nodes(s.rng.Uint32())
		s.at(simTime, func() { s.cutOff(group, ^group, true, long) })
	case 9: // events are lost
		s.at(simTime, func() {
			if n.up {
				n.missing = true
				life := n.life
				s.after(s.upTo(2*time.Second), func() {
					if n.up && n.life == life {
						n.missing = false
						n.read(Changed)
					}
				})
			}
		})
	case 10: // flows move, without a word
		s.at(simTime, func() { s.moveHomes(n.id, other.id) })
	case 11:
		s.at(simTime, func() { n.takeover(other.id) })
	}
}

func (s *sim) restart(n *simNode) {
	if !n.up {
		s.figures.Starts++
		n.start()
	}
}

func (s *sim) moveHomes(from, to uint8) {
	for i, h := range s.home {
		if h == from {
			s.home[i] = to
		}
	}
}

// cutOff cuts two groups of nodes off from each other.
func (s *sim) cutOff(a, b Nodes, both bool, long time.Duration) {
	for id := uint8(1); id <= simNodes; id++ {
		if a.Has(id) {
			s.cut[id] |= b
		}
		if both && b.Has(id) {
			s.cut[id] |= a
		}
	}
	s.after(long, func() { clear(s.cut[:]) })
}

// alter alters a copy.
func (s *sim) alter() {
	n, node := s.node(s.anyNode()), s.anyNode()
	p := n.peers[node]
	if !n.up || p == nil || p.copy.Len() == 0 {
		return
	}
	s.figures.Altered++
	i := s.rng.IntN(s.flows)
	for p.has.flows[i].version == 0 {
		i = (i + 1) % s.flows
	}
	f := s.flow(i, &kernelFlow{version: s.newVersion(i)})
	h := p.copy.Find(f)
	switch s.rng.IntN(3) {
	case 0:
		p.copy.Put(f, s.now)
		p.has.set(i, f.Mark, p.has.flows[i].epoch)
	case 1:
		p.copy.Delete(h)
		p.has.set(i, 0, 0)
	default:
		i = s.flows + s.rng.IntN(aliens)
		s.version++
		s.connections = append(s.connections, 0)
		p.copy.Put(s.flow(i, &kernelFlow{version: s.version}), s.now)
		p.has.set(i, s.version, 0)
	}
}

// simulate runs a seed.
func simulate(t *testing.T, seed uint64, changes int) *figures {
	s := newSim(t, seed, changes)
	if s.chance(0.9) {
		s.loss, s.duplicate = 0.1*s.rng.Float64(), 0.1*s.rng.Float64()
	}
	s.delay, s.jitter = []int{0, 4, 30}[s.rng.IntN(3)], s.rng.IntN(4)
	for range s.rng.IntN(20) {
		s.disturb()
	}
	if s.faults {
		for range 20 {
			s.at(simTime, s.alter)
		}
	}
	began := s.now
	s.run(began+2*time.Second, 0)
	s.run(began+2*time.Second+simTime, float64(changes)*float64(simStep)/float64(simTime))
	s.run(s.now+25*time.Second, 0) // until every disturbance has ended
	s.loss, s.duplicate, s.delay, s.jitter = 0, 0, 0, 0
	clear(s.cut[:])
	for _, n := range s.nodes {
		n.down = false
		n.setPrimary()
		s.restart(n)
	}
	quiet := s.now
	for {
		s.run(s.now+time.Second, 0)
		if s.failures > 0 {
			return &s.figures
		}
		if s.settled() {
			break
		}
		if s.now-quiet > 4*time.Minute {
			s.errorf("nothing settles: %s", s.unsettled())
			return &s.figures
		}
	}
	s.figures.Settling = s.now - quiet
	s.finish()
	s.claims()
	return &s.figures
}

// unsettled says why settled is false.
func (s *sim) unsettled() string {
	var b strings.Builder
	for _, n := range s.nodes {
		st := n.stream.Stats()
		if st.Transmit > 0 || st.Resend > 0 {
			fmt.Fprintf(&b, "node %d: %+v; ", n.id, st)
		}
		for node, p := range &n.peers {
			if p != nil && (p.comparer == nil || !p.proven() || p.has.sum != s.nodes[node-1].said.sum) {
				fmt.Fprintf(&b, "node %d of %d: proven %v, %d and %d flows, %+v; ", n.id, node, p.comparer != nil && p.proven(), p.has.count, s.nodes[node-1].said.count, n.stream.Receipt(uint8(node), s.now))
			}
		}
	}
	return b.String()
}

// describe says what all nodes know of a flow.
func (s *sim) describe(i int) string {
	var b strings.Builder
	f := s.probe(i)
	fmt.Fprintf(&b, "connection %d, ended %v", s.connection[i], s.ended[i])
	for _, n := range s.nodes {
		if k := n.kernel[i]; k.there {
			h := n.own.Flows.Find(f)
			fmt.Fprintf(&b, "; node %d has version %d of connection %d, caused %v at %v, epoch %x, announces %v", n.id, k.version, s.connections[k.version], k.caused, k.traffic-time.Hour, n.own.Flows.Epoch(h), n.Announced(h))
		}
		if n.said.flows[i].version != 0 {
			fmt.Fprintf(&b, "; node %d says %+v", n.id, n.said.flows[i])
		}
		for node, p := range &n.peers {
			if p != nil && p.has.flows[i].version != 0 {
				fmt.Fprintf(&b, "; node %d hears %d: %+v, epoch %x", n.id, node, p.has.flows[i], p.copy.Epoch(p.copy.Find(f)))
			}
		}
	}
	return b.String()
}

var (
	simCount = flag.Uint64("simulations", 200, "how many seeds of the simulation are run")
	simSeed  = flag.Uint64("simulation", 0, "the only seed that is run, unless it is 0")
	simPrint = flag.Bool("figures", false, "print the figures of the simulation")
)

// TestSimulation checks all the time that no node announces or shows a flow whose end it has heard,
// that comparisons of digests are right, and that queues are bounded, and once everything has
// settled that each flow has one owner, which all nodes know.
func TestSimulation(t *testing.T) {
	var mu sync.Mutex
	var total figures
	began, runs := time.Now(), uint64(0)
	t.Run("seeds", func(t *testing.T) {
		count := seeds.Count(*simCount)
		if seeds.Few {
			count = min(count, 5)
		}
		for seed := range count {
			if *simSeed != 0 {
				if seed > 0 {
					break
				}
				seed = *simSeed
			}
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				changes := simChanges
				if seeds.Few {
					changes /= 10
				}
				f := simulate(t, seed, changes)
				mu.Lock()
				defer mu.Unlock()
				total.add(f)
				runs++
			})
		}
	})
	if *simPrint {
		total.print(runs, time.Since(began))
	}
}
