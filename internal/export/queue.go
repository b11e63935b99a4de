package export

import (
	"encoding/binary"
	"sync"
)

// queue holds encoded records until they are sent. add never waits: when the queue has its most
// records, the oldest one gives way and is counted. The records stand one after the other in
// chunks, which come and go with the queue's length.
type queue struct {
	limit int // records
	// A reader that sleeps is woken for the first record, to begin its linger, and when wake
	// records have gathered.
	wake  int
	ready chan struct{}

	mu     sync.Mutex
	chunks [][]byte // the reader's is the first, the writer's the last
	spare  []byte
	head   int // where the oldest record begins in the first chunk
	n      int
	thrown uint64
	added  uint64
	closed bool
}

const (
	chunkSize   = 64 << 10
	entryHeader = 6 // the length of the record and its template id
)

func newQueue(limit int) *queue {
	return &queue{limit: limit, wake: min(max(limit/8, 1), 1024), ready: make(chan struct{}, 1)}
}

// add appends a copy of a record.
func (q *queue) add(id uint16, record []byte) {
	q.mu.Lock()
	q.added++
	if q.n >= q.limit {
		q.drop()
		q.thrown++
	}
	need := entryHeader + len(record)
	last := len(q.chunks) - 1
	if last < 0 || len(q.chunks[last])+need > cap(q.chunks[last]) {
		chunk := q.spare
		q.spare = nil
		if cap(chunk) < need {
			chunk = make([]byte, 0, max(chunkSize, need))
		}
		q.chunks = append(q.chunks, chunk[:0])
		last++
	}
	c := q.chunks[last]
	c = binary.NativeEndian.AppendUint32(c, uint32(len(record)))
	c = binary.NativeEndian.AppendUint16(c, id)
	q.chunks[last] = append(c, record...)
	q.n++
	tell := q.n == 1 || q.n == q.wake
	q.mu.Unlock()
	if tell {
		q.signal()
	}
}

func (q *queue) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// first returns the oldest record. There must be one.
func (q *queue) first() (id uint16, record []byte) {
	b := q.chunks[0][q.head:]
	n := int(binary.NativeEndian.Uint32(b))
	return binary.NativeEndian.Uint16(b[4:]), b[entryHeader : entryHeader+n]
}

// drop removes the oldest record. There must be one.
func (q *queue) drop() {
	_, record := q.first()
	q.head += entryHeader + len(record)
	q.n--
	if q.head < len(q.chunks[0]) {
		return
	}
	q.head = 0
	q.spare = q.chunks[0]
	q.chunks[0] = nil
	if q.chunks = q.chunks[1:]; len(q.chunks) == 0 {
		q.chunks = nil
	}
}

// take removes records, oldest first, as long as each accepts them.
func (q *queue) take(each func(id uint16, record []byte) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n > 0 {
		if id, record := q.first(); !each(id, record) {
			return
		}
		q.drop()
	}
}

// state returns how many records wait, were thrown away and were added.
func (q *queue) state() (waiting int, thrown, added uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n, q.thrown, q.added
}

// close lets the reader end when it has taken all records.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *queue) ended() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}
