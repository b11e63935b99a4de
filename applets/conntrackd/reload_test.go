package conntrackd

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// reload rewrites h's configuration and makes the daemon read it.
func (h *host) reload(general, rest string) netnstest.Result {
	h.t.Helper()
	h.configure(general, rest)
	r := h.Run("", ours(h.t), "-C", h.path("conntrackd.conf"), "--reload")
	r.Stderr = unstamped(h.t, r.Stderr)
	return r
}

// reloads is reload for a file that must be accepted; changed are the paths of the changed clauses.
func (h *host) reloads(changed, general, rest string) {
	h.t.Helper()
	want := netnstest.Result{Stdout: "reloaded " + h.path("conntrackd.conf") + ", changed: " + changed + "\n"}
	if changed == "" {
		want.Stdout = "nothing has changed in " + h.path("conntrackd.conf") + "\n"
	}
	if got := h.reload(general, rest); got != want {
		h.t.Errorf("--reload: %+v, want %+v", got, want)
	}
}

// insert creates a flow from an address.
func (h *host) insert(from string, port int) {
	h.t.Helper()
	h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", from, "-d", "203.0.113.1",
		"--sport", fmt.Sprint(port), "--dport", "80", "--state", "ESTABLISHED", "-t", "300")
}

// caches waits until a dump has exactly the flows with these ports.
func (h *host) caches(dump string, ports map[int]bool) {
	h.t.Helper()
	var text string
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%s: %s", dump, text)
		}
	}()
	netnstest.Eventually(h.t, patience, fmt.Sprintf("%s has %v", dump, ports), func() bool {
		text = h.client(dump)
		for port, there := range ports {
			if strings.Contains(text, fmt.Sprintf("sport=%d ", port)) != there {
				return false
			}
		}
		return true
	})
}

func ignore(address string) string {
	return " Filter From %s {\n  Address Ignore {\n   IPv4_address " + address + "\n  }\n }\n"
}

// A changed filter applies to new flows and to cached ones, which are added or removed here and at
// the peer. Nothing else changes on either node.
func TestReloadFilter(t *testing.T) {
	for _, where := range []string{"Userspace", "Kernelspace"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			a, b := newPair(t)
			filter := fmt.Sprintf(ignore("198.51.100.1"), where)
			p := a.start(ours(t), a.configure("", ftfwTo("192.0.2.1", "192.0.2.2")))
			b.start(ours(t), b.configure("", ftfwTo("192.0.2.2", "192.0.2.1")))
			a.insert("198.51.100.1", 1001)
			a.insert("198.51.100.2", 1002)
			a.caches("-i", map[int]bool{1001: true, 1002: true})
			b.caches("-e", map[int]bool{1001: true, 1002: true})
			settle(a, b)
			before := a.replication()

			a.reloads("General Filter", filter, ftfwTo("192.0.2.1", "192.0.2.2"))
			a.insert("198.51.100.1", 1003)
			a.insert("198.51.100.2", 1004)
			a.caches("-i", map[int]bool{1001: false, 1002: true, 1003: false, 1004: true})
			b.caches("-e", map[int]bool{1001: false, 1002: true, 1003: false, 1004: true})
			if filtered := a.kernel().Filtered; (filtered > 0) != (where == "Userspace") {
				t.Errorf("%d events were filtered in user space", filtered)
			}
			if table := a.Must("/usr/sbin/conntrack", "-L"); !strings.Contains(table, "sport=1001 ") {
				t.Errorf("the kernel has lost a flow:\n%s", table)
			}

			a.reloads("General Filter", "", ftfwTo("192.0.2.1", "192.0.2.2"))
			a.caches("-i", map[int]bool{1001: true, 1002: true, 1003: true, 1004: true})
			b.caches("-e", map[int]bool{1001: true, 1002: true, 1003: true, 1004: true})

			// The filter in the kernel has changed, too.
			a.insert("198.51.100.1", 1005)
			b.caches("-e", map[int]bool{1005: true})
			after := a.replication()
			if after.ResyncsAsked != before.ResyncsAsked || after.ResyncsServed != before.ResyncsServed ||
				after.Resent != before.Resent || after.GivenUp != before.GivenUp || after.Sent <= before.Sent {
				t.Errorf("replication was disturbed: %+v, then %+v", before, after)
			}
			if text := p.Stdout.String(); strings.Count(text, "the peer has started") > 1 {
				t.Errorf("logged %s", text)
			}
		})
	}
}

