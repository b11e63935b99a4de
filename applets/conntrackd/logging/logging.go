// Package logging is conntrackd's log: lines in a file, to syslog and on the
// console, in the format of conntrack-tools (sheet section 6.2) or as JSON, behind a
// slog.Handler. No failure of a destination is one of the daemon: what could not
// be written is counted, and said where and when that is possible again.
package logging

import (
	"context"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ctbox/internal/slog"
)

// Log is the daemon's log. A new one writes to the console only; Open adds the
// file and syslog, and CloseConsole takes the console away. It may be used by
// several goroutines.
type Log struct {
	mu      sync.Mutex
	buf     []byte
	out     io.Writer // console: info and notice; nil without console
	err     io.Writer // console: warnings and errors
	lost    uint64    // lines that the console did not take since the last that it did
	repeats repeats
	outputs
}

// outputs are where lines go besides the console, and how they look.
type outputs struct {
	format Format
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
	return &Log{out: out, err: err}
}

// patience is that of the log's File: the daemon waits meanwhile.
const patience = 50 * time.Millisecond

// Destinations are where a log goes besides the console.
type Destinations struct {
	File   string // "" for none
	Syslog uint8  // the facility with the number of syslog(3), 0 for none
	// Format is that of the file and the console. Syslog gets text.
	Format Format
}

// Open adds destinations. The error is that of the file; syslog is looked for when
// there is something to tell it.
func (l *Log) Open(d Destinations) error {
	p, err := Prepare(d)
	if err == nil {
		l.Use(p)
	}
	return err
}

// Prepared is destinations that are open and not in use yet.
type Prepared struct{ outputs }

// Prepare opens destinations as Open does, for Use.
func Prepare(d Destinations) (*Prepared, error) {
	p := &Prepared{outputs{format: d.Format}}
	if d.File != "" {
		file, err := OpenFile(d.File, patience)
		if err != nil {
			return nil, err
		}
		file.format = d.Format
		p.file = file
	}
	if d.Syslog != 0 {
		p.syslog = NewSyslog(d.Syslog)
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

// Close writes what was held back and closes file and syslog.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeats.ended(time.Now(), true, l.write)
	l.close()
	l.outputs = outputs{format: l.format}
}

// Enabled implements slog.Handler: everything from info on is logged.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler. An attribute node.EntryKey becomes a line of
// its own; others follow the message as key=value. Line breaks within a message
// become spaces: a record is a line. What is said again and again is held back, see
// repeatMost.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	rec := recordOf(&r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeats.ended(rec.at, false, l.write)
	write, held := l.repeats.admit(&rec)
	if held {
		time.AfterFunc(repeatPeriod, l.sayRepeated)
	}
	if write {
		l.write(&rec)
	}
	return nil
}

// sayRepeated writes what was held back, when nobody says anything else.
func (l *Log) sayRepeated() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeats.ended(time.Now(), false, l.write)
}

// write writes r everywhere. The lock is held.
func (l *Log) write(r *record) {
	if console := l.console(r.level.from); console != nil {
		l.buf = r.append(l.buf[:0], l.format)
		l.show(console, l.buf)
	}
	if l.file != nil {
		l.buf = r.appendWithEntry(l.buf[:0], l.format)
		before := l.file.Lost()
		l.file.Write(l.buf)
		if before == 0 && l.file.Lost() > 0 {
			l.sayFull(r.at)
		}
	}
	if l.syslog != nil {
		l.syslog.Send(r.level.severity, r.at, []byte(r.message()))
		if r.entry != "" {
			l.syslog.Send(r.level.severity, r.at, []byte(r.entry))
		}
	}
}

// show writes a line to the console, unless its reader (a journal that hangs, a
// pager) is asleep and there is no room: the daemon does not wait for that. The lock
// is held.
func (l *Log) show(console io.Writer, line []byte) {
	wait := patience
	if l.lost > 0 {
		wait /= 50
	}
	if file, ok := console.(*os.File); ok && !hasRoom(file, wait) {
		l.lost++
		return
	}
	if l.lost > 0 {
		note := record{at: time.Now(), level: levels[1],
			text: strconv.FormatUint(l.lost, 10) + " lines were lost: the console could not be written"}
		console.Write(note.append(nil, l.format))
		l.lost = 0
	}
	console.Write(line)
}

// hasRoom reports whether a write of some lines to a pipe, a socket or a terminal
// would not wait longer than that for its reader. Their files are shared with others,
// so that they can't be made non-blocking.
func hasRoom(file *os.File, wait time.Duration) bool {
	raw, err := file.SyscallConn()
	if err != nil {
		return true
	}
	room := true
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, int(wait/time.Millisecond))
		for err == unix.EINTR {
			n, err = unix.Poll(fds, int(wait/time.Millisecond))
		}
		room = err != nil || n > 0
	})
	return room
}

// sayFull tells the other destinations that the file takes no more lines.
func (l *Log) sayFull(at time.Time) {
	r := record{at: at, level: levels[0], text: "can't write to the logfile, lines are lost"}
	if l.err != nil {
		l.show(l.err, r.append(nil, l.format))
	}
	if l.syslog != nil {
		l.syslog.Send(r.level.severity, at, []byte(r.text))
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
