package logging

import (
	"sync"
	"time"
)

// spool passes lines on to a destination that may stand still: a hung disk or file
// server, a pipe whose reader sleeps, a logger that does not read. The caller may
// hold the node's lock, so add never waits. A goroutine writes; lines that find the
// buffer full are counted and dropped.
type spool struct {
	room  int // bytes of text that may wait
	write func(b *batch, lost uint64)
	close func()

	mu      sync.Mutex
	changed sync.Cond // with mu: there is something to do, or nothing any more
	pending batch
	lost    uint64 // lines dropped since the last report
	busy    bool   // a batch is being written
	ended   bool

	done chan struct{} // closed when all is written and the destination is closed
}

// batch is lines in one buffer.
type batch struct {
	text  []byte
	lines []line
}

// line is where a line of a batch ends in its text, and what else is known of it.
type line struct {
	end      int
	at       time.Time
	severity uint8
}

// newSpool starts a spool. Its goroutine calls write with a batch and with how many
// lines behind those found no room, and close at the end.
func newSpool(room int, write func(b *batch, lost uint64), close func()) *spool {
	s := &spool{room: room, write: write, close: close, done: make(chan struct{})}
	s.changed.L = &s.mu
	go s.run()
	return s
}

// add takes a copy of a line, or counts it as lost. first reports that it is the first
// that is lost since the destination last took some.
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

// flush waits until everything is written, but not longer than patience.
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

// end has what was added written and the destination closed, without waiting for it.
func (s *spool) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.changed.Broadcast()
}

// wait waits for that, but not longer than patience: a destination that stands still
// loses what it did not take.
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
