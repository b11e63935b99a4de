package cache

import (
	"hash/maphash"
	"time"
)

// head is the part that every object has, whatever its type.
type head struct {
	next    uint32 // in the hash chain
	hash    uint32
	gen     uint32 // the handle's; 0 in a free slot
	created uint32 // seconds
	updated uint32 // seconds
	state   State
	round   uint8 // of the last sweep or insertion that saw it
}

// objects is the part of a table that does not depend on the type of its objects:
// slots, handles, states, index, order and timers.
type objects struct {
	slots  slots
	heads  slab[head]
	index  index
	timers slab[timer]
	wheel  wheel
	dirty  marks

	config  Config
	seed    maphash.Seed
	gen     uint32 // last one given
	round   uint8
	objects int
	dead    int
	stats   Stats
}

func newObjects(c Config) objects {
	return objects{config: c, index: newIndex(c.Buckets), seed: maphash.MakeSeed()}
}

func seconds(now time.Duration) uint32 { return uint32(now / time.Second) }

// maxObjects is the largest number of objects in a table: a reference to a tail has
// room for this many slots.
const maxObjects = 1<<tailSlotBits - 1

// SetLimit changes Config.Limit. A table with more objects than that keeps them.
func (o *objects) SetLimit(n int) { o.config.Limit = n }

// Full reports whether the table is at its limit.
func (o *objects) Full() bool {
	return o.config.Limit > 0 && o.objects >= o.config.Limit || o.objects >= maxObjects
}

// insert takes a slot and links it under hash. If grow is set the segment is new, and
// the caller provides the memory for its own part of the segment.
func (o *objects) insert(hash uint32, now time.Duration) (slot uint32, grow bool) {
	slot, grow = o.slots.take()
	if grow {
		o.heads.grow(slot)
		if o.config.Timers {
			o.timers.grow(slot)
		}
	}
	if o.gen++; o.gen == 0 {
		o.gen = 1
	}
	t := seconds(now)
	*o.heads.at(slot) = head{hash: hash, gen: o.gen, created: t, updated: t, round: o.round}
	o.dirty.mark(slot)
	o.objects++
	o.stats.Created++
	o.index.link(&o.heads, slot, o.objects-o.dead)
	return slot, grow
}

// replace turns the object in slot into a new one with the same key and handle.
func (o *objects) replace(slot uint32, now time.Duration) {
	h := o.heads.at(slot)
	h.state, h.round = New, o.round
	h.created = seconds(now)
	h.updated = h.created
	o.dirty.mark(slot)
	o.disarm(slot)
	o.stats.Destroyed++
	o.stats.Created++
}

func (o *objects) markUpdated(slot uint32, now time.Duration) {
	h := o.heads.at(slot)
	h.state, h.round = Alive, o.round
	h.updated = seconds(now)
	o.stats.Updated++
}

// kill makes the object in slot dead.
func (o *objects) kill(slot uint32) {
	o.index.unlink(&o.heads, slot)
	o.disarm(slot)
	o.heads.at(slot).state = Dead
	o.dirty.mark(slot)
	o.dead++
	o.stats.Destroyed++
}

// remove frees the slot of a dead object. If shrink is set the caller can free its own
// part of the segment.
func (o *objects) remove(slot uint32) (shrink bool) {
	o.heads.at(slot).gen = 0
	o.dirty.mark(slot)
	o.objects--
	o.dead--
	shrink = o.slots.give(slot)
	if shrink {
		o.heads.shrink(slot)
		if o.config.Timers {
			o.timers.shrink(slot)
		}
	}
	return shrink
}

// flush removes all objects. Counters, seed and generations stay, so that older
// handles remain invalid.
func (o *objects) flush() {
	o.stats.Destroyed += uint64(o.objects - o.dead)
	o.objects, o.dead = 0, 0
	if o.dirty.on {
		o.Soil()
	}
	o.slots = slots{}
	o.heads = slab[head]{}
	o.timers = slab[timer]{}
	o.wheel = wheel{}
	o.index = newIndex(o.config.Buckets)
}

// slot returns the slot of a handle, 0 if the object is gone.
func (o *objects) slot(h Handle) uint32 {
	s := uint32(h)
	if n := int(s >> segmentBits); n >= len(o.heads.segments) || o.heads.segments[n] == nil {
		return 0
	}
	if gen := uint32(h >> 32); gen == 0 || o.heads.at(s).gen != gen {
		return 0
	}
	return s
}

