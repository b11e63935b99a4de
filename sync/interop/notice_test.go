package interop

import (
	"net"
	"strings"
	"testing"
	"time"

	"ctbox/internal/netnstest"
	"ctbox/sync/wire"
)

// rawPeer replaces a node: the test writes and reads its messages.
type rawPeer struct {
	t    testing.TB
	conn *net.UDPConn
	to   *net.UDPAddr
	seq  wire.Seq
	buf  []byte // the datagram being written
}

// newRawPeer uses b's address and port.
func newRawPeer(p *pair) *rawPeer {
	p.t.Helper()
	r := &rawPeer{t: p.t, seq: 1000, to: &net.UDPAddr{IP: net.ParseIP(p.a.link(4, 0)), Port: 3780}}
	var err error
	p.b.ns.Do(func() {
		r.conn, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(p.b.link(4, 0)), Port: 3780})
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { r.conn.Close() })
	return r
}

// header returns the header of the next message.
func (r *rawPeer) header(typ wire.Type, flags wire.Flags) wire.Header {
	r.seq++
	return wire.Header{Type: typ, Flags: flags, Seq: r.seq}
}

func (r *rawPeer) control(flags wire.Flags, notice wire.Notice) {
	r.buf = wire.AppendNotice(r.buf, r.header(wire.Control, flags), &notice)
}

// flow announces a flow of the replaced node.
func (r *rawPeer) flow(n *node, port uint16) {
	r.t.Helper()
	f := n.flow(port)
	var err error
	if r.buf, err = (wire.Encoder{}).AppendFlow(r.buf, r.header(wire.FlowNew, 0), &f); err != nil {
		r.t.Fatal(err)
	}
}

// send sends the written messages as one datagram.
func (r *rawPeer) send() {
	r.t.Helper()
	if _, err := r.conn.WriteTo(r.buf, r.to); err != nil {
		r.t.Fatal(err)
	}
	r.buf = r.buf[:0]
}

// await reads messages until wanted returns true.
func (r *rawPeer) await(what string, is func(wire.Header) bool) {
	r.t.Helper()
	var c wire.Counters
	b := make([]byte, 65536)
	if err := r.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		r.t.Fatal(err)
	}
	for {
		got, err := r.conn.Read(b)
		if err != nil {
			r.t.Fatalf("%s: %v", what, err)
		}
		for d := wire.ReadDatagram(b[:got]); ; {
			m, ok := d.Next(&c)
			if !ok {
				break
			}
			if is(m.Header) {
				return
			}
		}
	}
}

// TestNotices checks that an ALIVE with a body between two plain ones changes no error counter
// and leaves no gap in the numbers, neither in a C daemon nor in ctbox's.
func TestNotices(t *testing.T) {
	for _, who := range []program{debian, ours} {
		for _, mode := range []string{"FTFW {\n}", "NOTRACK {\n}"} {
			t.Run(string(who)+" "+mode[:4], func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.a.daemon = newDaemon(t, p.a.ns, who, clause(mode, "")(p.a.side, p.b.side), "")
				p.a.daemon.start()
				peer := newRawPeer(p)
				peer.control(wire.Alive|wire.Hello, wire.Notice{})
				peer.send()
				before := troubles(p.a.daemon)
				if mode == "FTFW {\n}" {
					peer.await("the answer to HELLO", func(h wire.Header) bool { return h.Flags&wire.HelloBack != 0 })
				}
				peer.flow(p.b, 1)
				peer.send()
				everything := wire.Notice{Has: wire.HasIncomplete | wire.HasHeld | wire.HasHeard | wire.HasProbed | wire.HasProbe,
					Heard: 100, Probed: 7, ProbedSize: 1472, Probe: 9, Size: 1000, Incomplete: 1650, HeldFlows: 1, HeldExpects: 0}
				peer.control(wire.Alive, wire.Notice{})
				peer.control(wire.Alive, everything)
				peer.control(wire.Alive, wire.Notice{})
				peer.send()
				peer.control(wire.Alive, everything)
				peer.flow(p.b, 2)
				peer.send()
				netnstest.Eventually(t, patience, "both flows are replicated", func() bool { return len(p.a.external()) == 2 })
				if mode == "FTFW {\n}" {
					peer.await("an acknowledgement", func(h wire.Header) bool {
						if h.Kind() == wire.KindNack {
							t.Errorf("%d to %d are reported missing", h.From, h.To)
						}
						return h.Kind() == wire.KindAck && h.To == peer.seq
					})
				}
				if got := troubles(p.a.daemon); got != before {
					t.Errorf("the counters are\n%swere\n%s", got, before)
				}
			})
		}
	}
}

