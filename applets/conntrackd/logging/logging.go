// Package logging is conntrackd's log: a slog.Handler that writes lines to a file, to syslog
// and to the console, in the format of conntrack-tools or as JSON. A destination that fails
// or blocks neither stops nor delays the daemon: lines that could not be written are counted,
// and the count is logged when a destination accepts lines again.
package logging

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"ctbox/internal/loglimit"
)

// Log is the daemon's log. A new Log writes to the console only, synchronously. Open adds the
// file and syslog; from then on each destination, including the console, has a buffer and a
// goroutine (spool), and logging does not block. CloseConsole removes the console. A Log is
// safe for use by several goroutines.
type Log struct {
	repeats *loglimit.Limit[key, record]

	mu      sync.Mutex
	buf     []byte
	out     io.Writer // console: info and notice; nil without console
	err     io.Writer // console: warnings and errors
	console *spool    // nil: written synchronously
	outputs
}

// outputs are the destinations besides the console, and the format of lines.
type outputs struct {
	format Format
	file   *fileSpool // nil without a file
	syslog *spool     // nil without syslog
}

// end closes the outputs in the background, after their buffered lines are written.
func (o outputs) end() {
	if o.file != nil {
		o.file.end()
	}
	if o.syslog != nil {
		o.syslog.end()
	}
}

// wait waits until the outputs are closed.
func (o outputs) wait(patience time.Duration) {
	if o.file != nil {
		o.file.wait(patience)
	}
	if o.syslog != nil {
		o.syslog.wait(patience)
	}
}

// New returns a log that writes to the console: info and notices to out, the rest to err.
func New(out, err io.Writer) *Log {
	l := &Log{out: out, err: err}
	l.repeats = loglimit.New[key](repeatMost, repeatPeriod, l.logRepeated)
	return l
}

const (
	// logRoom is the size of a destination's buffer in bytes: a few thousand lines.
	logRoom = 256 << 10
	// filePatience is how long a file's goroutine waits for the reader of a pipe.
	filePatience = time.Second
	// endPatience is how long closing the log waits for a destination.
	endPatience = time.Second
)

// Identical lines are limited, so that a peer that sends malformed messages or a kernel that
// refuses requests does not fill the disk: repeatMost of them are written within
// repeatPeriod, then the number of those that were suppressed. Lines about different entries
// are different.
const (
	repeatPeriod = 5 * time.Second
	repeatMost   = 10
)

// key identifies identical lines.
type key struct {
	severity       uint8
	message, entry string
}

// Destinations are the destinations of a log besides the console.
type Destinations struct {
	File   string // "" for none
	Syslog uint8  // the facility with the number of syslog(3), 0 for none
	// Format is that of the file and the console. Syslog gets text.
	Format Format
}

// Open adds destinations. An error is that of the file; the connection to syslog is opened
// for the first message.
func (l *Log) Open(d Destinations) error {
	p, err := Prepare(d)
	if err == nil {
		l.Use(p)
	}
	return err
}

// Prepared has destinations that are open but not in use yet.
type Prepared struct{ outputs }

// Prepare opens destinations as Open does, for Use.
func Prepare(d Destinations) (*Prepared, error) {
	p := &Prepared{outputs{format: d.Format}}
	if d.File != "" {
		file, err := OpenFile(d.File, filePatience)
		if err != nil {
			return nil, err
		}
		p.file = newFileSpool(file, d.Format)
	}
	if d.Syslog != 0 {
		p.syslog = newSyslogSpool(NewSyslog(d.Syslog))
	}
	return p, nil
}

// Close closes destinations that are not used.
func (p *Prepared) Close() { p.end() }

// Use replaces the current destinations by p and closes the old ones.
func (l *Log) Use(p *Prepared) {
	if p.file != nil {
		p.file.onLoss(l.logFull)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	l.outputs = p.outputs
	if l.console == nil && (l.out != nil || l.err != nil) {
		l.console = newConsoleSpool(l.out, l.err, p.format)
	}
}

// Quiet ends output of info and notices to the console; warnings and errors continue.
func (l *Log) Quiet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = nil
}

// CloseConsole ends output to the console, after the buffered lines are written or
// endPatience has passed.
func (l *Log) CloseConsole() {
	l.mu.Lock()
	console := l.console
	l.out, l.err, l.console = nil, nil, nil
	l.mu.Unlock()
	if console != nil {
		console.end()
		console.wait(endPatience)
	}
}

// Reopen opens the file again by its name, for example after it was renamed. If that fails,
// the error is logged and the old file stays in use.
func (l *Log) Reopen() {
	l.mu.Lock()
	old := l.file
	l.mu.Unlock()
	if old == nil {
		return
	}
	file, err := OpenFile(old.name, filePatience)
	if err != nil {
		slog.New(l).Error("can't reopen logfile: " + old.name + ": " + err.Error())
		return
	}
	renewed := newFileSpool(file, old.format)
	renewed.onLoss(l.logFull)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != old { // replaced by a reload meanwhile
		renewed.end()
		return
	}
	old.end()
	l.file = renewed
}

