package interop

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"

	"golang.org/x/sys/unix"
)

// shipped returns the shipped example configuration for FT-FW with the addresses of me and
// peer and the files of d.
func shipped(t testing.TB, me, peer *side, d *daemon) string {
	t.Helper()
	root, err := netnstest.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "scripts", "conntrackd", "ftfw.conf"))
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{
		"203.0.113.1": me.link(4, 0), "203.0.113.2": peer.link(4, 0),
		"192.0.2.11": me.link(4, 1), "192.0.2.12": peer.link(4, 1),
		"192.0.2.1": "192.0.2.101", "198.51.100.1": "192.0.2.102", "127.0.0.1": "127.0.0.1",
	}
	config := regexp.MustCompile(`\d+\.\d+\.\d+\.\d+`).ReplaceAllStringFunc(string(text), func(address string) string {
		if addresses[address] == "" {
			t.Fatalf("ftfw.conf has the address %s", address)
		}
		return addresses[address]
	})
	for from, to := range map[string]string{
		"Interface eth0": "Interface sync0", "Interface eth1": "Interface sync1", "LogFile on": "LogFile " + d.path("log"),
		"/var/lock/conntrackd.lock": d.path("lock"), "/var/run/conntrackd.ctl": d.path("ctl"),
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("ftfw.conf has %q %d times", from, strings.Count(config, from))
		}
		config = strings.Replace(config, from, to, 1)
	}
	return config
}

// newShippedPair starts two firewalls with the shipped example configuration. general is added
// to its General clause.
func newShippedPair(t testing.TB, general string) *pair {
	t.Helper()
	p := newPair(t)
	p.link("sync1", 1)
	p.each(func(n, peer *node) {
		d := &daemon{t: t, ns: n.ns, program: ours, dir: shortDir(t), expects: true}
		config := strings.Replace(shipped(t, n.side, peer.side, d), "General {\n", "General {\n"+general, 1)
		if err := os.WriteFile(d.path("conf"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		n.daemon = d
		d.launch()
	})
	p.a.daemon.awaitAnswer()
	p.b.daemon.awaitAnswer()
	return p
}

// burstFlow is flow number i of a side's bursts.
func (s *side) burstFlow(i int) ctnetlink.Flow {
	f := s.flow(uint16(1024 + i%60000))
	_, f.Orig.Src = parseAddr(s.host4(1 + i/60000))
	f.Reply = f.Orig.Inverted()
	return f
}

// burstLines returns the input of conntrack -R that creates some of a side's flows.
func (s *side) burstLines(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		f := s.burstFlow(i)
		src, dst := addrOf(f.Orig.Family, &f.Orig.Src), addrOf(f.Orig.Family, &f.Orig.Dst)
		fmt.Fprintf(&b, "-A -t 3000 -u SEEN_REPLY,ASSURED -s %[1]v -d %[2]v -r %[2]v -q %[1]v -p tcp --sport %[3]d --dport %[4]d "+
			"--reply-port-src %[4]d --reply-port-dst %[3]d --state ESTABLISHED\n", src, dst, f.Orig.SrcPort, f.Orig.DstPort)
	}
	return b.String()
}

// TestTakeoverInBursts kills the active node in the middle of bursts of 4,000 changes. The
// backup commits every flow that the active node had time to announce, or reports that events
// are missing; also with the smaller buffer of earlier example files, with and without
// permission to grow.
func TestTakeoverInBursts(t *testing.T) {
	const burst = 4000
	for _, c := range []struct{ name, general string }{
		{"as shipped", ""},
		{"a small buffer", "\tNetlinkBufferSize 2097152\n\tNetlinkBufferSizeMaxGrowth 33554432\n"},
		{"a small buffer for good", "\tNetlinkBufferSize 65536\n\tNetlinkBufferSizeMaxGrowth 65536\n\tNetlinkBufferSizeFixed on\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newShippedPair(t, c.general)
			conntrack := netnstest.Applet(t, "conntrack")
			made, stop, ended := make(chan int), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				for n := 0; ; n += burst {
					cmd := p.a.ns.Command(conntrack, "-R", "-")
					cmd.Stdin = strings.NewReader(p.a.burstLines(n, n+burst))
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("conntrack -R: %v\n%s", err, out)
						return
					}
					select {
					case made <- n + burst:
					case <-stop:
						return
					default:
					}
				}
			}()
			count := 0
			for range 3 { // consecutive bursts without a wait
				select {
				case count = <-made:
				case <-ended:
					t.FailNow()
				}
			}
			// Events and messages keep their order: once the backup has a flow that began
			// later, everything about the earlier flows has been sent. If the event of that
			// flow itself is lost, another flow is tried.
			sentinel := uint16(0)
			netnstest.Eventually(t, patience, "the backup has a flow that began after the bursts", func() bool {
				if sentinel < 500 {
					sentinel++
					f := p.a.flow(sentinel)
					f.Orig.DstPort = 81
					f.Reply = f.Orig.Inverted()
					p.a.kernel.create(&f)
				}
				return strings.Contains(p.b.daemon.ask(dumpExternal), "dport=81 ")
			})
			p.a.daemon.kill()
			close(stop)
			<-ended
			commit := p.b.ns.Run("", p.b.daemon.program.path(t), "-C", p.b.daemon.path("conf"), "-c")
			missing := p.b.daemon.statistics().Commits.Last.Missing
			there := map[ctnetlink.Tuple]bool{}
			for _, f := range p.b.kernel.flows() {
				there[f.Orig] = true
			}
			lacks := 0
			for i := range count {
				if f := p.a.burstFlow(i); !there[f.Orig] {
					lacks++
				}
			}
			t.Logf("%d of %d flows are missing, %d events said to be", lacks, count, missing)
			said := fmt.Sprintf("%d events of the peer were lost and not yet made up", missing)
			if lacks > 0 && missing == 0 || commit.Code != 0 || strings.Contains(commit.Stderr, said) != (missing > 0) ||
				strings.Contains(p.b.daemon.log(), said) != (missing > 0) {
				t.Errorf("%d of %d flows are missing, %d events are said to be; -c: %+v\n%s\n%s",
					lacks, count, missing, commit, p.a.daemon.log(), p.b.daemon.log())
			}
		})
	}
}

