package conntrackd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// confinement is what /proc/PID/status says of a thread.
type confinement struct{ inherited, permitted, effective, bounding, ambient, noNewPrivs, seccomp string }

// confinements are those of a process's threads.
func confinements(t testing.TB, pid int) []confinement {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatal(threads, err)
	}
	var all []confinement
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		var c confinement
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			for _, f := range []struct {
				key string
				to  *string
			}{{"CapInh", &c.inherited}, {"CapPrm", &c.permitted}, {"CapEff", &c.effective}, {"CapBnd", &c.bounding},
				{"CapAmb", &c.ambient}, {"NoNewPrivs", &c.noNewPrivs}, {"Seccomp", &c.seccomp}} {
				if key == f.key {
					*f.to = value
				}
			}
		}
		all = append(all, c)
	}
	return all
}

// confinedTo is a thread with these capabilities only.
func confinedTo(capabilities ...int) confinement {
	const none = "0000000000000000"
	set := uint64(0)
	for _, c := range capabilities {
		set |= 1 << c
	}
	hex := fmt.Sprintf("%016x", set)
	return confinement{none, hex, hex, hex, none, "1", "2"}
}

func checkConfined(t testing.TB, pid int, want confinement) {
	t.Helper()
	for _, got := range confinements(t, pid) {
		if got != want {
			t.Errorf("a thread has %+v, want %+v", got, want)
		}
	}
}

// Every thread of a daemon has the least that its configuration needs.
func TestConfined(t *testing.T) {
	for name, clauses := range setups {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			p := h.start(ours(t), h.configure("", clauses))
			h.client("-s")
			h.client("-i")
			checkConfined(t, p.Pid(), confinedTo(unix.CAP_NET_ADMIN))
			stop(t, p)
			if p.Stderr.String() != "" {
				t.Errorf("it says %s", p.Stderr)
			}
		})
	}
}

func TestConfinedWithMore(t *testing.T) {
	h := newHost(t)
	// A log that logrotate gives to another user, and a port of root's.
	if err := os.WriteFile(h.path("log"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.path("log"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	clauses := strings.ReplaceAll(setups["ftfw"], "3780", "694")
	if clauses == setups["ftfw"] {
		t.Fatal("no port in the configuration")
	}
	p := h.start(ours(t), h.configure(" LogFile "+h.path("log"), clauses))
	checkConfined(t, p.Pid(), confinedTo(unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_DAC_OVERRIDE))
	if err := os.Rename(h.path("log"), h.path("log.1")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("log"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.path("log"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "the new log is written", func() bool {
		h.client("-R")
		text, err := os.ReadFile(h.path("log"))
		return err == nil && len(text) > 0
	})
	// The interface goes and comes back, and with it the socket on the port.
	h.IP("link", "del", "sync0")
	h.IP("link", "add", "sync0", "type", "veth", "peer", "name", "far0")
	h.IP("addr", "add", "192.0.2.1/24", "dev", "sync0")
	h.IP("link", "set", "far0", "up")
	h.IP("link", "set", "sync0", "up")
	netnstest.Eventually(t, patience, "the link runs again", func() bool {
		return strings.Contains(h.client("-s", "link"), "status=RUNNING") && strings.Contains(h.udpSockets(), ":02B6 ")
	})
	stop(t, p)
}

// udpSockets is the namespace's table of sockets.
func (h *host) udpSockets() string { return h.Must("cat", "/proc/net/udp") }

func TestConfinedInBackground(t *testing.T) {
	h := newHost(t)
	pid, r := h.background(h.configure("", "Stats {\n}"))
	if r != (netnstest.Result{}) {
		t.Fatalf("-d: %+v", r)
	}
	h.client("-s") // answered after it was confined
	checkConfined(t, pid, confinedTo(unix.CAP_NET_ADMIN))
	h.client("-k")
}

func TestNoSandbox(t *testing.T) {
	h := newHost(t)
	config := h.configure("", "Stats {\n}")
	p := h.Start(ours(t), "-C", config, "--no-sandbox")
	netnstest.Eventually(t, patience, "the daemon is started", func() bool { return strings.Contains(p.Stdout.String(), "-- starting") })
	self := confinements(t, os.Getpid())[0]
	checkConfined(t, p.Pid(), self)
	if self.seccomp != "0" {
		t.Errorf("the test itself has %+v", self)
	}
	stop(t, p)
}
