package cache

import (
	"runtime"
	"testing"
	"time"

	"ctbox/nl/ctnetlink"
)

const million = 1 << 20

var shapes = []struct {
	name string
	ipv6 bool
	flow func(*ctnetlink.Flow, uint32, bool)
}{
	{"internal/IPv4", false, internalFlow},
	{"internal/IPv6", true, internalFlow},
	{"external/IPv4", false, externalFlow},
	{"external/IPv6", true, externalFlow},
}

// scatter is a bijection on the numbers below a million, in an order that defeats the CPU's
// caches.
func scatter(i int) uint32 { return uint32(i) * 2654435761 % million }

// BenchmarkMemory reports the growth of the process's heap per flow, index and slack included,
// and the time of one garbage collection with a million flows.
func BenchmarkMemory(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				c := NewFlows(Config{})
				fill(c, 0, million, s.ipv6, s.flow)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/million, "B/flow")
				b.ReportMetric(float64(after.HeapSys-before.HeapSys)/million, "B-sys/flow")
				b.ReportMetric(float64(c.Bytes())/million, "B-counted/flow")
				b.StartTimer()
				runtime.GC()
				runtime.KeepAlive(c)
			}
		})
	}
}

func BenchmarkInsert(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			b.ReportAllocs()
			var c *Flows
			var f ctnetlink.Flow
			for i := 0; b.Loop(); i++ {
				if i%million == 0 {
					c = NewFlows(Config{})
				}
				s.flow(&f, scatter(i%million), s.ipv6)
				c.Replace(&f, t0)
			}
		})
	}
}

// BenchmarkUpdate updates flows of a table of a million, in scattered order.
func BenchmarkUpdate(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := NewFlows(Config{})
			fill(c, 0, million, s.ipv6, s.flow)
			b.ReportAllocs()
			var f ctnetlink.Flow
			for i := 0; b.Loop(); i++ {
				s.flow(&f, scatter(i%million), s.ipv6)
				f.TCPState = uint8(i & 7)
				c.Put(&f, t0)
			}
		})
	}
}

func BenchmarkFindAndLoad(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := NewFlows(Config{})
			fill(c, 0, million, s.ipv6, s.flow)
			b.ReportAllocs()
			var f ctnetlink.Flow
			for i := 0; b.Loop(); i++ {
				s.flow(&f, scatter(i%million), s.ipv6)
				c.Load(c.Find(&f), &f)
			}
		})
	}
}

// BenchmarkTurnover deletes one flow of a million and inserts another.
func BenchmarkTurnover(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			c := NewFlows(Config{})
			fill(c, 0, million, s.ipv6, s.flow)
			b.ReportAllocs()
			var f ctnetlink.Flow
			for i := 0; b.Loop(); i++ {
				s.flow(&f, scatter(i%million), s.ipv6)
				c.Delete(c.Find(&f))
				c.Replace(&f, t0)
			}
		})
	}
}

// BenchmarkList iterates over a million flows in slices of 256.
func BenchmarkList(b *testing.B) {
	c := NewFlows(Config{})
	fill(c, 0, million, false, internalFlow)
	b.ReportAllocs()
	batch := make([]Handle, 256)
	var f ctnetlink.Flow
	for b.Loop() {
		var cursor Cursor
		for more := true; more; {
			var n int
			n, more = c.Next(&cursor, batch)
			for _, h := range batch[:n] {
				c.Load(h, &f)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/million, "ns/flow")
}

// BenchmarkRefresh simulates ALARM's load: a million timers, each armed again when it ends.
func BenchmarkRefresh(b *testing.B) {
	c := NewFlows(Config{Timers: true})
	fill(c, 0, million, false, internalFlow)
	now := t0
	i := 0
	for h := range collect(c.Next) {
		c.Arm(h, now, time.Duration(i%600)*tick)
		i++
	}
	b.ReportAllocs()
	b.ResetTimer()
	batch := make([]Handle, 256)
	n := 0
	for n < b.N {
		now += tick
		for more := true; more; {
			var k int
			k, more = c.Expired(now, batch)
			for _, h := range batch[:k] {
				c.Arm(h, now, time.Minute)
			}
			n += k
		}
	}
}
