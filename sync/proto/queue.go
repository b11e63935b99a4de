package proto

import (
	"time"

	"ctbox/sync/wire"
)

// id identifies an element: its table in the two top bits, its slot in the others.
type id uint32

const (
	none      id = 1<<32 - 1
	slotBits     = 30
	slotMask     = 1<<slotBits - 1
	segmentLg    = 10
	segment      = 1 << segmentLg
	segMask      = segment - 1
)

// controlTable holds the control messages, beside the owner's Flows and Expects.
const controlTable = 2

// queueName identifies the list that an element is in.
type queueName uint8

const (
	unqueued   queueName = iota
	transmit             // to be sent
	background           // to be sent when transmit is empty and the peer keeps up
	resend               // sent, until it is acknowledged
	released             // dead and no longer needed, for NextReleased
	free                 // an unused control message
	waiting              // not to be sent yet; one list for each Class
)

// element is the machine's state of an object or control message, with its links in a
// list. An object is in one list at most, once, so that its changes coalesce.
type element struct {
	prev, next id
	seq        wire.Seq // as last sent
	gen        uint32   // upper half of the owner's handle
	queue      queueName
	dead       bool
	inBulk     bool // the bulk's end waits for its acknowledgement
	held       bool // announced, and not ended since: the peer holds it
	withdrawn  bool // dead for the peers only; Stream
	silent     bool // in the cache, and not to be announced yet; Stream
}

// slab holds the elements of a table by slot. It grows by segments, so elements never move.
type slab [][]element

func (s *slab) at(slot uint32) *element {
	i := int(slot >> segmentLg)
	for i >= len(*s) {
		*s = append(*s, nil)
	}
	if (*s)[i] == nil {
		(*s)[i] = make([]element, segment)
	}
	return &(*s)[i][slot&segMask]
}

// list is a doubly linked list through elements.
type list struct {
	name       queueName
	head, tail id
	len        int
	controls   int // how many of them are control messages
	dead       int // how many are dead objects
}

// control is the content of a queued control message; its element has the same slot.
type control struct {
	flags    wire.Flags // without Hello and HelloBack
	from, to wire.Seq   // as the header has them
	number   uint64     // of a RESYNC, NACK, probe or bulk

	kind wire.StreamType // Stream, which sets no flags
}

// queues are the lists of a machine and the elements in them.
type queues struct {
	tables   [3]slab
	controls []control
	free     list // of control elements

	transmit, background, resend, released list

	waiting [Classes]list
	delays  [Classes]time.Duration

	index seqIndex // of resend; FTFW and Stream
	held  [2]int   // objects of each table that the peers hold once everything has arrived
}

func (q *queues) init() {
	for _, l := range []struct {
		list *list
		name queueName
	}{{&q.free, free}, {&q.transmit, transmit}, {&q.background, background}, {&q.resend, resend}, {&q.released, released}} {
		*l.list = list{name: l.name, head: none, tail: none}
	}
	for c := range q.waiting {
		q.waiting[c] = list{name: waiting + queueName(c), head: none, tail: none}
	}
}

func (q *queues) at(i id) *element { return q.tables[i>>slotBits].at(uint32(i) & slotMask) }

// object returns the element of o.
func (q *queues) object(o Object) (id, *element) {
	i := id(o.Table)<<slotBits | id(uint32(o.Handle)&slotMask)
	e := q.at(i)
	e.gen = uint32(o.Handle >> 32)
	return i, e
}

// named is the inverse of object.
func (q *queues) named(i id, e *element) Object {
	return Object{Table: Table(i >> slotBits), Handle: uint64(e.gen)<<32 | uint64(i&slotMask)}
}

func (i id) isControl() bool { return i>>slotBits == controlTable }

func (q *queues) control(i id) *control { return &q.controls[i&slotMask] }

func (q *queues) list(name queueName) *list {
	switch name {
	case transmit:
		return &q.transmit
	case background:
		return &q.background
	case resend:
		return &q.resend
	case released:
		return &q.released
	case free:
		return &q.free
	case unqueued:
		return nil
	}
	return &q.waiting[name-waiting]
}

// append appends the element, which is in no list, to l.
func (q *queues) append(l *list, i id, e *element) {
	e.queue, e.prev, e.next = l.name, l.tail, none
	if l.tail == none {
		l.head = i
	} else {
		q.at(l.tail).next = i
	}
	l.tail = i
	l.count(i, e, 1)
	if l.name == resend {
		q.index.add(q, i)
	}
}

func (l *list) count(i id, e *element, n int) {
	l.len += n
	if i.isControl() {
		l.controls += n
	}
	if e.dead {
		l.dead += n
	}
}

// setDead marks the element's object as dead or alive.
func (q *queues) setDead(i id, e *element, dead bool) {
	l := q.list(e.queue)
	if l != nil {
		l.count(i, e, -1)
	}
	e.dead = dead
	if l != nil {
		l.count(i, e, 1)
	}
}

// remove removes the element from its list, if it is in one.
func (q *queues) remove(i id, e *element) {
	l := q.list(e.queue)
	if l == nil {
		return
	}
	if l.name == resend {
		q.index.drop(q, i, e)
	}
	if e.prev == none {
		l.head = e.next
	} else {
		q.at(e.prev).next = e.next
	}
	if e.next == none {
		l.tail = e.prev
	} else {
		q.at(e.next).prev = e.prev
	}
	l.count(i, e, -1)
	e.queue = unqueued
}

