package digest

import (
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
	"ctbox/sync/wire"
)

// A change costs no allocation on either node, and equal digests none.
func TestNothingIsAllocatedInALedger(t *testing.T) {
	flows := cache.NewFlows(cache.Config{})
	l := NewFlowLedger(Key{1}, flows)
	c := NewComparer(1, 77, 0, l)
	changed := make([]ctnetlink.Flow, 500)
	for i := range changed {
		changed[i] = simFlow(stable, i, 1)
	}
	run := func() {
		for i := range changed {
			changed[i].Mark++
			flows.Replace(&changed[i], 0)
		}
		l.Settle()
		for i := range changed {
			h := flows.Find(&changed[i])
			flows.SetEpoch(h, changed[i].Mark%3)
			l.SentFlow(h, &changed[i])
		}
		m := wire.StreamMessage{Type: wire.Digest, Entries: uint32(l.table.count), Root: l.table.root}
		if a := c.Take(time.Hour, &m, whole); !a.Equal {
			t.Fatal("not equal")
		}
	}
	run()
	if n := testing.AllocsPerRun(5, run); n > 0 {
		t.Errorf("%v allocations for %d changes", n, len(changed))
	}
}

const benchLen = 1 << 18

// scattered fills a table of flows and returns their handles in an order that defeats the
// CPU's caches.
func scattered() (*cache.Flows, []cache.Handle) {
	flows := cache.NewFlows(cache.Config{Buckets: benchLen})
	handles := make([]cache.Handle, benchLen)
	for i := range benchLen {
		f := simFlow(stable, i, 1)
		handles[uint32(i)*2654435761%benchLen], _ = flows.Replace(&f, 0)
	}
	return flows, handles
}

// BenchmarkSent measures what the sender's ledger adds to a message.
func BenchmarkSent(b *testing.B) {
	flows, handles := scattered()
	l := NewFlowLedger(Key{1}, flows)
	l.Settle()
	f := simFlow(stable, 1, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		f.Mark = uint32(i)
		l.SentFlow(handles[i%benchLen], &f)
	}
}

// BenchmarkRefresh measures what the receiver's ledger adds to a message, the reading of the
// cache included.
func BenchmarkRefresh(b *testing.B) {
	flows, _ := scattered()
	l := NewFlowLedger(Key{1}, flows)
	l.Settle()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%benchLen == 0 {
			flows.Soil()
		}
		l.Refresh(1)
	}
}

// BenchmarkDigest measures the comparison of equal tables.
func BenchmarkDigest(b *testing.B) {
	flows, _ := scattered()
	l := NewFlowLedger(Key{1}, flows)
	l.Settle()
	c := NewComparer(1, 77, 0, l)
	m := wire.StreamMessage{Type: wire.Digest, Entries: uint32(l.table.count), Root: l.table.root}
	b.ReportAllocs()
	for b.Loop() {
		c.Take(time.Hour, &m, whole)
	}
}
