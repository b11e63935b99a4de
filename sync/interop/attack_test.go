package interop

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/wire"
)

// attacks are kinds of datagrams that a host on the dedicated link can send.
var attacks = []struct {
	name string
	// datagrams that make sense only together, or are slow to handle, are fewer.
	datagrams int
	make      func(a *attacker) []byte
}{
	{"noise", 5000, (*attacker).noise},
	{"mutations", 20000, (*attacker).mutation},
	{"truncations", 5000, func(a *attacker) []byte { d := a.news(4); return d[:a.random.IntN(len(d))] }},
	{"oversize", 200, func(a *attacker) []byte { return a.oversize() }},
	{"other versions", 2000, func(a *attacker) []byte { d := a.news(2); d[0] = byte(a.random.Uint32()); return d }},
	{"replay", 20000, func(a *attacker) []byte { return a.recorded() }},
	{"forged numbers", 20000, func(a *attacker) []byte { a.seq = a.random.Uint32(); return a.news(1) }},
	{"forged answers", 20000, (*attacker).answer},
	{"greetings", 20000, func(a *attacker) []byte {
		return a.control(wire.Alive|wire.Hello|wire.Flags(a.random.IntN(2))*wire.HelloBack, 0, 0)
	}},
	{"resync storm", 50000, func(a *attacker) []byte { return a.control(wire.Resync, 0, 0) }},
	{"forged bulks", 5000, func(a *attacker) []byte {
		number := a.random.Uint32N(8)
		return append(a.control(wire.Alive|wire.BulkBegin, number, number), a.control(wire.Alive|wire.BulkEnd, number, number)...)
	}},
	{"absurd attributes", 20000, (*attacker).absurdity},
	{"a million flows", 1000000 / flowsAtOnce, func(a *attacker) []byte { return a.news(flowsAtOnce) }},
}

// flowsAtOnce is the number of an attacker's flows per datagram.
const flowsAtOnce = 16

// attacker generates datagrams from a seed.
type attacker struct {
	random *rand.Rand
	seq    uint32
	flow   uint32
	tape   [][]byte
	// pattern is the message of a flow, without its number and source.
	pattern []byte
}

// number returns the next sequence number, sometimes a random one.
func (a *attacker) number() wire.Seq {
	a.seq++
	return wire.Seq(a.seq)
}

// news appends new flows.
func (a *attacker) news(n int) (b []byte) {
	if a.pattern == nil {
		f := sides[1].flow(1)
		a.pattern, _ = wire.Encoder{}.AppendFlow(nil, wire.Header{Type: wire.FlowNew}, &f)
	}
	for range n {
		a.flow++
		const source = wire.HeaderLen + 4 // the first attribute is the addresses
		at := len(b)
		b = append(b, a.pattern...)
		binary.BigEndian.PutUint32(b[at+4:], uint32(a.number()))
		binary.BigEndian.PutUint32(b[at+source:], 198<<24|18<<16+a.flow) // RFC 2544
	}
	if len(a.tape) < 256 {
		a.tape = append(a.tape, b)
	}
	return append([]byte(nil), b...)
}

func (a *attacker) recorded() []byte {
	if len(a.tape) == 0 {
		return a.news(4)
	}
	return a.tape[a.random.IntN(len(a.tape))]
}

func (a *attacker) control(flags wire.Flags, from, to uint32) []byte {
	return wire.AppendControl(nil, wire.Header{Type: wire.Control, Flags: flags, Seq: a.number(), From: wire.Seq(from), To: wire.Seq(to)})
}

// answer appends ACKs and NACKs of messages that were or were not sent.
func (a *attacker) answer() []byte {
	flags := [...]wire.Flags{wire.Ack, wire.Nack, wire.Nack | wire.Hello, wire.Ack | wire.Nack}[a.random.IntN(4)]
	now := uint32(time.Now().Unix())
	ranges := [...][2]uint32{{0, 0xffffffff}, {now - 1000000, now + 1000000}, {now, now + 1<<30}, {a.random.Uint32(), a.random.Uint32()}}
	r := ranges[a.random.IntN(len(ranges))]
	return a.control(flags, r[0], r[1])
}

