package cache

import (
	"math/rand/v2"
	"testing"

	"ctbox/nl/ctnetlink"
)

// The marks are those of a set, whatever the order of the changes.
func TestMarksAgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 8))
		m, model := marks{on: true}, map[uint32]bool{}
		for range 5000 {
			slot := 1 + random.Uint32N(200_000)
			if random.IntN(2) == 0 {
				slot = 1 + slot%700
			}
			if random.IntN(3) == 0 {
				m.clear(slot)
				delete(model, slot)
			} else {
				m.mark(slot)
				model[slot] = true
			}
			if m.count != len(model) {
				t.Fatalf("seed %d: %d marks, want %d", seed, m.count, len(model))
			}
		}
		listed := 0
		for slot := m.next(0); slot != 0; slot = m.next(slot + 1) {
			if listed++; !model[slot] {
				t.Errorf("seed %d: slot %d is marked", seed, slot)
			}
			m.clear(slot)
		}
		if listed != len(model) || m.count != 0 || m.next(0) != 0 {
			t.Errorf("seed %d: %d of %d are listed, %d stay", seed, listed, len(model), m.count)
		}
	}
}

func drained[T interface {
	Dirty(uint32) uint32
	Clean(uint32)
}](table T) (slots []uint32) {
	for slot := table.Dirty(0); slot != 0; slot = table.Dirty(slot + 1) {
		slots = append(slots, slot)
		table.Clean(slot)
	}
	return slots
}

func TestWhatMarksASlot(t *testing.T) {
	c := NewFlows(Config{})
	var f ctnetlink.Flow
	internalFlow(&f, 1, false)
	untracked, _ := c.Put(&f, t0)
	if c.Track(); c.DirtyLen() != 0 {
		t.Error("an untracked change has a mark")
	}
	slot := uint32(untracked)
	for _, step := range []struct {
		name string
		do   func()
		want bool
	}{
		{"an update with the same contents", func() { c.Put(&f, t0) }, false},
		{"an update of the timeout", func() { f.Timeout++; c.Put(&f, t0) }, false},
		{"an update", func() { f.Status ^= ctnetlink.StatusAssured; c.Put(&f, t0) }, true},
		{"an update of a rare attribute", func() { f.Has |= ctnetlink.HasLabels; f.LabelsLen, f.Labels[0] = 1, 9; c.Put(&f, t0) }, true},
		{"a replacement", func() { c.Replace(&f, t0) }, true},
		{"Settle", func() { c.Settle(untracked) }, false},
		{"Kill", func() { c.Kill(untracked) }, true},
		{"Release", func() { c.Release(untracked) }, true},
		{"Release of nothing", func() { c.Release(untracked) }, false},
		{"an insertion", func() { c.Put(&f, t0) }, true},
		{"Flush", func() { c.Flush() }, true},
		{"Flush of nothing", func() { c.Flush() }, false},
		{"an insertion after Flush", func() { c.Replace(&f, t0) }, true},
		{"Soil", func() { c.Soil() }, true},
	} {
		step.do()
		if got := c.DirtyLen() == 1; got != step.want || c.DirtyLen() > 1 {
			t.Errorf("%s: %d marks", step.name, c.DirtyLen())
		}
		if got := drained(c); step.want && (len(got) != 1 || got[0] != slot) {
			t.Errorf("%s: marks %v, want %d", step.name, got, slot)
		}
	}
	if h := c.At(slot); h == 0 || h != c.Find(&f) || c.At(slot+1) != 0 || c.At(1<<20) != 0 {
		t.Errorf("slot %d has %x", slot, h)
	}
	x := NewExpects(Config{})
	x.Track()
	e := &ctnetlink.Expect{}
	tuple(&e.Master, 1, false)
	tuple(&e.Tuple, 2, false)
	h, _ := x.Put(e, t0)
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"an insertion", func() {}},
		{"an update", func() { e.Flags, e.Has = e.Flags+1, ctnetlink.ExpectHasFlags; x.Put(e, t0) }},
		{"a replacement", func() { x.Replace(e, t0) }},
	} {
		if step.do(); x.DirtyLen() != 1 {
			t.Errorf("expectation: %s: %d marks", step.name, x.DirtyLen())
		}
		drained(x)
	}
	e.Timeout++
	if x.Put(e, t0); x.DirtyLen() != 0 {
		t.Error("expectation: a timeout has a mark")
	}
	if x.Delete(h); x.DirtyLen() != 1 {
		t.Error("expectation: Delete has no mark")
	}
}

// Marks take a bit for each slot, and changes allocate nothing.
func TestMarksAreSmall(t *testing.T) {
	const n = 1 << 16
	c := NewFlows(Config{})
	fill(c, 0, n, false, externalFlow)
	before := c.Bytes()
	c.Track()
	var f ctnetlink.Flow
	change := func() {
		for i := range uint32(n) {
			externalFlow(&f, i, false)
			c.Replace(&f, t0)
		}
	}
	change()
	if per := float64(c.Bytes()-before) / n; per > 0.4 {
		t.Errorf("%.2f bytes for a flow", per)
	}
	if got := len(drained(c)); got != n {
		t.Errorf("%d marks, want %d", got, n)
	}
	if got := testing.AllocsPerRun(1, change); got > 0 {
		t.Errorf("%v allocations for %d changes", got, n)
	}
}

// BenchmarkMark measures what a change costs in a table that is tracked, beside the change.
func BenchmarkMark(b *testing.B) {
	m := marks{on: true}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		slot := 1 + scatter(i%million)
		m.mark(slot)
		if i%2 == 0 {
			m.clear(slot)
		}
	}
}
