package logging

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// FlowLog writes statistics mode's lines about ended flows to a file, to syslog, or to both.
// Add never blocks; a spool's goroutine writes the lines.
type FlowLog struct {
	log      *slog.Logger
	name     string // of the file; "" without a file
	facility uint8

	mu    sync.Mutex
	spool *spool
}

// flowLogRoom is the size of the buffer in bytes: some ten thousand flows.
const flowLogRoom = 4 << 20

// flowLogPatience is how long the log's goroutine waits for the reader of a pipe, and Close for
// a disk that blocks.
const flowLogPatience = 5 * time.Second

// OpenFlowLog opens the log: a file, unless its name is empty, and syslog, unless
// facility is 0. Later errors are written to log.
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
	return newSpool(flowLogRoom, w.write, w.end), nil
}

// Add logs a flow that ended at the given time. The line is copied.
func (l *FlowLog) Add(at time.Time, entry []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spool.add(at, severityInfo, entry)
}

// Reopen opens the file again by its name. If that fails, the error is logged and the old
// file stays in use.
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

// Close writes the buffered lines and closes the log. It waits at most flowLogPatience for a
// disk that blocks.
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
	file   *File   // nil without a file
	syslog *Syslog // nil without syslog
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

func (w *flowWriter) end() {
	if w.file != nil {
		w.file.Close()
	}
	if w.syslog != nil {
		w.syslog.Close()
	}
}