// Without an internal cache a changed filter applies to events at once.
func TestReloadFilterWithoutCache(t *testing.T) {
	h := newHost(t)
	h.start(ours(t), h.configure("", setups["bypass"]))
	filtered := func(want int, from string, port int) {
		t.Helper()
		events := h.kernel().Events
		h.insert(from, port)
		netnstest.Eventually(t, patience, "the event has arrived", func() bool { return h.kernel().Events > events })
		if got := h.kernel().Filtered; got != want {
			t.Errorf("%d events were filtered, want %d", got, want)
		}
	}
	filtered(0, "198.51.100.1", 1001)
	h.reloads("General Filter", fmt.Sprintf(ignore("198.51.100.1"), "Userspace"), setups["bypass"])
	filtered(1, "198.51.100.1", 1002)
	filtered(1, "198.51.100.2", 1003)
}

// In ALARM mode the other nodes remove flows that no longer pass at once, instead of after
// CacheTimeout.
func TestReloadFilterInAlarm(t *testing.T) {
	a, b := newPair(t)
	alarm := func(own string) string {
		return strings.ReplaceAll(setups["alarm"], "192.0.2.1", own)
	}
	a.start(ours(t), a.configure("", alarm("192.0.2.1")))
	b.start(ours(t), b.configure("", alarm("192.0.2.2")))
	a.insert("198.51.100.1", 1001)
	a.insert("198.51.100.2", 1002)
	b.caches("-e", map[int]bool{1001: true, 1002: true})
	a.reloads("General Filter", fmt.Sprintf(ignore("198.51.100.1"), "Userspace"), alarm("192.0.2.1"))
	b.caches("-e", map[int]bool{1001: false, 1002: true})
	a.reloads("General Filter, Sync Mode RefreshTime", "", strings.Replace(alarm("192.0.2.1"), "ALARM {", "ALARM {\n RefreshTime 1", 1))
	b.caches("-e", map[int]bool{1001: true, 1002: true})
}

// A flow that no longer passes the filter has not ended: statistics mode does not log it.
func TestReloadFilterOfStatistics(t *testing.T) {
	h := newHost(t)
	stats := "Stats {\n LogFile " + h.path("stats") + "\n}"
	h.start(ours(t), h.configure("", stats))
	h.insert("198.51.100.1", 1001)
	h.insert("198.51.100.2", 1002)
	h.caches("-i", map[int]bool{1001: true, 1002: true})
	h.reloads("General Filter", fmt.Sprintf(ignore("198.51.100.1"), "Userspace"), stats)
	h.caches("-i", map[int]bool{1001: false, 1002: true})
	h.Must("/usr/sbin/conntrack", "-D", "-p", "tcp")
	h.caches("-i", map[int]bool{1002: false})
	h.reloads("General Filter, Stats LogFile", "", "Stats {\n}") // writes what waits
	if text, _ := os.ReadFile(h.path("stats")); strings.Count(string(text), "\n") != 1 || !strings.Contains(string(text), "sport=1002") {
		t.Errorf("logged %s", text)
	}
}

// A filter by state keeps flows that have passed it before.
func TestReloadStateFilter(t *testing.T) {
	h := newHost(t)
	h.start(ours(t), h.configure("", setups["notrack"]))
	h.insert("198.51.100.1", 1001)
	h.Must("/usr/sbin/conntrack", "-I", "-p", "tcp", "-s", "198.51.100.1", "-d", "203.0.113.1",
		"--sport", "1002", "--dport", "80", "--state", "SYN_SENT", "-t", "300")
	h.Must("/usr/sbin/conntrack", "-I", "-p", "udp", "-s", "198.51.100.1", "-d", "203.0.113.1", "--sport", "1003", "--dport", "53", "-t", "300")
	h.caches("-i", map[int]bool{1001: true, 1002: true, 1003: true})
	h.reloads("General Filter", " Filter {\n  State Accept {\n   ESTABLISHED for TCP\n  }\n }\n", setups["notrack"])
	h.caches("-i", map[int]bool{1001: true, 1002: false, 1003: true})
}