func (o *objects) handle(slot uint32) Handle { return handle(slot, o.heads.at(slot).gen) }

// Generation returns the generation of the object that was inserted last. Those of later ones are higher,
// by serial number arithmetic.
func (o *objects) Generation() uint32 { return o.gen }

// State returns the state of h; ok is false if h is stale.
func (o *objects) State(h Handle) (s State, ok bool) {
	slot := o.slot(h)
	if slot == 0 {
		return 0, false
	}
	return o.heads.at(slot).state, true
}

// Times returns when h was inserted or replaced and when it was last updated, in whole
// seconds of the caller's clock.
func (o *objects) Times(h Handle) (created, updated time.Duration, ok bool) {
	slot := o.slot(h)
	if slot == 0 {
		return 0, 0, false
	}
	e := o.heads.at(slot)
	return time.Duration(e.created) * time.Second, time.Duration(e.updated) * time.Second, true
}

// Settle makes h Alive if it is New: it was announced, and the next announcement is an
// update. Settle does nothing to a dead or stale h.
func (o *objects) Settle(h Handle) {
	if slot := o.slot(h); slot != 0 && o.heads.at(slot).state == New {
		o.heads.at(slot).state = Alive
	}
}

// Kill marks h as dead: it is no longer found or listed, its timer stops, and it keeps
// its contents and its slot until Release. Kill reports whether h was alive before.
func (o *objects) Kill(h Handle) bool {
	slot := o.slot(h)
	if slot == 0 || o.heads.at(slot).state == Dead {
		return false
	}
	o.kill(slot)
	return true
}

// Stats returns the table's counters.
func (o *objects) Stats() Stats {
	s := o.stats
	s.Objects = o.objects
	s.Active = o.objects - o.dead
	return s
}

// Len returns the number of objects that are not dead.
func (o *objects) Len() int { return o.objects - o.dead }

func (o *objects) bytes() int {
	return o.heads.bytes() + o.timers.bytes() + len(o.index.buckets)<<bucketBits*4 + o.dirty.bytes()
}

// Cursor is a position in a table's order. The zero Cursor is the beginning. An
// iteration ends where the table ended at its first step, so that it ends even if
// objects are inserted faster than it advances.
type Cursor struct{ slot, end uint32 }

// scanFactor bounds the slots that one step of an iteration examines, as a multiple of
// the handles that the step may return.
const scanFactor = 16

// Next fills batch with the handles of the next objects and advances the cursor; more
// is false at the end. A step takes bounded time, so a batch may be short, even empty,
// before the end.
//
// The table may change in any way between two steps. An object that is alive throughout
// the iteration is returned exactly once; an object that is inserted or removed
// meanwhile at most once for each insertion.
func (o *objects) Next(c *Cursor, batch []Handle) (n int, more bool) {
	return o.scan(c, batch, func(h *head) bool { return h.state != Dead })
}

// BeginSweep starts a search for objects that their source no longer has. From now on
// every object that is inserted, replaced or updated counts as seen.
func (o *objects) BeginSweep() { o.round++ }

// NextUnseen is Next for objects that have not been seen since BeginSweep. Once the
// source has listed everything it has, these are the objects whose end was lost.
func (o *objects) NextUnseen(c *Cursor, batch []Handle) (n int, more bool) {
	round := o.round
	return o.scan(c, batch, func(h *head) bool { return h.state != Dead && h.round != round })
}

// Unseen reports whether NextUnseen would return h: alive, and not seen since
// BeginSweep.
func (o *objects) Unseen(h Handle) bool {
	slot := o.slot(h)
	if slot == 0 {
		return false
	}
	e := o.heads.at(slot)
	return e.state != Dead && e.round != o.round
}

func (o *objects) scan(c *Cursor, batch []Handle, want func(*head) bool) (n int, more bool) {
	if c.end == 0 {
		c.end = uint32(len(o.slots.segments) << segmentBits)
	}
	limit := min(c.end, c.slot+uint32(len(batch)*scanFactor))
	for n < len(batch) {
		s := o.slots.next(c.slot, limit)
		if s == 0 {
			c.slot = limit
			break
		}
		if e := o.heads.at(s); want(e) {
			batch[n] = handle(s, e.gen)
			n++
		}
		c.slot = s + 1
	}
	return n, c.slot < c.end
}
