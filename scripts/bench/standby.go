package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// sampled is how many connections' first packets after a takeover are timed.
const sampled = 1000

// Each sampled connection sends a packet at the decision, and then one each resend until an answer
// has come.
const resend = 50 * time.Millisecond

// strict makes a gateway forward what belongs to a flow that has been answered. NEW is the verdict about others.
const strict = `table ip strict {
	chain untracked_in { type filter hook prerouting priority raw; iifname "sync*" notrack; }
	chain untracked_out { type filter hook output priority raw; oifname "sync*" notrack; }
	chain forward { type filter hook forward priority 0; ct state established accept; ct state new NEW; drop; }
}`

// hotStandby compares a backup with and without HotStandby: what it costs while it waits, and the time
// from the decision to take over, at the active node's death, until packets of existing connections pass.
func (b *bench) hotStandby() error {
	if !b.wanted("hotstandby") {
		return nil
	}
	fmt.Printf("\n| hot standby | CPU a flow, backup | memory a flow, backup's daemon | kernel memory a flow, both nodes | -c answers | packets pass: first, median, last of %d |\n|---|---|---|---|---|---|\n", sampled)
	for _, n := range b.replicated {
		for range b.runs {
			for _, clause := range []string{"", "\t\tHotStandby on\n"} {
				if err := b.takeOver(clause, n); err != nil {
					return fmt.Errorf("%d flows: %w", n, err)
				}
			}
		}
	}
	return nil
}

func (b *bench) takeOver(clause string, n int) error {
	active, backup, err := b.newPair(b.oursd, n, fmt.Sprintf(clusterClause, clause))
	for _, node := range []*fwNode{active, backup} {
		if node != nil {
			defer node.stop()
			// All namespaces share one hash table, and the kernel empties that of a closed one when it likes.
			defer func() { _ = flush(node.conn) }()
		}
	}
	if err != nil {
		return err
	}
	hosts, err := newHosts(active, backup)
	defer hosts.close()
	if err != nil {
		return err
	}
	time.Sleep(settled)
	if took := hosts.pass(); len(took) < sampled {
		return fmt.Errorf("%d of %d connections begin", len(took), sampled)
	}
	slab := slabBytes()
	before := measure(active, backup)
	if err := steadily(active.conn, n, b.rate); err != nil {
		return err
	}
	if last, err := backup.follows(n + sampled); err != nil || last != n+sampled {
		return errors.Join(err, fmt.Errorf("the backup has %d flows", last))
	}
	name := "without"
	if clause != "" {
		name = "with HotStandby"
		if err := until("the backup's kernel has all flows", 120*time.Second, func() bool {
			entries, _, err := ctnetlink.Count(context.Background(), backup.conn)
			return err == nil && int(entries) >= n+sampled
		}); err != nil {
			return err
		}
	}
	time.Sleep(proved)
	used := measure(active, backup).since(before)
	slab = slabBytes() - slab

	decision := time.Now()
	_ = active.daemon.Process.Kill()
	// As keepalived does it: first the addresses, then the script with -c.
	if err := hosts.through(1); err != nil {
		return err
	}
	moved := time.Since(decision)
	commit := make(chan time.Duration, 1)
	go func() {
		if _, err := backup.ask("-c"); err != nil {
			commit <- -1
			return
		}
		commit <- time.Since(decision) - moved
	}()
	took := hosts.pass()
	answered := <-commit
	if answered < 0 || len(took) < sampled {
		return fmt.Errorf("-c has failed, or only %d of %d connections go on", len(took), sampled)
	}
	at := func(i int) string { return fmt.Sprintf("%.1f ms", (moved+took[i]).Seconds()*1e3) }
	fmt.Printf("| %s, %d flows %s | %.1f us | %d B | %d B | %.1f ms | %s, %s, %s |\n", name, n, b.pace(), used.cpu[1].Seconds()*1e6/float64(n), used.rss[1]/n, slab/n,
		answered.Seconds()*1e3, at(0), at(sampled/2), at(sampled-1))
	return nil
}

var slabLine = regexp.MustCompile(`(?m)^Slab:\s+(\d+) kB`)

// slabBytes returns the memory of the kernel's small objects, which flows and their extensions are.
func slabBytes() int {
	info, _ := os.ReadFile("/proc/meminfo")
	if m := slabLine.FindSubmatch(info); m != nil {
		kib, _ := strconv.Atoi(string(m[1]))
		return kib << 10
	}
	return 0
}

// hosts is a client and a server, with sampled connections between them.
type hosts struct {
	client, server *namespace
	echo           net.PacketConn
	connections    []net.Conn
}

