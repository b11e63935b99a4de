//go:build torture

package interop

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

var (
	tortureTime = flag.Duration("torture.time", time.Minute, "how long it takes, all arenas together; an arena ends with the round that it is in")
	seedFlag    = flag.Uint64("seed", 0, "what all choices are made from; 0 takes one from the clock")
	arenaFlag   = flag.String("arena", "", "only arenas whose name contains this")
)

// seed determines the choices of this run. The run prints it first.
func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = uint64(time.Now().UnixNano())%1e9 + 1
	}
	fmt.Printf("%s: seed %d\n", t.Name(), s)
	return s
}

// arena is nodes on one bad wire, with load and faults.
type arena struct {
	t     *testing.T
	name  string
	mode  mode
	who   []program
	share int // of the time, relative to other arenas
	rate  int // changes a second at each node
	flows int // at each node

	key     string   // a key file: the nodes are a sealed Cluster; "" for version 1
	cluster *cluster // of more than two nodes, or nil

	seed  uint64
	long  time.Duration
	begun time.Time

	nodes     []*node
	wire      *badWire
	loads     []*load
	real      []*connections
	hammering map[*node]*hammers

	journal   []string
	applied   map[string]int
	usages    map[int][]usage // of ctbox's daemons, by process id
	asked     int             // resyncs that an operator had to request
	restarted int             // restarts of Debian's daemon that were necessary for that
	died      int             // crashes of Debian's daemons
	drops     uint64          // events that the kernel dropped and ctbox's daemons counted
	unheard   int             // messages to ctbox's daemons that the wire lost
	counted   uint64          // messages that ctbox's daemons counted as lost, in the same rounds
}

func arenas() []*arena {
	ftfw, notrack, alarm := modes[0], modes[1], modes[2]
	alarm.options = "RefreshTime 2\n\tCacheTimeout 8"
	return []*arena{
		{name: "FTFW/ours+ours", mode: ftfw, who: []program{ours, ours}, share: 4, rate: 2000, flows: 3000},
		{name: "sealed/ours+ours", mode: ftfw, who: []program{ours, ours}, share: 4, rate: 2000, flows: 3000, key: "made at the start"},
		{name: "sealed/ours+ours+ours", mode: ftfw, who: []program{ours, ours, ours}, share: 6, rate: 1000, flows: 2000, key: "made at the start"},
		{name: "FTFW/ours+Debian", mode: ftfw, who: []program{ours, debian}, share: 3, rate: 1000, flows: 2000},
		{name: "NOTRACK/ours+ours+Debian", mode: notrack, who: []program{ours, ours, debian}, share: 2, rate: 700, flows: 1500},
		{name: "ALARM/ours+ours+Debian", mode: alarm, who: []program{ours, ours, debian}, share: 2, rate: 500, flows: 1000},
	}
}

// TestTorture disturbs busy nodes with random faults. After each round the nodes must agree
// with the kernels. See docs/reliability.md.
func TestTorture(t *testing.T) {
	s := seed(t)
	shares := 0
	for _, a := range arenas() {
		shares += a.share
	}
	for i, a := range arenas() {
		if !strings.Contains(a.name, *arenaFlag) {
			continue
		}
		t.Run(a.name, func(t *testing.T) {
			a.t, a.seed = t, s+uint64(i)<<32
			a.long = *tortureTime * time.Duration(a.share) / time.Duration(shares)
			a.run()
		})
	}
}

// note adds a line to the log of faults.
func (a *arena) note(format string, args ...any) {
	a.journal = append(a.journal, fmt.Sprintf("%9.3f ", time.Since(a.begun).Seconds())+fmt.Sprintf(format, args...))
}

