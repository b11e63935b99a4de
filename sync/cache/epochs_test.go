package cache

import (
	"testing"

	"ctbox/nl/ctnetlink"
)

// A flow keeps its epoch until it is released, and the next one in its slot has none.
func TestEpochs(t *testing.T) {
	c := NewFlows(Config{})
	var f ctnetlink.Flow
	internalFlow(&f, 1, false)
	h, _ := c.Put(&f, t0)
	c.Track()
	for _, step := range []struct {
		name  string
		do    func()
		want  uint32
		dirty bool
	}{
		{"an insertion", func() {}, 0, false},
		{"SetEpoch of 0", func() { c.SetEpoch(h, 0) }, 0, false},
		{"SetEpoch", func() { c.SetEpoch(h, 7) }, 7, true},
		{"SetEpoch of the same", func() { c.SetEpoch(h, 7) }, 7, false},
		{"a mark", func() { c.SetEpoch(h, 7|EpochMark) }, 7 | EpochMark, false},
		{"a mark less", func() { c.SetEpoch(h, 7) }, 7, false},
		{"Put", func() { c.Put(&f, t0) }, 7, false},
		{"Put of another id", func() { f.ID++; c.Put(&f, t0) }, 7, true},
		{"Update", func() { c.Update(&f, t0) }, 7, true},
		{"Replace", func() { c.Replace(&f, t0) }, 7, true},
		{"Kill", func() { c.Kill(h) }, 7, true},
		{"SetEpoch of a dead flow", func() { c.SetEpoch(h, 8) }, 8, true},
		{"Release", func() { c.Release(h) }, 0, true},
		{"SetEpoch of a stale handle", func() { c.SetEpoch(h, 9) }, 0, false},
	} {
		step.do()
		if got, dirty := c.Epoch(h), len(drained(c)) > 0; got != step.want || dirty != step.dirty {
			t.Errorf("after %s the epoch is %#x, want %#x; dirty: %v, want %v", step.name, got, step.want, dirty, step.dirty)
		}
	}
	next, _ := c.Put(&f, t0)
	if uint32(next) != uint32(h) || c.Epoch(next) != 0 {
		t.Errorf("slot %d, epoch %d after slot %d", uint32(next), c.Epoch(next), uint32(h))
	}
	if c.SetEpoch(next, EpochMark); c.Epoch(next) != EpochMark {
		t.Errorf("a mark without a number: %#x", c.Epoch(next))
	}
	if c.Flush(); c.Epoch(next) != 0 {
		t.Error("an epoch is left after Flush")
	}
}

// Epochs have memory only in segments with an epoch that is not 0, and Bytes counts it.
func TestMemoryOfEpochs(t *testing.T) {
	const segments = 8
	c := NewFlows(Config{Buckets: segments * segmentSize})
	var f ctnetlink.Flow
	var handles []Handle
	for i := range uint32(segments*segmentSize - 1) {
		internalFlow(&f, i, false)
		h, _ := c.Put(&f, t0)
		handles = append(handles, h)
	}
	without := c.Bytes()
	for _, h := range handles {
		c.SetEpoch(h, 0)
	}
	if c.Bytes() != without || c.epochs.segments != nil {
		t.Errorf("epochs of 0 take %d bytes", c.Bytes()-without)
	}
	for _, slot := range []uint32{5 * segmentSize, 5*segmentSize + 1, 2 * segmentSize} {
		c.SetEpoch(c.At(slot), 1)
	}
	if got := c.Bytes() - without; got != 2*4*segmentSize {
		t.Errorf("the epochs of two segments take %d bytes", got)
	}
	n := 0
	for _, h := range handles {
		n += int(c.Epoch(h))
	}
	if n != 3 {
		t.Errorf("the epochs add up to %d, want 3", n)
	}
	for _, h := range handles {
		c.Delete(h)
	}
	if got := c.epochs.bytes(); got != 0 {
		t.Errorf("%d bytes of epochs in an empty table", got)
	}
}

// Epochs cost no allocation but that of a segment's memory.
func TestEpochsDoNotAllocate(t *testing.T) {
	c := NewFlows(Config{})
	fill(c, 0, 3*segmentSize, false, internalFlow)
	c.Track()
	c.Soil()
	c.SetEpoch(c.At(segmentSize+1), 1)
	slot, epoch := uint32(segmentSize), uint32(0)
	if n := testing.AllocsPerRun(1000, func() {
		slot = segmentSize + (slot+1)%segmentSize
		epoch++
		h := c.At(slot)
		c.SetEpoch(h, epoch)
		if c.Epoch(h) != epoch || c.Epoch(c.At(1)) != 0 {
			t.Fatal("another epoch")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
