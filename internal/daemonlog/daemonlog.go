// Package daemonlog has the log level and the attribute that conntrackd's rooms use beside
// those of log/slog. applets/conntrackd/logging writes them in conntrack-tools' format.
package daemonlog

import (
	"context"
	"log/slog"
	"time"

	"ctbox/nl/ctnetlink"
	"ctbox/nl/format"
)

// LevelNotice is the level of conntrackd's notices, between info and warning.
const LevelNotice = slog.Level(2)

// EntryKey is the key of the attribute that carries the entry which a record is about, as
// text without a final newline ("commit-create: File exists", and which flow that was). The
// log has it on a line of its own behind the message.
const EntryKey = "entry"

// Log is a slog.Logger that has notices.
type Log struct{ *slog.Logger }

// Notice logs text at LevelNotice.
func (l Log) Notice(text string) { l.Log(context.Background(), LevelNotice, text) }

// FlowLine returns a flow as `conntrack -L` prints it.
func FlowLine(f *ctnetlink.Flow) string {
	return string(format.AppendFlow(nil, f, &format.Style{Now: time.Now().UnixNano()}, nil))
}

// ExpectLine returns an expectation as `conntrack -L expect` prints it.
func ExpectLine(e *ctnetlink.Expect) string {
	return string(format.AppendExpect(nil, e, &format.Style{}, nil))
}
