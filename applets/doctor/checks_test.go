package doctor

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/cthelper"
	"ctbox/nl/ctnetlink"
)

// syncConfig is a configuration that replicates over sync0.
const syncConfig = `Sync {
 Mode FTFW {
 }
 UDP {
  IPv4_address 203.0.113.1
  IPv4_Destination_Address 203.0.113.2
  Port 3780
  Interface sync0
 }
 Options {
  ExpectationSync On
 }
}
General {
 HashLimit 1000000
 LockFile /nonexistent/lock
 UNIX {
  Path /nonexistent/ctl
 }
}
`

func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conntrackd.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// tree is a directory that stands for / where the real one has only one state:
// what all network namespaces share.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root + "/"
}

// checked runs one check on its own.
func checked(t *testing.T, h *host, run func(*host, *report)) []finding {
	t.Helper()
	r := &report{}
	h.ctx = t.Context()
	run(h, r.about("x"))
	return parseFindings(t, string(appendJSON(nil, r)))
}

const sysctls = "proc/sys/net/netfilter/"

// The table of a real namespace, against limits that only the first network
// namespace could be given.
func TestTable(t *testing.T) {
	ns := netnstest.New(t, "table")
	for port := 1; port <= 8; port++ {
		ns.Must(netnstest.Applet(t, "conntrack"), "-I", "-s", "192.0.2.1", "-d", "192.0.2.2", "-p", "udp",
			"--sport", decimal(uint64(port)), "--dport", "53", "-t", "100")
	}
	var conn *nl.Conn
	ns.Do(func() {
		var err error
		if conn, err = nl.Dial(nl.Config{}); err != nil {
			t.Fatal(err)
		}
	})
	defer conn.Close()
	for _, c := range []struct {
		name     string
		run      func(*host, *report)
		files    map[string]string
		severity string
		seen     string
	}{
		{"room", checkFull, map[string]string{"nf_conntrack_max": "100\n"}, "ok", "8 flows of at most 100"},
		{"nearly full", checkFull, map[string]string{"nf_conntrack_max": "10\n"}, "warning", "8 flows, 80 %"},
		{"full", checkFull, map[string]string{"nf_conntrack_max": "8\n"}, "error", "nf_conntrack_max is 8"},
		{"no limit", checkFull, map[string]string{"nf_conntrack_max": "0\n"}, "ok", "without a limit"},
		{"buckets", checkBuckets, map[string]string{"nf_conntrack_max": "800\n", "nf_conntrack_buckets": "100\n"}, "ok", "100 buckets"},
		{"few buckets", checkBuckets, map[string]string{"nf_conntrack_max": "900\n", "nf_conntrack_buckets": "100\n"}, "warning", "9 flows in each"},
		{"memory", checkTableMemory, map[string]string{"nf_conntrack_max": "65536\n"}, "ok", "28 MiB of 256 MiB"},
		{"little memory", checkTableMemory, map[string]string{"nf_conntrack_max": "200000\n"}, "warning", "of 256 MiB"},
		{"no memory", checkTableMemory, map[string]string{"nf_conntrack_max": "1000000\n"}, "error", "of 256 MiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"proc/meminfo": "MemTotal:         262144 kB\nMemFree: 1 kB\n"}
			for name, text := range c.files {
				files[sysctls+name] = text
			}
			all := checked(t, &host{conn: conn, root: tree(t, files)}, c.run)
			wantFinding(t, all, c.severity, "x", c.seen)
			if len(all) != 1 {
				t.Errorf("findings %+v", all)
			}
		})
	}
}

// An INVALID packet is one of a connection that the kernel was made to forget.
func TestCounters(t *testing.T) {
	ns := netnstest.New(t, "counters")
	ns.Track()
	ns.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
	all, _ := examined(t, ns, nil, "--for", "conntrack")
	wantFinding(t, all, "ok", "counters", "no packet was dropped")
	var client net.Conn
	ns.Do(func() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if client, err = net.DialTimeout("tcp", l.Addr().String(), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	})
	defer client.Close()
	ns.Must(netnstest.Applet(t, "conntrack"), "-F")
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	netnstest.Eventually(t, 5*time.Second, "an INVALID packet", func() bool {
		all, _ = examined(t, ns, nil, "--for", "conntrack")
		for _, f := range all {
			if f.ID == "counters" && f.Severity == "note" && strings.HasPrefix(f.Seen, "invalid=") {
				return true
			}
		}
		return false
	})
	for _, c := range counters {
		r := &report{}
		cpus := []ctnetlink.CPUStats{{CPU: 0}, {CPU: 3}}
		cpus[0].Value[c.attr], cpus[1].Value[c.attr] = 2, 5
		judgeCounters(cpus, r.about("x"))
		if len(r.findings) != 1 || r.findings[0].Severity != c.severity || r.findings[0].Seen != c.name+"=7, 5 of them on CPU 3" {
			t.Errorf("%s: %+v", c.name, r.findings)
		}
	}
}

