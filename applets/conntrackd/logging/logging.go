// Package logging is conntrackd's log: lines in a file, to syslog and on the
// console, in the format of conntrack-tools (sheet section 6.2), behind a
// slog.Handler. No failure of a destination is one of the daemon: what could not
// be written is counted, and said where and when that is possible again.
package logging

import (
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"ctbox/internal/slog"
	"ctbox/sync/node"
)

// Log is the daemon's log. A new one writes to the console only; Open adds the
// file and syslog, and CloseConsole takes the console away. It may be used by
// several goroutines.
type Log struct {
	mu  sync.Mutex
	buf []byte
	pid int
	out io.Writer // console: info and notice; nil without console
	err io.Writer // console: warnings and errors
	outputs
}

// outputs are where lines go besides the console.
type outputs struct {
	file   *File   // nil without
	syslog *Syslog // nil without
}

func (o outputs) close() {
	if o.file != nil {
		o.file.Close()
	}
	if o.syslog != nil {
		o.syslog.Close()
	}
}

// New returns a log to the console. Info and notices go to out, the rest to err.
func New(out, err io.Writer) *Log {
	return &Log{pid: os.Getpid(), out: out, err: err}
}

// Open adds destinations: a file, unless its name is empty, and syslog, unless
// facility is 0. The error is that of the file; syslog is looked for when there
// is something to tell it.
func (l *Log) Open(name string, facility uint8) error {
	p, err := Prepare(name, facility)
	if err == nil {
		l.Use(p)
	}
	return err
}

// Prepared is destinations that are open and not in use yet.
type Prepared struct{ outputs }

// Prepare opens destinations as Open does, for Use.
func Prepare(name string, facility uint8) (*Prepared, error) {
	p := &Prepared{}
	if name != "" {
		file, err := OpenFile(name)
		if err != nil {
			return nil, err
		}
		p.file = file
	}
	if facility != 0 {
		p.syslog = NewSyslog(facility)
	}
	return p, nil
}

// Close closes what is not to be used after all.
func (p *Prepared) Close() { p.close() }

// Use puts destinations in the place of those that there are, and closes these.
func (l *Log) Use(p *Prepared) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
	l.outputs = p.outputs
}

// Quiet ends output of info and notices to the console; errors stay.
func (l *Log) Quiet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = nil
}

// CloseConsole ends output to the console.
func (l *Log) CloseConsole() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out, l.err = nil, nil
}

// Reopen opens the file anew by its name, after it was moved away, say. If that
// fails the log goes on in the old one and says so.
func (l *Log) Reopen() {
	if err := l.reopen(); err != nil {
		slog.New(l).Error("can't reopen logfile: " + err.Error())
	}
}

func (l *Log) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Reopen()
}

// Close closes file and syslog.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.close()
	l.outputs = outputs{}
}

// levels are the names of the levels in lines, and syslog's severities.
var levels = [...]struct {
	from     slog.Level
	name     string
	severity uint8
}{
	{slog.LevelError, "ERROR", severityError},
	{slog.LevelWarn, "warning", severityWarning},
	{node.LevelNotice, "notice", severityNotice},
	{slog.LevelInfo, "info", severityInfo},
}

// Enabled implements slog.Handler: everything from info on is logged.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler. An attribute node.EntryKey becomes a line of
// its own; others follow the message as key=value. Line breaks within a message
// become spaces: a record is a line.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	level := levels[len(levels)-1]
	for _, known := range levels {
		if r.Level >= known.from {
			level = known
			break
		}
	}
	text := strings.TrimRight(r.Message, "\n")
	entry := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == node.EntryKey {
			entry = a.Value.String()
		} else {
			text += " " + a.String()
		}
		return true
	})
	text = strings.ReplaceAll(text, "\n", " ")

	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = appendLine(l.buf[:0], r.Time, l.pid, level.name, text)
	if console := l.console(r.Level); console != nil {
		console.Write(l.buf)
	}
	if entry != "" {
		l.buf = AppendEntryLine(l.buf, r.Time, []byte(entry))
	}
	if l.file != nil {
		before := l.file.Lost()
		l.file.Write(l.buf)
		if before == 0 && l.file.Lost() > 0 {
			l.sayFull(r.Time)
		}
	}
	if l.syslog != nil {
		l.syslog.Send(level.severity, r.Time, []byte(text))
		if entry != "" {
			l.syslog.Send(level.severity, r.Time, []byte(entry))
		}
	}
	return nil
}

// sayFull tells the other destinations that the file takes no more lines.
func (l *Log) sayFull(at time.Time) {
	const text = "can't write to the logfile, lines are lost"
	if l.err != nil {
		l.err.Write(appendLine(nil, at, l.pid, "ERROR", text))
	}
	if l.syslog != nil {
		l.syslog.Send(severityError, at, []byte(text))
	}
}

// console returns where a level goes on the console, or nil.
func (l *Log) console(level slog.Level) io.Writer {
	if level >= slog.LevelWarn {
		return l.err
	}
	return l.out
}

// ctime is the time format of ctime(3).
const ctime = "Mon Jan _2 15:04:05 2006"

func appendLine(dst []byte, at time.Time, pid int, level, text string) []byte {
	dst = at.AppendFormat(append(dst, '['), ctime)
	dst = strconv.AppendInt(append(dst, "] (pid="...), int64(pid), 10)
	dst = append(append(append(dst, ") ["...), level...), "] "...)
	return append(append(dst, text...), '\n')
}

// AppendEntryLine appends a line that is an entry of a table: its time, a tab,
// the entry.
func AppendEntryLine(dst []byte, at time.Time, entry []byte) []byte {
	dst = append(at.AppendFormat(dst, ctime), '\t')
	return append(append(dst, entry...), '\n')
}