func (a *arena) run() {
	a.open()
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("seed %d; what happened, in seconds:\n%s", a.seed&(1<<32-1), strings.Join(a.journal, "\n"))
		}
	})
	random := rand.New(rand.NewPCG(a.seed, 1))
	stop := min(20*time.Second, max(time.Second, a.long/10))
	all := storms(stop)
	if a.cluster != nil {
		all = append(all, partitions())
	}
	// Long enough for several faults at once, short enough for many ends.
	long := 4*time.Second + 2*stop
	rounds := 0
	for ; rounds < 2 || time.Since(a.begun) < a.long; rounds++ {
		var lanes []string
		if rounds%2 == 0 {
			lanes = []string{laneWire, laneControl, laneDisk} // in these lanes losses can be counted
		}
		a.round(plan(random, all, len(a.nodes), long, lanes...), lanes != nil, long)
	}
	a.end()
	a.t.Logf("%d rounds; faults: %v; %d changes, %d real connections; operator asked %d times, restarted Debian's %d times; Debian's died %d times; "+
		"%d kernel events dropped and counted; %d messages kept from our daemons, %d counted lost",
		rounds, a.applied, a.changes(), a.connected(), a.asked, a.restarted, a.died, a.drops, a.unheard, a.counted)
}

// open creates nodes, wire and daemons.
func (a *arena) open() {
	a.begun = time.Now()
	if a.key != "" {
		a.key = newKeyFile(a.t)
	}
	a.hammering, a.applied, a.usages = map[*node]*hammers{}, map[string]int{}, map[int][]usage{}
	p := &pair{t: a.t}
	for i, who := range a.who {
		n := newNode(a.t, p, &sides[i])
		// Flows that begin while all daemons are down must cause events for their changes, too.
		// Otherwise Debian's daemon never learns of these, and ctbox's only after minutes.
		n.ns.Sysctl("net.netfilter.nf_conntrack_events", "1")
		n.daemon = newDaemon(a.t, n.ns, who, "", "")
		mountSmall(a.t, n.daemon.path("disk"))
		a.nodes = append(a.nodes, n)
		a.loads = append(a.loads, newLoad(n, a.seed+uint64(i), a.rate, a.flows))
	}
	a.wire = connect(a.t, faults{}, a.seed, a.nodes...)
	if a.key != "" && len(a.nodes) > 2 {
		a.cluster = &cluster{t: a.t, nodes: a.nodes, wire: a.wire, key: a.key}
	}
	for _, n := range a.nodes {
		a.configure(n, "")
		n.daemon.start()
	}
}

// diskSize is the size of the log's disk.
const diskSize = 1 << 20

// mountSmall mounts a small file system on the directory.
func mountSmall(t *testing.T, path string) {
	t.Helper()
	err := os.Mkdir(path, 0o700)
	if err == nil {
		err = syscall.Mount("torture", path, "tmpfs", syscall.MS_NODEV|syscall.MS_NOSUID, fmt.Sprintf("size=%d", diskSize))
	}
	if err != nil {
		t.Fatalf("small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Errorf("small disk: %v", err)
		}
	})
}

// configure writes a node's configuration.
func (a *arena) configure(n *node, general string) {
	general = "NetlinkOverrunResync 1\n\tLogFile " + filepath.Join(n.daemon.path("disk"), "log") + "\n\t" + general
	if a.cluster != nil {
		n.daemon.configure(a.cluster.clause(n, a.nodes...), general)
		return
	}
	clause := udp(4, 0, "sync0", "")
	if a.key != "" {
		clause = inCluster(4, a.key).clause
	} else if len(a.nodes) > 2 {
		clause = multicast(4)
	}
	link := strings.Replace(clause(n.side, a.peerOf(n)), "Interface sync0\n", "Interface sync0\n\tRcvSocketBuffer 8388608\n\tSndSocketBuffer 8388608\n", 1)
	n.daemon.configure(fmt.Sprintf("Mode %s {\n\t%s\n}\n%s\n", a.mode.name, a.mode.options, link), general)
}

// peerOf is the other node of two.
func (a *arena) peerOf(n *node) *side {
	if a.nodes[0] == n {
		return &sides[1]
	}
	return &sides[0]
}

