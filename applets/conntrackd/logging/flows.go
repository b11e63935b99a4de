package logging

import (
	"fmt"
	"sync"
	"time"

	"ctbox/internal/slog"
)

// FlowLog writes statistics mode's lines of ended flows to a file, to syslog, or
// to both. Add hands a line over and never waits; a goroutine writes.
type FlowLog struct {
	log    *slog.Logger
	file   *File   // nil without
	syslog *Syslog // nil without

	mu      sync.Mutex
	changed sync.Cond
	pending batch
	lost    uint64 // lines that found no room
	reopen  bool
	closed  bool

	done chan struct{} // closed when all is written
}

// batch is lines in one buffer.
type batch struct {
	text  []byte
	lines []line
}

type line struct {
	at  time.Time
	end int // of the line in text
}

// flowLogRoom is how many bytes of text may wait for a slow disk: some ten
// thousand flows.
const flowLogRoom = 4 << 20

// flowLogPatience is that of a File: nothing but the log's own goroutine waits.
const flowLogPatience = 5 * time.Second

// OpenFlowLog opens the log: a file, unless its name is empty, and syslog, unless
// facility is 0. What goes wrong later is told to log.
func OpenFlowLog(name string, facility uint8, log *slog.Logger) (*FlowLog, error) {
	l := &FlowLog{log: log, done: make(chan struct{})}
	l.changed.L = &l.mu
	if name != "" {
		file, err := OpenFile(name, flowLogPatience)
		if err != nil {
			return nil, err
		}
		l.file = file
	}
	if facility != 0 {
		l.syslog = NewSyslog(facility)
	}
	go l.write()
	return l, nil
}

// Add takes the line of a flow that ended at that time. The line is copied.
func (l *FlowLog) Add(at time.Time, entry []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending.text)+len(entry) > flowLogRoom {
		l.lost++
		return
	}
	l.pending.text = append(l.pending.text, entry...)
	l.pending.lines = append(l.pending.lines, line{at, len(l.pending.text)})
	l.changed.Signal()
}

// Reopen opens the file anew by its name, before the next line.
func (l *FlowLog) Reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reopen = true
	l.changed.Signal()
}

// Close writes what was added and closes the log.
func (l *FlowLog) Close() {
	l.mu.Lock()
	l.closed = true
	l.changed.Signal()
	l.mu.Unlock()
	<-l.done
}

// write is the goroutine that writes.
func (l *FlowLog) write() {
	defer close(l.done)
	var work batch
	var out []byte
	for {
		l.mu.Lock()
		for len(l.pending.lines) == 0 && !l.reopen && !l.closed {
			l.changed.Wait()
		}
		work, l.pending = l.pending, batch{work.text[:0], work.lines[:0]}
		lost, reopen, closed := l.lost, l.reopen, l.closed
		l.lost, l.reopen = 0, false
		l.mu.Unlock()

		if reopen && l.file != nil {
			if err := l.file.Reopen(); err != nil {
				l.log.Error("can't reopen stats logfile: " + err.Error())
			}
		}
		out = l.writeBatch(out[:0], &work)
		if lost > 0 {
			l.log.Warn(fmt.Sprintf("%d flows are missing in the stats log: it could not be written as fast as they ended", lost))
		}
		if closed && len(work.lines) == 0 {
			break
		}
	}
	if l.file != nil {
		l.file.Close()
	}
	if l.syslog != nil {
		l.syslog.Close()
	}
}

func (l *FlowLog) writeBatch(out []byte, b *batch) []byte {
	begin := 0
	for _, line := range b.lines {
		entry := b.text[begin:line.end]
		begin = line.end
		if l.file != nil {
			out = AppendEntryLine(out, line.at, entry)
		}
		if l.syslog != nil {
			l.syslog.Send(severityInfo, line.at, entry)
		}
	}
	if l.file != nil && len(out) > 0 {
		before := l.file.Lost()
		l.file.Write(out)
		if lost := l.file.Lost(); lost > 0 && before == 0 {
			l.log.Error("can't write to stats logfile")
		}
	}
	return out
}