// TestLostEventsAreReported loses events for good: both nodes report it until the kernel's
// table has been read, after which the backup has everything.
func TestLostEventsAreReported(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""),
		"NetlinkBufferSize 2304\n\tNetlinkBufferSizeMaxGrowth 2304\n\tNetlinkBufferSizeFixed on\n\tNetlinkOverrunResync off")
	port := uint16(0)
	netnstest.Eventually(t, patience, "events are lost", func() bool {
		for range 500 {
			port++
			f := p.a.flow(port)
			p.a.kernel.create(&f)
		}
		return p.a.daemon.statistics().Kernel.Missing > 0
	})
	missing := uint64(0)
	netnstest.Eventually(t, patience, "each event has arrived or is counted as lost", func() bool {
		k := p.a.daemon.statistics().Kernel
		missing = k.Missing
		return k.Events+k.Lost == uint64(port)
	})
	said := fmt.Sprintf("%d events of the peer were lost and not yet made up\n", missing)
	netnstest.Eventually(t, patience, "the backup says so", func() bool { return strings.Contains(p.b.daemon.client("-s"), said) })
	if own := p.a.daemon.client("-s"); !strings.Contains(own, fmt.Sprintf("%d events of this node were lost and not yet made up\n", missing)) {
		t.Errorf("the node itself says\n%s", own)
	}
	if peers := p.b.daemon.statistics().Peers; len(peers) != 1 || peers[0].Missing != missing {
		t.Errorf("the backup's JSON has %+v, want %d", peers, missing)
	}
	p.b.daemon.commit()
	if got := p.b.daemon.statistics().Commits.Last.Missing; got != missing {
		t.Errorf("the commit counts %d events as missing, want %d", got, missing)
	}
	p.told = true
	netnstest.Eventually(t, patience, "a reading makes up for them", func() bool {
		p.a.daemon.client("-R")
		return p.a.daemon.statistics().Kernel.Missing == 0
	})
	p.b.follows(p.a, "after -R")
	netnstest.Eventually(t, patience, "the backup takes it back", func() bool {
		return !strings.Contains(p.b.daemon.client("-s"), "of the peer were lost") && p.b.daemon.statistics().Peers[0].Missing == 0
	})
}

