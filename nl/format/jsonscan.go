package format

import (
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// SyntaxError is a line that is no JSON, or JSON that is no flow.
type SyntaxError struct {
	Column  int // byte of the line, from 1
	Problem string
}

func (e *SyntaxError) Error() string {
	return "column " + strconv.Itoa(e.Column) + ": " + e.Problem
}

// maxDepth is how deep the values of unknown members may be nested.
const maxDepth = 100

// scanner reads JSON (RFC 8259) off one line. After the first problem it is at
// the end of the line and every method returns a zero value, so that callers
// check err once.
type scanner struct {
	line []byte
	at   int
	err  *SyntaxError

	scratch []byte // the last string, if it had escapes; memory is reused
}

// fail notes a problem at the offset at.
func (s *scanner) fail(at int, problem string) {
	if s.err == nil {
		s.err = &SyntaxError{at + 1, problem}
	}
	s.at = len(s.line)
}

// peek skips white space and returns the next byte without taking it; 0 is the
// end of the line.
func (s *scanner) peek() byte {
	for s.at < len(s.line) {
		switch c := s.line[s.at]; c {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return c
		}
	}
	return 0
}

// take takes the byte c if it is next.
func (s *scanner) take(c byte) bool {
	if s.peek() != c || s.at >= len(s.line) {
		return false
	}
	s.at++
	return true
}

// expect takes the byte c; problem is what to say if another is there.
func (s *scanner) expect(c byte, problem string) {
	if !s.take(c) {
		s.fail(s.at, problem)
	}
}

// null takes a null if one is next.
func (s *scanner) null() bool {
	if s.peek() != 'n' {
		return false
	}
	s.literal("null")
	return true
}

func (s *scanner) literal(word string) {
	end := s.at + len(word)
	if end > len(s.line) || string(s.line[s.at:end]) != word {
		s.fail(s.at, "not a JSON value")
		return
	}
	s.at = end
}

// list reads an array; element is called at the start of each element.
func (s *scanner) list(element func()) {
	s.expect('[', "expected an array")
	if s.err != nil || s.take(']') {
		return
	}
	for s.err == nil {
		element()
		if s.take(']') {
			return
		}
		s.expect(',', "expected , or ] in an array")
	}
}

// uint reads a whole number up to limit.
func (s *scanner) uint(limit uint64) uint64 {
	s.peek()
	start := s.at
	v, ok := s.digits()
	if !ok {
		s.fail(start, "expected a whole number that is not negative")
		return 0
	}
	if s.fraction() {
		s.fail(start, "expected a whole number")
		return 0
	}
	if v > limit {
		s.fail(start, "number too large")
		return 0
	}
	return v
}

// int reads a whole number of 32 bits with a sign.
func (s *scanner) int() int32 {
	s.peek()
	start := s.at
	negative := s.take('-')
	if s.at >= len(s.line) || s.line[s.at] < '0' || s.line[s.at] > '9' {
		s.fail(start, "expected a whole number")
		return 0
	}
	limit := uint64(math.MaxInt32)
	if negative {
		limit++
	}
	v := int64(s.uint(limit))
	if negative {
		v = -v
	}
	return int32(v)
}

// seconds reads a time in seconds with up to nine decimals as nanoseconds.
func (s *scanner) seconds() uint64 {
	s.peek()
	start := s.at
	v, ok := s.digits()
	if !ok {
		s.fail(start, "expected seconds since the epoch")
		return 0
	}
	nanos, places := uint64(0), 0
	if s.at < len(s.line) && s.line[s.at] == '.' {
		s.at++
		for ; s.at < len(s.line) && s.line[s.at] >= '0' && s.line[s.at] <= '9'; places++ {
			nanos = nanos*10 + uint64(s.line[s.at]-'0')
			s.at++
		}
		if places == 0 || places > 9 {
			s.fail(start, "expected one to nine decimals")
			return 0
		}
	}
	if s.fraction() {
		s.fail(start, "expected seconds without an exponent")
		return 0
	}
	for ; places < 9; places++ {
		nanos *= 10
	}
	if v > (math.MaxInt64-nanos)/1e9 {
		s.fail(start, "time too late")
		return 0
	}
	return v*1e9 + nanos
}

// digits reads a number without sign, fraction and exponent. A number that
// doesn't fit is the largest one.
func (s *scanner) digits() (uint64, bool) {
	start, v := s.at, uint64(0)
	for s.at < len(s.line) {
		d := uint64(s.line[s.at] - '0')
		if d > 9 {
			break
		}
		if v > (math.MaxUint64-d)/10 {
			v = math.MaxUint64
		} else {
			v = v*10 + d
		}
		s.at++
	}
	n := s.at - start
	return v, n == 1 || n > 1 && s.line[start] != '0'
}

// fraction reports whether the number just read goes on.
func (s *scanner) fraction() bool {
	if s.at >= len(s.line) {
		return false
	}
	switch s.line[s.at] {
	case '.', 'e', 'E':
		return true
	}
	return false
}

// string reads a string. It is valid until the next one is read.
func (s *scanner) string() []byte {
	s.expect('"', "expected a string")
	start := s.at
	for i := start; i < len(s.line); i++ {
		switch c := s.line[i]; {
		case c == '"':
			s.at = i + 1
			return s.checked(start, s.line[start:i])
		case c == '\\':
			return s.escaped(start, i)
		case c < ' ':
			s.fail(i, "control character in a string")
			return nil
		}
	}
	s.fail(len(s.line), "string without end")
	return nil
}

func (s *scanner) checked(start int, text []byte) []byte {
	if !utf8.Valid(text) {
		s.fail(start, "string is not UTF-8")
		return nil
	}
	return text
}

// escapes are the one-letter escapes.
var escapes = [...]struct{ letter, char byte }{
	{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', '\b'}, {'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'},
}

// escaped reads the rest of the string that starts at start and has its first
// backslash at i.
func (s *scanner) escaped(start, i int) []byte {
	text := append(s.scratch[:0], s.line[start:i]...)
	for i < len(s.line) {
		c := s.line[i]
		switch {
		case c == '"':
			s.at, s.scratch = i+1, text
			return s.checked(start, text)
		case c < ' ':
			s.fail(i, "control character in a string")
			return nil
		case c != '\\':
			text = append(text, c)
			i++
			continue
		}
		if i+1 >= len(s.line) {
			break
		}
		if s.line[i+1] == 'u' {
			r, next := s.unicode(i)
			if s.err != nil {
				return nil
			}
			text = utf8.AppendRune(text, r)
			i = next
			continue
		}
		known := false
		for _, e := range escapes {
			if e.letter == s.line[i+1] {
				text, known = append(text, e.char), true
				break
			}
		}
		if !known {
			s.fail(i, "unknown escape in a string")
			return nil
		}
		i += 2
	}
	s.fail(len(s.line), "string without end")
	return nil
}

// unicode reads the \uXXXX at i, or the two of a surrogate pair, and returns
// where the text goes on.
func (s *scanner) unicode(i int) (rune, int) {
	unit := func(at int) (rune, bool) {
		if at+6 > len(s.line) || s.line[at] != '\\' || s.line[at+1] != 'u' {
			return 0, false
		}
		var b [2]byte
		if _, err := hex.Decode(b[:], s.line[at+2:at+6]); err != nil {
			return 0, false
		}
		return rune(b[0])<<8 | rune(b[1]), true
	}
	r, ok := unit(i)
	if !ok {
		s.fail(i, "expected four hexadecimal digits after \\u")
		return 0, i
	}
	if !utf16.IsSurrogate(r) {
		return r, i + 6
	}
	second, ok := unit(i + 6)
	if r = utf16.DecodeRune(r, second); !ok || r == utf8.RuneError {
		s.fail(i, "half of a surrogate pair")
		return 0, i
	}
	return r, i + 12
}

// skip reads a value of any type.
func (s *scanner) skip(depth int) {
	if depth > maxDepth {
		s.fail(s.at, "nested too deeply")
		return
	}
	switch c := s.peek(); {
	case c == '"':
		s.string()
	case c == '{':
		s.at++
		if s.take('}') {
			return
		}
		for s.err == nil {
			s.string()
			s.expect(':', "expected : after a name")
			s.skip(depth + 1)
			if s.take('}') {
				return
			}
			s.expect(',', "expected , or } in an object")
		}
	case c == '[':
		s.list(func() { s.skip(depth + 1) })
	case c == 't':
		s.literal("true")
	case c == 'f':
		s.literal("false")
	case c == 'n':
		s.literal("null")
	default:
		s.number()
	}
}

// number reads a number of any form.
func (s *scanner) number() {
	start := s.at
	if s.at < len(s.line) && s.line[s.at] == '-' {
		s.at++
	}
	_, ok := s.digits()
	if ok && s.at < len(s.line) && s.line[s.at] == '.' {
		s.at++
		ok = s.anyDigits()
	}
	if ok && s.at < len(s.line) && (s.line[s.at] == 'e' || s.line[s.at] == 'E') {
		s.at++
		if s.at < len(s.line) && (s.line[s.at] == '+' || s.line[s.at] == '-') {
			s.at++
		}
		ok = s.anyDigits()
	}
	if !ok {
		s.fail(start, "not a JSON value")
	}
}

func (s *scanner) anyDigits() bool {
	start := s.at
	for s.at < len(s.line) && s.line[s.at] >= '0' && s.line[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}