// alive fails the test if a daemon of ctbox has died. It restarts one of Debian's.
func (a *arena) alive() {
	a.t.Helper()
	for _, n := range a.nodes {
		if !n.daemon.process.Ended() {
			continue
		}
		r := n.daemon.process.Wait(time.Second)
		if r.Code == 128+int(syscall.SIGKILL) || r.Code == 0 {
			continue // a fault did that
		}
		a.note("%s: died with status %d", n.daemon.name(), r.Code)
		if n.daemon.program == ours {
			a.t.Fatalf("%s has died with status %d:\n%s%s\n%s", n.daemon.name(), r.Code, r.Stdout, r.Stderr, n.daemon.logged())
		}
		a.died++
		os.Remove(n.daemon.path("lock"))
		n.daemon.start()
	}
}

// burst makes changes as fast as possible, with a load of its own whose flows are short-lived.
func (a *arena) burst(n *node, seed uint32) {
	l := newLoad(n, uint64(seed), 0, 500)
	l.first, l.next = 300000, 300000
	if err := l.burst(8000); err != nil {
		a.t.Fatal(err)
	}
}

func (a *arena) changes() (sum int64) {
	for _, l := range a.loads {
		sum += l.changes.Load()
	}
	return sum
}

func (a *arena) connected() (sum int64) {
	for _, c := range a.real {
		sum += c.count.Load()
	}
	return sum
}

// round is a storm over busy nodes, followed by a quiet time.
func (a *arena) round(steps []step, exact bool, long time.Duration) {
	a.t.Helper()
	a.note("round of %v, %d faults", long, len(steps))
	unheard, lost := map[*node]int{}, map[*node]uint64{}
	a.eachOurs(func(n *node) { unheard[n], lost[n] = a.wire.unheard(n.name), n.daemon.statistics().Lost })
	end := time.Now().Add(long)
	for i, n := range a.nodes {
		a.loads[i].begin()
		a.real = append(a.real, n.startConnections(25))
	}
	a.storm(steps)
	time.Sleep(time.Until(end))
	for i, n := range a.nodes {
		a.rest(n)
		if err := a.loads[i].end(); err != nil {
			a.t.Error(err)
		}
		a.real[len(a.real)-1-i].end()
	}
	a.wire.set(faults{})
	a.note("quiet")
	a.settle()
	if a.cluster != nil {
		a.cluster.inSync("after the round", a.nodes...)
		a.oneOwner()
	}
	if a.key != "" {
		if a.cluster == nil {
			for _, n := range a.nodes {
				n.provenEqual("after the round")
			}
		}
		exact = false // the wire cannot read what is sealed
	}
	a.countLoss(unheard, lost, exact)
	a.note("equal")
	a.commit()
	a.alive()
	a.eachOurs(func(n *node) {
		u := usageOf(n.daemon.process.Pid())
		a.usages[u.pid] = append(a.usages[u.pid], u)
	})
}

func (a *arena) eachOurs(do func(*node)) {
	for _, n := range a.nodes {
		if n.daemon.program == ours {
			do(n)
		}
	}
}

// settle waits until the caches of all nodes are right. In FT-FW and ALARM ctbox's daemons get
// there by themselves. NOTRACK repeats nothing, Debian's daemon does not detect every loss, and
// after many overruns the next comparison with the kernel is minutes away: in these cases
// settle requests everything, as an operator would.
func (a *arena) settle() {
	a.t.Helper()
	alone := 15 * time.Second
	if a.mode.name == "NOTRACK" {
		alone = time.Second
	}
	deadline := time.Now().Add(2 * patience)
	operator := time.Now().Add(alone)
	asked := 0
	for {
		diff, mayAsk := a.untrue()
		if diff == "" {
			return
		}
		now := time.Now()
		if now.After(deadline) {
			a.note("not equal")
			a.t.Fatalf("%v after all faults the nodes are not equal (- missing, + too many):\n%s", 2*patience, diff+a.logs())
		}
		if mayAsk && now.After(operator) {
			a.askForAll(asked)
			asked++
			operator = now.Add(15 * time.Second)
		}
		time.Sleep(200 * time.Millisecond)
		a.alive()
	}
}

