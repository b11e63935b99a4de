//go:build long || torture

package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// firewall is a node with conntrackd, keepalived and the shipped files for both, of which only
// paths, addresses and the priority are changed.
type firewall struct {
	*node
	t      testing.TB
	keeper *netnstest.Process
}

// firewalls is a pair of them: eth0 is the dedicated link, eth1 and eth2 have the virtual
// addresses. fw1 has the higher priority.
type firewalls struct {
	t        testing.TB
	fw1, fw2 *firewall
}

func newFirewalls(t testing.TB) *firewalls {
	t.Helper()
	p := &firewalls{t: t, fw1: newFirewall(t, 0), fw2: newFirewall(t, 1)}
	for i, net := range []string{"203.0.113.", "192.0.2.1", "198.51.100.1"} {
		dev := fmt.Sprint("eth", i)
		netnstest.Link(t, netnstest.End{NS: p.fw1.ns, Dev: dev, Addrs: []string{net + "1/24"}},
			netnstest.End{NS: p.fw2.ns, Dev: dev, Addrs: []string{net + "2/24"}})
	}
	return p
}

func newFirewall(t testing.TB, i int) *firewall {
	t.Helper()
	ns := netnstest.New(t, fmt.Sprint("fw", i+1))
	n := &node{side: &sides[i], ns: ns, kernel: openKernel(t, ns)}
	n.daemon = &daemon{t: t, ns: ns, program: ours, dir: shortDir(t), expects: true}
	fw := &firewall{node: n, t: t}
	d := n.daemon
	t.Cleanup(func() {
		fw.killKeeper() // or its script starts another one
		if _, err := d.request(statsRuntime); err == nil {
			fw.killDaemon()
		}
	})
	if err := os.Mkdir(d.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	own, peer := "1", "2"
	if i == 1 {
		own, peer = peer, own
	}
	fw.install("conf", "conntrackd/ftfw.conf", 0o600,
		"203.0.113.1\n", "203.0.113."+own+"\n", "203.0.113.2\n", "203.0.113."+peer+"\n",
		"192.0.2.11\n", "192.0.2.1"+own+"\n", "192.0.2.12\n", "192.0.2.1"+peer+"\n",
		"# Ready {", "Ready {", "/run/ctbox/ready", fw.tracked(),
		"LogFile on", "LogFile "+d.path("log"), "/var/lock/conntrackd.lock", d.path("lock"), "/var/run/conntrackd.ctl", d.path("ctl"),
		"IPv4_address 198.51.100.1\n", "IPv4_address 192.0.2.2\n") // flows of the test begin there
	fw.install("keepalived.conf", "keepalived.conf", 0o600,
		"/run/ctbox/ready", fw.tracked(), "/etc/conntrackd/primary-backup.sh", d.path("notify"),
		"priority 100", fmt.Sprint("priority ", 100-10*i))
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	notify := fmt.Sprintf(`#!/bin/sh
export CONNTRACKD_BIN=%s CONNTRACKD_CONFIG=%s CONNTRACKD_LOCK=%s
sh %s "$@" 2>>%s
status=$?
[ "$1" = alive ] || echo "$1 status $status" >>%[6]s
exit $status
`, ours.path(t), d.path("conf"), d.path("lock"), filepath.Join(root, "scripts/primary-backup.sh"), d.path("notify.log"), d.path("roles"))
	if err := os.WriteFile(d.path("notify"), []byte(notify), 0o700); err != nil {
		t.Fatal(err)
	}
	return fw
}

// install copies a file of scripts/ with changes, each of which has to apply.
func (fw *firewall) install(as, name string, mode os.FileMode, changes ...string) {
	fw.t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		fw.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "scripts", name))
	if err != nil {
		fw.t.Fatal(err)
	}
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(string(text), changes[i]) {
			fw.t.Fatalf("%s lacks %q", name, changes[i])
		}
	}
	if err := os.WriteFile(fw.daemon.path(as), []byte(strings.NewReplacer(changes...).Replace(string(text))), mode); err != nil {
		fw.t.Fatal(err)
	}
}

// tracked is the file for keepalived.
func (fw *firewall) tracked() string { return fw.daemon.path("run/ready") }

// value is the content of that file without its newline, "" if there is none.
func (fw *firewall) value() string {
	text, _ := os.ReadFile(fw.tracked())
	return strings.TrimSuffix(string(text), "\n")
}