// move moves the element from its list, if it is in one, to the end of l.
func (q *queues) move(l *list, i id, e *element) {
	q.remove(i, e)
	q.append(l, i, e)
}

// pop removes and returns the first element of l.
func (q *queues) pop(l *list) (id, *element, bool) {
	i := l.head
	if i == none {
		return none, nil, false
	}
	e := q.at(i)
	q.remove(i, e)
	return i, e, true
}

// queueControl appends a control message to the transmit queue.
func (q *queues) queueControl(c control) {
	i, e, ok := q.pop(&q.free)
	if !ok {
		i = controlTable<<slotBits | id(len(q.controls))
		q.controls = append(q.controls, control{})
		e = q.at(i)
	}
	*q.control(i) = c
	q.append(&q.transmit, i, e)
}

// queueAlive queues an ALIVE, unless so many control messages are queued already that
// nothing seems to leave.
func (q *queues) queueAlive() { q.announce(0) }

// announce queues an ALIVE, as a probe of that number unless it is 0.
func (q *queues) announce(probe uint32) {
	if q.transmit.controls < maxControls {
		q.queueControl(control{flags: wire.Alive, number: uint64(probe)})
	}
}

// fillProbe sets the number of a probe in the notice of an ALIVE.
func (c *control) fillProbe(n *wire.Notice) {
	if c.number != 0 {
		n.Has |= wire.HasProbe
		n.Probe = uint32(c.number)
	}
}

// done releases an element that is in no list and needs no further transmission: it frees
// a control message and returns a dead object to the owner.
func (q *queues) done(i id, e *element) {
	switch {
	case i.isControl():
		q.append(&q.free, i, e)
	case e.dead:
		q.append(&q.released, i, e)
	}
}

// Changed queues o, which is new, has changed or is to be announced again. An object that
// is already queued keeps its place. An object that was Deleted is alive again.
func (q *queues) Changed(o Object) {
	i, e := q.object(o)
	q.setDead(i, e, false)
	if e.queue != transmit {
		q.move(&q.transmit, i, e)
	}
}

// Deleted queues o's end, unless o was waiting. The owner keeps o's slot, and what it needs to
// encode the end, until NextReleased returns o.
func (q *queues) Deleted(o Object) {
	i, e := q.object(o)
	q.setDead(i, e, true)
	if e.waits() {
		q.move(&q.released, i, e)
		return
	}
	if e.queue != transmit {
		q.move(&q.transmit, i, e)
	}
}

// Dropped removes o, which the owner has removed without announcing its end, as a flush
// of the internal cache does. Its slot may be used again at once.
func (q *queues) Dropped(o Object) {
	i, e := q.object(o)
	q.remove(i, e)
	e.dead, e.held = false, false
}

// NextReleased returns an object that was Deleted and whose end needs no further
// transmission. The owner may use its slot again.
func (q *queues) NextReleased() (Object, bool) {
	i, e, ok := q.pop(&q.released)
	if !ok {
		return Object{}, false
	}
	e.dead, e.withdrawn = false, false
	return q.named(i, e), true
}

// Retire empties the queues of a machine whose place next takes. Dead objects, whose ends are not sent any more,
// come from NextReleased; waiting ones go on waiting in next, whose delays are set.
func (q *queues) Retire(next Machine) {
	for _, l := range []*list{&q.transmit, &q.background, &q.resend} {
		for i, e, ok := q.pop(l); ok; i, e, ok = q.pop(l) {
			q.done(i, e)
		}
	}
	for c := range q.waiting {
		for i, e, ok := q.pop(&q.waiting[c]); ok; i, e, ok = q.pop(&q.waiting[c]) {
			next.Wait(time.Duration(e.seq)*waitTick, q.named(i, e), Class(c))
		}
	}
}

// Queued reports whether o is to be sent, now or when there is room for a bulk.
func (q *queues) Queued(o Object) bool {
	_, e := q.object(o)
	return e.queue == transmit || e.queue == background
}

// Pending implements Machine.
func (q *queues) Pending() int { return q.transmit.len }

// setHeld records whether the peers hold an object once they have received all messages so far.
func (q *queues) setHeld(t Table, e *element, held bool) {
	switch {
	case held && !e.held:
		q.held[t]++
	case !held && e.held:
		q.held[t]--
	}
	e.held = held
}

// bulkRoom returns how many objects of a bulk may be sent now, for the limits of FTFWConfig and
// how often the room of a bulk was not enough. If none is unacknowledged there is room for one:
// acknowledgements of both nodes may always leave one control message unacknowledged.
//
// A bulk may fill the resend queue so far that an acknowledgement arrives before the queue is full,
// with room for changes meanwhile. That is halved after each bulk for which it was not enough.
func (q *queues) bulkRoom(window, limit, shrink int) int {
	most := max(1, min(max(bulkWindow, 4*window), limit-1)>>min(shrink, 30))
	room := most - q.resend.len
	if q.resend.len == q.resend.controls {
		return max(1, room)
	}
	return room
}
