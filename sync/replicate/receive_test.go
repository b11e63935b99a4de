package replicate

import (
	"net/netip"
	"testing"
	"time"

	"ctbox/conf"
	"ctbox/sync/link"
	"ctbox/sync/wire"
)

// What a peer has lost is known from its notice until it takes that back, starts
// again, or has not repeated it for a while.
func TestIncompletePeer(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	r.links = &links{owner: r, all: []*link.Link{nil}}
	from := netip.MustParseAddr("192.0.2.2")
	seq := wire.Seq(100)
	alive := func(notice wire.Notice) {
		t.Helper()
		seq++
		reader := wire.ReadDatagram(wire.AppendNotice(nil, wire.Header{Type: wire.Control, Flags: wire.Alive, Seq: seq}, &notice))
		m, ok := reader.Next(&r.received)
		if !ok {
			t.Fatal("no message")
		}
		r.takeMessage(0, from, &m)
	}
	lost := func(count uint32) wire.Notice { return wire.Notice{Has: wire.HasIncomplete, Incomplete: count} }
	after := func(d time.Duration) { r.sched.SetNow(r.sched.Now() + d) }
	check := func(when string, want uint32) {
		t.Helper()
		if got := r.peers[from].incomplete; got != want {
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
	r.takeMessage(0, from, &wire.Message{Header: wire.Header{Type: wire.Control, Flags: wire.Alive | wire.Hello, Seq: seq}})
	check("started again", 0)
	if r.received != (wire.Counters{}) {
		t.Errorf("%+v", r.received)
	}
	seq++
	reader := wire.ReadDatagram([]byte{0x1a, 0x10, 0, 13, 0, 0, byte(seq >> 8), byte(seq), 'c', 't', 'b', 'x', 0})
	m, _ := reader.Next(&r.received)
	r.takeMessage(0, from, &m)
	if r.received != (wire.Counters{BadPayload: 1}) || r.peers[from].messages == 0 {
		t.Errorf("a notice that is cut: %+v", r.received)
	}
}

func TestThirdNodeIsListed(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	r.links = &links{owner: r}
	first, third := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	for i, from := range []netip.Addr{first, third, third} {
		r.sched.SetNow(time.Duration(i) * time.Second)
		r.takeMessage(0, from, &wire.Message{Header: wire.Header{Type: wire.Control, Flags: wire.Alive, Seq: wire.Seq(i)}})
	}
	if p := r.peers[first]; p == nil || p.ignored {
		t.Errorf("the peer is %+v", p)
	}
	if p := r.peers[third]; p == nil || !p.ignored || p.messages != 0 || p.last != 2*time.Second {
		t.Errorf("the third node is %+v", p)
	}
}

// A link that is closed by the loop, which holds the lock then, does not wait for its
// reader.
func TestReaderGivesUpWithItsLink(t *testing.T) {
	r := unwired(conf.ModeFTFW)
	ended, returned := make(chan struct{}), make(chan struct{})
	go func() {
		r.deliver(&link.Batch{}, ended)
		close(returned)
	}()
	close(ended)
	select {
	case <-returned:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader still waits for the lock")
	}
}
