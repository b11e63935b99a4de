//go:build torture

package interop

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fault is a disturbance of a firewall. begin starts it; end, if set, reverts it later.
type fault struct {
	name     string
	lane     string // two faults of a lane do not overlap at one node
	weight   int
	shortest time.Duration // shortest duration
	longest  time.Duration
	begin    func(a *arena, n *node, arg uint32) string // returns a description
	end      func(a *arena, n *node)
}

const (
	laneDaemon  = "daemon"
	laneLink    = "link"
	laneWire    = "wire"
	laneDisk    = "disk"
	laneKernel  = "kernel"
	laneControl = "control"

	lanePartition = "partition"
)

// wires are the faults of a wire.
var wires = []struct {
	name   string
	faults faults
}{
	{"30 % loss", faults{loss: 30}},
	{"10 % corruption", faults{corrupt: 10}},
	{"reordering", faults{reorder: 30}},
	{"duplication", faults{duplicate: 30}},
	{"stale packets", faults{replay: 10}},
	{"everything", faults{loss: 15, corrupt: 5, reorder: 10, duplicate: 10, replay: 5}},
}

// storms are the faults. The duration of a stop is scaled to the available time.
func storms(longestStop time.Duration) []fault {
	second := time.Second
	return []fault{
		{name: "wire", lane: laneWire, weight: 6, shortest: second / 2, longest: 3 * second,
			begin: func(a *arena, _ *node, arg uint32) string {
				w := wires[int(arg)%len(wires)]
				a.wire.set(w.faults)
				return w.name
			},
			end: func(a *arena, _ *node) { a.wire.set(faults{}) }},
		{name: "link", lane: laneLink, weight: 2, shortest: second / 10, longest: 2 * second,
			begin: func(a *arena, n *node, _ uint32) string { n.ns.IP("link", "set", "sync0", "down"); return "down" },
			end:   func(a *arena, n *node) { n.ns.IP("link", "set", "sync0", "up") }},
		{name: "kill -9", lane: laneDaemon, weight: 3, shortest: 0, longest: 2 * second,
			begin: func(a *arena, n *node, _ uint32) string { n.daemon.kill(); return "started anew later" },
			end:   func(a *arena, n *node) { n.daemon.start() }},
		{name: "stop", lane: laneDaemon, weight: 2, shortest: longestStop / 4, longest: longestStop,
			begin: func(a *arena, n *node, _ uint32) string { n.daemon.signal(syscall.SIGSTOP); return "continued later" },
			end:   func(a *arena, n *node) { n.daemon.signal(syscall.SIGCONT) }},
		{name: "restart", lane: laneDaemon, weight: 2,
			begin: func(a *arena, n *node, _ uint32) string {
				n.daemon.stop()
				n.daemon.start()
				return "in an orderly way"
			}},
		{name: "tiny buffer", lane: laneDaemon, weight: 1, shortest: second, longest: 2 * second,
			begin: func(a *arena, n *node, _ uint32) string {
				n.daemon.stop()
				a.configure(n, tinyBuffer(n.daemon.program))
				n.daemon.start()
				return "restarted with an event buffer of 4 KiB"
			},
			end: func(a *arena, n *node) {
				n.daemon.stop()
				a.configure(n, "")
				n.daemon.start()
			}},
		{name: "overrun", lane: laneDaemon, weight: 1, shortest: 300 * time.Millisecond, longest: 300 * time.Millisecond,
			begin: func(a *arena, n *node, arg uint32) string {
				n.daemon.signal(syscall.SIGSTOP)
				a.burst(n, arg)
				return "a burst while the daemon is stopped"
			},
			end: func(a *arena, n *node) { n.daemon.signal(syscall.SIGCONT) }},
		{name: "flush", lane: laneKernel, weight: 1,
			begin: func(a *arena, n *node, _ uint32) string {
				n.kernel.flush()
				return "of the kernel's table"
			}},
		{name: "disk", lane: laneDisk, weight: 2, shortest: second / 2, longest: 3 * second,
			begin: func(a *arena, n *node, _ uint32) string {
				// Until the disk is full.
				_ = os.WriteFile(n.daemon.path("disk/ballast"), make([]byte, 2*diskSize), 0o600)
				return "full under the log"
			},
			end: func(a *arena, n *node) { _ = os.Remove(n.daemon.path("disk/ballast")) }},
		{name: "control", lane: laneControl, weight: 2, shortest: second / 2, longest: 3 * second,
			begin: func(a *arena, n *node, arg uint32) string { a.hammer(n, arg); return "socket hammered" },
			end:   func(a *arena, n *node) { a.rest(n) }},
	}
}

