package helpertest

import (
	"testing"

	"ctbox/helpers/helper"
)

// Allocs returns how often the helper allocates memory to read that packet, with
// an Answer that is used again.
func (f *Flow) Allocs(info helper.Info, payload string) float64 {
	p, a := f.Packet(info, payload), helper.Answer{}
	return testing.AllocsPerRun(100, func() {
		a.Reset()
		f.h.Read(p, &a)
	})
}

// Benchmark measures how long the helper takes to read that packet.
func (f *Flow) Benchmark(b *testing.B, info helper.Info, payload string) {
	p, a := f.Packet(info, payload), helper.Answer{}
	b.ReportAllocs()
	for b.Loop() {
		a.Reset()
		f.h.Read(p, &a)
	}
}