func (fw *firewall) startKeeper() {
	fw.t.Helper()
	d := fw.daemon
	fw.keeper = fw.ns.Start("keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp",
		"--use-file", d.path("keepalived.conf"), "--pid", d.path("keepalived.pid"), "--vrrp_pid", d.path("vrrp.pid"))
}

// killKeeper kills keepalived, so that it neither removes its addresses nor says farewell.
func (fw *firewall) killKeeper() {
	if fw.keeper == nil || fw.keeper.Ended() {
		return
	}
	_ = syscall.Kill(fw.keeper.Pid(), syscall.SIGSTOP) // it must not notice the child's death
	if text, err := os.ReadFile(fw.daemon.path("vrrp.pid")); err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	fw.keeper.Stop(syscall.SIGKILL)
	for _, name := range []string{"vrrp.pid", "keepalived.pid"} {
		_ = os.Remove(fw.daemon.path(name))
	}
}

// killDaemon kills conntrackd, which primary-backup.sh may have started.
func (fw *firewall) killDaemon() {
	fw.t.Helper()
	text, err := os.ReadFile(fw.daemon.path("lock"))
	pid, numberErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err := errors.Join(err, numberErr); err != nil {
		fw.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		fw.t.Fatal(err)
	}
	if pid == fw.daemon.process.Pid() {
		fw.daemon.process.Wait(patience)
	}
}

// crash is a power failure: the programs, the addresses, the kernel's table and /run are gone.
func (fw *firewall) crash() {
	fw.t.Helper()
	fw.killKeeper()
	fw.killDaemon()
	for _, dev := range []string{"eth1", "eth2"} {
		fw.ns.IP("addr", "flush", "dev", dev) // the link stays up: both nodes are on switches
	}
	fw.kernel.flush()
	if err := os.Remove(fw.tracked()); err != nil {
		fw.t.Error(err)
	}
}

// boot starts everything after a crash, keepalived first.
func (fw *firewall) boot() {
	fw.t.Helper()
	last := "1"
	if fw.side == &sides[1] {
		last = "2"
	}
	for dev, addr := range map[string]string{"eth1": "192.0.2.1", "eth2": "198.51.100.1"} {
		fw.ns.IP("addr", "add", addr+last+"/24", "dev", dev)
	}
	fw.startKeeper()
	fw.daemon.start()
}

// isMaster reports whether the node has both virtual addresses.
func (fw *firewall) isMaster() bool {
	return fw.has("eth1", "192.0.2.1") && fw.has("eth2", "198.51.100.1")
}

func (fw *firewall) has(dev, address string) (has bool) {
	fw.ns.Do(func() {
		ifc, err := net.InterfaceByName(dev)
		if err != nil {
			return
		}
		addrs, _ := ifc.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			has = has || err == nil && p.Addr().String() == address
		}
	})
	return has
}

// readiness is what -s peers says in JSON.
type readiness struct {
	Ready struct {
		InSync     bool   `json:"in_sync"`
		Promotable bool   `json:"promotable"`
		Reason     string `json:"reason"`
		Held       int    `json:"flows_held"`
	} `json:"ready"`
}

func (fw *firewall) readiness() (r readiness) {
	text, err := fw.daemon.request(statsPeers | withOutcome | asJSON)
	text, _, _ = strings.Cut(text, "\n")
	if err != nil || json.Unmarshal([]byte(text), &r) != nil {
		return readiness{}
	}
	return r
}

func (fw *firewall) entries() int {
	n, _ := strconv.Atoi(fw.ns.ReadSysctl("net.netfilter.nf_conntrack_count"))
	return n
}