// FT-FW's caches and sequence numbers survive every reload.
func TestReloadKeepsReplication(t *testing.T) {
	a, b := newPair(t)
	a.start(ours(t), a.configure("", ftfwTo("192.0.2.1", "192.0.2.2")))
	b.start(ours(t), b.configure("", ftfwTo("192.0.2.2", "192.0.2.1")))
	for port := range 50 {
		a.insert("198.51.100.1", 1000+port)
	}
	b.caches("-e", map[int]bool{1000: true, 1049: true})
	settle(a, b)
	before, peer := a.replication(), b.replication()
	for i, sync := range []string{
		" CommitTimeout 100\n", " PurgeTimeout 10\n", "", // of Sync itself
	} {
		rest := strings.Replace(ftfwTo("192.0.2.1", "192.0.2.2"), "Sync {\n", "Sync {\n"+sync, 1)
		rest = strings.Replace(rest, "Mode FTFW {\n", fmt.Sprintf("Mode FTFW {\n ACKWindowSize %d\n ResendQueueSize %d\n", 50+i, 1000+i), 1)
		general := fmt.Sprintf(" HashLimit %d\n NetlinkBufferSize %d\n NetlinkBufferSizeMaxGrowth 8388608\n EventIterationLimit %d\n",
			1000+i, 400000+100000*i, 50+i)
		if r := a.reload(general, rest); r.Code != 0 || !strings.Contains(r.Stdout, "Sync Mode ResendQueueSize") {
			t.Errorf("%d: %+v", i, r)
		}
		a.insert("198.51.100.2", 2000+i)
		b.caches("-e", map[int]bool{1000: true, 1049: true, 2000 + i: true})
	}
	var status struct {
		Caches struct {
			Internal struct{ Flows struct{ Active, Limit int } }
		}
		Kernel struct {
			BufferSize int `json:"buffer_size"`
		}
		Queues []struct {
			Name  string
			Limit int
		}
	}
	if err := json.Unmarshal([]byte(a.client("-s", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	limits := map[string]int{}
	for _, q := range status.Queues {
		limits[q.Name] = q.Limit
	}
	if flows := status.Caches.Internal.Flows; flows.Active != 53 || flows.Limit != 1002 || status.Kernel.BufferSize != 600000 ||
		limits["rsqueue"] != 1002 {
		t.Errorf("%+v", status)
	}
	after, peerAfter := a.replication(), b.replication()
	before.Sent += 3
	if after != before || peerAfter != peer {
		t.Errorf("from %+v, %+v\nto %+v, %+v", before, peer, after, peerAfter)
	}
}

// A reload that fixes or releases the size of the event buffer applies at once.
func TestReloadOfTheEventBuffer(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start(ours(t), h.configure("", setups["stats"]))
	buffer := func() (size int) {
		var status struct {
			Kernel struct {
				BufferSize int `json:"buffer_size"`
			}
		}
		if err := json.Unmarshal([]byte(h.client("-s", "runtime", "--json")), &status); err != nil {
			t.Fatal(err)
		}
		return status.Kernel.BufferSize
	}
	system, burst := 2*systemBuffer(t, unix.SO_RCVBUF), ctnetlink.BurstBuffer(ctnetlink.KernelMemory())
	for _, c := range []struct {
		changed, general string
		want             int
	}{
		{"", "", burst},
		{"General NetlinkBufferSizeFixed", " NetlinkBufferSizeFixed on\n", system},
		{"General NetlinkBufferSizeFixed", " NetlinkBufferSizeFixed off\n", burst},
	} {
		h.reloads(c.changed, c.general, setups["stats"])
		if got := buffer(); got != c.want {
			t.Errorf("with %q the buffer has %d bytes, want %d", c.general, got, c.want)
		}
	}
}

// A file that is invalid, or has changes that need a restart, changes nothing. The error names the
// clause.
func TestReloadRefused(t *testing.T) {
	h := newHost(t)
	const kept = "[ERROR] the configuration stays as it was\n"
	config := h.configure(" HashLimit 1000\n", setups["ftfw"])
	p := h.start(ours(t), config)
	for name, c := range map[string]struct {
		general, rest string
		stdout        string // behind the file's name
		stderr        string
	}{
		"mode": {" HashLimit 2000\n", strings.Replace(setups["ftfw"], "FTFW", "NOTRACK", 1),
			":10:2: Mode NOTRACK cannot replace Mode FTFW while the daemon runs\n", kept},
		"link and lock": {" LockFile /run/other\n", strings.Replace(setups["ftfw"], "3780", "3790", 1),
			":6:2: LockFile /run/other cannot replace LockFile " + h.path("lock") + " while the daemon runs\n" +
				config + ":15:3: Port 3790 cannot replace Port 3780 while the daemon runs\n", kept},
		"log file": {" LogFile " + h.path("none/log") + "\n", setups["ftfw"],
			"ERROR: can't open logfile `" + h.path("none/log") + "'.Reason: No such file or directory\n", kept},
	} {
		r := h.reload(c.general, c.rest)
		want := c.stdout
		if strings.HasPrefix(want, ":") {
			want = config + want
		}
		if r.Code != 1 || r.Stdout != want || r.Stderr != c.stderr {
			t.Errorf("%s: %+v, want %q", name, r, want)
		}
		// The console is a pipe, which may be read later than the answer.
		first, _, _ := strings.Cut(want, "\n")
		netnstest.Eventually(t, patience, name+" is logged", func() bool {
			return strings.Contains(p.Stderr.String(), "[ERROR] reload: "+first+"\n")
		})
	}
	// The client also reads the file and reports the error itself; the daemon reports it on
	// SIGHUP.
	r := h.reload("", "Sync {\n Mod FTFW {\n}\n}")
	const mistake = ":9:2: found \"Mod\", expected a clause of Sync or \"}\" (did you mean Mode?)\n"
	if r.Code != 1 || r.Stderr != "[ERROR] "+config+mistake {
		t.Errorf("syntax: %+v", r)
	}
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "SIGHUP is refused", func() bool {
		return strings.Contains(p.Stderr.String(), "[ERROR] reload: "+config+mistake)
	})
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "SIGHUP without a file is refused", func() bool {
		return strings.Contains(p.Stderr.String(), "[ERROR] reload: can't open config file `"+config+"'\n")
	})
	h.reloads("", " HashLimit 1000\n", setups["ftfw"]) // equals the configuration in force
	stop(t, p)
}

// A reload opens, moves and closes the logs.
func TestReloadLogs(t *testing.T) {
	h := newHost(t)
	read := func(name string) string {
		text, _ := os.ReadFile(h.path(name))
		return string(text)
	}
	ended := func(port int) {
		t.Helper()
		h.insert("198.51.100.1", port)
		h.caches("-i", map[int]bool{port: true})
		h.Must("/usr/sbin/conntrack", "-D", "-p", "tcp")
		h.caches("-i", map[int]bool{port: false})
	}
	p := h.start(ours(t), h.configure("", "Stats {\n}"))
	ended(1001)
	h.reloads("General LogFile, Stats LogFile", " LogFile "+h.path("log"), "Stats {\n LogFile "+h.path("stats")+"\n}")
	if text := read("log"); !strings.HasSuffix(text, "changed: General LogFile, Stats LogFile\n") || strings.Count(text, "\n") != 1 {
		t.Errorf("the log has %q", text)
	}
	ended(1002)
	h.reloads("General LogFile, Stats LogFile", " LogFile "+h.path("log2"), "Stats {\n LogFile "+h.path("stats2")+"\n}")
	if text := read("stats"); !strings.Contains(text, "sport=1002") || strings.Contains(text, "sport=1001") {
		t.Errorf("the statistics have %q", text) // complete: closing writes the buffered lines
	}
	ended(1003)
	h.reloads("General LogFile, Stats LogFile", "", "Stats {\n}")
	ended(1004)
	if text := read("stats2"); strings.Count(text, "\n") != 1 || !strings.Contains(text, "sport=1003") {
		t.Errorf("the second statistics have %q", text)
	}
	if text := read("log"); strings.Contains(text, "log2") {
		t.Errorf("the first log has %q", text)
	}
	stop(t, p)
}

// The format of the log changes with the next line, on the console too.
func TestReloadLogFormat(t *testing.T) {
	h := newHost(t)
	p := h.start(ours(t), h.configure(" LogFile "+h.path("log"), ""))
	h.reloads("General LogFormat", " LogFormat json\n LogFile "+h.path("log"), "")
	stop(t, p)
	text, _ := os.ReadFile(h.path("log"))
	_, rest, _ := strings.Cut(string(text), "-- starting in console mode --\n")
	var said []string
	for line := range strings.Lines(rest) {
		var r struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339Nano, r.Time); err != nil || r.Level != "notice" {
			t.Errorf("%q: %v", line, err)
		}
		said = append(said, r.Msg)
	}
	want := []string{"reloaded " + h.path("conntrackd.conf") + ", changed: General LogFormat", "---- shutdown received ----"}
	if !slices.Equal(said, want) || !strings.HasSuffix(p.Stdout.String(), rest) {
		t.Errorf("the log has %s", text)
	}
}