// TestBurstOfPackets sends 20,000 SYNs of as many connections, as fast as possible, through a
// firewall with the shipped example configuration. No event of the kernel is lost.
func TestBurstOfPackets(t *testing.T) {
	t.Parallel()
	const packets = 20000
	p := newShippedPair(t, "")
	outside := netnstest.New(t, "outside")
	netnstest.Link(t, netnstest.End{NS: outside, Dev: "wan0", Addrs: []string{"192.0.2.161/30"}},
		netnstest.End{NS: p.a.ns, Dev: "wan0", Addrs: []string{"192.0.2.162/30"}})
	outside.IP("route", "add", "default", "via", "192.0.2.162")
	p.a.ns.Sysctl("net.ipv4.ip_forward", "1")
	p.a.ns.Sysctl("net.ipv4.conf.all.rp_filter", "0")
	p.a.ns.Sysctl("net.ipv4.conf.wan0.rp_filter", "0")
	inside := netnstest.New(t, "inside") // accepts nothing: the frames are for another address
	netnstest.Link(t, netnstest.End{NS: p.a.ns, Dev: "lan0"}, netnstest.End{NS: inside, Dev: "lan0"})
	p.a.ns.IP("route", "add", p.a.host4(server)+"/32", "dev", "lan0")
	p.a.ns.IP("neigh", "add", p.a.host4(server), "lladdr", "02:00:5e:00:53:01", "dev", "lan0")
	outside.Must("ping", "-c", "1", "-W", "10", "192.0.2.162") // resolves the neighbour
	var fd int
	var err error
	outside.Do(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	begin := time.Now()
	for i := range packets {
		f := p.a.burstFlow(i)
		to := unix.SockaddrInet4{Addr: [4]byte(f.Orig.Dst[:4])}
		for {
			err := unix.Sendto(fd, syn(&f.Orig), 0, &to)
			if err == nil {
				break
			}
			if err != syscall.ENOBUFS && err != syscall.EINTR {
				t.Fatal(err)
			}
		}
	}
	took := time.Since(begin)
	var began int
	netnstest.Eventually(t, patience, "all packets are through", func() bool {
		before := began
		began = 0
		for _, f := range p.a.kernel.flows() {
			if f.Orig.Proto == ctnetlink.ProtoTCP && f.Orig.DstPort == 80 {
				began++
			}
		}
		return began > 0 && began == before
	})
	status := p.a.daemon.statistics().Kernel
	t.Logf("%d packets in %v made %d flows; %d events, %d lost", packets, took, began, status.Events, status.Lost)
	if began < packets/2 {
		t.Errorf("only %d of %d packets made a flow", began, packets)
	}
	p.told = true // the ping's flow belongs to neither side
	p.b.follows(p.a, "after the burst")
	if status = p.a.daemon.statistics().Kernel; status.Lost != 0 {
		t.Errorf("%d events were lost", status.Lost)
	}
}

// syn returns the IPv4 packet that begins a connection. The kernel fills in the header's
// checksum (raw(7)).
func syn(of *ctnetlink.Tuple) []byte {
	b := make([]byte, 40)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_TCP
	copy(b[12:16], of.Src[:4])
	copy(b[16:20], of.Dst[:4])
	tcp := b[20:]
	binary.BigEndian.PutUint16(tcp, of.SrcPort)
	binary.BigEndian.PutUint16(tcp[2:], of.DstPort)
	tcp[12], tcp[13] = 5<<4, 2
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	sum := uint32(unix.IPPROTO_TCP) + uint32(len(tcp))
	for i := 12; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(tcp[16:], ^uint16(sum))
	return b
}
