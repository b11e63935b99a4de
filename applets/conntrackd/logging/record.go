package logging

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"ctbox/conf"
	"ctbox/internal/daemonlog"
	"ctbox/internal/jsonout"
)

// Format is the format of a line of the log.
type Format = conf.LogFormat

// Text is conntrack-tools' format; JSON writes each record as an object on its line.
const (
	Text = conf.LogText
	JSON = conf.LogJSON
)

// record is a log record, ready to be written.
type record struct {
	at       time.Time
	level    level
	text     string
	entry    string // "" without an entry
	attrs    []slog.Attr
	repeated uint64 // how often it was suppressed; 0 for an ordinary record
}

// level has a level's names and its syslog severity.
type level struct {
	from     slog.Level
	name     string
	json     string
	severity uint8
}

var levels = [...]level{
	{slog.LevelError, "ERROR", "error", severityError},
	{slog.LevelWarn, "warning", "warning", severityWarning},
	{daemonlog.LevelNotice, "notice", "notice", severityNotice},
	{slog.LevelInfo, "info", "info", severityInfo},
}

// recordOf converts a logger's record. Line breaks within a message become spaces, so that a
// record is one line.
func recordOf(r *slog.Record) record {
	out := record{at: r.Time, level: levels[len(levels)-1]}
	for _, known := range levels {
		if r.Level >= known.from {
			out.level = known
			break
		}
	}
	out.text = strings.ReplaceAll(strings.TrimRight(r.Message, "\n"), "\n", " ")
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == daemonlog.EntryKey {
			out.entry = a.Value.String()
		} else {
			out.attrs = append(out.attrs, a)
		}
		return true
	})
	return out
}

// message returns the text of r without time and level, followed by the attributes as
// key=value.
func (r *record) message() string {
	text := r.text
	for _, a := range r.attrs {
		text += " " + strings.ReplaceAll(a.String(), "\n", " ")
	}
	if r.repeated > 0 {
		return fmt.Sprintf("repeated %d times: %s", r.repeated, text)
	}
	return text
}

// appendTo appends the line of r.
func (r *record) appendTo(dst []byte, f Format) []byte {
	if f == JSON {
		return r.appendJSON(dst)
	}
	return appendLine(dst, r.at, os.Getpid(), r.level.name, r.message())
}

// appendWithEntry appends the line of r and its entry, which is a line of its own in text
// and a member in JSON.
func (r *record) appendWithEntry(dst []byte, f Format) []byte {
	dst = r.appendTo(dst, f)
	if f == Text && r.entry != "" {
		dst = AppendEntryLine(dst, r.at, []byte(r.entry))
	}
	return dst
}

// appendJSON appends r as an object, with the members of slog's JSONHandler (time, level and
// msg) and those of the record.
func (r *record) appendJSON(dst []byte) []byte {
	o := jsonout.Object{Dst: append(dst, `{"time":"`...)}
	o.Dst = append(r.at.AppendFormat(o.Dst, "2006-01-02T15:04:05.000000Z07:00"), '"')
	o.Token("level", r.level.json)
	o.Int("pid", int64(os.Getpid()))
	o.Text("msg", r.text)
	for _, a := range r.attrs {
		o.Text(a.Key, a.Value.String())
	}
	if r.entry != "" {
		o.Text(daemonlog.EntryKey, r.entry)
	}
	if r.repeated > 0 {
		o.Uint("repeated", r.repeated)
	}
	o.Line()
	return o.Dst
}
