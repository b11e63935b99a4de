package commit

import (
	"testing"

	"ctbox/nl"
	"ctbox/nl/ctnetlink"
	"ctbox/sync/cache"
)

// mixed fills an external cache: three of five flows are assured, and one of a hundred has a
// master.
func mixed(external cache.Side, count int) {
	for i := range count {
		f := base(ctnetlink.ProtoTCP, client, server)
		f.Orig.Src[2], f.Orig.SrcPort = byte(i>>16), uint16(i)
		if i%5 > 2 {
			f.Status &^= ctnetlink.StatusAssured
		}
		if i%100 == 99 {
			f.Master = f.Orig
			f.Master.SrcPort--
		}
		f.Reply = f.Orig.Inverted()
		external.Flows.Put(&f, 0)
	}
}

// BenchmarkCommit commits 200,000 flows into an empty table.
func BenchmarkCommit(b *testing.B) {
	const count = 200_000
	external := cache.NewSide(cache.Config{})
	mixed(external, count)
	c := committing(b, external)
	k := kernelOf(b, c.ns)
	for b.Loop() {
		if r := c.commitAll(b); r.Flows != (Count{Committed: count}) {
			b.Fatalf("%+v", r.Flows)
		}
		b.StopTimer()
		if err := k.conn.Do(b.Context(), nl.Request{Type: ctnetlink.TypeFlowDelete}, nil); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/flow")
}
