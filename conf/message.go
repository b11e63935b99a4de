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

// nearest returns the candidate that word is most likely a misspelling of, or
// "" if none is near. Differences of letter case cost nothing.
func nearest(word string, candidates []string) string {
	const longest = 64 // no candidate is as long
	if len(word) > longest {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		lower := strings.ToLower(c)
		d := distance(word, lower)
		if d < least || d == least && best != "" && strings.HasPrefix(lower, word) {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete, replace or swap with the
// next one that makes b of a (the optimal string alignment distance).
func distance(a, b string) int {
	var prev2 []int
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
