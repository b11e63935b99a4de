package proto

import (
	"testing"
	"time"

	"ctbox/sync/wire"
)

// greeted returns a machine whose peer has answered its HELLO.
func greeted(window int) *FTFW {
	m := NewFTFW(0, FTFWConfig{FirstSeq: 0, Window: window})
	m.queueControl(control{flags: wire.Alive})
	drain(m)
	m.Receive(0, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Alive | wire.Hello | wire.HelloBack, Seq: 1})
	drain(m)
	return m
}

func drain(m Machine) (last wire.Seq) {
	for {
		s, ok := m.Next()
		if !ok {
			m.Sent(0)
			return last
		}
		last = s.Header.Seq
	}
}

// changeAndAcknowledge changes n objects, half of them twice, sends them and has
// them acknowledged in ranges of 300.
func changeAndAcknowledge(m *FTFW, n int, peerSeq wire.Seq) wire.Seq {
	for i := range n {
		m.Changed(Object{Flows, uint64(i + 1)})
	}
	for i := range n / 2 {
		m.Changed(Object{Flows, uint64(i + 1)})
	}
	first := m.seq
	last := drain(m)
	for from := first; !from.After(last); from += 300 {
		peerSeq++
		m.Receive(time.Second, 0, address(1), wire.Header{Type: wire.Control, Flags: wire.Ack, Seq: peerSeq, From: from, To: min(from+299, last)})
	}
	m.Tick(time.Second)
	drain(m)
	return peerSeq
}

func TestChangeAllocations(t *testing.T) {
	m := greeted(300)
	seq := wire.Seq(1)
	run := func() { seq = changeAndAcknowledge(m, 20000, seq) }
	run()
	if n := testing.AllocsPerRun(5, run); n > 1 {
		t.Errorf("%v allocations for 20,000 changes", n)
	}
	if st := m.Stats(); st.Resend > 100 {
		t.Errorf("%d of them are not acknowledged", st.Resend)
	}

	a := NewNoTrack(0, 1, false)
	run = func() {
		for i := range 20000 {
			a.Deleted(Object{Flows, uint64(i + 1)})
		}
		drain(a)
		for {
			if _, ok := a.NextReleased(); !ok {
				return
			}
		}
	}
	run()
	if n := testing.AllocsPerRun(5, run); n > 1 {
		t.Errorf("%v allocations for 20,000 deletions", n)
	}
}

// BenchmarkFTFWChange queues, sends and acknowledges one change.
func BenchmarkFTFWChange(b *testing.B) {
	const batch = 100000
	m := greeted(300)
	seq := wire.Seq(1)
	b.ReportAllocs()
	for i := 0; i < b.N; i += batch {
		seq = changeAndAcknowledge(m, batch, seq)
	}
}

// BenchmarkFTFWReceive receives one data message and sends the acknowledgements that follow.
func BenchmarkFTFWReceive(b *testing.B) {
	m := greeted(300)
	seq, from := wire.Seq(1), address(1)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		m.Receive(time.Second, 0, from, wire.Header{Type: wire.FlowUpdate, Seq: seq})
		if m.Pending() > 0 {
			drain(m)
			m.acknowledged(time.Second, 0, m.seq-1)
		}
	}
}

// BenchmarkNoTrackReceive does the same in the mode NOTRACK.
func BenchmarkNoTrackReceive(b *testing.B) {
	m := NewNoTrack(0, 1, false)
	seq, from := wire.Seq(1), address(1)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		m.Receive(time.Second, 0, from, wire.Header{Type: wire.FlowUpdate, Seq: seq})
	}
}