// askForAll is an operator's reaction to nodes that differ. A daemon of Debian's that has
// received a packet from before its peer's restart takes all messages of the peer for old until
// it is restarted itself: the second try does that.
func (a *arena) askForAll(before int) {
	a.t.Helper()
	a.asked++
	a.note("operator asks for everything")
	for _, n := range a.nodes {
		if before > 0 && n.daemon.program == debian {
			a.restarted++
			a.note("operator restarts %s", n.daemon.name())
			n.daemon.stop()
			n.daemon.start()
		}
	}
	for _, n := range a.nodes {
		n.daemon.client("-f", "external")
		if n.daemon.program == debian {
			n.daemon.client("-f", "internal") // it keeps flows whose end it missed
		}
		n.daemon.client("-R")
	}
	for _, n := range a.nodes {
		n.daemon.client("-B")
		if a.mode.dialogue {
			n.daemon.client("-n")
		}
	}
}

func (a *arena) logs() string {
	var s strings.Builder
	for _, n := range a.nodes {
		fmt.Fprintf(&s, "\n%s logs:\n%s\nand says:\n%s%s%s", n.daemon.name(), n.daemon.logged(),
			n.daemon.ask(statsNetwork), n.daemon.ask(statsQueue), n.daemon.ask(statsCache))
	}
	return s.String()
}

// untrue returns the first difference between a kernel and a cache of it, and whether an
// operator is needed to correct that.
func (a *arena) untrue() (diff string, mayAsk bool) {
	a.t.Helper()
	truth := map[*node]map[entry]bool{}
	for _, n := range a.nodes {
		truth[n] = n.kernel.entries()
		overrun := n.daemon.program == ours && n.daemon.statistics().Kernel.Overruns > 1
		if d := difference(truth[n], n.internal()); d != "" {
			return n.daemon.name() + ": internal cache against the kernel:\n" + d, overrun || n.daemon.program == debian
		}
	}
	for _, to := range a.nodes {
		external := to.external()
		for _, from := range a.nodes {
			if from == to {
				continue
			}
			if d := difference(about(truth[from], from.side), about(external, from.side)); d != "" {
				return to.daemon.name() + ": external cache against the kernel of " + from.daemon.name() + ":\n" + d,
					a.mode.name == "NOTRACK" || to.daemon.program == debian || from.daemon.program == debian
			}
		}
	}
	return "", false
}

// countLoss checks that ctbox's daemons count losses: events that the kernel dropped and, if no
// daemon was restarted, messages that the wire lost.
func (a *arena) countLoss(unheard map[*node]int, lost map[*node]uint64, exact bool) {
	a.t.Helper()
	a.eachOurs(func(n *node) {
		now := n.daemon.statistics()
		if drops := n.kernelDrops(); drops != now.Kernel.Lost {
			a.t.Errorf("%s: the kernel has dropped %d events, the daemon counts %d", n.daemon.name(), drops, now.Kernel.Lost)
		} else {
			a.drops += drops
		}
		if !exact || a.mode.name == "ALARM" {
			return // ALARM detects no losses by sequence numbers
		}
		missed := a.wire.unheard(n.name) - unheard[n]
		a.unheard += missed
		a.counted += now.Lost - lost[n]
		if now.Lost-lost[n] < uint64(missed) {
			a.t.Errorf("%s: the wire has kept %d messages from it, it counts %d lost", n.daemon.name(), missed, now.Lost-lost[n])
		}
	})
}

// commit makes every node take over, compares the kernels, and removes the committed flows
// again.
func (a *arena) commit() {
	a.t.Helper()
	if a.cluster != nil {
		a.take()
		return
	}
	for _, to := range a.nodes {
		to.daemon.commit()
		for _, from := range a.nodes {
			if from != to {
				a.compare(from, to)
			}
		}
	}
	if a.t.Failed() {
		a.t.FailNow()
	}
	// Not earlier: the removal announces the ends of these flows.
	for _, n := range a.nodes {
		for _, f := range n.kernel.flows() {
			if !n.ownsTuple(&f.Orig) {
				n.kernel.remove(&f)
			}
		}
	}
}

