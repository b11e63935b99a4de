package export

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// host is a namespace in which a conntrackd with exporters runs.
type host struct {
	*netnstest.NS
	t   testing.TB
	dir string
	pid int // of a process in the namespace
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{NS: netnstest.New(t, "export"), t: t, dir: t.TempDir()}
	h.Track()
	h.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	h.Sysctl("net.netfilter.nf_conntrack_timestamp", "1")
	h.Sysctl("net.netfilter.nf_conntrack_events", "1") // also of flows that are older than the daemon
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// start runs a daemon with what is to be in General and with other clauses.
func (h *host) start(general, clauses string) *netnstest.Process {
	h.t.Helper()
	h.configure(general, clauses)
	p := h.Start(netnstest.Applet(h.t, "conntrackd"), "-C", h.path("conf"))
	netnstest.Eventually(h.t, deadline, "the daemon is started", func() bool {
		if p.Ended() {
			h.t.Fatalf("conntrackd ended: %s%s", p.Stdout, p.Stderr)
		}
		return strings.Contains(p.Stdout.String(), "-- starting in console mode --")
	})
	return p
}

func (h *host) configure(general, clauses string) {
	h.t.Helper()
	text := fmt.Sprintf("General {\n LockFile %s\n UNIX {\n  Path %s\n }\n HashLimit 1000000\n%s\n}\n%s\n", h.path("lock"), h.path("ctl"), general, clauses)
	if err := os.WriteFile(h.path("conf"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// exported is an exporter in the daemon's status.
type exported struct {
	Name                                        string
	Records, Sent, Queued, Failures, Reconnects uint64
	ThrownAway                                  uint64 `json:"thrown_away"`
	EventsLost                                  uint64 `json:"events_lost"`
	Flows                                       uint64
	FlowsNow                                    uint64 `json:"flows_now"`
	Error                                       string
}

// status returns the daemon's exporters.
func (h *host) status() []exported {
	h.t.Helper()
	var s struct{ Exports []exported }
	if err := json.Unmarshal([]byte(h.client("-s", "export", "-o", "json")), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Exports
}

func (h *host) client(args ...string) string {
	h.t.Helper()
	return h.Must(netnstest.Applet(h.t, "conntrackd"), append([]string{"-C", h.path("conf")}, args...)...)
}

// await waits until all exporters have sent what they have made, and have made what is asked
// for.
func (h *host) await(what string, is func(*exported) bool) {
	h.t.Helper()
	var last []exported
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%+v", last)
		}
	}()
	netnstest.Eventually(h.t, 2*deadline, what, func() bool {
		last = h.status()
		for i := range last {
			if !is(&last[i]) || last[i].Queued > 0 {
				return false
			}
		}
		return len(last) > 0
	})
}

// change makes or deletes flows in the kernel's table.
func (h *host) change(typ nl.Type, flags uint16, n int, flow func(int) *ctnetlink.Flow) {
	h.t.Helper()
	c, err := nl.Dial(nl.Config{NetNS: h.FD()})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	p := c.NewPipeline(h.t.Context(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			return fmt.Errorf("flow %d of the batch: %w", f.Index, f.Err)
		}
		return nil
	})
	var b *nl.Batch
	for i := range n {
		if b == nil {
			if b, err = p.Batch(); err != nil {
				h.t.Fatal(err)
			}
		}
		f := flow(i)
		b.Add(nl.Request{Type: typ, Flags: flags, Family: f.Family(), Attrs: f.Append})
		if b.Full() || i == n-1 {
			if err := p.Submit(b); err != nil {
				h.t.Fatal(err)
			}
			b = nil
		}
	}
	if err := p.Close(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) create(n int, flow func(int) *ctnetlink.Flow) {
	h.t.Helper()
	h.change(ctnetlink.TypeFlowNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL, n, flow)
}

func (h *host) delete(n int, flow func(int) *ctnetlink.Flow) {
	h.t.Helper()
	h.change(ctnetlink.TypeFlowDelete, 0, n, func(i int) *ctnetlink.Flow {
		f := flow(i)
		f.Has &= ctnetlink.HasZone
		f.Reply = ctnetlink.Tuple{}
		return f
	})
}

// table returns the flows in the kernel.
func (h *host) table() (all []ctnetlink.Flow) {
	h.t.Helper()
	c, err := nl.Dial(nl.Config{NetNS: h.FD()})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	if _, err := ctnetlink.DumpFlows(h.t.Context(), c, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		all = append(all, f.Clone())
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
	return all
}

// mixed is flow i of the tests: TCP, UDP and ICMP over IPv4 and IPv6, with its source, its
// destination, both or none translated, in no zone, one, or one of a direction.
func mixed(i int) *ctnetlink.Flow {
	four := func(net byte) string {
		a := [4]byte{10, net}
		binary.BigEndian.PutUint16(a[2:], uint16(i/40000)<<8|1)
		return netip.AddrFrom4(a).String()
	}
	a, b, c, d := four(1), four(2), four(3), four(4)
	if i%3 == 2 {
		group := fmt.Sprintf("%x", i/40000+1)
		a, b, c, d = "2001:db8:1::"+group, "2001:db8:2::1", "2001:db8:3::"+group, "2001:db8:4::1"
	}
	proto := [...]uint8{6, 17, 1, 6, 17}[i%5]
	if proto == 1 && i%3 == 2 {
		proto = 58
	}
	n := uint16(i%40000 + 1024)
	f := &ctnetlink.Flow{Has: ctnetlink.HasTimeout | ctnetlink.HasStatus, Timeout: 600, Status: ctnetlink.StatusConfirmed | ctnetlink.StatusSeenReply | ctnetlink.StatusAssured}
	var ports [2]uint16
	switch proto {
	case 1:
		ports = [2]uint16{n, 8 << 8}
	case 58:
		ports = [2]uint16{n, 128 << 8}
	default:
		ports = [2]uint16{n, 443}
	}
	if proto == 6 {
		f.Has |= ctnetlink.HasTCPState
		f.TCPState = uint8(3 + i/7%2*4) // ESTABLISHED, TIME_WAIT
	}
	f.Orig = tuple(proto, a, b, ports[0], ports[1])
	f.Reply = f.Orig.Inverted()
	icmp := ctnetlink.IsICMP(proto)
	if i%4 == 1 || i%4 == 3 { // source
		f.Reply.Dst = addr(c)
		if icmp {
			f.Reply.ICMPID ^= 0x4000
		} else {
			f.Reply.DstPort ^= 0x4000
		}
	}
	if i%4 >= 2 { // destination
		f.Reply.Src = addr(d)
		if !icmp {
			f.Reply.SrcPort = 8443
		}
	}
	switch i % 11 {
	case 3:
		f.Zone, f.Has = 7, f.Has|ctnetlink.HasZone
	case 5:
		f.Orig.Zone, f.Orig.Has = 9, f.Orig.Has|ctnetlink.TupleZone
	}
	return f
}

// text is a flow as the kernel and a record must agree on it.
func text(f *ctnetlink.Flow) string {
	t := func(t *ctnetlink.Tuple) string {
		a := func(a *ctnetlink.Addr) string { return string(format.AppendAddr(nil, t.Family, a)) }
		return fmt.Sprint(t.Proto, a(&t.Src), a(&t.Dst), t.SrcPort, t.DstPort, t.ICMPID, t.ICMPType, t.ICMPCode, t.Zone)
	}
	zone := uint16(0)
	if f.Has&ctnetlink.HasZone != 0 {
		zone = f.Zone
	}
	return fmt.Sprint(t(&f.Orig), " ", t(&f.Reply), " ", zone, f.ID, f.CountersOrig, f.CountersReply)
}

func texts(flows []ctnetlink.Flow) (all []string) {
	for i := range flows {
		all = append(all, text(&flows[i]))
	}
	slices.Sort(all)
	return all
}

// logged is what a JSON log says.
type logged struct {
	begun, ended, going []ctnetlink.Flow
	existing, madeUp    int
	lost, thrown        uint64
}

func readLog(t testing.TB, name string) *logged {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var l logged
	var r format.FlowReader
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var more struct {
			Event, Origin, Reason string
			Messages, Records     uint64
		}
		if err := json.Unmarshal(lines.Bytes(), &more); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		switch more.Origin {
		case "existing":
			l.existing++
		case "made_up":
			l.madeUp++
		}
		l.lost += more.Messages
		l.thrown += more.Records
		if more.Event == "lost" {
			continue
		}
		var f ctnetlink.Flow
		var e format.Event
		if err := r.Flow(lines.Bytes(), &f, &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		f = f.Clone()
		switch e.Type {
		case format.New:
			l.begun = append(l.begun, f)
		case format.Update:
			l.going = append(l.going, f)
		default:
			l.ended = append(l.ended, f)
		}
	}
	return &l
}

// replay applies the log to a table: the flows that begin come, those that end go.
func (l *logged) replay(t testing.TB, table []ctnetlink.Flow) []string {
	t.Helper()
	now := map[string]struct{}{}
	key := func(f *ctnetlink.Flow) string {
		c := *f
		c.CountersOrig, c.CountersReply = ctnetlink.Counters{}, ctnetlink.Counters{}
		return text(&c)
	}
	for i := range table {
		now[key(&table[i])] = struct{}{}
	}
	for i := range l.begun {
		now[key(&l.begun[i])] = struct{}{}
	}
	for i := range l.ended {
		if _, is := now[key(&l.ended[i])]; !is {
			t.Errorf("the log has the end of a flow without a begin: %s", key(&l.ended[i]))
		}
		delete(now, key(&l.ended[i]))
	}
	var all []string
	for k := range now {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// The log of a day, applied to the first table, gives the last one, and each record says what
// the kernel's table says. An exporter alone, without Sync and Stats, runs in the sandbox.
func TestLogOfADay(t *testing.T) {
	h := newHost(t)
	const older, all = 60, 600
	h.create(older, mixed)
	first := h.table()
	p := h.start("", "Export json {\n File "+h.path("flows")+"\n}")
	h.await("the older flows", func(e *exported) bool { return e.FlowsNow == older })
	h.create(all-older, func(i int) *ctnetlink.Flow { return mixed(i + older) })
	h.await("all flows", func(e *exported) bool { return e.FlowsNow == all })
	whole := h.table()
	h.delete(all/2, func(i int) *ctnetlink.Flow { return mixed(2 * i) })
	h.await("half of the flows", func(e *exported) bool { return e.FlowsNow == all/2 })
	last := h.table()
	if r := p.Stop(syscall.SIGTERM); r.Code != 0 || r.Stderr != "" {
		t.Errorf("%+v", r)
	}
	if strings.Contains(p.Stdout.String(), "sandbox is not complete") {
		t.Error(p.Stdout.String())
	}
	l := readLog(t, h.path("flows"))
	if l.existing != older || l.madeUp != 0 || l.lost != 0 || len(l.begun) != all || len(l.ended) != all/2 {
		t.Errorf("%d existed, %d made up, %d lost, %d begun, %d ended", l.existing, l.madeUp, l.lost, len(l.begun), len(l.ended))
	}
	if want, got := texts(whole), texts(l.begun); !slices.Equal(want, got) {
		t.Errorf("the log's begins differ from the table: %s", firstDifference(want, got))
	}
	if want, got := texts(last), l.replay(t, first); !slices.Equal(want, got) {
		t.Errorf("the log leads to another table: %s", firstDifference(want, got))
	}
}

// firstDifference says how two sorted lists differ first.
func firstDifference(want, got []string) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			return fmt.Sprintf("%d and %d; too many: %s", len(want), len(got), got[i])
		case i >= len(got):
			return fmt.Sprintf("%d and %d; missing: %s", len(want), len(got), want[i])
		case want[i] != got[i]:
			return fmt.Sprintf("%d and %d\nwant %s\ngot  %s", len(want), len(got), want[i], got[i])
		}
	}
	return "not at all"
}

// burst is how many flows begin while the daemon does not run.
func burst() int {
	if netnstest.Long {
		return 200_000
	}
	return 20_000
}

// A burst of events for which a buffer of 64 KiB has no room: the records of events and the
// losses that the log states are all flows, exactly, and the table makes up for the losses. So
// it is with the ends, but flows that begin and end within the loss.
func TestBurst(t *testing.T) {
	h := newHost(t)
	all := burst()
	// The burst must not fall into the first reading, whose flows are not made up.
	h.create(1, func(int) *ctnetlink.Flow { return mixed(all + 1) })
	p := h.start(" NetlinkBufferSize 65536\n NetlinkBufferSizeMaxGrowth 65536\n NetlinkBufferSizeFixed on\n NetlinkOverrunResync 1\n",
		"Export json {\n File "+h.path("flows")+"\n QueueLimit 1000000\n}")
	h.await("the first reading has ended", func(e *exported) bool { return e.FlowsNow == 1 })
	pause := func(what string, change func()) {
		t.Helper()
		if err := syscall.Kill(p.Pid(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		change()
		if err := syscall.Kill(p.Pid(), syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		want := uint64(len(h.table()))
		h.await(what, func(e *exported) bool { return e.FlowsNow == want })
	}
	pause("all flows are known", func() { h.create(all, mixed) })
	begun := h.status()[0]
	if begun.EventsLost == 0 || begun.EventsLost > uint64(all) {
		t.Fatalf("%d events lost of %d", begun.EventsLost, all)
	}
	pause("the ended flows are gone", func() { h.delete(all/2, func(i int) *ctnetlink.Flow { return mixed(2 * i) }) })
	ended := h.status()[0]
	last := h.table()
	p.Stop(syscall.SIGTERM)

	l := readLog(t, h.path("flows"))
	if l.lost != ended.EventsLost || l.thrown != 0 {
		t.Errorf("the log says that %d events were lost, the daemon %d", l.lost, ended.EventsLost)
	}
	// Each lost event is one begin or one end, and each of these was made up.
	if uint64(l.madeUp) != l.lost || len(l.begun) != all+1 || len(l.ended) != all/2 {
		t.Errorf("%d made up for %d lost, %d begins, %d ends", l.madeUp, l.lost, len(l.begun), len(l.ended))
	}
	t.Logf("%d flows: %d begins and %d ends from events, %d events lost, %d records made up", all,
		uint64(all)-begun.EventsLost, uint64(all/2)-(ended.EventsLost-begun.EventsLost), l.lost, l.madeUp)
	if want, got := texts(last), l.replay(t, nil); !slices.Equal(want, got) {
		t.Errorf("the log leads to another table: %s", firstDifference(want, got))
	}
}

// Flows that go on are recorded with their counters.
func TestInterimRecords(t *testing.T) {
	h := newHost(t)
	const all = 300
	h.create(all, mixed)
	p := h.start("", "Export json {\n File "+h.path("flows")+"\n ActiveTimeout 1\n}")
	h.await("records of each flow", func(e *exported) bool { return e.Records >= 2*all })
	p.Stop(syscall.SIGTERM)
	l := readLog(t, h.path("flows"))
	got := texts(l.going)
	if got = slices.Compact(got); !slices.Equal(texts(h.table()), got) {
		t.Errorf("other flows than those of the table: %s", firstDifference(texts(h.table()), got))
	}
}

// As logrotate does it: the file is renamed, and SIGHUP has the daemon open another one. No
// record is lost or in both.
func TestRotation(t *testing.T) {
	h := newHost(t)
	p := h.start("", "Export json {\n File "+h.path("flows")+"\n}")
	const each, rounds = 100, 3
	for round := range rounds {
		h.create(each, func(i int) *ctnetlink.Flow { return mixed(each*round + i) })
		h.await("the records", func(e *exported) bool { return e.Sent == uint64(each*(round+1)) })
		if err := os.Rename(h.path("flows"), h.path(fmt.Sprint("flows.", round))); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(p.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		netnstest.Eventually(t, deadline, "the new file", func() bool { _, err := os.Stat(h.path("flows")); return err == nil })
	}
	p.Stop(syscall.SIGTERM)
	var all []ctnetlink.Flow
	for round := range rounds {
		l := readLog(t, h.path(fmt.Sprint("flows.", round)))
		if len(l.begun) != each || l.existing+l.madeUp+len(l.ended) > 0 {
			t.Errorf("file %d has %d begins of %d", round, len(l.begun), each)
		}
		all = append(all, l.begun...)
	}
	if want, got := texts(h.table()), texts(all); !slices.Equal(want, got) {
		t.Errorf("the files differ from the table: %s", firstDifference(want, got))
	}
}

// A daemon in its sandbox connects to destinations that come after it, and again to those that
// come back.
func TestDestinationsThatComeLater(t *testing.T) {
	h := newHost(t)
	socket := h.path("socket")
	const filter = " Filter {\n  Address Ignore {\n   IPv4_address 127.0.0.0/8\n  }\n }\n}\n"
	p := h.start("", "Export json {\n Socket "+socket+"\n"+filter+
		"Export json {\n Syslog 127.0.0.1\n Port 5514\n Transport tcp\n"+filter+
		"Export json {\n Syslog 127.0.0.1\n Port 5515\n"+filter+
		"Export ipfix {\n Collector 127.0.0.1\n Transport tcp\n"+filter)
	const each = 20
	h.create(each, mixed)
	netnstest.Eventually(t, deadline, "the failures", func() bool {
		for i, e := range h.status() {
			// Nobody can tell that a message of syslog over UDP is lost.
			if i != 2 && (e.Error == "" || i != 3 && e.Queued != each) {
				return false
			}
		}
		return true
	})
	counted := func(network, address string, read func(net.Conn, *atomic.Int64)) (*atomic.Int64, func()) {
		t.Helper()
		n := new(atomic.Int64)
		var l net.Listener
		h.Do(func() {
			var err error
			if l, err = net.Listen(network, address); err != nil {
				t.Fatal(err)
			}
		})
		var server sync.WaitGroup
		var last atomic.Pointer[net.Conn]
		server.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				last.Store(&c)
				server.Go(func() { defer c.Close(); read(c, n) })
			}
		})
		end := sync.OnceFunc(func() {
			l.Close()
			if c := last.Load(); c != nil {
				(*c).Close()
			}
			server.Wait()
		})
		t.Cleanup(end)
		return n, end
	}
	lines := func(c net.Conn, n *atomic.Int64) {
		b := make([]byte, 1<<16)
		for {
			size, err := c.Read(b)
			if err != nil {
				return
			}
			n.Add(int64(strings.Count(string(b[:size]), `{"event":"`)))
		}
	}
	all := func(c net.Conn, n *atomic.Int64) {
		var r received
		r.stream(c, func() bool { n.Store(int64(r.len())); return false })
	}
	for round := range 2 {
		bySocket, endSocket := counted("unix", socket, lines)
		bySyslog, endSyslog := counted("tcp", "127.0.0.1:5514", lines)
		byIPFIX, endIPFIX := counted("tcp", "127.0.0.1:4739", all)
		if round == 1 {
			h.create(each, func(i int) *ctnetlink.Flow { return mixed(each + i) })
		}
		h.delete(each, func(i int) *ctnetlink.Flow { return mixed(each*round + i) })
		want := int64(2 * each)
		defer func() {
			if t.Failed() {
				t.Logf("round %d: %d, %d and %d: %+v", round, bySocket.Load(), bySyslog.Load(), byIPFIX.Load(), h.status())
			}
		}()
		netnstest.Eventually(t, deadline, "the records", func() bool {
			return bySocket.Load() == want && bySyslog.Load() == want && byIPFIX.Load() == each
		})
		endSocket()
		endSyslog()
		endIPFIX()
	}
	if r := p.Stop(syscall.SIGTERM); r.Code != 0 || strings.Contains(r.Stdout, "sandbox is not complete") {
		t.Errorf("%+v", r)
	}
}

// A disk that hangs holds up neither the daemon's own cache nor its commands nor another exporter;
// what could not be written meanwhile is written when the disk works again.
func TestDiskHangs(t *testing.T) {
	h := newHost(t)
	dir, freeze, thaw := netnstest.HangingDisk(t)
	p := h.start("", "Stats {\n}\nExport json {\n File "+filepath.Join(dir, "flows")+"\n}\nExport json {\n File "+h.path("flows")+"\n}")
	const each = 200
	h.create(each, mixed)
	h.await("the first records", func(e *exported) bool { return e.Sent == each })
	freeze()
	defer thaw()
	for round := 1; round <= 3; round++ {
		h.create(each, func(i int) *ctnetlink.Flow { return mixed(each*round + i) })
		netnstest.Eventually(t, deadline, "the daemon's cache and the other exporter", func() bool {
			var s struct {
				Caches map[string]struct{ Flows struct{ Active int } }
			}
			if err := json.Unmarshal([]byte(h.client("-s", "cache", "-o", "json")), &s); err != nil {
				t.Fatal(err)
			}
			all := h.status()
			return s.Caches["stats"].Flows.Active == each*(round+1) && all[1].Sent == uint64(each*(round+1)) && all[0].Records == all[1].Records
		})
	}
	if s := h.status()[0]; s.Sent >= 4*each {
		t.Errorf("the disk does not hang: %+v", s)
	}
	thaw()
	h.await("the rest", func(e *exported) bool { return e.Sent == 4*each })
	p.Stop(syscall.SIGTERM)
	if a, b := texts(readLog(t, filepath.Join(dir, "flows")).begun), texts(readLog(t, h.path("flows")).begun); !slices.Equal(a, b) || len(a) != 4*each {
		t.Errorf("the files differ: %s", firstDifference(a, b))
	}
}

// A flow that comes to pass a filter by its mark is recorded from then on; with a filter that
// nothing can change, changes are not even received.
func TestFilterThatChangesMind(t *testing.T) {
	h := newHost(t)
	p := h.start("", "Export json {\n File "+h.path("marked")+"\n Filter {\n  Mark Accept {\n   7\n  }\n }\n}\nExport json {\n File "+h.path("all")+"\n}")
	const all = 10
	h.create(all, mixed)
	netnstest.Eventually(t, deadline, "all flows", func() bool { return h.status()[1].Sent == all })
	f := mixed(4)
	f.Has = f.Has&ctnetlink.HasZone | ctnetlink.HasMark
	f.Reply, f.Mark = ctnetlink.Tuple{}, 7
	h.change(ctnetlink.TypeFlowNew, 0, 1, func(int) *ctnetlink.Flow { return f })
	netnstest.Eventually(t, deadline, "the marked flow", func() bool { return h.status()[0].Sent == 1 })
	h.delete(all, mixed)
	defer func() {
		if t.Failed() {
			t.Logf("%+v", h.status())
		}
	}()
	netnstest.Eventually(t, deadline, "the ends", func() bool { s := h.status(); return s[0].Sent == 2 && s[1].Sent == 2*all })
	p.Stop(syscall.SIGTERM)
	l := readLog(t, h.path("marked"))
	if len(l.begun) != 1 || len(l.ended) != 1 || l.begun[0].ID != l.ended[0].ID || l.ended[0].Mark != 7 {
		t.Errorf("%+v", l)
	}
}
