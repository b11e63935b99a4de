package doctor

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"
)

func TestMain(m *testing.M) { netnstest.Main(m) }

// finding is a line of --json.
type finding struct{ Severity, ID, Seen, Reason, Fix string }

// examined runs the doctor in a namespace, behind the words of prefix, and
// returns its findings and exit status.
func examined(t *testing.T, ns *netnstest.NS, prefix []string, args ...string) ([]finding, int) {
	t.Helper()
	argv := slices.Concat(prefix, []string{netnstest.Applet(t, "ctbox"), "doctor", "--json"}, args)
	r := ns.Run("", argv[0], argv[1:]...)
	if r.Stderr != "" {
		t.Errorf("%q says %s", argv, r.Stderr)
	}
	return parseFindings(t, r.Stdout), r.Code
}

func parseFindings(t *testing.T, text string) (all []finding) {
	t.Helper()
	for line := range strings.Lines(text) {
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		var f finding
		if err := d.Decode(&f); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, f)
	}
	return all
}

// wantFinding holds that there is a finding of that severity and check, with
// that in what was seen, and that what is not good has a reason.
func wantFinding(t *testing.T, all []finding, severity, id, seen string) {
	t.Helper()
	for _, f := range all {
		if f.ID == id && f.Severity == severity && strings.Contains(f.Seen, seen) {
			if severity != "ok" && f.Reason == "" {
				t.Errorf("%+v has no reason", f)
			}
			return
		}
	}
	t.Errorf("no finding %s %s with %q in %+v", severity, id, seen, all)
}

// wantNone holds that the check has found nothing but what is good.
func wantNone(t *testing.T, all []finding, id string) {
	t.Helper()
	for _, f := range all {
		if f.ID == id && f.Severity != "ok" {
			t.Errorf("unexpected finding %+v", f)
		}
	}
}

// Of each kernel parameter that a network namespace has, both states.
func TestFlags(t *testing.T) {
	ns := netnstest.New(t, "flags")
	for _, c := range []struct{ id, parameter, good, bad, severity, args string }{
		{"events", "nf_conntrack_events", "1", "0", "error", "--for=conntrack"},
		{"events", "nf_conntrack_events", "2", "0", "error", "--for=conntrackd"},
		{"silent-flows", "nf_conntrack_events", "1", "2", "note", "--for=conntrackd"},
		{"acct", "nf_conntrack_acct", "1", "0", "note", "--for=conntrack"},
		{"timestamp", "nf_conntrack_timestamp", "1", "0", "note", "--for=conntrack"},
		{"tcp-loose", "nf_conntrack_tcp_loose", "0", "1", "warning", "-C=" + config(t, syncConfig)},
		{"tcp-liberal", "nf_conntrack_tcp_be_liberal", "0", "1", "note", "-C=" + config(t, syncConfig)},
		{"tcp-liberal", "nf_conntrack_tcp_be_liberal", "1", "0", "warning",
			"-C=" + config(t, strings.Replace(syncConfig, "Options {", "Options {\n TCPWindowTracking On", 1))},
	} {
		name := "net.netfilter." + c.parameter
		if !ns.TakesSysctl(name, c.bad) || !ns.TakesSysctl(name, c.good) {
			if c.good != "2" && c.bad != "2" { // 2 is new in Linux 5.19
				t.Errorf("the kernel does not take %s of %s and %s", name, c.good, c.bad)
			}
			continue
		}
		all, _ := examined(t, ns, nil, c.args)
		wantFinding(t, all, "ok", c.id, name+" is "+c.good)
		wantNone(t, all, c.id)
		ns.Sysctl(name, c.bad)
		all, _ = examined(t, ns, nil, c.args)
		wantFinding(t, all, c.severity, c.id, name+" is "+c.bad)
		// What the finding says to do fixes it.
		for _, f := range all {
			if f.ID == c.id && f.Fix != "" {
				ns.Must("sh", "-c", f.Fix)
				all, _ = examined(t, ns, nil, c.args)
				wantNone(t, all, c.id)
			}
		}
		ns.Sysctl(name, c.good)
	}
}

