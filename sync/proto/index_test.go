package proto

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"ctbox/internal/seeds"
	"ctbox/sync/wire"
)

// TestFindBySequenceNumber compares the index with a walk, over queues with holes, with
// messages that stay unacknowledged for longer than the index reaches back, with limits
// that change, and across the wrap-around.
func TestFindBySequenceNumber(t *testing.T) {
	for seed := range seeds.Count(40) {
		rng := rand.New(rand.NewPCG(seed, 3))
		limit := 1 + rng.IntN(600)
		m := NewFTFW(0, FTFWConfig{FirstSeq: -wire.Seq(rng.IntN(2000)), Resend: limit})
		for step := range 400 {
			for range rng.IntN(40) {
				m.Changed(Object{Flows, uint64(rng.IntN(2 * limit))})
			}
			drain(m)
			if rng.IntN(4) > 0 {
				from := m.seq - wire.Seq(rng.IntN(2*limit+2))
				m.acknowledged(time.Second, from, min(from+wire.Seq(rng.IntN(limit)), from+60))
			}
			if rng.IntN(50) == 0 {
				limit = 1 + rng.IntN(600)
				m.SetLimits(300, limit)
			}
			for range 20 {
				from := m.seq - wire.Seq(rng.IntN(3*limit+200)) + 3
				want := m.resend.head
				for want != none && m.at(want).seq.Before(from) {
					want = m.at(want).next
				}
				if got := m.find(from); got != want {
					t.Fatalf("seed %d, step %d: find %d: %d, want %d", seed, step, from, got, want)
				}
			}
			checkLists(t, &m.queues, m.bulk.left)
		}
	}
}

// BenchmarkAcknowledgement measures the search for one message in the middle of a resend
// queue, for an ACK or NACK of a message that has left the queue already.
func BenchmarkAcknowledgement(b *testing.B) {
	for _, length := range []int{1000, 131071} {
		for _, kind := range []wire.Flags{wire.Ack, wire.Nack} {
			b.Run(fmt.Sprintf("%s-%d", map[wire.Flags]string{wire.Ack: "ACK", wire.Nack: "NACK"}[kind], length), func(b *testing.B) {
				m := greeted(1 << 30)
				for i := range length + 1 {
					m.Changed(Object{Flows, uint64(i + 1)})
				}
				middle := drain(m) - wire.Seq(length/2)
				m.acknowledged(0, middle, middle)
				if m.resend.len < length {
					b.Fatalf("%d messages are queued", m.resend.len)
				}
				peer, seq := address(1), wire.Seq(1)
				b.ReportAllocs()
				for b.Loop() {
					seq++
					m.Receive(0, 0, peer, wire.Header{Type: wire.Control, Flags: kind, Seq: seq, From: middle, To: middle})
				}
			})
		}
	}
}
