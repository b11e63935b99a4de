package proto

import (
	"time"

	"ctbox/sync/wire"
)

// Class is the kind of a flow that has a delay of its own.
type Class uint8

// The classes.
const (
	ClassTCP Class = iota
	ClassUDP
	ClassOther
	Classes
)

// A waiting object is in the list of its class, in which all have the same delay, so a list
// is in the order in which its objects become due. An object is in one list at most and a
// waiting one has no sequence number, so waiting takes no memory of its own: the
// element holds the time at which the wait began in the place of the number.

// waitTick is the unit of that time. Objects that become due within one leave together.
const waitTick = 100 * time.Millisecond

// SetDelays sets how long objects wait, those that do already included.
func (q *queues) SetDelays(d [Classes]time.Duration) { q.delays = d }

// Wait is Changed for an object that has just begun: it is not sent before the delay of its
// class has passed or Changed is called, and not at all if it is Deleted before. It does
// not wait if the class has no delay, if it is queued already, or if the peers may hold an
// earlier object in its place. Bulks leave waiting objects out.
func (q *queues) Wait(now time.Duration, o Object, c Class) {
	i, e := q.object(o)
	if q.delays[c] <= 0 || e.held || e.queue != unqueued && !e.waits() {
		q.Changed(o)
		return
	}
	q.setDead(i, e, false)
	q.remove(i, e)
	e.seq = wire.Seq((now + waitTick - 1) / waitTick)
	q.append(&q.waiting[c], i, e)
}

// Waits reports whether o is waiting.
func (q *queues) Waits(o Object) bool {
	_, e := q.object(o)
	return e.waits()
}

func (e *element) waits() bool { return e.queue >= waiting }

// NextWaited returns an object whose delay has passed. The owner calls Changed for it, and
// calls NextWaited at the Deadline until it returns false.
func (q *queues) NextWaited(now time.Duration) (Object, bool) {
	for c := range q.waiting {
		if i := q.waiting[c].head; i != none && q.waited(c) <= now {
			return q.named(i, q.at(i)), true
		}
	}
	return Object{}, false
}

// waited returns when the first object of a list, which is not empty, has waited.
func (q *queues) waited(c int) time.Duration {
	return time.Duration(q.at(q.waiting[c].head).seq)*waitTick + q.delays[c]
}

// waitDeadline returns when NextWaited has an object.
func (q *queues) waitDeadline() time.Duration {
	due := None
	for c := range q.waiting {
		if q.waiting[c].len > 0 {
			due = min(due, q.waited(c))
		}
	}
	return due
}

// waitingLen returns how many objects wait.
func (q *queues) waitingLen() (n int) {
	for c := range q.waiting {
		n += q.waiting[c].len
	}
	return n
}

// unsent notes that the peers do not hold o after all.
func (q *queues) unsent(o Object) {
	_, e := q.object(o)
	e.held = false
}