// partitions are cuts of all kinds between three nodes.
func partitions() fault {
	return fault{name: "partition", lane: lanePartition, weight: 5, shortest: 200 * time.Millisecond, longest: 8 * time.Second,
		begin: func(a *arena, n *node, arg uint32) string {
			others := slices.DeleteFunc(slices.Clone(a.nodes), func(o *node) bool { return o == n })
			other := others[arg/8%2]
			there, back := way{n.name, other.name}, way{other.name, n.name}
			switch arg % 8 {
			case 0, 1:
				a.wire.isolate(there, back)
				return "from " + other.name
			case 2, 3:
				a.wire.isolate(partition([]*node{n}, others)...)
				return "from both others"
			case 4:
				a.wire.isolate(there)
				return other.name + " does not hear it"
			case 5:
				a.wire.isolate(way{n.name, others[0].name}, way{n.name, others[1].name})
				return "nobody hears it"
			case 6:
				a.wire.isolate(way{others[0].name, n.name}, way{others[1].name, n.name})
				return "it hears nobody"
			}
			a.wire.isolate(append(partition([]*node{n}, others), partition(others[:1], others[1:])...)...)
			return "of all nodes"
		},
		end: func(a *arena, _ *node) { a.wire.isolate() }}
}

// tinyBuffer makes the kernel drop events. Only ctbox's daemon needs a clause for that, since its buffer grows.
func tinyBuffer(p program) string {
	general := "NetlinkBufferSize 4096\n\tNetlinkBufferSizeMaxGrowth 4096\n"
	if p == ours {
		general += "\tNetlinkBufferSizeFixed on\n"
	}
	return general
}

// step is a fault of a plan.
type step struct {
	at, until time.Duration
	fault     *fault
	node      int
	arg       uint32
}

// plan draws the faults of a round from random alone, in the named lanes or, without names, in
// all lanes.
func plan(random *rand.Rand, all []fault, nodes int, long time.Duration, lanes ...string) []step {
	total := 0
	for _, f := range all {
		total += f.weight
	}
	var steps []step
	busy := map[string]time.Duration{}
	for at := time.Duration(0); at < long; at += time.Duration(random.Int64N(int64(600 * time.Millisecond))) {
		f, draw := 0, random.IntN(total)
		for ; draw >= all[f].weight; f++ {
			draw -= all[f].weight
		}
		s := step{at: at, fault: &all[f], node: random.IntN(nodes), arg: random.Uint32()}
		s.until = at + s.fault.shortest
		if more := s.fault.longest - s.fault.shortest; more > 0 {
			s.until += time.Duration(random.Int64N(int64(more)))
		}
		lane := fmt.Sprint(s.fault.lane, s.node)
		if s.fault.lane == laneWire || s.fault.lane == lanePartition {
			lane = s.fault.lane // all nodes share one
		}
		if at < busy[lane] || len(lanes) > 0 && !slices.Contains(lanes, s.fault.lane) {
			continue
		}
		busy[lane] = s.until + 100*time.Millisecond
		steps = append(steps, s)
	}
	return steps
}

