package conf

import (
	"strconv"
	"strings"
)

// Pos is a place in the file. Both count from 1; Col counts bytes, as compilers
// do. The zero Pos is no place.
type Pos struct{ Line, Col int }

// IsValid reports whether p is a place.
func (p Pos) IsValid() bool { return p.Line > 0 }

// Error says why a file is refused. Its text is one line that starts with the
// place.
type Error struct {
	File string
	Pos  Pos

	// A syntax error has what was found, quoted if it is text, what was expected, and the
	// nearest expected word, if one is near.
	Found, Expected, Suggestion string

	// Text is the whole message of any other error, with conntrack-tools 1.4.9's text; the
	// fields above are empty then.
	Text string
}

// Error implements error: FILE:LINE:COL: found X, expected Y (did you mean Z?).
func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		text = "found " + e.Found + ", expected " + e.Expected
		if e.Suggestion != "" {
			text += " (" + e.Suggestion + ")"
		}
	}
	return string(appendPlace(nil, e.File, e.Pos)) + text
}

// When says which commands show a warning. conntrack-tools' parser runs in every command, so
// most warnings appear in each.
type When uint8

const (
	// Always is for every command that reads the file, the daemon and the
	// control commands.
	Always When = iota
	// AtStart is for the daemon when it starts; commands do not show it.
	AtStart
	// OnCheck is for conntrackd --check only: conntrack-tools has no such
	// warning, and scripts compare what is printed.
	OnCheck
)

// Warning is about a file that is accepted.
type Warning struct {
	File string
	Pos  Pos
	Text string // conntrack-tools 1.4.9's if it has this warning; may end in a newline, as there
	When When
	// Ours marks a text that conntrack-tools does not have: LogText adds its place.
	Ours bool
}

// LogText returns the text for the daemon's log and the commands.
func (w Warning) LogText() string {
	if w.Ours {
		return w.String()
	}
	return w.Text
}

// String returns the warning as one line with its place in front.
func (w Warning) String() string {
	return string(appendPlace(nil, w.File, w.Pos)) + strings.TrimSpace(w.Text)
}

// appendPlace appends "FILE:LINE:COL: ", or "FILE: " if there is no place.
func appendPlace(dst []byte, file string, pos Pos) []byte {
	dst = append(dst, file...)
	if pos.IsValid() {
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, int64(pos.Line), 10)
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, int64(pos.Col), 10)
	}
	return append(dst, ": "...)
}
