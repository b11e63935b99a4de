package proto

import (
	"container/heap"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/wire"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run the simulations with this seed only, and print what happens")
	seedsFlag = flag.Uint64("seeds", seeds.Count(1000), "how many seeds each simulation runs with")
)

// forSeeds runs a simulation with many seeds. A seed repeats its run.
func forSeeds(t *testing.T, run func(s *sim)) { forSomeSeeds(t, 1, run) }

// forSomeSeeds runs a slow simulation with a fraction of the seeds.
func forSomeSeeds(t *testing.T, fraction uint64, run func(s *sim)) {
	first, last := uint64(1), max(1, *seedsFlag/fraction)
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		s := newSim(t, seed)
		run(s)
		if t.Failed() {
			t.Fatalf("repeat with: go test ./sync/proto -run '^%s$' -seed %d -v", t.Name(), seed)
		}
	}
}

// sim is a set of nodes on a network with faults, in virtual time. The seed determines
// everything random.
type sim struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	queue  agenda
	serial int
	nodes  []simNode
	faults faults
	epoch  uint32 // the time of day at the start, in seconds
	sent   int    // datagrams
	trace  bool
}

// faults are the faults of the network; probabilities are in percent.
type faults struct {
	loss, duplicate, garble int
	delay                   time.Duration // the longest; datagrams overtake each other
	forge                   bool          // garbled datagrams arrive: there are no checksums
}

// simNode is a daemon as the network and the kernel see it.
type simNode interface {
	boot()
	crash()
	datagram(from int, b []byte)
	timer()
	deadline() time.Duration
	changed(key uint16) // the kernel's entry with this key is new, changed or removed
	external() map[uint16]uint32
	kernel() map[uint16]uint32
	running() bool
	keys() (first, end uint16) // of its kernel's flows
	check()
}

type task struct {
	at     time.Duration
	serial int // orders tasks with equal times
	run    func()
}

type agenda []task

func (a agenda) Len() int      { return len(a) }
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].serial < a[j].serial
}
func (a *agenda) Push(x any) { *a = append(*a, x.(task)) }
func (a *agenda) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

func newSim(t *testing.T, seed uint64) *sim {
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &sim{t: t, rng: rng, epoch: rng.Uint32(), trace: *seedFlag != 0}
	if s.chance(30) {
		s.epoch = -uint32(1 + rng.IntN(300)) // the numbers wrap around during the run
	}
	return s
}

func (s *sim) after(d time.Duration, run func()) {
	s.serial++
	heap.Push(&s.queue, task{s.now + d, s.serial, run})
}

