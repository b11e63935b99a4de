package proto

import (
	"testing"

	"ctbox/sync/wire"
)

func TestNacksAreCounted(t *testing.T) {
	m := greeted(300)
	m.Receive(0, 0, address(1), wire.Header{Type: wire.FlowNew, Seq: 5}) // 2 to 4 are missing
	m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 6, From: 1, To: 1})
	m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Nack, Seq: 7, From: 1, To: 1})
	if s := m.Stats(); s.NacksSent != 1 || s.NacksReceived != 2 || s.Lost != 3 {
		t.Errorf("got %+v", s)
	}
}
