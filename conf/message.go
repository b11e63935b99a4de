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

	// A syntax error says what stood there, quoted where it is text, what could
	// have stood there, and the nearest word that could, if there is one.
	Found, Expected, Suggestion string

	// Text is the whole message of an error that is not about syntax; the
	// fields above are empty then. Texts are those of conntrack-tools 1.4.9.
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

// When says who shows a warning. conntrack-tools' parser runs in every command,
// so most warnings are seen with each of them.
type When uint8

const (
	// Always is for every command that reads the file, the daemon and the
	// control commands.
	Always When = iota
	// AtStart is for the daemon when it starts; commands keep quiet.
	AtStart
	// OnCheck is for conntrackd --check only: conntrack-tools has no such
	// warning, and scripts compare what is printed.
	OnCheck
)

// Warning is something to tell about an accepted file.
type Warning struct {
	File string
	Pos  Pos
	Text string // as conntrack-tools 1.4.9 has it, if it has it; may end in a newline as there
	When When
	// Ours is for a text that conntrack-tools does not have: LogText has its place, too.
	Ours bool
}

// LogText returns what the daemon's log and the commands say.
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
