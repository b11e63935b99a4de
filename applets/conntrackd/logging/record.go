package logging

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"ctbox/conf"
	"ctbox/internal/jsonout"
	"ctbox/sync/node"
)

// Format is the form of a line of the log.
type Format = conf.LogFormat

// Text is conntrack-tools' form; JSON is an object in each line.
const (
	Text = conf.LogText
	JSON = conf.LogJSON
)

// record is one thing to say, ready to be written.
type record struct {
	at       time.Time
	level    level
	text     string
	entry    string // "" for none
	attrs    []slog.Attr
	repeated uint64 // how often it was held back; 0 for a line of its own
}

// level is a level's name in lines, and syslog's severity for it.
type level struct {
	from     slog.Level
	name     string
	json     string
	severity uint8
}

var levels = [...]level{
	{slog.LevelError, "ERROR", "error", severityError},
	{slog.LevelWarn, "warning", "warning", severityWarning},
	{node.LevelNotice, "notice", "notice", severityNotice},
	{slog.LevelInfo, "info", "info", severityInfo},
}

// recordOf takes apart what a logger hands over. Line breaks within a message
// become spaces: a record is a line.
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
		if a.Key == node.EntryKey {
			out.entry = a.Value.String()
		} else {
			out.attrs = append(out.attrs, a)
		}
		return true
	})
	return out
}

// message is the text of r without time and level: attributes follow it as
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

// append appends the line of r.
func (r *record) append(dst []byte, f Format) []byte {
	if f == JSON {
		return r.appendJSON(dst)
	}
	return appendLine(dst, r.at, os.Getpid(), r.level.name, r.message())
}

// appendWithEntry is append with the entry: a line of its own in text, where a
// line has room for the message alone.
func (r *record) appendWithEntry(dst []byte, f Format) []byte {
	dst = r.append(dst, f)
	if f == Text && r.entry != "" {
		dst = AppendEntryLine(dst, r.at, []byte(r.entry))
	}
	return dst
}

// appendJSON appends r as an object, with the members of log/slog's handler of
// that name: time, level and msg, and what else there is.
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
		o.Text(node.EntryKey, r.entry)
	}
	if r.repeated > 0 {
		o.Uint("repeated", r.repeated)
	}
	o.Line()
	return o.Dst
}
