package conntrack

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
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
	if r := events.Stop(syscall.SIGINT); r.Code != 0 || !strings.Contains(r.Stdout, " progname=conntrack") {
		t.Errorf("-E: %+v", r)
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