func TestLink(t *testing.T) {
	fw1, fw2 := netnstest.New(t, "fw1"), netnstest.New(t, "fw2")
	netnstest.Link(t, netnstest.End{NS: fw1, Dev: "sync0", Addrs: []string{"203.0.113.1/24"}},
		netnstest.End{NS: fw2, Dev: "sync0", Addrs: []string{"203.0.113.2/24"}})
	netnstest.Link(t, netnstest.End{NS: fw1, Dev: "lan0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: fw2, Dev: "lan0", Addrs: []string{"192.0.2.2/24"}})
	good := config(t, strings.Replace(strings.Replace(syncConfig, "/nonexistent/lock", filepath.Join(t.TempDir(), "lock"), 1),
		"/nonexistent/ctl", filepath.Join(t.TempDir(), "ctl"), 1))
	look := func() []finding {
		all, _ := examined(t, fw1, nil, "--for", "conntrackd", "-C", good)
		return all
	}
	fw1.Sysctl("net.netfilter.nf_conntrack_events", "1")
	all := look()
	wantFinding(t, all, "ok", "sync-link", "sync0 is up, MTU 1500, and the peer 203.0.113.2 is on it")
	wantFinding(t, all, "ok", "sync-firewall", "no chain")

	fw1.NFT("table inet f {\n chain in { type filter hook input priority 0; policy drop; }\n chain out { type filter hook output priority 0; policy drop; }\n}")
	all = look()
	wantFinding(t, all, "note", "sync-firewall", "f in (policy drop)")
	for _, f := range all {
		if f.ID == "sync-firewall" && (f.Fix != "iifname sync0 udp dport 3780 accept" || strings.Contains(f.Seen, "out")) {
			t.Errorf("%+v", f)
		}
	}
	fw1.NFT("delete table inet f\ntable inet f {\n chain in { type filter hook input priority 0; }\n}")
	wantFinding(t, look(), "ok", "sync-firewall", "f in")

	fw1.IP("route", "add", "203.0.113.2/32", "dev", "lan0")
	wantFinding(t, look(), "warning", "sync-link", "do not leave through sync0, but through lan0")
	fw1.IP("route", "del", "203.0.113.2/32", "dev", "lan0")
	fw1.IP("route", "add", "203.0.113.2/32", "via", "203.0.113.9", "dev", "sync0")
	wantFinding(t, look(), "warning", "sync-link", "behind a router")
	fw1.IP("route", "del", "203.0.113.2/32")

	fw2.IP("link", "set", "sync0", "down")
	netnstest.Eventually(t, 10*time.Second, "sync0 loses its carrier", func() bool {
		return !strings.Contains(fw1.Must("ip", "link", "show", "sync0"), "state UP")
	})
	wantFinding(t, look(), "error", "sync-link", "no carrier")
	fw1.IP("link", "set", "sync0", "down")
	wantFinding(t, look(), "error", "sync-link", "sync0 is down")
	fw2.IP("link", "set", "sync0", "up")
	fw1.IP("link", "set", "sync0", "up")
	fw1.IP("addr", "flush", "dev", "sync0")
	all = look()
	wantFinding(t, all, "error", "sync-link", "no route to the peer")
	wantFinding(t, all, "error", "config", "203.0.113.1 is no address of this host")
	fw1.IP("addr", "add", "203.0.113.2/24", "dev", "sync0")
	wantFinding(t, look(), "error", "sync-link", "is one of this host's")
	relay, _ := examined(t, fw1, nil, "--for", "conntrackd", "-C",
		config(t, strings.Replace(syncConfig, "Port 3780", "Port 3780\n Accept 203.0.113.2", 1)))
	wantFinding(t, relay, "ok", "sync-link", "203.0.113.2 is this host: a relay")
	fw1.IP("link", "del", "sync0")
	wantFinding(t, look(), "error", "config", "sync0 is an invalid interface")
}

// A rule that lets one user send to the link's port is found, however it is written.
func TestSenders(t *testing.T) {
	ns := netnstest.New(t, "senders")
	file := config(t, syncConfig)
	for _, tt := range []struct{ severity, rule string }{
		{"note", ""},
		{"note", "udp dport 3780 accept"},
		{"note", "udp dport 3781 meta skuid != 0 drop"},
		{"note", "udp dport 3780 meta skgid != 0 drop"},
		{"ok", "udp dport 3780 meta skuid != 0 drop"},
		{"ok", "meta skuid != 0 udp dport 3780 drop"},
		{"ok", "ip daddr 203.0.113.2 udp dport { 3780, 3781 } meta skuid != root drop"},
		{"ok", "meta skuid >= 1000 oifname sync0 drop"},
	} {
		ns.NFT("table inet s\ndelete table inet s\ntable inet s { chain out { type filter hook output priority 0; " + tt.rule + "; }; }")
		all, _ := examined(t, ns, nil, "--for", "conntrackd", "-C", file)
		wantFinding(t, all, tt.severity, "sync-senders", "udp dport 3780")
		for _, f := range all {
			if f.ID == "sync-senders" && tt.rule == "" {
				ns.Must("sh", "-c", f.Fix)
				all, _ = examined(t, ns, nil, "--for", "conntrackd", "-C", file)
				wantFinding(t, all, "ok", "sync-senders", "udp dport 3780")
				ns.NFT("delete table inet sync")
			}
		}
	}
	ns.NFT("delete table inet s")
	ns.Must("iptables-nft", "-A", "OUTPUT", "-p", "udp", "--dport", "3780", "-m", "owner", "!", "--uid-owner", "0", "-j", "DROP")
	all, _ := examined(t, ns, nil, "--for", "conntrackd", "-C", file)
	wantFinding(t, all, "ok", "sync-senders", "udp dport 3780")
}

func TestHeardLine(t *testing.T) {
	for line, want := range map[string]string{
		"\t192.0.2.2\tlast heard 63 s ago\n":                             "192.0.2.2 63",
		"\t2001:db8::2\tlast heard 0 s ago\n":                            "2001:db8::2 0",
		"\t192.0.2.3\tlast heard 0 s ago, ignored: a third FT-FW node\n": "",
		"\tnone heard\n": "", "\n": "", "\t192.0.2.2\tlast heard x s ago\n": "",
	} {
		peer, ago, ok := heardLine(line)
		if got := peer + " " + decimal(ago); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", line, got, ok)
		}
	}
}

func TestConfig(t *testing.T) {
	ns := netnstest.New(t, "config")
	all, code := examined(t, ns, nil, "-C", config(t, "Sync {\n"))
	wantFinding(t, all, "error", "config", "conntrackd.conf:")
	if code != exitError {
		t.Errorf("status %d", code)
	}
	lock, ctl := filepath.Join(t.TempDir(), "lock"), filepath.Join(t.TempDir(), "ctl")
	stats := "General {\n HashLimit 100\n LockFile " + lock + "\n UNIX {\n Path " + ctl + "\n }\n}\nStats {\n LogFile off\n}\n"
	all, _ = examined(t, ns, nil, "-C", config(t, stats))
	for _, f := range all {
		if f.ID == "config" && f.Severity == "error" {
			t.Errorf("%+v", f)
		}
	}
	// A lock file with a process id is that of the running daemon, or of one that is
	// gone: neither is worth a note.
	if err := os.WriteFile(lock, []byte("1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, _ = examined(t, ns, nil, "-C", config(t, stats))
	for _, f := range all {
		if strings.Contains(f.Seen, lock) {
			t.Errorf("%+v", f)
		}
	}
	// PollSecs needs no events.
	ns.Sysctl("net.netfilter.nf_conntrack_events", "0")
	all, _ = examined(t, ns, nil, "-C", config(t, strings.Replace(stats, "General {", "General {\n PollSecs 5", 1)))
	wantFinding(t, all, "note", "events", "is 0")
}

func TestLabels(t *testing.T) {
	for _, c := range []struct{ text, severity, seen string }{
		{"# names\n\n0 first\n1\tsecond-label \n", "ok", "can be read"},
		{"0 first\nx second\n", "warning", ":2: the line `x second' has no effect"},
		{"0 first\n0 again\n", "warning", ":2: the line `0 again'"},
		{"0 first\n1 first\n", "warning", ":2: the line `1 first'"},
		{"0 first\n1 under_score\n", "warning", ":2: "},
		{"0 first\n7\n", "warning", ":2: "},
		{"0 first\n200 far\n", "warning", "label 200 is beyond 127"},
		{"# nothing\n", "warning", "no label in it"},
	} {
		all := checked(t, &host{root: tree(t, map[string]string{"etc/xtables/connlabel.conf": c.text})}, checkLabels)
		wantFinding(t, all, c.severity, "x", c.seen)
		if len(all) != 1 {
			t.Errorf("%q: %+v", c.text, all)
		}
	}
	wantFinding(t, checked(t, &host{root: tree(t, nil)}, checkLabels), "ok", "x", "no /etc/xtables/connlabel.conf")
}

// What this kernel lacks is found by asking it; where its modules and its
// configuration lie, the finding names what is missing.
func TestKernelParts(t *testing.T) {
	ns := netnstest.New(t, "parts")
	var has bool
	ns.Do(func() {
		conn, err := nl.Dial(nl.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if has, err = cthelper.Available(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	})
	all, _ := examined(t, ns, nil, "--for", "nfct")
	if has {
		wantFinding(t, all, "ok", "cthelper", "user-space helpers")
	} else {
		wantFinding(t, all, "note", "cthelper", "nfnetlink_cthelper, CONFIG_NF_CT_NETLINK_HELPER")
	}
	wantFinding(t, all, "ok", "cttimeout", "timeout policies")

	missing := func(h *host, r *report) { helperPart.missing(h, r, Error, "why") }
	all = checked(t, &host{root: tree(t, map[string]string{"lib/modules/" + release() + "/modules.dep": "kernel/net/netfilter/nfnetlink_cthelper.ko.xz: kernel/net/netfilter/nfnetlink.ko.xz\n"})}, missing)
	if len(all) != 1 || all[0].Fix != "modprobe nfnetlink_cthelper" {
		t.Errorf("%+v", all)
	}
	all = checked(t, &host{root: tree(t, map[string]string{"boot/config-" + release(): "CONFIG_X=y\n# CONFIG_NF_CT_NETLINK_HELPER is not set\n"})}, missing)
	wantFinding(t, all, "error", "x", "its configuration says CONFIG_NF_CT_NETLINK_HELPER is not set")

	queue := tree(t, map[string]string{"proc/thread-self/net/netfilter/nfnetlink_queue": ""})
	wantFinding(t, checked(t, &host{root: queue}, checkQueue), "ok", "x", "packets to user space")
	wantFinding(t, checked(t, &host{root: tree(t, nil)}, checkQueue), "note", "x", "nfnetlink_queue")
	helpers := &conf.Config{Helper: &conf.Helper{Types: []*conf.HelperType{{Name: "ftp"}, {Name: "rpc"}}}}
	wantFinding(t, checked(t, &host{root: tree(t, nil), cfg: helpers}, checkQueue), "error", "x", "nfnetlink_queue")

	wantFinding(t, checked(t, &host{root: tree(t, nil), cfg: helpers}, checkHelperClash), "ok", "x", "no helper of the kernel")
	clash := tree(t, map[string]string{"sys/module/nf_conntrack_ftp/refcnt": "0"})
	all = checked(t, &host{root: clash, cfg: helpers}, checkHelperClash)
	wantFinding(t, all, "error", "x", "its own helper ftp")
	if len(all) != 1 {
		t.Errorf("%+v", all)
	}
	wantFinding(t, checked(t, &host{root: tree(t, map[string]string{sysctls + "nf_conntrack_helper": "1\n"})}, checkAutoHelper), "warning", "x", "nf_conntrack_helper is 1")
	wantFinding(t, checked(t, &host{root: tree(t, map[string]string{sysctls + "nf_conntrack_helper": "0\n"})}, checkAutoHelper), "ok", "x", "nf_conntrack_helper is 0")
}

func TestHelperQueues(t *testing.T) {
	entries := []cthelper.Helper{{Has: cthelper.HasStatus, Name: "rpc", Queue: 7, Status: cthelper.Enabled},
		{Has: cthelper.HasStatus, Name: "ftp", Queue: 8, Status: cthelper.Disabled}}
	look := func(table string) []finding {
		return checked(t, &host{}, func(_ *host, r *report) { judgeHelperQueues(entries, table, r) })
	}
	wantFinding(t, look("    7  1234     0 2 65531     0     0        0  1\n"), "ok", "x", "2 user-space helpers")
	wantFinding(t, look("    8  1234     0 2 65531     0     0        0  1\n"), "warning", "x", "rpc sends packets to queue 7")
}

func TestSystem(t *testing.T) {
	sync := &conf.Config{Sync: &conf.Sync{}}
	sync.General.HashLimit = 1 << 20
	meminfo := "MemTotal:        4194304 kB\n"
	roomy := tree(t, map[string]string{"proc/meminfo": meminfo})
	wantFinding(t, checked(t, &host{root: roomy, cfg: sync}, checkMemory), "ok", "x", "up to 1088 MiB, and the machine has 4096 MiB")
	tight := tree(t, map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/system.slice/conntrackd.service\n",
		"sys/fs/cgroup/system.slice/memory.max": "536870912\n", "sys/fs/cgroup/system.slice/conntrackd.service/memory.max": "max\n"})
	wantFinding(t, checked(t, &host{root: tight, cfg: sync}, checkMemory), "warning", "x", "the control group may take 512 MiB")
	one := &conf.Config{Sync: &conf.Sync{DisableInternalCache: true, DisableExternalCache: true}}
	one.General.HashLimit = 1 << 20
	wantFinding(t, checked(t, &host{root: tight, cfg: one}, checkMemory), "ok", "x", "512 MiB")

	clock := func(cfg *conf.Config, synchronised bool) []finding {
		return checked(t, &host{cfg: cfg}, func(h *host, r *report) { judgeClock(h, r, synchronised) })
	}
	wantFinding(t, clock(sync, true), "ok", "x", "is synchronised")
	wantFinding(t, clock(sync, false), "warning", "x", "not synchronised")
	wantFinding(t, clock(nil, false), "note", "x", "not synchronised")
	if all := checked(t, &host{}, checkClock); len(all) != 1 || !strings.Contains(all[0].Seen, "synchronised") {
		t.Errorf("%+v", all)
	}
}

// FuzzRules checks that the parsers of rules and chains do not panic on any input.
func FuzzRules(f *testing.F) {
	f.Add([]byte("\x14\x00\x04\x80\x10\x00\x01\x80\x07\x00\x01\x00ct\x00\x00"))
	f.Add([]byte("\x0c\x00\x04\x80\x08\x00\x01\x00\x00\x00\x00\x01\x06\x00\x01\x00t\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		tracks(b)
		inputChain(b)
	})
}

// A user-space helper is reported unless a rule assigns it. Few kernels have such objects;
// helpers/vmtest has one that has.
func TestHelperObjects(t *testing.T) {
	for _, c := range []struct {
		helper   cthelper.Helper
		legacy   bool
		severity Severity
		fix      string
	}{
		{cthelper.Helper{Name: "rtsp", Proto: 6}, false, Warning, "prerouting tcp dport 554 ct helper set \"rtsp-tcp\""},
		{cthelper.Helper{Name: "mdns", Proto: 17}, false, Warning, "hook output priority filter"},
		{cthelper.Helper{Name: "rpc", Proto: 17}, true, Note, "udp dport 111 "},
		{cthelper.Helper{Name: "mine", Proto: 17}, false, Warning, ""},
	} {
		r := &report{}
		judgeHelperObject(&c.helper, map[string]bool{"ftp": true}, c.legacy, r.about("x"))
		if len(r.findings) != 1 || r.findings[0].Severity != c.severity || !strings.Contains(r.findings[0].Fix, c.fix) || (c.fix == "") != (r.findings[0].Fix == "") {
			t.Errorf("%s: %+v", c.helper.Name, r.findings)
		}
		r = &report{}
		judgeHelperObject(&c.helper, map[string]bool{c.helper.Name: true}, c.legacy, r.about("x"))
		if len(r.findings) != 0 {
			t.Errorf("%s: %+v", c.helper.Name, r.findings)
		}
	}
}