// troubles are the lines of `-s network` that count malformed and lost messages.
func troubles(d *daemon) string {
	d.t.Helper()
	text, _, _ := strings.Cut(d.ask(statsNetwork), "traffic")
	return text
}

// bulk sends a bulk of flows with these ports.
func (r *rawPeer) bulk(n *node, number wire.Seq, ports ...uint16) {
	r.t.Helper()
	mark := func(flag wire.Flags) {
		h := r.header(wire.Control, wire.Alive|flag)
		h.From, h.To = number, number
		r.buf = wire.AppendControl(r.buf, h)
	}
	mark(wire.BulkBegin)
	for _, port := range ports {
		r.flow(n, port)
		r.send()
	}
	mark(wire.BulkEnd)
	r.send()
}

func isResync(h wire.Header) bool { return h.Kind() == wire.KindResync }

// TestBulkThatEmptiesTheCache checks that 32 forged bytes, the marks around a bulk with the next
// numbers, remove nothing and cause a request. A requested bulk that leaves out nearly
// everything also causes another request; only a second such bulk removes the entries. The log
// has each step.
func TestBulkThatEmptiesTheCache(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.a.daemon = newDaemon(t, p.a.ns, ours, clause("FTFW {\n}", "")(p.a.side, p.b.side), "")
	p.a.daemon.start()
	peer := newRawPeer(p)
	external := func(when string, want int) {
		t.Helper()
		netnstest.Eventually(t, patience, when, func() bool { return len(p.a.external()) == want })
	}
	logged := func(text string) {
		t.Helper()
		netnstest.Eventually(t, patience, text, func() bool { return strings.Contains(p.a.daemon.log(), text) })
	}
	peer.control(wire.Alive|wire.Hello, wire.Notice{})
	peer.send()
	peer.await("the answer to HELLO", func(h wire.Header) bool { return h.Flags&wire.HelloBack != 0 })
	var ports []uint16
	for port := uint16(1); port <= 100; port++ {
		ports = append(ports, port)
	}
	peer.bulk(p.b, 7, ports...)
	external("everything is there", 100)

	peer.bulk(p.b, 8)
	logged("leaves out 100 of 100 entries")
	peer.await("a RESYNC", isResync)
	external("the forged bulk removes nothing", 100)
	peer.bulk(p.b, 9, ports...)

	// An unrequested bulk, as -B sends it, leaves out a few entries: they are removed after a
	// requested bulk leaves them out too.
	peer.bulk(p.b, 10, ports[3:]...)
	logged("leaves out 3 of 100 entries")
	peer.await("a RESYNC", isResync)
	external("what was not asked for removes nothing", 100)
	peer.bulk(p.b, 11, ports[3:]...)
	external("what was asked for does", 97)
	logged("removed 3 entries from the external cache that the peer no longer has")

	peer.bulk(p.b, 12)
	logged("leaves out 97 of 97 entries")
	peer.await("a RESYNC", isResync)
	peer.bulk(p.b, 13)
	external("the peer has said it twice", 0)
	logged("removed 97 entries from the external cache that the peer no longer has")
	if log := p.a.daemon.log(); strings.Count(log, "leaves out") != 3 {
		t.Error(log)
	}
}

// TestLostAcknowledgedFlows checks that flows that never arrived, although the peer takes them
// for delivered, are detected by the number of entries that it announces, as after a forged
// acknowledgement: a resync follows.
func TestLostAcknowledgedFlows(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.a.daemon = newDaemon(t, p.a.ns, ours, clause("FTFW {\n}", "")(p.a.side, p.b.side), "")
	p.a.daemon.start()
	peer := newRawPeer(p)
	peer.control(wire.Alive|wire.Hello, wire.Notice{})
	peer.send()
	peer.await("the answer to HELLO", func(h wire.Header) bool { return h.Flags&wire.HelloBack != 0 })
	peer.bulk(p.b, 7, 1, 2, 3)
	netnstest.Eventually(t, patience, "everything is there", func() bool { return len(p.a.external()) == 3 })
	const text = "the peer has announced 203 entries and 3 are here: everything is asked for"
	netnstest.Eventually(t, patience, text, func() bool {
		peer.control(wire.Alive, wire.Notice{Has: wire.HasHeld, HeldFlows: 203})
		peer.send()
		return strings.Contains(p.a.daemon.log(), text)
	})
	peer.await("a RESYNC", isResync)
}
