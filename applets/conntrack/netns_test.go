package conntrack

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netns"
	"ctbox/internal/netnstest"
	"ctbox/nl"
)

// Every command works in the namespace of --netns as in its own.
func TestNetNS(t *testing.T) {
	here, there := netnstest.New(t, "here"), netnstest.New(t, "there")
	applet := netnstest.Applet(t, "conntrack")
	inside := there.Start("sleep", "100")
	netnstest.Eventually(t, 10*time.Second, "the process is in the namespace", func() bool {
		name, err := os.ReadFile("/proc/" + strconv.Itoa(inside.Pid()) + "/comm")
		return err == nil && string(name) == "sleep\n"
	})
	ours := func(stdin string, args ...string) netnstest.Result {
		t.Helper()
		r := here.Run(stdin, applet, args...)
		if r.Code != 0 {
			t.Fatalf("%q: %+v", args, r)
		}
		return r
	}
	spec := []string{"--netns", there.Name}

	events := here.Start(applet, append(spec, "-E", "-o", "userspace")...)
	netnstest.Eventually(t, 10*time.Second, "a listener", func() bool { return there.Subscribers() == 1 })
	top := here.Start(applet, append(spec, "--top", "--refresh", "0.2")...)
	netnstest.Eventually(t, 10*time.Second, "two listeners", func() bool { return there.Subscribers() == 2 })

	ours("", append(strings.Fields("-I -t 1000 "+udp4), spec...)...)
	ours("-A -t 1000 "+tcp4+"\n", append(spec, "-R", "-")...)
	ours("-A -t 2000 "+tcp4+"\n", append([]string{"-R", "-"}, "--netns="+there.Path())...)
	for _, args := range [][]string{
		{"-L", "--netns", there.Name}, {"-L", "--netns", there.Path()}, {"--netns=" + strconv.Itoa(inside.Pid()), "-L"},
		{"-G", "--netns", there.Name, "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1000", "--dport", "53"},
		{"-U", "--net", there.Name, "-p", "udp", "-m", "7"}, {"-D", "--netns", there.Name, "-p", "tcp"},
	} {
		if r := ours("", args...); !strings.Contains(r.Stdout, "src=192.0.2.1") {
			t.Errorf("%q: %+v", args, r)
		}
	}
	for _, args := range []string{"-C", "-S", "-L expect", "-C expect", "-F expect", "-L dying"} {
		if r, own := ours("", append(strings.Fields(args), spec...)...), there.Run("", applet, strings.Fields(args)...); args != "-S" && r != own {
			t.Errorf("%s: %+v, inside %+v", args, r, own)
		}
	}
	if r := ours("", "-C", "--netns", there.Name); r.Stdout != "1\n" {
		t.Errorf("-C: %+v", r)
	}
	if n := entries(t, here); n != 0 {
		t.Errorf("%d flows in the own namespace", n)
	}
	ours("", append(spec, "-F")...)
	if n := entries(t, there); n != 0 {
		t.Errorf("%d flows after -F", n)
	}
	netnstest.Eventually(t, 10*time.Second, "an object of --top", func() bool { return strings.Contains(top.Stdout.String(), "\n") })
	if r := top.Stop(syscall.SIGINT); r.Code != 0 || r.Stderr != "" || !strings.HasPrefix(r.Stdout, `{"time":`) {
		t.Errorf("--top: %+v", r)
	}
	netnstest.Eventually(t, 10*time.Second, "the events", func() bool { return strings.Count(events.Stdout.String(), "[DESTROY]") == 2 })
	if r := events.Stop(syscall.SIGINT); r.Code != 0 || strings.Count(r.Stdout, "[USERSPACE]") != 6 {
		t.Errorf("-E: %+v", r)
	}
}