// newHosts puts two hosts behind both gateways. The first one has the traffic, and only it lets connections begin.
func newHosts(gateways ...*fwNode) (h *hosts, err error) {
	h = &hosts{}
	if h.client, err = newNamespace("client"); err != nil {
		return h, err
	}
	if h.server, err = newNamespace("server"); err != nil {
		return h, err
	}
	for j, host := range []*namespace{h.client, h.server} {
		for _, step := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", hostAddrs[j] + "/32", "dev", "lo"},
			{"rule", "add", "pref", "40000", "table", "1"}} {
			if out, err := exec.Command("ip", append([]string{"-n", host.name}, step...)...).CombinedOutput(); err != nil {
				return h, fmt.Errorf("ip %s: %w: %s", strings.Join(step, " "), err, out)
			}
		}
	}
	for i, g := range gateways {
		for j, host := range []*namespace{h.client, h.server} {
			dev := []string{"client", "server"}[j]
			net := fmt.Sprintf("198.51.%d.", 101+2*i+j)
			for _, step := range [][]string{
				{"link", "add", dev, "netns", g.ns.name, "type", "veth", "peer", "name", fmt.Sprintf("gateway%d", i), "netns", host.name},
				{"-n", g.ns.name, "addr", "add", net + "1/24", "dev", dev},
				{"-n", g.ns.name, "link", "set", dev, "up"},
				{"-n", host.name, "addr", "add", net + "2/24", "dev", fmt.Sprintf("gateway%d", i)},
				{"-n", host.name, "link", "set", fmt.Sprintf("gateway%d", i), "up"},
				{"-n", g.ns.name, "route", "add", hostAddrs[j], "via", net + "2"},
				{"-n", host.name, "route", "add", "default", "via", net + "1", "src", hostAddrs[j], "table", strconv.Itoa(1 + i)},
				{"-n", host.name, "rule", "add", "fwmark", strconv.Itoa(1 + i), "table", strconv.Itoa(1 + i)},
			} {
				if out, err := exec.Command("ip", step...).CombinedOutput(); err != nil {
					return h, fmt.Errorf("ip %s: %w: %s", strings.Join(step, " "), err, out)
				}
			}
		}
		load := g.ns.command("nft", "-f", "-")
		load.Stdin = strings.NewReader(strings.Replace(strict, "NEW", []string{"accept", "drop"}[i], 1))
		if out, err := load.CombinedOutput(); err != nil {
			return h, fmt.Errorf("nft: %w: %s", err, out)
		}
		if err := g.ns.do(func() error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
				os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0),
				os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", []byte("600"), 0))
		}); err != nil {
			return h, err
		}
	}
	if err := h.server.do(func() (err error) { h.echo, err = net.ListenPacket("udp4", hostAddrs[1]+":7"); return err }); err != nil {
		return h, err
	}
	// Room for a packet of each connection.
	if err := control(h.echo, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) }); err != nil {
		return h, err
	}
	go func() {
		buf := make([]byte, 64)
		for {
			got, from, err := h.echo.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = h.echo.WriteTo(buf[:got], from)
		}
	}()
	if err := h.client.do(func() error {
		for i := range sampled {
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(hostAddrs[0]), Port: 10_000 + i}, &net.UDPAddr{IP: net.ParseIP(hostAddrs[1]), Port: 7})
			if err != nil {
				return err
			}
			h.connections = append(h.connections, c)
		}
		return nil
	}); err != nil {
		return h, err
	}
	return h, h.through(0)
}

// hostAddrs are the addresses of the client and of the server.
var hostAddrs = [2]string{"198.51.100.129", "203.0.113.129"}

// through moves the traffic to a gateway. The marks of the sockets choose their routes: a change of the
// routes would wait for everything else on this machine that changes an interface.
func (h *hosts) through(gateway int) error {
	for _, c := range h.connections {
		if err := control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1+gateway) }); err != nil {
			return err
		}
	}
	return control(h.echo, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1+gateway) })
}

// control calls set with a socket's descriptor.
func control(c any, set func(fd int) error) (err error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = set(int(fd)) }), err)
}

// pass returns how long it took, sorted, until each of the connections had an answer to something that it sent
// in this call. Those that have none within two minutes are missing.
func (h *hosts) pass() (took []time.Duration) {
	began := time.Now()
	end := began.Add(2 * time.Minute)
	answered := make([]atomic.Bool, len(h.connections))
	text := []byte(began.Format(time.RFC3339Nano))
	var mu sync.Mutex
	var readers sync.WaitGroup
	for i, c := range h.connections {
		_ = c.SetReadDeadline(end)
		readers.Go(func() {
			buf := make([]byte, 64)
			for {
				got, err := c.Read(buf)
				if err != nil && time.Now().After(end) {
					return
				}
				if err == nil && bytes.Equal(buf[:got], text) {
					answered[i].Store(true)
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
					return
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { readers.Wait(); close(ended) }()
	for {
		for i, c := range h.connections {
			if !answered[i].Load() {
				_, _ = c.Write(text)
			}
		}
		select {
		case <-time.After(resend):
			continue
		case <-ended:
		}
		break
	}
	slices.Sort(took)
	return took
}

func (h *hosts) close() {
	for _, c := range h.connections {
		c.Close()
	}
	if h.echo != nil {
		h.echo.Close()
	}
	for _, n := range []*namespace{h.client, h.server} {
		if n != nil {
			n.Close()
		}
	}
}
