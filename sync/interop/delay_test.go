package interop

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"ctbox/internal/netnstest"
	"ctbox/nl/ctnetlink"
)

// TestDelay checks that with the clause Delay a peer, the C daemon too, never hears of flows that end
// while they wait, and that it gets the others.
func TestDelay(t *testing.T) {
	for _, who := range pairings {
		t.Run(who.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.startRoles(who, clause("FTFW {\n}", "Delay {\n TCP 2\n UDP 3600\n}"), clause("FTFW {\n}", ""), "")
			netnstest.Eventually(t, patience, "both are heard", func() bool {
				return strings.Contains(p.a.daemon.client("-s", "network"), "\tlast heard 0 s ago\n")
			})
			young := func(port uint16, proto uint8) ctnetlink.Flow {
				f := p.a.flow(port)
				f.Status = ctnetlink.StatusConfirmed
				f.TCPState = 1 // SYN_SENT
				if proto == ctnetlink.ProtoUDP {
					f.Has &^= ctnetlink.HasTCPState
					f.Orig.Proto = proto
					f.Reply = f.Orig.Inverted()
				}
				return f
			}
			waiting := func() int { return metric(t, p.a.daemon, "conntrackd_replication_waiting") }
			sent := func() int { return metric(t, p.a.daemon, `conntrackd_messages_total{direction="sent"}`) }
			before := sent()
			// 100 queries that end, and one that waits for an hour.
			for port := uint16(1); port <= 100; port++ {
				f := young(port, ctnetlink.ProtoUDP)
				p.a.kernel.create(&f)
				f.Status |= ctnetlink.StatusSeenReply
				p.a.kernel.change(&f)
				p.a.kernel.remove(&f)
			}
			waits := young(101, ctnetlink.ProtoUDP)
			p.a.kernel.create(&waits)
			netnstest.Eventually(t, patience, "one flow waits", func() bool { return waiting() == 1 && len(p.a.internal()) == 1 })
			if n := sent() - before; n != 0 {
				t.Errorf("%d messages were sent for flows that waited", n)
			}
			// What is assured, what has a helper's mark of being expected, and what has waited.
			assured := p.a.flow(102)
			p.a.kernel.create(&assured)
			old := young(103, ctnetlink.ProtoTCP)
			p.a.kernel.create(&old)
			want := map[entry]bool{entryOfFlow(&assured): true, entryOfFlow(&old): true}
			netnstest.Eventually(t, patience, "b knows the two others", func() bool { return difference(want, p.b.external()) == "" })
			// A bulk leaves the waiting flow out.
			p.b.daemon.client("-f", "external")
			p.a.daemon.client("-B")
			netnstest.Eventually(t, patience, "b knows the two others again", func() bool { return difference(want, p.b.external()) == "" })
			for _, f := range []*ctnetlink.Flow{&assured, &old, &waits} {
				p.a.kernel.remove(f)
			}
			netnstest.Eventually(t, patience, "b knows none", func() bool { return len(p.b.external()) == 0 })
			if text := p.b.daemon.ask(statsNetwork); !strings.Contains(text, "Packets lost:\t\t                   0\n") {
				t.Errorf("messages were lost:\n%s", text)
			}
			netnstest.Eventually(t, patience, "no flow waits", func() bool { return waiting() == 0 })
		})
	}
}

// metric returns a number of `-s metrics`.
func metric(t *testing.T, d *daemon, name string) int {
	t.Helper()
	_, rest, ok := strings.Cut(d.client("-s", "metrics"), "\n"+name+" ")
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		t.Fatalf("%s: %q", name, number)
	}
	return n
}

// TestMarkAndZoneFilters checks the filters by mark and zone against the kernel, also for a flow whose
// mark changes.
func TestMarkAndZoneFilters(t *testing.T) {
	for _, where := range []string{"Userspace", "Kernelspace"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			sync := clause("FTFW {\n}", "")
			p.a.daemon = newDaemon(t, p.a.ns, ours, sync(p.a.side, p.b.side),
				fmt.Sprintf("Filter From %s {\n Mark Accept {\n 0x1/0xff\n }\n Zone Ignore {\n 7\n }\n}", where))
			p.b.daemon = newDaemon(t, p.b.ns, debian, sync(p.b.side, p.a.side), "")
			p.a.daemon.start()
			p.b.daemon.start()
			flow := func(port uint16, mark uint32, zone uint16) ctnetlink.Flow {
				f := p.a.flow(port)
				f.Has |= ctnetlink.HasMark
				f.Mark = mark
				if zone != 0 {
					f.Has |= ctnetlink.HasZone
					f.Zone = zone
				}
				p.a.kernel.create(&f)
				return f
			}
			flow(1, 0, 0)
			flow(2, 0x1, 7)
			wanted, zoned, later := flow(3, 0xa01, 0), flow(4, 0x1, 8), flow(5, 0x2, 0)
			knows := func(when string, flows ...*ctnetlink.Flow) {
				t.Helper()
				set := map[entry]bool{}
				for _, f := range flows {
					set[entryOfFlow(f)] = true
				}
				netnstest.Eventually(t, patience, when, func() bool { return difference(set, p.b.external()) == "" })
			}
			mark := func(f *ctnetlink.Flow, mark uint32) {
				f.Mark = mark
				p.a.kernel.change(&ctnetlink.Flow{Orig: f.Orig, Has: ctnetlink.HasMark, Mark: mark})
			}
			knows("b knows what is accepted", &wanted, &zoned)
			mark(&later, 0x1)
			knows("b knows the flow that is marked later", &wanted, &zoned, &later)
			mark(&wanted, 0x2)
			knows("b does not know the flow whose mark has gone", &zoned, &later)
			p.a.kernel.remove(&zoned)
			p.a.kernel.remove(&later)
			knows("b knows none")
		})
	}
}

// TestDelayCountsPackets checks that a flow with MinPackets packets by the kernel's counters waits no
// longer once a reading of the table has shown them.
func TestDelayCountsPackets(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.a.ns.IP("link", "set", "lo", "up")
	p.a.ns.Sysctl("net.netfilter.nf_conntrack_acct", "1")
	p.startRoles(programs{ours, debian}, clause("NOTRACK {\n}", "Delay {\n UDP 3600\n MinPackets 3\n}"), clause("NOTRACK {\n}", ""), "")
	var conn net.Conn
	var err error
	p.a.ns.Do(func() { conn, err = net.Dial("udp", "127.0.0.1:9999") })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	waits := func(when string, want int) {
		t.Helper()
		netnstest.Eventually(t, patience, when, func() bool { return metric(t, p.a.daemon, "conntrackd_replication_waiting") == want })
	}
	packet := func() {
		// A write may return the ICMP error about the packet before, and sends nothing then.
		for tries := 0; ; tries++ {
			if _, err := conn.Write([]byte("x")); err == nil {
				return
			} else if tries > 3 {
				t.Fatal(err)
			}
		}
	}
	packet()
	waits("the flow waits", 1)
	p.a.daemon.client("-R")
	waits("one packet is too few", 1)
	packet()
	packet()
	waits("events do not show packets", 1)
	p.a.daemon.client("-R")
	waits("the flow waits no longer", 0)
	netnstest.Eventually(t, patience, "the peer has it", func() bool { return len(p.b.external()) == 1 })
}
