package conntrackd

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ctbox/conf"
	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

// live are the tests of the clauses that a running daemon can change, by clause: each changes
// it with --reload and checks that the new value is in force.
var live = map[string]func(*testing.T){
	"General HashLimit": func(t *testing.T) {
		h := newHost(t)
		h.start(ours(t), h.configure(" HashLimit 2\n", "Stats {\n}"))
		h.flows(3)
		const full = `conntrackd_cache_full_total{cache="stats",table="flows"}`
		h.reaches("a flow finds no place", full, 1)
		h.reloads("General HashLimit", " HashLimit 5\n", "Stats {\n}")
		h.flows(3)
		h.reaches("the cache takes five flows", `conntrackd_cache_entries{cache="stats",table="flows"}`, 5)
		if n := h.metric(full); n != 1 {
			t.Errorf("%v flows found no place", n)
		}
	},
	"General LogFile": func(t *testing.T) {
		h := newHost(t)
		h.start(ours(t), h.configure(" LogFile "+h.path("log"), "Stats {\n}"))
		h.reloads("General LogFile", " LogFile "+h.path("log2"), "Stats {\n}")
		h.client("-R")
		h.logs("log2", "resync with master conntrack table")
		if text, _ := os.ReadFile(h.path("log")); strings.Contains(string(text), "resync with master") {
			t.Errorf("the first log has %s", text)
		}
	},
	"Export": func(t *testing.T) {
		h := newHost(t)
		clause := func(file, records string) string {
			return "Export json {\n File " + h.path(file) + "\n Records " + records + "\n}\n"
		}
		h.start(ours(t), h.configure("", clause("one", "flow")+clause("two", "flow")))
		h.flows(3)
		h.logs("one", `"id":`)
		h.logs("two", `"id":`)
		// The first exporter stays, the second goes, another one comes.
		h.reloads("Export", "", clause("three", "flow")+clause("one", "flow"))
		h.logs("three", `"origin":"existing"`)
		before, _ := os.ReadFile(h.path("two"))
		h.Must("/usr/sbin/conntrack", "-D", "-p", "udp")
		h.logs("one", `"event":"destroy"`)
		h.logs("three", `"event":"destroy"`)
		if after, _ := os.ReadFile(h.path("two")); string(after) != string(before) {
			t.Errorf("the exporter that is gone has written %s", after[len(before):])
		}
		if one, _ := os.ReadFile(h.path("one")); strings.Contains(string(one), "existing") {
			t.Errorf("the exporter that stays has begun again: %s", one)
		}
	},
	"General Syslog": func(t *testing.T) {
		h := newHost(t)
		sent := h.syslog(h.configure("", "Stats {\n}"), func() {
			h.client("-R")
			h.reloads("General Syslog", " Syslog local3\n", "Stats {\n}")
			h.client("-R")
		})
		if strings.Count(sent, "resync with master") != 1 || !strings.Contains(sent, "<157>") { // local3, notice
			t.Errorf("sent %s", sent)
		}
	},
	"General LogFormat": func(t *testing.T) {
		h := newHost(t)
		h.start(ours(t), h.configure(" LogFile "+h.path("log"), "Stats {\n}"))
		h.reloads("General LogFormat", " LogFormat json\n LogFile "+h.path("log"), "Stats {\n}")
		h.client("-R")
		h.logs("log", `"msg":"resync with master conntrack table"`)
	},
	"General Metrics": func(t *testing.T) {
		h := newHost(t)
		h.IP("link", "set", "lo", "up")
		h.start(ours(t), h.configure(" Metrics {\n Listen 127.0.0.1:9107\n}\n", "Stats {\n}"))
		h.reloads("General Metrics", " Metrics {\n Listen 127.0.0.1:9108\n}\n", "Stats {\n}")
		if status, _ := h.get("http://127.0.0.1:9108/metrics"); status != 200 {
			t.Errorf("the new address: %d", status)
		}
		if status, _ := h.get("http://127.0.0.1:9107/metrics"); status == 200 {
			t.Error("the old address still answers")
		}
	},
	"General NetlinkBufferSize": func(t *testing.T) {
		h := newHost(t)
		p := h.start(ours(t), h.configure(" NetlinkBufferSize 65536\n NetlinkBufferSizeMaxGrowth 1048576\n", "Stats {\n}"))
		h.reloads("General NetlinkBufferSize", " NetlinkBufferSize 131072\n NetlinkBufferSizeMaxGrowth 1048576\n", "Stats {\n}")
		if got := socketsOf(t, p.Pid()).Events.Buffer; got != 131072 {
			t.Errorf("the buffer has %d bytes", got)
		}
	},
	"General NetlinkBufferSizeMaxGrowth": func(t *testing.T) {
		h := newHost(t)
		general := func(most int) string {
			return fmt.Sprintf(" NetlinkBufferSize 8192\n NetlinkBufferSizeMaxGrowth %d\n NetlinkBufferSizeFixed on\n", most)
		}
		p := h.start(ours(t), h.configure(general(8192), "Stats {\n}"))
		h.overrun(p)
		if got := socketsOf(t, p.Pid()).Events.Buffer; got != 8192 {
			t.Errorf("before: the buffer has %d bytes", got)
		}
		h.reloads("General NetlinkBufferSizeMaxGrowth", general(16384), "Stats {\n}")
		h.overrun(p)
		if got := socketsOf(t, p.Pid()).Events.Buffer; got != 16384 {
			t.Errorf("the buffer has %d bytes", got)
		}
	},
	"General NetlinkBufferSizeFixed": func(t *testing.T) {
		h := newHost(t)
		const general = " NetlinkBufferSize 8192\n NetlinkBufferSizeMaxGrowth 8192\n NetlinkBufferSizeFixed "
		p := h.start(ours(t), h.configure(general+"on\n", "Stats {\n}"))
		h.overrun(p)
		if got := socketsOf(t, p.Pid()).Events.Buffer; got != 8192 {
			t.Errorf("before: the buffer has %d bytes", got)
		}
		h.reloads("General NetlinkBufferSizeFixed", general+"off\n", "Stats {\n}")
		h.overrun(p)
		if got := socketsOf(t, p.Pid()).Events.Buffer; got <= 8192 {
			t.Errorf("the buffer has %d bytes", got)
		}
	},
	"General NetlinkOverrunResync": func(t *testing.T) {
		h := newHost(t)
		const general = " NetlinkBufferSize 8192\n NetlinkBufferSizeMaxGrowth 8192\n NetlinkBufferSizeFixed on\n NetlinkOverrunResync "
		p := h.start(ours(t), h.configure(general+"off\n", "Stats {\n}"))
		h.overrun(p)
		h.reloads("General NetlinkOverrunResync", general+"1\n", "Stats {\n}")
		if n := h.metric("conntrackd_kernel_resyncs_total"); n != 0 {
			t.Errorf("before: the kernel's table was read %v times", n)
		}
		flows := h.overrun(p)
		h.reaches("what was lost is read", `conntrackd_cache_entries{cache="stats",table="flows"}`, float64(flows))
	},
	"General EventIterationLimit": func(t *testing.T) {
		h := newHost(t)
		const reached = "conntrackd_kernel_limit_reached_total"
		p := h.start(ours(t), h.configure(" EventIterationLimit 1000000\n", "Stats {\n}"))
		h.burst(p)
		if n := h.metric(reached); n != 0 {
			t.Errorf("before: the limit was reached %v times", n)
		}
		h.reloads("General EventIterationLimit", " EventIterationLimit 2\n", "Stats {\n}")
		h.burst(p)
		h.reaches("the limit is reached", reached, 1)
	},
	"General Filter": func(t *testing.T) {
		h := newHost(t)
		h.start(ours(t), h.configure("", "Stats {\n}"))
		h.reloads("General Filter", " Filter From Userspace {\n  Protocol Ignore {\n   UDP\n  }\n }\n", "Stats {\n}")
		h.flows(3) // UDP
		h.reaches("they are filtered", "conntrackd_kernel_events_filtered_total", 3)
		h.insert("198.51.100.1", 1001)
		h.caches("-i", map[int]bool{1001: true})
		if text := h.client("-i"); strings.Contains(text, "udp") {
			t.Errorf("-i: %s", text)
		}
	},
	"Stats LogFile": func(t *testing.T) {
		h := newHost(t)
		stats := func(name string) string { return "Stats {\n LogFile " + h.path(name) + "\n}" }
		p := h.start(ours(t), h.configure("", stats("stats")))
		h.reloads("Stats LogFile", "", stats("stats2"))
		h.end(1001)
		stop(t, p) // writes the buffered lines
		first, _ := os.ReadFile(h.path("stats"))
		if second, _ := os.ReadFile(h.path("stats2")); len(first) > 0 || !strings.Contains(string(second), "sport=1001 ") {
			t.Errorf("the first file has %s, the second %s", first, second)
		}
	},
	"Stats Syslog": func(t *testing.T) {
		h := newHost(t)
		sent := h.syslog(h.configure("", "Stats {\n}"), func() {
			h.end(1001)
			h.reloads("Stats Syslog", "", "Stats {\n Syslog local5\n}")
			h.end(1002)
		})
		if strings.Contains(sent, "sport=1001 ") || !strings.Contains(sent, "sport=1002 ") || !strings.Contains(sent, "<174>") { // local5, info
			t.Errorf("sent %s", sent)
		}
	},
	"Sync Options TCPWindowTracking": func(t *testing.T) {
		a, b := newPair(t)
		sync := func(own, tracking string) string {
			return strings.Replace(ofMode("FTFW", own, ""), "UDP {", "Options {\n TCPWindowTracking "+tracking+"\n}\nUDP {", 1)
		}
		a.start(ours(t), a.configure("", sync("192.0.2.1", "off")))
		b.start(ours(t), b.configure("", sync("192.0.2.2", "off")))
		a.insert("198.51.100.1", 1001)
		b.caches("-e", map[int]bool{1001: true})
		b.client("-c")
		if !b.isLiberal(1001) {
			t.Error("before: windows are tracked")
		}
		// One node sends window scales, the other one sets them in its kernel.
		a.reloads("Sync Options TCPWindowTracking", "", sync("192.0.2.1", "on"))
		a.insert("198.51.100.1", 1002)
		b.caches("-e", map[int]bool{1002: true})
		b.client("-c")
		if !b.isLiberal(1002) {
			t.Error("before the other node's reload: windows are tracked")
		}
		b.reloads("Sync Options TCPWindowTracking", "", sync("192.0.2.2", "on"))
		b.client("-c")
		if b.isLiberal(1002) {
			t.Error("windows are not tracked")
		}
	},
	"Sync Delay": func(t *testing.T) {
		a, b := newPair(t)
		delay := func(seconds string) string {
			return strings.Replace(ofMode("NOTRACK", "192.0.2.1", ""), "UDP {", "Delay {\n TCP "+seconds+"\n Assured off\n}\nUDP {", 1)
		}
		a.start(ours(t), a.configure("", delay("3600")))
		b.start(ours(t), b.configure("", ofMode("NOTRACK", "192.0.2.2", "")))
		a.insert("198.51.100.1", 1001)
		a.reaches("the flow waits", "conntrackd_replication_waiting", 1)
		a.insert("198.51.100.1", 1002)
		a.reaches("another one, too", "conntrackd_replication_waiting", 2)
		b.caches("-e", map[int]bool{1001: false, 1002: false})
		a.reloads("Sync Delay", "", delay("1"))
		b.caches("-e", map[int]bool{1001: true, 1002: true})
		if n := a.metric("conntrackd_replication_waiting"); n != 0 {
			t.Errorf("%v flows wait", n)
		}
	},
	"Sync Mode FTFW ResendQueueSize": func(t *testing.T) {
		h := newHost(t) // no peer acknowledges anything
		const queue = `conntrackd_queue_length{queue="rsqueue"}`
		h.start(ours(t), h.configure("", ofMode("FTFW", "192.0.2.1", "ResendQueueSize 2\n")))
		h.flows(10)
		h.reaches("the queue is full", `conntrackd_queue_full_total{queue="rsqueue"}`, 1)
		if n := h.metric(queue); n > 2 {
			t.Errorf("before: %v messages are kept", n)
		}
		h.reloads("Sync Mode ResendQueueSize", "", ofMode("FTFW", "192.0.2.1", "ResendQueueSize 8\n"))
		h.flows(10)
		h.reaches("the queue has more messages", queue, 8)
	},
	"Sync Mode FTFW ACKWindowSize": func(t *testing.T) {
		a, b := newPair(t)
		const packets = `conntrackd_link_packets_total{link="1",interface="sync0",transport="udp",direction="sent"}`
		a.start(ours(t), a.configure("", ofMode("FTFW", "192.0.2.1", "")))
		b.start(ours(t), b.configure("", ofMode("FTFW", "192.0.2.2", "ACKWindowSize 100000\n")))
		settle(a, b)
		acks := func(first int) float64 {
			before := b.metric(packets)
			ports := map[int]bool{}
			for port := first; port < first+25; port++ {
				a.insert("198.51.100.1", port)
				ports[port] = true
				b.caches("-e", ports) // so that the next one has a datagram of its own
			}
			return b.metric(packets) - before
		}
		few := acks(1001)
		b.reloads("Sync Mode ACKWindowSize", "", ofMode("FTFW", "192.0.2.2", "ACKWindowSize 1\n"))
		if many := acks(2001); many < few+10 {
			t.Errorf("%v packets for 25 messages, and %v before", many, few)
		}
	},
	"Sync Mode FTFW CommitTimeout": func(t *testing.T) { commitTimeout(t, "FTFW") },
	"Sync Mode FTFW PurgeTimeout":  func(t *testing.T) { purgeTimeout(t, "FTFW") },
	"Sync Ready": func(t *testing.T) {
		h := newHost(t)
		sync := func(ready string) string {
			return strings.Replace(ofMode("FTFW", "192.0.2.1", ""), "UDP {", "Ready {\n"+ready+"\n}\nUDP {", 1)
		}
		h.start(ours(t), h.configure("", sync("File "+h.path("run/ready")+"\nWeight 5\nStartGrace 1000000")))
		h.tracked("run/ready", "-5") // its directory was made
		h.reloads("Sync Ready", "", sync("File "+h.path("run/ready")+"\nWeight 7\nStartGrace 1000000"))
		h.tracked("run/ready", "-7")
		h.reloads("Sync Ready", "", sync("File "+h.path("run/ready2")+"\nWeight 7\nStartGrace 1"))
		h.tracked("run/ready2", "0")
		h.tracked("run/ready", "-7") // keepalived may still track it
		if r := h.reload("", sync("File "+h.path("none/ready"))); r.Code != 1 || !strings.Contains(r.Stdout, "no such file or directory") {
			t.Errorf("a file in no directory: %+v", r)
		}
		h.tracked("run/ready2", "0")
	},
	// These see that the reload is accepted; version 2 of the protocol, which would show that the new value is in force on
	// the link, is not there yet.
	"Sync Cluster Peer": func(t *testing.T) { clusterClause(t, "Sync Cluster Peer", "", "", "Port 3781") },
	"Sync Cluster Key": func(t *testing.T) {
		clusterClause(t, "Sync Cluster Key", "Key 1 KEY1\nSend 1\n", "Key 1 KEY1\nKey 2 KEY2\nSend 1\n", "")
	},
	"Sync Cluster Send": func(t *testing.T) {
		clusterClause(t, "Sync Cluster Send", "Key 1 KEY1\nKey 2 KEY2\nSend 1\n", "Key 1 KEY1\nKey 2 KEY2\nSend 2\n", "")
	},
	"Sync Cluster AllowPlain": func(t *testing.T) {
		clusterClause(t, "Sync Cluster AllowPlain", "Key 1 KEY1\n", "Key 1 KEY1\nAllowPlain on\n", "")
	},
	"Sync Mode FTFW StartupResync":    func(t *testing.T) { startupResync(t, "FTFW") },
	"Sync Mode ALARM CommitTimeout":   func(t *testing.T) { commitTimeout(t, "ALARM") },
	"Sync Mode ALARM PurgeTimeout":    func(t *testing.T) { purgeTimeout(t, "ALARM") },
	"Sync Mode NOTRACK CommitTimeout": func(t *testing.T) { commitTimeout(t, "NOTRACK") },
	"Sync Mode NOTRACK PurgeTimeout":  func(t *testing.T) { purgeTimeout(t, "NOTRACK") },
	"Sync Mode NOTRACK StartupResync": func(t *testing.T) { startupResync(t, "NOTRACK") },
	"Sync Mode ALARM RefreshTime": func(t *testing.T) {
		a, b := newPair(t)
		a.start(ours(t), a.configure("", ofMode("ALARM", "192.0.2.1", "RefreshTime 1000000\n")))
		b.start(ours(t), b.configure("", ofMode("ALARM", "192.0.2.2", "CacheTimeout 1000000\n")))
		a.reloads("Sync Mode RefreshTime", "", ofMode("ALARM", "192.0.2.1", "RefreshTime 1\n"))
		a.insert("198.51.100.1", 1001)
		b.caches("-e", map[int]bool{1001: true})
		// The remaining time of a flow in the other cache decreases until it is announced again.
		var least float64
		netnstest.Eventually(t, patience, "the flow is sent again", func() bool {
			var entry struct {
				ExpiresIn float64 `json:"expires_in"`
			}
			if err := json.Unmarshal([]byte(b.client("-e", "--json")), &entry); err != nil {
				t.Fatal(err)
			}
			again := least != 0 && entry.ExpiresIn > least
			least = entry.ExpiresIn
			return again
		})
	},
	"Sync Mode ALARM CacheTimeout": func(t *testing.T) {
		a, b := newPair(t)
		a.start(ours(t), a.configure("", ofMode("ALARM", "192.0.2.1", "RefreshTime 1000000\n")))
		b.start(ours(t), b.configure("", ofMode("ALARM", "192.0.2.2", "CacheTimeout 1000000\n")))
		a.insert("198.51.100.1", 1001)
		b.caches("-e", map[int]bool{1001: true})
		b.reloads("Sync Mode CacheTimeout", "", ofMode("ALARM", "192.0.2.2", "CacheTimeout 1\n"))
		a.insert("198.51.100.1", 1002)
		b.reaches("the other flow is heard of", `conntrackd_cache_operations_total{cache="external",table="flows",operation="create",result="ok"}`, 2)
		b.caches("-e", map[int]bool{1001: true, 1002: false})
	},
}

