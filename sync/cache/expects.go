package cache

import (
	"hash/maphash"
	"time"

	"ctbox/nl/ctnetlink"
)

// Expects is a table of expectations, internal or external. They are few (the kernel's
// limit is a few thousand), so each is stored as it is.
//
// An expectation is identified by its master, expected and mask tuples and its zone, as
// in the kernel. Everything else is content.
type Expects struct {
	objects
	records slab[ctnetlink.Expect]
	buf     [3 * (tupleTailSize + 32)]byte
}

// NewExpects returns an empty table.
func NewExpects(c Config) *Expects {
	return &Expects{objects: newObjects(c)}
}

// Put inserts e, or replaces the contents of the existing expectation, which becomes
// Alive: an update carries the whole expectation.
func (t *Expects) Put(e *ctnetlink.Expect, now time.Duration) (Handle, Outcome) {
	return t.insertOr(e, now, func(slot uint32, r *ctnetlink.Expect) Outcome {
		before := *r
		*r = *e
		t.markUpdated(slot, now)
		if before.Timeout = e.Timeout; before == *e {
			return Unchanged
		}
		t.dirty.mark(slot)
		return Updated
	})
}

// Replace inserts e, or replaces the existing expectation; the expectation is New. The
// statistics count one expectation that ended and one that began.
func (t *Expects) Replace(e *ctnetlink.Expect, now time.Duration) (Handle, Outcome) {
	return t.insertOr(e, now, func(slot uint32, r *ctnetlink.Expect) Outcome {
		*r = *e
		t.replace(slot, now)
		return Replaced
	})
}

func (t *Expects) insertOr(e *ctnetlink.Expect, now time.Duration, there func(uint32, *ctnetlink.Expect) Outcome) (Handle, Outcome) {
	if e.Master.Has&whole != whole || e.Tuple.Has&whole != whole {
		t.stats.CreateFailed++
		return 0, Malformed
	}
	hash := t.hash(e)
	if slot := t.find(e, hash); slot != 0 {
		return t.handle(slot), there(slot, t.records.at(slot))
	}
	if t.Full() {
		t.stats.CreateFailed++
		t.stats.NoSpace++
		return 0, Full
	}
	slot, grow := t.insert(hash, now)
	if grow {
		t.records.grow(slot)
	}
	*t.records.at(slot) = *e
	return t.handle(slot), Created
}

// Find returns the handle of the expectation with e's tuples and zone, or 0.
func (t *Expects) Find(e *ctnetlink.Expect) Handle {
	slot := t.find(e, t.hash(e))
	if slot == 0 {
		return 0
	}
	return t.handle(slot)
}

// Load sets e to the expectation that h refers to, dead or not, and reports whether
// there is one.
func (t *Expects) Load(h Handle, e *ctnetlink.Expect) bool {
	slot := t.slot(h)
	if slot == 0 {
		return false
	}
	*e = *t.records.at(slot)
	return true
}

// Release frees a dead expectation and reports whether h referred to one.
func (t *Expects) Release(h Handle) bool {
	slot := t.slot(h)
	if slot == 0 || t.heads.at(slot).state != Dead {
		return false
	}
	if t.remove(slot) {
		t.records.shrink(slot)
	}
	return true
}

// Delete kills and releases an expectation that nothing else refers to.
func (t *Expects) Delete(h Handle) bool { return t.Kill(h) && t.Release(h) }

// Flush removes all expectations, dead ones too, and invalidates their handles.
// Expectations that were not dead count as destroyed.
func (t *Expects) Flush() {
	t.flush()
	t.records = slab[ctnetlink.Expect]{}
}

// Bytes returns the memory in bytes of the table's objects and index.
func (t *Expects) Bytes() int { return t.objects.bytes() + t.records.bytes() }

func (t *Expects) hash(e *ctnetlink.Expect) uint32 {
	b := appendTuple(t.buf[:0], &e.Master)
	b = appendTuple(b, &e.Tuple)
	b = appendTuple(b, &e.Mask)
	h := maphash.Bytes(t.seed, b)
	return uint32(h) ^ uint32(h>>32)
}

func (t *Expects) find(e *ctnetlink.Expect, hash uint32) uint32 {
	for slot := *t.index.bucket(hash); slot != 0; {
		h := t.heads.at(slot)
		if h.hash == hash {
			r := t.records.at(slot)
			if r.Master == e.Master && r.Tuple == e.Tuple && r.Mask == e.Mask && expectZone(r) == expectZone(e) {
				return slot
			}
		}
		slot = h.next
	}
	return 0
}

// expectZone returns the zone of e. The kernel does not send zone 0.
func expectZone(e *ctnetlink.Expect) uint16 {
	if e.Has&ctnetlink.ExpectHasZone == 0 {
		return 0
	}
	return e.Zone
}
