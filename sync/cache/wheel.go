package cache

import (
	"math/bits"
	"time"
)

// A hierarchical timing wheel (G. Varghese and T. Lauck, "Hashed and Hierarchical
// Timing Wheels", 1987): four levels of 64 buckets. A bucket of level L spans
// 64^L ticks; when the time reaches its beginning its timers move to lower levels.
const (
	tick        = 100 * time.Millisecond
	wheelLevels = 4
	levelBits   = 6
	levelSize   = 1 << levelBits
	levelMask   = levelSize - 1
	wheelSpan   = 1 << (wheelLevels * levelBits) // ticks
	// maxTimer is the longest timer, 3.4 years: ticks are compared by the sign of
	// their 32-bit difference, and the wheel's time may be behind the caller's.
	maxTimer = tick << 30
)

// timer is an object's place on the wheel.
type timer struct {
	next, prev uint32 // slots
	due        uint32 // tick
	where      uint16 // bucket plus one; 0: not armed
}

// wheel holds the heads of the buckets' lists and the current time in ticks. No timer is
// due before now.
type wheel struct {
	heads  [wheelLevels * levelSize]uint32
	filled [wheelLevels]uint64 // bit i: bucket i of the level is not empty
	now    uint32
	armed  int
}

// put arms the timer of slot for t.due.
func (w *wheel) put(timers *slab[timer], slot uint32) {
	t := timers.at(slot)
	wait := t.due - w.now
	if int32(wait) < 0 {
		t.due, wait = w.now, 0
	}
	at := t.due
	if wait >= wheelSpan {
		wait = wheelSpan - 1
		at = w.now + wait
	}
	level := 0
	if wait > 0 {
		level = (bits.Len32(wait) - 1) / levelBits
	}
	i := at >> (level * levelBits) & levelMask
	b := uint32(level)*levelSize + i
	t.prev, t.next, t.where = 0, w.heads[b], uint16(b+1)
	if t.next != 0 {
		timers.at(t.next).prev = slot
	}
	w.heads[b] = slot
	w.filled[level] |= 1 << i
	w.armed++
}

// take disarms the timer of slot.
func (w *wheel) take(timers *slab[timer], slot uint32) {
	t := timers.at(slot)
	b := t.where - 1
	if t.prev != 0 {
		timers.at(t.prev).next = t.next
	} else if w.heads[b] = t.next; t.next == 0 {
		w.filled[b/levelSize] &^= 1 << (b % levelSize)
	}
	if t.next != 0 {
		timers.at(t.next).prev = t.prev
	}
	t.next, t.prev, t.where = 0, 0, 0
	w.armed--
}

// cascade moves the timers of the upper levels' buckets that begin now to lower
// levels, at most *budget of them, and reports whether that was all.
func (w *wheel) cascade(timers *slab[timer], budget *int) bool {
	for level := wheelLevels - 1; level > 0; level-- {
		if w.now&(1<<(level*levelBits)-1) != 0 {
			continue
		}
		b := level*levelSize + int(w.now>>(level*levelBits)&levelMask)
		for w.heads[b] != 0 {
			if *budget == 0 {
				return false
			}
			*budget--
			slot := w.heads[b]
			w.take(timers, slot)
			w.put(timers, slot)
		}
	}
	return true
}

// next returns the next tick at which a timer may be due or a cascade necessary, which
// may be w.now. At least one timer must be armed.
func (w *wheel) next() uint32 {
	if near := bits.RotateLeft64(w.filled[0], -int(w.now&levelMask)); near != 0 {
		n := uint32(bits.TrailingZeros64(near))
		if n < levelSize-w.now&levelMask {
			return w.now + n
		}
	}
	return (w.now | levelMask) + 1
}

// Arm starts or restarts the timer of h. The timer ends after the given time, rounded up
// to a tenth of a second and limited to 3.4 years. Arm reports whether h is alive and
// the table has timers.
func (o *objects) Arm(h Handle, now, after time.Duration) bool {
	slot := o.slot(h)
	if slot == 0 || !o.config.Timers || o.heads.at(slot).state == Dead {
		return false
	}
	o.disarm(slot)
	if o.wheel.armed == 0 {
		o.wheel.now = uint32(now / tick)
	}
	o.timers.at(slot).due = uint32((now + min(after, maxTimer) + tick - 1) / tick)
	o.wheel.put(&o.timers, slot)
	return true
}

func (o *objects) disarm(slot uint32) {
	if o.config.Timers && o.timers.at(slot).where != 0 {
		o.wheel.take(&o.timers, slot)
	}
}

// Deadline returns when the timer of h ends, to a tenth of a second; ok is false if the
// timer is not armed.
func (o *objects) Deadline(h Handle) (at time.Duration, ok bool) {
	slot := o.slot(h)
	if slot == 0 || !o.config.Timers || o.timers.at(slot).where == 0 {
		return 0, false
	}
	return time.Duration(o.timers.at(slot).due) * tick, true
}

// Expired fills batch with the handles of objects whose timers have ended, and disarms
// the timers. A step takes bounded time; if more is true the caller should call again at
// once, even after an empty batch.
func (o *objects) Expired(now time.Duration, batch []Handle) (n int, more bool) {
	w, until := &o.wheel, uint32(now/tick)
	budget := len(batch) * scanFactor
	for w.armed > 0 && int32(until-w.now) >= 0 {
		if !w.cascade(&o.timers, &budget) {
			return n, true
		}
		for b := w.now & levelMask; w.heads[b] != 0; n++ {
			if n == len(batch) {
				return n, true
			}
			slot := w.heads[b]
			w.take(&o.timers, slot)
			batch[n] = o.handle(slot)
		}
		if w.now == until || w.armed == 0 {
			break
		}
		// Empty ticks cost nothing, but a cascade may be due at the beginning of
		// each round.
		w.now++
		if w.now&levelMask != 0 {
			w.now = min(w.now+(w.next()-w.now), w.now+(until-w.now))
		}
	}
	return n, false
}

// NextExpiry returns when to call Expired next; ok is false if no timer is armed. The
// time may be early, by no more than the span of the lowest level (6.4 s).
func (o *objects) NextExpiry() (at time.Duration, ok bool) {
	if o.wheel.armed == 0 {
		return 0, false
	}
	return time.Duration(o.wheel.next()) * tick, true
}
