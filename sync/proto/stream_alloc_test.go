package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// streamPair is a Stream whose peer, node 2, is followed, and which has heard node 2's STATE.
func streamPair(window int) *Stream {
	m := NewStream(0, StreamConfig{ID: 1, First: 100, Node: 1, Window: window, Peers: []uint8{2}})
	m.Arrived(0, 2, [16]byte{2}, 1)
	m.Receive(0, 2, &wire.StreamMessage{Type: wire.Position, From: 7})
	m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamState, Stream: 2})
	m.Receive(0, 2, &wire.StreamMessage{Type: wire.StreamAck, Node: 1, Stream: 1, From: m.Position()})
	drain(m)
	return m
}

// changeAndAcknowledgeStream changes n objects, half of them twice, sends them, has one in a
// hundred repeated, and has all acknowledged in steps of 300.
func changeAndAcknowledgeStream(m *Stream, n int, ack *wire.StreamMessage) {
	for i := range n {
		m.Changed(Object{Flows, uint64(i + 1)})
	}
	for i := range n / 2 {
		m.Changed(Object{Flows, uint64(i + 1)})
	}
	drain(m)
	for next := m.Position() - wire.Seq(n); next != m.Position(); {
		next += min(300, m.Position()-next)
		*ack = wire.StreamMessage{Type: wire.StreamAck, Node: 1, Stream: 1, From: next, Ranges: ack.Ranges[:0]}
		if next != m.Position() {
			ack.Ranges = append(ack.Ranges, wire.Range{From: next, To: next + 2})
		}
		m.Receive(time.Second, 2, ack)
		drain(m)
	}
}

// receiveStream receives n messages, of which one in a hundred is missing at first, and sends
// the acknowledgements.
func receiveStream(m *Stream, n int, next *wire.Seq) {
	msg := wire.StreamMessage{Type: wire.StreamFlowUpdate}
	for i := range n {
		msg.Number, msg.Again = *next, false
		*next++
		if i%100 == 1 {
			continue
		}
		m.Receive(time.Second, 2, &msg)
		if i%100 == 2 {
			msg.Number, msg.Again = msg.Number-1, true
			m.Receive(time.Second, 2, &msg)
		}
		if m.Pending() > 0 {
			drain(m)
		}
	}
}

func TestStreamAllocations(t *testing.T) {
	m := streamPair(300)
	var ack wire.StreamMessage
	send := func() { changeAndAcknowledgeStream(m, 20000, &ack) }
	send()
	if n := testing.AllocsPerRun(5, send); n > 0 {
		t.Errorf("%v allocations for 20,000 changes", n)
	}
	if st := m.Stats(); st.Resend > 0 || st.Resent == 0 {
		t.Errorf("after everything is acknowledged: %+v", st)
	}
	next := wire.Seq(7)
	receive := func() { receiveStream(m, 20000, &next) }
	receive()
	if n := testing.AllocsPerRun(5, receive); n > 0 {
		t.Errorf("%v allocations for 20,000 received messages", n)
	}
	if !m.Whole(2) || m.Stats().Lost == 0 {
		t.Errorf("whole %v, %+v", m.Whole(2), m.Stats())
	}
}

// BenchmarkStreamChange queues, sends and acknowledges one change.
func BenchmarkStreamChange(b *testing.B) {
	const batch = 100000
	m := streamPair(300)
	var ack wire.StreamMessage
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch {
		changeAndAcknowledgeStream(m, batch, &ack)
	}
}

// BenchmarkStreamReceive receives one data message and sends the acknowledgements that follow.
func BenchmarkStreamReceive(b *testing.B) {
	const batch = 1000
	m := streamPair(300)
	next := wire.Seq(7)
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch {
		receiveStream(m, batch, &next)
	}
}