// storm executes a plan.
func (a *arena) storm(steps []step) {
	a.t.Helper()
	type moment struct {
		at time.Duration
		do func()
	}
	var moments []moment
	for _, s := range steps {
		n := a.nodes[s.node]
		// A fault that stops the node's daemon must not interrupt a command of the test.
		moments = append(moments, moment{s.at, func() { a.note("%s: %s: %s", n.name, s.fault.name, s.fault.begin(a, n, s.arg)) }})
		a.applied[s.fault.name]++
		if s.fault.end != nil {
			moments = append(moments, moment{s.until, func() { s.fault.end(a, n); a.note("%s: %s: over", n.name, s.fault.name) }})
		}
	}
	slices.SortStableFunc(moments, func(x, y moment) int { return int(x.at - y.at) })
	begin := time.Now()
	for _, m := range moments {
		time.Sleep(time.Until(begin.Add(m.at)))
		m.do()
		a.alive()
	}
}

// hammers are clients that send requests to a daemon's control socket continuously.
type hammers struct {
	stop chan struct{}
	done sync.WaitGroup
}

// harmless are requests that change nothing, or only cause work. Every client that may connect
// can send any number of them.
var harmless = []uint32{dumpInternal, dumpExternal, statsFlows, statsNetwork, statsCache, statsRuntime, statsLink, statsQueue,
	22, 23, 24, 25, 32, 35, 37, dumpInternalExp, dumpExternalExp}

func (a *arena) hammer(n *node, seed uint32) {
	h := &hammers{stop: make(chan struct{})}
	a.hammering[n] = h
	for i := range 4 {
		random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
		path, rude := n.daemon.path("ctl"), n.daemon.program == ours
		h.done.Go(func() {
			for {
				select {
				case <-h.stop:
					return
				default:
				}
				strike(path, random, rude)
			}
		})
	}
}

// rest stops the hammers of a node.
func (a *arena) rest(n *node) {
	if h := a.hammering[n]; h != nil {
		close(h.stop)
		h.done.Wait()
		delete(a.hammering, n)
	}
}

// strike is one client of the control socket. A rude one may send half a request or an invalid
// one, and close before the answer: Debian's daemon would block on either.
func strike(path string, random *rand.Rand, rude bool) {
	time.Sleep(time.Duration(random.IntN(int(10 * time.Millisecond))))
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second))
	request := binary.NativeEndian.AppendUint32(nil, harmless[random.IntN(len(harmless))])
	manner := 0
	if rude {
		manner = random.IntN(5)
	}
	switch manner {
	case 1:
		request = request[:1+random.IntN(3)]
	case 2:
		request = binary.NativeEndian.AppendUint32(nil, 64+random.Uint32N(1<<15)) // means nothing
	}
	if _, err := conn.Write(request); err != nil || manner == 1 || manner == 3 {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		if _, err := conn.Read(buf); err != nil || manner == 4 {
			return
		}
	}
}

// signal sends a signal to the daemon.
func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := syscall.Kill(d.process.Pid(), s); err != nil {
		d.t.Fatalf("%s: %v: %v", d.name(), s, err)
	}
}

// logged returns the end of the log on the small disk.
func (d *daemon) logged() string {
	b, _ := os.ReadFile(d.path("disk/log"))
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "")
}

// kernelDrops returns the number of events that the kernel has not delivered to the namespace's
// only listener, by the kernel's count (column Drops of /proc/net/netlink).
func (n *node) kernelDrops() (drops uint64) {
	n.kernel.t.Helper()
	var table []byte
	n.ns.Do(func() { table, _ = os.ReadFile("/proc/thread-self/net/netlink") })
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		const netfilter = "12"
		if len(f) > 8 && f[1] == netfilter && strings.Trim(f[3], "0") != "" {
			var d uint64
			fmt.Sscan(f[8], &d)
			drops += d
		}
	}
	return drops
}

// unheard returns the number of messages to this node that were lost or corrupted so far.
func (w *badWire) unheard(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.killed[name]
}