// SIGHUP reopens the logs and reloads, and notifies systemd of begin and end.
func TestReloadOnHangup(t *testing.T) {
	h := newHost(t)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := func() string {
		t.Helper()
		buf := make([]byte, 256)
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	cmd := h.Command(ours(t), "-C", h.configure(" LogFile "+h.path("log"), setups["stats"]))
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+h.path("notify"))
	p := h.Launch(cmd)
	if got := next(); got != "READY=1" {
		t.Fatalf("%q", got)
	}
	if err := os.Rename(h.path("log"), h.path("log.1")); err != nil {
		t.Fatal(err)
	}
	h.configure(" HashLimit 7777\n LogFile "+h.path("log"), setups["stats"])
	begun := time.Now()
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	var usec int64
	if got := next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Fatalf("%q", got)
	} else if _, err := fmt.Sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%d", &usec); err != nil || usec <= 0 {
		t.Errorf("%q: %v", got, err)
	}
	if got := next(); got != "READY=1" || time.Since(begun) > patience {
		t.Fatalf("%q", got)
	}
	text, _ := os.ReadFile(h.path("log"))
	if got := unstamped(t, string(text)); got != "[notice] reloaded "+h.path("conntrackd.conf")+", changed: General HashLimit\n" {
		t.Errorf("the new log has %q", got)
	}
	if got := h.client("-s", "metrics"); !strings.Contains(got, `conntrackd_cache_limit{cache="stats",table="flows"} 7777`) {
		t.Errorf("%s", got)
	}
	stop(t, p)
}

