package proto

import (
	"math/bits"

	"ctbox/sync/wire"
)

// blockLg is how many sequence numbers share an entry of the index, as a power of two.
const blockLg = 5

// seqIndex finds elements of the resend queue by sequence number, so that an
// acknowledgement in the middle of a long queue costs no walk. It divides the sequence
// numbers into blocks and holds the first queued element of each. The blocks form a ring:
// an old block, which the peer has never acknowledged, is overwritten by a newer one. There
// are few such elements.
type seqIndex struct {
	ring   []id
	newest wire.Seq // the last number added
}

// resizeIndex makes room for the numbers of two full resend queues and indexes the queue.
func (q *queues) resizeIndex(limit int) {
	blocks := max(1, 2*limit>>blockLg)
	q.index.ring = make([]id, 1<<bits.Len(uint(blocks-1)))
	for i := range q.index.ring {
		q.index.ring[i] = none
	}
	for i := q.resend.head; i != none; i = q.at(i).next {
		q.index.add(q, i)
	}
}

func blockOf(s wire.Seq) uint32 { return uint32(s) >> blockLg }

// span returns the number of blocks between two numbers, also across the wrap-around.
func span(oldest, newest wire.Seq) uint32 {
	return (blockOf(newest) - blockOf(oldest)) & (1<<(32-blockLg) - 1)
}

func (x *seqIndex) place(block uint32) *id { return &x.ring[block&uint32(len(x.ring)-1)] }

// add indexes an element that was appended to the resend queue.
func (x *seqIndex) add(q *queues, i id) {
	x.newest = q.at(i).seq
	block := blockOf(x.newest)
	if p := x.place(block); *p == none || blockOf(q.at(*p).seq) != block {
		*p = i
	}
}

// drop removes an element that is about to leave the resend queue.
func (x *seqIndex) drop(q *queues, i id, e *element) {
	block := blockOf(e.seq)
	p := x.place(block)
	if *p != i {
		return
	}
	*p = none
	if e.next != none && blockOf(q.at(e.next).seq) == block {
		*p = e.next
	}
}

// find returns the first element of the resend queue with the number from or a later one,
// or the id none.
func (q *queues) find(from wire.Seq) id {
	l := &q.resend
	if l.head == none || q.at(l.tail).seq.Before(from) {
		return none
	}
	if !q.at(l.head).seq.Before(from) {
		return l.head
	}
	i := none
	if span(from, q.index.newest) < uint32(len(q.index.ring)) {
		// No block from here on was overwritten, and at least one has an element.
		for block := blockOf(from); i == none; block++ {
			i = *q.index.place(block)
		}
	} else {
		i = l.head
	}
	for q.at(i).seq.Before(from) {
		i = q.at(i).next
	}
	return i
}
