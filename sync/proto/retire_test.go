package proto

import (
	"net/netip"
	"testing"
	"time"

	"ctbox/sync/wire"
)

// A machine that is replaced gives back the dead objects, whether their ends were sent or not, and
// hands over those that wait.
func TestRetire(t *testing.T) {
	machines := map[string]func() Machine{
		"FTFW":   func() Machine { return NewFTFW(0, FTFWConfig{FirstSeq: 1}) },
		"Stream": func() Machine { return NewStream(0, StreamConfig{ID: 1, First: 1, Node: 1, Peers: []uint8{2}}) },
	}
	for from, old := range machines {
		for to, next := range machines {
			m, n := old(), next()
			follow(m)
			object := func(slot uint64) Object { return Object{Table: Flows, Handle: 7<<32 | slot} }
			delays := [Classes]time.Duration{ClassTCP: 3 * time.Second}
			m.SetDelays(delays)
			m.Changed(object(1))
			m.Changed(object(2))
			m.Deleted(object(2)) // its end was sent
			m.Changed(object(3))
			drainSends(m)
			m.Deleted(object(3)) // its end waits
			m.Changed(object(4))
			m.BeginBulk(time.Second)
			m.Bulk(object(5))
			m.EndBulk()
			m.Wait(time.Second, object(6), ClassTCP)

			n.SetDelays(delays)
			m.(interface{ Retire(Machine) }).Retire(n)
			got := map[Object]bool{}
			for o, ok := m.NextReleased(); ok; o, ok = m.NextReleased() {
				got[o] = true
			}
			if !got[object(2)] || !got[object(3)] || got[object(1)] || got[object(4)] || got[object(5)] || got[object(6)] {
				t.Errorf("%s to %s: released: %v", from, to, got)
			}
			if s := m.Stats(); s.Transmit != 0 || s.Resend != 0 || s.Waiting != 0 || s.Controls != 0 {
				t.Errorf("%s to %s: what is left: %+v", from, to, s)
			}
			if !n.Waits(object(6)) || n.Stats().Waiting != 1 {
				t.Errorf("%s to %s: object 6 does not wait", from, to)
			}
			if o, ok := n.NextWaited(3900 * time.Millisecond); ok {
				t.Errorf("%s to %s: %v has waited", from, to, o)
			}
			if o, ok := n.NextWaited(4 * time.Second); !ok || o != object(6) {
				t.Errorf("%s to %s: %v, %v has waited", from, to, o, ok)
			}
		}
	}
}

// follow makes a peer of m that acknowledges nothing more.
func follow(m Machine) {
	switch m := m.(type) {
	case *FTFW:
		m.Receive(0, 0, netip.MustParseAddr("192.0.2.2"), wire.Header{Type: wire.Control, Flags: wire.Alive, Seq: 9})
	case *Stream:
		m.Arrived(0, 2, [16]byte{1}, 1)
		m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamState, Stream: 5})
		m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamAck, Node: 1, Stream: 1, From: 1})
	}
}

func drainSends(m Machine) {
	for _, ok := m.Next(); ok; _, ok = m.Next() {
	}
	m.Sent(0)
}
