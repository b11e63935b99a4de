package cache

import (
	"math/bits"
	"unsafe"
)

// Slots are handed out in segments of this many.
const (
	segmentBits = 9
	segmentSize = 1 << segmentBits
	segmentMask = segmentSize - 1
)

// slots allocates slot numbers and tells its caller when the memory behind a segment
// of slots is needed. It prefers low slots, so that a shrinking table empties its upper
// segments; one empty segment keeps its memory, which spares a table at a segment's
// edge from freeing and allocating it over and over. Slot 0 is never allocated: it
// means "no slot".
type slots struct {
	segments []segment
	open     []uint64 // bit i: segment i has a free slot
	low      int      // no word of open below this one has a bit
	spare    int      // the empty segment that keeps its memory, plus one; 0: none
}

type segment struct {
	used   [segmentSize / 64]uint64
	live   uint16
	backed bool // has memory
}

// take returns a free slot. If grow is set, the segment slot>>segmentBits has no
// memory yet and the caller provides it.
func (s *slots) take() (slot uint32, grow bool) {
	for s.low < len(s.open) && s.open[s.low] == 0 {
		s.low++
	}
	n := len(s.segments)
	if s.low < len(s.open) {
		n = s.low*64 + bits.TrailingZeros64(s.open[s.low])
	}
	if n == len(s.segments) {
		s.segments = append(s.segments, segment{})
		if n/64 == len(s.open) {
			s.open = append(s.open, 0)
		}
		s.open[n/64] |= 1 << (n % 64)
		s.low = n / 64
		if n == 0 {
			s.segments[0].used[0] = 1
			s.segments[0].live = 1
		}
	}
	g := &s.segments[n]
	if s.spare == n+1 {
		s.spare = 0
	}
	grow, g.backed = !g.backed, true
	for w, u := range g.used {
		if u != ^uint64(0) {
			b := bits.TrailingZeros64(^u)
			g.used[w] |= 1 << b
			slot = uint32(n<<segmentBits | w*64 | b)
			break
		}
	}
	if g.live++; g.live == segmentSize {
		s.open[n/64] &^= 1 << (n % 64)
	}
	return slot, grow
}

// give frees a slot. If shrink is set, the caller frees the memory of segment
// slot>>segmentBits.
func (s *slots) give(slot uint32) (shrink bool) {
	n := int(slot >> segmentBits)
	g := &s.segments[n]
	i := slot & segmentMask
	g.used[i/64] &^= 1 << (i % 64)
	s.open[n/64] |= 1 << (n % 64)
	s.low = min(s.low, n/64)
	if g.live--; g.live > 0 {
		return false
	}
	if s.spare == 0 {
		s.spare = n + 1
		return false
	}
	g.backed = false
	return true
}

// next returns the first used slot in [from, limit), or 0.
func (s *slots) next(from, limit uint32) uint32 {
	limit = min(limit, uint32(len(s.segments)<<segmentBits))
	for from = max(from, 1); from < limit; {
		g := &s.segments[from>>segmentBits]
		if g.live == 0 {
			from = (from | segmentMask) + 1
			continue
		}
		i := from & segmentMask
		if w := g.used[i/64] >> (i % 64); w != 0 {
			if from += uint32(bits.TrailingZeros64(w)); from < limit {
				return from
			}
			return 0
		}
		from = (from | 63) + 1
	}
	return 0
}

// slab is the memory of one kind of record behind slots.
type slab[T any] struct {
	segments []*[segmentSize]T
}

func (s *slab[T]) at(slot uint32) *T {
	return &s.segments[slot>>segmentBits][slot&segmentMask]
}

func (s *slab[T]) grow(slot uint32) {
	n := int(slot >> segmentBits)
	if n == len(s.segments) {
		s.segments = append(s.segments, nil)
	}
	s.segments[n] = new([segmentSize]T)
}

func (s *slab[T]) shrink(slot uint32) { s.segments[slot>>segmentBits] = nil }

// bytes returns the size of the slab's memory.
func (s *slab[T]) bytes() int {
	var t T
	n := 0
	for _, g := range s.segments {
		if g != nil {
			n++
		}
	}
	return n * segmentSize * int(unsafe.Sizeof(t))
}
