// Package slog is what conntrackd uses of the standard library's log/slog, under
// the same names: a logger that hands records to a handler. log/slog itself
// brings encoding/json and package log, and with them a quarter of a megabyte,
// which a router's flash does not have to spare.
package slog

import (
	"context"
	"io"
	"strconv"
	"time"
)

// Level is how much a record matters, on log/slog's scale: levels of others go
// in between.
type Level int

// The levels of log/slog.
const (
	LevelDebug Level = -4
	LevelInfo  Level = 0
	LevelWarn  Level = 4
	LevelError Level = 8
)

// String returns the level as log/slog writes it: INFO, INFO+2.
func (l Level) String() string {
	name, from := "DEBUG", LevelDebug
	switch {
	case l >= LevelError:
		name, from = "ERROR", LevelError
	case l >= LevelWarn:
		name, from = "WARN", LevelWarn
	case l >= LevelInfo:
		name, from = "INFO", LevelInfo
	}
	switch over := int(l - from); {
	case over > 0:
		return name + "+" + strconv.Itoa(over)
	case over < 0:
		return name + strconv.Itoa(over)
	}
	return name
}

// Attr is what a record says beside its message.
type Attr struct {
	Key   string
	Value Value
}

// Value is an attribute's value: text is all that the daemon has to say.
type Value string

// String returns v.
func (v Value) String() string { return string(v) }

// String returns a as key=value.
func (a Attr) String() string { return a.Key + "=" + string(a.Value) }

// String returns an attribute with text as its value.
func String(key, value string) Attr { return Attr{key, Value(value)} }

// Record is one thing that was said.
type Record struct {
	Time    time.Time
	Message string
	Level   Level
	attrs   []Attr
}

// NewRecord returns a record without attributes.
func NewRecord(at time.Time, level Level, message string) Record {
	return Record{Time: at, Level: level, Message: message}
}

// AddAttrs adds attributes to the record.
func (r *Record) AddAttrs(attrs ...Attr) { r.attrs = append(r.attrs, attrs...) }

// Attrs calls f for each attribute until f returns false.
func (r *Record) Attrs(f func(Attr) bool) {
	for _, a := range r.attrs {
		if !f(a) {
			return
		}
	}
}

// Handler writes records. Several goroutines may call it at one time.
type Handler interface {
	// Enabled reports whether records of a level are written at all.
	Enabled(context.Context, Level) bool
	// Handle writes a record. Its error concerns nobody who logs.
	Handle(context.Context, Record) error
}

// Logger gives what it is told to a handler.
type Logger struct{ handler Handler }

// New returns a logger for h.
func New(h Handler) *Logger { return &Logger{h} }

// Enabled reports whether a record of the level would be written.
func (l *Logger) Enabled(ctx context.Context, level Level) bool {
	return l.handler.Enabled(ctx, level)
}

// Log says message at a level. args are keys, each with its value behind it.
func (l *Logger) Log(ctx context.Context, level Level, message string, args ...string) {
	if !l.handler.Enabled(ctx, level) {
		return
	}
	r := NewRecord(time.Now(), level, message)
	for ; len(args) > 1; args = args[2:] {
		r.AddAttrs(String(args[0], args[1]))
	}
	_ = l.handler.Handle(ctx, r)
}

// Info says message at LevelInfo; see Log.
func (l *Logger) Info(message string, args ...string) {
	l.Log(context.Background(), LevelInfo, message, args...)
}

// Warn says message at LevelWarn; see Log.
func (l *Logger) Warn(message string, args ...string) {
	l.Log(context.Background(), LevelWarn, message, args...)
}

// Error says message at LevelError; see Log.
func (l *Logger) Error(message string, args ...string) {
	l.Log(context.Background(), LevelError, message, args...)
}

// DiscardHandler writes nothing.
var DiscardHandler Handler = discard{}

type discard struct{}

func (discard) Enabled(context.Context, Level) bool  { return false }
func (discard) Handle(context.Context, Record) error { return nil }

// NewTextHandler returns a handler that writes lines like log/slog's handler of
// that name, without the time: what tests want to read. Each record is one
// Write.
func NewTextHandler(w io.Writer) Handler { return text{w} }

type text struct{ w io.Writer }

func (text) Enabled(_ context.Context, level Level) bool { return level >= LevelInfo }

func (h text) Handle(_ context.Context, r Record) error {
	line := append([]byte("level="), r.Level.String()...)
	line = strconv.AppendQuote(append(line, " msg="...), r.Message)
	r.Attrs(func(a Attr) bool {
		line = strconv.AppendQuote(append(append(append(line, ' '), a.Key...), '='), string(a.Value))
		return true
	})
	_, err := h.w.Write(append(line, '\n'))
	return err
}