// oneOwner checks that every node shows the flows of each other one, and no others, as owned by it.
func (a *arena) oneOwner() {
	a.t.Helper()
	for _, to := range a.nodes {
		all := 0
		for _, from := range a.nodes {
			if from == to {
				continue
			}
			owned := entriesOf(to.daemon.client("-e", "--owner", from.name))
			all += len(owned)
			if d := difference(from.kernel.entries(), owned); d != "" {
				a.t.Fatalf("%s shows as owned by %s, against its kernel (- missing, + too many):\n%s", to.name, from.name, d+a.logs())
			}
		}
		if n := len(to.external()); n != all {
			a.t.Fatalf("%s shows %d flows, and %d with an owner\n%s", to.name, n, all, a.logs())
		}
	}
}

// take is commit in a cluster of several nodes, all of which live: each takes the flows of the next one, which
// takes them back.
func (a *arena) take() {
	a.t.Helper()
	for i, to := range a.nodes {
		from := a.nodes[(i+1)%len(a.nodes)]
		to.daemon.client("-c", "--owner", from.name)
		a.compare(from, to)
		// A selector takes what the node shows as another's: the claims have to be here.
		netnstest.Eventually(a.t, patience, from.name+" shows its flows as owned by "+to.name, func() bool {
			return difference(from.kernel.entries(), about(entriesOf(from.daemon.client("-e", "--owner", to.name)), from.side)) == ""
		})
		for _, net := range []string{from.net4 + "0/24", from.net6 + "/64"} {
			from.daemon.client("-c", "--src", net)
		}
		a.settle()
		for _, f := range to.kernel.flows() {
			if !to.ownsTuple(&f.Orig) {
				to.kernel.remove(&f)
			}
		}
	}
	if a.t.Failed() {
		a.t.FailNow()
	}
	a.settle()
	a.oneOwner()
}

// compare compares the kernel of a node that has committed with another node's.
func (a *arena) compare(from, to *node) {
	a.t.Helper()
	there := map[identity]ctnetlink.Flow{}
	for _, f := range to.kernel.flows() {
		there[identityOf(&f)] = f
	}
	const enough = 10
	bad := 0
	for _, f := range from.kernel.flows() {
		if !from.ownsTuple(&f.Orig) {
			continue
		}
		d := " it is missing"
		if got, ok := there[identityOf(&f)]; ok {
			d = compareFlows(&f, &got, to.daemon.program)
		}
		if d == "" {
			continue
		}
		if bad++; bad <= enough {
			a.t.Errorf("%s after the commit: %s of %s:%s", to.daemon.name(), entryOfFlow(&f), from.name, d)
		}
	}
	if bad > enough {
		a.t.Errorf("and %d more", bad-enough)
	}
}

// end removes all flows and checks the daemons' final use of resources.
func (a *arena) end() {
	a.t.Helper()
	for _, n := range a.nodes {
		for _, f := range n.kernel.flows() {
			n.kernel.remove(&f)
		}
	}
	a.settle()
	const grace = 24 << 10 // KiB
	for _, all := range a.usages {
		first, last := all[0], all[len(all)-1]
		if last.rss > first.rss*3/2+grace || last.files > first.files+4 || last.threads > first.threads+8 {
			a.t.Errorf("a daemon took %v after its first round, and %v after round %d", first, last, len(all))
		}
	}
	a.eachOurs(func(n *node) {
		used := n.daemon.goroutines()
		n.daemon.start()
		netnstest.Eventually(a.t, patience, n.daemon.name()+" is in business", func() bool {
			return strings.Contains(n.daemon.ask(statsRuntime), "uptime")
		})
		if fresh := n.daemon.goroutines(); used > fresh+3 {
			a.t.Errorf("%s: %d goroutines at the end, %d after a start", n.daemon.name(), used, fresh)
		}
	})
	for _, all := range a.usages {
		if len(all) > 1 {
			a.t.Logf("process %d: %v after its first round, %v after the last of %d", all[0].pid, all[0], all[len(all)-1], len(all))
		}
	}
}