func (a *attacker) noise() []byte {
	b := make([]byte, 1+a.random.IntN(1400))
	for i := range b {
		b[i] = byte(a.random.Uint32())
	}
	return b
}

// mutation appends a few messages with a few wrong bytes, some of them in lengths.
func (a *attacker) mutation() []byte {
	b := a.news(3)
	for range 1 + a.random.IntN(4) {
		at := a.random.IntN(len(b))
		if a.random.IntN(2) == 0 {
			at = a.random.IntN(24) // in the headers
		}
		b[at] = byte(a.random.Uint32())
	}
	return b
}

// oversize appends the largest possible datagram, of many messages or of one.
func (a *attacker) oversize() []byte {
	const largest = 65507
	if a.random.IntN(2) == 0 {
		b := make([]byte, largest)
		b[0] = wire.Version << 4
		binary.BigEndian.PutUint16(b[2:], largest)
		return b
	}
	b := a.news(1200)
	return b[:min(len(b), largest-a.random.IntN(1000))]
}

// absurdity appends a message of a flow or expectation whose attributes have the right sizes
// and random contents.
func (a *attacker) absurdity() []byte {
	sizes := [...]int{8, 32, 1, 4, 1, 4, 4, 4, 8, 32, 1, 4, 4, 4, 2, 2, 24, 1, 4, 4, 1, 1, 1, 1, 2, 1, 1, 12, 1024, 16, 16, 12, 2}
	types := []wire.Type{wire.FlowNew, wire.FlowUpdate, wire.FlowDelete, wire.ExpectNew, wire.ExpectDelete}
	t := types[a.random.IntN(len(types))]
	if t >= wire.ExpectNew {
		copy(sizes[:], []int{8, 32, 1, 4, 8, 32, 1, 4, 8, 32, 1, 4, 4, 4, 4, 8, 4, 1, 4, 12, 28})
	}
	b := []byte{wire.Version<<4 | byte(t), 0, 0, 0}
	b = binary.BigEndian.AppendUint32(b, uint32(a.number()))
	add := func(number, size int) {
		b = binary.BigEndian.AppendUint16(b, uint16(4+size))
		b = binary.BigEndian.AppendUint16(b, uint16(number))
		for range size {
			b = append(b, [...]byte{0, 0xff, byte(a.random.Uint32())}[a.random.IntN(3)])
		}
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	if t <= wire.FlowDelete {
		// With these attributes a flow is complete, so it is not refused at once.
		for _, number := range []int{a.random.IntN(2), 2, 3} {
			add(number, sizes[number])
		}
	}
	for range a.random.IntN(8) {
		number := a.random.IntN(len(sizes))
		add(number, sizes[number])
	}
	if t >= wire.ExpectNew {
		for number := range 12 {
			add(number, sizes[number])
		}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// TestAttack sends a daemon everything that a host on the dedicated link can send, from the
// peer's address. The daemon uses no more memory than HashLimit allows, bounded time and log,
// survives, and has the peer's flows afterwards.
func TestAttack(t *testing.T) {
	tried := modes
	if !netnstest.Long {
		tried = modes[len(modes)-1:]
	}
	for _, m := range tried {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.start(programs{ours, ours}, syncClause(m, transports[0], withExpects), "HashLimit 20000")
			p.each(func(n, _ *node) { n.connected(m, transports[0]) })
			p.makeFlows(1, 500)
			p.replicated("before the attack")
			conn := p.b.dialFrom(p.b.link(4, 0), p.a)
			a := &attacker{random: rand.New(rand.NewPCG(1, 5)), seq: uint32(time.Now().Unix())}
			for _, attack := range attacks {
				before, begin := cpuOf(p.a.daemon.process.Pid()), time.Now()
				for range attack.datagrams {
					send(t, conn, attack.make(a))
				}
				now := p.a.daemon.statistics()
				used := cpuOf(p.a.daemon.process.Pid()) - before
				t.Logf("%s: %d datagrams in %v, CPU %v, %d KiB, %d flows", attack.name, attack.datagrams, time.Since(begin).Round(time.Millisecond),
					used, residentOf(p.a.daemon.process.Pid()), now.Caches["external"].Flows.Objects)
				if most := time.Duration(attack.datagrams)*200*time.Microsecond + 2*time.Second; used > most {
					t.Errorf("%s: %d datagrams take %v of CPU, more than %v", attack.name, attack.datagrams, used, most)
				}
			}
			p.survived(m, 160<<10)
		})
	}
}

// TestAttackFromElsewhere sends the same from another address than the peer's: every message
// is refused by its source.
func TestAttackFromElsewhere(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], transports[0], ""), "HashLimit 20000")
	p.makeFlows(1, 500)
	p.replicated("before the attack")
	const elsewhere = "192.0.2.20"
	p.b.ns.IP("addr", "add", elsewhere+"/27", "dev", "sync0")
	conn := p.b.dialFrom(elsewhere, p.a)
	a := &attacker{random: rand.New(rand.NewPCG(2, 5)), seq: uint32(time.Now().Unix())}
	sent := 0
	for _, attack := range attacks {
		for range attack.datagrams / 10 {
			send(t, conn, attack.make(a))
			sent++
		}
	}
	p.makeFlows(1000, 1200)
	p.replicated("beside the attack")
	refused := p.a.daemon.statistics().Links[0].Refused
	if refused == 0 || refused > uint64(sent) {
		t.Errorf("%d of %d datagrams are counted as refused", refused, sent)
	}
	if lines := strings.Count(p.a.daemon.log(), "\n"); lines > 50 {
		t.Errorf("the log has %d lines\n%.4000s", lines, p.a.daemon.log())
	}
}

