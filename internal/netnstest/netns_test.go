package netnstest

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) { Main(m) }

func netnsOf(t *testing.T, path string) string {
	t.Helper()
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestNamespaceIsItsOwnAndGoes(t *testing.T) {
	var name string
	home := netnsOf(t, "/proc/thread-self/ns/net")
	t.Run("inside", func(t *testing.T) {
		ns := New(t, "a")
		name = ns.Name
		var inside string
		ns.Do(func() { inside = netnsOf(t, "/proc/thread-self/ns/net") })
		if inside == home {
			t.Error("Do ran in the test's own namespace")
		}
		if got := strings.TrimSpace(ns.Must("readlink", "/proc/self/ns/net")); got != inside {
			t.Errorf("Command ran in %s, Do in %s", got, inside)
		}
		if got := netnsOf(t, "/proc/thread-self/ns/net"); got != home {
			t.Errorf("after Do the test is in %s, not back in %s", got, home)
		}
	})
	if _, err := os.Stat(filepath.Join("/run/netns", name)); !os.IsNotExist(err) {
		t.Errorf("%s is still there after its test: %v", name, err)
	}
}

func TestDoReturnsHomeWhenTheFunctionExits(t *testing.T) {
	ns := New(t, "a")
	home := netnsOf(t, "/proc/thread-self/ns/net")
	func() {
		defer func() { recover() }()
		ns.Do(func() { panic("as t.FailNow unwinds the stack") })
	}()
	if got := netnsOf(t, "/proc/thread-self/ns/net"); got != home {
		t.Errorf("the test is in %s, not back in %s", got, home)
	}
}

func TestSysctlIsTheNamespaces(t *testing.T) {
	a, b := New(t, "a"), New(t, "b")
	a.Sysctl("net.ipv4.ip_forward", "1")
	b.Sysctl("net.ipv4.ip_forward", "0")
	if got := a.ReadSysctl("net.ipv4.ip_forward") + b.ReadSysctl("net/ipv4/ip_forward"); got != "10" {
		t.Errorf("ip_forward is %q in the two, want 10", got)
	}
}

func TestLinkCarriesTrackedTraffic(t *testing.T) {
	a, b := New(t, "a"), New(t, "b")
	Link(t, End{a, "eth0", []string{"192.0.2.1/24", "2001:db8::1/64"}},
		End{b, "eth0", []string{"192.0.2.2/24", "2001:db8::2/64"}})
	b.Track()

	for _, addr := range []string{"192.0.2.2", "2001:db8::2"} {
		var listener net.Listener
		var err error
		b.Do(func() { listener, err = net.Listen("tcp", net.JoinHostPort(addr, "7")) })
		if err != nil {
			t.Fatal(err)
		}
		a.Do(func() {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
		listener.Close()
		if table := b.Must("conntrack", "-L", "-f", family(addr)); !strings.Contains(table, "dst="+addr) {
			t.Errorf("no flow to %s in:\n%s", addr, table)
		}
	}
	if table := a.Must("conntrack", "-L"); table != "" {
		t.Errorf("the other side tracks without being told to:\n%s", table)
	}
}

func family(addr string) string {
	if strings.Contains(addr, ":") {
		return "ipv6"
	}
	return "ipv4"
}

func TestRunReportsHowAProgramEnded(t *testing.T) {
	ns := New(t, "a")
	for _, c := range []struct {
		name string
		argv []string
		want Result
	}{
		{"output and status", []string{"sh", "-c", "cat; echo err >&2; exit 3"}, Result{"in\n", "err\n", 3}},
		{"signal", []string{"sh", "-c", "kill -TERM $$"}, Result{"", "", 128 + int(syscall.SIGTERM)}},
		{"C locale", []string{"sh", "-c", "printf %s $LC_ALL"}, Result{"C", "", 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ns.Run("in\n", c.argv[0], c.argv[1:]...); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestListenerIsSeenStartingAndEnding(t *testing.T) {
	ns := New(t, "a")
	if n := ns.Subscribers(); n != 0 {
		t.Fatalf("%d subscribers in a new namespace", n)
	}
	p := ns.Start("/usr/sbin/conntrack", "-E")
	Eventually(t, 10*time.Second, "conntrack -E listens", func() bool { return ns.Subscribers() == 1 })
	ns.Must("/usr/sbin/conntrack", "-I", "-p", "udp", "-s", "192.0.2.1", "-d", "192.0.2.2",
		"--sport", "1", "--dport", "2", "-t", "100")
	Eventually(t, 10*time.Second, "the event is printed", func() bool {
		return strings.Contains(p.Stdout.String(), "src=192.0.2.1")
	})
	if p.Ended() {
		t.Error("the listener ended by itself")
	}
	// Not how many: conntrack counts an event after it has printed it, and the
	// signal may come between.
	r := p.Stop(syscall.SIGINT)
	if r.Code != 0 || !strings.Contains(r.Stderr, "flow events have been shown") {
		t.Errorf("after SIGINT: %+v", r)
	}
}

func TestOurBinaryIsBuilt(t *testing.T) {
	ns := New(t, "a")
	if got := ns.Must(Applet(t, "ctbox"), "--version"); !strings.HasPrefix(got, "ctbox v") {
		t.Errorf("--version prints %q", got)
	}
}

func TestTwinsRunBothPrograms(t *testing.T) {
	tw := NewTwins(t, func(ns *NS) {
		ns.Track()
		ns.Must("ping", "-q", "-c", "1", "127.0.0.1")
	})
	theirs, ours := tw.Run("", "conntrack", "-L", "-p", "icmp")
	for _, r := range []struct {
		Result
		program string
	}{{theirs, "(conntrack-tools): 1 flow"}, {ours, "conntrack v1.4.9 (conntrack-tools): 1 flow"}} {
		if r.Code != 0 || !strings.Contains(r.Stdout, "src=127.0.0.1") || !strings.Contains(r.Stderr, r.program) {
			t.Errorf("want one flow from %s: %+v", r.program, r.Result)
		}
	}
	// The help has argv[0] in it, the bare name in both.
	theirs, ours = tw.Run("", "conntrack", "-h")
	for _, r := range []Result{theirs, ours} {
		if !strings.Contains(r.Stdout, "Usage: conntrack [commands] [options]\n") {
			t.Errorf("the help begins %.200q", r.Stdout)
		}
	}
}
