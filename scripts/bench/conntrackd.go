package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// conntrackd measures replication: an active node whose kernel gets flows, and a backup that
// receives them, commits and takes over.
func (b *bench) conntrackd() error {
	if !b.wanted("conntrackd") {
		return nil
	}
	fmt.Printf("\n| conntrackd, FT-FW over UDP | CPU a flow, active | CPU a flow, backup | memory a flow, active | memory a flow, backup | flows a packet | commit | kill -9 to all flows in the backup's kernel |\n|---|---|---|---|---|---|---|---|\n")
	for _, n := range b.replicated {
		for range b.runs {
			for _, who := range []struct{ name, path string }{{"Debian", b.debiand}, {"ctbox", b.oursd}} {
				if err := b.replicate(who.name, who.path, n); err != nil {
					return fmt.Errorf("%s, %d flows: %w", who.name, n, err)
				}
			}
		}
	}
	return nil
}

// fwNode is a firewall of the pair.
type fwNode struct {
	ns     *namespace
	dir    string
	config string
	daemon *exec.Cmd
	conn   *nl.Conn
}

// newPair starts a pair of daemons. clauses are put into Sync, where SELF and PEER stand for the
// numbers of the node and of the other one, 1 and 2.
func (b *bench) newPair(path string, flows int, clauses string) (active, backup *fwNode, err error) {
	pair := make([]*fwNode, 2)
	defer func() {
		for _, n := range pair {
			if err != nil && n != nil {
				n.stop()
			}
		}
	}()
	for i := range pair {
		n := &fwNode{dir: filepath.Join(b.dir, fmt.Sprintf("node%d", i))}
		pair[i] = n
		if n.ns, err = newNamespace(fmt.Sprintf("fw%d", i)); err != nil {
			return nil, nil, err
		}
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return nil, nil, err
		}
	}
	var steps [][]string
	for link, net := range map[string]string{"sync0": "192.0.2.%d/24", "sync1": "203.0.113.%d/24"} {
		steps = append(steps, []string{"ip", "link", "add", link, "netns", pair[0].ns.name, "type", "veth", "peer", "name", link, "netns", pair[1].ns.name})
		for i, n := range pair {
			steps = append(steps,
				[]string{"ip", "-n", n.ns.name, "addr", "add", fmt.Sprintf(net, i+1), "dev", link},
				[]string{"ip", "-n", n.ns.name, "link", "set", link, "up"})
		}
	}
	for _, step := range steps {
		if out, err := exec.Command(step[0], step[1:]...).CombinedOutput(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w: %s", strings.Join(step, " "), err, out)
		}
	}
	for i, n := range pair {
		if err := n.start(path, i+1, 2-i, flows, clauses); err != nil {
			return nil, nil, err
		}
	}
	return pair[0], pair[1], nil
}

// shipped is the shipped example configuration, which the daemons use.
const shipped = "scripts/conntrackd/ftfw.conf"

