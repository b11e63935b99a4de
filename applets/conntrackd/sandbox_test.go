package conntrackd

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ctbox/internal/netnstest"
)

// confinement is the privileges of a thread in /proc/PID/status.
type confinement struct{ inherited, permitted, effective, bounding, ambient, noNewPrivs, seccomp string }

// confinements returns the confinements of a process's threads.
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

// confinedTo returns the confinement of a thread with these capabilities only.
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

// Every thread of a daemon has only the privileges that its configuration needs.
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
	// A log that logrotate gives to another user, and a privileged port.
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
	// The interface is removed and recreated, and with it the socket on the port.
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

// udpSockets returns the namespace's table of UDP sockets.
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

// refusals listens to the audit log, which has the system calls that a filter refuses (seccomp(2),
// SECCOMP_FILTER_FLAG_LOG), and returns a function that returns those of a process since then. On a
// kernel without an audit log it returns nothing.
func refusals(t testing.TB) func(pid int) []string {
	t.Helper()
	const (
		readLog = 1    // AUDIT_NLGRP_READLOG (linux/audit.h), as a set of groups
		seccomp = 1326 // AUDIT_SECCOMP
	)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		t.Logf("no audit log: %v", err)
		return func(int) []string { return nil }
	}
	t.Cleanup(func() { unix.Close(fd) })
	// The buffer also receives the messages of the machine's other processes.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: readLog}); err != nil {
		t.Logf("no audit log: %v", err)
		return func(int) []string { return nil }
	}
	return func(pid int) (found []string) {
		record := make([]byte, 16<<10)
		for {
			n, _, err := unix.Recvfrom(fd, record, 0)
			switch {
			case err == unix.ENOBUFS: // some are lost, possibly of other processes
			case err != nil:
				return found
			case n < unix.NLMSG_HDRLEN || binary.NativeEndian.Uint16(record[4:]) != seccomp:
			case strings.Contains(string(record[:n]), fmt.Sprintf(" pid=%d ", pid)):
				found = append(found, string(record[unix.NLMSG_HDRLEN:n]))
			}
		}
	}
}

// After its start a daemon stays confined, and the filter refuses none of its calls.
func TestConfinedForGood(t *testing.T) {
	refused := refusals(t)
	a, b := newPair(t)
	overTCP := func(own, peer string) string {
		return strings.Replace(ftfwTo(own, peer), "UDP {", "TCP {", 1)
	}
	toB, toA := overTCP("192.0.2.1", "192.0.2.2"), overTCP("192.0.2.2", "192.0.2.1")
	a.IP("link", "set", "lo", "up")
	log := func(name string) string { return " LogFile " + a.path(name) + "\n" }
	p := a.start(ours(t), a.configure(log("log"), toB))
	q := b.start(ours(t), b.configure("", toA))
	check := func() {
		t.Helper()
		checkConfined(t, p.Pid(), confinedTo(unix.CAP_NET_ADMIN))
	}
	a.insert("198.51.100.1", 1001)
	b.caches("-e", map[int]bool{1001: true})
	check()

	a.reloads("General LogFile, General Metrics, General Filter", log("log2")+fmt.Sprintf(ignore("198.51.100.9"), "Kernelspace")+listen4, toB)
	if status, _ := a.get("http://127.0.0.1:9107/metrics"); status != 200 {
		t.Errorf("the metrics: %d", status)
	}
	check()
	if err := os.Rename(a.path("log2"), a.path("log2.1")); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(p.Pid(), syscall.SIGHUP)
	netnstest.Eventually(t, patience, "the log is there again", func() bool { return exists(a.path("log2")) })

	// The peer and the interface are stopped and restarted.
	q.Stop(syscall.SIGKILL)
	a.insert("198.51.100.1", 1002)
	b.start(ours(t), b.path("conntrackd.conf"))
	b.caches("-e", map[int]bool{1001: true, 1002: true})
	a.IP("link", "del", "sync0")
	netnstest.Link(t, netnstest.End{NS: a.NS, Dev: "sync0", Addrs: []string{"192.0.2.1/24"}},
		netnstest.End{NS: b.NS, Dev: "sync0", Addrs: []string{"192.0.2.2/24"}})
	a.insert("198.51.100.1", 1003)
	b.caches("-e", map[int]bool{1001: true, 1002: true, 1003: true})
	b.insert("198.51.100.2", 2001)
	a.caches("-e", map[int]bool{2001: true})

	for _, args := range [][]string{{"-c"}, {"-s"}, {"-s", "link"}, {"-s", "metrics"}, {"-i", "-x"}, {"-R"}, {"-t"}, {"-n"}, {"-B"}, {"-f"}, {"-F"}} {
		a.client(args...)
	}
	check()
	stop(t, p)
	for _, name := range []string{"log", "log2", "log2.1"} {
		if text, err := os.ReadFile(a.path(name)); err != nil || strings.Contains(string(text), "not permitted") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	if got := refused(p.Pid()); len(got) > 0 {
		t.Errorf("the kernel refused %d calls: %s", len(got), got)
	}
}