// Close writes the counts of suppressed lines and closes all destinations. It waits for a
// destination that blocks at most endPatience.
func (l *Log) Close() {
	l.repeats.Close()
	l.mu.Lock()
	old, console := l.outputs, l.console
	l.outputs, l.console = outputs{format: l.format}, nil
	l.mu.Unlock()
	old.end()
	if console != nil {
		console.end()
		console.wait(endPatience)
	}
	old.wait(endPatience)
}

// Flush waits until everything is written, at most endPatience per destination.
func (l *Log) Flush() {
	l.mu.Lock()
	spools := []*spool{l.console, l.syslog}
	if l.file != nil {
		spools = append(spools, l.file.spool)
	}
	l.mu.Unlock()
	for _, s := range spools {
		if s != nil {
			s.flush(endPatience)
		}
	}
}

// Enabled implements slog.Handler: levels from info on are logged.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// WithAttrs implements slog.Handler: attrs are added to every record.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler { return &withAttrs{l, attrs} }

// WithGroup implements slog.Handler. The format has no groups: attributes stay unchanged.
func (l *Log) WithGroup(string) slog.Handler { return l }

// withAttrs is a handler that adds attributes.
type withAttrs struct {
	log   *Log
	attrs []slog.Attr
}

func (h *withAttrs) Enabled(ctx context.Context, level slog.Level) bool {
	return h.log.Enabled(ctx, level)
}

func (h *withAttrs) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	r.AddAttrs(h.attrs...)
	return h.log.Handle(ctx, r)
}

func (h *withAttrs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &withAttrs{h.log, slices.Concat(h.attrs, attrs)}
}

func (h *withAttrs) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler. An attribute daemonlog.EntryKey becomes a line of
// its own; others follow the message as key=value. Line breaks within a message
// become spaces, so that a record is one line. Handle does not wait for a destination.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	rec := recordOf(&r)
	if l.repeats.Admit(key{rec.level.severity, rec.message(), rec.entry}, rec) {
		l.write(&rec)
	}
	return nil
}

// logRepeated writes how often a line was suppressed.
func (l *Log) logRepeated(r record, n uint64) {
	r.at, r.repeated = time.Now(), n
	l.write(&r)
}

// write passes r on to every destination.
func (l *Log) write(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil || l.err != nil {
		l.buf = r.appendTo(l.buf[:0], l.format)
		l.show(r, l.buf)
	}
	if l.file != nil {
		l.buf = r.appendWithEntry(l.buf[:0], l.format)
		if l.file.add(r.at, r.level.severity, l.buf) && l.file.losing.CompareAndSwap(false, true) {
			l.logFullLocked()
		}
	}
	if l.syslog != nil {
		l.syslog.add(r.at, r.level.severity, []byte(r.message()))
		if r.entry != "" {
			l.syslog.add(r.at, r.level.severity, []byte(r.entry))
		}
	}
}

// show writes a line to the console. The caller holds the lock.
func (l *Log) show(r *record, line []byte) {
	to := l.out
	if r.level.severity <= severityWarning {
		to = l.err
	}
	switch {
	case to == nil:
	case l.console != nil:
		l.console.add(r.at, r.level.severity, line)
	default:
		_, _ = to.Write(line)
	}
}

// logFull logs to the other destinations that lines for the file are lost.
func (l *Log) logFull() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logFullLocked()
}

// logFullLocked is logFull for a caller that holds the lock.
func (l *Log) logFullLocked() {
	r := record{at: time.Now(), level: levels[0], text: "can't write to the logfile, lines are lost"}
	l.show(&r, r.appendTo(nil, l.format))
	if l.syslog != nil {
		l.syslog.add(r.at, r.level.severity, []byte(r.text))
	}
}

// lostNote returns the record with the number of lines that a destination has lost.
func lostNote(n uint64, destination string) *record {
	return &record{at: time.Now(), level: levels[1],
		text: strconv.FormatUint(n, 10) + " lines were lost: " + destination + " could not be written"}
}

// newConsoleSpool returns a spool for the console.
func newConsoleSpool(out, err io.Writer, f Format) *spool {
	to := func(severity uint8) io.Writer {
		if severity <= severityWarning {
			return err
		}
		return out
	}
	return newSpool(logRoom, func(b *batch, lost uint64) {
		b.each(func(l line, text []byte) {
			if w := to(l.severity); w != nil {
				_, _ = w.Write(text)
			}
		})
		if lost > 0 && err != nil {
			_, _ = err.Write(lostNote(lost, "the console").appendTo(nil, f))
		}
	}, func() {})
}

// ctime is the time format of ctime(3).
const ctime = "Mon Jan _2 15:04:05 2006"

func appendLine(dst []byte, at time.Time, pid int, level, text string) []byte {
	dst = at.AppendFormat(append(dst, '['), ctime)
	dst = strconv.AppendInt(append(dst, "] (pid="...), int64(pid), 10)
	dst = append(append(append(dst, ") ["...), level...), "] "...)
	return append(append(dst, text...), '\n')
}

// AppendEntryLine appends a line with an entry of a table: time, tab, entry.
func AppendEntryLine(dst []byte, at time.Time, entry []byte) []byte {
	dst = append(at.AppendFormat(dst, ctime), '\t')
	return append(append(dst, entry...), '\n')
}
