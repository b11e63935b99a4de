package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// FuzzMachines drives the machines with any sequence of inputs: headers of any
// kind, changes, time. The queues must stay consistent and bounded.
func FuzzMachines(f *testing.F) {
	f.Add([]byte{0, 1, 10, 0x30, 5, 1, 2, 2, 3, 3, 4, 4, 10, 0x08, 1, 2})
	f.Add([]byte{12, 3, 1, 11, 1, 0, 11, 2, 1, 4, 1, 6, 20, 13, 9, 5, 11, 1, 0, 3, 1, 5, 2})
	f.Add([]byte{0, 0, 0, 0x20, 1, 0, 1, 1, 2, 1, 3, 5, 9, 0, 10, 0x04, 0, 4})
	f.Fuzz(func(t *testing.T, ops []byte) {
		for _, m := range []Receiver{
			NewFTFW(0, FTFWConfig{FirstSeq: 100, Window: 2, Resend: 4, StartupResync: true}),
			NewNoTrack(0, 100, true), NewAlarm(100, time.Minute, 1),
		} {
			drive(t, m, ops)
		}
	})
}

func drive(t *testing.T, m Receiver, ops []byte) {
	const objects = 16
	var now time.Duration
	next := func() byte {
		if len(ops) == 0 {
			return 0
		}
		b := ops[0]
		ops = ops[1:]
		return b
	}
	dead := map[Object]bool{}
	object := func() Object {
		b := next()
		return Object{Table: Table(b >> 4 & 1), Handle: uint64(b%objects) | 7<<32}
	}
	for len(ops) > 0 {
		switch next() % 14 {
		case 0, 1, 2:
			h := wire.Header{Type: wire.Type(next() & 0xf), Flags: wire.Flags(next()), Seq: 100 + wire.Seq(int8(next()))}
			if h.Ranged() {
				h.From = 100 + wire.Seq(int8(next()))
				h.To = h.From + wire.Seq(int8(next()))
			}
			m.Receive(now, int(next()%2), address(int(next()%2)), h)
		case 3:
			o := object()
			delete(dead, o)
			m.Changed(o)
		case 4:
			o := object()
			dead[o] = true
			m.Deleted(o)
		case 5:
			o := object()
			delete(dead, o)
			m.Dropped(o)
		case 6:
			now += time.Duration(next()) * 50 * time.Millisecond
			m.Tick(now)
		case 7:
			if m.BeginBulk(now) {
				for range next() % objects {
					if o := object(); !dead[o] {
						m.Bulk(o)
					}
				}
				m.EndBulk()
			}
		case 8:
			m.RequestResync(now)
		case 9:
			for range next() {
				s, ok := m.Next()
				if !ok {
					break
				}
				if before, is := m.(*FTFW); is && !s.Control && s.Header.Seq%4 == 0 {
					m.Withheld(s.Object)
					if before.seq != s.Header.Seq {
						t.Fatalf("number %d is used up by nothing", s.Header.Seq)
					}
				}
			}
			m.Sent(now)
		case 10:
			m.SetIncomplete(now, uint32(next()%3))
		case 11:
			o := object()
			delete(dead, o)
			m.Wait(now, o, Class(next()%uint8(Classes)))
		case 12:
			m.SetDelays([Classes]time.Duration{time.Duration(next()) * time.Second, time.Second, time.Duration(next()%2) * time.Second})
		case 13:
			for o, ok := m.NextWaited(now); ok; o, ok = m.NextWaited(now) {
				m.Changed(o)
				if m.Waits(o) {
					t.Fatalf("%+v waits although it was queued", o)
				}
			}
		}
		for {
			o, ok := m.NextReleased()
			if !ok {
				break
			}
			if !dead[o] {
				t.Fatalf("got %+v back, which is not dead", o)
			}
			delete(dead, o)
		}
		st := m.Stats()
		if st.Transmit+st.Resend+st.Waiting > 2*objects+st.Controls || st.ResendLimit > 0 && st.Resend > st.ResendLimit {
			t.Fatalf("queues out of bounds: %+v", st)
		}
		if m, ok := m.(*FTFW); ok {
			checkLists(t, &m.queues, m.bulk.left)
		}
	}
}

// checkLists walks all lists in both directions and compares them with their counts.
func checkLists(t *testing.T, m *queues, left int) {
	inBulk := 0
	lists := []*list{&m.transmit, &m.background, &m.resend, &m.released, &m.free}
	for c := range m.waiting {
		lists = append(lists, &m.waiting[c])
	}
	for _, l := range lists {
		n, controls, prev := 0, 0, none
		for i := l.head; i != none; i = m.at(i).next {
			e := m.at(i)
			if e.prev != prev || e.queue != l.name {
				t.Fatalf("list %d: element %d is in list %d, after %d", l.name, i, e.queue, e.prev)
			}
			if i.isControl() {
				controls++
			}
			if e.inBulk {
				inBulk++
			}
			if l.name == resend && prev != none && !m.at(prev).seq.Before(e.seq) {
				t.Fatalf("the resend queue is out of order at %d", e.seq)
			}
			prev = i
			n++
		}
		if n != l.len || controls != l.controls || prev != l.tail {
			t.Fatalf("list %d has %d elements, %d controls, and says %+v", l.name, n, controls, *l)
		}
	}
	for i := m.resend.head; i != none; i = m.at(i).next {
		if got := m.find(m.at(i).seq); got != i {
			t.Fatalf("number %d is found at %d, and is at %d", m.at(i).seq, got, i)
		}
	}
	if inBulk != left {
		t.Fatalf("%d objects of a bulk are queued, it says %d are left", inBulk, left)
	}
}