func TestPrivilege(t *testing.T) {
	ns := netnstest.New(t, "caps")
	all, _ := examined(t, ns, nil, "--for", "conntrack")
	wantFinding(t, all, "ok", "privilege", "")
	wantFinding(t, all, "ok", "ctnetlink", "")
	features, err := ctnetlink.ProbeFeatures(t.Context(), nl.Config{NetNS: ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	if features.StatusFilter && features.TupleFilter && features.ZoneFilter {
		wantFinding(t, all, "ok", "dump-filters", "status, addresses and ports, and zone")
	} else {
		wantFinding(t, all, "note", "dump-filters", "")
	}
	without := []string{"setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"}
	all, code := examined(t, ns, without, "--for", "conntrack")
	wantFinding(t, all, "error", "privilege", "lacks CAP_NET_ADMIN")
	wantFinding(t, all, "note", "ctnetlink", "not known")
	wantNone(t, all, "dump-filters")
	if code != exitError {
		t.Errorf("exit status %d", code)
	}
	// Root of a user namespace that the network namespace does not belong to.
	all, _ = examined(t, ns, []string{"unshare", "-U", "-r"}, "--for", "conntrack")
	wantFinding(t, all, "error", "privilege", "in another user namespace")

	big := config(t, strings.Replace(syncConfig, "General {", "General {\n NetlinkBufferSizeMaxGrowth 2000000000", 1))
	all, _ = examined(t, ns, nil, "-C", big)
	wantFinding(t, all, "ok", "event-buffer", "any buffer")
	// Before Linux 6.9 only the first network namespace has rmem_max.
	seen := func(severity string) string {
		var err error
		ns.Do(func() { _, err = os.Stat("/proc/sys/net/core/rmem_max") })
		if err != nil {
			return "note"
		}
		return severity
	}
	all, _ = examined(t, ns, without, "-C", big)
	wantFinding(t, all, seen("warning"), "event-buffer", "rmem_max")
	all, _ = examined(t, ns, without, "-C", config(t, strings.Replace(syncConfig, "General {", "General {\n NetlinkBufferSizeFixed on\n NetlinkBufferSizeMaxGrowth 4096", 1)))
	wantFinding(t, all, seen("ok"), "event-buffer", "rmem_max")
	// Without a configuration conntrack -E is the one that needs most.
	all, _ = examined(t, ns, []string{"unshare", "-U", "-r", "-n"}, "--for", "conntrack")
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	severity := "ok"
	if limit < eventBuffer() { // it then says that rmem_max allows no more
		severity = "warning"
	}
	if severity = seen(severity); severity == "note" {
		wantFinding(t, all, "note", "event-buffer", "cannot be read")
	} else {
		wantFinding(t, all, severity, "event-buffer", size(uint64(eventBuffer())))
	}

	all, _ = examined(t, ns, []string{"prlimit", "--nofile=64"}, "--for", "conntrackd")
	wantFinding(t, all, "warning", "files", "64 open files")
	all, _ = examined(t, ns, []string{"prlimit", "--nofile=1024"}, "--for", "conntrackd")
	wantFinding(t, all, "ok", "files", "1024 open files")
}

func TestRules(t *testing.T) {
	for _, c := range []struct{ name, set, want string }{
		{"none", "", "warning"},
		{"filter", "nft add table ip t; nft 'add chain ip t c { type filter hook input priority 0; }'; nft add rule ip t c tcp dport 22 accept", "warning"},
		{"ct", "nft add table inet t; nft 'add chain inet t c { type filter hook input priority 0; }'; nft add rule inet t c ct state new accept", "ok"},
		{"nat", "nft add table ip t; nft 'add chain ip t c { type nat hook postrouting priority 100; }'; nft add rule ip t c masquerade", "ok"},
		{"match", "iptables-nft -A INPUT -m conntrack --ctstate NEW -j ACCEPT", "ok"},
		{"target", "iptables-nft -t nat -A POSTROUTING -o lo -j MASQUERADE", "ok"},
		{"other match", "iptables-nft -A INPUT -p tcp -m multiport --dports 1,2 -j ACCEPT", "warning"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := netnstest.New(t, "rules")
			if c.set != "" {
				ns.Must("sh", "-c", c.set)
			}
			all, _ := examined(t, ns, nil, "--for", "conntrack")
			wantFinding(t, all, c.want, "rules", "")
			if c.want == "warning" {
				for _, f := range all {
					if f.ID == "rules" {
						ns.Must("sh", "-c", f.Fix)
					}
				}
				all, _ = examined(t, ns, nil, "--for", "conntrack")
				wantFinding(t, all, "ok", "rules", "")
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "ctbox doctor [OPTION]...", ""},
		{[]string{"-h"}, 0, "ctbox doctor [OPTION]...", ""},
		{[]string{"--for"}, 3, "", "--for needs an argument"},
		{[]string{"--for", "iptables"}, 3, "", `not "iptables"`},
		{[]string{"--for="}, 3, "", "--for needs an argument"},
		{[]string{"--json=perhaps"}, 3, "", "perhaps"},
		{[]string{"--xml"}, 3, "", `unknown option "--xml"`},
		{[]string{"now"}, 3, "", `unknown argument "now"`},
		{[]string{"--for", "nfct", "-C", "x"}, 3, "", "-C goes with"},
		{[]string{"-C"}, 3, "", "-C needs an argument"},
		{[]string{"-C", "/nonexistent", "--for", "conntrackd"}, 2, "no such file", ""},
	} {
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), netnstest.Applet(t, "ctbox"), append([]string{"doctor"}, c.args...)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		code := cmd.ProcessState.ExitCode()
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) ||
			(c.stderr == "") != (stderr.Len() == 0) || strings.Count(stderr.String(), "\n") > 1 {
			t.Errorf("%q: status %d, stdout %q, stderr %q", c.args, code, &stdout, &stderr)
		}
	}
}

// The worst comes first, the order of the checks stays, and the status is the
// worst one's.
func TestReport(t *testing.T) {
	r := &report{}
	for i, c := range []struct {
		severity Severity
		status   int
	}{{OK, 0}, {Note, 0}, {Warning, 1}, {OK, 1}, {Error, 2}, {Warning, 2}} {
		r.about("id"+decimal(uint64(i))).add(c.severity, "seen\x1b[2J", "reason\nx", "")
		if r.status() != c.status {
			t.Errorf("status %d after %d findings", r.status(), i+1)
		}
	}
	want := `error    id4            seen?[2J
         why:  reason?x
warning  id2            seen?[2J
         why:  reason?x
warning  id5            seen?[2J
         why:  reason?x
note     id1            seen?[2J
         why:  reason?x
ok       id0            seen?[2J
         why:  reason?x
ok       id3            seen?[2J
         why:  reason?x
error 1, warning 2, note 1, ok 2
`
	if got := string(appendText(nil, r)); got != want {
		t.Errorf("text is\n%s", got)
	}
	all := parseFindings(t, string(appendJSON(nil, r)))
	if len(all) != 6 || all[0] != (finding{"error", "id4", "seen\x1b[2J", "reason\nx", ""}) {
		t.Errorf("JSON is %+v", all)
	}
}

// A look at everything changes nothing: of the messages to the kernel each is a
// question, no file is opened to be written, and nothing else is sent.
func TestChangesNothing(t *testing.T) {
	a, b := netnstest.New(t, "a"), netnstest.New(t, "b")
	netnstest.Link(t, netnstest.End{NS: a, Dev: "sync0", Addrs: []string{"203.0.113.1/24"}},
		netnstest.End{NS: b, Dev: "sync0", Addrs: []string{"203.0.113.2/24"}})
	a.Track()
	state := func() string {
		return a.Must("sysctl", "net.netfilter") + a.Must("nft", "list", "ruleset") + a.Must("ip", "addr")
	}
	before := state()
	args := []string{"doctor", "-C", config(t, syncConfig)}
	r, sent := a.Sent(netnstest.Applet(t, "ctbox"), args...)
	if r.Code == exitUnknown || len(sent) < 5 {
		t.Fatalf("status %d, %d messages: %s", r.Code, len(sent), r.Stderr)
	}
	for _, m := range sent {
		typ, flags := uint16(m[4])|uint16(m[5])<<8, uint16(m[6])|uint16(m[7])<<8
		const dump, create, replace = 0x300, 0x400, 0x100
		question := flags&dump == dump || slices.Contains([]uint16{0x105 /* IPCTNL_MSG_CT_GET_STATS */, 26 /* RTM_GETROUTE */}, typ)
		if !question || flags&create != 0 {
			t.Errorf("message of type %#x with flags %#x", typ, flags)
		}
	}
	trace := filepath.Join(t.TempDir(), "trace")
	a.Run("", "strace", append([]string{"-f", "-yy", "-o", trace, "-e", "trace=%file,%network,write,ioctl,adjtimex,clock_adjtime,setns,unshare",
		netnstest.Applet(t, "ctbox")}, args...)...)
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for line := range strings.Lines(string(text)) {
		_, call, _ := strings.Cut(line, " ")
		name, rest, ok := strings.Cut(strings.TrimSpace(call), "(")
		if !ok || strings.HasPrefix(name, "<") || strings.HasPrefix(name, "-") || strings.HasPrefix(name, "+") {
			continue
		}
		calls++
		switch name {
		case "openat":
			if strings.Contains(rest, "O_WRONLY") || strings.Contains(rest, "O_RDWR") || strings.Contains(rest, "O_CREAT") {
				t.Errorf("opens to write: %s", line)
			}
		case "sendto", "sendmsg", "sendmmsg", "connect":
			// A daemon that runs is asked over its control socket.
			if !strings.Contains(rest, "<NETLINK") && !strings.Contains(rest, `sun_path="/nonexistent/ctl"`) {
				t.Errorf("sends: %s", line)
			}
		case "write":
			if !strings.HasPrefix(rest, "1<") && !strings.Contains(rest, "<NETLINK") && !strings.Contains(rest, "eventfd") {
				t.Errorf("writes: %s", line)
			}
		case "adjtimex", "clock_adjtime":
			if !strings.Contains(rest, "modes=0") {
				t.Errorf("sets the clock: %s", line)
			}
		case "unlink", "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "mknod", "mknodat", "chmod", "fchmodat", "truncate", "setns", "unshare":
			t.Errorf("changes: %s", line)
		}
	}
	if calls < 50 {
		t.Errorf("strace saw %d calls", calls)
	}
	if after := state(); after != before {
		t.Errorf("was\n%s\nis\n%s", before, after)
	}
}

// Each check has an id of its own and a row in the manual, each row a check.
func TestManual(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "doctor.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows, ids []string
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "| `"); ok {
			id, _, _ = strings.Cut(id, "`")
			rows = append(rows, id)
		}
	}
	for _, c := range checks {
		ids = append(ids, c.id)
	}
	if !slices.Equal(rows, ids) {
		t.Errorf("docs/doctor.md has %q, the table %q", rows, ids)
	}
	lint := exec.Command("groff", "-man", "-Tutf8", "-ww", "-z", filepath.Join("..", "..", "docs", "man", "ctbox.8"))
	lint.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if out, err := lint.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff -ww: %v\n%s", err, out)
	}
}

// With --netns the doctor finds what it finds inside: parameters, rules, table.
func TestNetNS(t *testing.T) {
	here, there := netnstest.New(t, "here"), netnstest.New(t, "there")
	there.Track()
	there.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	here.Sysctl("net.netfilter.nf_conntrack_acct", "0")
	inside, code := examined(t, there, nil)
	from, fromCode := examined(t, here, nil, "--netns", there.Name)
	own, _ := examined(t, here, nil)
	n := 0
	for i := range from {
		if fix, ok := strings.CutPrefix(from[i].Fix, "ip netns exec "+there.Name+" "); ok {
			from[i].Fix = fix
			n++
		}
	}
	if n == 0 {
		t.Errorf("no fix names the namespace: %+v", from)
	}
	if !slices.Equal(inside, from) || code != fromCode {
		t.Errorf("status %d, %+v; inside %d, %+v", fromCode, from, code, inside)
	}
	if slices.Equal(own, from) {
		t.Errorf("the findings do not differ from those of the own namespace: %+v", own)
	}
}