func (s *sim) logf(format string, args ...any) {
	if s.trace {
		s.t.Logf("%10.3fs %s", s.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// run lets time pass until end.
func (s *sim) run(end time.Duration) {
	for !s.t.Failed() {
		next, who := end, simNode(nil)
		for _, n := range s.nodes {
			if n.running() && n.deadline() < next {
				next, who = max(n.deadline(), s.now), n
			}
		}
		if len(s.queue) > 0 && s.queue[0].at <= next && s.queue[0].at <= end {
			t := heap.Pop(&s.queue).(task)
			s.now = t.at
			t.run()
		} else if who != nil {
			s.now = next
			who.timer()
		} else {
			s.now = end
			return
		}
		for _, n := range s.nodes {
			if n.running() {
				n.check()
			}
		}
	}
}

// pair reports whether there are exactly two nodes and the network forges nothing.
func (s *sim) pair() bool { return len(s.nodes) == 2 && !s.faults.forge }

// chance returns true with a probability of percent.
func (s *sim) chance(percent int) bool { return s.rng.IntN(100) < percent }

func (s *sim) randomTime(most time.Duration) time.Duration {
	return time.Duration(s.rng.Int64N(int64(most) + 1))
}

// transmit sends a datagram from one node to all others.
func (s *sim) transmit(from int, b []byte) {
	s.sent++
	if s.trace {
		s.logf("%d sends %s", from, describe(b))
	}
	for to, n := range s.nodes {
		if to == from {
			continue
		}
		copies := 1
		if s.chance(s.faults.duplicate) {
			copies = 2
		}
		for range copies {
			garbled := s.chance(s.faults.garble)
			if s.chance(s.faults.loss) || garbled && !s.faults.forge {
				s.logf("  lost on the way to %d", to)
				continue
			}
			data := slices.Clone(b)
			if garbled {
				for range 1 + s.rng.IntN(4) {
					data[s.rng.IntN(len(data))] ^= 1 << s.rng.IntN(8)
				}
			}
			s.after(100*time.Microsecond+s.randomTime(s.faults.delay), func() {
				if n.running() {
					if s.trace {
						s.logf("%d gets %s", to, describe(data))
					}
					n.datagram(from, data)
				}
			})
		}
	}
}

// describe returns a datagram's messages as text.
func describe(b []byte) string {
	var c wire.Counters
	var out []string
	for r := wire.ReadDatagram(b); ; {
		m, ok := r.Next(&c)
		if !ok {
			return strings.Join(out, ", ")
		}
		out = append(out, describeHeader(m.Header))
	}
}

func describeHeader(h wire.Header) string {
	names := map[wire.Type]string{wire.FlowNew: "NEW", wire.FlowUpdate: "UPD", wire.FlowDelete: "DEL",
		wire.ExpectNew: "ENEW", wire.ExpectUpdate: "EUPD", wire.ExpectDelete: "EDEL"}
	var words []string
	if n, ok := names[h.Type]; ok {
		words = append(words, n)
	}
	for _, f := range []struct {
		flag wire.Flags
		name string
	}{{wire.Ack, "ACK"}, {wire.Nack, "NACK"}, {wire.Resync, "RESYNC"}, {wire.Alive, "ALIVE"},
		{wire.BulkBegin, "BULK_BEGIN"}, {wire.BulkEnd, "BULK_END"}, {wire.Hello, "HELLO"}, {wire.HelloBack, "HELLO_BACK"}} {
		if h.Flags&f.flag != 0 {
			words = append(words, f.name)
		}
	}
	text := fmt.Sprintf("%s %d", strings.Join(words, "|"), h.Seq)
	if h.Ranged() && h.Flags&wire.Resync == 0 {
		text += fmt.Sprintf(" %d..%d", h.From, h.To)
	}
	return text
}

// address returns a node's address, the same on every link.
func address(node int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(node + 1)}) }

// flowOf returns the flow for a key and the version of its contents.
func flowOf(key uint16, version uint32) ctnetlink.Flow {
	return ctnetlink.Flow{
		Has: ctnetlink.HasMark,
		Orig: ctnetlink.Tuple{
			Has: ctnetlink.TupleAddrs | ctnetlink.TupleProto | ctnetlink.TuplePorts, Family: nl.FamilyIPv4, Proto: ctnetlink.ProtoUDP,
			Src: ctnetlink.Addr{192, 0, 2, 2}, Dst: ctnetlink.Addr{198, 51, 100, 2}, SrcPort: key, DstPort: 53,
		},
		Mark: version,
	}
}

// simKeys is the number of different flows that a node's kernel can have. If more than two
// nodes share a group, each has its own keys.
const simKeys = 40

// boot fills the kernels and starts all nodes within the time.
func (s *sim) boot(within time.Duration) {
	for _, n := range s.nodes {
		for range s.rng.IntN(20) {
			s.change(n)
		}
		s.after(s.randomTime(within), n.boot)
	}
}

// others returns what a node's external cache should hold: the flows of all other kernels.
func (s *sim) others(n simNode) map[uint16]uint32 {
	all := map[uint16]uint32{}
	for _, other := range s.nodes {
		if other != n {
			maps.Copy(all, other.kernel())
		}
	}
	return all
}

// change changes a node's kernel at random and informs its daemon.
func (s *sim) change(n simNode) {
	first, end := n.keys()
	key := first + uint16(s.rng.IntN(int(end-first)))
	k := n.kernel()
	if _, there := k[key]; there && s.chance(35) {
		delete(k, key)
	} else {
		k[key] = s.rng.Uint32()
	}
	if n.running() {
		n.changed(key)
	}
}

// trouble makes changes and restarts at random times until end.
func (s *sim) trouble(end time.Duration, changes, restarts int) {
	for range changes {
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		// Changes come in bursts, which the transmission must coalesce.
		burst := 1 + s.rng.IntN(6)
		s.after(s.randomTime(end), func() {
			for range burst {
				s.change(n)
			}
		})
	}
	for range restarts {
		i := s.rng.IntN(len(s.nodes))
		down := s.randomTime(4 * time.Second)
		s.after(s.randomTime(end), func() {
			if n := s.nodes[i]; n.running() {
				s.logf("%d crashes", i)
				n.crash()
				s.after(down, func() { s.logf("%d starts", i); n.boot() })
			}
		})
	}
}

// same compares a node's external cache with what it should hold.
func (s *sim) same(what string, want, got map[uint16]uint32) {
	s.t.Helper()
	if maps.Equal(want, got) {
		return
	}
	s.covers(what, want, got)
	for k := range got {
		if _, ok := want[k]; !ok {
			s.t.Errorf("%s: flow %d is left over", what, k)
		}
	}
}

// covers is same, but allows additional flows.
func (s *sim) covers(what string, want, got map[uint16]uint32) {
	s.t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok {
			s.t.Errorf("%s: flow %d is missing", what, k)
		} else if g != v {
			s.t.Errorf("%s: flow %d is %#x, want %#x", what, k, g, v)
		}
	}
}
