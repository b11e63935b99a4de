package cache

import "math/bits"

// marks are the dirty slots of a table that is tracked: a bit for each slot, and one for each
// segment that has such a bit. What marks cost does not grow with the number of changes.
type marks struct {
	on       bool
	segments [][segmentSize / 64]uint64
	filled   []uint64 // bit i: segment i has a mark
	count    int
}

// mark marks a slot, if the table is tracked.
func (m *marks) mark(slot uint32) {
	if m.on {
		m.set(slot>>segmentBits, slot&segmentMask/64, 1<<(slot%64))
	}
}

// set marks slots of one word of a segment.
func (m *marks) set(segment, word uint32, slots uint64) {
	for int(segment) >= len(m.segments) {
		m.segments = append(m.segments, [segmentSize / 64]uint64{})
		if len(m.segments) > 64*len(m.filled) {
			m.filled = append(m.filled, 0)
		}
	}
	w := &m.segments[segment][word]
	m.count += bits.OnesCount64(slots &^ *w)
	*w |= slots
	if slots != 0 {
		m.filled[segment/64] |= 1 << (segment % 64)
	}
}

// next returns the first marked slot from a slot on, or 0.
func (m *marks) next(from uint32) uint32 {
	from = max(from, 1)
	for segment := from >> segmentBits; int(segment) < len(m.segments); {
		rest := m.filled[segment/64] >> (segment % 64)
		if rest == 0 {
			segment = (segment | 63) + 1
			continue
		}
		segment += uint32(bits.TrailingZeros64(rest))
		begin := max(from, segment<<segmentBits)
		words := &m.segments[segment]
		for i := begin & segmentMask; i < segmentSize; i = (i | 63) + 1 {
			if w := words[i/64] >> (i % 64); w != 0 {
				return segment<<segmentBits + i + uint32(bits.TrailingZeros64(w))
			}
		}
		segment++
	}
	return 0
}

// clear removes the mark of a slot.
func (m *marks) clear(slot uint32) {
	segment, bit := slot>>segmentBits, uint64(1)<<(slot%64)
	if int(segment) >= len(m.segments) {
		return
	}
	words := &m.segments[segment]
	if w := &words[slot&segmentMask/64]; *w&bit != 0 {
		*w &^= bit
		m.count--
		if *w == 0 && *words == [segmentSize / 64]uint64{} {
			m.filled[segment/64] &^= 1 << (segment % 64)
		}
	}
}

// bytes returns the memory of the marks.
func (m *marks) bytes() int { return segmentSize/8*cap(m.segments) + 8*cap(m.filled) }

// Track makes the table mark slots as dirty from now on: those in which an object is inserted,
// replaced, changed in more than its timeout, killed, released or flushed. One user drains the
// marks with Dirty and Clean.
func (o *objects) Track() { o.dirty.on = true }

// Dirty returns the first dirty slot from a slot on, or 0. The object in it may be gone, and
// another one may have its place; see At.
func (o *objects) Dirty(from uint32) uint32 { return o.dirty.next(from) }

// DirtyLen returns the number of dirty slots.
func (o *objects) DirtyLen() int { return o.dirty.count }

// Clean removes the mark of a slot.
func (o *objects) Clean(slot uint32) { o.dirty.clear(slot) }

// Soil marks the slots of all objects.
func (o *objects) Soil() {
	for n := range o.slots.segments {
		for w, used := range o.slots.segments[n].used {
			if n == 0 && w == 0 {
				used &^= 1 // slot 0 is never an object's
			}
			o.dirty.set(uint32(n), uint32(w), used)
		}
	}
}

// At returns the handle of the object in a slot, dead or not, or 0.
func (o *objects) At(slot uint32) Handle {
	if n := int(slot >> segmentBits); n >= len(o.heads.segments) || o.heads.segments[n] == nil || o.heads.at(slot).gen == 0 {
		return 0
	}
	return o.handle(slot)
}