// conntrack-tools' daemon can't reload, and ctbox's client reports that.
func TestReloadOfDebians(t *testing.T) {
	h := newHost(t)
	h.start(debian(t), h.configure("", ""))
	if r := h.reload("", ""); r.Code != 1 || r.Stderr != "[ERROR] the running daemon does not know this request\n" {
		t.Errorf("%+v", r)
	}
}

// replication is the part of the daemon's numbers that a reload must not disturb.
type replication struct {
	Sent, Resent  int
	ResyncsAsked  int `json:"resyncs_asked"`
	ResyncsServed int `json:"resyncs_served"`
	NacksSent     int `json:"nacks_sent"`
	GivenUp       int `json:"given_up"`

	peers int // peers that were heard
}

// calm is longer than a node waits before it requests missing messages.
const calm = 7 * time.Second

// settle waits until two nodes that have just been started have sent each other everything and no
// message is in transit. A request is not necessary: a node sends everything when it detects the
// start of its peer.
func settle(a, b *host) {
	a.t.Helper()
	var before [2]replication
	var since time.Time
	netnstest.Eventually(a.t, 3*patience, "the nodes know each other", func() bool {
		now := [2]replication{a.replication(), b.replication()}
		if now != before || now[0].peers == 0 || now[1].peers == 0 {
			before, since = now, time.Now()
		}
		return time.Since(since) > calm
	})
}

func (h *host) replication() replication {
	h.t.Helper()
	var status struct {
		Replication replication
		Peers       []any
	}
	if err := json.Unmarshal([]byte(h.client("-s", "network", "--json")), &status); err != nil {
		h.t.Fatal(err)
	}
	status.Replication.peers = len(status.Peers)
	return status.Replication
}

// kernel returns the daemon's counters of kernel events.
func (h *host) kernel() (k struct{ Events, Filtered, Overruns, Lost int }) {
	h.t.Helper()
	status := struct{ Kernel any }{&k}
	if err := json.Unmarshal([]byte(h.client("-s", "runtime", "--json")), &status); err != nil {
		h.t.Fatal(err)
	}
	return k
}

// newPair returns two hosts with a dedicated link between them: 192.0.2.1 and
// 192.0.2.2 on sync0.
func newPair(t testing.TB) (a, b *host) {
	t.Helper()
	a = &host{netnstest.New(t, "cda"), t, t.TempDir()}
	b = &host{netnstest.New(t, "cdb"), t, t.TempDir()}
	netnstest.Link(t, netnstest.End{NS: a.NS, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: b.NS, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	return a, b
}

func ftfwTo(own, peer string) string {
	return fmt.Sprintf("Sync {\nMode FTFW {\n}\nUDP {\nIPv4_address %s\nIPv4_Destination_Address %s\nPort 3780\nInterface sync0\n}\n}", own, peer)
}
