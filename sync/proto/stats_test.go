package proto

import (
	"testing"

	"ctbox/sync/wire"
)

func TestNackCounters(t *testing.T) {
	m := greeted(300)
	m.Receive(0, 0, address(1), wire.Header{Type: wire.FlowNew, Seq: 5}) // 2 to 4 are missing
	m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 6, From: 1, To: 1})
	m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 7, From: 1, To: 1})
	if s := m.Stats(); s.NacksSent != 1 || s.NacksReceived != 2 || s.Lost != 3 {
		t.Errorf("got %+v", s)
	}
}

// A bulk that fails because the peer restarts was not too fast. If each of these failures
// halved the window, bulks would end up at a message per second.
func TestRestartsDoNotSlowBulks(t *testing.T) {
	const objects = 2000
	m := greeted(300)
	bulk := func() (sent int) {
		m.BeginBulk(0)
		for i := range objects {
			m.Bulk(Object{Handle: uint64(i + 1)})
		}
		m.EndBulk()
		for {
			if _, ok := m.Next(); !ok {
				return sent
			}
			sent++
		}
	}
	for start := range 20 {
		bulk()
		seq := wire.Seq(1000 * (start + 1))
		if _, events := m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Alive | wire.Hello, Seq: seq}); events&PeerStarted == 0 {
			t.Fatal("the peer has not started")
		}
	}
	if sent := bulk(); sent < objects {
		t.Errorf("%d messages of a bulk of %d objects are sent at once", sent, objects)
	}
}
