package logging

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// FlowLog writes statistics mode's lines of ended flows to a file, to syslog, or
// to both. Add hands a line over and never waits; a spool's goroutine writes.
type FlowLog struct {
	log      *slog.Logger
	name     string // of the file; "" without
	facility uint8

	mu    sync.Mutex
	spool *spool
}

// flowLogRoom is how many bytes of text may wait for a slow disk: some ten
// thousand flows.
const flowLogRoom = 4 << 20

// flowLogPatience is how long the log's goroutine waits for the reader of a pipe, and
// the log's end for a disk that stands still.
const flowLogPatience = 5 * time.Second

// OpenFlowLog opens the log: a file, unless its name is empty, and syslog, unless
// facility is 0. What goes wrong later is written to log.
func OpenFlowLog(name string, facility uint8, log *slog.Logger) (*FlowLog, error) {
	l := &FlowLog{log: log, name: name, facility: facility}
	var err error
	l.spool, err = l.open()
	return l, err
}

func (l *FlowLog) open() (*spool, error) {
	w := &flowWriter{log: l.log}
	if l.name != "" {
		file, err := OpenFile(l.name, flowLogPatience)
		if err != nil {
			return nil, err
		}
		w.file = file
	}
	if l.facility != 0 {
		w.syslog = NewSyslog(l.facility)
	}
	return newSpool(flowLogRoom, w.write, w.close), nil
}

// Add takes the line of a flow that ended at that time. The line is copied.
func (l *FlowLog) Add(at time.Time, entry []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spool.add(at, severityInfo, entry)
}

// Reopen opens the file anew by its name. If that fails the log goes on in the old one
// and says so.
func (l *FlowLog) Reopen() {
	if l.name == "" {
		return
	}
	renewed, err := l.open()
	if err != nil {
		l.log.Error("can't reopen stats logfile: " + l.name + ": " + err.Error())
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spool.end()
	l.spool = renewed
}

// Close writes what was added and closes the log. It waits for a disk that stands
// still, but not for long.
func (l *FlowLog) Close() {
	l.mu.Lock()
	s := l.spool
	l.mu.Unlock()
	s.end()
	s.wait(flowLogPatience)
}

// flowWriter writes the batches of a FlowLog.
type flowWriter struct {
	log    *slog.Logger
	file   *File   // nil without
	syslog *Syslog // nil without
	out    []byte
}

func (w *flowWriter) write(b *batch, lost uint64) {
	w.out = w.out[:0]
	b.each(func(l line, entry []byte) {
		if w.file != nil {
			w.out = AppendEntryLine(w.out, l.at, entry)
		}
		if w.syslog != nil {
			w.syslog.deliver(l.severity, l.at, entry)
		}
	})
	if w.file != nil && len(w.out) > 0 {
		before := w.file.Lost()
		w.file.Write(w.out)
		if w.file.Lost() > 0 && before == 0 {
			w.log.Error("can't write to stats logfile")
		}
	}
	if lost > 0 {
		w.log.Warn(fmt.Sprintf("%d flows are missing in the stats log: it could not be written as fast as they ended", lost))
	}
}

func (w *flowWriter) close() {
	if w.file != nil {
		w.file.Close()
	}
	if w.syslog != nil {
		w.syslog.Close()
	}
}