// TestAttackOverTCP sends the same over a TCP link, where a new connection replaces the peer's
// and a wrong byte ends the connection.
func TestAttackOverTCP(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.start(programs{ours, ours}, syncClause(modes[0], overTCP[0], withExpects), "HashLimit 20000")
	p.makeFlows(1, 500)
	p.replicated("before the attack")
	connect := func() (conn net.Conn) {
		var err error
		p.b.ns.Do(func() {
			conn, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(p.b.link(4, 0))}}).Dial("tcp", p.a.link(4, 0)+":3780")
		})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetWriteDeadline(time.Now().Add(patience))
		return conn
	}
	a := &attacker{random: rand.New(rand.NewPCG(3, 5)), seq: uint32(time.Now().Unix())}
	for _, attack := range attacks {
		before, connections := cpuOf(p.a.daemon.process.Pid()), 1
		conn := connect()
		for range attack.datagrams / 10 {
			if _, err := conn.Write(attack.make(a)); err != nil {
				conn.Close()
				conn = connect()
				connections++
			}
		}
		conn.Close()
		p.a.daemon.statistics()
		used := cpuOf(p.a.daemon.process.Pid()) - before
		t.Logf("%s: %d parts, %d connections, CPU %v, %d KiB", attack.name, attack.datagrams/10, connections, used, residentOf(p.a.daemon.process.Pid()))
		if most := time.Duration(attack.datagrams/10+connections)*200*time.Microsecond + 2*time.Second; used > most {
			t.Errorf("%s takes %v of CPU, more than %v", attack.name, used, most)
		}
	}
	for range 1000 { // connections without data
		connect().Close()
	}
	if kib := residentOf(p.a.daemon.process.Pid()); kib > 160<<10 {
		t.Errorf("it takes %d KiB of memory", kib)
	}
	if lines := strings.Count(p.a.daemon.log(), "\n"); lines > 200 {
		t.Errorf("the log has %d lines; it ends with\n%s", lines, p.a.daemon.log()[max(0, len(p.a.daemon.log())-2000):])
	}
	p.makeFlows(2000, 2100)
	p.a.daemon.client("-f", "external")
	p.a.daemon.client("-n")
	p.told = true
	p.a.follows(p.b, "after the attack")
}