// The program behind an event is found by its port in the namespace of the event.
func TestProgramNamesInNetNS(t *testing.T) {
	there, err := netns.Open(netnstest.New(t, "there").Path())
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	conn, err := nl.Dial(nl.Config{NetNS: there.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	names := programNames{netns: there}
	if name := names.lookup(conn.PortID(), time.Now()); name != processName("self") {
		t.Errorf("the name is %q", name)
	}
}

// A namespace that cannot be had is one line, and nothing is done.
func TestNetNSRefused(t *testing.T) {
	ns := netnstest.New(t, "refused")
	run(t, ns, "-I -t 1000 "+udp4)
	applet := netnstest.Applet(t, "conntrack")
	nobody := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	if err := os.Chmod(netnstest.BinDir(t), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		wrapper []string
		args    string
		message string
		status  int
	}{
		{nil, "-F --netns nowhere", "--netns nowhere: no network namespace of that name in /run/netns", 1},
		{nil, "--netns nowhere -R -", "--netns nowhere: no network namespace of that name in /run/netns", 1},
		{nil, "-F --netns /etc/passwd", "--netns /etc/passwd: not a network namespace", 1},
		{nil, "-F --netns=", "--netns : no name, path or process id", 1},
		{nil, "-F --netns", "option `--netns' requires an argument", 2},
		{nil, "-R - --netns", "unexpected word `--netns'", 2},
		{nobody, "-L --netns " + ns.Name, "--netns " + ns.Name + ": entering it needs CAP_SYS_ADMIN: operation not permitted", 1},
	} {
		args := append(append(c.wrapper, applet), strings.Fields(c.args)...)
		other := netnstest.New(t, "other")
		r := other.Run("-F\n", args[0], args[1:]...)
		first, _, _ := strings.Cut(r.Stderr, "\n")
		if r.Code != c.status || r.Stdout != "" || first != messagePrefix+c.message {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	if r := runTo(t, ns, "-R -", "-F\n-D --netns x\n", nil); r.status != 2 || !strings.HasPrefix(r.stderr, messagePrefix+"-:2: Cannot use --netns in a file of --load-file") {
		t.Errorf("in a load file: %+v", r)
	}
	if n := entries(t, ns); n != 1 {
		t.Errorf("%d flows", n)
	}
}

// mounts is a mount namespace with a /run/netns of its own, so that tests of all network
// namespaces see those of no other test.
type mounts struct {
	t *testing.T
	p *netnstest.Process
}

// newMounts makes it with a process in the network namespace ns.
func newMounts(t *testing.T, ns *netnstest.NS) *mounts {
	t.Helper()
	p := ns.Start("unshare", "--mount", "sh", "-c", "mkdir -p /run/netns && mount -t tmpfs none /run/netns && exec sleep 1000")
	netnstest.Eventually(t, 10*time.Second, "the mount", func() bool {
		name, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/comm")
		return err == nil && string(name) == "sleep\n"
	})
	return &mounts{t, p}
}

// enter returns the words that run a program there.
func (m *mounts) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(m.p.Pid()), "--mount", "--net"}
}

// run runs a shell there.
func (m *mounts) run(script string) {
	m.t.Helper()
	enter := m.enter()
	if out, err := exec.Command(enter[0], append(enter[1:], "sh", "-c", script)...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// name gives a namespace a name there, as `ip netns attach` does.
func (m *mounts) name(ns *netnstest.NS, name string) {
	m.t.Helper()
	inside := ns.Start("sleep", "1000")
	pid := strconv.Itoa(inside.Pid())
	netnstest.Eventually(m.t, 10*time.Second, "the process is in the namespace", func() bool {
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		return err == nil && string(name) == "sleep\n"
	})
	m.run("touch /run/netns/" + name + " && mount --bind /proc/" + pid + "/ns/net /run/netns/" + name)
}

// -E --all-netns hears the namespaces with a name, those that get one later, and the own.
func TestAllNetNS(t *testing.T) {
	own, blue, amber := netnstest.New(t, "own"), netnstest.New(t, "blue"), netnstest.New(t, "amber")
	m := newMounts(t, own)
	m.name(blue, "blue")
	applet := netnstest.Applet(t, "conntrack")
	start := func(args ...string) *netnstest.Process {
		enter := append(append(m.enter(), applet, "-E"), args...)
		return own.Start(enter[0], append(enter[1:], "--all-netns")...)
	}
	text, json, expects := start(), start("-o", "json", "-e", "NEW"), start("expect")
	listening := func(ns *netnstest.NS, n int) {
		t.Helper()
		netnstest.Eventually(t, 10*time.Second, strconv.Itoa(n)+" listeners in "+ns.Name, func() bool { return ns.Subscribers() == n })
	}
	listening(own, 3)
	listening(blue, 3)
	m.name(amber, "amber")
	listening(amber, 3)
	for _, ns := range []*netnstest.NS{own, blue, amber} {
		run(t, ns, "-I -t 100 "+udp4)
	}
	netnstest.Eventually(t, 10*time.Second, "three events", func() bool {
		return strings.Count(text.Stdout.String(), "[NEW]") == 3 && strings.Count(json.Stdout.String(), "\n") == 3
	})
	// What has lost its name is no longer heard, but what happened before is.
	run(t, blue, "-D "+udp4)
	m.run("umount /run/netns/blue && rm /run/netns/blue")
	listening(blue, 0)
	run(t, blue, "-I -t 100 "+tcp4)
	run(t, amber, "-D "+udp4)
	netnstest.Eventually(t, 10*time.Second, "two ends", func() bool { return strings.Count(text.Stdout.String(), "[DESTROY]") == 2 })

	r := text.Stop(syscall.SIGINT)
	if r.Code != 0 || r.Stderr != onStderr("5 flow events have been shown.") {
		t.Errorf("status %d, %s", r.Code, r.Stderr)
	}
	for event, n := range map[string]int{
		`(?m)^    \[NEW\] .* portid=\d+$`: 1, // the own has no name
		`(?m)^    \[NEW\] .* netns=blue$`: 1, `(?m)^    \[NEW\] .* netns=amber$`: 1,
		`(?m)^\[DESTROY\] .* netns=blue$`: 1, `(?m)^\[DESTROY\] .* netns=amber$`: 1,
	} {
		out := regexp.MustCompile(` progname=\S+`).ReplaceAllString(r.Stdout, "")
		if got := regexp.MustCompile(event).FindAllString(out, -1); len(got) != n {
			t.Errorf("%d times %s in %s", len(got), event, r.Stdout)
		}
	}
	r = json.Stop(syscall.SIGINT)
	if strings.Count(r.Stdout, `,"netns":"blue","family":`) != 1 || strings.Count(r.Stdout, `,"netns":"amber","family":`) != 1 || strings.Count(r.Stdout, "netns") != 2 {
		t.Errorf("JSON: %s", r.Stdout)
	}
	if r = expects.Stop(syscall.SIGINT); r.Code != 0 || r.Stderr != onStderr("0 expectation events have been shown.") {
		t.Errorf("expectations: %+v", r)
	}
}

// A namespace that cannot be entered is an error at the start.
func TestAllNetNSUnprivileged(t *testing.T) {
	own, blue := netnstest.New(t, "own"), netnstest.New(t, "blue")
	m := newMounts(t, own)
	m.name(blue, "blue")
	if err := os.Chmod(netnstest.BinDir(t), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"-E --all-netns", "-C --by netns"} {
		enter := append(m.enter(), "setpriv", "--bounding-set", "-sys_admin", netnstest.Applet(t, "conntrack"))
		enter = append(enter, strings.Fields(args)...)
		r := own.Run("", enter[0], enter[1:]...)
		if r.Code != 1 || !strings.HasSuffix(r.Stderr, "network namespace blue: entering it needs CAP_SYS_ADMIN: operation not permitted\n") {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestCountBy(t *testing.T) {
	own, blue := netnstest.New(t, "own"), netnstest.New(t, "blue")
	m := newMounts(t, own)
	m.name(blue, "blue")
	fillTable(t, own, 20)
	run(t, own, "-I -w 7 -t 100 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2")
	run(t, own, "-I -w 7 -t 100 -p udp -s 2001:db8::1 -d 2001:db8::2 --sport 1 --dport 2")
	run(t, own, "-I --orig-zone 9 -t 100 -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2")
	fillTable(t, blue, 4)
	file := filepath.Join(t.TempDir(), "predicates")
	if err := os.WriteFile(file, []byte("-p udp --dport 8\n-w 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--by zone":               "20 zone=0\n2 zone=7\n1 zone=9\n",
		"--by z -o json":          "{\"table\":\"conntrack\",\"zone\":0,\"count\":20}\n{\"table\":\"conntrack\",\"zone\":7,\"count\":2}\n{\"table\":\"conntrack\",\"zone\":9,\"count\":1}\n",
		"--by netns":              "23\n4 netns=blue\n",
		"--by netns -o json":      "{\"table\":\"conntrack\",\"count\":23}\n{\"table\":\"conntrack\",\"netns\":\"blue\",\"count\":4}\n",
		"expect --by zone":        "",
		"expect --by netns":       "0\n0 netns=blue\n",
		"--by zone --netns blue":  "4 zone=0\n",
		"":                        "23\n",
		"--by zone --match FILE":  "10 zone=0\n2 zone=7\n",
		"--by netns --match FILE": "12\n2 netns=blue\n",
	} {
		enter := append(append(m.enter(), netnstest.Applet(t, "conntrack"), "-C"), strings.Fields(strings.ReplaceAll(args, "FILE", file))...)
		if r := own.Run("", enter[0], enter[1:]...); r.Code != 0 || r.Stdout != want || r.Stderr != "" {
			t.Errorf("-C %s: %+v, want %s", args, r, want)
		}
	}
	if r := run(t, own, "-C --by mark"); r.status != 2 || !strings.HasPrefix(r.stderr, onStderr("unexpected value 'mark' with --by option: not zone or netns")) {
		t.Errorf("--by mark: %+v", r)
	}
}
