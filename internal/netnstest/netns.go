// Package netnstest lets tests run on the real kernel: network namespaces that
// a test makes and that end with it, links between them, rulesets and sysctls
// in them, and programs run in them, Debian's and ours side by side.
//
// It needs root, iproute2, nftables and util-linux, and says so by failing the
// test: a test that could not run has not passed. Nothing here touches the
// namespace the test was started in.
package netnstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// NS is a network namespace that lives as long as its test. It has a name
// under /run/netns, so `ip netns exec` and nsenter reach it too. Its loopback
// interface is up, and its IPv6 addresses are not first looked for on the link
// (duplicate address detection, RFC 4862).
//
// The methods may be called by several goroutines, but as with testing.TB only
// the test's own goroutine may call those that can fail the test, which all do
// that return no error.
type NS struct {
	Name string // unique on the machine: it has the process id in it

	t    testing.TB
	file *os.File
}

var serial atomic.Int64

// New makes a namespace. label is a word that tells it from the test's others.
func New(t testing.TB, label string) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("netnstest: needs root, to make network namespaces")
	}
	ns := &NS{Name: fmt.Sprintf("ctbox-%d-%d-%s", os.Getpid(), serial.Add(1), label), t: t}
	must(t, "", "ip", "netns", "add", ns.Name)
	t.Cleanup(func() {
		if ns.file != nil {
			ns.file.Close()
		}
		if out, err := exec.Command("ip", "netns", "del", ns.Name).CombinedOutput(); err != nil {
			t.Errorf("netnstest: remove %s: %v: %s", ns.Name, err, out)
		}
	})
	file, err := os.Open(ns.Path())
	if err != nil {
		t.Fatalf("netnstest: %v", err)
	}
	ns.file = file
	ns.Sysctl("net.ipv6.conf.default.accept_dad", "0")
	ns.loadConntrack()
	ns.untune()
	ns.IP("link", "set", "lo", "up")
	return ns
}

// loadConntrack has the kernel load what tests use of it, where nobody has before: the
// parameters below net.netfilter are there from then on.
func (ns *NS) loadConntrack() {
	ns.t.Helper()
	loaded := false
	ns.Do(func() {
		_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max")
		loaded = err == nil
	})
	if !loaded {
		ns.Track()
		ns.NFT("flush ruleset")
	}
}

// untune sets what a new namespace takes over from a host that is tuned: the kernel copies
// the settings of net.ipv4.conf from the first namespace, and has module parameters for
// the defaults of conntrack's.
func (ns *NS) untune() {
	ns.t.Helper()
	ns.Do(func() {
		set := func(path, value string) {
			// Before conntrack is loaded its parameters are not there.
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !os.IsNotExist(err) {
				ns.t.Fatalf("netnstest: %s in %s: %v", path, ns.Name, err)
			}
		}
		for _, key := range []string{"forwarding", "rp_filter", "arp_ignore", "arp_announce", "arp_filter", "log_martians"} {
			for _, conf := range []string{"all", "default", "lo"} {
				set("/proc/sys/net/ipv4/conf/"+conf+"/"+key, "0")
			}
		}
		for _, key := range []string{"acct", "timestamp"} {
			set("/proc/sys/net/netfilter/nf_conntrack_"+key, "0")
		}
	})
}

// Path returns the file of the namespace.
func (ns *NS) Path() string { return filepath.Join("/run/netns", ns.Name) }

// FD returns a descriptor of the namespace, for setns and for the NetNS field
// of a netlink.Config. It is closed when the test ends.
func (ns *NS) FD() int { return int(ns.file.Fd()) }

// Do calls f with the calling goroutine in the namespace. f may fail the test.
// Sockets that f opens stay in the namespace; goroutines that f starts are
// outside it.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		ns.t.Fatalf("netnstest: %v", err)
	}
	defer home.Close()
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		ns.t.Fatalf("netnstest: enter %s: %v", ns.Name, err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			// The thread stays locked: it must run no other goroutine.
			ns.t.Errorf("netnstest: leave %s: %v", ns.Name, err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// Command is exec.Command in the namespace, without a shell. The process has
// the C locale and is killed when the test ends. It is entered by nsenter,
// which execs the program: the pid, signals and exit status are the program's
// own, and its argv[0] is name as given.
func (ns *NS) Command(name string, args ...string) *exec.Cmd {
	argv := append([]string{"--net=" + ns.Path(), "--", name}, args...)
	cmd := exec.CommandContext(ns.t.Context(), "nsenter", argv...)
	cmd.Env = environ()
	return cmd
}

// environ returns the test's environment with messages in English and the
// directories of system programs in the search path.
func environ() []string {
	env := make([]string, 0, len(os.Environ())+2)
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		if key != "PATH" && key != "LANG" && key != "LANGUAGE" && !strings.HasPrefix(key, "LC_") {
			env = append(env, kv)
		}
	}
	return append(env, "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

// IP runs ip(8) in the namespace and fails the test if ip fails.
func (ns *NS) IP(args ...string) {
	ns.t.Helper()
	// Not `ip -n`, which also remounts /sys, and cannot in every container.
	must(ns.t, "", "nsenter", append([]string{"--net=" + ns.Path(), "--", "ip"}, args...)...)
}

// NFT loads an nft(8) ruleset in the namespace and fails the test if nft does.
func (ns *NS) NFT(ruleset string) {
	ns.t.Helper()
	must(ns.t, ruleset, "nsenter", "--net="+ns.Path(), "--", "nft", "-f", "-")
}

// Track makes the namespace track every connection, in both families, without
// changing what passes. The kernel tracks only where some rule asks for it.
func (ns *NS) Track() {
	ns.t.Helper()
	ns.NFT(`table inet ctboxtrack {
	chain in { type filter hook prerouting priority 0; ct state new accept; }
	chain out { type filter hook output priority 0; ct state new accept; }
}`)
}

// Sysctl sets a kernel parameter of the namespace: "net.ipv4.ip_forward", or
// with slashes where a part has a dot in it.
func (ns *NS) Sysctl(key, value string) {
	ns.t.Helper()
	ns.Do(func() {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
			ns.t.Fatalf("netnstest: sysctl %s=%s in %s: %v", key, value, ns.Name, err)
		}
	})
}

// TakesSysctl sets a kernel parameter as Sysctl does, and reports whether this kernel has
// the parameter and takes the value.
func (ns *NS) TakesSysctl(key, value string) (taken bool) {
	ns.t.Helper()
	ns.Do(func() { taken = os.WriteFile(sysctlPath(key), []byte(value), 0) == nil })
	return taken
}

// ReadSysctl returns a kernel parameter of the namespace.
func (ns *NS) ReadSysctl(key string) string {
	ns.t.Helper()
	var value []byte
	ns.Do(func() {
		var err error
		if value, err = os.ReadFile(sysctlPath(key)); err != nil {
			ns.t.Fatalf("netnstest: sysctl %s in %s: %v", key, ns.Name, err)
		}
	})
	return strings.TrimSpace(string(value))
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}

// must runs a program that sets the test up.
func must(t testing.TB, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = environ()
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("netnstest: %s %s: %v: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
}
