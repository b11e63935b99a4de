// Package logging is conntrackd's log: lines in a file, to syslog and on the
// console, in the format of conntrack-tools or as JSON, behind a slog.Handler. No
// failure of a destination is a failure of the daemon, and none holds it up: lines that
// could not be written are counted, and the count is logged where and when it can be.
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

// Log is the daemon's log. A new one writes to the console only, at once. Open adds
// the file and syslog; from then on each destination has a goroutine and a buffer
// (spool), and the caller waits for none of them. CloseConsole takes the console
// away. A Log may be used by several goroutines.
type Log struct {
	repeats *loglimit.Limit[key, record]

	mu      sync.Mutex
	buf     []byte
	out     io.Writer // console: info and notice; nil without console
	err     io.Writer // console: warnings and errors
	console *spool    // nil: written at once
	outputs
}

// outputs are where lines go besides the console, and how they look.
type outputs struct {
	format Format
	file   *fileSpool // nil without
	syslog *spool     // nil without
}

// end closes the outputs in the background, once they have taken what they were given.
func (o outputs) end() {
	if o.file != nil {
		o.file.end()
	}
	if o.syslog != nil {
		o.syslog.end()
	}
}

// wait waits for the end of outputs.
func (o outputs) wait(patience time.Duration) {
	if o.file != nil {
		o.file.wait(patience)
	}
	if o.syslog != nil {
		o.syslog.wait(patience)
	}
}

// New returns a log to the console. Info and notices go to out, the rest to err.
func New(out, err io.Writer) *Log {
	l := &Log{out: out, err: err}
	l.repeats = loglimit.New[key](repeatMost, repeatPeriod, l.sayRepeated)
	return l
}

const (
	// logRoom is how many bytes may wait for a destination: some thousand lines.
	logRoom = 256 << 10
	// filePatience is how long a file's own goroutine waits for the reader of a pipe.
	filePatience = time.Second
	// endPatience is how long the end of the log waits for a destination.
	endPatience = time.Second
)

// Something that makes the daemon log the same line again and again, a peer that sends
// nonsense or a kernel that refuses, does not fill the disk: repeatMost lines of a kind
// are written within repeatPeriod, and then how many more there were. Lines about
// different entries are different.
const (
	repeatPeriod = 5 * time.Second
	repeatMost   = 10
)

// key is what makes two lines the same.
type key struct {
	severity       uint8
	message, entry string
}

// Destinations are where a log goes besides the console.
type Destinations struct {
	File   string // "" for none
	Syslog uint8  // the facility with the number of syslog(3), 0 for none
	// Format is that of the file and the console. Syslog gets text.
	Format Format
}

// Open adds destinations. The error is that of the file; syslog is connected to when
// there is something to send.
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

// Close closes what is not to be used after all.
func (p *Prepared) Close() { p.end() }

// Use puts destinations in the place of the present ones, which are closed.
func (l *Log) Use(p *Prepared) {
	if p.file != nil {
		p.file.onLoss(l.sayFull)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	l.outputs = p.outputs
	if l.console == nil && (l.out != nil || l.err != nil) {
		l.console = newConsoleSpool(l.out, l.err, p.format)
	}
}

// Quiet ends output of info and notices to the console; errors stay.
func (l *Log) Quiet() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out = nil
}

// CloseConsole ends output to the console, once it has taken what it was given or does
// not take anything.
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

// Reopen opens the file anew by its name, after it was moved away, say. If that
// fails the log goes on in the old one and says so.
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
	renewed.onLoss(l.sayFull)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != old { // a reload was quicker
		renewed.end()
		return
	}
	old.end()
	l.file = renewed
}

// Close writes what was held back and closes file and syslog. It waits for
// destinations that stand still, but not for long.
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

// Flush waits until everything is written, but not for destinations that stand still.
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

// Enabled implements slog.Handler: everything from info on is logged.
func (l *Log) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// WithAttrs implements slog.Handler: attrs are added to every record.
func (l *Log) WithAttrs(attrs []slog.Attr) slog.Handler { return withAttrs{l, attrs} }

// WithGroup implements slog.Handler. Lines have no room for groups: the attributes stay
// as they are.
func (l *Log) WithGroup(string) slog.Handler { return l }

// withAttrs is a handler that adds attributes.
type withAttrs struct {
	*Log
	attrs []slog.Attr
}

func (h withAttrs) Handle(ctx context.Context, r slog.Record) error {
	r = r.Clone()
	r.AddAttrs(h.attrs...)
	return h.Log.Handle(ctx, r)
}

func (h withAttrs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withAttrs{h.Log, slices.Concat(h.attrs, attrs)}
}

func (h withAttrs) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler. An attribute node.EntryKey becomes a line of
// its own; others follow the message as key=value. Line breaks within a message
// become spaces: a record is a line. Handle does not wait for any destination.
func (l *Log) Handle(_ context.Context, r slog.Record) error {
	rec := recordOf(&r)
	if l.repeats.Admit(key{rec.level.severity, rec.message(), rec.entry}, rec) {
		l.write(&rec)
	}
	return nil
}

// sayRepeated writes how often a line was held back.
func (l *Log) sayRepeated(r record, n uint64) {
	r.at, r.repeated = time.Now(), n
	l.write(&r)
}

// write passes r on to every destination.
func (l *Log) write(r *record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil || l.err != nil {
		l.buf = r.append(l.buf[:0], l.format)
		l.show(r, l.buf)
	}
	if l.file != nil {
		l.buf = r.appendWithEntry(l.buf[:0], l.format)
		if l.file.add(r.at, r.level.severity, l.buf) && l.file.losing.CompareAndSwap(false, true) {
			l.tellFull()
		}
	}
	if l.syslog != nil {
		l.syslog.add(r.at, r.level.severity, []byte(r.message()))
		if r.entry != "" {
			l.syslog.add(r.at, r.level.severity, []byte(r.entry))
		}
	}
}

// show brings a line to the console. The lock is held.
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

// sayFull tells the other destinations that the file takes no more lines.
func (l *Log) sayFull() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellFull()
}

// tellFull is sayFull with the lock held.
func (l *Log) tellFull() {
	r := record{at: time.Now(), level: levels[0], text: "can't write to the logfile, lines are lost"}
	l.show(&r, r.append(nil, l.format))
	if l.syslog != nil {
		l.syslog.add(r.at, r.level.severity, []byte(r.text))
	}
}

// lostNote is the record that says how many lines a destination did not get.
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
			_, _ = err.Write(lostNote(lost, "the console").append(nil, f))
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

// AppendEntryLine appends a line that is an entry of a table: its time, a tab,
// the entry.
func AppendEntryLine(dst []byte, at time.Time, entry []byte) []byte {
	dst = append(at.AppendFormat(dst, ctime), '\t')
	return append(append(dst, entry...), '\n')
}
