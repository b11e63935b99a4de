package logging

import (
	"sync"
	"time"
)

// spool buffers lines for a destination that may block: a hung disk or file server, a pipe
// whose reader does not read, a system logger that hangs. add never blocks, because its caller
// may hold the node's lock. A goroutine writes; lines that do not fit into the buffer are
// counted and dropped.
type spool struct {
	room  int // size of the buffer in bytes
	write func(b *batch, lost uint64)
	close func()

	mu      sync.Mutex
	changed sync.Cond // with mu: pending, lost, busy or ended changed
	pending batch
	lost    uint64 // lines dropped since the last report
	busy    bool   // a batch is being written
	ended   bool

	done chan struct{} // closed after everything is written and the destination is closed
}

// batch is lines in one buffer.
type batch struct {
	text  []byte
	lines []line
}

// line is the end of a line in its batch's text, with its time and severity.
type line struct {
	end      int
	at       time.Time
	severity uint8
}

// newSpool starts a spool. Its goroutine calls write with a batch and the number of lines that
// were dropped after it, and close at the end.
func newSpool(room int, write func(b *batch, lost uint64), close func()) *spool {
	s := &spool{room: room, write: write, close: close, done: make(chan struct{})}
	s.changed.L = &s.mu
	go s.run()
	return s
}

// add buffers a copy of a line, or counts it as lost. first reports that this line is the first
// that is lost since the last write.
func (s *spool) add(at time.Time, severity uint8, text []byte) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if len(s.pending.text)+len(text) > s.room {
		s.lost++
		return s.lost == 1
	}
	s.pending.text = append(s.pending.text, text...)
	s.pending.lines = append(s.pending.lines, line{len(s.pending.text), at, severity})
	s.changed.Broadcast()
	return false
}

func (s *spool) run() {
	defer close(s.done)
	var work batch
	for {
		s.mu.Lock()
		s.busy = false
		s.changed.Broadcast()
		for len(s.pending.lines) == 0 && s.lost == 0 && !s.ended {
			s.changed.Wait()
		}
		work, s.pending = s.pending, batch{work.text[:0], work.lines[:0]}
		lost := s.lost
		s.lost, s.busy = 0, true
		s.mu.Unlock()
		if len(work.lines) == 0 && lost == 0 {
			break
		}
		s.write(&work, lost)
	}
	s.close()
}

// flush waits until everything is written, at most patience.
func (s *spool) flush(patience time.Duration) {
	late := false
	timer := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.changed.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for (len(s.pending.lines) > 0 || s.lost > 0 || s.busy) && !late && !s.ended {
		s.changed.Wait()
	}
}

// end makes the goroutine write the buffered lines and close the destination. It does not wait
// for that.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.changed.Broadcast()
}

// wait waits until the destination is closed, at most patience. Lines that a blocked
// destination has not accepted by then are lost.
func (s *spool) wait(patience time.Duration) {
	select {
	case <-s.done:
	case <-time.After(patience):
	}
}

// each calls f for every line of b.
func (b *batch) each(f func(l line, text []byte)) {
	begin := 0
	for _, l := range b.lines {
		f(l, b.text[begin:l.end])
		begin = l.end
	}
}
