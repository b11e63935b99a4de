package cache

// EpochMark is the two top bits of a flow's epoch. They are no part of the number: no message and no
// hash has them. What each of them means is the table's user's choice.
const EpochMark = 3 << 30

// epochs are the epochs of flows by slot. A segment has memory once an epoch in it is not 0.
type epochs struct{ slab[uint32] }

// of returns where the epoch of a slot is, nil while its segment has no memory.
func (e *epochs) of(slot uint32) *uint32 {
	if n := int(slot >> segmentBits); n >= len(e.segments) || e.segments[n] == nil {
		return nil
	}
	return e.at(slot)
}

// set sets the epoch of a slot.
func (e *epochs) set(slot, epoch uint32) {
	at := e.of(slot)
	if at == nil {
		if epoch == 0 {
			return
		}
		for int(slot>>segmentBits) >= len(e.segments) {
			e.segments = append(e.segments, nil)
		}
		e.grow(slot)
		at = e.at(slot)
	}
	*at = epoch
}

// shrink frees the memory of the segment of a slot.
func (e *epochs) shrink(slot uint32) {
	if e.of(slot) != nil {
		e.slab.shrink(slot)
	}
}

// Epoch returns the epoch of h, with its EpochMark: how often the flow has changed its owner, as
// SetEpoch has set it. It is 0 for a flow that was inserted since, and for a stale h.
func (t *Flows) Epoch(h Handle) uint32 {
	if len(t.epochs.segments) == 0 {
		return 0
	}
	slot := t.slot(h)
	if slot == 0 {
		return 0
	}
	if at := t.epochs.of(slot); at != nil {
		return *at
	}
	return 0
}

// SetEpoch sets the epoch of h, dead or not, with its EpochMark. Put, Replace and Update keep it.
// Another number makes the slot dirty; the mark alone does not. SetEpoch does nothing to a stale h.
func (t *Flows) SetEpoch(h Handle, epoch uint32) {
	if epoch == 0 && len(t.epochs.segments) == 0 {
		return
	}
	slot := t.slot(h)
	if slot == 0 {
		return
	}
	before := uint32(0)
	if at := t.epochs.of(slot); at != nil {
		before = *at
	}
	if (before^epoch)&^EpochMark != 0 {
		t.dirty.mark(slot)
	}
	t.epochs.set(slot, epoch)
}