var ipv4Address = regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`)

// configure writes the configuration of firewall number self: the one that we ship, with
// the addresses and files of this pair, and a larger cache where there are more flows than
// it has room for. Debian's daemon, which has no event buffer of its own, has the one of
// its own example.
func (n *fwNode) configure(path string, self, peer, flows int, clauses string) error {
	text, err := os.ReadFile(shipped)
	if err != nil {
		return err
	}
	links := [2]string{"192.0.2.", "203.0.113."}
	addresses := map[string]string{
		"203.0.113.1": links[0] + strconv.Itoa(self), "203.0.113.2": links[0] + strconv.Itoa(peer),
		"192.0.2.11": links[1] + strconv.Itoa(self), "192.0.2.12": links[1] + strconv.Itoa(peer),
		"192.0.2.1": "192.0.2.101", "198.51.100.1": "192.0.2.102", "127.0.0.1": "127.0.0.1",
	}
	config := ipv4Address.ReplaceAllStringFunc(string(text), func(a string) string {
		if addresses[a] == "" {
			err = fmt.Errorf("%s has the address %s, for which there is none here", shipped, a)
		}
		return addresses[a]
	})
	change := func(from, to string) {
		if strings.Count(config, from) != 1 {
			err = fmt.Errorf("%s has %q %d times", shipped, from, strings.Count(config, from))
		}
		config = strings.Replace(config, from, to, 1)
	}
	change("Interface eth0", "Interface sync0")
	change("Interface eth1", "Interface sync1")
	change("LogFile on", "LogFile "+filepath.Join(n.dir, "log"))
	change("/var/lock/conntrackd.lock", filepath.Join(n.dir, "lock"))
	change("/var/run/conntrackd.ctl", filepath.Join(n.dir, "ctl"))
	change("Sync {\n", "Sync {\n"+strings.NewReplacer("SELF", strconv.Itoa(self), "PEER", strconv.Itoa(peer)).Replace(clauses))
	if flows > 500_000 {
		change("HashSize 65536", "HashSize 262144")
		change("HashLimit 524288", "HashLimit 4000000")
	}
	if out, _ := exec.Command(path, "-v").CombinedOutput(); !strings.Contains(string(out), "ctbox") {
		change("General {\n", "General {\n\tNetlinkBufferSize 2097152\n\tNetlinkBufferSizeMaxGrowth 8388608\n")
	}
	n.config = filepath.Join(n.dir, "conntrackd.conf")
	return cmp.Or(err, os.WriteFile(n.config, []byte(config), 0o600))
}

func (n *fwNode) start(path string, self, peer, flows int, clauses string) (err error) {
	if err := n.configure(path, self, peer, flows, clauses); err != nil {
		return err
	}
	// The files of a killed daemon would keep Debian's from starting.
	for _, left := range []string{"lock", "ctl", "log"} {
		_ = os.Remove(filepath.Join(n.dir, left))
	}
	if n.conn, err = n.ns.dial(); err != nil {
		return err
	}
	n.daemon = n.ns.command(path, "-C", n.config)
	if err := n.daemon.Start(); err != nil {
		return err
	}
	return until("the daemon answers", 10*time.Second, func() bool { _, err := n.ask("-s"); return err == nil })
}

func (n *fwNode) stop() {
	if n.daemon != nil && n.daemon.Process != nil {
		_ = n.daemon.Process.Kill()
		_ = n.daemon.Wait()
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.ns != nil {
		n.ns.Close()
	}
}

// ask runs a client command of the daemon's own program.
func (n *fwNode) ask(args ...string) (string, error) {
	program := n.daemon.Args[2]
	out, err := n.ns.command(program, append([]string{"-C", n.config}, args...)...).Output()
	return string(out), err
}

func until(what string, limit time.Duration, cond func() bool) error {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if cond() {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("timed out waiting until " + what)
		}
	}
}

// cpu and rss return the process's use of resources so far.
func (n *fwNode) cpu() time.Duration {
	const perProcess = 2 // CPUCLOCK_SCHED of clock_getcpuclockid(3): to the nanosecond
	var t unix.Timespec
	if unix.ClockGettime(int32(^n.daemon.Process.Pid<<3|perProcess), &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func (n *fwNode) rss() int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.daemon.Process.Pid))
	if m := regexp.MustCompile(`VmRSS:\s+(\d+)`).FindSubmatch(status); m != nil {
		kib, _ := strconv.Atoi(string(m[1]))
		return kib << 10
	}
	return 0
}

var (
	activeConnections = regexp.MustCompile(`current active connections:\s+(\d+)`)
	packetsSent       = regexp.MustCompile(`(\d+) Pckts sent`)
	bytesSent         = regexp.MustCompile(`(\d+) Bytes sent`)
)

// cached returns how many flows the internal or the external cache has.
func (n *fwNode) cached(which int) int {
	out, err := n.ask("-s")
	m := activeConnections.FindAllStringSubmatch(out, -1)
	if err != nil || len(m) <= which {
		return -1
	}
	v, _ := strconv.Atoi(m[which][1])
	return v
}

// sent returns how many datagrams, with how many bytes, the node has sent.
func (n *fwNode) sent() (packets, bytes int) {
	out, _ := n.ask("-s")
	if m := packetsSent.FindStringSubmatch(out); m != nil {
		packets, _ = strconv.Atoi(m[1])
	}
	if m := bytesSent.FindStringSubmatch(out); m != nil {
		bytes, _ = strconv.Atoi(m[1])
	}
	return packets, bytes
}

// steadily creates flows at a rate that both daemons can follow, so that they do the same work.
// At a rate of 0 it creates them as fast as possible.
func steadily(c *nl.Conn, n, perSecond int) error {
	ctx := context.Background()
	p := c.NewPipeline(ctx, func(b *nl.Batch) error {
		for _, f := range b.Failures() {
			return f.Err
		}
		return nil
	})
	var f ctnetlink.Flow
	start := time.Now()
	const burst = 100
	for i := 0; i < n; {
		b, err := p.Batch()
		if err != nil {
			return err
		}
		for range min(burst, n-i) {
			flow(i, &f)
			b.Add(nl.Request{Type: ctnetlink.TypeFlowNew, Flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, Family: nl.FamilyIPv4, Attrs: f.Append})
			i++
		}
		if err := p.Submit(b); err != nil {
			return err
		}
		if perSecond > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		}
	}
	return p.Close()
}

// settled waits until the nodes of a pair have sent each other everything after their start.
// ctbox does so a second time 5 seconds later if it was requested meanwhile; flows that exist by
// then would be replicated twice.
const settled = 7 * time.Second

// usage is what a pair has used: of memory, what it uses.
type usage struct {
	cpu            [2]time.Duration // of the active node and the backup
	rss            [2]int
	packets, bytes int // from the active node
}

func measure(active, backup *fwNode) (u usage) {
	u.packets, u.bytes = active.sent()
	for i, n := range []*fwNode{active, backup} {
		u.cpu[i], u.rss[i] = n.cpu(), n.rss()
	}
	return u
}

// since returns the difference to an earlier usage.
func (u usage) since(before usage) usage {
	for i := range u.cpu {
		u.cpu[i] -= before.cpu[i]
		u.rss[i] -= before.rss[i]
	}
	u.packets -= before.packets
	u.bytes -= before.bytes
	return u
}

// follows waits until the backup n knows all flows, and returns how many it knows if there are no
// more to come.
func (n *fwNode) follows(flows int) (last int, err error) {
	last, quiet := -1, 0
	err = until("the backup knows all flows", 120*time.Second, func() bool {
		time.Sleep(200 * time.Millisecond)
		now := n.cached(1)
		if now == last {
			quiet++
		} else {
			last, quiet = now, 0
		}
		return now == flows || quiet > 25
	})
	return last, err
}

func (b *bench) replicate(name, path string, n int) error {
	active, backup, err := b.newPair(path, n, "")
	for _, node := range []*fwNode{active, backup} {
		if node != nil {
			defer node.stop()
		}
	}
	if err != nil {
		return err
	}
	time.Sleep(settled)
	before := measure(active, backup)
	if err := steadily(active.conn, n, b.rate); err != nil {
		return err
	}
	last, err := backup.follows(n)
	if err != nil {
		return err
	}
	used := measure(active, backup).since(before)
	row := fmt.Sprintf("| %s, %d flows %s", name, n, b.pace())
	if last != n {
		row += fmt.Sprintf(" (%d missing)", n-last)
	}
	row += fmt.Sprintf(" | %.1f us | %.1f us | %d B | %d B | %.1f", used.cpu[0].Seconds()*1e6/float64(n), used.cpu[1].Seconds()*1e6/float64(n),
		used.rss[0]/n, used.rss[1]/n, float64(n)/float64(max(used.packets, 1)))

	_ = active.daemon.Process.Kill()
	start := time.Now()
	if _, err := backup.ask("-c"); err != nil {
		return err
	}
	if err := until("the backup's kernel has all flows", 120*time.Second, func() bool {
		entries, _, err := ctnetlink.Count(context.Background(), backup.conn)
		return err == nil && int(entries) >= last
	}); err != nil {
		return err
	}
	took := time.Since(start)
	log, _ := os.ReadFile(filepath.Join(backup.dir, "log"))
	commit := "?"
	if m := regexp.MustCompile(`commit has taken ([0-9.]+) seconds`).FindAllSubmatch(log, -1); m != nil {
		sum := 0.0 // of flows and expectations
		for _, took := range m {
			s, _ := strconv.ParseFloat(string(took[1]), 64)
			sum += s
		}
		commit = fmt.Sprintf("%.6f s", sum)
	}
	fmt.Printf("%s | %s | %s |\n", row, commit, seconds(took))
	return nil
}