// await waits until a condition holds.
func (p *firewalls) await(what string, condition func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(2 * patience)
	for !condition() {
		if time.Now().After(deadline) {
			p.t.Fatalf("not within %v: %s\n%s", 2*patience, what, p.state())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// becomes waits until one node is the master and has carried out its script, and the other
// one is not.
func (p *firewalls) becomes(master *firewall, what string) {
	p.t.Helper()
	other := p.fw1
	if master == p.fw1 {
		other = p.fw2
	}
	p.await(what, func() bool {
		roles, _ := os.ReadFile(master.daemon.path("roles"))
		return master.isMaster() && !other.isMaster() && strings.HasSuffix(string(roles), "primary status 0\n")
	})
}

func (p *firewalls) state() string {
	var s strings.Builder
	for _, fw := range []*firewall{p.fw1, p.fw2} {
		roles, _ := os.ReadFile(fw.daemon.path("roles"))
		scripts, _ := os.ReadFile(fw.daemon.path("notify.log"))
		fmt.Fprintf(&s, "%s: master %v, file %q, %d entries, %+v\nroles:\n%s%s\nconntrackd:\n%s\n", fw.ns.Name,
			fw.isMaster(), fw.value(), fw.entries(), fw.readiness(), roles, scripts, fw.daemon.log())
		if fw.keeper != nil {
			fmt.Fprintf(&s, "keepalived:\n%s%s\n", fw.keeper.Stdout, fw.keeper.Stderr)
		}
	}
	return s.String()
}

// start starts all four programs at once, and waits until fw1 is the master and both may take
// over.
func (p *firewalls) start() {
	p.t.Helper()
	for _, fw := range []*firewall{p.fw1, p.fw2} {
		fw.startKeeper()
		fw.daemon.launch()
	}
	p.becomes(p.fw1, "fw1 is the master after a cold start")
	p.await("both may take over", func() bool { return p.fw1.value() == "0" && p.fw2.value() == "0" })
}

// watch checks until the test ends that no master knows fewer than so many flows for longer
// than a second. A flow counts as known that is in the kernel or in the external cache.
func (p *firewalls) watch(flows int) (end func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	for _, fw := range []*firewall{p.fw1, p.fw2} {
		watching.Go(func() {
			var since time.Time
			for {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
				}
				switch known := max(fw.entries(), fw.readiness().Ready.Held); {
				case known >= flows || !fw.isMaster():
					since = time.Time{}
				case since.IsZero():
					since = time.Now()
				case time.Since(since) > time.Second:
					p.t.Errorf("%s has been the master for more than a second and knows %d of %d flows", fw.ns.Name, known, flows)
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(done); watching.Wait() })
}

// fill makes flows in fw1's kernel, and waits until fw2 has them.
func (p *firewalls) fill(flows int) {
	p.t.Helper()
	pipeline := p.fw1.kernel.conn.NewPipeline(p.t.Context(), func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			return f.Err
		}
		return nil
	})
	b, err := pipeline.Batch()
	for i := 0; err == nil && i < flows; i++ {
		f := p.fw1.burstFlow(i)
		b.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: f.Family(), Attrs: f.Append})
		if b.Full() || i == flows-1 {
			if err = pipeline.Submit(b); err == nil {
				b, err = pipeline.Batch()
			}
		}
	}
	if err := errors.Join(err, pipeline.Close()); err != nil {
		p.t.Fatal(err)
	}
	p.await("fw2 has the flows", func() bool { return p.fw2.readiness().Ready.Held == flows })
}

// Either daemon is killed: the other node takes over, with all flows, and gives back when the
// first one has them again.
func TestKeepalivedWithKilledDaemons(t *testing.T) {
	t.Parallel()
	p := newFirewalls(t)
	p.start()
	const flows = 1000
	p.fill(flows)
	defer p.watch(flows)()

	p.fw2.killDaemon()
	p.await("fw1 hears nothing", func() bool { r := p.fw1.readiness().Ready; return r.Promotable && !r.InSync })
	if p.fw1.value() != "0" || !p.fw1.isMaster() {
		t.Errorf("the survivor has stepped down\n%s", p.state())
	}
	p.fw2.daemon.start()
	p.await("fw2 may take over again", func() bool { return p.fw2.value() == "0" && p.fw2.readiness().Ready.InSync })

	p.fw1.killDaemon() // and primary-backup.sh starts one
	p.becomes(p.fw2, "fw2 is the master while fw1 has no conntrackd")
	p.becomes(p.fw1, "fw1 is the master again")
	if n := p.fw1.entries(); n < flows {
		t.Errorf("fw1 has %d flows", n)
	}

	// The end says at once that the node may not take over.
	p.fw1.daemon.client("-k")
	if v := p.fw1.value(); v != "-60" {
		t.Errorf("after the end the file has %q", v)
	}
}

// keepalived is killed on the master, and its addresses stay until it starts again.
func TestKeepalivedKilled(t *testing.T) {
	t.Parallel()
	p := newFirewalls(t)
	p.start()
	const flows = 1000
	p.fill(flows)
	defer p.watch(flows)()
	p.fw1.killKeeper()
	p.await("fw2 is a master", p.fw2.isMaster)
	p.fw1.startKeeper()
	p.becomes(p.fw1, "fw1 is the master again")
}

// The node with the higher priority loses everything: its keepalived waits for conntrackd to
// have all flows, then takes over. Meanwhile the survivor stays fit, also alone, and with a
// conntrackd that has just started.
func TestKeepalivedAfterReboot(t *testing.T) {
	t.Parallel()
	p := newFirewalls(t)
	p.start()
	const flows = 20000
	p.fill(flows)
	defer p.watch(flows)()
	p.fw1.crash()
	p.becomes(p.fw2, "fw2 is the master")
	p.await("fw2 hears nothing", func() bool { return strings.Contains(p.fw2.readiness().Ready.Reason, "no peer is heard") })
	if v := p.fw2.value(); v != "0" {
		t.Errorf("the survivor's file has %q", v)
	}
	p.fw1.boot()
	if v := p.fw1.value(); v != "-60" && v != "0" {
		t.Errorf("the file of the node that returned has %q", v)
	}
	p.becomes(p.fw1, "fw1 is the master again")
	if n := p.fw1.entries(); n != flows {
		t.Errorf("fw1 has %d flows of %d", n, flows)
	}
	if p.fw2.value() != "0" {
		t.Errorf("fw2's file has %q", p.fw2.value())
	}

	// Alone, with a new conntrackd: not fit at first, master all the time.
	p.fw2.crash()
	p.await("fw1 hears nothing", func() bool { return !p.fw1.readiness().Ready.InSync })
	p.fw1.killDaemon()
	p.fw1.daemon.launch()
	p.await("fw1 is not fit when it starts", func() bool { return p.fw1.value() == "-60" })
	p.await("fw1 is fit after StartGrace", func() bool {
		if !p.fw1.isMaster() {
			t.Fatalf("the only node is not the master\n%s", p.state())
		}
		return p.fw1.value() == "0"
	})
	if reason := p.fw1.readiness().Ready.Reason; !strings.Contains(reason, "no peer was heard for 10 s") {
		t.Errorf("it is fit because: %s", reason)
	}
}

// Someone removes the file of a node that lacks flows, then its directory. It does not take
// over; and does when it has the flows.
func TestKeepalivedWithoutItsFile(t *testing.T) {
	t.Parallel()
	p := newFirewalls(t)
	p.start()
	const flows = 1000
	p.fill(flows)
	defer p.watch(flows)()
	p.fw1.crash()
	p.becomes(p.fw2, "fw2 is the master")
	// Signs of life pass, flows do not.
	p.fw1.ns.NFT(`
table inet hinder {
	chain in { type filter hook input priority 0; udp dport 3780 meta length > 120 drop; }
}
`)
	p.fw1.boot()
	waits := func() bool { r := p.fw1.readiness().Ready; return r.Reason != "" && !r.Promotable }
	p.await("fw1 hears its peer and lacks flows", func() bool {
		return waits() && p.fw1.value() == "-60" && strings.Contains(p.fw1.readiness().Ready.Reason, "203.0.113.2")
	})
	// stays checks for as long as a takeover would take that there is none.
	stays := func(when string) {
		t.Helper()
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if p.fw1.isMaster() || !p.fw2.isMaster() || !waits() {
				t.Fatalf("%s: fw1 has taken over, or may\n%s", when, p.state())
			}
		}
	}
	if err := os.Remove(p.fw1.tracked()); err != nil {
		t.Fatal(err)
	}
	p.await("the file is there again", func() bool { return p.fw1.value() == "-60" })
	stays("without the file")
	if err := os.RemoveAll(filepath.Dir(p.fw1.tracked())); err != nil {
		t.Fatal(err)
	}
	p.await("the log says what to do", func() bool { return strings.Contains(p.fw1.daemon.log(), "when there is one again, reload keepalived") })
	stays("without the directory")
	if err := os.Mkdir(filepath.Dir(p.fw1.tracked()), 0o755); err != nil {
		t.Fatal(err)
	}
	p.await("the file is there again", func() bool { return p.fw1.value() == "-60" })
	if err := syscall.Kill(p.fw1.keeper.Pid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.fw1.ns.NFT("delete table inet hinder\n")
	p.becomes(p.fw1, "fw1 is the master when it has the flows")
}
