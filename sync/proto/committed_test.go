package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// A commit is announced at once, with its age, to a peer that marks its bulks. A C daemon gets
// ALIVEs without a notice.
func TestCommitIsAnnounced(t *testing.T) {
	for _, ctbox := range []bool{true, false} {
		m := greeted(300)
		if ctbox {
			m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Alive | wire.BulkBegin, Seq: 2, From: 9, To: 9})
		}
		drain(m)
		m.Committed(5 * time.Second)
		var ages []uint32
		for _, now := range []time.Duration{5 * time.Second, 6500 * time.Millisecond} {
			m.Tick(now)
			for {
				s, ok := m.Next()
				if !ok {
					break
				}
				if s.Notice.Has&wire.HasCommitted != 0 {
					ages = append(ages, s.Notice.Committed)
				} else if s.Notice.Has != 0 {
					t.Errorf("%+v", s.Notice)
				}
			}
			m.Sent(now)
		}
		if ctbox && (len(ages) != 2 || ages[0] != 0 || ages[1] != 1500) || !ctbox && len(ages) > 0 {
			t.Errorf("ctbox %v: announced with ages %v", ctbox, ages)
		}
	}
}

// TestProbe: an ALIVE that is a probe has its number, once, and others have none.
func TestProbe(t *testing.T) {
	for _, m := range []interface {
		Receiver
		Announce(uint32)
	}{greeted(300), NewNoTrack(0, 1, false)} {
		m.Announce(0)
		drain(m) // answers the peer's HELLO
		m.Announce(7)
		m.Announce(0)
		for _, want := range []wire.Notice{{Has: wire.HasProbe, Probe: 7}, {}} {
			if s, ok := m.Next(); !ok || !s.Header.CarriesNotice() || s.Notice != want {
				t.Errorf("%T: %v %+v, want %+v", m, ok, s, want)
			}
		}
		m.Announce(0)
		if s, _ := m.Next(); s.Notice.Has != 0 {
			t.Errorf("%T: the element of a probe was used again: %+v", m, s)
		}
	}
}