// TestLiveClauses runs the tests of all clauses that the table of the configuration marks
// as live, and fails for one without a test.
func TestLiveClauses(t *testing.T) {
	marked := map[string]bool{}
	for _, path := range conf.LiveClauses() {
		marked[path] = true
		test, ok := live[path]
		if !ok {
			t.Errorf("%s can be changed by --reload, and no test sees that the new value is in force", path)
			continue
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
	for path := range live {
		if !marked[path] {
			t.Errorf("%s is no live clause", path)
		}
	}
}

// ofMode returns a Sync clause with a mode, for a node of a pair.
func ofMode(mode, own, clauses string) string {
	peer := map[string]string{"192.0.2.1": "192.0.2.2", "192.0.2.2": "192.0.2.1"}[own]
	return "Sync {\nMode " + mode + " {\n" + clauses + "}\nUDP {\nIPv4_address " + own + "\nIPv4_Destination_Address " + peer +
		"\nPort 3780\nInterface sync0\n}\n}"
}

// inCluster returns the Sync clause of a node with a Cluster clause. KEY1 and KEY2 in clauses are
// key files, which it makes.
func (h *host) inCluster(clauses, peer string) string {
	h.t.Helper()
	for i, contents := range []string{"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n", "MjIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n"} {
		name := fmt.Sprintf("key%d", i+1)
		if err := os.WriteFile(h.path(name), []byte(contents), 0o600); err != nil {
			h.t.Fatal(err)
		}
		clauses = strings.ReplaceAll(clauses, strings.ToUpper(name), h.path(name))
	}
	return strings.Replace(ofMode("FTFW", "192.0.2.1", ""), "UDP {",
		"Cluster {\nName edge\nNode 1 fw1\nPeer 2 fw2 {\nIPv4_Destination_Address 192.0.2.2\n"+peer+"\n}\n"+clauses+"}\nUDP {", 1)
}

// clusterClause tests that a reload accepts another value of a clause of Cluster.
func clusterClause(t *testing.T, path, before, after, peer string) {
	h := newHost(t)
	h.start(ours(t), h.configure("", h.inCluster(before, "")))
	h.reloads(path, "", h.inCluster(after, peer))
	h.client("-s")
}

func commitTimeout(t *testing.T, mode string) {
	a, b := newPair(t)
	a.start(ours(t), a.configure("", ofMode(mode, "192.0.2.1", "")))
	b.start(ours(t), b.configure("", ofMode(mode, "192.0.2.2", "CommitTimeout 5000\n")))
	a.insert("198.51.100.1", 1001) // for 300 s
	b.caches("-e", map[int]bool{1001: true})
	committed := func() uint32 {
		b.client("-c")
		var timeout uint32
		b.flow(1001, func(f *ctnetlink.Flow) { timeout = f.Timeout })
		return timeout
	}
	if got := committed(); got <= 300 || got > 5000 {
		t.Errorf("before: committed for %d s", got)
	}
	b.reloads("Sync Mode CommitTimeout", "", ofMode(mode, "192.0.2.2", "CommitTimeout 200\n"))
	if got := committed(); got == 0 || got > 200 {
		t.Errorf("committed for %d s", got)
	}
}

func purgeTimeout(t *testing.T, mode string) {
	h := newHost(t)
	h.start(ours(t), h.configure("", ofMode(mode, "192.0.2.1", ""))) // 60 s
	h.reloads("Sync Mode PurgeTimeout", "", ofMode(mode, "192.0.2.1", "PurgeTimeout 1\n"))
	h.insert("198.51.100.1", 1001)
	h.client("-t")
	netnstest.Eventually(t, patience, "the kernel's flow is gone", func() bool {
		return !strings.Contains(h.Must("/usr/sbin/conntrack", "-L"), "sport=1001 ")
	})
}

// startupResync tests a clause that only matters at the next start: a reload accepts it without
// doing anything.
func startupResync(t *testing.T, mode string) {
	h := newHost(t)
	const asked = `conntrackd_resyncs_total{side="asked"}`
	p := h.start(ours(t), h.configure("", ofMode(mode, "192.0.2.1", "")))
	h.reloads("Sync Mode StartupResync", "", ofMode(mode, "192.0.2.1", "StartupResync on\n"))
	if n := h.metric(asked); n != 0 {
		t.Errorf("before: it has asked for everything %v times", n)
	}
	stop(t, p)
	h.start(ours(t), h.path("conntrackd.conf"))
	h.reaches("it asks for everything", asked, 1)
}

// metric returns the value of a sample of -s metrics, 0 without the sample.
func (h *host) metric(sample string) float64 {
	h.t.Helper()
	for line := range strings.Lines(h.client("-s", "metrics")) {
		if value, ok := strings.CutPrefix(line, sample+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

func (h *host) reaches(what, sample string, least float64) {
	h.t.Helper()
	netnstest.Eventually(h.t, patience, what+": "+sample, func() bool { return h.metric(sample) >= least })
}

// logs waits until a log contains a text.
func (h *host) logs(name, text string) {
	h.t.Helper()
	netnstest.Eventually(h.t, patience, text+" is in "+name, func() bool {
		log, _ := os.ReadFile(h.path(name))
		return strings.Contains(string(log), text)
	})
}

// flows creates n new UDP flows and returns the total number created.
func (h *host) flows(n int) int {
	h.t.Helper()
	have := strings.Count(h.Must("/usr/sbin/conntrack", "-L", "-p", "udp"), "\n")
	var lines strings.Builder
	for port := have; port < have+n; port++ {
		fmt.Fprintf(&lines, "-I -p udp -s 198.51.100.1 -d 203.0.113.1 --sport %d --dport 53 -t 300\n", 10000+port)
	}
	if r := h.Run(lines.String(), netnstest.Applet(h.t, "conntrack"), "-R", "-"); r.Code != 0 {
		h.t.Fatalf("%+v", r)
	}
	return have + n
}

// burst creates flows while the daemon is stopped, so that it reads all of their events at once,
// and waits until it has processed some. It returns the total number of flows.
func (h *host) burst(p *netnstest.Process) int {
	h.t.Helper()
	before := h.metric("conntrackd_kernel_events_total")
	syscall.Kill(p.Pid(), syscall.SIGSTOP)
	all := h.flows(300)
	syscall.Kill(p.Pid(), syscall.SIGCONT)
	h.reaches("the burst is followed", "conntrackd_kernel_events_total", before+1)
	return all
}

// overrun is a burst that does not fit into the event buffer.
func (h *host) overrun(p *netnstest.Process) int {
	h.t.Helper()
	before := h.metric("conntrackd_kernel_overruns_total")
	all := h.burst(p)
	h.reaches("events are lost", "conntrackd_kernel_overruns_total", before+1)
	return all
}

// end creates a flow whose beginning and end the daemon sees.
func (h *host) end(port int) {
	h.t.Helper()
	h.insert("198.51.100.1", port)
	h.caches("-i", map[int]bool{port: true})
	h.Must("/usr/sbin/conntrack", "-D", "-p", "tcp")
	h.caches("-i", map[int]bool{port: false})
}

// syslog runs a daemon whose system logger is the test, and returns the received messages.
func (h *host) syslog(config string, meanwhile func()) string {
	h.t.Helper()
	l := h.listenSyslog()
	p := h.Start("unshare", "--mount", "sh", "-c", `mount --bind "$1" /dev && exec "$2" -C "$3"`, "sh", h.path("dev"), ours(h.t), config)
	netnstest.Eventually(h.t, patience, "the daemon answers", func() bool { return h.Run("", ours(h.t), "-C", config, "-s").Code == 0 })
	meanwhile()
	stop(h.t, p)
	return strings.Join(l.end(), "\n")
}

// flow calls f with the kernel's flow from a port.
func (h *host) flow(port uint16, look func(*ctnetlink.Flow)) {
	h.t.Helper()
	var conn *nl.Conn
	var err error
	h.Do(func() { conn, err = nl.Dial(nl.Config{}) })
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	found := false
	if _, err := ctnetlink.DumpFlows(h.t.Context(), conn, ctnetlink.Dump{Type: ctnetlink.TypeFlowGet}, func(f *ctnetlink.Flow) error {
		if f.Orig.SrcPort == port {
			look(f)
			found = true
		}
		return nil
	}); err != nil || !found {
		h.t.Fatalf("no flow from port %d, %v", port, err)
	}
}

// isLiberal reports whether the kernel does not check a flow's TCP windows.
func (h *host) isLiberal(port uint16) (liberal bool) {
	h.t.Helper()
	h.flow(port, func(f *ctnetlink.Flow) { liberal = f.TCPFlagsOrig.Value&ctnetlink.TCPFlagBeLiberal != 0 })
	return liberal
}
