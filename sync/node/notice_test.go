package node

import (
	"net/netip"
	"testing"
	"time"

	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// What a peer has lost is known from its notice until it takes that back, starts
// again, or has said nothing more of it for a while.
func TestIncompletePeer(t *testing.T) {
	n := unwired(ModeFTFW)
	n.links = &links{node: n, all: []*link.Link{nil}}
	from := netip.MustParseAddr("192.0.2.2")
	seq := wire.Seq(100)
	alive := func(notice wire.Notice) {
		t.Helper()
		seq++
		r := wire.ReadDatagram(wire.AppendNotice(nil, wire.Header{Type: wire.Control, Flags: wire.Alive, Seq: seq}, &notice))
		m, ok := r.Next(&n.received)
		if !ok {
			t.Fatal("no message")
		}
		n.takeMessage(0, from, &m)
	}
	lost := func(count uint32) wire.Notice { return wire.Notice{Has: wire.HasIncomplete, Incomplete: count} }
	after := func(d time.Duration) { n.sched.SetNow(n.sched.Now() + d) }
	check := func(when string, want uint32) {
		t.Helper()
		if got := n.peers[from].incomplete; got != want {
			t.Errorf("%s: %d events of the peer are lost, want %d", when, got, want)
		}
	}
	alive(wire.Notice{})
	check("plain", 0)
	alive(lost(7))
	check("a notice", 7)
	alive(wire.Notice{})
	check("a plain ALIVE at once, in the place of something else", 7)
	alive(lost(9))
	check("more", 9)
	alive(lost(0))
	check("taken back", 0)
	alive(lost(5))
	after(noticeLasts)
	alive(wire.Notice{})
	check("not repeated", 0)
	alive(lost(4))
	seq = 5000
	n.takeMessage(0, from, &wire.Message{Header: wire.Header{Type: wire.Control, Flags: wire.Alive | wire.Hello, Seq: seq}})
	check("started again", 0)
	if n.received != (wire.Counters{}) {
		t.Errorf("%+v", n.received)
	}
	seq++
	r := wire.ReadDatagram([]byte{0x1a, 0x10, 0, 13, 0, 0, byte(seq >> 8), byte(seq), 'c', 't', 'b', 'x', 0})
	m, _ := r.Next(&n.received)
	n.takeMessage(0, from, &m)
	if n.received != (wire.Counters{BadPayload: 1}) || n.peers[from].messages == 0 {
		t.Errorf("a notice that is cut: %+v", n.received)
	}
}
