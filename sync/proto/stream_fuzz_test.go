package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// FuzzStreams gives two Streams any messages, with any numbers, in any order, beside changes and
// what the two say to each other. The queues must stay consistent and bounded.
func FuzzStreams(f *testing.F) {
	f.Add([]byte{3, 1, 9, 0, 9, 1, 6, 20, 9, 0, 9, 1, 3, 2, 4, 1, 9, 0, 9, 1})
	f.Add([]byte{0, 8, 5, 0, 13, 1, 0, 16, 5, 0, 16, 9, 9, 0, 0, 10, 6, 7, 0, 12, 200, 2, 9, 0})
	f.Add([]byte{9, 0, 9, 1, 7, 3, 1, 2, 3, 3, 1, 10, 0, 12, 100, 20, 6, 200, 9, 0, 11, 1, 5, 3, 9, 0})
	f.Add([]byte{0, 8, 5, 0, 13, 1, 0, 16, 200, 0, 15, 1, 0, 24, 201, 0, 25, 203, 0, 11, 0, 90, 9, 0})
	f.Add([]byte{0, 8, 37, 0, 0, 0, 0, 1, 0, 1, 0, 0, 8, 38, 0, 0, 0, 0, 1, 0, 1, 0, 9, 0, 9, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var ms [2]*Stream
		for i := range ms {
			ms[i] = NewStream(0, StreamConfig{ID: uint64(i), First: 100, Node: uint8(i + 1), Window: 2, Resend: 4, Peers: []uint8{uint8(2 - i), 7}})
		}
		driveStreams(t, ms, ops)
	})
}

func driveStreams(t *testing.T, ms [2]*Stream, ops []byte) {
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
	seq := func() wire.Seq { return 100 + wire.Seq(int8(next()))<<(next()%24) }
	var dead [2]map[Object]bool
	dead[0], dead[1] = map[Object]bool{}, map[Object]bool{}
	var counter uint64
	for len(ops) > 0 {
		op := next()
		which := int(op>>7) & 1
		m, other := ms[which], ms[1-which]
		node := uint8(2 - which)
		object := func() Object {
			b := next()
			return Object{Table: Table(b >> 4 & 1), Handle: uint64(b%objects) | 7<<32}
		}
		switch op & 0x7f % 13 {
		case 0, 1:
			counter++
			boot := byte(0)
			if b := next(); b > 250 {
				boot = b
			}
			msg := wire.StreamMessage{Type: wire.StreamType(next()), Node: uint8(which + 1), Stream: uint64(which)}
			msg.From, msg.Number, msg.Again = seq(), seq(), next()%2 == 0
			msg.To = msg.From + wire.Seq(next())
			msg.Flags, msg.Bulk = next(), uint32(next()%4)+100
			if msg.Type == wire.StreamAck {
				for range next() % 4 {
					from := seq()
					msg.Ranges = append(msg.Ranges, wire.Range{From: from, To: from + wire.Seq(next())})
				}
			}
			if msg.Type == wire.StreamState {
				msg.Stream = uint64(next() % 3)
			}
			if m.Arrived(now, node, [16]byte{boot}, counter) {
				takeFuzzed(m, now, node, &msg)
			}
		case 2:
			m.SetPeers([]uint8{node, next()})
		case 3:
			o := object()
			delete(dead[which], o)
			m.Changed(o)
		case 4:
			o := object()
			dead[which][o] = true
			m.Deleted(o)
		case 5:
			o := object()
			delete(dead[which], o)
			m.Dropped(o)
		case 6:
			now += time.Duration(next()) * 50 * time.Millisecond
			beginFuzzed(m, now, m.Tick(now))
		case 7:
			if m.BeginBulk(now) {
				for range next() % objects {
					if o := object(); !dead[which][o] {
						m.Bulk(o)
					}
				}
				m.EndBulk()
			}
		case 8:
			m.RequestResync(now)
			m.Committed(now)
			m.SetIncomplete(now, uint32(next()%3))
			m.Proven(node)
		case 9: // a datagram, which arrives or not
			counter++
			arrives := next()%4 > 0 && other.Arrived(now, uint8(which+1), [16]byte{byte(which)}, counter)
			if arrives {
				takeFuzzed(other, now, uint8(which+1), &wire.StreamMessage{Type: wire.Position, From: m.Position()})
			}
			limit := 2*objects + maxControls + m.config.Resend*maxRepeats + m.Stats().Controls + 100
			for n := 0; ; n++ {
				s, ok := m.Next()
				if !ok {
					break
				}
				if n > limit {
					t.Fatalf("Next does not end: %+v", m.Stats())
				}
				if !s.Control && s.Header.Seq%8 == 0 {
					m.Withheld(s.Object)
					continue
				}
				if arrives {
					msg := s.Message
					if !s.Control {
						msg.Type = wire.StreamFlowUpdate
					}
					msg.Number, msg.Again = s.Header.Seq, s.Again
					takeFuzzed(other, now, uint8(which+1), &msg)
				}
			}
			m.Sent(now)
		case 10:
			o := object()
			delete(dead[which], o)
			m.SetDelays([Classes]time.Duration{time.Second, time.Duration(next()) * time.Second})
			m.Wait(now, o, Class(next()%uint8(Classes)))
		case 11:
			o := object()
			dead[which][o] = true
			m.Withdrawn(o)
		case 12:
			m.MakeRoom()
			m.SetLimits(int(next())+1, int(next()%16)+1)
			for o, ok := m.NextWaited(now); ok; o, ok = m.NextWaited(now) {
				m.Changed(o)
			}
		}
		for i, m := range ms {
			checkFuzzed(t, m, dead[i], 2*objects)
		}
	}
}

// takeFuzzed gives a message to a Stream, and begins the bulk that it may want.
func takeFuzzed(m *Stream, now time.Duration, node uint8, msg *wire.StreamMessage) {
	_, events := m.Receive(now, node, msg)
	beginFuzzed(m, now, events)
}

func beginFuzzed(m *Stream, now time.Duration, events Events) {
	if events&BulkWanted != 0 && m.BeginBulk(now) {
		m.EndBulk()
	}
}

func checkFuzzed(t *testing.T, m *Stream, dead map[Object]bool, objects int) {
	for o, ok := m.NextReleased(); ok; o, ok = m.NextReleased() {
		if !dead[o] {
			t.Fatalf("got %+v back, which is not dead", o)
		}
		delete(dead, o)
	}
	st := m.Stats()
	if st.Transmit+st.Resend+st.Waiting > objects+st.Controls || st.Controls > maxControls+st.ResendLimit+300 {
		t.Fatalf("queues out of bounds: %+v", st)
	}
	checkLists(t, &m.queues, m.bulk.left)
	urgent := 0
	for _, p := range m.peers {
		urgent += p.due()
		if len(p.gaps) > maxGaps {
			t.Fatalf("%d gaps", len(p.gaps))
		}
		for i, g := range p.gaps {
			if g.to.Before(g.from) || !g.to.Before(p.expected) || i > 0 && !p.gaps[i-1].to.Before(g.from) {
				t.Fatalf("gap %d of %+v, before %d, is out of order", i, p.gaps, p.expected)
			}
		}
	}
	if urgent != m.urgent {
		t.Fatalf("%d urgent messages, it says %d", urgent, m.urgent)
	}
}