// TestRefusedInjections checks that without an external cache the kernel refuses absurd flows.
// The log names some of them, and the counters have all.
func TestRefusedInjections(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	bypass := mode{"FTFW", "DisableExternalCache on", true}
	p.startRoles(programs{ours, ours}, syncClause(bypass, transports[0], withExpects), syncClause(modes[0], transports[0], withExpects), "")
	conn := p.b.dialFrom(p.b.link(4, 0), p.a)
	a := &attacker{random: rand.New(rand.NewPCG(4, 5)), seq: uint32(time.Now().Unix())}
	for range 3000 {
		send(t, conn, a.absurdity())
	}
	netnstest.Eventually(t, patience, "the kernel has refused many", func() bool {
		return strings.Count(p.a.daemon.log(), "could not ") == 10 // the limit per minute
	})
	p.makeFlows(2000, 2010)
	p.a.daemon.client("-n") // the forged sequence numbers are above the peer's
	netnstest.Eventually(t, patience, "the kernel has the peer's flows", func() bool {
		there := p.a.kernel.entries()
		for e := range p.b.kernel.entries() {
			if !there[e] {
				return false
			}
		}
		return true
	})
	if log := p.a.daemon.log(); strings.Count(log, "could not ") > 100 || strings.Count(log, "\n") > 300 {
		t.Errorf("the log has %d lines and ends with\n%s", strings.Count(log, "\n"), log[max(0, len(log)-2000):])
	}
}

// makeFlows creates flows with these ports on both sides.
func (p *pair) makeFlows(from, to uint16) {
	p.t.Helper()
	p.each(func(n, _ *node) {
		for port := from; port < to; port++ {
			f := n.flow(port)
			n.kernel.create(&f)
		}
	})
}

// dialFrom returns a socket of n's namespace that sends to the other's daemon.
func (n *node) dialFrom(addr string, to *node) (conn net.Conn) {
	t := n.kernel.t
	t.Helper()
	var err error
	n.ns.Do(func() {
		conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(addr)}}).Dial("udp", to.link(4, 0)+":3780")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// send sends a datagram as soon as the socket has room for it.
func send(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// survived checks that a's daemon still works.
func (p *pair) survived(m mode, most int) {
	t := p.t
	t.Helper()
	d := p.a.daemon
	if d.process.Ended() {
		t.Fatalf("it has died: %+v", d.process.Wait(time.Second))
	}
	if kib := residentOf(d.process.Pid()); kib > most {
		t.Errorf("it takes %d KiB of memory, more than %d", kib, most)
	}
	if lines := strings.Count(d.log(), "\n"); lines > 200 {
		t.Errorf("the log has %d lines; it ends with\n%s", lines, d.log()[max(0, len(d.log())-2000):])
	}
	for kind, n := range d.statistics().Malformed {
		if n == 0 && kind != "bad_type" && (kind != "bad_header" || m.name != "ALARM") {
			t.Errorf("%s has not counted", kind)
		}
	}
	t.Logf("%d lines of log, %d resyncs served", strings.Count(d.log(), "\n"), d.statistics().Replication.ResyncsServed)
	// The kernel refuses absurd flows; a commit of them does no harm.
	d.request(commitAll)
	p.makeFlows(2000, 2100)
	p.a.daemon.client("-f", "external")
	if m.dialogue {
		p.a.daemon.client("-n")
	}
	p.told = true
	p.a.follows(p.b, "after the attack")
}
